"""A request to a job API, taken apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl

MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ApiRequest:
    """
    Attributes:
        headers: Names in lower case.
        query: Parameters of the query string, decoded.
    """

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        """Those of the query and, with a form, of the body."""
        if not self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return self.query
        return {**self.query, **_read_pairs(self.body)}

    @property
    def action(self) -> str | None:
        return self.headers.get("x-acs-action") or self.parameters.get("Action")

    @property
    def version(self) -> str | None:
        return self.headers.get("x-acs-version") or self.parameters.get("Version")


def read_request(method: str, headers: list[tuple[bytes, bytes]], query: bytes, body: bytes) -> ApiRequest:
    """From ASGI's parts."""
    names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
    return ApiRequest(method, names, _read_pairs(query), body)


def _read_pairs(text: bytes) -> dict[str, str]:
    return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))
