"""Registrations of jobs to expect, each checked with the rules of its product and family; every mistake at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    RootModel,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from media_callbacks.admin.models.values import Moment, Text, optional
from media_callbacks.config.values import Account
from media_callbacks.healing.queries.base import Family
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.kinds import Product
from media_callbacks.model.suggestions import did_you_mean

MAX_JOBS = 1000
# That a registration is looked at with; it knows ten.
MAX_MEMBERS = 20
MAX_AHEAD = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class JobRules:
    """
    What registrations are checked by, as the context of their validation.

    Attributes:
        families: That can be expected, by product.
    """

    families: Mapping[Product, Mapping[str, Family]]
    now: datetime

    def find(self, product: object, word: object) -> tuple[str, Family] | None:
        """
        The family that is meant, and its name: by its own word, of MTS's in any case, or by its kind, where it is the
        only one of that kind that the vendor can be asked about. None where none is meant.
        """
        if not isinstance(word, str):
            return None
        families = self._families_of(product)
        name = word.strip().lower() if product == "mts" else word.strip()
        if name in families:
            return name, families[name]
        found = self._of_kind(product, word.strip())
        return (found[0], families[found[0]]) if len(found) == 1 else None

    def explain(self, product: Product, word: str) -> str:
        """What is expected in place of a word that ``find`` finds nothing for, or nothing that can be asked about."""
        families = self._families_of(product)
        if several := self._of_kind(product, word):
            return f"several are of kind {word}; expected one of {', '.join(several)}"
        # Under both words, where they differ.
        known = {
            name: f"{name} or {family.kind}" if self._of_kind(product, family.kind) == [name] != [family.kind] else name
            for name, family in families.items()
            if family.batch
        }
        expected = f"expected one of {product}: {', '.join(known.values()) or 'none is known in this service'}"
        if word in families or any(family.kind == word for family in families.values()):
            return f"no query of the vendor tells of these jobs; {expected}"
        return expected + did_you_mean(word, [*known, *(families[name].kind for name in known if known[name] != name)])

    def _families_of(self, product: object) -> Mapping[str, Family]:
        return next((families for known, families in self.families.items() if known == product), {})

    def _of_kind(self, product: object, kind: str) -> list[str]:
        return [name for name, family in self._families_of(product).items() if family.kind == kind and family.batch]


def _trim(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _trim_hex(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Nonce = Annotated[
    str,
    Field(pattern="^[0-9a-f]{24}$"),
    BeforeValidator(_trim_hex),
    WithJsonSchema({"type": "string", "pattern": "^[0-9A-Fa-f]{24}$"}),
]
Bind = Annotated[
    str,
    Field(pattern="^[0-9a-f]{32}$"),
    BeforeValidator(_trim_hex),
    WithJsonSchema({"type": "string", "pattern": "^[0-9A-Fa-f]{32}$"}),
]
# Longer than any that the vendor has. Some of its own samples end in a line break.
Identifier = Annotated[
    str,
    Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$"),
    BeforeValidator(_trim),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[^\x00]*[^\x00\s][^\x00]*$"}),
]


class JobOrder(BaseModel):
    """A job that was submitted, and whose end is wanted. Ids are trimmed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={"anyOf": [{"required": ["job_id"]}, {"required": ["nonce"]}]},
    )

    # The examples together are one job.
    product: Product = Field(description="Who runs it.", examples=["multimediaai"])
    family: Identifier = Field(
        description="What the job id is unique in: the kind of its event, such as `snapshot`, where one family of the"
        " product is of it, else the product's own word: for ims and some of vod an EventType, for mts the `Type` of"
        " its messages in any case. One that is not known, or that the vendor can't be asked about, is refused with"
        " those that can.",
        examples=["animated_image"],
    )
    job_id: Identifier = optional("The vendor's. May be left out where there is a nonce.", examples=["43567811"])
    media_id: Identifier = optional(
        "The asset that the job works on; required where the vendor can only be asked by asset.",
        examples=["6a45f222e08f4d1d8d2d144503213a01"],
    )
    nonce: Nonce = optional(
        "Of the minted URL that the job was submitted with; multimediaai's animated_image alone.",
        examples=["0f1e2d3c4b5a69788796a5b4"],
    )
    bind: Bind = optional(
        "What that URL is bound to: the first 16 bytes of SHA-256 of application id, video URL and video name.",
        examples=["00112233445566778899aabbccddeeff"],
    )
    deadline: Moment = optional(
        "When the vendor is asked, should nothing have come until then: at most 30 days from now; in the past for at"
        " once. Left out: `jobs.deadline_s` from now.",
        examples=["2026-11-21T10:30:00Z"],
    )
    user_data: Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")] = optional(
        "For the event, where the vendor's answer has none."
    )
    account: Account = Field("default", description="The `account` of the source that its callbacks come through.")
    requested_by: Text = optional("Who registers it, for the record.", examples=["orders"])

    @field_validator("family")
    @classmethod
    def _check_family(cls, family: str, info: ValidationInfo) -> str:
        product = info.data.get("product")
        if product is None or not isinstance(info.context, JobRules):
            return family
        found = info.context.find(product, family)
        if found is None or not found[1].batch:
            raise ValueError(info.context.explain(product, family))
        return found[0]

    @field_validator("deadline")
    @classmethod
    def _check_deadline(cls, deadline: datetime, info: ValidationInfo) -> datetime:
        if isinstance(info.context, JobRules) and deadline > info.context.now + MAX_AHEAD:
            raise ValueError(f"expected at most {MAX_AHEAD.days} days from now")
        return deadline

    @model_validator(mode="wrap")
    @classmethod
    def _check_together(
        cls, value: Any, handler: ModelWrapValidatorHandler["JobOrder"], info: ValidationInfo
    ) -> "JobOrder":
        """Members against each other, told beside what is wrong with each of them by itself."""
        if isinstance(value, dict) and len(value) > MAX_MEMBERS:
            # Not one by one: the service answers nobody meanwhile.
            raise ValueError(f"expected some of {', '.join(cls.model_fields)}, came {len(value)} members")
        between = list(_mistakes_between(value, info.context)) if isinstance(value, dict) else []
        try:
            order = handler(value)
        except ValidationError as error:
            told = [(m["type"], m["loc"], m["msg"]) for m in error.errors(include_url=False, include_context=False)]
        else:
            told = []
        told += [("value_error", (name,), text) for name, text in between]
        if told:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(type=PydanticCustomError(kind, text), loc=place, input=None)
                    for kind, place, text in told
                ],
            )
        return order

    def to_job(self, *, default_deadline: timedelta, token: str | None) -> ExpectedJob:
        return ExpectedJob(
            reference=JobReference(
                product=self.product,
                account=self.account,
                family=self.family,
                job_id=self.job_id,
                media_id=self.media_id,
                nonce=self.nonce,
                bind=self.bind,
            ),
            deadline=self.deadline or default_deadline,
            user_data=self.user_data,
            token=token,
            requested_by=self.requested_by,
        )


def _mistakes_between(given: Mapping[str, Any], context: object) -> Iterator[tuple[str, str]]:
    """Each with the member that it is told of."""
    if "job_id" not in given and "nonce" not in given:
        yield "job_id", "expected the vendor's job id, or the nonce of a minted URL"
    product, family = given.get("product"), given.get("family")
    found = context.find(product, family) if isinstance(context, JobRules) else None
    if found is not None and found[1].needs_media_id and "media_id" not in given:
        yield "media_id", f"required for {product} {found[0]}: the vendor can only be asked by asset"
    # The key of a minted URL is its nonce, and only one family has minted URLs.
    if found is not None and "nonce" in given and (product, found[0]) != ("multimediaai", "animated_image"):
        yield "nonce", "only minted URLs of multimediaai animated_image have one"
    if "bind" in given and "nonce" not in given:
        yield "bind", "expected together with the nonce of the minted URL"


class JobOrders(
    RootModel[
        Annotated[
            Annotated[JobOrder, Tag("one")]
            | Annotated[Annotated[list[JobOrder], Field(min_length=1, max_length=MAX_JOBS)], Tag("list")],
            Discriminator(lambda value: "list" if isinstance(value, list) else "one"),
        ]
    ]
):
    """One job, or a list of up to 1000."""
