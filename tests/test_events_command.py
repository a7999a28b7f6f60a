import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.__main__ import main
from service.app import build_source
from service.inbox.sqlite import SqliteInbox
from service.intake import build_receipt
from service.settings import load_settings
from service.simulate import PAYLOADS, http_request
from service.sources.base import PARSER_VERSION, Callback

CONFIG = """
[store]
url = "sqlite:///{folder}/test.db"
[sources.vod]
product = "vod"
transport = "http"
path = "/callbacks/vod"
url = "https://cb.example.com/callbacks/vod"
keys = ["Example1Key"]
[sinks.out]
kind = "stdout"
"""
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "media-callbacks.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def keep_what_nobody_understood(config: Path) -> None:
    """Two receipts of one job and a broken one, as a version would have kept them that could read none of them."""
    settings = load_settings(config, environ={})
    source = build_source("vod", settings.sources["vod"])
    payload = PAYLOADS["vod"]["DynamicImageComplete"]("job-1", NOW, False)

    async def keep() -> None:
        inbox = SqliteInbox(settings.store.sqlite_path)
        await inbox.open()
        for body in (json.dumps(payload).encode(), json.dumps(payload, indent=1).encode(), b"\xff"):
            request = http_request(source, body, now=NOW)  # type: ignore[arg-type]
            headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
            callback = Callback("POST", b"/callbacks/vod", b"", headers, request.body)
            message = source.verify(callback, now=NOW, public_key=None)
            await inbox.put(build_receipt(source, message, received_at=NOW, route=lambda _: ("out",)))
        await inbox.close()

    asyncio.run(keep())
    with sqlite3.connect(config.parent / "test.db") as connection:
        connection.execute("DELETE FROM events")
        connection.execute("DELETE FROM deliveries")
        connection.execute("UPDATE receipts SET state = 'unparsed', parser = 0")


def count(config: Path, table: str) -> int:
    with sqlite3.connect(config.parent / "test.db") as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_reparse_counts_first_then_emits_and_then_has_nothing_to_do(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_what_nobody_understood(config)
    expected = {"receipts": 3, "accepted": 1, "changed": 0, "unparsed": 1, "skipped": 0}

    assert main(["events", "reparse", "--config", str(config), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected | {"dry_run": True}
    assert (count(config, "events"), count(config, "deliveries")) == (0, 0)

    assert main(["events", "reparse", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected | {"dry_run": False}
    assert (count(config, "events"), count(config, "deliveries")) == (1, 1)
    with sqlite3.connect(config.parent / "test.db") as connection:
        rows = connection.execute("SELECT state, parser FROM receipts ORDER BY id").fetchall()
    assert rows == [("accepted", PARSER_VERSION), ("duplicate", PARSER_VERSION), ("unparsed", PARSER_VERSION)]

    assert main(["events", "reparse", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "1 receipts were read again" in out, "the broken one is looked at each time"
    assert "0 new events" in out


def test_receipts_of_sources_that_are_gone_are_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_what_nobody_understood(config)
    config.write_text(config.read_text().replace("[sources.vod]", "[sources.other]"))
    assert main(["events", "reparse", "--config", str(config)]) == 0
    assert "3 receipts are of sources that are not configured any more" in capsys.readouterr().out
