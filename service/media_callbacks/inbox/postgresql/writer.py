"""
The writer of one service: a task that takes what has gathered since its last commit, in order.

An error of the server fails the whole batch, as it would fail each alone. An error of the data is looked for by halving
the batch, and what takes too long by keeping each receipt alone, so that one cannot fail its neighbours. When a
commit's answer is lost with the connection, ``put`` fails although the receipt may be stored; the sender repeats it,
and deduplication makes that right.

While the server is away, everything fails at once with InboxUnavailable, and the writer tries until it is back.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import structlog

from media_callbacks.inbox.operations import needs_care, news_of
from media_callbacks.inbox.pending import Answered, Pending, PendingQueue
from media_callbacks.inbox.postgresql import receipts, tasks
from media_callbacks.inbox.postgresql.connecting import lend
from media_callbacks.inbox.postgresql.database import PostgresqlDatabase
from media_callbacks.inbox.postgresql.driver import (
    errors,
    is_about_data,
    is_away,
    is_deadlock,
    may_be_about_one,
    unavailable,
)
from media_callbacks.inbox.rows import size_bytes
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.timing.limited_log import LimitedLog

# One transaction: enough to share a flush well, little enough to be done soon.
_MAX_BATCH_RECEIPTS = 256
# Of those that take several round trips each
_MAX_CAREFUL_RECEIPTS = 4
_MAX_CAREFUL_EVENTS = 64
_MAX_BATCH_EVENTS = 512
_MAX_BATCH_BYTES = 16 * 2**20
# Where the server's disk is full, each batch finds it out.
_FAILURE_TOLD_EVERY_S = 60.0

_Work = Pending[Receipt]

log = structlog.get_logger()


class Writer:
    """
    Runs from when it is made until it is closed.

    Args:
        pool: Connections that nothing else uses for long.
        clock: The time in seconds since 1970, in place of the server's.
        pending: Where receipts wait for it; empty.
        tell: Called with whom receipts have brought something for.

    Attributes:
        problem: Why nothing can be done just now, by nobody; None when something can.
    """

    def __init__(
        self,
        pool: Any,
        clock: Callable[[], float] | None,
        pending: PendingQueue[Receipt],
        tell: Callable[[Collection[str]], None],
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._pending = pending
        self._tell = tell
        self.problem: str | None = None
        # Of a batch that can't be kept as a whole; before what waits.
        self._parts: deque[list[_Work]] = deque()
        self._arrived = asyncio.Event()
        self._is_closing = False
        self._failures = LimitedLog(burst=1, every_s=_FAILURE_TOLD_EVERY_S)
        self._task = asyncio.create_task(self._work())

    def submit(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        """
        Keep a receipt.

        Raises:
            InboxUnavailable: It was not taken.
        """
        future = self._pending.add(receipt, size_bytes(receipt))
        self._arrived.set()
        return future

    def raise_if_stopped(self) -> None:
        """
        Raises:
            InboxUnavailable: Its task has ended, which only a defect can do.
        """
        if self._task.done():
            raise InboxUnavailable("the store's writer has stopped; restart the service")

    async def close(self, problem: str) -> None:
        """
        Keep what waits, as far as that takes no longer than it may.

        Args:
            problem: Why the rest can't be kept, nor anything more.
        """
        self._is_closing = True
        self._arrived.set()
        if self.problem is None:
            await asyncio.wait([self._task], timeout=tasks.CLOSE_TIMEOUT_S)
        await tasks.cancel(self._task)
        self._fail_waiting(problem)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._next_batch():
                try:
                    await self._commit(batch)
                except InboxUnavailable as error:
                    self._answer([(one, error) for one in batch])
                    if self.problem is not None:
                        await self._wait_until_back()
                except asyncio.CancelledError:
                    self._answer([(one, InboxUnavailable("the store was closed")) for one in batch])
                    raise
            if self._is_closing:
                return

    def _next_batch(self) -> list[_Work]:
        if self._parts:
            return self._parts.popleft()
        count = events = size = 0
        is_careful = False
        for one in self._pending:
            receipt = one.item
            if count and needs_care(receipt) is not is_careful:
                break
            is_careful = needs_care(receipt)
            events += len(receipt.entries)
            size += one.size_bytes or 0
            most = _MAX_CAREFUL_EVENTS if is_careful else _MAX_BATCH_EVENTS
            if count and (events > most or size > _MAX_BATCH_BYTES):
                break
            count += 1
            if count == (_MAX_CAREFUL_RECEIPTS if is_careful else _MAX_BATCH_RECEIPTS):
                break
        return self._pending.take(count)

    async def _commit(self, batch: list[_Work]) -> None:
        """
        Keep receipts together, and say so. Where they can't be kept together they are left as parts of the batch, to be
        kept next.

        Raises:
            InboxUnavailable: None of them can be kept; where the server is away, ``problem`` says so.
        """
        kept = [one.item for one in batch]
        try:
            async with lend(self._pool) as connection:
                database = PostgresqlDatabase(connection, self._clock)
                try:
                    verdicts = await receipts.put(database, kept)
                except errors() as error:
                    if not is_deadlock(error):
                        raise
                    verdicts = await receipts.put(database, kept)
        except errors() as error:
            failure = unavailable(error)
            failure.__cause__ = error
            if is_away(error):
                self.problem = str(failure)
                raise failure from error
            # Whoever takes too long would do so in each half again.
            part = len(batch) // 2 if is_about_data(error) else 1 if may_be_about_one(error) else len(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live and say so
            failure = InboxUnavailable(f"the store can't take this receipt: {type(error).__name__}")
            failure.__cause__ = error
            part = len(batch) // 2
        else:
            self._answer(list(zip(batch, verdicts, strict=True)))
            return
        if part in (0, len(batch)):
            self._failures.error(
                "store_failed", type(failure.__cause__).__name__, error=str(failure), receipts=len(batch)
            )
            raise failure
        self._parts.extendleft([batch[start : start + part] for start in reversed(range(0, len(batch), part))])

    def _answer(self, done: Sequence[Answered[Receipt]]) -> None:
        self._pending.answer(done)
        self._tell(news_of(done))

    async def _wait_until_back(self) -> None:
        log.warning("store_away", error=self.problem)
        async for _ in tasks.attempts():
            self._fail_waiting(str(self.problem))
            try:
                async with lend(self._pool) as connection:
                    if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "off":
                        break
                    self.problem = "the server is a read-only replica"
                    # The next connection may find another server behind the name.
                    connection.terminate()
            except errors() as error:
                self.problem = str(unavailable(error))
        self.problem = None
        log.info("store_back")

    def _fail_waiting(self, problem: str) -> None:
        """From now on nothing can be done, for what waits neither."""
        self.problem = problem
        waiting = [one for part in self._parts for one in part] + self._pending.take()
        self._parts.clear()
        self._answer([(one, InboxUnavailable(problem)) for one in waiting])
