"""From tables to sinks: the built-in ones, and those that another distribution brings."""

import json
import subprocess
import sys

import pytest

from media_callbacks.assembly.sinks import build_sinks
from media_callbacks.config.settings import build_settings
from media_callbacks.config.sinks import SINK_MODELS
from media_callbacks.model.errors import ConfigError
from media_callbacks.sinks.aliyun_eventbridge import AliyunEventBridgeSink
from media_callbacks.sinks.eventbridge import EventBridgeSink
from media_callbacks.sinks.kinesis import KinesisSink
from media_callbacks.sinks.mns import MnsQueueSink, MnsTopicSink
from media_callbacks.sinks.sns import SnsSink
from media_callbacks.sinks.sqs import SqsSink
from media_callbacks.sinks.stdout import StdoutSink
from media_callbacks.sinks.webhook import WebhookSink
from tests.factories.running import run_service

SOURCE = {
    "product": "vod",
    "transport": "http",
    "path": "/callbacks/vod",
    "url": "https://cb.example.com/callbacks/vod",
    "keys": ["Vendor-Key-1"],
}
VENDOR = {"region": "cn-shanghai", "access_key_id": "LTAI-1", "access_key_secret": "s", "security_token": "sts"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def settings_of(sinks):
    tables = {"sources": {"vod": SOURCE}, "vendor": {"main": VENDOR}, "sinks": sinks}
    return build_settings(tables, environ={"FOLDER": "/spool"})


def sinks_of(sinks):
    settings = settings_of(sinks)
    return build_sinks(settings.sinks, settings.vendor)


def problems_of(sinks):
    with pytest.raises(ConfigError) as caught:
        sinks_of(sinks)
    return caught.value.problems


def install(folder, code, kind="odd"):
    """A distribution as it lies in site-packages, with one entry point."""
    (folder / "odd_sinks.py").write_text(code)
    info = folder / "odd_sinks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-sinks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[media_callbacks.sinks]\n{kind} = odd_sinks:build\n")


@pytest.fixture
def odd(tmp_path, monkeypatch):
    def make(code, **options):
        install(tmp_path, code, **options)
        monkeypatch.syspath_prepend(tmp_path)

    yield make
    sys.modules.pop("odd_sinks", None)


async def test_every_kind_is_built_as_its_table_says(raw_server, make_delivery):
    """Seen by the address that each connects to, its limits, and what it sends."""
    requests = []

    async def serve(reader, writer):
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 503 -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    url = f"http://127.0.0.1:{await raw_server(serve)}"
    aws = {"endpoint_url": url, "timeout_s": 9, "concurrency": 3}
    aliyun = {"endpoint": url, "timeout_s": 9, "concurrency": 3}
    arn = "arn:aws:{}:eu-north-1:123456789012:{}"
    tables = {
        "hook": {
            "kind": "webhook",
            "url": f"{url}/x",
            "secrets": [SECRET],
            "headers": {"X-A": "1"},
            "bearer_token": "t1",
        }
        | {"timeout_s": 9, "concurrency": 3},
        "queue": {"kind": "sqs", "queue_url": f"{url}/1/q", "region": "eu-north-1", **aws},
        "topic": {"kind": "sns", "topic_arn": arn.format("sns", "t"), **aws},
        "bus": {"kind": "eventbridge", "region": "eu-north-1", **aws},
        "stream": {"kind": "kinesis", "stream_name": arn.format("kinesis", "stream/s"), **aws},
        "mns": {"kind": "mns-queue", "queue": "q", "signature": "v4", **aliyun},
        "done": {"kind": "mns-topic", "topic": "t", **aliyun},
        "events": {"kind": "aliyun-eventbridge", "event_bus": "b", **aliyun},
        "out": {"kind": "stdout"},
    }
    sinks = sinks_of(tables)
    assert [(sink.name, type(sink)) for sink in sinks] == [
        ("hook", WebhookSink),
        ("queue", SqsSink),
        ("topic", SnsSink),
        ("bus", EventBridgeSink),
        ("stream", KinesisSink),
        ("mns", MnsQueueSink),
        ("done", MnsTopicSink),
        ("events", AliyunEventBridgeSink),
        ("out", StdoutSink),
    ]
    for sink in sinks[:-1]:
        assert (sink.timeout_s, sink.concurrency) == (9, 3)
        await sink.open()
        (result,) = await sink.send([make_delivery()])
        assert "503" in str(result)
        await sink.close()
    assert len(requests) == 8
    assert requests[0].startswith(b"POST /x ")
    assert b"\r\nX-A: 1\r\n" in requests[0]
    assert b"\r\nAuthorization: Bearer t1\r\n" in requests[0]
    for request, scope in zip(requests[1:5], ("sqs", "sns", "events", "kinesis"), strict=True):
        assert f"/eu-north-1/{scope}/aws4_request".encode() in request
    assert requests[5].startswith(b"POST /queues/q/messages ")
    assert b"/cn-shanghai/mns/aliyun_v4_request" in requests[5]
    assert requests[6].startswith(b"POST /topics/t/messages ")
    assert b"\r\nAuthorization: MNS LTAI-1:" in requests[6]
    assert b"\r\nsecurity-token: sts\r\n" in requests[6]
    assert requests[7].startswith(b"POST /openapi/putEvents ")
    assert b"\r\nAuthorization: acs:LTAI-1:" in requests[7]
    assert b"\r\nx-acs-security-token: sts\r\n" in requests[7]


# Third parties


async def test_a_third_partys_sink_is_configured_and_delivers(third_party, tmp_path, make_delivery):
    (tmp_path / "spool").mkdir()
    table = {"kind": "folder", "folder": str(tmp_path / "spool"), "retry_delays_s": [1], "rate_per_s": 5}
    settings = settings_of({"files": {**table, "match": {"kind": "snapshot"}}}).sinks["files"]
    assert (settings.kind, settings.retry_delays_s, settings.rate_per_s) == ("folder", (1.0,), 5.0)
    assert settings.match is not None
    assert settings.match.kind == {"snapshot"}
    (sink,) = build_sinks({"files": settings})
    assert sink.name == "files"
    await sink.open()
    assert list(await sink.send([make_delivery()])) == [None]
    await sink.close()
    (file,) = (tmp_path / "spool").iterdir()
    assert file.read_bytes() == make_delivery().body


def test_it_gets_its_own_keys_alone_with_variables_replaced(odd):
    odd("def build(name, options): raise ValueError(repr(sorted(options.items())))")
    table = {
        "kind": "odd",
        "a": "${FOLDER}/x",
        "options": {"b": [1]},
        "match": {},
        "retry_delays_s": [1],
        "rate_per_s": 1,
    }
    (problem,) = problems_of({"files": table})
    assert problem == "sinks.files: [('a', '/spool/x'), ('options', {'b': [1]})]"


def test_its_options_are_in_no_repr(third_party):
    assert "S3cr3t" not in repr(settings_of({"files": {"kind": "folder", "folder": "S3cr3t"}}))


def test_what_it_refuses_is_a_mistake_of_its_table(third_party):
    problems = problems_of({"a": {"kind": "folder"}, "b": {"kind": "stdout"}, "c": {"kind": "folder", "folder": 5}})
    assert problems == (
        'sinks.a: expected folder = "/path" and no other key',
        'sinks.c: expected folder = "/path" and no other key',
    )


def test_what_all_sinks_have_is_checked_for_it_too(third_party):
    (problem,) = problems_of({"files": {"kind": "folder", "folder": "/x", "rate_per_s": 0}})
    assert problem.startswith("sinks.files.rate_per_s: expected deliveries per second")


def test_an_unknown_kind_is_answered_with_all_there_are(third_party):
    (problem,) = problems_of({"files": {"kind": "foldr", "folder": "/x"}})
    assert problem == (
        f'sinks.files.kind: expected one of {", ".join(SINK_MODELS)}, folder, came "foldr"; did you mean "folder"?'
    )


def test_a_built_in_kind_is_not_overridden(odd):
    odd("def build(name, options): raise ValueError('never')", kind="stdout")
    (sink,) = sinks_of({"out": {"kind": "stdout"}})
    assert isinstance(sink, StdoutSink)


@pytest.mark.parametrize("code", ["import no_such_module_anywhere", "", "raise SystemError('S3cr3t')"])
def test_one_that_can_not_be_imported_is_named(odd, code):
    odd(code)
    (problem,) = problems_of({"files": {"kind": "odd"}})
    assert problem.startswith("sinks.files.kind: the entry point odd can't be loaded (")
    assert "S3cr3t" not in problem


@pytest.mark.parametrize(
    "members",
    [
        {"name": "other"},
        {"batch_size": 0},
        {"batch_size": None},
        {"concurrency": 1001},
        {"concurrency": True},
        {"timeout_s": 0},
        {"timeout_s": 25.1},
        {"timeout_s": float("nan")},
    ],
)
def test_one_that_does_not_fit_the_dispatcher_is_refused(odd, members):
    members = {"name": "files", "batch_size": 1, "concurrency": 1, "timeout_s": 25.0} | members
    odd(
        f"from types import SimpleNamespace\nfrom math import nan\ndef build(*_): return SimpleNamespace(**{members!r})"
    )
    (problem,) = problems_of({"files": {"kind": "odd"}})
    assert problem.startswith("sinks.files: the sink of kind odd must have its name, a batch_size")


async def test_the_service_delivers_to_it(third_party, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    changes = {"sinks.files": {"kind": "folder", "folder": str(spool)}}
    async with run_service(tmp_path, changes=changes) as running:
        await running.send(running.build("vod", "job-1"))
        await running.until(lambda: any(spool.iterdir()))
    (file,) = spool.iterdir()
    assert json.loads(file.read_bytes())["id"] == file.stem


def test_it_is_found_in_a_process_that_has_it_installed(third_party_folder, tmp_path):
    """Nothing but the path that Python searches makes it known."""
    tables = {"sources": {"vod": SOURCE}, "sinks": {"files": {"kind": "folder", "folder": str(tmp_path)}}}
    code = (
        "import json, sys; from media_callbacks.config.settings import build_settings; from media_callbacks.assembly.sinks import build_sinks;"
        "print(type(build_sinks(build_settings(json.loads(sys.argv[1]), environ={}).sinks)[0]).__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(tables)],
        env={"PYTHONPATH": f"{third_party_folder}:."},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "media_callbacks_folder"
