"""Stores that an earlier version has made are brought up to date with all that is in them."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import asyncpg
import pytest

from media_callbacks.inbox.keeping.migrations import load_migrations, missing_migrations
from media_callbacks.inbox.records import AttemptResult, EventFilter, ReplayRequest
from media_callbacks.model.events import Event
from media_callbacks.model.identity import key_digest
from media_callbacks.model.kinds import OUTCOMES
from tests.factories import earlier
from tests.factories.earlier import RELEASED
from tests.inbox.conformance import (
    DAY,
    LEASE_S,
    NOW,
    SECOND,
    backlog,
    deliver,
    find,
    finish_replays,
    ids,
    make_event,
    make_receipt,
    purge,
)
from tests.inbox.conformance_feed import follow
from tests.inbox.timed import Clock, Timed, TimedPostgresqlInbox, TimedSqliteInbox

# What there was when the first migration after these was written.
OLD = 2
FAILED, SUCCEEDED, OTHER = make_event(outcome="failed"), make_event(), make_event("job-2", user_data='order "7"\n')
HOUR = timedelta(hours=1)
_RECEIPT = (
    "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, parser, event_ids, body)"
    " VALUES ($1, $2, 'vod', 'vod', 'http', 'signature', 'accepted', 1, $3, $4)"
)
_EVENT = (
    "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id, media_id,"
    " is_routed) VALUES ($1, $2, $3, $4, $1, $5, 'vod', 'animated_image', $6, 'media-1', $7)"
)
_DELIVERY = (
    "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)"
    " VALUES ($1, 'a', $2, $3, $4, $5, $6)"
)


def milliseconds(offset: timedelta) -> int:
    return int((NOW + offset).timestamp() * 1000)


def rows() -> list[tuple[str, Sequence[Any]]]:
    """
    As the old version left them: a job with two outcomes, of which the first is tried again in an hour and the second
    waits for it; both were sent again, which was outside of the order then; and another job, delivered.
    """
    found: list[tuple[str, Sequence[Any]]] = []
    for number, (event, revision) in enumerate([(FAILED, 1), (SUCCEEDED, 2), (OTHER, 1)], 1):
        at = milliseconds(-DAY)
        identity = (key_digest(event.id), OUTCOMES.index(event.data.outcome))
        found += [
            (
                _RECEIPT,
                (number, at, event.id, b"{}"),
            ),
            (
                _EVENT,
                (number, *identity, revision, at, event.data.job_id, True),
            ),
            (
                "INSERT INTO event_bodies VALUES ($1, $2)",
                (number, event.with_revision(revision).to_json().decode()),
            ),
        ]
    deliveries = [
        (1, 0, "retrying", milliseconds(HOUR), 3),
        (2, 0, "pending", None, 0),
        (1, 1, "pending", milliseconds(-HOUR), 0),
        (2, 1, "pending", milliseconds(-HOUR), 0),
        (3, 0, "delivered", None, 1),
    ]
    for row_id, replay, state, due_at, attempts in deliveries:
        found.append(
            (
                _DELIVERY,
                (row_id, replay, state, due_at, attempts, milliseconds(-DAY)),
            )
        )
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Of a database on a server; None for a file."""
    return None if request.param == "sqlite" else request.getfixturevalue("database_url")


@pytest.fixture
async def inbox(url: str | None, tmp_path: Path) -> AsyncIterator[Timed]:
    dialect = "sqlite" if url is None else "postgresql"
    migrations = [one for one in load_migrations(dialect) if one.number <= OLD]
    inbox: Timed
    if url is None:
        with closing(sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
            for migration in migrations:
                connection.executescript(migration.sql)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.number, migration.name))
            for sql, values in rows():
                connection.execute(sql.replace("$", "?"), values)
        inbox = TimedSqliteInbox(tmp_path / "inbox.db", clock=Clock(NOW))
    else:
        pg = await asyncpg.connect(url)
        await pg.execute("CREATE TABLE migrations (number integer PRIMARY KEY, name text NOT NULL)")
        for migration in migrations:
            await pg.execute(migration.sql)
            await pg.execute("INSERT INTO migrations VALUES ($1, $2)", migration.number, migration.name)
        for sql, values in rows():
            await pg.execute(sql, *values)
        for table in ("receipts", "events"):
            await pg.execute(f"SELECT setval('{table}_id_seq', 3)")
        await pg.close()
        inbox = TimedPostgresqlInbox(url, clock=Clock(NOW))
    await inbox.open()
    yield inbox
    await inbox.close()


async def claimed(inbox: Timed, state: Any = "delivered") -> list[tuple[str, int]]:
    found = await inbox.claim("a", limit=9, lease_s=LEASE_S)
    assert all(await inbox.record([AttemptResult(one, state) for one in found]))
    return [(one.event_id, one.replay) for one in found]


async def test_what_was_on_its_way_arrives_and_from_then_on_in_order(inbox: Timed) -> None:
    assert await backlog(inbox) == {("a", "pending"): 3, ("a", "retrying"): 1}
    # Both replays were due already.
    assert await claimed(inbox) == [(FAILED.id, 1), (SUCCEEDED.id, 1)]
    assert await claimed(inbox) == []
    inbox.clock.now = NOW + HOUR
    assert await claimed(inbox) == [(FAILED.id, 0)]
    assert await claimed(inbox) == [(SUCCEEDED.id, 0)]
    assert await backlog(inbox) == {}
    await inbox.create_replay(ReplayRequest(filter=EventFilter(job_id="job-1")))
    await finish_replays(inbox, now=NOW + HOUR)
    assert await claimed(inbox) == [(FAILED.id, 2)]
    assert await claimed(inbox) == [(SUCCEEDED.id, 2)]


async def test_what_was_known_is_known_and_compared(inbox: Timed) -> None:
    assert (await inbox.put(make_receipt(SUCCEEDED))).state == "duplicate"
    assert [receipt.state for receipt in (await find(inbox, SUCCEEDED)).receipts] == ["accepted", "duplicate"]
    partial: Event = make_event(outcome="partial")
    assert (await inbox.put(make_receipt(partial))).accepted == (partial.with_revision(3),)


async def test_what_is_old_is_as_old_as_it_was(inbox: Timed) -> None:
    record = await inbox.watch_clock()
    assert not record.doubted_s, "a day is not long"
    await deliver(inbox, "a", now=NOW)
    await deliver(inbox, "a", now=NOW + HOUR)
    removed = await purge(inbox, payloads_before=NOW - DAY + SECOND, keys_before=NOW - DAY + SECOND)
    assert (removed.payloads, removed.keys) == (3, 3)


async def test_a_store_that_was_last_used_long_ago_removes_nothing_at_first(inbox: Timed) -> None:
    doubted_s = (await inbox.watch_clock(now=NOW + 30 * DAY)).doubted_s
    assert doubted_s in (30 * 86400, 31 * 86400), "since it was opened, or since its last receipt"


async def test_the_order_holds_for_what_comes_while_old_replays_are_on_their_way(inbox: Timed) -> None:
    partial = make_event(outcome="partial")
    await inbox.put(make_receipt(partial))
    assert await claimed(inbox) == [(FAILED.id, 1), (SUCCEEDED.id, 1)]
    assert await claimed(inbox) == []
    inbox.clock.now = NOW + HOUR
    for event in (FAILED, SUCCEEDED, partial):
        assert await deliver_one(inbox) == ids(event)


async def deliver_one(inbox: Timed) -> list[str]:
    return [event_id for event_id, _ in await claimed(inbox)]


async def test_what_was_there_is_found_by_what_names_it(inbox: Timed) -> None:
    for text in ('order "7"\n', 'order "', OTHER.id, "job-2"):
        assert [hit.event_id for hit in await inbox.search(text, limit=9)] == ids(OTHER), text
    assert {hit.id for hit in await inbox.search("media-1", limit=9)} == {"job-1", "job-2"}


# The version before, while the new one is rolled out


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_version_before_goes_on_with_what_this_one_migrates(dialect: str) -> None:
    known = load_migrations(dialect)
    applied = {one.number: one.entry for one in known}
    released = [one for one in known if one.number <= RELEASED]
    assert missing_migrations(released, applied, apply=False) == []
    # As somebody has them who ran what was between releases.
    assert missing_migrations(known, {**applied, 5: "between"}, apply=False) == []


@pytest.mark.parametrize("version", [1, 2])
async def test_what_the_version_before_calls_works_on_what_this_one_migrates(
    database_url: str, version: Literal[1, 2]
) -> None:
    inbox = TimedPostgresqlInbox(database_url, clock=Clock(NOW))
    await inbox.open()
    old = await asyncpg.connect(database_url)
    events = [make_event(f"job-{n}", user_data=f"order {n}") for n in range(4)]
    bodies = {key_digest(event.id): event.to_json().decode() for event in events}
    at = milliseconds(-HOUR)
    for state in ("accepted", "duplicate"):
        assert await earlier.accept(old, bodies, at=at, sinks="a b", version=version) == [state] * 4
    now = milliseconds(HOUR)
    for became in ("delivered", "retrying", "dead"):
        claimed = await earlier.claim(old, "a", at=now, limit=1, version=version)
        await earlier.record(old, "a", claimed, became, at=now, version=version)
    await old.close()
    assert await backlog(inbox) == {("a", "pending"): 1, ("a", "retrying"): 1, ("a", "dead"): 1, ("b", "pending"): 4}
    assert await follow(inbox, NOW - DAY) == ids(*events)
    for event in events:
        assert [hit.event_id for hit in await inbox.search(str(event.data.user_data), limit=9)] == ids(event)
    await inbox.close()
