"""Traces: what a collector gets of a service that runs, what consumers get, and what strangers can do to either."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jsonschema
import pytest

from media_callbacks.delivery import dispatcher
from media_callbacks.events import parse_event
from media_callbacks.model.errors import ConfigError
from media_callbacks.model.schemas import event_schema
from media_callbacks.observe import otlp
from tests.factories.collecting import Collector, collecting
from tests.factories.fake_queues import KEY_ID, QUEUE, SECRET, serving_queues
from tests.factories.running import (
    SECRETS,
    SOURCES,
    Running,
    build_payload,
    encode_request,
    headers_of,
    run_service,
)

STRANGER = ("0af7651916cd43dd8448eb211c80319c", "b9c7c989f97918e1")
KEY = "collector-key-9e1f07c2"


@asynccontextmanager
async def traced(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Running, Collector]]:
    """A service that sends all its spans to a collector, soon."""
    async with collecting() as collector:
        usual = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={KEY}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }
        for name, value in (usual | dict(environ or {})).items():
            monkeypatch.setenv(name, value)
        async with run_service(tmp_path, **options) as running:
            running.secrets.add(KEY.encode())
            yield running, collector


def context(traceparent: str) -> tuple[str, str]:
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", traceparent), traceparent
    return traceparent[3:35], traceparent[36:52]


async def test_a_callback_is_a_span_and_its_delivery_another_one_that_is_linked(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (running, collector):
        assert (await running.send(running.build("vod", "job-1"))).status == 200
        (event,) = await running.receiver.wait_for(1)
        (receive,) = await collector.wait_for("receive", 1)
        (send,) = await collector.wait_for("send", 1)
        (kept,) = running.rows("SELECT body FROM event_bodies")
        await running.until(lambda: any(line["event"] == "attempt" for line in running.logs))
    assert (receive.name, receive.kind, receive.parent_id, receive.links) == ("receive vod", "CONSUMER", "", ())
    assert receive.attributes == {
        "messaging.system": "webhook",
        "messaging.destination.name": "vod",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "process",
        "messaging.message.id": event["id"],
        "messaging.message.conversation_id": "job-1",
        "messaging.message.body.size": receive.attributes["messaging.message.body.size"],
        "media_callbacks.state": "accepted",
        "media_callbacks.events": 1,
    }
    assert (receive.resource["service.name"], receive.error) == ("media-callbacks", None)
    assert receive.duration_s > 0
    # The event has the trace that it began with, and the header that of the attempt.
    assert context(event["traceparent"]) == receive.context
    assert json.loads(kept[0]) == event
    assert (send.name, send.kind, send.parent_id) == ("send orders", "PRODUCER", "")
    assert send.links == (receive.context,)
    assert send.trace_id != receive.trace_id
    assert send.attributes == {
        "messaging.system": "webhook",
        "messaging.destination.name": "orders",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": event["id"],
        "messaging.message.body.size": len(kept[0]),
        "media_callbacks.attempt": 1,
        "media_callbacks.replay": 0,
        "media_callbacks.result": "delivered",
    }
    logged = {line["event"]: line["trace_id"] for line in running.logs if "trace_id" in line}
    assert logged == {"callback": receive.trace_id, "attempt": send.trace_id}
    (headers,) = running.receiver.headers
    assert context(headers["traceparent"]) == send.context
    jsonschema.validate(event, event_schema())
    assert parse_event(json.dumps(event)).traceparent == event["traceparent"]


async def test_attempts_are_spans_each_linked_to_the_receipt(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher, "next_delay_s", lambda *_, **__: 0.0)
    async with traced(tmp_path, monkeypatch) as (running, collector):
        running.receiver.status = 503
        await running.send(running.build("vod", "job-1"))
        await collector.wait_for("send", 2)
        running.receiver.status = 204
        await running.receiver.wait_for(1)
        await running.until(lambda: any(not span.error for span in collector.named("send")))
        (receive,) = collector.named("receive")
        sent = collector.named("send")
    assert [span.links for span in sent] == [(receive.context,)] * len(sent)
    assert [span.attributes["media_callbacks.attempt"] for span in sent] == [*range(1, len(sent) + 1)]
    assert [context(headers["traceparent"]) for headers in running.receiver.headers] == [span.context for span in sent]
    *failed, last = sent
    assert {span.error for span in failed} == {"answered HTTP 503"}
    assert {span.attributes["error.type"] for span in failed} == {"SinkRetry"}
    assert {span.attributes["media_callbacks.result"] for span in failed} == {"retrying"}
    assert (last.error, last.attributes["media_callbacks.result"]) == (None, "delivered")


async def test_the_same_again_is_a_duplicate_and_a_span_of_its_own(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (running, collector):
        callback = running.build("vod", "job-1")
        for _ in range(3):
            await running.send(callback)
        spans = await collector.wait_for("receive", 3)
        (event,) = await running.receiver.wait_for(1)
        assert [line["state"] for line in running.lines] == ["accepted", "duplicate", "duplicate"]
    assert [span.attributes["media_callbacks.state"] for span in spans] == ["accepted", "duplicate", "duplicate"]
    assert len({span.trace_id for span in spans}) == 3
    assert context(event["traceparent"]) == spans[0].context


async def test_a_message_of_a_queue_is_a_span_of_what_was_asked_for(tmp_path, monkeypatch):
    async with serving_queues() as (queues, url):
        changes = {
            "sources.queue": {
                "product": "vod",
                "transport": "mns-queue",
                "endpoint": url,
                "queue": QUEUE,
                "long_poll_s": 1,
            },
            "vendor.main": {"region": "cn-shanghai", "access_key_id": KEY_ID, "access_key_secret": SECRET},
        }
        async with traced(tmp_path, monkeypatch, changes=changes) as (running, collector):
            queues.send(QUEUE, json.dumps(build_payload(running.source("vod"), "job-1")))
            (event,) = await running.receiver.wait_for(1)
            (span,) = await collector.wait_for("receive", 1)
    assert context(event["traceparent"]) == span.context
    assert span.name == "receive queue"
    assert span.attributes["messaging.system"] == "aliyun_mns"
    assert span.attributes["messaging.operation.type"] == "receive"


NOTHING: dict[str, Mapping[str, str]] = {
    "a ratio of 0": {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    "never": {"OTEL_TRACES_SAMPLER": "always_off"},
    "disabled": {"OTEL_SDK_DISABLED": "true"},
    "no exporter": {"OTEL_TRACES_EXPORTER": "none"},
}


@pytest.mark.parametrize("environ", NOTHING.values(), ids=NOTHING)
async def test_what_is_not_sampled_leaves_no_trace(tmp_path, monkeypatch, environ):
    async with traced(tmp_path, monkeypatch, environ) as (running, collector):
        await running.send(running.build("vod", "job-1"))
        (event,) = await running.receiver.wait_for(1)
        assert "traceparent" not in event
        assert running.service.tracing is None
    assert not collector.headers
    assert "traceparent" not in running.receiver.headers[0]


async def test_what_the_ratio_leaves_out_is_neither_span_nor_member(tmp_path, monkeypatch):
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    async with traced(tmp_path, monkeypatch, environ) as (running, collector):
        for number in range(64):
            await running.send(running.build("vod", f"job-{number}"))
        events = await running.receiver.wait_for(64)
        begun = {context(event["traceparent"]) for event in events if "traceparent" in event}
        assert 0 < len(begun) < 64
        sent = await collector.wait_for("send", len(begun))
        received = await collector.wait_for("receive", len(begun))
    assert {span.context for span in received} == begun == {link for span in sent for link in span.links}
    assert sum("traceparent" in headers for headers in running.receiver.headers) == len(begun)


async def test_what_can_not_be_had_is_told_at_the_start(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf"):
        async with traced(tmp_path, monkeypatch, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}):
            pass


async def test_nothing_secret_is_in_spans_or_logs(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (running, collector):
        for name in SOURCES:
            await running.send(running.build(name, f"job-{name}"))
        await collector.wait_for("receive", len(SOURCES))
        await collector.wait_for("send", len(SOURCES))
        sent = {headers["api-key"] for headers in collector.headers}
    assert sent == {KEY}
    text = repr(collector.spans)
    for secret in (
        *(secret.decode("latin-1") for secret in running.secrets),
        *SECRETS,
        "/callbacks/",
        running.receiver.url,
    ):
        assert secret not in text, secret


async def test_the_resource_is_named_by_the_environment(tmp_path, monkeypatch):
    environ = {"OTEL_SERVICE_NAME": "callbacks", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=staging"}
    async with traced(tmp_path, monkeypatch, environ) as (running, collector):
        await running.send(running.build("vod", "job-1"))
        (span,) = await collector.wait_for("receive", 1)
    assert (span.resource["service.name"], span.resource["deployment.environment.name"]) == ("callbacks", "staging")
    assert span.resource["service.version"]


async def test_what_a_message_says_costs_no_other_span_its_place(tmp_path, monkeypatch):
    """Protobuf has no half of a surrogate pair, and of a whole batch nothing would be sent."""
    async with traced(tmp_path, monkeypatch) as (running, collector):
        for job_id in ("\ud83d", "j" * 5000):
            payload = build_payload(running.source("vod"), "job") | {"JobId": job_id}
            body = json.dumps(payload).encode()
            assert (await running.send(running.build("vod", "job", payload=body))).status == 200
        spans = await collector.wait_for("receive", 2)
    assert [span.attributes["messaging.message.conversation_id"] for span in spans] == ["\ufffd", "j" * 256]


# What callers say of traces


def with_headers(running: Running, name: str, job_id: str, *values: bytes) -> bytes:
    request = running.build(name, job_id)
    running.note_secrets(request)
    further = [(b"traceparent", value) for value in values]
    return encode_request(request.method, request.target, [*headers_of(request), *further], request.body)


async def test_a_trace_that_a_genuine_callback_names_is_linked_to_and_not_continued(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (running, collector):
        named = "-".join(("00", *STRANGER, "00")).encode()
        assert (await running.send(with_headers(running, "vod", "job-1", named))).status == 200
        (span,) = await collector.wait_for("receive", 1)
    assert (span.links, span.parent_id) == ((STRANGER,), "")
    assert span.trace_id != STRANGER[0]


async def test_a_callback_that_nobody_proves_is_linked_to_nothing(tmp_path, monkeypatch):
    path = "/callbacks/vod/5f0c9d6e3ab14478"
    changes = {"sources.vod.keys": [], "sources.vod.unsigned": "accept", "sources.vod.path": path}
    async with traced(tmp_path, monkeypatch, changes=changes) as (running, collector):
        body = json.dumps(build_payload(running.source("vod"), "job-1")).encode()
        named = (b"traceparent", "-".join(("00", *STRANGER, "01")).encode())
        assert (await running.send(encode_request("POST", path, [named], body))).status == 200
        (span,) = await collector.wait_for("receive", 1)
    assert span.links == ()


HOSTILE: dict[str, list[bytes]] = {
    "empty": [b""],
    "garbage": [b"\xff\x00garbage".replace(b"\x00", b" ")],
    "zeros": [b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"],
    "no span": [b"00-" + STRANGER[0].encode() + b"-" + b"0" * 16 + b"-01"],
    "another version": [b"ff-" + "-".join(STRANGER).encode() + b"-01"],
    "capitals": ["-".join(("00", *STRANGER, "01")).upper().encode()],
    "long": [b"00-" + "-".join(STRANGER).encode() + b"-01" + b"-x" * 4000],
    "several": ["-".join(("00", *STRANGER, "01")).encode()] * 2,
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
async def test_what_is_no_trace_context_changes_nothing(tmp_path, monkeypatch, values):
    async with traced(tmp_path, monkeypatch) as (running, collector):
        assert (await running.send(with_headers(running, "vod", "job-1", *values))).status == 200
        (span,) = await collector.wait_for("receive", 1)
        await running.receiver.wait_for(1)
    assert span.links == ()


async def test_who_is_refused_makes_no_span_whatever_is_named(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (running, collector):
        named = "-".join(("00", *STRANGER, "01")).encode()
        forged = with_headers(running, "vod", "job-1", named).replace(b'"job-1"', b'"job-2"')
        assert (await running.send(forged.replace(b"X-VOD-SIGNATURE: ", b"X-VOD-SIGNATURE: 0"))).status in (
            400,
            401,
            403,
        )
        enormous = with_headers(running, "vod", "job-1", b"0" * 2**20)
        assert (await running.send(enormous)).status == 431
        await running.send(running.build("vod", "job-3"))
        await collector.wait_for("receive", 1)
        await collector.wait_for("send", 1)
    assert [span.attributes["messaging.message.conversation_id"] for span in collector.named("receive")] == ["job-3"]


async def test_no_caller_has_anything_sampled(tmp_path, monkeypatch):
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1e-18"}
    async with traced(tmp_path, monkeypatch, environ) as (running, _):
        named = "-".join(("00", *STRANGER, "01")).encode()
        assert (await running.send(with_headers(running, "vod", "job-1", named))).status == 200
        (event,) = await running.receiver.wait_for(1)
    assert "traceparent" not in event


async def test_without_the_propagator_nothing_is_read_from_headers_or_written_there(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch, {"OTEL_PROPAGATORS": "none"}) as (running, collector):
        await running.send(with_headers(running, "vod", "job-1", "-".join(("00", *STRANGER, "01")).encode()))
        (receive,) = await collector.wait_for("receive", 1)
        (send,) = await collector.wait_for("send", 1)
    assert (receive.links, send.links) == ((), (receive.context,))
    assert "traceparent" not in running.receiver.headers[0]


# A collector that is not there


async def test_while_the_collector_refuses_all_goes_on_and_it_is_said_once(tmp_path, monkeypatch):
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    async with traced(tmp_path, monkeypatch, environ) as (running, collector):
        collector.status = 401
        for number in range(40):
            assert (await running.send(running.build("vod", f"job-{number}"))).status == 200
        await running.receiver.wait_for(40)
        await collector.wait_for_requests(3)
        assert held_back(running) <= 8
        collector.status = 200
        while not collector.spans:
            await running.send(running.build("vod", "job-1"))
            await asyncio.sleep(0)
    trouble = [line for line in running.logs if line["event"].startswith("traces_")]
    assert [(line["event"], line.get("error")) for line in trouble][:2] == [
        ("traces_not_exported", "HTTP 401"),
        ("traces_exported_again", None),
    ]
    assert not running.library_logs


async def test_a_collector_that_never_answers_holds_up_neither_callbacks_nor_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(otlp, "FLUSH_TIMEOUT_S", 0.05)
    over = asyncio.Event()

    async def keep_waiting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(keep_waiting, "127.0.0.1", 0) as silent:
        host, port = silent.sockets[0].getsockname()
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3000",
            "OTEL_BSP_MAX_QUEUE_SIZE": "512",
        }
        async with traced(tmp_path, monkeypatch, environ) as (running, _):
            for number in range(300):
                assert (await running.send(running.build("vod", f"job-{number}"))).status == 200
            await running.receiver.wait_for(300)
            assert held_back(running) <= 512
        over.set()
    assert running.rows("SELECT state, count(*) FROM deliveries GROUP BY state") == [("delivered", 300)]


def held_back(running: Running) -> int:
    assert running.service.tracing is not None
    assert running.service.tracing._writer is not None
    (processor,) = running.service.tracing._writer._provider._active_span_processor._span_processors
    return len(processor._batch_processor._queue)  # type: ignore[attr-defined]


# Exemplars


async def test_exemplars_lead_from_a_histogram_to_a_trace_where_openmetrics_is_asked_for(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (running, collector):
        await running.send(running.build("vod", "job-1"))
        (receive,) = await collector.wait_for("receive", 1)
        (send,) = await collector.wait_for("send", 1)
        await running.until(lambda: any(line["event"] == "attempt" for line in running.logs))
        accept = (b"Accept", b"application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5")
        answer = await running.get("/metrics", admin=True, headers=[accept])
        plain = await running.get("/metrics", admin=True)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    lines = answer.body.decode().splitlines()
    assert lines[-1] == "# EOF"
    found = [line for line in lines if " # {" in line]
    assert [line.partition("{")[0] for line in found] == [
        "media_callbacks_answer_duration_seconds_bucket",
        "media_callbacks_attempt_duration_seconds_bucket",
    ]
    for line, span in zip(found, (receive, send), strict=True):
        assert f'trace_id="{span.trace_id}"' in line
    assert plain.headers["content-type"].startswith("text/plain")
    assert b"trace_id" not in plain.body
