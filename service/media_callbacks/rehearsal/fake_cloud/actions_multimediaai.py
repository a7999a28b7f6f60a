"""
Multimedia AI, 2019-08-10.

Sources of the replies, field by field: CreateGifTask, GetTaskResult, GetTaskStatus, ListTasks,
https://help.aliyun.com/product/154437.html, and the models of the SDK alibabacloud_multimediaai20190810 1.0.0.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from media_callbacks.rehearsal.fake_cloud.gateway import ApiError
from media_callbacks.rehearsal.fake_cloud.job_view import JobView, find, required, view
from media_callbacks.rehearsal.payloads import Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

_DYNAMIC_COVER = "3"
MAX_PAGE_SIZE = 100


def _find(cloud: "FakeCloud", parameters: Mapping[str, str]) -> JobView:
    job = find(cloud, "multimediaai", required(parameters, "TaskId"), "animated_image")
    if job is None:
        raise ApiError(404, "ResourceNotFound", "The specified resource is not found.")
    return job


def _status(job: JobView) -> int:
    return {None: 1, "succeeded": 2}.get(job.outcome, 3)


def _result(job: JobView) -> Json:
    """What GetTaskResult and ListTasks both say."""
    # Pre-signed, of a text file; with the ampersands as the documented sample has them.
    url = (
        f"http://media.oss-cn-beijing.aliyuncs.com/processResult/{job.id}.txt"
        "?Expires=1893456000&amp;OSSAccessKeyId=fake&amp;Signature=fake"
    )
    reply: Json = {
        "ApplicationId": job.job.application_id,
        "VideoName": job.job.video_name,
        "VideoUrl": job.job.video_url,
        "ProcessResultUrl": job.made(url),
    }
    if job.outcome == "failed":
        reply |= {"ErrorCode": "1000", "ErrorName": "DownloadFail"}
        reply |= dict.fromkeys(("ErrorMessage", "ErrorReason"), "Download fail")
    return reply


def get_task_status(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    return {"Status": _status(_find(cloud, parameters))}


def get_task_result(cloud: "FakeCloud", parameters: Mapping[str, str]) -> Json:
    """The reply does not name the task (documented)."""
    view = _find(cloud, parameters)
    duration_s = (view.job.ends_at - view.job.submitted_at).total_seconds()
    used_s = max(1, round(duration_s)) if view.is_over else None
    return {"Status": _status(view), "Result": _result(view) | {"AnalysisUseTime": used_s}}


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
        task
        for task in (view(cloud, job) for job in reversed(cloud.gif_tasks))
        if is_about_covers
        and parameters.get("TaskId", task.id) == task.id
        and parameters.get("Status", str(_status(task))) == str(_status(task))
    ]
    return {
        "TotalCount": len(tasks),
        "PageNumber": page,
        "PageSize": size,
        "Tasks": [_describe(task) for task in tasks[(page - 1) * size : page * size]],
    }


def _describe(task: JobView) -> Json:
    return {
        "TaskId": int(task.id),
        "ApplicationName": "application",
        "Status": _status(task),
        "CreateTime": task.submitted,
        # A number here, text there; and another number than in the request.
        "Template": {"Id": "1", "Name": "gif"},
        **_result(task),
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
