"""SQLite under the queries that both databases share."""

import re
import sqlite3
from collections.abc import Awaitable, Collection, Coroutine, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

from media_callbacks.inbox.database import STORED, Candidate, Database, Fate, Horizon, Name, Row, StoredEvent, Value
from media_callbacks.inbox.keeping.clock import AnchoredClock
from media_callbacks.inbox.records import AttemptResult
from media_callbacks.inbox.rows import to_id, whole_characters
from media_callbacks.inbox.sqlite.deliveries import claim_deliveries, record_attempts
from media_callbacks.inbox.sqlite.events import accept_events
from media_callbacks.inbox.sqlite.keys import Keys
from media_callbacks.inbox.sqlite.names import ids_named
from media_callbacks.inbox.sqlite.statements import VALUES_PER_STATEMENT
from media_callbacks.model.events import Delivery

_T = TypeVar("_T")


class SqliteDatabase(Database):
    """
    Nothing here ever waits: what is written over it runs to its end at once (see ``run_now``).

    Args:
        keys: Where the connection finds events by their keys.
        is_tool: A service with a clock of its own may be running.
    """

    xid = "0"

    def __init__(
        self,
        connection: sqlite3.Connection,
        store_clock: AnchoredClock,
        keys: Keys | None = None,
        *,
        is_tool: bool = False,
    ) -> None:
        self.connection = connection
        self.keys = keys or Keys()
        self._clock = store_clock
        self._is_tool = is_tool

    async def fetch(self, sql: str, *parameters: Value) -> Sequence[Row]:
        return self.connection.execute(_numbered(sql), _storable(parameters)).fetchall()

    async def fetch_for(self, sql: str, values: Sequence[Value], *parameters: Value) -> Sequence[Row]:
        rows: list[Row] = []
        for start in range(0, len(values), VALUES_PER_STATEMENT):
            chunk = values[start : start + VALUES_PER_STATEMENT]
            # Always as many, so that there are few different statements to be kept ready.
            size = 1 if len(chunk) == 1 else VALUES_PER_STATEMENT
            padded = [*chunk, *[chunk[-1]] * (size - len(chunk))]
            marks = ",".join([f"${len(parameters) + n}" for n in range(1, size + 1)])
            rows += await self.fetch(sql.format(values=marks), *parameters, *padded)
        return rows

    async def execute(self, sql: str, *parameters: Value) -> int:
        return max(0, self.connection.execute(_numbered(sql), _storable(parameters)).rowcount)

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        self.connection.executemany(_numbered(sql), map(_storable, rows))

    async def now(self) -> int:
        return self._clock.now()

    async def claimed_now(self) -> int:
        # A tool's clock may have been held back: see AnchoredClock.begin.
        return self._clock.wall_now() if self._is_tool else self._clock.now()

    async def find_events_by_prefix(self, prefixes: Collection[bytes]) -> list[StoredEvent]:
        # One statement for all: what has not got into the table of keys is gone through by each.
        rows = self.connection.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?3),"
            " prefixes (first, last) AS"
            " (SELECT substr(?1, 16 * n + 1, 16), substr(?2, 16 * n + 1, 16) FROM numbers WHERE ?3 > 0)"
            f" SELECT {STORED} FROM prefixes p CROSS JOIN event_keys k CROSS JOIN events e"
            " WHERE k.key_digest BETWEEN p.first AND p.last AND e.id = k.event_id"
            f" UNION SELECT {STORED} FROM events e WHERE e.id > (SELECT last_event_id FROM keys_moved)"
            " AND substr(e.key_digest, 1, 8) IN (SELECT substr(first, 1, 8) FROM prefixes)",
            (
                b"".join([prefix + b"\x00" * 8 for prefix in prefixes]),
                b"".join([prefix + b"\xff" * 8 for prefix in prefixes]),
                len(prefixes),
            ),
        )
        return [StoredEvent(*row) for row in rows]

    def using(self, index: str) -> str:
        return f" INDEXED BY {index}"

    def by_key(self, condition: str) -> str:
        return self.keys.condition(condition)

    def ids_named(self, name: Name, condition: str) -> str:
        return ids_named(name, condition)

    def for_update(self, alias: str, *, skip_locked: bool = False) -> str:
        return ""

    async def lock(self, *, assets: Collection[bytes] = (), keys: Collection[bytes] = ()) -> None:
        """There is one writer."""

    async def accept_events(self, candidates: Sequence[Candidate]) -> list[Fate]:
        return accept_events(self.connection, self.keys, candidates, self._clock.now())

    async def claim_deliveries(
        self, sink: str, *, limit: int, max_bytes: int, lease_ms: int, lease: str
    ) -> list[Delivery]:
        now = self._clock.now()
        return claim_deliveries(
            self.connection, sink, limit=limit, max_bytes=max_bytes, now=now, until=now + lease_ms, lease=lease
        )

    async def record_attempts(self, results: Sequence[AttemptResult]) -> tuple[list[bool], set[str]]:
        return record_attempts(self.connection, self.keys, results, self._clock.now())

    async def feed_horizon(self) -> Horizon:
        # There is one writer.
        return Horizon(to_id(None), None)

    async def is_held_up(self, horizon: Horizon) -> bool:
        return False


@lru_cache(1024)
def _numbered(sql: str) -> str:
    """Parameters as SQLite writes them."""
    return re.sub(r"\$(\d+)", r"?\1", sql)


def _storable(parameters: Sequence[Value]) -> Sequence[Value]:
    return [whole_characters(value) if isinstance(value, str) else value for value in parameters]


def run_now(awaitable: Awaitable[_T]) -> _T:
    """
    The result of what never waits: what both databases share is written with ``await``, because PostgreSQL answers over
    a network; over SQLite, where every answer is there at once, it runs to its end in one step, on whatever thread has
    the connection. Half a microsecond each. What else there would be: see docs/decisions/two-databases.md.

    Raises:
        RuntimeError: It waits for something, which is a defect. It is ended there.
    """
    coroutine = cast(Coroutine[Any, Any, _T], awaitable)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(_T, stop.value)
    coroutine.close()
    raise RuntimeError("expected an operation on SQLite to end without waiting")
