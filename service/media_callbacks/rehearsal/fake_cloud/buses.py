"""
The data plane of EventBridge in the fake cloud, under ``/openapi/``: events are put on buses, and kept for who looks.

Each behaviour with its source, D for the vendor's documents, S for what its SDK ``alibabacloud-eventbridge`` 1.3.8
sends and expects, T for the open-source twin of the service, apache/rocketmq-eventbridge, A for assumed:

    signature, over method, media type, date, x-acs-* and path      S
    Date more than 15 minutes off: 403 RequestExpired               A
    16 events a request, 256 KB each, 1 MB together                 D "Limits"; the codes: A, but EventSizeExceed, T
    lengths of source, type and subject                             D "Limits"; the codes: T
    what id may have in it                                          not looked at, as T; D has letters, digits, hyphens
    one bus a request: 409 PutEventsRequestMoreThanOneEventBus      T
    no such bus: 409 EventBusNotExist                               T
    an entry for each event with its id; a whole request is
    refused for what one event is                                   D "PutEvents"; T
    errors with ``code``, ``message`` and ``requestId``             S
    throttling: 429 TooManyRequests                                 D "Error codes"
"""

import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from media_callbacks.aliyun.signing import sign_eventbridge
from media_callbacks.rehearsal.fake_cloud.gateway import WINDOW, AccessKey

OWNER = "1234567890123456"
MAX_EVENTS, MAX_EVENT_BYTES, MAX_REQUEST_BYTES = 16, 262_144, 1_048_576
BUS_EXTENSION = "aliyuneventbusname"
_REQUIRED = ("id", "source", "specversion", "type", BUS_EXTENSION)
_LIMITS = {
    "source": (128, "EventSourceInvalid"),
    "type": (64, "EventTypeInvalid"),
    "subject": (512, "EventSubjectInvalid"),
}


class BusRefused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class FakeBuses:
    """
    Args:
        access_keys: By access key id.
        clock: The time in UTC.

    Attributes:
        events: Of each bus, oldest first.
        throttled: Whether a request is refused for being one too many.
        fault_of_event: The code with which single events are refused, by their ids.
    """

    def __init__(
        self,
        access_keys: Mapping[str, AccessKey],
        clock: Callable[[], datetime],
        *,
        throttled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._access_keys, self._clock = access_keys, clock
        self.throttled = throttled
        self.events: dict[str, list[Mapping[str, Any]]] = {}
        self.fault_of_event: Callable[[str], str | None] = lambda _: None
        self._requests = 0

    def create(self, bus: str) -> None:
        self.events.setdefault(bus, [])

    def respond(self, request: Request, body: bytes) -> Response:
        self._requests += 1
        request_id = f"{self._requests:08X}-0000-4000-8000-000000000000"
        try:
            self._check(request)
            if self.throttled():
                raise BusRefused(429, "TooManyRequests")  # noqa: TRY301 - answered alike
            status, reply = 200, self._act(request, body)
        except BusRefused as refused:
            status, reply = refused.status, {"code": refused.code, "message": f"It is {refused.code}."}
        reply |= {"requestId": request_id} if status != 200 else {"RequestId": request_id}
        headers = {"Date": format_datetime(self._clock(), usegmt=True)}
        return Response(json.dumps(reply, ensure_ascii=False), status, headers, "application/json")

    def _check(self, request: Request) -> None:
        headers = request.headers
        scheme, _, rest = headers.get("authorization", "").partition(":")
        key_id = rest.partition(":")[0]
        key = self._access_keys.get(key_id)
        if scheme != "acs" or key is None:
            raise BusRefused(403, "InvalidAccessKeyId")
        expected = sign_eventbridge(request.method, request.url.path, headers, access_key_id=key_id, secret=key.secret)
        if not hmac.compare_digest(expected.encode(), headers["authorization"].encode("latin-1", "replace")):
            raise BusRefused(403, "SignatureDoesNotMatch")
        if headers.get("x-acs-security-token") != key.security_token:
            raise BusRefused(403, "SecurityTokenInvalid")
        try:
            sent_at = parsedate_to_datetime(headers["date"])
        except (KeyError, ValueError):
            raise BusRefused(403, "RequestExpired") from None
        if abs(self._clock() - sent_at.replace(tzinfo=sent_at.tzinfo or UTC)) > WINDOW:
            raise BusRefused(403, "RequestExpired")

    def _act(self, request: Request, body: bytes) -> dict[str, Any]:
        action = request.url.path.removeprefix("/openapi/")
        try:
            document = json.loads(body)
        except ValueError:
            raise BusRefused(409, "JsonAttributeInvalid") from None
        if action == "putEvents":
            if not request.headers.get("content-type", "").startswith("application/cloudevents-batch+json"):
                raise BusRefused(409, "EventHTTPProtocolBindingInvalid")
            return self._put(document, len(body))
        name = document.get("EventBusName") if isinstance(document, dict) else None
        if request.method != "POST" or not isinstance(name, str) or action not in ("createEventBus", "getEventBus"):
            raise BusRefused(409, "RequestParameterInvalid")
        arn = {"EventBusARN": f"acs:eventbridge:cn-shanghai:{OWNER}:eventbus/{name}"}
        if action == "createEventBus":
            self.create(name)
            return {"ResourceOwnerAccountId": OWNER, **arn}
        if name not in self.events:
            raise BusRefused(409, "EventBusNotExist")
        return {
            "ResourceOwnerAccountId": OWNER,
            **arn,
            "EventBusName": name,
            "Description": "",
            "CreateTimestamp": 1_641_781_825_000,
        }

    def _put(self, events: Any, size_bytes: int) -> dict[str, Any]:
        if not isinstance(events, list) or not 1 <= len(events) <= MAX_EVENTS or size_bytes > MAX_REQUEST_BYTES:
            raise BusRefused(409, "PutEventsRequestTooLarge")
        for event in events:
            self._check_event(event)
        buses = {event[BUS_EXTENSION] for event in events}
        if len(buses) > 1:
            raise BusRefused(409, "PutEventsRequestMoreThanOneEventBus")
        (bus,) = buses
        if bus not in self.events:
            raise BusRefused(409, "EventBusNotExist")
        entries = []
        for event in events:
            fault = self.fault_of_event(event["id"])
            if fault is None:
                self.events[bus].append(event)
                entries.append({"EventId": event["id"], "TraceId": "445EFED2EC2A7FC17FB05AF4AD01"})
            else:
                entries.append({"EventId": event["id"], "ErrorCode": fault, "ErrorMessage": f"It is {fault}."})
        failed = sum("ErrorCode" in entry for entry in entries)
        return {"ResourceOwnerAccountId": OWNER, "FailedEntryCount": failed, "EntryList": entries}

    def _check_event(self, event: Any) -> None:
        if not isinstance(event, dict) or not all(
            isinstance(event.get(name), str) and event[name] for name in _REQUIRED
        ):
            raise BusRefused(409, "EventInvalid")
        for name, (longest, code) in _LIMITS.items():
            if len(event.get(name, "")) > longest:
                raise BusRefused(409, code)
        if len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_EVENT_BYTES:
            raise BusRefused(409, "EventSizeExceed")
