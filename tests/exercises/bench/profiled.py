"""
The command ``media-callbacks`` with one of its threads under cProfile.

    python -m tests.exercises.bench.profiled OUTPUT MainThread serve --config ...

The main thread, which has the event loop, is profiled from SIGUSR1 to SIGUSR2; any other thread for its whole life.
Times are processor time of the thread, so that waiting for the disk, for the interpreter lock and for the core counts
for nothing.
"""

import cProfile
import signal
import sys
import threading
import time

MAIN_THREAD = "MainThread"
WRITER_THREAD = "inbox-writer"

_profile = cProfile.Profile(time.thread_time)


def run(output: str, thread: str, argv: list[str]) -> int:
    # Here, because the bench itself needs only the names above.
    from media_callbacks.__main__ import main

    if thread == MAIN_THREAD:
        signal.signal(signal.SIGUSR1, lambda *_: _profile.enable())
        signal.signal(signal.SIGUSR2, lambda *_: _profile.disable())
    else:

        class Thread(threading.Thread):
            def run(self) -> None:
                if self.name == thread:
                    _profile.runcall(super().run)
                else:
                    super().run()

        threading.Thread = Thread  # type: ignore[misc]
    code = main(argv)
    _profile.dump_stats(output)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
