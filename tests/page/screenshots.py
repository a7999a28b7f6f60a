"""Pictures of the page for the documentation: ``make screenshots``."""

import asyncio
import sys
import tempfile
from pathlib import Path

from structlog.testing import capture_logs

from tests.page.chromium import browsing, opened, sign_in
from tests.page.scenery import scenery

FOLDER = Path(__file__).parents[2] / "docs/images"
# By name: the view, the theme, width and height.
PICTURES = {
    "is-it-well": ("", "light", 1280, 720),
    "job": ("jobs/vod/job-1", "dark", 1280, 620),
    "phone": ("", "dark", 390, 780),
}


async def shoot(folder: Path) -> None:
    async with scenery(folder) as running, browsing() as browser:
        for name, (view, theme, width, height) in PICTURES.items():
            async with opened(browser, theme=theme, width=width) as page:  # type: ignore[arg-type]
                await page.set_viewport_size({"width": width, "height": height})
                await sign_in(page, running)
                await page.goto(f"http://{running.admin_address}/ui/{view}")
                await page.screenshot(path=FOLDER / f"{name}.png")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, capture_logs():
        asyncio.run(shoot(Path(folder)))
    for picture in sorted(FOLDER.glob("*.png")):
        print(picture.name, picture.stat().st_size, "bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
