"""
Who we are to the vendor: an access key, or what a role lends for a while.

Configuration comes first, then the environment, then the vendor's package ``alibabacloud_credentials`` (an extra,
``vendor-roles``), which knows the roles of pods (RRSA), of machines (ECS), the vendor's own files and the like.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from media_callbacks.extras import install_command
from media_callbacks.model.errors import ConfigError, VendorUnavailable

ACCESS_KEY_ID = "ALIBABA_CLOUD_ACCESS_KEY_ID"
ACCESS_KEY_SECRET = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"  # noqa: S105, it is a name
SECURITY_TOKEN = "ALIBABA_CLOUD_SECURITY_TOKEN"  # noqa: S105, it is a name

# The package renews what it has a quarter of an hour before the end, so that throwing away is the exception. Each of
# its clients may begin a thread that never ends; hence not one for every refused request.
_MIN_CLIENT_AGE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credentials:
    """
    What requests are signed with. Printed, nothing of it shows.

    Attributes:
        security_token: Sent along with temporary credentials.
    """

    access_key_id: str
    access_key_secret: str
    security_token: str | None = None


class CredentialsProvider(Protocol):
    """Has valid credentials at any time."""

    async def get(self) -> Credentials:
        """
        Those to sign the next request with.

        Raises:
            VendorUnavailable: There are none just now.
        """
        ...

    def invalidate(self) -> None:
        """The vendor has refused the latest ones: fetch others, if there are any."""
        ...


class StaticCredentials:
    """Always the same."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def get(self) -> Credentials:
        return self._credentials

    def invalidate(self) -> None:
        """There are no others."""


class PackageCredentials:
    """
    Those of the vendor's package, which keeps and renews them.

    Args:
        make_client: Of ``alibabacloud_credentials``, ``Client``.
        clock: Seconds of any clock that is not set back.
    """

    def __init__(self, make_client: Callable[[], Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._make_client = make_client
        self._clock = clock
        self._client: Any = None
        self._made_at = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def get(self) -> Credentials:
        async with self._one_at_a_time:
            try:
                # In a thread: its asynchronous methods wait for locks of threads, which would stop the event loop.
                return await asyncio.to_thread(self._fetch)
            except Exception as error:  # noqa: BLE001, the package raises whatever its parts raise
                # Its text is left out: it holds replies of the services that lend credentials.
                raise VendorUnavailable(
                    "alibabacloud_credentials found no credentials"
                    f" ({type(error).__name__}): give this machine or pod a role, or set {ACCESS_KEY_ID} and"
                    f" {ACCESS_KEY_SECRET}"
                ) from None

    def invalidate(self) -> None:
        if self._clock() - self._made_at >= _MIN_CLIENT_AGE_S:
            self._client = None

    def _fetch(self) -> Credentials:
        if self._client is None:
            self._made_at = self._clock()
            self._client = self._make_client()
        found = self._client.get_credential()
        if not found.access_key_id or not found.access_key_secret:
            raise LookupError
        return Credentials(
            access_key_id=found.access_key_id,
            access_key_secret=found.access_key_secret,
            security_token=found.security_token or None,
        )


class LateCredentials:
    """Those that ``choose`` finds, looked for when they are needed: a configuration can be checked without them."""

    def __init__(self, choose: Callable[[], CredentialsProvider]) -> None:
        self._choose = choose
        self._chosen: CredentialsProvider | None = None

    async def get(self) -> Credentials:
        if self._chosen is None:
            try:
                self._chosen = self._choose()
            except ConfigError as error:
                raise VendorUnavailable(error.problems[0].partition(": ")[2]) from None
        return await self._chosen.get()

    def invalidate(self) -> None:
        if self._chosen is not None:
            self._chosen.invalidate()


def choose_credentials(
    key_path: str,
    *,
    access_key_id: str | None,
    access_key_secret: str | None,
    security_token: str | None,
    environment: Mapping[str, str] = os.environ,
) -> CredentialsProvider:
    """
    Where credentials come from.

    Args:
        key_path: Of the table that the first three are from, for example ``vendor.main``.

    Raises:
        ConfigError: There are none, or only a part of them.
    """
    if access_key_id is not None and access_key_secret is not None:
        return _static(access_key_id, access_key_secret, security_token)
    key_id, secret, token = (
        environment.get(name, "").strip() for name in (ACCESS_KEY_ID, ACCESS_KEY_SECRET, SECURITY_TOKEN)
    )
    if key_id and secret:
        return _static(key_id, secret, token or None)
    if key_id or secret:
        missing = ACCESS_KEY_SECRET if key_id else ACCESS_KEY_ID
        raise ConfigError([f"{key_path}: the environment has one half of an access key: set {missing} as well"])
    try:
        from alibabacloud_credentials.client import Client  # noqa: PLC0415, an extra
    except ImportError:
        problem = (
            f"{key_path}: no credentials: set access_key_id and access_key_secret here, or {ACCESS_KEY_ID} and"
            f" {ACCESS_KEY_SECRET} in the environment, or use a role, which needs a further package:"
            f" {install_command('vendor-roles')}"
        )
        raise ConfigError([problem]) from None
    # It writes to the standard error stream, past our log, and what it writes can hold replies with credentials.
    logging.getLogger("credentials").disabled = True
    return PackageCredentials(Client)


def _static(access_key_id: str, access_key_secret: str, security_token: str | None) -> StaticCredentials:
    return StaticCredentials(
        Credentials(access_key_id=access_key_id, access_key_secret=access_key_secret, security_token=security_token)
    )
