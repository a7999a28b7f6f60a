"""An event loop whose time passes when there is nothing else to do, and on which a process can die at any step."""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any, cast

from media_callbacks.delivery import dispatcher, replayer
from media_callbacks.healing import reconciler
from media_callbacks.upkeep import clock_watch
from tests.exercises.simulation.threads import HUB, LIFE, Life

# A step that takes no time is one that others can't come between; nothing takes none.
TICK_S = 1e-6
# Whoever waits exactly so long, or longer than that, only looks whether something has come.
_LOOKS_S = frozenset({dispatcher.POLL_S, reconciler.POLL_S, replayer.POLL_S, clock_watch.INTERVAL_S, 30})
_LONG_S = 600.0
# How much later he looks when nobody knows of anything that he would find.
PATIENCE_S = 6 * 3600.0
# Who waits, in a task whose name ends so, tries again what could not be written.
RECORDER = "-recorder"
# And not while so much goes on that the next step comes sooner.
_HURRY_S = 1.0


class _NoSelector:
    def close(self) -> None: ...


class Stuck(Exception):
    """Nothing will ever happen any more."""


class _Handle:
    """An ``asyncio.TimerHandle`` with no more than is needed: there are some ten thousand in a week."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "when_s")

    def __init__(self, callback: Any, args: tuple[Any, ...], context: Context, when_s: float) -> None:
        self.callback, self.args, self.context, self.when_s = callback, args, context, when_s
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s


class SimulatedLoop(asyncio.BaseEventLoop):
    """
    ``asyncio`` with the order that it promises, in one thread, without sockets, signals or real time.

    Attributes:
        steps, tasks: How many callbacks have run, and tasks were begun.
        find_due: When those who only look will find something, by the names of their tasks, in the loop's time. Nobody
            looks before that without need: so a week of looking costs little.
        watch: Called after each step while it is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._time = 0.0
        self._next: deque[_Handle] = deque()
        # By when, and then in the order in which they were set.
        self._timers: list[tuple[float, int, _Handle]] = []
        self._set = 0
        # Who only looks, and by the name of which task.
        self._patient: list[tuple[float, int, _Handle, str]] = []
        # Nobody of them does before.
        self._first_look = math.inf
        # When the first one does, by what was due then.
        self._looks_at = 0.0
        self._due: Mapping[str, float] | None = None
        self._selector = _NoSelector()
        self.steps = self.tasks = self._frozen = 0
        self.find_due: Callable[[], Mapping[str, float]] = dict
        self.watch: Callable[[], None] | None = None
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._time

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """A ``timing.waiting.Wait`` of somebody who only looks for news when the time is over."""
        if event.is_set():
            return
        future = self.create_future()
        handle = _Handle(_end_wait, (future,), copy_context(), self._time + timeout_s)
        task = asyncio.current_task()
        assert task is not None
        name = task.get_name()
        if timeout_s in _LOOKS_S or timeout_s > _LONG_S or name.endswith(RECORDER):
            self._set += 1
            self._patient.append((handle.when_s, self._set, handle, name))
            self._first_look, self._due = min(self._first_look, handle.when_s), None
        else:
            self._set_timer(handle)
        waiters = event._waiters
        waiters.append(future)
        try:
            await future
        finally:
            handle.is_cancelled = True
            waiters.remove(future)

    def look(self) -> None:
        """Something has changed that nobody tells of: whoever only looks does so in his time."""
        for when, number, handle, _ in self._patient:
            heapq.heappush(self._timers, (when, number, handle))
        self._patient.clear()
        self._first_look = math.inf

    # What asyncio asks of a loop

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = _Handle(callback, args, copy_context() if context is None else context, self._time)
        self._next.append(handle)
        return cast(asyncio.Handle, handle)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = _Handle(callback, args, copy_context() if context is None else context, when)
        self._set_timer(handle)
        return cast(asyncio.TimerHandle, handle)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def _set_timer(self, handle: _Handle) -> None:
        self._set += 1
        heapq.heappush(self._timers, (handle.when_s, self._set, handle))

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

        if executor is None:
            HUB.start(run)
        else:
            # What reads the store does so in one go, and needs no thread of its own for that.
            HUB.later(HUB.latency(), run)
        return future

    def _run_once(self) -> None:
        ready = self._next
        if not ready:
            self._advance()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.is_cancelled:
                continue
            context = handle.context
            if (life := context.get(LIFE)) is not None:
                if life.is_over:
                    continue
                if life.frozen_until > self._time:
                    self._thaw(handle, life)
                    continue
            self.steps += 1
            try:
                context.run(handle.callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does
                self.call_exception_handler({"message": f"{handle.callback} has failed", "exception": error})
            if self.watch is not None:
                self.watch()

    def _thaw(self, handle: _Handle, life: Life) -> None:
        """Later, one after the other in the same order."""
        self._frozen += 1
        self.call_at(life.frozen_until + self._frozen * 1e-9, self._next.append, handle, context=Context())

    def _advance(self) -> None:
        """To the next moment at which somebody has something to do."""
        timers = self._timers
        while timers and _is_gone(timers[0][2]):
            heapq.heappop(timers)
        until = timers[0][0] if timers else math.inf
        if self._patient and self._first_look <= until and until - self._time > _HURRY_S:
            self._move_patient(until)
        if not timers:
            raise Stuck
        now = timers[0][0]
        self._time = max(self._time, now)
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            if not handle.is_cancelled:
                self._next.append(handle)
        self._time += TICK_S

    def _move_patient(self, until: float) -> None:
        """Of those who only look, whoever will find something until then is to look."""
        due = self.find_due()
        if due is self._due and self._looks_at > until:
            return
        self._due, self._patient = due, [one for one in self._patient if not _is_gone(one[2])]
        looks_at = [max(when, self._time, due.get(name, when + PATIENCE_S)) for when, _, _, name in self._patient]
        self._looks_at = first = min(looks_at, default=math.inf)
        if first <= until:
            for at, one in zip(looks_at, self._patient, strict=True):
                if at <= first:
                    heapq.heappush(self._timers, (at, *one[1:3]))
            self._patient = [one for at, one in zip(looks_at, self._patient, strict=True) if at > first]
            self._due = None
        self._first_look = min([when for when, *_ in self._patient], default=math.inf)

    def close(self) -> None:
        self._next.clear()
        self._timers.clear()
        self._patient.clear()
        super().close()

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...


def _end_wait(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_result(None)


def _is_gone(handle: _Handle) -> bool:
    life: Life | None = handle.context.get(LIFE)
    return handle.is_cancelled or (life is not None and life.is_over)


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
