"""The last hour and day as small plots: one path each, drawn by the server."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import get_args

from media_callbacks.admin.models.answers import Activity, TimesItem
from media_callbacks.inbox.records import ActivityWord
from media_callbacks.page.text import seconds

WIDTH, HEIGHT = 240, 36
_WORDS: tuple[ActivityWord, ...] = get_args(ActivityWord)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Plot:
    """
    Attributes:
        path: Of an SVG of ``WIDTH`` and ``HEIGHT``.
        figure: What it comes to.
        told: For who does not see it.
    """

    path: str
    figure: str
    told: str


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    hour: Plot
    day: Plot


def rows(activity: Activity) -> list[Row]:
    """Counts, then times."""
    until = activity.until
    counted = [
        Row(
            word,
            _of_counts(_bins(activity, word, until, 60, 1), "last hour", "a minute"),
            _of_counts(_bins(activity, word, until, 96, 15), "last day", "in 15 minutes"),
        )
        for word in _WORDS
    ]
    timed = [
        Row(name, _of_times(activity.hour, attribute, "last hour"), _of_times(activity.day, attribute, "last day"))
        for name, attribute in (("time to callback", "callback_s"), ("time to delivery", "delivery_s"))
    ]
    return counted + timed


def _bins(activity: Activity, what: str, until: datetime, count: int, minutes: int) -> list[int]:
    since = until - count * minutes * _MINUTE
    bins = [0] * count
    for item in activity.counts:
        if item.what == what and since <= item.at < until:
            bins[int((item.at - since) / (minutes * _MINUTE))] += item.count
    return bins


def _of_counts(bins: Sequence[int], span: str, unit: str) -> Plot:
    total, highest = sum(bins), max(bins)
    return Plot(_path(bins), f"{total:,}", f"{span}: {total:,}, at most {highest:,} {unit}")


def _of_times(times: Iterable[TimesItem], attribute: str, span: str) -> Plot:
    values: list[float | None] = [getattr(item, attribute) for item in times]
    known = sorted(value for value in values if value is not None)
    if not known:
        return Plot("", "-", f"{span}: nothing to measure")
    middle = known[len(known) // 2]
    return Plot(
        _path([value or 0 for value in values]),
        seconds(middle),
        f"{span}: {seconds(middle)}, at most {seconds(known[-1])}",
    )


def _path(values: Sequence[float]) -> str:
    """A bar for each value that is not 0, none so low that it is not seen."""
    highest = max(values) or 1
    step = WIDTH / len(values)
    return "".join(
        f"M{i * step:.1f} {HEIGHT}v-{max(1.5, value / highest * HEIGHT):.1f}h{step * 0.8:.1f}V{HEIGHT}z"
        for i, value in enumerate(values)
        if value
    )
