"""
The replayer makes deliveries of events that operators ask for again, at the rate that they asked for. The inbox keeps
how far each replay is, so that a stopped service goes on where it was.
"""

import asyncio

import structlog

from media_callbacks.inbox.roles import ReplayQueue
from media_callbacks.timing.waiting import Wait, wait_for

# How often to look although nobody has called `wake`: for a replay whose instance has died.
POLL_S = 30.0
# After the inbox failed, before it is asked again.
INBOX_RETRY_S = 1.0
# An inbox that always has something to do just now does not keep everybody else from theirs.
MIN_WAIT_S = 0.01

log = structlog.get_logger()


class Replayer:
    """
    Args:
        wait: How to wait for an event with a time-out in seconds.
    """

    def __init__(self, inbox: ReplayQueue, *, wait: Wait = wait_for) -> None:
        self._inbox = inbox
        self._wait = wait
        self._changed = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="replayer")

    def wake(self) -> None:
        """A replay was created: begin it now."""
        self._changed.set()

    async def stop(self) -> None:
        """Finish the step that is under way. May come twice, and without ``start``."""
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stopping:
            self._changed.clear()
            try:
                left_s = await self._inbox.advance_replays()
            except Exception as error:  # noqa: BLE001 - replays must go on after whatever it was
                log.error("replay_failed", error=f"{type(error).__name__}: {error}")
                wait_s = INBOX_RETRY_S
            else:
                wait_s = POLL_S if left_s is None else min(max(left_s, MIN_WAIT_S), POLL_S)
            if not self._stopping:
                await self._wait(self._changed, wait_s)
