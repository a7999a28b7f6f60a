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
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import structlog

from service.errors import ConfigError, InboxUnavailable
from service.events import OUTCOMES, Delivery, Event, event_id, key_digest, parse_event_id
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
# More rows per statement cost the writer more processor time each (measured: 8 against 16 and 32). Fewer mean more
# releases of the interpreter lock; below 8 there is no clear measurement.
_ROWS_PER_INSERT = 8
_KEYS_PER_SELECT = 32

_T = TypeVar("_T")

log = structlog.get_logger()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _datetime(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@dataclass(slots=True)
class _Work:
    """Something for the writer: ``run`` gets the connection inside a transaction."""

    future: "asyncio.Future[Any]"
    run: Callable[[sqlite3.Connection], Any]


@dataclass(slots=True)
class _Arrival:
    """
    A receipt with what the database needs of it.

    Attributes:
        at: When its events count as accepted, in milliseconds.
        bodies: Of its events, in JSON.
    """

    receipt: Receipt
    at: int
    bodies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.bodies = tuple([entry.event.to_json().decode() for entry in self.receipt.entries])


@dataclass(slots=True)
class _Put:
    """A receipt for the writer."""

    future: "asyncio.Future[Verdict]"
    arrival: _Arrival


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
        work = _Put(self._new_future(), _Arrival(receipt, _milliseconds(receipt.received_at)))
        self._pending += 1
        self._pending_bytes += size
        self._queue.put(work)
        return await work.future

    async def claim(self, sink: str, *, limit: int, now: datetime, lease_s: float) -> Sequence[Delivery]:
        now_ms, lease = _milliseconds(now), secrets.token_hex(8)
        until_ms = now_ms + int(lease_s * 1000)
        return await self._do(lambda c: _claim(c, sink, limit=limit, now=now_ms, until=until_ms, lease=lease))

    async def record(self, results: Sequence[AttemptResult], *, now: datetime) -> Sequence[bool]:
        now_ms = _milliseconds(now)
        kept, released = await self._do(lambda c: _record(c, results, now_ms))
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
            StoredReceipt(row_id, source, verified_by, _datetime(received_at), body, json.loads(meta) if meta else {})
            for row_id, source, verified_by, received_at, body, meta in rows
        ]

    async def reparse(self, receipt_id: int, receipt: Receipt, *, now: datetime, dry_run: bool) -> Reparsed:
        arrival = _Arrival(receipt, _milliseconds(now))
        return await self._do(lambda c: _reparse(c, receipt_id, arrival, dry_run=dry_run))

    async def next_due_at(self, sink: str) -> datetime | None:
        row = await self._read("SELECT min(due_at) FROM deliveries WHERE sink = ? AND due_at IS NOT NULL", sink)
        return None if row[0][0] is None else _datetime(row[0][0])

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
            accepted_at=_datetime(accepted_at),
            body=None if body is None else body.encode(),
            receipts=tuple(map(_receipt_record, receipts)),
            deliveries=tuple(
                DeliveryRecord(
                    sink=sink,
                    replay=replay,
                    state=state,
                    attempts=attempts,
                    due_at=None if due_at is None else _datetime(due_at),
                    changed_at=_datetime(changed_at),
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
            ("received_at >= ?", None if since is None else _milliseconds(since)),
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
                done += zip(puts, _put(connection, [work.arrival for work in puts]), strict=True)
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
        received_at=_datetime(received_at),
        source=source,
        product=product,
        transport=transport,
        verified_by=verified_by,
        state=state,
        reason=reason,
        warnings=tuple(json.loads(warnings)) if warnings else (),
        event_ids=tuple(event_ids.split()) if event_ids else (),
    )


# Queries. Each takes the connection inside a transaction of the writer.


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


@dataclass(slots=True)
class _Candidate:
    """An event that a receipt brings, new or not."""

    arrival: _Arrival
    receipt_id: int
    event: Event
    body: str
    digest: bytes
    outcome: int
    sinks: tuple[str, ...]


def _put(connection: sqlite3.Connection, arrivals: Sequence[_Arrival]) -> list[Verdict]:
    """Receipts, their events, and the deliveries of the events that are new."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'receipts'").fetchone()
    first_id = (row[0] if row else 0) + 1
    candidates, conflicts = _collect(connection, arrivals, first_id)
    accepted, repeated = _insert_events(connection, candidates)

    accepted_by_receipt: dict[int, list[Event]] = {}
    for candidate, _, event in accepted:
        accepted_by_receipt.setdefault(candidate.receipt_id, []).append(event)
    verdicts = []
    for receipt_id, arrival in enumerate(arrivals, first_id):
        events = accepted_by_receipt.get(receipt_id)
        state = _state(arrival, has_events=events is not None, conflict=conflicts.get(receipt_id))
        verdicts.append(Verdict(state, tuple(events) if events else ()))
    _insert_receipts(connection, arrivals, verdicts, conflicts, first_id)
    _note_repeated(connection, repeated)
    _insert_deliveries(connection, accepted)
    return verdicts


def _collect(
    connection: sqlite3.Connection, arrivals: Sequence[_Arrival], first_id: int
) -> tuple[list[_Candidate], dict[int, str]]:
    """
    The events of receipts, apart from those whose key is bound to something else.

    Returns:
        The events; and what to say of each receipt, by its id, whose event was left out.
    """
    candidates: list[_Candidate] = []
    conflicts: dict[int, str] = {}
    for receipt_id, arrival in enumerate(arrivals, first_id):
        for entry, body in zip(arrival.receipt.entries, arrival.bodies, strict=True):
            event = entry.event
            digest = key_digest(event.id)
            if entry.binding is not None:
                bound = _bind(connection, digest, entry.binding)
                if bound != entry.binding:
                    conflicts[receipt_id] = f"the key is bound to {bound[:64]}, this receipt says {entry.binding[:64]}"
                    continue
            outcome = OUTCOMES.index(event.data.outcome)
            candidates.append(_Candidate(arrival, receipt_id, event, body, digest, outcome, entry.sinks))
    return candidates, conflicts


def _state(arrival: _Arrival, *, has_events: bool, conflict: str | None) -> ReceiptState:
    if has_events:
        return "accepted"
    if conflict is not None:
        return "conflict"
    return "duplicate" if arrival.receipt.entries else "unparsed"


def _bind(connection: sqlite3.Connection, digest: bytes, value: str) -> str:
    """The value that the key is bound to: this one, unless there was one before."""
    connection.execute("INSERT INTO bindings VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, value))
    return cast(str, connection.execute("SELECT value FROM bindings WHERE key_digest = ?", (digest,)).fetchone()[0])


def _insert_events(
    connection: sqlite3.Connection, candidates: Sequence[_Candidate]
) -> tuple[list[tuple[_Candidate, int, Event]], list[_Candidate]]:
    """
    Insert what is new under its key and outcome.

    Returns:
        The new ones with their row id and with the revision they got; and the others.
    """
    accepted: list[tuple[_Candidate, int, Event]] = []
    repeated: list[_Candidate] = []
    rows: list[tuple[object, ...]] = []
    outcomes_by_key = _outcomes(connection, [candidate.digest for candidate in candidates])
    (row_id,) = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
    for candidate in candidates:
        outcomes = outcomes_by_key.setdefault(candidate.digest, set())
        if candidate.outcome in outcomes:
            repeated.append(candidate)
            continue
        outcomes.add(candidate.outcome)
        event, body, revision = candidate.event, candidate.body, len(outcomes)
        if revision > 1:
            event = event.with_revision(revision)
            body = event.to_json().decode()
        row_id += 1
        data = event.data
        rows.append(
            (
                row_id,
                candidate.digest,
                candidate.outcome,
                revision,
                candidate.receipt_id,
                candidate.arrival.at,
                data.product,
                data.kind,
                data.job_id,
                data.media_id,
                body,
            )
        )
        accepted.append((candidate, row_id, event))
    _insert(
        connection,
        "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id,"
        " media_id, body)",
        "(?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
    return accepted, repeated


def _outcomes(connection: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, set[int]]:
    """The outcomes known of each key; keys without any are left out. True until the transaction ends."""
    found: dict[bytes, set[int]] = {}
    for start in range(0, len(digests), _KEYS_PER_SELECT):
        chunk = digests[start : start + _KEYS_PER_SELECT]
        marks = ",".join("?" * len(chunk))
        sql = f"SELECT key_digest, outcome FROM events WHERE key_digest IN ({marks})"
        for digest, outcome in connection.execute(sql, chunk):
            found.setdefault(digest, set()).add(outcome)
    return found


def _insert_receipts(
    connection: sqlite3.Connection,
    arrivals: Sequence[_Arrival],
    verdicts: Sequence[Verdict],
    conflicts: Mapping[int, str],
    first_id: int,
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
                conflicts.get(receipt_id, receipt.reason),
                _dump(receipt.warnings),
                _dump(dict(receipt.meta)),
                receipt.parser_version,
                _event_ids(receipt),
                receipt.body,
            )
        )
    _insert(
        connection,
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, warnings,"
        " meta, parser, event_ids, body)",
        "(?,?,?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )


def _event_ids(receipt: Receipt) -> str | None:
    return " ".join([entry.event.id for entry in receipt.entries]) or None


def _dump(value: Sequence[str] | Mapping[str, str]) -> str | None:
    return json.dumps(value) if value else None


def _note_repeated(connection: sqlite3.Connection, repeated: Sequence[_Candidate]) -> None:
    """Link receipts to the events that they brought again."""
    if repeated:
        connection.executemany(
            "INSERT OR IGNORE INTO event_receipts"
            " SELECT id, ?1 FROM events WHERE key_digest = ?2 AND outcome = ?3 AND receipt_id <> ?1",
            [(candidate.receipt_id, candidate.digest, candidate.outcome) for candidate in repeated],
        )


def _insert_deliveries(connection: sqlite3.Connection, accepted: Sequence[tuple[_Candidate, int, Event]]) -> None:
    first: list[tuple[object, ...]] = []
    further: list[tuple[_Candidate, int]] = []
    for candidate, row_id, event in accepted:
        if event.data.revision == 1:
            at = candidate.arrival.at
            first += [(row_id, sink, at, at) for sink in candidate.sinks]
        else:
            further.append((candidate, row_id))
    head = "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)"
    _insert(connection, head, "(?,?,0,'pending',?,0,?)", first)
    # Only now, one after the other: what holds a further outcome back may be in this very batch.
    for candidate, row_id in further:
        at = candidate.arrival.at
        for sink in candidate.sinks:
            due_at = None if _has_earlier(connection, candidate.digest, row_id, sink) else at
            connection.execute(f"{head} VALUES (?,?,0,'pending',?,0,?)", (row_id, sink, due_at, at))


def _reparse(connection: sqlite3.Connection, receipt_id: int, arrival: _Arrival, *, dry_run: bool) -> Reparsed:
    """Give a kept receipt its present meaning; in a dry run everything is taken back."""
    connection.execute("SAVEPOINT reparse")
    candidates, conflicts = _collect(connection, [arrival], receipt_id)
    accepted, repeated = _insert_events(connection, candidates)
    changed = [candidate.event.id for candidate in repeated if _update_event(connection, candidate)]
    brought = connection.execute("SELECT 1 FROM events WHERE receipt_id = ?", (receipt_id,)).fetchone() is not None
    state = _state(arrival, has_events=brought, conflict=conflicts.get(receipt_id))
    receipt = arrival.receipt
    connection.execute(
        "UPDATE receipts SET state = ?, reason = ?, warnings = ?, parser = ?, event_ids = ? WHERE id = ?",
        (
            state,
            conflicts.get(receipt_id, receipt.reason),
            _dump(receipt.warnings),
            receipt.parser_version,
            _event_ids(receipt),
            receipt_id,
        ),
    )
    _note_repeated(connection, repeated)
    _insert_deliveries(connection, accepted)
    if dry_run:
        connection.execute("ROLLBACK TO reparse")
    connection.execute("RELEASE reparse")
    return Reparsed(state, tuple(event.id for _, _, event in accepted), tuple(changed))


def _update_event(connection: sqlite3.Connection, candidate: _Candidate) -> bool:
    """Put the present content into an event that this receipt brought. False where it is the same, or not its."""
    row = connection.execute(
        "SELECT id, revision, body FROM events WHERE key_digest = ? AND outcome = ? AND receipt_id = ?",
        (candidate.digest, candidate.outcome, candidate.receipt_id),
    ).fetchone()
    if row is None:
        return False
    row_id, revision, body = row
    data = candidate.event.data
    new_body = candidate.event.with_revision(revision).to_json().decode()
    if new_body == body:
        return False
    connection.execute(
        "UPDATE events SET body = ?, kind = ?, job_id = ?, media_id = ? WHERE id = ?",
        (new_body, data.kind, data.job_id, data.media_id, row_id),
    )
    return True


def _has_earlier(connection: sqlite3.Connection, digest: bytes, row_id: int, sink: str) -> bool:
    """Whether an earlier outcome of the job is still on its way to the sink."""
    return (
        connection.execute(
            "SELECT 1 FROM events e JOIN deliveries d ON d.event_id = e.id AND d.sink = ? AND d.replay = 0"
            " WHERE e.key_digest = ? AND e.id < ? AND d.state IN ('pending', 'retrying', 'parked')",
            (sink, digest, row_id),
        ).fetchone()
        is not None
    )


def _claim(
    connection: sqlite3.Connection, sink: str, *, limit: int, now: int, until: int, lease: str
) -> list[Delivery]:
    rows = connection.execute(
        "SELECT d.event_id, d.replay, d.attempts, e.key_digest, e.outcome, e.body FROM deliveries d"
        " JOIN events e ON e.id = d.event_id WHERE d.sink = ? AND d.due_at <= ?"
        " ORDER BY d.due_at, d.event_id LIMIT ?",
        (sink, now, limit),
    ).fetchall()
    connection.executemany(
        "UPDATE deliveries SET due_at = ?, lease = ? WHERE event_id = ? AND sink = ? AND replay = ?",
        [(until, lease, row[0], sink, row[1]) for row in rows],
    )
    return [
        Delivery(
            row_id=row_id,
            sink=sink,
            event_id=event_id(digest, OUTCOMES[outcome]),
            body=body.encode(),
            attempt=attempts + 1,
            lease=lease,
            replay=replay,
        )
        for row_id, replay, attempts, digest, outcome, body in rows
    ]


def _record(connection: sqlite3.Connection, results: Sequence[AttemptResult], now: int) -> tuple[list[bool], set[str]]:
    """Returns which results still held their lease, and the sinks where a later outcome may go now."""
    kept = []
    ended: list[AttemptResult] = []
    for result in results:
        delivery = result.delivery
        due_at = None
        if result.state in ("pending", "retrying"):
            due_at = now if result.due_at is None else _milliseconds(result.due_at)
        counted = 0 if result.state == "pending" else 1
        cursor = connection.execute(
            # A delivery given back is what it was before: pending, or retrying after earlier attempts.
            "UPDATE deliveries SET state = CASE WHEN ? = 'pending' THEN state ELSE ? END, due_at = ?, lease = NULL,"
            " attempts = attempts + ?, changed_at = ?, error = CASE WHEN ? = 'pending' THEN error ELSE ? END"
            " WHERE event_id = ? AND sink = ? AND replay = ? AND lease = ?",
            (
                result.state,
                result.state,
                due_at,
                counted,
                now,
                result.state,
                result.error,
                delivery.row_id,
                delivery.sink,
                delivery.replay,
                delivery.lease,
            ),
        )
        kept.append(cursor.rowcount == 1)
        if cursor.rowcount == 1 and result.state in ("delivered", "dead") and delivery.replay == 0:
            ended.append(result)
    return kept, _release_held(connection, ended, now)


def _release_held(connection: sqlite3.Connection, ended: Sequence[AttemptResult], now: int) -> set[str]:
    """Let the next outcome of each ended job go, where one waits."""
    released = set()
    for sink in {result.delivery.sink for result in ended}:
        if connection.execute(
            "SELECT 1 FROM deliveries WHERE due_at IS NULL AND state <> 'delivered' AND state = 'pending' AND sink = ?"
            " LIMIT 1",
            (sink,),
        ).fetchone():
            cursor = connection.executemany(
                "UPDATE deliveries SET due_at = ?"
                " WHERE sink = ? AND replay = 0 AND state = 'pending' AND due_at IS NULL"
                " AND event_id = (SELECT min(later.id) FROM events ended JOIN events later"
                " ON later.key_digest = ended.key_digest AND later.id > ended.id"
                " JOIN deliveries d ON d.event_id = later.id AND d.sink = ? AND d.replay = 0"
                " WHERE ended.id = ? AND d.state = 'pending')",
                [(now, sink, sink, result.delivery.row_id) for result in ended if result.delivery.sink == sink],
            )
            if cursor.rowcount:
                released.add(sink)
    return released
