"""The words that events, configuration and commands have in common. Without pydantic: commands start with them."""

from typing import Literal, get_args

Product = Literal["vod", "ims", "mts", "multimediaai"]
Transport = Literal["http", "mns-push", "mns-queue", "token-url", "query"]
VerifiedBy = Literal["none", "token", "signature", "queue", "query"]
Outcome = Literal["succeeded", "failed", "partial", "cancelled", "unknown", "received"]
Kind = Literal[
    "animated_image",
    "snapshot",
    "transcode",
    "transcode_task",
    "media_info",
    "analysis",
    "workflow",
    "production",
    "review",
    "fingerprint",
    "ai",
    "upload",
    "asset",
    "notice",
]

PRODUCTS: tuple[Product, ...] = get_args(Product)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
KINDS: tuple[Kind, ...] = get_args(Kind)
