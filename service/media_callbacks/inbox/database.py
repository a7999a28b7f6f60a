"""
What the queries that both databases share ask of one.

Nearly everything is written once, for both: in SQL that both understand, with parameters ``$1``, ``$2`` and so on. What
is left is this class, which each database implements in one file: the few works of the hot path (receipts in,
deliveries out), locks, and where one planner needs to be told something.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, NamedTuple

from media_callbacks.inbox.records import AttemptResult
from media_callbacks.model.events import Delivery, Event
from media_callbacks.model.identity import key_digest, outcome_number, parse_event_id
from media_callbacks.model.receipts import Entry

Name = Literal["media_id", "user_data"]
Value = str | bytes | int | float | None
Row = Sequence[Any]


Candidate = tuple[int, Entry]
"""The number of a receipt, and what it brings that may become an event: it is new or not."""


class Fate(NamedTuple):
    """
    What became of a candidate. With neither, the event was there before.

    Attributes:
        accepted: The event, with the revision that it got.
        bound: What the key is bound to, when that is something else and the event was refused.
        known: The body of the event that was there before, as far as it is still kept.
    """

    accepted: Event | None = None
    bound: str | None = None
    known: str | None = None


class StoredEvent(NamedTuple):
    """
    An event in the tables, in order of acceptance.

    Attributes:
        receipt_id: The receipt that brought it first.
    """

    row_id: int
    key_digest: bytes
    outcome: int
    revision: int
    receipt_id: int
    accepted_at: int


class Horizon(NamedTuple):
    """
    How far the order is settled in which events are shown to those who follow them.

    Attributes:
        by_id_until: Events up to this id come first, in the order of their ids.
        xid: Later ones come in the order of the transactions that accepted them, as far as those below this one: they
            have all ended. None where there are no later ones.
    """

    by_id_until: int
    xid: int | None


STORED = "e.id, e.key_digest, e.outcome, e.revision, e.receipt_id, e.accepted_at"


def identity(event: Event) -> tuple[bytes, int]:
    """What an event is known by in the tables: the digest of its key, and the number of its outcome."""
    return key_digest(event.id), outcome_number(event.data.outcome)


def identity_of(event_id: str) -> tuple[bytes, int]:
    """
    The same of its id.

    Raises:
        ValueError: This is not an event id.
    """
    digest, outcome = parse_event_id(event_id)
    return digest, outcome_number(outcome)


class Database(ABC):
    """
    A connection, in a transaction unless it only reads.

    For SQL that both databases understand:

    - a parameter of which only the statement's own text could tell the type needs ``CAST($1 AS bigint)`` or
      ``CAST($1 AS text)``;
    - truth is tested by ``NOT is_routed``, never compared with a number, and comes back as bool or as 0 and 1;
    - ``INSERT … SELECT … WHERE true ON CONFLICT DO NOTHING``: without the WHERE, SQLite takes ON for a join;
    - text comes back in no particular order of letters: sort it in Python.

    Attributes:
        xid: The transaction that accepted an event ``e``, in SQL.
    """

    xid: str

    @abstractmethod
    async def fetch(self, sql: str, *parameters: Value) -> Sequence[Row]:
        """The rows of a query, or of a statement with RETURNING."""

    @abstractmethod
    async def fetch_for(self, sql: str, values: Sequence[Value], *parameters: Value) -> Sequence[Row]:
        """The rows of a query about any number of values, which ``IN ({values})`` in it asks for; in no order."""

    async def fetch_map(self, sql: str, values: Sequence[Value], *parameters: Value) -> dict[Any, Any]:
        """The same of two columns: from the first one to the second."""
        return dict(await self.fetch_for(sql, values, *parameters))  # type: ignore[arg-type]

    @abstractmethod
    async def execute(self, sql: str, *parameters: Value) -> int:
        """Returns how many rows were written or removed."""

    @abstractmethod
    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """A statement for each of many sets of parameters."""

    @abstractmethod
    async def now(self) -> int:
        """What the store's clock says, in milliseconds since 1970."""

    async def claimed_now(self) -> int:
        """The same, if the clock that it follows is believed whatever is known."""
        return await self.now()

    @abstractmethod
    def using(self, index: str) -> str:
        """What follows a table's name to have an index used, where that must be said."""

    @abstractmethod
    def by_key(self, condition: str) -> str:
        """
        A condition on events ``e`` that finds them by their keys, where ``find_events`` does not serve: as a part of a
        larger statement.

        Args:
            condition: On ``e.key_digest`` and ``e.outcome`` and nothing else of ``e``, and the key comes first in it.
        """

    @abstractmethod
    def ids_named(self, name: Name, condition: str) -> str:
        """
        A query for the ``id`` of events by their media id or their user data, with the newest spans of ids first.

        Args:
            condition: On the first START_CHARACTERS of it, user data as it is written in JSON, for which it has ``{}``.
        """

    @abstractmethod
    def for_update(self, alias: str, *, skip_locked: bool = False) -> str:
        """What ends a query whose rows of one table nobody else may change until the end of the transaction."""

    @abstractmethod
    async def lock(self, *, assets: Collection[bytes] = (), keys: Collection[bytes] = ()) -> None:
        """
        Wait until nobody else has any of these, and keep them until the end of the transaction, by their digests.

        Whoever accepts an event of a key, ends a job of it, or registers one, holds the key before he looks; whoever
        registers a job of an asset, or matches a message that names no job with one, holds the asset. Against
        deadlocks a transaction takes first all its assets, then all its keys, each at once.
        """

    @abstractmethod
    async def accept_events(self, candidates: Sequence[Candidate]) -> list[Fate]:
        """
        Insert the events that are new under their key and outcome, with their bodies and deliveries; bind keys; note
        which receipts bring an event again. The keys are locked. Jobs are left.
        """

    @abstractmethod
    async def claim_deliveries(
        self, sink: str, *, limit: int, max_bytes: int, lease_ms: int, lease: str
    ) -> list[Delivery]:
        """Lease what is due at a sink, if that is active, in order; apart from what somebody else is just leasing."""

    @abstractmethod
    async def record_attempts(self, results: Sequence[AttemptResult]) -> tuple[list[bool], set[str]]:
        """Returns which results still held their lease, and the sinks where something waited for one of these."""

    @abstractmethod
    async def feed_horizon(self) -> Horizon: ...

    @abstractmethod
    async def is_held_up(self, horizon: Horizon) -> bool:
        """Whether there are events that are not shown yet because others may come before them."""

    async def fetch_row(self, sql: str, *parameters: Value) -> Row | None:
        """The first row."""
        rows = await self.fetch(sql, *parameters)
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, *parameters: Value) -> Any:
        """The first column of the first row; None without any."""
        row = await self.fetch_row(sql, *parameters)
        return None if row is None else row[0]

    async def find_events(self, digests: Collection[bytes]) -> list[StoredEvent]:
        """All events of keys, in order of acceptance."""
        return await self._find_events(self.by_key("e.key_digest IN ({values})"), list(digests))

    async def find_event(self, digest: bytes, outcome: int) -> StoredEvent | None:
        return next((event for event in await self.find_events([digest]) if event.outcome == outcome), None)

    @abstractmethod
    async def find_events_by_prefix(self, prefixes: Collection[bytes]) -> list[StoredEvent]:
        """All events of keys whose digests begin with these eight bytes, however many there are; in no order."""

    async def find_events_by_row(self, row_ids: Collection[int]) -> list[StoredEvent]:
        return await self._find_events("e.id IN ({values})", list(row_ids))

    async def _find_events(self, condition: str, values: Sequence[Value]) -> list[StoredEvent]:
        rows = await self.fetch_for(f"SELECT {STORED} FROM events e WHERE {condition}", values)
        return sorted(map(StoredEvent._make, rows))

    async def find_bodies(self, row_ids: Collection[int]) -> dict[int, str]:
        """The bodies of events, as far as they are still kept."""
        sql = "SELECT event_id, body FROM event_bodies WHERE event_id IN ({values})"
        return await self.fetch_map(sql, list(row_ids))

    @asynccontextmanager
    async def savepoint(self, *, keep: bool = True) -> AsyncIterator[None]:
        """What is done within is taken back when it raises, or when it is not to be kept."""
        await self.execute("SAVEPOINT here")
        try:
            yield
        except BaseException:
            # Where this fails the whole transaction is lost, and the error that is raised says why.
            with suppress(Exception):
                await self.execute("ROLLBACK TO SAVEPOINT here")
                await self.execute("RELEASE SAVEPOINT here")
            raise
        if not keep:
            await self.execute("ROLLBACK TO SAVEPOINT here")
        await self.execute("RELEASE SAVEPOINT here")
