"""
Several processes behind the same sockets, so that one machine's cores are used.

The process that was started opens the sockets and forks; it takes no callback itself, so that it is there whatever
befalls a worker: it starts those anew that end, and passes on what it is told by signals. It has no thread and no event
loop, which is what makes forking safe.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from media_callbacks.config.settings import Settings
from media_callbacks.model.errors import ConfigError
from media_callbacks.process.listeners import Listeners

# Before a worker that ended is started anew: one that ends at once must not keep a core busy.
_PAUSE_S = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

log = structlog.get_logger()


def settings_of(worker: int, settings: Settings) -> Settings:
    """What is a worker's own: the port of its operators' listener, counted from that of the first, and its journal."""
    server, admin = settings.server, settings.admin
    if worker:
        if server.journal_path is not None:
            server = server.model_copy(update={"journal_path": f"{server.journal_path}-{worker}"})
        admin = admin.model_copy(update={"port": admin.port + worker if admin.port else 0})
    return settings.model_copy(update={"server": server, "admin": admin})


def check_workers(count: int, settings: Settings) -> None:
    """
    Raises:
        ConfigError: So many processes can't share this store, or fewer than before would leave callbacks behind.
    """
    if count > 1 and settings.store.url.startswith("sqlite:"):
        raise ConfigError(
            [f"--workers {count}: SQLite serves one process; set store.url to a PostgreSQL, or leave --workers out"]
        )
    if settings.admin.port and settings.admin.port + count - 1 > 65535:
        raise ConfigError([f"admin.port: expected at most {65536 - count}, because {count} workers count up from it"])
    journal = settings.server.journal_path
    if journal is None:
        return
    path = Path(journal)
    for other in path.parent.glob(f"{path.name}-*"):
        number = other.name.removeprefix(f"{path.name}-")
        if number.isdigit() and int(number) >= count and any(each.stat().st_size for each in other.glob("*.journal")):
            remedy = f"start once with --workers {int(number) + 1} until it is empty"
            raise ConfigError([f"--workers {count}: {other} still has callbacks of worker {number}; {remedy}"])


class Workers:
    """
    Args:
        listeners: The parent's, which are open until it is to stop.
        run: Runs one worker until it has stopped, or until its lifeline, a descriptor, can be read because the parent
            has gone; returns its exit code. Told its number and what to call once it listens.
    """

    def __init__(self, count: int, listeners: Listeners, run: Callable[[int, int, Callable[[], None]], int]) -> None:
        self._count = count
        self._listeners = listeners
        self._run = run
        self._lifeline = os.pipe()
        self._workers: dict[int, int] = {}
        self._listening: dict[int, int] = {}
        # Any: the configuration is one that a worker can start with.
        self._has_listened = False

    def supervise(self, may_start_anew: Callable[[], bool]) -> tuple[int, bool]:
        """
        Run until told to stop.

        Returns:
            The exit code, and whether to start anew.
        """
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for worker in range(self._count):
                self._start(worker, previous)
            return self._wait(previous, may_start_anew)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _start(self, worker: int, mask: set[int | signal.Signals]) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                # A terminal that hangs up tells all processes.
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                # Until it can hear, and when it has finished, it simply ends.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                os.close(reading)
                os.close(self._lifeline[1])
                code = self._run(worker, self._lifeline[0], lambda: _tell(writing))
            finally:
                # Nothing of the parent's is to run here: no handler at exit, no other worker's start.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        self._workers[pid] = worker
        self._listening[pid] = reading
        log.info("worker_started", worker=worker, pid=pid)

    def _wait(self, mask: set[int | signal.Signals], may_start_anew: Callable[[], bool]) -> tuple[int, bool]:
        is_stopping, anew, code = False, False, 0
        # Workers that ended, and when they may be started anew.
        due: dict[int, float] = {}
        while self._workers or (due and not is_stopping):
            pause_s = max(0.0, min(due.values()) - time.monotonic()) if due and not is_stopping else 3600.0
            info = signal.sigtimedwait(_SIGNALS, pause_s)
            number = None if info is None else signal.Signals(info.si_signo)
            if number == signal.SIGHUP:
                if not is_stopping and may_start_anew():
                    log.info("starting_anew")
                    is_stopping = anew = True
                    # A worker begins without a drain when it is told so.
                    self._tell(signal.SIGINT)
            elif number in (signal.SIGTERM, signal.SIGINT):
                is_stopping, anew = True, False
                # Workers have their own. When the last has closed it, who connects is refused and not left waiting.
                self._listeners.close()
                self._tell(number)
            for worker, may_start_again, ended_with in self._ended():
                if is_stopping:
                    code = code or ended_with
                elif may_start_again:
                    due[worker] = time.monotonic() + _PAUSE_S
                else:
                    # It will not get better by itself: as one process would have ended.
                    is_stopping, code = True, ended_with or 1
                    self._listeners.close()
                    self._tell(signal.SIGTERM)
            for worker in [worker for worker, at in due.items() if at <= time.monotonic() and not is_stopping]:
                del due[worker]
                self._start(worker, mask)
        return code, anew

    def _ended(self) -> list[tuple[int, bool, int]]:
        """
        Number, whether it makes sense to start it again, and exit code of each that has ended since.

        It does when somebody killed it, or when it or another had come as far as listening.
        """
        ended = []
        for pid, worker in list(self._workers.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
                reading = self._listening.pop(pid)
                has_listened = os.read(reading, 1) != b""
                os.close(reading)
                del self._workers[pid]
                is_killed = code < 0
                if code in (-signal.SIGTERM, -signal.SIGINT):
                    # By what it was told, before it could hear or when it had finished.
                    code = 0
                log.log(logging.INFO if code == 0 else logging.ERROR, "worker_ended", worker=worker, pid=pid, code=code)
                ended.append((worker, is_killed or has_listened or self._has_listened, abs(code)))
                self._has_listened |= has_listened
        return ended

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._workers:
            os.kill(pid, number)


def _tell(descriptor: int) -> None:
    os.write(descriptor, b"\n")
    os.close(descriptor)
