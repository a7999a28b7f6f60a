"""The MNS envelope: what is one, what is in it, and that no bytes at all cause anything but Unparseable."""

import hashlib
import json
from datetime import UTC, datetime
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import Unparseable
from media_callbacks.sources.transports.mns import MAX_ENVELOPE_BYTES, open_envelope, parse_publish_time, read_payload

MESSAGE = '{"jobId":"J1","state":"Success","userData":"<a> & \\"b\\""}'
PUBLISHED_AT = datetime(2017, 6, 14, 9, 31, 5, 250_000, UTC)
PUBLISH_TIME = "1497432665250"


def md5(message: str) -> str:
    return hashlib.md5(message.encode()).hexdigest().upper()


def xml(
    message: str = escape(MESSAGE, {'"': "&quot;"}),
    *,
    digest: str | None = md5(MESSAGE),
    prolog: str = '<?xml version="1.0" encoding="utf-8"?>\n',
    more: str = "",
) -> bytes:
    """The order of elements is that of two pushes captured in 2017."""
    digest_element = "" if digest is None else f"<MessageMD5>{digest}</MessageMD5>"
    return (
        f'{prolog}<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">'
        "<TopicOwner>1234567890123456</TopicOwner>\n  <TopicName>mts-done</TopicName>"
        "<Subscriber>1234567890123456</Subscriber><SubscriptionName>sub</SubscriptionName>"
        f"<MessageId>6CC4D900CA59A2CD-1-15180534A8F-20000</MessageId>{digest_element}"
        f"<Message>{message}</Message><PublishTime>{PUBLISH_TIME}</PublishTime>{more}"
        "<SigningCertURL>https://mnstest.oss-cn-hangzhou.aliyuncs.com/x509_public_certificate.pem</SigningCertURL>"
        "</Notification>"
    ).encode()


def json_envelope(**changes: object) -> bytes:
    """The keys of a push that a receiver logged in 2020."""
    values = {
        "TopicOwner": "1234567890123456",
        "Message": MESSAGE,
        "Subscriber": "1234567890123456",
        "PublishTime": PUBLISH_TIME,
        "SubscriptionName": "sub",
        "MessageMD5": md5(MESSAGE),
        "TopicName": "mts-done",
        "MessageId": "21680D1B7EFC7FF44A2F94647B954153",
    } | changes
    return json.dumps({name: value for name, value in values.items() if value is not None}).encode()


def test_xml_envelope():
    envelope = open_envelope(xml())
    assert envelope is not None
    assert envelope.format == "xml"
    assert envelope.topic == "1234567890123456/mts-done"
    assert envelope.message_id == "6CC4D900CA59A2CD-1-15180534A8F-20000"
    assert envelope.published_at == PUBLISHED_AT
    assert envelope.open_message() == MESSAGE.encode()


def test_json_envelope():
    envelope = open_envelope(json_envelope())
    assert envelope is not None
    assert envelope.format == "json"
    assert envelope.topic == "1234567890123456/mts-done"
    assert envelope.message_id == "21680D1B7EFC7FF44A2F94647B954153"
    assert envelope.published_at == PUBLISHED_AT
    assert envelope.open_message() == MESSAGE.encode()


@pytest.mark.parametrize(
    "body",
    [
        json_envelope(PublishTime=int(PUBLISH_TIME)),
        json_envelope(PublishTime=None, MessagePublishTime=PUBLISH_TIME),
        json_envelope(TopicOwner=1234567890123456),
        json_envelope(MessageMD5=md5(MESSAGE).lower()),
        json_envelope(MessageMD5=None),
        b"\xef\xbb\xbf \r\n" + json_envelope(),
        xml(digest=md5(MESSAGE).lower()),
        xml(digest=None),
        xml(message=f"<![CDATA[{MESSAGE}]]>"),
        xml(message=escape(MESSAGE) + "<Later>no</Later>"),
        xml(prolog=""),
        xml(prolog='\ufeff \n<?xml version="1.0"?><!-- a comment -->'),
        # The text is UTF-8 whatever is declared.
        xml(prolog='<?xml version="1.0" encoding="gb2312"?>'),
        xml(more="<Later><TopicOwner>1</TopicOwner><Message>no</Message></Later>"),
        xml().replace(b"PublishTime>", b"MessagePublishTime>"),
        xml().replace(b' xmlns="http://mns.aliyuncs.com/doc/v1/"', b' xlmns="wrong"'),
        xml().replace(b"<", b"<m:").replace(b"<m:/", b"</m:").replace(b"<m:?", b"<?").replace(b"xmlns=", b"xmlns:m="),
    ],
)
def test_every_spelling_gives_the_same_message(body):
    envelope = open_envelope(body)
    assert envelope is not None
    assert envelope.topic == "1234567890123456/mts-done"
    assert envelope.published_at == PUBLISHED_AT
    assert envelope.open_message() == read_payload(body) == MESSAGE.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b'{"jobId":"J1","state":"Success"}',
        b'{"jobId":"TopicOwner"}',
        b'{"TopicOwner":"1","Message":"no name"}',
        b'{"TopicName":"mts-done","Message":"no owner"}',
        b"eyJqb2JJZCI6IkoxIn0=",
        b"plain text",
        b"\xff\xfe<\x00",
        b"<html><body>&nbsp;</body></html>",
        b"<Notifications><TopicOwner>1</TopicOwner></Notifications>",
        json_envelope().join([b"[", b"]"]),
    ],
)
def test_what_is_no_envelope_is_its_own_payload(body):
    assert open_envelope(body) is None
    assert read_payload(body) == body


def twins(**members: object) -> bytes:
    """The envelope with further members behind its own."""
    more = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in members.items())
    return json_envelope()[:-1] + more.encode() + b"}"


LAUGHS = '<!DOCTYPE n [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    "body, words",
    [
        (xml(prolog="<!DOCTYPE Notification>"), "DOCTYPE"),
        (xml(prolog=LAUGHS, message="&c;"), "DOCTYPE"),
        (xml(prolog='<!DOCTYPE n [<!ENTITY x SYSTEM "file:///etc/passwd">]>', message="&x;"), "DOCTYPE"),
        (xml(prolog='<!DOCTYPE n SYSTEM "http://127.0.0.1/x.dtd">'), "DOCTYPE"),
        (xml(message="&undefined;"), "well-formed"),
        (xml()[:-1], "well-formed"),
        (xml() + xml(), "well-formed"),
        (xml() + b"x", "well-formed"),
        (xml().replace(b"</Message>", b"</message>"), "well-formed"),
        (xml(message="\x00"), "well-formed"),
        (xml().replace(b"J1", b"\xff"), "well-formed"),
        (b"<", "well-formed"),
        (xml(more="<a>" * 10 + "</a>" * 10), "levels"),
        (xml(more="<Message>other</Message>"), "Message once"),
        (xml(more="<TopicOwner>1</TopicOwner>"), "TopicOwner once"),
        (xml().replace(b"TopicOwner>", b"Owner>"), "TopicOwner and TopicName"),
        (xml().replace(b"mts-done", b" "), "TopicOwner and TopicName"),
        (xml(message="x" * MAX_ENVELOPE_BYTES), "at most"),
        (json_envelope(Message="x" * MAX_ENVELOPE_BYTES), "at most"),
        (json_envelope()[:-1], "JSON"),
        (json_envelope().replace(b"J1", b"\xff"), "UTF-8"),
        (b'{"TopicOwner":' + b"[" * 100_000, "nested"),
        (twins(TopicOwner="999"), "TopicOwner once"),
        (twins(topicowner="999"), "TopicOwner once"),
        (twins(TOPICNAME="other"), "TopicName once"),
        (twins(**{" TopicName ": "other"}), "TopicName once"),
        (twins(X="other").replace(b'"X"', b'"\\u0054opicName"'), "TopicName once"),
        (twins(message="other"), "Message once"),
        (twins(Message=MESSAGE), "Message once"),
        (twins(messageMD5=None), "MessageMD5 once"),
        (twins(messageId=""), "MessageId once"),
        (twins(publishtime=1), "PublishTime once"),
    ],
)
def test_broken_envelopes_cannot_be_opened(body, words):
    with pytest.raises(Unparseable, match=words):
        open_envelope(body)


def test_what_is_no_part_of_an_envelope_may_come_twice():
    more = twins(Subscriber="a", subscriber="b", Further={"Message": 1, "message": 2}, Number="many digits")
    more = more.replace(b'"many digits"', b"1" * 5000)
    assert open_envelope(more) == open_envelope(json_envelope())


def test_seven_levels_inside_the_envelope_are_fine():
    assert open_envelope(xml(more="<a>" * 7 + "</a>" * 7)) is not None


@pytest.mark.parametrize(
    "body",
    [
        json_envelope(MessageMD5=md5(MESSAGE + " ")),
        json_envelope(MessageMD5="nonsense"),
        json_envelope(Message=MESSAGE + " "),
        json_envelope(Message=None),
        xml(digest=md5("other")),
        xml(message=escape(MESSAGE) + "<b/> "),
        xml().replace(b"Message>", b"Massage>"),
    ],
)
def test_a_message_that_is_not_what_was_published_is_not_used(body):
    envelope = open_envelope(body)
    assert envelope is not None
    assert envelope.topic == "1234567890123456/mts-done"
    with pytest.raises(Unparseable, match="Message"):
        envelope.open_message()
    with pytest.raises(Unparseable, match="Message"):
        read_payload(body)


@pytest.mark.parametrize("text", [None, "", "x", "-1", "1.5", "9" * 15, "\u0661", "1497432665250\n"])
def test_publish_time_that_is_none(text):
    assert parse_publish_time(text) is None


def test_publish_time_bounds():
    assert parse_publish_time("0") == datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_publish_time("9" * 14) is not None


# XML can't hold control characters, and turns every line end into a line feed.
XML_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))


@settings(max_examples=100, deadline=None)
@given(XML_TEXT)
def test_any_message_comes_out_of_xml_as_it_went_in(message):
    assert read_payload(xml(escape(message), digest=md5(message))) == message.encode()


# No product's message holds a NUL: neither JSON nor base64 does.
@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_message_comes_out_of_json_as_it_went_in(message):
    assert read_payload(json_envelope(Message=message, MessageMD5=md5(message))) == message.encode()


PIECES = [
    b"<Notification>",
    b"</Notification>",
    b"<TopicOwner>1</TopicOwner>",
    b"<TopicName>t</TopicName>",
    b"<Message>",
    b"</Message>",
    b"<!DOCTYPE a>",
    b"<![CDATA[",
    b"]]>",
    b"&#x0;",
    b"&#55296;",
    b"&amp;",
    b'{"TopicOwner":',
    b'"TopicName":',
    b'"Message":',
    b'"MessageMD5":',
    b'"PublishTime":',
    b'"\\ud800"',
    b'"1"',
    b"1e999",
    b",",
    b"}",
    b"\xff",
]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(),
        st.lists(st.sampled_from(PIECES)).map(b"".join),
        st.tuples(st.sampled_from([xml(), json_envelope()]), st.integers(0, 700), st.binary(max_size=4)).map(
            lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
        ),
    )
)
def test_any_bytes_give_a_payload_or_unparseable(body):
    try:
        payload = read_payload(body)
    except Unparseable:
        return
    assert isinstance(payload, bytes)
