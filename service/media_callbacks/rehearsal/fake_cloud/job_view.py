"""A job as the job APIs show it, and how all of them look for one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.fake_cloud.gateway import missing
from media_callbacks.rehearsal.fake_cloud.jobs import FAILURE, CloudJob, TrueOutcome, format_time
from media_callbacks.rehearsal.payloads import PAYLOADS, Json

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobView:
    """A job at the moment of a request. What is not known, or not yet, is None, and left out of the reply."""

    job: CloudJob
    is_over: bool

    @property
    def id(self) -> str:
        return self.job.job_id

    @property
    def media_id(self) -> str | None:
        return self.job.media_id

    @property
    def user_data(self) -> str | None:
        return self.job.user_data

    @property
    def submitted(self) -> str:
        return format_time(self.job.submitted_at)

    @property
    def ended(self) -> str | None:
        return format_time(self.job.ends_at) if self.is_over else None

    @property
    def outcome(self) -> TrueOutcome | None:
        return self.job.outcome if self.is_over else None

    @property
    def percent(self) -> int:
        return 100 if self.is_over else 50

    def state(self, under_way: str, succeeded: str, failed: str, other: str = "") -> str:
        """``other``: of a job that was cancelled, or of a task that succeeded in part."""
        if self.outcome is None:
            return under_way
        return {"succeeded": succeeded, "failed": failed}.get(self.outcome, other)

    def made(self, result: T) -> T | None:
        """What only a success has."""
        return result if self.outcome == "succeeded" else None

    def error(self, code: str = "Code", message: str = "Message") -> Json:
        """Of what failed, if only in part."""
        return {code: FAILURE[0], message: FAILURE[1]} if self.outcome in ("failed", "partial") else {}

    def told(self) -> Json:
        """What its callback says, or will say."""
        return PAYLOADS[self.job.product][self.job.event](self.id, self.job.ends_at, self.job.outcome == "failed")


def required(parameters: Mapping[str, str], name: str) -> str:
    """
    Raises:
        ApiError: It is not there.
    """
    value = parameters.get(name)
    if not value:
        raise missing(name)
    return value


def find(cloud: "FakeCloud", product: Product, job_id: str, *families: str) -> JobView | None:
    """The job of the product with this id, if it is of one of these families."""
    job = cloud.find(job_id)
    if job is None or job.product != product or job.family not in families:
        return None
    return view(cloud, job)


def view(cloud: "FakeCloud", job: CloudJob) -> JobView:
    return JobView(job, job.is_over(cloud.clock()))


def sort_out(
    cloud: "FakeCloud", product: Product, job_ids: Iterable[str], *families: str
) -> tuple[list[JobView], list[str]]:
    """The jobs with these ids, and the ids of which there is none."""
    found = [(job_id, find(cloud, product, job_id, *families)) for job_id in job_ids]
    return [job for _, job in found if job is not None], [job_id for job_id, job in found if job is None]
