"""
What we need of a PostgreSQL, tried for real on two connections; docs/operate/postgresql.md has the list.

Nothing is left behind: what is written is rolled back, locks are on numbers that nobody else uses, and a notification
goes to a channel that nobody else hears.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.postgresql.connecting import check_server, connect
from media_callbacks.inbox.postgresql.database import PostgresqlDatabase
from media_callbacks.inbox.postgresql.driver import asyncpg, describe, errors
from media_callbacks.inbox.postgresql.migrating import LOCK_CLASS, applied_migrations
from media_callbacks.inbox.postgresql.partitions import find_crowded
from media_callbacks.inbox.postgresql.schema import TABLES
from media_callbacks.model.check_results import CheckResult, Severity
from media_callbacks.model.errors import Unusable

_SUBJECT = "store.url"
_NOTICE_TIMEOUT_S = 2.0
_GRANT = "make the user the owner of all that is in the database, or grant it this"
_CONNECT = "name the server itself, or its primary endpoint, in place of a pooler or proxy"
# Settings that every connection is given, and what may have come of each. Of most any limit is as good as ours.
_SETTINGS: dict[str, Callable[[str], bool]] = {
    "synchronous_commit": lambda value: value in ("on", "remote_apply"),
    "default_transaction_isolation": lambda value: value == "read committed",
    "statement_timeout": lambda value: value != "0",
    "lock_timeout": lambda value: value != "0",
    "idle_in_transaction_session_timeout": lambda value: value != "0",
    "enable_seqscan": lambda value: value == "off",
}


class _Lacking(Exception):
    """
    A need that is not met.

    Args:
        remedy: What to do.
    """

    def __init__(self, text: str, remedy: str, severity: Severity = "error") -> None:
        super().__init__(text)
        self.found = CheckResult(severity, _SUBJECT, text, remedy)


async def try_needs(url: str) -> list[CheckResult]:
    """
    What is missing there, or that nothing is.

    Nothing at all where the server can't be reached, or is none for us: whoever opens the store says why.
    """
    if asyncpg is None:
        return []
    async with contextlib.AsyncExitStack() as stack:
        try:
            # Without statements that outlive a transaction, so that a pooler can be told from a server.
            one, other = [await stack.enter_async_context(_connected(url)) for _ in range(2)]
        except errors():
            return []
        try:
            if not await _have_sessions(one, other):
                text = "a pooler is in between, which gives each transaction another session of the server"
                return [CheckResult("error", _SUBJECT, text, _CONNECT)]
            await check_server(one)
        except Unusable:
            return []
        except errors() as error:
            return [CheckResult("error", _SUBJECT, f"two connections beside each other: {describe(error)}", _CONNECT)]
        found = [lacking for need in _NEEDS if (lacking := await _try(need, one, other)) is not None]
        found += [lacking.found for lacking in await _find_settings(one)]
    return found or [CheckResult("ok", _SUBJECT, "locks, notices, rights and durable commits are as they must be")]


_Need = Callable[[Any, Any], Awaitable[None]]


async def _try(need: _Need, one: Any, other: Any) -> CheckResult | None:
    try:
        await need(one, other)
    except _Lacking as lacking:
        return lacking.found
    except errors() as error:
        remedy = _GRANT if isinstance(error, asyncpg.InsufficientPrivilegeError) else _CONNECT
        return CheckResult("error", _SUBJECT, f"{need.__doc__}: {describe(error)}", remedy)
    return None


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    connection = await connect(url, statement_cache_size=0)
    try:
        yield connection
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def _rolled_back(connection: Any) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        if not connection.is_closed():
            await transaction.rollback()


async def _have_sessions(one: Any, other: Any) -> bool:
    """Whether each connection is one session of the server from transaction to transaction, and its own."""
    sessions: tuple[set[int], set[int]] = (set(), set())
    for _ in range(3):
        for connection, seen in zip((one, other), sessions, strict=True):
            async with _rolled_back(connection):
                seen.add(await connection.fetchval("SELECT pg_backend_pid()"))
    return len(sessions[0]) == len(sessions[1]) == 1 and sessions[0].isdisjoint(sessions[1])


async def _lock(one: Any, other: Any) -> None:
    """advisory locks of a transaction and of a session"""
    # Those of keys, of assets and of migrations are from -1 on.
    lock = LOCK_CLASS, -2 - secrets.randbelow(1 << 20)
    take = "SELECT pg_try_advisory_xact_lock($1, $2)"
    async with _rolled_back(one):
        await one.execute("SELECT pg_advisory_xact_lock($1, $2)", *lock)
        keeps = not await other.fetchval(take, *lock)
    keeps = keeps and await other.fetchval(take, *lock)
    await one.execute("SELECT pg_advisory_lock($1, $2)", *lock)
    keeps = keeps and not await other.fetchval(take, *lock)
    await one.execute("SELECT pg_advisory_unlock($1, $2)", *lock)
    if not keeps or not await other.fetchval(take, *lock):
        raise _Lacking("advisory locks keep nobody out there, so that events could come twice", _CONNECT)


async def _skip_locked(one: Any, other: Any) -> None:
    """FOR UPDATE SKIP LOCKED"""
    if await one.fetchval("SELECT to_regclass('heartbeat')") is None:
        return
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):  # whoever opens the store says so
        async with _rolled_back(one):
            await one.execute("SELECT 1 FROM heartbeat FOR UPDATE")
            async with _rolled_back(other):
                if await other.fetch("SELECT 1 FROM heartbeat FOR UPDATE SKIP LOCKED"):
                    raise _Lacking("a row that is locked is not skipped there: a delivery could go out twice", _CONNECT)


async def _notify(one: Any, other: Any) -> None:
    """LISTEN and NOTIFY"""
    heard = asyncio.Event()
    channel = f"media_callbacks_check_{secrets.token_hex(8)}"
    reason = "nothing came"
    try:
        await one.add_listener(channel, lambda *_: heard.set())
        await other.execute("SELECT pg_notify($1, '')", channel)
        async with asyncio.timeout(_NOTICE_TIMEOUT_S):
            await heard.wait()
    except TimeoutError:
        pass
    except errors() as error:
        reason = describe(error)
    if not heard.is_set():
        text = f"instances can't tell each other what is new ({reason}), so that it is seen some seconds later"
        raise _Lacking(f"LISTEN and NOTIFY: {text}", _CONNECT, "warning")


async def _migrate(one: Any, _: Any) -> None:
    """tables and functions in plpgsql, made and rolled back"""
    applied = await applied_migrations(one)
    if all(migration.number in applied for migration in load_migrations("postgresql")):
        async with _rolled_back(one):
            await one.execute("DO LANGUAGE plpgsql $$BEGIN PERFORM 1; END$$")
        return
    name = f"media_callbacks_check_{secrets.token_hex(8)}"
    grant = "grant CREATE on the schema to the user, or let its owner run `media-callbacks migrate`"
    try:
        async with _rolled_back(one):
            await one.execute(f"CREATE TABLE {name} (id bigint)")
            await one.execute(f"CREATE FUNCTION {name}() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM 1; END$$")
            await one.execute(f"SELECT {name}()")
    except asyncpg.InsufficientPrivilegeError as error:
        raise _Lacking(f"migrations are missing, and the user can't apply them: {describe(error)}", grant) from error
    foreign = await one.fetchval(
        "SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class"
        " WHERE relkind IN ('r', 'p') AND relname = ANY ($1) AND relnamespace ="
        " (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
        " AND NOT pg_has_role(relowner, 'USAGE')",
        TABLES,
    )
    if foreign:
        raise _Lacking(
            f"migrations are missing, and others own the tables: {foreign}",
            "let their owner run `media-callbacks migrate`",
        )


async def _follow(one: Any, _: Any) -> None:
    """the order of transactions, for the feed"""
    try:
        await one.execute("SELECT pg_snapshot_xmin(pg_current_snapshot()), system_identifier FROM pg_control_system()")
    except asyncpg.InsufficientPrivilegeError as error:
        raise _Lacking(
            f"the feed can't be read: {describe(error)}", "grant EXECUTE on FUNCTION pg_control_system() to the user"
        ) from error


async def _partition(one: Any, _: Any) -> None:
    """room for partitions"""
    # The function makes them with the rights of whoever has migrated the database.
    owner = await one.fetchval(
        "SELECT pg_get_userbyid(p.proowner) FROM pg_proc p JOIN pg_class c ON c.oid = to_regclass('receipts')"
        " WHERE p.oid = to_regproc('make_partition_1') AND NOT"
        " (has_schema_privilege(p.proowner, p.pronamespace, 'CREATE') AND pg_has_role(p.proowner, c.relowner, 'USAGE'))"
    )
    if owner is not None:
        raise _Lacking(
            f"no partitions can be made: {owner}, who has migrated, lacks CREATE on the schema or the tables",
            f"grant CREATE on the schema to {owner}, or give it the tables",
            "warning",
        )
    for table, size_bytes in (await find_crowded(PostgresqlDatabase(one))).items():
        text = (
            f"{size_bytes >> 20} MiB of {table} are in no partition, so that none are made and what is old goes by row"
        )
        raise _Lacking(text, "see Partitions in docs/operate/postgresql.md", "warning")


_NEEDS: tuple[_Need, ...] = (_lock, _skip_locked, _notify, _migrate, _follow, _partition)


async def _find_settings(one: Any) -> list[_Lacking]:
    names = [*_SETTINGS, "fsync", "full_page_writes"]
    rows = await one.fetch("SELECT name, current_setting(name) FROM unnest($1::text[]) AS name", names)
    return list(_judge_settings(dict(rows)))


def _judge_settings(settings: dict[str, str]) -> Iterator[_Lacking]:
    lost = [f"{name} is {settings[name]}" for name, is_right in _SETTINGS.items() if not is_right(settings[name])]
    if lost:
        text = f"what the service sets for its connections does not arrive: {', '.join(lost)}"
        yield _Lacking(text, f"{_CONNECT}, or set it for the user with ALTER ROLE")
    if settings["fsync"] != "on":
        text = "fsync is off: what was acknowledged is lost, and the database may be broken, when the machine fails"
        yield _Lacking(text, "set fsync = on")
    if settings["full_page_writes"] != "on":
        text = "full_page_writes is off: a page that is half written when the machine fails can't be mended"
        yield _Lacking(text, "set full_page_writes = on, unless the storage writes pages whole", "warning")
