"""Receipts in: what a transaction of the writer does for those that have gathered."""

from collections.abc import Sequence

from media_callbacks.inbox.asking import jobs
from media_callbacks.inbox.operations import needs_care
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.rows import to_milliseconds, whole_characters
from media_callbacks.inbox.sqlite.database import SqliteDatabase, run_now
from media_callbacks.inbox.sqlite.events import accept_events
from media_callbacks.inbox.sqlite.statements import insert
from media_callbacks.model.events import Event
from media_callbacks.model.receipts import Entry, Receipt, Verdict


def put(database: SqliteDatabase, receipts: Sequence[Receipt], *, are_jobs_awaited: bool) -> list[Verdict]:
    """
    Keep receipts, their events, and the deliveries of the events that are new, in order.

    Args:
        are_jobs_awaited: Whether there are jobs that events could end.
    """
    verdicts: list[Verdict] = []
    start = 0
    for number, receipt in enumerate(receipts):
        if needs_care(receipt):
            # What this one comes to depends on what those before it have changed.
            if start < number:
                verdicts += _put_plain(database, receipts[start:number], are_jobs_awaited=are_jobs_awaited)
            verdicts += run_now(accepting.put(database, [receipt]))
            start = number + 1
    if start < len(receipts):
        # Of a batch as it usually is, this is all.
        rest = receipts[start:] if start else receipts
        verdicts += _put_plain(database, rest, are_jobs_awaited=are_jobs_awaited)
    return verdicts


def _put_plain(database: SqliteDatabase, receipts: Sequence[Receipt], *, are_jobs_awaited: bool) -> list[Verdict]:
    connection, now = database.connection, run_now(database.now())
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'receipts'").fetchone()
    (last_id,) = row or (0,)
    first_id = last_id + 1
    fates = iter(accept_events(connection, database.keys, accepting.candidates_of(receipts, first_id), now))
    verdicts: list[Verdict] = []
    rows: list[tuple[object, ...]] = []
    refused: list[tuple[bytes, int]] = []
    without_body: list[tuple[int]] = []
    for receipt_id, receipt in enumerate(receipts, first_id):
        events: list[Event] = []
        repeated: list[tuple[Entry, str]] = []
        refusal = None
        differs: tuple[str, ...] = ()
        for entry in receipt.entries:
            accepted, bound, known = next(fates)
            if accepted is not None:
                events.append(accepted)
            elif bound is not None:
                refusal = accepting.conflict(bound, entry.binding or "")
                refused.append((entry.digest, receipt_id))
            elif known is not None:
                repeated.append((entry, known))
            else:
                without_body.append((receipt_id,))
        if repeated:
            differs = run_now(accepting.differences(database, repeated, receipt.body))
        state = accepting.state(receipt, has_events=bool(events), conflict=refusal, differs=differs)
        verdicts.append(Verdict(state, tuple(events), differs=differs))
        rows.append(
            (
                receipt_id,
                to_milliseconds(receipt.received_at),
                receipt.source,
                receipt.product,
                receipt.transport,
                receipt.verified_by,
                state,
                accepting.reason(receipt, conflict=refusal, differs=differs)
                if refusal or differs
                else whole_characters(receipt.reason),
                accepting.dump(receipt.warnings) if receipt.warnings else None,
                accepting.dump(dict(receipt.meta)) if receipt.meta else None,
                receipt.parser_version,
                accepting.event_ids([entry.event.id for entry in receipt.entries], state),
                receipt.body,
                now,
            )
        )
    if are_jobs_awaited:
        run_now(jobs.end(database, [(event, now) for verdict in verdicts for event in verdict.accepted]))
    insert(
        connection,
        "INSERT INTO receipts (id, received_at, source, product, transport, verified_by, state, reason, warnings,"
        " meta, parser, event_ids, body, stored_at)",
        "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
    if refused:
        run_now(accepting.note_keys(database, refused))
    if without_body:
        # What they bring again may have been erased: the trigger `keep_erased` looks at them.
        connection.executemany("UPDATE receipts SET event_ids = event_ids WHERE id = ?", without_body)
    return verdicts
