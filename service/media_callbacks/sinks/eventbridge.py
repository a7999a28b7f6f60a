"""
The ``eventbridge`` sink: up to ten events in one PutEvents.

``Source`` is ``media-callbacks``, ``DetailType`` the event's type, ``Detail`` the whole CloudEvent. ``Time`` is left to
EventBridge, whose archives are kept and replayed by it: the vendor's time is in the CloudEvent. EventBridge promises no
order.

Source: "PutEvents", https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html; "Calculating
PutEvents event entry size", https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from media_callbacks.model.errors import SinkError, SinkRejected
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.aws import AwsSink
from media_callbacks.sinks.calls import CallEntry
from media_callbacks.sinks.documents import read_document

SOURCE = "media-callbacks"
MAX_DETAIL_TYPE_CHARACTERS = 128


class EventBridgeSink(AwsSink):
    """
    A sink of kind ``eventbridge``.

    Args:
        destination: The event bus, by name or ARN.
    """

    service = "events"
    title = "EventBridge"
    max_bytes = 1_048_575  # "less than 1 MB" for all entries of a call together (documented; 256 KB before)
    usual_bytes = 262_143
    refused_calls = frozenset({"Validation", "ValidationError", "RequestEntityTooLarge"})

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        detail, document = read_document(delivery)
        detail_type = document.get("type")
        if not isinstance(detail_type, str) or not 0 < len(detail_type) <= MAX_DETAIL_TYPE_CHARACTERS:
            raise SinkRejected(f"the stored event has no type of 1 to {MAX_DETAIL_TYPE_CHARACTERS} characters")
        fields = {
            "Source": SOURCE,
            "DetailType": detail_type,
            "Detail": detail,
            "EventBusName": self.destination,
        }
        # As EventBridge counts: without the bus.
        return CallEntry(position, fields, len(SOURCE) + len(detail_type.encode()) + len(delivery.body))

    async def put(self, client: Any, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        answer = await client.put_events(Entries=[entry.fields for entry in entries])
        return self.read_results(entries, answer.get("Entries", ()), taken="EventId", bad_entry="MalformedDetail")
