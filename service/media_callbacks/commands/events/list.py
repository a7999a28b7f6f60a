"""``media-callbacks events list``: which events there are, and where their deliveries are."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC

from media_callbacks.admin.models.answers import EventItem
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import add_admin_options, read_answer
from media_callbacks.commands.console.cells import Reader, run_with_cells, with_cells
from media_callbacks.commands.console.listing import add_limit_option, print_list
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, can_draw, print_table
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.events.filter import add_filter_options, read_filter
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks events list --state dead --since 2h",
        "media-callbacks events list --job-id 3af7e9705cb24c0f9d23231d4c371900 --json",
    )
    parser.description = (
        "In a pipe one line per event, cells separated by tabs: accepted, id, product, kind, outcome,"
        " revision, job id, media id, deliveries."
    )
    add_filter_options(parser)
    add_limit_option(parser)
    add_admin_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=lambda arguments: run_with_cells(arguments, list_events))


def list_events(client: Reader, arguments: argparse.Namespace) -> int:
    query = read_filter(arguments, now=utc_now())
    return print_list(arguments, lambda limit: client.list_events(query, limit=limit), show, nothing="no event fits")


def show(documents: Sequence[Json]) -> None:
    events = [read_answer(EventItem, document) for document in documents]
    if not can_draw(sys.stdout):
        print_table(*with_cells((), map(plain_row_of, events), documents))
        return
    # An event's id, an MTS or VOD job and the longest kind stay in one piece on 80 columns, to be copied.
    print_table(
        *with_cells(("when (UTC)", "event", "what", "sent to"), map(row_of, events), documents),
        widths={"when (UTC)": 10, "event": 40, "what": 14},
    )


def row_of(event: EventItem) -> list[Cell]:
    accepted_at = event.accepted_at.astimezone(UTC)
    about = f"job {event.job_id}" if event.job_id is not None else f"media {event.media_id or '-'}"
    return [
        [f"{accepted_at:%Y-%m-%d}", f"{accepted_at:%H:%M:%S}"],
        [event.id, f"{event.product} {about}"],
        [event.kind, event.outcome, *([f"revision {event.revision}"] if event.revision != 1 else [])],
        [f"{sink} {state}" for sink, state in event.deliveries.items()] or "none",
    ]


def plain_row_of(event: EventItem) -> list[Cell]:
    return [
        format_time(event.accepted_at),
        event.id,
        event.product,
        event.kind,
        event.outcome,
        str(event.revision),
        event.job_id or "-",
        event.media_id or "-",
        ", ".join(f"{sink} {state}" for sink, state in event.deliveries.items()) or "none",
    ]
