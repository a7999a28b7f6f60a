"""
The sockets that the service listens on, and how they outlive it.

A service that is restarted refuses callbacks while it is down, and VOD gives a callback up within seconds. So a socket
may be somebody else's: handed over by systemd (sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES), or by this
process to itself when it starts anew. The kernel keeps it open in between, and who connects meanwhile waits.
"""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import NoReturn

from media_callbacks.config.settings import Settings
from media_callbacks.model.errors import ConfigError, Unusable

_FIRST_DESCRIPTOR = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
PUBLIC, ADMIN = "public", "admin"
# Who connects while a service is down or busy waits in line.
BACKLOG = 2048
# What the kernel keeps of answers that are not read, for each connection; by itself it would be megabytes. Connections
# have it from their listener.
_SEND_BUFFER_BYTES = 64 * 1024


@dataclass(slots=True)
class Listeners:
    """
    Attributes:
        inherited: Whether another process keeps the public one open, so that closing it here refuses nobody.
    """

    public: socket.socket
    admin: socket.socket
    inherited: bool = False

    def close(self) -> None:
        self.public.close()
        self.admin.close()


def open_listeners(settings: Settings, environ: MutableMapping[str, str] | None = None) -> Listeners:
    """
    Take over the sockets that were handed to this process, and bind those that were not.

    Args:
        environ: The variables that tell of them are removed, for they are not about the processes that this one starts.

    Raises:
        ConfigError: An address can't be listened on, or what was handed over is no listening socket of a known name.
    """
    given = _take_over({} if environ is None else environ)
    opened: list[socket.socket] = list(given.values())
    try:
        if PUBLIC not in given:
            opened.append(public := bind(settings.server.host, settings.server.port, "server.port"))
        else:
            public = given[PUBLIC]
        admin = given.get(ADMIN) or bind(settings.admin.host, settings.admin.port, "admin.port")
    except ConfigError:
        for each in opened:
            each.close()
        raise
    return Listeners(public, admin, inherited=PUBLIC in given)


def _take_over(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    pid, count, names = (environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    # Without names: the first is what the load balancer reaches.
    given_names = names.split(":") if names else [PUBLIC, ADMIN][: int(count)]
    found: dict[str, socket.socket] = {}
    for offset, name in enumerate(given_names[: int(count)]):
        descriptor = _FIRST_DESCRIPTOR + offset
        if name == "unknown" or name.endswith(".socket"):
            # What systemd says where no FileDescriptorName is set.
            name = PUBLIC if PUBLIC not in found else ADMIN  # noqa: PLW2901
        try:
            given = socket.socket(fileno=descriptor)
            is_listening = (
                given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and given.type == socket.SOCK_STREAM
            )
        except OSError:
            is_listening = False
        if not is_listening or name not in (PUBLIC, ADMIN) or name in found:
            expected = f'expected listening TCP sockets named "{PUBLIC}" and "{ADMIN}", found "{name}"'
            raise ConfigError([f"LISTEN_FDNAMES: {expected}; set FileDescriptorName={PUBLIC} in the socket unit"])
        given.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        given.set_inheritable(False)
        given.setblocking(False)
        found[name] = given
    return found


def bind(host: str, port: int, setting: str) -> socket.socket:
    """
    Args:
        setting: Key path of the port.

    Raises:
        Unusable: It can't be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio looks for it before it turns Nagle's algorithm off, which costs 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        remedy = "; stop what has it, or choose another port" if error.errno == errno.EADDRINUSE else ""
        raise Unusable([f"{setting}: cannot listen on {host} port {port}: {error.strerror}{remedy}"]) from error
    return listener


def try_listeners(listeners: Listeners, before: Settings, after: Settings) -> None:
    """
    Whether what is to be bound anew can be, while the old ones are still open.

    Raises:
        ConfigError: It can't.
    """
    own_ports = before.server.port, before.admin.port
    problems: list[str] = []
    for name, old, new in (("server", before.server, after.server), ("admin", before.admin, after.admin)):
        if _address(old) == _address(new) or (name == "server" and listeners.inherited):
            continue
        try:
            # A port of ours will be free by then.
            bind(new.host, 0 if new.port in own_ports else new.port, f"{name}.port").close()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def start_anew(listeners: Listeners, before: Settings, after: Settings, environ: Mapping[str, str]) -> NoReturn:
    """
    Replace this process by the same command, which reads its configuration again and goes on behind the same sockets.
    Where an address is another one now, the new process binds it.
    """
    kept = []
    if listeners.inherited or _address(before.server) == _address(after.server):
        kept.append((PUBLIC, listeners.public))
    if _address(before.admin) == _address(after.admin):
        kept.append((ADMIN, listeners.admin))
    # First out of the way of the numbers that they are handed over at.
    above = _FIRST_DESCRIPTOR + len(kept)
    descriptors = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, above) for _, each in kept]
    for offset, descriptor in enumerate(descriptors):
        os.dup2(descriptor, _FIRST_DESCRIPTOR + offset, inheritable=True)
    names = ":".join(name for name, _ in kept)
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(kept)), "LISTEN_FDNAMES": names}
    os.execve(sys.executable, command_line(), {**environ, **variables})  # noqa: S606 - it is our own command line


def command_line() -> list[str]:
    """What this process was started as."""
    return [sys.executable, *sys.orig_argv[1:]]


def _address(section: object) -> tuple[str, int]:
    return section.host, section.port  # type: ignore[attr-defined]
