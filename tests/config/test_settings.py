"""Configuration: what is accepted, what is refused and in which words, and that no secret is ever shown."""

import base64
import copy
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.config.checks import PRODUCT_KINDS
from media_callbacks.config.settings import Settings, build_settings, load_admin, load_settings
from media_callbacks.config.sinks import SINK_MODELS, Match, SqsSinkSettings, WebhookSinkSettings, route
from media_callbacks.config.sources import (
    HttpSourceSettings,
    MnsPushSourceSettings,
    MnsQueueSourceSettings,
    TokenUrlSourceSettings,
)
from media_callbacks.model.errors import ConfigError
from media_callbacks.model.kinds import OUTCOMES
from media_callbacks.sources.products import ims, mts
from media_callbacks.sources.products.vod_catalogue import EVENT_TYPES

URL_KEY = bytes(range(32))
WEBHOOK_SECRET = bytes(range(100, 124))
ENVIRON = {
    "ADMIN_TOKEN": "an-admin-token-of-26-chars",
    "VOD_KEY": "Vendor-Key-1",
    "VOD_KEY_OLD": "Vendor-Key-0",
    "GIF_URL_KEY": base64.b64encode(URL_KEY).decode(),
    "ALIYUN_ID": "LTAI-access-key-id",
    "ALIYUN_SECRET": "access-key-secret-value",
    "ORDERS_SECRET": "whsec_" + base64.b64encode(WEBHOOK_SECRET).decode(),
}
EXAMPLE = """
[server]
host = "0.0.0.0"
port = 8080
max_body_bytes = 1048576

[admin]
host = "127.0.0.1"
port = 8081
token = "${ADMIN_TOKEN}"

[store]
url = "sqlite:///media-callbacks.db"

[sources.vod]
product = "vod"
transport = "http"
path = "/callbacks/vod"
url = "https://cb.example.com/callbacks/vod"
keys = ["${VOD_KEY}", "${VOD_KEY_OLD}"]
max_age_s = 300

[sources.mts]
product = "mts"
transport = "mns-push"
path = "/callbacks/mts/5f0c9d"
topics = ["1234567890123456/mts-done"]
regions = ["cn-hangzhou"]

[sources.mts-queue]
product = "mts"
transport = "mns-queue"
endpoint = "https://1234567890123456.mns.cn-hangzhou.aliyuncs.com"
queue = "mts-done"
vendor = "main"

[sources.gif]
product = "multimediaai"
transport = "token-url"
path = "/callbacks/gif"
url = "https://cb.example.com/callbacks/gif"
keys = ["1:${GIF_URL_KEY}"]

[vendor.main]
access_key_id = "${ALIYUN_ID}"
access_key_secret = "${ALIYUN_SECRET}"
region = "cn-hangzhou"

[sinks.orders]
kind = "webhook"
url = "https://orders.internal.example.com/media"
secrets = ["${ORDERS_SECRET}"]
match = { kind = ["animated_image", "snapshot"], outcome = ["succeeded", "failed"] }

[sinks.bus]
kind = "sqs"
queue_url = "https://sqs.eu-west-1.amazonaws.com/123456789012/media.fifo"
region = "eu-west-1"
"""

VOD: dict[str, Any] = {
    "product": "vod",
    "transport": "http",
    "path": "/callbacks/vod",
    "url": "https://cb.example.com/callbacks/vod",
    "keys": ["Vendor-Key-1"],
}
MTS: dict[str, Any] = {
    "product": "mts",
    "transport": "mns-push",
    "path": "/callbacks/mts/5f0c9d5f0c9d5f0c9d",
    "topics": ["1234567890123456/mts-done"],
}
GIF: dict[str, Any] = {
    "product": "multimediaai",
    "transport": "token-url",
    "path": "/callbacks/gif",
    "url": "https://cb.example.com/callbacks/gif",
    "keys": ["1:" + base64.b64encode(URL_KEY).decode()],
}
QUEUE: dict[str, Any] = {
    "product": "mts",
    "transport": "mns-queue",
    "endpoint": "https://1234567890123456.mns.cn-hangzhou.aliyuncs.com",
    "queue": "mts-done",
}
HOOK: dict[str, Any] = {"kind": "webhook", "url": "https://o.example.com/", "secrets": [ENVIRON["ORDERS_SECRET"]]}
SQS: dict[str, Any] = {"kind": "sqs", "queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/media"}
SNS: dict[str, Any] = {"kind": "sns", "topic_arn": "arn:aws:sns:eu-west-1:123456789012:media"}
BUS_ARN: dict[str, Any] = {
    "kind": "eventbridge",
    "event_bus_name": "arn:aws:events:eu-west-1:123456789012:event-bus/a/b",
}
STREAM_ARN: dict[str, Any] = {"kind": "kinesis", "stream_name": "arn:aws:kinesis:eu-west-1:123456789012:stream/media"}
KAFKA: dict[str, Any] = {"kind": "kafka", "brokers": "127.0.0.1:9092", "topic": "media"}
NATS: dict[str, Any] = {"kind": "nats", "servers": "nats://127.0.0.1:4222"}
RABBITMQ: dict[str, Any] = {
    "kind": "rabbitmq",
    "servers": "amqp://127.0.0.1:5672",
    "user": "u",
    "password": "p",
    "exchange": "media",
}
SINKS = ", ".join(SINK_MODELS)
VENDOR: dict[str, Any] = {"access_key_id": "an-id", "access_key_secret": "a-secret", "region": "cn-hangzhou"}
BASE: dict[str, Any] = {
    "store": {"url": "sqlite:///events.db"},
    "sources": {"vod": VOD, "mts": MTS, "gif": GIF},
    "vendor": {"main": VENDOR},
    "sinks": {"orders": HOOK, "bus": SQS, "out": {"kind": "stdout"}},
}
REMOVED = object()
MNS = {"kind": "mns-queue", "endpoint": "https://1.mns.cn-hangzhou.aliyuncs.com", "queue": "media"}
EVENTS = {
    "kind": "aliyun-eventbridge",
    "endpoint": "https://1.eventbridge.cn-hangzhou.aliyuncs.com",
    "event_bus": "media",
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """BASE with values put at dotted key paths, or removed from them."""
    tables = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, key = path.split(".")
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        if value is REMOVED:
            del table[key]
        else:
            # A further change may go into it.
            table[key] = dict(value) if isinstance(value, dict) else value
    return tables


def problems_of(tables: dict[str, Any], environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        build_settings(tables, environ=environ or {})
    return caught.value.problems


def settings_or_error(tables: dict[str, Any], environ: dict[str, str]) -> Settings | ConfigError:
    try:
        return build_settings(tables, environ=environ)
    except ConfigError as error:
        return error


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "media-callbacks.toml"
    file.write_text(text)
    return file


def certificate(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "notify")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        # Long expired, like the vendor's own.
        .not_valid_before(datetime(2015, 7, 2, tzinfo=UTC))
        .not_valid_after(datetime(2015, 7, 2, tzinfo=UTC) + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def rsa_pem() -> str:
    return certificate(rsa.generate_private_key(public_exponent=65537, key_size=2048))


# What is accepted


def test_the_contracts_example_is_accepted_as_written(tmp_path):
    found = load_settings(write(tmp_path, EXAMPLE), environ=ENVIRON)

    assert found.store.url == "sqlite:///media-callbacks.db"
    assert (found.server.host, found.server.port, found.server.max_body_bytes) == ("0.0.0.0", 8080, 1048576)
    assert (found.server.body_timeout_s, found.server.stop_timeout_s, found.server.drain_s) == (10.0, 20.0, 5.0)
    assert (found.server.journal_path, found.server.journal_max_bytes) == (None, 256 << 20)
    assert (found.admin.host, found.admin.port, found.admin.token) == ("127.0.0.1", 8081, (ENVIRON["ADMIN_TOKEN"],))
    assert (found.store.auto_migrate, found.store.retention_days, found.store.dedup_days) == (True, 30, 400)
    assert (found.admin.jobs_token, found.jobs.deadline_s, found.jobs.retry_s, found.jobs.give_up_s) == (
        (),
        3600,
        60,
        86400,
    )
    vod, mts, queue, gif = (found.sources[name] for name in ("vod", "mts", "mts-queue", "gif"))
    assert isinstance(vod, HttpSourceSettings)
    assert vod.keys == ("Vendor-Key-1", "Vendor-Key-0")
    assert vod.url == ("https://cb.example.com/callbacks/vod",)
    assert (vod.account, vod.account_name, vod.max_age_s, vod.unsigned) == (None, "default", 300, None)
    assert isinstance(mts, MnsPushSourceSettings)
    assert (mts.topics, mts.regions, mts.max_age_s) == (("1234567890123456/mts-done",), ("cn-hangzhou",), 900)
    assert isinstance(queue, MnsQueueSourceSettings)
    assert (queue.endpoint, queue.queue, queue.signature, queue.pollers, queue.long_poll_s) == (
        "https://1234567890123456.mns.cn-hangzhou.aliyuncs.com",
        "mts-done",
        "v2",
        1,
        30,
    )
    assert isinstance(gif, TokenUrlSourceSettings)
    assert (gif.key_bytes, gif.minting_key_id) == ({1: URL_KEY}, 1)
    assert list(found.callback_sources) == ["vod", "mts", "gif"]
    for source in found.sources.values():
        assert (source.confirm_timeout_s, source.enrich) == (300, False)
    assert found.vendor["main"].access_key_secret == ENVIRON["ALIYUN_SECRET"]
    orders, bus = found.sinks["orders"], found.sinks["bus"]
    assert isinstance(orders, WebhookSinkSettings)
    assert (orders.secret_bytes, orders.timeout_s, orders.concurrency) == ((WEBHOOK_SECRET,), 15.0, 32)
    assert orders.match == Match(
        kind=frozenset({"animated_image", "snapshot"}), outcome=frozenset({"succeeded", "failed"})
    )
    assert isinstance(bus, SqsSinkSettings)
    assert (bus.region, bus.endpoint_url, bus.concurrency, bus.timeout_s, bus.match) == (
        "eu-west-1",
        None,
        4,
        15.0,
        None,
    )
    assert (orders.headers, orders.bearer_token) == ({}, None)
    assert list(found.sinks) == ["orders", "bus"]
    for sink in found.sinks.values():
        assert sink.rate_per_s is None
        assert sink.retry_delays_s == (5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


def test_a_match_is_measured_by_what_the_parsers_make():
    vod_kinds = {event_type.kind for event_type in EVENT_TYPES.values()}
    assert PRODUCT_KINDS["vod"] == vod_kinds | {"animated_image", "snapshot", "transcode", "transcode_task", "notice"}
    assert PRODUCT_KINDS["ims"] == {*ims.KINDS.values(), "ai", "notice"}
    assert PRODUCT_KINDS["mts"] == {*mts.KINDS.values(), "workflow", "production", "notice"}


@pytest.mark.parametrize(
    "url, path",
    [("sqlite:///a/b.db", "a/b.db"), ("sqlite:////var/lib/b.db", "/var/lib/b.db")],
    ids=["relative", "absolute"],
)
def test_sqlite_path(url, path):
    assert build_settings(changed({"store.url": url}), environ={}).store.sqlite_path == Path(path)


def test_settings_cannot_be_changed():
    found = build_settings(BASE, environ={})
    with pytest.raises(ValueError, match="frozen"):
        found.server.port = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        found.sinks = {}  # type: ignore[misc]


@pytest.mark.parametrize(
    "changes",
    [
        {"server.port": 0, "admin.port": 0},
        {"sources.vod.url": ["https://a.example.com/x/?q=1", "http://b.example.com"]},
        {"sources.vod.unsigned": "accept", "sources.vod.keys": [], "sources.vod.path": "/callbacks/5f0c9d"},
        {"sources.vod.product": "ims", "sources.vod.account": "Main_1.a-b"},
        {"sources.vod.path": "/health-of-vod"},
        {"sources.mts.path": "/callbacks/gifs/1", "sources.mts.url": "https://cb.example.com/p/x"},
        {"sources.gif.confirm": "never", "sources.gif.enrich": False, "vendor": {}},
        {"sources.gif.confirm": "always", "sources.vod.enrich": True, "sources.mts.confirm": "when-unsigned"},
        {"sources.gif.confirm_timeout_s": 1, "sources.vod.confirm_timeout_s": 86400, "sources.mts.vendor": "main"},
        {"sources.q": QUEUE, "sources.r": {**QUEUE, "queue": "mts-done-2"}, "sinks.out.match": {"source": ["q", "r"]}},
        {"sources.q": {**QUEUE, "product": "vod", "queue": "q" * 120, "signature": "v4", "pollers": 16}},
        {"sources.q": {**QUEUE, "product": "ims", "endpoint": "http://127.0.0.1:8000/", "long_poll_s": 0}},
        {"sources.q": {**QUEUE, "product": "ims"}, "sinks.out.match": {"product": "ims", "source": "q"}},
        {"jobs": {"deadline_s": 1, "retry_s": 0.05, "give_up_s": 0.5}},
        {"admin.jobs_token": "x" * 16, "admin.token": "y" * 16},
        {"admin.jobs_token": ["x" * 16, "z" * 16], "admin.token": ["y" * 16, "w" * 16]},
        {"vendor.main": {"region": "cn-hangzhou"}},
        {"sources.gif.keys": ["255:" + base64.urlsafe_b64encode(b"\xff" * 40).decode().rstrip("="), GIF["keys"][0]]},
        {"vendor.main.security_token": "sts", "vendor.main.endpoints": {"vod": "vod.cn-shanghai.aliyuncs.com"}},
        {"vendor.main.rates": {"GetDynamicImageJob": 20, "GetTaskStatus": 0.5}},
        {"sinks.orders.secrets": [base64.b64encode(b"x" * 64).decode()], "sinks.orders.timeout_s": 25},
        {"sinks.orders.url": "http://10.0.0.1:8080/hook?x=1"},
        {"sinks.bus.endpoint_url": "http://localhost:4566"},
        {"sinks.topic": SNS},
        {
            "sinks.topic": {
                **SNS,
                "topic_arn": "arn:aws-cn:sns:cn-north-1:123456789012:a_b-C.fifo",
                "region": "cn-north-1",
            }
        },
        {"sinks.events": {"kind": "eventbridge"}},
        {"sinks.events": {"kind": "eventbridge", "event_bus_name": "aws.partner/a.b/C_d-1", "region": "eu-west-1"}},
        {"sinks.events": {**BUS_ARN, "endpoint_url": "http://localhost:4566", "timeout_s": 1, "concurrency": 1}},
        {"sinks.stream": {"kind": "kinesis", "stream_name": "a.B_c-1"}},
        {"sinks.stream": {**STREAM_ARN, "region": "eu-west-1"}},
        {"sinks.mns": MNS},
        {"sinks.events": EVENTS},
        {"sinks.mns": {**MNS, "vendor": "main", "signature": "v4", "timeout_s": 25, "concurrency": 1000}},
        {"sinks.mns": {"kind": "mns-topic", "endpoint": "http://localhost:8090/", "topic": "m-1", "vendor": "main"}},
        {"sinks.orders.headers": {"X-Tenant": "media", "Authorization": "Basic eA==", "X-Empty": ""}},
        {"sinks.orders.headers": {"X-Tenant": "a b"}, "sinks.orders.bearer_token": "t~-._+/="},
        {
            "sinks.orders.retry_delays_s": [1, 604800],
            "sinks.bus.retry_delays_s": [1.5] * 50,
            "sinks.out.rate_per_s": 10_000,
        },
        {"sinks.out.rate_per_s": 0.1},
        {"sinks.out.match": {}},
        {"sinks.out.match": {"kind": None}},
        {"sinks.out.match": {"product": ["vod", "ims"]}},
        {"sinks.out.match": {"kind": ["notice", "snapshot"], "outcome": "failed"}},
        {"sinks.out.match": {"product": "multimediaai", "kind": "notice", "outcome": "received"}},
        {"sinks.out.match": {"product": ["mts", "vod"], "kind": "analysis"}},
        {"sinks.out.match": {"product": "mts", "outcome": "received"}},
        {"sinks.out.match": {"kind": "operational"}},
        {"sinks.out.match": {"kind": "operational", "trouble": ["sink_failing", "disk_low"]}},
        {"sinks.out.match": {"kind": "operational", "exclude": {"kind": "operational", "trouble": "disk_low"}}},
        {"sinks.out.match": {"kind": ["operational", "snapshot"], "product": "vod", "outcome": "failed"}},
        {"sinks.out.match": {"account": "default", "source": ["vod", "gif"], "vendor_event": "DynamicImageComplete"}},
        {"sinks.rabbitmq": {**RABBITMQ, "servers": ["amqps://a", "amqps://[::1]:5671"], "virtual_host": "a/b c"}},
        {"sinks.kafka": {**KAFKA, "brokers": ["a:9092", "[::1]:9092"], "topic": "{type}", "content_mode": "binary"}},
        {
            "sinks.kafka": {
                **KAFKA,
                "tls": True,
                "mechanism": "SCRAM-SHA-512",
                "user": "u",
                "password": "p",
                "ca_file": "/a",
                "certificate_file": "/b",
            }
        },
        {"sinks.nats": {**NATS, "servers": ["nats://a", "nats://[::1]:4222"], "stream": "MEDIA", "subject": "{type}"}},
        {
            "sinks.nats": {
                **NATS,
                "user": "u",
                "password": "p",
                "ca_file": "/a",
                "certificate_file": "/b",
                "key_file": "/c",
            }
        },
        {"sinks.out.match": {"exclude": {"kind": "notice"}}},
        {"sinks.out.match": {"kind": ["notice", "snapshot"], "exclude": {"outcome": "received"}}},
        {"sinks.out.match": {"source": ["vod", "gif"], "exclude": {"source": "gif", "kind": "notice"}}},
        {"sinks.out.match": {"exclude": {"vendor_event": "X"}}},
        {"sinks.out.match": {"vendor_event": ["X", "Y"], "exclude": {"vendor_event": "X"}}},
        {"sinks.out.match": {"kind": "notice", "exclude": {"outcome": "received", "user_data_prefix": "test-"}}},
        {"sinks.out.match": {"user_data_prefix": ["order-", "x"], "exclude": {"user_data_prefix": "order-7"}}},
    ],
    ids=",".join,
)
def test_accepted(changes):
    assert isinstance(build_settings(changed(changes), environ={}), Settings)


def test_a_pinned_certificate_may_be_expired(rsa_pem):
    url = "https://mnstest.oss-cn-hangzhou.aliyuncs.com/x509_public_certificate.pem"
    source = build_settings(changed({"sources.mts.certificates": {url: rsa_pem}}), environ={}).sources["mts"]
    assert isinstance(source, MnsPushSourceSettings)
    assert source.certificates == {url: rsa_pem}


# What is refused

LONG_URL = "https://cb.example.com/" + "x" * 234
MISTAKES: list[tuple[dict[str, Any], str]] = [
    # Names, sections, types
    ({"servr": {}}, 'servr: unknown section; did you mean "server"?'),
    ({"server": 3}, "server: expected a table, came a number"),
    ({"sources": {}}, "sources: expected at least one source, came none; add a table [sources.<name>]"),
    ({"sources": REMOVED}, "sources: expected at least one source, came none; add a table [sources.<name>]"),
    ({"sources.product": "vod"}, "sources.product: expected a table, came a string of 3 characters"),
    ({"sources.My_Vod": {**VOD, "path": "/x"}}, "sources.My_Vod: expected a name of a-z, 0-9 and hyphens, came"),
    ({"sinks.a b": {"kind": "stdout"}}, 'sinks."a b": expected a name of a-z, 0-9 and hyphens, came'),
    # server, admin, store
    ({"admin.\ud800": 1}, 'admin."\\ud800": expected a key of Unicode text, came one with half a surrogate pair; rename it'),
    ({"sinks.\ud800": {}}, 'sinks."\\ud800": expected a key of Unicode text, came one with half a surrogate pair; rename it'),
    ({"vendor.main.endpoints": {"\ud800": "h"}}, 'vendor.main.endpoints."\\ud800": expected a key of Unicode text, came'),
    ({"server.host": "\ud800"}, "server.host: expected an address or host name to listen on, came a string of 1"),
    ({"admin.[key]": 1}, 'admin."[key]": unknown key; '),
    ({"server.prot": 1}, 'server.prot: unknown key; did you mean "port"?'),
    ({"server.xyz": 1}, "server.xyz: unknown key; known are: host, port, max_body_bytes, "),
    ({"server.port": 65536}, "server.port: expected a port from 0 (any free one) to 65535, came 65536; for example port ="),
    ({"server.port": True}, "server.port: expected a port from 0 (any free one) to 65535, came true"),
    ({"server.port": "http"}, 'server.port: expected a port from 0 (any free one) to 65535, came "http"'),
    ({"server.host": "a b"}, "server.host: expected an address or host name to listen on, came a string of 3"),
    ({"server.host": date(2020, 1, 1)}, "server.host: expected an address or host name to listen on, came a date"),
    ({"server.max_body_bytes": 0}, "server.max_body_bytes: expected a number of bytes from 1 to 67108864, came 0;"),
    ({"server.body_timeout_s": 0}, "server.body_timeout_s: expected seconds, more than 0 and at most 300, came 0"),
    ({"server.stop_timeout_s": float("nan")}, "server.stop_timeout_s: expected seconds from 0 to 600, came a number"),
    ({"server.journal_path": "x"}, "server.journal_path: needs a PostgreSQL store, because SQLite is on this machine's"),
    ({"server.journal_max_bytes": 1 << 20}, "server.journal_max_bytes: needs a PostgreSQL store, because SQLite is on"),
    ({"store.url": "postgresql://db/x", "server.journal_max_bytes": 1 << 20},
     "server.journal_max_bytes: has no meaning without journal_path; set that, too, or remove this key"),
    ({"store.url": "postgresql://db/x", "server.journal_path": "x", "server.journal_max_bytes": 1}, "server.journal_max_bytes: expected a number of bytes from 1048576 to 1099511627776,"),
    ({"store.url": "postgresql://db/x", "server.journal_path": ""}, "server.journal_path: expected a directory on a disk"),
    ({"server.drain_s": 601}, "server.drain_s: expected seconds from 0 to 600, came 601;"),
    ({"server.drain_s": -1}, "server.drain_s: expected seconds from 0 to 600, came -1;"),
    ({"admin.port": 8080, "admin.host": "0.0.0.0"}, "admin.port: the same as server.port on the same address; give"),
    ({"admin.token": "x" * 15}, "admin.token: expected a token of at least 16 visible ASCII characters, came a string of 15"),
    ({"admin.jobs_token": "x" * 15}, "admin.jobs_token: expected a token of at least 16 visible ASCII characters, came a string of 15"),
    ({"admin.token": ["x" * 16, "x" * 15]}, "admin.token[1]: expected a token of at least 16 visible ASCII characters, came a string of 15"),
    ({"admin.jobs_token": ["x" * 15 + "ö"]}, "admin.jobs_token[0]: expected a token of at least 16 visible ASCII characters, came a string of 16"),
    ({"admin.token": "x" * 16 + "\n"}, "admin.token: expected a token of at least 16 visible ASCII characters, came a string of 17"),
    ({"admin.page": "maybe"}, "admin.page: expected one of on, read-only, off, came"),
    ({"admin.hosts": []}, "admin.hosts: expected host names, each without a port, came an empty list"),
    ({"admin.hosts": ["https://ops.example"]}, "admin.hosts[0]: expected an element of host names, each without a port, came"),
    ({"admin.hosts": "ops.example:8081"}, "admin.hosts: expected host names, each without a port, came"),
    ({"admin.token": []}, "admin.token: expected a token of at least 16 visible ASCII characters, or a list of such tokens, came an empty list"),
    ({"admin.jobs_token": []}, "admin.jobs_token: expected a token of at least 16 visible ASCII characters, or a list of such tokens, came an empty"),
    ({"admin.token": [16]}, "admin.token[0]: expected an element of a token of at least 16 visible ASCII characters, or a list of such tokens, came"),
    ({"admin.token": {"new": "x" * 16}}, "admin.token: expected a token of at least 16 visible ASCII characters, or a list of such tokens, came a table"),
    ({"admin.jobs_token": ["y" * 16, "x" * 16], "admin.token": ["z" * 16, "x" * 16]}, "admin.jobs_token: the same as token, which opens"),
    ({"admin.jobs_token": "x" * 16, "admin.token": "x" * 16}, "admin.jobs_token: the same as token, which opens everything; make another"),
    # jobs
    ({"jobs": {"deadline_s": 0}}, "jobs.deadline_s: expected seconds from 0.05 to 2592000, came 0; for example deadline_s = 3600"),
    ({"jobs": {"retry_s": 0.04}}, "jobs.retry_s: expected seconds from 0.05 to 3600, came 0.04"),
    ({"jobs": {"give_up_s": 2592001}}, "jobs.give_up_s: expected seconds from 0.05 to 2592000, came 2592001"),
    ({"jobs": {"deadlin_s": 1}}, 'jobs.deadlin_s: unknown key; did you mean "deadline_s"?'),
    ({"store.url": "postgresql+asyncpg://u:p@h/db"}, "store.url: expected postgresql:// at its beginning"),
    ({"store.url": "postgresql://u:p#@h/db"}, "store.url: expected postgresql://user:password@host:port/database"),
    ({"store.url": "postgresql://u:p/@h/db"}, "store.url: expected postgresql://user:password@host:port/database"),
    ({"store.url": "postgresql://u:p@h:port/db"}, "store.url: expected postgresql://user:password@host:port/database"),
    ({"store.url": "postgresql://u:p@h"}, "store.url: expected postgresql://user:password@host:port/database"),
    ({"store.pool_size": 4}, "store.pool_size: expected a number from 5 to 200"),
    ({"store.url": "mysql://h/db"}, "store.url: expected sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://"),
    ({"store.url": "sqlite://"}, "store.url: expected sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://"),
    ({"store.url": "sqlite:///"}, "store.url: expected a file after sqlite:///, came none; without one nothing would be"),
    ({"store.url": "sqlite:///:memory:"}, "store.url: expected a file after sqlite:///, came none; without one nothing"),
    ({"store.url": "sqlite:///a?mode=memory"}, "store.url: expected a plain file name after sqlite:///, came one with ?"),
    ({"store.dedup_days": 29}, "store.dedup_days: expected at least as many days as retention_days, came fewer; raise"),
    ({"store.auto_migrate": "perhaps"}, 'store.auto_migrate: expected true or false, came "perhaps"'),
    # transports and products
    ({"sources.vod.transport": REMOVED}, "sources.vod.transport: missing; expected one of http, mns-push, mns-queue, token-url"),
    ({"sources.vod.transport": "htp"}, 'sources.vod.transport: expected one of http, mns-push, mns-queue, token-url, came "htp"; did you mean "http"?'),
    ({"sources.vod.transport": 3}, "sources.vod.transport: expected one of http, mns-push, mns-queue, token-url, came 3"),
    ({"sources.vod.transport": "query"}, 'sources.vod.transport: "query" is not something to configure'),
    ({"sources.vod.product": REMOVED}, "sources.vod.product: missing; expected "),
    ({"sources.vod.product": "vodd"}, 'sources.vod.product: expected one of vod, ims, came "vodd"; did you mean "vod"?'),
    ({"sources.vod.product": "mts"}, 'sources.vod.product: transport "http" carries vod, ims, not mts; use transport = "mns-push"'),
    ({"sources.mts.product": "ims"}, 'sources.mts.product: transport "mns-push" carries mts, not ims; the vendor writes its messages to queues only; use transport = "http"'),
    ({"sources.gif.product": "vod"}, 'sources.gif.product: transport "token-url" carries multimediaai, not vod; use'),
    ({"sources.vod.topics": ["1/a"]}, "sources.vod.topics: unknown key; known are: account, vendor, confirm, confirm_timeout_s, enrich, path, product, "),
    # paths and urls
    ({"sources.vod.path": REMOVED}, "sources.vod.path: missing; expected the path to listen on; for example path = "),
    ({"sources.vod.path": "x"}, 'sources.vod.path: expected a path that begins with "/"'),
    ({"sources.vod.path": "/a%20b"}, 'sources.vod.path: expected a path that begins with "/"'),
    ({"sources.vod.path": "/a//b"}, 'sources.vod.path: expected a path that begins with "/"'),
    ({"sources.vod.path": "/a/../b"}, 'sources.vod.path: expected a path that begins with "/"'),
    ({"sources.vod.path": "/a\n"}, 'sources.vod.path: expected a path that begins with "/"'),
    ({"sources.vod.path": "/a?b"}, "sources.vod.path: expected a path alone, came one with a query or fragment"),
    ({"sources.vod.path": "/a/"}, "sources.vod.path: expected a path without a slash at its end, came one with it"),
    ({"sources.vod.path": "/health"}, "sources.vod.path: expected a path outside /health, which belongs to the service"),
    ({"sources.vod.path": "/health/x"}, "sources.vod.path: expected a path outside /health, which belongs to the service"),
    ({"sources.mts.path": VOD["path"]}, "sources.mts.path: the same as sources.vod.path; give each source a path of"),
    ({"sources.mts.path": "/callbacks/gif/x"}, "sources.gif.path: takes all paths below it, and sources.mts.path is one"),
    ({"sources.vod2": {**VOD, "path": "/callbacks/gif/x/y"}}, "sources.vod2.path: lies below sources.gif.path, which takes all paths"),
    ({"sources.vod.url": "/callbacks"}, "sources.vod.url: expected an absolute URL, http:// or https:// with a host"),
    ({"sources.vod.url": ["ftp://h/"]}, "sources.vod.url[0]: expected an absolute URL, http:// or https:// with a host"),
    ({"sources.vod.url": "https:///x"}, "sources.vod.url: expected an absolute URL, http:// or https:// with a host"),
    ({"sources.vod.url": "http://[x"}, "sources.vod.url: expected an absolute URL, http:// or https:// with a host"),
    ({"sources.vod.url": "http://h:99999/"}, "sources.vod.url: expected an absolute URL, http:// or https:// with a host"),
    ({"sources.vod.url": "https://h/a b"}, "sources.vod.url: expected an absolute URL, http:// or https:// with a host"),
    ({"sources.vod.url": LONG_URL}, "sources.vod.url: expected at most 256 bytes, came 257; the vendor takes no more"),
    ({"sources.vod.url": []}, "sources.vod.url: expected the URL as registered with the vendor, or a list of them, came an empty list"),
    ({"sources.gif.url": "https://h/x?y=1"}, "sources.gif.url: expected a URL without query and fragment"),
    # http
    ({"sources.vod.keys": REMOVED}, "sources.vod.keys: missing; expected a list of the vendor's keys"),
    ({"sources.vod.keys": "abcdef"}, "sources.vod.keys: expected a list of the vendor's keys, each of at least 6 characters without blanks, came a string of 6 characters"),
    ({"sources.vod.keys": ["abcdef", "abcde"]}, "sources.vod.keys[1]: expected an element of a list of the vendor's keys, each of at least 6 characters without blanks, came a string of 5"),
    ({"sources.vod.keys": []}, "sources.vod.keys: expected at least one key, came none;"),
    ({"sources.vod.unsigned": "accept"}, "sources.vod.unsigned: expected keys = [] together with it, came keys;"),
    ({"sources.vod.unsigned": "yes"}, 'sources.vod.unsigned: expected "accept", came "yes"'),
    ({"sources.vod.unsigned": "accept", "sources.vod.keys": []}, "sources.vod.path: expected an unguessable segment (at least 6 characters, a digit among them)"),
    ({"sources.vod.unsigned": "accept", "sources.vod.keys": [], "sources.vod.path": "/callback/12345/abcdefgh"}, "sources.vod.path: expected an unguessable segment"),
    ({"sources.vod.max_age_s": 0}, "sources.vod.max_age_s: expected seconds from 1 to 86400, came 0"),
    ({"sources.mts.max_age_s": 86401}, "sources.mts.max_age_s: expected seconds from 1 to 86400, came 86401; for example max_age_s = 900"),
    ({"sources.vod.account": "a b"}, "sources.vod.account: expected a name of letters, digits, _, . and -, came"),
    # mns-push
    ({"sources.mts.topics": REMOVED}, "sources.mts.topics: missing; expected a list of topics, each as"),
    ({"sources.mts.topics": []}, "sources.mts.topics: expected a list of topics, each as \"<owner's account id>/<topic name>\", came an empty list"),
    ({"sources.mts.topics": ["mts-done"]}, "sources.mts.topics[0]: expected an element of a list of topics, each as \"<owner's account id>/<topic name>\", came \"mts-done\""),
    ({"sources.mts.regions": ["Hang Zhou"]}, "sources.mts.regions[0]: expected an element of a list of region names, came"),
    ({"sources.mts.url": "x"}, "sources.mts.url: expected an absolute URL"),
    ({"sources.mts.certificates": {"https://h/c": "x"}}, 'sources.mts.certificates."https://h/c": expected one certificate in PEM form'),
    # token-url
    ({"sources.gif.keys": []}, "sources.gif.keys: expected a list of keys, each as"),
    ({"sources.gif.keys": ["256:" + GIF["keys"][0][2:]]}, 'sources.gif.keys[0]: expected "<key id>:<base64>" with a key id from 0 to 255'),
    ({"sources.gif.keys": [GIF["keys"][0][2:]]}, 'sources.gif.keys[0]: expected "<key id>:<base64>" with a key id'),
    ({"sources.gif.keys": ["1:!" + GIF["keys"][0][2:]]}, "sources.gif.keys[0]: expected base64 after the key id, came something"),
    ({"sources.gif.keys": ["1:" + base64.b64encode(b"x" * 31).decode()]}, "sources.gif.keys[0]: expected a key of at least 32 bytes, came 31;"),
    ({"sources.gif.keys": GIF["keys"] * 2}, "sources.gif.keys: expected each key id once, came id 1 2 times"),
    # mns-queue
    ({"sources.q": {**QUEUE, "product": "multimediaai"}}, 'sources.q.product: transport "mns-queue" carries vod, ims, mts, not multimediaai; use transport = "token-url"'),
    ({"sources.q": {**QUEUE, "endpoint": "mns.cn-hangzhou.aliyuncs.com"}}, "sources.q.endpoint: expected an absolute URL"),
    ({"sources.q": {**QUEUE, "endpoint": "https://id:key@h"}}, "sources.q.endpoint: expected a URL without user name and password"),
    *(({"sources.q": {**QUEUE, "endpoint": f"https://h{end}"}}, "sources.q.endpoint: expected a URL of scheme and host alone, came one with a path") for end in ("/queues/q", "//", "?", "/?x=1", "#")),
    ({"sources.q": {**QUEUE, "queue": "a_b"}}, "sources.q.queue: expected a queue's name, 1 to 120 letters, digits and hyphens, came \"a_b\""),
    ({"sources.q": {**QUEUE, "queue": "q" * 121}}, "sources.q.queue: expected a queue's name, 1 to 120 letters, digits and hyphens, came a string of 121"),
    ({"sources.q": {**QUEUE, "signature": "v3"}}, 'sources.q.signature: expected one of v2, v4, came "v3"'),
    ({"sources.q": {**QUEUE, "pollers": 17}}, "sources.q.pollers: expected a number from 1 to 16, came 17"),
    ({"sources.q": {**QUEUE, "pollers": 0}}, "sources.q.pollers: expected a number from 1 to 16, came 0"),
    ({"sources.q": {**QUEUE, "long_poll_s": 31}}, "sources.q.long_poll_s: expected whole seconds from 0 to 30, came 31"),
    ({"sources.q": {**QUEUE, "path": "/x"}}, "sources.q.path: unknown key; known are: "),
    ({"sources.q": QUEUE, "sources.r": {**QUEUE, "endpoint": QUEUE["endpoint"].upper().replace("HTTPS", "https") + "/"}},
     "sources.r.queue: the same as sources.q.queue, so that each would get a part of the messages; give each"),
    # asking the vendor
    ({"vendor": {}, "sources.q": QUEUE}, "sources.q.vendor: missing; a queue is read with credentials: add a table [vendor.<name>] with a region"),
    ({"vendor": REMOVED, "sources.gif.confirm": "when-unsigned"}, "sources.gif.confirm: needs credentials to ask the vendor's job API: add a table [vendor.<name>]"),
    ({"vendor": {}, "sources.vod.enrich": True}, "sources.vod.enrich: needs credentials to ask the vendor's job API: add a table [vendor.<name>]"),
    ({"vendor.other": VENDOR, "sources.q": QUEUE}, 'sources.q.vendor: missing; a queue is read with credentials: say whose with vendor = "<name>" (known are: main, other)'),
    ({"vendor.other": VENDOR, "sources.mts.confirm": "always"}, "sources.mts.confirm: needs credentials to ask the vendor's job API: say whose with vendor"),
    ({"sources.gif.vendor": "mian", "sources.gif.confirm": "always"}, 'sources.gif.vendor: expected the name of a table [vendor.<name>], came "mian"; did you mean "main"?'),
    ({"vendor": {}, "sources.q": {**QUEUE, "vendor": "main"}}, 'sources.q.vendor: expected the name of a table [vendor.<name>], came "main"; there is none: add a table'),
    ({"sources.vod.vendor": "Main"}, 'sources.vod.vendor: expected the name of a table [vendor.<name>], came "Main"; for example vendor = "main"'),
    ({"sources.vod.confirm": "sometimes"}, 'sources.vod.confirm: expected one of never, when-unsigned, always, came "sometimes"'),
    ({"sources.vod.confirm_timeout_s": 0.5}, "sources.vod.confirm_timeout_s: expected seconds from 1 to 86400, came 0.5"),
    ({"sources.vod.enrich": "perhaps"}, 'sources.vod.enrich: expected true or false, came "perhaps"'),
    ({"vendor": 3, "sources.q": QUEUE}, "vendor: expected a table, came a number"),
    # vendor
    ({"vendor.main.access_key_id": REMOVED}, "vendor.main.access_key_id: missing; give access_key_id and access_key_secret, or neither"),
    ({"vendor.main.access_key_secret": REMOVED}, "vendor.main.access_key_secret: missing; give access_key_id and access_key_secret, or neither"),
    ({"vendor.main": {"region": "cn-hangzhou", "security_token": "sts"}}, "vendor.main.security_token: belongs to an access key; give access_key_id and"),
    ({"vendor.main.region": REMOVED}, "vendor.main.region: missing; expected a region name; for example region = "),
    ({"vendor.main.endpoints": {"vodd": "h"}}, 'vendor.main.endpoints.vodd: expected one of vod, ice, mts, multimediaai, came "vodd"; did you mean "vod"?'),
    ({"vendor.main.rates": {"GetJobDetail": 0}}, "vendor.main.rates.GetJobDetail: expected a table from the name of an action"),
    ({"vendor.main.rates": {"get job": 1}}, 'vendor.main.rates."get job": expected a table from the name of an action'),
    ({"vendor.main.endpoints": {"vod": "a b"}}, "vendor.main.endpoints.vod: expected a table from vod, ice, mts or"),
    # sinks
    ({"sinks.out.kind": REMOVED}, f"sinks.out.kind: missing; expected one of {SINKS}"),
    ({"sinks.out.kind": "webhok"}, f'sinks.out.kind: expected one of {SINKS}, came "webhok"; did you mean "webhook"?'),
    ({"sinks.out.kind": ["stdout"]}, f"sinks.out.kind: expected one of {SINKS}, came a list"),
    ({"sinks.out.timeout_s": 3}, "sinks.out.timeout_s: unknown key; known are: match, retry_delays_s, rate_per_s, kind"),
    ({"sinks.out.retry_delays_s": []}, "sinks.out.retry_delays_s: expected a list of 1 to 50 delays, each of 1 to 604800 seconds, came an empty list; for example retry_delays_s = [5, 30, 120]"),
    ({"sinks.out.retry_delays_s": [5] * 51}, "sinks.out.retry_delays_s: expected a list of 1 to 50 delays, each of 1 to 604800 seconds, came a list"),
    ({"sinks.out.retry_delays_s": [5, 0.9]}, "sinks.out.retry_delays_s[1]: expected an element of a list of 1 to 50 delays, each of 1 to 604800 seconds, came 0.9"),
    ({"sinks.out.retry_delays_s": [604801]}, "sinks.out.retry_delays_s[0]: expected an element of a list of 1 to 50 delays"),
    ({"sinks.out.retry_delays_s": [True]}, "sinks.out.retry_delays_s[0]: expected an element of a list of 1 to 50 delays"),
    ({"sinks.out.retry_delays_s": 5}, "sinks.out.retry_delays_s: expected a list of 1 to 50 delays, each of 1 to 604800 seconds, came 5"),
    ({"sinks.out.rate_per_s": 0}, "sinks.out.rate_per_s: expected deliveries per second, more than 0 and at most 10000, came 0"),
    ({"sinks.out.rate_per_s": 10001}, "sinks.out.rate_per_s: expected deliveries per second, more than 0 and at most 10000, came 10001"),
    ({"sinks.out.rate_per_s": float("inf")}, "sinks.out.rate_per_s: expected deliveries per second, more than 0"),
    ({"sinks.orders.headers": "X: y"}, "sinks.orders.headers: expected a table from header name to text, came a string of 4 characters"),
    ({"sinks.orders.headers": {"X Y": "a"}}, 'sinks.orders.headers."X Y": expected a header name of letters, digits and hyphens, came something else'),
    ({"sinks.orders.headers": {"": "a"}}, 'sinks.orders.headers."": expected a header name of letters, digits and hyphens'),
    ({"sinks.orders.headers": {"X-A": 5}}, "sinks.orders.headers.X-A: expected a table from header name to text, came a number"),
    ({"sinks.orders.headers": {"X-A": "a\r\nX-B: b"}}, "sinks.orders.headers.X-A: expected at most 4096 printable ASCII characters, came something else"),
    ({"sinks.orders.headers": {"X-A": "\x00"}}, "sinks.orders.headers.X-A: expected at most 4096 printable ASCII characters"),
    ({"sinks.orders.headers": {"X-A": "ü"}}, "sinks.orders.headers.X-A: expected at most 4096 printable ASCII characters"),
    ({"sinks.orders.headers": {"X-A": "1", "x-a": "2"}}, "sinks.orders.headers: expected each header once, came x-a in several spellings; keep one"),
    ({"sinks.orders.headers": {"authorization": "x"}, "sinks.orders.bearer_token": "t"}, "sinks.orders.headers: expected no Authorization together with bearer_token, came both; keep one"),
    *(({"sinks.orders.headers": {name: "x"}}, f"sinks.orders.headers.{name}: a header that the service sets itself; leave it out")
      for name in ("webhook-id", "Webhook-Signature", "webhook-new", "Content-Type", "content-length", "Host", "Transfer-Encoding", "Connection", "Content-Encoding", "Expect", "Media-Callbacks-Replay")),
    ({"sinks.orders.bearer_token": ""}, "sinks.orders.bearer_token: expected a token of visible ASCII characters, came an empty string"),
    ({"sinks.orders.bearer_token": "a b"}, "sinks.orders.bearer_token: expected a token of visible ASCII characters, came a string of 3"),
    ({"sinks.topic": {"kind": "sns"}}, "sinks.topic.topic_arn: missing; expected the ARN of a topic; for example topic_arn = "),
    ({"sinks.topic": {**SNS, "topic_arn": "media"}}, 'sinks.topic.topic_arn: expected the ARN of a topic, came "media"; for example topic_arn = '),
    ({"sinks.topic": {**SNS, "topic_arn": SNS["topic_arn"].replace("sns", "sqs")}}, "sinks.topic.topic_arn: expected the ARN of a topic, came "),
    ({"sinks.topic": {**SNS, "region": "eu-west-2"}}, "sinks.topic.region: expected that of topic_arn, came another one; leave it out"),
    ({"sinks.topic": {**SNS, "region": "EU West"}}, "sinks.topic.region: expected a region name, came a string of 7 characters"),
    ({"sinks.topic": {**SNS, "endpoint_url": "localhost"}}, "sinks.topic.endpoint_url: expected an absolute URL"),
    ({"sinks.topic": {**SNS, "queue_url": "https://h/"}}, "sinks.topic.queue_url: unknown key; known are: match, retry_delays_s, rate_per_s, region, "),
    ({"sinks.topic": {**SNS, "timeout_s": 26}}, "sinks.topic.timeout_s: expected seconds, more than 0 and at most 25"),
    ({"sinks.topic": {**SNS, "concurrency": 1001}}, "sinks.topic.concurrency: expected a number from 1 to 1000, came 1001"),
    ({"sinks.events": {"kind": "eventbridge", "event_bus_name": ""}}, "sinks.events.event_bus_name: expected the name or the ARN of an event bus, came an empty string"),
    ({"sinks.events": {"kind": "eventbridge", "event_bus_name": "arn:aws:sns:eu-west-1:123456789012:x"}}, "sinks.events.event_bus_name: expected the name or the ARN of an event bus"),
    ({"sinks.events": {**BUS_ARN, "region": "eu-west-2"}}, "sinks.events.region: expected that of event_bus_name, came another one"),
    ({"sinks.events": {**BUS_ARN, "bus": "x"}}, "sinks.events.bus: unknown key; known are: "),
    ({"sinks.stream": {"kind": "kinesis"}}, 'sinks.stream.stream_name: missing; expected the name or the ARN of a stream; for example stream_name = "media"'),
    ({"sinks.stream": {"kind": "kinesis", "stream_name": "a b"}}, "sinks.stream.stream_name: expected the name or the ARN of a stream, came a string of 3"),
    ({"sinks.stream": {**STREAM_ARN, "region": "eu-west-2"}}, "sinks.stream.region: expected that of stream_name, came another one"),
    ({"sinks.mns": {**MNS, "vendor": "mian"}}, 'sinks.mns.vendor: expected the name of a table [vendor.<name>], came "mian"; did you mean "main"?'),
    ({"sinks.mns": MNS, "vendor.other": VENDOR}, 'sinks.mns.vendor: missing; events are sent there with credentials: say whose with vendor = "<name>"'),
    ({"sinks.mns": {**MNS, "queue": "a/b"}}, "sinks.mns.queue: expected a queue's name, 1 to 120 letters, digits and hyphens"),
    ({"sinks.mns": {**MNS, "endpoint": MNS["endpoint"] + "/queues/media"}}, "sinks.mns.endpoint: expected a URL of scheme and host alone"),
    ({"sources.q": QUEUE, "sinks.mns": {**MNS, "endpoint": QUEUE["endpoint"] + "/", "queue": QUEUE["queue"]}}, "sinks.mns.queue: the same as sources.q.queue, so that events would come back as callbacks; take another"),
    ({"sinks.mns": {**MNS, "topic": "x"}}, "sinks.mns.topic: unknown key"),
    ({"sinks.mns": {"kind": "mns-topic", "endpoint": MNS["endpoint"]}}, 'sinks.mns.topic: missing; expected a topic\'s name, 1 to 120 letters, digits and hyphens; for example topic = "media"'),
    ({"sinks.events": {**EVENTS, "event_bus": "-b"}}, "sinks.events.event_bus: expected a bus's name, 1 to 127 letters, digits and hyphens"),
    ({"sinks.events": {**EVENTS, "endpoint": "eventbridge"}}, "sinks.events.endpoint: expected an absolute URL"),
    ({"sinks.orders.url": "orders"}, "sinks.orders.url: expected an absolute URL"),
    ({"sinks.orders.url": "http://u:p@h/"}, "sinks.orders.url: expected a URL without user name and password"),
    ({"sinks.orders.secrets": []}, "sinks.orders.secrets: expected a list of at least one secret"),
    ({"sinks.orders.secrets": ["whsec_" + base64.b64encode(b"x" * 23).decode()]}, "sinks.orders.secrets[0]: expected a secret of 24 to 64 bytes, came 23;"),
    ({"sinks.orders.secrets": ["whsec_" + base64.b64encode(b"x" * 65).decode()]}, "sinks.orders.secrets[0]: expected a secret of 24 to 64 bytes, came 65;"),
    ({"sinks.orders.secrets": ["whsec_" + "-" * 32]}, "sinks.orders.secrets[0]: expected whsec_ and base64 of 24 to 64 bytes"),
    ({"sinks.orders.timeout_s": 25.5}, "sinks.orders.timeout_s: expected seconds, more than 0 and at most 25, came 25.5"),
    ({"sinks.bus.concurrency": 1001}, "sinks.bus.concurrency: expected a number from 1 to 1000, came 1001; for example concurrency = 4"),
    ({"sinks.bus.timeout_s": 26}, "sinks.bus.timeout_s: expected seconds, more than 0 and at most 25, came 26"),
    ({"sinks.orders.concurrency": 0}, "sinks.orders.concurrency: expected a number from 1 to 1000, came 0"),
    ({"sinks.bus.queue_url": "media.fifo"}, "sinks.bus.queue_url: expected an absolute URL"),
    ({"sinks.kafka": {"kind": "kafka"}}, "sinks.kafka.brokers: missing; expected host:port of a broker, or a list of them; for example brokers = "),
    ({"sinks.kafka": {**KAFKA, "brokers": []}}, "sinks.kafka.brokers: expected host:port of a broker, or a list of them, came an empty list"),
    ({"sinks.kafka": {**KAFKA, "brokers": ["a:1", "kafka://b:2"]}}, "sinks.kafka.brokers[1]: expected host:port such as kafka-1.example.com:9093, without a scheme, came something else"),
    ({"sinks.kafka": {**KAFKA, "brokers": "a"}}, "sinks.kafka.brokers: expected host:port such as"),
    ({"sinks.kafka": {**KAFKA, "brokers": "a:0"}}, "sinks.kafka.brokers: expected host:port such as"),
    ({"sinks.kafka": {**KAFKA, "topic": "media/{kind}"}}, "sinks.kafka.topic: expected letters, digits, _ and -, levels parted by dots, and any of {type}, "),
    ({"sinks.kafka": {**KAFKA, "topic": "m" * 230 + ".{type}"}}, "sinks.kafka.topic: makes names of up to 261 characters, expected at most 249; shorten it"),
    ({"sinks.kafka": {**KAFKA, "content_mode": "batched"}}, 'sinks.kafka.content_mode: expected one of structured, binary, came "batched"'),
    ({"sinks.kafka": {**KAFKA, "mechanism": "GSSAPI"}}, 'sinks.kafka.mechanism: expected one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, came "GSSAPI"'),
    ({"sinks.kafka": {**KAFKA, "user": "u"}}, "sinks.kafka.user: has no meaning without password; set that, too, or remove this key"),
    ({"sinks.kafka": {**KAFKA, "password": "p"}}, "sinks.kafka.password: has no meaning without user;"),
    ({"sinks.kafka": {**KAFKA, "ca_file": "/a"}}, "sinks.kafka.ca_file: has no meaning without tls; set tls = true, or remove this key"),
    ({"sinks.nats": {"kind": "nats"}}, "sinks.nats.servers: missing; expected a URL of a server, or a list of them; for example servers = "),
    ({"sinks.nats": {**NATS, "servers": []}}, "sinks.nats.servers: expected a URL of a server, or a list of them, came an empty list"),
    ({"sinks.nats": {**NATS, "servers": "https://a:4222"}}, "sinks.nats.servers: expected nats://host:port, or tls://host:port for TLS, came something else"),
    ({"sinks.nats": {**NATS, "servers": ["nats://a:4222", "nats://b:99999"]}}, "sinks.nats.servers[1]: expected nats://host:port"),
    ({"sinks.nats": {**NATS, "servers": "nats://u:S3cr3t@a"}}, "sinks.nats.servers: expected a URL without user name and password, came one with them; there are keys for both"),
    ({"sinks.nats": {**NATS, "servers": ["nats://a", "tls://b"]}}, "sinks.nats.servers: expected nats:// or tls:// for all servers, came both; use one"),
    ({"sinks.nats": {**NATS, "subject": "media.>"}}, "sinks.nats.subject: expected letters, digits, _ and -, levels parted by dots, and any of {type}, "),
    ({"sinks.nats": {**NATS, "subject": "media.{job_id}"}}, "sinks.nats.subject: expected one of {type}, {kind}, {outcome}, {product}, {source} within braces"),
    ({"sinks.nats": {**NATS, "subject": "m" * 230 + ".{type}"}}, "sinks.nats.subject: makes names of up to 261 characters, expected at most 255; shorten it"),
    ({"sinks.nats": {**NATS, "stream": "a.b"}}, "sinks.nats.stream: expected the name of a stream, letters, digits, _ and -, came "),
    ({"sinks.nats": {**NATS, "user": "u"}}, "sinks.nats.user: has no meaning without password; set that, too, or remove this key"),
    ({"sinks.nats": {**NATS, "password": "p"}}, "sinks.nats.password: has no meaning without user;"),
    ({"sinks.nats": {**NATS, "token": "t", "credentials_file": "/a"}}, "sinks.nats.credentials_file: expected one way to say who this is, came token, too; keep one of them"),
    ({"sinks.nats": {**NATS, "nkey_seed": "UA23"}}, "sinks.nats.nkey_seed: expected the seed of a user's nkey, SU and 56 more, came "),
    ({"sinks.nats": {**NATS, "ca_file": "ca.pem"}}, "sinks.nats.ca_file: expected an absolute path such as /run/secrets/ca.pem, without file:, came something else"),
    ({"sinks.nats": {**NATS, "key_file": "/me.key"}}, "sinks.nats.key_file: has no meaning without certificate_file; set that, too, or remove this key"),
    ({"sinks.rabbitmq": {**RABBITMQ, "servers": "amqp://u:S3cr3t@a"}}, "sinks.rabbitmq.servers: expected a URL without user name and password, came one with them; there are keys for both"),
    ({"sinks.rabbitmq": {**RABBITMQ, "servers": "amqp://a/b"}}, "sinks.rabbitmq.servers: expected amqp://host:port, or amqps://host:port for TLS, came something else"),
    ({"sinks.rabbitmq": {**RABBITMQ, "servers": ["amqp://a", "amqps://b"]}}, "sinks.rabbitmq.servers: expected amqp:// or amqps:// for all servers, came both; use one"),
    ({"sinks.rabbitmq": {key: value for key, value in RABBITMQ.items() if key != "password"}}, 'sinks.rabbitmq.password: missing; expected a password; for example password = "${RABBITMQ_PASSWORD}"'),
    ({"sinks.rabbitmq": {**RABBITMQ, "password": "$SECRET"}}, "sinks.rabbitmq.password: expected the secret itself, came what stands for one"),
    ({"sinks.rabbitmq": {**RABBITMQ, "exchange": ""}}, "sinks.rabbitmq.exchange: expected the name of an exchange, letters, digits and ._:-, came an empty string"),
    ({"sinks.rabbitmq": {**RABBITMQ, "virtual_host": "a%2Fb"}}, "sinks.rabbitmq.virtual_host: expected the name of a virtual host, without %, came "),
    ({"sinks.rabbitmq": {**RABBITMQ, "routing_key": "media.#"}}, "sinks.rabbitmq.routing_key: expected letters, digits, _ and -, levels parted by dots, and any of {type}, "),
    ({"sinks.rabbitmq": {**RABBITMQ, "concurrency": 2}}, "sinks.rabbitmq.concurrency: unknown key"),
    # match
    ({"sinks.out.match": "all"}, "sinks.out.match: expected a table, came a string of 3 characters"),
    ({"sinks.out.match": {"types": "x"}}, "sinks.out.match.types: unknown key; known are: product, account, kind"),
    ({"sinks.out.match": {"kind": []}}, "sinks.out.match.kind: expected a word or a list of words that is not empty, came an empty list"),
    ({"vendor.main.endpoints": {"[key]": "h"}}, 'vendor.main.endpoints."[key]": expected one of vod, ice, mts'),
    ({"sinks.out.match": {"kind": "snapshott"}}, "sinks.out.match.kind: expected one of animated_image, "),
    ({"sinks.out.match": {"kind": ["notice", "snapshott"]}}, 'sinks.out.match.kind[1]: expected one of animated_image, snapshot, transcode, transcode_task, media_info, analysis, workflow, production, review, fingerprint, ai, upload, asset, notice, operational, came "snapshott"; did you mean "snapshot"?'),
    ({"sinks.out.match": {"source": ["vod", "giff"]}}, 'sinks.out.match.source: expected the name of a source, came "giff"; did you mean "gif"?'),
    ({"sinks.out.match": {"account": "main"}}, 'sinks.out.match.account: expected the account of a source, came "main"; known are: default'),
    ({"sinks.out.match": {"exclude": "all"}}, "sinks.out.match.exclude: expected a table, came a string of 3 characters"),
    ({"sinks.out.match": {"exclude": {}}}, "sinks.out.match.exclude: expected at least one key, came none, which would exclude everything; remove the table"),
    ({"sinks.out.match": {"exclude": {"outcom": "failed"}}}, 'sinks.out.match.exclude.outcom: unknown key; did you mean "outcome"?'),
    ({"sinks.out.match": {"exclude": {"exclude": {"kind": "notice"}}}}, "sinks.out.match.exclude.exclude: unknown key; known are: product, "),
    ({"sinks.out.match": {"exclude": {"kind": "notices"}}}, "sinks.out.match.exclude.kind: expected one of animated_image, "),
    ({"sinks.out.match": {"exclude": {"source": "giff"}}}, 'sinks.out.match.exclude.source: expected the name of a source, came "giff"; did you mean "gif"?'),
    ({"sinks.out.match": {"exclude": {"kind": "notice", "outcome": "failed"}}}, "sinks.out.match.exclude.outcome: can never be true with this kind"),
    ({"sinks.out.match": {"exclude": {"product": "ims"}}}, "sinks.out.match.exclude.product: can never be true: no configured source has this product;"),
    ({"sinks.out.match": {"kind": "notice", "exclude": {"outcome": "received"}}}, "sinks.out.match.exclude: leaves nothing of what the match lets through; narrow it, or remove the sink"),
    ({"sinks.out.match": {"source": "gif", "exclude": {"product": "multimediaai"}}}, "sinks.out.match.exclude: leaves nothing of what"),
    ({"sinks.out.match": {"exclude": {"account": "default"}}}, "sinks.out.match.exclude: leaves nothing of what"),
    ({"sinks.out.match": {"vendor_event": ["X", "Y"], "exclude": {"vendor_event": ["X", "Y", "Z"]}}}, "sinks.out.match.exclude: leaves nothing of what"),
    ({"sinks.out.match": {"user_data_prefix": "order-7", "exclude": {"user_data_prefix": ["order-", "x"]}}}, "sinks.out.match.exclude: leaves nothing of what"),
    ({"sinks.out.match": {"user_data_prefix": ""}}, "sinks.out.match.user_data_prefix: expected a word or a list of words"),
    ({"sinks.out.match": {"product": "ims"}}, "sinks.out.match.product: can never be true: no configured source has this product;"),
    ({"sinks.out.match": {"product": "vod", "source": "gif"}}, "sinks.out.match.product: can never be true: no configured source has this product with this source"),
    ({"sinks.out.match": {"kind": "notice", "outcome": "failed"}}, "sinks.out.match.outcome: can never be true with this kind"),
    ({"sinks.out.match": {"kind": "operational", "product": "vod"}}, 'sinks.out.match.product: has no meaning beside kind = "operational"'),
    ({"sinks.out.match": {"kind": "operational", "trouble": "disk"}}, "sinks.out.match.trouble: expected one of sink_disabled, "),
    ({"sinks.out.match": {"kind": "operational", "trouble": "disk_low", "exclude": {"kind": "operational"}}}, "sinks.out.match.exclude: leaves nothing of what the match lets through"),
    ({"sinks.out.match": {"kind": "operational", "exclude": {"trouble": "disk_low"}}}, 'sinks.out.match.exclude.trouble: has a meaning beside kind = "operational" alone'),
    ({"sinks.out.match": {"trouble": "disk_low"}}, 'sinks.out.match.trouble: has a meaning beside kind = "operational" alone'),
    ({"sinks.out.match": {"kind": "snapshot", "trouble": "disk_low"}}, 'sinks.out.match.trouble: has a meaning beside kind = "operational" alone'),
    ({"sinks.out.match": {"kind": ["operational", "snapshot"], "outcome": "received"}}, "sinks.out.match.outcome: can never be true with this kind"),
    ({"sinks.out.match": {"kind": "snapshot", "outcome": "received"}}, "sinks.out.match.outcome: can never be true with this kind"),
    ({"sinks.out.match": {"source": "gif", "kind": "snapshot"}}, "sinks.out.match.kind: can never be true: the sources that this match leaves are of product multimediaai"),
    ({"sinks.out.match": {"product": "multimediaai", "kind": ["snapshot", "notice"], "outcome": "failed"}}, "sinks.out.match.kind: can never be true: the sources"),
    ({"sinks.out.match": {"product": "vod", "kind": "analysis"}}, "sinks.out.match.kind: can never be true: the sources that this match leaves are of product vod, which gives only animated_image, snapshot, "),
    ({"sinks.out.match": {"source": ["mts", "gif"], "kind": ["upload", "asset"]}}, "sinks.out.match.kind: can never be true: the sources that this match leaves are of product mts, multimediaai, which gives only "),
    ({"sinks.out.match": {"source": "mts", "kind": ["upload", "notice"], "outcome": "partial"}}, "sinks.out.match.kind: can never be true: the sources"),
]  # fmt: skip


@pytest.mark.parametrize("changes, sentence", MISTAKES, ids=[str(number) for number in range(len(MISTAKES))])
def test_a_mistake_is_told_alone_and_in_one_line(changes, sentence):
    problems = problems_of(changed(changes))
    assert len(problems) == 1, problems
    assert problems[0].startswith(sentence)
    assert "\n" not in problems[0]


def test_certificates_of_other_keys_and_two_in_one_are_refused(rsa_pem):
    other = certificate(ec.generate_private_key(ec.SECP256R1()))
    tables = changed({"sources.mts.certificates": {"https://h/a": other, "https://h/b": rsa_pem + rsa_pem}})
    first, second = problems_of(tables)
    assert first.startswith(
        'sources.mts.certificates."https://h/a": expected a certificate with an RSA key, came another'
    )
    assert second.startswith('sources.mts.certificates."https://h/b": expected one certificate in PEM form, came 2;')
    (problem,) = problems_of(changed({"sources.mts.certificates": {"nowhere": rsa_pem}}))
    assert problem.startswith("sources.mts.certificates.nowhere: expected an absolute URL")


def test_all_mistakes_are_told_at_once():
    """Mistakes of every step and table, and rules across keys although other keys of the table are wrong."""
    tables = changed(
        {
            "server.port": -1,
            "store.dedup_days": 1,
            "store.auto_migrate": 7,
            "sources.vod.keys": [],
            "sources.vod.max_age_s": "soon",
            "sources.mts.path": VOD["path"],
            "sources.mts.topics": [],
            "sources.queue": {"product": "mts", "transport": "query"},
            "vendor.main.access_key_secret": "${NOT_SET}",
            "sinks.orders.url": "file:/does/not/exist",
            "sinks.out.match": {"source": "gif", "kind": "snapshot", "extra": 1},
            "sinkz": {},
        }
    )
    keys = [problem.split(": ")[0] for problem in problems_of(tables)]
    assert sorted(keys) == sorted(
        [
            "server.port",
            "store.dedup_days",
            "store.auto_migrate",
            "sources.vod.keys",
            "sources.vod.max_age_s",
            "sources.mts.path",
            "sources.mts.topics",
            "sources.queue.transport",
            "vendor.main.access_key_secret",
            "sinks.orders.url",
            "sinks.out.match.kind",
            "sinks.out.match.extra",
            "sinkz",
        ]
    )


# Where it is read from


def test_the_file_is_the_argument_else_the_variable_else_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, port in (("a.toml", 1001), ("b.toml", 1002), ("media-callbacks.toml", 1003)):
        (tmp_path / name).write_text(EXAMPLE.replace("8080", str(port)))
    named = {**ENVIRON, "MEDIA_CALLBACKS_CONFIG": str(tmp_path / "b.toml")}
    assert load_settings(tmp_path / "a.toml", environ=named).server.port == 1001
    assert load_settings(str(tmp_path / "a.toml"), environ=named).server.port == 1001
    assert load_settings(environ=named).server.port == 1002
    assert load_settings(environ={**ENVIRON, "MEDIA_CALLBACKS_CONFIG": ""}).server.port == 1003


@pytest.mark.parametrize(
    "content, sentence",
    [
        (
            None,
            "there is no such file (named by --config); write one, such as by `media-callbacks init`, name another with --config",
        ),
        (b"[server\n", "expected TOML: "),
        (b"x = '\xff'", "expected UTF-8, came byte 0xff at 5"),
        (b"x = " + b"9" * 5000, "can't be read: "),
        (b"x = " + b"[" * 5000, "can't be read: "),
    ],
    ids=["missing", "not TOML", "not UTF-8", "digits", "nesting"],
)
def test_an_unreadable_file_is_named(tmp_path, content, sentence):
    file = tmp_path / "settings.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ={})
    assert caught.value.problems[0].startswith(f"{file}: {sentence}")


def test_without_file_and_variables_it_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"MEDIA_CALLBACKS_PORT": "tcp://10.0.0.1:80"})
    assert caught.value.problems[0].startswith(
        f"media-callbacks.toml: there is no such file (the default, looked for in {tmp_path} and as"
        " /etc/media-callbacks/media-callbacks.toml)"
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"MEDIA_CALLBACKS_CONFIG": "/does/not/exist"})
    assert caught.value.problems[0].startswith(
        "/does/not/exist: there is no such file (named by MEDIA_CALLBACKS_CONFIG)"
    )


def test_a_file_in_the_working_directory_comes_before_that_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_the_machine = tmp_path / "etc.toml"
    monkeypatch.setattr("media_callbacks.config.file.DEFAULT_FILES", ("media-callbacks.toml", str(of_the_machine)))
    of_the_machine.write_text("[admin]\nport = 1004\n")
    assert load_admin(environ={}).port == 1004
    (tmp_path / "media-callbacks.toml").write_text("[admin]\nport = 1005\n")
    assert load_admin(environ={}).port == 1005


OPERATED = """
[admin]
host = "10.0.0.1"
port = 9001
token = "${ADMIN_TOKEN}"
jobs_token = "file:/does/not/exist"

[server]
port = "${NONE_SUCH}"

[sources.vod]
keys = ["${VOD_KEY}", "file:/does/not/exist"]
nonsense = true
"""


@pytest.mark.parametrize(
    "environ, with_token, found",
    [
        ({"ADMIN_TOKEN": "0123456789abcdef"}, True, ("10.0.0.1", 9001, ("0123456789abcdef",), ())),
        ({}, False, ("10.0.0.1", 9001, (), ())),
        # An application's token is better than none.
        ({"MEDIA_CALLBACKS__ADMIN__JOBS_TOKEN": "f" * 16}, True, ("10.0.0.1", 9001, (), ("f" * 16,))),
        ({"MEDIA_CALLBACKS__ADMIN__PORT": "9002"}, False, ("10.0.0.1", 9002, (), ())),
        ({"MEDIA_CALLBACKS__SINKS": "[nonsense", "MEDIA_CALLBACKS__ADMINS": "{"}, False, ("10.0.0.1", 9001, (), ())),
    ],
)
def test_of_a_service_that_runs_only_the_admin_table_is_read(tmp_path, environ, with_token, found):
    file = tmp_path / "settings.toml"
    file.write_text(OPERATED)
    admin = load_admin(file, environ=environ, with_token=with_token)
    assert (admin.host, admin.port, admin.token, admin.jobs_token) == found


def test_where_no_token_can_be_had_it_says_what_is_missing(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(OPERATED.replace("9001", '"nine"'))
    with pytest.raises(ConfigError) as caught:
        load_admin(file, environ={})
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "admin.token",
        "admin.jobs_token",
        "admin.port",
    ]
    with pytest.raises(ConfigError, match="there is no such file"):
        load_admin(tmp_path / "none.toml", environ={})
    file.write_text("admin = 1")
    with pytest.raises(ConfigError, match="admin: expected a table"):
        load_admin(file, environ={})


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.encode())
    assert load_settings(file, environ=ENVIRON).server.port == 8080


# Environment


def test_the_environment_alone_can_give_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {
        "MEDIA_CALLBACKS__STORE__URL": "sqlite:////data/events.db",
        "media_callbacks__server__port": "9000",
        "MEDIA_CALLBACKS__STORE__AUTO_MIGRATE": "false",
        "MEDIA_CALLBACKS__ADMIN__TOKEN": '["${NEW_TOKEN}", "the-admin-token-before"]',
        "NEW_TOKEN": "the-admin-token-after",
        "MEDIA_CALLBACKS__ADMIN__JOBS_TOKEN": "the-jobs-token-alone",
        "MEDIA_CALLBACKS__SOURCES__VOD_EU": json.dumps(VOD),
        "MEDIA_CALLBACKS__SOURCES__VOD_EU__KEYS": '["${KEY}"]',
        "MEDIA_CALLBACKS__SINKS__OUT__KIND": "stdout",
        "MEDIA_CALLBACKS__SINKS__OUT__MATCH__KIND": "snapshot",
        "KEY": "[another-key",
    }
    found = load_settings(environ=environ)
    source, match = found.sources["vod-eu"], found.sinks["out"].match
    assert (found.server.port, found.store.auto_migrate) == (9000, False)
    assert found.admin.token == ("the-admin-token-after", "the-admin-token-before")
    assert found.admin.jobs_token == ("the-jobs-token-alone",)
    assert isinstance(source, HttpSourceSettings)
    assert (source.path, source.keys) == (VOD["path"], ("[another-key",))
    assert match is not None
    assert match.kind == frozenset({"snapshot"})


def test_a_variable_overrides_the_file_under_a_name_with_a_hyphen(tmp_path):
    text = EXAMPLE.replace("[sources.mts]", "[sources.mts-push]")
    environ = {**ENVIRON, "MEDIA_CALLBACKS__SOURCES__MTS_PUSH__TOPICS": '["1/other"]'}
    found = load_settings(write(tmp_path, text), environ=environ)
    source = found.sources["mts-push"]
    assert isinstance(source, MnsPushSourceSettings)
    assert source.topics == ("1/other",)
    assert list(found.sources) == ["vod", "mts-push", "mts-queue", "gif"]


@pytest.mark.parametrize(
    "variables, sentence",
    [
        ({"SERVER__PROT": "1"}, 'server.prot: unknown key; did you mean "port"? (set by MEDIA_CALLBACKS__SERVER__PROT)'),
        ({"SERVR__PORT": "1"}, 'servr: unknown section; did you mean "server"? (set by MEDIA_CALLBACKS__SERVR__PORT)'),
        ({"SINKS__ORDRES__URL": "x"}, f"sinks.ordres.kind: missing; expected one of {SINKS} (set by MEDIA_CALLBACKS__SINKS__ORDRES__URL)"),
        ({"SINKS__X__URL": "x", "SINKS__X__MATCH": "{}"}, f"sinks.x.kind: missing; expected one of {SINKS} (set by MEDIA_CALLBACKS__SINKS__X__MATCH, set by MEDIA_CALLBACKS__SINKS__X__URL)"),
        ({"SERVER__PORT": "x"}, 'server.port: expected a port from 0 (any free one) to 65535, came "x"; for example port = 8080 (set by'),
        ({"SERVER__HOST__X": "1"}, "server.host.x: can't be set: server.host is not a table but a string of 7 characters (set by"),
        ({"SERVER__": "1"}, "MEDIA_CALLBACKS__SERVER__: expected MEDIA_CALLBACKS__SECTION__KEY; a part between underscores is empty"),
        ({"": "1"}, "MEDIA_CALLBACKS__: expected MEDIA_CALLBACKS__SECTION__KEY; a part between underscores is empty"),
        ({"SERVER__PORT": "1", "server__port": "2"}, "server.port: set by both MEDIA_CALLBACKS__SERVER__PORT and MEDIA_CALLBACKS__server__port; keep one"),
        ({"SOURCES__VOD__KEYS": "[oops"}, "sources.vod.keys: expected JSON, because the value begins with [ or {;"),
        ({"SOURCES__VOD__KEYS": "[" * 100_000}, "sources.vod.keys: expected JSON, because the value begins with [ or {;"),
        ({"SOURCES__VOD__KEYS": "abcdefg"}, "sources.vod.keys: expected a list of the vendor's keys"),
        ({"SERVER__HOST": "${NOPE}"}, "server.host: the environment variable NOPE is not set; set it, or remove ${NOPE} here (set by"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_variable_names_the_variable(tmp_path, variables, sentence):
    environ = {**ENVIRON, **{f"MEDIA_CALLBACKS__{name}": value for name, value in variables.items()}}
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, EXAMPLE), environ=environ)
    assert len(caught.value.problems) == 1, caught.value.problems
    assert caught.value.problems[0].startswith(sentence)


def test_a_missing_file_is_mentioned_where_variables_do_not_suffice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"MEDIA_CALLBACKS__SERVER__PORT": "1"})
    assert caught.value.problems[-1].startswith("media-callbacks.toml: there is no such file (the default")


# Interpolation


def test_values_are_put_in_anywhere_and_not_expanded_again(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("  ${NOT_EXPANDED}-and-more\n")
    tables = changed(
        {
            "admin.token": f"file:{secret}",
            "sources.vod.keys": ["${A}-${B}", "file:${DIR}/token", "$A$${B}{"],
            "vendor.main.access_key_id": "${FILE}",
        }
    )
    environ = {"A": "${B}", "B": "bbb", "DIR": str(tmp_path), "FILE": f"file:{secret}"}
    found = build_settings(tables, environ=environ)
    source = found.sources["vod"]
    assert isinstance(source, HttpSourceSettings)
    assert found.admin.token == ("${NOT_EXPANDED}-and-more",)
    assert source.keys == ("${B}-bbb", "${NOT_EXPANDED}-and-more", "$A$bbb{")
    assert found.vendor["main"].access_key_id == f"file:{secret}"


@pytest.mark.parametrize(
    "value, sentence",
    [
        ("${NOPE}", "admin.token: the environment variable NOPE is not set; set it, or remove ${NOPE} here"),
        ("${a-b}", "admin.token: expected ${NAME} with a name of letters, digits and underscores"),
        ("${}", "admin.token: expected ${NAME} with a name of letters, digits and underscores"),
        ("file:/does/not/exist", "admin.token: file:/does/not/exist can't be read: No such file or directory"),
        ("file:relative", "admin.token: expected file: and an absolute path, for example file:/run/secrets/key"),
        ("file:/a\0b", "admin.token: expected a file name, came one with a zero character"),
        ("file:/dev/zero", "admin.token: expected at most 1048576 bytes in file:/dev/zero, came more"),
        (
            "${SHORT}",
            "admin.token: expected a token of at least 16 visible ASCII characters, came a string of 5 characters",
        ),
    ],
)
def test_what_cannot_be_put_in_is_told_once(value, sentence):
    (problem,) = problems_of(changed({"admin.token": value}), {"SHORT": "short"})
    assert problem.startswith(sentence)


def test_a_file_that_is_not_text_is_told(tmp_path):
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    (problem,) = problems_of(changed({"admin.token": f"file:{tmp_path}/key"}))
    assert problem.startswith(f"admin.token: expected UTF-8 text in file:{tmp_path}/key")


def test_a_mistake_in_a_value_put_in_names_its_variable():
    (problem,) = problems_of(changed({"sources.vod.keys": ["${VOD_KEY}"]}), {"VOD_KEY": "abc"})
    assert problem.endswith("(from ${VOD_KEY})")


def test_unresolved_values_are_not_compared():
    """Two paths from the same missing variable are two missing variables, not one path twice."""
    problems = problems_of(changed({"sources.vod.path": "${P}", "sources.mts.path": "${P}"}))
    assert len(problems) == 2
    assert all("P is not set" in problem for problem in problems)


# Secrets

SECRET = "S3cr3t-hunter2"


def test_secrets_are_in_no_repr():
    tables = changed(
        {
            "admin.token": f"{SECRET}-of-the-admin",
            "admin.jobs_token": f"{SECRET}-of-the-jobs",
            "store.url": f"sqlite:///{SECRET}",
            "sources.vod.keys": [SECRET],
            "sources.vod.path": f"/{SECRET}/vod",
            "sources.vod.url": f"https://h/{SECRET}",
            "sources.mts.path": f"/{SECRET}/mts",
            "sources.mts.url": f"https://h/{SECRET}",
            "vendor.main.access_key_id": SECRET,
            "vendor.main.access_key_secret": SECRET,
            "vendor.main.security_token": SECRET,
            "sinks.orders.url": f"https://h/{SECRET}",
            "sinks.orders.headers": {"Authorization": SECRET},
            "sinks.bus.endpoint_url": f"https://h/{SECRET}",
            "sinks.hook": {**HOOK, "bearer_token": SECRET},
        }
    )
    found = build_settings(tables, environ={})
    for text in (repr(found), str(found), *map(repr, found.sources.values()), *found.warnings):
        for secret in (SECRET, GIF["keys"][0][2:], HOOK["secrets"][0]):
            assert secret not in text
    assert SECRET in str(found.model_dump())


@pytest.mark.parametrize("wrap", [str, lambda text: [text], lambda text: {"x": text}, lambda text: [[text]]])
@pytest.mark.parametrize("is_substituted", [False, True])
def test_secrets_are_in_no_error(wrap, is_substituted):
    """A secret in any shape at every key that takes one, and a substituted one at every key at all."""
    secret_keys = [
        "admin.token", "admin.jobs_token", "store.url", "sources.vod.keys", "sources.vod.path", "sources.vod.url",
        "sources.vod.unknown", "sources.mts.path", "sources.mts.url", "sources.mts.certificates", "sources.gif.keys",
        "sources.gif.url", "sources.queue.endpoint", "vendor.main.access_key_id", "vendor.main.access_key_secret", "vendor.main.security_token",
        "sinks.orders.url", "sinks.orders.secrets", "sinks.bus.queue_url", "sinks.bus.endpoint_url", "server",
        "sinks.orders.headers", "sinks.orders.bearer_token",
    ]  # fmt: skip
    others = [
        "server.host", "server.port", "sources.vod.product", "sources.vod.transport", "sources.vod.max_age_s",
        "sources.vod.unsigned", "sources.vod.account", "sources.mts.topics", "sources.mts.regions",
        "sources.gif.confirm", "sources.gif.vendor", "sources.queue.queue", "jobs.retry_s", "vendor.main.region", "vendor.main.endpoints", "sinks.bus.region", "sinks.out.kind",
        "sinks.out.retry_delays_s", "sinks.out.rate_per_s", "sinks.orders.match", "sinks.bus.match.kind", "sinks.bus.match.source", "sinks.bus.match.account",
    ]  # fmt: skip
    value = wrap("${X}" if is_substituted else SECRET)
    environ = {"X": SECRET}
    for key in secret_keys + (others if is_substituted else []):
        result = settings_or_error(changed({"sources.queue": QUEUE, key: value}), environ)
        if isinstance(result, ConfigError):
            assert SECRET not in str(result), key
            assert SECRET not in repr(result), key
            # What pydantic raised holds the values.
            assert result.__cause__ is None
            assert result.__context__ is None
        else:
            assert key in others or SECRET not in repr(result), key


# Warnings


@pytest.mark.parametrize(
    "source, path, url, is_warned",
    [
        ("vod", "/callbacks/vod", "https://cb.example.com/callbacks/vod", False),
        ("vod", "/callbacks/vod", ["https://cb.example.com/prefix/callbacks/vod"], False),
        ("vod", "/callbacks/vod", ["https://cb.example.com/callbacks/vod", "https://cb.example.com/vod"], True),
        ("vod", "/callbacks/vod", "https://cb.example.com/callbacks/vod/", True),
        ("gif", "/callbacks/gif", "https://cb.example.com/callbacks/gifs", True),
        ("mts", "/callbacks/mts-5f0c9d5f0c9d5f0c9d", "https://cb.example.com/callbacks/mts", True),
        ("mts", "/callbacks/mts-5f0c9d5f0c9d5f0c9d", None, False),
    ],
)
def test_a_path_that_the_registered_url_does_not_lead_to_deserves_a_look(source, path, url, is_warned):
    products = {
        "vod": {"product": "vod", "transport": "http", "keys": ["Example1Key"]},
        "mts": {"product": "mts", "transport": "mns-push", "topics": ["1234567890123456/mts-done"]},
        "gif": {
            "product": "multimediaai",
            "transport": "token-url",
            "keys": [f"1:{base64.b64encode(URL_KEY).decode()}"],
        },
    }
    table = products[source] | {"path": path} | ({} if url is None else {"url": url})
    tables = {"sources": {source: table}, "sinks": {"console": {"kind": "stdout"}}}
    warnings = build_settings(tables, environ={}).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ([f"sources.{source}.url"] if is_warned else [])
    assert "5f0c9d" not in str(warnings)


UNSIGNED: dict[str, Any] = {"url": "https://h/open/5f0c9d5f0c9d5f0", "keys": [], "unsigned": "accept"}


@pytest.mark.parametrize(
    ("host", "endpoint_url", "is_warned"),
    [
        ("https://sqs.eu-west-1.amazonaws.com", None, False),
        ("https://sqs.cn-north-1.amazonaws.com.cn", None, False),
        ("http://127.0.0.1:4566", None, True),
        ("http://127.0.0.1:4566", "http://127.0.0.1:4566", False),
        ("https://amazonaws.com.example.com", None, True),
    ],
)
def test_a_queue_elsewhere_needs_its_endpoint(host, endpoint_url, is_warned):
    sink = {"kind": "sqs", "queue_url": f"{host}/123456789012/media.fifo", "region": "eu-west-1"}
    tables = BASE | {"sinks": {"bus": sink | ({} if endpoint_url is None else {"endpoint_url": endpoint_url})}}
    warnings = build_settings(tables, environ={}).warnings
    assert [warning.partition(":")[0] for warning in warnings] == (["sinks.bus.endpoint_url"] if is_warned else [])


_KAFKA = {"kind": "kafka", "brokers": ["127.0.0.1:9092", "kafka.example.com:9092"], "user": "u", "password": "p4ss"}
_NATS = {"kind": "nats", "servers": ["nats://nats.example.com:4222"]}
_RABBITMQ = {"kind": "rabbitmq", "user": "u", "password": "p4ss", "exchange": "media"}
_WEBHOOK = {"kind": "webhook", "secrets": [f"whsec_{base64.b64encode(bytes(24)).decode()}"], "bearer_token": "p4ss"}


@pytest.mark.parametrize(
    ("sink", "key"),
    [
        (_KAFKA, "tls"),
        (_KAFKA | {"tls": True}, None),
        (_KAFKA | {"mechanism": "SCRAM-SHA-512"}, None),
        (_KAFKA | {"brokers": ["127.0.0.1:9092", "[::1]:9092"]}, None),
        ({"kind": "kafka", "brokers": "kafka.example.com:9092"}, None),
        (_NATS | {"user": "u", "password": "p4ss"}, "servers"),
        (_NATS | {"token": "p4ss"}, "servers"),
        (_NATS | {"token": "p4ss", "servers": "tls://nats.example.com:4222"}, None),
        (_NATS, None),
        (_RABBITMQ | {"servers": "amqp://rabbitmq.example.com"}, "servers"),
        (_RABBITMQ | {"servers": "amqp://localhost:5672"}, None),
        (_RABBITMQ | {"servers": "amqps://rabbitmq.example.com"}, None),
        (_WEBHOOK | {"url": "http://hooks.example.com/x"}, "url"),
        (_WEBHOOK | {"url": "http://localhost:9000/x"}, None),
        (_WEBHOOK | {"url": "https://hooks.example.com/x"}, None),
    ],
)
def test_credentials_that_anyone_on_the_way_can_read_deserve_a_look(sink, key):
    warnings = build_settings(BASE | {"sinks": {"bus": sink}}, environ={}).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ([] if key is None else [f"sinks.bus.{key}"])
    assert "p4ss" not in str(warnings)


def test_warnings_name_what_deserves_a_look():
    assert build_settings(BASE, environ={}).warnings == ()
    tables = changed(
        {
            "admin.host": "0.0.0.0",
            "sinks": {},
            "sources.vod.url": ["https://h/callbacks/vod", "http://h/callbacks/vod"],
            "sources.gif.url": "HTTP://h/callbacks/gif",
            "sources.mts.path": "/callbacks/mts/5f0c9d",
            "sources.open": {**VOD, **UNSIGNED, "path": "/open/5f0c9d5f0c9d5f0"},
            "sources.queue": {**QUEUE, "product": "ims", "queue": "callbacks"},
        }
    )
    warnings = build_settings(tables, environ={}).warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "admin.token",
        "sinks",
        "sources.vod.url",
        "sources.mts.path",
        "sources.gif.url",
        "sources.open.confirm",
        "sources.open.path",
        "sources.queue.queue",
    ]
    assert not any("5f0c9d" in warning for warning in warnings)


USING_BOTH = {"sources.mts.vendor": "main", "sources.vod.vendor": "other"}


@pytest.mark.parametrize(
    "changes, warned",
    [
        ({}, "sources.open.confirm"),
        ({"sources.open.confirm": "when-unsigned"}, None),
        ({"sources.open.confirm": "always"}, None),
        ({"vendor": {}}, None),
        # Whose credentials to use can't be known, so that minted URLs are not confirmed either.
        ({"vendor.other": VENDOR, **USING_BOTH}, "sources.gif.confirm"),
        ({"vendor.other": VENDOR, **USING_BOTH, "sources.gif.confirm": "never"}, None),
        ({"vendor.other": VENDOR, **USING_BOTH, "sources.gif.vendor": "other"}, None),
        # A source that names none uses none of several.
        ({"vendor.other": VENDOR, "sources.gif.vendor": "main"}, "vendor.other"),
    ],
)
def test_claims_that_could_be_confirmed_and_are_not_deserve_a_look(changes, warned):
    unsigned = {**VOD, **UNSIGNED, "path": "/open/5f0c9d5f0c9d5f0c9d", "url": "https://h/open/5f0c9d5f0c9d5f0c9d"}
    found = build_settings(changed({"sources.open": unsigned, **changes}), environ={})
    assert [warning.split(":")[0] for warning in found.warnings] == ([] if warned is None else [warned])


# Credentials and confirmation


@pytest.mark.parametrize(
    "vendors, named, expected",
    [
        ((), None, None),
        (("main",), None, "main"),
        (("main",), "main", "main"),
        (("main", "other"), None, None),
        (("main", "other"), "other", "other"),
    ],
)
def test_a_source_uses_the_credentials_it_names_else_the_only_ones(vendors, named, expected):
    tables = changed({"vendor": dict.fromkeys(vendors, VENDOR), "sources.gif.vendor": named})
    found = build_settings(tables, environ={})
    assert found.vendor_of("gif") == expected
    # Minted URLs prove little, so they are confirmed as soon as that is possible.
    assert found.confirm_of("gif") == ("never" if expected is None else "when-unsigned")
    assert found.confirm_of("vod") == found.confirm_of("mts") == "never"


@pytest.mark.parametrize("word", ["never", "when-unsigned", "always"])
@pytest.mark.parametrize("source", ["vod", "mts", "gif", "queue"])
def test_what_a_source_says_about_confirmation_holds(source, word):
    found = build_settings(changed({"sources.queue": QUEUE, f"sources.{source}.confirm": word}), environ={})
    assert found.confirm_of(source) == word


def test_a_queue_s_endpoint_has_no_slash_at_its_end():
    tables = changed({"sources.queue": {**QUEUE, "endpoint": QUEUE["endpoint"] + "/"}})
    source = build_settings(tables, environ={}).sources["queue"]
    assert isinstance(source, MnsQueueSourceSettings)
    assert source.endpoint == QUEUE["endpoint"]


# Routing


def make_event(**fields: Any) -> Any:
    """As much of an event as routing looks at."""
    account = fields.pop("account")
    return SimpleNamespace(account=account, data=SimpleNamespace(**fields))


@pytest.mark.parametrize(
    "match, is_wanted",
    [
        (None, True),
        ({}, True),
        ({"product": "vod"}, True),
        ({"product": ["mts", "multimediaai"]}, False),
        ({"account": "default"}, True),
        ({"kind": ["snapshot", "notice"]}, True),
        ({"kind": "notice"}, False),
        ({"outcome": "failed"}, True),
        ({"outcome": "succeeded"}, False),
        ({"source": ["vod", "gif"]}, True),
        ({"source": "gif"}, False),
        ({"vendor_event": "SnapshotComplete"}, True),
        ({"vendor_event": "DynamicImageComplete"}, False),
        ({"kind": "snapshot", "outcome": "succeeded"}, False),
        ({"user_data_prefix": "order-"}, True),
        ({"user_data_prefix": ["invoice-", "order-7"]}, True),
        ({"user_data_prefix": ["invoice-", "order-77"]}, False),
        ({"exclude": {"outcome": "failed"}}, False),
        ({"exclude": {"outcome": "succeeded"}}, True),
        ({"kind": "snapshot", "exclude": {"user_data_prefix": "order-"}}, False),
        ({"exclude": {"outcome": "failed", "kind": ["snapshot", "transcode"]}}, False),
        ({"exclude": {"outcome": "failed", "kind": "transcode"}}, True),
        ({"kind": "notice", "exclude": {"source": "gif"}}, False),
        ({"kind": "snapshot", "outcome": "failed", "source": "vod", "product": "vod", "account": "default"}, True),
    ],
)
def test_route(match, is_wanted):
    sinks = {"z": {"kind": "stdout"}, "m": {"kind": "stdout"}, "a": {"kind": "stdout"}}
    if match is not None:
        sinks["m"]["match"] = match
    found = build_settings(changed({"sinks": sinks}), environ={})
    event = make_event(
        product="vod",
        account="default",
        kind="snapshot",
        outcome="failed",
        source="vod",
        vendor_event="SnapshotComplete",
        user_data="order-7",
    )
    names = route(found.sinks, event)
    assert names == (("z", "m", "a") if is_wanted else ("z", "a"))


def test_an_event_without_a_vendor_name_fits_no_vendor_event():
    found = build_settings(changed({"sinks": {"m": {"kind": "stdout", "match": {"vendor_event": "X"}}}}), environ={})
    event: dict[str, Any] = {"product": "vod", "account": "default", "kind": "snapshot", "outcome": "failed"}
    assert route(found.sinks, make_event(**event, source="vod", vendor_event=None)) == ()


def test_an_event_without_user_data_begins_with_nothing():
    wanted = {"kind": "stdout", "match": {"user_data_prefix": "order-"}}
    unwanted = {"kind": "stdout", "match": {"exclude": {"user_data_prefix": "order-"}}}
    found = build_settings(changed({"sinks": {"wanted": wanted, "unwanted": unwanted}}), environ={})
    event: dict[str, Any] = {"product": "vod", "account": "default", "kind": "snapshot", "outcome": "failed"}
    others = {"source": "vod", "vendor_event": None, "user_data": None}
    assert route(found.sinks, make_event(**event, **others)) == ("unwanted",)


def test_all_names_of_a_sink_are_known():
    wanted = {"kind": ["animated_image", "notice"], "exclude": {"product": "mts"}}
    tables = changed({"sinks.nats": {**NATS, "subject": "m.{source}.{kind}.{outcome}", "match": wanted}})
    found = build_settings(tables, environ={})
    images = [
        f"m.{source}.animated_image.{word}" for source in ("vod", "gif") for word in OUTCOMES if word != "received"
    ]
    assert sorted(found.names_of("nats")) == sorted([*images, "m.vod.notice.received", "m.gif.notice.received"])
    assert found.names_of("out") == ()


def test_an_event_of_another_account_is_not_routed():
    tables = changed({"sources.vod.account": "main", "sinks": {"m": {"kind": "stdout", "match": {"account": "main"}}}})
    found = build_settings(tables, environ={})
    event: dict[str, Any] = {"product": "vod", "kind": "snapshot", "outcome": "failed", "source": "vod"}
    assert route(found.sinks, make_event(**event, account="main", vendor_event=None)) == ("m",)
    assert route(found.sinks, make_event(**event, account="default", vendor_event=None)) == ()


def test_accounts_are_known_by_their_effective_name():
    tables = changed({"sources.vod.account": "main", "sinks.out.match": {"account": ["main", "default"]}})
    assert isinstance(build_settings(tables, environ={}), Settings)


# Junk

KEYS = sorted(
    {"server", "admin", "store", "sources", "vendor", "sinks", "match", "host", "port", "path", "url", "keys", "token"}
    | {
        "transport",
        "product",
        "kind",
        "unsigned",
        "topics",
        "certificates",
        "secrets",
        "timeout_s",
        "confirm",
        "enrich",
    }
    | {
        "vod",
        "main",
        "queue_url",
        "endpoints",
        "outcome",
        "source",
        "account",
        "regions",
        "max_age_s",
        "retention_days",
        "jobs",
        "jobs_token",
        "endpoint",
        "queue",
    }
)
WORDS = [
    "http",
    "mns-push",
    "mns-queue",
    "token-url",
    "webhook",
    "sqs",
    "stdout",
    "vod",
    "mts",
    "multimediaai",
    "accept",
    "notice",
]
scalars = (
    st.sampled_from([*WORDS, "${A}", "${B}", "file:/nope", "https://h/x", "/callbacks/1", "sqlite:///x", "1:AAAA"])
    | st.text(st.characters(), max_size=20)
    | st.integers()
    | st.integers(min_value=10**400, max_value=10**401)
    | st.floats()
    | st.booleans()
    | st.none()
    | st.datetimes()
    | st.dates()
    | st.times()
)
names = st.sampled_from(KEYS) | st.text(st.characters(), max_size=8)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=25
)
PATHS = [
    "server.port", "server.host", "server.body_timeout_s", "admin.token", "store.url", "store.dedup_days",
    "sources.vod", "sources.vod.transport", "sources.vod.product", "sources.vod.path", "sources.vod.url",
    "sources.vod.keys", "sources.vod.max_age_s", "sources.vod.unsigned", "sources.vod.account", "sources.mts.topics",
    "sources.queue", "sources.queue.endpoint", "sources.queue.queue", "sources.queue.vendor", "sources.gif.vendor",
    "sources.gif.enrich", "jobs", "jobs.retry_s", "admin.jobs_token", "vendor", "vendor.main", "vendor.main.access_key_id",
    "sources.mts.certificates", "sources.gif.keys", "sources.gif.confirm", "sources.gif.url", "vendor.main.endpoints",
    "sinks.orders.url", "sinks.orders.secrets", "sinks.orders.timeout_s", "sinks.orders.headers", "sinks.out.rate_per_s",
    "sinks.orders.bearer_token", "sinks.bus.retry_delays_s", "sinks.bus.match", "sinks.out.match.kind",
    "sinks.out.match.source", "sinks.out.match.account", "sinks.out.kind",
]  # fmt: skip


def assert_total(tables: dict[str, Any]) -> None:
    result = settings_or_error(tables, {"A": "x" * 20})
    if isinstance(result, ConfigError):
        assert result.problems
        assert all(problem.isprintable() for problem in result.problems)
        "\n".join(result.problems).encode()
    else:
        assert isinstance(result.warnings, tuple)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, junk, max_size=6))
def test_junk_gives_settings_or_a_config_error(tables):
    assert_total(tables)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(PATHS), junk, min_size=1, max_size=3))
def test_junk_in_any_place_gives_settings_or_a_config_error(changes):
    tables = changed({"sources.queue": QUEUE})
    for path, value in changes.items():
        *parents, key = path.split(".")
        table = tables
        for parent in parents:
            inner = table.get(parent)
            table[parent] = inner if isinstance(inner, dict) else {}
            table = table[parent]
        table[key] = value
    assert_total(tables)


def test_deep_nesting_is_a_mistake_like_any_other():
    value: Any = "x"
    for _ in range(5000):
        value = [value]
    (problem, *_) = problems_of(changed({"sources.vod.keys": value}))
    assert "expected at most 16 levels of tables and lists, came more" in problem
