"""
Logs: one JSON object per line on standard error, with stable keys.

One line per callback and one per attempt. A line never holds a body, a signature, a token, a header or a secret path
segment: what is logged is chosen by name, and nothing is logged that a caller sent, except the vendor's name of an
event and ids, cut to a bounded length.
"""

import asyncio
import atexit
import logging
import sys
import time
from collections.abc import Callable, Hashable
from typing import Any, BinaryIO

import structlog
from pydantic_core import to_json

from media_callbacks.timing.clock import utc_now


class _Lines:
    """
    structlog's last link. What an event loop writes in one turn goes out in one system call, which for callbacks that
    were committed together is a good part of what their lines cost. Elsewhere each line goes at once.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self._lines.append(line)
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()

    debug = info = warning = error = critical = write

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._file.write(b"\n".join([*lines, b""]))
            self._file.flush()


def _render(_: object, method: str, event: Any) -> bytes:
    # One step and this serializer: a line for every callback takes half the time that the usual chain takes.
    event["level"] = method
    event["at"] = utc_now()
    return to_json(event, fallback=str)


def _render_text(logger: object, method: str, event: Any) -> str:
    return _render(logger, method, event).decode()


def configure_logs(level: str = "info") -> None:
    """Send structlog and the standard library's loggers through one JSON renderer to standard error."""
    lines = _Lines(sys.stderr.buffer)
    atexit.register(lines.flush)
    structlog.configure(
        processors=[_render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _render_text,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries speak at warning; their debug and info lines may hold headers.
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True


class LimitedLog:
    """
    Lines that anybody on the network can cause, so many of a kind at once and then one every few seconds: a flood must
    not fill the disk. The next line of a kind says how many were left out; the metrics count them all.

    Args:
        burst: How many lines of a kind may come at once.
        every_s: After how long another one may.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self, *, burst: int = 50, every_s: float = 2.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._every_s = every_s
        self._monotonic = monotonic
        # Lines that may come, since when, and how many were left out.
        self._kinds: dict[Hashable, tuple[float, float, int]] = {}
        self._log = structlog.get_logger()

    def info(self, event: str, kind: Hashable, **fields: object) -> None:
        self._write(logging.INFO, event, kind, fields)

    def warning(self, event: str, kind: Hashable, **fields: object) -> None:
        """
        Args:
            kind: From a fixed set, for each is remembered.
        """
        self._write(logging.WARNING, event, kind, fields)

    def _write(self, level: int, event: str, kind: Hashable, fields: dict[str, object]) -> None:
        now = self._monotonic()
        left, since, omitted = self._kinds.get((event, kind), (self._burst, now, 0))
        left = min(left + (now - since) / self._every_s, self._burst)
        if left < 1:
            self._kinds[event, kind] = left, now, omitted + 1
            return
        self._kinds[event, kind] = left - 1, now, 0
        if omitted:
            fields["omitted"] = omitted
        self._log.log(level, event, **fields)
