"""
ApsaraVideo VOD (2017-03-21): what became of a job.

Animated images are asked about by their asset, because no action takes their job id: ListDynamicImage lists the images
that were made, and a failure never shows up anywhere. Streams and tasks are asked about with GetTranscodeTask, and
everything else with GetJobDetail, which knows the state and neither URLs nor error codes.

Source: ListDynamicImage, GetTranscodeTask, GetJobDetail, https://www.alibabacloud.com/help/en/vod/developer-reference/;
names of fields as in the SDK alibabacloud_vod20170321 3.12.1.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from service.errors import Unparseable, VendorRefused
from service.jobs import JobReference
from service.queries.base import Answer, Call, Family, Query
from service.queries.replies import (
    BATCH,
    Json,
    Read,
    ask_all,
    build_meta,
    check_ended,
    clip,
    end,
    find_object,
    find_objects,
    find_texts,
    judge_state,
    other_job,
    read_as_callback,
    read_part,
    refusal,
    required,
)
from service.sources import vod
from service.sources.base import Completion, Message, Parsed
from service.sources.fields import Fields

FAMILIES: Mapping[str, Family] = {
    "animated_image": Family(kind="animated_image", needs_media_id=True),
    "snapshot": Family(kind="snapshot"),
    "transcode": Family(kind="transcode", batch=BATCH),
    "transcode_task": Family(kind="transcode_task"),
    "WorkflowTaskComplete": Family(kind="workflow"),
    "AIMediaAuditComplete": Family(kind="review"),
    "AIVideoCensorComplete": Family(kind="review"),
    "AIMediaDNAComplete": Family(kind="fingerprint"),
    "AIVideoTagComplete": Family(kind="ai"),
    "UploadByURLComplete": Family(kind="upload", batch=0),
    "ProduceMediaComplete": Family(kind="production", batch=0),
}

# JobType of GetJobDetail, and the member of its reply; AI unless the family is listed.
_DETAILS: Mapping[str, tuple[str, str]] = {
    "snapshot": ("snapshot", "SnapshotJobDetail"),
    "WorkflowTaskComplete": ("workflow", "WorkflowTaskDetail"),
}
_AI_DETAIL = ("ai", "AIJobDetail")


def _query(action: str, **parameters: str) -> Query:
    return Query(api="vod", action=action, version="2017-03-21", parameters=parameters)


def _about_one(action: str, name: str, **parameters: str) -> Callable[[Sequence[str]], Query]:
    return lambda job_ids: _query(action, **{name: job_ids[0]}, **parameters)


async def ask(references: Sequence[JobReference], call: Call) -> Sequence[Answer]:
    """See ``queries.base.Ask``."""
    family = references[0].family
    if family not in FAMILIES or FAMILIES[family].batch == 0:
        return [Answer(state="unlearnable", detail=f"VOD has no query for {family}") for _ in references]
    if family == "animated_image":
        return [await _ask_animated_image(reference, call) for reference in references]
    if family == "transcode":
        return await ask_all(
            references, call, lambda ids: _query("GetTranscodeTask", JobIds=",".join(ids)), _read_transcode_job
        )
    if family == "transcode_task":
        query = _about_one("GetTranscodeTask", "TranscodeTaskId")
        read: Read = _read_transcode_task
    else:
        job_type, member = _DETAILS.get(family, _AI_DETAIL)
        query, read = _about_one("GetJobDetail", "JobId", JobType=job_type), partial(_read_detail, member)
    return [answer for reference in references for answer in await ask_all([reference], call, query, read)]


async def _ask_animated_image(reference: JobReference, call: Call) -> Answer:
    if not reference.media_id or not reference.job_id:
        return Answer(state="unlearnable", detail="VOD lists animated images by media id, and both ids are needed")
    try:
        reply = await call(_query("ListDynamicImage", VideoId=reference.media_id))
    except VendorRefused as error:
        refused = refusal(error)
        if refused is None:
            raise
        return refused
    images = find_objects(reply, "DynamicImageList", "DynamicImage")
    for image in images:
        if Fields(image).text("JobId") == reference.job_id:
            return end(image, build_meta("ListDynamicImage", reference), parse)
    return Answer(
        state="unlearnable", detail=f"not among the {len(images)} animated images of its asset; VOD lists no failures"
    )


def _read_transcode_job(reply: Mapping[str, Any], reference: JobReference) -> Answer:
    for job in find_objects(reply, "TranscodeJobInfoList", "TranscodeJobInfo"):
        fields = Fields(job)
        if fields.text("TranscodeJobId") == reference.job_id:
            return judge_state(fields.text("TranscodeJobStatus")) or end(
                job, build_meta("GetTranscodeTask", reference), parse
            )
    if reference.job_id in find_texts(reply, "NonExistJobIds"):
        return Answer(state="not_found")
    return Answer(state="not_found", detail="the reply does not mention it")


def _read_transcode_task(reply: Mapping[str, Any], reference: JobReference) -> Answer:
    task = find_object(reply, "TranscodeTask")
    if task is None:
        return Answer(state="not_found", detail="the reply has no TranscodeTask")
    fields = Fields(task)
    word = fields.text("TaskStatus")
    return (
        other_job(reference.job_id or "", fields.text("TranscodeTaskId"))
        or _judge_task_state(word, fields)
        or end(task, build_meta("GetTranscodeTask", reference), parse)
    )


def _judge_task_state(word: str | None, task: Fields) -> Answer | None:
    """
    None when the task and all its jobs ended. The words are CompleteAllSucc, CompleteAllFail and CompletePartialSucc;
    one page says CompleteAllSucces, one sample CompeleteAllSucc.
    """
    if word is None:
        return Answer(state="pending", detail="the reply has no state")
    if word.lower() in ("processing", "partial"):
        return Answer(state="pending")
    if not word.lower().startswith(("complete", "compelete")):
        return Answer(state="pending", detail=f"{clip(word)} is not a known state")
    for job in task.objects("TranscodeJobInfoList"):
        if judge_state(job.text("TranscodeJobStatus")) is not None:
            return Answer(state="pending", detail=f"{clip(word)}, but one of its jobs has not ended")
    return None


def _read_detail(member: str, reply: Mapping[str, Any], reference: JobReference) -> Answer:
    detail = find_object(reply, member)
    if detail is None:
        return Answer(state="not_found", detail=f"the reply has no {member}")
    fields = Fields(detail)
    return (
        other_job(reference.job_id or "", fields.text("JobId", "TaskId"))
        or judge_state(_detail_word(fields))
        or end(detail, build_meta("GetJobDetail", reference), parse)
    )


def _detail_word(detail: Fields) -> str | None:
    # A workflow that was skipped did nothing, and nothing will come of it.
    word = detail.text("Status")
    return "Canceled" if word is not None and word.lower() == "skip" else word


# Reading


def parse(message: Message) -> Parsed:
    """
    Read an answer's body.

    Raises:
        Unparseable: It is not about a job that ended.
    """
    part, family, job_id = read_part(message), required(message.meta, "family"), required(message.meta, "job_id")
    media_id = message.meta.get("media_id")
    if family == "animated_image":
        return read_as_callback(message, _animated_image(part, job_id, media_id), vod.parse)
    if family == "transcode":
        stream = {"EventType": "StreamTranscodeComplete", "VideoId": media_id, **_stream(part)}
        return read_as_callback(message, stream | {"EventTime": part.text("CompleteTime")}, vod.parse)
    if family == "transcode_task":
        return read_as_callback(message, _task(part, job_id, media_id), vod.parse)
    word = check_ended(_detail_word(part))
    callback: Json = {
        "EventType": "SnapshotComplete" if family == "snapshot" else family,
        "EventTime": part.text("CompleteTime", "FinishTime"),
        "Status": word,
    }
    asset = part.text("VideoId", "MediaId") or media_id
    if family == "snapshot":
        callback |= {"VideoId": asset, "SnapshotInfos": [{"JobId": job_id, "Status": word}]}
        return read_as_callback(message, callback, vod.parse, _drop_outputs)
    if family == "WorkflowTaskComplete":
        callback |= {
            "TaskId": job_id,
            "VideoId": _workflow_asset(part) or asset,
            "ActivityResults": part.value("ActivityResults"),
            "Extend": _extend(part),
        }
    elif family in FAMILIES:
        callback |= {"JobId": job_id, "MediaId": asset}
    else:
        raise Unparseable(f"expected a family that VOD is asked about, found {clip(family)}")
    return read_as_callback(message, callback, vod.parse)


def _drop_outputs(completion: Completion) -> None:
    # The detail has no URLs, and an output without anything in it helps nobody.
    completion.outputs = ()


def _animated_image(image: Fields, job_id: str, media_id: str | None) -> Json:
    names = ("JobId", "FileURL", "Format", "FileSize", "Fps", "Width", "Height")
    return {
        "EventType": "DynamicImageComplete",
        "EventTime": image.text("CreationTime"),
        "VideoId": media_id or image.text("VideoId"),
        "JobId": job_id,
        "Status": "success",
        "DynamicImageJobInfo": {name: image.value(name) for name in names},
    }


def _stream(job: Fields) -> Json:
    """
    Raises:
        Unparseable: The job has not ended.
    """
    stream: Json = {
        "JobId": job.text("TranscodeJobId"),
        "Status": check_ended(job.text("TranscodeJobStatus")),
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


def _workflow_asset(task: Fields) -> str | None:
    source = task.object("TaskInput")
    return source.text("Media") if source is not None and source.text("Type") == "Media" else None


def _extend(part: Fields) -> str | None:
    """What the callback calls Extend: a member of the UserData that was given at submit, else all of it."""
    value = part.decoded("UserData")
    if isinstance(value, dict) and "Extend" in (settings := Fields(value)):
        return settings.verbatim("Extend")
    return part.verbatim("UserData")
