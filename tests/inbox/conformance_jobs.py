"""
What every inbox must do about expected jobs, and about events that wait for the vendor's answer. Like ``conformance``,
this is for a database's own test module, with the fixtures ``inbox`` and ``reopen``.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from media_callbacks.inbox.asking import jobs
from media_callbacks.inbox.database import Database
from media_callbacks.inbox.records import (
    INQUIRIES,
    Finding,
    Inquiry,
    JobFilter,
    JobRecord,
    ReceiptRecord,
    ReportRow,
    Settled,
    WaitingCounts,
)
from media_callbacks.model.errors import InboxUnavailable, JobConflict
from media_callbacks.model.events import Event, parse_event
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.receipts import Entry, Hold, NamelessJob, Receipt, Verdict
from tests.inbox.conformance import (
    DAY,
    LEASE_S,
    NOW,
    SECOND,
    Reopen,
    deliver,
    find,
    ids,
    make_event,
    make_receipt,
    purge,
    with_data,
)
from tests.inbox.timed import Timed

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DEADLINE = NOW + HOUR
NONCE = "ab" * 16


def reference(job_id: str | None = "job-1", **fields: Any) -> JobReference:
    """Of the job that ``make_event`` makes an event of."""
    fields = {"product": "vod", "account": "default", "family": "animated_image", "media_id": "media-1"} | fields
    return JobReference(job_id=job_id, **fields)


async def expect(
    inbox: Timed,
    *job_ids: str,
    now: datetime = NOW,
    deadline_at: datetime = DEADLINE,
    user_data: str | None = None,
    **fields: Any,
) -> Sequence[JobRecord]:
    registered = [
        ExpectedJob(reference=reference(job_id, **fields), deadline=deadline_at, user_data=user_data)
        for job_id in job_ids
    ]
    return await inbox.expect(registered, now=now)


def answered(event: Event, **data: Any) -> Event:
    """The event as the vendor's answer to a query gives it."""
    changes = {"transport": "query", "verified_by": "query", "outcome_verified_by": "query"} | data
    return event.model_copy(update={"data": event.data.model_copy(update=changes)})


def answer(*events: Event, at: datetime = NOW, **fields: Any) -> Receipt:
    """A receipt of the vendor's answer to a query."""
    receipt = make_receipt(*map(answered, events), at=at, **fields)
    receipt.source, receipt.transport, receipt.verified_by = "query", "query", "query"
    return receipt


def held(
    event: Event,
    *,
    binding: str | None = None,
    timeout_s: float = 300.0,
    at: datetime = NOW,
    sinks: tuple[str, ...] = ("a",),
    nameless: NamelessJob | None = None,
    body: bytes = b"{}",
) -> Receipt:
    """A receipt whose only event must be confirmed."""
    job = reference(binding or event.data.job_id, product=event.data.product, nonce=NONCE if binding else None)
    receipt = make_receipt(at=at, body=body)
    receipt.entries = (Entry(event, sinks, binding, Hold("confirm", job, timeout_s), nameless),)
    return receipt


def nameless_event(number: int = 1, outcome: Any = "failed") -> Event:
    """A message that says of an asset alone that a job has failed; each number is another message."""
    return make_event(None, outcome, key_id=("media-1", str(number)))  # type: ignore[arg-type]


def nameless(number: int = 1, outcome: Any = "failed", *, takes_name: bool = True, at: datetime = NOW) -> Receipt:
    receipt = make_receipt(at=at)
    job = NamelessJob("vod", "default", "animated_image", "media-1", takes_name)
    receipt.entries = (Entry(nameless_event(number, outcome), ("a",), nameless=job),)
    return receipt


async def claim(inbox: Timed, *, product: Any = "vod", now: datetime = NOW, limit: int = 100) -> list[Inquiry]:
    return list(await inbox.claim_inquiries(product, limit=limit, now=now, lease_s=LEASE_S))


async def claim_one(inbox: Timed, *, now: datetime = NOW) -> Inquiry:
    (inquiry,) = await claim(inbox, now=now)
    return inquiry


async def settle(inbox: Timed, inquiry: Inquiry, *, now: datetime = NOW, **finding: Any) -> Settled:
    (settled,) = await inbox.settle([Finding(inquiry=inquiry, **finding)], now=now)
    return settled


async def listed(inbox: Timed, *, now: datetime = NOW, **wanted: Any) -> list[JobRecord]:
    """Jobs that a filter means, newest first, read in pages."""
    records: list[JobRecord] = []
    before_id = None
    while page := await inbox.list_jobs(JobFilter(**wanted), now=now, before_id=before_id, limit=2):
        records += page
        before_id = page[-1].id
    return records


async def find_job(inbox: Timed, job_id: str = "job-1", *, now: datetime = NOW) -> JobRecord:
    (record,) = await listed(inbox, job_id=job_id, now=now)
    return record


async def states(inbox: Timed, *, now: datetime = NOW) -> dict[str | None, str]:
    return {record.reference.job_id: record.state for record in await listed(inbox, now=now)}


async def find_receipts(inbox: Timed) -> dict[int, ReceiptRecord]:
    """By order of arrival, from 1."""
    return dict(enumerate(reversed(await inbox.list_receipts(limit=100)), 1))


class JobsConformance:
    """Behaviour through the interface alone."""

    # Registration

    async def test_an_expected_job_is_listed(self, inbox: Timed, reopen: Reopen) -> None:
        (record,) = await expect(inbox, "job-1", user_data="mine", nonce=NONCE, bind="cd" * 16)
        assert record == JobRecord(
            id=record.id,
            reference=reference("job-1", nonce=NONCE, bind="cd" * 16),
            state="expected",
            registered_at=NOW,
            deadline_at=DEADLINE,
            user_data="mine",
            ended_at=None,
            transport=None,
            event_id=None,
            outcome=None,
            attempts=0,
            notification=None,
        )
        assert await listed(inbox) == [record]
        inbox = await reopen()
        assert await listed(inbox) == [record]

    async def test_registering_again_changes_nothing_and_fills_in_what_was_missing(self, inbox: Timed) -> None:
        (first,) = await expect(inbox, None, nonce=NONCE, media_id=None)  # type: ignore[arg-type]
        (second,) = await expect(
            inbox, "job-1", nonce=NONCE, bind="cd", user_data="mine", now=NOW + MINUTE, deadline_at=DEADLINE + DAY
        )
        (third,) = await expect(inbox, "job-1", nonce=NONCE, media_id="other", bind="ef", user_data="yours")
        assert (second.id, second.registered_at, second.deadline_at) == (first.id, NOW, DEADLINE)
        assert (second.reference, second.user_data) == (reference("job-1", nonce=NONCE, bind="cd"), "mine")
        assert third == second
        assert await listed(inbox) == [second]

    async def test_a_nonce_belongs_to_one_job_and_a_registration_that_says_otherwise_registers_nothing(
        self, inbox: Timed
    ) -> None:
        await expect(inbox, "job-1", nonce=NONCE)
        with pytest.raises(JobConflict, match="job-1"):
            await inbox.expect(
                [
                    ExpectedJob(reference=reference("job-0"), deadline=DEADLINE),
                    ExpectedJob(reference=reference("job-2", nonce=NONCE), deadline=DEADLINE),
                ],
                now=NOW,
            )
        assert await states(inbox) == {"job-1": "expected"}
        event = make_event(key_id=(NONCE,))
        assert (await inbox.put(make_receipt(event, binding="job-2"))).state == "conflict"
        assert (await inbox.put(make_receipt(event, binding="job-1"))).state == "accepted"
        assert await states(inbox) == {"job-1": "completed"}

    async def test_a_nonce_that_a_callback_has_bound_belongs_to_that_job(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(key_id=(NONCE,)), binding="job-1"))
        with pytest.raises(JobConflict):
            await expect(inbox, "job-2", nonce=NONCE)
        assert [job.state for job in await expect(inbox, "job-1", nonce=NONCE)] == ["completed"]

    async def test_jobs_are_found_by_everything_that_a_filter_can_say(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        await expect(inbox, "job-2", now=NOW + MINUTE, deadline_at=NOW + 2 * MINUTE)
        await expect(inbox, "job-3", "job-4", now=NOW + 2 * MINUTE, product="ims")
        await inbox.put(make_receipt(make_event("job-3", product="ims")))

        async def found(now: datetime = NOW, **wanted: Any) -> list[str | None]:
            return [record.reference.job_id for record in await listed(inbox, now=now, **wanted)]

        assert await found() == ["job-4", "job-3", "job-2", "job-1"]
        assert await found(product="ims") == ["job-4", "job-3"]
        assert await found(job_id="job-2") == ["job-2"]
        assert await found(job_id="job-9") == []
        assert await found(since=NOW + MINUTE, until=NOW + 2 * MINUTE) == ["job-2"]
        assert await found(state="completed") == ["job-3"]
        assert await found(state="expected") == ["job-4", "job-2", "job-1"]
        assert await found(state="overdue") == []
        assert await found(state="expected", now=NOW + 2 * MINUTE) == ["job-4", "job-1"]
        assert await found(state="overdue", now=NOW + 2 * MINUTE) == ["job-2"]
        assert await found(state="healed") == await found(state="unknown") == []

    async def test_a_large_registration_takes_few_statements(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        statements, expect_all = 0, jobs.expect

        class Counting:
            def __init__(self, database: Database) -> None:
                self._database = database

            def __getattr__(self, name: str) -> Any:
                nonlocal statements
                statements += name.startswith(("execute", "fetch"))
                return getattr(self._database, name)

        async def counted(database: Database, *arguments: Any) -> Any:
            return await expect_all(cast(Database, Counting(database)), *arguments)

        monkeypatch.setattr(jobs, "expect", counted)
        registered = [
            ExpectedJob(reference=reference(f"job-{n}", media_id=f"media-{n}"), deadline=DEADLINE) for n in range(2000)
        ]
        records = await inbox.expect(registered, now=NOW)
        assert 0 < statements < 50
        assert [record.reference.job_id for record in records] == [job.reference.job_id for job in registered]
        assert list(await inbox.expect(registered[::-1], now=NOW)) == list(records[::-1])

    async def test_jobs_without_an_identity_are_refused(self, inbox: Timed) -> None:
        with pytest.raises(ValueError, match="neither"):
            await expect(inbox, None)  # type: ignore[arg-type]
        assert (await inbox.put(make_receipt(make_event()))).state == "accepted"

    async def test_the_same_job_twice_in_one_registration_is_one_job(self, inbox: Timed) -> None:
        first, second = await expect(inbox, "job-1", "job-1")
        assert first == second
        assert await listed(inbox) == [first]

    # The end of a job

    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "partial", "cancelled"])
    async def test_a_callback_ends_the_job(self, inbox: Timed, outcome: str) -> None:
        (registered,) = await expect(inbox, "job-1")
        await expect(inbox, "job-2")
        event = make_event("job-1", outcome)
        await inbox.put(make_receipt(event, at=NOW + SECOND))
        record = await find_job(inbox)
        assert (record.id, record.state, record.ended_at) == (registered.id, "completed", NOW + SECOND)
        assert (record.transport, record.event_id, record.outcome) == ("http", event.id, outcome)
        assert await states(inbox) == {"job-1": "completed", "job-2": "expected"}
        assert [inquiry.reference.job_id for inquiry in await claim(inbox, now=DEADLINE)] == ["job-2"]

    @pytest.mark.parametrize(("kind", "outcome"), [("notice", "received"), ("animated_image", "unknown")])
    async def test_what_says_nothing_about_the_outcome_does_not_end_the_job(
        self, inbox: Timed, kind: str, outcome: str
    ) -> None:
        await inbox.put(make_receipt(make_event("job-1", outcome, kind=kind)))
        await expect(inbox, "job-1", "job-2")
        await inbox.put(make_receipt(make_event("job-2", outcome, kind=kind)))
        assert await states(inbox) == {"job-1": "expected", "job-2": "expected"}

    async def test_a_job_ends_once(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        failed = make_event(outcome="failed")
        await inbox.put(make_receipt(failed))
        ended = await find_job(inbox)
        await inbox.put(make_receipt(make_event(), at=NOW + HOUR))
        assert await find_job(inbox) == ended
        assert ended.event_id == failed.id

    async def test_a_job_whose_event_is_there_already_has_ended(self, inbox: Timed) -> None:
        first = answered(make_event(outcome="failed"), transport="mns-push")
        await inbox.put(make_receipt(make_event(outcome="unknown"), at=NOW - 3 * HOUR))
        await inbox.put(make_receipt(first, at=NOW - 2 * HOUR))
        await inbox.put(make_receipt(make_event(), at=NOW - HOUR))
        (record,) = await expect(inbox, "job-1")
        assert (record.state, record.ended_at, record.registered_at) == ("completed", NOW - 2 * HOUR, NOW)
        assert (record.transport, record.event_id, record.outcome) == ("mns-push", first.id, "failed")
        assert await claim(inbox, now=DEADLINE) == await claim(inbox, now=DEADLINE + DAY) == []

    async def test_a_job_whose_events_payload_is_gone_has_ended_all_the_same(self, inbox: Timed) -> None:
        event = make_event()
        await inbox.put(make_receipt(event, at=NOW - 40 * DAY))
        await deliver(inbox, "a")
        await purge(inbox, payloads_before=NOW - 30 * DAY, keys_before=NOW - 400 * DAY)
        (record,) = await expect(inbox, "job-1")
        assert (record.state, record.transport, record.event_id) == ("completed", None, event.id)

    async def test_a_receipt_that_is_read_again_ends_the_job(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(reason="odd"))
        await expect(inbox, "job-1")
        (receipt,) = await inbox.outdated_receipts(parser_version=1, after_id=0, limit=9)
        await inbox.reparse(receipt.id, make_receipt(make_event()), now=NOW, dry_run=True)
        assert await states(inbox) == {"job-1": "expected"}
        await inbox.reparse(receipt.id, make_receipt(make_event()), now=NOW, dry_run=False)
        assert await states(inbox) == {"job-1": "completed"}

    # Asking about expected jobs

    async def test_a_job_is_asked_about_from_its_deadline_on_longest_due_first(self, inbox: Timed) -> None:
        await expect(inbox, "job-2", deadline_at=DEADLINE + MINUTE)
        await expect(inbox, "job-1", user_data="mine", bind="cd")
        assert await inbox.next_inquiry_at("vod") == DEADLINE
        assert await claim(inbox, now=DEADLINE - SECOND) == []
        assert await states(inbox, now=DEADLINE) == {"job-1": "overdue", "job-2": "expected"}
        first, second = await claim(inbox, now=DEADLINE + MINUTE)
        assert first == Inquiry(
            id=first.id,
            reason="expected",
            reference=reference("job-1", bind="cd"),
            since=DEADLINE,
            until=None,
            attempt=1,
            lease=first.lease,
            user_data="mine",
        )
        assert second.reference == reference("job-2")

    async def test_no_more_is_claimed_than_asked_for_and_nothing_twice(self, inbox: Timed) -> None:
        await expect(inbox, *[f"job-{n}" for n in range(5)])
        claimed = [len(await claim(inbox, now=DEADLINE, limit=2)) for _ in range(4)]
        assert claimed == [2, 2, 1, 0]
        assert await inbox.next_inquiry_at("vod") == DEADLINE + timedelta(seconds=LEASE_S), "their leases may expire"

    async def test_jobs_and_held_events_are_claimed_by_when_they_are_due(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", deadline_at=NOW + SECOND)
        await expect(inbox, "job-3", deadline_at=NOW + 3 * SECOND)
        await inbox.put(held(make_event("job-0")))
        await inbox.put(held(make_event("job-2"), at=NOW + 2 * SECOND))
        claimed = [await claim(inbox, now=NOW + MINUTE, limit=1) for _ in range(4)]
        assert [one.reference.job_id for (one,) in claimed] == ["job-0", "job-1", "job-2", "job-3"]

    async def test_products_are_asked_each_for_itself(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", product="ims")
        await inbox.put(held(make_event("job-2"), at=NOW + SECOND))
        assert await inbox.next_inquiry_at("ims") == DEADLINE
        assert await inbox.next_inquiry_at("vod") == NOW + SECOND
        assert await inbox.next_inquiry_at("mts") is None
        assert [i.reference.job_id for i in await claim(inbox, product="vod", now=DEADLINE)] == ["job-2"]
        assert [i.reference.job_id for i in await claim(inbox, product="ims", now=DEADLINE)] == ["job-1"]
        assert await claim(inbox, product="mts", now=DEADLINE) == []

    async def test_what_the_vendor_was_not_asked_about_within_the_lease_is_somebody_elses(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        lost = await claim_one(inbox, now=DEADLINE)
        later = DEADLINE + timedelta(seconds=LEASE_S)
        other = await claim_one(inbox, now=later)
        assert (other.id, other.attempt) == (lost.id, 1)
        assert other.lease != lost.lease
        receipt = answer(make_event(), at=later)
        assert await settle(inbox, lost, now=later, receipt=receipt) == Settled(False)
        assert await settle(inbox, lost, now=later, ask_again_at=later) == Settled(False)
        assert await deliver(inbox, "a", now=later) == []
        assert not await inbox.list_receipts(limit=9)
        assert (await settle(inbox, other, now=later, receipt=receipt)).is_ours
        assert await settle(inbox, other, now=later, receipt=receipt) == Settled(False), "settled once"

    async def test_no_answer_yet_is_asked_again_when_it_says(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        again_at = DEADLINE + MINUTE
        settled = await settle(inbox, inquiry, now=DEADLINE, ask_again_at=again_at, notification="not sent: Timeout")
        assert settled == Settled(True)
        record = await find_job(inbox, now=DEADLINE)
        assert (record.state, record.attempts, record.notification) == ("overdue", 1, "not sent: Timeout")
        assert await inbox.next_inquiry_at("vod") == again_at
        assert await claim(inbox, now=again_at - SECOND) == []
        inquiry = await claim_one(inbox, now=again_at)
        assert inquiry.attempt == 2
        await settle(inbox, inquiry, now=again_at, ask_again_at=again_at + HOUR)
        record = await find_job(inbox, now=again_at)
        assert (record.attempts, record.notification) == (2, "not sent: Timeout"), "said once, known"

    async def test_a_step_of_the_clock_that_is_doubted_takes_no_patience(self, inbox: Timed) -> None:
        """Started with a clock that is ten years ahead: all is due, and nothing has been waited for any longer."""
        step = timedelta(days=3650)
        await expect(inbox, "job-1")
        await inbox.put(held(make_event("job-2")))
        await inbox.watch_clock(now=NOW)
        # Whether the step has been noted or not.
        for at in (NOW + step, NOW + step + HOUR):
            event, job = await claim(inbox, now=at)
            assert (event.since, event.until) == (NOW + step, NOW + step + 5 * MINUTE)
            assert (job.since, job.until) == (DEADLINE + step, None)
            await inbox.watch_clock(now=at)
        # What has begun since then goes by the clock as it is.
        await inbox.put(held(make_event("job-3"), at=at))
        assert [inquiry.since for inquiry in await claim(inbox, now=at)] == [at]
        # It was wrong, and is right again.
        await inbox.watch_clock(now=NOW + MINUTE)
        later = await claim(inbox, now=DEADLINE + HOUR)
        assert {inquiry.reference.job_id: inquiry.since for inquiry in later} == {
            "job-1": DEADLINE,
            "job-2": NOW,
            "job-3": NOW + MINUTE,
        }

    async def test_the_vendors_answer_heals_the_job(self, inbox: Timed, reopen: Reopen) -> None:
        await expect(inbox, "job-1")
        event = make_event()
        inquiry = await claim_one(inbox, now=DEADLINE)
        settled = await settle(inbox, inquiry, now=DEADLINE, receipt=answer(event, at=DEADLINE), notification="sent")
        assert settled == Settled(True, (answered(event),))
        record = await find_job(inbox)
        assert (record.state, record.ended_at, record.attempts) == ("healed", DEADLINE, 1)
        assert (record.transport, record.event_id, record.outcome) == ("query", event.id, "succeeded")
        assert record.notification == "sent"
        assert await inbox.next_inquiry_at("vod") is None
        (receipt,) = await inbox.list_receipts(limit=9)
        assert (receipt.source, receipt.state, receipt.event_ids) == ("query", "accepted", (event.id,))
        assert (await inbox.put(make_receipt(event, at=DEADLINE))).state == "duplicate", "the callback, at last"
        inbox = await reopen()
        assert await deliver(inbox, "a", now=DEADLINE) == ids(event)
        assert await find_job(inbox) == record

    async def test_a_callback_that_comes_while_the_vendor_is_asked_completes_the_job(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        event = make_event()
        inquiry = await claim_one(inbox, now=DEADLINE)
        await inbox.put(make_receipt(event, at=DEADLINE))
        settled = await settle(inbox, inquiry, now=DEADLINE, receipt=answer(event, at=DEADLINE), notification="sent")
        assert settled == Settled(True)
        assert [receipt.state for receipt in await inbox.list_receipts(limit=9)] == ["duplicate", "accepted"]
        record = await find_job(inbox)
        assert (record.state, record.transport, record.notification) == ("completed", "http", "sent")
        assert await inbox.next_inquiry_at("vod") is None

    async def test_an_answer_that_contradicts_what_came_meanwhile_is_a_further_revision(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await inbox.put(make_receipt(make_event(outcome="failed"), at=DEADLINE))
        ended = await find_job(inbox)
        settled = await settle(inbox, inquiry, now=DEADLINE, receipt=answer(make_event(), at=DEADLINE))
        assert [event.data.revision for event in settled.accepted] == [2]
        record = await find_job(inbox)
        assert (record.state, record.event_id, record.outcome) == ("completed", ended.event_id, "failed")

    async def test_no_answer_yet_about_a_job_that_ended_meanwhile_is_not_asked_again(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await inbox.put(make_receipt(make_event(), at=DEADLINE))
        await settle(inbox, inquiry, now=DEADLINE, ask_again_at=DEADLINE + MINUTE)
        assert (await find_job(inbox)).state == "completed"
        assert await inbox.next_inquiry_at("vod") is None

    async def test_a_job_ends_with_the_last_event_of_its_answer_though_that_has_another_key(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", "job-2")
        stream, task = make_event("stream"), make_event("task", outcome="partial")
        one, other = await claim(inbox, now=DEADLINE)
        await settle(inbox, one, now=DEADLINE, receipt=answer(stream, task, at=DEADLINE))
        await settle(inbox, other, now=DEADLINE + HOUR, receipt=answer(stream, task, at=DEADLINE + HOUR))
        healed, completed = await find_job(inbox, "job-1"), await find_job(inbox, "job-2")
        assert (healed.state, healed.event_id, healed.outcome) == ("healed", task.id, "partial")
        assert (completed.state, completed.event_id, completed.outcome) == ("completed", task.id, "partial")
        assert healed.ended_at == completed.ended_at == DEADLINE
        assert completed.transport == "query"

    async def test_a_job_ends_with_its_own_event_of_an_answer_that_has_several(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        own, other = make_event("job-1"), make_event("stream", "failed")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(own, other, at=DEADLINE))
        record = await find_job(inbox)
        assert (record.state, record.event_id) == ("healed", own.id)

    async def test_a_job_of_which_nothing_can_be_learnt_is_given_up_until_it_is_heard_of(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        given_up = make_event(outcome="unknown")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(given_up, at=DEADLINE))
        record = await find_job(inbox)
        assert (record.state, record.event_id, record.outcome) == ("unknown", given_up.id, "unknown")
        assert (record.ended_at, record.transport) == (DEADLINE, "query")
        assert await claim(inbox, now=DEADLINE + DAY) == []
        late = make_event()
        verdict = await inbox.put(make_receipt(late, at=DEADLINE + DAY))
        assert verdict == Verdict("accepted", (late.with_revision(2),))
        record = await find_job(inbox)
        assert (record.state, record.event_id, record.ended_at) == ("completed", late.id, DEADLINE + DAY)

    async def test_a_job_is_given_up_though_its_event_of_unknown_outcome_was_there_before(self, inbox: Timed) -> None:
        event = make_event(outcome="unknown")
        await inbox.put(make_receipt(event))
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(event, at=DEADLINE))
        record = await find_job(inbox)
        assert (record.state, record.event_id, record.transport) == ("unknown", event.id, "http")

    async def test_an_inquiry_that_ends_without_an_event_gives_the_job_up(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        receipt = answer(at=DEADLINE, reason="not the documented form")
        assert await settle(inbox, inquiry, now=DEADLINE, receipt=receipt) == Settled(True)
        assert [receipt.state for receipt in await inbox.list_receipts(limit=9)] == ["unparsed"]
        record = await find_job(inbox)
        assert (record.state, record.event_id, record.ended_at) == ("unknown", None, DEADLINE)
        assert await inbox.next_inquiry_at("vod") is None

    async def test_findings_of_several_inquiries_are_settled_each_for_itself(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", "job-2", "job-3")
        inquiries = await claim(inbox, now=DEADLINE)
        (two,) = [inquiry for inquiry in inquiries if inquiry.reference.job_id == "job-2"]
        await settle(inbox, two, now=DEADLINE, ask_again_at=DEADLINE + HOUR)
        findings = [
            Finding(inquiry=inquiry, receipt=answer(make_event(inquiry.reference.job_id or ""), at=DEADLINE))
            for inquiry in inquiries
        ]
        settled = await inbox.settle(findings, now=DEADLINE)
        assert [one.is_ours for one in settled] == [inquiry is not two for inquiry in inquiries]
        assert await states(inbox, now=DEADLINE) == {"job-1": "healed", "job-2": "overdue", "job-3": "healed"}

    # Held events

    async def test_a_held_event_is_seen_by_nobody_and_is_asked_about_at_once(
        self, inbox: Timed, reopen: Reopen
    ) -> None:
        event = make_event()
        assert await inbox.put(held(event, binding="job-1")) == Verdict("accepted", held=1)
        assert await inbox.find_event(event.id) is None
        assert await deliver(inbox, "a") == []
        (receipt,) = await inbox.list_receipts(limit=9)
        assert (receipt.state, receipt.event_ids) == ("accepted", ())
        assert receipt.reason is not None
        inbox = await reopen()
        assert await inbox.next_inquiry_at("vod") == NOW
        inquiry = await claim_one(inbox)
        assert inquiry == Inquiry(
            id=inquiry.id,
            reason="confirm",
            reference=reference("job-1", nonce=NONCE),
            since=NOW,
            until=NOW + 5 * MINUTE,
            attempt=1,
            lease=inquiry.lease,
            event=event,
        )
        assert await claim(inbox) == []

    async def test_an_unsigned_claim_that_says_otherwise_of_what_is_known_is_a_conflict(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(), body=b"1"))
        lie = held(with_data(make_event(), media_id="other"))
        assert (await inbox.put(lie)).state == "conflict"
        (record,) = await inbox.list_receipts(state="conflict", limit=9)
        assert record.reason == "says otherwise of what was accepted before with the same outcome: media_id"
        assert (await inbox.put(held(make_event()))).state == "duplicate"
        assert await claim(inbox) == [], "nobody is asked"
        assert await deliver(inbox, "a") == ids(make_event())

    async def test_a_claim_that_was_confirmed_with_other_content_may_come_again(self, inbox: Timed) -> None:
        """What the vendor's job API said of it is no reason to find it differing."""
        claimed = held(with_data(make_event(), user_data="ours"))
        await inbox.put(claimed)
        released = with_data(make_event(), user_data="ours", media_id="media-2", verified_by="query")
        assert (await settle(inbox, await claim_one(inbox), release=released)).accepted == (released,)
        assert (await inbox.put(held(with_data(make_event(), user_data="ours")))).state == "duplicate"

    async def test_a_receipt_that_differs_in_one_event_and_waits_for_another_stays_so(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(), body=b"1"))
        receipt = held(make_event("job-2"))
        receipt.body = b"2"
        receipt.entries = (Entry(with_data(make_event(), user_data="x"), ("a",)), *receipt.entries)
        assert (await inbox.put(receipt)).state == "differing"
        await settle(inbox, await claim_one(inbox), release=make_event("job-2"))
        (record,) = await inbox.list_receipts(state="differing", limit=9)
        assert record.reason == "says otherwise of what was accepted before with the same outcome: user_data"
        assert record.event_ids == (make_event().id, make_event("job-2").id)

    async def test_a_held_event_does_not_end_the_job_until_it_leaves(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        await inbox.put(held(make_event()))
        assert await states(inbox) == {"job-1": "expected"}
        await settle(inbox, await claim_one(inbox), release=make_event(), now=NOW + SECOND)
        record = await find_job(inbox)
        assert (record.state, record.transport, record.ended_at) == ("completed", "http", NOW + SECOND)

    async def test_what_is_confirmed_leaves_in_its_better_form(self, inbox: Timed) -> None:
        event = make_event()
        await inbox.put(held(event, binding="job-1", sinks=("a", "b")))
        confirmed = answered(event, transport="token-url")
        settled = await settle(inbox, await claim_one(inbox), release=confirmed, now=NOW + SECOND)
        assert settled == Settled(True, (confirmed,))
        (delivery,) = await inbox.claim("b", limit=9, now=NOW + SECOND, lease_s=LEASE_S)
        assert parse_event(delivery.body) == confirmed
        assert await deliver(inbox, "a", now=NOW + SECOND) == ids(event)
        record = await find(inbox, event)
        assert record.accepted_at == NOW + SECOND
        (receipt,) = record.receipts
        assert (receipt.state, receipt.reason, receipt.event_ids) == ("accepted", None, (event.id,))
        assert await inbox.next_inquiry_at("vod") is None
        assert (await inbox.put(held(event, binding="job-1"))).state == "duplicate"
        assert (await inbox.put(make_receipt(event, binding="other"))).state == "conflict", "it has bound the key"

    async def test_what_is_released_is_a_further_revision_and_waits_behind_the_earlier_one(self, inbox: Timed) -> None:
        failed, succeeded = make_event(outcome="failed"), make_event()
        await inbox.put(held(succeeded))
        await inbox.put(make_receipt(failed))
        settled = await settle(inbox, await claim_one(inbox), release=succeeded)
        assert settled.accepted == (succeeded.with_revision(2),)
        first, *rest = await inbox.claim("a", limit=9, now=NOW, lease_s=LEASE_S)
        assert (first.event_id, rest) == (failed.id, [])

    async def test_an_event_of_unknown_outcome_may_leave_with_a_known_one(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        await inbox.put(held(make_event(outcome="unknown")))
        failed = answered(make_event(outcome="failed"))
        assert (await settle(inbox, await claim_one(inbox), release=failed)).accepted == (failed,)
        assert (await find_job(inbox)).outcome == "failed"
        assert (await find_receipts(inbox))[1].event_ids == (failed.id,)

    async def test_what_is_contradicted_does_not_leave_and_the_vendors_own_answer_does(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        claimed, truth = make_event(), make_event(outcome="failed")
        await inbox.put(held(claimed, binding="job-1"))
        settled = await settle(
            inbox, await claim_one(inbox), receipt=answer(truth), conflict="the vendor says that it failed"
        )
        assert settled == Settled(True, (answered(truth),))
        receipts = await find_receipts(inbox)
        assert (receipts[1].state, receipts[1].reason) == ("conflict", "the vendor says that it failed")
        assert (receipts[1].event_ids, receipts[2].event_ids) == ((), (truth.id,))
        assert receipts[2].state == "accepted"
        assert await deliver(inbox, "a") == ids(truth)
        assert (await find_job(inbox)).outcome == "failed"
        assert await inbox.next_inquiry_at("vod") is None
        assert (await inbox.put(make_receipt(make_event(outcome="unknown"), binding="job-2"))).state == "accepted", (
            "what did not leave has bound nothing"
        )

    async def test_an_answer_without_a_word_on_the_held_event_drops_it(self, inbox: Timed) -> None:
        event = make_event()
        await inbox.put(held(event))
        settled = await settle(inbox, await claim_one(inbox), receipt=answer(event))
        assert settled == Settled(True, (answered(event),))
        receipts = await find_receipts(inbox)
        assert (receipts[1].state, receipts[1].reason, receipts[1].event_ids) == ("duplicate", None, (event.id,))
        assert receipts[2].state == "accepted"
        assert [receipt.id for receipt in (await find(inbox, event)).receipts] == [receipts[1].id, receipts[2].id]
        assert await inbox.next_inquiry_at("vod") is None

    async def test_what_waits_is_asked_about_again_when_it_says(self, inbox: Timed) -> None:
        await inbox.put(held(make_event()))
        assert await settle(inbox, await claim_one(inbox), ask_again_at=NOW + MINUTE) == Settled(True)
        assert await claim(inbox, now=NOW + 59 * SECOND) == []
        inquiry = await claim_one(inbox, now=NOW + MINUTE)
        assert (inquiry.attempt, inquiry.since, inquiry.event) == (2, NOW, make_event())
        lost, inquiry = inquiry, await claim_one(inbox, now=NOW + 2 * MINUTE)
        assert await settle(inbox, lost, release=make_event()) == Settled(False)
        assert await inbox.find_event(make_event().id) is None
        assert (await settle(inbox, inquiry, release=make_event())).is_ours
        assert await settle(inbox, inquiry, conflict="no") == Settled(False), "settled once"

    async def test_a_lie_that_is_held_does_not_suppress_the_truth(self, inbox: Timed) -> None:
        """A lie of a foreign task, and one about the outcome, come before the true callback of the same URL."""
        await expect(inbox, "job-1", nonce=NONCE)
        event, lie = make_event(key_id=(NONCE,)), make_event(outcome="failed", key_id=(NONCE,))
        verdicts = [
            await inbox.put(held(event, binding="foreign")),
            await inbox.put(held(lie, binding="job-1")),
            await inbox.put(held(event, binding="job-1")),
        ]
        assert verdicts == [Verdict("conflict"), Verdict("accepted", held=1), Verdict("accepted", held=1)]
        one, two = await claim(inbox)
        if one.event == lie:
            one, two = two, one
        assert (await settle(inbox, one, release=event)).accepted == (event,)
        assert (await settle(inbox, two, conflict="it succeeded")).is_ours
        assert await deliver(inbox, "a") == ids(event)
        assert await states(inbox) == {"job-1": "completed"}

    async def test_several_claims_of_one_key_are_held_side_by_side_and_the_confirmed_one_binds(
        self, inbox: Timed
    ) -> None:
        event = make_event(key_id=(NONCE,))
        for task in ("foreign", "job-1", "other"):
            assert await inbox.put(held(event, binding=task)) == Verdict("accepted", held=1)
        assert await inbox.put(held(event, binding="job-1")) == Verdict("duplicate"), "held already"
        inquiries = {inquiry.reference.job_id: inquiry for inquiry in await claim(inbox)}
        assert inquiries.keys() == {"foreign", "job-1", "other"}
        await settle(inbox, inquiries["foreign"], conflict="not the task of this URL")
        confirmed = answered(event)
        assert (await settle(inbox, inquiries["job-1"], release=confirmed)).accepted == (confirmed,)
        late = await settle(inbox, inquiries["other"], release=event)
        assert late == Settled(True), "the key is bound now: nothing leaves"
        assert [r.state for r in (await find_receipts(inbox)).values()] == [
            "conflict",
            "accepted",
            "conflict",
            "duplicate",
        ]
        assert await deliver(inbox, "a") == ids(event)
        assert [r.state for r in (await find(inbox, event)).receipts] == ["accepted"]
        assert await inbox.next_inquiry_at("vod") is None

    async def test_what_leaves_unconfirmed_binds_nothing_and_agrees_with_what_is_bound(self, inbox: Timed) -> None:
        notice = make_event(outcome="received", kind="notice", key_id=(NONCE,))
        lie, truth = make_event(outcome="failed", key_id=(NONCE,)), make_event(key_id=(NONCE,))
        await inbox.put(held(notice, binding="foreign"))
        assert (await settle(inbox, await claim_one(inbox), release=notice)).accepted == (notice,)
        assert await inbox.put(held(lie, binding="foreign")) == Verdict("accepted", held=1)
        refuted = await claim_one(inbox)
        assert await inbox.put(held(truth, binding="job-1")) == Verdict("accepted", held=1), "nothing was bound"
        confirmed = answered(truth)
        settled = await settle(inbox, await claim_one(inbox), release=confirmed)
        assert settled.accepted == (confirmed.with_revision(2),)
        assert await settle(inbox, refuted, release=lie) == Settled(True), "another task has the key now"
        assert (await find_receipts(inbox))[2].state == "conflict"

    async def test_many_claims_about_one_key_are_asked_about_one_after_the_other(self, inbox: Timed) -> None:
        """Or whoever knows one minted URL could keep the vendor from being asked about anything else."""
        event = make_event(key_id=(NONCE,))
        for number in range(7):
            assert await inbox.put(held(event, binding=f"job-{number}")) == Verdict("accepted", held=1)
        await inbox.put(held(make_event("honest")))
        assert len(await claim(inbox)) == 4 + 1
        for seconds in (5, 10, 15):
            assert await claim(inbox, now=NOW + (seconds - 1) * SECOND) == []
            assert len(await claim(inbox, now=NOW + seconds * SECOND)) == 1

    async def test_a_claim_is_asked_about_within_its_time_however_many_came_before_it(self, inbox: Timed) -> None:
        for number in range(70):
            await inbox.put(held(make_event(media_id=f"lie-{number}"), body=b"%d" % number))
        truth = make_event()
        await inbox.put(held(truth, body=b"truth"))
        claimed: list[Inquiry] = []
        while more := await claim(inbox, now=NOW + 300 * SECOND):
            claimed += more
        assert truth in [inquiry.event for inquiry in claimed]

    async def test_a_second_claim_of_the_same_outcome_is_held_beside_the_first_one(self, inbox: Timed) -> None:
        """The first one may be a lie in all but its outcome."""
        lie, truth = make_event(media_id="a lie"), make_event()
        assert await inbox.put(held(lie, body=b"lie")) == Verdict("accepted", held=1)
        assert await inbox.put(held(truth, body=b"truth")) == Verdict("accepted", held=1)
        assert await inbox.put(held(lie, body=b"lie")) == Verdict("duplicate"), "sent again"
        one, two = sorted(await claim(inbox), key=lambda inquiry: inquiry.id)
        assert (one.event, two.event) == (lie, truth)
        await settle(inbox, one, conflict="another asset")
        assert (await settle(inbox, two, release=truth)).accepted == (truth,)
        assert await deliver(inbox, "a") == ids(truth)
        assert [r.state for r in (await find_receipts(inbox)).values()] == ["conflict", "accepted", "duplicate"]

    @pytest.mark.parametrize("decided", ["confirmed", "contradicted", "unconfirmed", "again"])
    async def test_what_the_vendor_has_decided_the_other_claims_need_not_wait_for(
        self, inbox: Timed, decided: str
    ) -> None:
        lie, truth, other = make_event(media_id="a lie"), make_event(), make_event("job-2")
        for body, event in ((b"lie", lie), (b"truth", truth), (b"other", other)):
            await inbox.put(held(event, body=body))
            await settle(inbox, await claim_one(inbox), ask_again_at=NOW + MINUTE)
        first, *_ = sorted(await claim(inbox, now=NOW + MINUTE, limit=1), key=lambda inquiry: inquiry.id)
        assert first.event == lie
        findings: dict[str, dict[str, Any]] = {
            "confirmed": {"release": answered(lie)},
            "contradicted": {"receipt": answer(make_event(outcome="failed")), "conflict": "it failed"},
            "unconfirmed": {"release": lie},
            "again": {"ask_again_at": NOW + 9 * MINUTE},
        }
        now = NOW + 30 * SECOND
        await settle(inbox, first, now=now, **findings[decided])
        found = [inquiry.event for inquiry in await claim(inbox, now=now)]
        assert found == ([truth] if decided in ("confirmed", "contradicted") else [])

    async def test_what_the_vendor_has_confirmed_is_known_when_another_outcome_is_asked_about(
        self, inbox: Timed
    ) -> None:
        confirmed, claimed = make_event(outcome="partial"), make_event(outcome="failed")
        await inbox.put(held(claimed))
        await inbox.put(held(make_event("job-2")))
        await inbox.put(make_receipt(make_event(outcome="succeeded")))
        await inbox.put(make_receipt(answered(confirmed, verified_by="signature")))
        known = {inquiry.reference.job_id: inquiry.confirmed for inquiry in await claim(inbox)}
        assert known == {"job-1": {"partial"}, "job-2": frozenset()}

    async def test_what_is_confirmed_while_another_outcome_is_asked_about_has_it_judged_again(
        self, inbox: Timed
    ) -> None:
        claimed, confirmed = make_event(outcome="failed"), answered(make_event())
        await inbox.put(held(claimed))
        inquiry = await claim_one(inbox)
        await inbox.put(make_receipt(confirmed))
        assert await settle(inbox, inquiry, release=claimed) == Settled(True)
        assert await inbox.find_event(claimed.id) is None
        inquiry = await claim_one(inbox)
        assert (set(inquiry.confirmed), inquiry.attempt) == ({"succeeded"}, 1)
        # Of the same outcome nothing is contradicted, and the vendor may confirm another one at any time.
        assert (await settle(inbox, inquiry, release=answered(claimed))).accepted == (
            answered(claimed).with_revision(2),
        )

    async def test_the_truth_that_comes_unheld_leaves_at_once(self, inbox: Timed) -> None:
        event = make_event()
        await inbox.put(held(event, binding="job-1"))
        assert (await inbox.put(make_receipt(event, binding="job-1"))).accepted == (event,)
        assert await settle(inbox, await claim_one(inbox), release=event) == Settled(True)
        receipts = await find_receipts(inbox)
        assert [(r.state, r.reason, r.event_ids) for r in receipts.values()] == [
            ("duplicate", None, (event.id,)),
            ("accepted", None, (event.id,)),
        ]
        assert len((await find(inbox, event)).receipts) == 2
        assert await deliver(inbox, "a") == ids(event)

    async def test_a_claim_that_is_refuted_after_all_has_brought_nothing(self, inbox: Timed) -> None:
        """Its outcome was right, and the rest of it was not."""
        event = make_event()
        await inbox.put(held(event, binding="foreign"))
        await inbox.put(make_receipt(event, binding="job-1"))
        await settle(inbox, await claim_one(inbox), conflict="not the task of this URL")
        first = (await find_receipts(inbox))[1]
        assert (first.state, first.reason, first.event_ids) == ("conflict", "not the task of this URL", ())
        assert len((await find(inbox, event)).receipts) == 1

    async def test_a_receipt_is_a_conflict_when_the_last_of_its_events_was_refuted(self, inbox: Timed) -> None:
        receipt = make_receipt()
        receipt.entries = held(make_event("job-1")).entries + held(make_event("job-2")).entries
        assert await inbox.put(receipt) == Verdict("accepted", held=2)
        for state in ("accepted", "conflict"):
            (inquiry,) = await claim(inbox, limit=1)
            await settle(inbox, inquiry, conflict="it failed")
            (record,) = await inbox.list_receipts(limit=9)
            assert (record.state, record.reason, record.event_ids) == (state, "it failed", ())

    async def test_a_claim_about_what_is_known_is_not_held(self, inbox: Timed) -> None:
        event = make_event(key_id=(NONCE,))
        await inbox.put(make_receipt(event))
        assert await inbox.put(held(event, binding="foreign")) == Verdict("duplicate")
        assert await inbox.next_inquiry_at("vod") is None
        assert (await inbox.put(make_receipt(event, binding="job-1"))).state == "duplicate", "that bound nothing"
        assert await inbox.put(held(event, binding="foreign")) == Verdict("conflict"), "worth an alert"

    async def test_a_receipt_may_bring_events_of_which_some_are_held(self, inbox: Timed) -> None:
        plain, waiting, refuted = make_event("job-1"), make_event("job-2"), make_event("job-3")
        receipt = make_receipt(plain)
        receipt.entries += held(waiting).entries + held(refuted).entries
        assert await inbox.put(receipt) == Verdict("accepted", (plain,), held=2)
        assert await inbox.put(receipt) == Verdict("duplicate")
        one, two = sorted(await claim(inbox), key=lambda inquiry: str(inquiry.reference.job_id))
        await settle(inbox, one, release=waiting)
        first = (await find_receipts(inbox))[1]
        assert (first.state, first.event_ids) == ("accepted", (plain.id, waiting.id))
        assert first.reason is not None, "one still waits"
        await settle(inbox, two, conflict="it failed")
        first = (await find_receipts(inbox))[1]
        assert (first.state, first.reason) == ("accepted", "it failed")
        assert first.event_ids == (plain.id, waiting.id)

    async def test_a_receipt_that_is_read_again_while_its_event_is_held_stays_as_it_is(self, inbox: Timed) -> None:
        receipt = held(make_event(), binding="job-1")
        await inbox.put(receipt)
        before = await find_receipts(inbox)
        reparsed = await inbox.reparse(before[1].id, receipt, now=NOW, dry_run=False)
        assert (reparsed.state, reparsed.accepted) == ("accepted", ())
        assert await find_receipts(inbox) == before
        confirmed = answered(make_event(), transport="token-url")
        await settle(inbox, await claim_one(inbox), release=confirmed)
        reparsed = await inbox.reparse(before[1].id, receipt, now=NOW, dry_run=False)
        assert (reparsed.state, reparsed.accepted, reparsed.changed) == ("accepted", (), ())
        body = (await find(inbox, make_event())).body
        assert body is not None
        assert parse_event(body) == confirmed, "what the vendor said stays"
        assert await inbox.next_inquiry_at("vod") is None

    async def test_what_is_held_is_what_its_receipt_meant_when_it_was_read_last(self, inbox: Timed) -> None:
        await inbox.put(held(make_event(media_id="as first understood"), sinks=("a",)))
        (receipt,) = await inbox.list_receipts(limit=9)
        better = make_event(media_id="as understood now")
        await inbox.reparse(receipt.id, held(better, sinks=("b",)), now=NOW, dry_run=False)
        inquiry = await claim_one(inbox)
        assert inquiry.event == better
        await settle(inbox, inquiry, release=better)
        assert (await deliver(inbox, "a"), await deliver(inbox, "b")) == ([], [better.id])

    async def test_a_receipt_that_was_refused_and_is_read_again_is_held_again(self, inbox: Timed) -> None:
        receipt = held(make_event(), binding="job-1")
        await inbox.put(receipt)
        await settle(inbox, await claim_one(inbox), conflict="it failed")
        (refused,) = await inbox.list_receipts(limit=9)
        reparsed = await inbox.reparse(refused.id, receipt, now=NOW, dry_run=False)
        assert (reparsed.state, reparsed.accepted) == ("accepted", ())
        assert await inbox.find_event(make_event().id) is None
        await settle(inbox, await claim_one(inbox), conflict="it failed")
        assert list(await inbox.list_receipts(limit=9)) == [refused]

    @pytest.mark.parametrize("dry_run", [True, False])
    async def test_a_receipt_that_can_be_read_now_may_be_held(self, inbox: Timed, *, dry_run: bool) -> None:
        await inbox.put(make_receipt(reason="odd"))
        (receipt,) = await inbox.outdated_receipts(parser_version=1, after_id=0, limit=9)
        reparsed = await inbox.reparse(receipt.id, held(make_event()), now=NOW, dry_run=dry_run)
        assert (reparsed.state, reparsed.accepted) == ("accepted", ())
        assert len(await claim(inbox)) == (0 if dry_run else 1)

    async def test_a_held_event_that_names_no_job_is_asked_about_by_the_only_one_that_may_be_meant(
        self, inbox: Timed
    ) -> None:
        message = NamelessJob("vod", "default", "animated_image", "media-1", takes_name=True)
        await inbox.put(held(nameless_event(), nameless=message))
        inquiry = await claim_one(inbox)
        assert inquiry.reference.job_id is None, "nobody expects a job of this asset"
        await settle(inbox, inquiry, ask_again_at=NOW)
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox)
        assert inquiry.reference.job_id == "job-1"
        settled = await settle(inbox, inquiry, release=answered(nameless_event()))
        assert [event.id for event in settled.accepted] == [make_event("job-1", "failed").id]
        assert await states(inbox) == {"job-1": "completed"}

    async def test_a_held_event_that_may_mean_several_jobs_is_asked_about_by_none(self, inbox: Timed) -> None:
        message = NamelessJob("vod", "default", "animated_image", "media-1", takes_name=True)
        await expect(inbox, "job-1", "job-2")
        await inbox.put(held(nameless_event(), nameless=message))
        assert (await claim_one(inbox)).reference.job_id is None

    async def test_what_was_refused_wrongly_can_be_read_again(self, inbox: Timed) -> None:
        await inbox.put(held(make_event()))
        await settle(inbox, await claim_one(inbox), conflict="the vendor knows no such job")
        assert list(await inbox.outdated_receipts(parser_version=0, after_id=0, limit=9)) == []
        (receipt,) = await inbox.outdated_receipts(parser_version=0, after_id=0, limit=9, with_conflicts=True)
        await inbox.reparse(receipt.id, held(make_event()), now=NOW, dry_run=False)
        settled = await settle(inbox, await claim_one(inbox), release=answered(make_event()))
        assert [event.id for event in settled.accepted] == [make_event().id]
        (record,) = await inbox.list_receipts(limit=9)
        assert (record.state, record.reason) == ("accepted", None)

    # Messages that name no job

    async def test_the_only_job_that_may_be_meant_takes_the_event(self, inbox: Timed, reopen: Reopen) -> None:
        await expect(inbox, "job-1")
        await expect(inbox, "job-2", media_id="media-2")
        await expect(inbox, "job-3", family="transcode")
        await expect(inbox, "job-4", account="other")
        expected = nameless_event().renamed(reference().key(), "job-1")
        assert await inbox.put(nameless()) == Verdict("accepted", (expected,))
        assert expected.id == make_event("job-1", "failed").id
        inbox = await reopen()
        (delivery,) = await inbox.claim("a", limit=9, now=NOW, lease_s=LEASE_S)
        assert parse_event(delivery.body) == expected
        record = await find_job(inbox)
        assert (record.state, record.event_id, record.outcome) == ("completed", expected.id, "failed")
        assert len(await listed(inbox, state="expected")) == 3
        await expect(inbox, "job-5")
        assert await inbox.put(nameless()) == Verdict("duplicate"), "the same message again, though another could be"
        assert [r.event_ids for r in (await find(inbox, expected)).receipts] == [(expected.id,)] * 2
        assert (await inbox.put(make_receipt(make_event("job-1", "failed")))).state == "duplicate"

    async def test_with_several_that_may_be_meant_all_are_asked_about_and_nothing_leaves(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", "job-2")
        assert await inbox.put(nameless(at=NOW + SECOND)) == Verdict("accepted")
        assert await inbox.find_event(nameless_event().id) is None
        (receipt,) = await inbox.list_receipts(limit=9)
        assert (receipt.state, receipt.event_ids) == ("accepted", ())
        assert receipt.reason is not None
        assert await inbox.next_inquiry_at("vod") == NOW + SECOND
        one, two = await claim(inbox, now=NOW + SECOND)
        assert {one.reference.job_id, two.reference.job_id} == {"job-1", "job-2"}
        assert one.since == two.since == DEADLINE
        failed = make_event(str(one.reference.job_id), "failed")
        await settle(inbox, one, now=NOW + SECOND, receipt=answer(failed))
        await settle(inbox, two, now=NOW + SECOND, ask_again_at=NOW + MINUTE)
        assert await inbox.put(nameless()) == Verdict("duplicate"), "no event when it comes again, with one left"
        assert sorted((await states(inbox)).values()) == ["expected", "healed"]
        assert await deliver(inbox, "a", now=NOW + SECOND) == ids(failed)

    async def test_with_none_that_may_be_meant_the_event_stays_as_it_is(self, inbox: Timed) -> None:
        assert await inbox.put(nameless()) == Verdict("accepted", (nameless_event(),))
        assert await inbox.put(nameless()) == Verdict("duplicate")
        assert await deliver(inbox, "a") == [nameless_event().id]

    async def test_a_job_that_was_given_up_may_be_meant(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(make_event(outcome="unknown"), at=DEADLINE))
        verdict = await inbox.put(nameless(at=DEADLINE))
        assert [(event.data.job_id, event.data.revision) for event in verdict.accepted] == [("job-1", 2)]
        assert await states(inbox) == {"job-1": "completed"}

    async def test_a_job_that_was_given_up_is_asked_about_again_when_it_may_be_meant(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(make_event(outcome="unknown"), at=DEADLINE))
        await expect(inbox, "job-2", now=DEADLINE, deadline_at=DEADLINE + HOUR)
        assert await inbox.put(nameless(at=DEADLINE)) == Verdict("accepted")
        inquiries = {inquiry.reference.job_id: inquiry for inquiry in await claim(inbox, now=DEADLINE)}
        assert inquiries.keys() == {"job-1", "job-2"}
        failed = answer(make_event(outcome="failed"), at=DEADLINE)
        await settle(inbox, inquiries["job-1"], now=DEADLINE, receipt=failed)
        record = await find_job(inbox)
        assert (record.state, record.outcome, record.attempts) == ("healed", "failed", 2)

    async def test_a_message_about_a_job_that_was_healed_meanwhile_is_a_duplicate(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        failed = make_event(outcome="failed")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(failed, at=DEADLINE))
        assert await inbox.put(nameless(1, at=DEADLINE)) == Verdict("duplicate")
        assert await inbox.put(nameless(1, at=DEADLINE)) == Verdict("duplicate")
        other = await inbox.put(nameless(2, at=DEADLINE))
        assert other == Verdict("accepted", (nameless_event(2),)), "each job takes one message"
        assert await deliver(inbox, "a", now=DEADLINE) == [failed.id, nameless_event(2).id]

    async def test_a_message_with_another_outcome_than_the_healed_jobs_is_not_its(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(make_event(), at=DEADLINE))
        assert (await inbox.put(nameless())).accepted == (nameless_event(),)

    async def test_a_job_that_was_never_asked_about_takes_no_late_message(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        await inbox.put(make_receipt(make_event(outcome="failed")))
        assert (await inbox.put(nameless())).accepted == (nameless_event(),)

    @pytest.mark.parametrize("takes_name", [True, False])
    async def test_a_registration_within_the_hour_takes_the_event_that_nobody_took(
        self, inbox: Timed, *, takes_name: bool
    ) -> None:
        await inbox.put(nameless(takes_name=takes_name))
        (other,) = await expect(inbox, "job-0", media_id="media-2")
        first, second = await expect(inbox, "job-1", "job-2", now=NOW + 59 * MINUTE)
        assert (other.state, first.state, second.state) == ("expected", "completed", "expected")
        assert (first.event_id, first.outcome, first.ended_at) == (nameless_event().id, "failed", NOW)
        assert first.transport == "http"
        assert await inbox.put(nameless(takes_name=takes_name)) == Verdict("duplicate")
        assert await states(inbox, now=NOW + 59 * MINUTE) == {
            "job-0": "expected",
            "job-1": "completed",
            "job-2": "expected",
        }

    async def test_a_registration_after_the_hour_takes_no_event_and_neither_does_the_message_again(
        self, inbox: Timed
    ) -> None:
        await inbox.put(nameless())
        (record,) = await expect(inbox, "job-1", now=NOW + 61 * MINUTE, deadline_at=NOW + DAY)
        assert record.state == "expected"
        assert await inbox.put(nameless(at=NOW + 62 * MINUTE)) == Verdict("duplicate")
        assert (await find_job(inbox)).state == "expected"

    async def test_an_event_that_keeps_its_key_ends_the_only_job_that_may_be_meant(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        assert (await inbox.put(nameless(takes_name=False))).accepted == (nameless_event(),)
        record = await find_job(inbox)
        assert (record.state, record.event_id, record.outcome) == ("completed", nameless_event().id, "failed")
        await expect(inbox, "job-2")
        assert await inbox.put(nameless(takes_name=False)) == Verdict("duplicate")
        assert (await find_job(inbox, "job-2")).state == "expected", "no news, no end"

    async def test_an_event_that_keeps_its_key_leaves_though_several_may_be_meant(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", "job-2")
        assert (await inbox.put(nameless(takes_name=False))).accepted == (nameless_event(),)
        assert await states(inbox) == {"job-1": "expected", "job-2": "expected"}
        assert len(await claim(inbox)) == 2
        (late,) = await expect(inbox, "job-3")
        assert late.state == "expected", "it may have been of the others"

    async def test_a_message_that_is_held_takes_a_job_when_it_leaves(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        job = NamelessJob("vod", "default", "animated_image", "media-1", takes_name=True)
        assert await inbox.put(held(nameless_event(), nameless=job)) == Verdict("accepted", held=1)
        assert await states(inbox) == {"job-1": "expected"}
        renamed = nameless_event().renamed(reference().key(), "job-1")
        assert (await settle(inbox, await claim_one(inbox), release=nameless_event())).accepted == (renamed,)
        assert await states(inbox) == {"job-1": "completed"}
        assert (await find_receipts(inbox))[1].event_ids == (renamed.id,)
        assert await inbox.put(held(nameless_event(), nameless=job)) == Verdict("duplicate")

    async def test_a_message_that_leaves_when_several_may_be_meant_has_them_asked_about(self, inbox: Timed) -> None:
        heard: list[str] = []
        job = NamelessJob("vod", "default", "animated_image", "media-1", takes_name=True)
        await inbox.put(held(nameless_event(), nameless=job))
        inquiry = await claim_one(inbox)
        await expect(inbox, "job-1", "job-2")
        inbox.listen(heard.extend)
        assert await settle(inbox, inquiry, release=nameless_event()) == Settled(True)
        assert heard == [INQUIRIES]
        assert {inquiry.reference.job_id for inquiry in await claim(inbox)} == {"job-1", "job-2"}
        (receipt,) = await inbox.list_receipts(limit=9)
        assert (receipt.state, receipt.event_ids) == ("accepted", ())
        assert receipt.reason is not None
        assert not (await settle(inbox, inquiry, release=nameless_event())).is_ours
        assert await inbox.put(held(nameless_event(), nameless=job)) == Verdict("duplicate")

    async def test_messages_that_name_no_job_are_accepted_beside_others(self, inbox: Timed) -> None:
        """The order of receipts stays."""
        receipts = [nameless(n) if n % 3 == 0 else make_receipt(make_event(f"job-{n}")) for n in range(30)]
        verdicts = await asyncio.gather(*map(inbox.put, receipts))
        assert {len(verdict.accepted) for verdict in verdicts} == {1}
        stored = (await find_receipts(inbox)).values()
        assert [receipt.event_ids[0] for receipt in stored] == [verdict.accepted[0].id for verdict in verdicts]

    async def test_a_message_that_names_no_job_may_be_read_again(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(reason="odd"))
        (stored,) = await inbox.outdated_receipts(parser_version=1, after_id=0, limit=9)
        await expect(inbox, "job-1", "job-2")
        heard: list[str] = []
        inbox.listen(heard.extend)
        assert (await inbox.reparse(stored.id, nameless(), now=NOW, dry_run=True)).accepted == ()
        assert await inbox.next_inquiry_at("vod") == DEADLINE
        assert heard == []
        assert (await inbox.reparse(stored.id, nameless(), now=NOW, dry_run=False)).accepted == ()
        assert await inbox.next_inquiry_at("vod") == NOW
        assert heard == [INQUIRIES]
        waiting = await inbox.reparse(stored.id, held(make_event("job-3")), now=NOW, dry_run=False)
        assert (waiting.state, waiting.accepted) == ("accepted", ())
        await inbox.put(make_receipt(make_event("job-1")))
        again = await inbox.reparse(stored.id, nameless(2), now=NOW, dry_run=False)
        assert again.accepted == (make_event("job-2", "failed").id,)

    async def test_a_receipt_that_is_read_again_is_not_held_against_what_its_key_is_bound_to(
        self, inbox: Timed
    ) -> None:
        await inbox.put(make_receipt(reason="odd"))
        (stored,) = await inbox.outdated_receipts(parser_version=1, after_id=0, limit=9)
        await inbox.put(make_receipt(make_event(outcome="failed"), binding="1"))
        again = await inbox.reparse(stored.id, held(make_event(), binding="2"), now=NOW, dry_run=False)
        assert again.state == "conflict"
        receipt = (await find_receipts(inbox))[1]
        assert (receipt.state, receipt.reason) == ("conflict", "the key is bound to 1, this receipt says 2")
        assert await inbox.next_inquiry_at("vod") is None

    async def test_a_message_about_a_job_that_ended_with_an_event_of_another_key_brings_that_event_again(
        self, inbox: Timed
    ) -> None:
        await expect(inbox, "job-1")
        task = make_event("task", "failed")
        inquiry = await claim_one(inbox, now=DEADLINE)
        await settle(inbox, inquiry, now=DEADLINE, receipt=answer(task, at=DEADLINE))
        assert [await inbox.put(nameless(at=DEADLINE)) for _ in range(2)] == [Verdict("duplicate")] * 2
        assert [receipt.event_ids for receipt in (await find(inbox, task)).receipts] == [(task.id,)] * 3

    async def test_two_messages_of_one_receipt_do_not_take_the_same_job(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        receipt = nameless(1)
        receipt.entries += nameless(2).entries
        verdict = await inbox.put(receipt)
        assert [event.data.job_id for event in verdict.accepted] == ["job-1", None]

    async def test_a_nameless_message_of_unknown_outcome_ends_no_job(self, inbox: Timed) -> None:
        await inbox.put(nameless(1, "unknown"))
        await expect(inbox, "job-1")
        await inbox.put(nameless(2, "unknown", takes_name=False))
        await inbox.put(nameless(3, "unknown"))
        assert await states(inbox) == {"job-1": "expected"}

    # Counts

    async def test_a_report_tells_what_became_of_the_jobs_of_each_hour(self, inbox: Timed) -> None:
        hour = NOW.replace(minute=0, second=0)
        await expect(inbox, "before", now=hour - SECOND)
        await inbox.put(make_receipt(make_event("early"), at=NOW - MINUTE))
        await expect(inbox, "slow", "fast", "early", "healed", "expected")
        await expect(inbox, "overdue", deadline_at=NOW + MINUTE)
        await inbox.put(make_receipt(make_event("slow"), at=NOW + timedelta(seconds=2.5)))
        await inbox.put(make_receipt(make_event("fast"), at=NOW + SECOND))
        await expect(inbox, "later", product="ims", now=NOW + HOUR, deadline_at=NOW + 2 * HOUR)
        now = DEADLINE
        await expect(inbox, "after", now=hour + 2 * HOUR)
        inquiries = {inquiry.reference.job_id: inquiry for inquiry in await claim(inbox, now=now)}
        healed = inquiries["healed"]
        await settle(inbox, healed, now=now, receipt=answer(make_event("healed"), at=now), notification="sent")
        report = await inbox.report_jobs(since=hour, until=hour + 2 * HOUR, now=NOW + 2 * MINUTE)

        def row(product: Any, state: Any, transport: Any, *seconds: float, **fields: Any) -> ReportRow:
            members = {"hour": hour, "notification": None, "count": len(seconds)} | fields
            return ReportRow(product=product, state=state, transport=transport, seconds=seconds, **members)

        assert sorted(report, key=repr) == sorted(
            [
                row("vod", "completed", "http", 0, 1, 2.5),
                row("vod", "healed", "query", 3600, notification="sent"),
                row("vod", "expected", None, count=1),
                row("vod", "overdue", None, count=1),
                row("ims", "expected", None, count=1, hour=hour + HOUR),
            ],
            key=repr,
        )
        assert not await inbox.report_jobs(since=NOW + DAY, until=NOW + 2 * DAY, now=NOW)

    async def test_what_waits_is_counted(self, inbox: Timed) -> None:
        assert await inbox.count_waiting(now=NOW) == WaitingCounts(jobs={}, held={}, oldest_held_at=None)
        await expect(inbox, "job-1", "job-2", "job-3")
        await expect(inbox, "job-4", product="ims", deadline_at=DEADLINE + HOUR)
        await inbox.put(make_receipt(make_event("job-1")))
        await inbox.put(held(make_event("job-5"), at=NOW + SECOND))
        await inbox.put(held(make_event("job-6"), at=NOW))
        await inbox.put(held(make_event("job-7", product="mts"), at=NOW + MINUTE))
        assert await inbox.count_waiting(now=NOW + HOUR) == WaitingCounts(
            jobs={("vod", "overdue"): 2, ("ims", "expected"): 1},
            held={"vod": 2, "mts": 1},
            oldest_held_at=NOW,
            first_deadlines={"vod": DEADLINE, "ims": DEADLINE + HOUR},
        )

    # Purge

    async def test_what_waits_for_the_vendor_is_not_purged(self, inbox: Timed) -> None:
        event = make_event("job-2")
        await expect(inbox, "job-1")
        await inbox.put(held(event, binding="job-2"))
        later = NOW + 500 * DAY
        await purge(inbox, payloads_before=later, keys_before=later)
        assert [receipt.event_ids for receipt in await inbox.list_receipts(limit=9)] == [()]
        assert len(await claim(inbox, now=later)) == 2
        (inquiry,) = [i for i in await claim(inbox, now=later + HOUR) if i.event is not None]
        assert (await settle(inbox, inquiry, release=event, now=later)).accepted == (event,)
        assert len((await find(inbox, event)).receipts) == 1

    async def test_ended_jobs_go_with_the_keys(self, inbox: Timed) -> None:
        await expect(inbox, "open", "old", "new", "given up", nonce=None)
        await expect(inbox, "job-1", nonce=NONCE, media_id="other")
        await inbox.put(make_receipt(make_event("old")))
        await inbox.put(make_receipt(make_event("job-1", key_id=(NONCE,)), binding="job-1"))
        await inbox.put(make_receipt(make_event("new"), at=NOW + 2 * DAY))
        (given_up,) = [i for i in await claim(inbox, now=DEADLINE) if i.reference.job_id == "given up"]
        await settle(inbox, given_up, now=DEADLINE, receipt=answer(make_event("given up", "unknown"), at=DEADLINE))
        await deliver(inbox, "a", now=NOW + 2 * DAY)
        await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)
        assert await states(inbox) == {"open": "expected", "new": "completed"}
        (again,) = await expect(inbox, "job-2", nonce=NONCE)
        assert again.state == "expected", "the nonce is forgotten"

    async def test_a_key_that_stays_stays_bound_though_its_job_goes(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", nonce=NONCE)
        await inbox.put(make_receipt(make_event(outcome="failed", key_id=(NONCE,)), binding="job-1"))
        await inbox.put(make_receipt(make_event(key_id=(NONCE,)), binding="job-1", at=NOW + 2 * DAY))
        await deliver(inbox, "a", now=NOW + 2 * DAY)
        await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)
        assert await listed(inbox) == []
        late = make_receipt(make_event(outcome="cancelled", key_id=(NONCE,)), binding="foreign")
        assert (await inbox.put(late)).state == "conflict"

    async def test_what_is_known_of_nameless_messages_goes_with_the_keys(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        await inbox.put(nameless(1))
        await expect(inbox, "job-2", "job-3")
        for number in range(2, 9):
            await inbox.put(nameless(number))
        await deliver(inbox, "a")
        await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)
        for job_id in ("job-2", "job-3"):
            await inbox.put(make_receipt(make_event(job_id)))
        for number in range(1, 9):
            again = nameless_event(number)
            assert (await inbox.put(nameless(number, at=NOW + 2 * DAY))).accepted == (again,)

    # Life

    async def test_listeners_hear_when_there_is_something_to_ask(self, inbox: Timed) -> None:
        heard: list[str] = []
        also: list[str] = []
        inbox.listen(heard.extend)
        inbox.listen(also.extend)

        def news() -> list[str]:
            told = heard[:]
            assert sorted(told) == sorted(also)
            heard.clear()
            also.clear()
            return told

        await expect(inbox, "job-1", "job-2")
        assert news() == [INQUIRIES]
        await inbox.put(held(make_event("job-3")))
        assert news() == [INQUIRIES]
        await inbox.put(held(make_event("job-3")))
        assert news() == []
        await inbox.put(nameless())
        assert news() == [INQUIRIES], "job-1 and job-2 are due now"
        inquiries = {inquiry.reference.job_id: inquiry for inquiry in await claim(inbox)}
        assert news() == []
        await settle(inbox, inquiries["job-1"], receipt=answer(make_event("job-1"), sinks=("b",)))
        assert news() == ["b"]
        await settle(inbox, inquiries["job-3"], release=make_event("job-3"))
        assert news() == ["a"]
        await settle(inbox, inquiries["job-2"], ask_again_at=DEADLINE)
        assert news() == []

    async def test_odd_text_of_jobs_is_kept(self, inbox: Timed) -> None:
        odd = "作业\n'\"\\\U0001f600" + "x" * 500
        event = make_event(odd, media_id=odd)
        (record,) = await expect(inbox, odd, media_id=odd, user_data=odd)
        assert (record.reference.job_id, record.reference.media_id, record.user_data) == (odd, odd, odd)
        await inbox.put(held(event))
        inquiry = await claim_one(inbox)
        assert (inquiry.event, inquiry.reference.job_id) == (event, odd)
        await settle(inbox, inquiry, conflict=odd)
        (receipt,) = await inbox.list_receipts(limit=9)
        assert receipt.reason == odd


class DatabaseJobsConformance:
    """What both databases do about jobs, by the queries that they share."""

    async def test_a_finding_that_the_database_refuses_does_not_fail_its_neighbours(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", "job-2", "job-3", deadline_at=NOW)
        inquiries = await claim(inbox)
        findings = [Finding(inquiry=one, receipt=answer(make_event(str(one.reference.job_id)))) for one in inquiries]
        # No type that a database knows
        findings[1] = Finding(inquiry=inquiries[1], ask_again_at=NOW + SECOND, notification=object())  # type: ignore[arg-type]
        with pytest.raises(InboxUnavailable):
            await inbox.settle(findings, now=NOW)
        assert sorted((await states(inbox)).values()) == ["healed", "healed", "overdue"]

    async def test_a_report_counts_each_job_once_however_many_there_are(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "_JOBS_PER_READ", 2)
        for hour in (2, 0, 1):
            # Those of one registration have the same time, and ids are not in the order of times.
            await expect(inbox, *[f"job-{hour}-{n}" for n in range(5)], now=NOW + hour * HOUR)
        report = await inbox.report_jobs(since=NOW, until=NOW + 2 * HOUR, now=NOW)
        assert [(row.state, row.count) for row in report] == [("expected", 5), ("expected", 5)]
