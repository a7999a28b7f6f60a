"""
ApsaraVideo VOD, 2017-03-21.

Sources of the replies, field by field: the pages of the actions below
https://www.alibabacloud.com/help/en/vod/developer-reference/ (GetJobDetail: .../api-vod-2017-03-21-getjobdetail) and
the models of the SDK alibabacloud_vod20170321 3.12.1; ListAIJob: .../api-vod-2017-03-21-listaijob, ListSnapshots:
.../api-vod-2017-03-21-listsnapshots, GetMediaAuditResult: .../api-vod-2017-03-21-getmediaauditresult. No page says how
an unknown job is answered; the codes are assumed, after InvalidVideo.NotFound, which is documented. What jobs have
found and made is what ``payloads`` has their callbacks say.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from media_callbacks.rehearsal.fake_cloud.gateway import ApiError, missing
from media_callbacks.rehearsal.fake_cloud.jobs import FAILURE, CloudJob, TrueOutcome, format_time, other_id
from media_callbacks.rehearsal.payloads import PAYLOADS, Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

USER_ID = 1234567890123456
_TRANSCODE: Mapping[TrueOutcome, str] = {
    "succeeded": "TranscodeSuccess",
    "failed": "TranscodeFail",
    "cancelled": "TranscodeCancelled",
}
_WORKFLOW: Mapping[TrueOutcome, str] = {"succeeded": "Succeed", "failed": "Failed", "cancelled": "Canceled"}
_TASK: Mapping[TrueOutcome, str] = {
    "succeeded": "CompleteAllSucc",
    "failed": "CompleteAllFail",
    "partial": "CompletePartialSucc",
}


def required(parameters: Mapping[str, str], name: str) -> str:
    """
    Raises:
        ApiError: It is not there.
    """
    value = parameters.get(name)
    if not value:
        raise missing(name)
    return value


def find(cloud: "FakeCloud", job_id: str, code: str, *families: str) -> CloudJob:
    """
    Raises:
        ApiError: VOD has no such job in any of these families.
    """
    job = cloud.find(job_id)
    if job is None or job.product != "vod" or job.family not in families:
        raise ApiError(404, code, "The specified job does not exist.")
    return job


def get_job_detail(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job_id, job_type = required(parameters, "JobId"), required(parameters, "JobType")
    if job_type not in _DETAILS:
        raise ApiError(400, "InvalidParameter", "The specified parameter JobType is not valid.")
    families, member, describe = _DETAILS[job_type]
    job = find(cloud, job_id, "InvalidJob.NotFound", *families)
    detail: Json = {"CreateTime": format_time(job.submitted_at), **describe(job, is_over=job.is_over(cloud.clock()))}
    if job_type != "workflow":
        detail |= {"JobId": job_id, "UserId": USER_ID}
    if job.is_over(cloud.clock()):
        detail["FinishTime" if job_type == "workflow" else "CompleteTime"] = format_time(job.ends_at)
    return {"JobType": job_type, member: detail}


def _transcode_detail(job: CloudJob, *, is_over: bool) -> Json:
    return {
        "VideoId": job.media_id,
        "Status": _TRANSCODE[job.outcome] if is_over else "Transcoding",
        "TemplateId": other_id("template", job.job_id),
        "Definition": "HD",
    }


def _snapshot_detail(job: CloudJob, *, is_over: bool) -> Json:
    # JSON text, of which only the name is documented.
    return {
        "VideoId": job.media_id,
        "Status": ("Success" if job.outcome == "succeeded" else "Fail") if is_over else "Processing",
        "Trigger": "Manual",
        "NormalConfig": '{"Count":3,"Interval":1}',
    }


def _ai_detail(job: CloudJob, *, is_over: bool) -> Json:
    return {
        "MediaId": job.media_id,
        "JobType": _AI_TYPES[job.family],
        "Status": ("success" if job.outcome == "succeeded" else "fail") if is_over else "processing",
        "Trigger": "Manual",
    }


def _workflow_detail(job: CloudJob, *, is_over: bool) -> Json:
    return {
        "TaskId": job.job_id,
        "Status": _WORKFLOW[job.outcome] if is_over else "Processing",
        "TaskInput": f'{{"Type":"Media","Media":"{job.media_id}","Title":"title.mp4"}}',
        "ActivityResults": told(job)["ActivityResults"] if is_over else "{}",
        "UserData": job.user_data,
        "Workflow": {"WorkflowId": other_id("workflow", job.job_id), "Name": "workflow", "Status": "Active"},
    }


_AI_TYPES = {
    "AIMediaAuditComplete": "AIMediaAudit",
    "AIVideoCensorComplete": "AIVideoCensor",
    "AIVideoTagComplete": "AIVideoTag",
    "AIMediaDNAComplete": "AIMediaDNA",
}
_DETAILS = {
    "transcode": (("transcode",), "TranscodeJobDetail", _transcode_detail),
    "snapshot": (("snapshot",), "SnapshotJobDetail", _snapshot_detail),
    "ai": (tuple(_AI_TYPES), "AIJobDetail", _ai_detail),
    "workflow": (("WorkflowTaskComplete",), "WorkflowTaskDetail", _workflow_detail),
}


def get_transcode_task(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    if "JobIds" in parameters:
        job_ids = [job_id for job_id in parameters["JobIds"].split(",") if job_id]
        if len(job_ids) > 10:
            raise ApiError(400, "InvalidParameter", "The specified parameter JobIds is not valid.")
        found, absent = [], []
        for job_id in job_ids:
            job = cloud.find(job_id)
            if job is not None and job.product == "vod" and job_id in _stream_ids(job):
                found.append(_transcode_job(cloud, job, job_id))
            else:
                absent.append(job_id)
        return {"TranscodeJobInfoList": found, "NonExistJobIds": absent}
    task_id = required(parameters, "TranscodeTaskId")
    task = find(cloud, task_id, "InvalidTranscodeTask.NotFound", "transcode_task")
    is_over = task.is_over(cloud.clock())
    reply = {
        "TranscodeTaskId": task_id,
        "VideoId": task.media_id,
        "TaskStatus": _TASK[task.outcome] if is_over else "Processing",
        "Trigger": "Manual",
        "CreationTime": format_time(task.submitted_at),
        "TranscodeTemplateGroupId": other_id("template-group", task_id),
        "TranscodeJobInfoList": [_transcode_job(cloud, task, job_id) for job_id in task.stream_ids],
    }
    return {"TranscodeTask": reply | ({"CompleteTime": format_time(task.ends_at)} if is_over else {})}


def _stream_ids(job: CloudJob) -> tuple[str, ...]:
    return {"transcode": (job.job_id,), "transcode_task": job.stream_ids}.get(job.family, ())


def _transcode_job(cloud: "FakeCloud", job: CloudJob, job_id: str) -> Json:
    """One output; what it measures is what ``payloads`` has the callback say."""
    outcome = job.outcome
    if outcome == "partial":
        outcome = "succeeded" if job_id == job.stream_ids[0] else "failed"
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "TranscodeJobId": job_id,
        "TranscodeJobStatus": _TRANSCODE[outcome] if is_over else "Transcoding",
        "TranscodeProgress": 100 if is_over else 50,
        "TranscodeTemplateId": other_id("template", job_id),
        "Definition": "HD",
        "Priority": "6",
        "InputFileUrl": f"http://media.example.com/{job.media_id}.mp4",
        "CreationTime": format_time(job.submitted_at),
    }
    if not is_over:
        return reply
    reply["CompleteTime"] = format_time(job.ends_at)
    if outcome == "failed":
        reply |= {"ErrorCode": FAILURE[0], "ErrorMessage": FAILURE[1]}
    elif outcome == "succeeded":
        reply["OutputFile"] = {
            "OutputFileUrl": f"http://media.example.com/{job_id}.mp4",
            "Format": "mp4",
            "Bitrate": "925",
            "Duration": "15.0",
            "Filesize": 1815321,
            "Fps": "30",
            "Height": "720",
            "Width": "1280",
        }
    return reply


# What jobs have found and made


def told(job: CloudJob) -> Json:
    """What the callback of the job says."""
    return PAYLOADS[job.product][job.event](job.job_id, job.ends_at, job.outcome == "failed")


def _ai_state(job: CloudJob, *, is_over: bool) -> Json:
    """State, result and error of an AI job; the result as in its callback, an object or text."""
    if not is_over:
        return {"Status": "processing"}
    message = told(job)
    state: Json = {"Status": message["Status"], "CompleteTime": format_time(job.ends_at)}
    if job.outcome == "failed":
        return state | {"Code": message["Code"], "Message": message["Message"]}
    return state | {"Data": message["Data"]}


def get_ai_media_audit_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "InvalidJob.NotFound", "AIMediaAuditComplete")
    common = {"JobId": job.job_id, "MediaId": job.media_id, "Type": "AIMediaAudit"}
    state = _ai_state(job, is_over=job.is_over(cloud.clock()))
    return {"MediaAuditJob": {**common, "CreationTime": format_time(job.submitted_at), **state}}


def list_ai_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    found, absent = [], []
    for job_id in required(parameters, "JobIds").split(","):
        job = cloud.find(job_id)
        # "Queries a smart tagging or video fingerprinting job."
        if job is None or job.product != "vod" or job.family not in ("AIMediaDNAComplete", "AIVideoTagComplete"):
            absent.append(job_id)
            continue
        state = _ai_state(job, is_over=job.is_over(cloud.clock()))
        common = {"JobId": job_id, "MediaId": job.media_id, "Type": _AI_TYPES[job.family]}
        found.append({**common, "CreationTime": format_time(job.submitted_at), **state})
    return {"AIJobList": {"AIJob": found}, "NonExistAIJobIds": {"String": absent}}


def _last(cloud: "FakeCloud", media_id: str, *families: str) -> CloudJob | None:
    """The job of an asset that has ended well as the last one of these families."""
    now = cloud.clock()
    jobs = [
        job
        for job in cloud.find_media("vod", media_id)
        if job.family in families and job.outcome == "succeeded" and job.is_over(now)
    ]
    return max(jobs, key=lambda job: job.ends_at, default=None)


def _last_result(member: str, *families: str) -> Callable[["FakeCloud", Mapping[str, str]], Json]:
    """An action that tells the last result of an asset."""

    def get(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
        media_id = required(parameters, "MediaId")
        if not cloud.find_media("vod", media_id):
            raise ApiError(404, "InvalidMedia.NotFound", "The specified media does not exist.")
        job = _last(cloud, media_id, *families)
        data = None if job is None else told(job)["Data"]
        return {} if data is None else {member: json.loads(data) if isinstance(data, str) else data}

    return get


def list_snapshots(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """Of the last snapshot job alone (documented)."""
    video_id = required(parameters, "VideoId")
    if not cloud.find_media("vod", video_id):
        raise ApiError(404, "InvalidVideo.NotFound", "The video does not exist.")
    job = _last(cloud, video_id, "snapshot")
    infos = [] if job is None else told(job)["SnapshotInfos"]
    info = next((one for one in infos if one["SnapshotType"] == parameters.get("SnapshotType", "CoverSnapshot")), None)
    if job is None or info is None:
        return {}
    count = info["SnapshotCount"]
    pictures = [
        {"Index": number, "Url": info["SnapshotRegular"].replace("{SnapshotCount}", f"{number:05d}")}
        for number in range(1, min(count, int(parameters.get("PageSize", "20"))) + 1)
    ]
    series = {"JobId": job.job_id, "Regular": info["SnapshotRegular"], "Total": count}
    return {
        "MediaSnapshot": {
            **series,
            "CreationTime": format_time(job.submitted_at),
            "Snapshots": {"Snapshot": pictures},
        }
    }


def get_url_upload_infos(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    found, absent = [], []
    for job_id in required(parameters, "JobIds").split(","):
        job = cloud.find(job_id)
        if job is None or job.product != "vod" or job.family != "UploadByURLComplete":
            absent.append(job_id)
            continue
        message = {name.strip(): value for name, value in told(job).items()}
        is_over = job.is_over(cloud.clock())
        upload: Json = {
            "JobId": job_id,
            "Status": ("SUCCESS" if job.outcome == "succeeded" else "FAIL") if is_over else "PROCESSING",
            "UploadURL": message["SourceURL"],
            "CreationTime": format_time(job.submitted_at),
            "UserData": None if job.user_data is None else json.dumps({"Extend": job.user_data}),
        }
        if is_over:
            upload["CompleteTime"] = format_time(job.ends_at)
            if job.outcome == "failed":
                upload |= {"ErrorCode": message["ErrorCode"], "ErrorMessage": message["ErrorMessage"]}
            else:
                upload |= {"MediaId": job.media_id, "FileSize": message["Size"]}
        found.append(upload)
    return {"URLUploadInfoList": found, "NonExists": absent}


def get_mezzanine_info(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """Of an asset that was uploaded; what it measures, with every asset."""
    video_id = required(parameters, "VideoId")
    uploads = [job for job in cloud.find_media("vod", video_id) if job.family == "FileUploadComplete"]
    if not cloud.find_media("vod", video_id):
        raise ApiError(404, "InvalidVideo.NotFound", "The video does not exist.")
    now = cloud.clock()
    file: Json = {"VideoId": video_id, "Status": "Normal", "OutputType": parameters.get("OutputType", "cdn")}
    for job in uploads:
        if not job.is_over(now):
            return {"Mezzanine": file | {"Status": "Uploading"}}
        if job.outcome == "failed":
            return {"Mezzanine": file | {"Status": "UploadFail"}}
        message = told(job)
        file |= {"FileURL": f"{message['FileUrl']}?Expires=1893456000&Signature=fake", "Size": message["Size"]}
    for job in cloud.find_media("vod", video_id):
        if job.family == "VideoAnalysisComplete" and job.outcome == "succeeded" and job.is_over(now):
            message = told(job)
            file |= {name: int(message[name]) for name in ("Width", "Height", "Size")}
            file |= {name: message[name] for name in ("Duration", "Fps", "Bitrate")}
    return {"Mezzanine": file}


def list_dynamic_image(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    video_id = required(parameters, "VideoId")
    jobs = cloud.find_media("vod", video_id)
    if not jobs:
        raise ApiError(404, "InvalidVideo.NotFound", "The video does not exist.")
    images = [
        {
            "JobId": job.job_id,
            "VideoId": video_id,
            "DynamicImageId": other_id("image", job.job_id),
            "FileURL": f"http://media.example.com/image/dynamic/{job.job_id}.gif",
            "FileSize": "1834831",
            "Format": "gif",
            "Duration": "2",
            "Fps": "25",
            "Height": "200",
            "Width": "200",
            "CreationTime": format_time(job.ends_at),
        }
        for job in jobs
        # Documented by what is missing: no state, so neither failures nor what is under way.
        if job.family == "animated_image" and job.outcome == "succeeded" and job.is_over(cloud.clock())
    ]
    return {"DynamicImageList": images}


def _extend(parameters: Mapping[str, str]) -> str | None:
    """``UserData`` is JSON of several settings; its member Extend comes back in callbacks, as text."""
    try:
        extend = json.loads(parameters.get("UserData") or "{}").get("Extend")
    except (ValueError, AttributeError):
        raise ApiError(400, "InvalidParameter", "The specified parameter UserData is not valid.") from None
    return extend if extend is None or isinstance(extend, str) else json.dumps(extend, ensure_ascii=False)


def submit_dynamic_image_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    required(parameters, "DynamicImageTemplateId")
    job = cloud.rehearse("vod", "animated_image", media_id=required(parameters, "VideoId"))
    return {"DynamicImageJob": {"JobId": job.job_id}}


def submit_snapshot_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    media_id, user_data = required(parameters, "VideoId"), _extend(parameters)
    job = cloud.rehearse("vod", "snapshot", media_id=media_id, user_data=user_data)
    return {"SnapshotJob": {"JobId": job.job_id}}


def submit_transcode_jobs(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    media_id, user_data = required(parameters, "VideoId"), _extend(parameters)
    task = cloud.rehearse("vod", "transcode_task", media_id=media_id, user_data=user_data)
    jobs = [{"JobId": job_id} for job_id in task.stream_ids]
    return {"TranscodeJobs": {"TranscodeJob": jobs}, "TranscodeTaskId": task.job_id}


ACTIONS = {
    "GetJobDetail": get_job_detail,
    "GetTranscodeTask": get_transcode_task,
    "GetURLUploadInfos": get_url_upload_infos,
    "GetAIMediaAuditJob": get_ai_media_audit_job,
    "GetMezzanineInfo": get_mezzanine_info,
    "GetMediaAuditResult": _last_result("MediaAuditResult", "AIMediaAuditComplete", "AIVideoCensorComplete"),
    "GetMediaDNAResult": _last_result("DNAResult", "AIMediaDNAComplete"),
    "GetAIVideoTagResult": _last_result("VideoTagResult", "AIVideoTagComplete"),
    "ListAIJob": list_ai_job,
    "ListSnapshots": list_snapshots,
    "ListDynamicImage": list_dynamic_image,
    "SubmitDynamicImageJob": submit_dynamic_image_job,
    "SubmitSnapshotJob": submit_snapshot_job,
    "SubmitTranscodeJobs": submit_transcode_jobs,
}
