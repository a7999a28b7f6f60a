"""Tasks in the background: they try for ever, and are ended."""

import asyncio
from collections.abc import AsyncIterator

_MAX_BACKOFF_S = 1.0
CLOSE_TIMEOUT_S = 5.0


async def backoff() -> AsyncIterator[None]:
    """Attempts for ever: the first at once, each later one after a longer time."""
    delay_s = 0.02
    while True:
        yield
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _MAX_BACKOFF_S)


async def cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task], timeout=CLOSE_TIMEOUT_S)
