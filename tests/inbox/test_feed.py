"""The feed on PostgreSQL, where transactions end in another order than they begin; and between stores."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest

from media_callbacks.inbox.copying.stores import copy_store
from media_callbacks.inbox.database import identity
from media_callbacks.inbox.records import FeedCursor, Place
from media_callbacks.model.errors import CursorGone
from media_callbacks.model.events import Event
from tests.factories.postgresql import execute
from tests.inbox.conformance import ids, make_event, make_receipt, put
from tests.inbox.conformance_feed import events_of, follow, ids_of, now, read
from tests.inbox.timed import TimedPostgresqlInbox, TimedSqliteInbox

# The server's own default fills in the transaction, as with services of earlier versions.
_INSERT = (
    "WITH e AS (INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id,"
    " media_id, is_routed) VALUES (nextval('events_id_seq'), $1, $2, 1, 0, 0, 'vod', 'animated_image', $3, 'm', true)"
    " RETURNING id) INSERT INTO event_bodies SELECT id, $4 FROM e"
)


async def insert(connection: Any, event: Event) -> None:
    digest, outcome = identity(event)
    await connection.execute(_INSERT, digest, outcome, event.data.job_id, event.to_json().decode())


@pytest.fixture
async def inbox(database_url: str) -> AsyncIterator[TimedPostgresqlInbox]:
    inbox = TimedPostgresqlInbox(database_url)
    await inbox.open()
    yield inbox
    await inbox.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_what_commits_later_is_not_skipped_for_its_lower_id(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    start = await now(inbox)
    late, early, last = events_of(3)
    async with connected(database_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await insert(connection, late)
        await put(inbox, early)
        part = await read(inbox, start)
        assert (part.events, part.end, part.is_complete, part.is_held_up) == ((), start, True, True)
        assert await now(inbox) == start
        await transaction.commit()
    await put(inbox, last)
    assert await follow(inbox, start) == ids(late, early, last)


async def test_a_transaction_that_only_reads_holds_nothing_up(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    """As pg_dump does."""
    start = await now(inbox)
    async with connected(database_url) as connection, connection.transaction(isolation="repeatable_read"):
        await connection.fetch("SELECT * FROM events")
        await put(inbox, make_event())
        assert await follow(inbox, start) == ids(make_event())


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_order_transactions_end_in_nothing_is_skipped_or_doubled(
    inbox: TimedPostgresqlInbox, database_url: str, seed: int
) -> None:
    rng = Random(seed)
    start = await now(inbox)
    kept: list[str] = []

    async def write(number: int) -> None:
        """Transactions of several events each, which overlap, and of which some are taken back."""
        async with connected(database_url) as connection:
            for turn in range(12):
                transaction = connection.transaction()
                await transaction.start()
                events = [make_event(f"{number}-{turn}-{n}") for n in range(rng.randint(1, 3))]
                for event in events:
                    await insert(connection, event)
                    for _ in range(rng.randint(0, 20)):
                        await connection.fetchval("SELECT 1")
                if rng.random() < 0.2:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    kept.extend(ids(*events))

    async def accept() -> None:
        for number in range(40):
            event = make_event(f"accepted-{number}")
            await inbox.put(make_receipt(event))
            kept.append(event.id)

    writing = asyncio.gather(*(write(number) for number in range(5)), accept())
    seen: list[str] = []
    cursor = start
    is_last = False
    while not is_last:
        # What is there after the last write is all that there will be.
        was_done = writing.done()
        part = await read(inbox, cursor, limit=rng.choice([2, 1000]))
        seen += ids_of(part)
        cursor = FeedCursor.parse(str(part.end))
        is_last = was_done and part.is_complete and not part.is_held_up
    await writing
    assert sorted(seen) == sorted(kept)
    assert await follow(inbox, start) == seen


async def test_tables_that_came_from_another_server_are_followed_anew(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    start = await now(inbox)
    old = events_of(3)
    await put(inbox, *old)
    cursor = await now(inbox)
    # As after a restore from a dump: transactions were counted higher there.
    await execute(database_url, "UPDATE events SET xid = xid + 1000000000", "UPDATE feed SET server = 1")
    with pytest.raises(CursorGone) as refused:
        await read(inbox, cursor)
    new = [make_event("new-1"), make_event("new-2")]
    await put(inbox, new[0])
    assert set(ids(*old, new[0])) <= set(await follow(inbox, refused.value.since))
    cursor = await now(inbox)
    await put(inbox, new[1])
    assert await follow(inbox, cursor) == ids(new[1])
    assert await follow(inbox, start) == ids(*old, *new)


async def test_events_of_before_the_migration_come_first(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    old = events_of(3)
    await put(inbox, *old)
    await execute(database_url, "UPDATE events SET xid = NULL")
    cursor = await now(inbox)
    new = make_event("new")
    await put(inbox, new)
    assert await follow(inbox, cursor) == ids(new)
    assert await follow(inbox, FeedCursor(Place(0, 0))) == ids(*old, new)


async def test_the_order_is_found_by_its_index(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    await now(inbox)
    (plan,) = await execute(
        database_url,
        "SET enable_seqscan = off",
        "EXPLAIN (FORMAT JSON) SELECT e.id FROM events e WHERE (e.xid, e.id) > (5, 6) AND e.xid < 7 AND e.id > 0"
        " ORDER BY e.xid, e.id LIMIT 3",
    )
    assert "events_by_transaction" in plan[0]
    assert "Sort" not in plan[0]


async def test_a_cursor_of_sqlite_goes_on_after_a_copy_to_postgresql(tmp_path: Path, database_url: str) -> None:
    before = TimedSqliteInbox(tmp_path / "inbox.db")
    await before.open()
    seen, unseen, new = events_of(3)
    await put(before, seen)
    cursor = await now(before)
    await put(before, unseen)
    await before.close()
    await copy_store(f"sqlite:///{tmp_path}/inbox.db", database_url)
    after = TimedPostgresqlInbox(database_url)
    await after.open()
    await put(after, new)
    assert await follow(after, cursor) == ids(unseen, new)
    await after.close()


async def test_a_cursor_of_postgresql_is_refused_after_a_copy_to_sqlite(
    inbox: TimedPostgresqlInbox, tmp_path: Path, database_url: str
) -> None:
    await now(inbox)
    seen, unseen = events_of(2)
    await put(inbox, seen)
    cursor = await now(inbox)
    await put(inbox, unseen)
    await inbox.close()
    await copy_store(database_url, f"sqlite:///{tmp_path}/inbox.db")
    after = TimedSqliteInbox(tmp_path / "inbox.db")
    await after.open()
    with pytest.raises(CursorGone) as refused:
        await read(after, cursor)
    assert await follow(after, refused.value.since) == ids(seen, unseen)
    await after.close()


async def test_a_restored_file_refuses_a_cursor_that_it_does_not_know(tmp_path: Path) -> None:
    first, lost, new = events_of(3)
    inbox = TimedSqliteInbox(tmp_path / "lost.db")
    await inbox.open()
    await put(inbox, first, lost)
    cursor = await now(inbox)
    await inbox.close()
    restored = TimedSqliteInbox(tmp_path / "restored.db")
    await restored.open()
    await put(restored, first)
    with pytest.raises(CursorGone):
        await read(restored, cursor)
    # Another one has its place by now.
    await put(restored, new)
    with pytest.raises(CursorGone) as refused:
        await read(restored, cursor)
    assert await follow(restored, refused.value.since) == ids(first, new)
    await restored.close()
