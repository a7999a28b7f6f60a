"""The states of sinks, and what waits for them."""

from datetime import datetime
from typing import cast

from media_callbacks.inbox.database import Database, Row
from media_callbacks.inbox.keeping import counts
from media_callbacks.inbox.records import DeliveryState, SinkRecord, SinkState
from media_callbacks.inbox.rows import from_milliseconds

_MINUTE_MS = 60_000
# Of what a sink did not take those that are tried next, and as many of those that are tried last.
_SAMPLE = 50


async def next_due_at(database: Database, sink: str) -> int | None:
    """When the next delivery to a sink may be claimed; None without any, and while the sink is not active."""
    return cast(
        int | None,
        await database.fetch_value(
            "SELECT min(due_at) FROM deliveries WHERE sink = $1 AND due_at IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM sinks WHERE name = $1 AND state <> 'active')",
            sink,
        ),
    )


async def set_sink_state(
    database: Database, name: str, state: SinkState, *, reason: str | None, changed_by: str | None
) -> None:
    await database.execute(
        "INSERT INTO sinks (name, state, reason, changed_by, changed_at) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state, reason = excluded.reason,"
        " changed_by = excluded.changed_by, changed_at = excluded.changed_at",
        name,
        state,
        reason,
        changed_by,
        await database.now(),
    )


_IS_PUT_OFF = "d.sink = $1 AND d.due_at > $2 AND d.lease IS NULL"


async def count_put_off(database: Database, name: str) -> int:
    """How much is due only later, apart from what is leased."""
    return int(
        await database.fetch_value(f"SELECT count(*) FROM deliveries d WHERE {_IS_PUT_OFF}", name, await database.now())
    )


async def bring_forward(database: Database, *, name: str, limit: int) -> int:
    """Make the next of what is due only later due now. Returns how many."""
    now = await database.now()
    rows = await database.fetch(
        f"SELECT d.event_id, d.replay FROM deliveries d WHERE {_IS_PUT_OFF}"
        f" ORDER BY d.due_at, d.event_id LIMIT $3{database.for_update('d', skip_locked=True)}",
        name,
        now,
        limit,
    )
    await database.execute_many(
        "UPDATE deliveries SET due_at = $1 WHERE event_id = $2 AND sink = $3 AND replay = $4",
        [(now, row_id, name, replay) for row_id, replay in rows],
    )
    return len(rows)


async def release_stranded(database: Database, name: str) -> int:
    """
    Let what waits for nothing go. There is none, unless an instance of an older version, that knows of no replays that
    wait, has recorded the end of what one waited for.
    """
    is_any_on_its_way = (
        "EXISTS (SELECT 1 FROM events e JOIN deliveries b ON b.event_id = e.id AND b.sink = d.sink"
        f" WHERE {database.by_key('e.key_digest = w.key_digest')} AND b.due_at IS NOT NULL)"
    )
    rows = await database.fetch(
        "SELECT w.key_digest, min(d.event_id) FROM deliveries d JOIN events w ON w.id = d.event_id"
        f" WHERE d.sink = $1 AND d.due_at IS NULL AND d.state = 'pending' AND NOT {is_any_on_its_way}"
        " GROUP BY w.key_digest",
        name,
    )
    now = await database.now()
    await database.execute_many(
        "UPDATE deliveries SET due_at = $1 WHERE event_id = $2 AND sink = $3 AND due_at IS NULL AND state = 'pending'",
        [(now, row_id, name) for _, row_id in rows],
    )
    return len(rows)


async def list_sinks(database: Database) -> tuple[SinkRecord, ...]:
    rows = await database.fetch("SELECT name, state, reason, changed_by, changed_at FROM sinks WHERE state <> 'active'")
    inactive: dict[str, Row] = {name: about for name, *about in rows}
    by_sink: dict[str, dict[DeliveryState, int]] = {}
    first_span: dict[str, int] = {}
    retrying = set()
    for sink, stored, count, span in await counts.read(database):
        shown = shown_state(stored, is_active=sink not in inactive)
        by_state = by_sink.setdefault(sink, {})
        by_state[shown] = by_state.get(shown, 0) + count
        if shown != "dead":
            first_span[sink] = min(span, first_span.get(sink, span))
        if stored == "retrying":
            retrying.add(sink)
    oldest = {sink: await counts.find_first_event(database, sink, span) for sink, span in first_span.items()}
    accepted_at = await database.fetch_map(
        "SELECT id, accepted_at FROM events WHERE id IN ({values})",
        sorted({row_id for row_id in oldest.values() if row_id is not None}),
    )
    taken_at: dict[str, int] = {
        name: minute * _MINUTE_MS
        for name, minute in await database.fetch(
            "SELECT name, max(minute) FROM activity WHERE what = 'delivered' GROUP BY name"
        )
    }
    records = []
    for name in sorted(inactive.keys() | by_sink.keys()):
        state, reason, changed_by, changed_at = inactive.get(name, ("active", None, None, None))
        # It may be gone since it was found.
        oldest_at = accepted_at.get(oldest.get(name))
        next_at = await _find_next_at(database, name) if name in retrying else None
        refusals = await _find_refused(database, name) if name in retrying else []
        given_up = await _find_given_up(database, name) if by_sink.get(name, {}).get("dead") else []
        error_at, error = max([*refusals, *given_up[-1:]], default=(None, None))
        records.append(
            SinkRecord(
                name=name,
                state=state,
                reason=reason,
                changed_by=changed_by,
                changed_at=_moment(changed_at),
                deliveries=by_sink.get(name, {}),
                oldest_pending_at=_moment(oldest_at),
                next_attempt_at=_moment(next_at) if state == "active" else None,
                last_error=error or None,
                last_error_at=_moment(error_at),
                first_given_up_at=_moment(given_up[0][0]) if given_up else None,
                last_given_up_at=_moment(given_up[-1][0]) if given_up else None,
                last_taken_at=_moment(taken_at.get(name)),
            )
        )
    return tuple(records)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_milliseconds(milliseconds)


async def _find_next_at(database: Database, sink: str) -> int | None:
    """When what a sink did not take is tried again next."""
    return cast(
        int | None,
        await database.fetch_value(
            f"SELECT min(due_at) FROM deliveries{database.using('deliveries_retrying')}"
            " WHERE sink = $1 AND state = 'retrying'",
            sink,
        ),
    )


async def _find_refused(database: Database, sink: str) -> list[tuple[int, str]]:
    """When a sink did not take something that is tried again, and why: of what is tried next, and of what is last."""
    found: list[Row] = []
    for order in ("", " DESC"):
        found += await database.fetch(
            f"SELECT changed_at, coalesce(error, '') FROM deliveries{database.using('deliveries_retrying')}"
            " WHERE sink = $1 AND due_at > $2 AND state = 'retrying'"
            f" ORDER BY due_at{order} LIMIT $3",
            sink,
            await database.now(),
            _SAMPLE,
        )
    return [(changed_at, error) for changed_at, error in found]


async def _find_given_up(database: Database, sink: str) -> list[tuple[int, str]]:
    """When the first and the last delivery was given up that was not made again, and why."""
    found: list[Row] = []
    for order in ("", " DESC"):
        found += await database.fetch(
            f"SELECT changed_at, coalesce(error, '') FROM deliveries{database.using('deliveries_given_up')}"
            f" WHERE sink = $1 AND state = 'dead' ORDER BY changed_at{order} LIMIT 1",
            sink,
        )
    return [(changed_at, error) for changed_at, error in found]


async def find_inactive(database: Database) -> set[str]:
    return {name for (name,) in await database.fetch("SELECT name FROM sinks WHERE state <> 'active'")}


def shown_state(stored: str, *, is_active: bool) -> DeliveryState:
    """The state to show for the one that is stored."""
    if stored == "replaced":
        return "dead"
    if not is_active and stored in ("pending", "retrying"):
        return "parked"
    return cast(DeliveryState, stored)
