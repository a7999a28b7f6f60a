"""``media-callbacks events replay --to URL``: the command itself posts the events, for development."""

import argparse
import asyncio
import base64
import json
import os
import secrets
import time
from collections.abc import Sequence

from media_callbacks.admin.models.answers import EventItem
from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.admin_client import AdminClient, build_client, read_answer
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.options import read_secret_file
from media_callbacks.commands.console.output import note, print_json, print_line, printable
from media_callbacks.commands.events.replay import SECRET_VARIABLE, check_ids, confirm, seconds_until_turn
from media_callbacks.config.values import check_url, read_webhook_secret
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.webhook import WebhookSink


def build_sink(arguments: argparse.Namespace) -> WebhookSink:
    """
    Raises:
        UsageError: The URL or the secret can't be used.
    """
    try:
        url = check_url(arguments.to)
    except ValueError as error:
        raise UsageError(f"--to: {error}") from error
    if arguments.secret_file is not None:
        origin, text = "--secret-file", read_secret_file("--secret-file", arguments.secret_file)
    else:
        origin, text = SECRET_VARIABLE, os.environ.get(SECRET_VARIABLE, "").strip()
    if not text:
        text = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        if not arguments.dry_run:
            note(f"signed with a new secret: {text}")
    try:
        secret = read_webhook_secret(text)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from error
    return WebhookSink("replay", url, [secret], concurrency=1)


def replay_to(arguments: argparse.Namespace, ids: Sequence[str], event_filter: Json) -> int:
    sink = build_sink(arguments)
    client = build_client(arguments)
    if ids:
        check_ids(client, ids)
    else:
        # The list is newest first. Its ids alone are kept, a hundred bytes for each event.
        ids = [read_answer(EventItem, document).id for document in client.list_events(event_filter)][::-1]
    if not confirm(arguments, len(ids), f"to {printable(arguments.to)} by this command"):
        return 0
    return 0 if asyncio.run(post(arguments, client, sink, ids)) == len(ids) else 1


async def post(arguments: argparse.Namespace, client: AdminClient, sink: WebhookSink, ids: Sequence[str]) -> int:
    """How many were delivered."""
    delivered = 0
    await sink.open()
    started_at = time.perf_counter()
    try:
        for number, event_id in enumerate(ids):
            await asyncio.sleep(seconds_until_turn(arguments, number, started_at))
            # Beside the event loop, in which the sink's connections are looked after.
            event = (await asyncio.to_thread(client.get, f"/v1/events/{event_id}")).get("event")
            error = await post_event(sink, event_id, event)
            delivered += error is None
            if arguments.json:
                print_json({"id": event_id, "is_delivered": error is None, "error": error})
            else:
                kind = f"{event.get('type')}  " if isinstance(event, dict) else ""
                print_line(f"{event_id}  {kind}", ("delivered", "green") if error is None else (error, "red"))
    finally:
        await sink.close()
        note(f"{delivered} of {len(ids)} delivered")
    return delivered


async def post_event(sink: WebhookSink, event_id: str, event: object) -> str | None:
    """Why it failed, or None."""
    if event is None:
        return "not sent: its retention period is over"
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    [error] = await sink.send([Delivery(0, sink.name, event_id, body, 1, "", replay=1)])
    return None if error is None else str(error)
