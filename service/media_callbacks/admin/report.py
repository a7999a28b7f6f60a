"""The completeness report: what became of the jobs that were registered in a time."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from media_callbacks.admin.models.answers import Percentiles, Report, ReportRowItem, ReportTotal
from media_callbacks.inbox.records import ReportRow
from media_callbacks.model.kinds import PRODUCTS


def build_report(rows: Iterable[ReportRow], *, since: datetime, until: datetime) -> Report:
    """What the inbox counted, by hour, product and transport, with the totals of each product."""
    by_line: defaultdict[tuple[Any, ...], list[ReportRow]] = defaultdict(list)
    by_product: defaultdict[int, list[ReportRow]] = defaultdict(list)
    for row in rows:
        product = PRODUCTS.index(row.product)
        by_line[row.hour, product, row.transport or ""].append(row)
        by_product[product].append(row)
    return Report(
        since=since,
        until=until,
        rows=tuple(
            ReportRowItem(
                hour=group[0].hour,
                product=group[0].product,
                transport=group[0].transport,
                time_to_callback_s=percentiles(group),
                **_counts(group),
            )
            for _, group in sorted(by_line.items())
        ),
        totals=tuple(_total(group) for _, group in sorted(by_product.items())),
    )


def _total(group: Sequence[ReportRow]) -> ReportTotal:
    lost = never = None
    if group[0].product == "mts":
        healed = [row for row in group if row.state == "healed"]
        lost = sum(row.count for row in healed if row.notification == "sent")
        never = sum(row.count for row in healed if (row.notification or "").startswith("not "))
    return ReportTotal(
        product=group[0].product,
        time_to_callback_s=percentiles([row for row in group if row.transport != "query"]),
        lost_on_the_way=lost,
        never_sent=never,
        **_counts(group),
    )


def _counts(group: Iterable[ReportRow]) -> dict[str, int]:
    counts = dict.fromkeys(("submitted", "completed", "healed", "overdue", "unknown", "expected"), 0)
    for row in group:
        counts["submitted"] += row.count
        counts[row.state] += row.count
    return counts


def percentiles(group: Iterable[ReportRow]) -> Percentiles | None:
    """Of all times but those until a job was given up."""
    # Each row's numbers are in order already, of which sorting makes use.
    seconds = sorted(second for row in group if row.state != "unknown" for second in row.seconds)
    if not seconds:
        return None
    p50, p90, p99 = (seconds[math.ceil(percent * len(seconds) / 100) - 1] for percent in (50, 90, 99))
    return Percentiles(p50=p50, p90=p90, p99=p99)
