"""A disk that is really full: what everybody is told of it, and that it passes when there is room."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from media_callbacks.config.settings import build_settings
from tests.exercises.chaos.cluster import Disk, Instance, free_ports
from tests.factories.running import (
    Answer,
    build_payload,
    connected,
    encode,
    encode_request,
    make_source,
    make_tables,
    read_answer,
    receiving,
    sign,
    to_toml,
)

# What `check` finds enough, and as much again. It is memory while the test runs.
SIZE_BYTES = 2 * 64 * 2**20
# The service's own small writes find room for longer than the test waits; no receipt does.
ROOM_BYTES = 256 * 1024
RECEIPT_BYTES = 600_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", size_bytes=SIZE_BYTES)
    if not made.is_own:
        pytest.skip("only who may mount can have a disk to fill")
    try:
        yield made
    finally:
        made.remove()


async def get(address: str, target: str) -> Answer:
    async with connected(address) as (reader, writer):
        writer.write(encode_request("GET", target, host=address))
        answer = await read_answer(reader, method="GET")
    assert answer is not None
    return answer


async def test_a_full_disk_is_seen_by_everybody_and_forgotten_when_there_is_room(tmp_path: Path, disk: Disk) -> None:
    problems: list[str] = []
    port, admin_port = free_ports(2)
    admin = f"127.0.0.1:{admin_port}"
    async with receiving() as receiver:
        instance = Instance("full", tmp_path, port=port, complain=problems.append)
        store = f"sqlite:///{tmp_path}/disk/inbox.db"
        changes = {"server.port": port, "admin.port": admin_port, "store.url": store}
        tables = make_tables(tmp_path, {"orders": receiver.url}, changes)
        instance.config.write_text(to_toml(tables))
        source = make_source("vod", build_settings(tables, environ={}))
        await instance.start()

        async def send(job_id: str) -> int:
            payload = build_payload(source, job_id) | {"Extend": "x" * RECEIPT_BYTES}
            async with connected(instance.address) as (reader, writer):
                writer.write(encode(sign(source, payload, job_id=job_id)))
                answer = await read_answer(reader)
            assert answer is not None
            return answer.status

        async def is_ready() -> bool:
            return (await get(instance.address, "/health/ready")).status == 200

        async def metric(name: str) -> float:
            lines = (await get(admin, "/metrics")).body.decode().splitlines()
            return next(float(line.split()[1]) for line in lines if line.startswith(f"media_callbacks_{name} "))

        async def is_fine_to_check() -> bool:
            command = (sys.executable, "-m", "media_callbacks", "check", "--config", str(instance.config))
            found = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
            return "bytes left: callbacks are refused" not in found.stdout

        try:
            assert [await send("before"), await is_ready(), await metric("store_up")] == [200, True, 1]
            assert await is_fine_to_check()
            assert await metric("store_free_bytes") > 2**20
            assert await metric("store_size_bytes") > RECEIPT_BYTES
            disk.fill(room_bytes=ROOM_BYTES)
            # What room is left in files that are there already is used first.
            taken = ["before"]
            while await send(f"full-{len(taken)}") == 200:
                taken.append(f"full-{len(taken)}")
                assert len(taken) < 1000
            assert await send("refused") == 503
            await until(is_ready, is_so=False)
            assert await metric("store_up") == 0
            assert await metric("store_free_bytes") < 2**20
            assert not await is_fine_to_check()
            assert (await get(instance.address, "/health/live")).status == 200

            disk.free()
            await until(is_ready, is_so=True)
            # As the vendor does: it comes again.
            assert await send("refused") == 200
            assert await metric("store_up") == 1
            assert await is_fine_to_check()
            events = await receiver.wait_for(len(taken) + 1)
            assert {event["data"]["job_id"] for event in events} == {*taken, "refused"}
        finally:
            instance.kill()
    assert problems == []


async def until(is_ready: Callable[[], Awaitable[bool]], *, is_so: bool) -> None:
    """What is said may be a second old."""
    async with asyncio.timeout(30):
        while await is_ready() != is_so:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)
