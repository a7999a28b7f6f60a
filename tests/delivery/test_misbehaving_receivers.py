"""A receiver that does everything wrong for a day loses nothing, and nobody else notices."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog

from media_callbacks.model.identity import key_digest
from media_callbacks.sinks.webhook import WebhookSink
from media_callbacks.timing.retry import DELAYS_S
from tests.factories.clocks import LoopClock
from tests.factories.delivering import FakeTime, ScriptedSink, WatchedInbox, make_dispatcher
from tests.inbox.conformance import NOW, make_event, make_receipt

SECRET = b"0123456789abcdef0123456789abcdef"
HOUR_S = 3600.0
STEP_S = 1800.0
JOBS_PER_STEP = 3
CONCURRENCY = 8
TIMEOUT_S = 180.0

# What the receiver does, and for how long.
DAY: list[tuple[str, float]] = [
    ("good", 0.5 * HOUR_S),
    ("answers 500", 3 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("answers garbage", 1.5 * HOUR_S),
    ("never answers", 0.5 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("never answers", 0.5 * HOUR_S),
    ("closes half-way", 2 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("answers too late", 0.5 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("streams for ever", 1.5 * HOUR_S),
    ("sends headers for ever", 1.5 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("sends a header of 10 MB", 1 * HOUR_S),
    ("is overloaded", 2 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("is being repaired", 2 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("is gone", 0.5 * HOUR_S),
    ("good", 0.5 * HOUR_S),
    ("redirects", 3 * HOUR_S),
]

ANSWERS = {
    "good": b"HTTP/1.1 204 No Content\r\n\r\n",
    "answers 500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\nsorry",
    "answers garbage": b"\x00\xff\x16\x03 no HTTP at all\r\n\r\n",
    "closes half-way": b"HTTP/1.1 200 OK\r\nContent-Le",
    "is overloaded": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n",
    "is being repaired": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "is gone": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
}
STREAMS = {
    "streams for ever": (b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n" * 1000),
    "sends headers for ever": (b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n" * 1000),
    "sends a header of 10 MB": (b"HTTP/1.1 200 OK\r\nX-Header: ", b"a" * 10 * 2**20 + b"\r\n\r\n"),
}


@dataclass
class Request:
    at: datetime
    behaviour: str
    target: str
    event_id: str


class Receiver:
    """Does with each request what the time of the day says."""

    def __init__(self, time: FakeTime, loop_clock: LoopClock) -> None:
        self.requests: list[Request] = []
        self.port = 0
        self._time = time
        self._loop_clock = loop_clock
        self._connections: set[asyncio.Task[None]] = set()

    def behaviour(self) -> str:
        begins_at = NOW
        for behaviour, duration_s in DAY:
            begins_at += timedelta(seconds=duration_s)
            if self._time.now < begins_at:
                return behaviour
        return "good"

    async def __aenter__(self) -> "Receiver":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await reader.readexactly(int(headers["content-length"]))
        behaviour = self.behaviour()
        self.requests.append(Request(self._time.now, behaviour, first.split()[1], headers["webhook-id"]))
        if behaviour in ("never answers", "answers too late"):
            self._loop_clock.skip(TIMEOUT_S)
            await reader.read()  # until the other side has had enough
            if behaviour == "answers too late":
                writer.write(ANSWERS["good"])
            return False
        if behaviour in STREAMS:
            head, part = STREAMS[behaviour]
            writer.write(head)
            while True:
                writer.write(part)
                await writer.drain()
        if behaviour == "redirects":
            location = f"http://127.0.0.1:{self.port}/elsewhere".encode()
            writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")
        else:
            writer.write(ANSWERS[behaviour])
        await writer.drain()
        return behaviour not in ("answers garbage", "closes half-way")


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[WatchedInbox]:
    inbox = WatchedInbox(tmp_path / "inbox.db")
    await inbox.open()
    yield inbox
    await inbox.close()


@pytest.mark.slow
async def test_after_a_day_of_misbehaviour_everything_has_arrived_in_order_and_on_schedule(
    inbox: WatchedInbox, monkeypatch: pytest.MonkeyPatch, loop_clock: LoopClock
) -> None:
    # What is due is known without looking every five seconds, which would only take long here.
    monkeypatch.setattr("media_callbacks.delivery.dispatcher.POLL_S", HOUR_S)
    time = FakeTime(inbox, waiting=3)
    well = ScriptedSink("well")
    jobs: list[str] = []
    resumed = 0
    with structlog.testing.capture_logs():
        async with Receiver(time, loop_clock) as receiver:
            ill = WebhookSink(
                "ill",
                f"http://127.0.0.1:{receiver.port}/events",
                [SECRET],
                timeout_s=TIMEOUT_S,
                concurrency=CONCURRENCY,
                clock=time.unix_time,
            )
            dispatcher = make_dispatcher(inbox, ill, well, time=time)
            dispatcher.start()
            while time.now < NOW + timedelta(hours=24):
                for _ in range(JOBS_PER_STEP):
                    jobs.append(f"job-{len(jobs)}")
                    for outcome in ("failed", "succeeded"):
                        receipt = make_receipt(make_event(jobs[-1], outcome), sinks=("ill", "well"), at=time.now)
                        await inbox.put(receipt)
                await time.pass_(STEP_S)
                if any(sink.state == "disabled" for sink in await inbox.list_sinks()):
                    resumed += 1
                    await inbox.set_sink_state("ill", "active", reason=None, changed_by="me", now=time.now)
            time.waits_needed = 2
            time.look()
            await inbox.until_ended("ill", 2 * len(jobs))
            await inbox.until_ended("well", 2 * len(jobs))
            await dispatcher.stop()

    assert resumed == 1
    assert {request.behaviour for request in receiver.requests} == {behaviour for behaviour, _ in DAY}
    assert {request.target for request in receiver.requests} == {"/events"}, "no redirect was followed"
    for job in jobs:
        await assert_in_order_and_on_schedule(inbox, job)
    assert_order_at_the_receiver(receiver.requests)
    assert_probes_alone(receiver.requests)


async def assert_in_order_and_on_schedule(inbox: WatchedInbox, job: str) -> None:
    """What the inbox remembers of a job's two events."""
    delivered_at: dict[str, datetime] = {}
    for outcome in ("failed", "succeeded"):
        record = await inbox.find_event(make_event(job, outcome).id)
        assert record is not None
        for delivery in record.deliveries:
            history = delivery.history
            assert delivery.state == "delivered"
            assert [attempt.number for attempt in history] == list(range(1, len(history) + 1))
            assert history[0].started_at >= delivered_at.get(delivery.sink, record.accepted_at)
            for (earlier, later), delay_s in zip(itertools.pairwise(history), DELAYS_S, strict=False):
                assert (later.started_at - earlier.started_at).total_seconds() >= 0.8 * delay_s - 0.01
            delivered_at[delivery.sink] = history[-1].started_at
            if delivery.sink == "well":
                assert len(history) == 1
                assert history[0].started_at == record.accepted_at, "no delay at all"


def assert_order_at_the_receiver(requests: list[Request]) -> None:
    """No later outcome of a job is sent before the earlier one was taken."""
    taken: dict[bytes, int] = {}
    for request in requests:
        job = key_digest(request.event_id)
        revision = 1 if request.event_id == make_event_id(request.event_id, "failed") else 2
        # It may come again where our answer came too late.
        assert revision <= taken.get(job, 0) + 1
        if request.behaviour == "good":
            taken[job] = max(taken.get(job, 0), revision)
    assert set(taken.values()) == {2}


def make_event_id(event_id: str, outcome: str) -> str:
    return event_id[:-2] + make_event("any", outcome).id[-2:]


def assert_probes_alone(requests: list[Request]) -> None:
    """While nothing works there is a request every five minutes, after those that it took to find out."""
    for _, group in itertools.groupby(requests, key=lambda request: request.behaviour):
        phase = list(group)
        if phase[0].behaviour != "good":
            duration_s = (phase[-1].at - phase[0].at).total_seconds()
            assert len(phase) <= 10 + CONCURRENCY + 5 + duration_s / 300
