"""
What reading a message costs: every message that ``simulate`` knows, by the parser of its product.

The yardstick is ``json.loads`` of the same bytes, in the same rounds. With ``--against``, another checkout of this
project is measured in turn, by a process of its own that stays up: what counts is the ratio of the two.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HERE = Path(__file__).parents[3]
# Of one message, so that its timer does not count.
CALLS = 200


@dataclass(frozen=True)
class Cost:
    """Of one message in microseconds: the least of all rounds, which other work on the machine disturbs least."""

    product: str
    event: str
    parse_us: float
    json_us: float
    against_us: float | None = None


def least_us(call: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, time.perf_counter() - started)
    return best / CALLS * 1e6


def messages() -> list[tuple[str, str, bytes]]:
    from media_callbacks.rehearsal.payloads import PAYLOADS

    return [
        (product, event, json.dumps(build("3af7e9705cb24c0f9d23231d4c371900", NOW, False)).encode())
        for product in ("vod", "ims", "mts")
        for event, build in PAYLOADS[product].items()
    ]


def measure_round(payloads: list[tuple[str, str, bytes]]) -> list[float]:
    from media_callbacks.sources.base import Message
    from media_callbacks.sources.products import ims, mts, vod

    parsers = {"vod": vod.parse, "ims": ims.parse, "mts": mts.parse}
    found = []
    for product, _, payload in payloads:
        message, parse = Message(payload, payload, "signature"), parsers[product]
        found.append(least_us(lambda parse=parse, message=message: parse(message)))  # type: ignore[misc]
    return found


def measure(rounds: int, against: Path | None = None) -> list[Cost]:
    payloads = messages()
    other = None if against is None else Other(against, payloads)
    own, theirs, plain = [], [], []
    try:
        for _ in range(rounds):
            own.append(measure_round(payloads))
            if other is not None:
                theirs.append(other.measure_round())
            plain.append([least_us(lambda payload=payload: json.loads(payload)) for _, _, payload in payloads])  # type: ignore[misc]
    finally:
        if other is not None:
            other.close()
    return [
        Cost(
            product,
            event,
            min(each[index] for each in own),
            min(each[index] for each in plain),
            min(each[index] for each in theirs) if theirs else None,
        )
        for index, (product, event, _) in enumerate(payloads)
    ]


class Other:
    """The same of another checkout, whose service is imported by a process of its own."""

    def __init__(self, checkout: Path, payloads: list[tuple[str, str, bytes]]) -> None:
        code = (
            f"import sys; sys.path.insert(0, {str(checkout.resolve() / 'service')!r}); import runpy;"
            f" runpy.run_path({__file__!r}, run_name='worker')"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say([(product, event, payload.decode()) for product, event, payload in payloads])

    def _say(self, value: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def measure_round(self) -> list[float]:
        found: list[float] = self._say("round")
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def work() -> None:
    payloads = [(product, event, text.encode()) for product, event, text in json.loads(sys.stdin.readline())]
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure_round(payloads)), flush=True)


def print_costs(costs: list[Cost]) -> None:
    """Every message, and what all of a product cost together."""
    print(f"{'message':52} {'parse µs':>9} {'json.loads':>10} {'ratio':>6} {'against µs':>10} {'ratio':>6}")

    def line(name: str, parse_us: float, json_us: float, against_us: float | None) -> None:
        other = "" if against_us is None else f" {against_us:10.1f} {parse_us / against_us:6.2f}"
        print(f"{name:52} {parse_us:9.1f} {json_us:10.1f} {parse_us / json_us:6.2f}{other}")

    for product in ("vod", "ims", "mts"):
        of_product = [cost for cost in costs if cost.product == product]
        for cost in of_product:
            line(f"{product} {cost.event}", cost.parse_us, cost.json_us, cost.against_us)
        theirs = [cost.against_us for cost in of_product if cost.against_us is not None]
        line(
            f"{product}: all",
            sum(cost.parse_us for cost in of_product),
            sum(cost.json_us for cost in of_product),
            sum(theirs) if theirs else None,
        )


if __name__ == "worker":
    work()
