"""
The ceiling: a Starlette route that reads the body and answers 200, under the server settings of the service.

Started as a program of its own; prints its address on the first line.
"""

import asyncio
import socket

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.exercises.bench.callbacks import PATH


async def answer(request: Request) -> Response:
    await request.body()
    return Response(b'{"code":"OK"}', media_type="application/json")


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        Starlette(routes=[Route(PATH, answer, methods=["POST"])]),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=60,
        limit_concurrency=1000,
    )
    host, port = listener.getsockname()
    print(f"{host}:{port}", flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
