"""Who may look, and what there is to be seen."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from service.admin import AdminGuard
from service.errors import InboxUnavailable
from tests.running import ADMIN_TOKEN, SOURCES, encode_request, run_service

WITH_TOKEN = {"admin.token": ADMIN_TOKEN}


# The guard by itself


async def ask(token: str | None, client: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> tuple[int, bytes, Any]:
    """Status, body and headers of what the guard answers; 200 when it lets the request through."""
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": list(headers)}
    if client is not ...:
        scope["client"] = client
    await AdminGuard(inner, token=token)(scope, receive, send)
    return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "::FFFF:127.0.0.1", "0:0:0:0:0:0:0:1", "::1%lo"],
)
async def test_without_a_token_this_machine_is_let_in(host):
    assert (await ask(None, (host, 50_000)))[:2] == (200, b"inside")


@pytest.mark.parametrize(
    "client",
    [
        ("192.168.1.7", 1),
        ("10.0.0.1", 1),
        ("0.0.0.0", 1),
        ("128.0.0.1", 1),
        ("8.8.8.8", 1),
        ("::", 1),
        ("::2", 1),
        ("fe80::1%eth0", 1),
        ("::ffff:192.168.1.7", 1),
        ("::ffff:8.8.8.8", 1),
        ("::127.0.0.1", 1),
        ("2001:db8::1", 1),
        ("localhost", 1),
        ("127.0.0.1.example.com", 1),
        ("", 1),
        None,
        ...,
    ],
    ids=str,
)
async def test_without_a_token_nobody_else_is(client):
    status, body, _ = await ask(None, client, [(b"authorization", b"Bearer "), (b"x-forwarded-for", b"127.0.0.1")])
    assert status == 403
    assert b"inside" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "8.8.8.8"])
@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer "])
async def test_with_a_token_it_is_what_counts(host, scheme):
    assert (await ask(ADMIN_TOKEN, (host, 1), [(b"authorization", scheme + ADMIN_TOKEN.encode())]))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer wrong-token-of-some-length"],
        [b"Bearer " + ADMIN_TOKEN.encode()[:-1]],
        [b"Bearer " + ADMIN_TOKEN.encode() + b"x"],
        [b"Bearer " + ADMIN_TOKEN.upper().encode()],
        [ADMIN_TOKEN.encode()],
        [b"Bearer \xff\xfe"],
        [b"Bearer " + ADMIN_TOKEN.encode()] * 2,
        [b"Bearer " + ADMIN_TOKEN.encode(), b"Bearer wrong"],
    ],
    ids=range(12),
)
async def test_anything_but_the_token_is_refused_even_on_this_machine(headers):
    status, body, answered = await ask(ADMIN_TOKEN, ("127.0.0.1", 1), [(b"authorization", value) for value in headers])
    assert status == 401
    assert answered[b"www-authenticate"] == b"Bearer"
    assert answered[b"content-type"] == b"application/problem+json"
    assert b"inside" not in body


async def test_another_scheme_is_not_the_token():
    headers = [(b"authorization", b"Basic  " + ADMIN_TOKEN.encode())]
    assert (await ask(ADMIN_TOKEN, ("127.0.0.1", 1), headers))[0] == 401


@pytest.mark.parametrize("token", [ADMIN_TOKEN.encode(), b"x", b"\xff" * 500])
async def test_tokens_are_compared_in_constant_time(monkeypatch, token):
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("service.admin.hmac.compare_digest", compare)
    await ask(ADMIN_TOKEN, ("127.0.0.1", 1), [(b"authorization", b"Bearer " + token)])
    assert compared == [(b"Bearer " + token, b"Bearer " + ADMIN_TOKEN.encode())]


# Over the wire


async def test_metrics_are_for_operators_and_not_for_the_public(tmp_path):
    async with run_service(tmp_path, changes=WITH_TOKEN) as running:
        good = [(b"Authorization", b"Bearer " + ADMIN_TOKEN.encode())]
        assert (await running.get("/metrics", admin=True)).status == 401
        assert (await running.get("/metrics", admin=True, headers=[(b"Authorization", b"Bearer x")])).status == 401
        answer = await running.get("/metrics", admin=True, headers=good)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        for headers in ([], good):
            assert (await running.get("/metrics", headers=headers)).status == 404
        # And the operators' listener takes no callbacks.
        for name in SOURCES:
            request = running.build(name, "j")
            assert (await running.get(request.target, admin=True, method=request.method, headers=good)).status == 404


async def test_without_a_token_the_operators_listener_answers_on_loopback(running):
    assert (await running.get("/metrics", admin=True)).status == 200
    assert (await running.get("/metrics", admin=True, method="POST")).status == 405
    assert (await running.get("/elsewhere", admin=True)).status == 404


async def test_metrics_tell_what_happened(running):
    for name in SOURCES:
        await running.send(running.build(name, "a"))
    await running.send(running.build("vod", "a"))
    await running.send(running.build("vod", "a", failed=True))
    await running.send(running.build("mts", "b", payload=b"no json"))
    await running.receiver.wait_for(5)
    await running.until(lambda: sum(line["event"] == "attempt" for line in running.logs) == 5)
    metrics = await running.metrics()
    assert metrics['media_callbacks_receipts_total{source="vod",state="accepted"}'] == 2
    assert metrics['media_callbacks_receipts_total{source="vod",state="duplicate"}'] == 1
    assert metrics['media_callbacks_receipts_total{source="mts",state="unparsed"}'] == 1
    assert metrics['media_callbacks_events_total{kind="animated_image",outcome="succeeded"}'] == 3
    assert metrics['media_callbacks_events_total{kind="animated_image",outcome="failed"}'] == 1
    assert metrics['media_callbacks_answer_duration_seconds_count{source="vod"}'] == 3
    assert metrics['media_callbacks_attempt_duration_seconds_count{result="delivered",sink="orders"}'] == 5


async def test_the_backlog_is_counted_when_asked(running):
    running.receiver.status = 500
    await running.send(running.build("vod", "a"))
    await running.until(lambda: any(line.get("result") == "retrying" for line in running.logs))
    metrics = await running.metrics()
    assert metrics['media_callbacks_deliveries{sink="orders",state="retrying"}'] == 1
    assert metrics['media_callbacks_attempt_duration_seconds_count{result="retrying",sink="orders"}'] == 1


async def test_no_caller_can_make_series(running):
    """Whatever comes, labels are configured names and words of ours."""

    async def all_kinds_of_requests(tag: str) -> None:
        for name in SOURCES:
            await running.send(running.build(name, f"job-{tag}"))
            payload = {"EventType": f"Type{tag}", "Type": f"Type{tag}", "JobId": tag, "VideoId": tag, "Status": tag}
            await running.send(running.build(name, f"other-{tag}", payload=payload))
        await running.send(encode_request("POST", f"/{tag}"))
        await running.send(encode_request("POST", "/callbacks/vod", [(b"X-VOD-TIMESTAMP", tag.encode())]))
        await running.send(encode_request("POST", f"/callbacks/gif/{tag}"))
        await running.send(encode_request("DELETE", f"/callbacks/vod?{tag}", [(tag.encode(), tag.encode())]))

    await all_kinds_of_requests("first")
    await running.until(lambda: running.rows("SELECT DISTINCT state FROM deliveries") == [("delivered",)])
    before = set(await running.metrics())
    for number in range(10):
        await all_kinds_of_requests(f"tag{number}")
    await running.until(lambda: running.rows("SELECT DISTINCT state FROM deliveries") == [("delivered",)])
    after = set(await running.metrics())
    labels = re.compile(r'(\w+)="([^"]*)"')
    assert not [name for name in after if "tag" in name.lower()]
    allowed = {"source": {*SOURCES, "none"}, "sink": {"orders"}}
    for name in after:
        for label, value in labels.findall(name):
            assert value in allowed.get(label, {value})
    assert after - before == set()


async def test_metrics_are_there_while_the_store_is_not(running, monkeypatch):
    """They are most wanted then."""
    await running.send(running.build("vod", "a"))

    def fail(*_: object) -> None:
        raise InboxUnavailable("cannot read the store: disk I/O error")

    monkeypatch.setattr(running.service.inbox, "_read_now", fail)
    metrics = await running.metrics()
    assert metrics['media_callbacks_receipts_total{source="vod",state="accepted"}'] == 1
    assert not [name for name in metrics if name.startswith("media_callbacks_deliveries{")]


# Events and receipts


async def test_an_event_is_shown_with_its_receipts_and_deliveries(running):
    await running.send(running.build("vod", "a"))
    await running.send(running.build("vod", "a"))
    await running.receiver.wait_for(1)
    event = running.receiver.events[0]
    await running.until(lambda: any(line["event"] == "attempt" for line in running.logs))
    answer = await running.get(f"/v1/events/{event['id']}", admin=True)
    assert answer.status == 200
    shown = answer.json()
    assert shown["event"] == event
    assert [receipt["state"] for receipt in shown["receipts"]] == ["accepted", "duplicate"]
    assert {receipt["transport"] for receipt in shown["receipts"]} == {"http"}
    (delivery,) = shown["deliveries"]
    assert (delivery["sink"], delivery["state"], delivery["attempts"]) == ("orders", "delivered", 1)


async def test_receipts_that_gave_no_event_are_listed_with_the_reason_and_the_warnings(running):
    await running.send(running.build("mts", "x", payload=b"no json"))
    await running.send(
        running.build("vod", "a", payload=b'{"EventType":"FileUploadComplete","VideoId":"v","Size":"?"}')
    )
    answer = await running.get("/v1/receipts", admin=True)
    newest, oldest = answer.json()["receipts"]
    assert (newest["source"], newest["state"], newest["warnings"]) == ("vod", "accepted", ["Size"])
    assert len(newest["event_ids"]) == 1
    assert (oldest["source"], oldest["state"], oldest["event_ids"]) == ("mts", "unparsed", [])
    assert "expected a JSON object" in oldest["reason"]
    only = await running.get("/v1/receipts?state=unparsed&source=mts&limit=1", admin=True)
    assert [receipt["id"] for receipt in only.json()["receipts"]] == [oldest["id"]]
    rest = await running.get(f"/v1/receipts?cursor={only.json()['cursor']}", admin=True)
    assert rest.json() == {"receipts": [], "cursor": None}


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/v1/events/evt_1", 404, "no event has this id"),
        ("/v1/events/%FF", 404, "no event has this id"),
        ("/v1/receipts?state=lost", 400, "state: Input should be 'accepted', 'duplicate', 'unparsed' or 'conflict'"),
        ("/v1/receipts?limit=501", 400, "limit: "),
        ("/v1/receipts?cursor=-1", 400, "cursor: "),
        ("/v1/receipts?since=yesterday", 400, "since: "),
        ("/v1/receipts?colour=red", 400, "colour: "),
    ],
)
async def test_questions_that_make_no_sense_are_answered_with_what_was_expected(running, path, status, detail):
    answer = await running.get(path, admin=True)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]


async def test_the_public_is_shown_neither_events_nor_receipts(running):
    for path in ("/v1/receipts", "/v1/events/evt_1"):
        assert (await running.get(path)).status == 404
