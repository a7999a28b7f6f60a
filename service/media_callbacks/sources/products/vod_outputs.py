"""What a job made, as the bodies of VOD and IMS tell of it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

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
from media_callbacks.sources.base import expand_urls
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.products.outcomes import is_skipped, read_outcome
from media_callbacks.sources.reading.decoding import parse_time
from media_callbacks.sources.reading.fields import Fields
from media_callbacks.sources.reading.members import decoded, first, opened, present, said

_MAX_URL_LENGTH = 2048


STATUS_NAMES = ("Status", "State")


def animated_image_outputs(body: messages.DynamicImage) -> tuple[Frozen, ...]:
    if body.get("OutputUrl") or body.get("FileURL"):
        return (animated_image_output(body, first(body, ("OutputUrl", "FileURL"))),)
    info = said(body.get("DynamicImageJobInfo"))
    return () if info is None else (animated_image_output(info, info.get("FileURL") or None),)


def animated_image_output(
    info: messages.AnimatedImageInfo | messages.DynamicImage, url: str | None
) -> AnimatedImageOutput:
    return AnimatedImageOutput.trusted(
        {
            "url": url,
            "format": info.get("Format") or url_suffix(url),
            "width": info.get("Width"),
            "height": info.get("Height"),
            "fps": info.get("Fps"),
            "size_bytes": info.get("FileSize"),
        }
    )


def url_suffix(url: str | None) -> str | None:
    """The format that a file name ends with; VOD gives none for animated images."""
    if url is None:
        return None
    # Where the last full stop is not in the file's name, a slash follows it, which is no letter.
    _, dot, suffix = url.partition("?")[0].rpartition(".")
    return suffix.lower() if dot and len(suffix) <= 5 and suffix.isalnum() else None


def sort_of(word: str | None) -> str | None:
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
        SnapshotOutput.trusted(
            {"url_template": template or None, "count": count, "urls": found, "snapshot_type": sort, "times_s": ()}
        ),
    )


def snapshot_outputs(body: messages.Snapshot) -> tuple[Frozen, ...]:
    """Of a message about one job: what IMS says, and what has been seen of VOD."""
    url = first(body, ("OutputUrl", "FileUrl", "SnapshotRegular")) or _object_url(body)
    pictures = [picture for picture in body.get("Snapshots") or () if picture]
    count = len(pictures) if pictures and body.get("Count") is None else body.get("Count")
    outputs = _picture_outputs(url, "{Count}", count, sort_of(first(body, ("SnapshotType", "Type"))), pictures)
    return outputs + (_picture_outputs(None, "", 1, "cover", [body.get("CoverUrl")]) if body.get("CoverUrl") else ())


def live_snapshot_outputs(body: messages.Snapshot) -> tuple[Frozen, ...]:
    url = first(body, ("FileUrl", "OutputUrl")) or _object_url(body)
    return _picture_outputs(None, "", 1, None, [url]) if url else ()


def _object_url(body: messages.Snapshot) -> str | None:
    if body.get("OssBucket") and body.get("OssEndpoint") and body.get("OssObject"):
        return f"http://{body.get('OssBucket')}.{body.get('OssEndpoint')}/{body.get('OssObject')}"
    return None


def stream_outputs(stream: messages.Stream) -> tuple[Frozen, ...]:
    output = TranscodeOutput.trusted(
        {
            "job_id": stream.get("JobId") or None,
            "url": stream.get("FileUrl") or None,
            "format": stream.get("Format") or None,
            "definition": stream.get("Definition") or None,
            "width": stream.get("Width"),
            "height": stream.get("Height"),
            "fps": stream.get("Fps"),
            "bitrate_kbps": stream.get("Bitrate"),
            "duration_s": stream.get("Duration"),
            "size_bytes": stream.get("Size"),
            "encrypted": stream.get("Encrypt"),
            "audio_only": stream.get("IsAudio"),
        }
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
        {
            "job_id": job_id or None,
            "url": url,
            "format": url_suffix(url) or info.get("FormatName") or None,
            "definition": None,
            "width": info.get("Width"),
            "height": info.get("Height"),
            "fps": videos[0].get("Fps") if videos else None,
            "bitrate_kbps": info.get("Bitrate"),
            "duration_s": info.get("Duration"),
            "size_bytes": info.get("FileSize"),
            "encrypted": None,
            "audio_only": None,
        }
    )


def media_info_outputs(body: messages.VideoAnalysis) -> tuple[Frozen, ...]:
    return (
        MediaInfoOutput.trusted(
            {
                "width": body.get("Width"),
                "height": body.get("Height"),
                "fps": body.get("Fps"),
                "bitrate_kbps": body.get("Bitrate"),
                "duration_s": body.get("Duration"),
                "size_bytes": body.get("Size"),
            }
        ),
    )


def upload_outputs(body: messages.Upload) -> tuple[Frozen, ...]:
    return (
        UploadOutput.trusted(
            {
                "url": first(body, ("FileUrl", "FileURL", "StreamFileURL", "RecordUrl")),
                "size_bytes": body.get("Size"),
                "media_type": body.get("MediaType") or None,
                "source_url": body.get("SourceURL") or None,
                "record_id": None,
                "record_started_at": None,
                "record_ended_at": None,
                "duration_s": None,
            }
        ),
    )


def recording_outputs(body: messages.Upload) -> tuple[Frozen, ...]:
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


def production_outputs(body: messages.Production) -> tuple[Frozen, ...]:
    subs = [
        sub
        for sub in present(body.get("SubJobList"))
        if read_outcome(sub.get("Status") or None, missing="succeeded") == "succeeded"
    ]
    results = present(body.get("JobResult"))
    if subs:
        return tuple(
            ProductionOutput.trusted(
                {
                    "url": sub.get("MediaURL") or None,
                    "media_id": sub.get("MediaId") or None,
                    "project_id": sub.get("ProjectId") or None,
                    "function": None,
                    "job_id": sub.get("JobId") or None,
                    "duration_s": sub.get("Duration"),
                    "result": None,
                }
            )
            for sub in subs
        )
    if results:
        return tuple(
            ProductionOutput.trusted(
                {
                    "url": result.get("MediaUrl") or None,
                    "media_id": result.get("MediaId") or None,
                    "project_id": None,
                    "function": body.get("JobType") or None,
                    "job_id": result.get("JobId") or None,
                    "duration_s": None,
                    "result": decoded(result.get("AiResult")),
                }
            )
            for result in results
            if read_outcome(first(result, STATUS_NAMES), missing="succeeded") == "succeeded"
        )
    return (
        ProductionOutput.trusted(
            {
                "url": body.get("MediaURL") or None,
                "media_id": first(body, ("MediaId", "VodMediaId")),
                "project_id": body.get("ProjectId") or None,
                "function": body.get("JobType") or None,
                "job_id": None,
                "duration_s": body.get("Duration"),
                "result": decoded(body.get("Output")),
            }
        ),
    )


def review_outputs(body: messages.Ai) -> tuple[Frozen, ...]:
    # Status says that the job ran, Data.Suggestion whether the content passed.
    data = decoded(body.get("Data"))
    if not isinstance(data, dict):
        return ()
    fields = Fields(data)
    suggestion, label = fields.text("Suggestion"), fields.text("Label")
    if not (suggestion or label):
        return ()
    return (ReviewOutput.trusted({"suggestion": suggestion, "label": label, "reviewer": None, "reason": None}),)


_MANUAL_VERDICTS = {"normal": "pass", "blocked": "block"}


def manual_review_outputs(body: messages.ManualReview) -> tuple[Frozen, ...]:
    status = body.get("AuditStatus")
    suggestion = _MANUAL_VERDICTS.get(status.lower(), status.lower()) if status else None
    return (
        ReviewOutput.trusted(
            {
                "suggestion": suggestion,
                "label": None,
                "reviewer": body.get("Auditor") or None,
                "reason": body.get("Reason") or None,
            }
        ),
    )


def fingerprint_outputs(body: messages.Ai) -> tuple[Frozen, ...]:
    data = decoded(body.get("Data"))
    matches = Fields(data).objects("VideoDNA") if isinstance(data, dict) else []
    return tuple(
        FingerprintOutput.trusted({"primary_key": match.text("PrimaryKey"), "similarity": match.number("Similarity")})
        for match in matches
        if match.says_anything()
    )


def ai_outputs(body: messages.Ai) -> tuple[Frozen, ...]:
    result = opened(body.get("Data"), body.get("Result"), body.get("Output"))
    return () if result is None else (AiOutput.trusted({"result": result}),)


def workflow_outputs(body: messages.Workflow) -> tuple[Frozen, ...]:
    found = []
    for name, node in (body.get("ActivityResults") or {}).items():
        outcome = read_outcome(node.get("Status") or None)
        result = decoded(node.get("Result"))
        found.append(
            WorkflowOutput.trusted(
                {
                    "name": name.strip() or node.get("ActivityInstanceId") or None,
                    "type": node.get("ActivityId") or None,
                    "job_id": _job_of_result(result),
                    "outcome": "unknown" if outcome == "progress" else outcome,
                    "result": result,
                }
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


def asset_outputs(operation: str | None) -> Callable[[messages.AssetChange], tuple[Frozen, ...]]:
    def outputs(body: messages.AssetChange) -> tuple[Frozen, ...]:
        urls = body.get("SuccessPlayUrls")
        return (
            AssetOutput.trusted(
                {
                    "operation": operation or (first(body, ("OperateMode", "TaskType")) or "").lower() or None,
                    "media_type": body.get("MediaType") or None,
                    "scope": first(body, ("Scope", "DeleteType")),
                    "storage_class": body.get("StorageClass") or None,
                    "restored_until": _time(body.get("RestoreExpiration")),
                    "urls": tuple(url.strip() for url in urls.split(",") if url.strip()) if urls else (),
                }
            ),
        )

    return outputs


def no_outputs(_: Any) -> tuple[Frozen, ...]:
    return ()


# What a job is for. What it leaves besides, as the originals of a sprite, has the sort in its id.
_SORTS_OF_JOBS = frozenset({None, "", "cover", "normal", "sprite"})


def is_sort_of_job(snapshot_type: str | None) -> bool:
    """Whether pictures of this SnapshotType are what a job is identified by."""
    return sort_of(snapshot_type) in _SORTS_OF_JOBS


def snapshot_info_outputs(body: messages.Snapshot, info: messages.SnapshotInfo, sort: str | None) -> tuple[Frozen, ...]:
    urls: Sequence[str | None] = ()
    if not info.get("SnapshotRegular"):
        # What stands beside the elements belongs to the only one, or to the cover.
        is_only = len(body.get("SnapshotInfos") or ()) == 1
        urls = (body.get("Snapshots") if is_only else None) or ([body.get("CoverUrl")] if sort == "cover" else ())
    return _picture_outputs(info.get("SnapshotRegular"), None, info.get("SnapshotCount"), sort, urls)


def conversion_parts(body: messages.Transcode) -> list[Any]:
    told: Any = body
    parts: list[Any] = [element for name in _PARTS for element in present(told.get(name))]
    for group in present(body.get("OutputGroupDetails")):
        # A group says how its outputs ended, unless they say so themselves.
        parts += present(group.get("Outputs")) or [group]
    return [part for part in parts if not is_skipped(first(part, STATUS_NAMES))]


_PARTS = ("TranscodeJobList", "OutputDetails", "Outputs")


def conversion_outputs(body: messages.Transcode, parts: list[Any]) -> tuple[Frozen, ...]:
    if not parts:
        result: Any = said(body.get("Result")) or body
        url = first(body, ("OutputUrl", "FileUrl", "MediaURL"))
        file = said(result.get("OutputFile")) or said(body.get("Output"))
        output = _file_output(body.get("TaskId"), file, result.get("OutFileMeta"), url)
        return (output,) if output.url or output.size_bytes or output.width else ()
    found = []
    for part in parts:
        if read_outcome(first(part, STATUS_NAMES), missing="succeeded") != "succeeded":
            continue
        result = said(part.get("Result")) or part
        file, meta = said(result.get("OutputFile")) or said(part.get("Output")), said(result.get("OutFileMeta"))
        if file or meta:
            found.append(_file_output(first(part, ("TaskId", "JobId")), file, meta))
    return tuple(found)
