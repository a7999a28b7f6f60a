"""
The tables of a store, for whoever takes all of it elsewhere.

Left out is what a database has for itself: the migrations that were applied, what is made anew from other tables (where
SQLite finds events by their keys, where both find events by their user data, counts of deliveries, and what there is in
spans), and what orders PostgreSQL's feed, where its server counts transactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

Row = Sequence[Any]
# Of rows without bodies; some hundred kilobytes.
_ROWS = 1000
# A body has up to 4 MiB.
_ROWS_WITH_BODIES = 16


@dataclass(frozen=True, slots=True)
class Table:
    """
    Attributes:
        columns: All of them, those first by which its index is ordered.
        sorted_by: By how many of them rows are read in order.
        booleans: Those that PostgreSQL has as such and SQLite as numbers.
        has_bodies: Whether rows may be large.
        numbers_rows: Whether the database gives each row the next id.
        is_singleton: One row that is there from the beginning.
    """

    name: str
    columns: Sequence[str]
    sorted_by: int = 1
    booleans: frozenset[str] = frozenset()
    has_bodies: bool = False
    numbers_rows: bool = False
    is_singleton: bool = False

    @property
    def rows_per_batch(self) -> int:
        return _ROWS_WITH_BODIES if self.has_bodies else _ROWS

    @property
    def query(self) -> str:
        """All rows."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} ORDER BY {', '.join(self.columns[: self.sorted_by])}"


def _table(name: str, columns: str, **options: Any) -> Table:
    return Table(name, tuple(columns.split()), **options)


TABLES = (
    _table(
        "receipts",
        "id received_at source product transport verified_by state reason warnings meta parser event_ids body"
        " stored_at",
        has_bodies=True,
        numbers_rows=True,
    ),
    _table(
        "events",
        "id key_digest outcome revision receipt_id accepted_at product kind job_id media_id is_routed",
        booleans=frozenset({"is_routed"}),
        numbers_rows=True,
    ),
    _table("event_bodies", "event_id body", has_bodies=True),
    _table("event_receipts", "event_id receipt_id"),
    _table("bindings", "key_digest value"),
    _table("deliveries", "event_id sink replay state due_at attempts lease changed_at error replay_id"),
    _table("attempts", "event_id sink replay started_at number duration_ms result error", sorted_by=5),
    _table("sinks", "name state reason changed_by changed_at"),
    _table(
        "replays",
        "id created_at changed_at state filter sinks rate_per_s requested_by reason total done cursor last_event_id"
        " next_at",
        numbers_rows=True,
    ),
    _table(
        "jobs",
        "id key_digest asset product account family job_id media_id nonce bind user_data registered_at deadline_at"
        " state ended_at transport event_id outcome attempts notification due_at lease token requested_by",
        numbers_rows=True,
    ),
    _table(
        "held",
        "id key_digest outcome binding receipt_id product reference nameless reason event sinks held_at until due_at"
        " attempts lease",
        has_bodies=True,
        numbers_rows=True,
    ),
    _table("nameless_keys", "key_digest job matched_at"),
    _table("nameless_events", "event_id asset accepted_at"),
    _table(
        "erasures",
        "id erased_at finished_at matched digest requested_by reason events receipts held jobs dead undelivered",
        numbers_rows=True,
    ),
    _table(
        "refused",
        "id refused_at source status reason cause detail job_id document",
        has_bodies=True,
        numbers_rows=True,
    ),
    _table("source_activity", "source configuration configured_at received_at refused_at refused_since longest_gap"),
    _table("activity", "minute what name count", sorted_by=3),
    _table("erased_events", "event_id public_id erased_at erasure"),
    _table(
        "answers",
        "id key_digest receipt_id reason attempt asked_at answered_at result decision detail event_id",
        numbers_rows=True,
    ),
    _table("receipt_keys", "key_digest receipt_id", sorted_by=2),
    _table("troubles", "trouble subject since seen_at told_at count detail", sorted_by=2),
    _table("heartbeat", "beats", is_singleton=True),
    _table("clock", "seen_at stepped_from stepped_to trusted_at", is_singleton=True),
)


def apart(attempts: Sequence[Row], before: Row | None) -> Sequence[Row]:
    """
    Attempts in order, those of one delivery a millisecond apart at least: PostgreSQL has one row for all of a
    millisecond.

    Args:
        before: The last one of those that come before.
    """
    made: list[Row] = []
    for row in attempts:
        *delivery, started_at = row[:4]
        if before is not None and list(before[:3]) == delivery and before[3] >= started_at:
            row = (*delivery, before[3] + 1, *row[4:])  # noqa: PLW2901 - it is this one
        made.append(row)
        before = row
    return made


@dataclass(slots=True)
class Digest:
    """
    What rows come to, in any order (databases sort texts differently) and of either database.

    Attributes:
        total: The sum of the rows' own digests.
    """

    rows: int = 0
    total: int = 0

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        for row in rows:
            words = repr([to_plain(value) for value in row]).encode("ascii", "backslashreplace")
            self.total = (self.total + int.from_bytes(blake2b(words, digest_size=16).digest())) % 2**128

    def __str__(self) -> str:
        return f"{self.total:032x}"


def to_plain(value: Any) -> Any:
    """A value as both databases can have it: PostgreSQL has booleans, and keeps no NUL in a text."""
    if isinstance(value, bool):
        return int(value)
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
