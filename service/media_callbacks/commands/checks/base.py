"""What a check finds, and how it sees the network."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from aiohttp.abc import AbstractResolver

TIMEOUT_S = 5.0

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """
    What became of one thing that was tried.

    Attributes:
        subject: A key path of the configuration, or ``clock``.
        text: One line, without secrets.
        remedy: What to do; None where all is well.
    """

    severity: Severity
    subject: str
    text: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """
    Attributes:
        clock: The time in UTC.
        resolver, ssl_context: Other than the system's.
        timeout_s: Of each probe.
    """

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    resolver: AbstractResolver | None = None
    ssl_context: ssl.SSLContext | None = None
    timeout_s: float = TIMEOUT_S
