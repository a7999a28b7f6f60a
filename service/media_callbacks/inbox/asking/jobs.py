"""Expected jobs. Times are milliseconds since 1970 in UTC. What must be locked by whom: see ``Database.lock``."""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from media_callbacks.inbox.database import Database, Row, StoredEvent, Value, identity
from media_callbacks.inbox.keeping.spans import Candidates
from media_callbacks.inbox.operating.filters import Conditions, ids_between
from media_callbacks.inbox.records import NO_ENDINGS, JobFilter, JobRecord, JobState, ReportRow, WaitingCounts
from media_callbacks.inbox.rows import from_milliseconds, to_milliseconds
from media_callbacks.model.errors import JobConflict
from media_callbacks.model.events import Event
from media_callbacks.model.identity import Key, event_id, key_digest
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.kinds import OUTCOMES, Outcome, Product, Transport
from media_callbacks.model.receipts import NamelessJob

_HOUR_MS = 3_600_000
_JOBS_PER_READ = 10_000
REFERENCE = "product, account, family, job_id, media_id, nonce, bind"
RECORD = (
    "id, state, registered_at, deadline_at, user_data, ended_at, transport, event_id, outcome, attempts, notification,"
    f" token, requested_by, {REFERENCE}"
)
_MEANT = f"id, event_id, outcome, {REFERENCE}"
IS_AWAITED = "state IN ('expected', 'unknown')"


class Ending(NamedTuple):
    """The event that a job ended with; ``transport`` is None when its body is gone."""

    event_id: str
    outcome: Outcome
    accepted_at: int
    transport: Transport | None


class Meant(NamedTuple):
    """A job that a message is about which names none, and the event that it ended with."""

    row_id: int
    event_id: str | None
    outcome: Outcome | None
    reference: JobReference


class _Registered(NamedTuple):
    """A job, and the digest of its asset."""

    record: JobRecord
    asset: bytes | None


class _Alike(NamedTuple):
    """What jobs have in common that are a row of a report; ``hour`` counts since 1970."""

    hour: int
    product: Product
    state: JobState
    transport: Transport | None
    notification: str | None


def ends_job(event: Event) -> bool:
    return event.data.outcome not in NO_ENDINGS


def reference_of(columns: Row) -> JobReference:
    """The job of the columns in ``REFERENCE``."""
    product, account, family, job_id, media_id, nonce, bind = columns
    return JobReference(
        product=product, account=account, family=family, job_id=job_id, media_id=media_id, nonce=nonce, bind=bind
    )


def asset_of(job: JobReference | NamelessJob) -> bytes | None:
    """The digest of the asset that a job works on, where that is known."""
    return None if job.media_id is None else Key(job.product, job.account, job.family, (job.media_id,)).digest()


async def is_bound(database: Database, digest: bytes) -> bool:
    """Whether a key is bound to anything."""
    return await database.fetch_row("SELECT 1 FROM bindings WHERE key_digest = $1", digest) is not None


async def other_binding(database: Database, digest: bytes, value: str) -> str | None:
    """What a key is bound to, when that is something else. The database compares: it may not keep a text as it is."""
    other: str | None = await database.fetch_value(
        "SELECT value FROM bindings WHERE key_digest = $1 AND value <> $2", digest, value
    )
    return other


# Registration


async def are_any_awaited(database: Database) -> bool:
    """Whether there is a job that an event could end."""
    return bool(await database.fetch_value(f"SELECT EXISTS (SELECT 1 FROM jobs WHERE {IS_AWAITED})"))


async def expect(database: Database, keyed: Sequence[tuple[bytes, ExpectedJob]]) -> list[JobRecord] | str:
    """Register all jobs, each given with its key's digest; or none, and say why one is refused."""
    assets = {asset for _, job in keyed if (asset := asset_of(job.reference)) is not None}
    await database.lock(assets=assets, keys={digest for digest, _ in keyed})
    try:
        async with database.savepoint():
            return await _expect(database, keyed, await database.now())
    except JobConflict as conflict:
        return str(conflict)


async def _expect(database: Database, keyed: Sequence[tuple[bytes, ExpectedJob]], now: int) -> list[JobRecord]:
    await _bind(database, keyed)
    await database.execute_many(
        f"INSERT INTO jobs (key_digest, asset, {REFERENCE}, user_data, registered_at, deadline_at, state, due_at,"
        " token, requested_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'expected', $12, $13, $14)"
        " ON CONFLICT (key_digest) DO UPDATE SET asset = coalesce(jobs.asset, excluded.asset),"
        " job_id = coalesce(jobs.job_id, excluded.job_id), media_id = coalesce(jobs.media_id, excluded.media_id),"
        " bind = coalesce(jobs.bind, excluded.bind), user_data = coalesce(jobs.user_data, excluded.user_data)"
        # Nothing is written that changes nothing.
        " WHERE jobs.asset IS NULL AND excluded.asset IS NOT NULL"
        " OR jobs.job_id IS NULL AND excluded.job_id IS NOT NULL OR jobs.bind IS NULL AND excluded.bind IS NOT NULL"
        " OR jobs.user_data IS NULL AND excluded.user_data IS NOT NULL",
        [_registration(digest, job, now) for digest, job in keyed],
    )
    digests = list(dict.fromkeys([digest for digest, _ in keyed]))
    found = await _find_by_keys(database, digests, now)
    open_assets = {digest: found[digest].asset for digest in digests if found[digest].record.ended_at is None}
    if endings := await _find_endings(database, open_assets, now):
        await _end_all(database, [(found[digest].record.id, ending) for digest, ending in endings.items()])
        found |= await _find_by_keys(database, list(endings), now)
    return [found[digest].record for digest, _ in keyed]


def _registration(digest: bytes, job: ExpectedJob, now: int) -> tuple[Value, ...]:
    reference, deadline = job.reference, job.deadline
    return (
        digest,
        asset_of(reference),
        reference.product,
        reference.account,
        reference.family,
        reference.job_id,
        reference.media_id,
        reference.nonce,
        reference.bind,
        job.user_data,
        now,
        to_milliseconds(deadline) if isinstance(deadline, datetime) else now + round(deadline.total_seconds() * 1000),
        job.token,
        job.requested_by,
    )


async def _bind(database: Database, keyed: Sequence[tuple[bytes, ExpectedJob]]) -> None:
    """Bind nonces to job ids, unless they were before."""
    named = [(digest, job.reference.job_id) for digest, job in keyed if job.reference.nonce and job.reference.job_id]
    if not named:
        return
    await database.execute_many(
        "INSERT INTO bindings (key_digest, value) VALUES ($1, $2) ON CONFLICT DO NOTHING", named
    )
    bound = await database.fetch_map(
        "SELECT key_digest, value FROM bindings WHERE key_digest IN ({values})", list(dict(named))
    )
    for digest, job_id in named:
        if bound[digest] != job_id and (other := await other_binding(database, digest, job_id)):
            raise JobConflict(
                f"the nonce belongs to job {other[:64]}, this registration says {job_id[:64]}:"
                " mint a URL of its own for each job"
            )


async def _find_by_keys(database: Database, digests: Sequence[bytes], now: int) -> dict[bytes, _Registered]:
    rows = await database.fetch_for(
        f"SELECT key_digest, asset, {RECORD} FROM jobs WHERE key_digest IN ({{values}})", digests
    )
    return {digest: _Registered(record_of(columns, now), asset) for digest, asset, *columns in rows}


async def _find_endings(database: Database, assets: Mapping[bytes, bytes | None], now: int) -> dict[bytes, Ending]:
    """
    The events of jobs that are there already, or nameless ones that they may take; by the jobs' keys.

    Args:
        assets: Of the jobs, by their keys.
    """
    endings: dict[bytes, Ending] = {}
    known = [event for event in await database.find_events(assets) if OUTCOMES[event.outcome] not in NO_ENDINGS]
    for event, ending in (await _read_endings(database, known)).items():
        endings.setdefault(event.key_digest, ending)
    rest = {digest: asset for digest, asset in assets.items() if asset is not None and digest not in endings}
    taken = await _take_nameless(database, rest, now)
    nameless = await database.find_events_by_row(taken)
    for event, ending in (await _read_endings(database, nameless)).items():
        endings[taken[event.row_id]] = ending
    return endings


async def _take_nameless(database: Database, assets: Mapping[bytes, bytes], now: int) -> dict[int, bytes]:
    """Let jobs take nameless events, the oldest first: events by their row ids, and the keys of the jobs."""
    # For update, as an asset may be that of an earlier registration, and then its lock is not ours.
    rows = await database.fetch_for(
        "SELECT n.accepted_at, n.event_id, n.asset FROM nameless_events n"
        f" WHERE n.asset IN ({{values}}) AND n.accepted_at >= $1 ORDER BY n.event_id{database.for_update('n')}",
        sorted(set(assets.values())),
        now - _HOUR_MS,
    )
    free: dict[bytes, list[int]] = {}
    for _, row_id, asset in sorted([tuple(row) for row in rows], reverse=True):
        free.setdefault(asset, []).append(row_id)
    taken = {free[asset].pop(): digest for digest, asset in assets.items() if free.get(asset)}
    if taken:
        await database.execute_many("DELETE FROM nameless_events WHERE event_id = $1", [(row_id,) for row_id in taken])
    return taken


async def find_ending(database: Database, event: Event) -> Ending | None:
    """An event as it is stored."""
    known = await database.find_event(*identity(event))
    return None if known is None else (await _read_endings(database, [known]))[known]


async def _read_endings(database: Database, events: Sequence[StoredEvent]) -> dict[StoredEvent, Ending]:
    """What is to be noted of events with a job, in their order."""
    bodies = await database.find_bodies([event.row_id for event in events])
    endings = {}
    for event in events:
        outcome, body = OUTCOMES[event.outcome], bodies.get(event.row_id)
        transport = None if body is None else json.loads(body)["data"]["transport"]
        endings[event] = Ending(event_id(event.key_digest, outcome), outcome, event.accepted_at, transport)
    return endings


# The end of a job


async def end(database: Database, accepted: Sequence[tuple[Event, int]]) -> None:
    """End the jobs of events that were just accepted, each with its time."""
    endings: dict[bytes, Ending] = {}
    for event, at in accepted:
        if ends_job(event):
            endings.setdefault(key_digest(event.id), Ending(event.id, event.data.outcome, at, event.data.transport))
    rows = await database.fetch_for(
        f"SELECT key_digest, id FROM jobs WHERE key_digest IN ({{values}}) AND {IS_AWAITED}", list(endings)
    )
    if rows:
        await _end_all(database, [(row_id, endings[digest]) for digest, row_id in rows])


async def end_job(database: Database, row_id: int, ending: Ending, state: str = "completed") -> None:
    await _end_all(database, [(row_id, ending)], state)


async def _end_all(database: Database, endings: Sequence[tuple[int, Ending]], state: str = "completed") -> None:
    # The lease stays: who is asking just now may still say what the vendor answered.
    await database.execute_many(
        "UPDATE jobs SET state = $1, ended_at = $2, transport = $3, event_id = $4, outcome = $5, due_at = NULL"
        " WHERE id = $6",
        [
            (state, ending.accepted_at, ending.transport, ending.event_id, ending.outcome, row_id)
            for row_id, ending in endings
        ],
    )


# Messages that name no job; their assets are locked, and the keys of the jobs that they may be matched with


async def keys_to_match(database: Database, assets: Collection[bytes], messages: Collection[bytes]) -> set[bytes]:
    """
    The keys of all jobs that messages might be matched with, or were; true as long as the assets are locked.

    Args:
        messages: The keys that they have.
    """
    meant = await database.fetch_for(
        # One with a lease may have ended and yet be noted as asked about.
        "SELECT key_digest FROM jobs WHERE asset IN ({values})"
        f" AND ({IS_AWAITED} OR attempts > 0 OR lease IS NOT NULL)",
        list(assets),
    )
    matched = await database.fetch_for(
        "SELECT j.key_digest FROM nameless_keys n JOIN jobs j ON j.id = n.job WHERE n.key_digest IN ({values})",
        list(messages),
    )
    return {digest for (digest,) in (*meant, *matched)}


async def meant_by(database: Database, message: NamelessJob) -> list[Meant]:
    """The jobs that may be meant."""
    rows = await database.fetch(f"SELECT {_MEANT} FROM jobs WHERE asset = $1 AND {IS_AWAITED}", asset_of(message))
    return sorted([_meant(row) for row in rows], key=lambda job: job.row_id)


async def asked_about(database: Database, message: NamelessJob, outcome: Outcome) -> Meant | None:
    """A job that the vendor has been asked about, with this outcome, and that no message was matched with."""
    rows = await database.fetch(
        f"SELECT {_MEANT} FROM jobs WHERE asset = $1 AND outcome = $2 AND attempts > 0"
        " AND NOT EXISTS (SELECT 1 FROM nameless_keys WHERE job = jobs.id)",
        asset_of(message),
        outcome,
    )
    return min([_meant(row) for row in rows], key=lambda job: job.row_id, default=None)


def _meant(row: Row) -> Meant:
    row_id, event_id, outcome, *reference = row
    return Meant(row_id, event_id, outcome, reference_of(reference))


async def ask_now(database: Database, row_ids: Sequence[int], now: int) -> None:
    await database.execute_many(
        "UPDATE jobs SET due_at = $1 WHERE id = $2 AND lease IS NULL AND (due_at IS NULL OR due_at > $1)",
        [(now, row_id) for row_id in row_ids],
    )


async def remember(database: Database, digest: bytes, job: int | None, now: int) -> None:
    """Which job the message with this key was matched with; None for nothing, now and when it comes again."""
    await database.execute(
        "INSERT INTO nameless_keys (key_digest, job, matched_at) VALUES ($1, $2, $3)", digest, job, now
    )


async def recall(database: Database, digest: bytes) -> tuple[Meant | None] | None:
    """What is remembered: the job, or that there is none; None when the key was never seen."""
    row = await database.fetch_row(
        f"SELECT {_MEANT} FROM nameless_keys n LEFT JOIN jobs ON id = job WHERE n.key_digest = $1", digest
    )
    if row is None:
        return None
    row_id, *_ = row
    return (None,) if row_id is None else (_meant(row),)


async def keep_nameless(database: Database, event: Event, message: NamelessJob, at: int) -> None:
    """Let a registration take the event."""
    known = await database.find_event(*identity(event))
    assert known is not None
    await database.execute(
        "INSERT INTO nameless_events (event_id, asset, accepted_at) VALUES ($1, $2, $3)",
        known.row_id,
        asset_of(message),
        at,
    )


# Lists and counts


def record_of(columns: Row, now: int) -> JobRecord:
    """A job of the columns in ``RECORD``."""
    row_id, state, registered_at, deadline_at, user_data, ended_at, *further = columns
    transport, ended_by, outcome, attempts, notification, token, requested_by, *reference = further
    return JobRecord(
        id=row_id,
        reference=reference_of(reference),
        state="overdue" if state == "expected" and deadline_at <= now else state,
        registered_at=from_milliseconds(registered_at),
        deadline_at=from_milliseconds(deadline_at),
        user_data=user_data,
        ended_at=None if ended_at is None else from_milliseconds(ended_at),
        transport=transport,
        event_id=ended_by,
        outcome=outcome,
        attempts=attempts,
        notification=notification,
        token=token,
        requested_by=requested_by,
    )


async def list_jobs(
    database: Database, wanted: JobFilter, *, before_id: int | None, limit: int
) -> tuple[JobRecord, ...]:
    now = await database.now()
    since, until = (None if at is None else to_milliseconds(at) for at in (wanted.since, wanted.until))
    ids = await ids_between(database, "jobs", since, until, before_id=before_id)
    candidates = Candidates(database, "jobs", ids)
    if wanted.job_id is None and wanted.state in (None, "completed"):
        # Of others there are few, and indexes of them.
        await candidates.ask("job_spans", product=wanted.product)
    rows: list[Row] = []
    for some in candidates.newest_first():
        query = _select_jobs(database, wanted, some, now)
        sql = f"{query.select(RECORD)} ORDER BY id DESC LIMIT {query.mark(limit - len(rows))}"
        rows += await database.fetch(sql, *query.parameters)
        if len(rows) >= limit:
            break
    return tuple([record_of(row, now) for row in rows])


def _select_jobs(database: Database, wanted: JobFilter, ids: range, now: int) -> Conditions:
    is_healed = wanted.state == "healed" and wanted.job_id is None
    query = Conditions("jobs" + (database.using("jobs_healed") if is_healed else ""))
    query.add("id >= {} AND id < {}", ids.start, ids.stop)
    if wanted.state in ("expected", "overdue"):
        query.add(f"state = 'expected' AND deadline_at {'>' if wanted.state == 'expected' else '<='} {{}}", now)
    elif wanted.state == "healed":
        # As it stands in the condition of the index.
        query.add("state = 'healed'")
    elif wanted.state is not None:
        query.add("state = {}", wanted.state)
    if wanted.state in ("expected", "overdue", "unknown"):
        # For the index of these, which are few.
        query.add(IS_AWAITED)
    for condition, value in (
        ("product = {}", wanted.product),
        ("account = {}", wanted.account),
        ("job_id = {}", wanted.job_id),
        ("registered_at >= {}", None if wanted.since is None else to_milliseconds(wanted.since)),
        ("registered_at < {}", None if wanted.until is None else to_milliseconds(wanted.until)),
    ):
        if value is not None:
            query.add(condition, value)
    return query


async def report(database: Database, *, since: int, until: int) -> tuple[ReportRow, ...]:
    now = await database.now()
    counts: dict[_Alike, int] = {}
    seconds: dict[_Alike, list[float]] = {}
    async for product, state, transport, notification, registered_at, ended_at in _read_span(
        database, since=since, until=until, now=now
    ):
        group = _Alike(registered_at // _HOUR_MS, product, state, transport, notification)
        counts[group] = counts.get(group, 0) + 1
        if transport is not None:
            seconds.setdefault(group, []).append(max(0, ended_at - registered_at) / 1000)

    def in_order(group: _Alike) -> tuple[Any, ...]:
        return group.product, group.state, group.transport or "", group.notification or "", group.hour

    return tuple(
        [
            ReportRow(
                hour=from_milliseconds(group.hour * _HOUR_MS),
                product=group.product,
                state=group.state,
                transport=group.transport,
                notification=group.notification,
                count=counts[group],
                seconds=tuple(sorted(seconds.get(group, ()))),
            )
            for group in sorted(counts, key=in_order)
        ]
    )


async def _read_span(database: Database, *, since: int, until: int, now: int) -> AsyncIterator[Row]:
    """What a report needs of each job that was registered in a span; not all of them at once."""
    last_id = -1
    while True:
        rows = await database.fetch(
            "SELECT id, product, CASE WHEN state = 'expected' AND deadline_at <= $1 THEN 'overdue' ELSE state END,"
            " transport, notification, registered_at, ended_at FROM jobs"
            " WHERE registered_at >= $2 AND registered_at < $3 AND (registered_at > $2 OR id > $4)"
            " ORDER BY registered_at, id LIMIT $5",
            now,
            since,
            until,
            last_id,
            _JOBS_PER_READ,
        )
        for _, *job in rows:
            yield job
        if len(rows) < _JOBS_PER_READ:
            return
        last_id, *_, since, _ = rows[-1]


async def count_waiting(database: Database) -> WaitingCounts:
    now = await database.now()
    jobs = await database.fetch(
        "SELECT product, CASE WHEN deadline_at <= $1 THEN 'overdue' ELSE 'expected' END AS shown, count(*),"
        " min(deadline_at) FROM jobs WHERE state = 'expected' GROUP BY product, shown",
        now,
    )
    held = await database.fetch("SELECT product, count(*), min(held_at) FROM held GROUP BY product")
    oldest = min([held_at for _, _, held_at in held], default=None)
    return WaitingCounts(
        jobs={(product, state): count for product, state, count, _ in jobs},
        held={product: count for product, count, _ in held},
        oldest_held_at=None if oldest is None else from_milliseconds(oldest),
        # Of both states the earlier one, which comes last.
        first_deadlines={
            product: from_milliseconds(at) for product, _, _, at in sorted(jobs, key=lambda row: row[3], reverse=True)
        },
    )
