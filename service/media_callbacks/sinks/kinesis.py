"""
The ``kinesis`` sink: up to 500 events in one PutRecords, the data of a record being the CloudEvent.

The partition key is the subject (its SHA-256 where it is longer than Kinesis allows), so that the events of one job are
in one shard; an event without a subject has its id.

Order: PutRecords writes the records of a call in any order, and goes on after one that failed. So each partition key is
in a call once: its next event follows in the next call, if the one before was written. What this can't promise: an
event that is sent again later comes after what other sends with its partition key have written meanwhile. Events of
one job never overtake each other so, because the dispatcher lets only one of them go at a time; those of different
jobs with one subject may. And one whose answer was lost is written twice: Kinesis does not deduplicate.

Source: "PutRecords", https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from media_callbacks.model.errors import SinkError
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.aws import AwsSink, digest
from media_callbacks.sinks.calls import CallEntry
from media_callbacks.sinks.documents import read_document

MAX_KEY_CHARACTERS = 256


class KinesisSink(AwsSink):
    """
    A sink of kind ``kinesis``.

    Args:
        destination: The stream, by name or ARN.
    """

    service = "kinesis"
    title = "Kinesis"
    max_bytes = (
        10 * 1_048_576
    )  # for all records of a call together, and for one where the stream's owner allows as much
    usual_bytes = 1_048_576
    # For a stream that takes smaller records; either may also mean the stream.
    refused_calls = frozenset({"InvalidArgument", "Validation", "ValidationError"})
    batch_size = 500

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        subject = read_document(delivery)[1].get("subject")
        key = _partition_key(subject) if isinstance(subject, str) and subject else delivery.event_id
        fields = {"Data": delivery.body, "PartitionKey": key}
        return CallEntry(position, fields, len(delivery.body) + len(key.encode()), key)

    def arrange(self, entries: list[CallEntry]) -> Iterable[list[CallEntry]]:
        rounds: list[list[CallEntry]] = []
        seen: dict[str | None, int] = defaultdict(int)
        for entry in entries:
            if seen[entry.group] == len(rounds):
                rounds.append([])
            rounds[seen[entry.group]].append(entry)
            seen[entry.group] += 1
        return rounds

    async def put(self, client: Any, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        answer = await client.put_records(
            Records=[entry.fields for entry in entries],
            **{"StreamARN" if self.destination.startswith("arn:") else "StreamName": self.destination},
        )
        return self.read_results(entries, answer.get("Records", ()), taken="SequenceNumber")


def _partition_key(subject: str) -> str:
    """The subject, or what stands for it where Kinesis does not take it: too long, or half a surrogate pair in it."""
    try:
        subject.encode()
    except UnicodeEncodeError:
        return digest(subject)
    return subject if len(subject) <= MAX_KEY_CHARACTERS else digest(subject)
