"""What is special to webhooks: the signature, the answers, and receivers that misbehave."""

import asyncio
import base64
import gzip
import json
import logging
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from media_callbacks.http_client import posting
from media_callbacks.model.errors import SinkGone, SinkRetry
from media_callbacks.sinks import webhook
from media_callbacks.sinks.webhook import (
    MAX_RETRY_AFTER_S,
    WebhookSink,
    build_headers,
    fixed_headers,
    judge_answer,
    parse_retry_after,
)

OLD, NEW, OTHER = b"old secret of 24 bytes..", b"new secret of 24 bytes..", b"another secret, 24 bytes"
NOW = 1_760_000_000
QUERY = "?token=hidden"


def _sink(port, path="/media" + QUERY, **options):
    return WebhookSink("orders", f"http://127.0.0.1:{port}{path}", (NEW, OLD), **options)


@pytest.fixture
async def serve():
    """Starts an aiohttp server with one handler for everything; gives its port."""
    servers = []

    async def start(handler, **options):
        app = web.Application(client_max_size=10 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app, host="127.0.0.1", **options)
        await server.start_server()
        servers.append(server)
        return server.port

    yield start
    for server in servers:
        await server.close()


# The request


@pytest.mark.parametrize("secret", [OLD, NEW])
async def test_a_receiver_with_any_of_the_secrets_can_verify(serve, opened, make_delivery, secret):
    requests = []

    async def receive(request):
        requests.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return web.Response()

    sink = await opened(_sink(await serve(receive), clock=time.time))
    delivery = make_delivery()
    assert list(await sink.send([delivery])) == [None]
    ((method, path, headers, body),) = requests
    assert (method, path, body) == ("POST", "/media?token=hidden", delivery.body)
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert headers["Content-Length"] == str(len(delivery.body))
    assert headers["User-Agent"].startswith("media-callbacks/")
    assert headers["webhook-id"] == delivery.event_id
    assert Webhook(base64.b64encode(secret).decode()).verify(body, headers) == json.loads(delivery.body)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(OTHER).decode()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(secret).decode()).verify(body + b" ", headers)


def test_the_signature_is_that_of_the_reference_library(make_delivery):
    delivery = make_delivery()
    headers = build_headers(delivery, [NEW, OLD], NOW)
    moment = datetime.fromtimestamp(NOW, UTC)
    expected = [Webhook(key).sign(delivery.event_id, moment, delivery.body.decode()) for key in (NEW, OLD)]
    assert headers["webhook-signature"] == " ".join(expected)
    assert headers["webhook-timestamp"] == str(NOW)


async def test_each_attempt_has_its_own_time_and_the_same_id(serve, opened, make_delivery):
    requests = []

    async def receive(request):
        requests.append(request.headers.copy())
        return web.Response()

    times = iter([NOW + 0.9, NOW + 0.9, NOW + 60.1, NOW + 60.1])
    sink = await opened(_sink(await serve(receive), clock=lambda: next(times)))
    await sink.send([make_delivery()])
    await sink.send([make_delivery()])
    assert [headers["webhook-timestamp"] for headers in requests] == [str(NOW), str(NOW + 60)]
    assert requests[0]["webhook-id"] == requests[1]["webhook-id"]
    assert requests[0]["webhook-signature"] != requests[1]["webhook-signature"]


async def test_headers_of_the_operator_and_a_bearer_token_are_sent_along(serve, opened, make_delivery):
    requests = []

    async def receive(request):
        requests.append(request.headers.copy())
        return web.Response()

    custom = {"X-Tenant": "media", "user-agent": "mine/1"}
    sink = await opened(_sink(await serve(receive), headers=custom, bearer_token="token~1"))
    await sink.send([make_delivery()])
    (headers,) = requests
    assert headers["X-Tenant"] == "media"
    assert headers.getall("User-Agent") == ["mine/1"]
    assert headers.getall("Authorization") == ["Bearer token~1"]
    assert headers["Content-Type"] == "application/cloudevents+json"


def test_a_header_of_the_operator_takes_the_place_of_ours_in_any_spelling():
    headers = fixed_headers({"user-agent": "mine/1", "ACCEPT-encoding": "br"})
    spelled = [name for name in headers if name.lower() in ("user-agent", "accept-encoding")]
    assert spelled == ["user-agent", "ACCEPT-encoding"]


def test_a_replay_differs_in_one_header(make_delivery):
    first, replayed = (build_headers(make_delivery(replay=replay), [NEW], NOW) for replay in (0, 3))
    assert replayed == {**first, "media-callbacks-replay": "3"}


async def test_a_body_of_two_megabytes_is_sent_whole(serve, opened, make_delivery):
    received = []

    async def receive(request):
        received.append(await request.read())
        return web.Response()

    delivery = make_delivery(user_data="x" * 2 * 1024 * 1024)
    sink = await opened(_sink(await serve(receive)))
    assert list(await sink.send([delivery])) == [None]
    assert received == [delivery.body]


# The answer


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_any_2xx_is_a_delivery(status):
    assert judge_answer(status, None, now=NOW) is None


@pytest.mark.parametrize(
    ("status", "retry_after", "message", "retry_after_s", "is_overload"),
    [
        (101, None, "HTTP 101", None, False),
        (301, None, "HTTP 301; redirects are not followed", None, False),
        (304, None, "HTTP 304; redirects are not followed", None, False),
        (307, "120", "HTTP 307; redirects are not followed", None, False),
        (400, "120", "HTTP 400", None, False),
        (401, None, "HTTP 401", None, False),
        (404, None, "HTTP 404", None, False),
        (413, None, "HTTP 413", None, False),
        (429, None, "HTTP 429", None, True),
        (429, "120", "HTTP 429", 120.0, True),
        (429, "soon", "HTTP 429", None, True),
        (500, "120", "HTTP 500", None, False),
        (502, "120", "HTTP 502", 120.0, True),
        (503, "120", "HTTP 503", 120.0, True),
        (503, "1000000", "HTTP 503", MAX_RETRY_AFTER_S, True),
        (504, None, "HTTP 504", None, True),
        (599, None, "HTTP 599", None, False),
    ],
)
def test_everything_else_is_a_retry(status, retry_after, message, retry_after_s, is_overload):
    error = judge_answer(status, retry_after, now=NOW)
    assert type(error) is SinkRetry
    assert message in str(error)
    assert (error.retry_after_s, error.is_overload) == (retry_after_s, is_overload)


def test_410_says_that_the_destination_is_gone():
    error = judge_answer(410, "120", now=NOW)
    assert type(error) is SinkGone
    assert "HTTP 410" in str(error)
    assert (error.retry_after_s, error.is_overload) == (None, False)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 30 ", 30.0),
        ("0000000000000000030", 30.0),
        ("86400", 86400.0),
        ("86401", MAX_RETRY_AFTER_S),
        ("9" * 6000, MAX_RETRY_AFTER_S),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90), usegmt=True), 90.0),
        ("Thursday, 09-Oct-25 08:54:50 GMT", 90.0),
        ("Thu Oct  9 08:54:50 2025", 90.0),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MAX_RETRY_AFTER_S),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        ("soon", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_a_day(value, seconds):
    assert parse_retry_after(value, now=NOW) == seconds


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters()) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [-+\w]*", fullmatch=True))
def test_any_retry_after_is_read_or_ignored(value):
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


async def test_status_and_retry_after_reach_the_result(serve, opened, make_delivery):
    async def receive(request):
        return web.Response(status=429, headers={"Retry-After": "77"})

    sink = await opened(_sink(await serve(receive)))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert (str(error), error.retry_after_s) == ("answered HTTP 429", 77.0)


async def test_redirects_are_named_and_not_followed(serve, opened, make_delivery):
    paths = []

    async def receive(request):
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere?token=hidden"})

    sink = await opened(_sink(await serve(receive)))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert "redirect" in str(error)
    assert "hidden" not in str(error)
    assert paths == ["/media"]


async def test_cookies_are_not_kept(serve, opened, make_delivery):
    cookies = []

    async def receive(request):
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=1; Path=/"})

    sink = await opened(_sink(await serve(receive)))
    await sink.send([make_delivery()])
    await sink.send([make_delivery()])
    assert cookies == [None, None]


async def test_proxies_of_the_environment_are_not_used(serve, opened, make_delivery, monkeypatch):
    async def receive(request):
        return web.Response()

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    sink = await opened(_sink(await serve(receive)))
    assert list(await sink.send([make_delivery()])) == [None]


async def test_compressed_answers_are_neither_asked_for_nor_unpacked(serve, opened, make_delivery):
    accepted = []

    async def receive(request):
        accepted.append(request.headers["Accept-Encoding"])
        return web.Response(body=gzip.compress(b"0" * 50_000_000), headers={"Content-Encoding": "gzip"})

    sink = await opened(_sink(await serve(receive)))
    assert list(await sink.send([make_delivery()])) == [None]
    assert accepted == ["identity"]


@pytest.mark.parametrize(
    ("answer_bytes", "headers", "connections"),
    [(0, {}, 1), (4096, {}, 1), (4096, {"Content-Encoding": "gzip"}, 1), (10 * 1024 * 1024, {}, 3)],
)
async def test_a_connection_serves_again_when_its_answer_was_short(
    serve, opened, make_delivery, *, answer_bytes, headers, connections
):
    """Readable or not: an answer that is called compressed and isn't would spoil the connection when unpacked."""
    peers = set()

    async def receive(request):
        peers.add(request.transport.get_extra_info("peername"))
        response = web.StreamResponse(headers=headers)
        response.content_length = answer_bytes
        await response.prepare(request)
        await response.write(b"")
        for _ in range(20):  # turns of the event loop in which the client sees that the status came alone
            await asyncio.sleep(0)
        if answer_bytes:
            await response.write(b"0" * answer_bytes)
        return response

    sink = await opened(_sink(await serve(receive)))
    for _ in range(3):
        assert list(await sink.send([make_delivery()])) == [None]
    assert len(peers) == connections


async def test_no_more_connections_than_configured(raw_server, opened, make_delivery):
    open_now = most = 0

    async def serve(reader, writer):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except asyncio.IncompleteReadError:
            pass
        finally:
            open_now -= 1

    sink = await opened(_sink(await raw_server(serve), concurrency=3))
    results = await asyncio.gather(*(sink.send([make_delivery(number)]) for number in range(20)))
    assert [list(result) for result in results] == [[None]] * 20
    assert 1 <= most <= 3


# Receivers that misbehave


def _after_request(*chunks):
    """A server that reads the request's head, writes these bytes, and closes."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    return serve


def _echo(prefix):
    """A server that sends back what it got."""

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b"}}")
        writer.write(prefix + body + head)
        await writer.drain()

    return serve


MISBEHAVING = {
    "closes at once": _after_request(),
    "garbage": _after_request(b"\x00\xff\x80 what?\r\n\r\n" * 100),
    "garbage of one line": _after_request(b"0" * 10_000_000),
    "no status": _after_request(b"HTTP/1.1 abc OK\r\n\r\n"),
    "header of 10 MB": _after_request(b"HTTP/1.1 200 OK\r\nX-A: ", *[b"a" * 100_000] * 100, b"\r\n\r\n"),
    "10 MB of headers": _after_request(
        b"HTTP/1.1 200 OK\r\n", *[b"X-A: aaaaaaaaaaaaaaaaaaa\r\n" * 4000] * 100, b"\r\n"
    ),
    "closes within headers": _after_request(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "bad length": _after_request(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
    "bad header": _after_request(b"HTTP/1.1 200 OK\r\nX-A\x00: 1\r\n\r\n"),
    "sends the body back": _echo(b""),
    "sends the body back as status": _echo(b"HTTP/1.1 200"),
    "sends the body back as header": _echo(b"HTTP/1.1 200 OK\r\n"),
    "not HTTP 1": _after_request(b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "status 999": _after_request(b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n"),
    "upgrades": _after_request(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
}


@pytest.mark.parametrize("behaviour", MISBEHAVING)
async def test_what_is_no_answer_is_a_retry(raw_server, opened, make_delivery, caplog, behaviour):
    caplog.set_level(logging.DEBUG)
    sink = await opened(_sink(await raw_server(MISBEHAVING[behaviour])))
    delivery = make_delivery()
    (error,) = await sink.send([delivery])
    assert isinstance(error, SinkRetry)
    text = str(error) + caplog.text
    assert 5 < len(str(error)) < 200
    assert "hidden" not in text
    assert delivery.event_id not in text
    assert "JobFailed" not in text
    assert base64.b64encode(NEW).decode() not in text


def _ok(headers, body=b""):
    return _after_request(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + headers + b"\r\n" + body)


ODD = {
    "closes within the body": _ok(b"Content-Length: 100\r\n", b"abc"),
    "body without length": _ok(b"", b"abc"),
    "broken compression": _ok(b"Content-Encoding: gzip\r\nContent-Length: 3\r\n", b"abc"),
    "continues first": _after_request(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 -\r\nConnection: close\r\n\r\n"),
    "odd cookies": _ok(b"Content-Length: 0\r\nSet-Cookie: a b=\x7f; ;;=\r\n"),
    "other bytes in headers": _ok(b"Content-Length: 0\r\nX-A: \xff\xfe\r\nRetry-After: \xff\r\n"),
}


@pytest.mark.parametrize("behaviour", ODD)
async def test_the_status_alone_decides(raw_server, opened, make_delivery, behaviour):
    """And the sink works on: the second send meets the same and fares the same."""
    sink = await opened(_sink(await raw_server(ODD[behaviour])))
    assert list(await sink.send([make_delivery()])) == [None]
    assert list(await sink.send([make_delivery()])) == [None]


@pytest.mark.parametrize(
    "server",
    [
        _ok(b"Transfer-Encoding: chunked\r\n", b"zz\r\nabc"),
        _ok(b"Content-Length: 1\r\n", b"a" * 100_000),
        _after_request(b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
    ids=["bad chunks", "more than its length", "closes without a word"],
)
async def test_a_failure_after_the_status_is_counted_either_way(raw_server, opened, make_delivery, server):
    """It depends on which bytes come together: a delivery or a retry, and nothing else."""
    sink = await opened(_sink(await raw_server(server)))
    for _ in range(3):
        (result,) = await sink.send([make_delivery()])
        assert result is None or isinstance(result, SinkRetry)


async def test_an_answer_without_end_is_cut_off(raw_server, opened, make_delivery):
    sent_bytes = 0
    over = asyncio.Event()

    async def serve(reader, writer):
        nonlocal sent_bytes
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b"0" * 4096 + b"\r\n")
                sent_bytes += 4096
                await writer.drain()
        finally:
            over.set()

    sink = await opened(_sink(await raw_server(serve)))
    assert list(await sink.send([make_delivery()])) == [None]
    await over.wait()
    assert sent_bytes < 50 * 1024 * 1024


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"])
async def test_an_answer_that_stalls_holds_no_longer_than_the_time_out(
    raw_server, opened, make_delivery, loop_clock, begin
):
    begun = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        begun.set()
        while await reader.read(65536):
            pass

    sink = await opened(_sink(await raw_server(serve), timeout_s=3600.0))
    sending = asyncio.create_task(sink.send([make_delivery()]))
    await begun.wait()
    assert not sending.done()
    loop_clock.skip(3600.0)
    (result,) = await sending
    assert str(result) == "no answer within 3600 s"


@pytest.mark.parametrize(("status", "outcome"), [(b"200 OK", type(None)), (b"500 No", SinkRetry)])
@pytest.mark.parametrize(("body_s", "total_s"), [(1.0, 3600.0), (7200.0, 3600.0)])
async def test_after_the_status_an_answer_holds_for_a_moment_and_no_longer_than_the_time_out(
    raw_server, opened, make_delivery, monkeypatch, loop_clock, *, status, outcome, body_s, total_s
):
    written = asyncio.Event()

    async def serve(reader, writer):
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 100\r\n\r\nabc")
        written.set()
        while await reader.read(65536):
            pass

    monkeypatch.setattr(posting, "_REST_TIMEOUT_S", body_s)
    sink = await opened(_sink(await raw_server(serve), timeout_s=total_s))
    sending = asyncio.create_task(sink.send([make_delivery()]))
    await written.wait()
    # Until it has been read: the sink has a loop in common with its receiver.
    for _ in range(20):
        await asyncio.sleep(0)
    assert not sending.done()
    loop_clock.skip(min(body_s, total_s))
    (result,) = await sending
    assert type(result) is outcome


async def test_a_receiver_that_does_not_read_holds_no_longer_than_the_time_out(
    raw_server, opened, make_delivery, loop_clock
):
    reading = asyncio.Event()

    async def serve(reader, writer):
        await reader.readexactly(1)  # and what its buffers take
        reading.set()
        await asyncio.Event().wait()

    sink = await opened(_sink(await raw_server(serve), timeout_s=3600.0))
    sending = asyncio.create_task(sink.send([make_delivery(user_data="x" * 20_000_000)]))
    await reading.wait()
    assert not sending.done()
    loop_clock.skip(3600.0)
    (result,) = await sending
    assert str(result) == "no answer within 3600 s"


async def test_an_early_refusal_of_a_large_body_is_a_retry(raw_server, opened, make_delivery):
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    sink = await opened(_sink(await raw_server(_after_request(answer))))
    (result,) = await sink.send([make_delivery(user_data="x" * 20_000_000)])
    assert isinstance(result, SinkRetry)


# Connections that don't come about


async def test_an_unknown_host_is_a_retry(opened, make_delivery, monkeypatch):
    async def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    sink = await opened(WebhookSink("orders", "http://nowhere.invalid/?token=hidden", (NEW,)))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert str(error) == "ClientConnectorDNSError: Name or service not known"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/?token=hidden",
        "http:///?token=hidden",
        "http://[?token=hidden",
        "http://127.0.0.1:99999/?token=hidden",
        f"http://{'a' * 64}.invalid/?token=hidden",
    ],
)
async def test_a_url_that_is_none_is_a_retry_that_says_so(opened, make_delivery, url):
    sink = await opened(WebhookSink("orders", url, (NEW,)))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert "url" in str(error)
    assert "hidden" not in str(error)


async def test_a_certificate_that_is_not_trusted_is_a_retry(opened, make_delivery, tls_port):
    sink = await opened(WebhookSink("orders", f"https://127.0.0.1:{tls_port}/?token=hidden", (NEW,)))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert str(error) == "ClientConnectorCertificateError: self-signed certificate"


async def test_a_certificate_for_another_host_is_a_retry(
    opened, make_delivery, tls_port, certificate_path, monkeypatch
):
    """Even one that is trusted."""
    trusting = ssl.create_default_context(cafile=certificate_path)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    sink = await opened(WebhookSink("orders", f"https://127.0.0.1:{tls_port}/?token=hidden", (NEW,)))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert "certificate is not valid for '127.0.0.1'" in str(error)
    assert "hidden" not in str(error)


async def test_tls_spoken_to_a_plain_server_is_a_retry(raw_server, opened, make_delivery):
    async def serve(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    port = await raw_server(serve)
    sink = await opened(WebhookSink("orders", f"https://127.0.0.1:{port}/?token=hidden", (NEW,)))
    (error,) = await sink.send([make_delivery()])
    assert isinstance(error, SinkRetry)
    assert "ClientConnectorSSLError: " in str(error)
    assert "hidden" not in str(error)


@pytest.mark.parametrize(("connect_s", "total_s"), [(300.0, 3600.0), (3600.0, 300.0)])
async def test_a_handshake_that_never_ends_is_given_up(
    raw_server, opened, make_delivery, monkeypatch, loop_clock, *, connect_s, total_s
):
    begun = asyncio.Event()

    async def serve(reader, writer):
        while await reader.read(65536):
            begun.set()

    monkeypatch.setattr(webhook, "_CONNECT_TIMEOUT_S", connect_s)
    port = await raw_server(serve)
    sink = await opened(WebhookSink("orders", f"https://127.0.0.1:{port}/", (NEW,), timeout_s=total_s))
    sending = asyncio.create_task(sink.send([make_delivery()]))
    await begun.wait()
    assert not sending.done()
    loop_clock.skip(301.0)  # aiohttp rounds a longer time-out up to a whole second
    (error,) = await sending
    assert isinstance(error, SinkRetry)
    assert "within 300 s" in str(error)


async def test_a_word_on_an_idle_connection_is_no_answer_to_the_next_request(raw_server, opened, make_delivery):
    """As from servers that say 408 before they hang up."""
    said = asyncio.Event()
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 -\r\n\r\n")
        if len(connections) == 1:
            await said.wait()
            writer.write(b"HTTP/1.1 408 -\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    sink = await opened(_sink(await raw_server(serve)))
    assert list(await sink.send([make_delivery()])) == [None]
    said.set()
    # Until it has been read: the sink has a loop in common with its receiver.
    for _ in range(20):
        await asyncio.sleep(0)
    assert list(await sink.send([make_delivery()])) == [None]
    assert len(connections) == 2
