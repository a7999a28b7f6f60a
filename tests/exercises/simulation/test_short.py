"""
The simulation in short: some seeds, and whether it would find anything. Each is a process of its own, as coverage of
greenlets costs more than it tells.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.exercises.simulation.kept import PLANS
from tests.exercises.simulation.mutants import MUTANTS, PACKAGE
from tests.exercises.simulation.plan import Fault, Plan, make_plan
from tests.exercises.simulation.run import Outcome
from tests.exercises.simulation.shrinking import shrink

SEEDS = 12


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """With sets and dictionaries of text in another order for another ``hash_seed``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run(
        [sys.executable, "-m", "tests.exercises.simulation", *arguments],
        env=environment | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


def test_whatever_goes_wrong_in_a_week_every_promise_is_kept() -> None:
    done = simulate("--seeds", str(SEEDS), "--from", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["seeds"], figures["failed"]) == (SEEDS, 0)
    # Something goes on in them.
    assert figures["attempts"] > 20 * SEEDS


def test_what_once_failed_does_so_no_more() -> None:
    done = simulate("--kept")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": no violation\n") == len(PLANS)


def test_a_seed_has_one_history() -> None:
    first, second = (simulate("--seeds", "2", "--from", "8", "--story", hash_seed=seed) for seed in ("1", "2"))
    told = first.stdout.splitlines()[:-1]
    assert sum(", history " in line for line in told) == 2
    assert told == second.stdout.splitlines()[:-1], first.stderr + second.stderr


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_the_service_as_it_is(mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(PACKAGE / mutant.file, copy)
    mutant.apply(tmp_path)
    if copy.suffix == ".py":
        compile(copy.read_text(), mutant.file, "exec")


@pytest.mark.parametrize("name", ["leases nothing", "always waits as after the first attempt"])
def test_a_mutant_is_found(name: str) -> None:
    done = simulate("--mutants", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}: found by seed " in done.stdout


def test_a_plan_that_fails_is_told_with_no_more_than_it_takes() -> None:
    """Here by a service that must not be frozen while there is a sixth job."""
    plan = make_plan(4)
    culprit = Fault(at=9.0, kind="service_freezes", for_s=1.0)
    plan = replace(plan, faults=(*plan.faults, culprit), services=2)
    carried_out = []

    def carry_out(plan: Plan) -> Outcome:
        carried_out.append(plan)
        violations = ("a promise (of 3) was broken",) if culprit in plan.faults and len(plan.jobs) > 5 else ()
        return Outcome(plan, violations, digest="", lines=(), steps=0, attempts=0)

    smaller = shrink(carry_out(plan), carry_out=carry_out).plan
    assert (smaller.faults, len(smaller.jobs)) == ((culprit,), 6)
    assert len(carried_out) < 100
