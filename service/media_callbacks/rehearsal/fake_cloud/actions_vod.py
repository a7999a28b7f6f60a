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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.job_view import JobView, find, required, sort_out, view
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob, other_id
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

USER_ID = 1234567890123456


def _find(cloud: "FakeCloud", job_id: str, code: str, *families: str) -> JobView:
    """
    Raises:
        ApiError: VOD has no such job in any of these families.
    """
    job = find(cloud, "vod", job_id, *families)
    if job is None:
        raise ApiError(404, code, "The specified job does not exist.")
    return job


def get_job_detail(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job_id, job_type = required(parameters, "JobId"), required(parameters, "JobType")
    if job_type not in _DETAILS:
        raise ApiError(400, "InvalidParameter", "The specified parameter JobType is not valid.")
    families, member, describe = _DETAILS[job_type]
    job = _find(cloud, job_id, "InvalidJob.NotFound", *families)
    detail: Json = {"CreateTime": job.submitted, **describe(job)}
    if job_type == "workflow":
        return {"JobType": job_type, member: detail | {"FinishTime": job.ended}}
    return {"JobType": job_type, member: detail | {"JobId": job_id, "UserId": USER_ID, "CompleteTime": job.ended}}


def _transcode_detail(job: JobView) -> Json:
    return {
        "VideoId": job.media_id,
        "Status": job.state("Transcoding", "TranscodeSuccess", "TranscodeFail", "TranscodeCancelled"),
        "TemplateId": other_id("template", job.id),
        "Definition": "HD",
    }


def _snapshot_detail(job: JobView) -> Json:
    return {
        "VideoId": job.media_id,
        "Status": job.state("Processing", "Success", "Fail"),
        "Trigger": "Manual",
        # JSON text, of which only the name is documented.
        "NormalConfig": '{"Count":3,"Interval":1}',
    }


def _ai_detail(job: JobView) -> Json:
    return {
        "MediaId": job.media_id,
        "JobType": _AI_TYPES[job.job.family],
        "Status": job.state("processing", "success", "fail"),
        "Trigger": "Manual",
    }


def _workflow_detail(job: JobView) -> Json:
    return {
        "TaskId": job.id,
        "Status": job.state("Processing", "Succeed", "Failed", "Canceled"),
        "TaskInput": f'{{"Type":"Media","Media":"{job.media_id}","Title":"title.mp4"}}',
        "ActivityResults": job.told()["ActivityResults"] if job.is_over else "{}",
        "UserData": job.user_data,
        "Workflow": {"WorkflowId": other_id("workflow", job.id), "Name": "workflow", "Status": "Active"},
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
            job = find(cloud, "vod", job_id, "transcode", "transcode_task")
            if job is not None and job_id in _stream_ids(job.job):
                found.append(_transcode_job(job, job_id))
            else:
                absent.append(job_id)
        return {"TranscodeJobInfoList": found, "NonExistJobIds": absent}
    task_id = required(parameters, "TranscodeTaskId")
    task = _find(cloud, task_id, "InvalidTranscodeTask.NotFound", "transcode_task")
    return {
        "TranscodeTask": {
            "TranscodeTaskId": task_id,
            "VideoId": task.media_id,
            "TaskStatus": task.state("Processing", "CompleteAllSucc", "CompleteAllFail", "CompletePartialSucc"),
            "Trigger": "Manual",
            "CreationTime": task.submitted,
            "CompleteTime": task.ended,
            "TranscodeTemplateGroupId": other_id("template-group", task_id),
            "TranscodeJobInfoList": [_transcode_job(task, job_id) for job_id in task.job.stream_ids],
        }
    }


def _stream_ids(job: CloudJob) -> tuple[str, ...]:
    return {"transcode": (job.job_id,), "transcode_task": job.stream_ids}.get(job.family, ())


def _transcode_job(job: JobView, job_id: str) -> Json:
    """One output; what it measures is what ``payloads`` has the callback say."""
    if job.job.outcome == "partial":
        job = replace(job, job=replace(job.job, outcome="succeeded" if job_id == job.job.stream_ids[0] else "failed"))
    file = {
        "OutputFileUrl": f"http://media.example.com/{job_id}.mp4",
        "Format": "mp4",
        "Bitrate": "925",
        "Duration": "15.0",
        "Filesize": 1815321,
        "Fps": "30",
        "Height": "720",
        "Width": "1280",
    }
    return {
        "TranscodeJobId": job_id,
        "TranscodeJobStatus": job.state("Transcoding", "TranscodeSuccess", "TranscodeFail", "TranscodeCancelled"),
        "TranscodeProgress": job.percent,
        "TranscodeTemplateId": other_id("template", job_id),
        "Definition": "HD",
        "Priority": "6",
        "InputFileUrl": f"http://media.example.com/{job.media_id}.mp4",
        "CreationTime": job.submitted,
        "CompleteTime": job.ended,
        "OutputFile": job.made(file),
        **job.error("ErrorCode", "ErrorMessage"),
    }


# What jobs have found and made


def _ai_job(job: JobView) -> Json:
    """An AI job with its result, as in its callback an object or text, or its error."""
    said: Json = job.told() if job.is_over else {"Status": "processing"}
    names = ("Status", "Code", "Message") if job.outcome == "failed" else ("Status", "Data")
    return {
        "JobId": job.id,
        "MediaId": job.media_id,
        "Type": _AI_TYPES[job.job.family],
        "CreationTime": job.submitted,
        "CompleteTime": job.ended,
        **{name: said.get(name) for name in names},
    }


def get_ai_media_audit_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = _find(cloud, required(parameters, "JobId"), "InvalidJob.NotFound", "AIMediaAuditComplete")
    return {"MediaAuditJob": _ai_job(job)}


def list_ai_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """ "Queries a smart tagging or video fingerprinting job."""
    job_ids = required(parameters, "JobIds").split(",")
    found, absent = sort_out(cloud, "vod", job_ids, "AIMediaDNAComplete", "AIVideoTagComplete")
    return {"AIJobList": {"AIJob": [_ai_job(job) for job in found]}, "NonExistAIJobIds": {"String": absent}}


def _jobs_of_video(cloud: "FakeCloud", parameters: Mapping[str, str]) -> list[JobView]:
    return _jobs_of(cloud, required(parameters, "VideoId"), "InvalidVideo.NotFound", "The video does not exist.")


def _jobs_of(cloud: "FakeCloud", media_id: str, code: str, message: str) -> list[JobView]:
    """
    Raises:
        ApiError: There is no such asset.
    """
    jobs = cloud.find_media("vod", media_id)
    if not jobs:
        raise ApiError(404, code, message)
    return [view(cloud, job) for job in jobs]


def _last(jobs: Iterable[JobView], *families: str) -> JobView | None:
    """The job that has ended well as the last one of these families."""
    ended = [job for job in jobs if job.job.family in families and job.outcome == "succeeded"]
    return max(ended, key=lambda job: job.job.ends_at, default=None)


def _last_result(member: str, *families: str) -> Callable[["FakeCloud", Mapping[str, str]], Json]:
    """An action that tells the last result of an asset."""

    def get(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
        media_id = required(parameters, "MediaId")
        job = _last(
            _jobs_of(cloud, media_id, "InvalidMedia.NotFound", "The specified media does not exist."), *families
        )
        data = None if job is None else job.told()["Data"]
        return {} if data is None else {member: json.loads(data) if isinstance(data, str) else data}

    return get


def list_snapshots(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """Of the last snapshot job alone (documented)."""
    job = _last(_jobs_of_video(cloud, parameters), "snapshot")
    infos = [] if job is None else job.told()["SnapshotInfos"]
    info = next((one for one in infos if one["SnapshotType"] == parameters.get("SnapshotType", "CoverSnapshot")), None)
    if job is None or info is None:
        return {}
    count = info["SnapshotCount"]
    pictures = [
        {"Index": number, "Url": info["SnapshotRegular"].replace("{SnapshotCount}", f"{number:05d}")}
        for number in range(1, min(count, int(parameters.get("PageSize", "20"))) + 1)
    ]
    return {
        "MediaSnapshot": {
            "JobId": job.id,
            "Regular": info["SnapshotRegular"],
            "Total": count,
            "CreationTime": job.submitted,
            "Snapshots": {"Snapshot": pictures},
        }
    }


def get_url_upload_infos(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job_ids = required(parameters, "JobIds").split(",")
    found, absent = sort_out(cloud, "vod", job_ids, "UploadByURLComplete")
    return {"URLUploadInfoList": [_url_upload(job) for job in found], "NonExists": absent}


def _url_upload(job: JobView) -> Json:
    message = {name.strip(): value for name, value in job.told().items()}
    return {
        "JobId": job.id,
        "Status": job.state("PROCESSING", "SUCCESS", "FAIL"),
        "UploadURL": message["SourceURL"],
        "CreationTime": job.submitted,
        "CompleteTime": job.ended,
        "UserData": None if job.user_data is None else json.dumps({"Extend": job.user_data}),
        "MediaId": job.made(job.media_id),
        "FileSize": job.made(message.get("Size")),
        "ErrorCode": message.get("ErrorCode") if job.is_over else None,
        "ErrorMessage": message.get("ErrorMessage") if job.is_over else None,
    }


def get_mezzanine_info(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """Of an asset that was uploaded; what it measures, with every asset."""
    jobs = _jobs_of_video(cloud, parameters)
    output_type = parameters.get("OutputType", "cdn")
    file: Json = {"VideoId": parameters["VideoId"], "Status": "Normal", "OutputType": output_type}
    for job in jobs:
        if job.job.family == "FileUploadComplete":
            if job.outcome != "succeeded":
                return {"Mezzanine": file | {"Status": "UploadFail" if job.is_over else "Uploading"}}
            message = job.told()
            file |= {"FileURL": f"{message['FileUrl']}?Expires=1893456000&Signature=fake", "Size": message["Size"]}
    for job in jobs:
        if job.job.family == "VideoAnalysisComplete" and job.outcome == "succeeded":
            message = job.told()
            file |= {name: int(message[name]) for name in ("Width", "Height", "Size")}
            file |= {name: message[name] for name in ("Duration", "Fps", "Bitrate")}
    return {"Mezzanine": file}


def list_dynamic_image(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    images = [
        {
            "JobId": job.id,
            "VideoId": parameters["VideoId"],
            "DynamicImageId": other_id("image", job.id),
            "FileURL": f"http://media.example.com/image/dynamic/{job.id}.gif",
            "FileSize": "1834831",
            "Format": "gif",
            "Duration": "2",
            "Fps": "25",
            "Height": "200",
            "Width": "200",
            "CreationTime": job.ended,
        }
        for job in _jobs_of_video(cloud, parameters)
        # Documented by what is missing: no state, so neither failures nor what is under way.
        if job.job.family == "animated_image" and job.outcome == "succeeded"
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
