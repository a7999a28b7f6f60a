"""What holds for every request of ours, whoever is asked."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from media_callbacks.http_client.bounded_connector import read_body
from media_callbacks.http_client.session import open_session

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
LIMIT = 100_000


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """Starts a server that gives this answer to everything, and returns its URL."""
    servers: list[TestServer] = []

    async def start(answer: Answer) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        servers.append(TestServer(app))
        await servers[-1].start_server()
        return str(servers[-1].make_url("/"))

    yield start
    for server in servers:
        await server.close()


async def test_nothing_that_an_answer_sets_comes_with_the_next_request(serve):
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.copy())
        response = web.Response()
        response.set_cookie("session", "1")
        return response

    url = (await serve(answer)).replace("127.0.0.1", "localhost")
    async with open_session() as session:
        for _ in range(2):
            await session.get(url, allow_redirects=False)
    assert [headers.get("Cookie") for headers in seen] == [None, None]
    assert [headers.getall("Accept-Encoding") for headers in seen] == [["identity"]] * 2


async def test_what_is_compressed_stays_so(serve):
    packed = gzip.compress(b"\0" * LIMIT)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with open_session() as session, session.get(await serve(answer), allow_redirects=False) as response:
        assert await read_body(response, LIMIT) == packed


async def test_no_environment_leads_requests_elsewhere_or_adds_credentials(serve, monkeypatch, tmp_path):
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.host, request.headers.get("Authorization")))
        return web.Response()

    url, elsewhere = await serve(answer), "http://127.0.0.1:9"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, elsewhere)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with open_session() as session:
        await session.get(url, allow_redirects=False)
    assert seen == [(url.split("/")[2], None)]


@pytest.mark.parametrize(("size", "read"), [(0, 0), (LIMIT, LIMIT), (LIMIT + 1, LIMIT + 1), (10 * LIMIT, LIMIT + 1)])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_of_a_body_one_byte_more_is_read_than_it_may_have(serve, size, read, is_chunked):
    async def answer(request: web.Request) -> web.StreamResponse:
        if not is_chunked:
            return web.Response(body=b"x" * size)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        with suppress(ConnectionError):  # when enough was read
            for start in range(0, size, 1000):
                await response.write(b"x" * min(1000, size - start))
        return response

    async with open_session() as session, session.get(await serve(answer), allow_redirects=False) as response:
        assert len(await read_body(response, LIMIT)) == read


async def test_of_a_body_that_nobody_reads_hardly_any_comes(serve):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * LIMIT)

    async with open_session() as session, session.get(await serve(answer), allow_redirects=False) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
