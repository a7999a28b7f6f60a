"""The promise in small: every registered job ends in exactly one true event, whatever goes wrong."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import make_parent
from tests.promise.run import run_promise


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_parent()
    yield made
    shutil.rmtree(made)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_every_registered_job_ends_in_exactly_one_true_event(folder: Path) -> None:
    report = await run_promise(folder, seed=20261121, jobs=300, rate_per_s=25.0, kills=2, is_short=True)
    assert not report.violations, "\n".join(report.violations[:20])
    assert report.figures["states"].keys() == {"completed", "healed", "unknown"}
    assert report.figures["transports"].keys() == {"http", "mns-push", "mns-queue", "token-url", "query"}
    assert report.figures["kills"] == 2
    assert report.figures["contradicted"]
    assert report.figures["told_before_registration"]
