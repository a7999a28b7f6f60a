"""
What an answer of the vendor, or the lack of one, means for what was asked about. Pure: time and chance are arguments.

Expected jobs whose deadline is over: an end is emitted; everything else is asked again, at growing intervals, until it
is given up on with outcome ``unknown``. A job that is said to be under way has more time.

Held events: the vendor's word decides. What its answer names wins over the message. The rest of a message stays, proven
as the message is, unless nobody has signed it: then it is left out. Another outcome, asset or user data than the
vendor's is a contradiction: the message goes nowhere, and the answer leaves instead.

What the vendor can say nothing about leaves after the source's time-out, as it came. While the vendor's API only fails
for the moment, events that nobody has signed wait on, because whoever knows a minted URL could have made them, and so
does what contradicts an outcome that the vendor has confirmed before, which never leaves unanswered; other signed ones
leave.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from media_callbacks.healing.queries import unknown
from media_callbacks.healing.queries.base import Family, JobAnswer, QuerySource
from media_callbacks.inbox.records import AskResult, Decision, Finding, Inquiry
from media_callbacks.model.errors import VendorError, VendorUnavailable
from media_callbacks.model.events import Event, EventData, EventError
from media_callbacks.model.kinds import VerifiedBy
from media_callbacks.model.outputs import Frozen
from media_callbacks.model.receipts import Receipt
from media_callbacks.sources.base import TRACEPARENT, Message
from media_callbacks.sources.intake import Route, build_receipt
from media_callbacks.timing.retry import backoff_s

# Of held events: the vendor's state may lag behind its callback by a moment (observed with play info).
HOLD_RETRY_S = 2.0
MAX_HOLD_RETRY_S = 300.0
MAX_RETRY_S = 3600.0
# How often the vendor is asked for a result that it could not give beside how the job ended.
RESULT_ATTEMPTS = 4
# How many times longer a job that is under way is waited for, before it is given up.
PENDING_PATIENCE = 7
_JITTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """
    Attributes:
        retry_s: Before an expected job is asked about for the second time; twice as long before each further time.
        give_up_s: After the deadline of an expected job, or after the time-out of a held event, in all.
    """

    retry_s: float
    give_up_s: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    Attributes:
        result: What the vendor said, in one word.
        decision: What follows, in one word.
        detail: For the operator: nothing of a body, no parameters.
        is_corrected: What leaves says otherwise than the message did, as the vendor says it.
    """

    finding: Finding
    result: AskResult
    decision: Decision
    detail: str | None = None
    is_corrected: bool = False


def conclude(
    inquiry: Inquiry,
    answer: JobAnswer | VendorError,
    *,
    family: Family | None,
    source: QuerySource,
    now: datetime,
    jitter: float,
    patience: Patience,
    route: Route,
    traceparent: str | None = None,
) -> Judgement:
    """
    Args:
        answer: An error where there is none.
        family: None for one that can't be expected (of a held event).
        source: What answers are read as.
        jitter: From 0 to 1, by chance.
        traceparent: The trace that begins with what the vendor says; None where none does.
    """
    tells_parts = family is None or family.tells_parts
    result, detail = _result(answer), str(answer) if isinstance(answer, VendorError) else answer.detail
    if isinstance(answer, JobAnswer) and answer.lacks_result and _may_ask_for_result(inquiry, now):
        first_s = patience.retry_s if inquiry.event is None else HOLD_RETRY_S
        again_at = now + _delay(first_s, MAX_RETRY_S, inquiry.attempt, jitter)
        return Judgement(Finding(inquiry=inquiry, ask_again_at=again_at), result, "again", detail)
    if isinstance(answer, JobAnswer) and answer.state == "ended":
        receipt = _receipt(inquiry, answer, source, now=now, route=route, traceparent=traceparent)
        if not receipt.entries:
            result, detail = "unreadable", receipt.reason
        elif inquiry.event is None:
            finding = Finding(inquiry=inquiry, receipt=receipt, notification=answer.notification)
            return Judgement(finding, result, "ended", detail)
        elif family is not None and family.is_of_asset:
            return _judge_asset(inquiry, inquiry.event, receipt)
        elif (said := _said_of(inquiry.event, receipt)) is None:
            result, detail = "unlearnable", "the vendor says how the job ended, and nothing of what the message tells"
        elif not tells_parts and (inquiry.event.data.outcome, said.data.outcome) == ("partial", "succeeded"):
            detail = "the vendor says that the whole succeeded, and nothing of its parts"
            # Nor does it refute anything that it has said so before.
            silent = replace(inquiry, confirmed=inquiry.confirmed - {"succeeded"})
            return _judge_undecided(
                silent, inquiry.event, "unlearnable", detail, now=now, jitter=jitter, patience=patience
            )
        else:
            return _judge_ended(inquiry, inquiry.event, said, receipt, detail)
    if inquiry.event is not None:
        return _judge_undecided(inquiry, inquiry.event, result, detail, now=now, jitter=jitter, patience=patience)
    again_at = now + _delay(patience.retry_s, MAX_RETRY_S, inquiry.attempt, jitter)
    limit_s = patience.give_up_s * (PENDING_PATIENCE if result == "pending" else 1)
    give_up_at = inquiry.since + timedelta(seconds=limit_s)
    if now < give_up_at:
        # Where asking can't help, once more at the end is enough.
        can_help = family is not None and family.batch > 0
        finding = Finding(inquiry=inquiry, ask_again_at=min(again_at, give_up_at) if can_help else give_up_at)
        return Judgement(finding, result, "again", detail)
    reason = _REASONS[result] if detail is None else f"{_REASONS[result]}: {detail}"
    # A family that a later version had registered: of all kinds this one says least about what there should be.
    kind = "ai" if family is None else family.kind
    given_up = unknown.give_up(inquiry.reference, kind, reason)
    receipt = _receipt(inquiry, given_up, source, now=now, route=route, traceparent=traceparent)
    return Judgement(Finding(inquiry=inquiry, receipt=receipt), result, "given_up", detail)


_REASONS = {
    "pending": "the vendor says that the job has not ended",
    "not_found": "the vendor knows no such job",
    "unlearnable": "the vendor offers no way to learn how the job ended",
    "foreign": "the task id belongs to another task than the URL was minted for",
    "unavailable": "the vendor's job API could not be asked",
    "refused": "the vendor's job API refused the question",
    "unreadable": "the vendor's answer could not be read",
}


def _result(answer: JobAnswer | VendorError) -> AskResult:
    if isinstance(answer, JobAnswer):
        return answer.state
    return "unavailable" if isinstance(answer, VendorUnavailable) else "refused"


def _receipt(
    inquiry: Inquiry,
    answer: JobAnswer,
    source: QuerySource,
    *,
    now: datetime,
    route: Route,
    traceparent: str | None,
) -> Receipt:
    meta = {**answer.meta, **source.meta}
    if inquiry.user_data is not None:
        meta["user_data"] = inquiry.user_data
    if traceparent is not None:
        meta[TRACEPARENT] = traceparent
    # What we say ourselves, nobody has confirmed.
    verified_by: VerifiedBy = "none" if meta.get("action") == unknown.ACTION else "query"
    message = Message(answer.body, answer.body, verified_by, meta=meta)
    return build_receipt(source, message, received_at=now, route=route)


def _may_ask_for_result(inquiry: Inquiry, now: datetime) -> bool:
    return inquiry.attempt < RESULT_ATTEMPTS and (inquiry.until is None or now < inquiry.until)


def _delay(first_s: float, longest_s: float, attempt: int, jitter: float) -> timedelta:
    delay_s = backoff_s(attempt, first_s=first_s, longest_s=longest_s)
    return timedelta(seconds=delay_s * (1 + _JITTER * (2 * jitter - 1)))


# Held events


def _is_unsigned(event: Event) -> bool:
    return event.data.verified_by in ("none", "token")


def _said_of(held: Event, receipt: Receipt) -> Event | None:
    """
    What an answer says of what a message tells. Of several completions, the streams of a task for example, it is the
    one with the same identity; anything else of the same job is something else, unless the message named no job.
    """
    told = [entry.event for entry in receipt.entries]
    same = next((event for event in told if event.id[:-2] == held.id[:-2]), None)
    return told[-1] if same is None and held.data.job_id is None else same


def _judge_ended(inquiry: Inquiry, held: Event, said: Event, receipt: Receipt, detail: str | None) -> Judgement:
    """The vendor says how the job ended."""
    words = _contradiction(held, said)
    if words is None:
        released = _merge(held, said, answered_at=receipt.received_at)
        decision: Decision = "confirmed" if inquiry.reason == "confirm" else "enriched"
        finding = Finding(inquiry=inquiry, release=released)
        is_corrected = not _survives(held.data, released.data)
        return Judgement(finding, "ended", decision, detail, is_corrected=is_corrected)
    if inquiry.reason == "enrich":
        # Not asked for a second opinion: what came stays as it came.
        return Judgement(Finding(inquiry=inquiry, release=held), "ended", "unconfirmed", detail)
    finding = Finding(inquiry=inquiry, receipt=receipt, conflict=words)
    return Judgement(finding, "ended", "contradicted", words)


def _judge_asset(inquiry: Inquiry, held: Event, receipt: Receipt) -> Judgement:
    """
    The vendor says what is the case with an asset. What it says of it wins; but that something has happened to it, or
    has happened again, it does not say, so nothing is better proven than before, and nothing is refused.
    """
    said = receipt.entries[-1].event
    released = held
    if said.data.outcome == held.data.outcome and _contradiction(held, said) is None:
        released = _merge(held, said, answered_at=receipt.received_at)
        proof = {name: getattr(held.data, name) for name in ("verified_by", "outcome_verified_by")}
        released = released.model_copy(update={"time": held.time, "data": released.data.model_copy(update=proof)})
    detail = "what the vendor says of an asset does not prove that something has happened to it"
    return Judgement(Finding(inquiry=inquiry, release=released), "ended", "unconfirmed", detail)


def _contradiction(held: Event, said: Event) -> str | None:
    """What the vendor says otherwise, in a sentence; None where it agrees with all that it names."""
    claimed, told = held.data, said.data
    # Of an unknown outcome nothing is claimed: the vendor's word is what the message was about.
    claims_nothing = claimed.outcome == "unknown" and said.id[:-2] == held.id[:-2]
    if claimed.outcome != told.outcome and not claims_nothing:
        return f"the message says {claimed.outcome}, the vendor's job API says {told.outcome}"
    if None not in (claimed.media_id, told.media_id) and claimed.media_id != told.media_id:
        return "the message names another media id than the vendor's job API"
    if None not in (claimed.user_data, told.user_data) and not _is_same_text(claimed.user_data, told.user_data):
        return "the message has other user data than the vendor's job API"
    return None


def _is_same_text(one: str | None, other: str | None) -> bool:
    """What a submitter wrote; blanks, order and escapes of JSON are not the submitter's alone."""
    try:
        return one == other or bool(json.loads(one or "") == json.loads(other or ""))
    except (ValueError, RecursionError):
        return (one or "").strip() == (other or "").strip()


def _judge_undecided(
    inquiry: Inquiry,
    held: Event,
    result: AskResult,
    detail: str | None,
    *,
    now: datetime,
    jitter: float,
    patience: Patience,
) -> Judgement:
    """The vendor does not say how the job ended."""
    assert inquiry.until is not None
    if result == "foreign":
        finding = Finding(inquiry=inquiry, conflict=_REASONS["foreign"])
        return Judgement(finding, result, "foreign", detail)
    # To fill in outputs, the vendor is asked once; no answer at all does not count.
    has_asked = inquiry.reason == "enrich" and result != "unavailable"
    known = [] if inquiry.reason == "enrich" else sorted(inquiry.confirmed - {held.data.outcome})
    # The vendor's word that it is not over yet contradicts the message for now; and what nobody has signed, or what the
    # vendor has said otherwise before, is worth nothing without the vendor's word, while there is hope for it.
    is_patient = inquiry.reason == "confirm" and (
        result == "pending" or ((known or _is_unsigned(held)) and result in ("unavailable", "refused", "unreadable"))
    )
    leaves_at = inquiry.until + timedelta(seconds=patience.give_up_s if is_patient else 0)
    if now < leaves_at and not has_asked:
        # What can't be learnt now may be in a list later, but a notice never will be.
        is_hopeless = held.data.outcome == "received"
        delay = _delay(HOLD_RETRY_S, MAX_HOLD_RETRY_S, inquiry.attempt, jitter)
        again_at = leaves_at if is_hopeless else min(now + delay, leaves_at)
        return Judgement(Finding(inquiry=inquiry, ask_again_at=again_at), result, "again", detail)
    if known:
        words = (
            f"the message says {held.data.outcome}, the vendor's job API has said {known[0]} before: {_REASONS[result]}"
        )
        return Judgement(Finding(inquiry=inquiry, conflict=words), result, "contradicted", detail)
    if result == "not_found" and _is_unsigned(held) and inquiry.reason == "confirm":
        finding = Finding(inquiry=inquiry, conflict=_REASONS["not_found"])
        return Judgement(finding, result, "contradicted", detail)
    return Judgement(Finding(inquiry=inquiry, release=held), result, "unconfirmed", detail)


# What the vendor agrees with

# What of ``data`` the vendor may name beside kind and outcome. How and when the message came is ours, and its name says
# no more than that.
_MEMBERS = ("job_id", "media_id", "outputs", "error", "user_data")


def _merge(held: Event, said: Event, *, answered_at: datetime) -> Event:
    """
    A held event that the vendor agrees with: what the vendor's answer names, and of the rest what the message says,
    unless nobody has signed that. It is as well proven as its weakest member.

    Args:
        answered_at: The time that an answer has which says none.
    """
    claimed, told = held.data, said.data
    has_time = said.time != answered_at
    if claimed.outcome != told.outcome:
        # What it says of a result is about another end than the vendor's.
        claimed = claimed.model_copy(update={"outputs": (), "error": None})
    if _is_unsigned(held):
        members: dict[str, object] = {"outputs": _named(told.outputs)}
        time = said.time if has_time else claimed.received_at
    else:
        members = {
            "job_id": told.job_id or claimed.job_id,
            "media_id": told.media_id or claimed.media_id,
            "outputs": _merge_outputs(claimed.outputs, told.outputs),
            "error": told.error if _says(told.error) or claimed.error is None else claimed.error,
            "user_data": claimed.user_data if told.user_data is None else told.user_data,
        }
        time = said.time if has_time else held.time
    told = told.model_copy(update={"outputs": _named(told.outputs)})
    data = told.model_copy(update=members)
    is_told = all(getattr(data, name) == getattr(told, name) for name in _MEMBERS)
    data = data.model_copy(
        update={
            "vendor_event": claimed.vendor_event,
            "source": claimed.source,
            "transport": claimed.transport,
            "verified_by": "query" if is_told else claimed.verified_by,
            "outcome_verified_by": "query",
            "received_at": claimed.received_at,
        }
    )
    # An answer about the same job may have another outcome than a message that claimed none.
    event = said if said.id[:-2] == held.id[:-2] else held
    subject = data.job_id or data.media_id or held.subject
    # The trace goes on: it began with the message.
    update = {"subject": subject, "time": time, "data": data, "traceparent": held.traceparent}
    return event.model_copy(update=update)


def _survives(claimed: EventData, data: EventData) -> bool:
    """Whether all that a message says of the result is in the data that it has become."""
    return (not _says(claimed.error) or claimed.error == data.error) and all(
        any(_agree(one, output) for output in data.outputs) for one in _named(claimed.outputs)
    )


def _says(error: EventError | None) -> bool:
    return error is not None and (error.code is not None or error.message is not None)


def _merge_outputs(claimed: tuple[Frozen, ...], told: tuple[Frozen, ...]) -> tuple[Frozen, ...]:
    """The vendor's, each with what the message says besides of the same one; without any, those of the message."""
    told = _named(told)
    if not told:
        return claimed
    left = list(claimed)
    merged = []
    for output in told:
        same = next((one for one in left if _agree(one, output)), None)
        if same is not None:
            left.remove(same)
            known = {name: value for name, value in _members(same) if getattr(output, name) in (None, ())}
            output = output.model_copy(update=known)  # noqa: PLW2901
        merged.append(output)
    return tuple(merged)


def _agree(claimed: Frozen, told: Frozen) -> bool:
    """Whether they are of one sort, both say something, and there the same."""
    if type(claimed) is not type(told):
        return False
    said = dict(_members(told))
    both = [value == said[name] for name, value in _members(claimed) if name in said]
    return bool(both) and all(both)


def _members(output: Frozen) -> Iterable[tuple[str, object]]:
    """What it says."""
    return ((name, value) for name, value in dict(output).items() if value not in (None, ()))


def _named(outputs: tuple[Frozen, ...]) -> tuple[Frozen, ...]:
    """Those of which something is said."""
    return tuple(output for output in outputs if any(True for _ in _members(output)))
