"""
One search for jobs by whatever names them: job id, nonce, media id, the id of an event, or user data, whole or its
beginning.

Media ids and user data of events are looked for in spans of ids, newest first; see docs/decisions/counts-and-spans.md.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from media_callbacks.inbox.asking import jobs
from media_callbacks.inbox.database import Database, Value, identity_of
from media_callbacks.inbox.operating.lives import EVENT, FoundEvent, find_events_of, find_jobs, find_unread, key_range
from media_callbacks.inbox.records import FoundBy, JobHit, JobRecord
from media_callbacks.inbox.rows import (
    START_CHARACTERS,
    from_milliseconds,
    to_column,
    to_milliseconds,
    user_data_start,
)
from media_callbacks.model.identity import is_operational
from media_callbacks.model.kinds import OUTCOMES, Product

# Beyond all that begins with what is before it.
_END = "\U0010ffff"


@dataclass(slots=True)
class _Hit:
    """
    What is found of one job.

    Attributes:
        event: Its latest event, of those that were found.
    """

    product: Product
    id: str
    found_by: FoundBy
    at: int
    job: JobRecord | None = None
    event: FoundEvent | None = None


class _Told(NamedTuple):
    """An event, with the user data that it says."""

    event: FoundEvent
    user_data: str | None


class _Hits:
    """By product and id, in the order in which they were found."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.found: dict[tuple[str, str], _Hit] = {}

    @property
    def room(self) -> int:
        return self._limit - len(self.found)

    def add(self, hit: _Hit) -> None:
        known = self.found.get((hit.product, hit.id))
        if known is not None:
            known.job = known.job or hit.job
            if hit.event is not None and (known.event is None or known.event < hit.event):
                known.event = hit.event
        elif self.room > 0:
            self.found[hit.product, hit.id] = hit

    def add_jobs(self, records: Iterable[JobRecord], found_by: FoundBy) -> None:
        for job in records:
            reference = job.reference
            id_ = reference.job_id or reference.nonce or ""
            self.add(_Hit(reference.product, id_, found_by, to_milliseconds(job.registered_at), job))

    def add_events(self, events: Iterable[FoundEvent], found_by: FoundBy, *, id_: str | None = None) -> None:
        """Args: id_: What their keys begin with, for those that name no job."""
        for event in events:
            name = event.job_id or id_ or event.media_id or event.id
            self.add(_Hit(event.product, name, found_by, event.accepted_at, event=event))


async def search(database: Database, text: str, *, limit: int) -> tuple[JobHit, ...]:
    now = await database.now()
    hits = _Hits(limit)
    id_ = text.strip()
    await _search_ids(database, hits, id_, now)
    await _search_media(database, hits, id_, now)
    # Each look costs as much as there are spans.
    room = hits.room
    begun = await _find_by_user_data(database, text, room, is_whole=False)
    for is_whole in (True, False):
        await _search_user_data(database, hits, text, now, begun if len(begun) < room else None, is_whole=is_whole)
    if not hits.found:
        for receipt in await find_unread(database, {id_}):
            hits.add(_Hit(receipt.product, id_, "receipt", receipt.received_at))
    return tuple([await _complete(database, hit, now) for hit in hits.found.values()])


async def _search_ids(database: Database, hits: _Hits, id_: str, now: int) -> None:
    try:
        known = None if is_operational(id_) else await database.find_event(*identity_of(id_))
    except ValueError:
        known = None
    if known is not None:
        rows = await database.fetch(f"SELECT {EVENT} FROM events e WHERE e.id = $1", known.row_id)
        hits.add_events([FoundEvent(*row) for row in rows], "event_id")
    registered = await find_jobs(database, id_, now)
    hits.add_jobs([job for job in registered.values() if job.reference.job_id == id_], "job_id")
    hits.add_jobs([job for job in registered.values() if job.reference.job_id != id_], "nonce")
    bound = await database.fetch("SELECT key_digest FROM bindings WHERE value = $1 LIMIT $2", id_, hits.room)
    events = await find_events_of(database, id_, {*registered, *(digest for (digest,) in bound)})
    # A key that begins with an id and is of another job is that of a minted URL.
    hits.add_events([event for event in events[::-1] if event.job_id in (None, id_)], "job_id", id_=id_)
    hits.add_events([event for event in events[::-1] if event.job_id not in (None, id_)], "nonce")
    for table, at in (("held", "held_at"), ("receipt_keys k JOIN receipts r ON r.id = k.receipt_id", "received_at")):
        rows = await database.fetch(
            f"SELECT product, max({at}) FROM {table} WHERE key_digest BETWEEN $1 AND $2 GROUP BY product",
            *key_range(id_),
        )
        for product, moment in rows:
            hits.add(_Hit(product, id_, "job_id", moment))


async def _search_media(database: Database, hits: _Hits, id_: str, now: int) -> None:
    rows = await database.fetch(
        f"SELECT {jobs.RECORD} FROM jobs WHERE media_id = $1 ORDER BY id DESC LIMIT $2", id_, hits.room
    )
    hits.add_jobs([jobs.record_of(row, now) for row in rows], "media_id")
    rows = await database.fetch(
        f"SELECT {EVENT} FROM ({database.ids_named('media_id', '{} = $1')} LIMIT $2) named"
        " CROSS JOIN events e WHERE e.id = named.id",
        id_[:START_CHARACTERS],
        hits.room,
    )
    events = [FoundEvent(*row) for row in rows]
    hits.add_events(
        [event for event in events if len(id_) < START_CHARACTERS or event.media_id == to_column(id_)], "media_id"
    )


async def _search_user_data(
    database: Database, hits: _Hits, text: str, now: int, begun: Sequence[_Told] | None, *, is_whole: bool
) -> None:
    """Args: begun: All events whose user data begins with the text; None where there are more than were looked for."""
    found_by: FoundBy = "user_data" if is_whole else "user_data_prefix"

    def is_meant(user_data: str | None) -> bool:
        return user_data is not None and (user_data == text if is_whole else user_data.startswith(text))

    start = text[:START_CHARACTERS]
    column = f"substr(user_data, 1, {START_CHARACTERS})"
    rows = await database.fetch(
        f"SELECT {jobs.RECORD} FROM jobs WHERE user_data IS NOT NULL AND {column} >= $1 AND {column} {_below(is_whole)}"
        f" ORDER BY {column} LIMIT $3",
        *_bounds(start, is_whole=is_whole),
        hits.room,
    )
    hits.add_jobs([job for job in (jobs.record_of(row, now) for row in rows) if is_meant(job.user_data)], found_by)
    found = begun
    if found is None:
        found = await _find_by_user_data(database, text, hits.room, is_whole=is_whole)
    hits.add_events([one.event for one in found if is_meant(one.user_data)], found_by)


async def _find_by_user_data(database: Database, text: str, limit: int, *, is_whole: bool) -> list[_Told]:
    """Those whose user data begins with the beginning of a text, or has that alone."""
    ids = database.ids_named("user_data", f"{{0}} >= $1 AND {{0}} {_below(is_whole)}")
    rows = await database.fetch(
        f"SELECT {EVENT} FROM ({ids} LIMIT $3) named CROSS JOIN events e WHERE e.id = named.id",
        *_bounds(user_data_start(text), is_whole=is_whole),
        limit,
    )
    events = [FoundEvent(*row) for row in rows]
    bodies = await database.find_bodies([event.row_id for event in events])
    told = {row_id: json.loads(body)["data"]["user_data"] for row_id, body in bodies.items()}
    return [_Told(event, told.get(event.row_id)) for event in events]


def _below(is_whole: bool) -> str:
    return "<= $2" if is_whole else "< $2"


def _bounds(start: str, *, is_whole: bool) -> Sequence[Value]:
    return start, start if is_whole else start + _END


async def _complete(database: Database, hit: _Hit, now: int) -> JobHit:
    """With all that is to be told of it, and not only what it was found by."""
    registered = await find_jobs(database, hit.id, now)
    of_product = [job for job in registered.values() if job.reference.product == hit.product]
    job = hit.job or next(iter(of_product), None)
    events = await find_events_of(database, hit.id, registered)
    event = max([one for one in events if one.product == hit.product], default=hit.event)
    body: dict[str, Any] = {}
    if event is not None:
        for text in (await database.find_bodies([event.row_id])).values():
            body = json.loads(text)
    reference = None if job is None else job.reference
    account = body["source"].rpartition("/")[2] if body else None
    return JobHit(
        product=hit.product,
        id=hit.id,
        account=account if reference is None else reference.account,
        job_id=(event.job_id if event else None) or (reference.job_id if reference else None),
        media_id=(event.media_id if event else None) or (reference.media_id if reference else None),
        user_data=(body and body["data"]["user_data"]) or (job and job.user_data) or None,
        found_by=hit.found_by,
        state=None if job is None else job.state,
        event_id=None if event is None else event.id,
        outcome=None if event is None else OUTCOMES[event.outcome],
        at=from_milliseconds(hit.at if event is None else event.accepted_at),
    )
