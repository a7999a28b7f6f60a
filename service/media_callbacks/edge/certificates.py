"""
Signing certificates: fetched over https, cached by URL. The only I/O that verification needs.

A certificate is worth what TLS to its host is worth; which URLs may be asked for is checked before, by the source.
Chain, dates and key size are not looked at: the one certificate that was seen in real pushes is signed by itself,
expired in 2016 and has a key of 512 bits. A change of the key behind a URL is logged.

The caller names the URL. So whatever is asked for, a fetch is small, short and rare: one in flight per URL, failures
are remembered, and URLs that never gave a certificate share one budget.

Source: "certificate caching FAQ", https://www.alibabacloud.com/help/doc-detail/158007.htm: a certificate that is
replaced gets another file name, so cache by URL.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from ssl import SSLContext

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from media_callbacks.http_client.bounded_connector import read_body
from media_callbacks.http_client.session import open_session
from media_callbacks.model.errors import BadSignature, CannotVerify, ConfigError

# MNS gives a push five seconds; the fetch, the check and the store must fit in.
FETCH_TIMEOUT_S = 2.0
# The known certificate has 938 bytes.
MAX_CERTIFICATE_BYTES = 16_384
REFRESH_AFTER_S = 86_400.0
# How long a known URL is left alone after a fetch, whatever came of it.
RECHECK_AFTER_S = 300.0
FAILURE_REMEMBERED_S = 10.0
# For URLs that never gave a certificate and were not announced. A sender that needs a new one asks for it once in
# FAILURE_REMEMBERED_S at most, which the refill alone can bear.
BUDGET = 10
BUDGET_REFILL_S = 6.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Certificate:
    """
    What is used of a certificate.

    Attributes:
        fingerprint: SHA-256 of the DER SubjectPublicKeyInfo, in lower-case hex.
    """

    public_key: RSAPublicKey
    key_bits: int
    fingerprint: str


def read_certificate(pem: bytes) -> Certificate:
    """
    Read the first certificate of a PEM file.

    Raises:
        BadSignature: It holds none, or one with another kind of key than RSA.
    """
    try:
        public_key = x509.load_pem_x509_certificate(pem).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise BadSignature("expected a certificate in PEM form", reason="certificate") from error
    if not isinstance(public_key, RSAPublicKey):
        raise BadSignature("expected a certificate with an RSA key, found another kind", reason="certificate")
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Certificate(public_key, public_key.key_size, hashlib.sha256(spki).hexdigest())


@dataclass(frozen=True, slots=True)
class Fetched:
    """
    The answer to a fetch.

    Attributes:
        body: At most MAX_CERTIFICATE_BYTES + 1 bytes: one more than allowed says that it was too large.
    """

    status: int
    body: bytes


Fetch = Callable[[str], Awaitable[Fetched]]
"""Gets a URL. Raises aiohttp.ClientError, OSError or TimeoutError when no answer came."""


async def fetch_https(
    url: str,
    *,
    timeout_s: float = FETCH_TIMEOUT_S,
    resolver: AbstractResolver | None = None,
    ssl_context: SSLContext | None = None,
) -> Fetched:
    """
    Get a URL over verified TLS, following no redirects and reading no more than needed.

    Args:
        timeout_s: For everything together, the name look-up included.
        resolver, ssl_context: Other than the system's.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: No answer came, or not from the host that the URL names.
    """
    async with (
        asyncio.timeout(timeout_s),
        # A session of its own: this happens about once a day.
        open_session(timeout=aiohttp.ClientTimeout(total=timeout_s), resolver=resolver, tls=ssl_context) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        return Fetched(response.status, await read_body(response, MAX_CERTIFICATE_BYTES))


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BadSignature | CannotVerify
    until: float


class CertificateStore:
    """
    The keys that pushes are signed with.

    Args:
        prefetch: URLs to have at hand before the first push. Fetching them never counts against the budget.
        pinned: URL to PEM text. When given, these are all there are, and nothing is ever fetched.
        fetch: The one thing that touches the network.
        monotonic: Seconds, never going back.

    Raises:
        ConfigError: A pinned certificate can't be read.
    """

    def __init__(
        self,
        *,
        prefetch: Iterable[str] = (),
        pinned: Mapping[str, str] | None = None,
        fetch: Fetch = fetch_https,
        monotonic: Callable[[], float] = time.monotonic,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._announced = frozenset(prefetch) if pinned is None else frozenset()
        self._is_pinned = pinned is not None
        self._fetch = fetch
        self._monotonic = monotonic
        self._certificates: dict[str, Certificate] = _read_pinned(pinned or {})
        self._fetched_at: dict[str, float] = {}
        self._tried_at: dict[str, float] = {}
        self._failures: dict[str, _Failure] = {}
        self._in_flight: dict[str, asyncio.Task[Certificate]] = {}
        self._budget = float(BUDGET)
        self._budget_at = monotonic()

    @property
    def certificates(self) -> Mapping[str, Certificate]:
        """What is cached, by URL."""
        return dict(self._certificates)

    async def open(self) -> None:
        """
        Begin to fetch what was announced; start-up does not wait for it. A failure is logged, and the fetch tried
        again when a push needs it.
        """
        for url in self._announced:
            self._start(url)

    async def close(self) -> None:
        """Stop what is being fetched. Whoever still waits for it gets CannotVerify."""
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def get(self, url: str) -> RSAPublicKey:
        """
        The key of the certificate behind a URL; once known it is given at once, and refreshed behind the scenes.

        Raises:
            BadSignature: There is no usable certificate at the URL, it is not pinned, or too many unknown URLs were
                asked for lately.
            CannotVerify: The host gives no answer just now.
        """
        public_key = self.known(url)
        if public_key is not None:
            return public_key
        if self._is_pinned:
            raise BadSignature(f"the certificate {url} is not pinned, and nothing is fetched", reason="certificate_url")
        if url not in self._in_flight:
            self._check_failure(url)
            if url not in self._announced:
                self._spend_budget()
        return (await self._result(self._start(url))).public_key

    def known(self, url: str) -> RSAPublicKey | None:
        """What ``get`` gives at once, or None."""
        certificate = self._certificates.get(url)
        if certificate is None:
            return None
        if not self._is_pinned and self._is_older(self._fetched_at[url], REFRESH_AFTER_S):
            self._recheck(url)
        return certificate.public_key

    async def refetch(self, url: str) -> RSAPublicKey:
        """
        The key of a certificate that may have been replaced under its name: for when a signature fits no key.

        The certificate is fetched again unless that was done within RECHECK_AFTER_S. While the key is the same, or no
        other can be had, the very object that ``get`` gave is returned, so that ``is`` tells whether trying again
        makes sense.

        Raises:
            BadSignature, CannotVerify: As ``get``, for a URL that is not known.
        """
        if url in self._certificates and not self._is_pinned:
            task = self._recheck(url)
            if task is not None:
                # A failure was logged, and the old key is all there is.
                await asyncio.wait([task])
        return await self.get(url)

    def _recheck(self, url: str) -> "asyncio.Task[Certificate] | None":
        """Fetch a known URL again, or join who does. None when that was done a short while ago."""
        return self._start(url) if self._is_older(self._tried_at[url], RECHECK_AFTER_S) else None

    def _is_older(self, moment: float, age_s: float) -> bool:
        return self._monotonic() - moment >= age_s

    def _check_failure(self, url: str) -> None:
        failure = self._failures.get(url)
        if failure is not None and self._monotonic() < failure.until:
            # One error for many callers: it must not collect the frames of all of them.
            raise failure.error.with_traceback(None)

    def _spend_budget(self) -> None:
        now = self._monotonic()
        self._budget = min(float(BUDGET), self._budget + (now - self._budget_at) / BUDGET_REFILL_S)
        self._budget_at = now
        if self._budget < 1:
            # Not a 503: the caller chose the URL, and nothing a caller sends may look like a fault of ours.
            raise BadSignature(
                f"more than {BUDGET} certificates that were never seen before were asked for in a short time",
                reason="certificate_budget",
            )
        self._budget -= 1

    def _start(self, url: str) -> "asyncio.Task[Certificate]":
        task = self._in_flight.get(url)
        if task is None:
            task = asyncio.create_task(self._load(url), name=f"certificate {url}")
            self._in_flight[url] = task
            task.add_done_callback(lambda done: self._finish(url, done))
        return task

    def _finish(self, url: str, task: "asyncio.Task[Certificate]") -> None:
        del self._in_flight[url]
        if not task.cancelled():
            # Looked at, so that asyncio doesn't complain of a background refresh that nobody waited for.
            task.exception()

    @staticmethod
    async def _result(task: "asyncio.Task[Certificate]") -> Certificate:
        # Unlike awaiting the task, waiting for it leaves it alone when the waiter is cancelled.
        await asyncio.wait([task])
        if task.cancelled():
            raise CannotVerify("the certificate was not fetched: the service is stopping")
        return task.result()

    async def _load(self, url: str) -> Certificate:
        started_at = self._monotonic()
        try:
            certificate = await self._download(url)
        except (BadSignature, CannotVerify) as error:
            now = self._monotonic()
            if url in self._certificates:
                self._tried_at[url] = now
            # Few at a time, because unknown URLs are budgeted.
            self._failures = {known: failure for known, failure in self._failures.items() if now < failure.until}
            self._failures[url] = _Failure(error, now + FAILURE_REMEMBERED_S)
            _log.warning(
                "certificate_not_fetched", url=url, error=str(error), duration_ms=round((now - started_at) * 1000)
            )
            raise
        old = self._certificates.get(url)
        if old is not None and old.fingerprint == certificate.fingerprint:
            certificate = old
        elif old is not None:
            self._changed()
            _log.warning(
                "certificate_changed",
                url=url,
                fingerprint=certificate.fingerprint,
                old_fingerprint=old.fingerprint,
                key_bits=certificate.key_bits,
            )
        else:
            _log.info(
                "certificate_fetched", url=url, fingerprint=certificate.fingerprint, key_bits=certificate.key_bits
            )
        self._certificates[url] = certificate
        self._fetched_at[url] = self._tried_at[url] = self._monotonic()
        return certificate

    async def _download(self, url: str) -> Certificate:
        if not url.startswith("https://"):
            raise BadSignature("certificates are fetched over https alone", reason="certificate_url")
        try:
            fetched = await self._fetch(url)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise CannotVerify(f"no answer from {url}: {type(error).__name__}: {error}") from error
        if fetched.status >= 500:
            raise CannotVerify(f"{url} answered {fetched.status}")
        if fetched.status != 200:
            raise BadSignature(f"expected a certificate at {url}, it answered {fetched.status}", reason="certificate")
        if len(fetched.body) > MAX_CERTIFICATE_BYTES:
            raise BadSignature(
                f"expected a certificate of at most {MAX_CERTIFICATE_BYTES} bytes at {url}, found more",
                reason="certificate",
            )
        return read_certificate(fetched.body)


def _read_pinned(pinned: Mapping[str, str]) -> dict[str, Certificate]:
    certificates, problems = {}, []
    for url, pem in pinned.items():
        try:
            certificates[url] = read_certificate(pem.encode())
        except BadSignature as error:
            problems.append(f"certificates.{url}: {error}")
    if problems:
        raise ConfigError(problems)
    return certificates
