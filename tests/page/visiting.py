"""Somebody who looks at the page over a real store, without a browser."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from media_callbacks.config.settings import build_settings
from media_callbacks.page.app import Page
from tests.factories.operators import Operators, operating
from tests.factories.running import make_tables

TOKEN = "a-token-of-operators-1"
HERE = ("127.0.0.1", 50_000)


@dataclass
class Visitor:
    """
    Attributes:
        slept_s: How long wrong attempts to sign in were made to wait.
    """

    operators: Operators
    page: Page
    cookie: str | None = None
    client: tuple[str, int] = HERE
    slept_s: list[float] = field(default_factory=list)

    async def ask(
        self, method: str, target: str, *, host: str = "127.0.0.1:8081", headers: Any = (), **options: Any
    ) -> httpx2.Response:
        sent = [("host", host), *(headers.items() if isinstance(headers, Mapping) else headers)]
        if self.cookie is not None and "cookie" not in dict(sent):
            sent.append(("cookie", f"media_callbacks={self.cookie}"))
        if method == "POST" and "sec-fetch-site" not in dict(sent) and "origin" not in dict(sent):
            sent.append(("sec-fetch-site", "same-origin"))
        transport = httpx2.ASGITransport(self.page.app(), raise_app_exceptions=False, client=self.client)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081") as client:
            return await client.request(method, target, headers=sent, **options)

    async def look(self, target: str, **options: Any) -> str:
        answer = await self.ask("GET", target, **options)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.text

    async def order(self, target: str, form: Mapping[str, str] | None = None, **options: Any) -> httpx2.Response:
        return await self.ask("POST", target, data=dict(form or {"reason": ""}), **options)

    async def sign_in(self, token: str = TOKEN, name: str = "kim") -> httpx2.Response:
        answer = await self.order("/ui/sign-in", {"token": token, "name": name})
        if answer.status_code == 303:
            self.cookie = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
        return answer


@asynccontextmanager
async def visiting(folder: Path, *, token: str | None = TOKEN, **changes: Any) -> AsyncIterator[Visitor]:
    """Signed in where there is a token. ``changes`` are keys of the table ``[admin]``."""
    async with operating(folder) as operators:
        urls = dict.fromkeys(("orders", "bus"), "http://127.0.0.1:9/")
        tables = make_tables(folder, urls, {f"admin.{key}": value for key, value in changes.items()})
        if token is not None:
            tables["admin"]["token"] = token

        async def sleep(delay_s: float) -> None:
            visitor.slept_s.append(delay_s)

        page = Page(
            operators.api,
            build_settings(tables, environ={}),
            clock=lambda: operators.now,
            sleep=sleep,
            monotonic=lambda: 0.0,
        )
        visitor = Visitor(operators, page)
        if token is not None:
            await visitor.sign_in()
        yield visitor
