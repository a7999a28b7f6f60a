"""
ApsaraVideo VOD event notifications (API 2017-03-21): what each message means.

``vod_catalogue`` lists the types, ``vod_messages`` says what they look like.

What is here is true of IMS as well, which sends the same bodies in an envelope (``sources.products.ims``).

Source: "Event notification", https://help.aliyun.com/en/vod/user-guide/events/, and the pages below it.
Status and key tables were checked against documented samples and bodies seen in the field.
"""

from collections.abc import Callable, Mapping
from typing import Any

from media_callbacks.model.errors import Unparseable
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.products.outcomes import read_outcome
from media_callbacks.sources.products.vod_catalogue import (
    AI,
    CONVERSIONS,
    EVENT_TYPES,
    VIDEO_IDS,
    EventType,
    is_ai_event,
    model_of,
)
from media_callbacks.sources.products.vod_outputs import STATUS_NAMES, animated_image_outputs, no_outputs
from media_callbacks.sources.products.vod_snapshots import read_snapshots
from media_callbacks.sources.products.vod_told import Dialect, Told
from media_callbacks.sources.products.vod_transcodes import read_conversion, read_stream, read_transcode_task
from media_callbacks.sources.reading.decoding import decode_object, parse_time
from media_callbacks.sources.reading.members import (
    JOB_IDS,
    Misfit,
    Reading,
    first,
    present,
    read,
    read_text,
    read_values,
    settle,
)

# VOD documents no table of callback codes; these are the ones its samples and neighbours name.
RETRYABLE: Mapping[str, bool] = {
    "InvalidParameter": False,
    "InvalidVideo": False,
    "NoSuchKey": False,
    "URLInvalidError": False,
    "Throttling": True,
    "TransientNetWorkError": True,
}

_TIMES = ("EventTime", "CompleteTime", "FinishTime")


_DIALECT = Dialect("", RETRYABLE, is_vod=True)


def parse(message: Message) -> Parsed:
    """
    Read one notification.

    Raises:
        Unparseable: Not a VOD message, or nothing in it says which job or asset it is about.
    """
    event_type, reading = read_typed(message.payload, model_of, "VOD")
    body = reading.message
    if reading.is_rearranged and "messagebody" in settle(reading.values(), lambda _: None):
        raise Unparseable('found MessageBody, which IMS sends: is this source registered with IMS (product = "ims")?')
    completions = read_body(event_type, _DIALECT, reading, body, body.get("EventTime"))
    return Parsed(completions, tuple(reading.warnings))


def read_typed(payload: bytes, model_of: Callable[[str], Any], product: str) -> tuple[str, Reading[Any]]:
    """
    The type of a message, and the message as the model of that type.

    Raises:
        Unparseable: It is no JSON object, or has no type.
    """
    # The bytes tell which model to read them as, nearly always: what they are read as then must say the same.
    start = payload.find(b'"EventType"')
    start = payload.find(b'"', start + 11) + 1 if start >= 0 else 0
    event_type = payload[start : payload.find(b'"', start)].decode(errors="replace") if start else ""
    if event_type:
        reading = read(model_of(event_type), payload)
        if reading.message.get("EventType") == event_type:
            return event_type, reading
    values = decode_object(payload)
    try:
        found = read_text(settle(values, lambda _: None).get("eventtype"))
    except Misfit:
        found = None
    if found is None:
        raise Unparseable(f"expected a message of {product} with EventType, found none")
    return found, read_values(model_of(found), values, payload)


def read_body(
    event_type: str, dialect: Dialect, reading: Reading[Any], body: Any, event_time: str | None
) -> tuple[Completion, ...]:
    """
    What a body means, wherever it stands.

    Raises:
        Unparseable: Nothing in it says which job or asset it is about.
    """
    event_time = event_time or first(body, _TIMES) or ""
    occurred_at = parse_time(event_time) if event_time else None
    own, other = ("Extend", "UserData") if dialect.is_vod else ("UserData", "Extend")
    user_data = body.get(own)
    if user_data is None:
        user_data = body.get(other)
    told = Told(event_type, dialect, reading, event_time, occurred_at, user_data)
    if event_time and occurred_at is None:
        told.warn("EventTime")
    row = EVENT_TYPES.get(event_type)
    if row is not None:
        return (_read_row(told, body, row),)
    if event_type == "DynamicImageComplete":
        return (_read_animated_image(told, body),)
    if event_type == "SnapshotComplete":
        return read_snapshots(told, body)
    if event_type == "StreamTranscodeComplete":
        stream = read_stream(told, body, body)
        if stream is None:
            raise Unparseable("expected JobId or VideoId of the stream, found neither")
        return (stream,)
    if event_type == "TranscodeComplete" and (dialect.is_vod or present(body.get("StreamInfos"))):
        return read_transcode_task(told, body)
    if event_type in CONVERSIONS:
        return (read_conversion(told, body, CONVERSIONS[event_type]),)
    if is_ai_event(event_type) and first(body, ("JobId", "MediaId", "VideoId")):
        return (_read_row(told, body, AI),)
    return (_read_unknown(told, body),)


def _read_row(told: Told, body: Any, row: EventType) -> Completion:
    job_id, media_id, word = first(body, row.job), told.media(body, row.media), first(body, STATUS_NAMES)
    judged = read_outcome(word, missing=row.missing_status)
    if row.judge is not None:
        judged = row.judge(judged, body)
    if job_id is not None and not row.recurs:
        identity: tuple[str, ...] = (job_id,)
    else:
        identity = _identify(told, body, row, job_id, media_id)
        if job_id is not None and identity[0] != job_id:
            # By which it is looked for.
            identity = (job_id, *identity)
    # What may happen again to a job is not its end, and must not be asked about as such.
    family = told.event_type if row.recurs else None
    return told.end(
        row.kind,
        identity,
        judged,
        word,
        body,
        outputs=row.outputs,
        job_id=job_id,
        media_id=media_id,
        family=family,
    )


def _identify(told: Told, body: Any, row: EventType, job_id: str | None, media_id: str | None) -> tuple[str, ...]:
    known = {
        "job": job_id,
        "media": media_id,
        "time": told.event_time,
        "word": (first(body, STATUS_NAMES) or "").lower(),
    }
    if "#" in row.key:
        known["#"] = told.reading.digest()
    found = []
    for names in row.parts:
        text = ""
        for name in names:
            text = known.get(name) or body.get(name) or ""
            if text:
                break
        found.append(text)
    if not found[0]:
        expected = {"job": row.job, "media": row.media}.get(row.key[0], (row.key[0],))
        return told.identify(None, found, f"{' or '.join(expected)}, which identifies this event")
    return told.occurrence(*found) if "time" in row.key else tuple(found)


def _read_unknown(told: Told, body: Any) -> Completion:
    job_id, digest = first(body, JOB_IDS), told.reading.digest()
    identity = (job_id, digest) if job_id else (digest,)
    media_id = told.media(body, ("VideoId", "MediaId", "ImageId", "AttachedMediaId"))
    return told.end("notice", identity, "received", None, body, outputs=no_outputs, job_id=job_id, media_id=media_id)


def _read_animated_image(told: Told, body: messages.DynamicImage) -> Completion:
    """Job and status may be said twice: the outer id counts, and a failure on either level is one."""
    info = body.get("DynamicImageJobInfo")
    job_id, word = first(body, JOB_IDS), first(body, STATUS_NAMES)
    if info is not None:
        inner_id, inner_word = info.get("JobId"), info.get("Status")
        if inner_id and job_id is not None and inner_id != job_id:
            told.warn("DynamicImageJobInfo.JobId")
        job_id = job_id or inner_id or None
        if word is None or (inner_word and inner_word != word and read_outcome(inner_word) == "failed"):
            word = inner_word or None
    media_id = told.media(body, VIDEO_IDS)
    if job_id is not None:
        identity: tuple[str, ...] = (job_id,)
    else:
        instance = (body.get("TriggerSource") or {}).get("ActivityInstanceId")
        occurrence = (media_id or "", told.event_time, instance or "")
        identity = told.identify(None, occurrence, "JobId or VideoId, which identify an animated image")
    return told.end(
        "animated_image",
        identity,
        read_outcome(word),
        word,
        body,
        outputs=animated_image_outputs,
        job_id=job_id,
        media_id=media_id,
    )
