"""What came, before it is anything else: receipts, what they say, and what became of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from media_callbacks.model.events import Event
from media_callbacks.model.identity import key_digest, outcome_number
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import Product, Transport, VerifiedBy

ReceiptState = Literal["accepted", "duplicate", "differing", "unparsed", "conflict"]


HoldReason = Literal["confirm", "enrich"]


@dataclass(frozen=True, slots=True)
class Hold:
    """
    An event that must not leave yet, because the vendor is asked about its job first.

    Attributes:
        timeout_s: After how long it leaves if the vendor can't say anything about it.
    """

    reason: HoldReason
    reference: JobReference
    timeout_s: float


@dataclass(frozen=True, slots=True)
class NamelessJob:
    """
    What is known of the job of a message that names none. Expected jobs of this product, account, family and asset
    that have not ended (or ended as unknown) may be meant:

    - one: it takes the event. With ``takes_name`` the event gets the job's id and key (``Event.renamed``), and the key
      that it had is remembered for it, so that the same message again is a duplicate. Without, the event stays as it
      is, and the job has ended with it.
    - several: all are asked about at once. With ``takes_name`` the message gives no event, now and when it comes again;
      without, the event stays as it is.
    - none: with ``takes_name``, a job of this family and asset that the vendor has meanwhile been asked about, with
      the same outcome, and that no such message has been matched with, takes it as a duplicate. Otherwise the event
      stays as it is, and a registration within the hour may take it.
    """

    product: Product
    account: str
    family: str
    media_id: str
    takes_name: bool


@dataclass(slots=True)
class Entry:
    """
    One event of a receipt.

    Attributes:
        binding: A value that must never change for this event's key, or None.
        sinks: Where the event goes if it is new.
        hold: Why it must wait, or None. What is held is no event yet: nobody sees it, it binds nothing and takes no
            outcome, so that a lie that is held can't suppress the truth.
        nameless: Set when the message names no job, and an expected one may be meant.
        body: The event in JSON, with its first revision.
        digest, outcome: What the event is known by in the tables of the inbox: the digest of its key, and the number of
            its outcome.
    """

    event: Event
    sinks: tuple[str, ...]
    binding: str | None = None
    hold: Hold | None = None
    nameless: NamelessJob | None = None
    body: bytes = field(init=False, repr=False)
    digest: bytes = field(init=False, repr=False)
    outcome: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        event = self.event
        self.body = event.to_json()
        self.digest = key_digest(event.id)
        self.outcome = outcome_number(event.data.outcome)


@dataclass(slots=True, kw_only=True)
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


@dataclass(slots=True)
class Verdict:
    """
    What became of a receipt.

    Attributes:
        accepted: The events that were new, with the revision they got. There may be some whatever ``state`` says.
        held: How many new events wait for the vendor's answer; ``state`` is ``accepted`` then.
        is_journaled: It is durable, but outside the store, which was away: what it is will be known later, and
            ``state`` is ``accepted`` meanwhile.
        differs: In which members an event that was known already is another one; ``state`` is ``differing`` then.
    """

    state: ReceiptState
    accepted: tuple[Event, ...] = ()
    held: int = 0
    is_journaled: bool = False
    differs: tuple[str, ...] = ()
