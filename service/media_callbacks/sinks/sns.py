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
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.aws import AwsSink, CallEntry, build_message, read_batch, region_of

# Codes that speak of the message itself, where SNS gives them for an entry and calls it the sender's fault.
_BAD_MESSAGE = frozenset({"InvalidParameter", "InvalidParameterValue", "Validation", "ValidationError"})


class SnsSink(AwsSink):
    """
    A sink of kind ``sns``.

    Args:
        topic_arn: A name that ends in ``.fifo`` is a FIFO topic, as SNS demands. Its region is taken where none is
            given.
        options: Those of AwsSink.
    """

    service = "sns"
    title = "SNS"
    max_bytes = 1_048_576  # one message with its attributes, and a whole call, where the topic's owner allows as much
    usual_bytes = 262_144
    refused_calls = _BAD_MESSAGE
    refused_entries = frozenset({"BatchRequestTooLong"})

    def __init__(
        self, name: str, topic_arn: str, region: str | None = None, endpoint_url: str | None = None, **options: Any
    ) -> None:
        super().__init__(name, region or region_of(topic_arn), endpoint_url, **options)
        self._topic_arn = topic_arn
        self._fifo = topic_arn.endswith(".fifo")

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        fields, size_bytes = build_message(delivery, body_name="Message", fifo=self._fifo)
        return CallEntry(position, {"Id": str(position), **fields}, size_bytes, fields.get("MessageGroupId"))

    async def put(self, client: Any, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        answer = await client.publish_batch(
            TopicArn=self._topic_arn, PublishBatchRequestEntries=[entry.fields for entry in entries]
        )
        return read_batch(answer, entries, title=self.title, bad_messages=_BAD_MESSAGE)
