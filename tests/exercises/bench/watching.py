"""
Somebody who watches, as a program: the operators' page open in a tab, and a client that follows the feed.

``python -m tests.exercises.bench.watching HOST:PORT`` says when it has begun, and goes on until it is killed.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from tests.exercises.bench.load import InvalidRun

# As page.js has it.
_PAGE_EVERY_S = 5.0
_BEGUN = "watching"


@contextmanager
def watched(admin: str) -> Iterator[None]:
    """
    Args:
        admin: The operators' address, whose port is open to everybody on this machine.

    Raises:
        InvalidRun: It was answered otherwise than it must be.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tests.exercises.bench.watching", admin],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        assert watcher.stdout is not None
        try:
            if watcher.stdout.readline().strip() != _BEGUN:
                raise InvalidRun(f"nobody could watch {admin}")
            yield
            if watcher.poll() is not None:
                raise InvalidRun(f"watching {admin} has ended with {watcher.returncode}")
        finally:
            watcher.kill()


async def _watch(admin: str) -> None:
    async with aiohttp.ClientSession(f"http://{admin}", raise_for_status=True) as client:
        cursor = await _ask_feed(client, limit="1")
        print(_BEGUN, flush=True)
        await asyncio.gather(_look(client), _follow(client, cursor))


async def _look(client: aiohttp.ClientSession) -> None:
    while True:
        async with client.get("/ui/", headers={"X-Part": "1"}, allow_redirects=False) as answer:
            await answer.read()
            assert answer.status == 200
        await asyncio.sleep(_PAGE_EVERY_S)


async def _follow(client: aiohttp.ClientSession, cursor: str) -> None:
    while True:
        cursor = await _ask_feed(client, after=cursor, wait="25")


async def _ask_feed(client: aiohttp.ClientSession, **query: str) -> str:
    async with client.get("/v1/feed", params=query) as answer:
        document = await answer.json()
        return str(document["cursor"])


if __name__ == "__main__":
    asyncio.run(_watch(sys.argv[1]))
