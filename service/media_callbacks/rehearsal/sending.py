"""How a simulated request gets to whoever listens."""

import socket
from dataclasses import dataclass

import aiohttp
from yarl import URL

from media_callbacks.rehearsal.simulate import SimulatedRequest

# Older than every freshness window that a configuration may set by default.
STALE_S = 3600


@dataclass(frozen=True, slots=True)
class SentResult:
    """
    Attributes:
        status: Of the answer; None when there was none, and ``error`` says why.
    """

    job_id: str
    status: int | None
    error: str | None = None


async def send(session: aiohttp.ClientSession, base: str, job_id: str, request: SimulatedRequest) -> SentResult:
    url = URL(base.rstrip("/") + request.target, encoded=True)
    try:
        async with session.request(
            request.method, url, data=request.body, headers=request.headers, allow_redirects=False
        ) as response:
            await response.read()
            return SentResult(job_id, response.status)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return SentResult(job_id, None, _explain(error, f"{url.host}:{url.port}"))


def _explain(error: Exception, address: str) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    match cause:
        case ConnectionRefusedError():
            return f"nothing listens on {address}"
        case socket.gaierror():
            return f"the host of {address} can't be resolved"
        case TimeoutError():
            return f"no answer from {address} in time"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return f"{address} closed the connection without an answer"
        case _:
            return f"no answer from {address} ({type(cause).__name__})"
