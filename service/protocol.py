"""
The HTTP protocol of both listeners: uvicorn's, with bounds that it does not have and a short way for callbacks.

The short way: a callback that arrives in one read, on a connection where nothing else is being answered, is verified
and handed to the inbox at once, and answered when the inbox says that it is durable, without a task, an ASGI scope and
messages in between, which together cost as much as all that is done with it. Whatever is out of the ordinary (a body in
pieces, a refusal, a certificate to fetch, pipelining, HTTP/1.0) goes uvicorn's way, from the start: nothing has
happened to it before.
"""

import asyncio
import re
import time
from asyncio import TimerHandle
from typing import Any

import structlog
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.endpoints import MAX_HEADER_BYTES, RETRY_AFTER_S, CallbackEndpoint, CallbackRouter, problem
from service.errors import InboxUnavailable
from service.inbox.base import Receipt, Verdict
from service.sources.base import Callback

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
CLOSE_HEADER = (b"connection", b"close")
# Such a target is its own path: nothing to decode, no query.
_PLAIN_PATH = re.compile(rb"/[A-Za-z0-9/_.~-]*")
# Nothing is read or written for it, and the connection makes room for another.
_TOO_BUSY = problem(503, {"retry-after": str(RETRY_AFTER_S), "connection": "close"})

log = structlog.get_logger()


class GuardedProtocol(HttpToolsProtocol):
    """
    uvicorn's protocol with two bounds more: whatever is no body (the request line and headers, what stands around
    chunks, trailers) must be complete within ``MAX_HEADER_BYTES`` (a header that never ends would fill memory), and the
    whole request within ``request_timeout_s`` (a client that sends a byte a minute would hold its place for ever). A
    request that arrives in one piece pays for neither.

    And three differences: an answer beyond ``limit_concurrency`` says when to come again; trailers are dropped, because
    uvicorn would add them to the headers, where nobody signs them; a client that closes its half of the connection
    after a whole request still gets the answer.

    Attributes:
        short_way: For the callbacks that may go it, of all connections of a listener.
    """

    request_timeout_s = 30.0
    short_way: "ShortWay | None" = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn's answer beyond its limit does not say when to come again.
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None
        self._deadline: TimerHandle | None = None
        self._idle_timer: TimerHandle | None = None
        self._idle_since = 0.0
        self._in_request = True
        # Since the parser last found a head, a piece of a body, or the end of a request.
        self._pending_bytes = 0
        # The present request may go the short way: it began in the present read, which is small.
        self._is_small_read = self._is_whole = False
        self._endpoint: CallbackEndpoint | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._pending_bytes += len(data)
        self._is_small_read = len(data) <= MAX_HEADER_BYTES
        self._is_whole = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._endpoint is not None:
            # The rest of the body is still to come.
            self._start_cycle()
        if self._pending_bytes > MAX_HEADER_BYTES:
            log.warning("connection_refused", reason="headers_too_large")
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._deadline is None and (self._in_request or self._is_idle()):
            self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        if self._in_request or self._is_idle():
            return False
        # uvicorn would drop the answer, and with it the request if its endpoint has not begun to read.
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        self._in_request = True
        self._is_whole = self._is_small_read
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._pending_bytes = 0
        self._body = b""
        self._endpoint = self._find_endpoint()
        # Trailers come as headers, too; theirs is a list that nobody looks at.
        self._headers, self.headers = self.headers, []
        if self._endpoint is None:
            self._start_cycle()

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        if self._endpoint is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        self._in_request = False
        self._pending_bytes = 0
        self._unwatch()
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            method = self.parser.get_method().decode()
            if endpoint.takes(method, len(self._body)):
                callback = Callback(method, self.url, b"", self._headers, self._body)
                request = _Request(self, endpoint, callback, keep_alive=self.parser.should_keep_alive())
                self.cycle = request  # type: ignore[assignment]
                assert self.short_way is not None
                self.short_way.add(request)
                return
            self._start_cycle()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, with one timer for the idle times of a connection in place of one for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    # The short way

    def _find_endpoint(self) -> CallbackEndpoint | None:
        """Who may answer this request the short way, as far as its head tells."""
        if (
            self.short_way is None
            or not self._is_whole
            or not self._is_idle()
            or self.flow.write_paused
            or self._is_busy()
            or self.parser.get_http_version() != "1.1"
            or self.parser.should_upgrade()
            or not _PLAIN_PATH.fullmatch(self.url)
        ):
            return None
        return self.short_way.callbacks.find(self.url.decode())

    def _start_cycle(self) -> None:
        """uvicorn's way, with what has been read so far."""
        url, body = self.url, self._body
        self._endpoint, self._body = None, b""
        super().on_message_begin()
        self.url = url
        for name, value in self._headers:
            super().on_header(name, value)
        app = self.app
        if self._is_busy():
            log.warning("connection_refused", reason="too_many_connections")
            self.app = _TOO_BUSY
        super().on_headers_complete()
        self.app = app
        self.headers = []
        if body:
            super().on_body(body)

    def _is_busy(self) -> bool:
        limit = self._max_connections
        return limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit)

    # Time

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._in_request or not self._is_idle() or self.transport.is_closing():
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_later(left_s, self._close_if_idle)

    def _watch(self) -> None:
        self._deadline = self.loop.call_later(self.request_timeout_s, self._too_slow)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            if self._in_request:
                log.warning("connection_refused", reason="slow_request")
            self.transport.abort()


class ShortWay:
    """
    Takes callbacks through in turns of the event loop: all that have arrived are prepared and handed to the inbox, and
    all that became durable together are answered, then reported. The same step for many, one after the other, finds its
    code and data in the processor's caches, which is measured to save a tenth of a callback's time.
    """

    def __init__(self, callbacks: CallbackRouter) -> None:
        self.callbacks = callbacks
        self._arrived: list[_Request] = []
        self._answered: list[_Request] = []
        self._default_headers: _Headers = []
        self._success_heads: dict[CallbackEndpoint, _Head] = {}

    def add(self, request: "_Request") -> None:
        """A request has arrived."""
        self._arrived.append(request)
        if len(self._arrived) == 1:
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        requests, self._arrived = self._arrived, []
        for request in requests:
            request.begin(self)

    def success_head(self, endpoint: CallbackEndpoint, default_headers: "_Headers") -> "_Head":
        if default_headers is not self._default_headers:
            # uvicorn makes another list every second, with the date.
            self._default_headers = default_headers
            self._success_heads.clear()
        head = self._success_heads.get(endpoint)
        if head is None:
            head = self._success_heads[endpoint] = _render_head(endpoint.success, default_headers)
        return head

    def answered(self, request: "_Request") -> None:
        """A request was answered with success."""
        self._answered.append(request)
        if len(self._answered) == 1:
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        requests, self._answered = self._answered, []
        for request in requests:
            request.report()


_Headers = list[tuple[bytes, bytes]]
# The head of an answer without its last line, and whether it says that the connection will be closed.
_Head = tuple[bytes, bool]


def _render_head(response: Response, default_headers: _Headers) -> _Head:
    headers = [*default_headers, *response.raw_headers]
    lines = [STATUS_LINE[response.status_code]]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines), CLOSE_HEADER in headers


class _Nobody:
    """Where uvicorn wakes whoever reads a request."""

    def set(self) -> None: ...


class _Request:
    """
    A request on the short way. For the protocol it is what uvicorn's cycle is: ``response_complete`` holds further
    requests of the connection back, and ``keep_alive`` and ``disconnected`` are set from outside.
    """

    __slots__ = (
        "_callback",
        "_duration_s",
        "_endpoint",
        "_protocol",
        "_receipt",
        "_short_way",
        "_started",
        "_verdict",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    _short_way: ShortWay
    _receipt: Receipt
    _verdict: "asyncio.Future[Verdict]"

    message_event = _Nobody()

    def __init__(
        self, protocol: GuardedProtocol, endpoint: CallbackEndpoint, callback: Callback, *, keep_alive: bool
    ) -> None:
        self._protocol = protocol
        self._endpoint = endpoint
        self._callback = callback
        self._started = time.perf_counter()
        self._duration_s = 0.0
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def begin(self, short_way: ShortWay) -> None:
        """Prepare it, and hand it to the inbox."""
        self._short_way = short_way
        try:
            receipt = self._endpoint.prepare_now(self._callback)
            if receipt is None:
                self._verdict = asyncio.ensure_future(self._fetch_and_put())
            else:
                self._receipt = receipt
                self._verdict = self._endpoint.put(receipt)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the turn for the others
            self._refuse(error)
        else:
            self._verdict.add_done_callback(self._finish)

    async def _fetch_and_put(self) -> Verdict:
        self._receipt = await self._endpoint.prepare(self._callback)
        return await self._endpoint.put(self._receipt)

    def _finish(self, verdict: "asyncio.Future[Verdict]") -> None:
        """The receipt is durable, or it is not."""
        error = InboxUnavailable("stopping") if verdict.cancelled() else verdict.exception()
        if error is not None:
            self._refuse(error)
            return
        endpoint = self._endpoint
        head = self._short_way.success_head(endpoint, self._protocol.server_state.default_headers)
        self._answer(head, endpoint.success.body)
        self._duration_s = time.perf_counter() - self._started
        self._short_way.answered(self)

    def report(self) -> None:
        self._endpoint.report(self._receipt, self._verdict.result(), self._duration_s)

    def _refuse(self, error: BaseException) -> None:
        response = self._endpoint.refuse(error)
        self._answer(_render_head(response, self._protocol.server_state.default_headers), response.body)

    def _answer(self, head: _Head, body: bytes | memoryview) -> None:
        protocol = self._protocol
        self.response_complete = True
        if not self.disconnected and not protocol.transport.is_closing():
            lines, closes = head
            if not self.keep_alive and not closes:
                lines, closes = lines + b"connection: close\r\n", True
            protocol.transport.write(b"".join((lines, b"\r\n", body)))
            if closes:
                protocol.transport.close()
        protocol.on_response_complete()
