"""When to try again: pure functions of how often it was tried."""

from collections.abc import Sequence
from random import Random

MINUTE_S = 60.0
HOUR_S = 60 * MINUTE_S

# Svix's schedule (https://docs.svix.com/retries) with a longer tail: three and a half days in all.
DELAYS_S: Sequence[float] = (
    5,
    30,
    2 * MINUTE_S,
    10 * MINUTE_S,
    30 * MINUTE_S,
    2 * HOUR_S,
    5 * HOUR_S,
    10 * HOUR_S,
    14 * HOUR_S,
    20 * HOUR_S,
    24 * HOUR_S,
)
JITTER = 0.2


def next_delay_s(
    attempt: int, *, rng: Random, retry_after_s: float | None = None, delays_s: Sequence[float] = DELAYS_S
) -> float | None:
    """
    Seconds to wait after the n-th failed attempt, within ±20 % of the schedule so that failures that began together
    do not return together.

    Args:
        attempt: 1 after the first attempt.
        retry_after_s: What the receiver asked for: waited for at least, though never longer than the longest delay.

    Returns:
        None when the schedule is over: there will be no further attempt.
    """
    if attempt > len(delays_s):
        return None
    delay_s = delays_s[attempt - 1] * rng.uniform(1 - JITTER, 1 + JITTER)
    if retry_after_s is not None:
        delay_s = max(delay_s, min(retry_after_s, max(delays_s)))
    return delay_s


def backoff_s(attempt: int, *, first_s: float, longest_s: float, factor: int = 2) -> float:
    """
    Seconds to wait after the n-th failed attempt at what is tried for ever: ``factor`` times as long each time.

    Args:
        attempt: 1 after the first attempt.
    """
    return min(first_s * float(factor ** min(attempt - 1, 30)), longest_s)
