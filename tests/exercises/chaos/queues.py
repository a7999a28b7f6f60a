"""The vendor's queues, one for each product that writes to one. All instances fetch from all of them."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.types import Receive, Scope, Send

from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.fake_cloud.listening import listening
from media_callbacks.rehearsal.fake_cloud.queues import FakeQueues, QueueFaults

# IMS writes only to queues whose names begin so.
QUEUES: Mapping[Product, str] = {"vod": "vod-events", "ims": "ice-callback-events", "mts": "mts-events"}
# Shorter than an instance is paused: another one gets what it has received, and then it goes on.
VISIBILITY_S = 4
_ACCESS_KEY, _SECRET = "chaos-key", "chaos-secret-51e07d"


@dataclass(frozen=True, slots=True)
class QueueEntrance:
    """
    Where a product writes to.

    Attributes:
        name: Of the service's source.
    """

    name: str
    product: Product
    queue: str
    queues: "Queues"

    def put(self, body: bytes) -> None:
        self.queues.put(self.queue, body)


class Queues:
    """
    Attributes:
        unanswered: The part of requests that are carried out without anybody being told, 0 to 1.
        sent: How many messages were put into queues.
        url: Where they are.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._fake = FakeQueues(clock=lambda: datetime.now(UTC), credentials={_ACCESS_KEY: _SECRET})
        self.entrances = [QueueEntrance(f"{product}-queue", product, queue, self) for product, queue in QUEUES.items()]
        for queue in QUEUES.values():
            self._fake.create(queue, visibility_s=VISIBILITY_S)
        self.unanswered = 0.0
        self.sent = 0
        self.url = ""

    def put(self, queue: str, body: bytes) -> None:
        # As the vendor's products write it, and as its clients do.
        text = body if self._rng.random() < 0.5 else base64.b64encode(body)
        self._fake.send(queue, text.decode())
        self.sent += 1

    def set_faults(self, faults: QueueFaults, *, unanswered: float = 0.0) -> None:
        self._fake.faults = faults
        self.unanswered = unanswered

    def depths(self) -> Mapping[str, int]:
        """How many messages are not deleted, by queue; without those that are empty."""
        return {queue: depth for queue in QUEUES.values() if (depth := self._fake.depth(queue))}

    def changes(self) -> dict[str, Any]:
        """What they are in a service's configuration, as paths and values for ``make_tables``."""
        table = {"transport": "mns-queue", "endpoint": self.url, "pollers": 2, "long_poll_s": 2}
        sources = {
            f"sources.{entrance.name}": {"product": entrance.product, "queue": entrance.queue, **table}
            for entrance in self.entrances
        }
        return {
            **sources,
            "vendor.main.access_key_id": _ACCESS_KEY,
            "vendor.main.access_key_secret": _SECRET,
            "vendor.main.region": "cn-shanghai",
            # Nobody may be asked about jobs here; and GIF tasks are, as soon as there are credentials.
            "vendor.main.endpoints": dict.fromkeys(("vod", "ice", "mts", "multimediaai"), self.url),
            "sources.gif.confirm": "never",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._rng.random() >= self.unanswered:
            await self._fake(scope, receive, send)
            return
        await self._fake(scope, receive, _drop)
        await send({"type": "http.response.start", "status": 502, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def queueing(rng: random.Random) -> AsyncIterator[Queues]:
    queues = Queues(rng)
    async with listening(queues, "127.0.0.1", 0) as queues.url:
        yield queues


async def _drop(message: MutableMapping[str, Any]) -> None:
    await asyncio.sleep(0)
