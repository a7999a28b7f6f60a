"""
ApsaraVideo Media Processing (MTS, now MPS, API 2014-06-18): what each message means.

Two shapes: job messages of a pipeline, flat, with every key in two spellings (``jobId``/``JobId``); and workflow
messages with a ``MediaWorkflowExecution``, one when the Start activity and one when the Report activity ends. Both
carry the same RunId, so a receiver that deduplicates by RunId alone swallows the Report: Start and run have
different families here.

Source: "Receive notifications", https://www.alibabacloud.com/help/en/mps/receive-notifications; workflows:
AddMedia; IProduction, smarttag, MediaCensor and FpShot: the pages of their submit and query actions.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import EventError
from media_callbacks.model.kinds import Kind, Outcome
from media_callbacks.model.outputs import (
    AiOutput,
    FingerprintOutput,
    Frozen,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    WorkflowOutput,
)
from media_callbacks.sources.base import Completion, Message, Parsed, expand_urls
from media_callbacks.sources.products.mts_messages import TWINS, Activity, Execution, JobNotify, Notification
from media_callbacks.sources.products.outcomes import build_error, has_outputs, judge_parts, read_outcome
from media_callbacks.sources.reading.decoding import parse_time
from media_callbacks.sources.reading.fields import Fields
from media_callbacks.sources.reading.members import Reading, first, opened, present, read, read_values, said

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
# Jobs that end and whose messages nobody documents: their names are those of submit actions and pipelines, with and
# without "Job" at the end, and their kinds the nearest.
_OTHER_KINDS: Mapping[str, Kind] = {
    "aiaudioasr": "ai",
    "aivideocover": "snapshot",
    "aivideoporn": "review",
    "aivideosummary": "production",
    "asr": "ai",
    "asyncfuse": "production",
    "beautify": "production",
    "complex": "production",
    "copyrightextract": "ai",
    "cover": "snapshot",
    "editing": "production",
    "facerec": "ai",
    "fpdbdelete": "fingerprint",
    "fpfiledelete": "fingerprint",
    "gif": "animated_image",
    "imagequality": "ai",
    "porn": "review",
    "subtitle": "production",
    "tag": "ai",
    "terrorism": "review",
    "videogif": "animated_image",
    "videopose": "ai",
    "videoquality": "ai",
    "videosplit": "ai",
    "videosummary": "production",
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


def parse(message: Message) -> Parsed:
    """
    Read one notification.

    Raises:
        Unparseable: Not JSON, without a type, or of a known type without the id that identifies it.
    """
    reading = read(Notification, message.payload)
    told: Any = reading.message
    if any(small in told and told.get(capital) not in (None, told[small]) for small, capital in TWINS):
        # Which of two spellings counts, and that they differ, is the other way's business.
        reading = read_values(Notification, reading.values(), message.payload)
        told = reading.message
    message_type = first(told, ("type", "Type"))
    word = (message_type or "").lower()
    execution: Execution | None = told.get("MediaWorkflowExecution")
    # Of its first and its last activity a run tells even where it says nothing of itself.
    is_of_run = word in ("start", "report") and (execution is not None or told.get("RunId"))
    if is_of_run or said(execution) is not None:
        completions = _read_workflow(reading, execution or Execution(), word, message_type)
    elif message_type is not None:
        completions = (_read_job(reading, message_type),)
    elif said(told.get("MediaCensorJobNotify")) is not None:
        completions = (_read_job(reading, "MediaCensor"),)
    elif said(told.get("FpShotJobNotify")) is not None:
        completions = (_read_job(reading, "FpShot"),)
    elif told.get("result") is not None or told.get("Result") is not None:
        completions = (_read_speech(told),)
    else:
        raise Unparseable("expected an MTS message with Type, found none")
    return Parsed(completions, tuple(reading.warnings))


def kind_of(word: str) -> Kind:
    """What ends with a message of this type, in lower case; a notice where nobody knows."""
    return KINDS.get(word) or _OTHER_KINDS.get(word.removesuffix("job")) or "notice"


# Jobs


def _read_job(reading: Reading[Notification], message_type: str) -> Completion:
    told, word = reading.message, message_type.lower()
    # MediaCensor and FpShot are documented with an inner object; where the job id sits is not, so look in both.
    inner = (told.get("MediaCensorJobNotify") if word == "mediacensor" else None) or (
        told.get("FpShotJobNotify") if word == "fpshot" else None
    )
    notify = inner or {}
    job_id = first(told, ("jobId", "JobId")) or notify.get("JobId") or None
    kind = kind_of(word)
    if job_id is None and kind != "notice":
        raise Unparseable(f"expected jobId in a message of type {word}, found none")
    state = first(told, ("state", "State", "Status")) or notify.get("State") or None
    outcome = read_outcome(state)
    if kind == "production":
        parts = Fields({"Details": told.get("Details")}).objects("Details")
        words = [part.text("Status") for part in parts if part.says_anything()]
        outcome = judge_parts(outcome, words) if any(words) else outcome
    identity: tuple[str, ...] = (job_id,) if job_id else ()
    if outcome == "progress" or kind == "notice":
        # Of what ends nothing, or is not known, there may be more. smarttag reports every change of state.
        progress = (str(state).lower(),) if outcome == "progress" and kind != "notice" else ()
        kind, identity = "notice", (*identity, *progress, reading.digest())
    final: Outcome = "received" if kind == "notice" or outcome == "progress" else outcome
    code, text = first(told, ("code", "Code")), first(told, ("msg", "Msg", "Message"))
    if not (code or text):
        code, text = notify.get("Code"), first(notify, ("Msg", "Message"))
    return Completion(
        family=word,
        id=identity,
        kind=kind,
        outcome=final,
        vendor_event=message_type,
        job_id=job_id,
        outputs=_job_outputs(word, kind, told, notify) if has_outputs(final) else (),
        error=build_error(code, text, final, RETRYABLE),
        user_data=_verbatim(told.get("userData"), told.get("UserData"), notify.get("UserData")),
    )


def _verbatim(*texts: str | None) -> str | None:
    """The first that says anything, else one that is empty."""
    return next((text for text in texts if text), None) or next((text for text in texts if text is not None), None)


def _job_outputs(word: str, kind: Kind, told: Notification, notify: JobNotify) -> tuple[Frozen, ...]:
    if word == "snapshot":
        return _snapshot_outputs(told)
    if kind == "production":
        return (
            ProductionOutput(
                function=told.get("FunctionName") or None, result=opened(told.get("Details"), told.get("Data"))
            ),
        )
    if kind == "review":
        suggestion = _text(told.get("Result")) or first(notify, ("Result", "Suggestion"))
        return (ReviewOutput(suggestion=suggestion.lower()),) if suggestion else ()
    if word == "fpshot":
        shots = [*present(told.get("FpShots")), *present(notify.get("FpShots"))]
        return tuple(
            FingerprintOutput(primary_key=shot.get("PrimaryKey") or None, similarity=shot.get("Similarity"))
            for shot in shots
        )
    if kind == "ai":
        result = opened(
            told.get("result"),
            told.get("Result"),
            told.get("Results"),
            told.get("VideoQualityResults"),
            told.get("Data"),
        )
        return () if result is None else (AiOutput(result=result),)
    return ()


def _text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) else None


def _snapshot_outputs(told: Notification) -> tuple[Frozen, ...]:
    # Only snapshots at listed time points carry URLs; all others need the job API.
    template, count = told.get("UrlPattern") or None, told.get("Count")
    if template is None and count is None:
        return ()
    return (
        SnapshotOutput(
            url_template=template,
            count=count,
            urls=expand_urls(template, "{Count}", count),
            times_s=tuple(milliseconds / 1000 for milliseconds in told.get("TimeArray") or ()),
        ),
    )


def _read_speech(told: Notification) -> Completion:
    """Documented without type and state; the outcome is the code of the inner result."""
    job_id = first(told, ("jobId", "JobId"))
    if job_id is None:
        raise Unparseable("expected jobId beside result, found none")
    value = opened(told.get("result"), told.get("Result"))
    result = Fields(value if isinstance(value, dict) else {})
    code = result.text("Code")
    outcome: Outcome = "succeeded" if (code or "").lower() == "success" else "failed" if code else "unknown"
    # Without Data, which is the whole sound in base64.
    made = (ProductionOutput(function="TextToSpeech"),)
    return Completion(
        family="iproduction",
        id=(job_id,),
        kind="production",
        outcome=outcome,
        vendor_event="TextToSpeech",
        job_id=job_id,
        outputs=made if outcome == "succeeded" else (),
        error=build_error(code, result.text("Msg", "Message"), outcome, RETRYABLE),
        user_data=_verbatim(told.get("userData"), told.get("UserData")),
    )


# Workflows


def _read_workflow(
    reading: Reading[Notification], execution: Execution, word: str, message_type: str | None
) -> tuple[Completion, ...]:
    told = reading.message
    run_id = told.get("RunId") or execution.get("RunId") or None
    if run_id is None:
        raise Unparseable("expected RunId in a workflow message, found none")
    media_id = execution.get("MediaId") or None
    user_data = (execution.get("Input") or {}).get("UserData")
    activities = present(execution.get("ActivityList"))
    if word != "report":
        # Start does not end the run; any other activity that might report itself does not either.
        return (
            Completion(
                family=f"run-{word}",
                id=(run_id,) if word == "start" else (run_id, told.get("Name") or "", reading.digest()),
                kind="notice",
                outcome="received",
                vendor_event=message_type,
                job_id=run_id,
                media_id=media_id,
                user_data=user_data,
            ),
        )
    states = [first(told, ("state", "State")), *(activity.get("State") or None for activity in activities)]
    outcome = _run_outcome(execution.get("State") or states[0], states)
    failed = (activity for activity in activities if read_outcome(activity.get("State") or None) == "failed")
    code, text = _run_error(told, failed)
    run = Completion(
        family="run",
        id=(run_id,),
        kind="workflow",
        outcome=outcome,
        vendor_event=message_type,
        job_id=run_id,
        media_id=media_id,
        outputs=tuple(_activity_output(activity) for activity in activities) if has_outputs(outcome) else (),
        error=build_error(code, text, outcome, RETRYABLE) or _unsaid(outcome),
        user_data=user_data,
    )
    ended = (
        _read_activity(reading, activity, index, media_id, user_data)
        for index, activity in enumerate(execution.get("ActivityList") or ())
    )
    return (*(completion for completion in ended if completion is not None), run)


def _unsaid(outcome: Outcome) -> EventError | None:
    """Of a run of which a part failed without saying why."""
    return EventError(code=None, message=None, retryable=None) if outcome == "partial" else None


def _run_outcome(word: str | None, states: list[str | None]) -> Outcome:
    """Completed only says that the run ended: an activity that failed, Report included, makes it partial."""
    # Documents print Success where real messages say Completed; the table takes both.
    outcome = read_outcome(word, missing="succeeded")
    if outcome == "succeeded" or outcome == "progress":  # noqa: PLR1714, mypy follows these and not a tuple
        return "partial" if any(read_outcome(state) == "failed" for state in states) else "succeeded"
    return outcome


def _run_error(told: Notification, failed: Iterable[Activity]) -> tuple[str | None, str | None]:
    """What the message says, else what the first activity that failed says."""
    own = first(told, ("code", "Code")), first(told, ("msg", "Msg", "Message"))
    if own[0]:
        return own
    return next(
        ((activity.get("Code"), activity.get("Message") or None) for activity in failed if activity.get("Code")), own
    )


def _activity_output(activity: Activity) -> WorkflowOutput:
    outcome = read_outcome(activity.get("State") or None)
    return WorkflowOutput(
        name=activity.get("Name") or None,
        type=activity.get("Type") or None,
        job_id=activity.get("JobId") or None,
        outcome="unknown" if outcome == "progress" else outcome,
    )


def _read_activity(
    reading: Reading[Notification], activity: Activity, index: int, media_id: str | None, user_data: str | None
) -> Completion | None:
    """
    The job of one activity, under the key of a plain job message. Safe, because a job that a workflow starts does
    not notify through its pipeline (documented).
    """
    job_id, activity_type = activity.get("JobId") or None, activity.get("Type") or None
    outcome = read_outcome(activity.get("State") or None)
    if job_id is None or activity_type is None or (outcome != "succeeded" and outcome != "failed"):  # noqa: PLR1714, as above
        return None
    word = activity_type.lower()
    if word in ("start", "report"):
        return None
    kind = kind_of(word)
    final: Outcome = "received" if kind == "notice" else outcome
    end_time = activity.get("EndTime")
    ended_at = parse_time(end_time) if end_time else None
    if end_time and ended_at is None:
        reading.warn(f"MediaWorkflowExecution.ActivityList[{index}].EndTime")
    return Completion(
        family=word,
        id=(job_id,) if kind != "notice" else (job_id, activity.get("Name") or "", activity.get("EndTime") or ""),
        kind=kind,
        outcome=final,
        vendor_event=activity_type,
        job_id=job_id,
        media_id=media_id,
        error=build_error(activity.get("Code"), activity.get("Message"), final, RETRYABLE),
        user_data=user_data,
        occurred_at=ended_at,
    )
