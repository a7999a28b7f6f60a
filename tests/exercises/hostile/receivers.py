"""Every way in which a server may answer to hurt whoever asked: without end, without sense, without haste."""

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from ssl import SSLContext

# At once to the socket: enough that a flood is not held up by the one who floods.
_PIECE_BYTES = 64 * 1024
_TENTH_S = 0.1


def _always(head: bytes, unit: bytes) -> Callable[[], Iterator[bytes]]:
    """The head, then the unit for ever."""
    return lambda: chain([head], repeat(unit * max(1, _PIECE_BYTES // len(unit))))


def _once(*parts: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(parts)


_CHUNKED = b"HTTP/1.1 500 -\r\nTransfer-Encoding: chunked\r\n\r\n"
_BOMB = gzip.compress(b"\0" * 50 * 2**20)
_LONG = b"x" * 8000

FLOODS: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "100 without end": _always(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100 of the fewest bytes": _always(b"", b"HTTP/1.1 100\r\n\r\n"),
    "102 without end": _always(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "103 with many headers": _always(b"", b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </a>; rel=b\r\n" * 20 + b"\r\n"),
    "103 with long headers": _always(b"", b"HTTP/1.1 103 Early Hints\r\nLink: " + _LONG + b"\r\n\r\n"),
    "headers without end": _always(b"HTTP/1.1 200 -\r\n", b"X-A: b\r\n"),
    "a header without end": _always(b"HTTP/1.1 200 -\r\nX-A: ", b"a"),
    "a reason without end": _always(b"HTTP/1.1 200 ", b"a"),
    "empty lines without end": _always(b"", b"\r\n"),
    "cookies": _always(b"HTTP/1.1 500 -\r\n", b"Set-Cookie: a=" + _LONG + b"; Path=/\r\n"),
    "a body without end": _always(b"HTTP/1.1 500 -\r\n\r\n", b"a"),
    "a body of a terabyte": _always(b"HTTP/1.1 500 -\r\nContent-Length: 1099511627776\r\n\r\n", b"a"),
    "chunks without end": _always(_CHUNKED, b"1\r\na\r\n"),
    "a chunk without end": _always(_CHUNKED + b"ffffffffff\r\n", b"a"),
    "a chunk's extension without end": _always(_CHUNKED + b"1;", b"a"),
    "chunks with extensions without end": _always(_CHUNKED, b"1;a=b\r\na\r\n"),
    "trailers without end": _always(_CHUNKED + b"0\r\n", b"A: b\r\n"),
    "answers nobody asked for": _always(b"", b"HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n"),
    "other protocol": _always(b"HTTP/1.1 101 -\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"a"),
    "no HTTP": _always(b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a bomb": _always(
        b"HTTP/1.1 500 -\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n%b\r\n" % (len(_BOMB), _BOMB),
    ),
}
SHORT: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "a small bomb": _once(
        b"HTTP/1.1 500 -\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_BOMB), _BOMB
    ),
    "less than announced": _once(b"HTTP/1.1 500 -\r\nContent-Length: 100\r\n\r\na"),
    "more than announced": _once(b"HTTP/1.1 500 -\r\nContent-Length: 1\r\n\r\n", b"a" * 2**20),
    "two lengths": _once(b"HTTP/1.1 500 -\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\naa"),
    "length and chunks": _once(b"HTTP/1.1 500 -\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a redirect": _once(b"HTTP/1.1 307 -\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"),
    "a long error": _once(
        b"HTTP/1.1 400 -\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % (8 * 2**20 + 15),
        b"<Error>" + b"<Code>A</Code>x" * (8 * 2**20 // 15) + b"x" * (8 * 2**20 % 15) + b"</Error>",
    ),
    "a deep error": _once(
        b"HTTP/1.1 400 -\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 100000\r\n\r\n", b"[" * 100_000
    ),
}
HOLDS = ("before it was asked", "a byte now and then", "a reset in the middle", "not a word")
WAYS = (*FLOODS, *SHORT, *HOLDS)


@dataclass
class Receiver:
    """
    A server that misbehaves in one way with everybody.

    Attributes:
        taken_bytes: What was taken of each answer, with what waits in the buffers of the kernel.
        requests: First lines and headers.
        connections: How many there were.
        ended: How many of them are over.
    """

    way: str
    port: int = 0
    taken_bytes: list[int] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def until_ended(self, count: int) -> None:
        while self.ended < count:
            self._changed.clear()
            await self._changed.wait()

    async def until_asked(self) -> None:
        while not self.requests and not self.ended:
            self._changed.clear()
            await self._changed.wait()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("ssl_object") is None:
            # So that what counts was read, or waits in the kernel. Over TLS, uvloop would wait for ever.
            writer.transport.set_write_buffer_limits(0)
        self.connections += 1
        try:
            while True:
                if self.way != "before it was asked":
                    self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                    self._changed.set()
                place = len(self.taken_bytes)
                self.taken_bytes.append(0)
                for piece in self._answer():
                    for start in range(0, len(piece), _PIECE_BYTES):
                        writer.write(piece[start : start + _PIECE_BYTES])
                        await writer.drain()
                        self.taken_bytes[place] += min(_PIECE_BYTES, len(piece) - start)
                    if self.way == "a byte now and then":
                        await asyncio.sleep(_TENTH_S)
                if self.way == "a reset in the middle":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                if self.way in ("a reset in the middle", "less than announced"):
                    writer.close()
                    await writer.wait_closed()
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self.ended += 1
            self._changed.set()

    def _answer(self) -> Iterator[bytes]:
        match self.way:
            case "before it was asked":
                return FLOODS["100 without end"]()
            case "a byte now and then":
                return (bytes([byte]) for byte in b"HTTP/1.1 200 " + b"a" * 1000)
            case "a reset in the middle":
                return iter([b"HTTP/1.1 500 -\r\nContent-Length: 10\r\n\r\nabc"])
            case "not a word":
                return iter([])
            case _:
                return (FLOODS.get(self.way) or SHORT[self.way])()


@asynccontextmanager
async def misbehaving(way: str, *, tls: SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(way)
    listener = socket.create_server(("127.0.0.1", 0))
    # Inherited by every connection.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    server = await asyncio.start_server(receiver.connected, sock=listener, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5)
