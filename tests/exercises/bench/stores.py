"""
PostgreSQL beside SQLite: what accepting costs with each, into an empty store and into one that has what a service of a
month leaves. All services are up for the whole run, on one core with the database's server.
"""

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from tests.exercises.bench.callbacks import Jobs
from tests.exercises.bench.compare import WARM_UP_S, progress
from tests.exercises.bench.load import InvalidRun, Load, closed_loop
from tests.exercises.bench.month import fill_postgresql, fill_sqlite
from tests.exercises.bench.servers import (
    COUNTS,
    Server,
    SilentReceiver,
    check_counts,
    count_rows,
    database,
    processor_seconds,
    start_service,
)
from tests.factories.postgresql import NoServer, PostgresqlServer, execute, find_binaries

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
EMPTY, FULL = "empty", "full"
_SINK = "silent"
# Once for each, so that what is measured is how it goes on. A page that PostgreSQL changes for the first time after a
# checkpoint is logged whole, which for a while makes each event cost a page of the full store's largest index; SQLite
# begins to move keys to its index when there are many; and what is needed of the full stores comes from the disk first.
_FIRST_WARM_UP_S = 30.0
_QUIET_S = 0.25
_QUIET_PATIENCE_S = 20.0
# Every commit is flushed; sizes are those of docs/operate/postgresql.md, and the rest is as nobody has tuned it.
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "1min",
}


def _leave_memory(folder: Path) -> None:
    """
    Let the system's memory have nothing of these files: what was just filled is more than fits, and of that each store
    needs little.
    """
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def _remember_keys(url: str) -> None:
    """Let memory have the index of keys again, as it has where all of these events have come one after the other."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("SELECT count(*) FROM event_keys").fetchone()
        return
    connection = await asyncpg.connect(url, server_settings={"enable_seqscan": "off", "enable_sort": "off"})
    try:
        ordered = "SELECT key_digest FROM events ORDER BY key_digest, outcome OFFSET 0"
        await connection.execute(f"SELECT count(*) FROM ({ordered}) AS keys")
    finally:
        await connection.close()


def why_not() -> str | None:
    """Why no PostgreSQL can be started here, if so."""
    try:
        find_binaries()
    except NoServer as error:
        return str(error)
    return None


@dataclass(slots=True)
class Accepting:
    """
    Attributes:
        loads: By database and fill, one per round.
        cpu_us: Processor time of an answer, that of the database's server included.
        stored: How many events the full ones had.
    """

    loads: dict[tuple[str, str], list[Load]] = field(default_factory=dict)
    cpu_us: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    stored: int = 0


class Stores:
    """
    Args:
        folder: An empty one on a real disk.
        core: Where services and database run; the caller runs on another one.
        stored: How many events the full stores have.
        databases: Any of SQLITE and POSTGRESQL.
    """

    def __init__(
        self, folder: Path, *, core: int, rounds: int, seconds: float, stored: int, databases: Sequence[str]
    ) -> None:
        self._folder = folder
        self._core = core
        self._rounds = rounds
        self._seconds = seconds
        self._databases = databases
        self._jobs = Jobs()
        self._acknowledged: Counter[tuple[str, str]] = Counter()
        self._servers: dict[tuple[str, str], Server] = {}
        self.figures = Accepting(stored=stored)

    async def run(self) -> Accepting:
        """
        Raises:
            InvalidRun: A server did not start, an answer was wrong or missing, or work was lost.
        """
        receiver = SilentReceiver()
        try:
            postgresql = PostgresqlServer(settings=SETTINGS)
        except NoServer as error:
            raise InvalidRun(str(error)) from error
        try:
            self._start_postgresql(postgresql)
            for fill in (EMPTY, FULL):
                await execute(postgresql.url(), f"CREATE DATABASE bench_{fill}")
                (self._folder / fill).mkdir()
            stored = self.figures.stored
            urls = {SQLITE: f"sqlite:///{database(self._folder / FULL)}", POSTGRESQL: postgresql.url(f"bench_{FULL}")}
            for kind in self._databases:
                progress(f"filling {kind} with {stored:,} events")
                await (fill_sqlite if kind == SQLITE else fill_postgresql)(urls[kind], stored, _SINK)
            for filled in (self._folder, postgresql.data):
                _leave_memory(filled)
            for kind in self._databases:
                await _remember_keys(urls[kind])
            self._start_services(postgresql, receiver)
            for which in self._servers:
                await self._saturate(which, postgresql, window_s=_FIRST_WARM_UP_S)
            for number in range(self._rounds):
                await self._round(number, postgresql)
            for server in self._servers.values():
                server.stop()
            await self._check(postgresql)
        finally:
            for server in self._servers.values():
                server.kill()
            postgresql.remove()
            receiver.close()
        return self.figures

    def _start_postgresql(self, postgresql: PostgresqlServer) -> None:
        ours = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._core})
        try:
            postgresql.start()
        except NoServer as error:
            raise InvalidRun(str(error)) from error
        finally:
            os.sched_setaffinity(0, ours)

    def _start_services(self, postgresql: PostgresqlServer, receiver: SilentReceiver) -> None:
        for kind in self._databases:
            for fill in (EMPTY, FULL):
                folder, store = self._folder / fill, None
                if kind == POSTGRESQL:
                    folder, store = self._folder / f"postgresql-{fill}", postgresql.url(f"bench_{fill}")
                    folder.mkdir()
                self._servers[kind, fill] = start_service(
                    f"{kind}, {fill}", folder, core=self._core, receiver=receiver.address, store=store
                )

    async def _round(self, number: int, postgresql: PostgresqlServer) -> None:
        names = list(self._servers)
        for which in names[number % len(names) :] + names[: number % len(names)]:
            load, cpu_s = await self._saturate(which, postgresql, window_s=self._seconds)
            self.figures.loads.setdefault(which, []).append(load)
            self.figures.cpu_us.setdefault(which, []).append(cpu_s / load.answers * 1e6)
            progress(f"round {number + 1} of {self._rounds}: {', '.join(which)} {load.rate:,.0f}/s")

    async def _saturate(
        self, which: tuple[str, str], postgresql: PostgresqlServer, *, window_s: float
    ) -> tuple[Load, float]:
        server, marks = self._servers[which], []
        await self._wait_for_quiet(postgresql)

        def mark() -> None:
            pids: Sequence[int] = postgresql.processes() if which[0] == POSTGRESQL else ()
            marks.append(processor_seconds(server.process.pid, *pids))

        load = await closed_loop(
            server.address,
            self._jobs.requests(now=datetime.now(UTC)),
            warm_up_s=WARM_UP_S,
            window_s=window_s,
            mark=mark,
        )
        self._acknowledged[which] += load.acknowledged
        return load, marks[1] - marks[0]

    async def _wait_for_quiet(self, postgresql: PostgresqlServer) -> None:
        """Until neither the disk nor PostgreSQL's vacuum is busy with what was done before."""
        os.sync()
        deadline = time.monotonic() + _QUIET_PATIENCE_S
        before, now = -1.0, processor_seconds(*postgresql.processes())
        while now - before > _QUIET_S / 20 and time.monotonic() < deadline:
            await asyncio.sleep(_QUIET_S)
            before, now = now, processor_seconds(*postgresql.processes())

    async def _check(self, postgresql: PostgresqlServer) -> None:
        for (kind, fill), server in self._servers.items():
            stored = self.figures.stored if fill == FULL else 0
            if kind == SQLITE:
                found = count_rows(self._folder / fill, stored=stored)
            else:
                url = postgresql.url(f"bench_{fill}")
                found = {
                    name: int((await execute(url, sql.format(stored=stored)))[0][0]) for name, sql in COUNTS.items()
                }
            acknowledged = self._acknowledged[kind, fill]
            check_counts(server.name, found, acknowledged=acknowledged, has_sink=True)
            progress(f"{server.name}: all of {acknowledged:,} acknowledged jobs are stored, each once")
