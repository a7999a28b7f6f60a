"""The servers that are measured: each a program of its own on the same core, up for the whole run."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from media_callbacks.config.sinks import SINK_MODELS, AliyunSinkSettings
from tests.exercises.bench.callbacks import KEY, PATH, URL
from tests.exercises.bench.load import InvalidRun
from tests.exercises.bench.one_commit import DATABASE as ONE_COMMIT_DATABASE

CHECKOUT = Path(__file__).resolve().parents[3]
START_PATIENCE_S = 20.0
STOP_PATIENCE_S = 30.0
JSON2FILE_TOKEN = "bench-token"

_CONFIG = """
[server]
host = "127.0.0.1"
port = 0
stop_timeout_s = {stop_timeout_s}
drain_s = 0

[admin]
port = 0

[store]
url = "{store}"

[sources.vod]
product = "vod"
transport = "http"
path = "{path}"
url = "{url}"
keys = ["{key}"]
"""

SECRET = "whsec_YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2g="

_SINK = """
[sinks.{name}]
kind = "webhook"
url = "http://{receiver}/"
secrets = ["{secret}"]
{options}
"""
# One attempt at a time, of the longest time-out: the receiver takes the connection and never answers, so there is
# an attempt every 25 s and a row for every delivery.
# Whose queues, topics and buses need credentials.
VENDOR = {"region": "cn-shanghai", "access_key_id": "bench", "access_key_secret": "secret-of-bench"}
_SILENT = "concurrency = 1\ntimeout_s = 25"


@dataclass(slots=True)
class Server:
    """
    A server that answers.

    Attributes:
        name: What it is called in the report.
        path, headers: Where callbacks go, and what must be sent beside them.
        admin: The operators' address, where there is one.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    address: tuple[str, int]
    path: str = PATH
    admin: tuple[str, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def stop(self) -> None:
        """
        Raises:
            InvalidRun: It had ended before, or does not end.
        """
        if self.process.poll() is not None:
            raise InvalidRun(f"{self.name} ended by itself with {self.process.returncode}")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise InvalidRun(f"{self.name} did not stop within {STOP_PATIENCE_S} s") from None

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class SilentReceiver:
    """Takes connections into the kernel's queue and never looks at them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "{}:{}".format(*self._listener.getsockname())

    def close(self) -> None:
        self._listener.close()


def spawn(
    command: Sequence[str],
    *,
    core: int,
    log: Path,
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a program on one core, its standard error in a file, as a service manager would have it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDIA_CALLBACKS")}
    ours = os.sched_getaffinity(0)
    # Children inherit it.
    os.sched_setaffinity(0, {core})
    try:
        with log.open("wb") as errors:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=CHECKOUT,
                env={**kept, **(environ or {})},
                pass_fds=pass_fds,
            )
    finally:
        os.sched_setaffinity(0, ours)


def _wait_for_port(name: str, process: "subprocess.Popen[bytes]", address: tuple[str, int], log: Path) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            socket.create_connection(address, timeout=1).close()
            return
        except OSError:
            _check_start(name, process, deadline, log)


def _check_start(name: str, process: "subprocess.Popen[bytes]", deadline: float, log: Path) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        process.kill()
        process.wait()
        raise InvalidRun(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
    time.sleep(0.02)


def _table(name: str, values: Mapping[str, Any]) -> str:
    # What a table has of values is written in TOML as in JSON.
    return "".join([f"\n[{name}]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in values.items())])


def start_service(
    name: str,
    folder: Path,
    *,
    core: int,
    receiver: str | None = None,
    sinks: Mapping[str, str | Mapping[str, Any]] | None = None,
    store: str | None = None,
    stop_timeout_s: float = 0,
    command: Sequence[str] = ("-m", "media_callbacks"),
    checkout: Path = CHECKOUT,
) -> Server:
    """
    The service itself, logging every callback and every attempt to a file.

    Args:
        receiver: Where a sink points to (``host:port``) that never gets an answer.
        sinks: By name, where further ones point to, or their tables.
        store: The URL of the database; without it, an SQLite file in the folder.
        stop_timeout_s: How long it waits for attempts in flight when it stops.
        command: What Python runs in place of ``-m media_callbacks``.
        checkout: Whose service it is.
    """
    folder.mkdir(exist_ok=True)
    config, log = folder / "media-callbacks.toml", folder / "log"
    text = _CONFIG.format(
        store=store or f"sqlite:///{database(folder)}", stop_timeout_s=stop_timeout_s, path=PATH, url=URL, key=KEY
    )
    if receiver is not None:
        text += _SINK.format(name="silent", receiver=receiver, secret=SECRET, options=_SILENT)
    for sink, there in (sinks or {}).items():
        if isinstance(there, str):
            text += _SINK.format(name=sink, receiver=there, secret=SECRET, options="")
        else:
            text += _table(f"sinks.{sink}", there)
            if issubclass(SINK_MODELS[there["kind"]], AliyunSinkSettings):
                text += _table("vendor.main", VENDOR)
    config.write_text(text)
    process = spawn(
        [sys.executable, *command, "serve", "--config", str(config)],
        core=core,
        log=log,
        environ={"PYTHONPATH": str(checkout.resolve() / "service")},
    )
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                listening = json.loads(line)
                return Server(name, process, _parse(listening["server"]), admin=_parse(listening["admin"]))
        _check_start(name, process, deadline, log)


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def start_bare(folder: Path, *, core: int) -> Server:
    process = spawn([sys.executable, "-m", "tests.exercises.bench.bare"], core=core, log=folder / "bare.log")
    assert process.stdout is not None
    host, _, port = process.stdout.readline().decode().strip().rpartition(":")
    if not port:
        raise InvalidRun(f"bare did not start:\n{(folder / 'bare.log').read_text()[-2000:]}")
    return Server("bare", process, (host, int(port)))


def start_flask(folder: Path, *, core: int) -> Server:
    command = "-m gunicorn --workers 1 --threads 16 --keep-alive 60 --no-control-socket"
    return _start_framework("flask", folder, command, "--bind fd://{} tests.exercises.bench.flask_app:app", core=core)


def start_fastapi(folder: Path, *, core: int) -> Server:
    command = "-m uvicorn --no-access-log --timeout-keep-alive 60"
    return _start_framework("fastapi", folder, command, "--fd {} tests.exercises.bench.fastapi_app:app", core=core)


def _start_framework(name: str, folder: Path, command: str, target: str, *, core: int) -> Server:
    """An application that commits once a request, on a socket that is open."""
    log = folder / f"{name}.log"
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        address = listener.getsockname()[:2]
        process = spawn(
            [sys.executable, *command.split(), *target.format(listener.fileno()).split()],
            core=core,
            log=log,
            environ={ONE_COMMIT_DATABASE: str(one_commit_database(folder, name))},
            pass_fds=[listener.fileno()],
        )
    _wait_for_port(name, process, address, log)
    return Server(name, process, address)


def start_json2file(folder: Path, *, core: int) -> Server | None:
    """Debian's json2file-go, where it is installed. Configured as its manual page json2file-go(8) says."""
    found = shutil.which("json2file-go", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        return None
    files = folder / "json2file"
    (files / "vod").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()[:2]
    environ = {
        "J2F_BASEDIR": str(files),
        "J2F_DIRLIST": f"vod:{JSON2FILE_TOKEN}",
        "J2F_HOST": address[0],
        "J2F_PORT": str(address[1]),
    }
    log = folder / "json2file.log"
    process = spawn([found], core=core, log=log, environ=environ)
    _wait_for_port("json2file-go", process, address, log)
    return Server("json2file-go", process, address, path="/vod", headers={"X-Auth-Token": JSON2FILE_TOKEN})


def start_webhook(folder: Path, *, core: int) -> Server | None:
    """
    Debian's webhook (github.com/adnanh/webhook), where it is installed, in the one configuration that makes our promise:
    it answers when a command has appended the body to a file and flushed it. It starts one a request.
    """
    found = shutil.which("webhook")
    if found is None:
        return None
    there = folder / "webhook"
    there.mkdir()
    script, hooks = there / "append", there / "hooks.json"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$1" >>"$0.d" && sync --data "$0.d"\n')
    script.chmod(0o700)
    hook = {
        "id": "vod",
        "execute-command": str(script),
        "include-command-output-in-response": True,
        "pass-arguments-to-command": [{"source": "entire-payload"}],
    }
    hooks.write_text(json.dumps([hook]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    log = folder / "webhook.log"
    process = spawn([found, "-hooks", str(hooks), "-ip", host, "-port", str(port)], core=core, log=log)
    _wait_for_port("webhook", process, (host, port), log)
    return Server("webhook", process, (host, port), path="/hooks/vod")


# What is left on disk

# Of what came after the first {stored} events.
COUNTS = {
    "events": "SELECT count(*) FROM events WHERE id > {stored}",
    "jobs": "SELECT count(DISTINCT job_id) FROM events WHERE id > {stored}",
    "receipts": "SELECT count(*) FROM receipts WHERE state = 'accepted' AND id > {stored}",
    "deliveries": "SELECT count(*) FROM deliveries WHERE event_id > {stored}",
}


def database(folder: Path) -> Path:
    return folder / "bench.db"


def one_commit_database(folder: Path, name: str) -> Path:
    return folder / f"{name}.db"


def flushes(folder: Path) -> int:
    """
    How many transactions the store has committed: ``iChange`` in the header of the WAL index.

    Source: "WAL-mode File Format", https://www.sqlite.org/walformat.html, section "The WAL-Index Header".
    """
    with database(folder).with_name("bench.db-shm").open("rb") as shared:
        return int(struct.unpack_from("=I", shared.read(12), 8)[0])


def count_rows(folder: Path, *, stored: int = 0) -> dict[str, int]:
    """What a service has stored, after so many events that were there before."""
    connection = sqlite3.connect(database(folder))
    try:
        return {name: int(connection.execute(sql.format(stored=stored)).fetchone()[0]) for name, sql in COUNTS.items()}
    finally:
        connection.close()


def check_counts(name: str, found: Mapping[str, int], *, acknowledged: int, has_sink: bool) -> None:
    """
    Every job that was acknowledged is stored, as an event and as a delivery of it, exactly once.

    Raises:
        InvalidRun: It is not.
    """
    expected = dict.fromkeys(COUNTS, acknowledged) | ({} if has_sink else {"deliveries": 0})
    if found != expected:
        raise InvalidRun(f"{name} acknowledged {acknowledged} jobs; expected {expected} in its store, found {found}")


def check_one_commit(folder: Path, name: str, *, acknowledged: int) -> None:
    """
    Raises:
        InvalidRun: Not every job that was acknowledged is stored.
    """
    connection = sqlite3.connect(one_commit_database(folder, name))
    try:
        found = connection.execute("SELECT count(*) FROM jobs").fetchone()[0]
    finally:
        connection.close()
    if found != acknowledged:
        raise InvalidRun(f"{name} acknowledged {acknowledged} jobs, {found} are in its store")


# The kernel's view


def thread_seconds(pid: int) -> tuple[float, float]:
    """Processor seconds that the main thread has used; and all else, processes that it started included."""
    main = others = 0.0
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (str(pid), *children):
        for thread in Path(f"/proc/{process}/task").iterdir():
            # After the name, which may hold anything: fields 14 and 15 of proc(5), user and system time.
            fields = (thread / "stat").read_text().rpartition(")")[2].split()
            if thread.name == process:
                # Fields 16 and 17: of those that have ended.
                others += (int(fields[13]) + int(fields[14])) / ticks_per_s
            used = (int(fields[11]) + int(fields[12])) / ticks_per_s
            if thread.name == str(pid):
                main += used
            else:
                others += used
    return main, others


def processor_seconds(*pids: int) -> float:
    """
    What all threads of these processes have used, to the nanosecond; those that have ended are left out.

    Source: https://docs.kernel.org/scheduler/sched-stats.html, section "/proc/<pid>/schedstat".
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_bytes(pid: int) -> tuple[int, int]:
    """What a process has in memory now, and what it had at most."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    parents = {str(folder.resolve()), *(str(parent) for parent in folder.resolve().parents)}
    return max((len(point), kind) for point, kind in mounts if point in parents)[1]
