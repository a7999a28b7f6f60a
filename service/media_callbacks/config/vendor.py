"""The tables of credentials: what it takes to ask the vendor's APIs."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from media_callbacks.config.section import Section
from media_callbacks.config.values import Credential, Region, Seconds, number

_RATE = number("calls per second", gt=0, le=1000)


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
    region: Annotated[Region, Field(examples=['"cn-hangzhou"'])]
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
            Annotated[Seconds, _RATE],
        ],
        Field(
            description=f"a table from the name of an action to {_RATE.description}",
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
