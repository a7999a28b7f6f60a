"""What happened to a job, as one list in the order of time, in plain sentences."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from media_callbacks.admin.models.answers import TimelineItem, TimelineWord
from media_callbacks.inbox.records import AnswerRecord, DeliveryRecord, EventRecord, JobLife, JobRecord, ReceiptRecord
from media_callbacks.model.times import format_time

_MAX_CHARACTERS = 500
# What happened in the same millisecond happened in this order.
_ORDER: tuple[TimelineWord, ...] = (
    "registered",
    "received",
    "held",
    "overdue",
    "asked",
    "accepted",
    "ended",
    "replayed",
    "attempted",
    "erased",
)


class _Entry(NamedTuple):
    at: datetime
    what: TimelineWord
    text: str


def build_timeline(life: JobLife) -> tuple[TimelineItem, ...]:
    entries = sorted(_entries(life), key=lambda entry: (entry.at, _ORDER.index(entry.what)))
    items = []
    before: datetime | None = None
    for at, what, text in entries:
        shown = text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
        after_s = None if before is None else round((at - before).total_seconds(), 3)
        items.append(TimelineItem(at=at, what=what, text=shown, after_s=after_s))
        before = at
    return tuple(items)


def _entries(life: JobLife) -> Iterator[_Entry]:
    for job in life.jobs:
        yield from _of_job(job, life.now)
    for receipt in life.receipts:
        yield _Entry(receipt.received_at, "received", _tell_receipt(receipt))
    for held in life.held:
        text = f"{held.type} of receipt {held.receipt_id} waits for the vendor's word"
        text += f" (to {held.reason} it), until {format_time(held.until)} in most cases"
        yield _Entry(held.held_at, "held", text)
    for answer in life.answers:
        yield _Entry(answer.answered_at, "asked", _tell_answer(answer))
    for event in life.events:
        yield from _of_event(event, prefix=f"{_type(event)}: " if len(life.events) > 1 else "")
    for replay in life.replays:
        by = f" by {replay.request.requested_by}" if replay.request.requested_by else ""
        why = f": {replay.request.reason}" if replay.request.reason else ""
        yield _Entry(replay.created_at, "replayed", f"replay {replay.id} was asked for{by}{why}")


def _of_job(job: JobRecord, now: datetime) -> Iterator[_Entry]:
    reference = job.reference
    name = f"{reference.product} {reference.family} of account {reference.account}"
    by = f" by {job.requested_by}" if job.requested_by else ""
    token = f" (let in by {job.token})" if job.token else ""
    due = f"; the vendor is asked from {format_time(job.deadline_at)} on"
    said = f"; user data: {job.user_data}" if job.user_data else ""
    yield _Entry(job.registered_at, "registered", f"registered as {name}{by}{token}{due}{said}")
    if job.deadline_at <= now and (job.ended_at is None or job.deadline_at < job.ended_at):
        yield _Entry(job.deadline_at, "overdue", f"its deadline as {name} was over, and no end was told")
    if job.ended_at is not None:
        yield _Entry(job.ended_at, "ended", f"ended as {name}: {_tell_end(job)}")


def _tell_end(job: JobRecord) -> str:
    if not job.outcome:
        return "given up, because no callback came and the vendor knows nothing"
    if job.state == "healed":
        return f"{job.outcome}, as the vendor said when it was asked"
    return f"{job.outcome}, as was told by {job.transport or 'an event that is gone'}"


def _tell_receipt(receipt: ReceiptRecord) -> str:
    text = f"receipt {receipt.id} came through {receipt.source} ({receipt.transport}, verified by"
    text += f" {receipt.verified_by}): {receipt.state}"
    return f"{text}, {receipt.reason}" if receipt.reason else text


def _tell_answer(answer: AnswerRecord) -> str:
    why = "expected and overdue" if answer.reason == "expected" else f"held, to {answer.reason} it"
    text = f"the vendor was asked, time {answer.attempt} ({why}): {answer.result}, so {answer.decision}"
    return f"{text}; {answer.detail}" if answer.detail else text


def _type(event: EventRecord) -> str:
    return f"media.{event.kind}.{event.outcome}"


def _of_event(event: EventRecord, *, prefix: str) -> Iterator[_Entry]:
    """Args: prefix: Tells it from others, where there are any."""
    text = f"accepted as {_type(event)} ({event.id})"
    text += f", revision {event.revision}" if event.revision > 1 else ""
    error = None if event.body is None else json.loads(event.body)["data"].get("error")
    text += f": {': '.join(filter(None, (error['code'], error['message'])))}" if error else ""
    yield _Entry(event.accepted_at, "accepted", text + ("" if event.is_routed else "; no sink was meant to get it"))
    for delivery in event.deliveries:
        for at, told in tell_delivery(delivery):
            yield _Entry(at, "attempted", prefix + told)
    if event.erased_at is not None:
        yield _Entry(event.erased_at, "erased", f"the content of {event.id} was erased")


def tell_delivery(delivery: DeliveryRecord) -> Iterator[tuple[datetime, str]]:
    replay = f", replay {delivery.replay}" if delivery.replay else ""
    for attempt in delivery.history:
        told = _tell_attempt(delivery.sink, attempt.result, attempt.error, f"attempt {attempt.number}{replay}")
        is_last = attempt is delivery.history[-1]
        if is_last and attempt.result == "retrying" and delivery.due_at is not None:
            told += f"; next {format_time(delivery.due_at)}"
        yield attempt.started_at, told
    if delivery.attempts and not delivery.history and delivery.state in ("delivered", "dead"):
        times = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}, not kept any more{replay}"
        yield delivery.changed_at, _tell_attempt(delivery.sink, delivery.state, delivery.error, times)


def _tell_attempt(sink: str, result: str, error: str | None, which: str) -> str:
    why = f": {error}" if error else ""
    match result:
        case "delivered":
            return f"delivered to {sink} ({which})"
        case "interrupted":
            return f"interrupted while it was sent to {sink}{why} ({which})"
        case "late":
            return f"sent to {sink}, and recorded too late to count{why} ({which})"
        case "dead":
            return f"{sink} did not take it{why} ({which}); given up"
    return f"{sink} did not take it{why} ({which})"
