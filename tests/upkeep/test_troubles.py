"""What is a trouble, and what is not: what the watch has noted, look by look."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.inbox.records import (
    ClockRecord,
    SeenTrouble,
    SinkRecord,
    SourceActivity,
    StoreSpace,
    TroubleRecord,
    WaitingCounts,
)
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.model.kinds import Trouble
from media_callbacks.model.operational import OperationalEvent, build_event
from media_callbacks.model.receipts import Verdict
from media_callbacks.model.times import format_time
from media_callbacks.observe.metrics import Metrics
from media_callbacks.upkeep.troubles import INTERVAL_S, TroubleWatch
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import NOW, make_receipt

GIBIBYTE = 2**30
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class World:
    """Everything that the watch looks at, as a test sets it, and what was noted."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.breakers: dict[str, BreakerState] = {"orders": "closed", "ops": "closed"}
        self.died: dict[str, int] = {}
        self.journaled = (0, 0)
        self.sinks: tuple[SinkRecord, ...] = ()
        self.overdue_for = -HOUR
        self.space = StoreSpace(GIBIBYTE, None)
        self.sources: tuple[SourceActivity, ...] = ()
        self.is_away = False
        self.elapsed_s = 1000.0
        self.noted: list[Sequence[SeenTrouble]] = []
        self.may_end: list[bool] = []
        self.events: tuple[OperationalEvent, ...] = ()

    # The store

    async def list_sinks(self) -> Sequence[SinkRecord]:
        if self.is_away:
            raise InboxUnavailable("away")
        return self.sinks

    async def count_waiting(self) -> WaitingCounts:
        return WaitingCounts(
            jobs={("vod", "overdue"): 3, ("vod", "expected"): 7},
            held={},
            oldest_held_at=None,
            first_deadlines={"vod": NOW - self.overdue_for},
        )

    async def measure(self) -> StoreSpace:
        return self.space

    async def note_troubles(
        self, seen: Sequence[SeenTrouble], *, may_end: bool = True, **_: Any
    ) -> Sequence[OperationalEvent]:
        self.noted.append(seen)
        self.may_end.append(may_end)
        return self.events

    async def now(self) -> datetime:
        return NOW

    async def list_source_activity(self) -> Sequence[SourceActivity]:
        return self.sources

    async def list_troubles(self) -> Sequence[TroubleRecord]:
        return ()

    def watch(self, sinks: Collection[str] = ("orders",)) -> TroubleWatch:
        def breakers() -> Mapping[str, BreakerState]:
            return self.breakers

        return TroubleWatch(
            self,
            host="host-1",
            sources=["vod", "mts"],
            sinks=sinks,
            route=lambda _: (),
            counters=self.metrics,
            breakers=breakers,
            died=lambda: self.died,
            journaled=lambda: self.journaled,
            elapsed=lambda: self.elapsed_s,
        )


async def look(world: World, watch: TroubleWatch) -> list[SeenTrouble]:
    """What one look has noted; nothing while the store is away."""
    world.noted.clear()
    world.elapsed_s += INTERVAL_S
    await watch._look()
    return [seen for noted in world.noted for seen in noted]


def names(found: Sequence[SeenTrouble]) -> set[tuple[Trouble, str]]:
    return {(seen.trouble, seen.subject) for seen in found}


async def test_where_all_is_well_nothing_is_noted() -> None:
    world = World()
    world.sinks = (SinkRecord("orders", deliveries={"pending": 9, "dead": 4}), SinkRecord("old", state="paused"))
    world.metrics.clock_watched(ClockRecord(now=NOW), offset_s=2.0)
    world.overdue_for = timedelta(minutes=14)
    assert await look(world, world.watch()) == []


async def test_states_are_noted_as_long_as_they_last() -> None:
    world = World()
    watch = world.watch()
    world.breakers["orders"] = "open"
    world.sinks = (SinkRecord("orders", state="disabled", reason="410"),)
    world.journaled = (3, 1)
    world.overdue_for = timedelta(minutes=15)
    world.space = StoreSpace(100 * GIBIBYTE, 2 * GIBIBYTE)
    world.metrics.clock_watched(ClockRecord(now=NOW, doubted_s=90_000.0, behind_s=70.0), offset_s=-11.0)
    for _ in range(2):
        assert names(await look(world, watch)) == {
            ("sink_failing", "orders"),
            ("sink_disabled", "orders"),
            ("journal_filling", "host-1"),
            ("journal_set_aside", "host-1"),
            ("jobs_overdue", "vod"),
            ("disk_low", "host-1"),
            ("clock_off", "host-1"),
            ("store_clock_doubted", "store"),
            ("store_clock_behind", "store"),
        }


async def test_a_clock_is_ahead_or_behind() -> None:
    world = World()
    watch = world.watch()
    told = []
    for offset_s in (11.0, -600.0):
        world.metrics.clock_watched(ClockRecord(now=NOW), offset_s=offset_s)
        told += [seen.detail for seen in await look(world, watch)]
    assert told == ["11 s ahead of the store's", "600 s behind the store's"]


async def test_what_happens_is_noted_once_with_its_number() -> None:
    world = World()
    watch = world.watch()
    world.died["orders"] = 12
    receipt = make_receipt()
    world.metrics.receipt_stored(receipt, Verdict("differing"))
    world.metrics.receipt_stored(receipt, Verdict("conflict"))
    world.metrics.inquiry_judged(product="mts", reason="confirm", result="ended", decision="contradicted")
    world.metrics.inquiry_judged(product="mts", reason="expected", result="not_found", decision="given_up")
    world.metrics.inquiry_judged(product="ims", reason="confirm", result="not_found", decision="given_up")
    world.metrics.events_unrouted(5)
    world.metrics.certificate_changed()
    found = await look(world, watch)
    assert {(seen.trouble, seen.subject): seen.count for seen in found} == {
        ("deliveries_dead", "orders"): 12,
        ("content_differing", "vod"): 1,
        ("claims_contradicted", "vod"): 1,
        ("claims_contradicted", "mts"): 1,
        ("jobs_unknown", "mts"): 1,
        ("events_unrouted", "media-callbacks"): 5,
        ("certificate_changed", "media-callbacks"): 1,
    }
    assert await look(world, watch) == []
    world.died["orders"] = 13
    (seen,) = await look(world, watch)
    assert (seen.trouble, seen.count) == ("deliveries_dead", 1)


async def test_sinks_that_take_nothing_but_operational_events_have_no_troubles() -> None:
    world = World()
    world.breakers["ops"] = "open"
    world.sinks = (SinkRecord("ops", state="disabled", deliveries={"retrying": 3, "dead": 4}),)
    assert await look(world, world.watch()) == []


async def test_what_was_seen_while_the_store_was_away_is_noted_afterwards() -> None:
    world = World()
    watch = world.watch()
    world.is_away, world.journaled = True, (5, 0)
    for _ in range(10):
        assert await look(world, watch) == []
    world.is_away, world.journaled = False, (0, 0)
    world.died["orders"] = 1
    journal, died = await look(world, watch)
    assert (journal.trouble, journal.began_s, journal.seen_s) == ("journal_filling", 10 * INTERVAL_S, INTERVAL_S)
    assert (died.trouble, died.began_s, died.seen_s) == ("deliveries_dead", 0, 0)
    assert await look(world, watch) == []


async def test_nothing_ends_before_all_instances_could_note_what_they_see() -> None:
    world = World()
    watch = world.watch()
    for _ in range(3):
        await look(world, watch)
    world.is_away = True
    for _ in range(3):
        await look(world, watch)
    world.is_away = False
    for _ in range(2):
        await look(world, watch)
    assert world.may_end == [False, True, True, False, True]


async def test_after_a_restart_a_sink_is_not_well_before_it_takes_something() -> None:
    world = World()
    watch = world.watch()
    world.sinks = (SinkRecord("orders", deliveries={"retrying": 3}),)
    (seen,) = await look(world, watch)
    assert (seen.trouble, seen.is_sign) == ("sink_failing", True)
    world.metrics.attempt_finished(sink="orders", result="delivered", duration_s=0.1)
    # One event that it does not take says nothing of it, however long nothing else is sent.
    assert await look(world, watch) == await look(world, watch) == []
    world.breakers["orders"] = "half_open"
    (seen,) = await look(world, watch)
    assert not seen.is_sign


async def test_what_began_and_ended_is_logged() -> None:
    world = World()
    began = build_event("disk_low", "host-1", since=NOW, ended_at=None, detail=None, instance="host-1")
    ended = build_event("disk_low", "host-1", since=NOW, ended_at=NOW, detail=None, instance="host-1")
    world.events = (began, ended)
    with structlog.testing.capture_logs() as logs:
        await look(world, world.watch())
    assert [(line["event"], line["log_level"], line["subject"]) for line in logs] == [
        ("trouble_began", "warning", "host-1"),
        ("trouble_ended", "info", "host-1"),
    ]


async def test_it_goes_on_while_the_store_is_away() -> None:
    world, looked = World(), 0
    world.is_away = True
    enough = asyncio.Event()

    async def wait(event: asyncio.Event, timeout_s: float) -> None:
        nonlocal looked
        assert timeout_s == INTERVAL_S
        looked += 1
        if looked == 3:
            enough.set()
            await event.wait()

    watch = world.watch()
    watch._wait = wait
    with structlog.testing.capture_logs() as logs:
        watch.start()
        async with asyncio.timeout(PATIENCE_S):
            await enough.wait()
            await watch.stop()
    assert logs == []


async def test_a_source_that_is_not_configured_or_not_listened_to_for_long_is_not_silent() -> None:
    world = World()
    watch = world.watch()
    for name, ago in (("vod", 2), ("mts", 1), ("gone", 2)):
        at = NOW - ago * HOUR
        world.sources += (SourceActivity(name, at - 7 * DAY, at, None, 0),)
    assert await look(world, watch) == []
    world.elapsed_s += 3600
    (seen,) = await look(world, watch)
    assert (seen.trouble, seen.subject) == ("source_silent", "vod")
    assert seen.detail == f"nothing since {format_time(NOW - 2 * HOUR)}"
