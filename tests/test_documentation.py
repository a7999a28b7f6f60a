"""What the README and deploy/ show is accepted by the code."""

import re
import tomllib
from pathlib import Path

import pytest

from media_callbacks.__main__ import COMMANDS
from media_callbacks.config.settings import build_settings, load_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
ENVIRON = {
    "ADMIN_TOKEN": "0123456789abcdef",
    "VOD_KEY": "Example1Key",
    "JOBS_TOKEN": "fedcba9876543210",
    "ALIYUN_ID": "ExampleId",
    "ALIYUN_SECRET": "ExampleSecret",
    "GIF_URL_KEY": SECRET.removeprefix("whsec_"),
    "ORDERS_SECRET": SECRET,
}


def test_the_example_configuration_is_right_and_gives_no_warning():
    assert load_settings(ROOT / "deploy/media-callbacks.toml", environ=ENVIRON).warnings == ()


def test_the_readmes_configuration_is_right():
    example = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0]
    assert build_settings(tomllib.loads(example), environ=ENVIRON).warnings == ()


def test_the_readme_names_every_command():
    for name in COMMANDS:
        assert re.search(rf"\| `media-callbacks {name}\b", README), name


def test_the_sink_of_a_third_party_is_the_one_that_is_tested():
    (shown,) = re.findall(r"<!-- third-party -->\n```python\n(.*?)\n```\n<!-- /third-party -->", README, re.DOTALL)
    assert shown == (ROOT / "tests/sinks/third_party/media_callbacks_folder/__init__.py").read_text("utf-8").strip()


@pytest.mark.parametrize("place", ["service", "deploy", "docs", "README.md", "CHANGELOG.md", "Makefile", "Dockerfile"])
def test_nobody_is_told_to_install_it_by_name(place: str):
    """
    No package index has it: whoever claims the name there first would be installed instead. Where it is installed
    already, pip stays with that, and the one module that says so adds an extra to it.
    """
    path = ROOT / place
    pages = [path] if path.is_file() else [page for page in path.rglob("*") if page.is_file() and page.suffix != ".pyc"]
    pages = [page for page in pages if page != ROOT / "service/media_callbacks/extras.py"]
    assert pages
    by_name = re.compile(r"media[-_]callbacks\[|\b(?:install|add)\s+[\"']?media[-_]callbacks(?![\w./-])")
    found = [str(page.relative_to(ROOT)) for page in pages if by_name.search(page.read_text("utf-8"))]
    assert found == []
