"""
Delivering to buses: what an event costs on its way from the store to a real broker, against the client's own loop.

The broker keeps what it has in memory, so that it is the senders that are compared and not the disk, which both would
wait for; the service's store is on a disk. Alibaba Cloud's are played (``cloud_buses``).
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from media_callbacks.assembly.sinks import build_sink
from media_callbacks.config.sinks import SINK_MODELS
from media_callbacks.config.vendor import VendorSettings
from tests.exercises.bench.cloud_buses import CLOUD_BUSES, CloudBus
from tests.exercises.bench.compare import progress
from tests.exercises.bench.delivery import Window, check_deliveries, settle
from tests.exercises.bench.filling import fill_sqlite
from tests.exercises.bench.load import InvalidRun
from tests.exercises.bench.servers import VENDOR, Server, database, processor_seconds, spawn, start_service
from tests.factories.brokers.broker import Broker, NoBroker
from tests.factories.brokers.kinds import BROKERS
from tests.factories.memory import find_memory

BUSES: Mapping[str, type[Broker] | type[CloudBus]] = {**BROKERS, **CLOUD_BUSES}
_VENDORS = {"main": VendorSettings.model_validate(VENDOR)}
_SINK = "bus"
_EDGE = 0.1
_PATIENCE_S = 30.0


@dataclass(slots=True)
class BusFigures:
    """One entry per round."""

    publishing: list[Window] = field(default_factory=list)
    service: list[Window] = field(default_factory=list)


class Buses:
    """
    Args:
        folder: An empty one on a real disk.
        core: Where the senders run; the caller, with the broker, runs on another one.
        events: How many a sender delivers in one measurement.
    """

    def __init__(self, folder: Path, *, core: int, rounds: int, events: int) -> None:
        self._folder = folder
        self._core = core
        self._rounds = rounds
        self._events = events

    async def measure(self, kinds: Iterable[str]) -> dict[str, BusFigures]:
        """
        Args:
            kinds: Which of ``BUSES``.

        Raises:
            InvalidRun: Something was not delivered, or not recorded.
        """
        store = self._folder / "bus.db"
        await fill_sqlite(store, self._events, [_SINK])
        found = {}
        for kind in kinds:
            try:
                found[kind] = await self._measure(kind, store)
            except NoBroker as error:
                progress(f"{kind} is left out: {error}")
        return found

    async def _measure(self, kind: str, store: Path) -> BusFigures:
        figures = BusFigures()
        folder = Path(tempfile.mkdtemp(dir=find_memory()))
        broker = BUSES[kind](folder)
        try:
            broker.start()
            for number in range(self._rounds):
                figures.publishing.append(await self._publish(broker, store))
                figures.service.append(await self._deliver(broker, store))
                ratio = figures.service[-1].rate / figures.publishing[-1].rate
                progress(f"round {number + 1} of {self._rounds}: {kind}, delivery / publishing {ratio:.3f}")
        finally:
            broker.stop()
            shutil.rmtree(folder)
        return figures

    async def _publish(self, broker: Broker | CloudBus, store: Path) -> Window:
        await broker.prepare()
        # As many on their way as the sink has.
        sink = build_sink(_SINK, SINK_MODELS[broker.kind].model_validate(broker.table()), _VENDORS)
        command = [
            "tests.exercises.bench.publishing",
            broker.kind,
            broker.port,
            sink.concurrency * sink.batch_size,
            store,
        ]
        log = self._folder / "publishing.log"
        process = spawn([sys.executable, "-m", *map(str, command)], core=self._core, log=log)
        try:
            window = await self._watch(broker, process.pid)
            if await asyncio.to_thread(process.wait, _PATIENCE_S):
                raise InvalidRun(f"the publishing loop failed:\n{log.read_text()[-2000:]}")
        finally:
            process.kill()
            process.wait()
        return window

    async def _deliver(self, broker: Broker | CloudBus, store: Path) -> Window:
        await broker.prepare()
        folder = self._folder / "delivery"
        folder.mkdir()
        shutil.copyfile(store, database(folder))
        server: Server = start_service("service", folder, core=self._core, sinks={_SINK: broker.table()})
        try:
            window = await self._watch(broker, server.process.pid)
            await settle(folder, _SINK)
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
        check_deliveries(folder, delivered=self._events, undelivered=0)
        shutil.rmtree(folder)
        return window

    async def _watch(self, broker: Broker | CloudBus, pid: int) -> Window:
        """From about a tenth of the events to the last tenth, by what the broker has stored."""
        marks = []
        for least in (int(_EDGE * self._events), int((1 - _EDGE) * self._events)):
            count = await self._until(broker.count, least)
            marks.append((count, time.perf_counter(), processor_seconds(pid)))
        if await self._until(broker.count, self._events) != self._events:
            raise InvalidRun(f"expected {self._events} messages at {broker.kind}, each once; came more")
        (first, begin, cpu_begin), (last, end, cpu_end) = marks
        return Window(last - first, end - begin, cpu_end - cpu_begin)

    async def _until(self, count: Callable[[], Awaitable[int]], least: int) -> int:
        known, deadline = -1, time.monotonic() + _PATIENCE_S
        while (found := await count()) < least:
            if found > known:
                known, deadline = found, time.monotonic() + _PATIENCE_S
            elif time.monotonic() > deadline:
                raise InvalidRun(f"expected {least} messages at the broker, none came any more after {found}")
            await asyncio.sleep(0.01)
        return found
