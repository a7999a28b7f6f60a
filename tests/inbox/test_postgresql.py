import asyncio
import contextlib
import gc
import json
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from media_callbacks.inbox.asking import jobs
from media_callbacks.inbox.database import Database
from media_callbacks.inbox.journal.store import JournaledStore
from media_callbacks.inbox.keeping.migrations import Migration, load_migrations, missing_migrations
from media_callbacks.inbox.operating import reads, replays
from media_callbacks.inbox.postgresql import connecting, migrating, receipts, tasks
from media_callbacks.inbox.postgresql import inbox as inbox_module
from media_callbacks.inbox.postgresql import writer as writer_module
from media_callbacks.inbox.postgresql.database import PostgresqlDatabase
from media_callbacks.inbox.postgresql.functions import lock_of
from media_callbacks.inbox.postgresql.news import News, _payloads
from media_callbacks.inbox.postgresql.schema import migrate
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.records import INQUIRIES, AttemptResult, EventFilter, Finding, JobFilter, ReplayRequest
from media_callbacks.inbox.rows import size_bytes
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from media_callbacks.model.events import Event
from media_callbacks.model.identity import key_digest
from media_callbacks.model.jobs import ExpectedJob
from media_callbacks.model.receipts import Receipt, Verdict
from tests.exercises.bench.flat import find_reads
from tests.factories import earlier
from tests.factories.postgresql import PostgresqlServer, execute, with_database
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import (
    DAY,
    LEASE_S,
    NOW,
    SECOND,
    DatabaseConformance,
    InboxConformance,
    Reopen,
    attempt,
    deliver,
    find,
    make_event,
    make_receipt,
    purge,
)
from tests.inbox.conformance_accounts import AccountsConformance
from tests.inbox.conformance_activity import ActivityConformance
from tests.inbox.conformance_counts import CountsConformance
from tests.inbox.conformance_erasures import ErasuresConformance
from tests.inbox.conformance_feed import FeedConformance
from tests.inbox.conformance_jobs import (
    DEADLINE,
    NONCE,
    DatabaseJobsConformance,
    JobsConformance,
    answer,
    held,
    nameless,
    reference,
)
from tests.inbox.conformance_lives import LivesConformance
from tests.inbox.conformance_refusals import RefusalsConformance
from tests.inbox.conformance_troubles import TroublesConformance, see, to_ops
from tests.inbox.timed import Clock, TimedPostgresqlInbox

OpenInbox = Callable[..., Awaitable[TimedPostgresqlInbox]]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers late answers all the same: which of the two it is must not be up to the machine."""
    for name in ("PUT_TIMEOUT", "_LOCK_TIMEOUT", "_IDLE_IN_TRANSACTION", "_CONNECT_TIMEOUT"):
        monkeypatch.setattr(connecting, f"{name}_S", PATIENCE_S)


@pytest.fixture
async def open_inbox(database_url: str) -> AsyncIterator[OpenInbox]:
    """Opens further services' inboxes on the same database, and closes them in the end."""
    async with AsyncExitStack() as stack:

        async def open_one(**arguments: Any) -> TimedPostgresqlInbox:
            inbox = TimedPostgresqlInbox(database_url, **arguments)
            stack.push_async_callback(inbox.close)
            await inbox.open()
            return inbox

        yield open_one


@pytest.fixture
async def inbox(open_inbox: OpenInbox) -> TimedPostgresqlInbox:
    return await open_inbox()


@pytest.fixture
async def other(inbox: TimedPostgresqlInbox, open_inbox: OpenInbox) -> TimedPostgresqlInbox:
    """The inbox of another service on the same database."""
    return await open_inbox()


@pytest.fixture
async def reopen(open_inbox: OpenInbox, inbox: TimedPostgresqlInbox) -> Reopen:
    async def close_and_open(**arguments: Any) -> TimedPostgresqlInbox:
        await inbox.close()
        return await open_inbox(**arguments)

    return close_and_open


async def eventually(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """The first result of an attempt that is not refused because the store is away."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await attempt()
            except InboxUnavailable:
                await asyncio.sleep(0.01)


async def until_problem(inbox: TimedPostgresqlInbox, text: str) -> None:
    """Until the inbox refuses receipts with this text."""
    async with asyncio.timeout(PATIENCE_S):
        message = ""
        while text not in message:
            (result,) = await asyncio.gather(inbox.put(make_receipt()), return_exceptions=True)
            assert isinstance(result, InboxUnavailable)
            message = str(result)
            await asyncio.sleep(0.01)


async def until_blocked(url: str, count: int = 1) -> None:
    """Until so many statements on the database wait for a lock."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            rows = await execute(
                url,
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            )
            if len(rows) >= count:
                return


@asynccontextmanager
async def transaction(url: str, *, now: datetime = NOW) -> AsyncIterator[PostgresqlDatabase]:
    """What another service is just doing; it commits at the end."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield PostgresqlDatabase(connection, Clock(now).seconds)
    finally:
        await connection.close()


async def accept(database: PostgresqlDatabase, receipt: Receipt) -> None:
    await receipts.put(database, [receipt])


class Hanging:
    """A server that takes connections and never answers, until it is mended: then it is the given one."""

    def __init__(self, server: PostgresqlServer) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="mc-hanging-")
        self._real = Path(server.url().partition("?host=")[2])
        self._path = Path(self._directory.name) / ".s.PGSQL.5432"
        self._connected = asyncio.Event()
        self._left = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._directory.name}"

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._connected.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        self._left.set()

    async def __aenter__(self) -> "Hanging":
        self._server = await asyncio.start_unix_server(self._take, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._directory.cleanup()

    async def until_connected(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._connected.wait()

    async def until_left(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._left.wait()

    async def recover(self) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)
        self._path.symlink_to(self._real / self._path.name)
        for writer in self._writers:
            writer.transport.abort()


class TestPostgresqlInbox(InboxConformance, DatabaseConformance):
    """The suite that every inbox passes."""


class TestPostgresqlLives(LivesConformance):
    """The suite about what is known of a job."""


class TestPostgresqlAccounts(AccountsConformance):
    """The suite about accounts that know nothing of each other."""


class TestPostgresqlActivity(ActivityConformance):
    """The suite about what came in and went out."""


class TestPostgresqlCounts(CountsConformance):
    """The suite about counts of deliveries."""


class TestPostgresqlErasures(ErasuresConformance):
    """The suite about erasures."""


class TestPostgresqlFeed(FeedConformance):
    """The suite about the feed."""


class TestPostgresqlRefusals(RefusalsConformance):
    """The suite about refused requests and quiet sources."""


class TestPostgresqlTroubles(TroublesConformance):
    """The suite about troubles of the service."""


class TestPostgresqlJobs(JobsConformance, DatabaseJobsConformance):
    """The suite about expected jobs and held events."""


# Several services on one database


async def test_two_services_that_accept_different_outcomes_at_once_give_two_revisions(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    accepted: dict[str, list[Event]] = {}
    for round_ in range(10):
        names = [f"job-{round_}-{n}" for n in range(20)]
        verdicts = await asyncio.gather(
            *(
                store.put(make_receipt(make_event(name, outcome)))
                for name in names
                for store, outcome in ((inbox, "failed"), (other, "succeeded"), (inbox, "failed"))
            )
        )
        for verdict in verdicts:
            for event in verdict.accepted:
                accepted.setdefault(str(event.data.job_id), []).append(event)
    assert len(accepted) == 200
    assert {tuple(sorted(event.data.revision for event in events)) for events in accepted.values()} == {(1, 2)}
    delivered = await deliver(inbox, "a")
    assert len(delivered) == 400
    for events in accepted.values():
        in_order = [event.id for event in sorted(events, key=lambda event: event.data.revision)]
        assert [event_id for event_id in delivered if event_id in in_order] == in_order
    for events in accepted.values():
        for event in events:
            record = await inbox.find_event(event.id)
            assert record is not None
            assert record.body == event.to_json(), "the revision that was told is the one that is stored"


async def test_an_outcome_waits_for_another_one_of_its_job_that_is_just_being_accepted(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    async with transaction(database_url) as database:
        await accept(database, make_receipt(make_event("1", "failed")))
        put = asyncio.ensure_future(inbox.put(make_receipt(make_event("1"))))
        await until_blocked(database_url)
    assert await put == Verdict("accepted", (make_event("1").with_revision(2),))


async def test_services_that_accept_the_same_in_different_orders_do_not_lock_each_other_up(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    events = [make_event(f"job-{n}") for n in range(100)]
    for _ in range(10):
        one = [inbox.put(make_receipt(*events)), inbox.put(make_receipt(*events[::-1]))]
        two = [other.put(make_receipt(*events[::-1])), other.put(make_receipt(*events))]
        verdicts = await asyncio.gather(*one, *two)
    assert {verdict.state for verdict in verdicts} == {"duplicate"}
    assert len(await deliver(inbox, "a")) == 100


async def test_claims_of_two_services_never_overlap(inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox) -> None:
    await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n}"))) for n in range(200)))
    claimed: list[str] = []
    while len(claimed) < 200:
        claims = await asyncio.gather(
            *(store.claim("a", limit=10, now=NOW, lease_s=LEASE_S) for store in (inbox, other) * 4)
        )
        claimed += [delivery.event_id for claim in claims for delivery in claim]
    assert len(set(claimed)) == len(claimed)


async def test_a_lease_that_ended_is_taken_by_another_service_and_lost_to_the_first(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    await inbox.put(make_receipt(make_event(outcome="failed")))
    await inbox.put(make_receipt(make_event()))
    (stale,) = await inbox.claim("a", limit=5, now=NOW, lease_s=LEASE_S)
    later = NOW + timedelta(seconds=LEASE_S)
    (fresh,) = await other.claim("a", limit=5, now=later, lease_s=LEASE_S)
    assert await inbox.record([AttemptResult(stale, "delivered")], now=later) == [False]
    assert await inbox.claim("a", limit=5, now=later, lease_s=LEASE_S) == [], "the next outcome is still held back"
    assert await other.record([AttemptResult(fresh, "delivered")], now=later) == [True]
    assert len(await inbox.claim("a", limit=5, now=later, lease_s=LEASE_S)) == 1


async def test_an_outcome_accepted_while_the_earlier_one_is_being_recorded_goes_on(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    """Whichever commits first: held back by what is delivered already, it would wait for ever."""
    await inbox.put(make_receipt(make_event("1", "failed")))
    await inbox.put(make_receipt(make_event("2", "failed")))
    one, two = await inbox.claim("a", limit=2, now=NOW, lease_s=LEASE_S)

    async with transaction(database_url) as database:
        await database.record_attempts([AttemptResult(one, "delivered")])
        put = asyncio.ensure_future(inbox.put(make_receipt(make_event("1"))))
        await until_blocked(database_url)
    assert (await put).state == "accepted"
    assert await deliver(inbox, "a") == [make_event("1").id]

    async with transaction(database_url) as database:
        await accept(database, make_receipt(make_event("2")))
        record = asyncio.ensure_future(inbox.record([AttemptResult(two, "delivered")], now=NOW))
        await until_blocked(database_url)
    assert await record == [True]
    assert await deliver(inbox, "a") == [make_event("2").id]


async def test_outcomes_that_follow_each_other_at_two_services_are_all_delivered(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    outcomes = ("failed", "unknown", "partial", "succeeded", "cancelled")
    delivered: list[str] = []
    for outcome in outcomes:
        ids = [f"job-{n}" for n in range(30)]
        claimed = await inbox.claim("a", limit=100, now=NOW, lease_s=LEASE_S)
        delivered += [delivery.event_id for delivery in claimed]
        await asyncio.gather(
            *(other.put(make_receipt(make_event(job, outcome))) for job in ids),
            *(inbox.record([AttemptResult(delivery, "delivered")], now=NOW) for delivery in claimed),
        )
    delivered += await deliver(other, "a")
    assert len(delivered) == 150
    for n in range(30):
        ids = [make_event(f"job-{n}", outcome).id for outcome in outcomes]
        assert [event_id for event_id in delivered if event_id in ids] == ids


async def test_a_replay_advanced_by_two_services_keeps_its_rate_and_does_nothing_twice(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    for n in range(20):
        await inbox.put(make_receipt(make_event(f"job-{n}")))
    await deliver(inbox, "a")
    await inbox.create_replay(ReplayRequest(filter=EventFilter(), rate_per_s=5), now=NOW)
    now, again = NOW, []
    while True:
        next_at = [n for n in await asyncio.gather(*(s.advance(now=now) for s in (inbox, other) * 2)) if n]
        batch = await deliver(inbox, "a", now=now)
        assert len(batch) <= 5
        again += batch
        if not next_at:
            break
        now = max(next_at)
    assert sorted(again) == sorted(make_event(f"job-{n}").id for n in range(20))
    assert now >= NOW + timedelta(seconds=3)


async def test_two_replays_of_the_same_events_at_once_deliver_each_once_more(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n}"))) for n in range(50)))
    await deliver(inbox, "a")
    for _ in range(2):
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a", "new"), rate_per_s=500), now=NOW)
    await asyncio.gather(inbox.advance(now=NOW), other.advance(now=NOW))
    assert len(await deliver(inbox, "a")) == 50
    assert len(await deliver(inbox, "new")) == 50


# Expected jobs, of several services on one database


def expected(job_id: str, **fields: Any) -> ExpectedJob:
    return ExpectedJob(reference=reference(job_id, **fields), deadline=DEADLINE)


async def test_a_job_that_is_registered_while_its_event_is_accepted_has_ended(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    for round_ in range(10):
        names = [f"job-{round_}-{n}" for n in range(20)]
        await asyncio.gather(
            *(inbox.put(make_receipt(make_event(name))) for name in names),
            *(other.expect([expected(name, media_id=f"media-{name}")], now=NOW) for name in names),
        )
    assert await inbox.list_jobs(JobFilter(state="expected"), now=NOW, limit=10) == ()
    assert len(await inbox.list_jobs(JobFilter(state="completed"), now=NOW, limit=1000)) == 200
    assert await inbox.next_inquiry_at("vod") is None


async def test_a_registration_and_an_event_of_one_job_wait_for_each_other(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    """Whichever commits first: overlooked by both, the job would be asked about though its event is there."""
    async with transaction(database_url) as database:
        await accept(database, make_receipt(make_event("1")))
        registration = asyncio.ensure_future(inbox.expect([expected("1")], now=NOW))
        await until_blocked(database_url)
    assert [record.state for record in await registration] == ["completed"]

    async with transaction(database_url) as database:
        job = expected("2")
        await jobs.expect(database, [(job.reference.key().digest(), job)])
        put = asyncio.ensure_future(inbox.put(make_receipt(make_event("2"))))
        await until_blocked(database_url)
    await put
    (record,) = await inbox.list_jobs(JobFilter(job_id="2"), now=NOW, limit=9)
    assert record.state == "completed"


@pytest.mark.parametrize("takes_name", [True, False])
async def test_messages_that_name_no_job_and_registrations_at_once_match_each_other(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox, *, takes_name: bool
) -> None:
    for n in range(20):
        receipt = nameless(n, takes_name=takes_name)
        (entry,) = receipt.entries
        assert entry.nameless is not None
        receipt.entries = (replace(entry, nameless=replace(entry.nameless, media_id=f"media-{n}")),)
        registration = other.expect([expected(f"job-{n}", media_id=f"media-{n}")], now=NOW)
        verdict, (record,) = await asyncio.gather(inbox.put(receipt), registration)
        assert len(verdict.accepted) == 1
        (record,) = await inbox.list_jobs(JobFilter(job_id=f"job-{n}"), now=NOW, limit=9)
        assert (record.state, record.event_id) == ("completed", verdict.accepted[0].id)


async def test_a_message_that_names_no_job_waits_for_the_end_of_the_one_that_may_be_meant(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    await inbox.expect([expected("1"), expected("2")], now=NOW)
    async with transaction(database_url) as database:
        await accept(database, make_receipt(make_event("1")))
        put = asyncio.ensure_future(inbox.put(nameless()))
        await until_blocked(database_url)
    assert [event.data.job_id for event in (await put).accepted] == ["2"]


async def test_inquiries_claimed_by_two_services_never_overlap(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    await inbox.expect([expected(f"job-{n}") for n in range(100)], now=NOW)
    for n in range(100):
        await inbox.put(held(make_event(f"held-{n}"), at=DEADLINE))
    claimed: list[str | None] = []
    while len(claimed) < 200:
        claims = await asyncio.gather(
            *(store.claim_inquiries("vod", limit=10, now=DEADLINE, lease_s=LEASE_S) for store in (inbox, other) * 4)
        )
        claimed += [inquiry.reference.job_id for claim in claims for inquiry in claim]
    assert len(set(claimed)) == len(claimed)


async def test_a_job_that_is_settled_by_one_and_ended_by_another_service_at_once_ends_once(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    await inbox.expect([expected(f"job-{n}") for n in range(50)], now=NOW)
    inquiries = await inbox.claim_inquiries("vod", limit=100, now=DEADLINE, lease_s=LEASE_S)
    findings = [
        Finding(inquiry=inquiry, receipt=answer(make_event(str(inquiry.reference.job_id)), at=DEADLINE))
        for inquiry in inquiries
    ]
    settling = asyncio.ensure_future(inbox.settle(findings, now=DEADLINE))
    verdicts = await asyncio.gather(*(other.put(make_receipt(make_event(f"job-{n}"), at=DEADLINE)) for n in range(50)))
    settled = await settling
    assert sum(len(one.accepted) for one in settled) + sum(len(one.accepted) for one in verdicts) == 50
    records = await inbox.list_jobs(JobFilter(), now=DEADLINE, limit=100)
    healed = {event.id for one in settled for event in one.accepted}
    assert {record.event_id for record in records if record.state == "healed"} == healed
    assert {record.state for record in records} <= {"healed", "completed"}


# Purging, while other services work


async def test_a_key_that_gets_another_outcome_while_it_is_purged_stays(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    old, new = make_event(outcome="failed"), make_event()
    await inbox.put(make_receipt(old, binding="1", at=NOW - 2 * DAY))
    await inbox.put(make_receipt(make_event("job-2"), at=NOW - 2 * DAY))
    await deliver(inbox, "a")
    async with transaction(database_url) as database:
        await accept(database, make_receipt(new))
        purging = asyncio.ensure_future(purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - DAY))
        await until_blocked(database_url)
    assert (await purging).keys == 1, "the other one"
    assert await deliver(inbox, "a") == [new.id]
    assert (await find(inbox, new)).body == new.with_revision(2).to_json()
    assert (await find(inbox, old)).body is None
    late = make_receipt(make_event(outcome="partial"), binding="foreign")
    assert (await inbox.put(late)).state == "conflict", "it is still bound"


async def test_an_event_that_is_sent_again_while_payloads_are_purged_keeps_its_own(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    again, other = make_event("again"), make_event("other")
    await inbox.put(make_receipt(again, at=NOW - 2 * DAY))
    await inbox.put(make_receipt(other, at=NOW - 2 * DAY))
    await deliver(inbox, "a")
    await inbox.create_replay(ReplayRequest(filter=EventFilter(event_id=again.id)), now=NOW)
    async with transaction(database_url) as database:
        assert await replays.take_steps(database, await replays.next_steps(database)) == {"a"}
        await purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - DAY)
    assert await inbox.find_event(other.id) is None
    assert await deliver(inbox, "a") == [again.id]
    assert (await find(inbox, again)).body == again.to_json()


async def test_a_receipt_that_is_read_again_while_it_would_be_purged_stays_as_long_as_its_event_is_held(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    await inbox.put(make_receipt(reason="odd", at=NOW - 2 * DAY))
    await inbox.put(make_receipt(reason="odd", at=NOW - 2 * DAY))
    (stored, _) = await inbox.outdated_receipts(parser_version=1, after_id=0, limit=9)
    event = make_event()
    async with transaction(database_url) as database:
        await accepting.reparse(database, stored.id, held(event), dry_run=False)
        assert (await purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - DAY)).payloads == 1
    assert (await purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - DAY)).payloads == 0
    assert [receipt.id for receipt in await inbox.list_receipts(limit=9)] == [stored.id]
    (inquiry,) = await inbox.claim_inquiries("vod", limit=9, now=NOW, lease_s=LEASE_S)
    (settled,) = await inbox.settle([Finding(inquiry=inquiry, release=event)], now=NOW)
    assert settled.accepted == (event,)
    assert [receipt.id for receipt in (await find(inbox, event)).receipts] == [stored.id]


async def test_a_job_that_ends_again_while_it_would_be_purged_stays(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    await inbox.expect([expected("job-1", nonce=NONCE), expected("job-2")], now=NOW)
    inquiries = await inbox.claim_inquiries("vod", limit=9, now=DEADLINE, lease_s=LEASE_S)
    await inbox.settle([Finding(inquiry=inquiry) for inquiry in inquiries], now=DEADLINE)
    event = make_event(key_id=(NONCE,))
    async with transaction(database_url, now=NOW + 3 * DAY) as database:
        await accept(database, make_receipt(event, binding="job-1"))
        purging = asyncio.ensure_future(purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY))
        await until_blocked(database_url)
    assert (await purging).keys == 1, "the other one"
    (record,) = await inbox.list_jobs(JobFilter(), now=NOW, limit=9)
    assert (record.state, record.event_id) == ("completed", event.id)
    late = make_receipt(make_event(outcome="failed", key_id=(NONCE,)), binding="foreign")
    assert (await inbox.put(late)).state == "conflict", "it is still bound"


async def test_what_others_lock_is_left_for_the_next_pass(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    names = [f"job-{n}" for n in range(2)]
    for n, name in enumerate(names):
        await inbox.put(make_receipt(make_event(name)))
        await inbox.put(nameless(n))
    await inbox.expect([expected(name, media_id="other") for name in names], now=NOW)
    await deliver(inbox, "a")
    async with transaction(database_url) as database:
        for table in ("receipts", "event_bodies", "jobs", "nameless_events"):
            assert len(await database.fetch(f"SELECT 1 FROM {table} t LIMIT 1" + database.for_update("t"))) == 1
        first = await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)
    assert (first.payloads, first.keys) == (3, 4), "an event whose body stays keeps its key"
    second = await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)
    assert (second.payloads, second.keys) == (1, 2)
    assert await execute(database_url, "SELECT 1 FROM nameless_events") == []


async def test_a_purge_that_waits_for_a_key_holds_nothing_that_others_wait_for(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    """Such as whoever has the key and reads a receipt again."""
    event = make_event()
    await inbox.put(make_receipt(event, at=NOW - 2 * DAY))
    await deliver(inbox, "a")
    await purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - 3 * DAY)
    await inbox.put(make_receipt(reason="odd"))
    async with transaction(database_url) as database:
        await database.lock(keys=[key_digest(event.id)])
        purging = asyncio.ensure_future(purge(inbox, payloads_before=NOW + SECOND, keys_before=NOW - DAY, limit=100))
        await until_blocked(database_url)
        assert await database.fetch("SELECT r.id FROM receipts r" + database.for_update("r")) == []
    purged = await purging
    assert (purged.payloads, purged.keys) == (1, 1)


async def test_purges_of_two_services_beside_everything_else_lock_nobody_up(
    inbox: TimedPostgresqlInbox,
    other: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    """All of it comes again and again, and is old at once."""
    names = [f"job-{n}" for n in range(40)]
    later = NOW + DAY

    async def work(store: TimedPostgresqlInbox) -> None:
        for outcome in ("failed", "succeeded"):
            await store.expect([expected(name) for name in names], now=NOW)
            await asyncio.gather(
                *(store.put(make_receipt(make_event(name, outcome), binding=name)) for name in names),
                *(store.put(nameless(n)) for n in range(5)),
                *(store.put(held(make_event(f"held-{n}", outcome))) for n in range(5)),
            )
            inquiries = await store.claim_inquiries("vod", limit=20, now=NOW, lease_s=LEASE_S)
            await store.settle([Finding(inquiry=one, release=one.event) for one in inquiries], now=NOW)
            await deliver(store, "a")

    async def purge_on(store: TimedPostgresqlInbox) -> None:
        while not is_done.is_set():
            await purge(store, payloads_before=later, keys_before=later, limit=10)

    is_done = asyncio.Event()
    purges = [asyncio.ensure_future(purge_on(store)) for store in (inbox, other)]
    for _ in range(3):
        await asyncio.gather(work(inbox), work(other))
    is_done.set()
    await asyncio.gather(*purges)
    await deliver(inbox, "a")
    assert await inbox.count_events(EventFilter(state="pending")) == 0
    # Which they tell at their end
    await inbox.close()
    await other.close()
    assert await execute(database_url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [
        (0,)
    ]


# News


class Heard:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self._event = asyncio.Event()

    def __call__(self, names: Collection[str]) -> None:
        self.names.update(names)
        self._event.set()

    async def wait(self, name: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while name not in self.names:
                await self._event.wait()
                self._event.clear()


async def test_services_hear_of_each_others_deliveries_also_after_the_connection_was_lost(
    inbox: TimedPostgresqlInbox,
    other: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    own, heard = Heard(), Heard()
    inbox.listen(own)
    other.listen(heard)

    async def until_heard(name: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            number = 0
            while name not in heard.names:
                number += 1
                await eventually(
                    lambda: inbox.put(make_receipt(make_event(f"{name}-{number}"), sinks=(name,)))  # noqa: B023
                )
                await asyncio.sleep(0.02)

    await until_heard("first")
    await execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    await until_heard("second")
    await inbox.set_sink_state("third", "active", reason=None, changed_by=None, now=NOW)
    await heard.wait("third")
    also = Heard()
    other.listen(also)
    await inbox.expect([expected("job-1")], now=NOW)
    await heard.wait(INQUIRIES)
    assert INQUIRIES in also.names
    assert own.names == {"first", "second", "third", INQUIRIES}


def test_news_fit_into_notifications() -> None:
    names = [f"{n:04}-{'x' * 60}" for n in range(300)]
    payloads = _payloads(names)
    assert all(len(payload) < 8000 for payload in payloads)
    assert [name for payload in payloads for name in payload.split(",")] == names


# Errors and outages


async def test_a_server_that_is_stopped_and_started_costs_nothing_but_the_time(own_server: PostgresqlServer) -> None:
    inbox = TimedPostgresqlInbox(own_server.url())
    await inbox.open()
    await inbox.put(make_receipt(make_event("before")))
    for number in (signal.SIGINT, signal.SIGQUIT):
        await asyncio.to_thread(own_server.stop, number)
        results = await asyncio.gather(
            inbox.put(make_receipt(make_event("during"))),
            inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S),
            inbox.list_sinks(),
            inbox.check(),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [InboxUnavailable] * 4
        with pytest.raises(InboxUnavailable):
            await inbox.put(make_receipt(make_event("during")))
        await asyncio.to_thread(own_server.start)
        await eventually(inbox.check)
    assert (await inbox.put(make_receipt(make_event("before")))).state == "duplicate"
    assert (await inbox.put(make_receipt(make_event("after")))).state == "accepted"
    assert await deliver(inbox, "a") == [make_event("before").id, make_event("after").id]
    await asyncio.to_thread(own_server.stop)
    await asyncio.gather(inbox.put(make_receipt()), return_exceptions=True)
    await inbox.close()


async def test_a_service_may_start_while_the_server_is_away(
    own_server: PostgresqlServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = own_server.url()
    await asyncio.to_thread(own_server.stop)
    strict, patient = TimedPostgresqlInbox(url), TimedPostgresqlInbox(url, must_connect=False, auto_migrate=False)
    with pytest.raises(InboxUnavailable, match="can't be used just now"):
        await strict.open()
    await patient.open()
    with pytest.raises(InboxUnavailable):
        await patient.put(make_receipt(make_event()))
    await asyncio.to_thread(own_server.start)
    await until_problem(patient, "migrations are missing")
    await migrate(url)
    verdict = await eventually(lambda: patient.put(make_receipt(make_event())))
    assert verdict.state == "accepted"
    await patient.close()

    await asyncio.to_thread(own_server.stop)
    patient = TimedPostgresqlInbox(url, must_connect=False)
    await patient.open()
    await patient.close()


@pytest.fixture
async def hanging(own_server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hanging]:
    """Whoever waits for it until it answers, or until connecting is over, waits for ever."""
    monkeypatch.setattr(connecting, "_CONNECT_TIMEOUT_S", 3600.0)
    async with Hanging(own_server) as hanging:
        yield hanging


async def test_a_start_does_not_wait_for_a_server_that_takes_connections_and_never_answers(
    hanging: Hanging, tmp_path: Path
) -> None:
    inbox = TimedPostgresqlInbox(hanging.url, must_connect=False)
    journaled = JournaledStore(
        inbox, tmp_path / "journal", max_bytes=1 << 20, rebuild=lambda _: make_receipt(make_event())
    )
    await journaled.open()
    await journaled.check()
    assert (await journaled.put(make_receipt(make_event()))).is_journaled
    with pytest.raises(InboxUnavailable, match="no answer yet"):
        await inbox.check()
    await hanging.recover()
    await eventually(inbox.check)
    async with asyncio.timeout(PATIENCE_S):
        while journaled.receipts:  # noqa: ASYNC110 - the drainer has no event for it
            await asyncio.sleep(0.01)
    assert len(await deliver(inbox, "a")) == 1
    await journaled.close()


async def test_a_start_that_is_given_up_while_the_server_does_not_answer_leaves_nothing_behind(
    hanging: Hanging,
) -> None:
    inbox = TimedPostgresqlInbox(hanging.url, must_connect=False)
    opening = asyncio.ensure_future(inbox.open())
    await hanging.until_connected()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await hanging.until_left()
    inbox = TimedPostgresqlInbox(hanging.url, must_connect=False)
    await inbox.open()
    await inbox.close()
    await hanging.recover()


async def test_a_store_that_comes_back_without_its_tables_is_not_ready_though_the_journal_has_room(
    own_server: PostgresqlServer,
    tmp_path: Path,
) -> None:
    inbox = TimedPostgresqlInbox(own_server.url(), must_connect=False, auto_migrate=False)
    journaled = JournaledStore(
        inbox, tmp_path / "journal", max_bytes=1 << 20, rebuild=lambda _: make_receipt(make_event())
    )
    await asyncio.to_thread(own_server.stop)
    await journaled.open()
    await journaled.check()
    await asyncio.to_thread(own_server.start)

    async def until_not_ready(text: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            message = ""
            while text not in message:
                (result,) = await asyncio.gather(journaled.check(), return_exceptions=True)
                message = str(result)
                await asyncio.sleep(0.01)

    await until_not_ready("migrations are missing (initial, jobs, clock, operating); run `media-callbacks migrate`")
    assert (await journaled.put(make_receipt(make_event()))).is_journaled, "it is kept all the same"
    await migrate(own_server.url())
    await eventually(journaled.check)
    await eventually(inbox.check)

    # An older backup.
    await execute(own_server.url(), "DELETE FROM migrations WHERE number = 2")
    await until_not_ready("migrations are missing (jobs)")
    # Another database.
    await execute(own_server.url(), "DROP TABLE migrations")
    await until_not_ready("migrations are missing (initial, jobs, clock, operating)")
    # Away again, which the journal is for.
    await asyncio.to_thread(own_server.stop)
    await eventually(journaled.check)
    await journaled.close()


async def test_a_replica_that_is_found_in_the_middle_of_a_fail_over_is_not_taken_for_a_mistake(
    own_server: PostgresqlServer,
    tmp_path: Path,
) -> None:
    url = own_server.url()
    await asyncio.to_thread(own_server.stop)
    inbox = TimedPostgresqlInbox(url, must_connect=False)
    await inbox.open()
    (own_server.data / "standby.signal").touch()
    await asyncio.to_thread(own_server.start)
    await until_problem(inbox, "read-only replica")
    with pytest.raises(InboxUnavailable):
        await inbox.check()
    await inbox.close()


async def test_a_connection_killed_in_the_middle_of_a_put_fails_it_and_the_next_works(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    await inbox.put(make_receipt(make_event("other")))
    async with transaction(database_url) as database:
        await database.execute("LOCK TABLE events")
        put = asyncio.ensure_future(inbox.put(make_receipt(make_event())))
        await until_blocked(database_url)
        late = asyncio.ensure_future(inbox.put(make_receipt(make_event("late"))))
        await execute(
            database_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        with pytest.raises(InboxUnavailable):
            await put
    await asyncio.gather(late, return_exceptions=True)
    assert (await eventually(lambda: inbox.put(make_receipt(make_event())))).state == "accepted"


async def test_an_error_that_is_not_about_the_data_fails_the_put_and_does_not_take_the_store_for_away(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    await execute(database_url, "ALTER TABLE receipts RENAME TO r")
    with pytest.raises(InboxUnavailable, match='"receipts'):
        await inbox.put(make_receipt(make_event()))
    await inbox.check()
    await execute(database_url, "ALTER TABLE r RENAME TO receipts")
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"


async def test_a_server_that_becomes_read_only_is_away_until_it_is_not(
    inbox: TimedPostgresqlInbox,
    database_url: str,
) -> None:
    name = database_url.rpartition("@/")[2].partition("?")[0]
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on", kill)
    await until_problem(inbox, "read-only")
    with pytest.raises(ConfigError, match=r"store\.url: the database is read-only"):
        await TimedPostgresqlInbox(database_url).open()
    await execute(database_url, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL", kill)
    assert (await eventually(lambda: inbox.put(make_receipt(make_event())))).state == "accepted"


async def test_a_receipt_with_a_number_that_the_database_cannot_keep_is_refused_alone(
    inbox: TimedPostgresqlInbox,
) -> None:
    odd = make_receipt(make_event("job-odd"), parser_version=2**40)
    results = await asyncio.gather(
        inbox.put(make_receipt(reason="odd")),
        inbox.put(odd),
        inbox.put(make_receipt(make_event())),
        return_exceptions=True,
    )
    assert [isinstance(result, Verdict) for result in results] == [True, False, True]
    (stored, _) = await inbox.outdated_receipts(parser_version=1, after_id=0, limit=9)
    with pytest.raises(InboxUnavailable):
        await inbox.reparse(stored.id, make_receipt(parser_version=2**40), now=NOW, dry_run=False)


async def test_many_events_are_accepted_in_several_transactions(inbox: TimedPostgresqlInbox) -> None:
    receipts = [make_receipt(*(make_event(f"job-{n}-{m}") for m in range(300))) for n in range(5)]
    verdicts = await asyncio.gather(*map(inbox.put, receipts))
    assert [len(verdict.accepted) for verdict in verdicts] == [300] * 5


async def test_closing_does_not_wait_for_ever(
    inbox: TimedPostgresqlInbox,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "CLOSE_TIMEOUT_S", 0.05)
    async with transaction(database_url) as database:
        await database.execute("LOCK TABLE receipts, deliveries")
        puts = [asyncio.ensure_future(inbox.put(make_receipt(make_event(f"job-{n}")))) for n in range(300)]
        claim = asyncio.ensure_future(inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S))
        await until_blocked(database_url, 2)
        await inbox.close()
        results = await asyncio.gather(*puts, claim, return_exceptions=True)
        assert {type(result) for result in results} == {InboxUnavailable}


async def test_what_loses_against_another_transaction_is_done_again(inbox: TimedPostgresqlInbox) -> None:
    failures = [asyncpg.DeadlockDetectedError("deadlock detected"), asyncpg.UniqueViolationError("duplicate key")]

    async def attempt(_: Database) -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert await inbox._write(attempt) == "done"
    failures += [asyncpg.SerializationError("could not serialize")] * 3
    with pytest.raises(InboxUnavailable, match="could not serialize"):
        await inbox._write(attempt)


async def test_a_writer_that_has_stopped_is_not_ready(inbox: TimedPostgresqlInbox) -> None:
    assert inbox._writer is not None
    inbox._writer._task.cancel()
    await asyncio.gather(inbox._writer._task, return_exceptions=True)
    with pytest.raises(InboxUnavailable, match="writer has stopped"):
        await inbox.check()


async def test_a_closed_inbox_says_so(postgresql_url: str) -> None:
    inbox = TimedPostgresqlInbox(postgresql_url)
    for operation in (inbox.check(), inbox.put(make_receipt()), inbox.next_due_at("a")):
        with pytest.raises(InboxUnavailable, match="not open"):
            await operation
    await inbox.close()


async def test_what_is_accepted_while_the_servers_clock_is_behind_does_not_look_old(
    inbox: TimedPostgresqlInbox,
) -> None:
    """That of SQLite never is."""
    await inbox.watch_clock(now=NOW)
    await inbox.put(make_receipt(make_event(), at=NOW - 3650 * DAY))
    assert await deliver(inbox, "a", now=NOW - 3650 * DAY) == [make_event().id], "now, not in ten years"
    inbox.clock.now = NOW
    purged = await purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - DAY)
    assert (purged.payloads, purged.keys) == (0, 0)


# What is stored


async def test_a_commit_is_on_disk_whatever_the_servers_default_is(inbox: TimedPostgresqlInbox) -> None:
    for pool in (inbox._writer_pool, inbox._pool):
        async with pool.acquire() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"


async def test_text_that_the_database_cannot_keep_is_shown_with_replacements_and_found_as_it_was(
    inbox: TimedPostgresqlInbox,
) -> None:
    event = make_event("job\x00\U0001f600")
    receipt = make_receipt(event, reason="half \ud800", binding="x\x00", meta={"\x00": "\ud800"}, warnings=("\x00",))
    assert (await inbox.put(receipt)).state == "accepted"
    assert (await inbox.put(receipt)).state == "duplicate"
    (summary,) = await inbox.list_events(EventFilter(job_id="job\x00\U0001f600"), limit=5)
    assert summary.job_id == "job\ufffd\U0001f600"
    (_, first) = await inbox.list_receipts(limit=5)
    assert (first.reason, first.warnings) == ("half \ufffd", ("\x00",))
    (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
    await inbox.record([AttemptResult(delivery, "dead", error="\x00\udfff", started_at=NOW)], now=NOW)
    await inbox.set_sink_state("a", "paused", reason="\x00", changed_by="\udc00", now=NOW)
    (sink,) = await inbox.list_sinks()
    assert (sink.reason, sink.changed_by) == ("\ufffd", "\ufffd")
    assert await inbox.list_receipts(limit=5, source="\x00") == ()


# Opening


async def make_role(url: str, password: str = "right", *, grants: tuple[str, ...] = ()) -> str:
    """A new role that may log in with a password; its name."""
    name = f"role_{asyncio.get_running_loop().time():.6f}".replace(".", "_")
    await execute(url, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", *(grant.format(name) for grant in grants))
    return name


def as_role(url: str, role: str, password: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{role}:{password}@{rest.partition('@')[2]}"


@pytest.fixture
async def role(own_server: PostgresqlServer) -> tuple[str, str]:
    """A server that asks for passwords, and a role with the password "right" on it."""
    url = own_server.url()
    return url, await make_role(url)


async def test_what_is_wrong_with_the_url_or_the_rights_is_said_with_the_settings_name(role: tuple[str, str]) -> None:
    url, name = role
    for wrong, expected in (
        (as_role(url, name, "wrong-secret"), "the server refuses the user"),
        (as_role(url, "nobody_there", "wrong-secret"), "the server refuses the user"),
        (with_database(as_role(url, name, "right"), "missing"), 'database "missing" does not exist; create it'),
        (as_role(url, name, "right"), "the user lacks rights: permission denied for schema public"),
        (f"{url}&sslmode=wrong-secret", "expected postgresql://"),
        ("postgresql://user:wrong-secret/#@host:x/db", "expected postgresql://"),
    ):
        inbox = TimedPostgresqlInbox(wrong)
        with pytest.raises(ConfigError, match=r"^store\.url: ") as caught:
            await inbox.open()
        assert expected in str(caught.value)
        assert "wrong-secret" not in str(caught.value)
        await inbox.close()


async def test_a_user_without_rights_on_the_tables_is_told_which_to_grant(role: tuple[str, str]) -> None:
    url, name = role
    await migrate(url)
    await execute(
        url,
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}",
        f"REVOKE UPDATE ON deliveries FROM {name}",
    )
    inbox = TimedPostgresqlInbox(as_role(url, name, "right"))
    with pytest.raises(
        ConfigError,
        match=r"grant .*: answers_id_seq, deliveries, erasures_id_seq, events_id_seq, held_id_seq, jobs_id_seq, rec",
    ):
        await inbox.open()
    await execute(
        url, f"GRANT UPDATE ON deliveries TO {name}", f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}"
    )
    await inbox.open()
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"
    assert len(await deliver(inbox, "a")) == 1
    # A service that runs since before there were these tables.
    await execute(url, f"REVOKE ALL ON erasures, erased_events FROM {name}")
    assert (await inbox.put(make_receipt(make_event()))).state == "duplicate"
    await inbox.close()


async def test_a_replica_is_refused(own_server: PostgresqlServer) -> None:
    own_server.stop()
    replica = PostgresqlServer(copied_from=own_server)
    try:
        replica.start()
        with pytest.raises(ConfigError, match=r"store\.url: the server is a read-only replica"):
            await TimedPostgresqlInbox(replica.url()).open()
        with pytest.raises(ConfigError, match=r"no server of those named"):
            await TimedPostgresqlInbox(f"{replica.url()}&target_session_attrs=read-write").open()
    finally:
        replica.remove()


async def test_other_databases_that_do_not_suit_are_refused(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"store\.url: the search path has no schema"):
        await TimedPostgresqlInbox(f"{database_url}&search_path=nowhere").open()
    name = database_url.rpartition("@/")[2].partition("?")[0]
    await execute(database_url, f"CREATE DATABASE {name}_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(ConfigError, match=r"store\.url: expected a database with the encoding UTF8, it has LATIN1"):
        await TimedPostgresqlInbox(with_database(database_url, f"{name}_latin")).open()
    await execute(database_url, f"DROP DATABASE {name}_latin")
    monkeypatch.setattr(connecting, "_MIN_VERSION", 99)
    with pytest.raises(ConfigError, match=r"store\.url: expected PostgreSQL 99 or later, the server is 1"):
        await TimedPostgresqlInbox(database_url).open()
    monkeypatch.setattr(connecting, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"pip install 'media-callbacks\[postgresql\]'"):
        await TimedPostgresqlInbox(database_url).open()


@pytest.mark.parametrize("host", ["/nowhere", "127.0.0.1:1", "host.invalid"])
async def test_a_server_that_cannot_be_reached_is_not_a_mistake(host: str) -> None:
    url = f"postgresql://user:wrong-secret@/db?host={host}" if "/" in host else f"postgresql://u:wrong-secret@{host}/db"
    with pytest.raises(InboxUnavailable) as caught:
        await TimedPostgresqlInbox(url).open()
    assert "wrong-secret" not in str(caught.value)


# Migrations


async def test_services_that_start_at_once_migrate_once(database_url: str) -> None:
    applied = await asyncio.gather(*(migrate(database_url) for _ in range(4)))
    names = [str(migration) for migration in load_migrations("postgresql")]
    assert sorted(map(list, applied)) == [[], [], [], names]
    inboxes = [TimedPostgresqlInbox(database_url) for _ in range(4)]
    await asyncio.gather(*(inbox.open() for inbox in inboxes))
    await asyncio.gather(*(inbox.close() for inbox in inboxes))


async def test_a_start_goes_on_without_the_store_while_migrations_take_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whatever looks whether the process answers would end it, again and again."""
    monkeypatch.setattr(inbox_module, "_MIGRATION_S", 0.0)
    another = await asyncpg.connect(database_url)
    await earlier.make(another)
    await another.execute("SELECT pg_advisory_lock($1, -1)", migrating.LOCK_CLASS)
    inbox = TimedPostgresqlInbox(database_url)
    with capture_logs() as logs:
        await inbox.open()
        await until_problem(inbox, "is being brought up to date: another instance applies migrations")
    assert [one["event"] for one in logs].count("store_migrating") == 1
    with pytest.raises(InboxUnavailable, match="is being brought up to date"):
        await inbox.check()
    await another.close()
    verdict = await eventually(lambda: inbox.put(make_receipt(make_event())))
    assert verdict.state == "accepted"
    await inbox.check()
    await inbox.close()


async def test_missing_migrations_are_refused_where_they_must_be_run_by_hand(database_url: str) -> None:
    inbox = TimedPostgresqlInbox(database_url, auto_migrate=False)
    with pytest.raises(
        ConfigError,
        match=r"store\.auto_migrate: .* \(initial, jobs, clock, operating\); run `media-callbacks migrate`",
    ):
        await inbox.open()
    assert await migrate(database_url) == [
        "001_initial",
        "002_jobs",
        "003_clock",
        "004_operating",
    ]
    await inbox.open()
    await inbox.close()


async def test_a_migration_that_breaks_off_leaves_what_was_there(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = [load_migrations("postgresql")[0], Migration(2, "broken", "CREATE TABLE half (x int);\nSELECT 1/0;")]
    monkeypatch.setattr(migrating, "load_migrations", lambda _: known)
    with pytest.raises(InboxUnavailable, match="division by zero"):
        await migrate(database_url)
    assert await execute(database_url, "SELECT to_regclass('half'), max(number) FROM migrations") == [(None, 1)]
    known[1] = Migration(2, "mended", "CREATE TABLE half (x int)")
    assert await migrate(database_url) == ["002_mended"]


async def test_a_database_that_is_one_migration_newer_works_and_one_of_two_is_refused(database_url: str) -> None:
    await migrate(database_url)
    await execute(database_url, "INSERT INTO migrations VALUES (98, 'next')")
    inbox = TimedPostgresqlInbox(database_url)
    await inbox.open()
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"
    with capture_logs() as logs:
        for _ in range(2):
            await inbox.check()
    assert logs == [
        {"event": "store_newer", "log_level": "warning", "migrations": ["098_next"], "known": "004_operating"}
    ]
    await inbox.close()
    await execute(database_url, "INSERT INTO migrations VALUES (99, 'after')")
    problem = (
        r"newer than this program by 2 migrations \(098_next, 099_after\), which may be one at most beyond"
        " 004_operating; install the version that"
    )
    with pytest.raises(ConfigError, match=problem):
        await inbox.open()


async def test_a_database_on_which_another_form_of_a_migration_was_applied_or_begun_is_refused(
    database_url: str,
) -> None:
    last = load_migrations("postgresql")[-1]
    problem = (
        f"expected migration 004 to be `{re.escape(last.entry)}`, as this program has it, came `operating`, and one of the"
        " two is of a version that was not released; go on with the version that applied it, or restore a backup"
    )
    connection = await asyncpg.connect(database_url)
    await earlier.make(connection)
    # Of its steps some are done.
    await connection.execute(
        "CREATE TABLE migration_steps (migration integer PRIMARY KEY, done integer NOT NULL, position bigint NOT NULL)"
    )
    await connection.execute("INSERT INTO migration_steps VALUES (4, 7, 0)")
    with pytest.raises(ConfigError, match=problem):
        await migrate(database_url)
    await connection.execute("DROP TABLE migration_steps")
    assert await migrate(database_url) == ["004_operating"]
    inbox = TimedPostgresqlInbox(database_url)
    await inbox.open()
    await inbox.check()
    await connection.execute("UPDATE migrations SET name = 'operating' WHERE number = 4")
    with pytest.raises(ConfigError, match=problem):
        await inbox.check()
    await inbox.close()
    for action in (inbox.open(), migrate(database_url)):
        with pytest.raises(ConfigError, match=problem):
            await action
    await connection.close()


def test_what_a_migration_is_known_by_is_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [one.entry for one in load_migrations("postgresql")]
    assert known[:3] == ["initial", "jobs", "clock"], "as they were entered by released versions"
    assert re.fullmatch("operating [0-9a-f]{8}", known[3])
    read_text = Path.read_text
    for text, is_known in (("-- said otherwise\n\n", True), ("SELECT 1;\n", False)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", lambda path, *arguments, text=text: text + read_text(path, *arguments))
            assert ([one.entry for one in load_migrations("postgresql")] == known) is is_known


def test_both_databases_have_the_same_migrations() -> None:
    names = {dialect: [str(m) for m in load_migrations(dialect)] for dialect in ("sqlite", "postgresql")}
    assert names["sqlite"] == names["postgresql"]


def test_missing_migrations_are_those_that_were_not_applied() -> None:
    known = [Migration(1, "a", ""), Migration(2, "b", ""), Migration(3, "c", "")]
    assert missing_migrations(known, {1: "a", 3: "c"}) == [known[1]]
    assert missing_migrations(known, {1: "a", 2: "b", 3: "c", 4: "d"}, apply=False) == []


async def test_texts_are_read_as_they_are_whatever_the_database_makes_of_backslashes(database_url: str) -> None:
    (name,) = await execute(database_url, "SELECT current_database()")
    database = f"ALTER DATABASE {name[0]}"
    await execute(database_url, f"{database} SET standard_conforming_strings = off")
    try:
        inbox = TimedPostgresqlInbox(database_url)
        await inbox.open()
        await inbox.put(make_receipt(make_event(user_data='order "7\\" [')))
        (found,) = await inbox.search('order "7\\" [', limit=9)
        assert found.job_id == "job-1"
        await inbox.close()
    finally:
        await execute(database_url, f"{database} RESET standard_conforming_strings")


async def test_a_server_that_takes_nothing_is_told_of_once_however_many_callbacks_come(
    inbox: TimedPostgresqlInbox, database_url: str
) -> None:
    """As one whose disk is full."""
    await execute(
        database_url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE disk_full USING MESSAGE = 'No space left on device'; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON receipts FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    with capture_logs() as logs:
        for n in range(9):
            with pytest.raises(InboxUnavailable, match="No space left"):
                await inbox.put(make_receipt(make_event(f"job-{n}")))
    assert [(one["event"], one["receipts"]) for one in logs] == [("store_failed", 1)]
    await execute(database_url, "DROP FUNCTION fail CASCADE")
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"


async def test_a_receipt_that_waits_too_long_for_a_lock_does_not_fail_its_neighbours(
    database_url: str,
    open_inbox: OpenInbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else is busy with its job, and they have come in the same moment."""
    monkeypatch.setattr(connecting, "_LOCK_TIMEOUT_S", 0.05)
    inbox = await open_inbox()
    events = [make_event(f"job-{n}") for n in range(20)]
    # Few locks stand for all keys.
    busy = key_digest(events[7].id)
    others = [event for event in events if lock_of(key_digest(event.id)) != lock_of(busy)]
    async with transaction(database_url) as database:
        await database.lock(keys=[busy])
        results = await asyncio.gather(*(inbox.put(make_receipt(event)) for event in events), return_exceptions=True)
    stored = [event for event, result in zip(events, results, strict=True) if isinstance(result, Verdict)]
    assert stored == others
    assert isinstance(results[7], InboxUnavailable)
    assert (await inbox.put(make_receipt(events[7]))).state == "accepted"
    await inbox.check()


async def test_a_batch_is_bounded_by_what_was_made_of_it(
    inbox: TimedPostgresqlInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = receipts.put

    async def observed(connection: Any, kept: Any) -> Any:
        sizes.append(sum(map(size_bytes, kept)))
        return await real(connection, kept)

    monkeypatch.setattr(receipts, "put", observed)
    monkeypatch.setattr(writer_module, "_MAX_BATCH_BYTES", 300_000)
    events = [make_event(f"job-{n}", user_data="x" * 50_000) for n in range(10)]
    await asyncio.gather(*(inbox.put(make_receipt(event)) for event in events))
    assert max(sizes) < 300_000
    assert len(sizes) == 5


async def test_who_is_closed_while_it_connects_leaves_no_exception_behind():
    """A command opens the store for a moment alone, and its last line would be Python's."""
    left: list[dict[str, Any]] = []

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        for steps in range(20):
            news = News(f"postgresql://nobody@{host}:{port}/none", "public", lambda _: None)
            for _ in range(steps):
                await asyncio.sleep(0)
            await news.close()
    del news
    gc.collect()
    assert left == []


# Troubles


async def test_instances_that_note_the_same_at_the_same_time_tell_once(
    inbox: TimedPostgresqlInbox, other: TimedPostgresqlInbox
) -> None:
    told: list[str] = []
    for number in range(10):
        seen = [see(f"sink-{number}", began_s=3600), see("ops", began_s=3600)]
        for noted in await asyncio.gather(
            *(one.note_troubles(seen, instance="host", route=to_ops) for one in (inbox, other) * 3)
        ):
            told += [event.subject for event in noted]
    assert sorted(told) == ["ops", *(f"sink-{number}" for number in range(10))]
    rows = await inbox._read(lambda d: d.fetch("SELECT count(*), count(DISTINCT key_digest) FROM events"))
    assert [tuple(row) for row in rows] == [(11, 11)]


GROWING = {"receipts", "events", "event_bodies", "event_user_data", "deliveries", "attempts"}


def scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a plan that go through all of what grows with what is stored."""
    is_by_key = "Index Cond" in node or node["Node Type"] in ("Bitmap Heap Scan", "ModifyTable")
    # Of these, which are few, some of the last.
    is_of_few = node.get("Index Name") == "receipts_in_trouble"
    if node.get("Relation Name") in GROWING and not is_by_key and not is_of_few:
        yield node
    for further in node.get("Plans", ()):
        yield from scans(further)


async def test_no_list_and_no_search_goes_through_all_that_is_stored(
    inbox: TimedPostgresqlInbox, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_NEWEST", 1)
    events = [make_event(f"job-{n}", user_data="order 2", media_id=f"media-{n}") for n in range(6)]
    for event in events:
        await inbox.put(make_receipt(event, sinks=("orders", "bus")))
        await attempt(inbox, "orders", "delivered")
    await attempt(inbox, "bus", "dead")
    await inbox.put(make_receipt(body=b"unparsed"))
    await inbox.set_sink_state("bus", "paused", reason=None, changed_by=None)
    asked: dict[str, Sequence[Any]] = {}
    fetch = asyncpg.Connection.fetch

    async def fetch_noted(connection: Any, query: str, *parameters: Any, **options: Any) -> Any:
        asked[query] = parameters
        return await fetch(connection, query, *parameters, **options)

    found = await find_reads(inbox, 3)
    monkeypatch.setattr(asyncpg.Connection, "fetch", fetch_noted)
    for name, read in found.items():
        # This one, of what is to be sent again, costs as much as there is of it.
        if name != "how many were given up":
            await read()
    monkeypatch.undo()
    assert len(asked) > 60
    pg = await asyncpg.connect(database_url, server_settings={"enable_seqscan": "off"})
    try:
        for query, parameters in asked.items():
            (explained,) = json.loads(await pg.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *parameters))
            assert not list(scans(explained["Plan"])), (query, explained)
    finally:
        await pg.close()
