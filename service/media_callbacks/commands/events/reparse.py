"""``media-callbacks events reparse``: read kept receipts again, with the same parts as the service."""

import argparse
import asyncio
import json
import sys
from collections import Counter

from media_callbacks.assembly.sources import build_reader
from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import showing_progress
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.console.stores import migrate_and_tell
from media_callbacks.config.settings import Settings
from media_callbacks.inbox.factory import build_inbox
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.sources.base import PARSER_VERSION

# Receipts read at once: enough to keep the disk busy, little enough for any memory, though bodies may have a megabyte.
_PAGE = 50


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks events reparse --dry-run",)
    parser.description = (
        "New outcomes become events and are delivered. An event whose content is another now is updated in"
        " the store, under its id, and sent to nobody. Works beside a running service."
    )
    add_config_option(parser)
    add_json_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="count what would change, and change nothing")
    parser.add_argument(
        "--conflicts",
        action="store_true",
        help="also what was refused as a conflict, after a wrong region or the like was mended",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
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
    if settings.store.auto_migrate:
        await migrate_and_tell(settings.store)
    inbox = build_inbox(settings.store.url, is_exclusive=False, auto_migrate=settings.store.auto_migrate)
    await inbox.open()
    counts: Counter[str] = Counter(receipts=0, accepted=0, changed=0, unparsed=0, skipped=0)
    # In a dry run two receipts can bring the same new event.
    accepted: set[str] = set()
    after_id = 0
    try:
        with showing_progress("receipts") as show:
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
                show(counts["receipts"], None)
    finally:
        await inbox.close()
    counts["accepted"] = len(accepted)
    return dict(counts)
