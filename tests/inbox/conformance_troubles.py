"""What every inbox must do with troubles of the service."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from media_callbacks.inbox.records import (
    AttemptResult,
    ErasureRequest,
    EventFilter,
    FeedFilter,
    ReplayRequest,
    SeenTrouble,
)
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.model.kinds import OUTCOMES, Trouble
from media_callbacks.model.operational import RULES, OperationalEvent, parse_operational_event
from tests.inbox.conformance import DAY, NOW, SECOND, Reopen, attempt, deliver, ids, make_event, purge, put
from tests.inbox.conformance_erasures import erase
from tests.inbox.timed import Timed

TROUBLE: Trouble = "sink_failing"
AFTER = RULES[TROUBLE].after_s * SECOND
QUIET = RULES[TROUBLE].quiet_s * SECOND


def to_ops(_: OperationalEvent) -> tuple[str, ...]:
    return ("ops",)


def to_nobody(_: OperationalEvent) -> tuple[str, ...]:
    return ()


async def note(
    inbox: Timed, at: datetime, *seen: SeenTrouble, route: Any = to_ops, instance: str = "host-1"
) -> Sequence[OperationalEvent]:
    inbox.clock.now = at
    return await inbox.note_troubles(seen, instance=instance, route=route)


def see(subject: str = "orders", trouble: Trouble = TROUBLE, **fields: Any) -> SeenTrouble:
    return SeenTrouble(trouble=trouble, subject=subject, **fields)


async def claimed(inbox: Timed, at: datetime) -> list[OperationalEvent]:
    """What the sink gets, in order."""
    found = []
    while deliveries := await inbox.claim("ops", limit=10, now=at, lease_s=30):
        found += [parse_operational_event(delivery.body) for delivery in deliveries]
        await inbox.record([AttemptResult(delivery, "delivered") for delivery in deliveries], now=at)
    return found


class TroublesConformance:
    async def test_a_trouble_is_told_of_once_and_so_is_its_end(self, inbox: Timed) -> None:
        await note(inbox, NOW, see(detail="first"))
        assert await claimed(inbox, NOW) == []
        for seconds in range(15, 300, 15):
            await note(inbox, NOW + seconds * SECOND, see())
        last = NOW + 285 * SECOND
        (began,) = await claimed(inbox, last)
        assert (began.type, began.subject) == ("media.operational.sink_failing.began", "orders")
        assert (began.data.since, began.data.ended_at, began.data.detail) == (NOW, None, "first")
        await note(inbox, last + QUIET - SECOND)
        assert await claimed(inbox, last + QUIET) == []
        await note(inbox, last + QUIET)
        (ended,) = await claimed(inbox, last + QUIET)
        assert (ended.type, ended.time) == ("media.operational.sink_failing.ended", last)
        assert (ended.data.since, ended.data.ended_at, ended.data.revision) == (NOW, last, 2)
        assert ended.id[:-2] == began.id[:-2]
        assert await inbox.list_troubles() == ()
        await note(inbox, last + DAY)
        assert await claimed(inbox, last + DAY) == []

    async def test_what_does_not_last_is_told_to_nobody(self, inbox: Timed) -> None:
        await note(inbox, NOW, see())
        await note(inbox, NOW + AFTER - SECOND, see())
        assert [record.told_at for record in await inbox.list_troubles()] == [None]
        assert await note(inbox, NOW + DAY) == ()
        assert await inbox.list_troubles() == ()

    async def test_one_that_comes_and_goes_is_one(self, inbox: Timed) -> None:
        at = NOW
        for _ in range(50):
            await note(inbox, at, see())
            at += QUIET - SECOND
            await note(inbox, at)
        assert [event.data.outcome for event in await claimed(inbox, at)] == ["began"]

    async def test_any_number_of_instances_tell_once(self, inbox: Timed) -> None:
        for seconds in (0, 60, 120):
            for instance in ("host-1", "host-2", "host-3"):
                await note(inbox, NOW + seconds * SECOND, see(), instance=instance)
        # One of them sees it go on.
        for seconds in range(180, 600, 60):
            await note(inbox, NOW + seconds * SECOND, instance="host-1")
            await note(inbox, NOW + seconds * SECOND, see(), instance="host-2")
        assert [event.data.outcome for event in await claimed(inbox, NOW + 600 * SECOND)] == ["began"]

    async def test_a_restart_tells_nothing_again(self, inbox: Timed, reopen: Reopen) -> None:
        await note(inbox, NOW, see(began_s=3600))
        inbox = await reopen()
        await note(inbox, NOW + 15 * SECOND, see(began_s=0))
        (began,) = await claimed(inbox, NOW + 15 * SECOND)
        assert began.data.since == NOW - 3600 * SECOND

    async def test_what_is_known_is_written_together_with_what_is_told_or_not_at_all(self, inbox: Timed) -> None:
        def fail(_: OperationalEvent) -> tuple[str, ...]:
            raise ZeroDivisionError

        with pytest.raises((ZeroDivisionError, InboxUnavailable)):
            await note(inbox, NOW, see(began_s=3600), route=fail)
        assert await inbox.list_troubles() == ()
        await note(inbox, NOW, see(began_s=3600))
        with pytest.raises((ZeroDivisionError, InboxUnavailable)):
            await note(inbox, NOW + DAY, route=fail)
        await note(inbox, NOW + DAY)
        assert [event.data.outcome for event in await claimed(inbox, NOW + DAY)] == ["began", "ended"]

    async def test_thousands_are_one_with_their_number(self, inbox: Timed) -> None:
        dead: Trouble = "deliveries_dead"
        for number in range(4):
            await note(inbox, NOW + number * 15 * SECOND, see(trouble=dead, count=1000))
        await note(inbox, NOW + DAY)
        began, ended = await claimed(inbox, NOW + DAY)
        assert (began.data.detail, ended.data.detail) == ("1000 so far", "4000 in all")

    async def test_what_was_over_before_it_could_be_told_comes_with_its_end(self, inbox: Timed) -> None:
        await note(inbox, NOW, see(began_s=1800, seen_s=600))
        began, ended = await claimed(inbox, NOW)
        assert (began.data.outcome, ended.data.outcome) == ("began", "ended")
        assert (began.time, ended.time) == (NOW - 1800 * SECOND, NOW - 600 * SECOND)

    async def test_a_sign_begins_nothing_and_keeps_what_was_told(self, inbox: Timed) -> None:
        await note(inbox, NOW, see(is_sign=True, began_s=3600))
        assert await inbox.list_troubles() == ()
        await note(inbox, NOW, see(began_s=3600))
        for seconds in range(60, 1200, 60):
            await note(inbox, NOW + seconds * SECOND, see(is_sign=True))
        assert len(await claimed(inbox, NOW + 1200 * SECOND)) == 1

    async def test_without_a_sink_there_is_no_event(self, inbox: Timed) -> None:
        events = await note(inbox, NOW, see(began_s=3600), route=to_nobody)
        assert [event.data.outcome for event in events] == ["began"]
        assert await inbox.find_event(events[0].id) is None
        assert await inbox.count_events(EventFilter(state="unrouted")) == 0
        assert [record.subject for record in await inbox.list_troubles()] == ["orders"]
        # One that is configured meanwhile gets the end alone.
        await note(inbox, NOW + DAY)
        (ended,) = await claimed(inbox, NOW + DAY)
        assert (ended.data.outcome, ended.data.revision) == ("ended", 1)

    async def test_the_end_comes_after_the_beginning(self, inbox: Timed) -> None:
        await note(inbox, NOW, see(began_s=3600))
        await attempt(inbox, "ops", "retrying", delay_s=7200)
        await note(inbox, NOW + 3600 * SECOND)
        assert await claimed(inbox, NOW + 3600 * SECOND) == []
        assert [event.data.outcome for event in await claimed(inbox, NOW + DAY)] == ["began", "ended"]

    @pytest.mark.parametrize("wanted", [EventFilter(), EventFilter(since=NOW - DAY), EventFilter(sink="ops")], ids=str)
    async def test_lists_leave_them_out_unless_asked_for(self, inbox: Timed, wanted: EventFilter) -> None:
        job = make_event()
        await put(inbox, job, sinks=("ops",))
        (event,) = await note(inbox, NOW, see(began_s=3600))
        assert [one.id for one in await inbox.list_events(wanted, limit=10)] == [job.id]
        assert await inbox.count_events(wanted) == 1
        (found,) = await inbox.list_events(EventFilter(kind="operational", outcome="began"), limit=10)
        assert (found.id, found.kind, found.outcome) == (event.id, "operational", "began")
        record = await inbox.find_event(event.id)
        assert record is not None
        assert (record.receipts, record.is_routed) == ((), True)
        assert parse_operational_event(record.body or b"") == event

    async def test_the_feed_leaves_them_out_unless_asked_for(self, inbox: Timed) -> None:
        (event,) = await note(inbox, NOW, see(began_s=3600))
        start = NOW - DAY
        for wanted, found in ((FeedFilter(), []), (FeedFilter(kind="operational"), [event.id])):
            part = await inbox.read_feed(start, [wanted], limit=10, max_bytes=10**6)
            assert [json.loads(one.body or "")["id"] for one in part.events] == found

    @pytest.mark.parametrize(("kind", "total"), [(None, 1), ("operational", 1)])
    async def test_replays_take_them_only_when_asked_for(self, inbox: Timed, kind: str | None, total: int) -> None:
        job = make_event()
        await put(inbox, job, sinks=("ops",))
        (event,) = await note(inbox, NOW, see(began_s=3600))
        await deliver(inbox, "ops")
        replay = await inbox.create_replay(ReplayRequest(filter=EventFilter(kind=kind), rate_per_s=1000), now=NOW)
        assert replay.total == total
        await inbox.advance_replays(now=NOW)
        assert await deliver(inbox, "ops") == (ids(job) if kind is None else [event.id])

    async def test_they_go_with_what_is_old(self, inbox: Timed) -> None:
        (event,) = await note(inbox, NOW, see(began_s=3600))
        await note(inbox, NOW + DAY)
        await deliver(inbox, "ops", now=NOW + DAY)
        later = NOW + 30 * DAY
        inbox.clock.now = later
        await purge(inbox, payloads_before=later, keys_before=later)
        assert await inbox.find_event(event.id) is None

    async def test_an_erasure_leaves_them(self, inbox: Timed) -> None:
        (event,) = await note(inbox, NOW, see(began_s=3600))
        subjects: tuple[Any, ...] = ("job_id", "media_id", "user_data")
        for matched in subjects:
            await erase(inbox, ErasureRequest(matched=matched, value="orders"))
        record = await inbox.find_event(event.id)
        assert record is not None
        assert record.erased_at is None

    async def test_a_trouble_of_a_later_version_is_left_to_it(self, inbox: Timed) -> None:
        await inbox._write(
            lambda d: d.execute(
                "INSERT INTO troubles (trouble, subject, since, seen_at, count) VALUES ('of_tomorrow', 'x', 0, 0, 0)"
            )
        )
        assert await note(inbox, NOW) == ()
        assert await inbox.list_troubles() == ()
        assert await inbox._read(lambda d: d.fetch_value("SELECT count(*) FROM troubles")) == 1

    async def test_a_version_that_knows_none_reads_them_as_it_reads_others(self, inbox: Timed) -> None:
        """A step back: it makes ids and words of the numbers of outcomes that jobs have, and knows no others."""
        events = [*await note(inbox, NOW, see(began_s=3600)), *await note(inbox, NOW + DAY)]
        rows = await inbox._read(lambda d: d.fetch("SELECT key_digest, outcome FROM events ORDER BY id"))
        assert [f"evt_{bytes(digest).hex()}{outcome:02x}" for digest, outcome in rows] == [one.id for one in events]
        assert all(OUTCOMES[outcome] for _, outcome in rows)

    async def test_no_job_is_found_by_them(self, inbox: Timed) -> None:
        (event,) = await note(inbox, NOW, see(began_s=3600))
        for text in (event.id, "orders", "media-callbacks"):
            assert await inbox.search(text, limit=9) == ()

    async def test_what_goes_on_while_the_store_is_away_has_not_ended(self, inbox: Timed) -> None:
        await note(inbox, NOW, see(began_s=3600), instance="host-2")
        # The first one that comes back has not seen it.
        inbox.clock.now = back = NOW + 10 * QUIET
        await inbox.note_troubles([], instance="host-1", route=to_ops, may_end=False)
        await note(inbox, back + SECOND, see(began_s=10 * 3600), instance="host-2")
        await note(inbox, back + 30 * SECOND, instance="host-1")
        (began,) = await claimed(inbox, back + 30 * SECOND)
        assert began.data.outcome == "began"

    async def test_what_a_clock_that_was_wrong_has_begun_is_told_in_time(self, inbox: Timed) -> None:
        await inbox.watch_clock(now=NOW)
        await inbox.watch_clock(now=NOW + 10 * DAY)
        await note(inbox, NOW + 10 * DAY + SECOND, see())
        await inbox.watch_clock(now=NOW + 60 * SECOND)
        (event,) = await note(inbox, NOW + 62 * SECOND + AFTER, see())
        assert event.data.since < NOW + DAY

    async def test_troubles_of_clocks_that_were_wrong_are_put_back(self, inbox: Timed) -> None:
        await inbox.watch_clock(now=NOW)
        await inbox.watch_clock(now=NOW + 10 * DAY)
        await note(inbox, NOW + 10 * DAY + SECOND, see(began_s=3600))
        await inbox.watch_clock(now=NOW + 60 * SECOND)
        await note(inbox, NOW + 90 * SECOND, see())
        (record,) = await inbox.list_troubles()
        assert record.seen_at <= NOW + 90 * SECOND
        assert len(await claimed(inbox, NOW + 90 * SECOND)) == 1
