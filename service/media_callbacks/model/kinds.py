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

# Events about the service itself, which are of no product and no job. Not among the kinds: nobody who has not asked for
# them gets any. See model.operational.
OperationalKind = Literal["operational"]
Phase = Literal["began", "ended"]
Trouble = Literal[
    "sink_disabled",
    "sink_failing",
    "deliveries_dead",
    "events_unrouted",
    "jobs_overdue",
    "jobs_unknown",
    "claims_contradicted",
    "content_differing",
    "certificate_changed",
    "journal_filling",
    "journal_set_aside",
    "disk_low",
    "clock_off",
    "store_clock_doubted",
    "store_clock_behind",
    "source_silent",
]
AnyKind = Literal[Kind, OperationalKind]
AnyOutcome = Literal[Outcome, Phase]

PRODUCTS: tuple[Product, ...] = get_args(Product)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
KINDS: tuple[Kind, ...] = get_args(Kind)
PHASES: tuple[Phase, ...] = get_args(Phase)
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)
OPERATIONAL: OperationalKind = "operational"
NO_PRODUCT = "media-callbacks"
"""What stands for the product of operational events where every event has one."""
ANY_OUTCOME: tuple[AnyOutcome, ...] = (*OUTCOMES, *PHASES)
SINK_TROUBLES = "/media-callbacks/sink"
"""The ``source`` of operational events whose subject is a sink."""
