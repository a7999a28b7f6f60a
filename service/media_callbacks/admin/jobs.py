"""Jobs whose end is wanted: registering them, and what became of them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from media_callbacks.admin.guard import JOBS_TOKEN
from media_callbacks.admin.models.answers import (
    AnswerItem,
    EventDetail,
    HeldItem,
    JobDetail,
    JobHits,
    JobItem,
    JobPage,
    ReceiptItem,
    RegisteredJobs,
    ReplayItem,
    Report,
)
from media_callbacks.admin.models.expected_jobs import JobOrders, JobRules
from media_callbacks.admin.models.questions import MAX_REPORT, JobQuery, LifeQuery, ReportQuery, SearchQuery
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.admin.report import build_report
from media_callbacks.admin.timeline import build_timeline
from media_callbacks.admin.waiting import JobWatch
from media_callbacks.healing.queries.base import Family
from media_callbacks.inbox.records import NO_ENDINGS, JobLife, JobName, JobRecord
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.errors import JobConflict
from media_callbacks.model.kinds import PRODUCTS, Product

# Of Python's calendar, which has nothing before it.
_FIRST_DAY = datetime(1, 1, 2, tzinfo=UTC)


class Jobs:
    """
    Args:
        clock: The time in UTC.
        families: The jobs that can be expected, by product.
        default_deadline: Of a registration that names none.
        jobs_registered: Told that there is something to do for whoever asks the vendor.
        watch: Who tells of the ends of jobs.
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
        watch: JobWatch,
        can_ask: Callable[[Product, str], bool],
    ) -> None:
        self._inbox = inbox
        self._watch = watch
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
    async def register_jobs(self, body: JobOrders, token: str | None) -> RegisteredJobs:
        orders = body.root if isinstance(body.root, list) else [body.root]
        jobs = [order.to_job(default_deadline=self._default_deadline, token=token) for order in orders]
        try:
            records = await self._inbox.expect(jobs)
        except JobConflict as error:
            raise Refused(409, str(error)) from None
        self._jobs_registered()
        items = tuple(map(self._item, records))
        return RegisteredJobs(items if isinstance(body.root, list) else items[0])

    @operation(
        "GET",
        "/v1/jobs/{product}/{job_id}",
        "The life of a job",
        description="All that is known of it, registered or not: what came for it, what waits, what the vendor was"
        " asked and said, its events with every delivery and attempt, and one timeline. With `wait` it is answered when"
        " the job has ended, or in the end of that time as it is then. In place of a job id the nonce of a minted URL"
        " will do, or the media id of messages that name no job. Who comes with a token of `admin.jobs_token` is told"
        " registrations and events, and nothing of receipts, deliveries and what the vendor was asked.",
        refusals={
            404: "Nothing is known of such a job, also not in the end of `wait`.",
            503: "The store is away, or too many wait already; come again after `Retry-After` seconds.",
        },
        waits=True,
    )
    async def show_job(self, product: str, job_id: str, query: LifeQuery, token: str | None) -> JobDetail:
        known = next((one for one in PRODUCTS if one == product), None)
        if known is None:
            raise Refused(404, f"expected one of the products {', '.join(PRODUCTS)}")
        name = JobName(product=known, id=job_id, account=query.account, family=self._family(known, query.family))
        life = await self._inbox.find_life(name)
        if query.wait and not life.has_ended:
            life = await self._wait_for_end(name, query.wait)
        if not life.is_known:
            raise Refused(404, "nothing is known of such a job; GET /v1/search?q= looks for other ids and user data")
        return self._detail(_for_applications(life) if token == JOBS_TOKEN else life)

    async def _wait_for_end(self, name: JobName, wait_s: float) -> JobLife:
        """As it is then, or when the time is over."""
        until = asyncio.get_running_loop().time() + wait_s
        with self._watch.joined(name.product, name.id) as waiter:
            while await self._watch.hears(waiter, max(0.0, until - asyncio.get_running_loop().time())):
                life = await self._inbox.find_life(name)
                if life.has_ended:
                    # Else it was another one of the same id.
                    return life
        return await self._inbox.find_life(name)

    def _family(self, product: Product, word: str | None) -> str | None:
        found = None if word is None else self.rules().find(product, word)
        return word if found is None else found[0]

    def _detail(self, life: JobLife) -> JobDetail:
        endings = [event for event in life.events if event.outcome not in NO_ENDINGS]
        return JobDetail(
            product=life.name.product,
            id=life.name.id,
            ended=life.has_ended,
            outcome=endings[-1].outcome if endings else None,
            jobs=tuple(map(self._item, life.jobs)),
            receipts=tuple(map(ReceiptItem.model_validate, life.receipts)),
            held=tuple(map(HeldItem.model_validate, life.held)),
            answers=tuple(map(AnswerItem.model_validate, life.answers)),
            events=tuple(map(EventDetail.of, life.events)),
            replays=tuple(map(ReplayItem.of, life.replays)),
            timeline=build_timeline(life),
            is_whole=life.is_whole,
        )

    @operation(
        "GET",
        "/v1/search",
        "Find jobs by whatever names them",
        description="By job id, media id, nonce, the id of an event, or the application's user data, whole or by its"
        " beginning; and the refused requests in which it stands.",
    )
    async def search(self, query: SearchQuery) -> JobHits:
        found = await self._inbox.search(query.q, limit=query.limit)
        refused = await self._inbox.list_refused(text=query.q.strip(), limit=query.limit)
        return JobHits.model_validate({"hits": found, "refused": refused})

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


def _for_applications(life: JobLife) -> JobLife:
    """What an application may know of a job: how it ended, and not what else operators see."""
    events = [replace(event, receipts=(), deliveries=()) for event in life.events]
    return replace(life, receipts=(), held=(), answers=(), replays=(), events=tuple(events))
