"""
What jobs have made: one frozen model for each kind of output. Every member is always present, null when unknown.

Docstrings and descriptions are what consumers read in the published schemas (``model.schemas``).
"""

from functools import cache
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

from media_callbacks.model.kinds import Outcome
from media_callbacks.model.times import format_time

MAX_SNAPSHOT_URLS = 200

Time = Annotated[AwareDatetime, PlainSerializer(format_time, return_type=str)]


_new = object.__new__
# The four slots of a model, by their descriptors: half the price of setting them by name.
_set_values, _set_fields, _set_extra, _set_private = (
    BaseModel.__dict__[slot].__set__
    for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


@cache
def _all_fields(model: type[BaseModel]) -> set[str]:
    """For all instances together: they are frozen, and a copy takes a copy of this, too."""
    return set(model.model_fields)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    @classmethod
    def trusted(cls, values: dict[str, Any]) -> Self:
        """
        A model of values that need no validation, because our own parsers made them: all fields, in their order. They
        are the model's from now on.

        A third of the price of the constructor, which every callback would pay three times.
        """
        model = _new(cls)
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
