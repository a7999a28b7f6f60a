"""What tests of delivery share: sinks that do as told, an inbox that is watched, and time that passes by itself."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from media_callbacks.delivery.dispatcher import Destination, Dispatcher
from media_callbacks.inbox.records import AttemptResult
from media_callbacks.model.errors import InboxUnavailable, SinkError
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.base import Sink
from media_callbacks.timing.waiting import wait_for
from tests.inbox.conformance import NOW, make_event, make_receipt
from tests.inbox.timed import TimedSqliteInbox

PATIENCE_S = 180.0
_T = TypeVar("_T")


class Observer:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.results: list[tuple[str, str]] = []

    def attempt_finished(self, *, sink: str, result: str, duration_s: float, traceparent: str | None) -> None:
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
        timeout_s: float = 15.0,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.answer = answer
        self.sent: list[Delivery] = []
        self.batches: list[int] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        assert self.is_open
        assert 0 < len(deliveries) <= self.batch_size
        self.batches.append(len(deliveries))
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


class WatchedInbox(TimedSqliteInbox):
    """
    Says when deliveries have ended, and can be made to fail.

    Attributes:
        to_fail: How many calls shall fail, by the name of the method.
        claims: What was asked for at each claim, and what was got, by sink.
        held: How many deliveries are claimed and not recorded, by sink.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ended: Counter[str] = Counter()
        self.to_fail: Counter[str] = Counter()
        self.claims: dict[str, list[tuple[int, int]]] = {}
        self.records: list[list[AttemptResult]] = []
        self.held: Counter[str] = Counter()
        self.most_held: Counter[str] = Counter()
        self.time: FakeTime | None = None
        self._changed = asyncio.Condition()

    def _at(self, now: datetime | None) -> None:
        if self.time is None:
            super()._at(now)

    async def _watched(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if self.to_fail[name]:
            self.to_fail[name] -= 1
            raise InboxUnavailable("away")
        if self.time is None:
            return await call()
        self.time.begun()
        try:
            return await call()
        finally:
            self.time.ended()

    async def claim(self, sink: str, **arguments: Any) -> Sequence[Delivery]:
        claimed = await self._watched("claim", partial(super().claim, sink, **arguments))
        self.claims.setdefault(sink, []).append((arguments["limit"], len(claimed)))
        self.held[sink] += len(claimed)
        self.most_held[sink] = max(self.most_held[sink], self.held[sink])
        return claimed

    async def record(self, results: Sequence[AttemptResult], *, now: datetime | None = None) -> Sequence[bool]:
        kept = await self._watched("record", partial(super().record, results, now=now))
        self.records.append(list(results))
        async with self._changed:
            for result in results:
                self.held[result.delivery.sink] -= 1
                if result.state in ("delivered", "dead"):
                    self.ended[result.delivery.sink] += 1
            self._changed.notify_all()
        return kept

    async def due_in_s(self, sink: str) -> float | None:
        return await self._watched("due_in_s", partial(super().due_in_s, sink))

    async def set_sink_state(self, name: str, *arguments: Any, **more: Any) -> None:
        await self._watched("set_sink_state", partial(super().set_sink_state, name, *arguments, **more))

    async def until_ended(self, sink: str, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.ended[sink] >= count)


class FakeTime:
    """
    Time that passes when there is nothing else to do: it then moves to the next moment that somebody waits for.

    Args:
        inbox: Time stands while it works.
        waiting: How many waits there are when there is nothing else to do: one for each sink, one for a replayer.
    """

    def __init__(self, inbox: WatchedInbox, *, waiting: int = 1) -> None:
        self._inbox = inbox
        self.now = NOW
        self._working = 0
        self.waits_needed = waiting
        self._waits: list[tuple[datetime, asyncio.Event, asyncio.Event]] = []
        self._look: asyncio.Task[None] | None = None
        inbox.time = self

    @property
    def now(self) -> datetime:
        return self._inbox.clock.now

    @now.setter
    def now(self, now: datetime) -> None:
        self._inbox.clock.now = now

    def clock(self) -> datetime:
        return self.now

    def unix_time(self) -> float:
        return self.now.timestamp()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        up = asyncio.Event()
        wait = (self.now + timedelta(seconds=timeout_s), event, up)
        self._waits.append(wait)
        self.look()
        tasks = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(up.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            if wait in self._waits:
                self._waits.remove(wait)

    async def pass_(self, seconds: float) -> None:
        await self.wait(asyncio.Event(), seconds)

    def begun(self) -> None:
        self._working += 1

    def ended(self) -> None:
        self._working -= 1
        self.look()

    def look(self) -> None:
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._look_on())

    async def _look_on(self) -> None:
        for _ in range(8):  # what has just ended leads to more
            await asyncio.sleep(0)
            if (
                self._working
                or len(self._waits) < self.waits_needed
                or any(event.is_set() for _, event, _ in self._waits)
            ):
                return
        earliest = min(self._waits, key=lambda wait: wait[0])
        self._waits.remove(earliest)
        self.now = max(self.now, earliest[0])
        earliest[2].set()


class TimedSink:
    """Another sink, during whose attempts the time stands."""

    def __init__(self, sink: Sink, time: FakeTime) -> None:
        self.name, self.batch_size = sink.name, sink.batch_size
        self.concurrency, self.timeout_s = sink.concurrency, sink.timeout_s
        self.open, self.close = sink.open, sink.close
        self._sink, self._time = sink, time

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        self._time.begun()
        try:
            return await self._sink.send(deliveries)
        finally:
            self._time.ended()


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():  # noqa: ASYNC110 - there is nothing to wait for but what the code does next
            await asyncio.sleep(0)


async def put_jobs(inbox: TimedSqliteInbox, count: int, *, sinks: tuple[str, ...] = ("a",), at: datetime = NOW) -> None:
    await asyncio.gather(*(inbox.put(make_receipt(make_event(f"job-{n}"), sinks=sinks, at=at)) for n in range(count)))


def make_dispatcher(
    inbox: TimedSqliteInbox,
    *destinations: Sink | Destination,
    observer: Observer | None = None,
    time: FakeTime | None = None,
    stop_timeout_s: float = PATIENCE_S,
) -> Dispatcher:
    found = [one if isinstance(one, Destination) else Destination(one) for one in destinations]
    if time is not None:
        found = [Destination(TimedSink(one.sink, time), one.delays_s, one.rate_per_s) for one in found]
    return Dispatcher(
        inbox,
        found,
        clock=time.clock if time else lambda: NOW,
        elapsed=time.unix_time if time else lambda: 0.0,
        rng=Random(1),
        observer=observer or Observer(),
        stop_timeout_s=stop_timeout_s,
        wait=time.wait if time else wait_for,
    )
