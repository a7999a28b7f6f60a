"""
Sending to queues and topics: to the fake cloud, whose messages the vendor's own client reads; signed as that client
does; and to a scripted server for what is wrong.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from mns.account import Account
from mns.mns_client import MNSClient
from mns.mns_xml_handler import BatchSendMessageDecoder, PublishMessageDecoder
from mns.queue import Message
from mns.topic import TopicMessage
from starlette.requests import Request
from starlette.responses import Response

from media_callbacks.aliyun.credentials import Credentials
from media_callbacks.aliyun.mns_client import XML_NAMESPACE, write_element
from media_callbacks.aliyun.mns_sending import MnsQueueSender, MnsSender, MnsTopicSender
from media_callbacks.model.errors import VendorError, VendorRefused, VendorUnavailable
from media_callbacks.sources.reading.xml_document import read_document
from tests.factories.fake_queues import KEY_ID, QUEUE, SECRET, Clock, Credentialed, serving, serving_queues

TOPIC = "done"
BODY = base64.b64encode('{"a": "动图"}'.encode()).decode()
MESSAGE = {"MessageBody": BODY}
MD5 = hashlib.md5(BODY.encode()).hexdigest().upper()


@asynccontextmanager
async def sender_of(url: str, kind: str = "queue", name: str | None = None, **options: Any) -> AsyncIterator[Any]:
    make: type[MnsSender] = MnsQueueSender if kind == "queue" else MnsTopicSender
    options.setdefault("credentials", Credentialed())
    options.setdefault("clock", Clock())
    sender = make(url, name or (QUEUE if kind == "queue" else TOPIC), **options)
    try:
        yield sender
    finally:
        await sender.close()


async def put(sender: Any, *messages: Any) -> list[VendorError | None]:
    return list(await sender.put(list(messages) or [MESSAGE], patience_s=15.0))


# Against the fake cloud


@pytest.mark.parametrize("signature", ["v2", "v4"])
@pytest.mark.parametrize("token", [None, "sts-token"])
async def test_the_vendors_client_reads_what_was_sent(signature, token):
    clock = Clock()
    options = {"signature": signature, "region": "cn-shanghai", "clock": clock}
    async with (
        serving_queues(clock=clock, tokens={KEY_ID: token} if token else {}) as (queues, url),
        sender_of(url + "/", credentials=Credentialed(token=token), **options) as sender,
    ):
        assert await put(sender, *[MESSAGE] * 16) == [None] * 16
        await sender.describe()
        assert queues.depth(QUEUE) == 16
        queues.tokens = {}
        account = Account(url, KEY_ID, SECRET)
        received = await asyncio.to_thread(account.get_queue(QUEUE).receive_message)
        account.mns_client.close_connection()
    assert received.message_body.decode() == '{"a": "动图"}'


async def test_a_topic_tells_who_subscribed():
    async with serving_queues() as (queues, url), sender_of(url, "topic") as sender:
        queues.topics.create(TOPIC)
        assert await put(sender, {**MESSAGE, "MessageTag": "snapshot"}) == [None]
        await sender.describe()
        account = Account(url, KEY_ID, SECRET)
        assert (await asyncio.to_thread(account.get_topic(TOPIC).get_attributes)).message_count == 1
        account.mns_client.close_connection()


async def test_a_tag_that_is_too_long_is_refused():
    async with serving_queues() as (queues, url), sender_of(url, "topic") as sender:
        queues.topics.create(TOPIC)
        with pytest.raises(VendorRefused, match="InvalidArgument"):
            await put(sender, {**MESSAGE, "MessageTag": "x" * 17})


async def test_a_part_of_a_batch_may_be_taken():
    large = {"MessageBody": "x" * 65_537}
    async with serving_queues() as (queues, url), sender_of(url) as sender:
        first, second, third = await put(sender, MESSAGE, large, MESSAGE)
        assert (first, third) == (None, None)
        assert isinstance(second, VendorRefused)
        assert second.code == "InvalidArgument"
        assert queues.depth(QUEUE) == 2


@pytest.mark.parametrize("kind", ["queue", "topic"])
@pytest.mark.parametrize(
    "credentials, code, advice",
    [
        ({"secret": "wrong"}, "SignatureDoesNotMatch", "access_key_secret"),
        ({"key_id": "LTAI-nobody"}, "InvalidAccessKeyId", "access_key_id"),
        ({"token": "old"}, "InvalidSecurityToken", "STS token has expired"),
    ],
)
async def test_wrong_credentials_are_given_back_and_nothing_is_sent_again(kind, credentials, code, advice):
    provider = Credentialed(**credentials)
    provider.following = [Credentials(access_key_id=KEY_ID, access_key_secret=SECRET)]
    async with serving_queues() as (queues, url), sender_of(url, kind, credentials=provider) as sender:
        queues.topics.create(TOPIC)
        with pytest.raises(VendorRefused, match=advice) as refused:
            await put(sender)
        assert (refused.value.code, refused.value.status) == (code, 403)
        assert provider.invalidated == 1
        assert await put(sender) == [None]


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_what_is_not_there(kind):
    async with serving_queues() as (_, url), sender_of(url, kind, "no-such") as sender:
        for ask in (put(sender), sender.describe()):
            with pytest.raises(VendorRefused, match=f"no such {kind}") as refused:
                await ask
            assert refused.value.code == f"{kind.capitalize()}NotExist"


@pytest.mark.parametrize("ahead_s, side", [(1200, "ahead of"), (-1200, "behind")])
async def test_a_clock_that_is_off_is_told_by_how_much(ahead_s, side):
    clock = Clock()
    clock.ahead = timedelta(seconds=ahead_s + 0.5)
    async with serving_queues() as (_, url), sender_of(url, clock=clock) as sender:
        with pytest.raises(VendorRefused, match=f"(1199|120[0-2]) s {side}"):
            await put(sender)


async def test_throttling_asks_for_less_and_failures_for_patience():
    async with serving_queues() as (queues, url), sender_of(url) as sender:
        queues.faults.throttled = 1
        with pytest.raises(VendorUnavailable, match="rate_per_s") as found:
            await put(sender)
        assert found.value.is_throttled
        queues.faults.throttled, queues.faults.failing = 0, 1
        with pytest.raises(VendorUnavailable, match="500 InternalError") as found:
            await put(sender)
        assert not found.value.is_throttled


async def test_a_closed_one_sends_nothing_until_it_is_opened():
    async with serving_queues() as (queues, url), sender_of(url) as sender:
        await sender.close()
        with pytest.raises(VendorUnavailable, match="closed"):
            await put(sender)
        sender.open()
        assert await put(sender) == [None]
        assert queues.depth(QUEUE) == 1


# Held to the vendor's client


class Watching:
    """Answers as told, and keeps what it was asked."""

    def __init__(self, status: int = 201, body: bytes = b"") -> None:
        self.status, self.body = status, body
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.seen.append((request.method, scope["raw_path"].decode(), dict(request.headers), await request.body()))
        await Response(self.body, self.status, headers=self.headers)(scope, receive, send)


def batch(*messages: list[tuple[str, str]]) -> bytes:
    inner = "".join(write_element("Message", message) for message in messages)
    return f'<?xml version="1.0"?><Messages xmlns="{XML_NAMESPACE}">{inner}</Messages>'.encode()


def taken(md5: str = MD5) -> list[tuple[str, str]]:
    return [("MessageId", "5F290C926D472878-2-14D9529A8FA-200000001"), ("MessageBodyMD5", md5)]


def failed(code: str) -> list[tuple[str, str]]:
    return [("ErrorCode", code), ("ErrorMessage", "The secret thing is LEAK.")]


@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_the_vendors_client_would_sign_it_alike_and_write_the_same_document(kind, monkeypatch):
    """Its request of the same message, beside ours."""
    server = Watching(body=batch(taken()) if kind == "queue" else write_element("Message", taken()).encode())
    async with serving(server) as url, sender_of(url, kind) as sender:
        await put(sender, MESSAGE if kind == "queue" else {**MESSAGE, "MessageTag": "snapshot"})
        ((method, path, headers, body),) = tuple(server.seen)
        theirs: list[Any] = []
        account = Account(url, KEY_ID, SECRET)
        build_header = MNSClient.build_header

        def watched(self, request, internal):
            theirs.append(internal)
            build_header(self, request, internal)

        monkeypatch.setattr(MNSClient, "build_header", watched)
        if kind == "queue":
            queue = account.get_queue(QUEUE)
            queue.set_encoding(False)
            await asyncio.to_thread(queue.batch_send_message, [Message(BODY)])
        else:
            await asyncio.to_thread(account.get_topic(TOPIC).publish_message, TopicMessage(BODY, "snapshot"))
        credential = account.mns_client.credentials_provider.get_credentials()
        signature = MNSClient.get_signature(account.mns_client, method, headers, path, credential)
        account.mns_client.close_connection()
    assert headers["authorization"] == signature
    (asked,) = theirs
    assert (asked.method, asked.uri) == (method, path)
    assert read_document(asked.data.encode() if isinstance(asked.data, str) else asked.data) == read_document(body)


def test_the_vendors_client_reads_our_examples_of_answers():
    entries = BatchSendMessageDecoder.decode(batch(taken(), taken()), "r")
    assert [entry.message_body_md5 for entry in entries] == [MD5, MD5]
    *_, details = BatchSendMessageDecoder.decodeError(batch(taken(), failed("InternalError")), "r")
    assert [sorted(message) for message in details] == [["MessageBodyMD5", "MessageId"], ["ErrorCode", "ErrorMessage"]]
    assert PublishMessageDecoder.decode(write_element("Message", taken()).encode(), "r")[1] == MD5


# Against a server that answers anything


@asynccontextmanager
async def answering(status: int, body: bytes, kind: str = "queue") -> AsyncIterator[tuple[Watching, Any]]:
    server = Watching(status, body)
    async with serving(server) as url, sender_of(url, kind) as sender:
        yield server, sender


async def test_the_md5_of_something_else_is_no_delivery():
    async with answering(201, batch(taken(), taken("0" * 32), taken(MD5.lower()))) as (_, sender):
        first, second, third = await put(sender, MESSAGE, MESSAGE, MESSAGE)
    assert (first, third) == (None, None)
    assert isinstance(second, VendorUnavailable)
    assert "MD5" in str(second)


@pytest.mark.parametrize(
    "code, kind, is_throttled",
    [
        ("InternalError", VendorUnavailable, False),
        ("QpsLimitExceeded", VendorUnavailable, True),
        ("InvalidArgument", VendorRefused, False),
        ("no\ncode", VendorRefused, False),
    ],
)
async def test_each_message_of_a_batch_has_its_own_answer(code, kind, is_throttled):
    async with answering(400, batch(taken(), failed(code))) as (_, sender):
        first, second = await put(sender, MESSAGE, MESSAGE)
    assert first is None
    assert type(second) is kind
    assert getattr(second, "is_throttled", False) == is_throttled
    assert "LEAK" not in str(second)
    assert "\n" not in str(second)


@pytest.mark.parametrize(
    "status, body",
    [
        (200, batch(taken())),
        (201, batch(taken(), taken())),
        (201, batch()),
        (201, b"<html>"),
        (201, b""),
        (201, b"x" * (8 * 1024 * 1024 + 1)),
        (404, b"<html>no such page</html>"),
        (503, b""),
    ],
)
async def test_what_is_no_answer_of_a_queue_may_pass(status, body):
    async with answering(status, body) as (_, sender):
        with pytest.raises(VendorUnavailable) as found:
            await put(sender)
        assert str(status) in str(found.value)


@pytest.mark.parametrize("message", [[], [("MessageId", "1")], [("MessageBodyMD5", MD5)]])
async def test_an_answer_that_lacks_something_is_none(message):
    async with answering(201, batch(message)) as (_, sender):
        (result,) = await put(sender)
    assert isinstance(result, VendorUnavailable)


async def test_a_redirect_is_not_followed():
    async with answering(302, b"") as (server, sender):
        server.headers = {"Location": "/elsewhere"}
        with pytest.raises(VendorRefused, match="https"):
            await put(sender)
        assert len(server.seen) == 1


@pytest.mark.parametrize("kind, right", [("queue", "mns:BatchSendMessage"), ("topic", "mns:PublishMessage")])
async def test_who_may_not_send_is_told_what_to_allow(kind, right):
    body = f'<Error xmlns="{XML_NAMESPACE}"><Code>AccessDenied</Code></Error>'.encode()
    async with answering(403, body, kind) as (_, sender):
        with pytest.raises(VendorRefused, match=right):
            await put(sender)


@pytest.mark.parametrize(
    "url, options",
    [
        (f"http://{'a' * 64}.example.com", {}),
        ("http://127.0.0.1:9", {}),
        ("http://127.0.0.1:9", {"credentials": Credentialed(token="a\r\nb")}),
    ],
    ids=["no host", "nobody there", "no token"],
)
async def test_what_can_not_be_sent_may_pass(url, options):
    async with sender_of(url, **options) as sender:
        with pytest.raises(VendorUnavailable, match="check endpoint and network"):
            await put(sender)
