"""
``clients/typescript/src/events.ts``: the schema of an event of any kind, as types of TypeScript.

``python -m tests.factories.typescript_events --write`` puts it there; ``tests/client/test_typescript.py`` holds it to
the schema.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from media_callbacks.model.schemas import EVENT, event_schema, operational_schema, schema_file

FILE = Path(__file__).parents[2] / "clients/typescript/src/events.ts"
COMMAND = "python -m tests.factories.typescript_events --write"

Json = Mapping[str, Any]


def render(schema: Json | None = None) -> str:
    """
    Raises:
        KeyError, ValueError: The schema has something that is not known here.
    """
    kinds = (schema or event_schema())["oneOf"]
    names = [type_name(kind["properties"]["data"]["properties"]["kind"]["const"]) for kind in kinds]
    events = [kind["properties"] for kind in kinds]
    datas = [event["data"]["properties"] for event in events]
    attributes, members = shared(events), shared(datas)
    blocks = [
        f"// Made from schemas/{schema_file(EVENT)} by: {COMMAND}",
        *interface("EventAttributes", kinds[0], "What every event has.", only=attributes),
        *interface("EventData", kinds[0]["properties"]["data"], "What every event says.", only=members),
    ]
    for name, kind, event, data in zip(names, kinds, events, datas, strict=True):
        blocks += interface(name, event["data"], kind["description"], extends="EventData", only=data.keys() - members)
        attributes_alone = event.keys() - attributes
        blocks += interface(f"{name}Event", kind, kind["description"], extends="EventAttributes", only=attributes_alone)
    operational = operational_schema()
    said = operational["properties"]["data"]
    blocks += interface("Operational", said, said["description"], only=said["properties"])
    blocks += interface("OperationalEvent", operational, operational["description"], only=operational["properties"])
    # A type that several have is the same in each, and is written once.
    blocks = [*dict.fromkeys(blocks)]
    declared = [block.partition(" {")[0].rpartition("interface ")[2].partition(" ")[0] for block in blocks[1:]]
    if len(declared) != len({*declared}):
        raise ValueError(f"expected one type of each name, came {sorted(declared)}")
    blocks += [
        union("Data", "What an event says, of whichever kind; `kind` tells which.", names),
        union("MediaEvent", "An event of any kind; `data.kind` tells which.", [f"{name}Event" for name in names]),
        "/** The schema of each kind, by which events name it in `dataschema`. */\nexport const SCHEMAS = {\n"
        + "".join(
            f"  {data['kind']['const']}: {json.dumps(event['dataschema']['const'])},\n"
            for event, data in zip(events, datas, strict=True)
        )
        + "} as const;",
        "/** The schema of operational events. */\nexport const OPERATIONAL_SCHEMA = "
        + json.dumps(operational["properties"]["dataschema"]["const"])
        + ";",
    ]
    return "\n\n".join(blocks) + "\n"


def type_name(member: str) -> str:
    return "".join(word.capitalize() for word in member.split("_"))


def shared(parts: Sequence[Json]) -> set[str]:
    """Names of members that are the same in all."""
    first, *others = parts
    return {name for name, member in first.items() if all(member == other.get(name) for other in others)}


def interface(name: str, schema: Json, text: str, *, only: Iterable[str], extends: str = "") -> Iterator[str]:
    """The type of an object, after those of the objects in it."""
    lines = [documented(text), f"export interface {name}{f' extends {extends}' if extends else ''} {{"]
    for member, described in schema["properties"].items():
        if member not in only:
            continue
        inner = described.get("items", described)
        inner_name = {"outputs": f"{name}Output", "error": "EventError", "data": name.removesuffix("Event")}.get(member)
        if "properties" in inner and member != "data":
            if inner_name is None:
                raise ValueError(f"{name}.{member}: expected an object with a name, came one without")
            yield from interface(inner_name, inner, inner["description"], only=inner["properties"])
        optional = "" if member in schema["required"] else "?"
        lines += [
            documented(described["description"], "  "),
            f"  {member}{optional}: {type_of(described, inner_name)};",
        ]
    yield "\n".join([*lines, "}"])


def type_of(schema: Json, name: str | None) -> str:
    if "const" in schema or "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if "type" not in schema:
        return "unknown"
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return " | ".join(type_of_one(one, schema, name) for one in types)


def type_of_one(one: str, schema: Json, name: str | None) -> str:
    if one == "array":
        return "[]" if schema.get("maxItems") == 0 else f"{type_of(schema['items'], name)}[]"
    if one == "object":
        return name or "Record<string, unknown>"
    return {"integer": "number", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}[one]


def union(name: str, text: str, names: Iterable[str]) -> str:
    return "\n".join([documented(text), f"export type {name} =", *(f"  | {one}" for one in names)]) + ";"


def documented(text: str, indent: str = "") -> str:
    if "*/" in text:
        raise ValueError(f"expected a text that fits into a comment, came: {text}")
    return f"{indent}/** {text} */"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.factories.typescript_events", description="the types of clients/typescript"
    )
    parser.add_argument("--write", action="store_true", help="write them into their file instead of printing them")
    if parser.parse_args().write:
        FILE.write_text(render(), encoding="utf-8")
    else:
        print(render(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
