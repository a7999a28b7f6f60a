"""
The public edge over real sockets: every row and column of the answer table, and everything that nobody should send.

Each test ends with the look into the logs that ``tests.factories.running`` takes: nothing secret may be there.
"""

import asyncio
import gzip
import hashlib
import itertools
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from media_callbacks.edge.certificates import Fetched
from media_callbacks.edge.core import MAX_HEADER_BYTES
from media_callbacks.process.server import HEAD_TIMEOUT_S, KEEP_ALIVE_S
from media_callbacks.rehearsal.simulate import MnsSigner, SimulatedRequest, forge, make_mns_key
from media_callbacks.sources.transports import http
from media_callbacks.sources.transports.mns_push import MnsPushSource
from tests.factories.running import (
    MTS_PATH,
    SOURCES,
    Running,
    build_payload,
    connected,
    encode,
    encode_request,
    headers_of,
    read_answer,
    run_service,
    sign,
    signer,
)


@pytest.fixture(params=["socket", "asgi"])
def adapter(request):
    return request.param


@pytest.fixture
async def running(tmp_path, adapter) -> AsyncIterator[Running]:
    """Answers, logs and counts are the same whichever way requests come in."""
    async with run_service(tmp_path, adapter=adapter) as service:
        yield service


# What the server does before there is a request, and not the application behind it.
on_sockets = pytest.mark.parametrize("adapter", ["socket"])

SUCCESS = {"vod": 200, "ims": 200, "mts": 204, "gif": 200}
PATHS = {"vod": "/callbacks/vod", "ims": "/callbacks/ims", "mts": MTS_PATH, "gif": "/callbacks/gif/some-token"}
UNPINNED = {"sources.mts.certificates": None, "sources.mts.regions": ["cn-hangzhou"]}
NEW_CERTIFICATE_URL = "https://mns-cert.oss-cn-hangzhou.aliyuncs.com/2026.pem"


def assert_success(name: str, answer: Any) -> None:
    assert answer.status == SUCCESS[name]
    if answer.status == 204:
        assert answer.body == b""
        assert "content-length" not in answer.headers
    elif name == "gif":
        assert answer.json() == {"code": "OK"}
    else:
        assert answer.body == b""


async def assert_refused(
    running: Running, name: str, answer: Any, status: int, reason: str, *, before: Counter[str] | None = None
) -> None:
    """
    One answer without detail, one line, one count, nothing kept.

    Args:
        before: Those of the same service that were told of before, by reason.
    """
    before = Counter() if before is None else before
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"title", "status"}
    assert answer.json()["status"] == status
    lines = running.lines[before.total() :]
    assert [(line["event"], line["source"], line["status"], line["reason"]) for line in lines] == [
        ("callback_refused", name, status, reason)
    ]
    before[reason] += 1
    count = (await running.metrics())[f'media_callbacks_rejects_total{{reason="{reason}",source="{name}"}}']
    assert count == before[reason]
    assert running.rows("SELECT count(*) FROM receipts") == [(0,)]


# The first row: whatever is authentic is kept and answered with success


@pytest.mark.parametrize("name", SOURCES)
async def test_a_callback_is_kept_delivered_once_and_its_repetition_is_a_success(running, name):
    request = running.build(name, "job-1")
    for _ in range(3):
        assert_success(name, await running.send(request))
    (event,) = await running.receiver.wait_for(1)
    assert event["data"]["outcome"] == "succeeded"
    assert event["data"]["source"] == name
    assert [line["state"] for line in running.lines] == ["accepted", "duplicate", "duplicate"]
    assert [line["source"] for line in running.lines] == [name] * 3
    metrics = await running.metrics()
    assert metrics[f'media_callbacks_receipts_total{{source="{name}",state="accepted"}}'] == 1
    assert metrics[f'media_callbacks_receipts_total{{source="{name}",state="duplicate"}}'] == 2
    verified = {sample: count for sample, count in metrics.items() if sample.startswith("media_callbacks_verified")}
    # Pushes are verified by a certificate, which is no key of ours.
    place = {"vod": 0, "ims": 0, "gif": 1}
    assert verified == (
        {f'media_callbacks_verified_total{{key="{place[name]}",source="{name}"}}': 3} if name in place else {}
    )
    assert running.rows("SELECT body FROM receipts") == [(request.body,)] * 3
    assert running.rows("SELECT count(*) FROM events") == [(1,)]


@pytest.mark.parametrize("push_format", ["XML", "JSON", "SIMPLIFIED"])
async def test_each_format_of_a_push_gives_the_same_event(running, push_format):
    answer = await running.send(running.build("mts", "job-1", push_format=push_format))
    assert_success("mts", answer)
    (event,) = await running.receiver.wait_for(1)
    assert event["type"] == "media.snapshot.succeeded"
    assert event["subject"] == "job-1"
    assert event["data"]["verified_by"] == "signature"


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
async def test_a_minted_url_takes_the_methods_that_the_vendor_might_use(running, method):
    request = replace(running.build("gif", "job-1"), method=method)
    assert_success("gif", await running.send(request))
    (event,) = await running.receiver.wait_for(1)
    assert event["type"] == "media.animated_image.succeeded"
    assert event["data"]["verified_by"] == "token"


async def test_another_task_on_a_minted_url_is_a_success_and_no_event(running):
    payload = build_payload(running.source("gif"), "job-1")
    assert_success("gif", await running.send(running.build("gif", "job-1", payload=payload)))
    other = running.build("gif", "job-1", payload=payload | {"TaskId": payload["TaskId"] + 1, "Status": 3})
    assert_success("gif", await running.send(other))
    assert [line["state"] for line in running.lines] == ["accepted", "conflict"]
    assert running.lines[1]["log_level"] == "warning"
    assert running.rows("SELECT count(*) FROM events") == [(1,)]
    metrics = await running.metrics()
    assert metrics['media_callbacks_receipts_total{source="gif",state="conflict"}'] == 1


UNKNOWN_TYPES: Mapping[str, Any] = {
    "vod": {"EventType": "BrandNewComplete", "EventTime": "2026-01-01T00:00:00Z", "VideoId": "v1", "Status": "success"},
    "ims": {"EventType": "BrandNewComplete", "EventTime": "2026-01-01T00:00:00Z", "MessageBody": {"JobId": "j1"}},
    "mts": {"Type": "BrandNew", "JobId": "j1", "State": "Success"},
}


@pytest.mark.parametrize("name", UNKNOWN_TYPES)
async def test_a_type_that_nobody_knows_becomes_a_notice(running, name):
    assert_success(name, await running.send(running.build(name, "j1", payload=UNKNOWN_TYPES[name])))
    (event,) = await running.receiver.wait_for(1)
    assert event["type"] == "media.notice.received"
    assert event["data"]["vendor_event"] in ("BrandNewComplete", "BrandNew")


BILLION_LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">'
    + b"".join(b'<!ENTITY lol%d "%b">' % (n, b"&lol%d;" % (n - 1) * 10) for n in range(1, 10)).replace(b"lol0", b"lol")
    + b']><Notification xmlns="http://mns.aliyuncs.com/doc/v1/"><Message>&lol9;</Message></Notification>'
)
ODD_BODIES = {
    "empty": b"",
    "blank": b" \r\n\t",
    "text": b"this is a body, and it has no meaning at all",
    "gzip": gzip.compress(b'{"EventType": "FileUploadComplete"}'),
    "invalid utf-8": b'{"EventType": "\xff\xfe\xc3\x28 Complete", "VideoId": "1"}',
    "utf-16": '{"EventType": "FileUploadComplete", "VideoId": "1"}'.encode("utf-16"),
    "brackets": b"[" * 100_000,
    "closed brackets": b"[" * 50_000 + b"]" * 50_000,
    "nested objects": b'{"EventType":' * 20_000,
    "huge number": b'{"EventType": 1' + b"0" * 200_000 + b"}",
    "huge exponent": b'{"EventType": "StreamTranscodeComplete", "JobId": 1e999999999, "Size": -1e400, "Type": "X"}',
    "not a number": b'{"EventType": NaN, "Type": NaN, "JobId": Infinity, "VideoId": -Infinity}',
    "double keys": b'{"EventType": "A", "EventType": "B", "eventType": "C", "Type": "A", "type": "B", "VideoId": "1"}',
    "null": b"null",
    "number": b"17",
    "string": b'"a string that is no object"',
    "list": b"[1, 2, 3]",
    "no members": b"{}",
    "all null": b'{"EventType": null, "Type": null, "JobId": null, "MessageBody": null, "Status": null}',
    "wrong types": b'{"EventType": ["x"], "Type": {}, "JobId": [[]], "MessageBody": 5, "Status": {"a": []}}',
    "half a surrogate": b'{"EventType": "\\ud800", "Type": "\\udfff", "VideoId": "\\u0000", "JobId": "\\ud83d"}',
    "escapes": b'{"EventType": "' + b'\\"' * 100_000,
    "billion laughs": BILLION_LAUGHS,
    "external entity": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    "deep xml": b"<a>" * 100_000,
    "form": b"TaskId=5&Status=2&GifUrl=https%3A%2F%2Fexample.com%2Fa.gif",
}


@pytest.mark.parametrize("name", SOURCES)
async def test_whatever_is_in_an_authentic_body_it_is_kept_and_answered_with_success(running, name):
    for label, body in ODD_BODIES.items():
        answer = await running.send(running.build(name, f"job {label}", payload=body))
        assert answer.status == SUCCESS[name], label
    assert running.rows("SELECT body FROM receipts ORDER BY id") == [(body,) for body in ODD_BODIES.values()]
    # One line for each, and in none of them the body.
    assert [line["event"] for line in running.lines] == ["callback"] * len(ODD_BODIES)
    assert {line["source"] for line in running.lines} == {name}
    assert all(line["reason"] for line in running.lines if line["state"] == "unparsed")
    if name != "gif":
        states = dict(zip(ODD_BODIES, (line["state"] for line in running.lines), strict=True))
        assert [states[label] for label in ("empty", "gzip", "invalid utf-8", "brackets")] == ["unparsed"] * 4
        assert (await running.metrics())[f'media_callbacks_receipts_total{{source="{name}",state="unparsed"}}'] >= 4
    else:
        # The URL alone says which task it is about.
        assert {line["state"] for line in running.lines} == {"accepted"}


@pytest.mark.parametrize("push_format", ["XML", "JSON"])
async def test_an_odd_message_in_a_push_envelope_is_kept(running, push_format):
    for label, body in ODD_BODIES.items():
        try:
            body.decode()
        except UnicodeDecodeError:
            continue
        if push_format == "XML" and "\0" in body.decode():
            continue
        request = running.build("mts", label, payload=body, push_format=push_format)
        assert_success("mts", await running.send(request))


# The second row: not ours


def without(request: SimulatedRequest, *names: str) -> SimulatedRequest:
    return replace(request, headers={name: value for name, value in request.headers.items() if name not in names})


def having(request: SimulatedRequest, name: str, value: str) -> SimulatedRequest:
    assert name in request.headers
    return replace(request, headers={**request.headers, name: value})


def hours_ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


HTTP_REFUSALS: Mapping[str, tuple[Callable[[Running, str, str], SimulatedRequest], str]] = {
    "no headers": (
        lambda r, n, p: without(r.build(n, "j"), f"{p}-TIMESTAMP", f"{p}-SIGNATURE"),
        "signature_missing",
    ),
    "no timestamp": (lambda r, n, p: without(r.build(n, "j"), f"{p}-TIMESTAMP"), "signature_missing"),
    "no signature": (lambda r, n, p: without(r.build(n, "j"), f"{p}-SIGNATURE"), "signature_missing"),
    "empty signature": (lambda r, n, p: having(r.build(n, "j"), f"{p}-SIGNATURE", ""), "signature_malformed"),
    "short signature": (lambda r, n, p: having(r.build(n, "j"), f"{p}-SIGNATURE", "ab" * 15), "signature_malformed"),
    "long signature": (lambda r, n, p: having(r.build(n, "j"), f"{p}-SIGNATURE", "ab" * 5000), "signature_malformed"),
    "no hexadecimal": (lambda r, n, p: having(r.build(n, "j"), f"{p}-SIGNATURE", "zz" * 16), "signature_malformed"),
    "timestamp of words": (lambda r, n, p: having(r.build(n, "j"), f"{p}-TIMESTAMP", "now"), "signature_malformed"),
    "negative timestamp": (lambda r, n, p: having(r.build(n, "j"), f"{p}-TIMESTAMP", "-5"), "signature_malformed"),
    "huge timestamp": (lambda r, n, p: having(r.build(n, "j"), f"{p}-TIMESTAMP", "9" * 5000), "signature_malformed"),
    "another timestamp": (lambda r, n, p: having(r.build(n, "j"), f"{p}-TIMESTAMP", "1"), "signature_mismatch"),
    "forged": (lambda r, n, p: forge(r.build(n, "j")), "signature_mismatch"),
    "another key": (
        lambda r, n, p: sign(replace(r.source(n), keys=("another-key",)), b"{}", job_id="j"),  # type: ignore[type-var]
        "signature_mismatch",
    ),
    "another url": (
        lambda r, n, p: sign(replace(r.source(n), urls=("https://cb.example.com/",)), b"{}", job_id="j"),  # type: ignore[type-var]
        "signature_mismatch",
    ),
    "an hour old": (lambda r, n, p: r.build(n, "j", now=hours_ago(1)), "stale"),
    "an hour ahead": (lambda r, n, p: r.build(n, "j", now=hours_ago(-1)), "stale"),
}


@pytest.mark.parametrize("name", ["vod", "ims"])
async def test_http_refuses_what_is_not_signed_by_us_and_now(running, name, subtests):
    prefix = "X-VOD" if name == "vod" else "X-ICE"
    before: Counter[str] = Counter()
    for case, (build, reason) in HTTP_REFUSALS.items():
        with subtests.test(case):
            answer = await running.send(build(running, name, prefix))
            await assert_refused(running, name, answer, 403, reason, before=before)


async def test_a_callback_of_one_product_is_not_taken_by_another(running):
    """Same scheme, other headers."""
    request = replace(running.build("vod", "j"), target="/callbacks/ims")
    await assert_refused(running, "ims", await running.send(request), 403, "signature_missing")


def foreign_topic(running: Running, push_format: Any) -> SimulatedRequest:
    source = running.source("mts")
    assert isinstance(source, MnsPushSource)
    foreign = replace(source, topics=frozenset({"999/theirs"}))
    return sign(foreign, build_payload(source, "j"), job_id="j", push_format=push_format)


def foreign_envelope(running: Running, topic: str = "theirs") -> SimulatedRequest:
    """Headers of our topic around an envelope that names another."""
    envelope = {"TopicOwner": "999", "TopicName": topic, "Message": "{}", "MessageId": "1", "PublishTime": "1"}
    return running.build("mts", "j", payload=envelope)


def cert_at(running: Running, url: str) -> SimulatedRequest:
    return running.build("mts", "j", by=MnsSigner(signer()[0].private_key, url))


MNS_REFUSALS: Mapping[str, tuple[Callable[[Running], SimulatedRequest], str]] = {
    "no authorization": (lambda r: without(r.build("mts", "j"), "Authorization"), "signature_missing"),
    "no md5": (lambda r: without(r.build("mts", "j"), "Content-MD5"), "signature_missing"),
    "no date": (lambda r: without(r.build("mts", "j"), "Date"), "signature_missing"),
    "no certificate": (lambda r: without(r.build("mts", "j"), "x-mns-signing-cert-url"), "signature_missing"),
    "authorization of words": (
        lambda r: having(r.build("mts", "j"), "Authorization", "Bearer of a token"),
        "signature_malformed",
    ),
    "empty authorization": (lambda r: having(r.build("mts", "j"), "Authorization", ""), "signature_malformed"),
    "certificate of words": (
        lambda r: having(r.build("mts", "j"), "x-mns-signing-cert-url", "https://x/y"),
        "signature_malformed",
    ),
    "another date format": (lambda r: having(r.build("mts", "j"), "Date", "2026-01-01"), "signature_malformed"),
    "no such day": (
        lambda r: having(r.build("mts", "j"), "Date", "Mon, 30 Feb 2026 00:00:00 GMT"),
        "signature_malformed",
    ),
    "another body": (lambda r: replace(r.build("mts", "j"), body=b'{"Type": "Snapshot"}'), "digest_mismatch"),
    "forged": (lambda r: forge(r.build("mts", "j")), "signature_mismatch"),
    "another signer": (
        lambda r: r.build("mts", "j", by=MnsSigner(make_mns_key(now=datetime.now(UTC))[0])),
        "signature_mismatch",
    ),
    "another path": (
        lambda r: sign(replace(r.source("mts"), path="/other"), b"{}", job_id="j"),  # type: ignore[type-var]
        "signature_mismatch",
    ),
    "another query": (
        lambda r: replace(r.build("mts", "j"), target=MTS_PATH + "?a=b"),
        "signature_mismatch",
    ),
    "an hour old": (lambda r: r.build("mts", "j", now=hours_ago(1)), "stale"),
    "an hour ahead": (lambda r: r.build("mts", "j", now=hours_ago(-1)), "stale"),
    "topic of others, simplified": (lambda r: foreign_topic(r, "SIMPLIFIED"), "topic_not_allowed"),
    "topic of others, xml": (lambda r: foreign_topic(r, "XML"), "topic_not_allowed"),
    "topic of others, json": (lambda r: foreign_topic(r, "JSON"), "topic_not_allowed"),
    "topic of others in the envelope alone": (foreign_envelope, "topic_not_allowed"),
    "certificate not pinned": (lambda r: cert_at(r, NEW_CERTIFICATE_URL), "certificate_url"),
    "certificate of others": (lambda r: cert_at(r, "https://evil.example.com/cert.pem"), "certificate_url"),
}


async def test_mns_push_refuses_what_is_not_signed_for_us_and_now(running, subtests):
    before: Counter[str] = Counter()
    for case, (build, reason) in MNS_REFUSALS.items():
        with subtests.test(case):
            request = build(running)
            if case == "another path":
                request = replace(request, target=MTS_PATH)
            answer = await running.send(request)
            await assert_refused(running, "mts", answer, 403, reason, before=before)


def altered(running: Running, change: Callable[[str], str]) -> SimulatedRequest:
    request = running.build("gif", "j")
    path, _, token = request.target.rpartition("/")
    return replace(request, target=f"{path}/{change(token)}")


TOKEN_REFUSALS: Mapping[str, tuple[Callable[[Running], SimulatedRequest], str]] = {
    "a word": (lambda r: altered(r, lambda t: "callback"), "unknown_token"),
    "one character less": (lambda r: altered(r, lambda t: t[:-1]), "unknown_token"),
    "one character more": (lambda r: altered(r, lambda t: t + "A"), "unknown_token"),
    "another character": (
        lambda r: altered(r, lambda t: ("A" if t[40] != "A" else "B").join((t[:40], t[41:]))),
        "unknown_token",
    ),
    "other case": (lambda r: altered(r, str.swapcase), "unknown_token"),
    "another alphabet": (lambda r: altered(r, lambda t: "%FF" * 22 + "A"), "unknown_token"),
    "percent-encoded": (lambda r: altered(r, lambda t: f"%{ord(t[0]):02X}{t[1:]}"), "unknown_token"),
    "forged": (lambda r: forge(r.build("gif", "j")), "unknown_token"),
    "another key": (
        lambda r: sign(replace(r.source("gif"), keys={1: b"x" * 32}), b"{}", job_id="j"),  # type: ignore[type-var]
        "unknown_token",
    ),
    "an unknown key id": (
        lambda r: sign(replace(r.source("gif"), keys={9: b"x" * 32}, minting_key_id=9), b"{}", job_id="j"),  # type: ignore[type-var]
        "unknown_token",
    ),
    "expired": (lambda r: r.build("gif", "j", now=hours_ago(1)), "expired_token"),
}


async def test_token_url_answers_as_if_nothing_were_there(running, subtests):
    before: Counter[str] = Counter()
    for case, (build, reason) in TOKEN_REFUSALS.items():
        with subtests.test(case):
            answer = await running.send(build(running))
            await assert_refused(running, "gif", answer, 404, reason, before=before)
            nowhere = await running.send(encode_request("POST", "/nowhere/at/all", body=b"{}"))
            before["unknown_path"] += 1
            assert nowhere.status == answer.status
            assert nowhere.body == answer.body
            assert nowhere.headers.keys() == answer.headers.keys()
            assert all(nowhere.headers[name] == answer.headers[name] for name in answer.headers if name != "date")


@pytest.mark.parametrize("name, hours", [("vod", 1), ("vod", -1), ("ims", 1), ("mts", 1), ("mts", -1), ("gif", 1)])
async def test_a_right_signature_at_a_wrong_time_is_counted_with_its_age(running, name, hours):
    """Our own clock may be the wrong one."""
    await running.send(running.build(name, "j", now=hours_ago(hours)))
    (line,) = running.lines
    # A minted URL is valid for the first ten minutes here.
    age_s = hours * 3600 - (600 if name == "gif" else 0)
    assert line["age_s"] == pytest.approx(age_s, abs=60)
    metrics = await running.metrics()
    below, above = ("600.0", "86400.0") if hours > 0 else ("-86400.0", "-600.0")
    bucket = 'media_callbacks_stale_age_seconds_bucket{{le="{}",source="{}"}}'
    assert metrics.get(bucket.format(below, name), 0) == 0
    assert metrics[bucket.format(above, name)] == 1


# Doubled headers

SIGNED_HEADERS = {
    "vod": ("X-VOD-TIMESTAMP", "X-VOD-SIGNATURE"),
    "ims": ("X-ICE-TIMESTAMP", "X-ICE-SIGNATURE"),
    "mts": (
        "Authorization",
        "Content-MD5",
        "Content-Type",
        "Date",
        "x-mns-signing-cert-url",
        "x-mns-version",
        "x-mns-topic-name",
        "x-mns-topic-owner",
    ),
}


@pytest.mark.parametrize("name", SIGNED_HEADERS)
async def test_a_signed_header_that_comes_twice_is_malformed(running, name, subtests):
    before: Counter[str] = Counter()
    for header, value in itertools.product(SIGNED_HEADERS[name], ("the same", "another")):
        with subtests.test(header, value=value):
            request = running.build(name, "j")
            running.note_secrets(request)
            again = request.headers[header] if value == "the same" else "x"
            headers = [*headers_of(request), (header.lower().encode(), again.encode())]
            answer = await running.send(encode_request("POST", request.target, headers, request.body))
            await assert_refused(running, name, answer, 400, "doubled_header", before=before)


@pytest.mark.parametrize("name", SIGNED_HEADERS)
async def test_bytes_that_are_no_text_in_a_signed_header_are_refused(running, name, subtests):
    before: Counter[str] = Counter()
    for header, index in itertools.product(SIGNED_HEADERS[name], range(3)):
        with subtests.test(header, index=index):
            request = running.build(name, "j")
            value = (b"\xff\xfe", b"\xc3\xa9" * 16, request.headers[header].encode() + b"\x80")[index]
            headers = [(n, value if n == header.encode() else v) for n, v in headers_of(request)]
            answer = await running.send(encode_request("POST", request.target, headers, request.body))
            await assert_refused(running, name, answer, 403, "signature_malformed", before=before)


@pytest.mark.parametrize("name", SOURCES)
async def test_odd_headers_that_nobody_signs_change_nothing(running, name):
    request = running.build(name, "j")
    odd = [(b"User-Agent", b"\xff\xfe\x80"), (b"X-Forwarded-For", b"\xe4"), (b"Accept", b""), (b"Cookie", b"\xf0" * 99)]
    odd += [
        (b"Content-Encoding", b"gzip"),
        (b"X-Twice", b"1"),
        (b"X-Twice", b"2"),
        (b"Upgrade-Insecure-Requests", b"1"),
    ]
    answer = await running.send(encode_request("POST", request.target, [*odd, *headers_of(request)], request.body))
    assert_success(name, answer)


# The third row: not now


CERTIFICATE_ANSWERS: Mapping[str, tuple[Any, int, str]] = {
    "404": (Fetched(404, b""), 403, "certificate"),
    "403": (Fetched(403, b"<Error/>"), 403, "certificate"),
    "redirect": (Fetched(302, b""), 403, "certificate"),
    "no certificate": (Fetched(200, b"<html>"), 403, "certificate"),
    "too large": (Fetched(200, b"x" * 20_000), 403, "certificate"),
    "500": (Fetched(500, b""), 503, "cannot_verify"),
    "503": (Fetched(503, b""), 503, "cannot_verify"),
    "network": (aiohttp.ClientConnectionError("no route"), 503, "cannot_verify"),
    "name": (OSError("no such name"), 503, "cannot_verify"),
    "time-out": (TimeoutError(), 503, "cannot_verify"),
}


@pytest.mark.parametrize("case", CERTIFICATE_ANSWERS)
async def test_a_certificate_that_cannot_be_had(tmp_path, case):
    """A host that is down may be up later; one that says no has said so."""
    result, status, reason = CERTIFICATE_ANSWERS[case]

    async def fetch(url: str) -> Fetched:
        if isinstance(result, BaseException):
            raise result
        return result  # type: ignore[no-any-return]

    async with run_service(tmp_path, changes=UNPINNED, fetch=fetch) as running:
        answer = await running.send(cert_at(running, NEW_CERTIFICATE_URL))
        await assert_refused(running, "mts", answer, status, reason)
        assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


async def test_a_fault_of_ours_is_answered_counted_and_told_by_its_place_alone(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("with what the caller sent: secret-7")

    async with run_service(tmp_path) as running:
        monkeypatch.setattr("media_callbacks.edge.endpoint.build_receipt", fail)
        answer = await running.send(running.build("vod", "job-1"))
        assert answer.status == 500
        (line,) = (line for line in running.logs if line["event"] == "callback_failed")
        assert (line["event"], line["source"], line["error"]) == ("callback_failed", "vod", "RuntimeError")
        assert "secret-7" not in str(line)
        assert (await running.metrics())['media_callbacks_rejects_total{reason="internal",source="vod"}'] == 1


async def test_the_vendor_comes_again_when_the_certificate_host_was_down(tmp_path, monkeypatch):
    monkeypatch.setattr("media_callbacks.edge.certificates.FAILURE_REMEMBERED_S", 0.0)
    answers = [Fetched(502, b""), Fetched(200, signer()[1].encode())]
    fetched = []

    async def fetch(url: str) -> Fetched:
        if url != NEW_CERTIFICATE_URL:
            raise OSError("only the new one is there")
        fetched.append(url)
        return answers.pop(0)

    async with run_service(tmp_path, changes=UNPINNED, fetch=fetch) as running:
        request = cert_at(running, NEW_CERTIFICATE_URL)
        assert [(await running.send(request)).status for _ in range(3)] == [503, 204, 204]
        await running.receiver.wait_for(1)
        assert fetched == [NEW_CERTIFICATE_URL] * 2


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/cert.pem",
        "https://mns-cert.oss-cn-hangzhou.aliyuncs.com.evil.example.com/cert.pem",
        "https://mns-cert.oss-cn-beijing.aliyuncs.com/cert.pem",
        "https://user@mns-cert.oss-cn-hangzhou.aliyuncs.com/cert.pem",
        "https://mns-cert.oss-cn-hangzhou.aliyuncs.com:8443/cert.pem",
        "http://127.0.0.1/cert.pem",
        "file:///etc/passwd",
        "https://mns-cert.oss-cn-hangzhou.aliyuncs.com/a/../cert.pem",
    ],
)
async def test_only_the_vendors_hosts_are_ever_asked_for_a_certificate(tmp_path, url):
    asked = []

    async def fetch(asked_url: str) -> Fetched:
        asked.append(asked_url)
        return Fetched(200, signer()[1].encode())

    async with run_service(tmp_path, changes=UNPINNED, fetch=fetch) as running:
        known = list(asked)
        answer = await running.send(cert_at(running, url))
        await assert_refused(running, "mts", answer, 403, "certificate_url")
        assert asked == known


async def test_asking_for_ever_new_certificates_is_refused_and_no_fault_of_ours(tmp_path):
    """However many hosts of the vendor give nothing: the fetches are bounded and the answer is no 5xx."""
    asked = []

    async def fetch(url: str) -> Fetched:
        asked.append(url)
        return Fetched(404, b"")

    async with run_service(tmp_path, changes=UNPINNED, fetch=fetch) as running:
        urls = [NEW_CERTIFICATE_URL.replace("2026", str(number)) for number in range(40)]
        answers = [await running.send(cert_at(running, url)) for url in urls]
        assert {answer.status for answer in answers} == {403}
        assert len(asked) < 20


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "breaking, mending",
    [("query_only = 1", "query_only = 0"), ("max_page_count = 1", "max_page_count = 100000")],
    ids=["read-only", "full"],
)
async def test_what_cannot_be_stored_now_is_not_lost(running, name, breaking, mending):
    # More than free pages could take.
    large = {"Padding": "x" * 200_000}
    payload = build_payload(running.source(name), "job-1") | large
    request = running.build(name, "job-1", payload=payload)
    async with running.failing_store(breaking, mending):
        answers = [await running.send(request) for _ in range(3)]
    assert [answer.status for answer in answers] == [503] * 3
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert {(line["source"], line["reason"]) for line in running.lines} == {(name, "inbox_unavailable")}
    assert len(running.lines) == 3
    assert_success(name, await running.send(request))
    assert_success(name, await running.send(request))
    (event,) = await running.receiver.wait_for(1)
    assert event["data"]["outcome"] == "succeeded"
    assert running.rows("SELECT state FROM receipts ORDER BY id") == [("accepted",), ("duplicate",)]


async def test_a_failing_store_loses_nothing_of_what_it_had_taken(running):
    running.receiver.status = 503
    assert_success("vod", await running.send(running.build("vod", "before")))
    await running.until(lambda: any(line.get("result") == "retrying" for line in running.logs))
    running.receiver.status = 204
    async with running.failing_store("query_only = 1", "query_only = 0"):
        assert (await running.send(running.build("vod", "meanwhile"))).status == 503
    assert_success("vod", await running.send(running.build("vod", "after")))
    assert [event["subject"] for event in await running.receiver.wait_for(1)] == ["after"]
    await running.until(lambda: running.rows("SELECT state FROM deliveries") == [("retrying",), ("delivered",)])


# The fourth row: not HTTP as it should be


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("chunk", [None, 1000, 70_000], ids=["announced", "small chunks", "large chunks"])
async def test_a_body_over_the_limit_is_refused_and_the_client_sees_it(running, name, chunk):
    """The client sends all of ten megabytes before it reads."""
    request = replace(running.build(name, "j"), body=b"x" * 10_000_000)
    async with connected(running.address) as (reader, writer):
        writer.write(encode(request, chunk=chunk))
        await writer.drain()
        answer = await read_answer(reader)
        await assert_refused(running, name, answer, 413, "body_too_large")
        # What was left of the body is no part of the next request.
        writer.write(encode(running.build(name, "next")))
        answer = await read_answer(reader)
        assert_success(name, answer)


async def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(running):
    async with connected(running.address) as (reader, writer):
        writer.write(encode_request("POST", "/callbacks/vod", body=b"x" * 2_000_000)[:-2_000_000])
        answer = await read_answer(reader)
    await assert_refused(running, "vod", answer, 413, "body_too_large")


async def test_a_body_of_exactly_the_limit_is_taken(tmp_path):
    async with run_service(tmp_path, changes={"server.max_body_bytes": 5000}) as running:
        for size, status in ((4999, 200), (5000, 200), (5001, 413)):
            for chunk in (None, 999):
                request = running.build("vod", f"{size}{chunk}", payload=b" " * size)
                assert (await running.send(request, chunk=chunk)).status == status


async def test_refusing_large_bodies_takes_no_memory(running):
    """Eight clients send 32 MB each in chunks without ever reading; the process never holds a fraction of it."""
    piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    head = encode_request("POST", "/callbacks/vod", [(b"Transfer-Encoding", b"chunked")]).replace(
        b"Content-Length: 0\r\n", b""
    )

    async def client() -> int | None:
        async with connected(running.address) as (reader, writer):
            try:
                writer.write(head)
                for _ in range(500):
                    writer.write(piece)
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
                answer = await read_answer(reader)
            except ConnectionError:
                # Whoever sends on for long after the answer is cut off, and may find that out before the answer.
                return None
            assert answer is not None
            return answer.status

    tracemalloc.start()
    try:
        found = await asyncio.gather(*(client() for _ in range(8)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(found) <= {413, None}
    assert {line["reason"] for line in running.lines} == {"body_too_large"}
    # A body up to the limit for each, twice over because it is joined, and the sockets' buffers.
    assert peak_bytes < 48 * 2**20


HUGE_HEADS = {
    "one header": [(b"X-Large", b"x" * 17_000)],
    "many headers": [(b"X-%d" % number, b"x" * 40) for number in range(400)],
    "a long name": [(b"X" * 17_000, b"x")],
}


async def test_headers_over_the_limit_are_refused(running, subtests):
    for number, (name, case) in enumerate(itertools.product(SOURCES, HUGE_HEADS)):
        with subtests.test(name, case=case):
            request = running.build(name, "j")
            headers = [*headers_of(request), *HUGE_HEADS[case]]
            answer = await running.send(encode_request("POST", request.target, headers, request.body))
            assert answer.status == 431
            assert [line["reason"] for line in running.lines[number:]] == ["headers_too_large"]
            assert running.rows("SELECT count(*) FROM receipts") == [(0,)]


async def test_headers_just_under_the_limit_are_taken(running):
    request = running.build("vod", "j")
    size = len(encode(request)) - len(request.body)
    headers = [*headers_of(request), (b"X-Filler", b"x" * (MAX_HEADER_BYTES - size - 200))]
    assert_success("vod", await running.send(encode_request("POST", request.target, headers, request.body)))


@on_sockets
@pytest.mark.parametrize(
    "beginning, piece",
    [
        (b"POST /callbacks/vod HTTP/1.1\r\nX-Endless: ", b"x" * 1024),
        (b"POST /callbacks/vod HTTP/1.1\r\nHost: x\r\n", b"X-Again: and again and again\r\n" * 32),
        (b"POST /callbacks/vod?", b"x" * 1024),
        (b"GET /health/live HTTP/1.1\r\nX-Endless: ", b"x" * 1024),
        (
            b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X-Trailer: and again and again\r\n" * 32,
        ),
        (b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;extension=", b"x" * 1024),
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" * 512),
    ],
    ids=["header", "headers", "request line", "health", "trailers", "chunk extension", "blank lines"],
)
async def test_what_never_ends_is_cut_off(running, beginning, piece):
    """The connection is closed after a bounded number of bytes; a client that goes on gets a reset."""
    async with connected(running.address) as (reader, writer):
        writer.write(beginning)
        for _ in range(1000):
            if reader.at_eof() or reader.exception() is not None or writer.is_closing():
                break
            try:
                writer.write(piece)
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)
        else:
            pytest.fail("a megabyte was taken")
        await running.until(lambda: bool(running.lines))
    assert "headers_too_large" in [line["reason"] for line in running.lines]


@pytest.mark.parametrize("name", SOURCES)
async def test_other_methods_are_refused_and_the_right_ones_named(running, name):
    allowed = {"POST"} if name != "gif" else {"POST", "GET", "PUT"}
    others = [m for m in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND") if m not in allowed]
    for method in others:
        answer = await running.send(encode_request(method, PATHS[name]))
        assert answer.status == 405, method
        assert set(answer.headers["allow"].split(", ")) == allowed
    assert [(line["source"], line["status"], line["reason"]) for line in running.lines] == [
        (name, 405, "method")
    ] * len(others)


NOWHERE = (
    "/",
    "/nowhere",
    "/callbacks",
    "/callbacks/vod/",
    "/callbacks/VOD",
    "//callbacks/vod",
    "/callbacks/vod/../ims",
    "/callbacks/gif",
    "/callbacks/gif/",
    "/callbacks/gif/a/b",
    "/callbacks/gif/a%2Fb",
    "/callbacks/mts",
    "/callbacks/mts/5f0c9d6e3ab14478",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/%00",
)


async def test_elsewhere_there_is_nothing(running, subtests):
    for number, target in enumerate(NOWHERE):
        with subtests.test(target):
            answer = await running.send(encode_request("POST", target, body=b"{}"))
            assert answer.status == 404
            assert answer.json() == {"title": "Not Found", "status": 404}
            lines = running.lines[number:]
            assert [(line["source"], line["reason"]) for line in lines] == [("none", "unknown_path")]
            counted = (await running.metrics())['media_callbacks_rejects_total{reason="unknown_path",source="none"}']
            assert counted == number + 1


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("/callbacks/vod/", "; without the slash at its end it is the path of vod"),
        ("/prefix/callbacks/vod", "; it ends as the path of vod does: does a proxy add or take away"),
        ("/vod", "; it ends as the path of vod does: does a proxy add or take away"),
        ("/callbacks/vodka", ""),
        ("/", ""),
    ],
)
async def test_a_path_that_is_nearly_one_of_ours_is_told_to_the_log_alone(running, target, hint):
    answer = await running.send(encode_request("POST", target, body=b"{}"))
    assert answer.json() == {"title": "Not Found", "status": 404}
    (line,) = running.lines
    assert line["detail"].startswith(f"nothing is configured here{hint}")
    assert bool(hint) == (";" in line["detail"])
    assert target == "/" or target not in line["detail"]


MALFORMED = {
    "no http": b"hello, is anybody there?\r\n\r\n",
    "tls": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 160,
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bad version": b"POST /callbacks/vod HTTP/9.9\r\n\r\n",
    "unknown method": b"FETCH /callbacks/vod HTTP/1.1\r\n\r\n",
    "no path": b"POST HTTP/1.1\r\n\r\n",
    "path of bytes": b"POST /callbacks/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "control character in a path": b"POST /\x7f HTTP/1.1\r\nHost: x\r\n\r\n",
    "blank in a name": b"POST /callbacks/vod HTTP/1.1\r\nX VOD: 1\r\n\r\n",
    "bytes in a name": b"POST /callbacks/vod HTTP/1.1\r\nX-\xff: 1\r\n\r\n",
    "no colon": b"POST /callbacks/vod HTTP/1.1\r\nnonsense\r\n\r\n",
    "nul in a value": b"POST /callbacks/vod HTTP/1.1\r\nX-A: a\0b\r\n\r\n",
    "folded header": b"POST /callbacks/vod HTTP/1.1\r\nX-A: a\r\n b\r\nContent-Length: x\r\n\r\n",
    "length of words": b"POST /callbacks/vod HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    "negative length": b"POST /callbacks/vod HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST /callbacks/vod HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "endless length": b"POST /callbacks/vod HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "length and chunks": (
        b"POST /callbacks/vod HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "bad chunk": b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "negative chunk": b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    "chunk with a sign": b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
    "chunk too long": b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\nabc",
    "no line break after a chunk": b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd0\r\n\r\n",
    "bare line feeds": b"POST /callbacks/vod HTTP/1.1\nHost: x\n\n\r\n\r\n",
    "bare line feeds and no more": b"POST /callbacks/vod HTTP/1.1\nHost: x\n\n",
    "bare line feeds after a request line": b"POST /callbacks/vod HTTP/1.1\r\nHost: x\n\n",
    "bare line feeds in chunks": b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n",
    "chunks that are not last": (b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "two encodings": (
        b"POST /callbacks/vod HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "blank before a colon": b"POST /callbacks/vod HTTP/1.1\r\nContent-Length : 5\r\n\r\n12345",
    "another protocol": b"POST /callbacks/vod RTSP/1.0\r\nHost: x\r\n\r\n",
    "radio": b"SOURCE /callbacks/vod ICE/1.0\r\nHost: x\r\n\r\n",
    "http/0.9": b"GET /callbacks/vod\r\n\r\n",
    "http/0.9 in words": b"GET /callbacks/vod HTTP/0.9\r\n\r\n",
    "http/1.2": b"POST /callbacks/vod HTTP/1.2\r\n\r\n",
    "two blanks": b"POST  /callbacks/vod HTTP/1.1\r\n\r\n",
    "connect": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
}
NO_HEADS = ("length and chunks", "chunks that are not last")


async def test_a_connection_that_nobody_uses_is_closed(running, loop_clock):
    async with connected(running.address) as (reader, writer):
        # Each within the time, so that the deadline of the first answer comes too early for the second.
        for job_id in ("a", "b", "c"):
            writer.write(encode(running.build("vod", job_id)))
            answer = await read_answer(reader)
            assert answer is not None
            assert answer.status == 200
            loop_clock.skip(0.6 * KEEP_ALIVE_S)
            for _ in range(5):  # turns of the event loop in which deadlines are looked at
                await asyncio.sleep(0)
        assert not reader.at_eof()
        loop_clock.skip(0.5 * KEEP_ALIVE_S)
        assert await reader.read() == b""


@on_sockets
@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_no_http_is_a_bad_request(running, case):
    async with connected(running.address) as (reader, writer):
        writer.write(MALFORMED[case])
        answer = await read_answer(reader)
        assert answer is not None
        assert answer.status == 400
    assert running.rows("SELECT count(*) FROM receipts") == [(0,)]
    assert [(line["source"], line["status"], line["reason"]) for line in running.lines] == [
        # Of what is wrong in a body it is known where it was meant to go.
        ("vod" if "chunk" in case and case not in NO_HEADS else "none", 400, "malformed_request")
    ]
    assert running.library_logs == []
    # And nobody else has noticed.
    assert_success("vod", await running.send(running.build("vod", "j")))


@pytest.mark.parametrize("chunk", [None, 10], ids=["announced", "chunks"])
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.2, h2c"])
async def test_whoever_offers_another_protocol_is_answered_in_this_one(running, protocol, chunk):
    """As clients of Java do, with a body. RFC 9110, section 7.8: the offer may be ignored."""
    request = running.build("vod", "j")
    headers = [
        (b"Connection", b"Upgrade, HTTP2-Settings"),
        (b"upgrade", protocol),
        (b"HTTP2-Settings", b"AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
        *headers_of(request),
    ]
    encoded = encode_request("POST", request.target, headers, request.body, chunk=chunk)
    async with connected(running.address) as (reader, writer):
        for _ in range(2):
            writer.write(encoded)
            assert_success("vod", await read_answer(reader))
        # And in pieces.
        for start in range(0, len(encoded), 100):
            writer.write(encoded[start : start + 100])
            await asyncio.sleep(0)
        assert_success("vod", await read_answer(reader))
    (event,) = await running.receiver.wait_for(1)
    assert event["subject"] == "j"
    assert running.rows("SELECT body FROM receipts") == [(request.body,)] * 3
    assert running.library_logs == []


async def test_an_upgrade_of_a_request_without_body_is_ignored(running):
    request = running.build("gif", "j")
    headers = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"eA==")]
    assert_success("gif", await running.send(encode_request("GET", request.target, headers)))
    assert running.library_logs == []


@pytest.mark.parametrize("before, after", [(b"", b" "), (b"", b"\t"), (b" \t ", b" \t\t ")])
async def test_white_space_around_a_value_is_no_part_of_it(running, before, after):
    """RFC 9110, section 5.5."""
    for name in SOURCES:
        request = running.build(name, "j")
        headers = [(header, before + value + after) for header, value in headers_of(request)]
        assert_success(name, await running.send(encode_request("POST", request.target, headers, request.body)))


async def test_trailers_are_no_headers(running):
    """What comes behind the body is signed by nobody."""
    request = running.build("vod", "j")
    encoded = encode(without(request, "X-VOD-SIGNATURE"), chunk=50)
    trailer = b"X-VOD-SIGNATURE: " + request.headers["X-VOD-SIGNATURE"].encode()
    answer = await running.send(encoded[:-2] + trailer + b"\r\n\r\n")
    await assert_refused(running, "vod", answer, 403, "signature_missing")


# Clients in no hurry, and clients that go


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path):
    async with run_service(tmp_path, changes={"server.body_timeout_s": 0.1}) as running:
        for name in SOURCES:
            request = running.build(name, "j")
            for encoded in (encode(request)[:-1], encode(request, chunk=20)[:-2]):
                async with connected(running.address) as (reader, writer):
                    writer.write(encoded)
                    answer = await read_answer(reader)
                    assert answer is not None
                    assert answer.status == 408
                    assert answer.headers["connection"] == "close"
                    assert await reader.read() == b""
        expected = [(name, "slow_body") for name in SOURCES for _ in range(2)]
        assert [(line["source"], line["reason"]) for line in running.lines] == expected
        assert running.rows("SELECT count(*) FROM receipts") == [(0,)]


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /callbacks/vod HT",
        b"POST /callbacks/vod HTTP/1.1\r\nX-VOD-SIG",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n",
    ],
    ids=["nothing", "request line", "headers", "health"],
)
async def test_headers_that_do_not_come_are_not_waited_for(tmp_path, monkeypatch, beginning):
    monkeypatch.setattr("media_callbacks.process.server.HEAD_TIMEOUT_S", 0.1)
    async with run_service(tmp_path, changes={"server.body_timeout_s": 0.1}) as running:
        async with connected(running.address) as (reader, writer):
            writer.write(beginning)
            assert await read_to_the_end(reader) == b""
        assert [line["reason"] for line in running.lines] == ["slow_request"]


async def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("media_callbacks.process.server.HEAD_TIMEOUT_S", 0.1)
    async with run_service(tmp_path, changes={"server.body_timeout_s": 0.1}) as running:
        async with connected(running.address) as (reader, writer):
            end = asyncio.create_task(read_to_the_end(reader))
            writer.write(b"POST /callbacks/vod HTTP/1.1\r\nX-Slow: ")
            while not end.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert await end == b""
        assert [line["reason"] for line in running.lines] == ["slow_request"]


@on_sockets
async def test_blank_lines_do_not_keep_an_idle_connection_open(running, loop_clock):
    async with connected(running.address) as (reader, writer):
        writer.write(encode_request("GET", "/health/live"))
        assert await read_answer(reader) is not None
        (connection,) = running.connections
        idle_until = connection.deadline
        writer.write(b"\r\n")
        await running.until(lambda: connection.deadline < idle_until)
        # Before it would be closed for being idle.
        loop_clock.skip(HEAD_TIMEOUT_S + 1)
        assert await read_to_the_end(reader) == b""
    assert running.lines == []


@on_sockets
async def test_a_request_that_was_in_time_leaves_no_deadline_behind(running):
    """The connection lives on, for the next callback, longer than a balancer's."""
    loop = asyncio.get_running_loop()
    async with connected(running.address) as (reader, writer):
        await running.until(lambda: len(running.connections) == 1)
        (connection,) = running.connections
        for number in range(3):
            encoded = encode(running.build("vod", f"job-{number}"))
            writer.write(encoded[:100])
            await running.until(lambda: connection.deadline < loop.time() + 60)
            writer.write(encoded[100:])
            assert_success("vod", await read_answer(reader))
            assert connection.deadline > loop.time() + 60


@on_sockets
@pytest.mark.parametrize("name", SOURCES)
async def test_a_client_that_closes_its_half_gets_its_answer(running, name):
    async with connected(running.address) as (reader, writer):
        writer.write(encode(running.build(name, "j")))
        writer.write_eof()
        assert_success(name, await read_answer(reader))
        assert await reader.read() == b""
    await running.receiver.wait_for(1)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("part", ["headers", "body"])
async def test_a_client_that_goes_in_the_middle_leaves_nothing(running, part, half):
    encoded = encode(running.build("vod", "j"))
    async with connected(running.address) as (reader, writer):
        writer.write(encoded[:-10] if part == "body" else encoded[:60])
        if half:
            await writer.drain()
            writer.write_eof()
            assert await reader.read() == b""
    if part == "body" and half:
        await running.until(lambda: bool(running.lines))
        assert [(line["source"], line["reason"]) for line in running.lines] == [("vod", "disconnected")]
    assert_success("vod", await running.send(running.build("vod", "other")))
    assert running.rows("SELECT count(*) FROM receipts") == [(1,)]


async def test_a_client_that_does_not_wait_for_the_answer_has_been_heard(running):
    async with connected(running.address) as (_, writer):
        writer.write(encode(running.build("vod", "j")))
        writer.close()
        await running.receiver.wait_for(1)


# Connections


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_who_wants_the_connection_closed_finds_it_closed(running, method, body):
    request = encode_request(method, "/health/live", [(b"Connection", b"close")], body)
    async with connected(running.address) as (reader, writer):
        writer.write(request * 2)
        answer = await read_answer(reader, method=method)
        assert answer is not None
        assert answer.status == (405 if method == "POST" else 200)
        assert answer.headers["connection"] == "close"
        # The second is not answered.
        assert await reader.read() == b""


@pytest.mark.parametrize("name", SOURCES)
async def test_one_connection_serves_many_requests(running, name):
    async with connected(running.address) as (reader, writer):
        for number in range(20):
            writer.write(encode(running.build(name, f"job-{number}"), chunk=None if number % 2 else 33))
            assert_success(name, await read_answer(reader))
    assert len(await running.receiver.wait_for(20)) == 20


async def test_requests_sent_at_once_are_answered_in_order(running):
    good, forged = running.build("vod", "j"), forge(running.build("vod", "k"))
    requests = [good, running.build("mts", "l"), forged, running.build("gif", "m"), good, forged]
    async with connected(running.address) as (reader, writer):
        writer.write(b"".join(encode(request) for request in requests))
        answers = [await read_answer(reader) for _ in requests]
    assert [answer.status for answer in answers if answer] == [200, 204, 403, 200, 200, 403]


async def test_it_does_not_matter_in_which_pieces_a_request_comes(running):
    async with connected(running.address) as (reader, writer):
        for byte in encode(running.build("mts", "j"), chunk=7):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert_success("mts", await read_answer(reader))


async def test_a_client_that_asks_first_is_told_to_go_on(running):
    request = running.build("vod", "j")
    encoded = encode_request("POST", request.target, [*headers_of(request), (b"Expect", b"100-continue")], request.body)
    async with connected(running.address) as (reader, writer):
        writer.write(encoded[: -len(request.body)])
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(request.body)
        assert_success("vod", await read_answer(reader))


async def test_http_1_0_is_understood(running):
    encoded = encode(running.build("vod", "j")).replace(b" HTTP/1.1", b" HTTP/1.0", 1)
    async with connected(running.address) as (reader, writer):
        writer.write(encoded)
        assert_success("vod", await read_answer(reader))
        assert await reader.read() == b""


@pytest.mark.parametrize("path", ["/callbacks/%76od", "/%63allbacks/vod"])
async def test_a_path_may_be_percent_encoded(running, path):
    """As RFC 3986 says, section 6.2.2.2."""
    assert_success("vod", await running.send(replace(running.build("vod", "j"), target=path)))


async def test_a_query_is_no_part_of_the_path(running):
    assert_success("vod", await running.send(replace(running.build("vod", "j"), target="/callbacks/vod?a=b&a=%FF")))


# Anything


def _random_request(rng: random.Random, running: Running) -> bytes:
    """Bytes that are a request in more or fewer respects."""
    name = rng.choice(SOURCES)
    request = running.build(name, f"job-{rng.randrange(5)}")
    running.note_secrets(request)
    method: bytes = rng.choice([b"POST"] * 6 + [b"GET", b"PUT", b"DELETE", b"HEAD", b"CONNECT", b"NONSENSE", b"\xff"])
    target: bytes = rng.choice(
        [request.target.encode()] * 6 + [b"/", b"*", b"/health/ready", b"http://x/y", b"/%", b"/\xe4"]
    )
    headers = headers_of(request)
    for _ in range(rng.randrange(4)):
        match rng.randrange(4):
            case 0:
                headers.pop(rng.randrange(len(headers))) if headers else None
            case 1 if headers:
                headers.append(rng.choice(headers))
            case 2 if headers:
                position = rng.randrange(len(headers))
                headers[position] = (headers[position][0], rng.randbytes(rng.randrange(60)).replace(b"\n", b""))
            case _:
                headers.append(
                    (b"X-" + bytes(rng.choices(b"abc\xe9 :", k=3)), rng.randbytes(rng.choice([3, 300, 9000])))
                )
    body = rng.choice([request.body, request.body[: rng.randrange(40)], rng.randbytes(rng.choice([0, 9, 5000]))])
    encoded = bytearray(encode_request(method, target, headers, body, chunk=rng.choice([None, None, None, 7, 500])))
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        encoded[rng.randrange(min(len(encoded), 400))] = rng.randrange(256)
    if rng.random() < 0.1:
        del encoded[rng.randrange(len(encoded)) :]
    return bytes(encoded)


@pytest.mark.parametrize("seed", range(3))
async def test_no_request_causes_a_5xx_or_goes_unanswered(tmp_path, seed):
    rng = random.Random(seed)
    statuses: list[int | None] = []

    async def client(running: Running, requests: list[bytes]) -> None:
        for encoded in requests:
            async with connected(running.address) as (reader, writer):
                writer.write(encoded)
                writer.write_eof()
                # A status line is answer enough: what follows belongs to requests that a body happened to hold.
                try:
                    line = await reader.readline()
                except ConnectionResetError:
                    line = b""
                statuses.append(int(line.split()[1]) if line else None)

    async with run_service(tmp_path, changes={"server.max_body_bytes": 2000}) as running:
        requests = [_random_request(rng, running) for _ in range(300)]
        await asyncio.gather(*(client(running, requests[start::8]) for start in range(8)))
        assert len(statuses) == 300
        assert {status for status in statuses if status is not None and status >= 500} == set()
        # They were not all refused for one and the same thing.
        assert {200, 400, 403, 404, 405} <= set(statuses)
        assert statuses.count(None) < 30
        for name in SOURCES:
            assert_success(name, await running.send(running.build(name, f"after {name}")))
        assert not [line for line in running.logs if line["log_level"] in ("error", "critical")]


def test_the_signatures_of_these_tests_are_the_vendors():
    """The example of the vendor's page, so that the table above is not verified against itself alone."""
    text = b"https://example.com/cb|1519375990|key"
    assert http.sign("https://example.com/cb", "1519375990", "key") == hashlib.md5(text).hexdigest()
