"""What we need of a PostgreSQL: that what is wrong is found and named, and that nothing is left behind."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from media_callbacks.commands.check.machine import try_store
from media_callbacks.config.server import StoreSettings
from media_callbacks.inbox.factory import migrate_store, try_needs
from media_callbacks.inbox.keeping.migrations import load_migrations
from media_callbacks.inbox.postgresql import needs
from media_callbacks.model.check_results import CheckResult
from tests.factories.postgresql import PostgresqlServer, execute
from tests.factories.running import PATIENCE_S
from tests.factories.tools import need_tool

DURABLE = {"fsync": "on", "full_page_writes": "on"}
WELL = [CheckResult("ok", "store.url", "locks, notices, rights and durable commits are as they must be")]


@pytest.fixture
def durable_server() -> Iterator[PostgresqlServer]:
    server = PostgresqlServer(settings=DURABLE)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def texts(found: Sequence[CheckResult]) -> list[str]:
    assert all(one.subject == "store.url" and one.remedy for one in found)
    return [f"{one.severity}: {one.text}" for one in found]


async def without_settings_of_the_server(url: str) -> list[CheckResult]:
    """Of the server for all tests, which does not flush."""
    return [one for one in await try_needs(url) if "fsync" not in one.text and "full_page_writes" not in one.text]


async def test_a_server_that_has_it_all(durable_server: PostgresqlServer) -> None:
    url = durable_server.url()
    everything = (
        "SELECT relname FROM pg_class UNION ALL SELECT proname FROM pg_proc UNION ALL SELECT locktype FROM pg_locks"
        " WHERE locktype = 'advisory'"
    )
    for _ in range(2):
        before = await execute(url, everything)
        assert await try_needs(url) == WELL
        assert sorted(await execute(url, everything)) == sorted(before)
        await migrate_store(url)
    # Nor does it write: not even the row that it locks is another one.
    before = await execute(url, "SELECT ctid, beats FROM heartbeat")
    assert await try_needs(url) == WELL
    assert await execute(url, "SELECT ctid, beats FROM heartbeat") == before


async def test_a_server_that_does_not_flush(database_url: str) -> None:
    found = await try_needs(database_url)
    assert [text.partition(":")[0] + " " + text.split()[1] for text in texts(found)] == [
        "error fsync",
        "warning full_page_writes",
    ]


async def test_a_file_lacks_nothing(tmp_path: Path) -> None:
    assert await try_needs(f"sqlite:///{tmp_path}/inbox.db") == []


async def test_who_can_not_be_used_is_left_to_who_opens_the_store(database_url: str) -> None:
    name = database_url.partition("?")[0].rpartition("/")[2]
    await execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        assert await try_needs(database_url) == []
        found = await try_store(StoreSettings(url=database_url))
        assert (found.severity, found.text) == ("error", "the database is read-only")
    finally:
        await execute(
            database_url, "SET default_transaction_read_only = off",
            f"ALTER DATABASE {name} RESET default_transaction_read_only",
        )  # fmt: skip
    assert await try_needs("postgresql://nobody@127.0.0.1:1/nothing") == []


async def as_user(database_url: str, user: str) -> str:
    """Of a new user without rights."""
    await execute(database_url, f"DROP ROLE IF EXISTS {user}", f"CREATE ROLE {user} LOGIN PASSWORD 'word'")
    head, _, rest = database_url.partition("://")
    return f"{head}://{user}:word@{rest.rpartition('@')[2]}"


async def test_a_user_without_rights(database_url: str) -> None:
    user = "needs_no_rights"
    url = await as_user(database_url, user)
    try:
        await execute(
            database_url, f"GRANT USAGE ON SCHEMA public TO {user}", "REVOKE CREATE ON SCHEMA public FROM public"
        )
        assert texts(await without_settings_of_the_server(url)) == [
            "error: migrations are missing, and the user can't apply them: permission denied for schema public"
        ]
        await execute(database_url, f"GRANT CREATE ON SCHEMA public TO {user}")
        assert await without_settings_of_the_server(url) == []
        # Somebody else has begun.
        await migrate_store(database_url)
        await execute(database_url, "DELETE FROM migrations WHERE number = 4", f"GRANT SELECT ON migrations TO {user}")
        [found] = await without_settings_of_the_server(url)
        assert found.text.startswith("migrations are missing, and others own the tables: answers, attempts, ")
        assert found.remedy == "let their owner run `media-callbacks migrate`"
        # Migrated, the user need make nothing; which rights are missing then, whoever opens the store says.
        await execute(
            database_url, f"INSERT INTO migrations VALUES (4, '{load_migrations('postgresql')[-1].entry}')",
            f"REVOKE CREATE ON SCHEMA public FROM {user}",
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public",
        )  # fmt: skip
        [found] = await without_settings_of_the_server(url)
        assert found.text == "the feed can't be read: permission denied for function pg_control_system"
        assert found.remedy == "grant EXECUTE on FUNCTION pg_control_system() to the user"
        assert "the user lacks rights" in (await try_store(StoreSettings(url=url))).text
        # As after a dump was restored by somebody else.
        await execute(database_url, f"REVOKE ALL ON migrations FROM {user}")
        for each in await try_store(StoreSettings(url=url)), (await without_settings_of_the_server(url))[0]:
            assert each.text.endswith(": permission denied for table migrations")
            assert "the owner of all that is in the database" in str(each.remedy)
    finally:
        await execute(
            database_url, "GRANT EXECUTE ON FUNCTION pg_control_system() TO public",
            f"DROP OWNED BY {user} CASCADE", f"DROP ROLE {user}",
        )  # fmt: skip


async def test_whoever_has_migrated_must_be_able_to_make_partitions_later(database_url: str) -> None:
    user = "needs_to_own"
    url = await as_user(database_url, user)
    try:
        await execute(database_url, f"GRANT USAGE, CREATE ON SCHEMA public TO {user}")
        await migrate_store(url)
        assert await without_settings_of_the_server(url) == []
        await execute(database_url, f"REVOKE CREATE ON SCHEMA public FROM {user}")
        [found] = await without_settings_of_the_server(url)
        assert found.severity == "warning"
        assert found.text.startswith(f"no partitions can be made: {user}, who has migrated, lacks CREATE on the schema")
        assert found.remedy == f"grant CREATE on the schema to {user}, or give it the tables"
    finally:
        await execute(database_url, f"DROP OWNED BY {user} CASCADE", f"DROP ROLE {user}")


async def test_what_settings_become_of_others(database_url: str) -> None:
    [found] = [
        one.found
        for one in needs._judge_settings(
            dict.fromkeys(needs._SETTINGS, "0") | {"synchronous_commit": "off", "enable_seqscan": "off", **DURABLE}
        )
    ]
    assert found.text.startswith(
        "what the service sets for its connections does not arrive: synchronous_commit is off,"
    )
    assert "enable_seqscan" not in found.text


@pytest.mark.parametrize(
    ("function", "answer", "text"),
    [
        ("pg_try_advisory_xact_lock", "true", "error: advisory locks keep nobody out there, so that events could come"),
        (
            "pg_try_advisory_xact_lock",
            "false",
            "error: advisory locks keep nobody out there, so that events could come",
        ),
        ("pg_notify", None, "warning: LISTEN and NOTIFY: instances can't tell each other what is new (nothing came)"),
        ("pg_advisory_lock", "error", "error: advisory locks of a transaction and of a session: not here"),
    ],
)
async def test_a_server_that_only_looks_like_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch, function: str, answer: str | None, text: str
) -> None:
    """Functions of the same names stand before the server's own."""
    arguments = "text, text" if function == "pg_notify" else "integer, integer"
    kind = "boolean" if "try" in function else "void"
    body = "RAISE EXCEPTION 'not here'" if answer == "error" else "RETURN" + (f" {answer}" if kind == "boolean" else "")
    await migrate_store(database_url)
    await execute(
        database_url,
        f"CREATE FUNCTION public.{function}({arguments}) RETURNS {kind} LANGUAGE plpgsql AS $$BEGIN {body}; END$$",
    )
    monkeypatch.setattr(needs, "_NOTICE_TIMEOUT_S", 0.05)
    mark = "&" if "?" in database_url else "?"
    [found] = texts(await without_settings_of_the_server(f"{database_url}{mark}search_path=public,pg_catalog"))
    assert found.startswith(text)


async def test_a_row_that_is_not_skipped(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate_store(database_url)
    fetch = asyncpg.Connection.fetch

    async def without_skipping(self: asyncpg.Connection, query: str, *parameters: object) -> object:
        return await fetch(self, query.replace("FOR UPDATE SKIP LOCKED", ""), *parameters)

    monkeypatch.setattr(asyncpg.Connection, "fetch", without_skipping)
    [found] = texts(await without_settings_of_the_server(database_url))
    assert found == "error: a row that is locked is not skipped there: a delivery could go out twice"


# Poolers


class Pooler:
    """PgBouncer before a server of ours."""

    def __init__(self, server: PostgresqlServer, *, mode: str, ignores: bool) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        # Which only the server's user may enter.
        folder = Path(parse_qs(urlsplit(server.url()).query)["host"][0])
        ignored = "jit, client_min_messages, " + ", ".join(needs._SETTINGS)
        (folder / "users.txt").write_text('"postgres" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={folder}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users.txt\npool_mode = {mode}\n"
            + (f"ignore_startup_parameters = {ignored}\n" if ignores else "")
        )
        self._process = subprocess.Popen(
            [need_tool("pgbouncer"), folder / "pgbouncer.ini"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            user=folder.stat().st_uid if os.geteuid() == 0 else None,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "process up" in line:
                break
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=PATIENCE_S)


async def test_a_pooler_that_does_not_know_our_settings(own_server: PostgresqlServer) -> None:
    pooler = Pooler(own_server, mode="session", ignores=False)
    try:
        found = await try_store(StoreSettings(url=pooler.url))
        assert found.severity == "error"
        assert found.text.startswith("a pooler is in between that does not take the settings of our connections (uns")
        assert found.remedy == "name the server itself"
        assert await try_needs(pooler.url) == []
    finally:
        pooler.stop()


async def test_a_pooler_of_transactions(own_server: PostgresqlServer) -> None:
    pooler = Pooler(own_server, mode="transaction", ignores=True)
    try:
        assert texts(await try_needs(pooler.url)) == [
            "error: a pooler is in between, which gives each transaction another session of the server"
        ]
    finally:
        pooler.stop()


async def test_a_pooler_of_sessions_loses_what_is_set_for_them(durable_server: PostgresqlServer) -> None:
    pooler = Pooler(durable_server, mode="session", ignores=True)
    try:
        [found] = await try_needs(pooler.url)
        assert found.text == (
            "what the service sets for its connections does not arrive: synchronous_commit is off, statement_timeout is"
            " 0, lock_timeout is 0, idle_in_transaction_session_timeout is 0, enable_seqscan is on"
        )
        names = {"synchronous_commit": "on", "enable_seqscan": "off", "statement_timeout": "30s"}
        names |= {"lock_timeout": "4s", "idle_in_transaction_session_timeout": "3s"}
        await execute(durable_server.url(), *[f"ALTER ROLE postgres SET {name} = '{names[name]}'" for name in names])
    finally:
        pooler.stop()
    pooler = Pooler(durable_server, mode="session", ignores=True)
    try:
        assert await try_needs(pooler.url) == WELL
    finally:
        pooler.stop()
