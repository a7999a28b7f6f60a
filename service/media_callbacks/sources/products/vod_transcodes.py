"""
Transcoding: a task and its streams, which end one by one and together, and the conversions of IMS, which are jobs with
parts.
"""

from typing import Any

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.kinds import Kind
from media_callbacks.sources.base import MAX_EVENTS, Completion
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.products.outcomes import Judged, judge_parts, read_outcome, whole_outcome
from media_callbacks.sources.products.vod_catalogue import TASKS, VIDEO_IDS
from media_callbacks.sources.products.vod_outputs import (
    STATUS_NAMES,
    conversion_outputs,
    conversion_parts,
    stream_outputs,
)
from media_callbacks.sources.products.vod_told import Told
from media_callbacks.sources.reading.members import JOB_IDS, check_count, first, says_anything


def read_stream(told: Told, body: Any, stream: Any) -> Completion | None:
    """None when nothing says which stream of which video this is."""
    job_id, media_id = stream.get("JobId") or None, told.media(body, VIDEO_IDS)
    if job_id is not None:
        identity: tuple[str, ...] = (job_id,)
    elif media_id is not None:
        names = stream.get("Definition") or "", stream.get("Format") or ""
        identity = told.occurrence(media_id, *names, told.event_time)
    else:
        return None
    word = first(stream, STATUS_NAMES)
    # The same family as the stream's own event, whichever message it stands in.
    family = told.family("transcode", "StreamTranscodeComplete")
    judged = read_outcome(word)
    return told.end(
        "transcode",
        identity,
        judged,
        word,
        stream,
        outputs=stream_outputs,
        job_id=job_id,
        media_id=media_id,
        family=family,
    )


def read_transcode_task(told: Told, body: messages.Transcode) -> tuple[Completion, ...]:
    """One per stream, under the same key as the stream's own event, and one for the task as a whole."""
    media_id = told.media(body, VIDEO_IDS)
    streams = []
    elements = body.get("StreamInfos") or ()
    check_count(f"{told.dialect.path}StreamInfos", len(elements), MAX_EVENTS)
    for index, element in enumerate(elements):
        if not says_anything(element):
            continue
        stream = read_stream(told, body, element)
        if stream is None:
            told.warn(f"StreamInfos[{index}].JobId")
        else:
            streams.append(stream)
    job_ids = sorted({stream.job_id for stream in streams if stream.job_id})
    if media_id is None and not job_ids:
        raise Unparseable("expected VideoId or StreamInfos[].JobId, which identify a transcode task, found neither")
    identity = (media_id or "", *job_ids) if job_ids else told.occurrence(media_id or "", told.event_time)
    word = body.get("Status") or None
    outcomes = [stream.outcome for stream in streams]
    if outcomes and all(outcome == "received" for outcome in outcomes):
        # Where none of its streams has ended, the task has not.
        judged: Judged = "progress"
    else:
        judged = whole_outcome("unknown", outcomes) if outcomes else read_outcome(word)
    task = told.end(
        "transcode_task",
        identity,
        judged,
        word,
        body,
        outputs=lambda _: tuple([output for stream in streams for output in stream.outputs]),
        job_id=None,
        media_id=media_id,
        nameless="keeps_key" if media_id is not None and told.dialect.is_vod else None,
    )
    # The first stream's error that says something, else what the task itself says.
    error = next((stream.error for stream in streams if stream.error and stream.error.code), None)
    if error is not None and task.kind != "notice":
        task.error = error
    return (*streams, task)


def read_conversion(told: Told, body: messages.Transcode, kind: Kind) -> Completion:
    """
    One of IMS: a job, a part of it that is a task of its own, or the old forms of both.

    One job gives several of these, so a task has its id beside that of the job; where it has none, the hash of the
    body tells them apart.
    """
    job_id, media_id, word = first(body, JOB_IDS), told.media(body, VIDEO_IDS), first(body, STATUS_NAMES)
    parts = conversion_parts(body)
    judged = read_outcome(word)
    if parts:
        judged = judge_parts(judged, [first(part, STATUS_NAMES) for part in parts])
    identity = told.identify(job_id, (media_id or "", told.event_time), "JobId or MediaId of the conversion")
    if job_id and told.event_type in TASKS:
        task_id = body.get("TaskId")
        identity = (job_id, task_id if task_id and task_id != job_id else told.digest_of_body())
    failed = [part for part in parts if read_outcome(first(part, STATUS_NAMES)) == "failed"]
    return told.end(
        kind,
        identity,
        judged,
        word,
        body,
        outputs=lambda body: conversion_outputs(body, parts),
        job_id=job_id,
        media_id=media_id,
        parts=failed,
    )
