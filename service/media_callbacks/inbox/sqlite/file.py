"""The files of a store on SQLite: made for us alone, used by one service, and given the schema of this version."""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from media_callbacks.inbox.keeping.migrations import load_migrations, missing_migrations
from media_callbacks.inbox.records import StoreSpace
from media_callbacks.model.errors import InboxUnavailable, Unusable

_BUSY_TIMEOUT_MS = 5000
# Bodies may be large, and not all that is written are receipts: this is the net under checkpoints by count, and it
# holds up the writer.
_MAX_WAL_PAGES = 32_768


class StoreFile:
    """
    A database file, with those that SQLite and we put beside it.

    Args:
        path: Its directory must exist.
    """

    def __init__(self, path: Path) -> None:
        # SQLite puts its other files beside the one that a link leads to.
        self.path = path.resolve()
        self._lock_file: IO[bytes] | None = None

    def lock(self) -> None:
        """
        Keep other services out, until ``unlock`` or the end of the process.

        Raises:
            Unusable: Another one is in.
        """
        try:
            # Only for us, as everything that is made here: the store has what the events have, and keeps it.
            self._lock_file = open(f"{self.path}.lock", "ab", opener=_open_for_us)  # noqa: SIM115 - Path.open has no opener
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.unlock()
            raise Unusable(
                [f"store.url: {self.path} is in use by another service; SQLite serves one, PostgreSQL several"]
            ) from error
        except OSError as error:
            raise Unusable([f"store.url: cannot write beside {self.path}: {error.strerror}"]) from error

    def unlock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def connect(self) -> sqlite3.Connection:
        # SQLite gives the files beside it the mode of the database.
        _make_for_us(self.path)
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=1024, timeout=5
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_MAX_WAL_PAGES}")
        connection.execute("PRAGMA cache_size = -16384")
        return connection

    def open_wal(self) -> int:
        """The WAL, to be flushed. It stays the same file as long as a connection is open: SQLite removes it after."""
        return os.open(self._beside("-wal"), os.O_RDONLY)

    def _beside(self, end: str) -> Path:
        return self.path.with_name(f"{self.path.name}{end}")

    def measure(self) -> StoreSpace:
        try:
            files = [self.path, self._beside("-wal"), self._beside("-shm")]
            sizes = [path.stat().st_size for path in files if path.exists()]
            disk = os.statvfs(self.path.parent)
        except OSError as error:
            raise InboxUnavailable(f"the store's disk does not answer: {error.strerror}") from error
        return StoreSpace(sum(sizes), disk.f_bavail * disk.f_frsize)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # Immediate, so that a lock held by another process shows at the start and not half way.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def prepare_file(connection: sqlite3.Connection) -> None:
    """
    Make a file what this store needs, if it is new.

    Raises:
        sqlite3.OperationalError: The file system can't do it.
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if not pages:
        # Only on a file without any table: `purge` gives space back to the file system.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError("expected a file system with shared memory and locks, such as a local disk")


def migrate(connection: sqlite3.Connection, *, apply: bool = True) -> Sequence[str]:
    """
    Bring the schema up to date; safe when several processes try at once.

    Returns:
        The names of the migrations that were applied.

    Raises:
        Unusable: As ``missing_migrations`` has it.
    """
    with transaction(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        applied = dict(connection.execute("SELECT number, name FROM migrations"))
        missing = missing_migrations(load_migrations("sqlite"), applied, apply=apply)
        for migration in missing:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.number, migration.entry))
    return [str(migration) for migration in missing]


def migrate_file(path: Path) -> Sequence[str]:
    """
    The same for a file, which is made if there is none.

    Raises:
        Unusable: It can't be used.
    """
    try:
        _make_for_us(path.resolve())
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
            prepare_file(connection)
            return migrate(connection)
    except (sqlite3.Error, OSError) as error:
        raise Unusable([f"store.url: cannot use {path}: {error}"]) from error


def _statements(script: str) -> Iterable[str]:
    # executescript would commit our transaction first.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _open_for_us(path: str | Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _make_for_us(path: Path) -> None:
    """
    Make a database that is not there yet. One that is there is not even opened: to close it would end the locks that
    connections of this process hold, and whoever else comes and goes would take itself for the last one, and remove
    the WAL that they go on writing to (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    with suppress(FileExistsError):
        os.close(_open_for_us(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
