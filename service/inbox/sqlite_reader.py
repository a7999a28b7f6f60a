"""A thread that reads SQLite, beside the writer."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import InboxUnavailable

_T = TypeVar("_T")


class Reader:
    """A thread with a connection of its own, opened when it is first needed."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._name = name
        self._connect = connect
        self._executor: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def run(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """Call with the connection, inside a transaction that sees one state of the database throughout."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, self._name)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, run)

    def _run(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("BEGIN")
            try:
                return run(self._connection)
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
