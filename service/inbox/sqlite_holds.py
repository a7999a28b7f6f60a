"""Events that wait for the vendor's answer, on SQLite, for the writer. Times are milliseconds since 1970 in UTC."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.events import OUTCOMES, key_digest, parse_event, parse_event_id
from service.inbox.base import Entry, Hold, HoldReason, NamelessJob
from service.inbox.rows import to_milliseconds
from service.jobs import JobReference

# Reasons of receipts whose events did not come to be, at least not yet.
WAITS = "waits for the vendor's answer"
SEVERAL = "names no job, and several expected ones may be meant: the vendor is asked about them"
# Whoever knows one minted URL can make claims about it without end. Each is asked about, as one may be the truth, and
# those beyond the first so slowly that the questions about other jobs are not held up. An honest job has few.
FREE_CLAIMS = 4
CLAIM_SPACING_MS = 5000
_COLUMNS = "id, binding, receipt_id, reference, nameless, reason, event, sinks, held_at, until, attempts, lease"


@dataclass(frozen=True, slots=True)
class Held:
    """A held event. ``entry`` is what it was, without the hold."""

    id: int
    receipt_id: int
    reference: JobReference
    reason: HoldReason
    held_at: int
    until: int
    attempts: int
    lease: str | None
    entry: Entry


def hold(
    connection: sqlite3.Connection, entry: Entry, why: Hold, receipt_id: int, at: int
) -> Literal["held", "own", "other"]:
    """``own`` and ``other``: the same claim is held already, of this or of another receipt."""
    event = entry.event
    digest, outcome = key_digest(event.id), OUTCOMES.index(event.data.outcome)
    rows = connection.execute(
        "SELECT receipt_id FROM held WHERE key_digest = ? AND outcome = ? AND binding IS ?",
        (digest, outcome, entry.binding),
    ).fetchall()
    if rows:
        return "own" if (receipt_id,) in rows else "other"
    (claims,) = connection.execute("SELECT count(*) FROM held WHERE key_digest = ?", (digest,)).fetchone()
    connection.execute(
        "INSERT INTO held (key_digest, outcome, binding, receipt_id, product, reference, nameless, reason, event,"
        " sinks, held_at, until, due_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            digest,
            outcome,
            entry.binding,
            receipt_id,
            why.reference.product,
            json.dumps(asdict(why.reference)),
            None if entry.nameless is None else json.dumps(asdict(entry.nameless)),
            why.reason,
            event.to_json().decode(),
            json.dumps(entry.sinks),
            at,
            to_milliseconds(why.until),
            at + CLAIM_SPACING_MS * max(0, claims + 1 - FREE_CLAIMS),
        ),
    )
    return "held"


def find(connection: sqlite3.Connection, row_id: int) -> Held | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM held WHERE id = ?", (row_id,)).fetchone()
    return None if row is None else _held(row)


def _held(row: tuple[Any, ...]) -> Held:
    row_id, binding, receipt_id, reference, nameless, reason, body, sinks, *rest = row
    held_at, until, attempts, lease = rest
    entry = Entry(
        parse_event(body),
        tuple(json.loads(sinks)),
        binding,
        nameless=None if nameless is None else NamelessJob(**json.loads(nameless)),
    )
    return Held(
        row_id,
        receipt_id,
        JobReference(**json.loads(reference)),
        reason,
        held_at,
        until,
        attempts,
        lease,
        entry,
    )


def link_known(connection: sqlite3.Connection, held: Held) -> list[str]:
    """Note that the receipt has brought an event again, if what it claims is one by now; the id."""
    event = held.entry.event
    row = connection.execute(
        "SELECT id, receipt_id FROM events WHERE key_digest = ? AND outcome = ?",
        (key_digest(event.id), OUTCOMES.index(event.data.outcome)),
    ).fetchone()
    if row is None:
        return []
    connection.execute("INSERT OR IGNORE INTO event_receipts VALUES (?, ?)", (row[0], held.receipt_id))
    return [event.id]


def forget(
    connection: sqlite3.Connection, held: Held, *, brought: Sequence[str], conflict: str | None, waits: str | None
) -> None:
    """
    Hold an event no more, and say of its receipt what became of it.

    Args:
        brought: The id of the event that it has become, new or not, if it has.
        conflict: Why it did not leave.
        waits: Why it has become nothing though it may leave.
    """
    connection.execute("DELETE FROM held WHERE id = ?", (held.id,))
    row = connection.execute("SELECT reason, event_ids FROM receipts WHERE id = ?", (held.receipt_id,)).fetchone()
    if row is None:
        # Purged by an older release, which does not know what is held.
        return
    reason, event_ids = row
    others = connection.execute("SELECT 1 FROM held WHERE receipt_id = ?", (held.receipt_id,)).fetchone()
    if conflict is not None or waits is not None:
        reason = conflict or waits
    elif reason == WAITS and others is None:
        reason = None
    ids = list(dict.fromkeys([*(event_ids.split() if event_ids else ()), *brought]))
    if others or reason == SEVERAL or any(is_brought_by(connection, event_id, held.receipt_id) for event_id in ids):
        state = "accepted"
    else:
        # Any reason that is left is that of a conflict, of this event or of another one of the receipt.
        state = "duplicate" if reason is None else "conflict"
    connection.execute(
        "UPDATE receipts SET state = ?, reason = ?, event_ids = ? WHERE id = ?",
        (state, reason, " ".join(ids) or None, held.receipt_id),
    )


def is_brought_by(connection: sqlite3.Connection, event_id: str, receipt_id: int) -> bool:
    """Whether an event is there, and this receipt was the first to bring it."""
    digest, outcome = parse_event_id(event_id)
    row = connection.execute(
        "SELECT receipt_id FROM events WHERE key_digest = ? AND outcome = ?", (digest, OUTCOMES.index(outcome))
    ).fetchone()
    return row is not None and int(row[0]) == receipt_id
