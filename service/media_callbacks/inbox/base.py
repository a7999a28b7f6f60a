"""
What an inbox promises, whatever database is behind it.

``put`` returns only after the receipt, its events and their deliveries are durable, in one transaction. A delivery is
leased to one dispatcher at a time; every statement about a leased delivery carries the lease, and one that was lost
meanwhile changes nothing.

Leases, due times, deadlines and ages are told by one clock, that of the store (see ``inbox.clock``); callers
say how long, never when. ``now`` tells its time.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from media_callbacks.events import Delivery, Event, Outcome, Product, Transport, VerifiedBy
from media_callbacks.jobs import ExpectedJob, JobReference

ReceiptState = Literal["accepted", "duplicate", "differing", "unparsed", "conflict"]
DeliveryState = Literal["pending", "retrying", "delivered", "dead", "parked"]
EventState = Literal[DeliveryState, "unrouted"]
SinkState = Literal["active", "paused", "disabled"]
ReplayState = Literal["running", "finished", "cancelled"]
AttemptOutcome = Literal["delivered", "dead", "retrying", "interrupted", "late"]
AttemptWord = Literal["delivered", "dead", "retrying", "late", "unrecorded"]
"""How attempts are counted. ``late``: the lease was lost, and whoever has the delivery by now decides about it."""
HoldReason = Literal["confirm", "enrich"]
JobState = Literal["expected", "overdue", "completed", "healed", "unknown"]

MAX_CLAIM_BYTES = 64 * 2**20
RETRIED = "!"
"""What comes before the name of a sink when listeners are told that an operator wants it tried now, whatever it did."""

INQUIRIES = "?"
"""What listeners are told, in place of a sink's name, when there is something new to ask the vendor about."""


@dataclass(frozen=True, slots=True)
class Hold:
    """
    An event that must not leave yet, because the vendor is asked about its job first.

    Attributes:
        timeout_s: After how long it leaves if the vendor can't say anything about it.
    """

    reason: HoldReason
    reference: JobReference
    timeout_s: float


@dataclass(frozen=True, slots=True)
class NamelessJob:
    """
    What is known of the job of a message that names none. Expected jobs of this product, account, family and asset
    that have not ended (or ended as unknown) may be meant:

    - one: it takes the event. With ``takes_name`` the event gets the job's id and key (``Event.renamed``), and the key
      that it had is remembered for it, so that the same message again is a duplicate. Without, the event stays as it
      is, and the job has ended with it.
    - several: all are asked about at once. With ``takes_name`` the message gives no event, now and when it comes again;
      without, the event stays as it is.
    - none: with ``takes_name``, a job of this family and asset that the vendor has meanwhile been asked about, with
      the same outcome, and that no such message has been matched with, takes it as a duplicate. Otherwise the event
      stays as it is, and a registration within the hour may take it.
    """

    product: Product
    account: str
    family: str
    media_id: str
    takes_name: bool


@dataclass(slots=True)
class Entry:
    """
    One event of a receipt.

    Attributes:
        binding: A value that must never change for this event's key, or None.
        sinks: Where the event goes if it is new.
        hold: Why it must wait, or None. What is held is no event yet: nobody sees it, it binds nothing and takes no
            outcome, so that a lie that is held can't suppress the truth.
        nameless: Set when the message names no job, and an expected one may be meant.
        body: The event in JSON, with its first revision.
    """

    event: Event
    sinks: tuple[str, ...]
    binding: str | None = None
    hold: Hold | None = None
    nameless: NamelessJob | None = None
    body: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.body = self.event.to_json()


@dataclass(slots=True, kw_only=True)
class Receipt:
    """
    One arrival through a source.

    Attributes:
        body: The raw bytes as received.
        meta: What else parsing needed, never a secret.
        entries: Empty when nothing could be parsed; ``reason`` then says why.
        warnings: Paths of fields that could not be understood.
        parser_version: Which version of the parsers read it.
    """

    source: str
    product: Product
    transport: Transport
    verified_by: VerifiedBy
    received_at: datetime
    body: bytes
    entries: tuple[Entry, ...]
    meta: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    parser_version: int = 0


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """
    A receipt as it was kept, to be read again.

    Attributes:
        id: The inbox's own, ascending in order of arrival.
    """

    id: int
    source: str
    verified_by: VerifiedBy
    received_at: datetime
    body: bytes
    meta: Mapping[str, str]


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
        body: Its JSON, or None once the retention period is over.
        is_routed: Whether a sink matched when it was accepted.
    """

    id: str
    accepted_at: datetime
    body: bytes | None
    is_routed: bool
    receipts: tuple[ReceiptRecord, ...]
    deliveries: tuple[DeliveryRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """
    Which events are meant. What is left out asks for nothing.

    Attributes:
        state: Events with a delivery in this state (one that was sent again counts by its latest replay), or those
            that matched no sink.
        sink: Events with a delivery to this sink; together with ``state``, in that state there.
        since: Accepted at this time or later.
        until: Accepted before this time.
    """

    event_id: str | None = None
    job_id: str | None = None
    media_id: str | None = None
    product: str | None = None
    kind: str | None = None
    outcome: str | None = None
    state: EventState | None = None
    sink: str | None = None
    since: datetime | None = None
    until: datetime | None = None


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
    """

    name: str
    state: SinkState = "active"
    reason: str | None = None
    changed_by: str | None = None
    changed_at: datetime | None = None
    deliveries: Mapping[DeliveryState, int] = field(default_factory=dict)
    oldest_pending_at: datetime | None = None


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
    """

    id: int
    created_at: datetime
    changed_at: datetime
    state: ReplayState
    total: int
    done: int
    request: ReplayRequest


@dataclass(frozen=True, slots=True)
class Purged:
    """How much a step of ``purge`` removed. ``is_finished`` is false when there may be more."""

    payloads: int
    keys: int
    is_finished: bool


@dataclass(slots=True)
class Verdict:
    """
    What became of a receipt.

    Attributes:
        accepted: The events that were new, with the revision they got. There may be some whatever ``state`` says.
        held: How many new events wait for the vendor's answer; ``state`` is ``accepted`` then.
        is_journaled: It is durable, but outside the store, which was away: what it is will be known later, and
            ``state`` is ``accepted`` meanwhile.
        differs: In which members an event that was known already is another one; ``state`` is ``differing`` then.
    """

    state: ReceiptState
    accepted: tuple[Event, ...] = ()
    held: int = 0
    is_journaled: bool = False
    differs: tuple[str, ...] = ()


# Asking the vendor


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
    """

    inquiry: Inquiry
    ask_again_at: datetime | None = None
    receipt: Receipt | None = None
    release: Event | None = None
    conflict: str | None = None
    notification: str | None = None

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
        receipt_state: Of the finding's own receipt, if it had one.
    """

    is_ours: bool
    accepted: tuple[Event, ...] = ()
    receipt_state: ReceiptState | None = None


# Expected jobs


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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which expected jobs are meant. What is left out asks for nothing. Times are those of registration."""

    state: JobState | None = None
    product: str | None = None
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
    """

    jobs: Mapping[tuple[str, JobState], int]
    held: Mapping[str, int]
    oldest_held_at: datetime | None


@dataclass(frozen=True, slots=True)
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
    """

    size_bytes: int
    free_bytes: int | None


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


class Inbox(Protocol):
    """All methods raise InboxUnavailable when the database can't do its work just now."""

    async def open(self) -> None:
        """Connect, migrate where allowed, and free what an earlier life of this process had leased."""
        ...

    async def close(self) -> None:
        """Finish what was begun and disconnect."""
        ...

    def put(self, receipt: Receipt) -> Awaitable[Verdict]:
        """Keep a receipt and create the events and deliveries that are new. Durable when it returns."""
        ...

    async def now(self) -> datetime:
        """The time by the clock of the store."""
        ...

    async def watch_clock(self) -> ClockRecord:
        """
        Note that the store's clock was seen, and how far it has stepped since it was seen last. What was put off by a
        step that has proved wrong is put back. See ``inbox.clock``.
        """
        ...

    async def trust_clock(self) -> None:
        """An operator says that the store's clock is right, whatever it looks like."""
        ...

    async def claim(
        self, sink: str, *, limit: int, max_bytes: int = MAX_CLAIM_BYTES, lease_s: float
    ) -> Sequence[Delivery]:
        """
        Lease up to ``limit`` due deliveries, of events of at most ``max_bytes`` together or a single one, oldest first,
        none that an earlier outcome of its job holds back; nothing while the sink is paused or disabled.
        """
        ...

    async def record(self, results: Sequence[AttemptResult]) -> Sequence[bool]:
        """Write down what attempts came to. False for a lease that was lost meanwhile: nothing was changed."""
        ...

    async def due_in_s(self, sink: str) -> float | None:
        """
        In how many seconds the sink's next delivery is due, leased ones included (their lease may expire); below 0 when
        it was due before, None when none waits or the sink is not active.
        """
        ...

    async def outdated_receipts(
        self, *, parser_version: int, after_id: int, limit: int, with_conflicts: bool = False
    ) -> Sequence[StoredReceipt]:
        """
        Receipts with an id above ``after_id`` that could not be read, or were read by older parsers, in order of
        arrival, as far as their bodies are still there. ``with_conflicts``: also those that were refused as such.
        """
        ...

    async def reparse(self, receipt_id: int, receipt: Receipt, *, dry_run: bool) -> Reparsed:
        """
        Replace what a kept receipt meant by what it means now: new outcomes become events with deliveries; an event
        that this receipt brought and whose content changed is updated, under its id, without a delivery. With
        ``dry_run`` nothing is changed.
        """
        ...

    async def find_event(self, event_id: str) -> EventRecord | None:
        """An event with its receipts, oldest first, and its deliveries."""
        ...

    async def list_receipts(
        self,
        *,
        state: ReceiptState | None = None,
        source: str | None = None,
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[ReceiptRecord]:
        """Receipts, newest first, with ids below ``before_id``."""
        ...

    async def list_events(
        self, event_filter: EventFilter, *, before: int | None = None, limit: int
    ) -> Sequence[EventSummary]:
        """Events, newest first, with cursors below ``before``."""
        ...

    async def count_events(self, event_filter: EventFilter) -> int:
        """How many events the filter means."""
        ...

    async def list_sinks(self) -> Sequence[SinkRecord]:
        """The sinks that the inbox knows of, by name: those with a backlog, and those that are not active."""
        ...

    async def set_sink_state(self, name: str, state: SinkState, *, reason: str | None, changed_by: str | None) -> None:
        """
        Pause, disable or resume a sink, for all instances. Its pending and retrying deliveries are parked meanwhile:
        they keep their order and go on where they were.
        """
        ...

    async def retry_sink(self, name: str) -> int:
        """
        Make what is to be tried again at a sink some time due now, and tell the dispatchers of all instances not to
        leave the sink alone any more. Returns how many deliveries were brought forward.
        """
        ...

    async def create_replay(self, request: ReplayRequest) -> ReplayRecord:
        """Record that the events meant by the filter shall be delivered again; ``advance_replays`` does it."""
        ...

    async def advance_replays(self) -> float | None:
        """
        Make the next deliveries of every running replay, as many as its rate allows, oldest event first. A replay goes
        on where it was, whichever instance does this, and never faster than its rate.

        Returns:
            In how many seconds to come again; None when no replay runs.
        """
        ...

    async def cancel_replay(self, replay_id: int) -> ReplayRecord | None:
        """Make no further deliveries; what has been made goes on. Finished ones stay finished."""
        ...

    async def find_replay(self, replay_id: int) -> ReplayRecord | None: ...

    async def list_replays(self, *, before_id: int | None = None, limit: int) -> Sequence[ReplayRecord]:
        """Replays, newest first."""
        ...

    async def purge(self, *, keep_payloads: timedelta, keep_keys: timedelta, limit: int) -> Purged:
        """
        Remove, in one short transaction of at most ``limit`` rows of each, payloads (receipts, bodies of events,
        finished deliveries with their attempts) and keys (events and bindings) that are older. Events that are not
        yet delivered, and their receipts, stay whole.

        Raises:
            ClockDoubted: What is old can't be told. Nothing was removed.
        """
        ...

    # Expected jobs, and what is asked of the vendor

    async def expect(self, jobs: Sequence[ExpectedJob]) -> Sequence[JobRecord]:
        """
        Register jobs, all or none. One that is registered already (same key) stays as it is, apart from ``job_id``,
        ``media_id``, ``bind`` and ``user_data``, which are filled in where they were missing. A job whose event is
        there already has ended; one for which a nameless event of its family and asset was accepted within the last
        hour, and that no other job has taken, takes it. A job id is bound to the nonce that comes with it.

        Raises:
            JobConflict: A nonce is bound to another job id.
        """
        ...

    async def list_jobs(
        self, job_filter: JobFilter, *, before_id: int | None = None, limit: int
    ) -> Sequence[JobRecord]:
        """Expected jobs, newest first, with ids below ``before_id``."""
        ...

    async def claim_inquiries(self, product: Product, *, limit: int, lease_s: float) -> Sequence[Inquiry]:
        """
        Lease up to ``limit`` of what is due to be asked about, longest due first: expected jobs from their deadline on,
        held events at once. A held event that names no job is asked about by the only expected job that it may mean.
        """
        ...

    async def inquiry_due_in_s(self, product: Product) -> float | None:
        """
        In how many seconds something is due to be asked about next, leased inquiries included; None when there is
        nothing.
        """
        ...

    async def settle(self, findings: Sequence[Finding]) -> Sequence[Settled]:
        """
        Write down what asking came to, each finding in one transaction: its receipt with its events, the held event
        that leaves or doesn't, the job that ended. The lease of a job outlives its end, so that what the vendor says
        of its notification is kept even if a callback was quicker.
        """
        ...

    async def report_jobs(self, *, since: datetime, until: datetime) -> Sequence[ReportRow]:
        """The expected jobs that were registered in this time, by hour, product, state, transport and notification."""
        ...

    async def count_waiting(self) -> WaitingCounts:
        """For metrics."""
        ...

    async def measure(self) -> StoreSpace:
        """How large the store is, and how much room is left."""
        ...

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """
        From now on tell this listener too, in the event loop, which sinks have something new to claim; ``INQUIRIES``
        stands for something new to ask the vendor about, and ``RETRIED`` and a name for a sink to be tried now.
        """
        ...

    async def check(self) -> None:
        """
        Return if a receipt could be made durable now.

        Raises:
            ConfigError: The store is there, and not as it must be: its migrations are missing.
        """
        ...
