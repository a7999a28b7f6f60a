"""The schema of the database: brought up to date, and ours to use."""

from collections.abc import Sequence
from typing import cast

from media_callbacks.inbox.postgresql.connecting import connected
from media_callbacks.inbox.postgresql.migrating import Tell, apply_missing
from media_callbacks.model.errors import Unusable

TABLES = (
    "receipts",
    "events",
    "event_bodies",
    "event_receipts",
    "bindings",
    "deliveries",
    "attempts",
    "sinks",
    "replays",
    "heartbeat",
    "migrations",
    "jobs",
    "held",
    "nameless_keys",
    "nameless_events",
    "clock",
    "erasures",
    "erased_events",
    "answers",
    "receipt_keys",
    "event_user_data",
    "feed",
    "delivery_counts",
    "event_spans",
    "receipt_spans",
    "delivery_spans",
    "job_spans",
    "spans_noted",
    "partitions",
)
_SEQUENCES = (
    "receipts_id_seq",
    "events_id_seq",
    "replays_id_seq",
    "jobs_id_seq",
    "held_id_seq",
    "erasures_id_seq",
    "answers_id_seq",
)


async def migrate(url: str, tell: Tell = lambda _: None) -> Sequence[str]:
    """
    Bring the schema up to date; safe when several services try at once, and beside those that run.

    Args:
        tell: What is going on, where it may take a while.

    Returns:
        The names of the migrations that were applied.

    Raises:
        Unusable: The database can't be used as configured.
        InboxUnavailable: The server can't be reached.
    """
    async with connected(url) as connection:
        return await apply_missing(connection, apply=True, tell=tell)


async def prepare(url: str, tell: Tell, *, apply: bool) -> str:
    """See that the database can be used, and return the name of the schema."""
    async with connected(url) as connection:
        await apply_missing(connection, apply=apply, tell=tell)
        refused = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace ="
            " (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND CASE"
            " WHEN relkind IN ('r', 'p') AND relname = ANY ($1) THEN NOT (has_table_privilege(oid, 'SELECT') AND"
            " has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE') AND"
            " has_table_privilege(oid, 'DELETE'))"
            " WHEN relkind = 'S' AND relname = ANY ($2) THEN NOT has_sequence_privilege(oid, 'USAGE')"
            " ELSE false END ORDER BY relname",
            TABLES,
            _SEQUENCES,
        )
        if refused:
            names = ", ".join(name for (name,) in refused)
            raise Unusable(
                [
                    "store.url: the user lacks rights on what is in the database; as its owner, grant SELECT, INSERT,"  # noqa: ISC004 - one sentence
                    f" UPDATE, DELETE on tables and USAGE on sequences: {names}"
                ]
            )
        return cast(str, await connection.fetchval("SELECT current_schema()"))
