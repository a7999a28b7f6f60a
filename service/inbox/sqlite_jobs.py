"""
Expected jobs on SQLite. What writes takes the writer's connection inside a transaction; see ``sqlite`` for why nobody
else can come in between. Times are milliseconds since 1970 in UTC.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from service.errors import JobConflict
from service.events import OUTCOMES, Event, Outcome, Transport, event_id, key_digest
from service.inbox.base import JobFilter, JobRecord, NamelessJob, ReportRow, WaitingCounts
from service.inbox.rows import from_milliseconds, to_milliseconds
from service.jobs import ExpectedJob, JobReference

_KEYS_PER_SELECT = 32
_HOUR_MS = 3_600_000
REFERENCE = "product, account, family, job_id, media_id, nonce, bind"
_COLUMNS = (
    f"{REFERENCE}, id, state, registered_at, deadline_at, user_data, ended_at, transport, event_id, outcome, attempts,"
    " notification"
)
# Outcomes that say how a job has ended, as stored with events.
_ENDINGS = ",".join(str(n) for n, outcome in enumerate(OUTCOMES) if outcome not in ("received", "unknown"))
_IS_AWAITED = "state IN ('expected', 'unknown')"
_IS_MEANT = "media_id = ? AND family = ? AND product = ? AND account = ?"


class Ending(NamedTuple):
    """The event that a job ended with; ``transport`` is None when its body is gone."""

    event_id: str
    outcome: Outcome
    accepted_at: int
    transport: Transport | None


def ends_job(event: Event) -> bool:
    return event.data.outcome not in ("received", "unknown")


def reference_of(row: Sequence[Any]) -> JobReference:
    """The job of a row that begins with the columns of a reference, in their order."""
    product, account, family, job_id, media_id, nonce, bind_ = row[:7]
    return JobReference(
        product=product, account=account, family=family, job_id=job_id, media_id=media_id, nonce=nonce, bind=bind_
    )


def bind(connection: sqlite3.Connection, digest: bytes, value: str) -> str:
    """The value that the key is bound to: this one, unless there was one before."""
    connection.execute("INSERT INTO bindings VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, value))
    return cast(str, bound_value(connection, digest))


def bound_value(connection: sqlite3.Connection, digest: bytes) -> str | None:
    row = connection.execute("SELECT value FROM bindings WHERE key_digest = ?", (digest,)).fetchone()
    return None if row is None else row[0]


# Registration


def are_any_awaited(connection: sqlite3.Connection) -> bool:
    """Whether there is a job that an event could end."""
    (is_any,) = connection.execute(f"SELECT EXISTS (SELECT 1 FROM jobs WHERE {_IS_AWAITED})").fetchone()
    return bool(is_any)


def expect(
    connection: sqlite3.Connection, keyed: Sequence[tuple[bytes, ExpectedJob]], now: int
) -> list[JobRecord] | str:
    """Register all jobs, each given with its key's digest; or none, and say why one is refused."""
    connection.execute("SAVEPOINT expect")
    try:
        return [_expect_one(connection, digest, job, now) for digest, job in keyed]
    except JobConflict as conflict:
        connection.execute("ROLLBACK TO expect")
        return str(conflict)
    finally:
        connection.execute("RELEASE expect")


def _expect_one(connection: sqlite3.Connection, digest: bytes, job: ExpectedJob, now: int) -> JobRecord:
    reference = job.reference
    if reference.nonce is not None and reference.job_id is not None:
        bound = bind(connection, digest, reference.job_id)
        if bound != reference.job_id:
            raise JobConflict(
                f"the nonce belongs to job {bound[:64]}, this registration says {reference.job_id[:64]}:"
                " mint a URL of its own for each job"
            )
    deadline_at = to_milliseconds(job.deadline_at)
    connection.execute(
        f"INSERT INTO jobs (key_digest, {REFERENCE}, user_data, registered_at, deadline_at, state, due_at)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?,'expected',?)"
        " ON CONFLICT (key_digest) DO UPDATE SET job_id = coalesce(job_id, excluded.job_id),"
        " media_id = coalesce(media_id, excluded.media_id), bind = coalesce(bind, excluded.bind),"
        " user_data = coalesce(user_data, excluded.user_data)",
        (
            digest,
            reference.product,
            reference.account,
            reference.family,
            reference.job_id,
            reference.media_id,
            reference.nonce,
            reference.bind,
            job.user_data,
            now,
            deadline_at,
            deadline_at,
        ),
    )
    record = _find_by_key(connection, digest, now)
    if record.ended_at is None and (ending := _find_ending(connection, digest, record.reference, now)):
        end_job(connection, record.id, ending)
        record = _find_by_key(connection, digest, now)
    return record


def _find_by_key(connection: sqlite3.Connection, digest: bytes, now: int) -> JobRecord:
    row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE key_digest = ?", (digest,)).fetchone()
    return _record(row, now)


def _find_ending(connection: sqlite3.Connection, digest: bytes, reference: JobReference, now: int) -> Ending | None:
    """The event of the job that is there already, or a nameless one that it may take."""
    ending = _read_ending(
        connection, f"e.key_digest = ? AND e.outcome IN ({_ENDINGS}) ORDER BY e.id LIMIT 1", (digest,)
    )
    if ending is not None:
        return ending
    row = connection.execute(
        f"SELECT event_id FROM nameless_events WHERE {_IS_MEANT} AND accepted_at >= ? ORDER BY accepted_at, event_id",
        (reference.media_id, reference.family, reference.product, reference.account, now - _HOUR_MS),
    ).fetchone()
    if row is None:
        return None
    connection.execute("DELETE FROM nameless_events WHERE event_id = ?", row)
    return _read_ending(connection, "e.id = ?", row)


def find_ending(connection: sqlite3.Connection, event: Event) -> Ending | None:
    """An event as it is stored."""
    key = (key_digest(event.id), OUTCOMES.index(event.data.outcome))
    return _read_ending(connection, "e.key_digest = ? AND e.outcome = ?", key)


def _read_ending(connection: sqlite3.Connection, condition: str, parameters: Sequence[object]) -> Ending | None:
    row = connection.execute(
        "SELECT e.key_digest, e.outcome, e.accepted_at, b.body FROM events e"
        f" LEFT JOIN event_bodies b ON b.event_id = e.id WHERE {condition}",
        parameters,
    ).fetchone()
    if row is None:
        return None
    digest, number, accepted_at, body = row
    outcome = OUTCOMES[number]
    transport = None if body is None else json.loads(body)["data"]["transport"]
    return Ending(event_id(digest, outcome), outcome, accepted_at, transport)


# The end of a job


def end(connection: sqlite3.Connection, accepted: Sequence[tuple[Event, int]]) -> None:
    """End the jobs of events that were just accepted, each with its time."""
    endings: dict[bytes, tuple[Event, int]] = {}
    for event, at in accepted:
        if ends_job(event):
            endings.setdefault(key_digest(event.id), (event, at))
    digests = list(endings)
    for start in range(0, len(digests), _KEYS_PER_SELECT):
        chunk = digests[start : start + _KEYS_PER_SELECT]
        for digest, row_id in connection.execute(
            f"SELECT key_digest, id FROM jobs WHERE key_digest IN ({','.join('?' * len(chunk))}) AND {_IS_AWAITED}",
            chunk,
        ).fetchall():
            event, at = endings[digest]
            end_job(connection, row_id, Ending(event.id, event.data.outcome, at, event.data.transport))


def end_job(connection: sqlite3.Connection, row_id: int, ending: Ending, state: str = "completed") -> None:
    # The lease stays: who is asking just now may still say what the vendor answered.
    connection.execute(
        "UPDATE jobs SET state = ?, ended_at = ?, transport = ?, event_id = ?, outcome = ?, due_at = NULL WHERE id = ?",
        (state, ending.accepted_at, ending.transport, ending.event_id, ending.outcome, row_id),
    )


# Messages that name no job


def meant_by(connection: sqlite3.Connection, message: NamelessJob) -> list[tuple[int, JobReference]]:
    """The jobs that may be meant."""
    rows = connection.execute(
        f"SELECT {REFERENCE}, id FROM jobs WHERE {_IS_MEANT} AND {_IS_AWAITED} ORDER BY id",
        (message.media_id, message.family, message.product, message.account),
    )
    return [(row[-1], reference_of(row)) for row in rows]


def asked_about(
    connection: sqlite3.Connection, message: NamelessJob, outcome: Outcome
) -> tuple[int, JobReference] | None:
    """A job that the vendor has been asked about, with this outcome, and that no message was matched with."""
    row = connection.execute(
        f"SELECT {REFERENCE}, id FROM jobs WHERE {_IS_MEANT} AND outcome = ? AND attempts > 0"
        " AND NOT EXISTS (SELECT 1 FROM nameless_keys WHERE job = jobs.id) ORDER BY id LIMIT 1",
        (message.media_id, message.family, message.product, message.account, outcome),
    ).fetchone()
    return None if row is None else (row[-1], reference_of(row))


def ask_now(connection: sqlite3.Connection, row_ids: Sequence[int], now: int) -> None:
    connection.executemany(
        "UPDATE jobs SET due_at = ? WHERE id = ? AND lease IS NULL AND coalesce(due_at > ?, 1)",
        [(now, row_id, now) for row_id in row_ids],
    )


def remember(connection: sqlite3.Connection, digest: bytes, job: int | None, now: int) -> None:
    """Which job the message with this key was matched with; None for nothing, now and when it comes again."""
    connection.execute("INSERT INTO nameless_keys VALUES (?, ?, ?)", (digest, job, now))


def recall(connection: sqlite3.Connection, digest: bytes) -> tuple[JobReference | None] | None:
    """What is remembered: the job, or that there is none; None when the key was never seen."""
    row = connection.execute(
        f"SELECT {REFERENCE}, id FROM nameless_keys n LEFT JOIN jobs ON id = job WHERE n.key_digest = ?", (digest,)
    ).fetchone()
    if row is None:
        return None
    return (None,) if row[-1] is None else (reference_of(row),)


def keep_nameless(connection: sqlite3.Connection, event_row: int, message: NamelessJob, at: int) -> None:
    """Let a registration take the event."""
    connection.execute(
        "INSERT INTO nameless_events VALUES (?,?,?,?,?,?)",
        (event_row, message.product, message.account, message.family, message.media_id, at),
    )


# Lists and counts, for the readers


def _record(row: Sequence[Any], now: int) -> JobRecord:
    row_id, state, registered_at, deadline_at, user_data, ended_at, *rest = row[7:]
    transport, ended_by, outcome, attempts, notification = rest
    return JobRecord(
        id=row_id,
        reference=reference_of(row),
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
    )


def list_jobs(
    connection: sqlite3.Connection, wanted: JobFilter, *, now: int, before_id: int | None, limit: int
) -> tuple[JobRecord, ...]:
    conditions = ["1"]
    parameters: list[object] = []
    if wanted.state in ("expected", "overdue"):
        conditions.append(f"state = 'expected' AND deadline_at {'>' if wanted.state == 'expected' else '<='} ?")
        parameters.append(now)
    elif wanted.state is not None:
        conditions.append("state = ?")
        parameters.append(wanted.state)
    if wanted.state in ("expected", "overdue", "unknown"):
        # For the index of these, which are few.
        conditions.append(_IS_AWAITED)
    for condition, value in (
        ("product = ?", wanted.product),
        ("job_id = ?", wanted.job_id),
        ("registered_at >= ?", None if wanted.since is None else to_milliseconds(wanted.since)),
        ("registered_at < ?", None if wanted.until is None else to_milliseconds(wanted.until)),
        ("id < ?", before_id),
    ):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?", (*parameters, limit)
    )
    return tuple([_record(row, now) for row in rows])


def report(connection: sqlite3.Connection, *, since: int, until: int, now: int) -> tuple[ReportRow, ...]:
    counts: dict[tuple[Any, ...], int] = {}
    seconds: dict[tuple[Any, ...], list[float]] = {}
    for hour, product, state, transport, notification, elapsed_ms in connection.execute(
        "SELECT registered_at / ?, product, CASE WHEN state = 'expected' AND deadline_at <= ? THEN 'overdue' ELSE state"
        " END, transport, notification, max(0, ended_at - registered_at) FROM jobs"
        " WHERE registered_at >= ? AND registered_at < ?",
        (_HOUR_MS, now, since, until),
    ):
        group = (hour, product, state, transport, notification)
        counts[group] = counts.get(group, 0) + 1
        if transport is not None:
            seconds.setdefault(group, []).append(elapsed_ms / 1000)
    return tuple(
        [
            ReportRow(
                hour=from_milliseconds(group[0] * _HOUR_MS),
                product=group[1],
                state=group[2],
                transport=group[3],
                notification=group[4],
                count=counts[group],
                seconds=tuple(sorted(seconds.get(group, ()))),
            )
            for group in sorted(counts, key=lambda group: tuple(part or "" for part in group[1:]) + group[:1])
        ]
    )


def count_waiting(connection: sqlite3.Connection, now: int) -> WaitingCounts:
    jobs = connection.execute(
        "SELECT product, CASE WHEN deadline_at <= ? THEN 'overdue' ELSE 'expected' END AS shown, count(*) FROM jobs"
        " WHERE state = 'expected' GROUP BY product, shown",
        (now,),
    ).fetchall()
    held = connection.execute("SELECT product, count(*), min(held_at) FROM held GROUP BY product").fetchall()
    oldest = min([held_at for _, _, held_at in held], default=None)
    return WaitingCounts(
        jobs={(product, state): count for product, state, count in jobs},
        held={product: count for product, count, _ in held},
        oldest_held_at=None if oldest is None else from_milliseconds(oldest),
    )
