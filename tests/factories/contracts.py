"""What every event promises its readers, asked of one event: it fits the published schema and can be read back."""

import json
from functools import cache
from typing import Any

from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from jsonschema import Draft202012Validator

from media_callbacks.model.events import CONTENT_TYPE, parse_event
from media_callbacks.model.kinds import Kind
from media_callbacks.model.schemas import kind_schema


def closed(schema: Any) -> Any:
    """
    The schema without room for members that it does not name.

    What is published is open, so that members can be added; what we write has none that are not described.
    """
    if isinstance(schema, list):
        return [closed(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    ending = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {key: closed(value) for key, value in schema.items()} | ending


@cache
def validator(kind: Kind) -> Draft202012Validator:
    return Draft202012Validator(closed(kind_schema(kind)), format_checker=Draft202012Validator.FORMAT_CHECKER)


def schema_errors(kind: Kind, document: Any) -> list[str]:
    """Where the document is not a whole event of this kind with declared members alone."""
    return [f"{error.json_path}: {error.message}" for error in validator(kind).iter_errors(document)]


def check_event(body: bytes) -> None:
    """
    Raises:
        AssertionError: With what is wrong with the event.
    """
    document = json.loads(body)
    kind = document["data"]["kind"]
    if errors := schema_errors(kind, document):
        raise AssertionError("; ".join(errors))
    assert document["type"] == f"media.{kind}.{document['data']['outcome']}", document["type"]
    assert document["source"].startswith(f"/aliyun/{document['data']['product']}/"), document["source"]
    read = from_structured_event(HTTPMessage({"content-type": CONTENT_TYPE}, body))
    assert read.get_data() == document["data"]
    # It gives the time as a datetime.
    attributes = {name: value for name, value in read.get_attributes().items() if name != "time"}
    assert attributes == {name: value for name, value in document.items() if name not in ("data", "time")}
    event = parse_event(body)
    assert read.get_time() == event.time
    assert event.to_json() == body
