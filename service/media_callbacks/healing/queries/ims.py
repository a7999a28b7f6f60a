"""
Intelligent Media Services (IMS, also called ICE, 2020-11-09): what became of a job.

One action per job, by its id; the reply holds one object named after the job, or is about the job itself. Its state
alone decides: a documented sample has ``Success`` beside the code ``ResourceNotFound``. Where a job has several
outputs, these decide.

No page says which job an AI event is about. The actions that take the ids of reviews, fingerprints, tags and
intelligent productions are asked on the assumption that they know it; that they do not, proves nothing.

Source: GetDynamicImageJob and the other Get...Job actions, https://www.alibabacloud.com/help/en/ims/developer-reference/;
names of fields as in the SDK alibabacloud_ice20201109 6.20.2.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from media_callbacks.aliyun.calls import ApiRequest, CallApi
from media_callbacks.healing.queries import replies
from media_callbacks.healing.queries.base import Family, JobAnswer
from media_callbacks.healing.queries.replies import Json
from media_callbacks.model.errors import Unparseable, VendorRefused
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.outputs import MAX_SNAPSHOT_URLS, Frozen, ProductionOutput, SnapshotOutput
from media_callbacks.sources.base import Completion, Message, Parsed, expand_urls
from media_callbacks.sources.products import ims
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.products.outcomes import has_outputs, judge_parts, read_outcome
from media_callbacks.sources.products.vod_outputs import animated_image_output, conversion_outputs, conversion_parts
from media_callbacks.sources.reading.fields import Fields, read_object
from media_callbacks.sources.reading.members import read_values

# At most 30 pictures a page (documented).
_PAGE_SIZE = 30
# For how long picture URLs work: 36 hours, the most there is, because consumers may read the event late.
_URL_TIMEOUT_S = 129600


# Outputs


def _animated_image_outputs(job: Fields) -> tuple[Frozen, ...]:
    # The reply has no measurements; the picture has what the template asked for.
    template = job.decoded("TemplateConfig")
    wanted = read_values(messages.AnimatedImageInfo, template if isinstance(template, dict) else {}).message
    return (animated_image_output(wanted, job.text("OutputUrl")),)


def _snapshot_outputs(job: Fields) -> tuple[Frozen, ...]:
    count, word = job.integer("Count"), job.text("Type")
    template = _location(job)
    is_web = template is not None and template.startswith(("http://", "https://"))
    urls = _urls(job.decoded("SnapshotUrls"))
    return (
        SnapshotOutput(
            url_template=template,
            count=count,
            urls=urls or (expand_urls(template, "{Count}", count) if is_web else ()),
            snapshot_type=word.lower() if word else None,
        ),
    )


def _urls(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else []
    urls = [text.strip() for text in texts if isinstance(text, str) and 0 < len(text) <= replies.MAX_URL_LENGTH]
    return tuple(urls[:MAX_SNAPSHOT_URLS])


def _location(job: Fields) -> str | None:
    """Where the output is, unless that is said by the id of an asset."""
    output = job.object("Output")
    return output.text("Media") if output is not None and output.text("Type") != "Media" else None


def _conversion_outputs(job: Fields) -> tuple[Frozen, ...]:
    names = ("TranscodeJobList", "OutputDetails", "OutputGroupDetails")
    body = read_values(messages.Transcode, {name: job.value(name) for name in names}).message
    return conversion_outputs(body, [part for part in conversion_parts(body) if part.get("Status")])


def _convert_details(job: Fields) -> list[Fields]:
    groups = [output for group in job.objects("OutputGroupDetails") for output in group.objects("Outputs")]
    details = [*job.objects("OutputDetails"), *groups]
    return [detail for detail in details if (detail.text("Status") or "").lower() != "skipped"]


def _production_outputs(job: Fields) -> tuple[Frozen, ...]:
    return (_production_output(job),)


def _batch_outputs(job: Fields) -> tuple[Frozen, ...]:
    subs = job.objects("SubJobList")
    return tuple(_production_output(sub) for sub in subs if read_outcome(sub.text("Status")) == "succeeded")


def _smart_outputs(job: Fields) -> tuple[Frozen, ...]:
    result = job.object("JobResult") or Fields({})
    return (ProductionOutput(url=result.text("MediaUrl"), media_id=result.text("MediaId")),)


def _intelligent_outputs(job: Fields) -> tuple[Frozen, ...]:
    urls, ids = _urls(job.decoded("OutputUrls")), job.decoded("OutputMediaIds")
    media_ids = [one for one in ids if isinstance(one, str)] if isinstance(ids, list) else []
    function = job.text("FunctionName")
    return tuple(
        ProductionOutput(url=url, media_id=media_id, function=function)
        for url, media_id in zip_longest(urls, media_ids[:MAX_SNAPSHOT_URLS])
    ) or (ProductionOutput(function=function),)


def _production_output(job: Fields) -> ProductionOutput:
    return ProductionOutput(
        url=job.text("MediaURL"), media_id=job.text("MediaId", "VodMediaId"), project_id=job.text("ProjectId")
    )


# Jobs


@dataclass(frozen=True, slots=True)
class _AskedFamily:
    """
    How one family is asked about.

    Attributes:
        id_name: What both the question and the reply call the job's id.
        member: The object of the reply; None where the reply itself is about the job.
        outputs: Read from the reply; None leaves what the callback's own rule finds.
        state: Where the reply says it.
        parts: The outputs of a job that has several, which decide together how it ended.
        parameter: What the question calls the job's id, where that is another name.
        is_assumed: That the action knows the job is likely and not documented.
    """

    action: str
    member: str | None
    outputs: Callable[[Fields], tuple[Frozen, ...]] | None = None
    id_name: str = "JobId"
    state: str = "Status"
    parts: Callable[[Fields], list[Fields]] | None = None
    parameter: str | None = None
    is_assumed: bool = False


_JOBS: Mapping[str, _AskedFamily] = {
    "DynamicImageComplete": _AskedFamily("GetDynamicImageJob", "DynamicImageJob", _animated_image_outputs),
    "SnapshotComplete": _AskedFamily("GetSnapshotJob", "SnapshotJob", _snapshot_outputs),
    "TranscodeParentComplete": _AskedFamily(
        "GetTranscodeJob",
        "TranscodeParentJob",
        _conversion_outputs,
        "ParentJobId",
        parts=lambda job: job.objects("TranscodeJobList"),
    ),
    "MediaConvertComplete": _AskedFamily(
        "GetMediaConvertJob", "Job", _conversion_outputs, state="State", parts=_convert_details
    ),
    "ProduceMediaComplete": _AskedFamily("GetMediaProducingJob", "MediaProducingJob", _production_outputs),
    # Finished says nothing about the sub jobs.
    "BatchProduceMediaComplete": _AskedFamily(
        "GetBatchMediaProducingJob", "EditingBatchJob", _batch_outputs, parts=lambda job: job.objects("SubJobList")
    ),
    "WorkflowTaskComplete": _AskedFamily("GetWorkflowTask", "WorkflowTask", id_name="TaskId"),
    "SmartJobComplete": _AskedFamily("GetSmartHandleJob", None, _smart_outputs, state="State"),
    "AIProduceComplete": _AskedFamily("QueryIProductionJob", None, _intelligent_outputs, is_assumed=True),
    "AIMediaAuditComplete": _AskedFamily(
        "QueryMediaCensorJobDetail", "MediaCensorJobDetail", replies.review_outputs, state="State", is_assumed=True
    ),
    # Of what it has found there is just the URL of a file.
    "AIMediaDNAComplete": _AskedFamily("QueryDNAJobList", "JobList", parameter="JobIds", is_assumed=True),
    "AIVideoTagComplete": _AskedFamily(
        "QuerySmarttagJob", None, replies.tag_outputs, state="JobStatus", is_assumed=True
    ),
}

# Jobs with an id that no documented query takes. The id of a sub job of a transcoding (TranscodeComplete) is one:
# GetTranscodeJob wants that of its parent. And where two messages could be meant by the jobs of one action, its answers
# are of the one that is named like it: an answer does not tell them apart, and one job must not prove both.
_UNKNOWN_TO_QUERIES = (
    "AIVideoCensorComplete",
    "MediaAiAnalysisComplete",
    "TranscodeComplete",
    "UploadByURLComplete",
    "UploadStreamByURLComplete",
)

# Their messages list several results, each with a status; the reply has one word.
_WITHOUT_PARTS = ("SmartJobComplete", "AIProduceComplete")

FAMILIES: Mapping[str, Family] = {
    **{name: Family(kind=ims.KINDS[name], tells_parts=name not in _WITHOUT_PARTS) for name in _JOBS},
    **{name: Family(kind=ims.KINDS[name], batch=0) for name in _UNKNOWN_TO_QUERIES},
}


def _query(action: str, **parameters: str) -> ApiRequest:
    return ApiRequest(api="ice", action=action, version="2020-11-09", parameters=parameters)


async def ask(references: Sequence[JobReference], call: CallApi) -> Sequence[JobAnswer]:
    """See ``healing.queries.base.Ask``."""
    return [await _ask_one(reference, call) for reference in references]


async def _ask_one(reference: JobReference, call: CallApi) -> JobAnswer:
    job = _JOBS.get(reference.family)
    if job is None:
        return JobAnswer(state="unlearnable", detail=f"IMS has no query for {replies.clip(reference.family)}")

    def read(reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
        return _read(job, reply, reference)

    name = job.parameter or job.id_name
    [answer] = await replies.ask_all([reference], call, lambda ids: _query(job.action, **{name: ids[0]}), read)
    if job.is_assumed and answer.state == "not_found":
        return JobAnswer(state="unlearnable", detail=f"{job.action} does not know it: {answer.detail}")
    if job.action == "GetSnapshotJob" and answer.state == "ended":
        return await _add_snapshot_urls(answer, reference, call)
    return answer


def _read(job: _AskedFamily, reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
    parts = [dict(reply)] if job.member is None else replies.find_objects(reply, job.member, "")
    if not parts:
        return replies.not_there(job.member or "")
    part = replies.find_listed(parts, reference, job.id_name, "Id") or parts[0]
    fields = Fields(part)
    return (
        replies.other_job(reference.job_id or "", fields.text(job.id_name, "Id"))
        or _judge(job, fields)
        or replies.end(part, replies.build_meta(job.action, reference), parse)
    )


def _judge(job: _AskedFamily, part: Fields) -> JobAnswer | None:
    """None when the job ended."""
    word = part.text(job.state)
    unfinished = replies.judge_state(word)
    if unfinished is not None or job.parts is None or read_outcome(word) != "succeeded":
        # Of a job that failed, outputs may never have been begun.
        return unfinished
    if any(replies.judge_state(output.text("Status")) is not None for output in job.parts(part)):
        return JobAnswer(state="pending", detail=f"{word}, but one of its outputs has not ended")
    return None


async def _add_snapshot_urls(answer: JobAnswer, reference: JobReference, call: CallApi) -> JobAnswer:
    """
    The pictures are listed by another action, page by page. Without the right to call it the event has none; that it
    never comes would be worse.
    """
    part: Json = json.loads(answer.body)
    if read_outcome(Fields(part).text("Status")) != "succeeded":
        return answer
    urls: list[str] = []
    for page in range(1, -(-MAX_SNAPSHOT_URLS // _PAGE_SIZE) + 1):
        query = _query(
            "GetSnapshotUrls",
            JobId=reference.job_id or "",
            PageNumber=str(page),
            PageSize=str(_PAGE_SIZE),
            OrderBy="Asc",
            Timeout=str(_URL_TIMEOUT_S),
        )
        try:
            reply = Fields(dict(await call(query)))
        except VendorRefused:
            break
        found = _urls(reply.decoded("SnapshotUrls"))
        urls += found
        total = reply.integer("Total")
        if len(found) < _PAGE_SIZE or (total is not None and len(urls) >= total):
            break
    return replies.end({**part, "SnapshotUrls": urls[:MAX_SNAPSHOT_URLS]}, answer.meta, parse) if urls else answer


# Reading


def parse(message: Message) -> Parsed:
    """
    Read an answer's body.

    Raises:
        Unparseable: It is not about a job that ended.
    """
    part = read_object(message.payload)
    family, job_id = replies.required(message.meta, "family"), replies.required(message.meta, "job_id")
    job = _JOBS.get(family)
    if job is None:
        raise Unparseable(f"expected a family that IMS is asked about, found {replies.clip(family)}")
    if _judge(job, part) is not None:
        raise Unparseable("expected a job that ended, found one that has not")
    body: Json = {
        job.id_name: job_id,
        "MediaId": part.text("MediaId") or _asset(part) or message.meta.get("media_id"),
        "Status": _word(job, part),
        "Code": part.text("Code", "ErrorCode"),
        "Message": part.text("Message", "ErrorMessage"),
        "ActivityResults": part.value("ActivityResults"),
        "UserData": part.verbatim("UserData"),
    }
    callback = {"EventType": family, "EventTime": part.text("FinishTime", "CompleteTime"), "MessageBody": body}

    def amend(completion: Completion) -> None:
        if job.outputs is not None:
            completion.outputs = job.outputs(part) if has_outputs(completion.outcome) else ()

    return replies.read_as_callback(message, callback, ims.parse, amend)


def _word(job: _AskedFamily, part: Fields) -> str | None:
    """The state of the job; where it has several outputs, what they come to."""
    word = part.text(job.state)
    outputs = job.parts(part) if job.parts else []
    if not outputs:
        return word
    words = [output.text("Status") for output in outputs]
    # What never began shares the fate of the whole.
    ended = [None if read_outcome(one) in ("progress", "unknown") else one for one in words]
    outcome = judge_parts(read_outcome(word), ended)
    return "partial-succeeded" if outcome == "partial" else outcome


def _asset(part: Fields) -> str | None:
    """The asset that was made, else the one that was worked on, if it was one and not a file."""
    result = part.object("JobResult")
    if result is not None:
        return result.text("MediaId")
    if "OutputMediaIds" in part:
        made = part.decoded("OutputMediaIds")
        return made[0] if isinstance(made, list) and len(made) == 1 and isinstance(made[0], str) else None
    for name in ("Input", "TaskInput"):
        source = part.object(name)
        if source is not None and source.text("Type") == "Media":
            return source.text("Media")
    config = part.object("Config") or Fields({})
    files = [one.object("InputFile") for one in config.objects("Inputs")]
    inputs = [*part.objects("InputGroup"), *(file for file in files if file is not None)]
    return inputs[0].text("Media") if inputs and inputs[0].text("Type") == "Media" else None
