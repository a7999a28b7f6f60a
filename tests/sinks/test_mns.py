"""What is special to queues and topics of MNS: Base64, 64 KB, tags, and what their owners may have set."""

import asyncio
import base64
import json
import ssl
from datetime import timedelta
from typing import Any

import pytest
from mns.account import Account
from mns.topic import TopicMeta

from media_callbacks.aliyun.mns_sending import MnsQueueSender, MnsTopicSender
from media_callbacks.model.check_results import CheckResult
from media_callbacks.model.errors import SinkRejected, SinkRetry, VendorUnavailable
from media_callbacks.model.kinds import KINDS
from media_callbacks.sinks.mns import MnsQueueSink, MnsTopicSink
from tests.factories.fake_queues import KEY_ID, QUEUE, SECRET, Clock, Credentialed, serving_queues


@pytest.fixture
async def served():
    async with serving_queues() as found:
        found[0].topics.create("done")
        yield found


@pytest.fixture
def queues(served):
    return served[0]


@pytest.fixture
def make_sink(served):
    def make(kind="queue", *, name=None, url=served[1], **changes):
        access: Any = {"credentials": Credentialed(), "clock": Clock()} | changes
        if kind == "topic":
            return MnsTopicSink("test", MnsTopicSender(url, name or "done", **access))
        return MnsQueueSink("test", MnsQueueSender(url, name or QUEUE, **access))

    return make


def bodies_in(queues):
    return [message.body for message in queues._queues[QUEUE].messages.values()]


async def test_how_long_the_vendor_wants_to_be_left_alone_is_handed_on(make_sink, make_delivery, monkeypatch):
    async def put(messages, *, patience_s):
        raise VendorUnavailable("too many requests", retry_after_s=7.0, is_throttled=True)

    sink = make_sink()
    monkeypatch.setattr(sink.client, "put", put)
    (result,) = await sink.send([make_delivery()])
    assert (type(result), result.retry_after_s, result.is_overload) == (SinkRetry, 7.0, True)


async def test_the_body_is_the_event_in_base64(queues, make_sink, opened, make_delivery):
    sink = await opened(make_sink())
    assert await sink.send([make_delivery()]) == [None]
    assert bodies_in(queues) == [base64.b64encode(make_delivery().body).decode()]


async def test_a_call_has_at_most_64_kb(queues, make_sink, opened, make_delivery):
    """Which the fake refuses else, as the vendor does."""
    sink = await opened(make_sink())
    deliveries = [make_delivery(number, user_data="x" * 10_000) for number in range(16)]
    assert list(await sink.send(deliveries)) == [None] * 16
    assert len(bodies_in(queues)) == 16
    calls, _ = sink.build_calls(deliveries)
    assert max(sum(entry.size_bytes for entry in call) for call in calls) <= 65_536
    assert len(calls) == 4


@pytest.mark.parametrize(("spare", "is_taken"), [(0, True), (-1, False)])
async def test_the_limit_is_that_of_base64(*, queues, make_sink, opened, make_delivery, spare, is_taken):
    around = len(make_delivery(user_data="").body)
    delivery = make_delivery(user_data="x" * (65_536 * 3 // 4 - around - spare))
    sink = await opened(make_sink())
    (result,) = await sink.send([delivery])
    if is_taken:
        assert result is None
    else:
        assert isinstance(result, SinkRejected)
        assert "65540 bytes" in str(result)
        assert "at most 65536" in str(result)
    assert len(bodies_in(queues)) == is_taken


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_what_an_owner_lets_through_less_of(served, make_sink, opened, make_delivery, kind):
    """The event that is too large is dead, all others arrive."""
    queues, url = served
    account = Account(url, KEY_ID, SECRET)
    topic = account.get_topic("done")
    queues._queues[QUEUE].attributes = {**queues._queues[QUEUE].attributes, "MaximumMessageSize": 2_048}
    await asyncio.to_thread(topic.create, TopicMeta(maximum_message_size=2_048))
    account.mns_client.close_connection()
    sink = await opened(make_sink(kind))
    deliveries = [make_delivery(number, user_data="x" * 2_048 if number == 1 else "") for number in range(3)]
    results = [result for delivery in deliveries for result in await sink.send([delivery])]
    assert [type(result) for result in results] == [type(None), SinkRejected, type(None)]
    assert "InvalidArgument" in str(results[1])
    if kind == "queue":
        assert [type(result) for result in await sink.send(deliveries)] == [type(None), SinkRejected, type(None)]


@pytest.mark.parametrize("event_kind", KINDS)
def test_the_tag_is_the_kind(make_sink, make_delivery, event_kind):
    entry = make_sink("topic").build_entry(0, make_delivery(kind=event_kind))
    assert entry.fields["MessageTag"] == event_kind
    assert len(event_kind) <= 16


@pytest.mark.parametrize("body", [b"{}", b'{"data": 1}', b'{"data": {"kind": "seventeen letters"}}'])
def test_what_has_no_kind_has_no_tag(make_sink, make_delivery, body):
    assert "MessageTag" not in make_sink("topic").build_entry(0, make_delivery(body=body)).fields


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_who_has_other_settings_is_told_what_to_mend(make_sink, opened, make_delivery, kind):
    ahead = Clock()
    ahead.ahead = timedelta(hours=1)
    for options, words in (
        ({"name": "no-such"}, f"there is no such {kind}"),
        ({"credentials": Credentialed(secret="wrong")}, "check access_key_secret"),
        ({"credentials": Credentialed(token="old")}, "STS token"),
        ({"clock": ahead}, "s ahead of the vendor's: set it"),
    ):
        sink = await opened(make_sink(kind, **options))
        (result,) = await sink.send([make_delivery()])
        assert type(result) is SinkRetry
        assert words in str(result)
        assert not result.is_overload


async def test_throttling_asks_for_fewer_at_once(queues, make_sink, opened, make_delivery):
    sink = await opened(make_sink())
    queues.faults.throttled = 1
    (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)
    assert result.is_overload


async def test_an_answer_that_was_lost_leaves_the_event_there_twice_under_one_id(
    served, make_sink, opened, make_delivery, raw_server
):
    """The message is in the queue, and nobody said so."""
    queues, url = served

    async def relay(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        back.write(await reader.read(65536))
        await there.read(65536)
        back.close()

    sink = await opened(make_sink(url=f"http://127.0.0.1:{await raw_server(relay)}"))
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    again = await opened(make_sink())
    assert await again.send([make_delivery()]) == [None]
    first, second = (json.loads(base64.b64decode(body)) for body in bodies_in(queues))
    assert first["id"] == second["id"] == make_delivery().event_id


async def test_a_certificate_for_another_host_is_a_retry(
    *, make_sink, opened, make_delivery, tls_port, certificate_path, monkeypatch
):
    trusting = ssl.create_default_context(cafile=certificate_path)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    sink = await opened(make_sink(url=f"https://127.0.0.1:{tls_port}"))
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert "ClientConnectorCertificateError" in str(result)


# What ``media-callbacks check`` finds


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_check_tells_whether_it_is_there_and_sends_nothing(queues, make_sink, kind):
    assert await make_sink(kind).check(()) == [
        CheckResult("ok", "sinks.test", "it is there, and these credentials may ask about it")
    ]
    (missing,) = await make_sink(kind, name="no-such").check(())
    assert (missing.severity, missing.remedy) == (
        "error",
        f"check {kind}, endpoint and its region, or create it",
    )
    (refused,) = await make_sink(kind, credentials=Credentialed(secret="wrong")).check(())
    assert refused.severity == "error"
    assert "SignatureDoesNotMatch" in refused.text
    assert queues.depth(QUEUE) == 0
    queues.faults.throttled = 1
    (throttled,) = await make_sink(kind).check(())
    assert throttled.severity == "warning"
    (away,) = await make_sink(kind, url="http://127.0.0.1:9").check(())
    assert (away.severity, away.remedy) == ("error", "check endpoint and network")


async def test_check_of_who_may_send_and_not_ask(make_sink, raw_server):
    async def deny(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = b"<Error><Code>AccessDenied</Code></Error>"
        writer.write(b"HTTP/1.1 403 -\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    url = f"http://127.0.0.1:{await raw_server(deny)}"
    (found,) = await make_sink("topic", url=url).check(())
    assert found.severity == "warning"
    assert "GetTopicAttributes" in (found.remedy or "")
