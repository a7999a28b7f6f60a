"""A store as the version before would have it: its schema, with what it keeps of what there is."""

import sqlite3
from contextlib import closing
from pathlib import Path

from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.sqlite.file import prepare_file
from tests.factories.earlier import RELEASED


def step_back(path: Path, wal: Path) -> None:
    """
    Replace the file of a store. All tables and columns that both versions have keep their rows.

    Args:
        wal: Of the file, which may be missing; it is gone afterwards.
    """
    earlier = path.with_suffix(".earlier")
    with closing(sqlite3.connect(earlier, isolation_level=None)) as connection:
        prepare_file(connection)
        connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        for migration in load_migrations("sqlite"):
            if migration.number <= RELEASED:
                connection.executescript(migration.sql)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.number, migration.name))
        connection.execute("ATTACH ? AS later", (str(path),))
        for table in _tables(connection, "main"):
            if table == "migrations":
                continue
            theirs = _columns(connection, "later", table)
            columns = ", ".join(column for column in _columns(connection, "main", table) if column in theirs)
            connection.execute(f"DELETE FROM main.{table}")
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM later.{table}")
        connection.execute("DELETE FROM main.sqlite_sequence")
        connection.execute(
            "INSERT INTO main.sqlite_sequence (name, seq) SELECT name, seq FROM later.sqlite_sequence"
            " WHERE name IN (SELECT name FROM main.sqlite_master)"
        )
        connection.execute("DETACH later")
    wal.unlink(missing_ok=True)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    earlier.replace(path)


def _tables(connection: sqlite3.Connection, schema: str) -> list[str]:
    rows = connection.execute(
        f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    )
    return [name for (name,) in rows]


def _columns(connection: sqlite3.Connection, schema: str, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA {schema}.table_info({table})")]
