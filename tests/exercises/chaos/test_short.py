"""Chaos in small: everything breaks once, and nothing is lost, doubled, forged or out of order."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exercises.chaos.buses import BUSES, run_bus_chaos
from tests.exercises.chaos.cluster import make_parent
from tests.exercises.chaos.report import Report
from tests.exercises.chaos.run import run_chaos, run_rolling
from tests.factories.brokers.kinds import BROKERS, need_broker

# Every fault at another moment than in the seeds of ``make chaos``.
SEED = 20261121


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_parent()
    yield made
    shutil.rmtree(made)


def assert_clean(report: Report) -> None:
    report.print()
    assert not report.violations, "\n".join(report.violations[:20])


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_whatever_breaks_nothing_is_lost_and_nothing_comes_as_two(folder: Path) -> None:
    report = await run_chaos(folder, seed=SEED, jobs=1500, rate_per_s=60.0, instances=2, is_short=True)
    assert_clean(report)
    assert report.figures["incidents"].keys() >= {"kill", "pause", "outage", "outage with kill", "freeze", "cut"}
    assert report.figures["incidents"].keys() >= {f"queues {what}" for what in ("throttled", "failing")}
    assert report.figures["forged"]
    assert report.figures["from_queues"] == report.figures["queued"] > 200
    assert report.figures["from_queues_again"], "none came a second time: nothing was taken from anybody"
    assert report.figures["journaled"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", BUSES)
async def test_a_broker_that_dies_loses_nothing_and_keeps_the_order_of_each_job(folder: Path, kind: str) -> None:
    if kind in BROKERS:
        need_broker(kind)
    # RabbitMQ takes seconds to start.
    jobs, kills = (300, 2) if kind == "rabbitmq" else (500, 3)
    report = await run_bus_chaos(folder, kind, seed=SEED, jobs=jobs, rate_per_s=100.0, kills=kills, service_kills=1)
    assert_clean(report)
    assert report.figures["events"] == report.figures["acknowledged"] == 2 * jobs
    assert report.figures["retried"], "nothing was on its way when it died"


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_restarting_all_instances_one_by_one_fails_no_request(folder: Path) -> None:
    report = await run_rolling(folder, seed=SEED, rate_per_s=40.0)
    assert_clean(report)
    figures = report.figures
    assert figures["acknowledged"] == figures["requests"] + figures["queued"] > 100
    assert figures["from_queues"] == figures["queued"]
