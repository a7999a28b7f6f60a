"""Who may look, and what there is to be seen."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from media_callbacks.admin.guard import AdminGuard
from media_callbacks.model.errors import InboxUnavailable
from tests.factories.operators import NOW, Operators, operating
from tests.factories.running import (
    ADMIN_TOKEN,
    SOURCES,
    Answer,
    Running,
    connected,
    encode_request,
    read_answer,
    run_service,
)
from tests.inbox.conformance import make_event, purge_step

WITH_TOKEN = {"admin.token": ADMIN_TOKEN}


# The guard by itself

HERE, ELSEWHERE = ("127.0.0.1", 50_000), ("192.168.1.7", 50_000)
HOST = (b"host", b"127.0.0.1:8081")


async def ask(
    client: Any = HERE,
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    host: Sequence[tuple[bytes, bytes]] = (HOST,),
    tokens: tuple[str, ...] = (),
    jobs_tokens: tuple[str, ...] = (),
    method: str = "GET",
    path: str = "/metrics",
) -> tuple[int, str, dict[bytes, bytes]]:
    """Status, detail and headers of what the guard answers; 200 and ``inside`` when it lets the request through."""
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"detail": "inside"}'})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "scheme": "http", "method": method, "path": path, "headers": [*host, *headers]}
    if client is not ...:
        scope["client"] = client
    await AdminGuard(inner, tokens=tokens, jobs_tokens=jobs_tokens)(scope, receive, send)
    answered = dict(sent[0]["headers"])
    if sent[0]["status"] != 200:
        assert answered[b"content-type"] == b"application/problem+json"
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"], answered


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "::FFFF:127.0.0.1", "0:0:0:0:0:0:0:1", "::1%lo"],
)
async def test_without_a_token_this_machine_is_let_in(address):
    assert (await ask((address, 50_000)))[:2] == (200, "inside")


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
    status, detail, _ = await ask(client, [(b"authorization", b"Bearer ")])
    assert status == 403
    assert detail == (
        "expected a request from this machine, because admin.token is not set; came one from elsewhere; ask from this"
        " machine, or set admin.token and send it"
    )


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1",
        b"127.0.0.1:80",
        b"127.0.0.1:65535",
        b"127.255.0.9:8081",
        b"localhost",
        b"LocalHost:9000",
        b"[::1]",
        b"[::1]:8081",
        b"[0:0:0:0:0:0:0:1]:8081",
    ],
)
async def test_this_machine_is_asked_by_a_name_that_nobody_can_turn_to_it(host):
    assert (await ask(host=[(b"host", host)]))[0] == 200


@pytest.mark.parametrize(
    ("hosts", "came"),
    [
        # DNS rebinding: the page's own name, with the address of this machine.
        *[
            ([host], "another one")
            for host in (
                b"evil.example",
                b"evil.example:8081",
                b"localhost.evil.example",
                b"127.0.0.1.evil.example",
                b"127.0.0.1.nip.io:8081",
                b"a.localhost",
                b"localhost.",
                b"localhost:",
                b"localhost:8081x",
                b"localhost@evil.example",
                b"evil.example#localhost",
                b"127.0.0.1, evil.example",
                b"127.1",
                b"127.0.0.256",
                b"0.0.0.0:8081",
                b"10.0.0.1:8081",
                b"2130706433",
                b"::1",
                b"[::1",
                b"[::]:8081",
                b"[::2]",
                b"[::1%evil.example]",
                b"[" + b":" * 5000 + b"]",
                b"1" * 5000,
                b"\xff\xfe",
                b" localhost",
                b"localhost\n",
                b"",
            )
        ],
        # No browser and no program of today leaves it out; what does, HTTP/1.0 without a name, asks for nobody in
        # particular, and need not be answered.
        ([], "none"),
        ([b"localhost", b"evil.example"], "several"),
        ([b"localhost", b"localhost"], "several"),
    ],
    ids=str,
)
async def test_without_a_token_other_names_are_refused(hosts, came):
    status, detail, _ = await ask(host=[(b"host", host) for host in hosts])
    assert status == 403
    assert detail == (
        "expected one header Host of 127.0.0.1, [::1] or localhost, with any port, because admin.token is not set;"
        f" came {came}; ask by http://127.0.0.1:<port>, or set admin.token and send it"
    )


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        (b"127.0.0.1:8081", [(b"origin", b"http://127.0.0.1:8081")]),
        (b"LOCALHOST:8081", [(b"origin", b"http://localhost:8081")]),
        (b"localhost:80", [(b"origin", b"http://localhost")]),
        (b"localhost", [(b"origin", b"http://localhost")]),
        (b"[::1]:8081", [(b"origin", b"http://[::1]:8081"), (b"sec-fetch-site", b"same-origin")]),
        (b"localhost", [(b"sec-fetch-site", b"none")]),
        (b"localhost", [(b"sec-fetch-mode", b"navigate"), (b"x-forward", b"1"), (b"viaduct", b"1")]),
    ],
    ids=str,
)
async def test_pages_of_the_service_itself_and_typed_addresses_are_let_in(host, headers):
    assert (await ask(HERE, headers, host=[(b"host", host)]))[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        *[
            ([(b"origin", value)], "expected no header Origin, or the one of this address")
            for value in (
                b"https://evil.example",
                b"http://evil.example:8081",
                b"https://127.0.0.1:8081",
                b"http://127.0.0.1",
                b"http://127.0.0.1:3000",
                b"http://localhost:8081",
                b"http://127.0.0.1:8081.evil.example",
                b"http://127.0.0.1:8081/",
                b"null",
                b"",
                b"\xff",
            )
        ],
        ([(b"origin", b"http://127.0.0.1:8081"), (b"origin", b"null")], "expected no header Origin"),
        *[
            ([(b"sec-fetch-site", value)], "expected no header Sec-Fetch-Site, or same-origin or none in it")
            for value in (b"cross-site", b"same-site", b"", b"same-origin, cross-site", b"\xff")
        ],
        ([(b"sec-fetch-site", b"none"), (b"sec-fetch-site", b"cross-site")], "expected no header Sec-Fetch-Site"),
        ([(b"origin", b"http://127.0.0.1:8081"), (b"sec-fetch-site", b"cross-site")], "expected no header Sec-Fetch"),
    ],
    ids=str,
)
async def test_without_a_token_web_pages_elsewhere_are_refused(method, headers, expected):
    status, detail, answered = await ask(HERE, headers, method=method, path="/v1/sinks/orders/pause")
    assert status == 403
    assert detail.startswith(expected)
    assert detail.endswith("; ask by a program and not from a web page, or set admin.token and send it")
    assert not [name for name in answered if name.startswith(b"access-control-")]


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-anything",
        b"x-forwarded",
        b"x-original-forwarded-for",
        b"forwarded",
        b"forwarded-for",
        b"via",
        b"x-real-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"x-cluster-client-ip",
        b"cdn-loop",
        b"x_forwarded_for",
    ],
)
@pytest.mark.parametrize("value", [b"203.0.113.9", b"127.0.0.1", b""])
async def test_without_a_token_what_a_proxy_passes_on_is_refused(name, value):
    status, detail, _ = await ask(HERE, [(name, value)])
    assert status == 403
    assert detail == (
        "expected a request that no proxy has passed on, because admin.token is not set; came one with the header"
        f" {name.decode()}; ask without a proxy, or set admin.token and send it"
    )


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer "])
async def test_with_a_token_it_is_what_counts(scheme):
    given = (b"authorization", scheme + ADMIN_TOKEN.encode())
    for client in (HERE, ("8.8.8.8", 1), None, ...):
        assert (await ask(client, [given], tokens=(ADMIN_TOKEN,)))[0] == 200
    # Through a proxy, by any name, from any page: whoever shows it was given it.
    others = [
        (b"x-forwarded-for", b"8.8.8.8"),
        (b"origin", b"https://tools.example"),
        (b"sec-fetch-site", b"cross-site"),
    ]
    assert (await ask(ELSEWHERE, [given, *others], host=[(b"host", b"admin.example")], tokens=(ADMIN_TOKEN,)))[0] == 200


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer wrong-token-of-some-length"],
        [b"Bearer " + ADMIN_TOKEN.encode()[:-1]],
        [b"Bearer " + ADMIN_TOKEN.encode() + b"x"],
        [b"Bearer " + ADMIN_TOKEN.upper().encode()],
        [b"Bearer " + ADMIN_TOKEN.encode() + b", " + ADMIN_TOKEN.encode()],
        [ADMIN_TOKEN.encode()],
        [b"Basic  " + ADMIN_TOKEN.encode()],
        [b"Bearer \xff\xfe"],
        ["Bearer tökén-of-some-length".encode()],
        ["Bearer tökén-of-some-length".encode("latin-1")],
        [b"Bearer " + ADMIN_TOKEN.encode() + b"\xff"],
        [b"Bearer " + b"\xff" * 16_000],
        [b"Bearer " + ADMIN_TOKEN.encode()] * 2,
        [b"Bearer " + ADMIN_TOKEN.encode(), b"Bearer wrong"],
    ],
    ids=range(18),
)
async def test_anything_but_the_token_is_refused_even_on_this_machine(values):
    headers = [(b"authorization", value) for value in values]
    status, detail, answered = await ask(HERE, headers, tokens=(ADMIN_TOKEN, "the-admin-token-before"))
    assert (status, answered[b"www-authenticate"]) == (401, b"Bearer")
    assert detail == "expected the header Authorization: Bearer <admin.token>"


async def test_tokens_take_the_place_of_others_without_a_gap():
    """All instances learn the new one, then all clients do, then all instances forget the old one."""
    old, new = "the-admin-token-before", "the-admin-token-after"
    for tokens, good, bad in [((old,), (old,), (new,)), ((new, old), (new, old), ()), ((new,), (new,), (old,))]:
        for expected, given in [*((200, token) for token in good), *((401, token) for token in bad)]:
            header = (b"authorization", f"Bearer {given}".encode())
            assert (await ask(ELSEWHERE, [header], tokens=tokens))[0] == expected
            for_jobs = await ask(ELSEWHERE, [header], tokens=(ADMIN_TOKEN,), jobs_tokens=tokens, path="/v1/jobs")
            assert for_jobs[0] == expected


# The applications' token

JOBS_TOKEN = "jobs-token-6b1d0e8a4c7f"
NO_TOKEN = None


@pytest.mark.parametrize(
    ("token", "client", "path", "given", "expected"),
    [
        # It opens the jobs and nothing else.
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs", JOBS_TOKEN, 200),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs", ADMIN_TOKEN, 200),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs", NO_TOKEN, 401),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs", "another-token-of-some-length", 401),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs", JOBS_TOKEN[:-1], 401),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs", JOBS_TOKEN + ADMIN_TOKEN, 401),
        *[
            (ADMIN_TOKEN, client, path, JOBS_TOKEN, 401)
            for client in (HERE, ELSEWHERE)
            for path in (
                "/v1/jobsx",
                "/v1/JOBS",
                "/v1/search",
                "/x/v1/jobs/x",
                "//v1/jobs",
                "/v1/report",
                "/v1/events",
                "/metrics",
                "/",
            )
        ],
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs/vod/x", JOBS_TOKEN, 200),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs/vod/x", ADMIN_TOKEN, 200),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/jobs/vod/x", NO_TOKEN, 401),
        (ADMIN_TOKEN, ELSEWHERE, "/v1/events", ADMIN_TOKEN, 200),
        (ADMIN_TOKEN, HERE, "/v1/jobs", NO_TOKEN, 401),
        # Without admin.token, this machine is let in as before, and applications from elsewhere to the jobs.
        (None, HERE, "/v1/jobs", NO_TOKEN, 200),
        (None, HERE, "/v1/jobs", JOBS_TOKEN, 200),
        (None, HERE, "/v1/events", NO_TOKEN, 200),
        (None, ELSEWHERE, "/v1/jobs", JOBS_TOKEN, 200),
        (None, ELSEWHERE, "/v1/jobs", "another-token-of-some-length", 401),
        (None, ELSEWHERE, "/v1/jobs", NO_TOKEN, 401),
        (None, ELSEWHERE, "/v1/events", JOBS_TOKEN, 403),
        (None, None, "/v1/jobs", NO_TOKEN, 401),
    ],
    ids=str,
)
async def test_the_token_of_applications_opens_the_jobs_and_nothing_else(token, client, path, given, expected):
    headers = [] if given is None else [(b"authorization", b"Bearer " + given.encode())]
    tokens = () if token is None else (token,)
    status, detail, answered = await ask(client, headers, tokens=tokens, jobs_tokens=(JOBS_TOKEN,), path=path)
    assert (status, detail == "inside") == (expected, expected == 200)
    assert (b"www-authenticate" in answered) == (expected == 401)


async def test_a_refusal_names_the_tokens_that_would_do():
    status, detail, _ = await ask(tokens=(ADMIN_TOKEN,), jobs_tokens=(JOBS_TOKEN,), path="/v1/jobs")
    assert (status, detail) == (401, "expected the header Authorization: Bearer <admin.token or admin.jobs_token>")
    status, detail, _ = await ask(HERE, [(b"via", b"1.1 a")], jobs_tokens=(JOBS_TOKEN,), path="/v1/jobs")
    assert status == 401
    assert detail == (
        "expected the header Authorization: Bearer <admin.jobs_token>; without it: expected a request that no proxy has"
        " passed on, because admin.token is not set; came one with the header via; ask without a proxy"
    )


@pytest.mark.parametrize("given", [ADMIN_TOKEN, "the-admin-token-before", JOBS_TOKEN, "x", "é" * 500])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/events"])
async def test_all_tokens_are_compared_in_constant_time_whichever_it_is(monkeypatch, given, path):
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("media_callbacks.admin.guard.hmac.compare_digest", compare)
    header = b"Bearer " + given.encode()
    tokens, jobs_tokens = (ADMIN_TOKEN, "the-admin-token-before"), (JOBS_TOKEN, "the-jobs-token-before")
    await ask(HERE, [(b"authorization", header)], tokens=tokens, jobs_tokens=jobs_tokens, path=path)
    assert compared == [(header, f"Bearer {token}".encode()) for token in tokens + jobs_tokens]


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


async def send_admin(running: Running, request: bytes) -> Answer:
    async with connected(running.admin_address) as (reader, writer):
        writer.write(request)
        answer = await read_answer(reader)
    assert answer is not None
    return answer


async def test_a_web_page_in_a_browser_on_this_machine_neither_reads_nor_orders(running):
    """What browsers send for a page elsewhere, by fetch, by form and by a name turned to this machine."""
    here = running.admin_address
    page = [(b"Origin", b"https://evil.example"), (b"Sec-Fetch-Site", b"cross-site")]
    form = [(b"Content-Type", b"application/x-www-form-urlencoded")]
    json_type = [(b"Content-Type", b"application/json")]
    pause = "/v1/sinks/orders/pause"
    rebound = f"evil.example:{here.rpartition(':')[2]}"
    requests = [
        (403, encode_request("POST", pause, page, host=here)),
        (403, encode_request("POST", pause, page + json_type, b"{}", host=here)),
        (403, encode_request("OPTIONS", pause, [*page, (b"Access-Control-Request-Method", b"POST")], host=here)),
        (403, encode_request("POST", pause, page + form, b"requested_by=me", host=here)),
        # Of a browser that says nothing about where the page is from.
        (415, encode_request("POST", pause, host=here)),
        (415, encode_request("POST", pause, form, b"requested_by=me", host=here)),
        (415, encode_request("POST", pause, [(b"Content-Type", b"text/plain; application/json")], b"{}", host=here)),
        *[
            (403, encode_request(method, target, [(b"Sec-Fetch-Site", b"same-origin"), *json_type], host=rebound))
            for method, target in [
                ("GET", "/v1/events"),
                ("GET", "/v1/report"),
                ("GET", "/metrics"),
                ("GET", "/openapi.json"),
                ("GET", "/nowhere"),
                ("POST", pause),
                ("POST", "/v1/replays"),
                ("POST", "/v1/jobs"),
            ]
        ],
        (403, encode_request("GET", "/v1/events", [(b"X-Forwarded-For", b"203.0.113.9")], host=here)),
        (403, b"GET /v1/events HTTP/1.0\r\n\r\n"),
    ]
    for status, request in requests:
        answer = await send_admin(running, request)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), request
        assert "expected" in answer.json()["detail"]
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    # Without a host, or with two, it is no request of HTTP/1.1.
    two_hosts = encode_request("GET", "/v1/events", [(b"Host", b"localhost")], host=here)
    for request in (b"GET /v1/events HTTP/1.1\r\n\r\n", two_hosts):
        assert (await send_admin(running, request)).status == 400
    (sink,) = (await running.get("/v1/sinks", admin=True)).json()["sinks"]
    assert sink["state"] == "active"
    assert (await send_admin(running, encode_request("POST", pause, json_type, host=here))).status == 200


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

    async def fail(*_: object) -> None:
        raise InboxUnavailable("cannot read the store: disk I/O error")

    monkeypatch.setattr(running.service.inbox, "list_sinks", fail)
    metrics = await running.metrics()
    assert metrics['media_callbacks_receipts_total{source="vod",state="accepted"}'] == 1
    assert metrics["media_callbacks_store_up"] == 0
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
        (
            "/v1/receipts?state=lost",
            400,
            "state: Input should be 'accepted', 'duplicate', 'differing', 'unparsed' or 'conflict'",
        ),
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


# What there is to ask


@pytest.fixture
async def operators(tmp_path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as found:
        yield found


async def test_events_are_listed_newest_first_with_the_state_at_each_sink(operators):
    (first,) = await operators.put("a", sinks=("orders", "bus"))
    (second,) = await operators.put("b", sinks=(), at=NOW + timedelta(seconds=1.5))
    await operators.attempt("orders", "delivered")
    assert await operators.get("/v1/events") == {
        "events": [
            {
                "id": second,
                "accepted_at": "2026-11-21T04:00:01.500Z",
                "product": "vod",
                "kind": "animated_image",
                "outcome": "succeeded",
                "revision": 1,
                "job_id": "b",
                "media_id": "media-1",
                "deliveries": {},
            },
            {
                "id": first,
                "accepted_at": "2026-11-21T04:00:00Z",
                "product": "vod",
                "kind": "animated_image",
                "outcome": "succeeded",
                "revision": 1,
                "job_id": "a",
                "media_id": "media-1",
                "deliveries": {"orders": "delivered", "bus": "pending"},
            },
        ],
        "cursor": None,
    }


async def test_pages_follow_each_other_without_gap_or_repetition(operators):
    ids = await operators.put(*(f"job-{number}" for number in range(7)))
    first = await operators.get("/v1/events", limit="3")
    second = await operators.get("/v1/events", limit="3", cursor=first["cursor"])
    third = await operators.get("/v1/events", limit="3", cursor=second["cursor"])
    pages = [[event["id"] for event in page["events"]] for page in (first, second, third)]
    assert pages == [ids[:3:-1], ids[3:0:-1], ids[:1]]
    assert third["cursor"] is None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"job_id": "dead"}, ["dead"]),
        ({"job_id": "nothing"}, []),
        ({"media_id": "media-1", "product": "vod", "kind": "animated_image", "outcome": "succeeded"}, ["*"]),
        ({"product": "mts"}, []),
        ({"outcome": "failed"}, []),
        ({"state": "dead"}, ["dead"]),
        ({"state": "pending"}, ["new"]),
        ({"state": "unrouted"}, ["unrouted"]),
        ({"state": "delivered"}, []),
        ({"state": "pending", "sink": "orders"}, []),
        ({"sink": "bus"}, ["new"]),
        ({"since": "2026-11-21T05:00:00Z"}, ["new", "unrouted"]),
        ({"since": "2026-11-21T06:00:00+01:00"}, ["new", "unrouted"]),
        ({"until": "2026-11-21t05:00:00z"}, ["dead"]),
    ],
    ids=str,
)
async def test_events_are_found_by_what_is_asked_for(operators, conditions, expected):
    await operators.put("dead")
    await operators.attempt("orders", "dead", error="410 Gone")
    await operators.put("unrouted", sinks=(), at=NOW + timedelta(hours=1))
    await operators.put("new", sinks=("bus",), at=NOW + timedelta(hours=1))
    found = [event["job_id"] for event in (await operators.get("/v1/events", **conditions))["events"]]
    assert found == (["new", "unrouted", "dead"] if expected == ["*"] else expected)


async def test_the_life_of_an_event_has_every_attempt(operators):
    (event_id,) = await operators.put("a")
    await operators.put("a", at=NOW + timedelta(seconds=3))
    await operators.attempt("orders", "retrying", error="answered 503")
    operators.now += timedelta(days=2)
    await operators.attempt("orders", "delivered")
    shown = await operators.get(f"/v1/events/{event_id}")
    assert {"id", "accepted_at", "is_routed", "event", "receipts", "deliveries", "erased_at"} <= set(shown)
    assert (shown["kind"], shown["outcome"], shown["revision"], shown["job_id"]) == (
        "animated_image",
        "succeeded",
        1,
        "a",
    )
    assert (shown["id"], shown["accepted_at"], shown["is_routed"]) == (event_id, "2026-11-21T04:00:00Z", True)
    assert shown["event"] == json.loads(make_event("a").to_json())
    assert [(r["state"], r["received_at"], r["event_ids"]) for r in shown["receipts"]] == [
        ("accepted", "2026-11-21T04:00:00Z", [event_id]),
        ("duplicate", "2026-11-21T04:00:03Z", [event_id]),
    ]
    assert shown["deliveries"] == [
        {
            "sink": "orders",
            "replay": 0,
            "state": "delivered",
            "attempts": 2,
            "due_at": None,
            "changed_at": "2026-11-23T04:00:00Z",
            "error": None,
            "history": [
                {
                    "number": 1,
                    "started_at": "2026-11-21T04:00:00Z",
                    "duration_s": 0.25,
                    "result": "retrying",
                    "error": "answered 503",
                },
                {
                    "number": 2,
                    "started_at": "2026-11-23T04:00:00Z",
                    "duration_s": 0.25,
                    "result": "delivered",
                    "error": None,
                },
            ],
        }
    ]


# Replays


async def test_one_event_is_delivered_again_where_it_went_before(operators):
    (event_id,) = await operators.put("a", sinks=("orders", "former"))
    await operators.attempt("orders", "delivered")
    answer = await operators.ask(
        "POST", f"/v1/events/{event_id}/replay", json={"requested_by": "kim", "reason": "lost it"}
    )
    assert answer.status_code == 202
    replay = answer.json()
    assert answer.headers["location"] == f"/v1/replays/{replay['id']}"
    conditions = ("job_id", "media_id", "account", "product", "kind", "outcome", "state", "sink", "since", "until")
    nothing = dict.fromkeys((*conditions, "given_up_since", "given_up_until"))
    assert replay == {
        "id": replay["id"],
        "state": "running",
        "total": 1,
        "done": 0,
        "created_at": "2026-11-21T04:00:00Z",
        "changed_at": "2026-11-21T04:00:00Z",
        "filter": {"event_id": event_id} | nothing,
        "sinks": ["orders"],
        "rate": 50.0,
        "requested_by": "kim",
        "reason": "lost it",
        "deliveries": None,
    }
    assert operators.created == 1
    await operators.inbox.advance_replays(now=NOW)
    (delivery,) = await operators.inbox.claim("orders", limit=10, now=NOW, lease_s=20.0)
    assert (delivery.event_id, delivery.replay) == (event_id, 1)
    assert await operators.get(f"/v1/replays/{replay['id']}") == replay | {
        "state": "finished",
        "done": 1,
        "deliveries": {"waiting": 1, "delivered": 0, "dead": 0},
    }


async def test_an_event_is_delivered_again_to_the_sinks_that_are_named(operators):
    (event_id,) = await operators.put("a", sinks=())
    status, replay = await operators.post(f"/v1/events/{event_id}/replay", {"sinks": ["bus", "bus"]})
    assert (status, replay["sinks"]) == (202, ["bus"])
    await operators.inbox.advance_replays(now=NOW)
    assert (await operators.get("/v1/events"))["events"][0]["deliveries"] == {"bus": "pending"}


async def test_an_event_that_went_nowhere_needs_to_be_told_where(operators):
    (event_id,) = await operators.put("a", sinks=())
    status, answer = await operators.post(f"/v1/events/{event_id}/replay")
    assert status == 422
    assert answer["detail"] == (
        "sinks: name some, because the event has gone to none that is configured; configured are orders, bus"
    )
    assert operators.created == 0


async def test_an_event_whose_payload_is_gone_cannot_be_sent(operators):
    (event_id,) = await operators.put("a")
    await operators.attempt("orders", "delivered")
    later = NOW + timedelta(days=40)
    await purge_step(operators.inbox, payloads_before=later, keys_before=NOW - timedelta(days=1), limit=1000)
    assert (await operators.get(f"/v1/events/{event_id}"))["event"] is None
    status, answer = await operators.post(f"/v1/events/{event_id}/replay", {"sinks": ["orders"]})
    assert (status, answer["title"]) == (409, "Conflict")
    assert "retention period" in answer["detail"]


async def test_many_events_are_counted_first_and_then_delivered_again(operators):
    await operators.put("a", "b", "c", sinks=("orders", "bus"))
    await operators.attempt("orders", "dead", error="410 Gone")
    await operators.attempt("bus", "delivered")
    body = {"filter": {"state": "dead", "sink": "orders", "since": "2026-11-21T00:00:00Z"}, "rate": 2}
    assert await operators.post("/v1/replays", body | {"dry_run": True}) == (200, {"dry_run": True, "total": 3})
    assert (await operators.get("/v1/replays")) == {"replays": [], "cursor": None}
    assert operators.created == 0
    status, replay = await operators.post("/v1/replays", body)
    assert status == 202
    assert (replay["state"], replay["total"], replay["done"], replay["rate"]) == ("running", 3, 0, 2.0)
    assert replay["sinks"] == ["orders"], "where the filter says, not where they were taken"
    assert replay["filter"]["since"] == "2026-11-21T00:00:00Z"
    assert operators.created == 1


async def test_a_replay_that_is_cancelled_stays_so(operators):
    await operators.put("a", "b", "c")
    _, replay = await operators.post("/v1/replays", {"filter": {"job_id": "a"}, "sinks": ["bus"]})
    path = f"/v1/replays/{replay['id']}"
    operators.now += timedelta(seconds=5)
    cancelled = (200, replay | {"state": "cancelled", "changed_at": "2026-11-21T04:00:05Z"})
    assert await operators.post(f"{path}/cancel") == cancelled
    counts = {"waiting": 0, "delivered": 0, "dead": 0}
    assert await operators.get(path) == cancelled[1] | {"deliveries": counts}
    assert (await operators.post(f"{path}/cancel"))[1]["state"] == "cancelled"


async def test_replays_are_listed_newest_first_in_pages(operators):
    await operators.put("a")
    made = [(await operators.post("/v1/replays", {"filter": {"kind": "snapshot"}}))[1] for _ in range(3)]
    page = await operators.get("/v1/replays", limit="2")
    assert page["replays"] == [made[2], made[1]]
    assert await operators.get("/v1/replays", limit="2", cursor=page["cursor"]) == {
        "replays": [made[0]],
        "cursor": None,
    }


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 422, "filter: Field required"),
        ({"filter": {}}, 422, "filter: expected at least one of job_id, "),
        ({"filter": {"job_id": None}}, 422, "filter.job_id: Input should be a valid string"),
        ({"filter": {"colour": "red"}}, 422, "filter.colour: not known here"),
        ({"filter": {"kind": "gif"}}, 422, "filter.kind: Input should be 'animated_image', "),
        ({"filter": {"since": 1700000000}}, 422, "filter.since: expected an RFC 3339 time"),
        ({"filter": {"since": "2026-02-30T00:00:00Z"}}, 422, "filter.since: expected an RFC 3339 time"),
        ({"filter": {"since": "0001-01-01T00:00:00+14:00"}}, 422, "filter.since: expected an RFC 3339 time"),
        ({"filter": {"since": "2026-11-21T00:00:00"}}, 422, "filter.since: expected an RFC 3339 time"),
        ({"filter": {"job_id": "a\0"}}, 422, "filter.job_id: "),
        ({"filter": {"event_id": "evt_1"}}, 422, "filter.event_id: String should match pattern"),
        ({"filter": {"state": "unrouted"}}, 422, "sinks: name some, because unrouted events have gone to none"),
        ({"filter": {"sink": "former"}}, 422, "sinks: not configured: former; configured are orders, bus"),
        ({"filter": {"job_id": "a"}, "sinks": []}, 422, "sinks: Tuple should have at least 1 item"),
        (
            {"filter": {"job_id": "a"}, "sinks": ["odrers"]},
            422,
            'sinks: not configured: odrers; configured are orders, bus; did you mean "orders"?',
        ),
        ({"filter": {"job_id": "a"}, "sinks": "orders"}, 422, "sinks: "),
        ({"filter": {"job_id": "a"}, "rate": 0}, 422, "rate: Input should be greater than 0"),
        ({"filter": {"job_id": "a"}, "rate": 10001}, 422, "rate: Input should be less than or equal to 10000"),
        ({"filter": {"job_id": "a"}, "rate": "50"}, 422, "rate: Input should be a valid number"),
        ({"filter": {"job_id": "a"}, "dry_run": "true"}, 422, "dry_run: Input should be a valid boolean"),
        ({"filter": {"job_id": "a"}, "reason": "x" * 1001}, 422, "reason: String should have at most 1000 characters"),
        ({"filter": {"job_id": "a"}, "speed": 1}, 422, "speed: not known here; expected one of requested_by, "),
        ([], 422, "Input should be an object"),
        (None, 422, "filter: Field required"),
    ],
    ids=str,
)
async def test_an_order_that_makes_no_sense_changes_nothing(operators, body, status, detail):
    await operators.put("a")
    found_status, problem = await operators.post("/v1/replays", body)
    assert found_status == problem["status"] == status
    assert detail in problem["detail"]
    assert (await operators.get("/v1/replays"))["replays"] == []


def assert_problem(answer: httpx2.Response, status: int, detail: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["title"] not in ("", "Error")
    assert detail in found["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "detail"),
    [
        (b"{", "application/json", 400, "Invalid JSON"),
        (b"\xff\xfe", "application/json", 400, "Invalid JSON"),
        (b'{"reason": "\\ud800"}', "application/json", 400, "Invalid JSON"),
        (b'{"reason": "\xed\xa0\x80"}', "application/json", 400, "Invalid JSON"),
        (b'{"reason": "\\u0000"}', "application/json", 422, "reason: "),
        (b"[" * 10_000, "application/json", 400, "Invalid JSON"),
        (b'{"filter": {"job_id": "a"}, "rate": NaN}', "application/json", 422, "rate: Input should be a finite number"),
        (b"{}", "text/plain", 415, "expected Content-Type: application/json"),
        (b"{}", "application/json2", 415, "expected Content-Type: application/json"),
        (b"{}", None, 415, "expected Content-Type: application/json, came none; send it, also where there is no body"),
        (b"", None, 415, "expected Content-Type: application/json, came none"),
        (b"", "text/plain", 415, "expected Content-Type: application/json, came another one"),
        (b"", "text/plain;application/json", 415, "expected Content-Type: application/json, came another one"),
        (b"", "application/json, text/plain", 415, "expected Content-Type: application/json, came another one"),
        (b" " * 65_537, "application/json", 413, "expected at most 65536 bytes"),
    ],
    ids=range(15),
)
async def test_a_body_that_is_none_is_refused(operators, content, kind, status, detail):
    headers = {} if kind is None else {"content-type": kind}
    assert_problem(await operators.ask("POST", "/v1/replays", content=content, headers=headers), status, detail)


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize("types", [[], ["text/plain"], ["multipart/form-data"], ["application/json"] * 2])
async def test_no_order_is_taken_without_the_type_that_pages_may_not_send(operators, with_token, types):
    tokens = (ADMIN_TOKEN,) if with_token else ()
    transport = httpx2.ASGITransport(AdminGuard(operators.api.app(), tokens=tokens))
    headers = [("content-type", kind) for kind in types]
    headers += [("authorization", f"Bearer {ADMIN_TOKEN}")] if with_token else []
    (event_id,) = await operators.put("a")
    _, replay = await operators.post("/v1/replays", {"filter": {"job_id": "a"}})
    orders = [
        operation.path.format(event_id=event_id, replay_id=replay["id"], sink="orders")
        for operation in operators.api.operations
        if operation.method != "GET"
    ]
    assert len(orders) == 8
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for target in orders:
            assert_problem(await client.post(target, headers=headers), 415, "expected Content-Type: application/json")
    assert (await operators.get("/v1/replays"))["replays"] == [replay]
    assert (await operators.get("/v1/sinks"))["sinks"][0]["state"] == "active"
    assert (await operators.get("/v1/jobs"))["jobs"] == []


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON ; charset=utf-8"])
async def test_a_body_is_json_whatever_else_its_type_says(operators, kind):
    await operators.put("a")
    body = {
        "content": b'{"reason": "as large as can be"%s}' % (b" " * (65_536 - 32)),
        "headers": {"content-type": kind},
    }
    assert (await operators.ask("POST", "/v1/sinks/orders/pause", **body)).status_code == 200


# Sinks


async def test_sinks_are_shown_with_what_waits_for_them(operators):
    await operators.put("a", "b", sinks=("orders", "former"))
    await operators.put("c", at=NOW + timedelta(hours=1))
    await operators.attempt("orders", "dead", error="410 Gone", limit=1)
    await operators.attempt("orders", "retrying", error="503", limit=1)
    operators.now += timedelta(hours=2)
    shown = (await operators.get("/v1/sinks"))["sinks"]
    active = {"state": "active", "reason": None, "changed_by": None, "changed_at": None}
    answers = ("next_attempt_at", "last_error", "last_error_at", "first_given_up_at", "last_given_up_at")
    active |= dict.fromkeys((*answers, "last_taken_at"))
    empty = dict.fromkeys(("pending", "retrying", "parked", "dead"), 0)
    assert shown == [
        active
        | {
            "name": "orders",
            "kind": "webhook",
            "is_configured": True,
            "breaker": "open",
            "deliveries": empty | {"pending": 1, "retrying": 1, "dead": 1},
            "backlog": 2,
            "oldest_pending_at": "2026-11-21T04:00:00Z",
            "oldest_pending_age_s": 7200.0,
            "next_attempt_at": "2026-11-22T04:00:00Z",
            "last_error": "503",
            "last_error_at": "2026-11-21T04:00:00Z",
            "first_given_up_at": "2026-11-21T04:00:00Z",
            "last_given_up_at": "2026-11-21T04:00:00Z",
        },
        active
        | {
            "name": "bus",
            "kind": "sqs",
            "is_configured": True,
            "breaker": "closed",
            "deliveries": empty,
            "backlog": 0,
            "oldest_pending_at": None,
            "oldest_pending_age_s": None,
        },
        active
        | {
            "name": "former",
            "kind": None,
            "is_configured": False,
            "breaker": None,
            "deliveries": empty | {"pending": 2},
            "backlog": 2,
            "oldest_pending_at": "2026-11-21T04:00:00Z",
            "oldest_pending_age_s": 7200.0,
        },
    ]


async def test_a_filter_by_a_sink_that_nobody_knows_is_refused_with_the_one_that_was_meant(operators):
    answer = await operators.ask("GET", "/v1/events", params={"sink": "order"})
    assert_problem(answer, 404, 'sink: no sink has this name; configured are orders, bus; did you mean "orders"?')
    status, problem = await operators.post(
        "/v1/replays", {"filter": {"sink": "order"}, "sinks": ["orders"], "dry_run": True}
    )
    assert (status, problem["detail"].partition(";")[0]) == (422, "sink: no sink has this name")
    # One that is configured has nothing yet; one of before still has its events.
    assert await operators.get("/v1/events", sink="orders") == {"events": [], "cursor": None}
    await operators.put("job-1", sinks=("former",))
    assert len((await operators.get("/v1/events", sink="former"))["events"]) == 1


async def test_a_word_that_is_not_known_is_refused_with_the_one_that_was_meant(operators):
    answer = await operators.ask("GET", "/v1/events", params={"kind": "snapshots"})
    assert_problem(answer, 400, 'did you mean "snapshot"?')
    answer = await operators.ask("GET", "/v1/events", params={"state": "daed"})
    assert_problem(answer, 400, 'did you mean "dead"?')


async def test_a_sink_is_paused_and_resumed(operators):
    await operators.put("a", "b")
    order = {"reason": "maintenance", "requested_by": "kim"}
    status, paused = await operators.post("/v1/sinks/orders/pause", order)
    assert status == 200
    assert (paused["state"], paused["reason"], paused["changed_by"]) == ("paused", "maintenance", "kim")
    assert paused["changed_at"] == "2026-11-21T04:00:00Z"
    assert (paused["deliveries"]["parked"], paused["backlog"]) == (2, 2)
    assert paused == (await operators.get("/v1/sinks"))["sinks"][0]
    assert await operators.inbox.claim("orders", limit=10, now=NOW, lease_s=20.0) == []
    status, resumed = await operators.post("/v1/sinks/orders/resume")
    assert (status, resumed["state"], resumed["reason"], resumed["backlog"]) == (200, "active", None, 2)
    assert len(await operators.inbox.claim("orders", limit=10, now=NOW, lease_s=20.0)) == 2


@pytest.mark.parametrize("verb", ["resume", "retry"])
async def test_what_a_sink_did_not_take_is_tried_now_and_its_breaker_is_closed(operators, verb):
    await operators.put("a", "b")
    await operators.attempt("orders", "retrying", error="503")
    await operators.put("c")
    operators.inbox.listen(
        lambda names: operators.breakers.update({name[1:]: "closed" for name in names if "!" in name})
    )
    with capture_logs() as logs:
        status, tried = await operators.post(f"/v1/sinks/orders/{verb}", {"requested_by": "kim"})
    assert (status, tried["brought_forward"], tried["backlog"], tried["breaker"]) == (200, 2, 3, "closed")
    (logged,) = [log for log in logs if log["event"] == "sink_retried"]
    assert (logged["sink"], logged["brought_forward"], logged["requested_by"]) == ("orders", 2, "kim")
    assert len(await operators.inbox.claim("orders", limit=10, now=NOW, lease_s=20.0)) == 3
    assert (await operators.post(f"/v1/sinks/orders/{verb}"))[1]["brought_forward"] == 0


async def test_a_sink_that_disabled_itself_is_resumed(operators):
    await operators.inbox.set_sink_state("orders", "disabled", reason="410 Gone", changed_by=None, now=NOW)
    shown = (await operators.get("/v1/sinks"))["sinks"][0]
    assert (shown["state"], shown["reason"]) == ("disabled", "410 Gone")
    assert (await operators.post("/v1/sinks/orders/resume"))[1]["state"] == "active"


async def test_a_sink_without_anything_is_paused_and_resumed_too(operators):
    assert (await operators.post("/v1/sinks/bus/pause"))[1]["state"] == "paused"
    assert (await operators.post("/v1/sinks/bus/resume"))[1]["state"] == "active"


async def test_a_sink_that_is_not_configured_any_more_is_known_while_something_waits_for_it(operators):
    await operators.put("a", sinks=("former",))
    status, paused = await operators.post("/v1/sinks/former/pause")
    assert (status, paused["state"], paused["is_configured"]) == (200, "paused", False)


@pytest.mark.parametrize("name", ["nobody", "ORDERS", "%00", "%ED%A0%80", "orders%2F", "%F0%9F%98%80"])
@pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
async def test_only_known_sinks_are_paused(operators, name, verb):
    answer = await operators.ask("POST", f"/v1/sinks/{name}/{verb}", json={})
    if name == "orders%2F":
        assert answer.status_code == 404
    else:
        assert_problem(answer, 404, "no sink has this name; configured are orders, bus")
    assert [sink["state"] for sink in (await operators.get("/v1/sinks"))["sinks"]] == ["active", "active"]


# Questions that make no sense


@pytest.mark.parametrize(
    ("target", "status", "detail"),
    [
        ("/v1/events?state=lost", 400, "state: Input should be 'pending', 'retrying', "),
        ("/v1/events?kind=gif", 400, "kind: Input should be 'animated_image', "),
        ("/v1/events?job_id=", 400, "job_id: String should have at least 1 character"),
        ("/v1/events?job_id=%00", 400, "job_id: "),
        ("/v1/events?job_id=a&job_id=b", 400, "expected each parameter once, found more of: job_id"),
        ("/v1/events?limit=0", 400, "limit: "),
        ("/v1/events?limit=501", 400, "limit: "),
        ("/v1/events?limit=5.0", 400, "limit: expected a whole number in digits"),
        ("/v1/events?limit=1_0", 400, "limit: expected a whole number in digits"),
        ("/v1/events?limit=%D9%A3", 400, "limit: expected a whole number in digits"),
        ("/v1/events?cursor=9999999999999999999", 400, "cursor: "),
        ("/v1/events?cursor=x", 400, "cursor: "),
        ("/v1/events?since=1700000000", 400, "since: expected an RFC 3339 time"),
        ("/v1/events?since=2026-11-21T00:00:00+01:00", 400, "in a URL, + is written %2B"),
        ("/v1/events?colour=red", 400, "colour: not known here; expected one of job_id, "),
        ("/v1/events?%00=%00", 400, "not known here"),
        (f"/v1/events?{'x' * 5000}=1", 400, "not known here"),
        ("/v1/events?id=evt_1", 400, "id: not known here"),
        ("/v1/receipts?source=%00", 400, "source: "),
        ("/v1/replays?state=running", 400, "state: not known here; expected one of cursor, limit"),
        ("/v1/sinks?state=paused", 400, "expected no parameters, found state"),
        ("/metrics?x=1", 400, "expected no parameters, found x"),
        ("/openapi.json?x=1", 400, "expected no parameters, found x"),
        ("/v1/events/evt_1", 404, "no event has this id; expected evt_ and 34 hexadecimal digits"),
        ("/v1/events/%00", 404, "no event has this id"),
        ("/v1/events/%FF", 404, "no event has this id"),
        ("/v1/events/%zz", 404, "no event has this id"),
        ("/v1/events/evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600", 404, "no event has this id"),
        ("/v1/replays/1", 404, "no replay has this id"),
        ("/v1/replays/-1", 404, "no replay has this id"),
        ("/v1/replays/%D9%A3", 404, "no replay has this id"),
        ("/v1/replays/9999999999999999999999", 404, "no replay has this id"),
        ("/v1/events/", 404, "nothing is here"),
        ("/v1", 404, "nothing is here"),
        ("/", 404, "nothing is here"),
        ("/v1/events/%2e%2e/sinks", 404, ""),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_questions_that_make_no_sense_say_what_was_expected(operators, target, status, detail):
    answer = await operators.ask("GET", target)
    assert_problem(answer, status, detail)
    assert len(answer.content) < 3000


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/v1/events/evt_1/replay", "no event has this id"),
        ("/v1/events/evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600/replay", "no event has this id"),
        ("/v1/replays/7/cancel", "no replay has this id"),
        ("/v1/replays/x/cancel", "no replay has this id"),
    ],
)
async def test_orders_about_nothing_are_refused(operators, target, detail):
    assert_problem(await operators.ask("POST", target, json={}), 404, detail)


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/v1/events", "GET, HEAD"),
        ("DELETE", "/v1/replays", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/sinks", "GET, HEAD"),
        ("GET", "/v1/sinks/orders/pause", "POST"),
        ("TRACE", "/metrics", "GET, HEAD"),
        ("NONSENSE", "/v1/replays/1/cancel", "POST"),
    ],
)
async def test_other_methods_are_refused_with_those_that_there_are(operators, method, target, allowed):
    answer = await operators.ask(method, target)
    assert_problem(answer, 405, f"expected one of the methods {allowed}")
    assert answer.headers["allow"] == allowed


async def test_whether_something_is_there_can_be_asked_without_reading_it(operators):
    for target, status in [("/v1/events", 200), ("/v1/events/evt_1", 404), ("/v1/sinks/orders/pause", 405)]:
        answer = await operators.ask("HEAD", target)
        assert (answer.status_code, answer.content) == (status, b"")


async def test_a_store_that_is_away_is_said_so(operators, monkeypatch):
    async def fail(*_: object, **__: object) -> None:
        raise InboxUnavailable("cannot read the store: disk I/O error")

    for name in ("list_events", "find_event", "list_receipts", "list_replays", "list_sinks", "count_events"):
        monkeypatch.setattr(operators.inbox, name, fail)
    for target in ("/v1/events", f"/v1/events/{make_event('a').id}", "/v1/receipts", "/v1/replays", "/v1/sinks"):
        answer = await operators.ask("GET", target)
        assert_problem(answer, 503, "disk I/O error")
        assert answer.headers["retry-after"] == "1"
    answer = await operators.ask("POST", "/v1/replays", json={"filter": {"job_id": "a"}, "dry_run": True})
    assert_problem(answer, 503, "disk I/O error")


async def test_a_defect_is_answered_as_a_problem_without_its_details(operators, monkeypatch):
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("something inside")

    monkeypatch.setattr(operators.inbox, "list_events", fail)
    answer = await operators.ask("GET", "/v1/events")
    assert_problem(answer, 500, "the service's log has its traceback")
    assert "inside" not in answer.text


async def test_the_document_of_the_api_is_served(operators):
    assert (await operators.get("/openapi.json"))["openapi"].startswith("3.1.")


async def test_nothing_that_is_large_is_read_into_memory(operators, monkeypatch):
    """Whatever is asked, the store is asked for a page."""
    asked = []

    async def remember(*_: object, limit: int, **__: object) -> list[Any]:
        asked.append(limit)
        return []

    for name in ("list_events", "list_receipts", "list_replays"):
        monkeypatch.setattr(operators.inbox, name, remember)
    for target in ("/v1/events", "/v1/receipts", "/v1/replays"):
        await operators.get(target)
        await operators.get(target, limit="500")
    assert asked == [50, 500] * 3
