"""
The topics of the fake MNS, under ``/topics/``: publish to one, and have it sent on to queues. See ``queues`` for what
is asked before, and for D, S and A:

    a message is taken with 201, its id and the MD5 of its body      D "PublishMessage"
    a tag has at most 16 characters                                  D "PublishMessage"; the code for longer ones: A
    a subscription with a FilterTag gets messages of that tag alone  D "Subscribe"
    what a queue gets: an envelope of XML or JSON, or with
    SIMPLIFIED the body as it was published, not encoded             D "NotifyContentFormat"; the Java client's demo
    endpoints other than queues are subscribed to in silence         A
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from xml.sax.saxutils import escape

from starlette.responses import Response

from media_callbacks.aliyun.mns_client import XML_NAMESPACE
from media_callbacks.rehearsal.fake_cloud.mns_documents import (
    MAX_MESSAGE_BYTES,
    Refused,
    milliseconds,
    read_body,
    read_number,
    write_fields,
)

OWNER = "1234567890123456"
MAX_TAG_CHARACTERS = 16
_PATH = re.compile(r"/topics/([A-Za-z0-9][A-Za-z0-9-]{0,119})(?:/(messages|subscriptions/[A-Za-z0-9-]{1,120}))?")
_QUEUE = re.compile(r"acs:mns:[a-z0-9-]+:[0-9]+:queues/([A-Za-z0-9-]+)")
_FORMATS = ("XML", "JSON", "SIMPLIFIED")


class FakeTopics:
    """
    Args:
        clock: The time in UTC.
        next_id: A new id of 32 digits.
        send: Puts a text into a queue by name; KeyError where there is none.
    """

    def __init__(
        self, *, clock: Callable[[], datetime], next_id: Callable[[], str], send: Callable[[str, str], str]
    ) -> None:
        self._clock, self._next_id, self._send = clock, next_id, send
        self._topics: dict[str, _Topic] = {}

    def create(self, topic: str) -> None:
        self._topics[topic] = _Topic(self._clock())

    def respond(self, method: str, path: str, body: bytes) -> Response:
        """
        Raises:
            Refused: Whatever is not as it should be.
        """
        match = _PATH.fullmatch(path)
        if match is None:
            raise Refused(400, "InvalidTopicName", "The name of the topic is not valid.")
        name, rest = match.groups()
        topic = self._topics.get(name)
        if method == "PUT" and rest is None:
            limit = read_body(body).text_of("MaximumMessageSize") if body else None
            size = read_number(limit, "MaximumMessageSize", MAX_MESSAGE_BYTES, 1_024, MAX_MESSAGE_BYTES)
            self._topics[name] = _Topic(self._clock(), size)
            return Response(status_code=201, headers={"Location": f"http://fake.mns{path}"})
        if topic is None:
            raise Refused(404, "TopicNotExist", "The topic name you provided is not exist.")
        match method, rest:
            case "GET", None:
                return write_fields(200, "Topic", topic.attributes(name))
            case "DELETE", None:
                del self._topics[name]
                return Response(status_code=204)
            case "POST", "messages":
                return self._publish(name, topic, body)
            case "PUT", str(subscription):
                topic.subscriptions[subscription.partition("/")[2]] = _read_subscription(body)
                return Response(status_code=201, headers={"Location": f"http://fake.mns{path}"})
            case _:
                raise Refused(400, "InvalidRequestURL", "There is no such operation.")

    def _publish(self, name: str, topic: "_Topic", body: bytes) -> Response:
        document = read_body(body)
        message, tag = document.find("MessageBody"), document.text_of("MessageTag") or ""
        if document.name != "Message" or message is None or not message.text:
            raise Refused(400, "MalformedXML", "MessageBody is required.")
        if len(message.text.encode()) > topic.max_message_bytes:
            raise Refused(400, "InvalidArgument", "MessageBody is longer than MaximumMessageSize.")
        if len(tag) > MAX_TAG_CHARACTERS:
            raise Refused(400, "InvalidArgument", "MessageTag is longer than 16 characters.")
        topic.published += 1
        digest = hashlib.md5(message.text.encode(), usedforsecurity=False).hexdigest().upper()
        envelope = {
            "TopicOwner": OWNER,
            "TopicName": name,
            "Subscriber": OWNER,
            "SubscriptionName": "",
            "MessageId": self._next_id(),
            "MessageMD5": digest,
            "Message": message.text,
            **({"MessageTag": tag} if tag else {}),
            "PublishTime": str(milliseconds(self._clock())),
        }
        for subscription_name, subscription in topic.subscriptions.items():
            if subscription.queue is not None and subscription.filter_tag in ("", tag):
                text = subscription.render({**envelope, "SubscriptionName": subscription_name})
                self._send(subscription.queue, text)
        return write_fields(201, "Message", {"MessageId": envelope["MessageId"], "MessageBodyMD5": digest})


@dataclass
class _Topic:
    created_at: datetime
    max_message_bytes: int = MAX_MESSAGE_BYTES
    published: int = 0
    subscriptions: dict[str, "_Subscription"] = field(default_factory=dict)

    def attributes(self, name: str) -> Mapping[str, object]:
        created = int(self.created_at.timestamp())
        return {
            "TopicName": name,
            "CreateTime": created,
            "LastModifyTime": created,
            "MaximumMessageSize": self.max_message_bytes,
            "MessageRetentionPeriod": 86_400,
            "MessageCount": self.published,
            "LoggingEnabled": "False",
        }


@dataclass(frozen=True)
class _Subscription:
    """
    Attributes:
        queue: Where messages go; None where nobody here reads them.
    """

    queue: str | None
    filter_tag: str
    format: str

    def render(self, envelope: Mapping[str, str]) -> str:
        if self.format == "SIMPLIFIED":
            return envelope["Message"]
        if self.format == "JSON":
            return json.dumps(envelope, ensure_ascii=False)
        elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in envelope.items())
        return f'<?xml version="1.0" encoding="utf-8"?><Notification xmlns="{XML_NAMESPACE}">{elements}</Notification>'


def _read_subscription(body: bytes) -> _Subscription:
    document = read_body(body)
    endpoint = document.text_of("Endpoint")
    given_format = document.text_of("NotifyContentFormat") or "XML"
    if not endpoint or given_format not in _FORMATS:
        raise Refused(400, "InvalidArgument", "Endpoint or NotifyContentFormat is not valid.")
    found = _QUEUE.fullmatch(endpoint)
    return _Subscription(found and found[1], document.text_of("FilterTag") or "", given_format)
