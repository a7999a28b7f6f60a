"""Keys that are in memory, in the file, or on their way: an event is known wherever its key is."""

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.records import EventFilter
from media_callbacks.inbox.sqlite import keys as sqlite_keys
from tests.factories.memory import find_memory
from tests.inbox.conformance import NOW, SECOND, make_event, make_receipt, purge_step
from tests.inbox.timed import TimedSqliteInbox


def keys(connection: sqlite3.Connection, table: str) -> list[tuple[bytes, int, int]]:
    return sorted(connection.execute(f"SELECT key_digest, outcome, {table}"))


def check_file(path: Path) -> int:
    """What the file says of keys is true. Returns how many events it has."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        events = keys(connection, "id FROM events")
        moved = keys(connection, "event_id FROM event_keys")
        (last_id,) = connection.execute("SELECT last_event_id FROM keys_moved").fetchone()
    # One without an event is what a tool has purged before the service moved it. No event will have that id.
    ids = {key[-1] for key in events}
    assert {key for key in moved if key[-1] in ids} <= set(events)
    assert {key for key in events if key[-1] <= last_id} <= set(moved)
    assert len({key[:2] for key in events}) == len(events), "one event per key and outcome"
    return len(events)


class Model:
    """Two inboxes on one file, the service's and a tool's, and what they must know."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._service = TimedSqliteInbox(path)
        self._known: set[tuple[str, str]] = set()

    async def open(self) -> None:
        await self._service.open()

    async def close(self) -> None:
        await self._service.close()

    async def do(self, name: str, jobs: Sequence[tuple[str, str]]) -> None:
        match name:
            case "put":
                await self._put(self._service, jobs)
            case "fail beside":
                # The whole batch is rolled back, and each done again alone.
                await asyncio.gather(self._put(self._service, jobs), self._fail())
            case "restart":
                await self._service.close()
                self._service = TimedSqliteInbox(self._path)
                await self._service.open()
            case "put by a tool" | "purge by a tool":
                tool = TimedSqliteInbox(self._path, is_exclusive=False)
                await tool.open()
                await (self._put(tool, jobs) if name == "put by a tool" else self._purge(tool))
                await tool.close()
            case _:
                await self._purge(self._service)
        await self._check()

    async def _put(self, inbox: TimedSqliteInbox, jobs: Sequence[tuple[str, str]]) -> None:
        expected = []
        for job in jobs:
            expected.append("duplicate" if job in self._known else "accepted")
            self._known.add(job)
        verdicts = await asyncio.gather(*(inbox.put(make_receipt(make_event(*job), sinks=())) for job in jobs))
        assert [verdict.state for verdict in verdicts] == expected

    async def _fail(self) -> None:
        async def fail(_: Database) -> None:
            raise LookupError

        with pytest.raises(Exception, match="LookupError"):
            await self._service._write(fail)

    async def _purge(self, inbox: TimedSqliteInbox) -> None:
        self._known.clear()
        while not (
            await purge_step(inbox, payloads_before=NOW + SECOND, keys_before=NOW + SECOND, limit=7)
        ).is_finished:
            pass

    async def _check(self) -> None:
        assert check_file(self._path) == len(self._known)
        for job in self._known:
            event = make_event(*job)
            assert await self._service.find_event(event.id) is not None
            found = await self._service.list_events(EventFilter(job_id=job[0]), limit=100)
            assert event.id in [one.id for one in found]


_JOBS = st.lists(
    st.tuples(st.integers(1, 200).map(str), st.sampled_from(["succeeded", "failed"])), min_size=1, max_size=40
)
_STEPS = st.sampled_from(["put", "put", "put", "fail beside", "restart", "put by a tool", "purge", "purge by a tool"])


@given(st.lists(st.tuples(_STEPS, _JOBS), max_size=12), st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_every_event_is_known_wherever_its_key_is(
    steps: list[tuple[str, list[tuple[str, str]]]], recent_per_move: int, most_recent: int
) -> None:
    async def run(path: Path) -> None:
        model = Model(path)
        await model.open()
        for name, jobs in steps:
            await model.do(name, jobs)
        await model.close()

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=find_memory()) as folder:
        patch.setattr(sqlite_keys, "_RECENT_PER_MOVE", recent_per_move)
        patch.setattr(sqlite_keys, "_MOST_RECENT", most_recent)
        patch.setattr(sqlite_keys, "_LEFT_BEHIND", 3)
        asyncio.run(run(Path(folder) / "inbox.db"))
