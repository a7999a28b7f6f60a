"""The queues of the fake cloud on a real socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn

from media_callbacks.aliyun.credentials import Credentials, StaticCredentials
from media_callbacks.aliyun.mns import MnsQueue
from media_callbacks.rehearsal.fake_cloud.queues import FakeQueues

KEY_ID, SECRET = "LTAI-queue-tester", "secret-of-queue-tester"
QUEUE = "mts-done"


class Clock:
    """Real time, moved by what a test adds."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Credentialed(StaticCredentials):
    """Counts how often it was told that the credentials are not right."""

    def __init__(self, secret: str = SECRET, token: str | None = None, key_id: str = KEY_ID) -> None:
        super().__init__(Credentials(access_key_id=key_id, access_key_secret=secret, security_token=token))
        self.invalidated = 0
        self.following: list[Credentials] = []

    def invalidate(self) -> None:
        self.invalidated += 1
        if self.following:
            super().__init__(self.following.pop(0))


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a port of its own. Gives its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        # As its own shutdown, without the tenth of a second that it waits.
        for listening in server.servers:
            listening.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)


@asynccontextmanager
async def serving_queues(**options: Any) -> AsyncIterator[tuple[FakeQueues, str]]:
    options.setdefault("clock", Clock())
    queues = FakeQueues(credentials={KEY_ID: SECRET}, **options)
    queues.create(QUEUE)
    async with serving(queues) as url:
        yield queues, url


@asynccontextmanager
async def client_of(
    url: str,
    *,
    credentials: Credentialed | None = None,
    clock: Callable[[], datetime] | None = None,
    queue: str = QUEUE,
    **options: Any,
) -> AsyncIterator[MnsQueue]:
    client = MnsQueue(url, queue, credentials=credentials or Credentialed(), clock=clock or Clock(), **options)
    try:
        yield client
    finally:
        await client.close()
