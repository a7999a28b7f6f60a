"""
The ``http`` transport: POST requests that VOD and IMS sign with an MD5 over the registered URL.

    signature = md5(<callback URL as registered>|<timestamp>|<key>)      lower-case hex

The body is not signed, so one captured pair of headers vouches for any body while it is fresh. And what is signed is
the URL that was registered, byte for byte, which a service behind a load balancer can't rebuild from the request: it
is configured.

Source: "HTTP callback authentication", https://help.aliyun.com/en/vod/user-guide/http-callbacks, and "Callback
authentication", https://help.aliyun.com/zh/ims/user-guide/callback-authentication (whose printed example is wrong).
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from media_callbacks.model.errors import BadSignature, StaleTimestamp
from media_callbacks.model.kinds import Product, Transport
from media_callbacks.sources.base import Callback, Message, Parsed, Parser

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

HEADER_PREFIXES: dict[Product, bytes] = {"vod": b"x-vod-", "ims": b"x-ice-"}
TIMESTAMP = re.compile(rb"[0-9]{1,12}")
SIGNATURE = re.compile(rb"[0-9a-fA-F]{32}")


def sign(url: str, timestamp: str, key: str) -> str:
    """The signature that the vendor sends, 32 lower-case hexadecimal digits."""
    return hashlib.md5(f"{url}|{timestamp}|{key}".encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """
    A source of transport ``http``.

    Attributes:
        urls: As registered with the vendor. Any of them with any of the keys verifies.
        keys: Empty only where the operator said that unsigned requests are to be accepted.
        max_age_s: How far the timestamp may be from now, in both directions.
    """

    name: str
    product: Literal["vod", "ims"]
    account: str
    path: str
    urls: tuple[str, ...]
    keys: tuple[str, ...]
    max_age_s: int
    parser: Parser
    transport: Transport = "http"
    methods: frozenset[str] = frozenset({"POST"})
    success_status: int = 200

    def certificate_url(self, callback: Callback) -> None:
        return None

    def verify(self, callback: Callback, *, now: datetime, public_key: "RSAPublicKey | None") -> Message:
        prefix = HEADER_PREFIXES[self.product]
        timestamp, signature = callback.header(prefix + b"timestamp"), callback.header(prefix + b"signature")
        if not self.keys:
            return Message(callback.body, callback.body, "none")
        if timestamp is None or signature is None:
            problem = f"expected headers {_names(prefix)}, at least one is missing"
            raise BadSignature(problem, reason="signature_missing")
        if not TIMESTAMP.fullmatch(timestamp) or not SIGNATURE.fullmatch(signature):
            raise BadSignature(
                f"expected {_names(prefix)} of digits and 32 hexadecimal digits", reason="signature_malformed"
            )
        key = self._find_key(timestamp.decode("ascii"), signature.lower())
        if key is None:
            raise BadSignature(
                f"the signature fits none of {len(self.keys)} keys with any of {len(self.urls)} configured urls:"
                " compare key and url with what is registered, scheme and trailing slash included",
                reason="signature_mismatch",
            )
        age_s = now.timestamp() - int(timestamp)
        if abs(age_s) > self.max_age_s:
            raise StaleTimestamp(
                f"the signature is right but {age_s:.0f} s old, expected at most {self.max_age_s} s either way: check"
                " the clock of this machine",
                age_s=age_s,
            )
        return Message(callback.body, callback.body, "signature", key=key)

    def _find_key(self, timestamp: str, signature: bytes) -> int | None:
        """The place in the list of the key that this was signed with; None when it was none of them."""
        # No early exit: the time must not tell which key or url came close.
        found = None
        for url in self.urls:
            for place, key in enumerate(self.keys):
                if hmac.compare_digest(sign(url, timestamp, key).encode("ascii"), signature):
                    found = place
        return found

    def parse(self, message: Message) -> Parsed:
        return self.parser(message)


def _names(prefix: bytes) -> str:
    return f"{prefix.decode()}timestamp and {prefix.decode()}signature"
