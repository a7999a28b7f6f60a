"""Names of destinations: what a template may say, what it makes, and that no caller has a part in it."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_callbacks.config.checks import Entrance, check_names, list_origins
from media_callbacks.config.problems import Problems
from media_callbacks.model.kinds import KINDS, OUTCOMES
from media_callbacks.model.naming import MEMBERS, NameTemplate, Origin
from media_callbacks.model.operational import build_event
from tests.inbox.conformance import NOW, make_event

ORIGIN = Origin(product="vod", kind="snapshot", outcome="failed", source="vod-eu")
VOD = Entrance("vod-eu", "vod", "default", None, covers_below=False)
GIF = Entrance("gif", "multimediaai", "main", None, covers_below=True)


@pytest.mark.parametrize(
    "text, name",
    [
        ("media", "media"),
        ("media.{product}.{kind}.{outcome}", "media.vod.snapshot.failed"),
        ("{type}", "media.snapshot.failed"),
        ("Prod_1.{source}-{kind}", "Prod_1.vod-eu-snapshot"),
        ("{kind}{kind}", "snapshotsnapshot"),
    ],
)
def test_a_name_is_made_of_what_the_event_says(text, name):
    assert NameTemplate(text).render(ORIGIN) == name


def test_operational_events_have_names_too():
    event = build_event("disk_low", "../#", since=NOW, ended_at=None, detail=None, instance="host-1")
    origin = Origin.read(json.loads(event.to_json()))
    name = NameTemplate("{type}.{product}.{source}").render(origin)
    assert name == "media.operational.disk_low.began.media-callbacks.media-callbacks"
    wanted = {"kind": {"operational"}, "trouble": {"disk_low"}}
    assert origin in [*list_origins(wanted, None, [VOD])]
    assert len([*list_origins(wanted, None, [VOD])]) == 2
    assert [*list_origins(wanted, wanted, [VOD])] == []


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "expected letters, digits, _ and -, levels parted by dots, and any of {type}, {kind}, "),
        ("media.>", "expected letters, digits"),
        ("media.*", "expected letters, digits"),
        ("media.#", "expected letters, digits"),
        ("$JS.API", "expected letters, digits"),
        ("media {kind}", "expected letters, digits"),
        ("média", "expected letters, digits"),
        ("media.{kind", "expected letters, digits"),
        ("media.{{kind}}", "expected letters, digits"),
        ("media..{kind}", "expected something in every level, came two dots in a row, or one at an end; leave it out"),
        (".media", "expected something in every level"),
        ("media.", "expected something in every level"),
        (
            "{job_id}",
            "expected one of {type}, {kind}, {outcome}, {product}, {source} within braces, came another member",
        ),
        ("{account}", "expected one of {type}, {kind}, {outcome}, {product}, {source} within braces"),
        ("{kind.__class__}", "expected one of {type}, {kind}"),
        ("{kind!r}", "expected one of {type}, {kind}"),
        ("{kinds}", 'or no event has; did you mean "kind"?'),
        ("{}", "expected one of {type}, {kind}"),
    ],
)
def test_what_is_no_template_is_refused(text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        NameTemplate(text)


@pytest.mark.parametrize("member", ["job_id", "subject", "user_data", "vendor_event", "account", "media_id", "id"])
def test_what_callers_choose_is_no_member(member):
    assert member not in MEMBERS


@given(st.dictionaries(st.sampled_from(["product", "kind", "outcome", "source"]), st.text(), min_size=4))
def test_whatever_an_event_says_stays_in_its_level(data):
    """A stored event has nothing else than words of ours; should one have, it names nothing beside."""
    template = NameTemplate("media.{product}.{source}.{kind}.{outcome}")
    name = template.render(Origin.read({"data": data}))
    assert re.fullmatch(r"media(\.[A-Za-z0-9_-]+){4}", name)


@pytest.mark.parametrize(
    "document", [{}, {"data": []}, {"data": {"kind": "snapshot"}}, {"data": dict.fromkeys(MEMBERS)}]
)
def test_what_is_no_event_of_ours_has_no_name(document):
    with pytest.raises(ValueError, match="the stored event lacks"):
        Origin.read(document)


def test_the_origin_is_read_from_the_event_as_it_is_sent():
    event = make_event()
    origin = Origin.read(json.loads(event.to_json()))
    assert origin.type == event.type
    assert origin == Origin(event.data.product, event.data.kind, event.data.outcome, event.data.source)


def test_all_origins_are_listed():
    origins = list(list_origins({}, None, [VOD, GIF]))
    assert len(set(origins)) == len(origins)
    assert {origin.kind for origin in origins if origin.source == "gif"} == {"animated_image", "notice"}
    assert {origin.kind for origin in origins if origin.product == "vod"} == set(KINDS) - {"analysis"}
    assert {origin.outcome for origin in origins} == set(OUTCOMES)
    assert {origin.outcome for origin in origins if origin.kind == "notice"} == {"received"}


@pytest.mark.parametrize(
    "wanted, excluded, names",
    [
        ({"source": {"gif"}, "outcome": {"failed"}}, None, {"gif.animated_image.failed"}),
        ({"account": {"main"}, "kind": {"notice"}}, None, {"gif.notice.received"}),
        ({"kind": {"notice"}}, {"product": {"vod"}}, {"gif.notice.received"}),
        ({"kind": {"notice"}}, {"vendor_event": {"X"}}, {"gif.notice.received", "vod-eu.notice.received"}),
        ({"kind": {"notice"}}, {"account": {"main"}, "source": None}, {"vod-eu.notice.received"}),
    ],
)
def test_a_match_leaves_some(wanted, excluded, names):
    template = NameTemplate("{source}.{kind}.{outcome}")
    assert {template.render(origin) for origin in list_origins(wanted, excluded, [VOD, GIF])} == names


@pytest.mark.parametrize(("most", "is_right"), [(37, True), (36, False)])
def test_a_name_longer_than_the_bus_takes_is_told(most, is_right):
    problems = Problems()
    check_names(
        ("sinks", "bus", "subject"), NameTemplate("{source}.{type}"), most, list_origins({}, None, [VOD]), problems
    )
    said = f"sinks.bus.subject: makes names of up to 37 characters, expected at most {most}; shorten it"
    assert problems.lines == ([] if is_right else [said])
