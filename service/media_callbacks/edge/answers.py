"""Answers as plain values, and the one place where errors become answers, with one log line and one count each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.responses import Response

from media_callbacks.model.errors import (
    ClientLeft,
    MethodNotAllowed,
    Rejected,
    ServiceError,
    StaleTimestamp,
    Unavailable,
)
from media_callbacks.observe.metrics import Metrics
from media_callbacks.observe.refused import RefusedRequests
from media_callbacks.sources.base import Callback
from media_callbacks.timing.limited_log import LimitedLog

RETRY_AFTER_S = 1
PROBLEM = "application/problem+json"
_DEFECT = "internal"


@dataclass(slots=True, eq=False)
class Answer:
    """
    Attributes:
        headers: All but those that belong to the connection and the clock.
        closes: The connection must not be used again.
        rendered: Status line and headers as HTTP/1.1 has them, kept by whoever needs them so.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    closes: bool = False
    rendered: bytes | None = field(default=None, repr=False)


def make_answer(
    status: int,
    body: bytes = b"",
    *,
    media_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    closes: bool = False,
) -> Answer:
    lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    if media_type is not None:
        lines.append((b"content-type", media_type.encode("ascii")))
    if status != 204:
        lines.append((b"content-length", b"%d" % len(body)))
    return Answer(status, lines, body, closes)


def make_problem(status: int, headers: Mapping[str, str] | None = None, *, closes: bool = False) -> Answer:
    """RFC 9457, without detail: what exactly was wrong is for the operator's log, not for the public."""
    return make_answer(status, _problem_body(status), media_type=PROBLEM, headers=headers, closes=closes)


def problem(
    status: int, headers: dict[str, str] | None = None, *, detail: str | None = None, **further: str
) -> Response:
    """RFC 9457, for applications on Starlette; ``further`` are members of our own."""
    return Response(_problem_body(status, detail, **further), status, headers=headers, media_type=PROBLEM)


def _problem_body(status: int, detail: str | None = None, **further: str) -> bytes:
    members = {"title": _TITLES.get(status, "Error"), "status": status} | ({"detail": detail} if detail else {})
    members |= further
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


class Refusals:
    """What is refused, in which words and how often."""

    def __init__(self, metrics: Metrics, log: LimitedLog, requests: RefusedRequests) -> None:
        self._metrics = metrics
        self._log = log
        self._requests = requests

    def answer(
        self, source: str, error: ServiceError, callback: Callback | None = None, *, is_whole: bool = True
    ) -> Answer:
        """
        Args:
            source: Whose request it is, or ``none``.
            callback: The request, where it could be read as one.
            is_whole: Whether all of its body has come.
        """
        headers: dict[str, str] = {}
        if isinstance(error, Rejected):
            status, reason = error.status, error.reason
            if isinstance(error, MethodNotAllowed):
                headers["allow"] = ", ".join(error.allowed)
        else:
            status, reason = 503, error.reason if isinstance(error, Unavailable) else _DEFECT
            headers["retry-after"] = str(RETRY_AFTER_S)
        if callback is not None:
            self._requests.note(source, status, reason, str(error)[:500], callback, is_whole=is_whole)
        age_s = error.age_s if isinstance(error, StaleTimestamp) else None
        self._metrics.callback_refused(source=source, reason=reason, age_s=age_s)
        self._log.warning(
            "callback_refused",
            (source, reason),
            source=source,
            status=status,
            reason=reason,
            detail=str(error)[:500],
            **({"age_s": round(age_s, 1)} if age_s is not None else {}),
        )
        # Of these the rest may come yet, and would be taken for the next request.
        return make_problem(status, headers, closes=isinstance(error, Rejected) and error.ends_connection)

    def count_defect(self, source: str) -> None:
        """A fault of ours, which is answered 500."""
        self._metrics.callback_refused(source=source, reason=_DEFECT)

    def client_left(self, source: str) -> None:
        """Nobody is there to be answered."""
        self._metrics.callback_refused(source=source, reason=ClientLeft.reason)
        self._log.info("client_left", (source,), source=source, reason=ClientLeft.reason)

    def connection_closed(self, listener: str, reason: str) -> None:
        """A connection was closed on its client, without an answer."""
        self._metrics.callback_refused(source="none", reason=reason)
        self._log.warning("connection_refused", (listener, reason), listener=listener, reason=reason)


_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
