"""Which inbox a ``store.url`` means."""

from collections.abc import Callable, Sequence
from pathlib import Path

from media_callbacks.inbox.roles import Inbox
from media_callbacks.inbox.sqlite.file import migrate_file
from media_callbacks.inbox.sqlite.inbox import SqliteInbox
from media_callbacks.model.check_results import CheckResult

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
        return SqliteInbox(_path(url), is_exclusive=is_exclusive, auto_migrate=auto_migrate)
    # Only now: who stays with SQLite need not have the driver, nor wait for it to be loaded.
    from media_callbacks.inbox.postgresql.inbox import PostgresqlInbox  # noqa: PLC0415

    return PostgresqlInbox(url, auto_migrate=auto_migrate, pool_size=pool_size, must_connect=must_connect)


async def migrate_store(url: str, tell: Callable[[str], None] = lambda _: None) -> Sequence[str]:
    """
    Apply the migrations that are missing; safe beside running services.

    Args:
        tell: What is going on, where it may take a while.

    Returns:
        The names of those that were applied, in order.

    Raises:
        Unusable: The database can't be used as configured.
        InboxUnavailable: The server can't be reached.
    """
    if url.startswith(_SQLITE):
        return migrate_file(_path(url))
    from media_callbacks.inbox.postgresql.schema import migrate  # noqa: PLC0415

    return await migrate(url, tell)


async def try_needs(url: str) -> Sequence[CheckResult]:
    """What a server lacks that we need, tried without leaving anything behind; a file lacks nothing."""
    if url.startswith(_SQLITE):
        return []
    from media_callbacks.inbox.postgresql.needs import try_needs as try_needs_of  # noqa: PLC0415

    return await try_needs_of(url)


def _path(url: str) -> Path:
    return Path(url.removeprefix(_SQLITE))
