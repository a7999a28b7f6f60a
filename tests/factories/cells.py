"""Two cells, each a whole service with a database of its own, and a third one that is dead."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from media_callbacks.rehearsal.simulate import SimulatedRequest
from tests.factories.running import ADMIN_TOKEN, Running, run_service, to_toml

TOKENS = {"east": ADMIN_TOKEN, "west": f"{ADMIN_TOKEN}-of-west"}


@dataclass
class TwoCells:
    """
    Attributes:
        config: The file that names both, and where it is asked for the dead one.
    """

    running: Mapping[str, Running]
    folder: Path

    def tables(self, *, with_dead: bool = False) -> dict[str, Any]:
        """The table ``[admin.cells]``."""
        cells = {
            name: {"url": f"http://{running.admin_address}", "token": TOKENS[name]}
            for name, running in self.running.items()
        }
        return cells | ({"dead": {"url": f"http://127.0.0.1:{unused_port()}"}} if with_dead else {})

    def config(self, *, with_dead: bool = False) -> str:
        path = self.folder / f"cells-{with_dead}.toml"
        path.write_text(to_toml({"admin": {"cells": self.tables(with_dead=with_dead)}}))
        return str(path)

    async def send(self, cell: str, *job_ids: str) -> None:
        for job_id in job_ids:
            request: SimulatedRequest = self.running[cell].build("vod", job_id)
            assert (await self.running[cell].send(request)).status == 200


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@asynccontextmanager
async def two_cells(folder: Path) -> AsyncIterator[TwoCells]:
    running = {}
    async with AsyncExitStack() as stack:
        for name, token in TOKENS.items():
            (folder / name).mkdir()
            sinks = ("orders",) if name == "east" else ("orders", "films")
            service = run_service(folder / name, sinks=sinks, changes={"admin.token": token})
            running[name] = await stack.enter_async_context(service)
        yield TwoCells(running, folder)
