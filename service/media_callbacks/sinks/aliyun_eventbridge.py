"""
The ``aliyun-eventbridge`` sink: up to sixteen events in one PutEvents of Alibaba Cloud's EventBridge.

An event is the CloudEvent as it is, with the bus in the extension ``aliyuneventbusname``. EventBridge promises no
order, and takes an event that comes again under the same id.

Source: "Limits", https://www.alibabacloud.com/help/en/eventbridge/product-overview/limits: 256 KB an event, 16 events
and 1 MB a request. "PutEvents" beside it has 64 KB and 256 KB, so no request is larger than that, and an event that is
refused for its size above 64 KB is so for ever. How sizes are counted is documented nowhere; here it is as sent.
The limits let ids have letters, digits and hyphens alone, while all of ours have an underscore: neither the vendor's
SDK nor its open-source twin looks at that (inferred that the service does not, either).
"""

import json

from media_callbacks.model.events import Delivery
from media_callbacks.sinks.aliyun import AliyunSink, Client
from media_callbacks.sinks.calls import CallEntry
from media_callbacks.sinks.documents import read_document

BUS_EXTENSION = "aliyuneventbusname"


class AliyunEventBridgeSink(AliyunSink):
    """
    A sink of kind ``aliyun-eventbridge``.

    Args:
        bus: Its name, which goes into every event.
    """

    title = "EventBridge"
    max_bytes = 262_143  # and a bracket
    usual_bytes = 65_536
    size_key = "the size of a single event"
    refused_events = frozenset(
        {
            "EventExtensionsAttributeExceedLimit",
            "EventInvalid",
            "EventSchemaInvalid",
            "EventSizeExceed",
            "EventSourceInvalid",
            "EventSubjectInvalid",
            "EventTypeInvalid",
            "JsonAttributeInvalid",
        }
    )
    batch_size = 16

    def __init__(self, name: str, client: Client, bus: str, *, timeout_s: float = 15.0, concurrency: int = 4) -> None:
        super().__init__(name, client, timeout_s=timeout_s, concurrency=concurrency)
        self._bus = bus

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        text, document = read_document(delivery)
        # Before all else: the rest stays as it was stored, byte for byte.
        member = f"{json.dumps(BUS_EXTENSION)}:{json.dumps(self._bus)}"
        event = f"{{{member}{',' if document else ''}{text.lstrip()[1:]}"
        # One byte for what is between two events.
        return CallEntry(position, {"id": delivery.event_id, "event": event}, len(event.encode()) + 1)
