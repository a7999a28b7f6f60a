"""
The ``token-url`` transport: unsigned requests to a URL that was minted for one task.

The vendor documents neither a signature nor anything else about the callback of CreateGifTask, so the URL itself
carries the proof: ``<url>/<token>``, the token as in ``sources.transports.url_tokens``. Nothing needs to be stored to
check it; it can't be guessed or altered, it expires, and it names the application and the video it was made for. A
request to a URL without a genuine token gets 404 and no detail.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from media_callbacks.model.kinds import Product, Transport
from media_callbacks.sources.base import Callback, Message, Parsed, Parser
from media_callbacks.sources.transports.url_tokens import UrlToken, bind_task, mint_token, read_token

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUrlSource:
    """
    A source of transport ``token-url``.

    Attributes:
        url: What minted URLs start with.
        keys: By key id; all verify.
        minting_key_id: The one that new URLs are made with.
    """

    name: str
    product: Product
    account: str
    path: str
    url: str
    keys: Mapping[int, bytes]
    minting_key_id: int
    parser: Parser
    transport: Transport = "token-url"
    # The vendor documents no method.
    methods: frozenset[str] = frozenset({"POST", "GET", "PUT"})
    success_status: int = 200

    def certificate_url(self, callback: Callback) -> None:
        return None

    def verify(self, callback: Callback, *, now: datetime, public_key: "RSAPublicKey | None") -> Message:
        token = read_token(callback.raw_path.rpartition(b"/")[2], self.keys, now=now)
        meta = {"nonce": token.nonce.hex(), "bind": token.bind.hex()}
        if callback.query:
            meta["query"] = callback.query.decode("ascii", "replace")[:8192]
        return Message(callback.body, callback.body, "token", meta=meta, key=token.key_id)

    def parse(self, message: Message) -> Parsed:
        return self.parser(message)

    def mint(self, *, application_id: str, video_url: str, video_name: str, nonce: bytes, expires_at: int) -> str:
        """The CallbackUrl for one CreateGifTask."""
        token = UrlToken(self.minting_key_id, expires_at, nonce, bind_task(application_id, video_url, video_name))
        return f"{self.url.rstrip('/')}/{mint_token(token, self.keys[self.minting_key_id])}"
