"""Every operation of the admin API, as its OpenAPI document has it."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from media_callbacks.admin.api import AdminApi
from media_callbacks.admin.feed import Feed
from media_callbacks.admin.waiting import JobWatch
from media_callbacks.observe.metrics import Metrics

Json = Mapping[str, Any]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def render() -> str:
    api = AdminApi(
        None,  # type: ignore[arg-type]
        sinks={},
        breaker_states=dict,
        clock=lambda: NOW,
        replay_created=lambda: None,
        metrics=Metrics(),
        watch=JobWatch(None),  # type: ignore[arg-type]
        feed=Feed(None),  # type: ignore[arg-type]
    )
    document = api.document
    lines = ["| refusal | |", "|---|---|"]
    for name, answer in document["components"]["responses"].items():
        lines.append(f"| `{name.removeprefix('Problem')}` | {_shown(answer['description'])} |")
    lines.append("")
    for tag in document["tags"]:
        lines += [f"## {tag['name'].capitalize()}", "", tag["description"], ""]
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if operation["tags"] == [tag["name"]]:
                    lines += _operation(document, f"{method.upper()} {path}", operation)
    return "\n".join(lines).strip("\n")


def _operation(document: Json, request: str, operation: Json) -> Iterator[str]:
    yield f"### `{request}`"
    yield f"\n{operation['summary']}"
    if "description" in operation:
        yield "\n" + textwrap.fill(operation["description"], 120, break_on_hyphens=False)
    queries = [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]
    if queries:
        rows = [(each["name"], {**each["schema"], **each}) for each in queries]
        yield from _table("query", rows)
    if "requestBody" in operation:
        body = _resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
        while "properties" not in body:
            body = _resolve(document, _first(body))
        yield from _table("body", list(_members(document, body)))
    yield "\n| answer | |"
    yield "|---|---|"
    for status, answer in operation["responses"].items():
        # Why every request may be refused is said once, before them all.
        if "$ref" not in answer:
            yield f"| `{status}` | {_shown(answer['description'])} |"
    yield ""


def _table(title: str, members: Sequence[tuple[str, Json]]) -> Iterator[str]:
    if members:
        yield f"\n| {title} | type | |"
        yield "|---|---|---|"
        yield from (
            f"| `{name}` | {_type(schema)}{', required' if schema.get('required') else ''} | {_shown(schema.get('description', ''))} |"
            for name, schema in members
        )


def _members(document: Json, body: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    """With those of tables inside, whose names are written as paths."""
    for name, schema in body.get("properties", {}).items():
        if "$ref" in schema:
            yield from _members(document, _resolve(document, schema), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", {**schema, "required": name in body.get("required", ())}


def _shown(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(schema: Json) -> str:
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "schema" in schema:
        return _type(schema["schema"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            words = dict.fromkeys(_type(each) for each in schema[several] if each.get("type") != "null")
            return " or ".join(words)
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("format") or schema.get("type", "any"))


def _resolve(document: Json, schema: Json) -> Json:
    if "$ref" in schema:
        found: Json = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _first(schema: Json) -> Json:
    """The one of several forms that has members: an object, or the objects of a list."""
    for several in ("anyOf", "oneOf"):
        for each in schema.get(several, ()):
            return each  # type: ignore[no-any-return]
    items: Json = schema["items"]
    return items
