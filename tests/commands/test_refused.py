"""``refused``, as operators and scripts type it."""

import json
from typing import Any

import pytest

from tests.factories.fake_admin import fake_admin, refused_item

ODD = refused_item(6, source="none", cause="path_unknown", job_id=None, detail="a\x1b[2J\t[red]b")


def refused_detail(number: int, body: str = "", **changes: Any) -> dict[str, Any]:
    request = {"method": "POST", "target": "/callbacks/vod", "headers": [], "body": body, "body_bytes": len(body)}
    return (
        refused_item(number)
        | {"request": request | {"is_whole": True}, "explanation": None, "afterwards": []}
        | changes
    )


@pytest.fixture
async def admin():
    async with fake_admin() as fake:
        yield fake


async def test_a_list_is_a_line_each(admin, capsys):
    admin.answers["GET /v1/refused"] = {"refused": [refused_item(7), ODD], "cursor": None}
    arguments = ("--source", "vod", "--reason", "signature_mismatch", "--cause", "key_case", "--text", "job-1")
    assert await admin.run("refused", "list", *arguments, "--since", "2026-11-20T00:00:00Z") == 0
    assert admin.asked[0].query == {
        "source": "vod",
        "reason": "signature_mismatch",
        "cause": "key_case",
        "text": "job-1",
        "since": "2026-11-20T00:00:00Z",
        "limit": "50",
    }
    wrong = "no configured key and url gives this signature"
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["2026-11-20T10:00:00Z", "7", "vod", "403", "signature_mismatch", "-", "job-1", wrong],
        ["2026-11-20T10:00:00Z", "6", "none", "403", "signature_mismatch", "path_unknown", "-", "a\\x1b[2J\\t[red]b"],
    ]
    assert await admin.run("refused", "list", "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [refused_item(7), ODD]


async def test_a_terminal_is_told_how_to_go_on(admin, capsys, monkeypatch):
    admin.answers["GET /v1/refused"] = {"refused": [refused_item(7), ODD], "cursor": None}
    for module in ("console.output", "console.listing", "refused"):
        monkeypatch.setattr(f"media_callbacks.commands.{module}.can_draw", lambda _: True)
    assert await admin.run("refused", "list") == 0
    out = capsys.readouterr().out
    assert "one of them: media-callbacks refused show NUMBER" in out
    assert "\x1b[2J" not in out


@pytest.mark.parametrize("body", ["x" * 2000, "\n" * 100])
async def test_of_a_long_body_the_head_is_shown(admin, capsys, body):
    admin.answers["GET /v1/refused/7"] = refused_detail(7, body)
    assert await admin.run("refused", "show", "7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"  and so on, {len(body)} characters; all that is kept: --json"
    assert len(lines) < 40
    assert await admin.run("refused", "show", "7", "--json") == 0
    assert json.loads(capsys.readouterr().out)["request"]["body"] == body


async def test_a_body_is_shown_by_its_lines_and_steers_nothing(admin, capsys):
    admin.answers["GET /v1/refused/7"] = refused_detail(7, "<a>\n\x1b[2J\u202e")
    assert await admin.run("refused", "show", "7") == 0
    assert "  <a>\n  \\x1b[2J\\u202e\n" in capsys.readouterr().out


async def test_what_is_no_number_is_refused(admin, capsys):
    assert await admin.run("refused", "show", "../events") == 2
    assert capsys.readouterr().err.startswith("media-callbacks refused: NUMBER: expected that of a refused request")
    assert not admin.asked
