"""What every inbox must do for those who follow events."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

import pytest

from media_callbacks.inbox.operating import feed
from media_callbacks.inbox.records import UNROUTED, ErasureRequest, FeedCursor, FeedFilter, FeedPart, Place
from media_callbacks.model.errors import CursorGone
from media_callbacks.model.events import Event
from tests.inbox.conformance import (
    DAY,
    NOW,
    SECOND,
    Reopen,
    deliver,
    ids,
    make_event,
    make_receipt,
    purge,
    put,
    with_data,
)
from tests.inbox.conformance_erasures import erase
from tests.inbox.timed import Timed

EVERYTHING = FeedFilter()
MEBIBYTE = 2**20


async def read(
    inbox: Timed, after: FeedCursor | datetime | None, *filters: FeedFilter, limit: int = 100, max_bytes: int = MEBIBYTE
) -> FeedPart:
    return await inbox.read_feed(after, filters or [EVERYTHING], limit=limit, max_bytes=max_bytes)


async def now(inbox: Timed) -> FeedCursor:
    return (await read(inbox, None)).end


def ids_of(part: FeedPart) -> list[str]:
    return [json.loads(event.body or "")["id"] for event in part.events]


async def follow(inbox: Timed, after: FeedCursor | datetime | None, *filters: FeedFilter, **options: Any) -> list[str]:
    """The ids of everything that follows."""
    found: list[str] = []
    while True:
        part = await read(inbox, after, *filters, **options)
        found += ids_of(part)
        if part.is_complete:
            return found
        after = part.end


def events_of(count: int, **fields: Any) -> Sequence[Event]:
    return [make_event(f"job-{number}", **fields) for number in range(count)]


class FeedConformance:
    async def test_events_come_in_order_and_each_once(self, inbox: Timed) -> None:
        start = await now(inbox)
        events = events_of(7)
        await put(inbox, *events)
        for limit in (1, 2, 7, 8):
            assert await follow(inbox, start, limit=limit) == ids(*events)
        assert await follow(inbox, await now(inbox)) == []

    async def test_without_a_start_only_what_comes_is_shown(self, inbox: Timed) -> None:
        before, after = events_of(2)
        await put(inbox, before)
        part = await read(inbox, None)
        assert (part.events, part.is_complete) == ((), True)
        await put(inbox, after)
        assert await follow(inbox, part.end) == ids(after)

    async def test_a_cursor_survives_being_written_down(self, inbox: Timed) -> None:
        one, other = events_of(2)
        await put(inbox, one)
        cursor = str(await now(inbox))
        await put(inbox, other)
        assert await follow(inbox, FeedCursor.parse(cursor)) == ids(other)

    @pytest.mark.parametrize(
        "wanted",
        [
            FeedFilter(product="ims"),
            FeedFilter(kind="transcode"),
            FeedFilter(outcome="failed"),
            FeedFilter(job_id="job-x"),
            FeedFilter(media_id="media-x"),
            FeedFilter(source="second"),
        ],
        ids=str,
    )
    async def test_the_cursor_goes_past_what_does_not_fit(self, inbox: Timed, wanted: FeedFilter) -> None:
        start = await now(inbox)
        fitting = make_event("job-x", "failed", product="ims", kind="transcode", media_id="media-x")
        await put(inbox, *events_of(3), with_data(fitting, source="second"))
        part = await read(inbox, start, wanted)
        fits = [event for event in part.events if wanted.wants(event)]
        assert [json.loads(event.body or "")["id"] for event in fits] == [fitting.id]
        assert part.end == await now(inbox)
        later = await read(inbox, part.end, wanted)
        assert (later.events, later.end) == ((), part.end)

    async def test_a_time_is_a_start(self, inbox: Timed) -> None:
        events = events_of(6)
        await put(inbox, *events)
        for limit in (1, 10):
            assert await follow(inbox, NOW + 2 * SECOND, limit=limit) == ids(*events[2:])
        assert await follow(inbox, NOW - DAY) == ids(*events)
        assert await follow(inbox, NOW + DAY) == []

    async def test_what_was_accepted_before_the_start_never_comes(self, inbox: Timed, monkeypatch: Any) -> None:
        monkeypatch.setattr(feed, "_ROWS", 2)
        events = events_of(6)
        await put(inbox, *events)
        part = await read(inbox, NOW + 4 * SECOND)
        assert ids_of(part) == []
        assert await follow(inbox, FeedCursor.parse(str(part.end))) == ids(*events[4:])

    async def test_a_part_has_no_more_than_there_is_room_for(self, inbox: Timed) -> None:
        start = await now(inbox)
        events = [with_data(event, user_data="x" * 3000) for event in events_of(4)]
        await put(inbox, *events)
        size = len(events[0].to_json())
        assert [len(ids_of(await read(inbox, start, max_bytes=size * count + 10))) for count in (0, 1, 3, 9)] == [
            1,
            1,
            3,
            4,
        ]
        assert await follow(inbox, start, max_bytes=10) == ids(*events)

    async def test_several_readers_are_served_by_one_read(self, inbox: Timed) -> None:
        start = await now(inbox)
        events = [make_event("a"), make_event("b", "failed"), make_event("c", kind="transcode")]
        await put(inbox, *events)
        part = await read(inbox, start, FeedFilter(outcome="failed"), FeedFilter(kind="transcode"))
        assert ids_of(part) == ids(*events[1:])

    async def test_what_is_purged_unseen_is_said_to_be(self, inbox: Timed) -> None:
        start = await now(inbox)
        old, new = events_of(2)
        await put(inbox, old)
        seen = await now(inbox)
        await put(inbox, new, at=NOW + DAY)
        await deliver(inbox, "a", now=NOW + DAY)
        await purge(inbox, payloads_before=NOW + SECOND, keys_before=NOW - DAY)
        part = await read(inbox, start)
        assert [event.body is None for event in part.events] == [True, False]
        assert part.kept_since == NOW + DAY
        assert await follow(inbox, part.kept_since) == ids(new)
        assert await follow(inbox, NOW) == ids(new)
        # Who has seen it has lost nothing.
        assert await follow(inbox, seen) == ids(new)

    async def test_a_cursor_whose_event_is_forgotten_is_refused(self, inbox: Timed) -> None:
        old, new = events_of(2)
        await put(inbox, old)
        seen = await now(inbox)
        await put(inbox, new, at=NOW + DAY)
        await deliver(inbox, "a", now=NOW + DAY)
        await purge(inbox, payloads_before=NOW + SECOND, keys_before=NOW + SECOND)
        with pytest.raises(CursorGone) as refused:
            await read(inbox, seen)
        assert await follow(inbox, refused.value.since) == ids(new)

    async def test_what_was_erased_is_passed_over(self, inbox: Timed) -> None:
        start = await now(inbox)
        one, erased, other = events_of(3)
        await put(inbox, one, erased, other)
        await deliver(inbox, "a", now=NOW + DAY)
        await erase(inbox, ErasureRequest(matched="job_id", value=str(erased.data.job_id)))
        assert await follow(inbox, start) == ids(one, other)

    @pytest.mark.parametrize(
        "changes", [{"check": "0000"}, {"accepted_at": 5}, {"place": Place(0, 999)}, {"place": Place(7**20, 1)}]
    )
    async def test_a_cursor_of_another_store_is_refused(self, inbox: Timed, changes: Any) -> None:
        await put(inbox, *events_of(2))
        cursor = await now(inbox)
        with pytest.raises(CursorGone) as refused:
            await read(inbox, replace(cursor, **changes))
        assert refused.value.since <= NOW

    async def test_it_goes_on_after_a_restart(self, inbox: Timed, reopen: Reopen) -> None:
        one, other = events_of(2)
        await put(inbox, one)
        cursor = await now(inbox)
        again = await reopen()
        await put(again, other)
        assert await follow(again, cursor) == ids(other)

    async def test_what_goes_nowhere_is_told_of_too(self, inbox: Timed) -> None:
        told: set[str] = set()
        inbox.listen(told.update)
        await put(inbox, make_event(), sinks=())
        assert UNROUTED in told

    async def test_who_reads_beside_the_writer_misses_nothing(self, inbox: Timed) -> None:
        rng = Random(7)
        cursor = await now(inbox)
        events = events_of(300)
        seen: list[str] = []
        writing = asyncio.gather(*(inbox.put(make_receipt(event)) for event in events))
        while len(seen) < len(events):
            part = await read(inbox, cursor, limit=rng.randint(1, 40))
            seen += ids_of(part)
            cursor = part.end
        await writing
        assert seen == ids(*events)
