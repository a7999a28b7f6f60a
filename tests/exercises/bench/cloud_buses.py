"""
What Alibaba Cloud has of queues, topics and buses, as the fake cloud plays it, for the measurement of delivering:

    python -m tests.exercises.bench.cloud_buses PORT [RECORD]

is the fake on a port, and what it has been sent it counts and forgets. With RECORD each request that it takes is in
that file before it is answered, as JSON on a line. It is written in Python, too, and slower than
whoever sends: what counts of these rows is processor time.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import uvicorn
from alibabacloud_eventbridge import models
from alibabacloud_eventbridge.client import Client as EventBridgeSdk
from mns.account import Account
from mns.queue import Message
from mns.topic import Base64TopicMessage
from starlette.requests import Request
from starlette.responses import JSONResponse

from media_callbacks.rehearsal.fake_cloud.buses import FakeBuses
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from media_callbacks.rehearsal.fake_cloud.queues import FakeQueues
from media_callbacks.timing.clock import utc_now
from tests.exercises.bench.servers import VENDOR
from tests.factories.brokers.broker import Process, each, free_port

NAME = "media"
_BATCH = 16


class CloudBus:
    """As far as it is a ``Broker``."""

    kind: ClassVar[str]
    name_key: ClassVar[str]
    record: Path | None = None

    def __init__(self, folder: Path) -> None:
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", __name__, str(self.port)]
        if self.record is not None:
            command.append(str(self.record))
        self._process = Process(command, ready=b"ready")

    def stop(self) -> None:
        self._process.kill()

    def table(self) -> dict[str, Any]:
        return {"kind": self.kind, "endpoint": self.url, self.name_key: NAME}

    async def prepare(self) -> None:
        await self._ask("/new")

    async def count(self) -> int:
        return await self._ask("/count")

    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        raise NotImplementedError

    async def _ask(self, path: str) -> int:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            found: int = await response.json()
            return found


class CloudQueue(CloudBus):
    kind, name_key = "mns-queue", "queue"

    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        """In threads, for the client blocks; each with a client of its own, for it is for one thread alone."""
        texts = [body.decode() for body in bodies]
        batches = iter([texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)])

        def work() -> None:
            queue = _account(self.url).get_queue(NAME)
            for batch in batches:
                queue.batch_send_message([Message(text) for text in batch])

        await _in_threads(work, at_once // _BATCH)


class CloudTopic(CloudBus):
    kind, name_key = "mns-topic", "topic"

    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        texts = iter([body.decode() for body in bodies])

        def work() -> None:
            topic = _account(self.url).get_topic(NAME)
            for text in texts:
                topic.publish_message(Base64TopicMessage(text))

        await _in_threads(work, at_once)


class CloudEventBus(CloudBus):
    kind, name_key = "aliyun-eventbridge", "event_bus"

    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        config = models.Config(
            access_key_id=VENDOR["access_key_id"],
            access_key_secret=VENDOR["access_key_secret"],
            endpoint=self.url.removeprefix("http://"),
            protocol="http",
        )
        client = EventBridgeSdk(config)

        async def put(batch: Sequence[bytes]) -> None:
            events = []
            for document in map(json.loads, batch):
                data = json.dumps(document.pop("data")).encode()
                events.append(models.CloudEvent(**document, data=data, extensions={"aliyuneventbusname": NAME}))
            assert (await client.put_events_async(events)).failed_entry_count == 0

        batches = [bodies[start : start + _BATCH] for start in range(0, len(bodies), _BATCH)]
        await each(batches, put, at_once=at_once // _BATCH)


CLOUD_BUSES = {bus.kind: bus for bus in (CloudQueue, CloudTopic, CloudEventBus)}


def _account(url: str) -> Account:
    return Account(url, VENDOR["access_key_id"], VENDOR["access_key_secret"])


async def _in_threads(work: Any, number: int) -> None:
    # Taking the next from an iterator is one step under the interpreter's lock.
    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(number)))


def main(port: int, record: Path | None = None) -> None:
    key_id, secret = VENDOR["access_key_id"], VENDOR["access_key_secret"]
    made: dict[str, Any] = {}
    before = 0

    def make() -> None:
        made["queues"] = FakeQueues(clock=utc_now, credentials={key_id: secret})
        made["queues"].create(NAME)
        made["queues"].topics.create(NAME)
        made["buses"] = FakeBuses({key_id: AccessKey(secret)}, utc_now)
        made["buses"].create(NAME)

    def count() -> int:
        nonlocal before
        queue, events = made["queues"]._queues[NAME].messages, made["buses"].events[NAME]
        before += len(queue) + len(events)
        queue.clear()
        events.clear()
        published: int = made["queues"].topics._topics[NAME].published
        return before + published

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal before
        path: str = scope["path"]
        if path.startswith(("/queues", "/topics")):
            await made["queues"](scope, receive, send)
            return
        request = Request(scope, receive)
        if path.startswith("/openapi/"):
            response = made["buses"].respond(request, await request.body())
        else:
            if path == "/new":
                before = 0
                make()
            response = JSONResponse(count())
        await response(scope, receive, send)

    async def recording(scope: Any, receive: Any, send: Any) -> None:
        body = b""

        async def hear() -> Any:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def answer(message: Any) -> None:
            if body and message.get("status") in (200, 201):
                file.write(f"{json.dumps(body.decode())}\n")
                file.flush()
            await send(message)

        await app(scope, hear, answer)

    make()
    file = (record or Path(os.devnull)).open("a", encoding="utf-8")
    config = uvicorn.Config(
        app if record is None else recording, port=port, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0)
        print("ready", flush=True)
        await task

    asyncio.run(serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
