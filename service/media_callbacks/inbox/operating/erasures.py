"""
Erasing what is kept of one subject: of a job, of an asset, or of whoever the applications' user data names.

What goes is content: bodies of receipts, events and held events, what receivers have answered, and user data. What
stays are keys, outcomes, revisions, bindings and the vendor's ids, so that nothing comes twice. An event whose content
is gone stays in ``erased_events``, and a receipt that brings it again is kept without its body: see
``inbox/sql/004_operating``.

All of the store is gone through in steps, because content is in no index: which rows are meant is looked up by whoever
only reads, a stretch of ids at a time, and a short transaction erases them, as far as they are still meant. The value
that is looked for is in no table; each step is told it.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple, cast

from pydantic_core import to_json

from media_callbacks.inbox.database import Database, identity_of
from media_callbacks.inbox.operating import refusals, sinks
from media_callbacks.inbox.operating.filters import compile_filter
from media_callbacks.inbox.operating.spellings import says, spellings_of
from media_callbacks.inbox.receiving import holds
from media_callbacks.inbox.records import ErasureCounts, ErasureRecord, ErasureRequest, EventFilter
from media_callbacks.inbox.rows import from_milliseconds, to_id
from media_callbacks.model.identity import event_id, key_digest, outcome_of

_ROWS_PER_STEP = 100
# Ids that are gone through at once: of rows that are narrow, and of bodies, which have a kilobyte or more each.
_IDS_PER_STEP = 50_000
_BODIES_PER_STEP = 5_000
# Of receipts that may be a megabyte each.
_RAW_PER_STEP = 32
_POSITION = re.compile("(held|jobs|events|receipts)-([0-9]{1,18})")
_ERROR = "erased before it was delivered"
_COUNTS = "events, receipts, held, jobs, dead, undelivered"
_COLUMNS = f"id, erased_at, finished_at, matched, digest, requested_by, reason, {_COUNTS}"

Part = Literal["held", "jobs", "events", "receipts"]
# Held events first, and events of jobs before their user data is gone: what is of a subject because a job is, is found
# by the job.
_PARTS: Sequence[Part] = ("held", "jobs", "events", "receipts")


class Position(NamedTuple):
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
        found = _POSITION.fullmatch(text)
        if found is None:
            raise ValueError("expected a position as it was returned")
        return cls(cast(Part, found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of a part that are meant, and where to go on; None at the end."""

    part: Part
    row_ids: Sequence[int]
    next_position: Position | None


class _Looked(NamedTuple):
    """
    A stretch of so many ids, of which no more rows than the limit were looked at.

    Attributes:
        row_ids: Those that were looked at.
        meant: Those of them that are meant.
    """

    ids: int
    limit: int
    row_ids: Sequence[int]
    meant: Sequence[int]


def digest_of(request: ErasureRequest) -> str:
    """What is kept of the value."""
    return sha256(request.value.encode("utf-8", "surrogatepass")).hexdigest()


# The record


async def begin(database: Database, request: ErasureRequest) -> int:
    # They are few, and no part of the books.
    spellings = spellings_of(request.value)
    if request.account is None:
        await refusals.forget(database, lambda text: says(text, spellings))
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
    look = {"held": _look_at_held, "jobs": _look_at_jobs, "events": _look_at_events, "receipts": _look_at_receipts}
    looked = await look[position.part](database, request, position.after)
    following: Position | None
    if len(looked.row_ids) == looked.limit:
        following = position._replace(after=looked.row_ids[-1])
    elif position.after + looked.ids < await database.fetch_value(f"SELECT coalesce(max(id), 0) FROM {position.part}"):
        following = position._replace(after=position.after + looked.ids)
    else:
        parts = [part for part in _PARTS if request.account is None or part != "receipts"]
        further = parts[parts.index(position.part) + 1 :]
        following = Position(further[0]) if further else None
    return Found(position.part, looked.meant, following)


async def _look_at_held(database: Database, request: ErasureRequest, after: int) -> _Looked:
    rows = await database.fetch(
        "SELECT h.id, h.event, h.reference,"
        f" (SELECT 1 FROM jobs j WHERE j.key_digest = h.key_digest AND j.{request.matched} = $1)"
        " FROM held h WHERE h.id > $2 AND h.id <= $3 ORDER BY h.id LIMIT $4",
        request.value,
        after,
        after + _IDS_PER_STEP,
        _ROWS_PER_STEP,
    )
    meant = []
    for row_id, event, reference_text, is_of_job in rows:
        reference = json.loads(reference_text)
        names = json.loads(event)["data"].get(request.matched), reference.get(request.matched)
        if request.account in (None, reference["account"]) and (is_of_job or request.value in names):
            meant.append(row_id)
    return _Looked(_IDS_PER_STEP, _ROWS_PER_STEP, [row_id for row_id, *_ in rows], meant)


async def _look_at_jobs(database: Database, request: ErasureRequest, after: int) -> _Looked:
    rows = await database.fetch(
        f"SELECT j.id FROM jobs j WHERE j.id > $1 AND j.id <= $2 AND j.{request.matched} = $3"
        " AND j.account = coalesce(CAST($4 AS text), j.account) ORDER BY j.id LIMIT $5",
        after,
        after + _IDS_PER_STEP,
        request.value,
        request.account,
        _ROWS_PER_STEP,
    )
    row_ids = [row_id for (row_id,) in rows]
    return _Looked(_IDS_PER_STEP, _ROWS_PER_STEP, row_ids, row_ids)


async def _look_at_events(database: Database, request: ErasureRequest, after: int) -> _Looked:
    ids, wanted = _IDS_PER_STEP, EventFilter(account=request.account)
    if request.matched == "user_data":
        ids = _BODIES_PER_STEP
    else:
        wanted = replace(wanted, **{request.matched: request.value})  # type: ignore[arg-type]
    if request.matched == "job_id":
        # It has an index, so that there is one stretch.
        ids = to_id(None) - after - 1
    query = compile_filter(database, wanted, range(after + 1, after + ids + 1), by_index=False)
    if request.matched == "user_data":
        # As it is written in events; whether it is there as a whole member is seen below.
        query.add(
            "EXISTS (SELECT 1 FROM event_bodies b WHERE b.event_id = e.id AND replace(b.body, {}, '') <> b.body)",
            to_json(request.value).decode(),
        )
    # These are found by their jobs.
    query.add(
        f"NOT EXISTS (SELECT 1 FROM jobs j WHERE j.key_digest = e.key_digest AND j.{request.matched} = {{}})",
        request.value,
    )
    rows = await database.fetch(
        f"{query.select('e.id')} ORDER BY e.id LIMIT {query.mark(_ROWS_PER_STEP)}", *query.parameters
    )
    row_ids = meant = [row_id for (row_id,) in rows]
    if request.matched == "user_data":
        bodies = await database.find_bodies(row_ids)
        meant = [
            row_id for row_id, body in sorted(bodies.items()) if json.loads(body)["data"]["user_data"] == request.value
        ]
    return _Looked(ids, _ROWS_PER_STEP, row_ids, meant)


async def _look_at_receipts(database: Database, request: ErasureRequest, after: int) -> _Looked:
    """Those that have brought no event, and so are of nobody: by what their bodies say."""
    rows = await database.fetch(
        "SELECT r.id, r.body FROM receipts r WHERE r.id > $1 AND r.id <= $2 AND r.event_ids IS NULL"
        " AND r.body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM held h WHERE h.receipt_id = r.id)"
        " ORDER BY r.id LIMIT $3",
        after,
        after + _IDS_PER_STEP,
        _RAW_PER_STEP,
    )
    spellings = spellings_of(request.value)
    meant = [row_id for row_id, body in rows if says(body, spellings)]
    return _Looked(_IDS_PER_STEP, _RAW_PER_STEP, [row_id for row_id, _ in rows], meant)


# Erasing them


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
    erase: Mapping[Part, Callable[[Database, Sequence[int], _Order], Awaitable[object]]] = {
        "held": _erase_held,
        "jobs": _erase_jobs,
        "events": _erase_events,
        "receipts": _erase_receipts,
    }
    order = _Order(erasure_id or 0, await database.now(), may_drop)
    async with database.savepoint(keep=erasure_id is not None):
        await erase[found.part](database, found.row_ids, order)
        await database.execute(
            "UPDATE erasures SET events = events + $1, receipts = receipts + $2, held = held + $3, jobs = jobs + $4,"
            " dead = dead + $5, undelivered = undelivered + $6, finished_at = CAST($7 AS bigint) WHERE id = $8",
            *astuple(order.counts),
            order.at if found.next_position is None else None,
            order.erasure_id,
        )
    return order.counts, order.told if erasure_id is not None else set()


@dataclass(slots=True)
class _Order:
    """
    What a step is to do, and what it has done.

    Attributes:
        told: The sinks where something waited for what was erased.
    """

    erasure_id: int
    at: int
    may_drop: bool
    counts: ErasureCounts = field(default_factory=ErasureCounts)
    told: set[str] = field(default_factory=set)


async def _erase_held(database: Database, row_ids: Sequence[int], order: _Order) -> None:
    if not order.may_drop:
        order.counts += ErasureCounts(undelivered=len(row_ids))
        return
    claims = [one for row_id in row_ids if (one := await holds.find(database, row_id)) is not None]
    await database.lock(keys={key_digest(one.entry.event.id) for one in claims})
    for claim in claims:
        # It may have left while its key was not ours.
        held = await holds.find(database, claim.id)
        if held is None:
            continue
        # It becomes an event that goes to nobody, so that whoever says the same again says nothing new.
        entry = replace(held.entry, sinks=(), binding=None)
        (fate,) = await database.accept_events([(held.receipt_id, entry)])
        await holds.forget(database, held, brought=[entry.event.id], conflict=None, waits=None)
        order.counts += ErasureCounts(held=1)
        known = await database.find_event(entry.digest, entry.outcome)
        # One that was there before may say that it is of somebody else.
        if fate.accepted is not None and known is not None:
            await _erase_locked(database, [known.row_id], order)
        await _erase_receipts(database, [held.receipt_id], order)


async def _erase_jobs(database: Database, row_ids: Sequence[int], order: _Order) -> None:
    """User data of jobs, with all their events, and those of another key that they have ended with."""
    found = await database.fetch_for("SELECT id, key_digest, event_id FROM jobs WHERE id IN ({values})", row_ids)
    ended_with = {identity_of(event_id): row_id for row_id, _, event_id in found if event_id is not None}
    job_of = {digest: row_id for row_id, digest, _ in found}
    events = {
        event.row_id: job_of.get(event.key_digest) or ended_with[(event.key_digest, event.outcome)]
        for event in await database.find_events({*job_of, *(digest for digest, _ in ended_with)})
        if event.key_digest in job_of or (event.key_digest, event.outcome) in ended_with
    }
    left = {events[row_id] for row_id in await _erase_events(database, list(events), order)}
    # By its user data the rest of a job is found the next time.
    cleared = await _fetch_ids(
        database,
        "SELECT j.id FROM jobs j WHERE j.user_data IS NOT NULL AND j.id IN ({values})",
        [row_id for row_id in row_ids if row_id not in left],
    )
    await database.execute_many(
        "UPDATE jobs SET user_data = NULL WHERE id = $1", [(row_id,) for row_id in sorted(cleared)]
    )
    await database.execute_many(
        "UPDATE answers SET detail = NULL WHERE key_digest = $1 AND detail IS NOT NULL",
        [(digest,) for row_id, digest, _ in found if row_id not in left],
    )
    order.counts += ErasureCounts(jobs=len(cleared))


async def _erase_events(database: Database, row_ids: Sequence[int], order: _Order) -> set[int]:
    digests = await database.fetch_for("SELECT key_digest FROM events WHERE id IN ({values})", row_ids)
    # Whoever brings one of them again, or sends it again, has its key.
    await database.lock(keys={digest for (digest,) in digests})
    return await _erase_locked(database, row_ids, order)


async def _erase_locked(database: Database, row_ids: Sequence[int], order: _Order) -> set[int]:
    """Returns the events that were left, because they are not yet delivered."""
    # Whoever records the end of one just now holds its row.
    open_rows = await database.fetch_for(
        "SELECT d.event_id, d.sink, d.replay FROM deliveries d WHERE d.event_id IN ({values})"
        " AND d.state IN ('pending', 'retrying') ORDER BY d.event_id, d.sink, d.replay" + database.for_update("d"),
        sorted(row_ids),
    )
    left = set() if order.may_drop else {row_id for row_id, *_ in open_rows}
    meant = sorted(set(row_ids) - left)
    known = await database.fetch_for(
        "SELECT e.id, e.key_digest, e.outcome FROM events e WHERE e.id IN ({values})"
        " AND NOT EXISTS (SELECT 1 FROM erased_events x WHERE x.event_id = e.id)",
        meant,
    )
    # Also of those that were erased before: a version that knows of no erasures may have kept some since.
    receipts = await _fetch_ids(
        database, "SELECT e.receipt_id FROM events e WHERE e.id IN ({values})", meant
    ) | await _fetch_ids(database, "SELECT x.receipt_id FROM event_receipts x WHERE x.event_id IN ({values})", meant)
    await _erase_receipts(database, sorted(receipts), order)
    each = [(row_id,) for row_id in meant]
    await database.execute_many("DELETE FROM event_bodies WHERE event_id = $1", each)
    # Words of receivers, which may quote what they were sent.
    await database.execute_many("UPDATE attempts SET error = NULL WHERE event_id = $1 AND error IS NOT NULL", each)
    await database.execute_many(
        "UPDATE deliveries SET error = NULL WHERE event_id = $1 AND error <> $2", [(*row, _ERROR) for row in each]
    )
    # Words of the vendor.
    digests = await database.fetch_for("SELECT e.key_digest FROM events e WHERE e.id IN ({values})", meant)
    await database.execute_many(
        "UPDATE answers SET detail = NULL WHERE key_digest = $1 AND detail IS NOT NULL",
        [(digest,) for digest in sorted({digest for (digest,) in digests})],
    )
    # Nobody can send again what is dead: it is counted no more, as if it were replaced.
    await database.execute_many("UPDATE deliveries SET state = 'replaced' WHERE event_id = $1 AND state = 'dead'", each)
    dropped = [] if left else open_rows
    await database.execute_many(
        "UPDATE deliveries SET state = 'replaced', due_at = NULL, lease = NULL, changed_at = $1, error = $2"
        " WHERE event_id = $3 AND sink = $4 AND replay = $5",
        [(order.at, _ERROR, *row) for row in dropped],
    )
    await database.execute_many(
        "INSERT INTO erased_events (event_id, public_id, erased_at, erasure) VALUES ($1, $2, $3, $4)"
        # A version that knows of no erasures may have removed an event of this id, and nothing else.
        " ON CONFLICT (public_id) DO UPDATE"
        " SET event_id = excluded.event_id, erased_at = excluded.erased_at, erasure = excluded.erasure",
        [
            (row_id, event_id(digest, outcome_of(digest, outcome)), order.at, order.erasure_id)
            for row_id, digest, outcome in known
        ],
    )
    sinks_ = {sink for _, sink, _ in dropped}
    for sink in sinks_:
        # Another outcome of the same key may be of nobody who is meant.
        await sinks.release_stranded(database, sink)
    order.told |= sinks_
    order.counts += ErasureCounts(events=len(known), dead=len(dropped), undelivered=len(left))
    return left


async def _erase_receipts(database: Database, row_ids: Sequence[int], order: _Order) -> None:
    with_body = await _fetch_ids(
        database, "SELECT r.id FROM receipts r WHERE r.body IS NOT NULL AND r.id IN ({values})", row_ids
    )
    await database.execute_many(
        "UPDATE receipts SET body = NULL, meta = NULL WHERE id = $1", [(row_id,) for row_id in sorted(with_body)]
    )
    order.counts += ErasureCounts(receipts=len(with_body))


async def _fetch_ids(database: Database, sql: str, row_ids: Sequence[int]) -> set[int]:
    return {row_id for (row_id,) in await database.fetch_for(sql, row_ids)}
