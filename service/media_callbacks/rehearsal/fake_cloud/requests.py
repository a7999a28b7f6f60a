"""A request to a job API, taken apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl

from starlette.requests import Request

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


async def read_request(request: Request) -> ApiRequest:
    body = b""
    async for piece in request.stream():
        body = (body + piece)[:MAX_BODY_BYTES]
    return ApiRequest(request.method, dict(request.headers), _read_pairs(request.scope["query_string"]), body)


def _read_pairs(text: bytes) -> dict[str, str]:
    return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))
