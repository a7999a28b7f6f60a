"""
Receipts and their events on SQLite. Each query takes the writer's connection inside a transaction; see ``sqlite`` for
why nobody else can come in between. Times are milliseconds since 1970 in UTC.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain

from service.events import OUTCOMES, Event, key_digest
from service.inbox import sqlite_holds as holds
from service.inbox import sqlite_jobs as jobs
from service.inbox.base import Entry, NamelessJob, Receipt, ReceiptState, Reparsed, Verdict
from service.inbox.rows import Arrival
from service.jobs import JobReference

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
    """An event that a receipt brings, new or not; ``at`` is when it counts as accepted."""

    at: int
    receipt_id: int
    event: Event
    body: str
    digest: bytes
    outcome: int
    sinks: tuple[str, ...]


def put(connection: sqlite3.Connection, arrivals: Sequence[Arrival], *, are_jobs_awaited: bool) -> list[Verdict]:
    """
    Receipts, their events, and the deliveries of the events that are new, in order.

    Args:
        are_jobs_awaited: Whether there are jobs that events could end.
    """
    verdicts: list[Verdict] = []
    start = 0
    for number, arrival in enumerate(arrivals):
        for entry in arrival.receipt.entries:
            if entry.hold is not None or entry.nameless is not None:
                break
        else:
            continue
        # What this one comes to depends on what those before it have changed.
        if start < number:
            verdicts += _put_plain(connection, arrivals[start:number], are_jobs_awaited=are_jobs_awaited)
        verdicts.append(put_one(connection, arrival)[0])
        start = number + 1
    if start < len(arrivals):
        # Of a batch as it usually is, this is all.
        rest = arrivals[start:] if start else arrivals
        verdicts += _put_plain(connection, rest, are_jobs_awaited=are_jobs_awaited)
    return verdicts


def _put_plain(connection: sqlite3.Connection, arrivals: Sequence[Arrival], *, are_jobs_awaited: bool) -> list[Verdict]:
    first_id = _next_receipt_id(connection)
    receipts = [(arrival.receipt.entries, arrival.bodies, arrival.at) for arrival in arrivals]
    candidates, conflicts = _collect(connection, receipts, first_id)
    accepted, repeated = _insert_events(connection, candidates)
    if are_jobs_awaited:
        jobs.end(connection, [(event, candidate.at) for candidate, _, event in accepted])

    accepted_by_receipt: dict[int, list[Event]] = {}
    for candidate, _, event in accepted:
        accepted_by_receipt.setdefault(candidate.receipt_id, []).append(event)
    verdicts = []
    for receipt_id, arrival in enumerate(arrivals, first_id):
        events = accepted_by_receipt.get(receipt_id)
        state = _state(arrival.receipt, has_events=events is not None, conflict=conflicts.get(receipt_id))
        verdicts.append(Verdict(state, tuple(events) if events else ()))
    _insert_receipts(connection, arrivals, verdicts, conflicts, first_id)
    _note_repeated(connection, repeated)
    _insert_deliveries(connection, accepted)
    return verdicts


def _next_receipt_id(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'receipts'").fetchone()
    return (row[0] if row else 0) + 1


def put_one(connection: sqlite3.Connection, arrival: Arrival) -> tuple[Verdict, "Brought"]:
    """A receipt whatever is in it; what became of it, and of its entries."""
    receipt = arrival.receipt
    receipt_id = _next_receipt_id(connection)
    brought = bring(connection, receipt.entries, receipt_id, arrival.at)
    has_events = bool(brought.accepted) or brought.waits is not None
    state = _state(receipt, has_events=has_events, conflict=brought.conflict)
    verdict = Verdict(state, brought.accepted, brought.held)
    entries = tuple([Entry(event, ()) for event in brought.events])
    kept = replace(receipt, entries=entries, reason=brought.conflict or brought.waits or receipt.reason)
    _insert_receipts(connection, [Arrival(kept, arrival.at)], [verdict], {}, receipt_id)
    return verdict, brought


def _collect(
    connection: sqlite3.Connection, receipts: Iterable[tuple[Sequence[Entry], Sequence[str], int]], first_id: int
) -> tuple[list[_Candidate], dict[int, str]]:
    """
    The events of receipts, apart from those whose key is bound to something else.

    Args:
        receipts: The entries of each, their events in JSON, and when they count as accepted.

    Returns:
        The events; and what to say of each receipt, by its id, whose event was left out.
    """
    candidates: list[_Candidate] = []
    conflicts: dict[int, str] = {}
    for receipt_id, (entries, bodies, at) in enumerate(receipts, first_id):
        for entry, body in zip(entries, bodies, strict=True):
            event = entry.event
            digest = key_digest(event.id)
            if entry.binding is not None:
                bound = jobs.bind(connection, digest, entry.binding)
                if bound != entry.binding:
                    conflicts[receipt_id] = _conflict(bound, entry.binding)
                    continue
            outcome = OUTCOMES.index(event.data.outcome)
            candidates.append(_Candidate(at, receipt_id, event, body, digest, outcome, entry.sinks))
    return candidates, conflicts


def _conflict(bound: str, binding: str) -> str:
    return f"the key is bound to {bound[:64]}, this receipt says {binding[:64]}"


def _state(receipt: Receipt, *, has_events: bool, conflict: str | None) -> ReceiptState:
    if has_events:
        return "accepted"
    if conflict is not None:
        return "conflict"
    return "duplicate" if receipt.entries else "unparsed"


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
                candidate.at,
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
                _event_ids([entry.event.id for entry in receipt.entries], verdict.state),
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


def _event_ids(ids: Sequence[str], state: ReceiptState) -> str | None:
    # A conflict has brought nothing, though there may be an event under the id that it would have had.
    return None if state == "conflict" else " ".join(ids) or None


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
            at = candidate.at
            first += [(row_id, sink, at, at) for sink in candidate.sinks]
        else:
            further.append((candidate, row_id))
    head = "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)"
    insert(connection, head, "(?,?,0,'pending',?,0,?)", first)
    # Only now, one after the other: what holds a further outcome back may be in this very batch.
    for candidate, row_id in further:
        at = candidate.at
        for sink in candidate.sinks:
            due_at = None if _has_earlier(connection, candidate.digest, row_id, sink) else at
            connection.execute(f"{head} VALUES (?,?,0,'pending',?,0,?)", (row_id, sink, due_at, at))


def reparse(connection: sqlite3.Connection, receipt_id: int, arrival: Arrival, *, dry_run: bool) -> Reparsed:
    """Give a kept receipt its present meaning; in a dry run everything is taken back."""
    connection.execute("SAVEPOINT reparse")
    receipt = arrival.receipt
    brought = bring(connection, receipt.entries, receipt_id, arrival.at)
    changed = [candidate.event.id for candidate in brought.repeated if _update_event(connection, candidate)]
    # By their ids: the events of a receipt are in no index.
    (before,) = connection.execute("SELECT event_ids FROM receipts WHERE id = ?", (receipt_id,)).fetchone()
    known = {*(before or "").split(), *(event.id for event in brought.events)}
    is_first = any(holds.is_brought_by(connection, event_id, receipt_id) for event_id in known)
    state = _state(receipt, has_events=is_first or brought.waits is not None, conflict=brought.conflict)
    connection.execute(
        "UPDATE receipts SET state = ?, reason = ?, warnings = ?, parser = ?, event_ids = ? WHERE id = ?",
        (
            state,
            brought.conflict or brought.waits or receipt.reason,
            _dump(receipt.warnings),
            receipt.parser_version,
            _event_ids([event.id for event in brought.events], state),
            receipt_id,
        ),
    )
    if dry_run:
        connection.execute("ROLLBACK TO reparse")
    connection.execute("RELEASE reparse")
    return Reparsed(state, tuple([event.id for event in brought.accepted]), tuple(changed))


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


# Entries that are held, or that name no job


@dataclass(slots=True)
class Brought:
    """
    What became of the entries of a receipt.

    Attributes:
        accepted: The new events, with the revision they got.
        events: All events that they stand for, new or not, under the names found for them.
        repeated: Those that were there before and whose content may be compared.
        held: How many wait for the vendor's answer since now.
        waits: Why something has not become an event, or None.
        conflict: Why something will not, or None.
    """

    accepted: tuple[Event, ...]
    events: tuple[Event, ...]
    repeated: tuple[_Candidate, ...]
    held: int
    waits: str | None
    conflict: str | None


@dataclass(slots=True)
class _Sorted:
    """
    The entries of a receipt by what may happen with them.

    Attributes:
        leaving: Those that become events, under the names found for them.
        known: Ids of events that would be held if they were not there already.
        taken: Jobs that were found to be meant.
    """

    leaving: list[Entry] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)
    held: int = 0
    waits: str | None = None
    conflict: str | None = None


def bring(connection: sqlite3.Connection, entries: Sequence[Entry], receipt_id: int, at: int) -> Brought:
    """Let the entries of a receipt become events with deliveries, as far as they may; the receipt's row is left."""
    found = _Sorted()
    for entry in entries:
        _sort(connection, entry, receipt_id, at, found)
    bodies = [entry.event.to_json().decode() for entry in found.leaving]
    candidates, conflicts = _collect(connection, [(found.leaving, bodies, at)], receipt_id)
    accepted, repeated = _insert_events(connection, candidates)
    jobs.end(connection, [(event, at) for _, _, event in accepted])
    nameless = {entry.event.id: entry.nameless for entry in found.leaving if entry.nameless is not None}
    for _, row_id, event in accepted:
        if event.id in nameless:
            _match(connection, event, nameless[event.id], row_id, at)
    _note_repeated(connection, repeated)
    _insert_deliveries(connection, accepted)
    return Brought(
        accepted=tuple([event for _, _, event in accepted]),
        events=tuple([candidate.event for candidate in candidates]),
        repeated=tuple([candidate for candidate in repeated if candidate.event.id not in found.known]),
        held=found.held,
        waits=found.waits,
        conflict=conflicts.get(receipt_id, found.conflict),
    )


def _sort(connection: sqlite3.Connection, entry: Entry, receipt_id: int, at: int, found: _Sorted) -> None:
    if entry.nameless is not None and entry.nameless.takes_name:
        named = _name(connection, entry, entry.nameless, at, found)
        if named is None:
            return
        entry = named
    if entry.hold is None:
        found.leaving.append(entry)
        return
    event = entry.event
    if entry.binding is not None:
        bound = jobs.bound_value(connection, key_digest(event.id))
        if bound is not None and bound != entry.binding:
            found.conflict = _conflict(bound, entry.binding)
            return
    if _is_known(connection, event):
        found.known.add(event.id)
        # Without its binding: what was not confirmed binds nothing.
        found.leaving.append(replace(entry, binding=None))
        return
    match holds.hold(connection, entry, entry.hold, receipt_id, at):
        case "held":
            found.held += 1
            found.waits = holds.WAITS
        case "own":
            found.waits = holds.WAITS
        case "other":
            pass


def _is_known(connection: sqlite3.Connection, event: Event) -> bool:
    digest = key_digest(event.id)
    return OUTCOMES.index(event.data.outcome) in _outcomes(connection, [digest]).get(digest, ())


def _name(connection: sqlite3.Connection, entry: Entry, message: NamelessJob, at: int, found: _Sorted) -> Entry | None:
    """The entry of the job that it was found to be about, or as it is; None when it gives no event."""
    event = entry.event
    digest = key_digest(event.id)
    if _outcomes(connection, [digest]):
        # Nobody took it when it came before.
        return entry
    if (recalled := jobs.recall(connection, digest)) is not None:
        (reference,) = recalled
        return None if reference is None else _renamed(entry, reference)
    if entry.hold is not None:
        # Whom it means is asked when it leaves.
        return entry
    meant = [job for job in jobs.meant_by(connection, message) if job[0] not in found.taken]
    if len(meant) > 1:
        jobs.remember(connection, digest, None, at)
        jobs.ask_now(connection, [row_id for row_id, _ in meant], at)
        found.waits = holds.SEVERAL
        return None
    job = meant[0] if meant else jobs.asked_about(connection, message, event.data.outcome)
    if job is None:
        return entry
    row_id, reference = job
    found.taken.add(row_id)
    jobs.remember(connection, digest, row_id, at)
    return _renamed(entry, reference)


def _renamed(entry: Entry, reference: JobReference) -> Entry:
    event = entry.event.renamed(reference.key(), reference.job_id or reference.nonce or "")
    return replace(entry, event=event, nameless=None)


def _match(connection: sqlite3.Connection, event: Event, message: NamelessJob, row_id: int, at: int) -> None:
    """Find the job of a new event that has kept its own key."""
    if not jobs.ends_job(event):
        return
    meant = [job for job, _ in jobs.meant_by(connection, message)]
    if not meant:
        jobs.keep_nameless(connection, row_id, message, at)
    elif len(meant) == 1:
        ending = jobs.Ending(event.id, event.data.outcome, at, event.data.transport)
        jobs.end_job(connection, meant[0], ending)
    else:
        jobs.ask_now(connection, meant, at)
