"""What is reached over the network, apart from the store and the vendor's APIs."""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from media_callbacks.config.sinks import EventBridgeSinkSettings, KinesisSinkSettings, SnsSinkSettings, SqsSinkSettings
from media_callbacks.edge.certificates import fetch_https, read_certificate
from media_callbacks.http_client.session import open_session
from media_callbacks.model.check_results import CheckResult
from media_callbacks.model.errors import BadSignature
from media_callbacks.sinks.aws import region_of
from media_callbacks.sinks.connections import explain_connection
from media_callbacks.sinks.eventbridge import EventBridgeSink
from media_callbacks.sinks.kinesis import KinesisSink
from media_callbacks.sinks.sns import SnsSink
from media_callbacks.sinks.sqs import SqsSink
from media_callbacks.timing.clock import utc_now

AwsSinkSettings = SqsSinkSettings | SnsSinkSettings | EventBridgeSinkSettings | KinesisSinkSettings
# What is asked, which changes nothing: the sink's service, a method of boto's client, and its arguments.
_QUESTIONS: Mapping[type[Any], tuple[str, str, Callable[[Any], Mapping[str, Any]]]] = {
    SqsSinkSettings: (
        SqsSink.service,
        "get_queue_attributes",
        lambda sink: {"QueueUrl": sink.queue_url, "AttributeNames": ["QueueArn"]},
    ),
    SnsSinkSettings: (SnsSink.service, "get_topic_attributes", lambda sink: {"TopicArn": sink.topic_arn}),
    EventBridgeSinkSettings: (
        EventBridgeSink.service,
        "describe_event_bus",
        lambda sink: {"Name": sink.event_bus_name},
    ),
    KinesisSinkSettings: (
        KinesisSink.service,
        "describe_stream_summary",
        lambda sink: {"StreamARN" if sink.stream_name.startswith("arn:") else "StreamName": sink.stream_name},
    ),
}
_NOT_THERE = re.compile("NonExistent|NotFound|DoesNotExist")
_NOT_ALLOWED = re.compile("AccessDenied|NotAuthorized|AuthorizationError")
# What the vendor signs is refused here when it is older than some minutes, and the other way round.
MAX_CLOCK_DIFFERENCE_S = 60.0
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """
    Attributes:
        clock: The time in UTC.
        resolver, ssl_context: Other than the system's.
        timeout_s: Of each probe.
    """

    clock: Callable[[], datetime] = utc_now
    resolver: AbstractResolver | None = None
    ssl_context: ssl.SSLContext | None = None
    timeout_s: float = TIMEOUT_S


async def try_address(subject: str, url: str, network: Network) -> CheckResult:
    """Connect, with TLS where the URL says so, and hang up: nothing is sent that a receiver could take for an event."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    context = (network.ssl_context or await asyncio.to_thread(ssl.create_default_context)) if is_tls else None
    try:
        _, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
    # ValueError: a host that is no name, such as one with a label of 64 characters.
    except (OSError, ValueError) as error:
        return CheckResult("error", subject, *explain(error))
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    tls = " with TLS" if is_tls else ""
    return CheckResult("ok", subject, f"{parts.hostname} takes connections on port {port}{tls}; no more was tried")


def explain(error: Exception) -> tuple[str, str]:
    """
    Why there was no connection, and what to do.

    Raises:
        TimeoutError: It is one, which is told elsewhere.
    """
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        error = socket.gaierror()
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, TimeoutError):
        raise error
    return explain_connection(error)


async def try_certificate(subject: str, url: str, network: Network) -> CheckResult:
    """A push whose certificate can't be fetched is answered with 503, and lost after the vendor's last try."""
    pin = 'or pin the certificate: certificates = { "<url>" = "file:/path.pem" }'
    try:
        fetched = await fetch_https(
            url, timeout_s=network.timeout_s, resolver=network.resolver, ssl_context=network.ssl_context
        )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        text, remedy = explain(error)
        return CheckResult("error", subject, f"{urlsplit(url).hostname}: {text}", f"{remedy}, {pin}")
    remedy = f"see whether a proxy answers in the vendor's place, {pin}"
    if fetched.status != 200:
        return CheckResult("error", subject, f"{url} was answered with HTTP {fetched.status}", remedy)
    try:
        read_certificate(fetched.body)
    except BadSignature as error:
        return CheckResult("error", subject, f"{url}: {error}, came something else", remedy)
    return CheckResult("ok", subject, "the signing certificate can be fetched")


async def try_aws(subject: str, sink: AwsSinkSettings, network: Network) -> CheckResult:
    """Credentials and region as boto finds them, a connection to where it would send, and whether it is there."""
    service, method, arguments = _QUESTIONS[type(sink)]
    region = sink.region or region_of(getattr(sink, sink.destination_key))
    try:
        get_session = await asyncio.to_thread(_load_boto)
        session = get_session()
        if await session.get_credentials() is None:
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of this machine"
            return CheckResult("error", subject, "no AWS credentials found", remedy)
        client = session.create_client(service, region_name=region, endpoint_url=sink.endpoint_url)
        async with client as opened:
            finding = await try_address(subject, opened.meta.endpoint_url, network)
            if finding.severity != "ok":
                return finding
            try:
                await getattr(opened, method)(**arguments(sink))
            except Exception as error:
                if (found := _explain_answer(subject, error, opened.meta.method_to_api_mapping[method])) is None:
                    raise
                return found
    except TimeoutError:
        raise
    # boto's providers of credentials read files and run programs, and fail in as many ways.
    except Exception as error:  # noqa: BLE001
        if type(error).__name__ == "NoRegionError":
            return CheckResult(
                "error", subject, "no AWS region is known", f"set {subject}.region, or AWS_DEFAULT_REGION"
            )
        text = f"boto can't be used as it is set up ({type(error).__name__})"
        return CheckResult("error", subject, text, "check AWS_* variables and the files in ~/.aws")
    return CheckResult("ok", subject, "it is there, and these credentials may ask about it")


def _explain_answer(subject: str, error: Exception, action: str) -> CheckResult | None:
    """What an answer that is an error says; None where there was no answer."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict) or "Error" not in answer:
        return None
    code = re.sub(r"[^A-Za-z0-9_.-]", "", str(answer["Error"].get("Code")))
    if _NOT_THERE.search(code):
        return CheckResult("error", subject, f"it is not there ({code})", "create it, or correct its name and region")
    if _NOT_ALLOWED.search(code):
        text = f"it takes connections; whether it is there can't be told, for these credentials may not ask ({action})"
        return CheckResult("warning", subject, text, f"allow {action} to have this command look, or see for yourself")
    return CheckResult("error", subject, f"{action} is refused ({code})", "check the credentials, and the region")


def _load_boto():  # type: ignore[no-untyped-def]  # noqa: ANN202
    """A good part of a second, which the other probes should not wait for."""
    from aiobotocore.session import get_session  # noqa: PLC0415

    return get_session


async def compare_clocks(urls: Sequence[str], network: Network) -> CheckResult:
    """Our clock and that of the first URL that answers with a date."""
    # So that the last one has its time, too.
    timeout = aiohttp.ClientTimeout(total=network.timeout_s / (len(urls) + 1))
    async with open_session(timeout=timeout, resolver=network.resolver, tls=network.ssl_context) as session:
        for url in urls:
            theirs = await _ask_for_date(session, url)
            if theirs is not None:
                return _judge_clock(network.clock(), theirs, urlsplit(url).hostname or "")
    return CheckResult("warning", "clock", "nobody told the time", "see that the clock of this machine is kept right")


async def _ask_for_date(session: aiohttp.ClientSession, url: str) -> datetime | None:
    try:
        async with session.head(url, allow_redirects=False) as response:
            date = parsedate_to_datetime(response.headers["Date"])
    except (aiohttp.ClientError, OSError, ValueError, KeyError):
        return None
    return date if date.tzinfo is not None else None


def _judge_clock(ours: datetime, theirs: datetime, host: str) -> CheckResult:
    difference_s = (ours - theirs).total_seconds()
    if abs(difference_s) <= MAX_CLOCK_DIFFERENCE_S:
        return CheckResult("ok", "clock", f"it agrees with that of {host}")
    side = "ahead of" if difference_s > 0 else "behind"
    text = f"the clock of this machine is {abs(difference_s):.0f} s {side} that of {host}"
    return CheckResult(
        "error", "clock", text, "have it set by NTP: callbacks and our requests are refused for their times"
    )


async def ask_here(host: str, port: int, path: str, network: Network) -> tuple[int, Any] | None:
    """
    What is answered on an address of this machine: status and JSON, or 0 for no answer in HTTP; None where nothing
    answers. Without a token, for it may be somebody else who listens there.
    """
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    url = f"http://[{here}]:{port}{path}" if ":" in here else f"http://{here}:{port}{path}"
    timeout = aiohttp.ClientTimeout(total=network.timeout_s / 2)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            return response.status, await response.json(content_type=None)
    except TimeoutError:
        return None
    except (aiohttp.ClientError, OSError, ValueError):
        return 0, None
