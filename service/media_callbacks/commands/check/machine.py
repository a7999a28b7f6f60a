"""The store, the journal and the ports: files and addresses of this machine, or a database that answers."""

import asyncio
import errno
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from media_callbacks.config.server import StoreSettings
from media_callbacks.inbox.factory import build_inbox
from media_callbacks.inbox.keeping.migrations import load_migrations, missing_migrations
from media_callbacks.model.check_results import CheckResult, Severity
from media_callbacks.model.errors import ConfigError, InboxUnavailable

_STORE, _JOURNAL = "store.url", "server.journal_path"
# The service says that it is not ready with less, once a receipt has found no room.
_LITTLE_BYTES = 64 << 20
_MAKE_ROOM = "make room, lower store.retention_days and run `purge`, or put the file on a larger disk"
_WILL_MIGRATE = "it can be used; `serve` brings its schema up to date"


async def try_store(store: StoreSettings, *, may_be_away: bool = False) -> CheckResult:
    """``may_be_away`` makes a warning of a database that can't be reached just now."""
    if store.url.startswith("sqlite:"):
        return await asyncio.to_thread(_try_file, store.sqlite_path, auto_migrate=store.auto_migrate)
    # As the service opens it, so that whatever would stop the service is found.
    inbox = build_inbox(store.url, auto_migrate=False, is_exclusive=False)
    try:
        await inbox.open()
    except InboxUnavailable as error:
        return replace(explain_failure(error, store), severity="warning" if may_be_away else "error")
    except ConfigError as error:
        return explain_failure(error, store)
    finally:
        await inbox.close()
    return CheckResult("ok", _STORE, "it can be used, and its schema is up to date")


def explain_failure(error: ConfigError | InboxUnavailable, store: StoreSettings) -> CheckResult:
    """Why a store could not be opened."""
    if store.url.startswith("sqlite:"):
        # SQLite itself says of most things no more than that the file can't be opened.
        found = _try_file(store.sqlite_path, auto_migrate=store.auto_migrate)
        if found.severity == "error":
            return found
    if isinstance(error, InboxUnavailable):
        remedy = "see whether the server runs and takes connections from here, and check host, port and user"
        return CheckResult("error", _STORE, str(error), remedy)
    return _of_mistake(error, auto_migrate=store.auto_migrate)


def _of_mistake(error: ConfigError, *, auto_migrate: bool) -> CheckResult:
    subject, _, sentence = error.problems[0].partition(": ")
    if subject == "store.auto_migrate" and auto_migrate:
        return CheckResult("ok", _STORE, _WILL_MIGRATE)
    text, _, remedy = sentence.rpartition("; ")
    return CheckResult("error", subject, text or sentence, remedy if text else "correct it, or name another database")


def _try_file(path: Path, *, auto_migrate: bool) -> CheckResult:
    """Opens it for reading alone: whatever it is, it stays as it is."""
    if not path.parent.is_dir():
        return CheckResult("error", _STORE, f"there is no directory {path.parent}", "create it, or name another file")
    # SQLite keeps files beside it.
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        remedy = "give the service's user the right to write both, or name another file"
        return CheckResult("error", _STORE, f"{path} or its directory can't be written by this user", remedy)
    applied: dict[int, str] = {}
    try:
        if path.exists():
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchone():
                    applied = dict(connection.execute("SELECT number, name FROM migrations"))
        missing = missing_migrations(load_migrations("sqlite"), applied, apply=auto_migrate)
    except ConfigError as error:
        return _of_mistake(error, auto_migrate=auto_migrate)
    except sqlite3.Error as error:
        return CheckResult("error", _STORE, f"{path} can't be read: {error}", "name another file, or restore this one")
    free = shutil.disk_usage(path.parent).free
    if free < _LITTLE_BYTES:
        return CheckResult(
            "error",
            _STORE,
            f"the disk of {path} has {free} bytes left: callbacks are refused as soon as one finds no room",
            _MAKE_ROOM,
        )
    if path.exists() and path.stat().st_mode & 0o077:
        text = f"others than the service's user may read {path}, which has what the events have"
        return CheckResult("warning", _STORE, text, f"chmod 600 {path}*")
    if missing:
        return CheckResult("ok", _STORE, _WILL_MIGRATE if path.exists() else "it can be used; `serve` creates the file")
    return CheckResult("ok", _STORE, "it can be used, and its schema is up to date")


def try_journal(path: Path, max_bytes: int) -> CheckResult:
    """The service makes the directory, but not the one above it."""
    folder = path if path.is_dir() else path.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        text = f"{folder} can't be written: {error.strerror or type(error).__name__}"
        return CheckResult(
            "error", _JOURNAL, text, "create it, give the service's user the right to write, or make room"
        )
    if free < max_bytes:
        text = f"the disk has {free} bytes left, which is less than server.journal_max_bytes"
        return CheckResult("warning", _JOURNAL, text, "make room, or lower server.journal_max_bytes")
    return CheckResult("ok", _JOURNAL, f"{folder} can be written")


async def try_port(
    subject: str,
    host: str,
    port: int,
    *,
    ask: Callable[[], Awaitable[tuple[int, Any] | None]],
    is_ours: Callable[[int, Any], bool],
) -> CheckResult:
    """
    Args:
        ask: For what answers there: status and document, or None where nothing does.
        is_ours: Whether that is a service of this configuration, as far as it can be told without its token.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Nobody can connect: it does not listen.
            listener.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            answer = await ask()
            if answer is None:
                text = f"{port} is taken, and nothing answers there"
                remedy = "see whether a service is just starting, or systemd holds the socket of one that does not run"
                return CheckResult("warning", subject, text, remedy)
            if is_ours(*answer):
                return CheckResult("ok", subject, f"{port} is taken by media-callbacks, which runs already")
            text = f"{port} is taken by something else than a service of this configuration"
            return CheckResult("error", subject, text, "stop what has it, or choose another port")
        text = f"cannot listen on {host} port {port}: {error.strerror or type(error).__name__}"
        # The service may have rights that whoever checks has not.
        severity: Severity = "warning" if isinstance(error, PermissionError) else "error"
        return CheckResult(severity, subject, text, "correct host and port, or give the service's user the right")
    return CheckResult("ok", subject, f"{port} is free")
