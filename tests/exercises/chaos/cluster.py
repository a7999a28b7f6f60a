"""Several real services on one real PostgreSQL, each in a process of its own, behind a real nginx."""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from media_callbacks.config.settings import build_settings
from media_callbacks.delivery.dispatcher import LEASE_MARGIN_S
from media_callbacks.sources.base import CallbackSource
from tests.deploy.proxy import find_nginx, proxying
from tests.exercises.chaos.queues import Queues
from tests.exercises.chaos.vendor import ProxySender, RoundRobinSender
from tests.factories.clocks import ProcessClock
from tests.factories.memory import find_memory
from tests.factories.postgresql import PostgresqlServer
from tests.factories.running import connected, encode_request, make_source, make_tables, read_answer, to_toml

# Time for an attempt.
SINK_TIMEOUT_S = 1.0
LEASE_S = SINK_TIMEOUT_S + LEASE_MARGIN_S
# Longer than the 2 s for which nginx leaves an instance alone that was away: it must know again that one is back when
# the next one goes.
DRAIN_S = 3.0
STOP_TIMEOUT_S = 5.0
# As the service promises, and as much again because the machine is busy.
EXIT_BOUND_S = (DRAIN_S + STOP_TIMEOUT_S + 5.0) * 2
START_BOUND_S = 30.0
JOURNAL_BYTES = 64 << 20
# Of the disk for the journals: what a journal never takes is 16 MiB.
DISK_BYTES = 48 << 20

Complain = Callable[[str], None]


@dataclass
class Life:
    """
    One process of an instance.

    Attributes:
        memory: Resident bytes by seconds since it was started.
    """

    memory: list[tuple[float, int]] = field(default_factory=list)


class Instance:
    """
    Args:
        complain: Told what must never happen.
    """

    def __init__(self, name: str, folder: Path, *, port: int, complain: Complain) -> None:
        self.name = name
        self.port = port
        self.config = folder / f"{name}.toml"
        self.log = folder / f"{name}.log"
        self.journal = folder / "disk" / name
        self.clock = ProcessClock(folder / f"{name}.clock")
        self.lives: list[Life] = []
        self.starts_s: list[float] = []
        self._complain = complain
        self._process: subprocess.Popen[bytes] | None = None
        self._is_starting = False
        self._started = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, again and again if need be, and return when it is ready, or when that takes very long."""
        while True:
            self._spawn()
            self._is_starting = True
            is_ready = await self._until_ready()
            self._is_starting = False
            if is_ready:
                return
            assert self._process is not None
            code, self._process = self._process.returncode, None
            self._complain(f"{self.name} ended by itself when it was started, with code {code}: {self._last_line()}")
            await asyncio.sleep(1.0)

    def _spawn(self) -> None:
        with self.log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "media_callbacks", "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self._environment(),
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it takes no lock
            )
        self._started = time.monotonic()
        self.lives.append(Life())

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDIA_CALLBACKS")}
        return {**environment, "PYTHONWARNINGS": "error", **self.clock.environment()}

    async def run_tool(self, command: str) -> tuple[int | None, str]:
        """What an operator does beside it, on its machine, and so by its clock: exit code, and what it says."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "media_callbacks", command, "--config", str(self.config)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            preexec_fn=_end_with_parent,
        )
        said, _ = await process.communicate()
        _tidy_up(process.pid)
        return process.returncode, said.decode("utf-8", "replace")

    async def _until_ready(self) -> bool:
        """False when it has ended instead."""
        assert self._process is not None
        while time.monotonic() - self._started < START_BOUND_S:
            if self._process.poll() is not None:
                return False
            if await self._is_ready():
                self.starts_s.append(time.monotonic() - self._started)
                return True
            await asyncio.sleep(0.02)
        return True

    async def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with connected(self.address) as (reader, writer):
                writer.write(encode_request("GET", "/health/ready"))
                answer = await read_answer(reader)
                return answer is not None and answer.status == 200
        return False

    async def stop(self) -> None:
        """As a deploy does: SIGTERM, and it must end by itself in time."""
        process = self._process
        assert process is not None
        began = time.monotonic()
        # From now on it may end.
        self._process = None
        process.send_signal(signal.SIGTERM)
        while process.poll() is None and time.monotonic() - began < EXIT_BOUND_S:  # noqa: ASYNC110 - it is a process
            await asyncio.sleep(0.02)
        if process.poll() is None:
            self._complain(f"{self.name} had not ended {EXIT_BOUND_S:.0f} s after SIGTERM")
            process.kill()
        elif process.returncode:
            self._complain(f"{self.name} ended with code {process.returncode} after SIGTERM: {self._last_line()}")
        process.wait()
        _tidy_up(process.pid)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            _tidy_up(self._process.pid)
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def watch(self) -> None:
        """Note how much memory it has; complain when it is not there any more."""
        process = self._process
        if process is None or self._is_starting:
            return
        if process.poll() is not None:
            self._complain(f"{self.name} ended by itself with code {process.returncode}: {self._last_line()}")
            self._process = None
            return
        with contextlib.suppress(OSError, IndexError):
            self.lives[-1].memory.append((time.monotonic() - self._started, self.memory_bytes()))

    def memory_bytes(self) -> int:
        """Resident now."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def peak_memory_bytes(self) -> int:
        """The most that was resident since it was started."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def _last_line(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return lines[-1][:300] if lines else "(no log)"

    def log_lines(self) -> tuple[list[dict[str, Any]], list[str]]:
        """What it logged, and lines that are not its own, such as tracebacks."""
        lines, others = [], []
        for line in self.log.read_text("utf-8", "replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                others.append(line)
        return lines, others

    def journal_files(self, pattern: str) -> list[str]:
        return [f"{self.name}/{path.name}" for path in self.journal.glob(pattern)]


def _tidy_up(process: int) -> None:
    # libfaketime leaves these behind when its process is killed.
    for name in ("faketime_shm", "sem.faketime_sem"):
        Path(f"/dev/shm/{name}_{process}").unlink(missing_ok=True)


def _end_with_parent() -> None:
    # Also when the run is killed. PR_SET_PDEATHSIG is Linux's.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Disk:
    """
    Where the journals are: a small file system of its own where we may mount one. Elsewhere it can't be filled, and
    the journals are made small instead.
    """

    def __init__(self, path: Path, *, size_bytes: int = DISK_BYTES) -> None:
        self._path = path
        self._ballast = path / "ballast"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "media-callbacks-chaos", str(path)]
        self.is_own = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0

    @property
    def journal_max_bytes(self) -> int:
        return JOURNAL_BYTES if self.is_own else 1 << 20

    def fill(self, *, room_bytes: int = 0) -> None:
        if not self.is_own:
            return
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while file.write(b"\0" * 65536):
                pass
        os.truncate(self._ballast, self._ballast.stat().st_size - room_bytes)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        if self.is_own:
            subprocess.run(["umount", str(self._path)], check=False, capture_output=True)


@dataclass
class Cluster:
    """
    Attributes:
        has_nginx: Otherwise requests go to the instances directly.
    """

    instances: list[Instance]
    sources: list[CallbackSource]
    queues: Queues
    database: PostgresqlServer
    disk: Disk
    sender: ProxySender | RoundRobinSender
    has_nginx: bool

    async def start_database(self) -> None:
        await asyncio.to_thread(self.database.start)

    async def stop_database(self, number: signal.Signals) -> None:
        await asyncio.to_thread(self.database.stop, number)

    async def cut_connections(self) -> int:
        """All that services have to the database; how many there were."""
        rows = await self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'media-callbacks'"
        )
        return len(rows)

    async def query(self, sql: str) -> list[Any]:
        connection = await asyncpg.connect(self.database.url())
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    async def restart_one_by_one(self) -> None:
        for instance in self.instances:
            await instance.stop()
            await instance.start()


@asynccontextmanager
async def clustered(
    folder: Path, consumer_url: str, queues: Queues, *, instances: int, complain: Complain
) -> AsyncIterator[Cluster]:
    """
    A cluster that is up and ready.

    Raises:
        tests.factories.postgresql.NoServer: There is no PostgreSQL.
    """
    database = PostgresqlServer(settings={"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"})
    disk = Disk(folder / "disk")
    made: list[Instance] = []
    try:
        await asyncio.to_thread(database.start)
        for number, port in enumerate(free_ports(instances), 1):
            made.append(Instance(f"instance-{number}", folder, port=port, complain=complain))
        sources = [_configure(one, consumer_url, queues, database.url(), folder, disk=disk) for one in made]
        await asyncio.gather(*(instance.start() for instance in made))
        names = {instance.address: instance.name for instance in made}
        async with _sending(folder, names) as (sender, has_nginx):
            yield Cluster(made, sources[0], queues, database, disk, sender, has_nginx)
    finally:
        for instance in made:
            instance.kill()
        await asyncio.to_thread(database.remove)
        disk.remove()


def _configure(
    instance: Instance, consumer_url: str, queues: Queues, database_url: str, folder: Path, *, disk: Disk
) -> list[CallbackSource]:
    """Write its configuration. Returns the sources in it that are reached over HTTP."""
    second = {"vod": "/callbacks/vod-second", "ims": "/callbacks/ims-second", "mts": "/callbacks/mts/second-77aa01c2"}
    tables = make_tables(
        folder,
        {"orders": consumer_url},
        queues.changes()
        | {
            "server.port": instance.port,
            "server.drain_s": DRAIN_S,
            "server.stop_timeout_s": STOP_TIMEOUT_S,
            "server.journal_path": str(instance.journal),
            "server.journal_max_bytes": disk.journal_max_bytes,
            "store.url": database_url,
            "sinks.orders.timeout_s": SINK_TIMEOUT_S,
            # Nothing may be given up in a run, and little waited for at its end.
            "sinks.orders.retry_delays_s": [1] * 10 + [2] * 40,
        },
    )
    for name, path in second.items():
        # The same jobs may be reported through two entrances: another registered URL, another subscription.
        table = dict(tables["sources"][name], path=path)
        if "url" in table:
            table["url"] = f"https://cb.example.com{path}"
        tables["sources"][f"{name}-second"] = table
    instance.config.write_text(to_toml(tables))
    settings = build_settings(tables, environ={})
    return [make_source(name, settings) for name in settings.callback_sources]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@asynccontextmanager
async def _sending(
    folder: Path, names: Mapping[str, str]
) -> AsyncIterator[tuple[ProxySender | RoundRobinSender, bool]]:
    if not has_nginx():
        print("WARNING: nginx is not installed; requests go to the instances directly: apt-get install nginx-light")
        direct = RoundRobinSender(names)
        try:
            yield direct, False
        finally:
            await direct.close()
        return
    # So that a report can say who answered. It is the only difference to the configuration of deploy/.
    say_who = "\n        add_header X-Upstream $upstream_addr always;"
    exchanges = {line: line + say_who for line in ("proxy_request_buffering on;", "add_header Retry-After 1 always;")}
    async with proxying(folder, *names, replace=exchanges) as proxy:
        sender = ProxySender(proxy.address, names)
        try:
            yield sender, True
        finally:
            await sender.close()


def has_nginx() -> bool:
    """Where nginx is required and not there, this fails."""
    try:
        find_nginx()
    except pytest.skip.Exception:
        return False
    return True


def make_parent() -> Path:
    """
    A new directory for logs and configurations: in memory, where there is room. On a disk that PostgreSQL keeps busy
    with flushing, writing a log line can take seconds, for nginx and all instances at once.
    """
    return Path(tempfile.mkdtemp(prefix="mc-chaos-", dir=find_memory()))


def make_folder(parent: Path, name: str) -> Path:
    """A new directory, empty also after a run that was killed."""
    folder = parent / name
    subprocess.run(["umount", str(folder / "disk")], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
