"""What is special to SNS, EventBridge and Kinesis. What they share with SQS is in test_sqs.py."""

import hashlib
import json

import pytest

from media_callbacks.model.errors import SinkRejected, SinkRetry
from media_callbacks.sinks.aws import bare_code, is_overload, region_of
from media_callbacks.sinks.eventbridge import EventBridgeSink
from media_callbacks.sinks.kinesis import KinesisSink
from media_callbacks.sinks.sns import SnsSink
from media_callbacks.sinks.sqs import SqsSink
from tests.sinks.conftest import ACCOUNT, REGION, EventBridgeDestination, KinesisDestination, SnsDestination
from tests.sinks.scripted import ScriptedEventBridge, ScriptedKinesis, ScriptedSns, ScriptedSqsFifo

TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:media"


@pytest.fixture
async def started():
    """Starts destinations, and closes them at the end."""
    made = []

    async def start(destination):
        await destination.open()
        made.append(destination)
        return destination

    yield start
    for destination in made:
        await destination.close()


@pytest.mark.parametrize(
    "code",
    [
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "AWS.SimpleQueueService.RequestThrottled",
        "com.amazonaws.sqs#RequestThrottled",
        "KMS.ThrottlingException",
        "KMSThrottlingException",
        "ProvisionedThroughputExceededException",
        "TooManyRequestsException",
        "LimitExceededException",
        "SlowDown",
        "ServiceUnavailable",
    ],
)
def test_codes_that_ask_for_fewer_calls(code):
    assert is_overload(code)


@pytest.mark.parametrize("code", ["InternalFailure", "AccessDenied", "", None, 5])
def test_codes_that_do_not(code):
    assert not is_overload(code)


def test_a_code_is_compared_without_its_affixes():
    assert bare_code("com.amazonaws.kinesis#InvalidArgumentException") == "InvalidArgument"


@pytest.mark.parametrize(
    ("name", "region"),
    [
        (TOPIC, REGION),
        ("arn:aws-cn:kinesis:cn-north-1:123456789012:stream/a", "cn-north-1"),
        ("arn:aws:sns::1:a", None),
        ("arn:aws", None),
        ("media", None),
        ("", None),
    ],
)
def test_the_region_is_that_of_the_arn(name, region):
    assert region_of(name) == region


async def test_a_sink_that_was_closed_connects_no_more_until_it_is_opened(started, make_delivery):
    server = await started(ScriptedSns())
    sink = server.new_sink()
    await sink.open()
    await sink.close()
    (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)
    assert server.calls == []
    await sink.open()
    assert list(await sink.send([make_delivery()])) == [None]
    await sink.close()


async def test_a_later_call_does_not_overtake_an_event_of_its_group_that_failed(started, opened, make_delivery):
    """Six events of 300 kB need two calls; of two groups, only the one without a failure goes on."""
    server = await started(ScriptedSqsFifo())
    sink = await opened(server.new_sink())
    large = "x" * 300_000
    deliveries = [make_delivery(number, subject=f"job-{number % 2}", user_data=large) for number in range(6)]
    ids = [delivery.event_id for delivery in deliveries]
    server.fault_of_event = {ids[1]: "broken"}.get
    results = await sink.send(deliveries)
    assert server.calls == [ids[:3], [ids[4]]]
    expected = [type(None), SinkRetry, type(None), SinkRetry, type(None), SinkRetry]
    assert [type(result) for result in results] == expected
    assert "earlier event of its group" in str(results[3])


# SNS


@pytest.mark.parametrize("fifo", [False, True])
def test_a_message_of_sns_is_that_of_sqs(make_delivery, fifo):
    suffix = ".fifo" if fifo else ""
    delivery = make_delivery(subject="with space", replay=2)
    queued = SqsSink("a", f"https://h/q{suffix}").build_entry(4, delivery)
    published = SnsSink("a", TOPIC + suffix).build_entry(4, delivery)
    assert published.fields.pop("Message") == queued.fields.pop("MessageBody")
    assert published == queued
    assert ("MessageGroupId" in published.fields) is fifo


async def test_attributes_and_fifo_names_reach_a_subscriber(aws, started, opened, make_delivery):
    topic = await started(SnsDestination(aws, fifo=True))
    sink = await opened(topic.new_sink())
    delivery = make_delivery(job_id="任务*")
    assert list(await sink.send([delivery])) == [None]
    assert list(await sink.send([delivery])) == [None]
    (message,) = await topic.queue.receive()
    assert message["Attributes"]["MessageDeduplicationId"] == delivery.event_id
    assert message["Attributes"]["MessageGroupId"] == hashlib.sha256("任务*".encode()).hexdigest()
    assert {name: value["StringValue"] for name, value in message["MessageAttributes"].items()} == {
        "type": "media.animated_image.failed",
        "product": "vod",
        "kind": "animated_image",
        "outcome": "failed",
        "job_id": "任务*",
    }


async def test_a_topic_that_does_not_exist_is_a_retry_with_its_code(aws, opened, make_delivery):
    sink = await opened(SnsSink("a", TOPIC + "-none", None, f"http://127.0.0.1:{aws.port}"))
    (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)
    assert "NotFound" in str(result)


# EventBridge


def test_an_entry_of_eventbridge(make_delivery):
    delivery = make_delivery()
    entry = EventBridgeSink("a", "media").build_entry(3, delivery)
    assert entry.fields == {
        "Source": "media-callbacks",
        "DetailType": "media.animated_image.failed",
        "Detail": delivery.body.decode(),
        "EventBusName": "media",
    }
    assert (entry.position, entry.group) == (3, None)
    assert entry.size_bytes == len("media-callbacks") + len("media.animated_image.failed") + len(delivery.body)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"type": 5}', b'{"type": ""}', b'{"type": "%s"}' % (b"x" * 129), b"[]", b"{"]
)
def test_what_eventbridge_could_not_route_is_rejected(make_delivery, body):
    with pytest.raises(SinkRejected, match=r"^the stored event "):
        EventBridgeSink("a", "default").build_entry(0, make_delivery(body=body))


def test_a_call_to_eventbridge_stays_below_a_megabyte(make_delivery):
    deliveries = [make_delivery(number, user_data="x" * 400_000) for number in range(4)]
    calls, rejected = EventBridgeSink("a", "default").build_calls(deliveries)
    assert [[entry.position for entry in call] for call in calls] == [[0, 1], [2, 3]]
    assert rejected == {}


async def test_a_bus_may_be_named_by_its_arn(aws, started, opened, make_delivery):
    bus = await started(EventBridgeDestination(aws))
    sink = await opened(EventBridgeSink("a", bus.arn, None, f"http://127.0.0.1:{aws.port}"))
    assert list(await sink.send([make_delivery()])) == [None]
    assert [json.loads(body) for body in await bus.received()] == [json.loads(make_delivery().body)]


class _SmallBus(ScriptedEventBridge):
    """Takes 256 KB a call, as EventBridge did."""

    def answer(self, faults, bodies):
        if sum(map(len, bodies)) > 256 * 1024:
            return 400, json.dumps({"__type": "ValidationException", "message": "hidden"})
        return super().answer(faults, bodies)


async def test_a_bus_that_takes_less_gets_smaller_calls(started, opened, make_delivery):
    server = await started(_SmallBus())
    sink = await opened(server.new_sink())
    sizes = [200_000, 200_000, 300_000, 10]
    results = await sink.send([make_delivery(number, user_data="x" * size) for number, size in enumerate(sizes)])
    assert [type(result) for result in results] == [type(None), type(None), SinkRejected, type(None)]
    assert "Validation" in str(results[2])


async def test_an_event_of_usual_size_that_is_refused_alone_waits_for_the_settings_to_be_mended(
    started, opened, make_delivery
):
    server = await started(_SmallBus())
    server.answer = lambda faults, bodies: (400, json.dumps({"__type": "ValidationException"}))
    sink = await opened(server.new_sink())
    results = await sink.send([make_delivery(0), make_delivery(1)])
    assert [type(result) for result in results] == [SinkRetry, SinkRetry]


async def test_entries_that_an_answer_leaves_out_are_retries(started, opened, make_delivery):
    for server in (await started(ScriptedEventBridge()), await started(ScriptedKinesis())):
        server.answer = lambda faults, bodies: (200, json.dumps({"Entries": [{}], "Records": [{}]}))
        sink = await opened(server.new_sink())
        results = await sink.send([make_delivery(0), make_delivery(1)])
        assert [type(result) for result in results] == [SinkRetry, SinkRetry]
        assert "does not mention" in str(results[0])


# Kinesis


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        ("3af7e9705cb24c0f", "3af7e9705cb24c0f"),
        ("with space 任务", "with space 任务"),
        ("界" * 256, "界" * 256),
        ("x" * 257, hashlib.sha256(b"x" * 257).hexdigest()),
        (None, "evt_0000000000000000000000000000000001"),
        ("", "evt_0000000000000000000000000000000001"),
    ],
)
def test_the_partition_key_is_the_subject(make_delivery, subject, key):
    body = json.dumps(json.loads(make_delivery().body) | {"subject": subject}).encode()
    entry = KinesisSink("a", "media").build_entry(0, make_delivery(body=body))
    assert entry.fields == {"Data": body, "PartitionKey": key}
    assert entry.size_bytes == len(body) + len(key.encode())


def test_half_a_surrogate_pair_is_no_partition_key(make_delivery):
    entry = KinesisSink("a", "media").build_entry(0, make_delivery(body=b'{"subject": "\\ud800"}'))
    assert entry.fields["PartitionKey"] == hashlib.sha256(b"\xed\xa0\x80").hexdigest()


async def test_a_partition_key_is_in_a_call_once_and_waits_for_what_failed_before(started, opened, make_delivery):
    server = await started(ScriptedKinesis())
    sink = await opened(server.new_sink())
    deliveries = [make_delivery(number, subject=subject) for number, subject in enumerate("abacab")]
    ids = [delivery.event_id for delivery in deliveries]
    server.fault_of_event = {ids[1]: "throttled"}.get
    results = await sink.send(deliveries)
    assert server.calls == [[ids[0], ids[1], ids[3]], [ids[2]], [ids[4]]]
    expected = [type(None), SinkRetry, type(None), type(None), type(None), SinkRetry]
    assert [type(result) for result in results] == expected
    assert [result.is_overload for result in results if result is not None] == [True, False]


async def test_records_lie_under_their_subject(aws, started, opened, make_delivery):
    stream = await started(KinesisDestination(aws))
    arn = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{stream.name}"
    sink = await opened(KinesisSink("a", arn, None, f"http://127.0.0.1:{aws.port}"))
    assert list(await sink.send([make_delivery(0, subject="a"), make_delivery(1, subject="b")])) == [None, None]
    assert [record["PartitionKey"] for record in await stream.records()] == ["a", "b"]
