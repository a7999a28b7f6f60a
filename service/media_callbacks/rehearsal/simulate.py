"""
The vendor, played: requests as Alibaba Cloud sends them, with real signatures.

One simulator for the tests, the demo, the benchmark and the command ``media-callbacks simulate``. What it says is in
``payloads``; signatures are made by the same scheme that the sources verify, which the vendor's published
vectors check.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from media_callbacks.config.values import REHEARSAL_NAME
from media_callbacks.rehearsal import payloads
from media_callbacks.sources.transports import http, mns_push
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import KNOWN_CERTIFICATE_URL, MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource

Json = payloads.Json
PAYLOADS = payloads.PAYLOADS

PushFormat = Literal["XML", "JSON", "SIMPLIFIED"]


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """
    A request as the vendor sends it.

    Attributes:
        target: Path and query, to be put after the address of whoever listens.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


# Payloads


def set_field(payload: Json, path: str, value: Any) -> None:
    """
    Overwrite one field, ``SnapshotInfos.0.Status`` for example; objects on the way are made when missing.

    A string of JSON on the way is opened and closed again. A field that is there with a blank at the end of its name,
    or in MTS's two spellings (``state``, ``State``), is overwritten as it is there.

    Raises:
        ValueError: The path leads through something that is neither object nor list.
    """
    payload.update(_with_field(payload, path.split("."), value, path))


def has_field(payload: Json, path: str) -> bool:
    """Whether ``set_field`` would overwrite something."""
    node: Any = payload
    for part in path.split("."):
        if isinstance(node, str):
            try:
                node = json.loads(node)
            except ValueError:
                return False
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and (name := _names(node, part)[0]) in node:
            node = node[name]
        else:
            return False
    return True


def _with_field(node: Any, parts: list[str], value: Any, path: str) -> Any:
    part, *rest = parts
    if isinstance(node, str):
        try:
            opened = json.loads(node)
        except ValueError:
            opened = None
        if isinstance(opened, dict | list):
            return json.dumps(_with_field(opened, parts, value, path), ensure_ascii=False)
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        index = int(part)
        return [*node[:index], _with_field(node[index], rest, value, path) if rest else value, *node[index + 1 :]]
    if isinstance(node, dict):
        return node | {
            name: _with_field(node.get(name, {}), rest, value, path) if rest else value for name in _names(node, part)
        }
    raise ValueError(f"{path}: there is no object that could hold {part}")


def _names(node: Json, name: str) -> list[str]:
    """The names under which the object has this member."""
    twin = name[:1].swapcase() + name[1:]
    names = [key for key in node if key.strip() == name]
    return [*names, twin] if names and twin in node else names or [name]


# Requests


def http_request(source: HttpSource, payload: Json | bytes, *, now: datetime) -> SimulatedRequest:
    """As VOD or IMS would POST it to the first registered URL, signed with the first key."""
    prefix = "X-VOD" if source.product == "vod" else "X-ICE"
    timestamp = str(int(now.timestamp()))
    headers = {"Content-Type": "application/json"}
    if source.keys:
        headers[f"{prefix}-TIMESTAMP"] = timestamp
        headers[f"{prefix}-SIGNATURE"] = http.sign(source.urls[0], timestamp, source.keys[0])
    return SimulatedRequest("POST", source.path, headers, _encode(payload))


def token_url_request(source: TokenUrlSource, token: str, payload: Json | bytes) -> SimulatedRequest:
    """As CreateGifTask might POST it to a minted URL."""
    headers = {"Content-Type": "application/json"}
    return SimulatedRequest("POST", f"{source.path}/{token}", headers, _encode(payload))


@dataclass(frozen=True)
class MnsSigner:
    """
    MNS's half of the push signature.

    Attributes:
        certificate_url: Where receivers are told to find the certificate; their configuration pins it.
    """

    private_key: RSAPrivateKey
    certificate_url: str = KNOWN_CERTIFICATE_URL

    def push(
        self,
        source: MnsPushSource,
        payload: Json | bytes,
        *,
        now: datetime,
        push_format: PushFormat = "SIMPLIFIED",
        message_id: str | None = None,
    ) -> SimulatedRequest:
        """A topic push of the source's first topic, in one of the three notification formats."""
        message = _encode(payload)
        owner, _, topic = min(source.topics).partition("/")
        message_id = message_id or hashlib.sha256(message).hexdigest()[:32].upper()
        published_ms = str(int(now.timestamp() * 1000))
        body, content_type = message, "text/plain;charset=utf-8"
        headers = {
            "x-mns-request-id": hashlib.sha256(message + published_ms.encode()).hexdigest()[:24].upper(),
            "x-mns-signing-cert-url": base64.b64encode(self.certificate_url.encode()).decode(),
            "x-mns-version": "2015-06-06",
        }
        if push_format == "SIMPLIFIED":
            headers |= {
                "x-mns-message-id": message_id,
                "x-mns-publish-time": published_ms,
                "x-mns-subscriber": owner,
                "x-mns-subscription-name": "media-callbacks",
                "x-mns-topic-name": topic,
                "x-mns-topic-owner": owner,
            }
        else:
            envelope = {
                "TopicOwner": owner,
                "TopicName": topic,
                "Subscriber": owner,
                "SubscriptionName": "media-callbacks",
                "MessageId": message_id,
                "MessageMD5": hashlib.md5(message, usedforsecurity=False).hexdigest().upper(),
                "Message": message.decode(),
                "PublishTime": published_ms,
            }
            if push_format == "JSON":
                body = _encode(envelope)
            else:
                body, content_type = _xml(envelope), "text/xml;charset=utf-8"
        digest = hashlib.md5(body, usedforsecurity=False).hexdigest().upper()
        headers |= {
            "Content-MD5": digest,
            "Content-Type": content_type,
            "Date": format_datetime(now.astimezone(UTC), usegmt=True),
        }
        target = source.signed_target or source.path.encode()
        signed = mns_push.string_to_sign(
            "POST", target, [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        )
        headers["Authorization"] = mns_push.sign(signed, self.private_key)
        return SimulatedRequest("POST", source.path, headers, body)


def _encode(payload: Json | bytes) -> bytes:
    return payload if isinstance(payload, bytes) else json.dumps(payload, ensure_ascii=False).encode()


def _xml(envelope: Mapping[str, str]) -> bytes:
    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in envelope.items())
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">{elements}</Notification>'
    ).encode()


def make_mns_key(*, now: datetime, name: str = REHEARSAL_NAME) -> tuple[RSAPrivateKey, str]:
    """
    A signing key and its self-signed certificate, as PEM text. The certificate has expired, as the vendor's has: a
    receiver that looks at its dates would refuse every real push.

    Args:
        name: Whose it says that it is: by the usual one `check` knows a rehearsal.
    """
    key = generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Aliyun"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=730))
        .not_valid_after(now - timedelta(days=365))
        .sign(key, SHA256())
    )
    return key, certificate.public_bytes(Encoding.PEM).decode()


# Faults


def forge(request: SimulatedRequest) -> SimulatedRequest:
    """The same request from somebody who has no key."""
    headers = dict(request.headers)
    for name in headers:
        if name.endswith("-SIGNATURE"):
            headers[name] = hashlib.md5(b"forged", usedforsecurity=False).hexdigest()
        elif name == "Authorization":
            headers[name] = base64.b64encode(hashlib.sha256(b"forged").digest() * 8).decode()
    if headers == dict(request.headers):
        path, _, token = request.target.rpartition("/")
        altered = token[:-8] + ("AAAAAAAA" if token[-8:] != "AAAAAAAA" else "BBBBBBBA")
        return replace(request, target=f"{path}/{altered}")
    return replace(request, headers=headers)
