"""
The HTTP API of MNS (now Simple Message Queue): one request, its reply, and what an error means. What is asked of queues
and topics is in ``mns`` (receiving) and ``mns_sending``.

Source: "Request protocol description", https://www.alibabacloud.com/help/en/mns/developer-reference/request-protocol-description,
and "Error codes", https://www.alibabacloud.com/help/doc-detail/27501.htm. Times in messages are milliseconds since 1970
(what the vendor's Java client reads them as).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import ClassVar, Literal
from urllib.parse import quote
from xml.sax.saxutils import escape

from media_callbacks.aliyun.credentials import CredentialsProvider
from media_callbacks.aliyun.exchange import Connection, clock_advice
from media_callbacks.aliyun.signing import sign_mns_v2, sign_mns_v4
from media_callbacks.model.errors import VendorError, VendorRefused, VendorUnavailable
from media_callbacks.sources.reading.xml_document import Element, read_document

MAX_BATCH = 16
XML_NAMESPACE = "http://mns.aliyuncs.com/doc/v1/"

# Sixteen messages of 64 KiB, each character of them escaped, and as much again for what is around them.
_MAX_REPLY_BYTES = 8 * 1024 * 1024
# What an answer may take beyond the wait that was asked for.
_PATIENCE_S = 10.0
# The header Date is in whole seconds, and the reply was on its way for some time.
_SKEW_TOLERANCE_S = 3.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = re.compile(r"[0-9]{1,14}")
CODE = re.compile(r"[A-Za-z0-9._-]{1,80}")

# Other credentials may be right where these were not: they are fetched anew.
_CREDENTIAL_CODES = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
_CLOCK_CODES = frozenset({"TimeExpired", "InvalidDateHeader"})
_ADVICE: Mapping[str, str] = {
    "InvalidAccessKeyId": "check access_key_id, and that the key is not disabled",
    "SignatureDoesNotMatch": "check access_key_secret, and that endpoint is the account's, without the path of a queue",
    "QueueNotExist": "there is no such queue at this endpoint: check queue, endpoint and its region, or create it",
    "QueueDeletedRecently": "the queue was deleted a moment ago: create it again in some minutes",
    "InvalidQueueName": "check queue",
    "QueueNameLengthError": "check queue",
    "TopicNotExist": "there is no such topic at this endpoint: check topic, endpoint and its region, or create it",
    "InvalidTopicName": "check topic",
    "TopicNameLengthError": "check topic",
}
_STS_ADVICE = "the STS token has expired or is not that of the access key: set fresh credentials"


class MnsClient:
    """
    Asks about one queue or topic.

    Attributes:
        kind: What is asked about.
        batch_error: The document that tells of a batch that failed in part.
        rights: What the credentials must be allowed.
        owner: What the settings belong to, for advice.
        throttled: What may help where there are too many requests.

    Args:
        endpoint: Of the account, for example ``https://123.mns.cn-shanghai.aliyuncs.com``.
        name: Of the queue or topic.
        region: Needed for version 4 of the signature alone.
        clock: The time in UTC.
    """

    kind: ClassVar[Literal["queue", "topic"]]
    batch_error: ClassVar[str]
    rights: ClassVar[str]
    owner: ClassVar[str]
    throttled: ClassVar[str]

    def __init__(
        self,
        endpoint: str,
        name: str,
        *,
        credentials: CredentialsProvider,
        clock: Callable[[], datetime],
        signature: Literal["v2", "v4"] = "v2",
        region: str = "",
    ) -> None:
        self._connection = Connection(endpoint, clock=clock)
        self._name = name
        self._resource = f"/{self.kind}s/{quote(name, safe='')}"
        self._path = f"{self._resource}/messages"
        self._credentials = credentials
        self._clock = clock
        self._signature = signature
        self._region = region

    def open(self) -> None:
        """Needed after ``close`` alone."""
        self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    async def _ask(
        self,
        action: str,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        wait_s: float = 0.0,
        is_repeated: bool = True,
    ) -> "Reply":
        """
        Args:
            wait_s: What the answer may take although nothing is wrong.
            is_repeated: At once with fresh credentials, where these are refused.

        Raises:
            VendorUnavailable, VendorRefused: There is no reply of MNS.
        """
        reply = await self._exchange(action, method, target, body, wait_s)
        if reply.code in _CREDENTIAL_CODES or _is_about_token(reply.code):
            self._credentials.invalidate()
            if is_repeated:
                reply = await self._exchange(action, method, target, body, wait_s)
        return reply

    async def _exchange(self, action: str, method: str, target: str, body: bytes | None, wait_s: float) -> "Reply":
        credentials = await self._credentials.get()
        now = self._clock()
        headers = {
            "Content-Type": "text/xml;charset=UTF-8",
            "Date": format_datetime(now, usegmt=True),
            "x-mns-version": "2015-06-06",
        }
        v4 = partial(sign_mns_v4, region=self._region, now=now)
        headers["Authorization"] = (v4 if self._signature == "v4" else sign_mns_v2)(
            method,
            target,
            headers,
            access_key_id=credentials.access_key_id,
            secret=credentials.access_key_secret,
        )
        if credentials.security_token:
            headers["security-token"] = credentials.security_token
        answer = await self._connection.exchange(
            action,
            method,
            target,
            headers=headers,
            body=body,
            max_bytes=_MAX_REPLY_BYTES,
            patience_s=wait_s + _PATIENCE_S,
        )
        reply = Reply(answer.status, answer.body, answer.skew_s, answer.retry_after_s)
        reply.read_error(action, self.batch_error)
        return reply

    def _error(self, action: str, reply: "Reply", code: str | None = None) -> VendorError:
        """What the service's own reply with a code means, or what the ``code`` of one message in it does."""
        code, status = reply.code if code is None else code, reply.status
        found = f"{action} on {self.kind} {self._name} was answered HTTP {status} {code}"
        if code == "QpsLimitExceeded" or status == 429:
            return VendorUnavailable(
                f"{found}: too many requests, {self.throttled}",
                retry_after_s=reply.retry_after_s,
                is_throttled=True,
            )
        if status >= 500 or code in ("InternalError", "InternalServerError"):
            return VendorUnavailable(f"{found}: the vendor has a problem", retry_after_s=reply.retry_after_s)
        if code in _CLOCK_CODES:
            advice = clock_advice(reply.skew_s)
        elif _is_about_token(code):
            advice = _STS_ADVICE
        elif code == "AccessDenied":
            advice = f"allow {self.rights} on the {self.kind} to the user or role of these credentials"
        else:
            advice = _ADVICE.get(code) or f"check the settings of this {self.owner}"
        return VendorRefused(f"{found}: {advice}", code=code, status=status)


def _is_about_token(code: str) -> bool:
    # InvalidSecurityToken, InvalidSecurityToken.Expired, SecurityTokenExpired: the documents have several.
    return "SecurityToken" in code


@dataclass(slots=True)
class Reply:
    """
    Attributes:
        skew_s: The vendor's clock minus ours.
        error: The document of a reply that is no success.
        code: The vendor's word in it, else empty.
    """

    status: int
    body: bytes
    skew_s: float | None
    retry_after_s: float | None
    error: Element | None = None
    code: str = ""

    def read_error(self, action: str, batch_error: str) -> None:
        """
        Args:
            batch_error: The document that has something for each message of a batch.

        Raises:
            VendorUnavailable: It is no success, and nothing that the service would say.
            VendorRefused: A redirect.
        """
        if 200 <= self.status < 300:
            return
        if 300 <= self.status < 400:
            raise VendorRefused(
                f"{action} was answered HTTP {self.status}, a redirect, which is not followed: check endpoint, and"
                " whether it should be https",
                code="Redirect",
                status=self.status,
            )
        try:
            self.error = read_document(self.body)
        except ValueError:
            # Plain text or HTML, from the service or from something on the way to it.
            raise VendorUnavailable(
                f"{action} was answered HTTP {self.status} without the document that says why: check endpoint, and"
                " what is on the way to it",
                retry_after_s=self.retry_after_s,
                is_throttled=self.status == 429,
            ) from None
        if self.error.name == batch_error:
            return
        code = self.error.text_of("Code") or ""
        if self.error.name != "Error" or not CODE.fullmatch(code):
            raise VendorUnavailable(
                f"{action} was answered HTTP {self.status} without a code", retry_after_s=self.retry_after_s
            )
        self.code = code

    def document(self, action: str, root: str) -> Element:
        """
        Raises:
            VendorUnavailable: It is another one, or none.
        """
        try:
            document = read_document(self.body)
        except ValueError as error:
            raise unreadable(action, self.status, str(error)) from None
        if document.name != root:
            raise unreadable(action, self.status, f"expected {root}, found another document")
        return document

    def time(self, text: str | None) -> datetime | None:
        """A moment in milliseconds by the vendor's clock, by ours."""
        moment = parse_milliseconds(text)
        if moment is None or self.skew_s is None or abs(self.skew_s) < _SKEW_TOLERANCE_S:
            return moment
        return moment - timedelta(seconds=self.skew_s)


def unreadable(action: str, status: int, why: str) -> VendorUnavailable:
    return VendorUnavailable(f"{action} was answered HTTP {status} with what can't be read: {why}")


def parse_milliseconds(text: str | None) -> datetime | None:
    if text is None or not _MILLISECONDS.fullmatch(text):
        return None
    return _EPOCH + timedelta(milliseconds=int(text))


def write_element(name: str, content: str | Sequence[tuple[str, str]]) -> str:
    """An element with text in it, or with elements that have text."""
    inner = escape(content) if isinstance(content, str) else "".join(write_element(*child) for child in content)
    return f"<{name}>{inner}</{name}>"


def write_document(root: str, elements: Sequence[str]) -> bytes:
    """A document of elements as ``write_element`` makes them."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="{XML_NAMESPACE}">{"".join(elements)}</{root}>'
    ).encode()
