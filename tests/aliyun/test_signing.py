"""
Known answers, and equality with what the vendor's own packages compute for the same request.

Origins: the signature documents of the OpenAPI (version 3) and of MTS print the two "document" vectors; the MNS vectors
are those of the unit tests of the Java SDK; the others were computed with the vendor's Python functions.
"""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from alibabacloud_tea_openapi.utils import Utils
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mns.mns_client import MNSClient

from media_callbacks.aliyun.signing import EMPTY_SHA256, canonical_query, sign_acs3, sign_mns_v2, sign_mns_v4, sign_rpc

TEXT = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=20)
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Z")), max_size=20)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=5)
NONCE = "0123456789abcdef0123456789abcdef"


def acs3_headers(host: str, action: str, version: str, *, date="2026-01-02T03:04:05Z", nonce=NONCE, **more: str):
    return {
        "Host": host,
        "x-acs-action": action,
        "x-acs-version": version,
        "x-acs-date": date,
        "x-acs-signature-nonce": nonce,
        "x-acs-content-sha256": EMPTY_SHA256,
        **more,
    }


@pytest.mark.parametrize(
    "host,action,version,more,parameters,credentials,signed,signature",
    [
        pytest.param(
            "ecs.cn-shanghai.aliyuncs.com",
            "RunInstances",
            "2014-05-26",
            {"date": "2023-10-26T10:22:32Z", "nonce": "3156853299f313e23d1673dc12e1703d"},
            {"ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd", "RegionId": "cn-shanghai"},
            ("YourAccessKeyId", "YourAccessKeySecret"),
            "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version",
            "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0",
            id="document",
        ),
        pytest.param(
            "ice.cn-shanghai.aliyuncs.com",
            "GetDynamicImageJob",
            "2020-11-09",
            {},
            {"JobId": "d80e4e4044975745c14b0000aaaa0001"},
            ("testAccessKeyId", "testAccessKeySecret"),
            "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version",
            "6444906775268eea54f4d26503601eba6d04f95e1440285e29ab95bf441e34e3",
            id="ice",
        ),
        pytest.param(
            "mts.cn-hangzhou.aliyuncs.com",
            "QuerySnapshotJobList",
            "2014-06-18",
            {"x-acs-security-token": "exampleSecurityToken"},
            {"SnapshotJobIds": "cc6cbef8e8d5481ca536f5d2a4660001,cc6cbef8e8d5481ca536f5d2a4660002"},
            ("testAccessKeyId", "testAccessKeySecret"),
            "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-security-token;x-acs-signature-nonce;x-acs-version",
            "ab32dc7a994df2a1a11a6faf127ddfd9c61656d005475adc905d3f38fff53642",
            id="mts-with-security-token",
        ),
    ],
)
def test_acs3_vectors(*, host, action, version, more, parameters, credentials, signed, signature):
    access_key_id, secret = credentials
    authorization = sign_acs3(
        "POST", parameters, acs3_headers(host, action, version, **more), access_key_id=access_key_id, secret=secret
    )
    assert authorization == (
        f"ACS3-HMAC-SHA256 Credential={access_key_id},SignedHeaders={signed},Signature={signature}"
    )


def test_a_sent_header_that_a_proxy_may_change_is_not_signed():
    headers = acs3_headers("h", "A", "1")
    keys = {"access_key_id": "i", "secret": "s"}
    plain = sign_acs3("POST", {}, headers, **keys)
    assert sign_acs3("POST", {}, {**headers, "Accept": "application/json", "User-Agent": "x"}, **keys) == plain
    assert sign_acs3("POST", {}, {**headers, "Content-Type": "text/plain"}, **keys) != plain


TASK_RESULT = {
    "Action": "GetTaskResult",
    "Format": "JSON",
    "Version": "2019-08-10",
    "AccessKeyId": "testAccessKeyId",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureVersion": "1.0",
    "SignatureNonce": NONCE,
    "Timestamp": "2026-01-02T03:04:05Z",
    "TaskId": "43567811",
}
SEARCH_TEMPLATE = {
    "Timestamp": "2015-05-14T09:03:45Z",
    "Format": "XML",
    "AccessKeyId": "testId",
    "Action": "SearchTemplate",
    "PageSize": "2",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureNonce": "4902260a-516a-4b6a-a455-45b653cf6150",
    "SignatureVersion": "1.0",
    "Version": "2014-06-18",
}


@pytest.mark.parametrize(
    "method,parameters,secret,signature",
    [
        pytest.param("GET", SEARCH_TEMPLATE, "testKeySecret", "kmDv4mWo806GWPjQMy2z4VhBBDQ=", id="document"),
        pytest.param("GET", TASK_RESULT, "testAccessKeySecret", "eTQCVprMZJoyiMopnBXXspox3JE=", id="get"),
        pytest.param("POST", TASK_RESULT, "testAccessKeySecret", "BDyFM5n8hMf4WrsExUAVl3VxRKg=", id="post"),
    ],
)
def test_rpc_vectors(method, parameters, secret, signature):
    assert sign_rpc(method, parameters, secret=secret) == signature


@pytest.mark.parametrize(
    "method,target,headers,access_key_id,secret,signature",
    [
        (
            "POST",
            "/queues/TestQueue",
            {"x-mns-abcDEF": "abcDEF", "Date": "Tue, 03 Jun 2025 11:23:48 GMT"},
            "ak1",
            "sk1",
            "cAThPWnbphg3hDe3ZHDADTgkgyE=",
        ),
        (
            "GET",
            "/queues/TestQueue123456",
            {"X-MNS-abcDEF": "KKKkkk", "Date": "Wed, 03 Dec 2025 11:23:48 GMT"},
            "ak-kkkk1111111111",
            "sk-kkkkkk1111111111",
            "lPxnfNA+Qo/aj18MYJUnRMqa84I=",
        ),
        (
            "GET",
            "/queues/TestQueue",
            {"Date": "Tue, 03 Jun 2025 11:23:48 GMT"},
            "testAk",
            "testSk",
            "uDJQXbk2xOhH95MDXmgbAGdtyE4=",
        ),
        (
            "POST",
            "/queues/Test Queue@123",
            {"content-type": "application/json", "Date": "Tue, 03 Jun 2025 11:23:48 GMT"},
            "testAk",
            "testSk",
            "GZ/I9UgZsqvbzfzjd0GmA6VHOx4=",
        ),
    ],
)
def test_mns_v2_vectors(*, method, target, headers, access_key_id, secret, signature):
    authorization = sign_mns_v2(method, target, headers, access_key_id=access_key_id, secret=secret)
    assert authorization == f"MNS {access_key_id}:{signature}"


def test_mns_v2_takes_the_time_from_x_mns_date_where_there_is_no_date():
    keys = {"access_key_id": "i", "secret": "s"}
    both = sign_mns_v2("GET", "/", {"Date": "D", "x-mns-date": "D"}, **keys)
    assert sign_mns_v2("GET", "/", {"x-mns-date": "D"}, **keys) == both


CHINESE = "%E4%B8%AD%E6%96%87%E5%8F%82%E6%95%B0"
JUNE = datetime(2025, 6, 3, 10, 52, 35, tzinfo=UTC)


@pytest.mark.parametrize(
    "method,target,headers,access_key_id,secret,region,at,signature",
    [
        (
            "GET",
            "/",
            {},
            "testAk",
            "testSk",
            "testRegion",
            JUNE,
            "63f78964dcd1132bab91b9c38ceebdfb59509149b34874c5b2c9dfc2b12e7291",
        ),
        (
            "POST",
            "/queues/Test Queue@123",
            {},
            "testAk",
            "testSk",
            "testRegion",
            JUNE,
            "87de7499365a31e767cdc0c726a893c72c860e415876f7f92914197ac3795833",
        ),
        (
            "PUT",
            "queues/TestQueue123456",
            {"x-mns-abc": "kkk", "X-MNS-Sss": "2015-06-06xFFF"},
            "akkkkk1111111111",
            "skkkkkkk1111111111",
            "region2",
            datetime(2025, 12, 3, 11, 23, 48, tzinfo=UTC),
            "04f1e5f929b5aaac3af6a54970f591581ecd2aade2562f926c5f2ec5d5c8cfad",
        ),
        (
            "POST",
            f"/queues/TestQueue?num=10&paramx=100&param1=abc&PARAM2=d%20%20ef&PARAM3=%5Bdef%5D%23bbb&PARAM4={CHINESE}",
            {},
            "ak1",
            "sk1",
            "region1",
            JUNE,
            "8d555514e749185d3e6d68df416692e6cc960ba85a089c9d69a2f4d7bb607560",
        ),
    ],
)
def test_mns_v4_vectors(*, method, target, headers, access_key_id, secret, region, at, signature):
    keys = {"access_key_id": access_key_id, "secret": secret}
    authorization = sign_mns_v4(method, target, headers, **keys, region=region, now=at)
    assert authorization == (
        f"MNS4-HMAC-SHA256 Credential={access_key_id}/{at:%Y%m%d}/{region}/mns/aliyun_v4_request,Signature={signature}"
    )


def test_mns_v4_signs_a_parameter_without_value_and_an_encoded_target_alike():
    def sign(target):
        return sign_mns_v4("GET", target, {}, access_key_id="i", secret="s", region="r", now=JUNE)

    assert sign("/q?peekonly=") == sign("/q?peekonly")
    raw, encoded = "/q%20r?receiptHandle=1-OD==", "/q r?ReceiptHandle=1-OD%3D%3D"
    assert sign(raw) == sign(encoded)


@settings(max_examples=150, deadline=None)
@given(
    parameters=st.dictionaries(st.from_regex(r"\A[A-Z][A-Za-z0-9._]*\Z"), PLAIN, max_size=5), token=PLAIN, secret=PLAIN
)
def test_openapi_signatures_equal_the_vendors(parameters, token, secret):
    headers = acs3_headers("ice.aliyuncs.com", "GetSnapshotJob", "2020-11-09", **{"x-acs-security-token": token})
    request = SimpleNamespace(method="POST", pathname="/", query=parameters, headers=headers)
    theirs = Utils.get_authorization(request, "ACS3-HMAC-SHA256", EMPTY_SHA256, "id", secret)
    assert sign_acs3("POST", parameters, headers, access_key_id="id", secret=secret) == theirs
    assert sign_rpc("POST", parameters, secret=secret) == Utils.get_rpcsignature(parameters, "POST", secret)


@settings(max_examples=150, deadline=None)
@given(handle=PLAIN, headers=st.dictionaries(PLAIN.map(lambda name: f"x-mns-{name.lower()}"), PLAIN), secret=PLAIN)
def test_mns_v2_signatures_equal_the_vendors(handle, headers, secret):
    sent = {
        **headers,
        "date": "Tue, 03 Jun 2025 11:23:48 GMT",
        "content-type": "text/xml;charset=UTF-8",
        "x-mns-version": "2015-06-06",
        "host": "1.mns.cn-hangzhou.aliyuncs.com",
    }
    target = f"/queues/q/messages?ReceiptHandle={handle}"
    credential = SimpleNamespace(get_access_key_id=lambda: "id", get_access_key_secret=lambda: secret)
    client = object.__new__(MNSClient)
    theirs = client.get_signature("DELETE", sent, target, credential)
    assert sign_mns_v2("DELETE", target, sent, access_key_id="id", secret=secret) == theirs


HALF = "\ud800%ff"


@settings(max_examples=300, deadline=None)
@example(
    method=HALF,
    target=HALF + "?" + HALF,
    parameters={HALF: HALF},
    headers={HALF: HALF},
    key=HALF,
    secret=HALF,
    region=HALF,
)
@given(method=TEXT, target=TEXT, parameters=TEXTS, headers=TEXTS, key=TEXT, secret=TEXT, region=TEXT)
def test_any_text_can_be_signed(*, method, target, parameters, headers, key, secret, region):
    keys = {"access_key_id": key, "secret": secret}
    headers = headers | {f"x-acs-{name}": value for name, value in headers.items()}
    headers = headers | {f"x-mns-{name}": value for name, value in headers.items()}
    assert canonical_query(parameters).isascii()
    assert sign_acs3(method, parameters, headers, **keys).startswith("ACS3-HMAC-SHA256 Credential=")
    assert sign_rpc(method, parameters, secret=secret)
    assert sign_mns_v2(method, target, headers, **keys).startswith("MNS ")
    assert sign_mns_v4(method, target, headers, **keys, region=region, now=JUNE).startswith("MNS4-HMAC-SHA256 ")
