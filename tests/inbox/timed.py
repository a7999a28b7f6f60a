"""
Inboxes whose clock is an argument: each call says what time it is then for the store.

A call that says nothing goes on at the time of the last one; ``put`` says that its receipt is received just now.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from media_callbacks.inbox.keeping.clock import AnchoredClock
from media_callbacks.inbox.operations import Operations
from media_callbacks.inbox.postgresql.inbox import PostgresqlInbox
from media_callbacks.inbox.records import (
    AttemptResult,
    ClockRecord,
    Finding,
    Inquiry,
    JobFilter,
    JobRecord,
    Purged,
    Reparsed,
    ReplayRecord,
    ReplayRequest,
    ReportRow,
    Settled,
    SinkState,
    WaitingCounts,
)
from media_callbacks.inbox.sqlite.inbox import SqliteInbox
from media_callbacks.model.events import Delivery
from media_callbacks.model.jobs import ExpectedJob
from media_callbacks.model.kinds import Product
from media_callbacks.model.receipts import Receipt, Verdict

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """A clock that is set; a store's whole one, at the start and later."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def anchored(self) -> AnchoredClock:
        return AnchoredClock(wall=self.seconds, elapsed=self.seconds)

    def seconds(self) -> float:
        return self.now.timestamp()


class Timed(Operations):
    """
    What is added to an inbox.

    Attributes:
        clock: What the store's clock says.
    """

    clock: Clock

    if TYPE_CHECKING:

        async def open(self) -> None: ...

        async def close(self) -> None: ...

        async def check(self) -> None: ...

    def _at(self, now: datetime | None) -> None:
        if now is not None:
            self.clock.now = now

    def put(self, receipt: Receipt) -> Awaitable[Verdict]:
        return self.put_at(receipt, now=receipt.received_at)

    def put_at(self, receipt: Receipt, *, now: datetime) -> Awaitable[Verdict]:
        """Whatever the instance's clock says."""
        self._at(now)
        return super().put(receipt)  # type: ignore[misc,no-any-return]

    async def watch_clock(self, *, now: datetime | None = None) -> ClockRecord:
        self._at(now)
        return await super().watch_clock()

    async def claim(
        self,
        sink: str,
        *,
        limit: int,
        max_bytes: int = 64 * 2**20,
        lease_s: float,
        now: datetime | None = None,
    ) -> Sequence[Delivery]:
        self._at(now)
        return await super().claim(sink, limit=limit, max_bytes=max_bytes, lease_s=lease_s)

    async def record(self, results: Sequence[AttemptResult], *, now: datetime | None = None) -> Sequence[bool]:
        self._at(now)
        return await super().record(results)

    async def next_due_at(self, sink: str) -> datetime | None:
        left_s = await self.due_in_s(sink)
        return None if left_s is None else self.clock.now + timedelta(seconds=left_s)

    async def reparse(
        self, receipt_id: int, receipt: Receipt, *, dry_run: bool, now: datetime | None = None
    ) -> Reparsed:
        self._at(now)
        return await super().reparse(receipt_id, receipt, dry_run=dry_run)

    async def set_sink_state(
        self, name: str, state: SinkState, *, reason: str | None, changed_by: str | None, now: datetime | None = None
    ) -> None:
        self._at(now)
        await super().set_sink_state(name, state, reason=reason, changed_by=changed_by)

    async def create_replay(self, request: ReplayRequest, *, now: datetime | None = None) -> ReplayRecord:
        self._at(now)
        return await super().create_replay(request)

    async def advance_replays(self, *, now: datetime | None = None) -> float | None:
        self._at(now)
        return await super().advance_replays()

    async def advance(self, *, now: datetime) -> datetime | None:
        """Advance replays; when to come again."""
        left_s = await self.advance_replays(now=now)
        return None if left_s is None else now + timedelta(seconds=left_s)

    async def cancel_replay(self, replay_id: int, *, now: datetime | None = None) -> ReplayRecord | None:
        self._at(now)
        return await super().cancel_replay(replay_id)

    async def purge(
        self, *, keep_payloads: timedelta, keep_keys: timedelta, limit: int, now: datetime | None = None
    ) -> Purged:
        self._at(now)
        return await super().purge(keep_payloads=keep_payloads, keep_keys=keep_keys, limit=limit)

    async def expect(self, jobs_: Sequence[ExpectedJob], *, now: datetime | None = None) -> Sequence[JobRecord]:
        self._at(now)
        return await super().expect(jobs_)

    async def list_jobs(
        self, job_filter: JobFilter, *, before_id: int | None = None, limit: int, now: datetime | None = None
    ) -> Sequence[JobRecord]:
        self._at(now)
        return await super().list_jobs(job_filter, before_id=before_id, limit=limit)

    async def claim_inquiries(
        self, product: Product, *, limit: int, lease_s: float, now: datetime | None = None
    ) -> Sequence[Inquiry]:
        self._at(now)
        return await super().claim_inquiries(product, limit=limit, lease_s=lease_s)

    async def next_inquiry_at(self, product: Product) -> datetime | None:
        left_s = await self.inquiry_due_in_s(product)
        return None if left_s is None else self.clock.now + timedelta(seconds=left_s)

    async def settle(self, findings: Sequence[Finding], *, now: datetime | None = None) -> Sequence[Settled]:
        self._at(now)
        return await super().settle(findings)

    async def report_jobs(
        self, *, since: datetime, until: datetime, now: datetime | None = None
    ) -> Sequence[ReportRow]:
        self._at(now)
        return await super().report_jobs(since=since, until=until)

    async def count_waiting(self, *, now: datetime | None = None) -> WaitingCounts:
        self._at(now)
        return await super().count_waiting()


class TimedSqliteInbox(Timed, SqliteInbox):
    """
    Args:
        clock: To be shared; else it has one of its own.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None, **arguments: Any) -> None:
        self.clock = clock or Clock()
        super().__init__(path, store_clock=self.clock.anchored(), **arguments)

    def put(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        return cast("asyncio.Future[Verdict]", super().put(receipt))


class TimedPostgresqlInbox(Timed, PostgresqlInbox):  # type: ignore[misc]  # either way of being awaited
    """
    Args:
        clock: To be shared; else it has one of its own.
    """

    def __init__(self, url: str, *, clock: Clock | None = None, **arguments: Any) -> None:
        self.clock = clock or Clock()
        super().__init__(url, clock=self.clock.seconds, **arguments)
