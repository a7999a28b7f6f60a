"""What Prometheus reads: its format and conventions, and series that nobody from outside can multiply."""

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.inbox.records import ReportRow, SinkRecord, StoreSpace, WaitingCounts
from media_callbacks.model.kinds import KINDS, OUTCOMES
from media_callbacks.model.receipts import Verdict
from media_callbacks.observe.metrics import CONTENT_TYPE, Metrics
from tests.inbox.conformance import make_event, make_receipt

NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
BREAKERS: dict[str, BreakerState] = {"orders": "half_open"}
UNITS = ("_seconds", "_bytes", "_info")
# Gauges that count what their name says, or say in which of their states something is.
COUNTS = {
    "media_callbacks_deliveries",
    "media_callbacks_journal_receipts",
    "media_callbacks_journal_set_aside",
    "media_callbacks_sink_state",
    "media_callbacks_breaker_state",
    "media_callbacks_waiting_jobs",
    "media_callbacks_held_events",
    "media_callbacks_recent_jobs",
}


def read(metrics: Metrics, sinks: Iterable[SinkRecord] | None = (), **options: Any) -> dict[str, Metric]:
    breakers, now = options.pop("breakers", {}), options.pop("now", NOW)
    text = metrics.render(sinks, breakers, now=now, **options).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(families: dict[str, Metric]) -> dict[str, float]:
    """By ``name{label=value}``, without what all names begin with; labels in order."""
    found = {}
    for family in families.values():
        for sample in family.samples:
            labels = ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("media_callbacks_")
            found[name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


@pytest.fixture
def used() -> Metrics:
    """With every metric there is."""
    metrics = Metrics()
    event = make_event()
    metrics.receipt_kept(
        make_receipt(event, warnings=("Size", "Bitrate")), Verdict("accepted", (event,)), duration_s=0.02
    )
    metrics.receipt_kept(make_receipt(event), Verdict("duplicate"), duration_s=0.01)
    metrics.events_unrouted(2)
    metrics.callback_refused(source="vod", reason="stale", age_s=400)
    metrics.callback_refused(source="none", reason="unknown_path")
    metrics.attempt_finished(sink="orders", result="delivered", duration_s=0.25)
    metrics.attempt_finished(sink="orders", result="retrying", duration_s=15.0)
    metrics.inquiry_judged(product="mts", reason="expected", result="ended", decision="ended")
    metrics.inquiry_judged(product="multimediaai", reason="confirm", result="ended", decision="contradicted")
    metrics.events_learned([event])
    metrics.vendor_called("mts", "QueryJobList", "ok")
    metrics.queue_polled("mts-queue", "messages")
    return metrics


WAITING = WaitingCounts(
    jobs={("mts", "expected"): 4, ("mts", "overdue"): 1},
    held={"multimediaai": 2},
    oldest_held_at=NOW - timedelta(seconds=30),
)


def reported(**changes: Any) -> ReportRow:
    row = ReportRow(
        hour=NOW, product="mts", state="healed", transport="query", notification=None, count=3, seconds=(1.0, 2.0, 3.0)
    )
    return replace(row, **changes)


def test_jobs_that_are_expected_and_events_that_are_held_are_counted(used):
    recent = [reported(), reported(hour=NOW + timedelta(hours=1), count=2), reported(state="expected", transport=None)]
    found = samples(read(used, waiting=WAITING, recent=recent))
    expected = {
        "inquiries_total{product=mts,reason=expected,result=ended}": 1,
        "inquiry_decisions_total{decision=contradicted,product=multimediaai,reason=confirm}": 1,
        "vendor_calls_total{action=QueryJobList,api=mts,result=ok}": 1,
        "queue_polls_total{result=messages,source=mts-queue}": 1,
        "events_total{kind=animated_image,outcome=succeeded}": 2,
        "waiting_jobs{product=mts,state=expected}": 4,
        "waiting_jobs{product=mts,state=overdue}": 1,
        "held_events{product=multimediaai}": 2,
        "oldest_held_age_seconds": 30,
        "recent_jobs{product=mts,state=healed,transport=query}": 5,
        "recent_jobs{product=mts,state=expected,transport=}": 3,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert not any(name.startswith("waiting_jobs{") for name in samples(read(used)))


@pytest.mark.parametrize(
    ("space", "size", "free"),
    [(StoreSpace(5000, 300), 5000, 300), (StoreSpace(5000, None), 5000, math.nan), (None, math.nan, math.nan)],
)
def test_what_is_not_known_of_the_disk_is_no_number(used, space, size, free):
    found = samples(read(used, SINKS, space=space))
    assert [found["store_size_bytes"], found["store_free_bytes"]] == pytest.approx([size, free], nan_ok=True)


def test_a_store_that_cannot_be_written_is_not_up(used):
    assert samples(read(used, SINKS, is_writable=False))["store_up"] == 0


SINKS = (
    SinkRecord(
        "orders",
        "paused",
        reason="maintenance",
        deliveries={"parked": 3, "dead": 1},
        oldest_pending_at=NOW - timedelta(minutes=2),
    ),
    SinkRecord("bus"),
)


def test_everything_is_counted_where_it_belongs(used):
    found = samples(read(used, SINKS, breakers=BREAKERS))
    expected = {
        "receipts_total{source=vod,state=accepted}": 1,
        "receipts_total{source=vod,state=duplicate}": 1,
        "events_total{kind=animated_image,outcome=succeeded}": 2,
        "parse_warnings_total{source=vod}": 2,
        "unrouted_events_total": 2,
        "rejects_total{reason=stale,source=vod}": 1,
        "rejects_total{reason=unknown_path,source=none}": 1,
        "stale_age_seconds_bucket{le=600.0,source=vod}": 1,
        "answer_duration_seconds_count{source=vod}": 2,
        "attempts_total{result=delivered,sink=orders}": 1,
        "attempts_total{result=retrying,sink=orders}": 1,
        "attempt_duration_seconds_sum{result=retrying,sink=orders}": 15,
        "attempt_duration_seconds_bucket{le=0.5,result=delivered,sink=orders}": 1,
        "store_up": 1,
        "deliveries{sink=orders,state=parked}": 3,
        "deliveries{sink=orders,state=dead}": 1,
        "deliveries{sink=orders,state=pending}": 0,
        "deliveries{sink=bus,state=retrying}": 0,
        "oldest_pending_age_seconds{sink=orders}": 120,
        "oldest_pending_age_seconds{sink=bus}": 0,
        "sink_state{sink=orders,state=paused}": 1,
        "sink_state{sink=orders,state=active}": 0,
        "sink_state{sink=bus,state=active}": 1,
        "breaker_state{sink=orders,state=half_open}": 1,
        "breaker_state{sink=orders,state=closed}": 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert [value for name, value in found.items() if name.startswith("build_info{version=")] == [1]


def test_names_and_labels_follow_the_conventions(used):
    families = read(used, SINKS, breakers=BREAKERS)
    assert len(families) >= 16
    for name, family in families.items():
        # Each counter and histogram comes with the time it was created, as a family of its own.
        if name.endswith("_created"):
            continue
        assert re.fullmatch(r"media_callbacks_[a-z]+(_[a-z]+)*", name)
        assert family.documentation.endswith("."), name
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        elif name not in COUNTS:
            assert name.endswith((*UNITS, "_up", "_failed")), name
        for sample in family.samples:
            assert all(re.fullmatch("[a-z]+", label) for label in sample.labels), name
    assert "version=1.0.0" in CONTENT_TYPE or "version=0.0.4" in CONTENT_TYPE


def test_exactly_one_state_of_each_sink_is_the_current_one():
    for state in ("active", "paused", "disabled"):
        found = samples(read(Metrics(), [SinkRecord("orders", state)]))
        states = {name: value for name, value in found.items() if name.startswith("sink_state{")}
        assert len(states) == 3
        assert [name for name, value in states.items() if value == 1] == [f"sink_state{{sink=orders,state={state}}}"]


def test_what_is_gone_is_not_shown_any_more():
    metrics = Metrics()
    assert "deliveries{sink=orders,state=parked}" in samples(read(metrics, SINKS, breakers=BREAKERS))
    found = samples(read(metrics, [SinkRecord("bus")]))
    assert not [name for name in found if "orders" in name]


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"


def test_openmetrics_has_the_same_series_and_the_last_trace_of_each_bucket(used):
    used.attempt_finished(
        sink="orders", result="delivered", duration_s=0.25, traceparent=TRACEPARENT.replace("0af", "fff")
    )
    used.attempt_finished(sink="orders", result="delivered", duration_s=0.3, traceparent=TRACEPARENT)
    used.attempt_finished(sink="orders", result="delivered", duration_s=0.31)
    used.receipt_traced(make_receipt(make_event()), 0.02, TRACEPARENT)
    text = used.render(SINKS, BREAKERS, now=NOW, openmetrics=True).decode()
    families = {family.name: family for family in parse_openmetrics(text)}
    plain = samples(read(used, SINKS, breakers=BREAKERS))
    # Only how Prometheus' own counters say since when they are differs.
    assert {name: value for name, value in samples(families).items() if not math.isnan(value)} == {
        name: value for name, value in plain.items() if not math.isnan(value)
    }
    found = [
        (sample.name, sample.labels["le"], sample.exemplar.labels, sample.exemplar.value)
        for family in families.values()
        for sample in family.samples
        if sample.exemplar
    ]
    exemplar = {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert found == [
        ("media_callbacks_answer_duration_seconds_bucket", "0.02", exemplar, 0.02),
        ("media_callbacks_attempt_duration_seconds_bucket", "0.5", exemplar, 0.3),
    ]


def test_an_age_is_never_below_zero():
    """The instance that accepted the event may have another clock."""
    sink = SinkRecord("orders", oldest_pending_at=NOW + timedelta(seconds=1))
    assert samples(read(Metrics(), [sink]))["oldest_pending_age_seconds{sink=orders}"] == 0


def test_what_only_the_store_knows_is_left_out_while_it_is_away(used):
    read(used, SINKS, breakers=BREAKERS)
    found = samples(read(used, None, breakers=BREAKERS))
    assert found["store_up"] == 0
    assert found["receipts_total{source=vod,state=accepted}"] == 1
    assert found["breaker_state{sink=orders,state=half_open}"] == 1
    assert not [name for name in found if name.startswith(("deliveries", "oldest_pending", "sink_state"))]


def test_the_number_of_series_is_bounded_whatever_comes():
    metrics = Metrics()

    def take(number: int) -> None:
        event = make_event(f"job-{number}", OUTCOMES[number % 5])
        receipt = make_receipt(event, warnings=(f"Field{number}",), reason=f"reason {number}")
        metrics.receipt_kept(receipt, Verdict("accepted", (event,)), duration_s=number)
        metrics.callback_refused(source="vod", reason="stale", age_s=number)
        metrics.attempt_finished(sink="orders", result="delivered", duration_s=number)

    for number in range(5):
        take(number)
    before = set(samples(read(metrics, SINKS, breakers=BREAKERS)))
    for number in range(5, 500):
        take(number)
    sinks = [SinkRecord("orders", "paused", reason="another", changed_by="somebody"), SinkRecord("bus")]
    assert set(samples(read(metrics, sinks, breakers=BREAKERS))) == before
    assert len(before) < 50 + 20 * len(KINDS)
