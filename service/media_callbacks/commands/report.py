"""``media-callbacks report``: whether every expected job ended in an event, and how soon."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, timedelta

from media_callbacks.admin.models.answers import JobCounts, Report
from media_callbacks.commands.console.admin_client import add_admin_options, read_answer
from media_callbacks.commands.console.cells import Reader, run_with_cells
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.moments import TIMES, read_range
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, can_draw, print_json, print_line, print_table
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.model.times import format_time, in_words
from media_callbacks.timing.clock import utc_now

_COUNTS = ("submitted", "completed", "healed", "overdue", "unknown", "expected")
_PERCENTILES = ("p50", "p90", "p99")


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks report --hours 2",
        "media-callbacks report --since yesterday --until today --json",
    )
    parser.description = (
        "In a pipe one line per product, hour and transport, then one per product with total in place of"
        f" the hour, cells separated by tabs: hour, product, transport, {', '.join(_COUNTS)}, {', '.join(_PERCENTILES)}"
        " of the time to callback in seconds, lost on the way, never sent."
    )
    parser.add_argument("--since", metavar="TIME", help=f"jobs registered then or later: {TIMES}")
    parser.add_argument("--until", metavar="TIME", help="jobs registered before then (default: now)")
    parser.add_argument("--hours", type=float, metavar="N", help="the last N hours instead (default: 24, at most 744)")
    add_admin_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=lambda arguments: run_with_cells(arguments, report))


def report(client: Reader, arguments: argparse.Namespace) -> int:
    now = utc_now()
    query = read_range(arguments, now=now)
    if arguments.hours is not None:
        if query:
            raise UsageError("--hours: expected alone, came with --since or --until")
        if not 0 < arguments.hours <= 744:
            raise UsageError(f"--hours: expected more than 0 and at most 744, came {arguments.hours:g}")
        query = {"since": format_time(now - timedelta(hours=arguments.hours)), "until": format_time(now)}
    for cell, document in client.get_each(Report, "/v1/report", query).items():
        if arguments.json:
            print_json(document)
        elif can_draw(sys.stdout):
            if cell:
                print_line((cell, "bold"))
            draw(read_answer(Report, document))
        else:
            print_rows(read_answer(Report, document), cell)
    return 0


def print_rows(found: Report, cell: str) -> None:
    rows = [plain_row(format_time(row.hour), row.product, row.transport, row) for row in found.rows]
    rows += [
        plain_row("total", total.product, None, total, lost=total.lost_on_the_way, never=total.never_sent)
        for total in found.totals
    ]
    print_table((), [[*row, cell] for row in rows] if cell else rows)


def plain_row(
    hour: str,
    product: str,
    transport: str | None,
    counts: JobCounts,
    *,
    lost: int | None = None,
    never: int | None = None,
) -> list[Cell]:
    times = counts.time_to_callback_s
    return [
        hour,
        product,
        transport or "-",
        *(str(getattr(counts, name)) for name in _COUNTS),
        *("-" if times is None else f"{getattr(times, name):.3f}" for name in _PERCENTILES),
        *("-" if number is None else str(number) for number in (lost, never)),
    ]


def draw(found: Report) -> None:
    since, until = found.since.astimezone(UTC), found.until.astimezone(UTC)
    print_line(f"jobs registered from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC")
    if not found.totals:
        print_line("none")
        return
    head = ("submitted", "ended", "waiting", "p50 / p90 / p99")
    print_table(
        ("hour (UTC)", "product", "by", *head),
        [
            [f"{row.hour.astimezone(UTC):%m-%d %H:%M}", row.product, row.transport or "-", *shown(row)]
            for row in found.rows
        ],
    )
    print_table(("product", *head), [[total.product, *shown(total)] for total in found.totals])
    for total in found.totals:
        if total.lost_on_the_way or total.never_sent:
            print_line(
                f"{total.product}: of the healed, {total.lost_on_the_way} notifications were sent and lost on the way,"
                f" {total.never_sent} never sent"
            )


def shown(counts: JobCounts) -> Sequence[Cell]:
    times = counts.time_to_callback_s
    return (
        str(counts.submitted),
        _named(counts, "completed", "healed", "unknown"),
        _named(counts, "expected", "overdue"),
        "-"
        if times is None
        else " / ".join(in_words(timedelta(seconds=getattr(times, name))) for name in _PERCENTILES),
    )


def _named(counts: JobCounts, *names: str) -> Cell:
    return [f"{number} {name}" for name in names if (number := getattr(counts, name))] or "-"
