"""Partitions on PostgreSQL: made ahead, dropped when all in them is old, and nothing else for anybody to see."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from media_callbacks.inbox.copying.stores import copy_store
from media_callbacks.inbox.copying.tables import TABLES
from media_callbacks.inbox.database import Database
from media_callbacks.inbox.factory import try_needs
from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.keeping.spans import Rows
from media_callbacks.inbox.operating import replays
from media_callbacks.inbox.postgresql import inbox as inbox_module
from media_callbacks.inbox.postgresql import migrating, partitions
from media_callbacks.inbox.postgresql.copying import fill_store
from media_callbacks.inbox.postgresql.schema import migrate
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.records import AttemptResult, EventFilter, Finding, Purged, ReplayRequest
from media_callbacks.model.errors import ClockDoubted
from media_callbacks.model.events import Event
from media_callbacks.model.identity import key_digest
from tests.factories import earlier
from tests.factories.postgresql import PostgresqlServer, execute
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import (
    DAY,
    LEASE_S,
    NOW,
    SECOND,
    attempt,
    deliver,
    find,
    finish_replays,
    make_event,
    make_receipt,
    pause,
    purge,
    resume,
)
from tests.inbox.conformance_erasures import erase, request
from tests.inbox.conformance_jobs import held
from tests.inbox.test_postgresql import as_role, make_role, transaction
from tests.inbox.timed import TimedPostgresqlInbox, TimedSqliteInbox

HOUR = timedelta(hours=1)
KEPT = 30 * DAY
# When all that has come at first is old.
THEN = NOW + KEPT + 3 * DAY
WIDTH = partitions.MIN_WIDTH

Tables = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
async def inbox(database_url: str) -> AsyncIterator[TimedPostgresqlInbox]:
    inbox = TimedPostgresqlInbox(database_url)
    await inbox.open()
    yield inbox
    await inbox.close()


async def begin_next(inbox: TimedPostgresqlInbox, url: str, *, at: datetime = NOW + HOUR) -> None:
    """As if all ids of the present partitions had been drawn: what comes then is in the next ones."""
    inbox.clock.now = at
    await inbox.summarise()
    for kind in ("receipts", "events"):
        await execute(
            url,
            f"SELECT setval('{kind}_id_seq', min(end_id) - 1) FROM partitions WHERE kind = '{kind}'"
            f" AND end_id > coalesce(pg_sequence_last_value('{kind}_id_seq'), 0) + 1",
        )
    await inbox.put(make_receipt(make_event(f"begins at {at}"), sinks=(), at=at))
    inbox.clock.now = at + HOUR
    await inbox.summarise()


async def purge_old(inbox: TimedPostgresqlInbox, *, at: datetime = THEN) -> Purged:
    inbox.clock.now = at
    return await purge(inbox, payloads_before=at - KEPT, keys_before=at - 400 * DAY)


async def find_partitions(url: str) -> list[tuple[Any, ...]]:
    return [
        tuple(row) for row in await execute(url, "SELECT kind, first_id FROM partitions ORDER BY kind DESC, first_id")
    ]


async def find_tables(url: str, name: str) -> list[str]:
    """The partitions that the server has of a table."""
    rows = await execute(
        url,
        f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{name}'::regclass ORDER BY 1",
    )
    return [table for (table,) in rows]


# Made ahead


async def test_partitions_are_made_ahead_of_what_is_drawn(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    assert await find_tables(database_url, "receipts") == ["receipts_0", "receipts_default"]
    for _ in range(2):
        await inbox.summarise()
        made = await find_partitions(database_url)
        assert [first for kind, first in made if kind == "events"] == [0, 1 << 20, (1 << 20) + WIDTH]
    await inbox.put(make_receipt(make_event()))
    await execute(database_url, f"SELECT setval('events_id_seq', {1 << 20})")
    await inbox.put(make_receipt(make_event("job-2")))
    rows = await execute(database_url, "SELECT tableoid::regclass::text FROM event_bodies ORDER BY event_id")
    assert [name for (name,) in rows] == ["event_bodies_0", "event_bodies_1048576"]
    inbox.clock.now = NOW + HOUR
    await inbox.summarise()
    firsts = [int(first) for kind, first in await find_partitions(database_url) if kind == "events"]
    # A million in an hour, for a sixteenth of a month.
    assert firsts[-2] - firsts[-3] == WIDTH
    assert firsts[-1] - firsts[-2] > 1 << 20
    names = {f"attempts_{first}" for first in firsts}
    assert set(await find_tables(database_url, "attempts")) == names | {"attempts_default"}


async def test_where_little_is_kept_partitions_for_a_day_are_ahead(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    """As long as a backup may hold the tables."""
    await inbox.purge(keep_payloads=DAY, keep_keys=400 * DAY, limit=1)
    for _ in range(2):
        await inbox.summarise()
    widths = [
        end - first
        for first, end in await execute(
            database_url, "SELECT first_id, end_id FROM partitions WHERE kind = 'receipts' ORDER BY first_id"
        )
    ]
    assert widths == [1 << 20, *[WIDTH] * 16]


async def test_what_nobody_has_made_a_partition_for_is_kept_all_the_same(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    """As by instances of the version before, for as long as they like."""
    for kind in ("receipts", "events"):
        await execute(database_url, f"SELECT setval('{kind}_id_seq', {1 << 30})")
    event = make_event(user_data="order 7")
    await inbox.put(make_receipt(event))
    assert await attempt(inbox, "a", "delivered") == [event.id]
    assert await execute(database_url, "SELECT count(*) FROM event_bodies_default") == [(1,)]
    await inbox.summarise()
    made = await find_partitions(database_url)
    assert len(made) == 6
    assert all(first == 0 or first > 1 << 30 for _, first in made)
    record = await find(inbox, event)
    assert (record.body, len(record.deliveries[0].history), len(record.receipts)) == (event.to_json(), 1, 1)
    assert (await purge_old(inbox)).payloads == 1
    assert await inbox.list_receipts(limit=9) == ()
    assert await execute(database_url, "SELECT count(*) FROM event_bodies") == [(0,)]


async def test_where_too_much_is_in_none_it_is_told_and_one_can_be_made_all_the_same(
    inbox: TimedPostgresqlInbox, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MOST_UNPARTITIONED_BYTES", 1 << 16)
    for kind in ("receipts", "events"):
        await execute(database_url, f"SELECT setval('{kind}_id_seq', {1 << 30})")
    event = make_event(user_data="order 7")
    await inbox.put(make_receipt(event))
    assert (await inbox.measure()).crowded == ()
    # Some of them fill a page.
    await execute(
        database_url,
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, parser)"
        f" SELECT {1 << 29} + n, 1, 'vod', 'vod', 'http', 'none', 'unparsed', repeat('x', 1900), 1"
        " FROM generate_series(1, 60) AS n",
    )
    with capture_logs() as logs:
        for _ in range(2):
            await inbox.summarise()
    (line,) = logs
    assert (line["event"], line["table"]) == ("partitions_not_made", "receipts")
    assert line["unpartitioned_bytes"] > 1 << 16
    assert (await inbox.measure()).crowded == ("receipts",)
    assert [first for kind, first in await find_partitions(database_url) if kind == "receipts"] == [0]
    found = [(one.severity, one.text) for one in await try_needs(database_url) if "partition" in one.text]
    assert found == [
        ("warning", "0 MiB of receipts are in no partition, so that none are made and what is old goes by row")
    ]
    page = (Path(__file__).parents[2] / "docs/operate/postgresql.md").read_text()
    (sql,) = re.findall(r'psql --command "(SELECT make_partition_1[^"]*)"', page)
    assert await execute(database_url, sql) == [(True,)]
    await execute(database_url, f"SELECT setval('receipts_id_seq', {(1 << 30) + 2 * WIDTH})")
    await inbox.put(make_receipt(make_event("job-2")))
    rows = await execute(database_url, "SELECT tableoid::regclass::text FROM receipts ORDER BY id DESC LIMIT 1")
    assert rows != [("receipts_default",)]
    assert (await find(inbox, event)).body is not None


async def test_while_somebody_holds_the_tables_it_is_seldom_tried(
    inbox: TimedPostgresqlInbox, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time everybody waits for a tenth of a second."""
    monkeypatch.setattr(inbox_module, "_FIRST_MAKE_PAUSE_S", 3600.0)
    monkeypatch.setattr(inbox_module, "_LONGEST_MAKE_PAUSE_S", 3600.0)
    tried: list[str] = []
    make = partitions.make

    async def count(database: Database, kind: Rows, width: int) -> bool:
        tried.append(kind)
        return await make(database, kind, width)

    monkeypatch.setattr(partitions, "make", count)
    async with transaction(database_url) as database:
        await database.fetch("SELECT count(*) FROM receipts, event_bodies")
        for _ in range(3):
            await inbox.summarise()
    assert sorted(tried) == ["events", "receipts"]
    other = TimedPostgresqlInbox(database_url)
    await other.open()
    await other.summarise()
    await other.close()
    assert len(await find_partitions(database_url)) == 6


async def test_two_services_make_them_once(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    other = TimedPostgresqlInbox(database_url)
    await other.open()
    await asyncio.gather(*(one.summarise() for one in (inbox, other) * 3))
    third = TimedPostgresqlInbox(database_url)
    await third.open()
    await third.summarise()
    for one in (other, third):
        await one.close()
    made = await execute(
        database_url, "SELECT first_id, end_id FROM partitions WHERE kind = 'events' ORDER BY first_id"
    )
    assert len(made) >= 3
    assert all(end == first for (_, end), (first, _) in pairwise(made)), "none is there twice"


# Dropped


async def dump(url: str) -> Tables:
    """All that is kept of payloads, in an order."""
    connection = await asyncpg.connect(url)
    try:
        tables: Tables = {}
        for table, columns in (
            ("receipts", "*"), ("events", "id, outcome, revision, receipt_id, job_id, is_routed"), ("event_bodies", "*"),
            ("event_receipts", "*"), ("deliveries", "event_id, sink, replay, state, due_at, attempts, changed_at, error"),
            ("attempts", "*"), ("held", "id, receipt_id, reason"), ("event_user_data", "*"), ("receipt_keys", "*"),
            ("erased_events", "event_id, public_id"), ("bindings", "*"), ("answers", "id, receipt_id, result"),
        ):  # fmt: skip
            tables[table] = sorted(map(tuple, await connection.fetch(f"SELECT {columns} FROM {table}")), key=repr)
        counts = "SELECT sink, state, span, sum(count) FROM delivery_counts GROUP BY 1, 2, 3 HAVING sum(count) <> 0"
        tables["delivery_counts"] = sorted(map(tuple, await connection.fetch(counts)))
        return tables
    finally:
        await connection.close()


async def test_a_partition_is_dropped_when_all_in_it_is_old_and_nothing_names_what_was_in_it(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    event, later = make_event(user_data="order 7"), make_event("job-2", user_data="order 8")
    await inbox.put(make_receipt(event, sinks=("a", "b")))
    await inbox.put(make_receipt(event))
    await inbox.put(make_receipt(reason="odd"))
    await attempt(inbox, "a", "delivered")
    await attempt(inbox, "b", "dead")
    await begin_next(inbox, database_url)
    await inbox.put(make_receipt(later, at=NOW + 5 * DAY))
    await deliver(inbox, "a", now=NOW + 5 * DAY)
    before = await find_partitions(database_url)
    assert (await purge_old(inbox, at=NOW + KEPT + HOUR)).payloads == 0, "it is left as a whole"
    assert await find_partitions(database_url) == before
    assert (await find(inbox, event)).body is not None
    await purge_old(inbox)
    assert {first for _, first in before} - {first for _, first in await find_partitions(database_url)} == {0}
    assert "event_bodies_0" not in await find_tables(database_url, "event_bodies")
    record = await find(inbox, event)
    assert (record.body, record.deliveries, record.receipts) == (None, (), ())
    assert (await inbox.put(make_receipt(event, at=THEN))).state == "duplicate"
    assert (await find(inbox, later)).body is not None
    tables = await dump(database_url)
    assert {row[0] for row in tables["deliveries"]} == {row[2] for row in tables["event_user_data"]} != {1}
    assert not {row[1] for row in tables["event_receipts"]} & {1, 2, 3}
    assert tables["delivery_counts"] == []


async def scenario(inbox: TimedPostgresqlInbox, url: str, seed: int, *, drops: bool) -> None:
    """A month of a service, with all that may keep a payload."""
    rng = Random(seed)
    events: list[Event] = []
    for part in range(3):
        at = NOW + part * DAY
        for _ in range(8):
            at += SECOND
            event = make_event(
                f"job-{len(events)}",
                rng.choice(["succeeded", "failed"]),
                user_data=rng.choice([None, f"order {len(events)}"]),
            )
            sinks = rng.choice([("a",), ("a", "b"), ("c",), ()])
            which = rng.randrange(8)
            if which == 0:
                await inbox.put(make_receipt(reason="odd", at=at))
                continue
            if which == 1:
                await inbox.put(held(event, at=at, timeout_s=1e7))
                continue
            receipt = make_receipt(event, sinks=sinks, at=at, binding=rng.choice([None, event.data.job_id]))
            await inbox.put(receipt)
            events.append(event)
            if which in (2, 3):
                await inbox.put(make_receipt(rng.choice(events), at=at))
            if which == 4 and receipt.entries[0].binding is not None:
                await inbox.put(make_receipt(make_event(event.data.job_id or "", "cancelled"), binding="other", at=at))
        for sink in ("a", "b"):
            for delivery in await inbox.claim(sink, limit=rng.randrange(1, 9), now=at, lease_s=LEASE_S):
                state: Any = rng.choice(["delivered", "delivered", "dead", "retrying"])
                await inbox.record([AttemptResult(delivery, state, started_at=at, delay_s=90 * 86400.0)], now=at)
        await begin_next(inbox, url, at=at)
        if not drops:
            # Nobody notes that one is complete.
            await execute(url, "UPDATE partitions SET closed_at = NULL")
    at = NOW + KEPT
    await inbox.create_replay(ReplayRequest(filter=EventFilter(event_id=rng.choice(events).id)), now=at)
    await finish_replays(inbox, now=at)
    await erase(inbox, request("job_id", str(rng.choice(events).data.job_id), may_drop=True))


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_left_is_what_a_purge_by_row_leaves(database_url: str, seed: int) -> None:
    left: list[Tables] = []
    for drops in (True, False):
        inbox = TimedPostgresqlInbox(database_url)
        await inbox.open()
        await scenario(inbox, database_url, seed, drops=drops)
        made = len(await find_partitions(database_url))
        await purge_old(inbox, at=THEN + DAY)
        assert (len(await find_partitions(database_url)) < made) is drops
        left.append(await dump(database_url))
        await inbox.close()
        await execute(database_url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    assert left[0] == left[1]


async def test_what_is_needed_of_a_partition_outlives_it(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    waiting, doubted, done = make_event("waiting", user_data="order 7"), make_event("doubted"), make_event("done")
    await pause(inbox, "b")
    await inbox.put(make_receipt(waiting, sinks=("a", "b")))
    await inbox.put(held(doubted, timeout_s=1e7))
    await inbox.put(make_receipt(done))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    await purge_old(inbox)
    assert await execute(database_url, "SELECT tableoid::regclass::text, id FROM receipts ORDER BY id LIMIT 2") == [
        ("receipts_default", 1),
        ("receipts_default", 2),
    ]
    assert (await find(inbox, done)).body is None
    (found,) = await inbox.search("order 7", limit=9)
    assert found.job_id == "waiting"
    await resume(inbox, "b")
    assert await deliver(inbox, "b", now=THEN) == [waiting.id]
    (inquiry,) = await inbox.claim_inquiries("vod", limit=9, now=THEN, lease_s=LEASE_S)
    await inbox.settle([Finding(inquiry=inquiry, release=doubted)], now=THEN)
    assert await deliver(inbox, "a", now=THEN) == [doubted.id]
    assert [receipt.id for receipt in (await find(inbox, doubted)).receipts] == [2]
    await purge_old(inbox, at=THEN + SECOND)
    assert await execute(database_url, "SELECT count(*) FROM receipts WHERE id < 1000") == [(0,)]
    assert await execute(database_url, "SELECT count(*) FROM event_bodies WHERE event_id < 1000") == [(0,)]


async def test_where_much_is_needed_the_rest_goes_by_row_and_the_partition_later(
    inbox: TimedPostgresqlInbox, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_MAX_KEPT", 1)
    events = [make_event(f"job-{n}") for n in range(4)]
    await pause(inbox, "b")
    for n, event in enumerate(events):
        await inbox.put(make_receipt(event, sinks=("a",) if n < 2 else ("b",)))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    await purge_old(inbox)
    assert "event_bodies_0" in await find_tables(database_url, "event_bodies")
    assert [(await find(inbox, event)).body is None for event in events] == [True, True, False, False]
    await resume(inbox, "b")
    await deliver(inbox, "b", now=THEN)
    await purge_old(inbox)
    assert "event_bodies_0" not in await find_tables(database_url, "event_bodies")
    assert (await find(inbox, events[3])).body is None


async def test_what_can_not_be_dropped_is_told_and_goes_by_row(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    """As where somebody's view on receipts has gone with the first partition."""
    events = [make_event(name) for name in ("first", "second")]
    await inbox.put(make_receipt(events[0]))
    await begin_next(inbox, database_url)
    await inbox.put(make_receipt(events[1], at=NOW + 2 * HOUR))
    await deliver(inbox, "a", now=NOW + 2 * HOUR)
    await begin_next(inbox, database_url, at=NOW + 3 * HOUR)
    await execute(database_url, "CREATE VIEW mine AS SELECT id FROM receipts_0")
    with capture_logs() as logs:
        await purge_old(inbox)
    (line,) = logs
    assert (line["event"], line["rows"], line["first_id"]) == ("partition_not_dropped", "receipts", 0)
    assert "other objects depend on it" in line["error"]
    assert [(await find(inbox, event)).body for event in events] == [None, None]
    assert await execute(database_url, "SELECT FROM mine") == []
    tables = await find_tables(database_url, "receipts")
    assert "receipts_0" in tables
    assert "receipts_1048576" not in tables, "the others are dropped"
    await execute(database_url, "DROP VIEW mine")
    await purge_old(inbox)
    assert "receipts_0" not in await find_tables(database_url, "receipts")


async def test_nobody_waits_while_large_bodies_are_copied(
    inbox: TimedPostgresqlInbox, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is needed of a partition is copied while the tables are locked."""
    monkeypatch.setattr(partitions, "_MAX_KEPT_BYTES", 10_000)
    large, small = make_event("large", user_data="x" * 20_000), make_event("small")
    await inbox.put(make_receipt(large, sinks=("b",), body=b"x" * 20_000))
    await inbox.put(make_receipt(small))
    await pause(inbox, "b")
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    before = await find_partitions(database_url)
    await purge_old(inbox)
    assert await find_partitions(database_url) == before
    assert [(await find(inbox, event)).body is None for event in (large, small)] == [False, True]
    await resume(inbox, "b")
    assert await deliver(inbox, "b", now=THEN) == [large.id]
    await purge_old(inbox)
    assert len(await find_partitions(database_url)) < len(before)


async def test_who_is_using_the_tables_is_not_waited_for_and_nobody_waits(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    event = make_event()
    await inbox.put(make_receipt(event))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    async with transaction(database_url) as database:
        await database.fetch("SELECT count(*) FROM receipts, event_bodies")
        before = await find_partitions(database_url)
        assert (await purge_old(inbox)).payloads == 1, "what is in the next one"
        assert await find_partitions(database_url) == before
        assert (await find(inbox, event)).body is not None
        # Such a one may never end.
        inbox.clock.now = THEN + 4 * DAY
        assert (await purge_old(inbox, at=THEN + 4 * DAY)).payloads == 1
        assert await find_partitions(database_url) == before
    await purge_old(inbox)
    assert len(await find_partitions(database_url)) < len(before)


async def test_an_event_that_is_sent_again_just_then_keeps_its_body(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    again, other = make_event("again"), make_event("other")
    for event in (again, other):
        await inbox.put(make_receipt(event))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    old = (await partitions_old(inbox)).droppable
    await inbox.create_replay(ReplayRequest(filter=EventFilter(event_id=again.id)), now=THEN)
    async with transaction(database_url, now=THEN) as database:
        # Between where it is looked what is needed and the drop.
        await replays.take_steps(database, await replays.next_steps(database))
        (mine,) = [one for one in old if one.kind == "events"]
        assert await drop(inbox, mine, kept=set()) is None, "the tables are in use"
    assert await drop(inbox, mine, kept=set()) == -1, "one is on its way"
    await purge_old(inbox)
    assert await deliver(inbox, "a", now=THEN) == [again.id]
    assert (await find(inbox, again)).body == again.to_json()
    assert (await find(inbox, other)).body is None


async def test_a_receipt_that_is_read_again_just_then_stays(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    await inbox.put(make_receipt(reason="odd"))
    await begin_next(inbox, database_url)
    (mine,) = [one for one in (await partitions_old(inbox)).droppable if one.kind == "receipts"]
    async with transaction(database_url, now=THEN) as database:
        await accepting.reparse(database, 1, held(make_event(), timeout_s=1e7), dry_run=False)
        assert await drop(inbox, mine, kept=set()) is None
    assert await drop(inbox, mine, kept=set()) == -1
    await purge_old(inbox)
    assert await execute(database_url, "SELECT id FROM receipts WHERE id = 1") == [(1,)]


async def test_what_names_dropped_rows_is_removed_by_whoever_comes_next(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    event = make_event(user_data="order 7")
    for _ in range(2):
        await inbox.put(make_receipt(event))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    inbox.clock.now = THEN
    await inbox.trust_clock()
    for _ in range(2):
        await inbox.purge(keep_payloads=KEPT, keep_keys=400 * DAY, limit=10)
    assert len(await execute(database_url, "SELECT FROM partitions WHERE swept_to IS NOT NULL")) == 2
    await inbox.close()
    other = TimedPostgresqlInbox(database_url)
    await other.open()
    assert (await find(other, event)).body is None
    await purge_old(other)
    await other.close()
    tables = await dump(database_url)
    assert (tables["event_receipts"], tables["event_user_data"], tables["deliveries"]) == ([], [], [])
    assert await execute(database_url, "SELECT FROM partitions WHERE swept_to IS NOT NULL") == []


async def test_nothing_is_dropped_while_the_clock_is_doubted(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    event = make_event()
    await inbox.put(make_receipt(event))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    await inbox.watch_clock(now=NOW + DAY)
    with pytest.raises(ClockDoubted):
        await inbox.purge(keep_payloads=KEPT, keep_keys=400 * DAY, limit=10, now=THEN)
    assert (await find(inbox, event)).body is not None


# Others


async def test_a_service_needs_no_more_rights_than_on_rows(own_server: PostgresqlServer) -> None:
    url = own_server.url()
    await migrate(url)
    grants = (
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}",
    )
    service, stranger = await make_role(url, grants=grants), await make_role(url)
    inbox = TimedPostgresqlInbox(as_role(url, service, "right"))
    await inbox.open()
    await inbox.put(make_receipt(make_event()))
    await deliver(inbox, "a")
    await begin_next(inbox, url)
    await purge_old(inbox)
    assert "receipts_0" not in await find_tables(url, "receipts")
    await inbox.close()
    for call in ("make_partition_1('events', 65536, 0)", "drop_partition_1('events', 0, 0, '{}')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(as_role(url, stranger, "right"), f"SELECT {call}")
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await execute(url, f"SELECT {call.replace('events', 'heartbeat')}")


async def test_whoever_may_not_make_them_any_more_is_told_of_and_all_else_goes_on(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    for _ in range(2):
        await inbox.put(make_receipt(make_event(), sinks=("a",)))
    await execute(database_url, "ALTER FUNCTION make_partition_1 RENAME TO mislaid")
    with capture_logs() as logs:
        for _ in range(2):
            await inbox.summarise()
    assert sorted((line["event"], line["rows"]) for line in logs) == [
        ("partitions_not_made", "events"),
        ("partitions_not_made", "receipts"),
    ]
    assert all("make_partition_1" in line["error"] for line in logs)


async def test_who_has_rights_on_rows_gets_no_more_by_temporary_tables(own_server: PostgresqlServer) -> None:
    url = own_server.url()
    await migrate(url)
    grants = ("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",)
    caller = await asyncpg.connect(as_role(url, await make_role(url, grants=grants), "right"))
    await caller.execute(
        """
        CREATE TABLE pg_temp.partitions (kind text, first_id bigint, end_id bigint, closed_at bigint, swept_to bigint);
        CREATE TABLE pg_temp.ran_as (name name);
        CREATE FUNCTION pg_temp.run() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN INSERT INTO pg_temp.ran_as VALUES (current_user); RETURN new; END $$;
        CREATE TRIGGER run BEFORE INSERT ON pg_temp.partitions FOR EACH ROW EXECUTE FUNCTION pg_temp.run();
        GRANT ALL ON pg_temp.partitions, pg_temp.ran_as TO PUBLIC;
        INSERT INTO pg_temp.partitions VALUES ('events', 0, 1 << 20, NULL, NULL);
        DELETE FROM pg_temp.ran_as;
        """
    )
    assert await caller.fetchval("SELECT make_partition_1('events', 65536, 1)")
    assert await caller.fetch("SELECT FROM pg_temp.ran_as") == []
    await caller.close()
    assert [first for kind, first in await find_partitions(url) if kind == "events"] == [0, 1 << 20]
    rows = await execute(url, "SELECT proconfig FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace")
    assert len(rows) > 9
    assert all("search_path=public, pg_temp" in settings for (settings,) in rows)


async def test_what_is_granted_on_the_tables_and_prepared_for_them_holds_when_they_are_partitioned(
    own_server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instances of the version before go on with the connections that they have."""
    url = own_server.url()
    known = load_migrations("postgresql")
    monkeypatch.setattr(migrating, "load_migrations", lambda _: known[:-1])
    await migrate(url)
    grants = (
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}",
    )
    before = await asyncpg.connect(as_role(url, await make_role(url, grants=grants), "right"))
    at = round(NOW.timestamp() * 1000)

    async def work(job: str) -> None:
        event = make_event(job, user_data="x")
        for state in ("accepted", "duplicate"):
            assert await earlier.accept(before, {key_digest(event.id): event.to_json().decode()}, at=at, sinks="a") == [
                state
            ]
        claimed = await earlier.claim(before, "a", at=at, limit=9)
        await earlier.record(before, "a", claimed, "delivered", at=at)

    # More often than PostgreSQL plans for each set of parameters.
    for n in range(7):
        await work(f"job-{n}")
    monkeypatch.undo()
    assert await migrate(url) == [str(known[-1])]
    for n in range(7, 14):
        await work(f"job-{n}")
    assert await before.fetchval("SELECT count(*) FROM receipts") == 28
    await before.close()
    assert await execute(url, "SELECT max(id) >> 20, (SELECT count(*) FROM receipts_0) FROM receipts") == [(1, 28)]
    assert await execute(url, "SELECT count(*) FROM event_user_data") == [(14,)]
    assert await execute(url, "SELECT FROM pg_constraint WHERE conname = 'first_partition'") == []


async def partitions_old(inbox: TimedPostgresqlInbox) -> partitions.Old:
    inbox.clock.now = THEN
    await inbox.trust_clock()
    return await inbox._read(lambda d: partitions.find_old(d, round(KEPT.total_seconds() * 1000)))


async def drop(inbox: TimedPostgresqlInbox, one: partitions.Partition, *, kept: set[int]) -> int | None:
    text = f"{{{','.join(map(str, kept))}}}"
    before = round((THEN - KEPT).timestamp() * 1000)
    found: int | None = await inbox._write(
        lambda d: d.fetch_value(
            "SELECT drop_partition_1($1, $2, $3, CAST(CAST($4 AS text) AS bigint[]))",
            one.kind,
            one.first_id,
            before,
            text,
        )
    )
    return found


async def test_a_store_that_is_copied_comes_into_partitions(database_url: str) -> None:
    await migrate(database_url)
    async with fill_store(database_url) as store:
        for table in TABLES:
            if table.numbers_rows:
                await store.make_room(table, 50_000_000)
    made = await execute(database_url, "SELECT kind, count(*), max(end_id) > 50000000 FROM partitions GROUP BY kind")
    assert sorted(map(tuple, made)) == [("events", 17, True), ("receipts", 17, True)]


async def test_nothing_is_copied_that_named_what_was_dropped(
    inbox: TimedPostgresqlInbox, database_url: str, tmp_path: Path
) -> None:
    event = make_event(user_data="order 7")
    for _ in range(2):
        await inbox.put(make_receipt(event))
    await attempt(inbox, "a", "dead")
    await begin_next(inbox, database_url)
    inbox.clock.now = THEN
    await inbox.trust_clock()
    for _ in range(2):
        await inbox.purge(keep_payloads=KEPT, keep_keys=400 * DAY, limit=10)
    await inbox.close()
    await execute(database_url, "INSERT INTO receipt_keys VALUES ('\\x00', 1)")
    tables = await dump(database_url)
    assert 1 not in {event_id for event_id, _ in tables["event_bodies"]}
    assert 1 in {event_id for event_id, *_ in tables["deliveries"]}
    await copy_store(database_url, f"sqlite:///{tmp_path}/copy.db")
    copy = TimedSqliteInbox(tmp_path / "copy.db", clock=inbox.clock)
    await copy.open()
    record = await find(copy, event)
    assert (record.body, record.deliveries) == (None, ())
    assert all(sink.deliveries == {} for sink in await copy.list_sinks())
    await copy.close()
    assert await execute(database_url, "SELECT FROM receipt_keys") == []


async def test_nobody_fails_because_partitions_come_and_go(inbox: TimedPostgresqlInbox, database_url: str) -> None:
    other = TimedPostgresqlInbox(database_url)
    await other.open()
    is_done = asyncio.Event()

    async def work(name: str) -> int:
        rounds = 0
        while not is_done.is_set():
            events = [make_event(f"{name}-{rounds}-{n}", user_data="x") for n in range(10)]
            verdicts = await asyncio.gather(*(inbox.put(make_receipt(event)) for event in [*events, events[0]]))
            assert {verdict.state for verdict in verdicts} <= {"accepted", "duplicate"}
            await deliver(inbox, "a")
            rounds += 1
        return rounds

    tasks = [asyncio.create_task(work(name)) for name in ("one", "two")]
    dropped = 0
    async with asyncio.timeout(PATIENCE_S):
        while dropped < 6:
            await other.summarise()
            for kind in ("receipts", "events"):
                ahead = f"SELECT min(end_id) FROM partitions WHERE kind = '{kind}' AND closed_at IS NULL"
                await execute(
                    database_url,
                    f"SELECT setval('{kind}_id_seq', ({ahead}) - 1)",
                    f"UPDATE partitions SET closed_at = 1 WHERE kind = '{kind}' AND end_id = ({ahead})",
                )
            before = len(await find_partitions(database_url))
            await purge(other, payloads_before=NOW - DAY, keys_before=NOW - 400 * DAY)
            dropped += before - len(await find_partitions(database_url))
    is_done.set()
    assert all(await asyncio.gather(*tasks))
    await other.close()


# When one is complete, and what of it is needed


async def test_a_partition_is_complete_when_who_has_drawn_one_of_its_ids_is_done(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    closed = "SELECT count(*) FROM partitions WHERE closed_at IS NOT NULL"
    await inbox.put(make_receipt(make_event()))
    await inbox.summarise()
    for kind in ("receipts", "events"):
        await execute(database_url, f"SELECT setval('{kind}_id_seq', {1 << 20})")
    await inbox.put(make_receipt(make_event("job-2")))
    await inbox.summarise()
    assert await execute(database_url, closed) == [(0,)]
    inbox.clock.now = NOW + HOUR
    await inbox.summarise()
    assert await execute(database_url, closed) == [(2,)]


async def test_one_whose_rows_are_all_gone_is_dropped_however_late_it_was_complete(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    await inbox.put(make_receipt(make_event()))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url, at=THEN)
    young = partitions.Partition("receipts", 0, 1 << 20, closed_at=0)
    assert await drop(inbox, young, kept=set()) == -1, "the database looks for itself"
    await purge_old(inbox, at=THEN + DAY)
    assert "receipts_0" in await find_tables(database_url, "receipts")
    await purge_old(inbox, at=THEN + DAY + SECOND)
    assert "receipts_0" not in await find_tables(database_url, "receipts")


async def test_deliveries_of_what_was_erased_lately_outlive_the_partition(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    deliveries = "SELECT count(*) FROM deliveries WHERE event_id < 1000"
    await inbox.put(make_receipt(make_event(user_data="hers")))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    inbox.clock.now = THEN - DAY
    await erase(inbox, request(value="hers"))
    (mine,) = [one for one in (await partitions_old(inbox)).droppable if one.kind == "events"]
    assert await drop(inbox, mine, kept=set()) == -1, "it was erased just then"
    await purge_old(inbox)
    assert "event_bodies_0" not in await find_tables(database_url, "event_bodies")
    assert await execute(database_url, deliveries) == [(1,)]
    await purge_old(inbox, at=THEN + KEPT)
    assert await execute(database_url, deliveries) == [(0,)]


async def test_none_is_made_where_rows_are_or_ids_are_drawn_just_now(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    for kind in ("receipts", "events"):
        await execute(database_url, f"SELECT setval('{kind}_id_seq', {1 << 30})")
    far = (1 << 30) + 10 * WIDTH + 7
    await execute(
        database_url,
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, parser)"
        f" VALUES ({far}, 1, 'vod', 'vod', 'http', 'none', 'unparsed', 'odd', 1)",
    )
    await inbox.summarise()
    made = await find_partitions(database_url)
    assert min(first for kind, first in made if kind == "receipts" and first) > far
    assert min(first for kind, first in made if kind == "events" and first) >= (1 << 30) + 65536


@pytest.mark.parametrize("limit", ["_MAX_KEPT", "_MAX_WAITING"])
async def test_where_many_receipts_are_needed_the_rest_goes_by_row(
    inbox: TimedPostgresqlInbox, database_url: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """They may be, where too many deliveries wait for anybody to look."""
    monkeypatch.setattr(partitions, limit, 1)
    await pause(inbox, "b")
    for n in range(2):
        await inbox.put(make_receipt(make_event(f"elsewhere-{n}"), sinks=("b",), at=NOW))
    for n in range(2):
        await inbox.put(held(make_event(f"doubted-{n}"), timeout_s=1e7))
    await inbox.put(make_receipt(make_event("done")))
    await deliver(inbox, "a")
    await begin_next(inbox, database_url)
    await purge_old(inbox)
    assert "receipts_0" in await find_tables(database_url, "receipts")
    assert await execute(database_url, "SELECT id FROM receipts WHERE id < 1000 ORDER BY id") == [
        (1,),
        (2,),
        (3,),
        (4,),
    ]


@pytest.mark.usefixtures("inbox")
async def test_nobody_queues_for_long_behind_who_makes_or_drops_one(database_url: str) -> None:
    rows = await execute(
        database_url, "SELECT proconfig FROM pg_proc WHERE proname IN ('make_partition_1', 'drop_partition_1')"
    )
    assert ["lock_timeout=100ms" in settings for (settings,) in rows] == [True, True]
