"""
Delivering: what an event costs on its way from the store to a trivial webhook, against a loop that only posts; whether
many that wait make each dearer; and whether a dead sink takes anything from a healthy one.

Every figure is of a window, from one arrival at the receiver to another, so that starting and stopping count nowhere.
"""

import asyncio
import shutil
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.exercises.bench.compare import progress
from tests.exercises.bench.filling import add_waiting, count_sqlite, fill_sqlite
from tests.exercises.bench.load import InvalidRun
from tests.exercises.bench.receiver import Receiver
from tests.exercises.bench.servers import (
    Server,
    SilentReceiver,
    database,
    memory_bytes,
    processor_seconds,
    spawn,
    start_service,
)

CONCURRENCY = 32
HEALTHY, DEAD = "healthy", "dead"
ALONE, REFUSING, HANGING = "alone", "beside a refusing one", "beside a hanging one"
BURST = 100
_BURSTS = 30
_EDGE = 0.1
_SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Window:
    """Events that arrived in a time, and the processor time that their sender used for them."""

    events: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of an event, in microseconds."""
        return self.cpu_s / self.events * 1e6


@dataclass(slots=True)
class DeliveryFigures:
    """
    One entry per round.

    Attributes:
        few, many: With 100 waiting, with ``waiting``.
        memory: Of the service with ``waiting``: when the window began, and at most, in bytes.
    """

    posting: list[Window] = field(default_factory=list)
    service: list[Window] = field(default_factory=list)
    waiting: int = 0
    few: list[Window] = field(default_factory=list)
    many: list[Window] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)


class Delivering:
    """
    Args:
        folder: An empty one on a real disk.
        core: Where the senders run; the caller, with the receiver, runs on another one.
        events: How many a sender delivers in one measurement.
    """

    def __init__(self, folder: Path, *, core: int, rounds: int, events: int) -> None:
        self._folder = folder
        self._core = core
        self._rounds = rounds
        self._events = events
        self._receiver = Receiver()
        self._starts = 0

    async def measure(self, *, waiting: int) -> DeliveryFigures:
        """
        Against the posting loop, then few and many.

        Raises:
            InvalidRun: Something was not delivered, or not recorded.
        """
        figures = DeliveryFigures(waiting=waiting)
        await self._receiver.open()
        try:
            store = self._folder / "waiting.db"
            await fill_sqlite(store, self._events, [HEALTHY])
            body = read_body(store)
            for number in range(self._rounds):
                figures.posting.append(await self._post(body))
                figures.service.append(await self._deliver(store, {HEALTHY: self._receiver.address}))
                ratio = figures.service[-1].rate / figures.posting[-1].rate
                progress(f"round {number + 1} of {self._rounds}: delivery / posting {ratio:.3f}")
            full, few = self._folder / "full.db", self._folder / "few.db"
            await fill_sqlite(full, waiting, [HEALTHY])
            await fill_sqlite(few, BURST, [HEALTHY])
            for number in range(self._rounds):
                figures.few.append(await self._bursts(few))
                window, memory = await self._first_of_many(full, waiting)
                figures.many.append(window)
                figures.memory.append(memory)
                ratio = window.cpu_us / figures.few[-1].cpu_us
                progress(f"round {number + 1} of {self._rounds}: {waiting:,} waiting / {BURST} waiting {ratio:.3f}")
        finally:
            self._receiver.close()
        return figures

    async def isolate(self) -> dict[str, list[Window]]:
        """
        A healthy sink alone, and beside one that refuses connections or never answers.

        Raises:
            InvalidRun: Something was not delivered, or not recorded, or was lost on its way to the dead one.
        """
        found: dict[str, list[Window]] = {ALONE: [], REFUSING: [], HANGING: []}
        silent, refusing = SilentReceiver(), SilentReceiver()
        # Its port is nobody's from now on.
        refusing.close()
        await self._receiver.open()
        try:
            one, two = self._folder / "one.db", self._folder / "two.db"
            await fill_sqlite(one, self._events, [HEALTHY])
            await fill_sqlite(two, self._events, [DEAD, HEALTHY])
            healthy = {HEALTHY: self._receiver.address}
            for number in range(self._rounds):
                found[ALONE].append(await self._deliver(one, healthy))
                found[REFUSING].append(await self._deliver(two, {DEAD: refusing.address, **healthy}))
                found[HANGING].append(await self._deliver(two, {DEAD: silent.address, **healthy}))
                shares = ", ".join(f"{name} {found[name][-1].rate:,.0f}/s" for name in found)
                progress(f"round {number + 1} of {self._rounds}: {shares}")
        finally:
            self._receiver.close()
            silent.close()
        return found

    async def _post(self, body: str) -> Window:
        marks = self._mark_between(_EDGE, 1 - _EDGE)
        url = f"http://{self._receiver.address}/"
        log = self._folder / "posting.log"
        process = spawn(
            [sys.executable, "-m", "tests.exercises.bench.posting", url, str(self._events), str(CONCURRENCY), body],
            core=self._core,
            log=log,
        )
        marks.pid = process.pid
        try:
            await marks.until_arrived(self._events)
            if await asyncio.to_thread(process.wait, _SETTLE_S):
                raise InvalidRun(f"the posting loop failed:\n{log.read_text()[-2000:]}")
        finally:
            process.kill()
            process.wait()
        self._check_arrived(self._events)
        return marks.window()

    async def _deliver(self, store: Path, sinks: Mapping[str, str]) -> Window:
        folder = self._copy(store)
        marks = self._mark_between(_EDGE, 1 - _EDGE)
        server = self._start(folder, sinks)
        marks.pid = server.process.pid
        try:
            await marks.until_arrived(self._events)
            await settle(folder, HEALTHY)
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
        self._check_arrived(self._events)
        check_deliveries(folder, delivered=self._events, undelivered=self._events if DEAD in sinks else 0)
        shutil.rmtree(folder)
        return marks.window()

    async def _first_of_many(self, store: Path, waiting: int) -> tuple[Window, tuple[int, int]]:
        """The window ends early; what was sent until the service has stopped must be recorded all the same."""
        folder = self._copy(store)
        count = min(self._events, waiting)
        marks = self._mark_between(_EDGE * count / self._events, (1 - _EDGE) * count / self._events)
        server = self._start(folder, {HEALTHY: self._receiver.address}, stop_timeout_s=5)
        marks.pid = server.process.pid
        try:
            await marks.until_arrived(count)
            memory = (marks.memory_bytes, memory_bytes(server.process.pid)[1])
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
        arrived = len(self._receiver.ids)
        check_deliveries(folder, delivered=arrived, undelivered=waiting - arrived)
        shutil.rmtree(folder)
        return marks.window(), memory

    async def _bursts(self, store: Path) -> Window:
        """100 become due, the service is told, delivers and records them; again and again."""
        folder = self._copy(store)
        first = read_first(database(folder))
        self._receiver.reset()
        server = self._start(folder, {HEALTHY: self._receiver.address})
        seconds = cpu_s = 0.0
        try:
            await self._until(BURST, folder)
            for number in range(1, _BURSTS + 1):
                await asyncio.to_thread(add_waiting, database(folder), BURST, first)
                begun, cpu_begun = time.perf_counter(), processor_seconds(server.process.pid)
                await asyncio.to_thread(resume, server, HEALTHY)
                await self._until(BURST * (number + 1), folder)
                seconds += time.perf_counter() - begun
                cpu_s += processor_seconds(server.process.pid) - cpu_begun
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
        total = BURST * (_BURSTS + 1)
        self._check_arrived(total)
        check_deliveries(folder, delivered=total, undelivered=0)
        shutil.rmtree(folder)
        return Window(BURST * _BURSTS, seconds, cpu_s)

    async def _until(self, count: int, folder: Path) -> None:
        deadline = time.monotonic() + _SETTLE_S
        while len(self._receiver.ids) < count:
            if time.monotonic() > deadline:
                raise InvalidRun(f"expected {count} events at the receiver, came {len(self._receiver.ids)}")
            await asyncio.sleep(0.002)
        await settle(folder, HEALTHY)

    def _start(self, folder: Path, sinks: Mapping[str, str], *, stop_timeout_s: float = 0) -> Server:
        return start_service("service", folder, core=self._core, sinks=sinks, stop_timeout_s=stop_timeout_s)

    def _copy(self, store: Path) -> Path:
        self._starts += 1
        folder = self._folder / f"delivery-{self._starts}"
        folder.mkdir()
        shutil.copyfile(store, database(folder))
        return folder

    def _mark_between(self, begin: float, end: float) -> "_Marks":
        marks = _Marks(self._receiver, max(int(begin * self._events), 1), int(end * self._events))
        self._receiver.reset([(marks.begin, marks.mark), (marks.end, marks.mark)])
        return marks

    def _check_arrived(self, count: int) -> None:
        found, requests = len(self._receiver.ids), self._receiver.requests
        if (found, requests) != (count, count):
            raise InvalidRun(
                f"expected {count} events, each once, at the receiver; came {found} in {requests} requests"
            )


class _Marks:
    """Where a window begins and ends, in events that have arrived."""

    def __init__(self, receiver: Receiver, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.pid = 0
        self.memory_bytes = 0
        self._receiver = receiver
        self._marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self._marks.append((time.perf_counter(), processor_seconds(self.pid)))
        self.memory_bytes = self.memory_bytes or memory_bytes(self.pid)[0]

    async def until_arrived(self, count: int) -> None:
        known, deadline = 0, time.monotonic() + _SETTLE_S
        while (found := len(self._receiver.ids)) < count:
            if found > known:
                known, deadline = found, time.monotonic() + _SETTLE_S
            elif time.monotonic() > deadline:
                raise InvalidRun(f"expected {count} events at the receiver, none came any more after {found}")
            await asyncio.sleep(0.02)

    def window(self) -> Window:
        (begin, cpu_begin), (end, cpu_end) = self._marks
        return Window(self.end - self.begin, end - begin, cpu_end - cpu_begin)


async def settle(folder: Path, sink: str) -> None:
    """Wait until everything is recorded that has arrived."""
    deadline = time.monotonic() + _SETTLE_S
    sql = f"SELECT count(*) FROM deliveries WHERE sink = '{sink}' AND due_at IS NOT NULL"
    while left := await asyncio.to_thread(count_sqlite, database(folder), sql):
        if time.monotonic() > deadline:
            raise InvalidRun(f"{left} deliveries to {sink} are still not recorded")
        await asyncio.sleep(0.002)


def check_deliveries(folder: Path, *, delivered: int, undelivered: int) -> None:
    """
    Raises:
        InvalidRun: Others were recorded than have arrived, or something was lost.
    """
    with closing(sqlite3.connect(database(folder))) as connection:
        states = dict(connection.execute("SELECT state, count(*) FROM deliveries GROUP BY state"))
        attempts = connection.execute("SELECT count(*) FROM attempts WHERE result = 'delivered'").fetchone()[0]
    waiting = states.get("pending", 0) + states.get("retrying", 0)
    expected = {
        "delivered": delivered,
        "attempts": delivered,
        "undelivered": undelivered,
        "all": delivered + undelivered,
    }
    found = {
        "delivered": states.get("delivered", 0),
        "attempts": attempts,
        "undelivered": waiting,
        "all": sum(states.values()),
    }
    if found != expected:
        raise InvalidRun(f"expected {expected} in the store, found {found}")


def read_body(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT body FROM event_bodies WHERE event_id = 1").fetchone()[0])


def read_first(path: Path) -> tuple[str, str]:
    """The public id and the job id of the first event."""
    with closing(sqlite3.connect(path)) as connection:
        digits, job_id = connection.execute("SELECT lower(hex(key_digest)), job_id FROM events WHERE id = 1").fetchone()
    return f"evt_{digits}00", str(job_id)


def resume(server: Server, sink: str) -> None:
    """Make the service look at what is due."""
    assert server.admin is not None
    host, port = server.admin
    request = urllib.request.Request(
        f"http://{host}:{port}/v1/sinks/{sink}/resume", data=b"{}", headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()
