"""Which part of which page of docs/reference/ is made from the code."""

import re
from collections.abc import Callable, Mapping

from tests.documentation.pages import ROOT
from tests.reference import admin_tables, command_tables, confirm_tables, message_tables, metric_tables

Render = Callable[[], str]

FOLDER = ROOT / "docs/reference"
# Each stands between <!-- NAME --> and <!-- /NAME -->.
PARTS: Mapping[str, Mapping[str, Render]] = {
    "admin-api.md": {"operations": admin_tables.render},
    "commands.md": {"commands": command_tables.render},
    "messages.md": {"messages": message_tables.render, "confirm": confirm_tables.render},
    "metrics.md": {"metrics": metric_tables.render},
}


def replace_part(text: str, name: str, part: str) -> str:
    """
    Raises:
        ValueError: The text has not both markers.
    """
    made, count = re.subn(
        rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)",
        lambda found: f"{found[1]}\n{part}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"expected <!-- {name} --> and <!-- /{name} --> once")
    return made


def render_page(name: str) -> str:
    text = (FOLDER / name).read_text("utf-8")
    for part, render in PARTS[name].items():
        text = replace_part(text, part, render())
    return text
