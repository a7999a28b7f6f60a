"""``media-callbacks events erase``, as an operator types it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from media_callbacks.admin.models.answers import ErasedPart
from tests.commands.test_events import at_a_terminal
from tests.factories.fake_admin import FakeAdmin, fake_admin, run_command
from tests.factories.running import Running

NOTHING = {"events": 0, "receipts": 0, "held": 0, "jobs": 0, "dead": 0, "undelivered": 0}


def part(**changes: Any) -> dict[str, Any]:
    fields = NOTHING | {"id": 3, "cursor": None, "journaled": 0} | changes
    return ErasedPart.model_validate(fields).model_dump()


@pytest.fixture
async def admin() -> AsyncIterator[FakeAdmin]:
    async with fake_admin() as fake:
        yield fake


async def test_what_a_service_has_of_a_user_goes(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    payload = {
        "EventType": "FileUploadComplete",
        "VideoId": "0a0b",
        "FileUrl": "http://example.com/a.mp4",
        "EventTime": "2026-01-02T03:04:05Z",
        "Status": "success",
        "Extend": "user 7",
    }
    request = running.build("vod", "job-1", payload=payload)
    await running.send(request)
    (event,) = await running.receiver.wait_for(1)
    assert event["data"]["user_data"] == "user 7"
    await running.until(lambda: running.rows("SELECT state FROM deliveries") == [("delivered",)])
    url = ("--url", f"http://{running.admin_address}")
    assert await run_command("events", "erase", "--user-data", "user 7", "--dry-run", *url) == 0
    assert capsys.readouterr().out == (
        "content of 1 events (0 of them held), bodies of 1 receipts, user data of 0 expected jobs, 0 deliveries not"
        " yet made would be erased\n"
    )
    assert await run_command("events", "erase", "--user-data", "user 7", "--yes", "--json", *url) == 0
    assert json.loads(capsys.readouterr().out) == NOTHING | {
        "events": 1, "receipts": 1, "id": 1, "journaled": 0, "dry_run": False
    }  # fmt: skip
    await running.send(request)
    assert running.lines[-1]["state"] == "duplicate"
    assert running.rows("SELECT body FROM receipts") == [(None,), (None,)]
    assert running.rows("SELECT * FROM event_bodies") == []

    assert await run_command("events", "show", event["id"], *url) == 0
    shown = capsys.readouterr().out
    assert "erased at 20" in shown
    assert "not there any more: it was erased" in shown
    assert await run_command("events", "erase", "--user-data", "user 7", "--yes", *url) == 0
    assert capsys.readouterr() == ("", "there is nothing to erase: nothing that is kept says so\n")


async def test_parts_are_asked_for_until_the_last(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(asked: Any) -> Any:
        cursor = {None: "3-jobs-0", "3-jobs-0": "3-events-9", "3-events-9": None}[asked.document.get("cursor")]
        return part(events=2, dead=1, cursor=cursor, journaled=4)

    admin.answers["POST /v1/erasures"] = answer
    arguments = ("events", "erase", "--job-id", "job-1", "--force", "--reason", "asked", "--yes", "--json")
    assert await admin.run(*arguments) == 0
    out, error = capsys.readouterr()
    assert json.loads(out) == NOTHING | {"events": 6, "dead": 3, "id": 3, "journaled": 4, "dry_run": False}
    assert "4 receipts wait in the journal of this instance, where nothing is erased" in error
    orders = [asked.document for asked in admin.asked]
    assert [order.get("dry_run", False) for order in orders] == [True] * 3 + [False] * 3
    assert {(order["job_id"], order["force"], order["reason"], "@" in order["requested_by"]) for order in orders} == {
        ("job-1", True, "asked", True)
    }


async def test_what_is_not_yet_delivered_is_left_and_said(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["POST /v1/erasures"] = part(events=2, undelivered=1)
    assert await admin.run("events", "erase", "--job-id", "job-1", "--yes") == 1
    assert "waiting for the vendor's word, were left: 1; nothing was erased. Wait" in capsys.readouterr().err
    assert [asked.document["dry_run"] for asked in admin.asked] == [True]
    # One that is new since it was counted.
    admin.answers["POST /v1/erasures"] = lambda asked: part(events=2, undelivered=not asked.document.get("dry_run"))
    assert await admin.run("events", "erase", "--job-id", "job-1", "--yes") == 1
    assert "were left: 1; the rest was erased" in capsys.readouterr().err
    admin.answers["POST /v1/erasures"] = part(events=2, undelivered=1)
    assert await admin.run("events", "erase", "--job-id", "job-1", "--dry-run") == 0
    assert "not yet delivered, and left without --force: 1 events" in capsys.readouterr().out


@pytest.mark.parametrize("answer, code", [("y\n", 0), ("\n", 1), ("no\n", 1)])
async def test_it_asks(
    admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, code: int
) -> None:
    admin.answers["POST /v1/erasures"] = part(events=2)
    at_a_terminal(monkeypatch, answer)
    assert await admin.run("events", "erase", "--media-id", "media-1") == code
    assert "erase them for good? [y/N]" in capsys.readouterr().err
    assert [asked.document.get("dry_run", False) for asked in admin.asked] == [True, False][: 2 - code]


async def test_what_is_not_said_is_wrong_usage(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        (["--yes"], "one of the arguments --job-id --media-id --user-data is required"),
        (["--job-id", "a", "--media-id", "b", "--yes"], "not allowed with argument"),
        (["--job-id", "a"], "there is no terminal to ask on"),
        (["--user-data", "", "--yes"], "came an empty text"),
    ):
        assert await admin.run("events", "erase", *arguments) == 2
        assert text in capsys.readouterr().err
    assert admin.asked == []


async def test_who_is_interrupted_is_told_how_to_go_on(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers["POST /v1/erasures"] = lambda asked: part(events=1) if asked.document.get("dry_run") else None
    assert await admin.run("events", "erase", "--job-id", "a", "--yes") == 1
    assert "what was erased stays erased; run this again for the rest" in capsys.readouterr().err
