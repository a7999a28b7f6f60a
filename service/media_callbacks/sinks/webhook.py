"""
The ``webhook`` sink: one POST per event, signed as Standard Webhooks says (``signatures``).

Any 2xx is a delivery. Everything else may pass: a receiver that answers 400 today may be mended tomorrow, and the event
waits for it. 410 says that nobody is there any more, until an operator knows better; 429, 502, 503 and 504 ask for
fewer requests.

Source: CloudEvents HTTP binding, section 3.2 "Structured Content Mode".
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp

from media_callbacks.http_client.bounded_connector import AnswerTooLong
from media_callbacks.http_client.posting import NoHttp, Poster
from media_callbacks.model.errors import SinkError, SinkGone, SinkRetry
from media_callbacks.model.events import CONTENT_TYPE, Delivery
from media_callbacks.sinks.signatures import sign
from media_callbacks.version import read_version

REPLAY_HEADER = "media-callbacks-replay"
MAX_RETRY_AFTER_S = 24 * 3600.0
_CONNECT_TIMEOUT_S = 5.0
# Below the 5 s after which uvicorn and Node close an idle connection: a POST that is lost in one that is closed at the
# same moment is not repeated, and the event would wait for its second attempt.
_KEEPALIVE_S = 4.0
_MAX_DETAIL_CHARACTERS = 120

_GONE_STATUS = 410
_OVERLOAD_STATUSES = frozenset({429, 502, 503, 504})
_DELAY_SECONDS = re.compile(r"[0-9]+")

_USER_AGENT = f"media-callbacks/{read_version()}"


def fixed_headers(headers: Mapping[str, str], bearer_token: str | None = None) -> dict[str, str]:
    """
    Those that are the same for every delivery.

    Args:
        headers: The operator's own; they take the place of ``User-Agent``, ``Accept`` and ``Accept-Encoding``.
    """
    custom = dict(headers)
    if bearer_token is not None:
        custom["Authorization"] = f"Bearer {bearer_token}"
    replaced = {name.lower() for name in custom}
    ours = {"Accept": "*/*", "User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
    return {
        "Content-Type": CONTENT_TYPE,
        **{name: value for name, value in ours.items() if name.lower() not in replaced},
        **custom,
    }


def build_headers(delivery: Delivery, secrets: Sequence[bytes], timestamp: int) -> dict[str, str]:
    """
    Those of one attempt to send ``delivery.body``. A replay has one more, and so has an attempt that is traced; id and
    body stay what they were.

    Args:
        secrets, timestamp: See ``signatures.sign``.
    """
    headers = sign(delivery.event_id, delivery.body, secrets, timestamp)
    if delivery.replay:
        headers[REPLAY_HEADER] = str(delivery.replay)
    if delivery.traceparent is not None:
        headers["traceparent"] = delivery.traceparent
    return headers


def parse_retry_after(value: str, *, now: float) -> float | None:
    """
    The seconds that a Retry-After header asks for, from 0 to 24 h, or None when it says neither seconds nor a date.

    Args:
        now: UNIX time in seconds, for the date form.

    Source: RFC 9110, section 10.2.3 "Retry-After".
    """
    value = value.strip()
    if _DELAY_SECONDS.fullmatch(value):
        # Longer numbers are above the bound anyway, and int() refuses thousands of digits.
        return min(float(int(value.lstrip("0")[:9] or "0")), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        delay_s = moment.timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(delay_s, 0.0), MAX_RETRY_AFTER_S)


def judge_answer(status: int, retry_after: str | None, *, now: float) -> SinkRetry | None:
    """None when the status says that the event was taken, else the failure."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return SinkRetry(f"redirected with HTTP {status}; redirects are not followed, configure the final url")
    if status == _GONE_STATUS:
        return SinkGone(f"answered HTTP {status}: the receiver says that this destination is gone")
    if status in _OVERLOAD_STATUSES:
        retry_after_s = None if retry_after is None else parse_retry_after(retry_after, now=now)
        return SinkRetry(f"answered HTTP {status}", retry_after_s=retry_after_s, is_overload=True)
    return SinkRetry(f"answered HTTP {status}")


class WebhookSink:
    """
    A sink of kind ``webhook``.

    Args:
        url: Where to POST. Never part of a message: paths and queries of webhook URLs are often secrets.
        secrets: Decoded keys, at least one.
        headers: The operator's own, sent along with every request; see `fixed_headers`.
        bearer_token: Sent as ``Authorization``.
        timeout_s: For the whole attempt; a connection has at most 5 s of it.
        concurrency: Requests, and so connections, at once.
        clock: UNIX time in seconds.
    """

    batch_size = 1

    def __init__(
        self,
        name: str,
        url: str,
        secrets: Sequence[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        bearer_token: str | None = None,
        timeout_s: float = 15.0,
        concurrency: int = 32,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self._url = url
        self._secrets = tuple(secrets)
        self._headers = fixed_headers(headers or {}, bearer_token)
        self._clock = clock
        self._poster: Poster | None = None

    async def open(self) -> None:
        self._poster = Poster(
            self._url,
            self._headers,
            max_connections=self.concurrency,
            keepalive_s=_KEEPALIVE_S,
            connect_timeout_s=min(_CONNECT_TIMEOUT_S, self.timeout_s),
        )

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        return [await self._post(delivery) for delivery in deliveries]

    async def close(self) -> None:
        if self._poster is not None:
            await self._poster.close()
            self._poster = None

    async def _post(self, delivery: Delivery) -> SinkRetry | None:
        assert self._poster is not None, "open() comes before send()"
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        headers = build_headers(delivery, self._secrets, int(self._clock()))
        try:
            answer = await self._poster.post(headers, delivery.body, deadline=deadline)
        except aiohttp.ConnectionTimeoutError:
            return SinkRetry(f"no connection within {min(_CONNECT_TIMEOUT_S, self.timeout_s):g} s")
        except TimeoutError:
            return SinkRetry(f"no answer within {self.timeout_s:g} s")
        # ValueError: a host that is no name, such as one with a label of 64 characters.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return SinkRetry(_explain(error))
        return judge_answer(answer.status, answer.retry_after, now=self._clock())


def _explain(error: Exception) -> str:
    """
    Type and cause. aiohttp's own texts are left out where they hold the url, or what the receiver sent, which may be
    our own body.
    """
    detail = ""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        detail = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else ""
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        detail = (cause.reason if isinstance(cause, ssl.SSLError) else cause.strerror) or ""
    elif isinstance(error, AnswerTooLong):
        detail = str(error)
    elif isinstance(error, aiohttp.ServerDisconnectedError):
        detail = "the connection was closed before an answer came"
    elif isinstance(error, NoHttp):
        detail = "the answer is not valid HTTP"
    elif isinstance(error, ValueError):
        detail = "the configured url is not an http or https url"
    elif isinstance(error, aiohttp.ClientOSError | ConnectionError):
        detail = "the connection broke"
    name = type(error).__name__
    return f"{name}: {detail[:_MAX_DETAIL_CHARACTERS]}" if detail else name
