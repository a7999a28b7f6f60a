"""docs/configure.md shows every key of the configuration, with its default."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from media_callbacks.config.server import AdminSettings, JobsSettings, ServerSettings, StoreSettings
from media_callbacks.config.settings import Settings, build_settings
from media_callbacks.config.sinks import SINK_MODELS, Match
from media_callbacks.config.sources import SOURCE_MODELS
from media_callbacks.config.vendor import VendorSettings
from tests.documentation.pages import read_blocks
from tests.documentation.test_configurations import ENVIRON

(SHOWN,) = (block.text for block in read_blocks("docs/configure.md") if block.file == "every-key.toml")
_LINE = re.compile(r"(?P<is_default>#)?(?P<key>[a-z_]+) = (?P<value>.*?)(?:\s+# (?P<comment>.*))?")


def read_tables() -> dict[str, list[re.Match[str]]]:
    tables: dict[str, list[re.Match[str]]] = {}
    for line in SHOWN.splitlines():
        if line.startswith("["):
            table = tables.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("# "):
            found = _LINE.fullmatch(line)
            assert found, line
            table.append(found)
    return tables


def read_value(line: re.Match[str]) -> Any:
    return tomllib.loads(f"it = {line['value']}")["it"]


def find_model(name: str, required: Mapping[str, Any]) -> type[BaseModel]:
    section, _, _ = name.partition(".")
    if name.endswith(".match"):
        return Match
    if section == "sources":
        return SOURCE_MODELS[required["transport"]]
    if section == "sinks":
        return SINK_MODELS[required["kind"]]
    models: Mapping[str, type[BaseModel]] = {
        "server": ServerSettings,
        "admin": AdminSettings,
        "store": StoreSettings,
        "jobs": JobsSettings,
        "vendor": VendorSettings,
    }
    return models[section]


TABLES = read_tables()


def test_it_is_right():
    build_settings(tomllib.loads(SHOWN), environ=ENVIRON)


def test_it_has_every_table():
    assert {name.partition(".")[0] for name in TABLES} == set(Settings.model_fields)
    required = [
        {line["key"]: read_value(line) for line in lines if not line["is_default"]} for lines in TABLES.values()
    ]
    assert {each["transport"] for each in required if "transport" in each} == set(SOURCE_MODELS)
    assert {each["kind"] for each in required if "kind" in each} == set(SINK_MODELS)


@pytest.mark.parametrize("name", TABLES)
def test_it_has_every_key_with_its_default(name: str):
    lines = {line["key"]: line for line in TABLES[name]}
    required = {key: read_value(line) for key, line in lines.items() if not line["is_default"]}
    # As if ${NAME} had been replaced.
    required = build_values(required)
    model = find_model(name, required)
    shown = set(lines) | ({"match"} if f"{name}.match" in TABLES else set())
    assert shown == set(model.model_fields)
    assert len(lines) == len(TABLES[name]), "a key is shown twice"
    assert {key for key, field in model.model_fields.items() if field.is_required()} == set(required)
    plain = model.model_validate(required)
    for key, line in lines.items():
        if line["is_default"]:
            given = model.model_validate(required | build_values({key: read_value(line)}))
            has_none = getattr(plain, key) in (None, (), {})
            says_none = (line["comment"] or "").startswith("none")
            assert says_none == (has_none and read_value(line) not in ({}, [])), key
            assert says_none or getattr(given, key) == getattr(plain, key), key


def build_values(table: Mapping[str, Any]) -> dict[str, Any]:
    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(each) for each in value]
        if isinstance(value, dict):
            return {key: resolve(each) for key, each in value.items()}
        return re.sub(r"\$\{(\w+)\}", lambda found: ENVIRON[found[1]], value) if isinstance(value, str) else value

    return {key: resolve(value) for key, value in table.items()}
