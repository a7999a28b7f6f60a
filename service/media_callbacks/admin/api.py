"""The operators' API: what there is to see and what can be steered, as JSON, and the document that says so."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from media_callbacks.admin.endpoint import Endpoint, call
from media_callbacks.admin.erasures import Erasures
from media_callbacks.admin.events import Events
from media_callbacks.admin.feed import Feed, Following
from media_callbacks.admin.jobs import Jobs
from media_callbacks.admin.monitoring import Monitoring
from media_callbacks.admin.openapi import build_document
from media_callbacks.admin.operations import Operation, operation, operations_of
from media_callbacks.admin.receipts import Receipts
from media_callbacks.admin.refused import RefusedLog
from media_callbacks.admin.replays import Replays
from media_callbacks.admin.sinks import Sinks
from media_callbacks.admin.sources import Sources
from media_callbacks.admin.status import StatusDesk
from media_callbacks.admin.waiting import JobWatch
from media_callbacks.config.sources import SourceSettings
from media_callbacks.delivery.breaker import BreakerState
from media_callbacks.edge.answers import problem
from media_callbacks.healing.queries.base import Family
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.kinds import Product
from media_callbacks.observe.metrics import Metrics
from media_callbacks.version import read_version


class _AnythingConvertor(StringConvertor):
    regex = r"(?s:.+)"


register_url_convertor("anything", _AnythingConvertor())


class AdminApi:
    """
    What operators ask: events with their receipts and deliveries, receipts, those without an event included, sinks,
    replays, jobs and what became of them; and what they order: replays, pauses, jobs to expect.

    Mistakes are answered with problem+json (RFC 9457) that says what was expected: 400 for those in a query, 422 for
    those in a body.

    Args:
        sinks: Kinds of the configured sinks by name.
        sources: Tables of the configured sources by name.
        breaker_states: States of this instance's circuit breakers by sink.
        clock: The time in UTC.
        replay_created: Told that there is something to do for whoever advances replays.
        families: The jobs that can be expected, by product.
        deadline_s: Until the deadline of a registration that names none.
        jobs_registered: Told that there is something to do for whoever asks the vendor.
        watch: Who tells those who wait of the ends of jobs.
        can_ask: Whether there are credentials to ask about a product's jobs in an account.
        journaled: How many receipts are in this instance's journal.
        refusing_queues: What queues say that let this instance fetch nothing, by the names of their sources.
        feed: Events as they come. It is started and stopped by whoever made it.
    """

    def __init__(
        self,
        inbox: AdminStore,
        *,
        sinks: Mapping[str, str],
        sources: Mapping[str, SourceSettings] = MappingProxyType({}),
        breaker_states: Callable[[], Mapping[str, BreakerState]],
        clock: Callable[[], datetime],
        replay_created: Callable[[], None],
        metrics: Metrics,
        watch: JobWatch,
        families: Mapping[Product, Mapping[str, Family]] = MappingProxyType({}),
        deadline_s: float = 3600.0,
        jobs_registered: Callable[[], None] = lambda: None,
        can_ask: Callable[[Product, str], bool] = lambda *_: True,
        journaled: Callable[[], int] = lambda: 0,
        refusing_queues: Callable[[], Mapping[str, str]] = dict,
        feed: Feed,
    ) -> None:
        known_sinks, known_sources = Sinks(inbox, sinks, breaker_states), Sources(inbox, sources)
        replays = Replays(inbox, known_sinks, replay_created)
        self._jobs = Jobs(
            inbox,
            clock=clock,
            families=families,
            default_deadline=timedelta(seconds=deadline_s),
            jobs_registered=jobs_registered,
            watch=watch,
            can_ask=can_ask,
        )
        self.operations = tuple(
            declared
            for owner in (
                Events(inbox, known_sinks, replays),
                Following(feed),
                Receipts(inbox),
                replays,
                Erasures(inbox, journaled),
                known_sinks,
                known_sources,
                RefusedLog(inbox, sources, families),
                self._jobs,
                StatusDesk(inbox, known_sinks, known_sources, journaled, refusing_queues),
                Monitoring(inbox, known_sinks, metrics, clock),
                self,
            )
            for declared in operations_of(owner)
        )
        self._by_name = {declared.name: declared for declared in self.operations}
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
        for declared in self.operations:
            by_path.setdefault(declared.path, {})[declared.method] = declared
        # A vendor's job id may have any character, slashes and line ends, too.
        return [
            Route(path.replace("{job_id}", "{job_id:anything}"), Endpoint(methods, self._jobs.rules))
            for path, methods in by_path.items()
        ]

    async def call(
        self,
        name: str,
        path: Mapping[str, str] = MappingProxyType({}),
        *,
        query: Mapping[str, str] = MappingProxyType({}),
        body: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """
        One of the operations, by its name, for whoever is in this process.

        Raises:
            Refused: As it would be by HTTP.
        """
        return await call(self._by_name[name], path, query=query, body=body, context=self._jobs.rules())

    @operation("GET", "/openapi.json", "This document", answers={200: "application/json"})
    async def openapi(self) -> Response:
        return JSONResponse(self.document)


async def _answer_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = "nothing is here; GET /openapi.json says what there is" if error.status_code == 404 else None
    return problem(error.status_code, dict(error.headers or {}), detail=detail)


async def _answer_failure(_: Request, __: Exception) -> Response:
    return problem(500, detail="a defect; the service's log has its traceback")
