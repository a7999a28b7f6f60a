"""
From a genuine message to what the inbox keeps: parse it, build its events, decide where they go.

Pure: the same message at the same time gives the same receipt, whichever transport brought it and whether it is read
for the first time or again.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import DATA_MODELS, SCHEMA_VERSION, Event
from media_callbacks.model.identity import event_id
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.outputs import Frozen, SnapshotOutput
from media_callbacks.model.receipts import Entry, Hold, HoldReason, NamelessJob, Receipt, StoredReceipt
from media_callbacks.sources.base import (
    MAX_EVENTS,
    PARSER_VERSION,
    TRACEPARENT,
    Completion,
    Message,
    Source,
    expand_urls,
)

# Of all events of a receipt, as JSON. Each repeats what the message says once for all, such as its user data, so that a
# body of half a megabyte could become half a gigabyte.
MAX_EVENTS_BYTES = 4 * 2**20
# A hundred warnings tell the story.
_MAX_WARNINGS = 100
_MAX_WARNING_CHARACTERS = 200
_MAX_REASON_CHARACTERS = 500

Route = Callable[[Event], tuple[str, ...]]
"""Names of the sinks that an event goes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRules:
    """
    Which events of a source wait until the vendor was asked about them.

    Attributes:
        confirm: Whose truth is to be confirmed: that of none, of messages that nobody has signed, or of all.
        confirm_timeout_s: How long what the vendor can say nothing about is held.
        enriched_families: Families whose events wait, where they lack outputs, until the vendor was asked for these.
    """

    confirm: Literal["never", "when-unsigned", "always"]
    confirm_timeout_s: float
    enriched_families: AbstractSet[str] = frozenset()

    def hold(self, completion: Completion, event: Event, source: Source, message: Message) -> Hold | None:
        """Why an event must wait, or None."""
        reason: HoldReason
        if self.confirm == "always" or (self.confirm == "when-unsigned" and message.verified_by in ("none", "token")):
            reason = "confirm"
        elif completion.family in self.enriched_families and completion.job_id and _lacks_outputs(event):
            reason = "enrich"
        else:
            return None
        reference = JobReference(
            product=source.product,
            account=source.account,
            family=completion.family,
            job_id=completion.job_id,
            media_id=completion.media_id,
            nonce=message.meta.get("nonce"),
            bind=message.meta.get("bind"),
        )
        return Hold(reason, reference, self.confirm_timeout_s)


def _lacks_outputs(event: Event) -> bool:
    """Whether there should be something to fetch and nothing says where it is."""
    return event.data.outcome in ("succeeded", "partial") and not any(
        getattr(output, "url", None) or getattr(output, "urls", None) for output in event.data.outputs
    )


def build_receipt(
    source: Source, message: Message, *, received_at: datetime, route: Route, holds: HoldRules | None = None
) -> Receipt:
    """What to keep of a message. What can't be parsed, or means too much, is kept without events, with the reason."""
    entries: tuple[Entry, ...] = ()
    warnings: tuple[str, ...] = ()
    reason = None
    try:
        parsed = source.parse(message)
        if parsed.warnings:
            warnings = tuple([path[:_MAX_WARNING_CHARACTERS] for path in parsed.warnings[:_MAX_WARNINGS]])
        entries = _build_entries(parsed.completions, source, message, received_at=received_at, route=route, holds=holds)
    except Unparseable as error:
        reason = str(error)[:_MAX_REASON_CHARACTERS]
    except Exception as error:  # noqa: BLE001 - a fault of ours must cost the sender's message nothing: a later version reads it
        reason = f"the parser failed ({type(error).__name__}): please report it"
    return Receipt(
        source=source.name,
        product=source.product,
        transport=source.transport,
        verified_by=message.verified_by,
        received_at=received_at,
        body=message.body,
        meta=message.meta,
        entries=entries,
        reason=reason,
        warnings=warnings,
        parser_version=PARSER_VERSION,
    )


def restore_message(stored: StoredReceipt) -> Message:
    """The message that a kept receipt was, to be parsed again."""
    published_at = stored.meta.get("published_at")
    return Message(
        stored.body,
        stored.body,
        stored.verified_by,
        None if published_at is None else datetime.fromisoformat(published_at),
        stored.meta,
    )


def _build_entries(
    completions: Sequence[Completion],
    source: Source,
    message: Message,
    *,
    received_at: datetime,
    route: Route,
    holds: HoldRules | None,
) -> tuple[Entry, ...]:
    """
    Raises:
        Unparseable: They are more than one message may tell of. Nothing was built beyond that.
    """
    count = len(completions)
    if count > MAX_EVENTS:
        raise Unparseable(f"expected at most {MAX_EVENTS} events, found {count}")
    # They are hashed, and need not be in the events.
    characters = 0
    for completion in completions:
        for part in completion.id:
            characters += len(part)
    if characters > MAX_EVENTS_BYTES:
        raise Unparseable(f"expected at most {MAX_EVENTS_BYTES} characters in ids of events, found {characters}")
    size = 0
    entries = []
    for number, completion in enumerate(completions, 1):
        event = build_event(completion, source=source, message=message, received_at=received_at)
        nameless = None
        if completion.nameless is not None and completion.media_id is not None:
            takes_name = completion.nameless == "takes_name"
            nameless = NamelessJob(source.product, source.account, completion.family, completion.media_id, takes_name)
        entry = Entry(
            event=event,
            sinks=route(event),
            binding=completion.binding,
            hold=None if holds is None else holds.hold(completion, event, source, message),
            nameless=nameless,
        )
        size += len(entry.body)
        if size > MAX_EVENTS_BYTES:
            raise Unparseable(
                f"expected at most {MAX_EVENTS_BYTES} bytes of events, the first {number} of {count} have {size}"
            )
        entries.append(entry)
    return tuple(entries)


def build_event(completion: Completion, *, source: Source, message: Message, received_at: datetime) -> Event:
    """The CloudEvent of a completion, as its job's first outcome."""
    kind, outcome = completion.kind, completion.outcome
    key = completion.key(source.product, source.account)
    return Event.trusted(
        {
            "specversion": "1.0",
            "id": event_id(key.digest(), outcome),
            "source": f"/aliyun/{source.product}/{source.account}",
            "type": f"media.{kind}.{outcome}",
            "subject": completion.job_id or completion.media_id or completion.subject,
            "time": completion.occurred_at or message.published_at or received_at,
            "datacontenttype": "application/json",
            "dataschema": f"urn:media-callbacks:{kind}:{SCHEMA_VERSION}",
            "data": DATA_MODELS[kind].trusted(
                {
                    "product": source.product,
                    "kind": kind,
                    "outcome": outcome,
                    "job_id": completion.job_id,
                    "media_id": completion.media_id,
                    "vendor_event": completion.vendor_event,
                    "outputs": completion.outputs
                    if completion.placeholder is None
                    else _expand(completion, completion.placeholder),
                    "error": completion.error,
                    "user_data": completion.user_data,
                    "revision": 1,
                    "source": source.name,
                    "transport": source.transport,
                    "verified_by": message.verified_by,
                    "outcome_verified_by": message.verified_by,
                    "received_at": received_at,
                }
            ),
            "traceparent": message.meta.get(TRACEPARENT),
        }
    )


def _expand(completion: Completion, placeholder: str) -> tuple[Frozen, ...]:
    """Its outputs, with the URLs of their pictures."""
    return tuple(
        [
            output.model_copy(update={"urls": expand_urls(output.url_template, placeholder, output.count)})
            if isinstance(output, SnapshotOutput) and not output.urls
            else output
            for output in completion.outputs
        ]
    )
