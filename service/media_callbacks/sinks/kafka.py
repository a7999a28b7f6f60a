"""
The ``kafka`` sink: one message for each event, whose key is the subject; delivered is what all in-sync replicas have.

Order: librdkafka writes the messages of a partition in the order that they were given to it, and again in that order
after a failure, for its producer is idempotent. So what it still holds of an event that we gave up can't come after
what we send later. Other instances may send in the meantime, though: therefore it gives up before we do
(``message.timeout.ms``), and what is left by then is purged. An event whose acknowledgement was lost may come again,
with the same id; its producer's epoch is raised then, by which brokers refuse what is late. Where no broker can be
reached the attempt ends, and the next one has another producer: only then might brokers write what they had before.

Source: "Kafka Protocol Binding for CloudEvents", version 1.0.2; "Introduction to librdkafka", sections "Idempotent
Producer" and "Message persistence status"; librdkafka's CONFIGURATION.md.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, ResourceType, TopicDescription

from media_callbacks.model.check_results import CheckResult, Severity
from media_callbacks.model.errors import SinkError, SinkRejected, SinkRetry
from media_callbacks.model.events import CONTENT_TYPE, Delivery
from media_callbacks.model.naming import NameTemplate
from media_callbacks.sinks.connections import TlsFiles
from media_callbacks.sinks.documents import read_document, read_heading

ContentMode = Literal["structured", "binary"]
Headers = list[tuple[str, str | bytes | None]]

# What brokers take together; a larger event goes alone, so that it alone is refused when it is larger than its topic
# allows.
MAX_BATCH_BYTES = 65_536
# The topic may take less, which its owner alone knows.
MAX_MESSAGE_BYTES = 16 * 2**20
_MAX_ANSWER_BYTES = 16 * 2**20
# Of our own time, what the client has to deliver: it looks only once a second for what is too old.
_CLIENT_SHARE = 0.8
# The highest that librdkafka takes.
_MAX_SOCKET_TIMEOUT_S = 300.0
_CONNECT_TIMEOUT_S = 5.0
# With no broker to be reached, until what waits is given up. Most that restart are back sooner.
_PATIENCE_S = 2.0
# How long a thread that nobody wakes waits until it sees that it should end.
_POLL_S = 0.1
_MAX_DETAIL_CHARACTERS = 120
# Of each of the two questions that are asked to find out whether it can be used.
_QUESTION_TIMEOUT_S = 2.0
_MAX_NAMED = 5
_STRUCTURED: Headers = [("content-type", CONTENT_TYPE)]

_NO_TOPIC = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"})
_NOT_ALLOWED = frozenset({"TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"})
_PURGED = frozenset({"_PURGE_QUEUE", "_PURGE_INFLIGHT"})
# Some brokers that are not Kafka's own take no epoch that a producer has raised by itself; another producer can write.
_PRODUCER_REFUSED = frozenset({"PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"})
# What is wrong with the connections, and may be told in the client's words: those of brokers are not in them.
_TROUBLES: Mapping[str, str] = {
    "_RESOLVE": "the name of a broker can't be resolved",
    "_TRANSPORT": "no connection to a broker",
    "_SSL": "no TLS connection to a broker",
}


def build_message(
    delivery: Delivery, topic: NameTemplate, content_mode: ContentMode
) -> tuple[str, bytes, bytes, Headers]:
    """
    Topic, key, value and headers. An event without a subject has its id for a key: a compacted topic takes none
    without one.

    Raises:
        SinkRejected: The stored event is none.
    """
    name, subject = read_heading(delivery, topic)
    key = subject or delivery.event_id.encode()
    if content_mode == "structured" and delivery.traceparent is None:
        return name, key, delivery.body, _STRUCTURED
    headers: Headers = [] if delivery.traceparent is None else [("traceparent", delivery.traceparent)]
    if content_mode == "structured":
        return name, key, delivery.body, [*_STRUCTURED, *headers]
    document = read_document(delivery)[1]
    data = document.pop("data")
    headers.append(("content-type", str(document.pop("datacontenttype", "application/json"))))
    headers += [(f"ce_{attribute}", str(value).encode(errors="replace")) for attribute, value in document.items()]
    return name, key, json.dumps(data, separators=(",", ":")).encode(), headers


@dataclass(slots=True, eq=False)
class _Batch:
    """
    What one ``send`` waits for. Touched on the event loop alone.

    Attributes:
        outcomes: By position, of those that an answer spoke of.
        left: The positions of those that are on their way.
        refused: The positions of those that were not taken because of their producer.
        client: Who has them.
    """

    deliveries: Sequence[Delivery]
    outcomes: dict[int, SinkError | None] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    refused: list[int] = field(default_factory=list)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    client: "_Client | None" = None

    def settle(self, position: int, outcome: SinkError | None) -> None:
        self.outcomes[position] = outcome
        self.left.discard(position)
        if not self.left:
            self.complete.set()


class _Silence:
    """Takes librdkafka's log, which would go to stderr. What it says of failures, results say, too."""

    def log(self, *_: object) -> None:
        pass


class KafkaSink:
    """
    A sink of kind ``kafka``.

    Args:
        brokers: ``host:port`` of one or more, who tell of the others.
        topic: One for each event.
        tls: With certificates for the names of the brokers.
        user, password: For SASL, by ``mechanism``.
        concurrency: Batches that wait for their acknowledgements at once.
    """

    batch_size = 100

    def __init__(
        self,
        name: str,
        brokers: Sequence[str],
        topic: NameTemplate,
        *,
        content_mode: ContentMode = "structured",
        tls: bool = False,
        tls_files: TlsFiles | None = None,
        mechanism: str = "PLAIN",
        user: str | None = None,
        password: str | None = None,
        timeout_s: float = 15.0,
        concurrency: int = 4,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self._topic = topic
        self._content_mode = content_mode
        files = tls_files or TlsFiles()
        self._connection_options = {
            "bootstrap.servers": ",".join(brokers),
            "client.id": "media-callbacks",
            "security.protocol": ("SASL_" if user is not None else "") + ("SSL" if tls else "PLAINTEXT"),
            "socket.connection.setup.timeout.ms": int(_CONNECT_TIMEOUT_S * 1000),
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 500,
            # The longest tells of all brokers and of the topics that are asked for; by default it may have 100 MB.
            "receive.message.max.bytes": _MAX_ANSWER_BYTES,
            "log_level": 0,
        }
        given = {
            "ssl.ca.location": files.ca,
            "ssl.certificate.location": files.certificate,
            "ssl.key.location": files.key or files.certificate,
            "sasl.mechanism": mechanism if user is not None else None,
            "sasl.username": user,
            "sasl.password": password,
        }
        self._connection_options |= {option: value for option, value in given.items() if value is not None}
        self._producer_options = self._connection_options | _producer_options(timeout_s)
        self._client: _Client | None = None
        self._is_closed = False
        self._connecting = asyncio.Lock()

    async def open(self) -> None:
        self._is_closed = False
        # Now, so that the first event need not wait. `send` tries again what fails here, and has somebody to tell.
        with suppress(SinkRetry):
            await self._connect()

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        batch = _Batch(deliveries)
        failure: SinkRetry | None = None
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._write(batch, range(len(deliveries)))
                if batch.refused:
                    await self._write(batch, batch.refused)
        except TimeoutError:
            failure = self._unanswered(batch)
        except SinkRetry as error:
            failure = error
        finally:
            # Nothing of it is to be written when others may have sent what follows. That what other batches have in
            # the client is given up, too, costs them an attempt.
            if batch.client is not None and batch.left:
                batch.client.purge()
        return [batch.outcomes.get(position, failure) for position in range(len(deliveries))]

    async def close(self) -> None:
        self._is_closed = True
        async with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def check(self, names: Sequence[str]) -> Sequence[CheckResult]:
        findings = await asyncio.to_thread(_look, self._connection_options, names)
        return [CheckResult(severity, f"sinks.{self.name}", text, remedy) for severity, text, remedy in findings]

    async def _connect(self) -> "_Client":
        async with self._connecting:
            if self._is_closed:
                raise SinkRetry("the sink was closed")
            if self._client is not None and self._client.is_broken:
                client, self._client = self._client, None
                await client.close()
            if self._client is None:
                loop = asyncio.get_running_loop()
                client = await asyncio.to_thread(_Client, self._producer_options, loop, self.name)
                client.start()
                self._client = client
            return self._client

    async def _write(self, batch: _Batch, positions: Sequence[int]) -> None:
        client = batch.client = await self._connect()
        batch.left.update(positions)
        batch.complete.clear()
        for position in positions:
            batch.outcomes.pop(position, None)
            self._produce(client, batch, position)
        if client.is_broken:
            client.purge()
        await batch.complete.wait()

    def _produce(self, client: "_Client", batch: _Batch, position: int) -> None:
        try:
            topic, key, value, headers = build_message(batch.deliveries[position], self._topic, self._content_mode)
        except SinkRejected as error:
            batch.settle(position, error)
            return
        settle = partial(self._settle, batch, position, topic)
        try:
            client.produce(topic, key, value, headers, settle)
        except KafkaException as error:
            settle(error.args[0])
        except BufferError:
            batch.settle(position, SinkRetry("the client holds as many events as it can", is_overload=True))

    def _settle(self, batch: _Batch, position: int, topic: str, error: KafkaError | None) -> None:
        if error is None:
            batch.settle(position, None)
            return
        code = error.name()
        if code in _PRODUCER_REFUSED and batch.client is not None:
            batch.client.is_broken = True
            batch.refused.append(position)
        trouble = batch.client.trouble if batch.client is not None else ""
        if code == "_MSG_TIMED_OUT":
            batch.settle(position, self._unanswered(batch))
        elif code in _PURGED and trouble:
            batch.settle(position, SinkRetry(f"Kafka can't be reached or used: {trouble}"))
        else:
            batch.settle(position, judge(error, topic, len(batch.deliveries[position].body)))

    def _unanswered(self, batch: _Batch) -> SinkRetry:
        trouble = f": {batch.client.trouble}" if batch.client is not None and batch.client.trouble else ""
        return SinkRetry(f"Kafka has not acknowledged the event within {self.timeout_s:g} s{trouble}")


def judge(error: KafkaError, topic: str, size_bytes: int) -> SinkError:
    """What the failure of one message means. Brokers' own words are not repeated."""
    code = error.name()
    if code == "MSG_SIZE_TOO_LARGE" and size_bytes > MAX_BATCH_BYTES:
        return SinkRejected(f"Kafka refused the event of {size_bytes} bytes, {topic} takes less ({code})")
    if code == "MSG_SIZE_TOO_LARGE":
        return SinkRetry(
            f"Kafka refused the event of {size_bytes} bytes, alone or with others ({code}): max.message.bytes of"
            f" {topic} should be {MAX_BATCH_BYTES} at least"
        )
    if code in _NO_TOPIC:
        return SinkRetry(f"Kafka has no topic {topic} ({code}); create it")
    if code in _NOT_ALLOWED:
        return SinkRetry(f"these credentials may not write to the topic {topic} ({code})")
    if code in _PURGED:
        return SinkRetry(f"the event was given up together with others that Kafka did not acknowledge ({code})")
    return SinkRetry(f"Kafka did not take the event ({code})")


# The client


def _producer_options(timeout_s: float) -> dict[str, Any]:
    client_timeout_s = _CLIENT_SHARE * timeout_s
    return {
        "acks": "all",
        "enable.idempotence": True,
        # As the clients in Java do it: who reads by key finds the same partitions.
        "partitioner": "murmur2_random",
        "message.timeout.ms": max(int(client_timeout_s * 1000), 10),
        "socket.timeout.ms": max(int(min(client_timeout_s, _MAX_SOCKET_TIMEOUT_S) * 1000), 10),
        # What other events have to be sent together with it: the client's own default. Without it every few events are
        # a request, at three times the cost.
        "linger.ms": 5,
        "batch.size": MAX_BATCH_BYTES,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        # A topic that is not there is told at once, and made by nobody: a broker would make it with its defaults, which
        # mostly are a single replica.
        "topic.metadata.propagation.max.ms": 0,
        "allow.auto.create.topics": False,
    }


class _Client:
    """
    A producer and the thread that polls it: what it hears is handed to the event loop.

    Attributes:
        trouble: What is wrong with the connections, since something was last delivered; else empty.
        is_broken: It can't be used any more, or no broker can be reached: who comes next looks for them at once, and
            hears it at once when there are none.
    """

    def __init__(self, options: Mapping[str, Any], loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.trouble = ""
        self.is_broken = False
        # Since when there is no connection to any broker; not that, while one is merely opened again.
        self._alone_since: float | None = None
        self._loop = loop
        self._reports: list[tuple[partial[None], KafkaError | None]] = []
        self._is_closing = threading.Event()
        self._ended: asyncio.Future[None] | None = None
        try:
            self._producer = Producer({**options, "error_cb": self._hear_of_trouble}, logger=_Silence())
        except KafkaException as error:
            # Its text may hold the value that it does not like.
            raise SinkRetry(
                f"the client of Kafka can't be set up ({error.args[0].name()}): see whether ca_file, certificate_file"
                " and key_file can be read"
            ) from None
        self._thread = threading.Thread(target=self._poll_on, name=f"sink-{name}", daemon=True)

    def start(self) -> None:
        """Apart from making it, which takes a thread that can't be cancelled: who is not started need not be closed."""
        self._thread.start()

    def produce(self, topic: str, key: bytes, value: bytes, headers: Headers, settle: "partial[None]") -> None:
        """
        Args:
            settle: Called on the event loop, with the error or None.

        Raises:
            BufferError, KafkaException: It did not take the message.
        """
        self._producer.produce(topic, value, key, headers=headers, on_delivery=partial(self._report, settle))

    def purge(self) -> None:
        self._producer.purge(blocking=False)

    async def close(self) -> None:
        self._ended = self._loop.create_future()
        self._is_closing.set()
        await self._ended

    def _poll_on(self) -> None:
        producer = self._producer
        try:
            while not self._is_closing.is_set():
                try:
                    producer.poll(_POLL_S)
                except KafkaException:  # its error is fatal
                    self.is_broken = True
                self._hand_over()
                if self._is_alone() and not self.is_broken:
                    self.is_broken = True
                    self.purge()
            producer.purge()
            producer.close()
            self._hand_over()
        finally:
            self._call(self._tell_ended, None)

    def _is_alone(self) -> bool:
        since = self._alone_since
        return since is not None and bool(self.trouble) and time.monotonic() - since >= _PATIENCE_S

    def _hand_over(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self._call(_settle_all, reports)

    def _call(self, function: Any, argument: Any) -> None:
        with suppress(RuntimeError):  # the event loop was closed long ago: nobody waits
            self._loop.call_soon_threadsafe(function, argument)

    def _tell_ended(self, _: None) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _report(self, settle: "partial[None]", error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.trouble, self._alone_since = "", None
        self._reports.append((settle, error))

    def _hear_of_trouble(self, error: KafkaError) -> None:
        if error.name() == "_ALL_BROKERS_DOWN" and self._alone_since is None:
            self._alone_since = time.monotonic()
        self.trouble = explain(error) or self.trouble


def _settle_all(reports: Sequence[tuple["partial[None]", KafkaError | None]]) -> None:
    for settle, error in reports:
        settle(error)


def explain(error: KafkaError) -> str:
    """What is wrong with the connections, without the words of brokers; empty when it is nothing of that."""
    code, said = error.name(), error.str()
    if code == "_AUTHENTICATION":
        return "the brokers refuse the credentials"
    if code == "_TRANSPORT" and "Connection refused" in said:
        return "nothing takes connections there"
    if "certificate verify failed" in said:
        return "its TLS certificate is not accepted"
    if code not in _TROUBLES:
        return ""
    # "broker:port/id: what (after 3ms in state CONNECT)"
    detail = re.sub(r"^[^ ]*: | \(after .*", "", said)
    detail = re.sub(r"[^ -~]+", " ", detail)[:_MAX_DETAIL_CHARACTERS]
    return f"{_TROUBLES[code]} ({detail})"


# Whether it can be used

_Finding = tuple[Severity, str, str | None]


def _look(options: Mapping[str, Any], names: Sequence[str]) -> list[_Finding]:
    """It blocks."""
    troubles: list[str] = []
    try:
        hear: dict[str, Any] = {"error_cb": lambda error: troubles.append(explain(error))}
        admin = AdminClient({**options, **hear}, logger=_Silence())
        topics = admin.describe_topics(
            TopicCollection(list(names)), include_authorized_operations=True, request_timeout=_QUESTION_TIMEOUT_S
        )
        described, errors = _await_all(topics)
        admin.poll(0)
        if "_TIMED_OUT" in errors.values():
            trouble = next(filter(None, reversed(troubles)), "no broker answers")
            return [("error", trouble, "check brokers, tls, certificate_file, user and password, and that Kafka runs")]
        settings = _read_settings(admin, list(described))
    except KafkaException as error:
        return [
            (
                "error",
                f"the client can't be set up ({error.args[0].name()})",
                "check ca_file, certificate_file, key_file",
            )
        ]
    return list(_judge_topics(described, errors, settings)) or [
        ("ok", f"Kafka lets us in, and has {_list(list(described))}", None)
    ]


def _await_all(futures: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """By topic: what was answered, and the codes of what was not."""
    answers: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for asked, future in futures.items():
        topic = asked.name if isinstance(asked, ConfigResource) else asked
        try:
            answers[topic] = future.result()
        except KafkaException as error:
            errors[topic] = error.args[0].name()
    return answers, errors


def _read_settings(admin: AdminClient, topics: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
    """What topics are set to, as far as we may know."""
    if not topics:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    answers, _ = _await_all(admin.describe_configs(resources, request_timeout=_QUESTION_TIMEOUT_S))
    return {
        topic: {key: int(entries[key].value) for key in ("min.insync.replicas", "max.message.bytes") if key in entries}
        for topic, entries in answers.items()
    }


def _judge_topics(
    described: Mapping[str, TopicDescription], errors: Mapping[str, str], settings: Mapping[str, Mapping[str, int]]
) -> Iterator[_Finding]:
    if missing := [topic for topic, code in errors.items() if code in _NO_TOPIC]:
        yield "error", f"Kafka lacks {_list(missing)}", "create what is missing; nothing is created by itself"
    if others := {topic: code for topic, code in errors.items() if code not in _NO_TOPIC}:
        codes = ", ".join(sorted(set(others.values())))
        yield "error", f"Kafka does not let us see {_list(list(others))} ({codes})", "allow Describe and Write"
    forbidden, single, weak, short, small = [], [], [], [], []
    for topic, description in described.items():
        allowed = description.authorized_operations
        minimum = settings.get(topic, {}).get("min.insync.replicas", 1)
        replicas = min([len(partition.replicas) for partition in description.partitions], default=1)
        if allowed and AclOperation.WRITE not in allowed:
            forbidden.append(topic)
        if any(len(partition.isr) < minimum for partition in description.partitions):
            short.append(topic)
        elif replicas == 1:
            single.append(topic)
        elif minimum == 1 and topic in settings:
            weak.append(topic)
        if settings.get(topic, {}).get("max.message.bytes", MAX_BATCH_BYTES) < MAX_BATCH_BYTES:
            small.append(topic)
    if forbidden:
        yield "error", f"these credentials may not write to {_list(forbidden)}", "allow Write"
    if short:
        text = f"too few replicas are in sync for min.insync.replicas of {_list(short)}: nothing is taken"
        yield "error", text, "start the brokers that are missing, or lower it"
    if single:
        yield "warning", f"one replica has all there is of {_list(single)}", "have three, and min.insync.replicas 2"
    if weak:
        text = f"an event may be acknowledged that one replica alone has, in {_list(weak)}"
        yield "warning", text, "set min.insync.replicas to 2"
    if small:
        text = f"max.message.bytes is below {MAX_BATCH_BYTES} for {_list(small)}: events are refused for their company"
        yield "warning", text, f"set it to {MAX_BATCH_BYTES} or more"


def _list(topics: Sequence[str]) -> str:
    named = ", ".join(sorted(topics)[:_MAX_NAMED])
    rest = f" and {len(topics) - _MAX_NAMED} more" if len(topics) > _MAX_NAMED else ""
    return f"the topic {named}" if len(topics) == 1 else f"the topics {named}{rest}"
