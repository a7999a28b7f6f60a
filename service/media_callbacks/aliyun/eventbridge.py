"""
EventBridge of Alibaba Cloud, its data plane at ``{account}.eventbridge.{region}.aliyuncs.com``: put events on a bus.

    POST /openapi/putEvents    up to 16 CloudEvents in their batched JSON format, each with the extension
                               ``aliyuneventbusname``; answered with an entry for each (documented)
    POST /openapi/getEventBus  {"EventBusName": ...} (the SDK)

What is sent is what the vendor's SDK sends, ``alibabacloud-eventbridge`` 1.3.8, whose Java client of 2023 does the
same: its signature, and the version 2015-06-06 where the documents have 2020-04-01. The OpenAPI of 2020-04-01 has a
PutEvents of its own since 2026, which takes no extensions; it is the data plane whose limits are documented.

An entry names its event by ``EventId``, which the documents call its id; the open-source twin of the service,
apache/rocketmq-eventbridge, answers in any order and says ``Success`` in ``ErrorCode``. So entries are found by their
ids, and where an answer does not say which of several events failed, all of them come again (inferred).

Source: "PutEvents", https://www.alibabacloud.com/help/en/eventbridge/latest/putevents-3; "Error codes",
https://www.alibabacloud.com/help/en/eventbridge/error-codes; codes about buses and events as the open-source twin has
them. Which code a wrong clock is answered with is documented nowhere, so that the header Date of a refusal tells it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Any, ClassVar
from uuid import uuid4

from media_callbacks.aliyun.credentials import CredentialsProvider
from media_callbacks.aliyun.exchange import Answer, Connection, clock_advice
from media_callbacks.aliyun.signing import sign_eventbridge
from media_callbacks.model.errors import VendorError, VendorRefused, VendorUnavailable
from media_callbacks.sources.reading.decoding import decode_json

# Sixteen entries, of which each may tell at length why it failed.
_MAX_REPLY_BYTES = 128 * 1024
_PATIENCE_S = 10.0
# The vendor's other APIs refuse what is a quarter of an hour off.
_MAX_SKEW_S = 600.0
_CODE = re.compile(r"[A-Za-z0-9._-]{1,80}")
_SUCCESS = (None, "", "Success")

# Other credentials may be right where these were not: they are fetched anew.
_CREDENTIAL_CODES = frozenset(
    {
        "InvalidAccessKeyId",
        "InvalidStsAccessKeyId",
        "SecurityTokenInvalid",
        "SignatureDoesNotMatch",
        "StsAccessIdExpired",
    }
)
_KEY_ADVICE = "check access_key_id, and that the key is not disabled"
_STS_ADVICE = "the STS token has expired or is not that of the access key: set fresh credentials"
_SERVICE_ADVICE = "activate EventBridge for this account and region"
_ADVICE: Mapping[str, str] = {
    "AccountIdNotExist": "check endpoint, which begins with the id of the account that has the bus",
    "EventBusNotExist": "there is no such bus at this endpoint: check event_bus, endpoint and its region, or create it",
    "InvalidAccessKeyId": _KEY_ADVICE,
    "InvalidStsAccessKeyId": _KEY_ADVICE,
    "SecurityTokenInvalid": _STS_ADVICE,
    "ServiceAccessDenied": _SERVICE_ADVICE,
    "ServiceNotEnable": _SERVICE_ADVICE,
    "ServiceNotEnabled": _SERVICE_ADVICE,
    "SignatureDoesNotMatch": "check access_key_secret, and that endpoint is the account's",
    "StsAccessIdExpired": _STS_ADVICE,
}


class EventBridgeClient:
    """
    One bus, seen by who puts events on it. Repeats nothing: whoever has events to send does that, with more patience.

    Args:
        endpoint: Of the account, for example ``https://123.eventbridge.cn-shanghai.aliyuncs.com``.
        clock: The time in UTC.
        nonce: Makes a text that no other request has.
    """

    describing: ClassVar[str] = "eventbridge:GetEventBus"

    def __init__(
        self,
        endpoint: str,
        bus: str,
        *,
        credentials: CredentialsProvider,
        clock: Callable[[], datetime],
        nonce: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self.bus = bus
        self._connection = Connection(endpoint, clock=clock)
        self._credentials = credentials
        self._clock = clock
        self._nonce = nonce

    def open(self) -> None:
        """Needed after ``close`` alone."""
        self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    async def put(self, entries: Sequence[Mapping[str, str]], *, patience_s: float) -> Sequence[VendorError | None]:
        """
        Put up to 16 events on their buses.

        Args:
            entries: For each ``event``, a CloudEvent as JSON with the bus in it, and its ``id``.

        Returns:
            For each of them None when it was taken, else why not.

        Raises:
            VendorUnavailable, VendorRefused: None of them was taken, as far as is known. See ``errors``.
        """
        body = f"[{','.join(entry['event'] for entry in entries)}]".encode()
        answer, document = await self._ask("putEvents", "application/cloudevents-batch+json", body, patience_s)
        listed = document.get("EntryList")
        results = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        if len(results) != len(entries):
            raise _unreadable("putEvents", answer.status, f"expected {len(entries)} entries, found {len(results)}")
        failed = sum(result.get("ErrorCode") not in _SUCCESS for result in results)
        if document.get("FailedEntryCount", failed) != failed:
            raise _unreadable("putEvents", answer.status, "FailedEntryCount is not that of the entries")
        if not failed:
            return [None] * len(entries)
        by_id = {str(result.get("EventId")): result for result in results}
        if len(results) == 1:
            by_id = {entries[0]["id"]: results[0]}
        return [self._read_result(by_id.get(entry["id"]), answer) for entry in entries]

    async def describe(self) -> None:
        """
        Ask for the bus, which changes nothing.

        Raises:
            VendorUnavailable, VendorRefused: See ``errors``.
        """
        body = json.dumps({"EventBusName": self.bus}).encode()
        await self._ask("getEventBus", "application/json", body, _PATIENCE_S)

    def _read_result(self, result: Mapping[str, Any] | None, answer: Answer) -> VendorError | None:
        if result is None:
            return _unreadable("putEvents", answer.status, "some events failed, and it does not say which")
        code = result.get("ErrorCode")
        return None if code in _SUCCESS else self._error("putEvents", answer, code)

    async def _ask(
        self, action: str, media_type: str, body: bytes, patience_s: float
    ) -> tuple[Answer, Mapping[str, Any]]:
        credentials = await self._credentials.get()
        target = f"/openapi/{action}"
        headers = {
            "Date": format_datetime(self._clock(), usegmt=True),
            "Accept": "application/json",
            "Content-Type": f"{media_type}; charset=utf-8",
            "x-acs-signature-nonce": self._nonce(),
            "x-acs-signature-method": "HMAC-SHA1",
            "x-acs-signature-version": "1.0",
            "x-eventbridge-version": "2015-06-06",
        }
        if credentials.security_token:
            headers["x-acs-accesskey-id"] = credentials.access_key_id
            headers["x-acs-security-token"] = credentials.security_token
        headers["Authorization"] = sign_eventbridge(
            "POST", target, headers, access_key_id=credentials.access_key_id, secret=credentials.access_key_secret
        )
        answer = await self._connection.exchange(
            action, "POST", target, headers=headers, body=body, max_bytes=_MAX_REPLY_BYTES, patience_s=patience_s
        )
        return answer, self._read(action, answer)

    def _read(self, action: str, answer: Answer) -> Mapping[str, Any]:
        status = answer.status
        if 300 <= status < 400:
            raise VendorRefused(
                f"{action} was answered HTTP {status}, a redirect, which is not followed: check endpoint, and whether"
                " it should be https",
                code="Redirect",
                status=status,
            )
        try:
            document = decode_json(answer.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise VendorUnavailable(
                f"{action} was answered HTTP {status}, and not with a JSON object: check endpoint, and what is on the"
                " way to it",
                retry_after_s=answer.retry_after_s,
                is_throttled=status == 429,
            )
        # The SDK reads codes in lower case, the documents write them like all else.
        code = document.get("code", document.get("Code"))
        if status == 200 and code in (*_SUCCESS, "200"):
            return document
        error = self._error(action, answer, code)
        if isinstance(error, VendorRefused) and error.code in _CREDENTIAL_CODES:
            self._credentials.invalidate()
        raise error

    def _error(self, action: str, answer: Answer, code: Any) -> VendorError:
        """What a code means, of a whole request or of one event."""
        status = answer.status
        is_readable = isinstance(code, str) and _CODE.fullmatch(code)
        code = code if is_readable else "without a readable code"
        found = f"{action} on bus {self.bus} was answered HTTP {status} {code}"
        if status == 429 or code == "TooManyRequests" or code.startswith("Throttling"):
            return VendorUnavailable(
                f"{found}: too many requests, set rate_per_s, or have the quota raised",
                retry_after_s=answer.retry_after_s,
                is_throttled=True,
            )
        if status >= 500 or code == "InternalError":
            return VendorUnavailable(f"{found}: the vendor has a problem", retry_after_s=answer.retry_after_s)
        if not is_readable:
            return VendorUnavailable(f"{found}: check endpoint, and what is on the way to it")
        if answer.skew_s is not None and abs(answer.skew_s) > _MAX_SKEW_S:
            advice = clock_advice(answer.skew_s)
        elif code.startswith("AccessDenied"):
            right = f"eventbridge:{action[0].upper()}{action[1:]}"
            advice = f"allow {right} on the bus to the user or role of these credentials"
        else:
            advice = _ADVICE.get(code) or "check the settings of this sink"
        return VendorRefused(f"{found}: {advice}", code=code, status=status)


def _unreadable(action: str, status: int, why: str) -> VendorUnavailable:
    return VendorUnavailable(f"{action} was answered HTTP {status} with what can't be read: {why}")
