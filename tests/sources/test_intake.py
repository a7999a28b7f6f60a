"""From a genuine message to what is kept of it, and what of that must wait for the vendor's word."""

from datetime import UTC, datetime
from typing import Any

import pytest

from media_callbacks.healing.queries.base import QuerySource
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.outputs import TranscodeOutput
from media_callbacks.model.receipts import Hold, NamelessJob
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.sources.intake import HoldRules, build_receipt

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def transcode(**changes: Any) -> Completion:
    fields = {
        "family": "transcode",
        "id": ("job-1",),
        "kind": "transcode",
        "outcome": "succeeded",
        "vendor_event": "Transcode",
        "job_id": "job-1",
    }
    return Completion(**(fields | changes))


def keep(completion: Completion | Exception, holds: HoldRules | None = None, *, verified_by: Any = "signature") -> Any:
    def parse(_: Message) -> Parsed:
        if isinstance(completion, Exception):
            raise completion
        return Parsed((completion,))

    source = QuerySource(name="mts", product="mts", account="main", parser=parse)
    message = Message(b"{}", b"{}", verified_by, meta={"nonce": "aa", "bind": "bb"})
    return build_receipt(source, message, received_at=NOW, route=lambda _: ("orders",), holds=holds)


def rules(confirm: Any = "never", *families: str) -> HoldRules:
    return HoldRules(confirm=confirm, confirm_timeout_s=300, enriched_families=frozenset(families))


def test_a_fault_of_a_parser_costs_the_message_nothing():
    receipt = keep(KeyError("the body says secret things"))
    assert receipt.entries == ()
    assert receipt.body == b"{}"
    assert receipt.reason == "the parser failed (KeyError): please report it"


@pytest.mark.parametrize(
    ("confirm", "verified_by", "waits"),
    [
        ("never", "none", False),
        ("when-unsigned", "none", True),
        ("when-unsigned", "token", True),
        ("when-unsigned", "signature", False),
        ("when-unsigned", "queue", False),
        ("always", "signature", True),
        ("always", "queue", True),
    ],
)
def test_what_is_to_be_confirmed_waits(confirm, verified_by, waits):
    (entry,) = keep(transcode(), rules(confirm), verified_by=verified_by).entries
    reference = JobReference(product="mts", account="main", family="transcode", job_id="job-1", nonce="aa", bind="bb")
    assert entry.hold == (Hold("confirm", reference, 300) if waits else None)
    assert entry.sinks == ("orders",)


URL = (TranscodeOutput.model_construct(url="http://media.example.com/1.mp4"),)
NO_URL = (TranscodeOutput.model_construct(url=None),)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, True),
        ({"outcome": "partial"}, True),
        ({"outputs": NO_URL}, True),
        ({"outputs": URL}, False),
        ({"outcome": "failed"}, False),
        ({"outcome": "unknown"}, False),
        ({"family": "mediainfo"}, False),
        ({"job_id": None}, False),
    ],
)
def test_what_lacks_outputs_waits_where_they_can_be_had(changes, waits):
    (entry,) = keep(transcode(**changes), rules("never", "transcode")).entries
    assert (entry.hold is not None and entry.hold.reason == "enrich") == waits


def test_nothing_waits_without_rules():
    (entry,) = keep(transcode(), None, verified_by="none").entries
    assert entry.hold is None


@pytest.mark.parametrize(
    ("nameless", "media_id", "expected"),
    [
        (None, "media-1", None),
        ("takes_name", None, None),
        ("takes_name", "media-1", NamelessJob("mts", "main", "transcode", "media-1", takes_name=True)),
        ("keeps_key", "media-1", NamelessJob("mts", "main", "transcode", "media-1", takes_name=False)),
    ],
)
def test_a_message_that_names_no_job_says_whose_it_may_be(nameless, media_id, expected):
    (entry,) = keep(transcode(nameless=nameless, media_id=media_id)).entries
    assert entry.nameless == expected
