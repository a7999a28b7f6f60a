"""Telling: what is sent about jobs, when, and what came of it."""

import asyncio
import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import aiohttp
from yarl import URL

from media_callbacks.http_client.session import open_session
from media_callbacks.rehearsal.fake_cloud.callbacks import (
    Destination,
    HttpDestination,
    QueueDestination,
    Sending,
    build_request,
    describe,
    lie,
)
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob
from media_callbacks.rehearsal.fake_cloud.queues import FakeQueues
from media_callbacks.rehearsal.payloads import Json
from media_callbacks.rehearsal.simulate import MnsSigner, PushFormat
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.timing.waiting import wait_for

# What it is called when no connection could be made, so that nothing can have been understood.
_NOBODY = aiohttp.ClientConnectorError.__name__
# Callbacks that are under way at once.
CONCURRENCY = 32
# Longer than nothing is due; whoever plans something wakes the teller.
_LONG_S = 60.0


class Teller:
    """
    Sends callbacks when they are due by the clock, a bounded number at once.

    Attributes:
        to: Scheme, host and port of the service. May be set at any time.
        counts: Of attempts, by source and what came of it: a status, ``queue`` or the name of an error.
    """

    def __init__(
        self,
        to: str,
        queues: FakeQueues,
        *,
        seed: int,
        timing: Timing,
        clock: Callable[[], datetime],
        signer: MnsSigner | None,
        push_format: PushFormat,
    ) -> None:
        self.to = to
        self.counts: Counter[tuple[str, str]] = Counter()
        self._queues, self._seed, self._timing, self._clock = queues, seed, timing, clock
        self._signer, self._push_format = signer, push_format
        self._chance = random.Random(f"{seed}:retries")  # noqa: S311 - chance, no secret
        # Everything that is to be sent, by time. One heap, not a timer for each.
        self._due: list[tuple[float, int, Sending]] = []
        self._order = itertools.count()
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._session: aiohttp.ClientSession | None = None
        self._failure: BaseException | None = None

    def plan(self, job: CloudJob, destinations: Sequence[Destination], faults: Faults, rng: random.Random) -> None:
        """Decide all that will be sent about the job, so that it hangs on nothing but seed and faults."""
        ends_at = job.ends_at.timestamp()
        is_silent = job.is_lost or job.outcome == "cancelled"
        for destination in destinations:
            due = ends_at + (rng.uniform(*faults.delay_s) if rng.random() < faults.delay else 0.0)
            due += rng.uniform(0, faults.reorder_s) if rng.random() < faults.reordering else 0.0
            is_doubled = rng.random() < faults.duplication
            if not is_silent:
                self._push(due, Sending(job, destination))
                if is_doubled:
                    self._push(due + rng.uniform(0, faults.delay_s[1]), Sending(job, destination))
            if isinstance(destination, QueueDestination):
                continue
            for veracity, rate in (("forged", faults.forgery), ("altered", faults.alteration)):
                if rng.random() < rate:
                    lie_due = max(job.submitted_at.timestamp(), due + rng.uniform(-1, 1))
                    self._push(lie_due, Sending(job, destination, "forged" if veracity == "forged" else "altered"))
        self._wake.set()

    def _push(self, due: float, sending: Sending) -> None:
        heapq.heappush(self._due, (due, next(self._order), sending))
        self._idle.clear()

    @property
    def backlog(self) -> int:
        """How much is still to be sent, or under way."""
        return len(self._due) + len(self._under_way)

    async def settled(self) -> None:
        """Until there is nothing left to be sent. Needs ``run``."""
        while self.backlog:
            self._idle.clear()
            await self._idle.wait()
            self.raise_failure()

    async def run_due(self) -> None:
        """Send what is due by the clock, and wait until it is answered. Needs ``sending``."""
        while await self._start_due():
            await asyncio.gather(*self._under_way, return_exceptions=True)
            self.raise_failure()

    def raise_failure(self) -> None:
        """A mistake of this cloud is no fault of the network."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _start_due(self) -> bool:
        started = False
        while self._due and self._due[0][0] <= self._clock().timestamp():
            await self._slots.acquire()
            *_, sending = heapq.heappop(self._due)
            task = asyncio.create_task(self._attempt(sending))
            self._under_way.add(task)
            task.add_done_callback(self._done)
            started = True
        return started

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        if not self.backlog or self._failure is not None:
            self._idle.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            await self._start_due()
            delay_s = self._due[0][0] - self._clock().timestamp() if self._due else _LONG_S
            await wait_for(self._wake, min(_LONG_S, max(0.0, delay_s)))

    async def _attempt(self, sending: Sending) -> None:
        job, destination = sending.job, sending.destination
        if isinstance(destination, QueueDestination):
            self._write(job, destination)
            return
        status = await self._post(sending, destination)
        self.counts[destination.name, status] += 1
        # VOD and IMS take 200 for an answer, MNS anything of the sort; of GIF tasks nothing is known.
        is_taken = status == "200" or (status.startswith("2") and not isinstance(destination, HttpSource))
        if sending.veracity != "true":
            job.lied_about += is_taken and sending.veracity == "altered"
            return
        if is_taken:
            job.told += 1
            return
        job.refused += 1
        job.unanswered += not status.isdigit() and status != _NOBODY
        delays = self._retries(destination)
        if sending.attempt < len(delays):
            due = self._clock().timestamp() + delays[sending.attempt]
            self._push(due, Sending(job, destination, "true", sending.attempt + 1))
            self._wake.set()

    def _write(self, job: CloudJob, destination: QueueDestination) -> None:
        try:
            self._queues.send(destination.queue, json.dumps(describe(job, job.outcome), ensure_ascii=False))
        except KeyError:
            self.counts[destination.name, "QueueNotExist"] += 1
            job.refused += 1
        else:
            self.counts[destination.name, "queue"] += 1
            job.told += 1

    async def _post(self, sending: Sending, destination: HttpDestination) -> str:
        assert self._session is not None, "expected to be used inside running() or sending()"
        request = build_request(
            sending,
            destination,
            now=self._clock(),
            rng=self._chance_of_lie(sending.job),
            signer=self._signer,
            push_format=self._push_format,
        )
        url = URL(self.to.rstrip("/") + request.target, encoded=True)
        try:
            async with self._session.request(
                request.method, url, data=request.body, headers=request.headers, allow_redirects=False
            ) as response:
                return str(response.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return type(error).__name__

    def _chance_of_lie(self, job: CloudJob) -> random.Random:
        return random.Random(f"{self._seed}:{job.number}:lie")  # noqa: S311 - chance, no secret

    def lie_about(self, job: CloudJob) -> Json:
        """What altered callbacks about it say, the same each time."""
        return lie(job, self._chance_of_lie(job))

    def _retries(self, destination: HttpDestination) -> tuple[float, ...]:
        if isinstance(destination, HttpSource):
            return self._timing.http_retries_s
        if isinstance(destination, MnsPushSource):
            return tuple(self._chance.uniform(*bounds) for bounds in self._timing.push_retries_s)
        return ()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Able to send."""
        timeout = aiohttp.ClientTimeout(total=self._timing.attempt_s)
        async with open_session(timeout=timeout, max_connections=CONCURRENCY) as self._session:
            try:
                yield
            finally:
                for task in tuple(self._under_way):
                    task.cancel()
                await asyncio.gather(*self._under_way, return_exceptions=True)
        self._session = None
        self.raise_failure()
