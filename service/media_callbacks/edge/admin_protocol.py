"""
The operators' listener: uvicorn's h11 protocol with bounds that it lacks, for an application behind ASGI.

h11 has one request in hand at a time and bounds heads. What is added is composed around it and looks at what goes in
and out: deadlines for requests that do not come and answers that are not read, room for new connections, and the answer
for a client that has closed its half. And because h11 is slow with what comes in small pieces, it gets little at a
time, in turns with the rest of the service.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from media_callbacks.edge.answers import Refusals
from media_callbacks.edge.connections import NEVER, Connections, Turns

WRITE_TIMEOUT_S = 10.0
READ_BYTES = 16 * 1024
_PIECE_BYTES = 1024
# Of an answer that is being read, within that time.
_WRITE_PROGRESS_BYTES = 64 * 1024


def in_turns(app: ASGIApp, turns: Turns) -> ASGIApp:
    """An application that begins with a few requests at a time, because beginning is most of their work."""

    async def wait_and_answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_closing: Callable[[], bool] = scope["state"]["is_closing"]

        async def send_while_open(message: Message) -> None:
            if not is_closing():
                await send(message)

        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns.add(lambda: None if begun.done() else begun.set_result(None))
        await begun
        if not is_closing():
            await app(scope, receive, send_while_open)
        # uvicorn has answered what was no HTTP in the request's place, and would complain of an application that has
        # answered as well, or that has not.
        while is_closing() and (await receive())["type"] != "http.disconnect":
            pass

    return wait_and_answer


def make_admin_protocol(
    connections: Connections, refusals: Refusals, turns: Turns, *, request_timeout_s: float
) -> type[asyncio.Protocol]:
    """The class to give to uvicorn, for one listener."""
    members = {
        "connections": connections,
        "refusals": refusals,
        "request_timeout_s": request_timeout_s,
        "turns": turns,
        "received": memoryview(bytearray(READ_BYTES)),
    }
    # uvicorn gives it to create_server, which takes protocols with and without a buffer of their own.
    return cast("type[asyncio.Protocol]", type("Guarded", (AdminProtocol,), members))


class AdminProtocol(asyncio.BufferedProtocol):
    """
    One connection.

    Attributes:
        deadline, silent_since: See ``connections.Connection``.
    """

    connections: Connections
    refusals: Refusals
    request_timeout_s: float
    turns: Turns
    # Of all connections, one after the other.
    received: memoryview
    write_timeout_s = WRITE_TIMEOUT_S

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **_: Any) -> None:
        # Of the client: it sends nothing more, and mostly it has left.
        self._half_closed = asyncio.Event()
        further = {"is_closing": self._is_closing, "half_closed": self._half_closed}
        self._http = H11Protocol(config, server_state, {**app_state, **further})
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", None)
        self._is_reading = True
        self._is_paused = self._has_turn = False
        self._pieces: deque[bytes] = deque()
        self._unread_bytes = 0
        self.deadline = self.silent_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # So that whatever is not read has a deadline.
        self._transport.set_write_buffer_limits(high=0)
        self.silent_since = self._loop.time()
        self.deadline = self.silent_since + self.request_timeout_s
        self._http.connection_made(cast("asyncio.Transport", _PausedTransport(self._transport, self.pause_reading)))
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.remove(self)
        self._pieces.clear()
        self._http.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.received

    def buffer_updated(self, nbytes: int) -> None:
        self.silent_since = self._loop.time()
        data = self.received[:nbytes].tobytes()
        self._pieces += [data[start : start + _PIECE_BYTES] for start in range(0, nbytes, _PIECE_BYTES)]
        self._transport.pause_reading()
        self._read_on()

    def _is_closing(self) -> bool:
        return self._transport.is_closing()

    def _take(self) -> None:
        """The next piece."""
        self._has_turn = False
        if self._is_paused or self._transport.is_closing() or not self._pieces:
            return
        try:
            self._http.data_received(self._pieces.popleft())
        except h11.LocalProtocolError:
            # uvicorn answers what is no HTTP, and can't where it has answered the request before its end.
            self._transport.close()
        if self._transport.is_closing():
            if self._http.conn.their_state is h11.ERROR:
                self.refusals.connection_closed("admin", "malformed_request")
            return
        was_reading, self._is_reading = self._is_reading, self._http.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not self._unread_bytes and self._is_reading != was_reading:
            self._wait()
        self._read_on()

    def pause_reading(self, is_paused: bool) -> None:
        """uvicorn wants nothing more, or more again."""
        self._is_paused = is_paused
        self._read_on()

    def _read_on(self) -> None:
        if self._is_paused or self._transport.is_closing():
            return
        if not self._pieces:
            self._transport.resume_reading()
        elif not self._has_turn:
            self._has_turn = True
            self.turns.add(self._take)

    def eof_received(self) -> bool:
        if not self.is_working:
            return False
        # It has asked, and may wait for the answer.
        self._half_closed.set()
        self._http.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        self._unread_bytes = self._transport.get_write_buffer_size()
        self.deadline = self._loop.time() + self.write_timeout_s
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._unread_bytes = 0
        self._wait()
        self._http.resume_writing()

    def _wait(self) -> None:
        self.deadline = self._loop.time() + self.request_timeout_s if self._is_reading else NEVER

    @property
    def is_working(self) -> bool:
        return not self._is_reading and self._http.cycle is not None and not self._http.cycle.response_complete

    def expire(self) -> None:
        unread_bytes = self._transport.get_write_buffer_size()
        if 0 < unread_bytes <= self._unread_bytes - _WRITE_PROGRESS_BYTES:
            self._unread_bytes = unread_bytes
            self.deadline = self._loop.time() + self.write_timeout_s
            return
        self._give_up("slow_reader" if unread_bytes else "slow_request")

    def evict(self) -> None:
        self._give_up("too_many_connections")

    def _give_up(self, reason: str) -> None:
        if not self._transport.is_closing() or reason == "slow_reader":
            self.refusals.connection_closed("admin", reason)
        self._transport.abort()


class _PausedTransport:
    """A transport as uvicorn sees it. Whether it wants to read goes to ``pause_reading`` instead."""

    def __init__(self, transport: asyncio.Transport, pause_reading: Callable[[bool], None]) -> None:
        self._transport = transport
        self._pause_reading = pause_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def pause_reading(self) -> None:
        self._pause_reading(True)

    def resume_reading(self) -> None:
        self._pause_reading(False)
