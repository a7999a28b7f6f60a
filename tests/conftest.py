"""What all tests share: an environment without surprises, a PostgreSQL, and the service of ``tests.factories.running``."""

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

from media_callbacks.model.events import Event
from tests.factories.clocks import LoopClock
from tests.factories.contracts import check_event
from tests.factories.memory import find_memory
from tests.factories.postgresql import database_url, left_databases, own_server, postgresql_url  # noqa: F401
from tests.factories.running import Running, run_service

# How long an example takes is up to the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Tests start hundreds of Pythons. None compiles again what another has imported.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# What ``-n auto`` is: some exercises wait for most of their time, and would hold up the others.
os.environ.setdefault("PYTEST_XDIST_AUTO_NUM_WORKERS", str((os.cpu_count() or 1) + 2))

# Where ``tmp_path`` is. On a disk, most of the time of most tests would be waiting until it has flushed.
if (memory := find_memory()) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Each worker begins with its share of what takes long, or one would be left with it when all others are done. At
    first each has as many tests as any other, in a row (``--dist=worksteal``).
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    share = len(items) / workers
    items.clear()
    for worker in range(workers):
        items += slow[worker::workers]
        left = max(0, round(share * (worker + 1)) - len(items))
        items += others[:left]
        del others[:left]


@pytest.fixture(autouse=True, scope="module")
def _what_is_there_stays():
    """Whoever looks for garbage need not look through ten thousand tests and what those before have left."""
    gc.collect()
    gc.freeze()


class _PromptAsyncio:
    """
    asyncio for uvicorn, which sleeps for a tenth of a second where it looks whether it should stop, and again when it
    does. Hundreds of tests would wait for that.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / 20)


@pytest.fixture(autouse=True, scope="session")
def _uvicorn_is_prompt():
    with patch("uvicorn.server.asyncio", _PromptAsyncio()):
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith(("AWS_", "BOTO", "MEDIA_CALLBACKS")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # Without it, botocore looks for credentials at an address that nothing answers on.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def _every_event_keeps_the_contract(monkeypatch):
    """Whatever event a test makes fits its published schema and is read back by the cloudevents package."""
    bodies, to_json = set(), Event.to_json

    def remembered(event):
        body = to_json(event)
        bodies.add(body)
        return body

    monkeypatch.setattr(Event, "to_json", remembered)
    yield
    for body in bodies:
        check_event(body)


@pytest.fixture
async def loop_clock() -> LoopClock:
    return LoopClock(asyncio.get_running_loop())


@pytest.fixture
async def running(tmp_path) -> AsyncIterator[Running]:
    """A service with all four sources and one webhook sink, ``orders``."""
    async with run_service(tmp_path) as service:
        yield service
