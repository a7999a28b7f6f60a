"""
What is done to the service. Each attack is a context: inside of it, it has been mounted as far as the service lets it;
at its end it is given up. It takes for granted what is done against it, connections that are cut included.

``python -m tests.exercises.hostile.attacks NAME ADDRESS SIZE`` mounts one until its standard input is closed.
"""

import asyncio
import base64
import json
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal

from tests.factories.running import MTS_PATH, encode_request, signer

Listener = Literal["server", "admin"]

# Something that is answered 200, at once, on either listener.
PROBE = {"server": "/health/live", "admin": "/openapi.json"}
_MIB = 2**20
# Connections are opened so many at a time.
_AT_ONCE = 50
_BUFFER_BYTES = 64 * 1024


class Client(asyncio.Protocol):
    """Sends pieces as fast as they are taken."""

    def __init__(self, pieces: Iterator[bytes], *, reads: bool) -> None:
        self._pieces = pieces
        self._reads = reads
        self._is_held = False
        loop = asyncio.get_running_loop()
        self.sent: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if not self._reads:
            transport.pause_reading()
        self._send()

    def data_received(self, data: bytes) -> None:
        self.received += data[: 4096 - len(self.received)]

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.sent, self.closed):
            if not future.done():
                future.set_result(None)

    def pause_writing(self) -> None:
        self._is_held = True

    def resume_writing(self) -> None:
        self._is_held = False
        # Not at once: asyncio's transport may find, in the middle of a write, that it is closed, and takes that badly.
        asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        for piece in self._pieces:
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            if self._is_held:
                return
        if not self.sent.done():
            self.sent.set_result(None)


Pieces = Callable[[], Iterator[bytes]]


@asynccontextmanager
async def crowd(address: str, count: int, pieces: Pieces, *, reads: bool = True) -> AsyncIterator[list[Client]]:
    """So many connections, each of which sends these pieces."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    clients: list[Client] = []

    async def connect() -> None:
        connection = socket.socket()
        connection.setblocking(False)
        # An attacker's memory is its own, but what the kernel has for TCP is shared by both ends here: where it is used
        # up, sockets say that they can be written to and take nothing.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        await loop.sock_connect(connection, (host, int(port)))
        _, client = await loop.create_connection(lambda: Client(pieces(), reads=reads), sock=connection)
        clients.append(client)

    try:
        for start in range(0, count, _AT_ONCE):
            connecting = [connect() for _ in range(min(_AT_ONCE, count - start))]
            await asyncio.gather(*connecting, return_exceptions=True)
        yield clients
    finally:
        for client in clients:
            if not client.closed.done():
                client.transport.abort()


def _once(data: bytes) -> Pieces:
    return lambda: iter([data])


def _repeated(data: bytes, total_bytes: int) -> Pieces:
    times = max(1, 16 * 1024 // len(data))
    return lambda: iter([data * times] * (total_bytes // (len(data) * times)))


def _after(beginning: bytes, rest: Pieces) -> Pieces:
    def pieces() -> Iterator[bytes]:
        yield beginning
        yield from rest()

    return pieces


_BODY = b"f0000\r\n" + b"x" * 0xF0000 + b"\r\n"


def _head(listener: Listener, *lines: bytes) -> bytes:
    target = b"/callbacks/vod" if listener == "server" else b"/v1/jobs"
    return b"\r\n".join([b"POST " + target + b" HTTP/1.1", b"Host: localhost", *lines, b"", b""])


@asynccontextmanager
async def pipelining(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """4 MiB of requests on each connection, whose answers are read."""
    request = encode_request("GET", PROBE[listener], host="localhost")
    async with crowd(address, size, _repeated(request, 4 * _MIB)):
        yield


@asynccontextmanager
async def pipelining_unread(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """The same, whose answers nobody reads."""
    request = encode_request("GET", PROBE[listener], host="localhost")
    async with crowd(address, size, _repeated(request, 16 * _MIB), reads=False):
        yield


@asynccontextmanager
async def idle(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """Connections on which nothing comes."""
    async with crowd(address, size, _once(b"")):
        yield


@asynccontextmanager
async def slow_heads(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """Heads that never end, a byte at a time."""
    async with crowd(address, size, _once(_head(listener)[:-4])) as clients:

        async def drip() -> None:
            while True:
                for client in clients:
                    if not client.transport.is_closing():
                        client.transport.write(b"x")
                await asyncio.sleep(0.5)

        dripping = asyncio.create_task(drip())
        try:
            yield
        finally:
            dripping.cancel()


@asynccontextmanager
async def stalled_bodies(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """Bodies that are announced and come in part."""
    part = 900 * 1024 if listener == "server" else 15 * 1024
    head = _head(listener, b"Content-Type: application/json", b"Content-Length: %d" % (part + 1))
    async with crowd(address, size, _once(head + b" " * part)) as clients:
        await asyncio.gather(*(client.sent for client in clients))
        yield


@asynccontextmanager
async def endless(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """What has no end, until it is answered or cut off."""
    chunked = _head(listener, b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    beginnings = {
        "header": (_head(listener)[:-2] + b"X-Endless: ", b"x" * 1024),
        "headers": (_head(listener)[:-2], b"X-Again: and again\r\n"),
        "target": (b"POST /", b"x" * 1024),
        "blank lines": (b"", b"\r\n"),
        "extension": (chunked + b"5;extension=", b"x" * 1024),
        "extensions": (chunked, b"1;" + b"x" * 200 + b"\r\nx\r\n"),
        "trailers": (chunked + b"0\r\n", b"X-Trailer: and again\r\n"),
        "trailers after a body": (chunked + _BODY + b"0\r\n", b"ab:\r\n"),
        "extension after a body": (chunked + _BODY + b"1;", b"x" * 1024),
        "small chunks": (chunked, b"1\r\nx\r\n"),
        "large chunks": (chunked, b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        "empty lines in chunks": (chunked, b"1000\r\n" + b"\r\n" * 2048 + b"\r\n"),
    }
    async with AsyncExitStack() as stack:
        for beginning, piece in beginnings.values():
            await stack.enter_async_context(crowd(address, size, _after(beginning, _repeated(piece, 16 * _MIB))))
        yield


@asynccontextmanager
async def refused(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """Many requests that are refused, each of its own kind many times."""
    kinds = [
        b"hello\r\n\r\n",
        b"\x16\x03\x01" + b"\0" * 40,
        b"GET / HTTP/2.0\r\n\r\n",
        b"POST /callbacks/vod RTSP/1.0\r\n\r\n",
        encode_request("GET", "/nowhere"),
        encode_request("DELETE", "/callbacks/vod"),
        encode_request("POST", "/callbacks/vod", [(b"X-VOD-TIMESTAMP", b"1"), (b"X-VOD-SIGNATURE", b"ab" * 16)], b"{}"),
        encode_request("POST", "/" + "x" * 17_000),
        _head(listener, b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        _head(listener, b"Content-Length: 5", b"Content-Length: 6") + b"123456",
    ]
    for kind in kinds:
        for _ in range(0, size, _AT_ONCE):
            async with crowd(address, _AT_ONCE, _once(kind)) as clients:
                await asyncio.gather(*(_answered(client) for client in clients))
    yield


@asynccontextmanager
async def explained(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """Requests that are refused, again and again, each of which would take long to explain."""
    body = json.dumps([{"a": number} for number in range(700)]).encode()
    hosts = [(b"X-Forwarded-Host", b"host-%d.example.com:80%d" % (number, number)) for number in range(8)]
    signed = [(b"X-VOD-TIMESTAMP", b"%d" % time.time()), (b"X-VOD-SIGNATURE", b"ab" * 16)]
    pushed = [
        (b"Authorization", base64.b64encode(b"x" * 256)),
        (b"Content-MD5", base64.b64encode(b"x" * 16)),
        (b"Date", formatdate(usegmt=True).encode()),
        (b"x-mns-signing-cert-url", base64.b64encode(signer()[0].certificate_url.encode())),
        *((b"x-mns-%d" % number, b"v") for number in range(300)),
    ]
    requests = [
        encode_request("POST", "/callbacks/vod?a=1", [*signed, *hosts], body, host="localhost"),
        encode_request(
            "POST", "/callbacks/vod", signed, zlib.compress(b"[" + b"1," * 2_000_000 + b"1]"), host="localhost"
        ),
        encode_request("POST", MTS_PATH, pushed, body, host="localhost"),
        encode_request("POST", "/nowhere?" + "=" * 8000, [], b"{}", host="localhost"),
        encode_request("DELETE", "/callbacks/gif/" + "A" * 8000, [], b"", host="localhost"),
    ]
    over = asyncio.Event()

    async def repeat(request: bytes) -> None:
        while not over.is_set():
            async with crowd(address, size, _once(request)) as clients:
                await asyncio.gather(*(_answered(client) for client in clients))

    tasks = [asyncio.create_task(repeat(request)) for request in requests]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def upgrades(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """Requests that offer another protocol."""
    for protocol in (b"h2c", b"websocket"):
        headers = [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", protocol), (b"HTTP2-Settings", b"")]
        requests = [
            encode_request("GET", PROBE[listener], headers, host="localhost"),
            encode_request("POST", "/nowhere", headers, b"{}", host="localhost"),
        ]
        for request in requests:
            async with crowd(address, size, _once(request)) as clients:
                await asyncio.gather(*(_answered(client) for client in clients))
                assert all(client.received.startswith((b"HTTP/1.1 200", b"HTTP/1.1 404")) for client in clients)
    yield


@asynccontextmanager
async def leaving(address: str, listener: Listener, size: int) -> AsyncIterator[None]:
    """Clients that go in the middle: of a head, of a body, of the answer."""
    body = _head(listener, b"Content-Type: application/json", b"Content-Length: 100") + b"{"
    for beginning in (body[:20], body, encode_request("GET", PROBE[listener], host="localhost")):
        async with crowd(address, size, _once(beginning)) as clients:
            await asyncio.gather(*(client.sent for client in clients))
    yield


async def _answered(client: Client) -> None:
    while not client.received and not client.closed.done():  # noqa: ASYNC110 - of a thousand clients, one is not worth an event
        await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Attack:
    """
    Attributes:
        short, long: How much of it, in the short and in the long form.
    """

    mount: Callable[[str, Listener, int], AbstractAsyncContextManager[None]]
    short: Mapping[Listener, int]
    long: Mapping[Listener, int]


ATTACKS = {
    "pipelining": Attack(pipelining, {"server": 1, "admin": 1}, {"server": 4, "admin": 4}),
    "pipelining unread": Attack(pipelining_unread, {"server": 50, "admin": 10}, {"server": 1000, "admin": 1000}),
    "idle": Attack(idle, {"server": 1100, "admin": 150}, {"server": 5000, "admin": 5000}),
    "slow heads": Attack(slow_heads, {"server": 100, "admin": 50}, {"server": 2000, "admin": 500}),
    "stalled bodies": Attack(stalled_bodies, {"server": 90, "admin": 50}, {"server": 500, "admin": 500}),
    "endless": Attack(endless, {"server": 2, "admin": 2}, {"server": 50, "admin": 50}),
    "refused": Attack(refused, {"server": 100, "admin": 50}, {"server": 5000, "admin": 1000}),
    "explained": Attack(explained, {"server": 2, "admin": 2}, {"server": 10, "admin": 10}),
    "upgrades": Attack(upgrades, {"server": 20, "admin": 20}, {"server": 500, "admin": 90}),
    "leaving": Attack(leaving, {"server": 100, "admin": 50}, {"server": 900, "admin": 90}),
}


async def _mount(name: str, listener: Listener, address: str, size: int) -> None:
    async with ATTACKS[name].mount(address, listener, size):
        print("mounted", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    name, listener, address, size = sys.argv[1:]
    assert listener in ("server", "admin")
    asyncio.run(_mount(name, listener, address, int(size)))  # type: ignore[arg-type]
