"""What there is to see, each at a URL that can be shared, and what can be ordered. Both ask the admin API."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, get_args

from media_callbacks.admin.api import AdminApi
from media_callbacks.admin.models.answers import (
    Activity,
    EventDetail,
    EventPage,
    JobHits,
    Report,
    SinkItem,
    SinkList,
    Status,
)
from media_callbacks.admin.models.values import MAX_LIMIT
from media_callbacks.admin.operations import Refused
from media_callbacks.inbox.records import DeliveryState, EventState, FoundBy, JobState
from media_callbacks.model.kinds import ANY_OUTCOME, KINDS, OPERATIONAL, PRODUCTS
from media_callbacks.model.receipts import ReceiptState
from media_callbacks.page import plots
from media_callbacks.page.cells import Cells, Told
from media_callbacks.page.recent import Recent
from media_callbacks.page.text import address

Parameters = Mapping[str, str]
# How long the plots stay as they are: finding how long things took looks at some thousand rows.
PLOTS_KEEP_S = 10.0
# How long the states of cells do: each of them is asked over the network.
CELLS_KEEP_S = 5.0
_PAGE = "50"
# Events of a sink that are shown with what it answered.
_ANSWERED = "10"
_TIMES = ("since", "until", "given_up_since", "given_up_until")
_FILTER = ("state", "sink", "product", "kind", "outcome", "job_id", "media_id", "event_id", *_TIMES)
_NOT_DELIVERED: tuple[DeliveryState, ...] = ("retrying", "dead", "parked", "pending")


@dataclass(frozen=True, slots=True)
class Shown:
    """
    Attributes:
        template: Which shows it, with the context.
    """

    template: str
    title: str
    context: Mapping[str, Any] = field(default_factory=dict)


View = Callable[[Parameters, Parameters], Awaitable[Shown]]
Order = Callable[[Parameters, Parameters, str], Awaitable[str]]


class Views:
    """
    A view is given the parameters of its path and its query; an order those of its path, its form, and who asks, and
    gives where to go on.

    Args:
        clock: The time in UTC.
        sinks: Names of those that are configured.
        sources: Likewise.
    """

    def __init__(
        self,
        api: AdminApi,
        recent: Recent,
        cells: Cells,
        *,
        clock: Callable[[], datetime],
        sinks: Sequence[str],
        sources: Sequence[str],
    ) -> None:
        self._api = api
        self._recent = recent
        self._cells = cells
        self._clock = clock
        self._sinks = sinks
        self._sources = sources
        self.views: Mapping[str, View] = {
            "": self.overview,
            "search": self.search,
            "jobs": self.jobs,
            "jobs/{product}/{job_id:anything}": self.job,
            "events": self.events,
            "events/{event_id}": self.event,
            "receipts": self.receipts,
            "receipts/{receipt_id}": self.receipt,
            "refused": self.refused,
            "refused/{refused_id}": self.refused_request,
            "sinks/{sink}": self.sink,
            "report": self.report,
            "replays": self.replays,
            "replays/new": self.new_replay,
            "replays/{replay_id}": self.replay,
        }
        self.orders: Mapping[str, Order] = {
            "sinks/{sink}/{what}": self.order_of_sink,
            "events/{event_id}/replay": self.replay_event,
            "replays": self.create_replay,
            "replays/{replay_id}/cancel": self.cancel_replay,
        }

    # Views

    async def overview(self, _: Parameters, __: Parameters) -> Shown:
        status = await self._api.call("showStatus")
        activity: Activity = await self._recent.get(
            "activity", lambda: self._api.call("showActivity"), keep_s=PLOTS_KEEP_S
        )
        cells: Sequence[Told[Status]] = await self._recent.get(
            "cells", lambda: self._cells.ask("/v1/status", Status), keep_s=CELLS_KEEP_S
        )
        size = {"width": plots.WIDTH, "height": plots.HEIGHT}
        unwell = [told.cell for told in cells if told.answer is None or not told.answer.is_well]
        context = {"status": status, "cells": cells, "unwell": unwell, "plots": plots.rows(activity), **size}
        return Shown("overview.html", "Is it well?", context)

    async def search(self, _: Parameters, query: Parameters) -> Shown:
        """Jobs by whatever names them."""
        _check_names(query, ("q",))
        asked = query.get("q", "").strip()
        found = await self._search(asked) if asked else []
        exactness = get_args(FoundBy)
        hits = [(told, hit) for told in found if told.answer is not None for hit in told.answer.hits]
        hits.sort(key=lambda each: exactness.index(each[1].found_by))
        return Shown("search.html", "Search", {"asked": asked, "hits": hits, "found": found})

    async def _search(self, asked: str) -> Sequence[Told[JobHits]]:
        """In all cells, or here where there are none."""
        query = {"q": asked, "limit": _PAGE}
        if len(self._cells):
            return await self._cells.ask("/v1/search", JobHits, query)
        here: JobHits = await self._api.call("search", query=query)
        return [Told("", "", here)]

    async def jobs(self, _: Parameters, query: Parameters) -> Shown:
        page = await self._list("listJobs", query)
        choices = {"state": get_args(JobState), "product": PRODUCTS}
        return Shown("jobs.html", "Jobs", {"page": page, "rows": page.jobs, "choices": choices, "texts": ("job_id",)})

    async def job(self, path: Parameters, query: Parameters) -> Shown:
        """Its life."""
        asked = {name: value for name, value in _clean(query).items() if name != "wait"}
        return Shown("job.html", "Job", {"job": await self._api.call("showJob", path, query=asked)})

    async def events(self, _: Parameters, query: Parameters) -> Shown:
        page: EventPage = await self._list("listEvents", query)
        choices = {
            "state": get_args(EventState),
            "sink": self._sinks,
            "product": PRODUCTS,
            "kind": (*KINDS, OPERATIONAL),
            "outcome": ANY_OUTCOME,
        }
        return Shown(
            "events.html",
            "Events",
            {"page": page, "rows": page.events, "choices": choices, "texts": ("job_id", "media_id")},
        )

    async def event(self, path: Parameters, _: Parameters) -> Shown:
        event: EventDetail = await self._api.call("showEvent", path)
        body = None if event.event is None else json.dumps(event.event, indent=2, ensure_ascii=False)
        latest = {delivery.sink: delivery.state for delivery in event.deliveries}
        dead = [sink for sink in self._sinks if latest.get(sink) == "dead"]
        return Shown("event.html", "Event", {"event": event, "body": body, "sinks": self._sinks, "dead": dead})

    async def receipts(self, _: Parameters, query: Parameters) -> Shown:
        page = await self._list("listReceipts", query)
        choices = {"state": get_args(ReceiptState), "source": self._sources}
        return Shown(
            "receipts.html", "Receipts", {"page": page, "rows": page.receipts, "choices": choices, "texts": ("job_id",)}
        )

    async def receipt(self, path: Parameters, _: Parameters) -> Shown:
        return Shown("receipt.html", "Receipt", {"receipt": await self._api.call("showReceipt", path)})

    async def refused(self, _: Parameters, query: Parameters) -> Shown:
        page = await self._list("listRefused", query)
        # There are a few hundred at most.
        kept = await self._api.call("listRefused", query={"limit": str(MAX_LIMIT)})
        choices = {
            "source": (*self._sources, "none"),
            "reason": _words((one.reason for one in kept.refused), query.get("reason")),
            "cause": _words((one.cause for one in kept.refused), query.get("cause")),
        }
        return Shown(
            "refused.html",
            "Refused requests",
            {"page": page, "rows": page.refused, "choices": choices, "texts": ("text",)},
        )

    async def refused_request(self, path: Parameters, _: Parameters) -> Shown:
        refused = await self._api.call("showRefused", path)
        return Shown("refused_request.html", "A refused request", {"refused": refused})

    async def sink(self, path: Parameters, query: Parameters) -> Shown:
        name = path["sink"]
        sinks: SinkList = await self._api.call("listSinks")
        sink: SinkItem | None = next((sink for sink in sinks.sinks if sink.name == name), None)
        if sink is None:
            raise Refused(404, "no sink has this name")
        _check_names(query, ("state", "brought_forward"))
        state = query.get("state") or next((state for state in _NOT_DELIVERED if sink.deliveries.get(state)), None)
        asked = {"sink": name, "limit": _ANSWERED} | ({"state": state} if state else {})
        page: EventPage = await self._api.call("listEvents", query=asked)
        details: list[EventDetail] = [
            await self._api.call("showEvent", {"event_id": event.id}) for event in page.events
        ]
        tried = [(event, delivery) for event in details for delivery in event.deliveries[::-1] if delivery.sink == name]
        brought = query.get("brought_forward", "")
        return Shown(
            "sink.html",
            f"Sink {name}",
            {
                "sink": sink,
                "tried": tried,
                "state": state,
                "states": get_args(DeliveryState),
                "spans": _spans(self._clock()),
                "brought_forward": brought if re.fullmatch("[0-9]{1,9}", brought) else None,
            },
        )

    async def report(self, _: Parameters, query: Parameters) -> Shown:
        report: Report = await self._api.call("report", query=_clean(query))
        return Shown("report.html", "Completeness", {"report": report, "choices": {}, "texts": ()})

    async def replays(self, _: Parameters, query: Parameters) -> Shown:
        page = await self._list("listReplays", query)
        return Shown("replays.html", "Replays", {"page": page, "rows": page.replays})

    async def new_replay(self, _: Parameters, query: Parameters) -> Shown:
        """With the number of events that it would send again, as soon as there is a condition."""
        order = _read_replay(query)
        counted = await self._api.call("createReplay", body=order | {"dry_run": True}) if order["filter"] else None
        choices = {
            "state": get_args(EventState),
            "sink": self._sinks,
            "product": PRODUCTS,
            "kind": (*KINDS, OPERATIONAL),
            "outcome": ANY_OUTCOME,
            "to_sink": self._sinks,
        }
        sinks: SinkList = await self._api.call("listSinks")
        named = order.get("sinks") or [order["filter"].get("sink")]
        return Shown(
            "new_replay.html",
            "Send again",
            {
                "receivers": [sink for sink in sinks.sinks if sink.name in named],
                "total": counted and counted.total,
                "order": order,
                "shown": {name: value for name, value in order["filter"].items() if name != "event_id"},
                "choices": choices,
                "texts": ("job_id", "media_id"),
            },
        )

    async def replay(self, path: Parameters, _: Parameters) -> Shown:
        replay = await self._api.call("showReplay", path)
        since = _write(replay.created_at)
        return Shown("replay.html", f"Replay {replay.id}", {"replay": replay, "since": since})

    # Orders

    async def order_of_sink(self, path: Parameters, form: Parameters, who: str) -> str:
        sink, what = path["sink"], path["what"]
        if what not in ("pause", "resume", "retry"):
            raise Refused(404, "nothing is here")
        tried = await self._api.call(f"{what}Sink", {"sink": sink}, body=_for_the_record(form, who))
        brought = None if what == "pause" else tried.brought_forward
        return address("sinks", sink, brought_forward=brought)

    async def replay_event(self, path: Parameters, form: Parameters, who: str) -> str:
        _check_names(form, ("to_sink", "reason"))
        sinks = {"sinks": form["to_sink"].split()} if form.get("to_sink") else {}
        replay = await self._api.call("replayEvent", path, body=_for_the_record(form, who) | sinks)
        return address("replays", replay.id)

    async def create_replay(self, _: Parameters, form: Parameters, who: str) -> str:
        replay = await self._api.call("createReplay", body=_read_replay(form) | _for_the_record(form, who))
        return address("replays", replay.id)

    async def cancel_replay(self, path: Parameters, form: Parameters, who: str) -> str:
        await self._api.call("cancelReplay", path, body=_for_the_record(form, who))
        return address("replays", path["replay_id"])

    async def _list(self, name: str, query: Parameters) -> Any:
        return await self._api.call(name, query={"limit": _PAGE} | _clean(query))


def _words(found: Iterable[str], asked: str | None) -> list[str]:
    """Those that there are, and the one that is asked for, each once."""
    return sorted({word for word in (*found, asked) if word and re.fullmatch("[a-z0-9_]+", word)})


def _spans(now: datetime) -> list[tuple[str, str | None, str | None]]:
    """Times for which one may want something sent again: in a word, from, until."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    hour, day = timedelta(hours=1), timedelta(days=1)
    return [
        ("given up within the last hour", _write(now - hour), None),
        ("given up today", _write(today), None),
        ("given up yesterday", _write(today - day), _write(today)),
        ("whenever given up", None, None),
    ]


def _write(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _clean(query: Parameters) -> dict[str, str]:
    """As the API has it: what a form leaves empty asks for nothing, and its times are of UTC."""
    cleaned = {}
    for name, value in query.items():
        if name in _TIMES and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?", value):
            value = f"{value}:00Z" if len(value) == 16 else f"{value}Z"  # noqa: PLW2901 - it is this one
        if value:
            cleaned[name] = value
    return cleaned


def _read_replay(given: Parameters) -> dict[str, Any]:
    _check_names(given, (*_FILTER, "to_sink", "rate", "reason"))
    cleaned = _clean(given)
    order: dict[str, Any] = {"filter": {name: cleaned[name] for name in _FILTER if name in cleaned}}
    if "to_sink" in cleaned:
        order["sinks"] = [cleaned["to_sink"]]
    if "rate" in cleaned:
        if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", cleaned["rate"]):
            raise Refused(400, "rate: expected a number of events a second")
        order["rate"] = float(cleaned["rate"])
    return order


def _for_the_record(form: Parameters, who: str) -> dict[str, str]:
    reason = form.get("reason", "").strip()
    return {"requested_by": who} | ({"reason": reason} if reason else {})


def _check_names(given: Parameters, known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise Refused(400, f"{unknown[0][:100]}: not known here; expected one of {', '.join(known)}")
