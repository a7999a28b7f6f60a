"""
The dispatcher carries events to the sinks: claim, send, record.

Each sink has its own task, its own claims and its own attempts, so that none can delay another. At most
``concurrency * batch_size`` deliveries of a sink are in memory; the rest wait in the inbox. What keeps us honest when
the process dies at any line: a delivery that was claimed and not recorded is claimed again when its lease ends (or at
the next start), so the sink may see it twice, with the same id, and never not at all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Literal, Protocol

import structlog

from service.errors import InboxUnavailable, SinkError, SinkRejected, SinkRetry
from service.events import Delivery
from service.inbox.base import AttemptResult, Inbox
from service.retry import DELAYS_S, next_delay_s
from service.sinks.base import Sink

# A lease ends this long after the longest attempt could have, so that recording in time is the rule.
LEASE_MARGIN_S = 5.0
# How often an idle sink looks at the inbox although nobody has said that something came.
POLL_S = 5.0
# After the inbox failed, before it is asked again.
INBOX_RETRY_S = 1.0

log = structlog.get_logger()


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or when the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


class AttemptObserver(Protocol):
    """Told about every attempt, for metrics."""

    def attempt_finished(
        self, *, sink: str, result: Literal["delivered", "retrying", "dead", "lost"], duration_s: float
    ) -> None: ...


class Dispatcher:
    """
    Args:
        clock: The time in UTC.
        wait: How to wait for an event with a time-out in seconds.
        rng: Where jitter comes from.
        stop_timeout_s: How long attempts in flight may go on after ``stop``.
    """

    def __init__(
        self,
        inbox: Inbox,
        sinks: Iterable[Sink],
        *,
        clock: Callable[[], datetime],
        rng: Random,
        observer: AttemptObserver,
        stop_timeout_s: float,
        delays_s: Sequence[float] = DELAYS_S,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] = wait_for,
    ) -> None:
        self._inbox = inbox
        self._stop_timeout_s = stop_timeout_s
        self._workers = {
            sink.name: _SinkWorker(inbox, sink, clock=clock, rng=rng, observer=observer, delays_s=delays_s, wait=wait)
            for sink in sinks
        }

    def start(self) -> None:
        """Begin to deliver. Each sink is opened by its own task, so that none delays the start."""
        self._inbox.listen(self._wake)
        for worker in self._workers.values():
            worker.start()

    def _wake(self, sinks: Collection[str]) -> None:
        for sink in sinks:
            worker = self._workers.get(sink)
            if worker is not None:
                worker.wake()

    async def stop(self) -> None:
        """Claim nothing more, let attempts in flight finish for a bounded time, give the rest back. May come twice."""
        await asyncio.gather(*(worker.stop(self._stop_timeout_s) for worker in self._workers.values()))
        for worker in self._workers.values():
            await worker.sink.close()


class _SinkWorker:
    """Everything about one sink."""

    def __init__(
        self,
        inbox: Inbox,
        sink: Sink,
        *,
        clock: Callable[[], datetime],
        rng: Random,
        observer: AttemptObserver,
        delays_s: Sequence[float],
        wait: Callable[[asyncio.Event, float], Awaitable[None]],
    ) -> None:
        self.sink = sink
        self._inbox = inbox
        self._clock = clock
        self._rng = rng
        self._observer = observer
        self._delays_s = delays_s
        self._wait = wait
        self._in_flight: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"sink-{self.sink.name}")

    def wake(self) -> None:
        self._changed.set()

    async def _run(self) -> None:
        try:
            await self.sink.open()
        except Exception as error:  # noqa: BLE001 - attempts will say what is wrong, and are tried again
            log.error("sink_not_opened", sink=self.sink.name, error=f"{type(error).__name__}: {error}")
        capacity = self.sink.concurrency
        while not self._stopping:
            self._changed.clear()
            free = capacity - len(self._in_flight)
            # Claiming for half of the places at least keeps claims few when the sink is fast.
            wait_s = POLL_S
            if free * 2 >= capacity:
                try:
                    wait_s = await self._claim(free * self.sink.batch_size)
                except Exception as error:  # noqa: BLE001 - deliveries must go on after whatever it was
                    log.error("claim_failed", sink=self.sink.name, error=f"{type(error).__name__}: {error}")
                    wait_s = INBOX_RETRY_S
            if wait_s > 0 and not self._stopping:
                await self._wait(self._changed, wait_s)

    async def _claim(self, limit: int) -> float:
        """Start attempts for what is due. Returns how long to wait before looking again, unless woken."""
        lease_s = self.sink.timeout_s + LEASE_MARGIN_S
        deliveries = await self._inbox.claim(self.sink.name, limit=limit, now=self._clock(), lease_s=lease_s)
        if self._stopping:
            await self._inbox.record([AttemptResult(d, "pending") for d in deliveries], now=self._clock())
            return 0.0
        for start in range(0, len(deliveries), self.sink.batch_size):
            task = asyncio.create_task(self._attempt(deliveries[start : start + self.sink.batch_size]))
            self._in_flight.add(task)
            task.add_done_callback(self._finished)
        if len(deliveries) == limit:
            return 0.0 if self._has_room() else POLL_S
        next_due_at = await self._inbox.next_due_at(self.sink.name)
        if next_due_at is None:
            return POLL_S
        return min(max((next_due_at - self._clock()).total_seconds(), 0.01), POLL_S)

    def _has_room(self) -> bool:
        return (self.sink.concurrency - len(self._in_flight)) * 2 >= self.sink.concurrency

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        if self._has_room():
            self._changed.set()

    async def _attempt(self, deliveries: Sequence[Delivery]) -> None:
        started = time.perf_counter()
        results: list[AttemptResult]
        try:
            errors = await self.sink.send(deliveries)
        except asyncio.CancelledError:
            # Stopped in mid-attempt: whether it arrived is unknown, so it stays due.
            await self._record([AttemptResult(delivery, "pending") for delivery in deliveries], started)
            raise
        except Exception as error:  # noqa: BLE001 - a sink written by others must not end its worker
            log.error("sink_failed", sink=self.sink.name, error=type(error).__name__)
            errors = [SinkRetry(f"the sink failed: {type(error).__name__}")] * len(deliveries)
        results = [self._decide(delivery, error) for delivery, error in zip(deliveries, errors, strict=True)]
        await self._record(results, started)

    def _decide(self, delivery: Delivery, error: SinkError | None) -> AttemptResult:
        if error is None:
            return AttemptResult(delivery, "delivered")
        message = str(error)[:500]
        if isinstance(error, SinkRejected):
            return AttemptResult(delivery, "dead", error=message)
        delay_s = next_delay_s(
            delivery.attempt,
            rng=self._rng,
            retry_after_s=error.retry_after_s if isinstance(error, SinkRetry) else None,
            delays_s=self._delays_s,
        )
        if delay_s is None:
            return AttemptResult(delivery, "dead", error=message)
        return AttemptResult(delivery, "retrying", due_at=self._clock() + timedelta(seconds=delay_s), error=message)

    async def _record(self, results: Sequence[AttemptResult], started: float) -> None:
        duration_s = time.perf_counter() - started
        try:
            kept = await self._inbox.record(results, now=self._clock())
        except InboxUnavailable as error:
            # The lease ends by itself and the delivery is made again, with the same id.
            log.warning("record_failed", sink=self.sink.name, error=str(error))
            return
        for result, was_ours in zip(results, kept, strict=True):
            if result.state == "pending":
                continue
            self._observer.attempt_finished(
                sink=self.sink.name, result=result.state if was_ours else "lost", duration_s=duration_s
            )
            log.info(
                "attempt",
                sink=self.sink.name,
                event_id=result.delivery.event_id,
                attempt=result.delivery.attempt,
                result=result.state if was_ours else "lost",
                duration_ms=round(duration_s * 1000, 1),
                **({"error": result.error, "due_at": result.due_at} if result.error else {}),
            )

    async def stop(self, timeout_s: float) -> None:
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            await self._task
        if self._in_flight:
            _, late = await asyncio.wait(set(self._in_flight), timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
