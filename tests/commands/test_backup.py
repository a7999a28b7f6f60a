"""``media-callbacks backup``, as an operator types it, and what a service makes of the copy."""

import asyncio
import fcntl
import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.__main__ import main
from media_callbacks.inbox.factory import migrate_store
from media_callbacks.inbox.records import JobFilter
from media_callbacks.inbox.sqlite import backup
from media_callbacks.model.jobs import ExpectedJob
from tests.factories.running import Running, make_tables, run_service, to_toml
from tests.inbox.conformance import make_event
from tests.inbox.conformance_jobs import held, reference


def write_config(folder: Path, changes: dict[str, Any] | None = None) -> str:
    path = folder / "config.toml"
    path.write_text(to_toml(make_tables(folder, {}, changes)))
    return str(path)


async def run(folder: Path, *arguments: str) -> int:
    return await asyncio.to_thread(main, ["backup", "--config", write_config(folder), *arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


async def fill(running: Running) -> None:
    """Three events that wait for a paused sink, one that waits for the vendor, and a job that is expected."""
    inbox = running.service.inbox
    await inbox.set_sink_state("orders", "paused", reason=None, changed_by=None)
    for number in range(3):
        assert (await running.send(running.build("vod", f"job-{number}"))).status == 200
    await inbox.put(held(make_event("held")))
    await inbox.expect([ExpectedJob(reference=reference("expected"), deadline=timedelta(hours=1), user_data="mine")])


async def test_a_copy_of_a_running_service_is_whole_and_a_service_goes_on_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    async with run_service(tmp_path) as running:
        await fill(running)
        store = running.settings.store.sqlite_path
        with closing(sqlite3.connect(store, isolation_level=None)) as writing:
            # Whoever is writing just now is neither waited for nor seen.
            writing.execute("BEGIN IMMEDIATE")
            writing.execute("INSERT INTO bindings VALUES (x'00', 'not committed')")
            assert await run(tmp_path, str(copy), "--json") == 0
            writing.execute("ROLLBACK")
        assert json.loads(capsys.readouterr().out) == {
            "file": str(copy),
            "size_bytes": copy.stat().st_size,
            "receipts": 4,
            "events": 3,
            "undelivered": 3,
            "held": 1,
            "expected": 1,
        }
        assert copy.stat().st_mode & 0o777 == 0o600
        assert rows(copy, "SELECT * FROM bindings") == rows(store, "SELECT * FROM bindings") == []
        # What was held may have been asked about since.
        numbered = "SELECT * FROM sqlite_sequence WHERE name <> 'answers' ORDER BY name"
        assert rows(copy, numbered) == rows(store, numbered)
        request = running.build("vod", "job-1")
    assert names(tmp_path) == ["config.toml", "copy.db", "inbox.db", "inbox.db.lock"]

    # As docs say: the copy in the place of the store.
    shutil.copy(copy, tmp_path / "inbox.db")
    async with run_service(tmp_path) as running:
        await running.send(request)
        assert running.lines[-1]["state"] == "duplicate"
        waiting = await running.service.inbox.count_waiting()
        assert dict(waiting.held) == {"vod": 1}
        (job,) = await running.service.inbox.list_jobs(JobFilter(), limit=9)
        assert (job.state, job.reference.job_id, job.user_data) == ("expected", "expected", "mine")
        await running.service.inbox.set_sink_state("orders", "active", reason=None, changed_by=None)
        events = await running.receiver.wait_for(3)
        assert [event["data"]["job_id"] for event in events] == ["job-0", "job-1", "job-2"]
        await running.send(running.build("vod", "new"))
        assert running.rows("SELECT max(id) FROM events") == [(4,)]


async def test_no_file_is_replaced_unless_asked_for_and_none_of_the_stores_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate_store(f"sqlite:///{tmp_path}/inbox.db")
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    copy.chmod(0o644)
    assert await run(tmp_path, str(copy)) == 1
    assert capsys.readouterr().err == f"{copy} is there already; name another file, or replace it with --force\n"
    assert copy.read_text() == "precious"
    assert await run(tmp_path, str(copy), "--force") == 0
    assert capsys.readouterr().out.endswith(
        "sound; 0 receipts and 0 events, 0 deliveries under way, 0 held events, 0 expected jobs\n"
    )
    assert (copy.read_bytes()[:15], copy.stat().st_mode & 0o777) == (b"SQLite format 3", 0o600)
    for name in ("inbox.db", "inbox.db-wal", "inbox.db.lock"):
        assert await run(tmp_path, str(tmp_path / name), "--force") == 1
        assert "is the store itself" in capsys.readouterr().err
    assert rows(tmp_path / "inbox.db", "SELECT count(*) FROM events") == [(0,)]


async def test_what_cannot_be_copied_is_said_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, copy = tmp_path / "inbox.db", tmp_path / "copy.db"
    assert await run(tmp_path, str(copy)) == 1
    assert f"store.url: {store} is not there; name the store" in capsys.readouterr().err
    store.write_text("something else")
    assert await run(tmp_path, str(copy)) == 1
    assert f"store.url: {store} can't be copied: file is not a database" in capsys.readouterr().err
    store.write_text("")
    assert await run(tmp_path, str(copy)) == 1
    assert "has no tables of ours" in capsys.readouterr().err
    assert await run(tmp_path, str(tmp_path / "missing/copy.db")) == 1
    assert "can't be written: No such file or directory" in capsys.readouterr().err
    assert names(tmp_path) == ["config.toml", "inbox.db"]


async def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await migrate_store(f"sqlite:///{tmp_path}/inbox.db")
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder):
        assert await run(tmp_path, str(path), "--force") == 1
        assert capsys.readouterr().err == f"{path} is there already, and no file; name another one\n"
    assert pipe.is_fifo()


async def test_what_was_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    await migrate_store(f"sqlite:///{tmp_path}/inbox.db")
    left, under_way, other = (
        tmp_path / f".{name}" for name in ("copy.db.01234567", "copy.db.89abcdef", "copy.db.mine")
    )
    for path in (left, left.with_name(f"{left.name}-journal"), under_way, other):
        path.write_text("all of a store")
    with under_way.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert await run(tmp_path, str(tmp_path / "copy.db")) == 0
    assert names(tmp_path) == sorted([under_way.name, other.name, "config.toml", "copy.db", "inbox.db"])


async def test_where_there_is_no_room_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate_store(f"sqlite:///{tmp_path}/inbox.db")
    connect = sqlite3.connect

    def fill_up(path: Path, part: Path, progress: Any) -> None:
        part.with_name(f"{part.name}-journal").touch()
        copy(path, part, progress)

    class Full(sqlite3.OperationalError):
        sqlite_errorcode = sqlite3.SQLITE_FULL

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql.startswith("VACUUM"):
                raise Full("database or disk is full")
            return super().execute(sql, *parameters)

    copy = backup._copy
    monkeypatch.setattr(backup, "_copy", fill_up)
    monkeypatch.setattr(
        sqlite3, "connect", lambda *arguments, **options: connect(*arguments, factory=Connection, **options)
    )
    assert await run(tmp_path, str(tmp_path / "copy.db")) == 1
    assert capsys.readouterr().err == f"{tmp_path} has no room for the copy; name a file on a larger disk\n"
    assert names(tmp_path) == ["config.toml", "inbox.db"]


async def test_a_damaged_copy_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate_store(f"sqlite:///{tmp_path}/inbox.db")
    copy = backup._copy

    def damage(path: Path, part: Path, progress: Any) -> None:
        copy(path, part, progress)
        with part.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 4096)

    monkeypatch.setattr(backup, "_copy", damage)
    assert await run(tmp_path, str(tmp_path / "copy.db")) == 1
    assert "was removed" in capsys.readouterr().err
    assert names(tmp_path) == ["config.toml", "inbox.db"]


def test_for_postgresql_it_says_how_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "store.url": "postgresql://user:a-password@one,two/db?sslmode=require&password=another",
        "server.journal_path": "/var/lib/journal",
    }
    assert main(["backup", "--config", write_config(tmp_path, changes), "my copy"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert (
        "umask 077; pg_dump --format=custom '--file=my copy' 'postgresql://user@one,two/db?sslmode=require'\n" in error
    )
    assert "/var/lib/journal" in error
    assert "a-password" not in error
    assert "another" not in error
    assert not (tmp_path / "my copy").exists()
