"""
What breaks, drawn from a seed: four series side by side, one of the instances, one of the store and the journals' disk,
one of the vendor's queues, one of the consumer. In each series one thing happens after the other, so that there is
always an instance left.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from media_callbacks.rehearsal.fake_cloud.queues import QueueFaults
from tests.exercises.chaos.cluster import LEASE_S, Cluster
from tests.exercises.chaos.consumer import Consumer, Mood
from tests.factories.clocks import CLOCK_LAG_S, find_faketime

# An hour: everything seems to come from the future. Some seconds: beyond a lease. Ten years: nothing is to be put off or
# removed by that.
CLOCK_OFFSETS_S = (-3600, -30, 21, 315_360_000)
# How long callbacks may suffer from something that is over: nginx leaves an instance alone for 2 s.
_AFTER_S = 3.0

Fault = Callable[[random.Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Incident:
    """
    Something that broke, with its time in seconds since the run began.

    Attributes:
        excuses: Whether callbacks may be refused meanwhile, because nothing else is right: the store is away and the
            journals' disk is full, or an instance's clock is off by more than a signature may be old.
    """

    what: str
    began: float
    ended: float
    excuses: bool = False

    @property
    def kind(self) -> str:
        return self.what.partition(" instance-")[0]

    def covers(self, at: float) -> bool:
        return self.began <= at <= self.ended + _AFTER_S


class Faults:
    """
    Args:
        now: Seconds since the run began.
        is_short: Everything once, and nothing that a breaker answers with half a minute of silence.
    """

    def __init__(
        self, cluster: Cluster, consumer: Consumer, *, seed: int, now: Callable[[], float], is_short: bool
    ) -> None:
        self._cluster = cluster
        self._consumer = consumer
        self._now = now
        self._is_short = is_short
        self._seed = seed
        # Whoever starts and stops instances.
        self._hands = asyncio.Lock()
        self.incidents: list[Incident] = []

    async def run(self, enough: asyncio.Event) -> None:
        """All series, until it is enough; in the short form at least everything once. All is well afterwards."""
        moods: Sequence[Mood] = ["flaky"] if self._is_short else ["flaky", "failing", "flaky", "hanging"]
        await asyncio.gather(
            self._series(
                "instances",
                [("kill", self._kill), ("restart", self._restart), ("pause", self._pause), ("clock", self._set_clock)],
                enough,
            ),
            self._series(
                "store",
                [
                    ("outage", self._stop_store),
                    ("cut", self._cut),
                    ("freeze", self._freeze_store),
                    ("crashes", self._crash_both),
                    ("full", self._fill_disk),
                ],
                enough,
            ),
            self._series(
                "queues",
                [
                    ("throttled", partial(self._upset_queues, "throttled", QueueFaults(throttled=0.9))),
                    ("failing", partial(self._upset_queues, "failing", QueueFaults(failing=0.9))),
                    ("impatient", partial(self._upset_queues, "without long polls", QueueFaults(max_long_polls=0))),
                    ("unanswered", partial(self._upset_queues, "without answers", QueueFaults(), unanswered=0.6)),
                ],
                enough,
            ),
            self._series("consumer", [(mood, partial(self._upset, mood)) for mood in moods], enough),
        )

    async def _series(
        self,
        name: str,
        faults: Sequence[tuple[str, Fault]],
        enough: asyncio.Event,
    ) -> None:
        rng = random.Random(f"{self._seed}:{name}")
        longest_s = 1.0 if self._is_short else 4.0
        is_first = True
        while is_first or not (self._is_short or enough.is_set()):
            for what, fault in rng.sample(faults, len(faults)):
                await asyncio.sleep(rng.uniform(0.3, longest_s))
                if enough.is_set() and not self._is_short:
                    return
                await fault(random.Random(f"{self._seed}:{name}:{what}:{rng.random()}"))
            is_first = False

    @asynccontextmanager
    async def _incident(self, what: str, *, excuses: bool = False) -> AsyncIterator[None]:
        began = self._now()
        yield
        self.incidents.append(Incident(what, began, self._now(), excuses))

    # Instances

    async def _kill(self, rng: random.Random) -> None:
        async with self._hands:
            for _ in range(1 if self._is_short else rng.randint(1, 3)):
                instance = rng.choice(self._cluster.instances)
                async with self._incident(f"kill {instance.name}"):
                    instance.kill()
                    await asyncio.sleep(rng.choice([0.0, rng.uniform(0.0, 2.0)]))
                    await instance.start()
                await asyncio.sleep(rng.uniform(0.0, 1.0))

    async def _restart(self, rng: random.Random) -> None:
        async with self._hands, self._incident("restart all, one by one"):
            await self._cluster.restart_one_by_one()

    async def _pause(self, rng: random.Random) -> None:
        async with self._hands:
            instance = rng.choice(self._cluster.instances)
            async with self._incident(f"pause {instance.name}"):
                instance.pause()
                await asyncio.sleep(LEASE_S + rng.uniform(0.5, 3.0))
                instance.go_on()

    async def _set_clock(self, rng: random.Random) -> None:
        instance, offset_s = rng.choice(self._cluster.instances), rng.choice(CLOCK_OFFSETS_S)
        if find_faketime() is None:
            return
        async with self._hands, self._incident(f"clock {offset_s:+d} s {instance.name}", excuses=abs(offset_s) > 200):
            instance.clock.set(offset_s)
            await asyncio.sleep(rng.uniform(3.0, 6.0))
            instance.clock.set(0)
            await asyncio.sleep(CLOCK_LAG_S)

    # The store

    async def _stop_store(self, rng: random.Random) -> None:
        async with self._incident("outage"):
            await self._cluster.stop_database(rng.choice([signal.SIGQUIT, signal.SIGINT]))
            await asyncio.sleep(rng.choice([0.0, rng.uniform(1.0, 3.0 if self._is_short else 10.0)]))
            await self._cluster.start_database()

    async def _cut(self, rng: random.Random) -> None:
        for _ in range(rng.randint(1, 4)):
            async with self._incident("cut"):
                await self._cluster.cut_connections()
            await asyncio.sleep(rng.uniform(0.0, 1.0))

    async def _freeze_store(self, rng: random.Random) -> None:
        """It is there and does not answer."""
        async with self._incident("freeze"):
            processes = self._cluster.database.processes()
            _signal(processes, signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(1.0, 3.0 if self._is_short else 6.0))
            _signal(processes, signal.SIGCONT)

    async def _crash_both(self, rng: random.Random) -> None:
        """An instance dies with a journal that is not empty, and comes back before the store does."""
        async with self._hands, self._incident("outage with kill"):
            await self._cluster.stop_database(signal.SIGQUIT)
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            instance = rng.choice(self._cluster.instances)
            instance.kill()
            await asyncio.sleep(rng.uniform(0.0, 1.0))
            starting = asyncio.create_task(instance.start())
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            await self._cluster.start_database()
            await starting

    async def _fill_disk(self, rng: random.Random) -> None:
        """Before or during an outage; then nothing can be kept, and it must be said."""
        async with self._incident("outage with a full disk", excuses=True):
            is_before = rng.random() < 0.5
            if is_before:
                self._cluster.disk.fill()
            await self._cluster.stop_database(signal.SIGQUIT)
            await asyncio.sleep(rng.uniform(0.5, 1.5))
            self._cluster.disk.fill()
            await asyncio.sleep(rng.uniform(0.5, 2.0))
            if rng.random() < 0.5:
                # Room again before the store is back.
                self._cluster.disk.free()
                await asyncio.sleep(rng.uniform(0.5, 1.0))
            await self._cluster.start_database()
            self._cluster.disk.free()

    # The queues

    async def _upset_queues(
        self, what: str, faults: QueueFaults, rng: random.Random, *, unanswered: float = 0.0
    ) -> None:
        async with self._incident(f"queues {what}"):
            self._cluster.queues.set_faults(faults, unanswered=unanswered)
            await asyncio.sleep(rng.uniform(2.0, 3.0 if self._is_short else 8.0))
            self._cluster.queues.set_faults(QueueFaults())

    # The consumer

    async def _upset(self, mood: Mood, rng: random.Random) -> None:
        async with self._incident(f"consumer {mood}"):
            self._consumer.mood = mood
            await asyncio.sleep(rng.uniform(2.0, 6.0))
            self._consumer.mood = "well"
        # Its breakers open again only after half a minute.
        if mood != "flaky":
            await asyncio.sleep(rng.uniform(10.0, 20.0))


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
