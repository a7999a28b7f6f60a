"""
Multimedia AI, 2019-08-10.

Sources of the replies, field by field: CreateGifTask, GetTaskResult, GetTaskStatus, ListTasks,
https://help.aliyun.com/product/154437.html, and the models of the SDK alibabacloud_multimediaai20190810 1.0.0.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.job_view import required
from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob, format_time
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

_RUNNING, _SUCCESS, _FAILED = 1, 2, 3
_DYNAMIC_COVER = "3"
MAX_PAGE_SIZE = 100


def _find(cloud: "FakeCloud", parameters: Mapping[str, str]) -> CloudJob:
    job = cloud.find(required(parameters, "TaskId"))
    if job is None or job.product != "multimediaai":
        raise ApiError(404, "ResourceNotFound", "The specified resource is not found.")
    return job


def _status(cloud: "FakeCloud", job: CloudJob) -> int:
    if not job.is_over(cloud.clock()):
        return _RUNNING
    return _SUCCESS if job.outcome == "succeeded" else _FAILED


def _result(cloud: "FakeCloud", job: CloudJob) -> Json:
    """What GetTaskResult and ListTasks both say."""
    reply: Json = {"ApplicationId": job.application_id, "VideoName": job.video_name, "VideoUrl": job.video_url}
    status = _status(cloud, job)
    if status == _SUCCESS:
        # Pre-signed, of a text file; with the ampersands as the documented sample has them.
        reply["ProcessResultUrl"] = (
            f"http://media.oss-cn-beijing.aliyuncs.com/processResult/{job.job_id}.txt"
            "?Expires=1893456000&amp;OSSAccessKeyId=fake&amp;Signature=fake"
        )
    elif status == _FAILED:
        reply |= {
            "ErrorCode": "1000",
            "ErrorName": "DownloadFail",
            "ErrorMessage": "Download fail",
            "ErrorReason": "Download fail",
        }
    return reply


def get_task_status(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    return {"Status": _status(cloud, _find(cloud, parameters))}


def get_task_result(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """The reply does not name the task (documented)."""
    job = _find(cloud, parameters)
    reply: Json = {"Status": _status(cloud, job), "Result": _result(cloud, job)}
    if job.is_over(cloud.clock()):
        reply["Result"]["AnalysisUseTime"] = max(1, round((job.ends_at - job.submitted_at).total_seconds()))
    return reply


def list_tasks(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """Newest first (assumed). No SDK has this action."""
    try:
        page, size = int(required(parameters, "PageNumber")), int(required(parameters, "PageSize"))
    except ValueError:
        raise ApiError(400, "InvalidParameter", "The specified parameter PageNumber is not valid.") from None
    if page < 1 or not 1 <= size <= MAX_PAGE_SIZE:
        raise ApiError(400, "InvalidParameter", "The specified parameter PageSize is not valid.")
    is_about_covers = parameters.get("ServiceType", _DYNAMIC_COVER) == _DYNAMIC_COVER
    tasks = [
        job
        for job in reversed(cloud.gif_tasks)
        if is_about_covers
        and parameters.get("TaskId", job.job_id) == job.job_id
        and ("Status" not in parameters or parameters["Status"] == str(_status(cloud, job)))
    ]
    return {
        "TotalCount": len(tasks),
        "PageNumber": page,
        "PageSize": size,
        "Tasks": [_describe(cloud, job) for job in tasks[(page - 1) * size : page * size]],
    }


def _describe(cloud: "FakeCloud", job: CloudJob) -> Json:
    return {
        "TaskId": int(job.job_id),
        "ApplicationName": "application",
        "Status": _status(cloud, job),
        "CreateTime": format_time(job.submitted_at),
        # A number here, text there; and another number than in the request.
        "Template": {"Id": "1", "Name": "gif"},
        **_result(cloud, job),
    }


def create_gif_task(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    required(parameters, "TemplateId")
    job = cloud.rehearse(
        "multimediaai",
        "animated_image",
        application_id=required(parameters, "ApplicationId"),
        video_url=required(parameters, "VideoUrl"),
        video_name=required(parameters, "VideoName"),
        callback_url=required(parameters, "CallbackUrl"),
    )
    return {"TaskId": int(job.job_id), "Code": "OK"}


ACTIONS = {
    "CreateGifTask": create_gif_task,
    "GetTaskStatus": get_task_status,
    "GetTaskResult": get_task_result,
    "ListTasks": list_tasks,
}
