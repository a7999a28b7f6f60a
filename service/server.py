"""
Running the service under uvicorn: a public and an admin listener in one process, with bounds that uvicorn's
protocol does not have, and a clean stop on SIGTERM and SIGINT.
"""

import asyncio
import gc
import signal
import socket
from asyncio import TimerHandle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import Service, create_admin_app, create_app
from service.endpoints import MAX_HEADER_BYTES
from service.errors import ConfigError
from service.settings import Settings

# Connections at once; beyond, uvicorn answers 503. Each holds at most one read of the server (64 KiB) plus its share
# of BodyReader's budget.
MAX_CONNECTIONS = 1000
KEEP_ALIVE_S = 60
# For the headers, on top of what the body may take.
HEAD_TIMEOUT_S = 10.0

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

log = structlog.get_logger()


class GuardedProtocol(HttpToolsProtocol):
    """
    uvicorn's protocol with two bounds more: whatever is no body (the request line and headers, what stands around
    chunks, trailers) must be complete within ``MAX_HEADER_BYTES`` (a header that never ends would fill memory), and the
    whole request within ``request_timeout_s`` (a client that sends a byte a minute would hold its place for ever). A
    request that arrives in one piece pays for neither.

    And two differences: trailers are dropped, because uvicorn would add them to the headers, where nobody signs them;
    a client that closes its half of the connection after a whole request still gets the answer.
    """

    request_timeout_s = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: TimerHandle | None = None
        self._in_request = True
        # Since the parser last found a head, a piece of a body, or the end of a request.
        self._pending_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._pending_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._pending_bytes > MAX_HEADER_BYTES:
            log.warning("connection_refused", reason="headers_too_large")
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._deadline is None and (self._in_request or self._is_idle()):
            # An idle connection may get here by blank lines, for which uvicorn stops its own timer.
            self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        if self._in_request or self._is_idle():
            return False
        # uvicorn would drop the answer, and with it the request if its endpoint has not begun to read.
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        self._in_request = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._pending_bytes = 0
        super().on_headers_complete()
        # Trailers come as headers, too. The request has its list; theirs is looked at by nobody.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_request = False
        self._pending_bytes = 0
        super().on_message_complete()
        self._unwatch()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

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


class _Server(uvicorn.Server):
    """Signals are handled once for both listeners, by ``serve``."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio looks for it before it turns Nagle's algorithm off, which costs 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError([f"{setting}: cannot listen on {host} port {port}: {error.strerror}"]) from error
    return listener


async def serve(
    settings: Settings, *, stop: asyncio.Event | None = None, listening: Callable[[str, str], None] | None = None
) -> None:
    """
    Run until SIGTERM, SIGINT or ``stop``, then stop cleanly.

    Args:
        listening: Told the addresses (``host:port``) of the public and the admin listener once they answer.

    Raises:
        ConfigError: A listener or the store can't be used as configured.
    """
    stop = stop or asyncio.Event()
    app = create_app(settings)
    service: Service = app.state.service
    public = _bind(settings.server.host, settings.server.port, "server.port")
    try:
        admin = _bind(settings.admin.host, settings.admin.port, "admin.port")
    except ConfigError:
        public.close()
        raise
    protocol = type(
        "Protocol", (GuardedProtocol,), {"request_timeout_s": settings.server.body_timeout_s + HEAD_TIMEOUT_S}
    )
    servers = [
        _Server(_config(app, protocol, settings, limit_concurrency=MAX_CONNECTIONS)),
        _Server(_config(create_admin_app(service), protocol, settings, limit_concurrency=100)),
    ]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await service.start()
        # What is loaded by now stays. Looking through it again and again, and through young objects after every few
        # hundred, was a tenth of the time that a callback took.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        tasks = [
            asyncio.create_task(server.serve(sockets=[listener]))
            for server, listener in zip(servers, (public, admin), strict=True)
        ]
        while not all(server.started or task.done() for server, task in zip(servers, tasks, strict=True)):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0)
        log.info("listening", server=_address(public), admin=_address(admin), sources=[s.name for s in service.sources])
        if listening is not None:
            listening(_address(public), _address(admin))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        log.info("stopping")
        service.readiness.is_draining = True
        for server in servers:
            server.should_exit = True
        # At once, so that requests and attempts have the same time to finish.
        await asyncio.gather(*tasks, service.dispatcher.stop())
    finally:
        await service.stop()
        for listener in (public, admin):
            listener.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    log.info("stopped")


def _config(app: Any, protocol: type, settings: Settings, *, limit_concurrency: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Source addresses are no evidence here, so no proxy needs to be trusted with them.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.server.stop_timeout_s),
        limit_concurrency=limit_concurrency,
        backlog=2048,
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
