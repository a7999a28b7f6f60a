"""
The load generator: keep-alive connections on raw protocols, no HTTP library, so that one core of it is faster than
any of the servers measured.

    closed_loop    every connection sends its next request as soon as the last is answered: finds the saturation rate
    open_loop      requests fall due at a fixed rate, whether or not the server keeps up: finds the latency

Every answer must be a complete 200; anything else makes the run invalid.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

CONNECTIONS = 64
# No answer takes that long unless it never comes.
PATIENCE_S = 15.0
_PACE_S = 0.001


class InvalidRun(Exception):
    """What was measured means nothing: an answer was wrong or missing, or work was lost."""


@dataclass(frozen=True, slots=True)
class Load:
    """
    One measurement.

    Attributes:
        answers: Within the window that was measured.
        acknowledged: All of them, those before and after the window included.
        generator_cpu: Share of its core that the generator used during the window. Near 1, it is the generator that
            was measured.
        latencies_s: In ascending order. In an open loop they begin when the request fell due, not when it was sent.
    """

    answers: int
    acknowledged: int
    window_s: float
    generator_cpu: float
    latencies_s: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.window_s

    def quantile_s(self, q: float) -> float:
        return self.latencies_s[min(int(len(self.latencies_s) * q), len(self.latencies_s) - 1)]


class _Connection(asyncio.Protocol):
    def __init__(self, answered: "Callable[[_Connection], None]", failed: Callable[[str], None]) -> None:
        self._answered = answered
        self._failed = failed
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.is_waiting = False
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_waiting:
            self._failed("a connection was closed before its request was answered")

    def send(self, request: bytes, since: float) -> None:
        assert self._transport is not None
        self.since = since
        self.is_waiting = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._received = data
            return
        head = data[: end + 2].lower()
        if not head.startswith(b"http/1.1 200 "):
            status_line = data.partition(b"\r\n")[0].decode("latin-1")
            self._failed(f"expected an answer of 200, came {status_line}")
            return
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            self._failed("expected an answer with a content-length, came one without")
            return
        missing = end + 4 + int(head[at + 17 : head.find(b"\r\n", at + 17)]) - len(data)
        if missing > 0:
            self._received = data
            return
        if missing < 0 or not self.is_waiting:
            self._failed("more was answered than asked for")
            return
        self._received = b""
        self.is_waiting = False
        self._answered(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Generator:
    """What both loops share: connections, the window, and the end."""

    def __init__(self, next_request: Callable[[], bytes], *, mark: Callable[[], None]) -> None:
        self._next_request = next_request
        self._mark = mark
        self._connections: list[_Connection] = []
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._latencies_s: list[float] = []
        self._sent = 0
        self._acknowledged = 0
        self._is_over = False

    async def run(self, address: tuple[str, int], *, warm_up_s: float, window_s: float) -> Load:
        loop = asyncio.get_running_loop()
        try:
            for _ in range(CONNECTIONS):
                try:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self._answered, self._fail), *address
                    )
                except OSError as error:
                    raise InvalidRun(f"cannot connect to {address[0]}:{address[1]}: {error}") from error
                self._connections.append(connection)
            self._begin()
            await self._for(warm_up_s)
            self._mark()
            answered, cpu, start = len(self._latencies_s), time.process_time(), time.perf_counter()
            await self._for(window_s)
            cpu, measured_s = time.process_time() - cpu, time.perf_counter() - start
            latencies_s = self._latencies_s[answered:]
            self._mark()
            self._is_over = True
            await self._drain()
        finally:
            for connection in self._connections:
                connection.close()
        if not latencies_s:
            raise InvalidRun(f"nothing was answered within {window_s} s")
        return Load(len(latencies_s), self._acknowledged, measured_s, cpu / measured_s, tuple(sorted(latencies_s)))

    async def _for(self, seconds: float) -> None:
        await asyncio.wait([self._failure], timeout=seconds)
        if self._failure.done():
            self._failure.result()

    async def _drain(self) -> None:
        """Wait until everything sent is answered, so that the next measurement begins in silence."""
        deadline = time.perf_counter() + PATIENCE_S
        while self._acknowledged < self._sent:
            if time.perf_counter() > deadline:
                raise InvalidRun(f"{self._sent - self._acknowledged} requests got no answer within {PATIENCE_S} s")
            await self._for(0.01)

    def _begin(self) -> None:
        raise NotImplementedError

    def _answered(self, connection: _Connection) -> None:
        raise NotImplementedError

    def _send(self, connection: _Connection, since: float) -> None:
        self._sent += 1
        connection.send(self._next_request(), since)

    def _fail(self, reason: str) -> None:
        if not self._failure.done():
            self._failure.set_exception(InvalidRun(reason))


class _ClosedLoop(_Generator):
    def _begin(self) -> None:
        for connection in self._connections:
            self._send(connection, time.perf_counter())

    def _answered(self, connection: _Connection) -> None:
        now = time.perf_counter()
        self._acknowledged += 1
        self._latencies_s.append(now - connection.since)
        if not self._is_over:
            self._sent += 1
            connection.send(self._next_request(), now)


class _OpenLoop(_Generator):
    def __init__(self, next_request: Callable[[], bytes], *, mark: Callable[[], None], rate: float) -> None:
        super().__init__(next_request, mark=mark)
        self._interval_s = 1 / rate
        self._idle: list[_Connection] = []
        # When the requests fell due for which no connection was free.
        self._late: deque[float] = deque()
        self._due_at = 0.0

    def _begin(self) -> None:
        self._idle = list(self._connections)
        self._due_at = time.perf_counter()
        self._pace()

    def _pace(self) -> None:
        if self._is_over:
            return
        now = time.perf_counter()
        while self._due_at <= now:
            if self._idle:
                self._send(self._idle.pop(), self._due_at)
            else:
                self._late.append(self._due_at)
            self._due_at += self._interval_s
        asyncio.get_running_loop().call_later(_PACE_S, self._pace)

    def _answered(self, connection: _Connection) -> None:
        self._acknowledged += 1
        self._latencies_s.append(time.perf_counter() - connection.since)
        if self._late and not self._is_over:
            self._send(connection, self._late.popleft())
        else:
            self._idle.append(connection)


def _nothing() -> None:
    pass


async def closed_loop(
    address: tuple[str, int],
    next_request: Callable[[], bytes],
    *,
    warm_up_s: float,
    window_s: float,
    mark: Callable[[], None] = _nothing,
) -> Load:
    """
    Args:
        mark: Called when the window begins and when it ends.

    Raises:
        InvalidRun: An answer was wrong or missing.
    """
    return await _ClosedLoop(next_request, mark=mark).run(address, warm_up_s=warm_up_s, window_s=window_s)


async def open_loop(
    address: tuple[str, int], next_request: Callable[[], bytes], *, rate: float, warm_up_s: float, window_s: float
) -> Load:
    """
    Args:
        rate: Requests per second.

    Raises:
        InvalidRun: An answer was wrong or missing.
    """
    return await _OpenLoop(next_request, mark=_nothing, rate=rate).run(address, warm_up_s=warm_up_s, window_s=window_s)
