"""
Stores as a service of a month leaves them: outcomes, kinds, media ids and user data as they come, one event in two
hundred given up, one in a thousand waiting for a sink that is paused, one receipt in a thousand not understood.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import asyncpg

from media_callbacks.inbox.factory import build_inbox
from tests.exercises.bench.compare import progress
from tests.exercises.bench.filling import POSTGRESQL_SERIES, SQLITE_KEYS, SQLITE_NAMES, SQLITE_SERIES, put_first

PAUSED = "bus"
"""The second sink of each event."""
AGE = timedelta(days=30)
# Of more events only these have their payloads yet, as where these are kept for a month and keys for longer.
WITH_PAYLOADS = 5_000_000
# Rows of a transaction.
_STEP = 100_000
_PARTITIONS = 16

# A clone of row 1 under other keys, and otherwise as rows differ from each other. {at} is when row c.id came.
_CLONES = (
    "CREATE TEMPORARY TABLE clones AS {series}",
    (
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, warnings, meta,"
        " parser, event_ids, body, stored_at)"
        " SELECT c.id, {at}, source, product, transport, verified_by,"
        " CASE WHEN c.id % 1000 = 1 THEN 'unparsed' ELSE state END, reason, warnings, meta, parser,"
        " CASE WHEN c.id % 1000 = 1 THEN NULL ELSE 'evt_' || {hex} || '00' END, body, {at}"
        " FROM clones c, receipts r WHERE r.id = 1 ORDER BY c.id"
    ),
    (
        "INSERT INTO event_bodies (event_id, body) SELECT c.id, replace(replace(replace(body, '{event_id}',"
        " 'evt_' || {hex} || '00'), '{job_id}', {hex}), '\"user_data\":null', CASE WHEN c.id % 2 = 0"
        " THEN '\"user_data\":\"order ' || c.id || '\"' ELSE '\"user_data\":null' END)"
        " FROM clones c, event_bodies b WHERE b.event_id = 1 ORDER BY c.id"
    ),
    (
        "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, lease, changed_at, error)"
        " SELECT c.id, sink, replay,"
        " CASE WHEN sink = 'bus' AND c.id % 200 = 5 THEN 'dead' WHEN sink = 'bus' AND c.id % 1000 = 7 THEN 'pending'"
        " WHEN sink = 'bus' AND c.id % 20000 = 9 THEN 'retrying' ELSE state END,"
        " CASE WHEN sink = 'bus' AND (c.id % 1000 = 7 OR c.id % 20000 = 9) THEN {at} END, attempts, NULL, {at} + 250,"
        " CASE WHEN sink = 'bus' AND c.id % 200 = 5 THEN 'answered HTTP 503' END"
        " FROM clones c, deliveries d WHERE d.event_id = 1 ORDER BY c.id, sink"
    ),
    (
        "INSERT INTO attempts (event_id, sink, replay, started_at, number, duration_ms, result, error)"
        " SELECT c.id, sink, replay, {at} + 200, number, duration_ms, result, error"
        " FROM clones c, attempts a WHERE a.event_id = 1 ORDER BY c.id, sink"
    ),
    (
        "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id, media_id,"
        " is_routed)"
        " SELECT c.id, c.digest, CASE WHEN c.id % 50 = 3 THEN 1 ELSE outcome END, revision, c.id, {at}, product,"
        " CASE WHEN c.id % 40000 = 11 THEN 'upload' WHEN c.id % 10 = 4 THEN 'transcode' ELSE kind END, {hex},"
        " 'media-' || ((c.id / 3) * 2654435761 % 4294967296), CASE WHEN c.id % 50000 = 13 THEN {false} ELSE is_routed END"
        " FROM clones c, events e WHERE e.id = 1 ORDER BY c.id"
    ),
    (
        "INSERT INTO jobs (key_digest, product, account, family, job_id, user_data, registered_at, deadline_at, state,"
        " ended_at, transport, outcome, attempts)"
        " SELECT digest, 'vod', 'default', 'animated_image', {hex}, 'order ' || id, {at} - 60000, {at} + 3600000,"
        " CASE WHEN id % 100000 = 20 THEN 'expected' ELSE 'completed' END,"
        " CASE WHEN id % 100000 <> 20 THEN {at} END, CASE WHEN id % 100000 <> 20 THEN 'http' END,"
        " CASE WHEN id % 100000 <> 20 THEN 'succeeded' END, 0 FROM clones c WHERE id % 10 = 0 ORDER BY id"
    ),
)
_WITHOUT_PAYLOADS = ("CREATE", "INSERT INTO events", "INSERT INTO jobs")


def _statements(
    series: str, digits: str, first: tuple[str, str], count: int, false: str, *, has_payloads: bool
) -> list[str]:
    start_ms = int((time.time() - AGE.total_seconds()) * 1000)
    event_id, job_id = first
    at = f"({start_ms} + c.id * {AGE.total_seconds() * 1000 / count:.6f})"
    at = f"CAST({at} AS bigint)"
    values = {"series": series, "hex": digits, "event_id": event_id, "job_id": job_id, "at": at, "false": false}
    return [
        statement.format(**values) for statement in _CLONES if has_payloads or statement.startswith(_WITHOUT_PAYLOADS)
    ]


def _steps(count: int) -> Iterator[tuple[int, int, bool]]:
    """The first and the last row of each transaction, and whether these have payloads."""
    for begin in range(2, count + 1, _STEP):
        end = min(begin + _STEP - 1, count)
        yield begin, end, end > count - WITH_PAYLOADS


async def fill_sqlite(url: str, count: int, sink: str) -> None:
    """A new store with ``count`` events, nearly all of them delivered to ``sink``."""
    path = Path(url.removeprefix("sqlite:///"))
    first = await put_first(url, (sink, PAUSED), is_delivered=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nobody needs it when this machine fails. The service goes back to WAL when it opens the file.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        for begin, end, has_payloads in _steps(count):
            connection.execute("BEGIN")
            series, digits = SQLITE_SERIES.format(begin=begin, end=end), "lower(hex(c.digest))"
            statements = _statements(series, digits, first, count, "0", has_payloads=has_payloads)
            for statement in (*statements, *SQLITE_KEYS, *SQLITE_NAMES):
                connection.execute(statement)
            connection.execute("DROP TABLE clones")
            connection.execute("COMMIT")
        _set_paused(connection)
    await _summarise(url, count)
    os.sync()


def _set_paused(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO sinks VALUES (?, 'paused', NULL, NULL, 0)", (PAUSED,))


async def fill_postgresql(url: str, count: int, sink: str) -> None:
    """As above."""
    first = await put_first(url, (sink, PAUSED), is_delivered=True)
    connection = await asyncpg.connect(url)
    try:
        await _partition(connection, count)
        for begin, end, has_payloads in _steps(count):
            series, digits = POSTGRESQL_SERIES.format(begin=begin, end=end), "encode(c.digest, 'hex')"
            async with connection.transaction():
                for statement in _statements(series, digits, first, count, "false", has_payloads=has_payloads):
                    await connection.execute(statement)
                await connection.execute("DROP TABLE clones")
        for table in ("receipts", "events"):
            await connection.execute(f"SELECT setval('{table}_id_seq', {count})")
        await connection.execute("INSERT INTO sinks VALUES ($1, 'paused', NULL, NULL, 0)", PAUSED)
        for statement in ("VACUUM (ANALYZE)", "CHECKPOINT"):
            await connection.execute(statement)
    finally:
        await connection.close()
    await _summarise(url, count)


async def _summarise(url: str, count: int) -> None:
    """As services do every few seconds, until there is nothing left to do."""
    inbox = build_inbox(url)
    await inbox.open()
    started = time.monotonic()
    try:
        # More than there are steps; without the method, an older version is measured.
        for _ in range(count // 20_000 + 10) if hasattr(inbox, "summarise") else ():
            await inbox.summarise()
    finally:
        await inbox.close()
    progress(f"summarised in {time.monotonic() - started:.1f} s")


async def _partition(connection: asyncpg.Connection, count: int) -> None:
    """As it would be done while so many come, and a few ahead. The first row is where those that stay are."""
    width = max(count // _PARTITIONS, 1) + 4095 >> 12 << 12
    for kind, tables in (("receipts", ["receipts"]), ("events", ["event_bodies", "attempts"])):
        await connection.execute("UPDATE partitions SET closed_at = 0 WHERE kind = $1", kind)
        await connection.execute("SELECT drop_partition_1($1, 0, 1, '{1}')", kind)
        await connection.execute("DELETE FROM partitions WHERE kind = $1", kind)
        for start in range(4096, count + 3 * width, width):
            for table in tables:
                await connection.execute(f"CREATE TABLE {table}_{start} (LIKE {table} INCLUDING DEFAULTS)")
                bounds = f"FROM ({start}) TO ({start + width})"
                await connection.execute(f"ALTER TABLE {table} ATTACH PARTITION {table}_{start} FOR VALUES {bounds}")
            await connection.execute("INSERT INTO partitions VALUES ($1, $2, $3)", kind, start, start + width)
