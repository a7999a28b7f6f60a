"""What operators are answered."""

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from media_callbacks.admin.models.values import Timestamp
from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.inbox.records import (
    ActivityWord,
    AskResult,
    AttemptOutcome,
    Decision,
    DeliveryState,
    ErasureRecord,
    EventRecord,
    EventState,
    FoundBy,
    JobRecord,
    JobState,
    ReplayedState,
    ReplayRecord,
    ReplayState,
    SinkState,
    Subject,
)
from media_callbacks.model.kinds import Kind, Product, Transport
from media_callbacks.model.receipts import HoldReason, ReceiptState


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
