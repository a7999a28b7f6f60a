"""What the vendor was asked and what it said, kept for as long as payloads are."""

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.records import Answer, Inquiry, Settled
from media_callbacks.inbox.rows import to_milliseconds
from media_callbacks.model.identity import key_digest

_MAX_DETAIL_CHARACTERS = 300


async def keep(
    database: Database, inquiry: Inquiry, answer: Answer, settled: Settled, *, receipt_id: int | None, now: int
) -> None:
    """
    Args:
        receipt_id: Of the event that is, or was, held.
    """
    digest = inquiry.reference.key().digest() if inquiry.event is None else key_digest(inquiry.event.id)
    await database.execute(
        "INSERT INTO answers (key_digest, receipt_id, reason, attempt, asked_at, answered_at, result, decision, detail,"
        " event_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        digest,
        receipt_id,
        inquiry.reason,
        inquiry.attempt,
        min(to_milliseconds(answer.asked_at), now),
        now,
        answer.result,
        answer.decision if settled.is_ours else "late",
        None if answer.detail is None else answer.detail[:_MAX_DETAIL_CHARACTERS],
        settled.accepted[-1].id if settled.accepted else None,
    )
