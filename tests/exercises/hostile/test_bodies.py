"""Bodies that mean far more than they weigh, sent to a running service beside callbacks that must all be taken."""

import asyncio
import itertools
import re
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from media_callbacks.config.settings import build_settings
from tests.factories.hostile_bodies import hostile_bodies
from tests.factories.running import (
    SOURCES,
    build_payload,
    connected,
    encode,
    make_source,
    make_tables,
    read_answer,
    receiving,
    sign,
)
from tests.process.test_server import serving, write_config

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")

SIZE_BYTES = 500_000
MEMORY_BYTES = 512 * 2**20
AT_ONCE = 4


def memory(process_id: int, name: str) -> int:
    """``VmHWM`` is the peak of ``VmRSS``."""
    match = re.search(rf"^{name}:\s+([0-9]+) kB$", Path(f"/proc/{process_id}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


@pytest.mark.slow
async def test_every_body_is_kept_and_none_costs_more_than_its_size_allows(tmp_path):
    sources = {name: make_source(name, build_settings(make_tables(tmp_path, {}), environ={})) for name in SOURCES}
    statuses: Counter[int] = Counter()
    hostile = iter(
        [
            (name, f"{name} {number}", body)
            for name, source in sources.items()
            for number, body in enumerate(hostile_bodies(source.product, SIZE_BYTES).values())
        ]
    )
    is_over = asyncio.Event()

    async def send(address: str, data: bytes) -> None:
        async with connected(address) as (reader, writer):
            writer.write(data)
            answer = await read_answer(reader)
        assert answer is not None
        statuses[answer.status] += 1

    async def attack(address: str) -> None:
        for name, job_id, body in hostile:
            await send(address, encode(sign(sources[name], body, job_id=job_id)))

    async def go_on(address: str) -> int:
        """Genuine callbacks meanwhile."""
        for number in itertools.count(1):
            payload = build_payload(sources["vod"], f"genuine-{number}")
            await send(address, encode(sign(sources["vod"], payload, job_id=f"genuine-{number}")))
            await asyncio.sleep(0)
            if is_over.is_set():
                return number
        raise AssertionError

    async with receiving() as receiver, serving(write_config(tmp_path, orders=receiver.url)) as process:
        receiver.status = 503
        address = (await process.read_until("listening"))["server"]
        # It would stop when nobody reads what it writes.
        reading = asyncio.create_task(process.end())
        process_id = process.process.pid
        await send(address, encode(sign(sources["ims"], build_payload(sources["ims"], "first"), job_id="first")))
        genuine = asyncio.create_task(go_on(address))
        await asyncio.gather(*(attack(address) for _ in range(AT_ONCE)))
        is_over.set()
        sent = 1 + await genuine
        assert memory(process_id, "VmHWM") < MEMORY_BYTES
        process.process.terminate()
        assert await reading == 0
    assert set(statuses) == {200, 204}
    with closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM receipts").fetchone()
        (events, size) = connection.execute("SELECT count(*), sum(length(body)) FROM event_bodies").fetchone()
        (taken,) = connection.execute("SELECT count(*) FROM events WHERE job_id LIKE 'genuine-%'").fetchone()
        most = connection.execute("SELECT count(*) FROM events GROUP BY receipt_id ORDER BY 1 DESC LIMIT 1").fetchone()
        reasons = [reason for (reason,) in connection.execute("SELECT DISTINCT reason FROM receipts") if reason]
    assert kept == statuses.total()
    assert taken == sent - 1
    assert most == (500,)
    assert size < 4 * 2**20 * kept
    assert events > taken
    # Counted before anything is made of them.
    assert any(reason.startswith("expected at most 2000 elements in ") for reason in reasons)
    assert any("bytes of events" in reason for reason in reasons)
    assert not any("failed" in reason for reason in reasons)
