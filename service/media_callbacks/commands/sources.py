"""``media-callbacks sources``: whether anything comes through each source, and what to do where nothing does."""

import argparse

from media_callbacks.admin.models.answers import SourceItem
from media_callbacks.commands.console.admin_client import add_admin_options, read_answer
from media_callbacks.commands.console.cells import Reader, run_with_cells, with_cells
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import print_json, print_table
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.model.times import format_time

_STYLES = {"receiving": "green", "refusing": "red", "silent": "red", "quiet_since_change": "yellow", "quiet": "yellow"}


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks sources list",)
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser(
        "list",
        help="when something came through each source last, and how many were refused in a row",
        description="In a pipe one line per source, cells separated by tabs: name, product, transport, state, when"
        " something genuine came last, how many requests were refused in a row since, what it means.",
    )
    listing.examples = ("media-callbacks sources list",)
    listing.set_defaults(run=lambda arguments: run_with_cells(arguments, list_sources))
    add_admin_options(listing)
    add_json_option(listing)


def list_sources(client: Reader, arguments: argparse.Namespace) -> int:
    documents = client.get_list("/v1/sources", "sources")
    if arguments.json:
        for document in documents:
            print_json(document)
        return 0
    sources = [read_answer(SourceItem, document) for document in documents]
    head = ("source", "product", "transport", "state", "came last", "refused in a row", "what it means")
    rows = [
        (
            source.name,
            source.product,
            source.transport,
            (source.state, _STYLES.get(source.state, "")),
            "-" if source.received_at is None else format_time(source.received_at),
            str(source.refused_since),
            source.text,
        )
        for source in sources
    ]
    print_table(
        *with_cells(head, rows, documents),
        widths={"source": 30, "state": 18},
    )
    return 0
