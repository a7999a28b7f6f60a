"""
uvicorn's h11 protocol with bounds that it lacks, for applications behind ASGI.

h11 has one request in hand at a time and bounds heads. What is added is composed around it and looks at what goes in
and out: deadlines for requests that do not come and answers that are not read, room for new connections, and the answer
for a client that has closed its half.
"""

import asyncio
from typing import Any, cast

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.edge.answers import Refusals
from service.edge.connections import NEVER, Connections

WRITE_TIMEOUT_S = 10.0
# Of an answer that is being read, within that time.
_WRITE_PROGRESS_BYTES = 64 * 1024


def make_guarded_protocol(
    connections: Connections, refusals: Refusals, *, request_timeout_s: float
) -> type["GuardedProtocol"]:
    """The class to give to uvicorn, for one listener."""
    members = {"connections": connections, "refusals": refusals, "request_timeout_s": request_timeout_s}
    return type("Guarded", (GuardedProtocol,), members)


class GuardedProtocol(asyncio.Protocol):
    """
    One connection.

    Attributes:
        deadline, silent_since: See ``connections.Connection``.
    """

    connections: Connections
    refusals: Refusals
    request_timeout_s: float
    write_timeout_s = WRITE_TIMEOUT_S

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **_: Any) -> None:
        self._http = H11Protocol(config, server_state, app_state)
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", None)
        self._is_reading = True
        self._unread_bytes = 0
        self.deadline = self.silent_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # So that whatever is not read has a deadline.
        self._transport.set_write_buffer_limits(high=0)
        self.silent_since = self._loop.time()
        self.deadline = self.silent_since + self.request_timeout_s
        self._http.connection_made(self._transport)
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.remove(self)
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.silent_since = self._loop.time()
        self._http.data_received(data)
        state = self._http.conn.their_state
        if state is h11.ERROR:
            self.refusals.connection_closed("admin", "malformed_request")
        was_reading, self._is_reading = self._is_reading, state in (h11.IDLE, h11.SEND_BODY)
        if not self._unread_bytes and self._is_reading != was_reading:
            self._wait()

    def eof_received(self) -> bool:
        if not self.is_working:
            return False
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
