"""The command. Exit codes: 0 measured, whatever the figures; 1 the run was invalid; 2 wrong usage."""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import uvloop

from tests.exercises.bench import parsing
from tests.exercises.bench.backlog import Backlog
from tests.exercises.bench.buses import BUSES, Buses
from tests.exercises.bench.callbacks import EVENT, body_size
from tests.exercises.bench.compare import Comparison, choose_cores
from tests.exercises.bench.delivery import CONCURRENCY, Delivering
from tests.exercises.bench.flat import Flat, flat_to_json, print_flat
from tests.exercises.bench.latency import Latencies
from tests.exercises.bench.load import CONNECTIONS, InvalidRun
from tests.exercises.bench.migrating import Migrating, migrated_to_json, print_migrated
from tests.exercises.bench.profiling import print_profile, profile
from tests.exercises.bench.report import (
    parts_to_json,
    print_backlog,
    print_buses,
    print_delivery,
    print_isolation,
    print_latencies,
    print_stores,
    print_tables,
    to_json,
)
from tests.exercises.bench.servers import CHECKOUT, file_system
from tests.exercises.bench.stores import POSTGRESQL, SQLITE, Stores, why_not

# In this order, one after the other; what is left out needs asking.
PARTS = ("parse", "accept", "latency", "delivery", "buses", "isolation", "backlog", "postgresql")
ALONE = ("profile", "flat", "migrate")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.exercises.bench", description="Measure what the service costs."
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="PART",
        help=f"any of {', '.join(PARTS)} (default: all that can run here); or one of {', '.join(ALONE)} alone",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is measured (default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of one measurement of accepting or latency (default: 3)"
    )
    parser.add_argument(
        "--events",
        type=int,
        default=10_000,
        help="of one measurement of delivering, buses or isolation (default: 10000); the goal for isolation is for 100000",
    )
    parser.add_argument(
        "--waiting", type=int, default=100_000, help="how many wait when many wait (default: 100000); one million"
        " shows the memory that the project promises",
    )  # fmt: skip
    parser.add_argument(
        "--stored", type=int, nargs="+", default=[200_000], help="events in a full store (default: 200000), for flat and"
        " migrate any number of sizes; 5000000 take about 10 GB of disk on SQLite and 13 on PostgreSQL",
    )  # fmt: skip
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        help="which one flat, migrate and postgresql measure (default: both)",
    )
    parser.add_argument(
        "--bus", action="append", choices=BUSES, help="which ones buses measures (default: all that can run here)"
    )
    parser.add_argument(
        "--against",
        type=Path,
        help="another checkout of this project, whose parsing and accepting are measured in turn",
    )
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
    parser = build_parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.what) - {*PARTS, *ALONE}:
        parser.error(f"expected any of {', '.join((*PARTS, *ALONE))}; came {', '.join(sorted(unknown))}")
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
    if "profile" in arguments.what:
        functions = runner.run(profile(folder, core=server_core, seconds=arguments.seconds))
        if arguments.json:
            print(json.dumps({thread: [asdict(one) for one in found] for thread, found in functions.items()}))
        else:
            print_profile(functions, top=arguments.top)
        return 0
    if "flat" in arguments.what:
        databases = [name for name in (SQLITE, POSTGRESQL) if arguments.database in (None, name.lower())]
        sized = runner.run(Flat(folder, stored=arguments.stored, databases=databases).run())
        if arguments.json:
            print(flat_to_json(sized))
        else:
            print_flat(sized)
        return 0
    if "migrate" in arguments.what:
        databases = [name for name in (SQLITE, POSTGRESQL) if arguments.database in (None, name.lower())]
        cores = {server_core, load_core}
        migrated = runner.run(Migrating(folder, cores=cores, stored=arguments.stored, databases=databases).run())
        if arguments.json:
            print(migrated_to_json(migrated))
        else:
            print_migrated(migrated)
        return 0
    parts = arguments.what or list(PARTS)
    if "delivery" in parts and "buses" not in parts:
        parts.append("buses")
    if not arguments.what and (reason := why_not()) is not None:
        parts.remove("postgresql")
        print(f"the part postgresql is left out: {reason}", file=sys.stderr)
    costs = figures = delivery = buses = isolation = backlog = latencies = stores = None
    for part in PARTS:
        if part not in parts:
            continue
        inside = folder / part
        inside.mkdir()
        sizes = {"core": server_core, "rounds": arguments.rounds}
        match part:
            case "parse":
                costs = parsing.measure(arguments.rounds, arguments.against)
            case "accept":
                compared = Comparison(inside, **sizes, seconds=arguments.seconds, against=arguments.against)
                figures = runner.run(compared.run())
            case "latency":
                latencies = runner.run(Latencies(inside, **sizes, seconds=arguments.seconds).measure())
            case "delivery":
                delivering = Delivering(inside, **sizes, events=arguments.events)
                delivery = runner.run(delivering.measure(waiting=arguments.waiting))
            case "buses":
                buses = runner.run(Buses(inside, **sizes, events=arguments.events).measure(arguments.bus or BUSES))
            case "isolation":
                isolation = runner.run(Delivering(inside, **sizes, events=arguments.events).isolate())
            case "backlog":
                sizes |= {"seconds": arguments.seconds, "waiting": arguments.waiting}
                backlog = runner.run(Backlog(inside, **sizes).measure())
            case _:
                databases = [name for name in (SQLITE, POSTGRESQL) if arguments.database in (None, name.lower())]
                sizes |= {"stored": arguments.stored[-1], "databases": databases}
                stores = runner.run(Stores(inside, **sizes, seconds=arguments.seconds).run())
        shutil.rmtree(inside)
    setting = (
        f"{arguments.rounds} rounds; accepting {arguments.seconds:g} s, {EVENT} of {body_size()} bytes, {CONNECTIONS}"
        f" connections; delivering {arguments.events:,} events, {CONCURRENCY} at a time; what is measured on core"
        f" {server_core}, load and receiver on core {load_core}; store on {disk}; Python {sys.version.split()[0]}"
    )
    if arguments.json:
        accept = {} if figures is None else to_json(figures)
        if costs is not None:
            accept |= {"parse": [asdict(cost) for cost in costs]}
        print(
            json.dumps(
                {
                    "setting": setting,
                    **accept,
                    **parts_to_json(delivery, buses, isolation, backlog, stores, latencies=latencies),
                },
                indent=2,
            )
        )
        return 0
    print(setting)
    if costs is not None:
        parsing.print_costs(costs)
    if figures is not None:
        print_tables(figures)
    if latencies is not None:
        print_latencies(latencies)
    if delivery is not None:
        print_delivery(delivery)
    if buses is not None:
        print_buses(buses)
    if isolation is not None:
        print_isolation(isolation)
    if backlog is not None:
        print_backlog(backlog, waiting=arguments.waiting)
    if stores is not None:
        print_stores(stores)
    return 0


if __name__ == "__main__":
    sys.exit(main())
