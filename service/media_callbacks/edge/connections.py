"""
The connections of a listener: whoever keeps one waiting is given up in time, and when there are too many, those that
were silent longest make room. A new one always gets in, so that nobody can keep callbacks or the orchestrator's probes
out by holding connections.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

NEVER = float("inf")
# Of a turn, after which no further piece of work begins.
_SLICE_S = 0.002


class Connection(Protocol):
    """
    Attributes:
        deadline: When ``expire`` is due, in the loop's time.
        silent_since: When the client was last heard of, in the loop's time.
        is_working: The service owes it an answer, and nobody but the service is waited for.
    """

    deadline: float
    silent_since: float

    @property
    def is_working(self) -> bool: ...

    def expire(self) -> None:
        """What it waits for has not come in time."""
        ...

    def evict(self) -> None:
        """Make room for others."""
        ...


class Connections:
    """
    Args:
        limit: How many may stay. For a moment there may be more: a client that has just come is given the time to send
            its request.
        tick_s: How often deadlines are looked at; one timer for all costs less than one for each.
    """

    # For a moment, as many again.
    BURST = 2
    # Longer than a request is on its way after its connection.
    _GRACE_S = 0.25

    def __init__(self, *, limit: int, tick_s: float) -> None:
        self._limit = limit
        self._tick_s = tick_s
        self._members: set[Connection] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._making_room: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._members)

    def add(self, connection: Connection) -> None:
        self._members.add(connection)
        loop = asyncio.get_running_loop()
        if self._ticking is None:
            self._ticking = loop.call_later(self._tick_s, self._tick)
        if len(self._members) > self._limit:
            if len(self._members) > self._limit * self.BURST:
                self._make_room()
            elif self._making_room is None:
                self._making_room = loop.call_later(self._GRACE_S, self._make_room)

    def remove(self, connection: Connection) -> None:
        self._members.discard(connection)

    def _make_room(self) -> None:
        if self._making_room is not None:
            self._making_room.cancel()
            self._making_room = None
        excess = len(self._members) - self._limit
        if excess > 0:
            silent = [connection for connection in self._members if not connection.is_working]
            for connection in heapq.nsmallest(excess, silent, key=lambda connection: connection.silent_since):
                self._members.discard(connection)
                connection.evict()

    def _tick(self) -> None:
        self._ticking = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [connection for connection in self._members if connection.deadline <= now]:
            connection.expire()
        if self._members:
            self._ticking = loop.call_later(self._tick_s, self._tick)


class Turns:
    """
    Work that clients have laid up, of all connections of a listener: a little at a time, so that whoever waits for each
    answer is served before whoever does not.

    After each turn the event loop has twice as long, and a rest, for everything else: for what the turn has begun, for
    other clients, and for other threads. A loop that never waits gives the interpreter up only every 5 ms, and the
    thread that commits needs it dozens of times for a batch: callbacks waited for seconds.

    Args:
        each: How many pieces of work in a turn.
        rest_s: The rest.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self,
        *,
        each: int,
        rest_s: float = 0.001,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._each = each
        self._monotonic = monotonic
        self._rest_s = rest_s
        self._waiting: deque[Callable[[], None]] = deque()
        self._has_timer = False

    def add(self, piece: Callable[[], None]) -> None:
        self._waiting.append(piece)
        if not self._has_timer:
            self._has_timer = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._has_timer = bool(self._waiting)
        if not self._has_timer:
            return
        begun_at = self._monotonic()
        try:
            for _ in range(min(self._each, len(self._waiting))):
                self._waiting.popleft()()
                if self._monotonic() - begun_at >= _SLICE_S:
                    break
        finally:
            # Also after a defect, which is that of one piece: without another turn the listener would be dead.
            asyncio.get_running_loop().call_later(2 * (self._monotonic() - begun_at) + self._rest_s, self._run)
