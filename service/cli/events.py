"""``media-callbacks events``: what became of callbacks, sending them again, and reading them again."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from datetime import UTC
from typing import Any

from rich.console import Console
from rich.progress import Progress

from service.admin.models import EventDetail, EventItem
from service.app import build_reader, utc_now
from service.cli import replay
from service.cli.admin_client import (
    AdminClient,
    AdminError,
    add_admin_options,
    read_answer,
    run_with_client,
)
from service.cli.event_filter import add_filter_options, read_filter
from service.cli.event_life import draw_life
from service.cli.options import UsageError, add_config_option, add_json_option, read_settings
from service.cli.output import Cell, print_json, print_line, print_table
from service.errors import InboxUnavailable
from service.events import format_time
from service.inbox.factory import build_inbox
from service.settings import Settings
from service.sources.base import PARSER_VERSION

# Receipts read at once: enough to keep the disk busy, little enough for any memory.
_PAGE = 200


def add_command(commands: Any) -> None:
    parser = commands.add_parser("events", help="look at events, send them again, read receipts again")
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


async def list_events(client: AdminClient, arguments: argparse.Namespace) -> int:
    if arguments.limit < 1:
        raise UsageError(f"--limit: expected a number above zero, came {arguments.limit}")
    query = read_filter(arguments, now=utc_now())
    if arguments.json or not sys.stdout.isatty():
        async for document in client.list_events(query, limit=arguments.limit):
            if arguments.json:
                print_json(document)
            else:
                print_table((), [plain_row_of(read_answer(EventItem, document))])
        return 0
    # One more than asked for tells whether there are more.
    found = [document async for document in client.list_events(query, limit=arguments.limit + 1)]
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


async def show_events(client: AdminClient, arguments: argparse.Namespace) -> int:
    if (arguments.id is None) == (arguments.job_id is None):
        raise UsageError("expected the ID of an event, or --job-id")
    if arguments.id is not None:
        ids = [replay.read_event_id(arguments.id)]
    else:
        found = client.list_events({"job_id": arguments.job_id})
        ids = [read_answer(EventItem, document).id async for document in found]
    if not ids:
        raise AdminError(
            "no event has this job id. A callback that came and could not be read is among the receipts:"
            " GET /v1/receipts?state=unparsed of the admin API"
        )
    # Oldest first: the life of a job reads downwards.
    for number, event_id in enumerate(reversed(ids)):
        document = await client.get(f"/v1/events/{event_id}")
        if arguments.json:
            print_json(document)
            continue
        if number:
            print_line("")
        for line in draw_life(read_answer(EventDetail, document), now=utc_now()):
            print_line(*line)
    return 0


def run_reparse(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    try:
        counts = asyncio.run(reparse(settings, dry_run=arguments.dry_run, with_conflicts=arguments.conflicts))
    except InboxUnavailable as error:
        print(f"the store can't be used: {error}; is it busy or full? Nothing is lost: run this again", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(counts | {"dry_run": arguments.dry_run}))
        return 0
    verb = "would be" if arguments.dry_run else "were"
    print(f"{counts['receipts']} receipts {verb} read again:")
    print(f"  {counts['accepted']} new events {verb} accepted for delivery")
    print(f"  {counts['changed']} events {verb} updated in the store, sent to nobody")
    print(f"  {counts['unparsed']} receipts still can't be read")
    if counts["skipped"]:
        print(f"  {counts['skipped']} receipts are of sources that are not configured any more")
    return 0


async def reparse(settings: Settings, *, dry_run: bool, with_conflicts: bool = False) -> dict[str, int]:
    """
    Read outdated receipts again.

    Raises:
        InboxUnavailable: The store failed on the way; what was done stays done, and the rest can be done again.
    """
    read = build_reader(settings)
    inbox = build_inbox(settings.store.url, is_exclusive=False, auto_migrate=settings.store.auto_migrate)
    await inbox.open()
    counts: Counter[str] = Counter(receipts=0, accepted=0, changed=0, unparsed=0, skipped=0)
    # In a dry run two receipts can bring the same new event.
    accepted: set[str] = set()
    after_id = 0
    try:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("receipts", total=None)
            while page := await inbox.outdated_receipts(
                parser_version=PARSER_VERSION, after_id=after_id, limit=_PAGE, with_conflicts=with_conflicts
            ):
                after_id = page[-1].id
                for stored in page:
                    receipt = read(stored)
                    if receipt is None:
                        counts["skipped"] += 1
                        continue
                    result = await inbox.reparse(stored.id, receipt, dry_run=dry_run)
                    accepted.update(result.accepted)
                    counts["receipts"] += 1
                    counts["changed"] += len(result.changed)
                    counts["unparsed"] += result.state == "unparsed"
                progress.update(task, completed=counts["receipts"])
    finally:
        await inbox.close()
    counts["accepted"] = len(accepted)
    return dict(counts)
