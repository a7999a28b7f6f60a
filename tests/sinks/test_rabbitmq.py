"""What is special to the sink of kind ``rabbitmq``. What all sinks promise is in test_conformance.py."""

import asyncio
import logging
import sys
from dataclasses import replace

import pytest

from media_callbacks.assembly.sinks import build_sink
from media_callbacks.config.sinks import RabbitMqSinkSettings
from media_callbacks.model.errors import ConfigError, SinkRejected, SinkRetry
from media_callbacks.sinks.rabbitmq import _group
from tests.documentation.test_commands import other_ports, run_page
from tests.factories.running import PATIENCE_S
from tests.sinks.conftest import BrokerDestination


@pytest.fixture
async def rabbit(brokers):
    made = BrokerDestination(brokers("rabbitmq"))
    await made.open()
    yield made
    await made.close()


class Relay:
    """
    In front of the broker: what comes waits while ``requests`` or ``answers`` is not set.

    Attributes:
        ended: How the sink ended the latest connection.
    """

    def __init__(self, target_port):
        self.port = 0
        self._target_port = target_port
        self.requests, self.answers = asyncio.Event(), asyncio.Event()
        self.requests.set()
        self.answers.set()
        self.ended = asyncio.get_running_loop().create_future()

    async def serve(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        answering = asyncio.create_task(self._pump(there, writer, self.answers))
        try:
            await self._pump(reader, back, self.requests)
            self.ended.set_result("in peace")
        except ConnectionResetError:
            self.ended.set_result("by a reset")
        answering.cancel()
        back.transport.abort()

    async def _pump(self, reader, writer, may_pass):
        while data := await reader.read(65536):
            await may_pass.wait()
            writer.write(data)


@pytest.fixture
async def relay(rabbit, raw_server):
    made = Relay(rabbit.broker.port)
    made.port = await raw_server(made.serve)
    return made


def sink_of(rabbit, **changes):
    return build_sink("test", RabbitMqSinkSettings.model_validate(rabbit.broker.table() | changes))


def _types(results):
    return [type(result) for result in results]


async def _stored_ids(rabbit):
    return [each.identity for each in await rabbit.broker.read()]


# Messages


async def test_a_replay_says_so_under_the_same_id_and_a_trace_goes_along(rabbit, opened, make_delivery):
    sink = await opened(rabbit.new_sink())
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"
    deliveries = [make_delivery(), replace(make_delivery(replay=2), traceparent=traceparent)]
    assert list(await sink.send(deliveries)) == [None, None]
    async with rabbit.broker.connected() as channel:
        found = [await channel.basic_get(rabbit.broker.name, no_ack=True) for _ in deliveries]
    assert [message.header.properties.message_id for message in found] == [make_delivery().event_id] * 2
    assert [message.header.properties.headers for message in found] == [
        None,
        {"media-callbacks-replay": "2", "traceparent": traceparent},
    ]


@pytest.mark.parametrize("virtual_host", ["media", "a/b ?#c"])
async def test_a_virtual_host_of_its_own(rabbit, opened, make_delivery, virtual_host):
    sink = await opened(rabbit.new_sink(virtual_host=virtual_host))
    (result,) = await sink.send([make_delivery()])
    assert str(result) == "RabbitMQ refuses the virtual host; check it, and whether the user may use it"
    binary, user = f'<<"{virtual_host}">>', '<<"media">>'
    rabbit.broker.tell(f"rabbit_vhost:add({binary}, {user})")
    rabbit.broker.tell(
        f'rabbit_auth_backend_internal:set_permissions({user}, {binary}, <<".*">>, <<".*">>, <<".*">>, {user})'
    )
    try:
        (result,) = await sink.send([make_delivery()])
        assert str(result).startswith("RabbitMQ has no such exchange (404); ")
    finally:
        rabbit.broker.tell(f"rabbit_vhost:delete({binary}, {user})")


async def test_it_goes_on_to_the_next_server(rabbit, opened, make_delivery):
    servers = ["amqp://127.0.0.1:1", *rabbit.broker.table()["servers"], "amqp://127.0.0.1:2"]
    sink = await opened(sink_of(rabbit, servers=servers))
    assert list(await sink.send([make_delivery()])) == [None]


async def test_a_server_that_says_nothing_is_passed_over(rabbit, raw_server, opened, make_delivery, loop_clock):
    asked = asyncio.Event()

    async def serve(reader, writer):
        await reader.read(8)
        asked.set()
        await reader.read()

    servers = [f"amqp://127.0.0.1:{await raw_server(serve)}", *rabbit.broker.table()["servers"]]
    sink = sink_of(rabbit, servers=servers)
    opening = asyncio.create_task(opened(sink))
    await asked.wait()
    loop_clock.skip(5.0)
    await opening
    assert list(await sink.send([make_delivery()])) == [None]


async def test_a_quorum_queue_takes_events_too(rabbit, opened, make_delivery):
    async with rabbit.broker.connected() as channel:
        await rabbit.broker.add_queue(channel, arguments={"x-queue-type": "quorum"})
    sink = await opened(rabbit.new_sink())
    deliveries = [make_delivery(number) for number in range(20)]
    assert list(await sink.send(deliveries)) == [None] * 20
    assert await rabbit.received() == [delivery.body for delivery in deliveries]


def test_what_goes_together_keeps_its_order(make_delivery):
    """No id twice, and nothing beside what is large."""
    large = make_delivery(2, user_data="x" * 70_000)
    deliveries = [make_delivery(0), make_delivery(1), large, make_delivery(3), make_delivery(3, replay=1)]
    assert list(_group(deliveries)) == [[0, 1], [2], [3], [4]]
    assert list(_group([large])) == [[0]]
    assert list(_group(deliveries[:2])) == [[0, 1]]


# Refusals of single events


async def test_an_event_without_a_queue_waits_for_one(rabbit, opened, make_delivery):
    async with rabbit.broker.connected() as channel:
        await rabbit.broker.add_queue(channel, binding="media.snapshot.*")
        sink = await opened(rabbit.new_sink())
        deliveries = [make_delivery(0, kind="snapshot"), make_delivery(1, kind="transcode")]
        results = await sink.send(deliveries)
        assert _types(results) == [type(None), SinkRetry]
        assert str(results[1]) == "RabbitMQ returned the event: no queue is bound for its routing key; bind one"
        await channel.queue_bind(rabbit.broker.name, rabbit.broker.name, "#")
    assert list(await sink.send(deliveries[1:])) == [None]
    assert await rabbit.received() == [delivery.body for delivery in deliveries]


async def test_what_is_returned_is_taken_for_no_other_with_its_id(rabbit, opened, make_delivery):
    """Two replays in one batch: what comes back has an id, and nothing else that tells it from others."""
    async with rabbit.broker.connected() as channel:
        await rabbit.broker.add_queue(channel, binding="none")
    sink = await opened(rabbit.new_sink())
    deliveries = [make_delivery(0), make_delivery(0, replay=1), make_delivery(1), make_delivery(0, replay=2)]
    assert _types(await sink.send(deliveries)) == [SinkRetry] * 4


async def test_what_is_too_large_ends_no_others_channel(rabbit, opened, make_delivery):
    """Also where the broker takes less than most do."""
    deliveries = [make_delivery(number, user_data="x" * (20_000 if number == 50 else 0)) for number in range(100)]
    rabbit.broker.tell("application:set_env(rabbit, max_message_size, 10000)")
    try:
        sink = await opened(rabbit.new_sink())
        results = await sink.send(deliveries)
    finally:
        rabbit.broker.tell(f"application:set_env(rabbit, max_message_size, {rabbit.broker.max_bytes})")
    assert _types(results) == [SinkRejected if number == 50 else type(None) for number in range(100)]
    size_bytes = len(deliveries[50].body)
    assert str(results[50]) == f"RabbitMQ refused the event of {size_bytes} bytes (406); see its max_message_size"
    ids = {delivery.event_id for delivery in deliveries}
    assert set(await _stored_ids(rabbit)) == ids - {deliveries[50].event_id}


async def test_an_event_that_may_not_go_there_holds_back_no_other(rabbit, opened, make_delivery):
    """Topic permissions speak of routing keys."""
    module, user, exchange = "rabbit_auth_backend_internal", '<<"media">>', f'<<"{rabbit.broker.name}">>'
    allowed = r'<<"^media\\.(snapshot|notice)\\.">>'
    rabbit.broker.tell(f'{module}:set_topic_permissions({user}, <<"/">>, {exchange}, {allowed}, <<".*">>, {user})')
    sink = await opened(rabbit.new_sink())
    deliveries = [make_delivery(number, kind=kind) for number, kind in enumerate(("snapshot", "transcode", "notice"))]
    results = await sink.send(deliveries)
    assert _types(results) == [type(None), SinkRetry, type(None)]
    assert str(results[1]).startswith("RabbitMQ does not let this user write to the exchange (403); ")
    rabbit.broker.tell(f'{module}:clear_topic_permissions({user}, <<"/">>, {exchange}, {user})')
    assert list(await sink.send(deliveries[1:2])) == [None]


async def test_a_full_queue_asks_for_fewer_events(rabbit, opened, make_delivery):
    sink = await opened(rabbit.new_sink())
    await rabbit.broker.fill()
    (result,) = await sink.send([make_delivery()])
    assert result.is_overload


# Refusals of everything


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"exchange": "none"}, "RabbitMQ has no such exchange (404); declare it, or correct its name"),
        ({"password": "hidden"}, "RabbitMQ refuses this user or its password (403); check them"),
        ({"virtual_host": "hidden"}, "RabbitMQ refuses the virtual host; check it, and whether the user may use it"),
        ({"servers": "amqp://127.0.0.1:1"}, "nothing takes connections there; start it, or correct host and port"),
        (
            {"ca_file": "/none", "servers": "amqps://127.0.0.1:1"},
            "ca_file, certificate_file or key_file can't be used: No",
        ),
    ],
)
async def test_what_is_set_wrong_is_told_and_nothing_else(rabbit, opened, make_delivery, caplog, *, changes, text):
    caplog.set_level(logging.DEBUG)
    sink = await opened(sink_of(rabbit, **changes))
    deliveries = [make_delivery(number) for number in range(3)]
    results = await sink.send(deliveries)
    assert _types(results) == [SinkRetry] * 3
    assert str(results[0]).startswith(text)
    (found,) = await sink_of(rabbit, **changes).check(["media.snapshot.failed"])
    assert (found.severity, found.subject, found.line) == ("error", "sinks.test", f"sinks.test: {results[0]}")
    assert "hidden" not in str(results) + caplog.text
    assert "aiormq" not in caplog.text


async def test_check_finds_what_there_is(rabbit):
    (found,) = await rabbit.new_sink().check(["media.snapshot.failed"])
    assert (found.severity, found.remedy) == ("ok", None)
    assert "it lets us in and has the exchange" in found.text


async def test_a_broker_that_speaks_no_tls_is_not_spoken_to_without(rabbit, opened, make_delivery):
    sink = await opened(sink_of(rabbit, servers=f"amqps://127.0.0.1:{rabbit.broker.port}"))
    (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)
    assert "it hangs up while TLS is agreed on" in str(result)
    assert await rabbit.received() == []


@pytest.mark.parametrize(
    "raw, text",
    [
        (b"", "the connection to RabbitMQ broke"),
        (b"HTTP/1.1 400 hidden\r\n\r\n", "no usable answer (InvalidFrameError)"),
        (b"AMQP\0\1\0\0", "no usable answer (ProtocolSyntaxError); check host and port: what answers there?"),
        (b"\1\0\0\0\0\0\x06hidden\xce", "no usable answer (InvalidFrameError)"),
        (b"\1\0\0\x7f\0\0\0" + b"x" * 1_000_000, "no usable answer (InvalidFrameError)"),
    ],
    ids=["nothing", "HTTP", "AMQP 1.0", "no frame", "a frame of two gigabytes"],
)
async def test_what_is_no_broker_is_a_retry(rabbit, raw_server, opened, make_delivery, *, raw, text):
    async def serve(reader, writer):
        await reader.read(8)
        writer.write(raw)

    sink = await opened(sink_of(rabbit, servers=f"amqp://127.0.0.1:{await raw_server(serve)}"))
    (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)
    assert str(result).startswith(text)
    assert "hidden" not in str(result)


async def test_a_connection_that_the_broker_ends_is_made_anew(rabbit, opened, make_delivery):
    sink = await opened(rabbit.new_sink())
    assert list(await sink.send([make_delivery()])) == [None]
    connections = "[Pid || Pid <- rabbit_networking:connections_local()]"
    rabbit.broker.tell(f'[rabbit_networking:close_connection(Pid, <<"hidden">>) || Pid <- {connections}]')
    results = [*await sink.send([make_delivery(1)]), *await sink.send([make_delivery(1)])]
    assert results[1] is None
    assert "hidden" not in str(results)


# A broker that takes nothing for now


async def test_a_broker_with_an_alarm_is_waited_for(rabbit, opened, make_delivery):
    """
    When it is over the broker reads on: what it had got comes before what it gets then, whether we have given it up or
    not.
    """
    sink = await opened(rabbit.new_sink())
    early, late = [make_delivery(number) for number in range(3)], [make_delivery(number) for number in range(3, 6)]
    with rabbit.broker.alarm():
        sending = asyncio.create_task(sink.send(early))
        while not sink._is_blocked():
            await asyncio.wait([sending], timeout=0.01)
        sending.cancel()
        await asyncio.wait([sending])
        sink.timeout_s = 0.01
        results = await sink.send(early)
        assert _types(results) == [SinkRetry] * 3
        assert all(result.is_overload for result in results)
        assert str(results[0]) == "RabbitMQ took nothing within 0.01 s: it has an alarm of memory or disk"
        sink.timeout_s = 60.0
    assert list(await sink.send(late)) == [None] * 3
    assert await _stored_ids(rabbit) == [delivery.event_id for delivery in [*early, *late]]


async def test_a_sink_is_closed_during_an_alarm(rabbit, make_delivery):
    sink = rabbit.new_sink()
    await sink.open()
    with rabbit.broker.alarm():
        sending = asyncio.create_task(sink.send([make_delivery()]))
        while not sink._is_blocked():
            await asyncio.wait([sending], timeout=0.01)
        await sink.close()
        assert _types(await sending) == [SinkRetry]


# Confirmations that come late, or not


async def test_a_slow_confirmation_is_waited_for(rabbit, relay, opened, make_delivery):
    sink = await opened(sink_of(rabbit, servers=f"amqp://127.0.0.1:{relay.port}"))
    relay.answers.clear()
    sending = asyncio.create_task(sink.send([make_delivery(0), make_delivery(1)]))
    while len(await _stored_ids(rabbit)) < 2:
        assert not sending.done()
    relay.answers.set()
    assert list(await sending) == [None, None]


@pytest.mark.parametrize("way", ["given up", "cancelled"])
async def test_what_nobody_waits_for_does_not_arrive_later(rabbit, relay, opened, make_delivery, loop_clock, *, way):
    """Much of it is still in this machine when the time is over: it ends there."""
    sink = await opened(sink_of(rabbit, servers=f"amqp://127.0.0.1:{relay.port}"))
    sink.timeout_s = 3600.0
    relay.requests.clear()
    deliveries = [make_delivery(number, user_data="x" * 50_000) for number in range(100)]
    sending = asyncio.create_task(sink.send(deliveries))
    await asyncio.wait([sending], timeout=0.1)
    assert not sending.done()
    if way == "given up":
        loop_clock.skip(3600.0)
        assert _types(await sending) == [SinkRetry] * 100
    else:
        sending.cancel()
        await asyncio.wait([sending])
    relay.requests.set()
    async with asyncio.timeout(PATIENCE_S):
        assert await relay.ended == "by a reset"


# The way there


def test_the_page_about_it_does_what_it_says(brokers, tmp_path):
    broker = brokers("rabbitmq")
    for user, *allowed in (("media-callbacks", "^$", "^media$", "^$"), ("orders", *["^(media|orders)$"] * 3)):
        name, module = f'<<"{user}">>', "rabbit_auth_backend_internal"
        patterns = ", ".join(f'<<"{pattern}">>' for pattern in allowed)
        broker.tell(f'{module}:add_user({name}, <<"example-password">>, {name})')
        broker.tell(f'{module}:set_permissions({name}, <<"/">>, {patterns}, {name})')
    run_page("docs/sinks/rabbitmq.md", tmp_path, other_ports() | {"5672": str(broker.port)})


def test_its_settings_show_no_secret(rabbit):
    settings = RabbitMqSinkSettings.model_validate(rabbit.broker.table() | {"password": "hidden"})
    assert settings.password == "hidden"
    assert "hidden" not in repr(settings)


def test_without_its_client_the_extra_is_named(rabbit, monkeypatch):
    monkeypatch.delitem(sys.modules, "media_callbacks.sinks.rabbitmq")
    monkeypatch.setitem(sys.modules, "aiormq.abc", None)
    with pytest.raises(ConfigError) as raised:
        sink_of(rabbit)
    assert raised.value.problems == (
        "sinks.test.kind: rabbitmq needs a further package: pip install 'media-callbacks[rabbitmq]'",
    )
