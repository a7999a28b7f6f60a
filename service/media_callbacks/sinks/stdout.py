"""
The ``stdout`` sink: one JSON line per event, for a pipe or a log collector.

A pipe whose reader does not read blocks its writer, and a blocked event loop would stop everything else. So lines are
written in a thread. A thread that is stuck can't be ended: it is a daemon, so that it does not hold up the exit, and
while it lives no other line is begun.
"""

import asyncio
import io
import re
import select
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from media_callbacks.model.errors import SinkError, SinkRetry
from media_callbacks.model.events import Delivery

# What a terminal obeys or hides behind, in UTF-8: DEL and C1 controls, marks and overrides of direction, separators of
# lines. JSON itself escapes the C0 controls.
_UNSEEN = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def build_line(delivery: Delivery) -> bytes:
    """
    The event on one line, with what is not to be seen of it written out. In JSON a raw line break can only stand
    between tokens, where a space means the same, and the others only in strings, where an escape does.
    """
    line = delivery.body.replace(b"\r", b" ").replace(b"\n", b" ")
    return _UNSEEN.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line) + b"\n"


@dataclass(slots=True)
class _Writing:
    """
    Lines that a thread writes while the event loop looks on.

    Attributes:
        stream: Where to; the sink may have been closed before the thread gets to it.
        written: How many lines are out. Set by the thread.
        error: Why it ended early. Set by the thread.
        abandoned: Nobody waits any more; begin no further line. Set by the event loop.
    """

    stream: Any
    lines: list[bytes]
    written: int = 0
    error: Exception | None = None
    abandoned: bool = False


class StdoutSink:
    """
    A sink of kind ``stdout``.

    Args:
        stream: Text or binary; standard output as it is at ``open`` when not given. It is never closed.
        timeout_s: How long a reader may leave the pipe full.
    """

    batch_size = 100
    concurrency = 1

    def __init__(self, name: str, stream: IO[bytes] | IO[str] | None = None, *, timeout_s: float = 15.0) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._given = stream
        self._stream: Any = None
        self._turn = asyncio.Lock()
        self._torn = False

    async def open(self) -> None:
        self._stream = sys.stdout.buffer if self._given is None else self._given

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        assert self._stream is not None, "open() comes before send()"
        job = _Writing(self._stream, [build_line(delivery) for delivery in deliveries])
        failure = SinkRetry(f"standard output took nothing more within {self.timeout_s:g} s: its reader is stuck")
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._turn.acquire()
                await self._start(job)
        except TimeoutError:
            pass  # what was written until now counts
        finally:
            job.abandoned = True
        if job.error is not None:
            failure = SinkRetry(f"standard output can't be written: {_explain(job.error)}")
        return [None if position < job.written else failure for position in range(len(deliveries))]

    async def close(self) -> None:
        self._stream = None

    def _start(self, job: _Writing) -> asyncio.Future[None]:
        """The turn, taken by the caller, is given back when the thread has ended and not when the caller gave up."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            self._turn.release()
            if not finished.done():
                finished.set_result(None)

        def run() -> None:
            self._write_lines(job)
            try:
                loop.call_soon_threadsafe(finish)
            except RuntimeError:
                pass  # the loop was closed long ago; nobody needs the turn

        try:
            threading.Thread(target=run, name=f"sink-{self.name}", daemon=True).start()
        except RuntimeError as error:  # no more threads to be had
            job.error = error
            finish()
        return finished

    def _write_lines(self, job: _Writing) -> None:
        stream = job.stream
        try:
            stream.flush()
            for line in job.lines:
                if job.abandoned:
                    return
                # A line that broke off is ended first, so that it spoils no other.
                self._write(stream, b"\n" + line if self._torn else line)
                job.written += 1
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            job.error = error

    def _write(self, stream: Any, line: bytes) -> None:
        # Below the buffers: what a failed write leaves there would come out later, or fail again at exit.
        binary = getattr(stream, "buffer", stream)
        raw = getattr(binary, "raw", binary)
        if isinstance(raw, io.TextIOBase):
            raw.write(line.decode())
            raw.flush()
            return
        rest = memoryview(line)
        while rest:
            count = raw.write(rest)
            if count is None:
                # Somebody made the descriptor non-blocking, which it is then for everyone: wait for room.
                room = select.poll()
                room.register(raw, select.POLLOUT)
                room.poll()
                continue
            rest = rest[count:]
            self._torn = bool(rest)


def _explain(error: Exception) -> str:
    if isinstance(error, BrokenPipeError):
        return "its reader is gone (EPIPE)"
    detail = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__
