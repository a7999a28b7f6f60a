"""The topics of the fake cloud, through the vendor's own client, and their messages in queues that subscribe."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mns.account import Account
from mns.mns_exception import MNSServerException
from mns.subscription import SubscriptionMeta
from mns.topic import Base64TopicMessage, TopicMessage, TopicMeta

from media_callbacks.rehearsal.fake_cloud.queues import FakeQueues
from media_callbacks.sources.reading.xml_document import read_document
from tests.factories.fake_queues import KEY_ID, QUEUE, SECRET, serving_queues

ENDPOINT = f"acs:mns:cn-shanghai:1234567890123456:queues/{QUEUE}"


@pytest.fixture
async def served() -> AsyncIterator[tuple[FakeQueues, str]]:
    async with serving_queues() as found:
        yield found


@pytest.fixture
def account(served):
    account = Account(served[1], KEY_ID, SECRET)
    yield account
    account.mns_client.close_connection()


@pytest.fixture
async def topic(account):
    topic = account.get_topic("done")
    await call(topic.create, TopicMeta())
    return topic


async def call(function: Any, *arguments: Any) -> Any:
    """The vendor's client blocks."""
    return await asyncio.to_thread(function, *arguments)


async def refused(code: str, function: Any, *arguments: Any) -> None:
    with pytest.raises(MNSServerException) as found:
        await call(function, *arguments)
    assert found.value.type == code


async def subscribe(topic: Any, name: str = "all", *, content_format: str = "", tag: str = "") -> None:
    meta = SubscriptionMeta(endpoint=ENDPOINT, notify_content_format=content_format, filter_tag=tag)
    await call(topic.get_subscription(name).subscribe, meta)


async def received(account: Any) -> str:
    queue = account.get_queue(QUEUE)
    queue.set_encoding(False)
    message = await call(queue.receive_message)
    await call(queue.delete_message, message.receipt_handle)
    body: str = message.message_body
    return body


async def test_what_is_published_is_told_by_its_md5(topic):
    published = await call(topic.publish_message, Base64TopicMessage('{"a": "动图"}'))
    text = base64.b64encode('{"a": "动图"}'.encode())
    assert published.message_body_md5 == hashlib.md5(text).hexdigest().upper()
    assert (await call(topic.get_attributes)).message_count == 1


@pytest.mark.parametrize("content_format", ["", "XML", "JSON", "SIMPLIFIED"])
async def test_a_queue_gets_what_its_subscription_asks_for(account, topic, content_format):
    await subscribe(topic, content_format=content_format)
    published = await call(topic.publish_message, TopicMessage('<"a" & b>', "snapshot"))
    text = await received(account)
    if content_format == "SIMPLIFIED":
        assert text == '<"a" & b>'
        return
    if content_format == "JSON":
        envelope = json.loads(text)
    else:
        envelope = {child.name: child.text for child in read_document(text.encode()).children}
    assert envelope["Message"] == '<"a" & b>'
    assert (envelope["TopicName"], envelope["SubscriptionName"], envelope["MessageTag"]) == ("done", "all", "snapshot")
    assert (envelope["MessageId"], envelope["MessageMD5"]) == (published.message_id, published.message_body_md5)


async def test_a_filter_lets_its_tag_through_alone(served, topic):
    await subscribe(topic, tag="snapshot")
    for tag in ("transcode", "snapshot", ""):
        await call(topic.publish_message, TopicMessage("m", tag))
    assert served[0].depth(QUEUE) == 1


async def test_what_is_refused(account, topic):
    await refused("TopicNotExist", account.get_topic("no-such").publish_message, TopicMessage("m"))
    await refused("TopicNotExist", account.get_topic("no-such").get_attributes)
    await refused("InvalidArgument", topic.publish_message, TopicMessage("x" * 65_537))
    await call(topic.delete)
    await refused("TopicNotExist", topic.publish_message, TopicMessage("m"))


async def test_a_topic_may_take_less(account):
    topic = account.get_topic("small")
    await call(topic.create, TopicMeta(maximum_message_size=1_024))
    assert (await call(topic.get_attributes)).maximum_message_size == 1_024
    await call(topic.publish_message, TopicMessage("x" * 1_024))
    await refused("InvalidArgument", topic.publish_message, TopicMessage("x" * 1_025))
