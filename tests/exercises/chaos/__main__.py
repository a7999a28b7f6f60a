"""``python -m tests.exercises.chaos``: everything breaks, seed after seed. Exit code 1 when anything was not as it must be."""

import argparse
import asyncio
import shutil
import sys
from collections.abc import Awaitable
from pathlib import Path

from tests.exercises.chaos.buses import BUSES, run_bus_chaos
from tests.exercises.chaos.cluster import make_folder, make_parent
from tests.exercises.chaos.report import Report
from tests.exercises.chaos.run import run_chaos, run_rolling
from tests.factories.brokers.broker import NoBroker
from tests.factories.clocks import find_faketime

JOBS, RATE_PER_S = 20_000, 100.0
SHORT_JOBS, SHORT_RATE_PER_S = 1_500, 60.0
BUS_JOBS, BUS_SHORT_JOBS = 5_000, 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exercises.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--jobs", type=int, help=f"of each seed (default: {JOBS}, short: {SHORT_JOBS})")
    parser.add_argument("--rate", type=float, help="jobs per second")
    parser.add_argument("--instances", type=int, help="how many (default: 3, short: 2)")
    parser.add_argument("--short", action="store_true", help="everything once, as in the tests")
    parser.add_argument("--keep", metavar="DIR", help="where logs stay; without it only those of failed runs do")
    parser.add_argument("--bus", action="append", choices=BUSES, help="brokers of this kind alone")
    arguments = parser.parse_args()
    if find_faketime() is None:
        print("WARNING: no service's clock is set: apt-get install libfaketime")
    parent = Path(arguments.keep).resolve() if arguments.keep else make_parent()
    failed = 0
    for kind in arguments.bus or BUSES:
        folder = make_folder(parent, kind)
        chaos = run_bus_chaos(
            folder,
            kind,
            seed=arguments.seed,
            # Each ends twice.
            jobs=min(arguments.jobs or (BUS_SHORT_JOBS if arguments.short else BUS_JOBS), BUSES[kind].max_read // 2),
            rate_per_s=arguments.rate or RATE_PER_S,
            kills=3 if arguments.short else 10,
            service_kills=1 if arguments.short else 3,
        )
        try:
            failed += not _report(chaos, folder, keep=arguments.keep is not None)
        except NoBroker as error:
            print(f"WARNING: {kind} is left out: {error}")
    if arguments.bus:
        return _end(failed, parent, keep=arguments.keep is not None)
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        folder = make_folder(parent, f"seed-{seed}")
        chaos = run_chaos(
            folder,
            seed=seed,
            jobs=arguments.jobs or (SHORT_JOBS if arguments.short else JOBS),
            rate_per_s=arguments.rate or (SHORT_RATE_PER_S if arguments.short else RATE_PER_S),
            instances=arguments.instances or (2 if arguments.short else 3),
            is_short=arguments.short,
        )
        failed += not _report(chaos, folder, keep=arguments.keep is not None)
    folder = make_folder(parent, "rolling")
    rolling = run_rolling(folder, seed=arguments.seed, rate_per_s=60.0, rounds=1 if arguments.short else 3)
    failed += not _report(rolling, folder, keep=arguments.keep is not None)
    return _end(failed, parent, keep=arguments.keep is not None)


def _end(failed: int, parent: Path, *, keep: bool) -> int:
    if failed:
        print(f"{failed} runs failed; their logs are in {parent}")
    elif not keep:
        shutil.rmtree(parent)
    return 1 if failed else 0


def _report(work: Awaitable[Report], folder: Path, *, keep: bool) -> bool:
    report = asyncio.run(_awaited(work))
    report.print()
    if not report.violations and not keep:
        shutil.rmtree(folder)
    return not report.violations


async def _awaited(work: Awaitable[Report]) -> Report:
    return await work


if __name__ == "__main__":
    sys.exit(main())
