"""Which events are meant: the options that ``events list`` and ``events replay`` have in common, and times."""

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import get_args

from service.cli.options import UsageError
from service.cli.output import printable
from service.events import KINDS, OUTCOMES, PRODUCTS, format_time
from service.inbox.base import DeliveryState

STATES = (*get_args(DeliveryState), "unrouted")
_NAMES = ("job_id", "media_id", "product", "kind", "outcome", "state", "sink", "since", "until")
_AGE = re.compile(r"([0-9]{1,7})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
TIMES = "2026-11-20, 2026-11-20T08:30:00Z, today, yesterday, or an age such as 30m, 2h, 7d; UTC"


def add_filter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which events (all that are given must fit)")
    group.add_argument("--job-id", metavar="ID", help="the vendor's job id")
    group.add_argument("--media-id", metavar="ID", help="the vendor's media id")
    group.add_argument("--product", choices=PRODUCTS)
    group.add_argument("--kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    group.add_argument("--outcome", choices=OUTCOMES)
    group.add_argument(
        "--state", choices=STATES, help="with a delivery in this state; unrouted: no sink was meant to get it"
    )
    group.add_argument("--sink", metavar="NAME", help="with a delivery to this sink; with --state, in that state there")
    group.add_argument("--since", metavar="TIME", help=f"accepted then or later: {TIMES}")
    group.add_argument("--until", metavar="TIME", help="accepted before then")


def read_filter(arguments: argparse.Namespace, *, now: datetime) -> dict[str, str]:
    """
    The filter under the names of the admin API; empty when no option was given.

    Raises:
        UsageError: A time can't be read, or the range is empty.
    """
    found = {name: getattr(arguments, name) for name in _NAMES} | read_range(arguments, now=now)
    return {name: value for name, value in found.items() if value is not None}


def read_range(arguments: argparse.Namespace, *, now: datetime) -> dict[str, str]:
    """
    ``--since`` and ``--until`` under the names of the admin API, as far as they were given.

    Raises:
        UsageError: A time can't be read, or the range is empty.
    """
    given = {name: text for name in ("since", "until") if (text := getattr(arguments, name))}
    moments = {name: read_moment(f"--{name}", text, now=now) for name, text in given.items()}
    if len(moments) == 2 and moments["since"] >= moments["until"]:
        raise UsageError(
            f"--since, --until: expected a time and a later one,"
            f" came {format_time(moments['since'])} and {format_time(moments['until'])}"
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
