"""``media-callbacks backup``: copy a store on SQLite beside the running service."""

import argparse
import shlex
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import print_json, showing_progress
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.settings import Settings
from media_callbacks.inbox.sqlite.backup import back_up


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks backup media-callbacks.backup.db",)
    parser.description = (
        "Of a store on SQLite, beside the running service: whole, of one moment, checked when it is made. A store on"
        " PostgreSQL is copied by pg_dump, which must be as new as the server: the command says how, and exits with 1,"
        " so that nobody takes that for a copy."
    )
    parser.add_argument("file", metavar="FILE", help="where to; for this user alone, as the store is")
    parser.add_argument("--force", action="store_true", help="replace FILE, once the copy is whole")
    add_config_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    if not settings.store.url.startswith("sqlite:"):
        _say_how(settings, arguments.file)
        return 1
    with showing_progress("bytes copied") as progress:
        backup = back_up(
            settings.store.sqlite_path, Path(arguments.file), may_replace=arguments.force, progress=progress
        )
    counts = backup.counts
    if arguments.json:
        print_json({"file": arguments.file, "size_bytes": backup.size_bytes, **counts})
    else:
        print(
            f"{arguments.file}: {backup.size_bytes} bytes, sound; {counts['receipts']} receipts and"
            f" {counts['events']} events, {counts['undelivered']} deliveries under way, {counts['held']} held events,"
            f" {counts['expected']} expected jobs"
        )
    return 0


def _say_how(settings: Settings, file: str) -> None:
    command = shlex.join(["pg_dump", "--format=custom", f"--file={file}", _without_password(settings.store.url)])
    print(
        "nothing was copied, because the store is on PostgreSQL, which has a tool for that (password by PGPASSWORD or"
        f" ~/.pgpass):\n  umask 077; {command}",
        file=sys.stderr,
    )
    if settings.server.journal_path is not None:
        print(
            f"What waits in the journals of instances (here {settings.server.journal_path}) is not in the database."
            " Leave them where they are: each is drained into the database that its instance finds.",
            file=sys.stderr,
        )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] != "password"])
    return parts._replace(netloc=f"{user.partition(':')[0]}{at}{hosts}", query=query).geturl()
