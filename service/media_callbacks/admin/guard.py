"""
Who may look.

Without a token whoever is on this machine may, and that must not be a web page in a browser on it, or a stranger behind
a proxy on it: both come from loopback like an operator does. A page gives itself away by the headers that browsers add
and pages can't change; one whose name its owner has turned to 127.0.0.1 (DNS rebinding) by ``Host``, which still has
that name; a proxy by the headers that tell whom it speaks for.
"""

import hmac
import ipaddress
import re
from collections.abc import Iterator, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from media_callbacks.edge.answers import problem

JOBS_PATH = "/v1/jobs"
TOKEN = "media_callbacks.token"  # noqa: S105 - a name
"""In the scope of a request that is let in: which setting has the token that it came with; not there without one."""
JOBS_TOKEN = "admin.jobs_token"  # noqa: S105 - a name

_HOST = re.compile(rb"(?:localhost|\[([0-9a-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?", re.IGNORECASE)
_FORWARDED = re.compile(
    rb"(?:x-)?forwarded(?:[-_].*)?|x_forwarded_.*|x-original-forwarded-for|via|x-real-ip|x-remote-addr|x-proxyuser-ip|cdn-loop"
    rb"|(?:x-|x-cluster-|true-|fastly-)?client-ip|cf-connecting-ip|x-envoy-external-address|x-amzn-trace-id",
    re.DOTALL,
)
_DEFAULT_PORTS = {"http": b":80", "https": b":443"}


class AdminGuard:
    """
    Lets requests through that carry a bearer token, or, where none is configured, that a program on this machine has
    sent by itself; those about jobs with a token of the applications, too.

    Args:
        tokens: For everything; each of at least 16 characters.
        jobs_tokens: For ``/v1/jobs`` and what is below it alone; the same.
    """

    def __init__(self, app: ASGIApp, *, tokens: tuple[str, ...], jobs_tokens: tuple[str, ...] = ()) -> None:
        self._app = app
        self._is_open_to_loopback = not tokens
        self._expected = {"admin.token": _expected(tokens)} if tokens else {}
        self._expected_for_jobs = self._expected | ({JOBS_TOKEN: _expected(jobs_tokens)} if jobs_tokens else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        is_about_jobs = scope["path"] == JOBS_PATH or scope["path"].startswith(f"{JOBS_PATH}/")
        expected = self._expected_for_jobs if is_about_jobs else self._expected
        # With all of them, whichever are expected here.
        given = [name for name, tokens in self._expected_for_jobs.items() if _has_one_of(tokens, scope)]
        if matching := [name for name in given if name in expected]:
            scope[TOKEN] = matching[0]
            return None
        detail = f"expected the header Authorization: Bearer <{' or '.join(expected)}>"
        if self._is_open_to_loopback:
            mistake = next(local_mistakes(scope), None)
            if mistake is None:
                return None
            if not expected:
                return problem(403, detail=f"{mistake}, or set admin.token and send it")
            detail += f"; without it: {mistake}"
        if given:
            detail = f"this is admin.jobs_token, which opens {JOBS_PATH} alone; {detail}"
        return problem(401, {"www-authenticate": "Bearer"}, detail=detail)


def _expected(tokens: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f"Bearer {token}".encode() for token in tokens)


def _has_one_of(expected: Sequence[bytes], scope: Scope) -> bool:
    values = _values(scope, b"authorization")
    if len(values) != 1:
        return False
    # Some proxies write the scheme in lower case.
    given = values[0][:6].capitalize() + values[0][6:]
    # With all of them, whichever it is.
    matches = [hmac.compare_digest(given, one) for one in expected]
    return any(matches)


def local_mistakes(scope: Scope) -> Iterator[str]:
    """What tells that a request may be of someone else than a program on this machine: expected, came, what to do."""
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]):
        yield _tell("a request from this machine", "one from elsewhere", "ask from this machine")
    for name, _ in scope["headers"]:
        if _FORWARDED.fullmatch(name):
            shown = name[:40].decode("latin-1")
            yield _tell("a request that no proxy has passed on", f"one with the header {shown}", "ask without a proxy")
    hosts = _values(scope, b"host")
    if len(hosts) != 1 or not _is_loopback_host(hosts[0]):
        came = "another one" if len(hosts) == 1 else "several" if hosts else "none"
        yield _tell(
            "one header Host of 127.0.0.1, [::1] or localhost, with any port", came, "ask by http://127.0.0.1:<port>"
        )
        return
    todo = "ask by a program and not from a web page"
    scheme = scope.get("scheme", "http")
    own = scheme.encode() + b"://" + hosts[0].lower().removesuffix(_DEFAULT_PORTS.get(scheme, b""))
    if {origin.lower() for origin in _values(scope, b"origin")} - {own}:
        yield _tell("no header Origin, or the one of this address", "another one", todo)
    if set(_values(scope, b"sec-fetch-site")) - {b"same-origin", b"none"}:
        yield _tell("no header Sec-Fetch-Site, or same-origin or none in it", "another one", todo)


def _tell(expected: str, came: str, todo: str) -> str:
    return f"expected {expected}, because admin.token is not set; came {came}; {todo}"


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for found, value in scope["headers"] if found == name]


def _is_loopback_host(host: bytes) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    address = found[1] or found[2]
    return address is None or _is_loopback(address.decode())


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
