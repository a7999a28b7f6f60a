"""
Running the service under uvicorn: a public and an admin listener in one process, with bounds that uvicorn's
protocol does not have, and a clean stop on SIGTERM and SIGINT.

Stopping: from SIGTERM on the service says that it is not ready, and goes on taking callbacks for ``drain_s`` while the
load balancer notices. Answers close their connections meanwhile, so that no balancer sends a request on one that is
closed at the end. A second signal ends this at once, and SIGINT, which comes from a terminal, begins without it. Then
nothing new is let in, and requests and attempts have ``stop_timeout_s`` to finish.

Starting anew, on SIGHUP: the same without a drain, and with the listening sockets open, so that who connects meanwhile
is answered by the next process.
"""

import asyncio
import os
import resource
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import structlog
import uvicorn

from media_callbacks.admin.waiting import MAX_WAITERS
from media_callbacks.app import Service, create_admin_app, create_app
from media_callbacks.config.settings import Settings
from media_callbacks.edge.admin_protocol import in_turns, make_admin_protocol
from media_callbacks.edge.asgi import EdgeApp
from media_callbacks.edge.connections import Connections, Turns
from media_callbacks.edge.core import MAX_HEADER_BYTES
from media_callbacks.edge.protocol import make_protocol
from media_callbacks.process import memory
from media_callbacks.process.listeners import BACKLOG, Listeners, open_listeners
from media_callbacks.timing.waiting import wait_for
from media_callbacks.upkeep.activity import MakeExplain

# Connections that may stay; beyond, those that were silent longest make room.
MAX_CONNECTIONS = 1000
# Besides those of clients that wait for jobs, of which there may be none.
MAX_ADMIN_CONNECTIONS = 100
# Of the store, the sinks, the vendor's API and the machine.
OTHER_FILES = 300
# Longer than the common load balancers keep theirs, so that none sends a request on one that is just being closed.
KEEP_ALIVE_S = 75
# For the head of a request, before what the body may take.
HEAD_TIMEOUT_S = 10.0
# How often deadlines are looked at, at least.
TICK_S = 1.0
# For writing down what attempts came to and closing everything, on top of drain_s and stop_timeout_s.
CLOSE_TIMEOUT_S = 5.0

log = structlog.get_logger()


class QuietServer(uvicorn.Server):
    """uvicorn's, with signals left to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    settings: Settings,
    listeners: Listeners | None = None,
    *,
    stop: asyncio.Event | None = None,
    listening: Callable[[str, str], None] | None = None,
    stopping: Callable[[float], None] = lambda _: None,
    reload_failed: Callable[[], float] = lambda: 0,
    may_start_anew: Callable[[], Awaitable[bool]] | None = None,
    make_explain: MakeExplain | None = None,
) -> bool:
    """
    Run until SIGTERM, SIGINT or ``stop``, then stop cleanly; on SIGHUP, too, when it may start anew.

    Args:
        listeners: Opened as the settings say when left out. Closed at the end, but for a start anew.
        stop: Does what SIGTERM does.
        listening: Told the addresses (``host:port``) of the public and the admin listener once they answer.
        stopping: Told when stopping begins, and in how many seconds at most it ought to have ended.
        reload_failed: 1 while it goes on with an old configuration because it could not start with the new one.
        may_start_anew: Asked on SIGHUP: whether a new process would start. It tells the operator why not.
        make_explain: See ``app.Service``.

    Returns:
        Whether the process is to start anew behind the listeners, which are still open then.

    Raises:
        ConfigError: A listener or the store can't be used as configured.
    """
    stop, hurry = stop or asyncio.Event(), asyncio.Event()
    anew = asyncio.Event()
    app = create_app(settings, make_explain=make_explain)
    service = app.service
    service.metrics.watch_reloads(reload_failed)
    listeners = listeners or open_listeners(settings)
    # Closed by uvicorn; ours stay open for as long as somebody may connect.
    public, admin = listeners.public.dup(), listeners.admin.dup()
    servers = _make_servers(app, settings)
    handled = _handle_signals(stop, hurry, anew, may_start_anew)
    giving_back: asyncio.Task[None] | None = None
    try:
        await service.start()
        memory.settle()
        giving_back = asyncio.create_task(memory.give_back())
        tasks = [
            asyncio.create_task(server.serve(sockets=[listener]))
            for server, listener in zip(servers, (public, admin), strict=True)
        ]
        while not all(server.started or task.done() for server, task in zip(servers, tasks, strict=True)):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0)
        addresses = _address(listeners.public), _address(listeners.admin)
        log.info("listening", server=addresses[0], admin=addresses[1], sources=list(service.settings.sources))
        if listening is not None:
            listening(*addresses)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        drain_s = 0.0 if hurry.is_set() or not stop.is_set() else settings.server.drain_s
        stopping(drain_s + settings.server.stop_timeout_s + CLOSE_TIMEOUT_S)
        service.readiness.is_draining = True
        if drain_s:
            log.info("draining", for_s=drain_s)
            await wait_for(hurry, drain_s)
        log.info("stopping")
        # Else they would be waited for.
        await service.job_watch.stop()
        if anew.is_set() or listeners.inherited:
            # Who connects after this process has left the port waits for the next one, which should not be long.
            await service.stop_working()
        if not anew.is_set():
            listeners.close()
        for server in servers:
            server.should_exit = True
        # At once, so that requests and attempts have the same time to finish.
        await asyncio.gather(*tasks, service.dispatcher.stop(), service.feed.stop())
    finally:
        if giving_back is not None:
            giving_back.cancel()
        await service.stop()
        public.close()
        admin.close()
        if not anew.is_set():
            listeners.close()
        for number in handled:
            asyncio.get_running_loop().remove_signal_handler(number)
    log.info("stopped")
    return anew.is_set()


def _make_servers(app: EdgeApp[Service], settings: Settings) -> list[QuietServer]:
    """For callbacks, and for operators."""
    callback_files, app.service.job_watch.most = _allow_open_files()
    max_connections = min(MAX_CONNECTIONS, callback_files // Connections.BURST)
    tick_s = min(TICK_S, HEAD_TIMEOUT_S / 4, settings.server.body_timeout_s / 4, KEEP_ALIVE_S / 4)
    callbacks = make_protocol(
        app.edge, Connections(limit=max_connections, tick_s=tick_s), head_timeout_s=HEAD_TIMEOUT_S
    )
    turns = Turns(each=1)
    guarded = make_admin_protocol(
        Connections(limit=MAX_ADMIN_CONNECTIONS + app.service.job_watch.most, tick_s=tick_s),
        app.service.refusals,
        turns,
        request_timeout_s=settings.server.body_timeout_s + HEAD_TIMEOUT_S,
    )
    return [
        QuietServer(_config(app, callbacks, settings)),
        QuietServer(_config(in_turns(create_admin_app(app.service), turns), guarded, settings)),
    ]


def _allow_open_files() -> tuple[int, int]:
    """
    Let this process open as many files as all connections need. Returns how many are left for callbacks', and how many
    may wait for jobs.
    """
    others = MAX_ADMIN_CONNECTIONS * Connections.BURST + OTHER_FILES
    needed = MAX_CONNECTIONS * Connections.BURST + others
    wanted = needed + MAX_WAITERS * Connections.BURST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            log.warning("few_open_files", expected=wanted, limit=soft)
    if soft == resource.RLIM_INFINITY:
        return needed - others, MAX_WAITERS
    # Callbacks come first.
    waiters = min(MAX_WAITERS, max(soft - needed, soft // 16) // Connections.BURST)
    return max(soft - waiters * Connections.BURST - others, soft // 4), waiters


def _handle_signals(
    stop: asyncio.Event, hurry: asyncio.Event, anew: asyncio.Event, may_start_anew: Callable[[], Awaitable[bool]] | None
) -> Sequence[signal.Signals]:
    """Returns those that are handled."""

    def terminate() -> None:
        if stop.is_set():
            hurry.set()
        # Also when a start anew has begun: the last word counts.
        anew.clear()
        stop.set()

    def interrupt() -> None:
        hurry.set()
        terminate()

    handlers = {signal.SIGTERM: terminate, signal.SIGINT: interrupt}
    if may_start_anew is not None:
        asked: set[asyncio.Task[None]] = set()

        async def ask(may: Callable[[], Awaitable[bool]]) -> None:
            if await may() and not stop.is_set():
                log.info("starting_anew")
                # Nobody is refused meanwhile, so no balancer has to notice.
                anew.set()
                hurry.set()
                stop.set()

        def reload() -> None:
            if not asked and not stop.is_set():
                asked.add(task := asyncio.create_task(ask(may_start_anew)))
                task.add_done_callback(asked.discard)

        _on_hangup(reload)
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    return list(handlers)


def _on_hangup(reload: Callable[[], None]) -> None:
    """
    Call this on the event loop at each SIGHUP.

    The signal is blocked in every thread from the start of the command on, and taken by one that waits for it: with a
    handler there would be moments without one, before and after the event loop, and in these it ends the process. What
    comes in them waits, also beyond a start anew.
    """
    loop = asyncio.get_running_loop()

    def wait() -> None:
        with suppress(RuntimeError):  # the event loop is closed
            while True:
                signal.sigwait([signal.SIGHUP])
                loop.call_soon_threadsafe(reload)

    threading.Thread(target=wait, name="hangup", daemon=True).start()


def exit_after(delay_s: float) -> None:
    """End this process when it has not ended by itself by then, whatever holds it up: a disk, a thread, the loop."""

    def give_up() -> None:
        log.error("stop_timed_out", after_s=delay_s)
        os._exit(1)

    timer = threading.Timer(delay_s, give_up)
    timer.daemon = True
    timer.start()


def _config(app: Any, protocol: type[asyncio.Protocol], settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        # Its warnings about what clients send are ours to give, each once and not without end.
        log_level="error",
        access_log=False,
        server_header=False,
        # Source addresses are no evidence here, so no proxy needs to be trusted with them.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        # It is handed to asyncio.wait_for, which takes fractions.
        timeout_graceful_shutdown=cast("int", settings.server.stop_timeout_s),
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
