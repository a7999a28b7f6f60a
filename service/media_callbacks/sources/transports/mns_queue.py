"""
The ``mns-queue`` transport: messages that we fetch from a queue, with our own credentials, over a connection to the
vendor. Nothing in a message proves anything, and nothing need: who may write is the queue's business.

What the text of a message is, is told by itself:

    plain           the product's JSON: VOD and IMS write straight to a queue, MTS may
    base64          of that: many publishers do so, and the vendor's clients by default
    xml, json       the envelope of a topic that the queue subscribes to; the message inside may be base64 too

Source: "SMQ callbacks", https://help.aliyun.com/en/vod/user-guide/smq-callbacks (VOD); the queue of a topic:
ConsumerQueueForTopicDemo of https://github.com/aliyun/aliyun-mns-java-sdk.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.kinds import Product, Transport
from media_callbacks.sources.base import Message, Parsed, Parser
from media_callbacks.sources.reading.decoding import decode_text
from media_callbacks.sources.transports.mns import Envelope, open_envelope

# What is stored and shown: an id of the vendor's, and a digest.
_SHORT_TEXT = re.compile(r"[ -~]{1,256}")


class QueueMessage(Protocol):
    """
    What a source needs of a message in a queue.

    Attributes:
        body: The text of the message in UTF-8.
        body_md5: Hexadecimal, as the queue states it.
    """

    @property
    def id(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def body_md5(self) -> str | None: ...
    @property
    def enqueued_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MnsQueueSource:
    """A source of transport ``mns-queue``."""

    name: str
    product: Product
    account: str
    parser: Parser
    transport: Transport = "mns-queue"

    def open(self, queued: QueueMessage) -> Message:
        """Make a message of whatever was in the queue: one that can't be read is kept too, and ``parse`` says why."""
        published_at = queued.enqueued_at
        meta: dict[str, str] = {}
        payload = b""
        try:
            text, envelope = _open_body(queued.body)
        except Unparseable:
            meta["format"] = "unreadable"
        else:
            payload = text
            if envelope is None:
                meta["format"] = "plain" if text == queued.body else "base64"
            else:
                meta["format"] = envelope.format
                published_at = envelope.published_at or published_at
                meta |= _stored(topic=envelope.topic, message_id=envelope.message_id)
                try:
                    payload = envelope.open_message()
                except Unparseable:
                    payload = b""
        # Deduplication needs neither; they are for those who look for a message in the vendor's logs.
        meta |= _stored(queue_message_id=queued.id, body_md5=queued.body_md5)
        if published_at is not None:
            meta["published_at"] = published_at.isoformat(timespec="milliseconds")
        return Message(queued.body, payload, "queue", published_at, meta)

    def parse(self, message: Message) -> Parsed:
        # From the body and not from the payload: a receipt that was kept as unparsed can be parsed again.
        text, envelope = _open_body(message.body)
        payload = text if envelope is None else envelope.open_message()
        parsed = self.parser(replace(message, payload=payload))
        if _is_md5_of(message.meta.get("body_md5"), message.body):
            return parsed
        # Read all the same. TLS protects the text better than a digest beside it, and what exactly the digest is of
        # (line breaks as sent or as XML gives them back?) is said nowhere: a wrong guess must not cost completions.
        return replace(parsed, warnings=(*parsed.warnings, "MessageBodyMD5"))


def _open_body(body: bytes) -> tuple[bytes, Envelope | None]:
    """
    The text of the message, and the envelope that it is.

    Raises:
        Unparseable: Not UTF-8, or an envelope that can't be read.
    """
    text = decode_text(body).encode()
    if text == body.strip():
        text = body
    return text, open_envelope(text)


def _stored(**texts: str | None) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text and _SHORT_TEXT.fullmatch(text)}


def _is_md5_of(digest: str | None, body: bytes) -> bool:
    return digest is None or digest.lower() == hashlib.md5(body, usedforsecurity=False).hexdigest()
