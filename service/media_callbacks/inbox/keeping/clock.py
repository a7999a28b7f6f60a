"""
The store's clock: the one by which leases, due times, deadlines and ages are told, whichever instance asks.

On PostgreSQL it is the server's, read where it is compared. On SQLite it is what the machine's clock said when the
service started, going on with the time since the machine was booted: whoever sets the machine's clock while the service
runs moves nothing. It does not begin before the time that it was seen at last.

It may be wrong all the same. So every minute somebody notes in the table ``clock`` that it was seen, and then:

- A step forward, of more than a day since it was seen last, is doubted: nobody can tell three years of standing still
  from a clock that is three years ahead. Everything goes on by it, but nothing is removed for its age, and nothing that
  was waited for before is given up because of it: the step counts for no patience. The doubt ends
  when the clock has gone on without stepping back for as long as the step was, at most a week; or when an operator says
  that it is right.
- A step back to before such a step shows that it was wrong. What was put off or stamped meanwhile is put back by as
  much.
- Any other step back is only told of. What is accepted meanwhile is stamped as if the clock stood still, so that
  nothing looks older than it is.

Times are milliseconds since 1970 in UTC.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from media_callbacks.inbox.database import Database
from media_callbacks.inbox.records import ClockRecord
from media_callbacks.inbox.rows import from_milliseconds
from media_callbacks.timing.waiting import seconds_since_boot

# A shorter step removes nothing much too early: payloads are kept for days and keys for hundreds of them.
DOUBTED_STEP_MS = 24 * 3_600_000
LONGEST_DOUBT_MS = 7 * DOUBTED_STEP_MS
# Clocks are corrected by little now and then.
TOLERANCE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Sighting:
    """
    What the table ``clock`` says.

    Attributes:
        seen_at: The latest time that the clock was seen at; None for a database that nobody has watched yet.
        stepped_from, stepped_to: A step that is doubted; None without.
        trusted_at: When it is not doubted any more.
    """

    seen_at: int | None = None
    stepped_from: int | None = None
    stepped_to: int | None = None
    trusted_at: int | None = None


class AnchoredClock:
    """
    The clock of a store on SQLite.

    Args:
        wall: The machine's clock, in seconds since 1970.
        elapsed: Seconds of a clock that nobody sets.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = seconds_since_boot
    ) -> None:
        self._wall, self._elapsed = wall, elapsed
        self._offset_s = wall() - elapsed()

    def now(self) -> int:
        return int((self._offset_s + self._elapsed()) * 1000 + 0.0005)

    def wall_now(self) -> int:
        """What the machine's clock says just now."""
        return int(self._wall() * 1000 + 0.0005)

    def begin(self, seen: Sighting, *, is_tool: bool) -> None:
        """
        Take the machine's clock, as far as what is known of the store's allows.

        Args:
            is_tool: A service with a clock of its own may be running. Where the machine's is far from what that has
                noted, it is not for a tool to decide which is right.
        """
        wall = start = self.wall_now()
        if seen.seen_at is not None:
            if seen.stepped_from is not None and seen.stepped_to is not None and wall < seen.stepped_to:
                start = max(wall, seen.stepped_from)
            elif is_tool and wall > seen.seen_at + DOUBTED_STEP_MS:
                start = seen.seen_at
            else:
                start = max(wall, seen.seen_at)
        self._offset_s = start / 1000 - self._elapsed()


def next_sighting(seen: Sighting, now: int) -> tuple[Sighting, int]:
    """What is to be noted at this time, and how much what is later than ``stepped_to`` was too late."""
    if seen.seen_at is None:
        return Sighting(now), 0
    if seen.stepped_from is not None and seen.stepped_to is not None:
        if now < seen.stepped_to - TOLERANCE_MS:
            return Sighting(max(now, seen.stepped_from)), seen.seen_at - now
        stepped_from, stepped_to, trusted_at = seen.stepped_from, seen.stepped_to, seen.trusted_at
        if now > seen.seen_at + DOUBTED_STEP_MS:
            trusted_at = now + min(now - stepped_from, LONGEST_DOUBT_MS)
        elif trusted_at is None or now >= trusted_at:
            return Sighting(max(now, seen.seen_at)), 0
        return Sighting(max(now, seen.seen_at), stepped_from, stepped_to, trusted_at), 0
    step = now - seen.seen_at
    if step > DOUBTED_STEP_MS:
        return Sighting(now, seen.seen_at, now, now + min(step, LONGEST_DOUBT_MS)), 0
    return Sighting(max(now, seen.seen_at)), 0


async def read(database: Database, *, for_update: bool = False) -> Sighting:
    locked = database.for_update("c") if for_update else ""
    row = await database.fetch_row(f"SELECT seen_at, stepped_from, stepped_to, trusted_at FROM clock c{locked}")
    return Sighting() if row is None else Sighting(*row)


async def _read_or_guess(database: Database, now: int, *, for_update: bool = False) -> Sighting:
    """A database that nobody has watched yet was last seen when its newest receipt came."""
    seen = await read(database, for_update=for_update)
    if seen.seen_at is not None:
        return seen
    newest = await database.fetch_value(
        "SELECT coalesce(stored_at, received_at) FROM receipts ORDER BY id DESC LIMIT 1"
    )
    # By the clocks of instances, which may have been ahead.
    return Sighting(None if newest is None else min(newest, now))


async def _write(database: Database, seen: Sighting) -> None:
    await database.execute(
        "UPDATE clock SET seen_at = $1, stepped_from = $2, stepped_to = $3, trusted_at = $4",
        seen.seen_at,
        seen.stepped_from,
        seen.stepped_to,
        seen.trusted_at,
    )


async def watch(database: Database) -> ClockRecord:
    """Note that the clock was seen, and put right what a step that has proved wrong has put off."""
    now = await database.now()
    before = await _read_or_guess(database, now, for_update=True)
    after, too_late_ms = next_sighting(before, now)
    if too_late_ms and before.stepped_to is not None:
        await _put_back(database, since=before.stepped_to, by=too_late_ms)
    await _write(database, after)
    is_doubted = after.stepped_from is not None and after.stepped_to is not None
    return ClockRecord(
        now=from_milliseconds(now),
        doubted_s=((after.stepped_to or 0) - (after.stepped_from or 0)) / 1000 if is_doubted else 0.0,
        trusted_at=None if after.trusted_at is None else from_milliseconds(after.trusted_at),
        behind_s=max(0, (after.seen_at or now) - now) / 1000,
        corrected_s=too_late_ms / 1000,
    )


async def trust(database: Database) -> None:
    await _write(database, Sighting(await database.claimed_now()))


async def doubt(database: Database) -> str | None:
    """Why it can't be told what is old, if so."""
    now = await database.claimed_now()
    seen, _ = next_sighting(await _read_or_guess(database, now), now)
    if seen.stepped_from is not None and seen.stepped_to is not None:
        days = (seen.stepped_to - seen.stepped_from) / DOUBTED_STEP_MS
        return (
            f"nothing is removed, because the store's clock went from {from_milliseconds(seen.stepped_from):%Y-%m-%d}"
            f" to {from_milliseconds(seen.stepped_to):%Y-%m-%d} ({days:.0f} days) while nobody saw it. If it is"
            " wrong, set it right and restart the service; if it is right, run `media-callbacks purge"
            " --the-clock-is-right`, or wait until the service has run for as long, at most a week"
        )
    return None


async def read_now(database: Database) -> Sighting:
    """As it would be noted now."""
    return next_sighting(await read(database), await database.now())[0]


def patience_from(at: int, seen: Sighting) -> int:
    """From when on it is waited for what has been due since then: time that perhaps has not passed does not count."""
    if seen.stepped_from is None or seen.stepped_to is None or at >= seen.stepped_to:
        return at
    return at + seen.stepped_to - seen.stepped_from


# What stands in columns of times that are later than they should be. Where a deadline was given by a client as a time,
# that is by another clock, and is only too late if it is later than the step as well.
_PUT_BACK = (
    "UPDATE deliveries SET due_at = due_at - $1 WHERE due_at >= $2",
    "UPDATE jobs SET due_at = due_at - $1 WHERE due_at >= $2",
    "UPDATE jobs SET deadline_at = deadline_at - $1 WHERE deadline_at >= $2 AND registered_at >= $2",
    "UPDATE jobs SET registered_at = registered_at - $1 WHERE registered_at >= $2",
    "UPDATE jobs SET ended_at = ended_at - $1 WHERE ended_at >= $2",
    "UPDATE held SET due_at = due_at - $1 WHERE due_at >= $2",
    "UPDATE held SET held_at = held_at - $1, until = until - $1 WHERE held_at >= $2",
    "UPDATE replays SET next_at = next_at - $1 WHERE next_at >= $2 AND state = 'running'",
    "UPDATE nameless_keys SET matched_at = matched_at - $1 WHERE matched_at >= $2",
    # Since when they are is in the ids of their events.
    "UPDATE troubles SET since = since - $1 WHERE since >= $2 AND told_at IS NULL",
    "UPDATE troubles SET seen_at = seen_at - $1 WHERE seen_at >= $2",
    (
        "UPDATE source_activity SET longest_gap = CASE WHEN longest_gap > $1 THEN longest_gap - $1 ELSE 0 END"
        " WHERE received_at >= $2"
    ),
    "UPDATE source_activity SET received_at = received_at - $1 WHERE received_at >= $2",
    "UPDATE source_activity SET configured_at = configured_at - $1 WHERE configured_at >= $2",
    "UPDATE nameless_events SET accepted_at = accepted_at - $1 WHERE accepted_at >= $2",
)


async def _put_back(database: Database, *, since: int, by: int) -> None:
    for statement in _PUT_BACK:
        await database.execute(statement, by, since)
    for table, column in (("receipts", "stored_at"), ("events", "accepted_at")):
        first_id = await _first_of_last(database, table, column, since)
        await database.execute(
            f"UPDATE {table} SET {column} = {column} - $1 WHERE {column} >= $2 AND id >= $3", by, since, first_id
        )


async def _first_of_last(database: Database, table: str, column: str, at: int) -> int:
    """From which row on the last ones are that late, looking back from the end by steps that double."""
    last_id: int = await database.fetch_value(f"SELECT coalesce(max(id), 0) FROM {table}")
    back = 1024
    while True:
        row = await database.fetch_row(
            f"SELECT {column} FROM {table} WHERE id <= $1 ORDER BY id DESC LIMIT 1", last_id - back
        )
        if row is None:
            return last_id - back
        (found_at,) = row
        if found_at is not None and found_at < at:
            return last_id - back
        back *= 2
