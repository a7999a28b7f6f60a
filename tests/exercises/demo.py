"""The demo with a bus: ``make demo BUS=nats``. What the webhook gets goes to a real broker, too, and is read back from it."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from media_callbacks.commands.console.output import print_line, print_table
from media_callbacks.commands.demo import report
from media_callbacks.observe.logs import configure_logs
from media_callbacks.rehearsal.demo import PATIENCE_S, DemoStep, play
from tests.factories.brokers.broker import Broker, NoBroker, Stored
from tests.factories.brokers.kinds import BROKERS


async def show(broker: Broker, folder: Path) -> tuple[Sequence[DemoStep], Sequence[Stored]]:
    stored: Sequence[Stored] = ()

    async def delivered(steps: Sequence[DemoStep]) -> None:
        nonlocal stored
        expected = sum(step.gives_event is not None for step in steps)
        deadline = time.monotonic() + PATIENCE_S
        while len(stored := await broker.read()) < expected and time.monotonic() < deadline:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)

    await broker.prepare()
    steps, _ = await play(folder, sinks={"bus": broker.table()}, delivered=delivered)
    return steps, stored


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bus", choices=BROKERS)
    kind = parser.parse_args(arguments).bus
    configure_logs("error")
    with tempfile.TemporaryDirectory(prefix=f"media-callbacks-{kind}-") as folder:
        broker = BROKERS[kind](Path(folder) / "broker")
        try:
            broker.start()
        except NoBroker as error:
            print(error, file=sys.stderr)
            return 1
        try:
            steps, stored = asyncio.run(show(broker, Path(folder)))
        finally:
            broker.stop()
    report(steps, as_json=False)
    events = [json.loads(each.body) for each in stored]
    rows = [
        (each.name, event["type"], [str(event["subject"]), each.identity])
        for each, event in zip(stored, events, strict=True)
    ]
    print_table((f"read back from {kind}", "type", "subject, id"), rows)
    expected = {step.event.id for step in steps if step.event is not None}
    is_right = all(step.is_right for step in steps) and {event["id"] for event in events} == expected
    found = f"{len(expected)} events at the webhook, {len(stored)} messages read back from {kind}: "
    print_line(found, ("the same", "green") if is_right else ("not the same", "red"))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
