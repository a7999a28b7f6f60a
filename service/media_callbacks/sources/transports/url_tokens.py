"""
The token of a minted URL, which is all the proof that a callback of CreateGifTask has:

    token = base64url(body || mac), 67 characters without padding
    body  = version (1) | key id (1) | expires_at (4, UNIX seconds) | nonce (12) | bind (16)
    bind  = first 16 bytes of SHA-256("ApplicationId\\nVideoUrl\\nVideoName")
    mac   = first 16 bytes of HMAC-SHA-256(key, "mmai-callback\\0" || body)
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from media_callbacks.model.errors import ExpiredToken, UnknownToken

TOKEN_LENGTH = 67
TOKEN_VERSION = 1
_BODY = struct.Struct(">BBI12s16s")
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class UrlToken:
    key_id: int
    expires_at: int
    nonce: bytes
    bind: bytes


def bind_task(application_id: str, video_url: str, video_name: str) -> bytes:
    """Sixteen bytes that tie a token to its task. ``video_name`` is as submitted, a nonce suffix included."""
    return hashlib.sha256(f"{application_id}\n{video_url}\n{video_name}".encode()).digest()[:16]


def mint_token(token: UrlToken, key: bytes) -> str:
    """
    The token's text: 67 characters of the URL-safe base64 alphabet.

    Raises:
        ValueError: A part does not have its size.
    """
    # struct would cut or pad these two without a word.
    if len(token.nonce) != 12 or len(token.bind) != 16:
        raise ValueError(f"expected 12 bytes of nonce and 16 of bind, got {len(token.nonce)} and {len(token.bind)}")
    if not (0 <= token.key_id <= 255 and 0 <= token.expires_at < 2**32):
        raise ValueError("expected a key id of one byte and an expiry that fits in four")
    body = _BODY.pack(TOKEN_VERSION, token.key_id, token.expires_at, token.nonce, token.bind)
    return base64.urlsafe_b64encode(body + _mac(body, key)).decode("ascii").rstrip("=")


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"mmai-callback\0" + body, "sha256")[:_MAC_BYTES]


@dataclass(frozen=True, slots=True)
class UncheckedToken:
    """What a token says, true or not."""

    version: int
    token: UrlToken
    body: bytes
    mac: bytes

    def is_made_with(self, key: bytes) -> bool:
        return hmac.compare_digest(_mac(self.body, key), self.mac)


def decode_token(text: bytes) -> UncheckedToken:
    """
    Take a token apart.

    Raises:
        UnknownToken: It has not the shape of one.
    """
    if len(text) != TOKEN_LENGTH:
        raise UnknownToken(f"expected a token of {TOKEN_LENGTH} characters, found {len(text)}")
    try:
        raw = base64.b64decode(text + b"=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnknownToken("expected the base64url alphabet") from error
    # The last character carries two bits that mean nothing; only the canonical spelling is ours.
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != text:
        raise UnknownToken("expected canonical base64url")
    body, mac = raw[: _BODY.size], raw[_BODY.size :]
    version, key_id, expires_at, nonce, bind = _BODY.unpack(body)
    return UncheckedToken(version, UrlToken(key_id, expires_at, nonce, bind), body, mac)


def read_token(text: bytes, keys: Mapping[int, bytes], *, now: datetime) -> UrlToken:
    """
    Check a token.

    Raises:
        UnknownToken: It is not one of ours.
        ExpiredToken: It was.
    """
    found = decode_token(text)
    token = found.token
    if found.version != TOKEN_VERSION:
        raise UnknownToken(f"expected token version {TOKEN_VERSION}, found {found.version}")
    key = keys.get(token.key_id)
    if key is None:
        raise UnknownToken(f"no key with id {token.key_id} is configured")
    if not found.is_made_with(key):
        raise UnknownToken("the token was not made with the configured key")
    if token.expires_at < now.timestamp():
        age_s = now.timestamp() - token.expires_at
        raise ExpiredToken(f"the token is genuine and expired {age_s:.0f} s ago", age_s=age_s)
    return token
