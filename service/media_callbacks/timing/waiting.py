"""Waiting that tests can replace, so that days pass in no time; waiting for an end; and a clock that nobody sets."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

Wait = Callable[[asyncio.Event, float], Awaitable[None]]


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or when the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


async def finish(tasks: "Iterable[asyncio.Task[None]]", timeout_s: float) -> None:
    """Let tasks end for so long, and break off those that have not by then. How they ended is their own business."""
    tasks = list(tasks)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Goes on while the machine sleeps, where there is such a clock; on macOS the other one does.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def seconds_since_boot() -> float:
    return time.clock_gettime(_SINCE_BOOT)
