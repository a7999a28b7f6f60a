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
from service.errors import InboxUnavailable, ServiceError
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
        callbacks: Which endpoints may be answered the short way.
    """

    request_timeout_s = 30.0
    callbacks: CallbackRouter | None = None

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
        if self._endpoint is not None and not self._accept(self._endpoint):
            self._start_cycle()
        if self._endpoint is None:
            super().on_message_complete()
        self._endpoint = None
        self._unwatch()

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
            self.callbacks is None
            or not self._is_whole
            or not self._is_idle()
            or self.flow.write_paused
            or self._is_busy()
            or self.parser.get_http_version() != "1.1"
            or self.parser.should_upgrade()
            or not _PLAIN_PATH.fullmatch(self.url)
        ):
            return None
        return self.callbacks.find(self.url.decode())

    def _accept(self, endpoint: CallbackEndpoint) -> bool:
        """Hand the request over. False when it must go uvicorn's way, of which nothing has begun."""
        started = time.perf_counter()
        method = self.parser.get_method().decode()
        try:
            accepted = endpoint.accept(Callback(method, self.url, b"", self._headers, self._body))
        except ServiceError:
            return False
        if accepted is None:
            return False
        receipt, verdict = accepted
        answering = _Answering(self, endpoint, receipt, started, keep_alive=self.parser.should_keep_alive())
        self.cycle = answering  # type: ignore[assignment]
        verdict.add_done_callback(answering.finish)
        return True

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


class _Nobody:
    """Where uvicorn wakes whoever reads a request."""

    def set(self) -> None: ...


class _Answering:
    """
    A request on the short way. For the protocol it is what uvicorn's cycle is: ``response_complete`` holds further
    requests of the connection back, and ``keep_alive`` and ``disconnected`` are set from outside.
    """

    __slots__ = ("_endpoint", "_protocol", "_receipt", "_started", "disconnected", "keep_alive", "response_complete")

    message_event = _Nobody()

    def __init__(
        self,
        protocol: GuardedProtocol,
        endpoint: CallbackEndpoint,
        receipt: Receipt,
        started: float,
        *,
        keep_alive: bool,
    ) -> None:
        self._protocol = protocol
        self._endpoint = endpoint
        self._receipt = receipt
        self._started = started
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def finish(self, verdict: "asyncio.Future[Verdict]") -> None:
        """The receipt is durable, or it is not: answer, then write down what was answered."""
        endpoint = self._endpoint
        error = InboxUnavailable("stopping") if verdict.cancelled() else verdict.exception()
        if error is None:
            self._write(endpoint.success)
            endpoint.report(self._receipt, verdict.result(), time.perf_counter() - self._started)
        else:
            self._write(endpoint.refuse(error))

    def _write(self, response: Response) -> None:
        protocol = self._protocol
        self.response_complete = True
        # uvicorn's own answers look into the headers for this, too.
        closes = CLOSE_HEADER in protocol.server_state.default_headers
        if not self.disconnected and not protocol.transport.is_closing():
            protocol.transport.write(self._render(response))
            if closes or not self.keep_alive:
                protocol.transport.close()
        protocol.on_response_complete()

    def _render(self, response: Response) -> bytes:
        lines = [STATUS_LINE[response.status_code]]
        for name, value in (*self._protocol.server_state.default_headers, *response.raw_headers):
            lines += (name, b": ", value, b"\r\n")
        closes = not self.keep_alive and CLOSE_HEADER not in self._protocol.server_state.default_headers
        lines.append(b"connection: close\r\n\r\n" if closes else b"\r\n")
        lines.append(bytes(response.body))
        return b"".join(lines)
