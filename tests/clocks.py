"""Time that passes because a test says so."""

import asyncio
from typing import Any


class LoopClock:
    """
    The clock of an event loop, from now on: it goes as always, and a test can move it ahead.

    A time-out of an hour never ends by itself, however slow the machine is, and ends at once when the test skips that
    hour. Whatever shares the event loop (clients, servers, timers) sees the same time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._going = loop.time
        self._skipped_s = 0.0
        patched: Any = loop
        patched.time = self.time

    def time(self) -> float:
        return self._going() + self._skipped_s

    def skip(self, seconds: float) -> None:
        """To be called on the event loop; what has become due runs in its next turns."""
        self._skipped_s += seconds
