"""``media-callbacks events``: what became of callbacks, and reading them again."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import Progress

from service.app import build_source, utc_now
from service.cli.options import add_config_option, add_json_option, read_settings
from service.errors import InboxUnavailable
from service.inbox.sqlite import SqliteInbox
from service.intake import build_receipt, restore_message
from service.settings import Settings, route
from service.sources.base import PARSER_VERSION

# Receipts read at once: enough to keep the disk busy, little enough for any memory.
_PAGE = 200


def add_command(commands: Any) -> None:
    parser = commands.add_parser("events", help="look at events and receipts")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    reparse = what.add_parser(
        "reparse",
        help="read kept receipts again that could not be read, or were read by an older version",
        description="New outcomes become events and are delivered. An event whose content is another now is updated in"
        " the store, under its id, and sent to nobody. Works beside a running service.",
    )
    add_config_option(reparse)
    add_json_option(reparse)
    reparse.add_argument("--dry-run", action="store_true", help="count what would change, and change nothing")
    reparse.set_defaults(run=run_reparse)


def run_reparse(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    try:
        counts = asyncio.run(reparse(settings, dry_run=arguments.dry_run))
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


async def reparse(settings: Settings, *, dry_run: bool) -> dict[str, int]:
    """
    Read outdated receipts again.

    Raises:
        InboxUnavailable: The store failed on the way; what was done stays done, and the rest can be done again.
    """
    sources = {name: build_source(name, table) for name, table in settings.sources.items()}
    inbox = SqliteInbox(settings.store.sqlite_path, is_exclusive=False, auto_migrate=settings.store.auto_migrate)
    await inbox.open()
    counts: Counter[str] = Counter(receipts=0, accepted=0, changed=0, unparsed=0, skipped=0)
    # In a dry run two receipts can bring the same new event.
    accepted: set[str] = set()
    after_id = 0
    try:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("receipts", total=None)
            while page := await inbox.outdated_receipts(parser_version=PARSER_VERSION, after_id=after_id, limit=_PAGE):
                after_id = page[-1].id
                for stored in page:
                    if stored.source not in sources:
                        counts["skipped"] += 1
                        continue
                    receipt = build_receipt(
                        sources[stored.source],
                        restore_message(stored),
                        received_at=stored.received_at,
                        route=lambda event: route(settings.sinks, event),
                    )
                    result = await inbox.reparse(stored.id, receipt, now=utc_now(), dry_run=dry_run)
                    accepted.update(result.accepted)
                    counts["receipts"] += 1
                    counts["changed"] += len(result.changed)
                    counts["unparsed"] += result.state == "unparsed"
                progress.update(task, completed=counts["receipts"])
    finally:
        await inbox.close()
    counts["accepted"] = len(accepted)
    return dict(counts)
