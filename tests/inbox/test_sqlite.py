import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConfigError, InboxUnavailable
from service.inbox import sqlite, sqlite_queries
from service.inbox.base import AttemptResult
from service.inbox.migrations import load_migrations
from service.inbox.sqlite import SqliteInbox, migrate
from tests.inbox.conformance import LEASE_S, NOW, InboxConformance, deliver, make_event, make_receipt


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[SqliteInbox]:
    inbox = SqliteInbox(tmp_path / "inbox.db")
    await inbox.open()
    yield inbox
    await inbox.close()


class TestSqliteInbox(InboxConformance):
    """The suite that every inbox passes."""


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

    def full(*_: object) -> None:
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
        assert migrate(connection) == ["001_initial"]
        assert migrate(connection) == []
    inbox = SqliteInbox(path, auto_migrate=False)
    await inbox.open()
    await inbox.close()


def test_a_migration_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = load_migrations("sqlite")
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
