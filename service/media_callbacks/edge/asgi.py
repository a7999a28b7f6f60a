"""The edge as an ASGI application, for any server that gives ``raw_path``."""

import asyncio
from typing import Generic, Protocol, TypeVar

from starlette.types import Receive, Scope, Send

from media_callbacks.edge.answers import Answer
from media_callbacks.edge.core import Edge, Exchange
from media_callbacks.model.errors import ClientLeft, RequestTimeout


class Lifespan(Protocol):
    """What runs behind the edge."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


Behind = TypeVar("Behind", bound=Lifespan)


class EdgeApp(Generic[Behind]):
    """
    Attributes:
        edge: What it answers with; a server that needs no ASGI asks that itself.
        service: What runs behind it.
    """

    def __init__(self, edge: Edge, service: Behind) -> None:
        self.edge = edge
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            # Unless the server has given the request up.
            if not found.done():
                found.set_result(answer)

        headers = [(name.lower(), value.strip(b" \t")) for name, value in scope["headers"]]
        raw_path, query = scope.get("raw_path"), scope["query_string"]
        exchange = self.edge.begin(
            scope["method"],
            scope["path"].removeprefix(scope.get("root_path", "")),
            raw_path,
            query,
            headers,
            head_bytes=len(raw_path or b"") + len(query) + sum(len(name) + len(value) + 4 for name, value in headers),
            answered=answered,
        )
        if not await self._read(exchange, receive):
            return
        answer = await found
        lines = [*answer.headers, (b"connection", b"close")] if answer.closes else answer.headers
        await send({"type": "http.response.start", "status": answer.status, "headers": lines})
        await send({"type": "http.response.body", "body": answer.body})

    async def _read(self, exchange: Exchange, receive: Receive) -> bool:
        """The body. Returns whether the client is there to be answered."""
        timeout_s = self.edge.body_timeout_s
        more = True
        try:
            async with asyncio.timeout(timeout_s):
                while more and not exchange.is_answered:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        exchange.fail(ClientLeft("the client went away before the body was complete"))
                        return False
                    exchange.receive(message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            exchange.fail(RequestTimeout(f"the body did not arrive within {timeout_s} s"))
        exchange.end()
        return True

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        phase = "startup"
        try:
            try:
                await self.service.start()
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
            finally:
                await self.service.stop()
        except BaseException as error:
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})
