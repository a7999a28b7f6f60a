"""The service as a process: how it starts, how it refuses to, how it stops."""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.commands.serve import run as run_serve
from media_callbacks.config.settings import build_settings
from media_callbacks.process.server import exit_after, serve
from media_callbacks.rehearsal.simulate import PAYLOADS
from tests.factories.running import (
    PATIENCE_S,
    SECRETS,
    connected,
    encode,
    encode_request,
    make_source,
    make_tables,
    read_answer,
    receiving,
    run_service,
    sign,
    to_toml,
)

ROOT = Path(__file__).parents[2]


class Process:
    """``media-callbacks serve`` with what it wrote to standard error until now."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @property
    def logs(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]

    async def read_until(self, event: str) -> Any:
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := await self.process.stderr.readline():
                self.lines.append(line.decode())
                if f'"event":"{event}"' in self.lines[-1]:
                    return json.loads(self.lines[-1])
        raise AssertionError(f"it ended without {event}: {self.lines}")

    async def end(self) -> int:
        """The exit code, when everything has been read."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            self.lines += (await self.process.stderr.read()).decode().splitlines()
            return await self.process.wait()


@asynccontextmanager
async def serving(config: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "media_callbacks",
        "serve",
        *(["--config", str(config)] if config else []),
        *arguments,
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def write_config(folder: Path, changes: Mapping[str, Any] | None = None, **sinks: str) -> Path:
    path = folder / "media-callbacks.toml"
    path.write_text(to_toml(make_tables(folder, sinks, changes)))
    return path


def genuine(folder: Path, name: str, job_id: str) -> bytes:
    source = make_source(name, build_settings(make_tables(folder, {}), environ={}))
    events = PAYLOADS[source.product]
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    return encode(sign(source, next(iter(events.values()))(job_id, now, False), job_id=job_id, now=now))


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_service_when_it_has_finished_what_it_began(tmp_path, number):
    async with receiving() as receiver, serving(write_config(tmp_path, orders=receiver.url)) as process:
        address = (await process.read_until("listening"))["server"]
        encoded = genuine(tmp_path, "mts", "late")
        async with connected(address) as (reader, writer), connected(address) as (other, idle):
            idle.write(genuine(tmp_path, "vod", "early"))
            answer = await read_answer(other)
            assert answer is not None
            assert answer.status == 200
            await process.read_until("attempt")
            # Asked to say so, the service has read the headers when it answers.
            head, _, body = encoded.partition(b"\r\n\r\n")
            writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            process.process.send_signal(number)
            # The idle connection is closed, the other one is not.
            assert await other.read() == b""
            writer.write(body)
            answer = await read_answer(reader)
            assert answer is not None
            assert answer.status == 204
        assert await process.end() == 0
        assert {event["subject"] for event in receiver.events} >= {"early"}
    assert [log["event"] for log in process.logs if log["event"].startswith("stop")] == ["stopping", "stopped"]
    assert [log["status"] for log in process.logs if log["event"] == "callback"] == [200, 204]
    text = "".join(process.lines)
    assert not [secret for secret in (*SECRETS, "early", "late") if secret in text]


async def test_a_client_that_never_finishes_does_not_keep_the_service_alive(tmp_path):
    config = write_config(tmp_path, {"server.stop_timeout_s": 3, "server.body_timeout_s": 300})
    async with serving(config) as process:
        address = (await process.read_until("listening"))["server"]
        async with connected(address) as (reader, writer):
            writer.write(encode_request("POST", "/callbacks/vod", [(b"Expect", b"100-continue")], b"12345")[:-1])
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            process.process.terminate()
            assert await process.end() == 0


async def test_a_webhook_that_never_answers_does_not_keep_the_service_alive(tmp_path):
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    asked = asyncio.Event()
    sink = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = sink.sockets[0].getsockname()[1]
    config = write_config(tmp_path, {"server.stop_timeout_s": 3}, orders=f"http://127.0.0.1:{port}/")
    async with sink, serving(config) as process:
        address = (await process.read_until("listening"))["server"]
        async with connected(address) as (reader, writer):
            writer.write(genuine(tmp_path, "vod", "j"))
            assert await read_answer(reader) is not None
        await asked.wait()
        process.process.terminate()
        assert await process.end() == 0
    # The event waits for the next start.
    async with receiving() as receiver, serving(write_config(tmp_path, orders=receiver.url)) as process:
        await process.read_until("listening")
        await receiver.wait_for(1)


async def test_while_it_drains_the_service_takes_callbacks_and_then_no_more(tmp_path):
    """A second signal ends it: without, this test would take ten minutes."""
    async with serving(write_config(tmp_path, {"server.drain_s": 600})) as process:
        address = (await process.read_until("listening"))["server"]
        async with connected(address) as (reader, writer):
            process.process.terminate()
            await process.read_until("draining")
            # On a connection that was there, and on new ones; each is closed by the service, so that nobody uses it
            # when it stops.
            writer.write(genuine(tmp_path, "vod", "kept-alive"))
            answer = await read_answer(reader)
            assert answer is not None
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await reader.read() == b""
        for name, status in (("mts", 204), ("gif", 200)):
            async with connected(address) as (reader, writer):
                writer.write(genuine(tmp_path, name, "j"))
                answer = await read_answer(reader)
                assert answer is not None
                assert answer.status == status
        async with connected(address) as (reader, writer):
            writer.write(encode_request("GET", "/health/ready"))
            answer = await read_answer(reader)
            assert answer is not None
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            assert answer.json() == {"status": "draining"}
        process.process.terminate()
        assert await process.end() == 0
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address.split(":"))
    assert [log["status"] for log in process.logs if log["event"] == "callback"] == [200, 204, 200]


async def test_draining_ends_by_itself(tmp_path, loop_clock):
    async with run_service(tmp_path, changes={"server.drain_s": 600}) as running:
        running.stop.set()
        await running.until(lambda: running.service.readiness.is_draining)
        assert (await running.send(running.build("vod", "j"))).status == 200
        await running.receiver.wait_for(1)
        assert running.ended is not None
        assert not running.ended.done()
        loop_clock.skip(600)
        await running.ended
    assert [line["event"] for line in running.logs if line["event"] in ("draining", "stopping", "stopped")] == [
        "draining",
        "stopping",
        "stopped",
    ]


async def test_a_terminal_need_not_wait_for_the_balancer(tmp_path):
    async with serving(write_config(tmp_path, {"server.drain_s": 600})) as process:
        await process.read_until("listening")
        process.process.send_signal(signal.SIGINT)
        assert await process.end() == 0
    assert "draining" not in [log["event"] for log in process.logs]


async def test_a_process_that_cannot_end_is_ended(tmp_path):
    code = """
import threading
from media_callbacks.process.server import exit_after
from media_callbacks.observe.logs import configure_logs
configure_logs("info")
exit_after(0.2)
threading.Thread(target=threading.Event().wait).start()
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(PATIENCE_S):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert b'"event":"stop_timed_out"' in errors


async def test_the_time_to_stop_is_bounded_by_the_settings(tmp_path):
    settings = build_settings(
        make_tables(tmp_path, {}, {"server.drain_s": 0.1, "server.stop_timeout_s": 3}), environ={}
    )
    stop = asyncio.Event()
    told: list[float] = []
    stop.set()
    await serve(settings, stop=stop, stopping=told.append)
    assert told == [0.1 + 3 + 5]


def test_the_command_holds_the_service_to_that_time(tmp_path, monkeypatch):
    given = {}

    async def record(settings: Any, listeners: Any, **options: Any) -> None:
        given.update(options)

    monkeypatch.setattr("media_callbacks.process.server.serve", record)
    monkeypatch.setattr("media_callbacks.commands.serve.configure_logs", lambda _: None)
    arguments = argparse.Namespace(config=str(write_config(tmp_path)), log_level="error", workers=1)
    assert run_serve(arguments) == 0
    assert given["stopping"] is exit_after


# Starting


async def test_what_is_logged_is_one_json_object_per_line(tmp_path):
    async with serving(write_config(tmp_path)) as process:
        listening = await process.read_until("listening")
        assert listening["sources"] == ["vod", "ims", "mts", "gif"]
        async with connected(listening["server"]) as (reader, writer):
            writer.write(b"nonsense\r\n\r\n")
            answer = await read_answer(reader)
            assert answer is not None
            assert answer.status == 400
        process.process.terminate()
        assert await process.end() == 0
    for log in process.logs:
        assert {"event", "level", "at"} <= log.keys()
    # No sink is configured, which deserves a word.
    assert [log["detail"].split(":")[0] for log in process.logs if log["event"] == "configuration"] == ["sinks"]
    assert "malformed_request" in [log.get("reason") for log in process.logs]


async def test_the_log_level_is_the_operators(tmp_path):
    """At this one there are only failures; a second service is one, though not of this process."""
    async with serving(write_config(tmp_path), "--log-level", "warning") as process:
        log = await process.read_until("configuration")
        assert log["level"] == "warning"
        # Refused or not, the second one says nothing but what is wrong.
        process.process.terminate()
        await process.end()
    assert {log["level"] for log in process.logs} == {"warning"}


async def refused(config: Path, *, code: int = 1, **environ: str) -> list[str]:
    """The lines on standard error of a service that does not start."""
    async with serving(config, environ=environ) as process:
        assert await process.end() == code
    assert "Traceback" not in "".join(process.lines)
    return process.lines


async def test_a_second_service_on_the_same_file_is_refused(tmp_path):
    config = write_config(tmp_path)
    async with serving(config) as process:
        address = (await process.read_until("listening"))["server"]
        lines = await refused(config)
        assert len([line for line in lines if "in use by another service" in line]) == 1
        assert lines[-1].startswith("store.url: ")
        # The first one has not noticed.
        async with connected(address) as (reader, writer):
            writer.write(genuine(tmp_path, "vod", "j"))
            answer = await read_answer(reader)
            assert answer is not None
            assert answer.status == 200


@pytest.mark.parametrize("listener", ["server", "admin"])
async def test_a_port_in_use_is_told_in_a_sentence(tmp_path, listener):
    with taken_port() as port:
        lines = await refused(write_config(tmp_path, {f"{listener}.port": port}))
    told = f"{listener}.port: cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert lines[-1] == f"{told}; stop what has it, or choose another port"
    # Nothing was begun that would have to be undone.
    assert not (tmp_path / "inbox.db").exists()


async def test_an_address_that_is_not_ours_is_told_in_a_sentence(tmp_path):
    lines = await refused(write_config(tmp_path, {"server.host": "203.0.113.7", "server.port": 8080}))
    assert lines[-1].startswith("server.port: cannot listen on 203.0.113.7 port 8080: ")


async def test_every_mistake_of_a_configuration_is_listed(tmp_path):
    changes = {
        "server.prot": 8080,
        "sources.vod.keys": ["${NO_SUCH_VARIABLE}"],
        "sources.ims.path": "/callbacks/vod",
        "sources.gif.keys": ["1:c2hvcnQ="],
        "admin.token": "short",
        "sinks.orders": {"kind": "webhook", "url": "not a url", "secrets": ["whsec_" + "c2hvcnQ="]},
    }
    lines = await refused(write_config(tmp_path, changes), code=2)
    told = {line.partition(":")[0] for line in lines}
    assert told >= {
        "server.prot",
        "sources.vod.keys[0]",
        "sources.ims.path",
        "sources.gif.keys[0]",
        "admin.token",
        "sinks.orders.url",
        "sinks.orders.secrets[0]",
    }
    assert "c2hvcnQ=" not in "".join(lines)


async def test_a_missing_configuration_is_told_in_a_sentence(tmp_path):
    (line,) = await refused(tmp_path / "none.toml", code=2)
    assert "none.toml" in line


@pytest.mark.parametrize(
    "changes, beginning",
    [
        ({"store.url": "sqlite:////nowhere/at/all/inbox.db"}, "store.url: there is no directory /nowhere/at/all; "),
        ({"store.auto_migrate": False}, "store.auto_migrate: migrations are missing"),
    ],
    ids=["no folder", "no migrations"],
)
async def test_a_store_that_cannot_be_used_is_told_in_a_sentence(tmp_path, changes, beginning):
    lines = await refused(write_config(tmp_path, changes))
    assert lines[-1].startswith(beginning)


async def test_a_file_that_is_no_database_is_told_in_a_sentence(tmp_path):
    (tmp_path / "inbox.db").write_bytes(b"this is no database at all, but something else " * 100)
    lines = await refused(write_config(tmp_path))
    assert "inbox.db can't be read: file is not a database; " in lines[-1]


# Listeners


async def test_beyond_the_connections_that_it_takes_those_that_were_silent_longest_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr("media_callbacks.process.server.MAX_CONNECTIONS", 3)
    async with run_service(tmp_path) as running:
        async with AsyncExitStack() as clients:
            opened = [await clients.enter_async_context(connected(running.address)) for _ in range(3)]
            # The first has been heard of last.
            reader, writer = opened[0]
            writer.write(encode(running.build("vod", "a")))
            assert await read_answer(reader) is not None
            assert (await running.send(running.build("vod", "b"))).status == 200
            assert (await running.get("/health/live")).status == 200
            held = await clients.enter_async_context(connected(running.address))
            assert await opened[1][0].read() == b""
            for reader, writer in (opened[0], opened[2], held):
                writer.write(encode(running.build("vod", "c")))
                answer = await read_answer(reader)
                assert answer is not None
                assert answer.status == 200
        metrics = await running.metrics()
        assert metrics['media_callbacks_rejects_total{reason="too_many_connections",source="none"}'] == 1
    assert [line["reason"] for line in running.lines if line["event"] == "connection_refused"] == [
        "too_many_connections"
    ]


@pytest.mark.parametrize("listener", ["server", "admin"])
async def test_a_client_that_does_not_read_its_answers_is_given_up(tmp_path, monkeypatch, listener):
    monkeypatch.setattr("media_callbacks.process.server.TICK_S", 0.05)
    monkeypatch.setattr("media_callbacks.edge.protocol.CallbackProtocol.write_timeout_s", 0.2)
    monkeypatch.setattr("media_callbacks.edge.admin_protocol.AdminProtocol.write_timeout_s", 0.2)
    target = "/health/live" if listener == "server" else "/openapi.json"
    request = encode_request("GET", target)
    async with run_service(tmp_path) as running:
        address = running.address if listener == "server" else running.admin_address
        async with connected(address) as (reader, writer):
            reader._transport.pause_reading()  # type: ignore[attr-defined]

            async def send_on() -> None:
                while True:
                    writer.write(request * 100)
                    await writer.drain()

            with pytest.raises(ConnectionError):
                await send_on()
        assert (await running.get("/health/live")).status == 200
    refused = [line for line in running.lines if line["event"] == "connection_refused"]
    assert [(line["listener"], line["reason"]) for line in refused] == [(listener, "slow_reader")]
    assert running.library_logs == []


async def test_what_is_no_http_after_the_answer_ends_the_connection_and_nothing_else(running):
    """At the operators' listener, where the request was refused before its body came."""
    async with connected(running.admin_address) as (reader, writer):
        writer.write(encode_request("POST", "/v1/replays", host="localhost", chunk=1)[: -len(b"0\r\n\r\n")])
        answer = await read_answer(reader)
        assert answer is not None
        assert answer.status == 415
        writer.write(b"this is no chunk\r\n")
        assert await reader.read() == b""
    assert (await running.get("/openapi.json", admin=True)).status == 200
    refused = [line for line in running.lines if line["event"] == "connection_refused"]
    assert [(line["listener"], line["reason"]) for line in refused] == [("admin", "malformed_request")]
    assert running.library_logs == []


async def test_answers_are_not_held_back_for_more_to_come(running):
    """Nagle's algorithm and delayed acknowledgements together cost 40 ms on every answer but the first."""
    async with connected(running.address) as (reader, writer):
        writer.write(encode_request("GET", "/health/live"))
        assert await read_answer(reader) is not None
        (connection,) = running.connections
        transport = connection.transport
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_service_listens_on_ipv6(tmp_path):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with run_service(tmp_path, changes={"server.host": "::1", "admin.host": "::1"}) as running:
        assert running.address.startswith("[::1]:")
        assert running.admin_address.startswith("[::1]:")
        assert (await running.send(running.build("vod", "j"))).status == 200
        assert (await running.get("/metrics", admin=True)).status == 200


async def test_answers_do_not_say_what_software_gives_them(running):
    for answer in (
        await running.send(running.build("vod", "j")),
        await running.get("/health/live"),
        await running.get("/nowhere"),
    ):
        assert "server" not in answer.headers
        assert "uvicorn" not in str(answer).lower()
