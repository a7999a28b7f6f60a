"""
Whom we ask or deliver to may answer in any way: what it takes from us is bounded, and nobody beside it notices.

How much was taken is counted at the other end, so that no clock decides.
"""

import asyncio
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop

from media_callbacks.aliyun.calls import ApiRequest
from media_callbacks.aliyun.credentials import Credentials, StaticCredentials
from media_callbacks.aliyun.eventbridge import EventBridgeClient
from media_callbacks.aliyun.mns import MnsQueue
from media_callbacks.aliyun.mns_sending import MnsQueueSender, MnsTopicSender
from media_callbacks.aliyun.openapi import OpenApiClient
from media_callbacks.config.settings import build_settings
from media_callbacks.edge.certificates import CertificateStore, fetch_https
from media_callbacks.http_client.bounded_connector import FRAMING_BYTES, MAX_HEAD_BYTES
from media_callbacks.model.errors import BadSignature, CannotVerify, SinkRetry, VendorError
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.aliyun import AliyunSink
from media_callbacks.sinks.aliyun_eventbridge import AliyunEventBridgeSink
from media_callbacks.sinks.base import Sink
from media_callbacks.sinks.eventbridge import EventBridgeSink
from media_callbacks.sinks.kinesis import KinesisSink
from media_callbacks.sinks.mns import MnsQueueSink, MnsTopicSink
from media_callbacks.sinks.sns import SnsSink
from media_callbacks.sinks.sqs import SqsSink
from media_callbacks.sinks.webhook import WebhookSink
from media_callbacks.sources.base import CallbackSource
from tests.edge.test_certificates import HOST, LoopbackResolver, client_context, server_context
from tests.exercises.chaos.cluster import Instance, free_ports
from tests.exercises.hostile.receivers import FLOODS, HOLDS, WAYS, Receiver, misbehaving
from tests.factories.running import (
    build_payload,
    connected,
    encode,
    make_source,
    make_tables,
    read_answer,
    receiving,
    sign,
    to_toml,
)

SECRET = b"0123456789abcdef0123456789abcdef"
CREDENTIALS = StaticCredentials(Credentials(access_key_id="LTAI-tester", access_key_secret="secret-of-tester"))
# What the kernel keeps of both ends on loopback, and a TLS connection of what is not yet decrypted.
BUFFERS_BYTES = 2 * 2**20
# The vendor's own may have megabytes, of which so many do here.
VENDOR_BYTES = 2**18
# Beyond the head.
MAX_BODY_BYTES = {"webhook": 0} | {
    name: max_bytes + FRAMING_BYTES
    for name, max_bytes in {"certificate": 2**14, "aws": 2**17, "openapi": VENDOR_BYTES, "vendor": VENDOR_BYTES}.items()
}
# What is a proper answer up to a point.
BODIES = {way for way in WAYS if any(word in way for word in ("body", "chunk", "trailers", "bomb", "error", "more"))}
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Ask = Callable[[], Awaitable[None]]


def make_delivery() -> Delivery:
    event_id = "evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600"
    body = b'{"id": "evt", "type": "media.snapshot.failed", "subject": "job", "data": {"job_id": "job"}}'
    return Delivery(row_id=1, sink="test", event_id=event_id, body=body, attempt=1, lease="lease", replay=0)


@asynccontextmanager
async def _sending(sink: Sink) -> AsyncIterator[Ask]:
    async def ask() -> None:
        (result,) = await sink.send([make_delivery()])
        assert isinstance(result, SinkRetry), f"{sink}: {result!r}"

    await sink.open()
    try:
        yield ask
    finally:
        await sink.close()


def _aws_sinks(url: str, timeout_s: float) -> dict[str, Sink]:
    options: dict[str, Any] = {"region": "eu-west-1", "endpoint_url": url, "timeout_s": timeout_s}
    return {
        "sqs": SqsSink("sqs", "https://sqs.eu-west-1.amazonaws.com/123456789012/media", **options),
        "sns": SnsSink("sns", "arn:aws:sns:eu-west-1:123456789012:media", **options),
        "eventbridge": EventBridgeSink("eventbridge", "media", **options),
        "kinesis": KinesisSink("kinesis", "media", **options),
    }


def _aliyun_sinks(url: str, timeout_s: float) -> dict[str, AliyunSink]:
    access: dict[str, Any] = {"credentials": CREDENTIALS, "clock": lambda: datetime.now(UTC)}
    return {
        "mns-queue": MnsQueueSink("mns-queue", MnsQueueSender(url, "media", **access), timeout_s=timeout_s),
        "mns-topic": MnsTopicSink("mns-topic", MnsTopicSender(url, "media", **access), timeout_s=timeout_s),
        "aliyun-eventbridge": AliyunEventBridgeSink(
            "aliyun-eventbridge", EventBridgeClient(url, "media", **access), "media", timeout_s=timeout_s
        ),
    }


@asynccontextmanager
async def _querying(url: str, timeout_s: float) -> AsyncIterator[Ask]:
    async def no_wait(*_: object) -> None:
        await asyncio.sleep(0)

    client = OpenApiClient(
        CREDENTIALS, region="r", endpoints={"mts": url}, wait=no_wait, rates=lambda *_: 1e9, timeout_s=timeout_s
    )

    async def ask() -> None:
        with pytest.raises(VendorError):
            await client.call(ApiRequest(api="mts", action="QuerySnapshotJobList", version="2014-06-18", parameters={}))

    try:
        yield ask
    finally:
        await client.close()


@asynccontextmanager
async def _polling(url: str) -> AsyncIterator[Ask]:
    queue = MnsQueue(url, "mts-done", credentials=CREDENTIALS, clock=lambda: datetime.now(UTC))

    async def ask() -> None:
        with pytest.raises(VendorError):
            await queue.receive(16, 0)

    try:
        yield ask
    finally:
        await queue.close()


async def _fetch(port: int, timeout_s: float) -> None:
    async def fetch(url: str) -> Any:
        resolver, context = LoopbackResolver(port), client_context()
        return await fetch_https(url, timeout_s=timeout_s, resolver=resolver, ssl_context=context)

    with pytest.raises((BadSignature, CannotVerify)):
        await CertificateStore(fetch=fetch).get(f"https://{HOST}/certificate.pem")


@asynccontextmanager
async def _asking_all(way: str, folder: Path, timeout_s: float) -> AsyncIterator[list[tuple[str, Receiver, Ask]]]:
    """Everything that talks to others, each with a receiver of its own."""
    async with AsyncExitStack() as stack:

        async def receiver(**options: Any) -> tuple[Receiver, str]:
            made = await stack.enter_async_context(misbehaving(way, **options))
            return made, f"http://127.0.0.1:{made.port}"

        asked: list[tuple[str, Receiver, Ask]] = []
        there, url = await receiver()
        sink = WebhookSink("webhook", url, [SECRET], timeout_s=timeout_s)
        asked.append(("webhook", there, await stack.enter_async_context(_sending(sink))))
        for name in ("sqs", "sns", "eventbridge", "kinesis"):
            there, url = await receiver()
            aws = _aws_sinks(url, timeout_s)[name]
            asked.append(("aws", there, await stack.enter_async_context(_sending(aws))))
        for name in ("mns-queue", "mns-topic", "aliyun-eventbridge"):
            there, url = await receiver()
            aliyun = _aliyun_sinks(url, timeout_s)[name]
            asked.append(("vendor", there, await stack.enter_async_context(_sending(aliyun))))
        there, url = await receiver()
        asked.append(("openapi", there, await stack.enter_async_context(_querying(url, timeout_s))))
        there, url = await receiver()
        asked.append(("vendor", there, await stack.enter_async_context(_polling(url))))
        there, _ = await receiver(tls=server_context(folder, HOST))
        asked.append(("certificate", there, lambda: _fetch(there.port, timeout_s)))
        yield asked


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", WAYS)
def test_whatever_comes_back_is_a_failure_of_bounded_size(tmp_path, monkeypatch, way, loop):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr("media_callbacks.aliyun.openapi.MAX_REPLY_BYTES", VENDOR_BYTES)
    monkeypatch.setattr("media_callbacks.aliyun.mns_client._MAX_REPLY_BYTES", VENDOR_BYTES)
    monkeypatch.setattr("media_callbacks.aliyun.eventbridge._MAX_REPLY_BYTES", VENDOR_BYTES)
    # What ends by its size never waits for the time-out; what holds is not to be waited for here.
    timeout_s = 0.3 if way in HOLDS else 60.0
    monkeypatch.setattr("media_callbacks.aliyun.mns_client._PATIENCE_S", timeout_s)
    monkeypatch.setattr("media_callbacks.aliyun.exchange._CONNECT_S", 0.0 if way in HOLDS else 60.0)

    async def look(name: str, receiver: Receiver, ask: Ask) -> None:
        # Twice: what the first one left behind must not hurt the second.
        await ask()
        await ask()
        # The last one may be kept for the next request.
        await receiver.until_ended(receiver.connections - 1)
        allowed = MAX_HEAD_BYTES + BUFFERS_BYTES + (MAX_BODY_BYTES[name] if way in BODIES else 0)
        assert max(receiver.taken_bytes, default=0) <= allowed, name
        assert not any(b"cookie" in request.lower() for request in receiver.requests), name
        assert not any(b"elsewhere" in request for request in receiver.requests), name

    async def attack() -> None:
        async with _asking_all(way, tmp_path, timeout_s) as asked:
            await asyncio.gather(*(look(*one) for one in asked))

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(attack(), 60))


@pytest.mark.parametrize("way", [*FLOODS, "before it was asked"])
def test_a_flood_takes_no_memory_of_a_webhook(way):
    """With all connections that a sink may have, at once."""
    peaks = []

    async def attack() -> None:
        async with misbehaving(way) as receiver:
            sink = WebhookSink("webhook", f"http://127.0.0.1:{receiver.port}", [SECRET], timeout_s=60.0)
            async with _sending(sink) as ask:
                await ask()
                tracemalloc.start()
                try:
                    await asyncio.gather(*[ask() for _ in range(sink.concurrency)])
                    peaks.append(tracemalloc.get_traced_memory()[1])
                finally:
                    tracemalloc.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(attack(), 60))
    # A quarter of a megabyte for each: connections, buffers and this test's own ends of them.
    assert max(peaks) < 32 * 2**18


# Beside a running service

# More callbacks, and the time that each took, which only a quiet machine may be judged by.
IS_LONG = os.environ.get("HOSTILE") == "long"
CALLBACKS = 3000 if IS_LONG else 200
CONNECTIONS = 4
# Everything that a sink of the service has to do for the first time, all of them at once.
ROOM_BYTES = 48 * 2**20
P99_S = 0.1


@dataclass
class Sent:
    statuses: list[int] = field(default_factory=list)
    durations_s: list[float] = field(default_factory=list)


async def send_callbacks(instance: Instance, source: CallbackSource, numbers: range) -> Sent:
    """Genuine ones, one after the other on one connection."""
    sent = Sent()
    async with connected(instance.address) as (reader, writer):
        for number in numbers:
            job_id = f"job-{number}"
            request = encode(sign(source, build_payload(source, job_id), job_id=job_id))
            began = time.perf_counter()
            writer.write(request)
            answer = await read_answer(reader)
            sent.durations_s.append(time.perf_counter() - began)
            assert answer is not None
            sent.statuses.append(answer.status)
    return sent


@pytest.mark.slow
async def test_no_callback_beside_them_is_refused_and_no_event_is_late_for_it(tmp_path):
    """One service that delivers to all of them at once, and to one receiver that is well."""
    problems: list[str] = []
    async with AsyncExitStack() as stack:
        well = await stack.enter_async_context(receiving())
        receivers = [await stack.enter_async_context(misbehaving(way)) for way in WAYS]
        urls = {f"ill-{place}": f"http://127.0.0.1:{one.port}/" for place, one in enumerate(receivers)}
        instance = Instance("hostile", tmp_path, port=free_ports(1)[0], complain=problems.append)
        tables = make_tables(tmp_path, {"well": well.url, **urls}, {"server.port": instance.port})
        instance.config.write_text(to_toml(tables))
        source = make_source("vod", build_settings(tables, environ={}))
        await instance.start()
        try:
            began_bytes = instance.memory_bytes()
            share = CALLBACKS // CONNECTIONS
            shares = [range(start, start + share) for start in range(0, CALLBACKS, share)]
            sent = await asyncio.gather(*[send_callbacks(instance, source, numbers) for numbers in shares])
            async with asyncio.timeout(60):
                events = await well.wait_for(CALLBACKS)
                for receiver in receivers:
                    await receiver.until_asked()
            grown_bytes = instance.peak_memory_bytes() - began_bytes
        finally:
            instance.kill()
    assert problems == []
    assert {status for one in sent for status in one.statuses} == {200}
    assert {event["data"]["job_id"] for event in events} == {f"job-{number}" for number in range(CALLBACKS)}
    assert grown_bytes < ROOM_BYTES
    if IS_LONG:
        durations_s = sorted(duration_s for one in sent for duration_s in one.durations_s)
        assert durations_s[len(durations_s) * 99 // 100] < P99_S
