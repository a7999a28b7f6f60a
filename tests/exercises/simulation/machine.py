"""
A computer: a clock that may be wrong, and a disk that forgets what was not flushed.

The service's code runs as it is. Where it starts threads or asks the operating system, it finds these instead, see
``installed``.
"""

import errno
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

from media_callbacks.delivery import dispatcher
from media_callbacks.edge import core
from media_callbacks.inbox import operations, pending
from media_callbacks.inbox.journal import attempts, segments, store
from media_callbacks.inbox.keeping.clock import AnchoredClock
from media_callbacks.inbox.sqlite import checkpoints, file, reader, writer
from media_callbacks.inbox.sqlite.database import run_now
from media_callbacks.inbox.sqlite.file import transaction
from media_callbacks.inbox.sqlite.inbox import SqliteInbox
from tests.exercises.simulation.earlier import step_back
from tests.exercises.simulation.journals import JournalDisk, OperatingSystem, Way
from tests.exercises.simulation.loop import SimulatedLoop
from tests.exercises.simulation.threads import HUB, Executor, Queue, Thread

# When the simulation begins: whatever the machine's clock says, a seed is the same.
BEGAN_AT = datetime(2026, 11, 2, tzinfo=UTC).timestamp()
DB = "inbox.db"
_SECTOR = 512
_WAL_HEADER = 32
# Of a usual transaction: so one of them fails about as likely as the whole.
_STATEMENTS = 8
_INSERT = re.compile(r"\s*INSERT (?:OR \w+ )?INTO (\w+)\b(?!\.)")
# Tables that a row is added to for an attempt, a callback, an event, or a delivery.
GROWING = (("attempts",), ("receipts", "jobs"), ("events", "event_bodies", "held"), ("deliveries", "event_keys"))


@dataclass
class DiskFaults:
    """
    What the disk does wrong from now on.

    Attributes:
        flush_s: How long a flush takes, at least and at most.
        fails_flush: The next flush fails, and what it was for is lost: any, or one that a callback waits for.
        is_full: Nothing grows any more.
        full_tables: What has no room for a new row, while old ones may still change in their place: a disk is full where
            the next page is needed.
        errors: How likely what is read or written is not, and says so.
    """

    flush_s: tuple[float, float] = (0.0005, 0.004)
    fails_flush: Literal["any", "callback"] | None = None
    is_full: bool = False
    full_tables: Collection[str] = ()
    errors: float = 0.0


class Machine:
    """
    One computer with one disk, on which processes come and go.

    Args:
        folder: Where its disk is; in memory, best.
        template: A store that is already made, so that not every seed makes one.
        failed: Told what the disk has not done.

    Attributes:
        refused: Told which table had no room for a row.
        step_s: How far its clock was set.
        drift: How much faster its clocks go than time does.
    """

    def __init__(
        self,
        folder: Path,
        loop: SimulatedLoop,
        rng: Random,
        template: Path,
        failed: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._loop = loop
        self._rng = rng
        self.faults = DiskFaults()
        self._failed = failed
        self.refused: Callable[[str], None] = lambda _: None
        self.step_s = 0.0
        self.drift = 0.0
        self._number = 0
        self._old: list[SqliteInbox] = []
        self.inbox: SqliteInbox | None = None
        # How much of which WAL was flushed: its salt and a size.
        self._flushed = (b"", 0)
        shadow = folder / "shadow"
        shadow.mkdir()
        self._journals = JournalDisk(shadow)
        self.way = Way()
        self.disk = self._next_folder()
        shutil.copy(template, self.disk / DB)

    # Clocks

    def elapsed(self) -> float:
        """Of a clock that nobody sets."""
        return 1000.0 + self._loop.time() * (1 + self.drift)

    def wall(self) -> float:
        return BEGAN_AT + self._loop.time() * (1 + self.drift) + self.step_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)

    # The disk

    def make_inbox(self) -> SqliteInbox:
        store_clock = AnchoredClock(wall=self.wall, elapsed=self.elapsed)
        self.inbox = _Inbox(self.disk / DB, store_clock=store_clock)
        self._old.append(self.inbox)
        return self.inbox

    def flush(self, wal: int) -> None:
        """``fdatasync`` of the WAL, in the thread that flushes: what is written while it lasts may be lost."""
        faults, mark = self.faults, self._mark(wal)
        HUB.sleep(self._rng.uniform(*faults.flush_s))
        inbox = self.inbox
        is_meant = faults.fails_flush == "any" or (inbox is not None and inbox._pending.receipts > 0)
        if faults.fails_flush is not None and is_meant:
            faults.fails_flush = None
            self._failed("a flush has failed")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._flushed = mark

    @contextmanager
    def transact(self, connection: sqlite3.Connection) -> Iterator[None]:
        """The writer's ``transaction``, which may fail at any statement, or when all is done."""
        faults = self.faults
        with transaction(connection):
            if not (faults.errors or faults.full_tables):
                yield
                return
            assert isinstance(connection, _Connection)
            connection.refuse = self._may_refuse
            connection.__class__ = _FaultyConnection
            try:
                yield
            finally:
                connection.__class__ = _Connection
            self._may_fail()

    def read(self, read: Coroutine[Any, Any, Any]) -> Any:
        """A reader's ``run_now``, which may fail."""
        found = run_now(read)
        self._may_fail()
        return found

    def _may_fail(self) -> None:
        if self.faults.errors and self._rng.random() < self.faults.errors:
            self._failed("something is not read or written")
            raise _error("disk I/O error", sqlite3.SQLITE_IOERR)

    def _may_refuse(self, connection: "_FaultyConnection", sql: str) -> None:
        """Before a statement of a transaction."""
        faults, rng = self.faults, self._rng
        inserted = _INSERT.match(sql)
        if inserted is not None and inserted[1] in faults.full_tables:
            self.refused(inserted[1])
            raise _error("database or disk is full", sqlite3.SQLITE_FULL)
        if faults.errors and rng.random() < faults.errors / _STATEMENTS:
            self._failed(f"a statement fails: {sql.split(maxsplit=1)[0]}")
            if rng.random() < 0.5:
                # SQLite takes all back by itself, or leaves that to whoever has begun.
                connection.take_back()
            raise _error("disk I/O error", sqlite3.SQLITE_IOERR)

    def fsync(self, descriptor: int) -> None:
        """Of a journal's file or folder, in the journal's thread."""
        HUB.sleep(self._rng.uniform(*self.faults.flush_s))
        self._journals.flushed(descriptor)

    def journals(self) -> list[Path]:
        return sorted(self.disk.glob("journal-*"))

    def _mark(self, wal: int) -> tuple[bytes, int]:
        return os.pread(wal, 8, 16), os.fstat(wal).st_size

    def lose_power(self) -> int:
        """
        All processes are gone, and what was not flushed may be: sectors of it are there, or not.

        Returns:
            How many bytes were not flushed.
        """
        old, self.disk = self.disk, self._next_folder()
        shutil.copy(old / DB, self.disk / DB)
        wal = (old / f"{DB}-wal").read_bytes() if (old / f"{DB}-wal").exists() else b""
        salt, size = self._flushed
        # One that was begun again has flushed nothing yet but its header: the file has the rest.
        kept = min(size, len(wal)) if wal[16:24] == salt else min(_WAL_HEADER, len(wal))
        torn = bytearray(wal)
        how = self._rng.choice(("all", "none", "sectors", "tail"))
        if how == "none":
            del torn[kept:]
        elif how == "tail":
            del torn[self._rng.randint(kept, len(wal)) :]
        elif how == "sectors":
            for start in range(kept, len(wal), _SECTOR):
                if self._rng.random() < 0.5:
                    end = min(start + _SECTOR, len(wal))
                    torn[start:end] = bytes(end - start)
        if wal:
            (self.disk / f"{DB}-wal").write_bytes(torn)
        for journal in sorted(old.glob("journal-*")):
            self._journals.lose_power(journal, self.disk / journal.name, self._rng)
        self._release()
        return len(wal) - kept

    def die(self) -> None:
        """The process is gone; the operating system goes on, and writes all that it was given."""
        old, self.disk = self.disk, self._next_folder()
        for name in (DB, f"{DB}-wal"):
            if (old / name).exists():
                shutil.copy(old / name, self.disk / name)
        for journal in sorted(old.glob("journal-*")):
            shutil.copytree(journal, self.disk / journal.name)
            self._journals.copied(self.disk / journal.name)
        self._release()

    def _release(self) -> None:
        """What the dead process had open, it has no more."""
        inbox, self.inbox = self.inbox, None
        if inbox is not None:
            inbox._file.unlock()
            if inbox._writer is not None:
                with suppress(OSError):
                    os.close(inbox._writer._wal)

    def step_back(self) -> None:
        """The store becomes one of the version before."""
        step_back(self.disk / DB, self.disk / f"{DB}-wal")

    def set_full(self, is_full: bool) -> None:
        """From now on the files of the store can't grow; or can again."""
        self.faults.is_full = is_full
        inbox = self.inbox
        if inbox is not None and inbox._writer is not None:
            limit_pages(inbox._writer._connection, is_full=is_full)

    def _next_folder(self) -> Path:
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        return folder


class _Connection(sqlite3.Connection):
    refuse: Callable[["_FaultyConnection", str], None]


class _FaultyConnection(_Connection):
    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        self.refuse(self, sql)
        return super().execute(sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        self.refuse(self, sql)
        return super().executemany(sql, *parameters)

    def take_back(self) -> None:
        super().execute("ROLLBACK")


class _Sqlite:
    """``sqlite3``, whose connections may be made to fail."""

    @staticmethod
    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        return sqlite3.connect(*arguments, **named, factory=_Connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)


def _error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class _Inbox(SqliteInbox):
    """Which tells its news in the same order each time."""

    def _tell(self, names: Collection[str]) -> None:
        super()._tell(sorted(names))


def limit_pages(connection: sqlite3.Connection, *, is_full: bool) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages if is_full else 1_000_000_000}")


@contextmanager
def installed(machine: Callable[[], Machine], loop: SimulatedLoop, rng: Random) -> Iterator[None]:
    """The service's modules find threads, queues, flushes, timers and lease names of the simulation."""
    timers = SimpleNamespace(perf_counter=loop.time)
    system = OperatingSystem(lambda descriptor: machine().fsync(descriptor), lambda: machine().faults.is_full)
    with ExitStack() as stack:
        for module, name, replacement in (
            (file, "sqlite3", _Sqlite()),
            (writer, "threading", SimpleNamespace(Thread=Thread)),
            (writer, "_SYNC", lambda wal: machine().flush(wal)),
            (writer, "transaction", lambda connection: machine().transact(connection)),
            (reader, "run_now", lambda read: machine().read(read)),
            (pending, "SimpleQueue", Queue),
            (store, "threading", SimpleNamespace(Thread=Thread)),
            (segments, "os", system),
            (attempts, "os", system),
            (checkpoints, "ThreadPoolExecutor", Executor),
            (operations, "token_hex", lambda size: rng.randbytes(size).hex()),
            (dispatcher, "time", timers),
            (core, "time", timers),
        ):
            stack.enter_context(patch.object(module, name, replacement))
        yield
