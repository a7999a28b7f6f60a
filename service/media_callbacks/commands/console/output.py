"""
What commands print: tables on a terminal, and in a pipe one line per row with tabs between the cells, without a head. A
terminal is as good as a pipe where rich is not installed, which only the service's extra brings.

Whatever comes from elsewhere (a vendor's job id, a receiver's words) may hold control characters or markup. All of it
goes through ``printable``, and to rich as ``Text``, which is never read as markup.

What needs rich is in ``terminal``, which is loaded when there is a terminal to draw on and not before.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import TextIO

Piece = str | tuple[str, str]
"""A text, or a text and its style."""
Cell = Piece | list[str]
"""The same, or several lines; in a pipe they are one, with a blank between."""
ShowProgress = Callable[[int, int | None], None]
"""Told how much is done, and of how much if that is known."""

_STYLES = {
    "delivered": "green",
    "active": "green",
    "accepted": "green",
    "finished": "green",
    "completed": "green",
    "healed": "green",
    "retrying": "yellow",
    "pending": "cyan",
    "running": "cyan",
    "expected": "cyan",
    "parked": "magenta",
    "paused": "magenta",
    "half_open": "yellow",
    "unparsed": "yellow",
    "overdue": "yellow",
    "unknown": "bold red",
    "conflict": "bold red",
    "differing": "bold red",
    "dead": "bold red",
    "disabled": "bold red",
    "open": "bold red",
}


def printable(text: object) -> str:
    """One line, with everything that a terminal would obey, or can't show, as an escape sequence of Python."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def can_draw(stream: TextIO) -> bool:
    return stream.isatty() and find_spec("rich") is not None


def style_of(word: str) -> str:
    """The style in which a state is shown."""
    return _STYLES.get(word, "")


def note(text: str) -> None:
    """Tell something beside what a command prints."""
    print(text, file=sys.stderr, flush=True)


def print_json(document: object) -> None:
    print(json.dumps(document), flush=True)


def print_line(*pieces: Piece) -> None:
    """One line of text in pieces, each with its style; without styles in a pipe."""
    styled = [(piece, "") if isinstance(piece, str) else piece for piece in pieces]
    if can_draw(sys.stdout):
        from media_callbacks.commands.console.terminal import draw_line  # noqa: PLC0415

        draw_line(styled)
    else:
        print("".join(printable(text) for text, _ in styled).rstrip(), flush=True)


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, widths: Mapping[str, int] = MappingProxyType({})
) -> None:
    """
    Args:
        widths: Columns that are broken at this many characters and never before, so that what is in them can be copied.
    """
    if not can_draw(sys.stdout):
        for row in rows:
            print("\t".join(_plain(cell) for cell in row))
        return
    from media_callbacks.commands.console.terminal import draw_table  # noqa: PLC0415

    draw_table(head, rows, widths)


@contextmanager
def showing_progress(what: str) -> Iterator[ShowProgress]:
    """How far long work is, on the terminal; quiet where standard error is none."""
    if not can_draw(sys.stderr):
        yield lambda _done, _total: None
        return
    from media_callbacks.commands.console.terminal import draw_progress  # noqa: PLC0415

    with draw_progress(what) as show:
        yield show


def _plain(cell: Cell) -> str:
    if isinstance(cell, tuple):
        cell = cell[0]
    return printable(cell if isinstance(cell, str) else " ".join(cell))
