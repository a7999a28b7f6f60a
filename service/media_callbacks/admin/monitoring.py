"""The numbers of the service, for Prometheus."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from starlette.responses import Response

from media_callbacks.admin.operations import operation
from media_callbacks.admin.sinks import Sinks
from media_callbacks.inbox.records import ReportRow, SinkRecord, StoreSpace, WaitingCounts
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.errors import ConfigError, Unavailable
from media_callbacks.observe.metrics import CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE, Metrics

# Longer than a store that works takes, shorter than Prometheus waits.
TIMEOUT_S = 5.0
# Which registrations are counted by what became of them.
RECENT = timedelta(hours=1)
_OPENMETRICS = "application/openmetrics-text"

log = structlog.get_logger()


class Monitoring:
    def __init__(self, inbox: AdminStore, sinks: Sinks, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._inbox = inbox
        self._sinks = sinks
        self._metrics = metrics
        self._clock = clock

    @operation(
        "GET",
        "/metrics",
        "Numbers for Prometheus",
        description=f"As {_OPENMETRICS}, with exemplars of traces, where `Accept` has it.",
        answers={200: "text/plain"},
    )
    async def metrics(self, accept: str) -> Response:
        """Also while the store is away: then they are most wanted."""
        now = self._clock()
        sinks: list[SinkRecord] | None = None
        waiting: WaitingCounts | None = None
        recent: Sequence[ReportRow] = ()
        space: StoreSpace | None = None
        is_writable = False
        try:
            async with asyncio.timeout(TIMEOUT_S):
                now = await self._inbox.now()
                sinks = await self._sinks.records()
                waiting = await self._inbox.count_waiting()
                recent = await self._inbox.report_jobs(since=now - RECENT, until=now)
                space = await self._inbox.measure()
                await self._inbox.check()
                is_writable = True
        except (ConfigError, Unavailable, TimeoutError) as error:
            log.warning("metrics_without_store", error=str(error))
        text = self._metrics.render(
            sinks,
            self._sinks.breaker_states(),
            waiting=waiting,
            recent=recent,
            space=space,
            is_writable=is_writable,
            now=now,
            openmetrics=_OPENMETRICS in accept,
        )
        return Response(text, media_type=OPENMETRICS_CONTENT_TYPE if _OPENMETRICS in accept else CONTENT_TYPE)
