"""The states of sinks, and what waits for them."""

from typing import cast

from media_callbacks.inbox.database import Database, Row
from media_callbacks.inbox.records import DeliveryState, SinkRecord, SinkState
from media_callbacks.inbox.rows import from_milliseconds


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
    counts: dict[str, dict[DeliveryState, int]] = {}
    oldest: dict[str, int] = {}
    for sink, stored, count, first_id in await database.fetch(
        f"SELECT sink, state, count(*), min(event_id) FROM deliveries{database.using('deliveries_due')}"
        " WHERE due_at IS NOT NULL GROUP BY sink, state UNION ALL"
        f" SELECT sink, state, count(*), min(event_id) FROM deliveries{database.using('deliveries_waiting')}"
        " WHERE due_at IS NULL AND state IN ('pending', 'dead') GROUP BY sink, state"
    ):
        shown = shown_state(stored, is_active=sink not in inactive)
        by_state = counts.setdefault(sink, {})
        by_state[shown] = by_state.get(shown, 0) + count
        if shown != "dead":
            oldest[sink] = min(first_id, oldest.get(sink, first_id))
    accepted_at = await database.fetch_map(
        "SELECT id, accepted_at FROM events WHERE id IN ({values})", list(set(oldest.values()))
    )
    records = []
    for name in sorted(inactive.keys() | counts.keys()):
        state, reason, changed_by, changed_at = inactive.get(name, ("active", None, None, None))
        # It may be gone since it was found.
        oldest_at = accepted_at.get(oldest.get(name))
        records.append(
            SinkRecord(
                name=name,
                state=state,
                reason=reason,
                changed_by=changed_by,
                changed_at=None if changed_at is None else from_milliseconds(changed_at),
                deliveries=counts.get(name, {}),
                oldest_pending_at=None if oldest_at is None else from_milliseconds(oldest_at),
            )
        )
    return tuple(records)


async def find_inactive(database: Database) -> set[str]:
    return {name for (name,) in await database.fetch("SELECT name FROM sinks WHERE state <> 'active'")}


def shown_state(stored: str, *, is_active: bool) -> DeliveryState:
    """The state to show for the one that is stored."""
    if stored == "replaced":
        return "dead"
    if not is_active and stored in ("pending", "retrying"):
        return "parked"
    return cast(DeliveryState, stored)
