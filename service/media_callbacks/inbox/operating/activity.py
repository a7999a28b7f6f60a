"""How much came in and went out within the last day, and how long it took."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.operating.filters import first_id_at
from media_callbacks.inbox.records import ActivityCount, ActivityWord, MedianTimes
from media_callbacks.inbox.rows import from_milliseconds, to_milliseconds

_MINUTE_MS = 60_000
# A day, and the hour that clocks may differ by.
_KEPT_MINUTES = 25 * 60
# Of each span of time: enough for a median, and no work to find.
_SAMPLE = 100


async def note(database: Database, counts: Sequence[tuple[ActivityWord, str, int]]) -> None:
    """So much more, just now."""
    minute = await database.now() // _MINUTE_MS
    await database.execute_many(
        "INSERT INTO activity (minute, what, name, count) VALUES ($1, $2, $3, $4) ON CONFLICT (minute, what, name)"
        " DO UPDATE SET count = activity.count + excluded.count",
        [(minute, *one) for one in sorted(counts)],
    )
    await database.execute("DELETE FROM activity WHERE minute < $1", minute - _KEPT_MINUTES)


async def list_counts(database: Database, *, since: datetime) -> tuple[ActivityCount, ...]:
    rows = await database.fetch(
        "SELECT minute, what, name, count FROM activity WHERE minute >= $1 ORDER BY minute",
        to_milliseconds(since) // _MINUTE_MS,
    )
    return tuple(ActivityCount(from_milliseconds(minute * _MINUTE_MS), *rest) for minute, *rest in rows)


async def sample_times(database: Database, edges: Sequence[datetime]) -> tuple[MedianTimes, ...]:
    """Of each time between two edges."""
    at = [to_milliseconds(edge) for edge in edges]
    ids: list[int] = []
    for edge in at:
        ids.append(await first_id_at(database, edge, low=ids[-1] if ids else None))
    times = []
    for begins, (first_at, end_at), (first_id, end_id) in zip(edges[:-1], pairwise(at), pairwise(ids), strict=True):
        callback = await database.fetch(
            "SELECT ended_at - registered_at FROM jobs WHERE registered_at >= $1 AND registered_at < $2"
            " AND transport IS NOT NULL ORDER BY registered_at LIMIT $3",
            first_at,
            end_at,
            _SAMPLE,
        )
        delivery = await database.fetch(
            "SELECT d.changed_at - e.accepted_at FROM events e JOIN deliveries d ON d.event_id = e.id"
            " WHERE e.id >= $1 AND e.id < $2 AND d.replay = 0 AND d.state = 'delivered' ORDER BY e.id LIMIT $3",
            first_id,
            end_id,
            _SAMPLE,
        )
        times.append(MedianTimes(begins, _median_s(callback), _median_s(delivery)))
    return tuple(times)


def _median_s(rows: Sequence[Sequence[int]]) -> float | None:
    return max(0, median(milliseconds for (milliseconds,) in rows)) / 1000 if rows else None
