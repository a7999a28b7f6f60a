"""
Multimedia AI (multimediaai, 2019-08-10): what became of a CreateGifTask.

GetTaskStatus is asked first, because it is cheap, then GetTaskResult, which repeats what was submitted: only if that
reproduces what the minted URL is bound to, the task is the one that the URL was made for. Where no task id is known,
ListTasks is searched.

Source: GetTaskStatus, GetTaskResult, ListTasks, https://help.aliyun.com/product/154437.html; names of fields as in the
SDK alibabacloud_multimediaai20190810 1.0.0. ListTasks is in no SDK.
"""

import html
import re
from collections.abc import Mapping, Sequence

from media_callbacks.aliyun.calls import ApiRequest, CallApi
from media_callbacks.healing.queries import replies
from media_callbacks.healing.queries.base import Family, JobAnswer
from media_callbacks.model.errors import Unparseable, VendorError, VendorRefused, VendorUnavailable
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.outputs import AnimatedImageOutput
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.sources.products.multimediaai import RETRYABLE
from media_callbacks.sources.products.outcomes import read_error
from media_callbacks.sources.products.vod_outputs import url_suffix
from media_callbacks.sources.reading.fields import Fields, read_object
from media_callbacks.sources.transports.url_tokens import bind_task

# One search of the list serves as many.
FAMILIES: Mapping[str, Family] = {"animated_image": Family(kind="animated_image", batch=20)}

_TASK_ID = re.compile("[1-9][0-9]{0,18}")
_PAGE_SIZE = 100
# 5,000 tasks. The order of the list is not documented.
_MAX_PAGES = 50
# ServiceType of ListTasks: 3 is "dynamic cover".
_ANIMATED_IMAGES = "3"


def _query(action: str, **parameters: str) -> ApiRequest:
    return ApiRequest(api="multimediaai", action=action, version="2019-08-10", parameters=parameters)


async def ask(references: Sequence[JobReference], call: CallApi) -> Sequence[JobAnswer | VendorError]:
    """See ``healing.queries.base.Ask``. Tasks are asked about one by one."""
    found: list[JobAnswer | VendorError] = []
    task_ids: Mapping[int, str] | VendorError = {}
    nameless = {place: reference for place, reference in enumerate(references) if not reference.job_id}
    if nameless:
        try:
            task_ids = await _find_tasks(nameless, call)
        except VendorError as error:
            task_ids = error
    for place, reference in enumerate(references):
        last = found[-1] if found else None
        if isinstance(last, VendorUnavailable) and last.is_throttled:
            found.append(last)
        elif not reference.job_id and isinstance(task_ids, VendorError):
            found.append(task_ids)
        else:
            task_id = reference.job_id or (task_ids.get(place) if isinstance(task_ids, Mapping) else None)
            try:
                found.append(await _ask_one(reference, task_id, call))
            except VendorError as error:
                found.append(error)
    return found


async def _ask_one(reference: JobReference, task_id: str | None, call: CallApi) -> JobAnswer:
    if task_id is None:
        return JobAnswer(state="not_found", detail="no task in the list is the one that the URL was made for")
    if not _TASK_ID.fullmatch(task_id):
        return JobAnswer(state="not_found", detail="expected a task id of 1 to 19 digits")
    try:
        status = Fields(dict(await call(_query("GetTaskStatus", TaskId=task_id))))
        if (unfinished := _judge(status)) is not None:
            return unfinished
        reply = dict(await call(_query("GetTaskResult", TaskId=task_id)))
    except VendorRefused as error:
        return replies.refusal(error)
    if (unfinished := _judge(Fields(reply))) is not None:
        return unfinished
    result = replies.find_object(reply, "Result")
    if result is None:
        return JobAnswer(state="pending", detail="the task ended, but the reply has no Result")
    if not _is_bound(Fields(result), reference):
        return JobAnswer(
            state="foreign", detail=f"task {task_id} is for another application or video than the URL was made for"
        )
    meta = {"action": "GetTaskResult", "job_id": task_id}
    if reference.nonce:
        meta["nonce"] = reference.nonce
    return replies.end(reply, meta, parse)


def _judge(reply: Fields) -> JobAnswer | None:
    """None when the status is 2 (success) or 3 (failed); 0 is submitting, 1 running."""
    word = reply.text("Status")
    if word in ("2", "3"):
        return None
    if word in ("0", "1"):
        return JobAnswer(state="pending")
    return JobAnswer(
        state="pending", detail=f"{replies.clip(word)} is not a known state" if word else "the reply has no state"
    )


async def _find_tasks(references: Mapping[int, JobReference], call: CallApi) -> Mapping[int, str]:
    """
    The task ids of minted URLs, by place: the lowest where several tasks of a page fit, as a URL is bound to the first.

    Raises:
        VendorError: The list can't be read.
    """
    found: dict[int, int] = {}
    for page in range(1, _MAX_PAGES + 1):
        query = _query("ListTasks", PageNumber=str(page), PageSize=str(_PAGE_SIZE), ServiceType=_ANIMATED_IMAGES)
        reply = await call(query)
        tasks = [Fields(task) for task in replies.find_objects(reply, "Tasks", "Task")]
        for task in tasks:
            task_id = task.text("TaskId")
            if task_id is None or not _TASK_ID.fullmatch(task_id):
                continue
            for place, reference in references.items():
                if _is_of_url(task, reference):
                    found[place] = min(int(task_id), found.get(place, int(task_id)))
        total = Fields(dict(reply)).integer("TotalCount")
        if not tasks or len(found) == len(references) or (total is not None and page * _PAGE_SIZE >= total):
            break
    return {place: str(task_id) for place, task_id in found.items()}


def _is_of_url(task: Fields, reference: JobReference) -> bool:
    return _has_nonce(task, reference) or (reference.bind is not None and reference.bind in _binds(task))


def _is_bound(task: Fields, reference: JobReference) -> bool:
    """
    Whether this is the task that the URL was made for. The URL of the video may come back in another encoding; then the
    nonce, which nobody else knows, tells by its place in the name. What came with no URL is bound to nothing.
    """
    return reference.bind is None or reference.bind in _binds(task) or _has_nonce(task, reference)


def _binds(task: Fields) -> set[str]:
    """What a URL would be bound to that was minted for this task, in lower-case hexadecimal, HTML entities or not."""
    names = ("ApplicationId", "VideoUrl", "VideoName")
    texts = [task.verbatim(name) or "" for name in names]
    spellings = (texts, [html.unescape(text) for text in texts])
    return {bind_task(*map(_encodable, spelling)).hex() for spelling in spellings}


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _has_nonce(task: Fields, reference: JobReference) -> bool:
    name = task.text("VideoName")
    return bool(reference.nonce and name and reference.nonce in name.lower())


# Reading


def parse(message: Message) -> Parsed:
    """
    Read an answer's body.

    Raises:
        Unparseable: It is not about a task that ended.
    """
    reply = read_object(message.payload)
    task_id, nonce = replies.required(message.meta, "job_id"), message.meta.get("nonce")
    if _judge(reply) is not None:
        raise Unparseable("expected Status 2 or 3 of a task that ended, found another")
    result = reply.object("Result") or Fields({})
    is_success = reply.text("Status") == "2"
    url = _result_url(result)
    completion = Completion(
        family="animated_image",
        id=(nonce or task_id,),
        kind="animated_image",
        outcome="succeeded" if is_success else "failed",
        vendor_event="CreateGifTask",
        job_id=task_id,
        outputs=(AnimatedImageOutput(url=url, format=url_suffix(url)),) if is_success and url else (),
        error=None
        if is_success
        else read_error(
            result,
            "failed",
            code=("ErrorName", "ErrorCode"),
            message=("ErrorMessage", "ErrorReason"),
            retryable=RETRYABLE,
        ),
        subject=nonce or task_id,
        binding=task_id if nonce else None,
    )
    return Parsed((completion,), reply.warnings)


def _result_url(result: Fields) -> str | None:
    """
    The only result that there is: a pre-signed URL of a text file about the picture, hence with format ``txt``. Its
    ampersands come as HTML entities (documented sample).
    """
    text = result.text("ProcessResultUrl")
    if text is None or len(text) > replies.MAX_URL_LENGTH:
        return None
    url = html.unescape(text)
    return url if url.startswith(("http://", "https://")) else None
