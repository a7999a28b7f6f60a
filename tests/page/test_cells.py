"""The page over several cells: two that live, a third one that is dead, and one that never says anything."""

import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from media_callbacks.page import cells as page_cells
from tests.factories.cells import TwoCells, two_cells
from tests.factories.fake_admin import FakeAdmin, fake_admin, problem
from tests.page.test_page import HOSTILE, text_of
from tests.page.visiting import Visitor, visiting


@pytest.fixture
async def cells(tmp_path: Path) -> AsyncIterator[TwoCells]:
    async with two_cells(tmp_path) as cells:
        await cells.send("east", "job-east", "job-both")
        await cells.send("west", "job-west", "job-both")
        yield cells


@pytest.fixture
async def visitor(cells: TwoCells, tmp_path: Path) -> AsyncIterator[Visitor]:
    named = cells.tables(with_dead=True)
    named["west"]["page"] = "https://ops-west.example.com"
    (tmp_path / "page").mkdir()
    async with visiting(tmp_path / "page", cells=named) as visitor:
        yield visitor


async def test_the_states_of_all_are_one_view_with_a_link_into_each(cells: TwoCells, visitor: Visitor) -> None:
    html = await visitor.look("/ui/")
    address = cells.running["east"].admin_address
    assert f'<a href="http://{address}/ui/">east</a>' in html
    assert '<a href="https://ops-west.example.com/ui/">west</a>' in html
    rows = {text_of(row).split()[0]: text_of(row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)}
    assert "All is well" in rows["east"]
    assert "does not answer" in rows["dead"]
    assert "Not well: cell dead." in text_of(html)


async def test_a_search_finds_jobs_in_all_cells(cells: TwoCells, visitor: Visitor) -> None:
    html = await visitor.look("/ui/search?q=job-west")
    assert 'href="https://ops-west.example.com/ui/jobs/vod/job-west"' in html
    assert "cell dead does not answer" in text_of(html)
    html = await visitor.look("/ui/search?q=job-both")
    address = cells.running["east"].admin_address
    assert re.findall(r'href="([^"]*)/ui/jobs/vod/job-both"', html) == [
        f"http://{address}",
        "https://ops-west.example.com",
    ]
    assert "2 jobs found" in text_of(html)


async def test_a_cell_that_never_answers_holds_the_page_up_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cells, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with visiting(tmp_path, cells={"silent": {"url": url}}) as visitor:
            assert "does not answer (no answer within 0.05 s)" in text_of(await visitor.look("/ui/"))
            assert "cell silent does not answer" in text_of(await visitor.look("/ui/search?q=x"))


async def test_what_a_cell_says_is_text(tmp_path: Path) -> None:
    async def look(fake: FakeAdmin, *targets: str) -> list[str]:
        async with visiting(tmp_path, cells={"other": {"url": fake.url}}) as visitor:
            return [await visitor.look(target) for target in targets]

    async with fake_admin() as fake:
        fake.answers["GET /v1/status"] = {"is_well": HOSTILE}
        fake.answers["GET /v1/search"] = {"hits": [], "refused": []}
        overview, search = await look(fake, "/ui/", "/ui/search?q=x")
        assert "answers otherwise than this version expects" in overview
        assert "0 jobs found" in text_of(search)
        assert [asked.authorization for asked in fake.asked] == ["Bearer a-token-of-operators-1"] * 2
    async with fake_admin() as fake:
        # A refusal, in words of its own.
        fake.answers["GET /v1/status"] = problem(401, HOSTILE)
        (overview,) = await look(fake, "/ui/")
        assert "answers HTTP 401" in overview
        assert "<script>" not in overview
        assert "<img" not in overview


async def test_without_cells_nothing_is_asked_of_anybody(tmp_path: Path) -> None:
    async with visiting(tmp_path) as visitor:
        assert 'id="cells"' not in await visitor.look("/ui/")
        assert "0 jobs found" in text_of(await visitor.look("/ui/search?q=x"))
