"""
Threads that are none: each is a greenlet, which goes on until it waits for its queue or for the disk. Then the event loop
goes on, in whose time they are woken. And lives: what runs in a process, and dies with it.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, ContextVar, copy_context
from queue import Empty
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from asyncio import Task, TimerHandle

    from tests.exercises.simulation.loop import SimulatedLoop


class Life:
    """
    Of a process, or of one service in it: from its start until it is killed. What runs in its context dies with it.

    Attributes:
        is_over: It was killed, or what it is within.
        frozen_until: Nothing of it goes on before, in the loop's time.
        timers: A context for what its threads and timers do, none of which ever does so within another.
        tasks: All that were begun, so that what has died is not cleaned away, which would run some of it.
    """

    def __init__(self, name: str, within: "Life | None" = None) -> None:
        self.name = name
        self._contents: list[Life] = []
        if within is not None:
            within._contents.append(self)
        self.is_over: bool = within is not None and within.is_over
        self.frozen_until = 0.0
        self.tasks: list[Task[Any]] = []
        self.timers = self.context

    def kill(self) -> None:
        """At once: no step more."""
        self.is_over = True
        for life in self._contents:
            life.kill()

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call within this life."""
        return self.context.run(call, *arguments)

    @property
    def context(self) -> Context:
        """A new one each time: none can be entered twice."""
        context = Context()
        context.run(LIFE.set, self)
        return context


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


class Hub:
    """The greenlet that the loop runs in; all threads come back to it. One simulation at a time."""

    def __init__(self) -> None:
        self._loop: SimulatedLoop
        self._green: greenlet
        self.latency: Callable[[], float]
        # What has died is not cleaned away, which would run some of it.
        self._kept: list[greenlet] = []

    def begin(self, loop: "SimulatedLoop", latency: Callable[[], float]) -> None:
        """
        Args:
            latency: After how long a thread that has something to do goes on, in seconds.
        """
        self._loop, self._green, self.latency, self._kept = loop, getcurrent(), latency, []

    def end(self) -> None:
        self._kept = []

    def start(self, run: Callable[[], None]) -> greenlet:
        green = greenlet(run, parent=self._green)
        green.gr_context = copy_context()
        self._kept.append(green)
        self.soon(green)
        return green

    def soon(self, green: greenlet) -> None:
        """In the life of whoever it is."""
        assert green.gr_context is not None
        self._after(self.latency(), green, green.gr_context.get(LIFE))

    def pause(self, wake: Callable[[greenlet], None]) -> None:
        """In a thread: go on when somebody has called ``soon`` with it."""
        me = getcurrent()
        if me is self._green:
            raise RuntimeError("expected the event loop not to wait for a thread")
        wake(me)
        self._green.switch()

    def sleep(self, seconds: float) -> None:
        """In a thread: the others go on meanwhile."""
        self.pause(lambda me: self._after(seconds, me, LIFE.get()))

    def later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> "TimerHandle":
        """Call something after so long, in the life of whoever it is."""
        life = LIFE.get()
        return self._loop.call_later(seconds, call, *arguments, context=Context() if life is None else life.timers)

    def _after(self, seconds: float, green: greenlet, life: Life | None) -> None:
        context = Context() if life is None else life.timers
        self._loop.call_later(seconds, self._resume, green, context=context)

    def _resume(self, green: greenlet) -> None:
        if not green.dead:
            green.switch()


HUB = Hub()


class Thread:
    """``threading.Thread`` as the service uses it."""

    def __init__(self, *, target: Callable[[], None], name: str, daemon: bool) -> None:
        del name, daemon
        self._target = target
        self._is_over = False
        self._joining: list[greenlet] = []

    def start(self) -> None:
        HUB.start(self._run)

    def _run(self) -> None:
        self._target()
        self._is_over = True
        for green in self._joining:
            HUB.soon(green)

    def is_alive(self) -> bool:
        return not self._is_over

    def join(self, timeout: float | None = None) -> None:
        del timeout
        if not self._is_over:
            HUB.pause(self._joining.append)


class Queue:
    """``queue.SimpleQueue`` for one who takes."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._taker: list[greenlet] = []

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._taker:
            HUB.soon(self._taker.pop())

    def get(self, timeout: float | None = None) -> Any:
        if not self._items:
            timer = None if timeout is None else HUB.later(timeout, self._give_up, getcurrent())
            HUB.pause(self._taker.append)
            if timer is not None:
                timer.cancel()
        if not self._items:
            raise Empty
        return self._items.popleft()

    def _give_up(self, green: greenlet) -> None:
        if green in self._taker:
            self._taker.remove(green)
            HUB.soon(green)

    def empty(self) -> bool:
        return not self._items


class Executor:
    """A ``ThreadPoolExecutor`` that does at once what it is given."""

    def __init__(self, *_: Any) -> None: ...

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future

    def shutdown(self) -> None: ...
