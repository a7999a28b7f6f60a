"""Time that passes because a test says so."""

import asyncio
from pathlib import Path
from typing import Any

# After a process's clock was set, how long it may go on by what it knew before.
CLOCK_LAG_S = 2.0
_FAKETIME = "*/faketime/libfaketime.so.1"


def find_faketime() -> Path | None:
    """The library that sets a process's clock, where Debian's package libfaketime is installed."""
    return next((path for folder in ("/usr/lib", "/usr/local/lib") for path in Path(folder).glob(_FAKETIME)), None)


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


class ProcessClock:
    """
    The clock of other processes, which may be set while they run; the clocks that nobody sets go on in them as always.
    Where there is no libfaketime it stays that of the machine.

    Args:
        path: A file that is made, and says how far the clock is off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)

    def set(self, offset_s: int) -> None:
        """Processes have noticed it after ``CLOCK_LAG_S``."""
        self._path.write_text(f"{offset_s:+d}\n")

    def environment(self) -> dict[str, str]:
        """What a process needs to go by it."""
        faketime = find_faketime()
        if faketime is None:
            return {}
        return {
            "LD_PRELOAD": str(faketime),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_CACHE_DURATION": "1",
            # A clock that is set does not move this one.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Otherwise a thread that waits for the interpreter's lock does not wait: with two threads at work, as when
            # there is a journal, they take a whole core, and a callback takes a second.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
