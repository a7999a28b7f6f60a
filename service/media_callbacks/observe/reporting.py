"""What became of a receipt, for operators: a line in the log, a count, maybe a span, whichever transport brought it."""

from collections.abc import Sequence

import structlog

from media_callbacks.model.events import trace_id_of
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.observe.metrics import Metrics
from media_callbacks.observe.tracing import Tracing
from media_callbacks.sources.base import TRACEPARENT

_MAX_NAMED = 20


class Reporter:
    """Counts, logs and traces receipts."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._tracing = tracing
        # Bound once: the lazy logger would be made anew for every line.
        self._log = structlog.get_logger().bind()

    def report(
        self,
        receipt: Receipt,
        verdict: Verdict,
        duration_s: float,
        *,
        status: int | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """
        Args:
            status: What the sender was answered, where there is one to answer.
            headers: Of its request.
        """
        self._metrics.receipt_kept(receipt, verdict, duration_s=duration_s)
        state: str = "journaled" if verdict.is_journaled else verdict.state
        accepted = verdict.accepted
        further: dict[str, object] = {}
        if self._tracing is not None and (traceparent := receipt.meta.get(TRACEPARENT)) is not None:
            self._tracing.received(receipt, verdict, traceparent, duration_s=duration_s, headers=headers)
            self._metrics.receipt_traced(receipt, duration_s, traceparent)
            further["trace_id"] = trace_id_of(traceparent)
        if status is not None:
            further["status"] = status
        if accepted:
            unrouted = 0
            for entry in receipt.entries:
                if not entry.sinks:
                    unrouted += 1
            if unrouted:
                self._metrics.events_unrouted(unrouted)
            event = accepted[-1]
            further["event_id"], further["type"] = event.id, event.type
            if len(accepted) > 1:
                further["events"] = len(accepted)
        if verdict.differs:
            further["differs"] = list(verdict.differs[:_MAX_NAMED])
        if verdict.held:
            further["held"] = verdict.held
        if receipt.reason is not None:
            further["reason"] = receipt.reason
        if receipt.warnings:
            # Not which ones: a path may hold names that the caller chose.
            further["warnings"] = len(receipt.warnings)
        write = self._log.info if state in ("accepted", "duplicate", "journaled") else self._log.warning
        write(
            "callback",
            source=receipt.source,
            state=state,
            duration_ms=round(duration_s * 1000, 2),
            **further,
        )
