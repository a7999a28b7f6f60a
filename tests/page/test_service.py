"""The page of a whole service, beside the API."""

import asyncio
from pathlib import Path

import pytest

from media_callbacks.page.sessions import COOKIE, Sessions
from media_callbacks.timing.clock import utc_now
from tests.factories.running import ADMIN_TOKEN, run_service
from tests.page.scenery import HOSTILE, scenery


def cookie() -> tuple[bytes, bytes]:
    value = Sessions([ADMIN_TOKEN], utc_now).begin(ADMIN_TOKEN, "kim")
    return b"cookie", f"{COOKIE}={value}".encode()


async def test_a_cookie_opens_the_page_and_nothing_else(tmp_path: Path):
    async with run_service(tmp_path, changes={"admin.token": ADMIN_TOKEN}) as running:
        assert (await running.get("/ui/", admin=True, headers=[cookie()])).status == 200
        for target in ("/v1/sinks", "/metrics", "/uii", "/"):
            assert (await running.get(target, admin=True, headers=[cookie()])).status == 401, target
        assert (await running.get("/ui/", headers=[cookie()])).status == 404


async def test_without_a_page_there_is_none(tmp_path: Path):
    async with run_service(tmp_path, changes={"admin.page": "off"}) as running:
        assert (await running.get("/v1/sinks", admin=True)).status == 200
        answer = await running.get("/ui/", admin=True)
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.slow
async def test_a_hundred_open_pages_delay_no_callback(tmp_path: Path):
    async with scenery(tmp_path) as running:
        ends = asyncio.Event()

        async def look() -> int:
            looked = 0
            while not ends.is_set():
                answer = await running.get("/ui/", admin=True, headers=[cookie(), (b"x-part", b"1")])
                assert answer.status == 200
                looked += 1
            return looked

        looking = [asyncio.create_task(look()) for _ in range(100)]
        for number in range(20):
            assert (await running.send(running.build("vod", f"beside-{number}"))).status == 200
        ends.set()
        assert min(await asyncio.gather(*looking)) >= 1


async def test_what_strangers_sent_is_seen_and_does_nothing(tmp_path: Path):
    async with scenery(tmp_path) as running:
        for view in ("", "events", "receipts", "refused", "refused/1"):
            answer = await running.get(f"/ui/{view}", admin=True, headers=[cookie()])
            assert answer.status == 200
            assert HOSTILE[:8].encode() not in answer.body.replace(b"<script src=", b"")
        text = (await running.get("/ui/refused/1", admin=True, headers=[cookie()])).body.decode()
        assert "signature_mismatch" in text
        assert "What explains this" in text
        activity = running.rows("SELECT what, name, sum(count) FROM activity GROUP BY what, name")
        assert ("received", "vod", 9) in activity
        assert ("refused", "vod", 1) in activity
