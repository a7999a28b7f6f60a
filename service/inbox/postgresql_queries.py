"""
The queries of the inbox on PostgreSQL. Each takes a connection. What is written in one go is a function of the
database, in ``sql/``. Times are milliseconds since 1970 in UTC. What has to do with expected jobs and with asking the
vendor is in ``postgresql_jobs``.
"""

import contextlib
import json
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from service.events import OUTCOMES, Delivery, Event, event_id, job_prefix, key_digest, parse_event_id
from service.inbox.base import (
    AttemptRecord,
    AttemptResult,
    DeliveryRecord,
    DeliveryState,
    EventFilter,
    EventRecord,
    EventSummary,
    Hold,
    NamelessJob,
    Purged,
    Receipt,
    ReceiptRecord,
    ReceiptState,
    Reparsed,
    ReplayRecord,
    ReplayRequest,
    SinkRecord,
    SinkState,
    StoredReceipt,
    Verdict,
    replayed_states,
)
from service.inbox.rows import (
    Arrival,
    dump_filter,
    from_milliseconds,
    load_filter,
    replay_record,
    shown_state,
    to_milliseconds,
)

# How many locks stand for all keys. Enough that two small batches seldom meet; few enough for the server's table of
# locks, which has room for some thousands, however large batches and however many services there are.
_LOCKS = 1024
HELD_REASON = "waits for the vendor's answer"
_FIRST_REVISION = '"revision":1,'
# Events are accepted nearly in order of their ids; clocks that differ or are set back may disturb that for this long.
_DISORDER_MS = 3_600_000
_MAX_EVENTS_PER_STEP = 500
_IDS_PER_STEP = 50_000
_MAX_ID = 2**63 - 1


def to_text(value: str | None) -> str | None:
    """
    What PostgreSQL can keep of a text: NUL and lone halves of surrogate pairs become U+FFFD.

    Events keep the original, because JSON escapes it, and identity is in the digest. So this is only about what lists
    show and are asked for: filters pass through here as well.
    """
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_id(number: int | None) -> int:
    """A number of a row as given by a caller, within what the database counts to; the highest for none."""
    return _MAX_ID if number is None else max(-1, min(number, _MAX_ID))


def _dump(value: Sequence[str] | Mapping[str, str]) -> str | None:
    # In ASCII, so that nothing is lost whatever is in it.
    return json.dumps(value) if value else None


# Receipts in


@dataclass(slots=True)
class Candidate:
    """An event that a receipt brings, new or not. ``position`` is that of the receipt, from 1."""

    position: int
    at: int
    event: Event
    body: str
    binding: str | None
    sinks: tuple[str, ...]
    hold: Hold | None = None
    nameless: NamelessJob | None = None

    def lock(self) -> int:
        return key_lock(key_digest(self.event.id))


def key_lock(digest: bytes) -> int:
    """Which lock stands for a key."""
    return int.from_bytes(digest[-2:]) % _LOCKS


def _candidates(arrivals: Sequence[Arrival]) -> list[Candidate]:
    return [
        Candidate(position, arrival.at, entry.event, body, entry.binding, entry.sinks, entry.hold, entry.nameless)
        for position, arrival in enumerate(arrivals, 1)
        for entry, body in zip(arrival.receipt.entries, arrival.bodies, strict=True)
    ]


def event_arrays(candidates: Sequence[Candidate]) -> tuple[list[Any], ...]:
    """The parameters from ``e_at`` to ``e_sinks``."""
    data = [candidate.event.data for candidate in candidates]
    return (
        [candidate.at for candidate in candidates],
        [key_digest(candidate.event.id) for candidate in candidates],
        [OUTCOMES.index(one.outcome) for one in data],
        [one.product for one in data],
        [one.kind for one in data],
        [to_text(one.job_id) for one in data],
        [to_text(one.media_id) for one in data],
        [candidate.body for candidate in candidates],
        [_revision_at(candidate.body) for candidate in candidates],
        [to_text(candidate.binding) for candidate in candidates],
        [" ".join(candidate.sinks) for candidate in candidates],
    )


def _hold_arrays(candidates: Sequence[Candidate]) -> tuple[list[Any], ...]:
    """The parameters from ``h_digest`` to ``h_body``."""
    holds = [candidate.hold for candidate in candidates if candidate.hold is not None]
    return (
        [key_digest(candidate.event.id) for candidate in candidates],
        [OUTCOMES.index(candidate.event.data.outcome) for candidate in candidates],
        [to_text(candidate.binding) for candidate in candidates],
        [candidate.event.data.product for candidate in candidates],
        [hold.reason for hold in holds],
        [json.dumps(asdict(hold.reference)) for hold in holds],
        [None if one.nameless is None else json.dumps(asdict(one.nameless)) for one in candidates],
        [to_milliseconds(hold.until) for hold in holds],
        [" ".join(candidate.sinks) for candidate in candidates],
        [candidate.body for candidate in candidates],
    )


def _revision_at(body: str) -> int:
    # The last one is ours: what follows it is names and times of our own.
    return body.rindex(_FIRST_REVISION) + len(_FIRST_REVISION) - 1


def _locks(candidates: Sequence[Candidate]) -> list[int]:
    return sorted({candidate.lock() for candidate in candidates})


async def put(connection: Any, arrivals: Sequence[Arrival]) -> list[Verdict]:
    """Receipts, their events, and the deliveries of the events that are new; durable when it returns."""
    return [verdict for _, verdict in await accept(connection, arrivals)]


async def accept(connection: Any, arrivals: Sequence[Arrival]) -> list[tuple[int, Verdict]]:
    """The same within a transaction, with the receipts' ids."""
    every = _candidates(arrivals)
    held = [candidate for candidate in every if candidate.hold is not None]
    candidates = [candidate for candidate in every if candidate.hold is None] if held else every
    receipts = [arrival.receipt for arrival in arrivals]
    row = await connection.fetchrow(
        "SELECT * FROM accept_receipts_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
        " $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36,"
        " $37)",
        _locks(every),
        [arrival.at for arrival in arrivals],
        [receipt.source for receipt in receipts],
        [receipt.product for receipt in receipts],
        [receipt.transport for receipt in receipts],
        [receipt.verified_by for receipt in receipts],
        [to_text(receipt.reason) for receipt in receipts],
        [_dump(receipt.warnings) for receipt in receipts],
        [_dump(dict(receipt.meta)) for receipt in receipts],
        [receipt.parser_version for receipt in receipts],
        [_event_ids(receipt) for receipt in receipts],
        [receipt.body for receipt in receipts],
        [candidate.position for candidate in candidates],
        *event_arrays(candidates),
        [candidate.event.data.transport for candidate in candidates],
        [candidate.position for candidate in held],
        *_hold_arrays(held),
        HELD_REASON,
    )
    accepted: dict[int, list[Event]] = {}
    for n, revision in zip(row["new_positions"] or (), row["new_revisions"] or (), strict=True):
        candidate = candidates[n - 1]
        event = candidate.event if revision == 1 else candidate.event.with_revision(revision)
        accepted.setdefault(candidate.position, []).append(event)
    held_positions: Sequence[int] = row["held_positions"] or ()
    return [
        (row_id, Verdict(state, tuple(accepted.get(position, ())), held_positions.count(position)))
        for position, (row_id, state) in enumerate(zip(row["ids"], row["states"], strict=True), 1)
    ]


def _event_ids(receipt: Receipt) -> str | None:
    """Of the events that are not held."""
    return " ".join([entry.event.id for entry in receipt.entries if entry.hold is None]) or None


async def outdated_receipts(
    connection: Any, *, parser_version: int, after_id: int, limit: int, with_conflicts: bool
) -> tuple[StoredReceipt, ...]:
    rows = await connection.fetch(
        "SELECT id, source, verified_by, received_at, body, meta FROM receipts WHERE id > $1"
        " AND (state = 'unparsed' OR parser < $2 OR ($4 AND state = 'conflict')) AND body IS NOT NULL"
        " ORDER BY id LIMIT $3",
        after_id,
        parser_version,
        limit,
        with_conflicts,
    )
    return tuple(
        StoredReceipt(
            row_id, source, verified_by, from_milliseconds(received_at), body, json.loads(meta) if meta else {}
        )
        for row_id, source, verified_by, received_at, body, meta in rows
    )


async def reparse(connection: Any, receipt_id: int, arrival: Arrival, *, dry_run: bool) -> Reparsed:
    """Give a kept receipt its present meaning; in a dry run everything is taken back."""
    async with rehearsed(connection, dry_run=dry_run):
        return await reparse_within(connection, receipt_id, arrival)


@contextlib.asynccontextmanager
async def rehearsed(connection: Any, *, dry_run: bool) -> AsyncIterator[None]:
    """A transaction that is taken back after a failure, and after a dry run."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except BaseException:
        await transaction.rollback()
        raise
    await (transaction.rollback() if dry_run else transaction.commit())


async def reparse_within(connection: Any, receipt_id: int, arrival: Arrival) -> Reparsed:
    """The same in a transaction of the caller's."""
    every = _candidates([arrival])
    candidates = [candidate for candidate in every if candidate.hold is None]
    receipt = arrival.receipt
    row = await connection.fetchrow(
        "SELECT * FROM accept_events_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        _locks(every),
        [receipt_id] * len(candidates),
        *event_arrays(candidates),
    )
    new_positions, bound = row["new_positions"] or (), row["bound"] or [None] * len(candidates)
    if new_positions:
        await end_jobs(connection, [candidates[n - 1] for n in new_positions])
    changed = []
    for n, candidate in enumerate(candidates, 1):
        is_repeated = n not in new_positions and bound[n - 1] is None
        if is_repeated and await _update_event(connection, receipt_id, candidate):
            changed.append(candidate.event.id)
    held = [candidate for candidate in every if candidate.hold is not None]
    known, bound_held = await _hold_again(connection, receipt_id, held)
    conflicts = [(candidate, value) for candidate, value in zip(candidates, bound, strict=True) if value is not None]
    conflicts += bound_held
    event_ids = [candidate.event.id for candidate in [*candidates, *known]]
    brought = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM events e WHERE e.receipt_id = $1 AND (e.key_digest = ANY ($2) OR e.key_digest IN"
        " (SELECT decode(substr(brought, 5, 32), 'hex') FROM receipts r,"
        " unnest(string_to_array(r.event_ids, ' ')) AS brought WHERE r.id = $1)))",
        receipt_id,
        [key_digest(candidate.event.id) for candidate in every],
    )
    is_held = await connection.fetchval("SELECT EXISTS (SELECT FROM held WHERE receipt_id = $1)", receipt_id)
    state: ReceiptState = "duplicate" if every else "unparsed"
    reason = HELD_REASON if is_held else receipt.reason
    if conflicts:
        candidate, value = conflicts[0]
        reason = f"the key is bound to {value[:64]}, this receipt says {candidate.binding:.64}"
        state = "conflict"
    if brought or is_held:
        state = "accepted"
    await connection.execute(
        "UPDATE receipts SET state = $2, reason = $3, warnings = $4, parser = $5, event_ids = $6 WHERE id = $1",
        receipt_id,
        state,
        to_text(reason),
        _dump(receipt.warnings),
        receipt.parser_version,
        # A conflict has brought nothing, though there may be an event under the id that it would have had.
        None if state == "conflict" else " ".join(event_ids) or None,
    )
    return Reparsed(state, tuple(candidates[n - 1].event.id for n in new_positions), tuple(changed))


async def _hold_again(
    connection: Any, receipt_id: int, held: Sequence[Candidate]
) -> tuple[list[Candidate], list[tuple[Candidate, str]]]:
    """
    Hold what a receipt that is read again brings, in its present form.

    Returns:
        Those whose events are there already, and those that are refused with what their key is bound to.
    """
    known, refused = [], []
    for row in await connection.fetch(
        "SELECT * FROM hold_events_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        [receipt_id] * len(held),
        [candidate.at for candidate in held],
        *_hold_arrays(held),
    ):
        candidate = held[row["n"] - 1]
        if row["state"] == "known":
            known.append(candidate)
        elif row["state"] == "conflict":
            refused.append((candidate, row["bound_to"]))
        elif row["state"] == "waiting":
            await connection.execute(
                "UPDATE held SET body = $3, sinks = $4 WHERE receipt_id = $1 AND key_digest = $2 AND outcome = $5"
                " AND binding IS NOT DISTINCT FROM $6",
                receipt_id,
                key_digest(candidate.event.id),
                candidate.body,
                " ".join(candidate.sinks),
                OUTCOMES.index(candidate.event.data.outcome),
                to_text(candidate.binding),
            )
    return known, refused


async def end_jobs(connection: Any, accepted: Sequence[Candidate]) -> None:
    """End the expected jobs of events that were just accepted."""
    await connection.execute(
        "SELECT end_jobs_1($1, $2, $3, $4, $5)",
        list(range(1, len(accepted) + 1)),
        [candidate.at for candidate in accepted],
        [key_digest(candidate.event.id) for candidate in accepted],
        [OUTCOMES.index(candidate.event.data.outcome) for candidate in accepted],
        [candidate.event.data.transport for candidate in accepted],
    )


async def _update_event(connection: Any, receipt_id: int, candidate: Candidate) -> bool:
    """Put the present content into an event that this receipt brought. False where it is the same, or not its."""
    event = candidate.event
    row = await connection.fetchrow(
        "SELECT e.id, e.revision, b.body FROM events e JOIN event_bodies b ON b.event_id = e.id"
        " WHERE e.key_digest = $1 AND e.outcome = $2 AND e.receipt_id = $3",
        key_digest(event.id),
        OUTCOMES.index(event.data.outcome),
        receipt_id,
    )
    if row is None:
        return False
    new_body = event.with_revision(row["revision"]).to_json().decode()
    if new_body == row["body"]:
        return False
    await connection.execute("UPDATE event_bodies SET body = $2 WHERE event_id = $1", row["id"], new_body)
    await connection.execute(
        "UPDATE events SET kind = $2, job_id = $3, media_id = $4 WHERE id = $1",
        row["id"],
        event.data.kind,
        to_text(event.data.job_id),
        to_text(event.data.media_id),
    )
    return True


# Deliveries


async def claim(connection: Any, sink: str, *, limit: int, now: int, until: int, lease: str) -> list[Delivery]:
    rows = await connection.fetch(
        "SELECT * FROM claim_deliveries_1($1, $2, $3, $4, $5)", sink, now, until, lease, limit
    )
    return [
        Delivery(
            row_id=row_id,
            sink=sink,
            event_id=event_id(digest, OUTCOMES[outcome]),
            body=body.encode(),
            attempt=attempts + 1,
            lease=lease,
            replay=replay,
        )
        for row_id, replay, attempts, digest, outcome, body in rows
    ]


async def record(connection: Any, results: Sequence[AttemptResult], now: int) -> tuple[list[bool], set[str]]:
    """Returns which results still held their lease, and the sinks where a later outcome may go now."""
    deliveries = [result.delivery for result in results]
    row = await connection.fetchrow(
        "SELECT * FROM record_attempts_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        now,
        [delivery.row_id for delivery in deliveries],
        [delivery.sink for delivery in deliveries],
        [delivery.replay for delivery in deliveries],
        [delivery.lease for delivery in deliveries],
        [result.state for result in results],
        [None if result.due_at is None else to_milliseconds(result.due_at) for result in results],
        [to_text(result.error) for result in results],
        [None if result.started_at is None else to_milliseconds(result.started_at) for result in results],
        [round(result.duration_s * 1000) for result in results],
        [delivery.attempt for delivery in deliveries],
    )
    kept = set(row["kept"] or ())
    return [n in kept for n in range(1, len(results) + 1)], set(row["released"] or ())


async def next_due_at(connection: Any, sink: str) -> int | None:
    return cast(
        int | None,
        await connection.fetchval(
            "SELECT min(due_at) FROM deliveries WHERE sink = $1 AND due_at IS NOT NULL"
            " AND NOT EXISTS (SELECT FROM sinks WHERE name = $1 AND state <> 'active')",
            sink,
        ),
    )


async def set_sink_state(
    connection: Any, name: str, state: SinkState, *, reason: str | None, changed_by: str | None, now: int
) -> None:
    await connection.execute(
        "INSERT INTO sinks (name, state, reason, changed_by, changed_at) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state, reason = excluded.reason,"
        " changed_by = excluded.changed_by, changed_at = excluded.changed_at",
        name,
        state,
        to_text(reason),
        to_text(changed_by),
        now,
    )


# What operators see

_RECEIPT_COLUMNS = "id, received_at, source, product, transport, verified_by, state, reason, warnings, event_ids"


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


async def list_receipts(
    connection: Any,
    *,
    state: ReceiptState | None,
    source: str | None,
    since: int | None,
    before_id: int | None,
    limit: int,
) -> tuple[ReceiptRecord, ...]:
    query = Query()
    for condition, value in (
        ("state = {}", state),
        ("source = {}", to_text(source)),
        ("received_at >= {}", since),
        ("id < {}", to_id(before_id)),
    ):
        if value is not None:
            query.add(condition, value)
    rows = await connection.fetch(
        f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE {query.condition} ORDER BY id DESC LIMIT {query.mark(limit)}",
        *query.parameters,
    )
    return tuple(map(_receipt_record, rows))


async def find_event(connection: Any, wanted: str) -> EventRecord | None:
    try:
        digest, outcome = parse_event_id(wanted)
    except ValueError:
        return None
    row = await connection.fetchrow(
        "SELECT e.id, e.accepted_at, b.body, e.receipt_id, e.is_routed FROM events e"
        " LEFT JOIN event_bodies b ON b.event_id = e.id WHERE e.key_digest = $1 AND e.outcome = $2",
        digest,
        OUTCOMES.index(outcome),
    )
    if row is None:
        return None
    row_id, accepted_at, body, receipt_id, is_routed = row
    receipts = await connection.fetch(
        f"SELECT {_RECEIPT_COLUMNS} FROM receipts WHERE id = $1 OR id IN"
        " (SELECT receipt_id FROM event_receipts WHERE event_id = $2) ORDER BY id LIMIT 1000",
        receipt_id,
        row_id,
    )
    return EventRecord(
        id=wanted,
        accepted_at=from_milliseconds(accepted_at),
        body=None if body is None else body.encode(),
        is_routed=is_routed,
        receipts=tuple(map(_receipt_record, receipts)),
        deliveries=await _delivery_records(connection, row_id),
    )


async def _delivery_records(connection: Any, row_id: int) -> tuple[DeliveryRecord, ...]:
    inactive = await _inactive_sinks(connection)
    history: dict[tuple[str, int], list[AttemptRecord]] = {}
    for sink, replay, number, started_at, duration_ms, result, error in await connection.fetch(
        "SELECT sink, replay, number, started_at, duration_ms, result, error FROM attempts WHERE event_id = $1"
        " ORDER BY sink, replay, started_at, number",
        row_id,
    ):
        attempt = AttemptRecord(number, from_milliseconds(started_at), duration_ms / 1000, result, error)
        history.setdefault((sink, replay), []).append(attempt)
    records = []
    for sink, replay, stored, attempts, due_at, changed_at, error in await connection.fetch(
        "SELECT sink, replay, state, attempts, due_at, changed_at, error FROM deliveries WHERE event_id = $1"
        ' ORDER BY sink COLLATE "C", replay',
        row_id,
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


async def _inactive_sinks(connection: Any) -> set[str]:
    return {name for (name,) in await connection.fetch("SELECT name FROM sinks WHERE state <> 'active'")}


async def list_sinks(connection: Any) -> tuple[SinkRecord, ...]:
    rows = await connection.fetch(
        "SELECT name, state, reason, changed_by, changed_at FROM sinks WHERE state <> 'active'"
    )
    inactive = {row[0]: row for row in rows}
    counts: dict[str, dict[DeliveryState, int]] = {}
    oldest: dict[str, int] = {}
    for sink, stored, count, first_id in await connection.fetch(
        "SELECT sink, state, count(*), min(event_id) FROM deliveries WHERE due_at IS NOT NULL GROUP BY sink, state"
        " UNION ALL SELECT sink, state, count(*), min(event_id) FROM deliveries"
        " WHERE due_at IS NULL AND state IN ('pending', 'dead') GROUP BY sink, state"
    ):
        state = shown_state(stored, is_active=sink not in inactive)
        by_state = counts.setdefault(sink, {})
        by_state[state] = by_state.get(state, 0) + count
        if state != "dead":
            oldest[sink] = min(first_id, oldest.get(sink, first_id))
    accepted = dict(
        await connection.fetch("SELECT id, accepted_at FROM events WHERE id = ANY ($1)", list(set(oldest.values())))
    )
    records = []
    for name in sorted(inactive.keys() | counts.keys()):
        _, sink_state, reason, changed_by, changed_at = inactive.get(name, (name, "active", None, None, None))
        oldest_at = accepted.get(oldest.get(name))
        records.append(
            SinkRecord(
                name=name,
                state=sink_state,
                reason=reason,
                changed_by=changed_by,
                changed_at=None if changed_at is None else from_milliseconds(changed_at),
                deliveries=counts.get(name, {}),
                oldest_pending_at=None if oldest_at is None else from_milliseconds(oldest_at),
            )
        )
    return tuple(records)


# Which events a filter means; queries name the table of events ``e``


class Query:
    """Conditions and their parameters, by number."""

    def __init__(self) -> None:
        self.parameters: list[object] = []
        self._conditions: list[str] = []

    @property
    def condition(self) -> str:
        return " AND ".join(self._conditions) or "true"

    def mark(self, value: object) -> str:
        """What stands for a value."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def add(self, condition: str, *values: object) -> None:
        """A condition with ``{}`` for each value."""
        self._conditions.append(condition.format(*map(self.mark, values)))


_IS_INACTIVE = "d.sink IN (SELECT name FROM sinks WHERE state <> 'active')"
_IS_LATEST = (
    "NOT EXISTS (SELECT FROM deliveries l WHERE l.event_id = d.event_id AND l.sink = d.sink AND l.replay > d.replay)"
)
_STATES = {
    "pending": f"d.state = 'pending' AND NOT {_IS_INACTIVE}",
    "retrying": f"d.state = 'retrying' AND NOT {_IS_INACTIVE}",
    "parked": f"d.state IN ('pending', 'retrying') AND {_IS_INACTIVE}",
    "dead": "d.state = 'dead'",
    "delivered": "d.state = 'delivered'",
}


async def _compile(connection: Any, wanted: EventFilter, *, by_index: bool = True) -> Query:
    """
    Args:
        by_index: Gather the events of a state from the indexes of what is not delivered, which costs as much as there
            is of those. Otherwise look at the deliveries of each event, which suits the next few after an id.
    """
    query = Query()
    if wanted.event_id is not None:
        digest, outcome = _identity(wanted.event_id)
        query.add("e.key_digest = {} AND e.outcome = {}::integer", digest, outcome)
    if wanted.job_id is not None:
        # The digest has only a hash of the job id, and what is bound may not be a job id: so the column is the judge.
        prefix, job_id = job_prefix(wanted.job_id), to_text(wanted.job_id)
        query.add(
            "e.id IN (SELECT id FROM events WHERE key_digest BETWEEN {} AND {} UNION ALL"
            " SELECT k.id FROM bindings JOIN events k USING (key_digest) WHERE value = {}) AND e.job_id = {}",
            prefix + b"\x00" * 8,
            prefix + b"\xff" * 8,
            job_id,
            job_id,
        )
    for name in ("media_id", "product", "kind"):
        value = getattr(wanted, name)
        if value is not None:
            query.add(f"e.{name} = {{}}", to_text(value))
    if wanted.outcome is not None:
        outcomes: Sequence[str] = OUTCOMES
        query.add("e.outcome = {}::integer", outcomes.index(wanted.outcome) if wanted.outcome in outcomes else -1)
    if wanted.state == "unrouted":
        query.add("NOT e.is_routed")
    if wanted.sink is not None or wanted.state not in (None, "unrouted"):
        _add_deliveries(query, wanted, by_index=by_index)
    for moment, comparison, disorder in ((wanted.since, ">=", -_DISORDER_MS), (wanted.until, "<", _DISORDER_MS)):
        if moment is not None:
            at = to_milliseconds(moment)
            first_id = await _first_id_at(connection, at + disorder)
            query.add(f"e.accepted_at {comparison} {{}} AND e.id {comparison} {{}}", at, first_id)
    return query


def _add_deliveries(query: Query, wanted: EventFilter, *, by_index: bool) -> None:
    conditions = []
    if wanted.state not in (None, "unrouted"):
        conditions += [_STATES[str(wanted.state)], _IS_LATEST]
    if wanted.sink is not None:
        conditions.append(f"d.sink = {query.mark(to_text(wanted.sink))}")
    condition = " AND ".join(conditions)
    if by_index and wanted.state in ("pending", "retrying", "parked", "dead"):
        query.add(
            f"e.id IN (SELECT d.event_id FROM deliveries d WHERE d.due_at IS NOT NULL AND {condition} UNION ALL"
            f" SELECT d.event_id FROM deliveries d WHERE d.due_at IS NULL AND d.state IN ('pending', 'dead')"
            f" AND {condition})"
        )
    else:
        query.add(f"EXISTS (SELECT FROM deliveries d WHERE d.event_id = e.id AND {condition})")


def _identity(wanted: str) -> tuple[bytes, int]:
    try:
        digest, outcome = parse_event_id(wanted)
    except ValueError:
        return b"", -1
    return digest, OUTCOMES.index(outcome)


async def _first_id_at(connection: Any, at: int) -> int:
    """An id below which everything was accepted before ``at``, give or take the disorder."""
    low, high = await connection.fetchrow("SELECT coalesce(min(id), 1), coalesce(max(id), 0) + 1 FROM events")
    while low < high:
        middle = (low + high) // 2
        row = await connection.fetchrow("SELECT id, accepted_at FROM events WHERE id >= $1 ORDER BY id LIMIT 1", middle)
        if row is not None and row["accepted_at"] < at:
            low = row["id"] + 1
        else:
            high = middle
    return int(low)


async def list_events(
    connection: Any, wanted: EventFilter, *, before: int | None, limit: int
) -> tuple[EventSummary, ...]:
    query = await _compile(connection, wanted)
    query.add("e.id < {}", to_id(before))
    rows = await connection.fetch(
        "SELECT e.id, e.key_digest, e.outcome, e.accepted_at, e.product, e.kind, e.revision, e.job_id, e.media_id"
        f" FROM events e WHERE {query.condition} ORDER BY e.id DESC LIMIT {query.mark(limit)}",
        *query.parameters,
    )
    states = await _latest_states(connection, [row[0] for row in rows])
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


async def _latest_states(connection: Any, row_ids: Sequence[int]) -> dict[int, dict[str, DeliveryState]]:
    inactive = await _inactive_sinks(connection)
    states: dict[int, dict[str, DeliveryState]] = {}
    for row_id, sink, stored in await connection.fetch(
        'SELECT event_id, sink, state FROM deliveries WHERE event_id = ANY ($1) ORDER BY sink COLLATE "C", replay',
        row_ids,
    ):
        states.setdefault(row_id, {})[sink] = shown_state(stored, is_active=sink not in inactive)
    return states


async def count_events(connection: Any, wanted: EventFilter) -> int:
    query = await _compile(connection, wanted)
    return cast(
        int,
        await connection.fetchval(f"SELECT count(*) FROM events e WHERE {query.condition}", *query.parameters),
    )


# Replays

_REPLAY_COLUMNS = "id, created_at, changed_at, state, total, done, filter, sinks, rate_per_s, requested_by, reason"


async def create_replay(connection: Any, request: ReplayRequest, now: int) -> ReplayRecord:
    last_id = await connection.fetchval("SELECT coalesce(max(id), 0) FROM events")
    query = await _compile(connection, request.filter)
    total = await connection.fetchval(
        f"SELECT count(*) FROM events e WHERE {query.condition} AND e.id <= {query.mark(last_id)}", *query.parameters
    )
    return replay_record(
        await connection.fetchrow(
            "INSERT INTO replays (created_at, changed_at, state, filter, sinks, rate_per_s, requested_by, reason,"
            " total, done, cursor, last_event_id, next_at)"
            f" VALUES ($1, $1, 'running', $2, $3, $4, $5, $6, $7, 0, 0, $8, $1) RETURNING {_REPLAY_COLUMNS}",
            now,
            dump_filter(request.filter),
            json.dumps(request.sinks),
            request.rate_per_s,
            to_text(request.requested_by),
            to_text(request.reason),
            total,
            last_id,
        )
    )


async def advance_replays(connection: Any, now: int) -> tuple[set[str], int | None]:
    """Returns the sinks that got something, and when to come again."""
    woken: set[str] = set()
    for replay in await connection.fetch(
        "SELECT id, filter, sinks, rate_per_s, cursor, last_event_id FROM replays"
        " WHERE state = 'running' AND next_at <= $1 ORDER BY id",
        now,
    ):
        woken.update(await _advance_replay(connection, replay, now))
    next_at = await connection.fetchval("SELECT min(next_at) FROM replays WHERE state = 'running'")
    return woken, next_at


async def _advance_replay(connection: Any, replay: Sequence[Any], now: int) -> Collection[str]:
    replay_id, filter_json, sinks, rate_per_s, cursor, last_id = replay
    event_filter = load_filter(filter_json)
    query = await _compile(connection, event_filter, by_index=False)
    limit = min(_MAX_EVENTS_PER_STEP, max(1, math.ceil(rate_per_s)))
    # The stretch starts at the first event that there is, should the ids before it be purged by now.
    start = await connection.fetchval("SELECT coalesce(min(id), 0) - 1 FROM events WHERE id > $1", cursor)
    end = min(last_id, max(cursor, start) + _IDS_PER_STEP)
    query.add("e.id > {} AND e.id <= {}", cursor, end)
    rows = await connection.fetch(
        f"SELECT e.id FROM events e WHERE {query.condition} ORDER BY e.id LIMIT {query.mark(limit)}",
        *query.parameters,
    )
    row_ids = [row_id for (row_id,) in rows]
    next_cursor = row_ids[-1] if len(row_ids) == limit else end
    woken = await connection.fetchval(
        "SELECT advance_replay_1($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        replay_id,
        now,
        cursor,
        next_cursor,
        next_cursor >= last_id,
        now + math.ceil(len(row_ids) * 1000 / rate_per_s),
        row_ids,
        json.loads(sinks),
        list(replayed_states(event_filter)),
    )
    return cast(Sequence[str], woken or ())


async def cancel_replay(connection: Any, replay_id: int, now: int) -> ReplayRecord | None:
    await connection.execute(
        "UPDATE replays SET state = 'cancelled', changed_at = $2 WHERE id = $1 AND state = 'running'",
        to_id(replay_id),
        now,
    )
    return await find_replay(connection, replay_id)


async def find_replay(connection: Any, replay_id: int) -> ReplayRecord | None:
    row = await connection.fetchrow(f"SELECT {_REPLAY_COLUMNS} FROM replays WHERE id = $1", to_id(replay_id))
    return None if row is None else replay_record(row)


async def list_replays(connection: Any, *, before_id: int | None, limit: int) -> tuple[ReplayRecord, ...]:
    rows = await connection.fetch(
        f"SELECT {_REPLAY_COLUMNS} FROM replays WHERE id < $1 ORDER BY id DESC LIMIT $2",
        to_id(before_id),
        limit,
    )
    return tuple(map(replay_record, rows))


async def beat(connection: Any) -> set[int]:
    """Make something durable. Returns the numbers of the migrations that were applied."""
    rows = await connection.fetch("WITH beat AS (UPDATE heartbeat SET beats = beats + 1) SELECT number FROM migrations")
    return {number for (number,) in rows}


@dataclass(frozen=True, slots=True)
class PurgePosition:
    """How far the present pass is: rows up to this id were looked at; None when all were."""

    receipt_id: int | None = 0
    body_id: int | None = 0
    key_id: int | None = 0


async def purge(
    connection: Any, position: PurgePosition, *, payloads_before: int, keys_before: int, limit: int
) -> tuple[Purged, PurgePosition]:
    """Look at the next rows of each kind, and remove what is old and no longer needed."""
    row = await connection.fetchrow(
        "SELECT * FROM purge_2($1, $2, $3, $4, $5, $6)",
        payloads_before,
        keys_before,
        limit,
        position.receipt_id,
        position.body_id,
        position.key_id,
    )
    position = PurgePosition(row["receipt_position"], row["body_position"], row["key_position"])
    is_finished = position == PurgePosition(None, None, None) and not row["further"]
    return Purged(row["payloads"], row["keys"], is_finished), PurgePosition() if is_finished else position
