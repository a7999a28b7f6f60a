"""How things look on a terminal. Only loaded where there is one: rich takes as long to load as a short answer does."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from media_callbacks.commands.console.output import Cell, ShowProgress, printable


def draw_line(pieces: Sequence[tuple[str, str]]) -> None:
    line = Text.assemble(*((printable(text), style) for text, style in pieces))
    Console().print(line, soft_wrap=True)


def draw_table(head: Sequence[str], rows: Iterable[Sequence[Cell]], widths: Mapping[str, int]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in head:
        table.add_column(name, no_wrap=name in widths, overflow="fold")
    for row in rows:
        table.add_row(*(_styled(cell, widths.get(name)) for name, cell in zip(head, row, strict=True)))
    Console().print(table)


def _styled(cell: Cell, width: int | None) -> Text:
    text, style = cell if isinstance(cell, tuple) else (cell, "")
    lines = [printable(line) for line in ([text] if isinstance(text, str) else text)]
    if width is not None:
        lines = [line[at : at + width] for line in lines for at in range(0, max(len(line), 1), width)]
    return Text("\n".join(lines), style=style)


@contextmanager
def draw_progress(what: str) -> Iterator[ShowProgress]:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
