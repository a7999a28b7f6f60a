"""The driver, and what its errors mean. They stop here: whoever asks the inbox sees ours."""

import os
import ssl

from media_callbacks.model.errors import InboxUnavailable

try:
    import asyncpg as asyncpg  # noqa: PLC0414 - for whoever connects
except ImportError:  # the extra is not installed; opening says so
    asyncpg = None


def errors() -> tuple[type[Exception], ...]:
    return (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def _sqlstate(error: Exception) -> str:
    return getattr(error, "sqlstate", None) or ""


def is_away(error: Exception) -> bool:
    """Whether nothing else would work on this server just now."""
    if isinstance(error, asyncpg.PostgresError):
        # Connection, no more connections, shutting down or starting, read-only, who we are
        return _sqlstate(error)[:2] in ("08", "28", "3D") or _sqlstate(error) in (
            "53300",
            "57P01",
            "57P02",
            "57P03",
            "25006",
        )
    return not is_about_data(error)


def is_about_data(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return _sqlstate(error)[:2] in ("21", "22", "23")
    return isinstance(error, ValueError)  # asyncpg's DataError: a parameter of the wrong kind


def may_be_about_one(error: Exception) -> bool:
    """Whether something takes too long or is too large, which may be one receipt of many."""
    # Deadlocks, time-outs of locks and statements, out of memory, limits of the server
    return _sqlstate(error) in ("40P01", "55P03", "57014", "53200") or _sqlstate(error)[:2] == "54"


def is_deadlock(error: Exception) -> bool:
    return isinstance(error, asyncpg.DeadlockDetectedError)


def is_lost_lock(error: Exception) -> bool:
    """Whether others had a lock for longer than it was waited for."""
    return isinstance(error, (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError))


def is_without_tables(error: BaseException | None) -> bool:
    """Whether the database, or its schema, is none of ours."""
    return isinstance(error, (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError))


def is_lost_race(error: Exception) -> bool:
    return isinstance(error, (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError))


def unavailable(error: Exception) -> InboxUnavailable:
    return InboxUnavailable(f"the database can't be used just now: {describe(error)}")


def describe(error: Exception) -> str:
    """For the operator, without values: details of the server and of the driver may have parts of a body."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0]) if error.args else type(error).__name__
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        # Event loops put their own words in place of the system's.
        said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        return said or str(error) or type(error).__name__
    return "the connection was lost" if isinstance(error, asyncpg.InterfaceError) else type(error).__name__


def config_problem(error: Exception) -> str | None:
    """What to do about an error that waiting doesn't mend, or None."""
    state = _sqlstate(error)
    if state in ("28P01", "28000"):
        return f"the server refuses the user: {describe(error)}; correct user and password, or the server's pg_hba.conf"
    if state == "3D000":
        return f"{describe(error)}; create it, or correct the name"
    if state == "42501":
        remedy = (
            "grant CREATE on the schema for migrations, or let its owner run `media-callbacks migrate`"
            if "for schema" in describe(error)
            else "make it the owner of all that is in the database, or, as the owner, grant it SELECT, INSERT, UPDATE,"
            " DELETE on tables and USAGE on sequences"
        )
        return f"the user lacks rights: {describe(error)}; {remedy}"
    if state == "08P01" and "startup parameter" in describe(error):
        return (
            f"a pooler is in between that does not take the settings of our connections ({describe(error)}); name the"
            " server itself"
        )
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "no server of those named is what target_session_attrs asks for"
    if isinstance(error, ssl.SSLError):
        return f"no encrypted connection can be made: {error.reason or 'unknown'}; correct sslmode or sslrootcert"
    return None
