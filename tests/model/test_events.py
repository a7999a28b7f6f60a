"""Events as their readers have them: typed by kind, and readable when the service is of a later version."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_callbacks.events import AnimatedImage, Event, Snapshot, UnknownEvent, parse_any_event, parse_event
from media_callbacks.model.events import read_traceparent
from tests.inbox.conformance import make_event

EVENT = make_event()
BODY = EVENT.to_json()


def changed(*, data: Any = None, **attributes: Any) -> bytes:
    """The event in the words of another version."""
    document = json.loads(BODY)
    document["data"] |= data or {}
    document |= attributes
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


LATER: dict[str, bytes] = {
    "another kind": BODY.replace(b"animated_image", b"hologram"),
    "another number of the schema": changed(dataschema="urn:media-callbacks:animated_image:2"),
    "another number, other words": changed(
        dataschema="urn:media-callbacks:snapshot:2", data={"kind": 7, "outcome": "over", "outputs": None}
    ),
    "other attributes": changed(dataschema="urn:media-callbacks:hologram:1", time=..., subject=..., partitionkey="1"),
}


@pytest.mark.parametrize("body", LATER.values(), ids=LATER)
def test_what_only_a_later_version_knows_is_read_as_it_came(body):
    event = parse_any_event(body)
    document = json.loads(body)
    assert isinstance(event, UnknownEvent)
    assert (event.id, event.source, event.type) == (document["id"], document["source"], document["type"])
    assert event.data == document["data"]
    assert event.model_dump() == document


def test_what_this_version_knows_is_read_as_an_event_whatever_is_added_to_it():
    assert parse_any_event(BODY) == EVENT
    assert parse_any_event(changed(partitionkey="1", data={"added": {"later": [1]}})) == EVENT


WRONG: dict[str, bytes | str] = {
    "nothing": b"",
    "no text": b"\xff",
    "no object": "[]",
    "too deep": "[" * 100_000,
    "too many digits": "9" * 5_000,
    "of somebody else": changed(dataschema="https://example.com/schemas/order"),
    "without a schema": changed(dataschema=...),
    "without an id": changed(dataschema="urn:media-callbacks:hologram:1", id=...),
    "an empty id": changed(dataschema="urn:media-callbacks:hologram:1", id=""),
    "of a later version, without data": BODY.replace(b"animated_image", b"hologram").replace(b'"data"', b'"date"'),
    "known, and not as it must be": changed(data={"outcome": "over"}),
    "known, and of another kind": changed(data={"kind": "hologram"}),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_what_is_no_event_of_any_version_is_refused(body):
    with pytest.raises((ValueError, RecursionError)):
        parse_any_event(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
DOCUMENT = json.loads(BODY) | {"dataschema": "urn:media-callbacks:hologram:1"}


@given(changes=st.dictionaries(st.sampled_from([*DOCUMENT, "added"]), JSON, max_size=3))
def test_whatever_a_document_says_it_is_an_event_or_refused(changes):
    body = json.dumps(DOCUMENT | changes)
    try:
        event = parse_any_event(body)
    except (ValueError, RecursionError):
        assert {"id", "source", "type", "dataschema", "data"} & {*changes}
    else:
        assert event.id == json.loads(body)["id"]


def test_an_event_of_a_kind_is_an_event():
    typed = Event[AnimatedImage].model_validate_json(BODY)
    assert typed == parse_event(BODY) == EVENT
    assert typed.to_json() == BODY
    with pytest.raises(ValueError, match="snapshot"):
        Event[Snapshot].model_validate_json(BODY)


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"


def test_where_a_trace_begins_is_the_last_member_of_an_event_and_of_one_that_is_traced_alone():
    traced = EVENT.model_copy(update={"traceparent": TRACEPARENT})
    assert traced.to_json() == BODY[:-1] + f',"traceparent":"{TRACEPARENT}"}}'.encode()
    assert b"traceparent" not in BODY
    assert (read_traceparent(traced.to_json()), read_traceparent(BODY)) == (TRACEPARENT, None)
    assert parse_event(traced.to_json()) == traced == parse_any_event(traced.to_json())
    again = traced.with_revision(2)
    assert read_traceparent(again.to_json()) == TRACEPARENT


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"}",
        b',"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"}}',
        b',"traceparent":"00-0AF7651916CD43DD8448EB211C80319C-b9c7c989f97918e1-01"}',
        b',"traceparent":"01-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"}',
        b',"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01\\"',
    ],
)
def test_nothing_else_is_taken_for_one(end):
    assert read_traceparent(b'{"user_data":"x"' + end) is None
