"""
RabbitMQ, of Debian's package ``rabbitmq-server``: its programs, and none of its directories.

Starting it takes seconds, so a process has one server, whichever brokers it asks for: each is an entrance of its own, with
an exchange of its own. It is told what to do through its Erlang shell, where ``rabbitmqctl`` would start a virtual
machine for each word. The shell ends with its input, and the server with the shell: it outlives nobody.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import aiormq
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic

from media_callbacks.model.events import CONTENT_TYPE
from tests.factories.brokers.broker import Broker, NoBroker, Stored, each, find_program, free_port
from tests.factories.brokers.certificates import Certificates

# What the scripts in /usr/sbin start as another user, with that one's directories.
_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_TIMEOUT_S = 180


class _Server:
    """The one server of this process, which keeps what it has on disk when it is killed."""

    def __init__(self, folder: Path, *, max_message_bytes: int, user: str, password: str) -> None:
        if missing := RabbitMqBroker.missing():
            raise NoBroker(missing)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._output = self._folder / "output"
        configuration = [
            "listeners.tcp = none",
            f"default_user = {user}",
            f"default_pass = {password}",
            f"max_message_size = {max_message_bytes}",
            "disk_free_limit.absolute = 1MB",
            "log.console = true",
            "log.console.level = error",
        ]
        files = {
            "CONFIG_FILE": "rabbitmq.conf",
            "CONF_ENV_FILE": "environment",
            "ENABLED_PLUGINS_FILE": "plugins",
            "FEATURE_FLAGS_FILE": "feature_flags",
            "LOG_BASE": "log",
            "MNESIA_BASE": "mnesia",
        }
        for name, text in (("rabbitmq.conf", "\n".join(configuration)), ("environment", ""), ("plugins", "[].")):
            (self._folder / name).write_text(f"{text}\n")
        name_port = free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            # Where Erlang has its cookie.
            "HOME": str(self._folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(name_port),
            "RABBITMQ_NODENAME": "tests@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            # The shell.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
            **{f"RABBITMQ_{name}": str(self._folder / file) for name, file in files.items()},
        }
        # Here, or the server would start one that stays.
        self._names = self._run(find_program("epmd"), "-port", str(name_port), "-address", "127.0.0.1")
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        self._process = self._run(_SCRIPT)
        # At first there is no node yet that could be waited for.
        while self.tell("rabbit:await_startup()") != "ok":
            pass

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None

    def remove(self) -> None:
        self.kill()
        _end(self._names)

    def tell(self, expression: str) -> str:
        """Evaluate an Erlang expression in the server; its value as Erlang writes it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._asked += 1
        mark = f"value {self._asked}: "
        command = f'io:format("~n~s~0p~n", ["{mark}", catch begin {expression} end]).\n'
        self._process.stdin.write(command.encode())
        self._process.stdin.flush()
        deadline = time.monotonic() + _TIMEOUT_S
        while f"\n{mark}" not in (output := self._output.read_text(errors="replace")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoBroker(f"RabbitMQ does not answer:\n{output[-2000:]}")
            time.sleep(0.01)
        value = output.rpartition(f"\n{mark}")[2].partition("\n")[0]
        if "'EXIT'" in value:
            raise NoBroker(f"{expression}: {value}")
        return value

    def _run(self, *command: str | Path) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it takes no lock
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(_TIMEOUT_S)
    assert process.stdin is not None
    process.stdin.close()


def _end_with_parent() -> None:
    # Also when the tests are killed. PR_SET_PDEATHSIG is Linux's.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class RabbitMqBroker(Broker):
    kind: ClassVar[str] = "rabbitmq"
    template: ClassVar[str] = "{type}"
    max_bytes: ClassVar[int] = 300_000
    identity: ClassVar[Mapping[str, str]] = {"user": "media", "password": "a-password"}

    _server: ClassVar[_Server | None] = None
    # Those that are started, by their ports.
    _entrances: ClassVar[dict[int, "RabbitMqBroker"]] = {}

    def __init__(self, folder: Path, *, certificates: Certificates | None = None) -> None:
        super().__init__(folder, certificates=certificates)
        self._stored: list[Stored] = []

    @property
    def name(self) -> str:
        """Of the exchange, and of the queue that is bound to it."""
        return f"media-{self.port}"

    @classmethod
    def missing(cls) -> str | None:
        return None if _SCRIPT.exists() else "there is no RabbitMQ: apt-get install rabbitmq-server"

    def replayed(self, identity: str, number: int) -> str:
        return identity

    def start(self) -> None:
        if RabbitMqBroker._server is None:
            RabbitMqBroker._server = _Server(self.folder, max_message_bytes=self.max_bytes, **self.identity)
        self._entrances[self.port] = self
        opened = [self]
        if not RabbitMqBroker._server.is_running:
            RabbitMqBroker._server.start()
            opened = list(self._entrances.values())
        for entrance in opened:
            entrance._listen()

    def _listen(self) -> None:
        address = f'{{"127.0.0.1", {self.port}}}'
        if self.certificates is None:
            self.tell(f"rabbit_networking:start_tcp_listener({address}, 1)")
        else:
            folder = self.certificates.folder
            options = f'[{{certfile, "{folder}/server.pem"}}, {{keyfile, "{folder}/server.key"}}]'
            self.tell(f"rabbit_networking:start_ssl_listener({address}, {options}, 1)")

    def tell(self, expression: str) -> str:
        """Evaluate an Erlang expression in the server."""
        assert RabbitMqBroker._server is not None
        return RabbitMqBroker._server.tell(expression)

    def freeze(self) -> None:
        assert RabbitMqBroker._server is not None
        RabbitMqBroker._server.freeze()

    def kill(self) -> None:
        """All that are in this process; each starts again with whichever is started."""
        if RabbitMqBroker._server is not None:
            RabbitMqBroker._server.kill()

    def stop(self) -> None:
        self._entrances.pop(self.port, None)
        if not self._entrances and RabbitMqBroker._server is not None:
            RabbitMqBroker._server.remove()
            RabbitMqBroker._server = None

    def table(self, *, port: int | None = None) -> dict[str, Any]:
        scheme = "amqp" if self.certificates is None else "amqps"
        server = f"{scheme}://127.0.0.1:{port or self.port}"
        table = {"kind": "rabbitmq", "servers": [server], "exchange": self.name, **self.identity}
        return table if self.certificates is None else {**table, "ca_file": str(self.certificates.ca)}

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[AbstractChannel]:
        user, password = (quote(value) for value in self.identity.values())
        scheme = "amqp" if self.certificates is None else "amqps"
        connection = await aiormq.connect(
            f"{scheme}://{user}:{password}@127.0.0.1:{self.port}?heartbeat=0",
            context=None if self.certificates is None else self.certificates.client_context(),
        )
        try:
            yield await connection.channel()
        finally:
            await connection.close()

    async def prepare(self) -> None:
        await self.remove()
        self._stored.clear()
        async with self.connected() as channel:
            await channel.exchange_declare(self.name, exchange_type="topic", durable=True)
            await self.add_queue(channel)

    async def add_queue(
        self, channel: AbstractChannel, *, binding: str = "#", arguments: Mapping[str, Any] | None = None
    ) -> None:
        """In place of the one that was there."""
        await channel.queue_delete(self.name)
        await channel.queue_declare(self.name, durable=True, arguments=dict(arguments or {}))
        await channel.queue_bind(self.name, self.name, binding)

    async def fill(self) -> None:
        async with self.connected() as channel:
            await self.add_queue(channel, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
            await channel.basic_publish(b"", routing_key=self.name)

    async def make_room(self) -> None:
        async with self.connected() as channel:
            await self.add_queue(channel)

    async def remove(self) -> None:
        async with self.connected() as channel:
            await channel.queue_delete(self.name)
            await channel.exchange_delete(self.name)

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """It takes nothing meanwhile, as if it had no memory left."""
        self.tell("vm_memory_monitor:set_vm_memory_high_watermark(0.00001)")
        try:
            yield
        finally:
            self.tell("vm_memory_monitor:set_vm_memory_high_watermark(0.9)")

    async def read(self) -> Sequence[Stored]:
        async with self.connected() as channel:
            while (message := await channel.basic_get(self.name, no_ack=True)).delivery_tag is not None:
                properties = message.header.properties
                assert (properties.content_type, properties.delivery_mode) == (CONTENT_TYPE, 2)
                self._stored.append(Stored(message.routing_key or "", properties.message_id or "", message.body))
        return list(self._stored)

    async def count(self) -> int:
        async with self.connected() as channel:
            waiting = (await channel.queue_declare(self.name, passive=True)).message_count or 0
            return len(self._stored) + waiting

    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        async with self.connected() as channel:

            async def publish(body: bytes) -> None:
                await channel.basic_publish(
                    body,
                    exchange=self.name,
                    routing_key=self.name_of(body),
                    properties=Basic.Properties(
                        content_type=CONTENT_TYPE, delivery_mode=2, message_id=json.loads(body)["id"]
                    ),
                    mandatory=True,
                )

            await each(bodies, publish, at_once=at_once)
