"""
The composition root: the one place where concrete parts meet.

    create_app(settings)       the public application: callbacks and health
    create_admin_app(service)  the operators' application: metrics, events, receipts

``create_app`` is a plain ASGI application with a lifespan, for any ASGI server that gives ``raw_path``; the command
``media-callbacks serve`` runs both under uvicorn.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from service.admin import AdminApi, AdminGuard
from service.certs import CertificateStore
from service.dispatcher import Destination, Dispatcher
from service.endpoints import (
    BodyReader,
    CallbackEndpoint,
    CallbackRouter,
    ErrorAnswers,
    Readiness,
)
from service.events import Event
from service.inbox.base import Inbox, Receipt, StoredReceipt
from service.inbox.factory import build_inbox
from service.inbox.journal import JournaledInbox
from service.intake import build_receipt, restore_message
from service.metrics import Metrics
from service.replayer import Replayer
from service.retention import Retention
from service.settings import (
    HttpSourceSettings,
    MnsPushSourceSettings,
    Settings,
    SinkSettings,
    SourceSettings,
    TokenUrlSourceSettings,
    load_settings,
    route,
)
from service.sinks.base import Sink
from service.sinks.registry import build_sinks
from service.sources import gif, ims, mts, vod
from service.sources.base import Parser, Source
from service.sources.http import HttpSource
from service.sources.mns_push import (
    KNOWN_CERTIFICATE_URL,
    MnsPushSource,
    certificate_hosts,
    parse_certificate_url,
    parse_signed_target,
)
from service.sources.token_url import TokenUrlSource

PARSERS: Mapping[str, Parser] = {"vod": vod.parse, "ims": ims.parse, "mts": mts.parse, "multimediaai": gif.parse}


def utc_now() -> datetime:
    return datetime.now(UTC)


def build_source(name: str, settings: SourceSettings) -> Source:
    """The source that a ``[sources.<name>]`` table describes."""
    account, parser = settings.account_name, PARSERS[settings.product]
    match settings:
        case HttpSourceSettings():
            return HttpSource(
                name=name,
                product=settings.product,
                account=account,
                path=settings.path,
                urls=settings.url,
                keys=settings.keys,
                max_age_s=settings.max_age_s,
                parser=parser,
            )
        case MnsPushSourceSettings():
            return MnsPushSource(
                name=name,
                product=settings.product,
                account=account,
                path=settings.path,
                topics=frozenset(settings.topics),
                certificate_hosts=certificate_hosts(settings.regions),
                pinned_urls=frozenset(_canonical(settings.certificates)) or None,
                signed_target=None if settings.url is None else parse_signed_target(settings.url),
                max_age_s=settings.max_age_s,
                parser=parser,
            )
        case TokenUrlSourceSettings():
            return TokenUrlSource(
                name=name,
                product=settings.product,
                account=account,
                path=settings.path,
                url=settings.url,
                keys=settings.key_bytes,
                minting_key_id=settings.minting_key_id,
                parser=parser,
            )


def _canonical(certificates: Mapping[str, str]) -> dict[str, str]:
    """With each URL as a push's header is read, which may say http or port 443."""
    found = {}
    for url, pem in certificates.items():
        parsed = parse_certificate_url(url)
        found[parsed[1] if parsed else url] = pem
    return found


def _destination(sink: Sink, settings: SinkSettings) -> Destination:
    return Destination(sink, delays_s=settings.retry_delays_s, rate_per_s=settings.rate_per_s)


class Service:
    """
    The parts of one running service, wired together.

    Args:
        clock: The time in UTC.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings = settings
        self.clock = clock
        self.metrics = Metrics()
        self.sources = [build_source(name, source) for name, source in settings.sources.items()]
        self._sources_by_name = {source.name: source for source in self.sources}
        self.inbox = self._build_inbox()
        self.readiness = Readiness(self.inbox, monotonic=time.monotonic)
        # Sources that pin their certificates have them to themselves; all others share what was fetched.
        self.fetched_certificates = CertificateStore(
            prefetch=[KNOWN_CERTIFICATE_URL]
            if any(isinstance(s, MnsPushSourceSettings) and not s.certificates for s in settings.sources.values())
            else [],
            changed=self.metrics.certificate_changed,
        )
        sinks = build_sinks(settings.sinks)
        self.dispatcher = Dispatcher(
            self.inbox,
            [_destination(sink, settings.sinks[sink.name]) for sink in sinks],
            clock=clock,
            rng=Random(),  # noqa: S311 - jitter is no secret
            observer=self.metrics,
            stop_timeout_s=settings.server.stop_timeout_s,
        )
        self.replayer = Replayer(self.inbox, clock=clock)
        self.retention = Retention(
            self.inbox,
            retention_days=settings.store.retention_days,
            dedup_days=settings.store.dedup_days,
            clock=clock,
            rng=Random(),  # noqa: S311 - jitter is no secret
        )

    def _build_inbox(self) -> Inbox:
        store, journal_path = self.settings.store, self.settings.server.journal_path
        inbox = build_inbox(
            store.url,
            auto_migrate=store.auto_migrate,
            pool_size=store.pool_size,
            must_connect=journal_path is None,
        )
        if journal_path is None:
            return inbox
        journaled = JournaledInbox(
            inbox,
            Path(journal_path),
            max_bytes=self.settings.server.journal_max_bytes,
            rebuild=self._rebuild,
            drained=self.metrics.receipt_stored,
        )
        self.metrics.watch_journal(receipts=lambda: journaled.receipts, bytes_used=lambda: journaled.bytes_used)
        return journaled

    def _rebuild(self, stored: StoredReceipt) -> Receipt | None:
        """What a journaled receipt means, or None where its source is no longer configured."""
        source = self._sources_by_name.get(stored.source)
        if source is None:
            return None
        return build_receipt(source, restore_message(stored), received_at=stored.received_at, route=self.route)

    def certificates_of(self, source: Source) -> CertificateStore:
        settings = self.settings.sources[source.name]
        if isinstance(settings, MnsPushSourceSettings) and settings.certificates:
            return CertificateStore(pinned=_canonical(settings.certificates))
        return self.fetched_certificates

    def route(self, event: Event) -> tuple[str, ...]:
        """The names of the sinks that an event goes to."""
        return route(self.settings.sinks, event)

    async def start(self) -> None:
        """
        Raises:
            ConfigError: The store can't be used as configured.
        """
        await self.inbox.open()
        await self.fetched_certificates.open()
        self.dispatcher.start()
        self.replayer.start()
        self.retention.start()

    async def stop(self) -> None:
        self.readiness.is_draining = True
        await self.retention.stop()
        await self.replayer.stop()
        await self.dispatcher.stop()
        await self.fetched_certificates.close()
        await self.inbox.close()


def create_app(settings: Settings | None = None) -> CallbackRouter:
    """
    The public application. Its service is at ``app.state.service``.

    Args:
        settings: Read as the command line would when left out, so that
            ``uvicorn --factory service.app:create_app`` works.

    Raises:
        ConfigError: The configuration is wrong.
    """
    service = Service(settings if settings is not None else load_settings(environ=os.environ))
    server = service.settings.server
    bodies = BodyReader(max_bytes=server.max_body_bytes, timeout_s=server.body_timeout_s)
    answers = ErrorAnswers(service.metrics)
    exact: dict[str, CallbackEndpoint] = {}
    below: dict[str, CallbackEndpoint] = {}
    for source in service.sources:
        (below if source.transport == "token-url" else exact)[source.path] = CallbackEndpoint(
            source,
            inbox=service.inbox,
            route=service.route,
            certificates=service.certificates_of(source),
            bodies=bodies,
            answers=answers,
            metrics=service.metrics,
            clock=service.clock,
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            await service.start()
            yield
        finally:
            await service.stop()

    app = CallbackRouter(
        exact,
        below,
        routes=[Route("/health/live", service.readiness.live), Route("/health/ready", service.readiness.ready)],
        lifespan=lifespan,
        exception_handlers={HTTPException: answers.to_http_error},
    )
    # A path with a slash too many is not ours; a redirect would only make the vendor give up.
    app.router.redirect_slashes = False
    app.state.service = service
    return app


def create_admin_app(service: Service) -> AdminGuard:
    """The operators' application, for an address that the public can't reach. It does not start the service."""

    api = AdminApi(
        service.inbox,
        sinks={name: sink.kind for name, sink in service.settings.sinks.items()},
        breaker_states=service.dispatcher.breaker_states,
        clock=service.clock,
        replay_created=service.replayer.wake,
        metrics=service.metrics,
    )
    return AdminGuard(api.app(), token=service.settings.admin.token)
