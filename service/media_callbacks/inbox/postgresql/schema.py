"""The schema of the database: brought up to date, and ours to use."""

from collections.abc import Sequence
from typing import Any, cast

from media_callbacks.inbox.keeping.migrations import load_migrations, missing_migrations
from media_callbacks.inbox.postgresql.connecting import connected
from media_callbacks.model.errors import Unusable

# Of the advisory locks; those of keys and assets, in the database's functions, have it too.
LOCK_CLASS = 7105
_MIGRATION_LOCK = (LOCK_CLASS, -1)
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


async def migrate(url: str) -> Sequence[str]:
    """
    Bring the schema up to date; safe when several services try at once.

    Returns:
        The names of the migrations that were applied.

    Raises:
        Unusable: The database can't be used as configured.
        InboxUnavailable: The server can't be reached.
    """
    async with connected(url) as connection:
        return await _migrate(connection, apply=True)


async def prepare(url: str, *, apply: bool) -> str:
    """See that the database can be used, and return the name of the schema."""
    async with connected(url) as connection:
        await _migrate(connection, apply=apply)
        refused = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace ="
            " (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND CASE"
            " WHEN relkind = 'r' AND relname = ANY ($1) THEN NOT (has_table_privilege(oid, 'SELECT') AND"
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


async def _migrate(connection: Any, *, apply: bool) -> Sequence[str]:
    known = load_migrations("postgresql")
    if not missing_migrations(known, await applied_migrations(connection), apply=apply):
        return []
    await connection.execute("SELECT pg_advisory_lock($1, $2)", *_MIGRATION_LOCK)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY, name text NOT NULL)"
        )
        # Another service may have been faster.
        missing = missing_migrations(known, await applied_migrations(connection))
        for migration in missing:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO migrations (number, name) VALUES ($1, $2)", migration.number, migration.name
                )
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", *_MIGRATION_LOCK)
    return [str(migration) for migration in missing]


async def applied_migrations(connection: Any) -> set[int]:
    """Their numbers."""
    if await connection.fetchval("SELECT to_regclass('migrations')") is None:
        return set()
    return {number for (number,) in await connection.fetch("SELECT number FROM migrations")}
