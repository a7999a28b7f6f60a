"""
The queries of the inbox on PostgreSQL that have to do with expected jobs, and with asking the vendor.

Whoever accepts an event of a key, ends a job of it, or registers one, holds the lock on the key from before he looks
until he has committed. Jobs of one asset are registered, and messages that name no job are matched with them, under a
lock on the asset. All locks are taken at once, in ascending order.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.errors import JobConflict
from service.events import OUTCOMES, Event, Key, event_id, key_digest, parse_event
from service.inbox.base import (
    INQUIRIES,
    Entry,
    Finding,
    Inquiry,
    JobFilter,
    JobRecord,
    JobState,
    NamelessJob,
    ReceiptState,
    Reparsed,
    ReportRow,
    Settled,
    Verdict,
    WaitingCounts,
)
from service.inbox.postgresql_queries import (
    HELD_REASON,
    Candidate,
    Query,
    accept,
    end_jobs,
    event_arrays,
    key_lock,
    rehearsed,
    reparse_within,
    to_id,
    to_text,
)
from service.inbox.rows import Arrival, from_milliseconds, to_milliseconds
from service.jobs import ExpectedJob, JobReference

ASKED_REASON = "it names no job; the vendor is asked about those that may be meant"
# How long a message that named no job can be taken by a job that is registered later.
_NAMELESS_MS = 3_600_000
# Outcomes with a lower number are the end of a job.
_UNKNOWN = OUTCOMES.index("unknown")
_HOUR_MS = 3_600_000

_JOB_COLUMNS = (
    "id, product, account, family, job_id, media_id, nonce, bind, state, registered_at, deadline_at, user_data,"
    " ended_at, transport, event_key, outcome, attempts, notification"
)


def _asset_digest(product: str, account: str, family: str, media_id: str) -> bytes:
    return Key(product, account, family, (media_id,)).digest()  # type: ignore[arg-type]


def _outcome(event: Event) -> int:
    return OUTCOMES.index(event.data.outcome)


def _job_record(row: Any, now: int) -> JobRecord:
    state: JobState = row["state"]
    if state == "expected" and row["deadline_at"] <= now:
        state = "overdue"
    outcome = row["outcome"]
    return JobRecord(
        id=row["id"],
        reference=_reference(row),
        state=state,
        registered_at=from_milliseconds(row["registered_at"]),
        deadline_at=from_milliseconds(row["deadline_at"]),
        user_data=row["user_data"],
        ended_at=None if row["ended_at"] is None else from_milliseconds(row["ended_at"]),
        transport=row["transport"],
        event_id=None if outcome is None else event_id(row["event_key"], OUTCOMES[outcome]),
        outcome=None if outcome is None else OUTCOMES[outcome],
        attempts=row["attempts"],
        notification=row["notification"],
    )


def _reference(row: Any) -> JobReference:
    return JobReference(
        product=row["product"],
        account=row["account"],
        family=row["family"],
        job_id=row["job_id"],
        media_id=row["media_id"],
        nonce=row["nonce"],
        bind=row["bind"],
    )


async def _lock(connection: Any, locks: Iterable[int]) -> None:
    await connection.execute("SELECT lock_keys_1($1)", sorted(set(locks)))


# Registration


def _merge(jobs: Sequence[ExpectedJob]) -> dict[bytes, ExpectedJob]:
    """By key; of jobs with the same key the first, filled in from the others."""
    merged: dict[bytes, ExpectedJob] = {}
    for job in jobs:
        digest = job.reference.key().digest()
        first = merged.get(digest)
        if first is None:
            merged[digest] = job
            continue
        own, other = first.reference, job.reference
        _raise_if_bound(own.nonce, own.job_id, other.job_id)
        reference = replace(
            own,
            job_id=own.job_id or other.job_id,
            media_id=own.media_id or other.media_id,
            bind=own.bind or other.bind,
        )
        user_data = job.user_data if first.user_data is None else first.user_data
        merged[digest] = replace(first, reference=reference, user_data=user_data)
    return merged


def _raise_if_bound(nonce: str | None, bound: str | None, job_id: str | None) -> None:
    if nonce and bound and job_id and bound != job_id:
        raise JobConflict(f"the nonce {nonce:.64} is bound to the job {bound:.64}, this registration says {job_id:.64}")


async def expect(connection: Any, jobs: Sequence[ExpectedJob], now: int) -> list[JobRecord]:
    """
    Raises:
        JobConflict
    """
    merged = _merge(jobs)
    assets = {
        digest: _asset_digest(ref.product, ref.account, ref.family, ref.media_id) if ref.media_id else None
        for digest, ref in ((digest, job.reference) for digest, job in merged.items())
    }
    async with connection.transaction():
        await _lock(connection, [key_lock(digest) for digest in (*merged, *assets.values()) if digest is not None])
        await _insert_jobs(connection, merged, assets, now)
        await _bind_jobs(connection, merged)
        await _end_jobs_with_known_events(connection, list(merged))
        await _end_jobs_with_nameless_events(connection, list(merged), now)
        rows = await connection.fetch(
            f"SELECT key_digest, {_JOB_COLUMNS} FROM jobs WHERE key_digest = ANY ($1)", list(merged)
        )
    records = {row["key_digest"]: _job_record(row, now) for row in rows}
    return [records[job.reference.key().digest()] for job in jobs]


async def _insert_jobs(
    connection: Any, merged: dict[bytes, ExpectedJob], assets: dict[bytes, bytes | None], now: int
) -> None:
    values = list(merged.values())
    references = [job.reference for job in values]
    deadlines = [to_milliseconds(job.deadline_at) for job in values]
    arrays = (
        list(merged),
        [assets[digest] for digest in merged],
        [to_text(reference.job_id) for reference in references],
        [to_text(reference.media_id) for reference in references],
        [to_text(reference.bind) for reference in references],
        [to_text(job.user_data) for job in values],
    )
    await connection.execute(
        "UPDATE jobs j SET job_id = coalesce(j.job_id, a.job_id), media_id = coalesce(j.media_id, a.media_id),"
        " asset_digest = coalesce(j.asset_digest, a.asset), bind = coalesce(j.bind, a.bind),"
        " user_data = coalesce(j.user_data, a.user_data)"
        " FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[])"
        " AS a (digest, asset, job_id, media_id, bind, user_data)"
        " WHERE j.key_digest = a.digest AND (j.job_id IS NULL AND a.job_id IS NOT NULL OR j.media_id IS NULL"
        " AND a.media_id IS NOT NULL OR j.bind IS NULL AND a.bind IS NOT NULL OR j.user_data IS NULL"
        " AND a.user_data IS NOT NULL)",
        *arrays,
    )
    await connection.execute(
        "INSERT INTO jobs (key_digest, asset_digest, state, product, account, family, job_id, media_id, nonce, bind,"
        " user_data, registered_at, deadline_at, due_at)"
        " SELECT digest, asset, 'expected', product, account, family, job_id, media_id, nonce, bind, user_data, $11,"
        " deadline, deadline FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[],"
        " $7::text[], $8::text[], $9::text[], $10::text[], $12::bigint[])"
        " AS a (digest, asset, job_id, media_id, bind, user_data, product, account, family, nonce, deadline)"
        " ON CONFLICT (key_digest) DO NOTHING",
        *arrays,
        [reference.product for reference in references],
        [to_text(reference.account) for reference in references],
        [to_text(reference.family) for reference in references],
        [to_text(reference.nonce) for reference in references],
        now,
        deadlines,
    )


async def _bind_jobs(connection: Any, merged: dict[bytes, ExpectedJob]) -> None:
    named = {digest: job.reference for digest, job in merged.items() if job.reference.nonce and job.reference.job_id}
    if not named:
        return
    values = [to_text(reference.job_id) for reference in named.values()]
    await connection.execute(
        "INSERT INTO bindings (key_digest, value) SELECT * FROM unnest($1::bytea[], $2::text[]) ON CONFLICT DO NOTHING",
        list(named),
        values,
    )
    bound = dict(
        await connection.fetch("SELECT key_digest, value FROM bindings WHERE key_digest = ANY ($1)", list(named))
    )
    for (digest, reference), value in zip(named.items(), values, strict=True):
        _raise_if_bound(reference.nonce, bound[digest], value)


@dataclass(frozen=True, slots=True)
class _Ending:
    """The event that ends a job."""

    key: bytes
    outcome: int
    at: int
    transport: str | None


async def _endings(connection: Any, digests: Collection[bytes]) -> dict[bytes, list[_Ending]]:
    """The accepted events of keys, in order of acceptance."""
    found: dict[bytes, list[_Ending]] = {}
    for digest, outcome, at, body, transport in await connection.fetch(
        "SELECT e.key_digest, e.outcome, e.accepted_at, b.body, r.transport FROM events e"
        " LEFT JOIN event_bodies b ON b.event_id = e.id LEFT JOIN receipts r ON r.id = e.receipt_id"
        " WHERE e.key_digest = ANY ($1) ORDER BY e.revision",
        list(digests),
    ):
        # The receipt that brought a released event came another way than the event says when the event is a query's.
        own = transport if body is None else json.loads(body)["data"]["transport"]
        found.setdefault(digest, []).append(_Ending(digest, outcome, at, own))
    return found


async def _end_job(
    connection: Any, column: str, value: object, state: JobState, ending: _Ending, *, attempts: int = 0
) -> None:
    """End one job; ``column`` names it by ``value``."""
    await connection.execute(
        "UPDATE jobs SET state = $2, due_at = NULL, lease = NULL, ended_at = $3, transport = $4, event_key = $5,"
        f" outcome = $6, attempts = attempts + $7 WHERE {column} = $1",
        value,
        state,
        ending.at,
        ending.transport,
        ending.key,
        ending.outcome,
        attempts,
    )


async def _open_jobs(connection: Any, digests: Sequence[bytes]) -> list[Any]:
    rows: list[Any] = await connection.fetch(
        "SELECT id, key_digest, asset_digest FROM jobs WHERE key_digest = ANY ($1)"
        " AND state IN ('expected', 'unknown') ORDER BY id",
        digests,
    )
    return rows


async def _end_jobs_with_known_events(connection: Any, digests: Sequence[bytes]) -> None:
    jobs = await _open_jobs(connection, digests)
    endings = await _endings(connection, [job["key_digest"] for job in jobs]) if jobs else {}
    for digest, ends in endings.items():
        ending = next((ending for ending in ends if ending.outcome < _UNKNOWN), None)
        if ending is not None:
            await _end_job(connection, "key_digest", digest, "completed", ending)


async def _end_jobs_with_nameless_events(connection: Any, digests: Sequence[bytes], now: int) -> None:
    jobs = [job for job in await _open_jobs(connection, digests) if job["asset_digest"] is not None]
    if not jobs:
        return
    free: dict[bytes, list[Any]] = {}
    # Locked, because a job that was registered with another asset before may be meant: that lock is not ours.
    for row in await connection.fetch(
        "SELECT key_digest, outcome, asset_digest, accepted_at, transport FROM nameless"
        " WHERE is_free AND asset_digest = ANY ($1) AND accepted_at >= $2 ORDER BY accepted_at DESC FOR UPDATE",
        [job["asset_digest"] for job in jobs],
        now - _NAMELESS_MS,
    ):
        free.setdefault(row["asset_digest"], []).append(row)
    for job in jobs:
        if rows := free.get(job["asset_digest"]):
            row = rows.pop()
            await connection.execute(
                "UPDATE nameless SET is_free = false, taken_by = $3 WHERE key_digest = $1 AND outcome = $2",
                row["key_digest"],
                row["outcome"],
                job["id"],
            )
            ending = _Ending(row["key_digest"], row["outcome"], row["accepted_at"], row["transport"])
            await _end_job(connection, "id", job["id"], "completed", ending)


# Messages that name no job


@dataclass(slots=True)
class _Match:
    """
    What the entries of a receipt mean, as long as the locks are held.

    Attributes:
        entries: Those that are left, perhaps with a name.
        locks: What must be held for all this to be true.
        repeated: Keys and outcomes of events that the receipt brings again.
        is_dropped: An entry gives no event.
        remembered: What is to be remembered: entry, asset, whether a later registration may take it, and the job that
            took it.
        ended: Jobs to be ended by an event of another key, once it is accepted: id, and the event.
        asked: Ids of the jobs to ask about.
    """

    entries: list[Entry] = field(default_factory=list)
    locks: set[int] = field(default_factory=set)
    repeated: list[tuple[bytes, int]] = field(default_factory=list)
    is_dropped: bool = False
    remembered: list[tuple[Event, bytes, bool, int | None]] = field(default_factory=list)
    ended: list[tuple[int, Event]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    @property
    def taken(self) -> list[int]:
        """Ids of the jobs that an entry has taken."""
        return [taken_by for _, _, _, taken_by in self.remembered if taken_by is not None]


async def put_nameless(connection: Any, arrival: Arrival) -> tuple[Verdict, set[str]]:
    """A receipt with a message that names no job. Returns what listeners are to hear, too."""
    async with connection.transaction():
        match = await _match_under_locks(connection, arrival.receipt.entries)
        receipt = replace(arrival.receipt, entries=tuple(match.entries))
        ((receipt_id, verdict),) = await accept(connection, [Arrival(receipt, arrival.at)])
        if match.is_dropped:
            state = await _note_dropped(connection, receipt_id, match)
            if not match.entries:
                verdict.state = state
        await _follow(connection, match, {event.id for event in verdict.accepted}, arrival.at)
    return verdict, {INQUIRIES} if match.asked else set()


async def reparse_nameless(
    connection: Any, receipt_id: int, arrival: Arrival, *, dry_run: bool
) -> tuple[Reparsed, set[str]]:
    async with rehearsed(connection, dry_run=dry_run):
        match = await _match_under_locks(connection, arrival.receipt.entries)
        receipt = replace(arrival.receipt, entries=tuple(match.entries))
        reparsed = await reparse_within(connection, receipt_id, Arrival(receipt, arrival.at))
        if match.is_dropped:
            state = await _note_dropped(connection, receipt_id, match)
            if not match.entries:
                reparsed = replace(reparsed, state=state)
        await _follow(connection, match, set(reparsed.accepted), arrival.at)
    return reparsed, {INQUIRIES} if match.asked and not dry_run else set()


async def _match_under_locks(connection: Any, entries: Sequence[Entry], others: Collection[int] = ()) -> _Match:
    """
    Which locks are needed is known only after a look: look again once they are held.

    Args:
        others: Locks that are needed besides.
    """
    locks = {*others, *(key_lock(key_digest(entry.event.id)) for entry in entries)}
    locks |= {key_lock(_asset(entry.nameless)) for entry in entries if entry.nameless is not None}
    while True:
        attempt = connection.transaction()
        await attempt.start()
        await _lock(connection, locks)
        match = _Match()
        for entry in entries:
            if entry.nameless is None:
                match.entries.append(entry)
            else:
                await _match(connection, match, entry, entry.nameless)
        if match.locks <= locks:
            await attempt.commit()
            return match
        # Gives the locks back, so that they can be taken in their order.
        await attempt.rollback()
        locks |= match.locks


def _asset(nameless: NamelessJob) -> bytes:
    return _asset_digest(nameless.product, nameless.account, nameless.family, nameless.media_id)


async def _match(connection: Any, match: _Match, entry: Entry, nameless: NamelessJob) -> None:
    event, asset = entry.event, _asset(nameless)
    digest, outcome = key_digest(event.id), _outcome(event)
    known = await connection.fetchrow(
        "SELECT n.is_free, n.taken_by FROM nameless n WHERE n.key_digest = $1 AND n.outcome = $2", digest, outcome
    )
    if known is not None:
        await _match_again(connection, match, entry, nameless, known)
        return
    is_known = await _has_event(connection, digest, outcome)
    # What is held is matched when it leaves.
    if is_known or entry.hold is not None:
        match.entries.append(entry)
        return
    jobs = await connection.fetch(
        f"SELECT key_digest, {_JOB_COLUMNS} FROM jobs WHERE asset_digest = $1 AND state IN ('expected', 'unknown')"
        " AND id <> ALL ($2) ORDER BY id",
        asset,
        match.taken,
    )
    match.locks |= {key_lock(job["key_digest"]) for job in jobs}
    if len(jobs) > 1:
        match.asked += [job["id"] for job in jobs]
        match.remembered.append((event, asset, False, None))
        if nameless.takes_name:
            match.is_dropped = True
        else:
            match.entries.append(entry)
    elif jobs:
        (job,) = jobs
        match.remembered.append((event, asset, False, job["id"]))
        if nameless.takes_name:
            match.entries.append(_named(entry, job))
        else:
            match.entries.append(entry)
            match.ended.append((job["id"], event))
    else:
        await _match_asked(connection, match, entry, nameless)


async def _match_again(connection: Any, match: _Match, entry: Entry, nameless: NamelessJob, known: Any) -> None:
    """The same message was there before."""
    outcome = _outcome(entry.event)
    stays = not nameless.takes_name or known["is_free"]
    if stays or await _has_event(connection, key_digest(entry.event.id), outcome):
        match.entries.append(entry)
        return
    job = await connection.fetchrow(
        f"SELECT key_digest, {_JOB_COLUMNS} FROM jobs WHERE id = $1", to_id(known["taken_by"])
    )
    if job is not None and (entry.hold or await _has_event(connection, job["key_digest"], outcome)):
        match.entries.append(_named(entry, job))
        return
    match.is_dropped = True
    if job is not None and job["outcome"] is not None:
        match.repeated.append((job["event_key"], job["outcome"]))


async def _has_event(connection: Any, digest: bytes, outcome: int) -> bool:
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM events WHERE key_digest = $1 AND outcome = $2)", digest, outcome
    )
    return found


async def _match_asked(connection: Any, match: _Match, entry: Entry, nameless: NamelessJob) -> None:
    """No expected job is left: it may be one that the vendor was faster to tell about."""
    event, asset = entry.event, _asset(nameless)
    job = None
    if nameless.takes_name:
        job = await connection.fetchrow(
            "SELECT id, event_key, outcome FROM jobs j WHERE asset_digest = $1 AND attempts > 0 AND outcome = $2"
            " AND NOT EXISTS (SELECT FROM nameless n WHERE n.taken_by = j.id) AND id <> ALL ($3) ORDER BY id LIMIT 1",
            asset,
            _outcome(event),
            match.taken,
        )
    if job is not None:
        match.is_dropped = True
        match.repeated.append((job["event_key"], job["outcome"]))
        match.remembered.append((event, asset, False, job["id"]))
    else:
        match.entries.append(entry)
        if _outcome(event) < _UNKNOWN:
            match.remembered.append((event, asset, True, None))


def _named(entry: Entry, job: Any) -> Entry:
    reference = _reference(job)
    event = entry.event.renamed(reference.key(), reference.job_id or str(reference.nonce))
    hold = None if entry.hold is None else replace(entry.hold, reference=reference)
    return replace(entry, event=event, hold=hold, nameless=None)


async def _note_dropped(connection: Any, receipt_id: int, match: _Match) -> ReceiptState:
    """What the receipt is that brought nothing new under a name of its own."""
    state: ReceiptState = "accepted" if match.asked else "duplicate"
    event_ids = await _link(connection, receipt_id, match.repeated)
    await connection.execute(
        "UPDATE receipts SET state = CASE WHEN $5 THEN $2 ELSE state END, reason = coalesce($3, reason),"
        " event_ids = nullif(concat_ws(' ', event_ids, $4::text), '') WHERE id = $1",
        receipt_id,
        state,
        ASKED_REASON if match.asked else None,
        event_ids,
        not match.entries,
    )
    return state


async def _link(connection: Any, receipt_id: int, events: Sequence[tuple[bytes, int]]) -> str | None:
    """Note that a receipt has brought events (key, outcome), as far as they exist. Returns their ids, by blanks."""
    if not events:
        return None
    rows = await connection.fetch(
        "SELECT e.id, e.key_digest, e.outcome FROM events e"
        " JOIN unnest($1::bytea[], $2::smallint[]) AS a (digest, outcome) ON e.key_digest = a.digest"
        " AND e.outcome = a.outcome",
        [digest for digest, _ in events],
        [outcome for _, outcome in events],
    )
    await connection.execute(
        "INSERT INTO event_receipts (event_id, receipt_id) SELECT e.id, $1 FROM events e"
        " WHERE e.id = ANY ($2) AND e.receipt_id <> $1 ON CONFLICT DO NOTHING",
        receipt_id,
        [row["id"] for row in rows],
    )
    return " ".join(event_id(row["key_digest"], OUTCOMES[row["outcome"]]) for row in rows) or None


async def _follow(connection: Any, match: _Match, accepted: set[str], at: int) -> None:
    """Write down what follows, now that the events are accepted."""
    for job_id, event in match.ended:
        if event.id in accepted and _outcome(event) < _UNKNOWN:
            ending = _Ending(key_digest(event.id), _outcome(event), at, event.data.transport)
            await _end_job(connection, "id", job_id, "completed", ending)
    for event, asset, is_free, taken_by in match.remembered:
        await connection.execute(
            "INSERT INTO nameless (key_digest, outcome, asset_digest, accepted_at, transport, is_free, taken_by)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            key_digest(event.id),
            _outcome(event),
            asset,
            at,
            event.data.transport,
            is_free,
            taken_by,
        )
    if match.asked:
        # One that is just being asked about stays with whoever does it.
        await connection.execute(
            "UPDATE jobs SET due_at = $2 WHERE id = ANY ($1) AND lease IS NULL AND (due_at IS NULL OR due_at > $2)",
            match.asked,
            at,
        )


# Lists and numbers


async def list_jobs(
    connection: Any, wanted: JobFilter, *, now: int, before_id: int | None, limit: int
) -> tuple[JobRecord, ...]:
    query = Query()
    query.add("id < {}", to_id(before_id))
    if wanted.state in ("expected", "overdue"):
        comparison = ">" if wanted.state == "expected" else "<="
        query.add(f"state = 'expected' AND deadline_at {comparison} {{}}", now)
    elif wanted.state is not None:
        query.add("state = {}", wanted.state)
    for column, value in (("product", wanted.product), ("job_id", wanted.job_id)):
        if value is not None:
            query.add(f"{column} = {{}}", to_text(value))
    for comparison, moment in ((">=", wanted.since), ("<", wanted.until)):
        if moment is not None:
            query.add(f"registered_at {comparison} {{}}", to_milliseconds(moment))
    rows = await connection.fetch(
        f"SELECT {_JOB_COLUMNS} FROM jobs WHERE {query.condition} ORDER BY id DESC LIMIT {query.mark(limit)}",
        *query.parameters,
    )
    return tuple(_job_record(row, now) for row in rows)


async def report_jobs(connection: Any, *, since: int, until: int, now: int) -> tuple[ReportRow, ...]:
    rows = await connection.fetch(
        "SELECT registered_at / $4 * $4 AS hour, product,"
        " CASE WHEN state = 'expected' AND deadline_at <= $3 THEN 'overdue' ELSE state END AS shown, transport,"
        " notification, count(*) AS count, array_agg(greatest(ended_at - registered_at, 0)"
        " ORDER BY greatest(ended_at - registered_at, 0)) FILTER (WHERE transport IS NOT NULL) AS milliseconds"
        " FROM jobs WHERE registered_at >= $1 AND registered_at < $2 GROUP BY 1, 2, 3, 4, 5"
        " ORDER BY 1, 2, 3, 4, 5",
        since,
        until,
        now,
        _HOUR_MS,
    )
    return tuple(
        ReportRow(
            hour=from_milliseconds(row["hour"]),
            product=row["product"],
            state=row["shown"],
            transport=row["transport"],
            notification=row["notification"],
            count=row["count"],
            seconds=tuple([milliseconds / 1000 for milliseconds in row["milliseconds"] or ()]),
        )
        for row in rows
    )


async def count_waiting(connection: Any, now: int) -> WaitingCounts:
    jobs = await connection.fetch(
        "SELECT product, CASE WHEN deadline_at <= $1 THEN 'overdue' ELSE 'expected' END AS shown, count(*) AS count"
        " FROM jobs WHERE state = 'expected' GROUP BY 1, 2",
        now,
    )
    held = await connection.fetch("SELECT product, count(*) AS count, min(since) AS since FROM held GROUP BY 1")
    return WaitingCounts(
        jobs={(row["product"], row["shown"]): row["count"] for row in jobs},
        held={row["product"]: row["count"] for row in held},
        oldest_held_at=from_milliseconds(min(row["since"] for row in held)) if held else None,
    )


# Asking


async def claim_inquiries(
    connection: Any, product: str, *, limit: int, now: int, until: int, lease: str
) -> tuple[Inquiry, ...]:
    async with connection.transaction():
        claimed = await connection.fetchrow(
            "SELECT * FROM claim_inquiries_1($1, $2, $3, $4, $5)", product, now, until, lease, limit
        )
        if not claimed["due"]:
            return ()
        jobs = {
            row["id"]: row
            for row in await connection.fetch(
                f"SELECT {_JOB_COLUMNS} FROM jobs WHERE id = ANY ($1)",
                [row_id for row_id in claimed["due"] if row_id > 0],
            )
        }
        held = {
            row["id"]: row
            for row in await connection.fetch(
                "SELECT id, reason, reference, nameless, since, until, attempts, body FROM held WHERE id = ANY ($1)",
                [-row_id for row_id in claimed["due"] if row_id < 0],
            )
        }
        meant = {row["id"]: await _only_job_meant(connection, row["nameless"]) for row in held.values()}
    return tuple(
        _job_inquiry(jobs[row_id], lease) if row_id > 0 else _held_inquiry(held[-row_id], lease, job_id=meant[-row_id])
        for row_id in claimed["due"]
    )


async def _only_job_meant(connection: Any, text: str | None) -> str | None:
    """The id of the job that a held message which names none may be about, if there is just one."""
    message = None if text is None else NamelessJob(**json.loads(text))
    if message is None or not message.takes_name:
        return None
    rows = await connection.fetch(
        "SELECT job_id FROM jobs WHERE asset_digest = $1 AND state IN ('expected', 'unknown') LIMIT 2", _asset(message)
    )
    return rows[0]["job_id"] if len(rows) == 1 else None


def _job_inquiry(row: Any, lease: str) -> Inquiry:
    return Inquiry(
        id=row["id"],
        reason="expected",
        reference=_reference(row),
        since=from_milliseconds(row["deadline_at"]),
        until=None,
        attempt=row["attempts"] + 1,
        lease=lease,
        user_data=row["user_data"],
    )


def _held_inquiry(row: Any, lease: str, *, job_id: str | None) -> Inquiry:
    reference = JobReference(**json.loads(row["reference"]))
    return Inquiry(
        id=row["id"],
        reason=row["reason"],
        reference=reference if job_id is None else replace(reference, job_id=job_id),
        since=from_milliseconds(row["since"]),
        until=from_milliseconds(row["until"]),
        attempt=row["attempts"] + 1,
        lease=lease,
        event=parse_event(row["body"]),
    )


async def next_inquiry_at(connection: Any, product: str) -> int | None:
    due_at: int | None = await connection.fetchval(
        "SELECT least((SELECT min(due_at) FROM jobs WHERE product = $1 AND due_at IS NOT NULL),"
        " (SELECT min(due_at) FROM held WHERE product = $1))",
        product,
    )
    return due_at


async def settle(connection: Any, finding: Finding, now: int) -> tuple[Settled, set[str]]:
    """Returns what listeners are to hear, too: the sinks that got something."""
    async with connection.transaction():
        settled, told = await _settle(connection, finding, now)
    return settled, told


async def _settle(connection: Any, finding: Finding, now: int) -> tuple[Settled, set[str]]:
    inquiry = finding.inquiry
    table = "jobs" if inquiry.event is None else "held"
    if finding.ask_again_at is not None:
        changes = "due_at = $3, lease = NULL, attempts = attempts + 1"
        parameters: list[object] = [to_id(inquiry.id), inquiry.lease, to_milliseconds(finding.ask_again_at)]
        if table == "jobs":
            # It may have ended meanwhile.
            changes = changes.replace("$3", "CASE WHEN state IN ('expected', 'unknown') THEN $3::bigint END")
            changes += ", notification = coalesce($4, notification)"
            parameters.append(to_text(finding.notification))
        status = await connection.execute(f"UPDATE {table} SET {changes} WHERE id = $1 AND lease = $2", *parameters)
        return Settled(is_ours=status != "UPDATE 0"), set()

    receipt = finding.receipt and replace(
        finding.receipt,
        entries=tuple([replace(entry, hold=None, nameless=None) for entry in finding.receipt.entries]),
    )
    entries = () if receipt is None else receipt.entries
    own = inquiry.reference.key().digest() if inquiry.event is None else key_digest(inquiry.event.id)
    locks = {key_lock(own), *(key_lock(key_digest(entry.event.id)) for entry in entries)}
    leaving = None
    if finding.release is not None:
        held = await connection.fetchrow("SELECT binding, sinks, nameless FROM held WHERE id = $1", to_id(inquiry.id))
        if held is None:
            return Settled(is_ours=False), set()
        nameless = None if held["nameless"] is None else NamelessJob(**json.loads(held["nameless"]))
        leaving = Entry(finding.release, tuple(held["sinks"].split()), held["binding"], nameless=nameless)
    match = await _match_under_locks(connection, [] if leaving is None else [leaving], locks)
    # Under the locks, so that nobody ends the job meanwhile.
    row = await connection.fetchrow(
        f"SELECT * FROM {table} WHERE id = $1 AND lease = $2 FOR UPDATE", to_id(inquiry.id), inquiry.lease
    )
    if row is None:
        return Settled(is_ours=False), set()

    settled, told = Settled(is_ours=True), set[str]()
    if inquiry.event is not None:
        await connection.execute("DELETE FROM held WHERE id = $1", row["id"])
    if leaving is not None:
        released = await _release(connection, row["receipt_id"], match, now, may_bind=finding.may_bind)
        if released is not None:
            settled.accepted += (released,)
            told.update(leaving.sinks)
        if match.asked:
            told.add(INQUIRIES)
    if receipt is not None:
        ((_, verdict),) = await accept(connection, [Arrival(receipt, to_milliseconds(receipt.received_at))])
        settled.accepted += verdict.accepted
        settled.receipt_state = verdict.state
        if verdict.accepted:
            told.update(sink for entry in entries for sink in entry.sinks)
    if inquiry.event is None:
        new = {event.id for event in settled.accepted}
        await _close_job(connection, row, finding, events=[entry.event for entry in entries], new=new, now=now)
    elif leaving is None:
        repeated = [] if finding.conflict is not None else [(own, _outcome(inquiry.event))]
        await _update_held_receipt(connection, row["receipt_id"], conflict=finding.conflict, repeated=repeated)
    return settled, told


async def _release(connection: Any, receipt_id: int, match: _Match, now: int, *, may_bind: bool) -> Event | None:
    """Accept a held event as brought by its receipt. Returns it as it leaves, if it does."""
    if not match.entries:
        reason = ASKED_REASON if match.asked else None
        await _follow(connection, match, set(), now)
        await _update_held_receipt(connection, receipt_id, reason=reason, repeated=match.repeated)
        return None
    (entry,) = match.entries
    event = entry.event
    if not may_bind and not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM bindings WHERE key_digest = $1)", key_digest(event.id)
    ):
        entry = replace(entry, binding=None)
    candidate = Candidate(1, now, event, event.to_json().decode(), entry.binding, entry.sinks)
    result = await connection.fetchrow(
        "SELECT * FROM accept_events_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        [candidate.lock()],
        [receipt_id],
        *event_arrays([candidate]),
    )
    bound = next((value for value in result["bound"] or () if value is not None), None)
    if bound is not None:
        words = f"the key is bound to {bound[:64]}, this receipt says {entry.binding:.64}"
        await _update_held_receipt(connection, receipt_id, conflict=words)
        return None
    repeated = [(key_digest(event.id), _outcome(event))]
    await _update_held_receipt(connection, receipt_id, repeated=repeated)
    if not result["new_positions"]:
        return None
    await end_jobs(connection, [candidate])
    await _follow(connection, match, {event.id}, now)
    (revision,) = result["new_revisions"]
    return event if revision == 1 else event.with_revision(revision)


async def _update_held_receipt(
    connection: Any,
    receipt_id: int,
    *,
    conflict: str | None = None,
    reason: str | None = None,
    repeated: Sequence[tuple[bytes, int]] = (),
) -> None:
    """
    After one of the held events of a receipt left, or does not leave.

    Args:
        conflict: Why it does not.
        reason: What else there is to say of it.
        repeated: Keys and outcomes of the events that the receipt has brought by that, first or again.
    """
    event_ids = await _link(connection, receipt_id, repeated)
    await connection.execute(
        "UPDATE receipts r SET state = CASE"
        " WHEN EXISTS (SELECT FROM events e WHERE e.receipt_id = r.id AND e.key_digest = ANY ("
        "  SELECT decode(substr(brought, 5, 32), 'hex')"
        "  FROM unnest(string_to_array(concat_ws(' ', r.event_ids, $3::text), ' ')) AS brought))"
        " OR $5::text IS NOT NULL OR EXISTS (SELECT FROM held h WHERE h.receipt_id = r.id) THEN 'accepted'"
        " WHEN $2::text IS NOT NULL OR r.state = 'conflict' THEN 'conflict' ELSE 'duplicate' END,"
        " reason = CASE WHEN $2::text IS NOT NULL THEN $2 WHEN $5::text IS NOT NULL THEN $5"
        " WHEN r.reason = $4 AND NOT EXISTS (SELECT FROM held h WHERE h.receipt_id = r.id) THEN NULL"
        " ELSE r.reason END, event_ids = nullif(concat_ws(' ', r.event_ids, $3::text), '') WHERE r.id = $1",
        receipt_id,
        to_text(conflict),
        event_ids,
        HELD_REASON,
        reason,
    )


async def _close_job(
    connection: Any, row: Any, finding: Finding, *, events: Sequence[Event], new: set[str], now: int
) -> None:
    """End an expected job with what was learnt; unknown where that is nothing."""
    if row["state"] in ("completed", "healed"):
        await connection.execute(
            "UPDATE jobs SET lease = NULL, attempts = attempts + 1, notification = coalesce($2, notification)"
            " WHERE id = $1",
            row["id"],
            to_text(finding.notification),
        )
        return
    found = await _endings(connection, {row["key_digest"], *(key_digest(event.id) for event in events)})
    ends = {(end.key, end.outcome): end for ends in found.values() for end in ends}
    told = [end for event in events if (end := ends.get((key_digest(event.id), _outcome(event))))]
    own = [end for end in told if end.key == row["key_digest"]]
    before = [end for end in found.get(row["key_digest"], ()) if end.outcome < _UNKNOWN][:1]
    ending = next(reversed(own or told or before), None)
    notification = to_text(finding.notification)
    if ending is None:
        await connection.execute(
            "UPDATE jobs SET state = 'unknown', due_at = NULL, lease = NULL, ended_at = $2, attempts = attempts + 1,"
            " notification = coalesce($3, notification) WHERE id = $1",
            row["id"],
            now,
            notification,
        )
        return
    state: JobState = "completed"
    if ending.outcome >= _UNKNOWN:
        state = "unknown"
    elif event_id(ending.key, OUTCOMES[ending.outcome]) in new:
        state = "healed"
    await _end_job(connection, "id", row["id"], state, ending, attempts=1)
    if notification is not None:
        await connection.execute("UPDATE jobs SET notification = $2 WHERE id = $1", row["id"], notification)
