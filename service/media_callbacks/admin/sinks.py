"""Sinks: how they are, and whether they get anything."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from media_callbacks.admin.models.answers import SinkItem, SinkList, TriedSink
from media_callbacks.admin.models.orders import Order, PauseOrder, ResumeOrder, RetryOrder
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.inbox.records import SinkRecord, SinkState
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.suggestions import did_you_mean

log = structlog.get_logger()


class Sinks:
    def __init__(
        self, inbox: AdminStore, kinds: Mapping[str, str], breaker_states: Callable[[], Mapping[str, BreakerState]]
    ) -> None:
        self._inbox = inbox
        self._kinds = kinds
        self.breaker_states = breaker_states

    @operation(
        "GET",
        "/v1/sinks",
        "Sinks, with their state and backlog",
        description="Those that are not configured any more, too, while something waits for them.",
    )
    async def list_sinks(self) -> SinkList:
        breakers, now = self.breaker_states(), await self._inbox.now()
        return SinkList(sinks=tuple(self._item(record, breakers, now) for record in await self.records()))

    @operation(
        "POST",
        "/v1/sinks/{sink}/pause",
        "Hold back what a sink would get",
        description="On all instances. Its deliveries are parked; nothing is lost.",
    )
    async def pause_sink(self, sink: str, body: PauseOrder) -> SinkItem:
        await self._set_state(sink, "paused", body)
        return await self._find(sink)

    @operation(
        "POST",
        "/v1/sinks/{sink}/resume",
        "Let a sink have what was held back",
        description="Whether it was paused or has disabled itself. What was parked goes on, in order; what was"
        " to be tried again some time is tried now, on all instances, and where a circuit breaker is open, one first.",
    )
    async def resume_sink(self, sink: str, body: ResumeOrder) -> TriedSink:
        await self._set_state(sink, "active", body)
        return await self._try_now(sink, body)

    @operation(
        "POST",
        "/v1/sinks/{sink}/retry",
        "Try now what a sink did not take",
        description="When its destination is well again: what was to be tried again some time is tried now,"
        " on all instances. Where a circuit breaker is open, one is tried first, and the others when it was taken, so"
        " that it costs one attempt of one event if the destination is not well.",
    )
    async def retry_sink(self, sink: str, body: RetryOrder) -> TriedSink:
        await self._check_known(sink)
        return await self._try_now(sink, body)

    async def records(self) -> list[SinkRecord]:
        """The configured ones first, whether the inbox knows them or not."""
        found = {record.name: record for record in await self._inbox.list_sinks()}
        configured = [found.pop(name, SinkRecord(name)) for name in self._kinds]
        return configured + list(found.values())

    def check_configured(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """What an order names, each once."""
        names = tuple(dict.fromkeys(names or ()))
        unknown = [name for name in names if name not in self._kinds]
        if unknown:
            configured = self.tell_configured(instead_of=unknown[0])
            raise Refused(422, f"sinks: not configured: {', '.join(unknown[:10])}; {configured}")
        return names

    async def check_filter(self, name: str | None, status: int) -> None:
        """Of a filter that no event fits: a sink of before is as good a name as one that is configured."""
        if name is not None and not await self._is_known(name):
            raise Refused(status, f"sink: no sink has this name; {self.tell_configured(instead_of=name)}")

    def configured_of(self, names: set[str]) -> tuple[str, ...]:
        return tuple(name for name in self._kinds if name in names)

    def tell_configured(self, *, instead_of: str = "") -> str:
        return f"configured are {', '.join(self._kinds) or 'none'}{did_you_mean(instead_of, self._kinds)}"

    async def _try_now(self, name: str, order: Order) -> TriedSink:
        brought_forward = await self._inbox.retry_sink(name)
        log.info("sink_retried", sink=name, brought_forward=brought_forward, requested_by=order.requested_by)
        item = await self._find(name)
        return TriedSink(**item.model_dump(), brought_forward=brought_forward)

    async def _find(self, name: str) -> SinkItem:
        found = {record.name: record for record in await self._inbox.list_sinks()}
        return self._item(found.get(name, SinkRecord(name)), self.breaker_states(), await self._inbox.now())

    async def _check_known(self, name: str) -> None:
        # Compared with what is known before it gets anywhere near the store.
        if not await self._is_known(name):
            raise Refused(404, f"no sink has this name; {self.tell_configured(instead_of=name)}")

    async def _is_known(self, name: str) -> bool:
        return name in self._kinds or name in {record.name for record in await self._inbox.list_sinks()}

    async def _set_state(self, name: str, state: SinkState, order: Order) -> None:
        await self._check_known(name)
        reason, changed_by = order.reason, order.requested_by
        await self._inbox.set_sink_state(name, state, reason=reason, changed_by=changed_by)
        log.info("sink_state_set", sink=name, state=state, reason=reason, changed_by=changed_by)

    def _item(self, record: SinkRecord, breakers: Mapping[str, BreakerState], now: datetime) -> SinkItem:
        oldest = record.oldest_pending_at
        counts = record.deliveries
        return SinkItem(
            name=record.name,
            kind=self._kinds.get(record.name),
            is_configured=record.name in self._kinds,
            state=record.state,
            breaker=breakers.get(record.name),
            reason=record.reason,
            changed_by=record.changed_by,
            changed_at=record.changed_at,
            deliveries={state: counts.get(state, 0) for state in ("pending", "retrying", "parked", "dead")},
            backlog=sum(counts.get(state, 0) for state in ("pending", "retrying", "parked")),
            oldest_pending_at=oldest,
            oldest_pending_age_s=None if oldest is None else max(0.0, round((now - oldest).total_seconds(), 3)),
            next_attempt_at=record.next_attempt_at,
            last_error=record.last_error,
            last_error_at=record.last_error_at,
            first_given_up_at=record.first_given_up_at,
            last_given_up_at=record.last_given_up_at,
            last_taken_at=record.last_taken_at,
        )
