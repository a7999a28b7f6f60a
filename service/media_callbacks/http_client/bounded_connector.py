"""
What a server may answer to one request of ours: so many bytes, and in small pieces.

aiohttp bounds the lines and the number of headers of one head, not how many heads there are: whoever answers 100
Continue without end is read, parsed and waited for, all that has come at once and without a pause for anybody else,
until the time-out. A chunk's extensions, and what comes unasked on an idle connection, have no bound either. So what
comes is counted before it is parsed, whatever it is.

A piece is what one turn of the event loop parses of one connection. What costs most is heads, of which each of 16 bytes
becomes 2 KiB of objects in 3 microseconds; in a body it is chunks of a byte.
"""

import asyncio

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

# For the head, interim answers included, and what comes right behind it. Twice what nginx takes of one by default.
MAX_HEAD_BYTES = 16 * 1024
# What chunks may add to a body, of which a proper server makes large ones.
FRAMING_BYTES = 64 * 1024
_HEAD_PIECE_BYTES = 4 * 1024
_BODY_PIECE_BYTES = 32 * 1024


class AnswerTooLong(aiohttp.ClientPayloadError):
    """More came than the answer to one request may have."""

    def __init__(self) -> None:
        super().__init__("more came than an answer may have, or it came unasked")


class BoundedConnector(aiohttp.TCPConnector):
    """
    A connector whose connections end when the answer to one request is longer than MAX_HEAD_BYTES, with all that
    belongs to it or is sent unasked; more is let through by ``read_body`` alone.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as aiohttp has it
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            transport, protocol = connection.transport, connection.protocol
            if transport is None or protocol is None or transport.is_closing():
                # Lost at once, which aiohttp finds out.
                return connection
            guard = transport.get_protocol()
            is_new = not isinstance(guard, _Guard)
            if not isinstance(guard, _Guard):
                guard = _Guard(transport, protocol)
                transport.set_protocol(guard)
            if not protocol.should_close:
                guard.begin()
                return connection
            # Something came unasked. It would be parsed at once, and taken for the answer.
            connection.close()
            if is_new:
                raise AnswerTooLong


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """
    The body; one byte more than ``max_bytes`` where there is even more. To be called before anything else is awaited.

    Raises:
        aiohttp.ClientError, TimeoutError: It did not come as announced, or not in time.
    """
    # There is no connection any more when the answer has come completely.
    if response.connection is not None and response.connection.transport is not None:
        guard = response.connection.transport.get_protocol()
        assert isinstance(guard, _Guard), "of a session with a BoundedConnector"
        guard.allow(max_bytes + FRAMING_BYTES)
    body = bytearray()
    while len(body) <= max_bytes and (chunk := await response.content.read(max_bytes + 1 - len(body))):
        body += chunk
    return bytes(body)


class _Guard(asyncio.BufferedProtocol):
    """Stands before aiohttp's protocol. It is a buffered one because those say how much is read at once."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._buffer = memoryview(bytearray(_HEAD_PIECE_BYTES))
        self._piece_bytes = _HEAD_PIECE_BYTES
        self._left = 0
        self._is_exceeded = False

    def begin(self) -> None:
        """A request is about to be sent."""
        self._left, self._piece_bytes = MAX_HEAD_BYTES, _HEAD_PIECE_BYTES

    def allow(self, more_bytes: int) -> None:
        self._left += more_bytes
        self._piece_bytes = _BODY_PIECE_BYTES
        if len(self._buffer) < _BODY_PIECE_BYTES:
            self._buffer = memoryview(bytearray(_BODY_PIECE_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        # An empty one is an error; what is read nevertheless ends the connection.
        return self._buffer[: max(1, min(self._piece_bytes, self._left))]

    def buffer_updated(self, nbytes: int) -> None:
        is_full = nbytes >= min(self._piece_bytes, self._left)
        data = bytes(self._buffer[: min(nbytes, self._left)])
        self._left -= len(data)
        if data:
            # Also of too much: the status may be in it, which is all that some want to know.
            self._protocol.data_received(data)
        if is_full and not self._transport.is_closing():
            # uvloop would read on at once, up to 32 times. Whoever waited for the head gets it before `_go_on`.
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._transport.is_closing():
            return
        if self._left == 0:
            self._is_exceeded = True
            self._transport.abort()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(AnswerTooLong() if self._is_exceeded else exc)
