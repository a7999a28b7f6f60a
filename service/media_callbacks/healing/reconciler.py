"""
The reconciler asks the vendor about jobs whose end nobody has told, and about events that are held until the vendor
has confirmed or completed them.

The inbox keeps what is to be asked and when, so that a stopped service goes on where it was, and several instances
share the work by leases. Products are asked independently of each other: one whose API is throttled delays no other.
What an answer means is decided in ``findings``.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from random import Random
from typing import Protocol

import structlog

from media_callbacks.aliyun.calls import CallApi
from media_callbacks.healing.queries.base import Family, JobAnswer, ProductQueries, QuerySource
from media_callbacks.healing.queries.findings import Judgement, Patience, conclude
from media_callbacks.inbox.records import INQUIRIES, Answer, AskResult, Decision, Finding, Inquiry, Settled
from media_callbacks.inbox.roles import InquiryQueue
from media_callbacks.model.errors import InboxUnavailable, ServiceError, VendorError, VendorUnavailable
from media_callbacks.model.events import Event
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import Product
from media_callbacks.model.receipts import Verdict
from media_callbacks.observe.tracing import Tracing
from media_callbacks.sources.base import TRACEPARENT
from media_callbacks.sources.intake import Route
from media_callbacks.timing.loop import Loop, seconds_until
from media_callbacks.timing.waiting import Wait, finish, wait_for

# How often to look although nobody has called: for inquiries that another instance has left.
POLL_S = 10.0
# After the inbox failed, before it is asked again.
INBOX_RETRY_S = 1.0
# Of one product at a time; even where each needs several calls, at five a second, they are asked within a lease.
MAX_IN_FLIGHT = 60
INQUIRY_LEASE_S = 180.0
# A vendor that hangs must not outlast the lease: answers that nobody may settle any more would be asked for again and
# again, and nothing would ever be given up.
ASK_TIMEOUT_S = 150.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Desk:
    """
    Where an inquiry is asked.

    Attributes:
        source: What answers are read as.
        call: None where there are no credentials to ask with.
    """

    source: QuerySource
    call: CallApi | None


class InquiryObserver(Protocol):
    """Told about every inquiry, for metrics."""

    def inquiry_judged(self, *, product: Product, reason: str, result: AskResult, decision: Decision) -> None: ...

    def events_learned(self, events: Collection[Event]) -> None: ...


class Reconciler:
    """
    Args:
        queries: What can be asked, by product.
        find_desk: Where an inquiry belongs.
        wait: How to wait for an event with a time-out in seconds.
        rng: Where jitter comes from.
        stop_timeout_s: How long questions in flight may go on after ``stop``.
    """

    def __init__(
        self,
        inbox: InquiryQueue,
        *,
        queries: Mapping[Product, ProductQueries],
        find_desk: Callable[[Inquiry], Desk],
        patience: Patience,
        route: Route,
        rng: Random,
        observer: InquiryObserver,
        stop_timeout_s: float,
        tracing: Tracing | None = None,
        wait: Wait = wait_for,
    ) -> None:
        self._inbox = inbox
        self._stop_timeout_s = stop_timeout_s
        self._workers = [
            _ProductWorker(
                inbox,
                product,
                rules,
                find_desk=find_desk,
                patience=patience,
                route=route,
                rng=rng,
                observer=observer,
                tracing=tracing,
                wait=wait,
            )
            for product, rules in queries.items()
        ]

    def start(self) -> None:
        self._inbox.listen(self._hear)
        for worker in self._workers:
            worker.start()

    def _hear(self, names: Collection[str]) -> None:
        if INQUIRIES in names:
            self.wake()

    def wake(self) -> None:
        """There may be something new to ask."""
        for worker in self._workers:
            worker.wake()

    async def stop(self) -> None:
        """
        Ask nothing more, and let questions in flight finish for a bounded time; the leases of the others run out. May
        come twice, and without ``start``.
        """
        await asyncio.gather(*(worker.stop(self._stop_timeout_s) for worker in self._workers))


class _ProductWorker:
    """Everything about one product."""

    def __init__(
        self,
        inbox: InquiryQueue,
        product: Product,
        rules: ProductQueries,
        *,
        find_desk: Callable[[Inquiry], Desk],
        patience: Patience,
        route: Route,
        rng: Random,
        observer: InquiryObserver,
        tracing: Tracing | None,
        wait: Wait,
    ) -> None:
        self._inbox = inbox
        self._product: Product = product
        self._rules = rules
        self._find_desk = find_desk
        self._patience = patience
        self._route = route
        self._rng = rng
        self._observer = observer
        self._tracing = tracing
        self._trouble: str | None = None
        self._in_flight = 0
        self._batches: set[asyncio.Task[None]] = set()
        self._asking = Loop(
            self._ask_next,
            name=f"reconciler-{product}",
            failure="inquiries_failed",
            retry_s=INBOX_RETRY_S,
            wait=wait,
            product=product,
        )

    def start(self) -> None:
        self._asking.start()

    def wake(self) -> None:
        self._asking.wake()

    async def stop(self, timeout_s: float) -> None:
        await self._asking.stop()
        await finish(self._batches, timeout_s)

    async def _ask_next(self) -> float:
        try:
            wait_s = await self.ask_due()
        except InboxUnavailable as error:
            # Once, however long the store is away.
            if self._trouble != (trouble := _describe(error)):
                log.error("inquiries_failed", product=self._product, error=trouble)
                self._trouble = trouble
            return INBOX_RETRY_S
        self._trouble = None
        return wait_s

    async def ask_due(self) -> float:
        """Begin to ask what is due. Returns how long nothing else will be."""
        room = MAX_IN_FLIGHT - self._in_flight
        if room <= 0:
            return POLL_S  # a batch that ends wakes us
        # Mostly nothing is: to see that needs no transaction of the one who writes, and no flush.
        due_in_s = await self._inbox.inquiry_due_in_s(self._product)
        if due_in_s is None or due_in_s > 0:
            return seconds_until(due_in_s, poll_s=POLL_S)
        inquiries = await self._inbox.claim_inquiries(self._product, limit=room, lease_s=INQUIRY_LEASE_S)
        for desk, family, batch in self._batch(inquiries):
            self._in_flight += len(batch)
            task = asyncio.create_task(self._ask(desk, family, batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)
        if len(inquiries) == room:
            return POLL_S
        return seconds_until(await self._inbox.inquiry_due_in_s(self._product), poll_s=POLL_S)

    def _batch(self, inquiries: Sequence[Inquiry]) -> Iterable[tuple[Desk, Family | None, Sequence[Inquiry]]]:
        """What can be asked in one call, and one by one what can't be asked."""
        groups: dict[tuple[Desk, str, bool], list[Inquiry]] = defaultdict(list)
        for inquiry in inquiries:
            desk, name = self._find_desk(inquiry), inquiry.reference.family
            can_ask = _reason_not_to_ask(desk, self._rules.find(name), inquiry) is None
            groups[desk, name, can_ask].append(inquiry)
        for (desk, name, can_ask), group in groups.items():
            family = self._rules.find(name)
            size = family.batch if family is not None and can_ask else 1
            # What is asked in the same words is answered once for all.
            by_question: dict[JobReference, list[Inquiry]] = defaultdict(list)
            for inquiry in group:
                by_question[_question(inquiry, family)].append(inquiry)
            alike = list(by_question.values()) if can_ask else [[inquiry] for inquiry in group]
            for start in range(0, len(alike), size):
                yield desk, family, list(chain.from_iterable(alike[start : start + size]))

    async def _ask(self, desk: Desk, family: Family | None, inquiries: Sequence[Inquiry]) -> None:
        try:
            begun_s = asyncio.get_running_loop().time()
            answers = await self._answers(desk, family, inquiries)
            # By the clock that deadlines and time-outs are told by.
            now = await self._inbox.now()
            asked_at = now - timedelta(seconds=asyncio.get_running_loop().time() - begun_s)
            await self._settle(
                [
                    self._judge(inquiry, answer, desk, family, now=now)
                    for inquiry, answer in zip(inquiries, answers, strict=True)
                ],
                asked_at,
            )
        except Exception as error:  # noqa: BLE001 - their leases run out, and they are asked again
            log.error("inquiries_failed", product=self._product, error=_describe(error))
        finally:
            self._in_flight -= len(inquiries)
            self._asking.wake()

    async def _answers(
        self, desk: Desk, family: Family | None, inquiries: Sequence[Inquiry]
    ) -> Sequence[JobAnswer | VendorError]:
        unasked = _reason_not_to_ask(desk, family, inquiries[0])
        if unasked is not None:
            return [JobAnswer(state="unlearnable", detail=unasked)] * len(inquiries)
        assert desk.call is not None
        asked = [_question(inquiry, family) for inquiry in inquiries]
        questions = list(dict.fromkeys(asked))
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                answers = await self._rules.ask(questions, desk.call)
            answer_to = dict(zip(questions, answers, strict=True))
            return [answer_to[question] for question in asked]
        except VendorError as error:
            return [error] * len(inquiries)
        except TimeoutError:
            return [VendorUnavailable(f"no answer within {ASK_TIMEOUT_S:g} s")] * len(inquiries)
        except Exception as error:  # noqa: BLE001 - else it would be asked about for ever, and never be given up
            log.error("inquiries_failed", product=self._product, error=_describe(error))
            return [VendorUnavailable(f"its answer could not be read ({type(error).__name__})")] * len(inquiries)

    def _judge(
        self, inquiry: Inquiry, answer: JobAnswer | VendorError, desk: Desk, family: Family | None, *, now: datetime
    ) -> Judgement:
        return conclude(
            inquiry,
            answer,
            family=family,
            source=desk.source,
            now=now,
            jitter=self._rng.random(),
            patience=self._patience,
            route=self._route,
            traceparent=None if self._tracing is None else self._tracing.draw(),
        )

    async def _settle(self, judgements: Sequence[Judgement], asked_at: datetime) -> None:
        for judgement in judgements:
            judgement.finding.answer = Answer(
                asked_at=asked_at, result=judgement.result, decision=judgement.decision, detail=judgement.detail
            )
        # Of several messages that mean the same event, one that the vendor has not corrected.
        judgements = sorted(judgements, key=lambda judgement: judgement.is_corrected)
        settled = await self._inbox.settle([judgement.finding for judgement in judgements])
        for judgement, result in zip(judgements, settled, strict=True):
            # What comes after the lease is over decides nothing, and is not passed over in silence either.
            self._report(
                judgement if result.is_ours else replace(judgement, decision="late"), judgement.finding, result
            )

    def _report(self, judgement: Judgement, finding: Finding, settled: Settled) -> None:
        inquiry, decision = finding.inquiry, judgement.decision
        self._observer.inquiry_judged(
            product=self._product, reason=inquiry.reason, result=judgement.result, decision=decision
        )
        self._observer.events_learned(settled.accepted)
        self._trace(finding, settled)
        further = {"detail": judgement.detail[:300]} if judgement.detail else {}
        if settled.accepted:
            further["event_id"], further["type"] = settled.accepted[-1].id, settled.accepted[-1].type
        is_alarming = decision in ("contradicted", "foreign", "given_up") or judgement.result == "refused"
        (log.warning if is_alarming else log.info)(
            "inquiry",
            product=self._product,
            family=inquiry.reference.family,
            reason=inquiry.reason,
            attempt=inquiry.attempt,
            result=judgement.result,
            decision=decision,
            **further,
        )

    def _trace(self, finding: Finding, settled: Settled) -> None:
        """What was new in the vendor's answer, as if it had come."""
        receipt, answer = finding.receipt, finding.answer
        if self._tracing is None or receipt is None or answer is None or not settled.accepted:
            return
        if (traceparent := receipt.meta.get(TRACEPARENT)) is not None:
            duration_s = (receipt.received_at - answer.asked_at).total_seconds()
            self._tracing.received(receipt, Verdict("accepted"), traceparent, duration_s=duration_s)


def _question(inquiry: Inquiry, family: Family | None) -> JobReference:
    """
    What is asked about. The asset that a message names is no part of it unless the vendor is asked by that: it would
    come back with the answer as if the vendor had said it.
    """
    if inquiry.event is None or family is None or family.needs_media_id:
        return inquiry.reference
    return replace(inquiry.reference, media_id=None)


def _reason_not_to_ask(desk: Desk, family: Family | None, inquiry: Inquiry) -> str | None:
    reference = inquiry.reference
    if family is None or family.batch == 0:
        return f"the vendor offers no query for {reference.product} {reference.family}"
    if inquiry.event is not None and inquiry.event.data.outcome == "received":
        return "a notice tells of no end"
    if not (reference.job_id or reference.nonce or family.is_of_asset):
        return "the message names no job"
    if family.needs_media_id and not reference.media_id:
        return "the query needs the media id, which nobody has told"
    if desk.call is None:
        return "no credentials are configured to ask with: add a table [vendor.<name>]"
    return None


def _describe(error: Exception) -> str:
    """What else an exception says may quote what the vendor has answered, pre-signed URLs among it."""
    return f"{type(error).__name__}: {error}" if isinstance(error, ServiceError) else type(error).__name__
