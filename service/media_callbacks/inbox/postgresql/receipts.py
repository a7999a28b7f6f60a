"""Receipts in: one function of the database keeps all of a batch in a transaction of its own."""

from collections.abc import Sequence
from typing import Any

from media_callbacks.inbox.database import Candidate
from media_callbacks.inbox.operations import needs_care
from media_callbacks.inbox.postgresql.database import PostgresqlDatabase
from media_callbacks.inbox.postgresql.functions import accepted_events, event_arrays, known_bodies, lock_of, to_text
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.rows import to_milliseconds
from media_callbacks.model.events import Event
from media_callbacks.model.receipts import Entry, Receipt, Verdict


async def put(database: PostgresqlDatabase, receipts: Sequence[Receipt]) -> Sequence[Verdict]:
    """Keep receipts, their events, and the deliveries of the events that are new; durable when it returns."""
    connection = database.connection
    if needs_care(receipts[0]):
        async with connection.transaction():
            return await accepting.put(database, receipts)
    # By their places in the batch: the function numbers the receipts.
    candidates = accepting.candidates_of(receipts, 1)
    row = await connection.fetchrow(
        "SELECT * FROM accept_receipts_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
        " $18, $19, $20, $21, $22, $23, $24, $25)",
        database.told_now,
        sorted({lock_of(entry.digest) for _, entry in candidates}),
        [to_milliseconds(receipt.received_at) for receipt in receipts],
        [receipt.source for receipt in receipts],
        [receipt.product for receipt in receipts],
        [receipt.transport for receipt in receipts],
        [receipt.verified_by for receipt in receipts],
        [to_text(receipt.reason) for receipt in receipts],
        [accepting.dump(receipt.warnings) for receipt in receipts],
        [accepting.dump(dict(receipt.meta)) for receipt in receipts],
        [receipt.parser_version for receipt in receipts],
        [" ".join([entry.event.id for entry in receipt.entries]) or None for receipt in receipts],
        [receipt.body for receipt in receipts],
        [position for position, _ in candidates],
        *event_arrays(candidates),
        [entry.event.data.transport for _, entry in candidates],
    )
    events: dict[int, list[Event]] = {}
    for n, event in accepted_events(candidates, row):
        events.setdefault(candidates[n][0], []).append(event)
    verdicts = [Verdict(state, tuple(events.get(position, ()))) for position, state in enumerate(row["states"], 1)]
    # What follows is done after the commit, and nobody was answered yet: who sent it sends it again, should we not get
    # to the end of it.
    if row["again_positions"]:
        await _compare(database, receipts, candidates, row, verdicts)
    refused = {position for position, verdict in enumerate(verdicts, 1) if verdict.state == "conflict"}
    if refused:
        await accepting.note_keys(
            database,
            [(entry.digest, row["receipt_ids"][position - 1]) for position, entry in candidates if position in refused],
        )
    return verdicts


async def _compare(
    database: PostgresqlDatabase,
    receipts: Sequence[Receipt],
    candidates: Sequence[Candidate],
    row: Any,
    verdicts: Sequence[Verdict],
) -> None:
    """Find what says otherwise of what was accepted before. It is stored as a duplicate by now."""
    repeated: dict[int, list[tuple[Entry, str]]] = {}
    for n, body in known_bodies(row):
        position, entry = candidates[n]
        repeated.setdefault(position, []).append((entry, body))
    for position, pairs in repeated.items():
        receipt, verdict = receipts[position - 1], verdicts[position - 1]
        differs = await accepting.differences(database, pairs, receipt.body)
        if not differs:
            continue
        verdict.differs = differs
        refusal = None
        if verdict.state == "conflict":
            refusal = await database.fetch_value(
                "SELECT reason FROM receipts WHERE id = $1", row["receipt_ids"][position - 1]
            )
        verdict.state = accepting.state(receipt, has_events=bool(verdict.accepted), conflict=refusal, differs=differs)
        await database.execute(
            "UPDATE receipts SET state = $1, reason = $2 WHERE id = $3",
            verdict.state,
            accepting.reason(receipt, conflict=refusal, differs=differs),
            row["receipt_ids"][position - 1],
        )
