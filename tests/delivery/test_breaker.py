import pytest

from media_callbacks.delivery.breaker import FAILURES_TO_OPEN, PROBE_INTERVAL_S, Breaker, BreakerState


def state(breaker: Breaker) -> BreakerState:
    return breaker.state


def opened(*, now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(now=now)
    return breaker


def test_ten_failures_in_a_row_open_it_and_nine_do_not() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(9):
            breaker.failed(now=0.0)
        assert state(breaker) == "closed"
        assert breaker.wait_s(now=0.0) == 0
        breaker.succeeded()
    for _ in range(9):
        breaker.failed(now=0.0)
    breaker.undecided()
    assert state(breaker) == "closed"
    breaker.failed(now=0.0)
    assert state(breaker) == "open", "what says nothing of the sink counts neither way"


def test_probes_come_less_and_less_often_but_at_least_every_five_minutes() -> None:
    now, intervals = 1000.0, []
    breaker = opened(now=now)
    for _ in range(7):
        interval = breaker.wait_s(now=now)
        intervals.append(interval)
        assert breaker.wait_s(now=now + interval - 1) == 1
        now += interval
        assert breaker.wait_s(now=now) == 0
        breaker.probe_sent()
        assert state(breaker) == "half_open"
        breaker.failed(now=now)
        assert state(breaker) == "open"
    assert intervals == [30, 60, 120, 240, 300, 300, 300]


def test_a_probe_that_succeeds_closes_it_and_forgets_the_past() -> None:
    breaker = opened()
    breaker.probe_sent()
    breaker.failed(now=30.0)
    assert breaker.wait_s(now=30.0) == 60
    breaker.probe_sent()
    breaker.succeeded()
    assert state(breaker) == "closed"
    assert breaker.wait_s(now=30.0) == 0
    for _ in range(FAILURES_TO_OPEN):
        assert state(breaker) == "closed"
        breaker.failed(now=100.0)
    assert state(breaker) == "open"
    assert breaker.wait_s(now=100.0) == 30


def test_attempts_that_began_before_it_opened_change_nothing_unless_they_succeed() -> None:
    breaker = opened(now=0.0)
    for _ in range(50):
        breaker.failed(now=10.0)
    assert breaker.wait_s(now=10.0) == 20
    breaker.succeeded()
    assert state(breaker) == "closed"


def test_a_probe_that_says_nothing_is_followed_by_another_at_once() -> None:
    breaker = opened()
    assert breaker.wait_s(now=30.0) == 0
    breaker.probe_sent()
    breaker.undecided()
    assert state(breaker) == "open"
    assert breaker.wait_s(now=30.0) == 0


def test_a_probe_is_known_as_such_only_while_it_is_open() -> None:
    breaker = Breaker()
    breaker.probe_sent()
    assert state(breaker) == "closed"


def test_a_clock_that_is_set_back_delays_the_next_probe_by_an_interval_at_most() -> None:
    breaker = opened(now=1_000_000.0)
    assert breaker.wait_s(now=0.0) == 30
    assert breaker.wait_s(now=30.0) == 0


@pytest.mark.parametrize("is_probed", [False, True])
def test_one_that_is_to_try_now_sends_a_single_probe(is_probed: bool) -> None:
    breaker = opened()
    if is_probed:
        breaker.probe_sent()
        breaker.failed(now=30.0)
    breaker.try_now()
    assert (state(breaker), breaker.wait_s(now=0.0)) == ("open", 0)
    breaker.probe_sent()
    assert state(breaker) == "half_open"
    breaker.failed(now=100.0)
    assert (state(breaker), breaker.wait_s(now=100.0)) == ("open", 2 * PROBE_INTERVAL_S)
    breaker.try_now()
    breaker.probe_sent()
    breaker.succeeded()
    assert (state(breaker), breaker.wait_s(now=0.0)) == ("closed", 0)


def test_a_closed_one_that_is_to_try_now_opens_at_the_first_failure() -> None:
    breaker = Breaker()
    breaker.try_now()
    assert state(breaker) == "closed"
    breaker.failed(now=0.0)
    assert state(breaker) == "open"
    breaker = Breaker()
    breaker.try_now()
    breaker.succeeded()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(now=0.0)
    assert state(breaker) == "closed"
