"""The operators' edge: who may look, and what there is to see."""

import hmac
import ipaddress
import json
from dataclasses import asdict

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.endpoints import problem
from service.inbox.base import Inbox, ReceiptState


class AdminGuard:
    """
    Lets requests through that carry the bearer token, or, where none is configured, that come from this machine.

    Args:
        token: At least 16 characters, or None.
    """

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            status = 403 if self._expected is None else 401
            headers = {"www-authenticate": "Bearer"} if status == 401 else {}
            await problem(status, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if self._expected is None:
            client = scope.get("client")
            return client is not None and _is_loopback(client[0])
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        # Some proxies write the scheme in lower case.
        return len(values) == 1 and hmac.compare_digest(values[0][:6].capitalize() + values[0][6:], self._expected)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class AdminApi:
    """
    What operators ask, as JSON: events with their receipts and deliveries, and receipts, those without an event
    included. Mistakes in a question are answered with problem+json (RFC 9457) that says what was expected.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def routes(self) -> list[Route]:
        return [Route("/v1/events/{id}", self.event), Route("/v1/receipts", self.receipts)]

    async def event(self, request: Request) -> Response:
        """``GET /v1/events/{id}``"""
        record = await self._inbox.find_event(request.path_params["id"])
        if record is None:
            return problem(404, detail="no event has this id; expected evt_ and 34 hexadecimal digits")
        body = None if record.body is None else json.loads(record.body)
        return _json(
            {
                "id": record.id,
                "accepted_at": record.accepted_at,
                "event": body,
                "receipts": [asdict(receipt) for receipt in record.receipts],
                "deliveries": [asdict(delivery) for delivery in record.deliveries],
            }
        )

    async def receipts(self, request: Request) -> Response:
        """``GET /v1/receipts?state=&source=&since=&cursor=&limit=``, newest first."""
        try:
            query = ReceiptQuery.model_validate(dict(request.query_params))
        except ValidationError as error:
            detail = "; ".join(
                f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in error.errors(include_url=False)
            )
            return problem(400, detail=detail)
        found = await self._inbox.list_receipts(
            state=query.state, source=query.source, since=query.since, before_id=query.cursor, limit=query.limit
        )
        cursor = str(found[-1].id) if len(found) == query.limit else None
        return _json({"receipts": [asdict(receipt) for receipt in found], "cursor": cursor})


class ReceiptQuery(BaseModel):
    """The question of ``GET /v1/receipts``. ``cursor`` is the one that the page before gave."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: ReceiptState | None = None
    source: str | None = None
    since: AwareDatetime | None = None
    cursor: int | None = Field(default=None, ge=0, lt=2**63)
    limit: int = Field(default=50, ge=1, le=500)


def _json(document: object) -> Response:
    return Response(to_json(document), media_type="application/json")
