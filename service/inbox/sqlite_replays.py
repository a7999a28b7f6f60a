"""
Replays on SQLite. Which events come next is looked up by a reader, a stretch of ids at a time; the writer then makes
the deliveries, so that it is never held up by a filter that matches little.
"""

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.inbox.base import ReplayRecord, ReplayRequest, replayed_states
from service.inbox.rows import dump_filter, load_filter, replay_record
from service.inbox.sqlite_filter import compile_filter

_MAX_EVENTS_PER_STEP = 500
_IDS_PER_STEP = 50_000

_COLUMNS = "id, created_at, changed_at, state, total, done, filter, sinks, rate_per_s, requested_by, reason"


@dataclass(frozen=True, slots=True)
class Step:
    """
    The next events of a replay.

    Attributes:
        cursor: Up to which event this goes on from.
        row_ids: The events.
        sinks, states: Where to; see ReplayRequest.
        next_cursor: Up to which event all is done after this step.
        is_last: Whether there are no more.
    """

    replay_id: int
    cursor: int
    sinks: tuple[str, ...]
    states: frozenset[str]
    rate_per_s: float
    row_ids: tuple[int, ...]
    next_cursor: int
    is_last: bool


def measure(connection: sqlite3.Connection, request: ReplayRequest) -> tuple[int, int]:
    """How many events are meant, and the id of the last one that there is at the same moment."""
    (last_id,) = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
    query = compile_filter(connection, request.filter)
    (total,) = connection.execute(
        f"SELECT count(*) FROM {query.source} WHERE {query.condition}", query.parameters
    ).fetchone()
    return total, last_id


def create(
    connection: sqlite3.Connection, request: ReplayRequest, *, total: int, last_id: int, now: int
) -> ReplayRecord:
    row = connection.execute(
        "INSERT INTO replays (created_at, changed_at, state, filter, sinks, rate_per_s, requested_by, reason, total,"
        f" done, cursor, last_event_id, next_at) VALUES (?,?,'running',?,?,?,?,?,?,0,0,?,?) RETURNING {_COLUMNS}",
        (
            now,
            now,
            dump_filter(request.filter),
            json.dumps(request.sinks),
            request.rate_per_s,
            request.requested_by,
            request.reason,
            total,
            last_id,
            now,
        ),
    ).fetchone()
    return replay_record(row)


def next_steps(connection: sqlite3.Connection, now: int) -> list[Step]:
    """The step of each replay whose time has come."""
    replays = connection.execute(
        "SELECT id, filter, sinks, rate_per_s, cursor, last_event_id FROM replays"
        " WHERE state = 'running' AND next_at <= ? ORDER BY id",
        (now,),
    ).fetchall()
    return [_next_step(connection, replay) for replay in replays]


def _next_step(connection: sqlite3.Connection, replay: Sequence[Any]) -> Step:
    replay_id, filter_json, sinks, rate_per_s, cursor, last_id = replay
    event_filter = load_filter(filter_json)
    query = compile_filter(connection, event_filter, by_index=False)
    limit = min(_MAX_EVENTS_PER_STEP, max(1, math.ceil(rate_per_s)))
    # The stretch starts at the first event that there is, should the ids before it be purged by now.
    (start,) = connection.execute("SELECT coalesce(min(id), 0) - 1 FROM events WHERE id > ?", (cursor,)).fetchone()
    end = min(last_id, max(cursor, start) + _IDS_PER_STEP)
    rows = connection.execute(
        f"SELECT e.id FROM {query.source} WHERE {query.condition} ORDER BY e.id LIMIT :limit",
        query.within(first_id=cursor + 1, end_id=end + 1) | {"limit": limit},
    ).fetchall()
    row_ids = tuple(row_id for (row_id,) in rows)
    next_cursor = row_ids[-1] if len(row_ids) == limit else end
    return Step(
        replay_id=replay_id,
        cursor=cursor,
        sinks=tuple(json.loads(sinks)),
        states=replayed_states(event_filter),
        rate_per_s=rate_per_s,
        row_ids=row_ids,
        next_cursor=next_cursor,
        is_last=next_cursor >= last_id,
    )


def take_steps(connection: sqlite3.Connection, steps: Sequence[Step], now: int) -> set[str]:
    """
    Make the deliveries of steps, as far as nobody took them meanwhile.

    Returns:
        The sinks that got something.
    """
    woken: set[str] = set()
    for step in steps:
        cursor = connection.execute(
            "UPDATE replays SET changed_at = ?, state = ?, cursor = ?, done = min(total, done + ?), next_at = ?"
            " WHERE id = ? AND state = 'running' AND cursor = ? AND next_at <= ?",
            (
                now,
                "finished" if step.is_last else "running",
                step.next_cursor,
                len(step.row_ids),
                now + math.ceil(len(step.row_ids) * 1000 / step.rate_per_s),
                step.replay_id,
                step.cursor,
                now,
            ),
        )
        if cursor.rowcount:
            for row_id in step.row_ids:
                woken |= _deliver_again(connection, row_id, step, now)
    return woken


def _deliver_again(connection: sqlite3.Connection, row_id: int, step: Step, now: int) -> set[str]:
    """One more delivery of an event to each sink, or to those that it went to before. Nothing once its body is gone."""
    if connection.execute("SELECT 1 FROM event_bodies WHERE event_id = ?", (row_id,)).fetchone() is None:
        return set()
    # SQLite takes a column that stands alone from the row of the maximum.
    rows = connection.execute(
        "SELECT sink, max(replay), state FROM deliveries WHERE event_id = ? GROUP BY sink", (row_id,)
    ).fetchall()
    latest = {sink: replay for sink, replay, _ in rows}
    chosen = set(step.sinks or [sink for sink, _, state in rows if not step.states or state in step.states])
    connection.executemany(
        "UPDATE deliveries SET state = 'replaced' WHERE event_id = ? AND sink = ? AND state = 'dead'",
        [(row_id, sink) for sink in chosen if sink in latest],
    )
    connection.executemany(
        "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)"
        " VALUES (?,?,?,'pending',?,0,?)",
        [(row_id, sink, latest.get(sink, 0) + 1, now, now) for sink in chosen],
    )
    return chosen


def next_at(connection: sqlite3.Connection) -> int | None:
    (at,) = connection.execute("SELECT min(next_at) FROM replays WHERE state = 'running'").fetchone()
    return None if at is None else int(at)


def cancel(connection: sqlite3.Connection, replay_id: int, now: int) -> ReplayRecord | None:
    connection.execute(
        "UPDATE replays SET state = 'cancelled', changed_at = ? WHERE id = ? AND state = 'running'", (now, replay_id)
    )
    return find(connection, replay_id)


def find(connection: sqlite3.Connection, replay_id: int) -> ReplayRecord | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM replays WHERE id = ?", (replay_id,)).fetchone()
    return None if row is None else replay_record(row)


def list_replays(connection: sqlite3.Connection, *, before_id: int | None, limit: int) -> tuple[ReplayRecord, ...]:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM replays WHERE id < ? ORDER BY id DESC LIMIT ?",
        (2**62 if before_id is None else before_id, limit),
    )
    return tuple(map(replay_record, rows))
