import asyncio

from media_callbacks.timing.waiting import wait_for
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
