"""
Watches the clock of the store, and compares this machine's with it: both are told of when they are off, before
somebody wonders why callbacks are refused, or nothing is old enough to be removed.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import structlog

from media_callbacks.inbox.records import ClockRecord
from media_callbacks.inbox.roles import WatchedClock
from media_callbacks.timing.loop import Loop
from media_callbacks.timing.waiting import Wait, wait_for

INTERVAL_S = 60.0
# Below, a network on which the answer took long looks the same; callbacks are refused for minutes.
MAX_OFFSET_S = 10.0

log = structlog.get_logger()


class ClockObserver(Protocol):
    """Told what was seen, for metrics."""

    def clock_watched(self, record: ClockRecord, *, offset_s: float) -> None: ...


class ClockWatch(Loop):
    """
    Args:
        clock: The time in UTC, by this machine.
    """

    def __init__(
        self, inbox: WatchedClock, *, clock: Callable[[], datetime], observer: ClockObserver, wait: Wait = wait_for
    ) -> None:
        super().__init__(self._look, name="clock-watch", failure="clock_not_watched", retry_s=INTERVAL_S, wait=wait)
        self._inbox = inbox
        self._clock = clock
        self._observer = observer
        # What was told of, so that it is told once.
        self._is_off = self._is_doubted = self._is_behind = False

    async def _look(self) -> float:
        before = self._clock()
        record = await self._inbox.watch_clock()
        offset_s = (before + (self._clock() - before) / 2 - record.now).total_seconds()
        self._observer.clock_watched(record, offset_s=offset_s)
        if record.corrected_s:
            log.error("store_clock_corrected", was_ahead_s=round(record.corrected_s))
        if record.doubted_s and not self._is_doubted:
            log.error(
                "store_clock_doubted",
                stepped_s=round(record.doubted_s),
                trusted_at=record.trusted_at,
                effect="nothing is removed for its age until then, or until `purge --the-clock-is-right`",
            )
        if record.behind_s and not self._is_behind:
            log.error("store_clock_behind", behind_s=round(record.behind_s))
        is_off = abs(offset_s) > MAX_OFFSET_S
        if is_off and not self._is_off:
            log.error("clock_off", ahead_of_store_s=round(offset_s, 1), remedy="see that the machine's clock is right")
        elif self._is_off and not is_off:
            log.info("clock_agrees", ahead_of_store_s=round(offset_s, 1))
        self._is_off, self._is_doubted, self._is_behind = is_off, bool(record.doubted_s), bool(record.behind_s)
        return INTERVAL_S
