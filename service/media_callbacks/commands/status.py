"""``media-callbacks status``: whether it is well; what is wrong, since when, why, and what to do."""

import argparse

from media_callbacks.admin.models.answers import Status, TroubleItem
from media_callbacks.commands.console.admin_client import add_admin_options, read_answer
from media_callbacks.commands.console.cells import Reader, run_with_cells
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import print_json, print_table, printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.model.times import format_time


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks status",)
    parser.set_defaults(run=lambda arguments: run_with_cells(arguments, show_status))
    add_admin_options(parser)
    add_json_option(parser)


def show_status(client: Reader, arguments: argparse.Namespace) -> int:
    """Returns 1 when something is wrong, in whichever cell."""
    found = client.get_each(Status, "/v1/status")
    for cell, document in found.items():
        if arguments.json:
            print_json(document)
        else:
            _show(cell, read_answer(Status, document))
    return 0 if all(document["is_well"] for document in found.values()) else 1


def _show(cell: str, status: Status) -> None:
    print(printable(f"{cell}: {status.text}" if cell else status.text))
    if status.troubles:
        print_table(
            ("", "what", "why", "since", "what to do"),
            [_row(trouble) for trouble in status.troubles],
            widths={"what": 30, "since": 24},
        )
    print(
        f"jobs: {status.expected} expected, {status.overdue} overdue, {status.unknown} unknown of the last day;"
        f" held: {status.held}; journal: {status.journaled}"
    )


def _row(trouble: TroubleItem) -> tuple[str | tuple[str, str], ...]:
    return (
        ("wrong", "red") if trouble.is_wrong else ("look", "yellow"),
        f"{trouble.what} {trouble.name or ''}".strip(),
        trouble.text,
        "-" if trouble.since is None else format_time(trouble.since),
        trouble.todo,
    )
