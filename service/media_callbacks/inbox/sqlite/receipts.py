"""Receipts in: what a transaction of the writer does for those that have gathered."""

import sqlite3
from collections.abc import Mapping, Sequence

from media_callbacks.inbox.asking import jobs
from media_callbacks.inbox.database import Candidate
from media_callbacks.inbox.operations import needs_care
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.rows import Arrival
from media_callbacks.inbox.sqlite.database import SqliteDatabase, run_now
from media_callbacks.inbox.sqlite.events import accept_events
from media_callbacks.inbox.sqlite.statements import insert
from media_callbacks.model.events import Event
from media_callbacks.model.receipts import Verdict


def put(database: SqliteDatabase, arrivals: Sequence[Arrival], *, are_jobs_awaited: bool) -> list[Verdict]:
    """
    Keep receipts, their events, and the deliveries of the events that are new, in order.

    Args:
        are_jobs_awaited: Whether there are jobs that events could end.
    """
    verdicts: list[Verdict] = []
    start = 0
    for number, arrival in enumerate(arrivals):
        if needs_care(arrival.receipt):
            # What this one comes to depends on what those before it have changed.
            if start < number:
                verdicts += _put_plain(database, arrivals[start:number], are_jobs_awaited=are_jobs_awaited)
            verdicts += run_now(accepting.put(database, [arrival]))
            start = number + 1
    if start < len(arrivals):
        # Of a batch as it usually is, this is all.
        rest = arrivals[start:] if start else arrivals
        verdicts += _put_plain(database, rest, are_jobs_awaited=are_jobs_awaited)
    return verdicts


def _put_plain(database: SqliteDatabase, arrivals: Sequence[Arrival], *, are_jobs_awaited: bool) -> list[Verdict]:
    connection, now = database.connection, run_now(database.now())
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'receipts'").fetchone()
    (last_id,) = row or (0,)
    first_id = last_id + 1
    candidates = accepting.candidates_of(arrivals, first_id)
    accepted: dict[int, list[Event]] = {}
    reasons: dict[int, str | None] = {}
    conflicts: dict[int, str] = {}
    refused: list[tuple[bytes, int]] = []
    repeated: dict[int, list[tuple[Candidate, str]]] = {}
    ended: list[tuple[Event, int]] = []
    without_body: set[int] = set()
    for candidate, fate in zip(candidates, accept_events(connection, database.keys, candidates, now), strict=True):
        if fate.accepted is not None:
            accepted.setdefault(candidate.receipt_id, []).append(fate.accepted)
            ended.append((fate.accepted, now))
        elif fate.bound is not None:
            conflicts[candidate.receipt_id] = accepting.conflict(fate.bound, candidate.binding or "")
            refused.append((candidate.digest, candidate.receipt_id))
        elif fate.known is not None:
            repeated.setdefault(candidate.receipt_id, []).append((candidate, fate.known))
        else:
            without_body.add(candidate.receipt_id)
    if are_jobs_awaited:
        run_now(jobs.end(database, ended))
    verdicts = []
    for receipt_id, arrival in enumerate(arrivals, first_id):
        receipt, events, refusal = arrival.receipt, accepted.get(receipt_id), conflicts.get(receipt_id)
        differs: tuple[str, ...] = ()
        if receipt_id in repeated:
            differs = run_now(accepting.differences(database, repeated[receipt_id], receipt.body))
        if differs or refusal is not None:
            reasons[receipt_id] = accepting.reason(receipt, conflict=refusal, differs=differs)
        state = accepting.state(receipt, has_events=events is not None, conflict=refusal, differs=differs)
        verdicts.append(Verdict(state, tuple(events) if events else (), differs=differs))
    _insert_receipts(connection, arrivals, verdicts, reasons, first_id=first_id, now=now)
    if refused:
        run_now(accepting.note_keys(database, refused))
    if without_body:
        # What they bring again may have been erased: the trigger `keep_erased` looks at them.
        connection.executemany(
            "UPDATE receipts SET event_ids = event_ids WHERE id = ?", [(receipt_id,) for receipt_id in without_body]
        )
    return verdicts


def _insert_receipts(
    connection: sqlite3.Connection,
    arrivals: Sequence[Arrival],
    verdicts: Sequence[Verdict],
    reasons: Mapping[int, str | None],
    *,
    first_id: int,
    now: int,
) -> None:
    rows = []
    for receipt_id, (arrival, verdict) in enumerate(zip(arrivals, verdicts, strict=True), first_id):
        receipt = arrival.receipt
        rows.append(
            (
                receipt_id,
                arrival.at,
                receipt.source,
                receipt.product,
                receipt.transport,
                receipt.verified_by,
                verdict.state,
                reasons.get(receipt_id, receipt.reason),
                accepting.dump(receipt.warnings) if receipt.warnings else None,
                accepting.dump(dict(receipt.meta)) if receipt.meta else None,
                receipt.parser_version,
                accepting.event_ids([entry.event.id for entry in receipt.entries], verdict.state),
                receipt.body,
                now,
            )
        )
    insert(
        connection,
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, warnings,"
        " meta, parser, event_ids, body, stored_at)",
        "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
