"""
The inbox on PostgreSQL, for several services on one database.

The writer (``writer``) takes everything that has gathered since its last commit and hands it to one function of the
database: one round trip, one transaction, one flush. While that is on its way, the next batch gathers. What follows:

- an awaited ``put`` returns after the commit that its receipt was part of;
- receipts of one service never overtake each other; those of several are put in order by locks on their keys, which
  the function holds from before it looks until it has committed;
- none of these locks depends on us to be released: a service that stops in the middle holds nobody up.

Receipts with events that are held, or with messages that name no job, take several round trips, a few of them in a
transaction. So do registrations, findings of what the vendor was asked, reparsing and purging. A service that stops in
the middle of such a one holds others up until the server gives up on it, which is before they give up on the locks.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import structlog

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.keeping import purging
from media_callbacks.inbox.keeping.migrations import Migration, load_migrations, missing_migrations, unknown_migrations
from media_callbacks.inbox.operations import Operations, Run
from media_callbacks.inbox.pending import MAX_BYTES, MAX_RECEIPTS, PendingQueue
from media_callbacks.inbox.postgresql import connecting, partitions, tasks
from media_callbacks.inbox.postgresql.database import PostgresqlDatabase
from media_callbacks.inbox.postgresql.driver import errors, is_away, is_lost_race, is_without_tables, unavailable
from media_callbacks.inbox.postgresql.news import News
from media_callbacks.inbox.postgresql.schema import prepare
from media_callbacks.inbox.postgresql.writer import Writer
from media_callbacks.inbox.records import Purged, StoreSpace
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.timing.limited_log import LimitedLog
from media_callbacks.timing.retry import backoff_s

# How long a start is held up by a server that does not answer, where it may start without.
_FIRST_CONNECT_S = 0.7
# How long it is held up by migrations: those of a new database take less than a second.
_MIGRATION_S = 10.0
# Two of a service's connections accept receipts and one hears news.
_WRITERS = 2
_LISTENERS = 1
_MIN_POOL_SIZE = 5
_MAX_ATTEMPTS = 3
# Who waits for a lock to make a partition has everybody queue up behind him, for a tenth of a second each time.
_FIRST_MAKE_PAUSE_S = 1.0
_LONGEST_MAKE_PAUSE_S = 60.0
# It goes on for weeks.
_NOT_MADE_TOLD_EVERY_S = 24 * 3600.0
_NOT_OPEN = "the store is not open"
# Of payloads, until a purge says it.
_RETENTION = timedelta(days=30)
_T = TypeVar("_T")

log = structlog.get_logger()


class PostgresqlInbox(Operations):
    """
    Args:
        url: ``postgresql://user:password@host:port/database?…``; what is left out is found as libpq finds it.
        auto_migrate: Apply missing migrations when opening; otherwise opening fails when there are any.
        must_connect: Whether opening fails when the server can't be reached. Otherwise it goes on in the background,
            and everything raises InboxUnavailable until it has worked.
        pool_size: How many connections there may be at most.
        clock: The time in seconds since 1970, in place of the server's: for tests.
        max_pending: How many receipts may wait for the commit; beyond, ``put`` fails at once.
        max_pending_bytes: The same for what they take in memory, with their events.
    """

    def __init__(
        self,
        url: str,
        *,
        auto_migrate: bool = True,
        must_connect: bool = True,
        pool_size: int = 8,
        clock: Callable[[], float] | None = None,
        max_pending: int = MAX_RECEIPTS,
        max_pending_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self._url = url
        self._auto_migrate = auto_migrate
        self._must_connect = must_connect
        self._clock = clock
        self._pool_size = max(pool_size, _MIN_POOL_SIZE)
        self._pending: PendingQueue[Receipt] = PendingQueue(
            "the database", max_receipts=max_pending, max_bytes=max_pending_bytes
        )
        # Why nothing can be done while it is not open.
        self._problem = _NOT_OPEN
        # Why the server, though it is there, can't be used as configured; None when that is not known.
        self._misfit: ConfigError | None = None
        self._is_migrating = asyncio.Event()
        self._migrations: Sequence[Migration] = ()
        # Of a later version, as far as it was told.
        self._unknown: Sequence[str] = []
        self._pool: Any = None
        self._writer_pool: Any = None
        self._listing = asyncio.Semaphore(max(1, self._pool_size - _WRITERS - _LISTENERS - 1))
        self._opening: asyncio.Task[None] | None = None
        self._keep_payloads_ms = _to_milliseconds(_RETENTION)
        # What is left of the present pass of the purge; None before it has begun.
        self._old: partitions.Old | None = None
        self._failed_makes = 0
        self._make_again_at = -math.inf
        self._not_made = LimitedLog(burst=1, every_s=_NOT_MADE_TOLD_EVERY_S)
        # None while it is not open.
        self._writer: Writer | None = None
        self._news: News | None = None

    # Life

    async def open(self) -> None:
        """
        Raises:
            ConfigError: The database can't be used as configured.
            InboxUnavailable: The server can't be reached, and must be.

        Migrations that take long go on in the background; until they are done, nothing can be done here.
        """
        first = asyncio.create_task(self._open())
        try:
            if self._must_connect:
                migrating = asyncio.create_task(self._is_migrating.wait())
                try:
                    await asyncio.wait([first, migrating], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    migrating.cancel()
            await asyncio.wait([first], timeout=_MIGRATION_S if self._must_connect else _FIRST_CONNECT_S)
            # What takes longer, such as a migration, is not broken off.
            if first.done():
                await first
                return
            if not self._is_migrating.is_set():
                self._problem = "the database can't be used just now: no answer yet"
        except InboxUnavailable as error:
            if self._must_connect:
                raise
            self._problem = str(error)
        except asyncio.CancelledError:
            first.cancel()
            raise
        log.warning("store_away", error=self._problem)
        self._opening = asyncio.create_task(self._open_later(first))

    async def _open(self) -> None:
        self._migrations = load_migrations("postgresql")
        schema = await prepare(self._url, self._note_migrating, apply=self._auto_migrate)
        shared = self._pool_size - _WRITERS - _LISTENERS
        self._writer_pool = await connecting.create_pool(self._url, _WRITERS, connecting.PUT_TIMEOUT_S)
        self._pool = await connecting.create_pool(self._url, shared, connecting.STATEMENT_TIMEOUT_S)
        self._news = News(self._url, schema, super()._tell)
        self._writer = Writer(self._writer_pool, self._clock, self._pending, self._tell)
        self._misfit = None

    def _note_migrating(self, text: str) -> None:
        self._is_migrating.set()
        self._problem = f"the database is being brought up to date: {text}"
        log.info("store_migrating", progress=text)

    async def _open_later(self, attempt: "asyncio.Task[None]") -> None:
        async for _ in tasks.attempts():
            try:
                await attempt
            except InboxUnavailable as error:
                self._problem, self._misfit = str(error), None
            except ConfigError as error:
                # It may be mended meanwhile, such as by a migration that is run by hand.
                if self._problem != str(error):
                    log.error("store_unusable", error=str(error))
                self._problem = str(error)
                self._misfit = None if isinstance(error, connecting.WrongServer) else error
            else:
                log.info("store_back")
                return
            attempt = asyncio.create_task(self._open())

    async def close(self) -> None:
        if self._opening is not None:
            await tasks.cancel(self._opening)
        if self._writer is not None:
            await self._writer.close(_NOT_OPEN)
            self._writer = None
        self._problem = _NOT_OPEN
        if self._news is not None:
            await self._news.close()
            self._news = None
        for pool in (self._pool, self._writer_pool):
            if pool is not None:
                await connecting.close_pool(pool)
        self._pool = self._writer_pool = None

    # Operations

    async def put(self, receipt: Receipt) -> Verdict:
        return await self._usable_writer().submit(receipt)

    async def summarise(self) -> None:
        await super().summarise()
        if complete := await self._read(partitions.find_complete):
            await self._write(partial(partitions.close, complete=complete))
        if time.monotonic() >= self._make_again_at:
            await self._make_partitions()

    async def _make_partitions(self) -> None:
        not_made: set[str] = set()
        for kind, width in await self._read(partial(partitions.find_wanting, keep_ms=self._keep_payloads_ms)):
            if kind in not_made:
                continue
            try:
                is_made = await self._write(partial(partitions.make, kind=kind, width=width))
            except InboxUnavailable as error:
                _raise_if_away(error)
                self._not_made.error("partitions_not_made", kind, rows=kind, error=str(error))
                not_made.add(kind)
                continue
            if not is_made:
                not_made.add(kind)
                # They are in use just now, or:
                for table, size_bytes in (await self._read(partitions.find_crowded)).items():
                    self._not_made.warning("partitions_not_made", table, table=table, unpartitioned_bytes=size_bytes)
        self._failed_makes = self._failed_makes + 1 if not_made else 0
        if not_made:
            pause_s = backoff_s(self._failed_makes, first_s=_FIRST_MAKE_PAUSE_S, longest_s=_LONGEST_MAKE_PAUSE_S)
            self._make_again_at = time.monotonic() + pause_s

    async def purge(self, *, keep_payloads: timedelta, keep_keys: timedelta, limit: int) -> Purged:
        self._keep_payloads_ms = _to_milliseconds(keep_payloads)
        if self._purge_position == purging.Position():
            if self._old is None:
                self._old = await self._read(partial(partitions.find_old, keep_ms=self._keep_payloads_ms))
            if (removed := await self._drop_next(self._old)) is not None:
                return Purged(removed, 0, is_finished=False)
            if await self._write(partitions.sweep, may_take_long=True):
                return Purged(0, 0, is_finished=False)
            self._spared = partitions.spared_by_kind(self._old.spared)
        purged = await super().purge(keep_payloads=keep_payloads, keep_keys=keep_keys, limit=limit)
        if purged.is_finished:
            self._old = None
        return purged

    async def _drop_next(self, old: partitions.Old) -> int | None:
        """Drop the next one, or leave it to be purged by row. Returns how many rows have gone, None without one."""
        if not old.droppable:
            return None
        first, *droppable = old.droppable
        spared = old.spared
        try:
            removed = await self._write(
                partial(partitions.drop, one=first, payloads_before=old.payloads_before), may_take_long=True
            )
        except InboxUnavailable as error:
            _raise_if_away(error)
            # Such as a view of somebody's own, without which it can't be dropped. What is old goes all the same.
            log.error("partition_not_dropped", rows=first.kind, first_id=first.first_id, error=str(error))
            removed = -1
        if removed is None and not old.is_overdue(first):
            spared = [*spared, first]
        self._old = replace(old, droppable=droppable, spared=spared)
        return max(removed or 0, 0) if first.kind == "receipts" else 0

    async def measure(self) -> StoreSpace:
        size_bytes = await self._read(_measure, may_take_long=False)
        crowded = await self._read(partitions.find_crowded, may_take_long=False)
        return StoreSpace(size_bytes, free_bytes=None, crowded=tuple(crowded))

    async def check(self) -> None:
        """
        Raises:
            ConfigError: The server is there, and can't be used as configured.
        """
        if self._misfit is not None:
            raise self._misfit
        self._usable_writer().raise_if_stopped()
        self._pending.raise_if_full()
        try:
            applied = await self._run(_beat, self._writer_pool, in_transaction=False)
        except InboxUnavailable as error:
            if not is_without_tables(error.__cause__):
                raise
            applied = {}
        # The server may have come back with another database, or an older state of it.
        missing_migrations(self._migrations, applied, apply=False)
        unknown = unknown_migrations(self._migrations, applied)
        if unknown != self._unknown:
            # While a release is rolled out, and after a step back.
            log.warning("store_newer", migrations=unknown, known=str(self._migrations[-1]))
            self._unknown = unknown

    # How operations are run

    def _usable_writer(self) -> Writer:
        """The writer, which knows whether anything can be done."""
        if self._writer is None:
            raise InboxUnavailable(self._problem)
        if self._writer.problem is not None:
            raise InboxUnavailable(self._writer.problem)
        return self._writer

    async def _write(
        self, run: Run[_T], *, is_one_statement: bool = False, may_take_long: bool = False, needs_flush: bool = True
    ) -> _T:
        async with self._listing if may_take_long else contextlib.nullcontext():
            return await self._run(run, self._pool, in_transaction=not is_one_statement)

    async def _read(self, run: Run[_T], *, may_take_long: bool = True) -> _T:
        if not may_take_long:
            return await self._run(run, self._pool, in_transaction=False)
        # Never on all connections at once, so that deliveries go on.
        async with self._listing:
            return await self._run(run, self._pool, in_transaction=False)

    async def _run(self, run: Run[_T], pool: Any, *, in_transaction: bool) -> _T:
        """Call with a connection. What lost against somebody else's transaction is done again."""
        self._usable_writer()
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                async with (
                    connecting.lend(pool) as connection,
                    connection.transaction() if in_transaction else contextlib.nullcontext(),
                ):
                    return await run(PostgresqlDatabase(connection, self._clock))
            except errors() as error:
                if attempt == _MAX_ATTEMPTS or not is_lost_race(error):
                    raise unavailable(error) from error
        raise AssertionError

    # News

    def _tell(self, names: Collection[str]) -> None:
        """That there is something new to claim: to our own dispatcher, and to those of other services."""
        super()._tell(names)
        if names and self._news is not None:
            self._news.tell(names)


def _to_milliseconds(length: timedelta) -> int:
    return int(length.total_seconds() * 1000)


def _raise_if_away(error: InboxUnavailable) -> None:
    """
    Raises:
        InboxUnavailable: Nothing else would work either.
    """
    if not isinstance(error.__cause__, Exception) or is_away(error.__cause__):
        raise error


async def _measure(database: Database) -> int:
    return int(await database.fetch_value("SELECT pg_database_size(current_database())"))


async def _beat(database: Database) -> dict[int, str]:
    """Make something durable. Returns which migrations were applied."""
    rows = await database.fetch(
        "WITH beat AS (UPDATE heartbeat SET beats = beats + 1) SELECT number, name FROM migrations"
    )
    return dict(map(tuple, rows))
