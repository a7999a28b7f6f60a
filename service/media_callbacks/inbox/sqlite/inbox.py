"""
The inbox on SQLite.

One process, one writer: a thread with its own connection takes everything that has gathered, does it in one transaction
and commits, without waiting for the disk. A second thread flushes the WAL and then says what became of all that was
committed before; while it does, the writer goes on, and what is committed meanwhile shares the next flush. So batches
and flushes grow by themselves when there is much to do or the disk is slow. What follows:

- an awaited ``put`` returns after a flush that began when its receipt was committed; so does everything else that
  writes, such as a claim, so that no event leaves the service that might be lost (lists may show it a moment before);
- within a transaction there is nobody else, so what was read under a key is still true when the rows are inserted;
- a second service on the same file is refused at start, because it could not see the first one's leases.

``synchronous=NORMAL`` leaves that flush to us, and everything else that a power failure needs to SQLite: it flushes the
WAL before a checkpoint, the file after it, and the header of a WAL that is begun again.

An error of the database (disk full, I/O) fails the whole batch, as it would fail each alone. Any other error is
looked for by doing each piece of work again in a transaction of its own, so that one cannot fail its neighbours. After
a flush that failed nothing is taken any more: the kernel may have dropped what it could not write, and would not say so
a second time.
"""

import asyncio
import fcntl
import os
import re
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import structlog

from media_callbacks.inbox.database import Candidate, Database, Fate, Row, Value
from media_callbacks.inbox.healing import inquiries, jobs
from media_callbacks.inbox.operations import Operations, Run, needs_care, news_of
from media_callbacks.inbox.pending import MAX_BYTES, MAX_RECEIPTS, Answered, Handover, Pending, PendingQueue
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.records import AttemptResult, JobRecord, Purged, StoreSpace
from media_callbacks.inbox.rows import Arrival, delivery_of, to_column, to_milliseconds
from media_callbacks.inbox.sqlite.keys import (
    condition_by_key,
    create_recent,
    last_event_id,
    move_recent,
    refresh_recent,
)
from media_callbacks.inbox.upkeep import clock
from media_callbacks.inbox.upkeep.migrations import load_migrations, missing_migrations
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from media_callbacks.model.events import Delivery, Event
from media_callbacks.model.jobs import ExpectedJob
from media_callbacks.model.receipts import Receipt, Verdict

_NOT_OPEN = "the store is not open"
_BUSY_TIMEOUT_MS = 5000
# More make a batch hardly cheaper for each.
_FULL_BATCH = 64
# One transaction: some thousand usual receipts, and so some thousand rows, or two that are as large as may be.
_MAX_BATCH_BYTES = 16 * 2**20
# A checkpoint copies pages back and flushes the main file. After so many receipts, some 16 MiB, it costs little, and no
# flush of the WAL waits long for that of the file.
_WORKS_PER_CHECKPOINT = 2600
# Bodies may be large, and other works are: the net under that, which holds up the writer.
_MAX_WAL_PAGES = 32_768
# Further passes copy what was written during the ones before, until this little is left to the writer.
_CHECKPOINT_PASSES = 4
_CHECKPOINT_REST_PAGES = 256
_VACUUMS_PER_PURGE = 8
# Not on every system there is the one that leaves out what only `stat` shows.
_SYNC: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
# After a disk was full: with this much, receipts can be expected to find room for a while.
_ROOM_AGAIN_BYTES = 64 << 20
# Moving this many pages takes about as long as a step of the purge. What is left over is used again by new rows.
_VACUUM_PAGES = 250
# More rows per statement cost the writer more processor time each (measured: 8 against 16 and 32). Fewer mean more
# releases of the interpreter lock; below 8 there is no clear measurement.
_ROWS_PER_INSERT = 8
_KEYS_PER_SELECT = 64
_T = TypeVar("_T")

log = structlog.get_logger()


# A receipt, or what is to be done inside a transaction.
_Work = Pending[Arrival | Run[Any]]
_Done = Answered[Arrival | Run[Any]]


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
        # SQLite puts its other files beside the one that a link leads to.
        self._path = path.resolve()
        self._is_exclusive = is_exclusive
        self._auto_migrate = auto_migrate
        self._clock = store_clock or clock.AnchoredClock()
        # Not yet taken is what the event loop gathers in one turn, to hand it over all at once.
        self._pending: PendingQueue[Arrival | Run[Any]] = PendingQueue(
            "the disk", max_receipts=max_pending, max_bytes=max_pending_bytes
        )
        self._submitted: Handover[_Work] = Handover()
        self._committed: Handover[_Done] = Handover()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: threading.Thread | None = None
        # Why nothing is taken, or None; and why nothing will be until a restart.
        self._problem: str | None = _NOT_OPEN
        self._failure: str | None = None
        # Set by the writer when there was no room; receipts that found some end it.
        self._full: str | None = None
        # Two, so that a long list of an operator's delays no dispatcher.
        self._listing = Reader("inbox-lists", self._connect, self._clock)
        self._dispatching = Reader("inbox-dispatching", self._connect, self._clock)
        self._lock_file: IO[bytes] | None = None
        # For the writer: as long as nobody awaits a job, no event is looked up among them.
        self._are_jobs_awaited = False

    # Life

    async def open(self) -> None:
        """
        Raises:
            ConfigError: The file can't be opened, is in use by another service, or lacks migrations.
        """
        self._loop = asyncio.get_running_loop()
        prepared = await asyncio.to_thread(self._prepare)
        self._submitted, self._committed, self._failure = Handover(), Handover(), None
        self._writer = threading.Thread(target=self._work, args=prepared, name="inbox-writer", daemon=True)
        self._writer.start()
        self._problem = None

    def _prepare(self) -> tuple[sqlite3.Connection, int]:
        """The writer's connection, and the WAL as a file to be flushed."""
        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigError([f"store.url: expected SQLite 3.35 or later, this Python has {sqlite3.sqlite_version}"])
        if self._is_exclusive:
            self._lock()
        connection = None
        try:
            connection = self._connect()
            prepare_file(connection)
            migrate(connection, apply=self._auto_migrate)
            database = SqliteDatabase(connection, self._clock)
            self._clock.begin(_run_now(clock.read(database)), is_tool=not self._is_exclusive)
            if self._is_exclusive:
                # An earlier life may have ended because the disk failed: what it could not flush is not left behind as
                # if it were.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                with _transaction(connection):
                    _run_now(clock.watch(database))
                    # Whoever held these leases is gone.
                    connection.execute(
                        "UPDATE deliveries SET due_at = min(changed_at, ?), lease = NULL"
                        " WHERE due_at IS NOT NULL AND lease IS NOT NULL",
                        (self._clock.now(),),
                    )
                    _run_now(inquiries.free_leases(database))
                create_recent(connection)
            self._are_jobs_awaited = _run_now(jobs.are_any_awaited(database))
            # It stays the same file as long as a connection is open: SQLite removes it after the last one.
            return connection, os.open(f"{self._path}-wal", os.O_RDONLY)
        except BaseException as error:
            if connection is not None:
                connection.close()
            self._unlock()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise ConfigError([f"store.url: cannot use {self._path}: {error}"]) from error
            raise

    def _lock(self) -> None:
        try:
            # Only for us, as everything that is made here: the store has what the events have, and keeps it.
            self._lock_file = open(f"{self._path}.lock", "ab", opener=open_for_us)  # noqa: SIM115 - Path.open has no opener
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._unlock()
            raise ConfigError(
                [f"store.url: {self._path} is in use by another service; SQLite serves one, PostgreSQL several"]
            ) from error
        except OSError as error:
            raise ConfigError([f"store.url: cannot write beside {self._path}: {error.strerror}"]) from error

    def _unlock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _connect(self) -> sqlite3.Connection:
        # SQLite gives the files beside it the mode of the database.
        make_for_us(self._path)
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, cached_statements=1024, timeout=5
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_MAX_WAL_PAGES}")
        connection.execute("PRAGMA cache_size = -16384")
        return connection

    async def close(self) -> None:
        """What waits is done first, however long the disk takes."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._problem = _NOT_OPEN
            # Before the writer: the last connection copies back what is left in the WAL.
            await self._listing.close()
            await self._dispatching.close()
            self._submitted.give(self._pending.take())
            self._submitted.end()
            # Everybody is told before this returns.
            await asyncio.to_thread(writer.join)
        self._unlock()

    # Operations

    def put(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        if self._problem is not None:
            return _refused(self._problem)
        arrival = Arrival(receipt, to_milliseconds(receipt.received_at))
        try:
            future = self._pending.add(arrival, arrival.size_bytes)
        except InboxUnavailable as error:
            return _refused(str(error))
        self._hand_over_soon()
        return future

    async def expect(self, jobs_: Sequence[ExpectedJob]) -> Sequence[JobRecord]:
        self._are_jobs_awaited = True
        return await super().expect(jobs_)

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
        return await asyncio.to_thread(self._measure)

    def _measure(self) -> StoreSpace:
        try:
            sizes = [path.stat().st_size for path in self._files() if path.exists()]
            disk = os.statvfs(self._path.parent)
        except OSError as error:
            raise InboxUnavailable(f"the store's disk does not answer: {error.strerror}") from error
        return StoreSpace(sum(sizes), disk.f_bavail * disk.f_frsize)

    def _files(self) -> list[Path]:
        return [self._path, *(self._path.with_name(f"{self._path.name}{end}") for end in ("-wal", "-shm"))]

    async def check(self) -> None:
        if self._writer is not None and not self._writer.is_alive():
            raise InboxUnavailable("the store's writer has stopped; restart the service")
        self._pending.raise_if_full()
        await self._write(lambda d: d.execute("UPDATE heartbeat SET beats = beats + 1"))
        # It needs no room, which receipts do.
        full = self._full
        if full is not None:
            if (await self.measure()).free_bytes < _ROOM_AGAIN_BYTES:  # type: ignore[operator]
                raise InboxUnavailable(full)
            self._full = None

    # The event loop's side

    async def _write(self, run: Run[_T], *, is_one_statement: bool = False, may_take_long: bool = False) -> _T:
        if self._problem is not None:
            raise InboxUnavailable(self._problem)
        future = self._pending.add_work(run)
        self._hand_over_soon()
        return cast(_T, await future)

    async def _write_each(self, runs: Sequence[Run[_T]]) -> list[_T | BaseException]:
        # They are done in this order, mostly with one flush.
        return await asyncio.gather(*map(self._write, runs), return_exceptions=True)

    def _hand_over_soon(self) -> None:
        if len(self._pending) == 1:
            assert self._loop is not None
            self._loop.call_soon(self._hand_over, 0)

    def _hand_over(self, seen: int) -> None:
        """Hand over what has gathered, once it is a full batch, or a turn of the event loop brings nothing more."""
        assert self._loop is not None
        gathered = len(self._pending)
        if seen < gathered < _FULL_BATCH:
            self._loop.call_soon(self._hand_over, gathered)
        elif gathered:
            self._submitted.give(self._pending.take())

    async def _read(self, run: Run[_T], *, may_take_long: bool = True) -> _T:
        if self._writer is None:
            raise InboxUnavailable(_NOT_OPEN)
        return await (self._listing if may_take_long else self._dispatching).run(run)

    def _answer(self, done: list[_Done]) -> None:
        self._pending.answer(done)
        self._tell(news_of([(one.item.receipt, result) for one, result in done if isinstance(one.item, Arrival)]))

    # The writer's side

    def _work(self, connection: sqlite3.Connection, wal: int) -> None:
        flusher = threading.Thread(target=self._flush, args=(wal,), name="inbox-flusher", daemon=True)
        flusher.start()
        checkpoints = _Checkpoints(self._connect)
        for batch in self._batches():
            if self._failure is not None:
                # Nothing more may be copied back either.
                self._committed.give([(work, None) for work in batch])
                continue
            self._committed.give(self._commit(connection, batch))
            try:
                checkpoints.follow(connection, len(batch))
            except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
                    self._fail(f"a checkpoint has failed ({error})")
                else:
                    # Such as a full disk, or no more threads or files: nothing is lost, and a later one does it.
                    _complain("checkpoint_failed", error=f"{type(error).__name__}: {error}")
        checkpoints.close()
        self._committed.end()
        flusher.join()
        connection.close()

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

    def _flush(self, wal: int) -> None:
        assert self._loop is not None
        while (done := self._committed.take()) is not None:
            try:
                _SYNC(wal)
            except OSError as error:
                self._fail(f"a flush has failed ({error.strerror})")
            if self._failure is not None:
                done = [(work, InboxUnavailable(self._failure)) for work, _ in done]
            try:
                self._loop.call_soon_threadsafe(self._answer, done)
            except RuntimeError:
                # The loop was closed under us: everything is on disk, and nobody is left to be told.
                break
        os.close(wal)

    def _fail(self, problem: str) -> None:
        """Take nothing more."""
        self._failure = self._problem = f"{problem}: see to the disk, then restart the service"
        _complain("store_failed", error=self._failure)

    def _commit(self, connection: sqlite3.Connection, batch: list[_Work]) -> list[_Done]:
        try:
            return self._transact(connection, batch)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR or len(batch) == 1:
                return self._failed(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live and say so
            if len(batch) == 1:
                return self._failed(batch, error)
        return [pair for work in batch for pair in self._commit(connection, [work])]

    def _failed(self, batch: list[_Work], error: Exception) -> list[_Done]:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            self._full = f"the disk of {self._path} is full: make room; no callback can be taken"
        # What else an exception says may quote what was to be written.
        text = str(error) if isinstance(error, sqlite3.Error) else "see its type"
        _complain("store_failed", error=f"{type(error).__name__}: {text}", works=len(batch))
        failure = InboxUnavailable(f"the store cannot write: {type(error).__name__}: {text}")
        failure.__cause__ = error
        return [(work, failure) for work in batch]

    def _transact(self, connection: sqlite3.Connection, batch: list[_Work]) -> list[_Done]:
        database = SqliteDatabase(
            connection, self._clock, has_recent=self._is_exclusive, is_tool=not self._is_exclusive
        )
        with _transaction(connection):
            if database.has_recent:
                refresh_recent(connection)
            done: list[_Done] = []
            arrivals = [work.item for work in batch if isinstance(work.item, Arrival)]
            if arrivals:
                verdicts = _put(database, arrivals, are_jobs_awaited=self._are_jobs_awaited)
                done += zip([work for work in batch if isinstance(work.item, Arrival)], verdicts, strict=True)
                self._full = None
            for work in batch:
                if not isinstance(work.item, Arrival):
                    done.append((work, _run_now(work.item(database))))
            if database.has_recent:
                move_recent(connection, database.accepted)
        return done


class _Checkpoints:
    """
    Checkpoints beside the writer, which would be held up by one for as long as dozens of commits take.

    Another thread copies pages back while the writer goes on. It never catches up with a writer that is busy, and only
    a WAL that was copied to its end is begun again; so the writer itself copies the little that is left. Only for the
    writer's thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._executor = ThreadPoolExecutor(1, "inbox-checkpoints")
        self._running: Future[None] | None = None
        self._works = 0

    def follow(self, connection: sqlite3.Connection, works: int) -> None:
        """After each commit of the writer, with how much it has done. Raises whatever a checkpoint has failed with."""
        self._works += works
        if self._running is None:
            if self._works >= _WORKS_PER_CHECKPOINT:
                self._works = 0
                self._running = self._executor.submit(self._copy)
        elif self._running.done():
            running, self._running = self._running, None
            running.result()
            _checkpoint(connection)

    def _copy(self) -> None:
        with closing(self._connect()) as connection:
            copied = 0
            for _ in range(_CHECKPOINT_PASSES):
                before, (size, copied) = copied, _checkpoint(connection)
                # Never again on a WAL that is copied to its end: before 3.51.3, a checkpoint that runs while a commit
                # begins the WAL again may take what is new for copied (https://sqlite.org/wal.html#walresetbug).
                if copied == size or copied - before < _CHECKPOINT_REST_PAGES:
                    break

    def close(self) -> None:
        self._executor.shutdown()


def _checkpoint(connection: sqlite3.Connection) -> tuple[int, int]:
    """Copy back what no reader needs the old state of. Returns the pages of the WAL, and those that are copied."""
    _, size, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return size, copied


def _complain(event: str, **details: object) -> None:
    # A log that cannot be written must not end a thread that others wait for.
    with suppress(Exception):
        log.error(event, **details)


def _refused(message: str) -> "asyncio.Future[Verdict]":
    refused: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    refused.set_exception(InboxUnavailable(message))
    return refused


class Reader:
    """A thread that reads, beside the writer; its connection is opened when it is first needed."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection], store_clock: clock.AnchoredClock) -> None:
        self._name = name
        self._connect = connect
        self._clock = store_clock
        self._executor: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def run(self, run: Run[_T]) -> _T:
        """Call with the database, inside a transaction that sees one state of it throughout."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, self._name)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, run)

    def _run(self, run: Run[_T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("BEGIN")
            try:
                return _run_now(run(SqliteDatabase(self._connection, self._clock)))
            finally:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise InboxUnavailable(f"cannot read the store: {error}") from error

    async def close(self) -> None:
        """After what is running."""
        if self._executor is not None:
            executor, self._executor = self._executor, None
            await asyncio.to_thread(executor.shutdown)
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_for_us(path: str | Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def make_for_us(path: Path) -> None:
    """
    Make a database that is not there yet. One that is there is not even opened: to close it would end the locks that
    connections of this process hold, and whoever else comes and goes would take itself for the last one, and remove
    the WAL that they go on writing to (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    with suppress(FileExistsError):
        os.close(open_for_us(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # Immediate, so that a lock held by another process shows at the start and not half way.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def prepare_file(connection: sqlite3.Connection) -> None:
    """
    Make a file what this store needs, if it is new.

    Raises:
        sqlite3.OperationalError: The file system can't do it.
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if not pages:
        # Only on a file without any table: `purge` gives space back to the file system.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError("expected a file system with shared memory and locks, such as a local disk")


def migrate(connection: sqlite3.Connection, *, apply: bool = True) -> Sequence[str]:
    """
    Bring the schema up to date; safe when several processes try at once.

    Returns:
        The names of the migrations that were applied.

    Raises:
        ConfigError: Some are missing and ``apply`` is false; or the file is of a much later version.
    """
    with _transaction(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        applied = [number for (number,) in connection.execute("SELECT number FROM migrations")]
        missing = missing_migrations(load_migrations("sqlite"), applied, apply=apply)
        for migration in missing:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.number, migration.name))
    return [str(migration) for migration in missing]


def _statements(script: str) -> Iterable[str]:
    # executescript would commit our transaction first.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


class SqliteDatabase(Database):
    """Nothing here ever waits: what is written over it runs to its end at once (see ``_run_now``)."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        store_clock: clock.AnchoredClock,
        *,
        has_recent: bool = False,
        is_tool: bool = False,
    ) -> None:
        self.connection = connection
        self._clock = store_clock
        self._is_tool = is_tool
        # See ``sqlite_keys``.
        self.has_recent = has_recent
        # Events that were accepted through this, when it has.
        self.accepted = 0

    async def fetch(self, sql: str, *parameters: Value) -> Sequence[Row]:
        return self.connection.execute(_numbered(sql), parameters).fetchall()

    async def fetch_for(self, sql: str, values: Sequence[Value], *parameters: Value) -> Sequence[Row]:
        rows: list[Row] = []
        for start in range(0, len(values), _KEYS_PER_SELECT):
            chunk = values[start : start + _KEYS_PER_SELECT]
            # Always as many, so that there are few different statements to be kept ready.
            size = 1 if len(chunk) == 1 else _KEYS_PER_SELECT
            padded = [*chunk, *[chunk[-1]] * (size - len(chunk))]
            marks = ",".join([f"${len(parameters) + n}" for n in range(1, size + 1)])
            rows += await self.fetch(sql.format(values=marks), *parameters, *padded)
        return rows

    async def execute(self, sql: str, *parameters: Value) -> int:
        return max(0, self.connection.execute(_numbered(sql), parameters).rowcount)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        self.connection.executemany(_numbered(sql), rows)

    async def now(self) -> int:
        return self._clock.now()

    async def claimed_now(self) -> int:
        # A tool's clock may have been held back: see AnchoredClock.begin.
        return self._clock.wall_now() if self._is_tool else self._clock.now()

    def using(self, index: str) -> str:
        return f" INDEXED BY {index}"

    def by_key(self, condition: str) -> str:
        return condition_by_key(condition, has_recent=self.has_recent)

    def for_update(self, alias: str, *, skip_locked: bool = False) -> str:
        return ""

    async def lock(self, *, assets: Collection[bytes] = (), keys: Collection[bytes] = ()) -> None:
        """There is one writer."""

    async def accept_events(self, candidates: Sequence[Candidate]) -> list[Fate]:
        return _accept_events(self, candidates, self._clock.now())

    async def claim_deliveries(
        self, sink: str, *, limit: int, max_bytes: int, lease_ms: int, lease: str
    ) -> list[Delivery]:
        now = self._clock.now()
        return _claim(
            self.connection, sink, limit=limit, max_bytes=max_bytes, now=now, until=now + lease_ms, lease=lease
        )

    async def record_attempts(self, results: Sequence[AttemptResult]) -> tuple[list[bool], set[str]]:
        return _record(self, results, self._clock.now())


@lru_cache(1024)
def _numbered(sql: str) -> str:
    """Parameters as SQLite writes them."""
    return re.sub(r"\$(\d+)", r"?\1", sql)


def _run_now(awaitable: Awaitable[_T]) -> _T:
    """The result of what never waits."""
    try:
        cast(Coroutine[Any, Any, _T], awaitable).send(None)
    except StopIteration as stop:
        return cast(_T, stop.value)
    raise RuntimeError("expected an operation on SQLite to end without waiting")


async def _vacuum(database: Database) -> bool:
    """
    Give free pages back to the file system; the file gets smaller at the next checkpoint.

    Returns:
        Whether there are more.
    """
    for _ in range(_VACUUM_PAGES):
        # A page each: ``sqlite3`` takes only the first step of a statement without columns.
        await database.execute("PRAGMA incremental_vacuum(1)")
    return bool(await database.fetch_value("PRAGMA freelist_count"))


# Receipts in. What is done for each is done without the detour over ``Database``, which would cost a tenth.


def _put(database: SqliteDatabase, arrivals: Sequence[Arrival], *, are_jobs_awaited: bool) -> list[Verdict]:
    """
    Keep receipts, their events, and the deliveries of the events that are new, in order.

    Args:
        are_jobs_awaited: Whether there are jobs that events could end.
    """
    verdicts: list[Verdict] = []
    start = 0
    for number, arrival in enumerate(arrivals):
        if needs_care(arrival.receipt):
            # What this one comes to depends on what those before it have changed.
            if start < number:
                verdicts += _put_plain(database, arrivals[start:number], are_jobs_awaited=are_jobs_awaited)
            verdicts += _run_now(accepting.put(database, [arrival]))
            start = number + 1
    if start < len(arrivals):
        # Of a batch as it usually is, this is all.
        rest = arrivals[start:] if start else arrivals
        verdicts += _put_plain(database, rest, are_jobs_awaited=are_jobs_awaited)
    return verdicts


def _put_plain(database: SqliteDatabase, arrivals: Sequence[Arrival], *, are_jobs_awaited: bool) -> list[Verdict]:
    connection, now = database.connection, _run_now(database.now())
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'receipts'").fetchone()
    first_id = (row[0] if row else 0) + 1
    candidates = [
        Candidate(receipt_id, entry.event, entry.body.decode(), entry.binding, entry.sinks)
        for receipt_id, arrival in enumerate(arrivals, first_id)
        for entry in arrival.receipt.entries
    ]
    accepted: dict[int, list[Event]] = {}
    reasons: dict[int, str | None] = {}
    conflicts: dict[int, str] = {}
    repeated: dict[int, list[tuple[Candidate, str]]] = {}
    ended: list[tuple[Event, int]] = []
    for candidate, fate in zip(candidates, _accept_events(database, candidates, now), strict=True):
        if fate.accepted is not None:
            accepted.setdefault(candidate.receipt_id, []).append(fate.accepted)
            ended.append((fate.accepted, now))
        elif fate.bound is not None:
            conflicts[candidate.receipt_id] = accepting.conflict(fate.bound, candidate.binding or "")
        elif fate.known is not None:
            repeated.setdefault(candidate.receipt_id, []).append((candidate, fate.known))
    if are_jobs_awaited:
        _run_now(jobs.end(database, ended))
    verdicts = []
    for receipt_id, arrival in enumerate(arrivals, first_id):
        receipt, events, refusal = arrival.receipt, accepted.get(receipt_id), conflicts.get(receipt_id)
        differs: tuple[str, ...] = ()
        if receipt_id in repeated:
            differs = _run_now(accepting.differences(database, repeated[receipt_id], receipt.body))
        if differs or refusal is not None:
            reasons[receipt_id] = accepting.reason(receipt, conflict=refusal, differs=differs)
        state = accepting.state(receipt, has_events=events is not None, conflict=refusal, differs=differs)
        verdicts.append(Verdict(state, tuple(events) if events else (), differs=differs))
    _insert_receipts(connection, arrivals, verdicts, reasons, first_id=first_id, now=now)
    return verdicts


def _accept_events(database: SqliteDatabase, candidates: Sequence[Candidate], now: int) -> list[Fate]:
    connection = database.connection
    fates: list[Fate] = []
    repeated: list[Candidate] = []
    rows: list[tuple[object, ...]] = []
    bodies: list[tuple[object, ...]] = []
    deliveries: list[tuple[object, ...]] = []
    further: list[tuple[Candidate, int]] = []
    outcomes_by_key = _outcomes(database, [candidate.digest for candidate in candidates])
    row_id = last_event_id(connection)
    for candidate in candidates:
        if candidate.binding is not None:
            bound = _bind(connection, candidate.digest, candidate.binding)
            if bound != candidate.binding:
                fates.append(Fate(bound=bound))
                continue
        outcomes = outcomes_by_key.setdefault(candidate.digest, set())
        if candidate.outcome in outcomes:
            repeated.append(candidate)
            fates.append(_REPEATED)
            continue
        outcomes.add(candidate.outcome)
        event, body, revision = candidate.event, candidate.body, len(outcomes)
        row_id += 1
        if revision == 1:
            deliveries += [(row_id, sink, now, now) for sink in candidate.sinks]
        else:
            event = event.with_revision(revision)
            body = event.to_json().decode()
            further.append((candidate, row_id))
        data = event.data
        rows.append(
            (
                row_id,
                candidate.digest,
                candidate.outcome,
                revision,
                candidate.receipt_id,
                now,
                data.product,
                data.kind,
                to_column(data.job_id),
                to_column(data.media_id),
                1 if candidate.sinks else 0,
            )
        )
        bodies.append((row_id, body))
        fates.append(Fate(event))
    _insert(
        connection,
        "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id,"
        " media_id, is_routed)",
        "(?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
    if database.has_recent:
        database.accepted += refresh_recent(connection)
    _insert(connection, "INSERT INTO event_bodies (event_id, body)", "(?,?)", bodies)
    head = "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)"
    _insert(connection, head, "(?,?,0,'pending',?,0,?)", deliveries)
    # Only now, one after the other: what holds a further outcome back may be in this very batch.
    for candidate, row_id in further:
        for sink in candidate.sinks:
            due_at = None if _is_any_on_its_way(database, candidate.digest, sink) else now
            connection.execute(f"{head} VALUES (?,?,0,'pending',?,0,?)", (row_id, sink, due_at, now))
    if repeated:
        condition = database.by_key("e.key_digest = ?2 AND e.outcome = ?3")
        connection.executemany(
            "INSERT OR IGNORE INTO event_receipts"
            f" SELECT e.id, ?1 FROM events e WHERE {condition} AND e.receipt_id <> ?1",
            [(candidate.receipt_id, candidate.digest, candidate.outcome) for candidate in repeated],
        )
        known = iter(_known_bodies(database, repeated))
        return [fate if fate is not _REPEATED else Fate(known=next(known)) for fate in fates]
    return fates


# Stands for what is looked up in the end: what it repeats may be in this very batch.
_REPEATED = Fate()


def _known_bodies(database: SqliteDatabase, repeated: Sequence[Candidate]) -> list[str | None]:
    """What was accepted of each, as far as it is still kept."""
    bodies: dict[tuple[bytes, int], str] = {}
    for start in range(0, len(repeated), _KEYS_PER_SELECT):
        digests = [candidate.digest for candidate in repeated[start : start + _KEYS_PER_SELECT]]
        marks = ",".join([f"?{number}" for number in range(1, len(digests) + 1)])
        sql = (
            "SELECT e.key_digest, e.outcome, b.body FROM events e JOIN event_bodies b ON b.event_id = e.id"
            f" WHERE {database.by_key(f'e.key_digest IN ({marks})')}"
        )
        for digest, outcome, body in database.connection.execute(sql, digests):
            bodies[digest, outcome] = body
    return [bodies.get((candidate.digest, candidate.outcome)) for candidate in repeated]


def _bind(connection: sqlite3.Connection, digest: bytes, value: str) -> str:
    """The value that the key is bound to: this one, unless there was one before."""
    connection.execute("INSERT INTO bindings VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, value))
    (bound,) = connection.execute("SELECT value FROM bindings WHERE key_digest = ?", (digest,)).fetchone()
    return cast(str, bound)


def _outcomes(database: SqliteDatabase, digests: Sequence[bytes]) -> dict[bytes, set[int]]:
    """The outcomes known of each key; keys without any are left out. True until the transaction ends."""
    found: dict[bytes, set[int]] = {}
    for start in range(0, len(digests), _KEYS_PER_SELECT):
        chunk = digests[start : start + _KEYS_PER_SELECT]
        marks = ",".join([f"?{number}" for number in range(1, len(chunk) + 1)])
        sql = f"SELECT e.key_digest, e.outcome FROM events e WHERE {database.by_key(f'e.key_digest IN ({marks})')}"
        for digest, outcome in database.connection.execute(sql, chunk):
            found.setdefault(digest, set()).add(outcome)
    return found


def _insert_receipts(
    connection: sqlite3.Connection,
    arrivals: Sequence[Arrival],
    verdicts: Sequence[Verdict],
    reasons: Mapping[int, str | None],
    *,
    first_id: int,
    now: int,
) -> None:
    rows = []
    for receipt_id, (arrival, verdict) in enumerate(zip(arrivals, verdicts, strict=True), first_id):
        receipt = arrival.receipt
        rows.append(
            (
                receipt_id,
                arrival.at,
                receipt.source,
                receipt.product,
                receipt.transport,
                receipt.verified_by,
                verdict.state,
                reasons.get(receipt_id, receipt.reason),
                accepting.dump(receipt.warnings) if receipt.warnings else None,
                accepting.dump(dict(receipt.meta)) if receipt.meta else None,
                receipt.parser_version,
                accepting.event_ids([entry.event.id for entry in receipt.entries], verdict.state),
                receipt.body,
                now,
            )
        )
    _insert(
        connection,
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, warnings,"
        " meta, parser, event_ids, body, stored_at)",
        "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )


def _is_any_on_its_way(database: SqliteDatabase, digest: bytes, sink: str) -> bool:
    """Whether anything of the key has not ended at the sink, replays included."""
    return (
        database.connection.execute(
            "SELECT 1 FROM events e JOIN deliveries d ON d.event_id = e.id AND d.sink = ?1"
            f" WHERE {database.by_key('e.key_digest = ?2')} AND d.state IN ('pending', 'retrying')",
            (sink, digest),
        ).fetchone()
        is not None
    )


def _insert(connection: sqlite3.Connection, head: str, row: str, rows: Sequence[Sequence[object]]) -> None:
    """
    Insert rows many to a statement: each statement costs releases of the interpreter lock.

    ``head`` and ``row`` read no table and return nothing: with either, a row was measured to cost a fifth more.
    """
    for start in range(0, len(rows), _ROWS_PER_INSERT):
        chunk = rows[start : start + _ROWS_PER_INSERT]
        connection.execute(_repeat(head, row, len(chunk)), list(chain.from_iterable(chunk)))


@cache
def _repeat(head: str, row: str, times: int) -> str:
    return f"{head} VALUES {','.join([row] * times)}"


# Deliveries out


def _claim(
    connection: sqlite3.Connection, sink: str, *, limit: int, max_bytes: int, now: int, until: int, lease: str
) -> list[Delivery]:
    """What is due at a sink that is active, leased."""
    claimed: list[Delivery] = []
    size = 0
    rows = connection.execute(
        "SELECT d.event_id, d.replay, d.attempts, e.key_digest, e.outcome, b.body FROM deliveries d"
        " JOIN events e ON e.id = d.event_id JOIN event_bodies b ON b.event_id = d.event_id"
        " WHERE d.sink = ? AND d.due_at <= ? AND NOT EXISTS (SELECT 1 FROM sinks WHERE name = ? AND state <> 'active')"
        " ORDER BY d.due_at, d.event_id LIMIT ?",
        (sink, now, sink, limit),
    )
    with closing(rows):
        for row in rows:
            delivery = delivery_of(row, sink, lease)
            size += len(delivery.body)
            if claimed and size > max_bytes:
                break
            claimed.append(delivery)
    connection.executemany(
        "UPDATE deliveries SET due_at = ?, lease = ? WHERE event_id = ? AND sink = ? AND replay = ?",
        [(until, lease, delivery.row_id, sink, delivery.replay) for delivery in claimed],
    )
    return claimed


def _record(database: SqliteDatabase, results: Sequence[AttemptResult], now: int) -> tuple[list[bool], set[str]]:
    """Returns which results still held their lease, and the sinks where something waited for one of these."""
    connection = database.connection
    leases = _leases(connection, results)
    kept: list[bool] = []
    updates: list[tuple[object, ...]] = []
    given_back: list[tuple[object, ...]] = []
    attempts: list[tuple[object, ...]] = []
    ended: list[AttemptResult] = []
    dead: list[tuple[object, ...]] = []
    for result in results:
        delivery = result.delivery
        key = (delivery.row_id, delivery.sink, delivery.replay)
        if key not in leases:
            kept.append(False)
            continue
        is_kept = leases[key] == delivery.lease
        kept.append(is_kept)
        if result.started_at is not None:
            attempts.append(
                (
                    *key,
                    to_milliseconds(result.started_at),
                    delivery.attempt,
                    round(result.duration_s * 1000),
                    *_written(result, is_kept=is_kept),
                )
            )
        if not is_kept:
            continue
        leases[key] = None
        if result.state == "pending":
            given_back.append((now, now, *key))
        elif result.state == "retrying":
            updates.append((result.state, now + round(result.delay_s * 1000), now, result.error, *key))
        else:
            updates.append((result.state, None, now, result.error, *key))
            ended.append(result)
            if result.state == "dead":
                dead.append(key)
    connection.executemany(
        "UPDATE deliveries SET state = ?, due_at = ?, lease = NULL, attempts = attempts + 1, changed_at = ?, error = ?"
        " WHERE event_id = ? AND sink = ? AND replay = ?",
        updates,
    )
    if given_back:
        # It is what it was before: pending, or retrying after earlier attempts.
        connection.executemany(
            "UPDATE deliveries SET due_at = ?, lease = NULL, changed_at = ?"
            " WHERE event_id = ? AND sink = ? AND replay = ?",
            given_back,
        )
    if dead:
        connection.executemany(
            "UPDATE deliveries SET state = 'replaced' WHERE event_id = ?1 AND sink = ?2 AND replay = ?3 AND EXISTS"
            " (SELECT 1 FROM deliveries WHERE event_id = ?1 AND sink = ?2 AND replay > ?3)",
            dead,
        )
    _insert(
        connection,
        # What is recorded twice, because the answer to the first time was lost, is late the second time.
        "INSERT OR IGNORE INTO attempts (event_id, sink, replay, started_at, number, duration_ms, result, error)",
        "(?,?,?,?,?,?,?,?)",
        attempts,
    )
    return kept, _release_held(database, ended, now)


def _written(result: AttemptResult, *, is_kept: bool) -> tuple[str, str | None]:
    """What is written of an attempt: its result, and what else there is to say."""
    if result.state == "pending":
        return "interrupted", result.error
    if is_kept:
        return result.state, result.error
    return "late", "delivered after its lease was lost" if result.state == "delivered" else result.error


def _leases(connection: sqlite3.Connection, results: Sequence[AttemptResult]) -> dict[tuple[int, str, int], str | None]:
    """The present lease of each delivery that there is."""
    leases: dict[tuple[int, str, int], str | None] = {}
    for start in range(0, len(results), _KEYS_PER_SELECT):
        chunk = [result.delivery for result in results[start : start + _KEYS_PER_SELECT]]
        marks = ",".join("?" * len(chunk))
        for row_id, sink, replay, lease in connection.execute(
            f"SELECT event_id, sink, replay, lease FROM deliveries WHERE event_id IN ({marks})",
            [delivery.row_id for delivery in chunk],
        ):
            leases[row_id, sink, replay] = lease
    return leases


def _release_held(database: SqliteDatabase, ended: Sequence[AttemptResult], now: int) -> set[str]:
    """
    Let the next delivery of each key go that one has ended of, unless another is on its way: those of the earliest
    event first.
    """
    connection = database.connection
    is_of_job = database.by_key("e.key_digest = (SELECT key_digest FROM events WHERE id = ?3)")
    released = set()
    for sink in {result.delivery.sink for result in ended}:
        if connection.execute(
            "SELECT 1 FROM deliveries WHERE due_at IS NULL AND state IN ('pending', 'dead') AND state = 'pending'"
            " AND sink = ? LIMIT 1",
            (sink,),
        ).fetchone():
            cursor = connection.executemany(
                "UPDATE deliveries SET due_at = ?1 WHERE sink = ?2 AND state = 'pending' AND due_at IS NULL"
                " AND event_id = (SELECT min(e.id) FROM events e"
                " JOIN deliveries d ON d.event_id = e.id AND d.sink = ?2"
                f" WHERE {is_of_job} AND d.state = 'pending' AND d.due_at IS NULL)"
                " AND NOT EXISTS (SELECT 1 FROM events e JOIN deliveries d ON d.event_id = e.id AND d.sink = ?2"
                f" WHERE {is_of_job} AND d.due_at IS NOT NULL)",
                [(now, sink, result.delivery.row_id) for result in ended if result.delivery.sink == sink],
            )
            if cursor.rowcount:
                released.add(sink)
    return released
