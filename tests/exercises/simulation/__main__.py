"""``python -m tests.exercises.simulation``: exit code 1 when a seed has brought what must not be, or a mutant got away."""

import argparse
import gc
import json
import sys
import time
from datetime import UTC, datetime, timedelta

from tests.exercises.simulation.kept import PLANS
from tests.exercises.simulation.machine import BEGAN_AT
from tests.exercises.simulation.mutants import MOST_SEEDS, MUTANTS, hunt
from tests.exercises.simulation.plan import Plan, make_plan
from tests.exercises.simulation.run import Outcome, carry_out
from tests.exercises.simulation.shrinking import shrink

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exercises.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many, one after the other")
    parser.add_argument("--from", dest="first", type=int, help="the first one; without it one that is new each day")
    parser.add_argument("--seconds", type=float, help="no seed is begun after so long")
    parser.add_argument("--story", action="store_true", help="print what has happened, whether it failed or not")
    parser.add_argument("--until-found", action="store_true", help="end with the first seed that fails")
    parser.add_argument(
        "--mutants",
        nargs="?",
        const="",
        metavar="WORD",
        help="simulate bugs instead, all or those whose names have a word",
    )
    parser.add_argument("--kept", action="store_true", help="carry out the plans that once failed instead (kept.py)")
    arguments = parser.parse_args()
    first = int(f"{datetime.now(UTC):%Y%m%d}") * 10_000 if arguments.first is None else arguments.first
    if arguments.mutants is not None:
        return _hunt(arguments.mutants)
    if arguments.kept:
        return _carry_out_kept()
    print(f"the first seed is {first}", flush=True)
    # What is imported is here for good, and need not be gone through after each seed.
    gc.freeze()
    began, used = time.monotonic(), time.process_time()
    carried_out = failed = steps = attempts = 0
    for seed in range(first, first + arguments.seeds):
        if arguments.seconds is not None and time.monotonic() - began > arguments.seconds:
            break
        outcome = carry_out(make_plan(seed))
        carried_out, steps, attempts = carried_out + 1, steps + outcome.steps, attempts + outcome.attempts
        if outcome.violations:
            failed += 1
            _show(outcome, is_long=not arguments.until_found)
            if arguments.until_found:
                break
        elif arguments.story:
            _tell(outcome)
    used = time.process_time() - used
    figures = {
        "first_seed": first,
        "seeds": carried_out,
        "failed": failed,
        "steps": steps,
        "attempts": attempts,
        "processor_s": round(used, 1),
        "seeds_per_minute": round(60 * carried_out / used) if used else 0,
    }
    print(json.dumps(figures))
    return 1 if failed else 0


def _show(outcome: Outcome, *, is_long: bool) -> None:
    seed = outcome.plan.seed
    for violation in outcome.violations[:_SHOWN]:
        print(f"VIOLATION seed {seed}: {violation}", flush=True)
    if is_long:
        smaller = shrink(outcome)
        print(f"the least of seed {seed} that fails so: {_describe(smaller.plan)}")
        _tell(smaller)
        print(f"to be kept in kept.py: {smaller.plan}")
        print(f"all of it again: .venv/bin/python -m tests.exercises.simulation --from {seed} --seeds 1 --story")


def _describe(plan: Plan) -> str:
    return (
        f"{len(plan.jobs)} jobs, {plan.services} services, and {len(plan.faults)} faults:"
        f" {', '.join(f'{fault.kind} for {fault.for_s:.0f} s' for fault in plan.faults) or 'none'}"
    )


def _tell(outcome: Outcome) -> None:
    began_at = datetime.fromtimestamp(BEGAN_AT, UTC)
    for at, line in outcome.lines:
        print(f"{began_at + timedelta(seconds=at):%a %H:%M:%S.%f} {line}")
    print(f"seed {outcome.plan.seed}, history {outcome.digest}")


def _carry_out_kept() -> int:
    failed = 0
    for what, plan in PLANS.items():
        outcome = carry_out(plan)
        failed += bool(outcome.violations)
        print(f"{what}: {'; '.join(outcome.violations) or 'no violation'}", flush=True)
    return 1 if failed else 0


def _hunt(word: str) -> int:
    away = 0
    for mutant in MUTANTS:
        if word in mutant.name:
            seed, what = hunt(mutant)
            if seed is None:
                found = f"not found in {MOST_SEEDS} seeds"
            elif carry_out(make_plan(seed)).violations:
                # Whatever it is, it is not the mutant's.
                found, seed = f"seed {seed} fails without it, too", None
            else:
                found = f"found by seed {seed}"
            away += seed is None
            print(f"{mutant.name}: {found}: {what}", flush=True)
    return 1 if away else 0


if __name__ == "__main__":
    sys.exit(main())
