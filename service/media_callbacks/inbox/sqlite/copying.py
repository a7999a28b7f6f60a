"""A store on SQLite as a whole, to be read or filled while no service uses it; see ``inbox.copying``."""

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from media_callbacks.inbox.copying.copying import check_schema
from media_callbacks.inbox.copying.tables import Row, Table
from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.sqlite.file import StoreFile
from media_callbacks.inbox.sqlite.names import note_names
from media_callbacks.model.errors import Unusable

_BUSY_TIMEOUT_S = 5.0
_FIND_ALL = (
    # Keys that the service would otherwise find one by one when it starts.
    "INSERT INTO event_keys SELECT key_digest, outcome, id FROM events ORDER BY key_digest, outcome",
    "UPDATE keys_moved SET last_event_id = coalesce((SELECT max(id) FROM events), 0)",
    *note_names("{} > 0"),
    "UPDATE names_noted SET last_event_id = coalesce((SELECT max(id) FROM events), 0)",
)


class SqliteStore:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def count(self, table: Table) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])

    async def read(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        rows = self._connection.execute(table.query)
        while batch := rows.fetchmany(table.rows_per_batch):
            yield batch

    async def last_id(self, table: Table) -> int:
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,)).fetchone()
        return int(row[0]) if row else 0

    async def clear(self, table: Table) -> None:
        self._connection.execute(f"DELETE FROM {table.name}")

    async def make_room(self, table: Table, last_id: int) -> None:
        pass

    async def write(self, table: Table, rows: Sequence[Row]) -> None:
        marks = ", ".join("?" * len(table.columns))
        self._connection.executemany(
            f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})", map(tuple, rows)
        )

    async def go_on_after(self, table: Table, last_id: int) -> None:
        # One row for each, by itself unique.
        self._connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table.name, last_id))


@contextmanager
def read_store(path: Path) -> Iterator[SqliteStore]:
    """
    Raises:
        Unusable: A service uses it, or it can't be used.
    """
    with _connected(path) as connection:
        connection.execute("BEGIN")
        yield SqliteStore(connection)


@contextmanager
def fill_store(path: Path) -> Iterator[SqliteStore]:
    """
    A store that was migrated. What is written is kept when this ends, all of it, and not when it raises.

    Raises:
        Unusable: A service uses it, or it can't be used.
    """
    with _connected(path) as connection:
        # A WAL would hold all that is written a second time. This way a journal holds the few pages that were there.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield SqliteStore(connection)
            for statement in _FIND_ALL:
                connection.execute(statement)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.execute("PRAGMA journal_mode = WAL")


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    file = StoreFile(path)
    if not file.path.exists():
        raise Unusable([f"{file.path} is not there; name the store that the service uses"])
    file.lock()
    try:
        # One that is not there is not made.
        with closing(
            sqlite3.connect(f"{file.path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        ) as connection:
            is_ours = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchone()
            applied = connection.execute("SELECT number, name FROM migrations").fetchall() if is_ours else []
            check_schema(load_migrations("sqlite"), dict(applied))
            yield connection
    except sqlite3.Error as error:
        raise Unusable([f"cannot use {file.path}: {error}"]) from error
    finally:
        file.unlock()
