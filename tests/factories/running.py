"""
The real service on loopback, its vendor and its consumers, for tests that talk to it through sockets.

Everything that a service logs is kept, and when it has stopped nothing secret may be in it: no key, signature, token,
secret path or body that went over the wire in the test.
"""

import asyncio
import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from sqlite3 import Connection, connect
from typing import Any, Literal
from unittest.mock import patch

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs
from uvicorn.protocols.http.h11_impl import H11Protocol

from media_callbacks.app import Service, create_app
from media_callbacks.assembly.sources import build_source
from media_callbacks.config.settings import Settings, build_settings
from media_callbacks.edge.certificates import CertificateStore, Fetch
from media_callbacks.edge.connections import Connections
from media_callbacks.edge.core import Edge
from media_callbacks.edge.protocol import make_protocol
from media_callbacks.explain.refused import RefusalExplainer
from media_callbacks.inbox.sqlite.database import SqliteDatabase
from media_callbacks.process.server import serve
from media_callbacks.rehearsal.simulate import (
    PAYLOADS,
    Json,
    MnsSigner,
    PushFormat,
    SimulatedRequest,
    http_request,
    make_mns_key,
    token_url_request,
)
from media_callbacks.sources.base import CallbackSource
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource

# Longer than anything takes on a busy machine; only a failure waits for it.
PATIENCE_S = 180.0
TOPIC = "1234567890123456/mts-done"
SOURCES = ("vod", "ims", "mts", "gif")
VOD_KEYS = ("vod-key-1f6c0a52", "vod-key-old-77b1")
IMS_KEY = "ims-key-b09e44d2"
GIF_KEY = base64.b64encode(b"a key of thirty-two bytes or more").decode()
MTS_PATH = "/callbacks/mts/5f0c9d6e3ab14477"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"the secret of the webhook, 32 b.").decode()
ADMIN_TOKEN = "admin-token-40aa21c7"
SECRETS = (*VOD_KEYS, IMS_KEY, GIF_KEY, MTS_PATH.rpartition("/")[2], WEBHOOK_SECRET, ADMIN_TOKEN)

# What gives a URL of OSS or of an API its power.
_PRESIGNED = re.compile(r"[?&;](OSSAccessKeyId|AccessKeyId|Signature|security-token|x-oss-[a-z-]+)=", re.IGNORECASE)

Headers = Sequence[tuple[bytes, bytes]]


@cache
def signer() -> tuple[MnsSigner, str]:
    """MNS's signer and its certificate as PEM text."""
    key, certificate = make_mns_key(now=datetime.now(UTC), name="notify")
    return MnsSigner(key), certificate


def signing_key_pem() -> bytes:
    return signer()[0].private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_tables(folder: Path, sinks: Mapping[str, str], changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    A configuration with all four sources.

    Args:
        sinks: Webhook URLs by name.
        changes: Keys to set, as paths: ``{"server.body_timeout_s": 0.2}``; None takes the key away.
    """
    mns, certificate = signer()
    tables: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": 0, "drain_s": 0},
        "admin": {"host": "127.0.0.1", "port": 0},
        "store": {"url": f"sqlite:///{folder}/inbox.db"},
        "sources": {
            "vod": {
                "product": "vod",
                "transport": "http",
                "path": "/callbacks/vod",
                "url": "https://cb.example.com/callbacks/vod",
                "keys": list(VOD_KEYS),
            },
            "ims": {
                "product": "ims",
                "transport": "http",
                "path": "/callbacks/ims",
                "url": "https://cb.example.com/callbacks/ims",
                "keys": [IMS_KEY],
            },
            "mts": {
                "product": "mts",
                "transport": "mns-push",
                "path": MTS_PATH,
                "topics": [TOPIC],
                "certificates": {mns.certificate_url: certificate},
            },
            "gif": {
                "product": "multimediaai",
                "transport": "token-url",
                "path": "/callbacks/gif",
                "url": "https://cb.example.com/callbacks/gif",
                "keys": [f"1:{GIF_KEY}"],
            },
        },
        "sinks": {name: {"kind": "webhook", "url": url, "secrets": [WEBHOOK_SECRET]} for name, url in sinks.items()},
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        table = tables
        for part in parents:
            table = table.setdefault(part, {})
        if value is None:
            del table[last]
        else:
            table[last] = value
    return tables


def to_toml(tables: Mapping[str, Any], *above: str) -> str:
    """The same as a configuration file. What JSON and TOML have in common is enough for it."""
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    if lines and above:
        lines.insert(0, f"[{'.'.join(json.dumps(key) for key in above)}]")
    lines += [to_toml(value, *above, key) for key, value in tables.items() if isinstance(value, dict)]
    return "\n".join(lines) + "\n"


# The vendor


def make_source(name: str, settings: Settings) -> CallbackSource:
    return build_source(name, settings.callback_sources[name])


def build_payload(source: CallbackSource, job_id: str, *, event: str | None = None, failed: bool = False) -> Json:
    events = PAYLOADS[source.product]
    return events[event or next(iter(events))](job_id, datetime.now(UTC), failed)


def sign(
    source: CallbackSource,
    payload: Json | bytes,
    *,
    job_id: str,
    now: datetime | None = None,
    push_format: PushFormat = "SIMPLIFIED",
    by: MnsSigner | None = None,
) -> SimulatedRequest:
    """
    The request with this payload. A job has one minted URL, however often this is called.

    Args:
        by: Another signer of pushes than the usual one.
    """
    now = now or datetime.now(UTC)
    if isinstance(source, HttpSource):
        return http_request(source, payload, now=now)
    if isinstance(source, MnsPushSource):
        return (by or signer()[0]).push(source, payload, now=now, push_format=push_format)
    assert isinstance(source, TokenUrlSource)
    url = source.mint(
        application_id="app",
        video_url="https://media.example.com/in.mp4",
        video_name="in",
        nonce=hashlib.sha256(job_id.encode()).digest()[:12],
        expires_at=int(now.timestamp()) + 600,
    )
    return token_url_request(source, url.rpartition("/")[2], payload)


# HTTP, plainly: tests must be able to send what no client library would


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def encode_request(
    method: str | bytes,
    target: str | bytes,
    headers: Headers = (),
    body: bytes = b"",
    *,
    host: str = "cb.example.com",
    chunk: int | None = None,
) -> bytes:
    """
    Args:
        chunk: Size of the chunks to send the body in, instead of announcing its length.
    """
    method = method.encode() if isinstance(method, str) else method
    target = target.encode() if isinstance(target, str) else target
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + host.encode()]
    lines += [name + b": " + value for name, value in headers]
    if chunk is None:
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", encoded + b"0\r\n\r\n"])


def headers_of(request: SimulatedRequest) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in request.headers.items()]


def encode(request: SimulatedRequest, *, chunk: int | None = None) -> bytes:
    return encode_request(request.method, request.target, headers_of(request), request.body, chunk=chunk)


async def read_answer(reader: asyncio.StreamReader, *, method: str = "POST") -> Answer | None:
    """The next answer on a connection; None when it was closed instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        if getattr(error, "partial", b""):
            raise
        return None
    status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
    status = int(status_line.split(" ")[1])
    if status == 100:
        return await read_answer(reader, method=method)
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = b""
    if method != "HEAD" and status != 204:
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
    return Answer(status, headers, body)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.transport.abort()


# The consumer


@dataclass
class Receiver:
    """
    A webhook consumer. What is not signed as Standard Webhooks says is answered 401 and not kept.

    Attributes:
        headers: Of every attempt, whatever it was answered.
    """

    headers: list[Mapping[str, str]] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    status: int = 204
    port: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(request.headers)
        try:
            Webhook(WEBHOOK_SECRET).verify(body, dict(request.headers))
        except Exception:  # noqa: BLE001 - whatever is wrong with it
            return web.Response(status=401)
        if self.status < 300:
            self.events.append(json.loads(body))
            self.ids.append(request.headers["webhook-id"])
        self._changed.set()
        return web.Response(status=self.status)

    async def wait_for(self, count: int) -> list[Json]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.events) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.events


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/events", receiver.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.port = runner.addresses[0][1]
        yield receiver
    finally:
        await runner.cleanup()


# The service


class _Records(logging.Handler):
    """What libraries log, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


_REQUEST_EVENTS = ("callback", "callback_refused", "client_left", "connection_refused")


Adapter = Literal["socket", "asgi"]


class Running:
    """
    One running service.

    Attributes:
        address: ``host:port`` of the public listener.
        admin_address: The same of the operators' one.
        receivers: By the name of their sink.
        ended: Done when the service has stopped.
        connections: Those of the public listener.
        logs: What the service logged until now.
        library_logs: What uvicorn and others logged.
        secrets: What must be in none of these; ``send`` adds to it.
    """

    def __init__(self, service: Service, address: str, admin_address: str, receivers: Mapping[str, Receiver]) -> None:
        self.service = service
        self.settings = service.settings
        self.address, self.admin_address = address, admin_address
        self.receivers = receivers
        self.logs: list[Any] = []
        self.library_logs: list[str] = []
        self.secrets: set[bytes] = {secret.encode() for secret in SECRETS}
        self.stop = asyncio.Event()
        self.ended: asyncio.Task[bool] | None = None
        self.connections: Connections

    @property
    def receiver(self) -> Receiver:
        return next(iter(self.receivers.values()))

    @property
    def lines(self) -> list[Any]:
        """The log lines about requests and connections."""
        return [line for line in self.logs if line["event"] in _REQUEST_EVENTS]

    def source(self, name: str) -> CallbackSource:
        return make_source(name, self.settings)

    def build(self, name: str, job_id: str, **options: Any) -> SimulatedRequest:
        """A genuine callback; options are those of ``build_payload`` and ``sign``."""
        source = self.source(name)
        payload = options.pop("payload", None)
        if payload is None:
            shape = {key: options.pop(key) for key in ("event", "failed") if key in options}
            payload = build_payload(source, job_id, **shape)
        return sign(source, payload, job_id=job_id, **options)

    async def send(self, request: SimulatedRequest | bytes, **options: Any) -> Answer:
        """Send one request on a connection of its own and read the answer."""
        if isinstance(request, SimulatedRequest):
            self.note_secrets(request)
            method, data = request.method, encode(request, **options)
        else:
            method, data = request.split(b" ", 1)[0].decode("latin-1"), request
        async with connected(self.address) as (reader, writer):
            writer.write(data)
            answer = await read_answer(reader, method=method)
        assert answer is not None, "the connection was closed without an answer"
        return answer

    async def get(self, target: str, *, admin: bool = False, method: str = "GET", headers: Headers = ()) -> Answer:
        address = self.admin_address if admin else self.address
        async with connected(address) as (reader, writer):
            writer.write(encode_request(method, target, headers, host=address))
            answer = await read_answer(reader, method=method)
        assert answer is not None
        return answer

    def note_secrets(self, request: SimulatedRequest) -> None:
        found = [
            value.encode()
            for name, value in request.headers.items()
            if name.lower().endswith("-signature") or name.lower() in ("authorization", "content-md5")
        ]
        if request.target.startswith("/callbacks/gif/"):
            found.append(request.target.rpartition("/")[2].encode())
        # Anything shorter, such as the body "null", is a word that may stand in any sentence.
        self.secrets.update(secret for secret in [*found, request.body] if len(secret) >= 16)

    async def metrics(self) -> dict[str, float]:
        """Samples by ``name{label="value",…}``."""
        answer = await self.get("/metrics", admin=True)
        assert answer.status == 200
        lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def rows(self, sql: str) -> list[Any]:
        """What the store holds, read behind the service's back."""
        with closing(connect(self.settings.store.sqlite_path)) as connection:
            return connection.execute(sql).fetchall()

    @asynccontextmanager
    async def failing_store(self, breaking: str, mending: str) -> AsyncIterator[None]:
        """The writer's connection with a PRAGMA that makes writing fail, and with another one afterwards."""

        async def find(database: SqliteDatabase) -> Connection:
            return database.connection

        connection = await self.service.inbox._write(find)  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA {breaking}")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA {mending}")

    async def until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_true():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.005)

    def assert_nothing_secret_was_logged(self) -> None:
        text = "\n".join([json.dumps(line, default=str, ensure_ascii=False) for line in self.logs] + self.library_logs)
        for secret in self.secrets:
            assert secret.decode("utf-8", "replace") not in text, "something secret was logged"
            assert repr(secret)[2:-1] not in text, "something secret was logged"
        assert _PRESIGNED.search(text) is None, "a pre-signed URL was logged"


@asynccontextmanager
async def run_service(
    folder: Path,
    *,
    sinks: Iterable[str] = ("orders",),
    changes: Mapping[str, Any] | None = None,
    fetch: Fetch | None = None,
    adapter: Adapter = "socket",
) -> AsyncIterator[Running]:
    """
    The service through ``server.serve``, with all four sources, until the block ends.

    Args:
        sinks: Names of webhook sinks, each with a receiver of its own.
        fetch: Gets certificates where the source pins none. Without it nothing can be got.
        adapter: What carries requests to the public listener: the service's own protocol, or uvicorn's and ASGI.
    """
    services: list[Service] = []
    addresses: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    def create(settings: Settings, **options: Any) -> Any:
        app = create_app(settings, **options)
        services.append(app.service)
        return app

    made: list[Connections] = []

    def observed(edge: Edge, connections: Connections, **options: Any) -> Any:
        made.append(connections)
        return make_protocol(edge, connections, **options) if adapter == "socket" else H11Protocol

    async def unreachable(url: str) -> Any:
        raise aiohttp.ClientConnectionError("no network in tests")

    async with _Receivers(sinks) as receivers:
        urls = {name: receiver.url for name, receiver in receivers.items()}
        settings = build_settings(make_tables(folder, urls, changes), environ={})
        records = _Records()
        logging.getLogger().addHandler(records)
        try:
            with (
                capture_logs() as logs,
                patch("media_callbacks.process.server.create_app", create),
                patch("media_callbacks.process.server.make_protocol", observed),
                patch("media_callbacks.app.CertificateStore", partial(CertificateStore, fetch=fetch or unreachable)),
            ):
                stop = asyncio.Event()
                ended = asyncio.create_task(
                    serve(
                        settings,
                        stop=stop,
                        listening=lambda *found: addresses.set_result(found),
                        make_explain=lambda settings, known_key: (
                            RefusalExplainer(settings, known_key, time.thread_time).explain
                        ),
                    )
                )
                await asyncio.wait([ended, addresses], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
                if ended.done():
                    await ended
                running = Running(services[0], *addresses.result(), receivers)
                running.logs, running.library_logs = logs, records.texts
                running.stop, running.ended, running.connections = stop, ended, made[0]
                try:
                    yield running
                finally:
                    stop.set()
                    async with asyncio.timeout(PATIENCE_S):
                        await ended
        finally:
            logging.getLogger().removeHandler(records)
        running.assert_nothing_secret_was_logged()


class _Receivers:
    def __init__(self, names: Iterable[str]) -> None:
        self._contexts = {name: receiving() for name in names}

    async def __aenter__(self) -> dict[str, Receiver]:
        return {name: await context.__aenter__() for name, context in self._contexts.items()}

    async def __aexit__(self, *_: object) -> None:
        for context in self._contexts.values():
            await context.__aexit__(None, None, None)
