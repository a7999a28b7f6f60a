"""
The admin API, asked once: where it is, what goes along, how long is waited, how much of an answer is read and what it
says. ``JobsClient`` and the commands ask through this, and each says in its own words what went wrong. The standard
library alone.
"""

import http.client
import io
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

Json = dict[str, Any]
_MAX_HEAD_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16


class NoAnswer(Exception):
    """There was none in time, or it broke off. The message is the cause."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Attributes:
        document: The JSON of its body; None where it is no JSON.
    """

    status: int
    document: Any

    @property
    def has_detail(self) -> bool:
        """Whether a refusal says why."""
        return isinstance(self.document, dict) and "detail" in self.document

    @property
    def problem(self) -> str | None:
        """
        What the service says about a refusal: what was expected, what came.

        Source: RFC 9457, "Problem Details for HTTP APIs", section 3.1.
        """
        said = self.document.get("detail") or self.document.get("title") if isinstance(self.document, dict) else None
        return said if isinstance(said, str) else None


class AdminApi:
    """
    Redirects are not followed, and no proxy of the environment is used: the token is for this address alone.

    Args:
        url: Of the service, with the path that it is below.
        timeout_s: For connecting, and for every pause in the answer.
        max_answer_bytes: Of a larger answer the rest is not read, and what was is no JSON.

    Raises:
        ValueError: The URL or the token can't be one; a sentence after ``url: `` or ``token: ``.
    """

    def __init__(self, url: str, token: str | None, *, timeout_s: float, max_answer_bytes: int) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc or {"?", "#"} & set(url):
            raise ValueError("url: expected http:// or https:// with a host, without user name, query and fragment")
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise ValueError("token: expected printable ASCII, came something else")
        self.url = url.rstrip("/")
        self.has_token = token is not None
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = host, port or self._connection.default_port
        self._path = parts.path.rstrip("/")
        self._headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        document: object = None,
        patience_s: float = 0.0,
    ) -> Answer:
        """
        Args:
            patience_s: How much longer the answer may take.

        Raises:
            NoAnswer: It may have been asked nevertheless.
        """
        timeout_s = self._timeout_s + patience_s
        content = None if document is None else json.dumps(document).encode()
        with _no_answer_for_errors(timeout_s):
            return _read_answer(*self._exchange(method, self._target(path, query), content, timeout_s))

    async def get(self, path: str, *, query: Mapping[str, str] | None = None, patience_s: float = 0.0) -> Answer:
        """Ask without a thread, as ``ask`` does, which also has the arguments; all of it within that time."""
        import asyncio  # noqa: PLC0415 - commands, which load this too, do without

        timeout_s = self._timeout_s + patience_s
        with _no_answer_for_errors(timeout_s):
            async with asyncio.timeout(timeout_s):
                return _read_answer(*await self._get(self._target(path, query)))

    def _target(self, path: str, query: Mapping[str, str] | None) -> str:
        return quote(self._path + path, safe="/%:@!$&'()*+,;=~") + (f"?{urlencode(query)}" if query else "")

    def _exchange(self, method: str, target: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
        # The service wants the type of an order without a body, too.
        headers = self._headers | ({} if method == "GET" else {"Content-Type": "application/json"})
        connection = self._connection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, self._read(response)
        finally:
            connection.close()

    async def _get(self, target: str) -> tuple[int, bytes]:
        import asyncio  # noqa: PLC0415 - see above

        is_secure = self._connection is http.client.HTTPSConnection
        context = ssl.create_default_context() if is_secure else None
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=context)
        try:
            host = f"[{self._host}]" if ":" in self._host else self._host
            headers = {"Host": f"{host}:{self._port}", "Connection": "close", **self._headers}
            lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
            writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"))
            found = bytearray()
            # What comes with it is no more than heads may have.
            while len(found) < self._max_answer_bytes + _MAX_HEAD_BYTES and (piece := await reader.read(_PIECE_BYTES)):
                found += piece
        finally:
            writer.close()
        response = http.client.HTTPResponse(cast("Any", _Received(bytes(found))))
        response.begin()
        return response.status, self._read(response)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        found = response.read(self._max_answer_bytes)
        if response.length and len(found) < self._max_answer_bytes:
            raise http.client.IncompleteRead(found, response.length)
        return found


class _Received:
    """What ``http.client`` takes for a socket, with all that has come."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any, **__: Any) -> Any:
        return io.BytesIO(self._data)


@contextmanager
def _no_answer_for_errors(timeout_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from error
    # ValueError: a host that is no name, such as one with a label of 64 characters.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(getattr(error, "strerror", None) or type(error).__name__) from error


def _read_answer(status: int, body: bytes) -> Answer:
    try:
        return Answer(status, json.loads(body))
    except (ValueError, RecursionError):
        return Answer(status, None)


def read_pages(read: Callable[[Mapping[str, str]], Json], query: Mapping[str, str], *, size: int) -> Iterator[Json]:
    """Page after page of a list, each asked for when it is wanted."""
    query = {**query, "limit": str(size)}
    while True:
        page = read(query)
        yield page
        if not page.get("cursor"):
            return
        query = {**query, "cursor": str(page["cursor"])}
