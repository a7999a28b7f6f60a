"""Deliveries out: leased, and what became of them."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from media_callbacks.inbox.records import AttemptResult
from media_callbacks.inbox.rows import delivery_of, to_milliseconds, whole_characters
from media_callbacks.inbox.sqlite.keys import Keys
from media_callbacks.inbox.sqlite.statements import insert, select_in
from media_callbacks.model.events import Delivery


def claim_deliveries(
    connection: sqlite3.Connection, sink: str, *, limit: int, max_bytes: int, now: int, until: int, lease: str
) -> list[Delivery]:
    """See ``Database.claim_deliveries``."""
    claimed: list[Delivery] = []
    size = 0
    rows = connection.execute(
        "SELECT d.event_id, d.replay, d.attempts, e.key_digest, e.outcome, b.body FROM deliveries d"
        " JOIN events e ON e.id = d.event_id JOIN event_bodies b ON b.event_id = d.event_id"
        " WHERE d.sink = ? AND d.due_at <= ? AND NOT EXISTS (SELECT 1 FROM sinks WHERE name = ? AND state <> 'active')"
        " ORDER BY d.due_at, d.event_id LIMIT ?",
        (sink, now, sink, limit),
    )
    with closing(rows):
        for row in rows:
            delivery = delivery_of(row, sink, lease)
            size += len(delivery.body)
            if claimed and size > max_bytes:
                break
            claimed.append(delivery)
    connection.executemany(
        "UPDATE deliveries SET due_at = ?, lease = ? WHERE event_id = ? AND sink = ? AND replay = ?",
        [(until, lease, delivery.row_id, sink, delivery.replay) for delivery in claimed],
    )
    return claimed


def record_attempts(
    connection: sqlite3.Connection, keys: Keys, results: Sequence[AttemptResult], now: int
) -> tuple[list[bool], set[str]]:
    """See ``Database.record_attempts``."""
    leases = _leases(connection, results)
    kept: list[bool] = []
    updates: list[tuple[object, ...]] = []
    given_back: list[tuple[object, ...]] = []
    attempts: list[tuple[object, ...]] = []
    ended: list[AttemptResult] = []
    dead: list[tuple[object, ...]] = []
    for result in results:
        delivery = result.delivery
        key = (delivery.row_id, delivery.sink, delivery.replay)
        if key not in leases:
            kept.append(False)
            continue
        is_kept = leases[key] == delivery.lease
        kept.append(is_kept)
        if result.started_at is not None:
            attempts.append(
                (
                    *key,
                    to_milliseconds(result.started_at),
                    delivery.attempt,
                    round(result.duration_s * 1000),
                    *_written(result, is_kept=is_kept),
                )
            )
        if not is_kept:
            continue
        leases[key] = None
        error = whole_characters(result.error)
        if result.state == "pending":
            given_back.append((now, now, *key))
        elif result.state == "retrying":
            updates.append((result.state, now + round(result.delay_s * 1000), now, error, *key))
        else:
            updates.append((result.state, None, now, error, *key))
            ended.append(result)
            if result.state == "dead":
                dead.append(key)
    connection.executemany(
        "UPDATE deliveries SET state = ?, due_at = ?, lease = NULL, attempts = attempts + 1, changed_at = ?, error = ?"
        " WHERE event_id = ? AND sink = ? AND replay = ?",
        updates,
    )
    if given_back:
        # It is what it was before: pending, or retrying after earlier attempts.
        connection.executemany(
            "UPDATE deliveries SET due_at = ?, lease = NULL, changed_at = ?"
            " WHERE event_id = ? AND sink = ? AND replay = ?",
            given_back,
        )
    if dead:
        connection.executemany(
            "UPDATE deliveries SET state = 'replaced' WHERE event_id = ?1 AND sink = ?2 AND replay = ?3 AND EXISTS"
            " (SELECT 1 FROM deliveries WHERE event_id = ?1 AND sink = ?2 AND replay > ?3)",
            dead,
        )
    insert(
        connection,
        # What is recorded twice, because the answer to the first time was lost, is late the second time.
        "INSERT OR IGNORE INTO attempts (event_id, sink, replay, started_at, number, duration_ms, result, error)",
        "(?,?,?,?,?,?,?,?)",
        attempts,
    )
    return kept, _release_held(connection, keys, ended, now)


def _written(result: AttemptResult, *, is_kept: bool) -> tuple[str, str | None]:
    """What is written of an attempt: its result, and what else there is to say."""
    error = whole_characters(result.error)
    if result.state == "pending":
        return "interrupted", error
    if is_kept:
        return result.state, error
    return "late", "delivered after its lease was lost" if result.state == "delivered" else error


def _leases(connection: sqlite3.Connection, results: Sequence[AttemptResult]) -> dict[tuple[int, str, int], str | None]:
    """The present lease of each delivery that there is."""
    rows = select_in(
        connection,
        "SELECT event_id, sink, replay, lease FROM deliveries WHERE event_id IN ({values})",
        [result.delivery.row_id for result in results],
    )
    return {(row_id, sink, replay): lease for row_id, sink, replay, lease in rows}


def _release_held(connection: sqlite3.Connection, keys: Keys, ended: Sequence[AttemptResult], now: int) -> set[str]:
    """
    Let the next delivery of each key go that one has ended of, unless another is on its way: those of the earliest
    event first.
    """
    is_of_job = keys.condition("e.key_digest = (SELECT key_digest FROM events WHERE id = ?3)")
    released = set()
    for sink in {result.delivery.sink for result in ended}:
        if connection.execute(
            "SELECT 1 FROM deliveries WHERE due_at IS NULL AND state IN ('pending', 'dead') AND state = 'pending'"
            " AND sink = ? LIMIT 1",
            (sink,),
        ).fetchone():
            cursor = connection.executemany(
                "UPDATE deliveries SET due_at = ?1 WHERE sink = ?2 AND state = 'pending' AND due_at IS NULL"
                " AND event_id = (SELECT min(e.id) FROM events e"
                " JOIN deliveries d ON d.event_id = e.id AND d.sink = ?2"
                f" WHERE {is_of_job} AND d.state = 'pending' AND d.due_at IS NULL)"
                " AND NOT EXISTS (SELECT 1 FROM events e JOIN deliveries d ON d.event_id = e.id AND d.sink = ?2"
                f" WHERE {is_of_job} AND d.due_at IS NOT NULL)",
                [(now, sink, result.delivery.row_id) for result in ended if result.delivery.sink == sink],
            )
            if cursor.rowcount:
                released.add(sink)
    return released
