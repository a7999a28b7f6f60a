"""Bodies of requests to applications that read them through ASGI."""

import asyncio
from collections.abc import Sequence

from starlette.types import Receive

from media_callbacks.model.errors import BodyTooLarge, ClientLeft, MalformedCallback, RequestTimeout, Unavailable

# Of all bodies that one reader has begun.
MAX_READING_BYTES = 16 * 1024 * 1024


class BodyReader:
    """Reads bodies within bounds of size, time and total memory."""

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self.max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._reading_bytes = 0

    async def read(self, headers: Sequence[tuple[bytes, bytes]], receive: Receive) -> bytes:
        """
        Raises:
            BodyTooLarge, RequestTimeout, ClientLeft, MalformedCallback: The body is not acceptable.
            Unavailable: Too many large bodies are being read just now.
        """
        declared: int | None = None
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                if len(value) > 12 or int(value) > self.max_bytes:
                    raise BodyTooLarge(
                        f"expected at most {self.max_bytes} bytes, Content-Length says {value[:20].decode()}"
                    )
                declared = int(value)
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(receive)
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {self._timeout_s} s") from None
        if declared is not None and len(body) != declared:
            raise MalformedCallback("the body is not as long as announced", reason="incomplete_body")
        return body

    async def _read(self, receive: Receive) -> bytes:
        pieces: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft("the client went away before the body was complete")
                piece: bytes = message.get("body", b"")
                pieces.append(piece)
                size += len(piece)
                self._reading_bytes += len(piece)
                if size > self.max_bytes:
                    raise BodyTooLarge(f"expected at most {self.max_bytes} bytes, found more")
                if self._reading_bytes > MAX_READING_BYTES:
                    raise Unavailable("too many large bodies are being received at once")
                more = message.get("more_body", False)
        finally:
            self._reading_bytes -= size
        return b"".join(pieces)
