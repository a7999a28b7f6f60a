"""
The vendor: sends what its jobs came to, over every transport, and repeats as it is documented to. What is in a queue
is no longer the vendor's business.

VOD and IMS wait five seconds for an answer and try three times with a second between; MNS, with its default strategy,
tries four times with 10 to 20 seconds between, of which a tenth is waited here. Of CreateGifTask nothing is documented:
it does as VOD does.
"""

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal, Protocol

import aiohttp
from yarl import URL

from media_callbacks.rehearsal.simulate import PAYLOADS, PushFormat, SimulatedRequest, forge
from media_callbacks.sources.base import CallbackSource
from tests.exercises.chaos.consumer import Completion
from tests.exercises.chaos.queues import QueueEntrance
from tests.factories.running import sign

ANSWER_TIMEOUT_S = 5.0
NO_ANSWER = "no answer in time"
QUEUED = "queued"
Kind = Literal["genuine", "forged", "stale"]

# Messages that give one event each, which has the job's id.
_EVENTS: Mapping[str, Sequence[str]] = {
    "vod": ("DynamicImageComplete", "StreamTranscodeComplete", "AIVideoTagComplete", "WorkflowTaskComplete"),
    "ims": ("DynamicImageComplete", "SnapshotComplete", "ProduceMediaComplete", "TranscodeComplete"),
    "mts": ("Transcode", "Snapshot", "MediaInfo", "Analysis"),
    "multimediaai": ("CreateGifTask",),
}
_PRODUCTS: Mapping[str, int] = {"vod": 7, "ims": 5, "mts": 5, "multimediaai": 3}
_FORMATS: Sequence[PushFormat] = ("XML", "JSON", "SIMPLIFIED")


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Attributes:
        status: Or a word, when there was none.
        instance: Who gave it; several when the proxy asked one after the other.
    """

    status: int | str
    instance: str
    has_retry_after: bool = False


class Sender(Protocol):
    async def send(self, request: SimulatedRequest) -> Answer: ...


class ProxySender:
    """Sends through nginx, as whoever comes from outside. Each request has a connection of its own."""

    def __init__(self, address: str, names: Mapping[str, str]) -> None:
        self._base = f"http://{address}"
        self._names = names
        # nginx takes 500 from one address. Whoever waits for a place has not begun to send.
        self._places = asyncio.Semaphore(400)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
        )

    async def send(self, request: SimulatedRequest) -> Answer:
        try:
            async with self._places, asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._send(request)
        except TimeoutError:
            return Answer(NO_ANSWER, "?")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(type(error).__name__, "?")

    async def _send(self, request: SimulatedRequest) -> Answer:
        async with self._session.request(
            request.method,
            URL(self._base + request.target, encoded=True),
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
        ) as response:
            await response.read()
            asked = response.headers.get("X-Upstream", "nobody")
            names = [self._names.get(address.strip(), address.strip()) for address in asked.split(",")]
            return Answer(response.status, ", ".join(names), "Retry-After" in response.headers)

    async def close(self) -> None:
        await self._session.close()


class RoundRobinSender:
    """Does without nginx what nginx would do: one instance after the other, until one takes it."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._instances = {name: ProxySender(address, {}) for address, name in names.items()}
        self._turn = 0

    async def send(self, request: SimulatedRequest) -> Answer:
        self._turn += 1
        names = list(self._instances)
        first = self._turn % len(names)
        for name in names[first:] + names[:first]:
            try:
                answer = await asyncio.wait_for(self._instances[name].send(request), 3.0)
            except TimeoutError:
                continue
            if isinstance(answer.status, int) and answer.status != 503:
                return replace(answer, instance=name)
        return Answer(503, "nobody", has_retry_after=True)

    async def close(self) -> None:
        for sender in self._instances.values():
            await sender.close()


@dataclass(slots=True)
class Message:
    """
    One thing that the vendor, or somebody who pretends to be it, says of a job.

    Attributes:
        completion: What it would be an event of.
        success_status: ``QUEUED`` when it was put into a queue.
        answers: In order, each with its time in seconds since the run began.
    """

    kind: Kind
    source: str
    completion: Completion
    success_status: int | str
    answers: list[tuple[float, Answer]] = field(default_factory=list)
    is_acknowledged: bool = False

    def describe(self) -> str:
        tried = "; ".join(f"{at:.2f} s: {answer.status} from {answer.instance}" for at, answer in self.answers)
        return f"{self.kind} {' '.join(self.completion)} over {self.source} [{tried}]"


@dataclass(frozen=True, slots=True)
class Mixture:
    """
    How many of the jobs are special, as shares of one.

    Attributes:
        queued: Of what is genuine, a duplicate or not, and of a product that has a queue.
    """

    duplicates: float = 0.3
    reruns: float = 0.1
    failures: float = 0.1
    forgeries: float = 0.01
    stale: float = 0.01
    queued: float = 0.3
    attempts_http: int = 3
    attempts_push: int = 4


class Vendor:
    """
    Args:
        sources: Entrances by product; a duplicate may come through another one than the first.
    """

    def __init__(
        self,
        sources: Sequence[CallbackSource],
        queues: Sequence[QueueEntrance],
        sender: Sender,
        *,
        seed: int,
        mixture: Mixture | None = None,
    ) -> None:
        self._sources: dict[str, list[CallbackSource]] = {}
        for source in sources:
            self._sources.setdefault(source.product, []).append(source)
        self._queues: dict[str, QueueEntrance] = {queue.product: queue for queue in queues}
        self._sender = sender
        self._seed = seed
        self._mixture = mixture or Mixture()
        self.messages: list[Message] = []
        self.requests = 0
        self.statuses: Counter[str] = Counter()
        self.started = time.monotonic()
        # Of answers with success, to find the longest time without.
        self.successes: list[float] = []
        self.under_way: set[asyncio.Task[None]] = set()

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    async def run(self, jobs: int, *, rate_per_s: float) -> None:
        """Begin so many jobs a second, and return when all is said about all of them."""
        begun = self.now
        for number in range(jobs):
            await asyncio.sleep(max(0.0, begun + number / rate_per_s - self.now))
            self._begin(self._job(number))
        while self.under_way:
            await asyncio.gather(*self.under_way)

    async def run_until(self, enough: asyncio.Event, *, rate_per_s: float) -> int:
        """The same until it is enough. Returns how many jobs there were."""
        begun, number = self.now, 0
        while not enough.is_set():
            await asyncio.sleep(max(0.0, begun + number / rate_per_s - self.now))
            self._begin(self._job(number))
            number += 1
        while self.under_way:
            await asyncio.gather(*self.under_way)
        return number

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _job(self, number: int) -> None:
        rng = random.Random(f"{self._seed}:{number}")
        product = rng.choices(list(_PRODUCTS), list(_PRODUCTS.values()))[0]
        event = rng.choice(_EVENTS[product])
        job_id = hashlib.sha256(f"{self._seed}:{number}".encode()).hexdigest()[:32]
        is_rerun = rng.random() < self._mixture.reruns
        failed = is_rerun or rng.random() < self._mixture.failures
        if rng.random() < self._mixture.forgeries:
            # Of this job, what it never came to; or of a job that there is not.
            pretended = job_id if not is_rerun and rng.random() < 0.5 else job_id[::-1]
            self._begin(self._say("forged", product, event, pretended, rng.random(), failed=not failed))
        if rng.random() < self._mixture.stale:
            self._begin(self._say("stale", product, event, job_id[8:] + "deadbeef", rng.random(), failed=failed))
        await self._complete(rng, product, event, job_id, failed=failed)
        if is_rerun:
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            await self._complete(rng, product, event, job_id, failed=False)

    async def _complete(self, rng: random.Random, product: str, event: str, job_id: str, *, failed: bool) -> None:
        if rng.random() < self._mixture.duplicates:
            # At the same moment, soon, or when a rerun may be over.
            delay_s = rng.choice([0.0, rng.uniform(0.0, 0.2), rng.uniform(0.0, 5.0)])
            self._begin(self._say("genuine", product, event, job_id, rng.random(), failed=failed, delay_s=delay_s))
        await self._say("genuine", product, event, job_id, rng.random(), failed=failed)

    async def _say(
        self, kind: Kind, product: str, event: str, job_id: str, choice: float, *, failed: bool, delay_s: float = 0.0
    ) -> None:
        rng = random.Random(choice)
        await asyncio.sleep(delay_s)
        payload = PAYLOADS[product][event](job_id, datetime.now(UTC), failed)
        subject = str(payload["TaskId"]) if product == "multimediaai" else job_id
        completion = (product, subject, "failed" if failed else "succeeded")
        queue = self._queues.get(product)
        if kind == "genuine" and queue is not None and rng.random() < self._mixture.queued:
            queue.put(json.dumps(payload, ensure_ascii=False).encode())
            self._queued(Message(kind, queue.name, completion, QUEUED))
            return
        source = rng.choice(self._sources[product])
        push_format = rng.choice(_FORMATS)
        message = Message(kind, source.name, completion, source.success_status)
        self.messages.append(message)
        off = timedelta(hours=rng.choice([-3, 3]) if kind == "stale" and product != "multimediaai" else 0)
        if kind == "stale" and product == "multimediaai":
            off = timedelta(hours=-3)
        is_push = source.transport == "mns-push"
        attempts = self._mixture.attempts_push if is_push else self._mixture.attempts_http
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(rng.uniform(1.0, 2.0) if is_push else 1.0)
            request = sign(source, payload, job_id=job_id, now=datetime.now(UTC) + off, push_format=push_format)
            if await self._send(message, forge(request) if kind == "forged" else request):
                return

    def _queued(self, message: Message) -> None:
        message.answers.append((self.now, Answer(QUEUED, message.source)))
        message.is_acknowledged = True
        self.messages.append(message)

    async def _send(self, message: Message, request: SimulatedRequest) -> bool:
        self.requests += 1
        answer = await self._sender.send(request)
        message.answers.append((self.now, answer))
        self.statuses[str(answer.status)] += 1
        if answer.status == message.success_status:
            message.is_acknowledged = True
            self.successes.append(self.now)
        return message.is_acknowledged

    def longest_gap_s(self) -> float:
        """Without an answer with success, from the first one to the last."""
        return max((after - before for before, after in pairwise(self.successes)), default=0.0)
