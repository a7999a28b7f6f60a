"""Removing what is old, a step in a transaction. What somebody else is working on is left for the next pass."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from media_callbacks.inbox.database import Database, Row, identity_of
from media_callbacks.inbox.keeping import clock
from media_callbacks.inbox.operating import refusals
from media_callbacks.inbox.records import Purged
from media_callbacks.inbox.rows import to_id

# What is asked of a second table is asked by a subquery for each row: a planner that takes tables for empty may join
# them by going through all of one.
_IS_WAITING = "d.state IN ('pending', 'retrying')"
# Older rows have no other time; see inbox/sql/003_clock.
_STORED_AT = "coalesce(r.stored_at, r.received_at)"
# Keys that a step may lock: receipts of these wait for it, and of those that share their locks.
_MAX_LOCKED = 100
# By what numbers them, ``receipts`` or ``events``: stretches of ids that are to be left, in order.
Spared = Mapping[str, Sequence[range]]
# Tables, with the columns of what is remembered and of the time.
_ANSWERS = ("answers", "id", "answered_at")
_NAMELESS = (("nameless_keys", "key_digest", "matched_at"), ("nameless_events", "event_id", "accepted_at"))


@dataclass(frozen=True, slots=True)
class Position:
    """
    How far the present pass is, so that no step looks again at what an earlier one had to leave.

    Attributes:
        receipt_id: Receipts up to this one were looked at; None when all were.
        body_id: The same of events' bodies.
        key_id: The same of keys' events. They come after all payloads, because a key stays as long as it has any.
        job_id: The same of expected jobs. They come last, because a binding stays as long as its key.
    """

    receipt_id: int | None = 0
    body_id: int | None = 0
    key_id: int | None = 0
    job_id: int | None = 0


async def purge(
    database: Database,
    position: Position,
    *,
    keep_payloads_ms: int,
    keep_keys_ms: int,
    limit: int,
    spared: Spared,
) -> tuple[Purged | str, Position]:
    """
    Look at the next rows of a kind or two, and remove what is old and no longer needed; or say why it can't be told
    what is old.

    Args:
        spared: Payloads that go otherwise.
    """
    doubt = await clock.doubt(database)
    if doubt is not None:
        return doubt, position
    now = await database.now()
    payloads_before, keys_before = now - keep_payloads_ms, now - keep_keys_ms
    payloads = keys = 0
    is_finished = False
    # Steps for keys and for jobs wait for locks, and must hold nothing that another one may want who has these.
    if position.receipt_id is not None or position.body_id is not None:
        if position == Position():
            await refusals.purge(database, payloads_before)
        if position.receipt_id is not None:
            ids = _next_ids(position.receipt_id, spared.get("receipts", ()))
            payloads, receipt_id = await _purge_receipts(database, ids, payloads_before, limit)
            position = replace(position, receipt_id=receipt_id)
        if position.body_id is not None:
            ids = _next_ids(position.body_id, spared.get("events", ()))
            body_id = await _purge_bodies(database, ids, payloads_before, limit)
            position = replace(position, body_id=body_id)
    elif position.key_id is not None:
        keys, key_id = await _purge_keys(database, position.key_id, keys_before, min(limit, _MAX_LOCKED))
        position = replace(position, key_id=key_id)
    else:
        if position.job_id is not None:
            keys, job_id = await _purge_jobs(database, position.job_id, keys_before, min(limit, _MAX_LOCKED))
            position = replace(position, job_id=job_id)
        further = [await _purge_by_time(database, columns, keys_before, limit) for columns in _NAMELESS]
        further.append(await _purge_by_time(database, _ANSWERS, payloads_before, limit))
        if position.job_id is None:
            further.append(await _purge_erased(database, payloads_before, limit))
        is_finished = position.job_id is None and max(further) < limit
    return Purged(payloads, keys, is_finished), Position() if is_finished else position


def _next_ids(after: int, spared: Sequence[range]) -> range:
    """Those after an id that are looked at next: all, or up to what is to be left."""
    for ids in spared:
        if after + 1 < ids.start:
            return range(after + 1, ids.start)
        after = max(after, ids.stop - 1)
    return range(after + 1, to_id(None))


def _next_id(rows: Sequence[Row], before: int, limit: int, ids: range | None = None) -> int | None:
    """
    Where to go on after rows that begin with id and time; None where no older ones are to be expected. A row or two out
    of order, because a clock was set, do not end the pass.

    Args:
        ids: Among which they are; None for all.
    """
    if len(rows) < limit and ids is not None and ids.stop < to_id(None):
        return ids.stop - 1
    if len(rows) < limit or all(at >= before for _, at, *_ in rows):
        return None
    return int(max(row_id for row_id, *_ in rows))


async def _remove(database: Database, table: str, column: str, row_ids: Collection[int]) -> None:
    """Rows that follow each other, as nearly all do, go by one statement: what else there is of each costs more."""
    await database.execute_many(f"DELETE FROM {table} WHERE {column} >= $1 AND {column} <= $2", _runs(row_ids))


def _runs(row_ids: Collection[int]) -> list[tuple[int, int]]:
    """The first and the last of those that follow each other without a gap."""
    runs: list[tuple[int, int]] = []
    for row_id in sorted(row_ids):
        if runs and runs[-1][1] == row_id - 1:
            runs[-1] = runs[-1][0], row_id
        else:
            runs.append((row_id, row_id))
    return runs


async def _remove_each(database: Database, table: str, column: str, values: Collection[int | bytes]) -> None:
    await database.execute_many(f"DELETE FROM {table} WHERE {column} = $1", [(value,) for value in values])


async def _purge_receipts(database: Database, ids: range, before: int, limit: int) -> tuple[int, int | None]:
    after = ids.start - 1
    rows = await database.fetch(
        f"SELECT r.id, {_STORED_AT} FROM receipts r WHERE r.id > $1 AND r.id < $2 ORDER BY r.id LIMIT $3",
        after,
        ids.stop,
        limit,
    )
    if not any(stored_at < before for _, stored_at in rows):
        return 0, _next_id(rows, before, limit, ids)
    last = max(row_id for row_id, _ in rows)
    locked = await database.fetch(
        f"SELECT r.id, r.event_ids FROM receipts r WHERE r.id > $1 AND r.id <= $2 AND {_STORED_AT} < $3 ORDER BY r.id"
        + database.for_update("r", skip_locked=True),
        after,
        last,
        before,
    )
    # Only now: what is held of a receipt may change until its row is locked, and not after that.
    held = await database.fetch("SELECT receipt_id FROM held WHERE receipt_id > $1 AND receipt_id <= $2", after, last)
    held_ids = {receipt_id for (receipt_id,) in held}
    events_of = {
        receipt_id: [identity_of(text) for text in (event_ids or "").split()]
        for receipt_id, event_ids in locked
        if receipt_id not in held_ids
    }
    known = await database.find_events({digest for events in events_of.values() for digest, _ in events})
    found = {(event.key_digest, event.outcome): event.row_id for event in known}
    rows_of = {
        receipt_id: [found[event] for event in events if event in found] for receipt_id, events in events_of.items()
    }
    waiting = await database.fetch_for(
        f"SELECT d.event_id FROM deliveries d WHERE d.event_id IN ({{values}}) AND {_IS_WAITING}", list(found.values())
    )
    waiting_ids = {event_id for (event_id,) in waiting}
    removed = [receipt_id for receipt_id, row_ids in rows_of.items() if waiting_ids.isdisjoint(row_ids)]
    await database.execute_many(
        "DELETE FROM event_receipts WHERE event_id = $1 AND receipt_id = $2",
        [(row_id, receipt_id) for receipt_id in removed for row_id in rows_of[receipt_id]],
    )
    await _remove(database, "receipts", "id", removed)
    return len(removed), _next_id(rows, before, limit, ids)


async def _purge_bodies(database: Database, ids: range, before: int, limit: int) -> int | None:
    """Bodies of events, with deliveries and attempts."""
    after = ids.start - 1
    rows = await database.fetch(
        "SELECT b.event_id, coalesce((SELECT e.accepted_at FROM events e WHERE e.id = b.event_id), 0)"
        " FROM event_bodies b WHERE b.event_id > $1 AND b.event_id < $2 ORDER BY b.event_id LIMIT $3",
        after,
        ids.stop,
        limit,
    )
    old = {event_id for event_id, accepted_at in rows if accepted_at < before}
    if not old:
        return _next_id(rows, before, limit, ids)
    last = max(old)
    locked = await database.fetch(
        "SELECT b.event_id FROM event_bodies b WHERE b.event_id > $1 AND b.event_id <= $2 ORDER BY b.event_id"
        + database.for_update("b", skip_locked=True),
        after,
        last,
    )
    # Only now: who sends an event again locks its body.
    waiting = await database.fetch(
        f"SELECT d.event_id FROM deliveries d WHERE d.event_id > $1 AND d.event_id <= $2 AND {_IS_WAITING}", after, last
    )
    removed = old & {event_id for (event_id,) in locked} - {event_id for (event_id,) in waiting}
    for table in ("attempts", "deliveries", "event_bodies"):
        await _remove(database, table, "event_id", removed)
    return _next_id(rows, before, limit, ids)


async def _purge_keys(database: Database, after: int, before: int, limit: int) -> tuple[int, int | None]:
    rows = await database.fetch(
        "SELECT id, accepted_at, key_digest FROM events WHERE id > $1 ORDER BY id LIMIT $2", after, limit
    )
    old = await _find_old_keys(database, {digest for _, accepted_at, digest in rows if accepted_at < before}, before)
    # Who accepts another outcome has the lock. It may have come before we got it.
    await database.lock(keys=list(old))
    old = await _find_old_keys(database, list(old), before)
    removed = [event_id for event_ids in old.values() for event_id in event_ids]
    await _remove(database, "events", "id", removed)
    await _remove(database, "event_receipts", "event_id", removed)
    # Deliveries of erased events had no body that they could have gone with.
    for table in ("attempts", "deliveries", "erased_events"):
        await _remove(database, table, "event_id", removed)
    await _remove_each(database, "bindings", "key_digest", list(old))
    return len(removed), _next_id(rows, before, limit)


async def _find_old_keys(database: Database, digests: Collection[bytes], before: int) -> dict[bytes, list[int]]:
    """
    Of these keys those that are not needed, with the rows of their events. A key goes with all its outcomes or not at
    all: else a later outcome would get the revision of an earlier one.
    """
    known = await database.find_events(digests)
    kept = await database.fetch_for(
        "SELECT event_id FROM event_bodies WHERE event_id IN ({values})", [event.row_id for event in known]
    )
    kept_ids = {event_id for (event_id,) in kept}
    found: dict[bytes, list[int]] = {}
    needed: set[bytes] = set()
    for event in known:
        found.setdefault(event.key_digest, []).append(event.row_id)
        if event.accepted_at >= before or event.row_id in kept_ids:
            needed.add(event.key_digest)
    return {digest: event_ids for digest, event_ids in found.items() if digest not in needed}


async def _purge_jobs(database: Database, after: int, before: int, limit: int) -> tuple[int, int | None]:
    """Jobs that ended, and what they were bound to."""
    rows = await database.fetch(
        "SELECT id, registered_at, key_digest, ended_at FROM jobs WHERE id > $1 ORDER BY id LIMIT $2", after, limit
    )
    old = {row_id: digest for row_id, _, digest, ended_at in rows if ended_at is not None and ended_at < before}
    # Who ends a job again, or accepts an event that needs the binding, has the lock.
    await database.lock(keys=list(old.values()))
    locked = await database.fetch_for(
        "SELECT j.id, j.key_digest FROM jobs j WHERE j.ended_at < $1 AND j.due_at IS NULL AND j.id IN ({values})"
        + database.for_update("j", skip_locked=True),
        list(old),
        before,
    )
    await _remove(database, "jobs", "id", [row_id for row_id, _ in locked])
    needed = {event.key_digest for event in await database.find_events([digest for _, digest in locked])}
    await _remove_each(database, "bindings", "key_digest", [digest for _, digest in locked if digest not in needed])
    return len(locked), _next_id(rows, before, limit)


async def _purge_by_time(database: Database, columns: tuple[str, str, str], before: int, limit: int) -> int:
    """What is remembered of messages that named no job, and what the vendor has said."""
    table, key, time = columns
    rows = await database.fetch(
        f"SELECT n.{key} FROM {table} n WHERE n.{time} < $1 ORDER BY n.{time} LIMIT $2"
        + database.for_update("n", skip_locked=True),
        before,
        limit,
    )
    await _remove_each(database, table, key, [value for (value,) in rows])
    return len(rows)


async def _purge_erased(database: Database, before: int, limit: int) -> int:
    """Deliveries of erased events. They are all finished, and there is no body that they could go with."""
    rows = await database.fetch(
        "SELECT x.event_id FROM erased_events x WHERE x.erased_at < $1"
        " AND EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = x.event_id) ORDER BY x.event_id LIMIT $2",
        before,
        limit,
    )
    removed = [row_id for (row_id,) in rows]
    for table in ("attempts", "deliveries"):
        await _remove(database, table, "event_id", removed)
    return len(removed)
