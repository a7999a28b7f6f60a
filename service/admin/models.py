"""
What operators ask and what they are answered, as models: requests are checked by them, answers written by them, and
the OpenAPI document made from them.

Members are named like those of the records in ``service.inbox.base``. Times are RFC 3339 in UTC.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from service.breaker import BreakerState
from service.events import Kind, Outcome, Product, Time
from service.inbox.base import (
    AttemptOutcome,
    DeliveryState,
    EventFilter,
    EventState,
    ReceiptState,
    ReplayRecord,
    ReplayState,
    SinkState,
)

MAX_LIMIT = 500

# Values


def _to_time(value: object) -> datetime:
    # Not by pydantic, which takes numbers for seconds since 1970, and in strict mode no text.
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise ValueError("expected an RFC 3339 time such as 2026-11-21T09:30:00Z; in a URL, + is written %2B")


def _to_int(value: object) -> object:
    # As digits and nothing else: pydantic would take " +1_0.0 " as well.
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    raise ValueError("expected a whole number in digits")


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")

Moment = Annotated[
    datetime,
    BeforeValidator(_to_time),
    # Python knows no year 0, which RFC 3339 has.
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": "^(?!0000)"}),
]
# PostgreSQL's text holds no NUL.
Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]
EventId = Annotated[str, Field(pattern="^evt_[0-9a-f]{34}$")]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many at most."), BeforeValidator(_to_int)]
# Opaque to callers; to us it is the inbox's number of the last row of the page before.
Cursor = Annotated[str, Field(pattern="^[0-9]{1,18}$")]
Timestamp = Annotated[Time, WithJsonSchema({"type": "string", "format": "date-time"})]


def _optional(description: str, **options: Any) -> Any:
    """A member that may be left out, and is None then. A null is not taken for it: what it meant would be a guess."""
    return Field(None, description=description, **options)


# Questions


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Query):
    cursor: Cursor = _optional("The `cursor` of the page before.")
    limit: Limit = 50

    @property
    def before(self) -> int | None:
        return None if self.cursor is None else int(self.cursor)


class _EventConditions(BaseModel):
    job_id: Text = _optional("The vendor's job id.")
    media_id: Text = _optional("The vendor's media id.")
    product: Product = _optional("Who made the message.")
    kind: Kind = _optional("What ended.")
    outcome: Outcome = _optional("How it ended.")
    state: EventState = _optional(
        "Events with a delivery in this state (one that was sent again counts by its latest replay), or"
        " those that matched no sink (`unrouted`).",
    )
    sink: Text = _optional("Events with a delivery to this sink; together with `state`, in that state there.")
    since: Moment = _optional("Accepted at this time or later.")
    until: Moment = _optional("Accepted before this time.")


class EventQuery(Page, _EventConditions):
    def to_filter(self) -> EventFilter:
        return EventFilter(**self.model_dump(exclude={"cursor", "limit"}))


class ReceiptQuery(Page):
    state: ReceiptState = _optional("What became of them.")
    source: Text = _optional("Name of the source that they came through.")
    since: Moment = _optional("Received at this time or later.")


# Orders


class Order(BaseModel):
    """What all orders may say, for the record. Values must have the right type; nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requested_by: Text = _optional("Who asks for it.", examples=["kim"])
    reason: Text = _optional("Why.", examples=["the consumer lost its database"])


SinkName = Annotated[str, Field(pattern="^[a-z0-9-]+$", max_length=1000)]
SinkNames = Annotated[tuple[SinkName, ...], Field(min_length=1, max_length=100)]


class EventReplayOrder(Order):
    """Deliver one event again."""

    sinks: SinkNames = _optional(
        "Where to. Left out: to the sinks that it has gone to before, as far as they are configured.",
        examples=[["orders"]],
    )


class ReplayFilter(_EventConditions):
    """Which events: those that meet every condition. At least one is needed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, json_schema_extra={"minProperties": 1})

    event_id: EventId = _optional("This event alone.")

    def to_filter(self) -> EventFilter:
        return EventFilter(**self.model_dump())


class ReplayOrder(Order):
    """Deliver many events again."""

    filter: ReplayFilter = Field(examples=[{"state": "dead", "sink": "orders", "since": "2026-11-20T00:00:00Z"}])
    sinks: SinkNames = _optional(
        "Where to. Left out: to the sink that the filter names, else to the sinks that each event has gone to before.",
        examples=[["orders"]],
    )
    rate: float = Field(50.0, gt=0, le=10_000, allow_inf_nan=False, description="Events a second.")
    dry_run: bool = Field(False, description="Count the events and change nothing.")


class PauseOrder(Order):
    """Hold back what a sink would get."""


class ResumeOrder(Order):
    """Let a sink have what was held back."""


# Answers


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Problem(Answer):
    """What was wrong, as RFC 9457 has it."""

    title: str = Field(description="The meaning of the status.", examples=["Not Found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str | None = Field(None, description="What was expected, what came, what to do.")


NextCursor = Annotated[str | None, Field(description="For the next page; null when there is none.")]


class EventItem(Answer):
    """An event in a list."""

    id: str = Field(examples=["evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600"])
    accepted_at: Timestamp
    product: str = Field(examples=["vod"])
    kind: str = Field(examples=["animated_image"])
    outcome: str = Field(examples=["succeeded"])
    revision: int = Field(description="Counts the outcomes of one job.")
    job_id: str | None = Field(examples=["3af7e9705cb24c0f9d23231d4c371900"])
    media_id: str | None
    deliveries: dict[str, DeliveryState] = Field(
        description="The state of the latest delivery, by sink.", examples=[{"orders": "delivered", "bus": "retrying"}]
    )


class EventPage(Answer):
    """Events, newest first."""

    events: tuple[EventItem, ...]
    cursor: NextCursor


class ReceiptItem(Answer):
    """One arrival through a source."""

    id: int
    received_at: Timestamp
    source: str = Field(examples=["vod"])
    product: str = Field(examples=["vod"])
    transport: str = Field(examples=["http"])
    verified_by: str = Field(examples=["signature"])
    state: ReceiptState
    reason: str | None = Field(description="Why it gave no event.", examples=["expected a JSON object, found text"])
    warnings: tuple[str, ...] = Field(description="Paths of fields that could not be understood.")
    event_ids: tuple[str, ...] = Field(description="The events that it brought, first or again.")


class ReceiptPage(Answer):
    """Receipts, newest first."""

    receipts: tuple[ReceiptItem, ...]
    cursor: NextCursor


class AttemptItem(Answer):
    """One attempt of a delivery."""

    number: int = Field(description="1 for the first; an interrupted one does not count, so the next has its number.")
    started_at: Timestamp
    duration_s: float
    result: AttemptOutcome
    error: str | None


class DeliveryItem(Answer):
    """An event on its way to one sink."""

    sink: str = Field(examples=["orders"])
    replay: int = Field(description="0 for the original delivery, n for the n-th time it was asked for again.")
    state: DeliveryState = Field(description="`parked`: the sink is paused or disabled.")
    attempts: int = Field(description="How many were made, apart from interrupted ones.")
    due_at: Timestamp | None = Field(description="When it is tried next; null when it is not to be tried just now.")
    changed_at: Timestamp
    error: str | None = Field(description="What the last attempt came to.", examples=["answered 503"])
    history: tuple[AttemptItem, ...] = Field(description="The attempts, oldest first.")


class EventDetail(Answer):
    """The life of an event."""

    id: str = Field(examples=["evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600"])
    accepted_at: Timestamp
    is_routed: bool = Field(description="Whether a sink matched when it was accepted.")
    event: dict[str, Any] | None = Field(
        description="The CloudEvent as sinks get it, null once the retention period is over. `media-callbacks schema`"
        " prints the schema of each kind."
    )
    receipts: tuple[ReceiptItem, ...] = Field(description="Oldest first.")
    deliveries: tuple[DeliveryItem, ...]


class FilterItem(Answer):
    """Which events a replay meant; null asks for nothing."""

    event_id: str | None
    job_id: str | None
    media_id: str | None
    product: str | None
    kind: str | None
    outcome: str | None
    state: EventState | None
    sink: str | None
    since: Timestamp | None
    until: Timestamp | None


class ReplayItem(Answer):
    """A replay and how far it is."""

    id: int
    state: ReplayState
    total: int = Field(description="How many events the filter meant when the replay was created.")
    done: int = Field(description="How many of them were gone through.")
    created_at: Timestamp
    changed_at: Timestamp
    filter: FilterItem
    sinks: tuple[str, ...] = Field(description="Where to; empty for the sinks that each event has gone to before.")
    rate: float = Field(description="Events a second.")
    requested_by: str | None
    reason: str | None

    @classmethod
    def of(cls, record: ReplayRecord) -> "ReplayItem":
        request = record.request
        return cls(
            id=record.id,
            state=record.state,
            total=record.total,
            done=record.done,
            created_at=record.created_at,
            changed_at=record.changed_at,
            filter=FilterItem.model_validate(request.filter),
            sinks=request.sinks,
            rate=request.rate_per_s,
            requested_by=request.requested_by,
            reason=request.reason,
        )


class ReplayPage(Answer):
    """Replays, newest first."""

    replays: tuple[ReplayItem, ...]
    cursor: NextCursor


class DryRun(Answer):
    """What a replay would do."""

    dry_run: Literal[True] = True
    total: int = Field(description="How many events the filter means now.")


class SinkItem(Answer):
    """A sink that is configured, or that something still waits for."""

    name: str = Field(examples=["orders"])
    kind: str | None = Field(examples=["webhook"], description="Null when it is not configured any more.")
    is_configured: bool
    state: SinkState
    breaker: BreakerState | None = Field(
        description="Of this instance: `open` while the destination is left alone, `half_open` while it is probed."
    )
    reason: str | None = Field(description="Why it is paused or disabled.", examples=["maintenance until noon"])
    changed_by: str | None
    changed_at: Timestamp | None
    deliveries: dict[DeliveryState, int] = Field(
        description="How many there are by state; delivered ones, and dead ones that were sent again, are left out."
    )
    backlog: int = Field(description="Pending, retrying and parked ones.")
    oldest_pending_at: Timestamp | None = Field(description="When the oldest event of the backlog was accepted.")
    oldest_pending_age_s: float | None


class SinkList(Answer):
    """Sinks, the configured ones first."""

    sinks: tuple[SinkItem, ...]
