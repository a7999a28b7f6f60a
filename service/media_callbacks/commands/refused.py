"""``media-callbacks refused``: what the running service has refused of late, and why."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC

from media_callbacks.admin.models.answers import RefusedDetail, RefusedItem, RefusedPage
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import AdminClient, add_admin_options, read_answer, run_with_client
from media_callbacks.commands.console.cells import Reader, run_with_cells, with_cells
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.explanation import finding_lines, step_lines
from media_callbacks.commands.console.listing import add_limit_option, print_list
from media_callbacks.commands.console.moments import TIMES, read_range
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, can_draw, note, print_json, print_line, print_table, printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now

# Of a body; --json has all that is kept.
MAX_LINES, MAX_CHARACTERS = 20, 1000


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks refused list --source vod", "media-callbacks refused show 7")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser(
        "list",
        help="refused requests, newest first: the last of each kind, for a week at most",
        description="In a pipe one line per request, cells separated by tabs: refused, number, source, answer, reason,"
        " cause, job id, what was wrong.",
    )
    listing.examples = (
        "media-callbacks refused list --text 3af7e9705cb24c0f9d23231d4c371900",
        "media-callbacks refused list --source vod --reason signature_mismatch --since 1d",
    )
    listing.add_argument("--source", metavar="NAME", help="that they came to; none: to no source")
    listing.add_argument("--reason", metavar="WORD", help="as in metrics and logs")
    listing.add_argument("--cause", metavar="WORD", help="what explains it")
    listing.add_argument("--text", metavar="TEXT", help="that stands in them: a job id, user data, anything")
    listing.add_argument("--since", metavar="TIME", help=f"refused then or later: {TIMES}")
    add_limit_option(listing)
    listing.set_defaults(run=lambda arguments: run_with_cells(arguments, list_refused), until=None)
    showing = what.add_parser("show", help="why one was refused, what to do, and what is kept of it")
    showing.examples = ("media-callbacks refused show 7",)
    showing.add_argument("number", metavar="NUMBER")
    showing.set_defaults(run=lambda arguments: run_with_client(arguments, show_refused))
    for command in (listing, showing):
        add_admin_options(command)
        add_json_option(command)


def list_refused(client: Reader, arguments: argparse.Namespace) -> int:
    names = ("source", "reason", "cause", "text")
    query = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    query |= read_range(arguments, now=utc_now())
    return print_list(
        arguments, lambda limit: client.list_refused(query, limit=limit), show_list, nothing="no refused request fits"
    )


def show_refused(client: AdminClient, arguments: argparse.Namespace) -> int:
    if not arguments.number.isascii() or not arguments.number.isdecimal():
        raise UsageError("NUMBER: expected that of a refused request, as media-callbacks refused list has it")
    _show(client, arguments, arguments.number)
    return 0


def show_last(client: AdminClient, arguments: argparse.Namespace) -> int:
    """The last one of this source and with this text; 1 where there is one."""
    wanted = {name: value for name in ("source", "text") if (value := getattr(arguments, name)) is not None}
    found = read_answer(RefusedPage, client.get("/v1/refused", {"limit": "1"} | wanted)).refused
    if not found:
        of_what = "".join(f" {word} {printable(wanted[n])}" for n, word in _WORDS.items() if n in wanted)
        note(f"no request{of_what} was refused within the last week; media-callbacks sources list tells what comes")
        return 0
    _show(client, arguments, str(found[0].id))
    return 1


_WORDS = {"source": "of source", "text": "with the text"}


def _show(client: AdminClient, arguments: argparse.Namespace, number: str) -> None:
    document = client.get(f"/v1/refused/{number}")
    if arguments.json:
        print_json(document)
        return
    for text, style in refused_lines(read_answer(RefusedDetail, document)):
        print_line((text, style))


def refused_lines(refused: RefusedDetail) -> Iterator[tuple[str, str]]:
    """Each with its style, the verdict first."""
    yield f"refused at {format_time(refused.refused_at)}, answered with {refused.status} ({refused.reason})", "bold red"
    yield f"source  {refused.source}: {refused.detail}", ""
    if refused.job_id is not None:
        yield f"job     {refused.job_id}, as it says itself", ""
    explanation, request = refused.explanation, refused.request
    if explanation is None:
        yield "", ""
        yield "not explained further: the request was too long, or had not come whole", "yellow"
    elif explanation["findings"]:
        yield "", ""
        yield from finding_lines(explanation["findings"])
    for text in explanation["notes"] if explanation is not None else ():
        yield text, "yellow"
    yield "", ""
    yield "what becomes of the job", "bold"
    yield from ((f"  {sentence}", "") for sentence in refused.afterwards)
    yield "", ""
    yield f"{request['method']} {request['target']}, body of {request['body_bytes']} bytes", "bold"
    for name, value in request["headers"]:
        yield f"  {name}: {value}", "dim"
    if request["body"]:
        yield "", ""
        yield from _head_of(request["body"])
    if explanation is not None:
        yield "", ""
        yield from step_lines(explanation["steps"])


def _head_of(body: str) -> Iterator[tuple[str, str]]:
    lines = body[:MAX_CHARACTERS].split("\n")
    for line in lines[:MAX_LINES]:
        yield f"  {line}", ""
    if len(body) > MAX_CHARACTERS or len(lines) > MAX_LINES:
        yield f"  and so on, {len(body)} characters; all that is kept: --json", "yellow"


def show_list(documents: Sequence[Json]) -> None:
    found = [read_answer(RefusedItem, document) for document in documents]
    if not can_draw(sys.stdout):
        print_table(*with_cells((), map(plain_row_of, found), documents))
        return
    widths = {"refused (UTC)": 10, "request": 10}
    head = ("refused (UTC)", "request", "reason", "job")
    print_table(*with_cells(head, map(row_of, found), documents), widths=widths)
    print_line("one of them: media-callbacks refused show NUMBER")


def row_of(refused: RefusedItem) -> list[Cell]:
    refused_at = refused.refused_at.astimezone(UTC)
    return [
        [f"{refused_at:%Y-%m-%d}", f"{refused_at:%H:%M:%S}"],
        [str(refused.id), f"{refused.source} {refused.status}"],
        [refused.reason, refused.cause or refused.detail],
        refused.job_id or "-",
    ]


def plain_row_of(refused: RefusedItem) -> list[Cell]:
    return [
        format_time(refused.refused_at),
        str(refused.id),
        refused.source,
        str(refused.status),
        refused.reason,
        refused.cause or "-",
        refused.job_id or "-",
        refused.detail,
    ]
