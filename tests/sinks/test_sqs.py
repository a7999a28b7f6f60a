"""What is special to SQS: entries and their limits, FIFO names, and what its errors mean."""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import SinkRejected, SinkRetry
from media_callbacks.sinks.sqs import SqsSink

REGION = "eu-west-1"
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/media"
MAX_BYTES = SqsSink.max_bytes
XML_CHARACTERS = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


def build_entry(delivery, *, fifo):
    entry = SqsSink("bus", QUEUE + (".fifo" if fifo else "")).build_entry(0, delivery)
    fields = dict(entry.fields)
    assert fields.pop("Id") == "0"
    assert entry.group == fields.get("MessageGroupId")
    return fields


def build_batches(deliveries, *, fifo):
    calls, rejected = SqsSink("bus", QUEUE + (".fifo" if fifo else "")).build_calls(deliveries)
    return [[entry.fields for entry in call] for call in calls], rejected


def _values(entry):
    assert all(attribute["DataType"] == "String" for attribute in entry["MessageAttributes"].values())
    return {name: attribute["StringValue"] for name, attribute in entry["MessageAttributes"].items()}


# Entries


def test_the_body_is_the_event_and_attributes_repeat_what_consumers_filter_by(make_delivery):
    delivery = make_delivery(kind="snapshot", job_id="job-1")
    entry = build_entry(delivery, fifo=False)
    assert entry.keys() == {"MessageBody", "MessageAttributes"}
    assert entry["MessageBody"].encode() == delivery.body
    assert _values(entry) == {
        "type": "media.snapshot.failed",
        "product": "vod",
        "kind": "snapshot",
        "outcome": "failed",
        "job_id": "job-1",
    }


@pytest.mark.parametrize("job_id", [None, ""])
def test_an_attribute_without_value_is_left_out(make_delivery, job_id):
    body = json.loads(make_delivery().body)
    body["data"]["job_id"] = job_id
    entry = build_entry(make_delivery(body=json.dumps(body).encode()), fifo=False)
    assert list(_values(entry)) == ["type", "product", "kind", "outcome"]


def test_characters_that_sqs_refuses_are_escaped_in_the_body_and_replaced_in_attributes(make_delivery):
    delivery = make_delivery(job_id="a\ufffe\x00b\U0010ffff", user_data="\\\uffff\x1f\U0001fffe")
    entry = build_entry(delivery, fifo=False)
    assert "\\uFFFE" in entry["MessageBody"]
    assert json.loads(entry["MessageBody"]) == json.loads(delivery.body)
    assert _values(entry)["job_id"] == "a\ufffd\ufffdb\U0010ffff"


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\ufffe\uffff\x00\x1f\\"')),
    job_id=st.none() | st.text(st.characters() | st.sampled_from("\ufffe\ud800\x00")),
    fifo=st.booleans(),
)
@example(text="", job_id="\ud800", fifo=True)
def test_any_event_becomes_an_entry_that_sqs_takes(make_delivery, text, job_id, fifo):
    document = json.loads(make_delivery(user_data=text).body)
    document["data"]["job_id"] = document["subject"] = job_id
    # Half a surrogate pair can be written in JSON only as an escape, as here with all the others.
    for body in (json.dumps(document).encode(), json.dumps(document, ensure_ascii=False).encode(errors="replace")):
        entry = build_entry(make_delivery(body=body), fifo=fifo)
        assert json.loads(entry["MessageBody"]) == json.loads(body)
        for value in [entry["MessageBody"], *_values(entry).values()]:
            assert value
            assert XML_CHARACTERS.fullmatch(value)
        if fifo:
            assert re.fullmatch(r"[!-~]{1,128}", entry["MessageGroupId"])
            assert re.fullmatch(r"[!-~]{1,128}", entry["MessageDeduplicationId"])


@pytest.mark.parametrize(
    ("subject", "group"),
    [
        ("3af7e9705cb24c0f9d23231d4c371900", "3af7e9705cb24c0f9d23231d4c371900"),
        ("4c37****9d23!~\"'", "4c37****9d23!~\"'"),
        ("x" * 128, "x" * 128),
        ("x" * 129, hashlib.sha256(b"x" * 129).hexdigest()),
        ("with space", hashlib.sha256(b"with space").hexdigest()),
        ("任务", hashlib.sha256("任务".encode()).hexdigest()),
        ("line\n", hashlib.sha256(b"line\n").hexdigest()),
        (None, "evt_0000000000000000000000000000000001"),
    ],
)
def test_the_group_is_the_subject_where_sqs_allows_it(make_delivery, subject, group):
    assert build_entry(make_delivery(subject=subject), fifo=True)["MessageGroupId"] == group


@pytest.mark.parametrize(("replay", "suffix"), [(0, ""), (1, ":replay-1"), (12, ":replay-12")])
def test_the_deduplication_id_is_the_event_id_and_a_replay_has_its_own(make_delivery, replay, suffix):
    delivery = make_delivery(replay=replay)
    assert build_entry(delivery, fifo=True)["MessageDeduplicationId"] == delivery.event_id + suffix


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"null", b'{"a": "\xff"}', b"[" * 100_000])
def test_what_is_no_event_is_rejected(make_delivery, body):
    with pytest.raises(SinkRejected, match=r"^the stored event is "):
        build_entry(make_delivery(body=body), fifo=True)


@pytest.mark.parametrize("body", [b"{}", b'{"type": 1, "data": []}', b'{"data": {"kind": null, "product": 5}}'])
def test_an_event_without_the_usual_members_has_no_attributes(make_delivery, body):
    assert _values(build_entry(make_delivery(body=body), fifo=False)) == {}


# Batches


def _of_size(make_delivery, size_bytes, number=0):
    """A delivery that counts ``size_bytes`` at SQS."""
    empty = build_entry(make_delivery(number, user_data=""), fifo=False)
    attributes_bytes = sum(len(name) + len("String") + len(value) for name, value in _values(empty).items())
    room = size_bytes - attributes_bytes - len(empty["MessageBody"].encode())
    return make_delivery(number, user_data="x" * room)


def test_an_event_of_the_largest_size_passes_and_a_byte_more_is_rejected(make_delivery):
    batches, rejected = build_batches([_of_size(make_delivery, MAX_BYTES)], fifo=False)
    assert [len(entries) for entries in batches] == [1]
    assert rejected == {}
    batches, rejected = build_batches([_of_size(make_delivery, MAX_BYTES + 1)], fifo=False)
    assert batches == []
    assert str(rejected[0]) == ("the event has 1048577 bytes with what goes along with it, SQS takes at most 1048576")


def test_size_is_counted_in_bytes(make_delivery):
    _, rejected = build_batches([make_delivery(user_data="界" * 400_000)], fifo=False)
    assert list(rejected) == [0]


def test_batches_are_cut_where_the_total_would_exceed_the_limit(make_delivery):
    half = MAX_BYTES // 2
    sizes = [half, half, half, half + 1, MAX_BYTES + 1, half - 1]
    deliveries = [_of_size(make_delivery, size, number) for number, size in enumerate(sizes)]
    batches, rejected = build_batches(deliveries, fifo=True)
    assert [[entry["Id"] for entry in entries] for entries in batches] == [["0", "1"], ["2"], ["3", "5"]]
    assert list(rejected) == [4]


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(900, 3200), max_size=30), limit=st.sampled_from([3000, 30_000]), fifo=st.booleans())
@example(sizes=[1000] * 30, limit=30_000, fifo=True)
def test_batches_keep_order_and_limits_and_lose_nothing(make_delivery, sizes, limit, fifo):
    deliveries = [_of_size(make_delivery, size, number) for number, size in enumerate(sizes)]
    with mock.patch.object(SqsSink, "max_bytes", limit):
        batches, rejected = build_batches(deliveries, fifo=fifo)
    positions = [int(entry["Id"]) for entries in batches for entry in entries]
    assert positions == [position for position, size in enumerate(sizes) if size <= limit]
    assert sorted(rejected) == [position for position, size in enumerate(sizes) if size > limit]
    for entries in batches:
        assert 1 <= len(entries) <= 10
        assert sum(sizes[int(entry["Id"])] for entry in entries) <= limit
        for entry in entries:
            assert entry["MessageBody"].encode() == deliveries[int(entry["Id"])].body


# Against moto


async def test_attributes_arrive(moto_port, make_queue, opened, make_delivery):
    queue = await make_queue()
    sink = await opened(SqsSink("bus", queue.url, REGION, f"http://127.0.0.1:{moto_port}"))
    await sink.send([make_delivery(job_id="任务*")])
    (message,) = await queue.receive()
    assert {name: value["StringValue"] for name, value in message["MessageAttributes"].items()} == {
        "type": "media.animated_image.failed",
        "product": "vod",
        "kind": "animated_image",
        "outcome": "failed",
        "job_id": "任务*",
    }


async def test_a_fifo_queue_takes_an_event_once_and_a_replay_again(moto_port, make_queue, opened, make_delivery):
    queue = await make_queue(fifo=True)
    sink = await opened(SqsSink("bus", queue.url, REGION, f"http://127.0.0.1:{moto_port}"))
    for replay in (0, 0, 1):
        assert list(await sink.send([make_delivery(subject="a b", replay=replay)])) == [None]
    messages = await queue.receive()
    identity = make_delivery().event_id
    assert [message["Attributes"]["MessageDeduplicationId"] for message in messages] == [
        identity,
        f"{identity}:replay-1",
    ]
    assert {message["Attributes"]["MessageGroupId"] for message in messages} == {hashlib.sha256(b"a b").hexdigest()}


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, of botocore's request
async def test_one_event_that_is_too_large_holds_back_no_other(moto_port, make_queue, opened, make_delivery):
    queue = await make_queue()
    sink = await opened(SqsSink("bus", queue.url, REGION, f"http://127.0.0.1:{moto_port}"))
    sizes = [2000, MAX_BYTES, MAX_BYTES + 1, 2000]
    deliveries = [_of_size(make_delivery, size, number) for number, size in enumerate(sizes)]
    results = await sink.send(deliveries)
    assert [type(result) for result in results] == [type(None), type(None), SinkRejected, type(None)]
    received = sorted(json.loads(message["Body"])["id"] for message in await queue.receive())
    assert received == [deliveries[position].event_id for position in (0, 1, 3)]


async def test_a_queue_that_does_not_exist_is_a_retry_with_its_code(moto_port, opened, make_delivery):
    sink = await opened(SqsSink("bus", QUEUE, REGION, f"http://127.0.0.1:{moto_port}"))
    results = await sink.send([make_delivery(0), make_delivery(1)])
    assert [type(result) for result in results] == [SinkRetry, SinkRetry]
    assert "NonExistentQueue" in str(results[0])
    assert "HTTP 400" in str(results[0])


# Against a server that answers as told


@pytest.fixture
async def answering(opened):
    """
    A sink whose server answers with ``answer(entries)``: a body, or (status, body). The second value collects the ids
    of the entries of every call.
    """
    servers = []

    async def start(answer, *, queue=QUEUE, **options):
        calls = []

        async def receive(request):
            entries = (await request.json())["Entries"]
            calls.append([entry["Id"] for entry in entries])
            given = answer(entries)
            status, body = given if isinstance(given, tuple) else (200, given)
            text = body if isinstance(body, str) else json.dumps(body)
            return web.Response(status=status, text=text, content_type="application/x-amz-json-1.0")

        app = web.Application(client_max_size=10 * 1024 * 1024)
        app.router.add_post("/", receive)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server()
        servers.append(server)
        return await opened(SqsSink("bus", queue, REGION, f"http://127.0.0.1:{server.port}", **options)), calls

    yield start
    for server in servers:
        await server.close()


def _taken(entries):
    return [{"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "0" * 32} for entry in entries]


def _error(code, status=400):
    return status, {"__type": f"com.amazonaws.sqs#{code}", "message": "hidden text of the answer"}


@pytest.mark.parametrize(
    ("code", "sender_fault", "outcome"),
    [
        ("InvalidMessageContents", True, SinkRejected),
        ("InvalidParameterValue", True, SinkRejected),
        ("InvalidParameterValueException", True, SinkRejected),
        ("AWS.SimpleQueueService.InvalidMessageContents", True, SinkRejected),
        ("InvalidMessageContents", False, SinkRetry),
        ("InvalidMessageContents", None, SinkRetry),
        ("KmsAccessDenied", True, SinkRetry),
        ("KMS.DisabledException", True, SinkRetry),
        ("AccessDenied", True, SinkRetry),
        ("RequestThrottled", True, SinkRetry),
        ("InternalError", False, SinkRetry),
        ("SomethingNew", True, SinkRetry),
        (None, True, SinkRetry),
    ],
)
async def test_only_what_is_wrong_with_the_message_is_rejected(answering, make_delivery, code, sender_fault, outcome):
    failed = {"Id": "0", "Code": code, "SenderFault": sender_fault, "Message": "hidden"}
    sink, _ = await answering(lambda _: {"Failed": [failed]})
    (error,) = await sink.send([make_delivery()])
    assert type(error) is outcome
    assert (code or "SQS did not take the event") in str(error)
    assert "hidden" not in str(error)


async def test_every_entry_has_its_own_result(answering, make_delivery):
    def answer(entries):
        return {
            "Failed": [
                {"Id": "3", "Code": "InvalidMessageContents", "SenderFault": True},
                {"Id": "1", "Code": "InternalError", "SenderFault": False},
                {"Id": "99", "Code": "InternalError", "SenderFault": False},
            ],
            "Successful": _taken([entries[4], entries[0]]),
        }

    sink, _ = await answering(answer)
    results = await sink.send([make_delivery(number) for number in range(5)])
    assert [type(result) for result in results] == [type(None), SinkRetry, SinkRetry, SinkRejected, type(None)]
    assert "does not mention" in str(results[2])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (_error("RequestThrottled"), "RequestThrottled (HTTP 400)"),
        (_error("KmsAccessDenied"), "KmsAccessDenied"),
        (_error("AccessDeniedException", 403), "AccessDeniedException (HTTP 403)"),
        (_error("InvalidSignatureException", 403), "InvalidSignatureException"),
        (_error("ServiceUnavailable", 503), "ServiceUnavailable (HTTP 503)"),
        ((500, "<html>hidden</html>"), "HTTP 500"),
        ((502, ""), "HTTP 502"),
        ((302, "hidden"), "HTTP 302"),
        ((200, ""), "does not mention"),
        ((200, "hidden"), "does not mention"),
        ((200, '"hidden"'), "SQS"),
        ((200, "[1]"), "SQS"),
        ((200, '{"Successful": 5}'), "SQS"),
        ((200, '{"Successful": [5], "Failed": [null]}'), "SQS"),
        ((200, '{"Successful": null, "Failed": null}'), "does not mention"),
    ],
)
async def test_a_call_that_fails_as_a_whole_is_a_retry_for_each(answering, make_delivery, answer, text):
    sink, calls = await answering(lambda _: answer)
    results = await sink.send([make_delivery(number) for number in range(3)])
    assert [type(result) for result in results] == [SinkRetry] * 3
    assert text in str(results[0])
    assert "hidden" not in str(results[0])
    assert len(str(results[0])) < 200
    assert calls == [["0", "1", "2"]], "trying again is the dispatcher's business"


async def test_what_comes_after_a_failed_call_is_not_sent(answering, make_delivery):
    """Or a FIFO queue would get the later events first."""
    outcomes = iter([None, _error("RequestThrottled")])

    def answer(entries):
        return next(outcomes) or {"Successful": _taken(entries)}

    sink, calls = await answering(answer, queue=QUEUE + ".fifo")
    deliveries = [_of_size(make_delivery, 600_000, number) for number in range(3)]
    results = await sink.send(deliveries)
    assert calls == [["0"], ["1"]]
    assert [type(result) for result in results] == [type(None), SinkRetry, SinkRetry]


async def test_a_batch_above_the_limit_of_the_queue_is_sent_in_halves(answering, make_delivery):
    """MaximumMessageSize of a queue counts for the whole call, and may be lower than what SQS allows."""

    def answer(entries):
        if sum(len(entry["MessageBody"]) for entry in entries) > 262_144:
            return _error("BatchRequestTooLong")
        return {"Successful": _taken(entries)}

    sink, calls = await answering(answer)
    sizes = [100_000, 100_000, 100_000, 300_000, 2000]
    results = await sink.send([_of_size(make_delivery, size, number) for number, size in enumerate(sizes)])
    assert [type(result) for result in results] == [type(None)] * 3 + [SinkRejected, type(None)]
    assert "300000 bytes" in str(results[3])
    assert "BatchRequestTooLong" in str(results[3])
    assert calls == [["0", "1", "2", "3", "4"], ["0", "1"], ["2", "3", "4"], ["2"], ["3", "4"], ["3"], ["4"]]


@pytest.mark.parametrize(
    ("code", "outcome"), [("InvalidMessageContents", SinkRejected), ("InvalidParameterValue", SinkRetry)]
)
async def test_one_bad_event_that_spoils_the_call_holds_back_no_other(answering, make_delivery, code, outcome):
    def answer(entries):
        if any("spoiled" in entry["MessageBody"] for entry in entries):
            return _error(code)
        return {"Successful": _taken(entries)}

    sink, _ = await answering(answer)
    deliveries = [make_delivery(number, user_data="spoiled" if number == 6 else "") for number in range(10)]
    results = await sink.send(deliveries)
    assert [type(result) for result in results] == [type(None)] * 6 + [outcome] + [type(None)] * 3


async def test_without_credentials_it_says_so_and_finds_them_later(answering, make_delivery, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    sink, _ = await answering(lambda entries: {"Successful": _taken(entries)})
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert "AWS_ACCESS_KEY_ID" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    assert list(await sink.send([make_delivery()])) == [None]


async def test_a_profile_that_does_not_exist_is_a_retry(answering, make_delivery, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    sink, _ = await answering(lambda entries: {"Successful": _taken(entries)})
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert "ProfileNotFound" in str(error)


async def test_garbage_instead_of_an_answer_is_a_retry(raw_server, opened, make_delivery):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x00\xff garbage\r\n\r\n")

    sink = await opened(SqsSink("bus", QUEUE, REGION, f"http://127.0.0.1:{await raw_server(serve)}"))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)


async def test_all_calls_of_a_send_together_keep_the_time_out(answering, make_delivery, loop_clock):
    """The first is answered late, the second never: the first counts, and the rest may come again."""
    asked_again, never = asyncio.Event(), asyncio.Event()
    calls = 0

    async def receive(request):
        nonlocal calls
        entries = (await request.json())["Entries"]
        calls += 1
        if calls == 1:
            loop_clock.skip(3000.0)
        else:
            asked_again.set()
            await never.wait()
        return web.json_response({"Successful": _taken(entries)}, content_type="application/x-amz-json-1.0")

    app = web.Application(client_max_size=10 * 1024 * 1024)
    app.router.add_post("/", receive)
    async with TestServer(app, host="127.0.0.1") as server:
        sink = SqsSink("bus", QUEUE, REGION, f"http://127.0.0.1:{server.port}", timeout_s=3600.0)
        await sink.open()
        deliveries = [_of_size(make_delivery, 600_000, number) for number in range(4)]
        sending = asyncio.create_task(sink.send(deliveries))
        await asked_again.wait()
        assert not sending.done()
        loop_clock.skip(600.0)
        results = await sending
        await sink.close()
        never.set()
    assert [type(result) for result in results] == [type(None), SinkRetry, SinkRetry, SinkRetry]
    assert "3600 s" in str(results[1])


def test_boto_is_not_loaded_before_a_sink_is_opened():
    code = (
        "import sys, media_callbacks.sinks.sqs; sys.exit(any(n.partition('.')[0] == 'botocore' for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
