"""The page in a real browser: signing in to sending again, both themes, on a phone and on a desk."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.factories.running import Running
from tests.page.chromium import browsing, find_chromium, opened, sign_in
from tests.page.scenery import scenery

VIEWS = (
    "",
    "events",
    "receipts",
    "refused",
    "refused/1",
    "sinks/bus",
    "jobs",
    "report",
    "replays",
    "replays/new?sink=bus",
)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    find_chromium()
    async with scenery(tmp_path) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_every_view_fits_and_can_be_read(running: Running, theme: Any, width: int):
    async with browsing() as browser, opened(browser, theme=theme, width=width) as page:
        await sign_in(page, running)
        for view in VIEWS:
            await page.goto(f"http://{running.admin_address}/ui/{view}")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert await page.evaluate(CONTRASTS) == [], view
            assert await page.evaluate(UNNAMED) == [], view


@pytest.mark.slow
async def test_from_signing_in_to_sending_again(running: Running):
    async with browsing() as browser, opened(browser) as page:
        await hurry(page)
        await sign_in(page, running)
        await expect(page.get_by_text("Wrong: sink bus.")).to_be_visible()
        await page.get_by_role("list").get_by_role("link", name="bus").click()
        await page.get_by_label("reason").fill("moving")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_text("moving by kim (page)")).to_be_visible()
        running.receivers["bus"].status = 204
        await page.get_by_role("button", name="Resume").click()
        await expect(page.get_by_role("button", name="Pause")).to_be_visible()
        await page.get_by_role("button", name="Retry now").click()
        await expect(page.get_by_role("status").filter(has_text="Tried now")).to_be_visible()
        await running.receivers["bus"].wait_for(10)
        await page.get_by_role("link", name="something else").click()
        await page.get_by_label("outcome").select_option("failed")
        await page.get_by_role("button", name="Show").click()
        await expect(page.get_by_text("1 event would be sent again to bus.")).to_be_visible()
        await page.get_by_label("reason").fill("they lost it")
        await page.get_by_role("button", name="Send 1 again").click()
        await expect(page.get_by_role("heading", name="Replay 1")).to_be_visible()
        await running.receivers["bus"].wait_for(11)
        # Live: nobody loads it again.
        await expect(page.get_by_text(re.compile("finished"))).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await page.goto(f"http://{running.admin_address}/ui/events")
        await expect(page.get_by_label("Token")).to_be_visible()


@pytest.mark.slow
async def test_it_is_live_while_somebody_looks_and_leaves_what_is_in_use_alone(running: Running):
    async with browsing() as browser, opened(browser) as page:
        await hurry(page)
        await sign_in(page, running, "events")
        assert "job-new" not in await page.inner_text("main")
        await running.send(running.build("vod", "job-new"))
        await expect(page.get_by_role("link", name="job-new")).to_be_visible()
        await page.get_by_text("Filter", exact=True).click()
        await page.get_by_label("job id").fill("half a w")
        await running.send(running.build("vod", "job-newer"))
        await expect(page.get_by_role("link", name="job-newer")).to_be_visible()
        assert await page.get_by_label("job id").input_value() == "half a w"


@pytest.mark.slow
async def test_signed_out_in_another_tab_it_asks_to_sign_in(running: Running):
    async with browsing() as browser, opened(browser) as page:
        await hurry(page)
        await sign_in(page, running, "events")
        other = await page.context.new_page()
        await other.goto(f"http://{running.admin_address}/ui/")
        await other.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token")).to_be_visible()


@pytest.mark.slow
async def test_without_script_it_is_as_good_as_when_it_was_loaded(running: Running):
    async with browsing() as browser, opened(browser, java_script_enabled=False) as page:
        await sign_in(page, running, "sinks/bus")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("button", name="Resume")).to_be_visible()


@pytest.mark.slow
async def test_by_keyboard_alone(running: Running):
    async with browsing() as browser, opened(browser) as page:
        await sign_in(page, running)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to content"
        for _ in range(3):
            await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Jobs"
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/jobs")


async def hurry(page: Page) -> None:
    """The page's own pause, shortened."""
    await page.add_init_script("const wait = setTimeout; window.setTimeout = (run, ms) => wait(run, ms / 50);")


# Texts whose contrast to what is behind them is below 4.5, as WCAG's AA asks.
CONTRASTS = """() => {
  const parse = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a] = parse(getComputedStyle(at).backgroundColor);
      if (a === undefined || a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, option")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) poor.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)} ${contrast.toFixed(2)}`);
  }
  return poor;
}"""
# Whatever can be used and has no name for who does not see it; and headings that leave a level out.
UNNAMED = """() => {
  const found = [];
  for (const element of document.querySelectorAll("input:not([type=hidden]), select, button, a, summary, progress")) {
    const label = element.labels && element.labels.length ? element.labels[0].textContent : "";
    if (!(element.getAttribute("aria-label") || label || element.textContent).trim()) found.push(element.outerHTML);
  }
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) found.push(heading.outerHTML);
    level = own;
  }
  if (document.querySelectorAll("h1").length !== 1) found.push("h1");
  return found;
}"""
