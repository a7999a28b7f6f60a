"""
The ``sqs`` sink: batches of up to ten events in one SendMessageBatch, to a standard or a FIFO queue.

Source: "SendMessageBatch", https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html;
"Amazon SQS message quotas",
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from media_callbacks.model.errors import SinkError
from media_callbacks.sinks.aws import MessageSink
from media_callbacks.sinks.calls import CallEntry


class SqsSink(MessageSink):
    """
    A sink of kind ``sqs``.

    Args:
        destination: The URL of the queue. A name that ends in ``.fifo`` is a FIFO queue, as SQS demands.
    """

    service = "sqs"
    body_name = "MessageBody"
    title = "SQS"
    max_bytes = 1_048_576  # one message with its attributes, and a whole call (documented; 262144 until August 2025)
    usual_bytes = 262_144
    # What speaks of the message itself. All else (KMS, throttling, access) may pass, whosever fault SQS calls it.
    # For a whole call InvalidParameterValue may also mean the queue and not the message.
    refused_calls = frozenset({"InvalidMessageContents", "InvalidParameterValue", "InvalidAttributeValue"})
    refused_entries = frozenset({"BatchRequestTooLong", "InvalidMessageContents"})

    async def put(self, client: Any, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        answer = await client.send_message_batch(QueueUrl=self.destination, Entries=[entry.fields for entry in entries])
        return self.read_batch(answer, entries)
