"""
The comparison: rounds in which every server is loaded in turn, then a look at what is left on disk.

The headline is ``durable``: the service with one sink, so that an event and a delivery of it are written before the
answer. Its receiver never answers, which keeps one attempt in flight and the rest waiting: what is measured is
accepting, not sending. ``durable, no sink`` is the same service without one, ``durable, watched`` the headline's with
the page open and a client of the feed that takes every event, for as long as it is loaded. ``durable, against`` is the
headline as another checkout of this project has it.
"""

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests.exercises.bench.callbacks import Jobs
from tests.exercises.bench.load import InvalidRun, Load, closed_loop, open_loop
from tests.exercises.bench.servers import (
    CHECKOUT,
    Server,
    SilentReceiver,
    check_counts,
    check_one_commit,
    count_rows,
    flushes,
    start_bare,
    start_fastapi,
    start_flask,
    start_json2file,
    start_service,
    start_webhook,
    thread_seconds,
)
from tests.exercises.bench.watching import watched

DURABLE = "durable"
NO_SINK = "durable, no sink"
WATCHED = "durable, watched"
AGAINST = "durable, against"
# Where each of the services has its store.
_FOLDERS = {DURABLE: "one-sink", NO_SINK: "no-sink", WATCHED: "watched", AGAINST: "against"}
_DEBIANS = {"json2file-go": start_json2file, "webhook": start_webhook}
# Before every measurement, on its own connections: caches and branch predictors belong to another server until then.
WARM_UP_S = 0.5
# After start, each server once: what it does only for its first requests.
FIRST_WARM_UP_S = 1.0


@dataclass(slots=True)
class Inside:
    """
    What a server did during one window.

    Attributes:
        flushes: Transactions that the headline's store committed.
        main_s, others_s: Processor time of the main thread, which has the event loop, and of all other threads.
    """

    flushes: int
    main_s: float
    others_s: float


@dataclass(slots=True)
class Figures:
    """
    Everything measured, one entry per round.

    Attributes:
        saturated: By server, closed loop.
        paced: By server, open loop at half of the headline's rate in the same round.
        inside: By server, closed loop.
        skipped: Sentences on what could not be measured.
    """

    saturated: dict[str, list[Load]] = field(default_factory=dict)
    paced: dict[str, list[Load]] = field(default_factory=dict)
    inside: dict[str, list[Inside]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


class Comparison:
    """
    Args:
        folder: An empty one on a real disk.
        core: Where the servers run; the caller runs on another one.
        against: Another checkout, or None.
    """

    def __init__(self, folder: Path, *, core: int, rounds: int, seconds: float, against: Path | None = None) -> None:
        self._folder = folder
        self._core = core
        self._rounds = rounds
        self._seconds = seconds
        self._against = against
        self._jobs = Jobs()
        self._acknowledged: Counter[str] = Counter()
        self._servers: dict[str, Server] = {}
        self.figures = Figures()

    async def run(self) -> Figures:
        """
        Raises:
            InvalidRun: A server did not start, an answer was wrong or missing, or work was lost.
        """
        receiver = SilentReceiver()
        try:
            self._start(receiver)
            # Collections of the generator's own would be seen as latency.
            gc.collect()
            gc.freeze()
            gc.disable()
            for name in self._servers:
                await self._saturate(name, window_s=FIRST_WARM_UP_S)
            for number in range(self._rounds):
                await self._round(number)
            for server in self._servers.values():
                server.stop()
            self._check()
        finally:
            gc.enable()
            gc.unfreeze()
            for server in self._servers.values():
                server.kill()
            receiver.close()
        return self.figures

    def _start(self, receiver: SilentReceiver) -> None:
        folder, core = self._folder, self._core
        starts: list[Callable[[], Server | None]] = [
            lambda: start_bare(folder, core=core),
            *[
                partial(
                    start_service,
                    name,
                    folder / inside,
                    core=core,
                    receiver=None if name == NO_SINK else receiver.address,
                    checkout=(self._against if name == AGAINST else None) or CHECKOUT,
                )
                for name, inside in _FOLDERS.items()
                if name != AGAINST or self._against is not None
            ],
            *[partial(start, folder, core=core) for start in (start_flask, start_fastapi, *_DEBIANS.values())],
        ]
        for start in starts:
            if (server := start()) is not None:
                self._servers[server.name] = server
        self.figures.skipped += [
            f"{name} was not measured: the Debian package is not installed."
            for name in _DEBIANS
            if name not in self._servers
        ]

    async def _round(self, number: int) -> None:
        names = list(self._servers)
        # Another one begins each time, so that none always follows the same one.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            load, inside = await self._saturate(name, window_s=self._seconds)
            self.figures.saturated.setdefault(name, []).append(load)
            self.figures.inside.setdefault(name, []).append(inside)
            progress(f"round {number + 1} of {self._rounds}: {name} {load.rate:,.0f}/s")
        rate = self.figures.saturated[DURABLE][-1].rate / 2
        for name in (DURABLE, "bare"):
            load = await open_loop(
                self._servers[name].address,
                self._requests(name),
                rate=rate,
                warm_up_s=WARM_UP_S,
                window_s=self._seconds,
            )
            self._acknowledged[name] += load.acknowledged
            self.figures.paced.setdefault(name, []).append(load)
            p99_ms = load.quantile_s(0.99) * 1000
            progress(f"round {number + 1} of {self._rounds}: {name} at {rate:,.0f}/s, p99 {p99_ms:.1f} ms")

    async def _saturate(self, name: str, *, window_s: float) -> tuple[Load, Inside]:
        server, marks = self._servers[name], []

        def mark() -> None:
            marks.append((flushes(self._folder / _FOLDERS[DURABLE]), *thread_seconds(server.process.pid)))

        with ExitStack() as watching:
            if name == WATCHED and server.admin is not None:
                watching.enter_context(watched("{}:{}".format(*server.admin)))
            load = await closed_loop(
                server.address, self._requests(name), warm_up_s=WARM_UP_S, window_s=window_s, mark=mark
            )
        self._acknowledged[name] += load.acknowledged
        begin, end = marks
        return load, Inside(end[0] - begin[0], end[1] - begin[1], end[2] - begin[2])

    def _requests(self, name: str) -> Callable[[], bytes]:
        server = self._servers[name]
        return self._jobs.requests(now=datetime.now(UTC), path=server.path, headers=server.headers)

    def _check(self) -> None:
        for name, folder in _FOLDERS.items():
            if name not in self._servers:
                continue
            check_counts(
                name, count_rows(self._folder / folder), acknowledged=self._acknowledged[name], has_sink=name != NO_SINK
            )
            progress(f"{name}: all of {self._acknowledged[name]:,} acknowledged jobs are stored, each once")
        for name in ("flask", "fastapi"):
            check_one_commit(self._folder, name, acknowledged=self._acknowledged[name])


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def choose_cores() -> tuple[int, int]:
    """
    One for the servers, one for the load.

    Raises:
        InvalidRun: There are not two.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise InvalidRun("the load needs a core of its own, and this process may use only one")
    return cores[0], cores[1]
