"""
Receipts that need care: with events that are held, or with messages that name no job; and receipts that are read again.
Whether an event was there before is found by ``Database.accept_events``, also for the receipts that need none: see
``sqlite/events.py`` and ``sql/003_clock.postgresql.sql``. Times are milliseconds since 1970 in UTC.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from media_callbacks.inbox.asking import jobs
from media_callbacks.inbox.database import Candidate, Database, StoredEvent
from media_callbacks.inbox.receiving import holds
from media_callbacks.inbox.receiving.differing import describe, differing_members
from media_callbacks.inbox.records import Reparsed
from media_callbacks.inbox.rows import to_column, to_milliseconds
from media_callbacks.model.events import Event
from media_callbacks.model.identity import key_digest
from media_callbacks.model.receipts import Entry, NamelessJob, Receipt, ReceiptState, Verdict


async def lock(database: Database, entries: Sequence[Entry], others: Collection[bytes] = ()) -> None:
    """
    Lock what entries are about: once in a transaction, before anything is looked at.

    Args:
        others: Further keys.
    """
    keys = {*others, *(entry.digest for entry in entries)}
    messages = [(entry.event, entry.nameless) for entry in entries if entry.nameless is not None]
    assets = {asset for _, message in messages if (asset := jobs.asset_of(message)) is not None}
    if assets:
        await database.lock(assets=assets)
        keys |= await jobs.keys_to_match(database, assets, {key_digest(event.id) for event, _ in messages})
    await database.lock(keys=keys)


def candidates_of(receipts: Sequence[Receipt], first_id: int) -> list[Candidate]:
    """What receipts bring that are numbered from this one on."""
    return [(receipt_id, entry) for receipt_id, receipt in enumerate(receipts, first_id) for entry in receipt.entries]


async def put(database: Database, receipts: Sequence[Receipt]) -> list[Verdict]:
    """Keep receipts whatever is in them, in order."""
    await lock(database, [entry for receipt in receipts for entry in receipt.entries])
    return [verdict for verdict, _ in [await put_locked(database, receipt) for receipt in receipts]]


async def put_locked(database: Database, receipt: Receipt) -> tuple[Verdict, "Brought"]:
    """One where what it is about is locked; what became of it, and of its entries."""
    now = await database.now()
    receipt_id = await database.fetch_value(
        "INSERT INTO receipts (received_at, source, product, transport, verified_by, state, reason, warnings, meta,"
        " parser, body, stored_at) VALUES ($1, $2, $3, $4, $5, 'unparsed', $6, $7, $8, $9, $10, $11) RETURNING id",
        to_milliseconds(receipt.received_at),
        receipt.source,
        receipt.product,
        receipt.transport,
        receipt.verified_by,
        receipt.reason,
        dump(receipt.warnings),
        dump(dict(receipt.meta)),
        receipt.parser_version,
        receipt.body,
        now,
    )
    brought = await bring(database, receipt.entries, receipt_id, now, body=receipt.body)
    has_events = bool(brought.accepted) or brought.waits is not None
    differs = await differences(database, brought.repeated, receipt.body)
    new_state = state(receipt, has_events=has_events, conflict=brought.conflict, differs=differs)
    if new_state != "unparsed":
        await database.execute(
            "UPDATE receipts SET state = $1, reason = $2, event_ids = $3 WHERE id = $4",
            new_state,
            reason(receipt, conflict=brought.conflict, differs=differs, waits=brought.waits),
            event_ids([event.id for event in brought.events], new_state),
            receipt_id,
        )
    if new_state == "conflict" or not brought.events:
        await note_keys(database, [(entry.digest, receipt_id) for entry in receipt.entries])
    return Verdict(new_state, brought.accepted, brought.held, differs=differs), brought


async def note_keys(database: Database, about: Sequence[tuple[bytes, int]]) -> None:
    """What receipts are about that have brought no event: the digests of keys, each with a receipt."""
    await database.execute_many(
        "INSERT INTO receipt_keys (key_digest, receipt_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", about
    )


def conflict(bound: str, binding: str) -> str:
    return f"the key is bound to {bound[:64]}, this receipt says {binding[:64]}"


async def differences(database: Database, repeated: Sequence[tuple[Entry, str]], body: bytes) -> tuple[str, ...]:
    """
    In which members what a receipt brings is another completion than what was accepted.

    Args:
        repeated: What it brings again, each with what was accepted.
        body: The receipt's.
    """
    differs: dict[str, None] = {}
    for entry, known in repeated:
        found = differing_members(known, entry.body.decode())
        if found and not await _is_what_first_came(database, entry, body):
            differs |= dict.fromkeys(found)
    return tuple(differs)


async def _is_what_first_came(database: Database, entry: Entry, body: bytes) -> bool:
    """
    Whether the receipt that brought an event first is of these very bytes. Then the event has become another one by
    what the vendor's job API has said, or by a later parser, and not because the sender says something else.
    """
    event = await database.find_event(entry.digest, entry.outcome)
    if event is None:
        return False
    first_body = await database.fetch_value("SELECT body FROM receipts WHERE id = $1", event.receipt_id)
    return first_body is not None and bool(first_body == body)


def reason(
    receipt: Receipt, *, conflict: str | None = None, differs: tuple[str, ...] = (), waits: str | None = None
) -> str | None:
    """Why a receipt is what it is, where there is something to say."""
    found = [conflict, describe(differs) if differs else None, waits]
    return "; ".join([one for one in found if one is not None]) or receipt.reason


def state(receipt: Receipt, *, has_events: bool, conflict: str | None, differs: tuple[str, ...] = ()) -> ReceiptState:
    # What differs is not to be overlooked for what else is there; of two reasons for a refusal, the conflict is graver.
    if differs and conflict is None:
        return "differing"
    if has_events:
        return "accepted"
    if conflict is not None:
        return "conflict"
    return "duplicate" if receipt.entries else "unparsed"


def event_ids(ids: Sequence[str], state: ReceiptState) -> str | None:
    """What a receipt is said to have brought."""
    # A conflict has brought nothing, though there may be an event under the id that it would have had.
    return None if state == "conflict" else " ".join(ids) or None


def dump(value: Sequence[str] | Mapping[str, str]) -> str | None:
    """Warnings, or what else is known of a receipt, as JSON; in ASCII, so that nothing is lost whatever is in it."""
    return json.dumps(value) if value else None


# Reading again


async def reparse(database: Database, receipt_id: int, receipt: Receipt, *, dry_run: bool) -> Reparsed:
    """Give a kept receipt its present meaning; in a dry run everything is taken back."""
    await lock(database, receipt.entries)
    async with database.savepoint(keep=not dry_run):
        return await _reparse(database, receipt_id, receipt)


async def _reparse(database: Database, receipt_id: int, receipt: Receipt) -> Reparsed:
    row = await database.fetch_row(
        f"SELECT r.event_ids, r.state, r.body IS NULL FROM receipts r WHERE r.id = $1{database.for_update('r')}",
        receipt_id,
    )
    if row is not None and row[2]:
        # It was erased since it was read.
        return Reparsed(row[1])
    before_ids = frozenset(((row and row[0]) or "").split())
    entries, kept = _under_their_old_ids(receipt.entries, await holds.brought_by(database, receipt_id, before_ids))
    brought = await bring(database, entries, receipt_id, await database.now(), body=receipt.body)
    changed: list[str] = []
    repeated: list[tuple[Entry, str]] = []
    for entry, known in brought.repeated:
        became = await _update_event(database, receipt_id, entry)
        if became is None:
            repeated.append((entry, known))
        elif became:
            changed.append(entry.event.id)
    differs = await differences(database, repeated, receipt.body)
    ids = {*before_ids, *(event.id for event in brought.events)}
    has_events = bool(await holds.brought_by(database, receipt_id, ids)) or brought.waits is not None
    new_state = state(receipt, has_events=has_events, conflict=brought.conflict, differs=differs)
    await database.execute(
        "UPDATE receipts SET state = $1, reason = $2, warnings = $3, parser = $4, event_ids = $5 WHERE id = $6",
        new_state,
        reason(receipt, conflict=brought.conflict, differs=differs, waits=brought.waits),
        dump(receipt.warnings),
        receipt.parser_version,
        event_ids([*kept, *(event.id for event in brought.events)], new_state),
        receipt_id,
    )
    if new_state == "conflict" or not brought.events:
        await note_keys(database, [(entry.digest, receipt_id) for entry in receipt.entries])
    return Reparsed(new_state, tuple([event.id for event in brought.accepted]), tuple(changed))


def _under_their_old_ids(entries: Sequence[Entry], own: Collection[str]) -> tuple[list[Entry], list[str]]:
    """
    What is new in a receipt, and the ids of what it has brought before under a name that is not given any more.

    The id of an event stays for good. So an event of the same thing and outcome (what an id begins and ends with) is
    the one that this receipt has brought, when that comes of it under no other name.
    """
    old = set(own) - {entry.event.id for entry in entries}
    new, kept = [], []
    for entry in entries:
        one = entry.event.id
        match = next((id_ for id_ in sorted(old) if id_[:20] == one[:20] and id_[-2:] == one[-2:]), None)
        if one in own or match is None:
            new.append(entry)
        else:
            old.remove(match)
            kept.append(match)
    return new, kept


async def _update_event(database: Database, receipt_id: int, entry: Entry) -> bool | None:
    """
    Put the present content into an event that this receipt brought first. False where it is the same, or where the
    vendor was asked about the event, which says more than the receipt does; None where another receipt has brought it.
    """
    known = await database.find_event(entry.digest, entry.outcome)
    if known is None or known.receipt_id != receipt_id:
        return None
    bodies = await database.find_bodies([known.row_id])
    if not bodies:
        return None
    data = entry.event.data
    new_body = entry.event.with_revision(known.revision).to_json().decode()
    told = json.loads(bodies[known.row_id])["data"]
    is_less_certain = told.get("outcome_verified_by") == "query" and data.outcome_verified_by != "query"
    if new_body == bodies[known.row_id] or is_less_certain:
        return False
    await database.execute("UPDATE event_bodies SET body = $1 WHERE event_id = $2", new_body, known.row_id)
    await database.execute(
        "UPDATE events SET kind = $1, job_id = $2, media_id = $3 WHERE id = $4",
        data.kind,
        to_column(data.job_id),
        to_column(data.media_id),
        known.row_id,
    )
    return True


# Entries that are held, or that name no job


@dataclass(slots=True)
class Brought:
    """
    What became of the entries of a receipt.

    Attributes:
        accepted: The new events, with the revision they got.
        events: All events that they stand for, new or not, under the names found for them.
        repeated: Those that were there before and whose content may be compared, each with what was accepted, as far
            as that is still kept.
        held: How many wait for the vendor's answer since now.
        waits: Why something has not become an event, or None.
        conflict: Why something will not, or None.
    """

    accepted: tuple[Event, ...]
    events: tuple[Event, ...]
    repeated: tuple[tuple[Entry, str], ...]
    held: int
    waits: str | None
    conflict: str | None


@dataclass(slots=True)
class _Sorted:
    """
    The entries of a receipt by what may happen with them.

    Attributes:
        body: The receipt's, where any of them is to be held.
        leaving: Those that become events, under the names found for them.
        known: Ids of events that are there already, and whose content was compared or says nothing of these entries.
        taken: Jobs that were found to be meant.
    """

    body: bytes | None
    leaving: list[Entry] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)
    held: int = 0
    waits: str | None = None
    conflict: str | None = None


async def bring(
    database: Database, entries: Sequence[Entry], receipt_id: int, at: int, *, body: bytes | None = None
) -> Brought:
    """
    Let the entries of a receipt become events with deliveries, as far as they may. What they are about is locked. The
    receipt's row is left.

    Args:
        body: The receipt's, where any of them is to be held.
    """
    found = _Sorted(body)
    for entry in entries:
        await _sort(database, entry, receipt_id, at, found)
    accepted: list[Event] = []
    events: list[Event] = []
    repeated: list[tuple[Entry, str]] = []
    nameless: list[tuple[Event, NamelessJob]] = []
    candidates = [(receipt_id, entry) for entry in found.leaving]
    fates = await database.accept_events(candidates) if candidates else []
    for entry, (event, bound, known) in zip(found.leaving, fates, strict=True):
        if bound is not None:
            found.conflict = conflict(bound, entry.binding or "")
            continue
        events.append(entry.event)
        if event is None:
            if known is not None and entry.event.id not in found.known:
                repeated.append((entry, known))
            continue
        accepted.append(event)
        if entry.nameless is not None:
            nameless.append((event, entry.nameless))
    await jobs.end(database, [(event, at) for event in accepted])
    for event, message in nameless:
        await _match(database, event, message, at)
    return Brought(tuple(accepted), tuple(events), tuple(repeated), found.held, found.waits, found.conflict)


async def _sort(database: Database, entry: Entry, receipt_id: int, at: int, found: _Sorted) -> None:
    if entry.nameless is not None and entry.nameless.takes_name:
        named = await _name(database, entry, entry.nameless, at, found)
        if named is None:
            return
        entry = named
    if entry.hold is None:
        found.leaving.append(entry)
        return
    event = entry.event
    if entry.binding is not None:
        bound = await jobs.other_binding(database, entry.digest, entry.binding)
        if bound is not None:
            found.conflict = conflict(bound, entry.binding)
            return
    if (known := await database.find_event(entry.digest, entry.outcome)) is not None:
        differs = await _differences_of_claim(database, entry, known, found.body)
        if differs:
            found.conflict = describe(differs)
            return
        found.known.add(event.id)
        # Without its binding: what was not confirmed binds nothing.
        found.leaving.append(replace(entry, binding=None))
        return
    became = await holds.hold(database, entry, entry.hold, receipt_id, at)
    if became == "held":
        found.held += 1
    if became != "other":
        found.waits = holds.WAITS


async def _differences_of_claim(
    database: Database, entry: Entry, known: StoredEvent, body: bytes | None
) -> tuple[str, ...]:
    """In which members a claim that would be held is another completion than the one that was accepted."""
    accepted = [(entry, text) for text in (await database.find_bodies([known.row_id])).values()]
    return await differences(database, accepted, body or b"")


async def _name(database: Database, entry: Entry, message: NamelessJob, at: int, found: _Sorted) -> Entry | None:
    """The entry of the job that it was found to be about, or as it is; None when it gives no event."""
    event = entry.event
    digest = entry.digest
    if await database.find_events([digest]):
        # Nobody took it when it came before.
        return entry
    if (recalled := await jobs.recall(database, digest)) is not None:
        (job,) = recalled
        return None if job is None else _renamed(entry, job, found)
    if entry.hold is not None:
        # Whom it means is asked when it leaves.
        return entry
    meant = [job for job in await jobs.meant_by(database, message) if job.row_id not in found.taken]
    if len(meant) > 1:
        await jobs.remember(database, digest, None, at)
        await jobs.ask_now(database, [job.row_id for job in meant], at)
        found.waits = holds.SEVERAL
        return None
    job = meant[0] if meant else await jobs.asked_about(database, message, event.data.outcome)
    if job is None:
        return entry
    found.taken.add(job.row_id)
    await jobs.remember(database, digest, job.row_id, at)
    return _renamed(entry, job, found)


def _renamed(entry: Entry, job: jobs.Meant, found: _Sorted) -> Entry:
    """The entry of a job."""
    event = entry.event.renamed(job.reference.key(), job.reference.job_id or job.reference.nonce or "")
    if job.event_id is not None and job.event_id != event.id and job.outcome == event.data.outcome:
        # The vendor has told of it under another key; that event is brought again, and being there needs no lock.
        found.known.add(job.event_id)
        return replace(entry, event=event.model_copy(update={"id": job.event_id}), binding=None, nameless=None)
    return replace(entry, event=event, nameless=None)


async def _match(database: Database, event: Event, message: NamelessJob, at: int) -> None:
    """Find the job of a new event that has kept its own key."""
    if not jobs.ends_job(event):
        return
    meant = [job.row_id for job in await jobs.meant_by(database, message)]
    if not meant:
        await jobs.keep_nameless(database, event, message, at)
    elif len(meant) == 1:
        ending = jobs.Ending(event.id, event.data.outcome, at, event.data.transport)
        await jobs.end_job(database, meant[0], ending)
    else:
        await jobs.ask_now(database, meant, at)
