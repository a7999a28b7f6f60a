"""POSTs on connections of our own: which answers there are, and after which of them a connection is used again."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from media_callbacks.http_client.bounded_connector import AnswerTooLong
from media_callbacks.http_client.posting import MAX_ANSWER_BYTES, NoHttp, Poster
from tests.factories.brokers.certificates import Certificates
from tests.factories.clocks import LoopClock

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"id": "evt"}'


@dataclass
class Server:
    """
    Gives this answer to everything.

    Attributes:
        answer: In one piece, or byte by byte.
        requests: Whole, as they came.
    """

    answer: bytes
    is_slow: bool = False
    port: int = 0
    ended: int = 0
    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: list[Any] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, *, requests: int = 0, ended: int = 0) -> None:
        while len(self.requests) < requests or self.ended < ended:
            self._changed.clear()
            await self._changed.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        self.tasks.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(len(BODY)))
                self._changed.set()
                for byte in self.answer if self.is_slow else ():
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                if not self.is_slow:
                    writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1
            self._changed.set()
            writer.close()


@asynccontextmanager
async def serving(answer: bytes, *, is_slow: bool = False, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    there = Server(answer, is_slow)
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0, ssl=tls)
    there.port = server.sockets[0].getsockname()[1]
    try:
        yield there
    finally:
        server.close()
        for writer in there.connections:
            writer.transport.abort()
        await asyncio.gather(*there.tasks)


@asynccontextmanager
async def posting(
    server: Server, *, keepalive_s: float = 3600.0, max_connections: int = 4, scheme: str = "http"
) -> AsyncIterator[Callable[..., Coroutine[Any, Any, tuple[int, str | None]]]]:
    poster = Poster(
        f"{scheme}://127.0.0.1:{server.port}/media?token=1",
        {"X-Tenant": "media"},
        max_connections=max_connections,
        keepalive_s=keepalive_s,
        connect_timeout_s=60.0,
    )

    async def post(after_s: float = 3600.0) -> tuple[int, str | None]:
        deadline = asyncio.get_running_loop().time() + after_s
        return await poster.post({"webhook-id": "evt_1"}, BODY, deadline=deadline)

    try:
        yield post
    finally:
        await poster.close()


async def test_a_request_has_what_it_needs_and_its_body() -> None:
    async with serving(OK + b"Content-Length: 0\r\n\r\n") as server, posting(server) as post:
        await post()
    (request,) = server.requests
    assert request.decode() == (
        f"POST /media?token=1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nX-Tenant: media\r\nwebhook-id: evt_1\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n{BODY.decode()}"
    )


# Each byte of a slow one comes in a turn of the event loop of its own.
@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 0\r\n\r\n",
        OK + b"content-length:2 \r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
        CHUNKED + b"0\r\n\r\n",
        CHUNKED + b"2\r\nok\r\n0A;a=b\r\n0123456789\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nTrailer: a\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 12000\r\n\r\n" + b"x" * 12_000,
    ],
)
async def test_after_an_answer_that_ends_a_connection_serves_again(answer: bytes, *, is_slow: bool) -> None:
    async with serving(answer, is_slow=is_slow) as server, posting(server) as post:
        for _ in range(3):
            status, _ = await post()
            assert status in (200, 204)
        assert (len(server.connections), len(server.requests)) == (1, 3)


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        OK + b"Connection: x, Close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        # Ends with the connection, or with nobody knows what.
        OK + b"\r\nok",
        OK + b"Transfer-Encoding: gzip\r\n\r\nok",
        # Longer than anybody waits for.
        OK + b"Content-Length: 100000\r\n\r\n",
        OK + b"Content-Length: 999999999999999999\r\n\r\n",
        # No chunks.
        CHUNKED + b"zz\r\nok",
        CHUNKED + b"2\r\nok0\r\n\r\n",
        CHUNKED + b"ffff\r\n",
    ],
)
async def test_after_any_other_the_status_counts_and_the_next_request_has_a_new_connection(
    answer: bytes, *, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_callbacks.http_client.posting._REST_TIMEOUT_S", 0.01)
    async with serving(answer, is_slow=is_slow) as server, posting(server) as post:
        for _ in range(3):
            assert await post() == (200, None)
        assert len(server.connections) == 3


@pytest.mark.parametrize(
    "surplus",
    [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"x", b"H", b"x" * 1_000_000],
)
@pytest.mark.parametrize(
    "answer", [OK + b"Content-Length: 2\r\n\r\nok", b"HTTP/1.1 204 -\r\n\r\n", CHUNKED + b"2\r\nok\r\n0\r\n\r\n"]
)
async def test_what_comes_behind_an_answer_is_none_to_the_next_request(answer: bytes, surplus: bytes) -> None:
    async with serving(answer + surplus) as server, posting(server) as post:
        for _ in range(3):
            assert (await post())[0] in (200, 204)
        assert len(server.connections) == 3


async def test_what_comes_behind_an_answer_that_is_as_long_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = OK + b"Content-Length: 2\r\n\r\nok"
    monkeypatch.setattr("media_callbacks.http_client.posting.MAX_ANSWER_BYTES", len(answer))
    async with serving(answer) as server, posting(server) as post:
        for _ in range(3):
            assert await post() == (200, None)
        assert len(server.connections) == 1
        server.answer += b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
        for _ in range(3):
            assert await post() == (200, None)
        assert len(server.connections) == 3


async def test_behind_a_request_that_was_answered_before_it_was_read_no_other_is_sent() -> None:
    connections = []

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server = await asyncio.start_server(answer_early, "127.0.0.1", 0)
    poster = Poster(
        f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/",
        {},
        max_connections=1,
        keepalive_s=3600.0,
        connect_timeout_s=60.0,
    )
    # More than the kernel keeps for the two of them.
    body = bytes(64 * 2**20)
    for _ in range(2):
        answer = await poster.post({}, body, deadline=asyncio.get_running_loop().time() + 3600.0)
        assert answer.status == 200
    assert len(connections) == 2
    await poster.close()
    for writer in connections:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b": no name\r\n\r\n",
        OK + b"space : 1\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: +1\r\n\r\nx",
        OK + b"Content-Length: 1, 1\r\n\r\nx",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_what_is_no_answer_or_does_not_say_where_it_ends(answer: bytes, *, is_slow: bool) -> None:
    async with serving(answer, is_slow=is_slow) as server, posting(server) as post:
        for _ in range(2):
            with pytest.raises(NoHttp):
                await post()
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"X: " + b"a" * MAX_ANSWER_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_ANSWER_BYTES,
    ],
)
async def test_a_head_that_is_too_long_is_not_read_further(answer: bytes) -> None:
    async with serving(answer) as server, posting(server) as post:
        with pytest.raises(AnswerTooLong):
            await post()


async def test_retry_after_is_told_as_it_is() -> None:
    answer = b"HTTP/1.1 429 -\r\nRetry-After: \xff 12 \r\nContent-Length: 0\r\n\r\n"
    async with serving(answer) as server, posting(server) as post:
        assert await post() == (429, "\N{REPLACEMENT CHARACTER} 12")


async def test_a_request_that_is_given_up_leaves_no_connection_behind() -> None:
    async with serving(b"") as server, posting(server, max_connections=1) as post:
        sending = asyncio.create_task(post())
        await server.until(requests=1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        server.answer = b"HTTP/1.1 204 -\r\n\r\n"
        assert await post() == (204, None)
        assert len(server.connections) == 2


async def test_each_request_has_its_own_time(loop_clock: LoopClock) -> None:
    async with serving(b"HTTP/1.1 204 -\r\n\r\n") as server, posting(server) as post:
        await post(3600.0)
        loop_clock.skip(3000.0)
        await post(7200.0)
        server.answer = b""
        for after_s in (7200.0, 60.0):
            sending = asyncio.create_task(post(after_s))
            await server.until(requests=len(server.requests) + 1)
            loop_clock.skip(after_s - 30.0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not sending.done()
            loop_clock.skip(30.0)
            with pytest.raises(TimeoutError):
                await sending


async def test_idle_connections_are_closed_after_a_while(loop_clock: LoopClock) -> None:
    async with serving(b"HTTP/1.1 204 -\r\n\r\n") as server, posting(server, keepalive_s=600.0) as post:
        await asyncio.gather(*[post() for _ in range(3)])
        loop_clock.skip(599.0)
        await post()
        assert (len(server.connections), server.ended) == (3, 0)
        loop_clock.skip(2.0)
        await server.until(ended=2)
        await post()
        assert len(server.connections) == 3
        loop_clock.skip(601.0)
        await server.until(ended=3)
        await post()
        # Whoever comes first after a while without a turn of the event loop finds it too old, too.
        loop_clock.skip(601.0)
        await post()
        assert len(server.connections) == 5


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    async with serving(b"HTTP/1.1 204 -\r\n\r\n") as server, posting(server) as post:
        await post()
        server.connections[0].close()
        await server.until(ended=1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert await post() == (204, None)
        assert len(server.connections) == 2


async def test_one_that_is_about_to_be_closed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    async with serving(b"HTTP/1.1 204 -\r\n\r\n") as server, posting(server) as post:
        create = aiohttp.TCPConnector.connect

        async def connect(self: aiohttp.TCPConnector, *arguments: Any) -> Any:
            connection = await create(self, *arguments)
            made.append(connection.transport)
            return connection

        monkeypatch.setattr(aiohttp.TCPConnector, "connect", connect)
        await post()
        # As after an error of the network, of which whoever uses it is told in the next turn.
        made[0].abort()
        assert await post() == (204, None)
        assert len(server.connections) == 2


async def test_where_nobody_answers_it_says_so() -> None:
    async with serving(b"") as server, posting(server) as post:
        sending = asyncio.create_task(post())
        await server.until(requests=1)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await sending


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_over_tls_a_connection_serves_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_loop: Any) -> None:
    certificates = Certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    trusting = ssl.create_default_context(cafile=certificates.ca)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)

    async def post_often() -> None:
        async with (
            serving(OK + b"Content-Length: 2\r\n\r\nok", tls=context) as server,
            posting(server, scheme="https") as post,
        ):
            for _ in range(3):
                assert await post() == (200, None)
            assert len(server.connections) == 1

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(post_often())
