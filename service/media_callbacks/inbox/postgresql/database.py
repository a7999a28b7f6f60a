"""PostgreSQL under the queries that both databases share."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from media_callbacks.inbox.database import STORED, Candidate, Database, Fate, Horizon, Name, Row, StoredEvent, Value
from media_callbacks.inbox.postgresql.functions import (
    LOCKS,
    accepted_events,
    event_arrays,
    known_bodies,
    lock_of,
    to_text,
)
from media_callbacks.inbox.records import AttemptResult
from media_callbacks.inbox.rows import NAME_SPAN_BITS, START_CHARACTERS, delivery_of, spans_down_to, to_milliseconds
from media_callbacks.model.events import Delivery

# No event is much larger, and so few of them need not be measured before they are claimed.
_LARGE_EVENT_BYTES = 4 * 2**20


class PostgresqlDatabase(Database):
    """
    Texts are made such that PostgreSQL can keep them; see ``to_text``.

    Args:
        clock: The time in seconds since 1970, in place of the server's.
    """

    xid = "e.xid"

    def __init__(self, connection: Any, clock: Callable[[], float] | None = None) -> None:
        self.connection = connection
        self._clock = clock

    @property
    def told_now(self) -> int | None:
        """The time to tell the database's functions; None for the server's."""
        return None if self._clock is None else int(self._clock() * 1000 + 0.0005)

    async def now(self) -> int:
        told = self.told_now
        return cast(int, await self.fetch_value("SELECT store_now_1()")) if told is None else told

    async def fetch(self, sql: str, *parameters: Value) -> Sequence[Row]:
        return cast(Sequence[Row], await self.connection.fetch(sql, *map(_storable, parameters)))

    async def fetch_for(self, sql: str, values: Sequence[Value], *parameters: Value) -> Sequence[Row]:
        if not values:
            return []
        asked = sql.format(values="{values}").replace("IN ({values})", f"= ANY (${len(parameters) + 1})")
        array = [*map(_storable, values)]
        return cast(Sequence[Row], await self.connection.fetch(asked, *map(_storable, parameters), array))

    async def execute(self, sql: str, *parameters: Value) -> int:
        status: str = await self.connection.execute(sql, *map(_storable, parameters))
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        if rows:
            await self.connection.executemany(sql, [[*map(_storable, row)] for row in rows])

    async def find_events_by_prefix(self, prefixes: Collection[bytes]) -> list[StoredEvent]:
        rows = await self.connection.fetch(
            f"SELECT {STORED} FROM unnest($1::bytea[], $2::bytea[]) AS p (first, last)"
            " JOIN events e ON e.key_digest >= p.first AND e.key_digest <= p.last",
            [prefix + b"\x00" * 8 for prefix in prefixes],
            [prefix + b"\xff" * 8 for prefix in prefixes],
        )
        return [StoredEvent(*row) for row in rows]

    def using(self, index: str) -> str:
        return ""

    def by_key(self, condition: str) -> str:
        return condition

    def ids_named(self, name: Name, condition: str) -> str:
        if name == "media_id":
            first = f"(SELECT coalesce(min(id), 0) FROM events) >> {NAME_SPAN_BITS}"
            found = "e.id FROM spans CROSS JOIN events e WHERE e.media_id IS NOT NULL"
            found += f" AND (e.id >> {NAME_SPAN_BITS}) = spans.n"
            begins = f"substr(e.media_id, 1, {START_CHARACTERS})"
        else:
            first = "(SELECT min(span) FROM event_user_data)"
            found = "e.event_id AS id FROM spans CROSS JOIN event_user_data e WHERE e.span = spans.n"
            begins = "e.user_data"
        return f"{spans_down_to(first)} SELECT {found} AND {condition.format(begins)}"

    def for_update(self, alias: str, *, skip_locked: bool = False) -> str:
        return f" FOR UPDATE OF {alias}{' SKIP LOCKED' if skip_locked else ''}"

    async def lock(self, *, assets: Collection[bytes] = (), keys: Collection[bytes] = ()) -> None:
        for numbers in ({LOCKS + lock_of(asset) for asset in assets}, {lock_of(key) for key in keys}):
            if numbers:
                await self.connection.execute("SELECT lock_keys_1($1)", sorted(numbers))

    async def accept_events(self, candidates: Sequence[Candidate]) -> list[Fate]:
        row = await self.connection.fetchrow(
            "SELECT * FROM accept_events_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            self.told_now,
            [],
            [receipt_id for receipt_id, _ in candidates],
            *event_arrays(candidates),
        )
        fates = [Fate(bound=bound) for bound in row["bound"] or [None] * len(candidates)]
        for n, event in accepted_events(candidates, row):
            fates[n] = Fate(event)
        for n, body in known_bodies(row):
            fates[n] = Fate(known=body)
        return fates

    async def claim_deliveries(
        self, sink: str, *, limit: int, max_bytes: int, lease_ms: int, lease: str
    ) -> list[Delivery]:
        if limit > max_bytes // _LARGE_EVENT_BYTES:
            # Not the bodies themselves: the server knows how long they are.
            fitting = await self.connection.fetchval(
                "SELECT count(*) FROM (SELECT sum(octet_length(b.body)) OVER (ORDER BY d.due_at, d.event_id, d.replay)"
                " AS size FROM (SELECT due_at, event_id, replay FROM deliveries WHERE sink = $1 AND due_at <= $2"
                " ORDER BY due_at, event_id LIMIT $3) d JOIN event_bodies b ON b.event_id = d.event_id) AS sized"
                " WHERE size <= $4",
                sink,
                await self.now(),
                limit,
                max_bytes,
            )
            limit = max(fitting, 1)
        rows = await self.connection.fetch(
            "SELECT * FROM claim_deliveries_3($1, $2, $3, $4, $5)", sink, self.told_now, lease_ms, lease, limit
        )
        return [delivery_of(row, sink, lease) for row in rows]

    async def record_attempts(self, results: Sequence[AttemptResult]) -> tuple[list[bool], set[str]]:
        deliveries = [result.delivery for result in results]
        row = await self.connection.fetchrow(
            "SELECT * FROM record_attempts_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            self.told_now,
            [delivery.row_id for delivery in deliveries],
            [delivery.sink for delivery in deliveries],
            [delivery.replay for delivery in deliveries],
            [delivery.lease for delivery in deliveries],
            [result.state for result in results],
            [round(result.delay_s * 1000) for result in results],
            [to_text(result.error) for result in results],
            [None if result.started_at is None else to_milliseconds(result.started_at) for result in results],
            [round(result.duration_s * 1000) for result in results],
            [delivery.attempt for delivery in deliveries],
        )
        kept = set(row["kept"] or ())
        return [n in kept for n in range(1, len(results) + 1)], set(row["released"] or ())

    async def feed_horizon(self) -> Horizon:
        sql = (
            "SELECT by_id_until, server IS NOT DISTINCT FROM system_identifier,"
            " pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM feed, pg_control_system()"
        )
        by_id_until, is_here, xid = await self.connection.fetchrow(sql)
        if not is_here:
            await self._begin_feed()
            by_id_until, _, xid = await self.connection.fetchrow(sql)
        return Horizon(by_id_until, xid)

    async def _begin_feed(self) -> None:
        """
        The tables were elsewhere, where transactions were counted otherwise, or nobody has looked yet. What was
        accepted until now comes in the order of ids. Whoever has drawn one has locked the table before.
        """
        async with self.connection.transaction():
            await self.connection.execute("LOCK TABLE events IN SHARE MODE")
            await self.connection.execute(
                "UPDATE feed SET by_id_until = (SELECT coalesce(max(id), 0) FROM events), server = system_identifier"
                " FROM pg_control_system() WHERE server IS DISTINCT FROM system_identifier"
            )

    async def is_held_up(self, horizon: Horizon) -> bool:
        return bool(await self.fetch_value("SELECT EXISTS (SELECT FROM events e WHERE e.xid >= $1)", horizon.xid))


def _storable(value: Value) -> Value:
    return to_text(value) if isinstance(value, str) else value
