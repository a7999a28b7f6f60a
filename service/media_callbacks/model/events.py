"""
The events that consumers read: CloudEvents 1.0 with one frozen model per kind.

An event is built once, when a completion is accepted, and never changes afterwards, apart from the
``revision`` that the store assigns while it holds the key. ``Event.to_json`` gives the structured
JSON form (``application/cloudevents+json``); ``parse_event`` reads it back.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Self, TypeVar, get_args

from pydantic import ConfigDict, Field
from pydantic_core import to_json

from media_callbacks.model.identity import Key, event_id
from media_callbacks.model.kinds import Kind, Outcome, Product, Transport, VerifiedBy
from media_callbacks.model.outputs import (
    AiOutput,
    AnalysisOutput,
    AnimatedImageOutput,
    AssetOutput,
    FingerprintOutput,
    Frozen,
    MediaInfoOutput,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    Time,
    TranscodeOutput,
    UploadOutput,
    WorkflowOutput,
)
from media_callbacks.model.times import format_time

CONTENT_TYPE = "application/cloudevents+json"
SCHEMA_VERSION = 1
TRACEPARENT_PATTERN = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"


class EventError(Frozen):
    """Why the job failed."""

    code: str | None = Field(description="The vendor's error code.")
    message: str | None = Field(description="The vendor's text, for people.")
    retryable: bool | None = Field(
        description="Whether the same job may succeed when submitted again; null where the vendor's tables do not say."
    )


class EventData(Frozen):
    """What every kind of completion says. Every member is always present, null when unknown."""

    product: Product = Field(description="Who made the message.")
    kind: Kind = Field(description="What ended, whichever product it came from.")
    outcome: Outcome = Field(description="How it ended; unknown is a status that nobody has seen, never a failure.")
    job_id: str | None = Field(description="The vendor's, trimmed; null where it gives none.")
    media_id: str | None = Field(description="The vendor's id of the asset that the job was about.")
    vendor_event: str | None = Field(description="The vendor's own name for the message.")
    outputs: tuple[Frozen, ...] = Field(description="What the job left behind; empty when it failed.")
    error: EventError | None = Field(description="Why the job, or a part of it, failed; else null.")
    user_data: str | None = Field(description="The text given at submit, unchanged.")
    revision: int = Field(
        description="1 for the first outcome of the job, 2 for a different one accepted later, and so on.",
        json_schema_extra={"minimum": 1},
    )
    source: str = Field(description="The configured source that the completion came through first.")
    transport: Transport = Field(description="How it came.")
    verified_by: VerifiedBy = Field(
        description="What proves everything in data that came from outside; query, said by the vendor's job API, is the"
        " strongest."
    )
    outcome_verified_by: VerifiedBy = Field(
        description="What proves kind, outcome and job id alone, in the same words: query once the vendor's job API has"
        " confirmed them, whatever proves the rest."
    )
    received_at: Time = Field(description="When it was received first, in UTC, to the millisecond.")


class AnimatedImage(EventData):
    """An animated image (GIF, WebP) was made of a video."""

    kind: Literal["animated_image"] = "animated_image"
    outputs: tuple[AnimatedImageOutput, ...] = ()


class Snapshot(EventData):
    """Pictures were taken from a video."""

    kind: Literal["snapshot"] = "snapshot"
    outputs: tuple[SnapshotOutput, ...] = ()


class Transcode(EventData):
    """One output of a transcoding ended."""

    kind: Literal["transcode"] = "transcode"
    outputs: tuple[TranscodeOutput, ...] = ()


class TranscodeTask(EventData):
    """All outputs of the transcoding of one video ended; partial when some failed."""

    kind: Literal["transcode_task"] = "transcode_task"
    outputs: tuple[TranscodeOutput, ...] = ()


class MediaInfo(EventData):
    """A media file was measured."""

    kind: Literal["media_info"] = "media_info"
    outputs: tuple[MediaInfoOutput, ...] = ()


class Analysis(EventData):
    """A template analysis ended; its result is only in the vendor's job API."""

    kind: Literal["analysis"] = "analysis"
    outputs: tuple[AnalysisOutput, ...] = ()


class Workflow(EventData):
    """A workflow run ended; partial when one of its activities failed."""

    kind: Literal["workflow"] = "workflow"
    outputs: tuple[WorkflowOutput, ...] = ()


class Production(EventData):
    """A new asset was produced from others: edited, generated or spoken."""

    kind: Literal["production"] = "production"
    outputs: tuple[ProductionOutput, ...] = ()


class Review(EventData):
    """A content review ended. The outcome says that the job ran; the verdict is in the outputs."""

    kind: Literal["review"] = "review"
    outputs: tuple[ReviewOutput, ...] = ()


class Fingerprint(EventData):
    """A media file was compared with a fingerprint library."""

    kind: Literal["fingerprint"] = "fingerprint"
    outputs: tuple[FingerprintOutput, ...] = ()


class Ai(EventData):
    """An AI analysis, such as tagging, ended."""

    kind: Literal["ai"] = "ai"
    outputs: tuple[AiOutput, ...] = ()


class Upload(EventData):
    """An asset came to be: uploaded, registered, pulled from a URL or recorded."""

    kind: Literal["upload"] = "upload"
    outputs: tuple[UploadOutput, ...] = ()


class Asset(EventData):
    """An asset changed: deleted, updated, moved to another storage class, restored or refreshed."""

    kind: Literal["asset"] = "asset"
    outputs: tuple[AssetOutput, ...] = ()


class Notice(EventData):
    """Nothing ended: a start, a progress, or an authentic message of a type that is not known yet."""

    kind: Literal["notice"] = "notice"
    outputs: tuple[()] = ()


Data = (
    AnimatedImage
    | Snapshot
    | Transcode
    | TranscodeTask
    | MediaInfo
    | Analysis
    | Workflow
    | Production
    | Review
    | Fingerprint
    | Ai
    | Upload
    | Asset
    | Notice
)

DATA_MODELS: Mapping[Kind, type[Data]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(Data)
}


# Covariant: a function that takes any event takes one of a kind.
if TYPE_CHECKING:
    # Python's own has no default before 3.13.
    import typing_extensions

    DataT_co = typing_extensions.TypeVar("DataT_co", bound=Data, covariant=True, default=Data)
else:
    DataT_co = TypeVar("DataT_co", bound=Data, covariant=True)


class Event(Frozen, Generic[DataT_co]):
    """A CloudEvent 1.0 whose data is one of the models above; ``Event[Snapshot]`` is one whose model is known."""

    specversion: Literal["1.0"] = Field("1.0", description="Version of CloudEvents.")
    id: str = Field(
        description="The same on every retry and replay: an event with an id that you have seen is a repetition.",
        json_schema_extra={"pattern": "^evt_[0-9a-f]{34}$"},
    )
    source: str = Field(
        description="/aliyun/<product>/<account>, the account being default where none is configured.",
        json_schema_extra={"format": "uri-reference"},
    )
    type: str = Field(description="media.<kind>.<outcome>, to route and filter by.")
    subject: str | None = Field(
        description="The job id; where there is none the media id, or the nonce of a minted URL. Absent when unknown."
    )
    time: Time = Field(
        description="The vendor's time of the event, else that of its publication, else of its receipt; in UTC."
    )
    datacontenttype: Literal["application/json"] = Field("application/json", description="Media type of data.")
    dataschema: str = Field(
        description="Name of this schema. Its number grows with a change that could break a reader."
    )
    data: Annotated[DataT_co, Field(discriminator="kind")]
    # Behind the data, where it is looked for (`read_traceparent`) and where it makes no event another one than before.
    traceparent: str | None = Field(
        None,
        description="Where the trace of the event begins: the W3C trace context of the span of its receipt, which is"
        " sampled. Absent where there is none.",
        json_schema_extra={"pattern": TRACEPARENT_PATTERN},
    )

    @property
    def account(self) -> str:
        return self.source.rpartition("/")[2]

    def to_json(self) -> bytes:
        """Structured CloudEvents JSON. ``subject`` and ``traceparent`` are left out when there is none."""
        # Not by model_dump_json, which takes half as long again for its options and for calling back for each time.
        attributes, data = self.__dict__.copy(), self.data.__dict__.copy()
        attributes["time"] = format_time(attributes["time"])
        data["received_at"] = format_time(data["received_at"])
        attributes["data"] = data
        if attributes["subject"] is None:
            del attributes["subject"]
        if attributes["traceparent"] is None:
            del attributes["traceparent"]
        return to_json(attributes)

    def with_revision(self, revision: int) -> Self:
        """The same event as the n-th outcome of its job."""
        return self.model_copy(update={"data": self.data.model_copy(update={"revision": revision})})

    def renamed(self, key: Key, job_id: str) -> Self:
        """The same event of the job that it was found to be about."""
        data = self.data.model_copy(update={"job_id": job_id})
        changes = {"id": event_id(key.digest(), data.outcome), "subject": job_id, "data": data}
        return self.model_copy(update=changes)


_TRACEPARENT = re.compile(rb',"traceparent":"(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})"}')
_TRACEPARENT_BYTES = 73


def read_traceparent(body: bytes) -> str | None:
    """That of an event as ``to_json`` writes it, without reading the rest: every delivery is asked for it."""
    end = body[-_TRACEPARENT_BYTES:]
    if not end.startswith(b',"traceparent"'):
        return None
    found = _TRACEPARENT.fullmatch(end)
    return None if found is None else found[1].decode()


def trace_id_of(traceparent: str) -> str:
    return traceparent[3:35]


class UnknownEvent(Frozen):
    """
    An event of a later version: of a kind, or of a number of its kind's schema, that this one does not know.

    It has what every CloudEvent has; further attributes are in ``model_extra``.
    """

    model_config = ConfigDict(extra="allow")

    id: str = Field(min_length=1, description="As in ``Event``: the same id is the same event.")
    source: str = Field(description="Where it comes from.")
    type: str = Field(description="media.<kind>.<outcome>, as far as this version can tell.")
    dataschema: str = Field(pattern="^urn:media-callbacks:", description="Name of the schema that describes it.")
    data: Mapping[str, Any] = Field(description="As it came.")


def parse_event(body: bytes | str) -> Event:
    """
    Read an event back from its JSON form.

    Raises:
        pydantic.ValidationError: This is not one of our events.
    """
    return _read_event(json.loads(body))


def parse_any_event(body: bytes | str) -> Event | UnknownEvent:
    """
    Read an event for whoever may be older than the service that wrote it.

    Raises:
        ValueError, RecursionError: This is not one of our events.
    """
    document = json.loads(body)
    stranger = UnknownEvent.model_validate(document)
    return _read_event(document) if stranger.dataschema in _SCHEMAS else stranger


_SCHEMAS = frozenset(f"urn:media-callbacks:{kind}:{SCHEMA_VERSION}" for kind in DATA_MODELS)


def _read_event(document: Any) -> Event:
    if isinstance(document, dict):
        document.setdefault("subject", None)
        if isinstance(data := document.get("data"), dict) and "verified_by" in data:
            # Events of before it was told apart.
            data.setdefault("outcome_verified_by", data["verified_by"])
    return Event.model_validate(document)


# On the way out


# Not frozen, which would cost more than all else about making one; nobody changes it.
@dataclass(slots=True)
class Delivery:
    """
    One event on its way to one sink, leased to whoever holds this.

    Attributes:
        row_id: The inbox's own name for the event.
        body: The CloudEvent as structured JSON.
        attempt: 1 for the first attempt.
        lease: Proof that the delivery is still ours.
        replay: 0 for the original delivery, n for the n-th time it was asked for again.
        traceparent: The W3C trace context of this attempt, to be sent along where the destination has a place for it;
            None where it is not traced. The event's own, in ``body``, is another one.
    """

    row_id: int
    sink: str
    event_id: str
    body: bytes
    attempt: int
    lease: str
    replay: int = 0
    traceparent: str | None = None
