"""What is sent about a job: the truth over every transport of its product, and what liars would send beside it."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal

from media_callbacks.rehearsal.fake_cloud.jobs import CloudJob, TrueOutcome
from media_callbacks.rehearsal.payloads import PAYLOADS, Json
from media_callbacks.rehearsal.simulate import (
    MnsSigner,
    PushFormat,
    SimulatedRequest,
    forge,
    http_request,
    token_url_request,
)
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource

LIE = "a-lie"
_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "asset": ("videoid", "mediaid"),
    "user_data": ("extend", "userdata"),
    "result": ("suggestion", "primarykey", "errormessage", "message"),
}

Veracity = Literal["true", "forged", "altered"]
HttpDestination = HttpSource | MnsPushSource | TokenUrlSource


@dataclass(frozen=True, slots=True)
class QueueDestination:
    """A queue of this cloud that VOD, IMS or MTS write to."""

    name: str
    queue: str


Destination = HttpDestination | QueueDestination


@dataclass(slots=True)
class Sending:
    """One message on its way to one destination. ``attempt``: 0 for the first."""

    job: CloudJob
    destination: Destination
    veracity: Veracity = "true"
    attempt: int = 0


def describe(job: CloudJob, outcome: TrueOutcome) -> Json:
    """The vendor's message, as of the moment when the job ended."""
    build = PAYLOADS[job.product][job.event]
    payload = build(job.job_id, job.ends_at, outcome != "succeeded")
    if job.family == "transcode_task":
        one, other = (build(stream, job.ends_at, outcome == "failed")["StreamInfos"][0] for stream in job.stream_ids)
        if outcome == "partial":
            other = build(job.stream_ids[1], job.ends_at, True)["StreamInfos"][0]
            # Documented: the task's own word is success as soon as one stream is.
            payload["Status"] = "success"
        payload["StreamInfos"] = [one, other]
    match job.product:
        case "vod":
            payload |= {name: job.media_id for name in ("VideoId", "MediaId") if name in payload}
            # The table of DynamicImageComplete has no Extend, nor does its submission have UserData.
            if job.user_data is not None and job.family != "animated_image":
                payload["Extend"] = job.user_data
        case "ims":
            body = payload["MessageBody"]
            body["MediaId"] = job.media_id
            if job.user_data is not None:
                body["UserData"] = job.user_data
            if job.family == "LiveRecordFileCreated":
                # Each file of a recording has a name of its own.
                body["FileUrl"] = body["FileUrl"].replace("-0.", f"-{job.earlier}.")
        case "mts" if job.family == "run":
            execution = payload["MediaWorkflowExecution"]
            execution["MediaId"] = job.media_id
            if job.user_data is not None:
                execution["Input"]["UserData"] = job.user_data
            if outcome == "failed":
                execution["State"] = "Fail"
        case "mts":
            for name in ("userData", "UserData"):
                if name in payload and job.user_data is None:
                    del payload[name]
                elif name in payload:
                    payload[name] = job.user_data
        case "multimediaai":
            payload["TaskId"] = int(job.job_id)
    return payload


def lie(job: CloudJob, rng: random.Random) -> Json:
    """
    The opposite of the truth, or the true outcome with a lie beside it: about the asset, the user data or the result,
    which has ``LIE`` in it; of a GIF task sometimes the truth about another one.
    """
    kind = rng.choice(("outcome", "asset", "user_data", "result"))
    truth = describe(job, job.outcome)
    if job.product == "multimediaai" and kind in ("asset", "user_data"):
        return truth | {"TaskId": int(job.job_id) + 500_000_000}
    falsified: Json = _falsify(truth, kind)
    # A message that names no job is told from others by what it says besides.
    if kind == "outcome" or job.outcome == "cancelled" or falsified == truth or job.job_id not in json.dumps(truth):
        return describe(job, "failed" if job.outcome == "succeeded" else "succeeded")
    return falsified


def _falsify(value: Any, kind: str) -> Any:
    """The same with every member of a kind replaced."""
    if isinstance(value, list):
        return [_falsify(item, kind) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, item in value.items():
        key = name.strip().lower()
        if isinstance(item, str) and item.startswith("{") and kind == "result" and key == "data":
            found[name] = json.dumps(_falsify(json.loads(item), kind), ensure_ascii=False)
        elif isinstance(item, str) and key in _MEMBERS.get(kind, ()):
            found[name] = LIE
        elif isinstance(item, str) and kind == "result" and item.startswith(("http://", "https://")):
            found[name] = f"http://{LIE}.example.com/{item.rpartition('/')[2]}"
        else:
            found[name] = _falsify(item, kind)
    return found


def build_request(
    sending: Sending,
    destination: HttpDestination,
    *,
    now: datetime,
    rng: random.Random,
    signer: MnsSigner | None,
    push_format: PushFormat,
) -> SimulatedRequest:
    """
    The request to the sending's destination, one that is reached over HTTP.

    Args:
        signer: Needed where the destination is a subscription of MNS.
    """
    job = sending.job
    payload = lie(job, rng) if sending.veracity == "altered" else describe(job, job.outcome)
    match destination:
        case HttpSource():
            # Their signature does not cover the body, so a lie is signed as well as the truth.
            request = http_request(destination, payload, now=now)
        case TokenUrlSource():
            assert job.callback_url is not None
            request = token_url_request(destination, job.callback_url.rpartition("/")[2], payload)
        case MnsPushSource():
            assert signer is not None
            # Its id is the same on every attempt.
            push = partial(signer.push, destination, now=now, push_format=push_format, message_id=job.message_id)
            request = push(describe(job, job.outcome))
            if sending.veracity == "altered":
                request = replace(request, body=push(payload).body)
    return forge(request) if sending.veracity == "forged" else request
