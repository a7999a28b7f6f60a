"""Deliveries out: leased, and what became of them."""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

from media_callbacks.inbox.records import AttemptResult
from media_callbacks.inbox.rows import delivery_of, to_milliseconds, whole_characters
from media_callbacks.inbox.sqlite.keys import Keys
from media_callbacks.inbox.sqlite.statements import execute_in, insert
from media_callbacks.model.events import Delivery

# All that are changed alike share a statement: half of what it takes to change each by one of its own.
_LEASE = "UPDATE deliveries SET due_at = ?1, lease = ?2 WHERE event_id IN ({values}) AND sink = ?3 AND replay = ?4"
_LEASED = "WHERE event_id IN ({values}) AND sink = ?1 AND replay = ?2 AND lease = ?3 RETURNING event_id"
_END = (
    "UPDATE deliveries SET due_at = ?4, lease = NULL, changed_at = ?5, state = ?6, error = ?7, attempts = attempts + 1"
    f" {_LEASED}"
)
# It is what it was before: pending, or retrying after earlier attempts.
_GIVE_BACK = f"UPDATE deliveries SET due_at = ?4, lease = NULL, changed_at = ?5 {_LEASED}"
_ENDS = ("delivered", "dead")


def claim_deliveries(
    connection: sqlite3.Connection, sink: str, *, limit: int, max_bytes: int, now: int, until: int, lease: str
) -> list[Delivery]:
    """See ``Database.claim_deliveries``."""
    claimed: list[Delivery] = []
    by_replay: defaultdict[int, list[int]] = defaultdict(list)
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
            by_replay[delivery.replay].append(delivery.row_id)
    for replay, row_ids in by_replay.items():
        execute_in(connection, _LEASE, row_ids, until, lease, sink, replay)
    return claimed


def record_attempts(
    connection: sqlite3.Connection, keys: Keys, results: Sequence[AttemptResult], now: int
) -> tuple[list[bool], set[str]]:
    """See ``Database.record_attempts``."""
    kept = _change(connection, results, now)
    # Of one that is gone nothing is written.
    late = _there(connection, [result for result, is_kept in zip(results, kept, strict=True) if not is_kept])
    attempts: list[tuple[object, ...]] = []
    ended: list[AttemptResult] = []
    dead: list[tuple[object, ...]] = []
    for result, is_kept in zip(results, kept, strict=True):
        delivery = result.delivery
        key = (delivery.row_id, delivery.sink, delivery.replay)
        if result.started_at is not None and (is_kept or key in late):
            attempts.append(
                (
                    *key,
                    to_milliseconds(result.started_at),
                    delivery.attempt,
                    round(result.duration_s * 1000),
                    *_written(result, is_kept=is_kept),
                )
            )
        if is_kept and result.state in _ENDS:
            ended.append(result)
            if result.state == "dead":
                dead.append(key)
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


def _change(connection: sqlite3.Connection, results: Sequence[AttemptResult], now: int) -> list[bool]:
    """Write down what became of deliveries. Returns of each whether it was still leased as it had been claimed."""
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for result in results:
        delivery = result.delivery
        due_at = None
        if result.state == "pending":
            due_at = now
        elif result.state == "retrying":
            due_at = now + round(result.delay_s * 1000)
        leased_as = (delivery.sink, delivery.replay, delivery.lease)
        alike[*leased_as, due_at, result.state, whole_characters(result.error)].append(delivery.row_id)
    changed: set[tuple[object, ...]] = set()
    for (*leased, due, state, error), row_ids in alike.items():
        if state == "pending":
            rows = execute_in(connection, _GIVE_BACK, row_ids, *leased, due, now)
        else:
            rows = execute_in(connection, _END, row_ids, *leased, due, now, state, error)
        changed.update([(row_id, *leased) for (row_id,) in rows])
    if len(changed) == len(results):
        return [True] * len(results)
    kept = []
    for delivery in [result.delivery for result in results]:
        one = (delivery.row_id, delivery.sink, delivery.replay, delivery.lease)
        kept.append(one in changed)
        # What else is said of it is late.
        changed.discard(one)
    return kept


def _there(connection: sqlite3.Connection, results: Sequence[AttemptResult]) -> set[tuple[int, str, int]]:
    """The deliveries that there are."""
    rows = execute_in(
        connection,
        "SELECT event_id, sink, replay FROM deliveries WHERE event_id IN ({values})",
        [result.delivery.row_id for result in results],
    )
    return {(row_id, sink, replay) for row_id, sink, replay in rows}


def _written(result: AttemptResult, *, is_kept: bool) -> tuple[str, str | None]:
    """What is written of an attempt: its result, and what else there is to say."""
    error = whole_characters(result.error)
    if result.state == "pending":
        return "interrupted", error
    if is_kept:
        return result.state, error
    return "late", "delivered after its lease was lost" if result.state == "delivered" else error


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
