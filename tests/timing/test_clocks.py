"""Clocks of other processes that a test sets."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from media_callbacks.timing.waiting import seconds_since_boot
from tests.factories.clocks import ProcessClock, find_faketime
from tests.factories.tools import go_without

_TELL = "import time; from media_callbacks.timing.waiting import seconds_since_boot; print(time.time(), seconds_since_boot())"
_HOUR_S = 3600


@pytest.mark.parametrize("offset_s", [0, 10 * 365 * 24 * _HOUR_S, -10 * 365 * 24 * _HOUR_S])
def test_the_clock_of_a_process_is_set_and_the_time_since_boot_is_not(tmp_path: Path, offset_s: int) -> None:
    if find_faketime() is None:
        go_without("needs libfaketime: apt-get install libfaketime")
    clock = ProcessClock(tmp_path / "media_callbacks.timing.clock")
    clock.set(offset_s)
    told = subprocess.check_output([sys.executable, "-c", _TELL], env=os.environ | clock.environment(), text=True)
    wall, since_boot = (float(number) for number in told.split())
    assert abs(wall - offset_s - time.time()) < _HOUR_S
    assert abs(since_boot - seconds_since_boot()) < _HOUR_S
