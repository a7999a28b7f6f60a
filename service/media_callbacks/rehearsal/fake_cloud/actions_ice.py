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

from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.job_view import JobView, find, required, sort_out
from media_callbacks.rehearsal.fake_cloud.jobs import format_time, other_id
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

_URL = "http://media.example.com/"


def _common(job: JobView, output: str) -> Json:
    """What animated images and snapshots have in common."""
    file = {"Bucket": "bucket", "Location": "oss-cn-shanghai", "Object": f"{job.id}{output}"}
    return {
        "JobId": job.id,
        "Name": "job",
        "TriggerSource": "API",
        "Input": {"Type": "Media", "Media": job.media_id},
        "Output": {"Type": "OSS", "Media": f"oss://bucket/{job.id}{output}", "OssFile": file},
        "TemplateId": other_id("template", job.id),
        "PipelineId": other_id("pipeline", job.id),
        "Status": job.state("Init", "Success", "Fail"),
        "SubmitTime": job.submitted,
        "CreateTime": job.submitted,
        "ModifiedTime": job.ended or job.submitted,
        "FinishTime": job.ended,
        "UserData": job.user_data,
        **job.error(),
    }


def _dynamic_image(job: JobView) -> Json:
    return _common(job, ".gif") | {
        # The documented sample ends its job id with a line break.
        "JobId": f"{job.id}\n",
        # JSON text, documented.
        "TemplateConfig": '{"Format":"gif","Fps":25,"Height":200,"Width":200}',
        "OutputUrl": job.made(f"{_URL}{job.id}.gif"),
    }


def _snapshot(job: JobView) -> Json:
    return _common(job, "-{Count}.jpg") | {
        "Async": True,
        "Type": "Normal",
        "TemplateConfig": '{"Type":"Normal","Count":3}',
        "Count": job.made(3),
    }


def _snapshot_urls(job: JobView) -> Json:
    # Pre-signed; the parameters are those of OSS.
    signed = "?Expires=1893456000&OSSAccessKeyId=fake&Signature=fake"
    urls = job.made([f"{_URL}{job.id}-{n:05d}.jpg{signed}" for n in (1, 2, 3)]) or []
    return {"SnapshotUrls": urls, "Total": len(urls)}


def _transcode(job: JobView) -> Json:
    common = {
        "ParentJobId": job.id,
        "Name": "job",
        "Status": job.state("Processing", "Success", "Fail"),
        "SubmitTime": job.submitted,
        "CreateTime": job.submitted,
        "FinishTime": job.ended,
        "UserData": job.user_data,
    }
    sub_id = other_id("sub", job.id)
    url = f"{_URL}{sub_id}.mp4"
    meta = {
        "FileBasicInfo": {
            "FileUrl": url,
            "FormatName": "mp4",
            "FileSize": "1815321",
            "Bitrate": "925",
            "Duration": "15.0",
            "Width": "1280",
            "Height": "720",
        },
        "VideoStreamInfoList": [{"Fps": "30.0", "Width": "1280", "Height": "720"}],
    }
    sub = common | {
        "JobId": sub_id,
        "JobIndex": 0,
        "InputGroup": [{"Type": "Media", "Media": job.media_id, "InputUrl": f"{_URL}{job.media_id}.mp4"}],
        "Output": {"Type": "OSS", "Media": f"oss://bucket/{sub_id}.mp4", "OutputUrl": url},
        "OutFileMeta": job.made(meta),
    }
    return common | {
        "TriggerSource": "API",
        "JobCount": 1,
        "Percent": job.percent,
        "InputGroup": [{"Type": "Media", "Media": job.media_id}],
        "TranscodeJobList": [sub],
    }


def _media_convert(job: JobView) -> Json:
    file = {"Type": "OSS", "Media": f"oss://bucket/{job.id}.mp4", "Url": f"{_URL}{job.id}.mp4"}
    output = {"Name": "out-1", "Status": "Complete", "TaskId": job.id, "Result": {"OutputFile": file}}
    return {
        "JobId": job.id,
        "State": job.state("Running", "Complete", "Error", "Cancelled"),
        "Percent": job.percent,
        "PipelineId": other_id("pipeline", job.id),
        "UserData": job.user_data,
        "CreateTime": job.submitted,
        "FinishTime": job.ended,
        "Config": {"Inputs": [{"Name": "in", "InputFile": {"Type": "Media", "Media": job.media_id}}]},
        "OutputDetails": job.made([output]),
        **job.error(),
    }


def _produced(job: JobView) -> Json:
    return {"MediaURL": job.made(f"https://media.example.com/{job.id}.mp4"), "Duration": job.made(15.0)}


def _media_producing(job: JobView) -> Json:
    return {
        "JobId": job.id,
        "ProjectId": other_id("project", job.id),
        "MediaId": job.media_id,
        "Status": job.state("Processing", "Success", "Failed"),
        "Progress": job.percent,
        "UserData": job.user_data,
        "CreateTime": job.submitted,
        "ModifiedTime": job.ended or job.submitted,
        "CompleteTime": job.ended,
        **_produced(job),
        **job.error(),
    }


def _batch_media_producing(job: JobView) -> Json:
    sub = {
        "JobId": other_id("sub", job.id),
        "ProjectId": other_id("project", job.id),
        "Status": job.state("", "Success", "Failed"),
        "MediaId": job.made(job.media_id),
        **_produced(job),
        **job.error("ErrorCode", "ErrorMessage"),
    }
    return {
        "JobId": job.id,
        "JobType": "Script",
        "Status": job.state("Processing", "Finished", "Failed"),
        "UserData": job.user_data,
        "CreateTime": job.submitted,
        "ModifiedTime": job.ended or job.submitted,
        "CompleteTime": job.ended,
        "SubJobList": [sub] if job.is_over else None,
    }


def _workflow_task(job: JobView) -> Json:
    return {
        "TaskId": job.id,
        "Status": job.state("Processing", "Succeed", "Failed", "Canceled"),
        "TaskInput": json.dumps({"Type": "Media", "Media": job.media_id}),
        "ActivityResults": job.told()["MessageBody"]["ActivityResults"] if job.is_over else "{}",
        "UserData": job.user_data,
        "CreateTime": job.submitted,
        "FinishTime": job.ended,
        "Workflow": {"WorkflowId": other_id("workflow", job.id), "Name": "workflow", "Status": "Active"},
    }


def _smart_handle(job: JobView) -> Json:
    times = {"CreateTime": job.submitted, "ModifiedTime": format_time(job.job.ends_at)}
    url = f"https://media.example.com/{job.id}.mp4"
    return {
        "JobId": job.id,
        "State": job.state("Executing", "Finished", "Failed"),
        "UserData": job.user_data,
        "SmartJobInfo": {"Title": "job", "JobType": "ASR", **times},
        "JobResult": job.made({"MediaId": job.media_id, "MediaUrl": url, "AiResult": "[]"}),
        "Output": job.made("{}"),
        **job.error("ErrorCode", "ErrorMessage"),
    }


def _production(job: JobView) -> Json:
    # Why it failed, the reply does not say (SDK).
    return {
        "JobId": job.id,
        "Status": job.state("Analyzing", "Success", "Fail"),
        "UserData": job.user_data,
        "CreateTime": job.submitted,
        "FinishTime": job.ended,
        "FunctionName": "Cover",
        "Input": {"Type": "Media", "Media": job.media_id},
        "OutputUrls": job.made([f"{_URL}{job.id}.jpg"]),
    }


def _media_censor(job: JobView) -> Json:
    return {
        "JobId": job.id,
        "State": job.state("Processing", "Success", "Fail"),
        "UserData": job.user_data,
        "Input": {"Bucket": "bucket", "Location": "oss-cn-shanghai", "Object": f"{job.id}.mp4"},
        "CreationTime": job.submitted,
        "FinishTime": job.ended,
        "Suggestion": job.made("review" if job.job.family == "AIMediaAuditComplete" else "pass"),
        **job.error(),
    }


def _smart_tag(job: JobView) -> Json:
    """The reply does not name the job (SDK)."""
    return {
        "JobStatus": job.state("Processing", "Success", "Fail"),
        "UserData": job.user_data,
        "Results": job.made({"Result": [{"Type": "Meta", "Data": '{"title":"beach"}'}]}),
    }


def query_dna_job_list(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """What was found is in a file, of which the reply has the URL."""
    jobs, _ = sort_out(cloud, "ims", required(parameters, "JobIds").split(","), "AIMediaDNAComplete")
    return {
        "JobList": [
            {
                "Id": job.id,
                "Status": job.state("Analysing", "Success", "Fail"),
                "UserData": job.user_data,
                "Input": {"Type": "Media", "Media": job.media_id},
                "CreationTime": job.submitted,
                "FinishTime": job.ended,
                "DNAResult": job.made(f"{_URL}{job.id}.json"),
                **job.error(),
            }
            for job in jobs
        ]
    }


Action = Callable[["FakeCloud", Mapping[str, str]], Json]


def _get(describe: Callable[[JobView], Json], member: str | None, *families: str, parameter: str = "JobId") -> Action:
    """An action about one job. ``member``: the object of the reply; None where the reply itself is about the job."""

    def get(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
        job = find(cloud, "ims", required(parameters, parameter), *families)
        if job is None:
            raise ApiError(404, "ResourceNotFound", 'The specified resource for "Job" could not be found.')
        return {member: describe(job)} if member else describe(job)

    return get


def _submit(family: str) -> Action:
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
    "GetDynamicImageJob": _get(_dynamic_image, "DynamicImageJob", "DynamicImageComplete"),
    "GetSnapshotJob": _get(_snapshot, "SnapshotJob", "SnapshotComplete"),
    "GetSnapshotUrls": _get(_snapshot_urls, None, "SnapshotComplete"),
    "GetTranscodeJob": _get(_transcode, "TranscodeParentJob", "TranscodeParentComplete", parameter="ParentJobId"),
    "GetMediaConvertJob": _get(_media_convert, "Job", "MediaConvertComplete"),
    "GetMediaProducingJob": _get(_media_producing, "MediaProducingJob", "ProduceMediaComplete"),
    "GetBatchMediaProducingJob": _get(_batch_media_producing, "EditingBatchJob", "BatchProduceMediaComplete"),
    "GetWorkflowTask": _get(_workflow_task, "WorkflowTask", "WorkflowTaskComplete", parameter="TaskId"),
    "GetSmartHandleJob": _get(_smart_handle, None, "SmartJobComplete"),
    "QueryDNAJobList": query_dna_job_list,
    "QueryIProductionJob": _get(_production, None, "AIProduceComplete"),
    "QueryMediaCensorJobDetail": _get(
        _media_censor, "MediaCensorJobDetail", "AIMediaAuditComplete", "AIVideoCensorComplete"
    ),
    "QuerySmarttagJob": _get(_smart_tag, None, "AIVideoTagComplete", "MediaAiAnalysisComplete"),
    "SubmitDynamicImageJob": _submit("DynamicImageComplete"),
    "SubmitSnapshotJob": _submit("SnapshotComplete"),
}
