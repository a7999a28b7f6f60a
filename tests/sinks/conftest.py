"""
Destinations that the sinks are tried against: real servers behind real sockets, each of which can go away, come back,
and stop answering.
"""

import asyncio
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mns.account import Account
from mns.mns_exception import MNSServerException
from mns.subscription import SubscriptionMeta
from moto.server import ThreadedMotoServer
from starlette.requests import Request

from media_callbacks.aliyun.eventbridge import EventBridgeClient
from media_callbacks.aliyun.mns_sending import MnsQueueSender, MnsTopicSender
from media_callbacks.assembly.sinks import build_sink
from media_callbacks.config.sinks import SINK_MODELS, ThirdPartySinkSettings
from media_callbacks.model.events import DATA_MODELS, Delivery, Event, EventError
from media_callbacks.model.identity import event_id
from media_callbacks.model.kinds import Kind, Outcome
from media_callbacks.rehearsal.fake_cloud.buses import FakeBuses
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from media_callbacks.rehearsal.fake_cloud.topics import OWNER
from media_callbacks.sinks.aliyun_eventbridge import AliyunEventBridgeSink
from media_callbacks.sinks.base import Sink
from media_callbacks.sinks.eventbridge import EventBridgeSink
from media_callbacks.sinks.kinesis import KinesisSink
from media_callbacks.sinks.mns import MnsQueueSink, MnsTopicSink
from media_callbacks.sinks.sns import SnsSink
from media_callbacks.sinks.sqs import SqsSink
from media_callbacks.sinks.stdout import StdoutSink
from media_callbacks.sinks.webhook import WebhookSink
from tests.factories.brokers.broker import Broker
from tests.factories.brokers.certificates import Certificates
from tests.factories.brokers.kinds import BROKERS, need_broker
from tests.factories.fake_queues import KEY_ID, QUEUE, SECRET, Clock, Credentialed, serving, serving_queues
from tests.sinks.pipes import PipeEnd
from tests.sinks.scripted import SCRIPTED, Scripted

REGION = "eu-west-1"
ACCOUNT = "123456789012"
SECRETS = (b"first secret of 24 bytes", b"second secret, 24 bytes.")


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    """With brokers that a test has taken away."""
    monkeypatch.setattr("media_callbacks.sinks.kafka._PATIENCE_S", 0.0)


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("AWS_", "BOTO")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


# Events


def _event(
    number: int = 0,
    *,
    kind: Kind = "animated_image",
    job_id: str | None = "",
    subject: str | None = "",
    user_data: str | None = '{"订单": "42", "note": "a\\u0000b"}',
) -> Event:
    outcome: Outcome = "received" if kind == "notice" else "failed"
    if job_id == "":
        job_id = f"3af7e9705cb24c0f9d23231d4c37{number:04}"
    data = DATA_MODELS[kind](
        product="vod",
        outcome=outcome,
        job_id=job_id,
        media_id="6a45f222e08f4d1d8d2d144503213a01",
        vendor_event="DynamicImageComplete",
        error=EventError(code="JobFailed", message="ошибка", retryable=None),
        user_data=user_data,
        revision=1,
        source="vod",
        transport="http",
        verified_by="signature",
        outcome_verified_by="signature",
        received_at=datetime(2019, 11, 5, 9, 12, 59, 120000, tzinfo=UTC),
    )
    return Event(
        id=event_id(number.to_bytes(16, "big"), outcome),
        source="/aliyun/vod/default",
        type=f"media.{kind}.{outcome}",
        subject=job_id if subject == "" else subject,
        time=datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC),
        dataschema=f"urn:media-callbacks:{kind}:1",
        data=data,
    )


@pytest.fixture(scope="session")
def make_delivery() -> Callable[..., Delivery]:
    """One delivery: of a given event, of given bytes, or of the ``number``-th example with members changed."""

    def make(number: int = 0, *, body: bytes | None = None, replay: int = 0, **members: Any) -> Delivery:
        event = _event(number, **members)
        return Delivery(
            row_id=number + 1,
            sink="test",
            event_id=event.id,
            body=event.to_json() if body is None else body,
            attempt=1,
            lease="lease",
            replay=replay,
        )

    return make


# Servers


RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _serve_raw(handler: RawHandler, port: int = 0) -> AsyncIterator[int]:
    """A TCP server on loopback; gives the port. Ends with every connection reset."""
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.add(writer)
        with suppress(ConnectionError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@pytest.fixture
async def raw_server() -> AsyncIterator[Callable[[RawHandler], Awaitable[int]]]:
    """Starts servers that speak whatever the handler writes."""
    async with AsyncStack() as stack:
        yield lambda handler: stack.enter(_serve_raw(handler))


class AsyncStack:
    def __init__(self) -> None:
        self._entered: list[Any] = []

    async def __aenter__(self) -> "AsyncStack":
        return self

    async def enter(self, context: Any) -> Any:
        value = await context.__aenter__()
        self._entered.append(context)
        return value

    async def __aexit__(self, *_: object) -> None:
        for context in reversed(self._entered):
            await context.__aexit__(None, None, None)


class Gate:
    """
    A TCP relay on a port of its own, in front of a server that keeps running.

    Attributes:
        asked: Set when somebody has sent something since it stalled.
        lost: Set when an answer was lost.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_stalled = self._loses_answers = False
        self.asked = asyncio.Event()
        self.lost = asyncio.Event()
        self._running: Any = None
        self.port = 0

    async def open(self) -> None:
        self._running = _serve_raw(self._relay, self.port)
        self.port = await self._running.__aenter__()

    async def close(self) -> None:
        if self._running is not None:
            await self._running.__aexit__(None, None, None)
            self._running = None

    def stall(self) -> None:
        """From now on connections are taken and requests read, and nothing is answered."""
        self._is_stalled = True

    def recover(self) -> None:
        self._is_stalled = False

    def lose_answers(self) -> None:
        """The next request arrives, and its answer is lost with the connection."""
        self._loses_answers = True
        self.asked.clear()
        self.lost.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_stalled:
            while await reader.read(65536):
                self.asked.set()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            await asyncio.gather(self._carry_requests(reader, back), self._carry_answers(there, writer))
        finally:
            back.transport.abort()

    async def _carry_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._is_stalled or self._loses_answers:
                self.asked.set()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _carry_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._loses_answers and self.asked.is_set():
                self._loses_answers = False
                self.lost.set()
                writer.transport.abort()
                return
            if not self._is_stalled:
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def certificate_path(tmp_path_factory):
    """A key, and a certificate of it for other.example.com that nobody else signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("other.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
async def tls_port(certificate_path):
    """Of a server that has this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_path)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


class Queue:
    """A queue of its own, seen by its consumer."""

    def __init__(self, client: Any, *, fifo: bool = False) -> None:
        name = f"q-{uuid4().hex}" + (".fifo" if fifo else "")
        self._client = client
        self.url = client.create_queue(QueueName=name, Attributes={"FifoQueue": "true"} if fifo else {})["QueueUrl"]
        self.arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"

    async def receive(self) -> list[dict[str, Any]]:
        """All messages there are, taken out of the queue."""
        messages: list[dict[str, Any]] = []
        while batch := self._client.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
        ).get("Messages"):
            messages += batch
            for message in batch:
                self._client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return messages


class Aws:
    """
    What a consumer does at AWS. Its calls block: the server answers from threads of its own.

    Attributes:
        port: Of moto's server.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                region_name=REGION,
                endpoint_url=f"http://127.0.0.1:{self.port}",
                aws_access_key_id="testing",
                aws_secret_access_key="testing",
            )
        return self._clients[service]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@pytest.fixture(scope="session")
def aws(moto_port) -> Iterator[Aws]:
    made = Aws(moto_port)
    yield made
    made.close()


@pytest.fixture
async def make_queue(aws) -> Callable[..., Awaitable[Queue]]:
    async def make(*, fifo: bool = False) -> Queue:
        return Queue(aws.client("sqs"), fifo=fifo)

    return make


# Destinations: the same questions asked of every sink


class WebhookDestination:
    keeps_bytes = True
    keeps_order = True

    def __init__(self) -> None:
        self._bodies: list[bytes] = []
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        async def receive(request: web.Request) -> web.Response:
            assert request.content_type == "application/cloudevents+json"
            self._bodies.append(await request.read())
            return web.Response(status=204)

        app = web.Application(client_max_size=10 * 1024 * 1024)
        app.router.add_post("/media", receive)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._gate = Gate(self._runner.addresses[0][1])
        await self._gate.open()

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return WebhookSink("test", f"http://127.0.0.1:{self._gate.port}/media?key=hidden", SECRETS, timeout_s=timeout_s)

    async def received(self) -> list[bytes]:
        bodies, self._bodies = self._bodies, []
        return bodies

    async def go_away(self) -> None:
        await self._gate.close()

    async def come_back(self) -> None:
        await self._gate.open()

    async def stall(self) -> None:
        self._gate.stall()

    async def asked(self) -> None:
        await self._gate.asked.wait()

    async def close(self) -> None:
        await self._gate.close()
        assert self._runner is not None
        await self._runner.cleanup()


class AwsDestination:
    """One of moto's services behind a gate."""

    keeps_bytes = False
    keeps_order = False

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._gate = Gate(aws.port)

    @property
    def _endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._gate.port}"

    async def open(self) -> None:
        self._create()
        await self._gate.open()

    def _create(self) -> None:
        raise NotImplementedError

    async def go_away(self) -> None:
        await self._gate.close()

    async def come_back(self) -> None:
        await self._gate.open()

    async def stall(self) -> None:
        self._gate.stall()

    async def asked(self) -> None:
        await self._gate.asked.wait()

    async def close(self) -> None:
        await self._gate.close()


class SqsDestination(AwsDestination):
    def __init__(self, aws: Aws, *, fifo: bool) -> None:
        super().__init__(aws)
        self.keeps_order = fifo

    def _create(self) -> None:
        self.queue = Queue(self._aws.client("sqs"), fifo=self.keeps_order)

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return SqsSink("test", self.queue.url, REGION, self._endpoint_url, timeout_s=timeout_s)

    async def received(self) -> list[bytes]:
        return [message["Body"].encode() for message in await self.queue.receive()]


class SnsDestination(SqsDestination):
    """A topic with a queue that subscribed to it."""

    def _create(self) -> None:
        super()._create()
        client = self._aws.client("sns")
        name = f"t-{uuid4().hex}" + (".fifo" if self.keeps_order else "")
        attributes = {"FifoTopic": "true"} if self.keeps_order else {}
        self.topic_arn = client.create_topic(Name=name, Attributes=attributes)["TopicArn"]
        client.subscribe(
            TopicArn=self.topic_arn,
            Protocol="sqs",
            Endpoint=self.queue.arn,
            Attributes={"RawMessageDelivery": "true"},
        )

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return SnsSink("test", self.topic_arn, None, self._endpoint_url, timeout_s=timeout_s)


class EventBridgeDestination(SqsDestination):
    """A bus with a rule that sends everything of ours to a queue."""

    def __init__(self, aws: Aws) -> None:
        super().__init__(aws, fifo=False)

    def _create(self) -> None:
        super()._create()
        client = self._aws.client("events")
        self.name = f"b-{uuid4().hex}"
        self.arn = client.create_event_bus(Name=self.name)["EventBusArn"]
        pattern = json.dumps({"source": ["media-callbacks"]})
        client.put_rule(Name=self.name, EventBusName=self.name, EventPattern=pattern)
        client.put_targets(Rule=self.name, EventBusName=self.name, Targets=[{"Id": "q", "Arn": self.queue.arn}])

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return EventBridgeSink("test", self.name, REGION, self._endpoint_url, timeout_s=timeout_s)

    async def received(self) -> list[bytes]:
        envelopes = [json.loads(body) for body in await super().received()]
        assert all(envelope["detail-type"] == envelope["detail"]["type"] for envelope in envelopes)
        return [json.dumps(envelope["detail"]).encode() for envelope in envelopes]


class KinesisDestination(AwsDestination):
    keeps_bytes = True
    keeps_order = True

    def _create(self) -> None:
        self._kinesis = self._aws.client("kinesis")
        self.name = f"s-{uuid4().hex}"
        self._kinesis.create_stream(StreamName=self.name, ShardCount=1)
        shard = self._kinesis.list_shards(StreamName=self.name)["Shards"][0]["ShardId"]
        self._iterator = self._kinesis.get_shard_iterator(
            StreamName=self.name, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return KinesisSink("test", self.name, REGION, self._endpoint_url, timeout_s=timeout_s)

    async def records(self) -> list[dict[str, Any]]:
        """All that were written since the last time."""
        answer = self._kinesis.get_records(ShardIterator=self._iterator)
        self._iterator = answer["NextShardIterator"]
        return list(answer["Records"])

    async def received(self) -> list[bytes]:
        return [record["Data"] for record in await self.records()]


class PipeDestination:
    """A named pipe: unlike an unnamed one it can get another reader."""

    keeps_bytes = True
    keeps_order = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._received = bytearray()
        self._reader: int | None = None

    async def open(self) -> None:
        os.mkfifo(self._path)
        await self.come_back()
        self._stream = PipeEnd(self._path)

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return StdoutSink("test", self._stream, timeout_s=timeout_s)

    async def received(self) -> list[bytes]:
        self._read()
        lines, self._received = self._received.splitlines(keepends=True), bytearray()
        assert all(line.endswith(b"\n") for line in lines)
        return [bytes(line[:-1]) for line in lines]

    async def go_away(self) -> None:
        if self._reader is not None:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = None

    async def come_back(self) -> None:
        self._reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    async def stall(self) -> None:
        assert self._reader is not None
        asyncio.get_running_loop().remove_reader(self._reader)
        filler = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(filler, b" ")
        os.close(filler)

    async def asked(self) -> None:
        await asyncio.to_thread(self._stream.writing.wait)

    async def close(self) -> None:
        await self.go_away()  # a thread that is stuck in writing wakes with EPIPE
        for thread in threading.enumerate():
            if thread.name == "sink-test":
                await asyncio.to_thread(thread.join, 60)
        self._stream.close()

    def _read(self) -> None:
        assert self._reader is not None
        with suppress(BlockingIOError):
            while data := os.read(self._reader, 65536):
                self._received += data


class BrokerDestination:
    """A real broker behind a gate."""

    keeps_bytes = True
    keeps_order = True

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.gate = Gate(broker.port)
        self._seen = 0

    async def open(self) -> None:
        await self.gate.open()
        self.broker.advertise(self.gate.port)
        await self.broker.prepare()

    def new_sink(self, *, timeout_s: float = 60.0, **changes: Any) -> Sink:
        table = self.broker.table(port=self.gate.port) | changes
        sink = build_sink("test", SINK_MODELS[self.broker.kind].model_validate(table))
        sink.timeout_s = timeout_s
        return sink

    async def received(self) -> list[bytes]:
        stored = [each.body for each in await self.broker.read()]
        new, self._seen = stored[self._seen :], len(stored)
        return new

    async def go_away(self) -> None:
        await self.gate.close()

    async def come_back(self) -> None:
        await self.gate.open()

    async def stall(self) -> None:
        self.gate.stall()

    async def asked(self) -> None:
        await self.gate.asked.wait()

    async def close(self) -> None:
        await self.gate.close()


@pytest.fixture(scope="session")
def brokers(tmp_path_factory) -> Iterator[Callable[..., Broker]]:
    """
    Started when they are first asked for: of a kind, and secured with a certificate for a host, where one is named.
    """
    started: dict[tuple[str, str | None], Broker] = {}

    def find(kind: str, host: str | None = None) -> Broker:
        need_broker(kind)
        if (kind, host) not in started:
            folder = tmp_path_factory.mktemp(kind)
            certificates = None if host is None else Certificates(folder / "certificates", host=host)
            started[kind, host] = BROKERS[kind](folder / "broker", certificates=certificates)
            started[kind, host].start()
        return started[kind, host]

    yield find
    for broker in started.values():
        broker.stop()


class FolderDestination:
    """What the third party of `third_party` writes to, its sink being built as the service would."""

    keeps_bytes = True
    keeps_order = False

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> None:
        self._path.mkdir()

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        table = {"kind": "folder", "folder": str(self._path)}
        sink = build_sink("test", ThirdPartySinkSettings.model_validate(ThirdPartySinkSettings.split(table)))
        sink.timeout_s = timeout_s
        return sink

    async def received(self) -> list[bytes]:
        files = sorted(self._path.iterdir())
        bodies = [file.read_bytes() for file in files]
        for file in files:
            file.unlink()
        return bodies

    async def go_away(self) -> None:
        self._path.rename(self._path.with_suffix(".away"))

    async def come_back(self) -> None:
        self._path.with_suffix(".away").rename(self._path)

    async def stall(self) -> None:
        pytest.skip("a folder on a local disk does not stall")

    async def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def third_party_folder(tmp_path_factory) -> Path:
    """Where the distribution in `third_party` is installed, apart from everything else."""
    target: Path = tmp_path_factory.mktemp("site-packages")
    source = Path(__file__).parent / "third_party"
    options = ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([sys.executable, "-m", "uv", "pip", "install", *options, "--target", target, source], check=True)
    return target


@pytest.fixture
def third_party(third_party_folder: Path, monkeypatch) -> Path:
    """Makes the distribution one of those that are installed here."""
    monkeypatch.syspath_prepend(third_party_folder)
    return third_party_folder


class MnsDestination:
    """The queues and topics of the fake cloud behind a gate, read by the vendor's own client."""

    keeps_bytes = True
    keeps_order = False
    large_words = 2_000  # 64 KB in Base64

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        self.queues, url = await self._stack.enter_async_context(serving_queues())
        self._account = Account(url, KEY_ID, SECRET)
        self._queue = self._account.get_queue(QUEUE)
        self._gate = Gate(int(url.rpartition(":")[2]))
        await self._gate.open()

    @property
    def access(self) -> dict[str, Any]:
        return {"endpoint": f"http://127.0.0.1:{self._gate.port}", "credentials": Credentialed(), "clock": Clock()}

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return MnsQueueSink("test", MnsQueueSender(name=QUEUE, **self.access), timeout_s=timeout_s)

    async def received(self) -> list[bytes]:
        bodies: list[bytes] = []
        with suppress(MNSServerException):  # when there is none any more
            while messages := await asyncio.to_thread(self._queue.batch_receive_message, 16):
                bodies += [message.message_body for message in messages]
                handles = [message.receipt_handle for message in messages]
                await asyncio.to_thread(self._queue.batch_delete_message, handles)
        return bodies

    async def go_away(self) -> None:
        await self._gate.close()

    async def come_back(self) -> None:
        await self._gate.open()

    async def stall(self) -> None:
        self._gate.stall()

    async def asked(self) -> None:
        await self._gate.asked.wait()

    async def close(self) -> None:
        await self._gate.close()
        self._account.mns_client.close_connection()
        await self._stack.aclose()


class MnsTopicDestination(MnsDestination):
    """A topic with a queue that subscribed to it."""

    async def open(self) -> None:
        await super().open()
        self.queues.topics.create("done")
        endpoint = f"acs:mns:cn-shanghai:{OWNER}:queues/{QUEUE}"
        meta = SubscriptionMeta(endpoint=endpoint, notify_content_format="SIMPLIFIED")
        await asyncio.to_thread(self._account.get_topic("done").get_subscription("all").subscribe, meta)

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return MnsTopicSink("test", MnsTopicSender(name="done", **self.access), timeout_s=timeout_s)


class AliyunEventBridgeDestination(MnsDestination):
    """A bus of the fake cloud, and what is on it."""

    keeps_bytes = False  # each has the name of its bus
    large_words = 10_000
    BUS = "media"

    async def open(self) -> None:
        self.buses = FakeBuses({KEY_ID: AccessKey(SECRET)}, Clock())
        self.buses.create(self.BUS)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope, receive)
            await self.buses.respond(request, await request.body())(scope, receive, send)

        url = await self._stack.enter_async_context(serving(app))
        self._gate = Gate(int(url.rpartition(":")[2]))
        await self._gate.open()

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        client = EventBridgeClient(bus=self.BUS, **self.access)
        return AliyunEventBridgeSink("test", client, self.BUS, timeout_s=timeout_s)

    async def received(self) -> list[bytes]:
        events, self.buses.events[self.BUS] = self.buses.events[self.BUS], []
        assert all(event["aliyuneventbusname"] == self.BUS for event in events)
        return [
            json.dumps({name: value for name, value in event.items() if name != "aliyuneventbusname"}).encode()
            for event in events
        ]

    async def close(self) -> None:
        await self._gate.close()
        await self._stack.aclose()


ALIYUN_DESTINATIONS: dict[str, Callable[[], MnsDestination]] = {
    "mns-queue": MnsDestination,
    "mns-topic": MnsTopicDestination,
    "aliyun-eventbridge": AliyunEventBridgeDestination,
}

AWS_DESTINATIONS: dict[str, Callable[[Aws], AwsDestination]] = {
    "sqs": lambda aws: SqsDestination(aws, fifo=False),
    "sqs-fifo": lambda aws: SqsDestination(aws, fifo=True),
    "sns": lambda aws: SnsDestination(aws, fifo=False),
    "sns-fifo": lambda aws: SnsDestination(aws, fifo=True),
    "eventbridge": EventBridgeDestination,
    "kinesis": KinesisDestination,
}


@pytest.fixture(params=["webhook", *AWS_DESTINATIONS, *ALIYUN_DESTINATIONS, *BROKERS, "stdout", "third-party"])
async def destination(request, tmp_path) -> AsyncIterator[Any]:
    """Every kind of sink has one here, and with it the whole suite of test_conformance.py."""
    made: Any
    if request.param == "webhook":
        made = WebhookDestination()
    elif request.param in ALIYUN_DESTINATIONS:
        made = ALIYUN_DESTINATIONS[request.param]()
    elif request.param == "stdout":
        made = PipeDestination(tmp_path / "pipe")
    elif request.param in BROKERS:
        made = BrokerDestination(request.getfixturevalue("brokers")(request.param))
    elif request.param == "third-party":
        request.getfixturevalue("third_party")
        made = FolderDestination(tmp_path / "folder")
    else:
        made = AWS_DESTINATIONS[request.param](request.getfixturevalue("aws"))
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=BROKERS)
async def bus(request, brokers) -> AsyncIterator[BrokerDestination]:
    """The same for what goes wrong with brokers alone."""
    made = BrokerDestination(brokers(request.param))
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=BROKERS)
async def secured_bus(request, brokers) -> AsyncIterator[BrokerDestination]:
    """TLS alone, and nobody without credentials."""
    made = BrokerDestination(brokers(request.param, "127.0.0.1"))
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=BROKERS)
async def bus_of_another_host(request, brokers) -> AsyncIterator[BrokerDestination]:
    made = BrokerDestination(brokers(request.param, "elsewhere.example.com"))
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=SCRIPTED)
async def scripted(request) -> AsyncIterator[Scripted]:
    """The same for failures that have to be told in the words of each service."""
    made = SCRIPTED[request.param]()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[Sink], Awaitable[Any]]]:
    """Opens sinks, and closes them at the end."""
    sinks: list[Sink] = []

    async def open_sink(sink: Sink) -> Sink:
        await sink.open()
        sinks.append(sink)
        return sink

    yield open_sink
    for sink in sinks:
        await sink.close()


@pytest.fixture(scope="session")
def as_json() -> Callable[[list[bytes]], list[Any]]:
    return lambda bodies: [json.loads(body) for body in bodies]
