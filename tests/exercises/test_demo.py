"""The demo with each bus."""

import subprocess
import sys

import pytest

from tests.factories.brokers.kinds import BROKERS, need_broker
from tests.factories.running import PATIENCE_S


@pytest.mark.parametrize("kind", BROKERS)
def test_the_events_of_the_demo_are_read_back_from_the_bus(kind):
    need_broker(kind)
    command = [sys.executable, "-m", "tests.exercises.demo", kind]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=4 * PATIENCE_S)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith(f"5 events at the webhook, 5 messages read back from {kind}: the same\n")
