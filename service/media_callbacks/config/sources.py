"""The tables of sources: what comes from the vendor, and what proves it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, field_validator

from media_callbacks.config.section import Section
from media_callbacks.config.values import (
    MIN_SEGMENT_CHARACTERS,
    MIN_URL_KEY_BYTES,
    Account,
    Endpoint,
    Flag,
    Integer,
    Name,
    QueueName,
    Region,
    RegisteredUrl,
    Seconds,
    UrlKey,
    UrlPath,
    check_certificate,
    check_secret,
    check_url,
    number,
    one_or_many,
    read_url_key,
    sentence,
    split_url,
    unguessable_segments,
)
from media_callbacks.model.kinds import PRODUCTS

Confirm = Literal["never", "when-unsigned", "always"]

_MIN_KEY_CHARACTERS = 6


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
    confirm_timeout_s: Annotated[Seconds, number("seconds", ge=1, le=86400)] = 300.0
    enrich: Flag = False

    @property
    def account_name(self) -> str:
        """The account as it stands in keys and events."""
        return self.account or "default"

    @field_validator("product", mode="before", check_fields=False)
    @classmethod
    def _refuse_products_of_other_transports(cls, product: Any) -> Any:
        if product not in PRODUCTS or product in _carried_by(cls):
            return product
        carriers = {transport: _carried_by(model) for transport, model in SOURCE_MODELS.items()}
        (transport,) = get_args(cls.model_fields["transport"].annotation)
        is_queued = transport == "mns-push" and product in carriers["mns-queue"]
        remedy = " or ".join(f'"{other}"' for other, products in carriers.items() if product in products)
        raise sentence(
            f'transport "{transport}" carries {", ".join(carriers[transport])}, not {product};'
            f"{' the vendor writes its messages to queues only;' if is_queued else ''} use transport = {remedy}, or"
            " correct the product"
        )


def _carried_by(model: type[_SourceSettings]) -> tuple[str, ...]:
    return get_args(model.model_fields["product"].annotation)


class _CallbackSourceSettings(_SourceSettings):
    """What the vendor sends requests to."""

    path: Annotated[UrlPath, Field(examples=['"/callbacks/<random segment>"'])]


_MaxAge = Annotated[Integer, number("seconds", ge=1, le=86400)]


class HttpSourceSettings(_CallbackSourceSettings):
    product: Literal["vod", "ims"]
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
        tuple[
            Annotated[str, StringConstraints(pattern=rf"^\S{{{_MIN_KEY_CHARACTERS},}}$"), AfterValidator(check_secret)],
            ...,
        ],
        Field(
            repr=False,
            description=f"a list of the vendor's keys, each of at least {_MIN_KEY_CHARACTERS} characters without"
            " blanks",
            examples=['["${VOD_KEY}"]'],
        ),
    ]
    max_age_s: _MaxAge = 300
    unsigned: Literal["accept"] | None = None

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if not {"keys", "unsigned"} <= given.keys():
            return
        if given["keys"]:
            if given["unsigned"]:
                yield "unsigned", "expected keys = [] together with it, came keys; remove one of the two"
        elif not given["unsigned"]:
            text = (
                'expected at least one key, came none; give the vendor\'s key, or say unsigned = "accept" to take'
                " callbacks that anyone could have sent"
            )
            yield "keys", text
        elif "path" in given and not unguessable_segments(given["path"]):
            text = (
                f"expected an unguessable segment (at least {MIN_SEGMENT_CHARACTERS} characters, a digit among them)"
                ' because of unsigned = "accept", came none; make one with: openssl rand -hex 16'
            )
            yield "path", text


class MnsPushSourceSettings(_CallbackSourceSettings):
    product: Literal["mts"]
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
    max_age_s: _MaxAge = 900


class MnsQueueSourceSettings(_SourceSettings):
    """
    Attributes:
        pollers: How many requests for messages are open at once.
        long_poll_s: How long the vendor keeps a request open while the queue is empty.
    """

    product: Literal["vod", "ims", "mts"]
    transport: Literal["mns-queue"]
    endpoint: Annotated[
        Endpoint,
        Field(
            description="the URL of the account's MNS endpoint",
            examples=['"https://1234567890123456.mns.cn-hangzhou.aliyuncs.com"'],
        ),
    ]
    queue: Annotated[QueueName, Field(examples=['"mts-done"'])]
    signature: Literal["v2", "v4"] = "v2"
    pollers: Annotated[Integer, number("a number", ge=1, le=16)] = 1
    long_poll_s: Annotated[Integer, number("whole seconds", ge=0, le=30)] = 30


class TokenUrlSourceSettings(_CallbackSourceSettings):
    product: Literal["multimediaai"]
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
        tuple[UrlKey, ...],
        Field(
            min_length=1,
            repr=False,
            description=f'a list of keys, each as "<key id>:<base64 of at least {MIN_URL_KEY_BYTES} bytes>"',
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
