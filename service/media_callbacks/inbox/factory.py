"""Which inbox a ``store.url`` means."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from media_callbacks.inbox.roles import Inbox
from media_callbacks.inbox.sqlite import inbox as sqlite
from media_callbacks.model.errors import ConfigError

_SQLITE = "sqlite:///"


def build_inbox(
    url: str,
    *,
    auto_migrate: bool = True,
    pool_size: int = 8,
    is_exclusive: bool = True,
    must_connect: bool = True,
) -> Inbox:
    """
    Args:
        url: As checked with the configuration.
        is_exclusive: For the service itself; a tool that only helps for a moment says no. PostgreSQL takes any number.
        must_connect: Whether opening fails while a server can't be reached; see PostgresqlInbox.
    """
    if url.startswith(_SQLITE):
        return sqlite.SqliteInbox(_path(url), is_exclusive=is_exclusive, auto_migrate=auto_migrate)
    # Only now: who stays with SQLite need not have the driver, nor wait for it to be loaded.
    from media_callbacks.inbox.postgresql.inbox import PostgresqlInbox  # noqa: PLC0415

    return PostgresqlInbox(url, auto_migrate=auto_migrate, pool_size=pool_size, must_connect=must_connect)


async def migrate_store(url: str) -> Sequence[str]:
    """
    Apply the migrations that are missing; safe beside running services.

    Returns:
        The names of those that were applied, in order.

    Raises:
        ConfigError: The database can't be used as configured.
        InboxUnavailable: The server can't be reached.
    """
    if url.startswith(_SQLITE):
        return _migrate_file(_path(url))
    from media_callbacks.inbox.postgresql.inbox import migrate  # noqa: PLC0415

    return await migrate(url)


def _path(url: str) -> Path:
    return Path(url.removeprefix(_SQLITE))


def _migrate_file(path: Path) -> Sequence[str]:
    try:
        sqlite.make_for_us(path.resolve())
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
            sqlite.prepare_file(connection)
            return sqlite.migrate(connection)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError([f"store.url: cannot use {path}: {error}"]) from error
