"""
Prometheus metrics. Label values come from fixed sets: configured names, our own words, HTTP statuses; never from a
request, so that no caller can make series.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.inbox.base import DeliveryState, Receipt, Verdict

CONTENT_TYPE = CONTENT_TYPE_LATEST
_M = TypeVar("_M", Counter, Histogram)
_AGE_BUCKETS_S = (-3600, -600, -300, -60, 0, 60, 300, 600, 3600, 86400)
_DURATION_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 15, 30)


class _ByLabels(dict[tuple[str, ...], _M]):
    """The children of a metric; looking one up here costs a tenth of what ``labels`` does."""

    def __init__(self, metric: _M) -> None:
        super().__init__()
        self._metric: _M = metric

    def __missing__(self, labels: tuple[str, ...]) -> _M:
        child = self[labels] = self._metric.labels(*labels)
        return child


class Metrics:
    """All metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> _ByLabels[Counter]:
            return _ByLabels(Counter(f"media_callbacks_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> _ByLabels[Histogram]:
            return _ByLabels(Histogram(f"media_callbacks_{name}", text, labels, buckets=buckets, registry=registry))

        self._receipts = counter("receipts", "Genuine callbacks by what became of them.", "source", "state")
        self._rejects = counter("rejects", "Callbacks that were refused, by reason.", "source", "reason")
        self._stale_age = histogram(
            "stale_age_seconds",
            "Age of callbacks whose signature is right and whose time is not; negative when the sender is ahead.",
            _AGE_BUCKETS_S,
            "source",
        )
        self._events = counter("events", "New events by kind and outcome.", "kind", "outcome")
        self._warnings = counter("parse_warnings", "Fields that could not be understood.", "source")
        self._unrouted = Counter("media_callbacks_unrouted_events", "New events that match no sink.", registry=registry)
        self._answer_duration = histogram(
            "answer_duration_seconds", "From the request's headers to the answer.", _DURATION_BUCKETS_S, "source"
        )
        self._attempts = histogram(
            "attempt_duration_seconds", "Delivery attempts by result.", _DURATION_BUCKETS_S, "sink", "result"
        )
        self._deliveries = Gauge(
            "media_callbacks_deliveries",
            "Deliveries that are not done, by state.",
            ["sink", "state"],
            registry=registry,
        )

    def receipt_kept(self, receipt: Receipt, verdict: Verdict, *, duration_s: float) -> None:
        self._receipts[receipt.source, verdict.state].inc()
        self._answer_duration[receipt.source,].observe(duration_s)
        if receipt.warnings:
            self._warnings[receipt.source,].inc(len(receipt.warnings))
        for event in verdict.accepted:
            self._events[event.data.kind, event.data.outcome].inc()

    def events_unrouted(self, count: int) -> None:
        self._unrouted.inc(count)

    def callback_refused(self, *, source: str, reason: str, age_s: float | None = None) -> None:
        self._rejects[source, reason].inc()
        if age_s is not None:
            self._stale_age[source,].observe(age_s)

    def attempt_finished(
        self, *, sink: str, result: Literal["delivered", "retrying", "dead", "lost"], duration_s: float
    ) -> None:
        self._attempts[sink, result].observe(duration_s)

    def render(self, deliveries: Mapping[tuple[str, DeliveryState], int]) -> bytes:
        """The exposition, with the backlog as just counted."""
        self._deliveries.clear()
        for (sink, state), count in deliveries.items():
            self._deliveries.labels(sink, state).set(count)
        return generate_latest(self._registry)
