"""Whether anything comes through each source, and why what was refused was."""

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.admin.sources import judge
from media_callbacks.config.settings import build_settings
from media_callbacks.inbox.records import RefusedRow, SourceActivity, SourceNews
from tests.factories.operators import NOW, Operators, operating
from tests.factories.running import make_tables

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
async def operators(tmp_path: Path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as operators:
        yield operators


def ago(delta: timedelta | None) -> datetime | None:
    return None if delta is None else NOW - delta


@pytest.mark.parametrize(
    ("configured", "received", "refused_since", "state"),
    [
        (0 * HOUR, None, 0, "new"),
        (HOUR - MINUTE, None, 0, "new"),
        (HOUR - MINUTE, None, 2, "new"),
        (HOUR, None, 0, "quiet_since_change"),
        (HOUR, None, 2, "quiet_since_change"),
        (30 * DAY, None, 0, "quiet_since_change"),
        (0 * HOUR, None, 3, "refusing"),
        (30 * DAY, None, 3, "refusing"),
        (HOUR, MINUTE, 0, "receiving"),
        (HOUR, MINUTE, 2, "receiving"),
        (HOUR, MINUTE, 3, "refusing"),
        (30 * DAY, DAY - MINUTE, 0, "receiving"),
        (30 * DAY, DAY, 0, "quiet"),
        (30 * DAY, 7 * DAY, 2, "quiet"),
        (30 * DAY, 7 * DAY, 3, "refusing"),
        # What came before the change says nothing, once it ought to have come again.
        (HOUR - MINUTE, 2 * HOUR, 0, "receiving"),
        (HOUR - MINUTE, 2 * DAY, 0, "new"),
        (HOUR, 2 * HOUR, 0, "quiet_since_change"),
        (2 * HOUR, 2 * HOUR, 0, "receiving"),
    ],
)
def test_how_a_source_is(configured: timedelta, received: timedelta | None, refused_since: int, state: str) -> None:
    activity = SourceActivity("vod", NOW - configured, ago(received), None, refused_since, 30 * DAY)
    found, text = judge(activity, NOW)
    assert found == state
    if state == "refusing":
        assert "media-callbacks explain --last-refused --source vod" in text
        assert str(refused_since) in text


@pytest.mark.parametrize(
    ("received", "longest_gap", "state"),
    [
        (HOUR, 0 * HOUR, "receiving"),
        (HOUR + MINUTE, 0 * HOUR, "silent"),
        (3 * HOUR, 2 * HOUR, "receiving"),
        (5 * HOUR, 2 * HOUR, "silent"),
        (2 * DAY, DAY, "quiet"),
        (3 * DAY, DAY, "silent"),
    ],
)
def test_a_source_is_silent_when_it_usually_is_not(received: timedelta, longest_gap: timedelta, state: str) -> None:
    activity = SourceActivity("vod", NOW - 30 * DAY, NOW - received, None, 0, longest_gap)
    assert judge(activity, NOW)[0] == state
    new = SourceActivity("vod", NOW - received - 6 * DAY, NOW - received, None, 0, longest_gap)
    assert judge(new, NOW)[0] in ("receiving", "quiet")


async def test_every_configured_source_is_told_of(operators: Operators, tmp_path: Path) -> None:
    queue = {
        "product": "mts",
        "transport": "mns-queue",
        "endpoint": "https://1234567890123456.mns.cn-hangzhou.aliyuncs.com",
        "queue": "mts-done",
    }
    vendor = {"access_key_id": "id", "access_key_secret": "secret", "region": "cn-hangzhou"}
    tables = make_tables(tmp_path, {}, {"sources.mts-queue": queue, "vendor.main": vendor})
    operators.sources.update(build_settings(tables, environ={}).sources)
    await operators.inbox.note_sources(dict.fromkeys(["vod", "ims", "mts", "mts-queue", "removed"], "a"))
    operators.now += 2 * HOUR
    await operators.inbox.note_activity([SourceNews("vod", 1, 0), SourceNews("ims", 0, 12)])
    operators.now += MINUTE
    found = {source["name"]: source for source in (await operators.get("/v1/sources"))["sources"]}
    assert {name: source["state"] for name, source in found.items()} == {
        "vod": "receiving",
        "ims": "refusing",
        "mts": "quiet_since_change",
        # Nobody has noted it yet.
        "gif": "new",
        # It refuses nothing, and may be quiet.
        "mts-queue": "quiet_since_change",
    }
    assert found["ims"]["refused_since"] == 12
    assert found["ims"]["received_at"] is None
    assert found["mts-queue"]["transport"] == "mns-queue"


def refused(number: int = 1, **changes: Any) -> RefusedRow:
    request = {"method": "POST", "target": "/callbacks/vod", "headers": [], "body": "<b>\u202e", "body_bytes": 9}
    document = json.dumps({"request": request | {"is_whole": True}, "explanation": None})
    columns: dict[str, Any] = {
        "source": "vod",
        "status": 401,
        "reason": "signature_mismatch",
        "cause": "",
        "detail": str(number),
        "job_id": None,
    }
    return RefusedRow(refused_at=NOW, **{"document": document} | columns | changes)


async def test_what_was_refused_is_listed_from_new_to_old_by_pages(operators: Operators) -> None:
    await operators.inbox.keep_refused([refused(number, source="vod" if number % 2 else "none") for number in range(6)])
    page = await operators.get("/v1/refused", limit="2")
    assert [one["detail"] for one in page["refused"]] == ["5", "4"]
    page = await operators.get("/v1/refused", limit="2", cursor=page["cursor"])
    assert [one["detail"] for one in page["refused"]] == ["3", "2"]
    assert [one["detail"] for one in (await operators.get("/v1/refused", source="none"))["refused"]] == ["4", "2", "0"]
    assert (await operators.get("/v1/refused", cause="key_case"))["refused"] == []
    assert set(page["refused"][0]) == {"id", "refused_at", "source", "status", "reason", "cause", "detail", "job_id"}


async def test_what_was_refused_is_found_by_what_stands_in_it(operators: Operators) -> None:
    documents = [json.dumps({"request": {"body": f'{{"JobId":"job-{number}"}}'}}) for number in range(3)]
    await operators.inbox.keep_refused([refused(document=document, job_id="x") for document in documents])
    (found,) = (await operators.get("/v1/refused", text="job-1"))["refused"]
    assert (found["id"], found["job_id"]) == (2, "x")
    assert (await operators.ask("GET", "/v1/refused", params={"text": "a\0"})).status_code == 400


async def test_what_was_refused_is_shown_as_it_is_kept(operators: Operators) -> None:
    await operators.inbox.keep_refused([refused(cause="key_case")])
    (one,) = (await operators.get("/v1/refused"))["refused"]
    shown = await operators.get(f"/v1/refused/{one['id']}")
    assert shown == one | {"request": shown["request"], "explanation": None, "afterwards": shown["afterwards"]}
    assert shown["request"]["body"] == "<b>\u202e"
    answer = await operators.ask("GET", f"/v1/refused/{one['id']}")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("source", "job_id", "kind", "told"),
    [
        (
            "none",
            "job-1",
            "snapshot",
            ["Who has sent it is not known.", "has ended since: media-callbacks jobs show job-1"],
        ),
        ("vod", None, "snapshot", ["twice more within seconds", "look whether its job has ended since."]),
        ("mts", "job-1", "snapshot", ["as its subscription says", "media-callbacks jobs show job-1"]),
        ("mts", "job-1", "transcode", ["as its subscription says", "jobs expect mts transcode job-1"]),
        ("mts", "--url=x", "transcode", ["as its subscription says", "look whether its job has ended since."]),
        ("vod", "a", "animated_image", ["within seconds", "expect vod animated_image a --account=b --media-id='; m'"]),
        ("gif", "a; b", "animated_image", ["in no document", "jobs expect multimediaai animated_image 'a; b'"]),
    ],
)
async def test_what_becomes_of_the_job_is_told(
    operators: Operators, source: str, job_id: str | None, kind: str, told: list[str]
) -> None:
    tables = make_tables(Path("unused"), {}, {"sources.vod.account": "b"})
    operators.sources.update(build_settings(tables, environ={}).sources)
    explanation = {"events": [{"data": {"job_id": job_id, "kind": kind, "media_id": "; m"}}]}
    document = json.dumps({"request": {}, "explanation": explanation})
    await operators.inbox.keep_refused([refused(source=source, job_id=job_id, document=document)])
    afterwards = (await operators.get("/v1/refused/1"))["afterwards"]
    assert "can't be taken later" in afterwards[1]
    assert told[0] in afterwards[0]
    assert afterwards[-1].endswith(told[1])


@pytest.mark.parametrize("refused_id", ["0", "7", "x", "-1", "1.0", "\u0661", "9" * 19, "9" * 5000])
async def test_a_number_that_nothing_has_is_not_found(operators: Operators, refused_id: str) -> None:
    assert (await operators.ask("GET", f"/v1/refused/{refused_id}")).status_code == 404
