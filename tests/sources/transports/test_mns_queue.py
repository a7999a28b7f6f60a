"""Messages of a queue: whatever form they come in, they mean what the product's JSON means."""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.receipts import StoredReceipt
from media_callbacks.sources.base import Message
from media_callbacks.sources.intake import build_receipt, restore_message
from media_callbacks.sources.products import ims, mts, vod
from media_callbacks.sources.transports.mns_queue import MnsQueueSource

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
ENQUEUED_AT = datetime(2026, 11, 21, 7, 59, 58, 123000, tzinfo=UTC)
PUBLISHED_AT = datetime(2026, 11, 21, 7, 59, 57, 500000, tzinfo=UTC)
JOB = '{"type":"Transcode","jobId":"J1","state":"Success","UserData":"<动图 & more>"}'
SOURCE = MnsQueueSource(name="mts-queue", product="mts", account="123", parser=mts.parse)


@dataclass
class Queued:
    body: bytes
    body_md5: str | None = None
    id: str = "5F290C926D472878-2-14D9529****-200000001"
    enqueued_at: datetime | None = ENQUEUED_AT


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest().upper()


def queued(text: str | bytes, **fields: Any) -> Queued:
    body = text.encode() if isinstance(text, str) else text
    fields.setdefault("body_md5", md5(body))
    return Queued(body, **fields)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def xml(message: str, **fields: str) -> str:
    values = {
        "TopicOwner": "123",
        "TopicName": "mts",
        "MessageId": "T1",
        "Message": message,
        "MessageMD5": md5(message.encode()),
        "PublishTime": str(int(PUBLISHED_AT.timestamp() * 1000)),
        **fields,
    }
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items())
    return f'<?xml version="1.0" encoding="utf-8"?><Notification xmlns="http://mns.aliyuncs.com/doc/v1/">{inner}</Notification>'


def in_json(message: str) -> str:
    return json.dumps(
        {
            "TopicOwner": "123",
            "TopicName": "mts",
            "MessageId": "T1",
            "Message": message,
            "MessageMD5": md5(message.encode()),
            "PublishTime": str(int(PUBLISHED_AT.timestamp() * 1000)),
        }
    )


def restored(message: Message) -> Message:
    """As the inbox gives it back, years later."""
    receipt = build_receipt(SOURCE, message, received_at=NOW, route=lambda _: ())
    stored = StoredReceipt(1, receipt.source, receipt.verified_by, NOW, receipt.body, dict(receipt.meta))
    return restore_message(stored)


@pytest.mark.parametrize(
    "text, form",
    [
        (JOB, "plain"),
        (f" \r\n{JOB}\n", "plain"),
        (encoded(JOB), "base64"),
        (f"{encoded(JOB)}\n", "base64"),
        (xml(JOB), "xml"),
        (xml(encoded(JOB)), "xml"),
        (in_json(JOB), "json"),
        (in_json(encoded(JOB)), "json"),
        (encoded(in_json(encoded(JOB))), "json"),
    ],
)
def test_every_form_means_the_same(text, form):
    message = SOURCE.open(queued(text))
    assert message.verified_by == "queue"
    assert message.body == text.encode()
    assert message.meta["format"] == form
    assert message.meta["queue_message_id"] == "5F290C926D472878-2-14D9529****-200000001"
    for found in (message, restored(message)):
        parsed = SOURCE.parse(found)
        (completion,) = parsed.completions
        assert (completion.job_id, completion.outcome) == ("J1", "succeeded")
        assert completion.user_data == "<动图 & more>"
        assert parsed.warnings == ()
    is_enveloped = form in ("xml", "json")
    assert message.published_at == (PUBLISHED_AT if is_enveloped else ENQUEUED_AT)
    assert restored(message).published_at == message.published_at
    assert message.meta.get("topic") == ("123/mts" if is_enveloped else None)
    assert message.meta.get("message_id") == ("T1" if is_enveloped else None)


@pytest.mark.parametrize(
    "product, parser, body",
    [
        ("vod", vod.parse, {"EventType": "DynamicImageComplete", "Status": "success", "JobId": "J1", "VideoId": "V1"}),
        (
            "ims",
            ims.parse,
            {
                "EventType": "MediaConvertComplete",
                "EventTime": "2026-11-21T07:00:00Z",
                "MessageBody": {"JobId": "J1", "Status": "Success"},
            },
        ),
    ],
)
@pytest.mark.parametrize("encode", [str, encoded])
def test_products_that_write_straight_to_a_queue(product, parser, body, encode):
    source = MnsQueueSource(name="q", product=product, account="123", parser=parser)
    (completion,) = source.parse(source.open(queued(encode(json.dumps(body))))).completions
    assert (completion.job_id, completion.outcome) == ("J1", "succeeded")


@pytest.mark.parametrize(
    "text, words, form",
    [
        (b"\xff\xfe", "UTF-8", "unreadable"),
        (b"", "JSON", "plain"),
        (b"hello", "JSON", "plain"),
        (encoded("hello").encode(), "JSON", "plain"),
        (b"<Notification>", "well-formed", "unreadable"),
        (b"<html></html>", "JSON", "plain"),
        (b"<!DOCTYPE a><Notification/>", "DOCTYPE", "unreadable"),
        (xml(JOB, MessageMD5="0" * 32).encode(), "MessageMD5", "xml"),
        (b'{"type":"Transcode"}', "jobId|JobId", "plain"),
    ],
)
def test_what_cannot_be_read_is_a_message_with_a_reason(text, words, form):
    message = SOURCE.open(queued(text))
    assert (message.body, message.verified_by, message.meta["format"]) == (text, "queue", form)
    for found in (message, restored(message)):
        with pytest.raises(Unparseable, match=words):
            SOURCE.parse(found)


def test_a_digest_that_does_not_fit_costs_no_completion_and_is_noted():
    message = SOURCE.open(queued(JOB, body_md5="0" * 32))
    for found in (message, restored(message)):
        parsed = SOURCE.parse(found)
        assert [completion.job_id for completion in parsed.completions] == ["J1"]
        assert parsed.warnings == ("MessageBodyMD5",)
    assert SOURCE.parse(SOURCE.open(queued(JOB, body_md5=None))).warnings == ()
    assert SOURCE.parse(SOURCE.open(queued(JOB, body_md5=md5(JOB.encode()).lower()))).warnings == ()


def test_strange_ids_are_not_stored():
    message = SOURCE.open(queued(JOB, id="a\nb", body_md5="x" * 257, enqueued_at=None))
    assert message.meta == {"format": "plain"}
    assert message.published_at is None


@settings(max_examples=400, deadline=None)
@given(
    body=st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: xml(text.replace("\0", "")).encode("utf-8", "replace"))
    | st.binary(max_size=200).map(base64.b64encode)
    | st.text(max_size=200).map(lambda text: in_json(text.encode("utf-8", "replace").decode()).encode()),
    digest=st.none() | st.text(max_size=40),
    identifier=st.text(max_size=40),
)
@example(body=in_json(JOB).encode(), digest=None, identifier="")
def test_any_bytes_are_a_message_and_completions_or_a_reason(body, digest, identifier):
    message = SOURCE.open(Queued(body, digest, identifier))
    assert message.body == body
    receipt = build_receipt(SOURCE, message, received_at=NOW, route=lambda _: ())
    assert receipt.entries or receipt.reason
    assert all(isinstance(value, str) and value.isascii() for value in receipt.meta.values())
