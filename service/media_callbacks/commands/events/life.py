"""The life of an event, drawn for people: every receipt, every attempt, with the times between."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from media_callbacks.admin.models.answers import DeliveryItem, EventDetail, ReceiptItem
from media_callbacks.commands.console.output import Piece, style_of
from media_callbacks.model.times import format_time, in_words

# Of format_time with milliseconds; receipts have them, attempts may.
_TIME_WIDTH = 24
_BETWEEN_WIDTH = 14

Line = tuple[Piece, ...]


def draw_life(life: EventDetail, *, now: datetime) -> Iterator[Line]:
    """Each line as pieces with their styles."""
    event = life.event or {}
    data = event.get("data") if isinstance(event.get("data"), dict) else {}
    yield ((life.id, "bold"), "  ", (str(event.get("type", "")), "bold"))
    yield (f"accepted {format_time(life.accepted_at)}, {in_words(now - life.accepted_at)} ago", *_of_job(data or {}))
    if life.erased_at is not None:
        yield ((f"erased at {format_time(life.erased_at)}, with the bodies of its receipts", "yellow"),)
    if event and data and isinstance(data.get("error"), dict):
        error = data["error"]
        yield ("the job failed: ", (f"{error.get('code')}: {error.get('message')}", "yellow"))
    yield ()
    yield (("receipts", "bold"),)
    before: datetime | None = None
    for receipt in life.receipts:
        yield from _draw_receipt(receipt, before)
        before = receipt.received_at
    if not life.receipts:
        yield ("  none any more: the retention period is over",)
    for delivery in life.deliveries:
        yield ()
        is_latest = not any(other.sink == delivery.sink and other.replay > delivery.replay for other in life.deliveries)
        yield from _draw_delivery(delivery, life, now, is_latest=is_latest)
    if not life.deliveries:
        yield ()
        yield (("deliveries", "bold"),)
        if life.is_routed:
            yield ("  none any more: the retention period is over",)
        else:
            yield (("  none: unrouted, no sink was meant to get this event. ", "yellow"),)
            yield (f"  to send it: media-callbacks events replay {life.id} --to-sink NAME",)
    yield ()
    yield (("event", "bold"),)
    if life.event is None:
        why = "the retention period is over" if life.erased_at is None else "it was erased"
        yield (f"  not there any more: {why}",)
    else:
        for line in json.dumps(life.event, indent=2, ensure_ascii=False).splitlines():
            yield (f"  {line}",)


def _of_job(data: dict[str, Any]) -> Line:
    named = [(label, data.get(name)) for label, name in (("job", "job_id"), ("media", "media_id"))]
    return (
        *(f", {label} {value}" for label, value in named if value is not None),
        *((f", revision {data['revision']}",) if data.get("revision", 1) != 1 else ()),
    )


def _when(moment: datetime, before: datetime | None) -> str:
    between = "" if before is None else f"+{in_words(max(moment - before, timedelta()))}"
    return f"  {format_time(moment):<{_TIME_WIDTH}}  {between:<{_BETWEEN_WIDTH}}  "


def _draw_receipt(receipt: ReceiptItem, before: datetime | None) -> Iterator[Line]:
    yield (
        (_when(receipt.received_at, before)),
        (receipt.state, style_of(receipt.state)),
        f"  through {receipt.source} ({receipt.transport}), verified by {receipt.verified_by}",
        f": {receipt.reason}" if receipt.reason else "",
    )
    for warning in receipt.warnings:
        yield (f"{'':{_TIME_WIDTH + _BETWEEN_WIDTH + 6}}", (f"not understood: {warning}", "yellow"))


def _draw_delivery(delivery: DeliveryItem, life: EventDetail, now: datetime, *, is_latest: bool) -> Iterator[Line]:
    replay = f", replay {delivery.replay}" if delivery.replay else ""
    attempts = f", {delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    yield (
        (f"to {delivery.sink}{replay}: ", "bold"),
        (delivery.state, f"bold {style_of(delivery.state)}"),
        attempts if delivery.attempts else "",
    )
    # A replay begins whenever it is asked for; the time since acceptance says nothing about it.
    before = None if delivery.replay else life.accepted_at
    for attempt in delivery.history:
        yield (
            _when(attempt.started_at, before),
            (attempt.result, style_of(attempt.result)),
            f"  attempt {attempt.number}, {in_words(timedelta(seconds=attempt.duration_s))}",
            f": {attempt.error}" if attempt.error else "",
        )
        before = attempt.started_at
    if delivery.error and not any(attempt.error == delivery.error for attempt in delivery.history[-1:]):
        yield ("  because: ", delivery.error)
    if delivery.state == "parked":
        yield (f"  waits until the sink is resumed: media-callbacks sinks resume {delivery.sink}",)
    elif delivery.state == "dead":
        again = f"to send it again: media-callbacks events replay {life.id} --to-sink {delivery.sink}"
        further = again if is_latest else "sent again since"
        if life.erased_at is not None:
            further = "what it said was erased"
        yield (f"  given up {format_time(delivery.changed_at)}; {further}",)
    elif delivery.state in ("pending", "retrying"):
        if delivery.due_at is None:
            yield ("  next attempt: one is under way, or an earlier outcome of the job goes first",)
        elif delivery.due_at <= now:
            due = f"due since {format_time(delivery.due_at)}, {in_words(now - delivery.due_at)}"
            yield (f"  {due}; what holds it back: media-callbacks sinks list",)
        else:
            yield (f"  next attempt {format_time(delivery.due_at)}, in {in_words(delivery.due_at - now)}",)
