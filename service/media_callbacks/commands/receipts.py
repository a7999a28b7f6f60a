"""``media-callbacks receipts``: what came through the sources, whether it gave an event or not."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC
from typing import get_args

from media_callbacks.admin.models.answers import ReceiptDetail, ReceiptItem
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import AdminClient, add_admin_options, read_answer, run_with_client
from media_callbacks.commands.console.cells import Reader, run_with_cells, with_cells
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.listing import add_limit_option, print_list
from media_callbacks.commands.console.moments import TIMES, read_range
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, can_draw, print_json, print_line, print_table, style_of
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.model.receipts import ReceiptState
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks receipts list --state unparsed", "media-callbacks receipts show 7")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser(
        "list",
        help="receipts, newest first",
        description="In a pipe one line per receipt, cells separated by tabs: received, id, source, product, transport,"
        " verified by, state, event ids, reason.",
    )
    listing.examples = (
        "media-callbacks receipts list --state unparsed --since 1d",
        "media-callbacks receipts list --job-id 3af7e9705cb24c0f9d23231d4c371900",
    )
    listing.add_argument("--state", choices=get_args(ReceiptState))
    listing.add_argument("--source", metavar="NAME", help="that they came through")
    listing.add_argument("--job-id", metavar="ID", help="about this job, also those that gave no event")
    listing.add_argument("--since", metavar="TIME", help=f"received then or later: {TIMES}")
    add_limit_option(listing)
    listing.set_defaults(run=lambda arguments: run_with_cells(arguments, list_receipts), until=None)
    showing = what.add_parser("show", help="a receipt, with its body")
    showing.examples = ("media-callbacks receipts show 7",)
    showing.add_argument("id", metavar="ID")
    showing.set_defaults(run=lambda arguments: run_with_client(arguments, show_receipt))
    for command in (listing, showing):
        add_admin_options(command)
        add_json_option(command)


def list_receipts(client: Reader, arguments: argparse.Namespace) -> int:
    query = {name: value for name in ("state", "source", "job_id") if (value := getattr(arguments, name)) is not None}
    query |= read_range(arguments, now=utc_now())
    return print_list(
        arguments, lambda limit: client.list_receipts(query, limit=limit), show, nothing="no receipt fits"
    )


def show_receipt(client: AdminClient, arguments: argparse.Namespace) -> int:
    if not arguments.id.isascii() or not arguments.id.isdecimal():
        raise UsageError("ID: expected the number of a receipt")
    document = client.get(f"/v1/receipts/{arguments.id}")
    if arguments.json:
        print_json(document)
        return 0
    receipt = read_answer(ReceiptDetail, document)
    print_line((f"receipt {receipt.id}", "bold"), "  ", (receipt.state, f"bold {style_of(receipt.state)}"))
    print_line(
        f"received {format_time(receipt.received_at)} through {receipt.source} ({receipt.product},"
        f" {receipt.transport}), verified by {receipt.verified_by}"
    )
    if receipt.reason:
        print_line(receipt.reason)
    for warning in receipt.warnings:
        print_line((f"not understood: {warning}", "yellow"))
    for event_id in receipt.event_ids:
        print_line(f"brought {event_id}: media-callbacks events show {event_id}")
    for name, value in receipt.meta.items():
        print_line(f"{name}: {value}")
    print_line("")
    if receipt.body is None:
        print_line("its body is not there any more: it was erased")
    else:
        # A line each, so that what a terminal would obey is shown and nothing else is changed.
        for line in receipt.body.split("\n"):
            print_line(line)
    return 0


def show(documents: Sequence[Json]) -> None:
    receipts = [read_answer(ReceiptItem, document) for document in documents]
    if not can_draw(sys.stdout):
        print_table(*with_cells((), map(plain_row_of, receipts), documents))
        return
    head = ("received (UTC)", "receipt", "state", "brought")
    print_table(*with_cells(head, map(row_of, receipts), documents), widths={"received (UTC)": 10})


def row_of(receipt: ReceiptItem) -> list[Cell]:
    received_at = receipt.received_at.astimezone(UTC)
    return [
        [f"{received_at:%Y-%m-%d}", f"{received_at:%H:%M:%S}"],
        [str(receipt.id), f"{receipt.source} {receipt.transport}"],
        (receipt.state, style_of(receipt.state)),
        list(receipt.event_ids) or [receipt.reason or "nothing"],
    ]


def plain_row_of(receipt: ReceiptItem) -> list[Cell]:
    return [
        format_time(receipt.received_at),
        str(receipt.id),
        receipt.source,
        receipt.product,
        receipt.transport,
        receipt.verified_by,
        receipt.state,
        " ".join(receipt.event_ids) or "-",
        receipt.reason or "-",
    ]
