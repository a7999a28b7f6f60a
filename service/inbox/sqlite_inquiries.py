"""What is asked of the vendor, on SQLite, for the writer. Times are milliseconds since 1970 in UTC."""

import sqlite3
from dataclasses import replace

from service.events import Product, key_digest
from service.inbox import sqlite_holds as holds
from service.inbox import sqlite_jobs as jobs
from service.inbox.base import INQUIRIES, Finding, Inquiry, Settled
from service.inbox.rows import Arrival, from_milliseconds, to_milliseconds
from service.inbox.sqlite_queries import Brought, bring, put_one


def free_leases(connection: sqlite3.Connection) -> None:
    """Whoever held them is gone."""
    connection.execute(
        "UPDATE jobs SET due_at = registered_at, lease = NULL WHERE due_at IS NOT NULL AND lease IS NOT NULL"
    )
    connection.execute("UPDATE held SET due_at = held_at, lease = NULL WHERE lease IS NOT NULL")


def next_at(connection: sqlite3.Connection, product: Product) -> int | None:
    # Each minimum by itself, so that it is the first entry of an index.
    times = [
        at
        for sql in (
            "SELECT min(due_at) FROM jobs WHERE product = ? AND due_at IS NOT NULL",
            "SELECT min(due_at) FROM held WHERE product = ?",
        )
        for (at,) in connection.execute(sql, (product,))
        if at is not None
    ]
    return min(times, default=None)


def claim(
    connection: sqlite3.Connection, product: Product, *, limit: int, now: int, until: int, lease: str
) -> list[Inquiry]:
    condition = "WHERE product = ?1 AND due_at <= ?2 ORDER BY due_at LIMIT ?3"
    due = connection.execute(
        f"SELECT * FROM (SELECT due_at, 'jobs' AS kind, id FROM jobs {condition})"
        f" UNION ALL SELECT * FROM (SELECT due_at, 'held', id FROM held {condition})"
        " ORDER BY due_at, kind, id LIMIT ?3",
        (product, now, limit),
    ).fetchall()
    for table in ("jobs", "held"):
        connection.executemany(
            f"UPDATE {table} SET due_at = ?, lease = ? WHERE id = ?",
            [(until, lease, row_id) for _, kind, row_id in due if kind == table],
        )
    return [
        _job_inquiry(connection, row_id, lease) if kind == "jobs" else _held_inquiry(connection, row_id, lease)
        for _, kind, row_id in due
    ]


def _job_inquiry(connection: sqlite3.Connection, row_id: int, lease: str) -> Inquiry:
    row = connection.execute(
        f"SELECT {jobs.REFERENCE}, deadline_at, attempts, user_data FROM jobs WHERE id = ?", (row_id,)
    ).fetchone()
    deadline_at, attempts, user_data = row[7:]
    return Inquiry(
        id=row_id,
        reason="expected",
        reference=jobs.reference_of(row),
        since=from_milliseconds(deadline_at),
        until=None,
        attempt=attempts + 1,
        lease=lease,
        user_data=user_data,
    )


def _held_inquiry(connection: sqlite3.Connection, row_id: int, lease: str) -> Inquiry:
    held = holds.find(connection, row_id)
    assert held is not None
    reference, message = held.reference, held.entry.nameless
    if message is not None and message.takes_name:
        meant = jobs.meant_by(connection, message)
        if len(meant) == 1:
            reference = replace(reference, job_id=meant[0][1].job_id)
    return Inquiry(
        id=row_id,
        reason=held.reason,
        reference=reference,
        since=from_milliseconds(held.held_at),
        until=from_milliseconds(held.until),
        attempt=held.attempts + 1,
        lease=lease,
        event=held.entry.event,
    )


def settle(connection: sqlite3.Connection, finding: Finding, now: int) -> tuple[Settled, set[str]]:
    """Returns what became of a finding, and what listeners must be told of."""
    inquiry = finding.inquiry
    table = "jobs" if inquiry.reason == "expected" else "held"
    woken: set[str] = set()
    row = connection.execute(f"SELECT lease FROM {table} WHERE id = ?", (inquiry.id,)).fetchone()
    if row != (inquiry.lease,):
        return Settled(is_ours=False), woken
    settle_one = _settle_job if table == "jobs" else _settle_held
    return settle_one(connection, finding, now, woken), woken


def _settle_job(connection: sqlite3.Connection, finding: Finding, now: int, woken: set[str]) -> Settled:
    row_id = finding.inquiry.id
    digest, state = connection.execute("SELECT key_digest, state FROM jobs WHERE id = ?", (row_id,)).fetchone()
    is_open = state in ("expected", "unknown")
    settled, brought = _put_receipt(connection, finding, woken)
    due_at = None
    if finding.ask_again_at is not None:
        due_at = to_milliseconds(finding.ask_again_at)
    elif is_open:
        _end(connection, row_id, digest, brought, now)
    connection.execute(
        "UPDATE jobs SET due_at = CASE WHEN state IN ('expected', 'unknown') THEN ? END, lease = NULL,"
        " attempts = attempts + 1, notification = coalesce(?, notification) WHERE id = ?",
        (due_at, finding.notification, row_id),
    )
    return settled


def _end(connection: sqlite3.Connection, row_id: int, digest: bytes, brought: Brought | None, now: int) -> None:
    """End a job with what the vendor has answered about it."""
    events = [] if brought is None else [event for event in brought.events if event.data.outcome != "received"]
    if brought is None or not events:
        connection.execute("UPDATE jobs SET state = 'unknown', ended_at = ? WHERE id = ?", (now, row_id))
        return
    own = [event for event in events if key_digest(event.id) == digest]
    event = (own or events)[-1]
    ending = jobs.find_ending(connection, event)
    assert ending is not None
    state = "completed"
    if not jobs.ends_job(event):
        state = "unknown"
    elif event.id in {new.id for new in brought.accepted}:
        state = "healed"
    jobs.end_job(connection, row_id, ending, state)


def _settle_held(connection: sqlite3.Connection, finding: Finding, now: int, woken: set[str]) -> Settled:
    row_id = finding.inquiry.id
    if finding.ask_again_at is not None:
        connection.execute(
            "UPDATE held SET due_at = ?, lease = NULL, attempts = attempts + 1 WHERE id = ?",
            (to_milliseconds(finding.ask_again_at), row_id),
        )
        return _put_receipt(connection, finding, woken)[0]
    held = holds.find(connection, row_id)
    assert held is not None
    if finding.release is not None:
        # First, so that it is this that leaves, should the receipt bring the same event.
        entry = replace(held.entry, event=finding.release)
        if not finding.may_bind and jobs.bound_value(connection, key_digest(entry.event.id)) is None:
            entry = replace(entry, binding=None)
        brought = bring(connection, [entry], held.receipt_id, now)
        ids = [event.id for event in brought.events]
        holds.forget(connection, held, brought=ids, conflict=brought.conflict, waits=brought.waits)
        if brought.accepted:
            woken.update(entry.sinks)
        if brought.waits:
            woken.add(INQUIRIES)
        settled, _ = _put_receipt(connection, finding, woken)
        return replace(settled, accepted=brought.accepted + settled.accepted)
    settled, _ = _put_receipt(connection, finding, woken)
    # The vendor's own answer may be the same event.
    ids = holds.link_known(connection, held) if finding.conflict is None else []
    holds.forget(connection, held, brought=ids, conflict=finding.conflict, waits=None)
    return settled


def _put_receipt(connection: sqlite3.Connection, finding: Finding, woken: set[str]) -> tuple[Settled, Brought | None]:
    receipt = finding.receipt
    if receipt is None:
        return Settled(is_ours=True), None
    verdict, brought = put_one(connection, Arrival(receipt, to_milliseconds(receipt.received_at)))
    if verdict.accepted:
        woken.update(*(entry.sinks for entry in receipt.entries))
    return Settled(is_ours=True, accepted=verdict.accepted, receipt_state=verdict.state), brought
