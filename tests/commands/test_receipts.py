"""``receipts``, as operators type it."""

import json

import pytest

from tests.factories.fake_admin import fake_admin, make_id, problem, receipt_detail, receipt_item
from tests.factories.operators import NOW


@pytest.fixture
async def admin():
    async with fake_admin() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("media_callbacks.commands.receipts.utc_now", lambda: NOW)


async def test_receipts_are_listed_by_state_source_job_and_time(admin, capsys):
    broken = receipt_item(2, state="unparsed", reason="no\tJSON\x1b", event_ids=[])
    admin.answers["GET /v1/receipts"] = {"receipts": [broken, receipt_item(1)], "cursor": None}
    options = ["--state", "unparsed", "--source", "vod", "--job-id", "job-1", "--since", "1h"]
    assert await admin.run("receipts", "list", *options) == 0
    assert admin.asked[0].query == {
        "state": "unparsed",
        "source": "vod",
        "job_id": "job-1",
        "since": "2026-11-21T03:00:00Z",
        "limit": "50",
    }
    row = ["2026-11-20T09:00:00.480Z", "2", "vod", "vod", "http", "signature"]
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        [*row, "unparsed", "-", "no\\tJSON\\x1b"],
        [row[0], "1", *row[2:], "accepted", make_id(1), "-"],
    ]
    assert await admin.run("receipts", "list", "--json") == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [2, 1]


async def test_a_receipt_is_shown_with_its_body_as_text_and_nothing_else(admin, capsys):
    body = '{"a": 1,\n"b": "\x1b[2J\u202e[red]"}'
    admin.answers["GET /v1/receipts/7"] = receipt_detail(7, body=body, reason="broken", meta={"message_id": "1"})
    assert await admin.run("receipts", "show", "7") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == ['{"a": 1,', '"b": "\\x1b[2J\\u202e[red]"}']
    assert "broken" in out
    assert "message_id: 1" in out
    assert f"brought {make_id(1)}" in out
    admin.answers["GET /v1/receipts/7"] = receipt_detail(7, body=None, body_base64=None)
    assert await admin.run("receipts", "show", "7") == 0
    assert "its body is not there any more" in capsys.readouterr().out


async def test_what_is_no_receipt_is_refused(admin, capsys):
    assert await admin.run("receipts", "show", "seven") == 2
    assert "ID: expected the number of a receipt" in capsys.readouterr().err
    admin.answers["GET /v1/receipts/8"] = problem(404, "no receipt has this id")
    assert await admin.run("receipts", "show", "8") == 1
    assert capsys.readouterr().err == "no receipt has this id\n"


async def test_a_terminal_gets_a_table(admin, capsys, monkeypatch):
    for module in ("console.output", "console.listing", "receipts"):
        monkeypatch.setattr(f"media_callbacks.commands.{module}.can_draw", lambda _: True)
    admin.answers["GET /v1/receipts"] = {"receipts": [receipt_item(1, source="[bold]")], "cursor": None}
    assert await admin.run("receipts", "list") == 0
    out = capsys.readouterr().out
    assert "brought" in out
    assert "1\n" in out or "[bold] http" in out
