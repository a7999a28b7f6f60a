"""
From a file and the environment to plain tables, and from what is wrong with them to sentences.

    TOML file -> environment overrides -> interpolation

Nothing here knows which keys there are; ``settings`` does. Every step goes on after a mistake, so that all of
them can be told at once: the value at fault is replaced by UNRESOLVED, about which nobody complains again.

No sentence holds a value that may be a secret: values that came from ``${NAME}`` or ``file:`` are never shown, nor are
those of fields declared with ``repr=False``.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from media_callbacks.model.errors import ConfigError

KeyPath = tuple[str | int, ...]
Tables = dict[str, Any]

CONFIG_VARIABLE = "MEDIA_CALLBACKS_CONFIG"
DEFAULT_FILE = "media-callbacks.toml"
# Two underscores: Kubernetes sets MEDIA_CALLBACKS_PORT and the like by itself for a service of our name.
PREFIX = "MEDIA_CALLBACKS__"
NAMED_SECTIONS: Final = frozenset({"sources", "sinks", "vendor"})

# The error type of field validators whose message is already the sentence for the operator.
SENTENCE: Final = "sentence"

_MAX_FILE_BYTES = 1 << 20
_MAX_DEPTH = 16
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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


def closest(word: str, known: Iterable[str]) -> str | None:
    matches = difflib.get_close_matches(word.lower()[:100], list(known), n=1)
    return matches[0] if matches else None


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the one that was meant, or all there are."""
    known = [_printable(name) for name in known]
    match = closest(word, known)
    return f'did you mean "{match}"?' if match else f"known are: {', '.join(known) or 'none'}"


def _printable(text: str) -> str:
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
        example = f"; for example {location[0]} = {field.examples[0]}" if field.examples else ""
        came = self.describe(at, error["input"], secret=not field.repr)
        words = re.findall(r"'([^']*)'", error.get("ctx", {}).get("expected", "")) if kind == "literal_error" else []
        if kind == "missing":
            self.add(at, f"missing; expected {field.description}{example}")
        elif kind == SENTENCE:
            self.add(at, error["msg"])
        elif words:
            hint = closest(error["input"], words) if isinstance(error["input"], str) else None
            expected = f'"{words[0]}"' if len(words) == 1 else f"one of {', '.join(words)}"
            self.add(at, f"expected {expected}, came {came}" + (f'; did you mean "{hint}"?' if hint else ""))
        else:
            what = "an element of " if isinstance(location[-1], int) else ""
            self.add(at, f"expected {what}{field.description}, came {came}{example}")

    def raise_if_any(self) -> None:
        if self.lines:
            raise ConfigError([*self.lines, *([self.closing_line] if self.closing_line else [])])


def read_tables(path: str | Path | None, environ: Mapping[str, str], problems: Problems) -> Tables:
    """
    The configuration as it is written, environment overrides applied.

    Raises:
        ConfigError: The file can't be read as TOML, or there is neither a file nor a variable.
    """
    overrides = list(_read_overrides(environ, problems))
    tables = _read_file(path, environ, problems, may_be_missing=bool(overrides))
    if tables is None:
        raise ConfigError(problems.lines)
    for key_path, variable, value in overrides:
        _apply_override(tables, key_path, variable, value, problems)
    return tables


def _read_file(
    path: str | Path | None, environ: Mapping[str, str], problems: Problems, *, may_be_missing: bool
) -> Tables | None:
    named = environ.get(CONFIG_VARIABLE)
    if path is not None:
        file, where = Path(path), "named by --config"
    elif named:
        file, where = Path(named), f"named by {CONFIG_VARIABLE}"
    else:
        file, where = Path(DEFAULT_FILE), f"the default, looked for in {_printable(str(Path.cwd()))}"
    shown = _printable(str(file))
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        if path is None and may_be_missing:
            problems.closing_line = f"{shown}: there is no such file ({where}), so only the environment was read"
            return {}
        problems.add_line(
            f"{shown}: there is no such file ({where}); write one, name another with --config or {CONFIG_VARIABLE}, or"
            f" leave both out and give the configuration in {PREFIX}SECTION__KEY variables"
        )
    except OSError as error:
        problems.add_line(f"{shown}: can't be read ({where}): {error.strerror or type(error).__name__}")
    except UnicodeDecodeError as error:
        problems.add_line(f"{shown}: expected UTF-8, came byte 0x{error.object[error.start]:02x} at {error.start}")
    except tomllib.TOMLDecodeError as error:
        problems.add_line(f"{shown}: expected TOML: {_printable(str(error))}")
    except (ValueError, RecursionError):
        # Thousands of digits or brackets, or a zero character in the file's name.
        problems.add_line(f"{shown}: can't be read: its name, or a number or nesting in it, is out of all bounds")
    return None


def _read_overrides(environ: Mapping[str, str], problems: Problems) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Key path, variable and value of every override, whole tables before what is inside them."""
    found: dict[tuple[str, ...], str] = {}
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX):
            continue
        parts = variable[len(PREFIX) :].lower().split("__")
        if parts[0] in NAMED_SECTIONS and len(parts) > 1:
            parts[1] = parts[1].replace("_", "-")
        key_path = tuple(parts)
        if not all(parts):
            problems.add_line(
                f"{_printable(variable)}: expected {PREFIX}SECTION__KEY; a part between underscores is empty"
            )
        elif key_path in found:
            problems.add(key_path, f"set by both {_printable(found[key_path])} and {_printable(variable)}; keep one")
        else:
            found[key_path] = variable
    for key_path in sorted(found, key=len):
        variable = found[key_path]
        problems.came_from(key_path, f"set by {_printable(variable)}", substituted=False)
        value: Any = environ[variable]
        if value[:1] in ("[", "{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                problems.add(
                    key_path,
                    "expected JSON, because the value begins with [ or {; a text that begins so can be given as"
                    " ${NAME} with the text in the variable NAME",
                )
                value = UNRESOLVED
        yield key_path, _printable(variable), value


def _apply_override(tables: Tables, key_path: tuple[str, ...], variable: str, value: Any, problems: Problems) -> None:
    table = tables
    for depth, part in enumerate(key_path[:-1], start=1):
        inner = table.get(part)
        if part not in table or problems.is_from_variables(key_path[:depth]):
            problems.came_from_variables(key_path[:depth], f"set by {variable}")
        if part not in table:
            inner = table[part] = {}
        if not isinstance(inner, dict):
            came = problems.describe(key_path[:depth], inner, secret=True)
            problems.add(key_path, f"can't be set: {format_path(key_path[:depth])} is not a table but {came}")
            return
        table = inner
    table[key_path[-1]] = value


def interpolate(value: Any, environ: Mapping[str, str], problems: Problems, path: KeyPath = ()) -> Any:
    """A copy with ``${NAME}`` and ``file:/path`` replaced. What is put in is not looked at again."""
    if len(path) > _MAX_DEPTH:
        problems.add(path[:_MAX_DEPTH], f"expected at most {_MAX_DEPTH} levels of tables and lists, came more")
        return UNRESOLVED
    if isinstance(value, dict):
        return {
            key: interpolate(item, environ, problems, (*path, key))
            for key, item in value.items()
            if _is_text(key, problems, (*path, key))
        }
    if isinstance(value, list):
        return [interpolate(item, environ, problems, (*path, index)) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    text = _substitute(value, environ, problems, path)
    if value.startswith("file:") and isinstance(text, str):
        return _read_value(text.removeprefix("file:"), value, problems, path)
    return text


def _is_text(key: str, problems: Problems, path: KeyPath) -> bool:
    # JSON escapes and undecodable names of variables can give half a surrogate pair, which pydantic has no place for.
    try:
        key.encode()
    except UnicodeEncodeError:
        problems.add(path, "expected a key of Unicode text, came one with half a surrogate pair; rename it")
        return False
    return True


def _substitute(text: str, environ: Mapping[str, str], problems: Problems, path: KeyPath) -> Any:
    names = _REFERENCE.findall(text)
    if not names:
        return text
    resolved = True
    for name in dict.fromkeys(names):
        if not _VARIABLE.fullmatch(name):
            problems.add(path, "expected ${NAME} with a name of letters, digits and underscores")
        elif name not in environ:
            problems.add(path, f"the environment variable {name} is not set; set it, or remove ${{{name}}} here")
        else:
            problems.came_from(path, f"from ${{{name}}}", substituted=True)
            continue
        resolved = False
    return _REFERENCE.sub(lambda match: environ[match[1]], text) if resolved else UNRESOLVED


def _read_value(name: str, written: str, problems: Problems, path: KeyPath) -> Any:
    """``written`` is what the sentences show: the name itself may hold what a variable held."""
    if not name.startswith("/"):
        problems.add(path, "expected file: and an absolute path, for example file:/run/secrets/key")
        return UNRESOLVED
    shown = _printable(written)
    try:
        with Path(name).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            problems.add(path, f"expected at most {_MAX_FILE_BYTES} bytes in {shown}, came more")
            return UNRESOLVED
        text = content.decode("utf-8-sig").strip()
    except OSError as error:
        problems.add(path, f"{shown} can't be read: {error.strerror or type(error).__name__}")
        return UNRESOLVED
    except UnicodeDecodeError:
        problems.add(path, f"expected UTF-8 text in {shown}, came other bytes")
        return UNRESOLVED
    except ValueError:
        problems.add(path, "expected a file name, came one with a zero character")
        return UNRESOLVED
    problems.came_from(path, f"from {shown}", substituted=True)
    return text
