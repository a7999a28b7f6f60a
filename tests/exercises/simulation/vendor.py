"""
The vendor: the fake cloud of the rehearsal, whose jobs end, whose callbacks are signed, repeated, late, forged and false,
and whose APIs answer as it does, called without a network in between.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any, Protocol

from media_callbacks.aliyun.calls import ApiRequest
from media_callbacks.aliyun.mns import ReceivedMessage
from media_callbacks.config.settings import Settings
from media_callbacks.edge.answers import Answer
from media_callbacks.model.errors import VendorRefused, VendorUnavailable
from media_callbacks.rehearsal.fake_cloud.app import ACTIONS, _present
from media_callbacks.rehearsal.fake_cloud.callbacks import (
    HttpDestination,
    QueueDestination,
    Sending,
    build_request,
    describe,
)
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob
from media_callbacks.rehearsal.fake_cloud.mns_documents import Refused
from media_callbacks.rehearsal.simulate import SimulatedRequest
from media_callbacks.timing.waiting import wait_for
from tests.exercises.simulation.loop import SimulatedLoop

QUEUE = "mts-events"
# The vendor tries for some time: longer than in its documents, so that outages of hours matter less than crashes.
_TIMING = Timing(duration_s=(1.0, 600.0), http_retries_s=(1.0, 1.0, 30.0, 600.0))


class Door(Protocol):
    """Where callbacks are brought."""

    def knock(self, sending: Sending, request: SimulatedRequest, answered: "asyncio.Future[Answer]") -> bool:
        """False when nobody is there."""
        ...


class Vendor:
    """
    Args:
        rng: Of the network between the vendor and the service.

    Attributes:
        deleted: Told when a message was deleted from a queue, of whose job it told.
        is_away: No API of it answers.
        is_slow: They take long.
    """

    def __init__(
        self, settings: Settings, loop: SimulatedLoop, began_at: datetime, *, seed: int, faults: Faults, rng: Random
    ) -> None:
        self._loop, self._began_at, self._rng = loop, began_at, rng
        self.cloud = FakeCloud(settings, seed=seed, faults=faults, timing=_TIMING, clock=self.now)
        self.cloud.teller._post = self._post  # type: ignore[method-assign]
        self._write, self.cloud.teller._write = self.cloud.teller._write, self._remember  # type: ignore[method-assign]
        # Who wrote which message to a queue.
        self.told: dict[str, CloudJob] = {}
        self.deleted: Callable[[CloudJob], None] = lambda _: None
        # Each true callback or message that was sent.
        self.sent: list[Sending] = []
        self.door: Door | None = None
        self.is_away = False
        self.is_slow = False

    def now(self) -> datetime:
        """The right time."""
        return self._began_at + timedelta(seconds=self._loop.time())

    async def tell(self) -> None:
        """Send what is due, on and on."""
        teller = self.cloud.teller
        while True:
            teller._wake.clear()
            await teller._start_due()
            teller.raise_failure()
            if teller._due:
                await wait_for(teller._wake, max(teller._due[0][0] - self.now().timestamp(), 0.0))
            else:
                await teller._wake.wait()

    async def _post(self, sending: Sending, destination: HttpDestination) -> str:
        teller = self.cloud.teller
        if sending.veracity == "true" and sending.attempt == 0:
            self.sent.append(sending)
        request = build_request(
            sending,
            destination,
            now=self.now(),
            rng=teller._chance_of_lie(sending.job),
            signer=None,
            push_format="SIMPLIFIED",
        )
        await asyncio.sleep(self._rng.uniform(0.001, 0.2))
        answered: asyncio.Future[Answer] = self._loop.create_future()
        if self.door is None or not self.door.knock(sending, request, answered):
            return "ClientConnectorError"
        try:
            async with asyncio.timeout(_TIMING.attempt_s):
                answer = await answered
        except TimeoutError:
            return "TimeoutError"
        await asyncio.sleep(self._rng.uniform(0.001, 0.2))
        # The answer may get lost on its way back.
        return "ServerDisconnectedError" if self._rng.random() < 0.03 else str(answer.status)

    def _remember(self, job: CloudJob, destination: QueueDestination) -> None:
        self.told[json.dumps(describe(job, job.outcome), ensure_ascii=False)] = job
        self.sent.append(Sending(job, destination))
        self._write(job, destination)

    def repeat(self, most: int) -> int:
        """Tell again what was told, whenever that was."""
        again = self._rng.sample(self.sent, min(most, len(self.sent)))
        for sending in again:
            self.cloud.teller._push(self.now().timestamp() + self._rng.uniform(0.0, 60.0), sending)
        self.cloud.teller._wake.set()
        return len(again)

    async def call(self, request: ApiRequest) -> Mapping[str, Any]:
        """A ``aliyun.calls.CallApi``."""
        await asyncio.sleep(self._rng.uniform(5.0, 200.0) if self.is_slow else self._rng.uniform(0.01, 1.0))
        chance = self._rng.random()
        if self.is_away or chance < 0.05:
            raise VendorUnavailable(f"{request.action}: no answer", is_throttled=chance < 0.02)
        try:
            reply: Mapping[str, Any] = _present(
                ACTIONS[request.version][request.action](self.cloud, request.parameters)
            )
        except ApiError as error:
            if error.status >= 500:
                raise VendorUnavailable(f"{request.action}: {error.code}") from error
            raise VendorRefused(f"{request.action}: {error.code}", code=error.code, status=error.status) from error
        return reply


class SimulatedQueue:
    """
    A ``aliyun.mns.Queue`` of the vendor's.

    Args:
        life: Of whoever polls.
    """

    def __init__(self, vendor: Vendor, loop: SimulatedLoop, rng: Random) -> None:
        self._vendor, self._loop, self._rng = vendor, loop, rng
        self._queues = vendor.cloud.queues
        self._queue = self._queues._queues[QUEUE]

    async def receive(self, limit: int, wait_s: int) -> Sequence[ReceivedMessage]:
        await self._travel("ReceiveMessage")
        messages = self._queues._take(self._queue, limit)
        if not messages:
            woken = _Woken(self._loop.steps)
            self._queue.waiting.add(woken)
            try:
                await self._loop.wait(woken, self._next_s(wait_s))
            finally:
                self._queue.waiting.discard(woken)
            messages = self._queues._take(self._queue, limit)
        await self._travel("ReceiveMessage")
        return [
            ReceivedMessage(
                id=message.id,
                handle=message.handle,
                body=message.body.encode(),
                body_md5=message.md5,
                enqueued_at=message.enqueued_at,
                next_visible_at=message.visible_at,
                dequeue_count=message.dequeue_count,
            )
            for message in messages
        ]

    def _next_s(self, wait_s: int) -> float:
        """Until a message may be visible again."""
        now = self._vendor.now()
        hidden = [(message.visible_at - now).total_seconds() + 0.001 for message in self._queue.messages.values()]
        return max(min([wait_s, *hidden]), 0.001)

    async def delete(self, handles: Sequence[str]) -> Sequence[str]:
        await self._travel("DeleteMessage")
        left = []
        for handle in handles:
            if self._rng.random() < 0.05:
                left.append(handle)
                continue
            try:
                message = self._queues._find(self._queue, handle)
                self._queues._delete(self._queue, handle)
            except Refused:
                continue
            self._vendor.deleted(self._vendor.told[message.body])
        await self._travel("DeleteMessage")
        return left

    async def change_visibility(self, handle: str, visibility_s: int) -> tuple[str, datetime]:
        await self._travel("ChangeMessageVisibility")
        try:
            message = self._queues._find(self._queue, handle)
        except Refused as error:
            raise VendorRefused(str(error), code=error.code, status=error.status) from error
        message.visible_at = self._vendor.now() + timedelta(seconds=visibility_s)
        self._queues._give_handle(self._queue, message)
        return message.handle, message.visible_at

    async def _travel(self, action: str) -> None:
        await asyncio.sleep(self._rng.uniform(0.001, 0.1))
        if self._vendor.is_away or self._rng.random() < 0.02:
            raise VendorUnavailable(f"{action}: no answer")


class _Woken(asyncio.Event):
    """Which is in a set by when it was made, not by where it lies in memory."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other
