"""
What every inbox must do, and what the databases share. A database's own test module imports these classes and provides
two fixtures: ``inbox``, and ``reopen``, which closes that one and returns another instance on the same database; a
database's also takes arguments for that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.errors import InboxUnavailable
from service.events import Event, Key, event_id
from service.inbox import reads, replays
from service.inbox.base import (
    AttemptResult,
    DeliveryRecord,
    Entry,
    EventFilter,
    EventRecord,
    Inbox,
    Purged,
    Receipt,
    Reparsed,
    ReplayRequest,
    Verdict,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LEASE_S = 20.0
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

Reopen = Callable[..., Awaitable[Inbox]]


def make_event(
    job_id: str = "job-1",
    outcome: Any = "succeeded",
    *,
    family: str = "animated_image",
    product: Any = "vod",
    kind: str = "animated_image",
    media_id: str = "media-1",
    key_id: tuple[str, ...] | None = None,
    user_data: str | None = None,
) -> Event:
    key = Key(product, "default", family, key_id or (job_id,))
    return Event.model_validate(
        {
            "id": event_id(key.digest(), outcome),
            "source": f"/aliyun/{product}/default",
            "type": f"media.{kind}.{outcome}",
            "subject": job_id,
            "time": NOW,
            "dataschema": f"urn:media-callbacks:{kind}:1",
            "data": {
                "product": product,
                "kind": kind,
                "outcome": outcome,
                "job_id": job_id,
                "media_id": media_id,
                "vendor_event": "DynamicImageComplete",
                "outputs": [],
                "error": None,
                "user_data": user_data,
                "revision": 1,
                "source": "vod",
                "transport": "http",
                "verified_by": "signature",
                "outcome_verified_by": "signature",
                "received_at": NOW,
            },
        }
    )


def make_receipt(
    *events: Event,
    sinks: tuple[str, ...] = ("a",),
    body: bytes = b"{}",
    at: datetime = NOW,
    binding: str | None = None,
    **fields: Any,
) -> Receipt:
    return Receipt(
        source="vod",
        product="vod",
        transport="http",
        verified_by="signature",
        received_at=at,
        body=body,
        entries=tuple(Entry(event, sinks, binding) for event in events),
        **fields,
    )


async def deliver(inbox: Inbox, sink: str, *, now: datetime = NOW) -> list[str]:
    """Claim and deliver everything that may go now; the event ids in order."""
    delivered: list[str] = []
    while claimed := await inbox.claim(sink, limit=10, now=now, lease_s=LEASE_S):
        delivered += [delivery.event_id for delivery in claimed]
        assert all(await inbox.record([AttemptResult(delivery, "delivered") for delivery in claimed], now=now))
    return delivered


async def put(inbox: Inbox, *events: Event, sinks: tuple[str, ...] = ("a",), at: datetime = NOW) -> None:
    """Each event by a receipt of its own, a second after the other."""
    for n, event in enumerate(events):
        verdict = await inbox.put(make_receipt(event, sinks=sinks, at=at + n * SECOND))
        assert verdict.state == "accepted"


async def attempt(inbox: Inbox, sink: str, state: Any, *, now: datetime = NOW, **fields: Any) -> list[str]:
    """Claim what may go now and let every attempt come to this; the event ids in order."""
    claimed = await inbox.claim(sink, limit=100, now=now, lease_s=LEASE_S)
    results = [AttemptResult(delivery, state, started_at=now, **fields) for delivery in claimed]
    assert all(await inbox.record(results, now=now))
    return [delivery.event_id for delivery in claimed]


async def find(inbox: Inbox, event: Event) -> EventRecord:
    record = await inbox.find_event(event.id)
    assert record is not None
    return record


async def find_delivery(inbox: Inbox, event: Event, sink: str = "a", replay: int = 0) -> DeliveryRecord:
    (delivery,) = [d for d in (await find(inbox, event)).deliveries if (d.sink, d.replay) == (sink, replay)]
    return delivery


async def pause(inbox: Inbox, sink: str = "a", state: Any = "paused") -> None:
    await inbox.set_sink_state(sink, state, reason="why", changed_by="who", now=NOW)


async def resume(inbox: Inbox, sink: str = "a") -> None:
    await inbox.set_sink_state(sink, "active", reason=None, changed_by="who", now=NOW)


async def listed(inbox: Inbox, **wanted: Any) -> list[str]:
    """Ids of the events that a filter means, newest first, read in pages; counted as many."""
    event_filter = EventFilter(**wanted)
    ids: list[str] = []
    before = None
    while page := await inbox.list_events(event_filter, before=before, limit=2):
        ids += [event.id for event in page]
        before = page[-1].cursor
    assert await inbox.count_events(event_filter) == len(ids)
    return ids


def ids(*events: Event) -> list[str]:
    return [event.id for event in events]


async def finish_replays(inbox: Inbox, *, now: datetime = NOW) -> datetime:
    """Take every step when it is due; when the last was."""
    while (at := await inbox.advance_replays(now=now)) is not None:
        now = max(now, at)
    return now


async def purge(inbox: Inbox, *, payloads_before: datetime, keys_before: datetime, limit: int = 2) -> Purged:
    """A whole pass; what it removed in all."""
    payloads = keys = 0
    while True:
        step = await inbox.purge(payloads_before=payloads_before, keys_before=keys_before, limit=limit)
        payloads += step.payloads
        keys += step.keys
        if step.is_finished:
            return Purged(payloads, keys, is_finished=True)


async def backlog(inbox: Inbox) -> dict[tuple[str, str], int]:
    """How many deliveries there are by sink and state, delivered ones left out."""
    return {(sink.name, state): n for sink in await inbox.list_sinks() for state, n in sink.deliveries.items()}


class InboxConformance:
    """Behaviour through the interface alone."""

    async def test_it_knows_how_large_it_is(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event()))
        space = await inbox.measure()
        assert space.size_bytes > 10_000
        assert space.free_bytes is None or space.free_bytes > 0

    # Dedup

    async def test_first_receipt_is_accepted_and_the_same_again_is_a_duplicate(self, inbox: Inbox) -> None:
        event = make_event()
        assert await inbox.put(make_receipt(event)) == Verdict("accepted", (event,))
        assert await inbox.put(make_receipt(event)) == Verdict("duplicate")
        assert await deliver(inbox, "a") == [event.id]

    async def test_another_outcome_is_a_further_revision(self, inbox: Inbox) -> None:
        failed, succeeded, again = make_event(outcome="failed"), make_event(), make_event(outcome="failed")
        await inbox.put(make_receipt(failed))
        verdict = await inbox.put(make_receipt(succeeded))
        assert verdict == Verdict("accepted", (succeeded.with_revision(2),))
        assert await inbox.put(make_receipt(again)) == Verdict("duplicate"), "recorded before, whatever came between"

    async def test_the_revision_is_put_where_it_belongs(self, inbox: Inbox) -> None:
        def make(outcome: str) -> Event:
            event = make_event('"revision":1,', outcome).model_dump()
            result = {"revision": 1, "ä": [1], "source": "vod"}
            event["data"] |= {"kind": "ai", "outputs": [{"result": result}], "user_data": '作"revision":1,'}
            return Event.model_validate(
                event | {"type": f"media.ai.{outcome}", "dataschema": "urn:media-callbacks:ai:1"}
            )

        await inbox.put(make_receipt(make("failed"), sinks=()))
        second = make("succeeded")
        assert (await inbox.put(make_receipt(second))).accepted == (second.with_revision(2),)
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert delivery.body == second.with_revision(2).to_json()

    async def test_a_conflict_says_what_the_key_is_bound_to(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event(), binding="1"))
        verdicts = await asyncio.gather(
            inbox.put(make_receipt(make_event("job-2"))), inbox.put(make_receipt(make_event(), binding="2"))
        )
        assert [verdict.state for verdict in verdicts] == ["accepted", "conflict"]
        (refused, _, _) = await inbox.list_receipts(limit=5)
        assert refused.reason == "the key is bound to 1, this receipt says 2"

    async def test_a_receipt_read_again_may_be_a_conflict(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event(), binding="1"))
        await inbox.put(make_receipt(reason="not understood"))
        (_, stored) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=5)
        again = make_receipt(make_event(outcome="failed"), binding="2", parser_version=2)
        assert (await inbox.reparse(stored.id, again, now=NOW, dry_run=False)).state == "conflict"
        (record, _) = await inbox.list_receipts(limit=5)
        assert (record.state, record.reason) == ("conflict", "the key is bound to 1, this receipt says 2")

    async def test_numbers_beyond_what_databases_count_to_find_nothing_or_all(self, inbox: Inbox) -> None:
        event = make_event()
        await inbox.put(make_receipt(event))
        assert await inbox.find_replay(2**70) is None
        assert await inbox.cancel_replay(-(2**70), now=NOW) is None
        assert len(await inbox.list_replays(before_id=2**70, limit=5)) == 0
        assert len(await inbox.list_events(EventFilter(), before=2**70, limit=5)) == 1
        assert len(await inbox.list_events(EventFilter(), before=-(2**70), limit=5)) == 0
        assert len(await inbox.list_receipts(before_id=2**70, limit=5)) == 1
        assert len(await inbox.list_receipts(before_id=-(2**70), limit=5)) == 0
        assert len(await inbox.outdated_receipts(parser_version=9, after_id=2**70, limit=5)) == 0

    async def test_revision_is_in_the_delivered_body(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event(outcome="failed"), sinks=()))
        second = make_event()
        await inbox.put(make_receipt(second))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert delivery.body == second.with_revision(2).to_json()

    async def test_outcomes_put_at_the_same_moment_get_different_revisions(self, inbox: Inbox) -> None:
        outcomes = ("succeeded", "failed", "partial", "cancelled", "unknown")
        receipts = [make_receipt(make_event(outcome=outcome)) for outcome in outcomes for _ in range(4)]
        verdicts = await asyncio.gather(*(inbox.put(receipt) for receipt in receipts))
        accepted = [event for verdict in verdicts for event in verdict.accepted]
        assert sorted(event.data.revision for event in accepted) == [1, 2, 3, 4, 5]
        assert {event.data.outcome for event in accepted} == set(outcomes)

    async def test_many_duplicates_at_once_give_one_event(self, inbox: Inbox) -> None:
        verdicts = await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n % 10}"))) for n in range(500)))
        assert sum(len(verdict.accepted) for verdict in verdicts) == 10
        assert len(await deliver(inbox, "a")) == 10

    async def test_receipt_with_a_new_and_a_known_event_is_accepted_for_the_new_one(self, inbox: Inbox) -> None:
        known, new = make_event("job-1"), make_event("job-2")
        await inbox.put(make_receipt(known))
        assert await inbox.put(make_receipt(known, new)) == Verdict("accepted", (new,))

    async def test_same_event_twice_in_one_receipt_counts_once(self, inbox: Inbox) -> None:
        event = make_event()
        assert await inbox.put(make_receipt(event, event)) == Verdict("accepted", (event,))
        assert await deliver(inbox, "a") == [event.id]

    async def test_families_do_not_mix(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event(family="run-start")))
        assert (await inbox.put(make_receipt(make_event(family="run")))).state == "accepted"

    # What gives no event

    async def test_unparsed_receipt_is_kept(self, inbox: Inbox) -> None:
        assert await inbox.put(make_receipt(body=b"\xff", reason="not UTF-8")) == Verdict("unparsed")

    async def test_second_binding_of_a_key_is_a_conflict_and_no_event(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event(outcome="unknown"), binding="1"))
        assert await inbox.put(make_receipt(make_event(), binding="2")) == Verdict("conflict")
        (refused,) = await inbox.list_receipts(limit=1)
        assert (refused.state, refused.event_ids) == ("conflict", ())
        assert (await inbox.put(make_receipt(make_event(), binding="1"))).state == "accepted"
        assert (await inbox.put(make_receipt(make_event(outcome="failed")))).state == "accepted", (
            "no binding, no conflict"
        )
        assert len(await deliver(inbox, "a")) == 3

    async def test_event_for_no_sink_is_kept_and_claimed_by_nobody(self, inbox: Inbox) -> None:
        assert (await inbox.put(make_receipt(make_event(), sinks=()))).state == "accepted"
        assert await backlog(inbox) == {}

    # Deliveries

    async def test_deliveries_come_oldest_first_and_to_each_sink(self, inbox: Inbox) -> None:
        events = [make_event(f"job-{n}") for n in range(25)]
        for n, event in enumerate(events):
            await inbox.put(make_receipt(event, sinks=("a", "b"), at=NOW + timedelta(milliseconds=n)))
        later = NOW + timedelta(seconds=1)
        assert await deliver(inbox, "a", now=later) == [event.id for event in events]
        assert await deliver(inbox, "b", now=later) == [event.id for event in events]
        assert await deliver(inbox, "a", now=later) == []

    async def test_claimed_delivery_is_nobody_elses_until_its_lease_ends(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event()))
        (first,) = await inbox.claim("a", limit=5, now=NOW, lease_s=LEASE_S)
        assert await inbox.claim("a", limit=5, now=NOW + timedelta(seconds=LEASE_S - 1), lease_s=LEASE_S) == []
        (second,) = await inbox.claim("a", limit=5, now=NOW + timedelta(seconds=LEASE_S), lease_s=LEASE_S)
        assert second.event_id == first.event_id
        assert second.attempt == 1, "an attempt that was never recorded does not count"
        assert await inbox.record([AttemptResult(first, "delivered")], now=NOW) == [False], "its lease was lost"
        assert await inbox.record([AttemptResult(second, "delivered")], now=NOW) == [True]
        assert await inbox.record([AttemptResult(second, "delivered")], now=NOW) == [False]

    async def test_retry_is_due_when_it_says(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        due_at = NOW + timedelta(minutes=5)
        await inbox.record([AttemptResult(delivery, "retrying", due_at=due_at, error="503")], now=NOW)
        assert await inbox.next_due_at("a") == due_at
        assert await backlog(inbox) == {("a", "retrying"): 1}
        assert await inbox.claim("a", limit=1, now=due_at - timedelta(milliseconds=1), lease_s=LEASE_S) == []
        (delivery,) = await inbox.claim("a", limit=1, now=due_at, lease_s=LEASE_S)
        assert delivery.attempt == 2

    async def test_delivery_given_back_is_due_at_once_and_not_counted(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "pending")], now=NOW)
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert delivery.attempt == 1
        await inbox.record([AttemptResult(delivery, "retrying", due_at=NOW, error="503")], now=NOW)
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "pending")], now=NOW)
        assert await backlog(inbox) == {("a", "retrying"): 1}, "what it was before"

    async def test_dead_delivery_is_not_claimed_again(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "dead", error="gone")], now=NOW)
        assert await inbox.claim("a", limit=1, now=NOW + timedelta(days=365), lease_s=LEASE_S) == []
        assert await backlog(inbox) == {("a", "dead"): 1}
        assert await inbox.next_due_at("a") is None

    # Reading again

    async def test_what_gave_no_event_and_what_older_parsers_read_is_outdated(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(body=b"unparsed", reason="why", meta={"k": "v"}, parser_version=2))
        await inbox.put(make_receipt(make_event("job-1"), body=b"old", parser_version=1))
        await inbox.put(make_receipt(make_event("job-2"), body=b"new", parser_version=2))
        found = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        assert [(receipt.body, dict(receipt.meta)) for receipt in found] == [(b"unparsed", {"k": "v"}), (b"old", {})]
        assert (found[0].source, found[0].verified_by, found[0].received_at) == ("vod", "signature", NOW)
        assert [r.body for r in await inbox.outdated_receipts(parser_version=2, after_id=0, limit=1)] == [b"unparsed"]
        rest = await inbox.outdated_receipts(parser_version=2, after_id=found[0].id, limit=10)
        assert [receipt.body for receipt in rest] == [b"old"]

    @pytest.mark.parametrize("dry_run", [True, False])
    async def test_a_receipt_that_can_be_read_now_gives_its_events(self, inbox: Inbox, *, dry_run: bool) -> None:
        await inbox.put(make_receipt(body=b"x", reason="not understood", parser_version=1))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        event = make_event()
        result = await inbox.reparse(
            stored.id, make_receipt(event, parser_version=2), now=NOW + timedelta(days=1), dry_run=dry_run
        )
        assert result == Reparsed("accepted", accepted=(event.id,))
        later = NOW + timedelta(days=1)
        assert await deliver(inbox, "a", now=later) == ([] if dry_run else [event.id])
        assert len(await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)) == (1 if dry_run else 0)
        assert (await inbox.put(make_receipt(event))).state == ("accepted" if dry_run else "duplicate")

    async def test_changed_content_is_updated_and_sent_to_nobody(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event(outcome="failed"), sinks=()))
        event = make_event()
        await inbox.put(make_receipt(event, parser_version=1))
        await deliver(inbox, "a")
        *_, stored = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        changed = event.model_copy(update={"data": event.data.model_copy(update={"user_data": "understood now"})})
        receipt = make_receipt(changed, parser_version=2)
        assert await inbox.reparse(stored.id, receipt, now=NOW, dry_run=False) == Reparsed("accepted", (), (event.id,))
        assert await inbox.reparse(stored.id, receipt, now=NOW, dry_run=False) == Reparsed("accepted"), "the same now"
        assert await deliver(inbox, "a") == []

    async def test_another_outcome_found_by_reading_again_is_a_further_revision(self, inbox: Inbox) -> None:
        unknown, succeeded = make_event(outcome="unknown"), make_event()
        await inbox.put(make_receipt(unknown, parser_version=1))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        result = await inbox.reparse(stored.id, make_receipt(succeeded, parser_version=2), now=NOW, dry_run=False)
        assert result.accepted == (succeeded.id,)
        assert await deliver(inbox, "a") == [unknown.id, succeeded.id]

    async def test_a_duplicate_read_again_does_not_touch_the_event_that_another_receipt_brought(
        self, inbox: Inbox
    ) -> None:
        event = make_event()
        await inbox.put(make_receipt(event, parser_version=2))
        await inbox.put(make_receipt(event, parser_version=1))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        changed = event.model_copy(update={"data": event.data.model_copy(update={"user_data": "other"})})
        result = await inbox.reparse(stored.id, make_receipt(changed, parser_version=2), now=NOW, dry_run=False)
        assert result == Reparsed("duplicate")

    async def test_an_event_keeps_the_id_that_it_has_when_a_later_parser_would_give_another(self, inbox: Inbox) -> None:
        old, *others = (make_event(key_id=("job-1", *parts)) for parts in ((), ("file-1",), ("file-2",)))
        first, second = others
        await inbox.put(make_receipt(old, parser_version=1))
        await inbox.put(make_receipt(old, at=NOW + timedelta(seconds=1), parser_version=1))
        earlier, later = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        result = await inbox.reparse(earlier.id, make_receipt(first, parser_version=2), now=NOW, dry_run=False)
        assert result == Reparsed("accepted")
        # The other was taken for a repetition, and is none.
        result = await inbox.reparse(later.id, make_receipt(second, parser_version=2), now=NOW, dry_run=False)
        assert result == Reparsed("accepted", accepted=(second.id,))
        assert await inbox.find_event(first.id) is None
        assert [receipt.event_ids for receipt in await inbox.list_receipts(limit=10)] == [(second.id,), (old.id,)]

    # What operators see

    async def test_an_event_is_found_with_its_receipts_and_deliveries(self, inbox: Inbox) -> None:
        event = make_event()
        await inbox.put(make_receipt(event, sinks=("a", "b")))
        await inbox.put(make_receipt(event, at=NOW + timedelta(seconds=1), warnings=("Size",)))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        due_at = NOW + timedelta(seconds=5)
        await inbox.record([AttemptResult(delivery, "retrying", due_at=due_at, error="503")], now=NOW)
        record = await inbox.find_event(event.id)
        assert record is not None
        assert (record.id, record.accepted_at, record.body) == (event.id, NOW, event.to_json())
        assert [(r.state, r.warnings, r.event_ids) for r in record.receipts] == [
            ("accepted", (), (event.id,)),
            ("duplicate", ("Size",), (event.id,)),
        ]
        assert [(d.sink, d.state, d.attempts, d.due_at, d.error) for d in record.deliveries] == [
            ("a", "retrying", 1, due_at, "503"),
            ("b", "pending", 0, NOW, None),
        ]

    @pytest.mark.parametrize("event_id", ["", "evt_", "evt_" + "0" * 34, "evt_" + "0" * 32 + "ff", "x" * 38])
    async def test_what_is_no_event_is_not_found(self, inbox: Inbox, event_id: str) -> None:
        assert await inbox.find_event(event_id) is None

    async def test_receipts_are_listed_newest_first_in_pages_and_by_what_is_asked(self, inbox: Inbox) -> None:
        for n in range(5):
            await inbox.put(make_receipt(make_event(f"job-{n}"), at=NOW + timedelta(seconds=n)))
        await inbox.put(make_receipt(reason="not JSON", at=NOW + timedelta(seconds=9)))
        page = await inbox.list_receipts(limit=4)
        assert [receipt.state for receipt in page] == ["unparsed", "accepted", "accepted", "accepted"]
        assert (page[0].reason, page[0].event_ids) == ("not JSON", ())
        assert page[1].event_ids == (make_event("job-4").id,)
        rest = await inbox.list_receipts(limit=4, before_id=page[-1].id)
        assert [receipt.received_at for receipt in rest] == [NOW + timedelta(seconds=1), NOW]
        assert len(await inbox.list_receipts(limit=10, state="unparsed")) == 1
        assert len(await inbox.list_receipts(limit=10, source="vod", since=NOW + timedelta(seconds=3))) == 3
        assert await inbox.list_receipts(limit=10, source="other") == ()

    # Order

    @pytest.mark.parametrize("together", [True, False])
    async def test_later_outcome_waits_for_the_earlier_one_at_each_sink(self, inbox: Inbox, *, together: bool) -> None:
        outcomes = ("failed", "unknown", "succeeded")
        events = [make_event(outcome=outcome) for outcome in outcomes]
        receipts = [make_receipt(event, sinks=("a", "b")) for event in events]
        other = make_receipt(make_event("job-2"), sinks=("a", "b"))
        if together:
            await asyncio.gather(*(inbox.put(receipt) for receipt in (*receipts, other)))
        else:
            for receipt in (*receipts, other):
                await inbox.put(receipt)
        claimed = await inbox.claim("a", limit=10, now=NOW, lease_s=LEASE_S)
        assert [delivery.event_id for delivery in claimed] == [events[0].id, other.entries[0].event.id]
        due_at = NOW + timedelta(minutes=1)
        results = [
            AttemptResult(claimed[0], "retrying", due_at=due_at, error="503"),
            AttemptResult(claimed[1], "delivered"),
        ]
        await inbox.record(results, now=NOW)
        assert await inbox.claim("a", limit=10, now=NOW, lease_s=LEASE_S) == [], "a retrying one holds back"
        assert (await deliver(inbox, "b"))[-2:] == [events[1].id, events[2].id], "at the other sink nothing is amiss"
        (claimed_again,) = await inbox.claim("a", limit=10, now=due_at, lease_s=LEASE_S)
        await inbox.record([AttemptResult(claimed_again, "dead", error="gone")], now=due_at)
        assert await deliver(inbox, "a", now=due_at) == [events[1].id, events[2].id], "a dead one releases, in order"

    # Sinks that are paused or disabled

    @pytest.mark.parametrize("state", ["paused", "disabled"])
    async def test_nothing_is_claimed_while_a_sink_is_not_active_and_all_in_order_afterwards(
        self, inbox: Inbox, state: str
    ) -> None:
        failed, succeeded, other = make_event(outcome="failed"), make_event(), make_event("job-2")
        await put(inbox, failed, sinks=("a", "b"))
        due_at = NOW + timedelta(minutes=1)
        await attempt(inbox, "a", "retrying", due_at=due_at, error="503")
        await pause(inbox, state=state)
        await put(inbox, succeeded, other, sinks=("a", "b"))
        assert await deliver(inbox, "a", now=NOW + DAY) == []
        assert await inbox.next_due_at("a") is None
        assert await inbox.next_due_at("b") == NOW
        assert await backlog(inbox) == {("a", "parked"): 3, ("b", "pending"): 3}
        assert len(await deliver(inbox, "b", now=NOW + DAY)) == 3, "at the other sink nothing is amiss"
        parked = await find_delivery(inbox, failed)
        assert (parked.state, parked.due_at, parked.attempts) == ("parked", None, 1)
        await resume(inbox)
        assert await inbox.next_due_at("a") == NOW + SECOND
        assert await attempt(inbox, "a", "delivered", now=NOW + 2 * SECOND) == ids(other), "the schedule goes on"
        assert await deliver(inbox, "a", now=due_at) == ids(failed, succeeded)

    async def test_what_was_leased_when_a_sink_was_paused_can_still_be_recorded(self, inbox: Inbox) -> None:
        await put(inbox, make_event("job-1"), make_event("job-2"))
        first, second = await inbox.claim("a", limit=2, now=NOW + DAY, lease_s=LEASE_S)
        await pause(inbox)
        results = [AttemptResult(first, "delivered"), AttemptResult(second, "pending")]
        assert await inbox.record(results, now=NOW + DAY) == [True, True]
        assert await backlog(inbox) == {("a", "parked"): 1}

    async def test_resuming_wakes_the_listener(self, inbox: Inbox) -> None:
        await pause(inbox)
        await put(inbox, make_event())
        heard: list[str] = []
        inbox.listen(heard.extend)
        await resume(inbox)
        assert heard == ["a"]

    async def test_sinks_are_listed_with_why_they_stand_and_what_waits(self, inbox: Inbox, reopen: Reopen) -> None:
        assert await inbox.list_sinks() == ()
        await put(inbox, make_event("job-1"), make_event("job-2"), make_event("job-3"), sinks=("c", "a"))
        await attempt(inbox, "c", "dead", error="gone")
        await pause(inbox, "b", "disabled")
        await pause(inbox, "a")
        await resume(inbox, "a")
        await pause(inbox, "x")
        await resume(inbox, "x")
        inbox = await reopen()
        a, b, c = await inbox.list_sinks()
        assert (a.name, a.state, a.deliveries, a.oldest_pending_at) == ("a", "active", {"pending": 3}, NOW)
        assert (a.reason, a.changed_by, a.changed_at) == (None, None, None)
        assert (b.name, b.state, b.deliveries, b.oldest_pending_at) == ("b", "disabled", {}, None)
        assert (b.reason, b.changed_by, b.changed_at) == ("why", "who", NOW)
        assert (c.name, c.deliveries, c.oldest_pending_at) == ("c", {"dead": 1, "pending": 2}, NOW + SECOND)

    # Attempts

    async def test_every_attempt_is_kept(self, inbox: Inbox) -> None:
        event = make_event()
        await put(inbox, event)
        await attempt(inbox, "a", "retrying", due_at=NOW + SECOND, error="503", duration_s=0.25)
        await attempt(inbox, "a", "pending", now=NOW + SECOND, error="stopped", duration_s=1.5)
        (given_back,) = await inbox.claim("a", limit=1, now=NOW + SECOND, lease_s=LEASE_S)
        await inbox.record([AttemptResult(given_back, "pending")], now=NOW + SECOND)
        await attempt(inbox, "a", "delivered", now=NOW + 2 * SECOND, duration_s=2.0)
        delivery = await find_delivery(inbox, event)
        assert (delivery.state, delivery.attempts, delivery.error) == ("delivered", 2, None)
        assert delivery.changed_at == NOW + 2 * SECOND
        assert [(a.number, a.started_at, a.duration_s, a.result, a.error) for a in delivery.history] == [
            (1, NOW, 0.25, "retrying", "503"),
            (2, NOW + SECOND, 1.5, "interrupted", "stopped"),
            (2, NOW + 2 * SECOND, 2.0, "delivered", None),
        ], "one that was never begun is no attempt"

    async def test_attempt_whose_lease_was_lost_is_kept_and_changes_nothing(self, inbox: Inbox) -> None:
        event = make_event()
        await put(inbox, event)
        (lost,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        later = NOW + timedelta(seconds=LEASE_S)
        await attempt(inbox, "a", "retrying", now=later, due_at=later + SECOND, error="503")
        assert await inbox.record([AttemptResult(lost, "dead", error="late", started_at=NOW)], now=later) == [False]
        delivery = await find_delivery(inbox, event)
        assert (delivery.state, delivery.attempts, delivery.due_at) == ("retrying", 1, later + SECOND)
        assert [(a.started_at, a.result) for a in delivery.history] == [(NOW, "dead"), (later, "retrying")]

    async def test_results_of_many_deliveries_are_recorded_together(self, inbox: Inbox) -> None:
        events = [make_event(f"job-{n}") for n in range(70)]
        await put(inbox, *events)
        now = NOW + DAY
        claimed = await inbox.claim("a", limit=100, now=now, lease_s=LEASE_S)
        states: list[Any] = ["delivered", "dead", "retrying", "pending"]
        results = [
            AttemptResult(d, states[n % 4], started_at=now, due_at=now + SECOND if n % 4 == 2 else None)
            for n, d in enumerate(claimed)
        ]
        assert await inbox.record([*results, results[0]], now=now) == [True] * 70 + [False], "each once"
        assert await backlog(inbox) == {("a", "dead"): 18, ("a", "retrying"): 17, ("a", "pending"): 17}
        assert len((await find_delivery(inbox, events[-1])).history) == 1

    # Events as operators look for them

    async def test_events_are_found_by_everything_that_a_filter_can_say(self, inbox: Inbox) -> None:
        gif = make_event("job-1", media_id="m")
        failed = make_event("job-1", "failed", family="snapshot", kind="snapshot", key_id=("job-1", "2"))
        other = make_event("job-2", product="ims", kind="transcode")
        await put(inbox, gif, failed, other)
        assert await listed(inbox) == ids(other, failed, gif)
        assert await listed(inbox, event_id=gif.id) == ids(gif)
        assert await listed(inbox, event_id="nonsense") == []
        assert await listed(inbox, event_id=gif.id, kind="snapshot") == []
        assert await listed(inbox, job_id="job-1") == ids(failed, gif)
        assert await listed(inbox, job_id="job") == []
        assert await listed(inbox, job_id="job-1", outcome="failed") == ids(failed)
        assert await listed(inbox, media_id="m") == ids(gif)
        assert await listed(inbox, product="ims") == ids(other)
        assert await listed(inbox, kind="snapshot") == ids(failed)
        assert await listed(inbox, outcome="succeeded") == ids(other, gif)
        assert await listed(inbox, outcome="nonsense") == []
        assert await listed(inbox, since=NOW + SECOND) == ids(other, failed)
        assert await listed(inbox, until=NOW + SECOND) == ids(gif)
        assert await listed(inbox, since=NOW + SECOND, until=NOW + 2 * SECOND, state="pending") == ids(failed)
        assert await listed(inbox, since=NOW + DAY) == await listed(inbox, until=NOW - DAY) == []

    async def test_a_job_is_found_by_what_its_key_is_bound_to(self, inbox: Inbox) -> None:
        event = make_event("task-1", key_id=("nonce",))
        await inbox.put(make_receipt(event, binding="task-1"))
        await inbox.put(make_receipt(make_event("task-2", key_id=("nonce-2",)), binding="task-2"))
        assert await listed(inbox, job_id="task-1") == ids(event)
        assert await listed(inbox, job_id="nonce") == [], "which is no job id"

    async def test_time_filters_hold_though_a_clock_was_set_back(self, inbox: Inbox) -> None:
        events = [make_event(f"job-{n}") for n in range(40)]
        minutes = [n + (-7 if n % 5 == 0 else 0) for n in range(40)]
        for event, minute in zip(events, minutes, strict=True):
            await put(inbox, event, at=NOW + timedelta(minutes=minute))
        wanted = [event for event, minute in zip(events, minutes, strict=True) if 10 <= minute < 20]
        since, until = NOW + timedelta(minutes=10), NOW + timedelta(minutes=20)
        assert await listed(inbox, since=since, until=until) == ids(*reversed(wanted))

    async def test_events_are_found_by_the_state_of_their_deliveries(self, inbox: Inbox) -> None:
        dead, done, retrying, held, waiting = events = [
            make_event("job-1"),
            make_event("job-2"),
            make_event("job-3", "failed"),
            make_event("job-3"),
            make_event("job-4"),
        ]
        await put(inbox, *events, sinks=("a", "b"))
        unrouted = make_event("job-5")
        await put(inbox, unrouted, sinks=(), at=NOW + timedelta(seconds=5))
        later = NOW + timedelta(minutes=1)
        claimed = await inbox.claim("a", limit=3, now=later, lease_s=LEASE_S)
        await inbox.record(
            [
                AttemptResult(claimed[0], "dead", error="gone"),
                AttemptResult(claimed[1], "delivered"),
                AttemptResult(claimed[2], "retrying", due_at=later + DAY, error="503"),
            ],
            now=later,
        )
        assert await listed(inbox, state="dead") == ids(dead)
        assert await listed(inbox, state="delivered") == ids(done)
        assert await listed(inbox, state="retrying") == ids(retrying)
        assert await listed(inbox, state="unrouted") == ids(unrouted)
        assert await listed(inbox, state="parked") == []
        assert await listed(inbox, state="pending") == ids(waiting, held, retrying, done, dead), "at the other sink"
        assert await listed(inbox, state="pending", sink="a") == ids(waiting, held)
        assert await listed(inbox, state="pending", sink="a", outcome="succeeded", kind="animated_image") == ids(
            waiting, held
        )
        assert await listed(inbox, state="pending", job_id="job-3") == ids(held, retrying)
        assert await listed(inbox, state="dead", sink="b") == []
        assert await listed(inbox, sink="a") == ids(waiting, held, retrying, done, dead)
        assert await listed(inbox, sink="none") == []
        await pause(inbox)
        assert await listed(inbox, state="parked") == ids(waiting, held, retrying)
        assert await listed(inbox, state="pending", sink="a") == await listed(inbox, state="retrying") == []
        assert await listed(inbox, state="dead") == ids(dead)
        (summary,) = await inbox.list_events(EventFilter(event_id=retrying.id), limit=5)
        assert summary.deliveries == {"a": "parked", "b": "pending"}
        assert (summary.accepted_at, summary.product, summary.kind) == (NOW + 2 * SECOND, "vod", "animated_image")
        assert (summary.outcome, summary.revision, summary.job_id) == ("failed", 1, "job-3")
        assert summary.media_id == "media-1"
        (summary,) = await inbox.list_events(EventFilter(job_id="job-5"), limit=5)
        assert summary.deliveries == {}
        assert not (await find(inbox, unrouted)).is_routed
        assert (await find(inbox, dead)).is_routed

    # Replays

    async def test_an_event_is_sent_again_where_it_went(self, inbox: Inbox) -> None:
        event = make_event()
        await put(inbox, event, make_event("job-2"), sinks=("a", "b"))
        later = NOW + DAY
        await attempt(inbox, "a", "dead", now=later, error="gone")
        await deliver(inbox, "b", now=later)
        heard: list[str] = []
        inbox.listen(heard.extend)
        request = ReplayRequest(filter=EventFilter(event_id=event.id), requested_by="me", reason="lost")
        replay = await inbox.create_replay(request, now=later)
        assert (replay.state, replay.total, replay.done, replay.request) == ("running", 1, 0, request)
        assert await inbox.claim("a", limit=5, now=later, lease_s=LEASE_S) == [], "not yet made"
        await finish_replays(inbox, now=later)
        assert set(heard) == {"a", "b"}
        finished = await inbox.find_replay(replay.id)
        assert finished is not None
        assert (finished.state, finished.total, finished.done) == ("finished", 1, 1)
        assert (finished.request, finished.created_at) == (request, later)
        assert await listed(inbox, state="dead") == ids(make_event("job-2")), "one that was sent again is dead no more"
        assert await backlog(inbox) == {("a", "dead"): 1, ("a", "pending"): 1, ("b", "pending"): 1}
        (delivery,) = await inbox.claim("a", limit=5, now=later, lease_s=LEASE_S)
        assert (delivery.event_id, delivery.replay, delivery.attempt) == (event.id, 1, 1)
        assert delivery.body == event.to_json()
        assert await inbox.record([AttemptResult(delivery, "delivered", started_at=later)], now=later) == [True]
        record = await find(inbox, event)
        assert [(d.sink, d.replay, d.state, len(d.history)) for d in record.deliveries] == [
            ("a", 0, "dead", 1),
            ("a", 1, "delivered", 1),
            ("b", 0, "delivered", 0),
            ("b", 1, "pending", 0),
        ]
        assert await listed(inbox, state="delivered", sink="a") == ids(event)
        (summary,) = await inbox.list_events(request.filter, limit=1)
        assert summary.deliveries == {"a": "delivered", "b": "pending"}

    async def test_replays_of_an_event_are_numbered_and_the_latest_counts(self, inbox: Inbox) -> None:
        event = make_event()
        await put(inbox, event)
        await attempt(inbox, "a", "delivered")
        request = ReplayRequest(filter=EventFilter(event_id=event.id))
        for number in (1, 2):
            await inbox.create_replay(request, now=NOW)
            await finish_replays(inbox)
            assert await attempt(inbox, "a", "dead", error="gone") == ids(event)
            assert (await find(inbox, event)).deliveries[-1].replay == number
            assert await listed(inbox, state="dead") == ids(event)
            assert await backlog(inbox) == {("a", "dead"): 1}

    async def test_a_delivery_that_dies_after_it_was_sent_again_is_not_the_latest(self, inbox: Inbox) -> None:
        event = make_event()
        await put(inbox, event)
        (first,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.create_replay(ReplayRequest(filter=EventFilter()), now=NOW)
        await finish_replays(inbox)
        await inbox.record([AttemptResult(first, "dead", error="gone")], now=NOW)
        assert await backlog(inbox) == {("a", "pending"): 1}
        assert await listed(inbox, state="dead") == []
        assert (await find_delivery(inbox, event)).state == "dead"
        await attempt(inbox, "a", "dead", error="gone")
        assert await backlog(inbox) == {("a", "dead"): 1}

    async def test_replay_of_what_is_dead_goes_only_where_it_is_dead(self, inbox: Inbox) -> None:
        event = make_event()
        await inbox.put(make_receipt(event, sinks=("a", "b")))
        assert await deliver(inbox, "a") == [event.id]
        [delivery] = await inbox.claim("b", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "dead", error="no")], now=NOW)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(state="dead")), now=NOW)
        await finish_replays(inbox)
        assert await deliver(inbox, "a") == []
        assert await deliver(inbox, "b") == [event.id]

    async def test_replays_are_outside_the_order(self, inbox: Inbox) -> None:
        failed, succeeded = make_event(outcome="failed"), make_event()
        await put(inbox, failed, succeeded, at=NOW - DAY)
        await attempt(inbox, "a", "retrying", due_at=NOW + DAY)
        await inbox.create_replay(ReplayRequest(filter=EventFilter()), now=NOW)
        await finish_replays(inbox)
        assert await deliver(inbox, "a", now=NOW) == ids(failed, succeeded), "the replays; nothing holds them back"
        assert await backlog(inbox) == {("a", "retrying"): 1, ("a", "pending"): 1}, "nor do they release"
        assert await listed(inbox, state="delivered") == ids(succeeded, failed), "by the latest"
        assert await listed(inbox, state="retrying") == await listed(inbox, state="pending") == []
        assert await deliver(inbox, "a", now=NOW + DAY) == ids(failed, succeeded)

    async def test_many_are_sent_again_at_the_rate_oldest_first_whichever_instance_goes_on(
        self, inbox: Inbox, reopen: Reopen
    ) -> None:
        events = [make_event(f"job-{n}") for n in range(7)]
        await put(inbox, *events)
        await put(inbox, make_event("other", kind="snapshot"))
        start = NOW + DAY
        await deliver(inbox, "a", now=start)
        request = ReplayRequest(filter=EventFilter(kind="animated_image"), sinks=("b", "c"), rate_per_s=2.0)
        replay = await inbox.create_replay(request, now=start)
        assert replay.total == 7
        await put(inbox, make_event("later"), at=start)
        assert await inbox.advance_replays(now=start) == start + SECOND
        assert await inbox.advance_replays(now=start + SECOND / 2) == start + SECOND, "never faster"
        assert await deliver(inbox, "b", now=start + DAY) == ids(*events[:2])
        inbox = await reopen()
        assert await inbox.advance_replays(now=start + SECOND) == start + 2 * SECOND
        assert await deliver(inbox, "b", now=start + DAY) == ids(*events[2:4])
        (progress,) = await inbox.list_replays(limit=5)
        assert (progress.state, progress.done, progress.changed_at) == ("running", 4, start + SECOND)
        end = await finish_replays(inbox, now=start + 2 * SECOND)
        assert end >= start + 3 * SECOND
        assert await deliver(inbox, "b", now=start + DAY) == ids(*events[4:]), "later ones are not part of it"
        assert await deliver(inbox, "c", now=start + DAY) == ids(*events)
        finished = await inbox.find_replay(replay.id)
        assert finished is not None
        assert (finished.state, finished.done) == ("finished", 7)
        assert await inbox.advance_replays(now=end + DAY) is None

    async def test_slow_replay_waits_long_between_its_events(self, inbox: Inbox) -> None:
        await put(inbox, make_event("job-1"), make_event("job-2"), sinks=())
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a",), rate_per_s=0.1), now=NOW)
        assert await inbox.advance_replays(now=NOW) == NOW + 10 * SECOND
        assert len(await deliver(inbox, "a", now=NOW + DAY)) == 1

    async def test_unrouted_events_can_be_sent_to_a_sink(self, inbox: Inbox) -> None:
        event = make_event()
        await put(inbox, event, sinks=())
        assert await listed(inbox, state="unrouted") == ids(event)
        nowhere = await inbox.create_replay(ReplayRequest(filter=EventFilter(state="unrouted")), now=NOW)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(state="unrouted"), sinks=("b",)), now=NOW)
        await finish_replays(inbox)
        assert await deliver(inbox, "b", now=NOW + DAY) == ids(event)
        gone_through = await inbox.find_replay(nowhere.id)
        assert gone_through is not None
        assert (gone_through.state, gone_through.total) == ("finished", 1)
        assert [(d.sink, d.replay) for d in (await find(inbox, event)).deliveries] == [("b", 1)]

    @pytest.mark.parametrize("state", ["dead", "delivered", "parked", "retrying"])
    async def test_events_in_a_state_at_a_sink_are_sent_to_another(self, inbox: Inbox, state: str) -> None:
        events = [make_event(f"job-{n}") for n in range(3)]
        await put(inbox, *events, sinks=("a", "b"))
        recorded = "retrying" if state == "parked" else state
        await attempt(inbox, "a", recorded, now=NOW + DAY, due_at=NOW + DAY if recorded == "retrying" else None)
        if state == "parked":
            await pause(inbox)
        wanted: Any = state
        request = ReplayRequest(filter=EventFilter(state=wanted, sink="a"), sinks=("c",), rate_per_s=1.0)
        assert (await inbox.create_replay(request, now=NOW)).total == 3
        await finish_replays(inbox)
        assert await deliver(inbox, "c", now=NOW + DAY) == ids(*events)

    async def test_cancelled_replay_makes_no_more(self, inbox: Inbox) -> None:
        await put(inbox, *(make_event(f"job-{n}") for n in range(3)), sinks=())
        request = ReplayRequest(filter=EventFilter(since=NOW, until=NOW + DAY), sinks=("a",), rate_per_s=1.0)
        replay = await inbox.create_replay(request, now=NOW)
        await inbox.advance_replays(now=NOW)
        cancelled = await inbox.cancel_replay(replay.id, now=NOW + SECOND)
        assert cancelled is not None
        assert (cancelled.state, cancelled.done, cancelled.changed_at) == ("cancelled", 1, NOW + SECOND)
        assert cancelled.request == request
        assert await inbox.advance_replays(now=NOW + DAY) is None
        assert len(await deliver(inbox, "a", now=NOW + DAY)) == 1, "what has been made goes on"
        finished = await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a",)), now=NOW)
        await finish_replays(inbox)
        unchanged = await inbox.cancel_replay(finished.id, now=NOW)
        assert unchanged is not None
        assert unchanged.state == "finished"
        assert await inbox.cancel_replay(10**6, now=NOW) is await inbox.find_replay(10**6) is None
        newest, oldest = await inbox.list_replays(limit=5)
        assert (newest.id, oldest.id) == (finished.id, replay.id)
        assert await inbox.list_replays(before_id=newest.id, limit=5) == (oldest,)
        assert len(await inbox.list_replays(limit=1)) == 1

    async def test_replay_of_nothing_is_finished_at_once(self, inbox: Inbox) -> None:
        replay = await inbox.create_replay(ReplayRequest(filter=EventFilter(job_id="none")), now=NOW)
        assert replay.total == 0
        assert await inbox.advance_replays(now=NOW) is None
        (finished,) = await inbox.list_replays(limit=1)
        assert (finished.state, finished.done) == ("finished", 0)

    # Retention

    async def test_payloads_go_and_keys_stay(self, inbox: Inbox) -> None:
        old, new, unrouted = make_event("job-1"), make_event("job-2"), make_event("job-3")
        await put(inbox, old, sinks=("a", "b"), at=NOW - 40 * DAY)
        await put(inbox, unrouted, sinks=(), at=NOW - 40 * DAY)
        await inbox.put(make_receipt(reason="not JSON", at=NOW - 40 * DAY))
        await inbox.put(make_receipt(old, at=NOW - DAY))
        await put(inbox, new, at=NOW - DAY)
        await deliver(inbox, "a")
        await attempt(inbox, "b", "dead", error="gone")
        purged = await purge(inbox, payloads_before=NOW - 30 * DAY, keys_before=NOW - 400 * DAY)
        assert purged.payloads > 0
        assert purged.keys == 0
        record = await find(inbox, old)
        assert (record.body, record.deliveries) == (None, ())
        assert [receipt.state for receipt in record.receipts] == ["duplicate"], "the one that is younger"
        assert (await find(inbox, unrouted)).body is None
        assert [receipt.state for receipt in await inbox.list_receipts(limit=9)] == ["accepted", "duplicate"]
        assert await listed(inbox, job_id="job-1") == ids(old), "it can still be asked for"
        assert (await find(inbox, new)).body == new.to_json()
        assert len((await find(inbox, new)).deliveries) == 1
        assert await inbox.put(make_receipt(old)) == Verdict("duplicate"), "the key is still known"
        assert (await inbox.put(make_receipt(make_event("job-1", "failed")))).accepted[0].data.revision == 2
        again = await purge(inbox, payloads_before=NOW - 30 * DAY, keys_before=NOW - 400 * DAY)
        assert (again.payloads, again.keys) == (0, 0)

    @pytest.mark.parametrize("state", ["pending", "retrying", "parked", "held", "replayed"])
    async def test_what_is_not_delivered_stays_whole(self, inbox: Inbox, state: str) -> None:
        event, other = make_event(), make_event("job-2")
        if state == "held":
            await put(inbox, make_event(outcome="failed"), at=NOW - 50 * DAY)
        await put(inbox, event, at=NOW - 40 * DAY)
        await inbox.put(make_receipt(event, at=NOW - 39 * DAY))
        await put(inbox, other, sinks=("b",), at=NOW - 38 * DAY)
        await deliver(inbox, "b")
        if state == "retrying":
            await attempt(inbox, "a", "retrying", due_at=NOW, error="503")
        if state == "parked":
            await pause(inbox)
        if state == "replayed":
            await attempt(inbox, "a", "delivered")
            await inbox.create_replay(ReplayRequest(filter=EventFilter(event_id=event.id)), now=NOW)
            await finish_replays(inbox)
        before = await find(inbox, event)
        await purge(inbox, payloads_before=NOW, keys_before=NOW, limit=1)
        assert await find(inbox, event) == before
        assert len(before.receipts) == 2
        assert await inbox.find_event(other.id) is None, "what comes after it does go"
        await resume(inbox)
        assert event.id in await deliver(inbox, "a")
        await purge(inbox, payloads_before=NOW, keys_before=NOW)
        assert await listed(inbox) == []

    async def test_event_whose_key_was_purged_can_come_again(self, inbox: Inbox) -> None:
        failed, succeeded = make_event(outcome="failed"), make_event()
        await inbox.put(make_receipt(failed, binding="1", at=NOW - 500 * DAY))
        await inbox.put(make_receipt(failed, at=NOW - 499 * DAY))
        await inbox.put(make_receipt(succeeded, at=NOW - 40 * DAY))
        await deliver(inbox, "a")
        purged = await purge(inbox, payloads_before=NOW - 30 * DAY, keys_before=NOW - 400 * DAY)
        assert purged.keys == 0, "a key stays with all its outcomes as long as one is young"
        assert (await inbox.put(make_receipt(make_event(outcome="partial"), binding="2"))).state == "conflict"
        purged = await purge(inbox, payloads_before=NOW - 30 * DAY, keys_before=NOW - 30 * DAY)
        assert purged.keys == 2
        assert await inbox.find_event(failed.id) is None
        verdict = await inbox.put(make_receipt(failed, binding="2"))
        assert verdict == Verdict("accepted", (failed,)), "as if for the first time"
        assert [receipt.state for receipt in (await find(inbox, failed)).receipts] == ["accepted"]
        assert await deliver(inbox, "a") == ids(failed)

    async def test_replay_goes_through_events_whose_payload_is_gone(self, inbox: Inbox) -> None:
        old, new = make_event("job-1"), make_event("job-2")
        await put(inbox, old, at=NOW - 40 * DAY)
        await put(inbox, new, at=NOW - DAY)
        await deliver(inbox, "a")
        await purge(inbox, payloads_before=NOW - 30 * DAY, keys_before=NOW - 400 * DAY)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a",)), now=NOW)
        await finish_replays(inbox)
        (replay,) = await inbox.list_replays(limit=1)
        assert (replay.state, replay.total, replay.done) == ("finished", 2, 2)
        assert await deliver(inbox, "a") == ids(new)
        assert await backlog(inbox) == {}

    async def test_an_attempt_that_ends_after_its_delivery_was_purged_is_forgotten(self, inbox: Inbox) -> None:
        event = make_event()
        await put(inbox, event)
        (lost,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        later = NOW + DAY
        await deliver(inbox, "a", now=later)
        await purge(inbox, payloads_before=later, keys_before=NOW)
        assert await inbox.record([AttemptResult(lost, "delivered", started_at=NOW)], now=later) == [False]
        assert (await find(inbox, event)).deliveries == ()

    async def test_purge_goes_on_behind_what_it_had_to_leave(self, inbox: Inbox) -> None:
        for n in range(20):
            await inbox.put(make_receipt(make_event(f"job-{n}"), sinks=("never",)))
        await inbox.put(make_receipt(make_event("last")))
        await deliver(inbox, "a")
        for _ in range(2):
            steps = [await inbox.purge(payloads_before=NOW + SECOND, keys_before=NOW, limit=7)]
            while not steps[-1].is_finished:
                steps.append(await inbox.purge(payloads_before=NOW + SECOND, keys_before=NOW, limit=7))
            assert [step.payloads for step in steps[:3]] == [0, 0, 1], "seven are looked at in a step"
            assert {(step.payloads, step.keys) for step in steps[3:]} == {(0, 0)}
            await inbox.put(make_receipt(make_event("last")))

    async def test_a_key_goes_with_all_its_outcomes_or_not_at_all(self, inbox: Inbox) -> None:
        """Also where a step of the purge ends between them."""
        failed, succeeded = make_event(outcome="failed"), make_event()
        await put(inbox, failed, make_event("job-2"), at=NOW - 2 * DAY)
        await inbox.put(make_receipt(succeeded, make_event("job-3"), make_event("job-4"), at=NOW - 2 * DAY))
        await deliver(inbox, "a")
        known = 2
        while known:
            step = await inbox.purge(payloads_before=NOW, keys_before=NOW - DAY, limit=1)
            known = sum([await inbox.find_event(event.id) is not None for event in (failed, succeeded)])
            assert known in (0, 2)
            assert known == 0 or not step.is_finished

    # Life

    async def test_a_cancelled_put_is_kept_all_the_same(self, inbox: Inbox) -> None:
        put = asyncio.ensure_future(inbox.put(make_receipt(make_event())))
        await asyncio.sleep(0)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert (await inbox.put(make_receipt(make_event()))).state == "duplicate"

    async def test_closing_keeps_what_is_on_its_way(self, inbox: Inbox, reopen: Reopen) -> None:
        puts = [asyncio.ensure_future(inbox.put(make_receipt(make_event(f"job-{n}")))) for n in range(600)]
        await asyncio.sleep(0)
        again = await reopen()
        assert {(await put).state for put in puts} == {"accepted"}
        assert len(await deliver(again, "a")) == 600

    async def test_listener_hears_of_new_and_of_released_deliveries(self, inbox: Inbox) -> None:
        heard: list[str] = []
        inbox.listen(heard.extend)
        await inbox.put(make_receipt(make_event(outcome="failed")))
        assert heard == ["a"]
        await inbox.put(make_receipt(make_event(outcome="failed")))
        assert heard == ["a"], "a duplicate is no news"
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        heard.clear()
        await inbox.record([AttemptResult(delivery, "delivered")], now=NOW)
        assert heard == ["a"]

    async def test_check_returns_while_it_can_write(self, inbox: Inbox) -> None:
        await inbox.check()
        await inbox.check()

    async def test_odd_text_is_kept(self, inbox: Inbox) -> None:
        event = make_event("作业\x00\n'\"\\\U0001f600" + "x" * 5000)
        assert (await inbox.put(make_receipt(event, meta={"k": "\x00"}, warnings=("ä",)))).state == "accepted"
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert delivery.body == event.to_json()


class DatabaseConformance:
    """What both databases do, by the queries that they share."""

    async def test_lists_show_as_much_of_a_long_id_as_can_be_asked_for(self, inbox: Inbox) -> None:
        long, usual = make_event("x" * 2000, media_id="y" * 2000), make_event("x" * 1000)
        await put(inbox, long, usual)
        shown = await inbox.list_events(EventFilter(), limit=9)
        assert [(one.job_id, one.media_id) for one in shown] == [("x" * 1000, "media-1"), ("x" * 1000, "y" * 1000)]
        assert [one.id for one in await inbox.list_events(EventFilter(job_id="x" * 1000), limit=9)] == [usual.id]
        assert (await find(inbox, long)).body == long.to_json()

    async def test_a_claim_is_bounded_in_bytes(self, inbox: Inbox) -> None:
        events = [make_event(f"job-{n}", user_data="x" * 10_000) for n in range(5)]
        await put(inbox, *events)
        later = NOW + 9 * SECOND
        claims = [
            [delivery.event_id for delivery in await inbox.claim("a", now=later, lease_s=LEASE_S, **bounds)]
            for bounds in ({"limit": 9, "max_bytes": 25_000}, {"limit": 9, "max_bytes": 1}, {"limit": 1}, {"limit": 9})
        ]
        assert [len(claim) for claim in claims] == [2, 1, 1, 1]
        assert [one for claim in claims for one in claim] == [event.id for event in events]

    async def test_one_receipt_that_the_database_refuses_does_not_fail_its_neighbours(self, inbox: Inbox) -> None:
        # No type that a database knows
        no_source, no_binding = make_receipt(make_event("job-a")), make_receipt(make_event("job-b"), binding="1")
        object.__setattr__(no_source, "source", object())
        object.__setattr__(no_binding.entries[0], "binding", object())
        results = await asyncio.gather(
            *(inbox.put(make_receipt(make_event(f"job-{n}"))) for n in range(9)),
            inbox.put(no_source),
            inbox.put(no_binding),
            *(inbox.put(make_receipt(make_event(f"job-{n}"))) for n in range(9, 20)),
            return_exceptions=True,
        )
        assert [isinstance(result, Verdict) for result in results] == [True] * 9 + [False] * 2 + [True] * 11
        assert {type(result) for result in results[9:11]} == {InboxUnavailable}
        assert len(await deliver(inbox, "a")) == 20
        await inbox.check()

    async def test_beyond_the_bound_put_fails_at_once(self, reopen: Reopen) -> None:
        inbox = await reopen(max_pending=3, max_pending_bytes=50_000)
        puts = [asyncio.ensure_future(inbox.put(make_receipt(make_event(f"job-{n}")))) for n in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(InboxUnavailable, match="which is the limit"):
            await inbox.check()
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert sum(isinstance(result, InboxUnavailable) for result in results) == 2
        with pytest.raises(InboxUnavailable):
            await inbox.put(make_receipt(make_event("big"), body=b"x" * 50_001))
        assert (await inbox.put(make_receipt(make_event("job-9")))).state == "accepted", "room again after the commit"

    async def test_what_waits_counts_with_all_that_was_made_of_it(self, reopen: Reopen) -> None:
        inbox = await reopen(max_pending_bytes=700_000)
        many = [make_event(f"job-{n}", user_data="x" * 10_000) for n in range(20)]
        puts = [asyncio.ensure_future(inbox.put(make_receipt(event))) for event in many[:5]]
        puts.append(asyncio.ensure_future(inbox.put(make_receipt(*many))))
        puts.append(asyncio.ensure_future(inbox.put(make_receipt(*many))))
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert [isinstance(result, InboxUnavailable) for result in results] == [False] * 6 + [True]
        assert "which is the limit" in str(results[6])
        assert (await inbox.put(make_receipt(*many))).state == "duplicate"

    async def test_a_replay_goes_through_many_events_in_stretches(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replays, "_IDS_PER_STEP", 3)
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

    async def test_a_step_that_was_taken_meanwhile_is_not_taken_again(self, inbox: Inbox) -> None:
        for n in range(4):
            await inbox.put(make_receipt(make_event(f"job-{n}"), sinks=()))
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a",), rate_per_s=1.0), now=NOW)
        await asyncio.gather(*(inbox.advance_replays(now=NOW) for _ in range(5)))
        assert len(await deliver(inbox, "a", now=NOW)) == 1

    async def test_a_page_is_found_whether_its_events_are_new_or_old(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reads, "_NEWEST", 4)
        events = [make_event(f"job-{n}") for n in range(12)]
        for n, event in enumerate(events):
            await inbox.put(make_receipt(event, sinks=("a",) if n in {1, 2, 9, 10, 11} else ()))
        found: list[str] = []
        before = None
        while page := await inbox.list_events(EventFilter(state="pending"), before=before, limit=2):
            found += [event.id for event in page]
            before = page[-1].cursor
        assert found == [events[n].id for n in (11, 10, 9, 2, 1)]
