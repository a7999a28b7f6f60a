"""Events: what became of each, and delivering one again."""

from starlette.responses import Response

from media_callbacks.admin.models.answers import EventDetail, EventPage, ReplayItem
from media_callbacks.admin.models.orders import EventReplayOrder
from media_callbacks.admin.models.questions import EventQuery
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.admin.replays import Replays
from media_callbacks.admin.sinks import Sinks
from media_callbacks.inbox.records import EventFilter, EventRecord, ReplayRequest
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.identity import parse_event_id


class Events:
    def __init__(self, inbox: AdminStore, sinks: Sinks, replays: Replays) -> None:
        self._inbox = inbox
        self._sinks = sinks
        self._replays = replays

    @operation("GET", "/v1/events", "Events, newest first", refusals={404: "No sink has this name."})
    async def list_events(self, query: EventQuery) -> EventPage:
        found = await self._inbox.list_events(query.to_filter(), before=query.before, limit=query.limit)
        if not found:
            await self._sinks.check_filter(query.sink, 404)
        cursor = query.cursor_after([event.cursor for event in found])
        return EventPage.model_validate({"events": found, "cursor": cursor})

    @operation(
        "GET",
        "/v1/events/{event_id}",
        "The life of an event",
        description="Every receipt that brought it, and every attempt to deliver it.",
    )
    async def show_event(self, event_id: str) -> EventDetail:
        record = await self._find(event_id)
        return EventDetail.of(record)

    @operation(
        "POST",
        "/v1/events/{event_id}/replay",
        "Deliver an event again",
        description="With the same id. It is delivered soon after; ask for the replay to see when.",
        answers={202: ReplayItem},
        refusals={
            409: "The payload is gone, because the retention period is over, or because it was erased.",
            422: "A sink is not configured, or none is named and the event has gone to none.",
        },
    )
    async def replay_event(self, event_id: str, body: EventReplayOrder) -> Response:
        record = await self._find(event_id)
        if record.body is None:
            why = "its retention period is over" if record.erased_at is None else "it was erased"
            raise Refused(409, f"the event's payload is gone: {why}")
        before = {delivery.sink for delivery in record.deliveries}
        sinks = self._sinks.check_configured(body.sinks) or self._sinks.configured_of(before)
        if not sinks:
            raise Refused(
                422,
                "sinks: name some, because the event has gone to none that is configured;"
                f" {self._sinks.tell_configured()}",
            )
        return await self._replays.create(
            ReplayRequest(
                filter=EventFilter(event_id=event_id),
                sinks=sinks,
                requested_by=body.requested_by,
                reason=body.reason,
            )
        )

    async def _find(self, event_id: str) -> EventRecord:
        try:
            parse_event_id(event_id)
        except ValueError:
            record = None
        else:
            record = await self._inbox.find_event(event_id)
        if record is None:
            raise Refused(404, "no event has this id; expected evt_ and 34 hexadecimal digits")
        return record
