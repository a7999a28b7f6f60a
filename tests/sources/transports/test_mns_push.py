"""
Pushes of an MNS topic.

The first tests hold the figures of a push that MNS made in 2023; somebody published its headers and the certificate,
not its body. Everything else is signed with a key made here.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import (
    BadSignature,
    CannotVerify,
    MalformedCallback,
    Rejected,
    StaleTimestamp,
    Unparseable,
)
from media_callbacks.sources.base import Callback, Message, Parsed
from media_callbacks.sources.products import mts
from media_callbacks.sources.transports.mns_push import (
    KNOWN_CERTIFICATE_URL,
    MnsPushSource,
    certificate_hosts,
    parse_certificate_url,
    parse_signed_target,
    sign,
    string_to_sign,
)


def content_md5(body: bytes) -> str:
    """The documented spelling: base64 of the 32 lower-case hexadecimal digits."""
    return base64.b64encode(hashlib.md5(body).hexdigest().encode()).decode()


# The push of 2023

CAPTURED_CERTIFICATE = b"""\
-----BEGIN CERTIFICATE-----
MIICiDCCAjKgAwIBAgIJAL+acWZrTrlfMA0GCSqGSIb3DQEBBQUAMGMxCzAJBgNV
BAYTAjg2MREwDwYDVQQIEwhaaGVqaWFuZzERMA8GA1UEBxMISGFuZ3pob3UxDzAN
BgNVBAoTBkFsaXl1bjEMMAoGA1UECxMDTW5zMQ8wDQYDVQQDEwZub3RpZnkwHhcN
MTUwNzAyMDIwNjE2WhcNMTYwNzAxMDIwNjE2WjBjMQswCQYDVQQGEwI4NjERMA8G
A1UECBMIWmhlamlhbmcxETAPBgNVBAcTCEhhbmd6aG91MQ8wDQYDVQQKEwZBbGl5
dW4xDDAKBgNVBAsTA01uczEPMA0GA1UEAxMGbm90aWZ5MFwwDQYJKoZIhvcNAQEB
BQADSwAwSAJBALX0sFVowct1NAQjDyYSUf0rp1rOHLkz4kp0zNWcDyXMXa5PzsPU
UwJXaLwhvNCDLLWuiLK6Oh5elmOmL8Gy/5MCAwEAAaOByDCBxTAdBgNVHQ4EFgQU
kEah2o9HpCUCxhN/fY3kUtPkP4owgZUGA1UdIwSBjTCBioAUkEah2o9HpCUCxhN/
fY3kUtPkP4qhZ6RlMGMxCzAJBgNVBAYTAjg2MREwDwYDVQQIEwhaaGVqaWFuZzER
MA8GA1UEBxMISGFuZ3pob3UxDzANBgNVBAoTBkFsaXl1bjEMMAoGA1UECxMDTW5z
MQ8wDQYDVQQDEwZub3RpZnmCCQC/mnFma065XzAMBgNVHRMEBTADAQH/MA0GCSqG
SIb3DQEBBQUAA0EAluPg+k0Fc7WRcpP78+eLptYD8an7YOapUdNUmT2/SQC5BZ+t
cyWFit5pAEipngFL105d7AuW2AtwqG0FgV0ipw==
-----END CERTIFICATE-----
"""
CAPTURED_TEXT = b"""\
POST
4CCBAD7AF2D23C2D00DDECCA59323A8C
text/plain;charset=utf-8
Wed, 29 Mar 2023 08:41:27 GMT
x-mns-message-id:250EB49D5F8D737A391C93C6ED165396
x-mns-publish-time:1680079287576
x-mns-request-id:6423F9B7BF94313030AF5EA0
x-mns-signing-cert-url:aHR0cHM6Ly9tbnN0ZXN0Lm9zcy1jbi1oYW5nemhvdS5hbGl5dW5jcy5jb20veDUwOV9wdWJsaWNfY2VydGlmaWNhdGUucGVt
x-mns-subscriber:1321669497458181
x-mns-subscription-name:mns-en-subs-oss-fecdn-internal-pre-1-22849529855680
x-mns-topic-name:mns-en-topics-oss-fecdn-internal-pre-22849529792243
x-mns-topic-owner:1321669497458181
x-mns-version:2015-06-06
/notifications"""
CAPTURED_SIGNATURE = b"LP3cxoTCbhsiLJi0KQdEiRaufaxMfWUdLH064yoVoKl8xNcY+299itGmGsirVMY8vDpuZ1VwS0Uw7R5dNduSXg=="
# In an order and a case that a server may hand over.
CAPTURED_HEADERS = [
    (b"X-Mns-Version", b"2015-06-06"),
    (b"Host", b"cb.example.com"),
    (b"User-Agent", b"Aliyun Notification Service Agent"),
    (b"x-mns-topic-owner", b"1321669497458181"),
    (b"Date", b"Wed, 29 Mar 2023 08:41:27 GMT"),
    (b"x-mns-topic-name", b"mns-en-topics-oss-fecdn-internal-pre-22849529792243"),
    (b"Content-length", b"100"),
    (b"Authorization", CAPTURED_SIGNATURE),
    (b"x-mns-subscriber", b"1321669497458181"),
    (b"Content-md5", b"4CCBAD7AF2D23C2D00DDECCA59323A8C"),
    (b"x-mns-publish-time", b"1680079287576"),
    (b"x-mns-request-id", b"6423F9B7BF94313030AF5EA0"),
    (b"X-MNS-Message-Id", b"250EB49D5F8D737A391C93C6ED165396"),
    (
        b"x-mns-signing-cert-url",
        b"aHR0cHM6Ly9tbnN0ZXN0Lm9zcy1jbi1oYW5nemhvdS5hbGl5dW5jcy5jb20veDUwOV9wdWJsaWNfY2VydGlmaWNhdGUucGVt",
    ),
    (b"x-mns-subscription-name", b"mns-en-subs-oss-fecdn-internal-pre-1-22849529855680"),
    (b"Content-Type", b"text/plain;charset=utf-8"),
]


def verify_captured(text: bytes) -> None:
    key = x509.load_pem_x509_certificate(CAPTURED_CERTIFICATE).public_key()
    assert isinstance(key, RSAPublicKey)
    key.verify(base64.b64decode(CAPTURED_SIGNATURE), text, PKCS1v15(), SHA1())


def test_the_captured_push_gives_the_text_that_was_signed():
    text = string_to_sign("POST", b"/notifications", CAPTURED_HEADERS)
    assert text == CAPTURED_TEXT
    verify_captured(text)


@pytest.mark.parametrize("line", range(14))
def test_one_byte_changed_in_any_line_of_the_captured_push_fails(line):
    lines = CAPTURED_TEXT.split(b"\n")
    lines[line] = lines[line][:-1] + bytes([lines[line][-1] ^ 1])
    with pytest.raises(InvalidSignature):
        verify_captured(b"\n".join(lines))


def test_the_certificate_of_the_captured_push_is_the_known_one():
    assert base64.b64decode(dict(CAPTURED_HEADERS)[b"x-mns-signing-cert-url"]).decode() == KNOWN_CERTIFICATE_URL


@pytest.mark.parametrize(
    "headers, text",
    [
        ([], b"POST\n\n\n\n/a?b=1"),
        ([(b"date", b"D"), (b"x-mnsx", b"no"), (b"host", b"no")], b"POST\n\n\nD\n/a?b=1"),
        ([(b"x-mns-date", b"D")], b"POST\n\n\nD\nx-mns-date:D\n/a?b=1"),
        ([(b"x-mns-date", b"E"), (b"date", b"D")], b"POST\n\n\nD\nx-mns-date:E\n/a?b=1"),
        (
            [(b"x-mns-b", b""), (b"X-Mns-Message-Tag", b"T: 1"), (b"x-mns-a", b"\xff"), (b"content-type", b"Text")],
            b"POST\n\nText\n\nx-mns-a:\xff\nx-mns-b:\nx-mns-message-tag:T: 1\n/a?b=1",
        ),
    ],
)
def test_string_to_sign(headers, text):
    assert string_to_sign("POST", b"/a?b=1", headers) == text


# Pushes made here

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
OWNER, TOPIC = "1234567890123456", "mts-done"
JOB = b'{"jobId":"J1","state":"Success"}'
JOB_MD5 = {
    "base64 of hex": b"OGJkOGMzNTc1YTczN2VlYjg3NGRkMjFlNmU2MGQzYWM=",
    "upper-case hex": b"8BD8C3575A737EEB874DD21E6E60D3AC",
    "lower-case hex": b"8bd8c3575a737eeb874dd21e6e60d3ac",
    "base64 of raw": b"i9jDV1pzfuuHTdIebmDTrA==",
}
PATH = b"/callbacks/mts/5f0c9d"


@cache
def private_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@cache
def other_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def parse_payload(message: Message) -> Parsed:
    """A parser that shows what it was given."""
    return Parsed((), (message.payload.decode("utf-8", "replace"),))


def make_source(**changes: Any) -> MnsPushSource:
    values: dict[str, Any] = {
        "name": "mts",
        "product": "mts",
        "account": "default",
        "path": PATH.decode(),
        "topics": frozenset({f"{OWNER}/{TOPIC}", f"{OWNER}/second"}),
        "certificate_hosts": certificate_hosts(["cn-hangzhou"]),
        "parser": parse_payload,
    }
    return MnsPushSource(**(values | changes))


SOURCE = make_source()


def http_date(moment: datetime) -> bytes:
    return moment.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()


TOPIC_HEADERS: dict[bytes, bytes | None] = {
    b"x-mns-message-id": b"250EB49D5F8D737A391C93C6ED165396",
    b"x-mns-publish-time": b"1772600765250",
    b"x-mns-topic-owner": OWNER.encode(),
    b"x-mns-topic-name": TOPIC.encode(),
}
PUBLISHED_AT = datetime(2026, 3, 4, 5, 6, 5, 250_000, UTC)


def make_push(
    body: bytes,
    changes: Mapping[bytes, bytes | None] | None = None,
    *,
    target: bytes = PATH,
    sent_at: datetime = NOW,
    certificate_url: bytes = KNOWN_CERTIFICATE_URL.encode(),
    method: str = "POST",
    key: RSAPrivateKey | None = None,
) -> Callback:
    """A push signed as it stands; a header changed to None is left out."""
    values: dict[bytes, bytes | None] = {
        b"host": b"cb.example.com",
        b"content-md5": content_md5(body).encode(),
        b"content-type": b"text/xml;charset=utf-8",
        b"date": http_date(sent_at),
        b"x-mns-version": b"2015-06-06",
        b"x-mns-request-id": b"6423F9B7BF94313030AF5EA0",
        b"x-mns-signing-cert-url": base64.b64encode(certificate_url),
    }
    values.update(changes or {})
    headers = [(name, value) for name, value in values.items() if value is not None]
    if b"authorization" not in values:
        text = string_to_sign("POST", target, headers)
        headers.append((b"authorization", sign(text, key or private_key()).encode()))
    path, _, query = target.partition(b"?")
    return Callback(method, path, query, headers, body)


def with_headers(push: Callback, headers: Iterable[tuple[bytes, bytes]]) -> Callback:
    return Callback(push.method, push.raw_path, push.query, list(headers), push.body)


def verify(push: Callback, source: MnsPushSource = SOURCE, now: datetime = NOW) -> Message:
    """As the endpoint does it, with the certificate at hand."""
    assert source.certificate_url(push).startswith("https://")
    return source.verify(push, now=now, public_key=private_key().public_key())


def md5(text: bytes) -> str:
    return hashlib.md5(text).hexdigest().upper()


def xml(message: bytes = JOB, *, owner: str = OWNER, topic: str = TOPIC, digest: str | None = None) -> bytes:
    text = message.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b'"', b"&quot;").decode()
    return (
        '<?xml version="1.0" encoding="utf-8"?><Notification xmlns="http://mns.aliyuncs.com/doc/v1/">'
        f"<TopicOwner>{owner}</TopicOwner><TopicName>{topic}</TopicName><Subscriber>{OWNER}</Subscriber>"
        f"<SubscriptionName>sub</SubscriptionName><MessageId>6CC4D900CA59A2CD-1</MessageId>"
        f"<MessageMD5>{digest or md5(message)}</MessageMD5><Message>{text}</Message>"
        "<PublishTime>1772600765250</PublishTime></Notification>"
    ).encode()


def json_envelope(message: bytes = JOB, *, owner: str = OWNER, topic: str = TOPIC, digest: str | None = None) -> bytes:
    return json.dumps(
        {
            "TopicOwner": owner,
            "TopicName": topic,
            "Message": message.decode(),
            "MessageMD5": digest or md5(message),
            "MessageId": "21680D1B7EFC7FF4",
            "PublishTime": 1772600765250,
        }
    ).encode()


SIMPLIFIED = make_push(JOB, TOPIC_HEADERS)


@pytest.mark.parametrize(
    "push, form, message_id",
    [
        (make_push(xml()), "xml", "6CC4D900CA59A2CD-1"),
        (make_push(json_envelope()), "json", "21680D1B7EFC7FF4"),
        (SIMPLIFIED, "simplified", "250EB49D5F8D737A391C93C6ED165396"),
        (make_push(xml(), TOPIC_HEADERS), "xml", "250EB49D5F8D737A391C93C6ED165396"),
    ],
)
def test_a_push_of_each_format(push, form, message_id):
    assert SOURCE.certificate_url(push) == KNOWN_CERTIFICATE_URL
    message = verify(push)
    assert message.body == push.body
    assert message.payload == JOB
    assert message.verified_by == "signature"
    assert message.published_at == PUBLISHED_AT
    assert message.meta == {
        "format": form,
        "topic": f"{OWNER}/{TOPIC}",
        "message_id": message_id,
        "published_at": "2026-03-04T05:06:05.250+00:00",
    }
    assert SOURCE.parse(message).warnings == (JOB.decode(),)


@pytest.mark.parametrize("encode", [bytes, base64.b64encode])
@pytest.mark.parametrize("wrap", [bytes, xml, json_envelope])
def test_the_rules_of_the_product_read_every_format(wrap, encode):
    source = make_source(parser=mts.parse)
    body = wrap(encode(b'{"jobId":"J1","JobId":"J1","state":"Success","type":"Transcode"}'))
    [completion] = source.parse(verify(make_push(body, TOPIC_HEADERS), source)).completions
    assert (completion.family, completion.id, completion.outcome) == ("transcode", ("J1",), "succeeded")


@pytest.mark.parametrize("spelling", JOB_MD5.values(), ids=JOB_MD5.keys())
def test_every_spelling_of_the_digest(spelling):
    assert verify(make_push(JOB, TOPIC_HEADERS | {b"content-md5": spelling})).payload == JOB


def test_the_documented_spelling_of_the_digest():
    assert content_md5(JOB).encode() == JOB_MD5["base64 of hex"]


@pytest.mark.parametrize(
    "changes",
    [
        {b"x-mns-message-tag": b"tag"},
        {b"x-mns-zzz": b"of a later version"},
        {b"x-mns-empty": b""},
        {b"content-type": None},
        {b"content-type": b""},
        {b"date": None, b"x-mns-date": http_date(NOW)},
        {b"x-mns-publish-time": b"soon"},
        {b"x-mns-publish-time": None},
    ],
)
def test_whatever_was_signed_verifies(changes):
    assert verify(make_push(JOB, TOPIC_HEADERS | changes)).payload == JOB


def test_header_names_in_any_case_and_headers_that_are_not_signed():
    headers = [(name.title(), value) for name, value in SIMPLIFIED.headers]
    headers += [(b"cookie", b"\xff"), (b"cookie", b"b"), (b"content-length", b"1"), (b"x-forwarded-for", b"::1")]
    assert verify(with_headers(SIMPLIFIED, headers)).payload == JOB


@pytest.mark.parametrize("target", [PATH + b"?a=%2F&b", b"/callbacks/%6Dts/%e4", b"/notifications", b"/"])
def test_the_target_is_signed_as_it_was_written(target):
    push = make_push(JOB, TOPIC_HEADERS, target=target)
    assert verify(push).payload == JOB
    with pytest.raises(BadSignature, match="rewrites the path"):
        verify(Callback("POST", b"/other", push.query, push.headers, push.body))
    with pytest.raises(BadSignature):
        verify(Callback("POST", push.raw_path, b"other=1", push.headers, push.body))


def test_behind_a_proxy_that_rewrites_the_path_the_registered_target_is_what_counts():
    push = make_push(JOB, TOPIC_HEADERS, target=b"/prefix" + PATH + b"?a=1")
    arrived = Callback("POST", PATH, b"", push.headers, JOB)
    with pytest.raises(BadSignature):
        verify(arrived)
    assert verify(arrived, make_source(signed_target=b"/prefix" + PATH + b"?a=1")).payload == JOB


@pytest.mark.parametrize(
    "url, target",
    [
        ("https://cb.example.com/prefix/mts?a=%2F", b"/prefix/mts?a=%2F"),
        ("https://cb.example.com/a%20b", b"/a%20b"),
        ("https://cb.example.com/", b"/"),
        ("https://cb.example.com", b"/notifications"),
    ],
)
def test_target_of_a_registered_url(url, target):
    assert parse_signed_target(url) == target


# What is refused

REMOVED = "removed"


def changed(changes: dict[bytes, Any], push: Callback = SIMPLIFIED) -> Callback:
    """The push with headers changed after it was signed."""
    headers = [(name, changes.get(name, value)) for name, value in push.headers]
    headers += [(name, value) for name, value in changes.items() if name not in dict(headers)]
    return with_headers(push, ((name, value) for name, value in headers if value != REMOVED))


@pytest.mark.parametrize(
    "push, error, reason, words",
    [
        # Headers
        (changed({b"authorization": REMOVED}), BadSignature, "signature_missing", "authorization"),
        (changed({b"content-md5": REMOVED}), BadSignature, "signature_missing", "content-md5"),
        (changed({b"date": REMOVED}), BadSignature, "signature_missing", "date"),
        (changed({b"x-mns-signing-cert-url": REMOVED}), BadSignature, "signature_missing", "x-mns-signing-cert-url"),
        (with_headers(SIMPLIFIED, []), BadSignature, "signature_missing", "authorization, content-md5"),
        (changed({b"authorization": b""}), BadSignature, "signature_malformed", "Authorization"),
        (changed({b"authorization": b"MNS id:YWJj"}), BadSignature, "signature_malformed", "Authorization"),
        (changed({b"authorization": b"YWJj YWJj"}), BadSignature, "signature_malformed", "Authorization"),
        (changed({b"authorization": b"YWI"}), BadSignature, "signature_malformed", "Authorization"),
        (changed({b"authorization": b"YWJ="}), BadSignature, "signature_malformed", "canonical"),
        (changed({b"authorization": b"\xff"}), BadSignature, "signature_malformed", "ASCII"),
        (changed({b"content-type": "\u6587".encode()}), BadSignature, "signature_malformed", "ASCII"),
        (changed({b"x-mns-topic-name": b"\xff"}), BadSignature, "signature_malformed", "ASCII"),
        (changed({b"x-mns-\xff": b"1"}), BadSignature, "signature_malformed", "ASCII"),
        (changed({b"x-mns-a:b": b"1"}), BadSignature, "signature_malformed", "ASCII"),
        (changed({b"x-mns-a": b"1\nx-mns-b:2"}), BadSignature, "signature_malformed", "ASCII"),
        (changed({b"date": b"2026-03-04T05:06:07Z"}), BadSignature, "signature_malformed", "Date"),
        (changed({b"date": b"Wed, 30 Feb 2026 05:06:07 GMT"}), BadSignature, "signature_malformed", "Date"),
        (changed({b"date": b"Wed, 04 Mar 2026 05:06:07 CET"}), BadSignature, "signature_malformed", "Date"),
        # Body
        (changed({b"content-md5": content_md5(b"x").encode()}), BadSignature, "digest_mismatch", "body"),
        (changed({b"content-md5": b""}), BadSignature, "digest_mismatch", "body"),
        (changed({b"content-md5": b'"8BD8C3575A737EEB874DD21E6E60D3AC"'}), BadSignature, "digest_mismatch", "body"),
        (make_push(JOB, {b"content-md5": content_md5(b"x").encode()}), BadSignature, "digest_mismatch", "body"),
        # Signature
        (changed({b"authorization": b"YWJj"}), BadSignature, "signature_mismatch", "does not fit"),
        (changed({b"authorization": b"A" * 344}), BadSignature, "signature_mismatch", "does not fit"),
        (changed({b"x-mns-zzz": b"1"}), BadSignature, "signature_mismatch", "does not fit"),
        (changed({b"x-mns-date": http_date(NOW)}), BadSignature, "signature_mismatch", "does not fit"),
        (changed({b"x-mns-version": REMOVED}), BadSignature, "signature_mismatch", "does not fit"),
        (changed({b"x-mns-topic-name": b"second"}), BadSignature, "signature_mismatch", "does not fit"),
        (changed({b"date": http_date(NOW + timedelta(seconds=1))}), BadSignature, "signature_mismatch", "does not fit"),
        (changed({b"content-md5": JOB_MD5["upper-case hex"]}), BadSignature, "signature_mismatch", "does not fit"),
        (make_push(JOB, TOPIC_HEADERS, key=other_key()), BadSignature, "signature_mismatch", "does not fit"),
        (make_push(JOB, TOPIC_HEADERS, method="PUT"), BadSignature, "signature_mismatch", "does not fit"),
        # Topic
        (make_push(xml(owner="6" * 16)), BadSignature, "topic_not_allowed", "6666666666666666/mts-done"),
        (make_push(xml(topic="other")), BadSignature, "topic_not_allowed", "1234567890123456/other"),
        (make_push(json_envelope(owner="6" * 16)), BadSignature, "topic_not_allowed", "6666666666666666/mts-done"),
        (
            make_push(JOB, TOPIC_HEADERS | {b"x-mns-topic-owner": b"6" * 16}),
            BadSignature,
            "topic_not_allowed",
            "6666666666666666",
        ),
        (
            make_push(xml(), TOPIC_HEADERS | {b"x-mns-topic-owner": b"6" * 16}),
            BadSignature,
            "topic_not_allowed",
            "6666666666666666",
        ),
        (make_push(xml(owner="6" * 16), TOPIC_HEADERS), BadSignature, "topic_not_allowed", "6666666666666666"),
        (make_push(json_envelope(topic="x"), TOPIC_HEADERS), BadSignature, "topic_not_allowed", "1234567890123456/x"),
        (make_push(xml(), {b"x-mns-topic-name": b"mts-done"}), BadSignature, "topic_not_allowed", "/mts-done"),
        (make_push(xml(), {b"x-mns-topic-owner": OWNER.encode()}), BadSignature, "topic_not_allowed", f"{OWNER}/"),
        (make_push(JOB), BadSignature, "topic_unknown", "neither headers nor an envelope"),
        (make_push(b""), BadSignature, "topic_unknown", "neither headers nor an envelope"),
        (make_push(xml()[:-1]), BadSignature, "topic_unknown", "well-formed"),
        (make_push(b"<!DOCTYPE a>" + xml()[38:]), BadSignature, "topic_unknown", "DOCTYPE"),
        (make_push(json_envelope()[:-1]), BadSignature, "topic_unknown", "JSON"),
        # A publisher's own text that looks like an envelope of ours
        (make_push(xml(), {b"x-mns-message-id": b"1"}), BadSignature, "topic_unknown", "SIMPLIFIED"),
        (make_push(json_envelope(), {b"x-mns-message-id": b"1"}), BadSignature, "topic_unknown", "SIMPLIFIED"),
        (make_push(base64.b64encode(json_envelope())), BadSignature, "topic_unknown", "neither"),
    ],
)
def test_what_is_refused(push, error, reason, words):
    with pytest.raises(error, match=words) as caught:
        verify(push)
    assert caught.value.status == 403
    assert caught.value.reason == reason


@pytest.mark.parametrize("target", [b"", b"a", b"/a b", b"/\xc3\xa4", b"/a\nb", b"?a=1", b"x-mns-zzz:1\n" + PATH])
def test_a_target_that_no_request_line_holds_is_refused_however_it_is_signed(target):
    with pytest.raises(BadSignature, match="target"):
        verify(make_push(JOB, TOPIC_HEADERS, target=target))


def test_a_header_cannot_be_moved_into_the_target():
    push = make_push(JOB, TOPIC_HEADERS | {b"x-mns-zzz": b"1"})
    headers = [(name, value) for name, value in push.headers if name != b"x-mns-zzz"]
    assert string_to_sign("POST", b"x-mns-zzz:1\n" + PATH, headers) == string_to_sign("POST", PATH, push.headers)
    with pytest.raises(BadSignature):
        verify(Callback("POST", b"x-mns-zzz:1\n" + PATH, b"", headers, JOB))


@pytest.mark.parametrize(
    "name", [b"authorization", b"content-md5", b"content-type", b"date", b"x-mns-version", b"x-mns-zzz", b"X-MNS-zzz"]
)
def test_a_signed_header_that_comes_twice_is_malformed(name):
    value = dict(SIMPLIFIED.headers).get(name, b"1")
    push = changed({b"x-mns-zzz": b"1"})
    with pytest.raises(MalformedCallback, match="twice") as caught:
        SOURCE.certificate_url(with_headers(push, [*push.headers, (name, value)]))
    assert (caught.value.status, caught.value.reason) == (400, "doubled_header")


def test_without_a_key_nothing_is_genuine():
    with pytest.raises(BadSignature):
        SOURCE.verify(SIMPLIFIED, now=NOW, public_key=None)


def test_an_openssl_without_sha1_is_our_trouble_and_not_a_forgery():
    class RefusingKey:
        def verify(self, *arguments: object) -> None:
            raise UnsupportedAlgorithm("sha1")

    with pytest.raises(CannotVerify, match="SHA-1"):
        SOURCE.verify(SIMPLIFIED, now=NOW, public_key=RefusingKey())  # type: ignore[arg-type]


@pytest.mark.parametrize("age_s", [-120, 0, 900])
def test_fresh_enough(age_s):
    verify(SIMPLIFIED, now=NOW + timedelta(seconds=age_s))


@pytest.mark.parametrize("age_s", [-86_400, -121, 901, 86_400])
def test_a_right_signature_at_the_wrong_time_is_stale(age_s):
    with pytest.raises(StaleTimestamp, match="clock") as caught:
        verify(SIMPLIFIED, now=NOW + timedelta(seconds=age_s))
    assert caught.value.age_s == age_s
    assert caught.value.reason == "stale"


def test_how_old_a_push_may_be_is_configurable():
    source = make_source(max_age_s=60)
    verify(SIMPLIFIED, source, NOW + timedelta(seconds=60))
    with pytest.raises(StaleTimestamp):
        verify(SIMPLIFIED, source, NOW + timedelta(seconds=61))


def test_a_wrong_signature_at_the_wrong_time_is_a_wrong_signature():
    with pytest.raises(BadSignature):
        verify(changed({b"x-mns-zzz": b"1"}), now=NOW + timedelta(days=1))


def test_the_time_of_x_mns_date_counts_where_it_replaces_date():
    push = make_push(JOB, TOPIC_HEADERS | {b"date": None, b"x-mns-date": http_date(NOW - timedelta(hours=1))})
    with pytest.raises(StaleTimestamp):
        verify(push)


def test_a_retry_of_the_same_message_is_as_good_as_the_first():
    later = NOW + timedelta(hours=20)
    message = verify(make_push(JOB, TOPIC_HEADERS, sent_at=later), now=later)
    assert message.meta == verify(SIMPLIFIED).meta


# Authentic and useless: kept, and answered with success


@pytest.mark.parametrize(
    "push, words",
    [
        (make_push(xml(digest=md5(b"x"))), "MessageMD5"),
        (make_push(json_envelope(digest=md5(b"x"))), "MessageMD5"),
        (make_push(xml().replace(b"Message>", b"Massage>")), "found none"),
        (make_push(xml()[:-1], TOPIC_HEADERS), "well-formed"),
        (make_push(b"<", TOPIC_HEADERS), "well-formed"),
        (make_push(b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + xml()[38:], TOPIC_HEADERS), "DOCTYPE"),
        (make_push(json_envelope()[:-1], TOPIC_HEADERS), "JSON"),
    ],
)
def test_an_authentic_push_that_cannot_be_read_is_kept_as_unparsed(push, words):
    message = verify(push)
    assert message.body == push.body
    assert message.payload == b""
    assert message.meta["topic"] == f"{OWNER}/{TOPIC}"
    with pytest.raises(Unparseable, match=words):
        SOURCE.parse(message)


def test_a_stored_body_can_be_parsed_again():
    assert SOURCE.parse(Message(xml(), b"", "signature")).warnings == (JOB.decode(),)


def test_a_message_id_that_no_database_would_take_is_left_out():
    body = json_envelope().replace(b"21680D1B7EFC7FF4", b"a\\u0000b")
    assert "message_id" not in verify(make_push(body)).meta


# Certificate URLs

ALLOWED = "mnstest.oss-cn-hangzhou.aliyuncs.com"


@pytest.mark.parametrize(
    "url, expected",
    [
        (f"https://{ALLOWED}/x509_public_certificate.pem", f"https://{ALLOWED}/x509_public_certificate.pem"),
        (f"https://{ALLOWED}:443/x.pem.version2", f"https://{ALLOWED}/x.pem.version2"),
        (f"http://{ALLOWED}/x.pem", f"https://{ALLOWED}/x.pem"),
        (f"https://{ALLOWED}/..x", f"https://{ALLOWED}/..x"),
        (
            "https://mns-cert.oss-cn-hangzhou.aliyuncs.com/x.pem",
            "https://mns-cert.oss-cn-hangzhou.aliyuncs.com/x.pem",
        ),
        (f"https://{ALLOWED}/{'x' * (511 - len(f'https://{ALLOWED}'))}", None),
    ],
)
def test_certificate_urls_that_are_fetched(url, expected):
    assert SOURCE.certificate_url(make_push(JOB, TOPIC_HEADERS, certificate_url=url.encode())) == (expected or url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        f"https://{ALLOWED}",
        f"https://{ALLOWED}/",
        f"https://{ALLOWED}.evil.example/x",
        f"https://{ALLOWED}@evil.example/x",
        f"https://evil.example@{ALLOWED}/x",
        "https://mnstest-evil.oss-cn-hangzhou.aliyuncs.com/x",
        f"https://x.{ALLOWED}/x",
        f"https://evil.example/{ALLOWED}/x",
        f"https://evil.example/{ALLOWED}",
        "https://mns-cert.oss-cn-beijing.aliyuncs.com/x.pem",
        "https://aliyuncs.com/x",
        "https://127.0.0.1/x",
        "file:///etc/passwd",
        "data:text/plain,x",
        f"ftp://{ALLOWED}/x",
        f"//{ALLOWED}/x",
        f"HTTPS://{ALLOWED}/x",
        f"https://{ALLOWED.upper()}/x",
        f"https://{ALLOWED}./x",
        f"https://{ALLOWED}:8443/x",
        f"https://{ALLOWED}:/x",
        f"http://{ALLOWED}:80/x",
        f"https://{ALLOWED}/a/b",
        f"https://{ALLOWED}//x",
        f"https://{ALLOWED}/a%2Fb",
        f"https://{ALLOWED}/.",
        f"https://{ALLOWED}/..",
        f"https://{ALLOWED}/%2e%2e",
        f"https://{ALLOWED}/x?a=1",
        f"https://{ALLOWED}/x#a",
        f"https://{ALLOWED}/x\n",
        f" https://{ALLOWED}/x",
        f"https://{ALLOWED}\\@evil.example/x",
        f"https://{ALLOWED}/{'x' * (512 - len(f'https://{ALLOWED}'))}",
        f"https://{ALLOWED}/\u00fc",
    ],
)
def test_certificate_urls_that_are_never_fetched(url):
    push = make_push(JOB, TOPIC_HEADERS, certificate_url=url.encode())
    with pytest.raises(BadSignature) as caught:
        SOURCE.certificate_url(push)
    assert caught.value.reason == ("certificate_url" if url else "signature_malformed")
    with pytest.raises(BadSignature):
        SOURCE.verify(push, now=NOW, public_key=private_key().public_key())


@pytest.mark.parametrize("header", [b"!", quote(KNOWN_CERTIFICATE_URL).encode(), KNOWN_CERTIFICATE_URL.encode()])
def test_a_certificate_url_that_is_not_base64(header):
    with pytest.raises(BadSignature, match="base64") as caught:
        SOURCE.certificate_url(make_push(JOB, TOPIC_HEADERS | {b"x-mns-signing-cert-url": header}))
    assert caught.value.reason == "signature_malformed"


def test_pinned_certificates_are_the_only_ones():
    source = make_source(pinned_urls=frozenset({"https://certs.example.com/mns.pem"}))
    pinned = make_push(JOB, TOPIC_HEADERS, certificate_url=b"https://certs.example.com/mns.pem")
    assert source.certificate_url(pinned) == "https://certs.example.com/mns.pem"
    with pytest.raises(BadSignature, match="pinned") as caught:
        source.certificate_url(SIMPLIFIED)
    assert caught.value.reason == "certificate_url"


def test_hosts_of_regions_are_listed_by_name():
    assert certificate_hosts(["cn-hangzhou", "cn-beijing"]) == {
        ALLOWED,
        "mns-cert.oss-cn-hangzhou.aliyuncs.com",
        "mns-cert.oss-cn-beijing.aliyuncs.com",
    }


def test_the_host_of_a_certificate_url_is_what_is_fetched():
    assert parse_certificate_url("http://a.example/b") == ("a.example", "https://a.example/b")


# For all inputs

HEADER_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(str.encode)
BODIES = st.one_of(
    st.binary(),
    st.sampled_from([JOB, xml(), json_envelope(), xml(owner="6" * 16), b"<", b"{", b'{"TopicOwner":1,"TopicName":2}']),
    st.tuples(st.sampled_from([xml(), json_envelope()]), st.integers(0, 500), st.binary(max_size=3)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary().filter(lambda body: body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] not in (b"<", b"{")),
    extra=st.dictionaries(
        st.from_regex(r"x-mns-[a-z0-9-]{1,12}", fullmatch=True)
        .filter(lambda name: name != "x-mns-date" and name.encode() not in TOPIC_HEADERS)
        .map(str.encode),
        HEADER_TEXT,
        max_size=4,
    ),
    content_type=HEADER_TEXT,
    target=st.from_regex(rb"/[!-~]{0,40}", fullmatch=True),
)
def test_whatever_is_signed_verifies(body, extra, content_type, target):
    extra.pop(b"x-mns-signing-cert-url", None)
    # "/?" and "/" are the same request line to a server that hands over path and query.
    assume(not target.endswith(b"?") or target.count(b"?") > 1)
    push = make_push(body, TOPIC_HEADERS | extra | {b"content-type": content_type}, target=target)
    assert verify(push).payload == body


GENUINE = [SIMPLIFIED, make_push(xml(), target=PATH + b"?a=1"), make_push(json_envelope(), TOPIC_HEADERS)]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_one_byte_flipped_in_any_signed_part_is_refused(data):
    push = data.draw(st.sampled_from(GENUINE), label="push")
    signed = [index for index, (name, _) in enumerate(push.headers) if name != b"host"]
    part = data.draw(st.sampled_from(["body", "raw_path", "query", "name", *signed]), label="part")
    index = data.draw(st.sampled_from(signed), label="header") if part == "name" else part
    original = (
        getattr(push, part)
        if part in ("body", "raw_path", "query")
        else push.headers[index][0 if part == "name" else 1]
    )
    assume(original)
    at = data.draw(st.integers(0, len(original) - 1), label="at")
    flipped = bytearray(original)
    flipped[at] ^= data.draw(st.integers(1, 255), label="by")
    # A header is the same in the other case.
    assume(part != "name" or flipped.lower() != original)
    headers, parts = list(push.headers), {"body": push.body, "raw_path": push.raw_path, "query": push.query}
    if isinstance(index, int):
        name, value = headers[index]
        headers[index] = (bytes(flipped), value) if part == "name" else (name, bytes(flipped))
    else:
        parts[part] = bytes(flipped)
    with pytest.raises((BadSignature, MalformedCallback)):
        verify(Callback("POST", headers=headers, **parts))


NAMES = st.one_of(
    st.sampled_from([name for name, _ in GENUINE[2].headers] + [b"x-mns-date", b"X-Mns-Version"]),
    st.binary(max_size=12),
    st.binary(max_size=6).map(lambda name: b"x-mns-" + name),
)
VALUES = st.one_of(st.sampled_from([value for _, value in GENUINE[2].headers]), st.binary(max_size=40))


@settings(max_examples=300, deadline=None)
@given(
    method=st.one_of(st.just("POST"), st.text()),
    raw_path=st.one_of(st.just(PATH), st.binary()),
    query=st.binary(),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=14),
    keep=st.booleans(),
    body=BODIES,
)
def test_any_request_is_a_message_or_rejected(*, method, raw_path, query, headers, keep, body):
    names = {name for name, _ in headers}
    if keep:
        genuine = [(name, value) for name, value in GENUINE[2].headers if name not in names]
        digest = (b"content-md5", content_md5(body).encode())
        headers = [*headers, *(header if header[0] != digest[0] else digest for header in genuine)]
    push = Callback(method, raw_path, query, headers, body)
    with suppress(Rejected):
        assert SOURCE.certificate_url(push).startswith("https://")
    with suppress(Rejected):
        assert SOURCE.verify(push, now=NOW, public_key=private_key().public_key()).body == body


@settings(max_examples=300, deadline=None)
@given(
    body=BODIES,
    changes=st.dictionaries(
        st.sampled_from([*TOPIC_HEADERS, b"date", b"x-mns-date", b"content-type"]),
        st.one_of(st.none(), HEADER_TEXT, st.binary(max_size=20), st.sampled_from([http_date(NOW), OWNER.encode()])),
    ),
    has_topic=st.booleans(),
)
def test_anything_that_is_rightly_signed_is_a_message_or_rejected_and_parsed_or_unparseable(body, changes, has_topic):
    push = make_push(body, (TOPIC_HEADERS if has_topic else {}) | changes)
    try:
        message = verify(push)
    except Rejected:
        return
    assert message.body == body
    assert message.meta["topic"] in SOURCE.topics
    try:
        SOURCE.parse(message)
    except Unparseable:
        assert message.payload == b""
