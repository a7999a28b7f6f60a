"""
ApsaraVideo Media Processing (MTS, 2014-06-18): what became of a job.

Most actions take ten ids. A list in a reply is wrapped twice (``JobList.Job[]``), or flat in a document of 2021; ids
that do not exist are listed beside it, with status 200. Each job says whether its notification was published
(``MNSMessageResult``), so "lost on the way" can be told from "never sent".

Source: QueryJobList and the other Query... actions, https://www.alibabacloud.com/help/en/mps/developer-reference/;
names of fields as in the SDK alibabacloud_mts20140618 6.0.3.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from media_callbacks.aliyun.calls import ApiRequest, CallApi
from media_callbacks.healing.queries import replies
from media_callbacks.healing.queries.base import Family, JobAnswer
from media_callbacks.healing.queries.replies import Json
from media_callbacks.model.errors import Unparseable
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.outputs import (
    FingerprintOutput,
    Frozen,
    MediaInfoOutput,
    ProductionOutput,
    SnapshotOutput,
    TranscodeOutput,
)
from media_callbacks.sources.base import Completion, Message, Parsed, expand_urls
from media_callbacks.sources.products import mts
from media_callbacks.sources.products.outcomes import has_outputs
from media_callbacks.sources.products.vod_outputs import url_suffix
from media_callbacks.sources.reading.fields import Fields, read_object

_BUCKET = re.compile("[a-z0-9-]{3,63}")
_LOCATION = re.compile("oss-[a-z0-9-]{2,40}")


# Outputs


def _object_url(file: Fields | None) -> str | None:
    """
    Where a file is in OSS. Names of objects are percent-encoded in replies (documented), slashes and placeholders
    included, which are spelled as in the callback.
    """
    if file is None:
        return None
    bucket, location, name = file.text("Bucket"), file.text("Location"), file.text("Object")
    if bucket is None or location is None or name is None or len(name) > replies.MAX_URL_LENGTH // 2:
        return None
    if not _BUCKET.fullmatch(bucket) or not _LOCATION.fullmatch(location):
        return None
    path = quote(unquote(name), safe="/{}", errors="replace")
    return f"http://{bucket}.{location}.aliyuncs.com/{path}"


def _snapshot_outputs(job: Fields) -> tuple[Frozen, ...]:
    config = job.object("SnapshotConfig") or Fields({})
    template, count = _object_url(config.object("OutputFile")), job.integer("Count")
    points = config.object("TimeArray") if isinstance(config.decoded("TimeArray"), dict) else None
    return (
        SnapshotOutput(
            url_template=template,
            count=count,
            # A synchronous job makes one picture and says no number.
            urls=expand_urls(template, "{Count}", 1 if count is None else count),
            times_s=tuple(milliseconds / 1000 for milliseconds in points.numbers("TimePointList")) if points else (),
        ),
    )


def _transcode_outputs(job: Fields) -> tuple[Frozen, ...]:
    output = job.object("Output") or Fields({})
    container, url = output.object("Container"), _object_url(output.object("OutputFile"))
    return (
        TranscodeOutput(
            job_id=job.text("JobId"),
            url=url,
            format=(container.text("Format") if container else None) or url_suffix(url),
            **_measurements(output.object("Properties") or Fields({})),
        ),
    )


def _media_info_outputs(job: Fields) -> tuple[Frozen, ...]:
    properties = job.object("Properties")
    return () if properties is None else (MediaInfoOutput(**_measurements(properties)),)


def _measurements(properties: Fields) -> dict[str, Any]:
    return {
        "width": properties.integer("Width"),
        "height": properties.integer("Height"),
        "fps": properties.number("Fps"),
        "bitrate_kbps": properties.number("Bitrate"),
        "duration_s": properties.number("Duration"),
        "size_bytes": properties.integer("FileSize"),
    }


def _production_outputs(job: Fields) -> tuple[Frozen, ...]:
    return (ProductionOutput(function=job.text("FunctionName")),)


def _fingerprint_outputs(job: Fields) -> tuple[Frozen, ...]:
    result = job.object("FpShotResult")
    shots = replies.find_objects(result, "FpShots", "FpShot") if result else []
    return tuple(
        FingerprintOutput(primary_key=shot.text("PrimaryKey"), similarity=shot.number("Similarity"))
        for shot in map(Fields, shots)
    )


def _no_outputs(_: Fields) -> tuple[Frozen, ...]:
    return ()


# Jobs


@dataclass(frozen=True, slots=True)
class _AskedFamily:
    """
    How one family is asked about.

    Attributes:
        type: Of the callback.
        parameter: The ids, or the id.
        member: Of the list in the reply; the object alone, or None, where the reply is about one job.
        missing: The list of the ids that do not exist; None where the question is about one job.
        state: Where the reply says it.
    """

    type: str
    action: str
    parameter: str
    member: str | None = None
    missing: str | None = None
    outputs: Callable[[Fields], tuple[Frozen, ...]] = _no_outputs
    state: str = "State"


_JOBS: Mapping[str, _AskedFamily] = {
    "snapshot": _AskedFamily(
        "Snapshot",
        "QuerySnapshotJobList",
        "SnapshotJobIds",
        "SnapshotJob",
        "NonExistSnapshotJobIds",
        _snapshot_outputs,
    ),
    "transcode": _AskedFamily("Transcode", "QueryJobList", "JobIds", "Job", "NonExistJobIds", _transcode_outputs),
    "mediainfo": _AskedFamily(
        "MediaInfo",
        "QueryMediaInfoJobList",
        "MediaInfoJobIds",
        "MediaInfoJob",
        "NonExistMediaInfoJobIds",
        _media_info_outputs,
    ),
    "analysis": _AskedFamily(
        "Analysis", "QueryAnalysisJobList", "AnalysisJobIds", "AnalysisJob", "NonExistAnalysisJobIds"
    ),
    "fpshot": _AskedFamily("FpShot", "QueryFpShotJobList", "JobIds", "FpShotJob", "NonExistIds", _fingerprint_outputs),
    "run": _AskedFamily(
        "Report", "QueryMediaWorkflowExecutionList", "RunIds", "MediaWorkflowExecution", "NonExistRunIds"
    ),
    "iproduction": _AskedFamily("IProduction", "QueryIProductionJob", "JobId", outputs=_production_outputs),
    "smarttag": _AskedFamily("smarttag", "QuerySmarttagJob", "JobId", outputs=replies.tag_outputs, state="JobStatus"),
    "mediacensor": _AskedFamily(
        "MediaCensor",
        "QueryMediaCensorJobDetail",
        "JobId",
        "MediaCensorJobDetail",
        outputs=replies.review_outputs,
    ),
}

FAMILIES: Mapping[str, Family] = {
    name: Family(
        kind="workflow" if name == "run" else mts.KINDS[name],
        batch=replies.BATCH if job.missing else 1,
        # Its messages list several results, each with a status; the reply has one word.
        tells_parts=name != "iproduction",
    )
    for name, job in _JOBS.items()
}


async def ask(references: Sequence[JobReference], call: CallApi) -> Sequence[JobAnswer]:
    """See ``healing.queries.base.Ask``."""
    family = references[0].family
    job = _JOBS.get(family)
    if job is None:
        return [
            JobAnswer(state="unlearnable", detail=f"MTS has no query for {replies.clip(family)}") for _ in references
        ]

    def query(job_ids: Sequence[str]) -> ApiRequest:
        return ApiRequest(
            api="mts", action=job.action, version="2014-06-18", parameters={job.parameter: ",".join(job_ids)}
        )

    def read(reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
        return _read(job, reply, reference)

    size = replies.BATCH if job.missing else 1
    chunks = [references[start : start + size] for start in range(0, len(references), size)]
    return [answer for chunk in chunks for answer in await replies.ask_all(chunk, call, query, read)]


def _read(job: _AskedFamily, reply: Mapping[str, Any], reference: JobReference) -> JobAnswer:
    if job.missing:
        parts = replies.find_objects(reply, f"{job.member}List", job.member or "")
        part = replies.find_listed(parts, reference, "JobId", "Id", "RunId")
        if part is None:
            return replies.not_listed(reply, job.missing, reference)
    else:
        part = replies.find_object(reply, job.member) if job.member else dict(reply)
        if part is None:
            return replies.not_there(job.member or "")
    fields = Fields(part)
    return (
        (replies.other_job(reference.job_id or "", fields.text("JobId")) if job.missing is None else None)
        or replies.judge_state(fields.text(job.state))
        or _end(job, part, reference)
    )


def _end(job: _AskedFamily, part: Json, reference: JobReference) -> JobAnswer:
    notification = _notification(job, Fields(part))
    return replies.end(part, replies.build_meta(job.action, reference), parse, notification=notification)


def _notification(job: _AskedFamily, part: Fields) -> str | None:
    """What the vendor says of its notification; None for the jobs that say nothing of it."""
    if job.missing is None or job.type == "FpShot":
        return None
    if job.type == "Report":
        activities = map(Fields, _activities(part))
        reports = [activity for activity in activities if (activity.text("Type") or "").lower() == "report"]
        part = reports[0] if reports else Fields({})
    result = part.object("MNSMessageResult") or Fields({})
    code = result.text("ErrorCode")
    # A document's sample has both; what has an id was published.
    if result.text("MessageId"):
        return "sent"
    return f"not sent: {replies.clip(code)}" if code else "not configured"


def _activities(execution: Fields) -> list[Json]:
    return replies.find_objects(execution, "ActivityList", "Activity")


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
        raise Unparseable(f"expected a family that MTS is asked about, found {replies.clip(family)}")
    word = replies.check_ended(part.text(job.state))
    if family == "run":
        return _parse_run(message, part, job_id)
    output = part.object("Output") if family == "transcode" else None
    callback = {
        "Type": job.type,
        "JobId": job_id,
        "State": word,
        "Code": part.text("Code"),
        "Message": part.text("Message"),
        "UserData": part.verbatim("UserData") or (output.verbatim("UserData") if output else None),
    }

    def amend(completion: Completion) -> None:
        completion.outputs = job.outputs(part) if has_outputs(completion.outcome) else ()
        completion.occurred_at = part.time("FinishTime")

    return replies.read_as_callback(message, callback, mts.parse, amend)


def _parse_run(message: Message, execution: Fields, run_id: str) -> Parsed:
    names = ("MediaId", "Input", "State")
    activities = _activities(execution)
    callback = {
        "Type": "Report",
        "RunId": run_id,
        "MediaWorkflowExecution": {
            **{name: execution.value(name) for name in names},
            "RunId": run_id,
            "ActivityList": activities,
        },
    }
    reports = [Fields(activity) for activity in activities if Fields(activity).text("Type") == "Report"]

    def amend(completion: Completion) -> None:
        if completion.family == "run":
            completion.occurred_at = reports[0].time("EndTime") if reports else None

    return replies.read_as_callback(message, callback, mts.parse, amend)
