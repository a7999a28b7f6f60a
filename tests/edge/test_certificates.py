"""
The certificate store, with a fetch and a clock of the test; and the real fetch, against an https server on loopback.
"""

import asyncio
import base64
import gc
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from media_callbacks.edge.certificates import (
    BUDGET,
    BUDGET_REFILL_S,
    FAILURE_REMEMBERED_S,
    MAX_CERTIFICATE_BYTES,
    RECHECK_AFTER_S,
    REFRESH_AFTER_S,
    CertificateStore,
    Fetched,
    fetch_https,
    read_certificate,
)
from media_callbacks.model.errors import BadSignature, CannotVerify, ConfigError

HOST = "mnstest.oss-cn-hangzhou.aliyuncs.com"
URL = f"https://{HOST}/x509_public_certificate.pem"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def make_certificate(key: PrivateKey) -> bytes:
    """Signed by itself and long expired, as the vendor's."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Aliyun")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2015, 7, 2))
        .not_valid_after(datetime(2016, 7, 1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


@cache
def pem(number: int) -> bytes:
    return make_certificate(rsa_key(number))


# Reading


def test_an_expired_certificate_that_signed_itself_is_read():
    certificate = read_certificate(pem(0))
    assert certificate.public_key == rsa_key(0).public_key()
    assert certificate.key_bits == 2048
    spki = rsa_key(0).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert certificate.fingerprint == hashlib.sha256(spki).hexdigest()


# The object at the known URL, as published together with a push of 2023.
KNOWN_PEM = b"""\
-----BEGIN CERTIFICATE-----
MIICiDCCAjKgAwIBAgIJAL+acWZrTrlfMA0GCSqGSIb3DQEBBQUAMGMxCzAJBgNV
BAYTAjg2MREwDwYDVQQIEwhaaGVqaWFuZzERMA8GA1UEBxMISGFuZ3pob3UxDzAN
BgNVBAoTBkFsaXl1bjEMMAoGA1UECxMDTW5zMQ8wDQYDVQQDEwZub3RpZnkwHhcN
MTUwNzAyMDIwNjE2WhcNMTYwNzAxMDIwNjE2WjBjMQswCQYDVQQGEwI4NjERMA8G
A1UECBMIWmhlamlhbmcxETAPBgNVBAcTCEhhbmd6aG91MQ8wDQYDVQQKEwZBbGl5
dW4xDDAKBgNVBAsTA01uczEPMA0GA1UEAxMGbm90aWZ5MFwwDQYJKoZIhvcNAQEB
BQADSwAwSAJBALX0sFVowct1NAQjDyYSUf0rp1rOHLkz4kp0zNWcDyXMXa5PzsPU
UwJXaLwhvNCDLLWuiLK6Oh5elmOmL8Gy/5MCAwEAAaOByDCBxTAdBgNVHQ4EFgQU
kEah2o9HpCUCxhN/fY3kUtPkP4owgZUGA1UdIwSBjTCBioAUkEah2o9HpCUCxhN/
fY3kUtPkP4qhZ6RlMGMxCzAJBgNVBAYTAjg2MREwDwYDVQQIEwhaaGVqaWFuZzER
MA8GA1UEBxMISGFuZ3pob3UxDzANBgNVBAoTBkFsaXl1bjEMMAoGA1UECxMDTW5z
MQ8wDQYDVQQDEwZub3RpZnmCCQC/mnFma065XzAMBgNVHRMEBTADAQH/MA0GCSqG
SIb3DQEBBQUAA0EAluPg+k0Fc7WRcpP78+eLptYD8an7YOapUdNUmT2/SQC5BZ+t
cyWFit5pAEipngFL105d7AuW2AtwqG0FgV0ipw==
-----END CERTIFICATE-----
"""


def test_the_certificate_that_the_vendor_used_in_2023():
    certificate = read_certificate(KNOWN_PEM)
    assert certificate.key_bits == 512
    assert certificate.fingerprint == "9526635d2a5b881f7eb04b36f5e49ae3616b5b67147d284b587c914df0b0dd0b"


def test_of_two_certificates_the_first_counts():
    assert read_certificate(pem(0) + pem(1)).public_key == rsa_key(0).public_key()
    assert read_certificate(b"subject: x\n" + pem(1) + pem(0)).public_key == rsa_key(1).public_key()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>not found</html>",
        b"\xff" * 100,
        pem(0)[:-40],
        pem(0).replace(b"CERTIFICATE", b"PUBLIC KEY"),
        rsa_key(0).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        make_certificate(ec.generate_private_key(ec.SECP256R1())),
    ],
)
def test_what_is_no_rsa_certificate_is_refused(text):
    with pytest.raises(BadSignature) as caught:
        read_certificate(text)
    assert caught.value.reason == "certificate"


def test_a_certificate_of_a_version_that_does_not_exist_is_refused():
    der = x509.load_pem_x509_certificate(pem(0)).public_bytes(Encoding.DER)
    der = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1)
    with pytest.raises(BadSignature):
        read_certificate(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n")


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 900), by=st.binary(max_size=3))
def test_any_bytes_are_a_certificate_or_refused(at, by):
    der = x509.load_pem_x509_certificate(pem(0)).public_bytes(Encoding.DER)
    der = der[:at] + by + der[at + len(by) :]
    try:
        certificate = read_certificate(
            b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        )
    except BadSignature:
        return
    assert len(certificate.fingerprint) == 64


# The store


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Host:
    """
    Answers fetches from a table, at once or when told.

    Attributes:
        answers: By URL: what to return, or to raise.
        fetched: URLs in the order in which they were asked for.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Fetched | Exception] = {URL: Fetched(200, pem(0))}
        self.fetched: list[str] = []
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, url: str) -> Fetched:
        self.fetched.append(url)
        self.asked.set()
        await self.go.wait()
        answer = self.answers.get(url, Fetched(404, b"no such key"))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
async def store(host: Host, clock: Clock) -> AsyncIterator[CertificateStore]:
    store = CertificateStore(fetch=host, monotonic=clock)
    await store.open()
    yield store
    await store.close()


async def until_idle() -> None:
    """Let tasks that wait for nothing come to their end."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_certificate_is_fetched_once(store, host):
    key = await store.get(URL)
    assert key == rsa_key(0).public_key()
    assert await store.get(URL) is key
    assert host.fetched == [URL]
    assert store.certificates[URL].key_bits == 2048


async def test_the_cache_is_by_full_url(store, host):
    host.answers[URL + ".version2"] = Fetched(200, pem(1))
    assert await store.get(URL) == rsa_key(0).public_key()
    assert await store.get(URL + ".version2") == rsa_key(1).public_key()


async def test_two_hundred_first_pushes_lead_to_one_fetch(store, host):
    keys = await asyncio.gather(*(store.get(URL) for _ in range(200)))
    assert len({id(key) for key in keys}) == 1
    assert host.fetched == [URL]


async def test_two_hundred_pushes_share_one_failure(store, host):
    host.answers[URL] = OSError("down")
    errors = await asyncio.gather(*(store.get(URL) for _ in range(200)), return_exceptions=True)
    assert {type(error) for error in errors} == {CannotVerify}
    assert host.fetched == [URL]


async def test_a_waiter_that_is_cancelled_does_not_stop_the_fetch(store, host):
    host.go.clear()
    first, second = asyncio.create_task(store.get(URL)), asyncio.create_task(store.get(URL))
    await host.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    host.go.set()
    assert await second == rsa_key(0).public_key()
    assert host.fetched == [URL]


async def test_a_fetch_whose_only_waiter_was_cancelled_is_not_lost(store, host):
    host.go.clear()
    waiter = asyncio.create_task(store.get(URL))
    await host.asked.wait()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    host.go.set()
    await until_idle()
    assert URL in store.certificates


async def test_closing_while_a_certificate_is_fetched(store, host):
    host.go.clear()
    waiter = asyncio.create_task(store.get(URL))
    await host.asked.wait()
    await store.close()
    with pytest.raises(CannotVerify, match="stopping"):
        await waiter


@pytest.mark.parametrize(
    "answer",
    [OSError("refused"), TimeoutError(), aiohttp.ClientError("broken"), Fetched(500, b""), Fetched(503, pem(0))],
)
async def test_a_host_that_is_down_means_that_we_cannot_tell(store, host, clock, answer):
    host.answers[URL] = answer
    with pytest.raises(CannotVerify, match=HOST):
        await store.get(URL)
    host.answers[URL] = Fetched(200, pem(0))
    clock.now += FAILURE_REMEMBERED_S
    assert await store.get(URL) == rsa_key(0).public_key()


@pytest.mark.parametrize(
    "answer",
    [
        Fetched(404, b""),
        Fetched(403, pem(0)),
        Fetched(301, pem(0)),
        Fetched(302, pem(0)),
        Fetched(204, b""),
        Fetched(206, pem(0)),
        Fetched(200, b"<html>"),
        Fetched(200, pem(0) + b"\n" * (MAX_CERTIFICATE_BYTES + 1 - len(pem(0)))),
        Fetched(200, make_certificate(ec.generate_private_key(ec.SECP256R1()))),
    ],
)
async def test_an_answer_that_is_no_certificate_means_a_forgery(store, host, answer):
    host.answers[URL] = answer
    with pytest.raises(BadSignature) as caught:
        await store.get(URL)
    assert caught.value.reason == "certificate"
    assert not store.certificates


async def test_the_largest_certificate(store, host):
    host.answers[URL] = Fetched(200, pem(0) + b"\n" * (MAX_CERTIFICATE_BYTES - len(pem(0))))
    await store.get(URL)


@pytest.mark.parametrize("url", ["http://a.example/b", "file:///etc/passwd", ""])
async def test_nothing_but_https_is_fetched(store, host, url):
    with pytest.raises(BadSignature):
        await store.get(url)
    assert not host.fetched


@pytest.mark.parametrize("answer, error", [(OSError("down"), CannotVerify), (Fetched(404, b""), BadSignature)])
async def test_a_failure_is_remembered_for_some_seconds(store, host, clock, answer, error):
    host.answers[URL] = answer
    for _ in range(50):
        with pytest.raises(error):
            await store.get(URL)
    assert len(host.fetched) == 1
    clock.now += FAILURE_REMEMBERED_S - 0.1
    with pytest.raises(error):
        await store.get(URL)
    assert len(host.fetched) == 1
    clock.now += 0.1
    with pytest.raises(error):
        await store.get(URL)
    assert len(host.fetched) == 2


async def test_old_failures_are_forgotten(store, clock):
    for number in range(5 * BUDGET):
        with pytest.raises(BadSignature):
            await store.get(f"{URL}.{number}")
        clock.now += FAILURE_REMEMBERED_S
    assert len(store._failures) == 1


# The budget


async def spend_budget(store: CertificateStore) -> None:
    for number in range(BUDGET):
        with pytest.raises(BadSignature):
            await store.get(f"{URL}.{number}")


async def test_unknown_urls_share_a_budget(store, host, clock):
    await spend_budget(store)
    with pytest.raises(BadSignature) as caught:
        await store.get(f"{URL}.more")
    assert caught.value.reason == "certificate_budget"
    assert len(host.fetched) == BUDGET
    clock.now += BUDGET_REFILL_S
    assert await store.get(URL) == rsa_key(0).public_key()
    with pytest.raises(BadSignature) as caught:
        await store.get(f"{URL}.more")
    assert caught.value.reason == "certificate_budget"


async def test_the_budget_is_never_more_than_it_was(store, host, clock):
    clock.now += 1000 * BUDGET_REFILL_S
    await spend_budget(store)
    with pytest.raises(BadSignature) as caught:
        await store.get(f"{URL}.more")
    assert caught.value.reason == "certificate_budget"


async def test_known_urls_need_no_budget(store, host, clock):
    await store.get(URL)
    clock.now += BUDGET_REFILL_S
    await spend_budget(store)
    assert await store.get(URL) == rsa_key(0).public_key()
    clock.now += RECHECK_AFTER_S
    await store.refetch(URL)
    assert host.fetched.count(URL) == 2


async def test_waiting_for_a_fetch_that_is_under_way_needs_no_budget(store, host):
    host.go.clear()
    waiters = [asyncio.create_task(store.get(URL)) for _ in range(3 * BUDGET)]
    await host.asked.wait()
    host.go.set()
    await asyncio.gather(*waiters)


async def test_announced_urls_need_no_budget(host, clock):
    host.answers[URL] = OSError("down")
    store = CertificateStore(prefetch=[URL], fetch=host, monotonic=clock)
    await store.open()
    await until_idle()
    clock.now += FAILURE_REMEMBERED_S
    await spend_budget(store)
    with pytest.raises(CannotVerify):
        await store.get(URL)
    assert host.fetched.count(URL) == 2
    clock.now += FAILURE_REMEMBERED_S
    host.answers[URL] = Fetched(200, pem(0))
    assert await store.get(URL) == rsa_key(0).public_key()


async def test_a_new_url_whose_host_is_down_never_becomes_a_matter_of_budget(store, host, clock):
    host.answers[URL] = OSError("down")
    for _ in range(20 * BUDGET):
        with pytest.raises(CannotVerify):
            await store.get(URL)
        clock.now += FAILURE_REMEMBERED_S


# At start


async def test_announced_certificates_are_fetched_before_a_push_asks(host, clock):
    host.answers[URL + "2"] = Fetched(200, pem(1))
    store = CertificateStore(prefetch=[URL, URL + "2"], fetch=host, monotonic=clock)
    await store.open()
    assert set(store.certificates) == set(), "start-up does not wait for it"
    await until_idle()
    assert set(store.certificates) == {URL, URL + "2"}
    await store.get(URL)
    assert len(host.fetched) == 2


async def test_a_failed_prefetch_is_logged_and_no_more(host, clock):
    host.answers[URL] = Fetched(404, b"")
    store = CertificateStore(prefetch=[URL], fetch=host, monotonic=clock)
    with capture_logs() as logs:
        await store.open()
        await until_idle()
    [entry] = logs
    assert (entry["log_level"], entry["event"], entry["url"]) == ("warning", "certificate_not_fetched", URL)


async def test_pinned_certificates_are_all_there_are(host, clock):
    store = CertificateStore(prefetch=[URL + "2"], pinned={URL: pem(0).decode()}, fetch=host, monotonic=clock)
    await store.open()
    assert await store.get(URL) == rsa_key(0).public_key()
    clock.now += 10 * REFRESH_AFTER_S
    assert await store.get(URL) == await store.refetch(URL) == rsa_key(0).public_key()
    for look_up in (store.get, store.refetch):
        with pytest.raises(BadSignature, match="pinned") as caught:
            await look_up(URL + "2")
        assert caught.value.reason == "certificate_url"
    await until_idle()
    assert not host.fetched
    assert store.certificates[URL].key_bits == 2048
    await store.close()


async def test_pinning_nothing_fetches_nothing(host, clock):
    store = CertificateStore(pinned={}, fetch=host, monotonic=clock)
    with pytest.raises(BadSignature):
        await store.get(URL)
    assert not host.fetched


def test_every_pinned_certificate_that_cannot_be_read_is_named():
    with pytest.raises(ConfigError) as caught:
        CertificateStore(pinned={"https://a/b": "x", URL: pem(0).decode(), "https://c/d": ""})
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "certificates.https://a/b",
        "certificates.https://c/d",
    ]


# Keeping up


async def test_an_old_certificate_is_served_while_it_is_refreshed_behind_the_scenes(store, host, clock):
    old = await store.get(URL)
    host.answers[URL] = Fetched(200, pem(1))
    clock.now += REFRESH_AFTER_S - 0.1
    assert await store.get(URL) is old
    await until_idle()
    assert host.fetched == [URL]
    host.go.clear()
    clock.now += 0.1
    # At once, although the host hangs.
    assert [await store.get(URL) for _ in range(3)] == [old] * 3
    await until_idle()
    assert host.fetched == [URL, URL]
    host.go.set()
    await until_idle()
    assert await store.get(URL) == rsa_key(1).public_key()
    assert host.fetched == [URL, URL]


@pytest.mark.parametrize("answer", [OSError("down"), Fetched(404, b""), Fetched(200, b"x")])
async def test_a_certificate_that_cannot_be_refreshed_is_served_on(store, host, clock, answer):
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    old = await store.get(URL)
    host.answers[URL] = answer
    clock.now += REFRESH_AFTER_S
    for _ in range(20):
        assert await store.get(URL) is old
        await until_idle()
    assert host.fetched == [URL, URL]
    clock.now += RECHECK_AFTER_S
    assert await store.get(URL) is old
    await until_idle()
    assert host.fetched == [URL, URL, URL]
    gc.collect()
    assert not complaints


async def test_refetch_finds_the_key_that_replaced_another_under_its_name(store, host, clock):
    old = await store.get(URL)
    host.answers[URL] = Fetched(200, pem(1))
    clock.now += RECHECK_AFTER_S
    new = await store.refetch(URL)
    assert new is not old
    assert new == rsa_key(1).public_key()
    assert await store.get(URL) is new


async def test_refetch_gives_the_same_object_while_the_key_is_the_same(store, host, clock):
    old = await store.get(URL)
    clock.now += RECHECK_AFTER_S
    assert await store.refetch(URL) is old
    assert host.fetched == [URL, URL]


async def test_refetch_is_rare(store, host, clock):
    old = await store.get(URL)
    clock.now += RECHECK_AFTER_S - 0.1
    assert await store.refetch(URL) is old
    assert host.fetched == [URL]
    clock.now += 0.1
    await asyncio.gather(*(store.refetch(URL) for _ in range(100)))
    await store.refetch(URL)
    assert host.fetched == [URL, URL]


async def test_a_refetch_that_fails_leaves_the_old_key_and_is_rare_too(store, host, clock):
    old = await store.get(URL)
    host.answers[URL] = OSError("down")
    clock.now += RECHECK_AFTER_S
    for _ in range(10):
        assert await store.refetch(URL) is old
    assert host.fetched == [URL, URL]


async def test_refetch_of_an_unknown_url_is_a_fetch(store, host):
    assert await store.refetch(URL) == rsa_key(0).public_key()
    with pytest.raises(BadSignature):
        await store.refetch(URL + "x")


async def test_whoever_used_the_old_key_while_another_refetched_gets_the_new_one(store, host, clock):
    old = await store.get(URL)
    host.answers[URL] = Fetched(200, pem(1))
    clock.now += RECHECK_AFTER_S
    await store.refetch(URL)
    assert await store.refetch(URL) is not old
    assert host.fetched == [URL, URL]


async def test_a_changed_key_is_logged_once(store, host, clock):
    await store.get(URL)
    old = store.certificates[URL].fingerprint
    with capture_logs() as logs:
        clock.now += RECHECK_AFTER_S
        await store.refetch(URL)
        assert not logs
        host.answers[URL] = Fetched(200, pem(1))
        clock.now += RECHECK_AFTER_S
        await store.refetch(URL)
        clock.now += RECHECK_AFTER_S
        await store.refetch(URL)
    assert logs == [
        {
            "event": "certificate_changed",
            "log_level": "warning",
            "url": URL,
            "fingerprint": read_certificate(pem(1)).fingerprint,
            "old_fingerprint": old,
            "key_bits": 2048,
        }
    ]


# The real fetch


class LoopbackResolver(AbstractResolver):
    """Every host is on loopback, at one port."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=self._port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        pass


@cache
def authority() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = rsa_key(100)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def server_context(directory: Path, name: str) -> ssl.SSLContext:
    """TLS with a certificate for one host name, from the authority of the test."""
    ca_key, ca = authority()
    key = rsa_key(101)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    file = directory / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority()[1].public_bytes(Encoding.PEM).decode())


class Server:
    """
    What the server on loopback saw.

    Attributes:
        requests: Method and path of each request, and the headers of the last.
        released: Set at the end, for handlers that hang.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.headers: dict[str, str] = {}
        self.port = 0
        self.released = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.host}{request.path_qs}")
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        match request.path:
            case "/good":
                return web.Response(body=pem(0))
            case "/redirect":
                return web.Response(status=302, headers={"Location": f"https://{HOST}/good"})
            case "/broken":
                return web.Response(status=500, body=pem(0))
            case "/large":
                return web.Response(body=pem(0) + b"\n" * 10_000_000)
            case "/compressed":
                compressed = web.Response(body=b"\n" * 10_000_000)
                compressed.enable_compression(web.ContentCoding.gzip)
                return compressed
            case "/slow":
                await self.released.wait()
            case "/slow-body":
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(pem(0)[:100])
                await self.released.wait()
                return response
            case "/cut":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(pem(0)[:100])
                assert request.transport is not None
                request.transport.abort()
                return response
        return web.Response(status=404)


@asynccontextmanager
async def running_server(directory: Path, name: str = HOST, *, tls: bool = True) -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.router.add_get("/{path}", server.handle)
    runner = web.AppRunner(application, handle_signals=False, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(directory, name) if tls else None)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()


def store_for(server: Server, *, timeout_s: float = 30.0, context: ssl.SSLContext | None = None) -> CertificateStore:
    fetch = partial(
        fetch_https,
        resolver=LoopbackResolver(server.port),
        ssl_context=context or client_context(),
        timeout_s=timeout_s,
    )
    return CertificateStore(fetch=fetch)


async def test_real_fetch(tmp_path):
    async with running_server(tmp_path) as server:
        assert await store_for(server).get(f"https://{HOST}/good") == rsa_key(0).public_key()
    assert server.requests == [f"GET {HOST}/good"]
    assert "cookie" not in server.headers
    assert server.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "path, words", [("redirect", "302"), ("missing", "404"), ("large", "at most"), ("compressed", "PEM")]
)
async def test_real_answers_that_are_no_certificate(tmp_path, path, words):
    async with running_server(tmp_path) as server:
        with pytest.raises(BadSignature, match=words) as caught:
            await store_for(server).get(f"https://{HOST}/{path}")
    assert caught.value.reason == "certificate"
    assert server.requests == [f"GET {HOST}/{path}"]


async def test_no_more_than_needed_is_read(tmp_path):
    async with running_server(tmp_path) as server:
        fetched = await fetch_https(
            f"https://{HOST}/large", resolver=LoopbackResolver(server.port), ssl_context=client_context()
        )
    assert len(fetched.body) == MAX_CERTIFICATE_BYTES + 1


@pytest.mark.parametrize("path", ["broken", "cut"])
async def test_real_failures(tmp_path, path):
    async with running_server(tmp_path) as server:
        with pytest.raises(CannotVerify, match=HOST):
            await store_for(server).get(f"https://{HOST}/{path}")


@pytest.mark.parametrize("path", ["slow", "slow-body"])
async def test_a_slow_host_is_given_up_on(tmp_path, path):
    async with running_server(tmp_path) as server:
        with pytest.raises(CannotVerify, match="TimeoutError"):
            await store_for(server, timeout_s=0.3).get(f"https://{HOST}/{path}")
        assert not server.released.is_set()


@pytest.mark.parametrize("name", ["other.example", "oss-cn-hangzhou.aliyuncs.com", f"{HOST}.evil.example"])
async def test_a_server_with_a_certificate_for_another_name_is_not_believed(tmp_path, name):
    async with running_server(tmp_path, name) as server:
        with pytest.raises(CannotVerify, match="Certificate"):
            await store_for(server).get(f"https://{HOST}/good")
    assert not server.requests


async def test_a_server_of_an_unknown_authority_is_not_believed(tmp_path):
    async with running_server(tmp_path) as server:
        with pytest.raises(CannotVerify, match="Certificate"):
            await store_for(server, context=ssl.create_default_context()).get(f"https://{HOST}/good")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await fetch_https(f"https://{HOST}/good", resolver=LoopbackResolver(server.port))
    assert not server.requests


async def test_a_server_without_tls_is_not_believed(tmp_path):
    async with running_server(tmp_path, tls=False) as server:
        with pytest.raises(CannotVerify):
            await store_for(server).get(f"https://{HOST}/good")
    assert not server.requests


async def test_a_port_where_nobody_listens(tmp_path):
    async with running_server(tmp_path) as server:
        pass
    with pytest.raises(CannotVerify):
        await store_for(server).get(f"https://{HOST}/good")
