"""
What is new to be claimed, told between services by ``NOTIFY``, outside of the transactions that it is about: one that
notifies would make all others that do wait for its flush.

News may be lost with a connection; the dispatchers look by themselves, too.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any

import structlog

from media_callbacks.inbox.postgresql import tasks
from media_callbacks.inbox.postgresql.connecting import connect
from media_callbacks.inbox.postgresql.driver import errors, unavailable

_PROBE_INTERVAL_S = 30.0
# A notification has room for 8000 bytes.
_MAX_NEWS_CHARACTERS = 7000

log = structlog.get_logger()


class News:
    """
    Told and heard over a connection of its own, from when it is made until it is closed.

    Args:
        schema: The services that share it hear each other.
        hear: Called with what other services tell.
    """

    def __init__(self, url: str, schema: str, hear: Callable[[Collection[str]], None]) -> None:
        self._url = url
        self._channel = f"media_callbacks:{schema}"[:63]
        self._hear = hear
        self._names: set[str] = set()
        self._has_names = asyncio.Event()
        self._task = asyncio.create_task(self._exchange())

    def tell(self, names: Collection[str]) -> None:
        self._names.update(names)
        self._has_names.set()

    async def close(self) -> None:
        await tasks.cancel(self._task)

    async def _exchange(self) -> None:
        async for _ in tasks.attempts():
            # Whoever opens an inbox for a moment alone closes it before this has connected. Cancelled then, asyncpg
            # leaves an exception behind that Python shows when nobody retrieves it.
            connecting = asyncio.ensure_future(connect(self._url))
            try:
                connection = await asyncio.shield(connecting)
            except asyncio.CancelledError:
                with contextlib.suppress(*errors()):
                    (await connecting).terminate()
                raise
            except errors():
                continue
            try:
                await self._exchange_on(connection)
            except errors() as error:
                log.warning("store_news_lost", error=str(unavailable(error)))
            finally:
                connection.terminate()

    async def _exchange_on(self, connection: Any) -> None:
        own_id = connection.get_server_pid()

        def hear(_: object, process_id: int, __: str, payload: str) -> None:
            if process_id != own_id:
                self._hear(frozenset(payload.split(",")))

        await connection.add_listener(self._channel, hear)
        connection.add_termination_listener(lambda _: self._has_names.set())
        while not connection.is_closed():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_INTERVAL_S):
                    await self._has_names.wait()
            self._has_names.clear()
            names, self._names = self._names, set()
            for payload in _payloads(names):
                await connection.execute("SELECT pg_notify($1, $2)", self._channel, payload)
            if not names:
                await connection.execute("SELECT 1")


def _payloads(names: Collection[str]) -> list[str]:
    """Names by commas, each text short enough for a notification."""
    payloads: list[str] = []
    for name in sorted(names):
        if payloads and len(payloads[-1]) + len(name) < _MAX_NEWS_CHARACTERS:
            payloads[-1] += f",{name}"
        else:
            payloads.append(name)
    return payloads
