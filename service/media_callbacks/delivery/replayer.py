"""
The replayer makes deliveries of events that operators ask for again, at the rate that they asked for. The inbox keeps
how far each replay is, so that a stopped service goes on where it was.
"""

from media_callbacks.inbox.roles import ReplayQueue
from media_callbacks.timing.loop import Loop, seconds_until
from media_callbacks.timing.waiting import Wait, wait_for

# How often to look although nobody has called `wake`: for a replay whose instance has died.
POLL_S = 30.0
# After the inbox failed, before it is asked again.
INBOX_RETRY_S = 1.0


class Replayer(Loop):
    """To be woken when a replay was created."""

    def __init__(self, inbox: ReplayQueue, *, wait: Wait = wait_for) -> None:
        super().__init__(self._advance, name="replayer", failure="replay_failed", retry_s=INBOX_RETRY_S, wait=wait)
        self._inbox = inbox

    async def _advance(self) -> float:
        return seconds_until(await self._inbox.advance_replays(), poll_s=POLL_S)
