"""Media ids and user data, noted or not yet: events are found by what they say now, and by nothing that is gone."""

import asyncio
import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.records import ErasureRequest, EventFilter
from media_callbacks.inbox.rows import user_data_start
from media_callbacks.inbox.sqlite import names as sqlite_names
from media_callbacks.inbox.sqlite import writer
from media_callbacks.model.receipts import Receipt
from tests.factories.memory import find_memory
from tests.inbox.conformance import NOW, SECOND, make_event, make_receipt, purge
from tests.inbox.conformance_erasures import erase
from tests.inbox.timed import TimedSqliteInbox

# Of a job: its media id and its user data.
Names = tuple[str, str | None]


def check_file(path: Path) -> None:
    """Events have rows by what they say, up to the one that is noted, and nothing else has."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (noted,) = connection.execute("SELECT last_event_id FROM names_noted").fetchone()
        events = connection.execute("SELECT id, media_id FROM events WHERE id <= ?", (noted,)).fetchall()
        bodies = connection.execute("SELECT event_id, body FROM event_bodies WHERE event_id <= ?", (noted,)).fetchall()
        media = connection.execute("SELECT span, media_id, event_id FROM event_media").fetchall()
        told = connection.execute("SELECT span, user_data, event_id FROM event_user_data").fetchall()
    assert sorted(media) == sorted((id_ >> 14, text[:256], id_) for id_, text in events if text is not None)
    user_data = [(id_, json.loads(body)["data"]["user_data"]) for id_, body in bodies]
    assert sorted(told) == sorted(
        (id_ >> 14, user_data_start(text), id_) for id_, text in user_data if text is not None
    )


class Model:
    """An inbox and what its jobs are called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inbox = TimedSqliteInbox(path)
        self._names: dict[str, Names] = {}
        self._erased: set[str] = set()
        self._count = 0

    async def open(self) -> None:
        await self._inbox.open()

    async def close(self) -> None:
        await self._inbox.close()

    async def do(self, name: str, jobs: Sequence[Names]) -> None:
        match name:
            case "put":
                await self._put(self._inbox, jobs)
            case "fail beside":
                # The whole batch is rolled back, and each done again alone.
                await asyncio.gather(self._put(self._inbox, jobs), self._fail())
            case "restart":
                await self._restart()
            case "put by the version before":
                await self._inbox.close()
                with patch.object(writer, "note_gathered", lambda _: None):
                    self._inbox = TimedSqliteInbox(self._path)
                    await self._inbox.open()
                    await self._put(self._inbox, jobs)
                    await self._restart()
            case "read again":
                for receipt_id, names in enumerate(jobs, 1):
                    await self._read_again(f"job-{receipt_id}", receipt_id, names)
            case "erase":
                await self._erase(jobs[0][0])
            case _:
                await purge(self._inbox, payloads_before=NOW + SECOND, keys_before=NOW + SECOND, limit=7)
                self._names.clear()
        await self._check()

    async def _restart(self) -> None:
        await self._inbox.close()
        self._inbox = TimedSqliteInbox(self._path)
        await self._inbox.open()

    async def _put(self, inbox: TimedSqliteInbox, jobs: Sequence[Names]) -> None:
        puts = []
        for names in jobs:
            self._count += 1
            puts.append(inbox.put(receipt_of(f"job-{self._count}", names)))
            self._names[f"job-{self._count}"] = names
        await asyncio.gather(*puts)

    async def _fail(self) -> None:
        async def fail(_: Database) -> None:
            raise LookupError

        with pytest.raises(Exception, match="LookupError"):
            await self._inbox._write(fail)

    async def _read_again(self, job: str, receipt_id: int, names: Names) -> None:
        # Each receipt has brought one job, and has its number.
        if job in self._names and job not in self._erased:
            await self._inbox.reparse(receipt_id, receipt_of(job, names), dry_run=False)
            self._names[job] = names

    async def _erase(self, media_id: str) -> None:
        await erase(self._inbox, ErasureRequest(matched="media_id", value=media_id))
        # What they are keyed by stays.
        erased = [job for job, names in self._names.items() if names[0] == media_id]
        self._names |= dict.fromkeys(erased, (media_id, None))
        self._erased.update(erased)

    async def _check(self) -> None:
        check_file(self._path)
        for media_id in MEDIA_IDS:
            expected = {job for job, names in self._names.items() if names[0] == media_id}
            assert await self._find(media_id, "media_id") == expected
            listed = await self._inbox.list_events(EventFilter(media_id=media_id), limit=500)
            assert {event.job_id for event in listed} == expected
        for text in ("order 1", "order 2", "order "):
            found_by = "user_data_prefix" if text == "order " else "user_data"
            expected = {
                job
                for job, (_, told) in self._names.items()
                if told is not None and (told.startswith(text) if text == "order " else told == text)
            }
            assert await self._find(text, found_by) == expected

    async def _find(self, text: str, found_by: str) -> set[str | None]:
        return {hit.job_id for hit in await self._inbox.search(text, limit=500) if hit.found_by == found_by}


def receipt_of(job: str, names: Names) -> Receipt:
    return make_receipt(make_event(job, media_id=names[0], user_data=names[1]), sinks=())


MEDIA_IDS = ("media-1", "media-2", "\u5a92" * 300)
_JOBS = st.lists(
    st.tuples(st.sampled_from(MEDIA_IDS), st.sampled_from([None, "order 1", "order 2", "\u5a92\n" * 300])),
    min_size=1,
    max_size=12,
)
_STEPS = st.sampled_from(
    ["put", "put", "put", "fail beside", "restart", "put by the version before", "read again", "erase", "purge"]
)


@given(st.lists(st.tuples(_STEPS, _JOBS), max_size=10), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_every_event_is_found_by_what_it_says(steps: list[tuple[str, list[Names]]], gathered: int) -> None:
    async def run(path: Path) -> None:
        model = Model(path)
        await model.open()
        for name, jobs in steps:
            await model.do(name, jobs)
        await model.close()

    with pytest.MonkeyPatch.context() as monkey, tempfile.TemporaryDirectory(dir=find_memory()) as folder:
        monkey.setattr(sqlite_names, "_GATHERED", gathered)
        asyncio.run(run(Path(folder) / "inbox.db"))
