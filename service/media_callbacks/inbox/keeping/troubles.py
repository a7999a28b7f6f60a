"""
Troubles of the service, one row for each that is open, whichever instances see it; and the events that tell of them.
See docs/decisions/operational-events.md. Times are milliseconds since 1970 in UTC.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.records import SeenTrouble, TroubleRecord
from media_callbacks.inbox.rows import from_milliseconds
from media_callbacks.model.events import Event
from media_callbacks.model.kinds import Trouble
from media_callbacks.model.operational import RULES, OperationalEvent, build_event
from media_callbacks.model.receipts import Entry

# Stands for all of them: who writes any of them has it.
_LOCK = b"media-callbacks/troubles"
# No receipt has brought them.
_NO_RECEIPT = 0
_COLUMNS = "trouble, subject, since, seen_at, told_at, count, detail"


@dataclass(slots=True)
class _Row:
    trouble: Trouble
    subject: str
    since: int
    seen_at: int
    told_at: int | None = None
    count: int = 0
    detail: str | None = None

    def see(self, seen: SeenTrouble, now: int) -> None:
        self.seen_at = max(self.seen_at, now - int(seen.seen_s * 1000))
        self.count += seen.count
        self.detail = seen.detail or self.detail

    def event(self, *, has_ended: bool, instance: str) -> OperationalEvent:
        words = [self.detail] if self.detail else []
        if self.count:
            words.append(f"{self.count} {'in all' if has_ended else 'so far'}")
        return build_event(
            self.trouble,
            self.subject,
            since=from_milliseconds(self.since),
            ended_at=from_milliseconds(self.seen_at) if has_ended else None,
            detail="; ".join(words) or None,
            instance=instance,
        )


async def list_troubles(database: Database) -> tuple[TroubleRecord, ...]:
    return tuple(
        [
            TroubleRecord(
                row.trouble,
                row.subject,
                from_milliseconds(row.since),
                from_milliseconds(row.seen_at),
                None if row.told_at is None else from_milliseconds(row.told_at),
                row.count,
                row.detail,
            )
            for row in await _read(database)
        ]
    )


async def _read(database: Database) -> list[_Row]:
    """Those of a later version are left to it."""
    rows = await database.fetch(f"SELECT {_COLUMNS} FROM troubles")
    return [_Row(*row) for row in sorted(map(tuple, rows), key=lambda row: row[:2]) if row[0] in RULES]


async def note(
    database: Database,
    all_seen: Sequence[SeenTrouble],
    *,
    instance: str,
    route: Callable[[OperationalEvent], Sequence[str]],
    may_end: bool,
) -> tuple[tuple[OperationalEvent, ...], set[str]]:
    """See ``TroubleBook.note_troubles``. Returns also which sinks get something."""
    await database.lock(keys=[_LOCK])
    now = await database.now()
    before = await _read(database)
    rows = {(row.trouble, row.subject): row for row in before}
    for seen in all_seen:
        key = seen.trouble, seen.subject
        row = rows.get(key)
        if seen.is_sign and (row is None or row.told_at is None):
            continue
        if row is None:
            since = now - int(seen.began_s * 1000)
            row = rows[key] = _Row(seen.trouble, seen.subject, since, since)
        row.see(seen, now)
    events: list[OperationalEvent] = []
    for key, row in list(rows.items()):
        rule = RULES[row.trouble]
        if row.told_at is None and row.seen_at - row.since >= rule.after_s * 1000:
            row.told_at = now
            events.append(row.event(has_ended=False, instance=instance))
        if may_end and now - row.seen_at >= rule.quiet_s * 1000:
            if row.told_at is not None:
                events.append(row.event(has_ended=True, instance=instance))
            del rows[key]
    await _write(database, rows.values(), ended=[row for row in before if (row.trouble, row.subject) not in rows])
    return tuple(events), await _send(database, events, route)


async def _write(database: Database, rows: Collection[_Row], *, ended: Collection[_Row]) -> None:
    await database.execute_many(
        "DELETE FROM troubles WHERE trouble = $1 AND subject = $2", [(row.trouble, row.subject) for row in ended]
    )
    await database.execute_many(
        f"INSERT INTO troubles ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (trouble, subject)"
        " DO UPDATE SET seen_at = excluded.seen_at, told_at = excluded.told_at, count = excluded.count,"
        " detail = excluded.detail",
        [(row.trouble, row.subject, row.since, row.seen_at, row.told_at, row.count, row.detail) for row in rows],
    )


async def _send(
    database: Database, events: Sequence[OperationalEvent], route: Callable[[OperationalEvent], Sequence[str]]
) -> set[str]:
    # They have all that is asked of an event here.
    entries = [Entry(cast(Event, event), sinks) for event in events if (sinks := tuple(route(event)))]
    if entries:
        await database.accept_events([(_NO_RECEIPT, entry) for entry in entries])
    return {sink for entry in entries for sink in entry.sinks}
