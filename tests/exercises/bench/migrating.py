"""
What the last migration costs: how long it takes, and on PostgreSQL how long somebody waits meanwhile whose callback
is stored by a service of the version before. On SQLite nobody is served meanwhile.

The load is an open one: an accept counts from when it was to begin, so that what waits behind one that stalls counts
as well.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from media_callbacks.model.events import Event
from tests.exercises.bench.callbacks import first_receipt
from tests.exercises.bench.compare import progress
from tests.exercises.bench.load import InvalidRun
from tests.exercises.bench.stores import POSTGRESQL, SETTINGS, SQLITE
from tests.factories import earlier
from tests.factories.postgresql import PostgresqlServer
from tests.factories.running import make_tables, to_toml

_CONNECTIONS = 8
_RATE_PER_S = 200.0
_CLAIMED = 50
_CLAIMS_PER_S = 2.0
# Before the migration, and after it.
_QUIET_S = 10.0


@dataclass(slots=True)
class Migrated:
    """
    Attributes:
        seconds: Of the whole command.
        steps: What each one began with, how long it took and the longest accept that began while it ran.
        before_ms, during_ms: Of each accept, in ascending order.
    """

    database: str
    stored: int
    seconds: float = 0.0
    steps: list[tuple[str, float, float]] = field(default_factory=list)
    before_ms: list[float] = field(default_factory=list)
    during_ms: list[float] = field(default_factory=list)


class Migrating:
    """
    Args:
        folder: An empty one on a real disk.
        cores: Where servers and load run.
        databases: Any of SQLITE and POSTGRESQL.
    """

    def __init__(self, folder: Path, *, cores: set[int], stored: Sequence[int], databases: Sequence[str]) -> None:
        self._folder = folder
        self._cores = cores
        self._stored = stored
        self._databases = databases

    async def run(self) -> list[Migrated]:
        """
        Raises:
            InvalidRun: The migration failed, or something was lost or counted wrongly.
        """
        os.sched_setaffinity(0, self._cores)
        measure = {SQLITE: self._measure_file, POSTGRESQL: self._measure_server}
        return [await measure[name](count) for name in self._databases for count in self._stored]

    async def _measure_file(self, stored: int) -> Migrated:
        path = self._folder / f"{stored}.db"
        progress(f"filling {SQLITE} with {stored:,} events")
        earlier.make_file(path)
        earlier.fill_file(path, _event(), stored, at=_now_ms())
        with path.open("rb") as file:
            os.fsync(file.fileno())
        found = Migrated(SQLITE, stored)
        await self._migrate(f"sqlite:///{path}", found)
        path.unlink()
        return found

    async def _measure_server(self, stored: int) -> Migrated:
        server = PostgresqlServer(settings=SETTINGS)
        server.start()
        try:
            found = Migrated(POSTGRESQL, stored)
            progress(f"filling {POSTGRESQL} with {stored:,} events")
            connection = await asyncpg.connect(server.url())
            await earlier.make(connection)
            await earlier.fill(connection, _event(), stored, at=_now_ms())
            await connection.execute("CHECKPOINT")
            load = _Load(server.url())
            await load.start()
            await asyncio.sleep(_QUIET_S)
            began = time.perf_counter()
            told = await self._migrate(server.url(), found)
            ended = time.perf_counter()
            await asyncio.sleep(_QUIET_S)
            accepted = await load.stop()
            found.before_ms = load.between(0, began)
            found.during_ms = load.between(began, ended)
            for (at, text), (until, _) in zip(told, [*told[1:], (ended, "")], strict=True):
                found.steps.append((text, until - at, max(load.between(at, until), default=0.0)))
            await _check(connection, stored + accepted)
            await connection.close()
            return found
        finally:
            server.remove()

    async def _migrate(self, url: str, found: Migrated) -> list[tuple[float, str]]:
        """When it told what."""
        config = self._folder / "media-callbacks.toml"
        config.write_text(to_toml(make_tables(self._folder, {}, {"store.url": url})))
        progress(f"migrating {found.stored:,} events on {found.database}")
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "media_callbacks", "migrate", "--config", str(config),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        told = [(time.perf_counter(), line.decode().strip()) async for line in process.stderr]
        if await process.wait():
            raise InvalidRun(f"the migration failed: {told[-1:]}")
        found.seconds = time.perf_counter() - began
        return told


class _Load:
    """Services that accept at a steady rate, and one that delivers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._event = _event()
        self._body = self._event.to_json().decode()
        self._is_over = False
        self._tasks: list[asyncio.Task[int]] = []
        # When it was to begin, and how long it took since then.
        self._accepts: list[tuple[float, float]] = []

    async def start(self) -> None:
        connections = [
            await asyncpg.connect(self._url, server_settings=earlier.SETTINGS) for _ in range(_CONNECTIONS + 1)
        ]
        self._tasks = [asyncio.create_task(self._accept(one, n)) for n, one in enumerate(connections[1:])]
        self._tasks.append(asyncio.create_task(self._deliver(connections[0])))

    async def stop(self) -> int:
        """How many were accepted."""
        self._is_over = True
        return sum(await asyncio.gather(*self._tasks))

    def between(self, begin: float, end: float) -> list[float]:
        """Milliseconds of the accepts that were under way then, in ascending order."""
        return sorted(took * 1000 for at, took in self._accepts if at < end and at + took > begin)

    async def _accept(self, connection: Any, number: int) -> int:
        interval_s = _CONNECTIONS / _RATE_PER_S
        due, count = time.perf_counter() + number * interval_s / _CONNECTIONS, 0
        while not self._is_over:
            await asyncio.sleep(due - time.perf_counter())
            digest = secrets.token_bytes(32)
            body = self._body.replace(self._event.id, f"evt_{digest.hex()}00")
            (state,) = await earlier.accept(connection, {digest: body}, at=_now_ms(), sinks="a b")
            if state != "accepted":
                raise InvalidRun(f"expected an event to be accepted, it was {state}")
            self._accepts.append((due, time.perf_counter() - due))
            count += 1
            due += interval_s
        await connection.close()
        return count

    async def _deliver(self, connection: Any) -> int:
        while not self._is_over:
            claimed = await earlier.claim(connection, "a", at=_now_ms(), limit=_CLAIMED)
            await earlier.record(connection, "a", claimed, "delivered", at=_now_ms())
            await asyncio.sleep(1 / _CLAIMS_PER_S)
        await connection.close()
        return 0


async def _check(connection: Any, events: int) -> None:
    found = await connection.fetchval("SELECT count(*) FROM events")
    if found != events:
        raise InvalidRun(f"expected {events} events, found {found}")
    counted, recounted = [
        {tuple(row) for row in await connection.fetch(sql)}
        for sql in (
            ("SELECT sink, state, sum(count)::bigint FROM delivery_counts GROUP BY sink, state HAVING sum(count) <> 0"),
            "SELECT sink, state, count(*) FROM deliveries WHERE state <> 'delivered' GROUP BY sink, state",
        )
    ]
    if counted != recounted:
        raise InvalidRun(f"expected {recounted} to be counted, found {counted}")


def _event() -> Event:
    receipt = first_receipt(datetime.now(UTC), ("a", "b"), job_id=secrets.token_hex(16))
    (entry,) = receipt.entries
    return entry.event


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def print_migrated(found: Sequence[Migrated]) -> None:
    console = Console(width=max(Console().width, 120))
    for one in found:
        console.print(f"{one.database}, {one.stored:,} events: {one.seconds:.1f} s")
        if not one.during_ms:
            continue
        accepts = Table("accepts, ms", "median", "99 %", "longest", title=f"{_RATE_PER_S:g} accepts a second")
        for name, each in (("before", one.before_ms), ("while it was migrated", one.during_ms)):
            cuts = quantiles(each, n=100)
            accepts.add_row(name, f"{cuts[49]:.1f}", f"{cuts[98]:.1f}", f"{each[-1]:.1f}")
        console.print(accepts)
        steps = Table("step", "seconds", "longest accept, ms")
        for text, seconds, longest_ms in one.steps:
            steps.add_row(text.partition(": ")[2][:85], f"{seconds:.2f}", f"{longest_ms:.1f}")
        console.print(steps)


def migrated_to_json(found: Sequence[Migrated]) -> str:
    return json.dumps([asdict(one) for one in found])
