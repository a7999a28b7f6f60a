"""Who is woken by refusals asks the running service why, and needs to have captured nothing."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from media_callbacks.admin.models.answers import RefusedDetail
from media_callbacks.commands.console.admin_client import URL_VARIABLE
from media_callbacks.commands.refused import refused_lines
from tests.factories.fake_admin import fake_admin, run_command
from tests.factories.running import (
    SECRETS,
    SOURCES,
    Running,
    build_payload,
    encode_request,
    make_source,
    run_service,
    sign,
)

JOB = "3af7e9705cb24c0f9d23231d4c371900"


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    async with run_service(tmp_path) as running:
        monkeypatch.setenv(URL_VARIABLE, f"http://{running.admin_address}")
        yield running


async def kept(running: Running, **wanted: str) -> list[Any]:
    """What the API lists, as soon as there is something."""
    query = "&".join(f"{name}={quote(value)}" for name, value in wanted.items())
    found: list[Any] = []
    while not found:
        running.service.activity.wake()
        found = json.loads((await running.get(f"/v1/refused?{query}", admin=True)).body)["refused"]
    return found


async def shown(running: Running, **wanted: str) -> Any:
    (one, *_) = await kept(running, **wanted)
    return json.loads((await running.get(f"/v1/refused/{one['id']}", admin=True)).body)


def wrongly_signed(running: Running, url: str = "http://cb.example.com/callbacks/vod") -> Any:
    settings = running.settings
    source = make_source("vod", settings)
    table = settings.sources["vod"].model_copy(update={"url": (url,)})
    other = settings.model_copy(update={"sources": dict(settings.sources) | {"vod": table}})
    return sign(make_source("vod", other), build_payload(source, JOB), job_id=JOB)


async def test_why_the_last_one_was_refused_is_one_command(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_command("explain", "--last-refused") == 0
    assert "no request was refused" in capsys.readouterr().err
    assert (await running.send(wrongly_signed(running))).status == 403
    await kept(running)
    assert await run_command("explain", "--last-refused", "--source", "ims") == 0
    assert "of source ims" in capsys.readouterr().err
    assert await run_command("explain", "--last-refused", "--source", "vod") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("refused at ")
    assert lines[0].endswith("answered with 403 (signature_mismatch)")
    # What to do stands on the first screen.
    assert any("url_scheme" in line for line in lines[:7])
    assert any(line.strip().startswith("do: add that url to sources.vod.url") for line in lines[:7])
    # Of which job it is, and what it says.
    assert f"job     {JOB}, as it says itself" in lines
    assert any('"EventType":' in line and JOB in line for line in lines)
    assert await run_command("explain", "--last-refused", "--json") == 1
    assert json.loads(capsys.readouterr().out)["cause"] == "url_scheme"


async def test_one_of_those_that_were_refused_is_found_by_its_job(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    await running.send(wrongly_signed(running))
    (one,) = await kept(running)
    await running.send(encode_request("POST", "/elsewhere", [], b"{}"))
    await kept(running, source="none")
    assert await run_command("explain", "--last-refused") == 1
    assert "source  none" in capsys.readouterr().out
    assert await run_command("explain", "--last-refused", "--text", JOB) == 1
    assert f"job     {JOB}" in capsys.readouterr().out
    assert await run_command("explain", "--last-refused", "--text", "x\x1b[2J", "--source", "vod") == 0
    assert "no request of source vod with the text x\\x1b[2J was refused" in capsys.readouterr().err
    assert await run_command("jobs", "show", JOB) == 1
    assert f"media-callbacks refused show {one['id']}" in capsys.readouterr().err
    assert await run_command("refused", "show", str(one["id"])) == 0
    assert f"job     {JOB}" in capsys.readouterr().out


async def test_a_file_and_the_last_refused_are_not_both_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_command("explain", "--last-refused", "request.txt") == 2
    assert await run_command("explain", "request.txt", "--text", "x") == 2
    assert "--text: only together with --last-refused" in capsys.readouterr().err
    assert await run_command("explain") == 2
    assert "expected FILE" in capsys.readouterr().err


async def test_what_is_refused_before_its_body_is_kept_all_the_same(running: Running) -> None:
    data = b"POST /callbacks/vod HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n{"
    assert (await running.send(data)).status == 413
    document = await shown(running, reason="body_too_large")
    assert document["request"]["is_whole"] is False
    assert document["explanation"] is None


@pytest.mark.parametrize("name", SOURCES)
async def test_nothing_that_is_kept_can_be_sent_again(running: Running, name: str) -> None:
    """A genuine request, refused for its method, has all that would let it in."""
    source = make_source(name, running.settings)
    request = sign(source, build_payload(source, JOB), job_id=JOB)
    assert (await running.send(replace(request, method="PATCH"))).status == 405
    document = await shown(running, source=name)
    text = json.dumps(document) + "\n".join(line for line, _ in refused_lines(RefusedDetail.model_validate(document)))
    for secret in SECRETS:
        assert secret not in text
    told = document["request"]
    headers = [(header.encode(), value.encode()) for header, value in told["headers"]]
    headers = [header for header in headers if header[0] not in (b"host", b"content-length")]
    again = encode_request("POST", quote(told["target"], safe="/?&=%"), headers, told["body"].encode())
    assert (await running.send(again)).status >= 400
    # It is what is left out that would have let it in.
    assert (await running.send(request)).status < 300


async def test_a_source_that_refuses_everything_says_so(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        await running.send(wrongly_signed(running))
    states: dict[str, str] = {}
    while states.get("vod") != "refusing":
        running.service.activity.wake()
        assert await run_command("sources", "list") == 0
        rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        states = {name: state for name, _, _, state, *_ in rows}
    assert states == {"vod": "refusing", "ims": "new", "mts": "new", "gif": "new"}
    assert "explain --last-refused --source vod" in rows[0][-1]
    source = make_source("vod", running.settings)
    assert (await running.send(sign(source, build_payload(source, JOB), job_id=JOB))).status == 200
    while states["vod"] != "receiving":
        running.service.activity.wake()
        assert await run_command("sources", "list", "--json") == 0
        found = map(json.loads, capsys.readouterr().out.splitlines())
        states = {document["name"]: document["state"] for document in found}


async def test_while_the_store_is_away_callbacks_are_refused_and_nothing_else_happens(running: Running) -> None:
    source = make_source("vod", running.settings)
    request = sign(source, build_payload(source, JOB), job_id=JOB)
    async with running.failing_store("query_only = 1", "query_only = 0"):
        assert (await running.send(request)).status == 503
        running.service.activity.wake()
        await running.until(lambda: any(line["event"] == "activity_not_noted" for line in running.logs))
    assert (await running.send(request)).status == 200
    await running.send(wrongly_signed(running))
    assert {one["reason"] for one in await kept(running, reason="signature_mismatch")} == {"signature_mismatch"}


async def test_whatever_a_request_holds_a_terminal_is_not_steered(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "\x1b[2J\u202e<script>[red]\u0000"
    item = {
        "id": 1,
        "refused_at": "2026-01-02T03:04:05Z",
        "source": "vod",
        "status": 403,
        "reason": "signature_mismatch",
        "cause": "",
        "detail": nasty,
        "job_id": nasty,
    }
    step = {"name": nasty, "status": nasty, "expected": nasty, "came": nasty, "lines": [nasty]}
    finding = {"cause": nasty, "text": nasty, "remedy": nasty}
    request = {"method": nasty, "target": nasty, "headers": [[nasty, nasty]], "body": nasty, "body_bytes": 1}
    explanation = {"notes": [nasty], "findings": [finding], "steps": [step], "events": []}
    async with fake_admin() as admin:
        admin.answers["GET /v1/refused"] = {"refused": [item], "cursor": None}
        admin.answers["GET /v1/refused/1"] = item | {
            "request": request | {"is_whole": True},
            "explanation": explanation,
            "afterwards": [nasty],
        }
        assert await admin.run("explain", "--last-refused") == 1
    out = capsys.readouterr().out
    assert "<script>[red]" in out
    assert all(character.isprintable() or character == "\n" for character in out)
