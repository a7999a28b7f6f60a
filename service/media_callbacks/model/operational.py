"""
Events about the service itself: a trouble began, or has ended. Why they are apart from the events of jobs is said in
docs/decisions/operational-events.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Literal, Self

from pydantic import Field

from media_callbacks.model.events import SCHEMA_VERSION
from media_callbacks.model.identity import OPERATIONAL_PREFIX, event_id
from media_callbacks.model.kinds import NO_PRODUCT, OPERATIONAL, TROUBLES, OperationalKind, Phase, Trouble
from media_callbacks.model.outputs import Frozen, Time
from media_callbacks.model.times import format_time

SOURCE_PREFIX = "/media-callbacks/"
SCHEMA = f"urn:media-callbacks:{OPERATIONAL}:{SCHEMA_VERSION}"
"""The ``dataschema`` of operational events."""


@dataclass(frozen=True, slots=True)
class Rule:
    """
    How a trouble is told of.

    Attributes:
        text: What is the matter.
        subject: What it is the matter with.
        runbook: The heading of docs/runbook.md that says what to do.
        after_s: What has not lasted for so long is told to nobody.
        quiet_s: It has ended when nobody has seen it for so long.
    """

    text: str
    subject: str
    runbook: str | None
    after_s: float = 0.0
    quiet_s: float = 120.0


_HOUR_S = 3600.0

RULES: Mapping[Trouble, Rule] = {
    "sink_disabled": Rule(
        "The sink has said that nobody is there any more. Nothing is sent to it until somebody resumes it.",
        "sink",
        "MediaCallbacksSinkDisabled",
        quiet_s=60,
    ),
    "sink_failing": Rule(
        "The sink takes nothing: the circuit breaker is open.", "sink", "MediaCallbacksBreakerOpen", after_s=60
    ),
    "deliveries_dead": Rule(
        "Deliveries were given up after their last attempt, or refused for good.",
        "sink",
        "MediaCallbacksDeadDeliveries",
        quiet_s=_HOUR_S,
    ),
    "events_unrouted": Rule("New events match no sink. They are kept.", "service", None, quiet_s=_HOUR_S),
    "jobs_overdue": Rule(
        "Expected jobs are long past their deadline, and the vendor has not said how they ended.",
        "product",
        "MediaCallbacksJobsOverdue",
        quiet_s=300,
    ),
    "jobs_unknown": Rule(
        "Jobs were given up: neither a callback nor the vendor's API has said how they ended.",
        "product",
        "MediaCallbacksJobsOverdue",
        quiet_s=_HOUR_S,
    ),
    "claims_contradicted": Rule(
        "Callbacks say what the vendor, or what was known before, contradicts. They were kept and not forwarded.",
        "source or product",
        "MediaCallbacksClaimContradicted",
        quiet_s=_HOUR_S,
    ),
    "content_differing": Rule(
        "Callbacks repeat a known outcome with other content. They were kept and not forwarded.",
        "source",
        "MediaCallbacksDiffering",
        quiet_s=_HOUR_S,
    ),
    "certificate_changed": Rule(
        "A signing certificate was replaced under its name.",
        "service",
        "MediaCallbacksCertificateChanged",
        quiet_s=_HOUR_S,
    ),
    "journal_filling": Rule(
        "The store was away: callbacks wait in the journal.",
        "host",
        "MediaCallbacksJournalNotEmpty",
        after_s=30,
        quiet_s=60,
    ),
    "journal_set_aside": Rule(
        "The store did not take receipts of the journal though it worked.", "host", "MediaCallbacksJournalSetAside"
    ),
    "disk_low": Rule(
        "The disk of the store is nearly full.", "host", "MediaCallbacksStoreDiskLow", after_s=60, quiet_s=300
    ),
    "clock_off": Rule(
        "The clock of this machine and that of the store differ.", "host", "MediaCallbacksClockOff", quiet_s=300
    ),
    "store_clock_doubted": Rule(
        "The store's clock went ahead while nobody saw it. Nothing is removed for its age until that is settled.",
        "store",
        "MediaCallbacksStoreClockDoubted",
        quiet_s=300,
    ),
    "store_clock_behind": Rule(
        "The store's clock went back.", "store", "MediaCallbacksStoreClockBehind", after_s=60, quiet_s=300
    ),
    "source_silent": Rule(
        "Nothing has come through the source for far longer than usual.", "source", "MediaCallbacksNone"
    ),
}


class OperationalData(Frozen):
    """A trouble of the service. Every member is always present, null when unknown."""

    kind: OperationalKind = Field(OPERATIONAL, description="Always operational.")
    outcome: Phase = Field(description="began, or ended.")
    trouble: str = Field(
        description=f"What is the matter, in a fixed word. More are added within a version. Now: {', '.join(TROUBLES)}."
    )
    trouble_subject: str = Field(
        description="What it is the matter with: the name of a sink or a source, a product, a host."
    )
    revision: int = Field(
        description="1 for the first event of this trouble, 2 for its end.", json_schema_extra={"minimum": 1}
    )
    since: Time = Field(description="When it began, in UTC, to the millisecond; the same in both events.")
    ended_at: Time | None = Field(description="When it was seen last; null as long as it lasts.")
    text: str = Field(description="What is the matter, for people.")
    detail: str | None = Field(description="What is known of it beyond that, for people; null where there is nothing.")
    runbook: str | None = Field(description="The heading of docs/runbook.md that says what to do; null without one.")
    instance: str = Field(description="The host that has told.")

    # What every event in the store has.

    @property
    def product(self) -> str:
        return NO_PRODUCT

    @property
    def job_id(self) -> None:
        return None

    @property
    def media_id(self) -> None:
        return None

    @property
    def user_data(self) -> None:
        return None


class OperationalEvent(Frozen):
    """A CloudEvent 1.0 about the service itself."""

    specversion: Literal["1.0"] = Field("1.0", description="Version of CloudEvents.")
    id: str = Field(
        description="The same on every retry and replay: an event with an id that you have seen is a repetition.",
        json_schema_extra={"pattern": "^evt_[0-9a-f]{34}$"},
    )
    source: str = Field(
        description="/media-callbacks/<what the trouble is with>.", json_schema_extra={"format": "uri-reference"}
    )
    type: str = Field(description="media.operational.<trouble>.<outcome>, to route and filter by.")
    subject: str = Field(description="As in data.trouble_subject: what the trouble is with.")
    time: Time = Field(description="When it began, or was seen last; in UTC.")
    datacontenttype: Literal["application/json"] = Field("application/json", description="Media type of data.")
    dataschema: str = Field(
        description="Name of this schema. Its number grows with a change that could break a reader."
    )
    data: OperationalData

    def to_json(self) -> bytes:
        """Structured CloudEvents JSON."""
        return self.model_dump_json().encode()

    def with_revision(self, revision: int) -> Self:
        return self.model_copy(update={"data": self.data.model_copy(update={"revision": revision})})


def build_event(
    trouble: Trouble,
    subject: str,
    *,
    since: datetime,
    ended_at: datetime | None,
    detail: str | None,
    instance: str,
) -> OperationalEvent:
    """The event of the beginning of a trouble, or of its end: the same for whichever instance tells."""
    outcome: Phase = "began" if ended_at is None else "ended"
    rule = RULES[trouble]
    return OperationalEvent(
        id=event_id(_digest(trouble, subject, since), outcome),
        source=SOURCE_PREFIX + rule.subject.split()[0],
        type=f"media.{OPERATIONAL}.{trouble}.{outcome}",
        subject=subject,
        time=since if ended_at is None else ended_at,
        dataschema=SCHEMA,
        data=OperationalData(
            outcome=outcome,
            trouble=trouble,
            trouble_subject=subject,
            revision=1,
            since=since,
            ended_at=ended_at,
            text=rule.text,
            detail=detail,
            runbook=rule.runbook,
            instance=instance,
        ),
    )


def _digest(trouble: Trouble, subject: str, since: datetime) -> bytes:
    """What both events of a trouble have in common in their ids, and no event of a job has."""
    return OPERATIONAL_PREFIX + sha256(json.dumps([trouble, subject, format_time(since)]).encode()).digest()[:8]


def parse_operational_event(body: bytes | str) -> OperationalEvent:
    """
    Read an operational event back from its JSON form.

    Raises:
        ValueError: This is none, or one of a later version.
    """
    return OperationalEvent.model_validate_json(body)
