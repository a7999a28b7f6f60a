"""
ApsaraVideo VOD (2017-03-21): what became of a job.

Animated images are asked about by their asset, because no action takes their job id: ListDynamicImage lists the images
that were made, and a failure never shows up anywhere. Streams and tasks are asked about with GetTranscodeTask, uploads
by URL with GetURLUploadInfos, and everything else with GetJobDetail, which knows the state and neither results nor
error codes. What a job has found or made, others tell: of an AI job ListAIJob and GetAIMediaAuditJob by its id, else
those that tell the last result of an asset; of a snapshot job ListSnapshots, as long as it is the asset's last one.

Source: the pages of the actions below https://www.alibabacloud.com/help/en/vod/developer-reference/ (ListAIJob:
.../api-vod-2017-03-21-listaijob); names of fields as in the SDK alibabacloud_vod20170321 3.12.1.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from media_callbacks.aliyun.calls import ApiRequest, CallApi
from media_callbacks.healing.queries import replies
from media_callbacks.healing.queries.base import Family, JobAnswer
from media_callbacks.healing.queries.replies import Json, Read
from media_callbacks.model.errors import Unparseable, VendorRefused, VendorUnavailable
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import Outcome
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.sources.products import vod
from media_callbacks.sources.products.outcomes import has_outputs, read_outcome
from media_callbacks.sources.products.vod_outputs import is_sort_of_job
from media_callbacks.sources.reading.fields import Fields, read_object

FAMILIES: Mapping[str, Family] = {
    "animated_image": Family(kind="animated_image", needs_media_id=True),
    "snapshot": Family(kind="snapshot"),
    "transcode": Family(kind="transcode", batch=replies.BATCH),
    "transcode_task": Family(kind="transcode_task"),
    "WorkflowTaskComplete": Family(kind="workflow"),
    "AIMediaAuditComplete": Family(kind="review"),
    "AIVideoCensorComplete": Family(kind="review"),
    "AIMediaDNAComplete": Family(kind="fingerprint"),
    "AIVideoTagComplete": Family(kind="ai"),
    "UploadByURLComplete": Family(kind="upload", batch=replies.BATCH),
    "ProduceMediaComplete": Family(kind="production", batch=0),
}

# Messages about an asset, which name no job.
ASSET_FAMILIES: Mapping[str, Family] = {
    "FileUploadComplete": Family(kind="upload", needs_media_id=True, is_of_asset=True),
    "VideoAnalysisComplete": Family(kind="media_info", needs_media_id=True, is_of_asset=True),
}

# JobType of GetJobDetail, and the member of its reply; AI unless the family is listed.
_DETAILS: Mapping[str, tuple[str, str]] = {
    "snapshot": ("snapshot", "SnapshotJobDetail"),
    "WorkflowTaskComplete": ("workflow", "WorkflowTaskDetail"),
}
_AI_DETAIL = ("ai", "AIJobDetail")


def _query(action: str, **parameters: str) -> ApiRequest:
    return ApiRequest(api="vod", action=action, version="2017-03-21", parameters=parameters)


def _about_one(action: str, name: str, **parameters: str) -> Callable[[Sequence[str]], ApiRequest]:
    return lambda job_ids: _query(action, **{name: job_ids[0]}, **parameters)


async def ask(references: Sequence[JobReference], call: CallApi) -> Sequence[JobAnswer]:
    """See ``healing.queries.base.Ask``."""
    family = references[0].family
    if family in ASSET_FAMILIES:
        return [await _ask_asset(reference, call) for reference in references]
    if family not in FAMILIES or FAMILIES[family].batch == 0:
        return [JobAnswer(state="unlearnable", detail=f"VOD has no query for {family}") for _ in references]
    if family == "animated_image":
        return [await _ask_animated_image(reference, call) for reference in references]
    if family == "transcode":
        answers = await replies.ask_all(
            references, call, lambda ids: _query("GetTranscodeTask", JobIds=",".join(ids)), _read_transcode_job
        )
        return [await _add_asset(answer, one, call) for answer, one in zip(answers, references, strict=True)]
    if family == "UploadByURLComplete":
        return await replies.ask_all(
            references, call, lambda ids: _query("GetURLUploadInfos", JobIds=",".join(ids)), _read_upload
        )
    if family == "transcode_task":
        query = _about_one("GetTranscodeTask", "TranscodeTaskId")
        read: Read = _read_transcode_task
    else:
        job_type, member = _DETAILS.get(family, _AI_DETAIL)
        query, read = _about_one("GetJobDetail", "JobId", JobType=job_type), partial(_read_detail, member)
    answers = [answer for reference in references for answer in await replies.ask_all([reference], call, query, read)]
    return [await _add_result(answer, one, call) for answer, one in zip(answers, references, strict=True)]


async def _ask_animated_image(reference: JobReference, call: CallApi) -> JobAnswer:
    if not reference.media_id or not reference.job_id:
        return JobAnswer(state="unlearnable", detail="VOD lists animated images by media id, and both ids are needed")
    try:
        reply = await call(_query("ListDynamicImage", VideoId=reference.media_id))
    except VendorRefused as error:
        return replies.refusal(error)
    images = replies.find_objects(reply, "DynamicImageList", "DynamicImage")
    # The id of the asset is that of the question, as the list is of one asset.
    if (image := replies.find_listed(images, reference, "JobId")) is not None:
        return replies.end(image, replies.build_meta("ListDynamicImage", reference), parse)
    return JobAnswer(
        state="unlearnable", detail=f"not among the {len(images)} animated images of its asset; VOD lists no failures"
    )


async def _ask_asset(reference: JobReference, call: CallApi) -> JobAnswer:
    if not reference.media_id:
        return JobAnswer(state="unlearnable", detail="the query needs the media id")
    try:
        reply = await call(_query("GetMezzanineInfo", VideoId=reference.media_id, OutputType="oss"))
    except VendorRefused as error:
        return replies.refusal(error)
    file = replies.find_object(reply, "Mezzanine")
    if file is None:
        return replies.not_there("Mezzanine")
    fields = Fields(file)
    word = _file_word(fields)
    if (other := replies.other_job(reference.media_id, fields.text("VideoId"))) is not None:
        return other
    if word is None:
        # It may be uploaded anew, or deleted already: nothing to wait for.
        state = fields.text("Status")
        return JobAnswer(
            state="unlearnable", detail=f"its file is {replies.clip(state)}" if state else "the reply has no state"
        )
    return replies.end(file, replies.build_meta("GetMezzanineInfo", reference), parse)


def _file_word(file: Fields) -> str | None:
    return {"normal": "success", "uploadfail": "fail"}.get((file.text("Status") or "").lower())


def _read_transcode_job(reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
    job = replies.find_listed(
        replies.find_objects(reply, "TranscodeJobInfoList", "TranscodeJobInfo"), reference, "TranscodeJobId"
    )
    if job is None:
        return replies.not_listed(reply, "NonExistJobIds", reference)
    word = Fields(job).text("TranscodeJobStatus")
    return replies.judge_state(word) or replies.end(job, replies.build_meta("GetTranscodeTask", reference), parse)


async def _add_asset(answer: JobAnswer, reference: JobReference, call: CallApi) -> JobAnswer:
    """GetTranscodeTask does not say of a job which asset it was about."""
    if answer.state != "ended" or reference.media_id or not reference.job_id:
        return answer
    try:
        reply = await call(_query("GetJobDetail", JobId=reference.job_id, JobType="transcode"))
    except VendorUnavailable:
        return replace(answer, lacks_result=True)
    except VendorRefused:
        return answer
    detail = Fields(replies.find_object(reply, "TranscodeJobDetail") or {})
    asset = detail.text("VideoId")
    if asset is None or replies.other_job(reference.job_id, detail.text("JobId")) is not None:
        return answer
    return replies.end({**json.loads(answer.body), "VideoId": asset}, answer.meta, parse)


def _read_upload(reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
    upload = replies.find_listed(replies.find_objects(reply, "URLUploadInfoList", "URLUploadInfo"), reference, "JobId")
    if upload is None:
        return replies.not_listed(reply, "NonExists", reference)
    return replies.judge_state(_upload_word(Fields(upload))) or replies.end(
        upload, replies.build_meta("GetURLUploadInfos", reference), parse
    )


def _upload_word(upload: Fields) -> str | None:
    """Of many words SUCCESS alone means that all is done; there are DOWNLOAD_FAIL, UPLOAD_FAIL and FAIL."""
    word = upload.text("Status")
    if word is None or word.lower() == "success":
        return word
    return "fail" if word.lower().endswith("fail") else "processing"


def _read_transcode_task(reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
    task = replies.find_object(reply, "TranscodeTask")
    if task is None:
        return replies.not_there("TranscodeTask")
    fields = Fields(task)
    word = fields.text("TaskStatus")
    return (
        replies.other_job(reference.job_id or "", fields.text("TranscodeTaskId"))
        or _judge_task_state(word, fields)
        or replies.end(task, replies.build_meta("GetTranscodeTask", reference), parse)
    )


def _judge_task_state(word: str | None, task: Fields) -> JobAnswer | None:
    """
    None when the task and all its jobs ended. The words are CompleteAllSucc, CompleteAllFail and CompletePartialSucc;
    one page says CompleteAllSucces, one sample CompeleteAllSucc.
    """
    if word is None:
        return JobAnswer(state="pending", detail="the reply has no state")
    if word.lower() in ("processing", "partial"):
        return JobAnswer(state="pending")
    if not word.lower().startswith(("complete", "compelete")):
        return JobAnswer(state="pending", detail=f"{replies.clip(word)} is not a known state")
    for job in task.objects("TranscodeJobInfoList"):
        if replies.judge_state(job.text("TranscodeJobStatus")) is not None:
            return JobAnswer(state="pending", detail=f"{replies.clip(word)}, but one of its jobs has not ended")
    return None


def _read_detail(member: str, reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
    detail = replies.find_object(reply, member)
    if detail is None:
        return replies.not_there(member)
    fields = Fields(detail)
    word = fields.text("JobType")
    if member == _AI_DETAIL[1] and f"{word}Complete" in FAMILIES and f"{word}Complete" != reference.family:
        return JobAnswer(state="not_found", detail=f"the job with this id is of another type, {word}")
    return (
        replies.other_job(reference.job_id or "", fields.text("JobId", "TaskId"))
        or replies.judge_state(_detail_word(fields))
        or replies.end(detail, replies.build_meta("GetJobDetail", reference), parse)
    )


def _detail_word(detail: Fields) -> str | None:
    # A workflow that was skipped did nothing, and nothing will come of it.
    word = detail.text("Status")
    return "Canceled" if word is not None and word.lower() == "skip" else word


# What GetJobDetail does not tell


@dataclass(frozen=True, slots=True)
class _Result:
    """
    An action that tells the result of an AI job.

    Attributes:
        parameter: What it is asked by: the job, or the asset, whose last result it tells.
        read: The members of the callback that the reply has for this job, or None.
    """

    action: str
    parameter: str
    read: Callable[[Mapping[str, Any], str], Json | None]

    @property
    def is_of_job(self) -> bool:
        return self.parameter.startswith("JobId")


def _listed_job(reply: Mapping[str, Any], job_id: str) -> Json | None:
    jobs = [Fields(job) for job in replies.find_objects(reply, "AIJobList", "AIJob")]
    return next((_job_result(job) for job in jobs if job.text("JobId") == job_id), None)


def _audit_job(reply: Mapping[str, Any], job_id: str) -> Json | None:
    job = Fields(replies.find_object(reply, "MediaAuditJob") or {})
    return _job_result(job) if job.text("JobId") == job_id else None


def _job_result(job: Fields) -> Json | None:
    names = ("Data", "Code", "Message")
    members = {name: job.value(name) for name in names if job.value(name) not in (None, "")}
    return members if replies.judge_state(job.text("Status")) is None and members else None


def _asset_result(member: str, reply: Mapping[str, Any], _: str) -> Json | None:
    result = replies.find_object(reply, member)
    return {"Data": result} if result else None


_AUDIT_OF_ASSET = _Result("GetMediaAuditResult", "MediaId", partial(_asset_result, "MediaAuditResult"))
_AI_JOB = _Result("ListAIJob", "JobIds", _listed_job)
# In this order, until one tells something.
_RESULTS: Mapping[str, tuple[_Result, ...]] = {
    "AIMediaAuditComplete": (_Result("GetAIMediaAuditJob", "JobId", _audit_job), _AUDIT_OF_ASSET),
    "AIVideoCensorComplete": (_AUDIT_OF_ASSET,),
    "AIMediaDNAComplete": (_AI_JOB, _Result("GetMediaDNAResult", "MediaId", partial(_asset_result, "DNAResult"))),
    "AIVideoTagComplete": (
        _AI_JOB,
        _Result("GetAIVideoTagResult", "MediaId", partial(_asset_result, "VideoTagResult")),
    ),
}
_SPRITES = ("SpriteSnapshot", "SpriteOriginSnapshot", "WebVttSnapshot")
_PICTURES = ("NormalSnapshot", "CoverSnapshot")


async def _add_result(answer: JobAnswer, reference: JobReference, call: CallApi) -> JobAnswer:
    """Without the right to ask for it the event has none; that it never comes would be worse."""
    if answer.state != "ended" or reference.family not in ("snapshot", *_RESULTS):
        return answer
    part: Json = json.loads(answer.body)
    try:
        if reference.family == "snapshot":
            result = await _find_snapshots(Fields(part), reference.job_id or "", call)
        else:
            result = await _find_result(Fields(part), reference, call)
    except VendorUnavailable:
        return replace(answer, lacks_result=True)
    return replies.end({**part, "Result": result}, answer.meta, parse) if result else answer


async def _find_result(detail: Fields, reference: JobReference, call: CallApi) -> Json | None:
    made_something = has_outputs(_outcome(detail))
    for result in _RESULTS[reference.family]:
        # The asset as the vendor names it: that of the message may be a lie.
        asked = reference.job_id if result.is_of_job else detail.text("MediaId")
        if asked is None or not (made_something or result.is_of_job):
            continue
        try:
            reply = await call(_query(result.action, **{result.parameter: asked}))
        except VendorRefused:
            continue
        found = result.read(reply, reference.job_id or "")
        if found is not None:
            return found
    return None


async def _find_snapshots(detail: Fields, job_id: str, call: CallApi) -> Json | None:
    """The series that a job has left, as the elements of the callback."""
    asset = detail.text("VideoId")
    if asset is None or not has_outputs(_outcome(detail)):
        return None
    infos = []
    is_sprite = bool(detail.decoded("SpriteConfig"))
    for snapshot_type in _SPRITES if is_sprite else _PICTURES:
        # The series is described in full beside the pictures, of which one is enough.
        try:
            reply = await call(_query("ListSnapshots", VideoId=asset, SnapshotType=snapshot_type, PageSize="1"))
        except VendorRefused:
            continue
        series = Fields(replies.find_object(reply, "MediaSnapshot") or {})
        if series.text("JobId") != job_id:
            continue
        infos.append(
            {
                "SnapshotType": snapshot_type,
                "SnapshotCount": series.value("Total"),
                "SnapshotRegular": series.value("Regular"),
            }
        )
        if not is_sprite:
            break
    return {"SnapshotInfos": infos} if infos else None


def _outcome(detail: Fields) -> Outcome:
    outcome = read_outcome(_detail_word(detail))
    return "unknown" if outcome == "progress" else outcome


# Reading


def parse(message: Message) -> Parsed:
    """
    Read an answer's body.

    Raises:
        Unparseable: It is not about a job that ended.
    """
    part, family = read_object(message.payload), replies.required(message.meta, "family")
    media_id = message.meta.get("media_id")
    if family in ASSET_FAMILIES:
        callback = _file(part, family, replies.required(message.meta, "media_id"))
        return replies.read_as_callback(message, callback, vod.parse)
    job_id = replies.required(message.meta, "job_id")
    if family in _CALLBACKS:
        return replies.read_as_callback(message, _CALLBACKS[family](part, job_id, media_id), vod.parse)
    word = replies.check_ended(_detail_word(part))
    callback = {
        "EventType": "SnapshotComplete" if family == "snapshot" else family,
        "EventTime": part.text("CompleteTime", "FinishTime"),
        "Status": word,
    }
    asset = part.text("VideoId", "MediaId") or media_id
    result = part.object("Result")
    if family == "snapshot":
        infos = replies.find_objects(result, "SnapshotInfos", "") if result else []
        own = {"JobId": job_id, "Status": word}
        if not any(is_sort_of_job(Fields(info).text("SnapshotType")) for info in infos):
            # The job ended, whatever of its pictures is listed.
            infos = [{}, *infos]
        callback |= {"VideoId": asset, "SnapshotInfos": [{**info, **own} for info in infos]}
        return replies.read_as_callback(message, callback, vod.parse, _drop_empty_outputs)
    if family == "WorkflowTaskComplete":
        callback |= {
            "TaskId": job_id,
            "VideoId": _workflow_asset(part) or asset,
            "ActivityResults": part.value("ActivityResults"),
            "Extend": _extend(part),
        }
    elif family in FAMILIES:
        callback |= {"JobId": job_id, "MediaId": asset}
        if result is not None:
            callback |= {name: result.value(name) for name in ("Data", "Code", "Message")}
    else:
        raise Unparseable(f"expected a family that VOD is asked about, found {replies.clip(family)}")
    return replies.read_as_callback(message, callback, vod.parse)


def _drop_empty_outputs(completion: Completion) -> None:
    # The detail alone has no URLs, and an output without anything in it helps nobody.
    completion.outputs = tuple(one for one in completion.outputs if any(value for value in dict(one).values()))


def _animated_image(image: Fields, job_id: str, media_id: str | None) -> Json:
    names = ("JobId", "FileURL", "Format", "FileSize", "Fps", "Width", "Height")
    return {
        "EventType": "DynamicImageComplete",
        "EventTime": image.text("CreationTime"),
        "VideoId": image.text("VideoId") or media_id,
        "JobId": job_id,
        "Status": "success",
        "DynamicImageJobInfo": {name: image.value(name) for name in names},
    }


def _file(file: Fields, family: str, media_id: str) -> Json:
    """
    Raises:
        Unparseable: It is not there.
    """
    word = _file_word(file)
    if word is None:
        raise Unparseable("expected a file that is there, or could not be uploaded, found another")
    url = file.text("FileURL")
    names = ("Size", "Width", "Height", "Duration", "Fps", "Bitrate")
    return {
        "EventType": family,
        "VideoId": media_id,
        "Status": word,
        # It is signed for a while; the message has it as it is.
        "FileUrl": url.partition("?")[0] if url else None,
        **{name: file.value(name) for name in names},
        "EventTime": file.text("CreationTime"),
    }


def _upload(upload: Fields, job_id: str, _: str | None) -> Json:
    return {
        "EventType": "UploadByURLComplete",
        "EventTime": upload.text("CompleteTime"),
        "JobId": job_id,
        "VideoId": upload.text("MediaId"),
        "Status": replies.check_ended(_upload_word(upload)),
        "SourceURL": upload.text("UploadURL"),
        "Size": upload.value("FileSize"),
        "ErrorCode": upload.text("ErrorCode"),
        "ErrorMessage": upload.text("ErrorMessage"),
        "Extend": _extend(upload),
    }


def _transcode(job: Fields, _: str, media_id: str | None) -> Json:
    return {
        "EventType": "StreamTranscodeComplete",
        "EventTime": job.text("CompleteTime"),
        "VideoId": job.text("VideoId") or media_id,
        **_stream(job),
    }


def _stream(job: Fields) -> Json:
    """
    Raises:
        Unparseable: The job has not ended.
    """
    stream: Json = {
        "JobId": job.text("TranscodeJobId"),
        "Status": replies.check_ended(job.text("TranscodeJobStatus")),
        "Definition": job.text("Definition"),
        "ErrorCode": job.text("ErrorCode"),
        "ErrorMessage": job.text("ErrorMessage"),
    }
    output = job.object("OutputFile")
    if output is not None:
        stream |= {name: output.value(name) for name in ("Format", "Bitrate", "Duration", "Fps", "Width", "Height")}
        stream |= {"FileUrl": output.text("OutputFileUrl"), "Size": output.value("Filesize")}
        stream["Encrypt"] = output.text("Encryption") is not None
    return stream


def _task(task: Fields, job_id: str, media_id: str | None) -> Json:
    word = task.text("TaskStatus")
    if word is None or _judge_task_state(word, task) is not None:
        raise Unparseable("expected a transcode task that ended, found one that has not")
    return {
        "EventType": "TranscodeComplete",
        # Without any job (an unusable source starts none) the callback is identified by its time.
        "EventTime": task.text("CompleteTime") or job_id,
        "VideoId": task.text("VideoId") or media_id,
        # Only looked at when there are no jobs.
        "Status": "fail" if word.lower().endswith("fail") else "success",
        "StreamInfos": [_stream(job) for job in task.objects("TranscodeJobInfoList")],
    }


_CALLBACKS: Mapping[str, Callable[[Fields, str, str | None], Json]] = {
    "animated_image": _animated_image,
    "transcode": _transcode,
    "transcode_task": _task,
    "UploadByURLComplete": _upload,
}


def _workflow_asset(task: Fields) -> str | None:
    source = task.object("TaskInput")
    return source.text("Media") if source is not None and source.text("Type") == "Media" else None


def _extend(part: Fields) -> str | None:
    """
    What the callback calls Extend: a member of the UserData that was given at submit, else all of it, unless that is
    settings of the vendor, whose callback URL may be a secret.
    """
    value = part.decoded("UserData")
    settings = Fields(value if isinstance(value, dict) else {})
    if "Extend" in settings:
        return settings.verbatim("Extend")
    return None if "MessageCallback" in settings else part.verbatim("UserData")
