"""
Traces: a span for each receipt and one for each attempt to deliver, where they are sampled.

What becomes a span is decided before there is one, here and in half a microsecond, and spans are written after the
fact. A receipt that is traced has the context of its span in its ``meta`` and in its events, which keep it for as long
as they are kept; so an attempt, maybe days later, begins a trace of its own that is linked to it.

Source: "Semantic conventions for messaging spans",
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/; "Trace Context", https://www.w3.org/TR/trace-context/;
"Distributed Tracing extension" of CloudEvents.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import structlog

from media_callbacks.config.tracing import TracingSettings
from media_callbacks.inbox.records import AttemptResult
from media_callbacks.model.events import Delivery, read_traceparent
from media_callbacks.model.kinds import Transport
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.sources.base import TRACEPARENT, Message

if TYPE_CHECKING:
    from media_callbacks.observe.otlp import SpanWriter

# Of the only version there is. Zeros alone are no ids.
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_RECEIVED_FROM: Mapping[Transport, str] = {
    "http": "webhook",
    "token-url": "webhook",
    "mns-push": "aliyun_mns",
    "mns-queue": "aliyun_mns",
    "query": "aliyun_api",
}
# What we ask for; else we process what we are sent.
_ASKED_FOR = frozenset({"mns-queue", "query"})
# Where the conventions have a word, it is theirs, else the kind of the sink.
_SENT_TO = {"sqs": "aws_sqs", "sns": "aws.sns"}
# Of what comes from outside.
_MAX_CHARACTERS = 256

log = structlog.get_logger()

Attributes = dict[str, str | int]


class Tracing:
    """
    Args:
        kinds: Of sinks, by their names.
        clock: The time in UTC.
        rng: Where ids, and with them decisions, come from.
    """

    def __init__(
        self,
        settings: TracingSettings,
        *,
        kinds: Mapping[str, str],
        clock: Callable[[], datetime],
        rng: Random,
    ) -> None:
        self._settings = settings
        # Compared with half of a trace's id, as every service of the same ratio does.
        self._bound = round(settings.ratio * 2**64)
        self._kinds = kinds
        self._clock = clock
        self._bits = rng.getrandbits
        self._writer: SpanWriter | None = None

    def start(self) -> None:
        """In the process that traces: a thread begins."""
        from media_callbacks.observe.otlp import SpanWriter  # noqa: PLC0415 - who traces nothing need not have it

        self._writer = SpanWriter()
        log.info("tracing", ratio=self._settings.ratio)

    async def stop(self) -> None:
        """Send what is left, for a bounded time."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    # Receipts

    def draw(self) -> str | None:
        """The context of a receipt that is to be traced; None for one that is not."""
        trace_id = self._bits(128)
        return self._context(trace_id) if trace_id & 0xFFFFFFFFFFFFFFFF < self._bound else None

    def begin(self, message: Message) -> None:
        """Decide whether a genuine message is traced, and note it there."""
        traceparent = self.draw()
        if traceparent is not None:
            message.meta = {**message.meta, TRACEPARENT: traceparent}

    def received(
        self,
        receipt: Receipt,
        verdict: Verdict,
        traceparent: str,
        *,
        duration_s: float,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """
        A receipt is kept.

        Args:
            headers: Of its request. The trace that they name is linked to, and neither continued nor obeyed: who may
                send callbacks does not decide what is recorded here.
        """
        attributes = _describe(_RECEIVED_FROM[receipt.transport], receipt.source, "receive", receipt.body)
        attributes["messaging.operation.type"] = "receive" if receipt.transport in _ASKED_FOR else "process"
        attributes["media_callbacks.state"] = "journaled" if verdict.is_journaled else verdict.state
        attributes["media_callbacks.events"] = len(receipt.entries)
        if len(receipt.entries) == 1:
            event = receipt.entries[0].event
            attributes["messaging.message.id"] = event.id
            if event.data.job_id is not None:
                attributes["messaging.message.conversation_id"] = event.data.job_id[:_MAX_CHARACTERS]
        links = [] if receipt.verified_by == "none" else self._find_context(headers)
        self._write(traceparent, attributes, links, is_sent=False, ended_at=self._clock(), duration_s=duration_s)

    def _find_context(self, headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
        found = [value for name, value in headers if name == b"traceparent"] if self._settings.propagates else []
        return [found[0].decode()] if len(found) == 1 and _TRACEPARENT.fullmatch(found[0]) else []

    # Attempts

    def begin_send(self, delivery: Delivery) -> Delivery:
        if not self._settings.propagates or read_traceparent(delivery.body) is None:
            return delivery
        return replace(delivery, traceparent=self._context(self._bits(128)))

    def sent(self, result: AttemptResult, error: BaseException | None) -> None:
        delivery = result.delivery
        begun = read_traceparent(delivery.body)
        if begun is None:
            return
        kind = self._kinds[delivery.sink]
        attributes = _describe(_SENT_TO.get(kind, kind), delivery.sink, "send", delivery.body)
        attributes["messaging.operation.type"] = "send"
        attributes["messaging.message.id"] = delivery.event_id
        attributes["media_callbacks.attempt"] = delivery.attempt
        attributes["media_callbacks.replay"] = delivery.replay
        attributes["media_callbacks.result"] = "interrupted" if result.state == "pending" else result.state
        if error is not None:
            attributes["error.type"] = type(error).__name__
        traceparent = delivery.traceparent or self._context(self._bits(128))
        assert result.started_at is not None
        self._write(
            traceparent,
            attributes,
            [begun],
            is_sent=True,
            ended_at=result.started_at + timedelta(seconds=result.duration_s),
            duration_s=result.duration_s,
            error=None if error is None else result.error or "the service stopped in mid-attempt",
        )

    def _context(self, trace_id: int) -> str:
        return f"00-{trace_id or 1:032x}-{self._bits(64) or 1:016x}-01"

    def _write(
        self,
        traceparent: str,
        attributes: Attributes,
        links: Sequence[str],
        *,
        is_sent: bool,
        ended_at: datetime,
        duration_s: float,
        error: str | None = None,
    ) -> None:
        if self._writer is None:
            return
        ended_ns = round(ended_at.timestamp() * 1e9)
        self._writer.write(
            f"{attributes['messaging.operation.name']} {attributes['messaging.destination.name']}",
            traceparent,
            is_sent=is_sent,
            started_ns=ended_ns - round(duration_s * 1e9),
            ended_ns=ended_ns,
            attributes=attributes,
            links=links,
            error=error,
        )


def _describe(system: str, name: str, operation: str, body: bytes) -> Attributes:
    """What both have. The destination is the configured name: paths, URLs and the like may be secrets."""
    return {
        "messaging.system": system,
        "messaging.destination.name": name,
        "messaging.operation.name": operation,
        "messaging.message.body.size": len(body),
    }
