"""What the pages and deploy/ show of the configuration is accepted by what reads it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.config.settings import build_settings, load_settings
from tests.documentation.pages import PAGES, ROOT, Block, read_blocks, read_page

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
ENVIRON = {
    "ADMIN_TOKEN": "0123456789abcdef",
    "EAST_TOKEN": "0123456789east00",
    "VOD_KEY": "Example1Key",
    "JOBS_TOKEN": "fedcba9876543210",
    "ALIYUN_ID": "ExampleId",
    "ALIYUN_SECRET": "ExampleSecret",
    "GIF_URL_KEY": SECRET.removeprefix("whsec_"),
    "ORDERS_SECRET": SECRET,
    "ORDERS_TOKEN": "example-token",
    "ALIYUN_STS_TOKEN": "ExampleToken",
    "RABBITMQ_PASSWORD": "example-password",
    "KAFKA_PASSWORD": "example-password",
    "NATS_PASSWORD": "example-password",
    "NATS_TOKEN": "example-token",
    "NATS_NKEY": "SUAHG7TQPQ6NCXHXKQACRSV4Z3GX6CBPMRRI5LAQJX4I5CNGKWIQLW5L5A",
}
# Of another key or token of the same kind.
ENVIRON |= {f"{name}_NEW": value.swapcase() for name, value in ENVIRON.items() if "SECRET" not in name}
ENVIRON |= {"IMS_KEY": "Example2Key", "ORDERS_SECRET_NEW": SECRET.replace("MDEy", "NDU2")}
# What a fragment is a part of.
WHOLE: dict[str, Any] = {
    "store": {"url": "postgresql://media_callbacks@postgres/media_callbacks"},
    "vendor": {"main": {"region": "cn-shanghai"}},
    "sources": {
        "vod": {
            "product": "vod", "transport": "http", "path": "/callbacks/vod",
            "url": "https://cb.example.com/callbacks/vod", "keys": ["Example1Key"],
        },
        "mts": {
            "product": "mts", "transport": "mns-push", "path": "/callbacks/mts/0b9c6f0f7d0e4c55a1f3",
            "topics": ["1234567890123456/mts-done"],
        },
        "gif": {
            "product": "multimediaai", "transport": "token-url", "path": "/callbacks/gif",
            "url": "https://cb.example.com/callbacks/gif", "keys": [f"1:{SECRET.removeprefix('whsec_')}"],
        },
    },
    "sinks": {"orders": {"kind": "webhook", "url": "https://orders.example.com/media", "secrets": [SECRET]}},
}  # fmt: skip
BLOCKS = [block for page in PAGES for block in read_blocks(page) if block.language == "toml" and block.is_run]


def merge(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The tables of a part over those of the whole; one that says what it is takes the place of the other."""
    merged = dict(whole)
    for key, value in part.items():
        is_table = isinstance(value, dict) and isinstance(whole.get(key), dict) and not {"kind", "transport"} & {*value}
        merged[key] = merge(whole[key], value) if is_table else value
    return merged


def test_the_example_configuration_is_right_and_gives_no_warning():
    assert load_settings(ROOT / "deploy/media-callbacks.toml", environ=ENVIRON).warnings == ()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_configurations_on_the_pages_are_right(block: Block, tmp_path: Path):
    text = block.text
    if block.file not in (None, "media-callbacks.toml"):
        tomllib.loads(text)
        return
    is_whole = block.file is not None
    tables = tomllib.loads(text)
    settings = build_settings(tables if is_whole else merge(WHOLE, tables), environ=ENVIRON)
    if is_whole:
        assert settings.warnings == ()


def test_some_are_whole_and_some_are_parts():
    assert {block.file is None for block in BLOCKS} == {True, False}


def test_the_sink_of_a_third_party_is_the_one_that_is_tested():
    shown = [block.text for page in PAGES for block in read_blocks(page) if "class FolderSink" in block.text]
    assert shown == [(ROOT / "tests/sinks/third_party/media_callbacks_folder/__init__.py").read_text("utf-8")]


@pytest.mark.parametrize("place", ["service", "deploy", "docs", "README.md", "CHANGELOG.md", "Makefile", "Dockerfile"])
def test_nobody_is_told_to_install_it_by_name(place: str):
    """
    No package index has it: whoever claims the name there first would be installed instead. Where it is installed
    already, pip stays with that, and the one module that says so adds an extra to it.
    """
    path = ROOT / place
    pages = (
        [path]
        if path.is_file()
        else [page for page in path.rglob("*") if page.is_file() and page.suffix not in (".pyc", ".png")]
    )
    pages = [page for page in pages if page != ROOT / "service/media_callbacks/extras.py"]
    assert pages
    by_name = re.compile(r"media[-_]callbacks\[|\b(?:install|add)\s+[\"']?media[-_]callbacks(?![\w./-])")
    found = [str(page.relative_to(ROOT)) for page in pages if by_name.search(page.read_text("utf-8"))]
    assert found == []


def test_the_readme_fits_on_three_screens():
    assert len(read_page("README.md").splitlines()) <= 150
