"""Removing what is old on SQLite, step by step, for the writer."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from service.events import OUTCOMES, parse_event_id
from service.inbox.base import Purged

_KEYS_PER_SELECT = 32
# Moving this many pages takes about as long as a step of the purge. What is left over is used again by new rows.
_VACUUM_PAGES = 250

_IS_WAITING = "SELECT 1 FROM deliveries d WHERE d.event_id = {} AND d.state IN ('pending', 'retrying')"


@dataclass(frozen=True, slots=True)
class Position:
    """
    How far the present pass is, so that no step looks again at what an earlier one had to leave.

    Attributes:
        receipt_id: Receipts up to this one were looked at; None when all were.
        body_id: The same of events' bodies.
        key_id: The same of keys. They come after all payloads, because a key stays as long as it has any.
        job_id: The same of expected jobs. They come last, because a binding stays as long as its key.
    """

    receipt_id: int | None = 0
    body_id: int | None = 0
    key_id: int | None = 0
    job_id: int | None = 0


def purge(
    connection: sqlite3.Connection, position: Position, *, payloads_before: int, keys_before: int, limit: int
) -> tuple[Purged, Position]:
    """Look at the next rows of each kind, and remove what is old and no longer needed."""
    payloads = keys = 0
    if position.receipt_id is not None:
        payloads, receipt_id = _purge_receipts(connection, position.receipt_id, payloads_before, limit)
        position = replace(position, receipt_id=receipt_id)
    if position.body_id is not None:
        position = replace(position, body_id=_purge_events(connection, position.body_id, payloads_before, limit))
    if position.receipt_id is None and position.body_id is None and position.key_id is not None:
        keys, key_id = _purge_keys(connection, position.key_id, keys_before, limit)
        position = replace(position, key_id=key_id)
    if position.key_id is None and position.job_id is not None:
        removed, job_id = _purge_jobs(connection, position.job_id, keys_before, limit)
        keys += removed
        position = replace(position, job_id=job_id)
    is_finished = position == Position(None, None, None, None)
    return Purged(payloads, keys, is_finished), Position() if is_finished else position


def vacuum(connection: sqlite3.Connection) -> bool:
    """
    Give free pages back to the file system; the file gets smaller at the next checkpoint.

    Returns:
        Whether there are more.
    """
    for _ in range(_VACUUM_PAGES):
        # A page each: ``sqlite3`` takes only the first step of a statement without columns.
        connection.execute("PRAGMA incremental_vacuum(1)")
    return bool(connection.execute("PRAGMA freelist_count").fetchone()[0])


def _next_id(rows: Sequence[tuple[int, int]], before: int, limit: int) -> int | None:
    """
    Where to go on after rows of id and time; None where no older ones are to be expected. A row or two out of order,
    because a clock was set, do not end the pass.
    """
    if len(rows) < limit or all(at >= before for _, at in rows):
        return None
    return rows[-1][0]


def _purge_receipts(connection: sqlite3.Connection, after: int, before: int, limit: int) -> tuple[int, int | None]:
    rows = connection.execute(
        "SELECT id, received_at, event_ids, EXISTS (SELECT 1 FROM held WHERE receipt_id = r.id) FROM receipts r"
        " WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    ).fetchall()
    events_of = {
        row_id: event_ids.split() if event_ids else []
        for row_id, received_at, event_ids, is_held in rows
        if received_at < before and not is_held
    }
    events = _find_events(connection, [event_id for event_ids in events_of.values() for event_id in event_ids])
    removed = [
        receipt_id
        for receipt_id, event_ids in events_of.items()
        if not any(events[event_id][1] for event_id in event_ids if event_id in events)
    ]
    connection.executemany(
        "DELETE FROM event_receipts WHERE event_id = ? AND receipt_id = ?",
        [(events[e][0], receipt_id) for receipt_id in removed for e in events_of[receipt_id] if e in events],
    )
    connection.executemany("DELETE FROM receipts WHERE id = ?", [(receipt_id,) for receipt_id in removed])
    return len(removed), _next_id([(row[0], row[1]) for row in rows], before, limit)


def _find_events(connection: sqlite3.Connection, event_ids: Iterable[str]) -> dict[str, tuple[int, bool]]:
    """Row and whether it waits for delivery, of events by their ids."""
    wanted = {
        (digest, OUTCOMES.index(outcome)): text for text in event_ids for digest, outcome in [parse_event_id(text)]
    }
    digests = list({digest for digest, _ in wanted})
    found = {}
    for start in range(0, len(digests), _KEYS_PER_SELECT):
        chunk = digests[start : start + _KEYS_PER_SELECT]
        for digest, number, row_id, is_waiting in connection.execute(
            f"SELECT key_digest, outcome, id, EXISTS ({_IS_WAITING.format('e.id')}) FROM events e"
            f" WHERE key_digest IN ({','.join('?' * len(chunk))})",
            chunk,
        ):
            if (digest, number) in wanted:
                found[wanted[digest, number]] = (row_id, bool(is_waiting))
    return found


def _purge_events(connection: sqlite3.Connection, after: int, before: int, limit: int) -> int | None:
    """Bodies, deliveries and attempts."""
    rows = connection.execute(
        f"SELECT b.event_id, e.accepted_at, EXISTS ({_IS_WAITING.format('b.event_id')}) FROM event_bodies b"
        " JOIN events e ON e.id = b.event_id WHERE b.event_id > ? ORDER BY b.event_id LIMIT ?",
        (after, limit),
    ).fetchall()
    removed = [(row_id,) for row_id, accepted_at, is_waiting in rows if accepted_at < before and not is_waiting]
    for table in ("attempts", "deliveries", "event_bodies"):
        connection.executemany(f"DELETE FROM {table} WHERE event_id = ?", removed)
    return _next_id([(row[0], row[1]) for row in rows], before, limit)


def _purge_keys(connection: sqlite3.Connection, after: int, before: int, limit: int) -> tuple[int, int | None]:
    # A key goes with all its outcomes or not at all: else a later outcome would get the revision of an earlier one.
    rows = connection.execute(
        "SELECT id, accepted_at, key_digest, EXISTS (SELECT 1 FROM events o WHERE o.key_digest = e.key_digest"
        " AND (o.accepted_at >= ? OR EXISTS (SELECT 1 FROM event_bodies WHERE event_id = o.id)))"
        " FROM events e WHERE id > ? ORDER BY id LIMIT ?",
        (before, after, limit),
    ).fetchall()
    removed = [(row_id, digest) for row_id, _, digest, is_needed in rows if not is_needed]
    connection.executemany("DELETE FROM events WHERE id = ?", [(row_id,) for row_id, _ in removed])
    connection.executemany("DELETE FROM event_receipts WHERE event_id = ?", [(row_id,) for row_id, _ in removed])
    connection.executemany("DELETE FROM bindings WHERE key_digest = ?", [(digest,) for _, digest in removed])
    return len(removed), _next_id([(row[0], row[1]) for row in rows], before, limit)


def _purge_jobs(connection: sqlite3.Connection, after: int, before: int, limit: int) -> tuple[int, int | None]:
    """Jobs that ended, what they were bound to, and what is remembered of messages that named no job."""
    rows = connection.execute(
        "SELECT id, registered_at, key_digest, coalesce(ended_at < ?, 0) FROM jobs WHERE id > ? ORDER BY id LIMIT ?",
        (before, after, limit),
    ).fetchall()
    removed = [(row_id, digest) for row_id, _, digest, is_old in rows if is_old]
    connection.executemany("DELETE FROM jobs WHERE id = ?", [(row_id,) for row_id, _ in removed])
    connection.executemany(
        "DELETE FROM bindings WHERE key_digest = ?1 AND NOT EXISTS (SELECT 1 FROM events WHERE key_digest = ?1)",
        [(digest,) for _, digest in removed],
    )
    for table, key, at in (
        ("nameless_keys", "key_digest", "matched_at"),
        ("nameless_events", "event_id", "accepted_at"),
    ):
        connection.execute(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {at} < ? LIMIT ?)", (before, limit)
        )
    return len(removed), _next_id([(row[0], row[1]) for row in rows], before, limit)
