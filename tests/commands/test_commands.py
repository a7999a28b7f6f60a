"""The commands, as an operator types them."""

import argparse
import asyncio
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from media_callbacks.__main__ import COMMANDS, build_parser, main
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.settings import build_settings
from media_callbacks.model.errors import ExpiredToken
from media_callbacks.rehearsal.simulate import PAYLOADS
from media_callbacks.sinks.webhook import fixed_headers
from media_callbacks.sources.base import Callback
from media_callbacks.sources.transports.token_url import TokenUrlSource
from media_callbacks.sources.transports.url_tokens import bind_task, read_token
from tests.factories.running import (
    GIF_KEY,
    PATIENCE_S,
    Running,
    make_source,
    make_tables,
    run_service,
    signing_key_pem,
    to_toml,
)

ROOT = Path(__file__).parents[2]
SOURCE_OF = {"vod": "vod", "ims": "ims", "mts": "mts", "multimediaai": "gif"}
MINT = ["--application-id", "app", "--video-url", "https://media.example.com/in.mp4", "--video-name", "holiday"]
EVENTS = [(product, event) for product, events in PAYLOADS.items() for event in events]


def run_command(arguments: Sequence[str]) -> int:
    """The exit code, however it comes about."""
    try:
        return main(arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def run_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "media_callbacks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )


@pytest.fixture
def config(tmp_path):
    """A configuration file, its signing key beside it."""
    path = tmp_path / "config.toml"
    path.write_text(to_toml(make_tables(tmp_path, {"orders": "https://orders.example.com/"})))
    (tmp_path / "key.pem").write_bytes(signing_key_pem())
    return path


# In general


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["serve", "--nonsense"],
        ["serve", "--log-level", "loud"],
        ["demo", "now"],
        ["mint"],
        ["mint", "png"],
        ["mint", "gif"],
        ["simulate"],
        ["simulate", "nonsense"],
        ["simulate", "vod", "--count", "many"],
        ["simulate", "mts", "--format", "YAML"],
        ["simulate", "vod", "NonsenseComplete"],
        ["simulate", "ims", "StreamTranscodeComplete"],
        ["simulate", "vod", "--count", "0"],
        ["simulate", "vod", "--count", "-5"],
        ["simulate", "vod", "--rate", "0"],
        ["simulate", "vod", "--set", "Status"],
        ["simulate", "vod", "--set", "Status.Deep.Path=1"],
        [
            "mint",
            "gif",
            "--application-id",
            "a",
            "--video-url",
            "https://media.example.com/b",
            "--video-name",
            "c",
            "--days",
            "0",
        ],
        [
            "mint",
            "gif",
            "--application-id",
            "a",
            "--video-url",
            "https://media.example.com/b",
            "--video-name",
            "c",
            "--days",
            "366",
        ],
        [
            "mint",
            "gif",
            "--application-id",
            "a",
            "--video-url",
            "https://media.example.com/b",
            "--video-name",
            "c",
            "--days",
            "nan",
        ],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_apart(arguments, config, capsys, monkeypatch):
    monkeypatch.setenv("MEDIA_CALLBACKS_CONFIG", str(config))
    assert run_command(arguments) == 2
    output = capsys.readouterr()
    assert output.err.strip()
    assert not output.out


@pytest.mark.parametrize("command", [*COMMANDS, "mint gif", "events replay", "jobs expect", "sinks pause"])
def test_every_command_has_help(command, capsys):
    assert run_command([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: media-callbacks {command} [-h] " in shown, "and something else"


def every_parser(parser: CommandParser) -> Iterator[CommandParser]:
    parser.load()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from every_parser(below)


def test_every_help_ends_with_examples_that_can_be_pasted(capsys):
    for parser in every_parser(build_parser()):
        assert 1 <= len(parser.examples) <= 3, parser.prog
        for example in parser.examples:
            line = example.removeprefix("source <(").removesuffix(")").removesuffix(" | source")
            program, *arguments = shlex.split(line)
            assert program == "media-callbacks"
            assert line.startswith(parser.prog) or parser.prog == "media-callbacks"
            if arguments[-1] == "--help":
                assert run_command(arguments) == 0
            else:
                build_parser().parse_args(arguments)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            parser.parse_args(["--help"])
        assert capsys.readouterr().out.endswith(f"  {parser.examples[-1]}\n")


def test_the_help_names_every_command(capsys):
    assert run_command(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, text in COMMANDS.items():
        assert f"{name} {text}" in shown


async def test_there_is_one_version_and_everything_says_it(running, capsys):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"media-callbacks {version}\n", "not installed since it was raised?"
    async with aiohttp.ClientSession(f"http://{running.admin_address}") as session:
        async with session.get("/metrics") as response:
            assert f'media_callbacks_build_info{{version="{version}"}} 1' in await response.text()
        async with session.get("/openapi.json") as response:
            assert (await response.json())["info"]["version"] == version
    assert fixed_headers({})["User-Agent"] == f"media-callbacks/{version}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["serve"],
        ["simulate", "vod"],
        ["mint", "gif", "--application-id", "a", "--video-url", "https://media.example.com/b", "--video-name", "c"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_wrong_configuration_is_told_whole(arguments, config, capsys, monkeypatch):
    monkeypatch.setenv("MEDIA_CALLBACKS_CONFIG", str(config))
    monkeypatch.setenv("MEDIA_CALLBACKS__SERVER__PORT", "99999")
    monkeypatch.setenv("MEDIA_CALLBACKS__SOURCES__VOD__KEYS", '["short"]')
    assert run_command(arguments) == 2
    output = capsys.readouterr()
    text = output.out + output.err
    assert "server.port: " in text
    assert "sources.vod.keys[0]: " in text


def test_check_tells_of_traces_that_can_not_be_had(config, capsys, monkeypatch):
    monkeypatch.setenv("MEDIA_CALLBACKS_CONFIG", str(config))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert run_command(["check", "--offline"]) == 2
    assert "error: OTEL_TRACES_EXPORTER: expected otlp or none" in capsys.readouterr().out
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert run_command(["check", "--offline"]) == 0


def test_the_configuration_is_found_where_it_is_expected(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(["check", "--offline"]) == 2
    config.rename(tmp_path / "media-callbacks.toml")
    assert run_command(["check", "--offline"]) == 0
    monkeypatch.setenv("MEDIA_CALLBACKS_CONFIG", str(tmp_path / "none.toml"))
    assert run_command(["check", "--offline"]) == 2
    assert run_command(["check", "--offline", "--config", "media-callbacks.toml"]) == 0
    capsys.readouterr()


def test_a_reader_that_has_seen_enough_is_no_error_to_shout_about(config):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "media_callbacks", "mint", "gif", "--config", str(config), *MINT],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(writing)
    assert result.returncode == 1
    assert result.stderr == b""


# demo


def test_the_demo_shows_every_product_and_ends_by_itself():
    result = run_process("demo")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    for word in ("vod", "ims", "mts", "multimediaai", "animated_image", "a lie", "lost", "all as expected"):
        assert word in result.stdout


def test_the_demo_in_json_can_be_read_by_machines():
    result = run_process("demo", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 18
    assert all(line["as_expected"] for line in lines)
    events = [line["event"]["data"] for line in lines if line["event"]]
    assert [(event["product"], event["verified_by"]) for event in events] == [
        ("vod", "signature"),
        ("ims", "signature"),
        ("mts", "signature"),
        ("multimediaai", "query"),
        ("mts", "query"),
    ]
    assert {line["answer"] for line in lines} == {200, 204, 403, 404, None}
    lies = [line for line in lines if line["sent"].startswith("a lie")]
    assert [(line["answer"], line["event"]) for line in lies] == [(200, None)] * 2


# mint


def read_url(folder: Path, url: str, *, now: datetime | None = None) -> Any:
    """What a service with this configuration thinks of a URL."""
    source = make_source("gif", build_settings(make_tables(folder, {}), environ={}))
    assert isinstance(source, TokenUrlSource)
    prefix, _, token = url.rpartition("/")
    assert prefix == source.url
    callback = Callback("POST", f"{source.path}/{token}".encode(), b"", [], b"")
    message = source.verify(callback, now=now or datetime.now(UTC), public_key=None)
    assert message.meta["nonce"] == read_token(token.encode(), source.keys, now=now or datetime.now(UTC)).nonce.hex()
    return message.meta


def test_a_minted_url_verifies_and_is_tied_to_its_task(config, tmp_path, capsys):
    assert run_command(["mint", "gif", "--config", str(config), *MINT, "--json"]) == 0
    (minted,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    meta = read_url(tmp_path, minted["callback_url"])
    assert meta["nonce"] == minted["nonce"]
    # The name to submit carries the nonce, and the URL is for that name.
    assert minted["video_name"] == f"holiday#{minted['nonce']}"
    bind = bind_task("app", "https://media.example.com/in.mp4", minted["video_name"])
    assert meta["bind"] == bind.hex()
    assert len(minted["callback_url"].encode()) <= 256
    assert GIF_KEY not in json.dumps(minted)


@pytest.mark.parametrize("days", [None, 0.5, 30])
def test_a_minted_url_is_valid_for_seven_days_unless_told_otherwise(config, tmp_path, capsys, days):
    arguments = ["mint", "gif", "--config", str(config), *MINT, "--json"]
    assert run_command([*arguments, *([] if days is None else ["--days", str(days)])]) == 0
    minted = json.loads(capsys.readouterr().out)
    end = datetime.now(UTC) + timedelta(days=days or 7)
    assert abs(datetime.fromisoformat(minted["expires_at"]) - end) < timedelta(minutes=2)
    read_url(tmp_path, minted["callback_url"], now=end - timedelta(minutes=2))
    with pytest.raises(ExpiredToken):
        read_url(tmp_path, minted["callback_url"], now=end + timedelta(minutes=2))


def test_every_minted_url_is_another(config, capsys):
    for _ in range(20):
        assert run_command(["mint", "gif", "--config", str(config), *MINT]) == 0
    lines = capsys.readouterr().out.splitlines()
    urls = [line.split()[1] for line in lines if line.startswith("callback_url")]
    assert len(set(urls)) == 20
    assert [line.split()[0] for line in lines[:4]] == ["callback_url", "nonce", "video_name", "expires_at"]


def test_mint_asks_which_source_where_there_are_several(tmp_path, capsys):
    tables = make_tables(tmp_path, {})
    tables["sources"]["gif-two"] = tables["sources"]["gif"] | {"path": "/callbacks/two"}
    path = tmp_path / "config.toml"
    path.write_text(to_toml(tables))
    arguments = ["mint", "gif", "--config", str(path), *MINT]
    assert run_command(arguments) == 2
    assert "gif, gif-two" in capsys.readouterr().err
    assert run_command([*arguments, "--source", "gif-two"]) == 0
    assert run_command([*arguments, "--source", "vod"]) == 2


# simulate


async def simulate(running: Running, config: Path, *arguments: str) -> int:
    """The command, while the service runs beside it."""
    every = ["simulate", *arguments, "--config", str(config), "--to", f"http://{running.address}"]
    if arguments[0] == "mts":
        every += ["--signing-key", str(config.with_name("key.pem"))]
    return await asyncio.to_thread(run_command, every)


@pytest.mark.parametrize("product, event", EVENTS)
async def test_every_message_can_be_simulated(running, config, product, event, capsys):
    assert await simulate(running, config, product, event, "--json", "--job-id", "4711") == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert line == {"job_id": "4711", "status": 204 if product == "mts" else 200, "error": None}
    await running.receiver.wait_for(1)
    assert [line["state"] for line in running.lines] == ["accepted"]
    assert [line["source"] for line in running.lines] == [SOURCE_OF[product]]


@pytest.mark.parametrize("product", PAYLOADS)
async def test_the_first_known_message_of_a_failed_job(running, config, product, capsys):
    assert await simulate(running, config, product, "--fail") == 0
    (event,) = await running.receiver.wait_for(1)
    assert event["data"]["outcome"] == "failed"
    assert event["data"]["error"]["code"]
    assert event["data"]["vendor_event"] == next(iter(PAYLOADS[product]))


@pytest.mark.parametrize("product", PAYLOADS)
@pytest.mark.parametrize("options", [(), ("--job-id", "4711")], ids=["random", "given"])
async def test_the_job_id_that_is_printed_is_the_events(running, config, product, options, capsys):
    assert await simulate(running, config, product, *options, "--json") == 0
    (event,) = await running.receiver.wait_for(1)
    assert json.loads(capsys.readouterr().out)["job_id"] == event["data"]["job_id"]


@pytest.mark.parametrize("product", PAYLOADS)
async def test_duplicates_are_answered_with_success_and_give_one_event_each(running, config, product, capsys):
    assert await simulate(running, config, product, "--duplicate", "--count", "3", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 6
    assert [line["job_id"] for line in lines[::2]] == [line["job_id"] for line in lines[1::2]]
    assert len({line["job_id"] for line in lines}) == 3
    await running.receiver.wait_for(3)
    assert [line["state"] for line in running.lines] == ["accepted", "duplicate"] * 3


@pytest.mark.parametrize("fault", ["--forge", "--stale"])
@pytest.mark.parametrize("product", PAYLOADS)
async def test_faults_are_refused_which_is_what_is_asked_for(running, config, product, fault, capsys):
    assert await simulate(running, config, product, fault, "--json") == 0
    line = json.loads(capsys.readouterr().out)
    assert line["status"] == (404 if product == "multimediaai" else 403)
    reasons = {
        "--forge": {"signature_mismatch", "unknown_token"},
        "--stale": {"stale", "expired_token"},
    }
    assert {line["reason"] for line in running.lines} <= reasons[fault]
    assert running.rows("SELECT count(*) FROM receipts") == [(0,)]


@pytest.mark.parametrize("push_format", ["XML", "JSON", "SIMPLIFIED"])
async def test_pushes_come_in_every_format(running, config, push_format, capsys):
    assert await simulate(running, config, "mts", "Transcode", "--format", push_format) == 0
    (event,) = await running.receiver.wait_for(1)
    assert event["type"] == "media.transcode.succeeded"
    (meta,) = running.rows("SELECT meta FROM receipts")[0]
    assert json.loads(meta)["format"].upper() == push_format


async def test_any_field_can_be_overwritten(running, config, capsys):
    overrides = ["StreamInfos.0.Height=99", "StreamInfos.0.FileUrl=http://x/y.mp4", 'Extend={"a": 1}', "VideoId=v=1"]
    arguments = [argument for override in overrides for argument in ("--set", override)]
    assert await simulate(running, config, "vod", "TranscodeComplete", *arguments) == 0
    events = {event["data"]["kind"]: event["data"] for event in await running.receiver.wait_for(2)}
    assert events["transcode"]["outputs"][0]["height"] == 99
    assert events["transcode"]["outputs"][0]["url"] == "http://x/y.mp4"
    assert events["transcode_task"]["media_id"] == "v=1"
    assert json.loads(events["transcode_task"]["user_data"]) == {"a": 1}


async def test_jobs_can_be_sent_at_a_rate(running, config, capsys):
    assert await simulate(running, config, "vod", "--count", "25", "--rate", "1000") == 0
    # In a pipe a line for each, its cells separated by tabs.
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert [answer for _, answer in rows] == ["200"] * 25
    assert said.err == "25 sent: 25 answered 200\n"
    await running.receiver.wait_for(25)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
async def test_answers_are_told_as_they_come_and_counted_when_it_is_interrupted(running, config, form):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "media_callbacks", "simulate", "vod", "--count", "1000000", "--rate", "0.001", *form),
        *("--config", str(config), "--to", f"http://{running.address}"),
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        # The next one would come in a quarter of an hour.
        assert b"200" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 130
    assert (out, err) == (b"", b"1 sent: 1 answered 200\n")


async def test_on_a_terminal_answers_are_a_table_at_the_end(running, config, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert await simulate(running, config, "vod", "--count", "25") == 0
    said = capsys.readouterr()
    assert "job id" in said.out
    assert said.out.count(" 200") == 20
    assert said.err.endswith("25 sent: 25 answered 200\n")


async def test_a_field_that_the_message_has_not_is_told(running, config, capsys):
    overrides = ("--set", "Status=success", "--set", "SnapshotInfos.0.Nix=1", "--set", "Nix=1", "--count", "2")
    assert await simulate(running, config, "vod", "SnapshotComplete", *overrides) == 0
    assert capsys.readouterr().err.splitlines() == [
        "--set: the message had no field SnapshotInfos.0.Nix, and has it now",
        "--set: the message had no field Nix, and has it now",
        "2 sent: 2 answered 200",
    ]


def test_messages_are_listed_as_a_table_on_a_terminal_alone(capsys, monkeypatch):
    assert run_command(["simulate", "vod", "--list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [event for event, _ in rows] == list(PAYLOADS["vod"])
    assert run_command(["simulate", "vod", "--list", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == list(PAYLOADS["vod"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run_command(["simulate", "vod", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "event " in shown
    assert "\t" not in shown


async def test_a_service_that_does_not_answer_is_an_error(running, config, capsys):
    running.stop.set()
    await running.ended
    assert await simulate(running, config, "vod", "--json") == 1
    line = json.loads(capsys.readouterr().out)
    assert line["status"] is None
    assert line["error"] == f"nothing listens on {running.address}"
    assert await simulate(running, config, "vod") == 1
    said = capsys.readouterr()
    assert said.out.endswith(f"\tnothing listens on {running.address}\n")
    assert said.err == "is the service running, and does it listen there? Another address: --to\n"


async def test_what_a_refusal_means_is_told(tmp_path, config, capsys):
    (tmp_path / "other").mkdir()
    changes = {"sources.vod.path": "/callbacks/elsewhere", "admin.token": "admin-token-40aa21c7"}
    async with run_service(tmp_path / "other", changes=changes) as running:
        for address, said in (
            (running.address, "404: nothing is configured at that path"),
            (running.admin_address, "401: nobody asks for a token where callbacks go"),
        ):
            arguments = ["simulate", "vod", "--config", str(config), "--to", f"http://{address}"]
            assert await asyncio.to_thread(run_command, arguments) == 1
            assert capsys.readouterr().err.startswith(said)


async def test_a_service_with_other_keys_is_an_error(tmp_path, config, capsys):
    (tmp_path / "other").mkdir()
    changes = {"sources.vod.keys": ["quite-another-key-31ff"]}
    async with run_service(tmp_path / "other", changes=changes) as running:
        assert await simulate(running, config, "vod") == 1
        output = capsys.readouterr()
        assert "403" in output.out
        assert output.err.startswith("403: signed otherwise than the service expects")


# The signing key of rehearsals


async def test_a_signing_key_is_made_pinned_and_used(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "media-callbacks.toml"
    config.write_text(to_toml(make_tables(tmp_path, {})))
    assert await asyncio.to_thread(run_command, ["simulate", "mts", "--make-signing-key"]) == 0
    key = tmp_path / "mns-simulator.key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    comment, line = capsys.readouterr().out.splitlines()
    assert comment.startswith("# ")
    _, name, pinned_text = re.split("[ =]", line, maxsplit=2)
    (pinned_json,) = shlex.split(pinned_text)
    pinned = json.loads(pinned_json)
    monkeypatch.setenv(name, pinned_json)
    assert await asyncio.to_thread(run_command, ["check", "--offline"]) == 0
    assert "sources.mts.certificates: one of them is of a rehearsal" in capsys.readouterr().out
    async with run_service(tmp_path, changes={"sources.mts.certificates": pinned}) as running:
        arguments = ["simulate", "mts", "--to", f"http://{running.address}"]
        assert await asyncio.to_thread(run_command, arguments) == 0
        await running.receiver.wait_for(1)
    # It is not made over.
    before = key.read_bytes()
    assert await asyncio.to_thread(run_command, ["simulate", "mts", "--make-signing-key"]) == 2
    assert key.read_bytes() == before
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"no key", b"another key"], ids=["missing", "nonsense", "another"])
def test_a_signing_key_that_will_not_do_is_told_with_its_remedy(config, tmp_path, capsys, content):
    path = tmp_path / "other.pem"
    if content == b"another key":
        assert (
            run_command(["simulate", "mts", "--config", str(config), "--signing-key", str(path), "--make-signing-key"])
            == 0
        )
    elif content is not None:
        path.write_bytes(content)
    capsys.readouterr()
    assert run_command(["simulate", "mts", "--config", str(config), "--signing-key", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("--signing-key: ")
    assert "--make-signing-key" in error


def test_simulate_asks_which_source_where_there_are_several(tmp_path, capsys):
    tables = make_tables(tmp_path, {})
    tables["sources"]["vod-two"] = tables["sources"]["vod"] | {"path": "/callbacks/two"}
    path = tmp_path / "config.toml"
    path.write_text(to_toml(tables))
    assert run_command(["simulate", "vod", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert "vod" in error
    assert "vod-two" in error
