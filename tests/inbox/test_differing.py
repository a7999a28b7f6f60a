"""What counts as content: when the vendor says a thing twice, when he says another one, and what must not cry wolf."""

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_callbacks.inbox.receiving.differing import describe, differing_members

URL = "http://media.example.com/a/1.mp4"
STREAM: dict[str, Any] = {
    "job_id": "job-1",
    "url": URL,
    "format": "mp4",
    "width": 1280,
    "duration_s": 10.0,
    "bitrate_kbps": 800.0,
    "size_bytes": 12345,
}


def event(**data: Any) -> str:
    """As stored; attributes of the event itself by ``_`` before their names."""
    attributes = {name[1:]: data.pop(name) for name in list(data) if name.startswith("_")}
    content: dict[str, Any] = {
        "product": "vod",
        "kind": "transcode",
        "outcome": "succeeded",
        "job_id": "job-1",
        "media_id": "media-1",
        "vendor_event": "StreamTranscodeComplete",
        "outputs": [STREAM],
        "error": None,
        "user_data": None,
    }
    ours = {
        "revision": 1,
        "source": "vod",
        "transport": "http",
        "verified_by": "signature",
        "received_at": "2026-01-02T03:04:05Z",
    }
    members = {**content, **ours} | data
    return json.dumps(
        {"id": "evt_1", "time": "2026-01-02T03:04:05Z", **attributes, "data": members}, separators=(",", ":")
    )


def stream(**changes: Any) -> list[dict[str, Any]]:
    return [STREAM | changes]


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "over another transport": {"transport": "mns-queue", "source": "queue", "verified_by": "queue"},
    "by another message": {"vendor_event": "TranscodeComplete"},
    "by the job API": {"transport": "query", "verified_by": "query", "vendor_event": None},
    "after the job API has confirmed it": {"verified_by": "query"},
    "after the job API has confirmed its outcome": {"outcome_verified_by": "query"},
}


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"_time": "2027-01-01T00:00:00Z"},
        {"received_at": "2027-01-01T00:00:00Z", "revision": 2, "source": "other", "verified_by": "none"},
        {"outputs": stream(url=f"{URL}?Expires=1&OSSAccessKeyId=k&Signature=s")},
        {"outputs": stream(url=f"{URL}?x-oss-credential=c&x-oss-signature=s&auth_key=1-0-0-a")},
    ],
)
def test_the_vendor_repeats_himself(same: dict[str, Any]) -> None:
    assert differing_members(event(), event(**same)) == ()


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({"media_id": "media-2"}, ("media_id",)),
        ({"user_data": "x"}, ("user_data",)),
        ({"kind": "ai", "job_id": None}, ("kind", "job_id")),
        ({"error": {"code": "E", "message": None, "retryable": None}}, ("error",)),
        ({"outputs": []}, ("outputs",)),
        ({"outputs": [STREAM, STREAM]}, ("outputs",)),
        ({"outputs": stream(url="http://media.example.com/a/2.mp4")}, ("outputs[0].url",)),
        ({"outputs": stream(url="https://media.example.com/a/1.mp4")}, ("outputs[0].url",)),
        ({"outputs": stream(url=f"{URL}?version=2&Signature=s")}, ("outputs[0].url",)),
        ({"outputs": stream(size_bytes=12346, format=None)}, ("outputs[0].format", "outputs[0].size_bytes")),
        ({"outputs": stream(duration_s=10.01)}, ("outputs[0].duration_s",)),
        ({"outputs": stream(further=1)}, ("outputs[0].further",)),
    ],
)
def test_every_difference_of_the_same_message_counts(changes: dict[str, Any], paths: tuple[str, ...]) -> None:
    assert differing_members(event(), event(**changes)) == paths
    assert sorted(differing_members(event(**changes), event())) == sorted(paths)


@pytest.mark.parametrize("way", OTHER_WAYS.values(), ids=OTHER_WAYS)
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"outputs": []},
        {"media_id": None, "user_data": "x"},
        {"outputs": stream(width=None, definition="HD", format="MP4")},
        {"outputs": stream(url="https://MEDIA.example.com/a/%31.mp4?auth_key=1")},
        {"outputs": stream(duration_s=10.06, bitrate_kbps=799.5)},
        {"outputs": stream(result={"any": "thing"})},
    ],
)
def test_who_tells_the_same_otherwise_knows_more_or_less(way: dict[str, Any], told: dict[str, Any]) -> None:
    known = event(outputs=stream(result={"all": 1}))
    assert differing_members(known, event(**{**told, **way})) == ()
    assert differing_members(event(**{**told, **way}), known) == ()


@pytest.mark.parametrize("way", OTHER_WAYS.values(), ids=OTHER_WAYS)
@pytest.mark.parametrize(
    ("told", "paths"),
    [
        ({"media_id": "media-2"}, ("media_id",)),
        ({"job_id": "JOB-1"}, ("job_id",)),
        ({"outputs": stream(url="http://media.example.com/a/2.mp4")}, ("outputs[0].url",)),
        ({"outputs": stream(size_bytes=12346)}, ("outputs[0].size_bytes",)),
        ({"outputs": stream(width=1281)}, ("outputs[0].width",)),
        ({"outputs": stream(duration_s=11)}, ("outputs[0].duration_s",)),
        ({"outputs": [STREAM, STREAM | {"job_id": "job-2"}]}, ("outputs",)),
    ],
)
def test_who_tells_something_else_differs_however_he_tells_it(
    way: dict[str, Any], told: dict[str, Any], paths: tuple[str, ...]
) -> None:
    assert differing_members(event(), event(**{**told, **way})) == paths


def test_another_host_is_another_address_unless_the_job_api_gave_one() -> None:
    elsewhere = {"outputs": stream(url="http://evil.example.net/a/1.mp4")}
    for name, way in OTHER_WAYS.items():
        expected = () if "job API" in name else ("outputs[0].url",)
        assert differing_members(event(), event(**{**elsewhere, **way})) == expected


def test_the_order_of_outputs_may_be_another_where_it_is_told_otherwise() -> None:
    streams = [STREAM | {"job_id": f"job-{n}", "url": f"{URL}{n}"} for n in range(3)]
    known = event(outputs=streams)
    assert differing_members(known, event(outputs=streams[::-1], vendor_event="TranscodeComplete")) == ()
    assert differing_members(known, event(outputs=streams[::-1])) != ()
    streams[1] = streams[1] | {"url": "http://media.example.com/x"}
    assert differing_members(known, event(outputs=streams[::-1], transport="mns-push")) != ()


def test_errors_are_compared_by_their_codes_where_they_are_told_otherwise() -> None:
    failed = {"code": "JobOverTime", "message": "too long", "retryable": True}
    known, other = (
        event(error=failed),
        event(error=failed | {"message": "timed out", "retryable": None}, transport="query"),
    )
    assert differing_members(known, other) == ()
    other = event(error=failed | {"code": "Other"}, transport="query")
    assert differing_members(known, other) == ("error.code",)


def test_what_is_said_of_it_names_members_and_no_values() -> None:
    assert describe(("a", "b")).endswith(": a, b")
    text = describe(tuple(f"outputs[{n}].url" for n in range(500)))
    assert text.endswith("outputs[19].url and 480 more")
    assert len(text) < 1000


@pytest.mark.parametrize("url", ["http://[/x?Signature=1", "http://[/y?Signature=1"])
def test_what_is_no_address_is_a_text(url: str) -> None:
    for way in ({}, {"transport": "mns-push"}):
        assert differing_members(event(outputs=stream(url=url)), event(outputs=stream(url=url), **way)) == ()
        assert differing_members(event(outputs=stream(url=url)), event(**way)) == ("outputs[0].url",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
NAMES = st.sampled_from(("job_id", "url", "urls", "fps", "times_s", "result", "count", "format"))
OUTPUTS = st.lists(st.dictionaries(NAMES, JSON, max_size=4), max_size=4)


@given(OUTPUTS, OUTPUTS, st.sampled_from([{}, *OTHER_WAYS.values()]), JSON, JSON)
def test_whatever_is_said_is_compared_both_ways_and_with_itself(
    ours: list[Any], theirs: list[Any], way: dict[str, Any], one: Any, other: Any
) -> None:
    first, second = event(outputs=ours, user_data=one), event(outputs=theirs, user_data=other, **way)
    found = differing_members(first, second)
    assert bool(found) == bool(differing_members(second, first))
    assert differing_members(first, event(outputs=deepcopy(ours), user_data=one, **way)) == ()
    assert all(path.partition(".")[0].partition("[")[0] in ("outputs", "user_data") for path in found)
