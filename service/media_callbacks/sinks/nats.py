"""
The ``nats`` sink: one message of JetStream per event, on a subject that a template names.

A PubAck is a delivery: the stream has stored the event. The event id is the ``Nats-Msg-Id``, so that a stream takes an
event once that is sent again after a lost acknowledgement, within its ``duplicate_window``; a replay appends its
number. Structured mode: the message is the CloudEvent.

The client is not to reconnect by itself: it would keep what was published meanwhile and send it when nobody waits for
it any more. A connection that is lost ends every attempt in flight at once, and the next attempt connects.

Source: "CloudEvents 1.0.3, NATS Protocol Binding", sections 3.2 "Structured Content Mode"; "JetStream wire API",
https://docs.nats.io/reference/reference-protocols/nats_api_reference; error codes,
https://github.com/nats-io/nats-server/blob/main/server/errors.json.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, NoServersError, ProtocolError, SecureConnWantedError
from nats.protocol.parser import Parser

from media_callbacks.model.check_results import CheckResult
from media_callbacks.model.errors import SinkError, SinkRejected, SinkRetry
from media_callbacks.model.events import CONTENT_TYPE, Delivery
from media_callbacks.model.naming import NameTemplate
from media_callbacks.sinks.connections import TlsFiles, abort, explain_connection
from media_callbacks.sinks.documents import read_heading
from media_callbacks.sinks.nats_streams import check_streams

# With a connection that answers nothing, not even this, nobody waits for TCP to give up.
_PING_S = 10
_CONNECT_TIMEOUT_S = 5
# How long a server may take what is left, before it is hung up on.
_CLOSE_TIMEOUT_S = 1.0
# The client stops taking messages at this size, in a way that can't be cancelled.
_MAX_PENDING_BYTES = 2**30
# Of one thing that a server says; a page of its list of streams is the longest.
_MAX_ANSWER_BYTES = 4 * 2**20

_MAX_TEXT_CHARACTERS = 120
# The client tells it in small letters.
_FORBIDDEN_SUBJECT = re.compile(r'permissions violation for publish to "([^"]+)"')
_NO_STREAM = "no stream takes {subject}, or JetStream is off: create one, or correct the subject"
# Of the stream's errors: the message itself is at fault.
_TOO_LARGE = 10054
# Of more messages than it can store at once.
_OVERLOAD = frozenset({10167})


class _Parser(Parser):
    """Hangs up on what has no end, and what can't be read: the client would gather it or read no more."""

    async def parse(self, data: bytes = b"") -> None:
        try:
            await super().parse(data)
        except OSError:
            raise
        except Exception as error:  # what is said may be anything
            raise ProtocolError from error
        if len(self.buf) > _MAX_ANSWER_BYTES:
            raise ProtocolError
        # While there is always more to read the client never waits.
        await asyncio.sleep(0)


class _Client(Client):
    """Never without TLS where the URL asks for it, whatever somebody on the way says for the server."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # Nobody waits for it any more. With a connection that is broken the client would get no further than this, and
        # leave a task behind.
        self._pending.clear()
        self._pending_data_size = 0
        await super()._close(status, do_cbs)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        if server is not None and server.uri.scheme == "tls" and not info.get("tls_required"):
            raise SecureConnWantedError
        await super()._process_info(info, initial_connection)


class Connection:
    """A connection, and who waits for acknowledgements on it."""

    def __init__(self) -> None:
        self.client = _Client()
        # Why the client gave up on a server, or lost it.
        self.failure: BaseException | None = None
        self._inbox = ""
        self._count = 0
        self._waiting: dict[str, tuple[asyncio.Future[SinkError | None], str]] = {}

    async def open(self, servers: Sequence[str], **options: Any) -> None:
        """
        Raises:
            OSError, nats.errors.Error: There is no connection; the last server that was tried said why.
        """
        try:
            await self.client.connect(
                list(servers),
                error_cb=self._note,
                closed_cb=self._lose,
                allow_reconnect=False,
                # Of one server; below 1 it would try for ever.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_TIMEOUT_S,
                ping_interval=_PING_S,
                pending_size=_MAX_PENDING_BYTES,
                **options,
            )
            self._inbox = self.client.new_inbox()
            await self.client.subscribe(f"{self._inbox}.*", cb=self._receive)
        except BaseException as error:
            await self.close(at_once=True)
            if isinstance(error, NoServersError) and self.failure is not None:
                raise self.failure from error
            raise

    async def close(self, *, at_once: bool = False) -> None:
        """
        Args:
            at_once: Without waiting for the server.
        """
        await self._lose()
        if at_once:
            self._abort()
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.client.close()
        # A server that takes nothing any more keeps the client flushing.
        self._abort()
        # It is closed in the next turn of the loop.
        await asyncio.sleep(0)

    def _abort(self) -> None:
        writer = getattr(self.client._transport, "_io_writer", None)  # noqa: SLF001 - there is no other way
        if writer is not None:
            abort(writer)

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> asyncio.Future[SinkError | None]:
        """
        A future that is None once the stream has the message, or why it has not. Who does not wait for it any more
        cancels it.
        """
        token = str(self._count)
        self._count += 1
        future: asyncio.Future[SinkError | None] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future, subject
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        try:
            await self.client.publish(subject, body, reply=f"{self._inbox}.{token}", headers=headers)
        except Error:
            await self._lose()
        return future

    async def _receive(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject.rpartition(".")[2])
        if waiting is not None and not waiting[0].done():
            future, subject = waiting
            future.set_result(judge_answer(message.data, message.headers, subject))

    async def _note(self, error: Exception) -> None:
        self.failure = error
        # The client tells of it and goes on; no acknowledgement will come.
        if found := _FORBIDDEN_SUBJECT.search(str(error).lower()):
            refusal = SinkRetry(f"this user may not publish to {found[1]}: allow it, or correct the subject")
            self._settle(refusal, subject=found[1])

    async def _lose(self) -> None:
        self._settle(SinkRetry("the connection was lost before an acknowledgement came"))

    def _settle(self, outcome: SinkError, *, subject: str | None = None) -> None:
        for future, its_subject in list(self._waiting.values()):
            if not future.done() and subject in (None, its_subject.lower()):
                future.set_result(outcome)


class NatsSink:
    """
    A sink of kind ``nats``.

    Args:
        servers: URLs, ``tls://`` for TLS; those of a cluster are tried in any order.
        template: Of subjects.
        stream: That must be the one which takes the events; None for whichever takes the subject.
        identity: What the client calls ``user``, ``password``, ``token``, ``nkeys_seed_str``, ``user_credentials``.
        monitoring_url: Where the server tells of itself, for ``check``.
    """

    batch_size = 100

    def __init__(
        self,
        name: str,
        servers: Sequence[str],
        template: NameTemplate,
        *,
        stream: str | None = None,
        identity: Mapping[str, str | None] | None = None,
        tls_files: TlsFiles | None = None,
        monitoring_url: str | None = None,
        timeout_s: float = 15.0,
        concurrency: int = 4,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self._servers = servers
        self._template = template
        self._stream = stream
        self._identity = {key: value for key, value in (identity or {}).items() if value is not None}
        self._tls_files = tls_files or TlsFiles()
        self._monitoring_url = monitoring_url
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self._is_closed = False

    async def open(self) -> None:
        self._is_closed = False
        with suppress(SinkRetry):
            await self._connect()

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        late = SinkRetry(f"no acknowledgement within {self.timeout_s:g} s")
        outcomes: list[SinkError | None] = [late] * len(deliveries)
        waiting: dict[asyncio.Future[SinkError | None], int] = {}
        connection = None
        is_silent = False
        try:
            async with asyncio.timeout(self.timeout_s):
                connection = await self._connect()
                max_bytes = connection.client.max_payload
                for position, delivery in enumerate(deliveries):
                    try:
                        subject, headers = self._build(delivery, max_bytes=max_bytes)
                    except SinkRejected as error:
                        outcomes[position] = error
                    else:
                        waiting[await connection.publish(subject, delivery.body, headers)] = position
                if waiting:
                    await asyncio.wait(waiting)
        except TimeoutError:
            is_silent = not any(future.done() for future in waiting)
        except SinkRetry as error:
            return [error] * len(deliveries)
        finally:
            for future in waiting:
                future.cancel()
        if is_silent and connection is not None:
            # Another server may answer, or this one another connection.
            await self._drop(connection)
        for future, position in waiting.items():
            if not future.cancelled():
                outcomes[position] = future.result()
        return outcomes

    async def close(self) -> None:
        self._is_closed = True
        async with self._connecting:
            connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _build(self, delivery: Delivery, *, max_bytes: int) -> tuple[str, dict[str, str]]:
        """
        Subject and headers.

        Raises:
            SinkRejected: The stored event is none, or too large.
        """
        subject, headers = build_message(delivery, self._template, stream=self._stream)
        size_bytes = len(delivery.body) + sum(len(name) + len(value) + 4 for name, value in headers.items()) + 12
        if size_bytes > max_bytes:
            raise SinkRejected(
                f"the event has {size_bytes} bytes with its headers; the server takes at most {max_bytes}"
            )
        return subject, headers

    async def _connect(self) -> Connection:
        async with self._connecting:
            if self._is_closed:
                raise SinkRetry("the sink was closed")
            if self._connection is None or self._connection.client.is_closed:
                connection = Connection()
                await self._open(connection)
                self._connection = connection
            return self._connection

    async def _open(self, connection: Connection) -> None:
        """
        Raises:
            SinkRetry: There is no connection, and why.
        """
        try:
            tls = await asyncio.to_thread(self._tls_files.make_context)
        except OSError as error:
            raise SinkRetry(f"ca_file, certificate_file or key_file can't be used: {_reason(error)}") from error
        try:
            await connection.open(self._servers, name=f"media-callbacks {self.name}", tls=tls, **self._identity)
        except Exception as error:  # what reads keys and credentials has errors of its own
            raise SinkRetry(_explain(error)) from error

    async def _drop(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
        await connection.close(at_once=True)

    async def check(self, names: Sequence[str]) -> Sequence[CheckResult]:
        subject = f"sinks.{self.name}"
        connection = Connection()
        try:
            await self._open(connection)
            return await check_streams(
                connection.client, subject, names, stream=self._stream, monitoring_url=self._monitoring_url
            )
        except SinkRetry as error:
            text, _, remedy = str(error).partition("; ")
            return [CheckResult("error", subject, text, remedy)]
        finally:
            await connection.close()


def build_message(
    delivery: Delivery, template: NameTemplate, *, stream: str | None = None
) -> tuple[str, dict[str, str]]:
    """
    The subject that an event goes to, and the headers of its message.

    Raises:
        SinkRejected: The stored event is none.
    """
    subject, _ = read_heading(delivery, template)
    replay = f":replay-{delivery.replay}" if delivery.replay else ""
    headers = {"Nats-Msg-Id": delivery.event_id + replay, "content-type": CONTENT_TYPE}
    if delivery.traceparent is not None:
        headers["traceparent"] = delivery.traceparent
    return subject, headers if stream is None else {**headers, "Nats-Expected-Stream": stream}


def judge_answer(data: bytes, headers: Mapping[str, str] | None, subject: str) -> SinkError | None:
    """None when the stream has the message, else the failure."""
    if headers is not None and headers.get("Status") == "503":
        return SinkRetry(_NO_STREAM.format(subject=subject))
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("stream"), str):
        # Somebody who listens on the subject may answer, too.
        return SinkRetry("what came back is no acknowledgement of a stream: see who else answers on the subject")
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    code = error.get("err_code")
    text = f"the stream refuses the event: {_clean(error.get('description'))} ({_clean(code)})"
    return SinkRejected(text) if code == _TOO_LARGE else SinkRetry(text, is_overload=code in _OVERLOAD)


def _explain(error: Exception) -> str:
    """Why there is no connection; what to do."""
    text = str(error).lower()
    if isinstance(error, SecureConnWantedError):
        return "the server offers no TLS, which tls:// asks for; have it require TLS"
    if isinstance(error, Error) and "auth" in text:
        return "the server refuses these credentials; check them, and the server's users"
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return f"credentials_file can't be read: {_reason(error)}; correct it"
    if isinstance(error, Error | ValueError) and not isinstance(error, TimeoutError | UnicodeError):
        return f"no connection: {_clean(text.removeprefix('nats: '))}; see the server's log"
    return "; ".join(explain_connection(error))


def _reason(error: OSError) -> str:
    return _clean(error.strerror or type(error).__name__)


def _clean(text: Any) -> str:
    return re.sub(r"[^ -~]", "", str(text))[:_MAX_TEXT_CHARACTERS]
