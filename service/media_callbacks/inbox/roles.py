"""
What an inbox promises, whatever database is behind it: a role for each who uses it, and ``Inbox`` for all of them.

``put`` returns only after the receipt, its events and their deliveries are durable, in one transaction. A delivery is
leased to one dispatcher at a time; every statement about a leased delivery carries the lease, and one that was lost
meanwhile changes nothing.

Leases, due times, deadlines and ages are told by one clock, that of the store (see ``inbox.keeping.clock``); callers
say how long, never when. ``now`` tells its time.

All methods raise InboxUnavailable when the database can't do its work just now.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from media_callbacks.inbox.records import (
    ActivityCount,
    ActivityWord,
    AttemptResult,
    ClockRecord,
    ErasureRecord,
    ErasureRequest,
    ErasureStep,
    EventFilter,
    EventRecord,
    EventSummary,
    FeedCursor,
    FeedFilter,
    FeedPart,
    Finding,
    Inquiry,
    JobFilter,
    JobHit,
    JobLife,
    JobName,
    JobRecord,
    KeptReceipt,
    MedianTimes,
    Purged,
    ReceiptRecord,
    RefusedDetail,
    RefusedRecord,
    RefusedRow,
    Reparsed,
    ReplayRecord,
    ReplayRequest,
    ReportRow,
    SeenTrouble,
    Settled,
    SinkRecord,
    SinkState,
    SourceActivity,
    SourceNews,
    StoreSpace,
    TroubleRecord,
    WaitingCounts,
)
from media_callbacks.model.events import Delivery
from media_callbacks.model.jobs import ExpectedJob
from media_callbacks.model.kinds import Product
from media_callbacks.model.operational import OperationalEvent
from media_callbacks.model.receipts import Receipt, ReceiptState, StoredReceipt, Verdict

# What several need


class Notices(Protocol):
    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """
        From now on tell this listener too, in the event loop, which sinks have something new to claim; ``INQUIRIES``
        stands for something new to ask the vendor about, ``UNROUTED`` for an event that goes to no sink, and
        ``RETRIED`` and a name for a sink to be tried now.
        """
        ...


class StoreClock(Protocol):
    async def now(self) -> datetime:
        """The time by the clock of the store."""
        ...


class SinkSwitch(Protocol):
    async def set_sink_state(self, name: str, state: SinkState, *, reason: str | None, changed_by: str | None) -> None:
        """
        Pause, disable or resume a sink, for all instances. Its pending and retrying deliveries are parked meanwhile:
        they keep their order and go on where they were.
        """
        ...


# Receipts in


class ReceiptWriter(Protocol):
    """For whoever takes callbacks and messages of queues."""

    def put(self, receipt: Receipt) -> Awaitable[Verdict]:
        """Keep a receipt and create the events and deliveries that are new. Durable when it returns."""
        ...


class HealthCheck(Protocol):
    async def check(self) -> None:
        """
        Return if a receipt could be made durable now.

        Raises:
            ConfigError: The store is there, and not as it must be: its migrations are missing.
        """
        ...


class ReceiptStore(ReceiptWriter, HealthCheck, Protocol):
    """Where receipts go: an inbox, or a journal in front of one."""

    async def open(self) -> None:
        """Connect, migrate where allowed, and free what an earlier life of this process had leased."""
        ...

    async def close(self) -> None:
        """Finish what was begun and disconnect."""
        ...


# What goes on by itself


class DeliveryQueue(Notices, SinkSwitch, Protocol):
    """For the dispatcher."""

    async def claim(self, sink: str, *, limit: int, max_bytes: int, lease_s: float) -> Sequence[Delivery]:
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


class ReplayQueue(Protocol):
    """For the replayer."""

    async def advance_replays(self) -> float | None:
        """
        Make the next deliveries of every running replay, as many as its rate allows, oldest event first. A replay goes
        on where it was, whichever instance does this, and never faster than its rate.

        Returns:
            In how many seconds to come again; None when no replay runs.
        """
        ...


class InquiryQueue(Notices, StoreClock, Protocol):
    """For the reconciler."""

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


class Purgeable(Protocol):
    """For the retention."""

    async def purge(self, *, keep_payloads: timedelta, keep_keys: timedelta, limit: int) -> Purged:
        """
        Remove, in one short transaction of at most ``limit`` rows of each, payloads (receipts, bodies of events,
        finished deliveries with their attempts) and keys (events and bindings) that are older. Events that are not
        yet delivered, and their receipts, stay whole.

        Raises:
            ClockDoubted: What is old can't be told. Nothing was removed.
        """
        ...


class WatchedClock(Protocol):
    """For the clock watch."""

    async def watch_clock(self) -> ClockRecord:
        """
        Note that the store's clock was seen, and how far it has stepped since it was seen last. What was put off by a
        step that has proved wrong is put back. See ``inbox.keeping.clock``.
        """
        ...


class TroubleReader(Protocol):
    """Who shows troubles."""

    async def list_troubles(self) -> Sequence[TroubleRecord]:
        """Those that have not ended, whether they were told of or not."""
        ...


class TroubleBook(TroubleReader, Protocol):
    """For whoever watches for troubles."""

    async def note_troubles(
        self,
        seen: Sequence[SeenTrouble],
        *,
        instance: str,
        route: Callable[[OperationalEvent], Sequence[str]],
        may_end: bool = True,
    ) -> Sequence[OperationalEvent]:
        """
        Write down what an instance sees, and tell of what has begun or ended, in one transaction.

        Args:
            route: Which sinks get an event. Where there are none there is no event.
            may_end: Whether what nobody has seen for a while has ended.

        Returns:
            What has begun or ended, whether a sink is told or not.
        """
        ...


# What operators and applications ask and order


class EventReader(Protocol):
    async def find_event(self, event_id: str) -> EventRecord | None:
        """An event with its receipts, oldest first, and its deliveries."""
        ...

    async def list_events(
        self, event_filter: EventFilter, *, before: int | None = None, limit: int
    ) -> Sequence[EventSummary]:
        """Events, newest first, with cursors below ``before``."""
        ...

    async def count_events(self, event_filter: EventFilter) -> int:
        """How many events the filter means."""
        ...

    async def find_life(self, name: JobName) -> JobLife:
        """All that is known of a job; nothing may be."""
        ...

    async def search(self, text: str, *, limit: int) -> Sequence[JobHit]:
        """Jobs that this names: a job id, media id, nonce or event's id, or user data, whole or the beginning of it."""
        ...

    async def find_receipt(self, receipt_id: int) -> KeptReceipt | None: ...

    async def list_receipts(
        self,
        *,
        state: ReceiptState | None = None,
        source: str | None = None,
        job_id: str | None = None,
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[ReceiptRecord]:
        """
        Receipts, newest first, with ids below ``before_id``. Those about a job are also what has brought no event, as
        far as it can be found.
        """
        ...


class JobWatchStore(Notices, Protocol):
    """For whoever waits for jobs."""

    async def find_endings(
        self, asked: Collection[tuple[Product, str]]
    ) -> Mapping[tuple[Product, str], frozenset[str]]:
        """
        What ends jobs by now, each asked for by its product and its job id or nonce, registered or not: something that
        tells one end from another. Those that have not ended are left out.
        """
        ...


class FeedStore(Notices, Protocol):
    """For those who follow events."""

    async def read_feed(
        self, after: FeedCursor | datetime | None, filters: Sequence[FeedFilter], *, limit: int, max_bytes: int
    ) -> FeedPart:
        """
        The next events that one of the filters may want, in order of acceptance: at most ``limit``, of ``max_bytes``
        together or a single one. None that comes later stands before one that was shown. They are durable.

        Args:
            after: A cursor; or a time, for what was accepted then or later; or None, for what comes from now on.

        Raises:
            CursorGone: What follows the cursor can't be told any more.
        """
        ...


class SinkControl(SinkSwitch, Protocol):
    async def list_sinks(self) -> Sequence[SinkRecord]:
        """The sinks that the inbox knows of, by name: those with a backlog, and those that are not active."""
        ...

    async def retry_sink(self, name: str) -> int:
        """
        Make what is to be tried again at a sink some time due now, and tell the dispatchers of all instances not to
        leave the sink alone any more. Returns how many deliveries were brought forward.
        """
        ...


class ReplayControl(Protocol):
    async def create_replay(self, request: ReplayRequest) -> ReplayRecord:
        """Record that the events meant by the filter shall be delivered again; ``advance_replays`` does it."""
        ...

    async def cancel_replay(self, replay_id: int) -> ReplayRecord | None:
        """Make no further deliveries; what has been made goes on. Finished ones stay finished."""
        ...

    async def find_replay(self, replay_id: int) -> ReplayRecord | None: ...

    async def list_replays(self, *, before_id: int | None = None, limit: int) -> Sequence[ReplayRecord]:
        """Replays, newest first."""
        ...


class Eraser(Protocol):
    async def erase(
        self, request: ErasureRequest, *, erasure_id: int | None, position: str | None, dry_run: bool
    ) -> ErasureStep:
        """
        Erase the next part of what is kept of a subject, in one short transaction; or count it, which changes nothing.

        Args:
            erasure_id, position: As the part before has returned them; None for the first.

        Raises:
            ValueError: The erasure is not there, has ended, or is of another subject; or this is no position.
        """
        ...

    async def list_erasures(self, *, before_id: int | None = None, limit: int) -> Sequence[ErasureRecord]:
        """Erasures, newest first."""
        ...


class JobRegistry(Protocol):
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

    async def report_jobs(self, *, since: datetime, until: datetime) -> Sequence[ReportRow]:
        """The expected jobs that were registered in this time, by hour, product, state, transport and notification."""
        ...


class ActivityLog(Protocol):
    """For whoever notes what comes in and what is refused."""

    async def keep_refused(self, refused: Sequence[RefusedRow]) -> None:
        """Keep the last requests that were refused, of each source and reason as many as the bounds say."""
        ...

    async def note_sources(self, configurations: Mapping[str, str]) -> None:
        """Which sources there are, with a hash of how each is configured."""
        ...

    async def note_activity(
        self, news: Sequence[SourceNews], counted: Sequence[tuple[ActivityWord, str, int]] = ()
    ) -> None:
        """Something came through sources, was refused or delivered just now: how much, by source or sink."""
        ...

    async def summarise(self) -> None:
        """Keep what lists and counts go by short and complete, a step at a time."""
        ...


class ActivityReader(Protocol):
    async def list_activity(self, *, since: datetime) -> Sequence[ActivityCount]:
        """How much there was, by minute; of the last day."""
        ...

    async def sample_times(self, edges: Sequence[datetime]) -> Sequence[MedianTimes]:
        """How long it took, of what began between each two of these moments."""
        ...


class RefusalReader(Protocol):
    async def list_refused(
        self,
        *,
        source: str | None = None,
        reason: str | None = None,
        cause: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[RefusedRecord]:
        """Requests that were refused, newest first, with ids below ``before_id``, and this text in what is kept."""
        ...

    async def find_refused(self, refused_id: int) -> RefusedDetail | None: ...

    async def list_source_activity(self) -> Sequence[SourceActivity]:
        """When something came through each source, by name; also of sources that were configured once."""
        ...


class AdminStore(
    EventReader,
    ActivityReader,
    RefusalReader,
    SinkControl,
    ReplayControl,
    Eraser,
    JobRegistry,
    TroubleReader,
    StoreClock,
    HealthCheck,
    Protocol,
):
    """For the admin API."""

    async def count_waiting(self) -> WaitingCounts:
        """What waits for the vendor's answer."""
        ...

    async def measure(self) -> StoreSpace:
        """How large the store is, and how much room is left."""
        ...


class StoreRepair(Protocol):
    """For commands, beside a service or without one."""

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

    async def trust_clock(self) -> None:
        """An operator says that the store's clock is right, whatever it looks like."""
        ...


class Inbox(
    ReceiptStore,
    DeliveryQueue,
    ReplayQueue,
    InquiryQueue,
    Purgeable,
    WatchedClock,
    TroubleBook,
    AdminStore,
    JobWatchStore,
    FeedStore,
    ActivityLog,
    StoreRepair,
    Protocol,
):
    """The whole."""
