"""
Replays. Which events come next is looked up by whoever only reads, a stretch of ids at a time; the deliveries are made
afterwards, so that no writer is held up by a filter that matches little.

Of all deliveries of one key to one sink, replays included, one at a time is on its way (``due_at`` says when), and the
others wait for it, to go in the order of their events. What already waits or is tried again is not made a second time:
it, or what it waits for, is tried now.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, cast

from media_callbacks.inbox.database import Database, Row
from media_callbacks.inbox.operating.filters import compile_filter, find_ids
from media_callbacks.inbox.operating.reads import count_events
from media_callbacks.inbox.records import EventFilter, ReplayedState, ReplayRecord, ReplayRequest, replayed_states
from media_callbacks.inbox.rows import from_milliseconds, to_id

_MAX_EVENTS_PER_STEP = 500
_IDS_PER_STEP = 50_000

_SHOWN: Mapping[str, ReplayedState] = {"delivered": "delivered", "dead": "dead", "replaced": "dead"}
_COLUMNS = "id, created_at, changed_at, state, total, done, filter, sinks, rate_per_s, requested_by, reason"


@dataclass(frozen=True, slots=True)
class ReplayStep:
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


async def measure(database: Database, request: ReplayRequest) -> tuple[int, int]:
    """How many events are meant, and the id of the last one that may be among them."""
    last_id = await database.fetch_value("SELECT coalesce(max(id), 0) FROM events")
    return await count_events(database, request.filter, last_id=last_id), last_id


async def create(database: Database, request: ReplayRequest, *, total: int, last_id: int) -> ReplayRecord:
    (row,) = await database.fetch(
        "INSERT INTO replays (created_at, changed_at, next_at, state, filter, sinks, rate_per_s, requested_by, reason,"
        " total, done, cursor, last_event_id)"
        f" VALUES ($1, $1, $1, 'running', $2, $3, $4, $5, $6, $7, 0, 0, $8) RETURNING {_COLUMNS}",
        await database.now(),
        _dump_filter(request.filter),
        json.dumps(request.sinks),
        request.rate_per_s,
        request.requested_by,
        request.reason,
        total,
        last_id,
    )
    return _record(row)


async def next_steps(database: Database) -> list[ReplayStep]:
    """The step of each replay whose time has come, by the replays' ids."""
    replays = await database.fetch(
        "SELECT id, filter, sinks, rate_per_s, cursor, last_event_id FROM replays"
        " WHERE state = 'running' AND next_at <= $1 ORDER BY id",
        await database.now(),
    )
    return [await _next_step(database, replay) for replay in replays]


async def _next_step(database: Database, replay: Row) -> ReplayStep:
    replay_id, filter_json, sinks, rate_per_s, cursor, last_id = replay
    event_filter = _load_filter(filter_json)
    limit = min(_MAX_EVENTS_PER_STEP, max(1, math.ceil(rate_per_s)))
    # The stretch starts at the first event that there is, should the ids before it be purged by now.
    start = await database.fetch_value("SELECT coalesce(min(id), 0) - 1 FROM events WHERE id > $1", cursor)
    end = min(last_id, max(cursor, start) + _IDS_PER_STEP)
    ids = await find_ids(database, event_filter)
    ids = range(max(cursor + 1, ids.start), min(end + 1, ids.stop))
    query = compile_filter(database, event_filter, ids, by_index=False)
    rows = await database.fetch(f"{query.select('e.id')} ORDER BY e.id LIMIT {query.mark(limit)}", *query.parameters)
    row_ids = tuple([row_id for (row_id,) in rows])
    next_cursor = row_ids[-1] if len(row_ids) == limit else end
    return ReplayStep(
        replay_id=replay_id,
        cursor=cursor,
        sinks=tuple(json.loads(sinks)),
        states=replayed_states(event_filter),
        rate_per_s=rate_per_s,
        row_ids=row_ids,
        next_cursor=next_cursor,
        is_last=next_cursor >= last_id,
    )


async def take_steps(database: Database, steps: Sequence[ReplayStep]) -> set[str]:
    """
    Make the deliveries of steps, as far as nobody took them meanwhile.

    Returns:
        The sinks that got something.
    """
    now = await database.now()
    taken = [step for step in steps if await _take(database, step, now)]
    row_ids = sorted({row_id for step in taken for row_id in step.row_ids})
    key_of = await database.fetch_map("SELECT id, key_digest FROM events WHERE id IN ({values})", row_ids)
    # Whoever accepts a further outcome of one of these keys, or sends one of their events again, has its lock.
    await database.lock(keys=set(key_of.values()))
    # What has no body any more can't be sent; what has one keeps it until this is done.
    bodies = await database.fetch_for(
        "SELECT event_id FROM event_bodies WHERE event_id IN ({values}) ORDER BY event_id"
        + database.for_update("event_bodies"),
        row_ids,
    )
    lines = await _read_lines(database, {key_of[row_id] for (row_id,) in bodies if row_id in key_of})
    latest: dict[int, dict[str, _Delivery]] = {row_id: {} for (row_id,) in bodies}
    for (_, sink), line in lines.items():
        for delivery in line:
            if delivery.row_id in latest:
                latest[delivery.row_id][sink] = delivery
    made: list[tuple[int, str, int, int | None, int, int]] = []
    joined: dict[tuple[int, str, int], int] = {}
    forward: set[tuple[int, str, int]] = set()
    replaced: set[tuple[int, str]] = set()
    for step in taken:
        for row_id in step.row_ids:
            if row_id not in latest:
                continue
            for sink in sorted(_sinks_of(step, latest[row_id])):
                line = lines.setdefault((key_of[row_id], sink), [])
                before = latest[row_id].get(sink)
                # Should it be tried again only much later, what this waits for.
                forward.update([(one.row_id, sink, one.replay) for one in line if one.due_at is not None])
                if before is not None and before.is_open:
                    joined[row_id, sink, before.replay] = step.replay_id
                    continue
                if before is not None and before.state == "dead":
                    replaced.add((row_id, sink))
                is_free = not any(one.is_open for one in line)
                number = 1 if before is None else before.replay + 1
                new = _Delivery(row_id, number, "pending", now if is_free else None)
                latest[row_id][sink] = new
                line.append(new)
                made.append((row_id, sink, number, new.due_at, now, step.replay_id))
    await database.execute_many(
        "UPDATE deliveries SET state = 'replaced' WHERE event_id = $1 AND sink = $2 AND state = 'dead'",
        sorted(replaced),
    )
    await database.execute_many(
        "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at, replay_id)"
        " VALUES ($1, $2, $3, 'pending', CAST($4 AS bigint), 0, $5, $6)",
        made,
    )
    await database.execute_many(
        "UPDATE deliveries SET replay_id = $1 WHERE event_id = $2 AND sink = $3 AND replay = $4",
        [(joined[key], *key) for key in sorted(joined)],
    )
    await database.execute_many(
        "UPDATE deliveries SET due_at = $1 WHERE event_id = $2 AND sink = $3 AND replay = $4 AND lease IS NULL"
        " AND due_at > $1",
        [(now, *key) for key in sorted(forward)],
    )
    return {sink for _, sink, *_ in made} | {sink for _, sink, _ in forward}


@dataclass(frozen=True, slots=True)
class _Delivery:
    """One of those of a key to a sink."""

    row_id: int
    replay: int
    state: str
    due_at: int | None

    @property
    def is_open(self) -> bool:
        return self.state in ("pending", "retrying")


async def _read_lines(database: Database, digests: Collection[bytes]) -> dict[tuple[bytes, str], list[_Delivery]]:
    """All deliveries of keys by sink, in the order of their numbers. What is on its way among them is locked."""
    key_of = {event.row_id: event.key_digest for event in await database.find_events(digests)}
    # Whoever records the end of one just now holds its row. Later ones wait for us, and then find what waits for it.
    await database.fetch_for(
        "SELECT d.event_id FROM deliveries d WHERE d.event_id IN ({values}) AND d.due_at IS NOT NULL"
        f" ORDER BY d.event_id, d.sink, d.replay{database.for_update('d')}",
        list(key_of),
    )
    lines: dict[tuple[bytes, str], list[_Delivery]] = {}
    rows = await database.fetch_for(
        "SELECT d.replay, d.event_id, d.sink, d.state, d.due_at FROM deliveries d WHERE d.event_id IN ({values})",
        list(key_of),
    )
    for replay, row_id, sink, state, due_at in sorted(map(tuple, rows)):
        lines.setdefault((key_of[row_id], sink), []).append(_Delivery(row_id, replay, state, due_at))
    return lines


async def _take(database: Database, step: ReplayStep, now: int) -> bool:
    """Go on to the end of a step. False when somebody else did, or the replay was cancelled."""
    written = await database.execute(
        "UPDATE replays SET changed_at = $1, state = $2, cursor = $3,"
        " done = CASE WHEN done + $4 < total THEN done + $4 ELSE total END, next_at = $5"
        " WHERE id = $6 AND state = 'running' AND cursor = $7 AND next_at <= $1",
        now,
        "finished" if step.is_last else "running",
        step.next_cursor,
        len(step.row_ids),
        now + math.ceil(len(step.row_ids) * 1000 / step.rate_per_s),
        step.replay_id,
        step.cursor,
    )
    return written > 0


def _sinks_of(step: ReplayStep, latest: Mapping[str, _Delivery]) -> set[str]:
    """
    To which sinks an event of a step is sent once more.

    Args:
        latest: Its latest delivery, by sink.
    """
    return set(step.sinks) or {sink for sink, one in latest.items() if not step.states or one.state in step.states}


async def next_at(database: Database) -> int | None:
    return cast(int | None, await database.fetch_value("SELECT min(next_at) FROM replays WHERE state = 'running'"))


async def cancel(database: Database, replay_id: int) -> ReplayRecord | None:
    await database.execute(
        "UPDATE replays SET state = 'cancelled', changed_at = $1 WHERE id = $2 AND state = 'running'",
        await database.now(),
        to_id(replay_id),
    )
    return await _find(database, replay_id)


async def find(database: Database, replay_id: int) -> ReplayRecord | None:
    record = await _find(database, replay_id)
    return None if record is None else replace(record, deliveries=await _count_deliveries(database, record.id))


async def _find(database: Database, replay_id: int) -> ReplayRecord | None:
    row = await database.fetch_row(f"SELECT {_COLUMNS} FROM replays WHERE id = $1", to_id(replay_id))
    return None if row is None else _record(row)


async def _count_deliveries(database: Database, replay_id: int) -> dict[ReplayedState, int]:
    counts: dict[ReplayedState, int] = {"waiting": 0, "delivered": 0, "dead": 0}
    for state, count in await database.fetch(
        f"SELECT state, count(*) FROM deliveries{database.using('deliveries_by_replay')}"
        " WHERE replay_id = $1 GROUP BY state",
        replay_id,
    ):
        counts[_SHOWN.get(state, "waiting")] += count
    return counts


async def list_replays(database: Database, *, before_id: int | None, limit: int) -> tuple[ReplayRecord, ...]:
    rows = await database.fetch(
        f"SELECT {_COLUMNS} FROM replays WHERE id < $1 ORDER BY id DESC LIMIT $2", to_id(before_id), limit
    )
    return tuple(map(_record, rows))


async def list_gone_through(database: Database, *, limit: int) -> list[tuple[ReplayRecord, int]]:
    """The newest replays, oldest first, each with the number of the last event that it has gone through."""
    rows = await database.fetch(f"SELECT cursor, {_COLUMNS} FROM replays ORDER BY id DESC LIMIT $1", limit)
    return [(_record(row), cursor) for cursor, *row in reversed(rows)]


def _record(row: Row) -> ReplayRecord:
    replay_id, created_at, changed_at, state, total, done, filter_json, sinks, rate_per_s, requested_by, reason = row
    return ReplayRecord(
        id=replay_id,
        created_at=from_milliseconds(created_at),
        changed_at=from_milliseconds(changed_at),
        state=state,
        total=total,
        done=done,
        request=ReplayRequest(
            filter=_load_filter(filter_json),
            sinks=tuple(json.loads(sinks)),
            rate_per_s=rate_per_s,
            requested_by=requested_by,
            reason=reason,
        ),
    )


def _dump_filter(wanted: EventFilter) -> str:
    """A filter as JSON, to be read again by ``_load_filter``."""
    members = {name: value for name, value in asdict(wanted).items() if value is not None}
    return json.dumps(members, default=datetime.isoformat)


def _load_filter(text: str) -> EventFilter:
    members: dict[str, Any] = json.loads(text)
    for name in ("since", "until", "given_up_since", "given_up_until"):
        if name in members:
            members[name] = datetime.fromisoformat(members[name])
    return EventFilter(**members)
