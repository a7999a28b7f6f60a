"""What every sink promises, asked of each of them. What is special to one is in its own file."""

import asyncio
import gc
import json
import warnings

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from media_callbacks.model.errors import SinkRejected, SinkRetry
from media_callbacks.model.events import CONTENT_TYPE, parse_event
from media_callbacks.model.kinds import KINDS
from tests.factories.running import PATIENCE_S


async def _send_all(sink, deliveries):
    """All results, whatever fits into one ``send``."""
    results = []
    for start in range(0, len(deliveries), sink.batch_size):
        results += await sink.send(deliveries[start : start + sink.batch_size])
    return results


def _assert_tells_no_secret(results, deliveries):
    for result in results:
        assert 5 < len(str(result)) < 250
        assert "hidden" not in str(result)
        assert "\n" not in str(result)
        for delivery in deliveries:
            assert delivery.event_id not in str(result)


def _sorted(documents):
    return sorted(documents, key=lambda document: document["id"])


async def test_what_was_given_arrives(destination, opened, make_delivery):
    delivery = make_delivery()
    sink = await opened(destination.new_sink())
    assert list(await sink.send([delivery])) == [None]
    (received,) = await destination.received()
    if destination.keeps_bytes:
        assert received == delivery.body
    assert json.loads(received) == json.loads(delivery.body)


async def test_every_kind_arrives_as_a_cloudevent(destination, opened, make_delivery):
    sink = await opened(destination.new_sink())
    deliveries = [make_delivery(number, kind=kind) for number, kind in enumerate(KINDS)]
    for delivery in deliveries:
        assert list(await sink.send([delivery])) == [None]
    received = {json.loads(body)["id"]: body for body in await destination.received()}
    for delivery in deliveries:
        body = received[delivery.event_id]
        event = from_structured_event(HTTPMessage({"content-type": CONTENT_TYPE}, body))
        assert event.get_id() == delivery.event_id
        assert event.get_specversion() == "1.0"
        data = event.get_data()
        assert isinstance(data, dict)
        assert event.get_type() == f"media.{data['kind']}.{data['outcome']}"
        assert event.get_datacontenttype() == "application/json"
        assert parse_event(body) == parse_event(delivery.body)


async def test_a_full_batch_arrives_with_one_result_each(destination, opened, make_delivery, as_json):
    sink = await opened(destination.new_sink())
    deliveries = [make_delivery(number) for number in range(sink.batch_size)]
    assert list(await sink.send(deliveries)) == [None] * sink.batch_size
    received = as_json(await destination.received())
    sent = as_json([delivery.body for delivery in deliveries])
    assert (received if destination.keeps_order else _sorted(received)) == sent


async def test_events_of_one_subject_keep_their_order(destination, opened, make_delivery, as_json):
    if not destination.keeps_order:
        pytest.skip("this destination promises no order")
    sink = await opened(destination.new_sink())
    deliveries = [make_delivery(number, subject="job-1") for number in (3, 1, 2)]
    for start in range(0, 3, sink.batch_size):
        await sink.send(deliveries[start : start + sink.batch_size])
    assert [document["id"] for document in as_json(await destination.received())] == [d.event_id for d in deliveries]


async def test_a_large_event_arrives(destination, opened, make_delivery, as_json):
    sink = await opened(destination.new_sink())
    delivery = make_delivery(user_data="длинный " * getattr(destination, "large_words", 10_000))
    assert list(await sink.send([delivery])) == [None]
    assert as_json(await destination.received()) == as_json([delivery.body])


async def test_a_destination_that_went_away_is_used_again_when_it_is_back(destination, opened, make_delivery, as_json):
    sink = await opened(destination.new_sink())
    deliveries = [make_delivery(number) for number in range(min(sink.batch_size, 3))]
    assert list(await sink.send([make_delivery(9)])) == [None]
    assert len(await destination.received()) == 1

    await destination.go_away()
    results = list(await sink.send(deliveries))
    assert [type(result) for result in results] == [SinkRetry] * len(deliveries)
    for result in results:
        assert 5 < len(str(result)) < 200
        assert "hidden" not in str(result), "a webhook url is a secret"
        assert deliveries[0].event_id not in str(result)

    await destination.come_back()
    assert list(await sink.send(deliveries)) == [None] * len(deliveries)
    assert _sorted(as_json(await destination.received())) == as_json([delivery.body for delivery in deliveries])


async def test_a_sink_opens_while_its_destination_is_away(destination, opened, make_delivery):
    await destination.go_away()
    sink = await opened(destination.new_sink())
    (result,) = await sink.send([make_delivery()])
    assert isinstance(result, SinkRetry)
    await destination.come_back()
    assert list(await sink.send([make_delivery()])) == [None]


async def test_no_answer_within_the_time_out_is_a_retry(destination, opened, make_delivery, loop_clock):
    sink = await opened(destination.new_sink(timeout_s=3600.0))
    await destination.stall()
    deliveries = [make_delivery(number) for number in range(min(sink.batch_size, 3))]
    sending = asyncio.create_task(sink.send(deliveries))
    await destination.asked()
    assert not sending.done()
    loop_clock.skip(3600.0)
    results = list(await sending)
    assert [type(result) for result in results] == [SinkRetry] * len(deliveries)
    assert "3600 s" in str(results[0])


async def test_sends_at_once_do_not_mix(destination, opened, make_delivery, as_json):
    sink = await opened(destination.new_sink())
    deliveries = [make_delivery(number, user_data=f"{number} " * 3000) for number in range(24)]
    results = await asyncio.gather(*(sink.send([delivery]) for delivery in deliveries))
    assert [list(result) for result in results] == [[None]] * len(deliveries)
    assert _sorted(as_json(await destination.received())) == as_json([delivery.body for delivery in deliveries])


@pytest.mark.parametrize("stalled", [False, True])
async def test_close_leaves_nothing_open(destination, make_delivery, stalled):
    """Also when a send was cancelled before, as happens at shutdown."""
    loop = asyncio.get_running_loop()
    complaints = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        sink = destination.new_sink()
        await sink.open()
        if stalled:
            await destination.stall()
            sending = asyncio.create_task(sink.send([make_delivery()]))
            await destination.asked()
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            del sending
        else:
            assert list(await sink.send([make_delivery()])) == [None]
        await sink.close()
        del sink
        gc.collect()
    assert [str(warning.message) for warning in warned if issubclass(warning.category, ResourceWarning)] == []
    assert complaints == []


async def test_close_while_a_send_runs_ends_it_with_a_result_for_each(destination, make_delivery, loop_clock):
    """At the latest when its time is over: what writes to a pipe can't be ended."""
    loop = asyncio.get_running_loop()
    complaints = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    sink = destination.new_sink(timeout_s=3600.0)
    await sink.open()
    await destination.stall()
    deliveries = [make_delivery(number) for number in range(min(sink.batch_size, 3))]
    sending = asyncio.create_task(sink.send(deliveries))
    await destination.asked()
    assert not sending.done()
    await sink.close()
    loop_clock.skip(3600.0)
    results = await sending
    assert [type(result) for result in results] == [SinkRetry] * len(deliveries)
    gc.collect()
    assert complaints == []


async def test_a_sink_that_was_closed_can_be_opened_again(destination, opened, make_delivery):
    sink = destination.new_sink()
    await sink.open()
    await sink.close()
    await opened(sink)
    assert list(await sink.send([make_delivery()])) == [None]


# Failures, told as each service tells them


async def test_every_event_has_its_own_result_and_what_failed_can_come_again(scripted, opened, make_delivery):
    sink = await opened(scripted.new_sink())
    deliveries = [make_delivery(number) for number in range(5)]
    ids = [delivery.event_id for delivery in deliveries]
    scripted.fault_of_event = {ids[1]: "broken", ids[3]: "throttled"}.get
    results = await _send_all(sink, deliveries)
    assert [type(result) for result in results] == [type(None), SinkRetry, type(None), SinkRetry, type(None)]
    assert [result.is_overload for result in results if result is not None] == [False, True]
    _assert_tells_no_secret([results[1], results[3]], deliveries)
    scripted.fault_of_event = lambda _: None
    assert await _send_all(sink, [deliveries[1], deliveries[3]]) == [None, None]
    sent = [identity for call in scripted.calls for identity in call]
    assert sorted(sent) == sorted([*ids, ids[1], ids[3]])


@pytest.mark.parametrize(("fault", "is_overload"), [("throttled", True), ("denied", False), ("broken", False)])
async def test_a_refusal_of_everything_is_a_retry_until_it_ends(scripted, opened, make_delivery, *, fault, is_overload):
    sink = await opened(scripted.new_sink())
    deliveries = [make_delivery(number) for number in range(3)]
    scripted.fault_of_call = fault
    results = await _send_all(sink, deliveries)
    assert [type(result) for result in results] == [SinkRetry] * 3
    assert [result.is_overload for result in results] == [is_overload] * 3
    _assert_tells_no_secret(results, deliveries)
    assert "HTTP" in str(results[0])
    assert len(scripted.calls) == -(-3 // sink.batch_size), "trying again is the dispatcher's business"
    scripted.fault_of_call = None
    assert await _send_all(sink, deliveries) == [None] * 3


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, of botocore's request
async def test_an_event_that_is_refused_for_good_holds_back_no_other(scripted, opened, make_delivery):
    sink = await opened(scripted.new_sink())
    large = "x" * scripted.hopeless_bytes
    deliveries = [make_delivery(number, user_data=large if number == 1 else "") for number in range(4)]
    scripted.fault_of_event = {deliveries[1].event_id: "bad"}.get
    results = await _send_all(sink, deliveries)
    assert [type(result) for result in results] == [type(None), scripted.refusal, type(None), type(None)]
    _assert_tells_no_secret(results[1:2], deliveries)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, of botocore's request
async def test_an_event_above_the_limit_is_rejected_unsent(scripted, opened, make_delivery):
    if scripted.max_bytes is None:
        pytest.skip("no limit of its own")
    sink = await opened(scripted.new_sink())
    deliveries = [
        make_delivery(number, user_data="x" * scripted.max_bytes if number == 1 else "") for number in (0, 1, 2)
    ]
    results = await _send_all(sink, deliveries)
    assert [type(result) for result in results] == [type(None), SinkRejected, type(None)]
    assert f"at most {scripted.max_bytes}" in str(results[1])
    sent = [identity for call in scripted.calls for identity in call]
    assert sent == [deliveries[0].event_id, deliveries[2].event_id]


async def test_an_answer_after_the_time_out_is_a_retry(scripted, opened, make_delivery, loop_clock):
    """The event comes again then, under the same id."""
    sink = await opened(scripted.new_sink(timeout_s=3600.0))
    scripted.held.clear()
    sending = asyncio.create_task(sink.send([make_delivery()]))
    await scripted.arrived.wait()
    loop_clock.skip(3600.0)
    (result,) = await sending
    assert type(result) is SinkRetry
    assert "3600 s" in str(result)
    scripted.held.set()
    assert list(await sink.send([make_delivery()])) == [None]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff hidden garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 10_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/hidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 hidden\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhidden",
    ],
    ids=["closes", "garbage", "half an answer", "a header of 10 MB", "redirects", "garbage in a 500"],
)
async def test_what_is_no_answer_is_a_retry(scripted, opened, make_delivery, raw):
    sink = await opened(scripted.new_sink())
    scripted.raw = raw
    (result,) = await sink.send([make_delivery()])
    assert type(result) is SinkRetry
    _assert_tells_no_secret([result], [make_delivery()])
    scripted.raw = None
    assert list(await sink.send([make_delivery()])) == [None]
    assert scripted.calls == [[make_delivery().event_id]] * 2


# What can go wrong with brokers


async def test_a_send_that_needs_a_connection_when_the_sink_is_closed_makes_none(bus, make_delivery):
    """Nobody would close it."""
    sink = bus.new_sink()
    await sink.open()
    await sink.close()
    (result,) = await sink.send([make_delivery()])
    assert (type(result), str(result)) == (SinkRetry, "the sink was closed")
    assert await bus.broker.read() == []


async def _until_taken(sink, delivery):
    async with asyncio.timeout(PATIENCE_S):
        while list(await sink.send([delivery])) != [None]:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)


def _stored_ids(stored):
    return [each.identity for each in stored]


async def test_an_event_whose_acknowledgement_was_lost_comes_again_with_the_same_id(bus, opened, make_delivery):
    sink = await opened(bus.new_sink())
    delivery = make_delivery()
    bus.gate.lose_answers()
    (result,) = await sink.send([delivery])
    assert type(result) is (type(None) if bus.broker.repeats else SinkRetry)
    await bus.gate.lost.wait()
    assert _stored_ids(await bus.broker.read()) == [delivery.event_id]
    assert list(await sink.send([delivery])) == [None]
    assert _stored_ids(await bus.broker.read()) == [delivery.event_id] * (1 if bus.broker.deduplicates else 2)


async def test_an_acknowledgement_that_comes_too_late_is_a_retry(bus, opened, make_delivery, loop_clock):
    sink = await opened(bus.new_sink(timeout_s=3600.0))
    await bus.stall()
    sending = asyncio.create_task(sink.send([make_delivery(), make_delivery(1)][: sink.batch_size]))
    await bus.asked()
    loop_clock.skip(3600.0)
    results = list(await sending)
    assert {type(result) for result in results} == {SinkRetry}
    await bus.go_away()
    bus.gate.recover()
    await bus.come_back()
    assert list(await sink.send([make_delivery()])) == [None]
    assert make_delivery().event_id in _stored_ids(await bus.broker.read())


async def test_what_comes_again_has_the_same_id_and_a_replay_another(bus, opened, make_delivery):
    sink = await opened(bus.new_sink())
    for delivery in (make_delivery(), make_delivery(), make_delivery(replay=1), make_delivery(replay=2)):
        assert list(await sink.send([delivery])) == [None]
    name = make_delivery().event_id
    first = [name] if bus.broker.deduplicates else [name, name]
    stored = _stored_ids(await bus.broker.read())
    assert stored == [*first, *(bus.broker.replayed(name, number) for number in (1, 2))]


async def test_a_full_broker_is_a_retry_until_there_is_room(bus, opened, make_delivery):
    sink = await opened(bus.new_sink())
    await bus.broker.fill()
    results = list(await sink.send([make_delivery()]))
    assert [type(result) for result in results] == [SinkRetry]
    _assert_tells_no_secret(results, [make_delivery()])
    await bus.broker.make_room()
    assert list(await sink.send([make_delivery()])) == [None]


async def test_where_nothing_takes_events_they_wait_until_something_does(bus, opened, make_delivery):
    sink = await opened(bus.new_sink())
    await bus.broker.remove()
    results = list(await sink.send([make_delivery()]))
    assert [type(result) for result in results] == [SinkRetry]
    _assert_tells_no_secret(results, [make_delivery()])
    await bus.broker.prepare()
    await _until_taken(sink, make_delivery())


async def test_an_event_that_is_too_large_holds_back_no_other(bus, opened, make_delivery):
    sink = await opened(bus.new_sink())
    deliveries = [
        make_delivery(number, user_data="x" * bus.broker.max_bytes if number == 1 else "") for number in range(3)
    ]
    results = await _send_all(sink, deliveries)
    assert [type(result) for result in results] == [type(None), SinkRejected, type(None)]
    _assert_tells_no_secret(results[1:2], deliveries)
    assert _stored_ids(await bus.broker.read()) == [deliveries[0].event_id, deliveries[2].event_id]


async def test_names_follow_the_template(bus, opened, make_delivery):
    sink = await opened(bus.new_sink())
    for number, kind in enumerate(KINDS):
        assert list(await sink.send([make_delivery(number, kind=kind)])) == [None]
    stored = await bus.broker.read()
    assert [each.name for each in stored] == [bus.broker.name_of(each.body) for each in stored]


async def test_it_delivers_with_tls_and_credentials(secured_bus, opened, make_delivery):
    sink = await opened(secured_bus.new_sink())
    assert list(await sink.send([make_delivery()])) == [None]
    assert await secured_bus.received() == [make_delivery().body]
    assert "error" not in [each.severity for each in await sink.check(secured_bus.broker.names)]


async def test_credentials_that_are_refused_are_a_retry(secured_bus, opened, make_delivery):
    sink = await opened(secured_bus.new_sink(**dict.fromkeys(secured_bus.broker.identity, "hidden")))
    results = list(await sink.send([make_delivery()]))
    assert [type(result) for result in results] == [SinkRetry]
    _assert_tells_no_secret(results, [make_delivery()])
    assert "refuse" in str(results[0])
    found = await sink.check(secured_bus.broker.names)
    assert [each.severity for each in found] == ["error"]
    assert "hidden" not in found[0].line


async def test_a_certificate_for_another_host_is_a_retry(bus_of_another_host, opened, make_delivery):
    sink = await opened(bus_of_another_host.new_sink())
    results = list(await sink.send([make_delivery()]))
    assert [type(result) for result in results] == [SinkRetry]
    assert "certificate" in str(results[0])
    found = await sink.check(bus_of_another_host.broker.names)
    assert [each.severity for each in found] == ["error"]
    assert "certificate" in found[0].text
    assert await bus_of_another_host.received() == []


async def test_a_broker_that_is_killed_has_what_it_acknowledged(bus, opened, make_delivery):
    sink = await opened(bus.new_sink())
    assert await _send_all(sink, [make_delivery(number) for number in range(20)]) == [None] * 20
    bus.broker.kill()
    patience_s, sink.timeout_s = sink.timeout_s, 1.0
    try:
        assert [type(result) for result in await sink.send([make_delivery(20)])] == [SinkRetry]
    finally:
        bus.broker.start()
    sink.timeout_s = patience_s
    await _until_taken(sink, make_delivery(20))
    ids = _stored_ids(await bus.broker.read())
    assert list(dict.fromkeys(ids)) == [make_delivery(number).event_id for number in range(21)]


async def test_check_tells_what_is_missing(bus):
    found = await bus.new_sink().check(bus.broker.names)
    assert [each.severity for each in found if each.severity == "error"] == []
    assert await bus.broker.read() == [], "it sends nothing"
    await bus.broker.remove()
    found = await bus.new_sink().check(bus.broker.names)
    assert "error" in [each.severity for each in found]
    await bus.go_away()
    (found,) = await bus.new_sink().check(bus.broker.names)
    assert (found.severity, found.subject, found.text) == ("error", "sinks.test", "nothing takes connections there")
