"""Receivers of events, and the sinks that send to them: what arrives is written down, and what is answered is chance."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol

from media_callbacks.model.errors import SinkError, SinkGone, SinkRejected, SinkRetry
from media_callbacks.model.events import Delivery
from tests.exercises.simulation.threads import LIFE, Life

Mood = Literal["well", "away", "overloaded", "deaf", "gone", "choosy"]
RETRY_AFTER_S = 40.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    An attempt, as a receiver sees it.

    Attributes:
        at: When it began, in the loop's time; ``store_ms``: by the clock of the store.
        life: Of who has sent it.
    """

    at: float
    store_ms: int
    sink: str
    delivery: Delivery
    event: dict[str, Any]
    life: Life | None


class Receiver:
    """One for each sink. What it has taken, it has taken, whatever becomes of its answer."""

    def __init__(self, name: str, rng: Random) -> None:
        self.name = name
        self.mood: Mood = "well"
        self._rng = rng

    def draw_answer(self) -> tuple[bool, SinkError | None, float]:
        """Whether it takes an event, what its sender is told, and after how many seconds."""
        quick_s, chance = self._rng.uniform(0.001, 0.5), self._rng.random()
        match self.mood:
            case "away":
                return False, SinkRetry("503"), quick_s
            case "overloaded":
                return False, SinkRetry("429", retry_after_s=RETRY_AFTER_S, is_overload=True), quick_s
            case "deaf":
                return chance < 0.5, SinkRetry("no answer"), 1000.0
            case "gone":
                return False, SinkGone("410"), quick_s
            case "choosy" if chance < 0.3:
                return False, SinkRejected("422"), quick_s
        if chance < 0.03:
            return True, SinkRetry("its answer was lost"), quick_s
        return (False, SinkRetry("500"), quick_s) if chance < 0.08 else (True, None, quick_s)


class DeliveryLedger(Protocol):
    """Told of every attempt."""

    def began(self, arrival: Arrival) -> None: ...

    def taken(self, arrival: Arrival) -> None: ...

    def ended(self, arrival: Arrival, error: SinkError | None, store_ms: int, *, was_cancelled: bool) -> None: ...


class SimulatedSink:
    """A ``sinks.base.Sink`` that sends to a receiver. What is under way when its process dies has arrived, or never will."""

    def __init__(
        self,
        receiver: Receiver,
        *,
        batch_size: int,
        concurrency: int,
        timeout_s: float,
        rng: Random,
        time: Callable[[], float],
        store_ms: Callable[[], int],
        ledger: "DeliveryLedger",
    ) -> None:
        self.name = receiver.name
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self._receiver, self._rng = receiver, rng
        self._time, self._store_ms = time, store_ms
        self._began, self._taken, self._ended = ledger.began, ledger.taken, ledger.ended

    async def open(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.001, 0.1))

    async def close(self) -> None:
        await asyncio.sleep(0.001)

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        life = LIFE.get()
        arrivals = [
            Arrival(self._time(), self._store_ms(), self.name, delivery, json.loads(delivery.body), life)
            for delivery in deliveries
        ]
        for arrival in arrivals:
            self._began(arrival)
        errors: list[SinkError | None] = []
        try:
            async with asyncio.timeout(self.timeout_s):
                for arrival in arrivals:
                    errors.append(await self._send_one(arrival))  # noqa: PERF401 - those there are count, if time is over
        except TimeoutError:
            errors = [SinkRetry("timed out")] * len(deliveries)
        except asyncio.CancelledError:
            for arrival in arrivals:
                self._ended(arrival, None, self._store_ms(), was_cancelled=True)
            raise
        for arrival, error in zip(arrivals, errors, strict=True):
            self._ended(arrival, error, self._store_ms(), was_cancelled=False)
        return errors

    async def _send_one(self, arrival: Arrival) -> SinkError | None:
        await asyncio.sleep(self._rng.uniform(0.001, 0.2))
        is_taken, error, after_s = self._receiver.draw_answer()
        if is_taken:
            self._taken(arrival)
        await asyncio.sleep(after_s)
        return error
