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
import json
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import structlog

from service.errors import ConfigError, InboxUnavailable
from service.events import OUTCOMES, Delivery, parse_event_id
from service.inbox import sqlite_queries as queries
from service.inbox.base import (
    AttemptResult,
    DeliveryRecord,
    DeliveryState,
    EventRecord,
    Receipt,
    ReceiptRecord,
    ReceiptState,
    Reparsed,
    StoredReceipt,
    Verdict,
)
from service.inbox.migrations import load_migrations

_BUSY_TIMEOUT_MS = 5000
# A checkpoint copies pages back and flushes the main file; every 16 MiB it costs little and the WAL stays small.
_CHECKPOINT_PAGES = 4096
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
    arrival: queries.Arrival


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
        self._queue: queue.SimpleQueue[_Put | _Work | None] = queue.SimpleQueue()
        self._listener: Callable[[Collection[str]], None] = lambda _: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: threading.Thread | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._read_connection: sqlite3.Connection | None = None
        self._lock_file: IO[bytes] | None = None

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
        self._reader = ThreadPoolExecutor(1, "inbox-reader")

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
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute("PRAGMA cache_size = -16384")
        return connection

    async def close(self) -> None:
        if self._writer is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._writer.join)
            self._writer = None
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await asyncio.get_running_loop().run_in_executor(reader, self._close_read_connection)
            reader.shutdown()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _close_read_connection(self) -> None:
        if self._read_connection is not None:
            self._read_connection.close()
            self._read_connection = None

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        self._listener = listener

    # Operations

    async def put(self, receipt: Receipt) -> Verdict:
        size = len(receipt.body)
        if self._pending >= self._max_pending or self._pending_bytes + size > self._max_pending_bytes:
            raise InboxUnavailable(f"{self._pending} receipts are waiting for the disk, which is the limit")
        work = _Put(self._new_future(), queries.Arrival(receipt, queries.to_milliseconds(receipt.received_at)))
        self._pending += 1
        self._pending_bytes += size
        self._queue.put(work)
        return await work.future

    async def claim(self, sink: str, *, limit: int, now: datetime, lease_s: float) -> Sequence[Delivery]:
        now_ms, lease = queries.to_milliseconds(now), secrets.token_hex(8)
        until_ms = now_ms + int(lease_s * 1000)
        return await self._do(lambda c: queries.claim(c, sink, limit=limit, now=now_ms, until=until_ms, lease=lease))

    async def record(self, results: Sequence[AttemptResult], *, now: datetime) -> Sequence[bool]:
        now_ms = queries.to_milliseconds(now)
        kept, released = await self._do(lambda c: queries.record(c, results, now_ms))
        if released:
            self._listener(released)
        return kept

    async def outdated_receipts(self, *, parser_version: int, after_id: int, limit: int) -> Sequence[StoredReceipt]:
        rows = await self._read(
            "SELECT id, source, verified_by, received_at, body, meta FROM receipts WHERE id > ?"
            " AND (state = 'unparsed' OR parser < ?) AND body IS NOT NULL ORDER BY id LIMIT ?",
            after_id,
            parser_version,
            limit,
        )
        return [
            StoredReceipt(
                row_id,
                source,
                verified_by,
                queries.from_milliseconds(received_at),
                body,
                json.loads(meta) if meta else {},
            )
            for row_id, source, verified_by, received_at, body, meta in rows
        ]

    async def reparse(self, receipt_id: int, receipt: Receipt, *, now: datetime, dry_run: bool) -> Reparsed:
        arrival = queries.Arrival(receipt, queries.to_milliseconds(now))
        return await self._do(lambda c: queries.reparse(c, receipt_id, arrival, dry_run=dry_run))

    async def next_due_at(self, sink: str) -> datetime | None:
        row = await self._read("SELECT min(due_at) FROM deliveries WHERE sink = ? AND due_at IS NOT NULL", sink)
        return None if row[0][0] is None else queries.from_milliseconds(row[0][0])

    async def count_deliveries(self) -> Mapping[tuple[str, DeliveryState], int]:
        rows = await self._read(
            "SELECT sink, state, count(*) FROM deliveries WHERE due_at IS NOT NULL GROUP BY sink, state UNION ALL"
            " SELECT sink, state, count(*) FROM deliveries WHERE due_at IS NULL AND state <> 'delivered'"
            " GROUP BY sink, state"
        )
        counts: dict[tuple[str, DeliveryState], int] = {}
        for sink, state, count in rows:
            counts[sink, state] = counts.get((sink, state), 0) + count
        return counts

    async def find_event(self, event_id: str) -> EventRecord | None:
        try:
            digest, outcome = parse_event_id(event_id)
        except ValueError:
            return None
        rows = await self._read(
            "SELECT id, accepted_at, body, receipt_id FROM events WHERE key_digest = ? AND outcome = ?",
            digest,
            OUTCOMES.index(outcome),
        )
        if not rows:
            return None
        row_id, accepted_at, body, receipt_id = rows[0]
        receipts = await self._read(
            f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE id = ? OR id IN"
            " (SELECT receipt_id FROM event_receipts WHERE event_id = ?) ORDER BY id LIMIT 1000",
            receipt_id,
            row_id,
        )
        deliveries = await self._read(
            "SELECT sink, replay, state, attempts, due_at, changed_at, error FROM deliveries WHERE event_id = ?"
            " ORDER BY sink, replay",
            row_id,
        )
        return EventRecord(
            id=event_id,
            accepted_at=queries.from_milliseconds(accepted_at),
            body=None if body is None else body.encode(),
            receipts=tuple(map(_receipt_record, receipts)),
            deliveries=tuple(
                DeliveryRecord(
                    sink=sink,
                    replay=replay,
                    state=state,
                    attempts=attempts,
                    due_at=None if due_at is None else queries.from_milliseconds(due_at),
                    changed_at=queries.from_milliseconds(changed_at),
                    error=error,
                )
                for sink, replay, state, attempts, due_at, changed_at, error in deliveries
            ),
        )

    async def list_receipts(
        self,
        *,
        state: ReceiptState | None = None,
        source: str | None = None,
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[ReceiptRecord]:
        conditions = ["1"]
        parameters: list[object] = []
        for condition, value in (
            ("state = ?", state),
            ("source = ?", source),
            ("received_at >= ?", None if since is None else queries.to_milliseconds(since)),
            ("id < ?", before_id),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        rows = await self._read(
            f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
            *parameters,
            limit,
        )
        return tuple(map(_receipt_record, rows))

    async def check(self) -> None:
        if self._writer is None or not self._writer.is_alive():
            raise InboxUnavailable("the store is not open")
        if self._pending >= self._max_pending:
            raise InboxUnavailable(f"{self._pending} receipts are waiting for the disk, which is the limit")
        await self._do(lambda c: c.execute("UPDATE heartbeat SET beats = beats + 1").rowcount)

    # The event loop's side

    def _new_future(self) -> "asyncio.Future[Any]":
        if self._loop is None or self._writer is None:
            raise InboxUnavailable("the store is not open")
        return self._loop.create_future()

    async def _do(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        work = _Work(self._new_future(), run)
        self._queue.put(work)
        return cast(_T, await work.future)

    async def _read(self, sql: str, *parameters: object) -> list[Any]:
        if self._reader is None:
            raise InboxUnavailable("the store is not open")
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._read_now, sql, parameters)

    def _read_now(self, sql: str, parameters: tuple[object, ...]) -> list[Any]:
        try:
            if self._read_connection is None:
                self._read_connection = self._connect()
            return self._read_connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise InboxUnavailable(f"cannot read the store: {error}") from error

    def _resolve(self, done: list[tuple[_Put | _Work, Any]]) -> None:
        sinks: set[str] = set()
        for work, result in done:
            if isinstance(work, _Put):
                self._pending -= 1
                self._pending_bytes -= len(work.arrival.receipt.body)
                if isinstance(result, Verdict) and result.accepted:
                    for entry in work.arrival.receipt.entries:
                        sinks.update(entry.sinks)
            if work.future.done():
                continue
            if isinstance(result, BaseException):
                work.future.set_exception(result)
                # Whoever waited may be gone; that is no reason for a warning of the event loop.
                work.future.exception()
            else:
                work.future.set_result(result)
        if sinks:
            self._listener(sinks)

    # The writer's side

    def _write(self, connection: sqlite3.Connection) -> None:
        assert self._loop is not None
        closing = False
        while not closing:
            batch: list[_Put | _Work] = []
            item = self._queue.get()
            try:
                while item is not None:
                    batch.append(item)
                    item = self._queue.get_nowait()
                closing = True
            except queue.Empty:
                pass
            if batch:
                done = self._commit(connection, batch)
                try:
                    self._loop.call_soon_threadsafe(self._resolve, done)
                except RuntimeError:
                    # The loop was closed under us: everything is on disk, and nobody is left to be told.
                    closing = True
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
        log.error("store_failed", error=f"{type(error).__name__}: {error}", works=len(batch))
        failure = InboxUnavailable(f"the store cannot write: {error}")
        failure.__cause__ = error
        return [(work, failure) for work in batch]

    def _transact(self, connection: sqlite3.Connection, batch: list[_Put | _Work]) -> list[tuple[_Put | _Work, Any]]:
        with _transaction(connection):
            puts = [work for work in batch if isinstance(work, _Put)]
            done: list[tuple[_Put | _Work, Any]] = []
            if puts:
                done += zip(puts, queries.put(connection, [work.arrival for work in puts]), strict=True)
            done += [(work, work.run(connection)) for work in batch if isinstance(work, _Work)]
        return done


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
        ConfigError: Some are missing and ``apply`` is false.
    """
    with _transaction(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        applied = {number for (number,) in connection.execute("SELECT number FROM migrations")}
        missing = [migration for migration in load_migrations("sqlite") if migration.number not in applied]
        if missing and not apply:
            names = ", ".join(migration.name for migration in missing)
            raise ConfigError([f"store: migrations are missing ({names}); run `media-callbacks migrate`"])
        for migration in missing:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.number, migration.name))
    return [f"{migration.number:03d}_{migration.name}" for migration in missing]


def _statements(script: str) -> Iterable[str]:
    # executescript would commit our transaction first.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


_RECEIPT_COLUMNS = "id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids"


def _receipt_record(row: Sequence[Any]) -> ReceiptRecord:
    row_id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids = row
    return ReceiptRecord(
        id=row_id,
        received_at=queries.from_milliseconds(received_at),
        source=source,
        product=product,
        transport=transport,
        verified_by=verified_by,
        state=state,
        reason=reason,
        warnings=tuple(json.loads(warnings)) if warnings else (),
        event_ids=tuple(event_ids.split()) if event_ids else (),
    )
