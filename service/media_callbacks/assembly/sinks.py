"""From the configuration to sinks, those of third parties included."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from media_callbacks.aliyun.credentials import LateCredentials, choose_credentials
from media_callbacks.aliyun.eventbridge import EventBridgeClient
from media_callbacks.aliyun.mns_sending import MnsQueueSender, MnsTopicSender
from media_callbacks.config.checks import choose_vendor
from media_callbacks.config.sinks import (
    MAX_CONCURRENCY,
    MAX_SINK_TIMEOUT_S,
    AliyunEventBridgeSinkSettings,
    AliyunSinkSettings,
    EventBridgeSinkSettings,
    KafkaSinkSettings,
    KinesisSinkSettings,
    MnsQueueSinkSettings,
    MnsTopicSinkSettings,
    NatsSinkSettings,
    RabbitMqSinkSettings,
    SinkSettings,
    SnsSinkSettings,
    SqsSinkSettings,
    StdoutSinkSettings,
    ThirdPartySinkSettings,
    WebhookSinkSettings,
    installed_sinks,
)
from media_callbacks.config.vendor import VendorSettings
from media_callbacks.extras import install_command
from media_callbacks.model.errors import ConfigError
from media_callbacks.sinks.aliyun_eventbridge import AliyunEventBridgeSink
from media_callbacks.sinks.base import Sink
from media_callbacks.sinks.connections import TlsFiles
from media_callbacks.sinks.eventbridge import EventBridgeSink
from media_callbacks.sinks.kinesis import KinesisSink
from media_callbacks.sinks.mns import MnsQueueSink, MnsTopicSink
from media_callbacks.sinks.sns import SnsSink
from media_callbacks.sinks.sqs import SqsSink
from media_callbacks.sinks.stdout import StdoutSink
from media_callbacks.sinks.webhook import WebhookSink
from media_callbacks.timing.clock import utc_now

_NONE: Mapping[str, VendorSettings] = {}


def build_sinks(settings: Mapping[str, SinkSettings], vendors: Mapping[str, VendorSettings] = _NONE) -> list[Sink]:
    """
    All sinks, in the order of configuration. Nothing is opened.

    Args:
        vendors: The tables of credentials, for sinks of the vendor's.

    Raises:
        ConfigError: With every mistake that third parties found in their tables.
    """
    sinks: list[Sink] = []
    problems: list[str] = []
    for name, table in settings.items():
        try:
            sinks.append(build_sink(name, table, vendors))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return sinks


def build_sink(name: str, settings: SinkSettings, vendors: Mapping[str, VendorSettings] = _NONE) -> Sink:
    """
    The sink that a ``[sinks.<name>]`` table describes.

    Args:
        vendors: See ``build_sinks``.

    Raises:
        ConfigError: A third party's sink can't be loaded, or refuses its options.
    """
    match settings:
        case WebhookSinkSettings():
            return WebhookSink(
                name,
                settings.url,
                settings.secret_bytes,
                headers=settings.headers,
                bearer_token=settings.bearer_token,
                timeout_s=settings.timeout_s,
                concurrency=settings.concurrency,
            )
        case SqsSinkSettings():
            return SqsSink(name, settings.queue_url, **settings.client_options)
        case SnsSinkSettings():
            return SnsSink(name, settings.topic_arn, **settings.client_options)
        case EventBridgeSinkSettings():
            return EventBridgeSink(name, settings.event_bus_name, **settings.client_options)
        case KinesisSinkSettings():
            return KinesisSink(name, settings.stream_name, **settings.client_options)
        case AliyunSinkSettings():
            return _build_aliyun(name, settings, vendors)
        case KafkaSinkSettings():
            return _build_kafka(name, settings)
        case NatsSinkSettings():
            return _build_nats(name, settings)
        case RabbitMqSinkSettings():
            return _build_rabbitmq(name, settings)
        case StdoutSinkSettings():
            return StdoutSink(name)
        case ThirdPartySinkSettings():
            return _build_third_party(name, settings)


def _build_aliyun(name: str, settings: AliyunSinkSettings, vendors: Mapping[str, VendorSettings]) -> Sink:
    vendor_name = choose_vendor(settings.vendor, vendors)
    assert vendor_name is not None, "checked with the configuration"
    vendor = vendors[vendor_name]
    choose = partial(
        choose_credentials,
        f"vendor.{vendor_name}",
        access_key_id=vendor.access_key_id,
        access_key_secret=vendor.access_key_secret,
        security_token=vendor.security_token,
    )
    access: dict[str, Any] = {"credentials": LateCredentials(choose), "clock": utc_now}
    limits: dict[str, Any] = {"timeout_s": settings.timeout_s, "concurrency": settings.concurrency}
    match settings:
        case MnsQueueSinkSettings():
            access |= {"signature": settings.signature, "region": vendor.region}
            return MnsQueueSink(name, MnsQueueSender(settings.endpoint, settings.queue, **access), **limits)
        case MnsTopicSinkSettings():
            access |= {"signature": settings.signature, "region": vendor.region}
            return MnsTopicSink(name, MnsTopicSender(settings.endpoint, settings.topic, **access), **limits)
        case AliyunEventBridgeSinkSettings():
            bus = EventBridgeClient(settings.endpoint, settings.event_bus, **access)
            return AliyunEventBridgeSink(name, bus, settings.event_bus, **limits)
    raise AssertionError(settings)


def _build_kafka(name: str, settings: KafkaSinkSettings) -> Sink:
    try:
        from media_callbacks.sinks.kafka import KafkaSink  # noqa: PLC0415, an extra
    except ImportError as error:
        raise missing_package(name, "kafka") from error
    return KafkaSink(
        name,
        settings.brokers,
        settings.template,
        content_mode=settings.content_mode,
        tls=settings.tls,
        tls_files=TlsFiles(**settings.tls_files),
        mechanism=settings.mechanism,
        user=settings.user,
        password=settings.password,
        timeout_s=settings.timeout_s,
        concurrency=settings.concurrency,
    )


def _build_nats(name: str, settings: NatsSinkSettings) -> Sink:
    try:
        from media_callbacks.sinks.nats import NatsSink  # noqa: PLC0415, an extra
    except ImportError as error:
        raise missing_package(name, "nats") from error
    return NatsSink(
        name,
        settings.servers,
        settings.template,
        stream=settings.stream,
        identity={
            "user": settings.user,
            "password": settings.password,
            "token": settings.token,
            "nkeys_seed_str": settings.nkey_seed,
            "user_credentials": settings.credentials_file,
        },
        tls_files=TlsFiles(**settings.tls_files),
        monitoring_url=settings.monitoring_url,
        timeout_s=settings.timeout_s,
        concurrency=settings.concurrency,
    )


def _build_rabbitmq(name: str, settings: RabbitMqSinkSettings) -> Sink:
    try:
        from media_callbacks.sinks.rabbitmq import RabbitMqSink  # noqa: PLC0415, an extra
    except ImportError as error:
        raise missing_package(name, "rabbitmq") from error
    return RabbitMqSink(
        name,
        settings.servers,
        settings.exchange,
        settings.template,
        user=settings.user,
        password=settings.password,
        virtual_host=settings.virtual_host,
        tls_files=TlsFiles(**settings.tls_files),
        timeout_s=settings.timeout_s,
    )


def missing_package(name: str, extra: str) -> ConfigError:
    """A sink's client is in an extra that is not installed."""
    return ConfigError([f"sinks.{name}.kind: {extra} needs a further package: {install_command(extra)}"])


def _build_third_party(name: str, settings: ThirdPartySinkSettings) -> Sink:
    try:
        build = installed_sinks()[settings.kind].load()
    except Exception as error:  # a foreign module may fail in any way while it is imported
        problem = (
            f"sinks.{name}.kind: the entry point {settings.kind} can't be loaded ({type(error).__name__}); install its"
            " distribution again, or choose another kind"
        )
        raise ConfigError([problem]) from error
    try:
        sink: Sink = build(name, dict(settings.options))
    except ValueError as error:
        raise ConfigError([f"sinks.{name}: {' '.join(str(error).split()) or type(error).__name__}"]) from error
    is_sound = (
        getattr(sink, "name", None) == name
        and _is_from(1, getattr(sink, "batch_size", None), 10_000)
        and _is_from(1, getattr(sink, "concurrency", None), MAX_CONCURRENCY)
        and _is_from(0.001, getattr(sink, "timeout_s", None), MAX_SINK_TIMEOUT_S)
    )
    if not is_sound:
        problem = (
            f"sinks.{name}: the sink of kind {settings.kind} must have its name, a batch_size from 1 to 10000, a"
            f" concurrency from 1 to {MAX_CONCURRENCY}, and a timeout_s of more than 0 and at most"
            f" {MAX_SINK_TIMEOUT_S}; ask its author, or set these where it has options for them"
        )
        raise ConfigError([problem])
    return sink


def _is_from(least: float, value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
