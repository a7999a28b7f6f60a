"""
Removing what is older than the operator wants to keep: in small steps with pauses between them, so that callbacks get
their turn, once an hour.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import structlog

from media_callbacks.inbox.roles import Purgeable
from media_callbacks.model.errors import ClockDoubted
from media_callbacks.timing.loop import Loop
from media_callbacks.timing.waiting import Wait, wait_for

# Rows of each kind in one transaction: some milliseconds, for which callbacks wait on SQLite.
STEP_ROWS = 100
MIN_PAUSE_S = 0.02
INTERVAL_S = 3600.0
# After the start, when there is most to do.
FIRST_DELAY_S = 60.0
# Of both, up or down, so that several instances do not begin together.
JITTER = 0.2

log = structlog.get_logger()


@dataclass(slots=True)
class Totals:
    """What one run removed. ``is_finished`` is false when it was stopped before the end."""

    payloads: int = 0
    keys: int = 0
    is_finished: bool = False


async def purge(
    inbox: Purgeable,
    *,
    retention_days: float,
    dedup_days: float,
    stopping: asyncio.Event,
    wait: Wait = wait_for,
    monotonic: Callable[[], float] = time.monotonic,
    progress: Callable[[Totals], None] = lambda _: None,
) -> Totals:
    """
    Remove all that is too old.

    After each step comes a pause as long as the step has taken: at most half of the store's time goes here.

    Args:
        stopping: Ends the run after the step that is under way.
        progress: Told after each step what has been removed until then.

    Raises:
        InboxUnavailable: The store failed on the way; what was done stays done.
        ClockDoubted: What is old can't be told.
    """
    totals = Totals()
    while not stopping.is_set():
        started = monotonic()
        step = await inbox.purge(
            keep_payloads=timedelta(days=retention_days),
            keep_keys=timedelta(days=dedup_days),
            limit=STEP_ROWS,
        )
        totals.payloads += step.payloads
        totals.keys += step.keys
        totals.is_finished = step.is_finished
        progress(totals)
        if step.is_finished:
            break
        await wait(stopping, max(monotonic() - started, MIN_PAUSE_S))
    return totals


class Retention(Loop):
    def __init__(
        self,
        inbox: Purgeable,
        *,
        retention_days: float,
        dedup_days: float,
        rng: Random,
        wait: Wait = wait_for,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(self._purge, name="retention", failure="purge_failed", retry_s=INTERVAL_S, wait=wait)
        self._inbox = inbox
        self._retention_days = retention_days
        self._dedup_days = dedup_days
        self._rng = rng
        self._monotonic = monotonic

    def start(self, *, after_s: float = FIRST_DELAY_S) -> None:
        super().start(after_s=self._jittered(after_s))

    async def _purge(self) -> float:
        try:
            totals = await purge(
                self._inbox,
                retention_days=self._retention_days,
                dedup_days=self._dedup_days,
                stopping=self.stopping,
                wait=self._wait,
                monotonic=self._monotonic,
            )
        except ClockDoubted as error:
            log.warning("purge_refused", reason=str(error))
        else:
            log.info("purged", payloads=totals.payloads, keys=totals.keys, is_finished=totals.is_finished)
        return self._jittered(INTERVAL_S)

    def _jittered(self, delay_s: float) -> float:
        return delay_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
