"""The tables of sinks: where events go, and which."""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, StringConstraints

from media_callbacks.config.checks import names_trouble
from media_callbacks.config.section import Section
from media_callbacks.config.values import (
    WEBHOOK_SECRET,
    AliyunEventBus,
    AmqpUrl,
    BareUrl,
    Credential,
    Endpoint,
    EventBus,
    Exchange,
    File,
    Flag,
    HeaderName,
    HeaderValue,
    Integer,
    KafkaAddress,
    MnsTopic,
    Name,
    NatsUrl,
    NkeySeed,
    QueueName,
    Region,
    Seconds,
    Stream,
    StreamName,
    Template,
    TopicArn,
    VirtualHost,
    WebhookSecret,
    number,
    one_or_many,
    read_webhook_secret,
)
from media_callbacks.model.kinds import OPERATIONAL, SINK_TROUBLES, AnyKind, Outcome, Product, Trouble
from media_callbacks.model.naming import NameTemplate
from media_callbacks.timing.retry import DELAYS_S

if TYPE_CHECKING:
    from media_callbacks.model.events import Event
    from media_callbacks.model.operational import OperationalEvent


# What an instance was sending when it died, others get only after the longest attempt could have ended, and a margin
# (see delivery.dispatcher).
MAX_SINK_TIMEOUT_S = 25
MAX_CONCURRENCY = 1000
MAX_RETRIES, MAX_RETRY_DELAY_S = 50, 7 * 86400
# The group of entry points by which other distributions offer kinds of sinks.
SINK_GROUP = "media_callbacks.sinks"

_Text = Annotated[str, StringConstraints(min_length=1)]
_Word = TypeVar("_Word")
_Words = Annotated[
    Annotated[frozenset[_Word], Field(min_length=1)] | None,
    BeforeValidator(one_or_many),
    Field(description="a word or a list of words that is not empty"),
]


class Conditions(Section):
    """
    Which events are meant: those that fit every key. A key that is left out asks for nothing; a plain string is a list
    of one. Operational events are meant where ``kind`` names them and nowhere else, all or those of some troubles; the
    other keys speak of the events of jobs.
    """

    product: _Words[Product] = None
    account: _Words[_Text] = None
    kind: _Words[AnyKind] = None
    outcome: _Words[Outcome] = None
    source: _Words[_Text] = None
    vendor_event: _Words[_Text] = None
    user_data_prefix: _Words[_Text] = None
    trouble: _Words[Trouble] = None

    def fit(self, event: "Event") -> bool:
        data = event.data
        return (
            (self.kind is None or data.kind in self.kind)
            and (self.outcome is None or data.outcome in self.outcome)
            and (self.product is None or data.product in self.product)
            and (self.source is None or data.source in self.source)
            and (self.account is None or event.account in self.account)
            and (self.vendor_event is None or data.vendor_event in self.vendor_event)
            and (
                self.user_data_prefix is None
                # What has none begins with nothing.
                or (data.user_data is not None and data.user_data.startswith(tuple(self.user_data_prefix)))
            )
        )

    def fit_trouble(self, trouble: str) -> bool:
        return names_trouble(dict(self), trouble)


class Match(Conditions):
    """Which events a sink wants: those that fit, apart from those that fit every key of ``exclude``, too."""

    exclude: Conditions | None = None

    def accepts(self, event: "Event") -> bool:
        return self.fit(event) and not (self.exclude is not None and self.exclude.fit(event))

    def accepts_trouble(self, trouble: str) -> bool:
        return self.fit_trouble(trouble) and not (self.exclude is not None and self.exclude.fit_trouble(trouble))


class _SinkSettings(Section):
    """
    What every sink has.

    Attributes:
        retry_delays_s: Seconds after the first failed attempt, the second, and so on; then the delivery is dead.
        rate_per_s: The most deliveries that are begun in a second; None is as many as it takes.
    """

    match: Match | None = None
    retry_delays_s: Annotated[
        tuple[Annotated[Seconds, Field(ge=1, le=MAX_RETRY_DELAY_S)], ...],
        Field(
            min_length=1,
            max_length=MAX_RETRIES,
            description=f"a list of 1 to {MAX_RETRIES} delays, each of 1 to {MAX_RETRY_DELAY_S} seconds",
            examples=["[5, 30, 120]"],
        ),
    ] = tuple(DELAYS_S)
    rate_per_s: Annotated[Seconds | None, number("deliveries per second", gt=0, le=10_000, examples=["50"])] = None


_Timeout = Annotated[Seconds, number("seconds", gt=0, le=MAX_SINK_TIMEOUT_S)]
_Concurrency = Annotated[Integer, number("a number", ge=1, le=MAX_CONCURRENCY)]


class BusSinkSettings(_SinkSettings):
    """
    A sink with a connection to a broker, on which a template names where each event goes.

    Attributes:
        template_key: The key that has the template.
        max_name_characters: What the bus takes as a name.
        ca_file: Of whom to trust in place of whom this machine trusts.
        certificate_file, key_file: Of this client, where the server asks who it is.
    """

    template_key: ClassVar[str]
    max_name_characters: ClassVar[int]

    ca_file: Annotated[
        File | None, Field(description="an absolute path to certificates in PEM form", examples=['"/etc/ssl/bus.pem"'])
    ] = None
    certificate_file: Annotated[
        File | None, Field(description="an absolute path to a certificate in PEM form", examples=['"/etc/ssl/me.pem"'])
    ] = None
    key_file: Annotated[
        File | None, Field(description="an absolute path to a key in PEM form", examples=['"/etc/ssl/me.key"'])
    ] = None
    timeout_s: _Timeout = 15.0

    @property
    def template(self) -> NameTemplate:
        return NameTemplate(getattr(self, self.template_key))

    @property
    def tls_files(self) -> Mapping[str, str | None]:
        """What every sink with a connection is built with."""
        return {"ca": self.ca_file, "certificate": self.certificate_file, "key": self.key_file}

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if given.get("key_file") is not None and "certificate_file" in given and given["certificate_file"] is None:
            yield "key_file", "has no meaning without certificate_file; set that, too, or remove this key"


class WebhookSinkSettings(_SinkSettings):
    kind: Literal["webhook"]
    url: Annotated[
        BareUrl, Field(repr=False, description="an absolute URL", examples=['"https://orders.example.com/media"'])
    ]
    secrets: Annotated[
        tuple[WebhookSecret, ...],
        Field(
            min_length=1,
            repr=False,
            description=f"a list of at least one secret, each {WEBHOOK_SECRET}",
            examples=['["${ORDERS_SECRET}"]'],
        ),
    ]
    headers: Annotated[
        Mapping[HeaderName, HeaderValue],
        Field(
            repr=False,
            description="a table from header name to text",
            examples=['{ X-Tenant = "media" }'],
        ),
    ] = {}
    bearer_token: Annotated[
        Credential | None,
        Field(repr=False, description="a token of visible ASCII characters", examples=['"${ORDERS_TOKEN}"']),
    ] = None
    timeout_s: _Timeout = 15.0
    concurrency: _Concurrency = 32

    @property
    def secret_bytes(self) -> tuple[bytes, ...]:
        return tuple(read_webhook_secret(text) for text in self.secrets)

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        names = [name.lower() for name in given.get("headers", {})]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            yield "headers", f"expected each header once, came {doubled[0]} in several spellings; keep one"
        if "authorization" in names and given.get("bearer_token") is not None:
            yield "headers", "expected no Authorization together with bearer_token, came both; keep one of them"


class _AwsSinkSettings(_SinkSettings):
    """
    Attributes:
        destination_key: The key whose ARN has a region in it, if it is one.
    """

    destination_key: ClassVar[str]

    region: Annotated[Region | None, Field(description="a region name", examples=['"eu-west-1"'])] = None
    endpoint_url: Annotated[
        BareUrl | None, Field(repr=False, description="an absolute URL", examples=['"http://localhost:4566"'])
    ] = None
    concurrency: _Concurrency = 4
    timeout_s: _Timeout = 15.0

    @property
    def client_options(self) -> dict[str, Any]:
        """What every sink of AWS is built with."""
        return self.model_dump(include={"region", "endpoint_url", "concurrency", "timeout_s"})

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        parts = given.get(cls.destination_key, "").split(":")
        if parts[0] == "arn" and given.get("region") not in (None, parts[3]):
            yield "region", f"expected that of {cls.destination_key}, came another one; leave it out"


class SqsSinkSettings(_AwsSinkSettings):
    destination_key = "queue_url"

    kind: Literal["sqs"]
    queue_url: Annotated[
        BareUrl,
        Field(
            repr=False,
            description="the URL of a queue",
            examples=['"https://sqs.eu-west-1.amazonaws.com/123456789012/media.fifo"'],
        ),
    ]


class SnsSinkSettings(_AwsSinkSettings):
    destination_key = "topic_arn"

    kind: Literal["sns"]
    topic_arn: Annotated[
        TopicArn,
        Field(description="the ARN of a topic", examples=['"arn:aws:sns:eu-west-1:123456789012:media.fifo"']),
    ]


class EventBridgeSinkSettings(_AwsSinkSettings):
    destination_key = "event_bus_name"

    kind: Literal["eventbridge"]
    event_bus_name: Annotated[
        EventBus, Field(description="the name or the ARN of an event bus", examples=['"default"'])
    ] = "default"


class KinesisSinkSettings(_AwsSinkSettings):
    destination_key = "stream_name"

    kind: Literal["kinesis"]
    stream_name: Annotated[Stream, Field(description="the name or the ARN of a stream", examples=['"media"'])]


class AliyunSinkSettings(_SinkSettings):
    """
    Attributes:
        vendor: The table of the credentials; None is the only one there is.
    """

    vendor: Annotated[Name | None, Field(description="the name of a table [vendor.<name>]", examples=['"main"'])] = None
    timeout_s: _Timeout = 15.0
    concurrency: _Concurrency = 4


_MnsEndpoint = Annotated[
    Endpoint,
    Field(
        description="the URL of the account's MNS endpoint",
        examples=['"https://1234567890123456.mns.cn-hangzhou.aliyuncs.com"'],
    ),
]


class MnsQueueSinkSettings(AliyunSinkSettings):
    kind: Literal["mns-queue"]
    endpoint: _MnsEndpoint
    queue: Annotated[QueueName, Field(examples=['"media"'])]
    signature: Literal["v2", "v4"] = "v2"


class MnsTopicSinkSettings(AliyunSinkSettings):
    kind: Literal["mns-topic"]
    endpoint: _MnsEndpoint
    topic: Annotated[MnsTopic, Field(examples=['"media"'])]
    signature: Literal["v2", "v4"] = "v2"
    # One request for each event.
    concurrency: _Concurrency = 16


class AliyunEventBridgeSinkSettings(AliyunSinkSettings):
    kind: Literal["aliyun-eventbridge"]
    endpoint: Annotated[
        Endpoint,
        Field(
            description="the URL of the account's EventBridge endpoint",
            examples=['"https://1234567890123456.eventbridge.cn-hangzhou.aliyuncs.com"'],
        ),
    ]
    event_bus: Annotated[AliyunEventBus, Field(examples=['"media"'])]


class KafkaSinkSettings(BusSinkSettings):
    """
    Attributes:
        content_mode: Of the CloudEvents binding: the whole event in the value, or its attributes in headers.
        mechanism: Of SASL, where a user is named.
    """

    template_key = "topic"
    max_name_characters = 249

    kind: Literal["kafka"]
    brokers: Annotated[
        tuple[KafkaAddress, ...],
        BeforeValidator(one_or_many),
        Field(
            min_length=1,
            description="host:port of a broker, or a list of them",
            examples=['["kafka-1.example.com:9093", "kafka-2.example.com:9093"]'],
        ),
    ]
    topic: Annotated[Template, Field(description="a template", examples=['"media.{kind}"'])] = "media"
    content_mode: Annotated[
        Literal["structured", "binary"], Field(description="one of structured, binary", examples=['"binary"'])
    ] = "structured"
    tls: Flag = False
    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        Field(description="one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512", examples=['"SCRAM-SHA-512"']),
    ] = "PLAIN"
    user: Annotated[Credential | None, Field(description="a user's name", examples=['"media-callbacks"'])] = None
    password: Annotated[
        Credential | None, Field(repr=False, description="a password", examples=['"${KAFKA_PASSWORD}"'])
    ] = None
    concurrency: _Concurrency = 4

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().mistakes(given)
        yield from _half_credentials(given)
        if given.get("tls") is False:
            for key in ("ca_file", "certificate_file"):
                if given.get(key) is not None:
                    yield key, "has no meaning without tls; set tls = true, or remove this key"


class NatsSinkSettings(BusSinkSettings):
    """
    Attributes:
        stream: The one that must take the events; None is whichever takes the subject.
        monitoring_url: Where ``check`` asks whether the server flushes before it acknowledges.
    """

    template_key = "subject"
    max_name_characters = 255

    kind: Literal["nats"]
    servers: Annotated[
        tuple[NatsUrl, ...],
        BeforeValidator(one_or_many),
        Field(
            min_length=1,
            description="a URL of a server, or a list of them",
            examples=['["tls://nats-1.example.com:4222", "tls://nats-2.example.com:4222"]'],
        ),
    ]
    subject: Annotated[Template, Field(description="a template", examples=['"media.{product}.{kind}.{outcome}"'])] = (
        "media.{product}.{kind}.{outcome}"
    )
    stream: Annotated[
        StreamName | None, Field(description="the name of a stream, letters, digits, _ and -", examples=['"MEDIA"'])
    ] = None
    user: Annotated[Credential | None, Field(description="a user's name", examples=['"media-callbacks"'])] = None
    password: Annotated[
        Credential | None, Field(repr=False, description="a password", examples=['"${NATS_PASSWORD}"'])
    ] = None
    token: Annotated[Credential | None, Field(repr=False, description="a token", examples=['"${NATS_TOKEN}"'])] = None
    nkey_seed: Annotated[
        NkeySeed | None,
        Field(repr=False, description="the seed of a user's nkey, SU and 56 more", examples=['"${NATS_NKEY}"']),
    ] = None
    credentials_file: Annotated[
        File | None, Field(description="an absolute path to a .creds file", examples=['"/run/secrets/media.creds"'])
    ] = None
    monitoring_url: Annotated[
        BareUrl | None, Field(repr=False, description="an absolute URL", examples=['"http://nats.example.com:8222"'])
    ] = None
    concurrency: _Concurrency = 4

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().mistakes(given)
        ways = [key for key in ("user", "token", "nkey_seed", "credentials_file") if given.get(key) is not None]
        if len(ways) > 1:
            yield ways[1], f"expected one way to say who this is, came {ways[0]}, too; keep one of them"
        yield from _half_credentials(given)
        yield from _mixed_schemes(given, "nats:// or tls://")


class RabbitMqSinkSettings(BusSinkSettings):
    template_key = "routing_key"
    max_name_characters = 255

    kind: Literal["rabbitmq"]
    servers: Annotated[
        tuple[AmqpUrl, ...],
        BeforeValidator(one_or_many),
        Field(
            min_length=1,
            description="a URL of a server, or a list of them",
            examples=['["amqps://rabbitmq-1.example.com:5671", "amqps://rabbitmq-2.example.com:5671"]'],
        ),
    ]
    user: Annotated[Credential, Field(description="a user's name", examples=['"media-callbacks"'])]
    password: Annotated[Credential, Field(repr=False, description="a password", examples=['"${RABBITMQ_PASSWORD}"'])]
    virtual_host: Annotated[VirtualHost, Field(description="the name of a virtual host, without %")] = "/"
    exchange: Annotated[
        Exchange, Field(description="the name of an exchange, letters, digits and ._:-", examples=['"media"'])
    ]
    routing_key: Annotated[Template, Field(description="a template", examples=['"media.{kind}.{outcome}"'])] = "{type}"

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().mistakes(given)
        yield from _mixed_schemes(given, "amqp:// or amqps://")


def _half_credentials(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, other in (("user", "password"), ("password", "user")):
        if given.get(key) is not None and other in given and given[other] is None:
            yield key, f"has no meaning without {other}; set that, too, or remove this key"


def _mixed_schemes(given: Mapping[str, Any], schemes: str) -> Iterator[tuple[str, str]]:
    if len({url.partition(":")[0] for url in given.get("servers", ())}) > 1:
        yield "servers", f"expected {schemes} for all servers, came both; use one"


class StdoutSinkSettings(_SinkSettings):
    kind: Literal["stdout"]


class ThirdPartySinkSettings(_SinkSettings):
    """A sink that another distribution brings. ``options``: all keys that are not common to all sinks, unchecked."""

    kind: str
    options: Annotated[Mapping[str, Any], Field(repr=False)]

    @classmethod
    def split(cls, table: Mapping[str, Any]) -> dict[str, Any]:
        """The table as this model has it."""
        common = cls.model_fields.keys() - {"options"}
        return {key: table[key] for key in common & table.keys()} | {
            "options": {key: value for key, value in table.items() if key not in common}
        }


SinkSettings = (
    WebhookSinkSettings
    | SqsSinkSettings
    | SnsSinkSettings
    | EventBridgeSinkSettings
    | KinesisSinkSettings
    | MnsQueueSinkSettings
    | MnsTopicSinkSettings
    | AliyunEventBridgeSinkSettings
    | KafkaSinkSettings
    | NatsSinkSettings
    | RabbitMqSinkSettings
    | StdoutSinkSettings
    | ThirdPartySinkSettings
)
SINK_MODELS: Mapping[str, type[SinkSettings]] = {
    "webhook": WebhookSinkSettings,
    "sqs": SqsSinkSettings,
    "sns": SnsSinkSettings,
    "eventbridge": EventBridgeSinkSettings,
    "kinesis": KinesisSinkSettings,
    "mns-queue": MnsQueueSinkSettings,
    "mns-topic": MnsTopicSinkSettings,
    "aliyun-eventbridge": AliyunEventBridgeSinkSettings,
    "kafka": KafkaSinkSettings,
    "nats": NatsSinkSettings,
    "rabbitmq": RabbitMqSinkSettings,
    "stdout": StdoutSinkSettings,
}


def installed_sinks() -> dict[str, EntryPoint]:
    """The kinds of sinks that other distributions bring. None of them takes the place of a built-in one."""
    found = {point.name: point for point in entry_points(group=SINK_GROUP)}
    return {kind: found[kind] for kind in sorted(found) if kind not in SINK_MODELS}


def route(sinks: Mapping[str, SinkSettings], event: "Event") -> tuple[str, ...]:
    """The sinks that an event goes to, in the order of configuration."""
    return tuple([name for name, sink in sinks.items() if sink.match is None or sink.match.accepts(event)])


def route_operational(sinks: Mapping[str, SinkSettings], event: "OperationalEvent") -> tuple[str, ...]:
    """
    The sinks that an operational event goes to. None is told of its own troubles: it may be the one that can't be
    told.
    """
    own = event.subject if event.source == SINK_TROUBLES else None
    wanted = event.data.trouble
    return tuple(
        [
            name
            for name, sink in sinks.items()
            if sink.match is not None and sink.match.accepts_trouble(wanted) and name != own
        ]
    )


def wants_nothing_else(sink: SinkSettings) -> bool:
    return sink.match is not None and sink.match.kind == frozenset[AnyKind]({OPERATIONAL})
