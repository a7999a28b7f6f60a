"""A real nginx with the configuration of deploy/, in front of whatever a test puts behind it."""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.factories.running import PATIENCE_S, Answer, connected, read_answer
from tests.factories.tools import need_tool

CONFIGURATION = Path(__file__).parents[2] / "deploy/nginx/media-callbacks.conf"


def find_nginx() -> str:
    return need_tool("nginx", package="nginx-light")


def write_configuration(
    folder: Path, *, port: int, upstreams: Iterable[str], replace: dict[str, str] | None = None
) -> Path:
    """
    The main configuration file, which includes that of deploy/ with ports, addresses and folders of the test.

    Args:
        replace: Further texts to exchange, each of which must be there.
    """
    text = CONFIGURATION.read_text("utf-8")
    servers = re.findall(r"^    server (\S+) (.*;)$", text, re.MULTILINE)
    lines = "\n".join(f"    server {address} {servers[0][1]}" for address in upstreams)
    exchanges = {
        "\n".join(f"    server {address} {options}" for address, options in servers): lines,
        "listen 8080 ": f"listen 127.0.0.1:{port} ",
        "/var/log/nginx/": f"{folder}/",
    } | (replace or {})
    for old, new in exchanges.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "media-callbacks.conf").write_text(text, "utf-8")
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        # Its workers must be able to write into the folder of the test.
        ("user root;\n" if os.geteuid() == 0 else "")
        + f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/start.log;\n"
        + f"events {{ worker_connections 1024; }}\nhttp {{\n{temporary}\n    include {folder}/media-callbacks.conf;\n}}\n",
        "utf-8",
    )
    return main


@dataclass(frozen=True)
class Proxy:
    address: str
    folder: Path

    async def send(self, request: bytes) -> Answer:
        answer = await self.try_to_send(request)
        assert answer is not None, "the connection was closed without an answer"
        return answer

    async def try_to_send(self, request: bytes) -> Answer | None:
        """None when the connection was closed without an answer."""
        async with connected(self.address) as (reader, writer):
            writer.write(request)
            return await read_answer(reader, method=request.split(b" ", 1)[0].decode())

    @property
    def logs(self) -> str:
        return "".join((self.folder / name).read_text("utf-8") for name in ("access.log", "error.log", "start.log"))


@asynccontextmanager
async def proxying(folder: Path, *upstreams: str, replace: dict[str, str] | None = None) -> AsyncIterator[Proxy]:
    nginx = find_nginx()
    folder = folder / "nginx"
    folder.mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        port = listener.getsockname()[1]
        main = write_configuration(folder, port=port, upstreams=upstreams, replace=replace)
        # nginx takes over sockets that this variable names, so that connections wait from now on until it is up.
        process = await asyncio.create_subprocess_exec(
            nginx,
            *("-p", str(folder), "-c", str(main), "-e", str(folder / "start.log")),
            env=os.environ | {"NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    try:
        yield Proxy(f"127.0.0.1:{port}", folder)
        assert process.returncode is None, (folder / "start.log").read_text("utf-8")
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()


@dataclass
class Upstream:
    """
    Something behind the proxy that answers every request alike.

    Attributes:
        requests: What came, byte for byte.
        connections: How many there were.
    """

    answer: bytes | None
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    address: str = ""
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                self.requests.append(head + body)
                if self.answer is None:
                    continue
                if not self.answer:
                    break
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


OK = b"HTTP/1.1 204 No Content\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"
CUT = b""
NEVER = None


@asynccontextmanager
async def upstream(answer: bytes | None) -> AsyncIterator[Upstream]:
    """
    Args:
        answer: Or ``CUT`` to close the connection after the request, or ``NEVER`` to leave it waiting.
    """
    made = Upstream(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.close()
        await server.wait_closed()
