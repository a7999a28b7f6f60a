"""A store on PostgreSQL as a whole, to be read or filled while no service uses it; see ``inbox.copying``."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from media_callbacks.inbox.copying.copying import check_schema
from media_callbacks.inbox.copying.tables import TABLES, Row, Table, to_plain
from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.postgresql import partitions
from media_callbacks.inbox.postgresql.connecting import connected
from media_callbacks.inbox.postgresql.database import PostgresqlDatabase
from media_callbacks.inbox.postgresql.migrating import applied_migrations
from media_callbacks.model.errors import Unusable

_LOCK_TIMEOUT_MS = 5000
_STOPPING_S = 5.0
_POLL_S = 0.05
_SETTINGS = (
    # Not as services are called, because they are looked for by that.
    "SET application_name = 'media-callbacks copy'",
    # One side waits while the other one reads or compares.
    "SET idle_in_transaction_session_timeout = 0",
    f"SET lock_timeout = {_LOCK_TIMEOUT_MS}",
)


class PostgresqlStore:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def count(self, table: Table) -> int:
        return int(await self._connection.fetchval(f"SELECT count(*) FROM {table.name}"))

    async def read(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        cursor = await self._connection.cursor(table.query)
        while batch := await cursor.fetch(table.rows_per_batch):
            yield [[to_number(value) for value in row] for row in batch]

    async def last_id(self, table: Table) -> int:
        return int(
            await self._connection.fetchval(
                f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {table.name}_id_seq"
            )
        )

    async def clear(self, table: Table) -> None:
        await self._connection.execute(f"DELETE FROM {table.name}")

    async def make_room(self, table: Table, last_id: int) -> None:
        await partitions.make_up_to(PostgresqlDatabase(self._connection), table.name, last_id)

    async def write(self, table: Table, rows: Sequence[Row]) -> None:
        booleans = [name in table.booleans for name in table.columns]
        await self._connection.copy_records_to_table(
            table.name,
            columns=table.columns,
            records=[
                [
                    bool(value) if is_boolean else to_plain(value)
                    for value, is_boolean in zip(row, booleans, strict=True)
                ]
                for row in rows
            ],
        )

    async def go_on_after(self, table: Table, last_id: int) -> None:
        await self._connection.execute(f"SELECT setval('{table.name}_id_seq', $1, $2)", max(last_id, 1), last_id > 0)


def to_number(value: Any) -> Any:
    """Truth as SQLite has it."""
    return int(value) if isinstance(value, bool) else value


@asynccontextmanager
async def read_store(url: str) -> AsyncIterator[PostgresqlStore]:
    """
    Raises:
        Unusable: A service uses it, or it can't be used.
        InboxUnavailable: The server can't be reached.
    """
    async with _connected_alone(url) as connection:
        await _sweep(connection)
        async with connection.transaction(isolation="repeatable_read"):
            await _lock(connection, "SHARE")
            yield PostgresqlStore(connection)


@asynccontextmanager
async def fill_store(url: str) -> AsyncIterator[PostgresqlStore]:
    """
    A store that was migrated. What is written is kept when this ends, all of it, and not when it raises.

    Raises:
        Unusable: A service uses it, or it can't be used.
        InboxUnavailable: The server can't be reached.
    """
    async with _connected_alone(url) as connection, connection.transaction():
        await _lock(connection, "EXCLUSIVE")
        yield PostgresqlStore(connection)


@asynccontextmanager
async def _connected_alone(url: str) -> AsyncIterator[Any]:
    async with connected(url) as connection:
        for setting in _SETTINGS:
            await connection.execute(setting)
        check_schema(load_migrations("postgresql"), await applied_migrations(connection))
        await _wait_until_alone(connection)
        yield connection


async def _sweep(connection: Any) -> None:
    """Remove what named rows of partitions that were dropped: elsewhere nobody knows that it is to go."""
    has_more = True
    while has_more:
        async with connection.transaction():
            has_more = await partitions.sweep(PostgresqlDatabase(connection))


async def _wait_until_alone(connection: Any) -> None:
    """
    Raises:
        Unusable: There are services. Each keeps a connection, if only to hear news.
    """
    # Those of whoever has just stopped are there for a moment longer; ours that migrated is such a one.
    deadline = asyncio.get_running_loop().time() + _STOPPING_S
    while others := await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'media-callbacks'"
    ):
        if asyncio.get_running_loop().time() > deadline:
            raise Unusable([f"services use the database (by {others} connections); stop them first"])
        await asyncio.sleep(_POLL_S)


async def _lock(connection: Any, mode: str) -> None:
    """For the transaction, before it looks at anything: who comes all the same can't write."""
    await connection.execute(f"LOCK TABLE {', '.join(table.name for table in TABLES)} IN {mode} MODE")
