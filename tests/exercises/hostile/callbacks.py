"""Genuine callbacks at a steady pace, on connections that stay and on new ones. None of them may be refused."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.exercises.hostile.victim import Victim
from tests.factories.running import PATIENCE_S, build_payload, encode, read_answer, sign

# The last callbacks of a measurement are waited for.
_CONNECTIONS = 8


@dataclass
class Stream:
    """
    Attributes:
        latencies_s: From when a callback fell due to its answer.
    """

    victim: Victim
    latencies_s: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    def quantile_s(self, q: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(int(len(ordered) * q), len(ordered) - 1)]

    async def more(self, count: int) -> None:
        """Wait until so many further ones were answered."""
        wanted = len(self.latencies_s) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.latencies_s) < wanted:
                self._answered.clear()
                await self._answered.wait()

    async def send_on_one_connection(self, interval_s: float, *, stays: bool) -> None:
        host, port = self.victim.address.split(":")
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        due_at = time.monotonic()
        try:
            while True:
                await asyncio.sleep(max(0.0, due_at - time.monotonic()))
                if writer is None or reader is None:
                    reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(self._make())
                try:
                    answer = await read_answer(reader)
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    answer = None
                    self.refused.append(type(error).__name__)
                if answer is None:
                    self.refused.append("closed")
                elif answer.status != 200:
                    self.refused.append(str(answer.status))
                self.latencies_s.append(time.monotonic() - due_at)
                self._answered.set()
                if not stays or answer is None:
                    writer.transport.abort()
                    reader = writer = None
                # Those that fell due while this one was waited for are sent at once, so that waiting counts.
                due_at += interval_s
        finally:
            if writer is not None:
                writer.transport.abort()

    def _make(self) -> bytes:
        job_id = f"genuine-{next(self._numbers)}"
        now = datetime.now(UTC)
        return encode(sign(self.victim.source, build_payload(self.victim.source, job_id), job_id=job_id, now=now))


@asynccontextmanager
async def streaming(victim: Victim, *, rate: float) -> AsyncIterator[Stream]:
    """Callbacks beside whatever the block does. None may be refused."""
    stream = Stream(victim)
    interval_s = _CONNECTIONS / rate
    tasks = [
        asyncio.create_task(stream.send_on_one_connection(interval_s, stays=number % 2 == 0))
        for number in range(_CONNECTIONS)
    ]
    try:
        await stream.more(1)
        yield stream
        # It goes on when all is over.
        await stream.more(2 * _CONNECTIONS)
    finally:
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    for error in found:
        if not isinstance(error, asyncio.CancelledError):
            stream.refused.append(repr(error))
    assert stream.refused == []
