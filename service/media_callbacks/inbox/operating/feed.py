"""
Events in the order in which they are shown to those who follow them: each once, none before one that may still come.

A cursor is the place of the last event that was looked at, with what tells whether that event is still there. After a
restore or a copy it may be another one, or stand elsewhere, and then nobody knows which events the cursor's owner has
not seen.
"""

from collections.abc import Sequence
from dataclasses import replace

from media_callbacks.inbox.database import Database, Horizon, Row
from media_callbacks.inbox.operating.filters import first_id_at
from media_callbacks.inbox.records import FeedCursor, FeedEvent, FeedFilter, FeedPart, Place
from media_callbacks.inbox.rows import from_milliseconds, to_id
from media_callbacks.model.errors import CursorGone
from media_callbacks.model.identity import outcome_of

# Looked at in one read, whether anybody wants them or not; where somebody wants all, what is asked for is enough.
_ROWS = 1000
# Clocks that differ or are set back, and transactions that take long, disturb the order of times for no longer.
_DISORDER_MS = 3_600_000
_BEGINNING = FeedCursor(Place(0, 0))


async def read(
    database: Database,
    after: FeedCursor | int | None,
    filters: Sequence[FeedFilter],
    *,
    limit: int,
    max_bytes: int,
) -> FeedPart:
    """
    The next events that one of the filters may want, at most ``limit``, of ``max_bytes`` together or a single one.

    Args:
        after: A cursor; or a time in milliseconds, for what was accepted then or later; or None, for what comes now.

    Raises:
        CursorGone: What follows the cursor can't be told, or is not kept any more.
    """
    horizon = await database.feed_horizon()
    if isinstance(after, FeedCursor):
        await _check(database, horizon, after)
        start, since = after.place, after.since
    elif after is None:
        start, since = (await _last(database, horizon)).place, None
    else:
        start, since = await _find_start(database, horizon, after)
    at_most = limit if since is None and any(one.wants_all for one in filters) else _ROWS
    found = [_event(row, horizon) for row in await _rows_after(database, horizon, start, at_most)]
    is_complete = len(found) < at_most
    wanted = [event for event in found if event.is_since(since) and any(one.may_want(event) for one in filters)]
    events = await _fill(database, wanted[:limit], max_bytes)
    if len(events) < len(wanted):
        is_complete = False
        found = found[: found.index(wanted[len(events) - 1]) + 1]
    if found:
        end = found[-1].cursor(since)
    else:
        end = after if isinstance(after, FeedCursor) else replace(await _last(database, horizon), since=since)
    kept = [event for event in events if event is not None]
    lost = next((event for event in kept if event.body is None), None)
    return FeedPart(
        events=tuple(kept),
        end=end,
        is_complete=is_complete,
        is_held_up=is_complete and await database.is_held_up(horizon),
        kept_since=None if lost is None else from_milliseconds(await _kept_after(database, lost.place.row_id)),
    )


# Where to begin


async def _check(database: Database, horizon: Horizon, cursor: FeedCursor) -> None:
    if cursor == replace(_BEGINNING, since=cursor.since):
        return
    row = await database.fetch_row(
        f"SELECT {_columns(database)} FROM events e WHERE e.id = $1", to_id(cursor.place.row_id)
    )
    if row is None or _event(row, horizon).cursor(cursor.since) != cursor:
        raise CursorGone(
            "the cursor's event is not there any more, or stands elsewhere: the store was restored or copied, or it was"
            " purged",
            since=from_milliseconds(max(0, cursor.accepted_at - _DISORDER_MS)),
        )


async def _find_start(database: Database, horizon: Horizon, since: int) -> tuple[Place, int]:
    """A place before everything that was accepted at a time or later and is still kept; and that time."""
    since = max(since, await _kept_after(database, 0))
    first_id = await first_id_at(database, since - _DISORDER_MS)
    row = await database.fetch_row(
        f"SELECT e.id, {database.xid} FROM events e WHERE e.id >= $1 ORDER BY e.id LIMIT 1", first_id
    )
    if row is None:
        return (await _last(database, horizon)).place, since
    row_id, xid = row
    return (Place(0, row_id - 1) if row_id <= horizon.by_id_until else Place(xid, 0)), since


async def _kept_after(database: Database, row_id: int) -> int:
    """When the first event after this one was accepted whose body is kept; the present where there is none."""
    kept_id = await database.fetch_value("SELECT min(event_id) FROM event_bodies WHERE event_id > $1", row_id)
    at = await database.fetch_value("SELECT accepted_at FROM events WHERE id = $1", to_id(kept_id))
    return await database.now() if at is None else int(at)


async def _last(database: Database, horizon: Horizon) -> FeedCursor:
    """The last event whose place is settled."""
    columns = _columns(database)
    row = None
    if horizon.xid is not None:
        row = await database.fetch_row(
            f"SELECT {columns} FROM events e WHERE e.xid < $1 AND e.id > $2 ORDER BY e.xid DESC, e.id DESC LIMIT 1",
            horizon.xid,
            horizon.by_id_until,
        )
    if row is None:
        row = await database.fetch_row(
            f"SELECT {columns} FROM events e WHERE e.id <= $1 ORDER BY e.id DESC LIMIT 1", horizon.by_id_until
        )
    return _BEGINNING if row is None else _event(row, horizon).cursor(None)


# Events


def _columns(database: Database) -> str:
    return f"e.id, {database.xid}, e.key_digest, e.outcome, e.accepted_at, e.product, e.kind, e.job_id, e.media_id"


def _event(row: Row, horizon: Horizon) -> FeedEvent:
    row_id, xid, digest, outcome, accepted_at, product, kind, job_id, media_id = row
    return FeedEvent(
        Place(0 if row_id <= horizon.by_id_until else xid, row_id),
        f"{digest[-4:].hex()}{outcome}",
        accepted_at,
        product,
        kind,
        outcome_of(digest, outcome),
        job_id,
        media_id,
    )


async def _rows_after(database: Database, horizon: Horizon, place: Place, limit: int) -> list[Row]:
    columns = _columns(database)
    rows: list[Row] = []
    if place.xid == 0 and place.row_id < horizon.by_id_until:
        rows += await database.fetch(
            f"SELECT {columns} FROM events e WHERE e.id > $1 AND e.id <= $2 ORDER BY e.id LIMIT $3",
            place.row_id,
            horizon.by_id_until,
            limit,
        )
    if horizon.xid is not None and len(rows) < limit:
        rows += await database.fetch(
            f"SELECT {columns} FROM events e WHERE (e.xid, e.id) > ($1, $2) AND e.xid < $3 AND e.id > $4"
            " ORDER BY e.xid, e.id LIMIT $5",
            place.xid,
            place.row_id,
            horizon.xid,
            horizon.by_id_until,
            limit - len(rows),
        )
    return rows


async def _fill(database: Database, events: Sequence[FeedEvent], max_bytes: int) -> list[FeedEvent | None]:
    """
    The first of these with their bodies, as many as there is room for, at least one. None for one that was erased; one
    whose body is not kept for its age has none.
    """
    ids = [event.place.row_id for event in events]
    lengths = await database.fetch_map(
        "SELECT event_id, length(body) FROM event_bodies WHERE event_id IN ({values})", ids
    )
    size = count = 0
    for row_id in ids:
        size += lengths.get(row_id, 0)
        if count and size > max_bytes:
            break
        count += 1
    bodies = await database.find_bodies([row_id for row_id in ids[:count] if row_id in lengths])
    erased = await database.fetch_for(
        "SELECT event_id FROM erased_events WHERE event_id IN ({values})",
        [row_id for row_id in ids[:count] if row_id not in bodies],
    )
    erased_ids = {row_id for (row_id,) in erased}
    return [
        None if row_id in erased_ids else event._replace(body=bodies.get(row_id))
        for event, row_id in zip(events[:count], ids, strict=False)
    ]
