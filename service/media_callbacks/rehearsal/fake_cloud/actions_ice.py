"""
IMS (ICE), 2020-11-09.

Sources of the replies, field by field: the pages of the actions below
https://www.alibabacloud.com/help/en/ims/developer-reference/ (GetDynamicImageJob:
.../api-ice-2020-11-09-getdynamicimagejob; GetSmartHandleJob: .../api-ice-2020-11-09-getsmarthandlejob) and the models
of the SDK alibabacloud_ice20201109 6.20.2. No page says how an unknown job is answered; ResourceNotFound is assumed,
which the sample of GetDynamicImageJob shows for something else. That reviews, fingerprints, tags and intelligent
productions are those of the events is assumed, too.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from media_callbacks.rehearsal.fake_cloud.actions_vod import required, told
from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.jobs import FAILURE, CloudJob, format_time, other_id
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

_SUCCESS = {"succeeded": "Success", "failed": "Fail"}
_URL = "http://media.example.com/"


def find(cloud: "FakeCloud", job_id: str, *families: str) -> CloudJob:
    """
    Raises:
        ApiError: There is no such job.
    """
    job = cloud.find(job_id)
    if job is None or job.product != "ims" or job.family not in families:
        raise ApiError(404, "ResourceNotFound", 'The specified resource for "Job" could not be found.')
    return job


def _error(job: CloudJob) -> Json:
    return {"Code": FAILURE[0], "Message": FAILURE[1]} if job.outcome == "failed" else {}


def _media_file(job: CloudJob, suffix: str) -> Json:
    file = {"Bucket": "bucket", "Location": "oss-cn-shanghai", "Object": f"{job.job_id}{suffix}"}
    return {"Type": "OSS", "Media": f"oss://bucket/{job.job_id}{suffix}", "OssFile": file}


def _common(job: CloudJob, output: str, *, is_over: bool) -> Json:
    """What animated images and snapshots have in common."""
    submitted, ended = format_time(job.submitted_at), format_time(job.ends_at)
    reply: Json = {
        "JobId": job.job_id,
        "Name": "job",
        "TriggerSource": "API",
        "Input": {"Type": "Media", "Media": job.media_id},
        "Output": _media_file(job, output),
        "TemplateId": other_id("template", job.job_id),
        "PipelineId": other_id("pipeline", job.job_id),
        "Status": _SUCCESS[job.outcome] if is_over else "Init",
        "SubmitTime": submitted,
        "CreateTime": submitted,
        "ModifiedTime": ended if is_over else submitted,
        "UserData": job.user_data,
    }
    return reply | {"FinishTime": ended, **_error(job)} if is_over else reply


def get_dynamic_image_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "DynamicImageComplete")
    is_over = job.is_over(cloud.clock())
    reply = _common(job, ".gif", is_over=is_over)
    # JSON text, documented.
    reply["TemplateConfig"] = '{"Format":"gif","Fps":25,"Height":200,"Width":200}'
    # The documented sample ends its job id with a line break.
    reply["JobId"] += "\n"
    if is_over and job.outcome == "succeeded":
        reply["OutputUrl"] = f"{_URL}{job.job_id}.gif"
    return {"DynamicImageJob": reply}


def get_snapshot_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "SnapshotComplete")
    is_over = job.is_over(cloud.clock())
    reply = _common(job, "-{Count}.jpg", is_over=is_over) | {"Async": True, "Type": "Normal"}
    reply["TemplateConfig"] = '{"Type":"Normal","Count":3}'
    if is_over and job.outcome == "succeeded":
        reply["Count"] = 3
    return {"SnapshotJob": reply}


def get_snapshot_urls(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "SnapshotComplete")
    if job.outcome != "succeeded" or not job.is_over(cloud.clock()):
        return {"SnapshotUrls": [], "Total": 0}
    # Pre-signed; the parameters are those of OSS.
    signed = "?Expires=1893456000&OSSAccessKeyId=fake&Signature=fake"
    return {"SnapshotUrls": [f"{_URL}{job.job_id}-{n:05d}.jpg{signed}" for n in (1, 2, 3)], "Total": 3}


def get_transcode_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "ParentJobId"), "TranscodeParentComplete")
    is_over = job.is_over(cloud.clock())
    submitted = format_time(job.submitted_at)
    status = _SUCCESS[job.outcome] if is_over else "Processing"
    common: Json = {
        "ParentJobId": job.job_id,
        "Name": "job",
        "Status": status,
        "SubmitTime": submitted,
        "CreateTime": submitted,
        "UserData": job.user_data,
    }
    if is_over:
        common["FinishTime"] = format_time(job.ends_at)
    sub_id = other_id("sub", job.job_id)
    sub: Json = {
        **common,
        "JobId": sub_id,
        "JobIndex": 0,
        "InputGroup": [{"Type": "Media", "Media": job.media_id, "InputUrl": f"{_URL}{job.media_id}.mp4"}],
        "Output": {"Type": "OSS", "Media": f"oss://bucket/{sub_id}.mp4", "OutputUrl": f"{_URL}{sub_id}.mp4"},
    }
    if is_over and job.outcome == "succeeded":
        sub["OutFileMeta"] = {
            "FileBasicInfo": {
                "FileUrl": f"{_URL}{sub_id}.mp4",
                "FormatName": "mp4",
                "FileSize": "1815321",
                "Bitrate": "925",
                "Duration": "15.0",
                "Width": "1280",
                "Height": "720",
            },
            "VideoStreamInfoList": [{"Fps": "30.0", "Width": "1280", "Height": "720"}],
        }
    parent = common | {
        "TriggerSource": "API",
        "JobCount": 1,
        "Percent": 100 if is_over else 50,
        "InputGroup": [{"Type": "Media", "Media": job.media_id}],
        "TranscodeJobList": [sub],
    }
    return {"TranscodeParentJob": parent}


def get_media_convert_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "MediaConvertComplete")
    is_over = job.is_over(cloud.clock())
    states = {"succeeded": "Complete", "failed": "Error", "cancelled": "Cancelled"}
    reply: Json = {
        "JobId": job.job_id,
        "State": states[job.outcome] if is_over else "Running",
        "Percent": 100 if is_over else 50,
        "PipelineId": other_id("pipeline", job.job_id),
        "UserData": job.user_data,
        "CreateTime": format_time(job.submitted_at),
        "Config": {"Inputs": [{"Name": "in", "InputFile": {"Type": "Media", "Media": job.media_id}}]},
    }
    if is_over:
        reply |= {"FinishTime": format_time(job.ends_at), **_error(job)}
    if is_over and job.outcome == "succeeded":
        url = f"{_URL}{job.job_id}.mp4"
        result = {"OutputFile": {"Type": "OSS", "Media": f"oss://bucket/{job.job_id}.mp4", "Url": url}}
        reply["OutputDetails"] = [{"Name": "out-1", "Status": "Complete", "TaskId": job.job_id, "Result": result}]
    return {"Job": reply}


def get_media_producing_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "ProduceMediaComplete")
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "JobId": job.job_id,
        "ProjectId": other_id("project", job.job_id),
        "MediaId": job.media_id,
        "Status": ({"succeeded": "Success", "failed": "Failed"}[job.outcome]) if is_over else "Processing",
        "Progress": 100 if is_over else 50,
        "UserData": job.user_data,
        "CreateTime": format_time(job.submitted_at),
        "ModifiedTime": format_time(job.ends_at if is_over else job.submitted_at),
    }
    if is_over:
        reply |= {"CompleteTime": format_time(job.ends_at), **_error(job)}
    if is_over and job.outcome == "succeeded":
        reply |= {"MediaURL": f"https://media.example.com/{job.job_id}.mp4", "Duration": 15.0}
    return {"MediaProducingJob": reply}


def get_batch_media_producing_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "BatchProduceMediaComplete")
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "JobId": job.job_id,
        "JobType": "Script",
        "Status": ({"succeeded": "Finished", "failed": "Failed"}[job.outcome]) if is_over else "Processing",
        "UserData": job.user_data,
        "CreateTime": format_time(job.submitted_at),
        "ModifiedTime": format_time(job.ends_at if is_over else job.submitted_at),
    }
    if is_over:
        sub: Json = {
            "JobId": other_id("sub", job.job_id),
            "ProjectId": other_id("project", job.job_id),
            "Status": {"succeeded": "Success", "failed": "Failed"}[job.outcome],
        }
        if job.outcome == "succeeded":
            sub |= {
                "MediaId": job.media_id,
                "MediaURL": f"https://media.example.com/{job.job_id}.mp4",
                "Duration": 15.0,
            }
        else:
            sub |= {"ErrorCode": FAILURE[0], "ErrorMessage": FAILURE[1]}
        reply |= {"CompleteTime": format_time(job.ends_at), "SubJobList": [sub]}
    return {"EditingBatchJob": reply}


def get_workflow_task(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "TaskId"), "WorkflowTaskComplete")
    is_over = job.is_over(cloud.clock())
    states = {"succeeded": "Succeed", "failed": "Failed", "cancelled": "Canceled"}
    reply: Json = {
        "TaskId": job.job_id,
        "Status": states[job.outcome] if is_over else "Processing",
        "TaskInput": json.dumps({"Type": "Media", "Media": job.media_id}),
        "ActivityResults": told(job)["MessageBody"]["ActivityResults"] if is_over else "{}",
        "UserData": job.user_data,
        "CreateTime": format_time(job.submitted_at),
        "Workflow": {"WorkflowId": other_id("workflow", job.job_id), "Name": "workflow", "Status": "Active"},
    }
    return {"WorkflowTask": reply | ({"FinishTime": format_time(job.ends_at)} if is_over else {})}


def get_smart_handle_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "SmartJobComplete")
    is_over = job.is_over(cloud.clock())
    state = {"succeeded": "Finished", "failed": "Failed"}[job.outcome] if is_over else "Executing"
    times = {"CreateTime": format_time(job.submitted_at), "ModifiedTime": format_time(job.ends_at)}
    reply: Json = {
        "JobId": job.job_id,
        "State": state,
        "UserData": job.user_data,
        "SmartJobInfo": {"Title": "job", "JobType": "ASR", **times},
    }
    if state == "Failed":
        return reply | {"ErrorCode": FAILURE[0], "ErrorMessage": FAILURE[1]}
    if state == "Finished":
        url = f"https://media.example.com/{job.job_id}.mp4"
        reply |= {"JobResult": {"MediaId": job.media_id, "MediaUrl": url, "AiResult": "[]"}, "Output": "{}"}
    return reply


def query_production(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "AIProduceComplete")
    told = _young(cloud, job, "Status", "Analyzing")
    # Why it failed, the reply does not say (SDK).
    reply = {name: told[name] for name in told if name not in ("Code", "Message")} | {
        "CreateTime": format_time(job.submitted_at),
        "FunctionName": "Cover",
        "Input": {"Type": "Media", "Media": job.media_id},
    }
    if reply["Status"] == "Success":
        reply["OutputUrls"] = [f"{_URL}{job.job_id}.jpg"]
    return reply


def _young(cloud: "FakeCloud", job: CloudJob, state: str, under_way: str) -> Json:
    """What AI jobs have in common; ``state``: what they call it."""
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "JobId": job.job_id,
        state: _SUCCESS[job.outcome] if is_over else under_way,
        "UserData": job.user_data,
    }
    return reply | {"FinishTime": format_time(job.ends_at), **_error(job)} if is_over else reply


def query_media_censor(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = find(cloud, required(parameters, "JobId"), "AIMediaAuditComplete", "AIVideoCensorComplete")
    detail = _young(cloud, job, "State", "Processing")
    file = {"Bucket": "bucket", "Location": "oss-cn-shanghai", "Object": f"{job.job_id}.mp4"}
    detail |= {"Input": file, "CreationTime": format_time(job.submitted_at)}
    if detail["State"] == "Success":
        detail["Suggestion"] = "review" if job.family == "AIMediaAuditComplete" else "pass"
    return {"MediaCensorJobDetail": detail}


def query_smart_tag(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """The reply does not name the job (SDK)."""
    job = find(cloud, required(parameters, "JobId"), "AIVideoTagComplete", "MediaAiAnalysisComplete")
    state = _young(cloud, job, "JobStatus", "Processing")
    reply: Json = {"JobStatus": state["JobStatus"], "UserData": job.user_data}
    if state["JobStatus"] == "Success":
        reply["Results"] = {"Result": [{"Type": "Meta", "Data": '{"title":"beach"}'}]}
    return reply


def query_dna_job_list(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """What was found is in a file, of which the reply has the URL."""
    jobs = []
    for job_id in required(parameters, "JobIds").split(","):
        job = cloud.find(job_id)
        if job is not None and job.product == "ims" and job.family == "AIMediaDNAComplete":
            told = _young(cloud, job, "Status", "Analysing")
            told["Id"] = told.pop("JobId")
            told |= {"Input": {"Type": "Media", "Media": job.media_id}, "CreationTime": format_time(job.submitted_at)}
            if told["Status"] == "Success":
                told["DNAResult"] = f"{_URL}{job.job_id}.json"
            jobs.append(told)
    return {"JobList": jobs}


def _submit(family: str) -> Callable[["FakeCloud", Mapping[str, str]], Json]:
    def submit(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
        try:
            given = json.loads(required(parameters, "Input"))
            media = given["Media"]
        except (ValueError, TypeError, KeyError):
            raise ApiError(400, "InvalidParameter", "The specified parameter Input is not valid.") from None
        # Only an asset has a media id; a file of OSS gets one here.
        media_id = str(media) if given.get("Type") == "Media" else None
        job = cloud.rehearse("ims", family, media_id=media_id, user_data=parameters.get("UserData"))
        return {"JobId": job.job_id}

    return submit


ACTIONS = {
    "GetDynamicImageJob": get_dynamic_image_job,
    "GetSnapshotJob": get_snapshot_job,
    "GetSnapshotUrls": get_snapshot_urls,
    "GetTranscodeJob": get_transcode_job,
    "GetMediaConvertJob": get_media_convert_job,
    "GetMediaProducingJob": get_media_producing_job,
    "GetBatchMediaProducingJob": get_batch_media_producing_job,
    "GetWorkflowTask": get_workflow_task,
    "GetSmartHandleJob": get_smart_handle_job,
    "QueryDNAJobList": query_dna_job_list,
    "QueryIProductionJob": query_production,
    "QueryMediaCensorJobDetail": query_media_censor,
    "QuerySmarttagJob": query_smart_tag,
    "SubmitDynamicImageJob": _submit("DynamicImageComplete"),
    "SubmitSnapshotJob": _submit("SnapshotComplete"),
}
