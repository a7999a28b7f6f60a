"""Migrations in steps, on PostgreSQL: beside those who use the tables, and after a crash between any two."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest

from media_callbacks.inbox.keeping.migrations import Migration, load_migrations
from media_callbacks.inbox.postgresql import migrating
from media_callbacks.inbox.postgresql.migrating import read_steps
from media_callbacks.inbox.postgresql.schema import migrate
from media_callbacks.model.errors import InboxUnavailable
from tests.factories.postgresql import execute
from tests.factories.running import PATIENCE_S

BEGINNING = """-- What this is for.
-- step: transaction
CREATE TABLE numbers (n bigint PRIMARY KEY);
INSERT INTO numbers SELECT generate_series(1, 10);
CREATE TABLE squares (n bigint);

-- step: batches
WITH batch AS (SELECT n FROM numbers WHERE n > $1 ORDER BY n LIMIT 4),
squared AS (INSERT INTO squares SELECT n * n FROM batch)
SELECT max(n) FROM batch HAVING count(*) = 4;

-- step: alone
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS squares_by_n
ON squares (n);
"""
WAITED_FOR = (
    "SELECT mode FROM pg_locks WHERE NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
Apply = Callable[[str], None]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Apply:
    """Let there be the first migration, and a second with this text."""
    monkeypatch.setattr(migrating, "_PAUSE_S", 0.01)

    def set_text(sql: str) -> None:
        migrations = [load_migrations("postgresql")[0], Migration(2, "stepped", sql)]
        monkeypatch.setattr(migrating, "load_migrations", lambda _: migrations)

    return set_text


async def begin_with_first(url: str) -> Any:
    """A connection to a database that has the first migration."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE migrations (number integer PRIMARY KEY, name text NOT NULL)")
    await connection.execute("INSERT INTO migrations VALUES (1, 'initial')")
    await connection.execute(load_migrations("postgresql")[0].sql)
    return connection


async def fetch(url: str, sql: str) -> Sequence[Any]:
    return [value for (value,) in await execute(url, sql)]


async def test_steps_are_run_in_order_and_leave_nothing_of_their_own(database_url: str, known: Apply) -> None:
    known(BEGINNING)
    told: list[str] = []
    assert await migrate(database_url, told.append) == ["001_initial", "002_stepped"]
    assert told == [], "a new database takes a moment"
    assert await fetch(database_url, "SELECT n FROM squares ORDER BY n") == [n * n for n in range(1, 11)]
    assert await fetch(database_url, "SELECT to_regclass('migration_steps')") == [None]
    assert await migrate(database_url) == []


async def test_what_was_done_is_not_done_again_after_a_crash(database_url: str, known: Apply) -> None:
    """The table can't be made twice, nor a square be inserted twice."""
    failing = BEGINNING.replace("n * n", "n * n + 0 / (n - 9)")
    for sql in (failing, BEGINNING + "\n-- step: transaction numbers\nINSERT INTO squares VALUES (7);\nSELECT 1/0;\n"):
        known(sql)
        with pytest.raises(InboxUnavailable, match="division by zero"):
            await migrate(database_url)
        assert await fetch(database_url, "SELECT max(number) FROM migrations") == [1]
    known(BEGINNING)
    told: list[str] = []
    assert await migrate(database_url, told.append) == ["002_stepped"]
    assert told == [], "nothing was left to do"
    squares = await fetch(database_url, "SELECT n FROM squares ORDER BY n")
    assert squares == [n * n for n in range(1, 11)]


async def test_an_index_that_was_left_half_made_is_made_again(database_url: str, known: Apply) -> None:
    twice = "\n-- step: transaction\nINSERT INTO squares VALUES (16);\n"
    known(BEGINNING.replace("\n-- step: alone", f"{twice}\n-- step: alone"))
    with pytest.raises(InboxUnavailable, match="could not create unique index"):
        await migrate(database_url)
    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'squares_by_n'::regclass"
    assert await fetch(database_url, is_valid) == [False]
    await execute(database_url, "DELETE FROM squares WHERE ctid IN (SELECT max(ctid) FROM squares WHERE n = 16)")
    assert await migrate(database_url) == ["002_stepped"]
    assert await fetch(database_url, is_valid) == [True]


async def test_how_far_it_is_is_told(database_url: str, known: Apply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "_TOLD_EVERY", 2)
    await (await begin_with_first(database_url)).close()
    known(BEGINNING)
    told: list[str] = []
    await migrate(database_url, told.append)
    assert told == [
        "002_stepped: step 1 of 3: CREATE TABLE numbers (n bigint PRIMARY KEY)",
        "002_stepped: step 2 of 3: WITH batch AS (SELECT n FROM numbers WHERE n > $1 ORDER BY n LIMIT 4),",
        "002_stepped: WITH batch AS (SELECT n FROM numbers WHERE n > $1 ORDER BY n LIMIT 4),: up to 8",
        "002_stepped: step 3 of 3: CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS squares_by_n",
    ]


async def test_a_vacuum_is_waited_for_as_long_as_it_takes_and_holds_up_nobody(database_url: str, known: Apply) -> None:
    """It would be in the way of the lock on the whole table, each time that this is asked for."""
    known("-- step: transaction receipts\nALTER TABLE receipts ADD COLUMN more text;\n")
    writer, vacuum = await begin_with_first(database_url), await asyncpg.connect(database_url)
    told: list[str] = []
    async with asyncio.timeout(PATIENCE_S), vacuum.transaction():
        await vacuum.execute("LOCK TABLE receipts IN SHARE UPDATE EXCLUSIVE MODE")
        migration = asyncio.create_task(migrate(database_url, told.append))
        while await fetch(database_url, WAITED_FOR) != ["ShareUpdateExclusiveLock"]:
            assert told == []
            await asyncio.sleep(0.01)
        await writer.execute("DELETE FROM receipts")
    assert await migration == ["002_stepped"]
    assert told == []
    await asyncio.gather(vacuum.close(), writer.close())


async def test_whoever_uses_a_table_is_waited_for_without_holding_up_the_others(
    database_url: str, known: Apply
) -> None:
    known("-- step: transaction receipts\nALTER TABLE receipts ADD COLUMN more text;\n")
    writer, reader = await begin_with_first(database_url), await asyncpg.connect(database_url)
    has_waited = asyncio.Event()

    def tell(text: str) -> None:
        if "somebody has a lock" in text:
            has_waited.set()

    async with asyncio.timeout(PATIENCE_S), reader.transaction():
        await reader.fetch("SELECT count(*) FROM receipts")
        migration = asyncio.create_task(migrate(database_url, tell))
        for _ in range(2):
            await has_waited.wait()
            has_waited.clear()
            # Though somebody waits for the whole table at times, who waits behind him gets on.
            await writer.execute("INSERT INTO heartbeat VALUES (1)")
            await writer.execute("DELETE FROM receipts")
    async with asyncio.timeout(PATIENCE_S):
        assert await migration == ["002_stepped"]
    await asyncio.gather(reader.close(), writer.close())


async def test_a_service_that_waits_for_another_one_does_not_hold_it_up(database_url: str, known: Apply) -> None:
    """An index is made when no older transaction is open any more."""
    known(BEGINNING)
    assert await asyncio.gather(*(migrate(database_url) for _ in range(3)))
    assert await fetch(database_url, "SELECT count(*) FROM squares") == [10]


def test_a_file_without_steps_is_one() -> None:
    first, *_, last = load_migrations("postgresql")
    (step,) = read_steps(first)
    assert (step.kind, step.sql) == ("transaction", first.sql)
    assert str(read_steps(last)[0]) == "CREATE TABLE erasures"
    assert {table for one in read_steps(last) for table in one.tables} == {
        "receipts", "event_bodies", "events", "jobs", "deliveries", "attempts",
    }  # fmt: skip
