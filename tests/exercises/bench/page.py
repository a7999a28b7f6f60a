"""
How long each view of the operators' page takes with a full store: from the request to the last byte, none of it made
before. ``python -m tests.exercises.bench.page --stored 1000000``, and the same with ``--postgresql``.
"""

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import aiohttp
import uvloop

from media_callbacks.model.times import format_time
from media_callbacks.page.app import KEEP_S
from media_callbacks.page.sessions import COOKIE, Sessions
from media_callbacks.timing.clock import utc_now
from tests.exercises.bench.filling import fill_postgresql, fill_sqlite
from tests.exercises.bench.servers import CHECKOUT
from tests.exercises.bench.stores import SETTINGS
from tests.factories.postgresql import PostgresqlServer, execute
from tests.factories.running import ADMIN_TOKEN, run_service

SINKS = ("orders", "bus")
_DAY_MS = 86_400_000


def _spreading(count: int, *, dead: int, jobs: int, random_digest: str) -> Iterator[str]:
    """
    Statements for both databases. What was put at one moment is put over the last day; some of it was given up; jobs,
    and what else there is little of.
    """
    now_ms = int(time.time() * 1000)
    at = f"{now_ms - _DAY_MS} + id * {_DAY_MS // count}"
    yield f"UPDATE events SET accepted_at = {at}"
    yield f"UPDATE receipts SET received_at = {at}, stored_at = {at}"
    yield "UPDATE deliveries SET changed_at = (SELECT accepted_at FROM events WHERE id = event_id) + 250"
    yield (
        "UPDATE deliveries SET state = 'dead', error = 'answered HTTP 503' WHERE sink = 'bus'"
        f" AND event_id % {count // dead} = 0"
    )
    yield (
        f"WITH RECURSIVE numbers (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < {jobs})"
        " INSERT INTO jobs (id, key_digest, product, account, family, job_id, user_data, registered_at, deadline_at,"
        " state, ended_at, transport, outcome, attempts)"
        f" SELECT id, {random_digest}, 'vod', 'default', 'transcode', 'job-' || id, 'order ' || id,"
        f" {now_ms - _DAY_MS} + id * {_DAY_MS // jobs}, {now_ms + _DAY_MS}, CASE WHEN id % 100 > 0 THEN 'completed'"
        f" ELSE 'expected' END, CASE WHEN id % 100 > 0 THEN {now_ms - _DAY_MS} + id * {_DAY_MS // jobs} + 90000 END,"
        " CASE WHEN id % 100 > 0 THEN 'http' END, CASE WHEN id % 100 > 0 THEN 'succeeded' END, 0 FROM numbers"
    )
    yield (
        "WITH RECURSIVE numbers (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM numbers WHERE id < 1439)"
        f" INSERT INTO activity SELECT {now_ms // 60_000} - id, what, name, 700 FROM numbers,"
        " (SELECT 'received' AS what, 'vod' AS name UNION SELECT 'refused', 'vod' UNION SELECT 'delivered', 'orders'"
        " UNION SELECT 'delivered', 'bus') AS kinds WHERE true ON CONFLICT DO NOTHING"
    )
    request = {"method": "POST", "target": "/", "headers": [], "body": "{}" * 4000, "body_bytes": 8000}
    document = json.dumps({"request": request, "explanation": None})
    for number in range(400):
        yield (
            "INSERT INTO refused (refused_at, source, status, reason, cause, detail, document)"
            f" VALUES ({now_ms}, 'vod', 403, 'reason-{number % 20}', '', 'x', '{document}')"
        )


async def fill(url: str, count: int, *, dead: int, jobs: int) -> None:
    if not url.startswith("sqlite:"):
        await fill_postgresql(url, count, SINKS, is_delivered=True)
        statements = _spreading(count, dead=dead, jobs=jobs, random_digest="decode(md5('job' || id), 'hex')")
        await execute(url, *statements, "VACUUM (ANALYZE)", "CHECKPOINT")
        return
    path = Path(url.removeprefix("sqlite:///"))
    await fill_sqlite(path, count, SINKS, is_delivered=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for statement in _spreading(count, dead=dead, jobs=jobs, random_digest="randomblob(16)"):
            connection.execute(statement)
        connection.execute("COMMIT")


async def measure(folder: Path, url: str, *, count: int, rounds: int, token: str) -> dict[str, list[float]]:
    changes = {"admin.token": token, "server.stop_timeout_s": 1, "store.url": url}
    async with run_service(folder, sinks=SINKS, changes=changes) as running, aiohttp.ClientSession() as client:
        cookie = Sessions([token], utc_now).begin(token, "bench")
        # The others are clones of this one, which can't be found by their jobs.
        authorization = [(b"authorization", f"Bearer {token}".encode())]
        answers = [
            await running.get(f"/v1/events?limit=1&cursor={row_id}", admin=True, headers=authorization)
            for row_id in (2, count - 1000)
        ]
        first, recent = [json.loads(answer.body)["events"][0] for answer in answers]
        product, job_id, event_id = first["product"], first["job_id"], recent["id"]
        yesterday = format_time(datetime.now(UTC) - timedelta(hours=20))
        views = {
            "is it well": "",
            "events": "events",
            "events, an old page": f"events?cursor={count // 2}",
            "events that are dead": "events?state=dead",
            "events of a sink and an outcome": "events?sink=bus&outcome=succeeded",
            "events of a job": f"events?job_id={job_id}",
            "events since yesterday": f"events?since={yesterday}",
            "event": f"events/{event_id}",
            "receipts": "receipts",
            "receipts of a state that none has": "receipts?state=conflict",
            "refused": "refused",
            "refused request": "refused/1",
            "sink": "sinks/bus",
            "jobs": "jobs",
            "jobs that are unknown": "jobs?state=unknown",
            "job": f"jobs/{product}/{job_id}",
            "search by job id": f"search?q={job_id}",
            "search by the beginning of user data": "search?q=order%207",
            "completeness": "report",
            "replays": "replays",
            "replay, counted": "replays/new?state=dead&sink=bus",
            "replay of a day, counted": f"replays/new?since={yesterday}",
        }
        found: dict[str, list[float]] = {name: [] for name in views}
        for _ in range(rounds):
            for name, view in views.items():
                begun = time.perf_counter()
                address = f"http://{running.admin_address}/ui/{view}"
                async with client.get(
                    address, headers={"cookie": f"{COOKIE}={cookie}"}, allow_redirects=False
                ) as answer:
                    text = await answer.text()
                found[name].append((time.perf_counter() - begun) * 1000)
                assert answer.status == 200, (name, text)
            # Until nothing is at hand any more.
            await asyncio.sleep(KEEP_S * 1.1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.exercises.bench.page", description=__doc__)
    parser.add_argument("--stored", type=int, default=1_000_000, help="events in the store (default: 1000000)")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs of the last day (default: 20000)")
    parser.add_argument("--dead", type=int, default=10_000, help="deliveries that were given up (default: 10000)")
    parser.add_argument("--rounds", type=int, default=12, help="how often each view is asked for (default: 12)")
    parser.add_argument("--postgresql", action="store_true", help="in place of SQLite: a server of our own")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=CHECKOUT) as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ExitStack() as stack,
    ):
        url = f"sqlite:///{folder}/inbox.db"
        if arguments.postgresql:
            server = PostgresqlServer(settings=SETTINGS)
            stack.callback(server.remove)
            server.start()
            url = server.url()
        runner.run(fill(url, arguments.stored, dead=arguments.dead, jobs=arguments.jobs))
        found = runner.run(
            measure(Path(folder), url, count=arguments.stored, rounds=arguments.rounds, token=ADMIN_TOKEN)
        )
    print(f"{'view, milliseconds':<40}{'first':>8}{'median':>8}{'worst':>8}")
    for name, (first, *further) in found.items():
        print(f"{name:<40}{first:>8.1f}{median(further):>8.1f}{max(further):>8.1f}")


if __name__ == "__main__":
    main()
