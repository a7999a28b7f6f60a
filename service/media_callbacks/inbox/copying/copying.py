"""
A whole store to an empty one, in one transaction of each, table by table in batches.

What was copied is read back and compared before it is committed, so that the target is a whole store or as empty as it
was, whenever this is broken off.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from media_callbacks.inbox.copying.tables import TABLES, Digest, Row, Table, apart
from media_callbacks.inbox.keeping.migrations import Migration, missing_migrations, unknown_migrations
from media_callbacks.model.errors import Unusable


class Source(Protocol):
    """A store that nobody writes to, as it is at one moment."""

    async def count(self, table: Table) -> int: ...

    def read(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """All rows, in batches."""
        ...

    async def last_id(self, table: Table) -> int:
        """The highest that a row has ever had; 0 for none."""
        ...


class Target(Source, Protocol):
    """A store that nobody else writes to. Nothing is there for others until the end."""

    async def clear(self, table: Table) -> None: ...

    async def make_room(self, table: Table, last_id: int) -> None:
        """Be prepared for rows with ids up to this one."""
        ...

    async def write(self, table: Table, rows: Sequence[Row]) -> None: ...

    async def go_on_after(self, table: Table, last_id: int) -> None:
        """Give later rows higher ids."""
        ...


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied of a table, and is there."""

    name: str
    rows: int
    digest: str


def check_schema(known: Sequence[Migration], applied: Mapping[int, str]) -> None:
    """
    Raises:
        Unusable: The schema is not that of this version, so that something might be left out.
    """
    if not applied:
        raise Unusable(["there are no tables of ours; name the store that the service uses"])
    if unknown := unknown_migrations(known, applied):
        raise Unusable(
            [f"the schema is that of a later version ({', '.join(unknown)}); copy with the version that migrated it"]
        )
    if missing := missing_migrations(known, applied):
        names = ", ".join(map(str, missing))
        raise Unusable(
            [
                f"the schema is that of an earlier version (without {names}); run `media-callbacks migrate` of"  # noqa: ISC004 - one sentence
                " this version on it"
            ]
        )


async def copy(source: Source, target: Target, progress: Callable[[int, int | None], None]) -> list[Copied]:
    """
    Args:
        progress: Told how many rows are written or compared, and of how many.

    Raises:
        Unusable: Something is in the target already, or what is there in the end is not what was copied.
    """
    for table in TABLES:
        if not table.is_singleton and await target.count(table):
            raise Unusable([f"the store to copy to is not empty: there are {table.name}"])
    total = 2 * sum([await source.count(table) for table in TABLES])
    done = 0
    copied: dict[str, Digest] = {}
    for table in TABLES:
        digest = copied[table.name] = Digest()
        if table.is_singleton:
            await target.clear(table)
        if table.numbers_rows:
            await target.make_room(table, await source.last_id(table))
        before: Row | None = None
        async for read in source.read(table):
            rows = read if table.name != "attempts" else apart(read, before)
            before = rows[-1]
            await target.write(table, rows)
            digest.add(rows)
            done += len(rows)
            progress(done, total)
        if table.numbers_rows:
            await target.go_on_after(table, await source.last_id(table))
    for table in TABLES:
        digest = Digest()
        async for rows in target.read(table):
            digest.add(rows)
            done += len(rows)
            progress(done, total)
        if digest != copied[table.name]:
            raise Unusable(
                [
                    f"{table.name}: {copied[table.name].rows} rows were copied, {digest.rows} are there, or they are"  # noqa: ISC004 - one sentence
                    " not the same; nothing was kept, run this again"
                ]
            )
    return [Copied(name, digest.rows, str(digest)) for name, digest in copied.items()]
