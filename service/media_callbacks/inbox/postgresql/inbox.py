"""
The inbox on PostgreSQL, for several services on one database.

A task takes everything that has gathered since its last commit and hands it to one function of the database: one round
trip, one transaction, one flush. While that is on its way, the next batch gathers. What follows:

- an awaited ``put`` returns after the commit that its receipt was part of;
- receipts of one service never overtake each other; those of several are put in order by locks on their keys, which
  the function holds from before it looks until it has committed;
- none of these locks depends on us to be released: a service that stops in the middle holds nobody up.

Receipts with events that are held, or with messages that name no job, take several round trips, a few of them in a
transaction. So do registrations, findings of what the vendor was asked, reparsing and purging. A service that stops in
the middle of such a one holds others up until the server gives up on it, which is before they give up on the locks.

Between services news travel by ``NOTIFY``, outside of those transactions: a transaction that notifies would make all
others that do wait for its flush. News may be lost with a connection; the dispatchers look by themselves, too.

An error of the server fails the whole batch, as it would fail each alone. An error of the data is looked for by halving
the batch, and what takes too long by keeping each receipt alone, so that one cannot fail its neighbours. When a
commit's answer is lost with the connection, ``put`` fails although the receipt may be stored; the sender repeats it,
and deduplication makes that right.

While the server is away, everything fails at once with InboxUnavailable, and a task tries until it is back.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar, cast

import structlog

from media_callbacks.extras import install_command
from media_callbacks.inbox.database import Candidate, Database, Fate, Row, Value
from media_callbacks.inbox.operations import Operations, Run, needs_care, news_of
from media_callbacks.inbox.pending import MAX_BYTES, MAX_RECEIPTS, Answered, Pending, PendingQueue
from media_callbacks.inbox.receiving import accepting
from media_callbacks.inbox.records import AttemptResult, StoreSpace
from media_callbacks.inbox.rows import Arrival, delivery_of, to_column, to_milliseconds
from media_callbacks.inbox.upkeep.migrations import Migration, load_migrations, missing_migrations
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from media_callbacks.model.events import Delivery, Event
from media_callbacks.model.receipts import Receipt, Verdict

try:
    import asyncpg
except ImportError:  # the extra is not installed; opening says so
    asyncpg = None

_MIN_VERSION = 13
_CONNECT_TIMEOUT_S = 5.0
# How long a start is held up by a server that does not answer, where it may start without.
_FIRST_CONNECT_S = 0.7
# The server gives up first, so that an answer of ours says what happened.
_STATEMENT_TIMEOUT_S = 30.0
_PUT_TIMEOUT_S = 5.0
_LOCK_TIMEOUT_S = 4.0
_COMMAND_MARGIN_S = 2.0
# Less than others wait for a lock: a service that is frozen in the middle of a transaction holds nobody up for longer.
_IDLE_IN_TRANSACTION_S = 3.0
_CLOSE_TIMEOUT_S = 5.0
# Two of a service's connections accept receipts and one hears news.
_WRITERS = 2
_LISTENERS = 1
MIN_POOL_SIZE = 5
# One transaction: enough to share a flush well, little enough to be done soon.
_MAX_BATCH_RECEIPTS = 256
# Of those that take several round trips each
_MAX_CAREFUL_RECEIPTS = 4
_MAX_CAREFUL_EVENTS = 64
_MAX_BATCH_EVENTS = 512
_MAX_BATCH_BYTES = 16 * 2**20
# No event is much larger, and so few of them need not be measured before they are claimed.
_LARGE_EVENT_BYTES = 4 * 2**20
_MAX_BACKOFF_S = 1.0
_PROBE_INTERVAL_S = 30.0
_MAX_ATTEMPTS = 3
# A notification has room for 8000 bytes.
_MAX_NEWS_CHARACTERS = 7000
_MIGRATION_LOCK = (7105, -1)
# How many locks stand for all keys. Enough that two small batches seldom meet; few enough for the server's table of
# locks, which has room for some thousands, however large batches and however many services there are.
_LOCKS = 1024
_FIRST_REVISION = '"revision":1,'
_TABLES = (
    "receipts",
    "events",
    "event_bodies",
    "event_receipts",
    "bindings",
    "deliveries",
    "attempts",
    "sinks",
    "replays",
    "heartbeat",
    "migrations",
    "jobs",
    "held",
    "nameless_keys",
    "nameless_events",
    "clock",
)
_SEQUENCES = ("receipts_id_seq", "events_id_seq", "replays_id_seq", "jobs_id_seq", "held_id_seq")
_T = TypeVar("_T")

log = structlog.get_logger()


class PostgresqlInbox(Operations):
    """
    Args:
        url: ``postgresql://user:password@host:port/database?…``; what is left out is found as libpq finds it.
        auto_migrate: Apply missing migrations when opening; otherwise opening fails when there are any.
        must_connect: Whether opening fails when the server can't be reached. Otherwise it goes on in the background,
            and everything raises InboxUnavailable until it has worked.
        pool_size: How many connections there may be at most.
        clock: The time in seconds since 1970, in place of the server's: for tests.
        max_pending: How many receipts may wait for the commit; beyond, ``put`` fails at once.
        max_pending_bytes: The same for what they take in memory, with their events.
    """

    def __init__(
        self,
        url: str,
        *,
        auto_migrate: bool = True,
        must_connect: bool = True,
        pool_size: int = 8,
        clock: Callable[[], float] | None = None,
        max_pending: int = MAX_RECEIPTS,
        max_pending_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self._url = url
        self._auto_migrate = auto_migrate
        self._must_connect = must_connect
        self._clock = clock
        self._pool_size = max(pool_size, MIN_POOL_SIZE)
        self._pending: PendingQueue[Arrival] = PendingQueue(
            "the database", max_receipts=max_pending, max_bytes=max_pending_bytes
        )
        # Of a batch that can't be kept as a whole; before the queue.
        self._parts: deque[list[Pending[Arrival]]] = deque()
        self._arrived = asyncio.Event()
        self._news: set[str] = set()
        self._has_news = asyncio.Event()
        self._channel = ""
        # Why nothing can be done just now; None when something can.
        self._problem: str | None = "the store is not open"
        # Why the server, though it is there, can't be used as configured; None when that is not known.
        self._misfit: ConfigError | None = None
        self._migrations: Sequence[Migration] = ()
        self._is_closing = False
        self._pool: Any = None
        self._writers: Any = None
        self._listing = asyncio.Semaphore(max(1, self._pool_size - _WRITERS - _LISTENERS - 1))
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    # Life

    async def open(self) -> None:
        """
        Raises:
            ConfigError: The database can't be used as configured.
            InboxUnavailable: The server can't be reached, and must be.
        """
        if self._must_connect:
            await self._open()
            return
        first = asyncio.create_task(self._open())
        try:
            # What takes longer, such as a migration, is not broken off.
            await asyncio.wait([first], timeout=_FIRST_CONNECT_S)
            if first.done():
                await first
                return
            self._problem = "the database can't be used just now: no answer yet"
        except InboxUnavailable as error:
            self._problem = str(error)
        except asyncio.CancelledError:
            first.cancel()
            raise
        log.warning("store_away", error=self._problem)
        self._opening = asyncio.create_task(self._open_later(first))

    async def _open(self) -> None:
        self._migrations = load_migrations("postgresql")
        schema = await _prepare(self._url, apply=self._auto_migrate)
        self._channel = f"media_callbacks:{schema}"[:63]
        self._writers = await self._create_pool(_WRITERS, _PUT_TIMEOUT_S)
        self._pool = await self._create_pool(self._pool_size - _WRITERS - _LISTENERS, _STATEMENT_TIMEOUT_S)
        self._writer = asyncio.create_task(self._work())
        self._tasks = [asyncio.create_task(self._exchange_news())]
        self._problem = self._misfit = None

    async def _open_later(self, attempt: "asyncio.Task[None]") -> None:
        async for _ in _backoff():
            try:
                await attempt
            except InboxUnavailable as error:
                self._problem, self._misfit = str(error), None
            except ConfigError as error:
                # It may be mended meanwhile, such as by a migration that is run by hand.
                if self._problem != str(error):
                    log.error("store_unusable", error=str(error))
                self._problem = str(error)
                self._misfit = None if isinstance(error, _WrongServer) else error
            else:
                log.info("store_back")
                return
            attempt = asyncio.create_task(self._open())

    async def _create_pool(self, size: int, statement_timeout_s: float) -> Any:
        return await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=size,
            connection_class=_connection_class(),
            **_connect_arguments(statement_timeout_s),
        )

    async def close(self) -> None:
        self._is_closing = True
        if self._opening is not None:
            await _cancel(self._opening)
        if self._writer is not None:
            self._arrived.set()
            if self._problem is None:
                await asyncio.wait([self._writer], timeout=_CLOSE_TIMEOUT_S)
            await _cancel(self._writer)
            self._writer = None
        self._fail_waiting("the store is not open")
        for task in self._tasks:
            await _cancel(task)
        for pool in (self._pool, self._writers):
            if pool is not None:
                try:
                    async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                        await pool.close()
                except TimeoutError:
                    pool.terminate()
        self._pool = self._writers = None
        self._is_closing = False

    # Operations

    async def put(self, receipt: Receipt) -> Verdict:
        self._raise_if_unusable()
        arrival = Arrival(receipt, to_milliseconds(receipt.received_at))
        future = self._pending.add(arrival, arrival.size_bytes)
        self._arrived.set()
        return cast(Verdict, await future)

    async def measure(self) -> StoreSpace:
        size_bytes = await self._read(_measure, may_take_long=False)
        return StoreSpace(size_bytes, free_bytes=None)

    async def check(self) -> None:
        """
        Raises:
            ConfigError: The server is there, and can't be used as configured.
        """
        if self._misfit is not None:
            raise self._misfit
        self._raise_if_unusable()
        if self._writer is None or self._writer.done():
            raise InboxUnavailable("the store's writer has stopped; restart the service")
        self._pending.raise_if_full()
        try:
            applied = await self._run(_beat, self._writers, in_transaction=False)
        except InboxUnavailable as error:
            if isinstance(error.__cause__, (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)):
                applied = set()
            else:
                raise
        # The server may have come back with another database, or an older state of it.
        missing_migrations(self._migrations, applied, apply=False)

    def _raise_if_unusable(self) -> None:
        if self._problem is not None:
            raise InboxUnavailable(self._problem)

    async def _write(self, run: Run[_T], *, is_one_statement: bool = False, may_take_long: bool = False) -> _T:
        async with self._listing if may_take_long else contextlib.nullcontext():
            return await self._run(run, self._pool, in_transaction=not is_one_statement)

    async def _read(self, run: Run[_T], *, may_take_long: bool = True) -> _T:
        if not may_take_long:
            return await self._run(run, self._pool, in_transaction=False)
        # Never on all connections at once, so that deliveries go on.
        async with self._listing:
            return await self._run(run, self._pool, in_transaction=False)

    async def _run(self, run: Run[_T], pool: Any, *, in_transaction: bool) -> _T:
        """Call with a connection. What lost against somebody else's transaction is done again."""
        self._raise_if_unusable()
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                async with (
                    _lend(pool) as connection,
                    connection.transaction() if in_transaction else contextlib.nullcontext(),
                ):
                    return await run(PostgresqlDatabase(connection, self._clock))
            except _errors() as error:
                if attempt == _MAX_ATTEMPTS or not _is_lost_race(error):
                    raise _unavailable(error) from error
        raise AssertionError

    # The writer

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._next_batch():
                try:
                    await self._commit(batch)
                except InboxUnavailable as error:
                    self._answer([(one, error) for one in batch])
                    if self._problem is not None:
                        await self._wait_until_back()
                except asyncio.CancelledError:
                    self._answer([(one, InboxUnavailable("the store was closed")) for one in batch])
                    raise
            if self._is_closing:
                return

    def _next_batch(self) -> list[Pending[Arrival]]:
        if self._parts:
            return self._parts.popleft()
        count = events = size = 0
        is_careful = False
        for one in self._pending:
            receipt = one.item.receipt
            if count and needs_care(receipt) is not is_careful:
                break
            is_careful = needs_care(receipt)
            events += len(receipt.entries)
            size += one.item.size_bytes
            most = _MAX_CAREFUL_EVENTS if is_careful else _MAX_BATCH_EVENTS
            if count and (events > most or size > _MAX_BATCH_BYTES):
                break
            count += 1
            if count == (_MAX_CAREFUL_RECEIPTS if is_careful else _MAX_BATCH_RECEIPTS):
                break
        return self._pending.take(count)

    async def _commit(self, batch: list[Pending[Arrival]]) -> None:
        """
        Keep receipts together, and say so. Where they can't be kept together they are left as parts of the batch, to be
        kept next.

        Raises:
            InboxUnavailable: None of them can be kept; where the server is away, ``_problem`` says so.
        """
        arrivals = [one.item for one in batch]
        try:
            async with _lend(self._writers) as connection:
                try:
                    verdicts = await _put(PostgresqlDatabase(connection, self._clock), arrivals)
                except asyncpg.DeadlockDetectedError:
                    verdicts = await _put(PostgresqlDatabase(connection, self._clock), arrivals)
        except _errors() as error:
            failure = _unavailable(error)
            failure.__cause__ = error
            if _is_away(error):
                self._problem = str(failure)
                raise failure from error
            # Whoever takes too long would do so in each half again.
            part = len(batch) // 2 if _is_about_data(error) else 1 if _may_be_about_one(error) else len(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live and say so
            failure = InboxUnavailable(f"the store can't take this receipt: {type(error).__name__}")
            failure.__cause__ = error
            part = len(batch) // 2
        else:
            self._answer(list(zip(batch, verdicts, strict=True)))
            return
        if part in (0, len(batch)):
            log.error("store_failed", error=str(failure), receipts=len(batch))
            raise failure
        self._parts.extendleft([batch[start : start + part] for start in reversed(range(0, len(batch), part))])

    def _answer(self, done: Sequence[Answered[Arrival]]) -> None:
        self._pending.answer(done)
        self._tell(news_of(done))

    async def _wait_until_back(self) -> None:
        log.warning("store_away", error=self._problem)
        async for _ in _backoff():
            self._fail_waiting(str(self._problem))
            try:
                async with _lend(self._writers) as connection:
                    if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "off":
                        break
                    self._problem = "the server is a read-only replica"
                    # The next connection may find another server behind the name.
                    connection.terminate()
            except _errors() as error:
                self._problem = str(_unavailable(error))
        self._problem = None
        log.info("store_back")

    def _fail_waiting(self, problem: str) -> None:
        """From now on nothing can be done, for what waits neither."""
        self._problem = problem
        waiting = [one for part in self._parts for one in part] + self._pending.take()
        self._parts.clear()
        self._answer([(one, InboxUnavailable(problem)) for one in waiting])

    # News

    def _tell(self, sinks: Collection[str]) -> None:
        """That there is something new to claim: to our own dispatcher, and to those of other services."""
        if sinks:
            self._tell_own(sinks)
            self._news.update(sinks)
            self._has_news.set()

    def _tell_own(self, names: Collection[str]) -> None:
        super()._tell(names)

    async def _exchange_news(self) -> None:
        async for _ in _backoff():
            try:
                connection = await asyncpg.connect(self._url, **_connect_arguments(_PUT_TIMEOUT_S))
            except _errors():
                continue
            try:
                await self._exchange_news_on(connection)
            except _errors() as error:
                log.warning("store_news_lost", error=str(_unavailable(error)))
            finally:
                connection.terminate()

    async def _exchange_news_on(self, connection: Any) -> None:
        own_id = connection.get_server_pid()

        def hear(_: object, process_id: int, __: str, payload: str) -> None:
            if process_id != own_id:
                self._tell_own(frozenset(payload.split(",")))

        await connection.add_listener(self._channel, hear)
        connection.add_termination_listener(lambda _: self._has_news.set())
        while not connection.is_closed():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_INTERVAL_S):
                    await self._has_news.wait()
            self._has_news.clear()
            news, self._news = self._news, set()
            for payload in _payloads(news):
                await connection.execute("SELECT pg_notify($1, $2)", self._channel, payload)
            if not news:
                await connection.execute("SELECT 1")


def _payloads(names: Collection[str]) -> list[str]:
    """Names by commas, each text short enough for a notification."""
    payloads: list[str] = []
    for name in sorted(names):
        if payloads and len(payloads[-1]) + len(name) < _MAX_NEWS_CHARACTERS:
            payloads[-1] += f",{name}"
        else:
            payloads.append(name)
    return payloads


async def _backoff() -> AsyncIterator[None]:
    """Attempts for ever: the first at once, each later one after a longer time."""
    delay_s = 0.02
    while True:
        yield
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _MAX_BACKOFF_S)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task], timeout=_CLOSE_TIMEOUT_S)


# Connections


@contextlib.asynccontextmanager
async def _lend(pool: Any) -> AsyncIterator[Any]:
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


class _WrongServer(ConfigError):
    """It takes no writes. After a fail-over another one may be behind the name."""


async def migrate(url: str, *, apply: bool = True) -> Sequence[str]:
    """
    Bring the schema up to date; safe when several services try at once.

    Returns:
        The names of the migrations that were applied.

    Raises:
        ConfigError: The database can't be used as configured, or some are missing and ``apply`` is false.
        InboxUnavailable: The server can't be reached.
    """
    async with _connected(url) as connection:
        return await _migrate(connection, apply=apply)


async def _prepare(url: str, *, apply: bool) -> str:
    """See that the database can be used, and return the name of the schema."""
    async with _connected(url) as connection:
        await _migrate(connection, apply=apply)
        refused = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace ="
            " (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND CASE"
            " WHEN relkind = 'r' AND relname = ANY ($1) THEN NOT (has_table_privilege(oid, 'SELECT') AND"
            " has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE') AND"
            " has_table_privilege(oid, 'DELETE'))"
            " WHEN relkind = 'S' AND relname = ANY ($2) THEN NOT has_sequence_privilege(oid, 'USAGE')"
            " ELSE false END ORDER BY relname",
            _TABLES,
            _SEQUENCES,
        )
        if refused:
            names = ", ".join(name for (name,) in refused)
            raise ConfigError(
                [
                    "store.url: the user lacks rights on what is in the database; as its owner, grant SELECT, INSERT,"  # noqa: ISC004 - one sentence
                    f" UPDATE, DELETE on tables and USAGE on sequences: {names}"
                ]
            )
        return cast(str, await connection.fetchval("SELECT current_schema()"))


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
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
    except _errors() as error:
        if problem := _config_problem(error):
            is_wrong = isinstance(error, asyncpg.TargetServerAttributeNotMatched)
            raise (_WrongServer if is_wrong else ConfigError)([f"store.url: {problem}"]) from error
        raise _unavailable(error) from error
    try:
        await _check_server(connection)
        yield connection
    except _errors() as error:
        if problem := _config_problem(error):
            raise ConfigError([f"store.url: {problem}"]) from error
        raise _unavailable(error) from error
    finally:
        connection.terminate()


async def _check_server(connection: Any) -> None:
    version = connection.get_server_version()
    encoding, is_replica, is_read_only, schema = await connection.fetchrow(
        "SELECT current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only')"
        " = 'on', current_schema()"
    )
    problem = None
    kind: type[ConfigError] = ConfigError
    if version.major < _MIN_VERSION:
        problem = f"expected PostgreSQL {_MIN_VERSION} or later, the server is {version.major}.{version.minor}"
    elif encoding != "UTF8":
        problem = f"expected a database with the encoding UTF8, it has {encoding}; create one with ENCODING 'UTF8'"
    elif is_replica:
        kind = _WrongServer
        problem = (
            "the server is a read-only replica; name the primary, or name all hosts by commas and add"
            " ?target_session_attrs=read-write"
        )
    elif is_read_only:
        kind = _WrongServer
        problem = "the database is read-only; set default_transaction_read_only to off for the database or the user"
    elif schema is None:
        problem = "the search path has no schema that the user may use; create one, or grant USAGE on it"
    if problem is not None:
        raise kind([f"store.url: {problem}"])


async def _migrate(connection: Any, *, apply: bool) -> Sequence[str]:
    known = load_migrations("postgresql")
    if not missing_migrations(known, await _applied(connection), apply=apply):
        return []
    await connection.execute("SELECT pg_advisory_lock($1, $2)", *_MIGRATION_LOCK)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY, name text NOT NULL)"
        )
        # Another service may have been faster.
        missing = missing_migrations(known, await _applied(connection))
        for migration in missing:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO migrations (number, name) VALUES ($1, $2)", migration.number, migration.name
                )
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", *_MIGRATION_LOCK)
    return [str(migration) for migration in missing]


async def _applied(connection: Any) -> set[int]:
    if await connection.fetchval("SELECT to_regclass('migrations')") is None:
        return set()
    return {number for (number,) in await connection.fetch("SELECT number FROM migrations")}


# Errors of the driver, which stop here


def _errors() -> tuple[type[Exception], ...]:
    return (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def _sqlstate(error: Exception) -> str:
    return getattr(error, "sqlstate", None) or ""


def _is_away(error: Exception) -> bool:
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
    return not _is_about_data(error)


def _is_about_data(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return _sqlstate(error)[:2] in ("21", "22", "23")
    return isinstance(error, ValueError)  # asyncpg's DataError: a parameter of the wrong kind


def _may_be_about_one(error: Exception) -> bool:
    """Whether something takes too long or is too large, which may be one receipt of many."""
    # Deadlocks, time-outs of locks and statements, out of memory, limits of the server
    return _sqlstate(error) in ("40P01", "55P03", "57014", "53200") or _sqlstate(error)[:2] == "54"


def _is_lost_race(error: Exception) -> bool:
    return isinstance(error, (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError))


def _unavailable(error: Exception) -> InboxUnavailable:
    return InboxUnavailable(f"the database can't be used just now: {_describe(error)}")


def _describe(error: Exception) -> str:
    """For the operator, without values: details of the server and of the driver may have parts of a body."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0]) if error.args else type(error).__name__
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return "the connection was lost" if isinstance(error, asyncpg.InterfaceError) else type(error).__name__


def _config_problem(error: Exception) -> str | None:
    """What to do about an error that waiting doesn't mend, or None."""
    state = _sqlstate(error)
    if state in ("28P01", "28000"):
        return (
            f"the server refuses the user: {_describe(error)}; correct user and password, or the server's pg_hba.conf"
        )
    if state == "3D000":
        return f"{_describe(error)}; create it, or correct the name"
    if state == "42501":
        return f"the user lacks rights: {_describe(error)}; grant CREATE on the schema for migrations, or let its owner run `media-callbacks migrate`"  # noqa: E501 - one sentence
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "no server of those named is what target_session_attrs asks for"
    if isinstance(error, ssl.SSLError):
        return f"no encrypted connection can be made: {error.reason or 'unknown'}; correct sslmode or sslrootcert"
    return None


# What this database does for the shared queries


class PostgresqlDatabase(Database):
    """
    Texts are made such that PostgreSQL can keep them; see ``_to_text``.

    Args:
        clock: The time in seconds since 1970, in place of the server's.
    """

    def __init__(self, connection: Any, clock: Callable[[], float] | None = None) -> None:
        self.connection = connection
        self._clock = clock

    @property
    def told_now(self) -> int | None:
        """The time to tell the database's functions; None for the server's."""
        return None if self._clock is None else int(self._clock() * 1000 + 0.0005)

    async def now(self) -> int:
        told = self.told_now
        return cast(int, await self.fetch_value("SELECT store_now_1()")) if told is None else told

    async def fetch(self, sql: str, *parameters: Value) -> Sequence[Row]:
        return cast(Sequence[Row], await self.connection.fetch(sql, *map(_storable, parameters)))

    async def fetch_for(self, sql: str, values: Sequence[Value], *parameters: Value) -> Sequence[Row]:
        if not values:
            return []
        asked = sql.format(values="{values}").replace("IN ({values})", f"= ANY (${len(parameters) + 1})")
        array = [*map(_storable, values)]
        return cast(Sequence[Row], await self.connection.fetch(asked, *map(_storable, parameters), array))

    async def execute(self, sql: str, *parameters: Value) -> int:
        status: str = await self.connection.execute(sql, *map(_storable, parameters))
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        if rows:
            await self.connection.executemany(sql, [[*map(_storable, row)] for row in rows])

    def using(self, index: str) -> str:
        return ""

    def by_key(self, condition: str) -> str:
        return condition

    def for_update(self, alias: str, *, skip_locked: bool = False) -> str:
        return f" FOR UPDATE OF {alias}{' SKIP LOCKED' if skip_locked else ''}"

    async def lock(self, *, assets: Collection[bytes] = (), keys: Collection[bytes] = ()) -> None:
        for numbers in ({_LOCKS + _lock(asset) for asset in assets}, {_lock(key) for key in keys}):
            if numbers:
                await self.connection.execute("SELECT lock_keys_1($1)", sorted(numbers))

    async def accept_events(self, candidates: Sequence[Candidate]) -> list[Fate]:
        row = await self.connection.fetchrow(
            "SELECT * FROM accept_events_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            self.told_now,
            [],
            [candidate.receipt_id for candidate in candidates],
            *_event_arrays(candidates),
        )
        fates = [Fate(bound=bound) for bound in row["bound"] or [None] * len(candidates)]
        for n, event in _accepted(candidates, row):
            fates[n] = Fate(event)
        for n, body in _known(row):
            fates[n] = Fate(known=body)
        return fates

    async def claim_deliveries(
        self, sink: str, *, limit: int, max_bytes: int, lease_ms: int, lease: str
    ) -> list[Delivery]:
        if limit > max_bytes // _LARGE_EVENT_BYTES:
            # Not the bodies themselves: the server knows how long they are.
            fitting = await self.connection.fetchval(
                "SELECT count(*) FROM (SELECT sum(octet_length(b.body)) OVER (ORDER BY d.due_at, d.event_id, d.replay)"
                " AS size FROM (SELECT due_at, event_id, replay FROM deliveries WHERE sink = $1 AND due_at <= $2"
                " ORDER BY due_at, event_id LIMIT $3) d JOIN event_bodies b ON b.event_id = d.event_id) AS sized"
                " WHERE size <= $4",
                sink,
                await self.now(),
                limit,
                max_bytes,
            )
            limit = max(fitting, 1)
        rows = await self.connection.fetch(
            "SELECT * FROM claim_deliveries_2($1, $2, $3, $4, $5)", sink, self.told_now, lease_ms, lease, limit
        )
        return [delivery_of(row, sink, lease) for row in rows]

    async def record_attempts(self, results: Sequence[AttemptResult]) -> tuple[list[bool], set[str]]:
        deliveries = [result.delivery for result in results]
        row = await self.connection.fetchrow(
            "SELECT * FROM record_attempts_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            self.told_now,
            [delivery.row_id for delivery in deliveries],
            [delivery.sink for delivery in deliveries],
            [delivery.replay for delivery in deliveries],
            [delivery.lease for delivery in deliveries],
            [result.state for result in results],
            [round(result.delay_s * 1000) for result in results],
            [_to_text(result.error) for result in results],
            [None if result.started_at is None else to_milliseconds(result.started_at) for result in results],
            [round(result.duration_s * 1000) for result in results],
            [delivery.attempt for delivery in deliveries],
        )
        kept = set(row["kept"] or ())
        return [n in kept for n in range(1, len(results) + 1)], set(row["released"] or ())


def _lock(digest: bytes) -> int:
    """Which lock stands for a key or an asset."""
    return int.from_bytes(digest[-2:]) % _LOCKS


def _storable(value: Value) -> Value:
    return _to_text(value) if isinstance(value, str) else value


def _to_text(value: str | None) -> str | None:
    """
    What PostgreSQL can keep of a text: NUL and lone halves of surrogate pairs become U+FFFD.

    Events keep the original, because JSON escapes it, and identity is in the digest. So this is only about what lists
    show and are asked for: filters pass through here as well.
    """
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _event_arrays(candidates: Sequence[Candidate]) -> tuple[list[Any], ...]:
    """The parameters of ``accept_events_2`` from ``e_digest`` to ``e_sinks``."""
    data = [candidate.event.data for candidate in candidates]
    return (
        [candidate.digest for candidate in candidates],
        [candidate.outcome for candidate in candidates],
        [one.product for one in data],
        [one.kind for one in data],
        [_to_text(to_column(one.job_id)) for one in data],
        [_to_text(to_column(one.media_id)) for one in data],
        [candidate.body for candidate in candidates],
        [_revision_at(candidate.body) for candidate in candidates],
        [_to_text(candidate.binding) for candidate in candidates],
        [" ".join(candidate.sinks) for candidate in candidates],
    )


def _revision_at(body: str) -> int:
    # The last one is ours: what follows it is names and times of our own.
    return body.rindex(_FIRST_REVISION) + len(_FIRST_REVISION) - 1


def _accepted(candidates: Sequence[Candidate], row: Any) -> Iterator[tuple[int, Event]]:
    """The events that are new, each with the place of its candidate."""
    for n, revision in zip(row["new_positions"] or (), row["new_revisions"] or (), strict=True):
        event = candidates[n - 1].event
        yield n - 1, event if revision == 1 else event.with_revision(revision)


def _known(row: Any) -> Iterator[tuple[int, str]]:
    """The events that were there before, each with the place of its candidate."""
    for n, body in zip(row["again_positions"] or (), row["again_bodies"] or (), strict=True):
        yield n - 1, body


async def _put(database: PostgresqlDatabase, arrivals: Sequence[Arrival]) -> Sequence[Verdict]:
    """Keep receipts, their events, and the deliveries of the events that are new; durable when it returns."""
    connection = database.connection
    if needs_care(arrivals[0].receipt):
        async with connection.transaction():
            return await accepting.put(database, arrivals)
    candidates = [
        Candidate(position, entry.event, entry.body.decode(), entry.binding, entry.sinks)
        for position, arrival in enumerate(arrivals, 1)
        for entry in arrival.receipt.entries
    ]
    receipts = [arrival.receipt for arrival in arrivals]
    row = await connection.fetchrow(
        "SELECT * FROM accept_receipts_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
        " $18, $19, $20, $21, $22, $23, $24, $25)",
        database.told_now,
        sorted({_lock(candidate.digest) for candidate in candidates}),
        [arrival.at for arrival in arrivals],
        [receipt.source for receipt in receipts],
        [receipt.product for receipt in receipts],
        [receipt.transport for receipt in receipts],
        [receipt.verified_by for receipt in receipts],
        [_to_text(receipt.reason) for receipt in receipts],
        [accepting.dump(receipt.warnings) for receipt in receipts],
        [accepting.dump(dict(receipt.meta)) for receipt in receipts],
        [receipt.parser_version for receipt in receipts],
        [" ".join([entry.event.id for entry in receipt.entries]) or None for receipt in receipts],
        [receipt.body for receipt in receipts],
        [candidate.receipt_id for candidate in candidates],
        *_event_arrays(candidates),
        [candidate.event.data.transport for candidate in candidates],
    )
    accepted: dict[int, list[Event]] = {}
    for n, event in _accepted(candidates, row):
        accepted.setdefault(candidates[n].receipt_id, []).append(event)
    verdicts = [Verdict(state, tuple(accepted.get(position, ()))) for position, state in enumerate(row["states"], 1)]
    if row["again_positions"]:
        await _compare(database, arrivals, candidates, row, verdicts)
    return verdicts


async def _compare(
    database: PostgresqlDatabase,
    arrivals: Sequence[Arrival],
    candidates: Sequence[Candidate],
    row: Any,
    verdicts: Sequence[Verdict],
) -> None:
    """
    Find what says otherwise of what was accepted before. It is stored as a duplicate by now; but nobody was answered
    yet, so that who sent it sends it again, should we not get to the end of this.
    """
    repeated: dict[int, list[tuple[Candidate, str]]] = {}
    for n, body in _known(row):
        repeated.setdefault(candidates[n].receipt_id, []).append((candidates[n], body))
    for position, pairs in repeated.items():
        receipt, verdict = arrivals[position - 1].receipt, verdicts[position - 1]
        differs = await accepting.differences(database, pairs, receipt.body)
        if not differs:
            continue
        verdict.differs = differs
        refusal = None
        if verdict.state == "conflict":
            refusal = await database.fetch_value(
                "SELECT reason FROM receipts WHERE id = $1", row["receipt_ids"][position - 1]
            )
        verdict.state = accepting.state(receipt, has_events=bool(verdict.accepted), conflict=refusal, differs=differs)
        await database.execute(
            "UPDATE receipts SET state = $1, reason = $2 WHERE id = $3",
            verdict.state,
            accepting.reason(receipt, conflict=refusal, differs=differs),
            row["receipt_ids"][position - 1],
        )


async def _measure(database: Database) -> int:
    ((size_bytes,),) = await database.fetch("SELECT pg_database_size(current_database())")
    return int(size_bytes)


async def _beat(database: Database) -> set[int]:
    """Make something durable. Returns the numbers of the migrations that were applied."""
    rows = await database.fetch("WITH beat AS (UPDATE heartbeat SET beats = beats + 1) SELECT number FROM migrations")
    return {number for (number,) in rows}
