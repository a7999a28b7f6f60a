"""
The ``sqs`` sink: batches of up to ten events in one SendMessageBatch, to a standard or a FIFO queue.

Source: "SendMessageBatch", https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html;
"Amazon SQS message quotas",
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from media_callbacks.model.errors import SinkError
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.aws import AwsSink, CallEntry, build_message, read_batch

# Codes that speak of the message itself. All others (KMS, throttling, access) may pass, whosever fault SQS calls them.
_BAD_MESSAGE = frozenset({"InvalidMessageContents", "InvalidParameterValue", "InvalidAttributeValue"})


class SqsSink(AwsSink):
    """
    A sink of kind ``sqs``.

    Args:
        queue_url: A name that ends in ``.fifo`` is a FIFO queue, as SQS demands.
        options: Those of AwsSink.
    """

    service = "sqs"
    title = "SQS"
    max_bytes = 1_048_576  # one message with its attributes, and a whole call (documented; 262144 until August 2025)
    usual_bytes = 262_144
    # For a whole call InvalidParameterValue may also mean the queue and not the message.
    refused_calls = _BAD_MESSAGE
    refused_entries = frozenset({"BatchRequestTooLong", "InvalidMessageContents"})

    def __init__(
        self, name: str, queue_url: str, region: str | None = None, endpoint_url: str | None = None, **options: Any
    ) -> None:
        super().__init__(name, region, endpoint_url, **options)
        self._queue_url = queue_url
        self._fifo = queue_url.endswith(".fifo")

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        fields, size_bytes = build_message(delivery, body_name="MessageBody", fifo=self._fifo)
        return CallEntry(position, {"Id": str(position), **fields}, size_bytes, fields.get("MessageGroupId"))

    async def put(self, client: Any, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        answer = await client.send_message_batch(QueueUrl=self._queue_url, Entries=[entry.fields for entry in entries])
        return read_batch(answer, entries, title=self.title, bad_messages=_BAD_MESSAGE)
