"""
Every attack once, small enough for each run of the tests, against one process.

What is looked at does not depend on how fast this machine is: that genuine callbacks and probes are answered while an
attack stands, all of them, that memory stays within its limit and comes back, and that the log stays short.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.exercises.hostile.attacks import ATTACKS, Listener
from tests.exercises.hostile.callbacks import streaming
from tests.exercises.hostile.victim import Victim, attacked

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Of a kind of lines; the limit is 50 at once, and one every two seconds.
MAX_LINES = 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def victim(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Victim]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    async with attacked(folder) as victim:
        async with streaming(victim, rate=40) as stream:
            await stream.more(100)
        yield victim


def kind_of(line: Any) -> tuple[Any, ...]:
    """What the service counts lines by before it leaves some out."""
    return line["event"], line.get("reason"), line.get("source")


@pytest.mark.parametrize("listener", ["server", "admin"])
@pytest.mark.parametrize("name", ATTACKS)
async def test_callbacks_and_probes_are_answered_beside_any_attack(victim: Victim, name: str, listener: Listener):
    attack = ATTACKS[name]
    victim.remember_memory()
    before = Counter(map(kind_of, victim.lines))
    async with (
        streaming(victim, rate=40) as stream,
        attack.mount(victim.addresses[listener], listener, attack.short[listener]),
    ):
        for _ in range(3):
            assert await victim.get("/health/live") == 200
            # It looks at the store for so many seconds at most, and how long that takes is up to the machine.
            while await victim.get("/health/ready") != 200:
                pass
            assert await victim.get("/metrics", listener="admin") == 200
        await stream.more(20)
    await victim.forgets()
    after = Counter(map(kind_of, victim.lines))
    for kind, count in (after - before).items():
        assert kind[0] == "callback" or count < MAX_LINES, kind


async def test_what_is_not_logged_is_counted(victim: Victim):
    reason = 'media_callbacks_rejects_total{reason="unknown_path",source="none"}'
    before = (await victim.metrics()).get(reason, 0)
    await asyncio.gather(*(victim.get("/nowhere") for _ in range(200)))
    assert (await victim.metrics())[reason] == before + 200
    lines = [line for line in victim.lines if line.get("reason") == "unknown_path"]
    assert len(lines) < MAX_LINES
