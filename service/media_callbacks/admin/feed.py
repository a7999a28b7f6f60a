"""
The feed: events in order of acceptance, for consumers that ask for them and wait for what comes.

What is there already is read by each client for itself, a part at a time. Whoever has seen all of it waits, and one
loop reads for all who do, once for each time that there may be something new, whether there are one or many.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from starlette.responses import Response

from media_callbacks.admin.models.answers import FeedPage
from media_callbacks.admin.models.questions import FeedQuery
from media_callbacks.admin.operations import operation
from media_callbacks.edge.answers import problem
from media_callbacks.inbox.records import FeedCursor, FeedEvent, FeedFilter, FeedPart
from media_callbacks.inbox.roles import FeedStore
from media_callbacks.model.errors import CursorGone, Unavailable
from media_callbacks.model.times import format_time
from media_callbacks.timing.loop import Loop
from media_callbacks.timing.waiting import Wait, wait_for

# At once, waiting or not. A listener has a hundred connections, and operators need some.
MAX_CLIENTS = 50
# Of an answer, or a single event of more. What slow clients have not read yet is kept, so this times the connections.
MAX_BYTES = 2**20
# Parts that are looked at for one answer, should they have nothing that fits.
_MAX_PARTS = 20
# In one read for all who wait.
_MAX_EVENTS = 500
# How often to look although nobody has called: news of other instances may be lost.
POLL_S = 1.0
# Callbacks that come in numbers are read and answered with together.
_GATHER_S = 0.05
# Events that wait for the end of other transactions: mostly it comes at once.
_HELD_UP_S = 0.05
_RETRY_S = 1.0
# Half a minute, as often as it is looked.
_HELD_UP_LOOKS = 30

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Found:
    events: Sequence[str]
    cursor: FeedCursor


class _Waiting:
    """Who has seen everything up to ``found.cursor``; done when there is more."""

    def __init__(self, cursor: FeedCursor, wanted: FeedFilter, limit: int) -> None:
        self.found = Found((), cursor)
        self.wanted = wanted
        self.limit = limit
        self.done = asyncio.Event()
        self.error: Exception | None = None

    def take(self, part: FeedPart) -> None:
        """What is new of a part that was read for all who wait."""
        cursor = self.found.cursor
        if self.done.is_set() or part.end.place <= cursor.place:
            return
        new = [event for event in part.events if event.place > cursor.place and event.is_since(cursor.since)]
        end = replace(part.end, since=cursor.since)
        self.found = _choose(replace(part, events=tuple(new), end=end), cursor, self.wanted, self.limit)
        # Where one is not kept any more, to ask again tells.
        if self.found.events or self.found.cursor == cursor:
            self.done.set()


class Feed:
    """
    Args:
        wait: How to wait for an event with a time-out in seconds.
    """

    def __init__(self, inbox: FeedStore, *, wait: Wait = wait_for) -> None:
        self._inbox = inbox
        self._wait = wait
        self._loop = Loop(self._read_for_all, name="feed", failure="feed_failed", retry_s=_RETRY_S, wait=wait)
        self._waiting: set[_Waiting] = set()
        # Up to where it was read for all.
        self._end: FeedCursor | None = None
        self._clients = 0
        self._held_up = 0

    def start(self) -> None:
        self._inbox.listen(self._hear)
        self._loop.start()

    async def stop(self) -> None:
        """Whoever waits is answered now. May come twice."""
        self._loop.stopping.set()
        for one in self._waiting:
            one.done.set()
        await self._loop.stop()

    def _hear(self, _: Collection[str]) -> None:
        if self._waiting:
            self._loop.wake()

    async def read(
        self, after: FeedCursor | datetime | None, wanted: FeedFilter, *, limit: int, wait_s: float
    ) -> Found:
        """
        Raises:
            CursorGone: What follows the cursor can't be told, or is not kept, any more.
            Unavailable: There are too many clients, or the store is away.
        """
        if self._clients >= MAX_CLIENTS:
            raise Unavailable(f"{self._clients} clients follow the feed at this instance, which is the limit")
        self._clients += 1
        try:
            if wait_s and isinstance(after, FeedCursor) and replace(after, since=None) == self._end:
                # Back with what it was just answered: others need not be kept waiting for each event by itself.
                found, is_complete = Found((), after), True
            else:
                found, is_complete = await self._read(after, wanted, limit)
            if found.events or not is_complete or not wait_s or self._loop.stopping.is_set():
                return found
            one = _Waiting(found.cursor, wanted, limit)
            self._waiting.add(one)
            try:
                # What came since it was read was told to nobody.
                self._loop.wake()
                await self._wait(one.done, wait_s)
                if one.error is not None:
                    raise one.error
                return one.found
            finally:
                self._waiting.discard(one)
        finally:
            self._clients -= 1

    async def _read(self, after: FeedCursor | datetime | None, wanted: FeedFilter, limit: int) -> tuple[Found, bool]:
        """What is there, and whether that is all."""
        for _ in range(_MAX_PARTS):
            part = await self._inbox.read_feed(after, [wanted], limit=limit, max_bytes=MAX_BYTES)
            found = _choose(part, None, wanted, limit)
            after = found.cursor
            if found.events or part.is_complete:
                break
        return found, part.is_complete

    async def _read_for_all(self) -> float | None:
        if not self._waiting:
            return None
        waiting = list(self._waiting)
        first = min((one.found.cursor for one in waiting), key=lambda cursor: cursor.place)
        try:
            part = await self._inbox.read_feed(
                replace(first, since=None),
                [one.wanted for one in waiting],
                limit=_MAX_EVENTS,
                max_bytes=MAX_BYTES,
            )
        except (CursorGone, Unavailable) as error:
            self._end = None
            for one in waiting:
                # Whose cursor it is shows when they ask again.
                one.error = error if isinstance(error, Unavailable) else None
                one.done.set()
            return None
        self._end = part.end
        for one in waiting:
            one.take(part)
        if part.end.place != first.place:
            await self._wait(self._loop.stopping, _GATHER_S)
            self._held_up = 0
        if not part.is_complete:
            return 0
        if not part.is_held_up:
            self._held_up = 0
            return POLL_S
        self._held_up += 1
        if self._held_up == _HELD_UP_LOOKS:
            log.warning("feed_held_up", detail="a transaction of somebody is open and has been for long")
        return min(_HELD_UP_S * self._held_up, POLL_S)


def _choose(part: FeedPart, before: FeedCursor | None, wanted: FeedFilter, limit: int) -> Found:
    """
    What one client wants of a part.

    Args:
        before: What was seen before; None where that is another client's business to know.

    Raises:
        CursorGone: The first of it is not kept any more, and nothing was seen before.
    """
    chosen: list[FeedEvent] = []
    size = 0
    for event in part.events:
        if not wanted.wants(event):
            continue
        if event.body is None:
            if chosen:
                break
            if before is not None:
                return Found((), before)
            assert part.kept_since is not None
            raise CursorGone("events after the cursor are not kept any more", since=part.kept_since)
        size += len(event.body)
        if chosen and (len(chosen) == limit or size > MAX_BYTES):
            break
        chosen.append(event)
    else:
        return Found([str(event.body) for event in chosen], part.end)
    return Found([str(event.body) for event in chosen], chosen[-1].cursor(part.end.since))


class Following:
    """The operation on it."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @operation(
        "GET",
        "/v1/feed",
        "Events as they come",
        description="In order of acceptance, each once. Ask again with the `cursor` of the answer. Without `after` and"
        " `since` it begins now. An answer has a mebibyte of events at most, or a single one.",
        answers={200: FeedPage},
        refusals={
            410: "The cursor is of another state of the store, which was restored or copied since, or events after it"
            " are not kept any more. Begin anew with `since`: what was seen may come again, with the same ids.",
            503: "The store is away, or too many clients follow the feed; come again after `Retry-After` seconds.",
        },
        waits=True,
    )
    async def follow_events(self, query: FeedQuery) -> Response:
        try:
            found = await self._feed.read(query.start, query.to_filter(), limit=query.limit, wait_s=query.wait)
        except CursorGone as error:
            since = format_time(error.since)
            return problem(410, detail=f"{error}; go on with since={since}", since=since)
        # The events as they are, which is how sinks get them.
        return Response(
            f'{{"events":[{",".join(found.events)}],"cursor":"{found.cursor}"}}', media_type="application/json"
        )
