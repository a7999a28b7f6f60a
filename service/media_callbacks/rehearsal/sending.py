"""How a simulated request gets to whoever listens."""

from dataclasses import dataclass

import aiohttp
from yarl import URL

from media_callbacks.rehearsal.simulate import SimulatedRequest

# Older than every freshness window that a configuration may set by default.
STALE_S = 3600


@dataclass(frozen=True, slots=True)
class SentResult:
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
        return SentResult(job_id, None, type(error).__name__)
