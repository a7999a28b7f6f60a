"""Checkpoints of the WAL, beside the writer."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

# A checkpoint copies pages back and flushes the main file. After so many receipts, some 16 MiB, it costs little, and no
# flush of the WAL waits long for that of the file.
_WORKS_PER_CHECKPOINT = 2600
# Further passes copy what was written during the ones before, until this little is left to the writer.
_CHECKPOINT_PASSES = 4
_CHECKPOINT_REST_PAGES = 256


class Checkpoints:
    """
    Checkpoints beside the writer, which would be held up by one for as long as dozens of commits take.

    Another thread copies pages back while the writer goes on. It never catches up with a writer that is busy, and only
    a WAL that was copied to its end is begun again; so the writer itself copies the little that is left. Only for the
    writer's thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._executor = ThreadPoolExecutor(1, "inbox-checkpoints")
        self._running: Future[None] | None = None
        self._works = 0

    def follow(self, connection: sqlite3.Connection, works: int) -> None:
        """After each commit of the writer, with how much it has done. Raises whatever a checkpoint has failed with."""
        self._works += works
        if self._running is None:
            if self._works >= _WORKS_PER_CHECKPOINT:
                self._works = 0
                self._running = self._executor.submit(self._copy)
        elif self._running.done():
            running, self._running = self._running, None
            running.result()
            _checkpoint(connection)

    def _copy(self) -> None:
        with closing(self._connect()) as connection:
            copied = 0
            for _ in range(_CHECKPOINT_PASSES):
                before, (size, copied) = copied, _checkpoint(connection)
                # Never again on a WAL that is copied to its end: before 3.51.3, a checkpoint that runs while a commit
                # begins the WAL again may take what is new for copied (https://sqlite.org/wal.html#walresetbug).
                if copied == size or copied - before < _CHECKPOINT_REST_PAGES:
                    break

    def close(self) -> None:
        self._executor.shutdown()


def _checkpoint(connection: sqlite3.Connection) -> tuple[int, int]:
    """Copy back what no reader needs the old state of. Returns the pages of the WAL, and those that are copied."""
    _, size, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return size, copied
