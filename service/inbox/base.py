"""
What an inbox promises, whatever database is behind it.

``put`` returns only after the receipt, its events and their deliveries are durable, in one transaction. Time is an
argument everywhere. A delivery is leased to one dispatcher at a time; every statement about a leased delivery
carries the lease, and one that was lost meanwhile changes nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from service.events import Delivery, Event, Product, Transport, VerifiedBy

ReceiptState = Literal["accepted", "duplicate", "unparsed", "conflict"]
DeliveryState = Literal["pending", "retrying", "delivered", "dead", "parked"]


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One event of a receipt.

    Attributes:
        binding: A value that must never change for this event's key, or None.
        sinks: Where the event goes if it is new.
    """

    event: Event
    sinks: tuple[str, ...]
    binding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """
    One arrival through a source.

    Attributes:
        body: The raw bytes as received.
        meta: What else parsing needed, never a secret.
        entries: Empty when nothing could be parsed; ``reason`` then says why.
        warnings: Paths of fields that could not be understood.
        parser_version: Which version of the parsers read it.
    """

    source: str
    product: Product
    transport: Transport
    verified_by: VerifiedBy
    received_at: datetime
    body: bytes
    entries: tuple[Entry, ...]
    meta: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    parser_version: int = 0


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """
    A receipt as it was kept, to be read again.

    Attributes:
        id: The inbox's own, ascending in order of arrival.
    """

    id: int
    source: str
    verified_by: VerifiedBy
    received_at: datetime
    body: bytes
    meta: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reparsed:
    """
    What reading a receipt again came to.

    Attributes:
        accepted: Ids of events that are new.
        changed: Ids of events whose content is another now; they are sent to nobody.
    """

    state: ReceiptState
    accepted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """What an operator sees of a receipt. ``event_ids`` are the events that it brought, first or again."""

    id: int
    received_at: datetime
    source: str
    product: str
    transport: str
    verified_by: str
    state: ReceiptState
    reason: str | None
    warnings: tuple[str, ...]
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """What an operator sees of a delivery. ``due_at`` is None when it is not to be claimed just now."""

    sink: str
    replay: int
    state: DeliveryState
    attempts: int
    due_at: datetime | None
    changed_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """The life of an event. ``body`` is its JSON, or None once the retention period is over."""

    id: str
    accepted_at: datetime
    body: bytes | None
    receipts: tuple[ReceiptRecord, ...]
    deliveries: tuple[DeliveryRecord, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What became of a receipt.

    Attributes:
        accepted: The events that were new, with the revision they got.
    """

    state: ReceiptState
    accepted: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """
    What an attempt came to.

    Attributes:
        state: ``delivered`` and ``dead`` are final; ``retrying`` is due again at ``due_at``; ``pending`` gives the
            lease back as if nothing had been attempted.
        error: For the operator, at most a line; None after success.
    """

    delivery: Delivery
    state: Literal["delivered", "dead", "retrying", "pending"]
    due_at: datetime | None = None
    error: str | None = None


class Inbox(Protocol):
    """All methods raise InboxUnavailable when the database can't do its work just now."""

    async def open(self) -> None:
        """Connect, migrate where allowed, and free what an earlier life of this process had leased."""
        ...

    async def close(self) -> None:
        """Finish what was begun and disconnect."""
        ...

    async def put(self, receipt: Receipt) -> Verdict:
        """Keep a receipt and create the events and deliveries that are new. Durable when it returns."""
        ...

    async def claim(self, sink: str, *, limit: int, now: datetime, lease_s: float) -> Sequence[Delivery]:
        """Lease up to ``limit`` due deliveries, oldest first, none that an earlier outcome of its job holds back."""
        ...

    async def record(self, results: Sequence[AttemptResult], *, now: datetime) -> Sequence[bool]:
        """Write down what attempts came to. False for a lease that was lost meanwhile: nothing was changed."""
        ...

    async def next_due_at(self, sink: str) -> datetime | None:
        """When the sink's next delivery is due, leased ones included (their lease may expire); None when none waits."""
        ...

    async def count_deliveries(self) -> Mapping[tuple[str, DeliveryState], int]:
        """Deliveries by sink and state; states that end a delivery are left out."""
        ...

    async def outdated_receipts(self, *, parser_version: int, after_id: int, limit: int) -> Sequence[StoredReceipt]:
        """
        Receipts with an id above ``after_id`` that gave no event or were read by older parsers, in order of arrival,
        as far as their bodies are still there.
        """
        ...

    async def reparse(self, receipt_id: int, receipt: Receipt, *, now: datetime, dry_run: bool) -> Reparsed:
        """
        Replace what a kept receipt meant by what it means now: new outcomes become events with deliveries; an event
        that this receipt brought and whose content changed is updated, under its id, without a delivery. With
        ``dry_run`` nothing is changed.
        """
        ...

    async def find_event(self, event_id: str) -> EventRecord | None:
        """An event with its receipts, oldest first, and its deliveries."""
        ...

    async def list_receipts(
        self,
        *,
        state: ReceiptState | None = None,
        source: str | None = None,
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> Sequence[ReceiptRecord]:
        """Receipts, newest first, with ids below ``before_id``."""
        ...

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """From now on tell the listener, in the event loop, which sinks have something new to claim."""
        ...

    async def check(self) -> None:
        """Return if a receipt could be made durable now."""
        ...
