"""``media-callbacks events list``: which events there are, and where their deliveries are."""

import argparse
import sys
from datetime import UTC

from media_callbacks.admin.models import EventItem
from media_callbacks.commands.console.admin_client import AdminClient, add_admin_options, read_answer, run_with_client
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, can_draw, print_json, print_line, print_table
from media_callbacks.commands.events.filter import add_filter_options, read_filter
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "In a pipe one line per event, cells separated by tabs: accepted, id, product, kind, outcome,"
        " revision, job id, media id, deliveries."
    )
    add_filter_options(parser)
    parser.add_argument("--limit", type=int, metavar="N", default=50, help="how many at most (default: 50)")
    add_admin_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=lambda arguments: run_with_client(arguments, list_events))


def list_events(client: AdminClient, arguments: argparse.Namespace) -> int:
    if arguments.limit < 1:
        raise UsageError(f"--limit: expected a number above zero, came {arguments.limit}")
    query = read_filter(arguments, now=utc_now())
    if arguments.json or not can_draw(sys.stdout):
        for document in client.list_events(query, limit=arguments.limit):
            if arguments.json:
                print_json(document)
            else:
                print_table((), [plain_row_of(read_answer(EventItem, document))])
        return 0
    # One more than asked for tells whether there are more.
    found = list(client.list_events(query, limit=arguments.limit + 1))
    events = [read_answer(EventItem, document) for document in found[: arguments.limit]]
    if events:
        # An event's id, an MTS or VOD job and the longest kind stay in one piece on 80 columns, to be copied.
        print_table(
            ("when (UTC)", "event", "what", "sent to"),
            map(row_of, events),
            widths={"when (UTC)": 10, "event": 40, "what": 14},
        )
    else:
        print_line("no event fits")
    if len(found) > arguments.limit:
        print_line(f"these are the newest {arguments.limit}; there are more: --limit N")
    return 0


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
        deliveries_of(event),
    ]


def deliveries_of(event: EventItem) -> str:
    return ", ".join(f"{sink} {state}" for sink, state in event.deliveries.items()) or "none"
