"""The last migration, on PostgreSQL, while services of the version before go on: nothing is lost or counted twice."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.postgresql import migrating
from media_callbacks.inbox.postgresql.schema import migrate
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.model.identity import key_digest
from tests.factories import earlier
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import NOW, make_event

*BEFORE, LAST = load_migrations("postgresql")
AT = int(NOW.timestamp() * 1000)
# More than two batches.
EVENTS = 12_000
# One that waits for both sinks, and one with user data.
WAITING, TALKATIVE = 11_007, 11_010
FILLS_COUNTS = re.compile(r"^INSERT INTO delivery_counts", re.MULTILINE)
FILLS_USER_DATA = re.compile(r"^    INSERT INTO event_user_data[^;]*ON CONFLICT", re.MULTILINE)
CRASH = "-- step: transaction\nSELECT 1/0;\n"


class Services:
    """
    Some that share the database: one accepts, one delivers, one removes what is old.

    Attributes:
        accepted: How many events.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.accepted = 0
        self._is_over = False
        self._turns = {work: asyncio.Event() for work in (self._accept, self._deliver, self._remove)}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Services":
        self._tasks = [asyncio.create_task(self._go_on(work)) for work in self._turns]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def until_each_has_done_something(self) -> None:
        for _ in range(2):
            for turn in self._turns.values():
                turn.clear()
            turns: asyncio.Future[Any] = asyncio.gather(*(turn.wait() for turn in self._turns.values()))
            waiting: list[asyncio.Future[Any]] = [turns, *self._tasks]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert done == {turns}, done

    async def _go_on(self, work: Any) -> None:
        connection = await asyncpg.connect(self._url)
        while not self._is_over:
            await work(connection)
            self._turns[work].set()
        await connection.close()

    async def _accept(self, connection: Any) -> None:
        events = [make_event(f"new-{self.accepted + n}", user_data=f"new order {n}") for n in range(3)]
        bodies = {key_digest(event.id): event.to_json().decode() for event in events}
        assert await earlier.accept(connection, bodies, at=AT, sinks="a b") == ["accepted"] * 3
        self.accepted += 3

    async def _deliver(self, connection: Any) -> None:
        for became in ("delivered", "retrying", "dead"):
            async with connection.transaction():
                claimed = await earlier.claim(connection, "a", at=AT, limit=3)
                await earlier.record(connection, "a", claimed, became, at=AT)

    async def _remove(self, connection: Any) -> None:
        async with connection.transaction():
            oldest = await connection.fetchval("SELECT min(event_id) FROM event_bodies")
            await connection.execute("DELETE FROM event_bodies WHERE event_id <= $1::bigint + 1", oldest)
            await connection.execute("DELETE FROM deliveries WHERE event_id <= $1", oldest)


@pytest.fixture
async def old(database_url: str) -> Any:
    """A connection to a database as the version before left it, full of events."""
    connection = await asyncpg.connect(database_url)
    await earlier.make(connection)
    await earlier.fill(connection, make_event(), EVENTS, at=AT)
    yield connection
    await connection.close()


async def test_what_is_written_meanwhile_is_counted_and_found_once(
    database_url: str, old: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a crash after each step, and transactions that are open from before those that fill in until after them."""
    monkeypatch.setattr(migrating, "_PAUSE_S", 0.01)
    steps = split()
    assert [sum(found.search(step) is not None for step in steps) for found in (FILLS_COUNTS, FILLS_USER_DATA)] == [
        1,
        1,
    ]
    async with asyncio.timeout(PATIENCE_S), Services(database_url) as services:
        for count, step in enumerate(steps, 1):
            async with old.transaction():
                if FILLS_COUNTS.search(step):
                    await old.execute("DELETE FROM deliveries WHERE event_id = $1", WAITING)
                elif FILLS_USER_DATA.search(step):
                    await old.execute("DELETE FROM event_bodies WHERE event_id = $1", TALKATIVE)
                await migrate_and_crash(database_url, monkeypatch, steps[:count])
            await services.until_each_has_done_something()
        assert await migrate(database_url) == [str(LAST)]
    assert await counted(old) == await recounted(old)
    assert await noted(old) == await written(old)
    assert await old.fetchval("SELECT count(*) FROM events") == EVENTS + services.accepted
    assert await old.fetchval("SELECT count(*) FROM events WHERE xid IS NULL") >= EVENTS
    assert await old.fetch("SELECT FROM pg_index WHERE NOT indisvalid") == []


async def test_who_has_drawn_ids_and_not_used_them_keeps_no_table_from_being_partitioned(
    database_url: str, old: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He needs the table next, and so must not be waited for while it is locked."""
    monkeypatch.setattr(migrating, "_PAUSE_S", 0.01)
    steps = split()
    makes = next(count for count, step in enumerate(steps, 1) if "make_first_partition('receipts'" in step)
    accepting = await asyncpg.connect(database_url)
    async with asyncio.timeout(PATIENCE_S):
        async with accepting.transaction():
            await migrate_and_crash(database_url, monkeypatch, steps[: makes - 1])
            drawn = await accepting.fetchval("SELECT nextval('receipts_id_seq')")
            await migrate_and_crash(database_url, monkeypatch, steps[:makes])
            await accepting.execute(
                "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, parser, body)"
                " VALUES ($1, $2, 'vod', 'vod', 'http', 'signature', 'unparsed', 1, '')",
                drawn,
                AT,
            )
        await accepting.close()
        assert await migrate(database_url) == [str(LAST)]
    owner = await old.fetchval("SELECT pg_get_serial_sequence('receipts', 'id')")
    assert owner == "public.receipts_id_seq"


async def test_a_body_that_is_being_removed_while_bodies_are_read_leaves_nothing(
    database_url: str, old: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "_PAUSE_S", 0.01)
    steps = split()
    fills = next(count for count, step in enumerate(steps, 1) if FILLS_USER_DATA.search(step))
    await migrate_and_crash(database_url, monkeypatch, steps[: fills - 1])
    has_waited = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S):
        async with old.transaction():
            await old.execute("DELETE FROM event_bodies WHERE event_id = $1", TALKATIVE)
            migration = asyncio.create_task(
                migrate(database_url, lambda text: has_waited.set() if "has a lock" in text else None)
            )
            waits = asyncio.create_task(has_waited.wait())
            await asyncio.wait([migration, waits], return_when=asyncio.FIRST_COMPLETED)
            assert not migration.done(), "it did not wait for whoever removes"
        assert await migration == [str(LAST)]
    assert await noted(old) == await written(old)


def split() -> Sequence[str]:
    """The steps of the last migration."""
    return re.split(r"^(?=-- step: )", LAST.sql, flags=re.MULTILINE)[1:]


async def migrate_and_crash(url: str, monkeypatch: pytest.MonkeyPatch, steps: Sequence[str]) -> None:
    """Run these steps of the last migration, as far as they are not done, and then fail."""
    crashing = replace(LAST, sql="".join([*steps, CRASH]))
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "load_migrations", lambda _: [*BEFORE, crashing])
        with pytest.raises(InboxUnavailable, match="division by zero"):
            await migrate(url)


async def counted(connection: Any) -> Any:
    return await connection.fetch(
        "SELECT sink, state, span, sum(count)::bigint FROM delivery_counts GROUP BY 1, 2, 3 HAVING sum(count) <> 0"
        " ORDER BY 1, 2, 3"
    )


async def recounted(connection: Any) -> Any:
    return await connection.fetch(
        "SELECT sink, state, event_id >> 12, count(*) FROM deliveries WHERE state IN ('pending', 'retrying', 'dead')"
        " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )


async def noted(connection: Any) -> Any:
    return await connection.fetch("SELECT event_id, user_data FROM event_user_data ORDER BY 1")


async def written(connection: Any) -> Any:
    return await connection.fetch(
        "SELECT event_id, body::json -> 'data' ->> 'user_data' FROM event_bodies"
        " WHERE body::json -> 'data' ->> 'user_data' IS NOT NULL ORDER BY 1"
    )
