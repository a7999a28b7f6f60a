"""What is special to Kafka. A real broker, and a cluster that fails as it is told to: see ``tests.factories.brokers.kafka_servers``."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, from_structured_event
from confluent_kafka.admin import AclOperation

from media_callbacks.assembly.sinks import build_sink
from media_callbacks.config.sinks import KafkaSinkSettings
from media_callbacks.model.errors import ConfigError, SinkRejected, SinkRetry
from media_callbacks.model.events import Delivery
from media_callbacks.model.kinds import KINDS
from media_callbacks.model.naming import NameTemplate
from media_callbacks.model.operational import build_event
from media_callbacks.sinks.connections import TlsFiles
from media_callbacks.sinks.kafka import MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, KafkaSink, _judge_topics
from tests.documentation.test_commands import other_ports, run_page
from tests.factories.brokers.broker import NoBroker
from tests.factories.brokers.certificates import Certificates
from tests.factories.brokers.kafka_servers import Front, MockCluster, Reader, Tansu, create_topic

MEDIA = NameTemplate("media")
LARGE, NOT_LEADER, NOT_ENOUGH_REPLICAS, STORAGE, FORBIDDEN, DISORDER, POLICY = 10, 6, 19, 56, 29, 45, 44
NO_ERROR, FENCED = 0, 90
PASSWORD = "hidden-password"


@pytest.fixture
def broker(tmp_path) -> Iterator[Tansu]:
    """With a topic of three partitions."""
    try:
        made = Tansu(tmp_path / "broker.log")
        made.start()
    except NoBroker as error:
        pytest.fail(str(error))
    create_topic(made.options, "media")
    yield made
    made.kill()


@pytest.fixture
async def make_front(tmp_path) -> AsyncIterator[Callable[..., Any]]:
    """A broker behind what is made of the arguments."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Front:
            front = await stack.enter_async_context(Front(**options))
            broker = Tansu(tmp_path / "broker.log")
            await asyncio.to_thread(broker.start, advertised=f"localhost:{front.port}")
            stack.callback(broker.kill)
            front.target_port = broker.port
            return front

        yield make


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    """Three brokers with a topic of one partition, which the first leads."""
    made = MockCluster(brokers=3, topics={"media": 1})
    made.lead("media", 1)
    yield made
    made.close()


@pytest.fixture
async def make_sink(cluster, opened) -> Callable[..., Any]:
    async def make(**options: Any) -> KafkaSink:
        sink: KafkaSink = await opened(KafkaSink("test", cluster.addresses, MEDIA, **{"timeout_s": 60.0, **options}))
        return sink

    return make


async def read(address: str, topic: str = "media") -> list[Any]:
    def read_all() -> list[Any]:
        with closing(Reader({"bootstrap.servers": address}, topic)) as reader:
            return reader.read()

    return await asyncio.to_thread(read_all)


async def read_ids(address: str) -> list[str]:
    return [json.loads(message.value())["id"] for message in await read(address)]


# What is written


async def test_a_message_is_a_structured_cloudevent(broker, opened, make_delivery):
    sink = await opened(KafkaSink("test", [broker.address], MEDIA))
    delivery = make_delivery()
    assert await sink.send([delivery]) == [None]
    (message,) = await read(broker.address)
    assert message.key() == json.loads(delivery.body)["subject"].encode()
    assert message.headers() == [("content-type", b"application/cloudevents+json")]
    event = from_structured_event(KafkaMessage(dict(message.headers()), message.key(), message.value()))
    assert event.get_id() == delivery.event_id


@pytest.mark.parametrize("content_mode", ["structured", "binary"])
async def test_the_trace_goes_along(broker, opened, make_delivery, content_mode):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sink = await opened(KafkaSink("test", [broker.address], MEDIA, content_mode=content_mode))
    assert await sink.send([replace(make_delivery(), traceparent=traceparent)]) == [None]
    (message,) = await read(broker.address)
    assert dict(message.headers())["traceparent"] == traceparent.encode()


async def test_in_binary_mode_attributes_are_headers(broker, opened, make_delivery):
    sink = await opened(KafkaSink("test", [broker.address], MEDIA, content_mode="binary"))
    deliveries = [make_delivery(number, kind=kind) for number, kind in enumerate(KINDS)]
    assert await sink.send(deliveries) == [None] * len(deliveries)
    found = {}
    for message in await read(broker.address):
        headers = dict(message.headers())
        assert headers.pop("content-type") == b"application/json"
        assert all(name.startswith("ce_") for name in headers)
        event = from_binary_event(KafkaMessage({"content-type": b"application/json", **headers}, None, message.value()))
        found[event.get_id()] = event
    for delivery in deliveries:
        document = json.loads(delivery.body)
        event = found[delivery.event_id]
        assert event.get_data() == document["data"]
        assert event.get_subject() == document["subject"]
        assert event.get_dataschema() == document["dataschema"]
        assert (event.get_type(), event.get_source()) == (document["type"], document["source"])


async def test_the_key_is_the_subject_else_the_id(broker, opened, make_delivery):
    sink = await opened(KafkaSink("test", [broker.address], MEDIA))
    deliveries = [
        make_delivery(0, subject="任务-1"),
        make_delivery(1, subject=None),
        make_delivery(2, body=make_delivery(2, subject="half").body.replace(b'"half"', b'"\\ud800"')),
        make_delivery(3, body=make_delivery(3, subject="none").body.replace(b'"none"', b'""')),
    ]
    assert await sink.send(deliveries) == [None] * 4
    keys = {message.key() for message in await read(broker.address)}
    assert keys == {"任务-1".encode(), deliveries[1].event_id.encode(), b"?", deliveries[3].event_id.encode()}


async def test_who_has_a_key_finds_its_partition_as_clients_in_java_do(broker, opened, make_delivery):
    """Source: Apache Kafka, org.apache.kafka.common.utils.UtilsTest, testMurmur2."""
    hashes = {
        "21": -973932308,
        "foobar": -790332482,
        "a-little-bit-long-string": -985981536,
        "a-little-bit-longer-string": -1486304829,
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    }
    sink = await opened(KafkaSink("test", [broker.address], MEDIA))
    deliveries = [make_delivery(number, subject=key) for number, key in enumerate(hashes)]
    assert await sink.send(deliveries) == [None] * len(hashes)
    found = {message.key().decode(): message.partition() for message in await read(broker.address)}
    assert found == {key: (number & 0x7FFFFFFF) % 3 for key, number in hashes.items()}


async def test_a_template_names_the_topic_of_each(broker, opened, make_delivery):
    for topic in ("media.snapshot", "media.notice"):
        create_topic(broker.options, topic)
    sink = await opened(KafkaSink("test", [broker.address], NameTemplate("media.{kind}")))
    deliveries = [make_delivery(number, kind=kind) for number, kind in enumerate(["snapshot", "notice", "transcode"])]
    results = await sink.send(deliveries)
    assert [type(result) for result in results] == [type(None), type(None), SinkRetry]
    assert str(results[2]) == "Kafka has no topic media.transcode (UNKNOWN_TOPIC_OR_PART); create it"
    for topic in ("media.snapshot", "media.notice"):
        assert len(await read(broker.address, topic)) == 1
    # It was not made by asking for it: with a broker's defaults it would have a single replica.
    create_topic(broker.options, "media.transcode")


async def test_what_is_no_event_is_rejected_and_holds_back_no_other(broker, opened, make_delivery):
    sink = await opened(KafkaSink("test", [broker.address], MEDIA))
    deliveries = [make_delivery(0, body=b"{"), make_delivery(1, body=b'{"data": 1}'), make_delivery(2)]
    results = await sink.send(deliveries)
    assert [type(result) for result in results] == [SinkRejected, SinkRejected, type(None)]


async def test_all_replicas_acknowledge_and_the_producer_is_idempotent(broker):
    options = KafkaSink("test", [broker.address], MEDIA, timeout_s=15)._producer_options
    assert (options["acks"], options["enable.idempotence"]) == ("all", True)
    assert options["message.timeout.ms"] == 12_000, "the client gives up before the sink does"


# Who gets in


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_who_is_known_gets_in(make_front, opened, make_delivery, mechanism):
    front = await make_front(passwords={"media": PASSWORD})
    known: dict[str, Any] = {"mechanism": mechanism, "user": "media", "password": PASSWORD, "timeout_s": 60.0}
    await make_topic(front, **known)
    sink = await opened(KafkaSink("test", [f"127.0.0.1:{front.port}"], MEDIA, **known))
    assert await sink.send([make_delivery()]) == [None]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_refused_credentials_are_told_in_our_words(make_front, opened, make_delivery, capfd, mechanism):
    front = await make_front(passwords={"media": "another"})
    known: dict[str, Any] = {"mechanism": mechanism, "user": "media", "password": PASSWORD}
    sink = await opened(KafkaSink("test", [f"127.0.0.1:{front.port}"], MEDIA, timeout_s=60.0, **known))
    for _ in range(2):
        (result,) = await sink.send([make_delivery()])
        assert str(result) == "Kafka can't be reached or used: the brokers refuse the credentials"
    assert capfd.readouterr() == ("", ""), "librdkafka says nothing by itself"


async def test_an_authority_that_nobody_knows_is_refused(make_front, opened, make_delivery, tmp_path):
    certificates = Certificates(tmp_path, host="localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.folder / "server.pem", certificates.folder / "server.key")
    front = await make_front(tls=context)
    sink = await opened(KafkaSink("test", [f"localhost:{front.port}"], MEDIA, tls=True, timeout_s=60.0))
    (result,) = await sink.send([make_delivery()])
    assert str(result) == "Kafka can't be reached or used: its TLS certificate is not accepted"


@pytest.mark.parametrize("files", ["two files", "one file"])
async def test_a_client_certificate_is_shown(make_front, opened, make_delivery, tmp_path, files):
    """Its key may be in the same file."""
    made = Certificates(tmp_path / "certificates", host="localhost")
    certificate, key = made.folder / "client.pem", made.folder / "client.key"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made.ca))
    context.load_cert_chain(made.folder / "server.pem", made.folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    front = await make_front(tls=context)
    shown = TlsFiles(str(made.ca), str(certificate), str(key))
    if files == "one file":
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        shown = TlsFiles(str(made.ca), str(both))
    await make_topic(front, tls=True, tls_files=shown)
    sink = await opened(KafkaSink("test", [f"localhost:{front.port}"], MEDIA, tls=True, tls_files=shown))
    assert await sink.send([make_delivery()]) == [None]
    nobody = KafkaSink(
        "test", [f"localhost:{front.port}"], MEDIA, tls=True, tls_files=TlsFiles(shown.ca), timeout_s=1.0
    )
    (result,) = await (await opened(nobody)).send([make_delivery()])
    assert str(result) == "Kafka has not acknowledged the event within 1 s"
    ((severity, _, remedy),) = await check(nobody, "media")
    assert severity == "error"
    assert "certificate_file" in (remedy or "")


@pytest.mark.parametrize("option", ["ca", "certificate"])
async def test_files_that_can_not_be_read_are_told_when_it_sends(opened, make_delivery, option):
    files = TlsFiles(**{option: "/nowhere/hidden.pem"})
    sink = await opened(KafkaSink("test", ["127.0.0.1:9"], MEDIA, tls=True, tls_files=files))
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert str(result) == (
        "the client of Kafka can't be set up (_INVALID_ARG): see whether ca_file, certificate_file and key_file can be"
        " read"
    )


async def make_topic(front: Front, **options: Any) -> None:
    """As the sink would come in."""
    known: dict[str, Any] = KafkaSink("test", [f"localhost:{front.port}"], MEDIA, **options)._connection_options
    await asyncio.to_thread(create_topic, known, "media", partitions=1)


# Failures


@pytest.mark.parametrize(
    "codes",
    [[NOT_LEADER], [STORAGE, STORAGE], [NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS]],
    ids=["not the leader", "a disk that fails", "too few replicas"],
)
async def test_what_passes_soon_is_nobodys_business(cluster, make_sink, make_delivery, codes):
    sink = await make_sink()
    cluster.fail_next(*codes)
    assert await sink.send([make_delivery()]) == [None]
    assert await read_ids(cluster.address) == [make_delivery().event_id]


async def test_another_leader_is_found(cluster, make_sink, make_delivery):
    sink = await make_sink()
    for number, leader in enumerate([1, 2, 3]):
        cluster.lead("media", leader)
        assert await sink.send([make_delivery(number, subject="job-1")]) == [None]
    assert await read_ids(cluster.address) == [make_delivery(number).event_id for number in range(3)]


async def test_a_leader_that_dies_is_waited_for(cluster, make_sink, make_delivery):
    sink = await make_sink()
    assert await sink.send([make_delivery(0)]) == [None]
    cluster.stop_broker(1)
    sending = asyncio.create_task(sink.send([make_delivery(1)]))
    await until(lambda: sink._client is not None and len(sink._client._producer) == 1)
    cluster.lead("media", 2)
    assert await sending == [None]
    cluster.start_broker(1)
    assert await read_ids(cluster.address) == [make_delivery(number).event_id for number in range(2)]


@pytest.mark.parametrize("code", [STORAGE, NOT_ENOUGH_REPLICAS], ids=["a full disk", "too few replicas"])
async def test_what_does_not_pass_is_given_up_in_time(cluster, make_sink, make_delivery, loop_clock, code):
    sink = await make_sink(timeout_s=3600.0)
    cluster.fail_next(*[code] * 1000)
    sending = asyncio.create_task(sink.send([make_delivery()]))
    await until(lambda: sink._client is not None and len(sink._client._producer) == 1)
    loop_clock.skip(3600.0)
    (result,) = await sending
    assert str(result) == "Kafka has not acknowledged the event within 3600 s"
    await until(lambda: len(sink._client._producer) == 0)  # nothing of it can be written any more
    cluster.fail_no_more()
    assert await sink.send([make_delivery()]) == [None]
    assert await read_ids(cluster.address) == [make_delivery().event_id]


async def test_when_no_broker_is_there_it_is_told_at_once_and_the_next_looks_anew(cluster, make_sink, make_delivery):
    sink = await make_sink()
    assert await sink.send([make_delivery(0)]) == [None]
    for broker in (1, 2, 3):
        cluster.stop_broker(broker)
    for _ in range(2):
        (result,) = await sink.send([make_delivery(1)])
        assert str(result) == "Kafka can't be reached or used: nothing takes connections there"
    for broker in (1, 2, 3):
        cluster.start_broker(broker)
    assert await sink.send([make_delivery(1)]) == [None]
    assert await read_ids(cluster.address) == [make_delivery(number).event_id for number in range(2)]


async def test_brokers_that_are_back_soon_are_waited_for(cluster, make_sink, make_delivery, monkeypatch):
    monkeypatch.setattr("media_callbacks.sinks.kafka._PATIENCE_S", 3600.0)
    sink = await make_sink()
    assert await sink.send([make_delivery(0)]) == [None]
    for broker in (1, 2, 3):
        cluster.stop_broker(broker)
    sending = asyncio.create_task(sink.send([make_delivery(1)]))
    await until(lambda: sink._client is not None and sink._client._alone_since is not None)
    for broker in (1, 2, 3):
        cluster.start_broker(broker)
    assert await sending == [None]
    assert sink._client is not None
    assert (sink._client.trouble, sink._client._alone_since) == ("", None), "later failures are not blamed on it"


async def test_the_client_gives_up_before_the_sink(cluster, opened, make_delivery):
    """Half a second is the client's here, and a minute the sink's."""
    sink = KafkaSink("test", cluster.addresses, MEDIA, timeout_s=60.0)
    sink._producer_options["message.timeout.ms"] = 500
    await opened(sink)
    cluster.fail_next(*[STORAGE] * 1000)
    (result,) = await sink.send([make_delivery()])
    assert str(result) == "Kafka has not acknowledged the event within 60 s"


@pytest.mark.parametrize(
    "code, text",
    [
        (FORBIDDEN, "these credentials may not write to the topic media (TOPIC_AUTHORIZATION_FAILED)"),
        (POLICY, "Kafka did not take the event (POLICY_VIOLATION)"),
        (LARGE, "(MSG_SIZE_TOO_LARGE): max.message.bytes of media should be 65536 at least"),
    ],
    ids=["forbidden", "against a policy", "too large, perhaps with others"],
)
async def test_a_refusal_is_a_retry_until_it_ends(cluster, make_sink, make_delivery, code, text):
    sink = await make_sink()
    cluster.fail_next(code)
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert str(result).endswith(text)
    # What a client believes of a topic it asks again after a second.
    await until_taken(sink, make_delivery())
    assert await read_ids(cluster.address) == [make_delivery().event_id]


async def test_a_topic_that_somebody_makes_is_found(cluster, opened, make_delivery):
    sink = await opened(KafkaSink("test", cluster.addresses, NameTemplate("later"), timeout_s=60.0))
    (result,) = await sink.send([make_delivery()])
    assert str(result).startswith("Kafka has no topic later (")
    cluster.make_topic("later", 1)
    await until_taken(sink, make_delivery())


async def test_a_topic_that_somebody_allows_is_used(cluster, opened, make_delivery):
    cluster.make_topic("guarded", 1)
    cluster.fail_topic("guarded", FORBIDDEN)
    sink = await opened(KafkaSink("test", cluster.addresses, NameTemplate("guarded"), timeout_s=60.0))
    (result,) = await sink.send([make_delivery()])
    assert str(result) == "these credentials may not write to the topic guarded (TOPIC_AUTHORIZATION_FAILED)"
    cluster.fail_topic("guarded", NO_ERROR)
    await until_taken(sink, make_delivery())


async def test_an_event_larger_than_its_topic_takes_is_rejected(cluster, make_sink, make_delivery):
    """It goes alone, so that it alone is refused."""
    sink = await make_sink()
    large, small = make_delivery(0, user_data="x" * MAX_BATCH_BYTES), make_delivery(1)
    cluster.fail_next(LARGE)
    (result,) = await sink.send([large])
    assert type(result) is SinkRejected
    assert str(result) == f"Kafka refused the event of {len(large.body)} bytes, media takes less (MSG_SIZE_TOO_LARGE)"
    for deliveries in ([large, small], [small, large]):
        cluster.fail_next(*[LARGE if delivery is large else NO_ERROR for delivery in deliveries])
        results = await sink.send(deliveries)
        assert [type(result) for result in results] == [
            SinkRejected if delivery is large else type(None) for delivery in deliveries
        ]
    # More than this no client of ours sends, whatever the topic takes.
    beyond = make_delivery(2, user_data="x" * MAX_MESSAGE_BYTES)
    results = await sink.send([beyond, small])
    assert [type(result) for result in results] == [SinkRejected, type(None)]


async def test_a_producer_that_is_broken_is_replaced(cluster, make_sink, make_delivery, capfd):
    """Two acknowledgements that contradict each other are a fatal error of librdkafka."""
    sink = await make_sink()
    assert await sink.send([make_delivery(0)]) == [None]
    cluster.fail_next(DISORDER)
    (result,) = await sink.send([make_delivery(1)])
    assert str(result) == "Kafka did not take the event (OUT_OF_ORDER_SEQUENCE_NUMBER)"
    assert await sink.send([make_delivery(1)]) == [None]
    assert await read_ids(cluster.address) == [make_delivery(number).event_id for number in range(2)]
    assert capfd.readouterr() == ("", "")


async def test_what_a_producer_gets_when_it_has_just_broken_is_given_up_at_once(
    cluster, make_sink, make_delivery, monkeypatch
):
    """Its thread has given up all that it had then, and looks no more."""
    sink = await make_sink(timeout_s=3600.0)
    assert await sink.send([make_delivery(0)]) == [None]
    client = sink._client
    assert client is not None
    produce = client.produce

    def break_and_produce(*arguments):
        client.is_broken = True
        produce(*arguments)

    monkeypatch.setattr(client, "produce", break_and_produce)
    cluster.fail_next(*[NOT_ENOUGH_REPLICAS] * 1000)
    async with asyncio.timeout(60):
        (result,) = await sink.send([make_delivery(1)])
    assert type(result) is SinkRetry
    cluster.fail_no_more()
    assert await sink.send([make_delivery(1)]) == [None]


async def test_a_producer_that_is_refused_is_replaced_at_once(cluster, make_sink, make_delivery):
    sink = await make_sink()
    assert await sink.send([make_delivery(0)]) == [None]
    cluster.fail_next(FENCED)
    assert await sink.send([make_delivery(1), make_delivery(2)]) == [None, None]
    assert sorted(await read_ids(cluster.address)) == sorted(make_delivery(number).event_id for number in range(3))


async def test_a_client_that_is_full_asks_for_less(cluster, make_sink, make_delivery):
    cluster.slow_down(1, 200)
    sink = KafkaSink("test", cluster.addresses, MEDIA, timeout_s=60.0)
    sink._producer_options["queue.buffering.max.messages"] = 1
    await sink.open()
    results = await sink.send([make_delivery(0), make_delivery(1)])
    await sink.close()
    assert results[0] is None
    assert isinstance(results[1], SinkRetry)
    assert results[1].is_overload


# Order


async def test_an_acknowledgement_that_is_lost_brings_the_same_id_again_and_overtakes_nothing(
    make_front, opened, make_delivery, loop_clock
):
    front = await make_front()
    await make_topic(front, timeout_s=60.0)
    sink = await opened(KafkaSink("test", [f"127.0.0.1:{front.port}"], MEDIA, timeout_s=3600.0))
    first, second = make_delivery(0, subject="job-1"), make_delivery(1, subject="job-1")
    await sink.send([make_delivery(2)])
    front.loses_answers = True
    sending = asyncio.create_task(sink.send([first]))
    await front.lost.wait()
    loop_clock.skip(3600.0)
    assert [type(result) for result in await sending] == [SinkRetry]
    front.loses_answers = False
    front.cut()
    assert await sink.send([first]) == [None]
    assert await sink.send([second]) == [None]
    ids = await read_ids(f"localhost:{front.port}")
    assert ids == [make_delivery(2).event_id, first.event_id, first.event_id, second.event_id]


@pytest.mark.parametrize("way", ["given up", "cancelled"])
async def test_what_nobody_waits_for_is_not_written_later(cluster, make_sink, make_delivery, loop_clock, way):
    """Others may have sent what follows by then."""
    sink = await make_sink(timeout_s=3600.0)
    cluster.fail_next(*[NOT_ENOUGH_REPLICAS] * 1000)
    first, second = make_delivery(0, subject="job-1"), make_delivery(1, subject="job-1")
    sending = asyncio.create_task(sink.send([first]))
    await until(lambda: len(sink._client._producer) == 1)
    if way == "given up":
        loop_clock.skip(3600.0)
        assert [type(result) for result in await sending] == [SinkRetry]
    else:
        sending.cancel()
        await asyncio.wait([sending])
    cluster.fail_no_more()
    assert await sink.send([second]) == [None]
    assert await read_ids(cluster.address) == [second.event_id]


async def test_slow_acknowledgements_keep_the_order(cluster, make_sink, make_delivery, loop_clock):
    sink = await make_sink(timeout_s=3600.0)
    await sink.send([make_delivery(9)])
    cluster.slow_down(1, 300)
    first, second = make_delivery(0, subject="job-1"), make_delivery(1, subject="job-1")
    sending = asyncio.create_task(sink.send([first]))
    await until(lambda: len(sink._client._producer) == 1)
    loop_clock.skip(3600.0)
    assert [type(result) for result in await sending] == [SinkRetry]
    assert await sink.send([first]) == [None]
    assert await sink.send([second]) == [None]
    ids = [identity for identity in await read_ids(cluster.address) if identity != make_delivery(9).event_id]
    assert ids[-2:] == [first.event_id, second.event_id]
    assert second.event_id not in ids[:-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a thread makes it true
            await asyncio.sleep(0.01)


async def until_taken(sink: KafkaSink, delivery: Delivery) -> None:
    async with asyncio.timeout(60):
        while await sink.send([delivery]) != [None]:  # noqa: ASYNC110 - the cluster tells nobody
            await asyncio.sleep(0.05)


# Whether it can be used


async def check(sink: KafkaSink, *names: str) -> list[tuple[str, str, str | None]]:
    results = await sink.check(names)
    assert {result.subject for result in results} == {"sinks.test"}
    return [(result.severity, result.text, result.remedy) for result in results]


async def test_check_tells_what_topics_lack(broker, opened):
    create_topic(broker.options, "short", config={"min.insync.replicas": "2"})
    create_topic(broker.options, "small", config={"max.message.bytes": "1000"})
    found = await check(KafkaSink("test", [broker.address], MEDIA), "media", "short", "small", "none", "nor-this")
    assert [(severity, text) for severity, text, _ in found] == [
        ("error", "Kafka lacks the topics none, nor-this"),
        ("error", "too few replicas are in sync for min.insync.replicas of the topic short: nothing is taken"),
        ("warning", "one replica has all there is of the topics media, small"),
        ("warning", "max.message.bytes is below 65536 for the topic small: events are refused for their company"),
    ]
    assert all(remedy for _, _, remedy in found)
    assert await read(broker.address) == []


@pytest.mark.parametrize(
    "allowed, settings, found",
    [
        (
            [AclOperation.DESCRIBE],
            {"min.insync.replicas": 2},
            [("error", "these credentials may not write to the topic media")],
        ),
        ([AclOperation.WRITE], {"min.insync.replicas": 2}, []),
        (
            None,
            {"min.insync.replicas": 1},
            [("warning", "an event may be acknowledged that one replica alone has, in the topic media")],
        ),
        (None, None, []),
    ],
    ids=["may not write", "as it should be", "one replica suffices", "nobody may see what it is set to"],
)
def test_check_judges_what_a_topic_is_set_to(allowed, settings, found):
    """The broker here has neither a second replica nor access lists."""
    partition = SimpleNamespace(replicas=[1, 2, 3], isr=[1, 2])
    topic: Any = SimpleNamespace(authorized_operations=allowed, partitions=[partition])
    judged = _judge_topics({"media": topic}, {}, {} if settings is None else {"media": settings})
    assert [(severity, text) for severity, text, _ in judged] == found


async def test_check_makes_no_topic(broker):
    sink = KafkaSink("test", [broker.address], MEDIA)
    for _ in range(2):
        ((severity, text, _),) = await check(sink, "none")
        assert (severity, text) == ("error", "Kafka lacks the topic none")


async def test_check_tells_why_nobody_answers(cluster):
    cluster.stop_broker(1)
    ((severity, text, _),) = await check(KafkaSink("test", cluster.addresses[:1], MEDIA), "media")
    assert (severity, text) == ("error", "nothing takes connections there")


async def test_an_answer_that_is_larger_than_any_is_not_gathered(raw_server, opened):
    taken_bytes, hung_up = 0, asyncio.Event()

    async def serve(reader, writer):
        nonlocal taken_bytes
        await reader.read(4)
        writer.write((64_000_000).to_bytes(4, "big"))
        with suppress(ConnectionError):
            for _ in range(63):
                await writer.drain()
                writer.write(bytes(1_000_000))
                taken_bytes += 1_000_000
        hung_up.set()

    await opened(KafkaSink("test", [f"127.0.0.1:{await raw_server(serve)}"], NameTemplate("media")))
    await hung_up.wait()
    assert taken_bytes < 32_000_000


def test_the_page_about_it_does_what_it_says(tmp_path):
    broker = Tansu(tmp_path / "broker.log")
    broker.start()
    try:
        run_page("docs/sinks/kafka.md", tmp_path, other_ports() | {"9092": str(broker.port)})
    finally:
        broker.kill()


async def test_an_operational_event_has_a_topic_too(broker, opened):
    now = datetime(2026, 3, 4, tzinfo=UTC)
    event = build_event("disk_low", "db-1", since=now, ended_at=None, detail=None, instance="host")
    delivery = Delivery(1, "test", event.id, event.to_json(), attempt=1, lease="lease")
    create_topic(broker.options, "media.operational")
    sink = await opened(KafkaSink("test", [broker.address], NameTemplate("media.{kind}"), timeout_s=60.0))
    assert await sink.send([delivery]) == [None]
    (message,) = await read(broker.address, "media.operational")
    assert message.value() == delivery.body


def test_without_its_client_the_start_says_which_extra_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "media_callbacks.sinks.kafka")
    table = {"kind": "kafka", "brokers": "127.0.0.1:9092"}
    with pytest.raises(ConfigError) as caught:
        build_sink("bus", KafkaSinkSettings.model_validate(table))
    assert caught.value.problems == (
        "sinks.bus.kind: kafka needs a further package: pip install 'media-callbacks[kafka]'",
    )
