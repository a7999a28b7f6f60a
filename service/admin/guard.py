"""Who may look."""

import hmac
import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send

from service.edge.answers import problem

JOBS_PATH = "/v1/jobs"


class AdminGuard:
    """
    Lets requests through that carry the bearer token, or, where none is configured, that come from this machine; those
    about jobs with the applications' token, too.

    Args:
        token: For everything; at least 16 characters, or None.
        jobs_token: For ``/v1/jobs`` alone; the same.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, jobs_token: str | None = None) -> None:
        self._app = app
        self._is_open_to_loopback = token is None
        self._expected = _expected(token)
        self._expected_for_jobs = _expected(token, jobs_token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_for_jobs = scope["path"] == JOBS_PATH
            expected = self._expected_for_jobs if is_for_jobs else self._expected
            if not self._is_allowed(scope, expected):
                await _refuse(expected, is_for_jobs=is_for_jobs)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope, expected: tuple[bytes, ...]) -> bool:
        if self._is_open_to_loopback:
            client = scope.get("client")
            if client is not None and _is_loopback(client[0]):
                return True
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        # Some proxies write the scheme in lower case.
        given = values[0][:6].capitalize() + values[0][6:]
        # With all of them, whichever it is.
        matches = [hmac.compare_digest(given, one) for one in expected]
        return any(matches)


def _expected(*tokens: str | None) -> tuple[bytes, ...]:
    return tuple(f"Bearer {token}".encode() for token in tokens if token is not None)


def _refuse(expected: tuple[bytes, ...], *, is_for_jobs: bool) -> ASGIApp:
    if not expected:
        return problem(403, detail="only requests from this machine are answered, because admin.token is not set")
    which = "admin.token, or admin.jobs_token" if is_for_jobs else "admin.token"
    return problem(401, {"www-authenticate": "Bearer"}, detail=f"expected the header Authorization: Bearer <{which}>")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
