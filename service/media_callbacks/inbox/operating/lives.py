"""
All that is known of a job: what came for it, what waits, what the vendor has said, what became of its events.

Everything is found by digests of keys: those that begin with the job's id, and those of its registrations and of what
it is bound to. A receipt that could not be read has none, and is found by its body, if it is one of the last.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from media_callbacks.inbox.asking import jobs
from media_callbacks.inbox.database import Database, Row, identity_of
from media_callbacks.inbox.operating import replays
from media_callbacks.inbox.operating.reads import IN_TROUBLE, read_events, read_receipts
from media_callbacks.inbox.operating.spellings import any_says, says, spellings_of
from media_callbacks.inbox.records import (
    NO_ENDINGS,
    AnswerRecord,
    EventRecord,
    HeldRecord,
    JobLife,
    JobName,
    JobRecord,
    ReplayRecord,
)
from media_callbacks.inbox.rows import from_milliseconds
from media_callbacks.model.identity import Key, event_id, job_prefix, key_digest
from media_callbacks.model.kinds import OUTCOMES, Product

# A job has few of each. An asset, or a live job that goes on for weeks, may have many.
MAX_JOBS = 100
_MAX_EVENTS = 100
_MAX_RECEIPTS = 500
_MAX_HELD = 100
_MAX_ANSWERS = 200
_MAX_REPLAYS = 200
# Receipts that could not be read, newest first: how many are looked at, and how much of their bodies, because looking
# keeps all else waiting.
_MAX_UNREAD = 1000
_MAX_UNREAD_BYTES = 4 << 20
_HELD = "id, key_digest, receipt_id, reason, event, reference, held_at, until, due_at, attempts"
_ANSWER = "id, key_digest, receipt_id, reason, attempt, asked_at, answered_at, result, decision, detail, event_id"


class FoundEvent(NamedTuple):
    """An event in the tables; ``job_id`` is as much of its own as a list has."""

    row_id: int
    key_digest: bytes
    outcome: int
    accepted_at: int
    product: Product
    job_id: str | None
    media_id: str | None

    @property
    def id(self) -> str:
        return event_id(self.key_digest, OUTCOMES[self.outcome])


EVENT = "e.id, e.key_digest, e.outcome, e.accepted_at, e.product, e.job_id, e.media_id"


@dataclass(frozen=True, slots=True)
class _Traces:
    """
    What a job's name leads to.

    Attributes:
        product: None for any.
        jobs: Its registrations, oldest first.
        digests: Of its keys, as far as they are known otherwise than by the id that they begin with.
        foreign: Of keys that are of another account or family than the name says.
        own: The only ones that may begin with the id; None for any.
    """

    id: str
    product: Product | None
    jobs: Sequence[JobRecord]
    digests: frozenset[bytes]
    foreign: frozenset[bytes]
    own: frozenset[bytes] | None

    def wants(self, digest: bytes) -> bool:
        if digest in self.digests:
            return True
        return digest not in self.foreign and (self.own is None or digest in self.own)


def key_range(id_: str) -> tuple[bytes, bytes]:
    """The first and the last digest of all keys that begin with an id."""
    prefix = job_prefix(id_)
    return prefix + b"\x00" * 8, prefix + b"\xff" * 8


async def find_life(database: Database, name: JobName) -> JobLife:
    now = await database.now()
    traces = await _find_traces(database, name, now)
    found = [event for event in await _find_events(database, traces) if event.product == name.product]
    events = await read_events(database, [event.row_id for event in found[-_MAX_EVENTS:]])
    held_rows = await _find_held(database, traces)
    if name.account is not None:
        # What else there is of keys of other accounts is of these, too.
        accounts = [(key_digest(event.id), _account_of(event)) for event in events]
        accounts += [(row[1], json.loads(row[5])["account"]) for row in held_rows]
        foreign = frozenset([digest for digest, account in accounts if account not in (None, name.account)])
        traces = replace(traces, digests=traces.digests - foreign, foreign=traces.foreign | foreign)
        events = [event for event in events if traces.wants(key_digest(event.id))]
        held_rows = [row for row in held_rows if traces.wants(row[1])]
    receipt_ids = {receipt.id for event in events for receipt in event.receipts}
    receipt_ids |= {receipt_id for _, _, receipt_id, *_ in held_rows}
    receipt_ids |= await _find_eventless(database, traces)
    receipts = await read_receipts(database, sorted(receipt_ids)[-_MAX_RECEIPTS:])
    answer_rows = await _find_answers(database, traces, [receipt.id for receipt in receipts])
    found_and_most = (
        (traces.jobs, MAX_JOBS - 1),
        (found, _MAX_EVENTS),
        (receipt_ids, _MAX_RECEIPTS),
        (held_rows, _MAX_HELD),
        (answer_rows, _MAX_ANSWERS),
    )
    return JobLife(
        name=name,
        now=from_milliseconds(now),
        jobs=tuple(traces.jobs),
        receipts=tuple([receipt for receipt in receipts if receipt.product == name.product]),
        held=tuple(map(_held_record, held_rows[-_MAX_HELD:])),
        answers=tuple(map(_answer_record, answer_rows[-_MAX_ANSWERS:])),
        events=tuple(events),
        replays=await _find_replays(database, {event.id: event.row_id for event in found}, events),
        is_whole=all(len(rows) <= most for rows, most in found_and_most),
    )


async def find_receipt_ids(database: Database, id_: str) -> set[int]:
    """Of the receipts about a job, of whatever product."""
    traces = await _find_traces(database, None, await database.now(), id_=id_)
    events = await read_events(database, [event.row_id for event in (await _find_events(database, traces))])
    receipt_ids = {receipt.id for event in events for receipt in event.receipts}
    return receipt_ids | await _find_eventless(database, traces)


def _account_of(event: EventRecord) -> str | None:
    """None where that is not known any more."""
    if event.body is None:
        return None
    return str(json.loads(event.body)["source"]).rpartition("/")[2]


# By its names


async def _find_traces(database: Database, name: JobName | None, now: int, *, id_: str = "") -> _Traces:
    """Args: id_: Where there is no name: of whatever product, account and family."""
    id_, product = (id_, None) if name is None else (name.id, name.product)
    found = await find_jobs(database, id_, now)
    if product is not None:
        found = {digest: job for digest, job in found.items() if job.reference.product == product}
    own = None
    foreign: set[bytes] = set()
    if name is not None:
        foreign = {
            digest
            for digest, job in found.items()
            if name.account not in (None, job.reference.account) or name.family not in (None, job.reference.family)
        }
        if name.family is not None:
            accounts = {name.account or "default", *(job.reference.account for job in found.values())}
            accounts = accounts if name.account is None else {name.account}
            own = frozenset(Key(name.product, account, name.family, (id_,)).digest() for account in accounts)
    wanted = {digest: job for digest, job in found.items() if digest not in foreign}
    # What a job has ended with may be of another key, and so may be a message that was found to be about it.
    digests = {identity_of(job.event_id)[0] for job in wanted.values() if job.event_id is not None}
    matched = await database.fetch_for(
        "SELECT key_digest FROM nameless_keys WHERE job IN ({values})", [job.id for job in wanted.values()]
    )
    bound = await database.fetch("SELECT key_digest FROM bindings WHERE value = $1 LIMIT $2", id_, MAX_JOBS)
    digests |= {digest for (digest,) in (*matched, *bound)} - foreign
    in_order = sorted(wanted.values(), key=lambda job: job.id)
    return _Traces(id_, product, in_order, frozenset(digests | set(wanted)), frozenset(foreign), own)


async def find_jobs(database: Database, id_: str, now: int) -> dict[bytes, JobRecord]:
    """Registrations with this job id or nonce, the newest, by the digests of their keys."""
    found: dict[bytes, JobRecord] = {}
    for column, value in (("job_id", id_), ("nonce", id_.lower())):
        rows = await database.fetch(
            f"SELECT key_digest, {jobs.RECORD} FROM jobs WHERE {column} = $1 ORDER BY id DESC LIMIT $2",
            value,
            MAX_JOBS,
        )
        found |= {digest: jobs.record_of(row, now) for digest, *row in rows}
    return found


async def find_events_of(database: Database, id_: str, digests: Collection[bytes]) -> list[FoundEvent]:
    """Events of keys that begin with an id, and of further keys, in order of acceptance."""
    rows = [
        *await database.fetch(
            f"SELECT {EVENT} FROM events e WHERE {database.by_key('e.key_digest BETWEEN $1 AND $2')}", *key_range(id_)
        ),
        *await database.fetch_for(
            f"SELECT {EVENT} FROM events e WHERE {database.by_key('e.key_digest IN ({values})')}", sorted(digests)
        ),
    ]
    return sorted({FoundEvent(*row) for row in rows})


async def _find_events(database: Database, traces: _Traces) -> list[FoundEvent]:
    events = await find_events_of(database, traces.id, traces.digests)
    return [event for event in events if traces.wants(event.key_digest)]


# What is no event


async def _fetch_of_keys(
    database: Database, table: str, columns: str, traces: _Traces, most: int
) -> list[tuple[Any, ...]]:
    """The newest rows of a table by their keys, oldest first: by the first column. The second one is the key."""
    rows = [
        *await database.fetch(
            f"SELECT {columns} FROM {table} WHERE key_digest BETWEEN $1 AND $2 ORDER BY 1 DESC LIMIT $3",
            *key_range(traces.id),
            most,
        ),
        *await database.fetch_for(
            f"SELECT {columns} FROM {table} WHERE key_digest IN ({{values}})", sorted(traces.digests)
        ),
    ]
    return sorted({tuple(row) for row in rows if traces.wants(row[1])})


async def _find_held(database: Database, traces: _Traces) -> list[tuple[Any, ...]]:
    rows = await _fetch_of_keys(database, "held", _HELD, traces, _MAX_HELD + 1)
    return [row for row in rows if traces.product in (None, json.loads(row[5])["product"])]


def _held_record(row: Row) -> HeldRecord:
    _, _, receipt_id, reason, event, _, held_at, until, due_at, attempts = row
    body = json.loads(event)
    return HeldRecord(
        receipt_id=receipt_id,
        reason=reason,
        event_id=body["id"],
        type=body["type"],
        held_at=from_milliseconds(held_at),
        until=from_milliseconds(until),
        due_at=from_milliseconds(due_at),
        attempts=attempts,
    )


async def _find_eventless(database: Database, traces: _Traces) -> set[int]:
    """Receipts that have brought no event, at least not at once."""
    rows = await _fetch_of_keys(database, "receipt_keys", "receipt_id, key_digest", traces, _MAX_RECEIPTS + 1)
    named = [(job.reference.job_id, job.reference.nonce) for job in traces.jobs]
    ids = {traces.id, *(id_ for both in named for id_ in both if id_ is not None)}
    unread = await find_unread(database, ids)
    return {receipt_id for receipt_id, _ in rows} | {receipt.id for receipt in unread}


class UnreadReceipt(NamedTuple):
    """A receipt that gave no event."""

    id: int
    product: Product
    received_at: int


async def find_unread(database: Database, ids: Collection[str]) -> list[UnreadReceipt]:
    """Of the last receipts that gave no event those that have one of these ids in their body."""
    rows = await database.fetch(
        f"SELECT id, length(body) FROM receipts{database.using('receipts_in_trouble')} WHERE {IN_TROUBLE}"
        " AND event_ids IS NULL AND body IS NOT NULL ORDER BY id DESC LIMIT $1",
        _MAX_UNREAD,
    )
    looked: list[int] = []
    size = 0
    for receipt_id, size_bytes in rows:
        size += size_bytes
        if size > _MAX_UNREAD_BYTES:
            break
        looked.append(receipt_id)
    spellings = {spelling for id_ in ids for spelling in spellings_of(id_)}
    found = await database.fetch_for(
        "SELECT id, product, received_at, body, meta FROM receipts WHERE body IS NOT NULL AND id IN ({values})", looked
    )
    if not any_says([body for *_, body, _ in found], spellings):
        # As nearly always.
        spellings = set()
    return [
        UnreadReceipt(receipt_id, product, received_at)
        for receipt_id, product, received_at, body, meta in found
        if (spellings and says(body, spellings))
        or (meta is not None and not set(json.loads(meta).values()).isdisjoint(ids))
    ]


async def _find_answers(database: Database, traces: _Traces, receipt_ids: Sequence[int]) -> list[tuple[Any, ...]]:
    by_key = await _fetch_of_keys(database, "answers", _ANSWER, traces, _MAX_ANSWERS + 1)
    by_receipt = await database.fetch_for(
        f"SELECT {_ANSWER} FROM answers WHERE receipt_id IN ({{values}})", receipt_ids
    )
    return sorted({*by_key, *map(tuple, by_receipt)})


def _answer_record(row: Row) -> AnswerRecord:
    _, _, receipt_id, reason, attempt, asked_at, answered_at, result, decision, detail, new_id = row
    return AnswerRecord(
        receipt_id=receipt_id,
        reason=reason,
        attempt=attempt,
        asked_at=from_milliseconds(asked_at),
        answered_at=from_milliseconds(answered_at),
        result=result,
        decision=decision,
        detail=detail,
        event_id=new_id,
    )


# Replays


async def _find_replays(
    database: Database, row_ids: dict[str, int], events: Sequence[EventRecord]
) -> tuple[ReplayRecord, ...]:
    """Those that events which were sent again may have been part of: a delivery does not know whose it is."""
    again = [event for event in events if any(delivery.replay for delivery in event.deliveries)]
    if not again:
        return ()
    return tuple(
        [
            replay
            for replay, cursor in await replays.list_gone_through(database, limit=_MAX_REPLAYS)
            if any(row_ids[event.id] <= cursor and _is_meant(replay, event) for event in again)
        ]
    )


def _is_meant(replay: ReplayRecord, event: EventRecord) -> bool:
    wanted = replay.request.filter
    same = (
        (wanted.event_id, event.id),
        (wanted.job_id, event.job_id),
        (wanted.media_id, event.media_id),
        (wanted.account, _account_of(event)),
        (wanted.product, event.product),
        (wanted.kind, event.kind),
        (wanted.outcome, event.outcome),
    )
    sinks = {delivery.sink for delivery in event.deliveries if delivery.replay}
    return (
        event.accepted_at <= replay.created_at
        and all(asked in (None, has) for asked, has in same)
        and (wanted.since is None or wanted.since <= event.accepted_at)
        and (wanted.until is None or event.accepted_at < wanted.until)
        and (not replay.request.sinks or not sinks.isdisjoint(replay.request.sinks))
    )


# Their ends


async def find_endings(
    database: Database, asked: Collection[tuple[Product, str]]
) -> dict[tuple[Product, str], frozenset[str]]:
    """What ends jobs, of each product and id: events, and registrations that have ended."""
    ids = list({id_ for _, id_ in asked})
    begun_by = {job_prefix(id_): id_ for id_ in ids}
    bound_to = await database.fetch_map("SELECT key_digest, value FROM bindings WHERE value IN ({values})", ids)
    events = {
        event.row_id: event
        for event in [*await database.find_events_by_prefix(begun_by), *await database.find_events(bound_to)]
        if OUTCOMES[event.outcome] not in NO_ENDINGS
    }
    products = await database.fetch_map("SELECT id, product FROM events WHERE id IN ({values})", list(events))
    found: dict[tuple[str, str], set[str]] = {}
    for row_id, product in products.items():
        digest, outcome = events[row_id].key_digest, OUTCOMES[events[row_id].outcome]
        for id_ in {begun_by.get(digest[:8]), bound_to.get(digest)}:
            if id_ is not None:
                found.setdefault((product, id_), set()).add(event_id(digest, outcome))
    for column in ("job_id", "nonce"):
        for product, id_, number in await database.fetch_for(
            f"SELECT product, {column}, id FROM jobs WHERE ended_at IS NOT NULL AND {column} IN ({{values}})", ids
        ):
            found.setdefault((product, id_), set()).add(f"job {number}")
    return {name: frozenset(found[name]) for name in asked if name in found}
