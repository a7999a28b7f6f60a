"""Alerts and dashboard ask for metrics that the service has."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from media_callbacks.observe.metrics import Metrics
from tests.documentation.pages import read_anchors, read_page
from tests.factories.tools import need_tool

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text("utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboard.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
# Metrics that are asked for and that this version does not have yet.
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


def known_metrics() -> dict[str, tuple[str, ...]]:
    """Names of time series, each with its labels."""
    registry: CollectorRegistry = Metrics()._registry
    known: dict[str, tuple[str, ...]] = {}
    for collector in registry._collector_to_names:
        for family in collector.collect():
            for suffix in _SUFFIXES[family.type]:
                labels = getattr(collector, "_labelnames", None) or getattr(collector, "_labels", None)
                known[family.name + suffix] = tuple(labels or ())
    return known


def used_metrics() -> dict[str, set[str]]:
    """Names of time series, each with the labels that are asked for."""
    used: dict[str, set[str]] = {}
    for expression in EXPRESSIONS:
        for name, labels in re.findall(r"\b(media_callbacks_\w+)(?:\{([^}]*)\})?", expression):
            asked = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)
            used.setdefault(name, set()).update(asked)
    return used


def test_every_metric_that_is_asked_for_exists():
    assert used_metrics().keys() <= known_metrics().keys()


def test_every_label_that_is_asked_for_exists():
    known = known_metrics()
    # Prometheus itself adds these to whatever it scrapes.
    targets = {"instance", "job", "le"}
    for name, labels in used_metrics().items():
        if name in known:
            assert labels - targets <= set(known[name]), name


def test_what_an_operator_must_learn_of_is_alerted():
    asked = " ".join(rule["expr"] for rule in RULES)
    for name in (
        "oldest_pending_age_seconds",
        "rejects_total",
        "stale_age_seconds_count",
        "configuration_reload_failed",
        "store_up",
        "journal_receipts",
        "journal_set_aside",
        "certificate_changes_total",
        "deliveries",
        "sink_state",
        "breaker_state",
        "receipts_total",
        "clock_offset_seconds",
        "store_clock_doubted_seconds",
        "attempts_total",
    ):
        assert f"media_callbacks_{name}" in asked


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_say_what_is_wrong_and_what_to_do(rule: dict[str, Any]):
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    # A label that the expression sums away would be empty in the text.
    by = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
    if by:
        left = {label.strip() for label in by[0].split(",")}
        shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert shown <= left


def test_the_runbook_has_a_heading_for_each_alert_and_no_other():
    page = "docs/runbook.md"
    headings = re.findall(r"^## (.+)$", read_page(page), re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]
    for rule in RULES:
        place, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert place == "https://docs.example.com/media-callbacks/docs/runbook.html"
        assert anchor in read_anchors(page)


def test_alerts_are_as_their_own_tests_say():
    outcome = subprocess.run(
        [need_tool("promtool", package="prometheus"), "test", "rules", "alerts.test.yaml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_every_alert_is_tried():
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts.test.yaml").read_text("utf-8"))["tests"]
    tried = {case["alertname"] for test in tests for case in test["alert_rule_test"]}
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    assert tried == set(names)


def test_the_dashboard_shows_whether_every_job_ends_in_an_event():
    asked = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    for name in (
        "waiting_jobs",
        "recent_jobs",
        "held_events",
        "oldest_held_age_seconds",
        "inquiry_decisions_total",
        "vendor_calls_total",
        "queue_polls_total",
    ):
        assert f"media_callbacks_{name}" in asked


def test_the_dashboard_has_its_panels_in_order():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for box in boxes:
        assert 0 <= box["x"] < box["x"] + box["w"] <= 24
    for one, other in itertools.combinations(boxes, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    text = json.dumps(PANELS)
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"} == variables
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
