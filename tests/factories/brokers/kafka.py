"""Kafka: a broker that speaks its protocol (``kafka_servers``)."""

import asyncio
import json
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from media_callbacks.model.events import CONTENT_TYPE
from media_callbacks.sinks.kafka import MAX_MESSAGE_BYTES
from tests.factories.brokers.broker import Broker, NoBroker, Stored
from tests.factories.brokers.certificates import Certificates
from tests.factories.brokers.kafka_servers import Front, Reader, Tansu, create_topic, find_broker
from tests.factories.brokers.object_store import BUCKET, ObjectStore

TOPIC = "media"
_ANSWER_S = 60.0


class KafkaBroker(Broker):
    kind: ClassVar[str] = "kafka"
    template: ClassVar[str] = TOPIC
    max_bytes: ClassVar[int] = MAX_MESSAGE_BYTES
    identity: ClassVar[Mapping[str, str]] = {"user": "media", "password": "a-password"}
    repeats: ClassVar[bool] = True
    max_read: ClassVar[int] = 1_600

    def __init__(self, folder: Path, *, certificates: Certificates | None = None) -> None:
        super().__init__(folder, certificates=certificates)
        self._store: ObjectStore | None = None
        self._tansu: Tansu | None = None
        self._front: _FrontThread | None = None
        self._advertised_port = 0

    def start(self) -> None:
        if self._tansu is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._store = ObjectStore()
            self._tansu = Tansu(
                self.folder / "kafka.log", storage=f"s3://{BUCKET}/", environment=self._store.environment
            )
            if self.certificates is None:
                self._tansu.port = self.port
            else:
                self._front = _FrontThread(self.certificates, self.identity, self.port, self._tansu.port)
        self._tansu.start(advertised=f"127.0.0.1:{self._advertised_port or self.port}")

    def advertise(self, port: int) -> None:
        self._advertised_port = port
        self.kill()
        self.start()

    @classmethod
    def missing(cls) -> str | None:
        try:
            find_broker()
        except NoBroker as error:
            return str(error)
        return None

    def freeze(self) -> None:
        assert self._tansu is not None
        self._tansu.freeze()

    def kill(self) -> None:
        if self._tansu is not None:
            self._tansu.kill()

    def stop(self) -> None:
        self.kill()
        if self._front is not None:
            self._front.close()
        if self._store is not None:
            self._store.close()

    def replayed(self, identity: str, number: int) -> str:
        return identity

    def table(self, *, port: int | None = None) -> dict[str, Any]:
        table = {"kind": "kafka", "brokers": f"127.0.0.1:{port or self.port}", "topic": TOPIC}
        if self.certificates is None:
            return table
        return {
            **table,
            **self.identity,
            "tls": True,
            "mechanism": "SCRAM-SHA-256",
            "ca_file": str(self.certificates.ca),
        }

    @property
    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}
        if self.certificates is not None:
            options |= {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": self.identity["user"],
                "sasl.password": self.identity["password"],
                "ssl.ca.location": str(self.certificates.ca),
                "ssl.endpoint.identification.algorithm": "none",
            }
        return options

    async def prepare(self) -> None:
        await self.remove()
        await self.make_room()
        await asyncio.to_thread(create_topic, self._options, TOPIC, partitions=1)

    async def fill(self) -> None:
        assert self._store is not None
        self._store.is_full = True

    async def make_room(self) -> None:
        assert self._store is not None
        self._store.is_full = False

    async def remove(self) -> None:
        def remove() -> None:
            # It breaks off when nobody holds it.
            admin = AdminClient(self._options)
            try:
                admin.delete_topics([TOPIC], request_timeout=_ANSWER_S)[TOPIC].result()
            except KafkaException as error:
                if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                    raise

        await asyncio.to_thread(remove)
        # Unlike Kafka it goes on writing for clients that have not heard of it.
        await self.fill()

    async def read(self) -> Sequence[Stored]:
        def read() -> list[Stored]:
            with closing(Reader(self._options, TOPIC)) as reader:
                return [_stored(message.value() or b"", message.headers()) for message in reader.read()]

        return await asyncio.to_thread(read)

    async def count(self) -> int:
        assert self._store is not None
        (name,) = [
            key for key in dict(self._store.objects) if key.endswith(f"/{TOPIC}/partitions/0000000000/watermark.json")
        ]
        return int(json.loads(self._store.objects[name])["high"] or 0)

    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        await asyncio.to_thread(self._publish, bodies, at_once)

    def _publish(self, bodies: Sequence[bytes], at_once: int) -> None:
        producer = Producer({**self._options, "acks": "all", "enable.idempotence": True, "linger.ms": 0})
        failed: list[Any] = []

        def report(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error)

        for body in bodies:
            key = json.loads(body)["subject"]
            while len(producer) >= at_once:
                producer.poll(1)
            producer.produce(TOPIC, body, key, headers={"content-type": CONTENT_TYPE}, on_delivery=report)
            producer.poll(0)
        producer.flush(_ANSWER_S)
        assert not failed, failed[0]


def _stored(body: bytes, headers: Any) -> Stored:
    assert headers == [("content-type", CONTENT_TYPE.encode())]
    return Stored(TOPIC, json.loads(body)["id"], body)


class _FrontThread:
    """A front in an event loop of its own, for whoever asks from threads or other loops."""

    def __init__(self, certificates: Certificates, identity: Mapping[str, str], port: int, target_port: int) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.folder / "server.pem", certificates.folder / "server.key")
        self._front = Front(tls=context, passwords={identity["user"]: identity["password"]}, port=port)
        self._front.target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._front.__aenter__())

    def close(self) -> None:
        self._run(self._front.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_ANSWER_S)
