import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from service.dispatcher import Dispatcher, wait_for
from service.errors import InboxUnavailable, SinkError, SinkRejected, SinkRetry
from service.events import Delivery
from service.inbox.base import AttemptResult
from service.inbox.sqlite import SqliteInbox
from service.retry import DELAYS_S
from tests.inbox.conformance import NOW, make_event, make_receipt

PATIENCE_S = 20.0


class Observer:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.results: list[tuple[str, str]] = []

    def attempt_finished(self, *, sink: str, result: str, duration_s: float) -> None:
        assert duration_s >= 0
        self.results.append((sink, result))


class ScriptedSink:
    """A sink that does with each delivery what the test says."""

    def __init__(
        self,
        name: str = "a",
        answer: Callable[[Delivery], Any] = lambda _: None,
        *,
        batch_size: int = 1,
        concurrency: int = 4,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.timeout_s = 15.0
        self.answer = answer
        self.sent: list[Delivery] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        assert self.is_open
        assert 0 < len(deliveries) <= self.batch_size
        self.in_flight += len(deliveries)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answers = []
            for delivery in deliveries:
                self.sent.append(delivery)
                answer = self.answer(delivery)
                answers.append(await answer if asyncio.iscoroutine(answer) else answer)
            return answers
        finally:
            self.in_flight -= len(deliveries)

    async def close(self) -> None:
        assert not self.in_flight
        self.is_open = False


class WatchedInbox(SqliteInbox):
    """Says when deliveries have ended, and can be made to fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ended: dict[str, int] = {}
        self.claims_to_fail = 0
        self._changed = asyncio.Condition()

    async def claim(self, sink: str, **arguments: Any) -> Sequence[Delivery]:
        if self.claims_to_fail:
            self.claims_to_fail -= 1
            raise InboxUnavailable("away")
        return await super().claim(sink, **arguments)

    async def record(self, results: Sequence[AttemptResult], *, now: datetime) -> Sequence[bool]:
        kept = await super().record(results, now=now)
        async with self._changed:
            for result in results:
                if result.state in ("delivered", "dead"):
                    self.ended[result.delivery.sink] = self.ended.get(result.delivery.sink, 0) + 1
            self._changed.notify_all()
        return kept

    async def until_ended(self, sink: str, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.ended.get(sink, 0) >= count)


class FakeTime:
    """Time that passes when there is nothing else to do. For one sink."""

    def __init__(self, sink: ScriptedSink) -> None:
        self.now = NOW
        self._sink = sink
        self.dispatcher: Any = None

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        if self.dispatcher._workers[self._sink.name]._in_flight:
            await wait_for(event, PATIENCE_S)
        else:
            await asyncio.sleep(0)
            self.now += timedelta(seconds=timeout_s)


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[WatchedInbox]:
    inbox = WatchedInbox(tmp_path / "inbox.db")
    await inbox.open()
    yield inbox
    await inbox.close()


async def put_jobs(inbox: SqliteInbox, count: int, *, sinks: tuple[str, ...] = ("a",)) -> None:
    await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n}"), sinks=sinks)) for n in range(count)))


def make_dispatcher(
    inbox: SqliteInbox, *sinks: ScriptedSink, observer: Observer | None = None, **arguments: Any
) -> Dispatcher:
    return Dispatcher(
        inbox,
        sinks,
        clock=arguments.pop("clock", lambda: NOW),
        rng=Random(1),
        observer=observer or Observer(),
        stop_timeout_s=arguments.pop("stop_timeout_s", PATIENCE_S),
        **arguments,
    )


async def test_what_waits_and_what_comes_is_delivered_to_each_sink(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 3, sinks=("a", "b"))
    a, b, observer = ScriptedSink("a"), ScriptedSink("b", batch_size=10), Observer()
    dispatcher = make_dispatcher(inbox, a, b, observer=observer)
    dispatcher.start()
    await put_jobs(inbox, 60, sinks=("a", "b"))
    await inbox.until_ended("a", 60)
    await inbox.until_ended("b", 60)
    await dispatcher.stop()
    for sink in (a, b):
        assert len({delivery.event_id for delivery in sink.sent}) == len(sink.sent) == 60
        assert not sink.is_open
    assert sorted(observer.results) == [("a", "delivered")] * 60 + [("b", "delivered")] * 60


async def test_no_more_is_in_memory_than_the_sink_can_take(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 200)
    sink = ScriptedSink(batch_size=5, concurrency=3, answer=lambda _: asyncio.sleep(0))
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await inbox.until_ended("a", 200)
    await dispatcher.stop()
    assert sink.most_in_flight <= 15


async def test_a_sink_that_hangs_changes_nothing_for_another(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 50, sinks=("hangs", "well"))
    forever = asyncio.Event()
    hangs, well = ScriptedSink("hangs", lambda _: forever.wait()), ScriptedSink("well")
    dispatcher = make_dispatcher(inbox, hangs, well, stop_timeout_s=0.0)
    dispatcher.start()
    await inbox.until_ended("well", 50)
    assert len(hangs.sent) == hangs.concurrency
    await dispatcher.stop()
    assert await inbox.count_deliveries() == {("hangs", "pending"): 50}, "cut short, so still due"
    assert len(await inbox.claim("hangs", limit=100, now=NOW, lease_s=1)) == 50, "and the leases were given back"


async def test_attempts_follow_the_schedule_and_end_dead(inbox: WatchedInbox) -> None:
    sink = ScriptedSink(answer=lambda _: SinkRetry("answered 500"))
    time = FakeTime(sink)
    attempted_at: list[datetime] = []

    def fail(_: Delivery) -> SinkError:
        attempted_at.append(time.now)
        return SinkRetry("answered 500")

    sink.answer = fail
    await put_jobs(inbox, 1)
    observer = Observer()
    dispatcher = make_dispatcher(inbox, sink, clock=lambda: time.now, wait=time.wait, observer=observer)
    time.dispatcher = dispatcher
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()
    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(attempted_at)]
    assert len(gaps) == len(DELAYS_S)
    for gap, delay in zip(gaps, DELAYS_S, strict=True):
        # Polling adds at most the time between two looks at the clock.
        assert delay * 0.8 - 0.01 <= gap <= delay * 1.2 + 0.1
    assert [delivery.attempt for delivery in sink.sent] == list(range(1, 13))
    assert observer.results == [("a", "retrying")] * 11 + [("a", "dead")]
    assert await inbox.count_deliveries() == {("a", "dead"): 1}


async def test_retry_after_is_waited_for(inbox: WatchedInbox) -> None:
    sink = ScriptedSink()
    time = FakeTime(sink)
    attempted_at: list[datetime] = []

    def ask_for_an_hour(_: Delivery) -> SinkError | None:
        attempted_at.append(time.now)
        return SinkRetry("answered 503", retry_after_s=3600) if len(attempted_at) == 1 else None

    sink.answer = ask_for_an_hour
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, sink, clock=lambda: time.now, wait=time.wait)
    time.dispatcher = dispatcher
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()
    assert 3600 <= (attempted_at[1] - attempted_at[0]).total_seconds() < 3601


async def test_what_can_never_work_is_dead_at_once_and_releases_the_next_outcome(inbox: WatchedInbox) -> None:
    failed, succeeded = make_event(outcome="failed"), make_event()
    await inbox.put(make_receipt(failed))
    await inbox.put(make_receipt(succeeded))
    sink = ScriptedSink(answer=lambda d: SinkRejected("too large") if d.event_id == failed.id else None)
    observer = Observer()
    dispatcher = make_dispatcher(inbox, sink, observer=observer)
    dispatcher.start()
    await inbox.until_ended("a", 2)
    await dispatcher.stop()
    assert [delivery.event_id for delivery in sink.sent] == [failed.id, succeeded.id]
    assert observer.results == [("a", "dead"), ("a", "delivered")]


async def test_partial_failure_of_a_batch_retries_only_what_failed(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 10)
    refused = make_event("job-3").id
    sink = ScriptedSink(
        batch_size=10, answer=lambda d: SinkRetry("throttled") if d.event_id == refused and d.attempt == 1 else None
    )
    time = FakeTime(sink)
    dispatcher = make_dispatcher(inbox, sink, clock=lambda: time.now, wait=time.wait)
    time.dispatcher = dispatcher
    dispatcher.start()
    await inbox.until_ended("a", 10)
    await dispatcher.stop()
    assert len(sink.sent) == 11
    assert sink.sent[-1].event_id == refused


async def test_a_sink_that_raises_is_tried_again(inbox: WatchedInbox) -> None:
    def explode(_: Delivery) -> None:
        raise ZeroDivisionError

    sink = ScriptedSink(answer=explode)
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, sink, delays_s=[])
    with structlog.testing.capture_logs() as logs:
        dispatcher.start()
        await inbox.until_ended("a", 1)
        await dispatcher.stop()
    assert [entry for entry in logs if entry["event"] == "sink_failed"]
    assert [entry["error"] for entry in logs if entry["event"] == "attempt"] == ["the sink failed: ZeroDivisionError"]


async def test_an_inbox_that_is_away_is_asked_again(inbox: WatchedInbox) -> None:
    inbox.claims_to_fail = 2
    await put_jobs(inbox, 1)
    sink = ScriptedSink()
    time = FakeTime(sink)
    dispatcher = make_dispatcher(inbox, sink, clock=lambda: time.now, wait=time.wait)
    time.dispatcher = dispatcher
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()


async def test_stop_lets_attempts_in_flight_finish_and_claims_nothing_more(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 10)
    started, finish = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        started.set()
        await finish.wait()

    sink = ScriptedSink(answer=lambda _: hold(), concurrency=2)
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await started.wait()
    stopping = asyncio.ensure_future(dispatcher.stop())
    await asyncio.sleep(0)
    finish.set()
    await stopping
    assert inbox.ended == {"a": len(sink.sent)}
    assert len(sink.sent) <= 2
    assert await inbox.count_deliveries() == {("a", "pending"): 10 - len(sink.sent)}


async def test_every_attempt_is_one_log_line(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, ScriptedSink())
    with structlog.testing.capture_logs() as logs:
        dispatcher.start()
        await inbox.until_ended("a", 1)
        await dispatcher.stop()
    (line,) = logs
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "attempt",
        "log_level": "info",
        "sink": "a",
        "event_id": make_event("job-0").id,
        "attempt": 1,
        "result": "delivered",
    }
