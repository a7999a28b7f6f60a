"""``python -m tests.exercises.promise``: exit code 1 when a registered job did not end in exactly one true event."""

import argparse
import asyncio
import json
import shutil
import sys
from pathlib import Path

from tests.exercises.chaos.cluster import make_folder, make_parent
from tests.exercises.promise.run import run_promise
from tests.factories.clocks import find_faketime

JOBS, RATE_PER_S, KILLS = 20_000, 25.0, 5
_SHOWN = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exercises.promise", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="jobs per second")
    parser.add_argument("--kills", type=int, default=KILLS, help="of the service, while jobs end")
    parser.add_argument("--short", action="store_true", help="with more lies, as in the tests")
    parser.add_argument("--keep", metavar="DIR", help="where the log stays; without it only that of a failed run does")
    arguments = parser.parse_args()
    if find_faketime() is None:
        print("WARNING: the service's clock is not set: apt-get install libfaketime", file=sys.stderr)
    parent = Path(arguments.keep).resolve() if arguments.keep else make_parent()
    folder = make_folder(parent, f"promise-{arguments.seed}")
    report = asyncio.run(
        run_promise(
            folder,
            seed=arguments.seed,
            jobs=arguments.jobs,
            rate_per_s=arguments.rate,
            kills=arguments.kills,
            is_short=arguments.short,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps({"seed": report.seed, **report.figures, "violations": len(report.violations)}), flush=True)
    for violation in report.violations[:_SHOWN]:
        print(f"VIOLATION seed {report.seed}: {violation}")
    if len(report.violations) > _SHOWN:
        print(f"… and {len(report.violations) - _SHOWN} more")
    if report.violations:
        print(f"its log is in {folder}")
    elif not arguments.keep:
        shutil.rmtree(parent)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
