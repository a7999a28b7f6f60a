"""
The tables of the configuration: what may stand in each, and what is said when something else does.

A rule about one value stands with its field, a rule across the keys of a table in its ``mistakes``. Fields with
``repr=False`` may hold a secret (a path or URL may have an unguessable segment): neither their repr nor a sentence
about them shows the value. The description of a field is what the operator is told was expected.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from media_callbacks.config.checks import Section
from media_callbacks.config.values import (
    Account,
    BareUrl,
    BearerToken,
    Credential,
    Days,
    Endpoint,
    EventBus,
    HeaderName,
    HeaderValue,
    Host,
    Integer,
    Name,
    Port,
    QueueName,
    Region,
    RegisteredUrl,
    Seconds,
    Stream,
    TopicArn,
    UrlPath,
    check_certificate,
    check_store_url,
    check_url,
    check_url_key,
    check_webhook_secret,
    one_or_many,
    read_url_key,
    read_webhook_secret,
    refuse_other_products,
    split_url,
    unguessable_segments,
)
from media_callbacks.model.kinds import Kind, Outcome, Product
from media_callbacks.timing.retry import DELAYS_S

if TYPE_CHECKING:
    from media_callbacks.model.events import Event

# What an instance was sending when it died, others get only after the longest attempt could have ended, and a margin
# (see delivery.dispatcher).
MAX_SINK_TIMEOUT_S = 25.0
# The group of entry points by which other distributions offer kinds of sinks.
SINK_GROUP = "media_callbacks.sinks"


class ServerSettings(Section):
    """
    Attributes:
        journal_path: A directory for callbacks that come while a PostgreSQL store is away; None for no journal.
        drain_s: How long callbacks are still taken after SIGTERM, while the load balancer notices.
    """

    host: Annotated[Host, Field(description="an address or host name to listen on", examples=['"0.0.0.0"'])] = "0.0.0.0"  # noqa: S104 - callbacks come from outside
    port: Port = 8080
    max_body_bytes: Annotated[
        Integer,
        Field(ge=1, le=64 << 20, description="a number of bytes from 1 to 67108864", examples=["1048576"]),
    ] = 1 << 20
    body_timeout_s: Annotated[
        Seconds, Field(gt=0, le=300, description="seconds, more than 0 and at most 300", examples=["10.0"])
    ] = 10.0
    stop_timeout_s: Annotated[Seconds, Field(ge=0, le=600, description="seconds from 0 to 600", examples=["20.0"])] = (
        20.0
    )
    drain_s: Annotated[Seconds, Field(ge=0, le=600, description="seconds from 0 to 600", examples=["5.0"])] = 5.0
    journal_path: Annotated[
        str | None,
        Field(
            min_length=1,
            pattern=r"^[^\x00]*$",
            description="a directory on a disk that outlives the service",
            examples=['"/var/lib/media-callbacks/journal"'],
        ),
    ] = None
    journal_max_bytes: Annotated[
        Integer,
        Field(
            ge=1 << 20,
            le=1 << 40,
            description="a number of bytes from 1048576 to 1099511627776",
            examples=["268435456"],
        ),
    ] = 256 << 20


# Several, so that one takes the place of another without a moment in which a client has none that is good.
_Tokens = Annotated[
    tuple[BearerToken, ...],
    BeforeValidator(one_or_many),
    Field(
        min_length=1,
        repr=False,
        description="a token of at least 16 visible ASCII characters, or a list of such tokens",
    ),
]


class AdminSettings(Section):
    """
    Attributes:
        token: Any of them opens everything; our own commands send the first. Without one, admin answers only what
            programs on this machine ask.
        jobs_token: For the applications that submit jobs: any of them opens /v1/jobs and nothing else.
    """

    host: Annotated[Host, Field(description="an address or host name to listen on", examples=['"127.0.0.1"'])] = (
        "127.0.0.1"
    )
    port: Port = 8081
    token: Annotated[_Tokens, Field(examples=['"${ADMIN_TOKEN}", made with: openssl rand -hex 32'])] = ()
    jobs_token: Annotated[_Tokens, Field(examples=['"${JOBS_TOKEN}", made with: openssl rand -hex 32'])] = ()

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if set(given.get("jobs_token", ())) & set(given.get("token", ())):
            yield (
                "jobs_token",
                "the same as token, which opens everything; make another one with: openssl rand -hex 32",
            )


class StoreSettings(Section):
    """``pool_size``: how many connections to PostgreSQL one service opens at most."""

    url: Annotated[
        str,
        AfterValidator(check_store_url),
        Field(
            repr=False, description="where receipts and events are kept", examples=['"sqlite:///media-callbacks.db"']
        ),
    ] = "sqlite:///media-callbacks.db"
    pool_size: Annotated[Integer, Field(ge=5, le=200, description="a number from 5 to 200", examples=["8"])] = 8
    auto_migrate: Annotated[bool, Field(description="true or false", examples=["true"])] = True
    retention_days: Annotated[Days, Field(description="days from 1 to 36500", examples=["30"])] = 30
    dedup_days: Annotated[Days, Field(description="days from 1 to 36500", examples=["400"])] = 400

    @property
    def sqlite_path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if {"retention_days", "dedup_days"} <= given.keys() and given["dedup_days"] < given["retention_days"]:
            sentence = (
                "expected at least as many days as retention_days, came fewer; raise it, because a job whose"
                " key is forgotten before its payload could give a second event"
            )
            yield "dedup_days", sentence


class JobsSettings(Section):
    """
    Jobs that somebody expects the end of.

    Attributes:
        deadline_s: After its registration a job that names no deadline of its own is asked about.
        retry_s: Before the vendor is asked again for the first time; it doubles each time, to an hour at most.
        give_up_s: After the deadline a job that nothing can be learnt about ends as unknown.
    """

    deadline_s: Annotated[
        Seconds, Field(ge=0.05, le=30 * 86400, description="seconds from 0.05 to 2592000", examples=["3600"])
    ] = 3600.0
    retry_s: Annotated[Seconds, Field(ge=0.05, le=3600, description="seconds from 0.05 to 3600", examples=["60"])] = (
        60.0
    )
    give_up_s: Annotated[
        Seconds, Field(ge=0.05, le=30 * 86400, description="seconds from 0.05 to 2592000", examples=["86400"])
    ] = 86400.0


# Sources

Confirm = Literal["never", "when-unsigned", "always"]


class _SourceSettings(Section):
    """
    Attributes:
        vendor: The table of the credentials; see ``Settings.vendor_of`` for what None means.
        confirm: Which events wait for the vendor's job API to say the same; see ``Settings.confirm_of``.
        confirm_timeout_s: How long they wait at most.
        enrich: Whether outputs that a message lacks are filled in from the job API.
    """

    account: Annotated[
        Account | None, Field(description="a name of letters, digits, _, . and -", examples=['"main"'])
    ] = None
    vendor: Annotated[Name | None, Field(description="the name of a table [vendor.<name>]", examples=['"main"'])] = None
    confirm: Confirm | None = None
    confirm_timeout_s: Annotated[
        Seconds, Field(ge=1, le=86400, description="seconds from 1 to 86400", examples=["300"])
    ] = 300.0
    enrich: Annotated[bool, Field(description="true or false", examples=["true"])] = False

    @property
    def account_name(self) -> str:
        """The account as it stands in keys and events."""
        return self.account or "default"


class _CallbackSourceSettings(_SourceSettings):
    """What the vendor sends requests to."""

    path: Annotated[
        UrlPath, Field(repr=False, description="the path to listen on", examples=['"/callbacks/<random segment>"'])
    ]


_MAX_AGE = Field(ge=1, le=86400, description="seconds from 1 to 86400", examples=["300"])


class HttpSourceSettings(_CallbackSourceSettings):
    product: Annotated[Literal["vod", "ims"], refuse_other_products("http", "vod", "ims")]
    transport: Literal["http"]
    url: Annotated[
        tuple[RegisteredUrl, ...],
        BeforeValidator(one_or_many),
        Field(
            min_length=1,
            repr=False,
            description="the URL as registered with the vendor, or a list of them",
            examples=['"https://cb.example.com/callbacks/vod"'],
        ),
    ]
    keys: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^\S{6,}$")], ...],
        Field(
            repr=False,
            description="a list of the vendor's keys, each of at least 6 characters without blanks",
            examples=['["${VOD_KEY}"]'],
        ),
    ]
    max_age_s: Annotated[Integer, _MAX_AGE] = 300
    unsigned: Literal["accept"] | None = None

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if not {"keys", "unsigned"} <= given.keys():
            return
        if given["keys"]:
            if given["unsigned"]:
                yield "unsigned", "expected keys = [] together with it, came keys; remove one of the two"
        elif not given["unsigned"]:
            sentence = (
                'expected at least one key, came none; give the vendor\'s key, or say unsigned = "accept" to take'
                " callbacks that anyone could have sent"
            )
            yield "keys", sentence
        elif "path" in given and not unguessable_segments(given["path"]):
            sentence = (
                "expected an unguessable segment (at least 6 characters, a digit among them) because of unsigned ="
                ' "accept", came none; make one with: openssl rand -hex 16'
            )
            yield "path", sentence


class MnsPushSourceSettings(_CallbackSourceSettings):
    product: Annotated[Literal["mts"], refuse_other_products("mns-push", "mts")]
    transport: Literal["mns-push"]
    topics: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[0-9]+/[A-Za-z0-9_.-]+$")], ...],
        Field(
            min_length=1,
            description='a list of topics, each as "<owner\'s account id>/<topic name>"',
            examples=['["1234567890123456/mts-done"]'],
        ),
    ]
    regions: Annotated[
        tuple[Region, ...], Field(description="a list of region names", examples=['["cn-hangzhou"]'])
    ] = ()
    url: Annotated[
        RegisteredUrl | None,
        Field(
            repr=False,
            description="the URL as subscribed",
            examples=['"https://cb.example.com/prefix/callbacks/mts"'],
        ),
    ] = None
    certificates: Annotated[
        Mapping[Annotated[str, AfterValidator(check_url)], Annotated[str, AfterValidator(check_certificate)]],
        Field(
            repr=False,
            description="a table from certificate URL to PEM text",
            examples=['{ "https://host/name.pem" = "file:/etc/mc/mns.pem" }'],
        ),
    ] = {}
    max_age_s: Annotated[Integer, _MAX_AGE] = 900


class MnsQueueSourceSettings(_SourceSettings):
    """
    Attributes:
        pollers: How many requests for messages are open at once.
        long_poll_s: How long the vendor keeps a request open while the queue is empty.
    """

    product: Annotated[Literal["vod", "ims", "mts"], refuse_other_products("mns-queue", "vod", "ims", "mts")]
    transport: Literal["mns-queue"]
    endpoint: Annotated[
        Endpoint,
        Field(
            description="the URL of the account's MNS endpoint",
            examples=['"https://1234567890123456.mns.cn-hangzhou.aliyuncs.com"'],
        ),
    ]
    queue: Annotated[
        QueueName,
        Field(description="a queue's name, 1 to 120 letters, digits and hyphens", examples=['"mts-done"']),
    ]
    signature: Literal["v2", "v4"] = "v2"
    pollers: Annotated[Integer, Field(ge=1, le=16, description="a number from 1 to 16", examples=["1"])] = 1
    long_poll_s: Annotated[Integer, Field(ge=0, le=30, description="whole seconds from 0 to 30", examples=["30"])] = 30


class TokenUrlSourceSettings(_CallbackSourceSettings):
    product: Annotated[Literal["multimediaai"], refuse_other_products("token-url", "multimediaai")]
    transport: Literal["token-url"]
    url: Annotated[
        RegisteredUrl,
        Field(
            repr=False,
            description="the URL that minted ones begin with",
            examples=['"https://cb.example.com/callbacks/gif"'],
        ),
    ]
    keys: Annotated[
        tuple[Annotated[str, AfterValidator(check_url_key)], ...],
        Field(
            min_length=1,
            repr=False,
            description='a list of keys, each as "<key id>:<base64 of at least 32 bytes>"',
            examples=['["1:${GIF_URL_KEY}"]'],
        ),
    ]

    @property
    def key_bytes(self) -> dict[int, bytes]:
        """By key id, in the order of configuration."""
        return dict(read_url_key(text) for text in self.keys)

    @property
    def minting_key_id(self) -> int:
        return read_url_key(self.keys[0])[0]

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        ids = [read_url_key(text)[0] for text in given.get("keys", ())]
        for key_id in sorted({key_id for key_id in ids if ids.count(key_id) > 1}):
            yield "keys", f"expected each key id once, came id {key_id} {ids.count(key_id)} times; number them anew"
        parts = split_url(given["url"]) if "url" in given else None
        if parts and (parts.query or parts.fragment or given["url"].endswith(("?", "#"))):
            yield "url", "expected a URL without query and fragment, because the token is put after it; leave them out"


CallbackSourceSettings = HttpSourceSettings | MnsPushSourceSettings | TokenUrlSourceSettings
SourceSettings = Annotated[CallbackSourceSettings | MnsQueueSourceSettings, Field(discriminator="transport")]
SOURCE_MODELS: Mapping[str, type[CallbackSourceSettings | MnsQueueSourceSettings]] = {
    "http": HttpSourceSettings,
    "mns-push": MnsPushSourceSettings,
    "mns-queue": MnsQueueSourceSettings,
    "token-url": TokenUrlSourceSettings,
}
REFUSED_TRANSPORTS: Mapping[str, str] = {
    "query": '"query" is not something to configure: it is how the service itself asks; use one of'
    f" {', '.join(SOURCE_MODELS)}",
}


class VendorSettings(Section):
    """
    What it takes to ask the vendor's APIs.

    Attributes:
        access_key_id: None, together with the secret: the credentials are looked for in the environment.
        endpoints: In place of what follows from the region.
        rates: Calls per second at most, by action, in place of half of what the vendor documents.
    """

    access_key_id: Annotated[
        Credential | None, Field(repr=False, description="an access key id without blanks", examples=['"${ALIYUN_ID}"'])
    ] = None
    access_key_secret: Annotated[
        Credential | None,
        Field(repr=False, description="an access key secret without blanks", examples=['"${ALIYUN_SECRET}"']),
    ] = None
    region: Annotated[Region, Field(description="a region name", examples=['"cn-hangzhou"'])]
    security_token: Annotated[
        Credential | None,
        Field(repr=False, description="a security token without blanks", examples=['"${ALIYUN_STS_TOKEN}"']),
    ] = None
    endpoints: Annotated[
        Mapping[
            Literal["vod", "ice", "mts", "multimediaai"],
            Annotated[str, StringConstraints(pattern=r"^(https?://)?[A-Za-z0-9.-]+(:[0-9]{1,5})?/?$")],
        ],
        Field(
            description="a table from vod, ice, mts or multimediaai to a host name or URL",
            examples=['{ vod = "vod.cn-shanghai.aliyuncs.com" }'],
        ),
    ] = {}
    rates: Annotated[
        Mapping[
            Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z]{1,63}$")],
            Annotated[Seconds, Field(gt=0, le=1000)],
        ],
        Field(
            description="a table from the name of an action to calls per second, more than 0 and at most 1000",
            examples=["{ GetDynamicImageJob = 20 }"],
        ),
    ] = {}

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if not {"access_key_id", "access_key_secret", "security_token"} <= given.keys():
            return
        keys = {key: given[key] is not None for key in ("access_key_id", "access_key_secret")}
        if missing := [key for key, is_there in keys.items() if not is_there]:
            if len(missing) == 1:
                sentence = (
                    "missing; give access_key_id and access_key_secret, or neither: then the environment has both"
                )
                yield missing[0], sentence
            elif given["security_token"] is not None:
                sentence = "belongs to an access key; give access_key_id and access_key_secret, too, or remove this key"
                yield "security_token", sentence


# Sinks

_Text = Annotated[str, StringConstraints(min_length=1)]
_Word = TypeVar("_Word")
_Words = Annotated[
    Annotated[frozenset[_Word], Field(min_length=1)] | None,
    BeforeValidator(one_or_many),
    Field(description="a word or a list of words that is not empty"),
]


class Match(Section):
    """Which events a sink wants. A key that is left out asks for nothing; a plain string is a list of one."""

    product: _Words[Product] = None
    account: _Words[_Text] = None
    kind: _Words[Kind] = None
    outcome: _Words[Outcome] = None
    source: _Words[_Text] = None
    vendor_event: _Words[_Text] = None

    def accepts(self, event: "Event") -> bool:
        data = event.data
        return (
            (self.kind is None or data.kind in self.kind)
            and (self.outcome is None or data.outcome in self.outcome)
            and (self.product is None or data.product in self.product)
            and (self.source is None or data.source in self.source)
            and (self.account is None or event.account in self.account)
            and (self.vendor_event is None or data.vendor_event in self.vendor_event)
        )


class _SinkSettings(Section):
    """
    What every sink has.

    Attributes:
        retry_delays_s: Seconds after the first failed attempt, the second, and so on; then the delivery is dead.
        rate_per_s: The most deliveries that are begun in a second; None is as many as it takes.
    """

    match: Match | None = None
    retry_delays_s: Annotated[
        tuple[Annotated[Seconds, Field(ge=1, le=7 * 86400)], ...],
        Field(
            min_length=1,
            max_length=50,
            description="a list of 1 to 50 delays, each of 1 to 604800 seconds",
            examples=["[5, 30, 120]"],
        ),
    ] = tuple(DELAYS_S)
    rate_per_s: Annotated[
        Seconds | None,
        Field(gt=0, le=10_000, description="deliveries per second, more than 0 and at most 10000", examples=["50"]),
    ] = None


_TIMEOUT = Field(
    gt=0,
    le=MAX_SINK_TIMEOUT_S,
    description=f"seconds, more than 0 and at most {MAX_SINK_TIMEOUT_S:.0f}",
    examples=["15.0"],
)
_CONCURRENCY = Field(ge=1, le=1000, description="a number from 1 to 1000", examples=["32"])


class WebhookSinkSettings(_SinkSettings):
    kind: Literal["webhook"]
    url: Annotated[
        BareUrl, Field(repr=False, description="an absolute URL", examples=['"https://orders.example.com/media"'])
    ]
    secrets: Annotated[
        tuple[Annotated[str, AfterValidator(check_webhook_secret)], ...],
        Field(
            min_length=1,
            repr=False,
            description="a list of at least one secret, each whsec_ and base64 of 24 to 64 bytes",
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
    timeout_s: Annotated[Seconds, _TIMEOUT] = 15.0
    concurrency: Annotated[Integer, _CONCURRENCY] = 32

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
    concurrency: Annotated[Integer, _CONCURRENCY] = 4
    timeout_s: Annotated[Seconds, _TIMEOUT] = 15.0

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
    | StdoutSinkSettings
    | ThirdPartySinkSettings
)
SINK_MODELS: Mapping[str, type[SinkSettings]] = {
    "webhook": WebhookSinkSettings,
    "sqs": SqsSinkSettings,
    "sns": SnsSinkSettings,
    "eventbridge": EventBridgeSinkSettings,
    "kinesis": KinesisSinkSettings,
    "stdout": StdoutSinkSettings,
}


def installed_sinks() -> dict[str, EntryPoint]:
    """The kinds of sinks that other distributions bring. None of them takes the place of a built-in one."""
    found = {point.name: point for point in entry_points(group=SINK_GROUP)}
    return {kind: found[kind] for kind in sorted(found) if kind not in SINK_MODELS}


def route(sinks: Mapping[str, SinkSettings], event: "Event") -> tuple[str, ...]:
    """The sinks that an event goes to, in the order of configuration."""
    return tuple([name for name, sink in sinks.items() if sink.match is None or sink.match.accepts(event)])
