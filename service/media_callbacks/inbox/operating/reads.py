"""What operators see: lists and records; and the states of sinks."""

import json
from collections.abc import Sequence
from typing import Any, cast

from media_callbacks.inbox.database import Database, Row
from media_callbacks.inbox.operating.filters import Conditions, compile_filter, find_ids
from media_callbacks.inbox.records import (
    AttemptRecord,
    DeliveryRecord,
    DeliveryState,
    EventFilter,
    EventRecord,
    EventSummary,
    ReceiptRecord,
    SinkRecord,
    SinkState,
)
from media_callbacks.inbox.rows import from_milliseconds, shown_state, to_id
from media_callbacks.model.identity import event_id, parse_event_id
from media_callbacks.model.kinds import OUTCOMES
from media_callbacks.model.receipts import ReceiptState, StoredReceipt

_NEWEST = 10_000
_RECEIPT_COLUMNS = "id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids"


# Sinks


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


async def _inactive_sinks(database: Database) -> set[str]:
    return {name for (name,) in await database.fetch("SELECT name FROM sinks WHERE state <> 'active'")}


# Receipts


async def list_receipts(
    database: Database,
    *,
    state: ReceiptState | None,
    source: str | None,
    since: int | None,
    before_id: int | None,
    limit: int,
) -> tuple[ReceiptRecord, ...]:
    query = Conditions("receipts")
    query.add("id < {}", to_id(before_id))
    for condition, value in (("state = {}", state), ("source = {}", source), ("received_at >= {}", since)):
        if value is not None:
            query.add(condition, value)
    rows = await database.fetch(
        f"{query.select(_RECEIPT_COLUMNS)} ORDER BY id DESC LIMIT {query.mark(limit)}", *query.parameters
    )
    return tuple(map(_receipt_record, rows))


def _receipt_record(row: Sequence[Any]) -> ReceiptRecord:
    row_id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids = row
    return ReceiptRecord(
        id=row_id,
        received_at=from_milliseconds(received_at),
        source=source,
        product=product,
        transport=transport,
        verified_by=verified_by,
        state=state,
        reason=reason,
        warnings=tuple(json.loads(warnings)) if warnings else (),
        event_ids=tuple(event_ids.split()) if event_ids else (),
    )


async def outdated_receipts(
    database: Database, *, parser_version: int, after_id: int, limit: int, with_conflicts: bool
) -> tuple[StoredReceipt, ...]:
    states = "'unparsed', 'conflict'" if with_conflicts else "'unparsed'"
    rows = await database.fetch(
        "SELECT id, source, verified_by, received_at, body, meta FROM receipts WHERE id > $1"
        f" AND (state IN ({states}) OR parser < $2) AND body IS NOT NULL ORDER BY id LIMIT $3",
        to_id(after_id),
        parser_version,
        limit,
    )
    return tuple(
        StoredReceipt(
            row_id, source, verified_by, from_milliseconds(received_at), body, json.loads(meta) if meta else {}
        )
        for row_id, source, verified_by, received_at, body, meta in rows
    )


# Events


async def list_events(
    database: Database, wanted: EventFilter, *, before: int | None, limit: int
) -> tuple[EventSummary, ...]:
    ids = await find_ids(database, wanted)
    last_id = await database.fetch_value("SELECT coalesce(max(id), 0) FROM events")
    end_id = min(ids.stop, last_id + 1, to_id(before))
    # Where most events are of the state that is asked for, the newest are enough, and gathering all would take long.
    newest = range(max(ids.start, end_id - _NEWEST), end_id)
    rows = await _find_rows(database, compile_filter(database, wanted, newest, by_index=False), limit)
    if len(rows) < limit and newest.start > ids.start:
        rows = await _find_rows(database, compile_filter(database, wanted, range(ids.start, end_id)), limit)
    states = await _latest_states(database, [row_id for row_id, *_ in rows])
    return tuple(
        EventSummary(
            cursor=row_id,
            id=event_id(digest, OUTCOMES[outcome]),
            accepted_at=from_milliseconds(accepted_at),
            product=product,
            kind=kind,
            outcome=OUTCOMES[outcome],
            revision=revision,
            job_id=job_id,
            media_id=media_id,
            deliveries=states.get(row_id, {}),
        )
        for row_id, digest, outcome, accepted_at, product, kind, revision, job_id, media_id in rows
    )


async def _find_rows(database: Database, query: Conditions, limit: int) -> Sequence[Row]:
    columns = "e.id, e.key_digest, e.outcome, e.accepted_at, e.product, e.kind, e.revision, e.job_id, e.media_id"
    return await database.fetch(
        f"{query.select(columns)} ORDER BY e.id DESC LIMIT {query.mark(limit)}", *query.parameters
    )


async def _latest_states(database: Database, row_ids: Sequence[int]) -> dict[int, dict[str, DeliveryState]]:
    inactive = await _inactive_sinks(database)
    rows = await database.fetch_for(
        "SELECT sink, replay, event_id, state FROM deliveries WHERE event_id IN ({values})", row_ids
    )
    states: dict[int, dict[str, DeliveryState]] = {}
    for sink, _, row_id, stored in sorted(map(tuple, rows)):
        states.setdefault(row_id, {})[sink] = shown_state(stored, is_active=sink not in inactive)
    return states


async def count_events(database: Database, wanted: EventFilter, *, last_id: int | None = None) -> int:
    """Of the events up to an id, if one is given."""
    ids = await find_ids(database, wanted)
    if last_id is not None:
        ids = range(ids.start, min(ids.stop, last_id + 1))
    query = compile_filter(database, wanted, ids)
    return int(await database.fetch_value(query.select("count(*)"), *query.parameters))


async def find_event(database: Database, wanted: str) -> EventRecord | None:
    try:
        digest, outcome = parse_event_id(wanted)
    except ValueError:
        return None
    row = await database.fetch_row(
        "SELECT e.id, e.accepted_at, b.body, e.is_routed FROM events e"
        " LEFT JOIN event_bodies b ON b.event_id = e.id"
        f" WHERE {database.by_key('e.key_digest = $1 AND e.outcome = $2')}",
        digest,
        OUTCOMES.index(outcome),
    )
    if row is None:
        return None
    row_id, accepted_at, body, is_routed = row
    receipts = await database.fetch(
        f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE id IN (SELECT receipt_id FROM events WHERE id = $1"
        " UNION ALL SELECT receipt_id FROM event_receipts WHERE event_id = $1) ORDER BY id LIMIT 1000",
        row_id,
    )
    return EventRecord(
        id=wanted,
        accepted_at=from_milliseconds(accepted_at),
        body=None if body is None else body.encode(),
        is_routed=bool(is_routed),
        receipts=tuple(map(_receipt_record, receipts)),
        deliveries=await _deliveries(database, row_id),
    )


async def _deliveries(database: Database, row_id: int) -> tuple[DeliveryRecord, ...]:
    inactive = await _inactive_sinks(database)
    history: dict[tuple[str, int], list[AttemptRecord]] = {}
    for sink, replay, number, started_at, duration_ms, result, error in await database.fetch(
        "SELECT sink, replay, number, started_at, duration_ms, result, error FROM attempts WHERE event_id = $1"
        " ORDER BY started_at, number",
        row_id,
    ):
        attempt = AttemptRecord(number, from_milliseconds(started_at), duration_ms / 1000, result, error)
        history.setdefault((sink, replay), []).append(attempt)
    rows = await database.fetch(
        "SELECT sink, replay, state, attempts, due_at, changed_at, error FROM deliveries WHERE event_id = $1", row_id
    )
    records = []
    for sink, replay, stored, attempts, due_at, changed_at, error in sorted(map(tuple, rows)):
        state = shown_state(stored, is_active=sink not in inactive)
        records.append(
            DeliveryRecord(
                sink=sink,
                replay=replay,
                state=state,
                attempts=attempts,
                due_at=None if due_at is None or state == "parked" else from_milliseconds(due_at),
                changed_at=from_milliseconds(changed_at),
                error=error,
                history=tuple(history.get((sink, replay), ())),
            )
        )
    return tuple(records)
