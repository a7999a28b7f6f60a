"""Both ways of reading a message: at once, as it is declared, and value by value, into what is declared."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from media_callbacks.model.errors import Unparseable
from media_callbacks.rehearsal.payloads import PAYLOADS
from media_callbacks.sources.products import mts_messages, vod_messages
from media_callbacks.sources.products.ims_messages import Envelope
from media_callbacks.sources.products.vod_catalogue import model_of as vod_model_of
from media_callbacks.sources.reading import members
from media_callbacks.sources.reading.decoding import decode_object, storable
from media_callbacks.sources.transports.mns import NotificationJson
from tests.sources.test_mutations import CHANGES, NOW, changed, read, write

SAMPLES = Path(__file__).parents[2] / "samples"
MODELS: list[Any] = sorted(
    {value for value in vars(vod_messages).values() if hasattr(value, "__total__")} - {members.Declared},
    key=lambda model: model.__name__,
)
MODELS += [mts_messages.Notification, mts_messages.Execution, NotificationJson]
MODELS += [Envelope[model] for model in (vod_messages.Snapshot, vod_messages.Transcode)]  # type: ignore[valid-type]


def left(value):
    """What a parser sees of a message: members that are None or empty text are as if they were not there."""
    if isinstance(value, dict):
        return {key.lower(): found for key, member in value.items() if (found := left(member)) not in (None, "", [])}
    if isinstance(value, (list, tuple)):
        return [left(item) for item in value]
    return storable(value)


def at_once(model, payload):
    try:
        return members._validator(model).validate_json(payload)
    except ValidationError:
        return None


def agree(model, payload):
    """Whether the first way gives anything; the second must give the same then."""
    # As the first way is guarded: what blanks and NUL are is the second's business alone.
    if b"u00" in payload or not members._is_shallow(payload):
        return False
    found = at_once(model, payload)
    if found is None or any(found.get(a) not in (None, found.get(b, found.get(a))) for a, b in mts_messages.TWINS):
        # Contradictions are the second's business, too (``sources.products.mts``).
        return False
    by_value = members.read_values(model, decode_object(payload), payload)
    assert left(found) == left(by_value.message)
    assert members.says_anything(found) == members.says_anything(by_value.message)
    return True


def model_of(product, message):
    if product == "mts":
        return mts_messages.Notification
    model = vod_model_of(message["EventType"])
    return model if product == "vod" else Envelope[model]  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("product", "event"), [(product, event) for product in ("vod", "ims", "mts") for event in PAYLOADS[product]]
)
@pytest.mark.parametrize("failed", [False, True])
def test_every_message_that_is_documented_is_declared(product, event, failed):
    """It is read at once, apart from oddities that only single documents have."""
    message = PAYLOADS[product][event]("job-1", NOW, failed)
    is_odd = product == "vod" and event == "UploadByURLComplete"
    assert agree(model_of(product, message), json.dumps(message).encode()) != is_odd


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("[!m]*/*.json")) + sorted(SAMPLES.glob("mts/*.json")), ids=str)
def test_both_ways_agree_about_every_sample_and_whatever_happens_to_it(path):
    document = read(path.read_text("utf-8"))
    names = dict(document)
    model = model_of(path.parent.name, names) if path.parent.name == "mts" or "EventType" in names else None
    if model is None:
        return
    for change in CHANGES.values():
        for mutant in changed(document, change):
            agree(model, write(mutant).encode())


TEXTS = st.sampled_from(
    ["", " x ", "12", " 12", "1.5", "1e3", "NaN", "-1", "null", "{}", "[]", '{"JobId":"j"}', "true"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats() | TEXTS | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["JobId", "Status", "x"]), values),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MODELS).flatmap(lambda model: st.tuples(st.just(model), objects(model))))
def test_both_ways_agree_about_any_object(case):
    model, values = case
    agree(model, json.dumps(values).encode())


def objects(model):
    names = [name for name, _, _ in members._plan(model).values()]
    return st.dictionaries(st.sampled_from(names), VALUES, max_size=4)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("FileSize", "12"),
        ("FileSize", 12),
        ("Fps", "25.5"),
        ("Fps", 25),
        ("JobId", " j "),
        ("JobId", None),
        ("DynamicImageJobInfo", {"JobId": "j"}),
        ("DynamicImageJobInfo", '{"JobId": "j", "Width": "20"}'),
    ],
)
def test_documented_spellings_are_read_at_once(member, value):
    payload = json.dumps({"EventType": "DynamicImageComplete", member: value}).encode()
    assert agree(vod_messages.DynamicImage, payload)


@pytest.mark.parametrize(
    ("values", "message", "warnings"),
    [
        ({"jobid ": "j"}, {"JobId": "j"}, []),
        ({"JobId": 12}, {"JobId": "12"}, []),
        ({"JobId": ["j"]}, {"JobId": "j"}, []),
        ({"JobId": {}}, {}, ["JobId"]),
        ({"Fps": True}, {}, ["Fps"]),
        ({"Fps": "1_0"}, {}, ["Fps"]),
        ({"Fps": -1}, {}, ["Fps"]),
        ({"Width": 1.5}, {}, ["Width"]),
        ({"Width": "2e2"}, {"Width": 200}, []),
        ({"Width": 200.0}, {"Width": 200}, []),
        ({"DynamicImageJobInfo": [{"JobId": "j"}]}, {"DynamicImageJobInfo": {"JobId": "j"}}, []),
        ({"DynamicImageJobInfo": {"Width": "wide"}}, {"DynamicImageJobInfo": {}}, ["DynamicImageJobInfo.Width"]),
        ({"DynamicImageJobInfo": "text"}, {}, ["DynamicImageJobInfo"]),
        ({"DynamicImageJobInfo": []}, {}, []),
        ({"Extend": {"a": 1}}, {"Extend": '{"a":1}'}, []),
        ({"Extend": " x "}, {"Extend": " x "}, []),
        ({"NobodyKnows": 1, "JobId": "j"}, {"JobId": "j"}, []),
    ],
)
def test_what_comes_otherwise_is_put_into_the_declared_shape(values, message, warnings):
    reading = members.read(vod_messages.DynamicImage, json.dumps(values).encode())
    assert left(reading.message) == left(message)
    assert reading.warnings == warnings


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ([{"JobId": "a"}, {"JobId": "b"}], ["a", "b"]),
        ('[{"JobId": "a"}]', ["a"]),
        ({"JobId": "a"}, ["a"]),
        (['{"JobId": "a"}'], ["a"]),
        ({"SnapshotInfo": [{"JobId": "a"}]}, ["a"]),
        ({"SnapshotInfo": '[{"JobId": "a"}]'}, ["a"]),
        ({"SnapshotInfo": {"JobId": "a"}}, ["a"]),
        ({"SnapshotInfo": '{"JobId": "a"}'}, ["a"]),
        ('{"SnapshotInfo": {"JobId": "a"}}', ["a"]),
        ({"SnapshotInfo": {}}, []),
        ({"SnapshotInfo": "text"}, []),
        ({"Total": 1}, []),
        ({}, []),
        ([], []),
        ("", []),
        ([{}, {"Unknown": 1}, {"JobId": "a"}], ["a"]),
    ],
)
def test_lists_in_every_shape(value, ids):
    reading = members.read(vod_messages.Snapshot, json.dumps({"SnapshotInfos": value}).encode())
    assert [info["JobId"] for info in members.present(reading.message.get("SnapshotInfos"))] == ids
    assert reading.warnings == []


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"a": {"Status": "x"}, " b": {}}, ["a", " b"]),
        ('{"a": {"Status": "x"}}', ["a"]),
        ([{"a": {"Status": "x"}, "b": {"Status": "x"}}], ["a", "b"]),
        (['{"a": {"Status": "x"}}'], ["a"]),
        ([{"ActivityId": "a"}], ["a"]),
        ([{"activityInstanceId ": " i ", "ActivityId": "a"}, {"ActivityId": "a"}], ["i", "a"]),
        ([{}, {"Status": "x"}, {"ActivityId": "", "Status": "x"}], ["1", "2"]),
        ([{"ActivityId": "1"}, {"Status": "x"}, {"ActivityId": "1[1]"}], ["1", "1[1]", "1[1][2]"]),
        ([{"Unknown": 1}, {"Status": "x"}], ["1"]),
        ([], []),
        ({}, []),
        ("", []),
    ],
)
def test_named_objects_in_every_shape(value, names):
    reading = members.read(vod_messages.Workflow, json.dumps({"ActivityResults": value}).encode())
    assert list(reading.message.get("ActivityResults") or {}) == names
    assert reading.warnings == []


def test_what_is_no_object_among_the_named_is_noted_by_its_place():
    reading = members.read(vod_messages.Workflow, b'{"ActivityResults": [5, {"Status": "x"}, {"Status": {}}]}')
    assert list(reading.message["ActivityResults"]) == ["1"]
    assert reading.warnings == ["ActivityResults[0]", "ActivityResults[2].Status"]
    with pytest.raises(Unparseable, match="at most 2000 elements in ActivityResults"):
        members.read(vod_messages.Workflow, json.dumps({"ActivityResults": [{}] * 2001}).encode())


@pytest.mark.parametrize(
    ("element", "says"),
    [
        ({}, False),
        ({"a": None, "b": "", "c": (), "d": [], "e": {}}, False),
        ({"a": {"b": None, "c": ""}}, False),
        ({"a": ({}, {"b": None})}, False),
        ({"a": 0}, True),
        ({"a": False}, True),
        ({"a": ({}, {"b": 0})}, True),
        ({"a": {"b": "x"}}, True),
        ({"a": {"tags": []}}, True),
        ({"a": None, "b": "x"}, True),
    ],
)
def test_what_is_anything(element, says):
    assert members.says_anything(element) == says
    assert members.said(element) == (element if says else None)


def test_an_element_that_is_no_object_is_noted_by_its_place():
    reading = members.read(vod_messages.Snapshot, b'{"SnapshotInfos": [5, {"JobId": "a"}, {"SnapshotCount": "x"}]}')
    assert reading.warnings == ["SnapshotInfos[0]", "SnapshotInfos[2].SnapshotCount"]


def test_at_most_a_hundred_warnings():
    reading = members.read(vod_messages.Snapshot, json.dumps({"SnapshotInfos": [0] * 1000}).encode())
    assert len(reading.warnings) == 100


def test_what_is_nested_too_deeply_is_refused_wherever_it_stands():
    deep = "[" * 70 + "]" * 70
    with pytest.raises(Unparseable, match="nested deeper"):
        members.read(vod_messages.Ai, f'{{"Data": {deep}}}'.encode())
    inside = members.read(vod_messages.Ai, json.dumps({"Data": deep}).encode())
    assert members.decoded(inside.message["Data"]) == deep


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_no_json_can_hold_are_not_passed_on(number):
    reading = members.read(vod_messages.Ai, b'{"Data": {"score": %s, "name": "x"}, "UserId": %s}' % (number, number))
    assert members.decoded(reading.message["Data"]) == {"score": None, "name": "x"}
    assert left(reading.message) == {"data": {"name": "x"}}
    nothing = members.read(vod_messages.Ai, b'{"UserId": %s}' % number)
    assert not members.says_anything(nothing.message)
