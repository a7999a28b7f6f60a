"""What is the same for everybody who looks: made once, however many pages are open."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

_T = TypeVar("_T")
_MAX_KEPT = 100


class Recent:
    """
    Args:
        monotonic: A clock in seconds that nobody sets.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._kept: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[_T]], *, keep_s: float) -> _T:
        """What was made for this key not longer ago than that, or is just being made; else made now."""
        now = self._monotonic()
        until, made = self._kept.get(key, (now, None))
        if made is None or until <= now:
            self._kept = {known: one for known, one in self._kept.items() if one[0] > now}
            if len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            made = asyncio.ensure_future(make())
            # Where all who asked have left, nobody else hears of it.
            made.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._kept[key] = (now + keep_s, made)
        # Whoever leaves does not break off what others wait for.
        result: _T = await asyncio.shield(made)
        return result

    def clear(self) -> None:
        """Something was ordered, and who did wants to see it."""
        self._kept.clear()
