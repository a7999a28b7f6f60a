"""
The whole exception tree.

    ServiceError
    ├── Rejected                the caller's request is refused; says which 4xx and why
    │   ├── MalformedRequest    400: not HTTP/1
    │   ├── MalformedCallback   400: not a request the vendor would send
    │   ├── BadSignature        403: headers, signature, certificate or topic are not ours
    │   ├── StaleTimestamp      403: rightly signed, but not now
    │   ├── UnknownToken        404: a minted URL that is not ours
    │   ├── ExpiredToken        404: a minted URL that was ours
    │   ├── UnknownPath         404: nothing is there
    │   ├── MethodNotAllowed    405
    │   ├── RequestTimeout      408: the body did not arrive in time
    │   ├── BodyTooLarge        413
    │   ├── HeadersTooLarge     431
    │   └── ClientLeft          nobody is there to be answered
    ├── Unavailable             503: right request, wrong moment; the sender should come again
    │   ├── CannotVerify        the signing certificate can't be fetched just now
    │   └── InboxUnavailable    nothing durable can be written just now
    ├── Unparseable             authentic, but no event can be read from it; kept, answered with success
    ├── VendorError             the vendor's API did not answer the question
    │   ├── VendorUnavailable   may work later: no connection, 5xx, throttled, not the documented form
    │   └── VendorRefused       will not work by itself: credentials, rights, parameters, clock, no such thing
    ├── JobConflict             a registration contradicts what is known of the job
    ├── CursorGone              what follows the cursor of a feed can't be told any more
    ├── ClockDoubted            nothing is removed for its age while the store's clock may be wrong
    ├── SinkError               one delivery attempt failed
    │   ├── SinkRetry           may work later
    │   │   └── SinkGone        the destination says that it is gone: nothing more is sent until an operator resumes it
    │   └── SinkRejected        will never work
    └── ConfigError             refused at start, with every mistake found
        └── Unusable            the configuration is right, and what it names is not as it must be

Catch ``Rejected`` and ``Unavailable`` at the edge only: one handler turns them into answers.
Messages are for the operator's log: what was expected, what came. They never hold a secret, a
signature, a token or a body.
"""

from collections.abc import Sequence
from datetime import datetime


class ServiceError(Exception):
    """Everything this service raises on purpose."""


class Rejected(ServiceError):
    """
    The request is refused.

    Attributes:
        status: The HTTP status to answer with.
        reason: One of a fixed set of words, for metrics and logs.
        ends_connection: What follows on the connection can't be told from the rest of the request.
    """

    status = 400
    reason = "rejected"
    ends_connection = False

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class MalformedCallback(Rejected):
    reason = "malformed"


class BadSignature(Rejected):
    status = 403
    reason = "bad_signature"


class StaleTimestamp(Rejected):
    """
    The signature is right and the time is not: a replay, or one of the two clocks is off.

    Attributes:
        age_s: Our clock minus the sender's; negative when the sender is ahead.
    """

    status = 403
    reason = "stale"

    def __init__(self, message: str, *, age_s: float) -> None:
        super().__init__(message)
        self.age_s = age_s


class UnknownToken(Rejected):
    status = 404
    reason = "unknown_token"


class ExpiredToken(StaleTimestamp):
    status = 404
    reason = "expired_token"


class UnknownPath(Rejected):
    status = 404
    reason = "unknown_path"


class MalformedRequest(Rejected):
    """It is not HTTP/1."""

    reason = "malformed_request"
    ends_connection = True


class MethodNotAllowed(Rejected):
    status = 405
    reason = "method"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTimeout(Rejected):
    status = 408
    reason = "slow_body"
    ends_connection = True


class BodyTooLarge(Rejected):
    status = 413
    reason = "body_too_large"


class HeadersTooLarge(Rejected):
    status = 431
    reason = "headers_too_large"
    ends_connection = True


class ClientLeft(Rejected):
    """The client went away before its request was complete."""

    reason = "disconnected"


class Unavailable(ServiceError):
    """Answered with 503 and Retry-After."""

    reason = "unavailable"


class CannotVerify(Unavailable):
    reason = "cannot_verify"


class InboxUnavailable(Unavailable):
    reason = "inbox_unavailable"


class Unparseable(ServiceError):
    """An authentic message from which no event can be read. The message says what was missing."""


class ClockDoubted(ServiceError):
    """Nothing is removed for its age: by what is known, the store's clock may be wrong. The message says what to do."""


class VendorError(ServiceError):
    """The vendor's API did not answer the question. The message names action, status and code, never parameters."""


class VendorUnavailable(VendorError):
    """
    It may work later.

    Attributes:
        retry_after_s: What the vendor asked for, or None.
        is_throttled: There were too many requests.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, is_throttled: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_throttled = is_throttled


class VendorRefused(VendorError):
    """
    It will not work by itself.

    Attributes:
        code: The vendor's, for example ``InvalidAccessKeyId.NotFound``.
        status: Of HTTP.
    """

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class JobConflict(ServiceError):
    """A registration contradicts what is known of the job."""


class CursorGone(ServiceError):
    """
    What follows the cursor of a feed can't be told, or is not kept, any more.

    Attributes:
        since: What was accepted from then on is all there is that may not have been seen.
    """

    def __init__(self, message: str, *, since: datetime) -> None:
        super().__init__(message)
        self.since = since


class SinkError(ServiceError):
    """A delivery attempt failed."""


class SinkRetry(SinkError):
    """
    The attempt failed in a way that may pass.

    Attributes:
        retry_after_s: What the receiver asked for, or None.
        is_overload: The receiver has too much to do: fewer attempts at once, please.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, is_overload: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_overload = is_overload


class SinkGone(SinkRetry):
    """The destination says that it is gone for good (410): the sink is disabled, and the event parked."""


class SinkRejected(SinkError):
    """The attempt can never succeed: the event is too large, or the destination refuses it for good."""


class ConfigError(ServiceError):
    """
    The configuration is wrong.

    Attributes:
        problems: One sentence per mistake, each starting with the key path.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Unusable(ConfigError):
    """
    An address, a file or a database that a right configuration names can't be used as it is. It may be mended beside
    the configuration, or by itself, so that starting again makes sense.
    """
