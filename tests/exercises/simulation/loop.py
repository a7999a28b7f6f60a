"""An event loop whose time passes when there is nothing else to do, and on which a process can die at any step."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, cast

from media_callbacks.delivery import dispatcher, replayer
from media_callbacks.healing import reconciler
from media_callbacks.timing.waiting import wait_for
from media_callbacks.upkeep import clock_watch
from tests.exercises.simulation.threads import HUB, LIFE, Life

# A step that takes no time is one that others can't come between; nothing takes none.
TICK_S = 1e-6
# Whoever waits exactly so long, or longer than that, only looks whether something has come.
_LOOKS_S = frozenset({dispatcher.POLL_S, reconciler.POLL_S, replayer.POLL_S, clock_watch.INTERVAL_S, 30})
_LONG_S = 600.0
_LOOKS_EVERY = 50


class _NoSelector:
    def close(self) -> None: ...


class Stuck(Exception):
    """Nothing will ever happen any more."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """
    ``asyncio`` with the order that it promises, in one thread, without sockets, signals or real time.

    Attributes:
        steps, tasks: How many callbacks have run, and tasks were begun.
        horizon: Until when nothing but looking for news will happen in the processes, in the loop's time. Waits of
            those who only look may end that late: so a week of looking costs little.
        watch: Called after each step while it is set.
    """

    # What BaseEventLoop has and its types do not show.
    _ready: "deque[Any]"
    _scheduled: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self._time = 0.0
        self._patient: list[Any] = []
        self._is_patient = False
        self._selector = _NoSelector()
        self.steps = self.tasks = self._frozen = self._advances = 0
        self.horizon: Callable[[], float] = lambda: 0.0
        self.watch: Callable[[], None] | None = None
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._time

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """A ``timing.waiting.Wait`` of somebody who only looks for news when the time is over."""
        self._is_patient = timeout_s in _LOOKS_S or timeout_s > _LONG_S
        await wait_for(event, timeout_s)

    # What asyncio asks of a loop

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        timer: Any = asyncio.TimerHandle(when, callback, args, self, context)
        waiting, self._is_patient = (self._patient if self._is_patient else self._scheduled), False
        heapq.heappush(waiting, timer)
        timer._scheduled = True
        return cast(asyncio.TimerHandle, timer)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        HUB.start(run)
        return future

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._advance()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if (life := handle._context.get(LIFE)) is not None:
                if life.is_over:
                    continue
                if life.frozen_until > self._time:
                    self._thaw(handle, life)
                    continue
            self.steps += 1
            handle._run()
            if self.watch is not None:
                self.watch()

    def _thaw(self, handle: asyncio.Handle, life: Life) -> None:
        """Later, in the same order."""
        self._frozen += 1
        self.call_at(life.frozen_until + self._frozen * 1e-9, self._ready.append, handle, context=Context())

    def _advance(self) -> None:
        """To the next moment at which somebody has something to do."""
        sooner, later = _first(self._scheduled), _first(self._patient)
        if sooner is None and later is None:
            raise Stuck
        self._advances += 1
        now, waiting = sooner, [self._scheduled]
        if later is not None and (sooner is None or later < sooner):
            news = max(later, self.horizon())
            # Now and then they look although there is nothing: what they do then is no accident, either.
            if sooner is None or news < sooner or self._advances % _LOOKS_EVERY == 0:
                now, waiting = news if sooner is None else min(news, sooner), [self._scheduled, self._patient]
        assert now is not None
        self._time = max(self._time, now)
        for timers in waiting:
            while timers and timers[0]._when <= now:
                timer = heapq.heappop(timers)
                timer._scheduled = False
                if not timer._cancelled:
                    self._ready.append(timer)
        self._time += TICK_S

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...


def _first(timers: list[Any]) -> float | None:
    while timers and (timers[0]._cancelled or _is_dead(timers[0])):
        heapq.heappop(timers)
    return timers[0]._when if timers else None


def _is_dead(handle: Any) -> bool:
    life: Life | None = handle._context.get(LIFE)
    return life is not None and life.is_over


class _Task(asyncio.Task[Any]):
    """Which is in sets by its number, not by where it lies in memory: so their order is always the same."""

    def __init__(self, coroutine: Any, *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, *, context: Context | None = None, **options: Any
) -> "asyncio.Task[Any]":
    assert isinstance(loop, SimulatedLoop)
    loop.tasks += 1
    task = _Task(coroutine, number=loop.tasks, loop=loop, context=context, **options)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    if (life := LIFE.get() if context is None else context.get(LIFE)) is not None:
        life.tasks.append(task)
    return task
