"""
What the vendor may send one day: every sample, changed in every place.

Whatever comes, a parser gives at least one completion or says that it can't, and every completion makes an event that
can be written, read back and deduplicated.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import parse_event
from media_callbacks.model.identity import event_id
from media_callbacks.sources.base import Message, Source
from media_callbacks.sources.intake import build_event
from media_callbacks.sources.products import ims, mts, multimediaai, vod
from media_callbacks.sources.products.vod_catalogue import EVENT_TYPES
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource

SAMPLES = Path(__file__).parents[1] / "samples"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
META = {"nonce": "000102030405060708090a0b", "bind": "00" * 16}
SOURCES: dict[str, Source] = {
    "vod": HttpSource(
        name="vod", product="vod", account="a", path="/vod", urls=("u",), keys=("k",), max_age_s=1, parser=vod.parse
    ),
    "ims": HttpSource(
        name="ims", product="ims", account="a", path="/ims", urls=("u",), keys=("k",), max_age_s=1, parser=ims.parse
    ),
    "mts": MnsPushSource(
        name="mts",
        product="mts",
        account="a",
        path="/mts",
        topics=frozenset({"1/t"}),
        certificate_hosts=frozenset(),
        parser=mts.parse,
    ),
    "multimediaai": TokenUrlSource(
        name="gif",
        product="multimediaai",
        account="a",
        path="/gif",
        url="u",
        keys={1: bytes(32)},
        minting_key_id=1,
        parser=multimediaai.parse,
    ),
}
NAMES = sorted(f"{path.parent.name}/{path.stem}" for path in SAMPLES.glob("*/*.json"))


class Members(list[Any]):
    """A JSON object as pairs, so that a key can be in it twice."""


def read(text):
    return json.loads(text, strict=False, object_pairs_hook=Members)


def write(value):
    if isinstance(value, Members):
        return "{" + ",".join(f"{json.dumps(key)}:{write(member)}" for key, member in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(element) for element in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def other_case(key):
    return key[:1].swapcase() + key[1:]


# What may happen to one member: the members that take its place.
CHANGES = {
    "drop": lambda key, value: [],
    "null": lambda key, value: [(key, None)],
    "number": lambda key, value: [(key, 12.5)],
    "text": lambda key, value: [(key, " other\0 ")],
    "empty text": lambda key, value: [(key, "")],
    "true": lambda key, value: [(key, True)],
    "empty list": lambda key, value: [(key, [])],
    "empty object": lambda key, value: [(key, Members())],
    "very long number": lambda key, value: [(key, 10**45)],
    "in a string": lambda key, value: [(key, write(value))],
    "in a list": lambda key, value: [(key, [value])],
    "twice in a list": lambda key, value: [(key, [value, value])],
    "in an object": lambda key, value: [(key, Members([(key, value)]))],
    "other case": lambda key, value: [(other_case(key), value)],
    "capitals": lambda key, value: [(key.upper(), value)],
    "blanks": lambda key, value: [(f" {key}\t", value)],
    "doubled": lambda key, value: [(key, value), (key, value)],
    "doubled and different": lambda key, value: [(key, value), (other_case(key), "other")],
    "doubled and null": lambda key, value: [(key, value), (other_case(key), None)],
}


def changed(value, change):
    """The value with one member changed, for every member at every depth, JSON in strings included."""
    if isinstance(value, Members):
        for index, (key, member) in enumerate(value):
            before, after = value[:index], value[index + 1 :]
            yield Members([*before, *change(key, member), *after])
            for inner in changed(member, change):
                yield Members([*before, (key, inner), *after])
    elif isinstance(value, list):
        for index, element in enumerate(value):
            for inner in changed(element, change):
                yield [*value[:index], inner, *value[index + 1 :]]
    elif isinstance(value, str) and value[:1] == "{":
        try:
            inside = read(value)
        except ValueError:
            return
        for inner in changed(inside, change):
            yield write(inner)


def with_unknown_members(value):
    """Members that nobody knows, in every object that is not in a string."""
    if isinstance(value, Members):
        return Members([("Unknown", [1, {"x": None}]), *((key, with_unknown_members(member)) for key, member in value)])
    if isinstance(value, list):
        return [with_unknown_members(element) for element in value]
    return value


def parse(product, payload):
    message = Message(payload, payload, "signature", meta=META)
    return message, SOURCES[product].parse(message)


def check(product, payload):
    """Parse, and make an event of each completion. False when the message can't be read."""
    try:
        message, parsed = parse(product, payload)
    except Unparseable:
        return False
    assert parsed.completions
    for completion in parsed.completions:
        event = build_event(completion, source=SOURCES[product], message=message, received_at=NOW)
        body = event.to_json()
        assert parse_event(body).to_json() == body
        digest = completion.key(product, "a").digest()
        assert (len(digest), event.id) == (16, event_id(digest, completion.outcome))
        assert (completion.kind == "notice") == (completion.outcome == "received")
        assert (completion.error is not None) >= (completion.outcome == "failed")
        assert not (completion.outputs and completion.outcome in ("failed", "cancelled", "received"))
        assert all(completion.family and len(part) <= len(payload) + 64 for part in completion.id)
        assert completion.job_id is None or completion.job_id == completion.job_id.strip() != ""
        assert "\0" not in f"{completion.id}{completion.job_id}{completion.media_id}{completion.user_data}"
    return True


def load(name):
    product, _, stem = name.partition("/")
    return product, read((SAMPLES / product / f"{stem}.json").read_text("utf-8"))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("product", SOURCES)
def test_changed(product, change):
    readable = False
    for name in NAMES:
        if name.startswith(f"{product}/"):
            for mutant in changed(load(name)[1], CHANGES[change]):
                payload = write(mutant).encode()
                try:
                    readable |= check(product, payload)
                except BaseException as error:
                    error.add_note(f"{name}: {payload.decode()}")
                    raise
    assert readable


@pytest.mark.parametrize("name", NAMES)
def test_truncated(name):
    product, document = load(name)
    payload = write(document).encode()
    assert check(product, payload)
    for length in range(len(payload)):
        assert check(product, payload[:length]) == (product == "multimediaai")


def told(product, document):
    """What is left of a message when names and hashes that depend on the exact text are left out."""
    _, parsed = parse(product, write(document).encode())
    return [(c.kind, c.outcome, c.family, c.job_id, c.media_id, c.error, len(c.outputs)) for c in parsed.completions]


def test_unknown_members_change_nothing():
    for name in NAMES:
        product, document = load(name)
        assert told(product, with_unknown_members(document)) == told(product, document), name


def with_keys(value, change):
    if isinstance(value, Members):
        return Members([(change(key), with_keys(member, change)) for key, member in value])
    return [with_keys(element, change) for element in value] if isinstance(value, list) else value


@pytest.mark.parametrize("change", [other_case, str.upper, str.lower, "{} ".format, " {}".format])
def test_the_spelling_of_keys_changes_nothing(change):
    for name in NAMES:
        product, document = load(name)
        assert told(product, with_keys(document, change)) == told(product, document), name


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=10), values, max_size=4),
    max_leaves=12,
)
WORDS = sorted(
    {
        *EVENT_TYPES,
        *ims.KINDS,
        *mts.KINDS,
        "StreamTranscodeComplete",
        "Report",
        "Start",
        "Success",
        "fail",
        "Running",
    }
)
FIELDS = [
    "EventType",
    "EventTime",
    "Status",
    "State",
    "JobId",
    "MediaId",
    "VideoId",
    "TaskId",
    "MessageBody",
    "SnapshotInfos",
    "StreamInfos",
    "Data",
    "Type",
    "RunId",
    "DynamicImageJobInfo",
    "MediaWorkflowExecution",
    "ActivityList",
    "ActivityResults",
    "SnapshotCount",
    "SnapshotRegular",
    "Count",
    "TimeArray",
    "UrlPattern",
    "result",
    "Result",
    "FpShots",
    "VideoDNA",
    "MediaCensorJobNotify",
    "Extend",
    "UserData",
    "Size",
    "ErrorCode",
]
VALUES = st.sampled_from(WORDS) | JSON
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6),
    lambda values: st.dictionaries(st.sampled_from(FIELDS), VALUES | values | st.lists(values, max_size=3), max_size=8),
    max_leaves=6,
)


@pytest.mark.parametrize("product", SOURCES)
@given(payload=st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_any_bytes(product, payload):
    check(product, payload)


@pytest.mark.parametrize("product", SOURCES)
@given(document=JSON)
@settings(max_examples=100, deadline=None)
def test_any_json(product, document):
    check(product, json.dumps(document).encode())


@pytest.mark.parametrize("product", SOURCES)
@given(document=OBJECTS)
@settings(max_examples=150, deadline=None)
def test_any_message_of_known_names(product, document):
    check(product, json.dumps(document).encode())
