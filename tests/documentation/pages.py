"""
The pages of the documentation, and the blocks of code on them.

What a block is for is told by its language, its first line, and a comment right above it, which no reader sees:

    sh                              run, unless ``<!-- not run: why -->`` stands above it
    toml                            checked; a fragment is completed first, unless its first line is # media-callbacks.toml
    first line # NAME or // NAME    written to the file NAME, for the commands on the page
"""

import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    str(page.relative_to(ROOT))
    for page in sorted(
        (*ROOT.glob("*.md"), *ROOT.glob("clients/*/*.md"), *ROOT.glob("deploy/**/*.md"), *ROOT.glob("docs/**/*.md"))
    )
)

_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<note>.*?) -->\n(?P=indent))?"
    r"(?P<fence>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
_FILE_NAME = re.compile(r"(?:#|//) ([\w-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """
    Attributes:
        note: The comment right above it, or nothing.
        file: What its first line says that it is called, or None.
    """

    page: str
    line: int
    language: str
    text: str
    note: str
    file: str | None

    @property
    def is_run(self) -> bool:
        return not self.note.startswith("not run: ")

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read_page(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def read_blocks(page: str) -> list[Block]:
    text = read_page(page)
    blocks = []
    for found in _BLOCK.finditer(text):
        code = textwrap.dedent(found["text"])
        named = _FILE_NAME.match(code)
        line = text.count("\n", 0, found.start("fence")) + 1
        blocks.append(Block(page, line, found["language"], code, found["note"] or "", named[1] if named else None))
    return blocks


def read_anchors(page: str) -> set[str]:
    """As GitHub makes them of headings: lower case, blanks as hyphens, of the rest only letters, digits, - and _."""
    found: Counter[str] = Counter()
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", _BLOCK.sub("", read_page(page)), re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{anchor}-{found[anchor]}" if found[anchor] else anchor)
        found[anchor] += 1
    return anchors


def read_links(page: str) -> list[str]:
    """Where links lead that stay here."""
    text = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", read_page(page)))
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text)
