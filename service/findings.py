"""
What an answer of the vendor, or the lack of one, means for what was asked about. Pure: time and chance are arguments.

Expected jobs whose deadline is over: an end is emitted; everything else is asked again, at growing intervals, until it
is given up on with outcome ``unknown``. A job that is said to be under way has more time.

Held events: the vendor's word decides. What the vendor can say nothing about leaves after the source's time-out, as it
came. While the vendor's API only fails for the moment, events that nobody has signed wait on, because whoever knows a
minted URL could have made them; signed ones leave.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from service.errors import VendorError, VendorUnavailable
from service.events import Event, EventData, VerifiedBy
from service.inbox.base import Finding, Inquiry, Receipt
from service.intake import Route, build_receipt
from service.queries import unknown
from service.queries.base import Answer, Family, QuerySource
from service.sources.base import Message

# Of held events: the vendor's state may lag behind its callback by a moment (observed with play info).
HOLD_RETRY_S = 2.0
MAX_HOLD_RETRY_S = 300.0
MAX_RETRY_S = 3600.0
# How many times longer a job that is under way is waited for, before it is given up.
PENDING_PATIENCE = 7
_JITTER = 0.2

Result = Literal["ended", "pending", "not_found", "unlearnable", "foreign", "unavailable", "refused", "unreadable"]
Decision = Literal["again", "ended", "given_up", "confirmed", "contradicted", "foreign", "unconfirmed", "enriched"]


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
    """

    finding: Finding
    result: Result
    decision: Decision
    detail: str | None = None


def judge(
    inquiry: Inquiry,
    answer: Answer | VendorError,
    *,
    family: Family | None,
    source: QuerySource,
    now: datetime,
    jitter: float,
    patience: Patience,
    route: Route,
) -> Judgement:
    """
    Args:
        answer: An error where there is none.
        family: None for one that can't be expected (of a held event).
        source: What answers are read as.
        jitter: From 0 to 1, by chance.
    """
    result, detail = _result(answer), str(answer) if isinstance(answer, VendorError) else answer.detail
    if isinstance(answer, Answer) and answer.state == "ended":
        receipt = _receipt(inquiry, answer, source, now=now, route=route)
        if not receipt.entries:
            result, detail = "unreadable", receipt.reason
        elif inquiry.event is None:
            finding = Finding(inquiry=inquiry, receipt=receipt, notification=answer.notification)
            return Judgement(finding, result, "ended", detail)
        else:
            return _judge_ended(inquiry, inquiry.event, receipt, detail)
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
    receipt = _receipt(inquiry, given_up, source, now=now, route=route)
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


def _result(answer: Answer | VendorError) -> Result:
    if isinstance(answer, Answer):
        return answer.state
    return "unavailable" if isinstance(answer, VendorUnavailable) else "refused"


def _receipt(inquiry: Inquiry, answer: Answer, source: QuerySource, *, now: datetime, route: Route) -> Receipt:
    meta = {**answer.meta, **source.meta}
    if inquiry.user_data is not None:
        meta["user_data"] = inquiry.user_data
    # What we say ourselves, nobody has confirmed.
    verified_by: VerifiedBy = "none" if meta.get("action") == unknown.ACTION else "query"
    message = Message(answer.body, answer.body, verified_by, meta=meta)
    return build_receipt(source, message, received_at=now, route=route)


def _delay(first_s: float, longest_s: float, attempt: int, jitter: float) -> timedelta:
    delay_s = min(first_s * 2 ** min(attempt - 1, 30), longest_s)
    return timedelta(seconds=delay_s * (1 + _JITTER * (2 * jitter - 1)))


# Held events


def _is_unsigned(event: Event) -> bool:
    return event.data.verified_by in ("none", "token")


def _judge_ended(inquiry: Inquiry, held: Event, receipt: Receipt, detail: str | None) -> Judgement:
    """The vendor says how the job ended."""
    # An answer may tell of several completions, the streams of a task for example.
    told = [entry.event for entry in receipt.entries]
    said = next((event for event in told if event.id[:-2] == held.id[:-2]), told[-1])
    is_same_key = said.id[:-2] == held.id[:-2]
    if held.data.outcome == said.data.outcome:
        released = _merge(held, said)
        decision: Decision = "confirmed" if inquiry.reason == "confirm" else "enriched"
        return Judgement(Finding(inquiry=inquiry, release=released), "ended", decision, detail)
    if inquiry.reason == "enrich":
        # Not asked for a second opinion: what came stays as it came.
        return Judgement(Finding(inquiry=inquiry, release=held), "ended", "unconfirmed", detail)
    if held.data.outcome == "unknown" and is_same_key:
        # Nothing was claimed, so nothing is contradicted: the vendor's word is what the message was about.
        told_data = said.data.model_copy(
            update={
                "source": held.data.source,
                "transport": held.data.transport,
                "received_at": held.data.received_at,
                "user_data": said.data.user_data or held.data.user_data,
            }
        )
        released = said.model_copy(update={"data": told_data, "time": held.time})
        return Judgement(Finding(inquiry=inquiry, release=released), "ended", "confirmed", detail)
    words = f"the message says {held.data.outcome}, the vendor's job API says {said.data.outcome}"
    finding = Finding(inquiry=inquiry, receipt=receipt, conflict=words)
    return Judgement(finding, "ended", "contradicted", words)


def _judge_undecided(
    inquiry: Inquiry,
    held: Event,
    result: Result,
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
    # The vendor's word that it is not over yet contradicts the message for now; and what nobody has signed is worth
    # nothing without the vendor's word, while there is hope for it.
    is_patient = inquiry.reason == "confirm" and (
        result == "pending" or (_is_unsigned(held) and result in ("unavailable", "refused", "unreadable"))
    )
    leaves_at = inquiry.until + timedelta(seconds=patience.give_up_s if is_patient else 0)
    if now < leaves_at and not has_asked:
        # What can't be learnt now may be in a list later, but a notice never will be.
        is_hopeless = held.data.outcome == "received"
        delay = _delay(HOLD_RETRY_S, MAX_HOLD_RETRY_S, inquiry.attempt, jitter)
        again_at = leaves_at if is_hopeless else min(now + delay, leaves_at)
        return Judgement(Finding(inquiry=inquiry, ask_again_at=again_at), result, "again", detail)
    if result == "not_found" and _is_unsigned(held) and inquiry.reason == "confirm":
        finding = Finding(inquiry=inquiry, conflict=_REASONS["not_found"])
        return Judgement(finding, result, "contradicted", detail)
    return Judgement(Finding(inquiry=inquiry, release=held), result, "unconfirmed", detail)


def _merge(held: Event, said: Event) -> Event:
    """
    A held event that the vendor agrees with: what the vendor says of the result, and of the rest what was missing. Of
    an unsigned message nothing is believed that the vendor did not say.
    """
    told, claimed = said.data, held.data
    is_unsigned = _is_unsigned(held)
    outputs = told.outputs if is_unsigned or _has_urls(told) or not claimed.outputs else claimed.outputs
    changes = {
        "verified_by": "query",
        "outputs": outputs,
        "error": told.error if is_unsigned else told.error or claimed.error,
        "job_id": claimed.job_id or told.job_id,
        "media_id": claimed.media_id or told.media_id,
        "user_data": claimed.user_data if claimed.user_data is not None else told.user_data,
    }
    if is_unsigned:
        changes |= {"job_id": told.job_id or claimed.job_id, "media_id": told.media_id, "user_data": told.user_data}
    data = claimed.model_copy(update=changes)
    subject = data.job_id or data.media_id or held.subject
    return held.model_copy(update={"subject": subject, "data": data})


def _has_urls(data: EventData) -> bool:
    return any(getattr(output, "url", None) or getattr(output, "urls", None) for output in data.outputs)
