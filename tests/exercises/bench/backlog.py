"""How long callbacks wait for their answer while the service has a great backlog to deliver, or a great replay."""

import asyncio
import json
import shutil
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from tests.exercises.bench.callbacks import Jobs
from tests.exercises.bench.delivery import HEALTHY
from tests.exercises.bench.filling import fill_sqlite
from tests.exercises.bench.load import InvalidRun, Load, open_loop
from tests.exercises.bench.receiver import Receiver
from tests.exercises.bench.servers import Server, database, start_service

QUIET, BACKLOG, REPLAY = "nothing to deliver", "a backlog", "a replay"
# Callbacks a second beside the delivering, which takes whatever else there is of the core.
RATE_PER_S = 300.0
# Of the replay, which is more than the service delivers.
_REPLAY_RATE_PER_S = 10_000
_WARM_UP_S = 2.0


class Backlog:
    """
    Args:
        folder: An empty one on a real disk.
        core: Where the service runs; the caller runs on another one.
        waiting: How many events the backlog and the replay have.
    """

    def __init__(self, folder: Path, *, core: int, rounds: int, seconds: float, waiting: int) -> None:
        self._folder = folder
        self._core = core
        self._rounds = rounds
        self._seconds = seconds
        self._waiting = waiting
        self._jobs = Jobs()
        self._receiver = Receiver()

    async def measure(self) -> dict[str, list[Load]]:
        """
        Raises:
            InvalidRun: An answer was wrong or missing, or there was nothing left to deliver when it was measured.
        """
        found: dict[str, list[Load]] = {QUIET: [], BACKLOG: [], REPLAY: []}
        waiting, delivered = self._folder / "waiting.db", self._folder / "delivered.db"
        await fill_sqlite(waiting, self._waiting, [HEALTHY])
        await fill_sqlite(delivered, self._waiting, [HEALTHY], is_delivered=True)
        await self._receiver.open()
        try:
            for _ in range(self._rounds):
                found[QUIET].append(await self._measure(None))
                found[BACKLOG].append(await self._measure(waiting))
                found[REPLAY].append(await self._measure(delivered, is_replay=True))
        finally:
            self._receiver.close()
        return found

    async def _measure(self, store: Path | None, *, is_replay: bool = False) -> Load:
        folder = self._folder / "service"
        folder.mkdir()
        if store is not None:
            shutil.copyfile(store, database(folder))
        self._receiver.reset()
        server = start_service("service", folder, core=self._core, sinks={HEALTHY: self._receiver.address})
        try:
            if is_replay:
                await asyncio.to_thread(_replay, server)
            next_request = self._jobs.requests(now=datetime.now(UTC))
            load = await open_loop(
                server.address, next_request, rate=RATE_PER_S, warm_up_s=_WARM_UP_S, window_s=self._seconds
            )
        finally:
            server.kill()
        delivered = len(self._receiver.ids)
        if store is not None and not load.answers < delivered < self._waiting:
            raise InvalidRun(f"expected to measure while {self._waiting} events were delivered; {delivered} were")
        shutil.rmtree(folder)
        return load


def _replay(server: Server) -> None:
    assert server.admin is not None
    host, port = server.admin
    order = {"filter": {"product": "vod"}, "sinks": [HEALTHY], "rate": _REPLAY_RATE_PER_S}
    request = urllib.request.Request(
        f"http://{host}:{port}/v1/replays", json.dumps(order).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()
