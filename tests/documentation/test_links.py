"""Links lead somewhere, and every page is reached."""

import posixpath
import re

import pytest

from tests.documentation.pages import PAGES, ROOT, read_anchors, read_links, read_page


def resolve(page: str, target: str) -> tuple[str, str]:
    """Path in the checkout, and anchor."""
    name, _, anchor = target.partition("#")
    return (posixpath.normpath(posixpath.join(posixpath.dirname(page), name)) if name else page), anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_are_there(page: str):
    for target in read_links(page):
        path, anchor = resolve(page, target)
        # A site shows pages, not folders.
        assert (ROOT / path).is_file(), target
        assert not anchor or (path.endswith(".md") and anchor in read_anchors(path)), target


def test_every_page_can_be_reached_from_the_readme():
    reached, left = set[str](), ["README.md"]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        left += [path for path, _ in (resolve(page, target) for target in read_links(page)) if path in PAGES]
    assert set(PAGES) - reached == set()


def test_pages_are_found():
    assert {"README.md", "CONTRIBUTING.md", "deploy/README.md", "docs/architecture.md"} <= set(PAGES)


FILES = [
    str(path.relative_to(ROOT))
    for folder in ("service", "tests", "deploy", "docs")
    for path in (ROOT / folder).rglob("*.*")
]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str):
    for named in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|toml|ya?ml|md|json))`", read_page(page)):
        # As far as it is written, from the left or not.
        assert (ROOT / named).is_file() or any(path.endswith(f"/{named}") for path in FILES), named


def test_the_site_has_every_page():
    nav = re.findall(r'"([\w/.-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8"))
    assert sorted(nav) == sorted(PAGES)
