"""What goes wrong in the fake cloud, and how often; and how long things take."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """
    Rates from 0 to 1. Those about callbacks count for jobs that are submitted from then on, those about APIs at once.

    Attributes:
        loss: Jobs that nobody is told about, over any transport. With MTS half of these notifications were published
            and got lost on the way, half were never published; the job API says which.
        duplication: Callbacks that are sent twice.
        delay: Callbacks that come late, by a time between the two of ``delay_s`` (seconds).
        reordering: Callbacks that are held back for up to ``reorder_s`` seconds, so that younger ones overtake them.
        forgery: Callbacks beside which another one comes, before or after it, without a genuine signature or token.
        alteration: Callbacks beside which another one comes whose headers or token are genuine and whose body lies:
            about the outcome, the asset, the user data or the result, or, with a minted URL, about the task. Queues are
            written by the vendor alone, so nothing false comes through them.
        failures: Jobs that fail, of those that are submitted over HTTP.
        throttling: Requests to job APIs and queues that are refused because there were too many.
        server_errors: Requests to job APIs that are answered 500.
        html: Requests to job APIs that are answered with a page of HTML, by a gateway that has lost its way.
    """

    loss: float = 0.0
    duplication: float = 0.0
    delay: float = 0.0
    delay_s: tuple[float, float] = (1.0, 5.0)
    reordering: float = 0.0
    reorder_s: float = 1.0
    forgery: float = 0.0
    alteration: float = 0.0
    failures: float = 0.0
    throttling: float = 0.0
    server_errors: float = 0.0
    html: float = 0.0

    def __post_init__(self) -> None:
        for name in RATES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a rate from 0 to 1, came {getattr(self, name)}")


RATES = tuple(field.name for field in fields(Faults) if not field.name.endswith("_s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """
    How long things take, in seconds.

    Attributes:
        duration_s: Shortest and longest job.
        http_retries_s: Before each further attempt of a signed callback. VOD and IMS try three times, 1 s apart
            ("HTTP callbacks", https://help.aliyun.com/en/vod/user-guide/http-callbacks; SetEventCallback of IMS).
        push_retries_s: Before each further attempt of a push, shortest and longest: NotifyStrategy BACKOFF_RETRY of
            MNS, https://help.aliyun.com/document_detail/27481.html.
        attempt_s: How long an attempt may take (documented for VOD and MNS).
    """

    duration_s: tuple[float, float] = (0.5, 3.0)
    http_retries_s: tuple[float, ...] = (1.0, 1.0)
    push_retries_s: tuple[tuple[float, float], ...] = ((10.0, 20.0),) * 3
    attempt_s: float = 5.0
