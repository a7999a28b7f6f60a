"""
The composition root: the one place where concrete parts meet.

    create_app(settings)       the public application: callbacks and health
    create_admin_app(service)  the operators' application: metrics, events, receipts

``create_app`` is a plain ASGI application with a lifespan, for any ASGI server that gives ``raw_path``; the command
``media-callbacks serve`` runs both under uvicorn.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from random import Random

from media_callbacks.extras import explain_missing

# Before anything of the service is imported: other ASGI servers than ours begin here.
if _missing := explain_missing("server"):
    raise ImportError(_missing)

from starlette.types import ASGIApp, Receive, Scope, Send

from media_callbacks.admin.api import AdminApi
from media_callbacks.admin.feed import Feed
from media_callbacks.admin.guard import AdminGuard
from media_callbacks.admin.waiting import JobWatch
from media_callbacks.aliyun.credentials import CredentialsProvider, choose_credentials
from media_callbacks.aliyun.mns import MnsQueue
from media_callbacks.aliyun.openapi import OpenApiClient
from media_callbacks.aliyun.rate_limits import rate_per_s
from media_callbacks.assembly.sinks import build_sinks
from media_callbacks.assembly.sources import PARSERS, build_hold_rules, build_reader, build_source, canonical_urls
from media_callbacks.config.settings import Settings, load_settings
from media_callbacks.config.sinks import SinkSettings, route, route_operational, wants_nothing_else
from media_callbacks.config.sources import MnsPushSourceSettings, MnsQueueSourceSettings
from media_callbacks.config.tracing import TracingSettings, read_tracing
from media_callbacks.config.vendor import VendorSettings
from media_callbacks.delivery.dispatcher import Destination, Dispatcher
from media_callbacks.delivery.replayer import Replayer
from media_callbacks.edge.answers import Refusals
from media_callbacks.edge.asgi import EdgeApp
from media_callbacks.edge.certificates import CertificateStore
from media_callbacks.edge.core import Edge
from media_callbacks.edge.endpoint import CallbackEndpoint
from media_callbacks.edge.health import Readiness
from media_callbacks.healing.queries.catalogue import QUERIES, build_query_source
from media_callbacks.healing.queries.findings import Patience
from media_callbacks.healing.queue_poller import QueuePoller
from media_callbacks.healing.reconciler import Desk, Reconciler
from media_callbacks.inbox.factory import build_inbox
from media_callbacks.inbox.journal.store import JournaledStore
from media_callbacks.inbox.records import Inquiry
from media_callbacks.inbox.roles import Inbox, ReceiptStore
from media_callbacks.model.kinds import Product
from media_callbacks.model.receipts import Receipt
from media_callbacks.observe.metrics import Metrics
from media_callbacks.observe.refused import RefusedRequests
from media_callbacks.observe.reporting import Reporter
from media_callbacks.observe.tracing import Tracing
from media_callbacks.page.app import PATH, Page
from media_callbacks.sinks.base import Sink
from media_callbacks.sources.base import Message, Source
from media_callbacks.sources.intake import build_receipt
from media_callbacks.sources.transports.mns_push import (
    KNOWN_CERTIFICATE_URL,
)
from media_callbacks.sources.transports.mns_queue import MnsQueueSource
from media_callbacks.timing.clock import utc_now
from media_callbacks.timing.limited_log import LimitedLog
from media_callbacks.upkeep.activity import ActivityKeeper, MakeExplain
from media_callbacks.upkeep.clock_watch import ClockWatch
from media_callbacks.upkeep.retention import Retention
from media_callbacks.upkeep.troubles import INTERVAL_S, TroubleWatch


def _destination(sink: Sink, settings: SinkSettings) -> Destination:
    return Destination(sink, delays_s=settings.retry_delays_s, rate_per_s=settings.rate_per_s)


# What events of expected jobs name as their source where none is configured for their product and account.
UNCONFIGURED = "jobs"


@dataclass(frozen=True, slots=True)
class Vendor:
    """What a ``[vendor.<name>]`` table gives."""

    credentials: CredentialsProvider
    client: OpenApiClient
    region: str


class Service:
    """
    The parts of one running service, wired together.

    Args:
        clock: The time in UTC.
        make_explain: Makes what says why a request was refused; None where the reason is all that is kept.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = utc_now,
        make_explain: MakeExplain | None = None,
        tracing: TracingSettings | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.route = partial(route, settings.sinks)
        self.metrics = Metrics()
        self.tracing = (
            None
            if tracing is None
            else Tracing(
                tracing,
                kinds={name: sink.kind for name, sink in settings.sinks.items()},
                clock=clock,
                rng=Random(),  # noqa: S311 - ids are no secrets
            )
        )
        self.begin_trace = None if self.tracing is None else self.tracing.begin
        self.refused_requests = RefusedRequests(clock)
        self.refusals = Refusals(self.metrics, LimitedLog(), self.refused_requests)
        self.callback_sources = [build_source(*named) for named in settings.callback_sources.items()]
        self.inbox = self._build_inbox()
        self.receipt_store = self._build_receipt_store()
        self.readiness = Readiness(self.receipt_store, monotonic=time.monotonic)
        # Sources that pin their certificates have them to themselves; all others share what was fetched.
        self.fetched_certificates = CertificateStore(
            prefetch=[KNOWN_CERTIFICATE_URL]
            if any(isinstance(s, MnsPushSourceSettings) and not s.certificates for s in settings.sources.values())
            else [],
            changed=self.metrics.certificate_changed,
        )
        sinks = build_sinks(settings.sinks, settings.vendor)
        self.dispatcher = Dispatcher(
            self.inbox,
            [_destination(sink, settings.sinks[sink.name]) for sink in sinks],
            clock=clock,
            rng=Random(),  # noqa: S311 - jitter is no secret
            observer=self.metrics,
            tracer=self.tracing,
            stop_timeout_s=settings.server.stop_timeout_s,
        )
        self.replayer = Replayer(self.inbox)
        self.job_watch = JobWatch(self.inbox)
        self.feed = Feed(self.inbox)
        self.clock_watch = ClockWatch(self.inbox, clock=clock, observer=self.metrics)
        self.activity = ActivityKeeper(
            self.inbox,
            settings,
            metrics=self.metrics,
            refused=self.refused_requests,
            explain=None if make_explain is None else make_explain(settings, self.fetched_certificates.known),
        )
        self.trouble_watch = TroubleWatch(
            self.inbox,
            host=socket.gethostname(),
            sources=settings.sources,
            sinks=[name for name, sink in settings.sinks.items() if not wants_nothing_else(sink)],
            route=partial(route_operational, settings.sinks),
            counters=self.metrics,
            breakers=self.dispatcher.breaker_states,
            died=self.dispatcher.count_died,
            journaled=self._count_journal,
        )
        self._vendors = {name: self._build_vendor(name, vendor) for name, vendor in settings.vendor.items()}
        self._desks: dict[tuple[str | None, Product, str], Desk] = {}
        self.reconciler = Reconciler(
            self.inbox,
            queries=QUERIES,
            find_desk=self._find_desk,
            patience=Patience(retry_s=settings.jobs.retry_s, give_up_s=settings.jobs.give_up_s),
            route=self.route,
            rng=Random(),  # noqa: S311 - jitter is no secret
            observer=self.metrics,
            tracing=self.tracing,
            stop_timeout_s=settings.server.stop_timeout_s,
        )
        self._queues = [
            self._build_queue(name, source)
            for name, source in settings.sources.items()
            if isinstance(source, MnsQueueSourceSettings)
        ]
        self.retention = Retention(
            self.inbox,
            retention_days=settings.store.retention_days,
            dedup_days=settings.store.dedup_days,
            rng=Random(),  # noqa: S311 - jitter is no secret
        )

    def _build_inbox(self) -> Inbox:
        store = self.settings.store
        return build_inbox(
            store.url,
            auto_migrate=store.auto_migrate,
            pool_size=store.pool_size,
            must_connect=self.settings.server.journal_path is None,
        )

    def count_journaled(self) -> int:
        """How many receipts are in the journal, those that were set aside included."""
        return sum(self._count_journal())

    def refusing_queues(self) -> dict[str, str]:
        """What queues say that let this instance fetch nothing, by the names of their sources."""
        return {poller.source: poller.refusal for _, poller in self._queues if poller.refusal is not None}

    def _count_journal(self) -> tuple[int, int]:
        """Receipts that wait, and those that were set aside."""
        store = self.receipt_store
        return (store.receipts, store.set_aside) if isinstance(store, JournaledStore) else (0, 0)

    def _build_receipt_store(self) -> ReceiptStore:
        """The inbox, or the journal in front of it: opening and closing this does so with both."""
        journal_path = self.settings.server.journal_path
        if journal_path is None:
            return self.inbox
        journaled = JournaledStore(
            self.inbox,
            Path(journal_path),
            max_bytes=self.settings.server.journal_max_bytes,
            rebuild=build_reader(self.settings),
            drained=self.metrics.receipt_stored,
        )
        self.metrics.watch_journal(
            receipts=lambda: journaled.receipts,
            bytes_used=lambda: journaled.bytes_used,
            set_aside=lambda: journaled.set_aside,
        )
        return journaled

    def _build_vendor(self, name: str, settings: VendorSettings) -> "Vendor":
        credentials = choose_credentials(
            f"vendor.{name}",
            access_key_id=settings.access_key_id,
            access_key_secret=settings.access_key_secret,
            security_token=settings.security_token,
        )
        client = OpenApiClient(
            credentials,
            region=settings.region,
            endpoints=settings.endpoints,
            observe=self.metrics.vendor_called,
            rates=lambda api, action: settings.rates.get(action) or rate_per_s(api, action),
            clock=self.clock,
        )
        return Vendor(credentials, client, settings.region)

    def _build_queue(self, name: str, settings: MnsQueueSourceSettings) -> tuple[MnsQueue, QueuePoller]:
        vendor_name = self.settings.vendor_of(name)
        assert vendor_name is not None, "checked with the configuration"
        vendor = self._vendors[vendor_name]
        queue = MnsQueue(
            settings.endpoint,
            settings.queue,
            credentials=vendor.credentials,
            clock=self.clock,
            signature=settings.signature,
            region=vendor.region,
        )
        source = MnsQueueSource(
            name=name, product=settings.product, account=settings.account_name, parser=PARSERS[settings.product]
        )
        holds = build_hold_rules(name, self.settings)

        def build(message: Message, received_at: datetime) -> Receipt:
            if self.begin_trace is not None:
                self.begin_trace(message)
            return build_receipt(source, message, received_at=received_at, route=self.route, holds=holds)

        poller = QueuePoller(
            source,
            queue,
            self.receipt_store,
            build=build,
            report=Reporter(self.metrics, self.tracing).report,
            observe=partial(self.metrics.queue_polled, name),
            clock=self.clock,
            rng=Random(),  # noqa: S311 - jitter is no secret
            pollers=settings.pollers,
            long_poll_s=settings.long_poll_s,
        )
        return queue, poller

    def _find_desk(self, inquiry: Inquiry) -> Desk:
        """
        Where an inquiry is asked: with the credentials of the source that the event came through; of an expected job,
        of the first source of its product and account, else with the only credentials there are.
        """
        product, account = inquiry.reference.product, inquiry.reference.account
        came_through = None if inquiry.event is None else inquiry.event.data.source
        key = (came_through, product, account)
        desk = self._desks.get(key)
        if desk is None:
            desk = self._desks[key] = self._build_desk(came_through, product, account)
        return desk

    def can_ask(self, product: Product, account: str) -> bool:
        """Whether there are credentials to ask about an expected job."""
        return self._build_desk(None, product, account).call is not None

    def _build_desk(self, came_through: str | None, product: Product, account: str) -> Desk:
        sources = self.settings.sources
        own = [name for name, source in sources.items() if (source.product, source.account_name) == (product, account)]
        name = next((name for name in own if name == came_through), None)
        if name is None:
            name = next((name for name in own if self.settings.vendor_of(name) is not None), own[0] if own else None)
        if name is not None:
            vendor = self.settings.vendor_of(name)
        else:
            vendor = next(iter(self._vendors)) if len(self._vendors) == 1 else None
        source = build_query_source(name or UNCONFIGURED, product, account)
        return Desk(source, None if vendor is None else self._vendors[vendor].client.call)

    def certificates_of(self, source: Source) -> CertificateStore:
        settings = self.settings.sources[source.name]
        if isinstance(settings, MnsPushSourceSettings) and settings.certificates:
            return CertificateStore(pinned=canonical_urls(settings.certificates))
        return self.fetched_certificates

    async def start(self) -> None:
        """
        Raises:
            ConfigError: The store can't be used as configured.
        """
        if self.tracing is not None:
            self.tracing.start()
        await self.receipt_store.open()
        await self.fetched_certificates.open()
        self.dispatcher.start()
        self.replayer.start()
        self.feed.start()
        self.clock_watch.start()
        self.activity.start()
        self.trouble_watch.start(after_s=INTERVAL_S)
        self.retention.start()
        self.reconciler.start()
        self.job_watch.start()
        for _, poller in self._queues:
            poller.start()

    async def stop_working(self) -> None:
        """Stop everything that happens by itself; callbacks are still taken. May come twice."""
        # All at once: each has the whole of stop_timeout_s for what is under way.
        await asyncio.gather(
            self.job_watch.stop(),
            self.clock_watch.stop(),
            self.activity.stop(),
            self.trouble_watch.stop(),
            self.retention.stop(),
            self.replayer.stop(),
            self.feed.stop(),
            self.reconciler.stop(),
            self.dispatcher.stop(),
            *(poller.stop(self.settings.server.stop_timeout_s) for _, poller in self._queues),
        )

    async def stop(self) -> None:
        self.readiness.is_draining = True
        await self.stop_working()
        for queue, _ in self._queues:
            await queue.close()
        for vendor in self._vendors.values():
            await vendor.client.close()
        await self.fetched_certificates.close()
        await self.receipt_store.close()
        if self.tracing is not None:
            await self.tracing.stop()


def create_app(settings: Settings | None = None, *, make_explain: MakeExplain | None = None) -> EdgeApp[Service]:
    """
    The public application.

    Args:
        settings: Read as the command line would when left out, so that
            ``uvicorn --factory media_callbacks.app:create_app`` works.
        make_explain: See ``Service``.

    Raises:
        ConfigError: The configuration is wrong.
    """
    service = Service(
        settings if settings is not None else load_settings(environ=os.environ),
        make_explain=make_explain,
        tracing=read_tracing(os.environ),
    )
    exact: dict[str, CallbackEndpoint] = {}
    below: dict[str, CallbackEndpoint] = {}
    for source in service.callback_sources:
        (below if source.transport == "token-url" else exact)[source.path] = CallbackEndpoint(
            source,
            inbox=service.receipt_store,
            route=service.route,
            certificates=service.certificates_of(source),
            clock=service.clock,
            verified=service.metrics.callback_verified,
            holds=build_hold_rules(source.name, service.settings),
            begin_trace=service.begin_trace,
        )
    server = service.settings.server
    edge = Edge(
        exact,
        below,
        readiness=service.readiness,
        refusals=service.refusals,
        reporter=Reporter(service.metrics, service.tracing),
        max_body_bytes=server.max_body_bytes,
        body_timeout_s=server.body_timeout_s,
    )
    return EdgeApp(edge, service)


def create_admin_app(service: Service) -> ASGIApp:
    """The operators' application, for an address that the public can't reach. It does not start the service."""

    api = AdminApi(
        service.inbox,
        sinks={name: sink.kind for name, sink in service.settings.sinks.items()},
        sources=service.settings.sources,
        breaker_states=service.dispatcher.breaker_states,
        clock=service.clock,
        replay_created=service.replayer.wake,
        metrics=service.metrics,
        watch=service.job_watch,
        families={product: rules.families for product, rules in QUERIES.items()},
        deadline_s=service.settings.jobs.deadline_s,
        jobs_registered=service.reconciler.wake,
        can_ask=service.can_ask,
        journaled=service.count_journaled,
        refusing_queues=service.refusing_queues,
        feed=service.feed,
    )
    admin = service.settings.admin
    guarded = AdminGuard(api.app(), tokens=admin.token, jobs_tokens=admin.jobs_token)
    if admin.page == "off":
        return guarded
    page = Page(api, service.settings, clock=service.clock).app()

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and (scope["path"] == PATH or scope["path"].startswith(f"{PATH}/"))
        await (page if is_page else guarded)(scope, receive, send)

    return choose
