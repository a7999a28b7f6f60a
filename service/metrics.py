"""
Prometheus metrics. Label values come from fixed sets: configured names, our own words, HTTP statuses; never from a
request, so that no caller can make series.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.breaker import BreakerState
from service.inbox.base import Receipt, SinkRecord, SinkState, Verdict

CONTENT_TYPE = CONTENT_TYPE_LATEST
_M = TypeVar("_M", Counter, Histogram)
_SINK_STATES: tuple[SinkState, ...] = get_args(SinkState)
_BREAKER_STATES: tuple[BreakerState, ...] = get_args(BreakerState)
_AGE_BUCKETS_S = (-3600, -600, -300, -60, 0, 60, 300, 600, 3600, 86400)
_DURATION_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 15, 30)
_BACKLOG_STATES = ("pending", "retrying", "parked", "dead")


def read_version() -> str:
    """Of this installation; 0 for a copy of the code that is not installed."""
    try:
        return version("media-callbacks")
    except PackageNotFoundError:
        return "0"


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

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"media_callbacks_{name}", text, labels, registry=registry)

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
        self._certificate_changes = Counter(
            "media_callbacks_certificate_changes",
            "Signing certificates that were replaced under their name.",
            registry=registry,
        )
        self._journal_receipts = gauge("journal_receipts", "Receipts that wait in the journal for the store.")
        self._journal_bytes = gauge("journal_bytes", "Size of the journal's files.")
        self._unrouted = Counter("media_callbacks_unrouted_events", "New events that match no sink.", registry=registry)
        self._answer_duration = histogram(
            "answer_duration_seconds", "From the request's headers to the answer.", _DURATION_BUCKETS_S, "source"
        )
        self._attempts = counter("attempts", "Delivery attempts by result.", "sink", "result")
        self._attempt_duration = histogram(
            "attempt_duration_seconds", "How long delivery attempts took.", _DURATION_BUCKETS_S, "sink", "result"
        )
        gauge("build_info", "Which version this is; always 1.", "version").labels(read_version()).set(1)
        self._store_up = gauge("store_up", "Whether the store answered when this was asked.")
        self._deliveries = gauge("deliveries", "Deliveries that are not done, by state.", "sink", "state")
        self._oldest_age = gauge(
            "oldest_pending_age_seconds",
            "Since the oldest event that is pending, retrying or parked was accepted; 0 when there is none.",
            "sink",
        )
        self._sink_state = gauge(
            "sink_state", "1 for the state that the sink is in, 0 for the others.", "sink", "state"
        )
        self._breaker_state = gauge(
            "breaker_state",
            "1 for the state that this instance's circuit breaker of the sink is in, 0 for the others.",
            "sink",
            "state",
        )

    def receipt_kept(self, receipt: Receipt, verdict: Verdict, *, duration_s: float) -> None:
        self._answer_duration[receipt.source,].observe(duration_s)
        if verdict.is_journaled:
            self._receipts[receipt.source, "journaled"].inc()
        else:
            self.receipt_stored(receipt, verdict)

    def receipt_stored(self, receipt: Receipt, verdict: Verdict) -> None:
        """A receipt is in the store, now or after a while in the journal."""
        self._receipts[receipt.source, verdict.state].inc()
        if receipt.warnings:
            self._warnings[receipt.source,].inc(len(receipt.warnings))
        for event in verdict.accepted:
            self._events[event.data.kind, event.data.outcome].inc()

    def certificate_changed(self) -> None:
        self._certificate_changes.inc()

    def watch_journal(self, *, receipts: Callable[[], int], bytes_used: Callable[[], int]) -> None:
        """Where the journal's figures come from, if there is one."""
        self._journal_receipts.set_function(receipts)
        self._journal_bytes.set_function(bytes_used)

    def events_unrouted(self, count: int) -> None:
        self._unrouted.inc(count)

    def callback_refused(self, *, source: str, reason: str, age_s: float | None = None) -> None:
        self._rejects[source, reason].inc()
        if age_s is not None:
            self._stale_age[source,].observe(age_s)

    def attempt_finished(
        self, *, sink: str, result: Literal["delivered", "retrying", "dead", "lost"], duration_s: float
    ) -> None:
        self._attempts[sink, result].inc()
        self._attempt_duration[sink, result].observe(duration_s)

    def render(
        self, sinks: Iterable[SinkRecord] | None, breakers: Mapping[str, BreakerState], *, now: datetime
    ) -> bytes:
        """
        The exposition, with the sinks as they are just now.

        Args:
            sinks: None while the store is away: what only the store knows is left out then, for it is not 0.
        """
        self._store_up.set(sinks is not None)
        for metric in (self._deliveries, self._oldest_age, self._sink_state, self._breaker_state):
            metric.clear()
        for sink in sinks or ():
            for state, count in (dict.fromkeys(_BACKLOG_STATES, 0) | dict(sink.deliveries)).items():
                self._deliveries.labels(sink.name, state).set(count)
            oldest = sink.oldest_pending_at
            self._oldest_age.labels(sink.name).set(0 if oldest is None else max(0.0, (now - oldest).total_seconds()))
            for state in _SINK_STATES:
                self._sink_state.labels(sink.name, state).set(state == sink.state)
        for name, current in breakers.items():
            for state in _BREAKER_STATES:
                self._breaker_state.labels(name, state).set(state == current)
        return generate_latest(self._registry)
