"""Who may ask the fake cloud, how it says no, and what it refuses: over a real socket, signed by hand."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from typing import Any

import aiohttp
import pytest

from media_callbacks.aliyun.credentials import Credentials, StaticCredentials
from media_callbacks.aliyun.mns import MnsQueue
from media_callbacks.aliyun.signing import canonical_query, sign_acs3, sign_rpc
from media_callbacks.model.errors import VendorUnavailable
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey, ApiError, Gateway
from media_callbacks.rehearsal.fake_cloud.requests import ApiRequest
from tests.rehearsal.fake_cloud.clouds import GIF, MTS_QUEUE, VENDOR, Clock, make_settings

KEY_ID, SECRET = VENDOR["access_key_id"], VENDOR["access_key_secret"]
VOD, ICE, MTS, MULTIMEDIAAI = "2017-03-21", "2020-11-09", "2014-06-18", "2019-08-10"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
numbers = count()


class FixedClock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


def acs3(**changes: str | None) -> ApiRequest:
    """A request that is right, but for the headers that are changed before it is signed."""
    query, body = {"JobId": "a b&c", "JobType": ""}, b"x=1"
    headers = {
        "host": "vod.example.com",
        "content-type": "application/x-www-form-urlencoded",
        "x-acs-action": "GetJobDetail",
        "x-acs-version": VOD,
        "x-acs-date": "2026-01-02T03:04:05Z",
        "x-acs-signature-nonce": f"nonce-{next(numbers)}",
        "x-acs-content-sha256": hashlib.sha256(body).hexdigest(),
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    sent = {name: value for name, value in headers.items() if value is not None}
    sent["authorization"] = sign_acs3("POST", query, sent, access_key_id=KEY_ID, secret=SECRET)
    return ApiRequest("POST", sent, query, body)


def rpc(**changes: str | None) -> ApiRequest:
    """A request that is right, but for the parameters that are changed before it is signed."""
    parameters = {
        "Action": "GetTaskStatus",
        "Version": MULTIMEDIAAI,
        "AccessKeyId": KEY_ID,
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureNonce": f"nonce-{next(numbers)}",
        "Timestamp": "2026-01-02T03:04:05Z",
        **changes,
    }
    signed = {name: value for name, value in parameters.items() if value is not None}
    query = signed | {"Signature": sign_rpc("POST", signed | {"TaskId": "1 2"}, secret=SECRET)}
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    return ApiRequest("POST", headers, query, b"TaskId=1+2")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def gateway(clock) -> Gateway:
    return Gateway({KEY_ID: AccessKey(SECRET), "STS.1": AccessKey(SECRET, "token")}, clock)


def refusal(gateway: Gateway, request: ApiRequest) -> str:
    with pytest.raises(ApiError) as refused:
        gateway.check(request)
    return refused.value.code


def changed(request: ApiRequest, **changes: Any) -> ApiRequest:
    return ApiRequest(
        **{"method": request.method, "headers": request.headers, "query": request.query, "body": request.body} | changes
    )


@pytest.mark.parametrize("make", [acs3, rpc])
def test_a_signed_request_is_good_once(gateway, make):
    request = make()
    gateway.check(request)
    assert refusal(gateway, request) == "SignatureNonceUsed"


@pytest.mark.parametrize("make", [acs3, rpc])
def test_nothing_that_is_signed_can_be_altered(gateway, make):
    request = make()
    altered = [
        changed(request, method="GET"),
        changed(request, query={**request.query, "JobId": "other"}),
        changed(request, query={**request.query, "More": ""}),
        changed(request, body=b"TaskId=13"),
    ]
    if make is acs3:
        altered += [
            changed(request, headers={**request.headers, "x-acs-action": "ListDynamicImage"}),
            changed(request, headers={**request.headers, "host": "other.example.com"}),
            # Not signed, though it says what is done.
            changed(request, headers={**request.headers, "x-acs-more": "1"}),
        ]
    assert {refusal(gateway, found) for found in altered} == {"SignatureDoesNotMatch"}
    gateway.check(request)


def test_headers_that_are_signed_must_be_there(gateway):
    request = acs3()
    without = {name: value for name, value in request.headers.items() if name != "content-type"}
    assert refusal(gateway, changed(request, headers=without)) == "SignatureDoesNotMatch"
    assert refusal(gateway, changed(request, headers={"authorization": "Bearer token"})) == "IncompleteSignature"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (rpc(AccessKeyId=None), "MissingAccessKeyId"),
        (rpc(AccessKeyId="nobody"), "InvalidAccessKeyId.NotFound"),
        (rpc(AccessKeyId="STS.1"), "MissingSecurityToken"),
        (rpc(AccessKeyId="STS.1", SecurityToken="old"), "InvalidSecurityToken.MismatchWithAccessKey"),
        (rpc(SecurityToken="token"), "InvalidSecurityToken.MismatchWithAccessKey"),
        (rpc(Timestamp=None), "MissingTimestamp"),
        (rpc(Timestamp="2026-01-02 03:04:05"), "InvalidTimeStamp.Format"),
        (rpc(Timestamp="2026-01-02T02:49:04Z"), "InvalidTimeStamp.Expired"),
        (rpc(Timestamp="2026-01-02T03:19:06Z"), "InvalidTimeStamp.Expired"),
        (rpc(SignatureMethod="HMAC-SHA256"), "InvalidSignatureMethod"),
        (rpc(SignatureNonce=None), "MissingSignatureNonce"),
        (acs3(x_acs_date=None), "MissingTimestamp"),
        (acs3(x_acs_date="2026-01-02T03:19:06Z"), "InvalidTimeStamp.Expired"),
        (acs3(x_acs_signature_nonce=None), "MissingSignatureNonce"),
        (acs3(x_acs_security_token="token"), "InvalidSecurityToken.MismatchWithAccessKey"),
        (acs3(x_acs_content_sha256="0" * 64), "SignatureDoesNotMatch"),
    ],
)
def test_refusals(gateway, request_, code):
    assert refusal(gateway, request_) == code


def test_a_request_without_signature(gateway):
    request = rpc()
    unsigned = {name: value for name, value in request.query.items() if name != "Signature"}
    assert refusal(gateway, changed(request, query=unsigned)) == "MissingSignature"


def test_the_window_is_fifteen_minutes_and_nonces_are_forgotten_after_it(gateway, clock):
    gateway.check(rpc(Timestamp="2026-01-02T02:49:05Z"))
    gateway.check(rpc(Timestamp="2026-01-02T03:19:05Z"))
    gateway.check(rpc(SignatureNonce="again"))
    clock.now = NOW + timedelta(minutes=29)
    assert refusal(gateway, rpc(SignatureNonce="again", Timestamp="2026-01-02T03:33:05Z")) == "SignatureNonceUsed"
    clock.now = NOW + timedelta(minutes=31)
    gateway.check(rpc(SignatureNonce="again", Timestamp="2026-01-02T03:35:05Z"))
    assert refusal(gateway, rpc(SignatureNonce="again", Timestamp="2026-01-02T03:35:05Z")) == "SignatureNonceUsed"


# All of it


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    timing = Timing(duration_s=(60.0, 60.0))
    cloud = FakeCloud(make_settings(mts=MTS_QUEUE, gif=GIF), clock=Clock(), timing=timing)
    async with cloud.running():
        yield cloud


async def fetch(method: str, url: str, **given: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **given) as response:
        text = await response.text()
        return response.status, await response.json() if response.content_type == "application/json" else text


async def call(cloud: FakeCloud, action: str, version: str, method: str = "GET", **parameters: str) -> tuple[int, Any]:
    common = {
        "Action": action,
        "Version": version,
        "AccessKeyId": KEY_ID,
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": f"nonce-{next(numbers)}",
        "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **parameters,
    }
    signed = common | {"Signature": sign_rpc(method, common, secret=SECRET)}
    if method == "POST":
        return await fetch("POST", cloud.url, data=signed)
    return await fetch("GET", f"{cloud.url}/?{canonical_query(signed)}")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_parameters_may_come_in_the_query_or_as_a_form(cloud, method):
    job = cloud.submit("vod", "snapshot")
    status, reply = await call(cloud, "GetJobDetail", VOD, method, JobId=job.job_id, JobType="snapshot")
    assert (status, reply["SnapshotJobDetail"]["Status"]) == (200, "Processing")
    assert len(reply["RequestId"]) == 36


async def test_an_error_says_all_that_the_vendor_says(cloud):
    status, reply = await call(cloud, "GetJobDetail", VOD, JobType="snapshot")
    assert status == 400
    assert reply.keys() == {"RequestId", "HostId", "Code", "Message", "Recommend"}
    assert (reply["Code"], reply["Message"]) == ("MissingJobId", "JobId is mandatory for this action.")


@pytest.mark.parametrize(
    ("action", "version", "parameters", "code"),
    [
        ("GetJobDetail", "2000-01-01", {}, "InvalidVersion"),
        # There is none in VOD.
        ("GetDynamicImageJob", VOD, {"JobId": "1"}, "InvalidApi.NotFound"),
        ("GetJobDetail", VOD, {"JobId": "1", "JobType": "animated"}, "InvalidParameter"),
        ("GetJobDetail", VOD, {"JobId": "1", "JobType": "ai"}, "InvalidJob.NotFound"),
        ("GetTranscodeTask", VOD, {"JobIds": ",".join("abcdefghijk")}, "InvalidParameter"),
        ("GetTranscodeTask", VOD, {}, "MissingTranscodeTaskId"),
        ("GetTranscodeTask", VOD, {"TranscodeTaskId": "1"}, "InvalidTranscodeTask.NotFound"),
        ("ListDynamicImage", VOD, {"VideoId": "1"}, "InvalidVideo.NotFound"),
        ("SubmitSnapshotJob", VOD, {"VideoId": "1", "UserData": "["}, "InvalidParameter"),
        ("SubmitSnapshotJob", VOD, {"VideoId": "1", "UserData": "[]"}, "InvalidParameter"),
        ("SubmitDynamicImageJob", VOD, {"VideoId": "1"}, "MissingDynamicImageTemplateId"),
        ("GetDynamicImageJob", ICE, {"JobId": "1"}, "ResourceNotFound"),
        ("SubmitSnapshotJob", ICE, {"Input": "x"}, "InvalidParameter"),
        ("SubmitSnapshotJob", ICE, {"Input": "{}"}, "InvalidParameter"),
        # As the vendor: without ids it is no list of everything.
        ("QueryJobList", MTS, {}, "MissingJobIds"),
        ("QueryJobList", MTS, {"JobIds": ",".join("abcdefghijk")}, "InvalidParameter"),
        ("QueryJobList", MTS, {"JobIds": ","}, "InvalidParameter"),
        ("SubmitJobs", MTS, {"Input": "{}", "Outputs": "7"}, "InvalidParameter"),
        ("GetTaskStatus", MULTIMEDIAAI, {"TaskId": "1"}, "ResourceNotFound"),
        ("ListTasks", MULTIMEDIAAI, {"PageNumber": "one", "PageSize": "10"}, "InvalidParameter"),
        ("ListTasks", MULTIMEDIAAI, {"PageNumber": "0", "PageSize": "10"}, "InvalidParameter"),
        ("ListTasks", MULTIMEDIAAI, {"PageNumber": "1", "PageSize": "101"}, "InvalidParameter"),
        ("CreateGifTask", MULTIMEDIAAI, {"TemplateId": "1"}, "MissingApplicationId"),
    ],
)
async def test_questions_that_make_no_sense(cloud, action, version, parameters, code):
    status, reply = await call(cloud, action, version, **parameters)
    assert (status, reply["Code"]) == (404 if "NotFound" in code else 400, code)


async def test_gif_tasks_are_listed_page_by_page(cloud):
    jobs = [cloud.submit("multimediaai", "animated_image") for _ in range(5)]
    cloud.submit("vod", "snapshot")
    page = {"PageNumber": "2", "PageSize": "2", "ServiceType": "3"}
    _, reply = await call(cloud, "ListTasks", MULTIMEDIAAI, **page)
    assert (reply["TotalCount"], reply["PageNumber"], reply["PageSize"]) == (5, 2, 2)
    assert [str(task["TaskId"]) for task in reply["Tasks"]] == [jobs[2].job_id, jobs[1].job_id]
    assert reply["Tasks"][0]["VideoName"] == jobs[2].video_name
    _, reply = await call(cloud, "ListTasks", MULTIMEDIAAI, PageNumber="1", PageSize="9", TaskId=jobs[0].job_id)
    assert reply["TotalCount"] == 1
    _, reply = await call(cloud, "ListTasks", MULTIMEDIAAI, PageNumber="1", PageSize="9", Status="2")
    assert reply["Tasks"] == []
    _, reply = await call(cloud, "ListTasks", MULTIMEDIAAI, PageNumber="1", PageSize="9", ServiceType="1")
    assert reply["Tasks"] == []


async def test_mts_tells_what_became_of_a_notification(cloud):
    jobs = [cloud.submit("mts", "snapshot", is_lost=True, duration_s=0.0) for _ in range(10)]
    elsewhere = cloud.submit("mts", "snapshot", sources=[], duration_s=0.0)
    _, reply = await call(
        cloud,
        "QuerySnapshotJobList",
        MTS,
        SnapshotJobIds=",".join([*(job.job_id for job in jobs[:9]), elsewhere.job_id]),
    )
    # What is not known is left out.
    assert all(job.keys().isdisjoint({"UserData", "Code"}) for job in reply["SnapshotJobList"]["SnapshotJob"])
    found = {job["Id"]: job.get("MNSMessageResult", {}) for job in reply["SnapshotJobList"]["SnapshotJob"]}
    assert found[elsewhere.job_id] == {}
    for job in jobs[:9]:
        assert (
            found[job.job_id].keys()
            == {
                "published": {"MessageId"},
                "not_published": {"ErrorCode", "ErrorMessage"},
            }[job.notification]
        )


async def test_a_gateway_that_has_lost_its_way(cloud):
    cloud.faults = Faults(html=1.0)
    status, page = await call(cloud, "GetJobDetail", VOD)
    assert (status, page.startswith("<html>")) == (502, True)


async def test_throttling_is_for_job_apis_and_queues_and_can_be_switched(cloud):
    cloud.throttle(1.0)
    status, reply = await call(cloud, "QueryJobList", MTS, JobIds="1")
    assert (status, reply["Code"], cloud.queues.faults.throttled) == (400, "Throttling.User", 1.0)
    cloud.throttle(0.0)
    assert (await call(cloud, "QueryJobList", MTS, JobIds="1"))[0] == 200
    assert cloud.queues.faults.throttled == 0.0


async def test_queues_are_on_the_same_port(cloud):
    status, reply = await fetch("GET", f"{cloud.url}/queues/mts-done/messages")
    assert (status, "MissingVersionHeader" in reply) == (400, True)


async def test_a_long_poll_ends_with_the_cloud(caplog):
    cloud = FakeCloud(make_settings(mts=MTS_QUEUE))
    credentials = StaticCredentials(Credentials(access_key_id=KEY_ID, access_key_secret=SECRET))
    async with cloud.running():
        queue = MnsQueue(cloud.url, "mts-done", credentials=credentials, clock=cloud.clock)
        poll = asyncio.create_task(queue.receive(16, wait_s=30))
        while not cloud.queues._long_polls:  # noqa: ASYNC110 - the queues have no event for it
            await asyncio.sleep(0)
    with pytest.raises(VendorUnavailable):
        await poll
    await queue.close()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_that_is_too_large_is_not_kept(cloud):
    status, reply = await fetch("POST", cloud.url, data=BytesIO(b"x" * (2 * 1024 * 1024)))
    assert (status, reply["Code"]) == (400, "InvalidVersion")


# The control surface


async def test_jobs_and_faults_are_controlled_over_http(cloud):
    url = f"{cloud.url}/_cloud"
    given = {"product": "vod", "family": "snapshot", "outcome": "failed", "media_id": "video-1"}
    status, job = await fetch("POST", f"{url}/jobs", json=given)
    assert (status, job["outcome"], job["media_id"]) == (200, "failed", "video-1")
    assert await fetch("GET", f"{url}/jobs") == (200, [job])
    status, faults = await fetch("POST", f"{url}/faults", json={"loss": 0.25})
    assert (status, faults["loss"], cloud.faults.loss) == (200, 0.25, 0.25)
    assert await fetch("GET", f"{url}/faults") == (200, faults)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "jobs", "{", 400),
        ("POST", "jobs", "[]", 400),
        ("POST", "jobs", "{}", 400),
        ("POST", "jobs", '{"product": "sqs", "family": "x"}', 400),
        ("POST", "jobs", '{"product": "vod", "family": "x"}', 400),
        ("POST", "jobs", '{"product": "vod", "family": "snapshot", "colour": "red"}', 400),
        ("POST", "faults", '{"loss": 2}', 400),
        ("POST", "faults", '{"colour": 1}', 400),
        ("DELETE", "jobs", "", 404),
        ("GET", "queues", "", 404),
    ],
)
async def test_what_the_control_surface_refuses(cloud, method, path, body, status):
    found, reply = await fetch(method, f"{cloud.url}/_cloud/{path}", data=body)
    assert (found, reply.keys()) == (status, {"error"})
