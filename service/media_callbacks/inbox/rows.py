"""What is written to rows of both databases, and read of them: times, ids, receipts, deliveries."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, overload

from pydantic_core import to_json

from media_callbacks.model.events import Delivery
from media_callbacks.model.identity import numbered_event_id
from media_callbacks.model.receipts import Receipt

_MAX_ID = 2**63 - 1
_MAX_COLUMN_CHARACTERS = 1000
# As inbox/sql/004_operating has them.
NAME_SPAN_BITS = 14
START_CHARACTERS = 256
# What objects take, beside their texts (measured, rounded up).
_RECEIPT_BYTES = 1024
_EVENT_BYTES = 2048
_VALUE_BYTES = 64


def to_milliseconds(moment: datetime) -> int:
    # A millisecond in floating point is up to 0.0003 short.
    return int(moment.timestamp() * 1000 + 0.0005)


def to_id(number: int | None) -> int:
    """A number of a row as given by a caller, within what the databases count to; the highest for none."""
    return _MAX_ID if number is None else max(-1, min(number, _MAX_ID))


def from_milliseconds(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def size_bytes(receipt: Receipt) -> int:
    """
    About what a receipt takes in memory, which is also about what it gives to write: it may be five hundred times what
    was received.
    """
    size = _RECEIPT_BYTES + len(receipt.body)
    for entry in receipt.entries:
        body = entry.body
        # Once in JSON, once as what that was made of.
        size += _EVENT_BYTES + 2 * len(body)
        if len(body) > _EVENT_BYTES:
            size += _VALUE_BYTES * (body.count(b",") + body.count(b"[") + body.count(b"{"))
    return size


def to_column(text: str | None) -> str | None:
    """An id in a list of events: as much as can be asked for. All of it is in the event, and hashed in its key."""
    return text and text[:_MAX_COLUMN_CHARACTERS]


@overload
def whole_characters(text: str) -> str: ...


@overload
def whole_characters(text: str | None) -> str | None: ...


def whole_characters(text: str | None) -> str | None:
    """A text of ours with U+FFFD for half a character, which no database takes: sinks of others may raise anything."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def user_data_start(text: str) -> str:
    """What is kept of user data to find events by: its beginning, as it is written in JSON, where nothing is lost."""
    return to_json(whole_characters(text)).decode()[1:-1][:START_CHARACTERS]


def spans_down_to(first: str) -> str:
    """The spans of ids in which events are found by what begins a media id or user data, from the newest one on."""
    return (
        f"WITH RECURSIVE spans (n) AS (SELECT (SELECT coalesce(max(id), 0) FROM events) >> {NAME_SPAN_BITS} UNION ALL"
        f" SELECT n - 1 FROM spans WHERE n > {first})"
    )


def delivery_of(row: Sequence[Any], sink: str, lease: str) -> Delivery:
    """A claimed delivery: event, replay, attempts so far, and of the event key digest, outcome and body."""
    row_id, replay, attempts, digest, outcome, body = row
    return Delivery(row_id, sink, numbered_event_id(digest, outcome), body.encode(), attempts + 1, lease, replay)
