"""``media-callbacks sinks``: what is stuck, since when and why; stopping a sink and letting it flow again."""

import argparse
import re
from datetime import timedelta

from media_callbacks.admin.models.answers import SinkItem, TriedSink
from media_callbacks.commands.console.admin_client import (
    AdminClient,
    add_admin_options,
    read_answer,
    requested_by,
    run_with_client,
)
from media_callbacks.commands.console.cells import Reader, run_with_cells, with_cells
from media_callbacks.commands.console.destinations import tell_answers
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, print_json, print_line, print_table, style_of
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.model.times import in_words


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks sinks list",)
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser(
        "list",
        help="state, backlog and age of the oldest waiting event of every sink",
        description="In a pipe one line per sink, cells separated by tabs: name, kind, state, breaker, backlog, dead,"
        " age of the oldest waiting event, reason.",
    )
    listing.set_defaults(run=lambda arguments: run_with_cells(arguments, list_sinks))
    pause = what.add_parser("pause", help="send nothing more to a sink; its events wait, in order, for all instances")
    resume = what.add_parser("resume", help="let a paused or disabled sink flow again, in order")
    retry = what.add_parser(
        "retry", help="try now what a sink did not take: when its receiver is well again, and no time is to be lost"
    )
    listing.examples = ("media-callbacks sinks list",)
    reasons = (("pause", pause, "their database moves"), ("resume", resume, "moved"), ("retry", retry, "well again"))
    for verb, command, reason in reasons:
        command.examples = (f'media-callbacks sinks {verb} orders --reason "{reason}"',)
        command.add_argument("name", metavar="NAME", help="of the sink")
        command.add_argument("--reason", metavar="TEXT", help="for the record, beside who and when")
        command.set_defaults(run=lambda arguments: run_with_client(arguments, set_state), verb=verb)
    for command in (listing, pause, resume, retry):
        add_admin_options(command)
        add_json_option(command)


def list_sinks(client: Reader, arguments: argparse.Namespace) -> int:
    documents = client.get_list("/v1/sinks", "sinks")
    if arguments.json:
        for document in documents:
            print_json(document)
        return 0
    rows = []
    for document in documents:
        sink = read_answer(SinkItem, document)
        rows.append(row_of(sink))
    head = ("sink", "kind", "state", "breaker", "backlog", "dead", "oldest waits", "reason")
    print_table(
        *with_cells(head, rows, documents),
        widths={"sink": 30, "state": 8, "oldest waits": 12},
    )
    return 0


def row_of(sink: SinkItem) -> list[Cell]:
    oldest_s = sink.oldest_pending_age_s
    dead = sink.deliveries.get("dead", 0)
    breaker = sink.breaker or "-"
    return [
        sink.name,
        sink.kind or "-",
        (sink.state, style_of(sink.state)),
        (breaker.replace("_", "-"), style_of(breaker)),
        str(sink.backlog),
        (str(dead), "red" if dead else ""),
        "-" if oldest_s is None else in_words(timedelta(seconds=oldest_s)),
        reason_of(sink),
    ]


def reason_of(sink: SinkItem) -> str:
    """Why it is as it is: that nobody sends to it, who changed it and why, what receivers answered last."""
    parts = [] if sink.is_configured else ["not configured any more"]
    if sink.state != "active":
        parts += [sink.reason] if sink.reason else []
        parts += [f"by {sink.changed_by}"] if sink.changed_by else []
    parts += [tell_answers(sink)] if sink.last_error_at else []
    return ", ".join(parts) or "-"


def set_state(client: AdminClient, arguments: argparse.Namespace) -> int:
    name = arguments.name
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise UsageError("NAME: expected the name of a sink: lower-case letters, digits and hyphens")
    asked = {"requested_by": requested_by()} | ({"reason": arguments.reason} if arguments.reason else {})
    document = client.post(f"/v1/sinks/{name}/{arguments.verb}", asked)
    if arguments.json:
        print_json(document)
        return 0
    sink: SinkItem = read_answer(SinkItem if arguments.verb == "pause" else TriedSink, document)
    waiting = f"{sink.backlog} event{'' if sink.backlog == 1 else 's'}"
    if sink.state != "active":
        what_next = f"{waiting} waiting for resume"
    elif sink.breaker in (None, "closed"):
        what_next = f"{waiting} on the way"
    else:
        what_next = f"{waiting} waiting: one is tried now, and the others when it is taken"
    if isinstance(sink, TriedSink) and sink.brought_forward:
        what_next += (
            f"; {sink.brought_forward} brought forward to be tried {'now' if sink.state == 'active' else 'then'}"
        )
    print_line(f"{sink.name} is ", (sink.state, style_of(sink.state)), f": {what_next}")
    return 0
