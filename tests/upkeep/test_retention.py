"""What is old goes, in steps that leave others their turn, by itself and by command."""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from media_callbacks.__main__ import main
from media_callbacks.commands import purge as purge_command
from media_callbacks.inbox.postgresql.inbox import PostgresqlInbox
from media_callbacks.inbox.records import Purged
from media_callbacks.inbox.roles import Inbox
from media_callbacks.inbox.sqlite.inbox import SqliteInbox
from media_callbacks.model.errors import ClockDoubted, InboxUnavailable
from media_callbacks.upkeep.retention import FIRST_DELAY_S, INTERVAL_S, Retention, purge
from tests.factories.running import PATIENCE_S, make_tables, to_toml
from tests.inbox.conformance import deliver, make_event, make_receipt, put
from tests.inbox.timed import Timed, TimedPostgresqlInbox, TimedSqliteInbox

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROOT = Path(__file__).parents[2]


class Scripted:
    """An inbox whose steps of ``purge`` are given: what each removes, or its error. It ends the run after the last."""

    def __init__(self, *steps: Purged | Exception) -> None:
        self.steps = list(steps)
        self.asked: list[dict[str, Any]] = []
        self.takes_s = 0.0
        self.now_s = 0.0

    async def purge(self, **asked: Any) -> Purged:
        self.asked.append(asked)
        self.now_s += self.takes_s
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


class Waits:
    """Time passes at once, and is written down; the last wait takes until what it waits for happens."""

    def __init__(self, ends_after: int = 1_000) -> None:
        self.seconds: list[float] = []
        self.ends_after = ends_after
        self.ended = asyncio.Event()

    async def __call__(self, event: asyncio.Event, timeout_s: float) -> None:
        self.seconds.append(timeout_s)
        await asyncio.sleep(0)
        if len(self.seconds) == self.ends_after:
            self.ended.set()
            await event.wait()


async def run_purge(inbox: Scripted, waits: Waits) -> Any:
    return await purge(
        inbox,
        retention_days=30,
        dedup_days=400,
        stopping=asyncio.Event(),
        wait=waits,
        monotonic=lambda: inbox.now_s,
    )


async def test_a_run_takes_small_steps_until_nothing_is_left():
    inbox, waits = Scripted(Purged(500, 0, False), Purged(20, 500, False), Purged(0, 7, True)), Waits()
    totals = await run_purge(inbox, waits)
    assert (totals.payloads, totals.keys, totals.is_finished) == (520, 507, True)
    assert inbox.asked == [{"keep_payloads": 30 * DAY, "keep_keys": 400 * DAY, "limit": 100}] * 3
    assert waits.seconds == [0.02, 0.02]


async def test_others_get_as_much_time_as_a_step_took():
    inbox, waits = Scripted(Purged(500, 0, False), Purged(0, 0, True)), Waits()
    inbox.takes_s = 0.7
    await run_purge(inbox, waits)
    assert waits.seconds == [pytest.approx(0.7)]


def make_retention(inbox: Scripted, waits: Waits) -> Retention:
    return Retention(inbox, retention_days=30, dedup_days=400, rng=Random(1), wait=waits)


async def run_retention(inbox: Scripted, waits: Waits) -> list[Any]:
    retention = make_retention(inbox, waits)
    with capture_logs() as logs:
        retention.start()
        async with asyncio.timeout(PATIENCE_S):
            await waits.ended.wait()
            await retention.stop()
            await retention.stop()
    return logs


async def test_it_runs_every_hour_and_each_run_is_one_line():
    inbox, waits = Scripted(Purged(1, 2, False), Purged(3, 4, True), Purged(0, 0, True)), Waits(ends_after=4)
    logs = await run_retention(inbox, waits)
    assert [(log["event"], log["payloads"], log["keys"]) for log in logs] == [("purged", 4, 6), ("purged", 0, 0)]
    first, step, *hours = waits.seconds
    assert step == 0.02
    assert 0.8 * FIRST_DELAY_S <= first <= 1.2 * FIRST_DELAY_S
    assert all(0.8 * INTERVAL_S <= hour <= 1.2 * INTERVAL_S for hour in hours)
    # Several instances do not come at the same time.
    assert hours[0] != hours[1]


async def test_a_store_whose_clock_is_doubted_is_left_alone_until_the_next_hour():
    inbox, waits = Scripted(ClockDoubted("three years"), Purged(1, 0, True)), Waits(ends_after=3)
    logs = await run_retention(inbox, waits)
    assert [(log["event"], log["log_level"]) for log in logs] == [("purge_refused", "warning"), ("purged", "info")]


async def test_a_store_that_is_away_is_tried_again_an_hour_later():
    inbox, waits = Scripted(InboxUnavailable("away"), OSError("odd"), Purged(1, 0, True)), Waits(ends_after=4)
    logs = await run_retention(inbox, waits)
    assert [log["event"] for log in logs] == ["purge_failed", "purge_failed", "purged"]


async def test_stopping_ends_a_run_after_its_step():
    inbox, waits = Scripted(*[Purged(1, 0, False)] * 100), Waits(ends_after=3)
    logs = await run_retention(inbox, waits)
    assert [(log["payloads"], log["is_finished"]) for log in logs] == [(2, False)]
    await make_retention(inbox, waits).stop()


# On a real store, and by command


async def fill(inbox: Timed) -> None:
    now = inbox.clock.now = datetime.now(UTC)
    await inbox.open()
    await put(inbox, *(make_event(f"ancient-{n}") for n in range(3)), at=now - 500 * DAY)
    await put(inbox, *(make_event(f"old-{n}") for n in range(4)), at=now - 40 * DAY)
    await deliver(inbox, "a", now=now)
    await put(inbox, make_event("new"), at=now - DAY)
    await inbox.put(make_receipt(make_event("waiting"), at=now - 600 * DAY))
    inbox.clock.now = now
    await inbox.trust_clock()
    await inbox.close()


async def left(inbox: Inbox) -> dict[str, bool]:
    """Jobs whose keys are there, and whether their payloads are."""
    await inbox.open()
    try:
        found = {}
        for job in ("ancient-0", "old-0", "new", "waiting"):
            record = await inbox.find_event(make_event(job).id)
            if record is not None:
                found[job] = record.body is not None
        return found
    finally:
        await inbox.close()


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "media-callbacks.toml"
    path.write_text(to_toml(make_tables(folder, {}, changes)))
    return path


async def run_command(config: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "media_callbacks", "purge", "--config", str(config), *arguments,
        cwd=ROOT, env={**os.environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def test_the_command_removes_what_is_old_beside_a_running_service(tmp_path):
    await fill(TimedSqliteInbox(tmp_path / "inbox.db"))
    service = SqliteInbox(tmp_path / "inbox.db")
    await service.open()
    try:
        # Quiet in a pipe.
        assert await run_command(write_config(tmp_path)) == (0, "7 payloads and 3 keys were removed\n", "")
        await service.put(make_receipt(make_event("meanwhile"), at=datetime.now(UTC)))
    finally:
        await service.close()
    found = await left(SqliteInbox(tmp_path / "inbox.db"))
    assert found == {"old-0": False, "new": True, "waiting": True}
    code, output, _ = await run_command(write_config(tmp_path), "--json")
    assert (code, json.loads(output)) == (0, {"payloads": 0, "keys": 0})


async def test_the_command_works_on_postgresql(tmp_path, database_url):
    await fill(TimedPostgresqlInbox(database_url))
    config = write_config(tmp_path, **{"store.url": database_url})
    assert await run_command(config) == (0, "7 payloads and 3 keys were removed\n", "")
    assert await left(PostgresqlInbox(database_url)) == {"old-0": False, "new": True, "waiting": True}


@pytest.mark.parametrize("is_postgresql", [False, True])
async def test_the_command_removes_nothing_by_a_clock_that_is_doubted_unless_it_is_told_to(
    tmp_path,
    database_url,
    is_postgresql,
):
    inbox: Timed = TimedPostgresqlInbox(database_url) if is_postgresql else TimedSqliteInbox(tmp_path / "inbox.db")
    inbox.clock.now = long_ago = datetime.now(UTC) - 800 * DAY
    await inbox.open()
    await put(inbox, make_event(), at=long_ago)
    await deliver(inbox, "a", now=long_ago)
    await inbox.watch_clock(now=long_ago)
    await inbox.close()
    config = write_config(tmp_path, **({"store.url": database_url} if is_postgresql else {}))
    code, output, errors = await run_command(config)
    assert (code, output) == (1, "")
    assert errors.startswith("store.url: nothing is removed, because the store's clock went from ")
    assert "(800 days)" in errors
    assert "--the-clock-is-right" in errors
    assert await run_command(config, "--the-clock-is-right") == (0, "1 payloads and 1 keys were removed\n", "")
    assert await run_command(config) == (0, "0 payloads and 0 keys were removed\n", "")


async def test_the_command_says_why_it_could_not(tmp_path, monkeypatch, capsys):
    (tmp_path / "inbox.db").write_bytes(b"this is no database at all, but something else " * 100)
    code, output, errors = await run_command(write_config(tmp_path))
    assert (code, output) == (1, "")
    assert errors.startswith("store.url: cannot use")


def test_a_store_that_fails_on_the_way_is_told(tmp_path, monkeypatch, capsys):
    async def fail(*_: Any, **__: Any) -> None:
        raise InboxUnavailable("the database does not answer")

    monkeypatch.setattr(purge_command, "purge_store", fail)
    assert main(["purge", "--config", str(write_config(tmp_path))]) == 1
    assert "the database does not answer; what was removed stays removed" in capsys.readouterr().err
