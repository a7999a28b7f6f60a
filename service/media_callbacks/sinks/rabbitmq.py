"""
The ``rabbitmq`` sink: a persistent, mandatory message for each event, taken when the broker has confirmed it.

The routing key follows a template, the event id is the message's id, and a replay says so in a header. Structured mode:
the body is the CloudEvent. The exchange must be there; nothing is declared. An event that no queue is bound for may
still be delivered: whoever binds one, perhaps after the first events came, gets them.

Order: everything goes over one channel, one send after the other, so that a queue gets events in the order in which
they were sent. What a send has not seen confirmed when its time is over can't arrive after what is sent later: the
connection is reset, with all that has not left yet. Only a broker that takes nothing for now (its alarm of memory or
disk) is waited for on the same channel, for it goes on with what it has got when the alarm is over, whoever hung up
meanwhile.

Source: "Consumer Acknowledgements and Publisher Confirms", https://www.rabbitmq.com/docs/confirms; "Blocked Connection
Notifications", https://www.rabbitmq.com/docs/connection-blocked; CloudEvents AMQP binding, section 3.2.
"""

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from aiormq.abc import AbstractChannel
from aiormq.connection import Connection, TransportFactory
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionClosed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from yarl import URL

from media_callbacks.model.check_results import CheckResult
from media_callbacks.model.errors import SinkError, SinkRejected, SinkRetry
from media_callbacks.model.events import CONTENT_TYPE, Delivery
from media_callbacks.model.naming import NameTemplate
from media_callbacks.sinks.connections import TlsFiles, abort, explain_connection
from media_callbacks.sinks.documents import read_heading
from media_callbacks.sinks.webhook import REPLAY_HEADER

_PERSISTENT = 2
# Larger ones go alone, so that one which is refused for its size ends no other's channel.
_SMALL_BYTES = 65_536
# A broker that was silent for three times as long is gone.
_HEARTBEAT_S = 10
# An event that is returned may come in one; brokers have 131,072 bytes for it unless they are told otherwise.
_MAX_FRAME_BYTES = 8 * 2**20
_CONNECT_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 1.0
# Closing resets, and what the kernel has not sent is thrown away.
_NO_LINGER = struct.pack("ii", 1, 0)

# It writes hosts, users and virtual hosts.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class RabbitMqSink:
    """
    A sink of kind ``rabbitmq``.

    Args:
        servers: URLs of scheme, host and port, ``amqps://`` for TLS; those of a cluster are tried one after the other.
        template: Of routing keys.
        timeout_s: For a whole ``send``, however many events it has.
    """

    batch_size = 100
    concurrency = 1

    def __init__(
        self,
        name: str,
        servers: Sequence[str],
        exchange: str,
        template: NameTemplate,
        *,
        user: str,
        password: str,
        virtual_host: str = "/",
        tls_files: TlsFiles | None = None,
        timeout_s: float = 15.0,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._exchange = exchange
        self._template = template
        path = "" if virtual_host == "/" else quote(virtual_host, safe="")
        self._urls = deque(
            URL(f"{server}/{path}?heartbeat={_HEARTBEAT_S}").with_user(user).with_password(password)
            for server in servers
        )
        self._transport = _Transport(tls_files or TlsFiles())
        self._connection: Connection | None = None
        self._channel: AbstractChannel | None = None
        self._is_closed = False
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        self._is_closed = False
        # Now, so that the first event need not wait. What fails here is tried again by `send`, which has somebody to
        # tell.
        await self._in_turn(self._get_channel)

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        outcomes: dict[int, SinkError | None] = {}
        failure = await self._in_turn(partial(self._publish_all, deliveries, outcomes))
        return [outcomes.get(position, failure) for position in range(len(deliveries))]

    async def close(self) -> None:
        self._is_closed = True
        # What still waits for the broker ends now.
        await self._disconnect(at_once=self._turn.locked())

    async def check(self, names: Sequence[str]) -> Sequence[CheckResult]:
        try:
            failure = await self._in_turn(self._get_channel)
        finally:
            await self.close()
        subject = f"sinks.{self.name}"
        if failure is not None:
            text, _, remedy = str(failure).partition("; ")
            return [CheckResult("error", subject, text, remedy)]
        text = "it lets us in and has the exchange; whether queues are bound shows when events come"
        return [CheckResult("ok", subject, text)]

    async def _in_turn(self, work: Callable[[], Awaitable[Any]]) -> SinkError | None:
        """Why it failed, or took too long. It has the connection for itself meanwhile."""
        error: object
        try:
            async with asyncio.timeout(self.timeout_s), self._turn:
                try:
                    # As a task of its own: what the client cancels when a connection is lost is not this one.
                    (error,) = await asyncio.gather(work(), return_exceptions=True)
                except asyncio.CancelledError:
                    if not self._is_blocked():
                        await self._disconnect(at_once=True)
                    raise
        except TimeoutError:
            if self._is_blocked():
                text = f"RabbitMQ took nothing within {self.timeout_s:g} s: it has an alarm of memory or disk"
                return SinkRetry(text, is_overload=True)
            return SinkRetry(f"RabbitMQ gave no answer within {self.timeout_s:g} s")
        return _explain(error) if isinstance(error, BaseException) else None

    async def _publish_all(self, deliveries: Sequence[Delivery], outcomes: dict[int, SinkError | None]) -> None:
        """
        Args:
            outcomes: By position; gets what became of each, as far as that is known.
        """
        for group in _group(deliveries):
            if len(group) > 1:
                await self._publish_at_once(deliveries, group, outcomes)
            # What the broker refuses ends the channel, and it does not say which it was: the rest one by one, then.
            for position in group:
                if position not in outcomes:
                    channel = await self._get_channel()
                    try:
                        await self._publish(channel, position, deliveries[position], outcomes)
                    except ChannelClosed as error:
                        outcomes[position] = _judge(error, deliveries[position])

    async def _publish_at_once(
        self, deliveries: Sequence[Delivery], group: Sequence[int], outcomes: dict[int, SinkError | None]
    ) -> None:
        channel = await self._get_channel()
        results = await asyncio.gather(
            *(self._publish(channel, position, deliveries[position], outcomes) for position in group),
            return_exceptions=True,
        )
        if errors := [result for result in results if result is not None]:
            # The client may have sent more on a channel that the broker had ended, which ends the connection.
            await self._disconnect(at_once=True)
            if not any(isinstance(error, ChannelClosed) for error in errors):
                raise errors[0]

    async def _publish(
        self, channel: AbstractChannel, position: int, delivery: Delivery, outcomes: dict[int, SinkError | None]
    ) -> None:
        outcome: SinkError | None = None
        try:
            await channel.basic_publish(
                delivery.body,
                exchange=self._exchange,
                routing_key=read_heading(delivery, self._template)[0],
                properties=Basic.Properties(
                    content_type=CONTENT_TYPE,
                    delivery_mode=_PERSISTENT,
                    message_id=delivery.event_id,
                    headers=build_headers(delivery) or None,
                ),
                mandatory=True,
            )
        except SinkRejected as error:
            outcome = error
        except PublishError:
            outcome = SinkRetry("RabbitMQ returned the event: no queue is bound for its routing key; bind one")
        except DeliveryError:
            outcome = SinkRetry("RabbitMQ did not take the event: a queue is full, or has failed", is_overload=True)
        outcomes[position] = outcome

    async def _get_channel(self) -> AbstractChannel:
        """One that works as far as is known, to a broker that takes messages."""
        if self._connection is None or not self._connection.is_opened:
            self._connection, self._channel = await self._connect(), None
        await self._connection.ready()
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel()
            await self._channel.exchange_declare(self._exchange, passive=True)
        return self._channel

    async def _connect(self) -> Connection:
        failure: Exception | None = None
        for _ in self._urls.copy():
            connection = Connection(
                self._urls[0],
                transport_factory=self._transport,
                client_properties={"connection_name": f"media-callbacks {self.name}"},
            )
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await connection.connect()
            except Exception as error:  # noqa: BLE001 - what answers may be anything
                failure = error
                self._urls.rotate(-1)
                continue
            if self._is_closed:
                self._transport.abort()
                break
            return connection
        raise failure or SinkRetry("the sink was closed")

    async def _disconnect(self, *, at_once: bool) -> None:
        """
        Args:
            at_once: Without a word to the broker; nothing more leaves.
        """
        connection, self._connection = self._connection, None
        if at_once:
            self._transport.abort()
        if connection is not None:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await connection.close(AMQPConnectionError())
            except TimeoutError:
                self._transport.abort()

    def _is_blocked(self) -> bool:
        """Whether the broker has said that it takes nothing for now."""
        if self._connection is None or not self._connection.is_opened:
            return False
        ready = self._connection.ready()
        try:
            ready.send(None)
        except StopIteration:
            return False
        ready.close()
        return True


class _Reader(asyncio.StreamReader):
    """Of frames. What speaks another protocol may announce gigabytes, which the client would gather."""

    async def readexactly(self, n: int) -> bytes:
        if n > _MAX_FRAME_BYTES:
            raise InvalidFrameError
        return await super().readexactly(n)


class _Transport(TransportFactory):
    """Makes the client's connections, and ends the latest one so that nothing more leaves."""

    def __init__(self, tls_files: TlsFiles) -> None:
        self._tls_files = tls_files
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **__: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        options: dict[str, Any] = {}
        if url.scheme == "amqps":
            try:
                context = await asyncio.to_thread(self._tls_files.make_context)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise SinkRetry(f"ca_file, certificate_file or key_file can't be used: {reason}; see them") from error
            options = {"ssl": context, "ssl_shutdown_timeout": _CLOSE_TIMEOUT_S}
        assert url.host is not None
        assert url.port is not None, "the client knows which"
        loop = asyncio.get_running_loop()
        reader = _Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, url.host, url.port, **options)
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            abort(self._writer)


def build_headers(delivery: Delivery) -> dict[str, Any]:
    headers = {REPLAY_HEADER: str(delivery.replay)} if delivery.replay else {}
    return headers if delivery.traceparent is None else {**headers, "traceparent": delivery.traceparent}


def _group(deliveries: Sequence[Delivery]) -> Iterator[list[int]]:
    """
    Positions of what may be on its way at once, in order. Never the same event twice, as itself and as a replay: what
    the broker returns is known by its id alone.
    """
    group: list[int] = []
    ids: set[str] = set()
    for position, delivery in enumerate(deliveries):
        is_large = len(delivery.body) > _SMALL_BYTES
        if group and (is_large or delivery.event_id in ids):
            yield group
            group, ids = [], set()
        group.append(position)
        ids.add(delivery.event_id)
        if is_large:
            yield group
            group, ids = [], set()
    if group:
        yield group


def _judge(error: ChannelClosed, delivery: Delivery) -> SinkError:
    """What the end of the channel means for the only event that was on it."""
    if isinstance(error, ChannelPreconditionFailed):
        size_bytes = len(delivery.body)
        return SinkRejected(f"RabbitMQ refused the event of {size_bytes} bytes (406); see its max_message_size")
    return _explain(error)


def _explain(error: BaseException) -> SinkError:
    """What failed, and what to do. Without the broker's texts, which may hold what was sent."""
    match error:
        case SinkError():
            return error
        case ProbableAuthenticationError():
            return SinkRetry("RabbitMQ refuses this user or its password (403); check them")
        # The client expects nothing but success there.
        case InvalidFrameError() if "Connection.Close" in str(error):
            return SinkRetry("RabbitMQ refuses the virtual host; check it, and whether the user may use it")
        case ChannelNotFoundEntity():
            return SinkRetry("RabbitMQ has no such exchange (404); declare it, or correct its name")
        case ChannelAccessRefused():
            return SinkRetry("RabbitMQ does not let this user write to the exchange (403); see its permissions")
        case ConnectionClosed(args=(int(code), _)):
            return SinkRetry(f"RabbitMQ closed the connection ({code}); see its log")
        case AMQPConnectionError() | asyncio.CancelledError():
            return SinkRetry("the connection to RabbitMQ broke; see its log")
        case _:
            return SinkRetry("; ".join(explain_connection(error)))
