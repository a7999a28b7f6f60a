"""Operators' commands over several cells: two that live, and a third one that is dead."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import TOKEN_VARIABLE, URL_VARIABLE, AdminClient
from tests.factories.cells import TOKENS, TwoCells, two_cells
from tests.factories.fake_admin import run_command


@pytest.fixture
async def cells(tmp_path: Path) -> AsyncIterator[TwoCells]:
    async with two_cells(tmp_path) as cells:
        await cells.send("east", "job-1")
        await cells.send("west", "job-2", "job-both")
        await cells.send("east", "job-3", "job-both")
        yield cells


async def run(cells: TwoCells, *arguments: str, with_dead: bool = False) -> int:
    return await run_command(*arguments, "--config", cells.config(with_dead=with_dead))


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


async def test_lists_are_one_newest_first_with_the_cell_of_each(
    cells: TwoCells, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(cells, "events", "list") == 0
    found = rows(capsys)
    assert sorted((row[6], row[-1]) for row in found) == [
        ("job-1", "east"),
        ("job-2", "west"),
        ("job-3", "east"),
        ("job-both", "east"),
        ("job-both", "west"),
    ]
    accepted = [row[0] for row in found]
    assert accepted == sorted(accepted, reverse=True)
    assert await run(cells, "receipts", "list", "--json", "--limit", "3") == 0
    found_receipts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [receipt["event_ids"] for receipt in found_receipts] == [[row[1]] for row in found[:3]]
    assert [receipt["cell"] for receipt in found_receipts] == [row[-1] for row in found[:3]]
    assert await run(cells, "sinks", "list") == 0
    assert [(row[0], row[-1]) for row in rows(capsys)] == [("films", "west"), ("orders", "east"), ("orders", "west")]
    assert await run(cells, "sources", "list") == 0
    assert [row[-1] for row in rows(capsys) if row[0] == "vod"] == ["east", "west"]


async def test_pages_are_read_of_each_cell_as_far_as_they_are_wanted(
    cells: TwoCells, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_callbacks.commands.console.admin_client._PAGE", 1)
    assert await run(cells, "events", "list") == 0
    # By their ids: whether they are delivered by then is up to the machine.
    everything = [row[1] for row in rows(capsys)]
    assert len(everything) == 5
    assert await run(cells, "events", "list", "--limit", "4") == 0
    assert [row[1] for row in rows(capsys)] == everything[:4]


async def test_one_cell_is_asked_alone(cells: TwoCells, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(cells, "events", "list", "--cell", "west") == 0
    # As if there were no other.
    assert [(row[6], len(row)) for row in rows(capsys)] == [("job-both", 9), ("job-2", 9)]


async def test_an_event_and_a_job_are_found_in_their_cell(cells: TwoCells, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(cells, "jobs", "show", "job-2") == 0
    assert any("accepted" in row[2] for row in rows(capsys))
    assert await run(cells, "events", "show", "--job-id", "job-3", "--json") == 0
    event = json.loads(capsys.readouterr().out)
    assert await run(cells, "events", "show", event["id"], "--json") == 0
    assert json.loads(capsys.readouterr().out) == event
    assert event["cell"] == "east"
    assert await run(cells, "events", "show", event["id"]) == 0
    assert capsys.readouterr().out.startswith("cell east\n")
    assert await run(cells, "jobs", "show", "job-3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cell"] == "east"
    # A job of both cells is listed, with the cell to name.
    assert await run(cells, "jobs", "show", "job-both") == 0
    assert [(row[1], row[-1]) for row in rows(capsys)] == [("job-both", "east"), ("job-both", "west")]
    assert await run(cells, "jobs", "show", "job-both", "--cell", "west") == 0
    assert await run(cells, "events", "show", f"evt_{'0' * 34}") == 1
    assert "cell" not in capsys.readouterr().err


async def test_status_and_report_are_those_of_each(cells: TwoCells, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(cells, "jobs", "expect", "vod", "snapshot", "job-9", "--cell", "west") == 0
    capsys.readouterr()
    assert await run(cells, "status", "--json") in (0, 1)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(status["cell"], status["expected"]) for status in found] == [("east", 0), ("west", 1)]
    assert await run(cells, "report") == 0
    assert {row[-1] for row in rows(capsys)} == {"west"}


async def test_an_order_is_for_one_cell(cells: TwoCells, capsys: pytest.CaptureFixture[str]) -> None:
    for order in (
        ("sinks", "pause", "orders"),
        ("events", "replay", "--sink", "orders", "--yes"),
        ("events", "erase", "--job-id", "job-1", "--yes"),
        ("jobs", "expect", "vod", "snapshot", "job-1"),
        ("receipts", "show", "1"),
        ("refused", "show", "1"),
    ):
        assert await run(cells, *order) == 2, order
        assert "--cell: expected, because this is of one cell; one of east, west" in capsys.readouterr().err
    assert await run(cells, "sinks", "pause", "orders", "--cell", "west") == 0
    capsys.readouterr()
    assert await run(cells, "sinks", "list") == 0
    assert [(row[2], row[-1]) for row in rows(capsys) if row[0] == "orders"] == [("active", "east"), ("paused", "west")]


async def test_a_cell_that_is_dead_is_said_and_the_others_are_shown(
    cells: TwoCells, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("events", "list"), ("sinks", "list"), ("jobs", "show", "job-2"), ("report",), ("status",)):
        assert await run(cells, *command, with_dead=True) == 1, command
        output = capsys.readouterr()
        assert output.err.startswith("cell dead: the admin API can't be reached at "), command
        assert "admin.cells.dead" in output.err
        assert output.out or command == ("report",)
    assert await run(cells, "events", "list", "--cell", "dead", with_dead=True) == 1
    assert capsys.readouterr().err.startswith("the admin API can't be reached")


async def test_a_cell_that_answers_otherwise_hides_no_other(
    cells: TwoCells, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a later version may."""
    get = AdminClient.get
    west = cells.tables()["west"]["url"]

    def answer(client: AdminClient, path: str, query: Mapping[str, str] | None = None) -> Json:
        return get(client, path, query) if client.url == west else {"at": "later"}

    monkeypatch.setattr(AdminClient, "get", answer)
    for command in ("status", "report"):
        assert await run(cells, command) == 1
        output = capsys.readouterr()
        assert output.err.startswith(
            "cell east: the admin API answered otherwise than this version of the command expects"
        )
        assert ("west" in output.out) is (command == "status"), "of jobs there is nothing to report"


async def test_a_cell_that_refuses_is_said_too(cells: TwoCells, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(cells, "events", "list", "--sink", "films") == 1
    output = capsys.readouterr()
    assert output.err.startswith("cell east: ")
    assert [line.split("\t")[-1] for line in output.out.splitlines()] == ["west", "west"]
    assert await run(cells, "events", "list", "--sink", "nowhere") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "no cell has answered"


async def test_which_token_goes_to_which_cell(
    cells: TwoCells, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Each has its own, whatever the environment says.
    monkeypatch.setenv(TOKEN_VARIABLE, "another-token-of-somebody")
    assert await run(cells, "sinks", "list") == 0
    # The option is stronger.
    (tmp_path / "token").write_text(TOKENS["west"])
    assert await run(cells, "sinks", "list", "--token-file", str(tmp_path / "token")) == 1
    assert "cell east: the admin API at" in capsys.readouterr().err
    # An address alone is of no cell.
    monkeypatch.setenv(URL_VARIABLE, f"http://{cells.running['west'].admin_address}")
    monkeypatch.setenv(TOKEN_VARIABLE, TOKENS["west"])
    assert await run(cells, "sinks", "list") == 0
    assert [len(row) for row in rows(capsys)] == [8, 8]
    assert await run(cells, "sinks", "list", "--cell", "west") == 2
    assert f"--cell: expected without {URL_VARIABLE}" in capsys.readouterr().err


async def test_a_cell_that_nobody_knows(cells: TwoCells, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert await run(cells, "sinks", "list", "--cell", "north") == 2
    assert "--cell: expected one of east, west, came north" in capsys.readouterr().err
    (tmp_path / "none.toml").write_text("[admin]\n")
    assert await run_command("sinks", "list", "--cell", "x", "--config", str(tmp_path / "none.toml")) == 2
    assert "the configuration has no admin.cells" in capsys.readouterr().err
