"""A job of the fake cloud, how it really ended, and who could know."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from media_callbacks.healing.queries.catalogue import QUERIES
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.payloads import PAYLOADS

TrueOutcome = Literal["succeeded", "failed", "partial", "cancelled"]
# Code and text of every failure, in callbacks (``payloads``) as in replies.
FAILURE = ("InvalidParameter.ResourceContentBad", "The resource operated InputFile is bad")

# The end of a job that does not end.
NEVER = datetime(9999, 12, 31, tzinfo=UTC)

Notification = Literal["published", "not_published", "none"]

_VOD_EVENTS = {
    "animated_image": "DynamicImageComplete",
    "snapshot": "SnapshotComplete",
    "transcode": "StreamTranscodeComplete",
    "transcode_task": "TranscodeComplete",
}
# Events by product and family, as in ``model.identity.Key``.
EVENTS: Mapping[Product, Mapping[str, str]] = {
    "vod": {name: name for name in PAYLOADS["vod"] if name not in _VOD_EVENTS.values()} | _VOD_EVENTS,
    "ims": {name: name for name in PAYLOADS["ims"]},
    "mts": {name.lower(): name for name in PAYLOADS["mts"] if name not in ("Report", "Start")} | {"run": "Report"},
    "multimediaai": {"animated_image": "CreateGifTask"},
}

# Beside succeeded and failed. No document says that anybody is told of a cancelled job.
_OTHER_OUTCOMES: Mapping[tuple[Product, str], frozenset[TrueOutcome]] = {
    ("vod", "transcode"): frozenset({"cancelled"}),
    ("vod", "transcode_task"): frozenset({"partial"}),
    ("vod", "WorkflowTaskComplete"): frozenset({"cancelled"}),
    ("ims", "MediaConvertComplete"): frozenset({"cancelled"}),
    ("ims", "WorkflowTaskComplete"): frozenset({"cancelled"}),
    ("mts", "transcode"): frozenset({"cancelled"}),
    ("mts", "run"): frozenset({"partial"}),
}

# What the job APIs tell about.
QUERYABLE: Mapping[Product, frozenset[str]] = {
    product: frozenset(name for name, family in queries.families.items() if family.batch)
    for product, queries in QUERIES.items()
}


@dataclass(slots=True, kw_only=True)
class CloudJob:
    """
    One job, as the cloud itself knows it.

    Attributes:
        number: 1 for the first that was submitted.
        earlier: How often it was begun before: reruns, files of a live recording, and files that were written over have
            the same job id.
        outcome: How it really ends, at ``ends_at``.
        nonce, bind: Of the minted URL, in lower-case hexadecimal.
        callback_url: Of a GIF task.
        application_id, video_url, video_name: What a GIF task was submitted with.
        is_lost: Nobody is told that it ended.
        notification: What became of the notification of an MTS job; ``none``: there is nobody to notify. The job API
            tells it of jobs in pipelines and of runs, and not of the younger families (fingerprints and so on).
        told: How many callbacks with the truth were taken by whoever listens (a write to a queue counts).
        refused: How many attempts to tell the truth were not.
        unanswered: How many of these were sent and got no answer, so that they may have been understood all the same.
        lied_about: How many callbacks with a lie in their bodies were taken.
    """

    number: int
    product: Product
    account: str
    family: str
    job_id: str
    media_id: str | None
    user_data: str | None
    outcome: TrueOutcome
    submitted_at: datetime
    ends_at: datetime
    nonce: str | None = None
    bind: str | None = None
    callback_url: str | None = None
    application_id: str = "application-1"
    video_url: str = "https://media.example.com/in.mp4"
    video_name: str = "in.mp4"
    is_lost: bool = False
    notification: Notification = "none"
    told: int = 0
    refused: int = 0
    unanswered: int = 0
    lied_about: int = 0
    sources: tuple[str, ...] = field(default=())
    earlier: int = 0

    @property
    def message_id(self) -> str:
        """What MNS calls the notification of its end."""
        return other_id(f"message-{self.earlier}" if self.earlier else "message", self.job_id).upper()

    @property
    def event(self) -> str:
        """The vendor's name of the message that tells of it."""
        return EVENTS[self.product][self.family]

    @property
    def is_learnable(self) -> bool:
        """Whether the job API tells how it ended. VOD's says nothing of animated images that failed."""
        if (self.product, self.family) == ("vod", "animated_image"):
            return self.outcome == "succeeded"
        return self.family in QUERYABLE[self.product]

    @property
    def knowable_outcome(self) -> str:
        """What a perfect observer can have found out: the outcome, or ``unknown``."""
        return self.outcome if self.told or self.is_learnable else "unknown"

    @property
    def stream_ids(self) -> tuple[str, str]:
        """The two jobs of a VOD transcode task; the second one fails when the task is ``partial``."""
        return other_id("stream-1", self.job_id), other_id("stream-2", self.job_id)

    def is_over(self, now: datetime) -> bool:
        return self.ends_at <= now

    def reference(self) -> JobReference:
        """The job as an application would register it, with all that it can know."""
        return JobReference(
            product=self.product,
            account=self.account,
            family=self.family,
            job_id=self.job_id,
            media_id=self.media_id,
            nonce=self.nonce,
            bind=self.bind,
        )


def other_id(name: str, job_id: str) -> str:
    """An id that belongs to the job, as ``payloads`` derives them."""
    return hashlib.sha256(f"{name}:{job_id}".encode()).hexdigest()[:32]


def format_time(moment: datetime) -> str:
    """As all job APIs write it: UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_outcome(product: Product, family: str, outcome: TrueOutcome) -> None:
    """
    Raises:
        ValueError: There are no such jobs, or they never end like this.
    """
    if family not in EVENTS[product]:
        raise ValueError(f"family: expected one of {', '.join(EVENTS[product])} for {product}, came {family}")
    known = {"succeeded", "failed"} | _OTHER_OUTCOMES.get((product, family), frozenset())
    if outcome not in known:
        raise ValueError(f"outcome: expected {', '.join(sorted(known))} of {product} {family}, came {outcome}")
