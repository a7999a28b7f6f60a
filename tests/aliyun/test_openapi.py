"""The client against a server that notes what comes and answers what the test says."""

import asyncio
import gzip
import json
from collections import deque
from collections.abc import Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from alibabacloud_tea_openapi.utils import Utils
from alibabacloud_tea_openapi.utils_models import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.aliyun.calls import ApiRequest
from media_callbacks.aliyun.credentials import Credentials, StaticCredentials
from media_callbacks.aliyun.openapi import ATTEMPTS, MAX_REPLY_BYTES, OpenApiClient, Reply, endpoint_of, read_reply
from media_callbacks.model.errors import VendorRefused, VendorUnavailable

SECRETS = ("LTAI5tKeyId", "keySecret", "securityToken", "top-secret-user-data")
CREDENTIALS = Credentials(access_key_id=SECRETS[0], access_key_secret=SECRETS[1], security_token=SECRETS[2])
SNAPSHOTS = ApiRequest(
    api="mts",
    action="QuerySnapshotJobList",
    version="2014-06-18",
    parameters={"SnapshotJobIds": "a b,ü*~+/%2C", "NextPageToken": SECRETS[3]},
)
TASK = ApiRequest(
    api="multimediaai", action="GetTaskResult", version="2019-08-10", parameters={"TaskId": "43567811", "X": "ü &"}
)
APIS = ("vod", "ice", "mts", "multimediaai")
FOUND = {"RequestId": "F1", "SnapshotJobList": {"SnapshotJob": []}}


def refusal(status, code, *, headers=None, key="Code", **more):
    body = {"RequestId": "0A1B-2C", "HostId": "mts.aliyuncs.com", "Message": SECRETS[3], **more}
    return web.json_response({key: code, **body}, status=status, headers=headers)


class Vendor:
    """Answers from ``replies``, in their order, then with ``FOUND``."""

    def __init__(self):
        self.replies: deque[web.Response] = deque()
        self.requests: list[SimpleNamespace] = []
        self.now = 1000.0
        self.waits: list[float] = []
        self.observed: list[tuple[str, str, str]] = []
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self.answer)
        self.server = TestServer(app)

    async def answer(self, request):
        self.requests.append(
            SimpleNamespace(
                method=request.method,
                target=request.raw_path,
                headers={name.lower(): value for name, value in request.headers.items()},
                body=await request.read(),
                connection=request.transport,
            )
        )
        return self.replies.popleft() if self.replies else web.json_response(FOUND)

    async def wait(self, event, seconds):
        """In no time."""
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def client(self, credentials=None, **more):
        endpoints = dict.fromkeys(APIS, str(self.server.make_url("/")))
        settings = {
            "region": "cn-hangzhou",
            "endpoints": endpoints,
            "observe": lambda *result: self.observed.append(result),
            "monotonic": lambda: self.now,
            "wait": self.wait,
            "rng": Random(7),
            **more,
        }
        return OpenApiClient(credentials or StaticCredentials(CREDENTIALS), **settings)

    def results(self):
        return [result for _api, _action, result in self.observed]


@pytest.fixture
async def vendor():
    vendor = Vendor()
    async with vendor.server:
        yield vendor


@pytest.fixture
async def client(vendor):
    client = vendor.client()
    yield client
    await client.close()


# What is sent


async def test_what_arrives_is_what_was_signed_by_the_vendors_own_code(vendor, client):
    assert await client.call(SNAPSHOTS) == FOUND
    [request] = vendor.requests
    assert (request.method, request.body) == ("POST", b"")
    assert request.headers["host"] == f"127.0.0.1:{vendor.server.port}"
    assert "content-type" not in request.headers
    assert request.headers["content-length"] == "0"
    assert request.headers["accept-encoding"] == "identity"
    path, query = request.target.split("?")
    assert path == "/"
    assert query == f"NextPageToken={SECRETS[3]}&SnapshotJobIds=a%20b%2C%C3%BC%2A~%2B%2F%252C"
    assert request.headers["x-acs-action"] == SNAPSHOTS.action
    assert request.headers["x-acs-version"] == SNAPSHOTS.version
    assert request.headers["x-acs-security-token"] == SECRETS[2]
    signed = {name: value for name, value in request.headers.items() if name == "host" or name.startswith("x-acs-")}
    received = SimpleNamespace(method="POST", pathname="/", query=dict(parse_qsl(query)), headers=signed)
    empty = request.headers["x-acs-content-sha256"]
    assert empty == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert request.headers["authorization"] == Utils.get_authorization(
        received, "ACS3-HMAC-SHA256", empty, SECRETS[0], SECRETS[1]
    )


async def test_multimediaai_gets_its_own_signature_over_query_and_form(vendor, client):
    assert await client.call(TASK) == FOUND
    [request] = vendor.requests
    assert (request.method, request.body) == ("POST", b"TaskId=43567811&X=%C3%BC%20%26")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in request.headers
    parameters = dict(parse_qsl(urlsplit(request.target).query))
    assert parameters.keys() & TASK.parameters.keys() == set()
    assert (parameters["Action"], parameters["Version"]) == (TASK.action, TASK.version)
    assert parameters["SecurityToken"] == SECRETS[2]
    signature = parameters.pop("Signature")
    assert signature == Utils.get_rpcsignature({**parameters, **TASK.parameters}, "POST", SECRETS[1])


@pytest.mark.parametrize("query", [SNAPSHOTS, TASK])
async def test_credentials_without_a_token_send_none(vendor, query):
    client = vendor.client(StaticCredentials(Credentials(access_key_id="id", access_key_secret="secret")))
    await client.call(query)
    await client.close()
    [request] = vendor.requests
    assert "x-acs-security-token" not in request.headers
    assert "SecurityToken" not in request.target


async def test_every_attempt_has_its_own_nonce_and_time(vendor):
    times = iter([datetime(2026, 1, 2, 3, 4, 5, 999999, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)])
    client = vendor.client(clock=lambda: next(times))
    vendor.replies.append(web.Response(status=500))
    await client.call(SNAPSHOTS)
    await client.close()
    first, second = (request.headers for request in vendor.requests)
    assert first["x-acs-signature-nonce"] != second["x-acs-signature-nonce"]
    assert (first["x-acs-date"], second["x-acs-date"]) == ("2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z")


async def test_connections_are_used_again(vendor, client):
    for _ in range(3):
        await client.call(SNAPSHOTS)
    assert len({request.connection for request in vendor.requests}) == 1


PUBLIC_REGIONS = (
    *("cn-hangzhou", "cn-shanghai", "cn-beijing", "cn-shenzhen", "cn-hongkong", "cn-chengdu", "cn-zhangjiakou"),
    *("cn-qingdao", "cn-huhehaote", "cn-wulanchabu", "cn-wuhan", "ap-southeast-1", "ap-southeast-2", "ap-southeast-3"),
    *("ap-southeast-5", "ap-northeast-1", "us-west-1", "us-east-1", "eu-central-1", "eu-west-1", "ap-south-1"),
    "me-east-1",
)


@pytest.mark.parametrize(
    "api,package",
    [("ice", "ice20201109"), ("vod", "vod20170321"), ("multimediaai", "multimediaai20190810"), ("mts", "mts20140618")],
)
def test_hosts_are_those_of_the_vendors_packages(api, package):
    module = pytest.importorskip(f"alibabacloud_{package}.client")
    keys = {"access_key_id": "id", "access_key_secret": "secret"}
    theirs = {region: module.Client(Config(**keys, region_id=region))._endpoint for region in PUBLIC_REGIONS}
    assert {region: endpoint_of(api, region) for region in PUBLIC_REGIONS} == theirs


async def test_without_an_override_the_host_follows_from_the_region(vendor):
    client = vendor.client(endpoints={"ice": "127.0.0.1:1"})
    with pytest.raises(VendorUnavailable, match=r"no answer from https://127\.0\.0\.1:1 "):
        await client.call(ApiRequest(api="ice", action="GetSnapshotJob", version="2020-11-09", parameters={}))
    await client.close()


# What comes back


@pytest.mark.parametrize(
    "body",
    [
        {"Status": 2, "Code": "OK"},
        {"Code": "Success"},
        {"code": 200},
        {"Code": ""},
        {"Code": None, "Job": {"Code": "InvalidParameter", "State": "Fail"}},
    ],
)
async def test_success_may_have_a_code_and_a_job_its_own(vendor, client, body):
    vendor.replies.append(web.json_response(body))
    assert await client.call(SNAPSHOTS) == body
    assert vendor.observed == [("mts", "QuerySnapshotJobList", "ok")]


def test_odd_texts_do_not_cost_the_reply():
    assert read_reply("A", Reply(status=200, body=b'{"a": "x\ny", "b": "\\ud83d", "c": NaN}')) == {
        "a": "x\ny",
        "b": "\ufffd",
        "c": None,
    }


GZIP, COMPRESSED = {"Content-Encoding": "gzip"}, gzip.compress(b"{}")
THROTTLED = "throttled"
UNAVAILABLE = "unavailable"


@pytest.mark.parametrize(
    "reply,result",
    [
        pytest.param(lambda: refusal(400, "Throttling.User"), THROTTLED, id="code"),
        pytest.param(lambda: refusal(400, "Throttling", key="code"), THROTTLED, id="lower-case"),
        pytest.param(lambda: refusal(200, "Throttling.Api"), THROTTLED, id="code-in-200"),
        pytest.param(lambda: web.Response(status=429), THROTTLED, id="429"),
        pytest.param(lambda: refusal(503, "ServiceUnavailable"), THROTTLED, id="503"),
        pytest.param(lambda: refusal(400, "Busy", headers={"x-acs-retry-after": "20"}), THROTTLED, id="header"),
        pytest.param(lambda: refusal(500, "InternalError"), UNAVAILABLE, id="500"),
        pytest.param(lambda: refusal(200, "InternalError"), UNAVAILABLE, id="error-in-200"),
        pytest.param(lambda: web.Response(status=502, text="<html>Bad gateway</html>"), UNAVAILABLE, id="502"),
        pytest.param(lambda: web.Response(status=404, text="<html>Not found</html>"), UNAVAILABLE, id="404-html"),
        pytest.param(lambda: web.Response(text="<html>Log in, please</html>"), UNAVAILABLE, id="html"),
        pytest.param(web.Response, UNAVAILABLE, id="empty"),
        pytest.param(lambda: web.Response(status=204), UNAVAILABLE, id="204"),
        pytest.param(lambda: web.Response(text='{"SnapshotJobList": {"Snap'), UNAVAILABLE, id="truncated"),
        pytest.param(lambda: web.Response(body=COMPRESSED, headers=GZIP), UNAVAILABLE, id="compressed"),
        pytest.param(lambda: web.Response(text="[{}]"), UNAVAILABLE, id="list"),
        pytest.param(lambda: web.Response(text="null"), UNAVAILABLE, id="null"),
        pytest.param(lambda: web.Response(text='{"a":' * 5000 + "1" + "}" * 5000), UNAVAILABLE, id="deep"),
        pytest.param(lambda: web.Response(body=b'{"a": "' + b"x" * 10_000_000 + b'"}'), UNAVAILABLE, id="10-MB"),
        pytest.param(lambda: web.Response(status=302, headers={"Location": "/away"}), UNAVAILABLE, id="redirect"),
    ],
)
async def test_what_may_pass_is_tried_three_times(vendor, client, reply, result):
    vendor.replies.extend(reply() for _ in range(ATTEMPTS))
    with pytest.raises(VendorUnavailable, match=r"^QuerySnapshotJobList was answered with HTTP \d+") as raised:
        await client.call(SNAPSHOTS)
    assert raised.value.is_throttled == (result == THROTTLED)
    assert not any(secret in str(raised.value) for secret in SECRETS)
    assert vendor.results() == [result] * ATTEMPTS
    assert [request.target for request in vendor.requests] == [vendor.requests[0].target] * ATTEMPTS
    assert len(vendor.waits) == ATTEMPTS - 1
    assert all(0 <= wait_s <= 2**attempt for attempt, wait_s in enumerate(vendor.waits))


def test_the_largest_reply_is_read():
    body = b'{"a": "' + b"x" * (MAX_REPLY_BYTES - 9) + b'"}'
    assert len(read_reply("A", Reply(status=200, body=body))["a"]) == MAX_REPLY_BYTES - 9
    with pytest.raises(VendorUnavailable, match="more than"):
        read_reply("A", Reply(status=200, body=body + b" "))


async def test_an_attempt_that_works_ends_it(vendor, client):
    vendor.replies.extend([refusal(400, "Throttling"), web.Response(status=500)])
    assert await client.call(SNAPSHOTS) == FOUND
    assert vendor.results() == ["throttled", "unavailable", "ok"]


async def test_delays_are_spread_over_the_whole_time(vendor):
    client = vendor.client(rng=Random(1))
    for _ in range(60):
        vendor.replies.extend([web.Response(status=500), web.Response(status=500)])
        await client.call(SNAPSHOTS)
    await client.close()
    for waits, longest_s in ((vendor.waits[::2], 1), (vendor.waits[1::2], 2)):
        assert min(waits) < 0.1 * longest_s
        assert 0.9 * longest_s < max(waits) <= longest_s


@pytest.mark.parametrize(
    "header,asked_s,requests",
    [
        ("3500", 3.5, 3),
        ("3600000", 3600.0, 1),
        ("999999999999", 86400.0, 1),
        ("0", None, 3),
        ("-5", None, 3),
        ("x", None, 3),
    ],
)
async def test_the_wait_that_the_vendor_asks_for_is_kept_in_milliseconds(vendor, client, header, asked_s, requests):
    vendor.replies.extend(refusal(429, "Throttling", headers={"x-acs-retry-after": header}) for _ in range(3))
    with pytest.raises(VendorUnavailable) as raised:
        await client.call(SNAPSHOTS)
    assert raised.value.retry_after_s == asked_s
    # A long wait is left to whoever asked.
    assert len(vendor.requests) == requests
    assert asked_s is None or all(wait_s >= asked_s for wait_s in vendor.waits)


@pytest.mark.parametrize(
    "reply,code,advice",
    [
        (lambda: refusal(404, "InvalidJob.NotFound"), "InvalidJob.NotFound", ""),
        (lambda: refusal(400, "MissingParameter", key="code"), "MissingParameter", ""),
        (lambda: refusal(403, "Forbidden.RAM"), "Forbidden.RAM", "allow this action"),
        (lambda: refusal(404, "InvalidAction.NotFound"), "InvalidAction.NotFound", "check the endpoint"),
        (lambda: refusal(401, "BalanceNotEnough"), "BalanceNotEnough", "there is a debt"),
        (lambda: refusal(401, "Unauthorized"), "Unauthorized", ""),
        (lambda: refusal(400, f"{SECRETS[3]}\n\x1b[2J"), "unreadable", ""),
        (lambda: refusal(400, {"nested": 1}), "unreadable", ""),
        (
            lambda: web.Response(
                status=400,
                content_type="text/xml",
                text="<?xml version='1.0'?><Error><RequestId>0A1B-2C</RequestId><Code>InvalidVersion</Code></Error>",
            ),
            "InvalidVersion",
            "check the endpoint",
        ),
        (
            lambda: web.Response(
                status=400, text="<Error><RequestId>0A1B-2C</RequestId><Code>no code &#x202e;</Code></Error>"
            ),
            "unreadable",
            "",
        ),
    ],
)
async def test_what_will_stay_is_refused_at_once(vendor, client, reply, code, advice):
    vendor.replies.append(reply())
    with pytest.raises(VendorRefused) as raised:
        await client.call(SNAPSHOTS)
    assert raised.value.code == code
    assert f"code {code} (request 0A1B-2C)" in str(raised.value)
    assert advice in str(raised.value)
    assert not any(secret in str(raised.value) for secret in SECRETS)
    assert vendor.results() == ["not_found" if code == "InvalidJob.NotFound" else "refused"]
    assert vendor.waits == []


@pytest.mark.parametrize("code", ["InvalidTimeStamp.Expired", "SignatureNonceUsed"])
@pytest.mark.parametrize("times,is_refused", [(1, False), (2, True)])
async def test_a_clock_that_is_off_gets_one_more_chance(vendor, client, code, times, is_refused):
    vendor.replies.extend(refusal(400, code) for _ in range(times))
    if is_refused:
        with pytest.raises(VendorRefused, match="is the clock of this machine right"):
            await client.call(SNAPSHOTS)
    else:
        assert await client.call(SNAPSHOTS) == FOUND
    assert len({request.headers["x-acs-signature-nonce"] for request in vendor.requests}) == len(vendor.requests) == 2


class Renewed:
    """New credentials whenever the present ones are refused, up to ``last``."""

    def __init__(self, last):
        self.number, self.last = 1, last

    async def get(self):
        return Credentials(access_key_id=f"id-{self.number}", access_key_secret="secret")

    def invalidate(self):
        self.number = min(self.number + 1, self.last)


CREDENTIAL_CODES = ["InvalidAccessKeyId.NotFound", "InvalidSecurityToken.Expired", "SignatureDoesNotMatch"]


@pytest.mark.parametrize("code", CREDENTIAL_CODES)
@pytest.mark.parametrize(
    "last,times,used",
    [
        pytest.param(9, 1, ["id-1", "id-2"], id="renewed"),
        pytest.param(9, 2, ["id-1", "id-2"], id="renewed-in-vain"),
        pytest.param(1, 1, ["id-1"], id="no-others"),
    ],
)
async def test_refused_credentials_are_renewed_once(vendor, code, last, times, used):
    client = vendor.client(Renewed(last))
    vendor.replies.extend(refusal(403, code) for _ in range(times))
    if times == 1 < last:
        assert await client.call(SNAPSHOTS) == FOUND
    else:
        with pytest.raises(VendorRefused, match="check access key and security token") as raised:
            await client.call(SNAPSHOTS)
        assert raised.value.code == code
    await client.close()
    assert [
        request.headers["authorization"].split("Credential=")[1].split(",")[0] for request in vendor.requests
    ] == used


async def test_calls_that_were_refused_together_renew_credentials_once(vendor):
    credentials = Renewed(9)
    client = vendor.client(credentials, rates=lambda *_: 1e9)
    vendor.replies.extend(refusal(403, CREDENTIAL_CODES[1]) for _ in range(5))
    assert await asyncio.gather(*(client.call(SNAPSHOTS) for _ in range(5))) == [FOUND] * 5
    await client.close()
    assert credentials.number == 2


# The network


@asynccontextmanager
async def raw_server(answer):
    """``answer(reader, writer)`` for each connection, which is closed then."""

    async def serve(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def no_wait(_event, _seconds):
    await asyncio.sleep(0)


@asynccontextmanager
async def raw_client(answer, **more):
    async with raw_server(answer) as url:
        client = OpenApiClient(
            StaticCredentials(CREDENTIALS),
            region="r",
            endpoints={"mts": url},
            wait=no_wait,
            rates=lambda *_: 1e9,
            **more,
        )
        try:
            yield client
        finally:
            await client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0\1\2 nonsense \xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
    ],
)
async def test_what_is_no_reply_is_unavailable(sent):
    async def answer(writer):
        writer.write(sent)
        await writer.drain()

    async with raw_client(answer) as client:
        with pytest.raises(VendorUnavailable, match=r"^QuerySnapshotJobList (was answered|: no answer from)|no answer"):
            await client.call(SNAPSHOTS)


@settings(max_examples=60, deadline=None)
@given(sent=st.binary(max_size=100), head=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 404 "]))
def test_any_bytes_from_the_network_are_an_object_or_one_of_two_errors(sent, head):
    async def answer(writer):
        writer.write(head + sent)
        await writer.drain()

    async def ask():
        async with raw_client(answer) as client:
            try:
                assert isinstance(await client.call(SNAPSHOTS), Mapping)
            except (VendorUnavailable, VendorRefused):
                pass

    asyncio.run(ask())


async def test_a_reply_that_does_not_come_ends_with_the_time_limit():
    forever = asyncio.Event()

    async def answer(writer):
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a": ')
        await writer.drain()
        await forever.wait()

    async with raw_client(answer, timeout_s=0.05) as client:
        with pytest.raises(VendorUnavailable, match=r"no answer from .* within 0\.05 s"):
            await client.call(SNAPSHOTS)
        forever.set()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://" + "x" * 64 + ".invalid", "http://[::bad"])
async def test_nobody_there_is_unavailable(vendor, endpoint):
    client = vendor.client(endpoints={"mts": endpoint})
    with pytest.raises(VendorUnavailable, match="no answer from"):
        await client.call(SNAPSHOTS)
    await client.close()
    assert len(vendor.observed) == ATTEMPTS


async def test_credentials_that_no_header_can_hold_are_unavailable(vendor):
    client = vendor.client(StaticCredentials(Credentials(access_key_id="a\r\nb", access_key_secret="\ud800")))
    with pytest.raises(VendorUnavailable) as raised:
        await client.call(SNAPSHOTS)
    assert "a\r\nb" not in str(raised.value)
    await client.close()


@settings(max_examples=300, deadline=None)
@given(
    status=st.integers(200, 599),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["Code", "code", "RequestId", "x"]), inner),
        ).map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=50).map(lambda code: b"<Error><Code>" + code + b"</Code></Error>"),
        st.text(max_size=50).map(lambda code: f"<Error><Code>{code}</Code></Error>".encode()),
    ),
    retry_after=st.none() | st.text(max_size=20),
)
def test_any_reply_is_an_object_or_one_of_two_errors(status, body, retry_after):
    reply = Reply(status=status, body=body, retry_after=retry_after)
    try:
        content = read_reply("Action", reply)
    except (VendorUnavailable, VendorRefused) as error:
        failure = error
    else:
        assert status < 300
        assert isinstance(content, Mapping)
        return
    assert str(failure).isprintable()
    assert isinstance(failure, VendorUnavailable) or 400 <= failure.status < 500


# Restraint


async def test_an_action_keeps_below_its_rate_and_the_others_do_not_wait_for_it(vendor):
    client = vendor.client(rates=lambda api, action: 2.0 if api == "mts" else 1000.0)
    began = vendor.now
    await asyncio.gather(*(client.call(SNAPSHOTS) for _ in range(21)))
    assert 9.9 <= vendor.now - began <= 10.6
    waits = len(vendor.waits)
    await client.call(TASK)
    assert len(vendor.waits) == waits
    await client.close()


@pytest.mark.parametrize(
    "api,action,expected",
    [
        ("vod", "GetJobDetail", 7.5),
        ("mts", "QueryJobList", 50),
        ("ice", "GetDynamicImageJob", 5),
        ("vod", "ListDynamicImage", 5),
    ],
)
async def test_rates_are_half_of_the_documented_limits(vendor, api, action, expected):
    client = vendor.client()
    query = ApiRequest(api=api, action=action, version="1", parameters={})
    began = vendor.now
    await asyncio.gather(*(client.call(query) for _ in range(51)))
    assert 45 / expected <= vendor.now - began <= 51 / expected
    await client.close()


async def test_at_most_eight_requests_are_under_way():
    running, most, go = 0, 0, asyncio.Event()
    eight = asyncio.Event()

    async def answer(writer):
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 8:
            eight.set()
        await go.wait()
        running -= 1
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")

    async with raw_client(answer) as client:
        calls = [asyncio.create_task(client.call(SNAPSHOTS)) for _ in range(20)]
        await eight.wait()
        go.set()
        assert await asyncio.gather(*calls) == [{}] * 20
    assert most == 8


# The end


async def test_closing_ends_requests_and_waits(vendor):
    arrived, never = asyncio.Event(), asyncio.Event()

    async def answer(_writer):
        arrived.set()
        await never.wait()

    async with raw_client(answer) as client:
        call = asyncio.create_task(client.call(SNAPSHOTS))
        await arrived.wait()
        await client.close()
        with pytest.raises(VendorUnavailable):
            await call
        with pytest.raises(VendorUnavailable, match="the client is closed"):
            await client.call(SNAPSHOTS)
        never.set()


async def test_a_call_that_is_given_up_is_no_success():
    arrived, never = asyncio.Event(), asyncio.Event()
    observed = []

    async def answer(_writer):
        arrived.set()
        await never.wait()

    async with raw_client(answer, observe=lambda *result: observed.append(result)) as client:
        call = asyncio.create_task(client.call(SNAPSHOTS))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        never.set()
    assert observed == []


async def test_closing_ends_the_wait_for_a_turn(vendor):
    waits, waiting = 0, asyncio.Event()

    async def wait(event, _seconds):
        nonlocal waits
        waits += 1
        waiting.set()
        await event.wait()

    client = vendor.client(wait=wait, rates=lambda *_: 1.0)
    await client.call(SNAPSHOTS)
    calls = [asyncio.create_task(client.call(SNAPSHOTS)) for _ in range(3)]
    await waiting.wait()
    await client.close()
    for call in calls:
        with pytest.raises(VendorUnavailable, match="was not sent: the client is closed"):
            await call
    assert len(vendor.requests) == 1
    assert waits == 1  # only the first of the queue looks at the clock


async def test_a_client_that_was_never_used_can_be_closed():
    await OpenApiClient(StaticCredentials(CREDENTIALS), region="cn-hangzhou").close()
