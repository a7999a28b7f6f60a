"""What all queries have in common: the question, the answer, and the source that answers are read as."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from media_callbacks.aliyun.calls import CallApi
from media_callbacks.model.errors import VendorError
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import Kind, Product, Transport
from media_callbacks.sources.base import Message, Parsed, Parser

AnswerState = Literal["ended", "pending", "not_found", "unlearnable", "foreign"]


@dataclass(slots=True, kw_only=True)
class JobAnswer:
    """
    What the vendor says about one job.

    Attributes:
        state: ``ended``: ``body`` says how. ``pending``: it exists and has not ended. ``not_found``: the vendor knows
            no such job (yet, or any more). ``unlearnable``: this API can't say anything about it. ``foreign``: the job
            exists and is not the one that the minted URL was made for.
        body: The part of the reply about this job, as JSON; empty unless ``ended``.
        meta: What else ``parse`` needs to read the body again, the action first: never a secret.
        detail: One line for the operator: what was looked for and found. None where the state says it all.
        notification: See ``inbox.records.Finding``.
        lacks_result: It says how the job ended, and the vendor could not be asked just now for all that it made.
    """

    state: AnswerState
    body: bytes = b""
    meta: Mapping[str, str] = field(default_factory=dict)
    detail: str | None = None
    notification: str | None = None
    lacks_result: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """
    Jobs of one kind that the vendor is asked about.

    Attributes:
        kind: Of the event that ends them.
        batch: How many are asked about in one call; 0 where the vendor can't be asked at all.
        needs_media_id: Whether the question is about the asset.
        tells_parts: Whether an answer says how the parts of a job ended, where it has several: without, its word for
            the whole does not refute that a part failed.
        is_of_asset: No job but something that has happened to an asset, as messages tell: the vendor says what is the
            case with the asset, and not that it has happened.
    """

    kind: Kind
    batch: int = 1
    needs_media_id: bool = False
    tells_parts: bool = True
    is_of_asset: bool = False


Ask = Callable[[Sequence[JobReference], CallApi], Awaitable[Sequence[JobAnswer | VendorError]]]
"""
Asks about jobs of one family, at most ``Family.batch`` of them.

Returns:
    An answer for each, in their order; an error for one that could not be asked about while others could.

Raises:
    VendorError: None of them could be asked about.
"""


@dataclass(frozen=True, slots=True)
class ProductQueries:
    """
    A product's rules.

    Attributes:
        families: The jobs that can be expected, by family as in ``model.identity.Key``.
        parse: Reads an answer's body: payload and meta of the message are the answer's.
        asset_families: What besides is asked about, by the asset that a message names.
    """

    families: Mapping[str, Family]
    ask: Ask
    parse: Parser
    asset_families: Mapping[str, Family] = field(default_factory=dict)

    def find(self, family: str) -> Family | None:
        return self.families.get(family) or self.asset_families.get(family)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySource:
    """
    Answers, as a source of transport ``query``.

    Attributes:
        name: That of the configured source whose jobs are asked about.
    """

    name: str
    product: Product
    account: str
    parser: Parser
    transport: Transport = "query"

    @property
    def meta(self) -> Mapping[str, str]:
        """What is kept with an answer, so that it can be read again (see ``catalogue.read_asked``)."""
        return {"product": self.product, "account": self.account}

    def parse(self, message: Message) -> Parsed:
        parsed = self.parser(message)
        # What was registered with the job, for events whose answer does not repeat what was submitted.
        user_data = message.meta.get("user_data")
        if user_data is None:
            return parsed
        completions = tuple(
            replace(completion, user_data=user_data) if completion.user_data is None else completion
            for completion in parsed.completions
        )
        return replace(parsed, completions=completions)
