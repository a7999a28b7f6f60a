"""
The HTTP API of MNS (Simple Message Queue) in the fake cloud, in memory: queues under ``/queues/``, and what is asked of
every request; ``topics`` are below ``/topics/``.

Each behaviour with its source, D for the vendor's documents, S for what its Python client ``aliyun-mns-sdk`` 1.3.0
sends and expects, A for assumed:

    signature V2 and V4, over path and query as sent             D "Request signatures"; V4: the Java client 2.0.0
    Date more than 15 minutes off: 408 TimeExpired               D "Error codes" (newer pages say 400)
    Content-MD5 of the body, as base64 of its hexadecimal text   S; base64 of the raw digest is taken as well: D
    an empty queue: 404 MessageNotExist, at the end of the wait  D "ReceiveMessage"
    too many long polls: the same at once                        D "Long polling", older text
    a handle is void after a change of the visibility, and as
    soon as the message is visible again: 404 MessageNotExist    D "ChangeMessageVisibility", "DeleteMessage"
    a handle that no queue gave: 400 ReceiptHandleError          D "Error codes"
    a batch that fails in part: an error status with one
    element for each that failed                                 S; the statuses 404 and 400: A
    a batch of more than 64 KB together: 400 InvalidArgument     D "BatchSendMessage"; the code: A
    throttling: 400 QpsLimitExceeded                             D "Error codes"
    an STS token that is not the key's: 403 InvalidSecurityToken A
    who has hung up during a long poll gets no message           A

"Error codes": https://www.alibabacloud.com/help/doc-detail/27501.htm; the operations:
https://www.alibabacloud.com/help/en/mns/developer-reference/.
"""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from random import Random
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from media_callbacks.aliyun.mns import MAX_WAIT_S
from media_callbacks.aliyun.mns_client import MAX_BATCH
from media_callbacks.aliyun.signing import sign_mns_v2, sign_mns_v4
from media_callbacks.rehearsal.fake_cloud.mns_documents import (
    EPOCH,
    MAX_MESSAGE_BYTES,
    Refused,
    milliseconds,
    read_body,
    read_number,
    write_document,
    write_element,
    write_fields,
)
from media_callbacks.rehearsal.fake_cloud.topics import FakeTopics
from media_callbacks.sources.reading.xml_document import Element
from media_callbacks.timing.waiting import Wait, wait_for

MAX_SKEW_S = 900
_MAX_BODY_BYTES = 1_048_576
_V2 = re.compile(r"MNS ([^:]+):(.+)")
_V4 = re.compile(
    r"MNS4-HMAC-SHA256 Credential=([^/]+)/([0-9]{8})/([^/]+)/mns/aliyun_v4_request,\s*Signature=[0-9a-f]{64}"
)
_PATH = re.compile(r"/queues/([A-Za-z0-9][A-Za-z0-9-]{0,119})(/messages)?")
_HANDLE = re.compile(r"[0-9]{1,2}-[A-Za-z0-9+/=]+")

# Attribute of a queue: its default, and its bounds. D "Queue".
_ATTRIBUTES: Mapping[str, tuple[int, int, int]] = {
    "VisibilityTimeout": (30, 1, 43_200),
    "MaximumMessageSize": (MAX_MESSAGE_BYTES, 1_024, MAX_MESSAGE_BYTES),
    "MessageRetentionPeriod": (345_600, 60, 604_800),
    "DelaySeconds": (0, 0, 604_800),
    "PollingWaitSeconds": (0, 0, MAX_WAIT_S),
}


@dataclass
class QueueFaults:
    """
    What goes wrong on purpose; may be changed at any time.

    Attributes:
        throttled: The part of requests that are answered with QpsLimitExceeded, 0 to 1.
        failing: The part of requests that are answered with 500 InternalError.
        max_long_polls: How many may wait at the same time; the next one is answered at once.
    """

    throttled: float = 0.0
    failing: float = 0.0
    max_long_polls: int = 1_000


class FakeQueues:
    """
    Args:
        clock: The time in UTC.
        credentials: Secret by access key id.
        tokens: The STS token that belongs to an access key id; keys without one are permanent.
        wait: How to wait for an event with a time-out in seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        credentials: Mapping[str, str],
        tokens: Mapping[str, str] | None = None,
        rng: Random | None = None,
        wait: Wait = wait_for,
    ) -> None:
        self._clock = clock
        self.credentials = credentials
        self.tokens: Mapping[str, str] = tokens or {}
        self.faults = QueueFaults()
        self._rng = rng or Random(0)  # noqa: S311 - nothing is secret here
        self._wait = wait
        self._queues: dict[str, _Queue] = {}
        self._serial = 0
        self._long_polls = 0
        self.topics = FakeTopics(clock=clock, next_id=self._next_id, send=self.send)

    def create(self, queue: str, *, visibility_s: int = 30) -> None:
        self._queues[queue] = _Queue(queue, {**_defaults(), "VisibilityTimeout": visibility_s}, self._clock())

    def remove(self, queue: str) -> None:
        del self._queues[queue]

    def send(self, queue: str, body: str) -> str:
        """Put a message into a queue, as the vendor's products do. Gives its id. In the thread of the server alone."""
        return self._add(self._queues[queue], body, priority=8, delay_s=0).id

    def depth(self, queue: str) -> int:
        """How many messages are not deleted yet, visible or not."""
        return len(self._queues[queue].messages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = self._next_id()[:24]
        try:
            response = await self._respond(Request(scope, receive), request_id)
        except Refused as refused:
            response = write_fields(
                refused.status,
                "Error",
                {
                    "Code": refused.code,
                    "Message": refused.message,
                    "RequestId": request_id,
                    "HostId": "http://fake.mns",
                },
            )
        except ClientDisconnect:
            return
        response.headers["x-mns-request-id"] = request_id
        response.headers["x-mns-version"] = "2015-06-06"
        response.headers["Date"] = format_datetime(self._clock(), usegmt=True)
        await response(scope, receive, send)

    async def _respond(self, request: Request, request_id: str) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MAX_BODY_BYTES:
                raise Refused(400, "InvalidArgument", "The request is too large.")
        raw_path = request.scope["raw_path"].decode("latin-1")
        raw_query = request.scope["query_string"].decode("latin-1")
        self._check_request(request, f"{raw_path}?{raw_query}" if raw_query else raw_path, body)
        chance = self._rng.random()
        if chance < self.faults.throttled:
            raise Refused(400, "QpsLimitExceeded", "The qps is over the limit.")
        if chance < self.faults.throttled + self.faults.failing:
            raise Refused(500, "InternalError", "Internal error.")
        if raw_path.startswith("/topics/"):
            return self.topics.respond(request.method, unquote(raw_path), body)
        match = _PATH.fullmatch(unquote(raw_path))
        if match is None:
            raise Refused(400, "InvalidQueueName", "The name of the queue is not valid.")
        name, is_about_messages = match.groups()
        parameters = _parameters(raw_query)
        if not is_about_messages:
            return self._manage(request.method, name, parameters, body)
        queue = self._queues.get(name)
        if queue is None:
            raise Refused(404, "QueueNotExist", "The queue you provided is not exist.")
        match request.method:
            case "POST":
                return self._send(queue, read_body(body))
            case "GET" if "peekonly" in parameters:
                return self._peek(queue, parameters)
            case "GET":
                return await self._receive(queue, parameters, request)
            case "DELETE" if "receipthandle" in parameters:
                self._delete(queue, parameters["receipthandle"])
                return Response(status_code=204)
            case "DELETE":
                return self._delete_batch(queue, read_body(body))
            case "PUT":
                return self._change_visibility(queue, parameters)
            case _:
                raise Refused(400, "InvalidRequestURL", "There is no such operation.")

    # Signature

    def _check_request(self, request: Request, target: str, body: bytes) -> None:
        headers = request.headers
        if "x-mns-version" not in headers:
            raise Refused(400, "MissingVersionHeader", "x-mns-version is required.")
        date = headers.get("date") or headers.get("x-mns-date")
        if date is None:
            raise Refused(400, "MissingDateHeader", "Date is required.")
        try:
            sent_at = parsedate_to_datetime(date)
        except ValueError:
            raise Refused(400, "InvalidDateHeader", "Date is not valid.") from None
        if sent_at.tzinfo is None:
            raise Refused(400, "InvalidDateHeader", "Date is not valid.")
        self._check_signature(request, target, sent_at)
        if abs((self._clock() - sent_at).total_seconds()) > MAX_SKEW_S:
            raise Refused(408, "TimeExpired", "The http request you sent is expired.")
        digest = hashlib.md5(body, usedforsecurity=False)
        accepted = (base64.b64encode(digest.hexdigest().encode()), base64.b64encode(digest.digest()))
        if headers.get("content-md5", accepted[0].decode()).encode() not in accepted:
            raise Refused(400, "InvalidDigest", "Content-MD5 is not that of the body.")

    def _check_signature(self, request: Request, target: str, sent_at: datetime) -> None:
        headers = request.headers
        authorization = headers.get("authorization")
        if authorization is None:
            raise Refused(400, "MissingAuthorizationHeader", "Authorization is required.")
        match = _V2.fullmatch(authorization) or _V4.fullmatch(authorization)
        if match is None:
            raise Refused(400, "InvalidAuthorizationHeader", "Authorization is not valid.")
        key_id = match[1]
        if key_id not in self.credentials:
            raise Refused(403, "InvalidAccessKeyId", "The AccessKey Id you provided is not exist.")
        secret = self.credentials[key_id]
        if match.re is _V2:
            expected = sign_mns_v2(request.method, target, headers, access_key_id=key_id, secret=secret)
        else:
            expected = sign_mns_v4(
                request.method, target, headers, access_key_id=key_id, secret=secret, region=match[3], now=sent_at
            )
        if not hmac.compare_digest(expected.encode(), authorization.encode("latin-1", "replace")):
            raise Refused(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
        if headers.get("security-token") != self.tokens.get(key_id):
            raise Refused(403, "InvalidSecurityToken", "The security token is expired or not that of the key.")

    # Queues

    def _manage(self, method: str, name: str, parameters: Mapping[str, str], body: bytes) -> Response:
        queue = self._queues.get(name)
        if method == "PUT" and "metaoverride" not in parameters:
            attributes = _read_attributes(body, _defaults())
            if queue is None:
                self._queues[name] = _Queue(name, attributes, self._clock())
            elif queue.attributes != attributes:
                raise Refused(409, "QueueAlreadyExist", "The queue you want to create is already exist.")
            return Response(status_code=201 if queue is None else 204, headers={"Location": f"http://fake.mns/{name}"})
        if queue is None:
            if method == "DELETE":
                return Response(status_code=204)
            raise Refused(404, "QueueNotExist", "The queue you provided is not exist.")
        match method:
            case "PUT":
                queue.attributes = _read_attributes(body, queue.attributes)
                return Response(status_code=204)
            case "DELETE":
                del self._queues[name]
                return Response(status_code=204)
            case "GET":
                return write_fields(200, "Queue", self._attributes(queue))
            case _:
                raise Refused(400, "InvalidRequestURL", "There is no such operation.")

    def _attributes(self, queue: "_Queue") -> Mapping[str, object]:
        now = self._clock()
        hidden = [message for message in queue.messages.values() if message.visible_at > now]
        delayed = sum(message.dequeue_count == 0 for message in hidden)
        created = int(queue.created_at.timestamp())
        return {
            "QueueName": queue.name,
            "CreateTime": created,
            "LastModifyTime": created,
            **queue.attributes,
            "ActiveMessages": len(queue.messages) - len(hidden),
            "InactiveMessages": len(hidden) - delayed,
            "DelayMessages": delayed,
            "LoggingEnabled": "False",
        }

    # Messages

    def _send(self, queue: "_Queue", document: Element) -> Response:
        if document.name == "Message":
            message = self._addwrite_element(queue, document)
            return write_fields(201, "Message", _sent(message))
        elements = [child for child in document.children if child.name == "Message"]
        if document.name != "Messages" or not 1 <= len(elements) <= MAX_BATCH:
            raise Refused(400, "MalformedXML", "Expected Message, or Messages with 1 to 16 of them.")
        sizes = [len((element.text_of("MessageBody") or "").encode()) for element in elements]
        if sum(size for size in sizes if size <= MAX_MESSAGE_BYTES) > MAX_MESSAGE_BYTES:
            raise Refused(400, "InvalidArgument", "The messages are longer than 64 KB together.")
        status, items = 201, []
        for element in elements:
            try:
                items.append(write_element("Message", _sent(self._addwrite_element(queue, element))))
            except Refused as refused:
                status = refused.status
                items.append(write_element("Message", {"ErrorCode": refused.code, "ErrorMessage": refused.message}))
        return write_document(status, "Messages", items)

    def _addwrite_element(self, queue: "_Queue", element: Element) -> "_Message":
        body = element.find("MessageBody")
        if body is None or not body.text:
            raise Refused(400, "MalformedXML", "MessageBody is required.")
        if len(body.text.encode()) > queue.attributes["MaximumMessageSize"]:
            raise Refused(400, "InvalidArgument", "MessageBody is longer than MaximumMessageSize.")
        priority = read_number(element.text_of("Priority"), "Priority", 8, 1, 16)
        delay_s = read_number(
            element.text_of("DelaySeconds"), "DelaySeconds", queue.attributes["DelaySeconds"], 0, 604_800
        )
        return self._add(queue, body.text, priority=priority, delay_s=delay_s)

    def _add(self, queue: "_Queue", body: str, *, priority: int, delay_s: int) -> "_Message":
        now = self._clock()
        digest = hashlib.md5(body.encode(), usedforsecurity=False).hexdigest().upper()
        message = _Message(self._next_id(), body, digest, priority, now, now + timedelta(seconds=delay_s))
        if delay_s:
            self._give_handle(queue, message)
        queue.messages[message.id] = message
        for woken in queue.waiting:
            woken.set()
        return message

    async def _receive(self, queue: "_Queue", parameters: Mapping[str, str], request: Request) -> Response:
        limit = read_number(parameters.get("numofmessages"), "numOfMessages", 1, 1, MAX_BATCH)
        default_s = queue.attributes["PollingWaitSeconds"]
        wait_s = read_number(parameters.get("waitseconds"), "waitseconds", default_s, 0, MAX_WAIT_S)
        messages = self._take(queue, limit)
        if not messages and wait_s and self._long_polls < self.faults.max_long_polls:
            self._long_polls += 1
            try:
                messages = await self._take_later(queue, limit, wait_s, request)
            finally:
                self._long_polls -= 1
        if not messages:
            raise Refused(404, "MessageNotExist", "Message not exist.")
        if "numofmessages" not in parameters:
            return write_fields(200, "Message", _received(messages[0]))
        return write_document(200, "Messages", [write_element("Message", _received(message)) for message in messages])

    async def _take_later(self, queue: "_Queue", limit: int, wait_s: int, request: Request) -> list["_Message"]:
        until = self._clock() + timedelta(seconds=wait_s)
        woken = asyncio.Event()
        gone = asyncio.ensure_future(request.receive())
        gone.add_done_callback(lambda _: woken.set())
        queue.waiting.add(woken)
        try:
            while (left_s := (until - self._clock()).total_seconds()) > 0:
                hidden = [message.visible_at for message in queue.messages.values()]
                # A little later than that, so that no rounding makes it a moment too early.
                next_s = min(hidden, default=until).timestamp() - self._clock().timestamp() + 0.001
                await self._wait(woken, max(min(left_s, next_s), 0.001))
                woken.clear()
                if gone.done():
                    raise ClientDisconnect
                if messages := self._take(queue, limit):
                    return messages
            return []
        finally:
            queue.waiting.discard(woken)
            gone.cancel()

    def _take(self, queue: "_Queue", limit: int) -> list["_Message"]:
        now = self._clock()
        taken = _visible(queue, now)[:limit]
        for message in taken:
            message.visible_at = now + timedelta(seconds=queue.attributes["VisibilityTimeout"])
            message.first_dequeued_at = message.first_dequeued_at or now
            message.dequeue_count += 1
            self._give_handle(queue, message)
        return taken

    def _peek(self, queue: "_Queue", parameters: Mapping[str, str]) -> Response:
        limit = read_number(parameters.get("numofmessages"), "numOfMessages", 1, 1, MAX_BATCH)
        messages = _visible(queue, self._clock())[:limit]
        if not messages:
            raise Refused(404, "MessageNotExist", "Message not exist.")
        if "numofmessages" not in parameters:
            return write_fields(200, "Message", _peeked(messages[0]))
        return write_document(200, "Messages", [write_element("Message", _peeked(message)) for message in messages])

    def _delete(self, queue: "_Queue", handle: str) -> None:
        message = self._find(queue, handle)
        del queue.messages[message.id], queue.handles[handle]

    def _delete_batch(self, queue: "_Queue", document: Element) -> Response:
        handles = [child.text for child in document.children if child.name == "ReceiptHandle"]
        if document.name != "ReceiptHandles" or not 1 <= len(handles) <= MAX_BATCH:
            raise Refused(400, "MalformedXML", "Expected ReceiptHandles with 1 to 16 of them.")
        status, failed = 204, []
        for handle in handles:
            try:
                self._delete(queue, handle)
            except Refused as refused:
                status = refused.status
                failed.append(
                    write_element(
                        "Error",
                        {"ErrorCode": refused.code, "ErrorMessage": refused.message, "ReceiptHandle": handle},
                    )
                )
        return write_document(status, "Errors", failed) if failed else Response(status_code=204)

    def _change_visibility(self, queue: "_Queue", parameters: Mapping[str, str]) -> Response:
        if "receipthandle" not in parameters:
            raise Refused(400, "MissingReceiptHandle", "ReceiptHandle is required.")
        if "visibilitytimeout" not in parameters:
            raise Refused(400, "MissingVisibilityTimeout", "VisibilityTimeout is required.")
        visibility_s = read_number(parameters["visibilitytimeout"], "VisibilityTimeout", 0, 1, 43_200)
        message = self._find(queue, parameters["receipthandle"])
        message.visible_at = self._clock() + timedelta(seconds=visibility_s)
        self._give_handle(queue, message)
        return write_fields(
            200,
            "ChangeVisibility",
            {"ReceiptHandle": message.handle, "NextVisibleTime": milliseconds(message.visible_at)},
        )

    def _find(self, queue: "_Queue", handle: str) -> "_Message":
        if not _HANDLE.fullmatch(handle):
            raise Refused(400, "ReceiptHandleError", "The receipt handle you provide is not valid.")
        message = queue.handles.get(handle)
        if message is None or message.visible_at <= self._clock():
            raise Refused(404, "MessageNotExist", "The message you provided is not exist.")
        return message

    def _give_handle(self, queue: "_Queue", message: "_Message") -> None:
        # In the form of real ones, with the padding that clients must encode or sign as it is.
        queue.handles.pop(message.handle, None)
        text = f"{self._next_id()}-{message.dequeue_count}"
        message.handle = f"{message.priority}-{base64.b64encode(text.encode()).decode()}"
        queue.handles[message.handle] = message

    def _next_id(self) -> str:
        self._serial += 1
        return hashlib.sha256(f"{self._serial}".encode()).hexdigest()[:32].upper()


@dataclass(eq=False)
class _Message:
    id: str
    body: str
    md5: str
    priority: int
    enqueued_at: datetime
    visible_at: datetime
    first_dequeued_at: datetime | None = None
    dequeue_count: int = 0
    handle: str = ""


@dataclass
class _Queue:
    """
    Attributes:
        messages: By id, in the order in which they came.
        handles: The message of each handle that was given and is not void by a later one.
        waiting: One event for each long poll.
    """

    name: str
    attributes: Mapping[str, int]
    created_at: datetime
    messages: dict[str, _Message] = field(default_factory=dict)
    handles: dict[str, _Message] = field(default_factory=dict)
    waiting: set[asyncio.Event] = field(default_factory=set)


def _visible(queue: _Queue, now: datetime) -> list[_Message]:
    """Most important first (1 is the highest priority), then in the order in which they came."""
    return sorted((m for m in queue.messages.values() if m.visible_at <= now), key=lambda message: message.priority)


def _sent(message: _Message) -> Mapping[str, object]:
    handle = {"ReceiptHandle": message.handle} if message.handle else {}
    return {"MessageId": message.id, "MessageBodyMD5": message.md5, **handle}


def _peeked(message: _Message) -> Mapping[str, object]:
    return {
        "MessageId": message.id,
        "MessageBody": message.body,
        "MessageBodyMD5": message.md5,
        "EnqueueTime": milliseconds(message.enqueued_at),
        "FirstDequeueTime": milliseconds(message.first_dequeued_at or EPOCH),
        "DequeueCount": message.dequeue_count,
        "Priority": message.priority,
    }


def _received(message: _Message) -> Mapping[str, object]:
    return {
        **_peeked(message),
        "ReceiptHandle": message.handle,
        "NextVisibleTime": milliseconds(message.visible_at),
    }


def _defaults() -> dict[str, int]:
    return {name: default for name, (default, _, _) in _ATTRIBUTES.items()}


def _read_attributes(body: bytes, current: Mapping[str, int]) -> dict[str, int]:
    document = read_body(body) if body else Element("Queue")
    return {
        name: read_number(document.text_of(name), name, current[name], low, high)
        for name, (_, low, high) in _ATTRIBUTES.items()
    }


def _parameters(query: str) -> dict[str, str]:
    # Not parse_qs: it takes a plus for a blank, and the vendor's own client sends handles in base64 as they are.
    pairs = (part.partition("=")[::2] for part in query.split("&") if part)
    return {unquote(name).lower(): unquote(value) for name, value in pairs}
