"""
Putting events on buses of Alibaba Cloud: to the fake cloud, signed as the vendor's own SDK does, and to a scripted
server for what is wrong.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from alibabacloud_eventbridge import models
from alibabacloud_eventbridge_util.client import Client as EventBridgeUtil
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from media_callbacks.aliyun.credentials import Credentials
from media_callbacks.aliyun.eventbridge import EventBridgeClient
from media_callbacks.aliyun.signing import sign_eventbridge
from media_callbacks.model.errors import VendorError, VendorRefused, VendorUnavailable
from media_callbacks.rehearsal.fake_cloud.buses import FakeBuses
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from tests.factories.fake_queues import KEY_ID, SECRET, Clock, Credentialed, serving

BUS = "media"


def entry(number: int = 0, **members: Any) -> dict[str, str]:
    event = {
        "aliyuneventbusname": BUS,
        "specversion": "1.0",
        "id": f"evt_{number}",
        "source": "/aliyun/vod/default",
        "type": "media.snapshot.succeeded",
        "data": {"订单": number},
    }
    return {"id": f"evt_{number}", "event": json.dumps(event | members, ensure_ascii=False)}


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[EventBridgeClient]:
    options.setdefault("credentials", Credentialed())
    options.setdefault("clock", Clock())
    client = EventBridgeClient(url, options.pop("bus", BUS), **options)
    try:
        yield client
    finally:
        await client.close()


async def put(client: EventBridgeClient, *entries: dict[str, str]) -> list[VendorError | None]:
    return list(await client.put(entries or [entry()], patience_s=15.0))


# Against the fake cloud


@asynccontextmanager
async def serving_buses(*, token: str | None = None) -> AsyncIterator[tuple[FakeBuses, str]]:
    buses = FakeBuses({KEY_ID: AccessKey(SECRET, token)}, Clock())
    buses.create(BUS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await buses.respond(request, await request.body())(scope, receive, send)

    async with serving(app) as url:
        yield buses, url


@pytest.mark.parametrize("token", [None, "sts-token"])
async def test_events_arrive_as_they_are(token):
    async with (
        serving_buses(token=token) as (buses, url),
        client_of(url + "/", credentials=Credentialed(token=token)) as client,
    ):
        entries = [entry(number) for number in range(16)]
        assert await put(client, *entries) == [None] * 16
        await client.describe()
        assert buses.events[BUS] == [json.loads(each["event"]) for each in entries]


async def test_each_event_has_its_own_answer():
    async with serving_buses() as (buses, url), client_of(url) as client:
        buses.fault_of_event = {"evt_1": "InternalError", "evt_2": "EventSizeExceed", "evt_3": "TooManyRequests"}.get
        results = await put(client, *map(entry, range(5)))
        assert [type(result) for result in results] == [
            type(None),
            VendorUnavailable,
            VendorRefused,
            VendorUnavailable,
            type(None),
        ]
        assert [getattr(result, "is_throttled", None) for result in results] == [None, False, None, True, None]
        assert len(buses.events[BUS]) == 2


@pytest.mark.parametrize(
    "credentials, code, advice",
    [
        ({"secret": "wrong"}, "SignatureDoesNotMatch", "access_key_secret"),
        ({"key_id": "LTAI-nobody"}, "InvalidAccessKeyId", "access_key_id"),
        ({"token": "old"}, "SecurityTokenInvalid", "STS token has expired"),
    ],
)
async def test_wrong_credentials_are_given_back_and_nothing_is_sent_again(credentials, code, advice):
    provider = Credentialed(**credentials)
    provider.following = [Credentials(access_key_id=KEY_ID, access_key_secret=SECRET)]
    async with serving_buses() as (_, url), client_of(url, credentials=provider) as client:
        with pytest.raises(VendorRefused, match=advice) as refused:
            await put(client)
        assert (refused.value.code, refused.value.status) == (code, 403)
        assert provider.invalidated == 1
        assert await put(client) == [None]


async def test_a_bus_that_is_not_there():
    async with serving_buses() as (_, url), client_of(url, bus="no-such") as client:
        for ask in (put(client, entry(aliyuneventbusname="no-such")), client.describe()):
            with pytest.raises(VendorRefused, match="no such bus") as refused:
                await ask
            assert refused.value.code == "EventBusNotExist"


@pytest.mark.parametrize("ahead_s, side", [(1200, "ahead of"), (-1200, "behind")])
async def test_a_clock_that_is_off_is_told_by_how_much(ahead_s, side):
    """By the date of the refusal: no document says which code it has."""
    clock = Clock()
    clock.ahead = timedelta(seconds=ahead_s + 0.5)
    async with serving_buses() as (_, url), client_of(url, clock=clock) as client:
        with pytest.raises(VendorRefused, match=f"(1199|120[0-2]) s {side}"):
            await put(client)


async def test_throttling_asks_for_less():
    async with serving_buses() as (buses, url), client_of(url) as client:
        buses.throttled = lambda: True
        with pytest.raises(VendorUnavailable, match="rate_per_s") as found:
            await put(client)
        assert found.value.is_throttled


# Held to the vendor's SDK


class Watching:
    """Answers as told, and keeps what it was asked."""

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.seen.append((scope["raw_path"].decode(), dict(request.headers), await request.body()))
        await Response(self.body, self.status, headers=self.headers)(scope, receive, send)


@asynccontextmanager
async def answering(status: int, body: Any, **options: Any) -> AsyncIterator[tuple[Watching, EventBridgeClient]]:
    server = Watching(status, body)
    async with serving(server) as url, client_of(url, **options) as client:
        yield server, client


TAKEN = {"RequestId": "R", "FailedEntryCount": 0, "EntryList": [{"EventId": "evt_0", "TraceId": "T"}]}


@pytest.mark.parametrize("token", [None, "sts-token"])
async def test_the_sdk_would_sign_it_alike_and_send_the_same(token):
    async with answering(200, TAKEN, credentials=Credentialed(token=token)) as (server, client):
        assert await put(client) == [None]
        await client.describe()
    bodies = [
        EventBridgeUtil.serialize(
            [
                models.CloudEvent(
                    id="evt_0",
                    source="/aliyun/vod/default",
                    specversion="1.0",
                    type="media.snapshot.succeeded",
                    extensions={"aliyuneventbusname": BUS},
                    data='{"订单": 0}'.encode(),
                )
            ]
        ),
        models.GetEventBusRequest(event_bus_name=BUS).to_map(),
    ]
    assert [path for path, *_ in server.seen] == ["/openapi/putEvents", "/openapi/getEventBus"]
    for (path, headers, body), theirs in zip(server.seen, bodies, strict=True):
        request = SimpleNamespace(method="POST", pathname=path, headers=headers, query={})
        signature = EventBridgeUtil.get_signature(EventBridgeUtil.get_string_to_sign(request), SECRET)
        assert headers["authorization"] == f"acs:{KEY_ID}:{signature}"
        assert json.loads(body) == theirs
        assert headers["x-eventbridge-version"] == "2015-06-06"
        assert headers.get("x-acs-security-token") == token
    assert server.seen[0][1]["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
    nonces = [headers["x-acs-signature-nonce"] for _, headers, _ in server.seen]
    assert len(set(nonces)) == 2


VISIBLE = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Z")), max_size=20)


@given(path=VISIBLE, secret=VISIBLE, acs=st.dictionaries(st.from_regex("[a-z0-9-]{1,9}", fullmatch=True), VISIBLE))
def test_whatever_is_signed_is_signed_as_the_sdk_does(path, secret, acs):
    headers = {"date": "Sat, 18 Apr 2020 05:30:41 GMT", "content-type": "a/b", "content-md5": "m", "accept": "x"}
    headers |= {f"x-acs-{name}": value for name, value in acs.items()}
    request = SimpleNamespace(method="POST", pathname=path, headers=headers, query={})
    theirs = EventBridgeUtil.get_signature(EventBridgeUtil.get_string_to_sign(request), secret)
    assert sign_eventbridge("POST", path, headers, access_key_id="id", secret=secret) == f"acs:id:{theirs}"


# Against a server that answers anything


def entries(*listed: Any, failed: int | None = None) -> dict[str, Any]:
    count = sum("ErrorCode" in each for each in listed) if failed is None else failed
    return {"RequestId": "R", "FailedEntryCount": count, "EntryList": list(listed)}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
async def test_entries_are_found_by_their_ids(order):
    listed = [{"EventId": "evt_0"}, {"EventId": "evt_1", "ErrorCode": "EventInvalid"}, {"EventId": "evt_2"}]
    async with answering(200, entries(*(listed[number] for number in order))) as (_, client):
        results = await put(client, *map(entry, range(3)))
    assert [type(result) for result in results] == [type(None), VendorRefused, type(None)]


async def test_success_may_be_said_in_a_code():
    listed = [{"eventId": "x", "ErrorCode": "Success"}, {"EventId": "y", "ErrorCode": ""}]
    async with answering(200, entries(*listed, failed=0)) as (_, client):
        assert await put(client, entry(0), entry(1)) == [None, None]


async def test_all_come_again_when_it_does_not_say_which_failed():
    async with answering(200, entries({"EventId": "99418e3a"}, {"EventId": "0", "ErrorCode": "EventInvalid"})) as (
        _,
        client,
    ):
        results = await put(client, entry(0), entry(1))
    assert [type(result) for result in results] == [VendorUnavailable] * 2


async def test_the_only_event_is_the_one_that_failed():
    async with answering(200, entries({"ErrorCode": "EventSizeExceed"})) as (_, client):
        (result,) = await put(client)
    assert isinstance(result, VendorRefused)
    assert result.code == "EventSizeExceed"


@pytest.mark.parametrize(
    "status, body",
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, {}),
        (200, {"EntryList": "x"}),
        (200, entries()),
        (200, entries({"EventId": "evt_0"}, {"EventId": "evt_0"})),
        (200, entries({"EventId": "evt_0"}, failed=1)),
        (200, b"x" * (128 * 1024 + 1)),
        (200, {"code": {"a": 1}}),
        (204, b""),
        (403, {}),
        (403, {"code": "no\ncode LEAK"}),
        (429, b"<html>"),
        (500, {"code": "InternalError"}),
        (502, b"<html>bad gateway"),
    ],
)
async def test_what_is_no_answer_may_pass(status, body):
    async with answering(status, body) as (_, client):
        with pytest.raises(VendorUnavailable) as found:
            await put(client)
    assert f"HTTP {status}" in str(found.value)
    assert "LEAK" not in str(found.value)
    assert found.value.is_throttled == (status == 429)


@pytest.mark.parametrize(
    "status, code, words",
    [
        (403, "AccessDenied", "allow eventbridge:PutEvents"),
        (403, "AccessDeniedByPreCheck", "allow eventbridge:PutEvents"),
        (403, "ServiceAccessDenied", "activate EventBridge"),
        (403, "AccountIdNotExist", "check endpoint"),
        (403, "StsAccessIdExpired", "STS token"),
        (409, "Whatever", "settings of this sink"),
    ],
)
@pytest.mark.parametrize("key", ["code", "Code"])
async def test_codes(status, code, words, key):
    async with answering(status, {key: code, "message": "The secret thing is LEAK."}) as (_, client):
        with pytest.raises(VendorRefused, match=words) as found:
            await put(client)
    assert found.value.code == code
    assert "LEAK" not in str(found.value)


async def test_what_the_vendor_asks_to_wait_is_passed_on():
    async with answering(429, {"code": "TooManyRequests"}) as (server, client):
        server.headers = {"Retry-After": "7"}
        with pytest.raises(VendorUnavailable) as found:
            await put(client)
    assert (found.value.retry_after_s, found.value.is_throttled) == (7.0, True)


async def test_a_redirect_is_not_followed():
    async with answering(302, b"") as (server, client):
        server.headers = {"Location": "/elsewhere"}
        with pytest.raises(VendorRefused, match="https"):
            await put(client)
        assert len(server.seen) == 1


async def test_a_clock_that_is_a_little_off_is_no_reason():
    clock: Callable[[], datetime] = Clock()
    async with answering(403, {"code": "AccessDenied"}, clock=clock) as (server, client):
        server.headers = {"Date": format_datetime(clock() - timedelta(seconds=500), usegmt=True)}
        with pytest.raises(VendorRefused, match="allow eventbridge"):
            await put(client)
