"""
The envelope that an MNS topic puts around a message, in a push and in a queue that subscribes to the topic.

Three formats, chosen per subscription: ``XML`` (a ``Notification`` document), ``JSON`` (the same names as keys) and
``SIMPLIFIED`` (no envelope, the published text alone). The format is told by the body itself, because no header
names it. The text inside may be base64 of what the publisher meant; product parsers decode it.

Source: "NotifyContentFormat", https://www.alibabacloud.com/help/doc-detail/27482.htm, and "HttpEndpoint",
https://www.alibabacloud.com/help/doc-detail/27498.htm; order and spelling of the elements as in pushes captured in
2017 (XML) and 2020 (JSON). The printed XML sample is not well-formed.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from xml.parsers import expat  # DTDs, and with them entities, are refused below

from service.errors import Unparseable
from service.sources.fields import read_object

# A message has at most 64 KiB; six times that when each of its characters is escaped. Entities are refused, so the
# text inside is never longer than the document.
MAX_ENVELOPE_BYTES = 1_048_576
# Real documents have two levels; unknown elements may have some more.
_MAX_DEPTH = 8
_ROOT = "Notification"
# MessagePublishTime is the name in an old field table; the printed sample opens with one and closes with the other.
_ELEMENTS = frozenset(
    {"TopicOwner", "TopicName", "MessageId", "Message", "MessageMD5", "PublishTime", "MessagePublishTime"}
)
_MILLISECONDS = re.compile(r"[0-9]{1,14}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHITESPACE_AND_BOM = b" \t\r\n\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """
    What MNS says about a message.

    Attributes:
        topic: ``owner/name``; the owner is an account id.
        message_id: Unique in the topic.
        message: As published, to the character.
        message_md5: Hexadecimal, of ``message`` in UTF-8.
        published_at: When MNS accepted the message.
    """

    format: Literal["xml", "json"]
    topic: str
    message_id: str | None
    message: str | None
    message_md5: str | None
    published_at: datetime | None

    def open_message(self) -> bytes:
        """
        The message, checked against its digest.

        Raises:
            Unparseable: There is none, or it is not what was published.
        """
        if self.message is None:
            raise Unparseable("expected Message in the MNS envelope, found none")
        payload = self.message.encode()
        if self.message_md5 is not None:
            digest = hashlib.md5(payload, usedforsecurity=False).hexdigest()
            if digest != self.message_md5.lower():
                raise Unparseable(
                    f"expected a Message with the MessageMD5 of its envelope, found one of {len(payload)} bytes that"
                    " differs from what was published"
                )
        return payload


def parse_publish_time(text: str | None) -> datetime | None:
    """Milliseconds since 1970 as decimal digits; None when it is anything else."""
    if text is None or not _MILLISECONDS.fullmatch(text):
        return None
    return _EPOCH + timedelta(milliseconds=int(text))


def open_envelope(body: bytes) -> Envelope | None:
    """
    Read the envelope, or find that there is none.

    Returns:
        None for a message without an envelope. That is a statement about the bytes, not about who wrote them: a
        publisher can send what looks like an envelope in a SIMPLIFIED push.

    Raises:
        Unparseable: It starts as an envelope and can't be read as one.
    """
    text = body.lstrip(_WHITESPACE_AND_BOM)
    if text.startswith(b"<"):
        return _open_xml(_bounded(text))
    if text.startswith(b"{") and b"TopicOwner" in text:
        return _open_json(_bounded(text))
    return None


def read_payload(body: bytes) -> bytes:
    """
    The published message, out of its envelope where it has one.

    Raises:
        Unparseable: The envelope can't be read, or its message is not what was published.
    """
    envelope = open_envelope(body)
    return body if envelope is None else envelope.open_message()


def _bounded(text: bytes) -> bytes:
    if len(text) > MAX_ENVELOPE_BYTES:
        raise Unparseable(f"expected an MNS envelope of at most {MAX_ENVELOPE_BYTES} bytes, found {len(text)}")
    return text


def _open_json(text: bytes) -> Envelope | None:
    fields = read_object(text)
    owner, name = fields.text("TopicOwner"), fields.text("TopicName")
    if owner is None or name is None:
        return None
    return Envelope(
        format="json",
        topic=f"{owner}/{name}",
        message_id=fields.text("MessageId"),
        message=fields.verbatim("Message"),
        message_md5=fields.text("MessageMD5"),
        published_at=parse_publish_time(fields.text("PublishTime", "MessagePublishTime")),
    )


def _open_xml(text: bytes) -> Envelope | None:
    reader = _NotificationReader()
    # UTF-8 whatever the declaration says: pyexpat would ask Python for other codecs, and raise what those raise.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start_element
    parser.EndElementHandler = reader.end_element
    parser.CharacterDataHandler = reader.character_data
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    try:
        parser.Parse(text, True)
    except _OtherDocumentError:
        return None
    except expat.ExpatError as error:
        raise Unparseable(f"expected a well-formed XML envelope: {error}") from error
    return reader.envelope()


class _OtherDocumentError(Exception):
    """XML, but not from MNS: what somebody published."""


class _NotificationReader:
    """Collects the text of the children of the root by local name; the namespace has been written in two ways."""

    def __init__(self) -> None:
        self._depth = 0
        self._current: list[str] | None = None
        self._texts: dict[str, list[str]] = {}

    def start_element(self, name: str, attributes: Mapping[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Unparseable(f"expected an XML envelope of at most {_MAX_DEPTH} levels, found more")
        if self._depth == 1 and name != _ROOT:
            raise _OtherDocumentError
        if self._depth == 2 and name in _ELEMENTS:
            if name in self._texts:
                raise Unparseable(f"expected {name} once in the XML envelope, found it twice")
            self._current = self._texts[name] = []

    def end_element(self, name: str) -> None:
        if self._depth == 2:
            self._current = None
        self._depth -= 1

    def character_data(self, text: str) -> None:
        if self._depth == 2 and self._current is not None:
            self._current.append(text)

    def refuse_doctype(self, *_: object) -> None:
        raise Unparseable("expected an XML envelope without DOCTYPE, found one")

    def envelope(self) -> Envelope:
        owner, name = self._text("TopicOwner"), self._text("TopicName")
        if owner is None or name is None:
            raise Unparseable("expected TopicOwner and TopicName in the XML envelope, at least one is missing")
        return Envelope(
            format="xml",
            topic=f"{owner}/{name}",
            message_id=self._text("MessageId"),
            message="".join(self._texts["Message"]) if "Message" in self._texts else None,
            message_md5=self._text("MessageMD5"),
            published_at=parse_publish_time(self._text("PublishTime") or self._text("MessagePublishTime")),
        )

    def _text(self, name: str) -> str | None:
        return "".join(self._texts.get(name, ())).strip() or None
