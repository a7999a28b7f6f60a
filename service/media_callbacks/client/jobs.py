"""
What an application calls right after it has submitted a job, so that the job ends in an event even when its callback
is lost. Needs nothing but the standard library.

    from media_callbacks.client import JobsClient

    jobs = JobsClient("http://callbacks.internal:8081", token=os.environ["JOBS_TOKEN"])
    job_id = vod.submit_snapshot_job(...)
    jobs.expect(product="vod", family="snapshot", job_id=job_id, media_id=video_id)

For a CreateGifTask the URL is minted and registered first, and the TaskId added when it is known:

    from media_callbacks.client.minting import mint_gif

    minted = mint_gif(
        url="https://cb.example.com/callbacks/gif", key=os.environ["GIF_URL_KEY"],
        application_id=..., video_url=..., video_name="holiday", expires_at=datetime.now(UTC) + timedelta(days=7),
    )
    jobs.expect(product="multimediaai", family="animated_image", nonce=minted.nonce, bind=minted.bind)
    task_id = submit(CallbackUrl=minted.callback_url, VideoName=minted.video_name, ...)
    jobs.expect(product="multimediaai", family="animated_image", nonce=minted.nonce, job_id=task_id)

Who wants to go on when a job has ended waits for it, registered or not, at no cost while nothing happens:

    result = jobs.wait("vod", job_id, timeout_s=600)
    if result.has_ended:
        print(result.outcome, result.events[-1].body)

A client can be used by several threads. In asynchronous code: ``await asyncio.to_thread(jobs.expect, product=...)``,
and ``await jobs.wait_async("vod", job_id, timeout_s=600)``, which takes no thread.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from media_callbacks.client.admin_api import AdminApi, Answer, Json, NoAnswer, read_pages

if TYPE_CHECKING:
    from media_callbacks.model.kinds import Kind, Outcome, Product, Transport

JobState = Literal["expected", "overdue", "completed", "healed", "unknown"]

MAX_JOBS_AT_ONCE = 1000
_MAX_ANSWER_BYTES = 16 << 20
_PAGE = 500
# Of one question: shorter than proxies wait for an answer.
_LONGEST_WAIT_S = 25
# After an answer that came at once though nothing has ended: from a service that stops, or has no room for more.
_PAUSE_S = 1.0


class JobsClientError(Exception):
    """
    The service did not do what was asked.

    Attributes:
        status: What it answered, or None when no answer came.
        detail: What it said about it: what was expected, what came. Every mistake of every job, with its place in the
            list.
        is_temporary: Whether the same call may work later. Registering twice does no harm.
    """

    def __init__(self, message: str, *, status: int | None, detail: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.is_temporary = status is None or status == 408 or status >= 500


@dataclass(frozen=True, kw_only=True)
class JobToExpect:
    """
    A job that was submitted.

    Attributes:
        family: What the job id is unique in: the kind of its event, for example ``snapshot``, where one family of the
            product is of it, else the product's own word. One that can't be expected is refused with those that can.
        job_id: The vendor's. May be left out where there is a nonce.
        media_id: The asset; required where the vendor can only be asked by asset.
        nonce: Of the minted URL, 24 hexadecimal digits.
        bind: What that URL is bound to, 32 hexadecimal digits.
        deadline: When the vendor is asked, should nothing have come until then, with a time zone; at most 30 days
            ahead. None for the service's default.
        user_data: For the event, where the vendor's answer has none.
        account: That of the source which callbacks come through.
        requested_by: Who registers it, for the record.
    """

    product: "Product"
    family: str
    job_id: str | None = None
    media_id: str | None = None
    nonce: str | None = None
    bind: str | None = None
    deadline: datetime | None = None
    user_data: str | None = None
    account: str = "default"
    requested_by: str | None = None

    def to_json(self) -> dict[str, str]:
        """
        Raises:
            ValueError: The deadline has no time zone.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.deadline is not None:
            given["deadline"] = _format_time("deadline", self.deadline)
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ExpectedJobStatus:
    """
    How far an expected job is.

    Attributes:
        state: ``expected`` until its deadline, ``overdue`` while the vendor is asked, then ``completed`` (a callback
            came), ``healed`` (none came, and the vendor was asked) or ``unknown`` (given up).
        family: The product's own word, whichever it was registered by.
        transport: How the event that ended it came, or None.
        ended_at: When that event was accepted, maybe before the registration.
        attempts: How often the vendor was asked.
        notification: What the vendor says of its own notification (MTS alone).
        kind: Of the event that ends it; None where the service does not know the family, or is older.
    """

    id: int
    state: JobState
    product: "Product"
    account: str
    family: str
    job_id: str | None
    media_id: str | None
    nonce: str | None
    user_data: str | None
    registered_at: datetime
    deadline_at: datetime
    transport: "Transport | None"
    event_id: str | None
    outcome: str | None
    ended_at: datetime | None
    attempts: int
    notification: str | None
    kind: "Kind | None" = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "ExpectedJobStatus":
        """
        From the service's answer; what a later version may have added is left out.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        values = {field.name: document[field.name] for field in fields(cls) if field.name != "kind"}
        for name in ("registered_at", "deadline_at", "ended_at"):
            if values[name] is not None:
                values[name] = datetime.fromisoformat(values[name])
        return cls(**values, kind=document.get("kind"))


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """
    An event of a job.

    Attributes:
        revision: Counts the outcomes of one job.
        body: The CloudEvent, for ``media_callbacks.events.parse_event(json.dumps(body))``; None once it is not kept.
    """

    id: str
    kind: "Kind"
    outcome: "Outcome"
    revision: int
    accepted_at: datetime
    body: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """
    What is known of a job.

    Attributes:
        has_ended: Whether an event ends it, or its registration has ended.
        outcome: Of the latest event that ends it. None while there is none; and where it was given up.
        registrations: One for each account and family that it is expected in; none for a job that nobody registered.
        events: Oldest first.
    """

    product: "Product"
    job_id: str
    has_ended: bool
    outcome: "Outcome | None"
    registrations: Sequence[ExpectedJobStatus]
    events: Sequence[JobEvent]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "JobResult":
        """
        From the service's answer; what a later version may have added is left out.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        return cls(
            product=document["product"],
            job_id=document["id"],
            has_ended=document["ended"],
            outcome=document["outcome"],
            registrations=[ExpectedJobStatus.from_json(job) for job in document["jobs"]],
            events=[
                JobEvent(
                    id=event["id"],
                    kind=event["kind"],
                    outcome=event["outcome"],
                    revision=event["revision"],
                    accepted_at=datetime.fromisoformat(event["accepted_at"]),
                    body=event["event"],
                )
                for event in document["events"]
            ],
        )


@dataclass(frozen=True)
class _Question:
    """
    Attributes:
        pause_s: Before it.
        wait_s: How long its answer may take.
    """

    pause_s: float
    wait_s: int


class JobsClient:
    """
    Every method raises JobsClientError, and tries once; ValueError for a time without a time zone.

    Redirects are not followed, and no proxy of the environment is used: the token is for this address alone.

    Args:
        url: Of the admin API.
        token: One of ``admin.jobs_token``. None where the service answers on its own machine without one; then the URL
            is that of 127.0.0.1, [::1] or localhost.
        timeout_s: For connecting, and for every pause in the answer.

    Raises:
        ValueError: The URL or the token can't be one.
    """

    def __init__(self, url: str, token: str | None, *, timeout_s: float = 5.0) -> None:
        self._api = AdminApi(url, token, timeout_s=timeout_s, max_answer_bytes=_MAX_ANSWER_BYTES)

    def expect(
        self,
        *,
        product: "Product",
        family: str,
        job_id: str | None = None,
        media_id: str | None = None,
        nonce: str | None = None,
        bind: str | None = None,
        deadline: datetime | None = None,
        user_data: str | None = None,
        account: str = "default",
        requested_by: str | None = None,
    ) -> ExpectedJobStatus:
        """Register one job; see ``JobToExpect``."""
        job = JobToExpect(
            product=product,
            family=family,
            job_id=job_id,
            media_id=media_id,
            nonce=nonce,
            bind=bind,
            deadline=deadline,
            user_data=user_data,
            account=account,
            requested_by=requested_by,
        )
        return self.expect_many([job])[0]

    def expect_many(self, jobs: Sequence[JobToExpect]) -> Sequence[ExpectedJobStatus]:
        """
        Register jobs, a thousand at once, each thousand wholly or not at all.

        Returns:
            Their states, in the same order.
        """
        found: _Found = []
        for start in range(0, len(jobs), MAX_JOBS_AT_ONCE):
            part = jobs[start : start + MAX_JOBS_AT_ONCE]
            answered = self._read_jobs(self._ask("POST", document=[job.to_json() for job in part]))
            if len(answered) != len(part):
                raise self._not_ours()
            found += answered
        return found

    def get(
        self, *, product: "Product", family: str, job_id: str, account: str = "default"
    ) -> ExpectedJobStatus | None:
        """The job with this id; None when it is not registered."""
        family = family.lower() if product == "mts" else family
        for job in self._pages({"product": product, "job_id": job_id.strip()}):
            if family in (job.family, job.kind) and job.account == account:
                return job
        return None

    def list(
        self,
        *,
        state: JobState | None = None,
        product: "Product | None" = None,
        job_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[ExpectedJobStatus]:
        """The newest registered jobs that meet every condition, at most ``limit``; times are those of registration."""
        query = {"state": state, "product": product, "job_id": job_id}
        times = {"since": since, "until": until}
        query |= {name: None if value is None else _format_time(name, value) for name, value in times.items()}
        conditions = {name: value for name, value in query.items() if value is not None}
        return [*islice(self._pages(conditions, size=max(1, min(limit, _PAGE))), limit)]

    def wait(
        self,
        product: "Product",
        job_id: str,
        *,
        timeout_s: float,
        family: str | None = None,
        account: str | None = None,
    ) -> JobResult:
        """
        Wait until a job has ended, registered or not, known by now or not.

        Args:
            job_id: The vendor's, or the nonce of a minted URL.
            timeout_s: When this is over the job is returned as it is then, and ``has_ended`` says so.
            family, account: Where the same id may be of several jobs.

        Raises:
            JobsClientError: The service can't be asked, in the end of that time; at once where asking again won't help.
        """
        path, query = _life(product, job_id, family, account)
        questions = self._wait(product, job_id, timeout_s)
        try:
            question = next(questions)
            while True:
                time.sleep(question.pause_s)
                said: Answer | NoAnswer
                try:
                    wait = {"wait": str(question.wait_s)}
                    said = self._api.ask("GET", path, query=query | wait, patience_s=question.wait_s)
                except NoAnswer as error:
                    said = error
                question = questions.send(said)
        except StopIteration as end:
            result: JobResult = end.value
            return result

    async def wait_async(
        self,
        product: "Product",
        job_id: str,
        *,
        timeout_s: float,
        family: str | None = None,
        account: str | None = None,
    ) -> JobResult:
        """The same on the event loop, without a thread."""
        import asyncio  # noqa: PLC0415 - commands, which load this too, do without

        path, query = _life(product, job_id, family, account)
        questions = self._wait(product, job_id, timeout_s)
        question = next(questions)
        while True:
            await asyncio.sleep(question.pause_s)
            said: Answer | NoAnswer
            try:
                wait = {"wait": str(question.wait_s)}
                said = await self._api.get(path, query=query | wait, patience_s=question.wait_s)
            except NoAnswer as error:
                said = error
            try:
                question = questions.send(said)
            except StopIteration as end:
                # A coroutine must not let it through.
                result: JobResult = end.value
                return result

    def _wait(
        self, product: "Product", job_id: str, timeout_s: float
    ) -> Generator[_Question, Answer | NoAnswer, JobResult]:
        """What is to be asked, one after the other, each given its answer."""
        end = time.monotonic() + timeout_s
        pause_s = 0.0
        while True:
            left_s = max(0.0, end - time.monotonic())
            asked_at, wait_s = time.monotonic() + pause_s, min(_LONGEST_WAIT_S, round(left_s))
            said = yield _Question(pause_s, wait_s)
            is_over = time.monotonic() >= end or wait_s == 0
            try:
                result = self._read_result(product, job_id, said)
            except JobsClientError as error:
                if is_over or not error.is_temporary:
                    raise
            else:
                if result.has_ended or is_over:
                    return result
            is_early = time.monotonic() - asked_at < wait_s - _PAUSE_S
            pause_s = min(_PAUSE_S, max(0.0, end - time.monotonic())) if is_early else 0.0

    def _read_result(self, product: "Product", job_id: str, said: Answer | NoAnswer) -> JobResult:
        if isinstance(said, NoAnswer):
            raise self._not_reached(said)
        if said.status == 404 and said.problem is not None:
            # Nobody knows it yet.
            return JobResult(product=product, job_id=job_id, has_ended=False, outcome=None, registrations=(), events=())
        try:
            return JobResult.from_json(self._read(said))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_ours() from error

    def _pages(self, conditions: Mapping[str, str], *, size: int = _PAGE) -> Iterator[ExpectedJobStatus]:
        for page in read_pages(self._read_page, conditions, size=size):
            yield from self._read_jobs(page.get("jobs"))

    def _read_page(self, query: Mapping[str, str]) -> Json:
        page = self._ask("GET", query=query)
        if not isinstance(page, dict):
            raise self._not_ours()
        return page

    def _read_jobs(self, documents: object) -> Sequence[ExpectedJobStatus]:
        try:
            return [ExpectedJobStatus.from_json(document) for document in documents]  # type: ignore[attr-defined]
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_ours() from error

    def _ask(self, method: str, *, query: Mapping[str, str] | None = None, document: object = None) -> object:
        try:
            answer = self._api.ask(method, "/v1/jobs", query=query, document=document)
        except NoAnswer as error:
            raise self._not_reached(error) from error
        return self._read(answer)

    def _read(self, answer: Answer) -> object:
        if answer.status == 200 and answer.document is not None:
            return answer.document
        if answer.status < 400:
            raise self._not_ours(answer.status)
        said = answer.problem
        message = f"{self._place} answered HTTP {answer.status}{f': {said}' if said else ''}"
        raise JobsClientError(message, status=answer.status, detail=said)

    def _not_reached(self, error: NoAnswer) -> JobsClientError:
        return JobsClientError(f"{self._place} can't be reached ({error})", status=None)

    @property
    def _place(self) -> str:
        return f"the admin API at {self._api.url}"

    def _not_ours(self, status: int = 200) -> JobsClientError:
        return JobsClientError(f"{self._place} answered HTTP {status} and not as media-callbacks does", status=status)


_Found = list[ExpectedJobStatus]


def _life(product: str, job_id: str, family: str | None, account: str | None) -> tuple[str, dict[str, str]]:
    """The path of a job's life, and what is asked of it."""
    query = {"family": family, "account": account}
    return f"/v1/jobs/{product}/{quote(job_id, safe='')}", {
        name: value for name, value in query.items() if value is not None
    }


def _format_time(name: str, moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"{name}: expected a time with a time zone, such as datetime.now(UTC)")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
