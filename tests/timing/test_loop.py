"""The life of whatever is done in the background."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from media_callbacks.timing.loop import MIN_WAIT_S, Loop, seconds_until
from tests.factories.delivering import PATIENCE_S, until


class Steps:
    """What each step is to return or raise; the last again and again. ``hold`` keeps them from ending."""

    def __init__(self, *results: float | Exception | None) -> None:
        self.results = list(results)
        self.begun = self.done = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self) -> float | None:
        self.begun += 1
        await self.go_on.wait()
        self.done += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


class Waits:
    """Time that passes at once, up to a wait that is longer than ``at_most_s``: that one takes until its event."""

    def __init__(self, at_most_s: float) -> None:
        self.at_most_s = at_most_s
        self.seconds: list[float] = []

    async def __call__(self, event: asyncio.Event, timeout_s: float) -> None:
        self.seconds.append(timeout_s)
        if timeout_s > self.at_most_s:
            await event.wait()


def make_loop(steps: Steps, waits: Waits | None = None, **about: str) -> Loop:
    return Loop(steps, name="walk", failure="stumbled", retry_s=3.0, wait=waits or Waits(0), **about)


async def stop(loop: Loop) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await loop.stop()


async def test_steps_come_when_the_one_before_has_said() -> None:
    steps, waits = Steps(7.0, 0.0, 0.5, 60.0), Waits(at_most_s=10)
    loop = make_loop(steps, waits)
    loop.start()
    await until(lambda: len(waits.seconds) == 3)
    await stop(loop)
    assert (steps.done, waits.seconds) == (4, [7.0, 0.5, 60.0]), "after 0 nobody waits"


async def test_the_first_may_come_later() -> None:
    steps, waits = Steps(60.0), Waits(at_most_s=10)
    loop = make_loop(steps, waits)
    loop.start(after_s=5.0)
    await until(lambda: len(waits.seconds) == 2)
    await stop(loop)
    assert (steps.done, waits.seconds) == (1, [5.0, 60.0])


@pytest.mark.parametrize("wait_s", [60.0, None])
async def test_waking_brings_the_next_step(wait_s: float | None) -> None:
    steps = Steps(wait_s)
    loop = make_loop(steps)
    loop.start()
    await until(lambda: steps.done == 1)
    loop.wake()
    await until(lambda: steps.done == 2)
    loop.wake()
    await until(lambda: steps.done == 3)
    await stop(loop)
    assert steps.done == 3


@pytest.mark.parametrize("wait_s", [60.0, None])
async def test_waking_during_a_step_brings_another_one(wait_s: float | None) -> None:
    """What it was woken for may have come too late for the step under way."""
    steps = Steps(wait_s)
    steps.go_on.clear()
    loop = make_loop(steps)
    loop.start()
    await until(lambda: steps.begun)
    assert not loop.is_woken
    loop.wake()
    assert loop.is_woken
    steps.go_on.set()
    await until(lambda: steps.done == 2)
    await stop(loop)


async def test_a_failure_is_logged_and_the_next_step_comes_after_a_while() -> None:
    steps, waits = Steps(OSError("odd"), ValueError("even"), 60.0), Waits(at_most_s=10)
    loop = make_loop(steps, waits, where="outside")
    with structlog.testing.capture_logs() as logs:
        loop.start()
        await until(lambda: len(waits.seconds) == 3)
        await stop(loop)
    assert logs == [
        {"event": "stumbled", "log_level": "error", "where": "outside", "error": error}
        for error in ("OSError: odd", "ValueError: even")
    ]
    assert waits.seconds == [3.0, 3.0, 60.0]


async def test_what_fails_is_not_tried_faster_because_somebody_wakes_it() -> None:
    steps, waits = Steps(OSError("odd")), Waits(at_most_s=0)
    loop = make_loop(steps, waits)
    loop.start()
    await until(lambda: waits.seconds)
    loop.wake()
    for _ in range(8):
        await asyncio.sleep(0)
    assert steps.begun == 1
    await stop(loop)


@pytest.mark.parametrize("result", [60.0, 0.0, None, OSError("odd")])
async def test_stopping_finishes_the_step_under_way_and_begins_no_other(result: Any) -> None:
    steps = Steps(result)
    steps.go_on.clear()
    loop = make_loop(steps)
    loop.start()
    await until(lambda: steps.begun)
    stopping = asyncio.ensure_future(loop.stop())
    await until(loop.stopping.is_set)
    assert not stopping.done()
    steps.go_on.set()
    await stop(loop)
    await stopping
    assert (steps.begun, steps.done) == (1, 1)


@pytest.mark.parametrize("results", [[60.0], [None], [OSError("odd")]])
async def test_stopping_ends_a_wait(results: Sequence[Any]) -> None:
    steps = Steps(*results)
    loop = make_loop(steps)
    loop.start()
    await until(lambda: steps.done)
    await asyncio.sleep(0)
    await stop(loop)
    assert steps.done == 1


async def test_stopping_ends_the_wait_for_the_first_step() -> None:
    steps, waits = Steps(0.0), Waits(at_most_s=0)
    loop = make_loop(steps, waits)
    loop.start(after_s=5.0)
    await until(lambda: waits.seconds)
    await stop(loop)
    assert steps.begun == 0


async def test_stopping_may_come_without_a_start() -> None:
    steps = Steps(0.0)
    loop = make_loop(steps)
    await stop(loop)
    await stop(loop)
    assert steps.begun == 0


async def test_who_stops_waiting_for_the_step_breaks_it_off() -> None:
    steps = Steps(0.0)
    steps.go_on.clear()
    loop = make_loop(steps)
    loop.start()
    await until(lambda: steps.begun)
    stopping = asyncio.ensure_future(loop.stop())
    await until(loop.stopping.is_set)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (steps.begun, steps.done) == (1, 0)
    with pytest.raises(asyncio.CancelledError):
        await stop(loop)


@pytest.mark.parametrize(
    ("due_in_s", "wait_s"), [(None, 30.0), (-5.0, MIN_WAIT_S), (0.0, MIN_WAIT_S), (7.0, 7.0), (3600.0, 30.0)]
)
def test_what_is_due_is_waited_for_within_bounds(due_in_s: float | None, wait_s: float) -> None:
    assert seconds_until(due_in_s, poll_s=30.0) == wait_s
