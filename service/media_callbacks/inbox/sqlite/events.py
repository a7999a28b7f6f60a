"""Events and their first deliveries, where they are accepted."""

import sqlite3
from collections.abc import Sequence
from typing import cast

from media_callbacks.inbox.database import Candidate, Fate
from media_callbacks.inbox.rows import to_column, whole_characters
from media_callbacks.inbox.sqlite.keys import Keys, last_event_id
from media_callbacks.inbox.sqlite.statements import execute_in, insert
from media_callbacks.model.receipts import Entry


def accept_events(connection: sqlite3.Connection, keys: Keys, candidates: Sequence[Candidate], now: int) -> list[Fate]:
    """See ``Database.accept_events``."""
    fates: list[Fate] = []
    repeated: list[Candidate] = []
    rows: list[tuple[object, ...]] = []
    bodies: list[tuple[object, ...]] = []
    deliveries: list[tuple[object, ...]] = []
    further: list[tuple[Entry, int]] = []
    outcomes_by_key = _outcomes(connection, keys, [entry.digest for _, entry in candidates])
    row_id = last_event_id(connection)
    for receipt_id, entry in candidates:
        digest, outcome = entry.digest, entry.outcome
        if entry.binding is not None:
            binding = whole_characters(entry.binding)
            bound = _bind(connection, digest, binding)
            if bound != binding:
                fates.append(Fate(bound=bound))
                continue
        outcomes = outcomes_by_key.setdefault(digest, [])
        if outcome in outcomes:
            repeated.append((receipt_id, entry))
            fates.append(_REPEATED)
            continue
        outcomes.append(outcome)
        event, body, revision = entry.event, entry.body, len(outcomes)
        row_id += 1
        if revision == 1:
            deliveries += [(row_id, sink, now, now) for sink in entry.sinks]
        else:
            event = event.with_revision(revision)
            body = event.to_json()
            further.append((entry, row_id))
        data = event.data
        rows.append(
            (
                row_id,
                digest,
                outcome,
                revision,
                receipt_id,
                now,
                data.product,
                data.kind,
                to_column(data.job_id),
                to_column(data.media_id),
                1 if entry.sinks else 0,
            )
        )
        bodies.append((row_id, body.decode()))
        fates.append(Fate(event))
    insert(
        connection,
        "INSERT INTO events (id, key_digest, outcome, revision, receipt_id, accepted_at, product, kind, job_id,"
        " media_id, is_routed)",
        "(?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
    keys.know_new()
    insert(connection, "INSERT INTO event_bodies (event_id, body)", "(?,?)", bodies)
    head = "INSERT INTO deliveries (event_id, sink, replay, state, due_at, attempts, changed_at)"
    insert(connection, head, "(?,?,0,'pending',?,0,?)", deliveries)
    # Only now, one after the other: what holds a further outcome back may be in this very batch.
    for entry, row_id in further:
        for sink in entry.sinks:
            due_at = None if _is_any_on_its_way(connection, keys, entry.digest, sink) else now
            connection.execute(f"{head} VALUES (?,?,0,'pending',?,0,?)", (row_id, sink, due_at, now))
    if repeated:
        condition = keys.condition("e.key_digest = ?2 AND e.outcome = ?3")
        connection.executemany(
            "INSERT OR IGNORE INTO event_receipts"
            f" SELECT e.id, ?1 FROM events e WHERE {condition} AND e.receipt_id <> ?1",
            [(receipt_id, entry.digest, entry.outcome) for receipt_id, entry in repeated],
        )
        known = iter(_known_bodies(connection, keys, [entry for _, entry in repeated]))
        return [fate if fate is not _REPEATED else Fate(known=next(known)) for fate in fates]
    return fates


# Stands for what is looked up in the end: what it repeats may be in this very batch.
_REPEATED = Fate()


def _known_bodies(connection: sqlite3.Connection, keys: Keys, repeated: Sequence[Entry]) -> list[str | None]:
    """What was accepted of each, as far as it is still kept."""
    rows = execute_in(
        connection,
        "SELECT e.key_digest, e.outcome, b.body FROM events e JOIN event_bodies b ON b.event_id = e.id"
        f" WHERE {keys.condition('e.key_digest IN ({values})')}",
        [entry.digest for entry in repeated],
    )
    bodies = {(digest, outcome): body for digest, outcome, body in rows}
    return [bodies.get((entry.digest, entry.outcome)) for entry in repeated]


def _bind(connection: sqlite3.Connection, digest: bytes, value: str) -> str:
    """The value that the key is bound to: this one, unless there was one before."""
    connection.execute("INSERT INTO bindings VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, value))
    (bound,) = connection.execute("SELECT value FROM bindings WHERE key_digest = ?", (digest,)).fetchone()
    return cast(str, bound)


def _outcomes(connection: sqlite3.Connection, keys: Keys, digests: Sequence[bytes]) -> dict[bytes, list[int]]:
    """The outcomes known of each key; keys without any are left out. True until the transaction ends."""
    found: dict[bytes, list[int]] = {}
    sql = f"SELECT e.key_digest, e.outcome FROM events e WHERE {keys.condition('e.key_digest IN ({values})')}"
    for digest, outcome in execute_in(connection, sql, digests):
        found.setdefault(digest, []).append(outcome)
    return found


def _is_any_on_its_way(connection: sqlite3.Connection, keys: Keys, digest: bytes, sink: str) -> bool:
    """Whether anything of the key has not ended at the sink, replays included."""
    return (
        connection.execute(
            "SELECT 1 FROM events e JOIN deliveries d ON d.event_id = e.id AND d.sink = ?1"
            f" WHERE {keys.condition('e.key_digest = ?2')} AND d.state IN ('pending', 'retrying')",
            (sink, digest),
        ).fetchone()
        is not None
    )
