"""Lists and records on SQLite, for the readers: each query gets a connection inside a transaction that only reads."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, cast

from service.events import OUTCOMES, event_id, parse_event_id
from service.inbox.base import (
    AttemptRecord,
    DeliveryRecord,
    DeliveryState,
    EventFilter,
    EventRecord,
    EventSummary,
    ReceiptRecord,
    ReceiptState,
    SinkRecord,
    StoredReceipt,
)
from service.inbox.rows import from_milliseconds, shown_state
from service.inbox.sqlite_filter import Query, compile_filter

_NEWEST = 10_000
_RECEIPT_COLUMNS = "id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids"


def next_due_at(connection: sqlite3.Connection, sink: str) -> int | None:
    row = connection.execute(
        "SELECT min(due_at) FROM deliveries WHERE sink = ?1 AND due_at IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM sinks WHERE name = ?1 AND state <> 'active')",
        (sink,),
    ).fetchone()
    return cast(int | None, row[0])


def find_event(connection: sqlite3.Connection, wanted: str) -> EventRecord | None:
    try:
        digest, outcome = parse_event_id(wanted)
    except ValueError:
        return None
    row = connection.execute(
        "SELECT e.id, e.accepted_at, b.body, e.receipt_id, e.is_routed FROM events e"
        " LEFT JOIN event_bodies b ON b.event_id = e.id WHERE e.key_digest = ? AND e.outcome = ?",
        (digest, OUTCOMES.index(outcome)),
    ).fetchone()
    if row is None:
        return None
    row_id, accepted_at, body, receipt_id, is_routed = row
    receipts = connection.execute(
        f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE id = ? OR id IN"
        " (SELECT receipt_id FROM event_receipts WHERE event_id = ?) ORDER BY id LIMIT 1000",
        (receipt_id, row_id),
    )
    return EventRecord(
        id=wanted,
        accepted_at=from_milliseconds(accepted_at),
        body=None if body is None else body.encode(),
        is_routed=bool(is_routed),
        receipts=tuple(map(_receipt_record, receipts)),
        deliveries=_deliveries(connection, row_id),
    )


def _deliveries(connection: sqlite3.Connection, row_id: int) -> tuple[DeliveryRecord, ...]:
    inactive = _inactive_sinks(connection)
    history: dict[tuple[str, int], list[AttemptRecord]] = {}
    for sink, replay, number, started_at, duration_ms, result, error in connection.execute(
        "SELECT sink, replay, number, started_at, duration_ms, result, error FROM attempts WHERE event_id = ?"
        " ORDER BY sink, replay, started_at, number",
        (row_id,),
    ):
        attempt = AttemptRecord(number, from_milliseconds(started_at), duration_ms / 1000, result, error)
        history.setdefault((sink, replay), []).append(attempt)
    records = []
    for sink, replay, stored, attempts, due_at, changed_at, error in connection.execute(
        "SELECT sink, replay, state, attempts, due_at, changed_at, error FROM deliveries WHERE event_id = ?"
        " ORDER BY sink, replay",
        (row_id,),
    ):
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


def _inactive_sinks(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sinks WHERE state <> 'active'")}


def list_receipts(
    connection: sqlite3.Connection,
    *,
    state: ReceiptState | None,
    source: str | None,
    since: int | None,
    before_id: int | None,
    limit: int,
) -> tuple[ReceiptRecord, ...]:
    conditions = ["1"]
    parameters: list[object] = []
    for condition, value in (
        ("state = ?", state),
        ("source = ?", source),
        ("received_at >= ?", since),
        ("id < ?", before_id),
    ):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    rows = connection.execute(
        f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
        (*parameters, limit),
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


def outdated_receipts(
    connection: sqlite3.Connection, *, parser_version: int, after_id: int, limit: int, with_conflicts: bool
) -> list[StoredReceipt]:
    rows = connection.execute(
        "SELECT id, source, verified_by, received_at, body, meta FROM receipts WHERE id > ?"
        " AND (state = 'unparsed' OR parser < ? OR (? AND state = 'conflict')) AND body IS NOT NULL"
        " ORDER BY id LIMIT ?",
        (after_id, parser_version, with_conflicts, limit),
    )
    return [
        StoredReceipt(
            row_id, source, verified_by, from_milliseconds(received_at), body, json.loads(meta) if meta else {}
        )
        for row_id, source, verified_by, received_at, body, meta in rows
    ]


def list_events(
    connection: sqlite3.Connection, wanted: EventFilter, *, before: int | None, limit: int
) -> tuple[EventSummary, ...]:
    (end_id,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM events").fetchone()
    if before is not None:
        end_id = min(end_id, before)
    # Where most events are of the state that is asked for, the newest are enough, and gathering all would take long.
    rows = _find_rows(connection, compile_filter(connection, wanted, by_index=False), end_id - _NEWEST, end_id, limit)
    if len(rows) < limit:
        rows = _find_rows(connection, compile_filter(connection, wanted), 0, end_id, limit)
    states = _latest_states(connection, [row[0] for row in rows])
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


def _find_rows(connection: sqlite3.Connection, query: Query, first_id: int, end_id: int, limit: int) -> list[Any]:
    return connection.execute(
        "SELECT e.id, e.key_digest, e.outcome, e.accepted_at, e.product, e.kind, e.revision, e.job_id, e.media_id"
        f" FROM {query.source} WHERE {query.condition} ORDER BY e.id DESC LIMIT :limit",
        query.within(first_id=first_id, end_id=end_id) | {"limit": limit},
    ).fetchall()


def _latest_states(connection: sqlite3.Connection, row_ids: Sequence[int]) -> dict[int, dict[str, DeliveryState]]:
    inactive = _inactive_sinks(connection)
    states: dict[int, dict[str, DeliveryState]] = {}
    for row_id in row_ids:
        for sink, stored in connection.execute(
            "SELECT sink, state FROM deliveries WHERE event_id = ? ORDER BY sink, replay", (row_id,)
        ):
            states.setdefault(row_id, {})[sink] = shown_state(stored, is_active=sink not in inactive)
    return states


def count_events(connection: sqlite3.Connection, wanted: EventFilter) -> int:
    query = compile_filter(connection, wanted)
    (count,) = connection.execute(
        f"SELECT count(*) FROM {query.source} WHERE {query.condition}", query.parameters
    ).fetchone()
    return int(count)


def list_sinks(connection: sqlite3.Connection) -> tuple[SinkRecord, ...]:
    rows = connection.execute("SELECT name, state, reason, changed_by, changed_at FROM sinks WHERE state <> 'active'")
    inactive = {row[0]: row for row in rows}
    counts: dict[str, dict[DeliveryState, int]] = {}
    oldest: dict[str, int] = {}
    for sink, stored, count, first_id in connection.execute(
        "SELECT sink, state, count(*), min(event_id) FROM deliveries INDEXED BY deliveries_due"
        " WHERE due_at IS NOT NULL GROUP BY sink, state UNION ALL"
        " SELECT sink, state, count(*), min(event_id) FROM deliveries INDEXED BY deliveries_waiting"
        " WHERE due_at IS NULL AND state IN ('pending', 'dead') GROUP BY sink, state"
    ):
        state = shown_state(stored, is_active=sink not in inactive)
        by_state = counts.setdefault(sink, {})
        by_state[state] = by_state.get(state, 0) + count
        if state != "dead":
            oldest[sink] = min(first_id, oldest.get(sink, first_id))
    records = []
    for name in sorted(inactive.keys() | counts.keys()):
        _, state, reason, changed_by, changed_at = inactive.get(name, (name, "active", None, None, None))
        oldest_at = None
        if name in oldest:
            (oldest_at,) = connection.execute("SELECT accepted_at FROM events WHERE id = ?", (oldest[name],)).fetchone()
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
