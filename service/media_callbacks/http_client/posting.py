"""
POSTs to one URL, one after the other on a few connections, of whose answers nothing counts but the status.

aiohttp makes the connections: names, addresses, TLS. What is said on them is written and read here, which takes a third
of what aiohttp's requests take, and bounds what may come as ``bounded_connector`` does: an answer, interim ones before
it included, has MAX_ANSWER_BYTES, and what comes unasked ends the connection. A connection is used again only after an
answer of which no doubt is possible where it ends, and which has ended by then.

Source: RFC 9112, sections 4, 6 and 7.1.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from media_callbacks.http_client.bounded_connector import AnswerTooLong

# What nginx takes of a head by default, twice; an acknowledgement has hardly ever a body.
MAX_ANSWER_BYTES = 16 * 1024
# When the status has come: what is left of the answer is not worth more.
_REST_TIMEOUT_S = 1.0

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HEAD = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?(?:\r?\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*)*")
_FIELD = re.compile(rb"\n(content-length|transfer-encoding|connection|retry-after):([^\r\n]*)", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,4})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_WITHOUT_BODY = frozenset({204, 304})


class NoHttp(aiohttp.ClientError):
    """What came is no answer of HTTP/1."""


class Answer(NamedTuple):
    status: int
    retry_after: str | None


class Poster:
    """
    To be opened and closed in an event loop.

    Args:
        headers: Those of every request, beside ``Host`` and ``Content-Length``.
        max_connections: At once; a request waits for one.
        keepalive_s: How long an idle connection is kept.
        connect_timeout_s: For a connection, TLS included.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        max_connections: int,
        keepalive_s: float,
        connect_timeout_s: float,
    ) -> None:
        self._url = url
        self._headers = headers
        self._keepalive_s = keepalive_s
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._places = asyncio.Semaphore(max_connections)
        # How many are open is bounded by who asks.
        self._connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._loop = asyncio.get_running_loop()
        self._request: tuple[URL, str] | None = None
        # With the time since when they are idle, the latest last.
        self._idle: list[tuple[_Exchange, float]] = []
        self._sweeping: asyncio.TimerHandle | None = None

    async def post(self, headers: Mapping[str, str], body: bytes, *, deadline: float) -> Answer:
        """
        Args:
            headers: Those of this request alone.
            deadline: In the time of the event loop. When the status has come by then, that is an answer.

        Raises:
            aiohttp.ConnectionTimeoutError: There was no connection in time.
            TimeoutError: There was no answer until the deadline.
            aiohttp.ClientError, OSError, ValueError: There is none.
        """
        url, head = self._prepared()
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = f"{head}{own}Content-Length: {len(body)}\r\n\r\n".encode()
        async with self._places:
            exchange = self._take() or await self._connect(url, deadline)
            answer = await exchange.post(request, body, deadline)
            if exchange.is_reusable:
                self._keep(exchange)
            return answer

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._idle.clear()
        # With all connections that it has made.
        await self._connector.close()

    def _prepared(self) -> tuple[URL, str]:
        """The URL, and what each request begins with."""
        if self._request is None:
            url = URL(self._url)
            if url.scheme not in {"http", "https"} or not url.raw_host:
                raise ValueError("expected an http or https url with a host")
            host = {} if "host" in map(str.lower, self._headers) else {"Host": url.host_port_subcomponent}
            lines = [f"{name}: {value}\r\n" for name, value in {**host, **self._headers}.items()]
            self._request = url, f"POST {url.raw_path_qs} HTTP/1.1\r\n{''.join(lines)}"
        return self._request

    def _take(self) -> "_Exchange | None":
        oldest = self._loop.time() - self._keepalive_s
        while self._idle:
            exchange, since = self._idle.pop()
            if since >= oldest and exchange.is_reusable:
                return exchange
            exchange.abort()
        return None

    def _keep(self, exchange: "_Exchange") -> None:
        self._idle.append((exchange, self._loop.time()))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._keepalive_s, self._sweep)

    def _sweep(self) -> None:
        """End those that were idle for too long."""
        self._sweeping = None
        oldest = self._loop.time() - self._keepalive_s
        while self._idle and (self._idle[0][1] <= oldest or not self._idle[0][0].is_reusable):
            self._idle.pop(0)[0].abort()
        if self._idle:
            self._sweeping = self._loop.call_at(self._idle[0][1] + self._keepalive_s, self._sweep)

    async def _connect(self, url: URL, deadline: float) -> "_Exchange":
        async with asyncio.timeout_at(deadline):
            try:
                connection = await self._connector.connect(
                    aiohttp.ClientRequest("POST", url, loop=self._loop), [], self._timeout
                )
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error
        return _Exchange(connection, self._loop)


class _Exchange(asyncio.Protocol):
    """A connection, and the one request that is on its way there."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        transport, protocol = connection.transport, connection.protocol
        if transport is None or protocol is None or transport.is_closing():
            connection.close()
            raise aiohttp.ServerDisconnectedError
        if protocol.should_close:
            # Something came unasked. It would be taken for the answer.
            connection.close()
            raise AnswerTooLong
        transport.set_protocol(self)
        self._transport = transport
        self._connection = connection
        self._loop = loop
        self._waiter: asyncio.Future[Answer] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_reusable = False
        self._begin()

    def _begin(self) -> None:
        self._received = b""
        # Of all that belongs to the answer; and how far the end of a head, or of a chunk, was looked for.
        self._left = MAX_ANSWER_BYTES
        self._looked = 0
        self._answer: Answer | None = None
        # Of the body; None for chunks, -1 for what ends with the connection.
        self._length: int | None = -1
        self._is_last = False

    @property
    def is_reusable(self) -> bool:
        return self._is_reusable and not self._transport.is_closing()

    async def post(self, request: bytes, body: bytes, deadline: float) -> Answer:
        self._begin()
        self._is_reusable = False
        self._waiter = self._loop.create_future()
        self._watch(deadline)
        self._transport.writelines((request, body))
        try:
            return await self._waiter
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiter = None

    def abort(self) -> None:
        self._is_reusable = False
        self._transport.abort()

    # Time

    def _watch(self, deadline: float) -> None:
        """The timer of an earlier request serves this one, too: it finds out that there is more time."""
        self._deadline = deadline
        if self._timer is not None and self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._watch(self._deadline)
        else:
            self._end(TimeoutError())

    # What comes

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            # Nobody has asked, or the answer is over.
            self.abort()
            return
        taken = data[: self._left]
        self._left -= len(taken)
        self._received += taken
        try:
            while self._answer is None:
                end = _HEAD_END.search(self._received, max(self._looked - 3, 0))
                if end is None:
                    self._looked = len(self._received)
                    break
                self._read_head(self._received[: end.start()])
                self._received = self._received[end.end() :]
                self._looked = 0
        except NoHttp as error:
            self._end(error)
            return
        if self._answer is not None:
            has_ended = self._has_ended()
            if has_ended is None:
                self._watch(min(self._deadline, self._loop.time() + _REST_TIMEOUT_S))
            else:
                self._end(None, is_reusable=has_ended and not self._is_last and len(taken) == len(data))
        if not self._left and self._waiter is not None and not self._waiter.done():
            self._end(AnswerTooLong())

    def _read_head(self, head: bytes) -> None:
        """
        Raises:
            NoHttp: It is none, or does not say where its body ends.
        """
        found = _HEAD.fullmatch(head)
        if found is None:
            raise NoHttp
        status = int(found[2])
        if 100 <= status < 200 and status != 101:
            return
        fields: dict[bytes, set[bytes]] = {}
        for name, value in _FIELD.findall(head):
            fields.setdefault(name.lower(), set()).add(value.strip())
        lengths, codings = fields.get(b"content-length", set()), fields.get(b"transfer-encoding", set())
        if len(lengths) + len(codings) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise NoHttp
        words = b",".join(fields.get(b"connection", ())).lower()
        self._is_last = status == 101 or b"close" in words or (found[1] == b"0" and b"keep-alive" not in words)
        if status in _WITHOUT_BODY:
            self._length = 0
        elif lengths:
            self._length = int(lengths.pop())
        elif codings:
            self._length = None if codings.pop().lower() == b"chunked" else -1
        retry_after = fields.get(b"retry-after")
        self._answer = Answer(status, retry_after.pop().decode(errors="replace") if retry_after else None)

    def _has_ended(self) -> bool | None:
        """Whether the body has come to its end, and nothing behind it; None as long as that may still come."""
        if self._length is None:
            return self._have_chunks_ended()
        if self._length < 0 or self._length - len(self._received) > self._left:
            return False
        return None if len(self._received) < self._length else len(self._received) == self._length

    def _have_chunks_ended(self) -> bool | None:
        while found := _CHUNK.match(self._received, self._looked):
            size = int(found[1], 16)
            # An empty line is behind the last one, or trailers, which nobody sends.
            end = found.end() + size + 2
            if len(self._received) < end:
                return None
            if self._received[end - 2 : end] != b"\r\n":
                return False
            if size == 0:
                return len(self._received) == end
            self._looked = end
        # The line that is to say how long the next one is may not have come completely.
        return None if b"\n" not in self._received[self._looked :] else False

    def _end(self, error: Exception | None, *, is_reusable: bool = False) -> None:
        # Behind a request that was not read whole nothing can be sent.
        self._is_reusable = is_reusable and self._transport.get_write_buffer_size() == 0
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            # The status alone decides.
            if self._answer is not None:
                waiter.set_result(self._answer)
            else:
                waiter.set_exception(error or aiohttp.ServerDisconnectedError())
        if not self._is_reusable:
            self.abort()

    def eof_received(self) -> None:
        # The connection is closed next.
        self._is_reusable = False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._end(exc)
        # It tells aiohttp, too.
        if self._connection.protocol is not None:
            self._connection.protocol.connection_lost(exc)
        self._connection.close()
