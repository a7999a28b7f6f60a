import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConfigError, InboxUnavailable
from service.inbox import sqlite, sqlite_inquiries, sqlite_jobs, sqlite_queries, sqlite_reads, sqlite_replays
from service.inbox.base import AttemptResult, EventFilter, Finding, JobFilter, NamelessJob, ReplayRequest
from service.inbox.migrations import load_migrations
from service.inbox.rows import Arrival, to_milliseconds
from service.inbox.sqlite import SqliteInbox, migrate
from service.inbox.sqlite_filter import compile_filter
from tests.inbox.conformance import LEASE_S, NOW, SECOND, InboxConformance, Reopen, deliver, make_event, make_receipt
from tests.inbox.conformance_jobs import (
    JobsConformance,
    answer,
    claim,
    claim_one,
    expect,
    held,
    nameless,
    settle,
    states,
)


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[SqliteInbox]:
    inbox = SqliteInbox(tmp_path / "inbox.db")
    await inbox.open()
    yield inbox
    await inbox.close()


@pytest.fixture
async def reopen(tmp_path: Path, inbox: SqliteInbox) -> AsyncIterator[Reopen]:
    opened = [inbox]

    async def close_and_open() -> SqliteInbox:
        await opened[-1].close()
        opened.append(SqliteInbox(tmp_path / "inbox.db"))
        await opened[-1].open()
        return opened[-1]

    yield close_and_open
    await opened[-1].close()


class TestSqliteInbox(InboxConformance):
    """The suite that every inbox passes."""


class TestSqliteJobs(JobsConformance):
    """The suite of expected jobs and held events that every inbox passes."""


async def test_everything_survives_a_restart_and_leases_are_freed(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    inbox = SqliteInbox(path)
    await inbox.open()
    failed, succeeded = make_event(outcome="failed"), make_event()
    await inbox.put(make_receipt(failed))
    await inbox.put(make_receipt(succeeded))
    (lost,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
    await inbox.close()

    inbox = SqliteInbox(path)
    await inbox.open()
    assert (await inbox.put(make_receipt(succeeded))).state == "duplicate"
    assert await deliver(inbox, "a") == [failed.id, succeeded.id], "at once, though the lease had not ended"
    assert await inbox.record([AttemptResult(lost, "delivered")], now=NOW) == [False]
    await inbox.close()


async def test_receipts_tell_what_became_of_them(tmp_path: Path, inbox: SqliteInbox) -> None:
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


async def test_puts_share_a_flush(inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    transact = inbox._transact

    def count(connection: sqlite3.Connection, batch: list[Any]) -> Any:
        batches.append(len(batch))
        return transact(connection, batch)

    monkeypatch.setattr(inbox, "_transact", count)
    await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n}"))) for n in range(300)))
    assert sum(batches) == 300
    assert len(batches) < 100


async def test_a_disk_that_cannot_write_fails_everything_waiting_and_recovers(
    inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sqlite_queries.put

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite_queries, "put", full)
    results = await asyncio.gather(*(inbox.put(make_receipt(make_event())) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, InboxUnavailable) for result in results)
    monkeypatch.setattr(sqlite_queries, "put", original)
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"


async def test_one_receipt_that_the_database_refuses_does_not_fail_its_neighbours(inbox: SqliteInbox) -> None:
    refused = make_receipt(make_event("job-bad"), binding=b"\x00".hex())
    object.__setattr__(refused.entries[0], "binding", object())  # no type that SQLite knows
    results = await asyncio.gather(
        inbox.put(make_receipt(make_event("job-1"))),
        inbox.put(refused),
        inbox.put(make_receipt(make_event("job-2"))),
        return_exceptions=True,
    )
    assert [getattr(result, "state", type(result).__name__) for result in results] == [
        "accepted",
        "InboxUnavailable",
        "accepted",
    ]
    assert len(await deliver(inbox, "a")) == 2


async def test_beyond_the_bound_put_fails_at_once(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path / "inbox.db", max_pending=3, max_pending_bytes=100)
    await inbox.open()
    puts = [asyncio.ensure_future(inbox.put(make_receipt(make_event(f"job-{n}")))) for n in range(5)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(result, InboxUnavailable) for result in results) == 2
    with pytest.raises(InboxUnavailable):
        await inbox.put(make_receipt(make_event("big"), body=b"x" * 101))
    assert (await inbox.put(make_receipt(make_event("job-9")))).state == "accepted", "room again after the flush"
    await inbox.close()


async def test_a_cancelled_put_is_kept_all_the_same(inbox: SqliteInbox) -> None:
    put = asyncio.ensure_future(inbox.put(make_receipt(make_event())))
    await asyncio.sleep(0)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert (await inbox.put(make_receipt(make_event()))).state == "duplicate"


async def test_a_closed_inbox_says_so(tmp_path: Path) -> None:
    inbox = SqliteInbox(tmp_path / "inbox.db")
    for attempt in (inbox.check(), inbox.put(make_receipt()), inbox.next_due_at("a")):
        with pytest.raises(InboxUnavailable, match="not open"):
            await attempt
    await inbox.close()


async def test_a_second_service_on_the_same_file_is_refused(tmp_path: Path, inbox: SqliteInbox) -> None:
    second = SqliteInbox(tmp_path / "inbox.db")
    with pytest.raises(ConfigError, match="in use by another service"):
        await second.open()
    await second.close()


async def test_a_long_list_holds_up_neither_receipts_nor_deliveries(
    inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def list_slowly(connection: sqlite3.Connection) -> tuple[()]:
        connection.execute("SELECT count(*) FROM events").fetchone()
        begun.set()
        assert ended.wait(10)
        return ()

    monkeypatch.setattr(sqlite_reads, "list_sinks", list_slowly)
    slow = asyncio.ensure_future(inbox.list_sinks())
    await asyncio.to_thread(begun.wait, 10)
    event = make_event()
    await inbox.put(make_receipt(event))
    assert await inbox.next_due_at("a") == NOW
    assert await deliver(inbox, "a") == [event.id]
    assert not slow.done()
    ended.set()
    assert await slow == ()


async def test_a_database_that_cannot_be_read_says_so(inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite_reads, "list_sinks", fail)
    with pytest.raises(InboxUnavailable, match="cannot read the store: disk I/O error"):
        await inbox.list_sinks()


async def test_purged_space_is_given_back(tmp_path: Path, inbox: SqliteInbox) -> None:
    path = tmp_path / "inbox.db"
    puts = (inbox.put(make_receipt(make_event(f"job-{n}"), body=bytes(20_000))) for n in range(400))
    await asyncio.gather(*puts)
    await deliver(inbox, "a")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    full = path.stat().st_size
    while not (await inbox.purge(payloads_before=NOW + SECOND, keys_before=NOW, limit=50)).is_finished:
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < full / 20
    assert len(await inbox.list_events(EventFilter(), limit=1000)) == 400


async def test_purge_goes_on_behind_what_it_had_to_leave(inbox: SqliteInbox) -> None:
    for n in range(20):
        await inbox.put(make_receipt(make_event(f"job-{n}"), sinks=("never",)))
    await inbox.put(make_receipt(make_event("last")))
    await deliver(inbox, "a")
    removed: list[tuple[int, bool]] = []
    while len(removed) < 5:
        step = await inbox.purge(payloads_before=NOW + SECOND, keys_before=NOW, limit=7)
        removed.append((step.payloads, step.is_finished))
    assert removed == [(0, False), (0, False), (1, False), (0, True), (0, False)], "seven are looked at in a step"


async def test_a_replay_goes_through_many_events_in_stretches(
    inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_replays, "_IDS_PER_STEP", 3)
    events = [make_event(f"job-{n}", "failed" if n in {0, 9} else "succeeded") for n in range(11)]
    for event in events:
        await inbox.put(make_receipt(event, sinks=()))
    request = ReplayRequest(filter=EventFilter(outcome="failed"), sinks=("a",), rate_per_s=2.0)
    await inbox.create_replay(request, now=NOW)
    half = NOW + SECOND / 2
    assert await inbox.advance_replays(now=NOW) == half, "one was found"
    assert await inbox.advance_replays(now=half) == half, "none was found: at once"
    assert await inbox.advance_replays(now=half) == half
    assert await inbox.advance_replays(now=half) is None
    assert await deliver(inbox, "a", now=half) == [events[0].id, events[9].id]


async def test_a_step_that_was_taken_meanwhile_is_not_taken_again(inbox: SqliteInbox) -> None:
    for n in range(4):
        await inbox.put(make_receipt(make_event(f"job-{n}"), sinks=()))
    request = ReplayRequest(filter=EventFilter(), sinks=("a",), rate_per_s=1.0)
    await inbox.create_replay(request, now=NOW)
    await asyncio.gather(*(inbox.advance_replays(now=NOW) for _ in range(5)))
    assert len(await deliver(inbox, "a", now=NOW)) == 1


async def test_a_page_is_found_whether_its_events_are_new_or_old(
    inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_reads, "_NEWEST", 4)
    events = [make_event(f"job-{n}") for n in range(12)]
    for n, event in enumerate(events):
        await inbox.put(make_receipt(event, sinks=("a",) if n in {1, 2, 9, 10, 11} else ()))
    found: list[str] = []
    before = None
    while page := await inbox.list_events(EventFilter(state="pending"), before=before, limit=2):
        found += [event.id for event in page]
        before = page[-1].cursor
    assert found == [events[n].id for n in (11, 10, 9, 2, 1)]


async def test_lists_of_what_is_not_delivered_use_the_indexes_made_for_it(tmp_path: Path, inbox: SqliteInbox) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        for wanted, index in (
            (EventFilter(state="dead", sink="a"), "deliveries_waiting (sink=? AND state=?)"),
            (EventFilter(state="pending", sink="a"), "deliveries_due (sink=? AND due_at>?)"),
            (EventFilter(state="unrouted"), "events_unrouted"),
            (EventFilter(job_id="job-1"), "events_by_key (key_digest>? AND key_digest<?)"),
            (EventFilter(job_id="job-1"), "bindings_by_value (value=?)"),
            (EventFilter(event_id=make_event().id), "events_by_key (key_digest=? AND outcome=?)"),
        ):
            query = compile_filter(connection, wanted)
            plan = connection.execute(
                f"EXPLAIN QUERY PLAN SELECT e.id FROM {query.source} WHERE {query.condition} ORDER BY e.id DESC LIMIT 50",
                query.parameters,
            ).fetchall()
            assert any(index in step[-1] for step in plan), plan
            assert not any(step[-1].startswith("SCAN e ") and "events_unrouted" not in step[-1] for step in plan), plan


async def test_unusable_files_are_refused_with_the_settings_name(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, and long enough to be looked at" * 20)
    for path in (tmp_path / "missing" / "inbox.db", tmp_path / "text.db"):
        inbox = SqliteInbox(path)
        with pytest.raises(ConfigError, match=r"store\.url: cannot"):
            await inbox.open()
        await inbox.close()


async def test_missing_migrations_are_refused_where_they_must_be_run_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    inbox = SqliteInbox(path, auto_migrate=False)
    with pytest.raises(ConfigError, match="media-callbacks migrate"):
        await inbox.open()
    await inbox.close()
    with sqlite3.connect(path, isolation_level=None) as connection:
        assert migrate(connection) == ["001_initial", "002_jobs"]
        assert migrate(connection) == []
    inbox = SqliteInbox(path, auto_migrate=False)
    await inbox.open()
    await inbox.close()


# Expected jobs and held events


async def test_what_was_being_asked_is_asked_at_once_after_a_restart(inbox: SqliteInbox, reopen: Reopen) -> None:
    await expect(inbox, "job-1", deadline_at=NOW)
    await inbox.put(held(make_event("job-2")))
    lost = await claim(inbox)
    assert len(lost) == 2
    again = await reopen()
    assert await again.next_inquiry_at("vod") == NOW
    assert [one.attempt for one in await claim(again)] == [1, 1]
    assert [one.is_ours for one in await again.settle([Finding(inquiry=one) for one in lost], now=NOW)] == [False] * 2


async def test_receipts_of_one_flush_are_looked_at_in_order(inbox: SqliteInbox) -> None:
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


async def test_a_job_ends_with_the_first_of_two_outcomes_of_one_flush(inbox: SqliteInbox) -> None:
    await expect(inbox, "job-1")
    failed, succeeded = make_event(outcome="failed"), make_event()
    await asyncio.gather(inbox.put(make_receipt(failed)), inbox.put(make_receipt(succeeded)))
    (record,) = await inbox.list_jobs(JobFilter(), now=NOW, limit=9)
    assert record.event_id == failed.id


async def test_events_are_looked_up_among_jobs_only_while_one_is_awaited(
    inbox: SqliteInbox, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    end = sqlite_jobs.end

    def note(connection: sqlite3.Connection, accepted: Any) -> None:
        looked_up.extend(event.data.job_id for event, _ in accepted)
        end(connection, accepted)

    monkeypatch.setattr(sqlite_jobs, "end", note)
    await inbox.put(make_receipt(make_event("job-0")))
    await expect(inbox, "job-1")
    again = await reopen()
    await again.put(make_receipt(make_event("job-1")))
    again = await reopen()
    await again.put(make_receipt(make_event("job-2")))
    assert looked_up == ["job-1"]


async def test_a_finding_that_the_database_refuses_does_not_fail_its_neighbours(inbox: SqliteInbox) -> None:
    await expect(inbox, "job-1", "job-2", deadline_at=NOW)
    one, two = await claim(inbox)
    findings = [
        Finding(inquiry=one, ask_again_at=NOW + SECOND, notification=object()),  # type: ignore[arg-type]
        Finding(inquiry=two, receipt=answer(make_event(str(two.reference.job_id)))),
    ]
    with pytest.raises(InboxUnavailable):
        await inbox.settle(findings, now=NOW)
    assert sorted((await states(inbox)).values()) == ["healed", "overdue"]


async def test_what_is_held_leaves_though_its_receipt_is_gone(tmp_path: Path, inbox: SqliteInbox) -> None:
    event = make_event()
    await inbox.put(held(event))
    with sqlite3.connect(tmp_path / "inbox.db") as connection:
        connection.execute("DELETE FROM receipts")
    connection.close()
    assert (await settle(inbox, await claim_one(inbox), release=event)).accepted == (event,)
    assert await inbox.next_inquiry_at("vod") is None


async def test_jobs_without_an_identity_are_refused(inbox: SqliteInbox) -> None:
    with pytest.raises(ValueError, match="neither"):
        await expect(inbox, None)  # type: ignore[arg-type]
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"


async def test_many_ended_jobs_do_not_slow_down_what_looks_for_others(tmp_path: Path, inbox: SqliteInbox) -> None:
    """By the plan of each query: it goes through an index that has the rows looked for, and no others."""
    statements: list[str] = []
    connection = sqlite3.connect(tmp_path / "inbox.db", isolation_level=None)
    connection.set_trace_callback(statements.append)
    for state in ("expected", "overdue", "unknown"):
        sqlite_jobs.list_jobs(connection, JobFilter(state=state), now=0, before_id=None, limit=9)
    sqlite_jobs.list_jobs(connection, JobFilter(job_id="job-1"), now=0, before_id=9, limit=9)
    sqlite_jobs.count_waiting(connection, 0)
    sqlite_jobs.report(connection, since=0, until=9, now=0)
    sqlite_jobs.are_any_awaited(connection)
    sqlite_inquiries.claim(connection, "vod", limit=9, now=0, until=9, lease="l")
    sqlite_inquiries.next_at(connection, "vod")
    sqlite_inquiries.free_leases(connection)
    sqlite_jobs.meant_by(connection, NamelessJob("vod", "default", "snapshot", "media-1", takes_name=True))
    connection.set_trace_callback(None)
    assert len(statements) > 10
    for statement in statements:
        for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            scanned = step[-1].startswith("SCAN jobs")
            assert not scanned or any(name in step[-1] for name in ("jobs_due", "jobs_open", "jobs_awaited")), statement
    connection.close()


async def test_a_database_of_the_release_before_gets_what_jobs_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = load_migrations("sqlite")
    path = tmp_path / "inbox.db"
    connection = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as before:
        before.setattr(sqlite, "load_migrations", lambda _: [first])
        assert migrate(connection) == ["001_initial"]
    arrival = Arrival(make_receipt(make_event()), to_milliseconds(NOW))
    sqlite_queries.put(connection, [arrival], are_jobs_awaited=False)
    connection.close()
    inbox = SqliteInbox(path)
    await inbox.open()
    assert [job.state for job in await expect(inbox, "job-1", "job-2")] == ["completed", "expected"]
    await inbox.close()


def test_a_migration_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = load_migrations("sqlite")
    broken = type(first)(2, "broken", "CREATE TABLE half (x);\nCREATE TABLE half (x);\n")
    monkeypatch.setattr(sqlite, "load_migrations", lambda _: [first, broken])
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
        inbox = SqliteInbox(path)
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

    with tempfile.TemporaryDirectory() as folder:
        accepted, delivered = asyncio.run(run(Path(folder) / "inbox.db"))
    assert accepted == expected
    for job, outcomes in model.items():
        ids = [make_event(job, outcome).id for outcome in outcomes]
        assert [event_id for event_id in delivered if event_id in ids] == ids
    assert len(delivered) == len(expected)
