"""What is special to EventBridge of Alibaba Cloud: the bus in every event, and events that spoil a request."""

import json

import pytest
from starlette.requests import Request

from media_callbacks.aliyun.eventbridge import EventBridgeClient
from media_callbacks.model.check_results import CheckResult
from media_callbacks.model.errors import SinkRejected, SinkRetry
from media_callbacks.rehearsal.fake_cloud.buses import FakeBuses
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from media_callbacks.sinks.aliyun_eventbridge import AliyunEventBridgeSink
from tests.factories.fake_queues import KEY_ID, SECRET, Clock, Credentialed, serving

BUS = "media"


@pytest.fixture
async def served():
    buses = FakeBuses({KEY_ID: AccessKey(SECRET)}, Clock())
    buses.create(BUS)

    async def app(scope, receive, send):
        request = Request(scope, receive)
        await buses.respond(request, await request.body())(scope, receive, send)

    async with serving(app) as url:
        yield buses, url


@pytest.fixture
def buses(served):
    return served[0]


@pytest.fixture
def make_sink(served):
    def make(bus=BUS, *, url=served[1], secret=SECRET):
        client = EventBridgeClient(url, bus, credentials=Credentialed(secret), clock=Clock())
        return AliyunEventBridgeSink("test", client, bus)

    return make


async def test_the_rest_of_an_event_stays_as_it_was_stored(make_sink, make_delivery):
    body = b' {"id": "evt_1",  "data": {"text": "\\u00e9\\ud800 \xc3\xa9"}}'
    entry = make_sink().build_entry(0, make_delivery(body=body))
    assert entry.fields["event"].encode() == b'{"aliyuneventbusname":"media",' + body.strip()[1:]
    assert make_sink().build_entry(0, make_delivery(body=b"{}")).fields["event"] == '{"aliyuneventbusname":"media"}'


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"text"'])
async def test_what_is_no_event_is_rejected(make_sink, opened, make_delivery, body):
    sink = await opened(make_sink())
    (result,) = await sink.send([make_delivery(body=body)])
    assert isinstance(result, SinkRejected)


async def test_a_request_has_at_most_256_kb(buses, make_sink, opened, make_delivery):
    sink = await opened(make_sink())
    deliveries = [make_delivery(number, user_data="x" * 60_000) for number in range(16)]
    calls, _ = sink.build_calls(deliveries)
    assert [len(call) for call in calls] == [4, 4, 4, 4]
    assert list(await sink.send(deliveries)) == [None] * 16
    assert len(buses.events[BUS]) == 16


@pytest.mark.parametrize(("beyond_bytes", "calls"), [(0, [2]), (1, [1, 1])])
async def test_its_256_kb_are_those_of_the_request(make_sink, make_delivery, beyond_bytes, calls):
    """With the brackets around the events, and the comma between them."""
    sink = make_sink()
    around = [sink.build_entry(0, make_delivery(n, user_data="")).fields["event"].encode() for n in range(2)]
    second = 262_144 - len(b"[" + b",".join(around) + b"]") - 100_000 + beyond_bytes
    deliveries = [make_delivery(0, user_data="x" * 100_000), make_delivery(1, user_data="x" * second)]
    assert [len(call) for call in sink.build_calls(deliveries)[0]] == calls


async def test_an_event_that_spoils_a_request_holds_back_no_other(buses, make_sink, opened, make_delivery):
    """A whole request is refused for what one event is; of usual size the fault may be in the settings."""
    sink = await opened(make_sink())
    deliveries = [make_delivery(number, subject="x" * 513 if number == 3 else "s") for number in range(16)]
    results = list(await sink.send(deliveries))
    assert [type(result) for number, result in enumerate(results) if number != 3] == [type(None)] * 15
    assert type(results[3]) is SinkRetry
    assert "EventSubjectInvalid" in str(results[3])
    assert len(buses.events[BUS]) == 15


@pytest.mark.parametrize(("size", "kind"), [(0, SinkRetry), (70_000, SinkRejected)])
async def test_an_event_that_is_refused_by_itself_is_dead_where_its_size_may_be_why(
    *, buses, make_sink, opened, make_delivery, size, kind
):
    """Of usual size the fault may be in the settings, which an operator can mend."""
    sink = await opened(make_sink())
    deliveries = [make_delivery(0), make_delivery(1, user_data="x" * size)]
    buses.fault_of_event = {deliveries[1].event_id: "EventSizeExceed"}.get
    results = list(await sink.send(deliveries))
    assert [type(result) for result in results] == [type(None), kind]
    assert "EventSizeExceed" in str(results[1])


async def test_check_tells_whether_the_bus_is_there_and_puts_nothing_on_it(buses, make_sink):
    assert await make_sink().check(()) == [
        CheckResult("ok", "sinks.test", "it is there, and these credentials may ask about it")
    ]
    (missing,) = await make_sink("no-such").check(())
    assert (missing.severity, missing.remedy) == ("error", "check event_bus, endpoint and its region, or create it")
    (refused,) = await make_sink(secret="wrong").check(())
    assert refused.severity == "error"
    assert "SignatureDoesNotMatch" in refused.text
    (away,) = await make_sink(url="http://127.0.0.1:9").check(())
    assert away.severity == "error"
    assert buses.events[BUS] == []


async def test_check_of_who_may_put_and_not_ask(make_sink, raw_server):
    async def deny(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"code": "AccessDenied"}).encode()
        writer.write(b"HTTP/1.1 403 -\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    url = f"http://127.0.0.1:{await raw_server(deny)}"
    (found,) = await make_sink(url=url).check(())
    assert found.severity == "warning"
    assert "eventbridge:GetEventBus" in (found.remedy or "")
