"""Jobs whose end is wanted: registering them, and what became of them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from media_callbacks.admin.models import (
    MAX_REPORT,
    JobItem,
    JobOrders,
    JobPage,
    JobQuery,
    JobRules,
    RegisteredJobs,
    Report,
    ReportQuery,
)
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.admin.report import build_report
from media_callbacks.healing.queries.base import Family
from media_callbacks.inbox.records import JobRecord
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.errors import JobConflict
from media_callbacks.model.kinds import Product

# Of Python's calendar, which has nothing before it.
_FIRST_DAY = datetime(1, 1, 2, tzinfo=UTC)


class Jobs:
    """
    Args:
        clock: The time in UTC.
        families: The jobs that can be expected, by product.
        default_deadline: Of a registration that names none.
        jobs_registered: Told that there is something to do for whoever asks the vendor.
        can_ask: Whether there are credentials for a product and an account.
    """

    def __init__(
        self,
        inbox: AdminStore,
        *,
        clock: Callable[[], datetime],
        families: Mapping[Product, Mapping[str, Family]],
        default_deadline: timedelta,
        jobs_registered: Callable[[], None],
        can_ask: Callable[[Product, str], bool],
    ) -> None:
        self._inbox = inbox
        self._clock = clock
        self._families = families
        self._default_deadline = default_deadline
        self._jobs_registered = jobs_registered
        self._can_ask = can_ask

    @operation("GET", "/v1/jobs", "Expected jobs, newest first")
    async def list_jobs(self, query: JobQuery) -> JobPage:
        found = await self._inbox.list_jobs(query.to_filter(), before_id=query.before, limit=query.limit)
        return JobPage(jobs=tuple(map(self._item, found)), cursor=query.cursor_after([job.id for job in found]))

    @operation(
        "POST",
        "/v1/jobs",
        "Expect the end of jobs",
        description="All or none. A job whose callback does not come until its deadline is asked about, so that"
        " it ends in an event all the same. Registering again is fine: what was missing is filled in, and"
        " nothing else changes.",
        max_body_bytes=4 << 20,
        refusals={
            409: "A nonce belongs to another job id.",
            422: "A member is not known, missing or wrong; every mistake is told, with the place of its job in"
            " the list, from 0.",
        },
    )
    async def register_jobs(self, body: JobOrders) -> RegisteredJobs:
        orders = body.root if isinstance(body.root, list) else [body.root]
        jobs = [order.to_job(default_deadline=self._default_deadline) for order in orders]
        try:
            records = await self._inbox.expect(jobs)
        except JobConflict as error:
            raise Refused(409, str(error)) from None
        self._jobs_registered()
        items = tuple(map(self._item, records))
        return RegisteredJobs(items if isinstance(body.root, list) else items[0])

    def _item(self, record: JobRecord) -> JobItem:
        family = self._families.get(record.reference.product, {}).get(record.reference.family)
        can_be_asked = self._can_ask(record.reference.product, record.reference.account)
        return JobItem.of(record, None if family is None else family.kind, can_be_asked=can_be_asked)

    def rules(self) -> JobRules:
        return JobRules(self._families, self._clock())

    @operation(
        "GET",
        "/v1/report",
        "What became of expected jobs",
        description="By product, hour of registration and transport.",
    )
    async def report(self, query: ReportQuery) -> Report:
        until = query.until or await self._inbox.now()
        since = query.since or max(until, _FIRST_DAY) - timedelta(days=1)
        if not timedelta() < until - since <= MAX_REPORT:
            raise Refused(400, f"since, until: expected a time and a later one, at most {MAX_REPORT.days} days apart")
        rows = await self._inbox.report_jobs(since=since, until=until)
        return build_report(rows, since=since, until=until)
