"""What operators see of receipts and events."""

import json
from collections.abc import Sequence
from typing import Any

from media_callbacks.inbox.database import Database, Row, identity_of
from media_callbacks.inbox.operating.filters import Conditions, compile_filter, find_ids
from media_callbacks.inbox.operating.sinks import find_inactive, shown_state
from media_callbacks.inbox.records import (
    AttemptRecord,
    DeliveryRecord,
    DeliveryState,
    EventFilter,
    EventRecord,
    EventSummary,
    ReceiptRecord,
)
from media_callbacks.inbox.rows import from_milliseconds, to_id
from media_callbacks.model.identity import event_id
from media_callbacks.model.kinds import OUTCOMES
from media_callbacks.model.receipts import ReceiptState, StoredReceipt

_NEWEST = 10_000
_RECEIPT_COLUMNS = "id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids"


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
    inactive = await find_inactive(database)
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
        identity = identity_of(wanted)
    except ValueError:
        return None
    known = await database.find_event(*identity)
    if known is None:
        return None
    body = (await database.find_bodies([known.row_id])).get(known.row_id)
    is_routed = await database.fetch_value("SELECT is_routed FROM events WHERE id = $1", known.row_id)
    erased_at = await database.fetch_value("SELECT erased_at FROM erased_events WHERE event_id = $1", known.row_id)
    receipts = await database.fetch(
        f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE id IN (SELECT receipt_id FROM events WHERE id = $1"
        " UNION ALL SELECT receipt_id FROM event_receipts WHERE event_id = $1) ORDER BY id LIMIT 1000",
        known.row_id,
    )
    return EventRecord(
        id=wanted,
        accepted_at=from_milliseconds(known.accepted_at),
        body=None if body is None else body.encode(),
        is_routed=bool(is_routed),
        receipts=tuple(map(_receipt_record, receipts)),
        deliveries=await _deliveries(database, known.row_id),
        erased_at=None if erased_at is None else from_milliseconds(erased_at),
    )


async def _deliveries(database: Database, row_id: int) -> tuple[DeliveryRecord, ...]:
    inactive = await find_inactive(database)
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
