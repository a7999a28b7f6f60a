"""
Real brokers for tests, benchmarks, chaos and the demo: one small adapter each.

A broker of ours has a folder and a port of its own, and keeps both when it is killed and started again.
"""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, TypeVar

from media_callbacks.config.checks import Entrance, list_origins
from media_callbacks.model.naming import NameTemplate, Origin
from tests.factories.brokers.certificates import Certificates


class NoBroker(Exception):
    """Why none can be started."""


class Stored(NamedTuple):
    """
    A message as a consumer finds it.

    Attributes:
        name: Of its topic, subject or routing key.
        identity: What the sink sent as the event's id, beside the event.
    """

    name: str
    identity: str
    body: bytes


class Broker(ABC):
    """
    Attributes:
        kind: Of the sink.
        port: Where it listens; the same after ``kill`` and ``start``.
        deduplicates: Whether it stores once what comes twice with the same id.
        repeats: Whether the client itself sends again what was not acknowledged, and the broker knows it.
        max_read: More messages than so many take it minutes to give back.
        template: Of names, as the sink has it by default.
        max_bytes: No event of this size fits.
        identity: With which a sink is let in, as keys of its table; wrong ones keep it out. Of a broker that is
            secured.
    """

    kind: ClassVar[str]
    deduplicates: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    max_read: ClassVar[int] = 1_000_000
    template: ClassVar[str]
    max_bytes: ClassVar[int]
    identity: ClassVar[Mapping[str, str]]

    def __init__(self, folder: Path, *, certificates: Certificates | None = None) -> None:
        """
        Args:
            certificates: With them it is secured: TLS alone, and nobody without ``identity``.
        """
        self.folder = folder
        self.port = free_port()
        self.certificates = certificates

    @classmethod
    def missing(cls) -> str | None:
        """Why none can be started, of a kind that not every machine has."""
        return None

    @property
    def names(self) -> Sequence[str]:
        """All that events of VOD go to."""
        origins = list_origins({}, None, [Entrance("vod", "vod", "default", None, covers_below=False)])
        return tuple(dict.fromkeys(map(NameTemplate(self.template).render, origins)))

    def name_of(self, body: bytes) -> str:
        return NameTemplate(self.template).render(Origin.read(json.loads(body)))

    def advertise(self, port: int) -> None:  # noqa: B027 - most need not
        """Have clients sent to a gate before it, where it is the broker who tells them where to connect."""

    def replayed(self, identity: str, number: int) -> str:
        """What a replay is known by."""
        return f"{identity}:replay-{number}"

    @abstractmethod
    def start(self) -> None:
        """Until it takes connections."""

    @abstractmethod
    def kill(self) -> None:
        """As a crash does. What it has acknowledged is on disk."""

    def freeze(self) -> None:  # noqa: B027 - not every one can
        """It answers nothing any more until it is killed, so that much is on its way then."""

    def stop(self) -> None:
        self.kill()

    @abstractmethod
    def table(self, *, port: int | None = None) -> dict[str, Any]:
        """Of a sink that sends there, and is let in. ``port``: of a gate before it."""

    @abstractmethod
    async def prepare(self) -> None:
        """Make what events are sent to, new and empty."""

    # What can go wrong with what events are sent to

    @abstractmethod
    async def fill(self) -> None:
        """Until it takes nothing more."""

    @abstractmethod
    async def make_room(self) -> None: ...

    @abstractmethod
    async def remove(self) -> None:
        """As if nobody had made it. ``prepare`` makes it again."""

    # What consumers and producers do

    @abstractmethod
    async def read(self) -> Sequence[Stored]:
        """All that is stored since ``prepare``, oldest first. May be asked again and again."""

    @abstractmethod
    async def count(self) -> int:
        """How many ``read`` would give."""

    @abstractmethod
    async def publish(self, bodies: Sequence[bytes], *, at_once: int) -> None:
        """
        The client's own loop, as its users would write it, with what the sink promises: each is acknowledged as the
        sink has it, and up to ``at_once`` are on their way.
        """


class Process:
    """A server that says on a line when it is ready."""

    def __init__(self, command: Sequence[str | Path], *, ready: bytes, **options: Any) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        assert self._process.stdout is not None
        output: IO[bytes] = self._process.stdout
        said = []
        for line in output:
            said.append(line)
            if ready in line:
                break
        else:
            self._process.wait()
            output.close()
            raise NoBroker(f"{command[0]} ended: {b''.join(said[-20:]).decode(errors='replace')}")
        # So that it never waits to be read.
        self._reader = threading.Thread(target=_drain, args=(output,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()


def _drain(output: IO[bytes]) -> None:
    with output:
        while output.read(65536):
            pass


def find_program(name: str) -> Path:
    """Of the environment that runs this, else of the machine."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return beside
    if found := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
        return Path(found)
    raise NoBroker(f"there is no {name}: install it, or `make environment`, which brings it where a wheel has it")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
        return port


ItemT = TypeVar("ItemT")


async def each(items: Iterable[ItemT], call: Callable[[ItemT], Awaitable[Any]], *, at_once: int) -> None:
    left = iter(items)

    async def work() -> None:
        for item in left:
            await call(item)

    await asyncio.gather(*(work() for _ in range(at_once)))
