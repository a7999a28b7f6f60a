"""A webhook receiver that does as little as can be done, in the process of the bench and on its core."""

import asyncio
from collections.abc import Callable, Collection
from typing import cast

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_ID = b"\r\nwebhook-id: "
_LENGTH = b"\r\ncontent-length: "


class Receiver:
    """
    Takes every event and remembers its id.

    Attributes:
        ids: Each event's once, in order of arrival.
        requests: All of them, repeated ones included.
    """

    def __init__(self) -> None:
        self.ids: dict[bytes, None] = {}
        self.requests = 0
        self.address = ""
        self._server: asyncio.Server | None = None
        self._marks: dict[int, Callable[[], None]] = {}

    async def open(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Exchange(self), "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def reset(self, marks: Collection[tuple[int, Callable[[], None]]] = ()) -> None:
        """Forget everything; call each function when so many events have come."""
        self.ids = {}
        self.requests = 0
        self._marks = dict(marks)

    def arrived(self, event_id: bytes) -> None:
        self.requests += 1
        self.ids[event_id] = None
        if (mark := self._marks.pop(len(self.ids), None)) is not None:
            mark()


class _Exchange(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            head = data[: end + 2].lower()
            missing = end + 4 + int(_value(head, _LENGTH)) - len(data)
            if missing <= 0:
                assert self._transport is not None
                self._transport.write(_ANSWER)
                self._received = data[len(data) + missing :]
                self._receiver.arrived(_value(head, _ID))
                return
        self._received = data


def _value(head: bytes, name: bytes) -> bytes:
    begin = head.index(name) + len(name)
    return head[begin : head.index(b"\r\n", begin)]
