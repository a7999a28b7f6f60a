"""The page as an application: from a request to a view or an order, and to HTML."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from time import monotonic
from urllib.parse import parse_qsl

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from media_callbacks.admin.api import AdminApi
from media_callbacks.admin.bodies import BodyReader
from media_callbacks.admin.guard import local_mistakes
from media_callbacks.admin.operations import Refused
from media_callbacks.config.settings import Settings
from media_callbacks.model.errors import Rejected, Unavailable
from media_callbacks.page import text
from media_callbacks.page.cells import Cells
from media_callbacks.page.guard import (
    came_by_https,
    find_host_mistake,
    host_names,
    is_from_elsewhere,
    protecting,
    token_parameters,
)
from media_callbacks.page.recent import Recent
from media_callbacks.page.sessions import Sessions, is_name, set_cookie
from media_callbacks.page.views import Order, Shown, View, Views
from media_callbacks.version import read_version

PATH = "/ui"
# Of a view, for all who look at it.
KEEP_S = 1.0
MAX_FORM_BYTES = 64 * 1024
FORM_TIMEOUT_S = 10.0
# Attempts to sign in that are judged at once, and how long a wrong one takes: so much can be tried in vain.
MAX_ATTEMPTS = 8
WRONG_S = 1.0
STATIC_TYPES = {"page.css": "text/css", "page.js": "text/javascript", "page.svg": "image/svg+xml"}

log = structlog.get_logger()


class Page:
    """
    Args:
        clock: The time in UTC.
        sleep: How to wait.
        monotonic: A clock in seconds that nobody sets.
    """

    def __init__(
        self,
        api: AdminApi,
        settings: Settings,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self._admin = settings.admin
        self._hosts = host_names(settings.admin)
        self._sessions = Sessions(settings.admin.token, clock)
        self._clock = clock
        self._sleep = sleep
        self._attempts = 0
        self._recent = Recent(monotonic)
        self._forms = BodyReader(max_bytes=MAX_FORM_BYTES, timeout_s=FORM_TIMEOUT_S)
        self._static = {name: (files("media_callbacks.page") / name).read_bytes() for name in STATIC_TYPES}
        self._templates = _templates(
            {name: _hashed(name, content) for name, content in self._static.items()},
            can_order=settings.admin.page == "on",
        )
        self._compiled: set[str] = set()
        self._compiling: asyncio.Task[None] | None = None
        views = Views(
            api,
            self._recent,
            Cells(settings.admin),
            clock=clock,
            sinks=tuple(settings.sinks),
            sources=tuple(settings.sources),
        )
        self._inside = Starlette(
            routes=self._routes(views),
            exception_handlers={HTTPException: self._answer_http_error, Exception: self._answer_failure},
        )
        self._inside.router.redirect_slashes = False

    def app(self) -> ASGIApp:
        return protecting(self._answer)

    def _routes(self, views: Views) -> Sequence[Route]:
        orders = views.orders
        routes = [Route(f"{PATH}/{path}", self._looking(view), methods=["GET"]) for path, view in views.views.items()]
        routes += [Route(f"{PATH}/{path}", self._ordering(order), methods=["POST"]) for path, order in orders.items()]
        routes += [
            Route(f"{PATH}/static/{_hashed(name, content)}", _serving(content, STATIC_TYPES[name]), methods=["GET"])
            for name, content in self._static.items()
        ]
        return [
            Route(PATH, self._go_in, methods=["GET"]),
            Route(f"{PATH}/sign-in", self._show_sign_in, methods=["GET"]),
            Route(f"{PATH}/sign-in", self._sign_in, methods=["POST"]),
            Route(f"{PATH}/sign-out", self._sign_out, methods=["POST"]),
            *routes,
        ]

    async def _go_in(self, _: Request) -> Response:
        return RedirectResponse(f"{PATH}/", 303)

    async def _answer_http_error(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._plain(error.status_code, "Nothing is here", "No view of this page has this address.", f"{PATH}/")

    async def _answer_failure(self, _: Request, __: Exception) -> Response:
        return self._plain(500, "A defect", "The service's log has its traceback.")

    # Who may look

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await (self._refusal(request) or self._inside)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        mistake = find_host_mistake(headers, self._hosts)
        if mistake is not None:
            return self._plain(403, "Not by this name", mistake)
        named = token_parameters(request.query_params.multi_items())
        if named or any(self._sessions.is_token(value) for value in request.query_params.values()):
            return self._plain(
                400,
                "No token in an address",
                "An address is kept in histories and logs, so a token in one is not taken. If it was a real one, change"
                " it, and sign in with the new one in the form.",
            )
        if is_from_elsewhere(headers, request.method):
            if request.method in ("GET", "HEAD"):
                target = escape(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
                return self._plain(
                    403, "A link from elsewhere", "Another page has led here. Go on if you meant to:", target
                )
            return self._plain(403, "From elsewhere", "Another page has sent this, so nothing was done.")
        if not self._sessions.is_needed:
            local = next(local_mistakes(request.scope), None)
            return (
                None if local is None else self._plain(403, "From this machine alone", f"{local}, or set admin.token")
            )
        return None

    def _who(self, request: Request) -> str | None:
        """How orders are signed; None where it is not known who asks."""
        if not self._sessions.is_needed:
            return "page"
        name = self._sessions.read(request.headers.getlist("cookie"))
        return None if name is None else f"{name} (page)"

    # Views and orders

    def _looking(self, view: View) -> Callable[[Request], Awaitable[Response]]:
        async def look(request: Request) -> Response:
            who = self._who(request)
            if who is None:
                here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(text.address("sign-in", next=here), 303)
            try:
                title, html = await self._recent.get(
                    (request.url.path, request.url.query), lambda: self._make(view, request), keep_s=KEEP_S
                )
            except (Rejected, Unavailable) as error:
                return self._mistake(error)
            return HTMLResponse(html if "x-part" in request.headers else self._layout(title, html, who))

        return look

    async def _make(self, view: View, request: Request) -> tuple[str, Markup]:
        query = _read_query(request)
        shown = await view(request.path_params, query)
        await self._compile(shown.template)
        return shown.title, self._render(shown, query, request.url.path)

    def _ordering(self, order: Order) -> Callable[[Request], Awaitable[Response]]:
        async def obey(request: Request) -> Response:
            who = self._who(request)
            if who is None:
                return self._plain(401, "Not signed in", "Nothing was done. Sign in and order it again.", "/ui/sign-in")
            if self._admin.page != "on":
                return self._plain(
                    403, "Read-only", 'Nothing was done: the configuration says admin.page = "read-only".'
                )
            try:
                target = await order(request.path_params, await self._read_form(request), who)
            except (Rejected, Unavailable) as error:
                return self._mistake(error)
            self._recent.clear()
            return RedirectResponse(target, 303)

        return obey

    # Signing in

    async def _show_sign_in(self, request: Request) -> Response:
        query = dict(request.query_params)
        if self._who(request) is not None:
            return RedirectResponse(_next(query), 303)
        # While somebody types.
        self._compiling = asyncio.create_task(self._compile(*self._templates.list_templates(["html"])))
        return self._sign_in_form(200, query)

    async def _sign_in(self, request: Request) -> Response:
        try:
            form = await self._read_form(request)
        except (Rejected, Unavailable) as error:
            return self._mistake(error)
        name = form.get("name", "").strip()
        if not is_name(name):
            return self._sign_in_form(
                422, form, "Say who you are, in up to 100 characters; it stands with what you order."
            )
        if self._attempts >= MAX_ATTEMPTS:
            response = self._sign_in_form(429, form, "Too many are signing in just now. Try again in some seconds.")
            response.headers["retry-after"] = "2"
            return response
        self._attempts += 1
        try:
            cookie = self._sessions.begin(form.get("token", ""), name)
            if cookie is None:
                await self._sleep(WRONG_S)
                log.warning("page_sign_in_refused", name=name)
                return self._sign_in_form(401, form, "This is not admin.token.")
        finally:
            self._attempts -= 1
        log.info("page_signed_in", name=name)
        response = RedirectResponse(_next(form), 303)
        is_secure = came_by_https(request.headers, request.scope.get("scheme", "http"))
        response.headers["set-cookie"] = set_cookie(cookie, is_secure=is_secure)
        return response

    async def _sign_out(self, request: Request) -> Response:
        response = RedirectResponse(f"{PATH}/sign-in", 303)
        is_secure = came_by_https(request.headers, request.scope.get("scheme", "http"))
        response.headers["set-cookie"] = set_cookie("", is_secure=is_secure)
        return response

    def _sign_in_form(self, status: int, given: Mapping[str, str], mistake: str | None = None) -> Response:
        shown = Shown("sign_in.html", "Sign in", {"mistake": mistake, "name": given.get("name"), "next": _next(given)})
        return HTMLResponse(self._layout("Sign in", self._render(shown, {}, ""), None), status)

    async def _read_form(self, request: Request) -> dict[str, str]:
        types = request.headers.getlist("content-type")
        if len(types) != 1 or types[0].partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise Refused(415, "expected a form of this page")
        body = await self._forms.read(request.headers.raw, request.receive)
        try:
            items = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=50, errors="strict")
        except ValueError:
            raise Refused(400, "expected a form of this page, in UTF-8") from None
        return _once(items)

    # HTML

    async def _compile(self, *templates: str) -> None:
        """Takes up to a fifth of a second for each: in a thread, so that callbacks need not wait."""
        for template in (*templates, "macros.html", "layout.html"):
            if template not in self._compiled:
                await asyncio.to_thread(self._templates.get_template, template)
                self._compiled.add(template)

    def _render(self, shown: Shown, query: Mapping[str, str], path: str) -> Markup:
        context = {**shown.context, "query": query, "path": path, "now": self._clock()}
        return Markup(self._templates.get_template(shown.template).render(context))  # noqa: S704 - it has escaped

    def _layout(self, title: str, content: Markup, who: str | None) -> str:
        is_signed_in = who is not None and self._sessions.is_needed
        return self._templates.get_template("layout.html").render(
            title=title, content=content, who=who, is_signed_in=is_signed_in
        )

    def _plain(self, status: int, title: str, sentence: str, target: str | None = None) -> Response:
        shown = Shown("plain.html", title, {"sentence": sentence, "target": target, "heading": title})
        return HTMLResponse(self._layout(title, self._render(shown, {}, ""), None), status)

    def _mistake(self, error: Rejected | Unavailable) -> Response:
        if isinstance(error, Unavailable):
            response = self._plain(
                503,
                "The store is away",
                f"{error}. Callbacks are refused or journaled until it is back; this page shows what is in it.",
            )
            response.headers["retry-after"] = "2"
            return response
        titles = {404: "Nothing is here", 409: "Not in this state"}
        return self._plain(error.status, titles.get(error.status, "That makes no sense"), str(error))


def _templates(static: Mapping[str, str], *, can_order: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("media_callbacks.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals |= {
        "url": text.url,
        "ago": text.ago,
        "can_order": can_order,
        "static": static,
        "version": read_version(),
    }
    environment.filters |= {
        "exact": text.exact,
        "long": text.long,
        "field": text.field,
        "seconds": text.seconds,
        "size": text.size,
    }
    return environment


def _hashed(name: str, content: bytes) -> str:
    stem, _, suffix = name.partition(".")
    return f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"


def _serving(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        # Its name changes with it.
        headers = {"cache-control": "private, max-age=31536000, immutable"}
        return Response(content, media_type=media_type, headers=headers)

    return serve


def _read_query(request: Request) -> dict[str, str]:
    return _once(request.query_params.multi_items())


def _once(items: Sequence[tuple[str, str]]) -> dict[str, str]:
    values = dict(items)
    if len(values) != len(items):
        raise Refused(400, "expected each parameter once")
    return values


def _next(given: Mapping[str, str]) -> str:
    """Where to go after signing in: within the page, whatever somebody has written there."""
    target = given.get("next", "")
    is_inside = target.startswith(f"{PATH}/") and target.isascii() and target.isprintable() and "\\" not in target
    return target if is_inside and not target.startswith(f"{PATH}/sign-") else f"{PATH}/"
