"""
ApsaraVideo Media Processing (MTS, now MPS, API 2014-06-18): what each message means.

Two shapes: job messages of a pipeline, flat, with every key in two spellings (``jobId``/``JobId``); and workflow
messages with a ``MediaWorkflowExecution``, one when the Start activity and one when the Report activity ends. Both
carry the same RunId, so a receiver that deduplicates by RunId alone swallows the Report: Start and run have
different families here.

Source: "Receive notifications", https://www.alibabacloud.com/help/en/mps/receive-notifications; workflows:
AddMedia; IProduction, smarttag, MediaCensor and FpShot: the pages of their submit and query actions.
"""

from collections.abc import Mapping

from service.errors import Unparseable
from service.events import (
    AiOutput,
    EventError,
    FingerprintOutput,
    Frozen,
    Kind,
    Outcome,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    WorkflowOutput,
)
from service.sources.base import Completion, Message, Parsed, expand_urls
from service.sources.fields import Fields, read_object
from service.sources.outcomes import has_outputs, judge, read_error, read_outcome

# Type in lower case, which is also the family of the key.
KINDS: Mapping[str, Kind] = {
    "transcode": "transcode",
    "snapshot": "snapshot",
    "mediainfo": "media_info",
    "analysis": "analysis",
    "iproduction": "production",
    "mediacensor": "review",
    "fpshot": "fingerprint",
    "smarttag": "ai",
}

# "Error codes" of MPS and of SubmitSnapshotJob. A timed-out synchronous snapshot must not be tried again but be
# made asynchronous (FAQ); a transient network error may be.
RETRYABLE: Mapping[str, bool] = {
    "TransientNetWorkError": True,
    "Throttling": True,
    "SnapshotTimeOut": False,
    "InvalidParameter": False,
    "InvalidIdentity": False,
    "PermissionDenied.ResourceAccess": False,
    "EntityNotExist": False,
    "NotSupportedJob": False,
}

_CODE, _MESSAGE = ("Code",), ("Msg", "Message")


def parse(message: Message) -> Parsed:
    """
    Read one notification.

    Raises:
        Unparseable: Not JSON, without a type, or of a known type without the id that identifies it.
    """
    fields = read_object(message.payload)
    message_type = fields.text("Type")
    word = (message_type or "").lower()
    execution = fields.object("MediaWorkflowExecution")
    if execution is not None or (word in ("start", "report") and "RunId" in fields):
        completions = _workflow_completions(fields, execution or Fields({}), word, message_type)
    elif message_type is not None:
        completions = (_job_completion(fields, message_type),)
    elif inner_type := next((name for name in ("MediaCensor", "FpShot") if f"{name}JobNotify" in fields), None):
        completions = (_job_completion(fields, inner_type),)
    elif "result" in fields:
        completions = (_text_to_speech(fields),)
    else:
        raise Unparseable("expected an MTS message with Type, found none")
    return Parsed(completions, fields.warnings)


# Jobs


def _job_completion(fields: Fields, message_type: str) -> Completion:
    # MediaCensor and FpShot are documented with an inner object; where the job id sits is not, so look in both.
    word = message_type.lower()
    inner = fields.object(f"{message_type}JobNotify") if word in ("mediacensor", "fpshot") else None
    parts = (fields,) if inner is None else (fields, inner)
    job_id = next((text for part in parts if (text := part.text("JobId"))), None)
    state = next((text for part in parts if (text := part.text("State"))), None)
    user_data = next((text for part in parts if (text := part.verbatim("UserData")) is not None), None)
    if job_id is None and word in KINDS:
        raise Unparseable(f"expected jobId in a message of type {word}, found none")
    # smarttag reports every change of state.
    kind, identity, outcome = judge(KINDS.get(word, "notice"), (job_id or fields.digest(),), state)
    holder = next((part for part in parts if part.text(*_CODE, *_MESSAGE)), fields)
    return Completion(
        family=word,
        id=identity,
        kind=kind,
        outcome=outcome,
        vendor_event=message_type,
        job_id=job_id,
        outputs=_outputs(word, parts) if has_outputs(outcome) else (),
        error=read_error(holder, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE),
        user_data=user_data,
    )


def _outputs(word: str, parts: tuple[Fields, ...]) -> tuple[Frozen, ...]:
    fields = parts[0]
    if word == "snapshot":
        return _snapshot_outputs(fields)
    if word == "iproduction":
        return (ProductionOutput(function=fields.text("FunctionName")),)
    if word == "mediacensor":
        result = next((text for part in parts if (text := part.text("Result"))), None)
        return (ReviewOutput(suggestion=result.lower()),) if result else ()
    if word == "fpshot":
        return tuple(
            FingerprintOutput(primary_key=shot.text("PrimaryKey"), similarity=shot.number("Similarity"))
            for part in parts
            for shot in part.objects("FpShots")
        )
    if word == "smarttag" and "Result" in fields:
        return (AiOutput(result=fields.decoded("Result")),)
    return ()


def _snapshot_outputs(fields: Fields) -> tuple[Frozen, ...]:
    # Only snapshots at listed time points carry URLs; all others need the job API.
    template, count = fields.text("UrlPattern"), fields.integer("Count")
    if template is None and count is None:
        return ()
    return (
        SnapshotOutput(
            url_template=template,
            count=count,
            urls=expand_urls(template, "{Count}", count),
            times_s=tuple(milliseconds / 1000 for milliseconds in fields.numbers("TimeArray")),
        ),
    )


def _text_to_speech(fields: Fields) -> Completion:
    """Documented without type and state; the outcome is the code of the inner result."""
    job_id = fields.text("JobId")
    if job_id is None:
        raise Unparseable("expected jobId beside result, found none")
    result = fields.object("result") or Fields({})
    code = result.text("Code")
    outcome: Outcome = "succeeded" if (code or "").lower() == "success" else "failed" if code else "unknown"
    return Completion(
        family="iproduction",
        id=(job_id,),
        kind="production",
        outcome=outcome,
        vendor_event="TextToSpeech",
        job_id=job_id,
        outputs=(ProductionOutput(function="TextToSpeech"),) if outcome == "succeeded" else (),
        error=read_error(result, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE),
        user_data=fields.verbatim("UserData"),
    )


# Workflows


def _workflow_completions(
    fields: Fields, execution: Fields, word: str, message_type: str | None
) -> tuple[Completion, ...]:
    run_id = fields.text("RunId") or execution.text("RunId")
    if run_id is None:
        raise Unparseable("expected RunId in a workflow message, found none")
    media_id = execution.text("MediaId")
    source = execution.object("Input")
    user_data = source.verbatim("UserData") if source else None
    activities = execution.objects("ActivityList")
    if word != "report":
        # Start does not end the run; any other activity that might report itself does not either.
        return (
            Completion(
                family=f"run-{word}",
                id=(run_id,) if word == "start" else (run_id, fields.text("Name") or ""),
                kind="notice",
                outcome="received",
                vendor_event=message_type,
                job_id=run_id,
                media_id=media_id,
                user_data=user_data,
            ),
        )
    outcome = _run_outcome(fields, execution, activities)
    run = Completion(
        family="run",
        id=(run_id,),
        kind="workflow",
        outcome=outcome,
        vendor_event=message_type,
        job_id=run_id,
        media_id=media_id,
        outputs=tuple(_activity_output(activity) for activity in activities) if has_outputs(outcome) else (),
        error=_run_error(fields, outcome, activities),
        user_data=user_data,
    )
    ended = (_activity_completion(activity, media_id, user_data) for activity in activities)
    return (*(completion for completion in ended if completion is not None), run)


def _run_outcome(fields: Fields, execution: Fields, activities: list[Fields]) -> Outcome:
    """Completed only says that the run ended: an activity that failed, Report included, makes it partial."""
    # Documents print Success where real messages say Completed; the table takes both.
    outcome = read_outcome(execution.text("State") or fields.text("State"), missing="succeeded")
    if outcome == "succeeded" or outcome == "progress":  # noqa: PLR1714, mypy follows these and not a tuple
        states = [part.text("State") for part in (fields, *activities)]
        return "partial" if any(read_outcome(state) == "failed" for state in states) else "succeeded"
    return outcome


def _run_error(fields: Fields, outcome: Outcome, activities: list[Fields]) -> EventError | None:
    """What the message says, else what the first activity that failed says."""
    failed = (activity for activity in activities if read_outcome(activity.text("State")) == "failed")
    holder = next((part for part in (fields, *failed) if part.text(*_CODE)), fields)
    return read_error(holder, outcome, code=_CODE, message=_MESSAGE, retryable=RETRYABLE)


def _activity_output(activity: Fields) -> WorkflowOutput:
    outcome = read_outcome(activity.text("State"))
    return WorkflowOutput(
        name=activity.text("Name"),
        type=activity.text("Type"),
        job_id=activity.text("JobId"),
        outcome="unknown" if outcome == "progress" else outcome,
    )


def _activity_completion(activity: Fields, media_id: str | None, user_data: str | None) -> Completion | None:
    """
    The job of one activity, under the key of a plain job message. Safe, because a job that a workflow starts does
    not notify through its pipeline (documented).
    """
    job_id, activity_type = activity.text("JobId"), activity.text("Type")
    outcome = read_outcome(activity.text("State"))
    if job_id is None or activity_type is None or outcome not in ("succeeded", "failed"):
        return None
    word = activity_type.lower()
    if word in ("start", "report"):
        return None
    kind, identity, final = judge(KINDS.get(word, "notice"), (job_id,), activity.text("State"))
    return Completion(
        family=word,
        id=identity,
        kind=kind,
        outcome=final,
        vendor_event=activity_type,
        job_id=job_id,
        media_id=media_id,
        error=read_error(activity, final, code=_CODE, message=_MESSAGE, retryable=RETRYABLE),
        user_data=user_data,
        occurred_at=activity.time("EndTime"),
    )
