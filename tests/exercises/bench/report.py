"""From measurements to what is printed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.exercises.bench.backlog import RATE_PER_S
from tests.exercises.bench.buses import BusFigures
from tests.exercises.bench.compare import AGAINST, DURABLE, NO_SINK, WATCHED, Figures
from tests.exercises.bench.delivery import ALONE, BURST, DeliveryFigures, Window
from tests.exercises.bench.latency import RATE_PER_S as EVENTS_PER_S
from tests.exercises.bench.latency import Latency
from tests.exercises.bench.load import CONNECTIONS, Load
from tests.exercises.bench.stores import EMPTY, FULL, POSTGRESQL, SQLITE, Accepting


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    least: float
    most: float

    def show(self, form: str) -> str:
        return f"{self.median:{form}} [{self.least:{form}} .. {self.most:{form}}]"


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def cpu_us(figures: Figures, server: str) -> list[float]:
    """Microseconds of processor time per answer, all threads of the server."""
    pairs = zip(figures.saturated[server], figures.inside[server], strict=True)
    return [(inside.main_s + inside.others_s) / load.answers * 1e6 for load, inside in pairs]


def cpu_ratios(figures: Figures, under: str) -> Spread:
    """
    How many answers of the headline cost as much processor time as one of another server. Other work on the machine
    moves rates, those of the bare route most because it never waits for the disk; it hardly moves this.
    """
    return spread([b / a for a, b in zip(cpu_us(figures, DURABLE), cpu_us(figures, under), strict=True)])


def ratios(figures: Figures, over: Sequence[Load], under: str) -> Spread | None:
    """Round by round: neighbours in time share what else the machine was doing."""
    below = figures.saturated.get(under)
    return None if below is None else spread([a.rate / b.rate for a, b in zip(over, below, strict=True)])


# Of the project. They are printed beside the figures and decide nothing: a busy machine is no fault of the code.
GOALS = {
    "bare": "at least 0.80",
    "json2file-go": "at least 1.5",
    "flask": "at least 6",
    "fastapi": "",
    "webhook": "",
    NO_SINK: "",
    WATCHED: "1 within noise",
    AGAINST: "",
}
P99_GOAL = "under 15 ms"
LATENCY_GOALS = {0.5: "under 4 ms", 0.99: "under 10 ms"}
DELIVERY_GOAL = "at least 0.70"
BUS_GOAL = "at least 0.60"
WAITING_GOAL = "near 1"
ISOLATION_GOAL = "1 within noise"
FULL_GOAL = "at least 0.90"
MEMORY_GOAL = "under 200 MB, flat"

# Saturated, the bare route has nothing to wait for: what it did not get of its core, others took.
QUIET_SHARE = 0.9
BUSY = (
    "The machine was busy: the {} did not get its core, so its rate is too low and ratios to it are too high."
    " Believe the one by processor time."
)


def cpu_shares(figures: Figures, server: str) -> list[float]:
    """What the server had of its core."""
    pairs = zip(figures.saturated[server], figures.inside[server], strict=True)
    return [(inside.main_s + inside.others_s) / load.window_s for load, inside in pairs]


def print_tables(figures: Figures) -> None:
    console = Console(width=max(Console().width, 110))
    columns = ("server", "answers/s", "p50 ms", "p99 ms", "cpu µs/answer", "server's core", "load's core")
    rates = Table(*columns, title="At saturation")
    for name, loads in figures.saturated.items():
        rates.add_row(
            name,
            spread([load.rate for load in loads]).show(",.0f"),
            *(f"{median(load.quantile_s(q) for load in loads) * 1000:.1f}" for q in (0.5, 0.99)),
            spread(cpu_us(figures, name)).show(".0f"),
            f"{median(cpu_shares(figures, name)):.0%}",
            f"{median(load.generator_cpu for load in loads):.0%}",
        )
    console.print(rates)
    if median(cpu_shares(figures, "bare")) < QUIET_SHARE:
        console.print(BUSY.format("bare route"), highlight=False)
    comparison = Table("ratio of answers/s, round by round", "median [min .. max]", "goal", title="Compared")
    for name, goal in GOALS.items():
        found = ratios(figures, figures.saturated[DURABLE], name)
        if found is None and name == AGAINST:
            continue
        comparison.add_row(f"{DURABLE} / {name}", "not measured" if found is None else found.show(".3f"), goal)
    for name in ("bare", AGAINST):
        if name in figures.saturated:
            ratio = cpu_ratios(figures, name).show(".3f")
            comparison.add_row(f"{DURABLE} / {name}, by processor time", ratio, GOALS[name])
    console.print(comparison)
    paced = Table("server", "p50 ms", "p99 ms", "goal for p99", title=f"At half of the saturation rate of {DURABLE}")
    for name, loads in figures.paced.items():
        times = (spread([load.quantile_s(q) * 1000 for load in loads]).show(".2f") for q in (0.5, 0.99))
        paced.add_row(name, *times, P99_GOAL if name == DURABLE else "")
    console.print(paced)
    for line in inside_lines(figures):
        console.print(line, highlight=False)
    for sentence in figures.skipped:
        console.print(sentence, highlight=False)


def inside_lines(figures: Figures) -> list[str]:
    pairs = list(zip(figures.saturated[DURABLE], figures.inside[DURABLE], strict=True))
    batches = [load.answers / inside.flushes for load, inside in pairs if inside.flushes]
    loop = spread([inside.main_s / load.answers * 1e6 for load, inside in pairs])
    others = spread([inside.others_s / load.answers * 1e6 for load, inside in pairs])
    batch = spread(batches).show(".1f") if batches else "unknown"
    return [
        f"{DURABLE}: {batch} answers per flush, with {CONNECTIONS} connections",
        f"{DURABLE}: processor time per answer: {loop.show('.0f')} µs in the event loop's thread,",
        f"    {others.show('.0f')} µs in all others, which is the store's writer",
    ]


def to_json(figures: Figures) -> dict[str, Any]:
    """All figures, one entry per round, and what the tables say of them."""

    def show(load: Load) -> dict[str, float]:
        return {
            "answers": load.answers,
            "window_s": load.window_s,
            "rate": load.rate,
            "p50_ms": load.quantile_s(0.5) * 1000,
            "p99_ms": load.quantile_s(0.99) * 1000,
            "max_ms": load.latencies_s[-1] * 1000,
            "generator_cpu": load.generator_cpu,
        }

    found = {name: ratios(figures, figures.saturated[DURABLE], name) for name in GOALS}
    return {
        "saturated": {name: [show(load) for load in loads] for name, loads in figures.saturated.items()},
        "paced": {name: [show(load) for load in loads] for name, loads in figures.paced.items()},
        "inside": {name: [asdict(inside) for inside in insides] for name, insides in figures.inside.items()},
        "ratios": {name: None if ratio is None else asdict(ratio) for name, ratio in found.items()},
        "ratio_by_processor_time": asdict(cpu_ratios(figures, "bare")),
        "goals": {**GOALS, "p99": P99_GOAL},
        "skipped": figures.skipped,
    }


# Delivering


def _quotients(over: Sequence[float], under: Sequence[float]) -> Spread:
    return spread([a / b for a, b in zip(over, under, strict=True)])


def _rates(windows: Sequence[Window]) -> list[float]:
    return [window.rate for window in windows]


def _costs_us(windows: Sequence[Window]) -> list[float]:
    return [window.cpu_us for window in windows]


def _share(window: Window) -> float:
    """What the sender had of its core."""
    return window.cpu_s / window.seconds


def delivery_ratios(figures: DeliveryFigures) -> dict[str, tuple[Spread, str]]:
    """With the goal of each."""
    return {
        "delivery / posting loop, events/s": (
            _quotients(_rates(figures.service), _rates(figures.posting)),
            DELIVERY_GOAL,
        ),
        "delivery / posting loop, by processor time": (
            _quotients(_costs_us(figures.posting), _costs_us(figures.service)),
            DELIVERY_GOAL,
        ),
        f"cost of an event, {figures.waiting:,} waiting / {BURST} waiting": (
            _quotients(_costs_us(figures.many), _costs_us(figures.few)),
            WAITING_GOAL,
        ),
        f"memory with {figures.waiting:,} waiting, MB": (
            spread([most / 1e6 for _, most in figures.memory]),
            MEMORY_GOAL,
        ),
        "    of that, grown while it delivered": (
            spread([(most - begin) / 1e6 for begin, most in figures.memory]),
            "",
        ),
    }


def isolation_ratios(found: dict[str, list[Window]]) -> dict[str, tuple[Spread, str]]:
    return {
        f"{name} / {ALONE}, events/s": (_quotients(_rates(windows), _rates(found[ALONE])), ISOLATION_GOAL)
        for name, windows in found.items()
        if name != ALONE
    }


def print_delivery(figures: DeliveryFigures) -> None:
    posting = "posting loop"
    measured = {
        posting: figures.posting,
        "delivery": figures.service,
        f"delivery, {BURST} waiting": figures.few,
        f"delivery, {figures.waiting:,} waiting": figures.many,
    }
    _print_windows("Delivering to a webhook", measured, delivery_ratios(figures))
    if median(map(_share, figures.posting)) < QUIET_SHARE:
        print(BUSY.format(posting))


def bus_ratios(found: dict[str, BusFigures]) -> dict[str, tuple[Spread, str]]:
    ratios: dict[str, tuple[Spread, str]] = {}
    for kind, figures in found.items():
        rates = _quotients(_rates(figures.service), _rates(figures.publishing))
        costs = _quotients(_costs_us(figures.publishing), _costs_us(figures.service))
        ratios[f"{kind}: delivery / publishing loop, events/s"] = (rates, BUS_GOAL)
        ratios[f"{kind}: delivery / publishing loop, by processor time"] = (costs, BUS_GOAL)
    return ratios


def print_buses(found: dict[str, BusFigures]) -> None:
    measured: dict[str, list[Window]] = {}
    for kind, figures in found.items():
        measured |= {f"{kind}, publishing loop": figures.publishing, f"{kind}, delivery": figures.service}
    _print_windows("Delivering to buses", measured, bus_ratios(found))


def print_isolation(found: dict[str, list[Window]]) -> None:
    _print_windows("A healthy sink beside a dead one", found, isolation_ratios(found))


def _print_windows(title: str, measured: dict[str, list[Window]], compared: dict[str, tuple[Spread, str]]) -> None:
    console = Console(width=max(Console().width, 110))
    rates = Table("sender", "events/s", "cpu µs/event", "sender's core", title=title)
    for name, windows in measured.items():
        rates.add_row(
            name,
            spread(_rates(windows)).show(",.0f"),
            spread(_costs_us(windows)).show(".0f"),
            f"{median(map(_share, windows)):.0%}",
        )
    console.print(rates)
    _print_ratios(console, compared)


def _print_ratios(console: Console, compared: dict[str, tuple[Spread, str]]) -> None:
    table = Table("round by round", "median [min .. max]", "goal", title="Compared")
    for name, (found, goal) in compared.items():
        table.add_row(name, found.show(".1f" if "MB" in name or "grown" in name else ".3f"), goal)
    console.print(table)


# Answers beside a backlog


def print_backlog(found: dict[str, list[Load]], *, waiting: int) -> None:
    title = f"Answers to callbacks, {RATE_PER_S:g} a second, beside {waiting:,} events to deliver"
    table = Table("the service has to deliver", "p50 ms", "p99 ms", "longest ms", title=title)
    for name, loads in found.items():
        columns = ([load.quantile_s(q) * 1000 for load in loads] for q in (0.5, 0.99, 1.0))
        table.add_row(name, *(spread(column).show(".1f") for column in columns))
    Console(width=max(Console().width, 110)).print(table)


# From callback to webhook


def print_latencies(found: list[Latency]) -> None:
    table = Table("share", "callback to webhook, ms", "goal", "one flush, ms", title=f"At {EVENTS_PER_S:g} a second")
    for q, goal in LATENCY_GOALS.items():
        table.add_row(
            f"p{q * 100:g}",
            spread([_quantile(one.seconds, q) * 1000 for one in found]).show(".2f"),
            goal,
            spread([_quantile(one.flush_s, q) * 1000 for one in found]).show(".2f"),
        )
    Console(width=max(Console().width, 110)).print(table)


def _quantile(ascending: Sequence[float], q: float) -> float:
    return ascending[min(int(len(ascending) * q), len(ascending) - 1)]


# Stores


def store_ratios(figures: Accepting) -> dict[str, tuple[Spread, str]]:
    def rates(kind: str, fill: str) -> list[float]:
        return [load.rate for load in figures.loads[kind, fill]]

    found: dict[str, tuple[Spread, str]] = {}
    kinds = list(dict.fromkeys(kind for kind, _ in figures.loads))
    if len(kinds) > 1:
        both = f"{POSTGRESQL} / {SQLITE}, empty"
        found[f"{both}, answers/s"] = (_quotients(rates(POSTGRESQL, EMPTY), rates(SQLITE, EMPTY)), "")
        found[f"{both}, by processor time"] = (
            _quotients(figures.cpu_us[SQLITE, EMPTY], figures.cpu_us[POSTGRESQL, EMPTY]),
            "",
        )
    for kind in kinds:
        found[f"{kind}, {figures.stored:,} stored / empty, answers/s"] = (
            _quotients(rates(kind, FULL), rates(kind, EMPTY)),
            FULL_GOAL,
        )
        found[f"{kind}, {figures.stored:,} stored / empty, by processor time"] = (
            _quotients(figures.cpu_us[kind, EMPTY], figures.cpu_us[kind, FULL]),
            "",
        )
    return found


def print_stores(figures: Accepting) -> None:
    console = Console(width=max(Console().width, 110))
    table = Table("store", "answers/s", "p50 ms", "p99 ms", "cpu µs/answer", title="Accepting with each database")
    for (kind, fill), loads in figures.loads.items():
        table.add_row(
            f"{kind}, {fill}",
            spread([load.rate for load in loads]).show(",.0f"),
            *(f"{median(load.quantile_s(q) for load in loads) * 1000:.1f}" for q in (0.5, 0.99)),
            spread(figures.cpu_us[kind, fill]).show(".0f"),
        )
    console.print(table)
    _print_ratios(console, store_ratios(figures))


def parts_to_json(
    delivery: DeliveryFigures | None,
    buses: dict[str, BusFigures] | None,
    isolation: dict[str, list[Window]] | None,
    backlog: dict[str, list[Load]] | None,
    stores: Accepting | None,
    *,
    latencies: list[Latency] | None,
) -> dict[str, Any]:
    """What was measured of these, one entry per round, and what the tables say of it."""
    found: dict[str, Any] = {}
    if delivery is not None:
        found["delivery"] = asdict(delivery) | {"compared": _compared(delivery_ratios(delivery))}
    if buses is not None:
        measured = {kind: asdict(figures) for kind, figures in buses.items()}
        found["buses"] = {"measured": measured, "compared": _compared(bus_ratios(buses))}
    if isolation is not None:
        windows = {name: [asdict(window) for window in of_name] for name, of_name in isolation.items()}
        found["isolation"] = {"measured": windows, "compared": _compared(isolation_ratios(isolation))}
    if backlog is not None:
        found["backlog"] = {
            name: [{f"p{q * 100:g}_s": load.quantile_s(q) for q in (0.5, 0.99, 1.0)} for load in loads]
            for name, loads in backlog.items()
        }
    if latencies is not None:
        found["latency"] = [
            {f"p{q * 100:g}_s": _quantile(one.seconds, q) for q in LATENCY_GOALS}
            | {f"flush_p{q * 100:g}_s": _quantile(one.flush_s, q) for q in LATENCY_GOALS}
            for one in latencies
        ]
    if stores is not None:
        found["postgresql"] = {
            "stored": stores.stored,
            "rates": {", ".join(which): [load.rate for load in loads] for which, loads in stores.loads.items()},
            "cpu_us": {", ".join(which): costs for which, costs in stores.cpu_us.items()},
            "compared": _compared(store_ratios(stores)),
        }
    return found


def _compared(ratios: dict[str, tuple[Spread, str]]) -> dict[str, Any]:
    return {name: {**asdict(found), "goal": goal} for name, (found, goal) in ratios.items()}
