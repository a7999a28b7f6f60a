"""
The ``sns`` sink: batches of up to ten events in one PublishBatch, to a standard or a FIFO topic.

Message, attributes, group and deduplication id are those of the ``sqs`` sink, so that a queue that subscribes with raw
message delivery gets what the sink of a queue would have sent.

Source: "PublishBatch", https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html; "Large message payloads",
https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from media_callbacks.model.errors import SinkError
from media_callbacks.sinks.aws import MessageSink
from media_callbacks.sinks.calls import CallEntry


class SnsSink(MessageSink):
    """
    A sink of kind ``sns``.

    Args:
        destination: The ARN of the topic. A name that ends in ``.fifo`` is a FIFO topic, as SNS demands.
    """

    service = "sns"
    body_name = "Message"
    title = "SNS"
    max_bytes = 1_048_576  # one message with its attributes, and a whole call, where the topic's owner allows as much
    usual_bytes = 262_144
    refused_calls = frozenset({"InvalidParameter", "InvalidParameterValue", "Validation", "ValidationError"})
    refused_entries = frozenset({"BatchRequestTooLong"})

    async def put(self, client: Any, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        answer = await client.publish_batch(
            TopicArn=self.destination, PublishBatchRequestEntries=[entry.fields for entry in entries]
        )
        return self.read_batch(answer, entries)
