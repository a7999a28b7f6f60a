"""Lists of which the admin API has page after page, the newest first."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.output import can_draw, print_json, print_line


def add_limit_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", default=50, help="how many at most (default: 50)")


def print_list(
    arguments: argparse.Namespace,
    read: Callable[[int], Iterator[Json]],
    show: Callable[[Sequence[Json]], None],
    *,
    nothing: str,
) -> int:
    """
    Args:
        read: The documents, at most so many.
        show: Prints them as a table, or in a pipe each as soon as it is there.
        nothing: What a terminal is told where there are none.
    """
    if arguments.limit < 1:
        raise UsageError(f"--limit: expected a number above zero, came {arguments.limit}")
    if arguments.json or not can_draw(sys.stdout):
        for document in read(arguments.limit):
            if arguments.json:
                print_json(document)
            else:
                show([document])
        return 0
    # One more than asked for tells whether there are more.
    found = list(read(arguments.limit + 1))
    if found:
        show(found[: arguments.limit])
    else:
        print_line(nothing)
    if len(found) > arguments.limit:
        print_line(f"these are the newest {arguments.limit}; there are more: --limit N")
    return 0
