"""Clocks that are off are told of, once, and measured."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import structlog

from media_callbacks.inbox.records import ClockRecord
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.observe.metrics import Metrics
from media_callbacks.upkeep.clock_watch import INTERVAL_S, ClockWatch
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import NOW, SECOND

Seen = ClockRecord | Exception


async def watch(*seen: Seen, ours: timedelta = timedelta()) -> tuple[list[Any], Metrics]:
    """Let what the store says come minute by minute. What was logged, and the metrics."""
    metrics, left, has_seen_all = Metrics(), list(seen), asyncio.Event()

    class Store:
        now = NOW

        async def watch_clock(self) -> ClockRecord:
            found = left.pop(0)
            if isinstance(found, Exception):
                raise found
            self.now = found.now
            return found

    async def wait(event: asyncio.Event, timeout_s: float) -> None:
        assert timeout_s == INTERVAL_S
        if not left:
            has_seen_all.set()
            await event.wait()

    store = Store()

    def clock() -> datetime:
        following = left[0] if left else None
        return (following.now if isinstance(following, ClockRecord) else store.now) + ours

    with structlog.testing.capture_logs() as logs:
        watched = ClockWatch(store, clock=clock, observer=metrics, wait=wait)
        watched.start()
        async with asyncio.timeout(PATIENCE_S):
            await has_seen_all.wait()
            await watched.stop()
    return logs, metrics


def value(metrics: Metrics, name: str) -> float | None:
    return metrics._registry.get_sample_value(f"media_callbacks_{name}")


async def test_a_clock_that_agrees_is_not_worth_a_word() -> None:
    logs, metrics = await watch(ClockRecord(now=NOW), ClockRecord(now=NOW), ours=9 * SECOND)
    assert logs == []
    assert value(metrics, "clock_offset_seconds") == 9
    assert value(metrics, "store_clock_doubted_seconds") == value(metrics, "store_clock_behind_seconds") == 0


async def test_a_machine_that_is_off_is_told_of_once() -> None:
    logs, metrics = await watch(*[ClockRecord(now=NOW)] * 5, ours=-21 * SECOND)
    assert [(log["event"], log["log_level"], log["ahead_of_store_s"]) for log in logs] == [("clock_off", "error", -21)]
    assert value(metrics, "clock_offset_seconds") == -21


async def test_steps_of_the_stores_clock_are_told_of_and_measured() -> None:
    doubted = ClockRecord(now=NOW, doubted_s=86400.0 * 3, trusted_at=NOW + timedelta(days=3))
    corrected = ClockRecord(now=NOW, corrected_s=86400.0 * 3)
    behind = ClockRecord(now=NOW, behind_s=100.0)
    logs, metrics = await watch(doubted, doubted)
    assert [(log["event"], log["stepped_s"], log["trusted_at"]) for log in logs] == [
        ("store_clock_doubted", 86400 * 3, NOW + timedelta(days=3))
    ]
    assert value(metrics, "store_clock_doubted_seconds") == 86400 * 3
    logs, metrics = await watch(doubted, corrected, ClockRecord(now=NOW), doubted, behind, behind)
    assert [log["event"] for log in logs] == [
        "store_clock_doubted",
        "store_clock_corrected",
        "store_clock_doubted",
        "store_clock_behind",
    ]
    assert value(metrics, "store_clock_corrections_total") == 1
    assert value(metrics, "store_clock_behind_seconds") == 100


async def test_a_store_that_is_away_is_looked_at_again() -> None:
    logs, metrics = await watch(InboxUnavailable("away"), ValueError("odd"), ClockRecord(now=NOW), ours=5 * SECOND)
    assert [log["event"] for log in logs] == ["clock_not_watched"] * 2
    assert value(metrics, "clock_offset_seconds") == 5


async def test_one_that_was_never_started_stops() -> None:
    await ClockWatch(None, clock=lambda: NOW, observer=Metrics()).stop()  # type: ignore[arg-type]
