import asyncio
import getpass
import json
import os
import socket
import subprocess
import sys

import pytest
from aiohttp import web

from media_callbacks.commands.console.admin_client import TOKEN_VARIABLE, URL_VARIABLE
from tests.factories.fake_admin import (
    fake_admin,
    problem,
    run_command,
    sink_item,
)
from tests.factories.running import ADMIN_TOKEN, make_tables, run_service, to_toml


@pytest.fixture
async def admin():
    async with fake_admin() as fake:
        yield fake


SINKS = [
    sink_item("bus", kind="sqs", breaker=None),
    sink_item(
        "orders",
        breaker="half_open",
        deliveries={"retrying": 40, "pending": 2, "dead": 7},
        backlog=42,
        oldest_pending_at="2026-11-20T09:00:00Z",
        oldest_pending_age_s=7500.0,
    ),
    sink_item("old", kind=None, is_configured=False, breaker=None, deliveries={"dead": 1}),
    sink_item("crm", state="paused", reason="their database\x1b[2J [red]is full", changed_by="kim@desk", backlog=1),
]


async def test_what_is_stuck_since_when_and_why_is_one_line_per_sink(admin, capsys):
    admin.answers["GET /v1/sinks"] = {"sinks": SINKS}
    assert await admin.run("sinks", "list") == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["bus", "sqs", "active", "-", "0", "0", "-", "-"],
        ["orders", "webhook", "active", "half-open", "42", "7", "2 h 5 min", "-"],
        ["old", "-", "active", "-", "0", "1", "-", "not configured any more"],
        ["crm", "webhook", "paused", "closed", "1", "0", "-", "their database\\x1b[2J [red]is full, by kim@desk"],
    ]


async def test_why_events_are_stuck_is_what_was_answered_last_and_when_it_is_tried_again(admin, capsys):
    failing = sink_item(
        "orders",
        deliveries={"retrying": 1},
        last_error="answered HTTP 503\x1b[2J",
        last_error_at="2026-11-20T09:00:01.250Z",
        next_attempt_at="2026-11-20T09:30:00Z",
        last_taken_at="2026-11-20T08:59:00Z",
    )
    dead = sink_item("bus", deliveries={"dead": 1}, last_error_at="2026-11-20T09:00:00Z")
    admin.answers["GET /v1/sinks"] = {"sinks": [failing, dead]}
    assert await admin.run("sinks", "list") == 0
    assert [line.split("\t")[7] for line in capsys.readouterr().out.splitlines()] == [
        (
            "answered HTTP 503\\x1b[2J, last 2026-11-20T09:00:01Z; next attempt 2026-11-20T09:30:00Z;"
            " took something last 2026-11-20T08:59:00Z"
        ),
        "not taken, last 2026-11-20T09:00:00Z; nothing taken within a day",
    ]


async def test_json_is_what_the_api_says_one_sink_per_line(admin, capsys):
    admin.answers["GET /v1/sinks"] = {"sinks": SINKS}
    assert await admin.run("sinks", "list", "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == SINKS


async def test_a_terminal_gets_a_table_and_nothing_that_steers_it(admin, capsys, monkeypatch):
    admin.answers["GET /v1/sinks"] = {"sinks": SINKS}
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert await admin.run("sinks", "list") == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("oldest waits", "reason", "half-open", "2 h 5 min"))
    assert "their database\\x1b[2J [red]is full" in out
    assert "\x1b[2J" not in out


@pytest.mark.parametrize("verb, state", [("pause", "paused"), ("resume", "active")])
async def test_pause_and_resume_say_who_and_why(admin, capsys, verb, state):
    record = sink_item("orders", state=state, backlog=1, **({} if verb == "pause" else {"brought_forward": 0}))
    admin.answers[f"POST /v1/sinks/orders/{verb}"] = record
    assert await admin.run("sinks", verb, "orders", "--reason", "moving") == 0
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    assert [asked.document for asked in admin.asked] == [{"reason": "moving", "requested_by": who}]
    then = "1 event waiting for resume" if verb == "pause" else "1 event on the way"
    assert capsys.readouterr().out == f"orders is {state}: {then}\n"

    assert await admin.run("sinks", verb, "orders", "--json") == 0
    assert json.loads(capsys.readouterr().out) == record
    assert admin.asked[-1].document == {"requested_by": who}


@pytest.mark.parametrize("state", ["active", "paused"])
async def test_retry_says_how_much_is_tried_now(admin, capsys, state):
    record = sink_item("orders", state=state, backlog=12, brought_forward=3)
    admin.answers["POST /v1/sinks/orders/retry"] = record
    assert await admin.run("sinks", "retry", "orders") == 0
    waits, when = ("on the way", "now") if state == "active" else ("waiting for resume", "then")
    assert capsys.readouterr().out == f"orders is {state}: 12 events {waits}; 3 brought forward to be tried {when}\n"
    assert await admin.run("sinks", "retry", "orders", "--json") == 0
    assert json.loads(capsys.readouterr().out) == record


async def test_a_user_without_a_name_can_ask_as_well(admin, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    admin.answers["POST /v1/sinks/orders/pause"] = sink_item("orders", state="paused")
    assert await admin.run("sinks", "pause", "orders") == 0
    assert admin.asked[0].document["requested_by"].startswith("unknown@")


@pytest.mark.parametrize("name", ["..", "a/b", "Orders", "a?b", "ö"])
async def test_what_is_no_name_is_wrong_usage_and_never_part_of_an_address(admin, capsys, name):
    assert await admin.run("sinks", "pause", name) == 2
    assert "NAME: expected the name of a sink" in capsys.readouterr().err
    assert admin.asked == []


# Where the API is, and what it may answer


async def test_address_and_token_come_from_option_environment_or_configuration(admin, monkeypatch, tmp_path, capsys):
    admin.answers["GET /v1/sinks"] = {"sinks": []}
    port = int(admin.url.rpartition(":")[2])
    tables = make_tables(tmp_path, {}, {"admin.host": "0.0.0.0", "admin.port": port, "admin.token": ADMIN_TOKEN})
    config, token_file = tmp_path / "config.toml", tmp_path / "token"
    config.write_text(to_toml(tables))
    token_file.write_text("token-of-the-file\n")

    async def token_sent(*arguments: str) -> str | None:
        assert await run_command("sinks", "list", *arguments) == 0, capsys.readouterr().err
        authorization: str | None = admin.asked[-1].authorization
        return authorization

    assert await token_sent("--config", str(config)) == f"Bearer {ADMIN_TOKEN}"
    assert await token_sent("--url", admin.url) is None
    assert await token_sent("--url", admin.url + "/", "--config", str(config)) == f"Bearer {ADMIN_TOKEN}"
    assert await token_sent("--url", admin.url, "--token-file", str(token_file)) == "Bearer token-of-the-file"
    monkeypatch.setenv(URL_VARIABLE, admin.url)
    monkeypatch.setenv("MEDIA_CALLBACKS_CONFIG", str(config))
    assert await token_sent() is None, "the configuration's token is for the configuration's address"
    monkeypatch.setenv(TOKEN_VARIABLE, "token-of-the-environment")
    assert await token_sent() == "Bearer token-of-the-environment"
    assert await token_sent("--config", str(config)) == "Bearer token-of-the-environment"


@pytest.mark.parametrize("host, asked", [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("127.0.0.2", "127.0.0.2")])
async def test_a_service_that_listens_everywhere_is_asked_on_this_machine(tmp_path, capsys, host, asked):
    tables = make_tables(tmp_path, {}, {"admin.host": host, "admin.port": 9})
    (tmp_path / "config.toml").write_text(to_toml(tables))
    assert await run_command("sinks", "list", "--config", str(tmp_path / "config.toml")) == 1
    err = capsys.readouterr().err
    assert f"the admin API can't be reached at http://{asked}:9 (" in err
    assert "the address is from admin.host and admin.port of the configuration" in err


async def test_without_address_and_configuration_it_says_what_to_set(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert await run_command("sinks", "list") == 2
    assert "--url or MEDIA_CALLBACKS_ADMIN_URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--url", "example.com"), "--url: expected http:// or https:// with a host"),
        (
            ("--url", "http://kim:secret@example.com"),
            "--url: expected http:// or https:// with a host, without user name",
        ),
        (
            ("--url", "http://example.com/?a=b"),
            "--url: expected http:// or https:// with a host, without user name, query and fragment",
        ),
        (("--url", "http://127.0.0.1:9", "--token-file", "/does/not/exist"), "cannot read /does/not/exist (No such"),
        (("--url", "http://127.0.0.1:9", "--token-file", "/dev/null"), "--token-file: /dev/null is empty"),
        (("--url", "http://127.0.0.1:9", "--token-file", "a\0b"), "not a text file"),
    ],
)
async def test_wrong_addresses_and_token_files_are_wrong_usage(capsys, arguments, message):
    assert await run_command("sinks", "list", *arguments) == 2
    assert message in capsys.readouterr().err


async def test_a_token_that_is_no_header_is_refused_and_not_shown(capsys, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "geheim\r\nX: ö")
    assert await run_command("sinks", "list", "--url", "http://127.0.0.1:9") == 2
    err = capsys.readouterr().err
    assert "the admin token: expected printable ASCII" in err
    assert "geheim" not in err


@pytest.mark.parametrize(
    "answer, message",
    [
        (problem(401, None), "wants its token (admin.token), and none was given; set one: --token-file or"),
        (problem(403, None), "has no admin.token and so answers on its own machine alone"),
        (
            problem(403, "expected no\x07 Origin"),
            "answers on its own machine alone (expected no\\x07 Origin); run this",
        ),
        (problem(404, "no sink\x1b[2J is called this"), "no sink\\x1b[2J is called this"),
        (
            problem(404, "nothing is here; GET /openapi.json says what there is"),
            "is of another version than this command",
        ),
        (problem(400, None), "Problem"),
        (problem(503, "the store is away"), "can't answer just now (HTTP 503): the store is away"),
        (web.Response(status=502), "can't answer just now (HTTP 502)"),
        (web.Response(status=404, text="<html>"), "HTTP 404: what answers at http://127.0.0.1"),
        (web.Response(status=302, headers={"Location": "/v1/sinks2"}), "a redirect (HTTP 302), which is not followed"),
        (web.Response(text="<html>"), "is not the admin API of media-callbacks; the address is from --url"),
        ({"other": []}, "is not the admin API of media-callbacks"),
        ({"sinks": [1]}, "is not the admin API of media-callbacks"),
        (web.Response(text="[]"), "is not the admin API of media-callbacks"),
        ({"sinks": [{"name": "a"}]}, "otherwise than this version of the command expects (kind, is_configured, state)"),
    ],
)
async def test_whatever_it_answers_is_said_in_a_sentence(admin, capsys, answer, message):
    admin.answers["GET /v1/sinks"] = answer
    assert await admin.run("sinks", "list") == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert len(admin.asked) == 1


async def test_a_wrong_token_is_told_from_a_missing_one(admin, capsys, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "the-wrong-token-1234")
    admin.answers["GET /v1/sinks"] = problem(401, None)
    assert await admin.run("sinks", "list") == 1
    err = capsys.readouterr().err
    assert "this token is not it; set the right one" in err
    assert "the-wrong-token-1234" not in err


async def test_an_api_that_hangs_or_breaks_off_is_an_error(admin, capsys, monkeypatch):
    monkeypatch.setattr("media_callbacks.commands.console.admin_client._TIMEOUT_S", 0.05)

    class Hanging(web.Response):
        async def prepare(self, request):
            await over.wait()
            return await super().prepare(request)

    over = asyncio.Event()
    admin.answers["GET /v1/sinks"] = lambda asked: Hanging()
    assert await admin.run("sinks", "list") == 1
    over.set()
    assert "(no answer within 0.05 s)" in capsys.readouterr().err


async def test_an_answer_that_is_cut_off_is_an_error(capsys):
    async def close(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await run_command("sinks", "list", "--url", f"http://127.0.0.1:{port}") == 1
    assert "can't be reached at" in (err := capsys.readouterr().err)
    assert "(RemoteDisconnected)" in err
    server.close()
    await server.wait_closed()


# The real one


async def test_a_sink_of_the_service_is_paused_and_resumed(tmp_path, capsys):
    async with run_service(tmp_path, changes={"admin.token": ADMIN_TOKEN}) as service:
        token_file = tmp_path / "token"
        token_file.write_text(ADMIN_TOKEN)
        where = ("--url", f"http://{service.admin_address}", "--token-file", str(token_file))
        await service.send(service.build("vod", "job-0"))
        await service.receiver.wait_for(1)

        assert await run_command("sinks", "pause", "orders", "--reason", "moving house", *where) == 0
        assert capsys.readouterr().out == "orders is paused: 0 events waiting for resume\n"
        await service.send(service.build("vod", "job-1"))
        assert await run_command("sinks", "list", *where) == 0
        cells = capsys.readouterr().out.rstrip("\n").split("\t")
        assert cells[:6] == ["orders", "webhook", "paused", "closed", "1", "0"]
        assert cells[6].endswith(" s")
        assert cells[7].startswith("moving house, by ")
        assert len(service.receiver.events) == 1

        assert await run_command("sinks", "resume", "orders", *where) == 0
        assert capsys.readouterr().out.startswith("orders is active: ")
        await service.receiver.wait_for(2)
        assert await run_command("sinks", "pause", "nobody", *where) == 1
        assert capsys.readouterr().err


async def test_the_token_of_the_service_is_needed(tmp_path, capsys):
    async with run_service(tmp_path, changes={"admin.token": ADMIN_TOKEN}) as service:
        assert await run_command("sinks", "list", "--url", f"http://{service.admin_address}") == 1
    assert "wants its token (admin.token), and none was given" in capsys.readouterr().err


def test_a_plain_ascii_pipe_gets_escapes_instead_of_a_crash():
    script = "from media_callbacks.commands.console.output import print_line; print_line('\\u4e2d\\x07')"
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert found.stdout == b"\\u4e2d\\x07\n"
