"""
A web page in a browser on the service's machine, and a proxy there, find nothing at the admin port and change nothing.

Against a running process without ``admin.token``, as it is where somebody tries it out.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from media_callbacks.commands.console.admin_client import AdminClient
from tests.exercises.chaos.cluster import Instance, free_ports
from tests.factories.running import make_tables, to_toml

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@dataclass
class Admin:
    """The admin port of a running service."""

    host: str
    port: int

    @property
    def authority(self) -> bytes:
        return (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}").encode()

    async def send(self, request: bytes) -> int | None:
        """The status of the answer; None when the connection was closed instead."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            async with asyncio.timeout(30):
                writer.write(request)
                # Read no further: what comes to be refused by uvicorn itself has no length.
                status_line = await reader.readline()
                return int(status_line.split()[1]) if status_line else None
        finally:
            writer.transport.abort()

    async def ask(self, request_line: bytes, *headers: bytes, host: bytes | None = None) -> int | None:
        lines = b"".join(b"%b\r\n" % header for header in headers)
        return await self.send(b"%b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (request_line, host or self.authority, lines))

    async def states(self) -> set[str]:
        """Of the sinks, asked for as the command line does."""
        return {sink["state"] for sink in await asyncio.to_thread(self._client.get_list, "/v1/sinks", "sinks")}

    async def order(self, what: str) -> None:
        await asyncio.to_thread(self._client.post, f"/v1/sinks/orders/{what}")

    @property
    def _client(self) -> AdminClient:
        return AdminClient(f"http://{self.authority.decode()}", None, origin="the test")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["127.0.0.1", "::1"])
async def admin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Admin]:
    folder = tmp_path_factory.mktemp("admin")
    if request.param == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    problems: list[str] = []
    port, admin_port = free_ports(2)
    instance = Instance("admin", folder, port=port, complain=problems.append)
    changes = {"server.port": port, "admin.host": request.param, "admin.port": admin_port}
    instance.config.write_text(to_toml(make_tables(folder, {"orders": "http://127.0.0.1:9/"}, changes)))
    await instance.start()
    try:
        yield Admin(request.param, admin_port)
    finally:
        instance.kill()
    assert problems == []


READ = (b"GET /v1/events", b"GET /metrics", b"GET /openapi.json", b"HEAD /v1/events", b"GET /v1/sinks")
PAUSE = b"POST /v1/sinks/orders/pause"


async def test_no_page_reads_and_none_changes_anything(admin: Admin) -> None:
    for line in READ:
        assert await admin.ask(line) == 200
        # The page's name was made to lead here: to the browser it is the page's own server.
        rebound = [b"Origin: http://evil.example:8081", b"Sec-Fetch-Site: same-origin"]
        for host in (b"evil.example", b"evil.example:%d" % admin.port, b"localhost.evil.example", b"0.0.0.0:8081"):
            assert await admin.ask(line, host=host) == 403
            assert await admin.ask(line, *rebound, host=host) == 403
        # An image, a script, a form or a link of a page.
        assert await admin.ask(line, b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors") == 403
        assert await admin.ask(line, b"Sec-Fetch-Site: same-site", b"Origin: http://localhost:3000") == 403
    length = b"Content-Length: 0"
    for kind in (b"X-A: b", b"Content-Type: text/plain", b"Content-Type: application/x-www-form-urlencoded"):
        for page in ([], [b"Origin: https://evil.example"], [b"Origin: null"], [b"Sec-Fetch-Site: cross-site"]):
            assert await admin.ask(PAUSE, kind, length, *page) in (403, 415)
    # The question that goes before a request with another type.
    preflight = [b"Origin: https://evil.example", b"Access-Control-Request-Method: POST"]
    assert await admin.ask(b"OPTIONS /v1/sinks/orders/pause", *preflight) == 403
    assert await admin.ask(PAUSE, b"Content-Type: application/json", length, b"Origin: https://evil.example") == 403
    assert await admin.states() == {"active"}


async def test_what_a_proxy_passes_on_is_not_from_this_machine(admin: Admin) -> None:
    for header in (
        b"X-Forwarded-For: 203.0.113.7",
        b"X-FORWARDED-HOST: callbacks.example.com",
        b"x-forwarded-port: 443",
        b"Forwarded: for=203.0.113.7",
        b"Via: 1.1 proxy",
        b"X-Real-IP: 203.0.113.7",
    ):
        for line in READ:
            assert await admin.ask(line, header) == 403
        assert await admin.ask(PAUSE, header, b"Content-Type: application/json", b"Content-Length: 0") == 403
    assert await admin.states() == {"active"}


async def test_without_one_name_of_this_machine_nothing_is_answered(admin: Admin) -> None:
    name = admin.authority
    for request in (
        b"GET /v1/events HTTP/1.1\r\n\r\n",
        b"GET /v1/events HTTP/1.0\r\n\r\n",
        b"GET /v1/events HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /v1/events HTTP/1.1\r\nHost: %b\r\nHost: %b\r\n\r\n" % (name, name),
        b"GET /v1/events HTTP/1.1\r\nHost: evil.example\r\nHost: %b\r\n\r\n" % name,
        b"GET /v1/events HTTP/1.1\r\nHost: %b, evil.example\r\n\r\n" % name,
        b"GET /v1/events HTTP/1.1\r\nHost: %b@evil.example\r\n\r\n" % name,
    ):
        assert await admin.send(request) in (400, 403)
    # A proxy's way to ask; what counts is the header.
    absolute = b"GET http://evil.example/v1/events HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert await admin.send(absolute) in (400, 403, 404)
    assert await admin.send(b"GET /v1/events HTTP/1.0\r\nHost: %b\r\n\r\n" % name) == 200


async def test_whoever_is_on_the_machine_is_let_in(admin: Admin) -> None:
    for host in (admin.authority, b"localhost", b"LOCALHOST:1", b"127.0.0.1", b"[::1]", b"[::1]:9999", b"127.9.9.9:80"):
        assert await admin.ask(b"GET /v1/events", host=host) == 200
    # A page of its own, should there be one.
    own = [b"Origin: http://" + admin.authority, b"Sec-Fetch-Site: same-origin"]
    assert await admin.ask(b"GET /v1/events", *own) == 200
    assert await admin.ask(b"GET /v1/events", b"Sec-Fetch-Site: none") == 200
    await admin.order("pause")
    assert await admin.states() == {"paused"}
    await admin.order("resume")
    assert await admin.states() == {"active"}
