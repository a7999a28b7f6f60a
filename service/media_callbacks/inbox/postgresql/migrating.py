"""
Migrations that are applied while services, of this version and of the one before, go on with the database.

The file of a migration has steps, each below a line that says how it is run, in order:

``-- step: transaction [TABLE ...]``
    Statements in one transaction. The tables are those in use that they change the definition of: better one than two.
    A lock on it is waited for so short that nobody notices who has to queue up behind it, and again after a pause.
``-- step: alone``
    One statement outside of a transaction, which may be repeated: ``CREATE INDEX CONCURRENTLY IF NOT EXISTS``, which
    takes long and holds up nobody. An index that an earlier attempt has left half made is removed before.
``-- step: batches``
    One statement, again and again, in a transaction each time. ``$1`` (bigint) is what it has returned the last time,
    0 at first; it is over when it returns NULL.

A file without such a line is one transaction. Which steps are done is noted in the table ``migration_steps``, in the
transaction of the step, so that whoever comes after a crash goes on from there. The table goes, and the number is
entered into ``migrations``, when all are done; until then nobody uses what is new, except for what the database does by
itself, such as triggers. Services of the version before write to the tables between any two steps, and meanwhile.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, cast

from media_callbacks.inbox.keeping.migrations import Migration, check_entry, load_migrations, missing_migrations
from media_callbacks.inbox.postgresql import tasks
from media_callbacks.inbox.postgresql.driver import is_lost_lock
from media_callbacks.timing.retry import backoff_s

# Of the advisory locks; those of keys and assets, in the database's functions, have it too.
LOCK_CLASS = 7105
_MIGRATION_LOCK = (LOCK_CLASS, -1)
# Everybody who writes to the table waits as long, and not again before the pause is over.
_LOCK_TIMEOUT_MS = 200
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0
# Of batches between two words about them.
_TOLD_EVERY = 50

_MARKER = re.compile(r"^-- step: (transaction|alone|batches)((?: \w+)*)\n", re.MULTILINE)
_INDEX = re.compile(r"^CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS (\w+)", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)

# What is going on, for a person.
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    kind: Literal["transaction", "alone", "batches"]
    tables: Sequence[str]
    sql: str

    def __str__(self) -> str:
        """The beginning of its first statement."""
        return _COMMENT.sub("", self.sql).strip().partition("\n")[0].rstrip(" (;")


def read_steps(migration: Migration) -> Sequence[Step]:
    _, *parts = _MARKER.split(migration.sql)
    steps = [
        Step(cast(Any, kind), tables.split(), sql)
        for kind, tables, sql in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]
    return steps or [Step("transaction", (), migration.sql)]


async def apply_missing(connection: Any, *, apply: bool, tell: Tell) -> Sequence[str]:
    """
    Returns:
        The names of the migrations that were applied.

    Raises:
        Unusable: As ``missing_migrations`` has it.
    """
    known = load_migrations("postgresql")
    applied = await applied_migrations(connection)
    if not missing_migrations(known, applied, apply=apply):
        return []
    if not applied:
        # A new database takes a moment.
        tell = _say_nothing
    async with _one_at_a_time(connection, tell):
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY, name text NOT NULL)"
        )
        # Another service may have been faster.
        missing = missing_migrations(known, await applied_migrations(connection))
        for migration in missing:
            await _Run(connection, migration, tell).finish()
    return [str(migration) for migration in missing]


def _say_nothing(_: str) -> None:
    pass


async def applied_migrations(connection: Any) -> dict[int, str]:
    """By their numbers, with what was entered."""
    if await connection.fetchval("SELECT to_regclass('migrations')") is None:
        return {}
    return dict(await connection.fetch("SELECT number, name FROM migrations"))


@asynccontextmanager
async def _one_at_a_time(connection: Any, tell: Tell) -> AsyncIterator[None]:
    is_told = False
    # Asked for again and again: a statement that waits for the lock is a transaction that is open, and to make an index
    # concurrently the other one would wait for that to end.
    async for _ in tasks.attempts():
        if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *_MIGRATION_LOCK):
            break
        if not is_told:
            is_told = True
            tell("another instance applies migrations, which is waited for")
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", *_MIGRATION_LOCK)


class _Run:
    """One migration, from the first step that is not done."""

    def __init__(self, connection: Any, migration: Migration, tell: Tell) -> None:
        self._connection = connection
        self._migration = migration
        self._tell = tell

    async def finish(self) -> None:
        steps = read_steps(self._migration)
        done = await self._begin()
        for number, step in enumerate(steps[done:], done + 1):
            if len(steps) > 1:
                self._tell(f"{self._migration}: step {number} of {len(steps)}: {step}")
            run: Callable[[Step], Awaitable[None]] = {
                "transaction": self._run_transaction,
                "alone": self._run_alone,
                "batches": self._run_batches,
            }[step.kind]
            await run(step)
        async with self._connection.transaction():
            await self._connection.execute(
                "INSERT INTO migrations (number, name) VALUES ($1, $2)", self._migration.number, self._migration.entry
            )
            await self._connection.execute("DROP TABLE migration_steps")

    async def _begin(self) -> int:
        """
        How many steps are done.

        Raises:
            Unusable: Those of another one are.
        """
        await self._connection.execute(
            "CREATE TABLE IF NOT EXISTS migration_steps"
            " (migration integer PRIMARY KEY, done integer NOT NULL, position bigint NOT NULL, entry text)"
        )
        number = self._migration.number
        # Versions that were not released had a table without what is entered.
        came = await self._connection.fetchval(
            "SELECT coalesce(to_jsonb(s) ->> 'entry', $2) FROM migration_steps s"
            " WHERE migration = $1 AND (done > 0 OR position > 0)",
            number,
            self._migration.name,
        )
        if came is not None:
            check_entry(self._migration, came)
        else:
            await self._connection.execute(
                "INSERT INTO migration_steps (migration, done, position, entry) VALUES ($1, 0, 0, $2)"
                " ON CONFLICT (migration) DO UPDATE SET entry = excluded.entry",
                number,
                self._migration.entry,
            )
        return int(await self._connection.fetchval("SELECT done FROM migration_steps WHERE migration = $1", number))

    async def _note_done(self) -> None:
        await self._connection.execute(
            "UPDATE migration_steps SET done = done + 1, position = 0 WHERE migration = $1", self._migration.number
        )

    async def _run_transaction(self, step: Step) -> None:
        async def run() -> None:
            async with self._connection.transaction():
                for table in step.tables:
                    # Nobody who reads or writes has to wait for this one, nor behind whoever waits for it. A vacuum
                    # has, and goes when it was the server that began it: it would only be in the way of the next lock.
                    await self._connection.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
                await self._connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
                await self._connection.execute(step.sql)
                await self._note_done()

        await self._repeat(run)

    async def _run_alone(self, step: Step) -> None:
        async def run() -> None:
            for index in _INDEX.findall(step.sql):
                if await self._connection.fetchval(
                    "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", index
                ):
                    await self._connection.execute(f"DROP INDEX CONCURRENTLY {index}")
            await self._connection.execute(step.sql)

        await self._repeat(run)
        await self._note_done()

    async def _run_batches(self, step: Step) -> None:
        position: int | None = await self._connection.fetchval(
            "SELECT position FROM migration_steps WHERE migration = $1", self._migration.number
        )

        async def run() -> None:
            nonlocal position
            async with self._connection.transaction():
                following = await self._connection.fetchval(step.sql, position)
                if following is None:
                    await self._note_done()
                else:
                    await self._connection.execute(
                        "UPDATE migration_steps SET position = $2 WHERE migration = $1",
                        self._migration.number,
                        following,
                    )
            position = following

        batches = 0
        while position is not None:
            await self._repeat(run)
            batches += 1
            if batches % _TOLD_EVERY == 0 and position is not None:
                self._tell(f"{self._migration}: {step}: up to {position}")

    async def _repeat(self, run: Callable[[], Awaitable[None]]) -> None:
        """Until no lock was in the way."""
        for attempt in count(1):
            try:
                await run()
            except Exception as error:
                if not is_lost_lock(error):
                    raise
            else:
                return
            pause_s = backoff_s(attempt, first_s=_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
            self._tell(f"{self._migration}: somebody has a lock that is needed; again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
