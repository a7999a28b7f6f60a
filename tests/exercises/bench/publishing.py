"""
The ceiling of delivery to a bus: its client's own loop, with the promises of the sink, so many at a time.

    python -m tests.exercises.bench.publishing KIND PORT AT_ONCE STORE

A program of its own, which sends every event of a store and keeps no record.
"""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import uvloop

from tests.exercises.bench.buses import BUSES


def main(kind: str, port: int, at_once: int, store: Path) -> None:
    broker = BUSES[kind](store.parent)
    broker.port = port
    with closing(sqlite3.connect(store)) as connection:
        bodies = [row[0].encode() for row in connection.execute("SELECT body FROM event_bodies ORDER BY event_id")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(broker.publish(bodies, at_once=at_once))


if __name__ == "__main__":
    _kind, _port, _at_once, _store = sys.argv[1:]
    main(_kind, int(_port), int(_at_once), Path(_store))
