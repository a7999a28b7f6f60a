"""The store's clock, as far as it can be told without a store; and a machine's that is set while nobody looks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_callbacks.inbox.keeping.clock import (
    DOUBTED_STEP_MS,
    LONGEST_DOUBT_MS,
    TOLERANCE_MS,
    AnchoredClock,
    Sighting,
    next_sighting,
)
from media_callbacks.inbox.records import AttemptResult
from media_callbacks.inbox.sqlite.inbox import SqliteInbox
from media_callbacks.model.errors import ClockDoubted
from media_callbacks.timing.waiting import seconds_since_boot
from tests.inbox.conformance import DAY, NOW, SECOND, make_event, make_receipt

YEAR = 365 * DAY
NOW_MS = int(NOW.timestamp() * 1000)


@given(st.lists(st.integers(-4 * DOUBTED_STEP_MS, 40 * DOUBTED_STEP_MS), max_size=20))
def test_whatever_a_clock_does_it_is_trusted_only_after_having_gone_on(steps: list[int]) -> None:
    seen, now, stepped_at = Sighting(NOW_MS), NOW_MS, None
    for step in steps:
        before, now = seen, now + step
        seen, too_late_ms = next_sighting(before, now)
        assert seen.seen_at is not None
        assert before.seen_at is not None
        is_doubted = seen.stepped_to is not None
        assert is_doubted == (seen.stepped_from is not None) == (seen.trusted_at is not None)
        if too_late_ms:
            assert before.stepped_to is not None
            assert now < before.stepped_to
            assert not is_doubted
            assert too_late_ms == before.seen_at - now
        else:
            assert seen.seen_at == max(before.seen_at, now)
        if now > before.seen_at + DOUBTED_STEP_MS and not too_late_ms:
            assert is_doubted
            stepped_at = now
        if before.stepped_to is not None and not is_doubted and not too_late_ms:
            assert stepped_at is not None
            assert now - stepped_at >= DOUBTED_STEP_MS, "the least that is doubted"


def test_a_doubt_ends_after_as_long_as_the_step_was_and_after_a_week_at_most() -> None:
    for step in (DOUBTED_STEP_MS + 1, 3 * DOUBTED_STEP_MS, 3000 * DOUBTED_STEP_MS):
        seen, _ = next_sighting(Sighting(NOW_MS), NOW_MS + step)
        assert seen == Sighting(NOW_MS + step, NOW_MS, NOW_MS + step, NOW_MS + step + min(step, LONGEST_DOUBT_MS))
    assert next_sighting(Sighting(NOW_MS), NOW_MS + DOUBTED_STEP_MS) == (Sighting(NOW_MS + DOUBTED_STEP_MS), 0)


def test_a_second_step_forward_begins_the_doubt_anew_and_the_first_is_what_may_be_wrong() -> None:
    seen, _ = next_sighting(Sighting(NOW_MS), NOW_MS + 9 * DOUBTED_STEP_MS)
    seen, _ = next_sighting(seen, NOW_MS + 19 * DOUBTED_STEP_MS)
    assert (seen.stepped_from, seen.stepped_to) == (NOW_MS, NOW_MS + 9 * DOUBTED_STEP_MS)
    assert seen.trusted_at == NOW_MS + 26 * DOUBTED_STEP_MS
    assert next_sighting(seen, NOW_MS + 1) == (Sighting(NOW_MS + 1), 19 * DOUBTED_STEP_MS - 1)


def test_a_small_correction_disproves_nothing() -> None:
    seen, _ = next_sighting(Sighting(NOW_MS), NOW_MS + 9 * DOUBTED_STEP_MS)
    assert next_sighting(seen, NOW_MS + 9 * DOUBTED_STEP_MS - TOLERANCE_MS) == (seen, 0)


def test_a_machine_tells_the_seconds_since_boot() -> None:
    assert 0 < seconds_since_boot() <= seconds_since_boot()


# On SQLite


class Machine:
    """A machine whose clock is set now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._elapsed_s = 12345.0
        self._wall_s = NOW.timestamp()

    def passes(self, time: timedelta) -> None:
        self._elapsed_s += time.total_seconds()
        self._wall_s += time.total_seconds()

    def is_set(self, by: timedelta) -> None:
        self._wall_s += by.total_seconds()

    @asynccontextmanager
    async def service(self, *, is_exclusive: bool = True) -> AsyncIterator[SqliteInbox]:
        clock = AnchoredClock(wall=lambda: self._wall_s, elapsed=lambda: self._elapsed_s)
        inbox = SqliteInbox(self._path, is_exclusive=is_exclusive, store_clock=clock)
        await inbox.open()
        try:
            yield inbox
        finally:
            await inbox.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "inbox.db")


async def purge_all(inbox: SqliteInbox) -> int:
    keys, is_finished = 0, False
    while not is_finished:
        step = await inbox.purge(keep_payloads=30 * DAY, keep_keys=400 * DAY, limit=100)
        keys, is_finished = keys + step.keys, step.is_finished
    return keys


async def deliver(inbox: SqliteInbox, state: str = "delivered", *, delay_s: float = 0.0) -> list[str]:
    claimed = await inbox.claim("a", limit=9, max_bytes=1 << 20, lease_s=20)
    results = [AttemptResult(one, state, delay_s=delay_s) for one in claimed]  # type: ignore[arg-type]
    assert all(await inbox.record(results))
    return [one.event_id for one in claimed]


@pytest.mark.parametrize("by", [-30 * YEAR, -21 * SECOND, 21 * SECOND, 10 * YEAR])
async def test_a_clock_that_is_set_while_the_service_runs_moves_nothing(machine: Machine, by: timedelta) -> None:
    async with machine.service() as inbox:
        await inbox.put(make_receipt(make_event("job-1")))
        assert await deliver(inbox, "retrying", delay_s=60) != []
        machine.is_set(by)
        assert await inbox.now() == NOW
        await inbox.put(make_receipt(make_event("job-2"), at=NOW + by))
        assert await deliver(inbox) == [make_event("job-2").id], "a new one at once"
        machine.passes(59 * SECOND)
        assert await deliver(inbox) == []
        machine.passes(SECOND)
        assert await deliver(inbox) == [make_event("job-1").id]
        assert (await inbox.watch_clock()).now == NOW + 60 * SECOND
        assert await purge_all(inbox) == 0


async def test_a_start_three_years_ahead_removes_nothing_and_no_id_is_given_again(machine: Machine) -> None:
    event = make_event()
    async with machine.service() as inbox:
        await inbox.put(make_receipt(event))
        assert await deliver(inbox) == [event.id]
    machine.is_set(3 * YEAR)
    async with machine.service() as inbox:
        with pytest.raises(ClockDoubted):
            await purge_all(inbox)
        assert (await inbox.put(make_receipt(event))).state == "duplicate"
        await inbox.put(make_receipt(make_event("job-2"), at=NOW + 3 * YEAR))
        assert await deliver(inbox, "retrying", delay_s=60) != []
        # Other receipts do not make it right.
        machine.passes(60 * SECOND)
        await inbox.watch_clock()
        with pytest.raises(ClockDoubted):
            await purge_all(inbox)
        machine.is_set(-3 * YEAR)
        await inbox.watch_clock()
        with pytest.raises(ClockDoubted):
            await purge_all(inbox)
    async with machine.service() as inbox:
        assert await inbox.now() == NOW + 60 * SECOND
        assert await purge_all(inbox) == 0
        assert await deliver(inbox) == [make_event("job-2").id], "what was put off is put back"
        for job in ("job-1", "job-2"):
            record = await inbox.find_event(make_event(job).id)
            assert record is not None
            assert record.accepted_at == NOW


@pytest.mark.parametrize("is_believed", [True, False])
async def test_who_comes_back_after_three_years_may_say_so_or_wait_a_week(machine: Machine, is_believed: bool) -> None:
    async with machine.service() as inbox:
        await inbox.put(make_receipt(make_event()))
        await deliver(inbox)
    machine.passes(3 * YEAR)
    async with machine.service() as inbox:
        with pytest.raises(ClockDoubted):
            await purge_all(inbox)
        if is_believed:
            async with machine.service(is_exclusive=False) as tool:
                with pytest.raises(ClockDoubted):
                    await purge_all(tool)
                await tool.trust_clock()
                assert await purge_all(tool) == 1
        else:
            for _ in range(8 * 24):
                machine.passes(timedelta(hours=1))
                record = await inbox.watch_clock()
            assert not record.doubted_s
            assert await purge_all(inbox) == 1


async def test_a_start_without_a_clock_goes_on_where_it_was(machine: Machine) -> None:
    """A machine that has no battery for it begins in 1970."""
    async with machine.service() as inbox:
        await inbox.put(make_receipt(make_event("job-1")))
        assert await deliver(inbox, "retrying", delay_s=60) != []
        await inbox.watch_clock()
    machine.is_set(datetime.fromtimestamp(0, NOW.tzinfo) - NOW)
    async with machine.service() as inbox:
        assert await inbox.now() == NOW
        machine.passes(60 * SECOND)
        assert await deliver(inbox) == [make_event("job-1").id]
        await inbox.put(make_receipt(make_event("job-2")))
    machine.is_set(NOW - datetime.fromtimestamp(0, NOW.tzinfo))
    async with machine.service() as inbox:
        assert await inbox.now() == NOW + 60 * SECOND
        assert not (await inbox.watch_clock()).doubted_s
        record = await inbox.find_event(make_event("job-2").id)
        assert record is not None
        assert record.accepted_at == NOW + 60 * SECOND


async def test_a_tool_on_a_machine_whose_clock_was_set_believes_the_running_service(machine: Machine) -> None:
    async with machine.service() as inbox:
        await inbox.watch_clock()
        machine.is_set(10 * YEAR)
        async with machine.service(is_exclusive=False) as tool:
            assert await tool.now() == NOW
            await tool.put(make_receipt(make_event(), at=NOW + 10 * YEAR))
            with pytest.raises(ClockDoubted):
                await purge_all(tool)
        assert await deliver(inbox) == [make_event().id]
        assert not (await inbox.watch_clock()).doubted_s
