"""Deliveries are counted as they change, whatever changes them, and the counts are those of the deliveries."""

from random import Random
from typing import Any

import pytest

from media_callbacks.inbox.database import Database, Row
from media_callbacks.inbox.keeping import counts
from media_callbacks.inbox.operating import reads
from media_callbacks.inbox.operating.filters import compile_filter, find_candidates
from media_callbacks.inbox.records import AttemptResult, ErasureRequest, EventFilter, ReplayRequest
from media_callbacks.model.events import Delivery
from tests.inbox.conformance import (
    DAY,
    LEASE_S,
    NOW,
    SECOND,
    Reopen,
    attempt,
    backlog,
    deliver,
    find_delivery,
    make_event,
    make_receipt,
    purge,
    purge_step,
    put,
    resume,
)
from tests.inbox.timed import Timed, TimedSqliteInbox

SINKS = ("a", "b", "c")
OUTCOMES = ("succeeded", "failed", "partial")


async def counted(inbox: Timed) -> dict[tuple[str, str], tuple[int, int]]:
    """What is kept, by sink and state: how many, and in which span the first of them is."""
    return {(one.sink, one.state): (one.deliveries, one.first_span) for one in await inbox._read(counts.read)}


async def full_count(inbox: Timed) -> dict[tuple[str, str], tuple[int, int]]:
    async def read(database: Database) -> Any:
        return await database.fetch(
            "SELECT sink, state, count(*), min(event_id) FROM deliveries"
            " WHERE state IN ('pending', 'retrying', 'dead') GROUP BY sink, state"
        )

    return {(sink, state): (count, first >> 12) for sink, state, count, first in await inbox._read(read)}


FILTERS = (
    EventFilter(),
    EventFilter(kind="transcode"),
    EventFilter(kind="snapshot"),
    EventFilter(outcome="partial"),
    EventFilter(kind="transcode", outcome="failed", sink="b"),
    EventFilter(product="ims"),
    EventFilter(media_id="media-7"),
    EventFilter(sink="a"),
    EventFilter(sink="nobody"),
    EventFilter(state="dead"),
    EventFilter(state="dead", sink="b"),
    EventFilter(state="retrying"),
    EventFilter(state="pending", sink="a", outcome="failed"),
    EventFilter(state="parked"),
    EventFilter(state="delivered", sink="c"),
    EventFilter(state="unrouted"),
)


async def listed(inbox: Timed, wanted: EventFilter) -> list[int]:
    """By their places, in pages."""
    found: list[int] = []
    before = None
    while page := await inbox.list_events(wanted, before=before, limit=3):
        found += [event.cursor for event in page]
        before = page[-1].cursor
    return found


async def gone_through(inbox: Timed, wanted: EventFilter) -> list[int]:
    """The same, by looking at each event that there is."""

    async def read(database: Database) -> Any:
        query = compile_filter(database, wanted, range(2**62), by_index=False)
        return await database.fetch(f"{query.select('e.id')} ORDER BY e.id DESC", *query.parameters)

    return [row_id for (row_id,) in await inbox._read(read)]


async def listed_receipts(inbox: Timed, **wanted: Any) -> list[int]:
    found: list[int] = []
    before = None
    while page := await inbox.list_receipts(**wanted, before_id=before, limit=3):
        found += [receipt.id for receipt in page]
        before = page[-1].id
    return found


async def receipts_gone_through(inbox: Timed, **wanted: Any) -> list[int]:
    everything = await inbox.list_receipts(limit=10_000)
    return [one.id for one in everything if all(getattr(one, name) == value for name, value in wanted.items())]


async def skip_ids(inbox: Timed, count: int) -> None:
    """As if so many events had come and gone."""

    async def skip(database: Database) -> None:
        if isinstance(inbox, TimedSqliteInbox):
            await database.execute("UPDATE sqlite_sequence SET seq = seq + $1", count)
        else:
            for table in ("events", "receipts"):
                await database.fetch(f"SELECT setval('{table}_id_seq', nextval('{table}_id_seq') + $1)", count)

    await inbox._write(skip)


class Operators:
    """Receivers, operators and chance, with a store."""

    def __init__(self, inbox: Timed, seed: int, *, may_purge: bool = True) -> None:
        self.inbox = inbox
        self.may_purge = may_purge
        self.random = Random(seed)
        self.now = NOW
        self.leased: list[Delivery] = []

    async def step(self) -> str:
        steps = (
            *[self.accept] * 6,
            *[self.claim] * 4,
            *[self.record] * 4,
            *(self.switch, self.retry, self.replay, self.advance, self.erase, self.purge, self.reparse),
            *(self.break_off, self.inbox.summarise, self.wait, self.forget_leases, self.skip),
        )
        step = self.random.choice(steps)
        await step()
        return step.__name__

    async def accept(self) -> None:
        sinks = tuple(sink for sink in SINKS if self.random.random() < 0.7)
        number = self.random.randrange(12)
        event = make_event(
            f"job-{number}",
            self.random.choice(OUTCOMES),
            kind="transcode" if number == 3 else "animated_image",
            media_id=f"media-{number}",
        )
        await self.inbox.put(make_receipt(event, sinks=sinks, at=self.now))

    async def claim(self) -> None:
        self.leased += await self.inbox.claim(
            self.random.choice(SINKS), limit=self.random.randrange(1, 6), now=self.now, lease_s=LEASE_S
        )

    async def record(self) -> None:
        """Some of what was leased, perhaps long ago, comes to something."""
        self.random.shuffle(self.leased)
        some, self.leased = self.leased[:4], self.leased[4:]
        states: Any = ("delivered", "delivered", "retrying", "dead", "pending")
        results = [AttemptResult(one, self.random.choice(states), started_at=self.now, delay_s=30) for one in some]
        await self.inbox.record(results, now=self.now)
        if self.random.random() < 0.3:
            await self.inbox.record(results, now=self.now)

    async def switch(self) -> None:
        state: Any = self.random.choice(("active", "paused", "disabled"))
        await self.inbox.set_sink_state(self.random.choice(SINKS), state, reason="why", changed_by="who")

    async def retry(self) -> None:
        await self.inbox.retry_sink(self.random.choice(SINKS))

    async def replay(self) -> None:
        wanted = EventFilter(state=self.random.choice((None, "dead", "delivered", "pending")))
        await self.inbox.create_replay(ReplayRequest(filter=wanted, rate_per_s=5), now=self.now)

    async def advance(self) -> None:
        await self.inbox.advance_replays(now=self.now)

    async def erase(self) -> None:
        request = ErasureRequest(
            matched="job_id", value=f"job-{self.random.randrange(12)}", may_drop=self.random.random() < 0.5
        )
        await self.inbox.erase(request, erasure_id=None, position="events-0", dry_run=self.random.random() < 0.3)

    async def purge(self) -> None:
        before = self.now - self.random.randrange(1, 90) * SECOND
        if self.may_purge:
            await purge_step(self.inbox, payloads_before=before, keys_before=before, limit=5)

    async def reparse(self) -> None:
        await self.inbox.put(make_receipt(body=b"unparsed", at=self.now))
        (stored, *_) = await self.inbox.list_receipts(state="unparsed", limit=1)
        event = make_event(f"job-{self.random.randrange(12)}", self.random.choice(OUTCOMES))
        await self.inbox.reparse(
            stored.id, make_receipt(event, sinks=SINKS), now=self.now, dry_run=self.random.random() < 0.3
        )

    async def break_off(self) -> None:
        """What is taken back is not counted."""

        async def half(database: Database) -> Row | None:
            await database.execute("UPDATE deliveries SET state = 'dead', due_at = NULL WHERE state = 'pending'")
            await database.execute("DELETE FROM deliveries WHERE state = 'retrying'")
            return await database.fetch_row("SELECT no_such_column FROM deliveries")

        with pytest.raises(Exception, match="no_such_column"):
            await self.inbox._write(half)

    async def wait(self) -> None:
        self.now += self.random.randrange(1, 90) * SECOND

    async def forget_leases(self) -> None:
        """As a service that was killed; what it held is due again in a while."""
        self.leased.clear()

    async def skip(self) -> None:
        await skip_ids(self.inbox, self.random.randrange(9000))


class CountsConformance:
    @pytest.mark.parametrize("seed", [0, 1, 3, 4])
    async def test_whatever_is_done_what_is_counted_is_what_there_is(
        self, inbox: Timed, reopen: Reopen, seed: int
    ) -> None:
        operators = Operators(inbox, seed)
        done: list[str] = []
        seen: set[str] = set()
        for number in range(250):
            if number == 150:
                operators.inbox = inbox = await reopen(clock=inbox.clock)
            done.append(await operators.step())
            expected = await full_count(inbox)
            assert await counted(inbox) == expected, done
            seen |= {state for _, state in expected}
        assert seen == {"pending", "retrying", "dead"}

    @pytest.mark.parametrize("seed", [0, 1, 3, 4])
    async def test_lists_have_what_there_is_by_whatever_they_go(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        monkeypatch.setattr(reads, "_NEWEST", 5)
        operators = Operators(inbox, seed, may_purge=False)
        noted = 0
        for number in range(250):
            await operators.step()
            if number % 25 == 0:
                for wanted in FILTERS:
                    assert await listed(inbox, wanted) == await gone_through(inbox, wanted), wanted
                for about in ({"state": "unparsed"}, {"state": "duplicate"}, {"source": "vod"}, {"source": "ims"}):
                    assert await listed_receipts(inbox, **about) == await receipts_gone_through(inbox, **about), about
                noted += len(await inbox._read(lambda d: d.fetch("SELECT * FROM event_spans")))
        assert noted, "there were spans to go by"

    async def test_what_is_rare_is_found_in_the_spans_that_have_it(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reads, "_NEWEST", 1)
        rare, usual = make_event("rare", kind="transcode"), make_event("usual")
        await put(inbox, rare)
        for number in range(4):
            await skip_ids(inbox, 5000)
            await put(inbox, make_event(f"job-{number}"), at=NOW + 600 * SECOND)
        await inbox.summarise()
        await put(inbox, usual, at=NOW + 600 * SECOND)

        async def candidates(database: Database) -> list[int]:
            wanted = EventFilter(kind="transcode")
            found = await find_candidates(database, wanted, range(1, 1 << 16))
            return [span for ids in found.newest_first() for span in (ids.start >> 12, (ids.stop - 1) >> 12)]

        spans = await inbox._read(candidates)
        assert min(spans) == 0
        assert not {1, 2, 3} & set(spans), "the spans of the others were looked at"
        assert await listed(inbox, EventFilter(kind="transcode")) == [1]
        await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)

    async def test_what_changes_later_in_a_span_is_found_there(
        self, inbox: Timed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reads, "_NEWEST", 1)
        old = make_event("old")
        await put(inbox, old)
        await inbox.put(make_receipt(body=b"unparsed"))
        (stored,) = await inbox.list_receipts(state="unparsed", limit=1)
        for number in range(3):
            await skip_ids(inbox, 5000)
            await put(inbox, make_event(f"job-{number}"), at=NOW + 600 * SECOND)
        inbox.clock.now = NOW + 900 * SECOND
        await inbox.summarise()
        assert await listed(inbox, EventFilter(sink="late")) == []
        await inbox.create_replay(ReplayRequest(filter=EventFilter(event_id=old.id), sinks=("late",)))
        await inbox.advance_replays()
        assert await listed(inbox, EventFilter(sink="late")) == [1]
        again = make_receipt(old, body=b"unparsed")
        assert (await inbox.reparse(stored.id, again, now=inbox.clock.now, dry_run=False)).state == "duplicate"
        assert await listed_receipts(inbox, state="duplicate") == [stored.id]

    async def test_the_oldest_is_found_in_whatever_span_it_is(self, inbox: Timed) -> None:
        old, middle, new = (make_event(f"job-{n}") for n in range(3))
        await put(inbox, old)
        await skip_ids(inbox, 5000)
        await put(inbox, middle, at=NOW + SECOND)
        await put(inbox, new, at=NOW + 2 * SECOND)
        (sink,) = await inbox.list_sinks()
        assert (sink.deliveries, sink.oldest_pending_at) == ({"pending": 3}, NOW)
        (first,) = await inbox.claim("a", limit=1, now=NOW + 2 * SECOND, lease_s=LEASE_S)
        await inbox.record([AttemptResult(first, "retrying", started_at=NOW, delay_s=60)])
        (sink,) = await inbox.list_sinks()
        assert (sink.deliveries, sink.oldest_pending_at) == ({"retrying": 1, "pending": 2}, NOW)
        assert sink.next_attempt_at == NOW + 62 * SECOND
        assert len(await deliver(inbox, "a", now=NOW + 62 * SECOND)) == 3
        assert await backlog(inbox) == {}

    async def test_counts_are_folded_and_stay_what_they_are(self, inbox: Timed) -> None:
        events = [make_event(f"job-{n}") for n in range(6)]
        later = NOW + 9 * SECOND
        await put(inbox, *events[:3])
        await attempt(inbox, "a", "dead", now=later)
        await put(inbox, *events[3:], at=later)
        before = await backlog(inbox)
        assert before == {("a", "dead"): 3, ("a", "pending"): 3}
        await inbox.summarise()
        assert (await backlog(inbox), await inbox._read(counts.find_foldable)) == (before, [])
        await deliver(inbox, "a", now=later + 9 * SECOND)
        await inbox.create_replay(ReplayRequest(filter=EventFilter(state="dead")))
        await inbox.advance_replays()
        assert await backlog(inbox) == {("a", "pending"): 3}
        assert (await find_delivery(inbox, events[0])).state == "dead", "it was replaced"
        await deliver(inbox, "a", now=later + 9 * SECOND)
        await inbox.summarise()
        assert await inbox._read(lambda d: d.fetch("SELECT * FROM delivery_counts")) == []

    async def test_what_is_removed_is_not_counted_any_more(self, inbox: Timed) -> None:
        await put(inbox, make_event("job-1"))
        await attempt(inbox, "a", "dead")
        await put(inbox, make_event("job-2"))
        await resume(inbox)
        await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW + DAY)
        assert await backlog(inbox) == {("a", "pending"): 1}
