"""``media-callbacks serve`` where it can't start. How it runs and stops: ``tests/process``."""

import asyncio
import re
from pathlib import Path

import pytest

from media_callbacks.__main__ import main
from tests.factories.running import make_tables, to_toml
from tests.inbox.timed import TimedSqliteInbox


def refused(folder: Path, store_url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code and what was said, and what `check` says of the store."""
    config = folder / "config.toml"
    config.write_text(to_toml(make_tables(folder, {}, {"store.url": store_url})))
    main(["check", "--config", str(config)])
    (found,) = [line for line in capsys.readouterr().out.splitlines() if "store.url" in line]
    code = main(["serve", "--log-level", "error", "--config", str(config)])
    return code, capsys.readouterr().err, found.removeprefix("error: ")


@pytest.mark.parametrize("name", ["missing/new.db", "other.txt"])
def test_a_file_that_can_be_no_store_is_told_as_check_does(tmp_path, capsys, name):
    (tmp_path / "other.txt").write_text("no database " * 100)
    code, error, checked = refused(tmp_path, f"sqlite:///{tmp_path}/{name}", capsys)
    assert code == 1
    assert error == f"{checked}\n"
    assert "; " in error, "no remedy"


@pytest.mark.parametrize("mistake", ["nothing there", "no such database", "another user"])
def test_a_server_that_is_no_store_is_told_as_check_does(tmp_path, capsys, mistake, database_url):
    url = {
        "nothing there": "postgresql://mc:hidden-word@127.0.0.1:1/mc",
        "no such database": re.sub(r"/[^/?]+(?=\?|$)", "/none_such", database_url),
        "another user": re.sub("//[^@]*@", "//nobody:hidden-word@", database_url),
    }[mistake]
    code, error, checked = refused(tmp_path, url, capsys)
    assert code == 1
    assert error == f"{checked}\n"
    assert "; " in error, "no remedy"
    assert "hidden-word" not in error


def test_without_the_driver_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    for module in ("connecting", "needs"):
        monkeypatch.setattr(f"media_callbacks.inbox.postgresql.{module}.asyncpg", None)
    code, error, _ = refused(tmp_path, "postgresql://mc:hidden-word@127.0.0.1:1/mc", capsys)
    assert code == 2
    assert re.fullmatch(r"store\.url: PostgreSQL needs a further package: pip install .*\n", error)


def test_a_file_that_another_service_holds_is_told_as_it_is(tmp_path, capsys):
    inbox = TimedSqliteInbox(tmp_path / "inbox.db")
    asyncio.run(inbox.open())
    try:
        code, error, _ = refused(tmp_path, f"sqlite:///{tmp_path}/inbox.db", capsys)
    finally:
        asyncio.run(inbox.close())
    assert code == 1
    assert error.startswith("store.url: ")
    assert "in use by another service" in error
