"""
From what is wrong with the configuration to sentences for the operator.

Every step of reading and checking goes on after a mistake, so that all of them can be told at once: the value at fault
is replaced by UNRESOLVED, about which nobody complains again.

No sentence holds a value that may be a secret: values that came from ``${NAME}`` or ``file:`` are never shown, nor are
those of fields declared with ``repr=False``.
"""

import json
import re
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from media_callbacks.model.errors import ConfigError
from media_callbacks.model.suggestions import did_you_mean, suggest

KeyPath = tuple[str | int, ...]
Tables = dict[str, Any]

# The error type of field validators whose message is already the sentence for the operator.
SENTENCE: Final = "sentence"

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_TEXT = re.compile(r"[A-Za-z0-9_.:/-]{1,40}")


class _Unresolved:
    """Stands where a value could not be found. What is wrong with it has been said."""

    def __repr__(self) -> str:
        return "UNRESOLVED"


UNRESOLVED: Final = _Unresolved()


def format_path(path: KeyPath) -> str:
    """As it would be written in TOML: ``sources.vod.keys[0]``, keys outside the bare alphabet in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else json.dumps(part)
            text += f".{key}" if text else key
    return text


def printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


class Problems:
    """
    The mistakes found so far, and where values came from.

    A line is ``<key path>: <sentence>``, with the variable or file that the value, or the table it is in, came from at
    its end.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.closing_line: str | None = None
        # Beside the configuration, as a shell reads it.
        self.environment_file: str | None = None
        self._origins: dict[KeyPath, list[str]] = {}
        self._substituted: set[KeyPath] = set()
        self._made: set[KeyPath] = set()

    def add(self, path: KeyPath, sentence: str) -> None:
        ends = (end for end in range(len(path), 0, -1) if path[:end] in self._origins)
        origins = self._origins[path[:end]] if (end := next(ends, 0)) else []
        self.add_line(f"{format_path(path)}: {sentence}" + (f" ({', '.join(origins)})" if origins else ""))

    def add_line(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def came_from(self, path: KeyPath, origin: str, *, substituted: bool) -> None:
        self._origins.setdefault(path, []).append(origin)
        if substituted:
            self._substituted.add(path)

    def came_from_variables(self, path: KeyPath, origin: str) -> None:
        """A table that is there only because of overrides inside it."""
        self._made.add(path)
        self.came_from(path, origin, substituted=False)

    def is_from_variables(self, path: KeyPath) -> bool:
        return path in self._made

    def describe(self, path: KeyPath, value: object, *, secret: bool) -> str:
        """What came, in words: the value itself only where it can't be a secret."""
        hidden = secret or any(known[: len(path)] == path for known in self._substituted)
        match value:
            case bool() if not hidden:
                return "true" if value else "false"
            case int() | float() if not hidden and -1e15 < value < 1e15:
                return str(value)
            case "":
                return "an empty string"
            case str() if not hidden and _SHOWN_TEXT.fullmatch(value):
                return f'"{value}"'
            case str():
                return f"a string of {len(value)} characters"
            case bool():
                return "a boolean"
            case int() | float():
                return "a number"
            case list() | tuple():
                return "a list" if value else "an empty list"
            case dict():
                return "a table" if value else "an empty table"
            case None:
                return "null"
            case _:
                return "a date or time"

    def add_error(self, path: KeyPath, model: type[BaseModel], table: Tables, error: ErrorDetails) -> None:
        """Say in a sentence what pydantic found wrong with a table."""
        location: KeyPath = error["loc"]
        # What pydantic puts after a key of a mapping that is itself wrong.
        if len(location) > 2 and location[-1] == "[key]":
            location = location[:-1]
        # A plain string may stand for a list of one: then there is no index in what the operator wrote.
        if len(location) > 1 and isinstance(location[1], int) and not isinstance(table.get(str(location[0])), list):
            location = (location[0], *location[2:])
        at = path + location
        kind = error["type"]
        if kind == "extra_forbidden":
            self.add(at, f"unknown key; {suggest(str(location[-1]), model.model_fields)}")
            return
        if error["input"] is UNRESOLVED and kind != "missing":
            return
        if kind == "too_short" and error["input"]:
            # Elements are missing only because each was refused, and that has been said.
            return
        field = model.model_fields[str(location[0])]
        example = f"; for example {location[0]} = {shown}" if (shown := _example_of(field)) else ""
        came = self.describe(at, error["input"], secret=not field.repr)
        words = re.findall(r"'([^']*)'", error.get("ctx", {}).get("expected", "")) if kind == "literal_error" else []
        if kind == "missing":
            self.add(at, f"missing; expected {field.description}{example}")
        elif kind == SENTENCE:
            self.add(at, error["msg"])
        elif words:
            expected = f'"{words[0]}"' if len(words) == 1 else f"one of {', '.join(words)}"
            self.add(at, f"expected {expected}, came {came}{did_you_mean(error['input'], words)}")
        else:
            what = "an element of " if isinstance(location[-1], int) else ""
            self.add(at, f"expected {what}{field.description}, came {came}{example}")

    def raise_if_any(self) -> None:
        if self.lines:
            raise ConfigError([*self.lines, *([self.closing_line] if self.closing_line else [])])


def _example_of(field: FieldInfo) -> str | None:
    """Of a number its default, where it names no other."""
    if field.examples:
        return str(field.examples[0])
    return f"{field.default:.15g}" if type(field.default) in (int, float) else None
