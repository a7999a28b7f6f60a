"""The consumer: a webhook that verifies, remembers what came in which order, and fails when it is told to."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from standardwebhooks.webhooks import Webhook

from tests.factories.running import WEBHOOK_SECRET

Mood = Literal["well", "failing", "flaky", "hanging"]
# Longer than the sink's time-out in every configuration here.
_HANG_S = 4.0

Completion = tuple[str, str, str]
"""Product, job id and outcome: what one event id stands for."""


@dataclass(slots=True)
class Event:
    """
    What the consumer knows of one event id.

    Attributes:
        first_at: The number of the arrival that brought it first.
        taken_at: That of the first one that was answered with success; None when none was.
        arrivals: How often it came.
        again: How often it came after it had been taken.
        data: Of the first arrival.
    """

    id: str
    completion: Completion
    revision: int
    first_at: int
    taken_at: int | None = None
    arrivals: int = 0
    again: int = 0
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> tuple[str, str]:
        return self.completion[:2]


@dataclass
class Consumer:
    """
    Attributes:
        refused: Arrivals whose signature does not hold, or no longer: such as from a service whose clock is off.
        changed: Events that came with another content under the same id.
    """

    rng: random.Random
    mood: Mood = "well"
    events: dict[str, Event] = field(default_factory=dict)
    taken: set[Completion] = field(default_factory=set)
    arrivals: int = 0
    refused: int = 0
    changed: list[str] = field(default_factory=list)
    url: str = ""

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            Webhook(WEBHOOK_SECRET).verify(body, dict(request.headers))
        except Exception:  # noqa: BLE001 - whatever is wrong with it
            self.refused += 1
            return web.Response(status=401)
        self.arrivals += 1
        at = self.arrivals
        event = self._remember(json.loads(body), at)
        if self.mood == "hanging":
            await asyncio.sleep(_HANG_S)
        if self.mood in ("failing", "hanging") or (self.mood == "flaky" and self.rng.random() < 0.4):
            return web.Response(status=500)
        if event.taken_at is None:
            event.taken_at = at
            self.taken.add(event.completion)
        return web.Response(status=204)

    def _remember(self, found: dict[str, object], at: int) -> Event:
        data = found["data"]
        assert isinstance(data, dict)
        completion = (str(data["product"]), str(data["job_id"]), str(data["outcome"]))
        event_id = str(found["id"])
        event = self.events.setdefault(event_id, Event(event_id, completion, int(data["revision"]), at, data=data))
        if (event.completion, event.revision) != (completion, data["revision"]):
            self.changed.append(event_id)
        event.arrivals += 1
        event.again += event.taken_at is not None
        return event


@asynccontextmanager
async def consuming(rng: random.Random) -> AsyncIterator[Consumer]:
    consumer = Consumer(rng)
    app = web.Application()
    app.router.add_post("/events", consumer.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        consumer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        yield consumer
    finally:
        await runner.cleanup()
