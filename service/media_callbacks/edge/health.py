"""Whether this instance lives, and whether it should get callbacks."""

import asyncio
import json
from collections.abc import Callable

import structlog

from media_callbacks.edge.answers import Answer, make_answer
from media_callbacks.inbox.roles import HealthCheck
from media_callbacks.model.errors import ConfigError, Unavailable

_log = structlog.get_logger()


class Readiness:
    """
    Whether this instance should get callbacks: something was made durable a moment ago, and it is not stopping.

    Args:
        monotonic: Seconds that only grow.
    """

    # The endpoint is public: asking often must not make the disk busy.
    _CHECK_EVERY_S = 1.0

    def __init__(self, inbox: HealthCheck, *, monotonic: Callable[[], float]) -> None:
        self._inbox = inbox
        self._monotonic = monotonic
        self._checked_at = float("-inf")
        # Whoever asks while the first check is under way gets no promise.
        self._problem: str | None = "not checked yet"
        self.is_draining = False

    async def problem(self) -> str | None:
        """Why not, or None."""
        if self.is_draining:
            return "draining"
        if self._monotonic() - self._checked_at >= self._CHECK_EVERY_S:
            self._checked_at = self._monotonic()
            try:
                async with asyncio.timeout(5):
                    await self._inbox.check()
                self._problem = None
            except (Unavailable, ConfigError, TimeoutError) as error:
                _log.warning("not_ready", error=str(error))
                self._problem = "store unavailable"
        return self._problem

    async def live(self) -> Answer:
        return _status("ok")

    async def ready(self) -> Answer:
        return _status(await self.problem() or "ok")


def _status(text: str) -> Answer:
    body = json.dumps({"status": text}, separators=(",", ":")).encode()
    return make_answer(200 if text == "ok" else 503, body, media_type="application/json")
