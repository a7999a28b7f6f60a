"""
ApsaraVideo VOD event notifications (API 2017-03-21): what each message means.

``EVENT_TYPES`` is the catalogue, ``sources.products.vod_messages`` what the messages look like: to add a type, add a
row, and a model where it says something new. Three kinds of messages are more than a row: snapshots and transcoding,
because they end several jobs at once or none, and animated images, which say everything twice.

What is here is true of IMS as well, which sends the same bodies in an envelope (``sources.products.ims``).

Source: "Event notification", https://help.aliyun.com/en/vod/user-guide/events/, and the pages below it.
Status and key tables of this module were checked against documented samples and bodies seen in the field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from typing import Any, Literal

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import EventError
from media_callbacks.model.kinds import Kind, Outcome
from media_callbacks.model.outputs import (
    MAX_SNAPSHOT_URLS,
    AiOutput,
    AnimatedImageOutput,
    AssetOutput,
    FingerprintOutput,
    Frozen,
    MediaInfoOutput,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    TranscodeOutput,
    UploadOutput,
    WorkflowOutput,
)
from media_callbacks.sources.base import MAX_EVENTS, Completion, Message, Parsed, expand_urls
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.products.outcomes import (
    Judged,
    build_error,
    has_outputs,
    is_skipped,
    judge_parts,
    read_outcome,
    whole_outcome,
)
from media_callbacks.sources.reading.decoding import decode_object, parse_time
from media_callbacks.sources.reading.fields import Fields
from media_callbacks.sources.reading.members import (
    JOB_IDS,
    Misfit,
    Reading,
    check_count,
    decoded,
    digest,
    first,
    opened,
    present,
    read,
    read_text,
    read_values,
    said,
    says_anything,
    settle,
)

# VOD documents no table of callback codes; these are the ones its samples and neighbours name.
RETRYABLE: Mapping[str, bool] = {
    "InvalidParameter": False,
    "InvalidVideo": False,
    "NoSuchKey": False,
    "URLInvalidError": False,
    "Throttling": True,
    "TransientNetWorkError": True,
}

_MAX_URL_LENGTH = 2048
_WORDS = ("Status", "State")
_TIMES = ("EventTime", "CompleteTime", "FinishTime")


@dataclass(frozen=True, slots=True)
class Dialect:
    """
    What distinguishes the two products that send these bodies.

    Attributes:
        path: Of the body in the message, for warnings.
        is_vod: Whether families are named as VOD's were from the beginning, and a body must name its job or asset.
    """

    path: str
    retryable: Mapping[str, bool]
    is_vod: bool


@dataclass(slots=True)
class Told:
    """
    A body's message.

    Attributes:
        event_time: As text, which is part of many identities; empty where there is none.
    """

    event_type: str
    dialect: Dialect
    reading: Reading[Any]
    event_time: str
    occurred_at: datetime | None
    user_data: str | None

    def family(self, kind: Kind, event_type: str | None = None) -> str:
        return kind if self.dialect.is_vod and kind in _FAMILIES_BY_KIND else event_type or self.event_type

    def media(self, body: Any, names: tuple[str, ...]) -> str | None:
        """The asset: under the names that VOD has for this event, or under any in the order of IMS."""
        return first(body, names if self.dialect.is_vod else _ANY_MEDIA)  # type: ignore[no-any-return]

    def warn(self, path: str) -> None:
        self.reading.warn(self.dialect.path + path)

    def occurrence(self, *parts: str) -> tuple[str, ...]:
        """What may happen again, told apart by the parts after the first; where all are empty, by all that is said."""
        return parts if any(parts[1:]) else (*parts, self.reading.digest())

    def identify(self, job_id: str | None, occurrence: Sequence[str], expected: str) -> tuple[str, ...]:
        """
        The identity of a job, else of what happened to the thing that ``occurrence`` begins with.

        Raises:
            Unparseable: Neither is named, by VOD, which names one always.
        """
        if job_id:
            return (job_id,)
        if occurrence[0]:
            return self.occurrence(*occurrence)
        if self.dialect.is_vod:
            raise Unparseable(f"expected {expected}, found neither")
        return (self.reading.digest(),)

    def end(
        self,
        kind: Kind,
        identity: tuple[str, ...],
        judged: Judged,
        word: str | None,
        body: Any,
        *,
        outputs: Callable[[Any], tuple[Frozen, ...]],
        job_id: str | None,
        media_id: str | None,
        parts: Sequence[Any] = (),
        family: str | None = None,
        nameless: Literal["takes_name", "keeps_key"] | None = None,
        placeholder: str | None = None,
    ) -> Completion:
        """
        One completion. Progress makes it a notice of its own, because its end is still to come.

        Args:
            word: What the judgement was made of.
            outputs: How they are read from the body.
            parts: Where an error may be, before the body.
        """
        family = family or self.family(kind)
        if judged == "progress" and kind != "notice":
            kind, nameless = "notice", None
            identity = (*identity, (word or "").lower(), self.event_time or self.reading.digest())
        outcome: Outcome = "received" if kind == "notice" or judged == "progress" else judged
        return Completion(
            family=family,
            id=identity,
            kind=kind,
            outcome=outcome,
            vendor_event=self.event_type,
            job_id=job_id,
            media_id=media_id,
            outputs=outputs(body) if outcome == "succeeded" or has_outputs(outcome) else (),
            error=None if outcome == "succeeded" or outcome == "received" else self.error(outcome, *parts, body),  # noqa: PLR1714, quicker
            user_data=self.user_data,
            occurred_at=self.occurred_at,
            nameless=nameless,
            placeholder=placeholder,
        )

    def digest_of_body(self) -> str:
        values = self.reading.values()
        if self.dialect.path:
            values = decoded(settle(values, lambda _: None)[self.dialect.path.rstrip(".").lower()])
            values = decoded(values[0]) if isinstance(values, list) else values
        return digest(values)

    def error(self, outcome: Outcome, *told: Any) -> EventError | None:
        """The error of the first that has a code or a text."""
        code = message = None
        for one in told:
            code, message = first(one, ("ErrorCode", "Code")), first(one, ("ErrorMessage", "Message"))
            if code or message:
                break
        error = build_error(code, message, outcome, self.dialect.retryable)
        if error is None and outcome == "partial":
            # A part failed, and nothing says why.
            return EventError(code=None, message=None, retryable=None)
        return error


_ANY_MEDIA = ("MediaId", "VideoId", "ImageId", "AttachedMediaId")
_FAMILIES_BY_KIND = frozenset({"animated_image", "snapshot", "transcode", "transcode_task"})


# Outputs


def animated_image_outputs(body: messages.DynamicImage) -> tuple[Frozen, ...]:
    if body.get("OutputUrl") or body.get("FileURL"):
        return (animated_image_output(body, first(body, ("OutputUrl", "FileURL"))),)
    info = said(body.get("DynamicImageJobInfo"))
    return () if info is None else (animated_image_output(info, info.get("FileURL") or None),)


def animated_image_output(
    info: messages.AnimatedImageInfo | messages.DynamicImage, url: str | None
) -> AnimatedImageOutput:
    return AnimatedImageOutput.trusted(
        url=url,
        format=info.get("Format") or url_suffix(url),
        width=info.get("Width"),
        height=info.get("Height"),
        fps=info.get("Fps"),
        size_bytes=info.get("FileSize"),
    )


def url_suffix(url: str | None) -> str | None:
    """The format that a file name ends with; VOD gives none for animated images."""
    if url is None:
        return None
    # Where the last full stop is not in the file's name, a slash follows it, which is no letter.
    _, dot, suffix = url.partition("?")[0].rpartition(".")
    return suffix.lower() if dot and len(suffix) <= 5 and suffix.isalnum() else None


def _sort(word: str | None) -> str | None:
    return word.lower().removesuffix("snapshot") if word else None


def _picture_outputs(
    template: str | None,
    placeholder: str | None,
    count: int | None,
    sort: str | None,
    urls: Sequence[str | None] | None,
) -> tuple[Frozen, ...]:
    """None where nothing is said of the pictures."""
    found = tuple(url for url in urls or () if url and len(url) <= _MAX_URL_LENGTH)[:MAX_SNAPSHOT_URLS]
    if not found and placeholder is not None:
        found = expand_urls(template or None, placeholder, count)
    if not (template or count is not None or found or sort):
        return ()
    return (
        SnapshotOutput.trusted(url_template=template or None, count=count, urls=found, snapshot_type=sort, times_s=()),
    )


def _snapshot_outputs(body: messages.Snapshot) -> tuple[Frozen, ...]:
    """Of a message about one job: what IMS says, and what has been seen of VOD."""
    url = first(body, ("OutputUrl", "FileUrl", "SnapshotRegular")) or _object_url(body)
    pictures = [picture for picture in body.get("Snapshots") or () if picture]
    count = len(pictures) if pictures and body.get("Count") is None else body.get("Count")
    outputs = _picture_outputs(url, "{Count}", count, _sort(first(body, ("SnapshotType", "Type"))), pictures)
    return outputs + (_picture_outputs(None, "", 1, "cover", [body.get("CoverUrl")]) if body.get("CoverUrl") else ())


def _live_snapshot_outputs(body: messages.Snapshot) -> tuple[Frozen, ...]:
    url = first(body, ("FileUrl", "OutputUrl")) or _object_url(body)
    return _picture_outputs(None, "", 1, None, [url]) if url else ()


def _object_url(body: messages.Snapshot) -> str | None:
    if body.get("OssBucket") and body.get("OssEndpoint") and body.get("OssObject"):
        return f"http://{body.get('OssBucket')}.{body.get('OssEndpoint')}/{body.get('OssObject')}"
    return None


def _stream_outputs(stream: messages.Stream) -> tuple[Frozen, ...]:
    output = TranscodeOutput.trusted(
        job_id=stream.get("JobId") or None,
        url=stream.get("FileUrl") or None,
        format=stream.get("Format") or None,
        definition=stream.get("Definition") or None,
        width=stream.get("Width"),
        height=stream.get("Height"),
        fps=stream.get("Fps"),
        bitrate_kbps=stream.get("Bitrate"),
        duration_s=stream.get("Duration"),
        size_bytes=stream.get("Size"),
        encrypted=stream.get("Encrypt"),
        audio_only=stream.get("IsAudio"),
    )
    return (output,)


def _file_output(
    job_id: str | None,
    file: messages.TranscodeOutputFile | None,
    meta: messages.FileMeta | None,
    url: str | None = None,
) -> TranscodeOutput:
    """As IMS describes an output; sizes are of the file, the rate of pictures of its first stream."""
    info = (meta.get("FileBasicInfo") if meta else None) or {}
    videos = present(meta.get("VideoStreamInfoList")) if meta else []
    if not url and file is not None:
        url = first(file, ("OutputUrl", "Url") if file.get("Type") == "Media" else ("OutputUrl", "Url", "Media"))
    url = url or info.get("FileUrl") or None
    return TranscodeOutput.trusted(
        job_id=job_id or None,
        url=url,
        format=url_suffix(url) or info.get("FormatName") or None,
        definition=None,
        width=info.get("Width"),
        height=info.get("Height"),
        fps=videos[0].get("Fps") if videos else None,
        bitrate_kbps=info.get("Bitrate"),
        duration_s=info.get("Duration"),
        size_bytes=info.get("FileSize"),
        encrypted=None,
        audio_only=None,
    )


def _media_info_outputs(body: messages.VideoAnalysis) -> tuple[Frozen, ...]:
    return (
        MediaInfoOutput.trusted(
            width=body.get("Width"),
            height=body.get("Height"),
            fps=body.get("Fps"),
            bitrate_kbps=body.get("Bitrate"),
            duration_s=body.get("Duration"),
            size_bytes=body.get("Size"),
        ),
    )


def _upload_outputs(body: messages.Upload) -> tuple[Frozen, ...]:
    return (
        UploadOutput.trusted(
            url=first(body, ("FileUrl", "FileURL", "StreamFileURL", "RecordUrl")),
            size_bytes=body.get("Size"),
            media_type=body.get("MediaType") or None,
            source_url=body.get("SourceURL") or None,
            record_id=None,
            record_started_at=None,
            record_ended_at=None,
            duration_s=None,
        ),
    )


def _recording_outputs(body: messages.Upload) -> tuple[Frozen, ...]:
    return (
        UploadOutput(
            url=first(body, ("FileUrl", "FileURL", "RecordUrl")),
            size_bytes=body.get("Size"),
            media_type=body.get("MediaType") or None,
            record_id=body.get("RecordId") or None,
            record_started_at=_time(first(body, ("RecordStartTime", "StartTime"))),
            record_ended_at=_time(first(body, ("RecordEndTime", "EndTime"))),
            duration_s=body.get("Duration"),
        ),
    )


def _time(text: str | None) -> datetime | None:
    return parse_time(text) if text else None


def _production_outputs(body: messages.Production) -> tuple[Frozen, ...]:
    subs = [
        sub
        for sub in present(body.get("SubJobList"))
        if read_outcome(sub.get("Status") or None, missing="succeeded") == "succeeded"
    ]
    results = present(body.get("JobResult"))
    if subs:
        return tuple(
            ProductionOutput.trusted(
                url=sub.get("MediaURL") or None,
                media_id=sub.get("MediaId") or None,
                project_id=sub.get("ProjectId") or None,
                function=None,
                job_id=sub.get("JobId") or None,
                duration_s=sub.get("Duration"),
                result=None,
            )
            for sub in subs
        )
    if results:
        return tuple(
            ProductionOutput.trusted(
                url=result.get("MediaUrl") or None,
                media_id=result.get("MediaId") or None,
                project_id=None,
                function=body.get("JobType") or None,
                job_id=result.get("JobId") or None,
                duration_s=None,
                result=decoded(result.get("AiResult")),
            )
            for result in results
            if read_outcome(first(result, _WORDS), missing="succeeded") == "succeeded"
        )
    return (
        ProductionOutput.trusted(
            url=body.get("MediaURL") or None,
            media_id=first(body, ("MediaId", "VodMediaId")),
            project_id=body.get("ProjectId") or None,
            function=body.get("JobType") or None,
            job_id=None,
            duration_s=body.get("Duration"),
            result=decoded(body.get("Output")),
        ),
    )


def _review_outputs(body: messages.Ai) -> tuple[Frozen, ...]:
    # Status says that the job ran, Data.Suggestion whether the content passed.
    data = decoded(body.get("Data"))
    if not isinstance(data, dict):
        return ()
    fields = Fields(data)
    suggestion, label = fields.text("Suggestion"), fields.text("Label")
    if not (suggestion or label):
        return ()
    return (ReviewOutput.trusted(suggestion=suggestion, label=label, reviewer=None, reason=None),)


_MANUAL_VERDICTS = {"normal": "pass", "blocked": "block"}


def _manual_review_outputs(body: messages.ManualReview) -> tuple[Frozen, ...]:
    status = body.get("AuditStatus")
    suggestion = _MANUAL_VERDICTS.get(status.lower(), status.lower()) if status else None
    return (
        ReviewOutput.trusted(
            suggestion=suggestion, label=None, reviewer=body.get("Auditor") or None, reason=body.get("Reason") or None
        ),
    )


def _fingerprint_outputs(body: messages.Ai) -> tuple[Frozen, ...]:
    data = decoded(body.get("Data"))
    matches = Fields(data).objects("VideoDNA") if isinstance(data, dict) else []
    return tuple(
        FingerprintOutput.trusted(primary_key=match.text("PrimaryKey"), similarity=match.number("Similarity"))
        for match in matches
        if match.says_anything()
    )


def _ai_outputs(body: messages.Ai) -> tuple[Frozen, ...]:
    result = opened(body.get("Data"), body.get("Result"), body.get("Output"))
    return () if result is None else (AiOutput.trusted(result=result),)


def _workflow_outputs(body: messages.Workflow) -> tuple[Frozen, ...]:
    found = []
    for name, node in (body.get("ActivityResults") or {}).items():
        outcome = read_outcome(node.get("Status") or None)
        result = decoded(node.get("Result"))
        found.append(
            WorkflowOutput.trusted(
                name=name.strip() or node.get("ActivityInstanceId") or None,
                type=node.get("ActivityId") or None,
                job_id=_job_of_result(result),
                outcome="unknown" if outcome == "progress" else outcome,
                result=result,
            )
        )
    return tuple(found)


def _job_of_result(result: Any) -> str | None:
    """The job that a node ran: its result is the job's, or the job's message in its envelope."""
    fields = Fields(result) if isinstance(result, dict) else None
    while fields is not None:
        if job_id := fields.text("JobId"):
            return job_id
        body = fields.decoded("MessageBody")
        fields = Fields(body) if isinstance(body, dict) else None
    return None


def _asset_outputs(operation: str | None) -> Callable[[messages.AssetChange], tuple[Frozen, ...]]:
    def outputs(body: messages.AssetChange) -> tuple[Frozen, ...]:
        urls = body.get("SuccessPlayUrls")
        return (
            AssetOutput.trusted(
                operation=operation or (first(body, ("OperateMode", "TaskType")) or "").lower() or None,
                media_type=body.get("MediaType") or None,
                scope=first(body, ("Scope", "DeleteType")),
                storage_class=body.get("StorageClass") or None,
                restored_until=_time(body.get("RestoreExpiration")),
                urls=tuple(url.strip() for url in urls.split(",") if url.strip()) if urls else (),
            ),
        )

    return outputs


def _no_outputs(_: Any) -> tuple[Frozen, ...]:
    return ()


# Outcomes of a whole


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


# The catalogue


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
    outputs: Callable[[Any], tuple[Frozen, ...]] = _no_outputs
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


_VIDEO = ("VideoId", "MediaId")
_FILE = "FileUrl|FileURL|StreamFileURL|RecordUrl"


def _upload(*key: str, media: tuple[str, ...] = ("MediaId", "VideoId"), recurs: bool = True) -> EventType:
    # A missing status is a success: that something came to be is all that these say.
    return EventType(
        "upload", messages.Upload, _upload_outputs, media, key=key, missing_status="succeeded", recurs=recurs
    )


def _recording(*key: str, media: tuple[str, ...] = ("MediaId", "VideoId")) -> EventType:
    return replace(_upload(*key, media=media), outputs=_recording_outputs)


def _image(*key: str, media: tuple[str, ...]) -> EventType:
    return replace(_upload(*key, media=media), model=messages.ImageUpload)


def _asset(operation: str | None, *key: str) -> EventType:
    return EventType("asset", messages.AssetChange, _asset_outputs(operation), key=key, recurs=True)


_AI = EventType("ai", messages.Ai, _ai_outputs)
_REVIEW = EventType("review", messages.Ai, _review_outputs)
_PRODUCTION = EventType("production", messages.Production, _production_outputs, judge=_judge_production)
_REGISTRATION = _upload("media", "time", recurs=False)

EVENT_TYPES: Mapping[str, EventType] = {
    "UploadByURLComplete": _upload("SourceURL|media", "time", media=_VIDEO, recurs=False),
    # The file of an asset may be written over.
    "FileUploadComplete": _upload("media", _FILE, "time", media=_VIDEO),
    "ImageUploadComplete": _image("media", "FileURL", "time", media=("ImageId", "MediaId")),
    "AttachedMediaUploadComplete": _image("media", "FileURL", "time", media=("AttachedMediaId", "MediaId")),
    # A live job sends one for each of its files.
    "LiveRecordFileCreated": _recording("job|media", _FILE, "RecordId", "time"),
    "LiveSnapshotFileCreated": EventType(
        "snapshot",
        messages.Snapshot,
        _live_snapshot_outputs,
        key=("job|media", "FileUrl|OutputUrl|OssObject", "CreateTimestamp|CreateTime", "time"),
        missing_status="succeeded",
        recurs=True,
    ),
    "AddLiveRecordVideoComplete": _recording("media", "RecordStartTime", "RecordEndTime", "time", media=_VIDEO),
    "LiveRecordVideoComposeStart": EventType(
        "notice", messages.Upload, media=_VIDEO, key=("media", "time"), recurs=True
    ),
    "LiveRecordTaskStatus": EventType("notice", messages.Upload, key=("job|media", "word", "time"), recurs=True),
    "VideoAnalysisComplete": EventType("media_info", messages.VideoAnalysis, _media_info_outputs, _VIDEO),
    "AIMediaAuditComplete": _REVIEW,
    "AIVideoCensorComplete": _REVIEW,
    "CreateAuditComplete": EventType(
        "review", messages.ManualReview, _manual_review_outputs, key=("media", "CreationTime", "time"), recurs=True
    ),
    "AIMediaDNAComplete": EventType("fingerprint", messages.Ai, _fingerprint_outputs),
    "AIVideoTagComplete": _AI,
    "ProduceMediaComplete": replace(_PRODUCTION, key=("media", "ProjectId", "time")),
    "DeleteMediaComplete": _asset("delete", "media", "DeleteType", "JobIds", "time"),
    "MediaBaseChangeComplete": _asset(None, "media", "OperateMode", "time", "#"),
    "UpdateMediaStorageClassComplete": _asset("archive", "media", "StorageClass", "time"),
    "RestoreMediaComplete": _asset("restore", "media", "RestoreExpiration", "time"),
    # One job refreshes up to twenty assets and sends an event for each.
    "SubmitMediaRefreshComplete": EventType(
        "asset",
        messages.AssetChange,
        _asset_outputs(None),
        job=("MediaRefreshJobId", "JobId"),
        key=("job", "media"),
        recurs=True,
    ),
    "WorkflowTaskComplete": EventType(
        "workflow", messages.Workflow, _workflow_outputs, _VIDEO, ("TaskId", "JobId"), judge=_judge_workflow
    ),
    # Names that only IMS documents. The products share most of their names, so these mean the same if they come.
    "BatchProduceMediaComplete": _PRODUCTION,
    "AIProduceComplete": _PRODUCTION,
    "SmartJobComplete": _PRODUCTION,
    "MediaAiAnalysisComplete": _AI,
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


# Reading

_DIALECT = Dialect("", RETRYABLE, is_vod=True)


def parse(message: Message) -> Parsed:
    """
    Read one notification.

    Raises:
        Unparseable: Not a VOD message, or nothing in it says which job or asset it is about.
    """
    event_type, reading = read_typed(message.payload, model_of, "VOD")
    body = reading.message
    if reading.is_rearranged and "messagebody" in settle(reading.values(), lambda _: None):
        raise Unparseable('found MessageBody, which IMS sends: is this source registered with IMS (product = "ims")?')
    completions = read_body(event_type, _DIALECT, reading, body, body.get("EventTime"))
    return Parsed(completions, tuple(reading.warnings))


def read_typed(payload: bytes, model_of: Callable[[str], Any], product: str) -> tuple[str, Reading[Any]]:
    """
    The type of a message, and the message as the model of that type.

    Raises:
        Unparseable: It is no JSON object, or has no type.
    """
    # The bytes tell which model to read them as, nearly always: what they are read as then must say the same.
    start = payload.find(b'"EventType"')
    start = payload.find(b'"', start + 11) + 1 if start >= 0 else 0
    event_type = payload[start : payload.find(b'"', start)].decode(errors="replace") if start else ""
    if event_type:
        reading = read(model_of(event_type), payload)
        if reading.message.get("EventType") == event_type:
            return event_type, reading
    values = decode_object(payload)
    try:
        found = read_text(settle(values, lambda _: None).get("eventtype"))
    except Misfit:
        found = None
    if found is None:
        raise Unparseable(f"expected a message of {product} with EventType, found none")
    return found, read_values(model_of(found), values, payload)


def read_body(
    event_type: str, dialect: Dialect, reading: Reading[Any], body: Any, event_time: str | None
) -> tuple[Completion, ...]:
    """
    What a body means, wherever it stands.

    Raises:
        Unparseable: Nothing in it says which job or asset it is about.
    """
    event_time = event_time or first(body, _TIMES) or ""
    occurred_at = parse_time(event_time) if event_time else None
    own, other = ("Extend", "UserData") if dialect.is_vod else ("UserData", "Extend")
    user_data = body.get(own)
    if user_data is None:
        user_data = body.get(other)
    told = Told(event_type, dialect, reading, event_time, occurred_at, user_data)
    if event_time and occurred_at is None:
        told.warn("EventTime")
    row = EVENT_TYPES.get(event_type)
    if row is not None:
        return (_read_row(told, body, row),)
    if event_type == "DynamicImageComplete":
        return (_read_animated_image(told, body),)
    if event_type == "SnapshotComplete":
        return _read_snapshots(told, body)
    if event_type == "StreamTranscodeComplete":
        stream = _read_stream(told, body, body)
        if stream is None:
            raise Unparseable("expected JobId or VideoId of the stream, found neither")
        return (stream,)
    if event_type == "TranscodeComplete" and (dialect.is_vod or present(body.get("StreamInfos"))):
        return _read_transcode_task(told, body)
    if event_type in CONVERSIONS:
        return (_read_conversion(told, body, CONVERSIONS[event_type]),)
    if is_ai_event(event_type) and first(body, ("JobId", "MediaId", "VideoId")):
        return (_read_row(told, body, _AI),)
    return (_read_unknown(told, body),)


def _read_row(told: Told, body: Any, row: EventType) -> Completion:
    job_id, media_id, word = first(body, row.job), told.media(body, row.media), first(body, _WORDS)
    judged = read_outcome(word, missing=row.missing_status)
    if row.judge is not None:
        judged = row.judge(judged, body)
    if job_id is not None and not row.recurs:
        identity: tuple[str, ...] = (job_id,)
    else:
        identity = _identify(told, body, row, job_id, media_id)
        if job_id is not None and identity[0] != job_id:
            # By which it is looked for.
            identity = (job_id, *identity)
    # What may happen again to a job is not its end, and must not be asked about as such.
    family = told.event_type if row.recurs else None
    return told.end(
        row.kind,
        identity,
        judged,
        word,
        body,
        outputs=row.outputs,
        job_id=job_id,
        media_id=media_id,
        family=family,
    )


def _identify(told: Told, body: Any, row: EventType, job_id: str | None, media_id: str | None) -> tuple[str, ...]:
    known = {"job": job_id, "media": media_id, "time": told.event_time, "word": (first(body, _WORDS) or "").lower()}
    if "#" in row.key:
        known["#"] = told.reading.digest()
    found = []
    for names in row.parts:
        text = ""
        for name in names:
            text = known.get(name) or body.get(name) or ""
            if text:
                break
        found.append(text)
    if not found[0]:
        expected = {"job": row.job, "media": row.media}.get(row.key[0], (row.key[0],))
        return told.identify(None, found, f"{' or '.join(expected)}, which identifies this event")
    return told.occurrence(*found) if "time" in row.key else tuple(found)


def _read_unknown(told: Told, body: Any) -> Completion:
    job_id, digest = first(body, JOB_IDS), told.reading.digest()
    identity = (job_id, digest) if job_id else (digest,)
    media_id = told.media(body, ("VideoId", "MediaId", "ImageId", "AttachedMediaId"))
    return told.end("notice", identity, "received", None, body, outputs=_no_outputs, job_id=job_id, media_id=media_id)


def _read_animated_image(told: Told, body: messages.DynamicImage) -> Completion:
    """Job and status may be said twice: the outer id counts, and a failure on either level is one."""
    info = body.get("DynamicImageJobInfo")
    job_id, word = first(body, JOB_IDS), first(body, _WORDS)
    if info is not None:
        inner_id, inner_word = info.get("JobId"), info.get("Status")
        if inner_id and job_id is not None and inner_id != job_id:
            told.warn("DynamicImageJobInfo.JobId")
        job_id = job_id or inner_id or None
        if word is None or (inner_word and inner_word != word and read_outcome(inner_word) == "failed"):
            word = inner_word or None
    media_id = told.media(body, _VIDEO)
    if job_id is not None:
        identity: tuple[str, ...] = (job_id,)
    else:
        instance = (body.get("TriggerSource") or {}).get("ActivityInstanceId")
        occurrence = (media_id or "", told.event_time, instance or "")
        identity = told.identify(None, occurrence, "JobId or VideoId, which identify an animated image")
    return told.end(
        "animated_image",
        identity,
        read_outcome(word),
        word,
        body,
        outputs=animated_image_outputs,
        job_id=job_id,
        media_id=media_id,
    )


# What a job is for. What it leaves besides, as the originals of a sprite, has the sort in its id.
_SORTS_OF_JOBS = frozenset({None, "", "cover", "normal", "sprite"})


def is_sort_of_job(snapshot_type: str | None) -> bool:
    """Whether pictures of this SnapshotType are what a job is identified by."""
    return _sort(snapshot_type) in _SORTS_OF_JOBS


def _read_snapshots(told: Told, body: messages.Snapshot) -> tuple[Completion, ...]:
    """One per element of SnapshotInfos, each with its own job id; without any, one."""
    media_id, outer_word = told.media(body, _VIDEO), first(body, _WORDS)
    fallback = (media_id or "", body.get("SubType") or "", told.event_time, told.user_data or "")
    infos = body.get("SnapshotInfos") or ()
    if not present(infos):
        job_id = first(body, JOB_IDS)
        identity = told.identify(job_id, fallback, "SnapshotInfos or VideoId")
        nameless: Literal["takes_name"] | None = "takes_name" if told.dialect.is_vod and not job_id else None
        judged = read_outcome(outer_word)
        return (
            told.end(
                "snapshot",
                identity,
                judged,
                outer_word,
                body,
                outputs=_snapshot_outputs,
                job_id=job_id,
                media_id=media_id,
                nameless=nameless,
            ),
        )
    check_count(f"{told.dialect.path}SnapshotInfos", len(infos), MAX_EVENTS)
    completions = []
    sorts: dict[str, str | None] = {}
    identities: set[tuple[str, ...]] = set()
    for index, info in enumerate(infos):
        if not says_anything(info):
            continue
        job_id, sort = info.get("JobId") or None, _sort(info.get("SnapshotType"))
        if job_id is not None:
            # Whatever stands beside it: its neighbours may come in another order, or in a message of their own. Two
            # sorts that jobs are for are not known of one job; if they come together, both are to be told.
            is_own = is_sort_of_job(sort) and sorts.setdefault(job_id, sort) == sort
            identity = (job_id,) if is_own else (job_id, sort or "")
        elif media_id is not None:
            parts = info.get("SnapshotType") or "", first(info, ("SnapshotRegular", "SnapshotFormat")) or ""
            identity = (*fallback, *(part for part in parts if part)) if any(parts) else (*fallback, str(index))
            if identity in identities:
                identity = (*identity, str(index))
        else:
            # The others are not lost for the sake of one that nobody could be told about.
            told.warn(f"SnapshotInfos[{index}].JobId")
            continue
        identities.add(identity)
        word = info.get("Status") or outer_word
        completions.append(
            # Codes stand beside the elements; inside them they are not documented.
            told.end(
                "snapshot",
                identity,
                read_outcome(word),
                word,
                body,
                outputs=partial(_info_outputs, info=info, sort=sort),
                job_id=job_id,
                media_id=media_id,
                parts=(info,),
                placeholder="{SnapshotCount}",
            )
        )
    if not completions:
        raise Unparseable("expected a JobId in SnapshotInfos, or VideoId, found neither")
    return tuple(completions)


def _info_outputs(body: messages.Snapshot, info: messages.SnapshotInfo, sort: str | None) -> tuple[Frozen, ...]:
    urls: Sequence[str | None] = ()
    if not info.get("SnapshotRegular"):
        # What stands beside the elements belongs to the only one, or to the cover.
        is_only = len(body.get("SnapshotInfos") or ()) == 1
        urls = (body.get("Snapshots") if is_only else None) or ([body.get("CoverUrl")] if sort == "cover" else ())
    return _picture_outputs(info.get("SnapshotRegular"), None, info.get("SnapshotCount"), sort, urls)


def _read_stream(told: Told, body: Any, stream: Any) -> Completion | None:
    """None when nothing says which stream of which video this is."""
    job_id, media_id = stream.get("JobId") or None, told.media(body, _VIDEO)
    if job_id is not None:
        identity: tuple[str, ...] = (job_id,)
    elif media_id is not None:
        names = stream.get("Definition") or "", stream.get("Format") or ""
        identity = told.occurrence(media_id, *names, told.event_time)
    else:
        return None
    word = first(stream, _WORDS)
    # The same family as the stream's own event, whichever message it stands in.
    family = told.family("transcode", "StreamTranscodeComplete")
    judged = read_outcome(word)
    return told.end(
        "transcode",
        identity,
        judged,
        word,
        stream,
        outputs=_stream_outputs,
        job_id=job_id,
        media_id=media_id,
        family=family,
    )


def _read_transcode_task(told: Told, body: messages.Transcode) -> tuple[Completion, ...]:
    """One per stream, under the same key as the stream's own event, and one for the task as a whole."""
    media_id = told.media(body, _VIDEO)
    streams = []
    elements = body.get("StreamInfos") or ()
    check_count(f"{told.dialect.path}StreamInfos", len(elements), MAX_EVENTS)
    for index, element in enumerate(elements):
        if not says_anything(element):
            continue
        stream = _read_stream(told, body, element)
        if stream is None:
            told.warn(f"StreamInfos[{index}].JobId")
        else:
            streams.append(stream)
    job_ids = sorted({stream.job_id for stream in streams if stream.job_id})
    if media_id is None and not job_ids:
        raise Unparseable("expected VideoId or StreamInfos[].JobId, which identify a transcode task, found neither")
    identity = (media_id or "", *job_ids) if job_ids else told.occurrence(media_id or "", told.event_time)
    word = body.get("Status") or None
    outcomes = [stream.outcome for stream in streams]
    if outcomes and all(outcome == "received" for outcome in outcomes):
        # Where none of its streams has ended, the task has not.
        judged: Judged = "progress"
    else:
        judged = whole_outcome("unknown", outcomes) if outcomes else read_outcome(word)
    task = told.end(
        "transcode_task",
        identity,
        judged,
        word,
        body,
        outputs=lambda _: tuple([output for stream in streams for output in stream.outputs]),
        job_id=None,
        media_id=media_id,
        nameless="keeps_key" if media_id is not None and told.dialect.is_vod else None,
    )
    # The first stream's error that says something, else what the task itself says.
    error = next((stream.error for stream in streams if stream.error and stream.error.code), None)
    if error is not None and task.kind != "notice":
        task.error = error
    return (*streams, task)


CONVERSIONS: Mapping[str, Kind] = {
    "TranscodeComplete": "transcode",
    "MediaConvertOutputComplete": "transcode",
    "TranscodeParentComplete": "transcode_task",
    "MediaConvertComplete": "transcode_task",
    "MediaConvertOutputGroupComplete": "transcode_task",
}
# Parts of a job: they have ids of their own.
TASKS = frozenset({"MediaConvertOutputComplete", "MediaConvertOutputGroupComplete"})


def _read_conversion(told: Told, body: messages.Transcode, kind: Kind) -> Completion:
    """
    One of IMS: a job, a part of it that is a task of its own, or the old forms of both.

    One job gives several of these, so a task has its id beside that of the job; where it has none, the hash of the
    body tells them apart.
    """
    job_id, media_id, word = first(body, JOB_IDS), told.media(body, _VIDEO), first(body, _WORDS)
    parts = _conversion_parts(body)
    judged = read_outcome(word)
    if parts:
        judged = judge_parts(judged, [first(part, _WORDS) for part in parts])
    identity = told.identify(job_id, (media_id or "", told.event_time), "JobId or MediaId of the conversion")
    if job_id and told.event_type in TASKS:
        task_id = body.get("TaskId")
        identity = (job_id, task_id if task_id and task_id != job_id else told.digest_of_body())
    failed = [part for part in parts if read_outcome(first(part, _WORDS)) == "failed"]
    return told.end(
        kind,
        identity,
        judged,
        word,
        body,
        outputs=lambda body: _conversion_outputs(body, parts),
        job_id=job_id,
        media_id=media_id,
        parts=failed,
    )


def _conversion_parts(body: messages.Transcode) -> list[Any]:
    told: Any = body
    parts: list[Any] = [element for name in _PARTS for element in present(told.get(name))]
    for group in present(body.get("OutputGroupDetails")):
        # A group says how its outputs ended, unless they say so themselves.
        parts += present(group.get("Outputs")) or [group]
    return [part for part in parts if not is_skipped(first(part, _WORDS))]


_PARTS = ("TranscodeJobList", "OutputDetails", "Outputs")


def _conversion_outputs(body: messages.Transcode, parts: list[Any]) -> tuple[Frozen, ...]:
    if not parts:
        result: Any = said(body.get("Result")) or body
        url = first(body, ("OutputUrl", "FileUrl", "MediaURL"))
        file = said(result.get("OutputFile")) or said(body.get("Output"))
        output = _file_output(body.get("TaskId"), file, result.get("OutFileMeta"), url)
        return (output,) if output.url or output.size_bytes or output.width else ()
    found = []
    for part in parts:
        if read_outcome(first(part, _WORDS), missing="succeeded") != "succeeded":
            continue
        result = said(part.get("Result")) or part
        file, meta = said(result.get("OutputFile")) or said(part.get("Output")), said(result.get("OutFileMeta"))
        if file or meta:
            found.append(_file_output(first(part, ("TaskId", "JobId")), file, meta))
    return tuple(found)
