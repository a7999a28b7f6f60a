"""
ApsaraVideo VOD event notifications (API 2017-03-21): what each message means.

A message is one flat JSON object with ``EventType``. ``EVENT_TYPES`` is the catalogue: to add a type, add a
row. Four types are more than a row: snapshots and the two transcode events, because they end several jobs at once or
none, and animated images, which say everything twice.

Source: "Event notification", https://help.aliyun.com/en/vod/user-guide/events/, and the pages below it.
Status and key tables of this module were checked against documented samples and bodies seen in the field.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from service.errors import Unparseable
from service.events import (
    AiOutput,
    AnimatedImageOutput,
    AssetOutput,
    FingerprintOutput,
    Frozen,
    Kind,
    MediaInfoOutput,
    Outcome,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    TranscodeOutput,
    UploadOutput,
    WorkflowOutput,
)
from service.sources.base import MAX_EVENTS, Completion, Message, Parsed
from service.sources.fields import Fields, read_object
from service.sources.outcomes import has_outputs, judge, read_error, read_outcome

# VOD documents no table of callback codes; these are the ones its samples and neighbours name.
RETRYABLE: Mapping[str, bool] = {
    "InvalidParameter": False,
    "InvalidVideo": False,
    "NoSuchKey": False,
    "URLInvalidError": False,
    "Throttling": True,
    "TransientNetWorkError": True,
}


# Outputs


def animated_image_outputs(fields: Fields) -> tuple[Frozen, ...]:
    # A JSON string in 2021, an object since 2022, a list in the field table: Fields.object takes all three.
    info = fields.object("DynamicImageJobInfo")
    return () if info is None else (animated_image_output(info),)


def animated_image_output(info: Fields) -> AnimatedImageOutput:
    url = info.text("FileURL", "OutputUrl")
    return AnimatedImageOutput.trusted(
        url=url,
        format=info.text("Format") or url_suffix(url),
        width=info.integer("Width"),
        height=info.integer("Height"),
        fps=info.number("Fps"),
        size_bytes=info.integer("FileSize"),
    )


def url_suffix(url: str | None) -> str | None:
    """The format that a file name ends with; VOD gives none for animated images."""
    if url is None:
        return None
    name = url.split("?", 1)[0].rsplit("/", 1)[-1]
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    return suffix if 1 <= len(suffix) <= 5 and suffix.isalnum() else None


def _snapshot_outputs(info: Fields) -> tuple[Frozen, ...]:
    template, count = info.text("SnapshotRegular"), info.integer("SnapshotCount")
    snapshot_type = info.text("SnapshotType")
    return (
        SnapshotOutput(
            url_template=template,
            count=count,
            snapshot_type=snapshot_type.lower().removesuffix("snapshot") if snapshot_type else None,
        ),
    )


def _transcode_outputs(stream: Fields) -> tuple[Frozen, ...]:
    return (
        TranscodeOutput(
            job_id=stream.text("JobId"),
            url=stream.text("FileUrl"),
            format=stream.text("Format"),
            definition=stream.text("Definition"),
            width=stream.integer("Width"),
            height=stream.integer("Height"),
            fps=stream.number("Fps"),
            bitrate_kbps=stream.number("Bitrate"),
            duration_s=stream.number("Duration"),
            size_bytes=stream.integer("Size"),
            encrypted=stream.boolean("Encrypt"),
            audio_only=stream.boolean("IsAudio"),
        ),
    )


def media_info_outputs(fields: Fields) -> tuple[Frozen, ...]:
    return (
        MediaInfoOutput(
            width=fields.integer("Width"),
            height=fields.integer("Height"),
            fps=fields.number("Fps"),
            bitrate_kbps=fields.number("Bitrate"),
            duration_s=fields.number("Duration"),
            size_bytes=fields.integer("Size"),
        ),
    )


def upload_outputs(fields: Fields) -> tuple[Frozen, ...]:
    return (
        UploadOutput(
            url=fields.text("FileURL", "StreamFileURL"),
            size_bytes=fields.integer("Size"),
            media_type=fields.text("MediaType"),
            source_url=fields.text("SourceURL"),
        ),
    )


def production_outputs(fields: Fields) -> tuple[Frozen, ...]:
    return (
        ProductionOutput(
            url=fields.text("MediaURL"), media_id=fields.text("MediaId"), project_id=fields.text("ProjectId")
        ),
    )


def review_outputs(fields: Fields) -> tuple[Frozen, ...]:
    # Status says that the job ran, Data.Suggestion whether the content passed.
    data = fields.object("Data")
    if data is None:
        return ()
    return (ReviewOutput(suggestion=data.text("Suggestion"), label=data.text("Label")),)


_MANUAL_VERDICTS = {"normal": "pass", "blocked": "block"}


def manual_review_outputs(fields: Fields) -> tuple[Frozen, ...]:
    status = fields.text("AuditStatus")
    suggestion = _MANUAL_VERDICTS.get(status.lower(), status.lower()) if status else None
    return (ReviewOutput(suggestion=suggestion, reviewer=fields.text("Auditor"), reason=fields.text("Reason")),)


def fingerprint_outputs(fields: Fields) -> tuple[Frozen, ...]:
    data = fields.object("Data")
    matches = data.objects("VideoDNA") if data else []
    return tuple(
        FingerprintOutput(primary_key=match.text("PrimaryKey"), similarity=match.number("Similarity"))
        for match in matches
    )


def ai_outputs(fields: Fields) -> tuple[Frozen, ...]:
    result = fields.decoded("Data")
    return () if result in (None, "") else (AiOutput(result=result),)


def workflow_outputs(fields: Fields) -> tuple[Frozen, ...]:
    found = []
    for name, node in fields.members("ActivityResults"):
        outcome = read_outcome(node.text("Status"))
        result = node.object("Result") if isinstance(node.decoded("Result"), dict) else None
        found.append(
            WorkflowOutput(
                name=name.strip() or node.text("ActivityInstanceId"),
                type=node.text("ActivityId"),
                job_id=result.text("JobId") if result else None,
                outcome="unknown" if outcome == "progress" else outcome,
            )
        )
    return tuple(found)


def asset_outputs(operation: str | None) -> Callable[[Fields], tuple[Frozen, ...]]:
    def outputs(fields: Fields) -> tuple[Frozen, ...]:
        urls = fields.text("SuccessPlayUrls")
        return (
            AssetOutput(
                operation=operation or (fields.text("OperateMode", "TaskType") or "").lower() or None,
                media_type=fields.text("MediaType"),
                scope=fields.text("Scope", "DeleteType"),
                storage_class=fields.text("StorageClass"),
                restored_until=fields.time("RestoreExpiration"),
                urls=tuple(url.strip() for url in urls.split(",") if url.strip()) if urls else (),
            ),
        )

    return outputs


def no_outputs(_: Fields) -> tuple[Frozen, ...]:
    return ()


# The catalogue


@dataclass(frozen=True, slots=True)
class EventType:
    """
    How one type of message is read.

    Attributes:
        kind: What ended; ``notice`` when nothing did.
        media: Where the id of the asset is.
        job: Where the job id is; it is the identity of the event unless ``key`` says otherwise.
        key: The identity of an event that has no job id: the first part must be there, the rest may be missing.
            ``EventTime`` counts as text, ``#`` is a hash of the whole message.
        missing_status: What a message without a status means.
        always_key: ``key`` is the identity even where there is a job id.
    """

    kind: Kind
    media: tuple[str, ...] = ("MediaId", "VideoId")
    job: tuple[str, ...] = ("JobId",)
    key: tuple[str, ...] = ("MediaId", "EventTime")
    outputs: Callable[[Fields], tuple[Frozen, ...]] = no_outputs
    missing_status: Outcome = "unknown"
    always_key: bool = False


_VIDEO = ("VideoId", "MediaId")

EVENT_TYPES: Mapping[str, EventType] = {
    "UploadByURLComplete": EventType(
        "upload", _VIDEO, key=("SourceURL", "EventTime"), outputs=upload_outputs, missing_status="succeeded"
    ),
    "FileUploadComplete": EventType(
        "upload", _VIDEO, (), ("VideoId",), outputs=upload_outputs, missing_status="succeeded"
    ),
    "ImageUploadComplete": EventType(
        "upload", ("ImageId",), (), ("ImageId",), outputs=upload_outputs, missing_status="succeeded"
    ),
    "AttachedMediaUploadComplete": EventType(
        "upload", ("AttachedMediaId",), (), ("AttachedMediaId",), outputs=upload_outputs, missing_status="succeeded"
    ),
    "AddLiveRecordVideoComplete": EventType(
        "upload", _VIDEO, (), ("VideoId",), outputs=upload_outputs, missing_status="succeeded"
    ),
    "LiveRecordVideoComposeStart": EventType("notice", _VIDEO, (), ("VideoId",)),
    "VideoAnalysisComplete": EventType("media_info", _VIDEO, (), ("VideoId", "EventTime"), outputs=media_info_outputs),
    "AIMediaAuditComplete": EventType("review", outputs=review_outputs),
    "AIVideoCensorComplete": EventType("review", outputs=review_outputs),
    "CreateAuditComplete": EventType("review", job=(), key=("MediaId", "CreationTime"), outputs=manual_review_outputs),
    "AIMediaDNAComplete": EventType("fingerprint", outputs=fingerprint_outputs),
    "AIVideoTagComplete": EventType("ai", outputs=ai_outputs),
    "ProduceMediaComplete": EventType("production", key=("MediaId", "ProjectId"), outputs=production_outputs),
    "DeleteMediaComplete": EventType(
        "asset", job=(), key=("MediaId", "DeleteType", "JobIds", "EventTime"), outputs=asset_outputs("delete")
    ),
    "MediaBaseChangeComplete": EventType(
        "asset", job=(), key=("MediaId", "OperateMode", "EventTime", "#"), outputs=asset_outputs(None)
    ),
    "UpdateMediaStorageClassComplete": EventType(
        "asset", job=(), key=("MediaId", "StorageClass", "EventTime"), outputs=asset_outputs("archive")
    ),
    "RestoreMediaComplete": EventType(
        "asset", job=(), key=("MediaId", "RestoreExpiration", "EventTime"), outputs=asset_outputs("restore")
    ),
    # One job refreshes up to twenty assets and sends an event for each.
    "SubmitMediaRefreshComplete": EventType(
        "asset",
        job=("MediaRefreshJobId",),
        key=("MediaRefreshJobId", "MediaId"),
        outputs=asset_outputs(None),
        always_key=True,
    ),
    "WorkflowTaskComplete": EventType(
        "workflow", _VIDEO, ("TaskId",), ("VideoId", "EventTime"), outputs=workflow_outputs
    ),
    # Names that only IMS documents. The products share most of their names, so these mean the same if they come.
    "BatchProduceMediaComplete": EventType("production", outputs=production_outputs),
    "AIProduceComplete": EventType("production", outputs=production_outputs),
    "SmartJobComplete": EventType("production", outputs=production_outputs),
    "MediaAiAnalysisComplete": EventType("ai", outputs=ai_outputs),
    "RegisterMediaComplete": EventType("upload", outputs=upload_outputs, missing_status="succeeded"),
    "UploadStreamByURLComplete": EventType("upload", outputs=upload_outputs, missing_status="succeeded"),
    "StreamUploadComplete": EventType("upload", outputs=upload_outputs, missing_status="succeeded"),
    "RegisterStreamComplete": EventType("upload", outputs=upload_outputs, missing_status="succeeded"),
    "LiveRecordFileCreated": EventType("upload", outputs=upload_outputs, missing_status="succeeded"),
}
_OTHER_AI = EventType("ai", outputs=ai_outputs)

# AI events say Code and Message, all others ErrorCode and ErrorMessage.
_CODE, _MESSAGE = ("ErrorCode", "Code"), ("ErrorMessage", "Message")


def parse(message: Message) -> Parsed:
    """
    Read one notification.

    Raises:
        Unparseable: Not a VOD message, or nothing in it says which job or asset it is about.
    """
    fields = read_object(message.payload)
    event_type = fields.text("EventType")
    if event_type is None:
        raise Unparseable("expected a VOD message with EventType, found none")
    if "MessageBody" in fields:
        raise Unparseable('found MessageBody, which IMS sends: is this source registered with IMS (product = "ims")?')
    completions: tuple[Completion, ...]
    if event_type == "DynamicImageComplete":
        completions = (_animated_image_completion(fields),)
    elif event_type == "SnapshotComplete":
        completions = _snapshot_completions(fields)
    elif event_type == "StreamTranscodeComplete":
        stream = _stream_completion(fields, event_type, fields.text("VideoId"), fields.time("EventTime"), fields)
        if stream is None:
            raise Unparseable("expected JobId or VideoId of the stream, found neither")
        completions = (stream,)
    elif event_type == "TranscodeComplete":
        completions = _transcode_completions(fields)
    elif event_type in EVENT_TYPES:
        completions = (_completion(fields, event_type, EVENT_TYPES[event_type]),)
    elif is_ai_event(event_type) and fields.text("JobId", "MediaId"):
        completions = (_completion(fields, event_type, _OTHER_AI),)
    else:
        completions = (_unknown(fields, event_type),)
    return Parsed(completions, fields.warnings)


def _identity(fields: Fields, names: tuple[str, ...]) -> tuple[str, ...]:
    first = fields.text(names[0])
    if first is None:
        raise Unparseable(f"expected {names[0]}, which identifies this event, found none")
    # JobIds may be a list, which is no text but tells one deletion from another all the same.
    rest = (fields.digest() if name == "#" else fields.text(name) or fields.verbatim(name) or "" for name in names[1:])
    return (first, *rest)


def is_ai_event(event_type: str) -> bool:
    """All AI events are switched on together in the console, so types come that no page lists (documented)."""
    return event_type.startswith("AI") and event_type.endswith("Complete")


def _completion(fields: Fields, event_type: str, row: EventType) -> Completion:
    job_id = fields.text(*row.job) if row.job else None
    identity = (job_id,) if job_id is not None and not row.always_key else _identity(fields, row.key)
    kind, identity, outcome = judge(row.kind, identity, fields.text("Status"), missing=row.missing_status)
    return Completion(
        family=event_type,
        id=identity,
        kind=kind,
        outcome=outcome,
        vendor_event=event_type,
        job_id=job_id,
        media_id=fields.text(*row.media),
        outputs=row.outputs(fields) if has_outputs(outcome) else (),
        error=read_error(fields, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE),
        user_data=fields.verbatim("Extend"),
        occurred_at=fields.time("EventTime"),
    )


def _animated_image_completion(fields: Fields) -> Completion:
    """
    The job id stands in the message and again in DynamicImageJobInfo, which a failure does not have; so does the
    status, and both are judged.
    """
    info = fields.object("DynamicImageJobInfo")
    video_id, job_id, word = fields.text(*_VIDEO), fields.text("JobId"), fields.text("Status")
    if info is not None:
        inner_id, inner_word = info.text("JobId"), info.text("Status")
        if job_id is None:
            job_id = inner_id
        elif inner_id is not None and inner_id != job_id:
            info.warn("JobId")
        if word is None or (inner_word != word and read_outcome(inner_word) == "failed"):
            word = inner_word
    if job_id is not None:
        identity: tuple[str, ...] = (job_id,)
    elif video_id is not None:
        # Started by a workflow, the message may have no job id at all (seen inside workflow results).
        trigger = fields.object("TriggerSource")
        activity = trigger.text("ActivityInstanceId") if trigger else None
        identity = (video_id, fields.text("EventTime") or "", activity or "")
    else:
        raise Unparseable("expected JobId or VideoId, which identify an animated image, found neither")
    kind, identity, outcome = judge("animated_image", identity, word)
    return Completion(
        family="animated_image",
        id=identity,
        kind=kind,
        outcome=outcome,
        vendor_event="DynamicImageComplete",
        job_id=job_id,
        media_id=video_id,
        outputs=(animated_image_output(info),) if info is not None and has_outputs(outcome) else (),
        error=read_error(fields, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE),
        user_data=fields.verbatim("Extend"),
        occurred_at=fields.time("EventTime"),
    )


def _unknown(fields: Fields, event_type: str) -> Completion:
    job_id = fields.text("JobId")
    return Completion(
        family=event_type,
        id=(job_id,) if job_id else (fields.digest(),),
        kind="notice",
        outcome="received",
        vendor_event=event_type,
        job_id=job_id,
        media_id=fields.text("VideoId", "MediaId", "ImageId", "AttachedMediaId"),
        user_data=fields.verbatim("Extend"),
        occurred_at=fields.time("EventTime"),
    )


def _snapshot_completions(fields: Fields) -> tuple[Completion, ...]:
    """One per element of SnapshotInfos, each with its own job id; a failure has no elements and no job id."""
    video_id, occurred_at = fields.text("VideoId"), fields.time("EventTime")
    user_data = fields.verbatim("Extend")
    fallback = (video_id or "", fields.text("SubType") or "", fields.text("EventTime") or "", user_data or "")
    infos = fields.objects("SnapshotInfos", at_most=MAX_EVENTS)
    if not infos:
        if video_id is None:
            raise Unparseable("expected SnapshotInfos or VideoId, found neither")
        kind, identity, outcome = judge("snapshot", fallback, fields.text("Status"))
        return (
            Completion(
                family="snapshot",
                id=identity,
                kind=kind,
                outcome=outcome,
                vendor_event="SnapshotComplete",
                media_id=video_id,
                error=read_error(fields, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE),
                user_data=user_data,
                occurred_at=occurred_at,
                nameless="takes_name" if kind == "snapshot" and video_id is not None else None,
            ),
        )
    completions = []
    for index, info in enumerate(infos):
        job_id = info.text("JobId")
        if job_id is None and video_id is None:
            # The others are not lost for the sake of one that nobody could be told about.
            fields.warn(f"SnapshotInfos[{index}].JobId")
            continue
        identity = (job_id,) if job_id else (*fallback, info.text("SnapshotType") or str(index))
        kind, identity, outcome = judge("snapshot", identity, info.text("Status") or fields.text("Status"))
        completions.append(
            Completion(
                family="snapshot",
                id=identity,
                kind=kind,
                outcome=outcome,
                vendor_event="SnapshotComplete",
                job_id=job_id,
                media_id=video_id,
                outputs=_snapshot_outputs(info) if has_outputs(outcome) else (),
                placeholder="{SnapshotCount}",
                # Codes stand beside the elements; inside them they are not documented.
                error=read_error(
                    info if info.text(*_CODE) else fields, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE
                ),
                user_data=user_data,
                occurred_at=occurred_at,
            )
        )
    if not completions:
        raise Unparseable("expected a JobId in SnapshotInfos, or VideoId, found neither")
    return tuple(completions)


def _stream_completion(
    stream: Fields, event_type: str, video_id: str | None, occurred_at: datetime | None, task: Fields
) -> Completion | None:
    """None when nothing says which stream of which video this is."""
    job_id = stream.text("JobId")
    if job_id is not None:
        identity: tuple[str, ...] = (job_id,)
    elif video_id is not None:
        names = stream.text("Definition") or "", stream.text("Format") or ""
        identity = (video_id, *names, task.text("EventTime") or "")
    else:
        return None
    kind, identity, outcome = judge("transcode", identity, stream.text("Status"))
    return Completion(
        family="transcode",
        id=identity,
        kind=kind,
        outcome=outcome,
        vendor_event=event_type,
        job_id=job_id,
        media_id=video_id,
        outputs=_transcode_outputs(stream) if has_outputs(outcome) else (),
        error=read_error(stream, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE),
        user_data=task.verbatim("Extend"),
        occurred_at=occurred_at,
    )


def _transcode_completions(fields: Fields) -> tuple[Completion, ...]:
    """One per stream, under the same key as the stream's own event, and one for the task as a whole."""
    video_id, occurred_at = fields.text("VideoId"), fields.time("EventTime")
    streams = []
    for index, stream in enumerate(fields.objects("StreamInfos", at_most=MAX_EVENTS)):
        completion = _stream_completion(stream, "TranscodeComplete", video_id, occurred_at, fields)
        if completion is None:
            fields.warn(f"StreamInfos[{index}].JobId")
        else:
            streams.append(completion)
    job_ids = sorted({stream.job_id for stream in streams if stream.job_id})
    if video_id is None and not job_ids:
        raise Unparseable("expected VideoId or StreamInfos[].JobId, which identify a transcode task, found neither")
    identity = (video_id or "", *job_ids) if job_ids else (video_id or "", fields.text("EventTime") or "")
    if streams:
        kind: Kind = "transcode_task"
        outcome = task_outcome([stream.outcome for stream in streams])
    else:
        kind, identity, outcome = judge("transcode_task", identity, fields.text("Status"))
    # The first stream's error that says something, else what the task itself says.
    errors = [stream.error for stream in streams if stream.error]
    error = next((error for error in errors if error.code), None) or read_error(
        fields, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE
    )
    task = Completion(
        family="transcode_task",
        id=identity,
        kind=kind,
        outcome=outcome,
        vendor_event="TranscodeComplete",
        media_id=video_id,
        outputs=tuple(output for stream in streams for output in stream.outputs),
        error=error,
        user_data=fields.verbatim("Extend"),
        occurred_at=occurred_at,
        nameless="keeps_key" if kind == "transcode_task" and video_id is not None else None,
    )
    return (*streams, task)


def task_outcome(streams: list[Outcome]) -> Outcome:
    """The task's own word says success when one stream of ten succeeded (documented), so the streams decide."""
    # The task has ended; a stream that is said to be under way ended in a way that we were not told.
    ended: list[Outcome] = ["unknown" if outcome == "received" else outcome for outcome in streams]
    if all(outcome == ended[0] for outcome in ended):
        return ended[0]
    if "succeeded" in ended or "partial" in ended:
        return "partial"
    return "unknown" if "unknown" in ended else "failed"
