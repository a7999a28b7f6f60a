"""``media-callbacks events``: what became of callbacks, sending and reading them again, and erasing them."""

from media_callbacks.commands.console.parser import CommandParser

SUBCOMMANDS = {
    "list": "events, newest first, and where their deliveries are",
    "show": "the life of one event, or of all events of a job",
    "replay": "send events again",
    "erase": "erase what is kept of one job, asset or user",
    "reparse": "read kept receipts again that could not be read, or were read by an older version",
}


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks events list --since 1h",
        "media-callbacks events replay --state dead --since 1d",
    )
    parser.add_commands(__name__, SUBCOMMANDS, dest="what", metavar="WHAT")
