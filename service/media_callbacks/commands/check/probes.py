"""
What the configuration names, tried out: the store, the journal's disk, the sinks, the vendor.

Nothing here has an effect: no callback, event or message is sent, received or deleted, and nothing is migrated. A
webhook gets a connection and no request. All probes run at once, each with a limit of time of its own.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from media_callbacks.aliyun.openapi import endpoint_of
from media_callbacks.assembly.sinks import build_sink
from media_callbacks.commands.check.machine import try_journal, try_port, try_store
from media_callbacks.commands.check.network import (
    Network,
    ask_here,
    compare_clocks,
    try_address,
    try_aws,
    try_certificate,
)
from media_callbacks.commands.check.vendor import QUESTIONS, try_api, try_queue
from media_callbacks.config.settings import Settings
from media_callbacks.config.sinks import (
    EventBridgeSinkSettings,
    KinesisSinkSettings,
    SnsSinkSettings,
    SqsSinkSettings,
    WebhookSinkSettings,
)
from media_callbacks.config.sources import MnsPushSourceSettings, MnsQueueSourceSettings
from media_callbacks.inbox.factory import try_needs
from media_callbacks.model.check_results import CheckResult
from media_callbacks.model.kinds import Product
from media_callbacks.sinks.base import Checked
from media_callbacks.sources.transports.mns_push import KNOWN_CERTIFICATE_URL

_Probe = Awaitable[CheckResult | Sequence[CheckResult]]


async def try_out(settings: Settings, network: Network | None = None) -> list[CheckResult]:
    """What was found of each thing that was tried, always in the same order."""
    network = network or Network()
    probes = list(_probes(settings, network))
    found = await asyncio.gather(*(_within(network.timeout_s, subject, probe) for subject, probe in probes))
    return [result for results in found for result in results]


async def _within(timeout_s: float, subject: str, probe: _Probe) -> Sequence[CheckResult]:
    try:
        async with asyncio.timeout(timeout_s):
            found = await probe
    except TimeoutError:
        remedy = "see whether it runs, and whether a firewall or a missing route is in between"
        return [CheckResult("error", subject, f"no answer within {timeout_s:g} s", remedy)]
    except Exception as error:  # noqa: BLE001 - the other findings are wanted all the more
        return [CheckResult("error", subject, f"it could not be tried ({type(error).__name__})", "try it by hand")]
    return [found] if isinstance(found, CheckResult) else found


def _probes(settings: Settings, network: Network) -> Iterator[tuple[str, _Probe]]:
    """Each probe with its subject, for the case that it takes too long."""
    yield "store.url", try_store(settings.store)
    yield "store.url", try_needs(settings.store.url)
    yield from _ports(settings, network)
    if settings.server.journal_path is not None:
        path, max_bytes = Path(settings.server.journal_path), settings.server.journal_max_bytes
        yield "server.journal_path", asyncio.to_thread(try_journal, path, max_bytes)
    for name, source in settings.sources.items():
        if isinstance(source, MnsPushSourceSettings) and not source.certificates:
            subject = f"sources.{name}.certificates"
            yield subject, try_certificate(subject, KNOWN_CERTIFICATE_URL, network)
        vendor = settings.vendor_of(name)
        if isinstance(source, MnsQueueSourceSettings) and vendor is not None:
            subject = f"sources.{name}.queue"
            yield subject, try_queue(subject, source, vendor, settings.vendor[vendor], network)
    for (name, product), must_ask in _asked(settings).items():
        yield f"vendor.{name}", try_api(product, name, settings.vendor[name], network, must_ask=must_ask)
    for name, sink in settings.sinks.items():
        subject = f"sinks.{name}"
        match sink:
            case WebhookSinkSettings():
                yield subject, try_address(subject, sink.url, network)
            case SqsSinkSettings() | SnsSinkSettings() | EventBridgeSinkSettings() | KinesisSinkSettings():
                yield subject, try_aws(subject, sink, network)
            case _:
                built = build_sink(name, sink, settings.vendor)
                if isinstance(built, Checked):
                    yield subject, _check(built, settings.names_of(name))
    if urls := list(dict.fromkeys(_urls_with_clocks(settings))):
        yield "clock", compare_clocks(urls, network)


async def _check(sink: Checked, names: Sequence[str]) -> Sequence[CheckResult]:
    # Here: that of a third party may fail in any way, even before it can be awaited.
    return await sink.check(names)


def _ports(settings: Settings, network: Network) -> Iterator[tuple[str, Awaitable[CheckResult]]]:
    def has_our_sinks(status: int, found: Any) -> bool:
        if settings.admin.token:
            return status == 401 and isinstance(found, dict) and found.get("title") == "Unauthorized"
        sinks = found.get("sinks", ()) if status == 200 and isinstance(found, dict) else None
        # A service of another configuration has other ones.
        return sinks is not None and settings.sinks.keys() <= {sink["name"] for sink in sinks}

    def lives(status: int, found: Any) -> bool:
        return (status, found) == (200, {"status": "ok"})

    for subject, table, path, is_ours in (
        ("server.port", settings.server, "/health/live", lives),
        ("admin.port", settings.admin, "/v1/sinks", has_our_sinks),
    ):
        if table.port:
            ask = partial(ask_here, table.host, table.port, path, network)
            yield subject, try_port(subject, table.host, table.port, ask=ask, is_ours=is_ours)


def _asked(settings: Settings) -> Mapping[tuple[str, Product], bool]:
    """Tables of credentials and the products whose job APIs are asked with them; whether a source relies on that."""
    asked: dict[tuple[str, Product], bool] = {}
    for name, source in settings.sources.items():
        vendor = settings.vendor_of(name)
        if vendor is not None:
            relies = source.enrich or settings.confirm_of(name) != "never"
            asked[vendor, source.product] = relies or asked.get((vendor, source.product), False)
    return asked


def _urls_with_clocks(settings: Settings) -> Iterator[str]:
    """Of the vendor, whose clock is the one that counts."""
    for source in settings.sources.values():
        if isinstance(source, MnsQueueSourceSettings):
            yield source.endpoint
        elif isinstance(source, MnsPushSourceSettings) and not source.certificates:
            yield KNOWN_CERTIFICATE_URL
    for name, product in _asked(settings):
        vendor, api = settings.vendor[name], QUESTIONS[product].api
        endpoint = vendor.endpoints.get(api) or endpoint_of(api, vendor.region)
        yield endpoint if "://" in endpoint else f"https://{endpoint}"
