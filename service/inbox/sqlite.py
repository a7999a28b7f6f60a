"""
The inbox on SQLite.

One process, one writer: a thread with its own connection takes everything that has gathered since its last commit,
does it in one transaction and flushes once (WAL, ``synchronous=FULL``). While it flushes, the next batch gathers, so
batches grow by themselves when the disk is slow. What follows:

- an awaited ``put`` returns after the flush that its receipt was part of;
- within a transaction there is nobody else, so what was read under a key is still true when the rows are inserted; if
  it were not, the unique index would refuse them;
- a second service on the same file is refused at start, because it could not see the first one's leases.

An error of the database (disk full, I/O) fails the whole batch, as it would fail each alone. Any other error is
looked for by doing each piece of work again in a transaction of its own, so that one cannot fail its neighbours.
"""

import asyncio
import fcntl
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import structlog

from service.errors import ConfigError, InboxUnavailable, JobConflict
from service.events import Delivery, Product
from service.inbox import sqlite_deliveries as deliveries
from service.inbox import sqlite_inquiries as inquiries
from service.inbox import sqlite_jobs as jobs
from service.inbox import sqlite_purge as purge
from service.inbox import sqlite_queries as queries
from service.inbox import sqlite_reads as reads
from service.inbox import sqlite_replays as replays
from service.inbox.base import (
    INQUIRIES,
    AttemptResult,
    Entry,
    EventFilter,
    EventRecord,
    EventSummary,
    Finding,
    Inquiry,
    JobFilter,
    JobRecord,
    Purged,
    Receipt,
    ReceiptRecord,
    ReceiptState,
    Reparsed,
    ReplayRecord,
    ReplayRequest,
    ReportRow,
    Settled,
    SinkRecord,
    SinkState,
    StoredReceipt,
    Verdict,
    WaitingCounts,
)
from service.inbox.migrations import load_migrations, missing_migrations
from service.inbox.rows import Arrival, from_milliseconds, to_milliseconds
from service.inbox.sqlite_reader import Reader
from service.jobs import ExpectedJob

_BUSY_TIMEOUT_MS = 5000
# A checkpoint copies pages back and flushes the main file. About every 16 MiB it costs little, and no flush waits
# long for that of the main file.
_CHECKPOINT_PAGES = 4096
# What a receipt writes besides its body, and what other works do, in pages: about, as nobody tells.
_PAGES_PER_RECEIPT = 1.5
_PAGES_PER_WORK = 32
_PAGE_BYTES = 4096
# Further passes copy what was written during the ones before, until this little is left to the writer.
_CHECKPOINT_PASSES = 4
_CHECKPOINT_REST_PAGES = 256
_VACUUMS_PER_PURGE = 8
_T = TypeVar("_T")

log = structlog.get_logger()


@dataclass(slots=True)
class _Work:
    """Something for the writer: ``run`` gets the connection inside a transaction."""

    future: "asyncio.Future[Any]"
    run: Callable[[sqlite3.Connection], Any]


@dataclass(slots=True)
class _Put:
    """A receipt for the writer."""

    future: "asyncio.Future[Verdict]"
    arrival: Arrival


class SqliteInbox:
    """
    Args:
        path: The database file. Its directory must exist.
        is_exclusive: For the one service that uses the file: refuse to open it while another does, and free what an
            earlier life had leased. A tool that only helps for a moment says no.
        auto_migrate: Apply missing migrations when opening; otherwise opening fails when there are any.
        max_pending: How many receipts may wait for the flush; beyond, ``put`` fails at once.
        max_pending_bytes: The same for their bodies.
    """

    def __init__(
        self,
        path: Path,
        *,
        is_exclusive: bool = True,
        auto_migrate: bool = True,
        max_pending: int = 10_000,
        max_pending_bytes: int = 64 * 2**20,
    ) -> None:
        self._path = path
        self._is_exclusive = is_exclusive
        self._auto_migrate = auto_migrate
        self._max_pending = max_pending
        self._max_pending_bytes = max_pending_bytes
        self._pending = 0
        self._pending_bytes = 0
        # Gathered by the event loop while the writer is busy, and handed over all at once.
        self._gathered: list[_Put | _Work] = []
        self._is_writing = self._is_handing_over = False
        self._queue: queue.SimpleQueue[list[_Put | _Work] | None] = queue.SimpleQueue()
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: threading.Thread | None = None
        self._is_closing = False
        # Two, so that a long list of an operator's delays no dispatcher.
        self._listing = Reader("inbox-lists", self._connect)
        self._dispatching = Reader("inbox-dispatching", self._connect)
        self._lock_file: IO[bytes] | None = None
        self._purge_position = purge.Position()
        # For the writer: as long as nobody awaits a job, no event is looked up among them.
        self._are_jobs_awaited = False

    # Life

    async def open(self) -> None:
        """
        Raises:
            ConfigError: The file can't be opened, is in use by another service, or lacks migrations.
        """
        self._loop = asyncio.get_running_loop()
        connection = await asyncio.to_thread(self._prepare)
        self._writer = threading.Thread(target=self._write, args=(connection,), name="inbox-writer", daemon=True)
        self._writer.start()

    def _prepare(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigError([f"store.url: expected SQLite 3.35 or later, this Python has {sqlite3.sqlite_version}"])
        if self._is_exclusive:
            self._lock()
        connection = None
        try:
            connection = self._connect()
            migrate(connection, apply=self._auto_migrate)
            if self._is_exclusive:
                # Whoever held these leases is gone.
                connection.execute(
                    "UPDATE deliveries SET due_at = changed_at, lease = NULL"
                    " WHERE due_at IS NOT NULL AND lease IS NOT NULL"
                )
                inquiries.free_leases(connection)
            self._are_jobs_awaited = jobs.are_any_awaited(connection)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise ConfigError([f"store.url: cannot use {self._path}: {error}"]) from error
            raise
        return connection

    def _lock(self) -> None:
        try:
            self._lock_file = self._path.with_name(self._path.name + ".lock").open("ab")
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                [f"store.url: {self._path} is in use by another service; SQLite serves one, PostgreSQL several"]
            ) from error
        except OSError as error:
            raise ConfigError([f"store.url: cannot write beside {self._path}: {error.strerror}"]) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, cached_statements=1024, timeout=5
        )
        # Takes effect on a file without any table: `purge` gives space back to the file system.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        # The net under `_Checkpoints`: this one holds up whoever commits.
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES * 8}")
        connection.execute("PRAGMA cache_size = -16384")
        return connection

    async def close(self) -> None:
        if self._writer is not None:
            last = _Work(self._new_future(), lambda _: None)
            self._submit(last)
            self._is_closing = True
            await last.future
            self._queue.put(None)
            await asyncio.to_thread(self._writer.join)
            self._writer = None
            self._is_closing = False
            await self._listing.close()
            await self._dispatching.close()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        self._listeners.append(listener)

    def _tell(self, names: Collection[str]) -> None:
        for listener in self._listeners:
            listener(names)

    # Operations

    def put(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        size = len(receipt.body)
        if self._writer is None or self._is_closing:
            return _refused("the store is not open")
        if self._pending >= self._max_pending or self._pending_bytes + size > self._max_pending_bytes:
            return _refused(f"{self._pending} receipts are waiting for the disk, which is the limit")
        work = _Put(self._new_future(), Arrival(receipt, to_milliseconds(receipt.received_at)))
        self._pending += 1
        self._pending_bytes += size
        self._submit(work)
        return work.future

    async def claim(self, sink: str, *, limit: int, now: datetime, lease_s: float) -> Sequence[Delivery]:
        now_ms, lease = to_milliseconds(now), secrets.token_hex(8)
        until_ms = now_ms + int(lease_s * 1000)
        return await self._do(lambda c: deliveries.claim(c, sink, limit=limit, now=now_ms, until=until_ms, lease=lease))

    async def record(self, results: Sequence[AttemptResult], *, now: datetime) -> Sequence[bool]:
        now_ms = to_milliseconds(now)
        kept, released = await self._do(lambda c: deliveries.record(c, results, now_ms))
        if released:
            self._tell(released)
        return kept

    async def next_due_at(self, sink: str) -> datetime | None:
        due_at = await self._read(lambda c: reads.next_due_at(c, sink), reader=self._dispatching)
        return None if due_at is None else from_milliseconds(due_at)

    async def outdated_receipts(
        self, *, parser_version: int, after_id: int, limit: int, with_conflicts: bool = False
    ) -> Sequence[StoredReceipt]:
        return await self._read(
            lambda c: reads.outdated_receipts(
                c, parser_version=parser_version, after_id=after_id, limit=limit, with_conflicts=with_conflicts
            )
        )

    async def reparse(self, receipt_id: int, receipt: Receipt, *, now: datetime, dry_run: bool) -> Reparsed:
        arrival = Arrival(receipt, to_milliseconds(now))
        reparsed = await self._do(lambda c: queries.reparse(c, receipt_id, arrival, dry_run=dry_run))
        if not dry_run and any(_may_ask(entry) for entry in receipt.entries):
            self._tell({INQUIRIES})
        return reparsed

    async def find_event(self, event_id: str) -> EventRecord | None:
        return await self._read(lambda c: reads.find_event(c, event_id))

    async def list_receipts(
        self,
        *,
        state: ReceiptState | None = None,
        source: str | None = None,
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[ReceiptRecord]:
        since_ms = None if since is None else to_milliseconds(since)
        return await self._read(
            lambda c: reads.list_receipts(
                c, state=state, source=source, since=since_ms, before_id=before_id, limit=limit
            )
        )

    async def list_events(
        self, event_filter: EventFilter, *, before: int | None = None, limit: int
    ) -> Sequence[EventSummary]:
        return await self._read(lambda c: reads.list_events(c, event_filter, before=before, limit=limit))

    async def count_events(self, event_filter: EventFilter) -> int:
        return await self._read(lambda c: reads.count_events(c, event_filter))

    async def list_sinks(self) -> Sequence[SinkRecord]:
        return await self._read(reads.list_sinks)

    async def set_sink_state(
        self, name: str, state: SinkState, *, reason: str | None, changed_by: str | None, now: datetime
    ) -> None:
        now_ms = to_milliseconds(now)
        await self._do(
            lambda c: deliveries.set_sink_state(c, name, state, reason=reason, changed_by=changed_by, now=now_ms)
        )
        if state == "active":
            self._tell({name})

    async def create_replay(self, request: ReplayRequest, *, now: datetime) -> ReplayRecord:
        total, last_id = await self._read(lambda c: replays.measure(c, request))
        now_ms = to_milliseconds(now)
        return await self._do(lambda c: replays.create(c, request, total=total, last_id=last_id, now=now_ms))

    async def advance_replays(self, *, now: datetime) -> datetime | None:
        now_ms = to_milliseconds(now)
        if steps := await self._read(lambda c: replays.next_steps(c, now_ms)):
            woken = await self._do(lambda c: replays.take_steps(c, steps, now_ms))
            if woken:
                self._tell(woken)
        next_at = await self._read(replays.next_at)
        return None if next_at is None else from_milliseconds(next_at)

    async def cancel_replay(self, replay_id: int, *, now: datetime) -> ReplayRecord | None:
        now_ms = to_milliseconds(now)
        return await self._do(lambda c: replays.cancel(c, replay_id, now_ms))

    async def find_replay(self, replay_id: int) -> ReplayRecord | None:
        return await self._read(lambda c: replays.find(c, replay_id))

    async def list_replays(self, *, before_id: int | None = None, limit: int) -> Sequence[ReplayRecord]:
        return await self._read(lambda c: replays.list_replays(c, before_id=before_id, limit=limit))

    async def purge(self, *, payloads_before: datetime, keys_before: datetime, limit: int) -> Purged:
        position = self._purge_position
        purged, self._purge_position = await self._do(
            lambda c: purge.purge(
                c,
                position,
                payloads_before=to_milliseconds(payloads_before),
                keys_before=to_milliseconds(keys_before),
                limit=limit,
            )
        )
        # Each in a transaction of its own, so that receipts can go between them.
        for _ in range(_VACUUMS_PER_PURGE):
            if not await self._do(purge.vacuum):
                break
        return purged

    # Expected jobs, and what is asked of the vendor

    async def expect(self, jobs: Sequence[ExpectedJob], *, now: datetime) -> Sequence[JobRecord]:
        keyed = [(job.reference.key().digest(), job) for job in jobs]
        now_ms = to_milliseconds(now)
        records = await self._do(lambda c: self._expect(c, keyed, now_ms))
        if isinstance(records, str):
            raise JobConflict(records)
        if any(record.ended_at is None for record in records):
            self._tell({INQUIRIES})
        return records

    def _expect(
        self, connection: sqlite3.Connection, keyed: Sequence[tuple[bytes, ExpectedJob]], now: int
    ) -> list[JobRecord] | str:
        self._are_jobs_awaited = True
        return jobs.expect(connection, keyed, now)

    async def list_jobs(
        self, job_filter: JobFilter, *, now: datetime, before_id: int | None = None, limit: int
    ) -> Sequence[JobRecord]:
        now_ms = to_milliseconds(now)
        return await self._read(lambda c: jobs.list_jobs(c, job_filter, now=now_ms, before_id=before_id, limit=limit))

    async def claim_inquiries(
        self, product: Product, *, limit: int, now: datetime, lease_s: float
    ) -> Sequence[Inquiry]:
        now_ms, lease = to_milliseconds(now), secrets.token_hex(8)
        until_ms = now_ms + int(lease_s * 1000)
        return await self._do(
            lambda c: inquiries.claim(c, product, limit=limit, now=now_ms, until=until_ms, lease=lease)
        )

    async def next_inquiry_at(self, product: Product) -> datetime | None:
        due_at = await self._read(lambda c: inquiries.next_at(c, product), reader=self._dispatching)
        return None if due_at is None else from_milliseconds(due_at)

    async def settle(self, findings: Sequence[Finding], *, now: datetime) -> Sequence[Settled]:
        now_ms = to_milliseconds(now)
        # Each is a piece of work of its own, so that one cannot fail its neighbours.
        results = await asyncio.gather(
            *(self._do(partial(inquiries.settle, finding=finding, now=now_ms)) for finding in findings),
            return_exceptions=True,
        )
        if woken := {name for result in results if not isinstance(result, BaseException) for name in result[1]}:
            self._tell(woken)
        settled = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            settled.append(result[0])
        return settled

    async def report_jobs(self, *, since: datetime, until: datetime, now: datetime) -> Sequence[ReportRow]:
        times = {"since": to_milliseconds(since), "until": to_milliseconds(until), "now": to_milliseconds(now)}
        return await self._read(lambda c: jobs.report(c, **times))

    async def count_waiting(self, *, now: datetime) -> WaitingCounts:
        now_ms = to_milliseconds(now)
        return await self._read(lambda c: jobs.count_waiting(c, now_ms))

    async def check(self) -> None:
        if self._writer is None or not self._writer.is_alive():
            raise InboxUnavailable("the store is not open")
        if self._pending >= self._max_pending:
            raise InboxUnavailable(f"{self._pending} receipts are waiting for the disk, which is the limit")
        await self._do(lambda c: c.execute("UPDATE heartbeat SET beats = beats + 1").rowcount)

    # The event loop's side

    def _new_future(self) -> "asyncio.Future[Any]":
        if self._loop is None or self._writer is None or self._is_closing:
            raise InboxUnavailable("the store is not open")
        return self._loop.create_future()

    async def _do(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        work = _Work(self._new_future(), run)
        self._submit(work)
        return cast(_T, await work.future)

    def _submit(self, work: _Put | _Work) -> None:
        self._gathered.append(work)
        if not self._is_writing and not self._is_handing_over:
            assert self._loop is not None
            # After everything that has arrived by now.
            self._is_handing_over = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._is_handing_over = False
        if self._gathered and not self._is_writing:
            self._is_writing = True
            batch, self._gathered = self._gathered, []
            self._queue.put(batch)

    async def _read(self, run: Callable[[sqlite3.Connection], _T], *, reader: Reader | None = None) -> _T:
        if self._writer is None:
            raise InboxUnavailable("the store is not open")
        return await (reader or self._listing).run(run)

    def _resolve(self, done: list[tuple[_Put | _Work, Any]]) -> None:
        # First, so that the writer and its disk are busy while these are answered.
        self._is_writing = False
        self._hand_over()
        sinks: set[str] = set()
        for work, result in done:
            if isinstance(work, _Put):
                self._pending -= 1
                self._pending_bytes -= len(work.arrival.receipt.body)
                if isinstance(result, Verdict) and result.state == "accepted":
                    for entry in work.arrival.receipt.entries:
                        if result.accepted:
                            sinks.update(entry.sinks)
                        if _may_ask(entry):
                            sinks.add(INQUIRIES)
            if work.future.done():
                continue
            if isinstance(result, BaseException):
                work.future.set_exception(result)
                # Whoever waited may be gone; that is no reason for a warning of the event loop.
                work.future.exception()
            else:
                work.future.set_result(result)
        if sinks:
            self._tell(sinks)

    # The writer's side

    def _write(self, connection: sqlite3.Connection) -> None:
        assert self._loop is not None
        checkpoints = _Checkpoints(self._connect)
        while (batch := self._queue.get()) is not None:
            done = self._commit(connection, batch)
            try:
                self._loop.call_soon_threadsafe(self._resolve, done)
            except RuntimeError:
                # The loop was closed under us: everything is on disk, and nobody is left to be told.
                break
            checkpoints.follow(connection, sum(map(_pages, batch)))
        checkpoints.close()
        connection.close()

    def _commit(self, connection: sqlite3.Connection, batch: list[_Put | _Work]) -> list[tuple[_Put | _Work, Any]]:
        try:
            return self._transact(connection, batch)
        except sqlite3.OperationalError as error:
            return self._failed(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live and say so
            if len(batch) == 1:
                return self._failed(batch, error)
        return [pair for work in batch for pair in self._commit(connection, [work])]

    def _failed(self, batch: list[_Put | _Work], error: Exception) -> list[tuple[_Put | _Work, Any]]:
        # What else an exception says may quote what was to be written.
        text = str(error) if isinstance(error, sqlite3.Error) else "see its type"
        log.error("store_failed", error=f"{type(error).__name__}: {text}", works=len(batch))
        failure = InboxUnavailable(f"the store cannot write: {type(error).__name__}: {text}")
        failure.__cause__ = error
        return [(work, failure) for work in batch]

    def _transact(self, connection: sqlite3.Connection, batch: list[_Put | _Work]) -> list[tuple[_Put | _Work, Any]]:
        with _transaction(connection):
            puts = [work for work in batch if isinstance(work, _Put)]
            done: list[tuple[_Put | _Work, Any]] = []
            if puts:
                arrivals = [work.arrival for work in puts]
                verdicts = queries.put(connection, arrivals, are_jobs_awaited=self._are_jobs_awaited)
                done += zip(puts, verdicts, strict=True)
            done += [(work, work.run(connection)) for work in batch if isinstance(work, _Work)]
        return done


def _pages(work: _Put | _Work) -> float:
    """About how many pages it writes."""
    if isinstance(work, _Put):
        # Its body, and the event that is made of it
        return _PAGES_PER_RECEIPT + 2 * len(work.arrival.receipt.body) / _PAGE_BYTES
    return _PAGES_PER_WORK


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
        self._pages = 0.0

    def follow(self, connection: sqlite3.Connection, pages: float) -> None:
        """After each commit of the writer, with what it has written."""
        self._pages += pages
        if self._running is None:
            if self._pages >= _CHECKPOINT_PAGES:
                self._pages = 0.0
                self._running = self._executor.submit(self._copy)
        elif self._running.done():
            self._running = None
            with suppress(sqlite3.Error):
                _checkpoint(connection)

    def _copy(self) -> None:
        # An error, such as of a full disk, is met again by the writer, or by the next checkpoint.
        with suppress(sqlite3.Error), closing(self._connect()) as connection:
            copied = 0
            for _ in range(_CHECKPOINT_PASSES):
                before, copied = copied, _checkpoint(connection)
                if copied - before < _CHECKPOINT_REST_PAGES:
                    break

    def close(self) -> None:
        self._executor.shutdown()


def _checkpoint(connection: sqlite3.Connection) -> int:
    """Copy back what no reader needs the old state of, waiting for nobody; how many pages of the WAL are copied."""
    return int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[2])


def _may_ask(entry: Entry) -> bool:
    """Whether an entry may give something to ask the vendor about."""
    return entry.hold is not None or entry.nameless is not None


def _refused(message: str) -> "asyncio.Future[Verdict]":
    refused: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    refused.set_exception(InboxUnavailable(message))
    return refused


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
