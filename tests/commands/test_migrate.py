"""``media-callbacks migrate``, as an operator types it."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from media_callbacks.__main__ import main
from media_callbacks.inbox.factory import build_inbox, migrate_store
from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.roles import Inbox
from media_callbacks.model.errors import ConfigError
from tests.factories.running import make_tables, to_toml
from tests.inbox.conformance import make_event, make_receipt

NAMES = [str(migration) for migration in load_migrations("sqlite")]


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> str:
    return f"sqlite:///{tmp_path / 'new.db'}" if request.param == "sqlite" else database_url


async def run(tmp_path: Path, store_url: str, *arguments: str) -> int:
    config = tmp_path / "config.toml"
    config.write_text(to_toml(make_tables(tmp_path, {}, {"store.url": store_url})))
    return await asyncio.to_thread(main, ["migrate", "--config", str(config), *arguments])


async def test_what_was_applied_is_listed_once(
    tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox: Inbox = build_inbox(store_url, auto_migrate=False)
    with pytest.raises(ConfigError, match="media-callbacks migrate"):
        await inbox.open()
    await inbox.close()
    assert await run(tmp_path, store_url) == 0
    assert capsys.readouterr().out.splitlines() == [f"applied {name}" for name in NAMES]
    assert await run(tmp_path, store_url) == 0
    assert capsys.readouterr() == ("", "nothing to apply: the schema is up to date\n")
    inbox = build_inbox(store_url, auto_migrate=False, pool_size=5)
    await inbox.open()
    assert (await inbox.put(make_receipt(make_event()))).state == "accepted"
    assert await run(tmp_path, store_url) == 0, "beside a running service"
    await inbox.close()


async def test_json_is_one_object(tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for applied in (NAMES, []):
        assert await run(tmp_path, store_url, "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"applied": applied}


async def test_a_server_that_is_away_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(tmp_path, "postgresql://user:secret@127.0.0.1:1/db") == 1
    error = capsys.readouterr().err
    assert error.startswith("store.url: the database can't be used just now: ")
    assert "secret" not in error


async def test_a_file_that_cannot_be_used_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^store\.url: cannot use"):
        await migrate_store(f"sqlite:///{tmp_path / 'missing' / 'new.db'}")


async def test_space_can_be_given_back_whoever_migrated_first(tmp_path: Path) -> None:
    await migrate_store(f"sqlite:///{tmp_path / 'new.db'}")
    connection = sqlite3.connect(tmp_path / "new.db")
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()
