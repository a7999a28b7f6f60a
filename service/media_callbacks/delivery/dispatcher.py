"""
The dispatcher carries events to the sinks: claim, send, record.

Each sink has its own worker, so that none can delay another: one task claims, up to ``concurrency`` tasks attempt, and
one records. While attempts run, the next deliveries are claimed; while results are being written, the next results
gather; so claims and records are few when a sink is fast. Each sink has its own circuit breaker, rate limit and
adaptive concurrency. Only a fixed number of deliveries is in memory; the rest wait in the inbox.

What keeps us honest when the process dies at any line: a delivery that was claimed and not recorded is claimed again
when its lease ends (or at the next start), so the sink may see it twice, with the same id, and never not at all.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, Literal, Protocol, cast

import structlog

from media_callbacks.delivery.breaker import Breaker, BreakerState
from media_callbacks.inbox.records import RETRIED, AttemptResult, AttemptWord
from media_callbacks.inbox.roles import DeliveryQueue
from media_callbacks.model.errors import SinkError, SinkGone, SinkRejected, SinkRetry
from media_callbacks.model.events import Delivery, trace_id_of
from media_callbacks.model.identity import is_operational
from media_callbacks.sinks.base import Sink
from media_callbacks.timing.loop import Loop, seconds_until
from media_callbacks.timing.retry import DELAYS_S, next_delay_s
from media_callbacks.timing.throttle import MAX_PAUSE_S, AdaptiveConcurrency, Pause, RateLimit
from media_callbacks.timing.waiting import Wait, finish, seconds_since_boot, wait_for

# A lease lasts for the sink's timeout_s and this: room for the two times below and for recording, so that recording in
# time is the rule.
LEASE_MARGIN_S = 5.0
# How long a claimed delivery may wait for its attempt to begin. Older ones are given back.
MAX_WAIT_CLAIMED_S = 1.0
# How much longer than it says a sink may take, before it is cut off.
SEND_GRACE_S = 1.0
# Claimed ahead is what the sink takes in this time, and never more than this many deliveries.
AHEAD_S = 0.5
MAX_AHEAD = 512
# Of events in memory, for each sink: one event may have four megabytes.
MAX_HELD_BYTES = 64 * 2**20
# Results in a transaction that are not waited for any longer.
FULL_RECORD = 256
# How often an idle sink looks at the inbox although nobody has said that something came.
POLL_S = 5.0
# After the inbox failed, before it is asked again.
INBOX_RETRY_S = 1.0
# How long a sink may take to close.
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Destination:
    """
    A sink, and how it is to be fed.

    Attributes:
        delays_s: Seconds before the second attempt, the third and so on; after the last one the delivery is dead.
        rate_per_s: Events per second at most; None for no limit.
    """

    sink: Sink
    delays_s: Sequence[float] = DELAYS_S
    rate_per_s: float | None = None


class AttemptObserver(Protocol):
    """Told about every attempt, for metrics."""

    def attempt_finished(
        self, *, sink: str, result: AttemptWord, duration_s: float, traceparent: str | None
    ) -> None: ...


class SendTracer(Protocol):
    """Told about every attempt, for traces."""

    def begin_send(self, delivery: Delivery) -> Delivery:
        """The delivery as it is sent: with a trace context of its own where it is traced."""
        ...

    def sent(self, result: AttemptResult, error: BaseException | None) -> None:
        """What an attempt came to, and with which error; ``result.delivery`` is as it was sent."""
        ...


class Dispatcher:
    """
    Args:
        tracer: None where nothing is traced.
        clock: The time in UTC, for the record.
        elapsed: Seconds of a clock that nobody sets.
        wait: How to wait for an event with a time-out in seconds.
        rng: Where jitter comes from.
        stop_timeout_s: How long attempts in flight may go on after ``stop``.
    """

    def __init__(
        self,
        inbox: DeliveryQueue,
        destinations: Iterable[Destination],
        *,
        clock: Callable[[], datetime],
        rng: Random,
        observer: AttemptObserver,
        stop_timeout_s: float,
        tracer: SendTracer | None = None,
        elapsed: Callable[[], float] = seconds_since_boot,
        wait: Wait = wait_for,
    ) -> None:
        self._inbox = inbox
        self._stop_timeout_s = stop_timeout_s
        self._workers = {
            destination.sink.name: _SinkWorker(
                inbox, destination, clock=clock, elapsed=elapsed, rng=rng, observer=observer, tracer=tracer, wait=wait
            )
            for destination in destinations
        }

    def start(self) -> None:
        """Begin to deliver. Each sink is opened by its own task, so that none delays the start."""
        self._inbox.listen(self._wake)
        for worker in self._workers.values():
            worker.start()

    def breaker_states(self) -> Mapping[str, BreakerState]:
        """The state of each sink's circuit breaker, by the sink's name."""
        return {name: worker.breaker.state for name, worker in self._workers.items()}

    def count_died(self) -> Mapping[str, int]:
        """How many deliveries of events of jobs were given up since the start, by the sink's name."""
        return {name: worker.died for name, worker in self._workers.items()}

    def _wake(self, sinks: Collection[str]) -> None:
        for sink in sinks:
            worker = self._workers.get(sink.removeprefix(RETRIED))
            if worker is None:
                continue
            if sink.startswith(RETRIED):
                worker.try_now()
            worker.wake()

    async def stop(self) -> None:
        """Claim nothing more, let attempts in flight finish for a bounded time, give the rest back. May come twice."""
        await asyncio.gather(*(worker.stop(self._stop_timeout_s) for worker in self._workers.values()))


# A delivery in our hands, and when its lease began at the earliest, in seconds of ``elapsed``. There is one for every
# delivery, and with a name it would take five times as long to make.
_Claimed = tuple[Delivery, float]


class _SinkWorker:
    """Everything about one sink."""

    def __init__(
        self,
        inbox: DeliveryQueue,
        destination: Destination,
        *,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float],
        rng: Random,
        observer: AttemptObserver,
        tracer: SendTracer | None,
        wait: Wait,
    ) -> None:
        sink = self._sink = destination.sink
        # Bound once: the lazy logger would be made anew for every line.
        self._log = structlog.get_logger().bind(sink=sink.name)
        self._delays_s = destination.delays_s
        self._inbox = inbox
        self._clock = clock
        self._elapsed = elapsed
        self._rng = rng
        self._observer = observer
        self._tracer = tracer
        self._wait = wait
        self._lease_s = sink.timeout_s + LEASE_MARGIN_S

        # Deliveries that were given up, apart from those of operational events: these must not cause themselves.
        self.died = 0
        self.breaker = Breaker()
        self._concurrency = AdaptiveConcurrency(sink.concurrency)
        self._rate = None if destination.rate_per_s is None else RateLimit(destination.rate_per_s)
        self._pause = Pause()
        # Why the sink is to be disabled, until the inbox knows.
        self._gone: str | None = None
        # Whether the inbox takes no results, though it may give out deliveries, as on a full disk.
        self._is_unrecorded = False
        # Seconds that a `send` has taken lately; infinite until one has ended, so that nothing is claimed ahead.
        self._usual_s = math.inf

        # A delivery that was claimed is waiting, being attempted, or finished; `_held` counts all three.
        self._held = self._held_bytes = 0
        self._waiting: deque[_Claimed] = deque()
        self._attempts: set[asyncio.Task[None]] = set()
        self._finished: list[AttemptResult] = []

        # Whether more may be due than the latest claim has brought.
        self._has_more = False
        # Or at least tried to: it is done by the first step.
        self._was_opened = False
        self._claimer = Loop(
            self._claim_next,
            name=f"sink-{sink.name}",
            failure="claim_failed",
            retry_s=INBOX_RETRY_S,
            wait=wait,
            sink=sink.name,
        )
        self._may_record = asyncio.Event()
        self._is_drained = False
        self._recorder: asyncio.Task[None] | None = None

    # Life

    def start(self) -> None:
        self._claimer.start()
        self._recorder = asyncio.create_task(self._record_on(), name=f"sink-{self._sink.name}-recorder")

    def wake(self) -> None:
        self._claimer.wake()

    def try_now(self) -> None:
        """
        An operator says that the sink is well again, whatever it has answered. If he is wrong, it must not cost every
        event that waits one of its attempts.
        """
        self.breaker.try_now()
        self._pause.end()

    async def stop(self, timeout_s: float) -> None:
        await self._claimer.stop()
        self._give_back()
        await finish(self._attempts, timeout_s)
        self._is_drained = True
        self._may_record.set()
        if self._recorder is not None:
            await self._recorder
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._sink.close()
        except Exception as error:  # noqa: BLE001 - everything is recorded, and the others are to be closed too
            self._log.error("sink_not_closed", error=f"{type(error).__name__}: {error}")

    # Claiming

    async def _claim_next(self) -> float:
        if self._was_opened:
            return await self._claim()
        self._was_opened = True
        try:
            async with asyncio.timeout(self._sink.timeout_s):
                await self._sink.open()
        except Exception as error:  # noqa: BLE001 - attempts will say what is wrong, and are tried again
            self._log.error("sink_not_opened", error=f"{type(error).__name__}: {error}")
        return 0.0

    async def _claim(self) -> float:
        """Claim what is due and may be sent. Returns how long to wait before doing so again, unless woken."""
        now = self._elapsed()
        limit, wait_s = self._allowance(now)
        if limit == 0:
            return wait_s
        is_probe = self.breaker.state == "open"
        deliveries = await self._inbox.claim(
            self._sink.name, limit=limit, max_bytes=MAX_HELD_BYTES - self._held_bytes, lease_s=self._lease_s
        )
        self._held += len(deliveries)
        self._held_bytes += sum([len(delivery.body) for delivery in deliveries])
        self._has_more = len(deliveries) == limit or self._held_bytes > MAX_HELD_BYTES // 2
        if self._rate is not None:
            self._rate.take(len(deliveries))
        self._waiting.extend([(delivery, now) for delivery in deliveries])
        # Attempts have ended meanwhile, and may have changed what is allowed.
        if self._claimer.stopping.is_set() or self._blocked_s(now) or (self.breaker.state == "open" and not is_probe):
            self._give_back()
            return 0.0
        if is_probe and deliveries:
            self.breaker.probe_sent()
        self._begin_attempts()
        if self._has_more or self._claimer.is_woken:
            return 0.0
        return seconds_until(await self._inbox.due_in_s(self._sink.name), poll_s=POLL_S)

    def _allowance(self, now: float) -> tuple[int, float]:
        """How many deliveries may be claimed; if none, the seconds to wait before asking again, unless woken."""
        if blocked_s := self._blocked_s(now):
            return 0, blocked_s
        limit = 1 if self.breaker.state == "open" else self._room()
        if limit and self._rate is not None:
            limit = min(limit, self._rate.available(now=now))
            if limit == 0:
                return 0, self._rate.wait_s()
        return limit, POLL_S

    def _blocked_s(self, now: float) -> float:
        """How long nothing at all may be claimed, unless woken."""
        if self._gone is not None or self._is_unrecorded or self.breaker.state == "half_open":
            return POLL_S
        return max(self._pause.left_s(now=now), self.breaker.wait_s(now=now))

    def _room(self) -> int:
        """How many deliveries fit: none while half of what was claimed ahead still waits, so that claims are few."""
        if self._held_bytes >= MAX_HELD_BYTES:
            return 0
        at_once = self._concurrency.limit * self._sink.batch_size
        # A rate is one of attempts, and what is claimed ahead might begin all at once.
        ahead = 0 if self._rate is not None else int(min(at_once * AHEAD_S / self._usual_s, MAX_AHEAD))
        return 0 if len(self._waiting) > ahead // 2 else max(at_once + ahead - self._held, 0)

    def _give_back(self) -> None:
        """Nothing of what was claimed is to be attempted now."""
        self._finish([AttemptResult(delivery, "pending") for delivery, _ in self._waiting])
        self._waiting.clear()

    # Attempts

    def _begin_attempts(self) -> None:
        while len(self._attempts) < self._concurrency.limit and (deliveries := self._take()):
            self._attempts.add(asyncio.create_task(self._attempt_on(deliveries)))

    def _take(self) -> list[Delivery]:
        """The next deliveries to send together, oldest first; none when none waits."""
        taken: list[Delivery] = []
        oldest_at = self._elapsed() - MAX_WAIT_CLAIMED_S
        while self._waiting and len(taken) < self._sink.batch_size:
            delivery, at = self._waiting.popleft()
            if at >= oldest_at:
                taken.append(delivery)
            else:  # its lease might end before the attempt does
                self._finish([AttemptResult(delivery, "pending")])
                self.breaker.undecided()
        return taken

    async def _attempt_on(self, deliveries: Sequence[Delivery]) -> None:
        """Attempt, then go on with what waits: one task serves many deliveries as long as there are any."""
        try:
            while deliveries:
                await self._attempt(deliveries)
                # More than the limit, this task among them, when it was lowered just now.
                deliveries = self._take() if len(self._attempts) <= self._concurrency.limit else []
        finally:
            # Not in a callback, which would come when somebody has already counted this task as one that goes on.
            self._attempts.discard(cast(asyncio.Task[None], asyncio.current_task()))

    async def _attempt(self, deliveries: Sequence[Delivery]) -> None:
        begun_in = self._concurrency.round
        if self._tracer is not None:
            deliveries = [self._tracer.begin_send(delivery) for delivery in deliveries]
        started_at, started = self._clock(), time.perf_counter()
        try:
            errors = await self._send(deliveries)
        except asyncio.CancelledError as error:
            # Stopped in mid-attempt: whether it arrived is unknown, so it stays due.
            duration_s = time.perf_counter() - started
            results = [
                AttemptResult(delivery, "pending", started_at=started_at, duration_s=duration_s)
                for delivery in deliveries
            ]
            self._finish(results)
            self._trace(results, [error] * len(results))
            raise
        duration_s = time.perf_counter() - started
        self._usual_s = duration_s if self._usual_s == math.inf else 0.9 * self._usual_s + 0.1 * duration_s
        self._learn(errors, begun_in=begun_in)
        results = [
            self._decide(delivery, error, started_at, duration_s)
            for delivery, error in zip(deliveries, errors, strict=True)
        ]
        self._finish(results)
        self._trace(results, errors)

    def _trace(self, results: Sequence[AttemptResult], errors: Sequence[BaseException | None]) -> None:
        if self._tracer is not None:
            for result, error in zip(results, errors, strict=True):
                self._tracer.sent(result, error)

    async def _send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        """What the sink answers, and a failure whenever it does not do what it should."""
        try:
            async with asyncio.timeout(self._sink.timeout_s + SEND_GRACE_S):
                errors = await self._sink.send(deliveries)
            count = len(deliveries)
            if len(errors) == count and (
                errors.count(None) == count or all(e is None or isinstance(e, SinkError) for e in errors)
            ):
                return errors
            problem = f"expected None or a SinkError for each of {count} deliveries"
        except TimeoutError:
            problem = f"no answer within its timeout_s, {self._sink.timeout_s:g} s"
        except Exception as error:  # noqa: BLE001 - a sink written by others must not end its worker
            problem = type(error).__name__
        self._log.error("sink_failed", error=problem)
        return [SinkRetry(f"the sink failed: {problem}")] * len(deliveries)

    def _decide(
        self, delivery: Delivery, error: SinkError | None, started_at: datetime, duration_s: float
    ) -> AttemptResult:
        if error is None:
            return AttemptResult(delivery, "delivered", started_at=started_at, duration_s=duration_s)
        delay_s = None
        if not isinstance(error, SinkRejected):
            retry_after_s = error.retry_after_s if isinstance(error, SinkRetry) else None
            delay_s = next_delay_s(
                delivery.attempt, rng=self._rng, retry_after_s=retry_after_s, delays_s=self._delays_s
            )
        return AttemptResult(
            delivery,
            "dead" if delay_s is None else "retrying",
            delay_s=delay_s or 0.0,
            error=str(error)[:500],
            started_at=started_at,
            duration_s=duration_s,
        )

    def _learn(self, errors: Sequence[SinkError | None], *, begun_in: int) -> None:
        """What an attempt says of the sink as a whole. One that succeeded in part is a success."""
        state_before, now = self.breaker.state, self._elapsed()
        if None in errors:
            self.breaker.succeeded()
            self._concurrency.succeeded()
            if state_before == "closed" and not any(errors):
                self._begin_attempts()
                return
        elif all(isinstance(error, SinkRejected) for error in errors):
            self.breaker.undecided()
        else:
            self.breaker.failed(now=now)
        for error in errors:
            if isinstance(error, SinkRetry) and error.is_overload:
                self._concurrency.overloaded(begun_in=begun_in)
                self._pause.begin(min(error.retry_after_s or 0.0, MAX_PAUSE_S), now=now)
            if isinstance(error, SinkGone):
                self._gone = str(error)[:500]
        if self.breaker.state == "open" or self._blocked_s(now):
            self._give_back()
        if state_before != self.breaker.state:
            self._log.warning("breaker", state=self.breaker.state)
            self._claimer.wake()
        self._begin_attempts()

    # Recording

    def _finish(self, finished: Iterable[AttemptResult]) -> None:
        self._finished.extend(finished)
        self._may_record.set()

    async def _record_on(self) -> None:
        while not self._is_drained or self._finished:
            await self._may_record.wait()
            # As long as each turn of the event loop brings more: the larger a transaction, the less each result takes.
            gathered = 0
            while gathered < len(self._finished) < FULL_RECORD:
                gathered = len(self._finished)
                await asyncio.sleep(0)
            self._may_record.clear()
            finished, self._finished = self._finished, []
            if finished:
                await self._record(finished)
                self._held -= len(finished)
                self._held_bytes -= sum([len(result.delivery.body) for result in finished])
                self._wake_claimer(finished)

    def _wake_claimer(self, finished: Sequence[AttemptResult]) -> None:
        """There is room again, or something is due before the claimer would look by itself."""
        if (self._has_more and self._room()) or any(
            result.state == "pending" or (result.state == "retrying" and result.delay_s < POLL_S) for result in finished
        ):
            self._claimer.wake()

    async def _record(self, results: Sequence[AttemptResult]) -> None:
        """
        Write down what attempts came to. As long as that fails it is tried again, and nothing is claimed, which would
        be sent and not recorded either, again and again. When another instance has claimed one meanwhile, because its
        lease has ended, it is sent again, with the same id, and the inbox notes that this one was late.
        """
        while True:
            try:
                if self._gone is not None:
                    await self._disable(self._gone)
                kept = await self._inbox.record(results)
            except Exception as error:  # noqa: BLE001 - what comes later is to be recorded after whatever it was
                self._log.warning("record_failed", error=f"{type(error).__name__}: {error}")
                if self._claimer.stopping.is_set():
                    for result in results:
                        self._report(result, "unrecorded")
                    return
                self._is_unrecorded = True
                self._give_back()
                await self._wait(self._claimer.stopping, INBOX_RETRY_S)
            else:
                if self._is_unrecorded:
                    self._is_unrecorded = False
                    self._claimer.wake()
                for result, was_ours in zip(results, kept, strict=True):
                    self._report(result, None if was_ours else "late")
                return

    async def _disable(self, reason: str) -> None:
        """Before its deliveries are recorded, so that none of them is claimed again meanwhile."""
        await self._inbox.set_sink_state(self._sink.name, "disabled", reason=reason, changed_by="media-callbacks")
        self._gone = None
        self._log.error("sink_disabled", reason=reason)

    def _report(self, result: AttemptResult, trouble: Literal["late", "unrecorded"] | None) -> None:
        if result.state == "pending":
            return
        state = trouble or result.state
        delivery = result.delivery
        traceparent = delivery.traceparent
        self._observer.attempt_finished(
            sink=self._sink.name, result=state, duration_s=result.duration_s, traceparent=traceparent
        )
        if state == "dead" and not is_operational(delivery.event_id):
            self.died += 1
        line: dict[str, Any] = {
            "event_id": delivery.event_id,
            "attempt": delivery.attempt,
            "result": state,
            "duration_ms": round(result.duration_s * 1000, 1),
        }
        if traceparent:
            line["trace_id"] = trace_id_of(traceparent)
        if result.error:
            line["error"] = result.error
        if state == "retrying":
            line["retry_in_s"] = round(result.delay_s, 1)
        self._log.info("attempt", **line)
