"""``media-callbacks migrate``: bring the store's schema up to date."""

import argparse
import asyncio
import sys

from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import print_json
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.console.stores import migrate_and_tell
from media_callbacks.model.errors import InboxUnavailable


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks migrate",)
    parser.description = (
        "Applies the migrations that are missing. `serve` does so by itself unless store.auto_migrate is"
        " false. Works beside running services, also of the version before; what takes long on PostgreSQL is told as it"
        " goes on, and begun again where it was broken off."
    )
    add_config_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    try:
        applied = asyncio.run(migrate_and_tell(settings.store))
    except InboxUnavailable as error:
        print(f"store.url: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print_json({"applied": list(applied)})
    for name in () if arguments.json else applied:
        print(f"applied {name}")
    if not arguments.json and not applied:
        print("nothing to apply: the schema is up to date", file=sys.stderr)
    return 0
