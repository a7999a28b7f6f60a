"""
The events that consumers read: CloudEvents 1.0 with one frozen model per kind.

An event is built once, when a completion is accepted, and never changes afterwards, apart from the
``revision`` that the store assigns while it holds the key. ``Event.to_json`` gives the structured
JSON form (``application/cloudevents+json``); ``parse_event`` reads it back.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic_core import to_json

from media_callbacks.kinds import KINDS as KINDS
from media_callbacks.kinds import OUTCOMES as OUTCOMES
from media_callbacks.kinds import PRODUCTS as PRODUCTS
from media_callbacks.kinds import Kind as Kind
from media_callbacks.kinds import Outcome as Outcome
from media_callbacks.kinds import Product as Product
from media_callbacks.kinds import Transport as Transport
from media_callbacks.kinds import VerifiedBy as VerifiedBy
from media_callbacks.times import format_time as format_time

CONTENT_TYPE = "application/cloudevents+json"
SCHEMA_VERSION = 1
MAX_SNAPSHOT_URLS = 200
MAX_ID_CHARACTERS = 256
"""A family, or a part of an id, that is longer counts by its hash."""

Time = Annotated[AwareDatetime, PlainSerializer(format_time, return_type=str)]


# Identity


@dataclass(slots=True)
class Key:
    """
    What a completion is deduplicated by.

    Neither source nor transport is part of it: the same completion over HTTP, push, queue and query
    is one event.

    Attributes:
        family: What ``id`` is unique in, for example ``animated_image`` or ``run``.
        id: The parts, at least one, that identify the completion within its family; usually just the job id.
    """

    product: Product
    account: str
    family: str
    id: tuple[str, ...]

    def digest(self) -> bytes:
        """
        Sixteen bytes, the same on every instance: eight of the first part of ``id``, usually the job id, so that all
        that came of a job is found by ``job_prefix``, and eight of everything.
        """
        first = (self.product, self.account, self.family)
        # The usual ones are few, and kept. A sender may choose its families: what is kept of them is short.
        text = _kept(first) if len(self.family) <= MAX_ID_CHARACTERS else _with_lengths(first)
        text += _with_lengths(self.id)
        return job_prefix(self.id[0]) + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]


def _with_lengths(parts: tuple[str, ...]) -> str:
    """Each part with its length, so that no two lists of parts read the same."""
    return "".join([f"{len(part)}:{part if len(part) <= MAX_ID_CHARACTERS else _sha256(part).hex()}" for part in parts])


_kept = lru_cache(maxsize=1024)(_with_lengths)


def job_prefix(job_id: str) -> bytes:
    """The eight bytes that the digest of every key begins with whose ``id`` begins with this job id."""
    return _sha256(job_id)[:8]


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def event_id(key_digest: bytes, outcome: Outcome) -> str:
    """The public id: derived from key and outcome only, so that every instance and replay agrees."""
    return f"evt_{key_digest.hex()}{OUTCOMES.index(outcome):02x}"


def key_digest(event_id: str) -> bytes:
    """The key's digest, which all events of one job have in common."""
    return bytes.fromhex(event_id[4:36])


def parse_event_id(text: str) -> tuple[bytes, Outcome]:
    """
    The reverse of ``event_id``.

    Raises:
        ValueError: This is not an event id.
    """
    if len(text) != 38 or not text.startswith("evt_"):
        raise ValueError("expected evt_ and 34 hexadecimal digits")
    raw = bytes.fromhex(text[4:])
    if event_id(raw[:16], OUTCOMES[raw[16] % len(OUTCOMES)]) != text:
        raise ValueError("expected evt_ and 34 hexadecimal digits")
    return raw[:16], OUTCOMES[raw[16]]


# Outputs: what a job produced, one model per kind. Every member is always present, null when unknown.
#
# Docstrings and descriptions are what consumers read in the published schemas (`media_callbacks.schemas`).


@cache
def _all_fields(model: type[BaseModel]) -> set[str]:
    """For all instances together: they are frozen, and a copy takes a copy of this, too."""
    return set(model.model_fields)


# The four slots of a model, by their descriptors: half the price of setting them by name.
_set_values, _set_fields, _set_extra, _set_private = (
    BaseModel.__dict__[slot].__set__
    for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    @classmethod
    def trusted(cls, **values: Any) -> Self:
        """
        A model of values that need no validation, because our own parsers made them: all fields, in their order.

        Less than half the price of the constructor, which every callback would pay three times.
        """
        model = cls.__new__(cls)
        _set_values(model, values)
        _set_fields(model, _all_fields(cls))
        _set_extra(model, None)
        _set_private(model, None)
        return model


class AnimatedImageOutput(Frozen):
    """The picture."""

    url: str | None = Field(None, description="The vendor's, unchanged: it may be http, unsigned or short-lived.")
    format: str | None = Field(None, description="Such as gif or webp, else the suffix of the file name.")
    width: int | None = Field(None, description="In pixels.")
    height: int | None = Field(None, description="In pixels.")
    fps: float | None = Field(None, description="Frames per second.")
    size_bytes: int | None = Field(None, description="Size of the file.")


class SnapshotOutput(Frozen):
    """A series of pictures."""

    url_template: str | None = Field(
        None, description="As the vendor gave it, with its placeholder for the number of the picture."
    )
    count: int | None = Field(None, description="How many pictures there are.")
    urls: tuple[str, ...] = Field((), description="URLs of the first 200 pictures, in their order.")
    snapshot_type: str | None = Field(
        None, description="The vendor's word in lower case, such as cover, normal, sprite or webvtt."
    )
    times_s: tuple[float, ...] = Field(
        (), description="Position of each picture in the video in seconds; empty where the vendor does not say it."
    )


class TranscodeOutput(Frozen):
    """One stream."""

    job_id: str | None = Field(None, description="The job that made this stream.")
    url: str | None = Field(None, description="The vendor's, unchanged: it may be http, unsigned or short-lived.")
    format: str | None = Field(None, description="The container, such as mp4 or m3u8.")
    definition: str | None = Field(None, description="Label of the template, such as HD or 4K; not a resolution.")
    width: int | None = Field(None, description="In pixels.")
    height: int | None = Field(None, description="In pixels.")
    fps: float | None = Field(None, description="Frames per second.")
    bitrate_kbps: float | None = Field(None, description="In kilobits per second.")
    duration_s: float | None = Field(None, description="In seconds.")
    size_bytes: int | None = Field(None, description="Size of the file.")
    encrypted: bool | None = Field(None, description="Whether a player needs a key.")
    audio_only: bool | None = Field(None, description="Whether there is no picture.")


class MediaInfoOutput(Frozen):
    """What was measured of the media."""

    width: int | None = Field(None, description="In pixels.")
    height: int | None = Field(None, description="In pixels.")
    fps: float | None = Field(None, description="Frames per second.")
    bitrate_kbps: float | None = Field(None, description="In kilobits per second.")
    duration_s: float | None = Field(None, description="In seconds.")
    size_bytes: int | None = Field(None, description="Size of the file.")


class UploadOutput(Frozen):
    """The new asset."""

    url: str | None = Field(None, description="The vendor's, unchanged: it may be http, unsigned or short-lived.")
    size_bytes: int | None = Field(None, description="Size of the file.")
    media_type: str | None = Field(None, description="The vendor's word, such as video, audio or image.")
    source_url: str | None = Field(None, description="Where the asset was pulled from, for uploads by URL.")
    record_id: str | None = Field(None, description="The vendor's id of the recording, for live recordings.")
    record_started_at: Time | None = Field(None, description="Where the file begins, for live recordings.")
    record_ended_at: Time | None = Field(None, description="Where the file ends, for live recordings.")
    duration_s: float | None = Field(None, description="In seconds, for live recordings.")


class WorkflowOutput(Frozen):
    """One activity of a run."""

    name: str | None = Field(None, description="Name of the activity within its workflow.")
    type: str | None = Field(None, description="The vendor's word for what the activity does.")
    job_id: str | None = Field(None, description="The job that the activity ran.")
    outcome: Outcome = Field("unknown", description="How the activity ended.")
    result: Any = Field(None, description="What it says of itself, decoded, as the vendor's documents describe it.")


class ProductionOutput(Frozen):
    """What was produced."""

    url: str | None = Field(None, description="The vendor's, unchanged: it may be http, unsigned or short-lived.")
    media_id: str | None = Field(None, description="Id of the new asset.")
    project_id: str | None = Field(None, description="The editing project that it was made from.")
    function: str | None = Field(None, description="What was run, by the vendor's name, for intelligent productions.")
    job_id: str | None = Field(None, description="The sub job that made this, for batches.")
    duration_s: float | None = Field(None, description="In seconds.")
    result: Any = Field(
        None, description="What else was found or made, decoded, as the vendor's documents describe it."
    )


class ReviewOutput(Frozen):
    """The verdict."""

    suggestion: str | None = Field(None, description="What to do with the content: pass, review or block.")
    label: str | None = Field(None, description="What was found, in the vendor's words.")
    reviewer: str | None = Field(None, description="Who judged, for manual reviews.")
    reason: str | None = Field(None, description="Why, for manual reviews.")


class FingerprintOutput(Frozen):
    """One known asset that the examined one resembles."""

    primary_key: str | None = Field(None, description="Key of the known asset in the fingerprint library.")
    similarity: float | None = Field(None, description="Between 0 and 1.")


class AiOutput(Frozen):
    """What the analysis found."""

    result: Any = Field(None, description="The vendor's result, decoded, as its documents describe it: any JSON.")


class AssetOutput(Frozen):
    """What changed."""

    operation: str | None = Field(None, description="delete, create, update, archive, restore or refresh.")
    media_type: str | None = Field(None, description="The vendor's word, such as video, audio or image.")
    scope: str | None = Field(None, description="How much of the asset is concerned, in the vendor's words.")
    storage_class: str | None = Field(None, description="The vendor's word, such as Standard, IA or Archive.")
    restored_until: Time | None = Field(None, description="When a restored asset is archived again.")
    urls: tuple[str, ...] = Field((), description="URLs that were refreshed.")


class AnalysisOutput(Frozen):
    """Template analysis reports its result through the job API alone."""


# Events


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


class Event(Frozen):
    """A CloudEvent 1.0 whose data is one of the models above."""

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
    data: Annotated[Data, Field(discriminator="kind")]

    @property
    def account(self) -> str:
        return self.source.rpartition("/")[2]

    def to_json(self) -> bytes:
        """Structured CloudEvents JSON. The context attribute ``subject`` is left out when there is none."""
        # Not by model_dump_json, which takes half as long again for its options and for calling back for each time.
        attributes, data = dict(self.__dict__), dict(self.data.__dict__)
        attributes["time"] = format_time(self.time)
        data["received_at"] = format_time(data["received_at"])
        attributes["data"] = data
        if self.subject is None:
            del attributes["subject"]
        return to_json(attributes)

    def with_revision(self, revision: int) -> "Event":
        """The same event as the n-th outcome of its job."""
        return self.model_copy(update={"data": self.data.model_copy(update={"revision": revision})})

    def renamed(self, key: Key, job_id: str) -> "Event":
        """The same event of the job that it was found to be about."""
        data = self.data.model_copy(update={"job_id": job_id})
        changes = {"id": event_id(key.digest(), data.outcome), "subject": job_id, "data": data}
        return self.model_copy(update=changes)


def parse_event(body: bytes | str) -> Event:
    """
    Read an event back from its JSON form.

    Raises:
        pydantic.ValidationError: This is not one of our events.
    """
    document = json.loads(body)
    if isinstance(document, dict):
        document.setdefault("subject", None)
        if isinstance(data := document.get("data"), dict) and "verified_by" in data:
            # Events of before it was told apart.
            data.setdefault("outcome_verified_by", data["verified_by"])
    return Event.model_validate(document)


# On the way out


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    One event on its way to one sink, leased to whoever holds this.

    Attributes:
        row_id: The inbox's own name for the event.
        body: The CloudEvent as structured JSON.
        attempt: 1 for the first attempt.
        lease: Proof that the delivery is still ours.
        replay: 0 for the original delivery, n for the n-th time it was asked for again.
    """

    row_id: int
    sink: str
    event_id: str
    body: bytes
    attempt: int
    lease: str
    replay: int = 0
