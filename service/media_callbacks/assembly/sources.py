"""From the configuration to sources, and to what reads receipts again."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import overload

from media_callbacks.config.settings import Settings
from media_callbacks.config.sinks import route
from media_callbacks.config.sources import (
    CallbackSourceSettings,
    HttpSourceSettings,
    MnsPushSourceSettings,
    MnsQueueSourceSettings,
    SourceSettings,
    TokenUrlSourceSettings,
)
from media_callbacks.healing.queries.catalogue import QUERIES, build_query_source, read_asked
from media_callbacks.model.receipts import Receipt, StoredReceipt
from media_callbacks.sources.base import CallbackSource, Parser, Source
from media_callbacks.sources.intake import HoldRules, build_receipt, restore_message
from media_callbacks.sources.products import ims, mts, multimediaai, vod
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import (
    MnsPushSource,
    certificate_hosts,
    parse_certificate_url,
    parse_signed_target,
)
from media_callbacks.sources.transports.mns_queue import MnsQueueSource
from media_callbacks.sources.transports.token_url import TokenUrlSource

PARSERS: Mapping[str, Parser] = {
    "vod": vod.parse,
    "ims": ims.parse,
    "mts": mts.parse,
    "multimediaai": multimediaai.parse,
}


@overload
def build_source(name: str, settings: CallbackSourceSettings) -> CallbackSource: ...


@overload
def build_source(name: str, settings: SourceSettings) -> Source: ...


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
                pinned_urls=frozenset(canonical_urls(settings.certificates)) or None,
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
        case MnsQueueSourceSettings():
            return MnsQueueSource(name=name, product=settings.product, account=account, parser=parser)


def build_hold_rules(name: str, settings: Settings) -> HoldRules | None:
    """Which events of a source wait for the vendor's answer; None when none does."""
    source, confirm = settings.sources[name], settings.confirm_of(name)
    if confirm == "never" and not source.enrich:
        return None
    families = QUERIES[source.product].families.items() if source.enrich else ()
    return HoldRules(
        confirm=confirm,
        confirm_timeout_s=source.confirm_timeout_s,
        enriched_families=frozenset(family for family, rules in families if rules.batch),
    )


def build_reader(settings: Settings) -> Callable[[StoredReceipt], Receipt | None]:
    """
    What receipts that were kept mean now. The reader gives None for those whose source is not configured any more.
    """
    sources = {name: build_source(name, source) for name, source in settings.sources.items()}
    holds = {name: build_hold_rules(name, settings) for name in settings.sources}
    to_sinks = partial(route, settings.sinks)

    def read(stored: StoredReceipt) -> Receipt | None:
        message, source = restore_message(stored), sources.get(stored.source)
        if (asked := read_asked(stored.meta)) is not None:
            answers = build_query_source(stored.source, *asked)
            return build_receipt(answers, message, received_at=stored.received_at, route=to_sinks)
        if source is None:
            return None
        return build_receipt(source, message, received_at=stored.received_at, route=to_sinks, holds=holds[source.name])

    return read


def canonical_urls(certificates: Mapping[str, str]) -> dict[str, str]:
    """With each URL as a push's header is read, which may say http or port 443."""
    found = {}
    for url, pem in certificates.items():
        parsed = parse_certificate_url(url)
        found[parsed[1] if parsed else url] = pem
    return found
