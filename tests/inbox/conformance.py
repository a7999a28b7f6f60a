"""What every inbox must do. A database's own test module imports this class and provides the ``inbox`` fixture."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.events import Event, Key, event_id
from service.inbox.base import AttemptResult, Entry, Inbox, Receipt, Reparsed, Verdict

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LEASE_S = 20.0


def make_event(job_id: str = "job-1", outcome: Any = "succeeded", *, family: str = "animated_image") -> Event:
    key = Key("vod", "default", family, (job_id,))
    return Event.model_validate(
        {
            "id": event_id(key.digest(), outcome),
            "source": "/aliyun/vod/default",
            "type": f"media.animated_image.{outcome}",
            "subject": job_id,
            "time": NOW,
            "dataschema": "urn:media-callbacks:animated_image:1",
            "data": {
                "product": "vod",
                "kind": "animated_image",
                "outcome": outcome,
                "job_id": job_id,
                "media_id": "media-1",
                "vendor_event": "DynamicImageComplete",
                "outputs": [],
                "error": None,
                "user_data": None,
                "revision": 1,
                "source": "vod",
                "transport": "http",
                "verified_by": "signature",
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


class InboxConformance:
    """Behaviour through the interface alone."""

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
        assert await inbox.count_deliveries() == {}

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
        assert await inbox.count_deliveries() == {("a", "retrying"): 1}
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
        assert await inbox.count_deliveries() == {("a", "retrying"): 1}, "what it was before"

    async def test_dead_delivery_is_not_claimed_again(self, inbox: Inbox) -> None:
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "dead", error="gone")], now=NOW)
        assert await inbox.claim("a", limit=1, now=NOW + timedelta(days=365), lease_s=LEASE_S) == []
        assert await inbox.count_deliveries() == {("a", "dead"): 1}
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
