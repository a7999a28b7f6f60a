"""``media-callbacks check``: what it finds, on this machine and behind loopback servers, and that it changes nothing."""

import asyncio
import json
import logging
import socket
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from media_callbacks.commands.check.machine import try_journal, try_store
from media_callbacks.commands.check.network import (
    Network,
    compare_clocks,
    explain,
    try_address,
    try_aws,
    try_certificate,
)
from media_callbacks.commands.check.probes import _ports as probes_of_ports
from media_callbacks.commands.check.probes import try_out
from media_callbacks.commands.check.vendor import try_api, try_queue
from media_callbacks.config.server import StoreSettings
from media_callbacks.config.settings import build_settings
from media_callbacks.config.sinks import EventBridgeSinkSettings, KinesisSinkSettings, SnsSinkSettings, SqsSinkSettings
from media_callbacks.config.sources import MnsQueueSourceSettings
from media_callbacks.config.vendor import VendorSettings
from media_callbacks.inbox.factory import migrate_store
from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.model.check_results import CheckResult
from media_callbacks.sinks.stdout import StdoutSink
from tests.commands.test_commands import run_command
from tests.edge.test_certificates import LoopbackResolver, client_context, pem, server_context
from tests.factories.running import ADMIN_TOKEN, PATIENCE_S, SECRETS, make_tables, run_service, to_toml

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
NETWORK = Network(clock=lambda: NOW, timeout_s=PATIENCE_S)
QUEUE: dict[str, Any] = {"product": "mts", "transport": "mns-queue", "queue": "mts-done"}
KEYS = {"access_key_id": "LTAI-test-id", "access_key_secret": "test-secret-value", "region": "cn-hangzhou"}
AWS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "aws-secret-value"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback that gives every request to the handler; its port."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, handle_signals=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def refuse(request: web.Request) -> web.StreamResponse:
    raise AssertionError(f"{request.method} {request.path} was sent, expected a connection alone")


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def shape(finding: CheckResult) -> tuple[str, str]:
    assert (finding.remedy is None) == (finding.severity == "ok"), finding
    return finding.severity, finding.subject


# The store


@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_a_store_with_its_schema(tmp_path, auto_migrate):
    await migrate_store(f"sqlite:///{tmp_path}/inbox.db")
    finding = await try_store(StoreSettings(url=f"sqlite:///{tmp_path}/inbox.db", auto_migrate=auto_migrate))
    assert finding == CheckResult("ok", "store.url", "it can be used, and its schema is up to date")


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_store_without_its_schema_is_left_as_it_is(tmp_path, is_there):
    path = tmp_path / "in#box?.db"
    if is_there:
        sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close()
        path.chmod(0o600)
    before = path.read_bytes() if is_there else None
    # Built past the rules for URLs: other characters must not lead to another file.
    settings = StoreSettings.model_construct(url=f"sqlite:///{path}", auto_migrate=True)
    assert shape(await try_store(settings)) == ("ok", "store.url")
    finding = await try_store(settings.model_copy(update={"auto_migrate": False}))
    assert shape(finding) == ("error", "store.auto_migrate")
    assert finding.text.startswith("migrations are missing (")
    assert finding.remedy == "run `media-callbacks migrate`"
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if is_there else [])
    assert (path.read_bytes() if is_there else None) == before


async def test_a_store_of_a_much_later_version(tmp_path):
    await migrate_store(f"sqlite:///{tmp_path}/inbox.db")
    with sqlite3.connect(tmp_path / "inbox.db") as connection:
        connection.execute("INSERT INTO migrations VALUES (998, 'a'), (999, 'b')")
    connection.close()
    finding = await try_store(StoreSettings(url=f"sqlite:///{tmp_path}/inbox.db"))
    assert shape(finding) == ("error", "store.url")
    assert finding.remedy == "install the version that migrated it, or a later one"


@pytest.mark.parametrize("name", ["missing/inbox.db", "text.db", "folder.db"])
async def test_a_file_that_is_no_store(tmp_path, name):
    (tmp_path / "text.db").write_text("not a database, and long enough to have a head" * 50)
    (tmp_path / "folder.db").mkdir()
    assert shape(await try_store(StoreSettings(url=f"sqlite:///{tmp_path}/{name}"))) == ("error", "store.url")


async def test_a_store_that_this_user_may_not_write(tmp_path, monkeypatch):
    # The user of the tests may be root, who may write everything.
    monkeypatch.setattr("os.access", lambda *_: False)
    finding = await try_store(StoreSettings(url=f"sqlite:///{tmp_path}/inbox.db"))
    assert shape(finding) == ("error", "store.url")
    assert finding.text.endswith("can't be written by this user")


async def test_a_postgresql_store(database_url: str) -> None:
    settings = StoreSettings(url=database_url)
    assert "brings its schema up to date" in (await try_store(settings)).text
    finding = await try_store(settings.model_copy(update={"auto_migrate": False}))
    assert shape(finding) == ("error", "store.auto_migrate")
    assert await migrate_store(database_url) == [str(migration) for migration in load_migrations("postgresql")]
    assert (await try_store(settings)).text == "it can be used, and its schema is up to date"


async def test_what_is_needed_of_a_postgresql_is_tried(tmp_path: Path, database_url: str) -> None:
    """The tests' server does not flush."""
    settings = build_settings(make_tables(tmp_path, {}) | {"store": {"url": database_url}}, environ={})
    found = [finding for finding in await try_out(settings, NETWORK) if finding.subject == "store.url"]
    assert shape(found[0]) == ("ok", "store.url")
    assert any(finding.severity == "error" and finding.text.startswith("fsync is off: ") for finding in found)
    assert any(finding.severity == "warning" and "full_page_writes" in finding.text for finding in found)


async def test_a_postgresql_store_that_is_away() -> None:
    finding = await try_store(StoreSettings(url=f"postgresql://user:hidden-word@127.0.0.1:{closed_port()}/db"))
    assert shape(finding) == ("error", "store.url")
    assert "hidden-word" not in str(finding)


# The journal


def test_a_journal_s_directory_is_made_later_or_there(tmp_path):
    for path in (tmp_path, tmp_path / "new"):
        assert try_journal(path, 1 << 20).severity == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_can_t_be_written_or_has_no_room(tmp_path):
    assert shape(try_journal(tmp_path / "a" / "b", 1 << 20)) == ("error", "server.journal_path")
    assert shape(try_journal(tmp_path, 1 << 60)) == ("warning", "server.journal_path")


# Addresses


async def test_a_webhook_gets_a_connection_and_no_request(tmp_path):
    async with serving(refuse) as port:
        finding = await try_address("sinks.a", f"http://127.0.0.1:{port}/secret-path", NETWORK)
    assert finding == CheckResult("ok", "sinks.a", f"127.0.0.1 takes connections on port {port}; no more was tried")
    network = replace(NETWORK, ssl_context=client_context())
    async with serving(refuse, server_context(tmp_path, "localhost")) as port:
        finding = await try_address("sinks.a", f"https://localhost:{port}/secret-path", network)
    text = f"localhost takes connections on port {port} with TLS; no more was tried"
    assert finding == CheckResult("ok", "sinks.a", text)


async def test_why_an_address_can_t_be_used(tmp_path):
    async with serving(refuse, server_context(tmp_path, "localhost")) as port:
        finding = await try_address("sinks.a", f"https://localhost:{port}/secret-path", NETWORK)
    assert "its TLS certificate is not accepted" in finding.text
    async with serving(refuse) as port:
        finding = await try_address("sinks.a", f"https://127.0.0.1:{port}/secret-path", NETWORK)
    assert finding.text == "it hangs up while TLS is agreed on"
    finding = await try_address("sinks.a", f"http://127.0.0.1:{closed_port()}/secret-path", NETWORK)
    assert finding.text == "nothing takes connections there"
    for host in ("nowhere.invalid", "x" * 64 + ".example"):
        finding = await try_address("sinks.a", f"http://{host}/secret-path", NETWORK)
        assert finding.text == "its host name can't be resolved"
        assert shape(finding) == ("error", "sinks.a")


async def test_an_address_that_never_answers_is_given_up_on(tmp_path, loop_clock, monkeypatch):
    """Takes the connection and says nothing, so that TLS is never agreed on."""
    store_tried = asyncio.Event()

    async def try_store_and_tell(settings: StoreSettings) -> CheckResult:
        found = await try_store(settings)
        store_tried.set()
        return found

    monkeypatch.setattr("media_callbacks.commands.check.probes.try_store", try_store_and_tell)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/secret-path"
        tables = make_tables(tmp_path, {"a": url, "b": url})
        settings = build_settings(tables, environ={})
        trying = asyncio.create_task(try_out(settings, replace(NETWORK, timeout_s=3600)))
        await store_tried.wait()
        assert not trying.done()
        loop_clock.skip(3600)
        found = await trying
    assert [shape(finding) for finding in found] == [
        ("ok", "store.url"),
        ("error", "sinks.a"),
        ("error", "sinks.b"),
    ]
    assert found[1].text == "no answer within 3600 s"
    assert "secret-path" not in str(found)


# The signing certificate


@pytest.mark.parametrize(
    "answer, text",
    [
        ({"body": pem(0)}, None),
        ({"status": 302}, "was answered with HTTP 302"),
        ({"text": "<html>"}, "expected a certificate in PEM form, came something else"),
    ],
)
async def test_the_signing_certificate(tmp_path, answer, text):
    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.method == "GET"
        return web.Response(**answer)

    async with serving(handle, server_context(tmp_path, "certs.example.com")) as port:
        network = replace(NETWORK, resolver=LoopbackResolver(port), ssl_context=client_context())
        finding = await try_certificate("sources.mts.certificates", "https://certs.example.com/x.pem", network)
    assert shape(finding) == ("ok" if text is None else "error", "sources.mts.certificates")
    assert text is None or text in finding.text


async def test_a_signing_certificate_out_of_reach(tmp_path):
    network = replace(NETWORK, resolver=LoopbackResolver(closed_port()))
    finding = await try_certificate("sources.mts.certificates", "https://certs.example.com/x.pem", network)
    assert finding.text == "certs.example.com: nothing takes connections there"
    assert "certificates = {" in (finding.remedy or "")
    async with serving(refuse, server_context(tmp_path, "other.example.com")) as port:
        network = replace(NETWORK, resolver=LoopbackResolver(port))
        finding = await try_certificate("sources.mts.certificates", "https://certs.example.com/x.pem", network)
    assert "its TLS certificate is not accepted" in finding.text


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(113, "No route to host"), "no connection: No route to host"),
        (aiohttp.ServerDisconnectedError(), "no usable answer (ServerDisconnectedError)"),
        (ConnectionResetError(104, "Connection reset by peer"), "it hangs up while TLS is agreed on"),
    ],
)
def test_other_reasons(error, text):
    assert explain(error)[0] == text


# Sinks that look themselves


class Bus:
    """A sink of a third party that knows how to look."""

    name, batch_size, concurrency, timeout_s = "bus", 1, 1, 1.0
    asked: tuple[str, ...] | None = None

    async def check(self, names):
        self.asked = tuple(names)
        return [
            CheckResult("ok", "sinks.bus", "it is there"),
            CheckResult("warning", "sinks.bus.topic", "it keeps nothing", "have it keep something"),
        ]


class BrokenBus(Bus):
    def check(self, names):
        raise RuntimeError("S3cr3t")


@pytest.mark.parametrize("bus", [Bus(), BrokenBus(), None])
async def test_a_sink_may_look_itself(bus, monkeypatch, tmp_path):
    sink = bus or StdoutSink("bus")
    monkeypatch.setattr("media_callbacks.commands.check.probes.build_sink", lambda *_: sink)
    tables = make_tables(tmp_path, {}, {"sinks": {"bus": {"kind": "stdout"}}})
    found = [each for each in await try_out(build_settings(tables, environ={})) if "sinks.bus" in each.subject]
    if bus is None:
        assert found == []
    elif type(bus) is Bus:
        assert [(each.severity, each.subject) for each in found] == [
            ("ok", "sinks.bus"),
            ("warning", "sinks.bus.topic"),
        ]
        assert bus.asked == ()
    else:
        assert [each.line for each in found] == ["sinks.bus: it could not be tried (RuntimeError); try it by hand"]


# AWS


@pytest.mark.parametrize(
    "sink",
    [
        SqsSinkSettings(kind="sqs", queue_url="https://sqs.eu-west-1.amazonaws.com/1/a", region="eu-west-1"),
        SnsSinkSettings(kind="sns", topic_arn="arn:aws:sns:eu-west-1:123456789012:media"),
        EventBridgeSinkSettings(kind="eventbridge", region="eu-west-1"),
        KinesisSinkSettings(kind="kinesis", stream_name="media", region="eu-west-1"),
    ],
    ids=lambda sink: sink.kind,
)
async def test_aws(sink, monkeypatch, moto):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    sink = sink.model_copy(update={"endpoint_url": moto})
    if sink.kind == "sqs":
        sink = sink.model_copy(update={"queue_url": f"{moto}/123456789012/media"})
    network = Network(timeout_s=PATIENCE_S)
    if sink.kind != "eventbridge":
        # There is always a default bus.
        finding = await try_aws("sinks.bus", sink, network)
        assert (shape(finding), finding.text[:15]) == (("error", "sinks.bus"), "it is not there")
    make: dict[str, tuple[str, dict[str, Any]]] = {
        "sqs": ("create_queue", {"QueueName": "media"}),
        "sns": ("create_topic", {"Name": "media"}),
        "kinesis": ("create_stream", {"StreamName": "media", "ShardCount": 1}),
    }
    if sink.kind in make:
        method, arguments = make[sink.kind]
        client = boto3.client(sink.kind, region_name="eu-west-1", endpoint_url=moto)
        await asyncio.to_thread(lambda: getattr(client, method)(**arguments))
        client.close()
    finding = await try_aws("sinks.bus", sink, network)
    assert finding == CheckResult("ok", "sinks.bus", "it is there, and these credentials may ask about it")
    nowhere = sink.model_copy(update={"endpoint_url": f"http://127.0.0.1:{closed_port()}"})
    finding = await try_aws("sinks.bus", nowhere, network)
    assert finding.text == "nothing takes connections there"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.mark.parametrize(
    ("code", "severity", "text"),
    [
        ("AccessDeniedException", "warning", "whether it is there can't be told, for these credentials may not ask"),
        ("UnrecognizedClientException", "error", "DescribeStreamSummary is refused (UnrecognizedClientException)"),
    ],
)
async def test_what_aws_refuses_to_tell(monkeypatch, code, severity, text):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(
            {"__type": code, "message": "no"}, status=400, content_type="application/x-amz-json-1.1"
        )

    async with serving(answer) as port:
        sink = KinesisSinkSettings(
            kind="kinesis", stream_name="media", region="eu-west-1", endpoint_url=f"http://127.0.0.1:{port}"
        )
        finding = await try_aws("sinks.bus", sink, Network(timeout_s=PATIENCE_S))
    assert shape(finding) == (severity, "sinks.bus")
    assert text in finding.text


async def test_aws_without_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    sink = EventBridgeSinkSettings(kind="eventbridge")
    assert (await try_aws("sinks.bus", sink, NETWORK)).text == "no AWS credentials found"
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    assert (await try_aws("sinks.bus", sink, NETWORK)).text == "no AWS region is known"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    finding = await try_aws("sinks.bus", sink, NETWORK)
    assert shape(finding) == ("error", "sinks.bus")
    assert finding.text == "boto can't be used as it is set up (ProfileNotFound)"


# The clock


@pytest.mark.parametrize(
    "ahead_s, severity, words",
    [
        (60, "ok", "it agrees with that of 127.0.0.1"),
        (-60, "ok", "it agrees with that of 127.0.0.1"),
        (61, "error", "61 s behind that of 127.0.0.1"),
        (-3600, "error", "3600 s ahead of that of 127.0.0.1"),
    ],
)
async def test_the_clock(ahead_s, severity, words):
    async def handle(request: web.Request) -> web.StreamResponse:
        assert (request.method, request.path) == ("HEAD", "/")
        return web.Response(
            status=403, headers={"Date": format_datetime(NOW + timedelta(seconds=ahead_s), usegmt=True)}
        )

    async with serving(handle) as port:
        urls = [f"http://127.0.0.1:{closed_port()}", f"http://127.0.0.1:{port}"]
        finding = await compare_clocks(urls, NETWORK)
    assert shape(finding) == (severity, "clock")
    assert words in finding.text


@pytest.mark.parametrize("date", ["soon", "Wed, 04 Mar 2026 05:06:07 -0000"])
async def test_a_date_that_says_nothing(date):
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Date": date})

    async with serving(handle) as port:
        finding = await compare_clocks([f"http://127.0.0.1:{port}"], NETWORK)
    assert shape(finding) == ("warning", "clock")


# Queues


def error_xml(code: str) -> str:
    return (
        '<?xml version="1.0"?><Error xmlns="http://mns.aliyuncs.com/doc/v1/">'
        f"<Code>{code}</Code><Message>m</Message><RequestId>1</RequestId><HostId>h</HostId></Error>"
    )


MESSAGE = (
    '<?xml version="1.0"?><Message xmlns="http://mns.aliyuncs.com/doc/v1/"><MessageId>1</MessageId>'
    "<MessageBody>secret-body</MessageBody></Message>"
)


@pytest.mark.parametrize("signature", ["v2", "v4"])
@pytest.mark.parametrize(
    "status, body, severity, words",
    [
        (200, MESSAGE, "ok", "mts-done is there"),
        (404, error_xml("MessageNotExist"), "ok", "mts-done is there"),
        (404, error_xml("QueueNotExist"), "error", "create it"),
        (403, error_xml("AccessDenied"), "warning", "mns:ReceiveMessage"),
        (403, error_xml("InvalidAccessKeyId"), "error", "check access_key_id"),
        (403, error_xml("SignatureDoesNotMatch"), "error", "check access_key_secret"),
        (400, error_xml("TimeExpired"), "error", "clock of this machine"),
        (400, error_xml("Unheard"), "error", "Unheard"),
        (503, error_xml("InternalServerError"), "error", "InternalServerError"),
        (403, error_xml("QpsLimitExceeded"), "warning", "too many requests"),
        (200, "<html>", "ok", ""),
    ],
)
async def test_a_queue(status, body, severity, words, signature):
    seen = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.path_qs}")
        return web.Response(status=status, text=body, content_type="text/xml")

    async with serving(handle) as port:
        source = MnsQueueSourceSettings(**QUEUE, endpoint=f"http://127.0.0.1:{port}", signature=signature)
        finding = await try_queue("sources.q.queue", source, "main", VendorSettings(**KEYS), NETWORK)
    assert set(seen) == {"GET /queues/mts-done/messages?peekonly=true"}
    assert shape(finding) == (severity, "sources.q.queue")
    assert words in f"{finding.text} {finding.remedy}"
    assert not [word for word in ("secret-body", *KEYS.values()) if word in str(finding) and word != KEYS["region"]]


async def test_a_queue_out_of_reach() -> None:
    source = MnsQueueSourceSettings(**QUEUE, endpoint=f"http://127.0.0.1:{closed_port()}")
    finding = await try_queue("sources.q.queue", source, "main", VendorSettings(**KEYS), NETWORK)
    assert shape(finding) == ("error", "sources.q.queue")


# Job APIs


@pytest.mark.parametrize(
    "product, action",
    [
        ("vod", "GetJobDetail"),
        ("ims", "GetDynamicImageJob"),
        ("mts", "QuerySnapshotJobList"),
        ("multimediaai", "GetTaskStatus"),
    ],
)
@pytest.mark.parametrize(
    "answer, severity, words",
    [
        ((200, {"RequestId": "1"}), "ok", "these credentials may ask it"),
        ((404, {"Code": "InvalidJob.NotFound"}), "ok", "these credentials may ask it"),
        ((400, {"Code": "InvalidParameter.JobId"}), "ok", "these credentials may ask it"),
        ((404, {"Code": "InvalidAccessKeyId.NotFound"}), "error", "check access key"),
        ((400, {"Code": "SignatureDoesNotMatch"}), "error", "check access key"),
        ((403, {"Code": "Forbidden.RAM"}), "error", "allow {right}"),
        ((403, {"Code": "NoPermission"}), "error", "allow {right}"),
        ((404, {"Code": "InvalidAction.NotFound"}), "error", "check the endpoint"),
        ((400, {"Code": "InvalidTimeStamp.Expired"}), "error", "clock"),
        ((400, {"Code": "Unheard"}), "warning", "look the code up"),
        ((400, {"Code": "Throttling.User"}), "warning", "Throttling.User"),
        ((500, {"Code": "InternalError"}), "error", "try again"),
    ],
)
async def test_a_job_api(product, action, answer, severity, words):
    async def handle(request: web.Request) -> web.StreamResponse:
        assert action in (request.headers.get("x-acs-action"), request.query.get("Action"))
        status, reply = answer
        return web.json_response(reply, status=status)

    api = {"ims": "ice"}.get(product, product)
    async with serving(handle) as port:
        vendor = VendorSettings(**KEYS, endpoints={api: f"http://127.0.0.1:{port}"})
        finding = await try_api(product, "main", vendor, NETWORK)
        optional = await try_api(product, "main", vendor, NETWORK, must_ask=False)
    assert shape(finding) == (severity, "vendor.main")
    assert words.format(right=f"{api}:{action}") in f"{finding.text} {finding.remedy}"
    is_about_rights = words.startswith("allow")
    assert optional.severity == ("warning" if is_about_rights else severity)
    assert KEYS["access_key_secret"] not in str(finding)


async def test_credentials_that_nobody_has(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "half-of-it")
    monkeypatch.delenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", raising=False)
    vendor = VendorSettings(region="cn-hangzhou")
    source = MnsQueueSourceSettings(**QUEUE, endpoint="http://127.0.0.1:1")
    for finding in (
        await try_api("mts", "main", vendor, NETWORK),
        await try_queue("sources.q.queue", source, "main", vendor, NETWORK),
    ):
        assert shape(finding) == ("error", "vendor.main")
        assert "ALIBABA_CLOUD_ACCESS_KEY_SECRET" in (finding.remedy or "")
        assert "half-of-it" not in str(finding)


# All of it


async def test_all_is_tried_at_once_and_told_in_order(tmp_path):
    """Every probe waits until all others have come as far."""
    here = asyncio.Barrier(5)

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method != "HEAD":
            await here.wait()
        return web.json_response({"Code": "InvalidJob.NotFound"}, status=404)

    async with serving(handle) as port:
        url = f"http://127.0.0.1:{port}"
        changes = {
            "server.journal_path": str(tmp_path),
            "store.url": "postgresql://nobody@127.0.0.1:1/db",
            "sources.queue": {**QUEUE, "endpoint": url},
            "sources.mts": None,
            "sources.vod.enrich": True,
            "vendor.main": {**KEYS, "endpoints": dict.fromkeys(("vod", "ice", "mts", "multimediaai"), url)},
        }
        settings = build_settings(make_tables(tmp_path, {"orders": url}, changes), environ={})
        found = await try_out(settings)
    assert [shape(finding) for finding in found] == [
        ("error", "store.url"),
        ("ok", "server.journal_path"),
        ("error", "sources.queue.queue"),
        ("ok", "vendor.main"),
        ("ok", "vendor.main"),
        ("ok", "vendor.main"),
        ("ok", "vendor.main"),
        ("ok", "sinks.orders"),
        ("ok", "clock"),
    ]


@pytest.mark.parametrize(
    "changes, severity",
    [({}, "warning"), ({"enrich": True}, "error"), ({"confirm": "always"}, "error")],
)
async def test_credentials_that_may_not_ask_are_wrong_where_a_source_relies_on_asking(tmp_path, changes, severity):
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response({"Code": "NoPermission"}, status=403)

    async with serving(handle) as port:
        tables = make_tables(tmp_path, {}, {"vendor.main": {**KEYS, "endpoints": {"vod": f"http://127.0.0.1:{port}"}}})
        tables["sources"] = {"vod": tables["sources"]["vod"] | changes}
        found = await try_out(build_settings(tables, environ={}))
    assert [shape(finding) for finding in found] == [
        ("ok", "store.url"),
        (severity, "vendor.main"),
        ("ok", "clock"),
    ]


async def test_what_is_tried_over_the_network_follows_the_configuration(tmp_path, monkeypatch):
    """Pinned certificates are not fetched; sinks that go nowhere are not tried."""
    monkeypatch.setenv("HOME", str(tmp_path))
    network = replace(NETWORK, resolver=LoopbackResolver(closed_port()))
    changes = {"sinks": {"bus": {"kind": "eventbridge"}, "out": {"kind": "stdout"}}}
    pinned = build_settings(make_tables(tmp_path, {}, changes), environ={})
    found = await try_out(pinned, network)
    assert [shape(finding) for finding in found] == [("ok", "store.url"), ("error", "sinks.bus")]
    fetched = build_settings(make_tables(tmp_path, {}, changes | {"sources.mts.certificates": None}), environ={})
    found = await try_out(fetched, network)
    assert [shape(finding) for finding in found] == [
        ("ok", "store.url"),
        ("error", "sources.mts.certificates"),
        ("error", "sinks.bus"),
        ("warning", "clock"),
    ]


async def test_what_nobody_thought_of_hides_no_other_finding(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("with a secret")

    monkeypatch.setattr("media_callbacks.commands.check.machine._try_file", fail)
    tables = make_tables(tmp_path, {"a": f"http://127.0.0.1:{closed_port()}"})
    found = await try_out(build_settings(tables, environ={}), NETWORK)
    assert [shape(finding) for finding in found] == [("error", "store.url"), ("error", "sinks.a")]
    assert "with a secret" not in str(found)


# The command


@pytest.fixture
def receiver() -> Any:
    """A port that takes connections, from a thread of its own: the command has its own event loop."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def write(tmp_path: Path, sinks: Mapping[str, str], changes: Mapping[str, Any] | None = None) -> list[str]:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(make_tables(tmp_path, sinks, changes)))
    return ["check", "--config", str(path)]


def test_a_right_configuration(tmp_path, capsys, receiver):
    command = write(tmp_path, {"orders": f"http://127.0.0.1:{receiver}/"})
    assert run_command(command) == 0
    output = capsys.readouterr()
    assert [line.split(": ")[:2] for line in output.out.splitlines()] == [["ok", "store.url"], ["ok", "sinks.orders"]]
    assert output.err == "the configuration is right, and all that was tried worked\n"
    assert not (tmp_path / "inbox.db").exists()


async def test_a_port_that_is_free_taken_or_held_by_this_service(tmp_path):
    async with run_service(tmp_path) as service:
        server, admin = (int(address.rpartition(":")[2]) for address in (service.address, service.admin_address))

        async def found(server_port: int, admin_port: int, **sinks: str) -> list[tuple[str, str]]:
            tables = make_tables(tmp_path, sinks, {"server.port": server_port, "admin.port": admin_port})
            probes = probes_of_ports(build_settings(tables, environ={}), Network(timeout_s=PATIENCE_S))
            return [shape(await probe) for _, probe in probes]

        assert await found(server, admin) == [("ok", "server.port"), ("ok", "admin.port")]
        crm = {"crm": "https://crm.example.com/"}
        assert await found(closed_port(), admin, **crm) == [("ok", "server.port"), ("error", "admin.port")]
        # One that has a token would not have told.
        token = build_settings(make_tables(tmp_path, {}, {"admin.port": admin, "admin.token": "0" * 16}), environ={})
        ((_, probe),) = probes_of_ports(token, Network(timeout_s=PATIENCE_S))
        assert shape(await probe) == ("error", "admin.port")
        # What listens there is another than what is asked for.
        assert await found(admin, 0) == [("error", "server.port")]


async def test_a_service_with_a_token_is_known_without_telling_it(tmp_path):
    token = {"admin.token": ADMIN_TOKEN}
    async with run_service(tmp_path, changes=token) as service:
        port = int(service.admin_address.rpartition(":")[2])
        settings = build_settings(make_tables(tmp_path, {}, token | {"admin.port": port}), environ={})
        ((_, probe),) = probes_of_ports(settings, Network(timeout_s=PATIENCE_S))
        assert shape(await probe) == ("ok", "admin.port")


async def test_a_port_that_is_held_for_a_service_that_does_not_run_deserves_a_look(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as held:
        tables = make_tables(tmp_path, {}, {"server.port": held.getsockname()[1]})
        ((_, probe),) = probes_of_ports(build_settings(tables, environ={}), Network(timeout_s=0.1))
        finding = await probe
    assert shape(finding) == ("warning", "server.port")
    assert "systemd" in (finding.remedy or "")


def test_offline_it_looks_at_the_configuration_alone(tmp_path, capsys):
    command = write(tmp_path, {"orders": "https://nowhere.invalid/"}, {"store.url": f"sqlite:///{tmp_path}/a/b.db"})
    assert run_command([*command, "--offline"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "the configuration is right\n"


def test_what_failed_comes_with_its_remedy(tmp_path, capsys):
    command = write(tmp_path, {"orders": f"http://127.0.0.1:{closed_port()}/secret-path"})
    assert run_command(command) == 1
    output = capsys.readouterr()
    assert "error: sinks.orders: nothing takes connections there; start it, or correct host and port" in output.out
    assert output.err == "the configuration is right, 1 check failed\n"
    assert run_command([*command, "--json"]) == 1
    output = capsys.readouterr()
    assert [json.loads(line) for line in output.out.splitlines()] == [
        {"severity": "ok", "finding": "store.url: it can be used; `serve` creates the file", "remedy": None},
        {
            "severity": "error",
            "finding": "sinks.orders: nothing takes connections there",
            "remedy": "start it, or correct host and port",
        },
    ]
    assert "secret-path" not in output.out + output.err


def test_what_deserves_a_look_is_no_failure(tmp_path, capsys):
    command = write(tmp_path, {}, {"admin.host": "0.0.0.0"})
    assert run_command([*command, "--json"]) == 0
    findings = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(finding["severity"], finding["finding"].partition(":")[0]) for finding in findings] == [
        ("warning", "admin.token"),
        ("warning", "sinks"),
        ("ok", "store.url"),
    ]


def test_a_wrong_configuration_is_listed_whole_and_nothing_is_tried(tmp_path, capsys):
    changes = {"sources.vod.path": "callbacks", "sources.gif.keys": ["1:c2hvcnQ="], "serve": {"port": 1}}
    command = write(tmp_path, {}, changes)
    for arguments in (["--json"], [], ["--offline"]):
        assert run_command([*command, *arguments]) == 2
        output = capsys.readouterr()
        lines = output.out.splitlines()
        assert len(lines) == 3
        if arguments == ["--json"]:
            assert {json.loads(line)["severity"] for line in lines} == {"error"}
        else:
            assert all(line.startswith("error: ") for line in lines)
            assert output.err == "the configuration is wrong\n"
        assert not [secret for secret in ("c2hvcnQ=", *SECRETS) if secret in output.out + output.err]


# Alibaba Cloud


MNS_SINK = {"kind": "mns-queue", "endpoint": "http://127.0.0.1:9", "queue": "media"}


async def test_a_sink_of_the_vendor_is_asked_with_the_credentials_of_its_table(tmp_path, monkeypatch):
    """As a service builds it; what it finds is in tests/sinks."""
    tables = make_tables(tmp_path, {}, {"vendor": {"main": {"region": "cn-shanghai"}}, "sinks": {"mns": MNS_SINK}})
    for name in ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials.client", None)
    (without,) = (each for each in await try_out(build_settings(tables, environ={})) if each.subject == "sinks.mns")
    assert (without.severity, without.text[:14]) == ("error", "no credentials")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "LTAI-1")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "s3cr3t")
    (away,) = (each for each in await try_out(build_settings(tables, environ={})) if each.subject == "sinks.mns")
    assert (away.severity, away.remedy) == ("error", "check endpoint and network")
