"""
The ``sqs`` sink: batches of up to ten events in one SendMessageBatch.

The message body is the CloudEvent, and what consumers filter by is repeated in message attributes. On a FIFO queue the
subject is the message group, so that the events of one job stay in order, and the event id is the deduplication id, so
that an event sent again after a lost answer is taken once.

Source: "SendMessageBatch", https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html;
"Amazon SQS message quotas",
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from service.errors import SinkError, SinkRejected, SinkRetry
from service.events import Delivery

MAX_ENTRIES = 10
# For one message with its attributes, and for all messages of one call (documented; 262144 until August 2025). A queue
# may have a lower MaximumMessageSize, which its owner alone knows: see `_send_entries`.
MAX_BYTES = 1_048_576

Entry = dict[str, Any]

_CONNECT_TIMEOUT_S = 5.0
_GROUP_ID = re.compile(r"[!-~]{1,128}")
# Outside the characters of XML 1.0, which are those that SQS takes.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_IN_A_CODE = re.compile(r"[^A-Za-z0-9_.:#-]")

# Codes that speak of the message itself. All others (KMS, throttling, access) may pass, whosever fault SQS calls them.
_BAD_MESSAGE = frozenset({"InvalidMessageContents", "InvalidParameterValue", "InvalidAttributeValue"})
# The same for a whole call, where InvalidParameterValue may also mean the queue and not the message.
_BAD_CALL = frozenset({"BatchRequestTooLong", "InvalidMessageContents"})


def build_entry(delivery: Delivery, *, fifo: bool) -> Entry:
    """
    One entry of SendMessageBatch, without its ``Id``.

    Raises:
        SinkRejected: The event is larger than SQS takes, or is not JSON.
    """
    try:
        body = delivery.body.decode()
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise SinkRejected("the stored event is not JSON in UTF-8, which every event should be") from None
    if not isinstance(document, dict):
        raise SinkRejected(f"the stored event is a JSON {type(document).__name__}, expected an object")
    # In valid JSON such a character can only stand within a string, where its escape means the same.
    body = _FORBIDDEN.sub(lambda match: f"\\u{ord(match[0]):04X}", body)
    attributes = _build_attributes(document)
    entry: Entry = {"MessageBody": body, "MessageAttributes": attributes}
    if (size_bytes := _size_bytes(entry)) > MAX_BYTES:
        raise SinkRejected(
            f"the event has {size_bytes} bytes with its message attributes, SQS takes at most {MAX_BYTES}"
        )
    if fifo:
        entry["MessageGroupId"] = _group_id(document.get("subject"), delivery.event_id)
        replay = f":replay-{delivery.replay}" if delivery.replay else ""
        entry["MessageDeduplicationId"] = delivery.event_id + replay
    return entry


def build_batches(deliveries: Sequence[Delivery], *, fifo: bool) -> tuple[list[list[Entry]], dict[int, SinkRejected]]:
    """
    What to send, call by call, in the order given.

    Returns:
        Lists of at most ten entries and 1 MiB, the ``Id`` of an entry being the position of its delivery; and for the
        positions that are in none of them, why.
    """
    batches: list[list[Entry]] = []
    rejected: dict[int, SinkRejected] = {}
    room_bytes = 0
    for position, delivery in enumerate(deliveries):
        try:
            entry = build_entry(delivery, fifo=fifo)
        except SinkRejected as error:
            rejected[position] = error
            continue
        size_bytes = _size_bytes(entry)
        if not batches or len(batches[-1]) == MAX_ENTRIES or size_bytes > room_bytes:
            batches.append([])
            room_bytes = MAX_BYTES
        batches[-1].append({"Id": str(position), **entry})
        room_bytes -= size_bytes
    return batches, rejected


class SqsSink:
    """
    A sink of kind ``sqs``.

    Args:
        queue_url: A name that ends in ``.fifo`` is a FIFO queue, as SQS demands.
        endpoint_url: For a local or compatible server.
        timeout_s: For a whole ``send``, however many calls it takes.
        concurrency: Calls, and so connections, at once.
    """

    batch_size = MAX_ENTRIES

    def __init__(
        self,
        name: str,
        queue_url: str,
        region: str | None = None,
        endpoint_url: str | None = None,
        *,
        timeout_s: float = 15.0,
        concurrency: int = 4,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self._queue_url = queue_url
        self._region = region
        self._endpoint_url = endpoint_url
        self._fifo = queue_url.endswith(".fifo")
        self._client: Any = None
        self._connecting = asyncio.Lock()

    async def open(self) -> None:
        # Now, so that the first event need not wait. What fails here is tried again by `send`, which has somebody to
        # tell.
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._connect()
        except Exception:  # noqa: BLE001 - see `send`
            pass

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        batches, rejected = build_batches(deliveries, fifo=self._fifo)
        outcomes: dict[int, SinkError | None] = {**rejected}
        # For the deliveries that no answer spoke of. One call that failed as a whole ends the others: what it met
        # (throttling, credentials, the network) waits for them too, and a FIFO queue must not get them out of order.
        failure = SinkRetry("SQS's answer does not mention this event")
        try:
            async with asyncio.timeout(self.timeout_s):
                client = await self._connect()
                for entries in batches:
                    await self._send_entries(client, entries, outcomes)
        except TimeoutError:
            failure = SinkRetry(f"SQS gave no answer within {self.timeout_s:g} s")
        except SinkRetry as error:
            failure = error
        # Whatever boto's credential providers meet in files and processes, and whatever its parsers meet in an answer
        # that is not from SQS, comes out as it is: KeyError, AttributeError, OSError and more.
        except Exception as error:  # noqa: BLE001
            failure = SinkRetry(f"SQS can't be reached or used: {_explain(error)}")
        return [outcomes.get(position, failure) for position in range(len(deliveries))]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _connect(self) -> Any:
        async with self._connecting:
            if self._client is None:
                AioConfig, get_session = await asyncio.to_thread(_load_boto)  # noqa: N806 - it is a class
                session = get_session()
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
                )
                context = session.create_client(
                    "sqs", region_name=self._region, endpoint_url=self._endpoint_url, config=config
                )
                self._client = await context.__aenter__()
            return self._client

    async def _send_entries(self, client: Any, entries: list[Entry], outcomes: dict[int, SinkError | None]) -> None:
        """
        One call, or more where one entry spoils it.

        SQS refuses a whole call when together the entries exceed the queue's own MaximumMessageSize (observed, see
        https://github.com/floci-io/floci/issues/894), and compatible servers do when a single one is bad. Halves are
        sent then, so that nothing waits for a message that will never pass.
        """
        try:
            answer = await client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        except client.exceptions.ClientError as error:
            code = _bare_code(error.response.get("Error", {}).get("Code"))
            if code not in _BAD_CALL | _BAD_MESSAGE:
                raise
            if len(entries) > 1:
                middle = len(entries) // 2
                await self._send_entries(client, entries[:middle], outcomes)
                await self._send_entries(client, entries[middle:], outcomes)
                return
            size_bytes = _size_bytes(entries[0])
            message = f"SQS refused the event of {size_bytes} bytes: {_explain(error)}"
            outcomes[int(entries[0]["Id"])] = SinkRejected(message) if code in _BAD_CALL else SinkRetry(message)
            return
        taken = {result.get("Id") for result in answer.get("Successful", ())}
        failed = {result.get("Id"): result for result in answer.get("Failed", ())}
        for entry in entries:
            if entry["Id"] in failed:
                outcomes[int(entry["Id"])] = judge_failure(failed[entry["Id"]], size_bytes=_size_bytes(entry))
            elif entry["Id"] in taken:
                outcomes[int(entry["Id"])] = None


def _load_boto() -> tuple[Any, Any]:
    """A good part of a second, which neither a service without such a sink nor the event loop should wait for."""
    from aiobotocore.config import AioConfig  # noqa: PLC0415
    from aiobotocore.session import get_session  # noqa: PLC0415

    return AioConfig, get_session


def judge_failure(failed: dict[str, Any], *, size_bytes: int) -> SinkError:
    """What one BatchResultErrorEntry means for its delivery. Its text is not repeated: it may quote the message."""
    code = _code(failed.get("Code"))
    if failed.get("SenderFault") is True and _bare_code(code) in _BAD_MESSAGE:
        return SinkRejected(
            f"SQS refused the event of {size_bytes} bytes: {code}; compare the size with the queue's MaximumMessageSize"
        )
    return SinkRetry(f"SQS did not take the event: {code}")


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


def _size_bytes(entry: Entry) -> int:
    """As SQS counts: the body, and name, type and value of every attribute, in UTF-8."""
    return len(entry["MessageBody"].encode()) + sum(
        len(name.encode()) + len(attribute["DataType"].encode()) + len(attribute["StringValue"].encode())
        for name, attribute in entry["MessageAttributes"].items()
    )


def _group_id(subject: Any, event_id: str) -> str:
    if not isinstance(subject, str) or not subject:
        return event_id
    if _GROUP_ID.fullmatch(subject):
        return subject
    # A job id read from JSON may hold half a surrogate pair, which has no UTF-8.
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()


def _explain(error: Exception) -> str:
    """
    The error code where SQS gave one, else the type. Never boto's text: for a signature that does not match it repeats
    what was signed, session token included.
    """
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return f"{_code(response.get('Error', {}).get('Code'))} (HTTP {status})"
    return type(error).__name__


def _code(code: Any) -> str:
    return _NOT_IN_A_CODE.sub("", str(code))[:80] or "no error code"


def _bare_code(code: Any) -> str:
    """Without the prefixes and suffixes of the protocols: AWS.SimpleQueueService.X, com.amazonaws.sqs#X, XException."""
    return re.split(r"[.#]", str(code))[-1].removesuffix("Exception")
