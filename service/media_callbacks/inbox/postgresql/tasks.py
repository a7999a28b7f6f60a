"""Tasks in the background: they try for ever, and are ended."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

from media_callbacks.timing.retry import backoff_s

_FIRST_RETRY_S = 0.02
_LONGEST_RETRY_S = 1.0
CLOSE_TIMEOUT_S = 5.0


async def attempts() -> AsyncIterator[None]:
    """For ever: the first at once, each later one after a longer time."""
    for attempt in count(1):
        yield
        await asyncio.sleep(backoff_s(attempt, first_s=_FIRST_RETRY_S, longest_s=_LONGEST_RETRY_S))


async def cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task], timeout=CLOSE_TIMEOUT_S)
