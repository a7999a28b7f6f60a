"""
URLs for CreateGifTask, made without asking the service: by the command ``mint gif``, and by applications, which need
nothing else of this package but ``client``.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from media_callbacks.config.values import read_url_key
from media_callbacks.sources.transports.url_tokens import UrlToken, bind_task, mint_token


@dataclass(frozen=True, kw_only=True)
class MintedUrl:
    """
    What one CreateGifTask is submitted with.

    Attributes:
        callback_url: Its CallbackUrl. Whoever has it can call it: it belongs in no log.
        video_name: Its VideoName, which ends in ``#`` and the nonce.
        nonce, bind: For its registration as an expected job, in hexadecimal.
        expires_at: Until when the URL is valid.
    """

    callback_url: str
    video_name: str
    nonce: str
    bind: str
    expires_at: datetime


def mint_gif(
    *, url: str, key: str, application_id: str, video_url: str, video_name: str, expires_at: datetime
) -> MintedUrl:
    """
    Mint the URL for one task.

    Args:
        url: ``url`` of the service's token-url source.
        key: The first of its ``keys``: key id, colon and base64.
        application_id: As it will be submitted.
        video_url: As it will be submitted.
        video_name: Submit the lengthened one that is returned instead.
        expires_at: To the second, with a time zone; a week ahead is enough.

    Raises:
        ValueError: The key is none, or the time does not fit in four bytes.
    """
    key_id, key_bytes = read_url_key(key)
    nonce = secrets.token_bytes(12)
    # The name comes back in every query of the job API, which ties the task to this URL without a database.
    video_name = f"{video_name}#{nonce.hex()}"
    bind = bind_task(application_id, video_url, video_name)
    seconds = int(expires_at.timestamp())
    return MintedUrl(
        callback_url=f"{url.rstrip('/')}/{mint_token(UrlToken(key_id, seconds, nonce, bind), key_bytes)}",
        video_name=video_name,
        nonce=nonce.hex(),
        bind=bind.hex(),
        expires_at=datetime.fromtimestamp(seconds, UTC),
    )
