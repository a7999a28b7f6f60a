"""Requests as VOD sends them, each of a job of its own, made fast enough for a load generator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from media_callbacks.model.receipts import Receipt
from media_callbacks.rehearsal.simulate import PAYLOADS, http_request
from media_callbacks.sources.base import Message
from media_callbacks.sources.intake import build_receipt
from media_callbacks.sources.products import vod
from media_callbacks.sources.transports.http import HttpSource

PATH = "/callbacks/vod"
KEY = "bench-0123456789"
EVENT = "DynamicImageComplete"

_JOB_ID = "3af7e9705cb24c0f9d23231d4c371900"
# Odd, so that multiplying by it gives every number its own: unique ids that look random, as the vendor's do.
_MULTIPLIER = 0x9E3779B97F4A7C15F39CC0605CEDC835
_MASK = 2**128 - 1

_SOURCE = HttpSource(
    name="vod",
    product="vod",
    account="default",
    path=PATH,
    urls=(f"https://cb.example.com{PATH}",),
    keys=(KEY,),
    max_age_s=300,
    parser=vod.parse,
)
URL = _SOURCE.urls[0]


class Jobs:
    """
    Numbers the jobs of a run, so that none comes twice whichever server it goes to.

    Attributes:
        job_id: That of the latest request.
    """

    def __init__(self) -> None:
        self.job_id = b""
        self._count = 0

    def requests(
        self, *, now: datetime, path: str = PATH, headers: Mapping[str, str] | None = None
    ) -> Callable[[], bytes]:
        """
        A function that gives one request after the other, ready to be written to a socket. Their signature holds for
        as long as the source's ``max_age_s``.
        """
        request = http_request(_SOURCE, PAYLOADS["vod"][EVENT](_JOB_ID, now, False), now=now)
        request = replace(request, target=path, headers={**request.headers, **(headers or {})})
        lines = [f"{request.method} {request.target} HTTP/1.1", "Host: cb.example.com"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        lines += [f"Content-Length: {len(request.body)}", "", ""]
        pieces = ("\r\n".join(lines).encode() + request.body).split(_JOB_ID.encode())

        def make() -> bytes:
            self._count += 1
            self.job_id = b"%032x" % (self._count * _MULTIPLIER & _MASK)
            return self.job_id.join(pieces)

        return make


def first_receipt(now: datetime, sinks: Sequence[str], *, job_id: str) -> Receipt:
    """What the service keeps of such a request."""
    body = http_request(_SOURCE, PAYLOADS["vod"][EVENT](job_id, now, False), now=now).body
    message = Message(body, body, "signature", None, {})
    return build_receipt(_SOURCE, message, received_at=now, route=lambda _: tuple(sinks))


def body_size() -> int:
    """Bytes of one body."""
    request = Jobs().requests(now=datetime.fromtimestamp(0).astimezone())()
    return len(request.partition(b"\r\n\r\n")[2])
