"""
The command ``media-callbacks``.

Exit codes: 0 fine, 1 something is wrong and was printed, 2 wrong usage or a wrong configuration, which will not
get better by itself.
"""

import os
import sys
from collections.abc import Sequence

import media_callbacks
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.extras import explain_missing
from media_callbacks.model.errors import ConfigError, Unusable
from media_callbacks.version import read_version

# Each is a module in ``commands``, or a folder.
COMMANDS = {
    "init": "write a first configuration, with every key made",
    "serve": "run the service",
    "demo": "see it work: signed callbacks in, typed events out, on this machine",
    "simulate": "send a callback as the vendor would",
    "mint": "make a signed CallbackUrl",
    "check": "check the configuration, and whether what it names can be reached",
    "explain": "verify a captured request step by step",
    "events": "look at events, send them again, read receipts again, erase",
    "listen": "see events as they come, and have them posted to this machine",
    "jobs": "what became of a job; tell the service which to expect",
    "receipts": "look at what came through the sources",
    "refused": "look at what was refused, and why",
    "report": "what became of expected jobs, by product, hour and transport",
    "sources": "whether anything comes through each source",
    "status": "whether it is well; what is wrong, since when, why, and what to do",
    "sinks": "look at sinks, pause and resume them",
    "migrate": "bring the store's schema up to date",
    "backup": "copy the store beside the running service",
    "copy": "copy a whole store to another database",
    "purge": "remove what is older than store.retention_days and store.dedup_days",
    "completion": "print a script with which bash, zsh or fish completes commands and options",
    "schema": "print the JSON Schema of each kind of event, and an AsyncAPI document",
}


def build_parser() -> CommandParser:
    parser = CommandParser(prog="media-callbacks", description=media_callbacks.__doc__)
    parser.examples = ("media-callbacks demo", "media-callbacks init", "media-callbacks events list --state dead")
    parser.add_argument("--version", action="version", version=f"%(prog)s {read_version()}")
    parser.add_commands("media_callbacks.commands", COMMANDS, dest="command", metavar="COMMAND")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        arguments = build_parser().parse_args(argv)
        code = int(arguments.run(arguments))
        # Here, where a closed pipe is still something that is understood.
        sys.stdout.flush()
        return code
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 1 if isinstance(error, Unusable) else 2
    except AdminError as error:
        print(error, file=sys.stderr)
        return 1
    except UsageError as error:
        print(f"media-callbacks {arguments.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError:
        # Schemas, minting and asking the admin API need no extra; every other command is of the service.
        missing = explain_missing("server")
        if missing is None:
            raise
        print(f"media-callbacks: {missing}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of a pipe has seen enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
