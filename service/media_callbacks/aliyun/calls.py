"""Calls of the vendor's OpenAPI, as values: what is asked, of which API. Nothing is sent here."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Codes that are about our credentials, rights or spelling, though some of them end in NotFound.
_NOT_ABOUT_A_JOB = (
    "invalidaccesskeyid",
    "invalidaction",
    "invalidapi",
    "invalidproduct",
    "invalidregion",
    "invalidsecuritytoken",
    "invalidversion",
)

Api = Literal["vod", "ice", "mts", "multimediaai"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One call of the vendor's OpenAPI. ``parameters`` are those of the action, without the common ones."""

    api: Api
    action: str
    version: str
    parameters: Mapping[str, str]


CallApi = Callable[[ApiRequest], Awaitable[Mapping[str, Any]]]
"""
Sends a query and returns the reply, a JSON object.

Raises:
    VendorUnavailable: There is no usable reply just now.
    VendorRefused: There is an error that will stay; ``code`` is the vendor's.
"""


def says_there_is_none(code: str) -> bool:
    """Whether an error's code says that what was asked about does not exist."""
    code = code.lower()
    if code.startswith(_NOT_ABOUT_A_JOB):
        return False
    # Ids are all that is asked with, so a bad parameter is an id that can't exist.
    return "notfound" in code or "notexist" in code or code.startswith("invalidparameter")
