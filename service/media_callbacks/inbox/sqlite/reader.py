"""What only reads, beside the writer."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from media_callbacks.inbox.keeping.clock import AnchoredClock
from media_callbacks.inbox.operations import Run
from media_callbacks.inbox.sqlite.database import SqliteDatabase, run_now
from media_callbacks.model.errors import InboxUnavailable

_T = TypeVar("_T")


class Reader:
    """A thread that reads, beside the writer; its connection is opened when it is first needed."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection], store_clock: AnchoredClock) -> None:
        self._name = name
        self._connect = connect
        self._clock = store_clock
        self._executor: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def run(self, run: Run[_T]) -> _T:
        """Call with the database, inside a transaction that sees one state of it throughout."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, self._name)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, run)

    def _run(self, run: Run[_T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("BEGIN")
            try:
                return run_now(run(SqliteDatabase(self._connection, self._clock)))
            finally:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise InboxUnavailable(f"cannot read the store: {error}") from error

    async def close(self) -> None:
        """After what is running."""
        if self._executor is not None:
            executor, self._executor = self._executor, None
            await asyncio.to_thread(executor.shutdown)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
