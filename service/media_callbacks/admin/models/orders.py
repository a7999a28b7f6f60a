"""What operators order to be done: bodies of requests, each checked."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from media_callbacks.admin.models.questions import EventConditions
from media_callbacks.admin.models.values import EventId, Text, optional
from media_callbacks.inbox.records import ErasureRequest, EventFilter, Subject


class Order(BaseModel):
    """What all orders may say, for the record. Values must have the right type; nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requested_by: Text = optional("Who asks for it.", examples=["kim"])
    reason: Text = optional("Why.", examples=["the consumer lost its database"])


SinkName = Annotated[str, Field(pattern="^[a-z0-9-]+$", max_length=1000)]
SinkNames = Annotated[tuple[SinkName, ...], Field(min_length=1, max_length=100)]


class EventReplayOrder(Order):
    """Deliver one event again."""

    sinks: SinkNames = optional(
        "Where to. Left out: to the sinks that it has gone to before, as far as they are configured.",
        examples=[["orders"]],
    )


class ReplayFilter(EventConditions):
    """Which events: those that meet every condition. At least one is needed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, json_schema_extra={"minProperties": 1})

    event_id: EventId = optional("This event alone.")

    def to_filter(self) -> EventFilter:
        return EventFilter(**self.model_dump())


class ReplayOrder(Order):
    """Deliver many events again."""

    filter: ReplayFilter = Field(examples=[{"state": "dead", "sink": "orders", "since": "2026-11-20T00:00:00Z"}])
    sinks: SinkNames = optional(
        "Where to. Left out: to the sink that the filter names, else to the sinks that each event has gone to before.",
        examples=[["orders"]],
    )
    rate: float = Field(50.0, gt=0, le=10_000, allow_inf_nan=False, description="Events a second.")
    dry_run: bool = Field(False, description="Count the events and change nothing.")


class ErasureOrder(Order):
    """Erase what is kept of one subject, a part at a time. One of `job_id`, `media_id` and `user_data` says whose."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={"oneOf": [{"required": [name]} for name in ("job_id", "media_id", "user_data")]},
    )

    job_id: Text = optional("The vendor's job id.")
    media_id: Text = optional("The vendor's media id.")
    user_data: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")] = optional(
        "All of the text that was given at submit or at registration.", examples=["user 7"]
    )
    account: Text = optional(
        "Only in this account of the sources. Left out: in all. Requests and receipts that gave no event are of no"
        " account, and stay when one is named."
    )
    force: bool = Field(
        False,
        description="Whether what is not yet delivered is erased as well, and never delivered. Left out: such events"
        " stay whole, and are counted as `undelivered`.",
    )
    dry_run: bool = Field(False, description="Count, and change nothing.")
    cursor: Annotated[str, Field(pattern="^[0-9]{1,18}-[a-z]{1,16}-[0-9]{1,18}$")] = optional(
        "That of the answer to the part before."
    )

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if sum(value is not None for value in (self.job_id, self.media_id, self.user_data)) != 1:
            raise ValueError("expected one of job_id, media_id and user_data")
        return self

    def to_request(self) -> ErasureRequest:
        named: tuple[tuple[Subject, str | None], ...] = (
            ("job_id", self.job_id),
            ("media_id", self.media_id),
            ("user_data", self.user_data),
        )
        ((matched, value),) = [(name, value) for name, value in named if value is not None]
        return ErasureRequest(
            matched=matched,
            value=value,
            account=self.account,
            may_drop=self.force,
            requested_by=self.requested_by,
            reason=self.reason,
        )


class PauseOrder(Order):
    """Hold back what a sink would get."""


class ResumeOrder(Order):
    """Let a sink have what was held back."""


class CancelOrder(Order):
    """Make no further deliveries."""


class RetryOrder(Order):
    """Try now what a sink did not take."""
