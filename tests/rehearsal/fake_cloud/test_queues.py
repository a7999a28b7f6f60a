"""
The queues of the fake cloud, through the vendor's own client wherever it can do it: what that client takes for right is
right enough for ours.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from mns.account import Account
from mns.mns_client import MNSClient
from mns.mns_exception import MNSServerException
from mns.queue import Message, QueueMeta
from yarl import URL

from media_callbacks.aliyun.mns import ReceivedMessage
from media_callbacks.aliyun.signing import sign_mns_v2, sign_mns_v4
from media_callbacks.rehearsal.fake_cloud.queues import FakeQueues
from tests.factories.fake_queues import KEY_ID, QUEUE, SECRET, Clock, client_of, serving_queues


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def served(clock) -> AsyncIterator[tuple[FakeQueues, str]]:
    async with serving_queues(clock=clock) as found:
        yield found


@pytest.fixture
def queues(served: tuple[FakeQueues, str]) -> FakeQueues:
    return served[0]


@pytest.fixture
def url(served: tuple[FakeQueues, str]) -> str:
    return served[1]


@pytest.fixture
def account(url):
    account = Account(url, KEY_ID, SECRET)
    yield account
    account.mns_client.close_connection()


@pytest.fixture
def queue(account):
    return account.get_queue(QUEUE)


async def call(function: Any, *arguments: Any) -> Any:
    """The vendor's client blocks."""
    return await asyncio.to_thread(function, *arguments)


async def refused(code: str, function: Any, *arguments: Any) -> MNSServerException:
    with pytest.raises(MNSServerException) as found:
        await call(function, *arguments)
    assert found.value.type == code
    return found.value


async def polls(queues: FakeQueues, number: int) -> None:
    """When so many long polls wait."""
    while len(queues._queues[QUEUE].waiting) != number:  # noqa: ASYNC110 - the fake tells nobody
        await asyncio.sleep(0)


async def test_a_message_is_sent_received_and_deleted(queues, queue):
    sent = await call(queue.send_message, Message('{"jobId":"J1"}'))
    received = await call(queue.receive_message, 1)
    assert received.message_id == sent.message_id
    assert received.message_body == b'{"jobId":"J1"}'
    # The vendor's client encodes what it sends; the digest is that of the text in the queue.
    text = base64.b64encode(b'{"jobId":"J1"}')
    assert received.message_body_md5 == sent.message_body_md5 == hashlib.md5(text).hexdigest().upper()
    assert (received.dequeue_count, received.priority) == (1, 8)
    assert received.next_visible_time - received.first_dequeue_time == 30_000
    await call(queue.delete_message, received.receipt_handle)
    assert queues.depth(QUEUE) == 0
    await refused("MessageNotExist", queue.delete_message, received.receipt_handle)


async def test_what_the_cloud_sends_comes_as_it_is(queues, queue):
    text = 'a "quoted" <b>&amp;</b>\r\n\ttext, 动图'
    message_id = queues.send(QUEUE, text)
    queue.set_encoding(False)
    received = await call(queue.receive_message)
    assert (received.message_id, received.message_body) == (message_id, text)


async def test_batches(queues, queue):
    queue.set_encoding(False)
    sent = await call(queue.batch_send_message, [Message(f"m{number}") for number in range(16)])
    assert len({message.message_id for message in sent}) == 16
    peeked = await call(queue.batch_peek_message, 16)
    assert [message.message_body for message in peeked] == [f"m{number}" for number in range(16)]
    first = await call(queue.batch_receive_message, 10, 1)
    rest = await call(queue.batch_receive_message, 16, 1)
    assert [message.message_body for message in [*first, *rest]] == [f"m{number}" for number in range(16)]
    await refused("MessageNotExist", queue.peek_message)
    await call(queue.batch_delete_message, [message.receipt_handle for message in first])
    assert queues.depth(QUEUE) == 6


async def test_a_batch_that_can_only_be_deleted_in_part_says_what_is_left(queues, queue):
    queues.send(QUEUE, "bQ==")
    queues.send(QUEUE, "bQ==")
    messages = await call(queue.batch_receive_message, 16)
    await call(queue.delete_message, messages[0].receipt_handle)
    error = await refused("MessageNotExist", queue.batch_delete_message, [m.receipt_handle for m in messages])
    assert [item["ReceiptHandle"] for item in error.sub_errors] == [messages[0].receipt_handle]
    assert queues.depth(QUEUE) == 0


async def test_a_batch_that_can_only_be_sent_in_part_says_so(queues, queue):
    queue.set_encoding(False)
    error = await refused("InvalidArgument", queue.batch_send_message, [Message("m"), Message("x" * 65_537)])
    assert [sorted(item) for item in error.sub_errors] == [
        ["MessageBodyMD5", "MessageId"],
        ["ErrorCode", "ErrorMessage"],
    ]
    assert queues.depth(QUEUE) == 1


async def test_a_message_is_visible_again_after_its_time_with_another_handle(queues, queue, clock):
    queues.send(QUEUE, "bQ==")
    first = await call(queue.receive_message)
    await refused("MessageNotExist", queue.receive_message)
    clock.ahead += timedelta(seconds=31)
    await refused("MessageNotExist", queue.delete_message, first.receipt_handle)
    second = await call(queue.receive_message)
    assert second.message_id == first.message_id
    assert second.dequeue_count == 2
    assert second.first_dequeue_time == first.first_dequeue_time
    await refused("MessageNotExist", queue.delete_message, first.receipt_handle)
    await call(queue.delete_message, second.receipt_handle)


async def test_changing_the_visibility_gives_a_new_handle_and_voids_the_old_one(queues, queue, clock):
    queues.send(QUEUE, "bQ==")
    received = await call(queue.receive_message)
    changed = await call(queue.change_message_visibility, received.receipt_handle, 100)
    assert changed.receipt_handle != received.receipt_handle
    await refused("MessageNotExist", queue.change_message_visibility, received.receipt_handle, 100)
    clock.ahead += timedelta(seconds=60)
    await refused("MessageNotExist", queue.receive_message)
    await call(queue.delete_message, changed.receipt_handle)
    assert queues.depth(QUEUE) == 0


async def test_a_long_poll_ends_when_a_message_comes(queues, queue):
    poll = asyncio.create_task(call(queue.receive_message, 30))
    await polls(queues, 1)
    queues.send(QUEUE, base64.b64encode(b"m").decode())
    assert (await poll).message_body == b"m"


async def test_a_long_poll_ends_when_a_message_becomes_visible_again(queues, url):
    queues.create("short", visibility_s=1)
    queues.send("short", "bQ==")
    async with client_of(url, queue="short") as client:
        (first,) = await client.receive(16, 0)
        (second,) = await client.receive(16, 30)
    assert (first.id, second.dequeue_count) == (second.id, 2)


async def test_who_has_hung_up_gets_no_message(queues, url):
    async with client_of(url) as client:
        poll = asyncio.create_task(client.receive(16, 30))
        await polls(queues, 1)
        poll.cancel()
        await polls(queues, 0)
        queues.send(QUEUE, "m")
        (message,) = await client.receive(16, 0)
    assert message.dequeue_count == 1


async def test_too_many_long_polls_are_answered_at_once(queues, queue):
    queues.faults.max_long_polls = 0
    await refused("MessageNotExist", queue.receive_message, 30)


@pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")
async def test_delayed_and_important_messages(queues, queue, clock):
    queue.set_encoding(False)
    delayed = await call(queue.send_message, Message("later", delay_seconds=60))
    assert delayed.receipt_handle
    await call(queue.send_message, Message("second", priority=9))
    await call(queue.send_message, Message("first", priority=1))
    attributes = await call(queue.get_attributes)
    assert (attributes.active_messages, attributes.inactive_messages, attributes.delay_messages) == (2, 0, 1)
    assert [m.message_body for m in await call(queue.batch_receive_message, 16)] == ["first", "second"]
    clock.ahead += timedelta(seconds=61)
    assert (await call(queue.batch_receive_message, 1))[0].message_body in ("later", "first")


@pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")
async def test_queues_are_made_described_changed_and_removed(queues, account):
    queue = account.get_queue("another")
    await refused("QueueNotExist", queue.get_attributes)
    await refused("QueueNotExist", queue.receive_message)
    await call(queue.create, QueueMeta(vis_timeout=50, polling_wait_sec=5))
    await call(queue.create, QueueMeta(vis_timeout=50, polling_wait_sec=5))
    await refused("QueueAlreadyExist", queue.create, QueueMeta(vis_timeout=51))
    await call(queue.set_attributes, QueueMeta(vis_timeout=60))
    attributes = await call(queue.get_attributes)
    assert (attributes.queue_name, attributes.visibility_timeout) == ("another", 60)
    await call(queue.delete)
    await call(queue.delete)
    await refused("QueueNotExist", queue.send_message, Message("m"))


async def test_throttling_and_failures(queues, queue):
    queues.faults.throttled = 1
    await refused("QpsLimitExceeded", queue.receive_message)
    queues.faults.throttled, queues.faults.failing = 0, 1
    await refused("InternalError", queue.receive_message)


async def test_wrong_credentials_are_refused(queues, url):
    for account, code in (
        (Account(url, "LTAI-nobody", SECRET), "InvalidAccessKeyId"),
        (Account(url, KEY_ID, "wrong"), "SignatureDoesNotMatch"),
        (Account(url, KEY_ID, SECRET, "of-nobody"), "InvalidSecurityToken"),
    ):
        await refused(code, account.get_queue(QUEUE).receive_message)
        account.mns_client.close_connection()
    queues.tokens = {KEY_ID: "sts"}
    account = Account(url, KEY_ID, SECRET, "sts")
    await refused("MessageNotExist", account.get_queue(QUEUE).receive_message)
    account.mns_client.close_connection()


@pytest.mark.parametrize("side", [1, -1])
async def test_a_clock_more_than_a_quarter_of_an_hour_off_is_refused(queue, clock, side):
    clock.ahead = timedelta(minutes=14) * side
    await refused("MessageNotExist", queue.receive_message)
    clock.ahead = timedelta(minutes=16) * side
    await refused("TimeExpired", queue.receive_message)


TARGET = f"/queues/{QUEUE}/messages"


@pytest.mark.parametrize(
    "method, target, changes, body, status, code",
    [
        ("GET", TARGET, {"x-mns-version": None}, b"", 400, "MissingVersionHeader"),
        ("GET", TARGET, {"Date": None}, b"", 400, "MissingDateHeader"),
        ("GET", TARGET, {"Date": "yesterday"}, b"", 400, "InvalidDateHeader"),
        ("GET", TARGET, {"Date": "Sat, 21 Nov 2026 07:00:00 -0000"}, b"", 400, "InvalidDateHeader"),
        ("GET", TARGET, {"Authorization": None}, b"", 400, "MissingAuthorizationHeader"),
        ("GET", TARGET, {"Authorization": "Bearer x"}, b"", 400, "InvalidAuthorizationHeader"),
        ("GET", TARGET, {"Content-MD5": "AAAA"}, b"", 400, "InvalidDigest"),
        ("GET", TARGET + "?numOfMessages=17", {}, b"", 400, "InvalidArgument"),
        ("GET", TARGET + "?waitseconds=31", {}, b"", 400, "InvalidArgument"),
        ("GET", "/queues/-", {}, b"", 400, "InvalidQueueName"),
        ("POST", f"/queues/{QUEUE}", {}, b"", 400, "InvalidRequestURL"),
        ("PATCH", TARGET, {}, b"", 400, "InvalidRequestURL"),
        ("POST", TARGET, {}, b"<Message>", 400, "MalformedXML"),
        ("POST", TARGET, {}, b"<Message><Priority>1</Priority></Message>", 400, "MalformedXML"),
        ("POST", TARGET, {}, b"<Messages/>", 400, "MalformedXML"),
        ("POST", TARGET, {}, b"x" * 1_048_577, 400, "InvalidArgument"),
        ("DELETE", TARGET, {}, b"<ReceiptHandles/>", 400, "MalformedXML"),
        ("DELETE", TARGET + "?ReceiptHandle=nonsense", {}, b"", 400, "ReceiptHandleError"),
        ("PUT", TARGET + "?VisibilityTimeout=1", {}, b"", 400, "MissingReceiptHandle"),
        ("PUT", TARGET + "?ReceiptHandle=1-AA==", {}, b"", 400, "MissingVisibilityTimeout"),
        ("PUT", TARGET + "?ReceiptHandle=1-AA==&VisibilityTimeout=0", {}, b"", 400, "InvalidArgument"),
    ],
)
@pytest.mark.parametrize("version", [2, 4])
async def test_requests_that_are_refused(*, url, clock, version, method, target, changes, body, status, code):
    now = clock()
    headers = {"Date": format_datetime(now, usegmt=True), "x-mns-version": "2015-06-06", **changes}
    headers = {name: value for name, value in headers.items() if value is not None}
    if "Authorization" not in changes:
        signing: dict[str, Any] = {"access_key_id": KEY_ID, "secret": SECRET}
        headers["Content-Type"] = "text/xml"
        headers["Authorization"] = (
            sign_mns_v2(method, target, headers, **signing)
            if version == 2
            else sign_mns_v4(method, target, headers, **signing, region="cn-shanghai", now=now)
        )
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(url + target, encoded=True), headers=headers, data=BytesIO(body)) as response,
    ):
        assert response.status == status
        assert f"<Code>{code}</Code>" in await response.text()
        assert "x-mns-request-id" in response.headers


async def test_the_vendors_client_signs_as_we_do(monkeypatch, queue):
    """Every request of a message's life, with the padding of its handle in the query."""
    signed = []
    get_signature = MNSClient.get_signature

    def watched(self, method, headers, resource, credential):
        signature = get_signature(self, method, headers, resource, credential)
        signed.append((method, resource, dict(headers), signature))
        return signature

    monkeypatch.setattr(MNSClient, "get_signature", watched)
    sent = await call(queue.send_message, Message("m" * 7))
    received = await call(queue.receive_message, 1)
    changed = await call(queue.change_message_visibility, received.receipt_handle, 100)
    await call(queue.delete_message, changed.receipt_handle)
    assert sent.message_id == received.message_id
    assert [method for method, *_ in signed] == ["POST", "GET", "PUT", "DELETE"]
    for method, resource, headers, signature in signed:
        assert sign_mns_v2(method, resource, headers, access_key_id=KEY_ID, secret=SECRET) == signature


async def test_a_message_of_the_vendors_client_is_the_same_to_ours(queue, url):
    queue.set_encoding(False)
    sent = await call(queue.send_message, Message('{"jobId":"J1"}'))
    async with client_of(url) as client:
        (ours,) = await client.receive(16, 1)
        assert isinstance(ours, ReceivedMessage)
        assert (ours.id, ours.body, ours.body_md5) == (sent.message_id, b'{"jobId":"J1"}', sent.message_body_md5)
        assert await client.delete([ours.handle]) == []
    await refused("MessageNotExist", queue.receive_message)
