"""
What each command loads, which is what it takes to answer: libraries are by far the most of it. Measured by modules and
not by a clock, so that it is the same on every machine.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from media_callbacks.__main__ import COMMANDS
from media_callbacks.commands.events import SUBCOMMANDS
from tests.documentation.test_configurations import ENVIRON
from tests.factories.fake_admin import (
    event_detail,
    event_item,
    fake_admin,
    job_detail,
    job_hit,
    job_item,
    make_id,
    make_report,
    receipt_detail,
    receipt_item,
    refused_item,
    replay_item,
    sink_item,
)

ROOT = Path(__file__).parents[2]
CONFIG = ("--config", str(ROOT / "deploy/media-callbacks.toml"))
HEAVY = {
    "aiobotocore", "aiohttp", "asyncio", "asyncpg", "botocore", "cryptography", "httptools", "prometheus_client",
    "pydantic", "rich", "sqlite3", "ssl", "starlette", "structlog", "uvicorn", "uvloop", "yarl",
    "media_callbacks.app", "media_callbacks.model.events", "media_callbacks.config.settings",
}  # fmt: skip
MODULES = {f"media_callbacks.commands.{name}" for name in (*COMMANDS, *(f"events.{name}" for name in SUBCOMMANDS))}
# What was there before is not the command's doing: coverage, when it measures, loads some as well.
REPORT = """
import atexit, runpy, sys
before = set(sys.modules)
with_report = open(sys.argv.pop(1), "w")
atexit.register(lambda: print(*sorted(set(sys.modules) - before), file=with_report, flush=True))
runpy.run_module("media_callbacks", run_name="__main__")
"""


def run_and_list(folder: Path, arguments: Sequence[str]) -> tuple[int, set[str], str]:
    """Exit code, loaded modules, and what was printed."""
    path = folder / "modules"
    found = subprocess.run(
        [sys.executable, "-c", REPORT, str(path), *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRON,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return found.returncode, set(path.read_text().split()), found.stdout + found.stderr


@pytest.mark.parametrize(
    "arguments, code, modules",
    [
        (["--help"], 0, set()),
        (["--version"], 0, set()),
        ([], 2, set()),
        (["nonsense"], 2, set()),
        (["events", "--help"], 0, {"media_callbacks.commands.events"}),
    ],
)
def test_what_is_no_command_loads_none(tmp_path, arguments, code, modules):
    found, loaded, output = run_and_list(tmp_path, arguments)
    assert found == code, output
    assert not loaded & HEAVY
    assert loaded & MODULES == modules


@pytest.mark.parametrize(
    "arguments, heavy",
    [
        (["schema"], {"pydantic", "media_callbacks.model.events"}),
        (["schema", "--kind", "snapshot"], {"pydantic", "media_callbacks.model.events"}),
        (["schema", "--asyncapi"], {"pydantic", "media_callbacks.model.events"}),
        (
            ["mint", "gif", *CONFIG, "--application-id", "a", "--video-url", "https://b/c", "--video-name", "c"],
            {"pydantic", "media_callbacks.config.settings", "ssl"},
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_a_command_loads_what_it_needs(tmp_path, arguments, heavy):
    code, loaded, output = run_and_list(tmp_path, arguments)
    assert code == 0, output
    assert loaded & HEAVY == heavy
    assert loaded & MODULES == {f"media_callbacks.commands.{arguments[0]}"}


ADMIN = {"pydantic", "media_callbacks.model.events", "ssl"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["events", "list"],
        ["events", "list", "--json"],
        ["events", "show", make_id(1)],
        ["events", "replay", make_id(1), "--dry-run"],
        ["events", "replay", "--state", "dead", "--yes"],
        ["events", "replay", "--status"],
        ["jobs", "expect", "vod", "transcode", "job-1"],
        ["jobs", "list"],
        ["jobs", "show", "job-1"],
        ["receipts", "list"],
        ["receipts", "show", "1"],
        ["refused", "list"],
        ["refused", "show", "1"],
        ["report"],
        ["sinks", "list"],
        ["sinks", "pause", "orders"],
    ],
    ids=" ".join,
)
async def test_whoever_asks_the_service_loads_neither_servers_nor_drivers(tmp_path, arguments):
    async with fake_admin() as admin:
        admin.answers = {
            "GET /v1/events": {"events": [event_item(1)], "cursor": None},
            f"GET /v1/events/{make_id(1)}": event_detail(1),
            "GET /v1/replays": {"replays": [replay_item(7)], "cursor": None},
            "GET /v1/replays/7": replay_item(7),
            "POST /v1/replays": lambda asked: (
                {"dry_run": True, "total": 3} if asked.document.get("dry_run") else replay_item(7)
            ),
            "POST /v1/jobs": [job_item(1)],
            "GET /v1/jobs": {"jobs": [job_item(1)], "cursor": None},
            "GET /v1/search": {"hits": [job_hit(1)]},
            "GET /v1/jobs/vod/job-1": job_detail(1),
            "GET /v1/receipts": {"receipts": [receipt_item(1)], "cursor": None},
            "GET /v1/receipts/1": receipt_detail(1),
            "GET /v1/refused": {"refused": [refused_item(1)], "cursor": None},
            "GET /v1/refused/1": refused_item(1)
            | {
                "request": {"method": "POST", "target": "/", "headers": [], "body": "", "body_bytes": 0},
                "explanation": None,
                "afterwards": [],
            },
            "GET /v1/report": make_report(),
            "GET /v1/sinks": {"sinks": [sink_item("orders")]},
            "POST /v1/sinks/orders/pause": sink_item("orders", state="paused"),
        }

        async def heavy_of(*further: str) -> Collection[str]:
            code, loaded, output = await asyncio.to_thread(run_and_list, tmp_path, [*arguments, *further])
            assert code == 0, output
            own = {arguments[0], f"{arguments[0]}.{arguments[1]}"} if arguments[0] == "events" else {arguments[0]}
            assert loaded & MODULES == {f"media_callbacks.commands.{name}" for name in own}
            return loaded & HEAVY

        assert await heavy_of("--url", admin.url) == ADMIN
        # With the configuration for the token.
        assert await heavy_of("--url", admin.url, *CONFIG) == ADMIN | {"media_callbacks.config.settings"}


def test_a_first_configuration_is_written_with_the_light_core(tmp_path):
    arguments = ["init", "--dir", str(tmp_path), "--product", "vod", "--url", "https://cb.example.com", "--yes"]
    code, loaded, output = run_and_list(tmp_path, arguments)
    assert code == 0, output
    assert loaded & HEAVY == {"pydantic", "media_callbacks.config.settings"}
    assert loaded & MODULES == {"media_callbacks.commands.init"}
