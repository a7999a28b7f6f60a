"""
Which types of messages VOD and IMS send in one form of body, and how each is read: to add a type, add a row to
``EVENT_TYPES``, and a model to ``vod_messages`` where it says something new.

Three kinds of messages are more than a row: snapshots (``vod_snapshots``) and transcoding (``vod_transcodes``), because
they end several jobs at once or none, and animated images (``vod``), which say everything twice.

Source: "Event notification", https://help.aliyun.com/en/vod/user-guide/events/, and the pages below it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from media_callbacks.model.kinds import Kind, Outcome
from media_callbacks.model.outputs import Frozen
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.products import vod_outputs as made
from media_callbacks.sources.products.outcomes import Judged, judge_parts, read_outcome
from media_callbacks.sources.reading.members import JOB_IDS, first, present


def _judge_production(own: Judged, body: messages.Production) -> Judged:
    parts: list[Any] = [*present(body.get("SubJobList")), *present(body.get("JobResult"))]
    words = [first(part, ("Status", "State")) for part in parts]
    return judge_parts(own, words) if any(words) else own


def _judge_workflow(own: Judged, body: messages.Workflow) -> Judged:
    """Succeed only says that the run ended (documented sample), as Completed does of MTS."""
    nodes = (body.get("ActivityResults") or {}).values()
    if own == "succeeded" and any(read_outcome(node.get("Status") or None) == "failed" for node in nodes):
        return "partial"
    return own


@dataclass(frozen=True, slots=True)
class EventType:
    """
    How one type of message is read.

    Attributes:
        kind: What ended; ``notice`` when nothing did.
        media: Where the id of the asset is.
        job: Where the job id is; it is the identity of a job.
        key: The identity of what has no job id, and of every occurrence: the thing, which must be there, then what
            tells one occurrence from the next. ``media`` and ``job`` are the ids of asset and job, ``time`` is the
            event time as text, ``word`` the status, ``#`` a hash of the whole message; ``|`` stands between names of
            which the first that is there counts.
        missing_status: What a message without a status means.
        recurs: It may happen to the same thing again, whether or not it names a job: ``key`` is the identity, always.
        judge: How a whole of several parts ended, from its own word and from theirs.
    """

    kind: Kind
    model: type[messages.Body]
    outputs: Callable[[Any], tuple[Frozen, ...]] = made.no_outputs
    media: tuple[str, ...] = ("MediaId", "VideoId")
    job: tuple[str, ...] = JOB_IDS
    key: tuple[str, ...] = ("media", "time")
    missing_status: Outcome = "unknown"
    recurs: bool = False
    judge: Callable[[Judged, Any], Judged] | None = None

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        return _parts_of_key(self.key)


@cache
def _parts_of_key(key: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(part.split("|")) for part in key)


VIDEO_IDS = ("VideoId", "MediaId")


_FILE = "FileUrl|FileURL|StreamFileURL|RecordUrl"


def _upload(*key: str, media: tuple[str, ...] = ("MediaId", "VideoId"), recurs: bool = True) -> EventType:
    # A missing status is a success: that something came to be is all that these say.
    return EventType(
        "upload", messages.Upload, made.upload_outputs, media, key=key, missing_status="succeeded", recurs=recurs
    )


def _recording(*key: str, media: tuple[str, ...] = ("MediaId", "VideoId")) -> EventType:
    return replace(_upload(*key, media=media), outputs=made.recording_outputs)


def _image(*key: str, media: tuple[str, ...]) -> EventType:
    return replace(_upload(*key, media=media), model=messages.ImageUpload)


def _asset(operation: str | None, *key: str) -> EventType:
    return EventType("asset", messages.AssetChange, made.asset_outputs(operation), key=key, recurs=True)


AI = EventType("ai", messages.Ai, made.ai_outputs)


_REVIEW = EventType("review", messages.Ai, made.review_outputs)


_PRODUCTION = EventType("production", messages.Production, made.production_outputs, judge=_judge_production)


_REGISTRATION = _upload("media", "time", recurs=False)


EVENT_TYPES: Mapping[str, EventType] = {
    "UploadByURLComplete": _upload("SourceURL|media", "time", media=VIDEO_IDS, recurs=False),
    # The file of an asset may be written over.
    "FileUploadComplete": _upload("media", _FILE, "time", media=VIDEO_IDS),
    "ImageUploadComplete": _image("media", "FileURL", "time", media=("ImageId", "MediaId")),
    "AttachedMediaUploadComplete": _image("media", "FileURL", "time", media=("AttachedMediaId", "MediaId")),
    # A live job sends one for each of its files.
    "LiveRecordFileCreated": _recording("job|media", _FILE, "RecordId", "time"),
    "LiveSnapshotFileCreated": EventType(
        "snapshot",
        messages.Snapshot,
        made.live_snapshot_outputs,
        key=("job|media", "FileUrl|OutputUrl|OssObject", "CreateTimestamp|CreateTime", "time"),
        missing_status="succeeded",
        recurs=True,
    ),
    "AddLiveRecordVideoComplete": _recording("media", "RecordStartTime", "RecordEndTime", "time", media=VIDEO_IDS),
    "LiveRecordVideoComposeStart": EventType(
        "notice", messages.Upload, media=VIDEO_IDS, key=("media", "time"), recurs=True
    ),
    "LiveRecordTaskStatus": EventType("notice", messages.Upload, key=("job|media", "word", "time"), recurs=True),
    "VideoAnalysisComplete": EventType("media_info", messages.VideoAnalysis, made.media_info_outputs, VIDEO_IDS),
    "AIMediaAuditComplete": _REVIEW,
    "AIVideoCensorComplete": _REVIEW,
    "CreateAuditComplete": EventType(
        "review", messages.ManualReview, made.manual_review_outputs, key=("media", "CreationTime", "time"), recurs=True
    ),
    "AIMediaDNAComplete": EventType("fingerprint", messages.Ai, made.fingerprint_outputs),
    "AIVideoTagComplete": AI,
    "ProduceMediaComplete": replace(_PRODUCTION, key=("media", "ProjectId", "time")),
    "DeleteMediaComplete": _asset("delete", "media", "DeleteType", "JobIds", "time"),
    "MediaBaseChangeComplete": _asset(None, "media", "OperateMode", "time", "#"),
    "UpdateMediaStorageClassComplete": _asset("archive", "media", "StorageClass", "time"),
    "RestoreMediaComplete": _asset("restore", "media", "RestoreExpiration", "time"),
    # One job refreshes up to twenty assets and sends an event for each.
    "SubmitMediaRefreshComplete": EventType(
        "asset",
        messages.AssetChange,
        made.asset_outputs(None),
        job=("MediaRefreshJobId", "JobId"),
        key=("job", "media"),
        recurs=True,
    ),
    "WorkflowTaskComplete": EventType(
        "workflow", messages.Workflow, made.workflow_outputs, VIDEO_IDS, ("TaskId", "JobId"), judge=_judge_workflow
    ),
    # Names that only IMS documents. The products share most of their names, so these mean the same if they come.
    "BatchProduceMediaComplete": _PRODUCTION,
    "AIProduceComplete": _PRODUCTION,
    "SmartJobComplete": _PRODUCTION,
    "MediaAiAnalysisComplete": AI,
    "RegisterMediaComplete": _REGISTRATION,
    "UploadStreamByURLComplete": _REGISTRATION,
    "StreamUploadComplete": _REGISTRATION,
    "RegisterStreamComplete": _REGISTRATION,
}


# What is more than a row, by name: its model.
MODELS: Mapping[str, type[messages.Body]] = {
    "DynamicImageComplete": messages.DynamicImage,
    "SnapshotComplete": messages.Snapshot,
    "StreamTranscodeComplete": messages.StreamTranscode,
    "TranscodeComplete": messages.Transcode,
    "TranscodeParentComplete": messages.Transcode,
    "MediaConvertComplete": messages.Transcode,
    "MediaConvertOutputGroupComplete": messages.Transcode,
    "MediaConvertOutputComplete": messages.Transcode,
    **{name: row.model for name, row in EVENT_TYPES.items()},
}


def is_ai_event(event_type: str) -> bool:
    """All AI events are switched on together in the console, so types come that no page lists (documented)."""
    return event_type.startswith("AI") and event_type.endswith("Complete")


def model_of(event_type: str) -> Any:
    return MODELS.get(event_type) or (messages.Ai if is_ai_event(event_type) else messages.Unknown)


CONVERSIONS: Mapping[str, Kind] = {
    "TranscodeComplete": "transcode",
    "MediaConvertOutputComplete": "transcode",
    "TranscodeParentComplete": "transcode_task",
    "MediaConvertComplete": "transcode_task",
    "MediaConvertOutputGroupComplete": "transcode_task",
}


# Parts of a job: they have ids of their own.
TASKS = frozenset({"MediaConvertOutputComplete", "MediaConvertOutputGroupComplete"})
