"""
Looks for troubles of the service and has them noted, which tells of them: see docs/decisions/operational-events.md.

It looks at what is shown to Prometheus, too, and keeps what it saw while the store is away.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.inbox.records import (
    ClockRecord,
    SeenTrouble,
    SinkRecord,
    SourceActivity,
    StoreSpace,
    WaitingCounts,
)
from media_callbacks.inbox.roles import TroubleBook
from media_callbacks.model.errors import Unavailable
from media_callbacks.model.kinds import Trouble
from media_callbacks.model.operational import OperationalEvent
from media_callbacks.model.times import format_time
from media_callbacks.timing.loop import Loop
from media_callbacks.timing.waiting import Wait, wait_for
from media_callbacks.upkeep.clock_watch import MAX_OFFSET_S

INTERVAL_S = 30.0
# As the alert of Prometheus has it.
MIN_FREE_BYTES = 2**30
MIN_FREE_SHARE = 0.1
# What the vendor is asked about at the deadline is often answered within minutes.
LONG_OVERDUE = timedelta(minutes=15)
# After the start, before a source is said to be silent.
MIN_LISTENING_S = 3600.0
# What is one for all instances.
STORE, SERVICE = "store", "media-callbacks"

log = structlog.get_logger()


class WatchedStore(TroubleBook, Protocol):
    async def list_sinks(self) -> Sequence[SinkRecord]: ...

    async def count_waiting(self) -> WaitingCounts: ...

    async def measure(self) -> StoreSpace: ...

    async def now(self) -> datetime: ...

    async def list_source_activity(self) -> Sequence[SourceActivity]: ...


class Counters(Protocol):
    """What has been counted since the process began."""

    @property
    def clock(self) -> tuple[ClockRecord, float] | None:
        """The store's clock as it was seen last, and how many seconds this machine's is ahead."""
        ...

    def count_troubles(self) -> Mapping[tuple[Trouble, str | None], int]:
        """What happens and is over, by what it is with; None for the whole service."""
        ...

    def counts_delivered(self) -> Mapping[str, int]:
        """By sink."""
        ...


@dataclass(slots=True)
class _Seen:
    """What was seen and is not noted yet, in seconds of ``elapsed``."""

    first: float
    last: float
    count: int = 0
    detail: str | None = None
    is_sign: bool = True


class TroubleWatch(Loop):
    """
    Args:
        host: Names this instance.
        sources: Those that are configured.
        sinks: Whose troubles are told of: of those that take nothing but operational events they would cause
            themselves.
        route: Which sinks get an event.
        breakers: The state of each sink's circuit breaker.
        died: How many deliveries were given up since the start, by sink; those of operational events left out.
        journaled: How many receipts wait in the journal, and how many of it were set aside.
        elapsed: Seconds that only grow.
    """

    def __init__(
        self,
        store: WatchedStore,
        *,
        host: str,
        sources: Collection[str],
        sinks: Collection[str],
        route: Callable[[OperationalEvent], Sequence[str]],
        counters: Counters,
        breakers: Callable[[], Mapping[str, BreakerState]],
        died: Callable[[], Mapping[str, int]],
        journaled: Callable[[], tuple[int, int]],
        elapsed: Callable[[], float] = time.monotonic,
        wait: Wait = wait_for,
    ) -> None:
        super().__init__(self._look, name="trouble-watch", failure="troubles_not_noted", retry_s=INTERVAL_S, wait=wait)
        self._store = store
        self._host = host
        self._sources = sources
        self._sinks = sinks
        self._route = route
        self._counters = counters
        self._breakers = breakers
        self._count_died = died
        self._journaled = journaled
        self._elapsed = elapsed
        # Not noted yet.
        self._seen: dict[tuple[Trouble, str], _Seen] = {}
        self._counted: dict[tuple[Trouble, str | None], int] = {}
        self._began_at = elapsed()
        self._noted_at = -math.inf

    async def _look(self) -> float:
        self._look_around()
        try:
            await self._look_at_store()
            now = self._elapsed()
            events = await self._store.note_troubles(
                [
                    SeenTrouble(
                        trouble=trouble,
                        subject=subject,
                        began_s=now - seen.first,
                        seen_s=now - seen.last,
                        count=seen.count,
                        detail=seen.detail,
                        is_sign=seen.is_sign,
                    )
                    for (trouble, subject), seen in self._seen.items()
                ],
                instance=self._host,
                route=self._route,
                # At first, and when the store was away, other instances may have something to note as well.
                may_end=now - self._noted_at <= 2 * INTERVAL_S,
            )
        except Unavailable:
            # Others say so. What was seen is told afterwards.
            return INTERVAL_S
        self._noted_at = now
        self._seen.clear()
        for event in events:
            data = event.data
            write = log.warning if data.outcome == "began" else log.info
            write(f"trouble_{data.outcome}", trouble=data.trouble, subject=event.subject, since=data.since)
        return INTERVAL_S

    def _see(
        self, trouble: Trouble, subject: str, detail: str | None = None, *, count: int = 0, is_sign: bool = False
    ) -> None:
        now = self._elapsed()
        seen = self._seen.setdefault((trouble, subject), _Seen(now, now))
        seen.last = now
        seen.count += count
        seen.detail = detail or seen.detail
        seen.is_sign = seen.is_sign and is_sign

    # What this instance knows by itself

    def _look_around(self) -> None:
        for sink, state in self._breakers().items():
            if state != "closed" and sink in self._sinks:
                self._see("sink_failing", sink)
        for (trouble, subject), count in self._new_counts():
            self._see(trouble, subject or SERVICE, count=count)
        receipts, set_aside = self._journaled()
        if receipts:
            self._see("journal_filling", self._host, f"{receipts} receipts waited when last seen")
        if set_aside:
            self._see("journal_set_aside", self._host, f"{set_aside} receipts")
        if self._counters.clock is not None:
            self._look_at_clock(*self._counters.clock)

    def _new_counts(self) -> Iterator[tuple[tuple[Trouble, str | None], int]]:
        counted = dict(self._counters.count_troubles())
        counted |= {("deliveries_dead", sink): count for sink, count in self._count_died().items()}
        for key, count in counted.items():
            if new := count - self._counted.get(key, 0):
                yield key, new
        self._counted = counted

    def _look_at_clock(self, record: ClockRecord, offset_s: float) -> None:
        if abs(offset_s) > MAX_OFFSET_S:
            self._see(
                "clock_off", self._host, f"{abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'} the store's"
            )
        if record.doubted_s:
            self._see("store_clock_doubted", STORE, f"it went ahead by {record.doubted_s:.0f} s")
        if record.behind_s:
            self._see("store_clock_behind", STORE, f"it is {record.behind_s:.0f} s behind")

    # What the store knows

    async def _look_at_store(self) -> None:
        delivered = self._counters.counts_delivered()
        for record in await self._store.list_sinks():
            if record.name not in self._sinks:
                continue
            if record.state == "disabled":
                self._see("sink_disabled", record.name, record.reason)
            # A breaker knows nothing of before the start. It is closed, and the sink may be as dead as it was.
            if record.deliveries.get("retrying") and not delivered.get(record.name):
                self._see("sink_failing", record.name, is_sign=True)
        now, waiting = await self._store.now(), await self._store.count_waiting()
        for product, deadline_at in waiting.first_deadlines.items():
            if now - deadline_at >= LONG_OVERDUE:
                count = waiting.jobs.get((product, "overdue"), 0)
                self._see("jobs_overdue", product, f"{count} past their deadline when last seen")
        # Before, nobody may have listened.
        if self._elapsed() - self._began_at >= MIN_LISTENING_S:
            for source in await self._store.list_source_activity():
                silent_since = source.silent_since(now)
                if silent_since is not None and source.source in self._sources:
                    self._see("source_silent", source.source, f"nothing since {format_time(silent_since)}")
        space = await self._store.measure()
        if space.free_bytes is not None and space.free_bytes < max(MIN_FREE_BYTES, MIN_FREE_SHARE * space.size_bytes):
            self._see("disk_low", self._host, f"{space.free_bytes // 2**20} MiB left when last seen")
