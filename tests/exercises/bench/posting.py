"""
The ceiling of webhook delivery: a loop that posts bodies with aiohttp, signed, so many at a time, and keeps no record.

    python -m tests.exercises.bench.posting URL COUNT CONCURRENCY BODY

A program of its own. The body is that of an event; every request has its own id in it, as events have.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
import sys
import time

import aiohttp
import uvloop

from media_callbacks.model.events import CONTENT_TYPE
from tests.exercises.bench.servers import SECRET


async def main(url: str, count: int, concurrency: int, body: bytes) -> None:
    at = body.index(b'"evt_') + 1
    secret = base64.b64decode(SECRET.removeprefix("whsec_"))
    numbers = itertools.count()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def post() -> None:
            while (number := next(numbers)) < count:
                event_id = f"evt_{number:034x}"
                sent = body[:at] + event_id.encode() + body[at + 38 :]
                timestamp = str(int(time.time()))
                signed = f"{event_id}.{timestamp}.".encode() + sent
                signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
                headers = {
                    "Content-Type": CONTENT_TYPE,
                    "User-Agent": "bench",
                    "Accept-Encoding": "identity",
                    "webhook-id": event_id,
                    "webhook-timestamp": timestamp,
                    "webhook-signature": f"v1,{signature}",
                }
                async with session.post(url, data=sent, headers=headers) as response:
                    await response.read()

        await asyncio.gather(*(post() for _ in range(concurrency)))


if __name__ == "__main__":
    _url, _count, _concurrency, _body = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(_url, int(_count), int(_concurrency), _body.encode()))
