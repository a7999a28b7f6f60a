import asyncio
import contextlib
import errno
import os
import re
import shutil
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.inbox.asking import inquiries, jobs
from media_callbacks.inbox.database import Database
from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.operating import reads, sinks
from media_callbacks.inbox.operating.filters import compile_filter, find_ids
from media_callbacks.inbox.records import AttemptResult, EventFilter, Finding, JobFilter
from media_callbacks.inbox.rows import size_bytes
from media_callbacks.inbox.sqlite import checkpoints, receipts, writer
from media_callbacks.inbox.sqlite import file as sqlite_file
from media_callbacks.inbox.sqlite.database import SqliteDatabase, run_now
from media_callbacks.inbox.sqlite.file import migrate
from media_callbacks.inbox.sqlite.keys import RecentKeys
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from media_callbacks.model.identity import key_digest
from media_callbacks.model.receipts import NamelessJob
from tests.exercises.bench.flat import find_reads
from tests.factories.memory import find_memory
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import (
    LEASE_S,
    NOW,
    SECOND,
    DatabaseConformance,
    InboxConformance,
    Reopen,
    attempt,
    deliver,
    make_event,
    make_receipt,
    purge_step,
)
from tests.inbox.conformance_accounts import AccountsConformance
from tests.inbox.conformance_activity import ActivityConformance
from tests.inbox.conformance_counts import CountsConformance
from tests.inbox.conformance_erasures import ErasuresConformance
from tests.inbox.conformance_feed import FeedConformance
from tests.inbox.conformance_jobs import (
    DatabaseJobsConformance,
    JobsConformance,
    claim,
    claim_one,
    expect,
    held,
    nameless,
    settle,
)
from tests.inbox.conformance_lives import LivesConformance
from tests.inbox.conformance_refusals import RefusalsConformance
from tests.inbox.conformance_troubles import TroublesConformance
from tests.inbox.timed import Clock, TimedSqliteInbox


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[TimedSqliteInbox]:
    inbox = TimedSqliteInbox(tmp_path / "inbox.db")
    await inbox.open()
    yield inbox
    await inbox.close()


@pytest.fixture
async def reopen(tmp_path: Path, inbox: TimedSqliteInbox) -> AsyncIterator[Reopen]:
    opened = [inbox]

    async def close_and_open(**arguments: Any) -> TimedSqliteInbox:
        await opened[-1].close()
        opened.append(TimedSqliteInbox(tmp_path / "inbox.db", **arguments))
        await opened[-1].open()
        return opened[-1]

    yield close_and_open
    await opened[-1].close()


class TestSqliteInbox(InboxConformance, DatabaseConformance):
    """The suite that every inbox passes."""


class TestSqliteLives(LivesConformance):
    """The suite about what is known of a job."""


class TestSqliteAccounts(AccountsConformance):
    """The suite about accounts that know nothing of each other."""


class TestSqliteActivity(ActivityConformance):
    """The suite about what came in and went out."""


class TestSqliteCounts(CountsConformance):
    """The suite about counts of deliveries."""


class TestSqliteErasures(ErasuresConformance):
    """The suite about erasures."""


class TestSqliteFeed(FeedConformance):
    """The suite about the feed."""


class TestSqliteRefusals(RefusalsConformance):
    """The suite about refused requests and quiet sources."""


class TestSqliteTroubles(TroublesConformance):
    """The suite about troubles of the service."""


class TestSqliteJobs(JobsConformance, DatabaseJobsConformance):
    """The suite of expected jobs and held events that every inbox passes."""


class KeysInMemory:
    @pytest.fixture(autouse=True)
    def move_no_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(RecentKeys, "move", lambda _: None)


class TestSqliteInboxWithKeysInMemory(KeysInMemory, TestSqliteInbox):
    """The same where no key ever gets to the file."""


class TestSqliteJobsWithKeysInMemory(KeysInMemory, TestSqliteJobs):
    """The same where no key ever gets to the file."""


async def test_everything_survives_a_restart_and_leases_are_freed(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    inbox = TimedSqliteInbox(path)
    await inbox.open()
    failed, succeeded = make_event(outcome="failed"), make_event()
    await inbox.put(make_receipt(failed))
    await inbox.put(make_receipt(succeeded))
    (lost,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
    await inbox.close()

    inbox = TimedSqliteInbox(path)
    await inbox.open()
    assert (await inbox.put(make_receipt(succeeded))).state == "duplicate"
    assert await deliver(inbox, "a") == [failed.id, succeeded.id], "at once, though the lease had not ended"
    assert await inbox.record([AttemptResult(lost, "delivered")], now=NOW) == [False]
    await inbox.close()


async def test_receipts_tell_what_became_of_them(tmp_path: Path, inbox: TimedSqliteInbox) -> None:
    event = make_event()
    await inbox.put(make_receipt(event, body=b"first"))
    await inbox.put(make_receipt(event, body=b"differs", warnings=("Size",)))
    await inbox.put(make_receipt(body=b"\xff", reason="not UTF-8", meta={"nonce": "ab"}))
    rows = (
        sqlite3.connect(tmp_path / "inbox.db")
        .execute("SELECT id, state, body, reason, warnings, meta FROM receipts ORDER BY id")
        .fetchall()
    )
    assert rows == [
        (1, "accepted", b"first", None, None, None),
        (2, "duplicate", b"differs", None, '["Size"]', None),
        (3, "unparsed", b"\xff", "not UTF-8", None, '{"nonce": "ab"}'),
    ]
    connection = sqlite3.connect(tmp_path / "inbox.db")
    assert connection.execute("SELECT receipt_id FROM events").fetchall() == [(1,)]
    assert connection.execute("SELECT receipt_id FROM event_receipts").fetchall() == [(2,)]


async def test_puts_share_a_flush(inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    assert inbox._writer is not None
    transact = inbox._writer._transact

    def count(batch: list[Any]) -> Any:
        batches.append(len(batch))
        return transact(batch)

    monkeypatch.setattr(inbox._writer, "_transact", count)
    await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n}"))) for n in range(300)))
    assert sum(batches) == 300
    assert len(batches) < 100


async def test_nothing_is_answered_before_its_flush_and_nothing_waits_for_that_of_others(
    tmp_path: Path, inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end, flushes = threading.Semaphore(0), threading.Semaphore(0), []

    def flush(wal: int) -> None:
        flushes.append(os.fstat(wal).st_ino)
        begun.release()
        may_end.acquire()

    monkeypatch.setattr(writer, "_SYNC", flush)
    first = inbox.put(make_receipt(make_event("job-1")))
    await asyncio.to_thread(begun.acquire)
    second = inbox.put(make_receipt(make_event("job-2")))
    third = inbox.put(make_receipt(make_event("job-3")))
    with contextlib.closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        while connection.execute("SELECT count(*) FROM receipts").fetchone() != (3,):  # noqa: ASYNC110 - of a thread
            await asyncio.sleep(0)
    assert not first.done()
    may_end.release()
    assert (await first).state == "accepted"
    assert not second.done()
    may_end.release()
    await asyncio.gather(second, third)
    assert flushes == [(tmp_path / "inbox.db-wal").stat().st_ino] * 2
    may_end.release(10)


async def test_deliveries_wait_for_the_flush_of_what_they_have_seen_and_for_no_further_one(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def flush(_: int) -> None:
        begun.release()
        may_end.acquire()

    monkeypatch.setattr(writer, "_SYNC", flush)
    # Nobody comes for so long that they are flushed for their own sake.
    monkeypatch.setattr(writer, "_LATE_FLUSH_S", PATIENCE_S)
    accepting = inbox.put(make_receipt(make_event()))
    await asyncio.to_thread(begun.acquire)
    claiming = asyncio.ensure_future(inbox.claim("a", limit=10, max_bytes=10_000, lease_s=LEASE_S))
    await inbox.count_waiting()
    assert not accepting.done()
    assert not claiming.done()
    may_end.release()
    await accepting
    [delivery] = await claiming
    assert await inbox.record([AttemptResult(delivery, "delivered", started_at=NOW)]) == [True]
    assert not begun.acquire(blocking=False)
    may_end.release(10)


async def test_what_became_of_deliveries_is_flushed_though_nobody_comes(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inbox.put(make_receipt(make_event()))
    flushed = threading.Semaphore(0)
    monkeypatch.setattr(writer, "_SYNC", lambda _: flushed.release())
    await inbox.claim("a", limit=10, max_bytes=10_000, lease_s=LEASE_S)
    assert await asyncio.to_thread(flushed.acquire, timeout=PATIENCE_S)


async def test_what_became_of_deliveries_is_on_disk_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = TimedSqliteInbox(tmp_path / "closed.db")
    await inbox.open()
    await inbox.put(make_receipt(make_event()))
    flushed = threading.Semaphore(0)
    monkeypatch.setattr(writer, "_SYNC", lambda _: flushed.release())
    monkeypatch.setattr(writer, "_LATE_FLUSH_S", PATIENCE_S)
    claiming = asyncio.ensure_future(inbox.claim("a", limit=10, max_bytes=10_000, lease_s=LEASE_S))
    await asyncio.sleep(0)
    await inbox.close()
    assert claiming.done()
    assert flushed.acquire(blocking=False)


async def test_after_a_flush_that_failed_nothing_is_taken(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(writer, "_SYNC", fail)
        with pytest.raises(InboxUnavailable, match=r"Input/output error.*restart"):
            await inbox.put(make_receipt(make_event()))
    # A further flush would succeed, though the kernel has dropped what the first one was about.
    with pytest.raises(InboxUnavailable, match="restart"):
        await inbox.put(make_receipt(make_event()))
    with pytest.raises(InboxUnavailable, match="restart"):
        await inbox.check()


async def test_after_a_checkpoint_that_the_disk_failed_nothing_is_taken(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    monkeypatch.setattr(checkpoints, "_WORKS_PER_CHECKPOINT", 1)
    monkeypatch.setattr(checkpoints, "_checkpoint", fail)

    async def put_many() -> None:
        for number in range(10_000):
            await inbox.put(make_receipt(make_event(f"job-{number}")))

    with pytest.raises(InboxUnavailable, match=r"disk I/O error.*restart"):
        await put_many()


async def test_a_checkpoint_that_cannot_be_made_just_now_stops_nothing(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def fail(_: sqlite3.Connection) -> None:
        tried.set()
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(checkpoints, "_WORKS_PER_CHECKPOINT", 1)
    monkeypatch.setattr(checkpoints, "_checkpoint", fail)
    for number in range(100):
        assert (await inbox.put(make_receipt(make_event(f"job-{number}")))).state == "accepted"
    assert tried.is_set()


async def test_checkpoints_beside_the_writer_give_the_wal_back(
    tmp_path: Path, inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_WORKS_PER_CHECKPOINT", 20)
    sizes = []
    for number in range(600):
        await inbox.put(make_receipt(make_event(f"job-{number}"), body=b"x" * 3000))
        sizes.append((tmp_path / "inbox.db-wal").stat().st_size)
    assert sizes[-1] < len(sizes) * sizes[0] / 4, "it was begun again"
    assert len(await inbox.list_events(EventFilter(), limit=1000)) == 600


async def test_the_files_beside_a_database_are_those_of_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "data" / "inbox.db")
    linked, direct = TimedSqliteInbox(tmp_path / "link.db"), TimedSqliteInbox(tmp_path / "data" / "inbox.db")
    await linked.open()
    assert (await linked.put(make_receipt(make_event()))).state == "accepted"
    with pytest.raises(ConfigError, match="in use"):
        await direct.open()
    await linked.close()


async def test_a_file_that_could_not_be_opened_can_be_when_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    path.write_bytes(b"no database, " * 1000)
    inbox = TimedSqliteInbox(path)
    with pytest.raises(ConfigError, match="not a database"):
        await inbox.open()
    path.unlink()
    other = TimedSqliteInbox(path)
    await other.open()
    assert (await other.put(make_receipt(make_event()))).state == "accepted"
    await other.close()


async def test_a_disk_that_cannot_write_fails_everything_waiting_and_recovers(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = receipts.put

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(receipts, "put", full)
    results = await asyncio.gather(*(inbox.put(make_receipt(make_event())) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, InboxUnavailable) for result in results)
    monkeypatch.setattr(receipts, "put", original)
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"


async def test_a_full_disk_is_seen_until_there_is_room_again(
    tmp_path: Path, inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(database: Database) -> sqlite3.Connection:
        assert isinstance(database, SqliteDatabase)
        return database.connection

    connection = await inbox._write(find)
    for make_room in ("receipts find some", "the disk has some"):
        connection.execute("PRAGMA max_page_count = 1")
        await inbox.check()
        with pytest.raises(InboxUnavailable, match="full"):
            await inbox.put(make_receipt(make_event(f"job of {make_room}"), body=b"x" * 1_000_000))
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
            # The heartbeat alone finds room.
            with pytest.raises(InboxUnavailable, match=f"the disk of {tmp_path}/inbox.db is full: make room"):
                await inbox.check()
            assert (await inbox.measure()).free_bytes == 4096
            connection.execute("PRAGMA max_page_count = 100000")
            if make_room == "receipts find some":
                await inbox.put(make_receipt(make_event("another")))
                await inbox.check()
        await inbox.check()


async def test_all_that_it_makes_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        inbox = TimedSqliteInbox(tmp_path / "inbox.db")
        await inbox.open()
        await inbox.put(make_receipt(make_event("a")))
        modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in os.listdir(tmp_path)}
        await inbox.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["inbox.db", "inbox.db-wal", "inbox.db-shm", "inbox.db.lock"], 0o600)


async def test_a_closed_inbox_says_so(tmp_path: Path) -> None:
    inbox = TimedSqliteInbox(tmp_path / "inbox.db")
    for operation in (inbox.check(), inbox.put(make_receipt()), inbox.next_due_at("a")):
        with pytest.raises(InboxUnavailable, match="not open"):
            await operation
    await inbox.close()


async def test_a_second_service_on_the_same_file_is_refused(tmp_path: Path, inbox: TimedSqliteInbox) -> None:
    second = TimedSqliteInbox(tmp_path / "inbox.db")
    with pytest.raises(ConfigError, match="in use by another service"):
        await second.open()
    await second.close()


async def test_a_long_list_holds_up_neither_receipts_nor_deliveries(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def list_slowly(database: Database) -> tuple[()]:
        await database.fetch_value("SELECT count(*) FROM events")
        begun.set()
        assert ended.wait(PATIENCE_S)
        return ()

    monkeypatch.setattr(sinks, "list_sinks", list_slowly)
    slow = asyncio.ensure_future(inbox.list_sinks())
    await asyncio.to_thread(begun.wait, 10)
    event = make_event()
    await inbox.put(make_receipt(event))
    assert await inbox.next_due_at("a") == NOW
    assert await deliver(inbox, "a") == [event.id]
    assert not slow.done()
    ended.set()
    assert await slow == ()


async def test_a_database_that_cannot_be_read_says_so(inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Database) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sinks, "list_sinks", fail)
    with pytest.raises(InboxUnavailable, match="cannot read the store: disk I/O error"):
        await inbox.list_sinks()


async def test_purged_space_is_given_back(tmp_path: Path, inbox: TimedSqliteInbox) -> None:
    path = tmp_path / "inbox.db"
    puts = (inbox.put(make_receipt(make_event(f"job-{n}"), body=bytes(20_000))) for n in range(400))
    await asyncio.gather(*puts)
    await deliver(inbox, "a")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    full = path.stat().st_size
    while not (await purge_step(inbox, payloads_before=NOW + SECOND, keys_before=NOW, limit=50)).is_finished:
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < full / 20
    assert len(await inbox.list_events(EventFilter(), limit=1000)) == 400


async def test_lists_of_what_is_not_delivered_use_the_indexes_made_for_it(
    tmp_path: Path, inbox: TimedSqliteInbox
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        database = SqliteDatabase(connection, Clock().anchored())
        for wanted, index in (
            (EventFilter(state="dead", sink="a"), "deliveries_waiting (sink=? AND state=?)"),
            (EventFilter(given_up_since=NOW, sink="a"), "deliveries_given_up (sink=? AND changed_at>?)"),
            (EventFilter(state="dead", given_up_until=NOW), "INDEX deliveries_given_up"),
            (EventFilter(state="pending", sink="a"), "deliveries_due (sink=? AND due_at>?)"),
            (EventFilter(state="unrouted"), "events_unrouted"),
            (EventFilter(job_id="job-1"), "e USING PRIMARY KEY (key_digest>? AND key_digest<?)"),
            (EventFilter(job_id="job-1"), "bindings_by_value (value=?)"),
            (EventFilter(event_id=make_event().id), "e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ):
            query = compile_filter(database, wanted, await find_ids(database, wanted))
            plan = await database.fetch(
                f"EXPLAIN QUERY PLAN {query.select('e.id')} ORDER BY e.id DESC LIMIT 50", *query.parameters
            )
            assert any(index in step[-1] for step in plan), plan
            assert not any(step[-1].startswith("SCAN e ") and "events_unrouted" not in step[-1] for step in plan), plan
        for wanted in (EventFilter(state="dead", sink="a"), EventFilter(given_up_since=NOW, sink="a")):
            query = compile_filter(database, wanted, range(9), by_index=False)
            plan = await database.fetch(f"EXPLAIN QUERY PLAN {query.select('e.id')}", *query.parameters)
            assert any("d USING PRIMARY KEY (event_id=? AND sink=?)" in step[-1] for step in plan), plan


async def test_events_are_found_by_their_keys_without_going_through_all(
    tmp_path: Path, inbox: TimedSqliteInbox
) -> None:
    statements: list[str] = []
    with contextlib.closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        connection.set_trace_callback(statements.append)
        await SqliteDatabase(connection, Clock().anchored()).find_event(key_digest(make_event().id), 0)
        connection.set_trace_callback(None)
        (statement,) = statements
        steps = [step[-1] for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert "SEARCH e USING PRIMARY KEY (key_digest=?)" in steps
    assert not any(step.startswith("SCAN e") for step in steps), steps


# What grows with what is stored, under the names that queries give it.
GROWING = re.compile(
    r"SCAN (receipts|events|event_bodies|event_user_data|deliveries|attempts|r|e|b|u|d|a|l|m|o|w)\b"
    # Of these, which are few, some of the last.
    r"(?! USING INDEX receipts_in_trouble)"
)


@pytest.mark.parametrize("newest", [1, 1000])
async def test_no_list_and_no_search_goes_through_all_that_is_stored(
    inbox: TimedSqliteInbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: int
) -> None:
    monkeypatch.setattr(reads, "_NEWEST", newest)
    events = [make_event(f"job-{n}", user_data="order 2", media_id=f"media-{n}") for n in range(6)]
    for event in events:
        await inbox.put(make_receipt(event, sinks=("orders", "bus")))
        await attempt(inbox, "orders", "delivered")
    await attempt(inbox, "bus", "dead")
    await inbox.put(make_receipt(events[0]))
    await inbox.put(make_receipt(body=b"unparsed"))
    await inbox.set_sink_state("bus", "paused", reason=None, changed_by=None)
    statements: list[str] = []
    for reader in (inbox._listing, inbox._dispatching):
        await reader.close()
        connect = reader._connect

        def connect_traced(connect: Callable[[], sqlite3.Connection] = connect) -> sqlite3.Connection:
            connection = connect()
            connection.set_trace_callback(statements.append)
            return connection

        monkeypatch.setattr(reader, "_connect", connect_traced)
    for name, read in (await find_reads(inbox, 3)).items():
        # This one, of what is to be sent again, costs as much as there is of it.
        if name != "how many were given up":
            await read()
    assert len(set(statements)) > 100
    with contextlib.closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        for statement in sorted(set(statements) - {"BEGIN", "COMMIT"}):
            steps = [step[-1] for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [step for step in steps if GROWING.match(step)], (statement, steps)


def test_an_operation_that_would_wait_is_ended_where_it_does() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(True)

    waiting = wait()
    with pytest.raises(RuntimeError, match="without waiting"):
        run_now(waiting)
    assert ended


async def test_unusable_files_are_refused_with_the_settings_name(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, and long enough to be looked at" * 20)
    for path in (tmp_path / "missing" / "inbox.db", tmp_path / "text.db"):
        inbox = TimedSqliteInbox(path)
        with pytest.raises(ConfigError, match=r"store\.url: cannot"):
            await inbox.open()
        await inbox.close()


async def test_missing_migrations_are_refused_where_they_must_be_run_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    inbox = TimedSqliteInbox(path, auto_migrate=False)
    with pytest.raises(ConfigError, match="media-callbacks migrate"):
        await inbox.open()
    await inbox.close()
    with sqlite3.connect(path, isolation_level=None) as connection:
        assert migrate(connection) == [
            "001_initial",
            "002_jobs",
            "003_clock",
            "004_operating",
        ]
        assert migrate(connection) == []
    inbox = TimedSqliteInbox(path, auto_migrate=False)
    await inbox.open()
    await inbox.close()


# Expected jobs and held events


async def test_what_was_being_asked_is_asked_at_once_after_a_restart(inbox: TimedSqliteInbox, reopen: Reopen) -> None:
    await expect(inbox, "job-1", deadline_at=NOW)
    await inbox.put(held(make_event("job-2")))
    lost = await claim(inbox)
    assert len(lost) == 2
    again = await reopen()
    assert await again.next_inquiry_at("vod") == NOW
    assert [one.attempt for one in await claim(again)] == [1, 1]
    assert [one.is_ours for one in await again.settle([Finding(inquiry=one) for one in lost], now=NOW)] == [False] * 2


async def test_receipts_of_one_flush_are_looked_at_in_order(inbox: TimedSqliteInbox) -> None:
    await expect(inbox, "job-1")
    named = make_event("job-1", "failed")
    verdicts = await asyncio.gather(
        inbox.put(make_receipt(make_event("job-0"))),
        inbox.put(make_receipt(named)),
        inbox.put(nameless(1)),
        inbox.put(held(named)),
        inbox.put(held(make_event("job-2"))),
        inbox.put(make_receipt(make_event("job-2"))),
        inbox.put(make_receipt(make_event("job-2"))),
    )
    assert [(len(verdict.accepted), verdict.held, verdict.state) for verdict in verdicts] == [
        (1, 0, "accepted"),
        (1, 0, "accepted"),
        (1, 0, "accepted"),
        (0, 0, "duplicate"),
        (0, 1, "accepted"),
        (1, 0, "accepted"),
        (0, 0, "duplicate"),
    ]
    assert verdicts[2].accepted[0].data.job_id is None, "the job had ended"


async def test_a_job_ends_with_the_first_of_two_outcomes_of_one_flush(inbox: TimedSqliteInbox) -> None:
    await expect(inbox, "job-1")
    failed, succeeded = make_event(outcome="failed"), make_event()
    await asyncio.gather(inbox.put(make_receipt(failed)), inbox.put(make_receipt(succeeded)))
    (record,) = await inbox.list_jobs(JobFilter(), now=NOW, limit=9)
    assert record.event_id == failed.id


async def test_events_are_looked_up_among_jobs_only_while_one_is_awaited(
    inbox: TimedSqliteInbox, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    end = jobs.end

    async def note(database: Database, accepted: Any) -> None:
        looked_up.extend(event.data.job_id for event, _ in accepted)
        await end(database, accepted)

    monkeypatch.setattr(jobs, "end", note)
    await inbox.put(make_receipt(make_event("job-0")))
    await expect(inbox, "job-1")
    again = await reopen()
    await again.put(make_receipt(make_event("job-1")))
    again = await reopen()
    await again.put(make_receipt(make_event("job-2")))
    assert looked_up == ["job-1"]


async def test_what_is_held_leaves_though_its_receipt_is_gone(tmp_path: Path, inbox: TimedSqliteInbox) -> None:
    event = make_event()
    await inbox.put(held(event))
    with sqlite3.connect(tmp_path / "inbox.db") as connection:
        connection.execute("DELETE FROM receipts")
    connection.close()
    assert (await settle(inbox, await claim_one(inbox), release=event)).accepted == (event,)
    assert await inbox.next_inquiry_at("vod") is None


async def test_many_ended_jobs_do_not_slow_down_what_looks_for_others(tmp_path: Path, inbox: TimedSqliteInbox) -> None:
    """By the plan of each query: it goes through an index that has the rows looked for, and no others."""
    statements: list[str] = []
    connection = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    connection.set_trace_callback(statements.append)
    database = SqliteDatabase(connection, Clock().anchored())
    for state in ("expected", "overdue", "unknown"):
        await jobs.list_jobs(database, JobFilter(state=state), before_id=None, limit=9)
    await jobs.list_jobs(database, JobFilter(job_id="job-1"), before_id=9, limit=9)
    await jobs.count_waiting(database)
    await jobs.report(database, since=0, until=9)
    await jobs.are_any_awaited(database)
    await jobs.end(database, [(make_event(), 0)])
    await inquiries.claim(database, "vod", limit=9, lease_ms=9, lease="l")
    await inquiries.next_at(database, "vod")
    await inquiries.free_leases(database)
    await jobs.meant_by(database, NamelessJob("vod", "default", "snapshot", "media-1", takes_name=True))
    connection.set_trace_callback(None)
    assert len(statements) > 10
    for statement in statements:
        for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            scanned = step[-1].startswith("SCAN jobs")
            assert not scanned or any(name in step[-1] for name in ("jobs_due", "jobs_open", "jobs_awaited")), statement
    connection.close()


async def test_a_database_without_what_jobs_need_gets_it(
    inbox: TimedSqliteInbox, reopen: Reopen, tmp_path: Path
) -> None:
    await inbox.put(make_receipt(make_event()))
    await inbox.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)) as connection:
        for table in ("jobs", "held", "nameless_keys", "nameless_events"):
            connection.execute(f"DROP TABLE {table}")
        # What a later migration has made, which is applied again as well.
        made = "".join(one.sql for one in load_migrations("sqlite") if one.number == 4)
        for kind in ("TRIGGER", "VIEW", "TABLE", "INDEX"):
            for name in re.findall(rf"^CREATE {kind} (\w+)", made, re.MULTILINE):
                connection.execute(f"DROP {kind} IF EXISTS {name}")
        connection.execute("ALTER TABLE deliveries DROP COLUMN replay_id")
        connection.execute("DELETE FROM migrations WHERE number IN (2, 4)")
    again = await reopen()
    assert [job.state for job in await expect(again, "job-1", "job-2")] == ["completed", "expected"]


def test_a_migration_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = load_migrations("sqlite")
    broken = type(first)(2, "broken", "CREATE TABLE half (x);\nCREATE TABLE half (x);\n")
    monkeypatch.setattr(sqlite_file, "load_migrations", lambda _: [first, broken])
    connection = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(["succeeded", "failed", "unknown"])), max_size=30
    ),
    st.data(),
)
@settings(max_examples=25, deadline=None)
def test_any_sequence_in_any_grouping_equals_the_model(puts: list[tuple[str, str]], data: Any) -> None:
    """One event per key and outcome, revisions in order of acceptance, deliveries in order per key."""
    groups = []
    rest = list(puts)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        groups.append(rest[:size])
        rest = rest[size:]

    async def run(path: Path) -> tuple[list[tuple[str, str, int]], list[str]]:
        inbox = TimedSqliteInbox(path)
        await inbox.open()
        accepted: list[tuple[str, str, int]] = []
        for group in groups:
            for verdict in await asyncio.gather(
                *(inbox.put(make_receipt(make_event(job, outcome))) for job, outcome in group)
            ):
                accepted += [(str(e.data.job_id), e.data.outcome, e.data.revision) for e in verdict.accepted]
        delivered = await deliver(inbox, "a", now=NOW + timedelta(seconds=1))
        await inbox.close()
        return accepted, delivered

    model: dict[str, list[str]] = {}
    expected = []
    for job, outcome in puts:
        seen = model.setdefault(job, [])
        if outcome not in seen:
            seen.append(outcome)
            expected.append((job, outcome, len(seen)))

    import tempfile

    with tempfile.TemporaryDirectory(dir=find_memory()) as folder:
        accepted, delivered = asyncio.run(run(Path(folder) / "inbox.db"))
    assert accepted == expected
    for job, outcomes in model.items():
        ids = [make_event(job, outcome).id for outcome in outcomes]
        assert [event_id for event_id in delivered if event_id in ids] == ids
    assert len(delivered) == len(expected)


async def test_a_transaction_is_bounded_by_what_was_made_of_its_receipts(
    inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = receipts.put

    def observed(database: SqliteDatabase, kept: Any, **arguments: Any) -> Any:
        sizes.append(sum(map(size_bytes, kept)))
        return real(database, kept, **arguments)

    monkeypatch.setattr(receipts, "put", observed)
    monkeypatch.setattr(writer, "_MAX_BATCH_BYTES", 300_000)
    events = [make_event(f"job-{n}", user_data="x" * 50_000) for n in range(10)]
    await asyncio.gather(*(inbox.put(make_receipt(event)) for event in events))
    assert max(sizes) < 300_000
    assert len(sizes) == 5


# What another process does to the file
_VISIT = """
import asyncio, sys
from pathlib import Path
from media_callbacks.inbox.roles import EventFilter
from media_callbacks.inbox.sqlite.inbox import SqliteInbox

async def visit():
    inbox = SqliteInbox(Path(sys.argv[1]), is_exclusive=False)
    await inbox.open()
    await inbox.list_events(EventFilter(), limit=1)
    await inbox.close()

asyncio.run(visit())
"""


async def test_a_tool_that_comes_and_goes_takes_nothing_of_what_is_written_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    inbox = TimedSqliteInbox(path)
    await inbox.open()
    # All its connections are there.
    await inbox.list_events(EventFilter(), limit=1)
    await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _VISIT, str(path))
    assert await process.wait() == 0
    await inbox.put(make_receipt(make_event()))
    # What a process leaves that is killed now.
    left = shutil.copytree(tmp_path, tmp_path / "left", ignore=shutil.ignore_patterns("left"))
    await inbox.close()
    with contextlib.closing(sqlite3.connect(left / "inbox.db")) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(1,)]
