"""``media-callbacks jobs``: which jobs the service shall see the end of, and what became of them."""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC
from typing import get_args

from media_callbacks.admin.models import MAX_JOBS, JobItem
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import AdminClient, add_admin_options, read_answer, run_with_client
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.listing import add_limit_option, print_list
from media_callbacks.commands.console.moments import DEADLINES, TIMES, read_deadline, read_range
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, can_draw, note, print_json, print_table, style_of
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.inbox.records import JobState
from media_callbacks.model.kinds import PRODUCTS
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now

_IN_A_PIPE = (
    "In a pipe one line per job, cells separated by tabs: registered, product, family, job id or nonce, state,"
    " deadline, transport, outcome, event id, how often the vendor was asked."
)


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks jobs list --state overdue",)
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    expect = what.add_parser(
        "expect",
        help="see to it that jobs end in an event, even when their callbacks are lost",
        description=f"All or none of every thousand. Doing it again does no harm. {_IN_A_PIPE}",
    )
    expect.examples = (
        "media-callbacks jobs expect vod snapshot 3af7e9705cb24c0f9d23231d4c371900",
        "media-callbacks jobs expect ims animated_image 8d2e --deadline 30m --user-data order-7",
    )
    expect.add_argument("product", metavar="PRODUCT", choices=PRODUCTS, help=", ".join(PRODUCTS))
    expect.add_argument(
        "family",
        metavar="FAMILY",
        help="the kind of the event that ends them, such as snapshot, else the product's own word; a wrong one names"
        " those known",
    )
    expect.add_argument(
        "ids", metavar="JOB_ID", nargs="*", help="the vendor's; none for the nonce of a minted URL alone"
    )
    expect.add_argument(
        "--media-id", metavar="ID", help="the asset; needed where the vendor can only be asked by asset"
    )
    expect.add_argument("--deadline", metavar="TIME", help=DEADLINES)
    expect.add_argument("--user-data", metavar="TEXT", help="for the event, where the vendor's answer has none")
    expect.add_argument("--account", metavar="NAME", help="that of the source (default: default)")
    expect.add_argument("--nonce", metavar="HEX", help="of the minted URL that the one job was submitted with")
    expect.set_defaults(run=lambda arguments: run_with_client(arguments, expect_jobs))
    listing = what.add_parser("list", help="expected jobs, newest first", description=_IN_A_PIPE)
    listing.examples = ("media-callbacks jobs list --state overdue", "media-callbacks jobs list --product vod --json")
    listing.add_argument("--state", choices=get_args(JobState))
    listing.add_argument("--product", choices=PRODUCTS)
    listing.add_argument("--job-id", metavar="ID", help="the vendor's job id")
    listing.add_argument("--since", metavar="TIME", help=f"registered then or later: {TIMES}")
    listing.add_argument("--until", metavar="TIME", help="registered before then")
    add_limit_option(listing)
    listing.set_defaults(run=lambda arguments: run_with_client(arguments, list_jobs))
    for command in (expect, listing):
        add_admin_options(command)
        add_json_option(command)


def expect_jobs(client: AdminClient, arguments: argparse.Namespace) -> int:
    if not arguments.ids and arguments.nonce is None:
        raise UsageError("expected a JOB_ID, or --nonce")
    if len(arguments.ids) > 1 and arguments.nonce is not None:
        raise UsageError(f"--nonce: expected with one JOB_ID at most, came {len(arguments.ids)}")
    options = {name: getattr(arguments, name) for name in ("media_id", "user_data", "account", "nonce")}
    if arguments.deadline is not None:
        options["deadline"] = read_deadline(arguments.deadline, now=utc_now())
    common = {"product": arguments.product, "family": arguments.family}
    common |= {name: value for name, value in options.items() if value is not None}
    jobs = [common | {"job_id": job_id} for job_id in arguments.ids] or [common]
    found = []
    for start in range(0, len(jobs), MAX_JOBS):
        part = jobs[start : start + MAX_JOBS]
        try:
            found += client.post_list("/v1/jobs", part)
        except AdminError as error:
            raise AdminError(in_words_of_options(str(error), part), status=error.status) from error
    if arguments.json:
        for document in found:
            print_json(document)
    else:
        show(found)
    if not all(document.get("can_be_asked", True) for document in found):
        note(
            "nobody can be asked about them: the service has no credentials for this product and account; add a table"
            " [vendor.<name>], or a job whose callback is lost ends as unknown"
        )
    return 0


def in_words_of_options(message: str, jobs: Sequence[Json]) -> str:
    """What is wrong with the documents that were sent, as whoever typed options knows them."""
    arguments = {"family": "FAMILY", "job_id": "JOB_ID", "product": "PRODUCT"}

    def name(found: re.Match[str]) -> str:
        argument = arguments.get(found[2]) or f"--{found[2].replace('_', '-')}"
        number = int(found[1])
        return f"{argument} of {jobs[number]['job_id'][:40]}" if 1 < len(jobs) > number else argument

    return re.sub(r"\b([0-9]+)\.([a-z_]+)\b", name, message)


def list_jobs(client: AdminClient, arguments: argparse.Namespace) -> int:
    query = {name: value for name in ("state", "product", "job_id") if (value := getattr(arguments, name)) is not None}
    query |= read_range(arguments, now=utc_now())
    return print_list(arguments, lambda limit: client.list_jobs(query, limit=limit), show, nothing="no job fits")


def show(documents: Sequence[Json]) -> None:
    jobs = [read_answer(JobItem, document) for document in documents]
    if not can_draw(sys.stdout):
        print_table((), map(plain_row_of, jobs))
        return
    # A job id and an event's stay in one piece on 80 columns, to be copied.
    print_table(
        ("registered (UTC)", "job", "state", "event"), map(row_of, jobs), widths={"registered (UTC)": 10, "job": 40}
    )


def row_of(job: JobItem) -> list[Cell]:
    registered_at, deadline_at = job.registered_at.astimezone(UTC), job.deadline_at.astimezone(UTC)
    if job.event_id is not None:
        event = [f"{job.outcome} by {job.transport}", job.event_id]
    else:
        asked = f", asked {job.attempts} time{'' if job.attempts == 1 else 's'}" if job.attempts else ""
        event = [f"due {deadline_at:%Y-%m-%d %H:%M:%S}{asked}"]
    return [
        [f"{registered_at:%Y-%m-%d}", f"{registered_at:%H:%M:%S}"],
        [job.job_id or f"nonce {job.nonce}", f"{job.product} {job.family}"],
        (job.state, style_of(job.state)),
        event,
    ]


def plain_row_of(job: JobItem) -> list[Cell]:
    return [
        format_time(job.registered_at),
        job.product,
        job.family,
        job.job_id or job.nonce or "-",
        job.state,
        format_time(job.deadline_at),
        job.transport or "-",
        job.outcome or "-",
        job.event_id or "-",
        str(job.attempts),
    ]
