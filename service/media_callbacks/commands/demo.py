"""``media-callbacks demo``: the whole thing on one machine, ended by itself."""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from media_callbacks.commands.console.options import add_json_option
from media_callbacks.commands.console.output import Cell, print_line, print_table
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.observe.logs import configure_logs
from media_callbacks.rehearsal.demo import DemoStep, play


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks demo",
        "media-callbacks demo --json",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    configure_logs("error")
    with tempfile.TemporaryDirectory(prefix="media-callbacks-demo-") as folder:
        steps, receiver = asyncio.run(play(Path(folder)))
    report(steps, as_json=arguments.json)
    expected = sum(step.gives_event is not None for step in steps)
    is_right = all(step.is_right for step in steps) and len(receiver.events) == expected and not receiver.forged
    if not arguments.json:
        sent = sum(step.request is not None for step in steps)
        found = f"{sent} requests sent, {len(receiver.events)} typed events at the webhook, {expected} expected"
        print_line(f"{found}: ", ("all as expected", "green") if is_right else ("not as expected", "red"))
    return 0 if is_right else 1


def report(steps: Sequence[DemoStep], *, as_json: bool) -> None:
    if as_json:
        for step in steps:
            event = json.loads(step.event.to_json()) if step.event else None
            fields = {"product": step.product, "sent": step.sent, "answer": step.status, "event": event}
            print(json.dumps(fields | {"as_expected": step.is_right}))
        return
    rows: list[tuple[Cell, ...]] = []
    for step in steps:
        came: Cell = "-"
        if step.event is not None:
            data = step.event.data
            came = [step.event.type, f"subject {step.event.subject}, verified by {data.verified_by}"]
        mark = ("✓", "green") if step.is_right else ("✗", "red")
        rows.append((step.product, step.sent, str(step.status or "-"), came, mark))
    print_table(("product", "sent", "answer", "event at the webhook", ""), rows)
