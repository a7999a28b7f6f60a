"""
One request to the vendor, and what came back of it: bounded in size and time, redirects not followed. What an answer
means is the business of who asked.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from media_callbacks.http_client.bounded_connector import read_body
from media_callbacks.http_client.session import open_session
from media_callbacks.model.errors import VendorUnavailable

_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Attributes:
        skew_s: The vendor's clock minus ours; None where no date came.
        retry_after_s: What was asked for in seconds.
    """

    status: int
    body: bytes
    skew_s: float | None
    retry_after_s: float | None


class Connection:
    """
    Args:
        endpoint: Scheme, host and port.
        clock: The time in UTC.
    """

    def __init__(self, endpoint: str, *, clock: Callable[[], datetime]) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    def open(self) -> None:
        """Needed after ``close`` alone."""
        self._is_closed = False

    async def close(self) -> None:
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def exchange(
        self,
        action: str,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        max_bytes: int,
        patience_s: float,
    ) -> Answer:
        """
        Args:
            action: For the messages of errors.
            target: Path and query, encoded: it is sent as it is, because it was signed so.
            max_bytes: What an answer may have.
            patience_s: What it may take, besides connecting.

        Raises:
            VendorUnavailable: There is no whole answer.
        """
        if self._is_closed:
            raise VendorUnavailable(f"{action} was not sent: the client is closed")
        if self._session is None:
            # How many requests run at once is bounded by who asks, and waiting for a connection is no time-out.
            self._session = open_session(max_connections=0)
        try:
            async with self._session.request(
                method,
                URL(self.endpoint + target, encoded=True),
                data=body,
                headers=headers,
                skip_auto_headers=("User-Agent",),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=patience_s + _CONNECT_S, sock_connect=_CONNECT_S),
            ) as response:
                content = await read_body(response, max_bytes)
                if len(content) > max_bytes:
                    raise VendorUnavailable(
                        f"{action} was answered HTTP {response.status} with more than {max_bytes} bytes, which no"
                        " reply has"
                    )
                return Answer(
                    response.status,
                    content,
                    _skew_s(response.headers.get("Date"), self._clock()),
                    _parse_retry_after(response.headers.get("Retry-After")),
                )
        except TimeoutError as error:
            raise VendorUnavailable(
                f"{action}: no complete answer from {self.endpoint} within {patience_s + _CONNECT_S:.0f} s"
            ) from error
        # ValueError: a host that is no name, or credentials that no header can hold. Their texts are left out: they may
        # repeat what was sent, or what came.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise VendorUnavailable(
                f"{action}: the exchange with {self.endpoint} failed ({type(error).__name__}): check endpoint"
                " and network"
            ) from error


def clock_advice(skew_s: float | None) -> str:
    """What to do about a clock that the vendor refuses."""
    if skew_s is None:
        return "check the clock of this machine"
    side = "behind" if skew_s > 0 else "ahead of"
    return f"the clock of this machine is {abs(skew_s):.0f} s {side} the vendor's: set it"


def _skew_s(date: str | None, now: datetime) -> float | None:
    if date is None:
        return None
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError):
        return None


def _parse_retry_after(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else None
