"""``media-callbacks copy``, as an operator types it, and services that go on with the copies."""

import asyncio
import json
from pathlib import Path

import pytest

from media_callbacks.__main__ import main
from media_callbacks.inbox.records import EventFilter
from tests.commands.test_backup import fill
from tests.factories.running import run_service


async def run(source: str, target: str, *arguments: str) -> int:
    return await asyncio.to_thread(main, ["copy", "--from", source, "--to", target, *arguments])


async def test_a_service_goes_on_where_another_has_stopped(
    tmp_path: Path,
    database_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, other_file = (f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "other"))
    async with run_service(tmp_path, changes={"store.url": file}) as running:
        await fill(running)
        requests = [running.build("vod", f"job-{number}") for number in range(3)]
        assert await run(file, database_url) == 1
        assert capsys.readouterr().err.startswith(f"--from: {tmp_path}/one.db is in use by another service")

    assert await run(file, database_url, "--json") == 0
    out, error = capsys.readouterr()
    rows = {table["name"]: table["rows"] for table in json.loads(out)["tables"]}
    assert (rows["receipts"], rows["events"], rows["held"], rows["jobs"], error) == (4, 3, 1, 1, "")
    async with run_service(tmp_path, changes={"store.url": database_url}) as running:
        await running.send(requests[0])
        assert running.lines[-1]["state"] == "duplicate"
        await running.send(running.build("vod", "further"))
        assert await run(file, database_url) == 1
        assert "--to: services use the database (by " in capsys.readouterr().err

    assert await run(database_url, other_file) == 0
    out, error = capsys.readouterr()
    assert "events\t4\t" in out
    assert "journals" in error
    async with run_service(tmp_path, changes={"store.url": other_file}) as running:
        for request in requests:
            await running.send(request)
            assert running.lines[-1]["state"] == "duplicate"
        await running.send(running.build("vod", "last"))
        inbox = running.service.inbox
        await inbox.set_sink_state("orders", "active", reason=None, changed_by=None)
        events = await running.receiver.wait_for(5)
        in_order = ["job-0", "job-1", "job-2", "further", "last"]
        assert [event["data"]["job_id"] for event in events] == in_order
        found = await inbox.list_events(EventFilter(), limit=9)
        assert [(event.cursor, event.job_id) for event in reversed(found)] == list(enumerate(in_order, 1))
        assert dict((await inbox.count_waiting()).held) == {"vod": 1}


async def test_what_is_no_store_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("mysql://db", f"sqlite:///{tmp_path}/other.db") == 2
    assert "copy: --from: expected sqlite:///relative/path.db" in capsys.readouterr().err
    assert await run(f"sqlite:///{tmp_path}/one.db", "sqlite:///") == 2
    assert "copy: --to: expected a file" in capsys.readouterr().err


async def test_a_server_that_is_away_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("postgresql://user:secret@127.0.0.1:1/db", f"sqlite:///{tmp_path}/other.db") == 1
    error = capsys.readouterr().err
    assert error.startswith("the database can't be used just now: ")
    assert error.endswith("; nothing was copied, run this again\n")
    assert "secret" not in error
