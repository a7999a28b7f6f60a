"""
Receipts and their events on SQLite. Each query takes the writer's connection inside a transaction; see ``sqlite`` for
why nobody else can come in between. Times are milliseconds since 1970 in UTC.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import cast

from service.events import OUTCOMES, Event, key_digest
from service.inbox.base import Receipt, ReceiptState, Reparsed, Verdict
from service.inbox.rows import Arrival

# More rows per statement cost the writer more processor time each (measured: 8 against 16 and 32). Fewer mean more
# releases of the interpreter lock; below 8 there is no clear measurement.
_ROWS_PER_INSERT = 8
_KEYS_PER_SELECT = 32


def insert(connection: sqlite3.Connection, head: str, row: str, rows: Sequence[Sequence[object]]) -> None:
    """
    Insert rows many to a statement: each statement costs releases of the interpreter lock.

    ``head`` and ``row`` read no table and return nothing: with either, a row was measured to cost a fifth more.
    """
    for start in range(0, len(rows), _ROWS_PER_INSERT):
        chunk = rows[start : start + _ROWS_PER_INSERT]
        connection.execute(_repeat(head, row, len(chunk)), list(chain.from_iterable(chunk)))


@cache
def _repeat(head: str, row: str, times: int) -> str:
    return f"{head} VALUES {','.join([row] * times)}"


@dataclass(slots=True)
class _Candidate:
    """An event that a receipt brings, new or not."""

    arrival: Arrival
    receipt_id: int
    event: Event
    body: str
    digest: bytes
    outcome: int
    sinks: tuple[str, ...]


def put(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> list[Verdict]:
    """Receipts, their events, and the deliveries of the events that are new."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'receipts'").fetchone()
    first_id = (row[0] if row else 0) + 1
    candidates, conflicts = _collect(connection, arrivals, first_id)
    accepted, repeated = _insert_events(connection, candidates)

    accepted_by_receipt: dict[int, list[Event]] = {}
    for candidate, _, event in accepted:
        accepted_by_receipt.setdefault(candidate.receipt_id, []).append(event)
    verdicts = []
    for receipt_id, arrival in enumerate(arrivals, first_id):
        events = accepted_by_receipt.get(receipt_id)
        state = _state(arrival, has_events=events is not None, conflict=conflicts.get(receipt_id))
        verdicts.append(Verdict(state, tuple(events) if events else ()))
    _insert_receipts(connection, arrivals, verdicts, conflicts, first_id)
    _note_repeated(connection, repeated)
    _insert_deliveries(connection, accepted)
    return verdicts


def _collect(
    connection: sqlite3.Connection, arrivals: Sequence[Arrival], first_id: int
) -> tuple[list[_Candidate], dict[int, str]]:
    """
    The events of receipts, apart from those whose key is bound to something else.

    Returns:
        The events; and what to say of each receipt, by its id, whose event was left out.
    """
    candidates: list[_Candidate] = []
    conflicts: dict[int, str] = {}
    for receipt_id, arrival in enumerate(arrivals, first_id):
        for entry, body in zip(arrival.receipt.entries, arrival.bodies, strict=True):
            event = entry.event
            digest = key_digest(event.id)
            if entry.binding is not None:
                bound = _bind(connection, digest, entry.binding)
                if bound != entry.binding:
                    conflicts[receipt_id] = f"the key is bound to {bound[:64]}, this receipt says {entry.binding[:64]}"
                    continue
            outcome = OUTCOMES.index(event.data.outcome)
            candidates.append(_Candidate(arrival, receipt_id, event, body, digest, outcome, entry.sinks))
    return candidates, conflicts


def _state(arrival: Arrival, *, has_events: bool, conflict: str | None) -> ReceiptState:
    if has_events:
        return "accepted"
    if conflict is not None:
        return "conflict"
    return "duplicate" if arrival.receipt.entries else "unparsed"


def _bind(connection: sqlite3.Connection, digest: bytes, value: str) -> str:
    """The value that the key is bound to: this one, unless there was one before."""
    connection.execute("INSERT INTO bindings VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, value))
    return cast(str, connection.execute("SELECT value FROM bindings WHERE key_digest = ?", (digest,)).fetchone()[0])


def _insert_events(
    connection: sqlite3.Connection, candidates: Sequence[_Candidate]
) -> tuple[list[tuple[_Candidate, int, Event]], list[_Candidate]]:
    """
    Insert what is new under its key and outcome.

    Returns:
        The new ones with their row id and with the revision they got; and the others.
    """
    accepted: list[tuple[_Candidate, int, Event]] = []
    repeated: list[_Candidate] = []
    rows: list[tuple[object, ...]] = []
    bodies: list[tuple[object, ...]] = []
    outcomes_by_key = _outcomes(connection, [candidate.digest for candidate in candidates])
    (row_id,) = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
    for candidate in candidates:
        outcomes = outcomes_by_key.setdefault(candidate.digest, set())
        if candidate.outcome in outcomes:
            repeated.append(candidate)
            continue
        outcomes.add(candidate.outcome)
        event, body, revision = candidate.event, candidate.body, len(outcomes)
        if revision > 1:
            event = event.with_revision(revision)
            body = event.to_json().decode()
        row_id += 1
        data = event.data
        rows.append(
            (
                row_id,
                candidate.digest,
                candidate.outcome,
                revision,
                candidate.receipt_id,
                candidate.arrival.at,
                data.product,
                data.kind,
                data.job_id,
                data.media_id,
                1 if candidate.sinks else 0,
            )
        )
        bodies.append((row_id, body))
        accepted.append((candidate, row_id, event))
    insert(
        connection,
        "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id,"
        " media_id, is_routed)",
        "(?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
    insert(connection, "INSERT INTO event_bodies (event_id, body)", "(?,?)", bodies)
    return accepted, repeated


def _outcomes(connection: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, set[int]]:
    """The outcomes known of each key; keys without any are left out. True until the transaction ends."""
    found: dict[bytes, set[int]] = {}
    for start in range(0, len(digests), _KEYS_PER_SELECT):
        chunk = digests[start : start + _KEYS_PER_SELECT]
        marks = ",".join("?" * len(chunk))
        sql = f"SELECT key_digest, outcome FROM events WHERE key_digest IN ({marks})"
        for digest, outcome in connection.execute(sql, chunk):
            found.setdefault(digest, set()).add(outcome)
    return found


def _insert_receipts(
    connection: sqlite3.Connection,
    arrivals: Sequence[Arrival],
    verdicts: Sequence[Verdict],
    conflicts: Mapping[int, str],
    first_id: int,
) -> None:
    rows = []
    for receipt_id, (arrival, verdict) in enumerate(zip(arrivals, verdicts, strict=True), first_id):
        receipt = arrival.receipt
        rows.append(
            (
                receipt_id,
                arrival.at,
                receipt.source,
                receipt.product,
                receipt.transport,
                receipt.verified_by,
                verdict.state,
                conflicts.get(receipt_id, receipt.reason),
                _dump(receipt.warnings),
                _dump(dict(receipt.meta)),
                receipt.parser_version,
                _event_ids(receipt, verdict.state),
                receipt.body,
            )
        )
    insert(
        connection,
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, warnings,"
        " meta, parser, event_ids, body)",
        "(?,?,?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )


def _event_ids(receipt: Receipt, state: ReceiptState) -> str | None:
    # A conflict has brought nothing, though there may be an event under the id that it would have had.
    if state == "conflict":
        return None
    return " ".join([entry.event.id for entry in receipt.entries]) or None


def _dump(value: Sequence[str] | Mapping[str, str]) -> str | None:
    return json.dumps(value) if value else None


def _note_repeated(connection: sqlite3.Connection, repeated: Sequence[_Candidate]) -> None:
    """Link receipts to the events that they brought again."""
    if repeated:
        connection.executemany(
            "INSERT OR IGNORE INTO event_receipts"
            " SELECT id, ?1 FROM events WHERE key_digest = ?2 AND outcome = ?3 AND receipt_id <> ?1",
            [(candidate.receipt_id, candidate.digest, candidate.outcome) for candidate in repeated],
        )


def _insert_deliveries(connection: sqlite3.Connection, accepted: Sequence[tuple[_Candidate, int, Event]]) -> None:
    first: list[tuple[object, ...]] = []
    further: list[tuple[_Candidate, int]] = []
    for candidate, row_id, event in accepted:
        if event.data.revision == 1:
            at = candidate.arrival.at
            first += [(row_id, sink, at, at) for sink in candidate.sinks]
        else:
            further.append((candidate, row_id))
    head = "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)"
    insert(connection, head, "(?,?,0,'pending',?,0,?)", first)
    # Only now, one after the other: what holds a further outcome back may be in this very batch.
    for candidate, row_id in further:
        at = candidate.arrival.at
        for sink in candidate.sinks:
            due_at = None if _has_earlier(connection, candidate.digest, row_id, sink) else at
            connection.execute(f"{head} VALUES (?,?,0,'pending',?,0,?)", (row_id, sink, due_at, at))


def reparse(connection: sqlite3.Connection, receipt_id: int, arrival: Arrival, *, dry_run: bool) -> Reparsed:
    """Give a kept receipt its present meaning; in a dry run everything is taken back."""
    connection.execute("SAVEPOINT reparse")
    candidates, conflicts = _collect(connection, [arrival], receipt_id)
    accepted, repeated = _insert_events(connection, candidates)
    changed = [candidate.event.id for candidate in repeated if _update_event(connection, candidate)]
    brought = connection.execute("SELECT 1 FROM events WHERE receipt_id = ?", (receipt_id,)).fetchone() is not None
    state = _state(arrival, has_events=brought, conflict=conflicts.get(receipt_id))
    receipt = arrival.receipt
    connection.execute(
        "UPDATE receipts SET state = ?, reason = ?, warnings = ?, parser = ?, event_ids = ? WHERE id = ?",
        (
            state,
            conflicts.get(receipt_id, receipt.reason),
            _dump(receipt.warnings),
            receipt.parser_version,
            _event_ids(receipt, state),
            receipt_id,
        ),
    )
    _note_repeated(connection, repeated)
    _insert_deliveries(connection, accepted)
    if dry_run:
        connection.execute("ROLLBACK TO reparse")
    connection.execute("RELEASE reparse")
    return Reparsed(state, tuple(event.id for _, _, event in accepted), tuple(changed))


def _update_event(connection: sqlite3.Connection, candidate: _Candidate) -> bool:
    """Put the present content into an event that this receipt brought. False where it is the same, or not its."""
    row = connection.execute(
        "SELECT e.id, e.revision, b.body FROM events e JOIN event_bodies b ON b.event_id = e.id"
        " WHERE e.key_digest = ? AND e.outcome = ? AND e.receipt_id = ?",
        (candidate.digest, candidate.outcome, candidate.receipt_id),
    ).fetchone()
    if row is None:
        return False
    row_id, revision, body = row
    data = candidate.event.data
    new_body = candidate.event.with_revision(revision).to_json().decode()
    if new_body == body:
        return False
    connection.execute("UPDATE event_bodies SET body = ? WHERE event_id = ?", (new_body, row_id))
    connection.execute(
        "UPDATE events SET kind = ?, job_id = ?, media_id = ? WHERE id = ?",
        (data.kind, data.job_id, data.media_id, row_id),
    )
    return True


def _has_earlier(connection: sqlite3.Connection, digest: bytes, row_id: int, sink: str) -> bool:
    """Whether an earlier outcome of the job is still on its way to the sink."""
    return (
        connection.execute(
            "SELECT 1 FROM events e JOIN deliveries d ON d.event_id = e.id AND d.sink = ? AND d.replay = 0"
            " WHERE e.key_digest = ? AND e.id < ? AND d.state IN ('pending', 'retrying')",
            (sink, digest, row_id),
        ).fetchone()
        is not None
    )
