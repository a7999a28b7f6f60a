"""``media-callbacks events erase``: erase what is kept of one job, asset or user, and keep what is known."""

import argparse
from collections.abc import Callable

from media_callbacks.admin.models.answers import ErasedPart, ErasureItem
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import (
    AdminClient,
    add_admin_options,
    build_client,
    read_answer,
    requested_by,
)
from media_callbacks.commands.console.asking import ask, is_interactive
from media_callbacks.commands.console.errors import AdminError, UsageError
from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import note, print_json, showing_progress
from media_callbacks.commands.console.parser import CommandParser

_COUNTS = tuple(ErasureItem.model_fields)


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks events erase --job-id 3af7e9705cb24c0f9d23231d4c371900 --dry-run",
        'media-callbacks events erase --user-data "user 7" --reason "asked on 2026-11-21"',
    )
    parser.description = (
        "Bodies of receipts, events and held events, words of receivers, and user data. Keys, outcomes, revisions and"
        " the vendor's ids stay, so that the same callback again is a duplicate; it is kept without its body. Counts"
        " first, and asks on a terminal. Not erased is what consumers have, what waits in journals, backups, and what"
        " the database has not yet written over."
    )
    group = parser.add_argument_group("whose (one of them)")
    subject = group.add_mutually_exclusive_group(required=True)
    subject.add_argument("--job-id", metavar="ID", help="the vendor's job id")
    subject.add_argument("--media-id", metavar="ID", help="the vendor's media id")
    subject.add_argument("--user-data", metavar="TEXT", help="all of the text that was given at submit")
    group.add_argument("--account", metavar="NAME", help="only in this account of the sources (default: in all)")
    group = parser.add_argument_group("how")
    group.add_argument(
        "--force", action="store_true", help="also what is not yet delivered, which then never is; else it is left"
    )
    group.add_argument("--reason", metavar="TEXT", help="for the record, beside who, when and how much")
    group.add_argument("--dry-run", action="store_true", help="count, and erase nothing")
    group.add_argument("--yes", action="store_true", help="don't ask; needed where there is no terminal to ask on")
    add_admin_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if not (arguments.yes or arguments.dry_run or is_interactive()):
        raise UsageError("there is no terminal to ask on: expected --yes to erase, or --dry-run to count")
    subject = {name: getattr(arguments, name) for name in ("job_id", "media_id", "user_data")}
    order: Json = {name: value for name, value in subject.items() if value is not None}
    if not all(order.values()):
        raise UsageError("expected whose content to erase, came an empty text")
    if arguments.account:
        order["account"] = arguments.account
    order |= {"force": arguments.force, "requested_by": requested_by()}
    if arguments.reason:
        order["reason"] = arguments.reason
    client = build_client(arguments)
    counted = _send(client, order | {"dry_run": True})
    if arguments.dry_run:
        _print(arguments, counted, "would be erased", dry_run=True)
        return 0
    _check_undelivered(counted, "nothing was erased")
    if not any(counted[name] for name in _COUNTS):
        note("there is nothing to erase: nothing that is kept says so")
        _note_journal(counted)
        if arguments.json:
            print_json(_shown(counted) | {"dry_run": False})
        return 0
    if not arguments.yes:
        note(_in_words(counted))
        ask("erase them for good?", otherwise="nothing was erased")
    erased = _send(client, order, interrupted=lambda: note("what was erased stays erased; run this again for the rest"))
    _print(arguments, erased, "were erased", dry_run=False)
    _check_undelivered(erased, "the rest was erased")
    return 0


def _send(client: AdminClient, order: Json, *, interrupted: Callable[[], None] = lambda: None) -> Json:
    """All parts; what they come to, with the id and what the last one says of the journal."""
    total: Json = dict.fromkeys(_COUNTS, 0)
    cursor: str | None = None
    with showing_progress("counted" if order.get("dry_run") else "erased") as show:
        while True:
            try:
                answer = client.post("/v1/erasures", order | ({} if cursor is None else {"cursor": cursor}))
            except (KeyboardInterrupt, AdminError):
                interrupted()
                raise
            part = read_answer(ErasedPart, answer)
            for name in _COUNTS:
                total[name] += getattr(part, name)
            total |= {"id": part.id, "journaled": part.journaled}
            show(total["events"] + total["receipts"], None)
            cursor = part.cursor
            if cursor is None:
                return total


def _check_undelivered(counts: Json, rest: str) -> None:
    """
    Raises:
        AdminError: Something was left.
    """
    if counts["undelivered"]:
        raise AdminError(
            f"events not yet delivered, or waiting for the vendor's word, were left: {counts['undelivered']}; {rest}."
            " Wait until they are delivered, or have them erased undelivered, with --force"
        )


def _print(arguments: argparse.Namespace, counts: Json, done: str, *, dry_run: bool) -> None:
    if arguments.json:
        print_json(_shown(counts) | {"dry_run": dry_run})
    else:
        print(f"{_in_words(counts)} {done}")
        if dry_run and counts["undelivered"]:
            print(f"not yet delivered, and left without --force: {counts['undelivered']} events")
    _note_journal(counts)


def _shown(counts: Json) -> Json:
    return {name: counts[name] for name in ("id", *_COUNTS, "journaled")}


def _in_words(counts: Json) -> str:
    return (
        f"content of {counts['events']} events ({counts['held']} of them held), bodies of {counts['receipts']}"
        f" receipts, user data of {counts['jobs']} expected jobs, {counts['dead']} deliveries not yet made"
    )


def _note_journal(counts: Json) -> None:
    if counts["journaled"]:
        note(
            f"{counts['journaled']} receipts wait in the journal of this instance, where nothing is erased: run this"
            " again when it is drained"
        )
