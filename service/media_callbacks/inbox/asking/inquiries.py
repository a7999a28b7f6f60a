"""What is asked of the vendor. Times are milliseconds since 1970 in UTC."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from media_callbacks.inbox.asking import answers, jobs
from media_callbacks.inbox.database import Database, Row
from media_callbacks.inbox.keeping import clock
from media_callbacks.inbox.receiving import accepting, holds
from media_callbacks.inbox.receiving.accepting import Brought
from media_callbacks.inbox.receiving.holds import Held
from media_callbacks.inbox.records import INQUIRIES, Finding, Inquiry, Settled
from media_callbacks.inbox.rows import from_milliseconds, to_id, to_milliseconds
from media_callbacks.model.events import parse_event
from media_callbacks.model.identity import key_digest
from media_callbacks.model.kinds import Outcome, Product


async def free_leases(database: Database) -> None:
    """Whoever held them is gone."""
    now = await database.now()
    await database.execute(
        "UPDATE jobs SET due_at = CASE WHEN registered_at < $1 THEN registered_at ELSE $1 END, lease = NULL"
        " WHERE due_at IS NOT NULL AND lease IS NOT NULL",
        now,
    )
    await database.execute(
        "UPDATE held SET due_at = CASE WHEN held_at < $1 THEN held_at ELSE $1 END, lease = NULL"
        " WHERE lease IS NOT NULL",
        now,
    )


async def next_at(database: Database, product: Product) -> int | None:
    # Each minimum by itself, so that it is the first entry of an index.
    row = await database.fetch_row(
        "SELECT (SELECT min(due_at) FROM jobs WHERE product = $1 AND due_at IS NOT NULL),"
        " (SELECT min(due_at) FROM held WHERE product = $1)",
        product,
    )
    return min([at for at in row or () if at is not None], default=None)


# Asking


class _Due(NamedTuple):
    """What is to be asked about: of a job the reference, deadline, attempts and user data, else what ``held`` has."""

    due_at: int
    table: str
    row_id: int
    columns: Row


async def claim(database: Database, product: Product, *, limit: int, lease_ms: int, lease: str) -> list[Inquiry]:
    now = await database.now()
    until = now + lease_ms
    due: list[_Due] = []
    for table, columns in (("jobs", f"deadline_at, attempts, user_data, {jobs.REFERENCE}"), ("held", holds.COLUMNS)):
        rows = await database.fetch(
            f"SELECT t.due_at AS due, t.id AS number, {columns} FROM {table} t"
            f" WHERE product = $1 AND due_at <= $2 ORDER BY due_at LIMIT $3"
            f"{database.for_update('t', skip_locked=True)}",
            product,
            now,
            limit,
        )
        due += [_Due(due_at, table, row_id, further) for due_at, row_id, *further in rows]
    due = sorted(due, key=attrgetter("due_at", "table", "row_id"))[:limit]
    for table in ("jobs", "held"):
        if leases := [(until, lease, one.row_id) for one in due if one.table == table]:
            await database.execute_many(f"UPDATE {table} SET due_at = $1, lease = $2 WHERE id = $3", leases)
    held = {one.row_id: holds.held_of(one.columns) for one in due if one.table == "held"}
    names = await _only_names(database, list(held.values()))
    keys = {key_digest(one.entry.event.id) for one in held.values() if one.reason == "confirm"}
    known = await _confirmed(database, keys)
    seen = await clock.read_now(database) if due else clock.Sighting()
    return [
        _job_inquiry(one, lease, seen)
        if one.table == "jobs"
        else _held_inquiry(held[one.row_id], lease, names.get(one.row_id), known, seen)
        for one in due
    ]


async def _confirmed(database: Database, keys: Collection[bytes]) -> dict[bytes, frozenset[Outcome]]:
    """How the vendor's job API has said that jobs ended, as far as the events' bodies are still there; by keys."""
    found: dict[bytes, frozenset[Outcome]] = {}
    key_of = {event.row_id: event.key_digest for event in await database.find_events(keys)}
    for row_id, body in (await database.find_bodies(key_of)).items():
        data = parse_event(body).data
        if data.outcome_verified_by == "query":
            key = key_of[row_id]
            found[key] = found.get(key, frozenset()) | {data.outcome}
    return found


async def _only_names(database: Database, held: Sequence[Held]) -> dict[int, str | None]:
    """The ids of the jobs that held messages which name none may be about, where there is just one; by held events."""
    assets = {
        one.id: jobs.asset_of(message)
        for one in held
        if (message := one.entry.nameless) is not None and message.takes_name
    }
    meant: dict[bytes, list[str | None]] = {}
    for asset, job_id in await database.fetch_for(
        f"SELECT asset, job_id FROM jobs WHERE asset IN ({{values}}) AND {jobs.IS_AWAITED}", list(set(assets.values()))
    ):
        meant.setdefault(asset, []).append(job_id)
    return {row_id: meant[asset][0] for row_id, asset in assets.items() if asset and len(meant.get(asset, ())) == 1}


def _job_inquiry(job: _Due, lease: str, seen: clock.Sighting) -> Inquiry:
    deadline_at, attempts, user_data, *reference = job.columns
    return Inquiry(
        id=job.row_id,
        reason="expected",
        reference=jobs.reference_of(reference),
        since=from_milliseconds(clock.patience_from(deadline_at, seen)),
        until=None,
        attempt=attempts + 1,
        lease=lease,
        user_data=user_data,
    )


def _held_inquiry(
    held: Held,
    lease: str,
    job_id: str | None,
    confirmed: Mapping[bytes, frozenset[Outcome]],
    seen: clock.Sighting,
) -> Inquiry:
    since = clock.patience_from(held.held_at, seen)
    return Inquiry(
        id=held.id,
        reason=held.reason,
        reference=held.reference if job_id is None else replace(held.reference, job_id=job_id),
        since=from_milliseconds(since),
        until=from_milliseconds(held.until + since - held.held_at),
        attempt=held.attempts + 1,
        lease=lease,
        event=held.entry.event,
        confirmed=confirmed.get(key_digest(held.entry.event.id), frozenset()),
    )


# What came of it


async def settle(database: Database, finding: Finding) -> tuple[Settled, set[str]]:
    """Returns what became of a finding, and what listeners must be told of."""
    now = await database.now()
    settled, woken, receipt_id = await _settle(database, finding, now)
    if finding.answer is not None:
        await answers.keep(database, finding.inquiry, finding.answer, settled, receipt_id=receipt_id, now=now)
    return settled, woken


async def _settle(database: Database, finding: Finding, now: int) -> tuple[Settled, set[str], int | None]:
    """The same, and the receipt of what is held."""
    inquiry = finding.inquiry
    row_id = to_id(inquiry.id)
    woken: set[str] = set()
    entries = [] if finding.receipt is None else list(finding.receipt.entries)
    held = None
    if inquiry.reason == "expected":
        table = "jobs"
        digest = await database.fetch_value("SELECT key_digest FROM jobs WHERE id = $1", row_id)
    else:
        table = "held"
        held = await holds.find(database, row_id)
        digest = None if held is None else key_digest(held.entry.event.id)
        if held is not None and finding.release is not None:
            entries.append(replace(held.entry, event=finding.release))
    receipt_id = None if held is None else held.receipt_id
    if digest is None:
        return Settled(is_ours=False), woken, receipt_id
    await accepting.lock(database, entries, [digest])
    # Only now, so that nobody ends it, or asks about it, in between.
    row = await database.fetch_row(
        f"SELECT 1 FROM {table} t WHERE t.id = $1 AND t.lease = $2{database.for_update('t')}", row_id, inquiry.lease
    )
    if row is None:
        return Settled(is_ours=False), woken, receipt_id
    if held is None:
        return await _settle_job(database, digest, finding, now, woken), woken, None
    # As it is by now: its receipt may have been read again.
    held = await holds.find(database, row_id) or held
    return await _settle_held(database, held, finding, now, woken), woken, receipt_id


async def _settle_job(database: Database, digest: bytes, finding: Finding, now: int, woken: set[str]) -> Settled:
    row_id = finding.inquiry.id
    is_open = await database.fetch_value(f"SELECT 1 FROM jobs WHERE id = $1 AND {jobs.IS_AWAITED}", row_id)
    settled, brought = await _put_receipt(database, finding, woken)
    due_at = None
    if finding.ask_again_at is not None:
        due_at = to_milliseconds(finding.ask_again_at)
    elif is_open:
        await _end(database, row_id, digest, brought, now)
    await database.execute(
        f"UPDATE jobs SET due_at = CASE WHEN {jobs.IS_AWAITED} THEN CAST($1 AS bigint) END, lease = NULL,"
        " attempts = attempts + 1, notification = coalesce($2, notification) WHERE id = $3",
        due_at,
        finding.notification,
        row_id,
    )
    return settled


async def _end(database: Database, row_id: int, digest: bytes, brought: Brought | None, now: int) -> None:
    """End a job with what the vendor has answered about it."""
    events = [] if brought is None else [event for event in brought.events if event.data.outcome != "received"]
    if brought is None or not events:
        await database.execute("UPDATE jobs SET state = 'unknown', ended_at = $1 WHERE id = $2", now, row_id)
        return
    own = [event for event in events if key_digest(event.id) == digest]
    event = (own or events)[-1]
    ending = await jobs.find_ending(database, event)
    assert ending is not None
    state = "completed"
    if not jobs.ends_job(event):
        state = "unknown"
    elif event.id in {new.id for new in brought.accepted}:
        state = "healed"
    await jobs.end_job(database, row_id, ending, state)


async def _settle_held(database: Database, held: Held, finding: Finding, now: int, woken: set[str]) -> Settled:
    if finding.ask_again_at is not None:
        await database.execute(
            "UPDATE held SET due_at = $1, lease = NULL, attempts = attempts + 1 WHERE id = $2",
            to_milliseconds(finding.ask_again_at),
            held.id,
        )
        settled, _ = await _put_receipt(database, finding, woken)
        return settled
    digest = key_digest(held.entry.event.id)
    is_answered = finding.receipt is not None
    if finding.release is not None and finding.inquiry.reason == "confirm":
        is_answered = finding.release.data.outcome_verified_by == "query"
        if not is_answered and await _is_contradicted_since(database, held, finding):
            # The vendor has said something since it was asked about this: judged again, with that in mind.
            await database.execute("UPDATE held SET due_at = $1, lease = NULL WHERE id = $2", now, held.id)
            woken.add(INQUIRIES)
            return Settled(is_ours=True)
    if is_answered:
        # What else is claimed of the job need wait no longer than for the same answer.
        others = await database.execute(
            "UPDATE held SET due_at = $1 WHERE key_digest = $2 AND coalesce(binding, '') = $3 AND due_at > $1"
            " AND lease IS NULL AND id <> $4",
            now,
            digest,
            held.entry.binding or "",
            held.id,
        )
        if others:
            woken.add(INQUIRIES)
    if finding.release is not None:
        # First, so that it is this that leaves, should the receipt bring the same event.
        entry = replace(held.entry, event=finding.release)
        if not finding.may_bind and not await jobs.is_bound(database, key_digest(entry.event.id)):
            entry = replace(entry, binding=None)
        brought = await accepting.bring(database, [entry], held.receipt_id, now)
        ids = [event.id for event in brought.events]
        await holds.forget(database, held, brought=ids, conflict=brought.conflict, waits=brought.waits)
        if brought.accepted:
            woken.update(entry.sinks)
        if brought.waits:
            woken.add(INQUIRIES)
        settled, _ = await _put_receipt(database, finding, woken)
        return replace(settled, accepted=brought.accepted + settled.accepted)
    settled, _ = await _put_receipt(database, finding, woken)
    # The vendor's own answer may be the same event.
    ids = await holds.link_known(database, held) if finding.conflict is None else []
    await holds.forget(database, held, brought=ids, conflict=finding.conflict, waits=None)
    return settled


async def _is_contradicted_since(database: Database, held: Held, finding: Finding) -> bool:
    """Whether the vendor has confirmed another outcome since it was asked; what the binding refuses is decided."""
    digest, binding = key_digest(held.entry.event.id), held.entry.binding
    if binding is not None and await jobs.other_binding(database, digest, binding) is not None:
        return False
    known = (await _confirmed(database, {digest})).get(digest, frozenset())
    return bool(known - finding.inquiry.confirmed) and held.entry.event.data.outcome not in known


async def _put_receipt(database: Database, finding: Finding, woken: set[str]) -> tuple[Settled, Brought | None]:
    receipt = finding.receipt
    if receipt is None:
        return Settled(is_ours=True), None
    verdict, brought = await accepting.put_locked(database, receipt)
    if verdict.accepted:
        woken.update(*(entry.sinks for entry in receipt.entries))
    return Settled(is_ours=True, accepted=verdict.accepted), brought
