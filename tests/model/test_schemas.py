"""
The contract with consumers: schemas that are published under ``schemas/``, true of every event, and never broken.
"""

import copy
import json
import re
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import jsonschema
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from media_callbacks.__main__ import main
from media_callbacks.commands import schema as command
from media_callbacks.config.sinks import SINK_MODELS
from media_callbacks.model import schemas
from media_callbacks.model.events import (
    DATA_MODELS,
    SCHEMA_VERSION,
    Delivery,
    Event,
    EventData,
    EventError,
    parse_event,
)
from media_callbacks.model.identity import event_id
from media_callbacks.model.kinds import KINDS, OPERATIONAL, OUTCOMES
from media_callbacks.model.outputs import AiOutput, Frozen
from media_callbacks.model.schema_changes import breaking_changes
from media_callbacks.model.schemas import (
    EVENT,
    allowed_outcomes,
    asyncapi_document,
    event_schema,
    kind_schema,
    operational_schema,
    schema_file,
)
from media_callbacks.sinks import aws, webhook
from media_callbacks.sources.base import Message
from media_callbacks.sources.intake import build_event
from media_callbacks.sources.products import ims, mts, multimediaai, vod
from tests.factories.contracts import check_event, closed, schema_errors

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "schemas"
SAMPLES = ROOT / "tests" / "samples"
RENEW = "run: media-callbacks schema --write schemas"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
PARSERS = {"vod": vod.parse, "ims": ims.parse, "mts": mts.parse, "multimediaai": multimediaai.parse}
TRANSPORTS = {"vod": "http", "ims": "http", "mts": "mns-push", "multimediaai": "token-url"}

SCHEMAS: dict[Any, Any] = {kind: kind_schema(kind) for kind in KINDS} | {
    EVENT: event_schema(),
    OPERATIONAL: operational_schema(),
}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def make_event(kind="animated_image", outcome=None, **members) -> Event:
    outcome = outcome or allowed_outcomes(kind)[0]
    data: dict[str, Any] = {
        "product": "vod",
        "outcome": outcome,
        "job_id": "3af7e9705cb24c0f9d23231d4c371900",
        "media_id": None,
        "vendor_event": "DynamicImageComplete",
        "error": None,
        "user_data": None,
        "revision": 1,
        "source": "vod",
        "transport": "http",
        "verified_by": "signature",
        "outcome_verified_by": "signature",
        "received_at": NOW,
    }
    subject = members.pop("subject", "3af7e9705cb24c0f9d23231d4c371900")
    return Event(
        id=event_id(b"0123456789abcdef", outcome),
        source="/aliyun/vod/default",
        type=f"media.{kind}.{outcome}",
        subject=subject,
        time=NOW,
        dataschema=f"urn:media-callbacks:{kind}:{SCHEMA_VERSION}",
        data=DATA_MODELS[kind](**data | members),
    )


# The schemas themselves


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_valid_open_and_named_by_its_events(kind):
    schema = kind_schema(kind)
    Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == f"urn:media-callbacks:{kind}:{SCHEMA_VERSION}"
    text = json.dumps(schema)
    assert "additionalProperties" not in text
    assert "$ref" not in text
    document = json.loads(make_event(kind).to_json())
    document["added"] = document["data"]["added"] = {"later": 1}
    jsonschema.validate(document, schema, Draft202012Validator)
    # The typed reader does not mind either.
    assert parse_event(json.dumps(document)) == make_event(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_is_described_required_and_as_in_the_model(kind):
    data = kind_schema(kind)["properties"]["data"]
    model = DATA_MODELS[kind]
    assert list(data["properties"]) == data["required"] == list(model.model_fields)

    def check(schema: Any, path: str) -> None:
        assert schema.get("description"), (
            f"{path}: no description; give the field one in service/media_callbacks/model/events.py"
        )
        for name, member in schema.get("properties", {}).items():
            if path != kind:
                assert name in schema["required"], f"{path}.{name}"
            check(member, f"{path}.{name}")
        # An array of plain values is described itself.
        if "properties" in schema.get("items", {}):
            check(schema["items"], f"{path}[]")

    check(kind_schema(kind), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_is_accepted_where_the_contract_allows_it(kind, outcome):
    document = json.loads(make_event(kind).to_json())
    document["type"] = f"media.{kind}.{outcome}"
    document["data"]["outcome"] = outcome
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    if (outcome == "received") == (kind == "notice"):
        check_event(body)
    else:
        with pytest.raises(AssertionError, match=rf"data\.outcome: '{outcome}' is not one of"):
            check_event(body)


def test_an_event_without_a_subject_and_with_everything_else_is_accepted():
    error = EventError(code="JobFailed", message="ошибка", retryable=None)
    event = make_event("ai", error=error, outputs=(AiOutput(result={"任意": [1, None, 2.5]}),), subject=None)
    assert b'"subject"' not in event.to_json()
    check_event(event.to_json())


WRONG: dict[str, tuple[str, Any]] = {
    "no data": ("data", ...),
    "no id": ("id", ...),
    "an id of another make": ("id", "3af7e970"),
    "another specversion": ("specversion", "0.3"),
    "the type of another kind": ("type", "media.snapshot.succeeded"),
    "the schema of another kind": ("dataschema", "urn:media-callbacks:snapshot:1"),
    "a null subject": ("subject", None),
    "a time without its zone": ("time", "2026-01-02T03:04:05"),
    "an unknown attribute": ("extra", 1),
    "no job id": ("data.job_id", ...),
    "a job id that is a number": ("data.job_id", 7),
    "another kind": ("data.kind", "snapshot"),
    "an unknown outcome": ("data.outcome", "finished"),
    "an unknown product": ("data.product", "oss"),
    "null outputs": ("data.outputs", None),
    "an output without its members": ("data.outputs", [{}]),
    "an error without its members": ("data.error", {"code": "X"}),
    "revision nought": ("data.revision", 0),
    "a receipt time that is none": ("data.received_at", "yesterday"),
    "an undeclared member": ("data.extra", 1),
}


@pytest.mark.parametrize("path, value", WRONG.values(), ids=WRONG)
def test_what_is_not_an_event_of_this_kind_is_refused(path, value):
    document = json.loads(make_event().to_json())
    change(document, path, value)
    errors = schema_errors("animated_image", document)
    assert errors
    assert path.rpartition(".")[2] in "; ".join(errors)


def change(document: Any, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        document = document[parent]
    if value is ...:
        del document[name]
    else:
        document[name] = value


def test_an_event_fits_the_schema_of_all_kinds_by_that_of_its_own_alone():
    schema = event_schema()
    Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert schema["$id"] == f"urn:media-callbacks:event:{SCHEMA_VERSION}"
    # No document within the document has a name that is also that of a file.
    assert json.dumps(schema).count('"$id"') == 1
    for kind, branch in zip(KINDS, schema["oneOf"], strict=True):
        assert branch == {key: value for key, value in kind_schema(kind).items() if key not in ("$schema", "$id")}
        # What code generators tell the kinds apart by.
        assert branch["properties"]["data"]["properties"]["kind"]["const"] == kind
        assert branch["properties"]["dataschema"]["const"] == f"urn:media-callbacks:{kind}:{SCHEMA_VERSION}"
        document = json.loads(make_event(kind).to_json())
        jsonschema.validate(document, schema, Draft202012Validator)
        document["data"]["kind"] = "hologram"
        assert not Draft202012Validator(schema).is_valid(document)


# Every event that our samples give


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_events_of_every_sample_fit_their_schema_and_are_read_back(path):
    product = path.parent.name
    body = path.read_bytes()
    meta = {"nonce": "0123456789abcdef01234567"} if product == "multimediaai" else {}
    message = Message(body, body, "token" if meta else "signature", meta=meta)
    source: Any = SimpleNamespace(name="main", product=product, account="default", transport=TRANSPORTS[product])
    completions = PARSERS[product](message).completions
    assert completions
    for completion in completions:
        event = build_event(completion, source=source, message=message, received_at=NOW)
        check_event(event.to_json())
        assert parse_event(event.to_json()).data == event.data


def test_the_samples_cover_every_kind():
    kinds = set()
    for path in SAMPLES.glob("*/*.json"):
        body = path.read_bytes()
        message = Message(body, body, "token", meta={"nonce": "0123456789abcdef01234567"})
        kinds |= {completion.kind for completion in PARSERS[path.parent.name](message).completions}
    assert kinds == set(KINDS)


# What is published


@pytest.mark.parametrize("name", [*KINDS, EVENT, OPERATIONAL])
def test_the_published_schema_is_still_true(name):
    """A consumer that validates with, or was generated from, the published file understands today's events."""
    path = PUBLISHED / schema_file(name)
    assert path.exists(), f"no {path.name}; {RENEW}"
    changes = breaking_changes(read(path), SCHEMAS[name])
    assert changes == [], (
        "this breaks consumers: take it back, or raise SCHEMA_VERSION in service/media_callbacks/model/events.py"
    )


def test_the_published_files_are_what_is_generated():
    expected = {schema_file(name): schema for name, schema in SCHEMAS.items()} | {"asyncapi.json": asyncapi_document()}
    for name, document in expected.items():
        path = PUBLISHED / name
        assert path.exists(), f"no {name}; {RENEW}"
        assert path.read_text(encoding="utf-8") == command.render(document), f"{name} is not up to date; {RENEW}"


def test_nothing_that_was_published_is_gone():
    names = {path.name for path in PUBLISHED.iterdir()} - {"asyncapi.json"}
    versions = {int(re.fullmatch(r"[a-z_]+\.([1-9][0-9]*)\.schema\.json", name)[1]) for name in names}  # type: ignore[index]
    assert versions == set(range(1, SCHEMA_VERSION + 1)), "files of earlier versions stay for those who read them"
    current = {name for name in names if name.endswith(f".{SCHEMA_VERSION}.schema.json")}
    assert current == {schema_file(name) for name in SCHEMAS}, "a kind goes only with a new version"


# Changes that break, and changes that don't. Each is an edit of the schema of `workflow`, by path.

D = "properties.data.properties"
O = f"{D}.outputs.items"  # noqa: E741

BREAKING: dict[str, tuple[str, Any, str]] = {
    "a member is gone": (f"{D}.media_id", ..., "data.media_id: is gone"),
    "a member of outputs is gone": (f"{O}.properties.name", ..., "data.outputs[].name: is gone"),
    "an attribute is gone": ("properties.subject", ..., "subject: is gone"),
    "a member need not be there": (f"{D}.error.required", ["code", "message"], "data.error.retryable: was always"),
    "no member of outputs need be there": (f"{O}.required", ..., "data.outputs[].name: was always"),
    "another type": (f"{D}.revision.type", "string", "data.revision: may now be of type string"),
    "a wider type": (f"{D}.revision.type", "number", "data.revision: may now be of type number"),
    "null": (f"{D}.source.type", ["string", "null"], "data.source: may now be of type null"),
    "any type": (f"{D}.source.type", ..., "data.source: may now be of type array, boolean"),
    "null instead of an object": ("properties.data.type", "null", "data: may now be of type null"),
    "another value": (f"{D}.transport.enum", ["http", "fax"], "data.transport: may now be fax"),
    "any value": (f"{D}.transport.enum", ..., "data.transport: may now have any value, not only http"),
    "another constant": (f"{D}.kind.const", "run", "data.kind: may now be run"),
    "no constant": (f"{D}.kind.const", ..., "data.kind: may now have any value, not only workflow"),
    "another outcome of an activity": (
        f"{O}.properties.outcome.enum",
        ["succeeded", "received"],
        "may now be received",
    ),
    "another type of event": ("properties.type.enum", ["media.run.succeeded"], "type: may now be media.run.succeeded"),
    "another name": ("$id", "urn:media-callbacks:workflow:2", "the schema: $id was urn:media-callbacks:workflow:1"),
    "another pattern": ("properties.id.pattern", "^evt_[0-9A-F]{34}$", "id: pattern was"),
    "no pattern": ("properties.id.pattern", ..., "id: pattern was ^evt_[0-9a-f]{34}$ and is gone"),
    "no format": ("properties.time.format", ..., "time: format was date-time and is gone"),
    "another format": (f"{D}.received_at.format", "date", "data.received_at: format was date-time and is date"),
    "a lower bound": (f"{D}.revision.minimum", 0, "data.revision: minimum was 1 and is 0"),
    "no bound": (f"{D}.revision.minimum", ..., "data.revision: minimum was 1 and is gone"),
    "anything in a list": (f"{D}.outputs.items", ..., "data.outputs[]: may now be of type"),
    "another type in a list": (f"{D}.outputs.items", {"type": "string"}, "data.outputs[]: may now be of type string"),
}

HARMLESS: dict[str, tuple[str, Any]] = {
    "nothing": ("title", "media.workflow, version 1"),
    "other texts": ("description", "Other words."),
    "no text": (f"{D}.job_id.description", ...),
    "a further member": (f"{D}.region", {"type": "string"}),
    "a further member of outputs": (f"{O}.properties.region", {"type": ["string", "null"]}),
    "a further attribute": ("properties.partitionkey", {"type": "string"}),
    "an attribute that is always there now": (
        "required",
        ["specversion", "id", "source", "type", "time", "datacontenttype", "dataschema", "data", "subject"],
    ),
    "never null": (f"{D}.job_id.type", "string"),
    "never anything but null": (f"{D}.user_data.type", "null"),
    "fewer values": (f"{D}.transport.enum", ["http"]),
    "one value": (f"{D}.transport", {"type": "string", "const": "http"}),
    "a listed value": (f"{D}.source.enum", ["vod", "ims"]),
    "a pattern": (f"{D}.source.pattern", "^[a-z0-9-]+$"),
    "a format": (f"{D}.source.format", "uri-reference"),
    "a narrower bound": (f"{D}.revision.minimum", 2),
    "an upper bound": (f"{D}.revision.maximum", 9),
    "a shorter list": (f"{D}.outputs.maxItems", 3),
    "an empty list": (f"{D}.outputs", {"type": "array", "maxItems": 0}),
    "another order": (f"{D}.transport.enum", ["query", "token-url", "mns-queue", "mns-push", "http"]),
}


def edited(path: str, value: Any) -> tuple[Any, Any]:
    published = kind_schema("workflow")
    current = copy.deepcopy(published)
    change(current, path, value)
    return published, current


@pytest.mark.parametrize("path, value, message", BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_is_found_and_named(path, value, message):
    changes = breaking_changes(*edited(path, value))
    assert changes
    assert message in "; ".join(changes)


@pytest.mark.parametrize("path, value", HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_change_is_let_through(path, value):
    assert breaking_changes(*edited(path, value)) == []


def test_a_kind_of_all_may_come_and_not_go_and_is_compared_as_it_is_alone():
    published, current = event_schema(), event_schema()
    added = copy.deepcopy(current["oneOf"][0])
    change(added, "properties.dataschema.const", "urn:media-callbacks:hologram:1")
    current["oneOf"] = [added, *reversed(current["oneOf"])]
    assert breaking_changes(published, current) == []
    assert breaking_changes(current, published) == ["the schema: there is no urn:media-callbacks:hologram:1 any more"]
    del current["oneOf"][1]["properties"]["data"]["properties"]["media_id"]
    assert breaking_changes(published, current) == ["urn:media-callbacks:notice:1.data.media_id: is gone"]


def test_bounds_of_other_keywords_are_compared_in_their_direction():
    bounds = {"minItems": 1, "maxItems": 3, "maximum": 9}
    assert breaking_changes(bounds, {"minItems": 2, "maxItems": 2, "maximum": 8}) == []
    assert len(breaking_changes(bounds, {"minItems": 0, "maxItems": 4, "maximum": 10})) == 3
    assert len(breaking_changes(bounds, {})) == 3
    assert breaking_changes({"type": "number"}, {"type": "integer"}) == []
    assert breaking_changes({}, {"type": "integer"}) == []


@pytest.mark.parametrize("keyword", ["$ref", "anyOf", "additionalProperties", "multipleOf"])
def test_a_keyword_that_the_check_does_not_know_is_an_error(keyword):
    with pytest.raises(ValueError, match=re.escape(keyword)):
        breaking_changes(*edited(f"{D}.revision.{keyword}", {}))


# The command


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["schema", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_prints_everything_or_one_document(capsys):
    status, out, _ = run(capsys)
    assert status == 0
    assert json.loads(out) == {
        "schemas": {kind: kind_schema(kind) for kind in KINDS},
        "event": event_schema(),
        "operational": operational_schema(),
        "asyncapi": asyncapi_document(),
    }
    assert json.loads(run(capsys, "--kind", "review")[1]) == kind_schema("review")
    assert json.loads(run(capsys, "--kind", "event")[1]) == event_schema()
    assert json.loads(run(capsys, "--asyncapi")[1]) == asyncapi_document()


@pytest.mark.parametrize("arguments", [["--kind", "video"], ["--kind", "ai", "--asyncapi"], ["--write"]])
def test_wrong_usage_is_said(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["schema", *arguments])
    assert exit_.value.code == 2
    assert "see media-callbacks schema --help" in capsys.readouterr().err


@pytest.fixture
def directory(tmp_path, capsys) -> Path:
    """What the command writes where nothing is."""
    path: Path = tmp_path / "new" / "schemas"
    assert run(capsys, "--write", str(path))[0] == 0
    return path


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}


def test_files_are_written_and_written_again(directory, capsys):
    before = contents(directory)
    assert before == contents(PUBLISHED)
    status, out, err = run(capsys, "--write", str(directory))
    assert (status, err) == (0, "")
    assert sorted(out.splitlines()) == sorted(str(directory / name) for name in before)
    assert contents(directory) == before


class AiOutputWithAnotherName(Frozen):
    """What the analysis found."""

    findings: Any = None


class BrokenAi(EventData):
    """An AI analysis, such as tagging, ended."""

    kind: Literal["ai"] = "ai"
    outputs: tuple[AiOutputWithAnotherName, ...] = ()


@pytest.fixture
def _broken(monkeypatch):
    monkeypatch.setattr(schemas, "DATA_MODELS", {**DATA_MODELS, "ai": BrokenAi})


@pytest.mark.usefixtures("_broken")
def test_a_model_that_breaks_its_published_schema_is_not_written_over_it(directory, capsys):
    for name, text in contents(PUBLISHED).items():
        (directory / name).write_text(text, encoding="utf-8")
    before = contents(directory)
    status, out, err = run(capsys, "--write", str(directory))
    assert (status, out) == (1, "")
    assert "ai.1.schema.json: data.outputs[].result: is gone" in err
    assert "SCHEMA_VERSION" in err
    assert contents(directory) == before
    assert breaking_changes(json.loads(before["ai.1.schema.json"]), kind_schema("ai")) == [
        "data.outputs[].result: is gone"
    ]


@pytest.mark.usefixtures("_broken")
def test_with_a_new_version_it_is_written_beside_the_old_one(directory, capsys, monkeypatch):
    for path in directory.iterdir():
        path.unlink()
    for name, text in contents(PUBLISHED).items():
        (directory / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(schemas, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setattr(command, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    assert run(capsys, "--write", str(directory))[0] == 0
    after = contents(directory)
    assert {name: after[name] for name in contents(PUBLISHED) if name != "asyncapi.json"} == {
        name: text for name, text in contents(PUBLISHED).items() if name != "asyncapi.json"
    }
    new = json.loads(after[f"ai.{SCHEMA_VERSION + 1}.schema.json"])
    assert new["$id"] == f"urn:media-callbacks:ai:{SCHEMA_VERSION + 1}"
    assert len(after) == 2 * len(SCHEMAS) + 1


def test_a_kind_that_is_gone_is_not_forgotten(directory, capsys):
    (directory / f"video.{SCHEMA_VERSION}.schema.json").write_text("{}")
    status, _, err = run(capsys, "--write", str(directory))
    assert status == 1
    assert "video.1.schema.json: there are no events of this kind any more" in err


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"type": 7}', '{"allOf": []}'])
def test_a_file_that_is_no_schema_of_ours_is_left_alone(directory, capsys, text):
    (directory / schema_file("ai")).write_text(text)
    status, out, err = run(capsys, "--write", str(directory))
    assert (status, out) == (1, "")
    assert "ai.1.schema.json: " in err
    assert (directory / schema_file("ai")).read_text() == text


def test_a_directory_that_can_not_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, "--write", str(tmp_path / "file"))
    assert status == 1
    assert "--write: expected a directory" in err


# AsyncAPI


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for element in value for found in references(element)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [found for element in value.values() for found in references(element)]


def resolve(document: Any, reference: str) -> Any:
    assert reference.startswith("#/"), reference
    for name in reference[2:].split("/"):
        document = document[name]
    return document


def test_the_asyncapi_document_is_valid():
    with warnings.catch_warnings():
        # The package has a field with the name of a method of pydantic's.
        warnings.simplefilter("ignore")
        from asyncapi3.models.asyncapi import AsyncAPI3
    AsyncAPI3.model_validate(asyncapi_document())
    broken = asyncapi_document()
    broken["channels"]["webhook"]["adress"] = None
    with pytest.raises(ValueError, match="adress"):
        AsyncAPI3.model_validate(broken)


def test_its_references_meet():
    document = asyncapi_document()
    for reference in references(document):
        resolve(document, reference)
    used = set(references(document))
    for section, members in document["components"].items():
        for name in members:
            assert f"#/components/{section}/{name}" in used
    assert {operation["channel"]["$ref"] for operation in document["operations"].values()} == {
        f"#/channels/{name}" for name in document["channels"]
    }
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        assert operation["action"] == "send"
        assert [message["$ref"] for message in operation["messages"]] == [
            f"{channel}/messages/{name}" for name in resolve(document, channel)["messages"]
        ]
    for channel in document["channels"].values():
        assert list(channel["messages"]) == [*KINDS, OPERATIONAL]
        for kind, reference in channel["messages"].items():
            message = resolve(document, reference["$ref"])
            assert message["contentType"] == "application/cloudevents+json"
            assert message["payload"] == {"$ref": f"#/components/schemas/{kind}"}


def test_every_kind_of_sink_has_its_channels():
    assert {name.removesuffix("_fifo") for name in asyncapi_document()["channels"]} == set(SINK_MODELS)


@pytest.mark.parametrize("kind", KINDS)
def test_its_schemas_say_the_same_in_the_draft_of_asyncapi(kind):
    schema = asyncapi_document()["components"]["schemas"][kind]
    assert schema == {key: value for key, value in kind_schema(kind).items() if key not in ("$schema", "$id")}
    # AsyncAPI Schema Objects are draft 7.
    Draft7Validator.check_schema(schema)
    document = json.loads(make_event(kind).to_json())
    validator = Draft7Validator(closed(schema), format_checker=Draft7Validator.FORMAT_CHECKER)
    assert validator.is_valid(document)
    document["data"]["outcome"] = "succeeded" if kind == "notice" else "received"
    assert not validator.is_valid(document)


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"


def make_delivery(event: Event, replay: int = 0, traceparent: str | None = None) -> Delivery:
    return Delivery(
        1, "sink", event.id, event.to_json(), attempt=1, lease="lease", replay=replay, traceparent=traceparent
    )


def test_webhooks_have_the_headers_that_it_describes():
    document = asyncapi_document()
    trait = document["components"]["messageTraits"]["webhook"]
    for secrets in ([b"k" * 24], [b"k" * 24, b"l" * 32]):
        headers = webhook.fixed_headers({}) | webhook.build_headers(make_delivery(make_event()), secrets, 1_700_000_000)
        for schema in (trait["headers"], trait["bindings"]["http"]["headers"]):
            jsonschema.validate(headers, schema, Draft7Validator)
        assert {name for name in headers if name.startswith("webhook-")} == set(trait["headers"]["required"])
    again = webhook.build_headers(make_delivery(make_event(), 2, TRACEPARENT), secrets, 1_700_000_000)
    jsonschema.validate(again, trait["headers"], Draft7Validator)
    assert set(trait["headers"]["properties"]) <= set(again)
    assert document["operations"]["send_webhook"]["bindings"]["http"]["method"] == "POST"


@pytest.mark.parametrize("job_id", ["3af7e9705cb24c0f9d23231d4c371900", None])
def test_sqs_messages_have_the_attributes_that_it_describes(job_id):
    schema = asyncapi_document()["components"]["messageTraits"]["sqs"]["headers"]
    event = make_event(job_id=job_id)
    entry, size_bytes = aws.build_message(make_delivery(event, 2, TRACEPARENT), body_name="MessageBody", fifo=True)
    untraced, bytes_untraced = aws.build_message(make_delivery(event, 2), body_name="MessageBody", fifo=True)
    assert size_bytes - bytes_untraced == len("traceparent" + "String" + TRACEPARENT)
    assert entry["MessageAttributes"].keys() - untraced["MessageAttributes"].keys() == {"traceparent"}
    attributes = {name: value["StringValue"] for name, value in entry["MessageAttributes"].items()}
    jsonschema.validate(attributes, closed(schema), Draft7Validator)
    assert {value["DataType"] for value in entry["MessageAttributes"].values()} == {"String"}
    assert set(attributes) == set(schema["properties"]) - (set() if job_id else {"job_id"})
    assert entry["MessageGroupId"] == event.subject
    assert entry["MessageDeduplicationId"] == f"{event.id}:replay-2"
    text = asyncapi_document()["operations"]["send_sqs_fifo"]["description"]
    assert "`:replay-<n>`" in text
