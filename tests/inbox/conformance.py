"""
What every inbox must do, and what the databases share. A database's own test module imports these classes and provides
two fixtures: ``inbox``, and ``reopen``, which closes that one and returns another instance on the same database; a
database's also takes arguments for that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from media_callbacks.inbox import operations
from media_callbacks.inbox.operating import reads, replays, sinks
from media_callbacks.inbox.records import (
    AttemptResult,
    ClockRecord,
    DeliveryRecord,
    EventFilter,
    EventRecord,
    Purged,
    Reparsed,
    ReplayRequest,
)
from media_callbacks.model.errors import ClockDoubted, InboxUnavailable
from media_callbacks.model.events import Delivery, Event, read_traceparent
from media_callbacks.model.identity import Key, event_id
from media_callbacks.model.receipts import Entry, Receipt, Verdict
from tests.inbox.timed import START, Timed

NOW = START
LEASE_S = 20.0
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

Reopen = Callable[..., Awaitable[Timed]]


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
    account: str = "default",
) -> Event:
    key = Key(product, account, family, key_id or (job_id,))
    return Event.model_validate(
        {
            "id": event_id(key.digest(), outcome),
            "source": f"/aliyun/{product}/{account}",
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


def with_data(event: Event, **changes: Any) -> Event:
    """The event with other data."""
    document = event.model_dump()
    return Event.model_validate(document | {"data": document["data"] | changes})


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


async def deliver(inbox: Timed, sink: str, *, now: datetime = NOW) -> list[str]:
    """Claim and deliver everything that may go now; the event ids in order."""
    delivered: list[str] = []
    while claimed := await inbox.claim(sink, limit=10, now=now, lease_s=LEASE_S):
        delivered += [delivery.event_id for delivery in claimed]
        assert all(await inbox.record([AttemptResult(delivery, "delivered") for delivery in claimed], now=now))
    return delivered


async def put(inbox: Timed, *events: Event, sinks: tuple[str, ...] = ("a",), at: datetime = NOW) -> None:
    """Each event by a receipt of its own, a second after the other."""
    for n, event in enumerate(events):
        verdict = await inbox.put(make_receipt(event, sinks=sinks, at=at + n * SECOND))
        assert verdict.state == "accepted"


async def attempt(inbox: Timed, sink: str, state: Any, *, now: datetime = NOW, **fields: Any) -> list[str]:
    """Claim what may go now and let every attempt come to this; the event ids in order."""
    claimed = await inbox.claim(sink, limit=100, now=now, lease_s=LEASE_S)
    results = [AttemptResult(delivery, state, started_at=now, **fields) for delivery in claimed]
    assert all(await inbox.record(results, now=now))
    return [delivery.event_id for delivery in claimed]


async def find(inbox: Timed, event: Event) -> EventRecord:
    record = await inbox.find_event(event.id)
    assert record is not None
    return record


async def find_delivery(inbox: Timed, event: Event, sink: str = "a", replay: int = 0) -> DeliveryRecord:
    (delivery,) = [d for d in (await find(inbox, event)).deliveries if (d.sink, d.replay) == (sink, replay)]
    return delivery


async def pause(inbox: Timed, sink: str = "a", state: Any = "paused") -> None:
    await inbox.set_sink_state(sink, state, reason="why", changed_by="who", now=NOW)


async def resume(inbox: Timed, sink: str = "a") -> None:
    await inbox.set_sink_state(sink, "active", reason=None, changed_by="who", now=NOW)


async def listed(inbox: Timed, **wanted: Any) -> list[str]:
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


async def finish_replays(inbox: Timed, *, now: datetime = NOW) -> datetime:
    """Take every step when it is due; when the last was."""
    while (at := await inbox.advance(now=now)) is not None:
        now = max(now, at)
    return now


async def purge_step(inbox: Timed, *, payloads_before: datetime, keys_before: datetime, limit: int) -> Purged:
    """Of a store whose clock is believed."""
    await inbox.trust_clock()
    now = inbox.clock.now
    return await inbox.purge(keep_payloads=now - payloads_before, keep_keys=now - keys_before, limit=limit)


async def purge(inbox: Timed, *, payloads_before: datetime, keys_before: datetime, limit: int = 2) -> Purged:
    """A whole pass; what it removed in all."""
    payloads = keys = 0
    while True:
        step = await purge_step(inbox, payloads_before=payloads_before, keys_before=keys_before, limit=limit)
        payloads += step.payloads
        keys += step.keys
        if step.is_finished:
            return Purged(payloads, keys, is_finished=True)


async def backlog(inbox: Timed) -> dict[tuple[str, str], int]:
    """How many deliveries there are by sink and state, delivered ones left out."""
    return {(sink.name, state): n for sink in await inbox.list_sinks() for state, n in sink.deliveries.items()}


class InboxConformance:
    """Behaviour through the interface alone."""

    async def test_it_knows_how_large_it_is(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event()))
        space = await inbox.measure()
        assert space.size_bytes > 10_000
        assert space.free_bytes is None or space.free_bytes > 0

    # Dedup

    async def test_first_receipt_is_accepted_and_the_same_again_is_a_duplicate(self, inbox: Timed) -> None:
        event = make_event()
        assert await inbox.put(make_receipt(event)) == Verdict("accepted", (event,))
        assert await inbox.put(make_receipt(event)) == Verdict("duplicate")
        assert await deliver(inbox, "a") == [event.id]

    async def test_another_outcome_is_a_further_revision(self, inbox: Timed) -> None:
        failed, succeeded, again = make_event(outcome="failed"), make_event(), make_event(outcome="failed")
        await inbox.put(make_receipt(failed))
        verdict = await inbox.put(make_receipt(succeeded))
        assert verdict == Verdict("accepted", (succeeded.with_revision(2),))
        assert await inbox.put(make_receipt(again)) == Verdict("duplicate"), "recorded before, whatever came between"

    async def test_the_revision_is_put_where_it_belongs(self, inbox: Timed) -> None:
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

    async def test_a_conflict_says_what_the_key_is_bound_to(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(), binding="1"))
        verdicts = await asyncio.gather(
            inbox.put(make_receipt(make_event("job-2"))), inbox.put(make_receipt(make_event(), binding="2"))
        )
        assert [verdict.state for verdict in verdicts] == ["accepted", "conflict"]
        (refused, _, _) = await inbox.list_receipts(limit=5)
        assert refused.reason == "the key is bound to 1, this receipt says 2"

    async def test_a_receipt_read_again_may_be_a_conflict(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(), binding="1"))
        await inbox.put(make_receipt(reason="not understood"))
        (_, stored) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=5)
        again = make_receipt(make_event(outcome="failed"), binding="2", parser_version=2)
        assert (await inbox.reparse(stored.id, again, now=NOW, dry_run=False)).state == "conflict"
        (record, _) = await inbox.list_receipts(limit=5)
        assert (record.state, record.reason) == ("conflict", "the key is bound to 1, this receipt says 2")

    async def test_numbers_beyond_what_databases_count_to_find_nothing_or_all(self, inbox: Timed) -> None:
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

    async def test_revision_is_in_the_delivered_body(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(outcome="failed"), sinks=()))
        second = make_event()
        await inbox.put(make_receipt(second))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert delivery.body == second.with_revision(2).to_json()

    async def test_outcomes_put_at_the_same_moment_get_different_revisions(self, inbox: Timed) -> None:
        outcomes = ("succeeded", "failed", "partial", "cancelled", "unknown")
        receipts = [make_receipt(make_event(outcome=outcome)) for outcome in outcomes for _ in range(4)]
        verdicts = await asyncio.gather(*(inbox.put(receipt) for receipt in receipts))
        accepted = [event for verdict in verdicts for event in verdict.accepted]
        assert sorted(event.data.revision for event in accepted) == [1, 2, 3, 4, 5]
        assert {event.data.outcome for event in accepted} == set(outcomes)

    async def test_many_duplicates_at_once_give_one_event(self, inbox: Timed) -> None:
        verdicts = await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n % 10}"))) for n in range(500)))
        assert sum(len(verdict.accepted) for verdict in verdicts) == 10
        assert len(await deliver(inbox, "a")) == 10

    async def test_receipt_with_a_new_and_a_known_event_is_accepted_for_the_new_one(self, inbox: Timed) -> None:
        known, new = make_event("job-1"), make_event("job-2")
        await inbox.put(make_receipt(known))
        assert await inbox.put(make_receipt(known, new)) == Verdict("accepted", (new,))

    async def test_same_event_twice_in_one_receipt_counts_once(self, inbox: Timed) -> None:
        event = make_event()
        assert await inbox.put(make_receipt(event, event)) == Verdict("accepted", (event,))
        assert await deliver(inbox, "a") == [event.id]

    async def test_families_do_not_mix(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(family="run-start")))
        assert (await inbox.put(make_receipt(make_event(family="run")))).state == "accepted"

    # Duplicates that say something else

    async def test_the_trace_of_an_event_is_that_of_its_first_receipt_and_makes_it_no_other(self, inbox: Timed) -> None:
        traced, again, failed = (
            make_event(outcome=outcome).model_copy(update={"traceparent": f"00-{trace:032x}-{trace:016x}-01"})
            for outcome, trace in (("succeeded", 1), ("succeeded", 2), ("failed", 3))
        )
        assert (await inbox.put(make_receipt(traced))).state == "accepted"
        for one in (again, make_event()):
            assert (await inbox.put(make_receipt(one))).state == "duplicate"
        assert (await inbox.put(make_receipt(failed))).state == "accepted"
        bodies = []
        while claimed := await inbox.claim("a", limit=10, now=NOW, lease_s=LEASE_S):
            bodies += [delivery.body for delivery in claimed]
            assert all(await inbox.record([AttemptResult(one, "delivered") for one in claimed], now=NOW))
        assert bodies == [traced.to_json(), failed.with_revision(2).to_json()]
        assert [read_traceparent(body) for body in bodies] == [traced.traceparent, failed.traceparent]

    async def test_another_content_of_the_same_outcome_is_seen_and_forwarded_to_nobody(self, inbox: Timed) -> None:
        first, lie = make_event(), with_data(make_event(), user_data="other", outputs=[{"url": "http://evil/1.gif"}])
        await inbox.put(make_receipt(first, body=b"1"))
        told = ("outputs", "user_data")
        for body in (b"2", b"2"):
            assert await inbox.put(make_receipt(lie, body=body)) == Verdict("differing", differs=told)
        assert await deliver(inbox, "a") == [first.id]
        assert (await find(inbox, first)).body == first.to_json()
        reason = "says otherwise of what was accepted before with the same outcome: outputs, user_data"
        differing = await inbox.list_receipts(state="differing", limit=9)
        assert [(record.reason, record.event_ids) for record in differing] == [(reason, (first.id,))] * 2
        assert [record.state for record in (await find(inbox, first)).receipts] == [
            "accepted",
            "differing",
            "differing",
        ]
        assert await inbox.put(make_receipt(first, body=b"1")) == Verdict("duplicate")

    async def test_it_is_seen_whatever_else_the_receipt_brings(self, inbox: Timed) -> None:
        first, new = make_event(), make_event("job-2")
        await inbox.put(make_receipt(first))
        heard: list[str] = []
        inbox.listen(heard.extend)
        verdict = await inbox.put(make_receipt(with_data(first, media_id="other"), new, body=b"2"))
        assert verdict == Verdict("differing", (new,), differs=("media_id",))
        assert heard == ["a"]
        assert await deliver(inbox, "a") == ids(first, new)

    @pytest.mark.parametrize("together", [True, False])
    async def test_it_is_seen_of_receipts_that_come_at_once(self, inbox: Timed, together: bool) -> None:
        receipts = [
            make_receipt(with_data(make_event(f"job-{n % 2}"), user_data=str(n // 4)), body=str(n).encode())
            for n in range(8)
        ]
        if together:
            verdicts = await asyncio.gather(*map(inbox.put, receipts))
        else:
            verdicts = [await inbox.put(receipt) for receipt in receipts]
        assert [verdict.state for verdict in verdicts] == [
            *["accepted"] * 2, *["duplicate"] * 2, *["differing"] * 4,
        ]  # fmt: skip

    async def test_a_conflict_is_graver(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(), binding="1"))
        await inbox.put(make_receipt(make_event("job-2")))
        receipt = make_receipt(with_data(make_event("job-2"), user_data="x"), body=b"2")
        receipt.entries = (*receipt.entries, Entry(make_event(), ("a",), "2"))
        verdict = await inbox.put(receipt)
        assert (verdict.state, verdict.differs) == ("conflict", ("user_data",))
        (record,) = await inbox.list_receipts(state="conflict", limit=9)
        assert record.reason == (
            "the key is bound to 1, this receipt says 2;"
            " says otherwise of what was accepted before with the same outcome: user_data"
        )

    async def test_what_was_accepted_and_is_kept_no_more_can_not_be_compared(self, inbox: Timed) -> None:
        await put(inbox, make_event())
        await deliver(inbox, "a")
        await purge(inbox, payloads_before=NOW + SECOND, keys_before=NOW - DAY)
        assert await inbox.put(make_receipt(with_data(make_event(), user_data="x"))) == Verdict("duplicate")

    async def test_who_says_again_what_he_said_first_does_not_differ_though_the_event_does_by_now(
        self, inbox: Timed
    ) -> None:
        """Such as after a later parser has read the first receipt again."""
        await inbox.put(make_receipt(make_event(), body=b"1"))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=9)
        changed = with_data(make_event(), user_data="understood")
        read_again = make_receipt(changed, body=b"1", parser_version=2)
        assert (await inbox.reparse(stored.id, read_again, now=NOW, dry_run=False)).changed == (changed.id,)
        assert (await inbox.put(make_receipt(make_event(), body=b"1"))).state == "duplicate"
        assert (await inbox.put(make_receipt(make_event(), body=b"2"))).state == "differing"

    async def test_a_receipt_that_is_read_again_is_compared_as_one_that_comes(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(), body=b"1"))
        await inbox.put(make_receipt(reason="not understood", body=b"2"))
        await inbox.put(make_receipt(with_data(make_event(), user_data="x"), body=b"3"))
        (_, unparsed, differing) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=9)
        for receipt_id, user_data, state in (
            (unparsed.id, "x", "differing"),
            (unparsed.id, None, "duplicate"),
            (differing.id, "x", "differing"),
            (differing.id, None, "duplicate"),
        ):
            again = make_receipt(with_data(make_event(), user_data=user_data), body=b"2", parser_version=2)
            for dry_run in (True, False):
                found = await inbox.reparse(receipt_id, again, now=NOW, dry_run=dry_run)
                assert found == Reparsed(state), "and the event is the first one's"  # type: ignore[arg-type]
            records = {record.id: record for record in await inbox.list_receipts(limit=9)}
            assert (records[receipt_id].state, records[receipt_id].reason is None) == (state, state == "duplicate")

    # What gives no event

    async def test_unparsed_receipt_is_kept(self, inbox: Timed) -> None:
        assert await inbox.put(make_receipt(body=b"\xff", reason="not UTF-8")) == Verdict("unparsed")

    async def test_second_binding_of_a_key_is_a_conflict_and_no_event(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event(outcome="unknown"), binding="1"))
        assert await inbox.put(make_receipt(make_event(), binding="2")) == Verdict("conflict")
        (refused,) = await inbox.list_receipts(limit=1)
        assert (refused.state, refused.event_ids) == ("conflict", ())
        assert (await inbox.put(make_receipt(make_event(), binding="1"))).state == "accepted"
        assert (await inbox.put(make_receipt(make_event(outcome="failed")))).state == "accepted", (
            "no binding, no conflict"
        )
        assert len(await deliver(inbox, "a")) == 3

    async def test_event_for_no_sink_is_kept_and_claimed_by_nobody(self, inbox: Timed) -> None:
        assert (await inbox.put(make_receipt(make_event(), sinks=()))).state == "accepted"
        assert await backlog(inbox) == {}

    # Deliveries

    async def test_deliveries_come_oldest_first_and_to_each_sink(self, inbox: Timed) -> None:
        events = [make_event(f"job-{n}") for n in range(25)]
        for n, event in enumerate(events):
            await inbox.put(make_receipt(event, sinks=("a", "b"), at=NOW + timedelta(milliseconds=n)))
        later = NOW + timedelta(seconds=1)
        assert await deliver(inbox, "a", now=later) == [event.id for event in events]
        assert await deliver(inbox, "b", now=later) == [event.id for event in events]
        assert await deliver(inbox, "a", now=later) == []

    async def test_claimed_delivery_is_nobody_elses_until_its_lease_ends(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event()))
        (first,) = await inbox.claim("a", limit=5, now=NOW, lease_s=LEASE_S)
        assert await inbox.claim("a", limit=5, now=NOW + timedelta(seconds=LEASE_S - 1), lease_s=LEASE_S) == []
        (second,) = await inbox.claim("a", limit=5, now=NOW + timedelta(seconds=LEASE_S), lease_s=LEASE_S)
        assert second.event_id == first.event_id
        assert second.attempt == 1, "an attempt that was never recorded does not count"
        assert await inbox.record([AttemptResult(first, "delivered")], now=NOW) == [False], "its lease was lost"
        assert await inbox.record([AttemptResult(second, "delivered")], now=NOW) == [True]
        assert await inbox.record([AttemptResult(second, "delivered")], now=NOW) == [False]

    async def test_retry_is_due_when_it_says(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        due_at = NOW + timedelta(minutes=5)
        await inbox.record([AttemptResult(delivery, "retrying", delay_s=300, error="503")], now=NOW)
        assert await inbox.next_due_at("a") == due_at
        assert await backlog(inbox) == {("a", "retrying"): 1}
        assert await inbox.claim("a", limit=1, now=due_at - timedelta(milliseconds=1), lease_s=LEASE_S) == []
        (delivery,) = await inbox.claim("a", limit=1, now=due_at, lease_s=LEASE_S)
        assert delivery.attempt == 2

    async def test_delivery_given_back_is_due_at_once_and_not_counted(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "pending")], now=NOW)
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert delivery.attempt == 1
        await inbox.record([AttemptResult(delivery, "retrying", error="503")], now=NOW)
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "pending")], now=NOW)
        assert await backlog(inbox) == {("a", "retrying"): 1}, "what it was before"

    async def test_dead_delivery_is_not_claimed_again(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(make_event()))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "dead", error="gone")], now=NOW)
        assert await inbox.claim("a", limit=1, now=NOW + timedelta(days=365), lease_s=LEASE_S) == []
        assert await backlog(inbox) == {("a", "dead"): 1}
        assert await inbox.next_due_at("a") is None

    # Reading again

    async def test_what_gave_no_event_and_what_older_parsers_read_is_outdated(self, inbox: Timed) -> None:
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
    async def test_a_receipt_that_can_be_read_now_gives_its_events(self, inbox: Timed, *, dry_run: bool) -> None:
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

    async def test_what_a_dry_run_takes_back_hides_nothing_that_is_done_beside_it(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(reason="broken", parser_version=1))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        event = make_event()
        receipt = make_receipt(event, parser_version=2)
        # Which SQLite does in one transaction.
        results = await asyncio.gather(
            *[inbox.reparse(stored.id, receipt, now=NOW, dry_run=dry_run) for dry_run in (True, False)]
        )
        assert results[1] == Reparsed("accepted", accepted=(event.id,))
        assert (await inbox.put(make_receipt(event))).state == "duplicate"

    async def test_changed_content_is_updated_and_sent_to_nobody(self, inbox: Timed) -> None:
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

    async def test_another_outcome_found_by_reading_again_is_a_further_revision(self, inbox: Timed) -> None:
        unknown, succeeded = make_event(outcome="unknown"), make_event()
        await inbox.put(make_receipt(unknown, parser_version=1))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        result = await inbox.reparse(stored.id, make_receipt(succeeded, parser_version=2), now=NOW, dry_run=False)
        assert result.accepted == (succeeded.id,)
        assert await deliver(inbox, "a") == [unknown.id, succeeded.id]

    async def test_what_the_vendor_was_asked_about_is_not_replaced_by_what_a_receipt_says(self, inbox: Timed) -> None:
        """As when nothing is confirmed any more, and receipts are read again."""
        said = make_event()
        proof = {"verified_by": "query", "outcome_verified_by": "query"}
        certain = said.model_copy(update={"data": said.data.model_copy(update=proof)})
        await inbox.put(make_receipt(certain, parser_version=1))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        result = await inbox.reparse(stored.id, make_receipt(said, parser_version=2), now=NOW, dry_run=False)
        assert result == Reparsed("accepted")
        assert (await find(inbox, said)).body == certain.to_json()

    async def test_a_duplicate_read_again_does_not_touch_the_event_that_another_receipt_brought(
        self, inbox: Timed
    ) -> None:
        event = make_event()
        await inbox.put(make_receipt(event, parser_version=2))
        await inbox.put(make_receipt(event, parser_version=1))
        (stored,) = await inbox.outdated_receipts(parser_version=2, after_id=0, limit=10)
        changed = event.model_copy(update={"data": event.data.model_copy(update={"user_data": "other"})})
        result = await inbox.reparse(stored.id, make_receipt(changed, parser_version=2), now=NOW, dry_run=False)
        assert result == Reparsed("duplicate")

    async def test_an_event_keeps_the_id_that_it_has_when_a_later_parser_would_give_another(self, inbox: Timed) -> None:
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

    async def test_an_event_is_found_with_its_receipts_and_deliveries(self, inbox: Timed) -> None:
        event = make_event()
        await inbox.put(make_receipt(event, sinks=("a", "b")))
        await inbox.put(make_receipt(event, at=NOW + timedelta(seconds=1), warnings=("Size",)))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        due_at = NOW + timedelta(seconds=5)
        await inbox.record([AttemptResult(delivery, "retrying", delay_s=5, error="503")], now=NOW)
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
    async def test_what_is_no_event_is_not_found(self, inbox: Timed, event_id: str) -> None:
        assert await inbox.find_event(event_id) is None

    async def test_receipts_are_listed_newest_first_in_pages_and_by_what_is_asked(self, inbox: Timed) -> None:
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
    async def test_later_outcome_waits_for_the_earlier_one_at_each_sink(self, inbox: Timed, *, together: bool) -> None:
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
            AttemptResult(claimed[0], "retrying", delay_s=60, error="503"),
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
        self, inbox: Timed, state: str
    ) -> None:
        failed, succeeded, other = make_event(outcome="failed"), make_event(), make_event("job-2")
        await put(inbox, failed, sinks=("a", "b"))
        due_at = NOW + timedelta(minutes=1)
        await attempt(inbox, "a", "retrying", delay_s=60, error="503")
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

    async def test_what_was_leased_when_a_sink_was_paused_can_still_be_recorded(self, inbox: Timed) -> None:
        await put(inbox, make_event("job-1"), make_event("job-2"))
        first, second = await inbox.claim("a", limit=2, now=NOW + DAY, lease_s=LEASE_S)
        await pause(inbox)
        results = [AttemptResult(first, "delivered"), AttemptResult(second, "pending")]
        assert await inbox.record(results, now=NOW + DAY) == [True, True]
        assert await backlog(inbox) == {("a", "parked"): 1}

    async def test_resuming_wakes_the_listener(self, inbox: Timed) -> None:
        await pause(inbox)
        await put(inbox, make_event())
        heard: list[str] = []
        inbox.listen(heard.extend)
        await resume(inbox)
        assert heard == ["a"]

    async def test_sinks_are_listed_with_why_they_stand_and_what_waits(self, inbox: Timed, reopen: Reopen) -> None:
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

    async def test_sinks_are_listed_with_what_they_did_not_take_and_what_they_took(self, inbox: Timed) -> None:
        minute = timedelta(minutes=1)
        for number, error in enumerate(("first", "second")):
            await put(inbox, make_event(f"job-{number}"))
            await attempt(inbox, "a", "dead", now=NOW + (number + 1) * minute, error=error)
        (a,) = await inbox.list_sinks()
        assert (a.first_given_up_at, a.last_given_up_at) == (NOW + minute, NOW + 2 * minute)
        assert (a.last_error, a.last_error_at, a.next_attempt_at) == ("second", NOW + 2 * minute, None)
        assert a.last_taken_at is None
        for number, (delay_s, error) in enumerate(((600, "tried last"), (60, "tried next")), start=3):
            await put(inbox, make_event(f"job-{number}"), sinks=("a", "b"))
            await attempt(inbox, "b", "retrying", now=NOW + number * minute, delay_s=delay_s, error=error)
        inbox.clock.now = NOW + 4 * minute
        await inbox.note_activity([], [("delivered", "b", 3), ("received", "a", 3)])
        a, b = await inbox.list_sinks()
        assert (a.last_error, a.next_attempt_at, a.last_taken_at) == ("second", None, None)
        assert (b.last_error, b.last_error_at, b.first_given_up_at) == ("tried next", NOW + 4 * minute, None)
        assert b.next_attempt_at == NOW + 5 * minute
        assert b.last_taken_at == (NOW + 4 * minute).replace(second=0)
        await pause(inbox, "b")
        assert (await inbox.list_sinks())[1].next_attempt_at is None, "it is not tried"

    # Attempts

    async def test_every_attempt_is_kept(self, inbox: Timed) -> None:
        event = make_event()
        await put(inbox, event)
        await attempt(inbox, "a", "retrying", delay_s=1, error="503", duration_s=0.25)
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

    @pytest.mark.parametrize(
        ("state", "error", "written"),
        [
            ("dead", "gone", ("late", "gone")),
            ("retrying", "503", ("late", "503")),
            ("delivered", None, ("late", "delivered after its lease was lost")),
            ("pending", None, ("interrupted", None)),
        ],
    )
    async def test_attempt_whose_lease_was_lost_is_kept_and_changes_nothing(
        self, inbox: Timed, state: Any, error: str | None, written: tuple[str, str | None]
    ) -> None:
        event = make_event()
        await put(inbox, event)
        (lost,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        later = NOW + timedelta(seconds=LEASE_S)
        await attempt(inbox, "a", "retrying", now=later, delay_s=1, error="502")
        result = AttemptResult(lost, state, error=error, started_at=NOW, duration_s=0.5)
        assert await inbox.record([result], now=later) == [False]
        delivery = await find_delivery(inbox, event)
        assert (delivery.state, delivery.attempts, delivery.due_at) == ("retrying", 1, later + SECOND)
        assert [(a.number, a.started_at, a.duration_s, a.result, a.error) for a in delivery.history] == [
            (1, NOW, 0.5, *written),
            (1, later, 0.0, "retrying", "502"),
        ]

    async def test_what_is_recorded_once_more_stays_as_it_was_recorded_first(self, inbox: Timed) -> None:
        """When the store's answer to the first time was lost."""
        await put(inbox, make_event())
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        result = AttemptResult(delivery, "delivered", started_at=NOW)
        assert [await inbox.record([result]) for _ in range(2)] == [[True], [False]]
        (attempt_record,) = (await find_delivery(inbox, make_event())).history
        assert (attempt_record.result, attempt_record.error) == ("delivered", None)

    async def test_a_lease_that_has_ended_and_is_nobody_elses_is_as_good_as_ever(self, inbox: Timed) -> None:
        await put(inbox, make_event())
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert await inbox.record([AttemptResult(delivery, "delivered")], now=NOW + DAY) == [True]

    async def test_results_of_many_deliveries_are_recorded_together(self, inbox: Timed) -> None:
        events = [make_event(f"job-{n}") for n in range(70)]
        await put(inbox, *events)
        now = NOW + DAY
        claimed = await inbox.claim("a", limit=100, now=now, lease_s=LEASE_S)
        states: list[Any] = ["delivered", "dead", "retrying", "pending"]
        results = [AttemptResult(d, states[n % 4], started_at=now, delay_s=1) for n, d in enumerate(claimed)]
        assert await inbox.record([*results, results[0]], now=now) == [True] * 70 + [False], "each once"
        assert await backlog(inbox) == {("a", "dead"): 18, ("a", "retrying"): 17, ("a", "pending"): 17}
        assert len((await find_delivery(inbox, events[-1])).history) == 1

    # Events as operators look for them

    async def test_events_are_found_by_everything_that_a_filter_can_say(self, inbox: Timed) -> None:
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

    async def test_a_job_is_found_by_what_its_key_is_bound_to(self, inbox: Timed) -> None:
        event = make_event("task-1", key_id=("nonce",))
        await inbox.put(make_receipt(event, binding="task-1"))
        await inbox.put(make_receipt(make_event("task-2", key_id=("nonce-2",)), binding="task-2"))
        assert await listed(inbox, job_id="task-1") == ids(event)
        assert await listed(inbox, job_id="nonce") == [], "which is no job id"

    async def test_what_was_given_up_is_found_by_when_and_sent_again_where_it_was(self, inbox: Timed) -> None:
        first, second, waiting = make_event("job-1"), make_event("job-2"), make_event("job-3")
        for days, event in enumerate((first, second)):
            await put(inbox, event, sinks=("a", "b"))
            await attempt(inbox, "a", "dead", now=NOW + days * DAY, error="gone")
            await attempt(inbox, "b", "delivered", now=NOW + days * DAY)
        await put(inbox, waiting, sinks=("a",))
        assert await listed(inbox, given_up_since=NOW) == ids(second, first)
        assert await listed(inbox, given_up_since=NOW + SECOND) == ids(second)
        assert await listed(inbox, given_up_until=NOW + DAY, sink="a") == ids(first)
        assert await listed(inbox, given_up_until=NOW + DAY, sink="b") == []
        assert await listed(inbox, given_up_since=NOW, given_up_until=NOW + DAY, state="dead") == ids(first)
        assert await listed(inbox, given_up_since=NOW, state="pending") == []
        assert await listed(inbox, given_up_since=NOW, job_id="job-2") == ids(second)
        now = NOW + 2 * DAY
        replay = await inbox.create_replay(ReplayRequest(filter=EventFilter(given_up_since=NOW + DAY)), now=now)
        assert replay.total == 1
        now = await finish_replays(inbox, now=now)
        assert await listed(inbox, given_up_since=NOW) == ids(first), "what is sent again is not dead any more"
        assert await attempt(inbox, "b", "delivered", now=now) == []
        assert await attempt(inbox, "a", "dead", now=now) == ids(waiting, second)
        assert await listed(inbox, given_up_since=now) == ids(waiting, second)
        assert (await inbox.list_replays(limit=1))[0].request == replay.request

    async def test_a_replay_tells_what_has_become_of_its_deliveries(self, inbox: Timed) -> None:
        await put(inbox, make_event("job-1"), make_event("job-2"), sinks=("a", "b"))
        await attempt(inbox, "a", "dead", error="gone")
        first = await inbox.create_replay(ReplayRequest(filter=EventFilter(sink="a")))
        await finish_replays(inbox)

        async def became(replay_id: int) -> list[int]:
            replay = await inbox.find_replay(replay_id)
            assert replay is not None
            assert replay.deliveries is not None
            assert list(replay.deliveries) == ["waiting", "delivered", "dead"]
            return list(replay.deliveries.values())

        assert await became(first.id) == [4, 0, 0], "what waits already at another sink is meant, too"
        await pause(inbox, "b")
        assert await attempt(inbox, "a", "dead", now=NOW + DAY, error="gone")
        assert await became(first.id) == [2, 0, 2]
        second = await inbox.create_replay(ReplayRequest(filter=EventFilter(job_id="job-1"), sinks=("a",)))
        await finish_replays(inbox, now=NOW + 2 * DAY)
        assert await became(first.id) == [2, 0, 2], "what was sent again once more had died all the same"
        await attempt(inbox, "a", "delivered", now=NOW + 3 * DAY)
        assert await became(second.id) == [0, 1, 0]
        assert (await inbox.list_replays(limit=1))[0].deliveries is None

    async def test_time_filters_hold_though_a_clock_was_set_back(self, inbox: Timed) -> None:
        events = [make_event(f"job-{n}") for n in range(40)]
        minutes = [n + (-7 if n % 5 == 0 else 0) for n in range(40)]
        for event, minute in zip(events, minutes, strict=True):
            await put(inbox, event, at=NOW + timedelta(minutes=minute))
        wanted = [event for event, minute in zip(events, minutes, strict=True) if 10 <= minute < 20]
        since, until = NOW + timedelta(minutes=10), NOW + timedelta(minutes=20)
        assert await listed(inbox, since=since, until=until) == ids(*reversed(wanted))

    async def test_events_are_found_by_the_state_of_their_deliveries(self, inbox: Timed) -> None:
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
                AttemptResult(claimed[2], "retrying", delay_s=86400, error="503"),
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

    async def test_an_event_is_sent_again_where_it_went(self, inbox: Timed) -> None:
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

    async def test_replays_of_an_event_are_numbered_and_the_latest_counts(self, inbox: Timed) -> None:
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

    async def test_replay_of_what_is_dead_goes_only_where_it_is_dead(self, inbox: Timed) -> None:
        event = make_event()
        await inbox.put(make_receipt(event, sinks=("a", "b")))
        assert await deliver(inbox, "a") == [event.id]
        [delivery] = await inbox.claim("b", limit=1, now=NOW, lease_s=LEASE_S)
        await inbox.record([AttemptResult(delivery, "dead", error="no")], now=NOW)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(state="dead")), now=NOW)
        await finish_replays(inbox)
        assert await deliver(inbox, "a") == []
        assert await deliver(inbox, "b") == [event.id]

    async def test_what_is_on_its_way_is_not_sent_a_second_time(self, inbox: Timed) -> None:
        pending, leased, retrying = make_event("job-1"), make_event("job-2"), make_event("job-3")
        await put(inbox, retrying)
        await attempt(inbox, "a", "retrying", delay_s=86400, error="503")
        await put(inbox, leased)
        (delivery,) = await inbox.claim("a", limit=1, now=NOW + SECOND, lease_s=LEASE_S)
        await put(inbox, pending)
        await inbox.create_replay(ReplayRequest(filter=EventFilter()), now=NOW + SECOND)
        await finish_replays(inbox, now=NOW + SECOND)
        assert await inbox.record([AttemptResult(delivery, "delivered")], now=NOW + SECOND) == [True]
        assert await deliver(inbox, "a", now=NOW + SECOND) == ids(pending, retrying), "brought forward"
        for event in (pending, leased, retrying):
            assert [d.replay for d in (await find(inbox, event)).deliveries] == [0]
        assert (await find_delivery(inbox, retrying)).attempts == 2, "the schedule goes on where it was"

    async def test_what_is_parked_is_not_sent_a_second_time(self, inbox: Timed) -> None:
        event = make_event()
        await put(inbox, event)
        await attempt(inbox, "a", "retrying", delay_s=86400)
        await pause(inbox)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(state="parked"), sinks=("a",)), now=NOW)
        await finish_replays(inbox)
        assert await deliver(inbox, "a") == []
        await resume(inbox)
        assert await deliver(inbox, "a") == ids(event), "at once"
        assert await deliver(inbox, "a", now=NOW + 9 * DAY) == []

    async def test_replays_of_one_job_go_in_order_after_what_is_on_its_way(self, inbox: Timed) -> None:
        failed, partial, succeeded = (make_event(outcome=one) for one in ("failed", "partial", "succeeded"))
        await put(inbox, failed, partial)
        assert await deliver(inbox, "a") == ids(failed, partial)
        await put(inbox, succeeded)
        await attempt(inbox, "a", "retrying", delay_s=86400)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(job_id="job-1")), now=NOW)
        await finish_replays(inbox)
        for expected in (succeeded, failed, partial):
            (delivery,) = await inbox.claim("a", limit=9, now=NOW, lease_s=LEASE_S)
            assert delivery.event_id == expected.id, "one at a time"
            assert await inbox.record([AttemptResult(delivery, "delivered")], now=NOW) == [True]
        assert await inbox.claim("a", limit=9, now=NOW + 9 * DAY, lease_s=LEASE_S) == []

    @pytest.mark.parametrize("end", ["delivered", "dead"])
    async def test_a_replay_holds_back_what_comes_later_until_it_has_ended(self, inbox: Timed, end: Any) -> None:
        failed, succeeded = make_event(outcome="failed"), make_event()
        await put(inbox, failed)
        await deliver(inbox, "a")
        await inbox.create_replay(ReplayRequest(filter=EventFilter()), now=NOW)
        await finish_replays(inbox)
        await attempt(inbox, "a", "retrying", delay_s=60)
        await put(inbox, succeeded)
        assert await deliver(inbox, "a") == []
        heard: list[str] = []
        inbox.listen(heard.extend)
        assert await attempt(inbox, "a", end, now=NOW + 60 * SECOND) == ids(failed)
        assert heard == ["a"]
        assert await deliver(inbox, "a", now=NOW + 60 * SECOND) == ids(succeeded)

    @pytest.mark.parametrize("seed", range(12))
    async def test_whatever_happens_one_of_a_job_is_on_its_way_at_a_time_and_none_is_stuck(
        self, inbox: Timed, seed: int
    ) -> None:
        rng, now = Random(seed), NOW
        outcomes = ["failed", "partial", "succeeded", "cancelled", "unknown"]
        events = [make_event(f"job-{n}", outcome) for n in range(3) for outcome in outcomes]
        rng.shuffle(events)
        job_of = {event.id: event.data.job_id for event in events}
        order = {event.id: number for number, event in enumerate(events)}
        waiting, claimed = list(events), list[Delivery]()
        for _ in range(80):
            now += timedelta(seconds=rng.choice((0, 0, 1, 7)))
            match rng.choice(("put", "put", "claim", "claim", "record", "record", "replay")):
                case "put" if waiting:
                    event = waiting.pop(0)
                    assert (await inbox.put(make_receipt(event, at=now))).state == "accepted"
                case "claim":
                    claimed += await inbox.claim("a", limit=rng.randint(1, 4), now=now, lease_s=1e6)
                    jobs_ = [job_of[delivery.event_id] for delivery in claimed]
                    assert len(set(jobs_)) == len(jobs_), "one of each job at a time"
                case "record" if claimed:
                    delivery = claimed.pop(rng.randrange(len(claimed)))
                    state: Any = rng.choice(("delivered", "delivered", "dead", "retrying", "pending"))
                    assert await inbox.record([AttemptResult(delivery, state, delay_s=30)], now=now) == [True]
                case "replay":
                    chosen = EventFilter(job_id=f"job-{rng.randint(0, 2)}")
                    await inbox.create_replay(ReplayRequest(filter=chosen, sinks=("a",)), now=now)
                    now = await finish_replays(inbox, now=now)
        assert await inbox.record([AttemptResult(delivery, "pending") for delivery in claimed], now=now) == (
            [True] * len(claimed)
        )
        await deliver(inbox, "a", now=now + DAY)
        assert {state for _, state in await backlog(inbox)} <= {"dead"}, "none is stuck"
        # All of a job once more: in order.
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a",), rate_per_s=9), now=now + DAY)
        end = await finish_replays(inbox, now=now + DAY)
        again = await deliver(inbox, "a", now=end)
        for job in set(job_of.values()):
            of_job = [order[one] for one in again if job_of[one] == job]
            assert of_job == sorted(of_job)
        assert len(again) == len(events) - len(waiting)

    async def test_many_are_sent_again_at_the_rate_oldest_first_whichever_instance_goes_on(
        self, inbox: Timed, reopen: Reopen
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
        assert await inbox.advance(now=start) == start + SECOND
        assert await inbox.advance(now=start + SECOND / 2) == start + SECOND, "never faster"
        assert await deliver(inbox, "b", now=start + DAY) == ids(*events[:2])
        inbox = await reopen()
        assert await inbox.advance(now=start + SECOND) == start + 2 * SECOND
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
        assert await inbox.advance(now=end + DAY) is None

    async def test_slow_replay_waits_long_between_its_events(self, inbox: Timed) -> None:
        await put(inbox, make_event("job-1"), make_event("job-2"), sinks=())
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a",), rate_per_s=0.1), now=NOW)
        assert await inbox.advance(now=NOW) == NOW + 10 * SECOND
        assert len(await deliver(inbox, "a", now=NOW + DAY)) == 1

    async def test_unrouted_events_can_be_sent_to_a_sink(self, inbox: Timed) -> None:
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
    async def test_events_in_a_state_at_a_sink_are_sent_to_another(self, inbox: Timed, state: str) -> None:
        events = [make_event(f"job-{n}") for n in range(3)]
        await put(inbox, *events, sinks=("a", "b"))
        recorded = "retrying" if state == "parked" else state
        await attempt(inbox, "a", recorded, now=NOW + DAY)
        if state == "parked":
            await pause(inbox)
        wanted: Any = state
        request = ReplayRequest(filter=EventFilter(state=wanted, sink="a"), sinks=("c",), rate_per_s=1.0)
        assert (await inbox.create_replay(request, now=NOW)).total == 3
        await finish_replays(inbox)
        assert await deliver(inbox, "c", now=NOW + DAY) == ids(*events)

    async def test_cancelled_replay_makes_no_more(self, inbox: Timed) -> None:
        await put(inbox, *(make_event(f"job-{n}") for n in range(3)), sinks=())
        request = ReplayRequest(filter=EventFilter(since=NOW, until=NOW + DAY), sinks=("a",), rate_per_s=1.0)
        replay = await inbox.create_replay(request, now=NOW)
        await inbox.advance(now=NOW)
        cancelled = await inbox.cancel_replay(replay.id, now=NOW + SECOND)
        assert cancelled is not None
        assert (cancelled.state, cancelled.done, cancelled.changed_at) == ("cancelled", 1, NOW + SECOND)
        assert cancelled.request == request
        assert await inbox.advance(now=NOW + DAY) is None
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

    async def test_replay_of_nothing_is_finished_at_once(self, inbox: Timed) -> None:
        replay = await inbox.create_replay(ReplayRequest(filter=EventFilter(job_id="none")), now=NOW)
        assert replay.total == 0
        assert await inbox.advance(now=NOW) is None
        (finished,) = await inbox.list_replays(limit=1)
        assert (finished.state, finished.done) == ("finished", 0)

    # Retention

    async def test_payloads_go_and_keys_stay(self, inbox: Timed) -> None:
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
    async def test_what_is_not_delivered_stays_whole(self, inbox: Timed, state: str) -> None:
        event, other = make_event(), make_event("job-2")
        if state == "held":
            await put(inbox, make_event(outcome="failed"), at=NOW - 50 * DAY)
        await put(inbox, event, at=NOW - 40 * DAY)
        await inbox.put(make_receipt(event, at=NOW - 39 * DAY))
        await put(inbox, other, sinks=("b",), at=NOW - 38 * DAY)
        await deliver(inbox, "b")
        if state == "retrying":
            await attempt(inbox, "a", "retrying", error="503")
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

    async def test_event_whose_key_was_purged_can_come_again(self, inbox: Timed) -> None:
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

    async def test_replay_goes_through_events_whose_payload_is_gone(self, inbox: Timed) -> None:
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

    async def test_an_attempt_that_ends_after_its_delivery_was_purged_is_forgotten(self, inbox: Timed) -> None:
        event = make_event()
        await put(inbox, event)
        (lost,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        later = NOW + DAY
        await deliver(inbox, "a", now=later)
        await purge(inbox, payloads_before=later, keys_before=NOW)
        assert await inbox.record([AttemptResult(lost, "delivered", started_at=NOW)], now=later) == [False]
        assert (await find(inbox, event)).deliveries == ()

    async def test_purge_goes_on_behind_what_it_had_to_leave(self, inbox: Timed) -> None:
        for n in range(20):
            await inbox.put(make_receipt(make_event(f"job-{n}"), sinks=("never",)))
        await inbox.put(make_receipt(make_event("last")))
        await deliver(inbox, "a")
        for _ in range(2):
            steps = [await purge_step(inbox, payloads_before=NOW + SECOND, keys_before=NOW, limit=7)]
            while not steps[-1].is_finished:
                steps.append(await purge_step(inbox, payloads_before=NOW + SECOND, keys_before=NOW, limit=7))
            assert [step.payloads for step in steps[:3]] == [0, 0, 1], "seven are looked at in a step"
            assert {(step.payloads, step.keys) for step in steps[3:]} == {(0, 0)}
            await inbox.put(make_receipt(make_event("last")))

    async def test_a_key_goes_with_all_its_outcomes_or_not_at_all(self, inbox: Timed) -> None:
        """Also where a step of the purge ends between them."""
        failed, succeeded = make_event(outcome="failed"), make_event()
        await put(inbox, failed, make_event("job-2"), at=NOW - 2 * DAY)
        await inbox.put(make_receipt(succeeded, make_event("job-3"), make_event("job-4"), at=NOW - 2 * DAY))
        await deliver(inbox, "a")
        known = 2
        while known:
            step = await purge_step(inbox, payloads_before=NOW, keys_before=NOW - DAY, limit=1)
            known = sum([await inbox.find_event(event.id) is not None for event in (failed, succeeded)])
            assert known in (0, 2)
            assert known == 0 or not step.is_finished

    # Trying a sink now

    async def test_what_was_put_off_is_brought_forward_and_all_dispatchers_hear_of_it(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(operations, "_FORWARD_STEP", 2)
        events = [make_event(f"job-{n}") for n in range(5)]
        await put(inbox, *events, at=NOW - 5 * SECOND)
        await put(inbox, make_event("job-0", "failed"), make_event("other"), sinks=("a", "b"), at=NOW - 5 * SECOND)
        await inbox.claim("b", limit=1, now=NOW, lease_s=LEASE_S)
        await attempt(inbox, "b", "retrying", delay_s=86400)
        await attempt(inbox, "a", "retrying", delay_s=86400, error="503")
        (leased,) = [*await inbox.claim("a", limit=1, now=NOW + DAY, lease_s=LEASE_S)]
        heard: list[str] = []
        inbox.listen(heard.extend)
        inbox.clock.now = NOW + SECOND
        assert await inbox.retry_sink("a") == 5, "neither the leased one, nor what waits for another"
        assert set(heard) == {"a", "!a"}
        assert await deliver(inbox, "a", now=NOW + SECOND) == ids(*events[1:], make_event("other"))
        assert await inbox.record([AttemptResult(leased, "delivered")]) == [True]
        assert await deliver(inbox, "a", now=NOW + SECOND) == ids(make_event("job-0", "failed"))
        assert await inbox.retry_sink("a") == 0
        assert await deliver(inbox, "b") == [], "another sink is another matter"
        assert await inbox.retry_sink("nobody") == 0

    async def test_what_is_paused_is_brought_forward_for_when_it_is_resumed(self, inbox: Timed) -> None:
        await put(inbox, make_event())
        await attempt(inbox, "a", "retrying", delay_s=86400)
        await pause(inbox)
        assert await inbox.retry_sink("a") == 1
        assert await deliver(inbox, "a") == []
        await resume(inbox)
        assert await deliver(inbox, "a") == ids(make_event())

    async def test_what_fails_again_meanwhile_is_not_brought_forward_again(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else an order would never end."""
        monkeypatch.setattr(operations, "_FORWARD_STEP", 1)
        await put(inbox, *(make_event(f"job-{n}") for n in range(3)))
        await attempt(inbox, "a", "retrying", now=NOW + DAY, delay_s=60)
        forward = sinks.bring_forward

        async def and_fail(database: Any, **arguments: Any) -> int:
            brought = await forward(database, **arguments)
            (row,) = await database.fetch("SELECT min(event_id) FROM deliveries")
            await database.execute("UPDATE deliveries SET due_at = due_at + 1 WHERE event_id = $1", row[0])
            return brought

        monkeypatch.setattr(sinks, "bring_forward", and_fail)
        assert await inbox.retry_sink("a") == 3

    # The clock of the store

    async def test_it_tells_the_time_of_everything_whatever_receipts_say(self, inbox: Timed) -> None:
        """A receipt of an instance that is ten years ahead is delivered now, and is as old as it is."""
        for years in (-10, 10):
            event = make_event(f"job-{years}")
            receipt = make_receipt(event, at=NOW + years * 365 * DAY)
            assert (await inbox.put_at(receipt, now=NOW)).state == "accepted"
            (delivery,) = await inbox.claim("a", limit=9, lease_s=LEASE_S, now=NOW)
            assert await inbox.record([AttemptResult(delivery, "delivered")], now=NOW) == [True]
            assert (await find(inbox, event)).accepted_at == NOW
        assert await purge(inbox, payloads_before=NOW, keys_before=NOW) == Purged(0, 0, is_finished=True)
        assert await purge(inbox, payloads_before=NOW + SECOND, keys_before=NOW + SECOND) == Purged(
            2, 2, is_finished=True
        )

    async def test_a_clock_that_goes_on_is_believed(self, inbox: Timed) -> None:
        await inbox.watch_clock(now=NOW)
        for hours in range(0, 24 * 30, 23):
            record = await inbox.watch_clock(now=NOW + timedelta(hours=hours))
            assert record == ClockRecord(now=NOW + timedelta(hours=hours))

    @pytest.mark.parametrize("is_watched", [True, False])
    async def test_nothing_is_removed_while_a_step_forward_is_doubted(self, inbox: Timed, is_watched: bool) -> None:
        event = make_event()
        await put(inbox, event)
        await deliver(inbox, "a")
        if is_watched:
            await inbox.watch_clock(now=NOW)
        ahead = NOW + 3 * 365 * DAY
        inbox.clock.now = ahead
        old: dict[str, Any] = {"keep_payloads": 30 * DAY, "keep_keys": 400 * DAY, "limit": 100}
        with pytest.raises(ClockDoubted, match=r"2026-01-02 to 2029-01-01 \(1095 days\)"):
            await inbox.purge(**old)
        record = await inbox.watch_clock(now=ahead)
        assert record == ClockRecord(now=ahead, doubted_s=1095 * 86400.0, trusted_at=ahead + 7 * DAY)
        # It goes on for nearly a week.
        for hours in range(0, 24 * 7, 20):
            now = ahead + timedelta(hours=hours)
            assert (await inbox.watch_clock(now=now)).doubted_s
            with pytest.raises(ClockDoubted):
                await inbox.purge(**old, now=now)
        assert (await inbox.put(make_receipt(event, at=now))).state == "duplicate"
        assert not (await inbox.watch_clock(now=ahead + 7 * DAY)).doubted_s
        await inbox.purge(**old, now=ahead + 7 * DAY)

    async def test_an_operator_can_say_that_it_is_right(self, inbox: Timed) -> None:
        await inbox.watch_clock(now=NOW)
        assert (await inbox.watch_clock(now=NOW + 60 * DAY)).doubted_s
        await inbox.trust_clock()
        assert not (await inbox.watch_clock(now=NOW + 60 * DAY)).doubted_s
        await inbox.purge(keep_payloads=DAY, keep_keys=DAY, limit=9)

    async def test_a_short_time_off_is_doubted_for_as_long(self, inbox: Timed) -> None:
        await inbox.watch_clock(now=NOW)
        back = NOW + timedelta(days=2.5)
        assert (await inbox.watch_clock(now=back)).trusted_at == back + timedelta(days=2.5)

    async def test_what_a_wrong_step_forward_put_off_is_put_back(self, inbox: Timed) -> None:
        retrying, waiting, new = make_event("job-1"), make_event("job-1", "failed"), make_event("job-2")
        ahead = NOW + 3650 * DAY
        await put(inbox, retrying, waiting)
        await inbox.watch_clock(now=NOW)
        await inbox.watch_clock(now=ahead)
        await attempt(inbox, "a", "retrying", now=ahead, delay_s=300, error="503")
        await put(inbox, new, at=ahead)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("b",), rate_per_s=0.1), now=ahead)
        await inbox.advance(now=ahead)
        await inbox.watch_clock(now=ahead + 5 * SECOND)
        record = await inbox.watch_clock(now=NOW + 5 * SECOND)
        assert record == ClockRecord(now=NOW + 5 * SECOND, corrected_s=3650 * 86400.0)
        assert (await find(inbox, new)).accepted_at == NOW
        assert await listed(inbox, since=NOW - SECOND, until=NOW + DAY) == ids(new, waiting, retrying)
        assert await deliver(inbox, "a", now=NOW + 6 * SECOND) == ids(new)
        assert await deliver(inbox, "a", now=NOW + 299 * SECOND) == []
        assert await deliver(inbox, "a", now=NOW + 300 * SECOND) == ids(retrying, waiting)
        assert await finish_replays(inbox, now=NOW + 300 * SECOND) <= NOW + 400 * SECOND
        assert await inbox.watch_clock(now=NOW + 400 * SECOND) == ClockRecord(now=NOW + 400 * SECOND)
        purged = await purge(inbox, payloads_before=NOW - DAY, keys_before=NOW - DAY)
        assert (purged.payloads, purged.keys) == (0, 0)

    async def test_a_clock_that_is_set_back_is_told_of_and_followed(self, inbox: Timed) -> None:
        await inbox.watch_clock(now=NOW)
        behind = NOW - 3650 * DAY
        event = make_event()
        assert await inbox.watch_clock(now=behind) == ClockRecord(now=behind, behind_s=3650 * 86400.0)
        await put(inbox, event, at=behind)
        assert await deliver(inbox, "a", now=behind) == ids(event)
        assert await inbox.watch_clock(now=NOW + SECOND) == ClockRecord(now=NOW + SECOND), "it is not doubted"
        assert (await inbox.put(make_receipt(event, at=NOW + SECOND))).state == "duplicate"

    # Life

    async def test_a_cancelled_put_is_kept_all_the_same(self, inbox: Timed) -> None:
        put = asyncio.ensure_future(inbox.put(make_receipt(make_event())))
        await asyncio.sleep(0)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert (await inbox.put(make_receipt(make_event()))).state == "duplicate"

    async def test_closing_keeps_what_is_on_its_way(self, inbox: Timed, reopen: Reopen) -> None:
        puts = [asyncio.ensure_future(inbox.put(make_receipt(make_event(f"job-{n}")))) for n in range(600)]
        await asyncio.sleep(0)
        again = await reopen()
        assert {(await put).state for put in puts} == {"accepted"}
        assert len(await deliver(again, "a")) == 600

    async def test_listener_hears_of_new_and_of_released_deliveries(self, inbox: Timed) -> None:
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

    async def test_check_returns_while_it_can_write(self, inbox: Timed) -> None:
        await inbox.check()
        await inbox.check()

    async def test_odd_text_is_kept(self, inbox: Timed) -> None:
        event = make_event("作业\x00\n'\"\\\U0001f600" + "x" * 5000)
        assert (await inbox.put(make_receipt(event, meta={"k": "\x00"}, warnings=("ä",)))).state == "accepted"
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert delivery.body == event.to_json()


class DatabaseConformance:
    """What both databases do, by the queries that they share."""

    async def test_lists_show_as_much_of_a_long_id_as_can_be_asked_for(self, inbox: Timed) -> None:
        long, usual = make_event("x" * 2000, media_id="y" * 2000), make_event("x" * 1000)
        await put(inbox, long, usual)
        shown = await inbox.list_events(EventFilter(), limit=9)
        assert [(one.job_id, one.media_id) for one in shown] == [("x" * 1000, "media-1"), ("x" * 1000, "y" * 1000)]
        assert [one.id for one in await inbox.list_events(EventFilter(job_id="x" * 1000), limit=9)] == [usual.id]
        assert (await find(inbox, long)).body == long.to_json()

    async def test_half_a_character_is_replaced_and_stops_nothing(self, inbox: Timed) -> None:
        half, shown = "half \ud800", "half \ufffd"
        receipt = make_receipt(make_event(), reason=half, binding=half, meta={half: half}, warnings=(half,))
        assert (await inbox.put(receipt)).state == "accepted"
        assert (await inbox.put(receipt)).state == "duplicate"
        (_, first) = await inbox.list_receipts(limit=5)
        assert (first.reason, first.warnings) == (shown, (half,))
        (delivery,) = await inbox.claim("a", limit=1, now=NOW, lease_s=LEASE_S)
        assert await inbox.record([AttemptResult(delivery, "dead", error=half, started_at=NOW)], now=NOW) == [True]
        record = await find(inbox, make_event())
        assert [(one.error, [each.error for each in one.history]) for one in record.deliveries] == [(shown, [shown])]
        await inbox.set_sink_state("a", "paused", reason=half, changed_by=half, now=NOW)
        (sink,) = await inbox.list_sinks()
        assert (sink.reason, sink.changed_by) == (shown, shown)
        assert await inbox.list_events(EventFilter(job_id=half), limit=5) == ()
        assert await inbox.list_receipts(limit=5, source=half) == ()
        assert await inbox.search("\ud800", limit=5) == ()

    async def test_a_claim_is_bounded_in_bytes(self, inbox: Timed) -> None:
        events = [make_event(f"job-{n}", user_data="x" * 10_000) for n in range(5)]
        await put(inbox, *events)
        later = NOW + 9 * SECOND
        claims = [
            [delivery.event_id for delivery in await inbox.claim("a", now=later, lease_s=LEASE_S, **bounds)]
            for bounds in ({"limit": 9, "max_bytes": 25_000}, {"limit": 9, "max_bytes": 1}, {"limit": 1}, {"limit": 9})
        ]
        assert [len(claim) for claim in claims] == [2, 1, 1, 1]
        assert [one for claim in claims for one in claim] == [event.id for event in events]

    async def test_one_receipt_that_the_database_refuses_does_not_fail_its_neighbours(self, inbox: Timed) -> None:
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
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replays, "_IDS_PER_STEP", 3)
        events = [make_event(f"job-{n}", "failed" if n in {0, 9} else "succeeded") for n in range(11)]
        for event in events:
            await inbox.put(make_receipt(event, sinks=()))
        request = ReplayRequest(filter=EventFilter(outcome="failed"), sinks=("a",), rate_per_s=2.0)
        await inbox.create_replay(request, now=NOW)
        half = NOW + SECOND / 2
        assert await inbox.advance(now=NOW) == half, "one was found"
        assert await inbox.advance(now=half) == half, "none was found: at once"
        assert await inbox.advance(now=half) == half
        assert await inbox.advance(now=half) is None
        assert await deliver(inbox, "a", now=half) == [events[0].id, events[9].id]

    async def test_a_step_that_was_taken_meanwhile_is_not_taken_again(self, inbox: Timed) -> None:
        for n in range(4):
            await inbox.put(make_receipt(make_event(f"job-{n}"), sinks=()))
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), sinks=("a",), rate_per_s=1.0), now=NOW)
        await asyncio.gather(*(inbox.advance(now=NOW) for _ in range(5)))
        assert len(await deliver(inbox, "a", now=NOW)) == 1

    async def test_a_page_is_found_whether_its_events_are_new_or_old(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
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
