"""
Whose requests are let in, and what every answer carries.

A browser is on the operator's side and shows pages of others as well. What one of these makes it send is told by
``Sec-Fetch-Site``, which browsers add where the connection can be trusted, else by ``Origin``; a page whose owner has
turned its own name to this address by ``Host``.
"""

from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from media_callbacks.config.server import AdminSettings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
# Whoever listens on these listens on all addresses, and nobody asks for them.
_ANY = frozenset({"0.0.0.0", "::"})  # noqa: S104 - not to listen on
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer: with that, browsers send Origin: null with our own forms, and nobody could tell whose they are.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_TOKEN_PARAMETERS = frozenset({"token", "access_token", "admin_token", "api_key", "authorization", "bearer"})


def protecting(app: ASGIApp) -> ASGIApp:
    """An application each of whose answers says what a browser may do with it."""

    async def protected(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                if b"cache-control" not in {name for name, _ in headers}:
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*headers, *HEADERS]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return protected


def host_names(admin: AdminSettings) -> frozenset[str]:
    """What may stand in ``Host``, without a port."""
    own = admin.host.lower()
    listened = set() if own in _ANY else {f"[{own}]" if ":" in own else own}
    return LOOPBACK | listened | set(admin.hosts)


def find_host_mistake(headers: Headers, known: Collection[str]) -> str | None:
    hosts = headers.getlist("host")
    if len(hosts) == 1 and _without_port(hosts[0]) in known:
        return None
    return (
        "This name does not belong to this service. Reach it by another one, or add it to admin.hosts in the"
        " configuration and start the service anew."
    )


def is_from_elsewhere(headers: Headers, method: str) -> bool:
    """Whether another site has made the browser send this."""
    sites = set(headers.getlist("sec-fetch-site"))
    if sites:
        return not sites <= {"same-origin", "none"}
    if method in ("GET", "HEAD"):
        return False
    origins = headers.getlist("origin")
    return len(origins) != 1 or not _is_of_host(origins[0], headers.get("host", ""))


def came_by_https(headers: Headers, scheme: str) -> bool:
    """As the browser has it, whatever is between: its ``Origin`` was compared with ``Host`` where it decides."""
    return scheme == "https" or headers.get("origin", "").startswith("https://")


def token_parameters(query: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> list[str]:
    """Names of parameters that are meant to let somebody in."""
    return [name for name, _ in query if name.lower().replace("-", "_") in _TOKEN_PARAMETERS]


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isascii() and port.isdigit() else host.lower()


def _is_of_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if parts.scheme not in ("http", "https"):
        return False
    default = ":443" if parts.scheme == "https" else ":80"
    return parts.netloc.lower().removesuffix(default) == host.lower().removesuffix(default)
