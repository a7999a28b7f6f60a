"""
What it costs with ever more events stored: accepting and delivering beside an empty store, each list and search, what
status and metrics ask for, removing what is old, and bytes.

The inbox is used as the service does, in this process.
"""

import asyncio
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from media_callbacks.inbox.factory import build_inbox
from media_callbacks.inbox.records import AttemptResult, EventFilter, FeedFilter, JobFilter, JobName
from media_callbacks.inbox.roles import Inbox
from tests.exercises.bench.callbacks import first_receipt
from tests.exercises.bench.compare import progress
from tests.exercises.bench.month import AGE, PAUSED, WITH_PAYLOADS, fill_postgresql, fill_sqlite
from tests.exercises.bench.stores import POSTGRESQL, SETTINGS, SQLITE
from tests.factories.postgresql import PostgresqlServer, execute

SINKS = ("orders", PAUSED)
_LIMIT = 50
_ROUNDS = 7
_PUTS = 200
_PURGES = 20
_PURGE_LIMIT = 500


@dataclass(slots=True)
class Sized:
    """
    What was measured with so many events.

    Attributes:
        reads_ms: Of each read the first one and the median of the others.
        accepting, claiming: What each cost in the empty store against what it cost in this one, by processor time;
            those of a database's server included.
        purge_ms: Of each step.
        dropping_ms, dropped: Of the steps that dropped partitions and swept what named their rows, and of how many events.
        bytes: Of an event, by table and index.
    """

    database: str
    stored: int
    reads_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    accepting: list[float] = field(default_factory=list)
    claiming: list[float] = field(default_factory=list)
    purge_ms: list[float] = field(default_factory=list)
    purged: int = 0
    dropping_ms: list[float] = field(default_factory=list)
    dropped: int = 0
    bytes: dict[str, float] = field(default_factory=dict)


class Flat:
    """
    Args:
        folder: An empty one on a real disk. A store is removed before the next one is filled.
        databases: Any of SQLITE and POSTGRESQL.
    """

    def __init__(self, folder: Path, *, stored: Sequence[int], databases: Sequence[str]) -> None:
        self._folder = folder
        self._stored = stored
        self._databases = databases
        self._server: PostgresqlServer | None = None

    async def run(self) -> list[Sized]:
        found = []
        for name in self._databases:
            if name == POSTGRESQL:
                self._server = PostgresqlServer(settings=SETTINGS)
                self._server.start()
            try:
                found += [await self._measure(name, count) for count in self._stored]
            finally:
                if self._server is not None:
                    self._server.remove()
                    self._server = None
        return found

    async def _measure(self, name: str, count: int) -> Sized:
        sized = Sized(name, count)
        urls = [await self._make(name, kind) for kind in ("empty", "full")]
        started = time.monotonic()
        await (fill_sqlite if name == SQLITE else fill_postgresql)(urls[1], count, SINKS[0])
        progress(f"{name}: {count:,} events were filled in {time.monotonic() - started:.0f} s")
        sized.bytes = await (_sqlite_bytes if name == SQLITE else _postgresql_bytes)(urls[1], count)
        empty, full = map(build_inbox, urls)
        await empty.open()
        await full.open()
        try:
            await full.trust_clock()
            reads = await find_reads(full, count)
            for what, read in reads.items():
                sized.reads_ms[what] = await _time(read)
            await self._compare(sized, empty, full)
            await _purge(sized, full, count)
            if name == POSTGRESQL:
                await _drop(sized, urls[1])
        finally:
            await empty.close()
            await full.close()
        for kind in ("empty", "full"):
            await self._remove(name, kind)
        return sized

    async def _make(self, name: str, kind: str) -> str:
        if name == SQLITE:
            (self._folder / kind).mkdir()
            return f"sqlite:///{self._folder / kind / 'store.db'}"
        assert self._server is not None
        await execute(self._server.url(), f"CREATE DATABASE store_{kind}")
        return self._server.url(f"store_{kind}")

    async def _remove(self, name: str, kind: str) -> None:
        if self._server is None:
            shutil.rmtree(self._folder / kind)
        else:
            await execute(self._server.url(), f"DROP DATABASE store_{kind}")

    def _processor_s(self) -> float:
        own = time.process_time()
        if self._server is None:
            return own
        ticks = 0
        for pid in self._server.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return own + ticks / os.sysconf("SC_CLK_TCK")

    async def _compare(self, sized: Sized, *inboxes: Inbox) -> None:
        """Accepting and delivering in turn, to and from each store."""
        for _ in range(_ROUNDS):
            costs: list[list[float]] = []
            for inbox in inboxes:
                now = datetime.now(UTC)
                receipts = [first_receipt(now, SINKS[:1], job_id=secrets.token_hex(16)) for _ in range(_PUTS * 5)]
                before = self._processor_s()
                for start in range(0, len(receipts), _PUTS):
                    await asyncio.gather(*map(inbox.put, receipts[start : start + _PUTS]))
                between = self._processor_s()
                while claimed := await inbox.claim(SINKS[0], limit=50, max_bytes=1 << 24, lease_s=30):
                    await inbox.record([AttemptResult(one, "delivered", started_at=now) for one in claimed])
                costs.append([between - before, self._processor_s() - between])
            (accepted, delivered), (accepted_full, delivered_full) = costs
            sized.accepting.append(accepted / accepted_full)
            sized.claiming.append(delivered / delivered_full)


# Space


async def _sqlite_bytes(url: str, count: int) -> dict[str, float]:
    path = Path(url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        sizes = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name")
        return {
            **{name: size / count for name, size in sizes if size / count > 0.5},
            "all": os.stat(path).st_size / count,
        }


async def _postgresql_bytes(url: str, count: int) -> dict[str, float]:
    rows = await execute(
        url,
        # Those of all partitions.
        "SELECT regexp_replace(relname, '_(\\d+|default)(?=_|$)', ''), sum(pg_relation_size(oid)) FROM pg_class"
        " WHERE relkind IN ('r', 'i', 't') GROUP BY 1 UNION ALL SELECT 'all', pg_database_size(current_database())",
    )
    return {name: size / count for name, size in rows if size / count > 0.5}


# What is read

Read = Callable[[], Awaitable[Any]]


async def find_reads(inbox: Inbox, count: int) -> dict[str, Read]:
    """Each as an operator or a scrape asks for it, by what it is."""
    now = datetime.now(UTC)
    (old,) = await inbox.list_events(EventFilter(), before=max(count // 3, count - WITH_PAYLOADS // 2) + 1, limit=1)
    since, day, hour = now - AGE / 2, now - timedelta(days=1), now - timedelta(hours=1)
    # The others are clones of this one, which can't be found by their jobs.
    (first,) = await inbox.list_events(EventFilter(), before=2, limit=1)
    job_id = str(first.job_id)
    event_filters: Mapping[str, Mapping[str, Any]] = {
        "newest": {},
        "of a rare kind": {"kind": "upload"},
        "of no kind that there is": {"kind": "snapshot"},
        "of a rare kind that failed": {"kind": "upload", "outcome": "failed"},
        "failed": {"outcome": "failed"},
        "of a product that has none": {"product": "ims"},
        "of an old asset": {"media_id": old.media_id},
        "of no asset that there is": {"media_id": "nothing"},
        "of a job": {"job_id": job_id},
        "one": {"event_id": old.id},
        "given up": {"state": "dead"},
        "given up by a sink": {"state": "dead", "sink": "bus"},
        "given up today": {"given_up_since": day},
        "parked": {"state": "parked"},
        "waiting": {"state": "pending"},
        "delivered to a sink": {"state": "delivered", "sink": "bus"},
        "to no sink that there is": {"sink": "nobody"},
        "that matched no sink": {"state": "unrouted"},
        "of a day long ago": {"since": since, "until": since + timedelta(days=1)},
        "failed, of a day long ago": {"since": since, "until": since + timedelta(days=1), "outcome": "partial"},
    }
    reads: dict[str, Read] = {
        f"events {name}": partial(inbox.list_events, EventFilter(**wanted), limit=_LIMIT)
        for name, wanted in event_filters.items()
    }
    receipts: Mapping[str, Mapping[str, Any]] = {
        "newest": {},
        "not understood": {"state": "unparsed"},
        "duplicate": {"state": "duplicate"},
        "of a source that has none": {"source": "ims"},
        "of a job": {"job_id": job_id},
        "since then": {"since": since},
    }
    for name, options in receipts.items():
        reads[f"receipts {name}"] = partial(inbox.list_receipts, **options, limit=_LIMIT)
    jobs: Mapping[str, Mapping[str, Any]] = {
        "newest": {},
        "overdue": {"state": "overdue"},
        "healed": {"state": "healed"},
        "of a product that has none": {"product": "ims"},
        "of an id": {"job_id": job_id},
        "of a day long ago": {"since": since, "until": since + timedelta(days=1)},
    }
    for name, options in jobs.items():
        reads[f"jobs {name}"] = partial(inbox.list_jobs, JobFilter(**options), limit=_LIMIT)
    texts = {
        "job id": job_id,
        "media id": str(old.media_id),
        "event id": old.id,
        "user data": f"order {(count - 5) // 2 * 2}",
        "beginning of user data": f"order {(count - 5) // 2 * 2}"[:-1],
        "nothing that there is": "nothing",
    }
    for name, text in texts.items():
        reads[f"search: {name}"] = partial(inbox.search, text, limit=20)
    start = (await inbox.read_feed(since, [FeedFilter()], limit=1, max_bytes=1 << 20)).end
    hours = [now - timedelta(hours=n) for n in range(24, -1, -1)]
    return reads | {
        "life of a job": lambda: inbox.find_life(JobName(product="vod", id=job_id)),
        "feed, from a cursor": lambda: inbox.read_feed(start, [FeedFilter()], limit=100, max_bytes=1 << 22),
        "feed, from a time": lambda: inbox.read_feed(since, [FeedFilter()], limit=100, max_bytes=1 << 22),
        "feed, of a rare kind": lambda: inbox.read_feed(
            start, [FeedFilter(kind="upload")], limit=100, max_bytes=1 << 22
        ),
        "refused": lambda: inbox.list_refused(limit=_LIMIT),
        "report of an hour": lambda: inbox.report_jobs(since=hour, until=now),
        "status: sinks": inbox.list_sinks,
        "status: jobs and holds": inbox.count_waiting,
        "status: times of a day": lambda: inbox.sample_times(hours),
        "status: activity of a day": lambda: inbox.list_activity(since=day),
        "status: sources": inbox.list_source_activity,
        "how many were given up": lambda: inbox.count_events(EventFilter(state="dead")),
        "when the next is due": lambda: inbox.due_in_s(SINKS[0]),
    }


async def _time(read: Read) -> tuple[float, float]:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        await read()
        times.append((time.perf_counter() - started) * 1000)
    return times[0], median(times[1:])


async def _purge(sized: Sized, inbox: Inbox, count: int) -> None:
    """The first steps of a pass for which the oldest tenth is too old."""
    keep = AGE * 0.9
    for _ in range(_PURGES):
        started = time.perf_counter()
        purged = await inbox.purge(keep_payloads=keep, keep_keys=keep * 2, limit=_PURGE_LIMIT)
        sized.purge_ms.append((time.perf_counter() - started) * 1000)
        sized.purged += purged.payloads


async def _drop(sized: Sized, url: str) -> None:
    """The same where partitions are dropped; what is left of the pass is not measured."""
    keep = AGE * 0.9
    await execute(
        url,
        # As if this had been noted at the time.
        "UPDATE partitions p SET closed_at = e.accepted_at FROM events e WHERE e.id = p.end_id",
    )
    inbox = build_inbox(url)
    await inbox.open()
    try:
        before = await execute(url, "SELECT first_id, end_id FROM partitions WHERE kind = 'events'")
        is_swept = False
        while not is_swept:
            started = time.perf_counter()
            await inbox.purge(keep_payloads=keep, keep_keys=keep * 2, limit=_PURGE_LIMIT)
            sized.dropping_ms.append((time.perf_counter() - started) * 1000)
            is_swept = not await execute(url, "SELECT FROM partitions WHERE swept_to IS NOT NULL")
        left = await execute(url, "SELECT first_id FROM partitions WHERE kind = 'events'")
        kept = {first_id for (first_id,) in left}
        sized.dropped = sum(end_id - first_id for first_id, end_id in before if first_id not in kept)
    finally:
        await inbox.close()


# The report


def print_flat(found: Sequence[Sized]) -> None:
    console = Console(width=max(Console().width, 110))
    for database in dict.fromkeys(sized.database for sized in found):
        sizes = [sized for sized in found if sized.database == database]
        titles = [f"{sized.stored:,}" for sized in sizes]
        costs = Table("with so many stored", *titles, title=f"{database}: as much as with an empty store is 1.00")
        for name, ratios in (
            ("accepting, by processor time", [sized.accepting for sized in sizes]),
            ("claiming and recording", [sized.claiming for sized in sizes]),
        ):
            costs.add_row(name, *(f"{median(one):.2f} [{min(one):.2f} .. {max(one):.2f}]" for one in ratios))
        costs.add_row("purge, ms a step", *(f"{median(s.purge_ms):.1f} .. {max(s.purge_ms):.1f}" for s in sizes))
        costs.add_row("purge, ms an event", *(f"{sum(s.purge_ms) / max(s.purged, 1):.3f}" for s in sizes))
        if any(sized.dropped for sized in sizes):
            costs.add_row(
                "dropping and sweeping, ms an event",
                *(f"{sum(s.dropping_ms) / max(s.dropped, 1):.3f}" for s in sizes),
            )
            costs.add_row("the longest step, ms", *(f"{max(s.dropping_ms, default=0):.0f}" for s in sizes))
        console.print(costs)
        reads = Table("read", *titles, title=f"{database}: milliseconds, the first time and then")
        for name in sizes[0].reads_ms:
            reads.add_row(name, *("{:.1f}, {:.1f}".format(*sized.reads_ms[name]) for sized in sizes))
        console.print(reads)
        space = Table("table or index", *titles, title=f"{database}: bytes an event, {len(SINKS)} sinks")
        names = sorted({name for sized in sizes for name in sized.bytes}, key=lambda n: -sizes[-1].bytes.get(n, 0))
        for name in names:
            space.add_row(name, *(f"{sized.bytes.get(name, 0):.0f}" for sized in sizes))
        console.print(space)


def flat_to_json(found: Sequence[Sized]) -> str:
    return json.dumps([asdict(sized) for sized in found], indent=2)
