"""Blocks of every other language are what they say that they are."""

import json
import sqlite3

import pytest
import yaml  # type: ignore[import-untyped]

from media_callbacks.model.events import parse_event
from tests.documentation.pages import PAGES, Block, read_blocks
from tests.documentation.test_configurations import ENVIRON
from tests.factories.contracts import check_event

# What test_commands, test_configurations, test_consumers and client/test_typescript are for; and what people read.
ELSEWHERE = {"sh", "toml", "javascript", "typescript", "text"}
BLOCKS = [block for page in PAGES for block in read_blocks(page) if block.language not in ELSEWHERE]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_examples_can_be_read(block: Block, monkeypatch: pytest.MonkeyPatch):
    match block.language:
        case "python":
            code = compile(block.text, str(block), "exec")
            # A file is a program, which its page runs; the rest only defines something.
            if block.file is None:
                monkeypatch.setenv("ORDERS_SECRET", ENVIRON["ORDERS_SECRET"])
                exec(code, {"__name__": __name__})  # ours
        case "json":
            json.loads(block.text)
        case "yaml":
            yaml.safe_load(block.text)
        case "sql":
            sqlite3.connect(":memory:").executescript(block.text)
        case _:
            pytest.fail(f"nobody checks {block.language}")


def test_the_event_that_is_shown_is_one():
    (shown,) = (block.text for block in BLOCKS if block.page == "docs/consume.md" and block.language == "json")
    assert parse_event(shown).data.kind == "animated_image"
    check_event(json.dumps(json.loads(shown), separators=(",", ":"), ensure_ascii=False).encode())
