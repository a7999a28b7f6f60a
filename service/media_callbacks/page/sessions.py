"""
Who is signed in: by a cookie that says so itself, authenticated by a key made of the token that was given. So it holds
on every instance and is remembered by none, ends by itself, and ends when that token is taken out of the configuration.
"""

import base64
import binascii
import hmac
import re
import struct
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from secrets import token_bytes

COOKIE = "media_callbacks"
LASTS = timedelta(hours=12)
MAX_NAME_CHARACTERS = 100
_NONCE_BYTES = 16
_MAC_BYTES = 32
_FIXED = struct.Struct(f">Q{_NONCE_BYTES}s")
_MAX_COOKIE_CHARACTERS = 1024


class Sessions:
    """
    Args:
        tokens: ``admin.token``.
        clock: The time in UTC.
    """

    def __init__(self, tokens: Sequence[str], clock: Callable[[], datetime]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)
        self._clock = clock

    @property
    def is_needed(self) -> bool:
        return bool(self._tokens)

    def is_token(self, text: str) -> bool:
        return self._find(text) is not None

    def begin(self, token: str, name: str) -> str | None:
        """The cookie of who has given this token; None where it is none."""
        found = self._find(token)
        if found is None:
            return None
        ends_at = int((self._clock() + LASTS).timestamp())
        content = _FIXED.pack(ends_at, token_bytes(_NONCE_BYTES)) + name.encode()
        return base64.urlsafe_b64encode(_authenticate(found, content) + content).decode()

    def read(self, cookies: Sequence[str]) -> str | None:
        """
        The name of who is signed in.

        Args:
            cookies: Headers ``Cookie`` of a request. More than one of our name is none: somebody has added his own.
        """
        values = [
            value
            for header in cookies
            for name, _, value in [each.strip().partition("=") for each in header.split(";")]
            if name == COOKIE
        ]
        if len(values) != 1 or len(values[0]) > _MAX_COOKIE_CHARACTERS:
            return None
        try:
            raw = base64.b64decode(values[0].encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        given, content = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        # With all of them, whichever it is.
        matches = [hmac.compare_digest(given, _authenticate(token, content)) for token in self._tokens]
        if not any(matches):
            return None
        ends_at, _ = _FIXED.unpack_from(content)
        left_s = ends_at - self._clock().timestamp()
        return content[_FIXED.size :].decode() if 0 < left_s <= LASTS.total_seconds() + 1 else None

    def _find(self, text: str) -> bytes | None:
        given = text.encode("utf-8", "replace")
        found = [token for token in self._tokens if hmac.compare_digest(token, given)]
        return found[0] if found else None


def is_name(text: str) -> bool:
    """Whether somebody may be called so."""
    return bool(re.fullmatch(rf"[^\x00-\x1f\x7f]{{1,{MAX_NAME_CHARACTERS}}}", text)) and text.isprintable()


def set_cookie(value: str, *, is_secure: bool) -> str:
    """The header; an empty value takes the cookie away."""
    lasts_s = int(LASTS.total_seconds()) if value else 0
    secure = "; Secure" if is_secure else ""
    return f"{COOKIE}={value}; Path=/ui; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}"


def _authenticate(token: bytes, content: bytes) -> bytes:
    key = hmac.digest(token, b"media-callbacks: a session of the page", "sha256")
    return hmac.digest(key, content, "sha256")
