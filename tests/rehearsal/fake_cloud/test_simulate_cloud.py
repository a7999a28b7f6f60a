"""``media-callbacks simulate cloud``."""

import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

from media_callbacks.__main__ import build_parser, main
from media_callbacks.assembly.sinks import build_sinks
from media_callbacks.commands.simulate import cloud as command
from media_callbacks.commands.simulate.cloud import build_cloud, describe, serve
from media_callbacks.config.settings import load_settings
from media_callbacks.rehearsal.fake_cloud.cloud import DEFAULT_KEYS
from media_callbacks.rehearsal.fake_cloud.faults import RATES
from media_callbacks.sinks.base import Checked

CONFIGURATION = """
[store]
url = "sqlite:///unused.db"

[sources.vod]
product = "vod"
transport = "http"
path = "/callbacks/vod"
url = "https://cb.example.com/callbacks/vod"
keys = ["vod-key-1f6c0a52"]

[sources.mts-queue]
product = "mts"
transport = "mns-queue"
endpoint = "http://127.0.0.1:8090"
queue = "mts-done"
vendor = "main"

[vendor.main]
region = "cn-shanghai"
"""
KEYS = """
access_key_id = "configured-id"
access_key_secret = "configured-secret"
"""
SINKS = """
[sinks.mns]
kind = "mns-queue"
endpoint = "https://1.mns.cn-shanghai.aliyuncs.com"
queue = "media"

[sinks.done]
kind = "mns-topic"
endpoint = "https://1.mns.cn-shanghai.aliyuncs.com"
topic = "media-done"

[sinks.bus]
kind = "aliyun-eventbridge"
endpoint = "https://1.eventbridge.cn-shanghai.aliyuncs.com"
event_bus = "media"
"""
PUSH = """
[sources.mts]
product = "mts"
transport = "mns-push"
path = "/callbacks/mts/5f0c9d6e3ab14477"
topics = ["1234567890123456/mts-done"]
regions = ["cn-hangzhou"]
"""


@pytest.fixture
def configuration(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path(tmp_path, "mc.toml")
    path.write_text(CONFIGURATION)
    return path


def make_cloud(path: Path, *options: str):
    arguments = build_parser().parse_args(["simulate", "cloud", "--config", str(path), *options])
    return build_cloud(arguments, load_settings(str(path), environ={}), None)


def test_every_fault_has_an_option(configuration):
    rates = {name: (number + 1) / 100 for number, name in enumerate(RATES)}
    options = [text for name, rate in rates.items() for text in (f"--{name.replace('_', '-')}", str(rate))]
    cloud = make_cloud(configuration, *options, "--seed", "7", "--duration", "0.2", "--to", "http://127.0.0.1:9")
    assert {name: getattr(cloud.faults, name) for name in RATES} == rates
    assert (cloud.timing.duration_s, cloud.teller.to) == ((0.2, 0.2), "http://127.0.0.1:9")


async def test_it_says_where_to_point_the_configuration_and_what_it_did(configuration):
    cloud, stop, said = make_cloud(configuration), asyncio.Event(), []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("endpoint = "):
            cloud.submit("mts", "snapshot")
            stop.set()

    await serve(cloud, 0, stop, say)
    exports = [line for line in said if line.startswith("export ")]
    tables = tomllib.loads("\n".join(line for line in said[:-1] if line not in exports))
    # The same for a shell, over the configuration that is there.
    environ = dict(word.split("=", 1) for line in exports for word in shlex.split(line)[1:])
    settings = load_settings(str(configuration), environ=environ)
    assert settings.vendor["main"].endpoints == tables["vendor"]["main"]["endpoints"]
    assert getattr(settings.sources["mts-queue"], "endpoint") == cloud.url  # noqa: B009 - of queues alone
    # And for the SDK, as tests/rehearsal/fake_cloud/test_sdks.py has it.
    assert f'endpoint="{cloud.url.removeprefix("http://")}", protocol="http"' in said[-2]
    assert tables["vendor"]["main"]["endpoints"] == dict.fromkeys(("vod", "ice", "mts", "multimediaai"), cloud.url)
    assert tables["sources"] == {"mts-queue": {"endpoint": cloud.url}}
    assert said[-1] == "1 jobs, 0 of them told about"


async def test_it_has_what_the_sinks_send_to_and_says_where_that_is(configuration):
    configuration.write_text(CONFIGURATION + SINKS)
    cloud = make_cloud(configuration)
    async with cloud.running():
        lines = describe(cloud)
        environ = dict(word.split("=", 1) for line in lines if line[:7] == "export " for word in shlex.split(line)[1:])
        settings = load_settings(str(configuration), environ=environ)
        tables = tomllib.loads("\n".join(line for line in lines if not line.startswith("export ")))
        assert tables["sinks"] == {name: {"endpoint": cloud.url} for name in ("mns", "done", "bus")}
        sinks = build_sinks(settings.sinks, settings.vendor)
        found = [result for sink in sinks if isinstance(sink, Checked) for result in await sink.check(())]
    assert [result.severity for result in found] == ["ok"] * 3
    assert f"# what was put on buses: curl {cloud.url}/_cloud/buses" in lines


def test_credentials(configuration):
    assert make_cloud(configuration).access_keys == DEFAULT_KEYS
    assert 'access_key_secret = "fake-access-key-secret"' in describe(make_cloud(configuration))
    given = make_cloud(configuration, "--access-key-id", "given", "--secret", "given-secret")
    assert {name: key.secret for name, key in given.access_keys.items()} == {"given": "given-secret"}
    configuration.write_text(CONFIGURATION + KEYS)
    cloud = make_cloud(configuration)
    assert {name: key.secret for name, key in cloud.access_keys.items()} == {"configured-id": "configured-secret"}
    # What is configured is a secret, and is there already.
    assert "configured-secret" not in "".join(describe(cloud))


def test_without_a_vendor_table_a_whole_one_is_shown(configuration):
    configuration.write_text(CONFIGURATION.partition("[sources.mts-queue]")[0])
    lines = describe(make_cloud(configuration))
    assert lines[lines.index("[vendor.main]") + 3] == 'region = "cn-shanghai"'


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["cloud", "--loss", "7"], 2, "--loss: expected a rate from 0 to 1, came 7.0"),
        (["cloud", "--server-errors", "-1"], 2, "--server-errors: expected a rate from 0 to 1, came -1.0"),
        (["cloud", "--secret", "x"], 2, "--access-key-id and --secret: expected both or neither"),
        (["cloud", "DynamicImageComplete"], 2, "expected no EVENT and no --list together with cloud"),
        (["cloud", "--list"], 2, "expected no EVENT and no --list together with cloud"),
        (["vod", "--loss", "0.1"], 2, "--loss: expected together with cloud alone"),
        (["vod", "--access-key-id", "x"], 2, "--access-key-id: expected together with cloud alone"),
    ],
)
def test_wrong_usage(configuration, capsys, options, code, message):
    assert main(["simulate", *options, "--config", str(configuration)]) == code
    assert message in capsys.readouterr().err


def test_pushes_need_a_key_which_can_be_made(configuration, capsys):
    configuration.write_text(CONFIGURATION + PUSH)
    assert main(["simulate", "cloud", "--config", str(configuration)]) == 2
    assert "--make-signing-key" in capsys.readouterr().err
    assert main(["simulate", "cloud", "--make-signing-key", "--config", str(configuration)]) == 0
    _, name, value = re.split("[ =]", capsys.readouterr().out.splitlines()[1], maxsplit=2)
    seen = []

    def run(_arguments, _settings, signer):
        seen.append(signer)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run", run)
        patch.setenv(name, *shlex.split(value))
        assert main(["simulate", "cloud", "--config", str(configuration)]) == 0
    assert seen[0] is not None


def test_it_runs_until_it_is_stopped(configuration):
    command = [
        sys.executable,
        "-m",
        "media_callbacks",
        "simulate",
        "cloud",
        "--config",
        str(configuration),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            url = next(word for word in first.split() if word.startswith("http://"))
            with urllib.request.urlopen(f"{url}/_cloud/jobs") as reply:
                assert json.load(reply) == []
        finally:
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert (process.returncode, rest.splitlines()[-1]) == (0, "0 jobs, 0 of them told about")
