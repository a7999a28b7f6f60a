"""
A queue of MNS (now Simple Message Queue): receive, delete, keep invisible for longer.

An empty queue is answered with 404 ``MessageNotExist``, also before the end of a long poll when the account has too
many of them. A handle is void when its message has become visible again, or when the visibility has been changed.

Source: "Request protocol description", https://www.alibabacloud.com/help/en/mns/developer-reference/request-protocol-description,
"BatchReceiveMessage", "BatchDeleteMessage" and "ChangeMessageVisibility" beside it, and "Error codes",
https://www.alibabacloud.com/help/doc-detail/27501.htm. Times in messages are milliseconds since 1970 (what the
vendor's Java client reads them as).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from typing import Literal, Protocol
from urllib.parse import quote
from xml.sax.saxutils import escape

import aiohttp
from yarl import URL

from media_callbacks.aliyun.credentials import CredentialsProvider
from media_callbacks.aliyun.signing import sign_mns_v2, sign_mns_v4
from media_callbacks.http_client.bounded_connector import read_body
from media_callbacks.http_client.session import open_session
from media_callbacks.model.errors import VendorError, VendorRefused, VendorUnavailable
from media_callbacks.sources.reading.xml_document import Element, read_document

MAX_BATCH = 16
MAX_WAIT_S = 30
XML_NAMESPACE = "http://mns.aliyuncs.com/doc/v1/"

# Sixteen messages of 64 KiB, each character of them escaped, and as much again for what is around them.
_MAX_REPLY_BYTES = 8 * 1024 * 1024
# What the answer to a long poll may take beyond the wait.
_PATIENCE_S = 10.0
_CONNECT_S = 5.0
# The header Date is in whole seconds, and the reply was on its way for some time.
_SKEW_TOLERANCE_S = 3.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = re.compile(r"[0-9]{1,14}")
_CODE = re.compile(r"[A-Za-z0-9._-]{1,80}")

_NO_MESSAGE = "MessageNotExist"
# Other credentials may be right where these were not: they are fetched anew once.
_CREDENTIAL_CODES: Mapping[str, str] = {
    "AccessDenied": "allow mns:ReceiveMessage, mns:DeleteMessage and mns:ChangeMessageVisibility on the queue to the"
    " user or role of these credentials",
    "InvalidAccessKeyId": "check access_key_id, and that the key is not disabled",
    "SignatureDoesNotMatch": "check access_key_secret, and that endpoint is the account's, without the path of a queue",
}
_STS_ADVICE = "the STS token has expired or is not that of the access key: set fresh credentials"
_CLOCK_CODES = frozenset({"TimeExpired", "InvalidDateHeader"})
_ADVICE: Mapping[str, str] = {
    "QueueNotExist": "there is no such queue at this endpoint: check queue, endpoint and its region, or create it",
    "QueueDeletedRecently": "the queue was deleted a moment ago: create it again in some minutes",
    "InvalidQueueName": "check queue",
    "QueueNameLengthError": "check queue",
}


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """
    A message that this client has for some time to itself.

    Attributes:
        handle: What to delete it with; void once it is visible again.
        body: As sent, in UTF-8.
        body_md5: Hexadecimal, as the queue states it.
        next_visible_at: When others may receive it, by our clock.
        dequeue_count: 1 when it is received for the first time.
    """

    id: str
    handle: str = field(repr=False)
    body: bytes = field(repr=False)
    body_md5: str | None
    enqueued_at: datetime | None
    next_visible_at: datetime
    dequeue_count: int


class Queue(Protocol):
    """What a poller needs of a queue. Every method raises VendorUnavailable or VendorRefused."""

    async def receive(self, limit: int, wait_s: int) -> Sequence[ReceivedMessage]: ...

    async def delete(self, handles: Sequence[str]) -> Sequence[str]: ...

    async def change_visibility(self, handle: str, visibility_s: int) -> tuple[str, datetime]: ...


class MnsQueue:
    """
    Args:
        endpoint: Of the account, for example ``https://123.mns.cn-shanghai.aliyuncs.com``.
        queue: Its name.
        region: Needed for version 4 of the signature alone.
        clock: The time in UTC.
    """

    def __init__(
        self,
        endpoint: str,
        queue: str,
        *,
        credentials: CredentialsProvider,
        clock: Callable[[], datetime],
        signature: Literal["v2", "v4"] = "v2",
        region: str = "",
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._queue = queue
        self._path = f"/queues/{quote(queue, safe='')}/messages"
        self._credentials = credentials
        self._clock = clock
        self._signature = signature
        self._region = region
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def receive(self, limit: int, wait_s: int) -> Sequence[ReceivedMessage]:
        """
        Up to ``limit`` messages (16 at most), as soon as there is one; none when there was none for ``wait_s`` (30 at
        most) seconds. Fewer than ``limit`` does not mean that the queue is empty now.

        Raises:
            VendorUnavailable, VendorRefused: See ``errors``.
        """
        target = f"{self._path}?numOfMessages={limit}&waitseconds={wait_s}"
        if limit == 1:
            target = f"{self._path}?waitseconds={wait_s}"
        reply = await self._ask("ReceiveMessage", "GET", target, patience_s=wait_s + _PATIENCE_S)
        if reply.error is not None:
            self._raise_unless_empty("ReceiveMessage", reply)
            return []
        document = reply.document("ReceiveMessage", "Message" if limit == 1 else "Messages")
        elements = [document] if limit == 1 else [child for child in document.children if child.name == "Message"]
        return [self._read_message(element, reply) for element in elements]

    async def delete(self, handles: Sequence[str]) -> Sequence[str]:
        """
        Delete up to 16 messages.

        Returns:
            The handles of those that are still there and should be tried again. A message whose handle is void is not
            among them: it was deleted, or will come again.

        Raises:
            VendorUnavailable, VendorRefused: See ``errors``.
        """
        body = _document("ReceiptHandles", [("ReceiptHandle", handle) for handle in handles])
        reply = await self._ask("DeleteMessage", "DELETE", self._path, body=body)
        if reply.error is None:
            return []
        if reply.error.name != "Errors":
            self._raise_unless_empty("DeleteMessage", reply)
            return []
        failed = {
            child.text_of("ReceiptHandle")
            for child in reply.error.children
            if child.text_of("ErrorCode") not in (_NO_MESSAGE, "ReceiptHandleError")
        }
        return [handle for handle in handles if handle in failed]

    async def change_visibility(self, handle: str, visibility_s: int) -> tuple[str, datetime]:
        """
        Keep a message to ourselves for so many seconds from now (1 to 43,200).

        Returns:
            The new handle, the old one is void, and when the message will be visible again by our clock.

        Raises:
            VendorUnavailable, VendorRefused: The latter with the code MessageNotExist when the handle is void.
        """
        target = f"{self._path}?ReceiptHandle={quote(handle, safe='')}&VisibilityTimeout={visibility_s}"
        reply = await self._ask("ChangeMessageVisibility", "PUT", target)
        if reply.error is not None:
            raise self._error("ChangeMessageVisibility", reply)
        document = reply.document("ChangeMessageVisibility", "ChangeVisibility")
        new_handle, visible_at = document.text_of("ReceiptHandle"), reply.time(document.text_of("NextVisibleTime"))
        if not new_handle or visible_at is None:
            raise _unreadable("ChangeMessageVisibility", reply.status, "ReceiptHandle or NextVisibleTime is missing")
        return new_handle, visible_at

    def _read_message(self, element: Element, reply: "_Reply") -> ReceivedMessage:
        identifier, handle = element.text_of("MessageId"), element.text_of("ReceiptHandle")
        body, visible_at = element.find("MessageBody"), reply.time(element.text_of("NextVisibleTime"))
        if not identifier or not handle or body is None or visible_at is None:
            raise _unreadable(
                "ReceiveMessage",
                reply.status,
                "a message is without MessageId, ReceiptHandle, MessageBody or NextVisibleTime",
            )
        count = element.text_of("DequeueCount") or ""
        return ReceivedMessage(
            id=identifier,
            handle=handle,
            body=body.text.encode(),
            body_md5=element.text_of("MessageBodyMD5"),
            enqueued_at=_parse_milliseconds(element.text_of("EnqueueTime")),
            next_visible_at=visible_at,
            dequeue_count=int(count) if _MILLISECONDS.fullmatch(count) else 1,
        )

    def _raise_unless_empty(self, action: str, reply: "_Reply") -> None:
        if reply.code != _NO_MESSAGE:
            raise self._error(action, reply)

    async def _ask(
        self, action: str, method: str, target: str, *, body: bytes | None = None, patience_s: float = _PATIENCE_S
    ) -> "_Reply":
        reply = await self._exchange(action, method, target, body, patience_s)
        if reply.code in _CREDENTIAL_CODES or _is_about_token(reply.code):
            self._credentials.invalidate()
            reply = await self._exchange(action, method, target, body, patience_s)
        return reply

    async def _exchange(self, action: str, method: str, target: str, body: bytes | None, patience_s: float) -> "_Reply":
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
        try:
            async with self._open_session().request(
                method,
                # Signed as it is, so it must be sent as it is.
                URL(self._endpoint + target, encoded=True),
                data=body,
                headers=headers,
                skip_auto_headers=("User-Agent",),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=patience_s + _CONNECT_S, sock_connect=_CONNECT_S),
            ) as response:
                body = await read_body(response, _MAX_REPLY_BYTES)
                if len(body) > _MAX_REPLY_BYTES:
                    raise VendorUnavailable(
                        f"{action} was answered {response.status} with more than {_MAX_REPLY_BYTES} bytes, which no"
                        " reply of a queue has"
                    )
                reply = _Reply(
                    response.status,
                    body,
                    _skew_s(response.headers.get("Date"), self._clock()),
                    _parse_retry_after(response.headers.get("Retry-After")),
                )
        except TimeoutError as error:
            raise VendorUnavailable(
                f"{action}: no complete answer from {self._endpoint} within {patience_s + _CONNECT_S:.0f} s"
            ) from error
        except aiohttp.ClientError as error:
            # Not its text: it may repeat what was sent, or what came.
            raise VendorUnavailable(
                f"{action}: the exchange with {self._endpoint} failed ({type(error).__name__}): check endpoint"
                " and network"
            ) from error
        reply.read_error(action)
        return reply

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session()
        return self._session

    def _error(self, action: str, reply: "_Reply") -> VendorError:
        """What the service's own reply with a code means."""
        code, status = reply.code, reply.status
        found = f"{action} on queue {self._queue} was answered {status} {code}"
        if code == "QpsLimitExceeded" or status == 429:
            return VendorUnavailable(
                f"{found}: too many requests, fewer pollers may help",
                retry_after_s=reply.retry_after_s,
                is_throttled=True,
            )
        if status >= 500:
            return VendorUnavailable(f"{found}: the vendor has a problem", retry_after_s=reply.retry_after_s)
        if code in _CLOCK_CODES:
            advice = _clock_advice(reply.skew_s)
        elif _is_about_token(code):
            advice = _STS_ADVICE
        else:
            advice = _CREDENTIAL_CODES.get(code) or _ADVICE.get(code) or "check the settings of this source"
        return VendorRefused(f"{found}: {advice}", code=code, status=status)


def _is_about_token(code: str) -> bool:
    # InvalidSecurityToken, InvalidSecurityToken.Expired, SecurityTokenExpired: the documents have several.
    return "SecurityToken" in code


def _clock_advice(skew_s: float | None) -> str:
    if skew_s is None:
        return "check the clock of this machine"
    side = "behind" if skew_s > 0 else "ahead of"
    return f"the clock of this machine is {abs(skew_s):.0f} s {side} the vendor's: set it"


@dataclass(slots=True)
class _Reply:
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

    def read_error(self, action: str) -> None:
        """
        Raises:
            VendorUnavailable: It is no success, and nothing that the queue service would say.
            VendorRefused: A redirect.
        """
        if 200 <= self.status < 300:
            return
        if 300 <= self.status < 400:
            raise VendorRefused(
                f"{action} was answered {self.status}, a redirect, which is not followed: check endpoint, and whether"
                " it should be https",
                code="Redirect",
                status=self.status,
            )
        try:
            self.error = read_document(self.body)
        except ValueError:
            # Plain text or HTML, from the service or from something on the way to it.
            raise VendorUnavailable(
                f"{action} was answered {self.status} without the document that says why: check endpoint, and what is"
                " on the way to it",
                retry_after_s=self.retry_after_s,
                is_throttled=self.status == 429,
            ) from None
        if self.error.name == "Errors":
            # Of a batch: one code for each of its messages.
            return
        code = self.error.text_of("Code") or ""
        if self.error.name != "Error" or not _CODE.fullmatch(code):
            raise VendorUnavailable(
                f"{action} was answered {self.status} without a code", retry_after_s=self.retry_after_s
            )
        self.code = code

    def document(self, action: str, root: str) -> Element:
        try:
            document = read_document(self.body)
        except ValueError as error:
            raise _unreadable(action, self.status, str(error)) from None
        if document.name != root:
            raise _unreadable(action, self.status, f"expected {root}, found another document")
        return document

    def time(self, text: str | None) -> datetime | None:
        """A moment in milliseconds by the vendor's clock, by ours."""
        moment = _parse_milliseconds(text)
        if moment is None or self.skew_s is None or abs(self.skew_s) < _SKEW_TOLERANCE_S:
            return moment
        return moment - timedelta(seconds=self.skew_s)


def _unreadable(action: str, status: int, why: str) -> VendorUnavailable:
    return VendorUnavailable(f"{action} was answered {status} with what can't be read: {why}")


def _skew_s(date: str | None, now: datetime) -> float | None:
    if date is None:
        return None
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError):
        return None


def _parse_retry_after(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else None


def _parse_milliseconds(text: str | None) -> datetime | None:
    if text is None or not _MILLISECONDS.fullmatch(text):
        return None
    return _EPOCH + timedelta(milliseconds=int(text))


def _document(root: str, children: Sequence[tuple[str, str]]) -> bytes:
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in children)
    return f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="{XML_NAMESPACE}">{inner}</{root}>'.encode()
