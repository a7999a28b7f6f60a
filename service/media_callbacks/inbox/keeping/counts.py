"""
How many deliveries have not arrived, by sink and state. The database counts them itself, in the transaction that
changes them; see ``inbox/sql/004_operating``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.keeping.spans import SPAN_BITS

# Of those that have several rows: so many are folded at once, which takes some milliseconds.
_MOST_FOLDED = 200

Group = tuple[str, str, int]


class DeliveryCount(NamedTuple):
    """
    Attributes:
        first_span: Where the event of the first of them is.
    """

    sink: str
    state: str
    deliveries: int
    first_span: int


async def read(database: Database) -> list[DeliveryCount]:
    """Those that are not zero."""
    rows = await database.fetch(
        "SELECT sink, state, CAST(sum(n) AS bigint), min(span) FROM"
        " (SELECT sink, state, span, sum(count) AS n FROM delivery_counts GROUP BY sink, state, span) AS spans"
        " WHERE n > 0 GROUP BY sink, state"
    )
    return [DeliveryCount(*row) for row in rows]


async def find_first_event(database: Database, sink: str, span: int) -> int | None:
    """The number of the first event in a span whose delivery to a sink has not ended."""
    row = await database.fetch_row(
        "SELECT event_id FROM deliveries WHERE event_id >= $1 AND event_id < $2 AND sink = $3"
        " AND state IN ('pending', 'retrying') ORDER BY event_id LIMIT 1",
        span << SPAN_BITS,
        (span + 1) << SPAN_BITS,
        sink,
    )
    return None if row is None else int(row[0])


async def find_foldable(database: Database) -> list[Group]:
    """What has several rows that one would do for, or one that says nothing."""
    rows = await database.fetch(
        "SELECT sink, state, span FROM delivery_counts GROUP BY sink, state, span"
        " HAVING count(*) > 1 OR sum(count) = 0 LIMIT $1",
        _MOST_FOLDED,
    )
    # In one order, or two instances that fold at once might wait for each other.
    return sorted((sink, state, span) for sink, state, span in rows)


async def fold(database: Database, groups: Sequence[Group]) -> None:
    """
    Put one row in the place of several, or none. What others add meanwhile is not among those that are removed, and
    what they have removed is not there any more.
    """
    counts: Counter[Group] = Counter()
    for group in groups:
        rows = await database.fetch(
            "DELETE FROM delivery_counts WHERE sink = $1 AND state = $2 AND span = $3 RETURNING count", *group
        )
        counts[group] += sum(count for (count,) in rows)
    await database.execute_many(
        "INSERT INTO delivery_counts (sink, state, span, count) VALUES ($1, $2, $3, $4)",
        [(*group, count) for group, count in counts.items() if count],
    )
