"""
The circuit breaker of a sink, so that a dead endpoint costs one probe per interval and not one attempt per event. Pure:
the time, in seconds of any clock, is an argument.

    closed ──10 failures in a row──► open ──interval over, a probe is sent──► half_open
       ▲                              ▲                                           │
       └──────────── success ─────────┼───────────────────────────────────────────┤
                                      └── failure, the next interval is longer ───┘
"""

from typing import Literal

from media_callbacks.timing.throttle import Pause

BreakerState = Literal["closed", "open", "half_open"]

FAILURES_TO_OPEN = 10
PROBE_INTERVAL_S = 30.0
MAX_PROBE_INTERVAL_S = 300.0


class Breaker:
    """
    Attributes:
        state: ``closed`` lets everything pass; ``open`` one probe when ``wait_s`` is 0; ``half_open`` nothing, as a
            probe is under way.
    """

    def __init__(self) -> None:
        self.state: BreakerState = "closed"
        self._failures = 0
        self._interval_s = PROBE_INTERVAL_S
        self._pause = Pause()

    def wait_s(self, *, now: float) -> float:
        """Seconds until a probe may be sent; 0 when it may, and always when closed."""
        return self._pause.left_s(now=now)

    def probe_sent(self) -> None:
        if self.state == "open":
            self.state = "half_open"

    def succeeded(self) -> None:
        self._failures = 0
        if self.state != "closed":
            self.state = "closed"
            self._interval_s = PROBE_INTERVAL_S
            self._pause.end()

    def failed(self, *, now: float) -> None:
        if self.state == "open":
            return  # an attempt that began before: what it says is known
        self._failures += 1
        if self.state == "half_open":
            self._interval_s = min(self._interval_s * 2, MAX_PROBE_INTERVAL_S)
        elif self._failures < FAILURES_TO_OPEN:
            return
        self.state = "open"
        self._pause.begin(self._interval_s, now=now)

    def try_now(self) -> None:
        """Somebody says that the sink is well again: where it is open a probe may be sent at once, and shows it."""
        if self.state == "closed":
            # It takes one failure to prove him wrong.
            self._failures = FAILURES_TO_OPEN - 1
        self._interval_s = PROBE_INTERVAL_S
        self._pause.end()

    def undecided(self) -> None:
        """An attempt ended that says nothing of the sink. If it was the probe, another may be sent at once."""
        if self.state == "half_open":
            self.state = "open"
