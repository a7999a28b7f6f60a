"""
What operators ask and what they are answered, as models: requests are checked by them, answers written by them, and
the OpenAPI document made from them.

Members are named like those of the records in ``inbox.records``. Times are RFC 3339 in UTC.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    RootModel,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from media_callbacks.config.values import Account
from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.healing.queries.base import Family
from media_callbacks.inbox.records import (
    CURSOR_PATTERN,
    ActivityWord,
    AskResult,
    AttemptOutcome,
    Decision,
    DeliveryState,
    ErasureRecord,
    ErasureRequest,
    EventFilter,
    EventRecord,
    EventState,
    FeedCursor,
    FeedFilter,
    FoundBy,
    JobFilter,
    JobRecord,
    JobState,
    ReplayedState,
    ReplayRecord,
    ReplayState,
    SinkState,
    Subject,
)
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.kinds import AnyKind, AnyOutcome, Kind, Product, Transport
from media_callbacks.model.outputs import Time
from media_callbacks.model.receipts import HoldReason, ReceiptState
from media_callbacks.model.suggestions import did_you_mean

MAX_LIMIT = 500
MAX_JOBS = 1000
# That a registration is looked at with; it knows ten.
MAX_MEMBERS = 20
MAX_AHEAD = timedelta(days=30)
MAX_REPORT = timedelta(days=31)
MAX_WAIT_S = 60

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
FeedCursorText = Annotated[str, Field(pattern=f"^{CURSOR_PATTERN}$")]
Timestamp = Annotated[Time, WithJsonSchema({"type": "string", "format": "date-time"})]


def _optional(description: str, **options: Any) -> Any:
    """A member that may be left out, and is None then. A null is not taken for it: what it meant would be a guess."""
    return Field(None, description=description, **options)


# Questions


class QueryParameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PageParameters(QueryParameters):
    cursor: Cursor = _optional("The `cursor` of the page before.")
    limit: Limit = 50

    @property
    def before(self) -> int | None:
        return None if self.cursor is None else int(self.cursor)

    def cursor_after(self, numbers: Sequence[int]) -> str | None:
        """For the page after one of these rows; None where this one was the last."""
        return str(numbers[-1]) if len(numbers) == self.limit else None


class _EventConditions(BaseModel):
    job_id: Text = _optional("The vendor's job id.")
    media_id: Text = _optional("The vendor's media id.")
    account: Text = _optional(
        "That of the source, where several have this `job_id` or `media_id`. Alone it has the content of many events"
        " read, as far as that is still there."
    )
    product: Product = _optional("Who made the message.")
    kind: AnyKind = _optional("What ended; `operational` events are left out unless asked for.")
    outcome: AnyOutcome = _optional("How it ended.")
    state: EventState = _optional(
        "Events with a delivery in this state (one that was sent again counts by its latest replay), or"
        " those that matched no sink (`unrouted`).",
    )
    sink: Text = _optional("Events with a delivery to this sink; together with `state`, in that state there.")
    since: Moment = _optional("Accepted at this time or later.")
    until: Moment = _optional("Accepted before this time.")
    given_up_since: Moment = _optional(
        "Events with a delivery that is `dead`, given up at this time or later; with `sink`, there."
    )
    given_up_until: Moment = _optional("Likewise, given up before this time.")


class EventQuery(PageParameters, _EventConditions):
    def to_filter(self) -> EventFilter:
        return EventFilter(**self.model_dump(exclude={"cursor", "limit"}))


class FeedQuery(QueryParameters):
    after: FeedCursorText = _optional(
        "The `cursor` of the answer before. Left out: what is accepted from now on, or since `since`."
    )
    since: Moment = _optional("Accepted at this time or later. It is kept by cursors, and beside one it says nothing.")
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_S), BeforeValidator(_to_int)] = Field(
        0, description="How many seconds to wait for an event where there is none just now."
    )
    limit: Limit = 100
    product: Product = _optional("Who made the message.")
    kind: AnyKind = _optional("What ended; `operational` events are left out unless asked for.")
    outcome: AnyOutcome = _optional("How it ended.")
    job_id: Text = _optional("The vendor's job id.")
    media_id: Text = _optional("The vendor's media id.")
    source: Text = _optional("Name of the source that they came through first.")

    @property
    def start(self) -> FeedCursor | datetime | None:
        return self.since if self.after is None else FeedCursor.parse(self.after)

    def to_filter(self) -> FeedFilter:
        return FeedFilter(**self.model_dump(exclude={"after", "since", "wait", "limit"}))


class ReceiptQuery(PageParameters):
    state: ReceiptState = _optional("What became of them.")
    source: Text = _optional("Name of the source that they came through.")
    job_id: Text = _optional("Those about this job, also what has brought no event, as far as it can be found.")
    since: Moment = _optional("Received at this time or later.")


class RefusedQuery(PageParameters):
    source: Text = _optional("Name of the source, or `none` for paths that nobody listens on.")
    reason: Text = _optional("Why, as in metrics and logs.")
    cause: Text = _optional("What explains it.")
    text: Text = _optional("Those in which this stands: a job id, a media id, user data, or anything else of them.")
    since: Moment = _optional("Refused at this time or later.")


class JobQuery(PageParameters):
    state: JobState = _optional("How far they are.")
    product: Product = _optional("Who runs them.")
    account: Text = _optional("That of the source.")
    job_id: Text = _optional("The vendor's job id.")
    since: Moment = _optional("Registered at this time or later.")
    until: Moment = _optional("Registered before this time.")

    def to_filter(self) -> JobFilter:
        return JobFilter(**self.model_dump(exclude={"cursor", "limit"}))


class LifeQuery(QueryParameters):
    account: Text = _optional("That of the source, where several have a job of this id.")
    family: Text = _optional("What the job id is unique in, where there are several; as in a registration.")
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_S), BeforeValidator(_to_int)] = Field(
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
    since: Moment = _optional("Jobs registered at this time or later. Left out: 24 hours before `until`.")
    until: Moment = _optional("Jobs registered before this time. Left out: now. At most 31 days after `since`.")


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


class ErasureOrder(Order):
    """Erase what is kept of one subject, a part at a time. One of `job_id`, `media_id` and `user_data` says whose."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={"oneOf": [{"required": [name]} for name in ("job_id", "media_id", "user_data")]},
    )

    job_id: Text = _optional("The vendor's job id.")
    media_id: Text = _optional("The vendor's media id.")
    user_data: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")] = _optional(
        "All of the text that was given at submit or at registration.", examples=["user 7"]
    )
    account: Text = _optional(
        "Only in this account of the sources. Left out: in all. Requests and receipts that gave no event are of no"
        " account, and stay when one is named."
    )
    force: bool = Field(
        False,
        description="Whether what is not yet delivered is erased as well, and never delivered. Left out: such events"
        " stay whole, and are counted as `undelivered`.",
    )
    dry_run: bool = Field(False, description="Count, and change nothing.")
    cursor: Annotated[str, Field(pattern="^[0-9]{1,18}-[a-z]{1,16}-[0-9]{1,18}$")] = _optional(
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


# Jobs to expect


@dataclass(frozen=True, slots=True)
class JobRules:
    """
    What registrations are checked by, as the context of their validation.

    Attributes:
        families: That can be expected, by product.
    """

    families: Mapping[Product, Mapping[str, Family]]
    now: datetime

    def find(self, product: object, word: object) -> tuple[str, Family] | None:
        """
        The family that is meant, and its name: by its own word, of MTS's in any case, or by its kind, where it is the
        only one of that kind that the vendor can be asked about. None where none is meant.
        """
        if not isinstance(word, str):
            return None
        families = self._families_of(product)
        name = word.strip().lower() if product == "mts" else word.strip()
        if name in families:
            return name, families[name]
        found = self._of_kind(product, word.strip())
        return (found[0], families[found[0]]) if len(found) == 1 else None

    def explain(self, product: Product, word: str) -> str:
        """What is expected in place of a word that ``find`` finds nothing for, or nothing that can be asked about."""
        families = self._families_of(product)
        if several := self._of_kind(product, word):
            return f"several are of kind {word}; expected one of {', '.join(several)}"
        # Under both words, where they differ.
        known = {
            name: f"{name} or {family.kind}" if self._of_kind(product, family.kind) == [name] != [family.kind] else name
            for name, family in families.items()
            if family.batch
        }
        expected = f"expected one of {product}: {', '.join(known.values()) or 'none is known in this service'}"
        if word in families or any(family.kind == word for family in families.values()):
            return f"no query of the vendor tells of these jobs; {expected}"
        return expected + did_you_mean(word, [*known, *(families[name].kind for name in known if known[name] != name)])

    def _families_of(self, product: object) -> Mapping[str, Family]:
        return next((families for known, families in self.families.items() if known == product), {})

    def _of_kind(self, product: object, kind: str) -> list[str]:
        return [name for name, family in self._families_of(product).items() if family.kind == kind and family.batch]


def _trim(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _trim_hex(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Nonce = Annotated[
    str,
    Field(pattern="^[0-9a-f]{24}$"),
    BeforeValidator(_trim_hex),
    WithJsonSchema({"type": "string", "pattern": "^[0-9A-Fa-f]{24}$"}),
]
Bind = Annotated[
    str,
    Field(pattern="^[0-9a-f]{32}$"),
    BeforeValidator(_trim_hex),
    WithJsonSchema({"type": "string", "pattern": "^[0-9A-Fa-f]{32}$"}),
]
# Longer than any that the vendor has. Some of its own samples end in a line break.
Identifier = Annotated[
    str,
    Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$"),
    BeforeValidator(_trim),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[^\x00]*[^\x00\s][^\x00]*$"}),
]


class JobOrder(BaseModel):
    """A job that was submitted, and whose end is wanted. Ids are trimmed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={"anyOf": [{"required": ["job_id"]}, {"required": ["nonce"]}]},
    )

    # The examples together are one job.
    product: Product = Field(description="Who runs it.", examples=["multimediaai"])
    family: Identifier = Field(
        description="What the job id is unique in: the kind of its event, such as `snapshot`, where one family of the"
        " product is of it, else the product's own word: for ims and some of vod an EventType, for mts the `Type` of"
        " its messages in any case. One that is not known, or that the vendor can't be asked about, is refused with"
        " those that can.",
        examples=["animated_image"],
    )
    job_id: Identifier = _optional("The vendor's. May be left out where there is a nonce.", examples=["43567811"])
    media_id: Identifier = _optional(
        "The asset that the job works on; required where the vendor can only be asked by asset.",
        examples=["6a45f222e08f4d1d8d2d144503213a01"],
    )
    nonce: Nonce = _optional(
        "Of the minted URL that the job was submitted with; multimediaai's animated_image alone.",
        examples=["0f1e2d3c4b5a69788796a5b4"],
    )
    bind: Bind = _optional(
        "What that URL is bound to: the first 16 bytes of SHA-256 of application id, video URL and video name.",
        examples=["00112233445566778899aabbccddeeff"],
    )
    deadline: Moment = _optional(
        "When the vendor is asked, should nothing have come until then: at most 30 days from now; in the past for at"
        " once. Left out: `jobs.deadline_s` from now.",
        examples=["2026-11-21T10:30:00Z"],
    )
    user_data: Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")] = _optional(
        "For the event, where the vendor's answer has none."
    )
    account: Account = Field("default", description="The `account` of the source that its callbacks come through.")
    requested_by: Text = _optional("Who registers it, for the record.", examples=["orders"])

    @field_validator("family")
    @classmethod
    def _check_family(cls, family: str, info: ValidationInfo) -> str:
        product = info.data.get("product")
        if product is None or not isinstance(info.context, JobRules):
            return family
        found = info.context.find(product, family)
        if found is None or not found[1].batch:
            raise ValueError(info.context.explain(product, family))
        return found[0]

    @field_validator("deadline")
    @classmethod
    def _check_deadline(cls, deadline: datetime, info: ValidationInfo) -> datetime:
        if isinstance(info.context, JobRules) and deadline > info.context.now + MAX_AHEAD:
            raise ValueError(f"expected at most {MAX_AHEAD.days} days from now")
        return deadline

    @model_validator(mode="wrap")
    @classmethod
    def _check_together(
        cls, value: Any, handler: ModelWrapValidatorHandler["JobOrder"], info: ValidationInfo
    ) -> "JobOrder":
        """Members against each other, told beside what is wrong with each of them by itself."""
        if isinstance(value, dict) and len(value) > MAX_MEMBERS:
            # Not one by one: the service answers nobody meanwhile.
            raise ValueError(f"expected some of {', '.join(cls.model_fields)}, came {len(value)} members")
        between = list(_mistakes_between(value, info.context)) if isinstance(value, dict) else []
        try:
            order = handler(value)
        except ValidationError as error:
            told = [(m["type"], m["loc"], m["msg"]) for m in error.errors(include_url=False, include_context=False)]
        else:
            told = []
        told += [("value_error", (name,), text) for name, text in between]
        if told:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(type=PydanticCustomError(kind, text), loc=place, input=None)
                    for kind, place, text in told
                ],
            )
        return order

    def to_job(self, *, default_deadline: timedelta, token: str | None) -> ExpectedJob:
        return ExpectedJob(
            reference=JobReference(
                product=self.product,
                account=self.account,
                family=self.family,
                job_id=self.job_id,
                media_id=self.media_id,
                nonce=self.nonce,
                bind=self.bind,
            ),
            deadline=self.deadline or default_deadline,
            user_data=self.user_data,
            token=token,
            requested_by=self.requested_by,
        )


def _mistakes_between(given: Mapping[str, Any], context: object) -> Iterator[tuple[str, str]]:
    """Each with the member that it is told of."""
    if "job_id" not in given and "nonce" not in given:
        yield "job_id", "expected the vendor's job id, or the nonce of a minted URL"
    product, family = given.get("product"), given.get("family")
    found = context.find(product, family) if isinstance(context, JobRules) else None
    if found is not None and found[1].needs_media_id and "media_id" not in given:
        yield "media_id", f"required for {product} {found[0]}: the vendor can only be asked by asset"
    # The key of a minted URL is its nonce, and only one family has minted URLs.
    if found is not None and "nonce" in given and (product, found[0]) != ("multimediaai", "animated_image"):
        yield "nonce", "only minted URLs of multimediaai animated_image have one"
    if "bind" in given and "nonce" not in given:
        yield "bind", "expected together with the nonce of the minted URL"


class JobOrders(
    RootModel[
        Annotated[
            Annotated[JobOrder, Tag("one")]
            | Annotated[Annotated[list[JobOrder], Field(min_length=1, max_length=MAX_JOBS)], Tag("list")],
            Discriminator(lambda value: "list" if isinstance(value, list) else "one"),
        ]
    ]
):
    """One job, or a list of up to 1000."""


# Answers


class ApiModel(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Problem(ApiModel):
    """What was wrong, as RFC 9457 has it."""

    title: str = Field(description="The meaning of the status.", examples=["Not Found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str | None = Field(None, description="What was expected, what came, what to do.")
    since: Timestamp | None = Field(None, description="Of a feed that can't go on: where to begin anew.")


NextCursor = Annotated[str | None, Field(description="For the next page; null when there is none.")]


class EventItem(ApiModel):
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


class EventPage(ApiModel):
    """Events, newest first."""

    events: tuple[EventItem, ...]
    cursor: NextCursor


class FeedPage(ApiModel):
    """Events, in order of acceptance."""

    events: tuple[dict[str, Any], ...] = Field(
        description="CloudEvents, as they are sent to sinks; none where nothing came in time, or where those that were"
        " looked at do not fit."
    )
    cursor: str = Field(
        description="For what follows. Also past events that do not fit, so it may change without any.",
        examples=["7301-4711-9f2c6b1d0-1795170540000"],
    )


class ReceiptItem(ApiModel):
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


class ReceiptDetail(ReceiptItem):
    """A receipt with what is kept of it."""

    body: str | None = Field(
        description="The body as received, what is no UTF-8 replaced; null when it was erased, or the retention period"
        " is over."
    )
    body_base64: str | None = Field(description="The same, byte for byte.")
    meta: dict[str, str] = Field(description="What else was needed to read it.")
    parser_version: int = Field(description="Which version of the parsers has read it last.")


class ReceiptPage(ApiModel):
    """Receipts, newest first."""

    receipts: tuple[ReceiptItem, ...]
    cursor: NextCursor


class RefusedItem(ApiModel):
    """A request that was refused."""

    id: int
    refused_at: Timestamp
    source: str = Field(examples=["vod"], description="`none` where no source listens on its path.")
    status: int = Field(examples=[403], description="What it was answered with.")
    reason: str = Field(examples=["signature_mismatch"], description="As in metrics and logs.")
    cause: str = Field(
        examples=["url_scheme"],
        description="What explains it, as `media-callbacks explain` has it; empty where nothing does.",
    )
    detail: str = Field(examples=["no configured key and url gives this signature"])
    job_id: str | None = Field(
        description="Of the job that it says has ended, which nobody has proved; null where it can't be read.",
        examples=["3af7e9705cb24c0f9d23231d4c371900"],
    )


class RefusedPage(ApiModel):
    """The last requests that were refused, newest first."""

    refused: tuple[RefusedItem, ...]
    cursor: NextCursor


class RefusedDetail(RefusedItem):
    """A request that was refused, explained."""

    request: dict[str, Any] = Field(
        description="Method, target, headers and body as they came; signatures, tokens and secret segments of paths are"
        " told by their length alone, so that nothing here can be sent again."
    )
    explanation: dict[str, Any] | None = Field(
        description="As `media-callbacks explain --json` gives it: verdict, findings with what to do, steps. Null where"
        " the request was not whole."
    )
    afterwards: tuple[str, ...] = Field(
        description="What becomes of it and of its job, in sentences.",
        examples=[["The vendor sends it twice more within seconds, and then never."]],
    )


SourceState = Literal["receiving", "refusing", "silent", "quiet_since_change", "quiet", "new"]


class SourceItem(ApiModel):
    """A source, and when something came through it."""

    name: str = Field(examples=["vod"])
    product: Product
    transport: Transport
    state: SourceState = Field(
        description="`receiving`: something came, and less was refused since than would tell of trouble. `refusing`:"
        " all that came of late was refused. `silent`: nothing for far longer than usual. `quiet_since_change`: nothing"
        " came since its configuration changed, over an hour ago. `quiet`: nothing for a day. `new`: configured within"
        " the last hour, and nothing came yet."
    )
    text: str = Field(description="The same in a sentence, with what to do.")
    configured_at: Timestamp = Field(description="Since when its configuration is what it is.")
    received_at: Timestamp | None = Field(description="When something genuine came last, within some seconds.")
    refused_at: Timestamp | None = Field(description="When a request was refused last; something may have come since.")
    refused_since: int = Field(description="How many requests were refused in a row: since something genuine came.")


class SourceList(ApiModel):
    """The configured sources."""

    sources: tuple[SourceItem, ...]


class ActivityItem(ApiModel):
    """How much there was of something within a minute."""

    at: Timestamp
    what: ActivityWord
    name: str = Field(description="Of the source, or of the sink.", examples=["vod"])
    count: int


class TimesItem(ApiModel):
    """Medians of a sample of what began within a time, and has ended."""

    at: Timestamp = Field(description="When that time begins.")
    callback_s: float | None = Field(description="From a job's registration to its event.")
    delivery_s: float | None = Field(description="From an event's acceptance to its delivery.")


class Activity(ApiModel):
    """What came in and went out within the last day."""

    since: Timestamp
    until: Timestamp
    counts: tuple[ActivityItem, ...] = Field(description="Oldest minute first; of all instances, within some seconds.")
    hour: tuple[TimesItem, ...] = Field(description="The last hour, by five minutes.")
    day: tuple[TimesItem, ...] = Field(description="The last day, by the hour.")


class AttemptItem(ApiModel):
    """One attempt of a delivery."""

    number: int = Field(description="1 for the first; an interrupted one does not count, so the next has its number.")
    started_at: Timestamp
    duration_s: float
    result: AttemptOutcome
    error: str | None


class DeliveryItem(ApiModel):
    """An event on its way to one sink."""

    sink: str = Field(examples=["orders"])
    replay: int = Field(description="0 for the original delivery, n for the n-th time it was asked for again.")
    state: DeliveryState = Field(description="`parked`: the sink is paused or disabled.")
    attempts: int = Field(description="How many were made, apart from interrupted ones.")
    due_at: Timestamp | None = Field(description="When it is tried next; null when it is not to be tried just now.")
    changed_at: Timestamp
    error: str | None = Field(description="What the last attempt came to.", examples=["answered 503"])
    history: tuple[AttemptItem, ...] = Field(description="The attempts, oldest first.")


class EventDetail(ApiModel):
    """The life of an event."""

    id: str = Field(examples=["evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600"])
    accepted_at: Timestamp
    product: str | None = Field(None, examples=["vod"])
    kind: str | None = Field(None, examples=["animated_image"])
    outcome: str | None = Field(None, examples=["succeeded"])
    revision: int | None = Field(None, description="Counts the outcomes of one job.")
    job_id: str | None = None
    media_id: str | None = None
    is_routed: bool = Field(description="Whether a sink matched when it was accepted.")
    event: dict[str, Any] | None = Field(
        description="The CloudEvent as sinks get it, null once the retention period is over, or when it was erased."
        " `media-callbacks schema` prints the schema of each kind."
    )
    receipts: tuple[ReceiptItem, ...] = Field(description="Oldest first.")
    deliveries: tuple[DeliveryItem, ...]
    erased_at: Timestamp | None = Field(None, description="When its content was erased, if it was.")

    @classmethod
    def of(cls, record: EventRecord) -> "EventDetail":
        event = None if record.body is None else json.loads(record.body)
        members = {name: getattr(record, name) for name in cls.model_fields if name != "event"}
        return cls.model_validate(members | {"event": event})


class FilterItem(ApiModel):
    """Which events a replay meant; null asks for nothing."""

    event_id: str | None
    job_id: str | None
    media_id: str | None
    account: str | None = None
    product: str | None
    kind: str | None
    outcome: str | None
    state: EventState | None
    sink: str | None
    since: Timestamp | None
    until: Timestamp | None
    given_up_since: Timestamp | None = None
    given_up_until: Timestamp | None = None


class ReplayItem(ApiModel):
    """A replay and how far it is."""

    id: int
    state: ReplayState
    total: int = Field(description="How many events the filter meant when the replay was created.")
    done: int = Field(description="How many of them were gone through.")
    deliveries: dict[ReplayedState, int] | None = Field(
        None,
        description="What has become of the deliveries that were made for it, as long as they are kept; null in lists."
        " One that a later replay asked for, too, counts there.",
        examples=[{"waiting": 2, "delivered": 27, "dead": 1}],
    )
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
            deliveries=None if record.deliveries is None else dict(record.deliveries),
            created_at=record.created_at,
            changed_at=record.changed_at,
            filter=FilterItem.model_validate(request.filter),
            sinks=request.sinks,
            rate=request.rate_per_s,
            requested_by=request.requested_by,
            reason=request.reason,
        )


class ReplayPage(ApiModel):
    """Replays, newest first."""

    replays: tuple[ReplayItem, ...]
    cursor: NextCursor


class ErasureItem(ApiModel):
    """What was erased, or would be, so far."""

    events: int = Field(description="Events that have no content any more; held ones among them.")
    receipts: int = Field(description="Receipts that have no body any more.")
    held: int = Field(description="Held events that will not be asked about any more.")
    jobs: int = Field(description="Expected jobs that have no user data any more.")
    dead: int = Field(description="Deliveries that will not be made any more.")
    undelivered: int = Field(description="Events, held ones among them, that were left as they are.")


class ErasedPart(ErasureItem):
    """What a part of an erasure has done, or would."""

    id: int | None = Field(description="Of the erasure; null where it was only counted.")
    cursor: str | None = Field(description="What to send with the same order for the next part; null at the end.")
    journaled: int = Field(
        description="Receipts in this instance's journal. They are in no store, and were not looked at."
    )


class ErasureRecordItem(ErasureItem):
    """An erasure, for the record."""

    id: int
    erased_at: Timestamp
    finished_at: Timestamp | None = Field(description="Null as long as a part is to come.")
    matched: Subject = Field(description="Which member said whose content it was.")
    digest: str = Field(description="SHA-256 of what it said, in hexadecimal digits.")
    requested_by: str | None
    reason: str | None

    @classmethod
    def of(cls, record: ErasureRecord) -> "ErasureRecordItem":
        return cls(
            **asdict(record.counts),
            id=record.id,
            erased_at=record.erased_at,
            finished_at=record.finished_at,
            matched=record.matched,
            digest=record.digest,
            requested_by=record.requested_by,
            reason=record.reason,
        )


class ErasurePage(ApiModel):
    """Erasures, newest first."""

    erasures: tuple[ErasureRecordItem, ...]
    cursor: NextCursor


class DryRun(ApiModel):
    """What a replay would do."""

    dry_run: Literal[True] = True
    total: int = Field(description="How many events the filter means now.")


class SinkItem(ApiModel):
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
    next_attempt_at: Timestamp | None = Field(None, description="When what it did not take is tried again.")
    last_error: str | None = Field(
        None,
        description="What it answered when it did not take something last, as far as that is not delivered yet.",
        examples=["answered HTTP 503"],
    )
    last_error_at: Timestamp | None = Field(None, description="When that was.")
    first_given_up_at: Timestamp | None = Field(
        None, description="When the first of the dead deliveries was given up that were not sent again."
    )
    last_given_up_at: Timestamp | None = Field(None, description="When the last of them was.")
    last_taken_at: Timestamp | None = Field(
        None,
        description="When it took something last, to the minute, where something waits or is dead; null when that was"
        " not within a day.",
    )


class TriedSink(SinkItem):
    """A sink that is tried now."""

    brought_forward: int = Field(
        description="How many deliveries that were to be tried again some time are due now. While the sink is paused or"
        " disabled they wait, as all others do."
    )


class SinkList(ApiModel):
    """Sinks, the configured ones first."""

    sinks: tuple[SinkItem, ...]


class TroubleItem(ApiModel):
    """Something that is wrong, or deserves a look."""

    is_wrong: bool = Field(description="False for what only deserves a look.")
    trouble: str | None = Field(None, examples=["sink_failing"], description="Its word in operational events.")
    what: str = Field(
        examples=["sink"], description="What it is about: `sink`, `source`, `jobs`, `held`, `store`, `host`, `service`."
    )
    name: str | None = Field(examples=["orders"])
    text: str = Field(examples=["answers nothing good: answered HTTP 503"], description="What is the matter, and why.")
    since: Timestamp | None
    todo: str = Field(description="What to do.")


class Status(ApiModel):
    """Whether it is well."""

    at: Timestamp
    is_well: bool
    text: str = Field(description="In a sentence.", examples=["Nothing is wrong; look at: sink orders."])
    troubles: tuple[TroubleItem, ...] = Field(description="What is wrong first.")
    expected: int = Field(description="Jobs before their deadline.")
    overdue: int = Field(description="Jobs that the vendor is being asked about.")
    unknown: int = Field(description="Jobs that were given up, of those registered within a day; at most 500.")
    held: int = Field(description="Events that wait for the vendor's word.")
    journaled: int = Field(description="Receipts in this instance's journal.")
    size_bytes: int = Field(description="Of the store.")
    free_bytes: int | None = Field(description="On its disk; null where only the database's server knows.")
    sinks: tuple[SinkItem, ...] = Field(description="As `GET /v1/sinks` has them.")
    sources: tuple[SourceItem, ...] = Field(description="As `GET /v1/sources` has them.")


class JobItem(ApiModel):
    """An expected job."""

    id: int
    state: JobState = Field(
        description="`overdue`: its deadline is over, and the vendor is being asked. `completed`: a callback came."
        " `healed`: none came, and the vendor was asked. `unknown`: given up."
    )
    product: Product
    account: str
    family: str = Field(examples=["animated_image"])
    kind: Kind | None = Field(
        description="Of the event that ends it; null where this version does not know the family."
    )
    job_id: str | None = Field(examples=["3af7e9705cb24c0f9d23231d4c371900"])
    media_id: str | None
    nonce: str | None
    user_data: str | None
    registered_at: Timestamp = Field(description="For the first time.")
    deadline_at: Timestamp
    transport: Transport | None = Field(description="How the event that ended it came; null while there is none.")
    event_id: str | None = Field(examples=["evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600"])
    outcome: str | None = Field(examples=["succeeded"])
    ended_at: Timestamp | None = Field(description="When that event was accepted, maybe before the registration.")
    attempts: int = Field(description="How often the vendor was asked.")
    can_be_asked: bool = Field(
        True,
        description="Whether there are credentials to ask the vendor with (`[vendor.<name>]`). Without, a job whose"
        " callback is lost ends as `unknown`.",
    )
    notification: str | None = Field(
        description="What the vendor says of its own notification (MTS alone).", examples=["sent", "not configured"]
    )
    token: str | None = Field(
        None,
        description="Which setting has the token that it was registered with; null where none was needed.",
        examples=["admin.jobs_token"],
    )
    requested_by: str | None = Field(None, description="Who has registered it, as he said himself.")

    @classmethod
    def of(cls, record: JobRecord, kind: Kind | None, *, can_be_asked: bool) -> "JobItem":
        reference = record.reference
        return cls(
            id=record.id,
            state=record.state,
            product=reference.product,
            account=reference.account,
            family=reference.family,
            kind=kind,
            job_id=reference.job_id,
            media_id=reference.media_id,
            nonce=reference.nonce,
            user_data=record.user_data,
            registered_at=record.registered_at,
            deadline_at=record.deadline_at,
            transport=record.transport,
            event_id=record.event_id,
            outcome=record.outcome,
            ended_at=record.ended_at,
            attempts=record.attempts,
            can_be_asked=can_be_asked,
            notification=record.notification,
            token=record.token,
            requested_by=record.requested_by,
        )


class HeldItem(ApiModel):
    """An event that waits for the vendor's word."""

    receipt_id: int
    reason: HoldReason = Field(description="`confirm` what is claimed, or `enrich` it.")
    event_id: str = Field(description="That it will have.")
    type: str = Field(examples=["media.animated_image.succeeded"])
    held_at: Timestamp
    until: Timestamp = Field(description="When it is decided without the vendor's word, in most cases.")
    due_at: Timestamp = Field(description="When the vendor is asked next.")
    attempts: int = Field(description="How often the vendor was asked.")


class AnswerItem(ApiModel):
    """One question to the vendor, with its answer."""

    asked_at: Timestamp
    answered_at: Timestamp
    reason: Literal["expected", "confirm", "enrich"] = Field(
        description="`expected`: the job was overdue. Else of an event that was held: to `confirm` or to `enrich` it."
    )
    receipt_id: int | None = Field(description="That was held; null for an expected job.")
    attempt: int
    result: AskResult = Field(description="What the vendor said, in one word.")
    decision: Decision = Field(description="What followed, in one word.")
    detail: str | None
    event_id: str | None = Field(description="Of the event that was new by it, or null.")


TimelineWord = Literal[
    "registered",
    "received",
    "held",
    "overdue",
    "asked",
    "accepted",
    "ended",
    "replayed",
    "attempted",
    "erased",
]


class TimelineItem(ApiModel):
    """Something that happened to a job."""

    at: Timestamp
    what: TimelineWord
    text: str = Field(description="The same in a sentence. Names and reasons in it come from outside.")
    after_s: float | None = Field(description="Since what is before it in the list; null for the first.")


class JobDetail(ApiModel):
    """The life of a job: all that is known of it. The same id may be of jobs of several families and accounts."""

    product: Product
    id: str = Field(description="As it was asked for.", examples=["3af7e9705cb24c0f9d23231d4c371900"])
    ended: bool = Field(description="Whether an event ends it, or its registration has ended.")
    outcome: str | None = Field(description="Of the latest event that ends it.", examples=["succeeded"])
    jobs: tuple[JobItem, ...] = Field(description="Its registrations.")
    receipts: tuple[ReceiptItem, ...] = Field(description="All that came for it, oldest first.")
    held: tuple[HeldItem, ...] = Field(description="What waits for the vendor's word.")
    answers: tuple[AnswerItem, ...] = Field(description="What the vendor was asked, oldest first.")
    events: tuple[EventDetail, ...] = Field(description="Its events with all deliveries, oldest first.")
    replays: tuple[ReplayItem, ...] = Field(description="Those that its events were, or may have been, part of.")
    timeline: tuple[TimelineItem, ...] = Field(description="All of it in the order of time.")
    is_whole: bool = Field(description="False where there is more, of which these are the newest.")


class JobHitItem(ApiModel):
    """A job that was found. `GET /v1/jobs/{product}/{id}` tells its life."""

    product: Product
    id: str = Field(description="What its life is asked for by.", examples=["3af7e9705cb24c0f9d23231d4c371900"])
    account: str | None = Field(description="Null where it is not known any more.")
    job_id: str | None
    media_id: str | None
    user_data: str | None
    found_by: FoundBy = Field(
        description="What of it was asked for. `receipt`: one that gave no event names it in its body."
    )
    state: JobState | None = Field(description="Of its registration; null for one that is not registered.")
    outcome: str | None = Field(description="Of its latest event, or null.")
    event_id: str | None = Field(description="Its latest event, or null.")
    at: Timestamp = Field(description="When that was accepted; else when it was registered, or something came for it.")


class JobHits(ApiModel):
    """Jobs that were found, those first that are named most exactly."""

    hits: tuple[JobHitItem, ...]
    refused: tuple[RefusedItem, ...] = Field(
        description="Refused requests in which it stands, as far as they are kept, newest first."
    )


class JobPage(ApiModel):
    """Expected jobs, newest first."""

    jobs: tuple[JobItem, ...]
    cursor: NextCursor


class RegisteredJobs(RootModel[JobItem | tuple[JobItem, ...]]):
    """The job as it is registered, or the jobs in the order of the list."""


class Percentiles(ApiModel):
    """In seconds, by nearest rank."""

    p50: float
    p90: float
    p99: float


class JobCounts(ApiModel):
    """Expected jobs by what became of them until now."""

    submitted: int = Field(description="All of them.")
    completed: int = Field(description="A callback came.")
    healed: int = Field(description="No callback came, and the vendor was asked.")
    overdue: int = Field(description="Past the deadline, and the vendor is being asked.")
    unknown: int = Field(description="Given up.")
    expected: int = Field(description="Still waiting, before the deadline.")
    time_to_callback_s: Percentiles | None = Field(
        description="From registration to the event; null where there is none to measure. In a row of transport"
        " `query`: until it was healed. In totals: of callbacks alone."
    )


class ReportRowItem(JobCounts):
    """Jobs of one product that were registered within one hour and ended by one transport."""

    hour: Timestamp = Field(description="When it begins.")
    product: Product
    transport: Transport | None = Field(description="Null for those that have no event yet.")


class ReportTotal(JobCounts):
    """All jobs of one product."""

    product: Product
    lost_on_the_way: int | None = Field(
        description="Healed ones whose notification the vendor says it sent; MTS alone, else null."
    )
    never_sent: int | None = Field(
        description="Healed ones whose notification the vendor says it did not send, or had nowhere to send; MTS"
        " alone, else null."
    )


class Report(ApiModel):
    """What became of the jobs that were registered in this time."""

    since: Timestamp
    until: Timestamp
    rows: tuple[ReportRowItem, ...] = Field(description="Oldest hour first.")
    totals: tuple[ReportTotal, ...] = Field(description="Of products that have any.")
