"""How long an event takes from its callback to the webhook: sent by the one, arrived at the other, by one clock."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.exercises.bench.callbacks import Jobs, first_receipt
from tests.exercises.bench.compare import progress
from tests.exercises.bench.delivery import HEALTHY
from tests.exercises.bench.load import InvalidRun, open_loop
from tests.exercises.bench.receiver import Receiver
from tests.exercises.bench.servers import start_service

RATE_PER_S = 200.0
_WARM_UP_S = 1.0
_FLUSHES = 200
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Latency:
    """
    One round.

    Attributes:
        seconds: Of each event, in ascending order.
        flush_s: What one flush of as much as a callback writes took just before, in ascending order: no event can be
            faster.
    """

    seconds: tuple[float, ...]
    flush_s: tuple[float, ...]


class _Clocked(Receiver):
    def __init__(self) -> None:
        super().__init__()
        self.at: dict[bytes, float] = {}

    def arrived(self, event_id: bytes) -> None:
        self.at.setdefault(event_id, time.perf_counter())
        super().arrived(event_id)


class Latencies:
    """
    Args:
        folder: An empty one on a real disk.
        core: Where the service runs; the caller, with the receiver, runs on another one.
    """

    def __init__(self, folder: Path, *, core: int, rounds: int, seconds: float) -> None:
        self._folder = folder
        self._core = core
        self._rounds = rounds
        self._seconds = seconds
        self._jobs = Jobs()

    async def measure(self) -> list[Latency]:
        """
        Raises:
            InvalidRun: An answer was wrong or missing, or an event did not arrive.
        """
        found = []
        for number in range(self._rounds):
            found.append(await self._measure())
            p50_ms = found[-1].seconds[len(found[-1].seconds) // 2] * 1000
            progress(f"round {number + 1} of {self._rounds}: callback to webhook, p50 {p50_ms:.1f} ms")
        return found

    async def _measure(self) -> Latency:
        folder = self._folder / "service"
        folder.mkdir()
        flush_s = await asyncio.to_thread(_time_flushes, folder / "flushed")
        receiver, sent = _Clocked(), dict[bytes, float]()
        await receiver.open()
        server = start_service("service", folder, core=self._core, sinks={HEALTHY: receiver.address})
        try:
            load = await open_loop(
                server.address, self._clocked(sent), rate=RATE_PER_S, warm_up_s=_WARM_UP_S, window_s=self._seconds
            )
            deadline = time.perf_counter() + _PATIENCE_S
            while len(receiver.at) < len(sent) and time.perf_counter() < deadline:  # noqa: ASYNC110 - to no moment
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
            receiver.close()
        if receiver.at.keys() != sent.keys():
            raise InvalidRun(f"{len(sent)} callbacks were sent, {len(receiver.at.keys() & sent.keys())} events arrived")
        shutil.rmtree(folder)
        since = list(sent)[load.acknowledged - load.answers :]
        return Latency(tuple(sorted(receiver.at[event_id] - sent[event_id] for event_id in since)), flush_s)

    def _clocked(self, sent: dict[bytes, float]) -> Callable[[], bytes]:
        """Requests whose time is taken, each under the id of its event."""
        now = datetime.now(UTC)
        next_request = self._jobs.requests(now=now)

        def make() -> bytes:
            request = next_request()
            [entry] = first_receipt(now, [], job_id=self._jobs.job_id.decode()).entries
            sent[entry.event.id.encode()] = time.perf_counter()
            return request

        return make


def _time_flushes(path: Path) -> tuple[float, ...]:
    """Of eight kilobytes each, on the disk that the store is on."""
    seconds = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_FLUSHES):
            file.write(bytes(8192))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - begun)
    return tuple(sorted(seconds))
