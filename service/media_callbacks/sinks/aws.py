"""
What the sinks of AWS have in common: a client as boto makes it, and what errors mean.

A sink of its own says how an event becomes an entry of its API, and how an answer speaks of the entries.

Source: "Common errors", https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html; "Retry
behavior", https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html, for the codes of throttling.
"""

import asyncio
import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, ClassVar

from media_callbacks.model.errors import SinkError, SinkRetry
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.calls import CallEntry, CallRefused, CallSink, Fields
from media_callbacks.sinks.documents import read_document

_CONNECT_TIMEOUT_S = 5.0
_GROUP_ID = re.compile(r"[!-~]{1,128}")
# Outside the characters of XML 1.0, which are those that SQS and SNS take.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_IN_A_CODE = re.compile(r"[^A-Za-z0-9_.:#-]")

_THROTTLING = frozenset(
    {
        "BandwidthLimitExceeded",
        "KMSThrottling",
        "KmsThrottled",
        "LimitExceeded",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "ServiceUnavailable",
        "SlowDown",
        "Throttled",
        "Throttling",
        "TooManyRequests",
    }
)
_OVERLOAD_STATUSES = frozenset({429, 502, 503, 504})


class AwsSink(CallSink):
    """
    What every sink of AWS does alike.

    Attributes:
        service: boto's name of the service.
        refused_calls: Codes, without affixes, that refuse a whole call for what one entry is, or the sum of them.
        refused_entries: Those of them that can't mean anything but the entries.

    Args:
        destination: What is sent to: a name, or an ARN, whose region is taken where none is given.
        region: As boto finds it when it is given nowhere.
        endpoint_url: For a local or compatible server.
        timeout_s: For a whole ``send``, however many calls it takes.
        concurrency: Calls, and so connections, at once.
    """

    service: ClassVar[str]
    refused_calls: ClassVar[frozenset[str]]
    refused_entries: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str,
        destination: str,
        region: str | None = None,
        endpoint_url: str | None = None,
        *,
        timeout_s: float = 15.0,
        concurrency: int = 4,
    ) -> None:
        self.name = name
        self.destination = destination
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self._region = region or region_of(destination)
        self._endpoint_url = endpoint_url
        self._client: Any = None
        self._is_closed = False
        self._connecting = asyncio.Lock()

    @abstractmethod
    async def put(self, client: Any, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        """One call, and what its answer says of each entry. Entries that it does not mention are left out."""

    def judge(self, entry: CallEntry, code: Any, *, is_hopeless: bool = False) -> SinkError:
        """What the error code of one entry means for it. Texts are not repeated: they may quote the message."""
        if is_hopeless:
            return self.reject(entry, _clean(code))
        return SinkRetry(f"{self.title} did not take the event: {_clean(code)}", is_overload=is_overload(code))

    def read_results(
        self, entries: Sequence[CallEntry], results: Iterable[Any], *, taken: str, bad_entry: str | None = None
    ) -> Iterator[tuple[CallEntry, SinkError | None]]:
        """
        An answer with one result for each entry, in their order.

        Args:
            taken: The member that the result of an entry has that was taken.
            bad_entry: The code that speaks of the entry itself.
        """
        for entry, result in zip(entries, results, strict=False):
            if code := result.get("ErrorCode"):
                yield entry, self.judge(entry, code, is_hopeless=bare_code(code) == bad_entry)
            elif result.get(taken):
                yield entry, None

    async def open(self) -> None:
        self._is_closed = False
        # Now, so that the first event need not wait. What fails here is tried again by `send`, which has somebody to
        # tell.
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._connect()
        except Exception:  # noqa: BLE001 - see `send`
            pass

    async def call(self, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        try:
            client = await self._connect()
            return list(await self.put(client, entries))
        except (SinkRetry, TimeoutError):
            raise
        # Whatever boto's credential providers meet in files and processes, and whatever its parsers meet in an answer
        # that is not from AWS, comes out as it is: KeyError, AttributeError, OSError and more.
        except Exception as error:
            code, status = _read_error(error)
            if bare_code(code) in self.refused_calls | self.refused_entries:
                is_about_entries = bare_code(code) in self.refused_entries
                raise CallRefused(_explain(error), is_about_entries=is_about_entries) from error
            raise SinkRetry(
                f"{self.title} can't be reached or used: {_explain(error)}",
                is_overload=is_overload(code) or status in _OVERLOAD_STATUSES,
            ) from error

    async def close(self) -> None:
        # A send that still runs fails with a closed connection; one that was about to connect no longer does.
        self._is_closed = True
        async with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connect(self) -> Any:
        async with self._connecting:
            if self._is_closed:
                raise SinkRetry("the sink was closed")
            if self._client is None:
                AioConfig, get_session, loader, http_session = await asyncio.to_thread(_load_boto)  # noqa: N806 - it is a class
                session = get_session()
                session.register_component("data_loader", loader)
                if await session.get_credentials() is None:
                    # A client made now would never look for credentials again.
                    raise SinkRetry(
                        "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the"
                        " role of this machine"
                    )
                config = AioConfig(
                    connect_timeout=min(_CONNECT_TIMEOUT_S, self.timeout_s),
                    read_timeout=self.timeout_s,
                    max_pool_connections=self.concurrency,
                    # The dispatcher decides when to try again.
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    http_session_cls=http_session,
                )
                context = session.create_client(
                    self.service, region_name=self._region, endpoint_url=self._endpoint_url, config=config
                )
                self._client = await context.__aenter__()
            return self._client


class MessageSink(AwsSink):
    """
    A queue of SQS or a topic of SNS, which differ in names alone. One whose name ends in ``.fifo`` keeps an order.

    Attributes:
        body_name: The member of an entry that is the message.
    """

    body_name: ClassVar[str]

    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        fifo = self.destination.endswith(".fifo")
        fields, size_bytes = build_message(delivery, body_name=self.body_name, fifo=fifo)
        return CallEntry(position, {"Id": str(position), **fields}, size_bytes, fields.get("MessageGroupId"))

    def read_batch(self, answer: Any, entries: Sequence[CallEntry]) -> Iterator[tuple[CallEntry, SinkError | None]]:
        """The answer to a batch, whose entries are named by their positions."""
        taken = {result.get("Id") for result in answer.get("Successful", ())}
        failed = {result.get("Id"): result for result in answer.get("Failed", ())}
        for entry in entries:
            if (result := failed.get(str(entry.position))) is not None:
                code = result.get("Code")
                # Of an entry, unlike of a whole call, these speak of the message itself, if the sender is at fault.
                is_hopeless = result.get("SenderFault") is True and bare_code(code) in self.refused_calls
                yield entry, self.judge(entry, code, is_hopeless=is_hopeless)
            elif str(entry.position) in taken:
                yield entry, None


@cache
def _load_boto() -> tuple[Any, Any, Any, Any]:
    """
    A good part of a second, which neither a service without such a sink nor the event loop should wait for. What boto
    reads of its models is megabytes, and shared by all clients.
    """
    from aiobotocore.config import AioConfig  # noqa: PLC0415
    from aiobotocore.session import get_session  # noqa: PLC0415
    from botocore.loaders import create_loader  # noqa: PLC0415

    from media_callbacks.sinks.aws_http import BoundedSession  # noqa: PLC0415

    return AioConfig, get_session, create_loader(), BoundedSession


# Events


def build_message(delivery: Delivery, *, body_name: str, fifo: bool) -> tuple[Fields, int]:
    """
    A message of SQS or SNS, which differ in the name of the body alone, and its size.

    What consumers filter by is repeated in attributes. The subject is the message group of a FIFO destination, so that
    the events of one job stay in order; the event id is the deduplication id, so that an event sent again after a lost
    answer is taken once.

    Raises:
        SinkRejected: The stored event is none.
    """
    body, document = read_document(delivery)
    # In valid JSON such a character can only stand within a string, where its escape means the same.
    body = _FORBIDDEN.sub(lambda match: f"\\u{ord(match[0]):04X}", body)
    attributes = _build_attributes(document)
    if delivery.traceparent is not None:
        # Under this name OpenTelemetry's own instrumentation of consumers looks for it.
        attributes["traceparent"] = {"DataType": "String", "StringValue": delivery.traceparent}
    fields: Fields = {body_name: body, "MessageAttributes": attributes}
    if fifo:
        fields["MessageGroupId"] = _group_id(document.get("subject"), delivery.event_id)
        replay = f":replay-{delivery.replay}" if delivery.replay else ""
        fields["MessageDeduplicationId"] = delivery.event_id + replay
    # As both count: the body, and name, type and value of every attribute, in UTF-8.
    size_bytes = len(body.encode()) + sum(
        len(name.encode()) + len(attribute["DataType"].encode()) + len(attribute["StringValue"].encode())
        for name, attribute in attributes.items()
    )
    return fields, size_bytes


def _build_attributes(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    data = document.get("data")
    values = data if isinstance(data, dict) else {}
    named = {"type": document.get("type")} | {
        name: values.get(name) for name in ("product", "kind", "outcome", "job_id")
    }
    return {
        name: {"DataType": "String", "StringValue": _FORBIDDEN.sub("\ufffd", value)}
        for name, value in named.items()
        if isinstance(value, str) and value
    }


def _group_id(subject: Any, event_id: str) -> str:
    if not isinstance(subject, str) or not subject:
        return event_id
    return subject if _GROUP_ID.fullmatch(subject) else digest(subject)


def digest(subject: str) -> str:
    """Stands for a subject that a service does not take as it is."""
    # A job id read from JSON may hold half a surrogate pair, which has no UTF-8.
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()


# Answers


def is_overload(code: Any) -> bool:
    """Whether an error code asks for fewer calls."""
    return bare_code(code) in _THROTTLING


def bare_code(code: Any) -> str:
    """Without the prefixes and suffixes of the protocols: AWS.SimpleQueueService.X, com.amazonaws.sqs#X, XException."""
    return re.split(r"[.#]", str(code))[-1].removesuffix("Exception")


def _read_error(error: Exception) -> tuple[Any, Any]:
    """Code and HTTP status, where AWS gave them."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return None, None
    return response.get("Error", {}).get("Code"), response.get("ResponseMetadata", {}).get("HTTPStatusCode")


def _explain(error: Exception) -> str:
    """
    The error code where AWS gave one, else the type. Never boto's text: for a signature that does not match it repeats
    what was signed, session token included.
    """
    code, status = _read_error(error)
    return f"{_clean(code)} (HTTP {status})" if status is not None else type(error).__name__


def _clean(code: Any) -> str:
    return _NOT_IN_A_CODE.sub("", str(code or ""))[:80] or "no error code"


def region_of(name: str) -> str | None:
    """The region in an ARN; None where there is none or it is no ARN."""
    parts = name.split(":")
    return parts[3] or None if parts[0] == "arn" and len(parts) > 3 else None
