"""The buses of the fake cloud, through the vendor's own SDK, unchanged, over a real socket."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from alibabacloud_eventbridge import models
from alibabacloud_eventbridge.client import Client
from alibabacloud_tea_util.client import Client as UtilClient
from Tea.exceptions import TeaException

from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Faults
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from tests.rehearsal.fake_cloud.clouds import MTS_QUEUE, make_settings

# Of the package of credentials, by the SDK.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated function:DeprecationWarning")

KEY_ID, SECRET = "fake-id-1", "fake-secret-1"
TEMPORARY_KEY_ID, TOKEN = "STS.fake-id-2", "fake-token-2"
BUS = "media"


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    keys = {KEY_ID: AccessKey(SECRET), TEMPORARY_KEY_ID: AccessKey(SECRET, TOKEN)}
    cloud = FakeCloud(make_settings(mts=MTS_QUEUE), access_keys=keys)
    cloud.buses.create(BUS)
    async with cloud.running():
        yield cloud


def connect(cloud: FakeCloud, *, key_id: str = KEY_ID, secret: str = SECRET, token: str | None = None) -> Client:
    return Client(
        models.Config(
            access_key_id=key_id,
            access_key_secret=secret,
            security_token=token,
            endpoint=cloud.url.removeprefix("http://"),
            protocol="http",
        )
    )


def event(number: int = 0, *, bus: str = BUS, **members: Any) -> models.CloudEvent:
    given = {
        "id": f"a5074581-{number}",
        "source": "/aliyun/vod/default",
        "type": "media.snapshot.succeeded",
        "datacontenttype": "application/json",
        "data": json.dumps({"订单": number}).encode(),
        "extensions": {"aliyuneventbusname": bus},
    }
    return models.CloudEvent(**(given | members))


async def refused(code: str, asked: Any) -> None:
    with pytest.raises(TeaException) as found:
        await asked
    assert found.value.code == code


@pytest.mark.parametrize(("key_id", "token"), [(KEY_ID, None), (TEMPORARY_KEY_ID, TOKEN)])
async def test_events_are_put_on_a_bus(cloud, key_id, token):
    answer = await connect(cloud, key_id=key_id, token=token).put_events_async([event(1), event(2)])
    answer.validate()
    assert answer.failed_entry_count == 0
    assert [entry.event_id for entry in answer.entry_list] == ["a5074581-1", "a5074581-2"]
    first, second = cloud.buses.events[BUS]
    assert (first["id"], first["data"], second["data"]) == ("a5074581-1", {"订单": 1}, {"订单": 2})


async def test_an_event_that_fails_has_its_own_entry(cloud):
    cloud.buses.fault_of_event = {"a5074581-2": "InternalError"}.get
    answer = await connect(cloud).put_events_async([event(1), event(2)])
    assert answer.failed_entry_count == 1
    assert [entry.error_code for entry in answer.entry_list] == [None, "InternalError"]
    assert len(cloud.buses.events[BUS]) == 1


async def test_a_bus_is_made_and_asked_for(cloud):
    client = connect(cloud)
    await refused("EventBusNotExist", client.get_event_bus_async(models.GetEventBusRequest(event_bus_name="new")))
    made = await client.create_event_bus_async(models.CreateEventBusRequest(event_bus_name="new"))
    found = await client.get_event_bus_async(models.GetEventBusRequest(event_bus_name="new"))
    found.validate()
    assert found.event_bus_arn == made.event_bus_arn


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        ({"key_id": "nobody"}, "InvalidAccessKeyId"),
        ({"secret": "wrong"}, "SignatureDoesNotMatch"),
        ({"token": "stolen"}, "SecurityTokenInvalid"),
        ({"key_id": TEMPORARY_KEY_ID}, "SecurityTokenInvalid"),
    ],
)
async def test_wrong_credentials_are_refused(cloud, credentials, code):
    await refused(code, connect(cloud, **credentials).put_events_async([event()]))


@pytest.mark.parametrize("date", ["Sat, 18 Apr 2020 05:30:41 GMT", "yesterday"])
async def test_a_clock_that_is_off_is_refused(cloud, monkeypatch, date):
    monkeypatch.setattr(UtilClient, "get_date_utcstring", staticmethod(lambda: date))
    await refused("RequestExpired", connect(cloud).put_events_async([event()]))


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, of the SDK's request
@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([event(bus="no-such")], "EventBusNotExist"),
        ([event(1), event(2, bus="other")], "PutEventsRequestMoreThanOneEventBus"),
        ([event(number) for number in range(17)], "PutEventsRequestTooLarge"),
        ([event(data=json.dumps("x" * 262_144).encode())], "EventSizeExceed"),
        ([event(number, data=json.dumps("x" * 220_000).encode()) for number in range(5)], "PutEventsRequestTooLarge"),
        ([event(subject="x" * 513)], "EventSubjectInvalid"),
        ([event(extensions={})], "EventInvalid"),
    ],
)
async def test_what_is_refused(cloud, events, code):
    await refused(code, connect(cloud).put_events_async(events))
    assert cloud.buses.events[BUS] == []


async def test_too_many_requests(cloud):
    cloud.faults = Faults(throttling=1)
    await refused("TooManyRequests", connect(cloud).put_events_async([event()]))
