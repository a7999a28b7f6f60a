"""
Queues and topics of MNS (now Simple Message Queue), seen by who sends to them.

A message is taken when it is answered with 201 and the MD5 of its body as it was sent. A batch may fail in part: it is
answered with an error status then, and with an id or a code for each message, in their order.

Source: "BatchSendMessage", https://www.alibabacloud.com/help/en/mns/developer-reference/batchsendmessage: 16 messages
and 64 KB together, a right of its own (documented). "PublishMessage",
https://www.alibabacloud.com/help/en/mns/developer-reference/publishmessage: one message, a tag of 16 characters; there
is no batch for topics (documented; nor has the vendor's Python client 1.3.0 one). That the MD5 is that of the text
between the tags, in hexadecimal: observed in the documents' samples. The document of a batch that failed in part: what
the vendor's Python client reads.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

from media_callbacks.aliyun.mns_client import CODE, MnsClient, Reply, unreadable, write_document, write_element
from media_callbacks.model.errors import VendorError, VendorUnavailable
from media_callbacks.sources.reading.xml_document import Element

Message = Mapping[str, str]
"""Elements of a message by name: ``MessageBody``, of a topic ``MessageTag``."""


class MnsSender(MnsClient):
    """
    Repeats no message: whoever has events to send does that, with more patience.

    Attributes:
        describing: The right that ``describe`` needs.
    """

    batch_error = "Messages"
    owner = "sink"
    throttled = "set rate_per_s, or have the quota raised"

    describing: ClassVar[str]

    async def describe(self) -> None:
        """
        Ask for the attributes, which changes nothing.

        Raises:
            VendorUnavailable, VendorRefused: See ``errors``.
        """
        action = self.describing.removeprefix("mns:")
        reply = await self._ask(action, "GET", self._resource)
        if reply.error is not None:
            raise self._error(action, reply)
        reply.document(action, self.kind.capitalize())

    async def _send(self, action: str, root: str, elements: Sequence[str], patience_s: float) -> tuple[Reply, Element]:
        """Reply, and what it says of what was sent: all of it was taken, or a part where it has an error."""
        body = write_document(root, elements)
        reply = await self._ask(action, "POST", self._path, body=body, wait_s=patience_s, is_repeated=False)
        if reply.code:
            raise self._error(action, reply)
        if reply.error is not None:
            return reply, reply.error
        if reply.status != 201:
            raise unreadable(action, reply.status, "expected 201 when it is taken")
        return reply, reply.document(action, root)

    def _read_result(self, action: str, sent: Message, element: Element, reply: Reply) -> VendorError | None:
        """What is said of one message; None when it was taken."""
        code = element.text_of("ErrorCode")
        if code is not None:
            return self._error(action, reply, code if CODE.fullmatch(code) else "without a readable code")
        stated = element.text_of("MessageBodyMD5") or ""
        if not element.text_of("MessageId"):
            return unreadable(action, reply.status, "a message is without MessageId and ErrorCode")
        if stated.lower() != hashlib.md5(sent["MessageBody"].encode(), usedforsecurity=False).hexdigest():
            return VendorUnavailable(
                f"{action} on {self.kind} {self._name} was answered HTTP {reply.status} with the MD5 of something else"
                " than was sent: see what is on the way to the endpoint"
            )
        return None


class MnsQueueSender(MnsSender):
    """A queue, seen by who sends to it."""

    kind = "queue"
    describing = "mns:GetQueueAttributes"
    rights = "mns:BatchSendMessage"

    async def put(self, messages: Sequence[Message], *, patience_s: float) -> Sequence[VendorError | None]:
        """
        Send up to 16 messages.

        Returns:
            For each of them None when it was taken, else why not.

        Raises:
            VendorUnavailable, VendorRefused: None of them was taken, as far as is known. See ``errors``.
        """
        action = "BatchSendMessage"
        written = [write_element("Message", [*message.items()]) for message in messages]
        reply, document = await self._send(action, "Messages", written, patience_s)
        elements = [child for child in document.children if child.name == "Message"]
        if len(elements) != len(messages):
            raise unreadable(action, reply.status, f"expected {len(messages)} messages, found {len(elements)}")
        return [
            self._read_result(action, message, element, reply)
            for message, element in zip(messages, elements, strict=True)
        ]


class MnsTopicSender(MnsSender):
    """A topic, seen by who publishes to it."""

    kind = "topic"
    describing = "mns:GetTopicAttributes"
    rights = "mns:PublishMessage"

    async def put(self, messages: Sequence[Message], *, patience_s: float) -> Sequence[VendorError | None]:
        """
        Publish one message. See ``MnsQueueSender.put``.

        Raises:
            VendorUnavailable, VendorRefused: It was not taken, as far as is known.
        """
        action = "PublishMessage"
        (message,) = messages
        written = [write_element(*element) for element in message.items()]
        reply, document = await self._send(action, "Message", written, patience_s)
        return [self._read_result(action, message, document, reply)]
