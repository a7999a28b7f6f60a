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
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from media_callbacks.model.errors import Unparseable
from media_callbacks.sources.reading.members import Declared, Text, Verbatim, first, read
from media_callbacks.sources.reading.xml_document import OtherRoot, read_document

# A message has at most 64 KiB; six times that when each of its characters is escaped. Entities are refused, so the
# text inside is never longer than the document.
MAX_ENVELOPE_BYTES = 1_048_576
_ROOT = "Notification"
# MessagePublishTime is the name in an old field table; the printed sample opens with one and closes with the other.
_ELEMENTS = frozenset(
    {"TopicOwner", "TopicName", "MessageId", "Message", "MessageMD5", "PublishTime", "MessagePublishTime"}
)
# As a number with a point, too: what a JSON library may have made of it on the way.
_MILLISECONDS = re.compile(r"([0-9]{1,14})(?:\.0{1,6})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHITESPACE_AND_BOM = b" \t\r\n\xef\xbb\xbf"


class NotificationJson(Declared, total=False):
    """
    The envelope in JSON; in XML the elements have the same names.

    Attributes:
        PublishTime: Milliseconds since 1970, a number or text. A field table calls it MessagePublishTime.
    """

    TopicOwner: Text
    TopicName: Text
    Subscriber: Text
    SubscriptionName: Text
    MessageId: Text
    MessageMD5: Text
    MessageTag: Text
    Message: Verbatim
    PublishTime: Text
    MessagePublishTime: Text


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
    match = None if text is None else _MILLISECONDS.fullmatch(text)
    return None if match is None else _EPOCH + timedelta(milliseconds=int(match[1]))


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
    told = read(NotificationJson, text).message
    envelope = _read_envelope("json", told, told.get("Message"))
    if envelope is not None:
        _refuse_twins(text)
    return envelope


# Objects as lists of their members, so that none is lost. Whatever else is in the text has been read before.
_MEMBERS = json.JSONDecoder(strict=False, object_pairs_hook=list, parse_int=str, parse_float=str)
_NAMES = {name.lower(): name for name in _ELEMENTS}


def _refuse_twins(text: bytes) -> None:
    """
    As in XML: of two topics or messages, whoever stands behind us may read the other one.

    Raises:
        Unparseable: A member comes twice, whatever the case of its name and the blanks around it.
    """
    seen: set[str] = set()
    try:
        members = _MEMBERS.decode(text.decode())
    except ValueError as error:
        raise Unparseable("expected a JSON envelope in which each member can be told from the others") from error
    for key, _ in members:
        name = key.strip().lower()
        if name in seen and name in _NAMES:
            raise Unparseable(f"expected {_NAMES[name]} once in the JSON envelope, found it twice")
        seen.add(name)


def _open_xml(text: bytes) -> Envelope | None:
    try:
        document = read_document(text, root=_ROOT)
    except OtherRoot:
        # XML, but not from MNS: what somebody published.
        return None
    except ValueError as error:
        raise Unparseable(f"expected an XML envelope that can be read: {error}") from error
    found = [child.name for child in document.children if child.name in _ELEMENTS]
    if len(set(found)) != len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise Unparseable(f"expected {twice} once in the XML envelope, found it twice")
    told = {child.name: child.text.strip() for child in document.children if child.name in _ELEMENTS}
    message = document.find("Message")
    envelope = _read_envelope("xml", told, None if message is None else message.text)
    if envelope is None:
        raise Unparseable("expected TopicOwner and TopicName in the XML envelope, at least one is missing")
    return envelope


def _read_envelope(form: Literal["xml", "json"], told: Mapping[str, Any], message: str | None) -> Envelope | None:
    owner, name = told.get("TopicOwner"), told.get("TopicName")
    if not owner or not name:
        return None
    return Envelope(
        format=form,
        topic=f"{owner}/{name}",
        message_id=told.get("MessageId") or None,
        message=message,
        message_md5=told.get("MessageMD5") or None,
        published_at=parse_publish_time(first(told, ("PublishTime", "MessagePublishTime"))),
    )
