"""Lines of the log that must not become too many."""

import logging
import time
from collections.abc import Callable, Hashable

import structlog


class LimitedLog:
    """
    Lines that come as often as callbacks do, so many of a kind at once and then one every few seconds: a flood must not
    fill the disk. The next line of a kind says how many were left out.

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

    def error(self, event: str, kind: Hashable, **fields: object) -> None:
        self._write(logging.ERROR, event, kind, fields)

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
