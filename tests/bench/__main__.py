"""The command. Exit codes: 0 measured, whatever the figures; 1 the run was invalid; 2 wrong usage."""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import uvloop

from tests.bench.callbacks import EVENT, body_size
from tests.bench.compare import Comparison, choose_cores
from tests.bench.load import CONNECTIONS, InvalidRun
from tests.bench.profiling import print_profile, profile
from tests.bench.report import print_tables, to_json
from tests.bench.servers import CHECKOUT, file_system


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the durable path.")
    parser.add_argument("what", nargs="?", choices=("compare", "profile"), default="compare")
    parser.add_argument("--rounds", type=int, default=5, help="how often each server is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement (default: 3)")
    parser.add_argument("--top", type=int, default=25, help="how many functions the profile shows (default: 25)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON instead of tables")
    parser.add_argument(
        "--folder",
        type=Path,
        default=CHECKOUT,
        help="a disk to write to (default: the checkout, in a temporary folder)",
    )
    return parser


def main() -> int:
    arguments = build_parser().parse_args()
    try:
        server_core, load_core = choose_cores()
        os.sched_setaffinity(0, {load_core})
        with (
            tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.folder) as folder,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return run(arguments, runner, Path(folder), server_core, load_core)
    except InvalidRun as error:
        print(f"invalid run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(arguments: argparse.Namespace, runner: "asyncio.Runner", folder: Path, server_core: int, load_core: int) -> int:
    disk = file_system(folder)
    if disk == "tmpfs":
        print(f"{folder} is in memory, where a flush costs nothing: choose a disk with --folder", file=sys.stderr)
    if arguments.what == "profile":
        functions = runner.run(profile(folder, core=server_core, seconds=arguments.seconds))
        if arguments.json:
            print(json.dumps({thread: [asdict(one) for one in found] for thread, found in functions.items()}))
        else:
            print_profile(functions, top=arguments.top)
        return 0
    comparison = Comparison(folder, core=server_core, rounds=arguments.rounds, seconds=arguments.seconds)
    figures = runner.run(comparison.run())
    setting = (
        f"{arguments.rounds} rounds of {arguments.seconds:g} s; {EVENT} of {body_size()} bytes, {CONNECTIONS} connections;"
        f" servers on core {server_core}, load on core {load_core}; store on {disk}; Python {sys.version.split()[0]}"
    )
    if arguments.json:
        print(json.dumps(to_json(figures, setting=setting), indent=2))
    else:
        print_tables(figures, setting=setting)
    return 0


if __name__ == "__main__":
    sys.exit(main())
