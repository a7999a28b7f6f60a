"""
What is done again and again in the background, and the one life that all of it has:

    start   a task takes the first step
    wake    the next step comes now; one that is under way is followed by another at once
    stop    the step under way is finished, and no other begins

Between steps it waits for as long as the last one has said. A step that failed is logged, and the next one comes after
a while: whatever it was, the work must go on.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from media_callbacks.timing.waiting import Wait, wait_for

# Who always has something to do just now does not keep everybody else from theirs.
MIN_WAIT_S = 0.01

log = structlog.get_logger()


class Loop:
    """
    Args:
        step: Returns for how many seconds there is nothing to do unless somebody wakes it; 0 to go on at once, None
            when only waking brings something.
        name: The task's.
        failure: What is logged, as an error, when a step fails.
        retry_s: How long nothing is tried after that, woken or not.
        wait: How to wait for an event with a time-out in seconds.
        about: What else that line says.

    Attributes:
        stopping: Set by ``stop``, for steps that wait for something themselves.
    """

    def __init__(
        self,
        step: Callable[[], Awaitable[float | None]],
        *,
        name: str,
        failure: str,
        retry_s: float,
        wait: Wait = wait_for,
        **about: str,
    ) -> None:
        self._step = step
        self._name = name
        self._failure = failure
        self._retry_s = retry_s
        self._wait = wait
        self._about = about
        self._woken = asyncio.Event()
        self.stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_woken(self) -> bool:
        """Whether somebody has called since the step under way began."""
        return self._woken.is_set()

    def start(self, *, after_s: float = 0.0) -> None:
        """Begin, with the first step after so many seconds unless woken."""
        self._task = asyncio.create_task(self._run(after_s), name=self._name)

    def wake(self) -> None:
        self._woken.set()

    async def stop(self) -> None:
        """May come twice, and without ``start``. To cancel it is to cancel the step."""
        self.stopping.set()
        self._woken.set()
        if self._task is not None:
            await self._task

    async def _run(self, after_s: float) -> None:
        if after_s:
            await self._wait(self._woken, after_s)
        while not self.stopping.is_set():
            self._woken.clear()
            try:
                wait_s = await self._step()
            except Exception as error:  # noqa: BLE001 - see above
                log.error(self._failure, **self._about, error=f"{type(error).__name__}: {error}")
                await self._wait(self.stopping, self._retry_s)
                continue
            if wait_s is None:
                await self._woken.wait()
            elif wait_s > 0:
                await self._wait(self._woken, wait_s)


def seconds_until(due_in_s: float | None, *, poll_s: float) -> float:
    """How long to wait for what is due then, or for what others may bring, which is looked for every ``poll_s``."""
    return poll_s if due_in_s is None else min(max(due_in_s, MIN_WAIT_S), poll_s)
