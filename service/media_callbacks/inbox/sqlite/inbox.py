"""
The inbox on SQLite.

One process, one writer (``writer``), which does everything that has gathered in one transaction, and says so after the
next flush. What follows:

- an awaited ``put`` returns after a flush that began when its receipt was committed; so does everything else that
  writes, such as a claim, so that no event leaves the service that might be lost (lists may show it a moment before);
- within a transaction there is nobody else, so what was read under a key is still true when the rows are inserted;
- a second service on the same file is refused at start, because it could not see the first one's leases.

``synchronous=NORMAL`` leaves that flush to us, and everything else that a power failure needs to SQLite: it flushes the
WAL before a checkpoint, the file after it, and the header of a WAL that is begun again.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

from media_callbacks.inbox.asking import inquiries, jobs
from media_callbacks.inbox.database import Database
from media_callbacks.inbox.keeping import clock
from media_callbacks.inbox.operations import Operations, Run
from media_callbacks.inbox.pending import MAX_BYTES, MAX_RECEIPTS, PendingQueue
from media_callbacks.inbox.records import FeedCursor, FeedFilter, FeedPart, JobRecord, Purged, StoreSpace
from media_callbacks.inbox.rows import size_bytes
from media_callbacks.inbox.sqlite.database import SqliteDatabase, run_now
from media_callbacks.inbox.sqlite.file import StoreFile, migrate, prepare_file, transaction
from media_callbacks.inbox.sqlite.keys import RecentKeys
from media_callbacks.inbox.sqlite.reader import Reader
from media_callbacks.inbox.sqlite.writer import Item, Writer
from media_callbacks.model.errors import ConfigError, InboxUnavailable, Unusable
from media_callbacks.model.jobs import ExpectedJob
from media_callbacks.model.receipts import Receipt, Verdict

_VACUUMS_PER_PURGE = 8
# Moving this many pages takes about as long as a step of the purge. What is left over is used again by new rows.
_VACUUM_PAGES = 250
# After a disk was full: with this much, receipts can be expected to find room for a while.
_ROOM_AGAIN_BYTES = 64 << 20
_T = TypeVar("_T")


class SqliteInbox(Operations):
    """
    Args:
        path: The database file. Its directory must exist.
        is_exclusive: For the one service that uses the file: refuse to open it while another does, and free what an
            earlier life had leased. A tool that only helps for a moment says no.
        auto_migrate: Apply missing migrations when opening; otherwise opening fails when there are any.
        store_clock: See ``clock.AnchoredClock``.
        max_pending: How many receipts may wait for the flush; beyond, ``put`` fails at once.
        max_pending_bytes: The same for what they take in memory, with their events.
    """

    def __init__(
        self,
        path: Path,
        *,
        is_exclusive: bool = True,
        auto_migrate: bool = True,
        store_clock: clock.AnchoredClock | None = None,
        max_pending: int = MAX_RECEIPTS,
        max_pending_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self._file = StoreFile(path)
        self._is_exclusive = is_exclusive
        self._auto_migrate = auto_migrate
        self._clock = store_clock or clock.AnchoredClock()
        self._pending: PendingQueue[Item] = PendingQueue(
            "the disk", max_receipts=max_pending, max_bytes=max_pending_bytes
        )
        # None while it is not open.
        self._writer: Writer | None = None
        # Two, so that a long list of an operator's delays no dispatcher.
        self._listing = Reader("inbox-lists", self._file.connect, self._clock)
        self._dispatching = Reader("inbox-dispatching", self._file.connect, self._clock)

    # Life

    async def open(self) -> None:
        """
        Raises:
            Unusable: The file can't be opened, is in use by another service, or lacks migrations.
        """
        database, wal, are_jobs_awaited = await asyncio.to_thread(self._prepare)
        self._writer = Writer(self._file, database, wal, self._pending, self._tell, are_jobs_awaited=are_jobs_awaited)

    def _prepare(self) -> tuple[SqliteDatabase, int, bool]:
        """What the writer works on, the WAL as a file to be flushed, and whether any jobs are awaited."""
        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigError([f"store.url: expected SQLite 3.35 or later, this Python has {sqlite3.sqlite_version}"])
        if self._is_exclusive:
            self._file.lock()
        connection = None
        try:
            connection = self._file.connect()
            prepare_file(connection)
            migrate(connection, apply=self._auto_migrate)
            database = SqliteDatabase(connection, self._clock, is_tool=not self._is_exclusive)
            self._clock.begin(run_now(clock.read(database)), is_tool=not self._is_exclusive)
            if self._is_exclusive:
                # An earlier life may have ended because the disk failed: what it could not flush is not left behind as
                # if it were.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                with transaction(connection):
                    run_now(clock.watch(database))
                    # Whoever held these leases is gone.
                    connection.execute(
                        "UPDATE deliveries SET due_at = min(changed_at, ?), lease = NULL"
                        " WHERE due_at IS NOT NULL AND lease IS NOT NULL",
                        (self._clock.now(),),
                    )
                    run_now(inquiries.free_leases(database))
                database.keys = RecentKeys(connection)
            are_jobs_awaited = run_now(jobs.are_any_awaited(database))
            return database, self._file.open_wal(), are_jobs_awaited
        except BaseException as error:
            if connection is not None:
                connection.close()
            self._file.unlock()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise Unusable([f"store.url: cannot use {self._file.path}: {error}"]) from error
            raise

    async def close(self) -> None:
        """What waits is done first, however long the disk takes."""
        writer, self._writer = self._writer, None
        if writer is not None:
            # Before the writer: the last connection copies back what is left in the WAL.
            await self._listing.close()
            await self._dispatching.close()
            await writer.close()
        self._file.unlock()

    # Operations

    def put(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        try:
            return self._open_writer().submit(receipt, size_bytes(receipt))
        except InboxUnavailable as error:
            refused: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def expect(self, jobs_: Sequence[ExpectedJob]) -> Sequence[JobRecord]:
        self._open_writer().are_jobs_awaited = True
        return await super().expect(jobs_)

    async def read_feed(
        self, after: FeedCursor | datetime | None, filters: Sequence[FeedFilter], *, limit: int, max_bytes: int
    ) -> FeedPart:
        part = await super().read_feed(after, filters, limit=limit, max_bytes=max_bytes)
        if part.end != after:
            # What was read is committed and may not be flushed yet. This returns after the next flush.
            await self._write(_nothing)
        return part

    async def trust_clock(self) -> None:
        await super().trust_clock()
        if not self._is_exclusive:
            self._clock.begin(await self._read(clock.read), is_tool=True)

    async def purge(self, *, keep_payloads: timedelta, keep_keys: timedelta, limit: int) -> Purged:
        purged = await super().purge(keep_payloads=keep_payloads, keep_keys=keep_keys, limit=limit)
        # Each in a transaction of its own, so that receipts can go between them.
        for _ in range(_VACUUMS_PER_PURGE):
            if not await self._write(_vacuum):
                break
        return purged

    async def measure(self) -> StoreSpace:
        return await asyncio.to_thread(self._file.measure)

    async def check(self) -> None:
        writer = self._open_writer()
        writer.raise_if_stopped()
        self._pending.raise_if_full()
        await self._write(lambda d: d.execute("UPDATE heartbeat SET beats = beats + 1"))
        # It needs no room, which receipts do.
        full = writer.full
        if full is not None:
            if (await self.measure()).free_bytes < _ROOM_AGAIN_BYTES:  # type: ignore[operator]
                raise InboxUnavailable(full)
            writer.full = None

    # How operations are run

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise InboxUnavailable("the store is not open")
        return self._writer

    async def _write(
        self, run: Run[_T], *, is_one_statement: bool = False, may_take_long: bool = False, needs_flush: bool = True
    ) -> _T:
        return cast(_T, await self._open_writer().submit(run, None, needs_flush=needs_flush))

    async def _write_each(self, runs: Sequence[Run[_T]]) -> list[_T | BaseException]:
        # They are done in this order, mostly with one flush.
        return await asyncio.gather(*map(self._write, runs), return_exceptions=True)

    async def _read(self, run: Run[_T], *, may_take_long: bool = True) -> _T:
        self._open_writer()
        return await (self._listing if may_take_long else self._dispatching).run(run)


async def _nothing(_: Database) -> None: ...


async def _vacuum(database: Database) -> bool:
    """
    Give free pages back to the file system; the file gets smaller at the next checkpoint.

    Returns:
        Whether there are more.
    """
    free = int(await database.fetch_value("PRAGMA freelist_count"))
    for _ in range(min(free, _VACUUM_PAGES)):
        # A page each: ``sqlite3`` takes only the first step of a statement without columns.
        await database.execute("PRAGMA incremental_vacuum(1)")
    return free > _VACUUM_PAGES
