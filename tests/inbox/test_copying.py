"""A store copied to another database, either way, is the same store."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from media_callbacks.inbox.copying import copying, tables
from media_callbacks.inbox.copying.stores import copy_store
from media_callbacks.inbox.copying.tables import TABLES, Digest, Table
from media_callbacks.inbox.factory import migrate_store
from media_callbacks.inbox.postgresql import copying as postgresql_copying
from media_callbacks.inbox.postgresql.copying import PostgresqlStore
from media_callbacks.inbox.records import (
    Answer,
    ErasureRequest,
    EventFilter,
    Finding,
    JobName,
    ReplayRequest,
    SeenTrouble,
    SourceNews,
)
from media_callbacks.inbox.sqlite.copying import SqliteStore
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from tests.factories.postgresql import execute, with_database
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import (
    DAY,
    LEASE_S,
    NOW,
    SECOND,
    attempt,
    backlog,
    deliver,
    find,
    ids,
    listed,
    make_event,
    make_receipt,
    pause,
    purge,
    put,
)
from tests.inbox.conformance_jobs import (
    NONCE,
    claim,
    expect,
    held,
    nameless,
)
from tests.inbox.conformance_jobs import (
    listed as listed_jobs,
)
from tests.inbox.conformance_refusals import refused
from tests.inbox.timed import Clock, Timed, TimedPostgresqlInbox, TimedSqliteInbox

LATER = NOW + 2 * LEASE_S * SECOND
OLD = make_event("old")
FAILED, SUCCEEDED = make_event("job-1", "failed"), make_event("job-1", "succeeded")
RETRIED, DEAD, DELIVERED = (make_event(name) for name in ("retried", "dead", "delivered"))
UNROUTED = make_event("unrouted", user_data='order "7"')
ERASED = make_event("erased")
BOUND = make_event("a\0b", key_id=("nonce",), media_id="\u5a92\u4f53")
HELD = make_event("held")
ALL = (FAILED, SUCCEEDED, RETRIED, DEAD, DELIVERED, UNROUTED, ERASED, BOUND)


@pytest.fixture(params=["sqlite to postgresql", "postgresql to sqlite", "sqlite to sqlite", "postgresql to postgresql"])
async def urls(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    postgresql_url: str,
) -> AsyncIterator[tuple[str, str]]:
    source, _, target = request.param.partition(" to ")
    other = f"test_{uuid4().hex[:12]}"
    await execute(postgresql_url, f"CREATE DATABASE {other} TEMPLATE template0 ENCODING 'UTF8'")
    databases = [database_url, with_database(postgresql_url, other)]
    files = [f"sqlite:///{tmp_path}/source.db", f"sqlite:///{tmp_path}/target.db"]
    yield tuple((databases if kind == "postgresql" else files).pop(0) for kind in (source, target))  # type: ignore[misc]
    await execute(postgresql_url, f"DROP DATABASE {other} WITH (FORCE)")


async def opened(url: str, clock: Clock) -> Timed:
    inbox: Timed
    if url.startswith("sqlite"):
        inbox = TimedSqliteInbox(Path(url.removeprefix("sqlite:///")), clock=clock)
    else:
        inbox = TimedPostgresqlInbox(url, clock=clock)
    await inbox.open()
    return inbox


async def fill(inbox: Timed) -> None:
    """Something of everything that a store may hold."""
    # What was purged has taken ids that must not come again.
    await put(inbox, OLD, at=NOW - 2 * DAY)
    await deliver(inbox, "a", now=NOW - 2 * DAY)
    await purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - DAY)
    await inbox.watch_clock(now=NOW)
    await inbox.keep_refused([refused(body="a\0b \u5a92", cause="key_case", job_id="7"), refused(2, source="none")])
    await inbox.note_sources({"vod": "a", "ims": "a"})
    await inbox.note_activity([SourceNews("vod", 1, 2)], [("received", "vod", 1), ("refused", "vod", 2)])
    await put(inbox, DELIVERED)
    await deliver(inbox, "a")
    await put(inbox, ERASED)
    await deliver(inbox, "a")
    await inbox.erase(
        ErasureRequest(matched="job_id", value="erased"), erasure_id=None, position="events-0", dry_run=False
    )
    await put(inbox, DEAD)
    await attempt(inbox, "a", "dead", error="no \u5a92")
    await put(inbox, RETRIED)
    await attempt(inbox, "a", "retrying", delay_s=60, error="later")
    await put(inbox, FAILED, SUCCEEDED)
    await inbox.put(make_receipt(UNROUTED, sinks=()))
    await inbox.put(make_receipt(BOUND, binding="a\0b", sinks=("b", "c")))
    await inbox.put(make_receipt(DELIVERED, body=b"\x00\xff again", warnings=("a.b",), meta={"id": "1"}))
    await inbox.put(make_receipt(body=b"unparsed", reason="broken"))
    await inbox.put(held(HELD))
    asked = await claim(inbox)
    answer = Answer(asked_at=NOW, result="pending", decision="again", detail="soon")
    await inbox.settle([Finding(inquiry=one, ask_again_at=LATER, answer=answer) for one in asked])
    await expect(inbox, "meant")
    await inbox.put(nameless(1))
    await inbox.put(nameless(2))
    await expect(inbox, "awaited", user_data="mine", nonce=NONCE, media_id="media-2")
    await expect(inbox, "delivered")
    assert await inbox.claim("a", limit=1, lease_s=LEASE_S), "which leaves a lease"
    await pause(inbox, "b")
    await inbox.note_troubles(
        [SeenTrouble(trouble="sink_disabled", subject="a", detail="why")], instance="host", route=lambda _: ()
    )
    await inbox.create_replay(ReplayRequest(filter=EventFilter(kind="animated_image"), rate_per_s=0.5, reason="why"))


async def look(inbox: Timed) -> dict[str, Any]:
    """Whatever can be seen of it."""
    events = [await find(inbox, event) for event in ALL]
    return {
        "events": await inbox.list_events(EventFilter(), limit=100),
        # A NUL is not kept everywhere.
        "lives": [replace(event, receipts=(), deliveries=()) for event in events],
        "deliveries": [event.deliveries for event in events],
        "brought by": [event.receipts for event in events],
        "receipts": await inbox.list_receipts(limit=100),
        "found": await inbox.search("order", limit=9),
        "answers": (await inbox.find_life(JobName(product="vod", id="held"))).answers,
        "jobs": await listed_jobs(inbox),
        "backlog": await backlog(inbox),
        "sinks": await inbox.list_sinks(),
        "replays": await inbox.list_replays(limit=9),
        "erasures": await inbox.list_erasures(limit=9),
        "troubles": await inbox.list_troubles(),
        "waiting": await inbox.count_waiting(),
        "clock": (await inbox.watch_clock()).doubted_s,
    }


def without_nul(seen: Any) -> str:
    return repr(seen).replace("\\x00", "\ufffd").replace("\\ufffd", "\ufffd")


async def test_all_of_it_is_there_and_goes_on(urls: tuple[str, str]) -> None:
    clock = Clock(NOW)
    source_url, target_url = urls
    source = await opened(source_url, clock)
    await fill(source)
    await source.close()
    # A service frees what an earlier life of it had leased, on SQLite at once; so both are looked at when that is over.
    clock.now = LATER
    shown: list[tuple[int, int | None]] = []
    copied = await copy_store(source_url, target_url, progress=lambda *far: shown.append(far))
    rows = {one.name: one.rows for one in copied}
    assert rows["events"] == rows["event_bodies"] + 1 == len(ALL) + 2
    assert {name for name, count in rows.items() if not count} == set()
    assert shown[-1] == (2 * sum(rows.values()), 2 * sum(rows.values()))

    source = await opened(source_url, clock)
    expected = await look(source)
    await source.close()
    target = await opened(target_url, clock)
    seen = await look(target)
    for name, value in expected.items():
        if name not in ("deliveries", "sinks", "backlog"):
            assert without_nul(seen[name]) == without_nul(value), name
    assert seen["backlog"] == expected["backlog"]

    # What was known is known, what was bound is bound, and ids go on.
    last = max(event.cursor for event in expected["events"])
    for event in ALL:
        assert (await target.put(make_receipt(event, at=LATER))).state == "duplicate"
    assert (await target.put(make_receipt(BOUND, binding="other", at=LATER))).state == "conflict"
    new = make_event("new")
    await target.put(make_receipt(new, at=LATER))
    (newest,) = await target.list_events(EventFilter(), limit=1)
    assert (newest.id, newest.cursor > last) == (new.id, True)
    (awaited,) = await expect(target, "another", now=LATER)
    assert awaited.id > max(job.id for job in expected["jobs"])
    # In order, each outcome after the one before.
    delivered = await deliver(target, "a", now=LATER)
    assert set(delivered) >= set(ids(FAILED, SUCCEEDED, new))
    assert delivered.index(FAILED.id) < min(delivered.index(SUCCEEDED.id), delivered.index(new.id))
    assert await deliver(target, "a", now=NOW + 100 * SECOND) == [RETRIED.id]
    assert await deliver(target, "b") == []
    assert await deliver(target, "c") == [BOUND.id]
    assert {inquiry.reference.job_id for inquiry in await claim(target, now=LATER)} >= {"held"}
    assert await listed(target, job_id="job-1") == ids(SUCCEEDED, FAILED)
    await target.close()


async def test_what_is_not_empty_is_left_as_it_is(urls: tuple[str, str]) -> None:
    source, target = urls
    await migrate_store(source)
    inbox = await opened(target, Clock(NOW))
    await put(inbox, FAILED)
    await inbox.close()
    with pytest.raises(ConfigError, match=r"^--to: the store to copy to is not empty: there are receipts$"):
        await copy_store(source, target)
    inbox = await opened(target, Clock(NOW))
    assert await deliver(inbox, "a") == [FAILED.id]
    await inbox.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_copying, "_STOPPING_S", PATIENCE_S)


async def test_nobody_copies_beside_a_service(urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for running, option in zip(urls, ("--from", "--to"), strict=True):
        await migrate_store(urls[0])
        inbox = await opened(running, Clock(NOW))
        # It has a connection by now, though it has begun only just now.
        await inbox.check()
        # As long as what migrated takes to go, which is not what is meant here.
        with monkeypatch.context() as patch:
            patch.setattr(postgresql_copying, "_STOPPING_S", 3.0)
            with pytest.raises(ConfigError, match=f"^{option}: (.* is in use by another service|services use)"):
                await copy_store(*urls)
        await inbox.close()
    assert [one.rows for one in await copy_store(*urls) if one.name == "receipts"] == [0]


@pytest.mark.parametrize("fails_at", ["events", "clock"])
async def test_what_is_broken_off_leaves_the_target_empty(
    urls: tuple[str, str], fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await opened(urls[0], Clock(NOW))
    await fill(source)
    await source.close()
    broken = tuple(
        replace(table, columns=(*table.columns[:-1], "missing")) if table.name == fails_at else table
        for table in TABLES
    )
    with monkeypatch.context() as patch:
        patch.setattr(copying, "TABLES", broken)
        with pytest.raises((ConfigError, InboxUnavailable), match="missing"):
            await copy_store(*urls)
    assert (await copy_store(*urls))[0].rows > 0, "which it refuses where anything is"


async def test_what_is_not_the_same_in_the_end_is_not_kept(
    urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await opened(urls[0], Clock(NOW))
    await fill(source)
    await source.close()

    def write_otherwise(kind: Any) -> Any:
        write = kind.write

        async def write_other(self: Any, table: Table, rows: Any) -> None:
            await write(self, table, [[*row[:-1], "other"] if table.name == "bindings" else row for row in rows])

        return write_other

    with monkeypatch.context() as patch:
        for kind in (SqliteStore, PostgresqlStore):
            patch.setattr(kind, "write", write_otherwise(kind))
        with pytest.raises(ConfigError, match=r"^--to: bindings: 2 rows were copied, 2 are there, or they are not the"):
            await copy_store(*urls)
    await copy_store(*urls)


async def test_a_store_of_another_version_is_not_copied(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("source", "target")]
    await migrate_store(urls[0])
    with closing(sqlite3.connect(tmp_path / "source.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'later')")
    with pytest.raises(ConfigError, match=r"^--from: .* of a later version \(099_later\); copy with"):
        await copy_store(*urls)
    with closing(sqlite3.connect(tmp_path / "source.db", isolation_level=None)) as connection:
        connection.execute("DELETE FROM migrations WHERE number IN (1, 99)")
    with pytest.raises(ConfigError, match=r"^--from: .* an earlier version \(without 001_initial\); run"):
        await copy_store(*urls)
    (tmp_path / "empty.db").touch()
    with pytest.raises(ConfigError, match=r"^--from: there are no tables of ours"):
        await copy_store(f"sqlite:///{tmp_path}/empty.db", urls[1])
    with pytest.raises(ConfigError, match="the same one twice"):
        await copy_store(urls[0], urls[0])
    with pytest.raises(ConfigError, match=r"^--from: .*nothing.db is not there; name the store"):
        await copy_store(f"sqlite:///{tmp_path}/nothing.db", urls[1])
    assert not (tmp_path / "nothing.db.lock").exists()


async def test_attempts_of_one_millisecond_are_kept_apart(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"sqlite:///{tmp_path}/source.db"
    await migrate_store(source)
    attempts = [(1, "a", 0, 5, 1), (1, "a", 0, 5, 2), (1, "a", 0, 6, 3), (1, "b", 0, 6, 1), (2, "a", 0, 5, 1)]
    with closing(sqlite3.connect(tmp_path / "source.db", isolation_level=None)) as connection:
        connection.executemany("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, 0, 'retrying', NULL)", attempts)
    # Also where a batch ends between them.
    monkeypatch.setattr(tables, "_ROWS", 2)
    await copy_store(source, database_url)
    pg = await asyncpg.connect(database_url)
    try:
        rows = await pg.fetch("SELECT event_id, sink, replay, started_at, number FROM attempts ORDER BY 1, 2, 3, 4")
    finally:
        await pg.close()
    apart = [(1, "a", 0, 5, 1), (1, "a", 0, 6, 2), (1, "a", 0, 7, 3), (1, "b", 0, 6, 1), (2, "a", 0, 5, 1)]
    assert [tuple(row) for row in rows] == apart


async def test_no_table_and_no_column_is_forgotten(tmp_path: Path, database_url: str) -> None:
    described = {(table.name, column) for table in TABLES for column in table.columns}
    await asyncio.gather(migrate_store(f"sqlite:///{tmp_path}/new.db"), migrate_store(database_url))
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        found = connection.execute(
            "SELECT s.name, c.name FROM sqlite_schema s JOIN pragma_table_info(s.name) c WHERE s.type = 'table'"
            " AND s.name NOT IN ('sqlite_sequence', 'migrations', 'event_keys', 'keys_moved', 'event_media',"
            " 'event_user_data', 'names_noted', 'delivery_counts', 'event_spans', 'receipt_spans', 'delivery_spans', 'job_spans', 'spans_noted')"
        ).fetchall()
        numbered = connection.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%AUTOINCREMENT%'").fetchall()
    assert set(found) == described
    assert {name for (name,) in numbered} == {table.name for table in TABLES if table.numbers_rows}
    pg = await asyncpg.connect(database_url)
    try:
        rows = await pg.fetch(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
            " JOIN pg_class ON oid = format('%I.%I', table_schema, table_name)::regclass"
            " WHERE table_schema = 'public' AND NOT relispartition AND table_name NOT IN ('migrations', 'event_user_data',"
            " 'delivery_counts', 'event_spans', 'receipt_spans', 'delivery_spans', 'job_spans', 'spans_noted', 'partitions')"
        )
        sequences = await pg.fetch("SELECT relname FROM pg_class WHERE relkind = 'S'")
    finally:
        await pg.close()
    # In which order events are followed is told by the server that counts transactions.
    order = {("events", "xid"), ("feed", "by_id_until"), ("feed", "server")}
    assert {(table, column) for table, column, _ in rows} == described | order
    assert {(table, column) for table, column, kind in rows if kind == "boolean"} == {
        (table.name, column) for table in TABLES for column in table.booleans
    }
    assert {f"{table.name}_id_seq" for table in TABLES if table.numbers_rows} == {name for (name,) in sequences}


def test_a_digest_is_of_rows_in_any_order_and_of_nothing_else() -> None:
    def digest(*rows: Any) -> Digest:
        made = Digest()
        made.add(rows)
        return made

    one, other = (1, "a\0b", b"\x00", None, True, 0.5), (2, "", b"", None, False, 0.0)
    assert digest(one, other) == digest(other, (1, "a\ufffdb", b"\x00", None, 1, 0.5))
    assert len({str(digest(*rows)) for rows in ([one], [one, one], [other], [one, other], [(1,)], [("1",)], [])}) == 7
    assert tables.to_plain("\0") == "\ufffd"
