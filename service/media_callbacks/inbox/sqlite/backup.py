"""
A copy of a store on SQLite: whole, of one moment, made beside the service that goes on writing.

It is made by ``VACUUM INTO``, which is one read transaction, however much is written meanwhile. So is a single step of
SQLite's backup API, but that copies free pages as well, and with them what was purged. What the service has in memory
alone (see ``keys``) is made anew from what is copied. As long as the transaction lasts, the WAL can't be begun again
and grows by what is written.
"""

import fcntl
import glob
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from media_callbacks.model.errors import Unusable

_BUSY_TIMEOUT_S = 30.0
# Instructions of SQLite between two looks at how far it is: some ten milliseconds.
_STEPS_PER_LOOK = 1_000_000
_COUNTS = {
    "receipts": "SELECT count(*) FROM receipts",
    "events": "SELECT count(*) FROM events",
    "undelivered": "SELECT count(*) FROM deliveries WHERE state IN ('pending', 'retrying')",
    "held": "SELECT count(*) FROM held",
    "expected": "SELECT count(*) FROM jobs WHERE state = 'expected'",
}


@dataclass(frozen=True, slots=True)
class Backup:
    """
    Attributes:
        counts: What is in it: ``receipts``, ``events``, ``undelivered`` deliveries, ``held`` events and ``expected``
            jobs.
    """

    size_bytes: int
    counts: Mapping[str, int]


def back_up(
    path: Path, target: Path, *, may_replace: bool, progress: Callable[[int, int | None], None] = lambda *_: None
) -> Backup:
    """
    Copy a store to a file that is for us alone, and look whether the copy is sound. Under its name there is the whole
    copy or what was there before, whenever this is broken off.

    Args:
        may_replace: Whether a file of this name may be there.
        progress: Told how many bytes are written, and of how many.

    Raises:
        Unusable: The store can't be read, or the file can't be written.
    """
    path, target = path.resolve(), target.resolve()
    if target in {path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", ".lock"))}:
        raise Unusable([f"{target} is the store itself; name another file"])
    _refuse_existing(target, may_replace=may_replace)
    try:
        _remove_left(target)
        with _part_of(target) as part:
            _copy(path, part, progress)
            backup = _verify(part)
            _flush(part)
            _refuse_existing(target, may_replace=may_replace)
            part.replace(target)
            _flush(target.parent)
    except OSError as error:
        raise Unusable([f"{target} can't be written: {error.strerror}"]) from error
    return backup


def _refuse_existing(target: Path, *, may_replace: bool) -> None:
    if target.exists() and not target.is_file():
        raise Unusable([f"{target} is there already, and no file; name another one"])
    if not may_replace and target.exists():
        raise Unusable([f"{target} is there already; name another file, or replace it with --force"])


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """An empty file beside the target, which is removed in the end."""
    part = target.with_name(f".{target.name}.{token_hex(4)}")
    # VACUUM INTO takes an empty file, and would make one that everybody may read.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield part
    finally:
        _remove(part)
        os.close(descriptor)


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}-journal").unlink(missing_ok=True)


def _remove_left(target: Path) -> None:
    """What was killed has left its part, with all that a store has. One that is at work has its own locked."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}"):
        # Or it is of another user.
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                os.close(descriptor)


def _copy(path: Path, part: Path, progress: Callable[[int, int | None], None]) -> None:
    if not path.exists():
        raise Unusable([f"store.url: {path} is not there; name the store that the service uses, with --config"])
    try:
        # One that is not there is not made.
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        ) as store:
            if store.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchone() is None:
                raise Unusable([f"store.url: {path} has no tables of ours"])
            pages, free, page_bytes = (
                store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
            )
            total = (pages - free) * page_bytes
            store.set_progress_handler(lambda: progress(part.stat().st_size, total), _STEPS_PER_LOOK)
            store.execute("VACUUM INTO ?", (str(part),))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise Unusable([f"{part.parent} has no room for the copy; name a file on a larger disk"]) from error
        raise Unusable([f"store.url: {path} can't be copied: {error}"]) from error


def _verify(part: Path) -> Backup:
    try:
        # Nobody writes to it, so that no files are made beside it.
        with closing(sqlite3.connect(f"{part.as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
            found = [text for (text,) in copy.execute("PRAGMA quick_check")]
            if found != ["ok"]:
                raise Unusable([f"the copy is damaged, and was removed: {found[0]}"])
            counts = {name: int(copy.execute(sql).fetchone()[0]) for name, sql in _COUNTS.items()}
    except sqlite3.Error as error:
        raise Unusable([f"the copy can't be read, and was removed: {error}"]) from error
    return Backup(part.stat().st_size, counts)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
