"""Waiting that tests can replace, so that days pass in no time."""

import asyncio
from collections.abc import Awaitable, Callable

Wait = Callable[[asyncio.Event, float], Awaitable[None]]


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or when the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
