"""What became of a receipt, for operators: one line in the log and one count, whichever transport brought it."""

import structlog

from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.observe.metrics import Metrics

_MAX_NAMED = 20


class Reporter:
    """Counts and logs receipts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Bound once: the lazy logger would be made anew for every line.
        self._log = structlog.get_logger().bind()

    def report(self, receipt: Receipt, verdict: Verdict, duration_s: float, *, status: int | None = None) -> None:
        """
        Args:
            status: What the sender was answered, where there is one to answer.
        """
        self._metrics.receipt_kept(receipt, verdict, duration_s=duration_s)
        state: str = "journaled" if verdict.is_journaled else verdict.state
        accepted = verdict.accepted
        further: dict[str, object] = {}
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
