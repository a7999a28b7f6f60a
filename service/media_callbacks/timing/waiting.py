"""Waiting that tests can replace, so that days pass in no time; and a clock that nobody sets."""

import asyncio
import time
from collections.abc import Awaitable, Callable

Wait = Callable[[asyncio.Event, float], Awaitable[None]]


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or when the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


# Goes on while the machine sleeps, where there is such a clock; on macOS the other one does.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def seconds_since_boot() -> float:
    return time.clock_gettime(_SINCE_BOOT)
