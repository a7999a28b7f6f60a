"""What is special to the sink of kind ``nats``. What all sinks promise is in test_conformance.py."""

import asyncio
import base64
import contextlib
import gc
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import nkeys
import pytest

from media_callbacks.assembly.sinks import build_sink
from media_callbacks.config.sinks import NatsSinkSettings
from media_callbacks.model.errors import ConfigError, SinkRejected, SinkRetry
from media_callbacks.model.events import Delivery
from media_callbacks.model.naming import NameTemplate
from media_callbacks.model.operational import build_event
from media_callbacks.sinks.nats import build_message, judge_answer
from media_callbacks.sinks.nats_streams import _covers
from tests.factories.brokers.nats import STREAM, NatsBroker, NatsCluster
from tests.factories.running import PATIENCE_S, make_tables, to_toml
from tests.sinks.conftest import BrokerDestination

TEMPLATE = NameTemplate("media.{product}.{kind}.{outcome}")


def sink_of(table, **changes):
    return build_sink("test", NatsSinkSettings.model_validate(table | changes))


def shape(found):
    return [(each.severity, each.subject) for each in found]


@pytest.fixture
async def bus(brokers):
    """In place of one of each kind."""
    made = BrokerDestination(brokers("nats"))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def start(tmp_path):
    """Servers with a configuration of their own."""
    started: list[NatsBroker] = []

    def make(settings="", **options):
        broker = NatsBroker(tmp_path / f"nats-{len(started)}", settings=settings, **options)
        started.append(broker)
        broker.start()
        return broker

    yield make
    for broker in started:
        broker.stop()


# Messages


def test_a_message_has_its_identity_and_what_it_is(make_delivery):
    delivery = make_delivery(kind="snapshot")
    subject, headers = build_message(delivery, TEMPLATE)
    assert subject == "media.vod.snapshot.failed"
    assert headers == {"Nats-Msg-Id": delivery.event_id, "content-type": "application/cloudevents+json"}
    _, headers = build_message(make_delivery(replay=3), TEMPLATE, stream="MEDIA")
    assert headers["Nats-Msg-Id"] == f"{make_delivery().event_id}:replay-3"
    assert headers["Nats-Expected-Stream"] == "MEDIA"
    traced = replace(delivery, traceparent="00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01")
    assert build_message(traced, TEMPLATE)[1]["traceparent"] == traced.traceparent


async def test_an_operational_event_has_a_subject_too(bus, opened):
    now = datetime(2026, 3, 4, tzinfo=UTC)
    event = build_event("disk_low", "db-1", since=now, ended_at=None, detail=None, instance="host")
    delivery = Delivery(1, "test", event.id, event.to_json(), attempt=1, lease="lease")
    assert list(await (await opened(bus.new_sink())).send([delivery])) == [None]
    (stored,) = await bus.broker.read()
    assert stored.name == "media.media-callbacks.operational.began"


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{}", b'{"data": {"kind": 1}}'])
async def test_what_is_no_event_is_dead_and_holds_back_no_other(bus, opened, make_delivery, body):
    sink = await opened(bus.new_sink())
    results = await sink.send([make_delivery(), make_delivery(1, body=body), make_delivery(2)])
    assert [type(result) for result in results] == [type(None), SinkRejected, type(None)]


# Answers


@pytest.mark.parametrize(
    "data, headers, outcome, text",
    [
        (b'{"stream": "M", "seq": 1}', None, type(None), "None"),
        (b'{"stream": "M", "seq": 1, "duplicate": true}', {}, type(None), "None"),
        (b"", {"Status": "503"}, SinkRetry, "no stream takes media.x, or JetStream is off: create one, or correct"),
        (b"", None, SinkRetry, "what came back is no acknowledgement of a stream: see who else answers"),
        (b"hidden", None, SinkRetry, "what came back is no acknowledgement"),
        (b'{"seq": 1}', None, SinkRetry, "what came back is no acknowledgement"),
        (b"[" * 100_000, None, SinkRetry, "what came back is no acknowledgement"),
        (b'["stream"]', None, SinkRetry, "what came back is no acknowledgement"),
    ],
)
def test_only_an_acknowledgement_is_a_delivery(data, headers, outcome, text):
    result = judge_answer(data, headers, "media.x")
    assert type(result) is outcome
    assert str(result).startswith(text)


@pytest.mark.parametrize(
    "code, outcome, is_overload",
    [(10054, SinkRejected, None), (10077, SinkRetry, False), (10167, SinkRetry, True), (10060, SinkRetry, False)],
)
def test_a_refusal_says_why(code, outcome, is_overload):
    error = {"code": 400, "err_code": code, "description": "why\n\x1b[2J" + "y" * 1000}
    result = judge_answer(json.dumps({"error": error, "stream": "M", "seq": 0}).encode(), None, "media.x")
    assert type(result) is outcome
    assert getattr(result, "is_overload", None) is is_overload
    assert str(result).startswith("the stream refuses the event: why[2Jyyy")
    assert str(result).endswith(f"({code})")
    assert len(str(result)) < 200


async def test_another_stream_than_the_one_that_is_named_gets_nothing(bus, opened, make_delivery):
    sink = await opened(bus.new_sink(stream="OTHER"))
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert "expected stream does not match" in str(result)
    assert await bus.received() == []


async def test_a_stream_that_takes_small_messages_rejects_large_ones(bus, opened, make_delivery):
    await bus.broker.change_stream(max_msg_size=10_000)
    sink = await opened(bus.new_sink())
    results = await sink.send([make_delivery(user_data="x" * 20_000), make_delivery(1)])
    assert [type(result) for result in results] == [SinkRejected, type(None)]


async def test_an_event_that_is_too_large_with_its_headers_alone_is_rejected(start, opened, make_delivery):
    """A server that gets it hangs up, and would with each attempt."""
    broker = start("max_payload: 65536")
    await broker.prepare()
    sink = await opened(sink_of(broker.table()))
    around_bytes = len(make_delivery(user_data="").body)
    (result,) = await sink.send([make_delivery(user_data="x" * (65536 - around_bytes))])
    assert type(result) is SinkRejected
    headers = build_message(make_delivery(), TEMPLATE)[1]
    headers_bytes = len("NATS/1.0\r\n\r\n") + sum(len(f"{name}: {value}\r\n") for name, value in headers.items())
    fitting = make_delivery(1, user_data="x" * (65536 - around_bytes - headers_bytes))
    assert (
        str(result) == f"the event has {65536 + headers_bytes} bytes with its headers; the server takes at most 65536"
    )
    assert list(await sink.send([fitting])) == [None]


async def test_a_sealed_stream_is_a_retry(bus, opened, make_delivery):
    await bus.broker.change_stream(sealed=True)
    sink = await opened(bus.new_sink())
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert "sealed" in str(result)
    assert shape(await sink.check(bus.broker.names)) == [("error", "sinks.test")]


# Connections


async def test_tls_is_not_given_up_for_a_server_that_says_it_has_none(raw_server, opened, make_delivery):
    """Whoever is in between would get the credentials, and the events."""
    said = []

    async def serve(reader, writer):
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"headers":true}\r\n')
        said.append(await reader.read(65536))

    port = await raw_server(serve)
    sink = sink_of({"kind": "nats", "servers": f"tls://127.0.0.1:{port}", "user": "u", "password": "hidden"})
    await opened(sink)
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert str(result) == "the server offers no TLS, which tls:// asks for; have it require TLS"
    assert set(said) == {b""}


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x00\xff hidden\r\n",
        b"INFO {\r\n",
        b"-ERR 'hidden'\r\n",
        b"INFO " + b"x" * 10_000_000,
        b"HTTP/1.1 400\r\n\r\n",
    ],
    ids=["closes", "garbage", "half an INFO", "an error", "an INFO of 10 MB", "HTTP"],
)
async def test_what_is_no_nats_server_is_a_retry(raw_server, opened, make_delivery, said):
    async def serve(reader, writer):
        writer.write(said)
        await writer.drain()

    sink = sink_of({"kind": "nats", "servers": f"nats://127.0.0.1:{await raw_server(serve)}"})
    await opened(sink)
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert "hidden" not in str(result)
    assert 5 < len(str(result)) < 250


INFO = b'INFO {"server_id":"x","version":"2.12.0","max_payload":16777216,"headers":true}\r\n'


@pytest.mark.parametrize(
    "said",
    [b"x" * 32_000_000, b"MSG a 1 1000000000000\r\n" + b"x" * 32_000_000, b"-ERR '\xff'\r\n", b"INFO {\r\n"],
    ids=["a line without end", "a message of a terabyte", "an error in no UTF-8", "half an INFO"],
)
async def test_who_says_later_what_no_server_says_is_hung_up_on(raw_server, opened, make_delivery, caplog, said):
    async def serve(reader, writer):
        writer.write(INFO + b"PONG\r\n")
        await reader.readuntil(b"HPUB ")
        with contextlib.suppress(ConnectionError):
            writer.write(said)
            await reader.read()

    sink = await opened(sink_of({"kind": "nats", "servers": f"nats://127.0.0.1:{await raw_server(serve)}"}))
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert str(result) == "the connection was lost before an acknowledgement came"
    assert caplog.records == []


async def test_a_server_that_reads_nothing_is_left_at_once_when_the_time_is_over(raw_server, make_delivery, loop_clock):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    asked = asyncio.Event()

    async def serve(reader, writer):
        writer.write(INFO + b"PONG\r\n")
        await reader.readuntil(b"HPUB ")
        asked.set()
        await asyncio.Event().wait()

    sink = sink_of({"kind": "nats", "servers": f"nats://127.0.0.1:{await raw_server(serve)}"})
    await sink.open()
    # More than what is between can hold.
    sending = asyncio.create_task(sink.send([make_delivery(n, user_data="x" * 2_000_000) for n in range(20)]))
    await asked.wait()
    loop_clock.skip(sink.timeout_s)
    assert {str(result) for result in await sending} == {"no acknowledgement within 15 s"}
    await sink.close()
    del sink, sending
    gc.collect()
    assert complaints == []


async def test_a_server_that_answers_nothing_is_left_for_another_connection(raw_server, make_delivery, loop_clock):
    came: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader, writer):
        writer.write(INFO + b"PONG\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"HPUB "):
                came.put_nowait(writer)

    sink = sink_of({"kind": "nats", "servers": f"nats://127.0.0.1:{await raw_server(serve)}"})
    await sink.open()
    connections = set()
    for _ in range(2):
        sending = asyncio.create_task(sink.send([make_delivery()]))
        connections.add(await came.get())
        loop_clock.skip(sink.timeout_s)
        assert [str(result) for result in await sending] == ["no acknowledgement within 15 s"]
    assert len(connections) == 2
    await sink.close()


@pytest.mark.parametrize(
    "changes, text",
    [
        (
            {"ca_file": "/nowhere/ca.pem"},
            "ca_file, certificate_file or key_file can't be used: No such file or directory",
        ),
        ({"servers": "nats://no-such-host.invalid"}, "its host name can't be resolved; check the host"),
        ({"servers": "nats://127.0.0.1:1"}, "nothing takes connections there; start it, or correct host and port"),
    ],
)
async def test_why_there_is_no_connection(bus, opened, make_delivery, changes, text):
    sink = await opened(bus.new_sink(**changes))
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    assert str(result).startswith(text)


async def test_a_connection_that_is_lost_is_told_at_once_and_made_anew(bus, opened, make_delivery):
    sink = await opened(bus.new_sink(timeout_s=3600.0))
    bus.gate.lose_answers()
    results = await sink.send([make_delivery(), make_delivery(1)])
    assert {str(result) for result in results} == {"the connection was lost before an acknowledgement came"}
    assert list(await sink.send([make_delivery(2)])) == [None]


async def test_a_client_certificate_is_shown(start, tmp_path, opened, make_delivery):
    from tests.factories.brokers.certificates import Certificates

    made = Certificates(tmp_path / "certificates")
    tls = f'tls {{ cert_file: "{made.folder}/server.pem", key_file: "{made.folder}/server.key", ca_file: "{made.ca}", verify: true }}'
    broker = start(tls)
    table = {"kind": "nats", "servers": broker.url.replace("nats:", "tls:"), "ca_file": str(made.ca)}
    (result,) = await (await opened(sink_of(table))).send([make_delivery()])
    assert type(result) is SinkRetry
    own = {"certificate_file": f"{made.folder}/client.pem", "key_file": f"{made.folder}/client.key"}
    (result,) = await (await opened(sink_of(table, **own))).send([make_delivery()])
    assert str(result).startswith("no stream takes"), "it was let in"


@pytest.mark.parametrize(
    "settings, right, wrong",
    [
        ('authorization { token: "a-token" }', {"token": "a-token"}, {"token": "hidden"}),
        ("authorization { user: u, password: p }", {"user": "u", "password": "p"}, {"user": "u", "password": "hidden"}),
        ("nkey", {}, {}),
    ],
)
async def test_it_says_who_it_is(start, opened, make_delivery, *, settings, right, wrong):
    if settings == "nkey":
        seeds = [nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) for _ in range(2)]
        public = nkeys.from_seed(bytearray(seeds[0])).public_key.decode()
        settings = f"authorization {{ users: [{{ nkey: {public} }}] }}"
        right, wrong = ({"nkey_seed": seed.decode()} for seed in seeds)
    broker = start(settings)
    (result,) = await (await opened(sink_of(broker.table(), **right))).send([make_delivery()])
    assert str(result).startswith("no stream takes"), "it was let in"
    for changes in (wrong, dict[str, str]()):
        (result,) = await (await opened(sink_of(broker.table(), **changes))).send([make_delivery()])
        assert str(result) == "the server refuses these credentials; check them, and the server's users"
    if "nkey_seed" in right:
        (result,) = await (await opened(sink_of(broker.table(), credentials_file="/no.creds"))).send([make_delivery()])
        assert str(result) == "credentials_file can't be read: No such file or directory; correct it"


def sign_jwt(issuer: Any, subject: Any, name: str, claims: dict[str, Any]) -> str:
    """As `nsc` does, see https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt."""

    def encode(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    body = {"iat": 1_700_000_000, "iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "name": name}
    body |= {"jti": hashlib.sha256(repr(body).encode()).hexdigest(), "nats": {"version": 2, **claims}}
    signed = ".".join(encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{signed}.{encode(issuer.sign(signed.encode()))}"


async def test_a_file_of_credentials_lets_it_in(start, tmp_path, opened, make_delivery):
    account_prefix = nkeys.PREFIX_BYTE_ACCOUNT
    prefixes = (nkeys.PREFIX_BYTE_OPERATOR, account_prefix, account_prefix, nkeys.PREFIX_BYTE_USER)
    seeds = [nkeys.encode_seed(os.urandom(32), prefix) for prefix in prefixes]
    operator, system, account, user = (nkeys.from_seed(bytearray(seed)) for seed in seeds)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    accounts = {
        each.public_key.decode(): sign_jwt(operator, each, name, {"type": "account", "limits": limits | own})
        for each, name, own in ((system, "system", {}), (account, "media", stored))
    }
    preloaded = "\n".join(f"{public}: {token}" for public, token in accounts.items())
    broker = start(
        f"operator: {sign_jwt(operator, operator, 'operator', {'type': 'operator'})}\nresolver: MEMORY\n"
        f"system_account: {system.public_key.decode()}\nresolver_preload {{\n{preloaded}\n}}"
    )
    token = sign_jwt(account, user, "media", {"type": "user", "subs": -1, "data": -1, "payload": -1})
    file = tmp_path / "media.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seeds[3].decode()}\n------END USER NKEY SEED------\n"
    )
    (result,) = await (await opened(sink_of(broker.table(), credentials_file=str(file)))).send([make_delivery()])
    assert str(result).startswith("no stream takes"), "it was let in"
    (result,) = await (await opened(sink_of(broker.table()))).send([make_delivery()])
    assert "refuses these credentials" in str(result)


ONLY_NOTICES = """
authorization { users: [
  { user: all, password: p },
  { user: media, password: p, permissions: { publish: "Media.vod.notice.received", subscribe: "_INBOX.>" } }
] }
"""


async def test_a_subject_that_is_not_allowed_is_told_at_once(start, opened, make_delivery, loop_clock):
    broker = start(ONLY_NOTICES)
    async with broker.connected(user="all", password="p") as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["Media.>"])
    # The server repeats it in small letters.
    sink = sink_of(broker.table(), user="media", password="p", subject="Media.{product}.{kind}.{outcome}")
    await opened(sink)
    notice, image = make_delivery(kind="notice"), make_delivery(1)
    results = list(await sink.send([image, notice]))
    assert [type(result) for result in results] == [SinkRetry, type(None)]
    assert str(results[0]).startswith("this user may not publish to media.vod.animated_image.failed: allow it")
    (found,) = await sink.check(broker.names)
    assert (found.severity, found.text[:15]) == ("warning", "it lets us in; ")


# A cluster


async def test_a_leader_that_changes_costs_nothing(tmp_path, opened, make_delivery):
    """It steps down, then one that leads is killed; what was acknowledged is there once, and in order."""
    cluster = NatsCluster(tmp_path / "cluster")
    cluster.start()
    try:
        await cluster.prepare()
        sink = await opened(sink_of({"kind": "nats", "servers": cluster.urls}, timeout_s=1.0))
        deliveries = [make_delivery(number, subject="job") for number in range(60)]
        async with asyncio.timeout(PATIENCE_S):
            for number, delivery in enumerate(deliveries):
                if number == 20:
                    await cluster.step_down()
                if number == 40:
                    await cluster.kill_leader()
                while list(await sink.send([delivery])) != [None]:  # noqa: ASYNC110 - it elects one
                    await asyncio.sleep(0.05)
        assert [each.identity for each in await cluster.read()] == [delivery.event_id for delivery in deliveries]
    finally:
        cluster.stop()


# Looking


async def test_check_warns_of_a_server_that_acknowledges_before_it_flushes(start):
    careless, careful = start(flushes=False), start()
    for broker in (careless, careful):
        await broker.prepare()
    for broker, severity in ((careless, "warning"), (careful, "ok")):
        sink = sink_of(broker.table(), monitoring_url=broker.monitoring_url)
        (found,) = await sink.check(broker.names)
        assert (found.severity, found.subject) == (severity, "sinks.test")
    (found,) = await sink_of(careless.table(), monitoring_url=careless.monitoring_url).check(careless.names)
    assert "before it flushes" in found.text
    assert "sync_interval: always" in (found.remedy or "")
    (found,) = await sink_of(careful.table()).check(careful.names)
    assert (found.severity, found.text.partition(" can't")[0]) == (
        "warning",
        "whether the server flushes before it acknowledges",
    )
    nobody = f"http://127.0.0.1:{careful.port}"
    for url in (nobody, "http://127.0.0.1:1"):
        (found,) = await sink_of(careful.table(), monitoring_url=url).check(careful.names)
        assert (found.severity, found.subject) == ("warning", "sinks.test.monitoring_url")


@pytest.mark.parametrize("way", ["a redirect", "an answer of three megabytes"])
async def test_what_monitors_no_server_is_neither_followed_nor_gathered(start, raw_server, way):
    broker = start()
    await broker.prepare()
    body = json.dumps({"padding": "x" * 3_000_000, "config": {"sync_always": True}}).encode()
    answers = {
        "a redirect": f"HTTP/1.1 307 \r\nLocation: {broker.monitoring_url}/jsz\r\nContent-Length: 0\r\n\r\n".encode(),
        "an answer of three megabytes": b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n%b" % (len(body), body),
    }

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[way])

    url = f"http://127.0.0.1:{await raw_server(serve)}"
    (found,) = await sink_of(broker.table(), monitoring_url=url).check(broker.names)
    assert (found.severity, found.subject) == ("warning", "sinks.test.monitoring_url")


@pytest.mark.parametrize(
    "config, severity, key, text",
    [
        (
            {"subjects": ["media.vod.*.failed"]},
            "error",
            ".subject",
            "no stream takes media.vod.animated_image.succeeded and ",
        ),
        ({"subjects": ["media.vod.>"], "storage": "memory"}, "warning", "", "the stream MEDIA is in memory"),
        ({"duplicate_window": 5}, "warning", "", "the stream MEDIA knows repetitions for 5 s"),
        (
            {"max_msg_size": 1000},
            "warning",
            "",
            "the stream MEDIA takes messages of at most 1000 bytes: larger events are dead",
        ),
        ({"no_ack": True}, "error", "", "the stream MEDIA acknowledges nothing"),
        ({"name": "OTHER"}, "error", ".stream", "there is no such stream"),
    ],
)
async def test_check_tells_what_a_stream_lacks(start, config, severity, key, text):
    broker = start()
    async with broker.connected() as client:
        await client.jetstream().add_stream(**({"name": STREAM, "subjects": ["media.>"]} | config))
    named = {"stream": STREAM} if "name" in config else {}
    found = await sink_of(broker.table(), monitoring_url=broker.monitoring_url, **named).check(broker.names)
    assert [(each.severity, each.subject) for each in found] == [(severity, f"sinks.test{key}")]
    assert found[0].text.startswith(text)
    assert found[0].remedy


async def test_check_sees_streams_on_every_page_of_their_list(start):
    broker = start()
    async with broker.connected() as client:
        for number in range(300):
            await client.jetstream().add_stream(name=f"A{number}", subjects=[f"a.{number}"], storage="memory")
    await broker.prepare()
    (found,) = await sink_of(broker.table(), monitoring_url=broker.monitoring_url).check(broker.names)
    assert found.severity == "ok"


async def test_check_finds_a_server_without_jetstream_or_with_small_messages(start):
    broker = start("max_payload: 65536\naccounts { A: { users: [{ user: a, password: a }] } }")
    (found,) = await sink_of(broker.table(), user="a", password="a").check(broker.names)
    assert (found.severity, found.text[:24]) == ("error", "JetStream is not enabled")
    broker = start("max_payload: 65536")
    await broker.prepare()
    (found,) = await sink_of(broker.table(), monitoring_url=broker.monitoring_url).check(broker.names)
    assert (found.severity, found.text) == (
        "warning",
        "the server takes messages of at most 65536 bytes: larger events are dead",
    )


@pytest.mark.parametrize(
    "pattern, name, is_covered",
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.b", "a", False),
        ("a", "a.b", False),
        ("*.b", "a.c", False),
    ],
)
def test_what_a_subject_covers(pattern, name, is_covered):
    assert _covers(pattern.split("."), name.split(".")) is is_covered


# The extra


@pytest.mark.parametrize("module", ["nats.aio.client", "media_callbacks.sinks.nats"])
def test_without_the_client_the_start_says_which_extra_is_missing(monkeypatch, module):
    monkeypatch.delitem(sys.modules, "media_callbacks.sinks.nats", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        sink_of({"kind": "nats", "servers": "nats://127.0.0.1"})
    assert caught.value.problems == (
        "sinks.test.kind: nats needs a further package: pip install 'media-callbacks[nats]'",
    )


def test_so_says_the_service_when_it_starts(tmp_path):
    tables = {
        "sources": make_tables(tmp_path, {})["sources"],
        "sinks": {"bus": {"kind": "nats", "servers": "nats://127.0.0.1"}},
    }
    config = tmp_path / "media-callbacks.toml"
    config.write_text(to_toml(tables))
    code = "import sys; sys.modules['nats'] = None; from media_callbacks.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", "--config", str(config)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=tmp_path)
    assert found.returncode == 2
    assert "sinks.bus.kind: nats needs a further package: pip install 'media-callbacks[nats]'" in found.stderr
