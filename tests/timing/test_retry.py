from random import Random

import pytest

from media_callbacks.timing.retry import DELAYS_S, HOUR_S, MINUTE_S, backoff_s, next_delay_s


class _Fixed(Random):
    def __init__(self, position: float) -> None:
        super().__init__()
        self.position = position

    def random(self) -> float:
        return self.position


@pytest.mark.parametrize(
    ("attempt", "expected_s"),
    [
        (1, 5),
        (2, 30),
        (3, 2 * MINUTE_S),
        (4, 10 * MINUTE_S),
        (5, 30 * MINUTE_S),
        (6, 2 * HOUR_S),
        (7, 5 * HOUR_S),
        (8, 10 * HOUR_S),
        (9, 14 * HOUR_S),
        (10, 20 * HOUR_S),
        (11, 24 * HOUR_S),
    ],
)
def test_delays_are_those_of_the_schedule_with_jitter_around_them(attempt: int, expected_s: float) -> None:
    assert next_delay_s(attempt, rng=_Fixed(0.5)) == pytest.approx(expected_s)
    assert next_delay_s(attempt, rng=_Fixed(0.0)) == pytest.approx(expected_s * 0.8)
    assert next_delay_s(attempt, rng=_Fixed(1.0)) == pytest.approx(expected_s * 1.2)


def test_after_the_last_delay_there_is_no_further_attempt() -> None:
    assert next_delay_s(12, rng=Random(1)) is None
    assert next_delay_s(2, rng=Random(1), delays_s=[1]) is None


@pytest.mark.parametrize(
    ("retry_after_s", "expected_s"),
    [(None, 5), (1, 5), (60, 60), (10**9, max(DELAYS_S))],
)
def test_receiver_may_ask_for_more_time_but_not_for_ever(retry_after_s: float | None, expected_s: float) -> None:
    assert next_delay_s(1, rng=_Fixed(0.5), retry_after_s=retry_after_s) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("attempt", "factor", "delay_s"),
    [(1, 2, 0.5), (2, 2, 1), (5, 2, 8), (8, 2, 60), (10**6, 2, 60), (3, 4, 8), (10**6, 4, 60)],
)
def test_what_is_tried_for_ever_is_tried_ever_more_slowly(attempt: int, factor: int, delay_s: float) -> None:
    assert backoff_s(attempt, first_s=0.5, longest_s=60, factor=factor) == delay_s
