"""What happened to a job, as one list in the order of time, in plain sentences."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from media_callbacks.admin.models import TimelineItem, TimelineWord
from media_callbacks.inbox.records import AnswerRecord, EventRecord, JobLife, JobRecord, ReceiptRecord
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
        yield from _of_event(event)
    for replay in life.replays:
        by = f" by {replay.request.requested_by}" if replay.request.requested_by else ""
        why = f": {replay.request.reason}" if replay.request.reason else ""
        yield _Entry(replay.created_at, "replayed", f"replay {replay.id} was asked for{by}{why}")


def _of_job(job: JobRecord, now: datetime) -> Iterator[_Entry]:
    reference = job.reference
    name = f"{reference.product} {reference.family} of account {reference.account}"
    by = f" by {job.requested_by}" if job.requested_by else ""
    token = f" with a token of {job.token}" if job.token else ""
    due = f"; the vendor is asked from {format_time(job.deadline_at)} on"
    yield _Entry(job.registered_at, "registered", f"registered as {name}{by}{token}{due}")
    if job.deadline_at <= now and (job.ended_at is None or job.deadline_at < job.ended_at):
        yield _Entry(job.deadline_at, "overdue", f"its deadline as {name} was over, and no end was told")
    if job.ended_at is not None:
        how = f"{job.outcome} by {job.transport or 'an event that is gone'}" if job.outcome else "given up"
        yield _Entry(job.ended_at, "ended", f"ended as {name}, {job.state}: {how}")


def _tell_receipt(receipt: ReceiptRecord) -> str:
    text = f"receipt {receipt.id} came through {receipt.source} ({receipt.transport}, verified by"
    text += f" {receipt.verified_by}): {receipt.state}"
    return f"{text}, {receipt.reason}" if receipt.reason else text


def _tell_answer(answer: AnswerRecord) -> str:
    why = "expected and overdue" if answer.reason == "expected" else f"held, to {answer.reason} it"
    text = f"the vendor was asked, time {answer.attempt} ({why}): {answer.result}, so {answer.decision}"
    return f"{text}; {answer.detail}" if answer.detail else text


def _of_event(event: EventRecord) -> Iterator[_Entry]:
    text = f"accepted as media.{event.kind}.{event.outcome} ({event.id})"
    text += f", revision {event.revision}" if event.revision > 1 else ""
    yield _Entry(event.accepted_at, "accepted", text + ("" if event.is_routed else "; no sink was meant to get it"))
    for delivery in event.deliveries:
        replay = f", replay {delivery.replay}" if delivery.replay else ""
        for attempt in delivery.history:
            error = f": {attempt.error}" if attempt.error else ""
            text = f"attempt {attempt.number} to deliver {event.outcome} to {delivery.sink}{replay}: {attempt.result}"
            yield _Entry(attempt.started_at, "attempted", text + error)
    if event.erased_at is not None:
        yield _Entry(event.erased_at, "erased", f"the content of {event.id} was erased")
