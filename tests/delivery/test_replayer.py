import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import structlog

from media_callbacks.delivery.replayer import POLL_S, Replayer
from media_callbacks.inbox.records import EventFilter, ReplayRequest
from tests.factories.delivering import (
    PATIENCE_S,
    FakeTime,
    ScriptedSink,
    WatchedInbox,
    make_dispatcher,
    put_jobs,
    until,
)
from tests.inbox.conformance import NOW


class ReplayingInbox(WatchedInbox):
    """Remembers when it was asked to advance."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.advanced_at: list[float] = []

    async def advance_replays(self, *, now: datetime | None = None) -> float | None:
        self.advanced_at.append((self.clock.now - NOW).total_seconds())
        return await self._watched("advance_replays", partial(super().advance_replays, now=now))


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[ReplayingInbox]:
    inbox = ReplayingInbox(tmp_path / "inbox.db")
    await inbox.open()
    yield inbox
    await inbox.close()


async def test_a_replay_is_delivered_at_its_rate(inbox: ReplayingInbox) -> None:
    time = FakeTime(inbox, waiting=2)
    await put_jobs(inbox, 100)
    sink = ScriptedSink(concurrency=32)
    sent_at: list[float] = []
    sink.answer = lambda delivery: sent_at.append(time.now.timestamp()) if delivery.replay else None
    dispatcher = make_dispatcher(inbox, sink, time=time)
    replayer = Replayer(inbox, wait=time.wait)
    with structlog.testing.capture_logs():
        dispatcher.start()
        replayer.start()
        await inbox.until_ended("a", 100)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(), rate_per_s=10.0), now=time.now)
        replayer.wake()
        await inbox.until_ended("a", 200)
        await replayer.stop()
        await dispatcher.stop()
    assert len(sent_at) == 100
    assert {delivery.replay for delivery in sink.sent[100:]} == {1}
    assert 8.5 <= sent_at[-1] - sent_at[0] <= 11
    (replay,) = await inbox.list_replays(limit=10)
    assert (replay.state, replay.total, replay.done) == ("finished", 100, 100)


async def test_waking_begins_a_replay_at_once_and_otherwise_it_looks_now_and_then(inbox: ReplayingInbox) -> None:
    time = FakeTime(inbox)
    replayer = Replayer(inbox, wait=time.wait)
    replayer.start()
    await until(lambda: len(inbox.advanced_at) == 3)
    replayer.wake()
    await until(lambda: len(inbox.advanced_at) == 4)
    await replayer.stop()
    assert inbox.advanced_at[:3] == [0, POLL_S, 2 * POLL_S]
    assert inbox.advanced_at[3] == 2 * POLL_S


async def test_an_inbox_that_is_away_is_asked_again(inbox: ReplayingInbox) -> None:
    time = FakeTime(inbox)
    inbox.to_fail["advance_replays"] = 3
    replayer = Replayer(inbox, wait=time.wait)
    with structlog.testing.capture_logs() as logs:
        replayer.start()
        await until(lambda: len(inbox.advanced_at) == 5)
        await replayer.stop()
    assert inbox.advanced_at == [0, 1, 2, 3, 3 + POLL_S]
    assert [entry["event"] for entry in logs] == ["replay_failed"] * 3


@pytest.mark.parametrize(("wanted_s", "waited_s"), [(-5.0, 0.01), (0.0, 0.01), (7.0, 7.0), (3600.0, POLL_S)])
async def test_it_waits_as_long_as_the_inbox_says_within_bounds(wanted_s: float, waited_s: float) -> None:
    class Inbox:
        async def advance_replays(self) -> float:
            return wanted_s

    waits: list[float] = []

    async def wait(event: asyncio.Event, timeout_s: float) -> None:
        waits.append(timeout_s)
        await event.wait()

    replayer = Replayer(Inbox(), wait=wait)
    replayer.start()
    await until(lambda: waits)
    async with asyncio.timeout(PATIENCE_S):
        await replayer.stop()
        await replayer.stop()
    assert waits == [waited_s]


async def test_one_that_was_never_started_stops(inbox: ReplayingInbox) -> None:
    await Replayer(inbox).stop()
    assert inbox.advanced_at == []
