"""
Memory: what a burst took goes back to the system.

Two things would keep it. Python's collector looks at old objects only after many young ones; glibc's allocator keeps
what was freed below something that is in use, which after a flood can be all of it.
"""

import asyncio
import ctypes
import gc
from collections.abc import Callable

_TRIM_EVERY_S = 5.0


def settle() -> None:
    """
    What is loaded by now stays. Looking through it again and again, and through young objects after every few hundred,
    was a tenth of the time that a callback took. Old ones are looked at as often as Python's own rule has it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def give_back(*, every_s: float = _TRIM_EVERY_S) -> None:
    """Give free memory back to the system, again and again. Ends at once where the C library can't."""
    trim = _find_trim()
    while trim is not None:
        await asyncio.sleep(every_s)
        # It takes milliseconds where there is much to give, and other threads may go on meanwhile.
        await asyncio.to_thread(trim, 0)


def _find_trim() -> Callable[[int], int] | None:
    """malloc_trim(3), which only glibc has."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
