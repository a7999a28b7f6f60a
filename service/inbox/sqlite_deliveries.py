"""
Deliveries, their attempts and their sinks on SQLite, for the writer; see ``sqlite_queries`` for what all queries of
the writer have in common.
"""

import sqlite3
from collections.abc import Sequence

from service.events import OUTCOMES, Delivery, event_id
from service.inbox.base import AttemptResult, SinkState
from service.inbox.rows import to_milliseconds
from service.inbox.sqlite_queries import insert

_KEYS_PER_SELECT = 32


def claim(connection: sqlite3.Connection, sink: str, *, limit: int, now: int, until: int, lease: str) -> list[Delivery]:
    """What is due at a sink that is active, leased."""
    rows = connection.execute(
        "SELECT d.event_id, d.replay, d.attempts, e.key_digest, e.outcome, b.body FROM deliveries d"
        " JOIN events e ON e.id = d.event_id JOIN event_bodies b ON b.event_id = d.event_id"
        " WHERE d.sink = ? AND d.due_at <= ? AND NOT EXISTS (SELECT 1 FROM sinks WHERE name = ? AND state <> 'active')"
        " ORDER BY d.due_at, d.event_id LIMIT ?",
        (sink, now, sink, limit),
    ).fetchall()
    connection.executemany(
        "UPDATE deliveries SET due_at = ?, lease = ? WHERE event_id = ? AND sink = ? AND replay = ?",
        [(until, lease, row[0], sink, row[1]) for row in rows],
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


def record(connection: sqlite3.Connection, results: Sequence[AttemptResult], now: int) -> tuple[list[bool], set[str]]:
    """Returns which results still held their lease, and the sinks where a later outcome may go now."""
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
        if result.started_at is not None:
            attempts.append(
                (
                    *key,
                    to_milliseconds(result.started_at),
                    delivery.attempt,
                    round(result.duration_s * 1000),
                    "interrupted" if result.state == "pending" else result.state,
                    result.error,
                )
            )
        is_kept = leases[key] == delivery.lease
        kept.append(is_kept)
        if not is_kept:
            continue
        leases[key] = None
        due_at = now if result.due_at is None else to_milliseconds(result.due_at)
        if result.state == "pending":
            given_back.append((due_at, now, *key))
        elif result.state == "retrying":
            updates.append((result.state, due_at, now, result.error, *key))
        else:
            updates.append((result.state, None, now, result.error, *key))
            if delivery.replay == 0:
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
        "INSERT OR REPLACE INTO attempts (event_id, sink, replay, started_at, number, duration_ms, result, error)",
        "(?,?,?,?,?,?,?,?)",
        attempts,
    )
    return kept, _release_held(connection, ended, now)


def _leases(connection: sqlite3.Connection, results: Sequence[AttemptResult]) -> dict[tuple[int, str, int], str | None]:
    """The present lease of each delivery that there is."""
    leases: dict[tuple[int, str, int], str | None] = {}
    for start in range(0, len(results), _KEYS_PER_SELECT):
        chunk = [result.delivery for result in results[start : start + _KEYS_PER_SELECT]]
        marks = ",".join("?" * len(chunk))
        for row_id, sink, replay, lease in connection.execute(
            f"SELECT event_id, sink, replay, lease FROM deliveries WHERE event_id IN ({marks})",
            [delivery.row_id for delivery in chunk],
        ):
            leases[row_id, sink, replay] = lease
    return leases


def _release_held(connection: sqlite3.Connection, ended: Sequence[AttemptResult], now: int) -> set[str]:
    """Let the next outcome of each ended job go, where one waits."""
    released = set()
    for sink in {result.delivery.sink for result in ended}:
        if connection.execute(
            "SELECT 1 FROM deliveries WHERE due_at IS NULL AND state IN ('pending', 'dead') AND state = 'pending'"
            " AND sink = ? LIMIT 1",
            (sink,),
        ).fetchone():
            cursor = connection.executemany(
                "UPDATE deliveries SET due_at = ?"
                " WHERE sink = ? AND replay = 0 AND state = 'pending' AND due_at IS NULL"
                " AND event_id = (SELECT min(later.id) FROM events ended JOIN events later"
                " ON later.key_digest = ended.key_digest AND later.id > ended.id"
                " JOIN deliveries d ON d.event_id = later.id AND d.sink = ? AND d.replay = 0"
                " WHERE ended.id = ? AND d.state = 'pending')",
                [(now, sink, sink, result.delivery.row_id) for result in ended if result.delivery.sink == sink],
            )
            if cursor.rowcount:
                released.add(sink)
    return released


def set_sink_state(
    connection: sqlite3.Connection, name: str, state: SinkState, *, reason: str | None, changed_by: str | None, now: int
) -> None:
    connection.execute(
        "INSERT INTO sinks (name, state, reason, changed_by, changed_at) VALUES (?,?,?,?,?)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state, reason = excluded.reason,"
        " changed_by = excluded.changed_by, changed_at = excluded.changed_at",
        (name, state, reason, changed_by, now),
    )
