"""A service in which something has happened, for whoever looks at its page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.timing.clock import utc_now
from tests.factories.running import ADMIN_TOKEN, Running, encode_request, headers_of, run_service

HOSTILE = "<script>alert(1)</script>\u202egpj.exe\u0007\"'><img src=x onerror=alert(1)>"


@asynccontextmanager
async def scenery(folder: Path, **changes: Any) -> AsyncIterator[Running]:
    """
    Events that were delivered to ``orders``, and that ``bus`` did not take; a callback that was forged; jobs that are
    expected.
    """
    tables = {"admin.token": ADMIN_TOKEN, "sinks.bus.retry_delays_s": [3600, 3600], **changes}

    async with run_service(folder, sinks=("orders", "bus"), changes=tables) as running:
        running.receivers["bus"].status = 503
        for number in range(1, 9):
            await running.send(running.build("vod", f"job-{number}"))
        await running.send(running.build("ims", "job-failed", failed=True))
        await running.send(running.build("mts", HOSTILE[:60]))
        await running.send(running.build("vod", "job-1"))
        genuine = running.build("vod", "job-forged")
        running.note_secrets(genuine)
        forged = [
            (name, value[::-1] if name.lower() == b"x-vod-signature" else value) for name, value in headers_of(genuine)
        ]
        await running.send(encode_request("POST", genuine.target, forged, genuine.body))
        await _expect(running, utc_now())
        await running.receivers["orders"].wait_for(10)
        await running.service.activity.note()
        await until_tried(running)
        yield running


async def _expect(running: Running, now: datetime) -> None:
    await running.service.inbox.expect(
        [
            ExpectedJob(
                reference=JobReference(
                    product="vod", account="default", family="transcode", job_id=f"expected-{number}"
                ),
                deadline=now + timedelta(hours=number),
                user_data=f"order {number}",
            )
            for number in range(1, 4)
        ]
    )


async def until_tried(running: Running) -> None:
    """Until ``bus`` has refused what it is to be given."""
    while not running.rows("SELECT 1 FROM attempts WHERE sink = 'bus'"):  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.01)
