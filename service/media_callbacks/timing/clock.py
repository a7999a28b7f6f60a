"""The clock of the machine. Whoever decides something is given the time; this is for those who give it."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    return datetime.now(UTC)
