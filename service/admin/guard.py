"""Who may look."""

import hmac
import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send

from service.endpoints import problem


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
            await self._refuse()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refuse(self) -> ASGIApp:
        if self._expected is None:
            return problem(403, detail="only requests from this machine are answered, because admin.token is not set")
        return problem(
            401, {"www-authenticate": "Bearer"}, detail="expected the header Authorization: Bearer <admin.token>"
        )

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
