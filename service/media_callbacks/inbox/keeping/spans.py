"""
What there is in spans of ids: products, kinds and outcomes of events, and where they went; sources and states of
receipts; products of jobs. A list of what is rare goes through the spans that have some, however many others there are.

A span is looked at once, when it is complete and nobody can add to it any more. What is younger, or was there before
there were these tables and was not looked at yet, may have anything.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from media_callbacks.inbox.database import Database, Row, Value

# As inbox/sql/004_operating has them.
SPAN_BITS = 12
# How long after the next span has begun one is complete: no transaction takes as long (see postgresql/connecting).
SETTLED_MS = 120_000
# At a time: some ten milliseconds, of which a writer waits for one.
_SPANS_PER_LOOK = 10
# As they are gone through by lists.
_SPANS_AT_ONCE = 8

Rows = Literal["events", "receipts", "jobs"]
STORED_AT: Mapping[Rows, str] = {
    "events": "accepted_at",
    "receipts": "coalesce(stored_at, received_at)",
    "jobs": "registered_at",
}
# By table, in the order of its columns after the span.
_WORDS: Mapping[Rows, Sequence[tuple[str, str]]] = {
    "events": (
        ("event_spans", "SELECT DISTINCT product, kind, outcome FROM events WHERE id >= $1 AND id < $2"),
        ("delivery_spans", "SELECT DISTINCT sink FROM deliveries WHERE event_id >= $1 AND event_id < $2"),
    ),
    "receipts": (("receipt_spans", "SELECT DISTINCT source, state FROM receipts WHERE id >= $1 AND id < $2"),),
    "jobs": (("job_spans", "SELECT DISTINCT product FROM jobs WHERE id >= $1 AND id < $2"),),
}


@dataclass(frozen=True, slots=True)
class Look:
    """
    What there is in the next spans that are complete.

    Attributes:
        noted: Up to which span all were looked at before it, and after it.
        first_id: Of all rows that there are.
        words: What to insert into each table.
    """

    rows: Rows
    noted: tuple[int, int]
    first_id: int
    words: Mapping[str, Sequence[Row]]


async def look(database: Database) -> list[Look]:
    found = []
    settled_at = await database.now() - SETTLED_MS
    for rows in _WORDS:
        first_id = await database.fetch_value(f"SELECT min(id) FROM {rows}")
        if first_id is None:
            continue
        noted = await _noted(database, rows)
        end = start = max(noted, first_id >> SPAN_BITS)
        while end < start + _SPANS_PER_LOOK:
            # The first row beyond.
            began_at = await database.fetch_value(
                f"SELECT {STORED_AT[rows]} FROM {rows} WHERE id >= $1 ORDER BY id LIMIT 1", (end + 1) << SPAN_BITS
            )
            if began_at is None or began_at > settled_at:
                break
            end += 1
        if end > noted:
            words = {table: await _read_words(database, query, range(start, end)) for table, query in _WORDS[rows]}
            found.append(Look(rows, (noted, end), first_id, words))
    return found


async def _noted(database: Database, rows: Rows) -> int:
    return int(await database.fetch_value(f"SELECT {rows} FROM spans_noted"))


async def _read_words(database: Database, query: str, spans: range) -> list[Row]:
    return [
        (span, *words)
        for span in spans
        for words in await database.fetch(query, span << SPAN_BITS, (span + 1) << SPAN_BITS)
    ]


async def note(database: Database, found: Look) -> None:
    """Note it, unless somebody has meanwhile, and forget spans that are purged."""
    noted, end = found.noted
    if not await database.execute(f"UPDATE spans_noted SET {found.rows} = $1 WHERE {found.rows} = $2", end, noted):
        return
    for table, rows in found.words.items():
        if rows:
            marks = ", ".join(f"${number}" for number in range(1, len(rows[0]) + 1))
            await database.execute_many(f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO NOTHING", rows)
        await database.execute(f"DELETE FROM {table} WHERE span < $1", found.first_id >> SPAN_BITS)


class Candidates:
    """
    The spans that may have what is asked for, of those with certain ids.

    Attributes:
        ids: All of them.
        are_all: Nothing was asked that leaves any out.
    """

    def __init__(self, database: Database, rows: Rows, ids: range) -> None:
        self._database = database
        self._rows = rows
        self.ids = ids
        self._spans = range(ids.start >> SPAN_BITS, ((ids.stop - 1) >> SPAN_BITS) + 1)
        self._left: set[int] | None = None

    @property
    def are_all(self) -> bool:
        return self._left is None

    async def ask(self, table: str, **wanted: Value) -> None:
        """Leave those that have a row with all of this, and those that nobody has looked at."""
        asked = {column: value for column, value in wanted.items() if value is not None}
        if not asked:
            return
        conditions = [f"{column} = ${number}" for number, column in enumerate(asked, 3)]
        found = await self._fetch(f"SELECT span FROM {table} WHERE {' AND '.join(conditions)}", *asked.values())
        noted = await _noted(self._database, self._rows)
        self._keep(found | set(self._spans[max(0, noted - self._spans.start) :]))

    async def ask_counts(self, states: Collection[str], sink: str | None, *, is_active: bool | None) -> None:
        """
        Leave those that have deliveries in one of these states.

        Args:
            is_active: Whether to sinks that are active, or to those that are not; None for all.
        """
        words = ", ".join(f"'{state}'" for state in states)
        conditions = [f"state IN ({words})"]
        if is_active is not None:
            word = "NOT IN" if is_active else "IN"
            conditions.append(f"sink {word} (SELECT name FROM sinks WHERE state <> 'active')")
        parameters: list[Value] = []
        if sink is not None:
            conditions.append("sink = $3")
            parameters.append(sink)
        self._keep(await self._fetch(f"SELECT span FROM delivery_counts WHERE {' AND '.join(conditions)}", *parameters))

    async def _fetch(self, sql: str, *parameters: Value) -> set[int]:
        rows = await self._database.fetch(
            f"{sql} AND span >= $1 AND span < $2", self._spans.start, self._spans.stop, *parameters
        )
        return {span for (span,) in rows}

    def _keep(self, spans: set[int]) -> None:
        self._left = spans if self._left is None else self._left & spans

    def newest_first(self) -> Iterator[range]:
        """Their ids, those of a few spans that follow each other at once; or all."""
        if self._left is None:
            yield self.ids
            return
        spans = iter(sorted(self._left, reverse=True))
        last = first = next(spans, None)
        while first is not None and last is not None:
            following = next(spans, None)
            if following == first - 1 and last - following < _SPANS_AT_ONCE:
                first = following
                continue
            yield range(max(self.ids.start, first << SPAN_BITS), min(self.ids.stop, (last + 1) << SPAN_BITS))
            last = first = following
