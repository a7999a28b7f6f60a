"""The service is restarted, reloaded and run in several processes, and nobody is refused meanwhile."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.config.settings import build_settings
from media_callbacks.model.errors import ConfigError
from media_callbacks.process.listeners import open_listeners
from media_callbacks.process.workers import check_workers, settings_of
from tests.factories.running import ADMIN_TOKEN, PATIENCE_S, connected, make_tables, read_answer
from tests.process.test_server import Process, genuine, serving, write_config

# Starts a command as systemd does: with a listening socket at descriptor 3, and variables that tell of it.
ACTIVATE = """
import os, sys
descriptor = int(sys.argv[1])
os.dup2(descriptor, 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.executable, [sys.executable, "-m", "media_callbacks", "serve", "--config", sys.argv[3]])
"""


@pytest.fixture
def held() -> Any:
    """A port that somebody else holds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@asynccontextmanager
async def activated(config: Path, held: socket.socket, name: str = "public") -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ACTIVATE,
        str(held.fileno()),
        name,
        str(config),
        pass_fds=[held.fileno()],
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Stream:
    """Callbacks one after the other, each on a connection of its own, as VOD sends them."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder, self._address = folder, address
        self.answers: list[int | str] = []
        self._answered = asyncio.Event()
        self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while True:
            request = genuine(self._folder, "vod", f"job-{len(self.answers)}")
            try:
                async with connected(self._address) as (reader, writer):
                    writer.write(request)
                    answer = await read_answer(reader)
                    self.answers.append("closed" if answer is None else answer.status)
            except OSError as error:
                self.answers.append(type(error).__name__)
            self._answered.set()

    async def more(self, count: int = 5) -> None:
        """Until so many more are answered."""
        goal = len(self.answers) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.answers) < goal:
                self._answered.clear()
                await self._answered.wait()

    async def end(self) -> list[int | str]:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self.answers


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


async def test_a_restart_behind_a_socket_of_systemds_refuses_nobody(tmp_path, held):
    config = write_config(tmp_path, {"server.port": 1})
    stream = Stream(tmp_path, address_of(held))
    for _ in range(2):
        async with activated(config, held) as process:
            assert (await process.read_until("listening"))["server"] == address_of(held)
            await stream.more()
            process.process.send_signal(signal.SIGTERM)
            assert await process.end() == 0
    async with activated(config, held):
        await stream.more()
        assert set(await stream.end()) == {200}


async def test_sighup_starts_anew_with_the_configuration_as_it_is_now(tmp_path):
    config = write_config(tmp_path)
    async with serving(config) as process:
        before = await process.read_until("listening")
        stream = Stream(tmp_path, before["server"])
        await stream.more()
        write_config(tmp_path, {"sources.more": more_source()})
        process.process.send_signal(signal.SIGHUP)
        await process.read_until("starting_anew")
        after = await process.read_until("listening")
        await stream.more()
        assert set(await stream.end()) == {200}
        assert (after["server"], after["admin"]) == (before["server"], before["admin"])
        assert [*before["sources"], "more"] == after["sources"]
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0


def more_source() -> Mapping[str, Any]:
    return {
        "product": "vod",
        "transport": "http",
        "path": "/callbacks/more",
        "url": "https://cb.example.com/callbacks/more",
        "keys": ["another-key-4f3a"],
    }


async def test_sighup_with_a_mistake_says_what_is_wrong_and_goes_on(tmp_path):
    config = write_config(tmp_path)
    async with serving(config) as process:
        address = (await process.read_until("listening"))["server"]
        stream = Stream(tmp_path, address)
        write_config(tmp_path, {"sources.vod.product": "vdo", "server.prot": 8080})
        process.process.send_signal(signal.SIGHUP)
        told = [(await process.read_until("not_started_anew"))["detail"] for _ in range(2)]
        assert any("server.prot" in line for line in told)
        assert any("sources.vod.product" in line for line in told)
        await stream.more()
        write_config(tmp_path)
        process.process.send_signal(signal.SIGHUP)
        await process.read_until("listening")
        await stream.more()
        assert set(await stream.end()) == {200}


async def test_sighup_with_a_new_variable_says_that_a_process_keeps_its_environment(tmp_path):
    config = write_config(tmp_path)
    async with serving(config) as process:
        address = (await process.read_until("listening"))["admin"]
        assert await reload_failed(address) == 0
        write_config(tmp_path, {"sources.vod.keys": ["${VOD_KEY_NEW}"]})
        process.process.send_signal(signal.SIGHUP)
        told = [(await process.read_until("not_started_anew"))["detail"] for _ in range(2)]
        assert "the environment variable VOD_KEY_NEW is not set" in told[0]
        assert "put the value into a file and name that as file:/path, or restart the service" in told[1]
        assert await reload_failed(address) == 1
        (tmp_path / "key").write_text("another-key-4f3a")
        write_config(tmp_path, {"sources.vod.keys": [f"file:{tmp_path / 'key'}"]})
        process.process.send_signal(signal.SIGHUP)
        await process.read_until("listening")
        assert await reload_failed(address) == 0


async def reload_failed(admin_address: str) -> float:
    """What the metrics say of it."""
    async with connected(admin_address) as (reader, writer):
        writer.write(
            f"GET /metrics HTTP/1.1\r\nHost: {admin_address}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode()
        )
        answer = await read_answer(reader)
    assert answer is not None
    found = re.search(rb"^media_callbacks_configuration_reload_failed (.+)$", answer.body, re.MULTILINE)
    assert found is not None, answer
    return float(found[1])


async def test_sighup_is_never_the_end(tmp_path):
    """Not before there is anybody to wait for it, not while the next one begins, not in an instant after another."""
    config = write_config(tmp_path)
    async with serving(config) as process:
        address = (await process.read_until("listening"))["server"]
        stream = Stream(tmp_path, address)
        for _ in range(2):
            process.process.send_signal(signal.SIGHUP)
            await process.read_until("stopped")
            # From here on until it listens again there is nobody to wait for it.
            for _ in range(20):
                process.process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.02)
            await process.read_until("listening")
        await stream.more()
        assert set(await stream.end()) == {200}
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0


UNUSABLE: dict[str, Mapping[str, Any]] = {
    "server.port": {"server.port": "taken"},
    "admin.port": {"admin.port": "taken"},
    "server.port: cannot listen on 192.0.2.1": {"server.host": "192.0.2.1"},
    "store.url": {"store.url": "sqlite:///nowhere/at/all.db"},
}


@pytest.mark.parametrize("told", UNUSABLE)
async def test_sighup_with_what_cannot_be_used_says_so_and_goes_on(tmp_path, held, told):
    changes = {name: held.getsockname()[1] if value == "taken" else value for name, value in UNUSABLE[told].items()}
    async with serving(write_config(tmp_path)) as process:
        address = (await process.read_until("listening"))["server"]
        write_config(tmp_path, changes)
        process.process.send_signal(signal.SIGHUP)
        assert (await process.read_until("not_started_anew"))["detail"].startswith(told)
        stream = Stream(tmp_path, address)
        await stream.more()
        assert set(await stream.end()) == {200}


async def test_a_database_that_is_away_is_no_reason_where_a_journal_takes_over(tmp_path):
    """How else would the journal get more room while it fills?"""
    away = {"store.url": "postgresql://mc@127.0.0.1:1/mc", "server.journal_path": str(tmp_path / "journal")}
    async with serving(write_config(tmp_path, away)) as process:
        address = (await process.read_until("listening"))["server"]
        stream = Stream(tmp_path, address)
        await stream.more()
        write_config(tmp_path, {**away, "store.url": "postgresql://mc@127.0.0.1:2/mc"})
        process.process.send_signal(signal.SIGHUP)
        assert (await process.read_until("not_started_anew"))["detail"].startswith("store.url")
        write_config(tmp_path, {**away, "server.journal_max_bytes": 1 << 30, "sources.more": more_source()})
        process.process.send_signal(signal.SIGHUP)
        assert "more" in (await process.read_until("listening"))["sources"]
        await stream.more()
        assert set(await stream.end()) == {200}


async def test_another_port_is_bound_anew(tmp_path):
    config = write_config(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with serving(config) as process:
        await process.read_until("listening")
        write_config(tmp_path, {"server.port": port})
        process.process.send_signal(signal.SIGHUP)
        address = (await process.read_until("listening"))["server"]
        assert address == f"127.0.0.1:{port}"
        async with connected(address) as (reader, writer):
            writer.write(genuine(tmp_path, "vod", "job-1"))
            answer = await read_answer(reader)
            assert answer is not None
            assert answer.status == 200


@pytest.mark.parametrize("name", ["callbacks", "public:public"])
async def test_a_socket_of_an_unknown_name_is_told_in_a_sentence(tmp_path, held, name):
    async with activated(write_config(tmp_path), held, name) as process:
        if name == "public:public":
            # Only one was handed over, so the second name is nobody's.
            await process.read_until("listening")
            return
        assert await process.end() == 2
        assert process.lines[-1].startswith('LISTEN_FDNAMES: expected listening TCP sockets named "public" and "admin"')


def test_what_is_handed_to_another_process_is_left_alone(tmp_path):
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}
    settings = build_settings(make_tables(tmp_path, {}), environ={})
    listeners = open_listeners(settings, environ)
    assert not listeners.inherited
    assert environ == {}
    listeners.close()


# Several processes


def test_sqlite_serves_one_process(tmp_path):
    settings = build_settings(make_tables(tmp_path, {}), environ={})
    check_workers(1, settings)
    with pytest.raises(ConfigError, match="--workers 2: SQLite serves one process"):
        check_workers(2, settings)


def test_each_worker_has_a_journal_and_a_port_of_its_own(tmp_path):
    changes = {
        "store.url": "postgresql://mc@127.0.0.1/mc",
        "server.journal_path": str(tmp_path / "journal"),
        "admin.port": 8081,
    }
    settings = build_settings(make_tables(tmp_path, {}, changes), environ={})
    own = [settings_of(worker, settings) for worker in range(3)]
    assert [each.admin.port for each in own] == [8081, 8082, 8083]
    assert [each.server.journal_path for each in own] == [
        str(tmp_path / name) for name in ("journal", "journal-1", "journal-2")
    ]
    left = tmp_path / "journal-2"
    left.mkdir()
    check_workers(2, settings)
    (left / "000000000001.journal").write_bytes(b"callbacks")
    check_workers(3, settings)
    with pytest.raises(ConfigError, match="journal-2 still has callbacks of worker 2; start once with --workers 3"):
        check_workers(2, settings)


async def test_workers_share_a_port_and_one_that_dies_is_replaced(tmp_path, database_url):
    config = write_config(tmp_path, {"store.url": database_url})
    async with serving(config, "--workers", "2") as process:
        pids = [(await process.read_until("worker_started"))["pid"] for _ in range(2)]
        listening = [await process.read_until("listening") for _ in pids]
        address, admins = listening[0]["server"], [line["admin"] for line in listening]
        stream = Stream(tmp_path, address)
        await stream.more()
        write_config(tmp_path, {"store.url": database_url, "sources.vod.product": "vdo"})
        process.process.send_signal(signal.SIGHUP)
        await process.read_until("not_started_anew")
        assert [await reload_failed(admin) for admin in admins] == [1, 1]
        write_config(tmp_path, {"store.url": database_url})
        os.kill(pids[0], signal.SIGKILL)
        await process.read_until("worker_started")
        await stream.more()
        process.process.send_signal(signal.SIGHUP)
        await process.read_until("starting_anew")
        for _ in pids:
            await process.read_until("listening")
        await stream.more(20)
        answers = await stream.end()
        # Of those that the killed one had in hand, one may have been lost with it; whoever came after was answered.
        assert set(answers) <= {200, "closed", "ConnectionResetError", "IncompleteReadError"}
        assert len([answer for answer in answers if answer != 200]) <= 1
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0
    assert [json.loads(line)["code"] for line in process.lines if '"worker_ended"' in line].count(-9) == 1


async def test_a_worker_that_is_killed_before_it_listens_is_replaced(tmp_path, database_url):
    config = write_config(tmp_path, {"store.url": database_url})
    async with serving(config, "--workers", "2") as process:
        for _ in range(2):
            os.kill((await process.read_until("worker_started"))["pid"], signal.SIGKILL)
        for _ in range(2):
            await process.read_until("listening")
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_a_worker_that_cannot_start_ends_them_all(tmp_path, database_url):
    config = write_config(tmp_path, {"store.url": database_url + "_missing"})
    async with serving(config, "--workers", "2") as process:
        assert await process.end() == 1
