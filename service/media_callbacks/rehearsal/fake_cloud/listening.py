"""A port for the fake cloud."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from media_callbacks.model.errors import Unusable
from media_callbacks.process.server import QuietServer
from media_callbacks.timing.waiting import wait_for

# uvicorn counts ten ticks as a second.
_TICK_S = 0.1


class _Server(QuietServer):
    """Stops at once, not with the next tick."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            await wait_for(self.stop, _TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Long polls end with their connections, not after their thirty seconds.
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.close()
        await super().shutdown(sockets)


@asynccontextmanager
async def listening(app: Any, host: str, port: int) -> AsyncIterator[str]:
    """
    Serve an ASGI application; gives its URL. Port 0 is any that is free.

    Raises:
        Unusable: The port can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unusable([f"--port: cannot listen on {host} port {port}: {error.strerror}"]) from error
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        # Loggers are the process's, and the service may be in it.
        log_level=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0)
        bound_host, bound_port = listener.getsockname()[:2]
        yield f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"
    finally:
        server.should_exit = True
        server.stop.set()
        await task
        listener.close()
