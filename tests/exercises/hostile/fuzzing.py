"""
``python -m tests.exercises.hostile.fuzzing``: a million requests that nobody has thought of, against a running service: genuine
ones mutated as HTTP, genuinely signed ones whose bodies are mutated, and the same at the operators' listener. Exit code
1 when one of them was answered as a failure of the service, was left without an answer, or what the service said or took
shows a defect.

The seed is printed. Request ``n`` of a seed is the same each time, so ``--seed S --first n --requests 1`` sends it again.
"""

import argparse
import asyncio
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from media_callbacks.config.settings import build_settings
from media_callbacks.sources.base import CallbackSource
from tests.exercises.hostile.attacks import Listener
from tests.exercises.hostile.mutations import Bodies, Fuzzed, Operations, Requests
from tests.exercises.hostile.victim import Victim, attacked
from tests.factories.running import (
    PATIENCE_S,
    SOURCES,
    WEBHOOK_SECRET,
    connected,
    encode,
    encode_request,
    make_source,
    make_tables,
    read_answer,
    sign,
)

AT_ONCE = 64
# Nothing is at their address. They want little of what comes, or the service would be busy with them.
SINKS = {
    name: {
        "kind": "webhook",
        "url": "http://127.0.0.1:9/",
        "secrets": [WEBHOOK_SECRET],
        "match": {"vendor_event": event},
    }
    for name, event in (("orders", "DynamicImageComplete"), ("others", "CreateGifTask"))
}
# In the log; what is to be reported is a defect of a parser, which is answered with success.
_REPORT = "please report it"
_DEFECTS = re.compile(rb'Traceback|"callback_failed"|' + _REPORT.encode() + rb'|"level":"(?:error|critical)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_STATUS_LINE = b"HTTP/1.1 "
_SHOWN_BYTES = 2000
_PAUSE_S = 0.01


class Failure(Exception):
    """
    What a request has shown, or what the service has said.

    Attributes:
        body: Of the request, where no more is known of it.
    """

    def __init__(self, what: str, request: Fuzzed | None = None) -> None:
        super().__init__(what)
        self.request = request
        self.body: bytes | None = None


@dataclass
class Tally:
    """What came of the requests."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    lines: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.answers.total()

    def __str__(self) -> str:
        counts = sorted(self.answers.items())
        told = [f"{self.total:,} requests in {self.seconds:.0f} s, {self.total / self.seconds:,.0f} a second"]
        for kind in dict.fromkeys(kind for (kind, _), _ in counts):
            found = [f"{count:,} × {answer}" for (each, answer), count in counts if each == kind]
            told.append(f"  {kind:10} {', '.join(found)}")
        return "\n".join(told)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = bytearray()
        self.is_closed = False
        self._changed: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not looked at: uvloop's are no subclass of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def more(self) -> None:
        """Wait until something came, be it the end."""
        if not self.is_closed:
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed


def _take_answer(received: bytearray) -> tuple[int, bool] | None:
    """Status of the next answer, and whether it is the last one. None while it is not there in full."""
    while (end := received.find(b"\r\n\r\n")) >= 0:
        head = bytes(received[:end])
        if not head.startswith(_STATUS_LINE):
            raise Failure(f"this is no answer: {bytes(received[:200])!r}")
        status = int(head[9:12])
        if status == 100:
            del received[: end + 4]
            continue
        length = _LENGTH.search(head)
        stop = end + 4 + (int(length[1]) if length else 0)
        if _CHUNKED.search(head):
            # As uvicorn itself refuses what is not HTTP: one short text.
            stop = received.find(_LAST_CHUNK, end) + len(_LAST_CHUNK)
            if stop < len(_LAST_CHUNK):
                return None
        if received[end + 4 : end + 4 + len(_STATUS_LINE)] == _STATUS_LINE:
            # To HEAD.
            stop = end + 4
        if len(received) < stop:
            return None
        del received[:stop]
        return status, _CLOSES.search(head) is not None
    return None


class Log:
    """What the service has written since it was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._part = b""
        self.lines = 0

    def check(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._position)
            while data := file.read(1 << 20):
                self._position += len(data)
                # The last line may not be there in full.
                whole, ended, part = data.rpartition(b"\n")
                lines = self._part + whole + ended
                self._part = part if ended else self._part + part
                if not ended:
                    continue
                self.lines += lines.count(b"\n")
                if found := _DEFECTS.search(lines):
                    begin = lines.rfind(b"\n", 0, found.start()) + 1
                    raise Failure("the log says: " + lines[begin : begin + _SHOWN_BYTES].decode("utf-8", "replace"))


class Fuzzing:
    """
    Requests from ``first`` on, many at a time.

    Args:
        make: Gives a request by its number.
        waits: Requests that say nothing of their end are left to the service's deadlines.
        told: Called with a line about how far it is.
    """

    def __init__(
        self,
        victim: Victim,
        make: Callable[[int], Fuzzed],
        *,
        first: int,
        count: int,
        waits: bool,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._victim = victim
        self._make = make
        self._numbers = iter(range(first, first + count))
        # From here on memory may not grow: caches are full by then.
        self._settled = first + max(count // 20, min(2000, count // 2))
        self._last = first
        self._waits = waits
        self._told = told
        self._log = Log(victim.log)
        self._left_open: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    async def run(self) -> Tally:
        """
        Raises:
            ExceptionGroup: Of failures.
        """
        began_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            await asyncio.wait([group.create_task(self._send_all(group)) for _ in range(AT_ONCE)])
            self.tally.seconds = time.monotonic() - began_at
            if self._left_open:
                await asyncio.wait(self._left_open)
            watching.cancel()
        self._log.check()
        self.tally.lines = self._log.lines
        return self.tally

    async def _watch(self) -> None:
        told_at, before = time.monotonic(), 0
        while True:
            await asyncio.sleep(0.5)
            try:
                self._log.check()
            except Failure as failure:
                # An answer may tell which request it was, and is waited for.
                await asyncio.sleep(1)
                found = Failure(f"{failure}\nthe last request before it was known: {self._last}")
                found.body = find_body(self._victim)
                raise found from None
            passed_s, done = time.monotonic() - told_at, self.tally.total
            if passed_s > 10:
                memory = self._victim.memory_bytes() >> 20
                self._told(f"{done:,} requests, {(done - before) / passed_s:,.0f} a second; memory {memory} MiB")
                told_at, before = time.monotonic(), done

    async def _send_all(self, group: asyncio.TaskGroup) -> None:
        """On one connection, for as long as it stays, and on others for what may end it."""
        kept: dict[Listener, _Connection] = {}
        try:
            for number in self._numbers:
                self._last = number
                if number == self._settled:
                    self._victim.remember_memory()
                request = self._make(number)
                if request.statuses is not None:
                    await self._send_whole(request, request.statuses, kept)
                elif request.stays_open and self._waits:
                    self._left_open.add(task := group.create_task(self._send_anything(request)))
                    task.add_done_callback(self._left_open.discard)
                else:
                    await self._send_anything(request)
        finally:
            for connection in kept.values():
                connection.transport.abort()

    async def _send_whole(self, request: Fuzzed, statuses: frozenset[int], kept: dict[Listener, _Connection]) -> None:
        listener = request.listener
        with self._blaming(request):
            async with asyncio.timeout(PATIENCE_S):
                connection = kept.get(listener)
                if connection is None or connection.is_closed:
                    connection = kept[listener] = await self._connect(listener)
                await self._write(connection, request)
                while (answer := _take_answer(connection.received)) is None:
                    if connection.is_closed:
                        raise Failure("the connection was closed without an answer")
                    await connection.more()
            status, is_last = answer
            if status not in statuses:
                raise Failure(f"it was answered {status}, expected any of {', '.join(map(str, sorted(statuses)))}")
            if connection.received:
                raise Failure(f"more than one answer came: {bytes(connection.received[:200])!r}")
        self.tally.answers[request.kind, str(status)] += 1
        if is_last:
            kept.pop(listener).transport.abort()

    async def _send_anything(self, request: Fuzzed) -> None:
        """What ends where nobody knows: all that is certain is that it comes to an end."""
        with self._blaming(request):
            async with asyncio.timeout(PATIENCE_S):
                connection = await self._connect(request.listener)
                try:
                    await self._write(connection, request)
                    if not (request.stays_open and self._waits) and not connection.transport.is_closing():
                        # It may have been reset, which is heard of afterwards.
                        with suppress(OSError):
                            connection.transport.write_eof()
                    first = None
                    while True:
                        while answer := _take_answer(connection.received):
                            first = first or answer[0]
                            if answer[0] >= 500:
                                raise Failure(f"it was answered {answer[0]}")
                        if connection.is_closed or (first and request.stays_open):
                            break
                        await connection.more()
                finally:
                    connection.transport.abort()
        self.tally.answers[request.kind, str(first or "closed")] += 1

    async def _connect(self, listener: Listener) -> _Connection:
        host, _, port = self._victim.addresses[listener].rpartition(":")
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, int(port))
        return connection

    @staticmethod
    async def _write(connection: _Connection, request: Fuzzed) -> None:
        for number, piece in enumerate(request.pieces):
            if number:
                # So that it is not put together with the one before.
                await asyncio.sleep(_PAUSE_S if request.pauses else 0)
            if not connection.transport.is_closing():
                connection.transport.write(piece)

    @contextmanager
    def _blaming(self, request: Fuzzed) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            failure.request = request
            raise
        except (OSError, TimeoutError) as error:
            what = f"no answer within {PATIENCE_S:.0f} s" if isinstance(error, TimeoutError) else repr(error)
            raise Failure(what, request) from error


def make_sources(folder: Path) -> dict[str, CallbackSource]:
    settings = build_settings(make_tables(folder, {}), environ={})
    return {name: make_source(name, settings) for name in SOURCES}


async def prepare(victim: Victim, folder: Path, seed: int) -> Requests:
    """Send everything that is genuine once, so that there is something to ask for."""
    sources, bodies = make_sources(folder), Bodies()
    async with connected(victim.address) as (reader, writer):
        for source in sources.values():
            for text in bodies.texts[source.product]:
                writer.write(encode(sign(source, text.encode(), job_id="first")))
                answer = await read_answer(reader)
                assert answer is not None
                assert answer.status == source.success_status
    document = await _ask(victim, "/openapi.json")
    events = (await _ask(victim, "/v1/events?limit=500"))["events"]
    event_ids = sorted(event["id"] for event in events)
    assert len(event_ids) > 50
    return Requests(seed, sources, Operations(document, event_ids, victim.admin_address, bodies))


async def _ask(victim: Victim, target: str) -> Any:
    async with connected(victim.admin_address) as (reader, writer):
        writer.write(encode_request("GET", target, host=victim.admin_address))
        answer = await read_answer(reader, method="GET")
    assert answer is not None
    assert answer.status == 200
    return answer.json()


def find_body(victim: Victim) -> bytes | None:
    """What a parser failed at: it was answered with success, and is kept."""
    with closing(sqlite3.connect(victim.log.parent / "inbox.db")) as connection:
        found = connection.execute(f"SELECT body FROM receipts WHERE reason LIKE '%{_REPORT}%' LIMIT 1").fetchone()
    return None if found is None else bytes(found[0])


def tell(failure: Failure, seed: int, folder: Path) -> str:
    """What is said of a failure; the request is in a file, too."""
    request, data = failure.request, failure.body
    name, about = f"fuzzed-{seed}", "the body of a request"
    if request is not None:
        data = b"".join(request.pieces)
        name = f"fuzzed-{seed}-{request.number}"
        about = f"request {request.number} of seed {seed} ({request.kind}, in {len(request.pieces)} pieces)"
    if data is None:
        return str(failure)
    path = folder / name
    path.write_bytes(data)
    shown = repr(data[:_SHOWN_BYTES]) + ("…" if len(data) > _SHOWN_BYTES else "")
    return f"{failure}\n{about}, all of it in {path}:\n{shown}"


async def run(seed: int, *, first: int, count: int, folder: Path) -> None:
    async with attacked(folder, {"sinks": SINKS}) as victim:
        requests = await prepare(victim, folder, seed)
        fuzzing = Fuzzing(
            victim, requests.make, first=first, count=count, waits=True, told=lambda line: print(line, flush=True)
        )
        tally = await fuzzing.run()
        peak = victim.peak_bytes() >> 20
        print(
            f"{tally}\n{tally.lines:,} lines in the log, memory at most {peak} MiB, {victim.kept_bytes() / 2**20:.1f} more than at first"
        )
        await victim.forgets()
        assert await victim.get("/health/live") == 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.exercises.hostile.fuzzing", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many (default: a million)")
    parser.add_argument("--seed", type=int, help="of all that is chosen (default: a new one)")
    parser.add_argument("--first", type=int, default=0, help="number of the first request (default: 0)")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="media-callbacks-") as folder:
        try:
            uvloop.run(run(seed, first=arguments.first, count=arguments.requests, folder=Path(folder)))
        except* Failure as group:
            told = [tell(failure, seed, Path(tempfile.gettempdir())) for failure in _failures(group)]
            print(*told, sep="\n")
            sys.exit(1)


def _failures(group: BaseExceptionGroup[Failure]) -> Iterator[Failure]:
    for error in group.exceptions:
        if isinstance(error, Failure):
            yield error
        else:
            yield from _failures(error)


if __name__ == "__main__":
    main()
