"""The operators' API over a real store, without the rest of a service, for tests that ask it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from media_callbacks.admin.api import AdminApi
from media_callbacks.admin.feed import Feed
from media_callbacks.admin.guard import AdminGuard
from media_callbacks.admin.waiting import JobWatch
from media_callbacks.config.sources import SourceSettings
from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.edge.admin_protocol import make_admin_protocol
from media_callbacks.edge.answers import Refusals
from media_callbacks.edge.connections import Connections, Turns
from media_callbacks.healing.queries.base import Family
from media_callbacks.inbox.records import AttemptResult
from media_callbacks.observe.metrics import Metrics
from media_callbacks.observe.refused import RefusedRequests
from media_callbacks.process.server import QuietServer
from media_callbacks.timing.clock import utc_now
from media_callbacks.timing.limited_log import LimitedLog
from media_callbacks.timing.waiting import Wait, wait_for
from tests.inbox.conformance import make_event, make_receipt
from tests.inbox.timed import TimedSqliteInbox

NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
SINKS = {"orders": "webhook", "bus": "sqs"}
FAMILIES = {
    "vod": {
        "animated_image": Family(kind="animated_image", needs_media_id=True),
        "transcode": Family(kind="transcode"),
    },
    "ims": {"TranscodeComplete": Family(kind="transcode")},
    "mts": {"transcode": Family(kind="transcode", batch=10), "run": Family(kind="workflow")},
    "multimediaai": {"animated_image": Family(kind="animated_image"), "cover": Family(kind="snapshot")},
}
DEADLINE_S = 1800.0


@dataclass
class Operators:
    """
    Attributes:
        wait: How those wait who wait for jobs.
        sources: Tables of the configured sources.
        refusing_queues: What queues say that let nothing be fetched, by source.
        created: How often a replay was told of.
        registered: How often the registration of jobs was.
    """

    inbox: TimedSqliteInbox
    wait: Wait = wait_for
    breakers: dict[str, BreakerState] = field(default_factory=lambda: {"orders": "open", "bus": "closed"})
    metrics: Metrics = field(default_factory=Metrics)
    sources: dict[str, SourceSettings] = field(default_factory=dict)
    refusing_queues: dict[str, str] = field(default_factory=dict)
    created: int = 0
    registered: int = 0

    def __post_init__(self) -> None:
        self.now = NOW
        self.watch = JobWatch(self.inbox, wait=self.wait)
        self.feed = Feed(self.inbox)
        self.api = AdminApi(
            self.inbox,
            sinks=SINKS,
            sources=self.sources,
            breaker_states=lambda: self.breakers,
            clock=lambda: self.now,
            replay_created=self._count,
            metrics=self.metrics,
            watch=self.watch,
            families=FAMILIES,  # type: ignore[arg-type]
            deadline_s=DEADLINE_S,
            jobs_registered=self._count_registration,
            refusing_queues=lambda: self.refusing_queues,
            feed=self.feed,
        )
        self._app = AdminGuard(self.api.app(), tokens=())

    @property
    def now(self) -> datetime:
        return self.inbox.clock.now

    @now.setter
    def now(self, now: datetime) -> None:
        self.inbox.clock.now = now

    def _count(self) -> None:
        self.created += 1

    def _count_registration(self) -> None:
        self.registered += 1

    async def ask(self, method: str, target: str, **options: Any) -> httpx2.Response:
        transport = httpx2.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081") as client:
            return await client.request(method, target, **options)

    async def get(self, target: str, **parameters: str) -> Any:
        """The answer to a good question."""
        answer = await self.ask("GET", target, params=parameters or None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, target: str, body: Any = None) -> tuple[int, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self.ask("POST", target, content=content, headers={"content-type": "application/json"})
        return answer.status_code, answer.json()

    async def put(self, *job_ids: str, sinks: tuple[str, ...] = ("orders",), at: datetime = NOW) -> list[str]:
        """Keep events; gives their ids."""
        events, now = [make_event(job_id) for job_id in job_ids], self.now
        for event in events:
            await self.inbox.put(make_receipt(event, sinks=sinks, at=at))
        self.now = now
        return [event.id for event in events]

    async def attempt(self, sink: str, state: Any, *, error: str | None = None, limit: int = 100) -> None:
        """One attempt for everything that is due; retrying is due a day later."""
        claimed = await self.inbox.claim(sink, limit=limit, now=self.now, lease_s=20.0)
        results = [
            AttemptResult(delivery, state, delay_s=86400, error=error, started_at=self.now, duration_s=0.25)
            for delivery in claimed
        ]
        assert all(await self.inbox.record(results, now=self.now))


@asynccontextmanager
async def operating(folder: Path, *, wait: Wait = wait_for) -> AsyncIterator[Operators]:
    """Args: wait: How those wait who wait for jobs."""
    inbox = TimedSqliteInbox(folder / "inbox.db")
    await inbox.open()
    operators = Operators(inbox, wait)
    operators.watch.start()
    operators.feed.start()
    try:
        yield operators
    finally:
        await operators.watch.stop()
        await operators.feed.stop()
        await inbox.close()


@asynccontextmanager
async def serving(operators: Operators, *, token: str | None, jobs_token: str | None = None) -> AsyncIterator[str]:
    """The operators' listener on loopback. Gives its URL."""
    tokens, jobs_tokens = (() if one is None else (one,) for one in (token, jobs_token))
    guarded = AdminGuard(operators.api.app(), tokens=tokens, jobs_tokens=jobs_tokens)
    protocol = make_admin_protocol(
        Connections(limit=100 + operators.watch.most, tick_s=1.0),
        Refusals(operators.metrics, LimitedLog(), RefusedRequests(utc_now)),
        Turns(each=2),
        request_timeout_s=30.0,
    )
    config = uvicorn.Config(guarded, "127.0.0.1", 0, http=protocol, lifespan="off", log_config=None)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
