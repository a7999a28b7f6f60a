"""Which events are meant: by their ids, or by the options that ``events list`` and ``events replay`` have in common."""

import argparse
from datetime import datetime
from typing import get_args

from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.moments import TIMES, read_range
from media_callbacks.commands.console.output import printable
from media_callbacks.inbox.records import DeliveryState
from media_callbacks.model.identity import parse_event_id
from media_callbacks.model.kinds import ANY_OUTCOME, KINDS, OPERATIONAL, PRODUCTS

STATES = (*get_args(DeliveryState), "unrouted")
_NAMES = ("job_id", "media_id", "account", "product", "kind", "outcome", "state", "sink")


def add_filter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which events (all that are given must fit)")
    group.add_argument("--job-id", metavar="ID", help="the vendor's job id")
    group.add_argument("--media-id", metavar="ID", help="the vendor's media id")
    group.add_argument(
        "--account", metavar="NAME", help="that of the source, where several have this --job-id or --media-id"
    )
    group.add_argument("--product", choices=PRODUCTS)
    group.add_argument("--kind", choices=(*KINDS, OPERATIONAL), metavar="KIND", help=", ".join((*KINDS, OPERATIONAL)))
    group.add_argument("--outcome", choices=ANY_OUTCOME)
    group.add_argument(
        "--state", choices=STATES, help="with a delivery in this state; unrouted: no sink was meant to get it"
    )
    group.add_argument("--sink", metavar="NAME", help="with a delivery to this sink; with --state, in that state there")
    group.add_argument("--since", metavar="TIME", help=f"accepted then or later: {TIMES}")
    group.add_argument("--until", metavar="TIME", help="accepted before then")
    group.add_argument("--given-up-since", metavar="TIME", help="dead (at --sink, if given), given up then or later")
    group.add_argument("--given-up-until", metavar="TIME", help="the same, given up before then")


def read_filter(arguments: argparse.Namespace, *, now: datetime) -> dict[str, str]:
    """
    The filter under the names of the admin API; empty when no option was given.

    Raises:
        UsageError: A time can't be read, or the range is empty.
    """
    found = {name: getattr(arguments, name) for name in _NAMES}
    found |= read_range(arguments, now=now) | read_range(arguments, now=now, prefix="given_up_")
    return {name: value for name, value in found.items() if value is not None}


def read_event_id(text: str) -> str:
    """
    Raises:
        UsageError: This is not an event id.
    """
    try:
        parse_event_id(text)
    except ValueError as error:
        raise UsageError(
            f"ID: expected evt_ and 34 hexadecimal digits, came {printable(text)}; of a job: --job-id"
        ) from error
    return text
