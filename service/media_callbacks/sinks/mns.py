"""
The ``mns-queue`` and ``mns-topic`` sinks: Simple Message Queue (formerly MNS), in batches of up to 16 events to a
queue, one by one to a topic.

The body is the CloudEvent in Base64, as the vendor recommends and its clients decode. A message of a topic has the
event's kind as its tag, for subscriptions with a filter. Neither promises an order or takes a message once.

Source: "Limits", https://www.alibabacloud.com/help/en/mns/product-overview/limits; see ``aliyun.mns_sending``.
"""

import base64

from media_callbacks.model.events import Delivery
from media_callbacks.sinks.aliyun import AliyunSink
from media_callbacks.sinks.calls import CallEntry
from media_callbacks.sinks.documents import read_document

# The longest kind has fewer; a tag that is longer would be refused.
_MAX_TAG_CHARACTERS = 16


class MnsQueueSink(AliyunSink):
    """A sink of kind ``mns-queue``."""

    title = "MNS"
    max_bytes = 65_536  # of one body in Base64, and of all in a call (documented)
    usual_bytes = 1_024  # the least that an owner can set
    # "The value of Element should be between Low and High bytes" (documented): there is nothing else in a message.
    refused_events = frozenset({"InvalidArgument"})
    batch_size = 16

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        body = base64.b64encode(delivery.body).decode()
        return CallEntry(position, {"MessageBody": body}, len(body))


class MnsTopicSink(MnsQueueSink):
    """A sink of kind ``mns-topic``."""

    batch_size = 1

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        entry = super().build_entry(position, delivery)
        data = read_document(delivery)[1].get("data")
        kind = data.get("kind") if isinstance(data, dict) else None
        if isinstance(kind, str) and 0 < len(kind) <= _MAX_TAG_CHARACTERS:
            entry.fields["MessageTag"] = kind
        return entry
