"""
MTS (ApsaraVideo Media Processing), 2014-06-18.

Lists are wrapped twice, ids of which there is no job come back in a list of their own, and all numbers of snapshots
are text. Sources of the replies, field by field: the pages of the actions below
https://www.alibabacloud.com/help/en/mts/developer-reference/ (QuerySnapshotJobList:
.../api-mts-2014-06-18-querysnapshotjoblist) and the models of the SDK alibabacloud_mts20140618 6.0.3.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from media_callbacks.rehearsal.fake_cloud.actions_vod import required
from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.jobs import FAILURE, CloudJob, format_time, other_id
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

# Documented for all of these actions.
MAX_IDS = 10
PIPELINE_ID = "dd3dae411e704030b921e52698e50001"
_STATES = {"succeeded": "Success", "failed": "Fail"}
_PROPERTIES = {
    "Bitrate": "925",
    "Duration": "15.0",
    "FileFormat": "mp4",
    "FileSize": "1815321",
    "Fps": "30",
    "Height": "720",
    "Width": "1280",
}


def _ids(parameters: Mapping[str, str], name: str) -> list[str]:
    ids = [part.strip() for part in required(parameters, name).split(",") if part.strip()]
    if not 0 < len(ids) <= MAX_IDS:
        raise ApiError(400, "InvalidParameter", f"The specified parameter {name} is not valid.")
    return ids


def _sort_out(cloud: "FakeCloud", ids: Sequence[str], family: str) -> tuple[list[CloudJob], list[str]]:
    """The jobs, and the ids of which there is none."""
    found, absent = [], []
    for job_id in ids:
        job = cloud.find(job_id)
        if job is not None and job.product == "mts" and job.family == family:
            found.append(job)
        else:
            absent.append(job_id)
    return found, absent


def _file(job: CloudJob, suffix: str) -> Json:
    # Names of objects are URL-encoded in replies (documented in the samples of the queues).
    return {"Bucket": "bucket", "Location": "oss-cn-hangzhou", "Object": quote(f"media/{job.job_id}{suffix}", safe="")}


def notification(cloud: "FakeCloud", job: CloudJob) -> Json:
    """
    ``MNSMessageResult``, once the job has ended: whether its notification was published. It is absent where there is
    nobody to notify.
    """
    if job.notification == "none" or not job.is_over(cloud.clock()):
        return {}
    if job.notification == "published":
        return {"MNSMessageResult": {"MessageId": job.message_id}}
    error = {"ErrorCode": "QueueNotExist", "ErrorMessage": "The queue name you provided is not exist."}
    return {"MNSMessageResult": error}


def _common(cloud: "FakeCloud", job: CloudJob) -> Json:
    """What every job has, by whatever name it goes."""
    reply: Json = {
        "PipelineId": PIPELINE_ID,
        "CreationTime": format_time(job.submitted_at),
        **notification(cloud, job),
    }
    if job.outcome == "failed" and job.is_over(cloud.clock()):
        reply |= {"Code": FAILURE[0], "Message": FAILURE[1]}
    return reply


def _snapshot(cloud: "FakeCloud", job: CloudJob) -> Json:
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "Id": job.job_id,
        "State": _STATES[job.outcome] if is_over else "Snapshoting",
        "Input": _file(job, ".mp4"),
        "SnapshotConfig": {
            "OutputFile": _file(job, "-{Count}.jpg"),
            "TimeArray": {"TimePointList": [1000, 2500]},
            "FrameType": "intra",
        },
        "UserData": job.user_data,
        **_common(cloud, job),
    }
    return reply | {"Count": "2"} if is_over and job.outcome == "succeeded" else reply


def _transcode(cloud: "FakeCloud", job: CloudJob) -> Json:
    is_over = job.is_over(cloud.clock())
    states = {"succeeded": "TranscodeSuccess", "failed": "TranscodeFail", "cancelled": "TranscodeCancelled"}
    output: Json = {
        "OutputFile": _file(job, ".mp4"),
        "TemplateId": other_id("template", job.job_id),
        "UserData": job.user_data,
    }
    if is_over and job.outcome == "succeeded":
        output["Properties"] = {**_PROPERTIES, "Format": {"FormatName": "mp4", "Duration": "15.0", "Size": "1815321"}}
    reply: Json = {
        "JobId": job.job_id,
        "State": states[job.outcome] if is_over else "Transcoding",
        "Percent": 100 if is_over else 50,
        "SubmitTime": format_time(job.submitted_at),
        "Input": _file(job, "-in.mp4"),
        "Output": output,
        **_common(cloud, job),
    }
    return reply | {"FinishTime": format_time(job.ends_at)} if is_over else reply


def _media_info(cloud: "FakeCloud", job: CloudJob) -> Json:
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "JobId": job.job_id,
        "State": _STATES[job.outcome] if is_over else "Analyzing",
        "Async": True,
        "Input": _file(job, ".mp4"),
        "UserData": job.user_data,
        **_common(cloud, job),
    }
    return reply | {"Properties": _PROPERTIES} if is_over and job.outcome == "succeeded" else reply


def _analysis(cloud: "FakeCloud", job: CloudJob) -> Json:
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "Id": job.job_id,
        "State": _STATES[job.outcome] if is_over else "Analyzing",
        "Percent": 100 if is_over else 50,
        "Priority": "6",
        "InputFile": _file(job, ".mp4"),
        "UserData": job.user_data,
        **_common(cloud, job),
    }
    if is_over and job.outcome == "succeeded":
        reply["TemplateList"] = {"Template": [{"Id": "S00000001-200010", "Name": "MP4-SD", "State": "Normal"}]}
    return reply


def _run(cloud: "FakeCloud", job: CloudJob) -> Json:
    is_over = job.is_over(cloud.clock())
    started, ended = format_time(job.submitted_at), format_time(job.ends_at)
    transcode: Json = {
        "Name": "HD",
        "Type": "Transcode",
        "JobId": other_id("transcode", job.job_id),
        "State": ("Success" if job.outcome == "succeeded" else "Fail") if is_over else "Running",
        "StartTime": started,
    }
    if is_over:
        transcode["EndTime"] = ended
        if job.outcome != "succeeded":
            transcode |= {"Code": FAILURE[0], "Message": FAILURE[1]}
    activities: list[Json] = [
        {"Name": "Act-Start", "Type": "Start", "State": "Success", "StartTime": started, "EndTime": started},
        transcode,
    ]
    if is_over:
        report = {"Name": "Act-Report", "Type": "Report", "State": "Success", "StartTime": ended, "EndTime": ended}
        activities.append(report | notification(cloud, job))
    # A run in which an activity failed is Completed all the same (documented).
    state = ("Fail" if job.outcome == "failed" else "Completed") if is_over else "Running"
    return {
        "RunId": job.job_id,
        "Name": "base",
        "MediaWorkflowId": other_id("workflow", "mts"),
        "MediaId": job.media_id,
        "State": state,
        "CreationTime": started,
        "Input": {"InputFile": _file(job, ".mp4"), "UserData": job.user_data},
        "ActivityList": {"Activity": activities},
    }


def _fingerprint(cloud: "FakeCloud", job: CloudJob) -> Json:
    reply = _young(cloud, job) | {"Id": job.job_id, "InputFile": _file(job, ".mp4")}
    if job.outcome == "succeeded" and job.is_over(cloud.clock()):
        shots = [{"PrimaryKey": "known-1", "Similarity": "0.87"}]
        reply["FpShotResult"] = {"FpShots": {"FpShot": shots}}
    return reply


def _young(cloud: "FakeCloud", job: CloudJob) -> Json:
    """What the younger families have in common; nothing of notifications."""
    is_over = job.is_over(cloud.clock())
    reply: Json = {
        "State": _STATES[job.outcome] if is_over else "Processing",
        "PipelineId": PIPELINE_ID,
        "CreationTime": format_time(job.submitted_at),
        "UserData": job.user_data,
    }
    if is_over:
        reply["FinishTime"] = format_time(job.ends_at)
        if job.outcome == "failed":
            reply |= {"Code": FAILURE[0], "Message": FAILURE[1]}
    return reply


def _find(cloud: "FakeCloud", parameters: Mapping[str, str], family: str) -> CloudJob:
    job_id = required(parameters, "JobId")
    found = cloud.find(job_id)
    if found is None or found.product != "mts" or found.family != family:
        # Assumed: no page says how an unknown job is answered.
        raise ApiError(404, "InvalidJobId.NotFound", f"The specified job {job_id} does not exist.")
    return found


def query_production(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = _find(cloud, parameters, "iproduction")
    # Neither times nor an error of its own (SDK).
    reply = {name: _young(cloud, job)[name] for name in ("State", "PipelineId", "UserData")}
    return reply | {"JobId": job.job_id, "FunctionName": "AudioMixing", "Input": "{}", "JobParams": "{}"}


def query_smart_tag(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """The reply does not name the job, and calls its state by another name (SDK)."""
    job = _find(cloud, parameters, "smarttag")
    described = _young(cloud, job)
    reply: Json = {"JobStatus": described["State"], "Message": described.get("Message"), "UserData": job.user_data}
    if described["State"] == "Success":
        reply["Results"] = {"Result": [{"Type": "Meta", "Data": '{"title":"beach"}'}]}
    return reply


def query_media_censor(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    job = _find(cloud, parameters, "mediacensor")
    detail = _young(cloud, job) | {"JobId": job.job_id, "Input": _file(job, ".mp4")}
    return {"MediaCensorJobDetail": detail | ({"Suggestion": "review"} if detail["State"] == "Success" else {})}


def _query(
    family: str,
    parameter: str,
    lists: tuple[str, str],
    absent_lists: tuple[str, str],
    describe: Callable[["FakeCloud", CloudJob], Json],
) -> Callable[["FakeCloud", Mapping[str, str]], Json]:
    """An action that takes up to ten ids. Names of lists: the outer and the inner one."""

    def query(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
        found, absent = _sort_out(cloud, _ids(parameters, parameter), family)
        return {
            lists[0]: {lists[1]: [describe(cloud, job) for job in found]},
            absent_lists[0]: {absent_lists[1]: absent},
        }

    return query


def submit_snapshot_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    required(parameters, "Input")
    required(parameters, "SnapshotConfig")
    job = cloud.rehearse("mts", "snapshot", user_data=parameters.get("UserData"))
    return {"SnapshotJob": _snapshot(cloud, job)}


def submit_jobs(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """One job for each output."""
    required(parameters, "Input")
    try:
        outputs = [dict(output) for output in json.loads(required(parameters, "Outputs"))]
    except (ValueError, TypeError):
        raise ApiError(400, "InvalidParameter", "The specified parameter Outputs is not valid.") from None
    results = []
    for output in outputs:
        user_data = output.get("UserData")
        job = cloud.rehearse("mts", "transcode", user_data=None if user_data is None else str(user_data))
        results.append({"Success": True, "Job": _transcode(cloud, job) | {"State": "Submitted", "Percent": 0}})
    return {"JobResultList": {"JobResult": results}}


ACTIONS = {
    "QuerySnapshotJobList": _query(
        "snapshot",
        "SnapshotJobIds",
        ("SnapshotJobList", "SnapshotJob"),
        ("NonExistSnapshotJobIds", "String"),
        _snapshot,
    ),
    "QueryJobList": _query("transcode", "JobIds", ("JobList", "Job"), ("NonExistJobIds", "String"), _transcode),
    "QueryMediaInfoJobList": _query(
        "mediainfo",
        "MediaInfoJobIds",
        ("MediaInfoJobList", "MediaInfoJob"),
        ("NonExistMediaInfoJobIds", "String"),
        _media_info,
    ),
    "QueryAnalysisJobList": _query(
        "analysis",
        "AnalysisJobIds",
        ("AnalysisJobList", "AnalysisJob"),
        ("NonExistAnalysisJobIds", "String"),
        _analysis,
    ),
    "QueryMediaWorkflowExecutionList": _query(
        "run",
        "RunIds",
        ("MediaWorkflowExecutionList", "MediaWorkflowExecution"),
        ("NonExistRunIds", "RunId"),
        _run,
    ),
    "QueryFpShotJobList": _query(
        "fpshot", "JobIds", ("FpShotJobList", "FpShotJob"), ("NonExistIds", "String"), _fingerprint
    ),
    "QueryIProductionJob": query_production,
    "QuerySmarttagJob": query_smart_tag,
    "QueryMediaCensorJobDetail": query_media_censor,
    "SubmitSnapshotJob": submit_snapshot_job,
    "SubmitJobs": submit_jobs,
}
