"""
Stores that are full before a measurement begins: one event that went the normal way, cloned within the database under
other keys, with its receipt and its deliveries.
"""

import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from media_callbacks.inbox.factory import build_inbox
from media_callbacks.inbox.records import AttemptResult
from media_callbacks.inbox.sqlite.names import note_names
from tests.exercises.bench.callbacks import first_receipt
from tests.exercises.bench.load import InvalidRun

# Statements for both databases; what differs between them is put in, or is below. A clone of row i has the ids of row
# i: all tables were empty but for the first event. Its digest, and so its public id, is random.
_CLONES = (
    "CREATE TEMPORARY TABLE clones AS {series}",
    (
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, warnings, meta,"
        " parser, event_ids, body)"
        " SELECT c.id, received_at, source, product, transport, verified_by, state, reason, warnings, meta, parser,"
        " 'evt_' || {hex} || '00', body FROM clones c, receipts r WHERE r.id = {first} ORDER BY c.id"
    ),
    (
        "INSERT INTO event_bodies (event_id, body) SELECT c.id,"
        " replace(replace(body, '{event_id}', 'evt_' || {hex} || '00'), '{job_id}', {hex})"
        " FROM clones c, event_bodies b WHERE b.event_id = {first} ORDER BY c.id"
    ),
    (
        "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, lease, changed_at, error)"
        " SELECT c.id, sink, replay, state, due_at, attempts, lease, changed_at, error"
        " FROM clones c, deliveries d WHERE d.event_id = {first} ORDER BY c.id, sink"
    ),
    (
        "INSERT INTO attempts (event_id, sink, replay, started_at, number, duration_ms, result, error)"
        " SELECT c.id, sink, replay, started_at, number, duration_ms, result, error"
        " FROM clones c, attempts a WHERE a.event_id = {first} ORDER BY c.id, sink"
    ),
    (
        "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id, media_id,"
        " is_routed)"
        " SELECT c.id, c.digest, outcome, revision, c.id, accepted_at, product, kind, {hex}, media_id, is_routed"
        " FROM clones c, events e WHERE e.id = {first} ORDER BY c.id"
    ),
    "DROP TABLE clones",
)
SQLITE_KEYS = (
    (
        "INSERT OR IGNORE INTO event_keys SELECT key_digest, outcome, id FROM events"
        " WHERE id > (SELECT last_event_id FROM keys_moved) ORDER BY key_digest, outcome"
    ),
    "UPDATE keys_moved SET last_event_id = (SELECT max(id) FROM events)",
)
SQLITE_NAMES = (
    *note_names("{} > (SELECT last_event_id FROM names_noted)"),
    "UPDATE names_noted SET last_event_id = (SELECT max(id) FROM events)",
)
SQLITE_SERIES = (
    "WITH RECURSIVE numbers (id) AS (SELECT {begin} UNION ALL SELECT id + 1 FROM numbers WHERE id < {end})"
    " SELECT id, randomblob(16) AS digest FROM numbers"
)
POSTGRESQL_SERIES = (
    "SELECT id, decode(md5(random()::text || id), 'hex') AS digest FROM generate_series({begin}, {end}) AS id"
)
# Rows of a transaction, so that a log of changes stays small.
_STEP = 250_000


async def put_first(url: str, sinks: Sequence[str], *, is_delivered: bool = False) -> tuple[str, str]:
    """Accept one event in a new store, and deliver it where asked for. Returns its id and its job's."""
    inbox = build_inbox(url)
    await inbox.open()
    try:
        now = datetime.now(UTC)
        verdict = await inbox.put(first_receipt(now, sinks, job_id=secrets.token_hex(16)))
        for sink in sinks if is_delivered else ():
            deliveries = await inbox.claim(sink, limit=1, max_bytes=1 << 20, lease_s=30)
            await inbox.record([AttemptResult(d, "delivered", started_at=now) for d in deliveries])
        (event,) = verdict.accepted
        return event.id, str(event.data.job_id)
    finally:
        await inbox.close()


async def fill_sqlite(path: Path, count: int, sinks: Sequence[str], *, is_delivered: bool = False) -> None:
    """A new store with ``count`` events, waiting for all of ``sinks`` or delivered there."""
    event_id, job_id = await put_first(f"sqlite:///{path}", sinks, is_delivered=is_delivered)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nobody needs it when this machine fails. The service goes back to WAL when it opens the file.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        for begin in range(2, count + 1, _STEP):
            end = min(begin + _STEP - 1, count)
            connection.execute("BEGIN")
            series = SQLITE_SERIES.format(begin=begin, end=end)
            for statement in _CLONES:
                connection.execute(_build(statement, series, "lower(hex(c.digest))", event_id, job_id))
            for statement in (*SQLITE_KEYS, *SQLITE_NAMES):
                connection.execute(statement)
            connection.execute("COMMIT")
    if (found := count_sqlite(path, "SELECT count(*) FROM events")) != count:
        raise InvalidRun(f"expected a store filled with {count} events, found {found}")
    # Else the disk would still be busy with it during what is measured.
    with path.open("rb") as file:
        os.fsync(file.fileno())


async def fill_postgresql(url: str, count: int, sinks: Sequence[str], *, is_delivered: bool = False) -> None:
    """As above."""
    event_id, job_id = await put_first(url, sinks, is_delivered=is_delivered)
    connection = await asyncpg.connect(url)
    try:
        for begin in range(2, count + 1, _STEP):
            end = min(begin + _STEP - 1, count)
            series = POSTGRESQL_SERIES.format(begin=begin, end=end)
            async with connection.transaction():
                for statement in _CLONES:
                    await connection.execute(_build(statement, series, "encode(c.digest, 'hex')", event_id, job_id))
        for table in ("receipts", "events"):
            await connection.execute(f"SELECT setval('{table}_id_seq', {count})")
        for statement in ("VACUUM (ANALYZE)", "CHECKPOINT"):
            await connection.execute(statement)
        if (found := await connection.fetchval("SELECT count(*) FROM events")) != count:
            raise InvalidRun(f"expected a store filled with {count} events, found {found}")
    finally:
        await connection.close()


def add_waiting(path: Path, count: int, first: tuple[str, str]) -> None:
    """More clones in a store that a service is using, due at once; nobody is told."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        (last,) = connection.execute("SELECT max(id) FROM events").fetchone()
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        series = SQLITE_SERIES.format(begin=last + 1, end=last + count)
        connection.execute("BEGIN IMMEDIATE")
        for statement in _CLONES:
            if not statement.startswith("INSERT INTO attempts"):
                connection.execute(_build(statement, series, "lower(hex(c.digest))", *first))
        connection.execute(
            "UPDATE deliveries SET state = 'pending', due_at = ?, attempts = 0, lease = NULL WHERE event_id > ?",
            (now_ms, last),
        )
        connection.execute("COMMIT")


def _build(statement: str, series: str, digits: str, event_id: str, job_id: str) -> str:
    return statement.format(series=series, hex=digits, first=1, event_id=event_id, job_id=job_id)


def count_sqlite(path: Path, sql: str) -> int:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return int(connection.execute(sql).fetchone()[0])
