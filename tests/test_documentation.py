"""What the README and deploy/ show is accepted by the code."""

import re
import tomllib
from pathlib import Path

from service.__main__ import build_parser
from service.settings import build_settings, load_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
ENVIRON = {
    "ADMIN_TOKEN": "0123456789abcdef",
    "VOD_KEY": "Example1Key",
    "IMS_KEY": "Example1Key",
    "GIF_URL_KEY": SECRET.removeprefix("whsec_"),
    "ORDERS_SECRET": SECRET,
}


def test_the_example_configuration_is_right_and_gives_no_warning():
    assert load_settings(ROOT / "deploy/media-callbacks.toml", environ=ENVIRON).warnings == ()


def test_the_readmes_configuration_is_right():
    example = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)[0]
    assert build_settings(tomllib.loads(example), environ=ENVIRON).warnings == ()


def test_the_readme_names_every_command():
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    assert commands.choices is not None
    for name in commands.choices:
        assert re.search(rf"\| `media-callbacks {name}\b", README), name


def test_the_files_that_the_readme_points_at_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_sink_of_a_third_party_is_the_one_that_is_tested():
    (shown,) = re.findall(r"<!-- third-party -->\n```python\n(.*?)\n```\n<!-- /third-party -->", README, re.DOTALL)
    assert shown == (ROOT / "tests/sinks/third_party/media_callbacks_folder.py").read_text("utf-8").strip()
