"""
POSTs to one URL, one after the other on a few connections, of whose answers nothing counts but the status.

aiohttp makes the connections: names, addresses, TLS. A request is written here, and httptools reads the answer, which
takes a third of what aiohttp's requests take. What may come is bounded as ``bounded_connector`` does it: an answer,
interim ones before it included, has MAX_ANSWER_BYTES, and what comes unasked ends the connection. A connection is used
again only after an answer that has ended, and nothing behind it.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from aiohttp.connector import Connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from yarl import URL

from media_callbacks.http_client.bounded_connector import AnswerTooLong

# What nginx takes of a head by default, twice; an acknowledgement has hardly ever a body.
MAX_ANSWER_BYTES = 16 * 1024
# When the status has come: what is left of the answer is not worth more.
_REST_TIMEOUT_S = 1.0

_RETRY_AFTER = re.compile(rb"\nretry-after:([^\r\n]*)", re.IGNORECASE)


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
        # Its own limit would count time in the queue as time for a connection.
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
            headers = {"Host": url.host_port_subcomponent, **self._headers}
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            self._request = url, f"POST {url.raw_path_qs} HTTP/1.1\r\n{lines}"
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
        transport = connection.transport
        if transport is None or transport.is_closing():
            connection.close()
            raise aiohttp.ServerDisconnectedError
        transport.set_protocol(self)
        self._transport = transport
        self._connection = connection
        self._loop = loop
        self._waiter: asyncio.Future[Answer] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_reusable = False
        self._parser = HttpResponseParser(self)
        # As aiohttp has it, so that what was an answer stays one.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._begin()

    def _begin(self) -> None:
        self._left = MAX_ANSWER_BYTES
        self._head = b""
        self._answer: Answer | None = None
        self._is_whole = self._is_followed = self._keeps_alive = False

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
        if self._answer is None:
            self._head += taken
        try:
            self._parser.feed_data(taken)
        except (HttpParserError, HttpParserUpgrade):
            self._end(NoHttp())
            return
        if self._is_whole:
            self._end(None, is_reusable=self._keeps_alive and not self._is_followed and len(taken) == len(data))
        elif not self._left:
            self._end(AnswerTooLong())
        elif self._answer is not None:
            self._watch(min(self._deadline, self._loop.time() + _REST_TIMEOUT_S))

    # The parser's calls

    def on_message_begin(self) -> None:
        self._is_followed = self._is_whole

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        # Below are interim ones.
        if status >= 200 and self._answer is None:
            # At the end of the message the parser has forgotten.
            self._keeps_alive = self._parser.should_keep_alive()
            retry_after = None if status < 300 else _RETRY_AFTER.search(self._head)
            self._answer = Answer(status, retry_after and retry_after[1].strip().decode(errors="replace"))

    def on_message_complete(self) -> None:
        self._is_whole = self._answer is not None

    # The end

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
