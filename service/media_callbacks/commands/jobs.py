"""``media-callbacks jobs``: which jobs the service shall see the end of, and what became of them."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, timedelta
from typing import get_args

from media_callbacks.admin.models.answers import JobDetail, JobHitItem, JobItem, RefusedItem, TimelineItem
from media_callbacks.admin.models.expected_jobs import MAX_JOBS
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import (
    AdminClient,
    add_admin_options,
    path_of_job,
    read_answer,
    requested_by,
    run_with_client,
)
from media_callbacks.commands.console.cells import Reader, run_with_cells, with_cells
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.listing import add_limit_option, print_list
from media_callbacks.commands.console.moments import DEADLINES, TIMES, read_deadline, read_range
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import (
    Cell,
    Piece,
    can_draw,
    note,
    print_json,
    print_line,
    print_table,
    printable,
    style_of,
)
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.inbox.records import JobState
from media_callbacks.model.kinds import PRODUCTS
from media_callbacks.model.times import format_time, in_words
from media_callbacks.timing.clock import utc_now

_IN_A_PIPE = (
    "In a pipe one line per job, cells separated by tabs: registered, product, family, job id or nonce, state,"
    " deadline, transport, outcome, event id, how often the vendor was asked."
)


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks jobs show order-7", "media-callbacks jobs list --state overdue")
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
    listing.add_argument("--account", metavar="NAME", help="that of the source")
    listing.add_argument("--job-id", metavar="ID", help="the vendor's job id")
    listing.add_argument("--since", metavar="TIME", help=f"registered then or later: {TIMES}")
    listing.add_argument("--until", metavar="TIME", help="registered before then")
    add_limit_option(listing)
    listing.set_defaults(run=lambda arguments: run_with_cells(arguments, list_jobs))
    showing = what.add_parser(
        "show",
        help="the life of a job, found by whatever names it",
        description="Registered or not: what came for it, what waits, what the vendor was asked and said, each delivery"
        " with each attempt, and the times between. In a pipe one line for each thing that happened: when, after how"
        " many seconds, what, in a sentence; or, where several jobs are found, one for each: product, id, media id,"
        " user data, found by, state, outcome, event id, when.",
    )
    showing.examples = (
        "media-callbacks jobs show 3af7e9705cb24c0f9d23231d4c371900",
        "media-callbacks jobs show order-7",
    )
    showing.add_argument(
        "text",
        metavar="X",
        help="job id, media id, nonce, the id of an event, or the application's user data, whole or its beginning",
    )
    showing.add_argument("--product", choices=PRODUCTS, help="only this product's")
    showing.add_argument("--account", metavar="NAME", help="only this account's, where several have this id")
    add_limit_option(showing)
    showing.set_defaults(run=lambda arguments: run_with_cells(arguments, show_jobs))
    for command in (expect, listing, showing):
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
    common = {"product": arguments.product, "family": arguments.family, "requested_by": requested_by()}
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


def list_jobs(client: Reader, arguments: argparse.Namespace) -> int:
    query = {
        name: value
        for name in ("state", "product", "account", "job_id")
        if (value := getattr(arguments, name)) is not None
    }
    query |= read_range(arguments, now=utc_now())
    return print_list(arguments, lambda limit: client.list_jobs(query, limit=limit), show, nothing="no job fits")


def show_jobs(client: Reader, arguments: argparse.Namespace) -> int:
    hits_found, refused_found = client.search(arguments.text, limit=arguments.limit)
    found = [document for document in hits_found if arguments.product in (None, document.get("product"))]
    refused = [read_answer(RefusedItem, document) for document in refused_found]
    if not found:
        raise AdminError(
            "nothing is known of this: no job, event or receipt has it as an id, and no user data begins with it."
            f" {_tell_refused(refused)}"
        )
    hits = [read_answer(JobHitItem, document) for document in found]
    # Those that are named most exactly come first.
    alike = [hit for hit in hits if hit.found_by == hits[0].found_by]
    if len(alike) > 1:
        return _show_hits(arguments, found, hits)
    account = {} if arguments.account is None else {"account": arguments.account}
    document = client.get_more(found[0], path_of_job(hits[0].product, hits[0].id), account)
    if arguments.json:
        print_json(document)
        return 0
    job = read_answer(JobDetail, document)
    if not can_draw(sys.stdout):
        print_table((), map(plain_row_of_entry, job.timeline))
        return 0
    if "cell" in document:
        print_line((f"cell {document['cell']}", "bold"))
    for line in draw_job(job):
        print_line(*line)
    if len(hits) > 1:
        print_line("")
        print_line(f"{len(hits) - 1} further found less exactly: media-callbacks jobs show ID --product PRODUCT")
        _show_hits(arguments, found[1:], hits[1:])
    if refused:
        print_line("")
        print_line((_tell_refused(refused), "yellow"))
    return 0


def _tell_refused(refused: Sequence[RefusedItem]) -> str:
    """What to ask next, where this stands in refused requests."""
    if not refused:
        return "Nor does it stand in a refused request that is kept (the last of each kind, for a week at most)"
    newest = refused[0]
    why = printable(f"{newest.reason}, {newest.cause}" if newest.cause else newest.reason)
    return (
        f"It stands in {len(refused)} refused request{'' if len(refused) == 1 else 's'}, the newest of"
        f" {format_time(newest.refused_at)} through {printable(newest.source)} ({why}). What to do:"
        f" media-callbacks refused show {newest.id}"
    )


def _show_hits(arguments: argparse.Namespace, found: Sequence[Json], hits: Sequence[JobHitItem]) -> int:
    if arguments.json:
        for document in found:
            print_json(document)
        return 0
    if not can_draw(sys.stdout):
        print_table(*with_cells((), map(plain_row_of_hit, hits), found))
        return 0
    head = ("when (UTC)", "job", "found by", "state")
    print_table(*with_cells(head, map(row_of_hit, hits), found), widths={"when (UTC)": 10, "job": 40})
    print_line("one of them: media-callbacks jobs show ID --product PRODUCT")
    return 0


def row_of_hit(hit: JobHitItem) -> list[Cell]:
    at = hit.at.astimezone(UTC)
    state = hit.outcome or hit.state or "-"
    return [
        [f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}"],
        [hit.id, f"{hit.product}{f', media {hit.media_id}' if hit.media_id else ''}"],
        [hit.found_by, *([hit.user_data[:40]] if hit.user_data else [])],
        (state, style_of(state)),
    ]


def plain_row_of_hit(hit: JobHitItem) -> list[Cell]:
    return [
        hit.product,
        hit.id,
        hit.media_id or "-",
        hit.user_data or "-",
        hit.found_by,
        hit.state or "-",
        hit.outcome or "-",
        hit.event_id or "-",
        format_time(hit.at),
    ]


def draw_job(job: JobDetail) -> Iterator[Sequence[Piece]]:
    """Each line as pieces with their styles."""
    state = job.outcome or (job.jobs[-1].state if job.jobs else "no end is known")
    yield ((f"{job.product} {job.id}", "bold"), "  ", (state, f"bold {style_of(state)}"))
    yield ()
    for entry in job.timeline:
        after = "" if entry.after_s is None else f"+{in_words(timedelta(seconds=entry.after_s))}"
        yield (f"{format_time(entry.at):<24}  {after:<14}  ", (f"{entry.what:<10}", "bold"), f"  {entry.text}")
    if not job.is_whole:
        yield (("there is more than this: these are the newest of each kind", "yellow"),)
    yield ()
    for event in job.events:
        states = ", ".join(f"{one.sink} {one.state}" for one in event.deliveries) or "sent to nobody"
        yield (f"{event.id}  {states}; all of it: media-callbacks events show {event.id}",)
    for receipt in job.receipts:
        if receipt.state in ("unparsed", "conflict", "differing"):
            yield (
                (receipt.state, style_of(receipt.state)),
                f"  receipt {receipt.id}; what came: media-callbacks receipts show {receipt.id}",
            )


def plain_row_of_entry(entry: TimelineItem) -> list[Cell]:
    after = "-" if entry.after_s is None else f"{entry.after_s:g}"
    return [format_time(entry.at), after, entry.what, entry.text]


def show(documents: Sequence[Json]) -> None:
    jobs = [read_answer(JobItem, document) for document in documents]
    if not can_draw(sys.stdout):
        print_table(*with_cells((), map(plain_row_of, jobs), documents))
        return
    # A job id and an event's stay in one piece on 80 columns, to be copied.
    head = ("registered (UTC)", "job", "state", "event")
    print_table(*with_cells(head, map(row_of, jobs), documents), widths={"registered (UTC)": 10, "job": 40})


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
