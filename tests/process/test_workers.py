"""The process that has the workers, without the service in them."""

import signal
import subprocess
import sys

import pytest

PARENT = """
import signal, sys
from types import SimpleNamespace
from media_callbacks.process.workers import Workers

# Whoever starts the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.SIG_DFL)

def run(worker, lifeline, listening):
    # By one write, or those of two come between each other.
    sys.stderr.write("begun\\n")
    signal.pause()

listeners = SimpleNamespace(close=lambda: None)
code, _ = Workers(2, listeners, run).supervise(lambda: True)
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_stopped_before_it_can_hear_is_no_failure(number):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as parent:
        assert parent.stderr is not None
        try:
            for _ in range(2):
                assert b"begun" in parent.stderr.readline()
            parent.send_signal(number)
            assert parent.wait(30) == 0
        finally:
            parent.kill()
