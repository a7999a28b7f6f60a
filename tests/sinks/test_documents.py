"""What names an event is found without reading all of it, and is what reading all of it finds."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_callbacks.model.errors import SinkRejected
from media_callbacks.model.events import Delivery
from media_callbacks.model.kinds import KINDS, OUTCOMES
from media_callbacks.model.naming import NameTemplate
from media_callbacks.model.operational import build_event
from media_callbacks.sinks import documents
from media_callbacks.sinks.documents import read_heading
from tests.inbox.conformance import NOW, make_event

TEMPLATES = [NameTemplate(text) for text in ("media", "{type}.{product}", "{product}.{kind}.{outcome}", "{source}")]


def _delivery(body: bytes) -> Delivery:
    return Delivery(row_id=1, sink="a", event_id="evt_1", body=body, attempt=1, lease="lease")


def _spread(body: bytes) -> bytes:
    """The same event as nobody writes it."""
    return json.dumps(json.loads(body), indent=1).encode()


@given(
    subject=st.none()
    | st.text(st.characters(codec="utf-8"), min_size=1)
    | st.sampled_from(['"', "\\", '","time":"', "ö"]),
    kind=st.sampled_from([kind for kind in KINDS if kind != "notice"]),
    outcome=st.sampled_from([outcome for outcome in OUTCOMES if outcome != "received"]),
    template=st.sampled_from(TEMPLATES),
)
def test_the_beginning_says_what_all_of_it_says(
    subject: str | None, kind: str, outcome: Any, template: NameTemplate
) -> None:
    event = make_event("job-1", outcome, kind=kind, user_data=subject).model_copy(update={"subject": subject})
    body = event.to_json()
    found = read_heading(_delivery(body), template)
    assert found == read_heading(_delivery(_spread(body)), template)
    assert found[1] == (None if subject is None else subject.encode())


def test_a_usual_event_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each event that is sent to a broker would cost a tenth more."""
    monkeypatch.delattr(documents, "from_json")
    event = make_event("job-1", "failed", product="ims")
    for subject, expected in (("job-1", b"job-1"), (None, None)):
        body = event.model_copy(update={"subject": subject}).to_json()
        assert read_heading(_delivery(body), TEMPLATES[2]) == ("ims.animated_image.failed", expected)


@pytest.mark.parametrize("template", TEMPLATES)
def test_operational_events_have_a_heading_too(template: NameTemplate) -> None:
    body = build_event("disk_low", "here", since=NOW, ended_at=None, detail=None, instance="host-1").to_json()
    assert read_heading(_delivery(body), template) == read_heading(_delivery(_spread(body)), template)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": {"kind": "snapshot"}}', b"\xff"])
def test_what_is_no_event_has_none(body: bytes) -> None:
    with pytest.raises(SinkRejected, match="the stored event "):
        read_heading(_delivery(body), TEMPLATES[0])
