"""
The configuration, checked once at start.

``load_settings`` reads it, ``build_settings`` checks tables that are there already. Both report every mistake at once
in one ConfigError.

    file                                file and environment to plain tables
    values                              kinds of values and their rules
    server, sources, vendor, sinks      the tables and their keys
    section, checks                     a table by its model, and tables against each other
    problems                            the lines in which mistakes are told
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from media_callbacks.config.checks import (
    Entrance,
    check_addresses,
    check_circle,
    check_entrances,
    check_exclusion,
    check_journal,
    check_match,
    check_names,
    check_vendor,
    choose_vendor,
    list_origins,
)
from media_callbacks.config.file import interpolate, read_tables
from media_callbacks.config.problems import KeyPath, Problems
from media_callbacks.config.section import check_name, choose_model, table_of, validate_section
from media_callbacks.config.server import AdminSettings, JobsSettings, ServerSettings, StoreSettings
from media_callbacks.config.sinks import (
    SINK_MODELS,
    AliyunSinkSettings,
    BusSinkSettings,
    Conditions,
    KafkaSinkSettings,
    Match,
    NatsSinkSettings,
    RabbitMqSinkSettings,
    SinkSettings,
    SqsSinkSettings,
    ThirdPartySinkSettings,
    WebhookSinkSettings,
    installed_sinks,
)
from media_callbacks.config.sources import (
    REFUSED_TRANSPORTS,
    SOURCE_MODELS,
    CallbackSourceSettings,
    Confirm,
    HttpSourceSettings,
    MnsPushSourceSettings,
    MnsQueueSourceSettings,
    SourceSettings,
    TokenUrlSourceSettings,
)
from media_callbacks.config.values import is_for_rehearsals, split_url, unguessable_segments
from media_callbacks.config.vendor import VendorSettings
from media_callbacks.model.naming import Origin
from media_callbacks.model.suggestions import suggest

# An unguessable segment shorter than this is worth a warning where nothing better proves the sender.
STRONG_SEGMENT_CHARACTERS = 16


class Settings(BaseModel):
    """All of it, right by itself and in itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    server: ServerSettings
    admin: AdminSettings
    store: StoreSettings
    jobs: JobsSettings
    sources: dict[str, SourceSettings]
    vendor: dict[str, VendorSettings]
    sinks: dict[str, SinkSettings]

    @property
    def callback_sources(self) -> dict[str, CallbackSourceSettings]:
        """The sources that the vendor sends requests to: all but queues."""
        return {name: source for name, source in self.sources.items() if not isinstance(source, MnsQueueSourceSettings)}

    def vendor_of(self, source: str) -> str | None:
        """The table of the credentials for a source: the one that it names, else the only one there is, else None."""
        return choose_vendor(self.sources[source].vendor, self.vendor)

    def confirm_of(self, source: str) -> Confirm:
        """What a source says, else "when-unsigned" for minted URLs once there are credentials, else "never"."""
        settings = self.sources[source]
        if settings.confirm is not None:
            return settings.confirm
        can_ask = isinstance(settings, TokenUrlSourceSettings) and self.vendor_of(source) is not None
        return "when-unsigned" if can_ask else "never"

    def names_of(self, sink: str) -> tuple[str, ...]:
        """All names that the template of a sink makes of events of the configured sources; none without a template."""
        settings = self.sinks[sink]
        if not isinstance(settings, BusSinkSettings):
            return ()
        entrances = [
            Entrance(name, source.product, source.account_name, None, covers_below=False)
            for name, source in self.sources.items()
        ]
        return tuple(dict.fromkeys(map(settings.template.render, _origins(settings.match, entrances))))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be right and deserves a look, one line each, beginning with the key path."""
        return tuple(_warn(self))


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _warn(settings: Settings) -> Iterator[str]:
    admin = settings.admin
    if not admin.token and admin.host not in _LOOPBACK:
        yield f'admin.token: not set, so admin answers only on loopback, although admin.host is "{admin.host}"'
    if not settings.sinks:
        yield "sinks: none is configured, so every event is kept as unrouted; add a table [sinks.<name>]"
    for name, source in settings.sources.items():
        yield from _warn_of_doubtful_claims(settings, name)
        if isinstance(source, MnsQueueSourceSettings):
            if source.product == "ims" and not source.queue.startswith("ice-callback-"):
                yield (
                    f"sources.{name}.queue: IMS writes only to queues whose names begin with ice-callback-, and this"
                    " one does not; look the name up"
                )
            continue
        is_unsigned = isinstance(source, HttpSourceSettings) and source.unsigned is not None
        segments = unguessable_segments(source.path)
        is_strong = any(len(segment) >= STRONG_SEGMENT_CHARACTERS for segment in segments)
        if (is_unsigned or isinstance(source, MnsPushSourceSettings)) and not is_strong:
            yield (
                f"sources.{name}.path: much hangs on it being unguessable, and no segment with a digit has"
                f" {STRONG_SEGMENT_CHARACTERS} characters or more; make one with: openssl rand -hex 16"
            )
        if isinstance(source, MnsPushSourceSettings) and any(map(is_for_rehearsals, source.certificates.values())):
            yield (
                f"sources.{name}.certificates: one of them is of a rehearsal (simulate --make-signing-key), so that"
                " whoever has its key can send anything; leave it out where the vendor's pushes come"
            )
        urls = (source.url,) if source.url is None or isinstance(source.url, str) else source.url
        # A proxy may take away what the path begins with, and nothing else.
        if any(
            parts is not None and not parts.path.endswith(source.path) for parts in map(split_url, filter(None, urls))
        ):
            yield (
                f"sources.{name}.url: its path does not end with sources.{name}.path, so that what the vendor sends"
                " there finds nothing here, unless a proxy rewrites it; make both the same"
            )
        for url in () if isinstance(source, MnsPushSourceSettings) else filter(None, urls):
            parts = split_url(url)
            if parts is not None and parts.scheme == "http":
                yield (
                    f"sources.{name}.url: registered with http://, so that anyone on the way can read callbacks and"
                    " send them again; register an https:// URL"
                )
                break
    yield from _warn_of_unused_credentials(settings)
    for name, sink in settings.sinks.items():
        if isinstance(sink, SqsSinkSettings) and sink.endpoint_url is None:
            parts = split_url(sink.queue_url)
            if parts is not None and not re.search(r"\.amazonaws\.com(\.cn)?$", parts.hostname or ""):
                yield (
                    f"sinks.{name}.endpoint_url: left out, though the host of queue_url is none of AWS; set it to that"
                    " scheme, host and port, or messages go to AWS"
                )
        yield from _warn_of_readable_credentials(name, sink)


def _warn_of_readable_credentials(name: str, sink: SinkSettings) -> Iterator[str]:
    """Of a password or token that goes over a network as it is."""
    match sink:
        case KafkaSinkSettings(tls=False, mechanism="PLAIN", user=str(), brokers=brokers):
            key, urls, remedy = "tls", [f"//{broker}" for broker in brokers], "set tls = true"
        case NatsSinkSettings(servers=servers) if sink.user is not None or sink.token is not None:
            key, urls, remedy = "servers", [url for url in servers if url.startswith("nats:")], "use tls://"
        case RabbitMqSinkSettings(servers=servers):
            key, urls, remedy = "servers", [url for url in servers if url.startswith("amqp:")], "use amqps://"
        case WebhookSinkSettings(bearer_token=str(), url=url) if url.startswith("http:"):
            key, urls, remedy = "url", [url], "use https://"
        case _:
            return
    if any(urlsplit(url).hostname not in _LOOPBACK for url in urls):
        yield (
            f"sinks.{name}.{key}: without TLS, so that anyone on the way can read the credentials and every event;"
            f" {remedy}"
        )


def _warn_of_unused_credentials(settings: Settings) -> Iterator[str]:
    used = {settings.vendor_of(name) for name in settings.sources} | {
        choose_vendor(sink.vendor, settings.vendor)
        for sink in settings.sinks.values()
        if isinstance(sink, AliyunSinkSettings)
    }
    for name in settings.vendor:
        if name not in used:
            yield (
                f"vendor.{name}: no source or sink uses these credentials; name them in one with vendor, or remove the"
                " table"
            )


def _warn_of_doubtful_claims(settings: Settings, name: str) -> Iterator[str]:
    source = settings.sources[name]
    if settings.confirm_of(name) != "never" or not settings.vendor:
        return
    at = f"sources.{name}.confirm"
    if settings.vendor_of(name) is not None:
        if isinstance(source, HttpSourceSettings) and source.unsigned is not None:
            yield f'{at}: anyone could send these callbacks; with confirm = "when-unsigned" the vendor is asked first'
    elif isinstance(source, TokenUrlSourceSettings) and source.confirm is None:
        yield (
            f"{at}: nothing is confirmed, because there are several tables [vendor.<name>] and the source does not say"
            ' whose credentials to use; set vendor, or confirm = "never"'
        )


# Reading and checking


def load_settings(path: str | Path | None = None, *, environ: Mapping[str, str]) -> Settings:
    """
    Read and check the configuration.

    Args:
        path: The file; without one ``$MEDIA_CALLBACKS_CONFIG``, else ``media-callbacks.toml`` in the working directory,
            else that in ``/etc/media-callbacks``. All but the first may be missing where the environment has overrides.
        environ: The environment, for overrides and ``${NAME}``.

    Raises:
        ConfigError: With every mistake found.
    """
    problems = Problems()
    return _build(read_tables(path, environ, problems), environ, problems)


def load_admin(path: str | Path | None = None, *, environ: Mapping[str, str], with_token: bool = True) -> AdminSettings:
    """
    What it takes to ask a service that runs, or cells: addresses and, with ``with_token``, the first token that can be
    had.
    Whoever operates it need not have its secrets, so what other tables say is not looked at.

    Args:
        path, environ: As in ``load_settings``.

    Raises:
        ConfigError: With every mistake found.
    """
    problems = Problems()
    tables = read_tables(path, environ, problems, section="admin")
    written = table_of(("admin",), tables.get("admin", {}), problems) or {}
    wanted: dict[str, Any] = {key: written[key] for key in ("host", "port", "cells") if key in written}
    tokens: dict[str, Any] = {key: written[key] for key in ("token", "jobs_token") if with_token and key in written}
    for key, token in tokens.items():
        interpolate(token, environ, missing := Problems(), ("admin", key))
        if not missing.lines:
            wanted[key] = token
            break
    else:
        wanted |= tokens
    wanted = interpolate(wanted, environ, problems, ("admin",))
    admin, _ = validate_section(AdminSettings, ("admin",), wanted, problems)
    problems.raise_if_any()
    assert admin is not None
    return admin


def build_settings(tables: Mapping[str, Any], *, environ: Mapping[str, str]) -> Settings:
    """
    Check a configuration given as tables. ``environ`` serves ``${NAME}`` alone.

    Raises:
        ConfigError: With every mistake found.
    """
    return _build(dict(tables), environ, Problems())


def _build(tables: dict[str, Any], environ: Mapping[str, str], problems: Problems) -> Settings:
    tables = interpolate(tables, environ, problems)
    for key in tables:
        if key not in Settings.model_fields:
            problems.add((key,), f"unknown section; {suggest(key, Settings.model_fields)}")
    server, server_given = validate_section(ServerSettings, ("server",), tables.get("server", {}), problems)
    admin, admin_given = validate_section(AdminSettings, ("admin",), tables.get("admin", {}), problems)
    check_addresses(server_given, admin_given, problems)
    store, store_given = validate_section(StoreSettings, ("store",), tables.get("store", {}), problems)
    check_journal(tables.get("server"), store_given, problems)
    jobs, _ = validate_section(JobsSettings, ("jobs",), tables.get("jobs", {}), problems)
    sources, entrances = _build_sources(tables, problems)
    vendor = {
        name: validate_section(VendorSettings, ("vendor", name), table, problems)[0]
        for name, table in _named_tables("vendor", tables, problems)
    }
    sinks = _build_sinks(tables, entrances, problems)
    problems.raise_if_any()
    return Settings.model_validate(
        {
            "server": server,
            "admin": admin,
            "store": store,
            "jobs": jobs,
            "sources": sources,
            "vendor": vendor,
            "sinks": sinks,
        }
    )


def _named_tables(section: str, tables: Mapping[str, Any], problems: Problems) -> Iterator[tuple[str, Any]]:
    named = table_of((section,), tables.get(section, {}), problems) or {}
    for name, table in named.items():
        check_name((section, name), problems)
        yield name, table


def _build_sources(tables: Mapping[str, Any], problems: Problems) -> tuple[dict[str, Any], list[Entrance]]:
    sources: dict[str, Any] = {}
    entrances = []
    vendors = tables.get("vendor", {})
    if tables.get("sources", {}) == {}:
        problems.add(("sources",), "expected at least one source, came none; add a table [sources.<name>]")
    for name, table in _named_tables("sources", tables, problems):
        path = ("sources", name)
        model = choose_model(path, "transport", table, problems, models=SOURCE_MODELS, refused=REFUSED_TRANSPORTS)
        given: Mapping[str, Any] = table if isinstance(table, dict) else {}
        if model is not None:
            sources[name], given = validate_section(model, path, table, problems)
            # What is wrong with the whole section has been said.
            if isinstance(vendors, dict):
                check_vendor(path, given, vendors, problems)
        entrances.append(Entrance.read(name, given, is_checked=model is not None))
    check_entrances(entrances, problems)
    return sources, entrances


def _build_sinks(tables: Mapping[str, Any], entrances: list[Entrance], problems: Problems) -> dict[str, Any]:
    sinks: dict[str, Any] = {}
    vendors = tables.get("vendor", {})
    models = {**SINK_MODELS, **dict.fromkeys(installed_sinks(), ThirdPartySinkSettings)}
    for name, table in _named_tables("sinks", tables, problems):
        path = ("sinks", name)
        model = choose_model(path, "kind", table, problems, models=models, refused={})
        fields = table
        if isinstance(table, dict) and "match" in table:
            fields = {**table, "match": _build_match((*path, "match"), table["match"], entrances, problems)}
        if model is ThirdPartySinkSettings:
            fields = ThirdPartySinkSettings.split(fields)
        if model is not None:
            sinks[name], given = validate_section(model, path, fields, problems)
            if issubclass(model, AliyunSinkSettings):
                check_circle(path, given, entrances, problems)
                if isinstance(vendors, dict):
                    check_vendor(path, given, vendors, problems)
        if isinstance(sink := sinks.get(name), BusSinkSettings):
            origins = _origins(sink.match, entrances)
            check_names((*path, sink.template_key), sink.template, sink.max_name_characters, origins, problems)
    return sinks


def _build_match(path: KeyPath, table: Any, entrances: list[Entrance], problems: Problems) -> Match | None:
    fields = table
    if isinstance(table, dict) and "exclude" in table:
        exclude, given = validate_section(Conditions, (*path, "exclude"), table["exclude"], problems)
        # One that nothing can fulfil excludes nothing.
        check_match((*path, "exclude"), given, entrances, problems)
        fields = {**table, "exclude": exclude}
    match, given = validate_section(Match, path, fields, problems)
    check_match(path, given, entrances, problems)
    if match is not None and match.exclude is not None:
        check_exclusion((*path, "exclude"), dict(match), dict(match.exclude), entrances, problems)
    return match


def _origins(match: Match | None, entrances: Iterable[Entrance]) -> Iterator[Origin]:
    """What events of these sources can say of themselves that go to a sink with this match."""
    match = match or Match()
    return list_origins(dict(match), dict(match.exclude) if match.exclude is not None else None, entrances)
