"""
From a file and the environment to plain tables.

    TOML file -> environment overrides -> interpolation

Nothing here knows which keys there are; the models do.
"""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from media_callbacks.config.problems import UNRESOLVED, KeyPath, Problems, Tables, format_path, printable
from media_callbacks.model.errors import ConfigError

CONFIG_VARIABLE = "MEDIA_CALLBACKS_CONFIG"
# Looked for in this order. The latter is where a package or the systemd unit has it.
DEFAULT_FILES = ("media-callbacks.toml", "/etc/media-callbacks/media-callbacks.toml")
# Two underscores: Kubernetes sets MEDIA_CALLBACKS_PORT and the like by itself for a service of our name.
PREFIX = "MEDIA_CALLBACKS__"
NAMED_SECTIONS: Final = frozenset({"sources", "sinks", "vendor"})

# In what is said of such a variable.
NOT_SET: Final = "is not set; set it"

_MAX_FILE_BYTES = 1 << 20
_MAX_DEPTH = 16
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_UNQUOTED = re.compile(r"^[^\n\"'#]*[=\[,]\s*\$\{", re.MULTILINE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_tables(
    path: str | Path | None, environ: Mapping[str, str], problems: Problems, *, section: str | None = None
) -> Tables:
    """
    The configuration as it is written, environment overrides applied.

    Args:
        section: The only one that is wanted: overrides of others are not looked at.

    Raises:
        ConfigError: The file can't be read as TOML, or there is neither a file nor a variable.
    """
    named = [variable for variable in environ if variable.upper().startswith(PREFIX)]
    own = re.compile(rf"{PREFIX}{section or '.*'}(__.*)?", re.IGNORECASE | re.DOTALL)
    overrides = list(_read_overrides({name: environ[name] for name in named if own.fullmatch(name)}, problems))
    tables = _read_file(path, environ, problems, may_be_missing=bool(named))
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
        found = (Path(name) for name in DEFAULT_FILES if os.path.lexists(name))
        file = next(found, Path(DEFAULT_FILES[0]))
        where = f"the default, looked for in {printable(str(Path.cwd()))} and as {DEFAULT_FILES[1]}"
    shown = printable(str(file))
    try:
        tables = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        if path is None and may_be_missing:
            problems.closing_line = f"{shown}: there is no such file ({where}), so only the environment was read"
            return {}
        problems.add_line(
            f"{shown}: there is no such file ({where}); write one, such as by `media-callbacks init`, name another with"
            f" --config or {CONFIG_VARIABLE}, or leave both out and give the configuration in {PREFIX}SECTION__KEY"
            " variables"
        )
    except OSError as error:
        problems.add_line(f"{shown}: can't be read ({where}): {error.strerror or type(error).__name__}")
    except UnicodeDecodeError as error:
        problems.add_line(f"{shown}: expected UTF-8, came byte 0x{error.object[error.start]:02x} at {error.start}")
    except tomllib.TOMLDecodeError as error:
        hint = "; put ${NAME} in quotes" if _UNQUOTED.search(file.read_text("utf-8-sig")) else ""
        problems.add_line(f"{shown}: expected TOML: {printable(str(error))}{hint}")
    except (ValueError, RecursionError):
        # Thousands of digits or brackets, or a zero character in the file's name.
        problems.add_line(f"{shown}: can't be read: its name, or a number or nesting in it, is out of all bounds")
    else:
        if os.path.lexists(environment := file.with_suffix(".env")):
            # As `init` writes it.
            problems.environment_file = shlex.quote(os.path.join(environment.parent, environment.name))  # noqa: PTH118 - "./" stays
        return tables
    return None


def _read_overrides(environ: Mapping[str, str], problems: Problems) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Key path, variable and value of every one of these overrides, whole tables before what is inside them."""
    found: dict[tuple[str, ...], str] = {}
    for variable in sorted(environ):
        parts = variable[len(PREFIX) :].lower().split("__")
        if parts[0] in NAMED_SECTIONS and len(parts) > 1:
            parts[1] = parts[1].replace("_", "-")
        key_path = tuple(parts)
        if not all(parts):
            problems.add_line(
                f"{printable(variable)}: expected {PREFIX}SECTION__KEY; a part between underscores is empty"
            )
        elif key_path in found:
            problems.add(key_path, f"set by both {printable(found[key_path])} and {printable(variable)}; keep one")
        else:
            found[key_path] = variable
    for key_path in sorted(found, key=len):
        variable = found[key_path]
        problems.came_from(key_path, f"set by {printable(variable)}", substituted=False)
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
        yield key_path, printable(variable), value


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
            problems.add(path, f"the environment variable {name} {NOT_SET}, or remove ${{{name}}} here")
            if problems.environment_file is not None:
                problems.closing_line = f"to set all of its variables: set -a; . {problems.environment_file}; set +a"
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
    shown = printable(written)
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
