"""What operators see of receipts and events."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from media_callbacks.inbox.database import Database, Row, identity_of
from media_callbacks.inbox.keeping.spans import Candidates
from media_callbacks.inbox.operating.filters import (
    Conditions,
    compile_filter,
    find_candidates,
    find_ids,
    ids_between,
    is_by_index,
)
from media_callbacks.inbox.operating.sinks import find_inactive, shown_state
from media_callbacks.inbox.records import (
    AttemptRecord,
    DeliveryRecord,
    DeliveryState,
    EventFilter,
    EventRecord,
    EventSummary,
    KeptReceipt,
    ReceiptRecord,
)
from media_callbacks.inbox.rows import from_milliseconds, to_id
from media_callbacks.model.identity import event_id, outcome_of
from media_callbacks.model.receipts import ReceiptState, StoredReceipt

_NEWEST = 10_000
_MAX_RECEIPTS = 1000
# For the index of these, which are few.
IN_TROUBLE = "state IN ('unparsed', 'conflict', 'differing')"
_RECEIPT_COLUMNS = "id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids"


# Receipts


async def list_receipts(
    database: Database,
    *,
    state: ReceiptState | None,
    source: str | None,
    ids: Collection[int] | None = None,
    since: int | None,
    before_id: int | None,
    limit: int,
) -> tuple[ReceiptRecord, ...]:
    """Args: ids: Only these, of which there are not many; None for all."""
    if ids is not None:
        end_id, since_at = to_id(before_id), from_milliseconds(since or 0)
        found = [
            receipt
            for receipt in await read_receipts(database, ids)
            if receipt.id < end_id
            and state in (None, receipt.state)
            and source in (None, receipt.source)
            and receipt.received_at >= since_at
        ]
        return tuple(found[::-1][:limit])
    is_in_trouble = state in ("unparsed", "conflict", "differing")
    # They are stored when they were received, or later.
    candidates = Candidates(
        database, "receipts", await ids_between(database, "receipts", since, None, before_id=before_id)
    )
    if not is_in_trouble:
        await candidates.ask("receipt_spans", source=source, state=state)
    found_rows: list[Row] = []
    for some in candidates.newest_first():
        query = Conditions("receipts" + (database.using("receipts_in_trouble") if is_in_trouble else ""))
        if is_in_trouble:
            query.add(IN_TROUBLE)
        query.add("id >= {} AND id < {}", some.start, some.stop)
        for condition, value in (("state = {}", state), ("source = {}", source), ("received_at >= {}", since)):
            if value is not None:
                query.add(condition, value)
        found_rows += await database.fetch(
            f"{query.select(_RECEIPT_COLUMNS)} ORDER BY id DESC LIMIT {query.mark(limit - len(found_rows))}",
            *query.parameters,
        )
        if len(found_rows) >= limit:
            break
    return tuple(map(_receipt_record, found_rows))


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


async def find_receipt(database: Database, receipt_id: int) -> KeptReceipt | None:
    row = await database.fetch_row(
        f"SELECT body, meta, parser, {_RECEIPT_COLUMNS} FROM receipts WHERE id = $1", to_id(receipt_id)
    )
    if row is None:
        return None
    body, meta, parser_version, *columns = row
    return KeptReceipt(_receipt_record(columns), body, json.loads(meta) if meta else {}, parser_version)


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
    end_id = min(ids.stop, to_id(before))
    # Where most events are of the state that is asked for, the newest are enough, and gathering all would take long.
    newest = range(max(ids.start, end_id - _NEWEST), end_id)
    rows = await _find_rows(database, compile_filter(database, wanted, newest, by_index=False), limit)
    if len(rows) < limit and newest.start > ids.start:
        older = range(ids.start, newest.start)
        rows = [*rows, *await _find_older(database, wanted, older, limit - len(rows))]
    states = await _latest_states(database, [row_id for row_id, *_ in rows])
    return tuple(
        EventSummary(
            cursor=row_id,
            id=event_id(digest, outcome_of(digest, outcome)),
            accepted_at=from_milliseconds(accepted_at),
            product=product,
            kind=kind,
            outcome=outcome_of(digest, outcome),
            revision=revision,
            job_id=job_id,
            media_id=media_id,
            deliveries=states.get(row_id, {}),
        )
        for row_id, digest, outcome, accepted_at, product, kind, revision, job_id, media_id in rows
    )


async def _find_older(database: Database, wanted: EventFilter, ids: range, limit: int) -> Sequence[Row]:
    candidates = await find_candidates(database, wanted, ids)
    if candidates.are_all or is_by_index(wanted):
        # With the sign no index is gone through in this order: what was given up is found by when, and sorted.
        order = "+e.id" if wanted.asks_when_given_up or wanted.media_id is not None else "e.id"
        return await _find_rows(database, compile_filter(database, wanted, ids), limit, order)
    rows: list[Row] = []
    for some in candidates.newest_first():
        rows += await _find_rows(
            database, compile_filter(database, wanted, some, by_index=False, is_short=True), limit - len(rows)
        )
        if len(rows) >= limit:
            break
    return rows


async def _find_rows(database: Database, query: Conditions, limit: int, order: str = "e.id") -> Sequence[Row]:
    columns = "e.id, e.key_digest, e.outcome, e.accepted_at, e.product, e.kind, e.revision, e.job_id, e.media_id"
    return await database.fetch(
        f"{query.select(columns)} ORDER BY {order} DESC LIMIT {query.mark(limit)}", *query.parameters
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
    return None if known is None else (await read_events(database, [known.row_id]))[0]


async def read_events(database: Database, row_ids: Sequence[int]) -> list[EventRecord]:
    """Events in order of acceptance, each with its receipts and deliveries."""
    rows = await database.fetch_for(
        "SELECT e.id, e.key_digest, e.outcome, e.revision, e.accepted_at, e.product, e.kind, e.job_id, e.media_id,"
        " e.is_routed FROM events e WHERE e.id IN ({values})",
        row_ids,
    )
    bodies = await database.find_bodies(row_ids)
    erased_at = await database.fetch_map(
        "SELECT event_id, erased_at FROM erased_events WHERE event_id IN ({values})", row_ids
    )
    receipts = await _receipts_of(database, row_ids)
    deliveries = await _deliveries(database, row_ids)
    return [
        EventRecord(
            id=event_id(digest, outcome_of(digest, outcome)),
            accepted_at=from_milliseconds(accepted_at),
            product=product,
            kind=kind,
            outcome=outcome_of(digest, outcome),
            revision=revision,
            job_id=job_id,
            media_id=media_id,
            body=bodies[row_id].encode() if row_id in bodies else None,
            is_routed=bool(is_routed),
            receipts=tuple(receipts.get(row_id, ())),
            deliveries=tuple(deliveries.get(row_id, ())),
            erased_at=from_milliseconds(erased_at[row_id]) if row_id in erased_at else None,
        )
        for row_id, digest, outcome, revision, accepted_at, product, kind, job_id, media_id, is_routed in sorted(
            map(tuple, rows)
        )
    ]


async def _receipts_of(database: Database, row_ids: Sequence[int]) -> dict[int, list[ReceiptRecord]]:
    """The receipts of events, oldest first."""
    shown: dict[int, list[int]] = {}
    for row_id in row_ids:
        # Each by itself: somebody may repeat a callback without end.
        rows = await database.fetch(
            "SELECT receipt_id FROM events WHERE id = $1"
            " UNION SELECT receipt_id FROM event_receipts WHERE event_id = $1 ORDER BY receipt_id LIMIT $2",
            row_id,
            _MAX_RECEIPTS,
        )
        shown[row_id] = [receipt_id for (receipt_id,) in rows]
    known = {one.id: one for one in await read_receipts(database, {id_ for ids in shown.values() for id_ in ids})}
    return {row_id: [known[id_] for id_ in receipt_ids if id_ in known] for row_id, receipt_ids in shown.items()}


async def read_receipts(database: Database, row_ids: Collection[int]) -> list[ReceiptRecord]:
    """Oldest first, as far as they are still kept."""
    rows = await database.fetch_for(
        f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE id IN ({{values}})", sorted(row_ids)
    )
    return sorted(map(_receipt_record, rows), key=lambda receipt: receipt.id)


async def _deliveries(database: Database, row_ids: Sequence[int]) -> dict[int, list[DeliveryRecord]]:
    inactive = await find_inactive(database)
    history: dict[tuple[int, str, int], list[AttemptRecord]] = {}
    attempts = await database.fetch_for(
        "SELECT started_at, number, event_id, sink, replay, duration_ms, result, error FROM attempts"
        " WHERE event_id IN ({values})",
        row_ids,
    )
    for started_at, number, row_id, sink, replay, duration_ms, result, error in sorted(
        map(tuple, attempts), key=lambda row: row[:5]
    ):
        attempt = AttemptRecord(number, from_milliseconds(started_at), duration_ms / 1000, result, error)
        history.setdefault((row_id, sink, replay), []).append(attempt)
    rows = await database.fetch_for(
        "SELECT event_id, sink, replay, state, attempts, due_at, changed_at, error FROM deliveries"
        " WHERE event_id IN ({values})",
        row_ids,
    )
    records: dict[int, list[DeliveryRecord]] = {}
    for row_id, sink, replay, stored, made, due_at, changed_at, error in sorted(
        map(tuple, rows), key=lambda row: row[:3]
    ):
        state = shown_state(stored, is_active=sink not in inactive)
        records.setdefault(row_id, []).append(
            DeliveryRecord(
                sink=sink,
                replay=replay,
                state=state,
                attempts=made,
                due_at=None if due_at is None or state == "parked" else from_milliseconds(due_at),
                changed_at=from_milliseconds(changed_at),
                error=error,
                history=tuple(history.get((row_id, sink, replay), ())),
            )
        )
    return records
