"""What an inbox hands out and takes, apart from receipts: deliveries, attempts, jobs, inquiries, what operators see."""

import json
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Self

from media_callbacks.model.events import Delivery, Event
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import OPERATIONAL, AnyOutcome, Outcome, Product, Transport, Trouble
from media_callbacks.model.receipts import HoldReason, Receipt, ReceiptState

AskResult = Literal["ended", "pending", "not_found", "unlearnable", "foreign", "unavailable", "refused", "unreadable"]
"""What the vendor said of a job, in one word."""


Decision = Literal[
    "again", "ended", "given_up", "confirmed", "contradicted", "foreign", "unconfirmed", "enriched", "late"
]
"""What follows from it. ``late``: the lease was lost before it was settled; whoever asks again decides."""


DeliveryState = Literal["pending", "retrying", "delivered", "dead", "parked"]


EventState = Literal[DeliveryState, "unrouted"]


SinkState = Literal["active", "paused", "disabled"]


ReplayState = Literal["running", "finished", "cancelled"]


ReplayedState = Literal["waiting", "delivered", "dead"]
"""What has become of deliveries of a replay; those that died and were sent again since are dead."""


AttemptOutcome = Literal["delivered", "dead", "retrying", "interrupted", "late"]


AttemptWord = Literal["delivered", "dead", "retrying", "late", "unrecorded"]
"""How attempts are counted. ``late``: the lease was lost, and whoever has the delivery by now decides about it."""


JobState = Literal["expected", "overdue", "completed", "healed", "unknown"]


NO_ENDINGS = ("received", "unknown")
"""Outcomes of events that end no job."""


RETRIED = "!"
"""What comes before the name of a sink when listeners are told that an operator wants it tried now, whatever it did."""


INQUIRIES = "?"
"""What listeners are told, in place of a sink's name, when there is something new to ask the vendor about."""


UNROUTED = "*"
"""The same when there is an event that goes to no sink."""


@dataclass(frozen=True, slots=True)
class Reparsed:
    """
    What reading a receipt again came to.

    Attributes:
        accepted: Ids of events that are new.
        changed: Ids of events whose content is another now; they are sent to nobody.
    """

    state: ReceiptState
    accepted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """What an operator sees of a receipt. ``event_ids`` are the events that it brought, first or again."""

    id: int
    received_at: datetime
    source: str
    product: str
    transport: str
    verified_by: str
    state: ReceiptState
    reason: str | None
    warnings: tuple[str, ...]
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """
    A request that was refused.

    Attributes:
        source: Its name, or ``none``.
        cause: What explains it, as explanations call it; empty where nothing does.
        job_id: As the document has it; None where it has none.
        document: JSON: the request without what would let it be sent again, and how it was explained.
    """

    refused_at: datetime
    source: str
    status: int
    reason: str
    cause: str
    detail: str
    job_id: str | None
    document: str


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """What an operator sees of it in a list."""

    id: int
    refused_at: datetime
    source: str
    status: int
    reason: str
    cause: str
    detail: str
    job_id: str | None


@dataclass(frozen=True, slots=True)
class RefusedDetail:
    record: RefusedRecord
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SourceNews:
    """How much has come through a source since the last time."""

    source: str
    received: int
    refused: int


# Long enough to have seen a weekend.
_LEARNT = timedelta(days=7)
_MIN_SILENCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SourceActivity:
    """
    Attributes:
        configured_at: Since when its configuration is what it is.
        refused_since: How many requests were refused since one was received, or since ``configured_at``.
        longest_gap: How long it has been without, of late.
    """

    source: str
    configured_at: datetime
    received_at: datetime | None
    refused_at: datetime | None
    refused_since: int
    longest_gap: timedelta = timedelta(0)

    def silent_since(self, now: datetime) -> datetime | None:
        """When something came last, if that is far longer ago than is usual, as far as that is known."""
        received_at = self.received_at
        if received_at is None or received_at - self.configured_at < _LEARNT:
            return None
        return received_at if now - received_at > max(_MIN_SILENCE, 2 * self.longest_gap) else None


ActivityWord = Literal["received", "refused", "delivered"]


@dataclass(frozen=True, slots=True)
class ActivityCount:
    """
    How much there was of something within a time.

    Attributes:
        at: When that begins.
        name: Of the source, or of the sink.
    """

    at: datetime
    what: ActivityWord
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class MedianTimes:
    """
    How long it took, of a sample of what began within a time, and has ended.

    Attributes:
        at: When that begins.
        callback_s: From a job's registration to the event that ended it; None where nothing is to be measured.
        delivery_s: From the acceptance of an event until it was delivered.
    """

    at: datetime
    callback_s: float | None
    delivery_s: float | None


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """
    A receipt with what is kept of it.

    Attributes:
        body: The raw bytes as received; None once they were erased.
        meta: What else parsing needed, never a secret.
        parser_version: Which version of the parsers has read it last.
    """

    record: ReceiptRecord
    body: bytes | None
    meta: Mapping[str, str]
    parser_version: int


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """
    One attempt of a delivery.

    Attributes:
        number: 1 for the first. An interrupted attempt (the service stopped in the middle) and a late one (its lease
            was lost before it was recorded) do not count, so that another one has the same number.
    """

    number: int
    started_at: datetime
    duration_s: float
    result: AttemptOutcome
    error: str | None


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """
    What an operator sees of a delivery.

    Attributes:
        state: ``parked`` is a pending or retrying delivery whose sink is paused or disabled.
        attempts: How many were made, apart from interrupted ones.
        due_at: None when it is not to be claimed just now.
        history: The attempts, oldest first.
    """

    sink: str
    replay: int
    state: DeliveryState
    attempts: int
    due_at: datetime | None
    changed_at: datetime
    error: str | None
    history: tuple[AttemptRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRecord:
    """
    The life of an event.

    Attributes:
        revision: Counts the outcomes of its key.
        body: Its JSON, or None once the retention period is over, or when it was erased.
        is_routed: Whether a sink matched when it was accepted.
        erased_at: When its content was erased, if it was.
    """

    id: str
    accepted_at: datetime
    product: str
    kind: str
    outcome: AnyOutcome
    revision: int
    job_id: str | None
    media_id: str | None
    body: bytes | None
    is_routed: bool
    receipts: tuple[ReceiptRecord, ...]
    deliveries: tuple[DeliveryRecord, ...]
    erased_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """
    Which events are meant. What is left out asks for nothing.

    Attributes:
        account: That of the source which they came through first, as far as their content is still there. That is read
            for this, so that another condition should leave few.
        state: Events with a delivery in this state (one that was sent again counts by its latest replay), or those
            that matched no sink.
        sink: Events with a delivery to this sink; together with ``state``, in that state there.
        since: Accepted at this time or later.
        until: Accepted before this time.
        given_up_since, given_up_until: Events with a delivery (to the sink, if one is named) that is dead since this
            time or later, and since before that time.
    """

    event_id: str | None = None
    job_id: str | None = None
    media_id: str | None = None
    account: str | None = None
    product: str | None = None
    kind: str | None = None
    outcome: str | None = None
    state: EventState | None = None
    sink: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    given_up_since: datetime | None = None
    given_up_until: datetime | None = None

    @property
    def asks_when_given_up(self) -> bool:
        return self.given_up_since is not None or self.given_up_until is not None


@dataclass(frozen=True, slots=True)
class EventSummary:
    """
    An event in a list.

    Attributes:
        cursor: The inbox's own number, ascending in order of acceptance.
        deliveries: The state of the latest delivery, by sink.
    """

    cursor: int
    id: str
    accepted_at: datetime
    product: str
    kind: str
    outcome: str
    revision: int
    job_id: str | None
    media_id: str | None
    deliveries: Mapping[str, DeliveryState]


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """
    A sink that was paused or disabled, or to which something is on its way.

    Attributes:
        reason: Why it is paused or disabled, with ``changed_by`` and ``changed_at``; None for an active one.
        deliveries: How many there are by state; delivered ones, and dead ones that were sent again, are left out.
        oldest_pending_at: When the oldest event that is pending, retrying or parked was accepted.
        next_attempt_at: When what it did not take is tried again.
        last_error, last_error_at: What it answered when it did not take something last, of what is not delivered yet.
        first_given_up_at, last_given_up_at: When dead ones were given up that were not sent again.
        last_taken_at: When it took something, to the minute; None for not within a day.
    """

    name: str
    state: SinkState = "active"
    reason: str | None = None
    changed_by: str | None = None
    changed_at: datetime | None = None
    deliveries: Mapping[DeliveryState, int] = field(default_factory=dict)
    oldest_pending_at: datetime | None = None
    next_attempt_at: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    first_given_up_at: datetime | None = None
    last_given_up_at: datetime | None = None
    last_taken_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """
    Events to deliver again.

    Attributes:
        sinks: Where to; empty for the sinks that each event has gone to before, of these only those where its latest
            delivery is in the filter's state, should it have one.
        rate_per_s: How many events a second become deliverable.
        requested_by: Who asked, for the record.
        reason: Why, for the record.
    """

    filter: EventFilter
    sinks: tuple[str, ...] = ()
    rate_per_s: float = 50.0
    requested_by: str | None = None
    reason: str | None = None


def replayed_states(event_filter: EventFilter) -> frozenset[str]:
    """The states as stored, of which a delivery must be in one to be made again unasked; empty for all."""
    match event_filter.state:
        case None if event_filter.asks_when_given_up:
            return frozenset({"dead"})
        case None | "unrouted":
            return frozenset()
        case "parked":
            return frozenset({"pending", "retrying"})
        case state:
            return frozenset({state})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRecord:
    """
    A replay and how far it is.

    Attributes:
        total: How many events the filter meant when the replay was created. Later ones are not part of it.
        done: How many of them were gone through.
        deliveries: What has become of its deliveries; None where that was not asked for. One that a later replay asked
            for, too, counts there.
    """

    id: int
    created_at: datetime
    changed_at: datetime
    state: ReplayState
    total: int
    done: int
    request: ReplayRequest
    deliveries: Mapping[ReplayedState, int] | None = None


Subject = Literal["job_id", "media_id", "user_data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureRequest:
    """
    Whose content is to be erased.

    Attributes:
        matched: The member of events that says it.
        value: What it says there.
        account: Only in this account; None for all. What gave no event is of no account, and stays then.
        may_drop: Whether what is not yet delivered is erased, too, and never delivered.
        requested_by: Who asked, for the record.
        reason: Why, for the record.
    """

    matched: Subject
    value: str
    account: str | None = None
    may_drop: bool = False
    requested_by: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ErasureCounts:
    """
    Attributes:
        events: That have no content any more; held ones among them.
        receipts: That have no body any more.
        held: Held events that will not be asked about any more.
        jobs: Expected jobs that have no user data any more.
        dead: Deliveries that will not be made any more.
        undelivered: Events, held ones among them, that were left as they are, because they are not yet delivered.
    """

    events: int = 0
    receipts: int = 0
    held: int = 0
    jobs: int = 0
    dead: int = 0
    undelivered: int = 0

    def __add__(self, other: "ErasureCounts") -> "ErasureCounts":
        return ErasureCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class ErasureStep:
    """
    What a part of an erasure has done.

    Attributes:
        id: Of the erasure; None where it was only counted.
        position: Where to go on; None at the end.
    """

    id: int | None
    counts: ErasureCounts
    position: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureRecord:
    """
    An erasure.

    Attributes:
        finished_at: None as long as a part is to come.
        digest: SHA-256 of the value, in hexadecimal digits.
    """

    id: int
    erased_at: datetime
    finished_at: datetime | None
    matched: Subject
    digest: str
    requested_by: str | None
    reason: str | None
    counts: ErasureCounts


@dataclass(frozen=True, slots=True)
class Purged:
    """How much a step of ``purge`` removed. ``is_finished`` is false when there may be more."""

    payloads: int
    keys: int
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """
    Something to ask the vendor about, leased to whoever holds this.

    Attributes:
        id: The inbox's own, unique together with ``reason``.
        reason: ``expected`` for a job whose deadline is over (or that must be asked about sooner), else that of the
            hold.
        since: The deadline of the expected job, or when the event was held; later by the step that the store's clock
            has made since, as long as that is doubted.
        until: Of the hold, likewise; None for an expected job.
        attempt: 1 when the vendor is asked for the first time.
        lease: Proof that the inquiry is still ours.
        user_data: Of the expected job.
        event: What is held; None for an expected job.
        confirmed: How the vendor's job API has said before that what is held ended; empty for an expected job.
    """

    id: int
    reason: Literal["expected"] | HoldReason
    reference: JobReference
    since: datetime
    until: datetime | None
    attempt: int
    lease: str
    user_data: str | None = None
    event: Event | None = None
    confirmed: frozenset[Outcome] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What the vendor was asked, and what it said, for the record.

    Attributes:
        detail: For the operator: nothing of a body, no parameters.
    """

    asked_at: datetime
    result: AskResult
    decision: Decision
    detail: str | None = None


@dataclass(slots=True, kw_only=True)
class Finding:
    """
    What asking came to. With ``ask_again_at`` nothing is decided; without it, the inquiry is over.

    Attributes:
        receipt: What the vendor said, to be kept with its events as ``put`` does; none of them is held. It may come
            with ``release`` or ``conflict``, or alone.
        release: What was held leaves, in this form: of the same key, perhaps better verified or with more outputs, and
            where the outcome was unknown, maybe with another one. It counts as brought by the receipt that was held
            for it, and binds what that would have bound if ``may_bind`` says so.
        conflict: What was held does not leave, and its receipt becomes a ``conflict`` with these words.
        notification: What the vendor says of its own notification about an expected job (MTS alone): ``sent``,
            ``not sent: <code>`` or ``not configured``.
        answer: What it follows from.
    """

    inquiry: Inquiry
    ask_again_at: datetime | None = None
    receipt: Receipt | None = None
    release: Event | None = None
    conflict: str | None = None
    notification: str | None = None
    answer: Answer | None = None

    @property
    def may_bind(self) -> bool:
        """
        Whether what leaves binds its key. What was to be confirmed and was not does not, or a lie that leaves because
        nobody could be asked would have the truth refused; it still must agree with what the key is bound to already.
        """
        if self.release is None:
            return False
        return self.inquiry.reason != "confirm" or self.release.data.outcome_verified_by == "query"


@dataclass(slots=True)
class Settled:
    """
    What became of a finding.

    Attributes:
        is_ours: False when the lease was lost meanwhile: nothing was changed.
        accepted: The events that were new, released ones among them.
    """

    is_ours: bool
    accepted: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """
    An expected job.

    Attributes:
        id: The inbox's own, ascending in order of registration.
        state: ``overdue`` is an expected job whose deadline is over. ``healed``: the vendor had to be asked because
            nothing came. ``unknown``: given up.
        registered_at: When it was registered first; doing so again changes nothing of this.
        ended_at: When the event that ended it was accepted (maybe before the registration), or it was given up; None
            while it is expected.
        transport: How that event came, or None.
        event_id: Of that event, or None.
        outcome: Of that event, or None.
        attempts: How often the vendor was asked.
        notification: See ``Finding``.
        token: Which setting has the token that it was registered with, as far as one was needed.
        requested_by: Who has registered it, as he says himself.
    """

    id: int
    reference: JobReference
    state: JobState
    registered_at: datetime
    deadline_at: datetime
    user_data: str | None
    ended_at: datetime | None
    transport: Transport | None
    event_id: str | None
    outcome: str | None
    attempts: int
    notification: str | None
    token: str | None = None
    requested_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobName:
    """
    A job as whoever asks about it names it, registered or not.

    Attributes:
        id: The vendor's job id, or the nonce of a minted URL; or what else a key begins with, where its messages name
            no job, such as a media id.
        account, family: Where the same id may be of several jobs; None for all.
    """

    product: Product
    id: str
    account: str | None = None
    family: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRecord:
    """
    An event that waits for the vendor's word.

    Attributes:
        until: When it is decided without, in most cases.
        due_at: When the vendor is asked next.
        attempts: How often it was asked.
    """

    receipt_id: int
    reason: HoldReason
    event_id: str
    type: str
    held_at: datetime
    until: datetime
    due_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """
    One question to the vendor, with its answer.

    Attributes:
        receipt_id: Of the event that was held; None for an expected job.
        attempt: 1 for the first question about this.
        event_id: Of the event that is new by it, or None.
    """

    receipt_id: int | None
    reason: Literal["expected"] | HoldReason
    attempt: int
    asked_at: datetime
    answered_at: datetime
    result: AskResult
    decision: Decision
    detail: str | None
    event_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLife:
    """
    All that is known of a job, each kind oldest first.

    Attributes:
        jobs: Its registrations: one for each account and family that it is expected in.
        receipts: All that came for it, also what has brought no event.
        replays: Those that its events were, or may have been, part of.
        is_whole: Whether there is no more than this; else these are the newest.
    """

    name: JobName
    now: datetime
    jobs: tuple[JobRecord, ...]
    receipts: tuple[ReceiptRecord, ...]
    held: tuple[HeldRecord, ...]
    answers: tuple[AnswerRecord, ...]
    events: tuple[EventRecord, ...]
    replays: tuple[ReplayRecord, ...]
    is_whole: bool

    @property
    def is_known(self) -> bool:
        return bool(self.jobs or self.receipts or self.held or self.answers or self.events)

    @property
    def has_ended(self) -> bool:
        """Whether an event ends it, or its registration has ended."""
        is_told = any(event.outcome not in NO_ENDINGS for event in self.events)
        return is_told or any(job.ended_at is not None for job in self.jobs)


FoundBy = Literal["event_id", "job_id", "nonce", "media_id", "user_data", "user_data_prefix", "receipt"]
"""By what something was found. ``receipt``: the body of one that could not be read names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHit:
    """
    A job that a search has found.

    Attributes:
        id: What ``JobName`` takes.
        account: None where it is not known any more.
        state: Of its registration; None for a job that is not registered.
        event_id, outcome: Of its latest event, or None.
        at: When that was accepted, else when the job was registered or its receipt came.
    """

    product: Product
    id: str
    account: str | None
    job_id: str | None
    media_id: str | None
    user_data: str | None
    found_by: FoundBy
    state: JobState | None
    event_id: str | None
    outcome: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which expected jobs are meant. What is left out asks for nothing. Times are those of registration."""

    state: JobState | None = None
    product: str | None = None
    account: str | None = None
    job_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """
    Expected jobs of one product that were registered within one hour and stand alike.

    Attributes:
        hour: When the hour begins.
        transport: How their events came; None while there is none.
        notification: See ``Finding``.
        count: How many.
        seconds: From registration to event, one number per job in ascending order, 0 for an event that was there
            first; empty where ``transport`` is None.
    """

    hour: datetime
    product: Product
    state: JobState
    transport: Transport | None
    notification: str | None
    count: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCounts:
    """
    What waits for the vendor's answer just now.

    Attributes:
        jobs: Expected jobs that have not ended, by product and state (``expected`` or ``overdue``).
        held: Held events, by product.
        oldest_held_at: When the oldest of them came, or None.
        first_deadlines: Of the expected jobs, by product.
    """

    jobs: Mapping[tuple[str, JobState], int]
    held: Mapping[str, int]
    oldest_held_at: datetime | None
    first_deadlines: Mapping[str, datetime] = field(default_factory=dict)


# Not frozen, see ``Delivery``.
@dataclass(slots=True)
class AttemptResult:
    """
    What an attempt came to.

    Attributes:
        state: ``delivered`` and ``dead`` are final; ``retrying`` is due again after ``delay_s``; ``pending`` gives the
            lease back as if nothing had been attempted.
        error: For the operator, at most a line; None after success.
        started_at: None when no attempt was made. A ``pending`` one that was made is kept as ``interrupted``.
    """

    delivery: Delivery
    state: Literal["delivered", "dead", "retrying", "pending"]
    delay_s: float = 0.0
    error: str | None = None
    started_at: datetime | None = None
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreSpace:
    """
    Attributes:
        size_bytes: Of all that the store has on its disk.
        free_bytes: What this user may still write there; None where only the database's server knows.
        crowded: Tables for which no partitions are made, because too much of them is in none.
    """

    size_bytes: int
    free_bytes: int | None
    crowded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRecord:
    """
    What is known of the store's clock.

    Attributes:
        now: What it says.
        doubted_s: How far it has stepped forward while nobody saw it, as long as that is doubted; else 0.
        trusted_at: When that is not doubted any more, unless it steps back before.
        behind_s: How far it is behind what it was before; else 0.
        corrected_s: How far it has just stepped back, so that a step forward has proved wrong; else 0.
    """

    now: datetime
    doubted_s: float = 0.0
    trusted_at: datetime | None = None
    behind_s: float = 0.0
    corrected_s: float = 0.0


# Troubles of the service


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTrouble:
    """
    What an instance has seen of a trouble.

    Attributes:
        began_s, seen_s: How many seconds ago it saw it first and last.
        count: How many times since it has said so, of what happens and is over.
        is_sign: It is no trouble by itself, but shows that one that was told of goes on.
    """

    trouble: Trouble
    subject: str
    began_s: float = 0.0
    seen_s: float = 0.0
    count: int = 0
    detail: str | None = None
    is_sign: bool = False


@dataclass(frozen=True, slots=True)
class TroubleRecord:
    """
    A trouble that has not ended.

    Attributes:
        told_at: When it was told of; None as long as it may be nothing.
    """

    trouble: Trouble
    subject: str
    since: datetime
    seen_at: datetime
    told_at: datetime | None
    count: int
    detail: str | None


# The feed


class Place(NamedTuple):
    """Where an event stands among those that are followed: by its transaction, 0 where ids alone tell, then its id."""

    xid: int
    row_id: int


# Numbers as far as the databases count, times as far as Python does.
CURSOR_PATTERN = "([0-9]{1,18})-([0-9]{1,18})-([0-9a-f]{0,16})-([0-9]{1,14})(?:-([0-9]{1,14}))?"


@dataclass(frozen=True, slots=True)
class FeedCursor:
    """
    An event that was looked at; or what is before all events. As text it is opaque to everybody else.

    Attributes:
        check: Of what the event is known by; with the time it tells whether the event is still this one.
        accepted_at: In milliseconds.
        since: Later events that were accepted before this are passed over; in milliseconds.
    """

    place: Place
    check: str = ""
    accepted_at: int = 0
    since: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Raises:
            ValueError: It is none.
        """
        found = re.fullmatch(CURSOR_PATTERN, text)
        if found is None:
            raise ValueError("expected the cursor of an answer")
        xid, row_id, check, accepted_at, since = found.groups()
        return cls(Place(int(xid), int(row_id)), check, int(accepted_at), None if since is None else int(since))

    def __str__(self) -> str:
        since = "" if self.since is None else f"-{self.since}"
        return f"{self.place.xid}-{self.place.row_id}-{self.check}-{self.accepted_at}{since}"


class FeedEvent(NamedTuple):
    """
    Attributes:
        check, accepted_at: As in a cursor.
        body: None where it is not kept any more.
    """

    place: Place
    check: str
    accepted_at: int
    product: str
    kind: str
    outcome: str
    job_id: str | None
    media_id: str | None
    body: str | None = None

    def cursor(self, since: int | None) -> FeedCursor:
        """For what follows it."""
        return FeedCursor(self.place, self.check, self.accepted_at, since)

    def is_since(self, since: int | None) -> bool:
        return since is None or self.accepted_at >= since


@dataclass(frozen=True, slots=True)
class FeedFilter:
    """
    Which events are followed. What is left out asks for nothing.

    Attributes:
        source: The configured source that they came through first.
    """

    product: str | None = None
    kind: str | None = None
    outcome: str | None = None
    job_id: str | None = None
    media_id: str | None = None
    source: str | None = None

    @property
    def wants_all(self) -> bool:
        return self == _WANTS_ALL

    def may_want(self, event: FeedEvent) -> bool:
        """As far as that can be told without the body."""
        return (
            (self.product is None or self.product == event.product)
            and (event.kind != OPERATIONAL if self.kind is None else self.kind == event.kind)
            and (self.outcome is None or self.outcome == event.outcome)
            and (self.job_id is None or self.job_id == event.job_id)
            and (self.media_id is None or self.media_id == event.media_id)
        )

    def wants(self, event: FeedEvent) -> bool:
        """Of one that is not kept any more the rest is not known, and it may have been."""
        return self.may_want(event) and (
            self.source is None or event.body is None or json.loads(event.body)["data"].get("source") == self.source
        )


_WANTS_ALL = FeedFilter()


@dataclass(frozen=True, slots=True)
class FeedPart:
    """
    A part of the feed.

    Attributes:
        events: Those that may be wanted.
        end: Up to where events were looked at.
        is_complete: There are no more just now.
        is_held_up: But for some that are not shown yet, because others may come before them.
        kept_since: Where one of the events is not kept any more: when the next one was accepted that is.
    """

    events: tuple[FeedEvent, ...]
    end: FeedCursor
    is_complete: bool
    is_held_up: bool
    kept_since: datetime | None
