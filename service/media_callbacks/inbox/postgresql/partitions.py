"""
Partitions, made ahead of the ids that are drawn, and dropped when all that is in them is old; why so is said in
docs/decisions/partitions.md.

``receipts`` has them by its ids; ``event_bodies`` and ``attempts`` have the same ones, by the ids of events. Two
functions of the database (``sql/004_operating``) make and drop them, and see for themselves that nobody needs what
goes. Here is decided when, and which rows of one stay.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.keeping import clock
from media_callbacks.inbox.keeping.purging import Spared
from media_callbacks.inbox.keeping.spans import SETTLED_MS, SPAN_BITS, STORED_AT, Rows
from media_callbacks.inbox.operating.filters import first_id_at
from media_callbacks.inbox.rows import NAME_SPAN_BITS

# Of what is kept: so many make up the retention.
_PARTS = 16
MIN_WIDTH = 65_536
_MAX_WIDTH = 1 << 40
# Of what is in no partition that was made. It is read as a whole before another one is attached, in half a tenth of a
# second, while nobody can use it.
MOST_UNPARTITIONED_BYTES = 1 << 26
# So many of the last one's width are ahead at least, and as many as come in a day, or in the retention if that is less:
# somebody may hold the tables for hours, such as a backup, and none can be made meanwhile. Where there are fewer, as
# many more are made.
_AHEAD = 2
_AHEAD_MS = 24 * 3_600_000
# As part of the retention: for how much longer rows may stay so that they go with their partition.
_SLACK = 10
# Rows of one that stay when the others go, and their bodies: they are copied while nobody can use the tables. The
# function takes no more rows.
_MAX_KEPT = 1000
_MAX_KEPT_BYTES = 2 << 20
# Deliveries that wait, of all; where there are more, nobody looks for each one's receipts.
_MAX_WAITING = 100_000
# Those of a span of user data. Their deliveries are removed in some ten milliseconds.
_SWEPT_BITS = 12
_WAITS = "state IN ('pending', 'retrying')"
# By what numbers their rows: a table that has one for each id, and its column.
_TABLES: Mapping[Rows, tuple[str, str]] = {"receipts": ("receipts", "id"), "events": ("event_bodies", "event_id")}


class Partition(NamedTuple):
    """
    One that is complete.

    Attributes:
        closed_at: Nothing in it is younger.
    """

    kind: Rows
    first_id: int
    end_id: int
    closed_at: int

    @property
    def ids(self) -> range:
        return range(self.first_id, self.end_id)


# Made ahead


async def find_wanting(database: Database, keep_ms: int) -> list[tuple[Rows, int]]:
    """What is to be made, by kind and width: each as wide as its share of the retention would have been until now."""
    found: list[tuple[Rows, int]] = []
    ahead = min(max(_AHEAD, math.ceil(_AHEAD_MS * _PARTS / max(keep_ms, 1))), _PARTS)
    for kind in _TABLES:
        row = await database.fetch_row(
            "SELECT end_id - coalesce(pg_sequence_last_value(CAST($1 AS regclass)), 0), end_id - first_id"
            " FROM partitions WHERE kind = $2 ORDER BY first_id DESC LIMIT 1",
            f"{kind}_id_seq",
            kind,
        )
        if row is None or row[0] < ahead * row[1]:
            found += [(kind, await _width(database, kind, keep_ms))] * ahead
    return found


async def _width(database: Database, kind: Rows, keep_ms: int) -> int:
    last_id = int(await database.fetch_value(f"SELECT coalesce(max(id), 0) FROM {kind}"))
    since = await first_id_at(database, await database.now() - keep_ms // _PARTS, rows=kind)
    spans = (last_id - since >> SPAN_BITS) + 1
    return min(max(spans << SPAN_BITS, MIN_WIDTH), _MAX_WIDTH)


async def make(database: Database, kind: Rows, width: int) -> bool:
    """False when the tables are in use, or somebody else is at it."""
    return bool(
        await database.fetch_value("SELECT make_partition_1($1, $2, $3)", kind, width, MOST_UNPARTITIONED_BYTES)
    )


async def find_crowded(database: Database) -> dict[str, int]:
    """Tables of which too much is in no partition that was made, so that none are made, with its size in bytes."""
    rows = await database.fetch(
        "SELECT relname, size FROM (SELECT c.relname, pg_relation_size(c.oid) AS size FROM pg_class c"
        " WHERE c.oid = ANY (ARRAY[to_regclass('receipts_default'), to_regclass('event_bodies_default'),"
        " to_regclass('attempts_default')])) AS sized WHERE size > $1 ORDER BY relname",
        MOST_UNPARTITIONED_BYTES,
    )
    return {name.removesuffix("_default"): size for name, size in rows}


async def make_up_to(database: Database, rows: str, last_id: int) -> None:
    """For all rows of a store that will come as they are, before any of them is there."""
    kind = next((kind for kind in _TABLES if kind == rows), None)
    if kind is None:
        return
    width = max((last_id // _PARTS >> SPAN_BITS) + 1 << SPAN_BITS, MIN_WIDTH)
    newest = "SELECT coalesce(max(end_id), 0) FROM partitions WHERE kind = $1"
    while await database.fetch_value(newest, kind) <= last_id and await make(database, kind, width):
        pass


async def find_complete(database: Database) -> list[tuple[Rows, int]]:
    """Those that nobody can add to any more, by kind and first id, as far as that is not noted."""
    settled_at = await database.now() - SETTLED_MS
    found: list[tuple[Rows, int]] = []
    for kind, first_id, end_id in await database.fetch(
        "SELECT kind, first_id, end_id FROM partitions WHERE closed_at IS NULL"
    ):
        # The first row beyond.
        began_at = await database.fetch_value(
            f"SELECT {STORED_AT[kind]} FROM {kind} WHERE id >= $1 ORDER BY id LIMIT 1", end_id
        )
        if began_at is not None and began_at < settled_at:
            found.append((kind, first_id))
    return found


async def close(database: Database, complete: Sequence[tuple[Rows, int]]) -> None:
    """Note that they are complete as of now, by the clock that rows are stamped by."""
    seen = await clock.read(database)
    now = max(await database.now(), seen.seen_at or 0)
    await database.execute_many(
        "UPDATE partitions SET closed_at = $1 WHERE kind = $2 AND first_id = $3 AND closed_at IS NULL",
        [(now, *one) for one in complete],
    )


# Dropped


@dataclass(frozen=True, slots=True)
class Old:
    """
    Partitions as a pass finds them.

    Attributes:
        payloads_before: What is older may go.
        droppable: Those in which all is, or nothing.
        spared: Those in which all will be soon.
    """

    payloads_before: int
    slack_ms: int
    droppable: Sequence[Partition]
    spared: Sequence[Partition]

    def is_overdue(self, partition: Partition) -> bool:
        """Whether it is not to be waited for any longer that it can be dropped."""
        return partition.closed_at < self.payloads_before - self.slack_ms


async def find_old(database: Database, keep_ms: int) -> Old:
    before, slack_ms = await database.now() - keep_ms, keep_ms // _SLACK
    droppable, spared = [], []
    if await clock.doubt(database) is None:
        for row in await database.fetch(
            "SELECT kind, first_id, end_id, closed_at FROM partitions"
            " WHERE closed_at IS NOT NULL AND swept_to IS NULL ORDER BY closed_at"
        ):
            one = Partition(*row)
            if one.closed_at < before or await _is_empty(database, one):
                droppable.append(one)
            elif one.closed_at < before + slack_ms:
                spared.append(one)
    return Old(before, slack_ms, droppable, spared)


async def _is_empty(database: Database, one: Partition) -> bool:
    table, column = _TABLES[one.kind]
    row = await database.fetch_row(
        f"SELECT 1 FROM {table} WHERE {column} >= $1 AND {column} < $2 LIMIT 1", one.first_id, one.end_id
    )
    return row is None


async def drop(database: Database, one: Partition, payloads_before: int) -> int | None:
    """
    Returns:
        About how many rows have gone; None where the tables are in use, and -1 where too many rows are.
    """
    find_kept = _find_kept_receipts if one.kind == "receipts" else _find_kept_events
    kept = await find_kept(database, one, payloads_before)
    if kept is None or len(kept) > _MAX_KEPT or await _count_bytes(database, one, kept) > _MAX_KEPT_BYTES:
        return -1
    gone: int | None = await database.fetch_value(
        "SELECT drop_partition_1($1, $2, $3, CAST(CAST($4 AS text) AS bigint[]))",
        one.kind,
        one.first_id,
        payloads_before,
        f"{{{','.join(map(str, sorted(kept)))}}}",
    )
    return gone


async def _count_bytes(database: Database, one: Partition, kept: Collection[int]) -> int:
    table, column = _TABLES[one.kind]
    rows = await database.fetch_for(
        f"SELECT CAST(coalesce(sum(octet_length(body)), 0) AS bigint) FROM {table} WHERE {column} IN ({{values}})",
        sorted(kept),
    )
    return sum(size for (size,) in rows)


async def _find_kept_events(database: Database, one: Partition, before: int) -> set[int] | None:
    """Those that wait for a delivery, and those whose deliveries stay because they were erased lately."""
    spans = await database.fetch(
        "SELECT DISTINCT span FROM (SELECT span FROM delivery_counts"
        f" WHERE {_WAITS} AND span >= $1 AND span < $2 GROUP BY sink, state, span HAVING sum(count) > 0) AS waiting"
        " LIMIT $3",
        one.first_id >> SPAN_BITS,
        one.end_id >> SPAN_BITS,
        _MAX_KEPT + 1,
    )
    if len(spans) > _MAX_KEPT:
        return None
    kept: set[int] = set()
    for (span,) in spans:
        waiting = await database.fetch(
            f"SELECT DISTINCT event_id FROM deliveries WHERE event_id >= $1 AND event_id < $2 AND {_WAITS} LIMIT $3",
            span << SPAN_BITS,
            (span + 1) << SPAN_BITS,
            _MAX_KEPT + 1,
        )
        kept.update(event_id for (event_id,) in waiting)
        if len(kept) > _MAX_KEPT:
            return None
    erased = await database.fetch(
        "SELECT event_id FROM erased_events WHERE event_id >= $1 AND event_id < $2 AND erased_at >= $3 LIMIT $4",
        one.first_id,
        one.end_id,
        before,
        _MAX_KEPT + 1,
    )
    return kept | {event_id for (event_id,) in erased}


async def _find_kept_receipts(database: Database, one: Partition, _: int) -> set[int] | None:
    """Those that are held, and those of events that wait for a delivery."""
    waiting = await database.fetch_value(f"SELECT coalesce(sum(count), 0) FROM delivery_counts WHERE {_WAITS}")
    if waiting > _MAX_WAITING:
        return None
    rows = await database.fetch(
        "WITH waiting AS MATERIALIZED (SELECT event_id FROM deliveries WHERE due_at IS NOT NULL UNION"
        " SELECT event_id FROM deliveries WHERE due_at IS NULL AND state IN ('pending', 'dead') AND state = 'pending'),"
        " needed (receipt_id) AS (SELECT e.receipt_id FROM waiting w JOIN events e ON e.id = w.event_id"
        " UNION SELECT x.receipt_id FROM waiting w JOIN event_receipts x ON x.event_id = w.event_id"
        " UNION SELECT h.receipt_id FROM held h WHERE h.receipt_id >= $1 AND h.receipt_id < $2)"
        " SELECT receipt_id FROM needed WHERE receipt_id >= $1 AND receipt_id < $2 LIMIT $3",
        one.first_id,
        one.end_id,
        _MAX_KEPT + 1,
    )
    return {receipt_id for (receipt_id,) in rows}


def spared_by_kind(partitions: Sequence[Partition]) -> Spared:
    """For the purge by row, what it is to leave."""
    return {
        kind: sorted((one.ids for one in partitions if one.kind == kind), key=lambda ids: ids.start) for kind in _TABLES
    }


# Swept: what named rows that have gone


async def sweep(database: Database) -> bool:
    """Remove some of it. False when there is none, or others are at it."""
    row = await database.fetch_row(
        "SELECT kind, first_id, end_id, swept_to FROM partitions WHERE swept_to IS NOT NULL"
        " ORDER BY kind, first_id LIMIT 1 FOR UPDATE SKIP LOCKED"
    )
    if row is None:
        return False
    kind, first_id, end_id, swept_to = row
    start = await _find_named(database, kind, range(swept_to, end_id))
    if start is None:
        await database.execute("DELETE FROM partitions WHERE kind = $1 AND first_id = $2", kind, first_id)
        return True
    end = min(end_id, ((start >> _SWEPT_BITS) + 1) << _SWEPT_BITS)
    await (_sweep_receipts if kind == "receipts" else _sweep_events)(database, range(start, end))
    await database.execute("UPDATE partitions SET swept_to = $1 WHERE kind = $2 AND first_id = $3", end, kind, first_id)
    return True


async def _find_named(database: Database, kind: Rows, ids: range) -> int | None:
    """The first of these ids that may be named anywhere."""
    named = [
        f"SELECT min(receipt_id) FROM {table} WHERE receipt_id >= $1 AND receipt_id < $2"
        for table in ("event_receipts", "receipt_keys")
    ]
    if kind == "events":
        named = [
            "SELECT min(event_id) FROM deliveries WHERE event_id >= $1 AND event_id < $2",
            "SELECT min(event_id) FROM attempts WHERE event_id >= $1 AND event_id < $2",
            (
                f"SELECT min(span) << {NAME_SPAN_BITS} FROM event_user_data"
                f" WHERE span >= CAST($1 AS bigint) >> {NAME_SPAN_BITS}"
                f" AND span <= (CAST($2 AS bigint) - 1) >> {NAME_SPAN_BITS}"
            ),
        ]
    found = [await database.fetch_value(sql, ids.start, ids.stop) for sql in named]
    return min((max(one, ids.start) for one in found if one is not None), default=None)


async def _sweep_receipts(database: Database, ids: range) -> None:
    kept = await database.fetch("SELECT id FROM receipts WHERE id >= $1 AND id < $2", ids.start, ids.stop)
    gone = list(_without(ids, sorted(receipt_id for (receipt_id,) in kept)))
    for table in ("event_receipts", "receipt_keys"):
        await database.execute_many(f"DELETE FROM {table} WHERE receipt_id >= $1 AND receipt_id < $2", gone)


async def _sweep_events(database: Database, ids: range) -> None:
    # Deliveries of those that were erased stay for longer, and are removed by row.
    kept = await database.fetch(
        "SELECT event_id FROM event_bodies WHERE event_id >= $1 AND event_id < $2"
        " UNION SELECT event_id FROM erased_events WHERE event_id >= $1 AND event_id < $2",
        ids.start,
        ids.stop,
    )
    gone = list(_without(ids, sorted(event_id for (event_id,) in kept)))
    for table in ("attempts", "deliveries"):
        await database.execute_many(f"DELETE FROM {table} WHERE event_id >= $1 AND event_id < $2", gone)
    await database.execute_many(
        "DELETE FROM event_user_data WHERE event_id >= $1 AND event_id < $2 AND span = $3",
        [(*one, ids.start >> NAME_SPAN_BITS) for one in gone],
    )


def _without(ids: range, kept: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The stretches, each by its first id and the one beyond, that are left of ids."""
    start = ids.start
    for one in (*kept, ids.stop):
        if start < one:
            yield start, one
        start = one + 1
