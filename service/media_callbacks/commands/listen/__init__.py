"""``media-callbacks listen``: events as they come, printed, and posted to an address of the developer's."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import AdminClient, add_admin_options, run_with_client
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.moments import TIMES, read_moment
from media_callbacks.commands.console.output import Piece, can_draw, note, print_json, print_line, print_table
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.listen.forwarding import Answer, Target
from media_callbacks.commands.listen.memory import Memory, open_memory, read_secret, state_folder
from media_callbacks.config.values import read_webhook_secret
from media_callbacks.model.kinds import ANY_OUTCOME, KINDS, OPERATIONAL, PRODUCTS
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now
from media_callbacks.timing.retry import backoff_s

_WAIT_S = 25
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0
_FILTER = ("product", "kind", "outcome", "job_id", "media_id", "source")


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks listen --forward-to http://localhost:3000/hook",
        "media-callbacks listen --kind animated_image --outcome failed --since 1h",
    )
    parser.description = (
        "Events are printed in order of acceptance, each when it has been posted. It goes on where it was stopped, for"
        " each service and filter; the first time it begins with what comes. In a pipe one line per event, cells"
        " separated by tabs: time, type, subject, user data, what the address answered, after how long, id."
    )
    parser.add_argument(
        "--forward-to",
        metavar="URL",
        help="post each event there as a webhook sink does, one at a time. What is answered is shown, whatever it is;"
        " where nobody listens, it waits",
    )
    parser.add_argument(
        "--secret",
        metavar="WHSEC",
        help="with which these are signed (default: one that is made once, kept and shown)",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--since", metavar="TIME", help=f"begin with what was accepted then or later: {TIMES}")
    start.add_argument("--from-now", action="store_true", help="begin with what comes, whatever was seen before")
    group = parser.add_argument_group("which events (all that are given must fit)")
    group.add_argument("--product", choices=PRODUCTS)
    group.add_argument("--kind", choices=(*KINDS, OPERATIONAL), metavar="KIND", help=", ".join((*KINDS, OPERATIONAL)))
    group.add_argument("--outcome", choices=ANY_OUTCOME)
    group.add_argument("--job-id", metavar="ID", help="the vendor's job id")
    group.add_argument("--media-id", metavar="ID", help="the vendor's media id")
    group.add_argument("--source", metavar="NAME", help="that came through this source first")
    add_admin_options(parser)
    parser.add_argument("--json", action="store_true", help="print events as JSON, one per line")
    parser.set_defaults(run=lambda arguments: run_with_client(arguments, listen))


def listen(client: AdminClient, arguments: argparse.Namespace) -> int:
    wanted = {name: value for name in _FILTER if (value := getattr(arguments, name)) is not None}
    folder = state_folder(os.environ)
    target = None if arguments.forward_to is None else _target(arguments, folder)
    with open_memory(folder, client.url, wanted) as memory:
        if arguments.since is not None:
            memory.begin({"since": format_time(read_moment("--since", arguments.since, now=utc_now()))})
        elif arguments.from_now or not memory.place:
            _, cursor = client.read_feed(wanted)
            memory.begin({"after": cursor})
        for event in _follow(client, memory, wanted):
            _show(event, None if target is None else target.post(event), arguments)
    return 0


def _target(arguments: argparse.Namespace, folder: Any) -> Target:
    if arguments.secret is None:
        secret, where = read_secret(folder)
    else:
        secret, where = arguments.secret, "--secret"
    try:
        key = read_webhook_secret(secret)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    target = Target(arguments.forward_to, key)
    note(f"posting to {target.url}, signed with {secret}")
    return target


def _follow(client: AdminClient, memory: Memory, wanted: Mapping[str, str]) -> Iterator[Json]:
    """Events, each once whatever happens to either side; noted as seen when the next one is asked for."""
    while True:
        events, cursor = _ask(client, memory, {**wanted, **memory.place, "wait": str(_WAIT_S)})
        for event in events:
            if event["id"] not in memory.seen:
                yield event
                memory.note(event["id"])
        if cursor != memory.place.get("after"):
            memory.begin({"after": cursor})


def _ask(client: AdminClient, memory: Memory, query: dict[str, str]) -> tuple[Sequence[Json], str]:
    attempt = 0
    while True:
        try:
            page = client.read_feed(query)
        except AdminError as error:
            if error.status == 410 and error.since is not None:
                note(str(error))
                memory.begin({"since": error.since})
                query = {name: value for name, value in query.items() if name != "after"}
                query.update(memory.place)
                continue
            if error.status is not None and error.status < 500:
                raise
            attempt += 1
            if attempt == 1:
                note(f"{error}. Trying again until it is back")
            time.sleep(backoff_s(attempt, first_s=_FIRST_RETRY_S, longest_s=_LONGEST_RETRY_S))
        else:
            if attempt:
                note("it is back")
            return page


def _show(event: Json, answer: Answer | None, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(event)
        if answer is not None and not answer.is_success:
            note(f"{event['id']}: {answer.text} in {answer.duration_ms} ms")
        return
    user_data = event["data"].get("user_data")
    texts = [event["time"], event["type"], event.get("subject") or "-", user_data or "-"]
    if not can_draw(sys.stdout):
        told = ["-", "-"] if answer is None else [answer.text, f"{answer.duration_ms} ms"]
        print_table((), [[*texts, *told, event["id"]]])
        sys.stdout.flush()
        return
    pieces: list[Piece] = ["  ".join(texts)]
    if answer is not None:
        pieces += ["  ", (answer.text, "green" if answer.is_success else "bold red"), f" in {answer.duration_ms} ms"]
    print_line(*pieces)
