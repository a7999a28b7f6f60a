"""
The one writer of a store on SQLite, in two threads.

One takes everything that has gathered, does it in one transaction and commits, without waiting for the disk. The second
flushes the WAL and then says what became of all that was committed before; while it does, the first goes on, and what
is committed meanwhile shares the next flush. So batches and flushes grow by themselves when there is much to do or the
disk is slow. Why two: see docs/decisions/sqlite-threads.md.

What deliveries need of it is told before it is flushed, when all is that was committed before it: a crash of the
machine may take leases and results of the last moment back, and a delivery is made again.

An error of the database (disk full, I/O) fails the whole batch, as it would fail each alone. Any other error is
looked for by doing each piece of work again in a transaction of its own, so that one cannot fail its neighbours. After
a flush that failed nothing is taken any more: the kernel may have dropped what it could not write, and would not say so
a second time.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import structlog

from media_callbacks.inbox.operations import Run, news_of
from media_callbacks.inbox.pending import Answered, Handover, Pending, PendingQueue
from media_callbacks.inbox.sqlite import receipts
from media_callbacks.inbox.sqlite.checkpoints import Checkpoints
from media_callbacks.inbox.sqlite.database import SqliteDatabase, run_now
from media_callbacks.inbox.sqlite.file import StoreFile, transaction
from media_callbacks.inbox.sqlite.names import note_gathered
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.model.receipts import Receipt

# More make a batch hardly cheaper for each.
_FULL_BATCH = 64
# One transaction: some thousand usual receipts, and so some thousand rows, or two that are as large as may be.
_MAX_BATCH_BYTES = 16 * 2**20
# How long what nobody waits for is kept from the disk at most.
_LATE_FLUSH_S = 0.1
# Not on every system there is the one that leaves out what only `stat` shows.
_SYNC: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)

# A receipt, or what is to be done inside a transaction.
Item = Receipt | Run[Any]
_Work = Pending[Item]
_Done = Answered[Item]

log = structlog.get_logger()


class Writer:
    """
    Runs from when it is made until it is closed, both in the event loop.

    Args:
        database: On the connection that writes; closed in the end.
        wal: The WAL as a file to be flushed; closed in the end.
        pending: Where it waits for what is to be done; empty.
        tell: Called in the event loop with whom receipts have brought something for.

    Attributes:
        failure: Why nothing will be taken until a restart; or None.
        full: That there was no room on the disk; None since receipts have found some.
        are_jobs_awaited: To be set before the first one is registered.
    """

    def __init__(
        self,
        file: StoreFile,
        database: SqliteDatabase,
        wal: int,
        pending: PendingQueue[Item],
        tell: Callable[[Collection[str]], None],
        *,
        are_jobs_awaited: bool,
    ) -> None:
        self._file = file
        self._database = database
        self._connection = database.connection
        self._wal = wal
        # What was not yet taken is what one turn of the event loop gathers, to hand it over all at once.
        self._pending = pending
        self._is_gathering = False
        self._tell = tell
        self.are_jobs_awaited = are_jobs_awaited
        self.failure: str | None = None
        self.full: str | None = None
        self._loop = asyncio.get_running_loop()
        self._submitted: Handover[_Work] = Handover()
        self._committed: Handover[_Done] = Handover()
        self._committing = threading.Thread(target=self._commit_on, name="inbox-writer", daemon=True)
        self._flushing = threading.Thread(target=self._flush_on, name="inbox-flusher", daemon=True)
        self._flushing.start()
        self._committing.start()

    # The event loop's side

    def submit(self, item: Item, size_bytes: int | None, *, needs_flush: bool = True) -> "asyncio.Future[Any]":
        """
        Args:
            item: A receipt, which is kept; or what is to be done inside a transaction.
            size_bytes: Of a receipt.
            needs_flush: Whether it is on disk when it is answered.

        Raises:
            InboxUnavailable: It was not taken.
        """
        if self.failure is not None:
            raise InboxUnavailable(self.failure)
        future = self._pending.add(item, size_bytes, needs_flush=needs_flush)
        if not self._is_gathering:
            self._is_gathering = True
            self._loop.call_soon(self._hand_over, 0)
        return future

    def raise_if_stopped(self) -> None:
        """
        Raises:
            InboxUnavailable: Its thread has ended, which only a defect can do.
        """
        if not self._committing.is_alive():
            raise InboxUnavailable("the store's writer has stopped; restart the service")

    def _hand_over(self, seen: int) -> None:
        """Hand over what has gathered, once it is a full batch, or a turn of the event loop brings nothing more."""
        gathered = len(self._pending)
        if seen < gathered < _FULL_BATCH:
            self._loop.call_soon(self._hand_over, gathered)
        elif gathered:
            self._is_gathering = False
            self._submitted.give(self._pending.take())

    def _answer(self, done: list[_Done]) -> None:
        self._pending.answer(done)
        self._tell(news_of(done))

    async def close(self) -> None:
        """What waits is done first, however long the disk takes; everybody is told before this returns."""
        self._submitted.give(self._pending.take())
        self._submitted.end()
        await asyncio.to_thread(self._committing.join)

    # The thread that commits

    def _commit_on(self) -> None:
        checkpoints = Checkpoints(self._file.connect)
        for batch in self._batches():
            if self.failure is not None:
                # Nothing more may be copied back either.
                self._committed.give([(work, None) for work in batch])
                continue
            self._committed.give(self._commit(batch))
            try:
                checkpoints.follow(self._connection, len(batch))
            except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
                    self._fail(f"a checkpoint has failed ({error})")
                else:
                    # Such as a full disk, or no more threads or files: nothing is lost, and a later one does it.
                    _complain("checkpoint_failed", error=f"{type(error).__name__}: {error}")
        checkpoints.close()
        self._committed.end()
        self._flushing.join()
        self._connection.close()

    def _batches(self) -> Iterator[list[_Work]]:
        """What has gathered, a transaction each, until the end."""
        while (gathered := self._submitted.take()) is not None:
            start = size = 0
            for number, work in enumerate(gathered):
                if work.size_bytes is not None:
                    size += work.size_bytes
                    if size > _MAX_BATCH_BYTES and number > start:
                        yield gathered[start:number]
                        start, size = number, work.size_bytes
            yield gathered[start:] if start else gathered

    def _commit(self, batch: list[_Work]) -> list[_Done]:
        try:
            return self._transact(batch)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR or len(batch) == 1:
                return self._failed(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live and say so
            if len(batch) == 1:
                return self._failed(batch, error)
        return [pair for work in batch for pair in self._commit([work])]

    def _transact(self, batch: list[_Work]) -> list[_Done]:
        database = self._database
        with transaction(self._connection):
            database.keys.begin()
            arrived, kept, others = [], [], []
            for work in batch:
                if isinstance(work.item, Receipt):
                    arrived.append(work)
                    kept.append(work.item)
                else:
                    others.append((work, work.item))
            done: list[_Done] = []
            if kept:
                verdicts = receipts.put(database, kept, are_jobs_awaited=self.are_jobs_awaited)
                done += zip(arrived, verdicts, strict=True)
                self.full = None
            done += [(work, run_now(run(database))) for work, run in others]
            database.keys.move()
            note_gathered(self._connection)
        return done

    def _failed(self, batch: list[_Work], error: Exception) -> list[_Done]:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            self.full = f"the disk of {self._file.path} is full: make room; no callback can be taken"
        # What else an exception says may quote what was to be written.
        text = str(error) if isinstance(error, sqlite3.Error) else "see its type"
        _complain("store_failed", error=f"{type(error).__name__}: {text}", works=len(batch))
        failure = InboxUnavailable(f"the store cannot write: {type(error).__name__}: {text}")
        failure.__cause__ = error
        return [(work, failure) for work in batch]

    # The thread that flushes

    def _flush_on(self) -> None:
        is_behind = False
        while (done := self._committed.take(_LATE_FLUSH_S if is_behind else None)) is not None:
            # Also when nobody has come for a while. All that these have seen is on disk.
            is_behind = bool(done) and not any(work.needs_flush for work, _ in done)
            if not is_behind:
                self._flush()
            if self.failure is not None:
                done = [(work, InboxUnavailable(self.failure)) for work, _ in done]
            try:
                self._loop.call_soon_threadsafe(self._answer, done)
            except RuntimeError:
                # The loop was closed under us: everything is on disk, and nobody is left to be told.
                break
        if is_behind:
            self._flush()
        os.close(self._wal)

    def _flush(self) -> None:
        try:
            _SYNC(self._wal)
        except OSError as error:
            self._fail(f"a flush has failed ({error.strerror})")

    # Either thread

    def _fail(self, problem: str) -> None:
        """Take nothing more."""
        self.failure = f"{problem}: see to the disk, then restart the service"
        _complain("store_failed", error=self.failure)


def _complain(event: str, **details: object) -> None:
    # A log that cannot be written must not end a thread that others wait for.
    with suppress(Exception):
        log.error(event, **details)
