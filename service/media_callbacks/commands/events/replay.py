"""
``media-callbacks events replay``: send events again.

The service does it, at a rate, and goes on where it was after a restart; the command counts, asks, and follows. With
``--to`` the command itself posts the events to an address, for development: the service never connects to an address
that a request named.
"""

import argparse
import time
from collections.abc import Sequence

from media_callbacks.admin.models.answers import DryRun, ReplayItem, SinkItem
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import (
    AdminClient,
    add_admin_options,
    build_client,
    read_answer,
    requested_by,
    run_with_client,
)
from media_callbacks.commands.console.asking import ask, is_interactive
from media_callbacks.commands.console.destinations import tell_answers
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import (
    Cell,
    note,
    print_json,
    print_line,
    print_table,
    printable,
    showing_progress,
    style_of,
)
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.events.filter import add_filter_options, read_event_id, read_filter
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now

SECRET_VARIABLE = "MEDIA_CALLBACKS_REPLAY_SECRET"  # noqa: S105 - its name
DEFAULT_RATE = 50.0
_POLL_S = 0.5
# How often it looks in vain whether anything more has arrived.
_PATIENCE = 10
# What a test puts something else for.
pause = time.sleep


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks events replay evt_0aa3ead8ad35b2f7eb16bec2f5371d1700",
        "media-callbacks events replay --sink orders --given-up-since yesterday --given-up-until today --dry-run",
        "media-callbacks events replay --state unrouted --to-sink orders --dry-run",
    )
    parser.description = (
        "Counts the events first, asks on a terminal when there are several, then follows until all are on"
        " their way again. Interrupted, it leaves the replay running in the service."
    )
    parser.add_argument("ids", metavar="ID", nargs="*", help="events; or choose them by the options below")
    add_filter_options(parser)
    group = parser.add_argument_group("how")
    group.add_argument(
        "--to-sink",
        metavar="NAME",
        action="append",
        default=[],
        help="where to, may be given several times (default: --sink if given, else where each event went before)",
    )
    group.add_argument("--rate", type=float, metavar="N", help=f"events a second (default: {DEFAULT_RATE:g})")
    group.add_argument("--reason", metavar="TEXT", help="for the record, beside who and when")
    group.add_argument("--dry-run", action="store_true", help="count, and send nothing")
    group.add_argument("--yes", action="store_true", help="don't ask; needed for several without a terminal")
    group = parser.add_argument_group("for development")
    group.add_argument(
        "--to", metavar="URL", help="this command posts the events to URL itself, signed as webhooks are, oldest first"
    )
    group.add_argument(
        "--secret-file",
        metavar="PATH",
        help=f"file with the whsec_ secret to sign with (default: ${SECRET_VARIABLE}, else a new one, printed once)",
    )
    group = parser.add_argument_group("replays that were begun before")
    group.add_argument("--status", metavar="REPLAY", nargs="?", const="", help="how far one is, or the latest ones")
    group.add_argument("--cancel", metavar="REPLAY", help="send no more of it")
    add_admin_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.status is not None or arguments.cancel is not None:
        return run_with_client(arguments, show_replays)
    rate = arguments.rate
    if rate is not None and not 0 < rate < float("inf"):
        raise UsageError(f"--rate: expected a number above zero, came {rate:g}")
    event_filter = read_filter(arguments, now=utc_now())
    ids = list(dict.fromkeys(map(read_event_id, arguments.ids)))
    if ids and event_filter:
        raise UsageError("expected IDs, or options that choose events, came both; a sink to send to is --to-sink")
    if not ids and not event_filter:
        raise UsageError("expected IDs, or options that choose events such as --state dead --given-up-since yesterday")
    if arguments.to is not None and arguments.to_sink:
        raise UsageError("--to, --to-sink: expected one of them, came both")
    if arguments.secret_file is not None and arguments.to is None:
        raise UsageError("--secret-file is for --to; sinks sign with their own secrets")
    if len(ids) != 1 and not (arguments.yes or arguments.dry_run or is_interactive()):
        raise UsageError("there is no terminal to ask on: expected --yes to send, or --dry-run to count")
    if arguments.to is not None:
        # Here: it sends as the service does, with libraries that the other ways do without.
        from media_callbacks.commands.events.replay_to import replay_to  # noqa: PLC0415

        return replay_to(arguments, ids, event_filter)
    return replay(arguments, ids, event_filter)


def confirm(arguments: argparse.Namespace, total: int, where: str) -> bool:
    """
    Say how many events are meant, and ask where that is needed.

    Raises:
        AdminError: The answer was no.
    """
    events = "1 event" if total == 1 else f"{total} events"
    if arguments.dry_run:
        if arguments.json:
            print_json({"dry_run": True, "total": total})
        else:
            print(f"{events} would be sent again {where}")
        return False
    note(f"{events} to be sent again {where}")
    if total <= 1 or arguments.yes:
        return total > 0
    ask("send them?", otherwise="nothing was sent")
    return True


def note_answers(client: AdminClient, names: Sequence[str]) -> None:
    """Of sinks that something is left for: whether their destinations are well again."""
    for document in client.get_list("/v1/sinks", "sinks"):
        sink = read_answer(SinkItem, document)
        if sink.name in names and sink.last_error_at is not None:
            note(printable(f"{sink.name}: {tell_answers(sink)}"))


def check_ids(client: AdminClient, ids: Sequence[str]) -> None:
    """
    Raises:
        AdminError: One of them is not there, so that none is sent.
    """
    for event_id in ids:
        try:
            client.get(f"/v1/events/{event_id}")
        except AdminError as error:
            raise AdminError(f"{event_id}: {error}", status=error.status) from error


# By the service


def replay(arguments: argparse.Namespace, ids: Sequence[str], event_filter: Json) -> int:
    sinks = list(dict.fromkeys(arguments.to_sink)) or ([arguments.sink] if arguments.sink else [])
    order: Json = {"requested_by": requested_by()} | ({"sinks": sinks} if sinks else {})
    if arguments.reason:
        order["reason"] = arguments.reason
    bulk_order = order | {"filter": event_filter} | ({"rate": arguments.rate} if arguments.rate else {})

    client = build_client(arguments)
    if ids:
        check_ids(client, ids)
        total = len(ids)
    else:
        total = read_answer(DryRun, client.post("/v1/replays", bulk_order | {"dry_run": True})).total
    where = f"to {' and '.join(sinks)}" if sinks else "to where each went before"
    if sinks and total and not arguments.json:
        note_answers(client, sinks)
    if not confirm(arguments, total, where):
        return 0
    begun: list[int] = []
    try:
        if ids:
            started_at = time.perf_counter()
            for number, event_id in enumerate(ids):
                pause(seconds_until_turn(arguments, number, started_at))
                begun.append(read_answer(ReplayItem, client.post(f"/v1/events/{event_id}/replay", order)).id)
        else:
            begun.append(read_answer(ReplayItem, client.post("/v1/replays", bulk_order)).id)
        documents = follow(client, begun)
    except (KeyboardInterrupt, AdminError):
        for replay_id in begun:
            note(
                f"replay {replay_id} goes on in the service\n"
                f"  see it:  media-callbacks events replay --status {replay_id}\n"
                f"  stop it: media-callbacks events replay --cancel {replay_id}"
            )
        raise
    for document in documents:
        if arguments.json:
            print_json(document)
        else:
            report(read_answer(ReplayItem, document))
    return 0 if all(document["state"] == "finished" for document in documents) else 1


def follow(client: AdminClient, replay_ids: Sequence[int]) -> list[Json]:
    """The records of replays when all of them have ended, and no more of their events arrive."""
    records: dict[int, ReplayItem] = {}
    documents: dict[int, Json] = {}
    patience = _PATIENCE
    with showing_progress("on their way") as show:
        while True:
            before = [record.deliveries for record in records.values()]
            for replay_id in replay_ids:
                if replay_id not in records or is_under_way(records[replay_id]):
                    documents[replay_id] = client.get(f"/v1/replays/{replay_id}")
                    records[replay_id] = read_answer(ReplayItem, documents[replay_id])
            done = sum(record.done for record in records.values())
            show(done, sum(record.total for record in records.values()))
            if all(record.state != "running" for record in records.values()):
                has_news = before != [record.deliveries for record in records.values()]
                patience = _PATIENCE if has_news else patience - 1
                if not patience or not any(map(is_under_way, records.values())):
                    return [documents[replay_id] for replay_id in replay_ids]
            pause(_POLL_S)


def is_under_way(record: ReplayItem) -> bool:
    """Whether more of it may arrive."""
    return record.state == "running" or bool(record.deliveries and record.deliveries["waiting"])


def report(record: ReplayItem) -> None:
    done = f"{record.done} of {record.total} events are on their way again"
    if record.deliveries is not None:
        done += f"; deliveries: {tell_deliveries(record)}"
    print_line(f"replay {record.id} ", (record.state, style_of(record.state)), f": {done}")


def tell_deliveries(record: ReplayItem) -> str:
    return ", ".join(f"{count} {state}" for state, count in (record.deliveries or {}).items())


def show_replays(client: AdminClient, arguments: argparse.Namespace) -> int:
    """``--status`` and ``--cancel``."""
    replay_id = arguments.cancel if arguments.cancel is not None else arguments.status
    if arguments.ids or (arguments.status is not None and arguments.cancel is not None):
        raise UsageError("--status and --cancel stand alone, with the number of a replay")
    if (replay_id or arguments.cancel is not None) and not (replay_id.isascii() and replay_id.isdigit()):
        raise UsageError(f"--status, --cancel: expected the number of a replay, came {printable(replay_id)}")
    if arguments.cancel is not None:
        documents = [client.post(f"/v1/replays/{replay_id}/cancel")]
    elif replay_id:
        documents = [client.get(f"/v1/replays/{replay_id}")]
    else:
        documents = client.get_list("/v1/replays", "replays")
    if arguments.json:
        for document in documents:
            print_json(document)
        return 0
    print_table(
        ("replay", "state", "events", "asked for", "which", "to", "reason"),
        [row_of(read_answer(ReplayItem, document)) for document in documents],
        widths={"state": 9, "events": 8},
    )
    return 0


def row_of(record: ReplayItem) -> list[Cell]:
    return [
        str(record.id),
        (record.state, style_of(record.state)),
        [f"{record.done} of {record.total}", *([tell_deliveries(record)] if record.deliveries else [])],
        [format_time(record.created_at.replace(microsecond=0)), record.requested_by or "-"],
        " ".join(f"{name}={value}" for name, value in record.filter.model_dump(mode="json", exclude_none=True).items()),
        " ".join(record.sinks) or "as before",
        record.reason or "-",
    ]


def seconds_until_turn(arguments: argparse.Namespace, number: int, started_at: float) -> float:
    """How long the event with this number has to wait, so that as many a second are sent as ``--rate`` says."""
    return max(0.0, started_at + number / (arguments.rate or DEFAULT_RATE) - time.perf_counter())
