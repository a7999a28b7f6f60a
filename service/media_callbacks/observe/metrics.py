"""
Prometheus metrics. Label values come from fixed sets: configured names, our own words, HTTP statuses; never from a
request, so that no caller can make series.

What has labels and is counted has classes of our own. With prometheus_client's, even with their children kept at hand,
the metrics of one receipt took 2.6 times as long, some microseconds, and each series came with another one, of when it
was created.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import accumulate
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.utils import floatToGoString

from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.inbox.records import (
    AttemptWord,
    ClockRecord,
    ReportRow,
    SinkRecord,
    SinkState,
    StoreSpace,
    WaitingCounts,
)
from media_callbacks.model.events import Event, trace_id_of
from media_callbacks.model.kinds import Trouble
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.version import read_version

CONTENT_TYPE = CONTENT_TYPE_LATEST
OPENMETRICS_CONTENT_TYPE = openmetrics_exposition.CONTENT_TYPE_LATEST
_SINK_STATES: tuple[SinkState, ...] = get_args(SinkState)
_BREAKER_STATES: tuple[BreakerState, ...] = get_args(BreakerState)
_AGE_BUCKETS_S = (-3600, -600, -300, -60, 0, 60, 300, 600, 3600, 86400)
_DURATION_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 15, 30)
_PREFIX = "media_callbacks_"
_BACKLOG_STATES = ("pending", "retrying", "parked", "dead")

_TROUBLES_BY_STATE: Mapping[str, Trouble] = {"conflict": "claims_contradicted", "differing": "content_differing"}


class _Counts(defaultdict[tuple[str, ...], int]):
    """A counter by its labels' values."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        super().__init__(int)
        self._name, self._text, self._labels = name, text, labels

    # The registry keeps collectors by what they are, not by what they hold.
    __hash__ = object.__hash__  # type: ignore[assignment]

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in self.items():
            family.add_metric(labels, count)
        yield family


class _Histogram(dict[tuple[str, ...], list[float]]):
    """A histogram by its labels' values: how many fell below each bound, above all of them, and their sum."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        super().__init__()
        self._name, self._text, self._labels = name, text, labels
        self._bounds = bounds
        self._les = [*map(floatToGoString, bounds), "+Inf"]
        self._exemplars: dict[tuple[tuple[str, ...], int], Exemplar] = {}

    __hash__ = object.__hash__  # type: ignore[assignment]

    def exemplify(self, labels: tuple[str, ...], value: float, traceparent: str) -> None:
        """What was observed is in a trace: the last one of each bucket is shown where exemplars are asked for."""
        exemplar = Exemplar({"trace_id": trace_id_of(traceparent)}, value)
        self._exemplars[labels, bisect_left(self._bounds, value)] = exemplar

    def __missing__(self, labels: tuple[str, ...]) -> list[float]:
        row = self[labels] = [0] * (len(self._bounds) + 2)
        return row

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        row = self[labels]
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, (*counts, total) in self.items():
            buckets = [
                (le, count, exemplar) if (exemplar := self._exemplars.get((labels, number))) else (le, count)
                for number, (le, count) in enumerate(zip(self._les, accumulate(counts), strict=True))
            ]
            family.add_metric(labels, buckets, total)
        yield family


def _counter(name: str, text: str, *labels: str) -> _Counts:
    return field(init=False, default_factory=lambda: _Counts(_PREFIX + name, text, labels))


def _histogram(name: str, text: str, bounds: Sequence[float], *labels: str) -> _Histogram:
    return field(init=False, default_factory=lambda: _Histogram(_PREFIX + name, text, labels, bounds))


def _total(name: str, text: str) -> Counter:
    """A counter without labels; it is shown before there is anything to count."""
    return field(init=False, default_factory=lambda: Counter(_PREFIX + name, text, registry=None))


def _value(counter: Counter) -> int:
    (metric,) = counter.collect()
    return int(next(sample.value for sample in metric.samples if sample.name.endswith("_total")))


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return field(init=False, default_factory=lambda: Gauge(_PREFIX + name, text, labels, registry=None))


@dataclass(eq=False, repr=False)
class Metrics:
    """All metrics of one service, in a registry of its own."""

    _receipts: _Counts = _counter(
        "receipts",
        "Genuine callbacks by what became of them: accepted, duplicate, differing, unparsed, conflict; those"
        " that are journaled count again when the store has them.",
        "source",
        "state",
    )
    _rejects: _Counts = _counter(
        "rejects",
        "Callbacks that were refused, by reason; of source none: to paths that nobody has, not HTTP, and"
        " connections that were closed (slow_request, slow_reader, too_many_connections).",
        "source",
        "reason",
    )
    _verified: _Counts = _counter(
        "verified",
        "Callbacks that one of the source's keys verified, by which: its place in keys, counted from 0, or the number"
        " that the key of a minted URL has before it.",
        "source",
        "key",
    )
    _stale_age: _Histogram = _histogram(
        "stale_age_seconds",
        "Age of callbacks whose signature is right and whose time is not; negative when the sender is ahead.",
        _AGE_BUCKETS_S,
        "source",
    )
    _events: _Counts = _counter("events", "New events by kind and outcome.", "kind", "outcome")
    _warnings: _Counts = _counter("parse_warnings", "Fields that could not be understood.", "source")
    _certificate_changes: Counter = _total(
        "certificate_changes", "Signing certificates that were replaced under their name."
    )
    _journal_receipts: Gauge = _gauge("journal_receipts", "Receipts that wait in the journal for the store.")
    _journal_bytes: Gauge = _gauge("journal_bytes", "Size of the journal's files.")
    _journal_set_aside: Gauge = _gauge(
        "journal_set_aside", "Receipts of the journal that the store did not take though it worked."
    )
    _unrouted: Counter = _total("unrouted_events", "New events that match no sink; they are kept.")
    _answer_duration: _Histogram = _histogram(
        "answer_duration_seconds", "From the request's headers to the answer.", _DURATION_BUCKETS_S, "source"
    )
    _attempts: _Counts = _counter(
        "attempts",
        "Delivery attempts by result: delivered, retrying, dead; late where the lease was lost before it was"
        " written down, unrecorded where it was not until the stop.",
        "sink",
        "result",
    )
    _attempt_duration: _Histogram = _histogram(
        "attempt_duration_seconds", "How long delivery attempts took.", _DURATION_BUCKETS_S, "sink", "result"
    )
    _build_info: Gauge = _gauge("build_info", "Which version this is; always 1.", "version")
    _reload_failed: Gauge = _gauge(
        "configuration_reload_failed",
        "1 while the service goes on with an old configuration, because it could not start anew with the new one at"
        " the last SIGHUP; else 0.",
    )
    _store_up: Gauge = _gauge("store_up", "Whether the store answered and could be written when this was asked.")
    _store_size: Gauge = _gauge("store_size_bytes", "What the store takes of its disk.")
    _store_free: Gauge = _gauge(
        "store_free_bytes", "Room left on the store's disk; NaN for PostgreSQL, whose is not known here."
    )
    _deliveries: Gauge = _gauge("deliveries", "Deliveries that are not done, by state.", "sink", "state")
    _oldest_age: Gauge = _gauge(
        "oldest_pending_age_seconds",
        "Since the oldest event that is pending, retrying or parked was accepted; 0 when there is none.",
        "sink",
    )
    _sink_state: Gauge = _gauge("sink_state", "1 for the state that the sink is in, 0 for the others.", "sink", "state")
    _breaker_state: Gauge = _gauge(
        "breaker_state",
        "1 for the state that this instance's circuit breaker of the sink is in, 0 for the others.",
        "sink",
        "state",
    )
    _clock_offset: Gauge = _gauge("clock_offset_seconds", "How far this machine's clock is ahead of the store's.")
    _clock_doubted: Gauge = _gauge(
        "store_clock_doubted_seconds",
        "How far the store's clock stepped forward while nobody saw it, as long as that is doubted; else 0.",
    )
    _clock_behind: Gauge = _gauge(
        "store_clock_behind_seconds", "How far the store's clock is behind what it was before; else 0."
    )
    _clock_corrections: Counter = _total(
        "store_clock_corrections", "Steps back that showed that the store's clock was wrong."
    )
    _inquiries: _Counts = _counter(
        "inquiries", "Questions about jobs, by what the vendor said.", "product", "reason", "result"
    )
    _decisions: _Counts = _counter(
        "inquiry_decisions",
        "Questions about jobs, by what followed: confirmed, contradicted, foreign, given_up and others.",
        "product",
        "reason",
        "decision",
    )
    _vendor_calls: _Counts = _counter(
        "vendor_calls",
        "Calls of the vendor's job APIs: ok, not_found, throttled, unavailable, refused.",
        "api",
        "action",
        "result",
    )
    _queue_polls: _Counts = _counter(
        "queue_polls",
        "Polls of MNS queues, by what came: messages, empty, throttled, unavailable, refused.",
        "source",
        "result",
    )
    _waiting_jobs: Gauge = _gauge(
        "waiting_jobs", "Expected jobs that have not ended, by whether the deadline is over.", "product", "state"
    )
    _held_events: Gauge = _gauge("held_events", "Events that wait for the vendor's answer.", "product")
    _oldest_held_age: Gauge = _gauge(
        "oldest_held_age_seconds", "Since the oldest event that is held was received; 0 when there is none."
    )
    _recent_jobs: Gauge = _gauge(
        "recent_jobs",
        "Jobs that were registered within the last hour, by state and by how their events came.",
        "product",
        "state",
        "transport",
    )

    def __post_init__(self) -> None:
        self._registry = CollectorRegistry()
        for metric in fields(self):
            self._registry.register(getattr(self, metric.name))
        self._build_info.labels(read_version()).set(1)
        # The store's clock as it was seen last, and how far this machine's is ahead.
        self.clock: tuple[ClockRecord, float] | None = None

    # For the watch on troubles

    def count_troubles(self) -> Mapping[tuple[Trouble, str | None], int]:
        counts: defaultdict[tuple[Trouble, str | None], int] = defaultdict(int)
        for (source, state), count in self._receipts.items():
            if trouble := _TROUBLES_BY_STATE.get(state):
                counts[trouble, source] += count
        for (product, reason, decision), count in self._decisions.items():
            if decision in ("contradicted", "foreign"):
                counts["claims_contradicted", product] += count
            elif (reason, decision) == ("expected", "given_up"):
                counts["jobs_unknown", product] += count
        counts["events_unrouted", None] += _value(self._unrouted)
        counts["certificate_changed", None] += _value(self._certificate_changes)
        return counts

    # For those who have something to tell

    def receipt_kept(self, receipt: Receipt, verdict: Verdict, *, duration_s: float) -> None:
        self._answer_duration.observe((receipt.source,), duration_s)
        if verdict.is_journaled:
            self._receipts[receipt.source, "journaled"] += 1
        else:
            self.receipt_stored(receipt, verdict)

    def receipt_traced(self, receipt: Receipt, duration_s: float, traceparent: str) -> None:
        self._answer_duration.exemplify((receipt.source,), duration_s, traceparent)

    def receipt_stored(self, receipt: Receipt, verdict: Verdict) -> None:
        """A receipt is in the store, now or after a while in the journal."""
        self._receipts[receipt.source, verdict.state] += 1
        if receipt.warnings:
            self._warnings[receipt.source,] += len(receipt.warnings)
        for event in verdict.accepted:
            self._events[event.data.kind, event.data.outcome] += 1

    def counts_by_source(self) -> Mapping[str, tuple[int, int]]:
        """How much was received through each source, and refused, since the start."""
        counts: dict[str, tuple[int, int]] = {}
        for (source, _), count in list(self._receipts.items()):
            received, refused = counts.get(source, (0, 0))
            counts[source] = received + count, refused
        for (source, _), count in list(self._rejects.items()):
            received, refused = counts.get(source, (0, 0))
            counts[source] = received, refused + count
        return counts

    def counts_delivered(self) -> Mapping[str, int]:
        """How many deliveries were made to each sink since the start."""
        return {sink: count for (sink, result), count in list(self._attempts.items()) if result == "delivered"}

    def inquiry_judged(self, *, product: str, reason: str, result: str, decision: str) -> None:
        self._inquiries[product, reason, result] += 1
        self._decisions[product, reason, decision] += 1

    def events_learned(self, events: Collection[Event]) -> None:
        """New events that came of asking the vendor."""
        for event in events:
            self._events[event.data.kind, event.data.outcome] += 1

    def vendor_called(self, api: str, action: str, result: str) -> None:
        self._vendor_calls[api, action, result] += 1

    def queue_polled(self, source: str, result: str) -> None:
        self._queue_polls[source, result] += 1

    def clock_watched(self, record: ClockRecord, *, offset_s: float) -> None:
        self.clock = record, offset_s
        self._clock_offset.set(round(offset_s, 3))
        self._clock_doubted.set(record.doubted_s)
        self._clock_behind.set(record.behind_s)
        if record.corrected_s:
            self._clock_corrections.inc()

    def certificate_changed(self) -> None:
        self._certificate_changes.inc()

    def watch_journal(
        self, *, receipts: Callable[[], int], bytes_used: Callable[[], int], set_aside: Callable[[], int]
    ) -> None:
        """Where the journal's figures come from, if there is one."""
        self._journal_receipts.set_function(receipts)
        self._journal_bytes.set_function(bytes_used)
        self._journal_set_aside.set_function(set_aside)

    def watch_reloads(self, failed: Callable[[], float]) -> None:
        self._reload_failed.set_function(failed)

    def events_unrouted(self, count: int) -> None:
        self._unrouted.inc(count)

    def callback_verified(self, source: str, key: int) -> None:
        self._verified[source, str(key)] += 1

    def callback_refused(self, *, source: str, reason: str, age_s: float | None = None) -> None:
        self._rejects[source, reason] += 1
        if age_s is not None:
            self._stale_age.observe((source,), age_s)

    def attempt_finished(
        self, *, sink: str, result: AttemptWord, duration_s: float, traceparent: str | None = None
    ) -> None:
        labels = (sink, result)
        self._attempts[labels] += 1
        self._attempt_duration.observe(labels, duration_s)
        if traceparent is not None:
            self._attempt_duration.exemplify(labels, duration_s, traceparent)

    def render(
        self,
        sinks: Iterable[SinkRecord] | None,
        breakers: Mapping[str, BreakerState],
        *,
        waiting: WaitingCounts | None = None,
        recent: Iterable[ReportRow] = (),
        space: StoreSpace | None = None,
        is_writable: bool = True,
        now: datetime,
        openmetrics: bool = False,
    ) -> bytes:
        """
        The exposition, with sinks and expected jobs as they are just now.

        Args:
            sinks: None while the store is away: what only the store knows is left out then, for it is not 0.
            waiting: The same.
            recent: The jobs of the last hour.
            space: What the store takes and has left; None while it is away.
            is_writable: Whether a receipt could be made durable.
            openmetrics: In the format of OpenMetrics, which alone has a place for exemplars.
        """
        self._store_up.set(sinks is not None and is_writable)
        for metric in (
            self._deliveries,
            self._oldest_age,
            self._sink_state,
            self._breaker_state,
            self._waiting_jobs,
            self._held_events,
            self._recent_jobs,
        ):
            metric.clear()
        # Not 0, which would be a full disk.
        self._store_size.set(math.nan if space is None else space.size_bytes)
        self._store_free.set(math.nan if space is None or space.free_bytes is None else space.free_bytes)
        if waiting is not None:
            for (product, job_state), count in waiting.jobs.items():
                self._waiting_jobs.labels(product, job_state).set(count)
            for product, count in waiting.held.items():
                self._held_events.labels(product).set(count)
            oldest = waiting.oldest_held_at
            self._oldest_held_age.set(0 if oldest is None else max(0.0, (now - oldest).total_seconds()))
        for row in recent:
            self._recent_jobs.labels(row.product, row.state, row.transport or "").inc(row.count)
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
        encode = openmetrics_exposition.generate_latest if openmetrics else generate_latest
        return encode(self._registry)
