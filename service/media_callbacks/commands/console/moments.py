"""Points in time, as they are given on the command line."""

import argparse
import re
from datetime import UTC, datetime, timedelta

from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.output import printable
from media_callbacks.model.times import format_time

_AGE = re.compile(r"([0-9]{1,7})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
TIMES = "2026-11-20, 2026-11-20T08:30:00Z, today, yesterday, or an age such as 30m, 2h, 7d; UTC"
_MOMENTS = "a time in UTC such as 2026-11-21T10:30:00Z, or how far ahead, such as 30m or 2h"
DEADLINES = (
    f"when the vendor is asked, should nothing have come until then: {_MOMENTS} (default: jobs.deadline_s of the"
    " service)"
)


def read_range(arguments: argparse.Namespace, *, now: datetime, prefix: str = "") -> dict[str, str]:
    """
    ``--since`` and ``--until`` under the names of the admin API, as far as they were given.

    Args:
        prefix: Of both names.

    Raises:
        UsageError: A time can't be read, or the range is empty.
    """
    since, until = f"{prefix}since", f"{prefix}until"
    options = {name: f"--{name.replace('_', '-')}" for name in (since, until)}
    moments = {
        name: read_moment(option, text, now=now)
        for name, option in options.items()
        if (text := getattr(arguments, name))
    }
    if len(moments) == 2 and moments[since] >= moments[until]:
        raise UsageError(
            f"{options[since]}, {options[until]}: expected a time and a later one,"
            f" came {format_time(moments[since])} and {format_time(moments[until])}"
        )
    return {name: format_time(moment) for name, moment in moments.items()}


def read_moment(option: str, text: str, *, now: datetime) -> datetime:
    """
    A point in time in UTC. Days begin at midnight, UTC.

    Raises:
        UsageError: It is none.
    """
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        return today - timedelta(days=text == "yesterday")
    try:
        if age := _AGE.fullmatch(text):
            return now.astimezone(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option}: expected {TIMES}; came {printable(text)}") from error


def read_deadline(text: str, *, now: datetime) -> str:
    """
    For the admin API.

    Raises:
        UsageError: It is none.
    """
    try:
        moment = read_moment("--deadline", text, now=now)
        if text[-1:] in "smhdw":
            # Ages are read, and a deadline lies ahead.
            moment = now + (now - moment)
    except (UsageError, OverflowError) as error:
        raise UsageError(f"--deadline: expected {_MOMENTS}; came {printable(text)}") from error
    return format_time(moment)
