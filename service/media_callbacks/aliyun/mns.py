"""
A queue of MNS (now Simple Message Queue): receive, delete, keep invisible for longer.

An empty queue is answered with 404 ``MessageNotExist``, also before the end of a long poll when the account has too
many of them. A handle is void when its message has become visible again, or when the visibility has been changed.

Source: "BatchReceiveMessage", "BatchDeleteMessage" and "ChangeMessageVisibility",
https://www.alibabacloud.com/help/en/mns/developer-reference/batchreceivemessage, and beside it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from urllib.parse import quote

from media_callbacks.aliyun.mns_client import (
    MnsClient,
    Reply,
    parse_milliseconds,
    unreadable,
    write_document,
    write_element,
)
from media_callbacks.sources.reading.xml_document import Element

MAX_WAIT_S = 30
_NO_MESSAGE = "MessageNotExist"
_COUNT = re.compile(r"[0-9]{1,14}")


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


class MnsQueue(MnsClient):
    """A queue, seen by who receives from it."""

    kind = "queue"
    batch_error = "Errors"
    rights = "mns:ReceiveMessage, mns:DeleteMessage and mns:ChangeMessageVisibility"
    owner = "source"
    throttled = "fewer pollers may help"

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
        reply = await self._ask("ReceiveMessage", "GET", target, wait_s=wait_s)
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
        body = write_document("ReceiptHandles", [write_element("ReceiptHandle", handle) for handle in handles])
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
            raise unreadable("ChangeMessageVisibility", reply.status, "ReceiptHandle or NextVisibleTime is missing")
        return new_handle, visible_at

    def _read_message(self, element: Element, reply: Reply) -> ReceivedMessage:
        identifier, handle = element.text_of("MessageId"), element.text_of("ReceiptHandle")
        body, visible_at = element.find("MessageBody"), reply.time(element.text_of("NextVisibleTime"))
        if not identifier or not handle or body is None or visible_at is None:
            raise unreadable(
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
            enqueued_at=parse_milliseconds(element.text_of("EnqueueTime")),
            next_visible_at=visible_at,
            dequeue_count=int(count) if _COUNT.fullmatch(count) else 1,
        )

    def _raise_unless_empty(self, action: str, reply: Reply) -> None:
        if reply.code != _NO_MESSAGE:
            raise self._error(action, reply)
