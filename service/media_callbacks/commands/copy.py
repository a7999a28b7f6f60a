"""``media-callbacks copy``: a whole store to another database."""

import argparse
import asyncio
import sys

from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import print_json, print_table, showing_progress
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.values import check_store_url
from media_callbacks.inbox.copying.stores import copy_store
from media_callbacks.model.errors import InboxUnavailable


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks copy --from sqlite:///media-callbacks.db --to postgresql://media_callbacks@db/media_callbacks",
    )
    parser.description = (
        "From SQLite to PostgreSQL, back, or between two of a kind, while no service uses either. All or nothing: what"
        " was copied is read back and compared before it is kept. URLs are those of store.url; for passwords use"
        " PGPASSWORD or ~/.pgpass, as command lines are seen."
    )
    parser.add_argument("--from", dest="source", metavar="URL", required=True, help="the store as it is")
    parser.add_argument("--to", dest="target", metavar="URL", required=True, help="an empty store; it is migrated")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    for option, url in (("--from", arguments.source), ("--to", arguments.target)):
        try:
            check_store_url(url)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from error
    try:
        with showing_progress("rows copied, then compared") as progress:
            copied = asyncio.run(copy_store(arguments.source, arguments.target, progress=progress))
    except InboxUnavailable as error:
        print(f"{error}; nothing was copied, run this again", file=sys.stderr)
        return 1
    if arguments.json:
        print_json({"tables": [{"name": one.name, "rows": one.rows, "digest": one.digest} for one in copied]})
    else:
        print_table(["table", "rows", "digest"], [[one.name, str(one.rows), one.digest] for one in copied])
    if arguments.source.startswith("postgres"):
        print(
            "What waits in the journals of instances (server.journal_path) is in no store: each instance drains its own"
            " into a PostgreSQL store, and one on SQLite has none. See that they are empty.",
            file=sys.stderr,
        )
    return 0
