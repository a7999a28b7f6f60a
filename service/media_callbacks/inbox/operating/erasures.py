"""
Erasing what is kept of one subject: of a job, of an asset, or of whoever the applications' user data names.

What goes is content: bodies of receipts, events and held events, what receivers have answered, and user data. What
stays are keys, outcomes, revisions, bindings and the vendor's ids, so that nothing comes twice. An event whose content
is gone stays in ``erased_events``, and a receipt that brings it again is kept without its body: see
``inbox/sql/004_erasures``.

All of the store is gone through in steps, because content is in no index: which rows are meant is looked up by whoever
only reads, a stretch of ids at a time, and a short transaction erases them, as far as they are still meant. The value
that is looked for is in no table; each step is told it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from hashlib import sha256
from typing import Any, Literal

from pydantic_core import to_json

from media_callbacks.inbox.database import Candidate, Database
from media_callbacks.inbox.operating import sinks
from media_callbacks.inbox.operating.filters import compile_filter
from media_callbacks.inbox.receiving import holds
from media_callbacks.inbox.records import ErasureCounts, ErasureRecord, ErasureRequest, EventFilter
from media_callbacks.inbox.rows import from_milliseconds, to_id
from media_callbacks.model.identity import event_id, key_digest
from media_callbacks.model.kinds import OUTCOMES

_ROWS_PER_STEP = 100
# Ids that are gone through at once: of rows that are narrow, and of bodies, which have a kilobyte or more each.
_IDS_PER_STEP = 50_000
_BODIES_PER_STEP = 5_000
# Of receipts that may be a megabyte each.
_RAW_PER_STEP = 32
_MAX_DIGITS = 18
_ERROR = "erased before it was delivered"
_COUNTS = "events, receipts, held, jobs, dead, undelivered"
_COLUMNS = f"id, erased_at, finished_at, matched, digest, requested_by, reason, {_COUNTS}"

Part = Literal["held", "jobs", "events", "receipts"]
# Held events first, and events of jobs before their user data is gone: what is of a subject because a job is, is found
# by the job.
_PARTS: Sequence[Part] = ("held", "jobs", "events", "receipts")


@dataclass(frozen=True, slots=True)
class Position:
    """How far an erasure is: the part that it is in, and up to which id that is done."""

    part: Part = "held"
    after: int = 0

    def __str__(self) -> str:
        return f"{self.part}-{self.after}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """
        Raises:
            ValueError: This is none.
        """
        name, _, after = text.partition("-")
        part = next((part for part in _PARTS if part == name), None)
        if part is None or not (after.isascii() and after.isdigit() and len(after) <= _MAX_DIGITS):
            raise ValueError("expected a position as it was returned")
        return cls(part, int(after))


@dataclass(frozen=True, slots=True)
class Found:
    """
    The rows of a part that are meant, and where to go on; None at the end.

    Attributes:
        events: Of jobs: the events that they ended with.
    """

    part: Part
    row_ids: Sequence[int]
    next_position: Position | None
    events: Mapping[int, Sequence[int]] | None = None


def digest_of(request: ErasureRequest) -> str:
    """What is kept of the value."""
    return sha256(request.value.encode("utf-8", "surrogatepass")).hexdigest()


# The record


async def begin(database: Database, request: ErasureRequest) -> int:
    return int(
        await database.fetch_value(
            "INSERT INTO erasures (erased_at, matched, digest, requested_by, reason) VALUES ($1, $2, $3, $4, $5)"
            " RETURNING id",
            await database.now(),
            request.matched,
            digest_of(request),
            request.requested_by,
            request.reason,
        )
    )


async def is_of(database: Database, erasure_id: int, request: ErasureRequest) -> bool:
    """Whether an erasure was begun for this, and has not ended."""
    row = await database.fetch_row(
        "SELECT matched, digest FROM erasures WHERE id = $1 AND finished_at IS NULL", to_id(erasure_id)
    )
    return row is not None and tuple(row) == (request.matched, digest_of(request))


async def list_erasures(database: Database, *, before_id: int | None, limit: int) -> tuple[ErasureRecord, ...]:
    rows = await database.fetch(
        f"SELECT {_COLUMNS} FROM erasures WHERE id < $1 ORDER BY id DESC LIMIT $2", to_id(before_id), limit
    )
    return tuple(map(_record, rows))


def _record(row: Sequence[Any]) -> ErasureRecord:
    row_id, erased_at, finished_at, matched, digest, requested_by, reason, *counts = row
    return ErasureRecord(
        id=row_id,
        erased_at=from_milliseconds(erased_at),
        finished_at=None if finished_at is None else from_milliseconds(finished_at),
        matched=matched,
        digest=digest,
        requested_by=requested_by,
        reason=reason,
        counts=ErasureCounts(*counts),
    )


# Which rows are meant


async def find(database: Database, request: ErasureRequest, position: Position) -> Found:
    match position.part:
        case "held":
            return await _find_held(database, request, position)
        case "jobs":
            return await _find_jobs(database, request, position)
        case "events":
            return await _find_events(database, request, position)
        case "receipts":
            return await _find_receipts(database, request, position)


async def _go_on(
    database: Database, position: Position, table: str, row_ids: Sequence[int], *, ids: int, limit: int
) -> Position | None:
    """After the rows that were found in a stretch of so many ids."""
    if len(row_ids) == limit:
        return replace(position, after=row_ids[-1])
    last_id = await database.fetch_value(f"SELECT coalesce(max(id), 0) FROM {table}")
    if position.after + ids < last_id:
        return replace(position, after=position.after + ids)
    number = _PARTS.index(position.part) + 1
    return Position(_PARTS[number]) if number < len(_PARTS) else None


async def _find_held(database: Database, request: ErasureRequest, position: Position) -> Found:
    rows = await database.fetch(
        "SELECT h.id, h.event, h.reference,"
        f" (SELECT 1 FROM jobs j WHERE j.key_digest = h.key_digest AND j.{request.matched} = $1)"
        " FROM held h WHERE h.id > $2 ORDER BY h.id LIMIT $3",
        request.value,
        position.after,
        _ROWS_PER_STEP,
    )
    # Not those that are meant: all that were looked at.
    after = [row_id for row_id, *_ in rows]
    meant = [
        row_id
        for row_id, event, reference, is_of_job in rows
        if is_of_job
        or request.value in (json.loads(event)["data"][request.matched], json.loads(reference).get(request.matched))
    ]
    following = Position("held", after[-1]) if len(after) == _ROWS_PER_STEP else Position("jobs")
    return Found("held", meant, following)


async def _find_jobs(database: Database, request: ErasureRequest, position: Position) -> Found:
    rows = await database.fetch(
        f"SELECT j.id, j.key_digest FROM jobs j WHERE j.id > $1 AND j.id <= $2 AND j.{request.matched} = $3"
        " ORDER BY j.id LIMIT $4",
        position.after,
        position.after + _IDS_PER_STEP,
        request.value,
        _ROWS_PER_STEP,
    )
    job_of = {digest: row_id for row_id, digest in rows}
    events: dict[int, list[int]] = {row_id: [] for row_id, _ in rows}
    for digest, row_id in await database.fetch_for(
        f"SELECT e.key_digest, e.id FROM events e WHERE {database.by_key('e.key_digest IN ({values})')}"
        " AND NOT EXISTS (SELECT 1 FROM erased_events x WHERE x.event_id = e.id)",
        list(job_of),
    ):
        events[job_of[digest]].append(row_id)
    row_ids = list(events)
    following = await _go_on(database, position, "jobs", row_ids, ids=_IDS_PER_STEP, limit=_ROWS_PER_STEP)
    return Found("jobs", row_ids, following, events)


async def _find_events(database: Database, request: ErasureRequest, position: Position) -> Found:
    stretch = _BODIES_PER_STEP if request.matched == "user_data" else _IDS_PER_STEP
    if request.matched == "user_data":
        query = compile_filter(
            database, EventFilter(), range(position.after + 1, position.after + stretch + 1), by_index=False
        )
        # As it is written in events; whether it is there as a whole member is seen below.
        query.add(
            "EXISTS (SELECT 1 FROM event_bodies b WHERE b.event_id = e.id AND replace(b.body, {}, '') <> b.body)",
            to_json(request.value).decode(),
        )
    else:
        # A job id has an index, so that there is one stretch.
        stretch = to_id(None) - position.after - 1 if request.matched == "job_id" else stretch
        wanted = EventFilter(**{request.matched: request.value})  # type: ignore[arg-type]
        query = compile_filter(
            database, wanted, range(position.after + 1, position.after + stretch + 1), by_index=False
        )
    query.add("NOT EXISTS (SELECT 1 FROM erased_events x WHERE x.event_id = e.id)")
    # These are found by their jobs.
    query.add(
        f"NOT EXISTS (SELECT 1 FROM jobs j WHERE j.key_digest = e.key_digest AND j.{request.matched} = {{}})",
        request.value,
    )
    rows = await database.fetch(
        f"{query.select('e.id')} ORDER BY e.id LIMIT {query.mark(_ROWS_PER_STEP)}", *query.parameters
    )
    row_ids = [row_id for (row_id,) in rows]
    following = await _go_on(database, position, "events", row_ids, ids=stretch, limit=_ROWS_PER_STEP)
    if request.matched == "user_data":
        bodies = await database.fetch_for(
            "SELECT event_id, body FROM event_bodies WHERE event_id IN ({values})", row_ids
        )
        row_ids = sorted(row_id for row_id, body in bodies if json.loads(body)["data"]["user_data"] == request.value)
    return Found("events", row_ids, following)


async def _find_receipts(database: Database, request: ErasureRequest, position: Position) -> Found:
    """Those that have brought no event, and so are of nobody: by what their bodies say."""
    rows = await database.fetch(
        "SELECT r.id, r.body FROM receipts r WHERE r.id > $1 AND r.id <= $2 AND r.event_ids IS NULL"
        " AND r.body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM held h WHERE h.receipt_id = r.id)"
        " ORDER BY r.id LIMIT $3",
        position.after,
        position.after + _IDS_PER_STEP,
        _RAW_PER_STEP,
    )
    after = [row_id for row_id, _ in rows]
    following = await _go_on(database, position, "receipts", after, ids=_IDS_PER_STEP, limit=_RAW_PER_STEP)
    spellings = _spellings(request.value)
    meant = [row_id for row_id, body in rows if any(spelling in body for spelling in spellings)]
    return Found("receipts", meant, following)


def _spellings(value: str) -> Collection[bytes]:
    """
    How a body may have a value as a whole: in JSON, which may be a text within JSON, or in XML. Not as a part of
    another text, or a short value would take along what is of others.
    """
    found: set[str] = {f">{value}<"}
    for is_ascii in (True, False):
        written = json.dumps(value, ensure_ascii=is_ascii)
        found |= {written, json.dumps(written, ensure_ascii=is_ascii)[1:-1]}
    return {text.encode("utf-8", "surrogatepass") for text in found}


# Erasing them


class _Counted(Exception):
    pass


async def apply(
    database: Database, found: Found, erasure_id: int | None, *, may_drop: bool
) -> tuple[ErasureCounts, set[str]]:
    """
    Args:
        erasure_id: None for counting only: it is done, and taken back.
        may_drop: Whether what is not yet delivered may be erased, too. Else such events stay whole, and are counted.

    Returns:
        What was erased, and the sinks where something waited for it.
    """
    counts, told = ErasureCounts(), set[str]()
    with suppress(_Counted):
        async with database.savepoint():
            counts, told = await _apply(database, found, erasure_id or 0, may_drop=may_drop)
            if erasure_id is None:
                raise _Counted
    return counts, told if erasure_id is not None else set()


async def _apply(
    database: Database, found: Found, erasure_id: int, *, may_drop: bool
) -> tuple[ErasureCounts, set[str]]:
    now = await database.now()
    counts, told = ErasureCounts(), set[str]()
    match found.part:
        case "held":
            counts, told = await _erase_held(database, found, erasure_id, now, may_drop=may_drop)
        case "jobs":
            counts, told = await _erase_jobs(database, found, erasure_id, now, may_drop=may_drop)
        case "events":
            counts, _, told = await _erase_events(database, found.row_ids, erasure_id, now, may_drop=may_drop)
        case "receipts":
            counts = ErasureCounts(receipts=await _erase_receipts(database, found.row_ids))
    await database.execute(
        "UPDATE erasures SET events = events + $1, receipts = receipts + $2, held = held + $3, jobs = jobs + $4,"
        " dead = dead + $5, undelivered = undelivered + $6, finished_at = CAST($7 AS bigint) WHERE id = $8",
        *astuple(counts),
        now if found.next_position is None else None,
        erasure_id,
    )
    return counts, told


async def _erase_held(
    database: Database, found: Found, erasure_id: int, now: int, *, may_drop: bool
) -> tuple[ErasureCounts, set[str]]:
    if not may_drop:
        return ErasureCounts(undelivered=len(found.row_ids)), set()
    claims = [one for row_id in found.row_ids if (one := await holds.find(database, row_id)) is not None]
    await database.lock(keys={key_digest(one.entry.event.id) for one in claims})
    counts, told = ErasureCounts(), set[str]()
    for claim in claims:
        # It may have left while its key was not ours.
        held = await holds.find(database, claim.id)
        if held is None:
            continue
        # It becomes an event that goes to nobody, so that whoever says the same again says nothing new.
        event = held.entry.event
        candidate = Candidate(held.receipt_id, event, event.to_json().decode(), None, ())
        await database.accept_events([candidate])
        await holds.forget(database, held, brought=[event.id], conflict=None, waits=None)
        known = await database.find_event(candidate.digest, candidate.outcome)
        assert known is not None
        further, _, released = await _erase_locked(database, [known.row_id], erasure_id, now, may_drop=True)
        counts += further
        counts += ErasureCounts(held=1, receipts=await _erase_receipts(database, [held.receipt_id]))
        told |= released
    return counts, told


async def _erase_jobs(
    database: Database, found: Found, erasure_id: int, now: int, *, may_drop: bool
) -> tuple[ErasureCounts, set[str]]:
    events = found.events or {}
    counts, left, told = await _erase_events(
        database, [row_id for row_ids in events.values() for row_id in row_ids], erasure_id, now, may_drop=may_drop
    )
    # By its user data the rest of a job is found the next time.
    done = [row_id for row_id in found.row_ids if not left.intersection(events.get(row_id, ()))]
    cleared = await _fetch_ids(
        database, "SELECT j.id FROM jobs j WHERE j.user_data IS NOT NULL AND j.id IN ({values})", done
    )
    await database.execute_many("UPDATE jobs SET user_data = NULL WHERE id = $1", [(row_id,) for row_id in cleared])
    return counts + ErasureCounts(jobs=len(cleared)), told


async def _erase_events(
    database: Database, row_ids: Sequence[int], erasure_id: int, now: int, *, may_drop: bool
) -> tuple[ErasureCounts, set[int], set[str]]:
    digests = await database.fetch_for("SELECT key_digest FROM events WHERE id IN ({values})", row_ids)
    # Whoever brings one of them again, or sends it again, has its key.
    await database.lock(keys={digest for (digest,) in digests})
    return await _erase_locked(database, row_ids, erasure_id, now, may_drop=may_drop)


async def _erase_locked(
    database: Database, row_ids: Sequence[int], erasure_id: int, now: int, *, may_drop: bool
) -> tuple[ErasureCounts, set[int], set[str]]:
    """Returns also the events that were left, because they are not yet delivered."""
    # Whoever records the end of one just now holds its row.
    open_rows = await database.fetch_for(
        "SELECT d.event_id, d.sink, d.replay FROM deliveries d WHERE d.event_id IN ({values})"
        " AND d.state IN ('pending', 'retrying') ORDER BY d.event_id, d.sink, d.replay" + database.for_update("d"),
        sorted(row_ids),
    )
    left = set() if may_drop else {row_id for row_id, *_ in open_rows}
    known = await database.fetch_for(
        "SELECT e.id, e.key_digest, e.outcome FROM events e WHERE e.id IN ({values})"
        " AND NOT EXISTS (SELECT 1 FROM erased_events x WHERE x.event_id = e.id)",
        [row_id for row_id in row_ids if row_id not in left],
    )
    erased = sorted(row_id for row_id, *_ in known)
    receipts = await _fetch_ids(
        database,
        "SELECT e.receipt_id FROM events e WHERE e.id IN ({values})",
        erased,
    ) | await _fetch_ids(database, "SELECT x.receipt_id FROM event_receipts x WHERE x.event_id IN ({values})", erased)
    removed = await _erase_receipts(database, sorted(receipts))
    each = [(row_id,) for row_id in erased]
    await database.execute_many("DELETE FROM event_bodies WHERE event_id = $1", each)
    # Words of receivers, which may quote what they were sent.
    await database.execute_many("UPDATE attempts SET error = NULL WHERE event_id = $1 AND error IS NOT NULL", each)
    await database.execute_many("UPDATE deliveries SET error = NULL WHERE event_id = $1 AND error IS NOT NULL", each)
    dropped = [tuple(row) for row in open_rows if row[0] not in left]
    await database.execute_many(
        "UPDATE deliveries SET state = 'dead', due_at = NULL, lease = NULL, changed_at = $1, error = $2"
        " WHERE event_id = $3 AND sink = $4 AND replay = $5",
        [(now, _ERROR, *row) for row in dropped],
    )
    await database.execute_many(
        "INSERT INTO erased_events (event_id, public_id, erased_at, erasure) VALUES ($1, $2, $3, $4)",
        [(row_id, event_id(digest, OUTCOMES[outcome]), now, erasure_id) for row_id, digest, outcome in known],
    )
    told = {sink for _, sink, _ in dropped}
    for sink in told:
        # Another outcome of the same key may be of nobody who is meant.
        await sinks.release_stranded(database, sink)
    counts = ErasureCounts(events=len(erased), receipts=removed, dead=len(dropped), undelivered=len(left))
    return counts, left, told


async def _erase_receipts(database: Database, row_ids: Sequence[int]) -> int:
    with_body = await _fetch_ids(
        database, "SELECT r.id FROM receipts r WHERE r.body IS NOT NULL AND r.id IN ({values})", row_ids
    )
    await database.execute_many(
        "UPDATE receipts SET body = NULL, meta = NULL WHERE id = $1", [(row_id,) for row_id in sorted(with_body)]
    )
    return len(with_body)


async def _fetch_ids(database: Database, sql: str, row_ids: Sequence[int]) -> set[int]:
    return {row_id for (row_id,) in await database.fetch_for(sql, row_ids)}
