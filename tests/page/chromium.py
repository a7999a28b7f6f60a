"""Debian's Chromium, driven by Playwright, which downloads none of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.factories.running import ADMIN_TOKEN, PATIENCE_S, Running
from tests.factories.tools import need_tool

Theme = Literal["light", "dark"]
# Only a failure waits so long.
expect.set_options(timeout=PATIENCE_S * 1000)


def find_chromium() -> Path:
    return Path(need_tool("chromium"))


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # It refuses to run as root with its own sandbox; what it is shown here is ours.
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(browser: Browser, *, theme: Theme = "light", width: int = 1400, **options: Any) -> AsyncIterator[Page]:
    """A tab in which whatever the browser complains of, violations of the policy included, is an error."""
    context = await browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900}, **options)
    context.set_default_timeout(PATIENCE_S * 1000)
    complaints: list[str] = []
    page = await context.new_page()
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield page
    finally:
        await context.close()
    assert not complaints, complaints


async def sign_in(page: Page, running: Running, target: str = "") -> None:
    await page.goto(f"http://{running.admin_address}/ui/{target}")
    await page.get_by_label("Your name").fill("kim")
    await page.get_by_label("Token").fill(ADMIN_TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"**/ui/{target}")
