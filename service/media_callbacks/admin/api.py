"""What operators ask and order, as JSON."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import structlog
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from media_callbacks.admin.models import (
    MAX_REPORT,
    ApiModel,
    CancelOrder,
    DryRun,
    EventDetail,
    EventPage,
    EventQuery,
    EventReplayOrder,
    JobItem,
    JobOrder,
    JobOrders,
    JobPage,
    JobQuery,
    JobRules,
    Order,
    PageParameters,
    PauseOrder,
    ReceiptPage,
    ReceiptQuery,
    RegisteredJobs,
    ReplayItem,
    ReplayOrder,
    ReplayPage,
    Report,
    ReportQuery,
    ResumeOrder,
    RetryOrder,
    SinkItem,
    SinkList,
    TriedSink,
)
from media_callbacks.admin.openapi import Operation, build_document
from media_callbacks.admin.report import build_report
from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.edge.answers import RETRY_AFTER_S, problem
from media_callbacks.edge.bodies import BodyReader
from media_callbacks.healing.queries.base import Family
from media_callbacks.inbox.records import (
    EventFilter,
    ReplayRequest,
    ReportRow,
    SinkRecord,
    SinkState,
    StoreSpace,
    WaitingCounts,
)
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.errors import ConfigError, JobConflict, MethodNotAllowed, Rejected, Unavailable
from media_callbacks.model.identity import parse_event_id
from media_callbacks.model.kinds import Product
from media_callbacks.observe.metrics import CONTENT_TYPE, Metrics
from media_callbacks.version import read_version

BODY_TIMEOUT_S = 10.0
# Longer than a store that works takes, shorter than Prometheus waits.
METRICS_TIMEOUT_S = 5.0
# Which registrations are counted there by what became of them.
RECENT = timedelta(hours=1)
# More than a list of jobs has when all of it is wrong in one way or another.
MAX_MISTAKES = 2000
# Of Python's calendar, which has nothing before it.
_FIRST_DAY = datetime(1, 1, 2, tzinfo=UTC)

log = structlog.get_logger()


class Refused(Rejected):
    """A question or an order that makes no sense, with the status to answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AdminApi:
    """
    What operators ask: events with their receipts and deliveries, receipts, those without an event included, sinks,
    replays, jobs and what became of them; and what they order: replays, pauses, jobs to expect.

    Mistakes are answered with problem+json (RFC 9457) that says what was expected: 400 for those in a query, 422 for
    those in a body.

    Args:
        sinks: Kinds of the configured sinks by name.
        breaker_states: States of this instance's circuit breakers by sink.
        clock: The time in UTC.
        replay_created: Told that there is something to do for whoever advances replays.
        families: The jobs that can be expected, by product.
        deadline_s: Until the deadline of a registration that names none.
        jobs_registered: Told that there is something to do for whoever asks the vendor.
    """

    def __init__(
        self,
        inbox: AdminStore,
        *,
        sinks: Mapping[str, str],
        breaker_states: Callable[[], Mapping[str, BreakerState]],
        clock: Callable[[], datetime],
        replay_created: Callable[[], None],
        metrics: Metrics,
        families: Mapping[Product, Mapping[str, Family]] = MappingProxyType({}),
        deadline_s: float = 3600.0,
        jobs_registered: Callable[[], None] = lambda: None,
    ) -> None:
        self._inbox = inbox
        self._sinks = sinks
        self._breaker_states = breaker_states
        self._clock = clock
        self._replay_created = replay_created
        self._metrics = metrics
        self._families = families
        self._deadline_s = deadline_s
        self._jobs_registered = jobs_registered
        self.operations = self._operations()
        self.document = build_document(self.operations, version=read_version())

    def app(self) -> Starlette:
        """The application, without a guard."""
        app = Starlette(
            routes=self.routes(), exception_handlers={HTTPException: _answer_http_error, Exception: _answer_failure}
        )
        # What has a slash too many is answered as what it is: nothing.
        app.router.redirect_slashes = False
        return app

    def routes(self) -> list[Route]:
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in self.operations:
            by_path.setdefault(operation.path, {})[operation.method] = operation
        return [Route(path, _Endpoint(methods, self._job_rules)) for path, methods in by_path.items()]

    # Events and receipts

    async def list_events(self, query: EventQuery) -> tuple[int, ApiModel]:
        found = await self._inbox.list_events(query.to_filter(), before=query.before, limit=query.limit)
        cursor = str(found[-1].cursor) if len(found) == query.limit else None
        return 200, EventPage.model_validate({"events": found, "cursor": cursor})

    async def show_event(self, event_id: str) -> tuple[int, ApiModel]:
        _check_event_id(event_id)
        record = await self._inbox.find_event(event_id)
        if record is None:
            raise _no_event()
        return 200, EventDetail.model_validate(
            {
                "id": record.id,
                "accepted_at": record.accepted_at,
                "is_routed": record.is_routed,
                "event": None if record.body is None else json.loads(record.body),
                "receipts": record.receipts,
                "deliveries": record.deliveries,
            }
        )

    async def list_receipts(self, query: ReceiptQuery) -> tuple[int, ApiModel]:
        found = await self._inbox.list_receipts(
            state=query.state, source=query.source, since=query.since, before_id=query.before, limit=query.limit
        )
        cursor = str(found[-1].id) if len(found) == query.limit else None
        return 200, ReceiptPage.model_validate({"receipts": found, "cursor": cursor})

    # Replays

    async def replay_event(self, event_id: str, body: EventReplayOrder) -> Response:
        _check_event_id(event_id)
        record = await self._inbox.find_event(event_id)
        if record is None:
            raise _no_event()
        if record.body is None:
            raise Refused(409, "the event's payload is gone: its retention period is over")
        sinks = self._check_sinks(body.sinks)
        if not sinks:
            before = {delivery.sink for delivery in record.deliveries}
            sinks = tuple(name for name in self._sinks if name in before)
            if not sinks:
                raise Refused(
                    422,
                    f"sinks: name some, because the event has gone to none that is configured; {self._configured()}",
                )
        return await self._create_replay(
            ReplayRequest(
                filter=EventFilter(event_id=event_id),
                sinks=sinks,
                requested_by=body.requested_by,
                reason=body.reason,
            )
        )

    async def create_replay(self, body: ReplayOrder) -> Response | tuple[int, ApiModel]:
        event_filter = body.filter.to_filter()
        if event_filter == EventFilter():
            raise Refused(
                422,
                "filter: expected at least one of"
                f" {', '.join(type(body.filter).model_fields)}; for all events, give a since long ago",
            )
        sinks = self._check_sinks(body.sinks)
        if not sinks and event_filter.sink is not None:
            sinks = self._check_sinks((event_filter.sink,))
        if not sinks and event_filter.state == "unrouted":
            raise Refused(422, f"sinks: name some, because unrouted events have gone to none; {self._configured()}")
        if body.dry_run:
            return 200, DryRun(total=await self._inbox.count_events(event_filter))
        return await self._create_replay(
            ReplayRequest(
                filter=event_filter,
                sinks=sinks,
                rate_per_s=body.rate,
                requested_by=body.requested_by,
                reason=body.reason,
            )
        )

    async def _create_replay(self, request: ReplayRequest) -> Response:
        record = await self._inbox.create_replay(request)
        log.info("replay_created", replay_id=record.id, total=record.total, requested_by=request.requested_by)
        self._replay_created()
        return _json(202, ReplayItem.of(record), {"location": f"/v1/replays/{record.id}"})

    def _check_sinks(self, names: Sequence[str] | None) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(names or ()))
        unknown = [name for name in names if name not in self._sinks]
        if unknown:
            raise Refused(422, f"sinks: not configured: {', '.join(unknown[:10])}; {self._configured()}")
        return names

    def _configured(self) -> str:
        return f"configured are {', '.join(self._sinks) or 'none'}"

    async def list_replays(self, query: PageParameters) -> tuple[int, ApiModel]:
        found = await self._inbox.list_replays(before_id=query.before, limit=query.limit)
        cursor = str(found[-1].id) if len(found) == query.limit else None
        return 200, ReplayPage(replays=tuple(map(ReplayItem.of, found)), cursor=cursor)

    async def show_replay(self, replay_id: str) -> tuple[int, ApiModel]:
        record = await self._inbox.find_replay(_read_replay_id(replay_id))
        if record is None:
            raise _no_replay()
        return 200, ReplayItem.of(record)

    async def cancel_replay(self, replay_id: str, body: CancelOrder) -> tuple[int, ApiModel]:
        record = await self._inbox.cancel_replay(_read_replay_id(replay_id))
        if record is None:
            raise _no_replay()
        return 200, ReplayItem.of(record)

    # Sinks

    async def list_sinks(self) -> tuple[int, ApiModel]:
        breakers, now = self._breaker_states(), await self._inbox.now()
        return 200, SinkList(sinks=tuple(self._sink_item(record, breakers, now) for record in await self._all_sinks()))

    async def pause_sink(self, sink: str, body: PauseOrder) -> tuple[int, ApiModel]:
        await self._set_sink_state(sink, "paused", body.reason, body.requested_by)
        return 200, await self._find_sink(sink)

    async def resume_sink(self, sink: str, body: ResumeOrder) -> tuple[int, ApiModel]:
        await self._set_sink_state(sink, "active", body.reason, body.requested_by)
        return await self._try_now(sink, body)

    async def retry_sink(self, sink: str, body: RetryOrder) -> tuple[int, ApiModel]:
        await self._check_known(sink)
        return await self._try_now(sink, body)

    async def _try_now(self, name: str, order: Order) -> tuple[int, ApiModel]:
        brought_forward = await self._inbox.retry_sink(name)
        log.info("sink_retried", sink=name, brought_forward=brought_forward, requested_by=order.requested_by)
        item = await self._find_sink(name)
        return 200, TriedSink(**item.model_dump(), brought_forward=brought_forward)

    async def _find_sink(self, name: str) -> SinkItem:
        found = {record.name: record for record in await self._inbox.list_sinks()}
        return self._sink_item(found.get(name, SinkRecord(name)), self._breaker_states(), await self._inbox.now())

    async def _check_known(self, name: str) -> None:
        # Compared with what is known before it gets anywhere near the store.
        if name not in self._sinks and name not in {record.name for record in await self._inbox.list_sinks()}:
            raise Refused(404, f"no sink has this name; {self._configured()}")

    async def _set_sink_state(self, name: str, state: SinkState, reason: str | None, changed_by: str | None) -> None:
        await self._check_known(name)
        await self._inbox.set_sink_state(name, state, reason=reason, changed_by=changed_by)
        log.info("sink_state_set", sink=name, state=state, reason=reason, changed_by=changed_by)

    async def _all_sinks(self) -> list[SinkRecord]:
        """The configured ones first, whether the inbox knows them or not."""
        found = {record.name: record for record in await self._inbox.list_sinks()}
        configured = [found.pop(name, SinkRecord(name)) for name in self._sinks]
        return configured + list(found.values())

    def _sink_item(self, record: SinkRecord, breakers: Mapping[str, BreakerState], now: datetime) -> SinkItem:
        oldest = record.oldest_pending_at
        counts = record.deliveries
        return SinkItem(
            name=record.name,
            kind=self._sinks.get(record.name),
            is_configured=record.name in self._sinks,
            state=record.state,
            breaker=breakers.get(record.name),
            reason=record.reason,
            changed_by=record.changed_by,
            changed_at=record.changed_at,
            deliveries={state: counts.get(state, 0) for state in ("pending", "retrying", "parked", "dead")},
            backlog=sum(counts.get(state, 0) for state in ("pending", "retrying", "parked")),
            oldest_pending_at=oldest,
            oldest_pending_age_s=None if oldest is None else max(0.0, round((now - oldest).total_seconds(), 3)),
        )

    # Jobs

    async def register_jobs(self, body: JobOrders) -> tuple[int, RegisteredJobs]:
        orders = body.root if isinstance(body.root, list) else [body.root]
        jobs = [order.to_job(default_deadline=timedelta(seconds=self._deadline_s)) for order in orders]
        try:
            records = await self._inbox.expect(jobs)
        except JobConflict as error:
            raise Refused(409, str(error)) from None
        self._jobs_registered()
        items = tuple(map(JobItem.of, records))
        return 200, RegisteredJobs(items if isinstance(body.root, list) else items[0])

    def _job_rules(self) -> JobRules:
        return JobRules(self._families, self._clock())

    async def list_jobs(self, query: JobQuery) -> tuple[int, ApiModel]:
        found = await self._inbox.list_jobs(query.to_filter(), before_id=query.before, limit=query.limit)
        cursor = str(found[-1].id) if len(found) == query.limit else None
        return 200, JobPage(jobs=tuple(map(JobItem.of, found)), cursor=cursor)

    async def report(self, query: ReportQuery) -> tuple[int, ApiModel]:
        until = query.until or await self._inbox.now()
        since = query.since or max(until, _FIRST_DAY) - timedelta(days=1)
        if not timedelta() < until - since <= MAX_REPORT:
            raise Refused(400, f"since, until: expected a time and a later one, at most {MAX_REPORT.days} days apart")
        rows = await self._inbox.report_jobs(since=since, until=until)
        return 200, build_report(rows, since=since, until=until)

    # The service

    async def metrics(self) -> Response:
        """Also while the store is away: then they are most wanted."""
        now = self._clock()
        sinks: list[SinkRecord] | None = None
        waiting: WaitingCounts | None = None
        recent: Sequence[ReportRow] = ()
        space: StoreSpace | None = None
        is_writable = False
        try:
            async with asyncio.timeout(METRICS_TIMEOUT_S):
                now = await self._inbox.now()
                sinks = await self._all_sinks()
                waiting = await self._inbox.count_waiting()
                recent = await self._inbox.report_jobs(since=now - RECENT, until=now)
                space = await self._inbox.measure()
                await self._inbox.check()
                is_writable = True
        except (ConfigError, Unavailable, TimeoutError) as error:
            log.warning("metrics_without_store", error=str(error))
        text = self._metrics.render(
            sinks,
            self._breaker_states(),
            waiting=waiting,
            recent=recent,
            space=space,
            is_writable=is_writable,
            now=now,
        )
        return Response(text, media_type=CONTENT_TYPE)

    async def openapi(self) -> Response:
        return JSONResponse(self.document)

    def _operations(self) -> tuple[Operation, ...]:
        away = {503: ""}
        no_event = away | {404: "No event has this id."}
        no_replay = away | {404: "No replay has this id."}
        no_sink = away | {404: "No sink has this name."}
        return (
            Operation(
                method="GET",
                path="/v1/events",
                name="listEvents",
                summary="Events, newest first",
                run=self.list_events,
                query=EventQuery,
                answers={200: EventPage},
                refusals=away,
            ),
            Operation(
                method="GET",
                path="/v1/events/{event_id}",
                name="showEvent",
                summary="The life of an event",
                description="Every receipt that brought it, and every attempt to deliver it.",
                run=self.show_event,
                answers={200: EventDetail},
                refusals=no_event,
            ),
            Operation(
                method="POST",
                path="/v1/events/{event_id}/replay",
                name="replayEvent",
                summary="Deliver an event again",
                description="With the same id. It is delivered soon after; ask for the replay to see when.",
                run=self.replay_event,
                body=EventReplayOrder,
                answers={202: ReplayItem},
                refusals=no_event
                | {
                    409: "The payload is gone, because the retention period is over.",
                    422: "A sink is not configured, or none is named and the event has gone to none.",
                },
            ),
            Operation(
                method="GET",
                path="/v1/receipts",
                name="listReceipts",
                summary="Receipts, newest first",
                description="Those that gave no event, too.",
                run=self.list_receipts,
                query=ReceiptQuery,
                answers={200: ReceiptPage},
                refusals=away,
            ),
            Operation(
                method="POST",
                path="/v1/replays",
                name="createReplay",
                summary="Deliver many events again",
                description="Count them first, with `dry_run`. Events accepted later are not part of it.",
                run=self.create_replay,
                body=ReplayOrder,
                answers={200: DryRun, 202: ReplayItem},
                refusals=away
                | {422: "The filter has no condition, a sink is not configured, or a member is not known or wrong."},
            ),
            Operation(
                method="GET",
                path="/v1/replays",
                name="listReplays",
                summary="Replays, newest first",
                run=self.list_replays,
                query=PageParameters,
                answers={200: ReplayPage},
                refusals=away,
            ),
            Operation(
                method="GET",
                path="/v1/replays/{replay_id}",
                name="showReplay",
                summary="A replay and how far it is",
                run=self.show_replay,
                answers={200: ReplayItem},
                refusals=no_replay,
            ),
            Operation(
                method="POST",
                path="/v1/replays/{replay_id}/cancel",
                name="cancelReplay",
                summary="Make no further deliveries",
                description="What has been made goes on. A finished replay stays finished.",
                run=self.cancel_replay,
                body=CancelOrder,
                answers={200: ReplayItem},
                refusals=no_replay,
            ),
            Operation(
                method="GET",
                path="/v1/sinks",
                name="listSinks",
                summary="Sinks, with their state and backlog",
                description="Those that are not configured any more, too, while something waits for them.",
                run=self.list_sinks,
                answers={200: SinkList},
                refusals=away,
            ),
            Operation(
                method="POST",
                path="/v1/sinks/{sink}/pause",
                name="pauseSink",
                summary="Hold back what a sink would get",
                description="On all instances. Its deliveries are parked; nothing is lost.",
                run=self.pause_sink,
                body=PauseOrder,
                answers={200: SinkItem},
                refusals=no_sink,
            ),
            Operation(
                method="POST",
                path="/v1/sinks/{sink}/resume",
                name="resumeSink",
                summary="Let a sink have what was held back",
                description="Whether it was paused or has disabled itself. What was parked goes on, in order; what was"
                " to be tried again some time is tried now, and circuit breakers are closed, on all instances.",
                run=self.resume_sink,
                body=ResumeOrder,
                answers={200: TriedSink},
                refusals=no_sink,
            ),
            Operation(
                method="POST",
                path="/v1/sinks/{sink}/retry",
                name="retrySink",
                summary="Try now what a sink did not take",
                description="When its destination is well again: what was to be tried again some time is due now, and"
                " circuit breakers are closed, on all instances.",
                run=self.retry_sink,
                body=RetryOrder,
                answers={200: TriedSink},
                refusals=no_sink,
            ),
            Operation(
                method="GET",
                path="/v1/jobs",
                name="listJobs",
                summary="Expected jobs, newest first",
                run=self.list_jobs,
                query=JobQuery,
                answers={200: JobPage},
                refusals=away,
            ),
            Operation(
                method="POST",
                path="/v1/jobs",
                name="registerJobs",
                summary="Expect the end of jobs",
                description="All or none. A job whose callback does not come until its deadline is asked about, so that"
                " it ends in an event all the same. Registering again is fine: what was missing is filled in, and"
                " nothing else changes.",
                run=self.register_jobs,
                body=JobOrders,
                max_body_bytes=4 << 20,
                answers={200: RegisteredJobs},
                refusals=away
                | {
                    409: "A nonce belongs to another job id.",
                    422: "A member is not known, missing or wrong; every mistake is told, with the place of its job in"
                    " the list, from 0.",
                },
            ),
            Operation(
                method="GET",
                path="/v1/report",
                name="report",
                summary="What became of expected jobs",
                description="By product, hour of registration and transport.",
                run=self.report,
                query=ReportQuery,
                answers={200: Report},
                refusals=away,
            ),
            Operation(
                method="GET",
                path="/metrics",
                name="metrics",
                summary="Numbers for Prometheus",
                run=self.metrics,
                answers={200: "text/plain"},
            ),
            Operation(
                method="GET",
                path="/openapi.json",
                name="openapi",
                summary="This document",
                run=self.openapi,
                answers={200: "application/json"},
            ),
        )


def _check_event_id(text: str) -> None:
    try:
        parse_event_id(text)
    except ValueError:
        raise _no_event() from None


def _no_event() -> Refused:
    return Refused(404, "no event has this id; expected evt_ and 34 hexadecimal digits")


def _read_replay_id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise _no_replay()
    return int(text)


def _no_replay() -> Refused:
    return Refused(404, "no replay has this id; expected a whole number")


# From requests to operations, and back


class _Endpoint:
    """The ASGI application behind one path: its operations by method. Whatever they raise on purpose is answered."""

    def __init__(self, operations: Mapping[str, Operation], context: Callable[[], object]) -> None:
        self._operations = operations
        self._context = context
        self._bodies = {
            method: BodyReader(max_bytes=operation.max_body_bytes, timeout_s=BODY_TIMEOUT_S)
            for method, operation in operations.items()
        }
        self.methods = tuple(operations)
        self._allowed = sorted({*operations, *(["HEAD"] if "GET" in operations else [])})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Rejected as error:
            headers = {"allow": ", ".join(error.allowed)} if isinstance(error, MethodNotAllowed) else {}
            if error.status in (408, 413):
                # What is left of the body would be taken for the next request, or read for nothing.
                headers["connection"] = "close"
            response = problem(error.status, headers, detail=str(error))
        except Unavailable as error:
            response = problem(503, {"retry-after": str(RETRY_AFTER_S)}, detail=str(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        operation = self._operations.get(method)
        if operation is None:
            allowed = self._allowed
            raise MethodNotAllowed(f"expected one of the methods {', '.join(allowed)}", allowed=allowed)
        if method != "GET":
            _check_content_type(request.headers.getlist("content-type"))
        arguments: dict[str, Any] = dict(request.path_params)
        query = _read_query(request, operation.query)
        if query is not None:
            arguments["query"] = query
        if operation.body is not None:
            body = await self._bodies[method].read(request.headers.raw, request.receive)
            arguments["body"] = _read_body(body, operation.body, self._context())
        answer = await operation.run(**arguments)
        return answer if isinstance(answer, Response) else _json(*answer)


def _read_query(request: Request, model: type[BaseModel] | None) -> BaseModel | None:
    items = request.query_params.multi_items()
    values = dict(items)
    if len(values) != len(items):
        twice = sorted({name for name, _ in items if len(request.query_params.getlist(name)) > 1})
        raise Refused(400, _shorten(f"expected each parameter once, found more of: {', '.join(twice)}"))
    if model is None:
        if values:
            raise Refused(400, _shorten(f"expected no parameters, found {', '.join(values)}"))
        return None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Refused(400, _describe(error, model)) from None


def _check_content_type(values: Sequence[str]) -> None:
    """
    Of every order, also one without a body: the three types that a web page may send elsewhere without being asked for
    leave are no JSON, and neither is none.
    """
    if len(values) != 1 or values[0].partition(";")[0].strip().lower() != "application/json":
        came = "another one" if len(values) == 1 else "several" if values else "none"
        raise Refused(
            415, f"expected Content-Type: application/json, came {came}; send it, also where there is no body"
        )


def _read_body(body: bytes, model: type[BaseModel], context: object) -> BaseModel:
    if not body:
        # As if it said nothing, so that what needs no order needs no body.
        body = b"{}"
    try:
        return model.model_validate_json(body, context=context)
    except ValidationError as error:
        is_json = all(mistake["type"] != "json_invalid" for mistake in error.errors(include_url=False))
        raise Refused(422 if is_json else 400, _describe(error, model)) from None


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Each mistake with its place and what was expected."""
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    told = []
    for mistake in mistakes[:MAX_MISTAKES]:
        places, members = mistake["loc"], model.model_fields
        if model is JobOrders:
            # The first place says only whether it is one job or a list of them.
            places, members = places[1:], JobOrder.model_fields
        place = ".".join(map(str, places))
        text = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            text = "not known here"
            if len(places) == 1 or model is JobOrders:
                text += f"; expected one of {', '.join(members)}"
        elif mistake["type"] == "model_type":
            text = "Input should be an object"
        told.append(f"{place[:100]}: {text}" if place else text)
    if len(mistakes) > MAX_MISTAKES:
        told.append(f"and {len(mistakes) - MAX_MISTAKES} more")
    return "; ".join(told)


def _shorten(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:1000]}…"


def _json(status: int, answer: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        answer.__pydantic_serializer__.to_json(answer), status, headers=headers, media_type="application/json"
    )


async def _answer_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = "nothing is here; GET /openapi.json says what there is" if error.status_code == 404 else None
    return problem(error.status_code, dict(error.headers or {}), detail=detail)


async def _answer_failure(_: Request, __: Exception) -> Response:
    return problem(500, detail="a defect; the service's log has its traceback")
