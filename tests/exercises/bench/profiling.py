"""
Where the time of the durable path goes: the event loop's thread under the profiler, then the store's writer.

The profiler makes everything slower, calls of small functions most: its shares are hints, which a comparison without
it must confirm. What C extensions do that it does not see (uvloop, pydantic's core) counts as own time of the caller.
"""

import pstats
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.exercises.bench.callbacks import Jobs
from tests.exercises.bench.compare import DURABLE, WARM_UP_S
from tests.exercises.bench.load import closed_loop
from tests.exercises.bench.profiled import MAIN_THREAD, WRITER_THREAD
from tests.exercises.bench.servers import CHECKOUT, SilentReceiver, check_counts, count_rows, start_service

THREADS = {MAIN_THREAD: "event loop", WRITER_THREAD: "store's writer"}


@dataclass(frozen=True, slots=True)
class Function:
    """Per answer: how often it was called, and its processor time without and with what it called."""

    name: str
    calls: float
    own_us: float
    cumulative_us: float


async def profile(folder: Path, *, core: int, seconds: float) -> dict[str, list[Function]]:
    """
    By thread, its functions in no particular order.

    Raises:
        InvalidRun: The service did not start, an answer was wrong or missing, or work was lost.
    """
    receiver = SilentReceiver()
    try:
        return {
            thread: await _profile_thread(thread, folder / thread, core=core, seconds=seconds, receiver=receiver)
            for thread in THREADS
        }
    finally:
        receiver.close()


async def _profile_thread(
    thread: str, folder: Path, *, core: int, seconds: float, receiver: SilentReceiver
) -> list[Function]:
    output = folder.with_suffix(".prof")
    command = ("-m", "tests.exercises.bench.profiled", str(output), thread)
    server = start_service(DURABLE, folder, core=core, receiver=receiver.address, command=command)
    try:
        switches = iter((signal.SIGUSR1, signal.SIGUSR2))

        def mark() -> None:
            if thread == MAIN_THREAD:
                server.process.send_signal(next(switches))

        load = await closed_loop(
            server.address,
            Jobs().requests(now=datetime.now(UTC)),
            warm_up_s=WARM_UP_S,
            window_s=seconds,
            mark=mark,
        )
        server.stop()
    finally:
        server.kill()
    check_counts(DURABLE, count_rows(folder), acknowledged=load.acknowledged, has_sink=True)
    return _read(output, answers=load.answers if thread == MAIN_THREAD else load.acknowledged)


def _read(output: Path, *, answers: int) -> list[Function]:
    return [
        Function(_name(*code), calls / answers, own_s / answers * 1e6, cumulative_s / answers * 1e6)
        for code, (_, calls, own_s, cumulative_s, _) in pstats.Stats(str(output)).stats.items()  # type: ignore[attr-defined]
    ]


def _name(file: str, line: int, function: str) -> str:
    if file == "~":
        return function
    path = Path(file)
    if path.is_relative_to(CHECKOUT) and ".venv" not in path.parts:
        return f"{path.relative_to(CHECKOUT)}:{line} {function}"
    return f"{path.parent.name}/{path.name}:{line} {function}"


def print_profile(found: dict[str, list[Function]], *, top: int) -> None:
    console = Console(width=140)
    orders: dict[str, Callable[[Function], float]] = {
        "own time": lambda function: function.own_us,
        "cumulative time": lambda function: function.cumulative_us,
    }
    for thread, functions in found.items():
        total_us = sum(function.own_us for function in functions)
        console.print(f"{THREADS[thread]}: {total_us:.0f} µs of processor time per answer, under the profiler")
        for order, key in orders.items():
            table = Table(
                "function", "calls", "own µs", "share", "cumulative µs", title=f"{THREADS[thread]} by {order}"
            )
            for function in sorted(functions, key=key, reverse=True)[:top]:
                table.add_row(
                    function.name,
                    f"{function.calls:.2f}",
                    f"{function.own_us:.1f}",
                    f"{function.own_us / total_us:.1%}",
                    f"{function.cumulative_us:.1f}",
                )
            console.print(table)
