"""
A service, and a real broker (of Alibaba Cloud's, one that is played) that is killed and started again while jobs end, at
times together with the service.

What was acknowledged to the vendor is in the broker in the end; of each job the first outcome before the second; and
what is there twice has the same id.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from media_callbacks.config.settings import build_settings
from media_callbacks.sources.base import CallbackSource
from tests.exercises.bench.filling import count_sqlite
from tests.exercises.bench.servers import VENDOR
from tests.exercises.chaos.clouds import CLOUDS, KeptCloud
from tests.exercises.chaos.cluster import Instance, free_ports
from tests.exercises.chaos.report import Report
from tests.factories.brokers.broker import Broker, Stored
from tests.factories.brokers.kinds import BROKERS
from tests.factories.running import build_payload, make_source, make_tables, sign, to_toml

BUSES: Mapping[str, type[Broker] | type[KeptCloud]] = {**BROKERS, **CLOUDS}
HEALING_S = 120.0
_AT_ONCE = 50
_ANSWER_S = 10.0
_FROZEN_S = 0.3

Outcome = tuple[str, str]


async def run_bus_chaos(
    folder: Path, kind: str, *, seed: int, jobs: int, rate_per_s: float, kills: int, service_kills: int
) -> Report:
    """
    Raises:
        NoBroker: There is none of this kind here.
    """
    report = Report(seed)
    rng = random.Random(f"{seed}:{kind}")
    broker = BUSES[kind](folder / kind)
    broker.start()
    instance = Instance("service", folder, port=free_ports(1)[0], complain=report.violations.append)
    try:
        await broker.prepare()
        source = _configure(instance, broker, folder)
        await instance.start()
        vendor = _Vendor(instance, source, rng)
        moments = sorted(rng.uniform(0.1, 0.9) for _ in range(kills))
        with_service = set(rng.sample(range(kills), service_kills))
        sending = asyncio.create_task(vendor.run(jobs, rate_per_s))
        for number, moment in enumerate(moments):
            await vendor.until(moment * jobs)
            began = vendor.now
            broker.freeze()
            await asyncio.sleep(_FROZEN_S)
            broker.kill()
            if number in with_service:
                instance.kill()
            await asyncio.sleep(rng.uniform(0.2, 3.0))
            await asyncio.to_thread(broker.start)
            if number in with_service:
                await instance.start()
            report.incidents.append(
                f"{began:.1f} to {vendor.now:.1f} s: killed {'both' if number in with_service else kind}"
            )
        await sending
        waiting = await _heal(folder)
        await instance.stop()
        stored = await broker.read()
        report.violations += [f"{waiting} deliveries are not done in the end"] if waiting else []
        report.violations += _judge(vendor.acknowledged, vendor.sent, stored, broker)
        ids = Counter(each.identity for each in stored)
        report.figures = {
            "bus": kind,
            "jobs": jobs,
            "acknowledged": len(vendor.acknowledged),
            "kills": kills,
            "kills_of_the_service": service_kills,
            "messages": len(stored),
            "events": len(ids),
            "again": len(stored) - len(ids),
            "retried": _count(folder, "SELECT count(*) FROM attempts WHERE result = 'retrying'"),
            "seconds": round(vendor.now, 1),
        }
    finally:
        instance.kill()
        broker.stop()
    return report


def _configure(instance: Instance, broker: Broker | KeptCloud, folder: Path) -> CallbackSource:
    changes: dict[str, Any] = {
        "server.port": instance.port,
        "vendor.main": VENDOR,
        # Nothing may be given up in a run, and little waited for at its end.
        "sinks.bus": broker.table() | {"timeout_s": 3.0, "retry_delays_s": [1] * 50},
    }
    tables = make_tables(folder, {}, changes)
    instance.config.write_text(to_toml(tables))
    return make_source("vod", build_settings(tables, environ={}))


class _Vendor:
    """Every job ends twice: it fails, and is run again. It says so until it is answered with success."""

    def __init__(self, instance: Instance, source: CallbackSource, rng: random.Random) -> None:
        self.sent: set[Outcome] = set()
        self.acknowledged: set[Outcome] = set()
        self._instance = instance
        self._source = source
        self._rng = rng
        self._begun = 0
        self._start = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self._start

    async def until(self, jobs: float) -> None:
        while self._begun < jobs:  # noqa: ASYNC110 - it is time that passes
            await asyncio.sleep(0.02)

    async def run(self, jobs: int, rate_per_s: float) -> None:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            places = asyncio.Semaphore(_AT_ONCE)
            for number in range(jobs):
                await places.acquire()
                self._begun += 1
                job = group.create_task(self._end(session, f"{self._rng.getrandbits(128):032x}"))
                job.add_done_callback(lambda _: places.release())
                await asyncio.sleep(max(number / rate_per_s - self.now, 0))

    async def _end(self, session: aiohttp.ClientSession, job_id: str) -> None:
        for outcome in ("failed", "succeeded"):
            self.sent.add((job_id, outcome))
            payload = build_payload(self._source, job_id, failed=outcome == "failed")
            while not await self._send(session, job_id, payload):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.2)
            self.acknowledged.add((job_id, outcome))

    async def _send(self, session: aiohttp.ClientSession, job_id: str, payload: Any) -> bool:
        request = sign(self._source, payload, job_id=job_id)
        url = f"http://{self._instance.address}{request.target}"
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.post(url, data=request.body, headers=request.headers) as answer:
                return answer.status == 200
        return False


async def _heal(folder: Path) -> int:
    """How many deliveries are not done after all that time."""
    deadline = time.monotonic() + HEALING_S
    sql = "SELECT count(*) FROM deliveries WHERE state <> 'delivered'"
    while (waiting := await asyncio.to_thread(_count, folder, sql)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return waiting


def _count(folder: Path, sql: str) -> int:
    return count_sqlite(folder / "inbox.db", sql)


def _judge(
    acknowledged: set[Outcome], sent: set[Outcome], stored: Sequence[Stored], broker: Broker | KeptCloud
) -> Iterator[str]:
    first: dict[Outcome, int] = {}
    last: dict[Outcome, int] = {}
    ids: dict[Outcome, set[str]] = {}
    for position, message in enumerate(stored):
        document = json.loads(message.body)
        data = document["data"]
        what = data["job_id"], data["outcome"]
        first.setdefault(what, position)
        last[what] = position
        ids.setdefault(what, set()).add(document["id"])
        if message.identity != document["id"]:
            yield f"{what} was sent as {message.identity} and is {document['id']}"
        if message.name != broker.name_of(message.body):
            yield f"{what} is in {message.name}"
    yield from (f"lost: {what}" for what in sorted(acknowledged - first.keys()))
    yield from (f"nobody sent: {what}" for what in sorted(first.keys() - sent))
    yield from (f"{what} has the ids {sorted(found)}" for what, found in ids.items() if len(found) > 1)
    for (job_id, outcome), position in first.items():
        if outcome == "succeeded" and last.get((job_id, "failed"), len(stored)) > position:
            yield f"{job_id}: its second outcome came before its first, or before the first came again"
    if broker.deduplicates and len(stored) != len(first):
        yield f"{len(stored)} messages of {len(first)} events, in a broker that knows repetitions"
