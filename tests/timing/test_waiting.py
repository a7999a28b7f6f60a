import asyncio

from media_callbacks.timing.waiting import finish, wait_for
from tests.factories.delivering import PATIENCE_S


async def test_a_wait_ends_with_its_time_or_with_its_event() -> None:
    event = asyncio.Event()
    await wait_for(event, 0.0)
    assert not event.is_set()
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(wait_for(event, 3600.0))
        await asyncio.sleep(0)
        event.set()
        await waiting


async def test_what_ends_in_time_is_waited_for_and_all_else_is_broken_off() -> None:
    async def end(may_end: asyncio.Event) -> None:
        await may_end.wait()

    async def fail() -> None:
        raise ValueError

    quick, never = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.ensure_future(one) for one in (end(quick), end(never), fail())]
    asyncio.get_running_loop().call_soon(quick.set)
    await finish(tasks[::2], PATIENCE_S)
    await finish(tasks[1:], 0.0)
    assert [task.cancelled() for task in tasks] == [False, True, False]
    assert all(task.done() for task in tasks)
    await finish([], PATIENCE_S)
