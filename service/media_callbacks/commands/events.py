"""``media-callbacks events``: what became of callbacks, sending them again, and reading them again."""

import argparse
import sys
from datetime import UTC

from media_callbacks.admin.models import EventDetail, EventItem
from media_callbacks.commands import replay
from media_callbacks.commands.admin_client import AdminClient, add_admin_options, read_answer, run_with_client
from media_callbacks.commands.errors import AdminError, UsageError
from media_callbacks.commands.event_filter import add_filter_options, read_filter
from media_callbacks.commands.event_life import draw_life
from media_callbacks.commands.options import add_config_option, add_json_option
from media_callbacks.commands.output import Cell, can_draw, print_json, print_line, print_table
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now


def add_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser(
        "list",
        help="events, newest first, and where their deliveries are",
        description="In a pipe one line per event, cells separated by tabs: accepted, id, product, kind, outcome,"
        " revision, job id, media id, deliveries.",
    )
    add_filter_options(listing)
    listing.add_argument("--limit", type=int, metavar="N", default=50, help="how many at most (default: 50)")
    listing.set_defaults(run=lambda arguments: run_with_client(arguments, list_events))
    show = what.add_parser("show", help="the life of one event, or of all events of a job")
    show.add_argument("id", metavar="ID", nargs="?")
    show.add_argument("--job-id", metavar="ID", help="the vendor's job id, instead of the event's")
    show.set_defaults(run=lambda arguments: run_with_client(arguments, show_events))
    for command in (listing, show, replay.add_command(what)):
        add_admin_options(command)
        add_json_option(command)
    reparse = what.add_parser(
        "reparse",
        help="read kept receipts again that could not be read, or were read by an older version",
        description="New outcomes become events and are delivered. An event whose content is another now is updated in"
        " the store, under its id, and sent to nobody. Works beside a running service.",
    )
    add_config_option(reparse)
    add_json_option(reparse)
    reparse.add_argument("--dry-run", action="store_true", help="count what would change, and change nothing")
    reparse.add_argument(
        "--conflicts",
        action="store_true",
        help="also what was refused as a conflict, after a wrong region or the like was mended",
    )
    reparse.set_defaults(run=run_reparse)


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


def show_events(client: AdminClient, arguments: argparse.Namespace) -> int:
    if (arguments.id is None) == (arguments.job_id is None):
        raise UsageError("expected the ID of an event, or --job-id")
    if arguments.id is not None:
        ids = [replay.read_event_id(arguments.id)]
    else:
        found = client.list_events({"job_id": arguments.job_id})
        ids = [read_answer(EventItem, document).id for document in found]
    if not ids:
        raise AdminError(
            "no event has this job id. A callback that came and could not be read is among the receipts:"
            " GET /v1/receipts?state=unparsed of the admin API"
        )
    # Oldest first: the life of a job reads downwards.
    for number, event_id in enumerate(reversed(ids)):
        document = client.get(f"/v1/events/{event_id}")
        if arguments.json:
            print_json(document)
            continue
        if number:
            print_line("")
        for line in draw_life(read_answer(EventDetail, document), now=utc_now()):
            print_line(*line)
    return 0


def run_reparse(arguments: argparse.Namespace) -> int:
    # Here: it loads most of the service, of which the others only ask.
    from media_callbacks.commands import reparse  # noqa: PLC0415

    return reparse.run(arguments)
