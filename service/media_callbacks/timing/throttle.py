"""
How fast a sink may be fed: pure decisions, with the time in seconds, of any clock, as an argument. A clock that is set
back costs at most one waiting time more.
"""

# What a receiver can make a whole sink wait with Retry-After. The event that was answered so may wait longer.
MAX_PAUSE_S = 300.0
# A rate is kept by the tenth of a second: few claims, and never more than a tenth above the rate within any second.
_BURST_S = 0.1


class Pause:
    """A time during which nothing is to be done."""

    def __init__(self) -> None:
        self._began_at = 0.0
        self._duration_s = 0.0

    def begin(self, duration_s: float, *, now: float) -> None:
        """From now on, unless the present one lasts longer."""
        if duration_s > self.left_s(now=now):
            self._began_at, self._duration_s = now, duration_s

    def end(self) -> None:
        self._duration_s = 0.0

    def left_s(self, *, now: float) -> float:
        """Seconds until it is over; 0 when it is."""
        self._began_at = min(self._began_at, now)
        return max(self._began_at + self._duration_s - now, 0.0)


class RateLimit:
    """
    A token bucket.

    Args:
        per_s: Events per second, above 0.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._capacity = max(per_s * _BURST_S, 1.0)
        self._tokens = self._capacity
        self._at: float | None = None

    def available(self, *, now: float) -> int:
        """How many events may go now. ``take`` says how many do."""
        elapsed_s = 0.0 if self._at is None else max(now - self._at, 0.0)
        self._at = now
        self._tokens = min(self._tokens + elapsed_s * self._per_s, self._capacity)
        # What was added up from parts of a second may lack the last bit of a whole event.
        return int(self._tokens + 1e-6)

    def take(self, count: int) -> None:
        """``count`` events go, of those that ``available`` has just allowed."""
        self._tokens -= count

    def wait_s(self) -> float:
        """Seconds, counted from the latest ``available``, until it is worth to ask again."""
        return max(max(self._capacity / 2, 1.0) - self._tokens, 0.0) / self._per_s


class AdaptiveConcurrency:
    """
    How many attempts may run at once: half as many after a round with an overload, then one more with every round of
    successes, until it is what the operator has configured. This is how TCP finds its rate (RFC 5681, section 3.1).

    Attributes:
        round: To be noted when an attempt begins, and handed to ``overloaded``.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._limit = float(maximum)
        self.round = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def overloaded(self, *, begun_in: int) -> None:
        """An attempt met an overload. Those that began before the latest reduction say nothing new."""
        if begun_in == self.round:
            self._limit = max(self.limit // 2, 1)
            self.round += 1

    def succeeded(self) -> None:
        if self._limit < self._maximum:
            self._limit = min(self._limit + 1 / self._limit, self._maximum)
