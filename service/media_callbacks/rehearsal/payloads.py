"""
What the vendor says: a message of every type of every product, of a job that succeeded and of one that failed.

The shapes are the documented ones, oddities included: numbers as text, milliseconds after a colon, keys with a blank
at their end, JSON inside strings, both spellings of every key in MTS. Where no body is documented (most of IMS, the
callback of CreateGifTask) the message is made up from what the product's job API calls its fields.

Every message can be made to fail, also those of which the vendor announces successes alone (uploads other than by
URL, CreateAudit, MediaBaseChange, live recordings): they have a status, so a consumer may want to see it. The start
markers and progress reports of ``WITHOUT_FAILURE`` stay as they are.

Sources: those of ``sources``.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

Json = dict[str, Any]

Build = Callable[[str, datetime, bool], Json]
"""A payload, from the job id, the time, and whether the job failed."""

WITHOUT_FAILURE = frozenset({"LiveRecordVideoComposeStart", "LiveRecordTaskStatus", "Start"})


@dataclass(frozen=True, slots=True)
class _Job:
    """What a message is about. Everything in it that is an id is derived from the job id."""

    id: str
    now: datetime

    @property
    def time(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def colon_time(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%S:") + f"{self.now.microsecond // 1000:03d}Z"

    @property
    def media_id(self) -> str:
        return self.other_id("media")

    def other_id(self, name: str) -> str:
        return hashlib.sha256(f"{name}:{self.id}".encode()).hexdigest()[:32]

    def url(self, suffix: str, scheme: str = "http") -> str:
        return f"{scheme}://media.example.com/{self.id}{suffix}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_Members = Callable[[_Job], Json]


def _nothing(_: _Job) -> Json:
    return {}


_ERROR = ("InvalidParameter.ResourceContentBad", "The resource operated InputFile is bad")


@dataclass(frozen=True, slots=True)
class _Shape:
    """
    One type of message that VOD sends, and IMS under the same name.

    Attributes:
        members: What it has beside type, time, asset and status.
        success: What it has besides when the job succeeded.
        media: Under what name it has the id of the asset; None where only a success has one, among its members.
        words: Its status for success and failure.
        error: Code and text of a failure.
        is_ai: It says Code and Message, on success too; all others say ErrorCode and ErrorMessage, on failure.
    """

    members: _Members = _nothing
    success: _Members = _nothing
    media: str | None = "MediaId"
    words: tuple[str, str] = ("success", "fail")
    error: tuple[str, str] = _ERROR
    is_ai: bool = False

    def body(self, job: _Job, words: tuple[str, str], *, failed: bool) -> Json:
        code, message = self.error if failed else ("0", "OK")
        body: Json = {self.media: job.media_id} if self.media else {}
        body |= {"Status": words[failed], **self.members(job)}
        if self.is_ai:
            body |= {"Code": code, "Message": message}
        elif failed:
            body |= {"ErrorCode": code, "ErrorMessage": message}
        return body if failed else body | self.success(job)


def _job_id(job: _Job) -> Json:
    return {"JobId": job.id}


def _activities(job: _Job) -> str:
    result = {"Status": "Finished", "JobType": "VideoTranslation", "JobId": job.other_id("translation")}
    node = {"Status": "Succeed", "StartTime": job.time, "EndTime": job.time, "ActivityId": "VideoTranslation"}
    return _text({"VideoTranslation_1": node | {"ActivityInstanceId": job.other_id("activity"), "Result": result}})


def _ai(data: _Members) -> _Shape:
    return _Shape(_job_id, data, error=("InvalidVideo.NotFound", "The video does not exist."), is_ai=True)


def _live(**members: Callable[[_Job], str]) -> _Shape:
    stream = {"StreamName": "stream-1", "DomainName": "live.example.com", "AppName": "app-1"}
    return _Shape(lambda job: stream | {name: member(job) for name, member in members.items()}, media="VideoId")


_NO_OBJECT = ("NoSuchKey", "OSS bucket or object does not exist")

_SHAPES: Mapping[str, _Shape] = {
    "UploadByURLComplete": _Shape(
        lambda job: {"JobId": job.id, "SourceURL": job.url("-source.mp4")},
        lambda job: {"VideoId": job.media_id, "Size": "1439213"},
        media=None,
        error=("URLInvalidError", "download video failed by the url, please check it"),
    ),
    "ImageUploadComplete": _Shape(
        lambda job: {"EventTime": job.colon_time, "AppId": "app-1000000"},
        lambda job: {"Size": 105520, "FileURL": job.url(".jpg", "https")},
        media="ImageId",
    ),
    "AttachedMediaUploadComplete": _Shape(
        success=lambda job: {"Size": 14333, "FileURL": job.url(".png", "https")}, media="AttachedMediaId"
    ),
    "VideoAnalysisComplete": _Shape(
        success=lambda _: {
            "Width": "630",
            "Height": "360",
            "Duration": "12",
            "Fps": "30",
            "Bitrate": "499",
            "Size": "1234568",
        },
        media="VideoId",
    ),
    "AIMediaAuditComplete": _ai(
        lambda job: {
            "EventTime": job.colon_time,
            "Data": {
                "Suggestion": "review",
                "Label": "porn",
                "AbnormalModules": "video",
                "VideoResult": {
                    "Suggestion": "review",
                    "PornResult": {"MaxScore": "92.48", "CounterList": [{"Label": "sexy", "Count": 6}]},
                },
            },
        }
    ),
    "AIVideoCensorComplete": _ai(lambda _: {"Data": _text({"Suggestion": "pass", "Label": "normal"})}),
    "AIMediaDNAComplete": _ai(
        lambda job: {"Data": _text({"VideoDNA": [{"PrimaryKey": job.other_id("dna"), "Similarity": "0.99"}]})}
    ),
    "AIVideoTagComplete": _ai(lambda _: {"Data": _text({"Keyword": [{"Tag": "气垫", "Times": ["3260", "4000"]}]})}),
    "CreateAuditComplete": _Shape(
        lambda job: {
            "CreationTime": job.time,
            "SubType": "video",
            "AuditStatus": "Blocked",
            "Auditor": "author",
            "Reason": "Vulgar content",
        }
    ),
    "ProduceMediaComplete": _Shape(lambda job: {"ProjectId": job.other_id("project")}),
    "DeleteMediaComplete": _Shape(
        lambda _: {"MediaType": "video", "DeleteType": "all"},
        error=("InvalidVideo.NotFound", "The video does not exist."),
    ),
    "MediaBaseChangeComplete": _Shape(
        lambda job: {
            "MediaType": "video",
            "OperateMode": "update",
            "MediaContent": {
                "Title": _text({"OldValue": "old", "NewValue": "new"}),
                "CoverURL": _text({"NewValue": job.url(".png")}),
            },
        }
    ),
    "UpdateMediaStorageClassComplete": _Shape(
        lambda _: {"Scope": "All", "StorageClass": "Archive", "TriggerBy": "API"},
        words=("Success", "Failed"),
        error=_NO_OBJECT,
    ),
    "RestoreMediaComplete": _Shape(
        success=lambda job: {"RestoreExpiration": _Job(job.id, job.now + timedelta(days=7)).time},
        words=("Success", "Failed"),
        error=_NO_OBJECT,
    ),
    "SubmitMediaRefreshComplete": _Shape(
        lambda job: {"MediaRefreshJobId": job.id, "TaskType": "refresh"},
        lambda job: {
            "SuccessPlayUrls": f"{job.url('-1.mp4')},{job.url('-2.mp4')}",
            "TaskIds": "14604350001",
            "FilterPolicy": _text({"SliceFlag": False, "ResultType": "Single"}),
        },
        error=("InvalidVideo.NotFound", "The video does not exist."),
    ),
    "WorkflowTaskComplete": _Shape(
        lambda job: {
            "WorkflowId": job.other_id("workflow"),
            "TaskId": job.id,
            "ActivityResults": _activities(job),
            "TaskInput": _text({"Type": "Media", "Media": job.media_id, "Title": "title.mp4"}),
            "CreateTime": job.time,
            "ModifiedTime": job.time,
            "FinishTime": job.time,
            "UserId": "1234567890123456",
        },
        media="VideoId",
        words=("Succeed", "Failed"),
    ),
    "AddLiveRecordVideoComplete": _live(RecordStartTime=lambda job: job.time, RecordEndTime=lambda job: job.time),
    "LiveRecordVideoComposeStart": _live(),
    # From here on names that IMS alone documents, most of them without a body.
    "BatchProduceMediaComplete": _Shape(_job_id),
    "AIProduceComplete": _Shape(_job_id),
    "SmartJobComplete": _Shape(_job_id),
    "MediaAiAnalysisComplete": _Shape(_job_id, lambda _: {"Data": _text({"Label": ["beach"]})}),
    "RegisterMediaComplete": _Shape(),
    "UploadStreamByURLComplete": _Shape(lambda job: {"JobId": job.id, "SourceURL": job.url("-source.m3u8")}),
    "StreamUploadComplete": _Shape(),
    "RegisterStreamComplete": _Shape(),
    "LiveRecordFileCreated": _Shape(
        lambda job: {
            "JobId": job.id,
            "RecordId": job.other_id("record"),
            "FileUrl": job.url("-0.m3u8"),
            "Format": "m3u8",
        }
    ),
    "LiveSnapshotFileCreated": _Shape(
        lambda job: {"JobId": job.id, "FileUrl": job.url("-0001.jpg"), "CreateTime": job.time}
    ),
    "LiveRecordTaskStatus": _Shape(_job_id, words=("Running", "Running")),
}


# VOD: one flat object.


def _vod(event: str) -> Build:
    shape = _SHAPES[event]

    def build(job_id: str, now: datetime, failed: bool) -> Json:
        job = _Job(job_id, now)
        failed = failed and event not in WITHOUT_FAILURE
        return {"EventType": event, "EventTime": job.time, **shape.body(job, shape.words, failed=failed)}

    return build


def _vod_upload_by_url(job_id: str, now: datetime, failed: bool) -> Json:
    # The documented samples have blanks at the end of these keys.
    payload = _vod("UploadByURLComplete")(job_id, now, failed)
    return {f"{key} " if key in ("SourceURL", "ErrorCode", "ErrorMessage") else key: payload[key] for key in payload}


def _vod_message(event: str, job: _Job, **members: Any) -> Json:
    return {"EventType": event, "EventTime": job.time, "VideoId": job.media_id, **members}


def _vod_status(*, failed: bool) -> Json:
    if not failed:
        return {"Status": "success"}
    return {"Status": "fail", "ErrorCode": _ERROR[0], "ErrorMessage": _ERROR[1]}


def _vod_dynamic_image(job_id: str, now: datetime, failed: bool) -> Json:
    info = {
        "JobId": job_id,
        "Status": "success",
        "FileURL": f"http://media.example.com/image/dynamic/{job_id}.gif",
        "FileSize": "1834831",
        "Fps": "25",
        "Height": "200",
        "Width": "200",
    }
    payload = _vod_message("DynamicImageComplete", _Job(job_id, now), JobId=job_id, **_vod_status(failed=failed))
    return payload if failed else payload | {"DynamicImageJobInfo": info}


def _vod_snapshot(job_id: str, now: datetime, failed: bool) -> Json:
    status = _vod_status(failed=failed)
    payload = _vod_message("SnapshotComplete", _Job(job_id, now), SubType="SpecifiedTime", **status)
    if failed:
        return payload
    url = f"covers/{job_id}-{{SnapshotCount}}.jpg"
    return payload | {
        "CoverUrl": f"http://media.example.com/covers/{job_id}-00001.jpg",
        "SnapshotInfos": [
            {
                "Status": "success",
                "SnapshotType": "NormalSnapshot",
                "SnapshotCount": 3,
                "SnapshotFormat": url,
                "SnapshotRegular": f"http://media.example.com/{url}",
                "JobId": job_id,
            }
        ],
    }


def _vod_stream(job_id: str, *, failed: bool) -> Json:
    stream: Json = {"JobId": job_id, "Definition": "HD", "Format": "mp4", **_vod_status(failed=failed)}
    if failed:
        return stream
    return stream | {
        "Bitrate": "925",
        "Duration": 15.0,
        "Encrypt": False,
        "FileUrl": f"http://media.example.com/{job_id}.mp4",
        "Fps": "30",
        "Height": 720,
        "Width": 1280,
        "Size": 1815321,
    }


def _vod_stream_transcode(job_id: str, now: datetime, failed: bool) -> Json:
    return _vod_message("StreamTranscodeComplete", _Job(job_id, now), **_vod_stream(job_id, failed=failed))


def _vod_transcode(job_id: str, now: datetime, failed: bool) -> Json:
    status, stream = "fail" if failed else "success", _vod_stream(job_id, failed=failed)
    return _vod_message("TranscodeComplete", _Job(job_id, now), Status=status, StreamInfos=[stream])


def _vod_file_upload(job_id: str, now: datetime, failed: bool) -> Json:
    url = f"http://bucket.oss-cn-shanghai.aliyuncs.com/{job_id}.mp4"
    job = _Job(job_id, now)
    return _vod_message("FileUploadComplete", job, Size=1439213, FileUrl=url, **_vod_status(failed=failed))


# IMS: an envelope around a body.


_IMS_BODIES: Mapping[str, _Members] = {
    "DynamicImageComplete": _job_id,
    "SnapshotComplete": _job_id,
    "TranscodeComplete": _job_id,
    "MediaConvertComplete": _job_id,
    "ProduceMediaComplete": _job_id,
    "TranscodeParentComplete": lambda job: {"ParentJobId": job.id},
    "MediaConvertOutputComplete": lambda job: {"JobId": job.id, "TaskId": job.other_id("task"), "Name": "out-1"},
    "MediaConvertOutputGroupComplete": lambda job: {"JobId": job.id, "TaskId": job.other_id("task"), "Name": "group-1"},
    "FileUploadComplete": _job_id,
}
_IMS_WORDS: Mapping[str, tuple[str, str]] = {
    "BatchProduceMediaComplete": ("Finished", "Fail"),
    "WorkflowTaskComplete": ("Succeed", "Failed"),
    "MediaConvertOutputComplete": ("Complete", "Error"),
    "MediaConvertOutputGroupComplete": ("Complete", "Error"),
    "LiveRecordTaskStatus": ("Running", "Running"),
}
_IMS_ERROR = ("InvalidParameter", "The input is bad")


def _ims(event: str) -> Build:
    words = _IMS_WORDS.get(event, ("Success", "Fail"))

    def build_body(job: _Job, *, failed: bool) -> Json:
        if event not in _IMS_BODIES:
            # As VOD, whose bodies are documented; only what is about the asset's id and about time differs.
            body = replace(_SHAPES[event], error=_IMS_ERROR).body(job, words, failed=failed)
            body.pop("EventTime", None)
            if "VideoId" in body:
                body["MediaId"] = body.pop("VideoId")
            return body
        body = {**_IMS_BODIES[event](job), "MediaId": job.media_id, "Status": words[failed]}
        if failed:
            body |= {"ErrorCode": _IMS_ERROR[0], "ErrorMessage": _IMS_ERROR[1]}
        elif event == "ProduceMediaComplete":
            body |= {"MediaURL": job.url(".mp4", "https"), "ErrorCode": "", "ErrorMessage": ""}
        elif event == "FileUploadComplete":
            body |= {"FileUrl": job.url(".mp4"), "Size": "5510872", "MediaType": "video"}
            del body["JobId"]
        if event.startswith("MediaConvertOutput"):
            body["State"] = body.pop("Status")
        return body

    def build(job_id: str, now: datetime, failed: bool) -> Json:
        job = _Job(job_id, now)
        body = build_body(job, failed=failed and event not in WITHOUT_FAILURE)
        return {"EventType": event, "UserId": 1234567890123456, "EventTime": job.time, "MessageBody": body}

    return build


# MTS: jobs of a pipeline, flat; and runs of a workflow. They carry no time of their own.


def _mts(job_type: str) -> Build:
    def build(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001
        state = "Fail" if failed else "Success"
        payload: Json = {}
        for key, value in (("jobId", job_id), ("type", job_type), ("state", state), ("userData", "{}")):
            payload[key] = payload[key[0].upper() + key[1:]] = value
        if failed:
            payload |= {"code": _ERROR[0], "msg": "The input file is bad"}
        elif job_type == "Snapshot":
            pattern = f"http://media.example.com/{job_id}-{{Count}}.jpg"
            payload |= {"UrlPattern": pattern, "LastUrl": pattern.replace("{Count}", "00002")}
            payload |= {"Count": 2, "TimeArray": [1000, 2500]}
        return payload

    return build


def _mts_result(job_id: str, *, failed: bool, **members: Any) -> Json:
    """As the younger job families say it: capitals alone, the text of an error in ``Message``."""
    payload: Json = {"JobId": job_id, "State": "Fail" if failed else "Success"}
    return payload | ({"Code": _ERROR[0], "Message": "The input file is bad"} if failed else members)


def _mts_production(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001
    result = _mts_result(job_id, failed=failed, Code="Success", Message="success", Details=[])
    return {"Type": "IProduction", "FunctionName": "AudioMixing", "UserData": "{}", **result}


def _mts_text_to_speech(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001
    # Documented without type and state.
    result: Json = {"Code": "InvalidParameter.EmptyValue", "Message": "The text is empty"}
    if not failed:
        result = {"Code": "Success", "Message": "The job is completed successfully", "Data": {"result": []}}
    return {"jobId": job_id, "requestId": "91BC64BF-35B0-4DFC-9D52-000000000001", "result": _text(result)}


def _mts_smarttag(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001
    return {"Type": "smarttag", **_mts_result(job_id, failed=failed), "UserData": "{}"}


def _mts_nested(job_type: str, **members: Any) -> Build:
    def build(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001
        notify = {"Type": job_type, **_mts_result(job_id, failed=failed, **members)}
        return {"Type": job_type, f"{job_type}JobNotify": notify, "UserData": "{}"}

    return build


def _mts_workflow(activity: str) -> Build:
    def build(job_id: str, now: datetime, failed: bool) -> Json:
        job = _Job(job_id, now)

        def node(name: str, **fields: str) -> Json:
            times = {"StartTime": job.time, "EndTime": job.time}
            return {"RunId": job_id, "Name": f"Act-{name}", "Type": name, "State": "Success", **times, **fields}

        nodes = [node("Start", JobId=job.media_id)]
        if activity == "Report":
            nodes = [node("Report"), *nodes, node("Transcode", JobId=job.other_id("transcode"), Name="HD")]
            if failed:
                nodes[-1] |= {"State": "Fail", "Code": _ERROR[0], "Message": "bad input"}
        return {
            "RunId": job_id,
            "Name": f"Act-{activity}",
            "Type": activity,
            "State": "Success",
            "MediaWorkflowExecution": {
                "Name": "base",
                "RunId": job_id,
                "MediaId": job.media_id,
                "Input": {"InputFile": {"Bucket": "bucket", "Location": "oss-cn-beijing", "Object": "in.mp4"}},
                "State": "Completed" if activity == "Report" else "Running",
                "ActivityList": nodes,
                "CreationTime": job.time,
            },
        }

    return build


def _gif(job_id: str, now: datetime, failed: bool) -> Json:  # noqa: ARG001
    # Ids of its tasks are numbers.
    task_id = int(job_id) if job_id.isdecimal() else int(hashlib.sha256(job_id.encode()).hexdigest()[:8], 16) + 1
    if failed:
        return {"TaskId": task_id, "Status": 3, "ErrorCode": "1000", "ErrorMessage": "Download fail"}
    return {"TaskId": task_id, "Status": 2, "GifUrl": f"https://media.example.com/{job_id}.gif"}


PAYLOADS: Mapping[str, Mapping[str, Build]] = {
    "vod": {
        "DynamicImageComplete": _vod_dynamic_image,
        "SnapshotComplete": _vod_snapshot,
        "StreamTranscodeComplete": _vod_stream_transcode,
        "TranscodeComplete": _vod_transcode,
        "FileUploadComplete": _vod_file_upload,
        **{event: _vod(event) for event in _SHAPES},
        "UploadByURLComplete": _vod_upload_by_url,
    },
    "ims": {event: _ims(event) for event in (*_IMS_BODIES, *(event for event in _SHAPES if event not in _IMS_BODIES))},
    "mts": {
        "Snapshot": _mts("Snapshot"),
        "Transcode": _mts("Transcode"),
        "Analysis": _mts("Analysis"),
        "MediaInfo": _mts("MediaInfo"),
        "Report": _mts_workflow("Report"),
        "Start": _mts_workflow("Start"),
        "IProduction": _mts_production,
        "TextToSpeech": _mts_text_to_speech,
        "smarttag": _mts_smarttag,
        "MediaCensor": _mts_nested("MediaCensor", Result="Review"),
        "FpShot": _mts_nested("FpShot", FpShots=[{"PrimaryKey": "known-1", "Similarity": "0.87"}]),
    },
    "multimediaai": {"CreateGifTask": _gif},
}
