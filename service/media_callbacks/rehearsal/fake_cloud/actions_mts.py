"""
MTS (ApsaraVideo Media Processing), 2014-06-18.

Lists are wrapped twice, ids of which there is no job come back in a list of their own, and all numbers of snapshots
are text. Sources of the replies, field by field: the pages of the actions below
https://www.alibabacloud.com/help/en/mts/developer-reference/ (QuerySnapshotJobList:
.../api-mts-2014-06-18-querysnapshotjoblist) and the models of the SDK alibabacloud_mts20140618 6.0.3.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.job_view import JobView, find, required, sort_out, view
from media_callbacks.rehearsal.fake_cloud.jobs import other_id
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

# Documented for all of these actions.
MAX_IDS = 10
PIPELINE_ID = "dd3dae411e704030b921e52698e50001"
_PROPERTIES = {
    "Bitrate": "925",
    "Duration": "15.0",
    "FileFormat": "mp4",
    "FileSize": "1815321",
    "Fps": "30",
    "Height": "720",
    "Width": "1280",
}


def _file(job: JobView, suffix: str) -> Json:
    # Names of objects are URL-encoded in replies (documented in the samples of the queues).
    return {"Bucket": "bucket", "Location": "oss-cn-hangzhou", "Object": quote(f"media/{job.id}{suffix}", safe="")}


def _notification(job: JobView) -> Json:
    """
    ``MNSMessageResult``, once the job has ended: whether its notification was published. It is absent where there is
    nobody to notify.
    """
    if job.job.notification == "none" or not job.is_over:
        return {}
    if job.job.notification == "published":
        return {"MNSMessageResult": {"MessageId": job.job.message_id}}
    error = {"ErrorCode": "QueueNotExist", "ErrorMessage": "The queue name you provided is not exist."}
    return {"MNSMessageResult": error}


def _common(job: JobView) -> Json:
    """What every job of a pipeline has, by whatever name it goes."""
    return {"PipelineId": PIPELINE_ID, "CreationTime": job.submitted, **_notification(job), **job.error()}


def _snapshot(job: JobView) -> Json:
    return {
        "Id": job.id,
        "State": job.state("Snapshoting", "Success", "Fail"),
        "Input": _file(job, ".mp4"),
        "SnapshotConfig": {
            "OutputFile": _file(job, "-{Count}.jpg"),
            "TimeArray": {"TimePointList": [1000, 2500]},
            "FrameType": "intra",
        },
        "Count": job.made("2"),
        "UserData": job.user_data,
        **_common(job),
    }


def _transcode(job: JobView) -> Json:
    media_format = {"FormatName": "mp4", "Duration": "15.0", "Size": "1815321"}
    return {
        "JobId": job.id,
        "State": job.state("Transcoding", "TranscodeSuccess", "TranscodeFail", "TranscodeCancelled"),
        "Percent": job.percent,
        "SubmitTime": job.submitted,
        "FinishTime": job.ended,
        "Input": _file(job, "-in.mp4"),
        "Output": {
            "OutputFile": _file(job, ".mp4"),
            "TemplateId": other_id("template", job.id),
            "UserData": job.user_data,
            "Properties": job.made({**_PROPERTIES, "Format": media_format}),
        },
        **_common(job),
    }


def _media_info(job: JobView) -> Json:
    return {
        "JobId": job.id,
        "State": job.state("Analyzing", "Success", "Fail"),
        "Async": True,
        "Input": _file(job, ".mp4"),
        "Properties": job.made(_PROPERTIES),
        "UserData": job.user_data,
        **_common(job),
    }


def _analysis(job: JobView) -> Json:
    return {
        "Id": job.id,
        "State": job.state("Analyzing", "Success", "Fail"),
        "Percent": job.percent,
        "Priority": "6",
        "InputFile": _file(job, ".mp4"),
        "TemplateList": job.made({"Template": [{"Id": "S00000001-200010", "Name": "MP4-SD", "State": "Normal"}]}),
        "UserData": job.user_data,
        **_common(job),
    }


def _run(job: JobView) -> Json:
    started, ended = job.submitted, job.ended
    activities: list[Json] = [
        {"Name": "Act-Start", "Type": "Start", "State": "Success", "StartTime": started, "EndTime": started},
        {
            "Name": "HD",
            "Type": "Transcode",
            "JobId": other_id("transcode", job.id),
            "State": job.state("Running", "Success", "Fail", "Fail"),
            "StartTime": started,
            "EndTime": ended,
            **job.error(),
        },
    ]
    if job.is_over:
        report = {"Name": "Act-Report", "Type": "Report", "State": "Success", "StartTime": ended, "EndTime": ended}
        activities.append(report | _notification(job))
    return {
        "RunId": job.id,
        "Name": "base",
        "MediaWorkflowId": other_id("workflow", "mts"),
        "MediaId": job.media_id,
        # One in which an activity failed is Completed all the same (documented).
        "State": job.state("Running", "Completed", "Fail", "Completed"),
        "CreationTime": started,
        "Input": {"InputFile": _file(job, ".mp4"), "UserData": job.user_data},
        "ActivityList": {"Activity": activities},
    }


def _young(job: JobView) -> Json:
    """What the younger families have in common; nothing of notifications."""
    return {
        "State": job.state("Processing", "Success", "Fail"),
        "PipelineId": PIPELINE_ID,
        "CreationTime": job.submitted,
        "FinishTime": job.ended,
        "UserData": job.user_data,
        **job.error(),
    }


def _fingerprint(job: JobView) -> Json:
    shots = {"FpShot": [{"PrimaryKey": "known-1", "Similarity": "0.87"}]}
    return _young(job) | {
        "Id": job.id,
        "InputFile": _file(job, ".mp4"),
        "FpShotResult": job.made({"FpShots": shots}),
    }


def _production(job: JobView) -> Json:
    # Neither times nor an error of its own (SDK).
    return {
        "JobId": job.id,
        "State": job.state("Processing", "Success", "Fail"),
        "PipelineId": PIPELINE_ID,
        "UserData": job.user_data,
        "FunctionName": "AudioMixing",
        "Input": "{}",
        "JobParams": "{}",
    }


def _smart_tag(job: JobView) -> Json:
    """The reply does not name the job, and calls its state by another name (SDK)."""
    return {
        "JobStatus": job.state("Processing", "Success", "Fail"),
        "Message": job.error().get("Message"),
        "UserData": job.user_data,
        "Results": job.made({"Result": [{"Type": "Meta", "Data": '{"title":"beach"}'}]}),
    }


def _media_censor(job: JobView) -> Json:
    detail = _young(job) | {"JobId": job.id, "Input": _file(job, ".mp4"), "Suggestion": job.made("review")}
    return {"MediaCensorJobDetail": detail}


Action = Callable[["FakeCloud", Mapping[str, str]], Json]


def _query(
    describe: Callable[[JobView], Json],
    family: str,
    member: str,
    parameter: str = "JobIds",
    absent: str = "NonExistJobIds",
    *,
    inner: str = "String",
) -> Action:
    """An action that takes up to ten ids. ``absent``, ``inner``: where those are that there are not."""

    def query(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
        ids = [part.strip() for part in required(parameters, parameter).split(",") if part.strip()]
        if not 0 < len(ids) <= MAX_IDS:
            raise ApiError(400, "InvalidParameter", f"The specified parameter {parameter} is not valid.")
        found, missing = sort_out(cloud, "mts", ids, family)
        return {f"{member}List": {member: [describe(job) for job in found]}, absent: {inner: missing}}

    return query


def _get(describe: Callable[[JobView], Json], family: str) -> Action:
    """An action that takes one id."""

    def get(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
        job_id = required(parameters, "JobId")
        job = find(cloud, "mts", job_id, family)
        if job is None:
            # Assumed: no page says how an unknown job is answered.
            raise ApiError(404, "InvalidJobId.NotFound", f"The specified job {job_id} does not exist.")
        return describe(job)

    return get


def submit_snapshot_job(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    required(parameters, "Input")
    required(parameters, "SnapshotConfig")
    job = cloud.rehearse("mts", "snapshot", user_data=parameters.get("UserData"))
    return {"SnapshotJob": _snapshot(view(cloud, job))}


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
        results.append({"Success": True, "Job": _transcode(view(cloud, job)) | {"State": "Submitted", "Percent": 0}})
    return {"JobResultList": {"JobResult": results}}


ACTIONS = {
    "QuerySnapshotJobList": _query(_snapshot, "snapshot", "SnapshotJob", "SnapshotJobIds", "NonExistSnapshotJobIds"),
    "QueryJobList": _query(_transcode, "transcode", "Job"),
    "QueryMediaInfoJobList": _query(
        _media_info, "mediainfo", "MediaInfoJob", "MediaInfoJobIds", "NonExistMediaInfoJobIds"
    ),
    "QueryAnalysisJobList": _query(_analysis, "analysis", "AnalysisJob", "AnalysisJobIds", "NonExistAnalysisJobIds"),
    "QueryMediaWorkflowExecutionList": _query(
        _run, "run", "MediaWorkflowExecution", "RunIds", "NonExistRunIds", inner="RunId"
    ),
    "QueryFpShotJobList": _query(_fingerprint, "fpshot", "FpShotJob", absent="NonExistIds"),
    "QueryIProductionJob": _get(_production, "iproduction"),
    "QuerySmarttagJob": _get(_smart_tag, "smarttag"),
    "QueryMediaCensorJobDetail": _get(_media_censor, "mediacensor"),
    "SubmitSnapshotJob": submit_snapshot_job,
    "SubmitJobs": submit_jobs,
}
