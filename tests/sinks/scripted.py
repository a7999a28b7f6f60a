"""
Destinations that fail as a test tells them to, in the words of each service.

    throttled   too much to do
    denied      not for these credentials
    broken      an internal error
    bad         this event, for ever
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qs

from aiohttp import web

from media_callbacks.aliyun.eventbridge import EventBridgeClient
from media_callbacks.aliyun.mns_sending import MnsQueueSender, MnsTopicSender
from media_callbacks.model.errors import SinkError, SinkGone, SinkRejected
from media_callbacks.sinks.aliyun_eventbridge import AliyunEventBridgeSink
from media_callbacks.sinks.base import Sink
from media_callbacks.sinks.eventbridge import EventBridgeSink
from media_callbacks.sinks.kinesis import KinesisSink
from media_callbacks.sinks.mns import MnsQueueSink, MnsTopicSink
from media_callbacks.sinks.sns import SnsSink
from media_callbacks.sinks.sqs import SqsSink
from media_callbacks.sinks.webhook import WebhookSink
from media_callbacks.sources.reading.xml_document import read_document
from tests.factories.fake_queues import Clock, Credentialed

REGION = "eu-west-1"
HIDDEN = "hidden text of the answer"

Answer = tuple[int, str]
Fault = str | None


class Scripted:
    """
    A server for one kind of sink.

    Attributes:
        hopeless_bytes: What of an event it may refuse for ever: from there on a destination may take less.
        calls: The ids of the events of each call.
        fault_of_call: Refuses every call, while set.
        fault_of_event: Refuses single events.
        raw: Answers with these bytes and closes, while set.
        held: Answers only when this is set.
    """

    refusal: ClassVar[type[SinkError]] = SinkRejected
    hopeless_bytes: ClassVar[int] = 0
    max_bytes: ClassVar[int | None] = None

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[list[str]] = []
        self.fault_of_call: Fault = None
        self.fault_of_event: Callable[[str], Fault] = lambda _: None
        self.raw: bytes | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.arrived = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        app = web.Application(client_max_size=50 * 1024 * 1024)
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        assert self._runner is not None
        self.held.set()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        bodies = self.read(await request.read())
        self.calls.append([json.loads(body)["id"] for body in bodies])
        self.arrived.set()
        await self.held.wait()
        if self.raw is not None:
            assert request.transport is not None
            request.transport.write(self.raw)
            request.transport.close()
            return web.StreamResponse()
        if self.fault_of_call is not None:
            status, text = self.refuse(self.fault_of_call)
        else:
            status, text = self.answer([self.fault_of_event(identity) for identity in self.calls[-1]], bodies)
        return web.Response(status=status, text=text, content_type=self.content_type)

    # What each service says in its own way

    content_type: ClassVar[str] = "application/x-amz-json-1.1"

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        raise NotImplementedError

    def read(self, request: bytes) -> Sequence[bytes]:
        raise NotImplementedError

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        raise NotImplementedError

    def refuse(self, fault: str) -> Answer:
        status, code = {
            "throttled": (400, "ThrottlingException"),
            "denied": (403, "AccessDeniedException"),
            "broken": (500, "InternalFailure"),
        }[fault]
        return status, json.dumps({"__type": f"com.amazonaws#{code}", "message": HIDDEN})


class ScriptedWebhook(Scripted):
    refusal = SinkGone
    content_type = "text/plain"

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return WebhookSink("test", f"{self.url}/?token=hidden", (b"a secret of 24 bytes....",), timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        return [request]

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        (fault,) = faults
        return (204, "") if fault is None else self.refuse(fault)

    def refuse(self, fault: str) -> Answer:
        return {"throttled": 429, "denied": 401, "broken": 500, "bad": 410}[fault], HIDDEN


def _batch_faults(codes: Mapping[str, str], faults: Sequence[Fault]) -> tuple[list[Any], list[Any]]:
    """Positions that were taken, and for all others position, code and whether the sender is to blame."""
    taken = [position for position, fault in enumerate(faults) if fault is None]
    failed = [(position, codes[fault], fault == "bad") for position, fault in enumerate(faults) if fault is not None]
    return taken, failed


class ScriptedSqs(Scripted):
    name = "media"
    max_bytes = SqsSink.max_bytes

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        url = f"https://sqs.eu-west-1.amazonaws.com/123456789012/{self.name}"
        return SqsSink("test", url, REGION, self.url, timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        entries = json.loads(request)["Entries"]
        self._ids = [entry["Id"] for entry in entries]
        return [entry["MessageBody"].encode() for entry in entries]

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        codes = {"throttled": "RequestThrottled", "broken": "InternalError", "bad": "InvalidMessageContents"}
        taken, failed = _batch_faults(codes, faults)
        # In another order than they were sent, as AWS may do it.
        answer = {
            "Successful": [{"Id": self._ids[position], "MessageId": "m"} for position in reversed(taken)],
            "Failed": [
                {"Id": self._ids[position], "Code": code, "SenderFault": blame, "Message": HIDDEN}
                for position, code, blame in failed
            ],
        }
        return 200, json.dumps(answer)


class ScriptedSqsFifo(ScriptedSqs):
    name = "media.fifo"


class ScriptedSns(Scripted):
    name = "media"
    content_type = "text/xml"
    max_bytes = SnsSink.max_bytes

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        arn = f"arn:aws:sns:{REGION}:123456789012:{self.name}"
        return SnsSink("test", arn, None, self.url, timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        fields = {name: values[0] for name, values in parse_qs(request.decode()).items()}
        numbers = range(1, 1 + sum(name.endswith(".Message") for name in fields))
        self._ids = [fields[f"PublishBatchRequestEntries.member.{number}.Id"] for number in numbers]
        return [fields[f"PublishBatchRequestEntries.member.{number}.Message"].encode() for number in numbers]

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        codes = {"throttled": "Throttled", "broken": "InternalError", "bad": "InvalidParameter"}
        taken, failed = _batch_faults(codes, faults)
        successful = "".join(
            f"<member><Id>{self._ids[position]}</Id><MessageId>m</MessageId></member>" for position in reversed(taken)
        )
        failures = "".join(
            f"<member><Id>{self._ids[position]}</Id><Code>{code}</Code><Message>{HIDDEN}</Message>"
            f"<SenderFault>{str(blame).lower()}</SenderFault></member>"
            for position, code, blame in failed
        )
        return 200, (
            '<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult>'
            f"<Successful>{successful}</Successful><Failed>{failures}</Failed>"
            "</PublishBatchResult></PublishBatchResponse>"
        )

    def refuse(self, fault: str) -> Answer:
        status, code = {
            "throttled": (400, "Throttling"),
            "denied": (403, "AuthorizationError"),
            "broken": (500, "InternalFailure"),
        }[fault]
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{HIDDEN}</Message></Error>"
        return status, f'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">{error}</ErrorResponse>'


class ScriptedSnsFifo(ScriptedSns):
    name = "media.fifo"


class ScriptedEventBridge(Scripted):
    max_bytes = EventBridgeSink.max_bytes

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return EventBridgeSink("test", "media", REGION, self.url, timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        return [entry["Detail"].encode() for entry in json.loads(request)["Entries"]]

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        codes = {"throttled": "ThrottlingException", "broken": "InternalFailure", "bad": "MalformedDetail"}
        entries = [
            {"EventId": "e"} if fault is None else {"ErrorCode": codes[fault], "ErrorMessage": HIDDEN}
            for fault in faults
        ]
        return 200, json.dumps({"FailedEntryCount": len(list(filter(None, faults))), "Entries": entries})


class ScriptedKinesis(Scripted):
    """There is no code for one bad record: the whole call is refused, as by a stream that takes smaller ones."""

    max_bytes = KinesisSink.max_bytes
    hopeless_bytes = KinesisSink.usual_bytes

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return KinesisSink("test", "media", REGION, self.url, timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        return [base64.b64decode(record["Data"]) for record in json.loads(request)["Records"]]

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        if "bad" in faults:
            return 400, json.dumps({"__type": "InvalidArgumentException", "message": HIDDEN})
        codes = {"throttled": "ProvisionedThroughputExceededException", "broken": "InternalFailure"}
        records = [
            {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
            if fault is None
            else {"ErrorCode": codes[fault], "ErrorMessage": HIDDEN}
            for fault in faults
        ]
        return 200, json.dumps({"FailedRecordCount": len(list(filter(None, faults))), "Records": records})


class ScriptedMnsQueue(Scripted):
    content_type = "text/xml"
    max_bytes = MnsQueueSink.max_bytes
    hopeless_bytes = MnsQueueSink.usual_bytes
    codes: ClassVar[Mapping[str, tuple[int, str]]] = {
        "throttled": (400, "QpsLimitExceeded"),
        "denied": (403, "AccessDenied"),
        "broken": (500, "InternalError"),
        "bad": (400, "InvalidArgument"),
    }

    @property
    def access(self) -> dict[str, Any]:
        return {"endpoint": self.url, "name": "media", "credentials": Credentialed(), "clock": Clock()}

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return MnsQueueSink("test", MnsQueueSender(**self.access), timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        self._texts = [message.text_of("MessageBody") or "" for message in read_document(request).children]
        return [base64.b64decode(text) for text in self._texts]

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        messages = []
        for fault, text in zip(faults, self._texts, strict=True):
            md5 = hashlib.md5(text.encode()).hexdigest().upper()
            messages.append(
                f"<Message><MessageId>M</MessageId><MessageBodyMD5>{md5}</MessageBodyMD5></Message>"
                if fault is None
                else f"<Message><ErrorCode>{self.codes[fault][1]}</ErrorCode><ErrorMessage>{HIDDEN}</ErrorMessage></Message>"
            )
        return 400 if any(faults) else 201, f"<Messages>{''.join(messages)}</Messages>"

    def refuse(self, fault: str) -> Answer:
        status, code = self.codes[fault]
        return status, f"<Error><Code>{code}</Code><Message>{HIDDEN}</Message></Error>"


class ScriptedMnsTopic(ScriptedMnsQueue):
    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        return MnsTopicSink("test", MnsTopicSender(**self.access), timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        return super().read(b"<Messages>" + request.partition(b"?>")[2] + b"</Messages>")

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        (fault,) = faults
        status, text = super().answer(faults, bodies)
        return (
            (status, text.removeprefix("<Messages>").removesuffix("</Messages>")) if not fault else self.refuse(fault)
        )


class ScriptedAliyunEventBridge(Scripted):
    content_type = "application/json"
    max_bytes = AliyunEventBridgeSink.max_bytes
    hopeless_bytes = AliyunEventBridgeSink.usual_bytes

    def new_sink(self, *, timeout_s: float = 60.0) -> Sink:
        client = EventBridgeClient(self.url, "media", credentials=Credentialed(), clock=Clock())
        return AliyunEventBridgeSink("test", client, "media", timeout_s=timeout_s)

    def read(self, request: bytes) -> Sequence[bytes]:
        events = json.loads(request)
        assert [event.pop("aliyuneventbusname") for event in events] == ["media"] * len(events)
        self._ids = [event["id"] for event in events]
        return [json.dumps(event).encode() for event in events]

    def answer(self, faults: Sequence[Fault], bodies: Sequence[bytes]) -> Answer:
        codes = {"throttled": "TooManyRequests", "broken": "InternalError", "bad": "EventSizeExceed"}
        entries = [
            {"EventId": identity} | ({} if fault is None else {"ErrorCode": codes[fault], "ErrorMessage": HIDDEN})
            for identity, fault in zip(self._ids, faults, strict=True)
        ]
        # In another order than they were sent: no document promises one.
        return 200, json.dumps({"FailedEntryCount": len(list(filter(None, faults))), "EntryList": entries[::-1]})

    def refuse(self, fault: str) -> Answer:
        status, code = {
            "throttled": (429, "TooManyRequests"),
            "denied": (403, "AccessDenied"),
            "broken": (500, "InternalError"),
        }[fault]
        return status, json.dumps({"code": code, "message": HIDDEN, "requestId": "R"})


SCRIPTED: Mapping[str, type[Scripted]] = {
    "webhook": ScriptedWebhook,
    "sqs": ScriptedSqs,
    "sqs-fifo": ScriptedSqsFifo,
    "sns": ScriptedSns,
    "sns-fifo": ScriptedSnsFifo,
    "eventbridge": ScriptedEventBridge,
    "kinesis": ScriptedKinesis,
    "mns-queue": ScriptedMnsQueue,
    "mns-topic": ScriptedMnsTopic,
    "aliyun-eventbridge": ScriptedAliyunEventBridge,
}
