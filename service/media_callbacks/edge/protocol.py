"""
The edge on a socket: HTTP/1.1, read with httptools' parser, for uvicorn's option ``http``.

Everything that a client can hold is bounded. One request of a connection is in hand at a time, and nothing more is read
until it is answered; an answer that is not read, a head or a body that does not come, and a connection that nobody uses
have deadlines.

Requests are cut out of the stream before the parser sees them, because it does not stop where one ends: a head is fed
when it is complete, and a body to its last byte.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any, ClassVar, cast
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn import Config
from uvicorn.server import ServerState

from media_callbacks.edge.answers import Answer
from media_callbacks.edge.connections import NEVER, Connections, Turns
from media_callbacks.edge.core import MAX_HEADER_BYTES, Edge, Exchange
from media_callbacks.model.errors import (
    ClientLeft,
    HeadersTooLarge,
    MalformedRequest,
    RequestTimeout,
    ServiceError,
    Unavailable,
)

HEAD_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
# What is answered before it was read to its end is read on for so long, and so much of it, that the client finds the
# answer: closing at once would reset the connection under it.
LINGER_S = 2.0
SHUTDOWN_GRACE_S = 0.5
LINGER_BYTES = 256 * 1024
# Of what comes, at once. As much of each connection may wait for the request before it.
READ_BYTES = 16 * 1024
_SMALL_READ_BYTES = 2 * 1024
# Of answers that the kernel does not take, for each connection: none, so that nothing is read behind them.
_HIGH_WATER_BYTES = 0
# Around the pieces of a chunked body, in proportion to it.
_CHUNKING_FACTOR = 8

_BLANK_LINES = re.compile(rb"(?:\r\n)*")
# Method; target, where that is its own path, with nothing to decode and no query; any other target; minor version.
_REQUEST_LINE = re.compile(rb"([A-Z-]+) (?:(/[A-Za-z0-9/_.~-]*)|([!-~]+)) HTTP/1\.([01])\r\n")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_UPGRADE = re.compile(rb"(?i)(?<=\r\n)upgrade:[^\r\n]*\r\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"connection: close\r\n\r\n"


def make_protocol(
    edge: Edge, connections: Connections, *, head_timeout_s: float = HEAD_TIMEOUT_S
) -> type[asyncio.Protocol]:
    """The class to give to uvicorn, for one listener."""
    members = {
        "edge": edge,
        "connections": connections,
        "turns": Turns(each=16),
        "head_timeout_s": head_timeout_s,
        "received": memoryview(bytearray(READ_BYTES)),
    }
    # uvicorn gives it to create_server, which takes protocols with and without a buffer of their own.
    return cast("type[asyncio.Protocol]", type("Callbacks", (CallbackProtocol,), members))


class CallbackProtocol(asyncio.BufferedProtocol):
    """
    One connection.

    Attributes:
        deadline, silent_since: See ``connections.Connection``.
    """

    edge: Edge
    connections: Connections
    turns: Turns
    head_timeout_s: float
    # Of all connections, one after the other.
    received: memoryview
    write_timeout_s = WRITE_TIMEOUT_S
    # uvicorn's headers, and what is written for them.
    dated: ClassVar[tuple[list[tuple[bytes, bytes]], bytes]] = ([], b"")

    def __init__(self, config: Config, server_state: ServerState, **_: Any) -> None:
        self._server_state = server_state
        self._keep_alive_s = config.timeout_keep_alive
        self._loop = asyncio.get_running_loop()
        self.transport = cast("asyncio.Transport", None)
        self._parser: HttpRequestParser | None = None
        self.deadline = self.silent_since = 0.0

        # What was read and not parsed, from _position on.
        self._buffer = b""
        self._position = 0
        self._is_paused = False
        self._is_unread = False
        self._is_last = False
        self._is_half_closed = False
        # When not None, what comes is thrown away: how much it was.
        self._discarded_bytes: int | None = None

        # Of the request in hand.
        self._exchange: Exchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._body_left = 0
        self._chunks: _Chunks | None = None
        self._is_read = self._is_answered = False
        self._keeps_alive = True

        self._had_request = self._has_turn = False

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self.silent_since = self._loop.time()
        self.deadline = self.silent_since + self.head_timeout_s
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self.connections.remove(self)
        self._leave()
        self._discarded_bytes = 0
        # They refer to each other, and should not wait for the garbage collector.
        self._parser = None
        self._exchange = None

    def eof_received(self) -> bool:
        self._is_half_closed = True
        if self._is_held and self._discarded_bytes is None:
            # It has asked, and may wait for the answer.
            return True
        self._leave()
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.received

    def buffer_updated(self, nbytes: int) -> None:
        if self._discarded_bytes is not None:
            self._discarded_bytes += nbytes
            if self._discarded_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        data = self.received[:nbytes].tobytes()
        self._buffer = self._buffer[self._position :] + data if self._position < len(self._buffer) else data
        self._position = 0
        if self._exchange is None or nbytes < _SMALL_READ_BYTES:
            self._advance()
            return
        self._advance_later()

    def pause_writing(self) -> None:
        self._is_unread = True
        self.deadline = self._loop.time() + self.write_timeout_s

    def resume_writing(self) -> None:
        self._is_unread = False
        self._wait()
        self._advance_later()

    # uvicorn's call

    def shutdown(self) -> None:
        """Finish what has begun, and nothing more."""
        self._is_last = True
        if self._exchange is None and not self._had_request and not self._is_unread:
            # It was accepted, so nobody else will answer the request that may be on its way.
            self.deadline = min(self.deadline, self._loop.time() + SHUTDOWN_GRACE_S)
        elif self._exchange is None:
            self._close()

    # Reading

    def _advance(self) -> None:
        """Read on, up to the end of one request at most."""
        try:
            while self._position < len(self._buffer) and not (self._is_held or self._has_turn):
                if self._exchange is None:
                    if not self._read_head():
                        break
                    if self._chunks is not None and len(self._buffer) - self._position >= _SMALL_READ_BYTES:
                        self._advance_later()
                else:
                    self._read_body(self._exchange)
        except HttpParserError as error:
            self._refuse(MalformedRequest(f"this is not HTTP/1.1: {error}"))
        except ServiceError as error:
            self._refuse(error)
        if self._position >= len(self._buffer):
            self._buffer, self._position = b"", 0
        if self._has_turn:
            return
        if self._is_held:
            if self._buffer:
                self._pause()
            return
        if self._is_half_closed:
            self._leave()
            self._close()
        elif self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def _advance_later(self) -> None:
        """What comes without end must not hold others up, and chunks of a byte take long to read."""
        self._pause()
        if not self._has_turn:
            self._has_turn = True
            self.turns.add(self._take_turn)

    def _take_turn(self) -> None:
        self._has_turn = False
        self._advance()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    @property
    def _is_held(self) -> bool:
        return self._is_unread or self._is_read or self._discarded_bytes is not None

    def _read_head(self) -> bool:
        """Returns whether it was there in full."""
        buffer, start = self._buffer, self._position
        begin = _BLANK_LINES.match(buffer, start).end()  # type: ignore[union-attr]
        end = buffer.find(b"\r\n\r\n", begin)
        size = (end + 4 if end >= 0 else len(buffer)) - start
        if size > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"expected at most {MAX_HEADER_BYTES} bytes of headers, found more")
        line = _REQUEST_LINE.match(buffer, begin)
        if end < 0:
            if line is None and not _may_become_request_line(buffer[begin:]):
                raise MalformedRequest("expected a request line of HTTP/1.1")
            if buffer.count(b"\n", begin) != buffer.count(b"\r\n", begin):
                # Whoever ends lines so would wait for an answer, and never end the head.
                raise MalformedRequest("expected lines that end with CR LF, found LF alone")
            self.silent_since = self._loop.time()
            # From its first byte on.
            self.deadline = min(self.deadline, self.silent_since + self.head_timeout_s)
            return False
        if line is None:
            raise MalformedRequest("expected a request line of HTTP/1.1")
        method, plain_path, target, minor_version = line.groups()
        self._position = end + 4
        self._feed_head(buffer[begin : self._position])
        headers, self._headers = self._headers, []
        raw_path, query = (plain_path, b"") if target is None else _split_target(target)
        assert self._parser is not None
        self._keeps_alive = self._keeps_alive and minor_version == b"1"
        path = raw_path.decode("ascii")
        exchange = self.edge.begin(
            method.decode("ascii"),
            path if target is None else unquote(path),
            raw_path,
            query,
            headers,
            head_bytes=size,
            answered=self._answer,
        )
        self._exchange = exchange
        if self._is_read:
            self._end(exchange)
            return True
        self._body_left = exchange.content_length or 0
        self._chunks = _Chunks() if exchange.is_chunked else None
        if exchange.is_expecting and not exchange.is_answered and minor_version == b"1":
            self.transport.write(_CONTINUE)
        if exchange.is_chunked or self._position + self._body_left > len(buffer):
            self._wait()
        return True

    def _feed_head(self, head: bytes) -> None:
        if self._parser is None:
            self._parser = HttpRequestParser(self)
        try:
            self._parser.feed_data(head)
        except HttpParserUpgrade:
            # Whoever asks for another protocol takes this one, too (RFC 9110, section 7.8); the parser would take the
            # body for that other protocol.
            self._headers = []
            self._is_read = False
            self._parser = HttpRequestParser(self)
            try:
                self._parser.feed_data(_UPGRADE.sub(b"", head))
            except HttpParserUpgrade:
                raise MalformedRequest("this is no proxy: CONNECT is not answered") from None

    def _read_body(self, exchange: Exchange) -> None:
        buffer, start = self._buffer, self._position
        if self._chunks is None:
            stop = min(start + self._body_left, len(buffer))
            self._body_left -= stop - start
        else:
            stop = self._chunks.find_end(buffer, start)
        self._position = stop
        assert self._parser is not None
        self._parser.feed_data(buffer[start:stop])
        pieces, self._pieces = self._pieces, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._chunks is not None:
            self._chunks.count(stop - start, len(body))
        exchange.receive(body)
        if self._is_read:
            self._end(exchange)
        else:
            self.silent_since = self._loop.time()

    # The parser's calls

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are nobody's.
        if self._exchange is None:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        # At the end of the message the parser has forgotten.
        assert self._parser is not None
        self._keeps_alive = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_begin(self) -> None:
        if self._is_read:
            raise HttpParserError("another request follows")

    def on_message_complete(self) -> None:
        self._is_read = True

    # Answering

    def _end(self, exchange: Exchange) -> None:
        """The request is there in full."""
        self._headers = []
        if self._is_answered:
            self._next()
        else:
            self.deadline = NEVER
            exchange.end()

    def _refuse(self, error: ServiceError) -> None:
        """What comes is no request, or not one that can be read on."""
        if self._exchange is not None and not self._exchange.is_answered:
            self._exchange.fail(error)
        elif self._is_answered:
            self.transport.abort()
        else:
            self._answer(self.edge.refuse(error))

    def _answer(self, answer: Answer) -> None:
        self._is_answered = True
        if self.transport.is_closing():
            return
        left_over = self._position < len(self._buffer)
        closes = (
            answer.closes
            or not self._keeps_alive
            or self._is_last
            or (self._is_half_closed and not left_over)
            or self.edge.readiness.is_draining
        )
        if answer.rendered is None:
            answer.rendered = _render(answer)
        end = _CLOSE if closes else b"\r\n"
        self.transport.write(b"".join((answer.rendered, self._date(), end, answer.body)))
        if closes:
            self._close(lingers=left_over or not self._is_read)
        elif self._is_read and self._exchange is not None:
            self._next()

    def _date(self) -> bytes:
        """The line that uvicorn makes anew every second."""
        made_from, line = self.dated
        if made_from is not self._server_state.default_headers:
            made_from = self._server_state.default_headers
            line = b"".join(b"%b: %b\r\n" % header for header in made_from)
            type(self).dated = made_from, line
        return line

    def _next(self) -> None:
        """The request is answered and read: it is the next one's turn."""
        self._exchange = None
        self._chunks = None
        self._is_read = self._is_answered = False
        self._had_request = True
        if self._position < len(self._buffer) or self._is_paused:
            self._advance_later()
        self._wait()

    def _close(self, *, lingers: bool = False) -> None:
        """Close the connection when the client has the answer, which it must read in time."""
        self.deadline = self._loop.time() + (LINGER_S if lingers else self.write_timeout_s)
        self._discarded_bytes = 0
        self._buffer, self._position = b"", 0
        if lingers and not self._is_half_closed and self.transport.can_write_eof():
            self.transport.write_eof()
            if self._is_paused:
                self._is_paused = False
                self.transport.resume_reading()
        else:
            self.transport.close()

    def _leave(self) -> None:
        """The client has gone."""
        if self._exchange is not None and not self._is_read:
            self._exchange.fail(ClientLeft("the client went away before its request was complete"))
        elif self._exchange is None and self._buffer:
            self.edge.refusals.client_left("none")
        self._buffer, self._position = b"", 0

    # Time

    def _wait(self) -> None:
        """For whatever is next."""
        if self._is_unread or self._discarded_bytes is not None:
            return
        self.silent_since = self._loop.time()
        if self._exchange is None:
            self.deadline = self.silent_since + self._keep_alive_s
        else:
            self.deadline = NEVER if self._is_read else self.silent_since + self.edge.body_timeout_s

    @property
    def is_working(self) -> bool:
        return self._is_read and not self._is_answered

    def expire(self) -> None:
        if self._discarded_bytes is not None:
            self._give_up("slow_reader" if self.transport.get_write_buffer_size() else None)
        elif self._is_unread:
            self._give_up("slow_reader")
        elif self._exchange is not None:
            if self._exchange.is_answered:
                self._give_up(None)
            else:
                timeout_s = self.edge.body_timeout_s
                self._exchange.fail(RequestTimeout(f"the body did not arrive within {timeout_s} s"))
        elif self._buffer.strip() or not (self._had_request or self._is_last):
            self._give_up("slow_request")
        else:
            self._close()

    def evict(self) -> None:
        self._give_up("too_many_connections")
        if self._exchange is not None:
            self._exchange.fail(Unavailable("there are too many connections"))

    def _give_up(self, reason: str | None) -> None:
        self._discarded_bytes = 0
        self._buffer, self._position = b"", 0
        if reason is not None:
            self.edge.refusals.connection_closed("server", reason)
        self.transport.abort()


class _Chunks:
    """
    Where a body in chunks ends. What is wrong in it is the parser's to find: it gets every byte of it, and nothing that
    is found here counts against it.
    """

    def __init__(self) -> None:
        self._chunk_left = 0
        self._line = b""
        self._is_over = False
        self._trailer_bytes = 0
        self._bytes = self._body_bytes = 0

    def find_end(self, buffer: bytes, position: int) -> int:
        """
        The end of the body, or of the buffer when that comes first.

        Raises:
            HeadersTooLarge: Around the chunks or after them there is more than there may be in a head.
        """
        while position < len(buffer):
            if self._chunk_left:
                step = min(self._chunk_left, len(buffer) - position)
                self._chunk_left -= step
                position += step
                continue
            end = buffer.find(b"\n", position) + 1
            self._line += buffer[position : end or len(buffer)]
            if len(self._line) + self._trailer_bytes > MAX_HEADER_BYTES:
                raise HeadersTooLarge(f"expected at most {MAX_HEADER_BYTES} bytes in a line or in trailers, found more")
            if not end:
                return len(buffer)
            line, self._line, position = self._line, b"", end
            if self._is_over:
                # Trailers, and an empty line after them.
                if line == b"\r\n":
                    return position
                self._trailer_bytes += len(line)
                continue
            found = _CHUNK_SIZE.match(line)
            size = int(found[0], 16) if found is not None else 0
            # A chunk has a line break after it; the last one has none of its own.
            self._chunk_left = size + 2 if size else 0
            self._is_over = not size
        return position

    def count(self, added_bytes: int, body_bytes: int) -> None:
        """
        Raises:
            HeadersTooLarge: There is much around the body, for what there is of it.
        """
        self._bytes += added_bytes
        self._body_bytes += body_bytes
        if self._bytes > MAX_HEADER_BYTES + self._body_bytes * (1 + _CHUNKING_FACTOR):
            raise HeadersTooLarge("expected a body in chunks, found hardly anything in them or endless trailers")


def _may_become_request_line(beginning: bytes) -> bool:
    line, ended, _ = beginning.partition(b"\r\n")
    return not ended and (not line or line == b"\r" or b"A" <= line[:1] <= b"Z")


def _split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target in any of its forms."""
    if target.startswith(b"/") and b"#" not in target:
        raw_path, _, query = target.partition(b"?")
        return raw_path, query
    if target == b"*":
        return target, b""
    url = parse_url(target)
    return url.path or b"/", url.query or b""


def _render(answer: Answer) -> bytes:
    lines = [b"HTTP/1.1 %d %b\r\n" % (answer.status, _PHRASES.get(answer.status, b""))]
    lines += [b"%b: %b\r\n" % line for line in answer.headers]
    return b"".join(lines)


_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
