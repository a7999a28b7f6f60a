"""
Intelligent Media Services (IMS, also called ICE, API 2020-11-09): what each message means.

A message is an envelope ``{"EventType", "UserId", "EventTime", "MessageBody"}``. Most bodies are not publicly
documented, so one tolerant rule reads them all: the job id is the first of ``JobId``, ``TaskId``, ``ParentJobId``
(of a workflow ``TaskId``), the status the first of ``Status``, ``State``, each looked for in the body and then one
level down. ``KINDS`` is the catalogue: to add a type, add a row.

Source: "Callback events overview", https://help.aliyun.com/en/ims/user-guide/callback-events-overview, and
"Event list", https://help.aliyun.com/en/ims/user-guide/event-list-2. Names that only VOD documents are in the
catalogue too: the products share most of their names, so these mean the same if they come.
"""

from collections.abc import Callable, Mapping

from service.errors import Unparseable
from service.events import Frozen, Kind, SnapshotOutput, TranscodeOutput
from service.sources import vod
from service.sources.base import Completion, Message, Parsed, expand_urls
from service.sources.fields import Fields, read_object
from service.sources.outcomes import has_outputs, read_error, read_outcome

KINDS: Mapping[str, Kind] = {
    "DynamicImageComplete": "animated_image",
    "SnapshotComplete": "snapshot",
    "LiveSnapshotFileCreated": "snapshot",
    "TranscodeComplete": "transcode",
    "MediaConvertOutputComplete": "transcode",
    "TranscodeParentComplete": "transcode_task",
    "MediaConvertComplete": "transcode_task",
    "MediaConvertOutputGroupComplete": "transcode_task",
    "VideoAnalysisComplete": "media_info",
    "WorkflowTaskComplete": "workflow",
    "ProduceMediaComplete": "production",
    "BatchProduceMediaComplete": "production",
    "AIProduceComplete": "production",
    "SmartJobComplete": "production",
    "AIMediaAuditComplete": "review",
    "AIVideoCensorComplete": "review",
    "CreateAuditComplete": "review",
    "AIMediaDNAComplete": "fingerprint",
    "AIVideoTagComplete": "ai",
    "MediaAiAnalysisComplete": "ai",
    "FileUploadComplete": "upload",
    "ImageUploadComplete": "upload",
    "AttachedMediaUploadComplete": "upload",
    "UploadByURLComplete": "upload",
    "UploadStreamByURLComplete": "upload",
    "StreamUploadComplete": "upload",
    "RegisterStreamComplete": "upload",
    "RegisterMediaComplete": "upload",
    "LiveRecordFileCreated": "upload",
    "AddLiveRecordVideoComplete": "upload",
    "DeleteMediaComplete": "asset",
    "MediaBaseChangeComplete": "asset",
    "UpdateMediaStorageClassComplete": "asset",
    "RestoreMediaComplete": "asset",
    "SubmitMediaRefreshComplete": "asset",
    "LiveRecordTaskStatus": "notice",
    "LiveRecordVideoComposeStart": "notice",
}

# One job gives several of these and no message of either kind has been seen, so nothing in it can be trusted to
# tell them apart; the hash of the body does until one is.
_KEY_WITH_BODY = frozenset({"MediaConvertOutputComplete", "MediaConvertOutputGroupComplete"})

_JOB: Mapping[str, tuple[str, ...]] = {
    "WorkflowTaskComplete": ("TaskId", "JobId"),
    "SubmitMediaRefreshComplete": ("MediaRefreshJobId", "JobId"),
}
_ANY_JOB = ("JobId", "TaskId", "ParentJobId")

_RETRYABLE: Mapping[str, bool] = {
    "InvalidParameter": False,
    "ResourceNotFound": False,
    "Throttling": True,
    "TransientNetWorkError": True,
}


def _animated_image_outputs(body: Fields) -> tuple[Frozen, ...]:
    # No body has been seen; these are the names of GetDynamicImageJob and of the VOD event.
    if body.text("OutputUrl", "FileURL"):
        return (vod.animated_image_output(body),)
    return vod.animated_image_outputs(body)


def _snapshot_outputs(body: Fields) -> tuple[Frozen, ...]:
    count, url = body.integer("Count"), body.text("OutputUrl", "FileURL", "SnapshotRegular")
    if url is None and count is None:
        return ()
    return (SnapshotOutput(url_template=url, count=count, urls=expand_urls(url, "{Count}", count)),)


def _transcode_outputs(body: Fields) -> tuple[Frozen, ...]:
    url = body.text("OutputUrl", "FileUrl", "MediaURL")
    return (TranscodeOutput(url=url, format=vod.url_suffix(url)),) if url else ()


_OUTPUTS: Mapping[Kind, Callable[[Fields], tuple[Frozen, ...]]] = {
    "animated_image": _animated_image_outputs,
    "snapshot": _snapshot_outputs,
    "transcode": _transcode_outputs,
    "media_info": vod.media_info_outputs,
    "workflow": vod.workflow_outputs,
    "production": vod.production_outputs,
    "review": vod.review_outputs,
    "fingerprint": vod.fingerprint_outputs,
    "ai": vod.ai_outputs,
    "upload": vod.upload_outputs,
}
# Where the kind does not say enough.
_OUTPUTS_OF_TYPE: Mapping[str, Callable[[Fields], tuple[Frozen, ...]]] = {
    "CreateAuditComplete": vod.manual_review_outputs,
    "DeleteMediaComplete": vod.asset_outputs("delete"),
    "MediaBaseChangeComplete": vod.asset_outputs(None),
    "UpdateMediaStorageClassComplete": vod.asset_outputs("archive"),
    "RestoreMediaComplete": vod.asset_outputs("restore"),
    "SubmitMediaRefreshComplete": vod.asset_outputs(None),
}


def parse(message: Message) -> Parsed:
    """
    Read one notification.

    Raises:
        Unparseable: Not an IMS message.
    """
    fields = read_object(message.payload)
    event_type = fields.text("EventType")
    if event_type is None:
        raise Unparseable("expected an IMS message with EventType, found none")
    body = fields.object("MessageBody")
    if body is None:
        raise Unparseable('expected MessageBody, found none: is this source registered with VOD (product = "vod")?')
    job_id = _first(body, *_JOB.get(event_type, _ANY_JOB))
    media_id = body.text("MediaId", "VideoId", "ImageId", "AttachedMediaId")
    event_time = fields.text("EventTime")
    word = _first(body, "Status", "State")
    kind = KINDS.get(event_type) or ("ai" if vod.is_ai_event(event_type) else "notice")
    outcome = read_outcome(word, missing="succeeded" if kind == "upload" else "unknown")

    if job_id is not None:
        identity: tuple[str, ...] = (job_id,)
        if event_type in _KEY_WITH_BODY:
            identity = (job_id, body.digest())
        elif event_type == "SubmitMediaRefreshComplete":
            identity = (job_id, media_id or "")  # one job refreshes up to twenty assets
    elif media_id is not None:
        identity = (media_id, event_time or "")
    else:
        identity = (fields.digest(),)
    if outcome == "progress" or event_type == "LiveRecordTaskStatus":
        # Progress: each state is told once, and the completion keeps its own identity.
        kind, identity = "notice", (*identity, (word or "").lower(), event_time or "")
    final = "received" if kind == "notice" or outcome == "progress" else outcome
    read_outputs = _OUTPUTS_OF_TYPE.get(event_type) or _OUTPUTS.get(kind)

    completion = Completion(
        family=event_type,
        id=identity,
        kind=kind,
        outcome=final,
        vendor_event=event_type,
        job_id=job_id,
        media_id=media_id,
        outputs=read_outputs(body) if read_outputs and has_outputs(final) else (),
        error=read_error(
            body, final, code=("ErrorCode", "Code"), message=("ErrorMessage", "Message"), retryable=_RETRYABLE
        ),
        user_data=body.verbatim("UserData"),
        occurred_at=fields.time("EventTime"),
    )
    return Parsed((completion,), fields.warnings)


def _first(body: Fields, *names: str) -> str | None:
    """The first of these names in the body, else the same names one level down, in that order."""
    found = body.text(*names)
    if found is None:
        # What the submitter wrote says nothing about the job.
        for nested in body.nested(without="UserData"):
            found = nested.text(*names)
            if found is not None:
                break
    return found
