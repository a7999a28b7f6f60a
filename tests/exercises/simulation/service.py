"""The parts of the service as ``media_callbacks.app`` puts them together, with the simulation's clocks and edges."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from media_callbacks.assembly.sources import PARSERS, build_hold_rules, build_reader, build_source
from media_callbacks.config.settings import Settings, build_settings
from media_callbacks.config.sinks import route
from media_callbacks.delivery.dispatcher import Destination, Dispatcher
from media_callbacks.delivery.replayer import Replayer
from media_callbacks.edge.answers import Answer, Refusals
from media_callbacks.edge.certificates import CertificateStore
from media_callbacks.edge.core import Edge
from media_callbacks.edge.endpoint import CallbackEndpoint
from media_callbacks.edge.health import Readiness
from media_callbacks.healing.queries.catalogue import QUERIES, build_query_source
from media_callbacks.healing.queries.findings import Patience
from media_callbacks.healing.queue_poller import QueuePoller
from media_callbacks.healing.reconciler import Desk, Reconciler
from media_callbacks.inbox.journal.store import JournaledStore
from media_callbacks.inbox.records import Inquiry
from media_callbacks.inbox.roles import ReceiptStore
from media_callbacks.inbox.sqlite.inbox import SqliteInbox
from media_callbacks.model.receipts import Receipt
from media_callbacks.observe.metrics import Metrics
from media_callbacks.observe.refused import RefusedRequests
from media_callbacks.observe.reporting import Reporter
from media_callbacks.rehearsal.simulate import SimulatedRequest
from media_callbacks.sources.base import Message
from media_callbacks.sources.intake import build_receipt
from media_callbacks.sources.transports.mns_queue import MnsQueueSource
from media_callbacks.timing.limited_log import LimitedLog
from media_callbacks.upkeep.clock_watch import ClockWatch
from media_callbacks.upkeep.retention import Retention
from tests.exercises.simulation.journals import DistantStore, Way
from tests.exercises.simulation.loop import SimulatedLoop
from tests.exercises.simulation.receivers import DeliveryLedger, Receiver, SimulatedSink
from tests.exercises.simulation.vendor import QUEUE, SimulatedQueue, Vendor

RETRY_DELAYS_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
SINK_TIMEOUT_S = 10.0
GIVE_UP_S = 6 * 3600.0
# Where keys are not kept for longer than the week.
DEDUP_S = 3 * 86_400.0
RETENTION_S = 86_400.0
STOP_TIMEOUT_S = 5.0
_JOURNAL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    What differs from one start to the next.

    Attributes:
        has_audit: Whether there is a second sink.
        confirms: Whether what VOD's callbacks say is confirmed before it leaves.
        keeps_short: Whether payloads are kept for a day and keys for three, so that a week sees them go.
    """

    has_audit: bool = True
    confirms: bool = True
    keeps_short: bool = False


@cache
def settings_of(configuration: Configuration) -> Settings:
    sinks = ("orders", "audit") if configuration.has_audit else ("orders",)
    webhook = {"kind": "webhook", "url": "http://127.0.0.1:9/", "secrets": ["whsec_" + "c2VjcmV0" * 6]}
    tables: dict[str, Any] = {
        "store": {"url": "sqlite:////nowhere/inbox.db"}
        | (
            {"retention_days": RETENTION_S / 86_400, "dedup_days": DEDUP_S / 86_400}
            if configuration.keeps_short
            else {}
        ),
        "jobs": {"deadline_s": 1800, "retry_s": 60, "give_up_s": GIVE_UP_S},
        "sources": {
            "vod": {
                "product": "vod",
                "transport": "http",
                "path": "/callbacks/vod",
                "url": "https://cb.example.com/callbacks/vod",
                "keys": ["vod-key-1f6c0a52"],
                "confirm": "always" if configuration.confirms else "never",
                "confirm_timeout_s": 600,
            },
            "gif": {
                "product": "multimediaai",
                "transport": "token-url",
                "path": "/callbacks/gif",
                "url": "https://cb.example.com/callbacks/gif",
                "keys": ["1:YSBrZXkgb2YgdGhpcnR5LXR3byBieXRlcyBvciBtb3Jl"],
                "confirm_timeout_s": 600,
            },
            "mts": {
                "product": "mts",
                "transport": "mns-queue",
                "endpoint": "http://127.0.0.1:9",
                "queue": QUEUE,
            },
        },
        "vendor": {
            "main": {"access_key_id": "id", "access_key_secret": "secret-of-simulation", "region": "cn-shanghai"}
        },
        "sinks": dict.fromkeys(sinks, webhook),
    }
    return build_settings(tables, environ={})


class Service:
    """One of a process's services: all parts over an inbox that may have several."""

    def __init__(
        self,
        settings: Settings,
        inbox: SqliteInbox,
        *,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float],
        loop: SimulatedLoop,
        rng: Random,
        vendor: Vendor,
        receivers: Mapping[str, Receiver],
        ledger: DeliveryLedger,
        way: Way,
        journal: Path | None,
    ) -> None:
        self.settings, self.inbox, self.clock = settings, inbox, clock
        self._vendor, self._loop = vendor, loop
        self.read_again = build_reader(settings)
        self.receipts: ReceiptStore = DistantStore(inbox, way, rng)
        if journal is not None:
            self.receipts = JournaledStore(
                self.receipts, journal, max_bytes=_JOURNAL_BYTES, rebuild=self.read_again, wait=loop.wait
            )
        self.metrics = Metrics()
        self._route = partial(route, settings.sinks)
        sinks = [
            SimulatedSink(
                receivers[name],
                batch_size=1 + 3 * (name == "audit"),
                concurrency=4,
                timeout_s=SINK_TIMEOUT_S,
                rng=rng,
                time=loop.time,
                store_ms=inbox._clock.now,
                ledger=ledger,
            )
            for name in settings.sinks
        ]
        self.dispatcher = Dispatcher(
            inbox,
            [Destination(sink, delays_s=RETRY_DELAYS_S) for sink in sinks],
            clock=clock,
            elapsed=elapsed,
            rng=rng,
            observer=self.metrics,
            stop_timeout_s=STOP_TIMEOUT_S,
            wait=loop.wait,
        )
        self.replayer = Replayer(inbox, wait=loop.wait)
        self.clock_watch = ClockWatch(inbox, clock=clock, observer=self.metrics, wait=loop.wait)
        self.retention = Retention(
            inbox,
            retention_days=settings.store.retention_days,
            dedup_days=settings.store.dedup_days,
            rng=rng,
            wait=loop.wait,
            monotonic=loop.time,
        )
        products = {source.product for source in settings.sources.values()}
        self.reconciler = Reconciler(
            inbox,
            queries={product: rules for product, rules in QUERIES.items() if product in products},
            find_desk=self._find_desk,
            patience=Patience(retry_s=settings.jobs.retry_s, give_up_s=settings.jobs.give_up_s),
            route=self._route,
            rng=rng,
            observer=self.metrics,
            stop_timeout_s=STOP_TIMEOUT_S,
            wait=loop.wait,
        )
        self.poller = self._build_poller(rng, elapsed)
        self.edge = self._build_edge()

    def _find_desk(self, inquiry: Inquiry) -> Desk:
        product, account = inquiry.reference.product, inquiry.reference.account
        name = next(name for name, source in self.settings.sources.items() if source.product == product)
        return Desk(_query_source(name, product, account), self._vendor.call)

    def _build_poller(self, rng: Random, elapsed: Callable[[], float]) -> QueuePoller:
        table = self.settings.sources["mts"]
        source = MnsQueueSource(name="mts", product="mts", account=table.account_name, parser=PARSERS["mts"])
        holds = build_hold_rules("mts", self.settings)

        def build(message: Message, received_at: datetime) -> Receipt:
            return build_receipt(source, message, received_at=received_at, route=self._route, holds=holds)

        return QueuePoller(
            source,
            SimulatedQueue(self._vendor, self._loop, rng),
            self.receipts,
            build=build,
            report=Reporter(self.metrics).report,
            observe=partial(self.metrics.queue_polled, "mts"),
            clock=self.clock,
            rng=rng,
            timer=elapsed,
        )

    def _build_edge(self) -> Edge:
        exact: dict[str, CallbackEndpoint] = {}
        below: dict[str, CallbackEndpoint] = {}
        for name, table in self.settings.callback_sources.items():
            source = build_source(name, table)
            (below if source.transport == "token-url" else exact)[source.path] = CallbackEndpoint(
                source,
                inbox=self.receipts,
                route=self._route,
                certificates=CertificateStore(),
                clock=self.clock,
                verified=self.metrics.callback_verified,
                holds=build_hold_rules(name, self.settings),
            )
        server = self.settings.server
        return Edge(
            exact,
            below,
            readiness=Readiness(self.receipts, monotonic=self._loop.time),
            refusals=Refusals(self.metrics, LimitedLog(monotonic=self._loop.time), RefusedRequests(self.clock)),
            reporter=Reporter(self.metrics),
            max_body_bytes=server.max_body_bytes,
            body_timeout_s=server.body_timeout_s,
        )

    async def start(self) -> None:
        await self.receipts.open()
        self.dispatcher.start()
        self.replayer.start()
        self.clock_watch.start()
        self.retention.start()
        self.reconciler.start()
        self.poller.start()

    async def stop(self) -> None:
        await asyncio.gather(
            self.clock_watch.stop(),
            self.retention.stop(),
            self.replayer.stop(),
            self.reconciler.stop(),
            self.dispatcher.stop(),
            self.poller.stop(STOP_TIMEOUT_S),
        )
        await self.receipts.close()

    def release(self) -> None:
        """It has died: what it had open, the operating system closes."""
        if isinstance(self.receipts, JournaledStore):
            self.receipts._journal.close()

    def receive(self, request: SimulatedRequest, answered: Callable[[Answer], None]) -> None:
        """A request has come, to its last byte."""
        headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
        headers.append((b"content-length", b"%d" % len(request.body)))
        path, _, query = request.target.partition("?")
        exchange = self.edge.begin(
            request.method, path, path.encode(), query.encode(), headers, head_bytes=500, answered=answered
        )
        exchange.receive(request.body)
        exchange.end()


@cache
def _query_source(name: str, product: Any, account: str) -> Any:
    return build_query_source(name, product, account)


def close_all(inboxes: Sequence[SqliteInbox]) -> None:
    """Of processes that have died: what the operating system would close."""
    for inbox in inboxes:
        for part in (inbox._writer, inbox._listing, inbox._dispatching):
            connection = None if part is None else part._connection
            if connection is not None:
                with suppress(Exception):
                    connection.close()
