"""``media-callbacks purge``: remove now what is older than the configuration wants to keep."""

import argparse
import asyncio
import sys

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import print_json
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.console.stores import migrate_and_tell
from media_callbacks.config.settings import Settings
from media_callbacks.inbox.factory import build_inbox
from media_callbacks.model.errors import ClockDoubted, InboxUnavailable
from media_callbacks.upkeep.retention import Totals, purge


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks purge",)
    parser.description = (
        "`serve` does so by itself every hour. Goes in small steps beside running services. What is not yet"
        " delivered stays."
    )
    add_config_option(parser)
    parser.add_argument(
        "--the-clock-is-right",
        action="store_true",
        help="for a service that has not run for long: what is old is told by the store's clock, whose step forward is"
        " doubted for a week",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    try:
        totals = asyncio.run(purge_store(settings, is_clock_right=arguments.the_clock_is_right))
    except InboxUnavailable as error:
        print(f"store.url: {error}; what was removed stays removed, run this again for the rest", file=sys.stderr)
        return 1
    except ClockDoubted as error:
        print(f"store.url: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print_json({"payloads": totals.payloads, "keys": totals.keys})
    else:
        print(f"{totals.payloads} payloads and {totals.keys} keys were removed")
    return 0


async def purge_store(settings: Settings, *, is_clock_right: bool = False) -> Totals:
    """
    Raises:
        ConfigError, InboxUnavailable: The store can't be used.
        ClockDoubted: What is old can't be told.
    """
    store = settings.store
    if store.auto_migrate:
        await migrate_and_tell(store)
    inbox = build_inbox(store.url, is_exclusive=False, auto_migrate=store.auto_migrate, pool_size=store.pool_size)
    await inbox.open()
    try:
        if is_clock_right:
            await inbox.trust_clock()
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("looking for what is old", total=None)
            return await purge(
                inbox,
                retention_days=store.retention_days,
                dedup_days=store.dedup_days,
                stopping=asyncio.Event(),
                progress=lambda totals: progress.update(
                    task, description=f"{totals.payloads} payloads and {totals.keys} keys removed"
                ),
            )
    finally:
        await inbox.close()
