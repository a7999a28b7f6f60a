"""
The ``mns-push`` transport: POST requests that an MNS topic sends to a subscribed URL.

    text      = POST \\n Content-MD5 \\n Content-Type \\n Date \\n
                every x-mns-* header, sorted, as name:value \\n
                path and query as registered                                    no line break at the end
    signature = base64(RSASSA-PKCS1-v1_5 with SHA-1 (text))                     header Authorization, no scheme word

The body is signed through ``Content-MD5`` alone, so it is compared with the body always. A good signature says that
MNS sent the request, not that our topic did: any customer can subscribe our URL to a topic of theirs. So the topic
must be on a list. And the caller names the certificate, so its URL must be one that only the vendor can fill.

Neither chain nor dates of the certificate are looked at: the one seen in real pushes is signed by itself, has 512
bits and expired in 2016. Trust rests on TLS to the host that it comes from.

Source: "Endpoint signature", https://www.alibabacloud.com/help/doc-detail/27488.htm; freshness and the newer
certificate hosts: https://help.aliyun.com/en/mns/developer-reference/topic-message-http-subscription-signature; the
headers that name the topic are in no document, but in pushes captured in 2023 and 2024.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1

from media_callbacks.model.errors import BadSignature, CannotVerify, MalformedCallback, StaleTimestamp, Unparseable
from media_callbacks.model.kinds import Product, Transport
from media_callbacks.sources.base import Callback, Message, Parsed, Parser
from media_callbacks.sources.transports.mns import open_envelope, parse_publish_time, read_payload

KNOWN_CERTIFICATE_URL = "https://mnstest.oss-cn-hangzhou.aliyuncs.com/x509_public_certificate.pem"
"""The only one seen in traffic (2015 to 2023): worth fetching before the first push comes."""

# Our clock may be a little behind the sender's.
MAX_AHEAD_S = 120
_MAX_CERTIFICATE_URL_LENGTH = 512

SIGNED_HEADERS = frozenset({b"authorization", b"content-md5", b"content-type", b"date"})
REQUIRED_HEADERS = (b"authorization", b"content-md5", b"x-mns-signing-cert-url")
# Anything else could be read in two ways: a line break in a value would look like two headers.
HEADER_TEXT = re.compile(rb"[ -~]*")
_HEADER_NAME = re.compile(rb"x-mns-[!#$%&'*+.^_`|~0-9a-z-]+")
_MESSAGE_ID = re.compile(r"[ -~]{1,256}")
_TARGET = re.compile(rb"/[!-~]*")
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DATE = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) (" + b"|".join(_MONTHS) + rb") ([0-9]{4})"
    rb" ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
# One path segment that is not a dot segment: other code must not come to another host or object with it.
_CERTIFICATE_URL = re.compile(r"(?:http://([a-z0-9.-]+)|https://([a-z0-9.-]+)(?::443)?)(/(?!\.{1,2}\Z)[A-Za-z0-9._-]+)")


def certificate_hosts(regions: Iterable[str]) -> frozenset[str]:
    """
    The hosts that the vendor keeps certificates on.

    Args:
        regions: As in ``cn-hangzhou``. Each is listed by name: whoever owns the bucket of that name in a region where
            the vendor has none decides what is in it.
    """
    return frozenset({"mnstest.oss-cn-hangzhou.aliyuncs.com"}) | {
        f"mns-cert.oss-{region}.aliyuncs.com" for region in regions
    }


def parse_certificate_url(text: str) -> tuple[str, str] | None:
    """
    Host and canonical https form of a certificate URL; None when it has not the shape of one.

    An ``http`` URL, as in the documents of 2016, gives the same object over https.
    """
    match = _CERTIFICATE_URL.fullmatch(text)
    if match is None or len(text) > _MAX_CERTIFICATE_URL_LENGTH:
        return None
    host = match[1] or match[2]
    return host, f"https://{host}{match[3]}"


def parse_signed_target(url: str) -> bytes:
    """Path and query of a registered URL; MNS sends to /notifications where there is no path."""
    parts = urlsplit(url)
    return ((parts.path or "/notifications") + (f"?{parts.query}" if parts.query else "")).encode()


def string_to_sign(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """
    Build the bytes that the sender signed.

    Args:
        target: Path and query as on the request line that the sender wrote.
        headers: Names in any case and order, each at most once; those that are not signed are left out.

    Returns:
        Lines joined by a line feed, none at the end; values as received.
    """
    values = {name.lower(): value for name, value in headers}
    names = sorted(name for name in values if name.startswith(b"x-mns-"))
    return b"\n".join(
        (
            method.encode("utf-8", "replace"),
            values.get(b"content-md5", b""),
            values.get(b"content-type", b""),
            values.get(b"date", values.get(b"x-mns-date", b"")),
            *(name + b":" + values[name] for name in names),
            target,
        )
    )


def sign(text: bytes, private_key: RSAPrivateKey) -> str:
    """The value of Authorization."""
    return base64.b64encode(private_key.sign(text, PKCS1v15(), SHA1())).decode("ascii")  # noqa: S303 - the vendor's


def verify_signature(signature: bytes, text: bytes, public_key: RSAPublicKey) -> None:
    """
    Raises:
        BadSignature: It is not that of the text.
        CannotVerify: This machine can't tell.
    """
    try:
        public_key.verify(signature, text, PKCS1v15(), SHA1())  # noqa: S303 - the vendor's choice
    except InvalidSignature as error:
        raise BadSignature(
            "the signature does not fit the request: where a proxy rewrites the path, set url to what is registered"
            " with the subscription",
            reason="signature_mismatch",
        ) from error
    except UnsupportedAlgorithm as error:
        raise CannotVerify(
            "this machine's OpenSSL refuses RSA with SHA-1, which is all that MNS signs with: allow it, or receive"
            " through a queue"
        ) from error


@dataclass(frozen=True, slots=True)
class _Push:
    """What a request says about itself, in the right form and not yet proven."""

    certificate_url: str
    signature: bytes
    signed_text: bytes
    sent_at: datetime
    topic: str | None
    message_id: str | None
    publish_time: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MnsPushSource:
    """
    A source of transport ``mns-push``.

    Attributes:
        topics: ``owner/name`` of the topics that are ours.
        certificate_hosts: Exact names.
        pinned_urls: When certificates are configured, only these certificate URLs are acceptable.
        signed_target: Path and query of the registered URL where a proxy rewrites them; None where the request
            arrives as it was sent.
        max_age_s: How far ``Date`` may lie in the past.
    """

    name: str
    product: Product
    account: str
    path: str
    topics: frozenset[str]
    certificate_hosts: frozenset[str]
    parser: Parser
    pinned_urls: frozenset[str] | None = None
    signed_target: bytes | None = None
    max_age_s: int = 900
    transport: Transport = "mns-push"
    methods: frozenset[str] = frozenset({"POST"})
    success_status: int = 204

    def certificate_url(self, callback: Callback) -> str:
        return self._read(callback).certificate_url

    def verify(self, callback: Callback, *, now: datetime, public_key: RSAPublicKey | None) -> Message:
        push = self._read(callback)
        if public_key is None:
            raise BadSignature("expected the key of the signing certificate, got none", reason="certificate")
        verify_signature(push.signature, push.signed_text, public_key)
        # After the signature, so that a clock that is off shows as just that.
        age_s = (now - push.sent_at).total_seconds()
        if not -MAX_AHEAD_S <= age_s <= self.max_age_s:
            raise StaleTimestamp(
                f"the signature is right but {age_s:.0f} s old, expected between {-MAX_AHEAD_S} and {self.max_age_s}:"
                " check the clock of this machine",
                age_s=age_s,
            )
        return self._open(callback.body, push)

    def parse(self, message: Message) -> Parsed:
        # From the body and not from the payload: a receipt that was kept as unparsed can be parsed again.
        return self.parser(replace(message, payload=read_payload(message.body)))

    def _read(self, callback: Callback) -> _Push:
        """Everything that can be checked without the certificate."""
        headers = _signed_headers(callback)
        digest = headers[b"content-md5"]
        if not _is_md5_of(digest, callback.body):
            raise BadSignature("Content-MD5 is not that of the body", reason="digest_mismatch")
        target = self.signed_target
        if target is None:
            target = callback.raw_path + (b"?" + callback.query if callback.query else b"")
        if not _TARGET.fullmatch(target):
            raise BadSignature("expected a request target of visible ASCII", reason="signature_malformed")
        topic = self.read_topic(headers)
        return _Push(
            self.read_certificate_url(headers[b"x-mns-signing-cert-url"]),
            decode_base64(headers[b"authorization"], "Authorization"),
            string_to_sign(callback.method, target, headers.items()),
            parse_date(headers[b"date"] if b"date" in headers else headers[b"x-mns-date"]),
            topic,
            _optional_text(headers, b"x-mns-message-id"),
            _optional_text(headers, b"x-mns-publish-time"),
        )

    def read_certificate_url(self, header: bytes) -> str:
        text = decode_base64(header, "x-mns-signing-cert-url").decode("ascii", "replace")
        parsed = parse_certificate_url(text)
        if parsed is None:
            raise BadSignature(
                "expected x-mns-signing-cert-url to be an https URL with a path of one segment and nothing else",
                reason="certificate_url",
            )
        host, url = parsed
        if self.pinned_urls is not None:
            if url not in self.pinned_urls:
                raise BadSignature(
                    f"the certificate {url} is not among the {len(self.pinned_urls)} that are pinned: if the vendor has"
                    " changed it, add it to certificates",
                    reason="certificate_url",
                )
        elif host not in self.certificate_hosts:
            raise BadSignature(
                f"certificates come from {', '.join(sorted(self.certificate_hosts))}, not from {host}: if it is the"
                " vendor's, add its region to regions",
                reason="certificate_url",
            )
        return url

    def read_topic(self, headers: dict[bytes, bytes]) -> str | None:
        owner, name = _optional_text(headers, b"x-mns-topic-owner"), _optional_text(headers, b"x-mns-topic-name")
        if owner is None and name is None:
            if b"x-mns-message-id" in headers:
                # Only SIMPLIFIED pushes have it (documented). What looks like an envelope in the body of one was
                # written by the publisher, who can be anybody.
                raise BadSignature(
                    "a SIMPLIFIED push without x-mns-topic-owner and x-mns-topic-name can't be told from that of"
                    " somebody else's topic: use the format XML or JSON",
                    reason="topic_unknown",
                )
            return None
        topic = f"{owner or ''}/{name or ''}"
        self._check_topic(topic)
        return topic

    def _check_topic(self, topic: str) -> None:
        if topic not in self.topics:
            raise BadSignature(
                f"the push is from topic {topic[:200]!a}, which is not in topics ({len(self.topics)} configured): if it"
                " is yours, add it",
                reason="topic_not_allowed",
            )

    def _open(self, body: bytes, push: _Push) -> Message:
        # The headers are MNS's own words even where the envelope is only quoted by the publisher.
        topic, message_id, published_at = push.topic, push.message_id, parse_publish_time(push.publish_time)
        form, payload = "simplified", body
        try:
            envelope = open_envelope(body)
        except Unparseable as error:
            if topic is None:
                raise BadSignature(
                    f"neither headers nor a readable envelope name the topic: {error}", reason="topic_unknown"
                ) from error
            # Ours, and there is nothing to read; parse will say why.
            form, payload = "unreadable", b""
        else:
            if envelope is not None:
                self._check_topic(envelope.topic)
                form, topic = envelope.format, topic or envelope.topic
                message_id = message_id or envelope.message_id
                published_at = published_at or envelope.published_at
                try:
                    payload = envelope.open_message()
                except Unparseable:
                    payload = b""
            elif topic is None:
                raise BadSignature(
                    "neither headers nor an envelope name the topic: use the format XML or JSON, or SIMPLIFIED with"
                    " x-mns-topic-owner and x-mns-topic-name",
                    reason="topic_unknown",
                )
        meta = {"format": form, "topic": topic}
        if message_id and _MESSAGE_ID.fullmatch(message_id):
            meta["message_id"] = message_id
        if published_at:
            meta["published_at"] = published_at.isoformat(timespec="milliseconds")
        return Message(body, payload, "signature", published_at, meta)


def _signed_headers(callback: Callback) -> dict[bytes, bytes]:
    """
    Every header that takes part in the signature, by name in lower case.

    Raises:
        MalformedCallback: One came twice. Which of the two was signed cannot be known.
        BadSignature: One is missing, or could not have been signed as it is.
    """
    headers: dict[bytes, bytes] = {}
    malformed = False
    for raw_name, value in callback.headers:
        name = raw_name.lower()
        is_vendor = name.startswith(b"x-mns-")
        if not is_vendor and name not in SIGNED_HEADERS:
            continue
        if name in headers:
            raise MalformedCallback(
                f"header {name[:100].decode('ascii', 'replace')} came twice, expected once", reason="doubled_header"
            )
        headers[name] = value
        malformed |= not HEADER_TEXT.fullmatch(value) or (is_vendor and not _HEADER_NAME.fullmatch(name))
    if malformed:
        raise BadSignature("expected signed headers of printable ASCII", reason="signature_malformed")
    missing = [name.decode("ascii") for name in REQUIRED_HEADERS if name not in headers]
    if b"date" not in headers and b"x-mns-date" not in headers:
        missing.append("date")
    if missing:
        raise BadSignature(f"expected headers that are missing: {', '.join(missing)}", reason="signature_missing")
    return headers


def _optional_text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("ascii")


def _is_md5_of(value: bytes, body: bytes) -> bool:
    """
    Compare with all four spellings: base64 of the hexadecimal text (documented), upper-case hexadecimal (captured in
    SIMPLIFIED pushes), lower-case hexadecimal and base64 of the raw digest (what two public receivers expect).
    """
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    text = digest.hex().encode("ascii")
    # No early exit, out of habit: the digest is no secret.
    found = hmac.compare_digest(value.lower(), text)
    found |= hmac.compare_digest(value, base64.b64encode(text))
    found |= hmac.compare_digest(value, base64.b64encode(digest))
    return found


def decode_base64(value: bytes, header: str) -> bytes:
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSignature(f"expected {header} in base64", reason="signature_malformed") from error
    # The last character may carry bits that mean nothing; one spelling is enough.
    if not raw or base64.b64encode(raw) != value:
        raise BadSignature(f"expected {header} in canonical base64", reason="signature_malformed")
    return raw


def parse_date(value: bytes) -> datetime:
    match = _DATE.fullmatch(value)
    if match is not None:
        day, month, year, hour, minute, second = match.groups()
        try:
            return datetime(
                int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC
            )
        except ValueError:
            pass  # the thirtieth of February
    raise BadSignature("expected Date in the form Wed, 29 Mar 2023 08:41:27 GMT", reason="signature_malformed")
