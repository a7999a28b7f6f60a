"""The command ``media-callbacks``. Exit codes: 0 fine, 1 something is wrong and was printed, 2 wrong usage."""

import argparse
import os
import sys
from collections.abc import Sequence

import service
from service.cli import check, demo, events, explain, jobs, migrate, mint, purge, report, schema, serve, simulate, sinks
from service.cli.admin_client import AdminError
from service.cli.options import UsageError
from service.errors import ConfigError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="media-callbacks", description=service.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (serve, demo, simulate, mint, check, explain, events, jobs, report, sinks, migrate, purge, schema):
        module.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        # Here, where a closed pipe is still something that is understood.
        sys.stdout.flush()
        return code
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201
        return 1
    except AdminError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except UsageError as error:
        print(f"media-callbacks {arguments.command}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except BrokenPipeError:
        # The reader of a pipe has seen enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
