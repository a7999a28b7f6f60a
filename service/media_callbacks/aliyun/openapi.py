"""
Sends queries to the vendor's OpenAPI and returns the replies.

VOD, ICE and MTS: ``POST /?parameters`` without a body, signed with ACS3-HMAC-SHA256, as the vendor's SDKs do.
multimediaai: the common parameters in the query, those of the action as a form, signed with HMAC-SHA1 (RPC version 1),
as its only SDK does.

Source: "Request syntax and signature method V3", https://help.aliyun.com/document_detail/2593177.html; the SDK core
``alibabacloud_tea_openapi`` 0.4.6, which reads error replies with either case of keys and takes the header
``x-acs-retry-after``, in milliseconds, on any status of 400 and above as throttling.
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal
from uuid import uuid4

import aiohttp
from yarl import URL

from media_callbacks.aliyun.calls import Api, ApiRequest, says_there_is_none
from media_callbacks.aliyun.credentials import Credentials, CredentialsProvider
from media_callbacks.aliyun.rate_limits import rate_per_s
from media_callbacks.aliyun.signing import EMPTY_SHA256, canonical_query, sign_acs3, sign_rpc
from media_callbacks.http_client.bounded_connector import read_body
from media_callbacks.http_client.session import open_session
from media_callbacks.model.errors import VendorRefused, VendorUnavailable
from media_callbacks.sources.reading.decoding import decode_json
from media_callbacks.sources.reading.xml_document import read_document
from media_callbacks.timing.clock import utc_now
from media_callbacks.timing.throttle import RateLimit
from media_callbacks.timing.waiting import Wait, wait_for

CallResult = Literal["ok", "not_found", "throttled", "unavailable", "refused"]
Observe = Callable[[Api, str, CallResult], None]
"""Is told how each request went: api, action, result."""

MAX_REPLY_BYTES = 4 * 2**20
ATTEMPTS = 3
_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0
_CONCURRENCY = 8
# Full jitter: anything between nothing and this, doubled with each attempt.
_FIRST_DELAY_S = 1.0
# Who is told to wait longer than this leaves the waiting to whoever asked.
_MAX_DELAY_S = 5.0
_MAX_RETRY_AFTER_S = 24 * 3600.0

_CODE = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_MILLISECONDS = re.compile(r"[0-9]{1,12}")

_SUCCESS_CODES = frozenset({"ok", "success", "200"})
_CLOCK_CODES = ("InvalidTimeStamp", "SignatureNonceUsed")
_CREDENTIAL_CODES = ("InvalidAccessKey", "InvalidSecurityToken", "MissingSecurityToken", "SignatureDoesNotMatch")
# Beginnings of codes, and what to do. Never decided by the status: multimediaai answers 401 for unpaid bills too.
_ADVICE: Mapping[tuple[str, ...], str] = {
    _CLOCK_CODES: "is the clock of this machine right? The vendor refuses requests that are minutes off",
    _CREDENTIAL_CODES: "check access key and security token, and that they belong together",
    ("Forbidden", "NoPermission", "AccessDenied"): "allow this action to the RAM user or role",
    ("InvalidAction", "InvalidApi", "InvalidVersion"): "check the endpoint: it does not know this action",
    ("ServiceNotOpened", "BalanceNotEnough"): "check the account: the product is not opened, or there is a debt",
}

# Public regions without a host of their own: the central one serves them.
# Source: the endpoint maps of alibabacloud_vod20170321 3.12.1, _ice20201109 6.20.2 and _mts20140618 6.0.3.
_MTS_CENTRAL_REGIONS = frozenset(
    {"ap-southeast-2", "ap-southeast-3", "cn-chengdu", "cn-wuhan", "cn-wulanchabu", "me-east-1", "us-east-1"}
)
_VOD_CENTRAL_REGIONS = _MTS_CENTRAL_REGIONS | {"cn-huhehaote", "cn-qingdao"}


def endpoint_of(api: Api, region: str) -> str:
    """The host that answers for a public region, as the vendor's SDKs choose it."""
    if api == "vod" and region == "cn-hangzhou":
        region = "cn-shanghai"
    is_central = (
        (api == "vod" and region in _VOD_CENTRAL_REGIONS)
        or (api == "ice" and region != "cn-shanghai")
        or (api == "mts" and region in _MTS_CENTRAL_REGIONS)
    )
    return f"{api}.aliyuncs.com" if is_central else f"{api}.{region}.aliyuncs.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """
    What came back.

    Attributes:
        body: One byte more than ``MAX_REPLY_BYTES`` where there was even more.
        retry_after: The header ``x-acs-retry-after``, as it came.
    """

    status: int
    body: bytes
    retry_after: str | None = None


def read_reply(action: str, reply: Reply) -> Mapping[str, Any]:
    """
    The JSON object that a successful reply consists of.

    Raises:
        VendorUnavailable: Throttled, a server error, or not the documented form: a redirect, HTML, cut off, too long,
            success in the status and an error in the code.
        VendorRefused: The vendor's own code with a 4xx.
    """
    answered = f"{action} was answered with HTTP {reply.status}"
    if 300 <= reply.status < 400:
        raise VendorUnavailable(f"{answered}, a redirect, which is not followed: check the endpoint")
    if len(reply.body) > MAX_REPLY_BYTES:
        raise VendorUnavailable(f"{answered} and more than {MAX_REPLY_BYTES} bytes")
    content = _read_content(reply)
    code = _code(content, reply)
    if code is not None:
        answered += f" and the code {code}"
    answered += _request_id(content)
    if reply.status < 400:
        if not isinstance(content, dict):
            raise VendorUnavailable(f"{answered}, but not with a JSON object: check the endpoint")
        if code is None:
            return content
        raise VendorUnavailable(answered, is_throttled=_is_throttling(code))
    retry_after_s = _retry_after_s(reply.retry_after)
    if retry_after_s is not None or reply.status in (429, 503) or (code is not None and _is_throttling(code)):
        raise VendorUnavailable(answered, retry_after_s=retry_after_s, is_throttled=True)
    # Without a code it is not the API that spoke, but something on the way to it.
    if reply.status >= 500 or code is None:
        raise VendorUnavailable(answered)
    advice = next((text for beginnings, text in _ADVICE.items() if code.startswith(beginnings)), None)
    raise VendorRefused(answered if advice is None else f"{answered}: {advice}", code=code, status=reply.status)


class OpenApiClient:
    """
    Asks the vendor's OpenAPI; ``call`` is a ``aliyun.calls.CallApi``.

    At most 8 requests of an api run at once, so that one that hangs holds up no other. Each action keeps below its
    rate, and what may pass is tried up to 3 times.

    Args:
        region: Where the jobs are, for example ``cn-hangzhou``.
        endpoints: Host or URL (``http://`` for tests) in place of what follows from the region.
        observe: Called after every request, repeated ones too.
        rates: Requests a second for an api and an action.
        clock: The time in UTC, for signatures.
        wait: Ends early when the client is closed.
        nonce: New text with every call.
    """

    def __init__(
        self,
        credentials: CredentialsProvider,
        *,
        region: str,
        endpoints: Mapping[Api, str] | None = None,
        observe: Observe | None = None,
        rates: Callable[[Api, str], float] = rate_per_s,
        timeout_s: float = _TIMEOUT_S,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
        wait: Wait = wait_for,
        nonce: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._endpoints = dict(endpoints or {})
        self._observe = observe
        self._rates = rates
        self._timeout_s = timeout_s
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng or Random()  # noqa: S311, spreads requests in time
        self._wait = wait
        self._nonce = nonce
        self._limits: dict[tuple[Api, str], _Turnstile] = {}
        self._slots: defaultdict[Api, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_CONCURRENCY))
        self._closed = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    async def call(self, query: ApiRequest) -> Mapping[str, Any]:
        """
        Send a query, several times if need be, and return the reply.

        Raises:
            VendorUnavailable: There is no usable reply just now.
            VendorRefused: There is an error that will stay.
        """
        attempt, has_other_chance = 1, True
        while True:
            credentials = await self._credentials.get()
            try:
                return await self._attempt(query, credentials)
            except VendorUnavailable as error:
                delay_s = max(self._rng.uniform(0, _FIRST_DELAY_S * 2 ** (attempt - 1)), error.retry_after_s or 0)
                if attempt == ATTEMPTS or delay_s > _MAX_DELAY_S or self._closed.is_set():
                    raise
                attempt += 1
                await self._wait(self._closed, delay_s)
            except VendorRefused as error:
                # The next request has a new nonce and time anyway.
                if not has_other_chance or not await self._may_differ(error.code, credentials):
                    raise
                has_other_chance = False

    async def close(self) -> None:
        """Calls that are under way end with VendorUnavailable."""
        self._closed.set()
        if self._session is not None:
            await self._session.close()

    async def _may_differ(self, code: str, credentials: Credentials) -> bool:
        """Whether the same query, signed anew, may have a better end."""
        if code.startswith(_CREDENTIAL_CODES):
            # Another call may have had the same answer, and may have renewed them already.
            if await self._credentials.get() == credentials:
                self._credentials.invalidate()
            return await self._credentials.get() != credentials
        return code.startswith(_CLOCK_CODES)

    async def _attempt(self, query: ApiRequest, credentials: Credentials) -> Mapping[str, Any]:
        await self._take_turn(query)
        try:
            async with self._slots[query.api]:
                self._check_open(query)
                reply = await self._exchange(query, credentials)
            content = read_reply(query.action, reply)
        except VendorUnavailable as error:
            self._note(query, "throttled" if error.is_throttled else "unavailable")
            raise
        except VendorRefused as error:
            self._note(query, "not_found" if says_there_is_none(error.code) else "refused")
            raise
        self._note(query, "ok")
        return content

    def _note(self, query: ApiRequest, result: CallResult) -> None:
        if self._observe is not None:
            self._observe(query.api, query.action, result)

    async def _take_turn(self, query: ApiRequest) -> None:
        key = (query.api, query.action)
        if key not in self._limits:
            self._limits[key] = _Turnstile(RateLimit(self._rates(*key)), asyncio.Lock())
        turnstile = self._limits[key]
        async with turnstile.queue:
            while not turnstile.limit.available(now=self._monotonic()):
                self._check_open(query)
                await self._wait(self._closed, turnstile.limit.wait_s())
            turnstile.limit.take(1)

    def _check_open(self, query: ApiRequest) -> None:
        if self._closed.is_set():
            raise VendorUnavailable(f"{query.action} was not sent: the client is closed")

    async def _exchange(self, query: ApiRequest, credentials: Credentials) -> Reply:
        override = self._endpoints.get(query.api) or endpoint_of(query.api, self._region)
        base = (override if "://" in override else f"https://{override}").rstrip("/")
        build = _build_rpc if query.api == "multimediaai" else _build_acs3
        try:
            url, headers, body = build(query, credentials, base, nonce=self._nonce(), now=self._clock())
            async with self._open_session().post(
                # Signed as it is, so it must be sent as it is.
                URL(url, encoded=True),
                data=body,
                headers=headers,
                skip_auto_headers=("Content-Type",),
                allow_redirects=False,
            ) as response:
                return Reply(
                    status=response.status,
                    body=await read_body(response, MAX_REPLY_BYTES),
                    retry_after=response.headers.get("x-acs-retry-after"),
                )
        except TimeoutError:
            raise VendorUnavailable(f"{query.action}: no answer from {base} within {self._timeout_s:g} s") from None
        # ValueError: a host that is no name, or credentials that no header can hold. Texts are left out, as they may
        # repeat what was sent, or what came.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise VendorUnavailable(f"{query.action}: no answer from {base} ({type(error).__name__})") from None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=min(_CONNECT_TIMEOUT_S, self._timeout_s)),
                max_connections=0,  # `_slots` is the limit, and waiting there is no time-out
            )
        return self._session


@dataclass(frozen=True, slots=True)
class _Turnstile:
    """One at a time, in the order of arrival."""

    limit: RateLimit
    queue: asyncio.Lock


_Request = tuple[str, dict[str, str], bytes | None]


def _build_acs3(query: ApiRequest, credentials: Credentials, base: str, *, nonce: str, now: datetime) -> _Request:
    headers = {
        "Host": _authority(base),
        "Accept": "application/json",
        "x-acs-action": query.action,
        "x-acs-version": query.version,
        "x-acs-date": _timestamp(now),
        "x-acs-signature-nonce": nonce,
        "x-acs-content-sha256": EMPTY_SHA256,
    }
    if credentials.security_token:
        headers["x-acs-security-token"] = credentials.security_token
    headers["Authorization"] = sign_acs3(
        "POST",
        query.parameters,
        headers,
        access_key_id=credentials.access_key_id,
        secret=credentials.access_key_secret,
    )
    return f"{base}/?{canonical_query(query.parameters)}", headers, None


def _build_rpc(query: ApiRequest, credentials: Credentials, base: str, *, nonce: str, now: datetime) -> _Request:
    common = {
        "Action": query.action,
        "Version": query.version,
        "Format": "JSON",
        "AccessKeyId": credentials.access_key_id,
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureNonce": nonce,
        "Timestamp": _timestamp(now),
    }
    if credentials.security_token:
        common["SecurityToken"] = credentials.security_token
    common["Signature"] = sign_rpc("POST", {**query.parameters, **common}, secret=credentials.access_key_secret)
    headers = {
        "Host": _authority(base),
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return f"{base}/?{canonical_query(common)}", headers, canonical_query(query.parameters).encode()


def _authority(base: str) -> str:
    return base.partition("://")[2]


def _timestamp(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _read_content(reply: Reply) -> Any:
    """What JSON it is; of an error, in which the vendor may answer in XML, its fields as well; None of all else."""
    try:
        return decode_json(reply.body)
    except ValueError:
        if reply.status < 400:
            return None
    try:
        return {child.name: child.text.strip() for child in read_document(reply.body).children}
    except ValueError:
        return None


def _code(content: Any, reply: Reply) -> str | None:
    """The vendor's code, None where there is none or it means success. One that is not a word is ``unreadable``."""
    found = content.get("Code", content.get("code")) if isinstance(content, dict) else None
    if found is None or found == "":
        return None
    code = str(found).strip() if isinstance(found, str | int) else ""
    if reply.status < 400 and code.lower() in _SUCCESS_CODES:
        return None
    return code if _CODE.fullmatch(code) else "unreadable"


def _request_id(content: Any) -> str:
    """For the message; the vendor's support asks for it."""
    found = content.get("RequestId", content.get("requestId")) if isinstance(content, dict) else None
    return f" (request {found})" if isinstance(found, str) and _REQUEST_ID.fullmatch(found) else ""


def _is_throttling(code: str) -> bool:
    return code.startswith("Throttling")


def _retry_after_s(milliseconds: str | None) -> float | None:
    """None where it is not a number above 0; at most a day."""
    if milliseconds is None or not _MILLISECONDS.fullmatch(milliseconds.strip()):
        return None
    return min(int(milliseconds) / 1000, _MAX_RETRY_AFTER_S) or None
