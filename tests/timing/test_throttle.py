import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.timing.throttle import AdaptiveConcurrency, Pause, RateLimit


def send_all(limit: RateLimit, times: list[float]) -> list[tuple[float, int]]:
    """Let as much go at each time as may."""
    sent = []
    for now in times:
        count = limit.available(now=now)
        limit.take(count)
        sent.append((now, count))
    return sent


@pytest.mark.parametrize("per_s", [0.1, 1.0, 7.0, 50.0, 2000.0])
def test_a_rate_is_used_up_and_not_exceeded(per_s: float) -> None:
    limit = RateLimit(per_s)
    duration_s = max(100 / per_s, 2.0)
    step_s = duration_s / 1000
    sent = send_all(limit, [n * step_s for n in range(1001)])
    total = sum(count for _, count in sent)
    burst = max(per_s * 0.1, 1.0)
    assert per_s * duration_s - 1 <= total <= per_s * duration_s + burst


@settings(max_examples=100, deadline=None)
@given(st.floats(0.5, 500), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 100)), min_size=1, max_size=60))
def test_in_no_second_goes_more_than_the_rate_and_a_tenth(per_s: float, steps: list[tuple[float, int]]) -> None:
    limit, now, sent = RateLimit(per_s), 1000.0, []
    for elapsed_s, wanted in steps:
        now += elapsed_s
        count = min(limit.available(now=now), wanted)
        limit.take(count)
        sent.append((now, count))
    for at, _ in sent:
        assert sum(count for other, count in sent if at <= other < at + 1) <= per_s * 1.1 + 1.001


@pytest.mark.parametrize("per_s", [0.2, 3.0, 400.0])
def test_after_the_time_that_it_says_something_may_go(per_s: float) -> None:
    limit, now = RateLimit(per_s), 0.0
    for _ in range(20):
        count = limit.available(now=now)
        assert count > 0
        limit.take(count)
        assert limit.available(now=now) == 0
        assert limit.wait_s() > 0
        now += limit.wait_s()


def test_a_clock_that_is_set_back_neither_stops_a_rate_nor_lets_more_go() -> None:
    limit = RateLimit(10.0)
    limit.take(limit.available(now=1_000_000.0))
    assert limit.available(now=0.0) == 0
    assert limit.available(now=0.1) == 1
    assert limit.available(now=1_000_000.0) == 1, "a bucket does not grow above its size"


def test_a_pause_lasts_as_long_as_the_longest_that_was_asked_for() -> None:
    pause = Pause()
    assert pause.left_s(now=5.0) == 0
    pause.begin(30.0, now=100.0)
    pause.begin(5.0, now=101.0)
    assert pause.left_s(now=110.0) == 20
    pause.begin(60.0, now=110.0)
    assert pause.left_s(now=169.0) == 1
    assert pause.left_s(now=170.0) == 0
    assert pause.left_s(now=500.0) == 0


def test_a_clock_that_is_set_back_prolongs_a_pause_by_itself_at_most() -> None:
    pause = Pause()
    pause.begin(30.0, now=10_000.0)
    assert pause.left_s(now=0.0) == 30
    assert pause.left_s(now=29.0) == 1
    assert pause.left_s(now=30.0) == 0


def test_an_overload_halves_what_runs_at_once_down_to_one() -> None:
    concurrency = AdaptiveConcurrency(32)
    limits = []
    for _ in range(8):
        concurrency.overloaded(begun_in=concurrency.round)
        limits.append(concurrency.limit)
    assert limits == [16, 8, 4, 2, 1, 1, 1, 1]


def test_attempts_that_ran_at_once_halve_it_once() -> None:
    concurrency = AdaptiveConcurrency(32)
    begun_in = concurrency.round
    for _ in range(32):
        concurrency.overloaded(begun_in=begun_in)
    assert concurrency.limit == 16
    concurrency.overloaded(begun_in=concurrency.round)
    assert concurrency.limit == 8


def test_successes_add_back_one_for_each_round_until_what_was_configured() -> None:
    concurrency = AdaptiveConcurrency(16)
    concurrency.succeeded()
    assert concurrency.limit == 16
    concurrency.overloaded(begun_in=concurrency.round)
    needed: dict[int, int] = {}
    for count in range(1, 1000):
        concurrency.succeeded()
        needed.setdefault(concurrency.limit, count)
    assert concurrency.limit == 16
    # From n to n + 1 it takes about n successes: all that run at once.
    for lower, higher in itertools.pairwise(range(9, 17)):
        assert lower <= needed[higher] - needed[lower] <= lower + 2


def test_one_at_a_time_stays_one_at_a_time() -> None:
    concurrency = AdaptiveConcurrency(1)
    concurrency.overloaded(begun_in=0)
    concurrency.succeeded()
    assert concurrency.limit == 1
