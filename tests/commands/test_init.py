"""``media-callbacks init``: files that work, and secrets that nobody else reads."""

import ast
import asyncio
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from media_callbacks.__main__ import main
from media_callbacks.commands.init import CONFIG_FILE, ENVIRONMENT_FILE
from media_callbacks.config.settings import load_settings
from media_callbacks.process.server import serve
from tests.commands.test_commands import run_command

URL = ("--url", "https://cb.example.com/media")
TOPIC = ("--topic", "1234567890123456/mts-done")
QUEUE = ("--queue", "https://1234567890123456.mns.cn-shanghai.aliyuncs.com/queues/vod-done")

MNS = "https://1234567890123456.mns.cn-shanghai.aliyuncs.com"
MNS_SINKS = ("--sink", f"mns-queue:{MNS}/queues/media", "--sink", f"mns-topic:{MNS}/topics/media")
EVENTBRIDGE = "https://1234567890123456.eventbridge.cn-shanghai.aliyuncs.com/media"


def read_environment(folder: Path) -> dict[str, str]:
    """As a shell has it."""
    script = (
        f"set -a; . {folder / ENVIRONMENT_FILE}; set +a; exec {sys.executable} -c 'import os; print(dict(os.environ))'"
    )
    found = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    environ: dict[str, str] = ast.literal_eval(found.stdout)
    return environ


@pytest.mark.parametrize(
    "options",
    [
        ("--product", "vod", *URL, "--sink", "stdout"),
        ("--product", "ims", *URL, "--sink", "webhook:https://orders.example.com/media"),
        ("--product", "mts", *URL, *TOPIC, "--sink", "stdout"),
        ("--product", "multimediaai", *URL, "--yes"),
        ("--product", "vod", "--transport", "mns-queue", *QUEUE, "--yes"),
        ("--product", "vod", "--product", "mts", *URL, *TOPIC, "--sink", "sqs:https://sqs.eu-west-1.amazonaws.com/1/m"),
        ("--product", "vod", *URL, "--sink", "kafka:kafka.example.com:9093"),
        ("--product", "vod", *URL, "--sink", "nats:tls://nats.example.com:4222"),
        ("--product", "vod", *URL, "--sink", "rabbitmq:amqps://rabbitmq.example.com:5671"),
        ("--product", "vod", *URL, *MNS_SINKS, "--sink", f"aliyun-eventbridge:{EVENTBRIDGE}"),
        ("--product", "vod", "--transport", "mns-queue", *QUEUE, *MNS_SINKS),
        ("--product", "vod", *URL, "--sink", "stdout", "--store", "postgresql://mc:it's@db/mc"),
        (
            "--product",
            "vod",
            *URL,
            "--sink",
            "webhook:https://a.example.com/",
            "--sink",
            "webhook:https://b.example.com/",
        ),
    ],
    ids=" ".join,
)
def test_what_is_written_is_right_and_holds_its_secrets_apart(tmp_path, capsys, options):
    assert main(["init", "--dir", str(tmp_path), *options]) == 0
    said = capsys.readouterr().out
    config, environment = tmp_path / CONFIG_FILE, tmp_path / ENVIRONMENT_FILE
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    environ = read_environment(tmp_path)
    settings = load_settings(config, environ=environ)
    assert settings.warnings == ()
    secrets = [line.partition("=")[2].strip("'") for line in environment.read_text().splitlines()[1:]]
    assert len(set(secrets)) == len(secrets) >= 2
    assert not [secret for secret in secrets if secret in config.read_text()]
    assert "warning" not in said
    for source in settings.callback_sources.values():
        if source.transport != "token-url":
            assert str(source.url if source.transport == "mns-push" else source.url[0]) in said
        if source.transport == "http":
            assert source.keys[0] in said


@pytest.mark.parametrize(
    "sink, needed",
    [
        ("kafka:kafka.example.com:9093", "Kafka has a topic media"),
        ("nats:tls://nats.example.com:4222", "NATS has a stream of JetStream that takes the subjects media.>"),
        ("rabbitmq:amqps://rabbitmq.example.com:5671", "RabbitMQ has an exchange media"),
    ],
)
def test_what_a_broker_must_have_is_said(tmp_path, capsys, sink, needed):
    assert main(["init", "--dir", str(tmp_path), "--product", "vod", *URL, "--sink", sink]) == 0
    assert needed in capsys.readouterr().out


async def test_a_service_starts_with_it_and_takes_a_first_callback(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(["init", "--product", "vod", *URL, "--sink", "stdout"]) == 0
    for name, value in read_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEDIA_CALLBACKS__SERVER__PORT", "0")
    monkeypatch.setenv("MEDIA_CALLBACKS__ADMIN__PORT", "0")
    settings = load_settings(environ=dict(os.environ))
    stop, addresses = asyncio.Event(), asyncio.get_running_loop().create_future()
    stop_now = settings.model_copy(update={"server": settings.server.model_copy(update={"drain_s": 0.0})})
    server = asyncio.create_task(serve(stop_now, stop=stop, listening=lambda *found: addresses.set_result(found)))
    await asyncio.wait([server, addresses], return_when=asyncio.FIRST_COMPLETED)
    callbacks, _ = addresses.result()
    assert await asyncio.to_thread(run_command, ["simulate", "vod", "--to", f"http://{callbacks}"]) == 0
    stop.set()
    await server


def test_names_are_those_of_the_documents_and_each_product_is_simulated(tmp_path, capsys):
    products = ("vod", "mts", "multimediaai")
    options = [option for product in products for option in ("--product", product)]
    options += ["--url", "https://cb.example.com/media/callbacks/", *TOPIC, "--region", "cn-shanghai"]
    sinks = ["webhook:https://orders.example.com/media", "webhook:http://localhost:3000/", "stdout"]
    options += [option for sink in sinks for option in ("--sink", sink)]
    assert main(["init", "--dir", str(tmp_path), *options]) == 0
    said = capsys.readouterr().out
    assert [line.split()[2] for line in said.splitlines() if line.startswith("  media-callbacks simulate")] == [
        "mts",
        *products,
    ]
    tables = tomllib.loads((tmp_path / CONFIG_FILE).read_text())
    assert list(tables["sources"]) == ["vod", "mts", "gif"]
    gif = tables["sources"]["gif"]
    assert gif["keys"] == ["1:${GIF_URL_KEY}"]
    # What the URL ends with is not said twice.
    assert (gif["path"], gif["url"]) == ("/media/callbacks/gif", "https://cb.example.com/media/callbacks/gif")
    assert tables["sources"]["mts"]["regions"] == ["cn-shanghai"]
    assert list(tables["sinks"]) == ["orders", "webhook", "stdout"]
    assert tables["sinks"]["orders"]["secrets"] == ["${ORDERS_SECRET}"]


def test_sinks_of_the_vendor_get_credentials_that_may_send(tmp_path, capsys):
    options = ["init", "--dir", str(tmp_path), "--product", "vod", *URL, *MNS_SINKS]
    assert main([*options, "--sink", f"aliyun-eventbridge:{EVENTBRIDGE}"]) == 0
    said = capsys.readouterr().out
    assert "may send (mns:BatchSendMessage) and send (mns:PublishMessage) and send (eventbridge:PutEvents)" in said
    tables = tomllib.loads((tmp_path / CONFIG_FILE).read_text())
    assert tables["vendor"] == {"main": {"region": "cn-shanghai"}}
    assert tables["sinks"] == {
        "mns-queue": {"kind": "mns-queue", "endpoint": MNS, "queue": "media"},
        "mns-topic": {"kind": "mns-topic", "endpoint": MNS, "topic": "media"},
        "aliyun-eventbridge": {
            "kind": "aliyun-eventbridge",
            "endpoint": EVENTBRIDGE.removesuffix("/media"),
            "event_bus": "media",
        },
    }


def test_nothing_is_written_over_unless_told_so(tmp_path, capsys):
    options = ["init", "--dir", str(tmp_path), "--product", "vod", *URL, "--yes"]
    (tmp_path / ENVIRONMENT_FILE).write_text("PRECIOUS=1\n")
    assert run_command(options) == 2
    assert "--force" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [ENVIRONMENT_FILE]
    assert (tmp_path / ENVIRONMENT_FILE).read_text() == "PRECIOUS=1\n"
    (tmp_path / ENVIRONMENT_FILE).chmod(0o644)
    assert run_command([*options, "--force"]) == 0
    assert "PRECIOUS" not in (tmp_path / ENVIRONMENT_FILE).read_text()
    assert stat.S_IMODE((tmp_path / ENVIRONMENT_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "options, told",
    [
        ((), "missing --product: vod, ims, mts, multimediaai; --sink: "),
        (("--product", "vod", "--sink", "stdout"), "missing --url: "),
        (("--product", "mts", "--yes", *URL), "missing --topic: "),
        (("--product", "mts", "--transport", "mns-queue", "--yes"), "missing --queue: the MNS queue of mts"),
        (("--product", "vdo", "--yes"), 'did you mean "vod"?'),
        (("--product", "vod", "--transport", "mns-push", "--yes"), "--transport: expected http or mns-queue for vod"),
        (("--product", "vod", "--yes", "--url", "cb.example.com"), "--url: expected http:// or https://"),
        (("--product", "vod", *URL, "--sink", "webhok:https://a/"), "--sink: expected stdout, webhook:"),
        (("--product", "vod", *URL, "--sink", "webhook"), "--sink: expected stdout, webhook:"),
        (("--product", "vod", *URL, "--sink", "webhook:here"), "sinks.webhook.url: expected an absolute URL"),
        (("--product", "vod", *URL, "--yes", "--store", "mysql://x"), "came one that begins with mysql://"),
        (("--product", "vod", *URL, "--yes", "--store", "mc.db"), "came none that begins with either"),
        (
            ("--product", "vod", *URL, "--yes", "--store", "postgres://media-callbacks.db"),
            "came one without a database; for a file it is sqlite:///file.db",
        ),
        (
            ("--product", "vod", *URL, "--sink", "mns-topic:media"),
            "--sink: expected mns-topic:https://ACCOUNT.mns.REGION",
        ),
        (("--product", "vod", *URL, "--sink", "aliyun-eventbridge:"), "--sink: expected aliyun-eventbridge:https://"),
        (
            (
                "--product",
                "vod",
                *URL,
                *MNS_SINKS,
                "--sink",
                f"mns-queue:{MNS.replace('shanghai', 'beijing')}/queues/m",
            ),
            "--queue and --sink: expected one region, came cn-beijing, cn-shanghai",
        ),
        (("--product", "vod", "--transport", "mns-queue", "--yes", "--queue", "vod"), "--queue: expected https://"),
        (("--product", "mts", *URL, "--yes", "--topic", "mine"), "sources.mts.topics[0]: expected "),
    ],
    ids=str,
)
def test_what_is_missing_or_wrong_is_told_and_nothing_written(tmp_path, capsys, options, told):
    assert run_command(["init", "--dir", str(tmp_path / "new"), *options]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_on_a_terminal_it_asks_for_what_is_left_out(tmp_path, capsys, monkeypatch):
    answers = iter(["", "", "", "https://cb.example.com", "webhook:https://orders.example.com/media"])
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return next(answers)

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run_command(["init", "--dir", str(tmp_path)]) == 0
    tables = tomllib.loads((tmp_path / CONFIG_FILE).read_text())
    assert tables["sources"]["vod"]["transport"] == "http"
    assert tables["sinks"]["orders"]["url"] == "https://orders.example.com/media"
    assert [question.partition(" ")[0] for question in questions] == ["which", "how", "where", "where", "where"]
    # An empty answer to what has no usual one is asked again.
    assert questions[2] == questions[3]
