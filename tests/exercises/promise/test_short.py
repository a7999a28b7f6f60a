"""The promise in small: every registered job ends in exactly one true event, whatever goes wrong."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exercises.chaos.cluster import make_parent
from tests.exercises.promise.run import SHORT_CLOCK_STEPS, run_promise
from tests.factories.clocks import find_faketime
from tests.factories.tools import go_without


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_parent()
    yield made
    shutil.rmtree(made)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_every_registered_job_ends_in_exactly_one_true_event(folder: Path) -> None:
    report = await run_promise(folder, seed=20261121, jobs=300, rate_per_s=6.0, kills=2, is_short=True)
    assert not report.violations, "\n".join(report.violations[:20])
    assert report.figures["states"].keys() == {"completed", "healed", "unknown"}
    assert report.figures["transports"].keys() == {"http", "mns-push", "mns-queue", "token-url", "query"}
    assert report.figures["kills"] == 2
    assert report.figures["contradicted"]
    assert all(report.figures["lies_taken"].values()), report.figures["lies_taken"]
    assert report.figures["reruns"]
    assert report.figures["second_revisions"]
    assert report.figures["occurrences"].keys() == {"FileUploadComplete", "LiveRecordFileCreated"}
    assert report.figures["told_before_registration"]
    if find_faketime() is None:
        go_without("has set no clock, for which it needs libfaketime; else all was as it must be")
    assert len(report.figures["clock_steps"]) == len(SHORT_CLOCK_STEPS)
    assert report.figures["refused_for_their_time"]
    assert report.figures["purges_refused"], "it was never in doubt what is old"
