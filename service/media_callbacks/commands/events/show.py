"""``media-callbacks events show``: the life of one event, or of all events of a job."""

import argparse

from media_callbacks.admin.models.answers import EventDetail, EventItem, JobHitItem
from media_callbacks.commands.console.admin_client import add_admin_options, read_answer
from media_callbacks.commands.console.cells import Reader, run_with_cells
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import print_json, print_line
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.events.filter import read_event_id
from media_callbacks.commands.events.life import draw_life
from media_callbacks.timing.clock import utc_now


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks events show evt_0aa3ead8ad35b2f7eb16bec2f5371d1700",
        "media-callbacks events show --job-id 3af7e9705cb24c0f9d23231d4c371900",
    )
    parser.add_argument("id", metavar="ID", nargs="?")
    parser.add_argument("--job-id", metavar="ID", help="the vendor's job id, instead of the event's")
    add_admin_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=lambda arguments: run_with_cells(arguments, show_events))


def show_events(client: Reader, arguments: argparse.Namespace) -> int:
    if (arguments.id is None) == (arguments.job_id is None):
        raise UsageError("expected the ID of an event, or --job-id")
    if arguments.id is not None:
        details = [client.find(f"/v1/events/{read_event_id(arguments.id)}")]
    else:
        found = list(client.list_events({"job_id": arguments.job_id}))
        # Oldest first: the life of a job reads downwards.
        details = [
            client.get_more(document, f"/v1/events/{read_answer(EventItem, document).id}")
            for document in reversed(found)
        ]
    if not details:
        raise AdminError(_tell_of(client, arguments.job_id))
    for number, document in enumerate(details):
        if arguments.json:
            print_json(document)
            continue
        if number:
            print_line("")
        if "cell" in document:
            print_line((f"cell {document['cell']}", "bold"))
        for line in draw_life(read_answer(EventDetail, document), now=utc_now()):
            print_line(*line)
    return 0


def _tell_of(client: Reader, job_id: str) -> str:
    """What is known of a job that has no event."""
    for document in client.search(job_id, limit=1)[0]:
        hit = read_answer(JobHitItem, document)
        state = "something came for it that gave none" if hit.state is None else f"it is {hit.state}"
        return f"no event has this job id yet, and the job is known: {state}; see `media-callbacks jobs show {job_id}`"
    return "no event has this job id, and nothing else is known of such a job"
