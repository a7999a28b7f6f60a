"""What every sink promises, asked of each of them. What is special to one is in its own file."""

import asyncio
import gc
import json
import warnings

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from service.errors import SinkRetry
from service.events import CONTENT_TYPE, KINDS, parse_event


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
    delivery = make_delivery(user_data="длинный " * 10_000)
    assert list(await sink.send([delivery])) == [None]
    assert as_json(await destination.received()) == as_json([delivery.body])


async def test_nothing_to_send_is_nothing_sent(destination, opened):
    sink = await opened(destination.new_sink())
    assert list(await sink.send([])) == []
    assert await destination.received() == []


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


async def test_no_answer_within_the_time_out_is_a_retry(destination, opened, make_delivery):
    sink = await opened(destination.new_sink(timeout_s=0.2))
    await destination.stall()
    deliveries = [make_delivery(number) for number in range(min(sink.batch_size, 3))]
    loop = asyncio.get_running_loop()
    begun_at = loop.time()
    results = list(await sink.send(deliveries))
    assert loop.time() - begun_at < 0.2 + 0.5
    assert [type(result) for result in results] == [SinkRetry] * len(deliveries)
    assert "0.2 s" in str(results[0])


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
            done, _ = await asyncio.wait([sending], timeout=0.1)
            assert not done
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            del sending, done
        else:
            assert list(await sink.send([make_delivery()])) == [None]
        await sink.close()
        del sink
        gc.collect()
    assert [str(warning.message) for warning in warned if issubclass(warning.category, ResourceWarning)] == []
    assert complaints == []
