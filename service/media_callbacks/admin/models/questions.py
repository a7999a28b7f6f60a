"""What operators ask for: the parameters of a query, each checked, and the filter of the inbox that it is."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from media_callbacks.admin.models.values import Cursor, FeedCursorText, Limit, Moment, Text, optional, to_int
from media_callbacks.inbox.records import EventFilter, EventState, FeedCursor, FeedFilter, JobFilter, JobState
from media_callbacks.model.kinds import AnyKind, AnyOutcome, Product
from media_callbacks.model.receipts import ReceiptState

MAX_REPORT = timedelta(days=31)
MAX_WAIT_S = 60


class QueryParameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PageParameters(QueryParameters):
    cursor: Cursor = optional("The `cursor` of the page before.")
    limit: Limit = 50

    @property
    def before(self) -> int | None:
        return None if self.cursor is None else int(self.cursor)

    def cursor_after(self, numbers: Sequence[int]) -> str | None:
        """For the page after one of these rows; None where this one was the last."""
        return str(numbers[-1]) if len(numbers) == self.limit else None


class EventConditions(BaseModel):
    job_id: Text = optional("The vendor's job id.")
    media_id: Text = optional("The vendor's media id.")
    account: Text = optional(
        "That of the source, where several have this `job_id` or `media_id`. Alone it has the content of many events"
        " read, as far as that is still there."
    )
    product: Product = optional("Who made the message.")
    kind: AnyKind = optional("What ended; `operational` events are left out unless asked for.")
    outcome: AnyOutcome = optional("How it ended.")
    state: EventState = optional(
        "Events with a delivery in this state (one that was sent again counts by its latest replay), or"
        " those that matched no sink (`unrouted`).",
    )
    sink: Text = optional("Events with a delivery to this sink; together with `state`, in that state there.")
    since: Moment = optional("Accepted at this time or later.")
    until: Moment = optional("Accepted before this time.")
    given_up_since: Moment = optional(
        "Events with a delivery that is `dead`, given up at this time or later; with `sink`, there."
    )
    given_up_until: Moment = optional("Likewise, given up before this time.")


class EventQuery(PageParameters, EventConditions):
    def to_filter(self) -> EventFilter:
        return EventFilter(**self.model_dump(exclude={"cursor", "limit"}))


class FeedQuery(QueryParameters):
    after: FeedCursorText = optional(
        "The `cursor` of the answer before. Left out: what is accepted from now on, or since `since`."
    )
    since: Moment = optional("Accepted at this time or later. It is kept by cursors, and beside one it says nothing.")
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_S), BeforeValidator(to_int)] = Field(
        0, description="How many seconds to wait for an event where there is none just now."
    )
    limit: Limit = 100
    product: Product = optional("Who made the message.")
    kind: AnyKind = optional("What ended; `operational` events are left out unless asked for.")
    outcome: AnyOutcome = optional("How it ended.")
    job_id: Text = optional("The vendor's job id.")
    media_id: Text = optional("The vendor's media id.")
    source: Text = optional("Name of the source that they came through first.")

    @property
    def start(self) -> FeedCursor | datetime | None:
        return self.since if self.after is None else FeedCursor.parse(self.after)

    def to_filter(self) -> FeedFilter:
        return FeedFilter(**self.model_dump(exclude={"after", "since", "wait", "limit"}))


class ReceiptQuery(PageParameters):
    state: ReceiptState = optional("What became of them.")
    source: Text = optional("Name of the source that they came through.")
    job_id: Text = optional("Those about this job, also what has brought no event, as far as it can be found.")
    since: Moment = optional("Received at this time or later.")


class RefusedQuery(PageParameters):
    source: Text = optional("Name of the source, or `none` for paths that nobody listens on.")
    reason: Text = optional("Why, as in metrics and logs.")
    cause: Text = optional("What explains it.")
    text: Text = optional("Those in which this stands: a job id, a media id, user data, or anything else of them.")
    since: Moment = optional("Refused at this time or later.")


class JobQuery(PageParameters):
    state: JobState = optional("How far they are.")
    product: Product = optional("Who runs them.")
    account: Text = optional("That of the source.")
    job_id: Text = optional("The vendor's job id.")
    since: Moment = optional("Registered at this time or later.")
    until: Moment = optional("Registered before this time.")

    def to_filter(self) -> JobFilter:
        return JobFilter(**self.model_dump(exclude={"cursor", "limit"}))


class LifeQuery(QueryParameters):
    account: Text = optional("That of the source, where several have a job of this id.")
    family: Text = optional("What the job id is unique in, where there are several; as in a registration.")
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_S), BeforeValidator(to_int)] = Field(
        0,
        description="For how many seconds at most to wait for the job's end before answering; for one that nobody knows"
        " yet, too.",
    )


class SearchQuery(QueryParameters):
    q: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")] = Field(
        description="A job id, media id or nonce, the id of an event, or user data, whole or its beginning.",
        examples=["order-7"],
    )
    limit: Limit = 50


class ReportQuery(QueryParameters):
    since: Moment = optional("Jobs registered at this time or later. Left out: 24 hours before `until`.")
    until: Moment = optional("Jobs registered before this time. Left out: now. At most 31 days after `since`.")
