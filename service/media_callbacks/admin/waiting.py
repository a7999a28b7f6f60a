"""
Waiting for jobs, however many do: nobody asks the store for himself. One loop asks for all of them, once a second and
soon after something new was heard of, from whichever instance.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from media_callbacks.inbox.roles import JobWatchStore
from media_callbacks.model.errors import InboxUnavailable, Unavailable
from media_callbacks.model.kinds import Product
from media_callbacks.timing.loop import Loop
from media_callbacks.timing.waiting import Wait, wait_for

MAX_WAITERS = 2000
# How often to look although nothing was heard: what goes to no sink is told to nobody.
POLL_S = 1.0
# However much is heard of.
_SPACING_S = 0.2


class Waiter:
    """
    Somebody who waits for a job.

    Attributes:
        seen: Ends of it that he has been told of.
    """

    def __init__(self, product: Product, job_id: str) -> None:
        self.asked = (product, job_id)
        self.seen: frozenset[str] = frozenset()
        self.told = asyncio.Event()


class JobWatch:
    """
    Args:
        wait: How one who waits does so, for an event with a time-out in seconds.

    Attributes:
        most: How many may wait at once.
    """

    def __init__(self, inbox: JobWatchStore, *, wait: Wait = wait_for) -> None:
        self._inbox = inbox
        self.most = MAX_WAITERS
        self._wait = wait
        self._waiters: set[Waiter] = set()
        self._is_stopping = False
        self._next_at = 0.0
        self._looking = Loop(self._look, name="job-watch", failure="job_watch_failed", retry_s=POLL_S)

    def __len__(self) -> int:
        return len(self._waiters)

    def start(self) -> None:
        self._inbox.listen(self._hear)
        self._looking.start()

    def _hear(self, names: Collection[str]) -> None:
        if self._waiters:
            self._looking.wake()

    async def stop(self) -> None:
        """Nobody waits any longer. May come twice, and without ``start``."""
        self._is_stopping = True
        for waiter in self._waiters:
            waiter.told.set()
        await self._looking.stop()

    @contextmanager
    def joined(self, product: Product, job_id: str) -> Iterator[Waiter]:
        """
        Be one of those who are told, until this ends.

        Raises:
            Unavailable: There are too many.
        """
        if len(self._waiters) >= self.most:
            raise Unavailable(f"{self.most} requests wait for jobs already; ask without `wait`, or come again")
        waiter = Waiter(product, job_id)
        self._waiters.add(waiter)
        self._looking.wake()
        try:
            yield waiter
        finally:
            self._waiters.discard(waiter)

    async def hears(self, waiter: Waiter, timeout_s: float) -> bool:
        """Wait until the job may have ended. False when the time is over, or the service stops."""
        if not self._is_stopping:
            await self._wait(waiter.told, timeout_s)
        has_heard = waiter.told.is_set() and not self._is_stopping
        waiter.told.clear()
        return has_heard

    async def _look(self) -> float | None:
        if not self._waiters:
            return None
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            return self._next_at - now
        self._next_at = now + _SPACING_S
        try:
            endings = await self._inbox.find_endings({waiter.asked for waiter in self._waiters})
        except InboxUnavailable:
            # Others tell of it.
            return POLL_S
        for waiter in self._waiters:
            found = endings.get(waiter.asked, frozenset())
            if not found <= waiter.seen:
                waiter.seen = found
                waiter.told.set()
        return POLL_S
