"""From a plan that fails to the least of it that still does."""

import re
from collections.abc import Callable

from tests.exercises.simulation.plan import Plan
from tests.exercises.simulation.run import Outcome, carry_out


def shrink(outcome: Outcome, *, tries: int = 200, carry_out: Callable[[Plan], Outcome] = carry_out) -> Outcome:
    """
    Leave out faults and jobs, many at once and then one by one, as long as the same kind of violation comes.

    Args:
        outcome: With a violation.
        tries: How many plans may be carried out.
    """
    kind = _kind(outcome.violations[0])
    for parts in ("faults", "jobs", "faults"):
        size = max(len(getattr(outcome.plan, parts)) // 2, 1)
        while size and tries > 0:
            start = 0
            while start < len(getattr(outcome.plan, parts)) and tries > 0:
                left_out = slice(start, start + size)
                tries -= 1
                plan = outcome.plan.without(**{parts: left_out})
                smaller = carry_out(plan)
                if kind in map(_kind, smaller.violations):
                    outcome = smaller
                else:
                    start += size
            size //= 2
    return outcome


def _kind(violation: str) -> str:
    """Without which job, how many and when."""
    return re.sub(r"\([^)]*\)|\d+(\.\d+)?", "", violation)
