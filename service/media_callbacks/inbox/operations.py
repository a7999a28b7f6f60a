"""
What both inboxes do in the same way: each operation of ``roles.Inbox`` as a transaction over ``Database``.

An inbox adds how receipts get in, and how a transaction is run.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar

from media_callbacks.inbox.asking import inquiries, jobs
from media_callbacks.inbox.database import Database
from media_callbacks.inbox.keeping import clock, counts, purging, spans, troubles
from media_callbacks.inbox.operating import activity, erasures, feed, lives, reads, refusals, replays, searches, sinks
from media_callbacks.inbox.pending import Answered
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.records import (
    INQUIRIES,
    RETRIED,
    UNROUTED,
    ActivityCount,
    ActivityWord,
    AttemptResult,
    ClockRecord,
    ErasureCounts,
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
from media_callbacks.inbox.rows import from_milliseconds, to_milliseconds
from media_callbacks.model.errors import ClockDoubted, JobConflict
from media_callbacks.model.events import Delivery
from media_callbacks.model.jobs import ExpectedJob
from media_callbacks.model.kinds import Product
from media_callbacks.model.operational import OperationalEvent
from media_callbacks.model.receipts import Receipt, ReceiptState, StoredReceipt, Verdict

# Deliveries in a transaction.
_FORWARD_STEP = 1000
_T = TypeVar("_T")
Run = Callable[[Database], Awaitable[_T]]


class Operations(ABC):
    """What is not about receipts getting in. See ``roles.Inbox`` for what each does."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self._purge_position = purging.Position()
        self._spared: purging.Spared = {}

    @abstractmethod
    async def _write(
        self, run: Run[_T], *, is_one_statement: bool = False, may_take_long: bool = False, needs_flush: bool = True
    ) -> _T:
        """
        Do something in a transaction; durable when it returns. It may be run again after having been taken back.

        Args:
            is_one_statement: It is a transaction by itself, if the database takes one round trip for each statement.
            may_take_long: It must delay no dispatcher.
            needs_flush: Otherwise a crash of the machine may take it back, if it comes within a moment.
        """

    @abstractmethod
    async def _read(self, run: Run[_T], *, may_take_long: bool = True) -> _T:
        """Look at something. What may take long delays no dispatcher."""

    async def _write_each(self, runs: Sequence[Run[_T]]) -> list[_T | BaseException]:
        """Do things in order, each in a transaction of its own, so that one that fails does not fail its neighbours."""
        results: list[_T | BaseException] = []
        for run in runs:
            try:
                results.append(await self._write(run))
            except Exception as error:  # noqa: BLE001 - the caller raises it
                results.append(error)
        return results

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        self._listeners.append(listener)

    def _tell(self, names: Collection[str]) -> None:
        if names:
            for listener in self._listeners:
                listener(names)

    # The clock

    async def now(self) -> datetime:
        return from_milliseconds(await self._read(lambda d: d.now(), may_take_long=False))

    async def watch_clock(self) -> ClockRecord:
        return await self._write(clock.watch, may_take_long=True)

    async def trust_clock(self) -> None:
        await self._write(clock.trust)

    # Troubles

    async def note_troubles(
        self,
        seen: Sequence[SeenTrouble],
        *,
        instance: str,
        route: Callable[[OperationalEvent], Sequence[str]],
        may_end: bool = True,
    ) -> Sequence[OperationalEvent]:
        # Most of the time there is nothing.
        if not seen and not await self.list_troubles():
            return ()
        events, told = await self._write(
            lambda d: troubles.note(d, seen, instance=instance, route=route, may_end=may_end), may_take_long=True
        )
        self._tell(told)
        return events

    async def list_troubles(self) -> Sequence[TroubleRecord]:
        return await self._read(troubles.list_troubles)

    @abstractmethod
    async def measure(self) -> StoreSpace: ...

    # Deliveries

    async def claim(self, sink: str, *, limit: int, max_bytes: int, lease_s: float) -> Sequence[Delivery]:
        lease_ms, lease = int(lease_s * 1000), token_hex(8)
        return await self._write(
            lambda d: d.claim_deliveries(sink, limit=limit, max_bytes=max_bytes, lease_ms=lease_ms, lease=lease),
            is_one_statement=True,
            needs_flush=False,
        )

    async def record(self, results: Sequence[AttemptResult]) -> Sequence[bool]:
        kept, released = await self._write(
            lambda d: d.record_attempts(results), is_one_statement=True, needs_flush=False
        )
        self._tell(released)
        return kept

    async def due_in_s(self, sink: str) -> float | None:
        return await self._read(lambda d: _seconds_until(d, sinks.next_due_at(d, sink)), may_take_long=False)

    async def set_sink_state(self, name: str, state: SinkState, *, reason: str | None, changed_by: str | None) -> None:
        await self._write(lambda d: sinks.set_sink_state(d, name, state, reason=reason, changed_by=changed_by))
        if state == "active":
            self._tell({name})

    async def retry_sink(self, name: str) -> int:
        brought = 0
        # No more than there are now: what fails again meanwhile is to be tried later again.
        wanted = await self._read(lambda d: sinks.count_put_off(d, name))
        # Each in a transaction of its own, so that receipts and claims can go between them.
        while brought < wanted:
            limit = min(_FORWARD_STEP, wanted - brought)
            step = await self._write(partial(sinks.bring_forward, name=name, limit=limit))
            brought += step
            if step < limit:
                break
        brought += await self._write(lambda d: sinks.release_stranded(d, name))
        self._tell({name, RETRIED + name})
        return brought

    # Receipts and events

    async def outdated_receipts(
        self, *, parser_version: int, after_id: int, limit: int, with_conflicts: bool = False
    ) -> Sequence[StoredReceipt]:
        return await self._read(
            lambda d: reads.outdated_receipts(
                d, parser_version=parser_version, after_id=after_id, limit=limit, with_conflicts=with_conflicts
            )
        )

    async def reparse(self, receipt_id: int, receipt: Receipt, *, dry_run: bool) -> Reparsed:
        reparsed = await self._write(lambda d: accepting.reparse(d, receipt_id, receipt, dry_run=dry_run))
        if not dry_run:
            told: set[str] = set()
            _tell_of(told, receipt, has_accepted=bool(reparsed.accepted))
            self._tell(told)
        return reparsed

    async def find_event(self, event_id: str) -> EventRecord | None:
        return await self._read(lambda d: reads.find_event(d, event_id))

    async def find_life(self, name: JobName) -> JobLife:
        return await self._read(lambda d: lives.find_life(d, name))

    async def find_endings(
        self, asked: Collection[tuple[Product, str]]
    ) -> Mapping[tuple[Product, str], frozenset[str]]:
        return await self._read(lambda d: lives.find_endings(d, asked))

    async def search(self, text: str, *, limit: int) -> Sequence[JobHit]:
        return await self._read(lambda d: searches.search(d, text, limit=limit))

    async def find_receipt(self, receipt_id: int) -> KeptReceipt | None:
        return await self._read(lambda d: reads.find_receipt(d, receipt_id))

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
        since_ms = None if since is None else to_milliseconds(since)

        async def read(database: Database) -> Sequence[ReceiptRecord]:
            ids = None if job_id is None else await lives.find_receipt_ids(database, job_id)
            return await reads.list_receipts(
                database, state=state, source=source, ids=ids, since=since_ms, before_id=before_id, limit=limit
            )

        return await self._read(read)

    async def list_events(
        self, event_filter: EventFilter, *, before: int | None = None, limit: int
    ) -> Sequence[EventSummary]:
        return await self._read(lambda d: reads.list_events(d, event_filter, before=before, limit=limit))

    async def count_events(self, event_filter: EventFilter) -> int:
        return await self._read(lambda d: reads.count_events(d, event_filter))

    async def read_feed(
        self, after: FeedCursor | datetime | None, filters: Sequence[FeedFilter], *, limit: int, max_bytes: int
    ) -> FeedPart:
        start = to_milliseconds(after) if isinstance(after, datetime) else after
        return await self._read(lambda d: feed.read(d, start, filters, limit=limit, max_bytes=max_bytes))

    async def keep_refused(self, refused: Sequence[RefusedRow]) -> None:
        await self._write(lambda d: refusals.keep(d, refused), may_take_long=True)

    async def note_sources(self, configurations: Mapping[str, str]) -> None:
        await self._write(lambda d: refusals.note_sources(d, configurations))

    async def note_activity(
        self, news: Sequence[SourceNews], counted: Sequence[tuple[ActivityWord, str, int]] = ()
    ) -> None:
        async def note(database: Database) -> None:
            await refusals.note_activity(database, news)
            await activity.note(database, counted)

        await self._write(note)

    async def summarise(self) -> None:
        if groups := await self._read(counts.find_foldable):
            await self._write(lambda d: counts.fold(d, groups), may_take_long=True)
        for found in await self._read(spans.look):
            await self._write(partial(spans.note, found=found), may_take_long=True)

    async def list_activity(self, *, since: datetime) -> Sequence[ActivityCount]:
        return await self._read(lambda d: activity.list_counts(d, since=since))

    async def sample_times(self, edges: Sequence[datetime]) -> Sequence[MedianTimes]:
        return await self._read(lambda d: activity.sample_times(d, edges))

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
        return await self._read(
            lambda d: refusals.list_refused(
                d, source=source, reason=reason, cause=cause, text=text, since=since, before_id=before_id, limit=limit
            )
        )

    async def find_refused(self, refused_id: int) -> RefusedDetail | None:
        return await self._read(lambda d: refusals.find(d, refused_id))

    async def list_source_activity(self) -> Sequence[SourceActivity]:
        return await self._read(refusals.list_sources)

    async def list_sinks(self) -> Sequence[SinkRecord]:
        return await self._read(sinks.list_sinks)

    async def purge(self, *, keep_payloads: timedelta, keep_keys: timedelta, limit: int) -> Purged:
        position = self._purge_position
        payloads_ms, keys_ms = (int(kept.total_seconds() * 1000) for kept in (keep_payloads, keep_keys))
        purged, self._purge_position = await self._write(
            lambda d: purging.purge(
                d, position, keep_payloads_ms=payloads_ms, keep_keys_ms=keys_ms, limit=limit, spared=self._spared
            ),
            may_take_long=True,
        )
        if isinstance(purged, str):
            raise ClockDoubted(purged)
        return purged

    # Replays. Which events come next is looked up first, so that a filter that matches little holds no writer up.

    async def create_replay(self, request: ReplayRequest) -> ReplayRecord:
        total, last_id = await self._read(lambda d: replays.measure(d, request))
        return await self._write(lambda d: replays.create(d, request, total=total, last_id=last_id))

    async def advance_replays(self) -> float | None:
        if steps := await self._read(replays.next_steps):
            self._tell(await self._write(lambda d: replays.take_steps(d, steps), may_take_long=True))
        return await self._read(lambda d: _seconds_until(d, replays.next_at(d)))

    async def cancel_replay(self, replay_id: int) -> ReplayRecord | None:
        return await self._write(lambda d: replays.cancel(d, replay_id))

    async def find_replay(self, replay_id: int) -> ReplayRecord | None:
        return await self._read(lambda d: replays.find(d, replay_id))

    async def list_replays(self, *, before_id: int | None = None, limit: int) -> Sequence[ReplayRecord]:
        return await self._read(lambda d: replays.list_replays(d, before_id=before_id, limit=limit))

    # Erasures, likewise

    async def erase(
        self, request: ErasureRequest, *, erasure_id: int | None, position: str | None, dry_run: bool
    ) -> ErasureStep:
        at = erasures.Position() if position is None else erasures.Position.parse(position)
        if dry_run:
            erasure_id = None
        elif erasure_id is None:
            erasure_id = await self._write(lambda d: erasures.begin(d, request))
        elif not await self._read(lambda d: erasures.is_of(d, erasure_id, request)):
            raise ValueError("no erasure of this subject is under way with this number")
        found = await self._read(lambda d: erasures.find(d, request, at))
        following = None if found.next_position is None else str(found.next_position)
        if dry_run and not found.row_ids:
            return ErasureStep(None, ErasureCounts(), following)
        counts, told = await self._write(
            lambda d: erasures.apply(d, found, erasure_id, may_drop=request.may_drop), may_take_long=True
        )
        self._tell(told)
        return ErasureStep(erasure_id, counts, following)

    async def list_erasures(self, *, before_id: int | None = None, limit: int) -> Sequence[ErasureRecord]:
        return await self._read(lambda d: erasures.list_erasures(d, before_id=before_id, limit=limit))

    # Expected jobs, and what is asked of the vendor

    async def expect(self, jobs_: Sequence[ExpectedJob]) -> Sequence[JobRecord]:
        keyed = [(job.reference.key().digest(), job) for job in jobs_]
        records = await self._write(lambda d: jobs.expect(d, keyed))
        if isinstance(records, str):
            raise JobConflict(records)
        if any(record.ended_at is None for record in records):
            self._tell({INQUIRIES})
        return records

    async def list_jobs(
        self, job_filter: JobFilter, *, before_id: int | None = None, limit: int
    ) -> Sequence[JobRecord]:
        return await self._read(lambda d: jobs.list_jobs(d, job_filter, before_id=before_id, limit=limit))

    async def claim_inquiries(self, product: Product, *, limit: int, lease_s: float) -> Sequence[Inquiry]:
        lease_ms, lease = int(lease_s * 1000), token_hex(8)
        return await self._write(lambda d: inquiries.claim(d, product, limit=limit, lease_ms=lease_ms, lease=lease))

    async def inquiry_due_in_s(self, product: Product) -> float | None:
        return await self._read(lambda d: _seconds_until(d, inquiries.next_at(d, product)), may_take_long=False)

    async def settle(self, findings: Sequence[Finding]) -> Sequence[Settled]:
        results = await self._write_each([partial(inquiries.settle, finding=finding) for finding in findings])
        done = [result for result in results if not isinstance(result, BaseException)]
        self._tell({name for _, woken in done for name in woken})
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [settled for settled, _ in done]

    async def report_jobs(self, *, since: datetime, until: datetime) -> Sequence[ReportRow]:
        times = {"since": to_milliseconds(since), "until": to_milliseconds(until)}
        return await self._read(lambda d: jobs.report(d, **times))

    async def count_waiting(self) -> WaitingCounts:
        return await self._read(jobs.count_waiting)


async def _seconds_until(database: Database, due_at: Awaitable[int | None]) -> float | None:
    at = await due_at
    return None if at is None else (at - await database.now()) / 1000


def needs_care(receipt: Receipt) -> bool:
    """Whether a receipt has entries that are held or that name no job: rare, and not for the fast path."""
    for entry in receipt.entries:  # noqa: SIM110 - asked of every receipt, and `any` costs twice as much
        if entry.hold is not None or entry.nameless is not None:
            return True
    return False


def news_of(answered: Iterable[Answered[Any]]) -> set[str]:
    """Who is to be told of what was just answered: of receipts, as far as there is a verdict."""
    told: set[str] = set()
    for one, result in answered:
        if isinstance(result, Verdict) and result.state in ("accepted", "differing"):
            _tell_of(told, one.item, has_accepted=bool(result.accepted))
    return told


def _tell_of(told: set[str], receipt: Receipt, *, has_accepted: bool) -> None:
    """Add who is to be told of a receipt that was kept and has brought something."""
    for entry in receipt.entries:
        if has_accepted:
            told.update(entry.sinks or (UNROUTED,))
        if entry.hold is not None or entry.nameless is not None:
            told.add(INQUIRIES)
