"""Replays: delivering again."""

import re
from collections.abc import Callable

import structlog
from starlette.responses import Response

from media_callbacks.admin.models.answers import DryRun, ReplayItem, ReplayPage
from media_callbacks.admin.models.orders import CancelOrder, ReplayOrder
from media_callbacks.admin.models.questions import PageParameters
from media_callbacks.admin.operations import Refused, answer_json, operation
from media_callbacks.admin.sinks import Sinks
from media_callbacks.inbox.records import EventFilter, ReplayRequest
from media_callbacks.inbox.roles import AdminStore

log = structlog.get_logger()


class Replays:
    """``replay_created`` is told that there is something to do for whoever advances replays."""

    def __init__(self, inbox: AdminStore, sinks: Sinks, replay_created: Callable[[], None]) -> None:
        self._inbox = inbox
        self._sinks = sinks
        self._replay_created = replay_created

    @operation(
        "POST",
        "/v1/replays",
        "Deliver many events again",
        description="Count them first, with `dry_run`. Events accepted later are not part of it.",
        answers={200: DryRun, 202: ReplayItem},
        refusals={422: "The filter has no condition, a sink is not configured, or a member is not known or wrong."},
    )
    async def create_replay(self, body: ReplayOrder) -> Response | DryRun:
        event_filter = body.filter.to_filter()
        if event_filter == EventFilter():
            raise Refused(
                422,
                "filter: expected at least one of"
                f" {', '.join(type(body.filter).model_fields)}; for all events, give a since long ago",
            )
        sinks = self._sinks.check_configured(body.sinks)
        if not sinks and event_filter.sink is not None:
            sinks = self._sinks.check_configured((event_filter.sink,))
        if not sinks and event_filter.state == "unrouted":
            raise Refused(
                422, f"sinks: name some, because unrouted events have gone to none; {self._sinks.tell_configured()}"
            )
        if body.dry_run:
            total = await self._inbox.count_events(event_filter)
            if not total:
                await self._sinks.check_filter(event_filter.sink, 422)
            return DryRun(total=total)
        return await self.create(
            ReplayRequest(
                filter=event_filter,
                sinks=sinks,
                rate_per_s=body.rate,
                requested_by=body.requested_by,
                reason=body.reason,
            )
        )

    async def create(self, request: ReplayRequest) -> Response:
        record = await self._inbox.create_replay(request)
        log.info("replay_created", replay_id=record.id, total=record.total, requested_by=request.requested_by)
        self._replay_created()
        return answer_json(202, ReplayItem.of(record), {"location": f"/v1/replays/{record.id}"})

    @operation("GET", "/v1/replays", "Replays, newest first")
    async def list_replays(self, query: PageParameters) -> ReplayPage:
        found = await self._inbox.list_replays(before_id=query.before, limit=query.limit)
        return ReplayPage(
            replays=tuple(map(ReplayItem.of, found)), cursor=query.cursor_after([record.id for record in found])
        )

    @operation("GET", "/v1/replays/{replay_id}", "A replay and how far it is")
    async def show_replay(self, replay_id: str) -> ReplayItem:
        record = await self._inbox.find_replay(_read_id(replay_id))
        if record is None:
            raise _no_replay()
        return ReplayItem.of(record)

    @operation(
        "POST",
        "/v1/replays/{replay_id}/cancel",
        "Make no further deliveries",
        description="What has been made goes on. A finished replay stays finished.",
    )
    async def cancel_replay(self, replay_id: str, body: CancelOrder) -> ReplayItem:
        record = await self._inbox.cancel_replay(_read_id(replay_id))
        if record is None:
            raise _no_replay()
        log.info("replay_cancelled", replay_id=record.id, requested_by=body.requested_by, reason=body.reason)
        return ReplayItem.of(record)


def _read_id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise _no_replay()
    return int(text)


def _no_replay() -> Refused:
    return Refused(404, "no replay has this id; expected a whole number")
