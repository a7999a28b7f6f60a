"""
What ``check`` finds out of a NATS server: whether streams take the events, keep them, and know repetitions.

Source: "JetStream wire API", https://docs.nats.io/reference/reference-protocols/nats_api_reference; "Monitoring",
https://docs.nats.io/running-a-nats-service/nats_admin/monitoring.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aiohttp
from nats.aio.client import Client
from nats.errors import Error, NoRespondersError

from media_callbacks.http_client.bounded_connector import read_body
from media_callbacks.http_client.session import open_session
from media_callbacks.model.check_results import CheckResult
from media_callbacks.sinks.connections import explain_connection

# What a receipt may have: below this, events may be too large.
_USUAL_BYTES = 2**20
# Some attempts after the first; what every stream has that says nothing of it.
_USUAL_WINDOW_S = 120
_TIMEOUT_S = 2
# Of what it tells of itself, which has a kilobyte.
_MAX_JSZ_BYTES = 2**20
# For this account, or at all.
_NOT_ENABLED = (10039, 10076)
_FLUSH = "set sync_interval: always in the server's jetstream block, or keep three replicas in three places"


async def check_streams(
    client: Client, subject: str, names: Sequence[str], *, stream: str | None, monitoring_url: str | None
) -> Sequence[CheckResult]:
    """
    Args:
        client: That is connected.
        subject: Of what is found.
        names: All subjects that events go to.
        stream: The one that must take them; None for whichever does.
        monitoring_url: Where the server tells of itself, if that is known.
    """
    try:
        streams = await _list_streams(client, stream)
    except NoRespondersError:
        text = "JetStream is not enabled for this account, so that nothing would be stored"
        return [CheckResult("error", subject, text, "enable it, or correct servers and credentials")]
    except (Error, ValueError, TypeError, KeyError, AttributeError):
        text = "it lets us in; whether a stream takes the events can't be told, for nobody answers that to this user"
        remedy = "allow it to publish to $JS.API.STREAM.LIST and $JS.API.STREAM.INFO.*, or see for yourself"
        return [CheckResult("warning", subject, text, remedy)]
    if stream is not None and not streams:
        return [CheckResult("error", f"{subject}.stream", "there is no such stream", "create it, or correct its name")]
    found = [
        *_judge_server(subject, client.max_payload),
        *_judge_names(subject, streams, names),
        *(result for each in streams if any(_takes(each, name) for name in names) for result in _judge(subject, each)),
    ]
    if not any(result.severity == "error" for result in found):
        found += await _judge_flushing(subject, monitoring_url)
    return found or [CheckResult("ok", subject, f"it lets us in, and streams take all {len(names)} subjects")]


async def _list_streams(client: Client, stream: str | None) -> list[dict[str, Any]]:
    """Their configurations: all that this account has, or the one that is named, if it is there."""
    if stream is not None:
        answer = await _ask(client, f"$JS.API.STREAM.INFO.{stream}", {})
        return [answer["config"]] if "config" in answer else []
    streams: list[dict[str, Any]] = []
    while True:
        answer = await _ask(client, "$JS.API.STREAM.LIST", {"offset": len(streams)})
        page = [each["config"] for each in answer.get("streams") or ()]
        streams += page
        if not page or len(streams) >= answer["total"]:
            return streams


async def _ask(client: Client, subject: str, question: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        (await client.request(subject, json.dumps(question).encode(), timeout=_TIMEOUT_S)).data
    )
    if answer.get("error", {}).get("err_code") in _NOT_ENABLED:
        raise NoRespondersError
    return answer


def _judge_server(subject: str, max_payload: int) -> Iterator[CheckResult]:
    if max_payload < _USUAL_BYTES:
        text = f"the server takes messages of at most {max_payload} bytes: larger events are dead"
        yield CheckResult("warning", subject, text, f"raise its max_payload to {_USUAL_BYTES} or more")


def _judge_names(subject: str, streams: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[CheckResult]:
    missing = [name for name in names if not any(_takes(stream, name) for stream in streams)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        remedy = "create one, add the subject to one, or leave these events to other sinks with match"
        yield CheckResult("error", f"{subject}.subject", f"no stream takes {missing[0]}{more}", remedy)


def _judge(subject: str, stream: Mapping[str, Any]) -> Iterator[CheckResult]:
    name = f"the stream {stream['name']}"
    if stream.get("no_ack"):
        text = f"{name} acknowledges nothing (no_ack), so that nothing would count as delivered"
        yield CheckResult("error", subject, text, "create it without no_ack")
    if stream.get("sealed"):
        text = f"{name} is sealed and takes nothing any more"
        yield CheckResult("error", subject, text, "have another one take the subjects")
    if stream.get("storage") == "memory":
        text = f"{name} is in memory, and loses what it acknowledged when its servers stop"
        yield CheckResult("warning", subject, text, "keep it in files")
    window_s = stream.get("duplicate_window", 0) / 1e9
    if window_s < _USUAL_WINDOW_S:
        text = f"{name} knows repetitions for {window_s:g} s: an event that is sent again later is stored twice"
        yield CheckResult("warning", subject, text, f"raise its duplicate_window to {_USUAL_WINDOW_S} s or more")
    if 0 < stream.get("max_msg_size", -1) < _USUAL_BYTES:
        text = f"{name} takes messages of at most {stream['max_msg_size']} bytes: larger events are dead"
        yield CheckResult("warning", subject, text, f"raise its max_msg_size to {_USUAL_BYTES} or more")


async def _judge_flushing(subject: str, monitoring_url: str | None) -> Sequence[CheckResult]:
    """The server tells it where it is monitored, and nowhere else."""
    if monitoring_url is None:
        text = "whether the server flushes before it acknowledges can't be told without monitoring_url"
        return [CheckResult("warning", subject, text, f"set that; by default it does not: {_FLUSH}")]
    url = f"{monitoring_url.rstrip('/')}/jsz"
    try:
        async with (
            open_session(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            flushes = json.loads(await read_body(answer, _MAX_JSZ_BYTES))["config"].get("sync_always", False)
    except (aiohttp.ClientConnectorError, TimeoutError) as error:
        reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return [CheckResult("warning", f"{subject}.monitoring_url", *explain_connection(reason))]
    except (aiohttp.ClientError, OSError, ValueError, TypeError, KeyError, AttributeError):
        text = "no NATS server with JetStream tells of itself there"
        return [CheckResult("warning", f"{subject}.monitoring_url", text, "correct it, or enable JetStream")]
    if flushes:
        return []
    text = "the server acknowledges before it flushes: a machine that crashes loses what was delivered last"
    return [CheckResult("warning", subject, text, _FLUSH)]


def _takes(stream: Mapping[str, Any], name: str) -> bool:
    return any(_covers(pattern.split("."), name.split(".")) for pattern in stream.get("subjects") or ())


def _covers(pattern: Sequence[str], levels: Sequence[str]) -> bool:
    for position, word in enumerate(pattern):
        if word == ">":
            return len(levels) > position
        if position >= len(levels) or word not in ("*", levels[position]):
            return False
    return len(pattern) == len(levels)
