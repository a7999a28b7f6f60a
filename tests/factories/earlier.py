"""
The version before: its databases, and what its services do on PostgreSQL, where they call the functions of the
migrations that it knows.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.postgresql.functions import lock_of
from media_callbacks.model.events import Event

# The last migration that it knows.
RELEASED = 3
# Of its connections.
SETTINGS = {"jit": "off", "enable_seqscan": "off", "synchronous_commit": "on"}
# Rows of a transaction.
_STEP = 100_000
_REVISION = '"revision":1,'
# For both databases; what differs between them is put in.
_CLONES = (
    (
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, parser, event_ids, body,"
        " stored_at) SELECT n, {at}, 'vod', 'vod', 'http', 'signature', 'accepted', 1, 'evt_' || {hex} || '00', {bytes},"
        " {at} FROM clones"
    ),
    (
        "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id, media_id,"
        " is_routed) SELECT n, digest, 0, 1, n, {at}, 'vod', 'animated_image', {hex}, 'media-' || n / 3, {true}"
        " FROM clones"
    ),
    (
        "INSERT INTO event_bodies (event_id, body) SELECT n, replace(replace('{body}', '{event_id}',"
        """ 'evt_' || {hex} || '00'), '"user_data":null', CASE n % 2 WHEN 0 THEN '"user_data":"order ' || n || '"'"""
        """ ELSE '"user_data":null' END) FROM clones"""
    ),
    (
        "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at) SELECT n, sink, 0, state,"
        " CASE WHEN state IN ('pending', 'retrying') THEN {at} END, 1, {at} FROM (SELECT n, sink, CASE"
        " WHEN n % 100 = 7 THEN 'pending' WHEN n % 200 = 5 THEN 'dead' WHEN n % 1000 = 9 THEN 'retrying'"
        " ELSE 'delivered' END AS state FROM clones, (SELECT 'a' AS sink UNION ALL SELECT 'b') AS sinks) AS made"
    ),
    (
        "INSERT INTO jobs (key_digest, product, account, family, job_id, user_data, registered_at, deadline_at, state,"
        " ended_at) SELECT digest, 'vod', 'default', 'animated_image', {hex}, 'order ' || n, {at} - 60000,"
        " {at} + 3600000, 'completed', {at} FROM clones WHERE n % 10 = 0"
    ),
)
_POSTGRESQL_SERIES = (
    "SELECT n, decode(md5('a' || n) || md5('b' || n), 'hex') AS digest FROM generate_series({begin}, {end}) AS n"
)
_SQLITE_SERIES = (
    "WITH RECURSIVE numbers (n) AS (SELECT {begin} UNION ALL SELECT n + 1 FROM numbers WHERE n < {end})"
    " SELECT n, randomblob(32) AS digest FROM numbers"
)


async def make(connection: Any) -> None:
    """Its schema, in a new database."""
    await connection.execute("CREATE TABLE migrations (number integer PRIMARY KEY, name text NOT NULL)")
    for migration in load_migrations("postgresql"):
        if migration.number <= RELEASED:
            await connection.execute(migration.sql)
            await connection.execute("INSERT INTO migrations VALUES ($1, $2)", migration.number, migration.name)


def make_file(path: Path) -> None:
    """The same on SQLite."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        for migration in load_migrations("sqlite"):
            if migration.number <= RELEASED:
                connection.executescript(migration.sql)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.number, migration.name))


async def fill(connection: Any, event: Event, count: int, *, at: int) -> None:
    """
    Clones of an event without user data, and what was kept with each: of two sinks, ``a`` and ``b``, one delivery in a
    hundred waits, one in two hundred was given up and one in a thousand is tried again; every second has user data,
    every tenth a job that was expected.
    """
    words = {"hex": "encode(digest, 'hex')", "bytes": "convert_to(repeat('x', 700), 'UTF8')", "true": "true"}
    for statements in _clone(event, count, _POSTGRESQL_SERIES, at=at, **words):
        for sql in statements:
            await connection.execute(sql)
    for table in ("receipts", "events"):
        await connection.execute(f"SELECT setval('{table}_id_seq', {count})")


def fill_file(path: Path, event: Event, count: int, *, at: int) -> None:
    """The same on SQLite."""
    words = {"hex": "lower(hex(digest))", "bytes": "randomblob(700)", "true": "1"}
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statements in _clone(event, count, _SQLITE_SERIES, at=at, **words):
            for sql in ("BEGIN", *statements, "COMMIT"):
                connection.execute(sql)


def _clone(event: Event, count: int, series: str, *, at: int, **words: str) -> Iterator[Sequence[str]]:
    # Of the same type on both.
    words |= {"at": f"CAST({at} AS bigint)", "body": event.to_json().decode(), "event_id": event.id}
    for begin in range(1, count + 1, _STEP):
        clones = series.format(begin=begin, end=min(begin + _STEP - 1, count))
        yield [
            f"CREATE TEMPORARY TABLE clones AS {clones}",
            *(sql.format(**words) for sql in _CLONES),
            "DROP TABLE clones",
        ]


async def accept(
    connection: Any, bodies: Mapping[bytes, str], *, at: int, sinks: str, version: Literal[1, 2] = 2
) -> Sequence[str]:
    """
    Keep a receipt for each event.

    Args:
        bodies: Of the events, by the digest of the key.
        at: Milliseconds since 1970.
        sinks: Names, by blanks.
        version: Of the function.

    Returns:
        The states of the receipts.
    """
    digests, n = list(bodies), len(bodies)
    ids = [f"evt_{digest.hex()}00" for digest in digests]
    arguments: list[Any] = [sorted({lock_of(digest) for digest in digests}), [at] * n]
    arguments += [[word] * n for word in ("vod", "vod", "http", "signature")]
    arguments += [[None] * n] * 3 + [[1] * n, ids, [b"{}"] * n]
    arguments += [list(range(1, n + 1))] + ([[at] * n] if version == 1 else [])
    arguments += [digests, [0] * n, ["vod"] * n, ["animated_image"] * n, [one[-8:] for one in ids], ["media-1"] * n]
    arguments += [list(bodies.values()), [body.rindex(_REVISION) + len(_REVISION) - 1 for body in bodies.values()]]
    arguments += [[None] * n, [sinks] * n, ["http"] * n]
    if version == 2:
        arguments.insert(0, at)
    row = await _call(connection, f"accept_receipts_{version}", arguments)
    return list(row[0]["states"])


async def claim(connection: Any, sink: str, *, at: int, limit: int, version: Literal[1, 2] = 2) -> Sequence[Any]:
    """Lease what is due, for a minute. Rows have event_id and replay."""
    until = at + 60_000 if version == 1 else 60_000
    return await _call(connection, f"claim_deliveries_{version}", [sink, at, until, f"lease of {sink}", limit])


async def record(
    connection: Any, sink: str, claimed: Sequence[Any], state: str, *, at: int, version: Literal[1, 2] = 2
) -> None:
    """Write down what became of all that were claimed. What is to be tried again is due in an hour."""
    n = len(claimed)
    again = {"retrying": at + 3_600_000 if version == 1 else 3_600_000}.get(state)
    arguments = [
        at, [one["event_id"] for one in claimed], [sink] * n, [one["replay"] for one in claimed],
        [f"lease of {sink}"] * n, [state] * n, [again] * n, [None] * n, [at] * n, [5] * n, [1] * n,
    ]  # fmt: skip
    row = await _call(connection, f"record_attempts_{version}", arguments)
    assert len(row[0]["kept"] or ()) == n


async def _call(connection: Any, function: str, arguments: Sequence[Any]) -> Sequence[Any]:
    marks = ", ".join(f"${number}" for number in range(1, len(arguments) + 1))
    return list(await connection.fetch(f"SELECT * FROM {function}({marks})", *arguments))
