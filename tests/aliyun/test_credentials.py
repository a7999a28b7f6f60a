"""Where credentials come from, and that none are ever shown."""

import asyncio
import logging
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from media_callbacks.aliyun.credentials import Credentials, LateCredentials, PackageCredentials, choose_credentials
from media_callbacks.model.errors import ConfigError, VendorUnavailable

FOUND = SimpleNamespace(access_key_id="id", access_key_secret="secret", security_token="")
NOTHING = {"access_key_id": None, "access_key_secret": None, "security_token": None}
ENVIRONMENT = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "env-id\n",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "env-secret",
    "ALIBABA_CLOUD_SECURITY_TOKEN": "",
}


async def test_configured_credentials_come_before_the_environment():
    provider = choose_credentials(
        "vendor.main", access_key_id="id", access_key_secret="secret", security_token="token", environment=ENVIRONMENT
    )
    expected = Credentials(access_key_id="id", access_key_secret="secret", security_token="token")
    assert await provider.get() == expected
    provider.invalidate()
    assert await provider.get() == expected


@pytest.mark.parametrize("token", [None, "env-token"])
async def test_the_environment_comes_next(token):
    environment = ENVIRONMENT | ({"ALIBABA_CLOUD_SECURITY_TOKEN": token} if token else {})
    found = await choose_credentials("vendor.main", **NOTHING, environment=environment).get()
    assert found == Credentials(access_key_id="env-id", access_key_secret="env-secret", security_token=token)


@pytest.mark.parametrize("missing", ["ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"])
def test_half_an_access_key_in_the_environment_is_a_mistake(missing):
    environment = {name: value for name, value in ENVIRONMENT.items() if name != missing}
    with pytest.raises(ConfigError, match=rf"^vendor.main: .*: set {missing} as well$"):
        choose_credentials("vendor.main", **NOTHING, environment=environment)


def test_without_the_package_the_mistake_says_what_can_be_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials.client", None)
    with pytest.raises(ConfigError) as raised:
        choose_credentials("vendor.main", **NOTHING, environment={})
    [problem] = raised.value.problems
    for remedy in (
        "vendor.main: ",
        "access_key_secret",
        "ALIBABA_CLOUD_ACCESS_KEY_ID",
        "pip install 'media-callbacks[vendor-roles]'",
    ):
        assert remedy in problem


def test_the_package_comes_last():
    assert isinstance(choose_credentials("vendor.main", **NOTHING, environment={}), PackageCredentials)


def test_credentials_are_never_printed():
    credentials = Credentials(access_key_id="LTAI5t", access_key_secret="hidden", security_token="CAIS")
    for text in (repr(credentials), str(credentials), f"{[credentials]}"):
        assert not any(secret in text for secret in ("LTAI5t", "hidden", "CAIS"))


class Lender:
    """Lends credentials the way that the vendor's package asks for them, new ones each time."""

    def __init__(self):
        self.lent = 0
        self.is_broken = False
        app = web.Application()
        app.router.add_get("/", self.lend)
        self.server = TestServer(app)

    async def lend(self, _request):
        self.lent += 1
        lent = {
            "Code": "Success",
            "AccessKeyId": f"STS.{self.lent}",
            "AccessKeySecret": "hidden",
            "SecurityToken": "CAIS",
            "Expiration": "2099-01-01T00:00:00Z",
        }
        return web.json_response(lent, status=500 if self.is_broken else 200)


@pytest.fixture
async def lender():
    lender = Lender()
    async with lender.server:
        yield lender


def of_package(lender, **more):
    from alibabacloud_credentials.client import Client
    from alibabacloud_credentials.provider import URLCredentialsProvider

    return PackageCredentials(
        lambda: Client(provider=URLCredentialsProvider(uri=str(lender.server.make_url("/")))), **more
    )


async def test_the_package_keeps_what_a_role_lends_until_the_vendor_refuses_it(lender):
    now = [10_000.0]
    provider = of_package(lender, clock=lambda: now[0])
    first = await provider.get()
    assert first == Credentials(access_key_id="STS.1", access_key_secret="hidden", security_token="CAIS")
    assert list(await asyncio.gather(provider.get(), provider.get())) == [first, first]
    provider.invalidate()  # so soon, it would only be the same again
    assert await provider.get() == first
    now[0] += 3600
    provider.invalidate()
    assert (await provider.get()).access_key_id == "STS.2"


async def test_a_role_that_can_not_be_had_is_unavailable_and_its_reply_is_not_shown(lender, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("credentials"), "disabled", False)
    lender.is_broken = True
    choose_credentials("vendor.main", **NOTHING, environment={})  # the package's own log ends here
    with pytest.raises(VendorUnavailable, match="found no credentials") as raised:
        await of_package(lender).get()
    assert "hidden" not in str(raised.value)
    assert raised.value.__suppress_context__
    assert [record for record in caplog.records if record.name == "credentials"] == []


async def test_the_package_is_asked_by_one_at_a_time():
    clients = []
    both = threading.Barrier(2)

    def make_client():
        clients.append(SimpleNamespace(get_credential=lambda: FOUND))
        with suppress(threading.BrokenBarrierError):
            both.wait(0.05)
        return clients[-1]

    provider = PackageCredentials(make_client)
    await asyncio.gather(provider.get(), provider.get())
    assert len(clients) == 1


async def test_credentials_without_a_secret_are_none():
    half = SimpleNamespace(access_key_id="id", access_key_secret=None, security_token=None)
    with pytest.raises(VendorUnavailable):
        await PackageCredentials(lambda: SimpleNamespace(get_credential=lambda: half)).get()


async def test_those_that_are_found_late_are_looked_for_once_there_is_need():
    asked = []

    def choose():
        asked.append(1)
        return choose_credentials("vendor.main", **NOTHING, environment=ENVIRONMENT)

    late = LateCredentials(choose)
    late.invalidate()
    assert asked == []
    assert (await late.get()).access_key_id == (await late.get()).access_key_id == "env-id"
    late.invalidate()
    assert asked == [1]


async def test_those_that_are_not_found_late_may_be_there_later(monkeypatch):
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials.client", None)
    environment: dict[str, str] = {}
    late = LateCredentials(lambda: choose_credentials("vendor.main", **NOTHING, environment=environment))
    with pytest.raises(VendorUnavailable, match="no credentials: set access_key_id"):
        await late.get()
    environment |= ENVIRONMENT
    assert (await late.get()).access_key_id == "env-id"
