"""``media-callbacks serve``: run the service until it is told to stop."""

import argparse
import asyncio
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import structlog

from media_callbacks.commands.console.options import add_config_option, read_settings
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.file import NOT_SET
from media_callbacks.config.settings import Settings
from media_callbacks.model.errors import ConfigError, InboxUnavailable, Unusable
from media_callbacks.observe.logs import configure_logs
from media_callbacks.process.listeners import Listeners, bind, open_listeners, start_anew, try_listeners
from media_callbacks.process.workers import Workers, check_workers, settings_of

_ENVIRONMENT_STAYS = (
    "a process that runs keeps the environment of its start: put the value into a file and name that as file:/path, or"
    " restart the service"
)

log = structlog.get_logger()


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks serve --config /etc/media-callbacks/media-callbacks.toml",
        "media-callbacks serve --log-level warning --workers 2",
    )
    parser.elsewhere = {
        "--port": "set server.port in the configuration",
        "--host": "set server.host in the configuration",
        "--admin-port": "set admin.port in the configuration",
    }
    parser.description = (
        "Runs until SIGTERM or SIGINT. SIGHUP checks the configuration and starts anew with it behind the same sockets,"
        " so that nobody is refused, or says what is wrong and goes on as before. Sockets are taken over from systemd"
        " (LISTEN_FDS)."
    )
    add_config_option(parser)
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument(
        "--workers",
        type=_count,
        default=1,
        metavar="N",
        help="processes that share the port, with a PostgreSQL store; the operators' listener of each further one has"
        " the next port (default: 1)",
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 64, found {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    # Before there is any other thread: see server._on_hangup.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    settings = read_settings(arguments)
    check_workers(arguments.workers, settings)
    configure_logs(arguments.log_level)
    for warning in settings.warnings:
        log.warning("configuration", detail=warning)
    with closing(open_listeners(settings, os.environ)) as listeners:
        # Of one byte that workers share with the process that is told to start anew.
        refused = mmap.mmap(-1, 1)
        would_start = partial(_would_start, arguments, settings, listeners, refused)
        if arguments.workers == 1:
            code, anew = 0, _serve(settings, listeners, refused, may_start_anew=would_start)
        else:
            code, anew = _serve_with_workers(arguments, settings, listeners, refused, would_start)
        if anew:
            start_anew(listeners, settings, read_settings(arguments), os.environ)
    return code


def _serve(
    settings: Settings,
    listeners: Listeners,
    refused: mmap.mmap,
    *,
    lifeline: int | None = None,
    listening: Callable[[], None] = lambda: None,
    may_start_anew: Callable[[], bool] | None = None,
) -> bool:
    # Here, so that the other commands need not load the server.
    import uvloop  # noqa: PLC0415

    from media_callbacks.explain.refused import RefusalExplainer  # noqa: PLC0415
    from media_callbacks.process.server import exit_after, serve  # noqa: PLC0415

    async def main() -> bool:
        stop = asyncio.Event()
        if lifeline is not None:
            asyncio.get_running_loop().add_reader(lifeline, stop.set)
        return await serve(
            settings,
            listeners,
            stop=stop,
            stopping=exit_after,
            listening=lambda *_: listening(),
            reload_failed=lambda: refused[0],
            may_start_anew=None if may_start_anew is None else partial(asyncio.to_thread, may_start_anew),
            make_explain=lambda settings, known_key: RefusalExplainer(settings, known_key, time.thread_time).explain,
        )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(main())
        except (Unusable, InboxUnavailable) as error:
            raise _explained(error, settings) from error


def _explained(error: Unusable | InboxUnavailable, settings: Settings) -> Unusable:
    """What `check` says of the store, where that is what the service can't start with."""
    if isinstance(error, Unusable) and not error.problems[0].startswith("store."):
        return error
    # Here, so that a start need not load the checks.
    from media_callbacks.commands.check.machine import explain_failure  # noqa: PLC0415

    found = explain_failure(error, settings.store)
    # A file that another service holds is well by itself.
    return error if isinstance(error, Unusable) and found.severity != "error" else Unusable([found.line])


def _serve_with_workers(
    arguments: argparse.Namespace,
    settings: Settings,
    listeners: Listeners,
    refused: mmap.mmap,
    would_start: Callable[[], bool],
) -> tuple[int, bool]:
    def run_worker(worker: int, lifeline: int, listening: Callable[[], None]) -> int:
        own = settings_of(worker, settings)
        try:
            if worker:
                listeners.admin.close()
                # The first one's is the one that was opened already.
                listeners.admin = bind(own.admin.host, own.admin.port, "admin.port")
            _serve(own, listeners, refused, lifeline=lifeline, listening=listening)
        except ConfigError as error:
            for problem in error.problems:
                log.error("worker_failed", worker=worker, detail=problem)
            return 1 if isinstance(error, Unusable) else 2
        return 0

    return Workers(arguments.workers, listeners, run_worker).supervise(would_start)


def _would_start(arguments: argparse.Namespace, before: Settings, listeners: Listeners, refused: mmap.mmap) -> bool:
    """Whether the command could start now. ``refused`` is 1 from a time that it could not until the next."""
    problems = _problems_of_configuration(arguments)
    if not problems:
        try:
            after = read_settings(arguments)
            check_workers(arguments.workers, after)
            try_listeners(listeners, before, after)
            problems = _problems_of_store(before, after)
        except ConfigError as error:
            problems = list(error.problems)
    refused[0] = bool(problems)
    for problem in problems:
        log.error("not_started_anew", detail=problem)
    if any(NOT_SET in problem for problem in problems):
        log.error("not_started_anew", detail=_ENVIRONMENT_STAYS)
    return not problems


def _problems_of_configuration(arguments: argparse.Namespace) -> list[str]:
    """Found by a process of its own, because the code may be another one, too."""
    command = [sys.executable, "-m", "media_callbacks", "check", "--offline"]
    if arguments.config is not None:
        command += ["--config", arguments.config]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603 - ours
    if checked.returncode == 0:
        return []
    return checked.stdout.splitlines() or checked.stderr.splitlines()[-1:] or [f"exit code {checked.returncode}"]


def _problems_of_store(before: Settings, after: Settings) -> list[str]:
    # Here, so that a start need not load the checks.
    from media_callbacks.commands.check.machine import try_store  # noqa: PLC0415

    # With a journal the service starts without its store. Another store is tried all the same: its name may be wrong.
    may_be_away = after.server.journal_path is not None and after.store.url == before.store.url
    found = asyncio.run(try_store(after.store, may_be_away=may_be_away))
    return [found.line] if found.severity == "error" else []
