"""Connections: with which settings, to which servers, lent from a pool."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from media_callbacks.extras import install_command
from media_callbacks.inbox.postgresql import tasks
from media_callbacks.inbox.postgresql.driver import asyncpg, config_problem, errors, unavailable
from media_callbacks.model.errors import ConfigError, Unusable

_MIN_VERSION = 13
_CONNECT_TIMEOUT_S = 5.0
# The server gives up first, so that an answer of ours says what happened.
STATEMENT_TIMEOUT_S = 30.0
PUT_TIMEOUT_S = 5.0
_LOCK_TIMEOUT_S = 4.0
_COMMAND_MARGIN_S = 2.0
# Less than others wait for a lock: a service that is frozen in the middle of a transaction holds nobody up for longer.
_IDLE_IN_TRANSACTION_S = 3.0


async def create_pool(url: str, size: int, statement_timeout_s: float) -> Any:
    """It connects when a connection is first needed."""
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size,
        connection_class=_connection_class(),
        **_connect_arguments(statement_timeout_s),
    )


async def close_pool(pool: Any) -> None:
    try:
        async with asyncio.timeout(tasks.CLOSE_TIMEOUT_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def connect(url: str, **further: Any) -> Any:
    """
    A connection beside the pools.

    Args:
        further: For the driver.
    """
    return await asyncpg.connect(url, **_connect_arguments(PUT_TIMEOUT_S), **further)


@contextlib.asynccontextmanager
async def lend(pool: Any) -> AsyncIterator[Any]:
    connection = await pool.acquire(timeout=_CONNECT_TIMEOUT_S + _COMMAND_MARGIN_S)
    try:
        yield connection
    except asyncpg.ReadOnlySQLTransactionError:
        # After a fail-over this server takes nothing any more; the name may lead to another one by now.
        connection.terminate()
        raise
    finally:
        await pool.release(connection, timeout=_CONNECT_TIMEOUT_S)


def _connection_class() -> Any:
    class Connection(asyncpg.Connection):  # type: ignore[misc]
        def get_reset_query(self) -> str:
            # Nothing that we do leaves anything behind in a session, so that no round trip is needed to undo it.
            return ""

    return Connection


def _connect_arguments(statement_timeout_s: float) -> dict[str, Any]:
    """``statement_timeout_s``: 0 for none, then there is none for locks either."""
    return {
        "timeout": _CONNECT_TIMEOUT_S,
        "command_timeout": statement_timeout_s + _COMMAND_MARGIN_S if statement_timeout_s else None,
        "server_settings": {
            "application_name": "media-callbacks",
            # What is answered with success is on disk, whatever the server's default is.
            "synchronous_commit": "on",
            "default_transaction_isolation": "read committed",
            "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
            "lock_timeout": f"{min(statement_timeout_s, _LOCK_TIMEOUT_S) * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_S * 1000:.0f}",
            "client_min_messages": "warning",
            "jit": "off",
            # A plan that was made when a table was still empty would read all of it later.
            "enable_seqscan": "off",
        },
    }


class WrongServer(Unusable):
    """It takes no writes. After a fail-over another one may be behind the name."""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """
    A connection without time-outs to a server that we can use.

    Raises:
        ConfigError: It can't be used as configured.
        InboxUnavailable: The server can't be reached.
    """
    if asyncpg is None:
        raise ConfigError([f"store.url: PostgreSQL needs a further package: {install_command('postgresql')}"])
    try:
        connection = await asyncpg.connect(url, **_connect_arguments(0))
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        # Their text may have a piece of the password.
        sentence = (
            "store.url: expected postgresql://user:password@host:port/database, came something that can't be read as"
            " that; percent-encode what is special in the password, and look at what follows the question mark"
        )
        raise ConfigError([sentence]) from error
    except errors() as error:
        if problem := config_problem(error):
            is_wrong = isinstance(error, asyncpg.TargetServerAttributeNotMatched)
            raise (WrongServer if is_wrong else Unusable)([f"store.url: {problem}"]) from error
        raise unavailable(error) from error
    try:
        await check_server(connection)
        yield connection
    except errors() as error:
        if problem := config_problem(error):
            raise Unusable([f"store.url: {problem}"]) from error
        raise unavailable(error) from error
    finally:
        connection.terminate()


async def check_server(connection: Any) -> None:
    """
    Raises:
        Unusable: The server, or the database, is none for us.
    """
    version = connection.get_server_version()
    encoding, is_replica, is_read_only, schema = await connection.fetchrow(
        "SELECT current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only')"
        " = 'on', current_schema()"
    )
    problem = None
    kind: type[Unusable] = Unusable
    if version.major < _MIN_VERSION:
        problem = f"expected PostgreSQL {_MIN_VERSION} or later, the server is {version.major}.{version.minor}"
    elif encoding != "UTF8":
        problem = f"expected a database with the encoding UTF8, it has {encoding}; create one with ENCODING 'UTF8'"
    elif is_replica:
        kind = WrongServer
        problem = (
            "the server is a read-only replica; name the primary, or name all hosts by commas and add"
            " ?target_session_attrs=read-write"
        )
    elif is_read_only:
        kind = WrongServer
        problem = "the database is read-only; set default_transaction_read_only to off for the database or the user"
    elif schema is None:
        problem = "the search path has no schema that the user may use; create one, or grant USAGE on it"
    if problem is not None:
        raise kind([f"store.url: {problem}"])
