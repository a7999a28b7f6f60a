"""What every source has in common: the request it reads, the message it trusts, what it makes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from media_callbacks.model.errors import MalformedCallback
from media_callbacks.model.events import EventError
from media_callbacks.model.identity import Key
from media_callbacks.model.kinds import Kind, Outcome, Product, Transport, VerifiedBy
from media_callbacks.model.outputs import MAX_SNAPSHOT_URLS, Frozen

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


# Raised with every change of what a message means, so that what was read before can be read again.
PARSER_VERSION = 2

MAX_EVENTS = 500
"""What one message may tell of. Nothing that the vendor documents comes near."""

# Far more than events: what is in a list of their outputs costs little.
MAX_ELEMENTS = 2000
_MAX_URL_LENGTH = 2048

TRACEPARENT = "traceparent"
"""What ``Message.meta`` has of a receipt that is traced: the context of its span, so that it stays the same whenever
the message is read again."""


@dataclass(slots=True)
class Callback:
    """
    One request as it came in.

    Attributes:
        raw_path: Percent-encoded, as on the request line, without the query.
        query: Percent-encoded, without the question mark; empty when there is none.
        headers: Names in lower case, values as received, doubled headers kept apart.
        named: The last of each name.
    """

    method: str
    raw_path: bytes
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    named: dict[bytes, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.named = dict(self.headers)

    def header(self, name: bytes) -> bytes | None:
        """
        The value of a header that may come once, or None.

        Raises:
            MalformedCallback: It came twice. Which of the two was signed cannot be known.
        """
        if len(self.named) < len(self.headers) and [key for key, _ in self.headers].count(name) > 1:
            raise MalformedCallback(f"header {name.decode()} came twice, expected once", reason="doubled_header")
        return self.named.get(name)


@dataclass(slots=True)
class Message:
    """
    A request that was found genuine.

    Attributes:
        body: As received; this is what is stored.
        payload: What the product's parser reads: the body, or the message inside an MNS envelope.
        published_at: When MNS accepted the message, where the transport says it.
        meta: Everything outside the body that parsing needs, stored with the receipt: never a secret.
        key: Which of the source's keys it was made with: its place in the list, or the id that it has there. None where
            there is none.
    """

    body: bytes
    payload: bytes
    verified_by: VerifiedBy
    published_at: datetime | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    key: int | None = None


@dataclass(slots=True, kw_only=True)
class Completion:
    """
    Something that ended, in our words.

    Attributes:
        family: Together with ``id`` the identity of the completion, see ``model.identity.Key``.
        id: The parts of the identity; usually the job id alone.
        occurred_at: The vendor's time of the event, where it gives one.
        subject: What the event is about when there is neither job id nor media id.
        binding: A value that must never change for this key, for example the task id of a minted URL.
        nameless: The message names no job though a job has ended: an expected one of this family and asset may be
            meant. ``takes_name``: it is a single job, and the completion is that job's.
        placeholder: What stands for the number of a picture in the ``url_template`` of its outputs, where their
            ``urls`` are still to be expanded: when the event is built, because a short message may mean very many.
    """

    family: str
    id: tuple[str, ...]
    kind: Kind
    outcome: Outcome
    vendor_event: str | None
    job_id: str | None = None
    media_id: str | None = None
    outputs: tuple[Frozen, ...] = ()
    error: EventError | None = None
    user_data: str | None = None
    occurred_at: datetime | None = None
    subject: str | None = None
    binding: str | None = None
    nameless: Literal["takes_name", "keeps_key"] | None = None
    placeholder: str | None = None

    def key(self, product: Product, account: str) -> Key:
        return Key(product, account, self.family, self.id)


@dataclass(slots=True)
class Parsed:
    """
    What a message means.

    Attributes:
        warnings: Paths of the fields that were there and could not be understood.
    """

    completions: tuple[Completion, ...]
    warnings: tuple[str, ...] = ()


def expand_urls(template: str | None, placeholder: str, count: int | None) -> tuple[str, ...]:
    """Picture URLs are numbered from 1, padded to five digits (documented)."""
    # Two hundred copies of a text that is no URL would make a small message a very large event.
    if template is None or not count or len(template) > _MAX_URL_LENGTH:
        return ()
    if placeholder not in template:
        return (template,)
    return tuple(template.replace(placeholder, f"{n:05d}") for n in range(1, min(count, MAX_SNAPSHOT_URLS) + 1))


Parser = Callable[[Message], Parsed]
"""A product's rules. Raises Unparseable when no identity can be read."""


class Source(Protocol):
    """One configured entrance, however messages come in through it."""

    @property
    def name(self) -> str: ...
    @property
    def product(self) -> Product: ...
    @property
    def account(self) -> str: ...
    @property
    def transport(self) -> Transport: ...

    def parse(self, message: Message) -> Parsed:
        """
        Read the completions from a genuine message.

        Raises:
            Unparseable: There are none to be read; the message must be kept all the same.
        """
        ...


class CallbackSource(Source, Protocol):
    """A source that the vendor sends requests to."""

    @property
    def path(self) -> str: ...
    @property
    def methods(self) -> frozenset[str]: ...
    @property
    def success_status(self) -> int: ...

    def certificate_url(self, callback: Callback) -> str | None:
        """
        The certificate that ``verify`` needs, or None when it needs none. Everything that can be checked
        without it has been checked when this returns.

        Raises:
            Rejected: The request can't be genuine, whatever the certificate says.
        """
        ...

    def verify(self, callback: Callback, *, now: datetime, public_key: "RSAPublicKey | None") -> Message:
        """
        Decide whether the request is genuine.

        Raises:
            Rejected: It is not, or it is not fresh.
        """
        ...
