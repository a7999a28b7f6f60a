"""
Events that wait for the vendor's answer; the locks on their keys are held. Times are milliseconds since 1970 in UTC.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from media_callbacks.inbox.database import Database, Row, identity
from media_callbacks.model.events import parse_event
from media_callbacks.model.identity import event_id, parse_event_id
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import OUTCOMES
from media_callbacks.model.receipts import Entry, Hold, HoldReason, NamelessJob

# Reasons of receipts whose events did not come to be, at least not yet.
WAITS = "waits for the vendor's answer"
SEVERAL = "names no job, and several expected ones may be meant: the vendor is asked about them"
# Whoever knows one minted URL can make claims about it without end. Each is asked about, as one may be the truth, and
# those beyond the first so slowly that the questions about other jobs are not held up. An honest job has few.
FREE_CLAIMS = 4
CLAIM_SPACING_MS = 5000
COLUMNS = "id, binding, receipt_id, reference, nameless, reason, event, sinks, held_at, until, attempts"


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
    entry: Entry


async def hold(
    database: Database, entry: Entry, why: Hold, receipt_id: int, at: int
) -> Literal["held", "own", "other"]:
    """``own`` and ``other``: the same claim is held already, of this or of another receipt with the same words."""
    event = entry.event
    digest, outcome = identity(event)
    # Of the same outcome in other words, one may be a lie and the other one the truth.
    rows = await database.fetch(
        "SELECT h.receipt_id FROM held h JOIN receipts r ON r.id = h.receipt_id WHERE h.key_digest = $1"
        " AND h.outcome = $2 AND coalesce(h.binding, '') = coalesce(CAST($3 AS text), '')"
        " AND (r.id = $4 OR r.body = (SELECT own.body FROM receipts own WHERE own.id = $4))",
        digest,
        outcome,
        entry.binding,
        receipt_id,
    )
    receipt_ids = {holder_id for (holder_id,) in rows}
    if receipt_id in receipt_ids:
        # The receipt is read again, perhaps by a parser that makes more of it.
        await database.execute(
            "UPDATE held SET event = $1, sinks = $2 WHERE receipt_id = $3 AND key_digest = $4 AND outcome = $5"
            " AND coalesce(binding, '') = coalesce(CAST($6 AS text), '')",
            entry.body.decode(),
            json.dumps(entry.sinks),
            receipt_id,
            digest,
            outcome,
            entry.binding,
        )
        return "own"
    if receipt_ids:
        return "other"
    claims = await database.fetch_value("SELECT count(*) FROM held WHERE key_digest = $1", digest)
    until = at + round(why.timeout_s * 1000)
    await database.execute(
        "INSERT INTO held (key_digest, outcome, binding, receipt_id, product, reference, nameless, reason, event,"
        " sinks, held_at, until, due_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        digest,
        outcome,
        entry.binding,
        receipt_id,
        why.reference.product,
        json.dumps(asdict(why.reference)),
        None if entry.nameless is None else json.dumps(asdict(entry.nameless)),
        why.reason,
        entry.body.decode(),
        json.dumps(entry.sinks),
        at,
        until,
        # However many were forged before it, a true one leaves in time.
        min(at + CLAIM_SPACING_MS * max(0, claims + 1 - FREE_CLAIMS), until),
    )
    return "held"


async def find(database: Database, row_id: int) -> Held | None:
    row = await database.fetch_row(f"SELECT {COLUMNS} FROM held WHERE id = $1", row_id)
    return None if row is None else held_of(row)


def held_of(row: Row) -> Held:
    row_id, binding, receipt_id, reference, nameless, reason, body, sinks, held_at, until, attempts = row
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
        entry,
    )


async def link_known(database: Database, held: Held) -> list[str]:
    """Note that the receipt has brought an event again, if what it claims is one by now; the id."""
    event = held.entry.event
    known = await database.find_event(*identity(event))
    if known is None:
        return []
    await database.execute(
        "INSERT INTO event_receipts (event_id, receipt_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        known.row_id,
        held.receipt_id,
    )
    return [event.id]


async def forget(
    database: Database, held: Held, *, brought: Sequence[str], conflict: str | None, waits: str | None
) -> None:
    """
    Hold an event no more, and say of its receipt what became of it.

    Args:
        brought: The id of the event that it has become, new or not, if it has.
        conflict: Why it did not leave.
        waits: Why it has become nothing though it may leave.
    """
    await database.execute("DELETE FROM held WHERE id = $1", held.id)
    # For update, before looking for others: of two that leave at once, the second one sees that the first one is gone.
    row = await database.fetch_row(
        f"SELECT r.state, r.reason, r.event_ids FROM receipts r WHERE r.id = $1{database.for_update('r')}",
        held.receipt_id,
    )
    if row is None:
        # Somebody has removed it by hand.
        return
    before, reason, known = row
    others = await database.fetch_row("SELECT 1 FROM held WHERE receipt_id = $1", held.receipt_id)
    differs = before == "differing" and conflict is None
    if differs:
        # By another event of the receipt, whatever becomes of this one.
        reason = reason.removesuffix(f"; {WAITS}") if others is None else reason
    elif conflict is not None or waits is not None:
        reason = conflict or waits
    elif reason == WAITS and others is None:
        reason = None
    ids = list(dict.fromkeys([*(known.split() if known else ()), *brought]))
    if differs:
        state = "differing"
    elif others is not None or reason == SEVERAL or await brought_by(database, held.receipt_id, ids):
        state = "accepted"
    else:
        # Any reason that is left is that of a conflict, of this event or of another one of the receipt.
        state = "duplicate" if reason is None else "conflict"
    await database.execute(
        "UPDATE receipts SET state = $1, reason = $2, event_ids = $3 WHERE id = $4",
        state,
        reason,
        " ".join(ids) or None,
        held.receipt_id,
    )


async def brought_by(database: Database, receipt_id: int, event_ids: Collection[str]) -> frozenset[str]:
    """Which of these events are there because this receipt was the first to bring them."""
    # By their keys: the events of a receipt are in no index.
    digests = {parse_event_id(one)[0] for one in event_ids}
    found = [event for event in await database.find_events(digests) if event.receipt_id == receipt_id]
    brought = {event_id(event.key_digest, OUTCOMES[event.outcome]) for event in found}
    return frozenset(brought.intersection(event_ids))
