"""Events about the service itself: what they promise, and that nobody meets them who expects events of jobs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from media_callbacks.config.sinks import Match, StdoutSinkSettings, route, route_operational
from media_callbacks.events import UnknownEvent, parse_any_event, parse_event, parse_operational_event
from media_callbacks.model.identity import is_operational
from media_callbacks.model.kinds import TROUBLES, Trouble
from media_callbacks.model.operational import RULES, OperationalEvent, build_event
from media_callbacks.model.schemas import operational_schema
from tests.factories.contracts import closed
from tests.inbox.conformance import make_event

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def make(trouble: Trouble = "sink_failing", subject: str = "orders", *, has_ended: bool = False) -> OperationalEvent:
    ended_at = NOW + timedelta(minutes=5) if has_ended else None
    return build_event(trouble, subject, since=NOW, ended_at=ended_at, detail=None, instance="host-1")


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_it_fits_its_schema_and_can_be_read_back(trouble: Trouble, has_ended: bool) -> None:
    event = make(trouble, has_ended=has_ended)
    document = json.loads(event.to_json())
    validator = Draft202012Validator(closed(operational_schema()), format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [error.message for error in validator.iter_errors(document)] == []
    assert document["type"] == f"media.operational.{trouble}.{'ended' if has_ended else 'began'}"
    assert parse_operational_event(event.to_json()) == event
    assert is_operational(event.id)


def test_both_events_of_a_trouble_are_of_one_key_and_no_other_trouble_is() -> None:
    assert make().id[:-2] == make(has_ended=True).id[:-2]
    assert len({make().id, make(has_ended=True).id, make("sink_disabled").id, make(subject="other").id}) == 4


def test_whoever_reads_events_of_jobs_takes_it_for_one_of_a_later_version() -> None:
    body = make().to_json()
    assert isinstance(parse_any_event(body), UnknownEvent)
    with pytest.raises(ValueError, match="kind"):
        parse_event(body)
    with pytest.raises(ValueError, match="trouble"):
        parse_operational_event(make_event().to_json())
    assert not is_operational(make_event().id)


def sink(**match: Any) -> StdoutSinkSettings:
    return StdoutSinkSettings(kind="stdout", match=Match(**match) if match else None)


def test_a_sink_gets_it_only_where_its_match_names_the_kind() -> None:
    sinks = {
        "all": sink(),
        "vod": sink(product="vod"),
        "jobs": sink(kind="snapshot"),
        "ops": sink(kind="operational"),
        "both": sink(kind=["animated_image", "operational"], product="vod", outcome="succeeded"),
    }
    assert route_operational(sinks, make()) == ("ops", "both")
    assert route(sinks, make_event()) == ("all", "vod", "both")


def test_a_sink_may_ask_for_single_troubles() -> None:
    sinks = {
        "clocks": sink(kind="operational", trouble=["clock_off", "store_clock_behind"]),
        "disk": sink(kind=["operational", "animated_image"], trouble="disk_low"),
        "all": sink(kind="operational"),
        "others": sink(kind="operational", exclude={"kind": "operational", "trouble": ["clock_off", "disk_low"]}),
    }
    assert route_operational(sinks, make("disk_low", "host-1")) == ("disk", "all")
    assert route_operational(sinks, make()) == ("all", "others")
    assert route_operational(sinks, make("clock_off", "host-1")) == ("clocks", "all")
    # What is asked for of troubles asks nothing of jobs.
    assert route(sinks, make_event()) == ("disk",)


def test_no_sink_is_told_of_itself() -> None:
    sinks = {"ops": sink(kind="operational"), "both": sink(kind=["operational", "snapshot"])}
    assert route_operational(sinks, make(subject="both")) == ("ops",)
    # A host may have the name of a sink.
    assert route_operational(sinks, make("disk_low", "both")) == ("ops", "both")


def test_what_to_do_is_in_the_runbook() -> None:
    headings = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert [rule.runbook for rule in RULES.values() if rule.runbook and f"## {rule.runbook}\n" not in headings] == []


def test_every_trouble_is_documented() -> None:
    page = (ROOT / "docs" / "operate" / "operational-events.md").read_text(encoding="utf-8")
    assert [trouble for trouble in RULES if f"| `{trouble}` |" not in page] == []
    assert list(RULES) == list(TROUBLES)
