"""``media-callbacks schema``: what consumers can rely on, as JSON Schema and AsyncAPI."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.model.events import SCHEMA_VERSION
from media_callbacks.model.kinds import KINDS, OPERATIONAL
from media_callbacks.model.schema_changes import breaking_changes
from media_callbacks.model.schemas import (
    ASYNCAPI_FILE,
    EVENT,
    asyncapi_document,
    event_schema,
    kind_schema,
    operational_schema,
    schema_file,
)


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks schema --kind snapshot",
        "media-callbacks schema --write schemas",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--kind",
        choices=(*KINDS, OPERATIONAL, EVENT),
        metavar="KIND",
        help="only the schema of this kind of event, or, as event, of all kinds",
    )
    what.add_argument("--asyncapi", action="store_true", help="only the AsyncAPI document")
    what.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help="write each document to a file of its own, unless that would break a schema that is there",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.write is not None:
        return write(arguments.write)
    if arguments.kind == EVENT:
        document = event_schema()
    elif arguments.kind == OPERATIONAL:
        document = operational_schema()
    elif arguments.kind is not None:
        document = kind_schema(arguments.kind)
    elif arguments.asyncapi:
        document = asyncapi_document()
    else:
        schemas = {kind: kind_schema(kind) for kind in KINDS}
        document = {
            "schemas": schemas,
            "event": event_schema(),
            "operational": operational_schema(),
            "asyncapi": asyncapi_document(),
        }
    print(render(document), end="")
    return 0


def render(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(directory: Path) -> int:
    """All files or none: a schema that consumers have read stays true for as long as its version lives."""
    documents = {schema_file(kind): kind_schema(kind) for kind in KINDS} | {
        schema_file(EVENT): event_schema(),
        schema_file(OPERATIONAL): operational_schema(),
    }
    try:
        problems = find_problems(directory, documents)
        if problems:
            for problem in problems:
                print(problem, file=sys.stderr)
            print(
                f"nothing was written: version {SCHEMA_VERSION} is published; take these changes back, or raise"
                " SCHEMA_VERSION in service/media_callbacks/model/events.py, which leaves its files as they are",
                file=sys.stderr,
            )
            return 1
        directory.mkdir(parents=True, exist_ok=True)
        for name, document in (documents | {ASYNCAPI_FILE: asyncapi_document()}).items():
            (directory / name).write_text(render(document), encoding="utf-8")
            print(directory / name)
    except (OSError, UnicodeDecodeError) as error:
        print(f"--write: expected a directory of schemas that can be read and written: {error}", file=sys.stderr)
        return 1
    return 0


def find_problems(directory: Path, documents: dict[str, Any]) -> list[str]:
    """How the documents would break those of the same version that are in the directory."""
    problems = []
    for path in sorted(directory.glob(f"*.{SCHEMA_VERSION}.schema.json")):
        if path.name not in documents:
            problems.append(f"{path.name}: there are no events of this kind any more")
            continue
        try:
            changes = breaking_changes(json.loads(path.read_text(encoding="utf-8")), documents[path.name])
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            changes = [f"expected a JSON Schema as this command writes it: {type(error).__name__}"]
        except ValueError as error:
            changes = [str(error)]
        problems += [f"{path.name}: {change}" for change in changes]
    return problems
