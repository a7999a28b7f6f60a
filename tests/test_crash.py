"""A process killed at any moment loses nothing that it has acknowledged, and makes no second event of it."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from media_callbacks.model.events import parse_event
from media_callbacks.rehearsal.simulate import PAYLOADS, http_request
from media_callbacks.sources.products import vod
from media_callbacks.sources.transports.http import HttpSource
from tests.factories.running import PATIENCE_S

KILLS = 20
CLIENTS = 12

SOURCE = HttpSource(
    name="vod",
    product="vod",
    account="default",
    path="/callbacks/vod",
    urls=("https://cb.example.com/callbacks/vod",),
    keys=("Example1Key",),
    max_age_s=300,
    parser=vod.parse,
)


class Consumer:
    """The webhook's receiver: remembers which job came under which event ids."""

    def __init__(self) -> None:
        self.event_ids: dict[str, set[str]] = {}
        self.attempts = 0
        self.arrived = asyncio.Event()

    async def receive(self, request: web.Request) -> web.Response:
        event = parse_event(await request.read())
        assert event.id == request.headers["webhook-id"]
        self.event_ids.setdefault(str(event.data.job_id), set()).add(event.id)
        self.attempts += 1
        self.arrived.set()
        return web.Response()

    async def until_all_came(self, job_ids: set[str]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not job_ids <= self.event_ids.keys():
                self.arrived.clear()
                await self.arrived.wait()


@asynccontextmanager
async def serving(consumer: Consumer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", consumer.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def start(config: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "media_callbacks",
        "serve",
        "--config",
        str(config),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while line := await process.stderr.readline():
            if json.loads(line)["event"] == "listening":
                return process
    raise AssertionError("the service ended before it listened")


async def drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while await process.stderr.readline():
        pass


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_nothing_acknowledged_is_lost_and_nothing_comes_twice_as_two(tmp_path: Path) -> None:
    rng = random.Random(20260102)
    consumer, acknowledged, port = Consumer(), set[str](), free_port()
    async with serving(consumer) as webhook_url:
        config = tmp_path / "media-callbacks.toml"
        config.write_text(
            f"""
            [server]
            host = "127.0.0.1"
            port = {port}
            drain_s = 0
            [admin]
            port = 0
            [store]
            url = "sqlite:///{tmp_path}/crash.db"
            [sources.vod]
            product = "vod"
            transport = "http"
            path = "{SOURCE.path}"
            url = "{SOURCE.urls[0]}"
            keys = ["{SOURCE.keys[0]}"]
            [sinks.consumer]
            kind = "webhook"
            url = "{webhook_url}"
            secrets = ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]
            """
        )
        sent = 0

        async def client(session: aiohttp.ClientSession, enough: asyncio.Event, kill_after: int) -> None:
            nonlocal sent
            while not enough.is_set():
                sent += 1
                job_id = f"job-{sent:06d}"
                now = datetime.now(UTC)
                request = http_request(SOURCE, PAYLOADS["vod"]["DynamicImageComplete"](job_id, now, False), now=now)
                try:
                    async with session.post(
                        f"http://127.0.0.1:{port}{request.target}", data=request.body, headers=request.headers
                    ) as response:
                        assert response.status == 200
                        acknowledged.add(job_id)
                except (aiohttp.ClientError, OSError):
                    return  # killed in between: this one was promised nothing
                if len(acknowledged) >= kill_after:
                    enough.set()

        for _ in range(KILLS):
            process = await start(config)
            reading = asyncio.create_task(drain(process))
            enough = asyncio.Event()
            kill_after = len(acknowledged) + rng.randint(1, 150)
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session:
                clients = [asyncio.create_task(client(session, enough, kill_after)) for _ in range(CLIENTS)]
                await enough.wait()
                # The others are in the middle of something.
                process.send_signal(signal.SIGKILL)
                await process.wait()
                await asyncio.gather(*clients)
            await reading

        process = await start(config)
        reading = asyncio.create_task(drain(process))
        await consumer.until_all_came(acknowledged)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
        await reading

    assert len(acknowledged) >= KILLS
    assert all(len(ids) == 1 for ids in consumer.event_ids.values())
    print(f"{KILLS} kills, {sent} sent, {len(acknowledged)} acknowledged, {consumer.attempts} attempts seen")
