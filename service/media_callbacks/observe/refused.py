"""
The last requests that were refused, in memory until somebody keeps them (``upkeep.activity``).

Whoever finds the address can have any number refused, so of those that are alike (one source, one reason) the first few
since the last look are noted. To note one costs next to nothing, and there is always room for the first of a kind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from media_callbacks.sources.base import Callback

MAX_ALIKE = 3
MAX_BODY_BYTES = 8 * 1024
# What is longer is refused for it.
MAX_HEAD_BYTES = 16 * 1024
MAX_PATH_BYTES = 1000
# Beyond the first of each kind.
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """
    Attributes:
        source: Its name; ``none`` where no source listens.
        status, reason, detail: What it was answered, and why, as in the log.
        callback: With as much of head and body as is noted. It may be genuine and is a secret.
        is_whole: Whether that is all of it.
    """

    source: str
    refused_at: datetime
    status: int
    reason: str
    detail: str
    callback: Callback
    is_whole: bool


class RefusedRequests:
    """
    Args:
        clock: The time in UTC.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._alike: dict[tuple[str, str], list[RefusedRequest]] = {}
        self._bytes = 0

    def note(self, source: str, status: int, reason: str, detail: str, callback: Callback, *, is_whole: bool) -> None:
        alike = self._alike.setdefault((source, reason), [])
        if len(alike) >= MAX_ALIKE:
            return
        head_bytes = len(callback.raw_path) + len(callback.query)
        head_bytes += sum(len(name) + len(value) for name, value in callback.headers)
        body = callback.body[:MAX_BODY_BYTES]
        if alike and self._bytes + head_bytes + len(body) > MAX_BYTES:
            return
        noted = Callback(callback.method, callback.raw_path, callback.query, callback.headers, body)
        if head_bytes > MAX_HEAD_BYTES:
            noted = Callback(callback.method, callback.raw_path[:MAX_PATH_BYTES], b"", (), b"")
        self._bytes += min(head_bytes, MAX_HEAD_BYTES) + len(body)
        is_whole = is_whole and head_bytes <= MAX_HEAD_BYTES and len(body) == len(callback.body)
        alike.append(RefusedRequest(source, self._clock(), status, reason, detail, noted, is_whole))

    def take(self) -> Mapping[tuple[str, str], list[RefusedRequest]]:
        """What was noted since the last time, by source and reason, oldest first."""
        taken, self._alike, self._bytes = self._alike, {}, 0
        return taken
