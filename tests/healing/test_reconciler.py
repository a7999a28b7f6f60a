"""Asking the vendor: what is asked together, what after what, and that one product's trouble is nobody else's."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from media_callbacks.aliyun.calls import CallApi
from media_callbacks.config.tracing import TracingSettings
from media_callbacks.healing.queries import unknown
from media_callbacks.healing.queries.base import Family, JobAnswer, ProductQueries, QuerySource
from media_callbacks.healing.queries.findings import Patience
from media_callbacks.healing.reconciler import (
    ASK_TIMEOUT_S,
    INBOX_RETRY_S,
    INQUIRY_LEASE_S,
    MAX_IN_FLIGHT,
    POLL_S,
    Desk,
    Reconciler,
)
from media_callbacks.inbox.records import Inquiry, JobFilter, JobRecord
from media_callbacks.model.errors import InboxUnavailable, VendorRefused, VendorUnavailable
from media_callbacks.model.events import read_traceparent
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.kinds import Product
from media_callbacks.model.outputs import SnapshotOutput
from media_callbacks.observe.tracing import Tracing
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.timing.waiting import Wait, wait_for
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import NOW, make_event
from tests.inbox.conformance_jobs import held
from tests.inbox.timed import TimedSqliteInbox

# Longer than anything takes on a busy machine; only a failure waits for it.
FAMILIES = {
    "snapshot": Family(kind="snapshot", batch=10),
    "animated_image": Family(kind="animated_image", needs_media_id=True),
    "production": Family(kind="production", batch=0),
}


def parse(message: Message) -> Parsed:
    if message.meta["action"] == "none":
        return unknown.parse(message)
    told = json.loads(message.payload)
    return Parsed(
        (
            Completion(
                family=told["family"],
                id=(told["job_id"],),
                kind="snapshot",
                outcome=told["outcome"],
                vendor_event="SnapshotComplete",
                job_id=told["job_id"],
                outputs=(SnapshotOutput(url_template=told["url"]),),
            ),
        )
    )


def ended(reference: JobReference, outcome: str = "succeeded", url: str | None = None) -> JobAnswer:
    body = {"family": reference.family, "job_id": reference.job_id, "outcome": outcome, "url": url}
    return JobAnswer(state="ended", body=json.dumps(body).encode(), meta={"action": "GetJobDetail"})


@dataclass
class Vendor:
    """
    Attributes:
        asked: The job ids of each question; ``media_ids``: the assets.
        answers: By job id; what is missing has ended well.
        gate: Questions wait for it.
    """

    asked: list[list[str | None]] = field(default_factory=list)
    media_ids: list[list[str | None]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self.begun = asyncio.Event()

    async def ask(self, references: Sequence[JobReference], call: CallApi) -> Sequence[JobAnswer]:
        self.asked.append([reference.job_id for reference in references])
        self.media_ids.append([reference.media_id for reference in references])
        self.begun.set()
        await self.gate.wait()
        found = [self.answers.get(reference.job_id or "", ended(reference)) for reference in references]
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        return found


class Observer:
    def __init__(self) -> None:
        self.judged: list[tuple[str, str, str]] = []
        self.learned: list[str] = []
        self._changed = asyncio.Event()

    def inquiry_judged(self, *, product: str, reason: str, result: str, decision: str) -> None:
        self.judged.append((reason, result, decision))

    def events_learned(self, events: Any) -> None:
        self.learned += [event.data.job_id for event in events]
        self._changed.set()

    async def until_learned(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.learned) < count:
                self._changed.clear()
                await self._changed.wait()


class Setting:
    """A reconciler on a real store, with a clock that is set by hand."""

    def __init__(self, inbox: TimedSqliteInbox, *, wait: Wait = wait_for, **products: Vendor) -> None:
        self.inbox, self.observer = inbox, Observer()
        self.now = NOW
        self.has_credentials = True
        self.reconciler = Reconciler(
            inbox,
            queries={product: ProductQueries(FAMILIES, vendor.ask, parse) for product, vendor in products.items()},  # type: ignore[misc]
            find_desk=self.find_desk,
            patience=Patience(retry_s=60, give_up_s=86400),
            route=lambda _: ("a",),
            rng=Random(1),
            observer=self.observer,
            stop_timeout_s=0.05,
            wait=wait,
        )

    @property
    def now(self) -> datetime:
        return self.inbox.clock.now

    @now.setter
    def now(self, now: datetime) -> None:
        self.inbox.clock.now = now

    def find_desk(self, inquiry: Inquiry) -> Desk:
        product: Product = inquiry.reference.product
        return Desk(
            QuerySource(name=product, product=product, account="default", parser=parse),
            self._call if self.has_credentials else None,
        )

    async def _call(self, _: Any) -> Any:
        raise AssertionError("the scripted vendor calls nobody")

    async def turn(self, *, seconds: float = 0) -> float:
        """Everything that is due at a time. Returns the longest that nothing else will be."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            # As in a service that runs: a clock that goes on is no clock that has been set.
            self.now = min(self.now + timedelta(hours=12), end)
            await self.inbox.watch_clock(now=self.now)
        waits = [await worker.ask_due() for worker in self.reconciler._workers]
        for worker in self.reconciler._workers:
            await asyncio.gather(*worker._batches)
        return min(waits)

    async def expect(self, *job_ids: str, product: Any = "vod", family: str = "snapshot", **fields: Any) -> None:
        media_id = fields.pop("media_id", None)
        references = [
            JobReference(product=product, account="default", family=family, job_id=job_id, media_id=media_id)
            for job_id in job_ids
        ]
        await self.inbox.expect([ExpectedJob(reference=one, deadline=NOW) for one in references], now=NOW)

    async def jobs(self) -> dict[str | None, JobRecord]:
        records = await self.inbox.list_jobs(JobFilter(), now=self.now, limit=1000)
        return {record.reference.job_id: record for record in records}


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[TimedSqliteInbox]:
    inbox = TimedSqliteInbox(tmp_path / "inbox.db")
    await inbox.open()
    with structlog.testing.capture_logs():
        yield inbox
    await inbox.close()


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
def setting(inbox: TimedSqliteInbox, vendor: Vendor) -> Setting:
    return Setting(inbox, vod=vendor)


async def test_overdue_jobs_are_asked_about_in_batches_and_healed(setting: Setting, vendor: Vendor) -> None:
    names = [f"job-{number}" for number in range(25)]
    await setting.expect(*names)
    await setting.turn()
    assert [len(asked) for asked in vendor.asked] == [10, 10, 5]
    assert sorted(str(name) for asked in vendor.asked for name in asked) == sorted(names)
    assert {record.state for record in (await setting.jobs()).values()} == {"healed"}
    assert sorted(setting.observer.learned) == sorted(names)
    await setting.turn(seconds=86400)
    assert len(vendor.asked) == 3, "whatever has ended is not asked about again"


async def test_what_nobody_told_is_a_span_and_begins_the_trace_of_its_event(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = Tracing(TracingSettings(1.0, propagates=True), kinds={}, clock=lambda: NOW, rng=Random(1))
    monkeypatch.setattr(setting.reconciler._workers[0], "_tracing", tracing)
    written: list[tuple[str, Any, Any]] = []
    monkeypatch.setattr(
        tracing, "_write", lambda traceparent, attributes, links, **_: written.append((traceparent, attributes, links))
    )
    await setting.expect("job-1", "job-2")
    await setting.turn()
    claimed = await setting.inbox.claim("a", limit=9, now=NOW, lease_s=60)
    assert {read_traceparent(one.body) for one in claimed} == {traceparent for traceparent, _, _ in written}
    assert [links for _, _, links in written] == [[], []]
    assert {attributes["messaging.message.conversation_id"] for _, attributes, _ in written} == {"job-1", "job-2"}
    names = ("messaging.system", "messaging.operation.name", "messaging.operation.type")
    assert {tuple(attributes[name] for name in names) for _, attributes, _ in written} == {
        ("aliyun_api", "receive", "receive")
    }
    assert len({traceparent for traceparent, _, _ in written}) == 2


async def test_a_job_is_not_asked_about_before_its_deadline(setting: Setting, vendor: Vendor) -> None:
    await setting.expect("job-1")
    setting.now = NOW - timedelta(seconds=2)
    assert await setting.turn() == pytest.approx(2.0)
    assert vendor.asked == []
    await setting.turn(seconds=2)
    assert vendor.asked == [["job-1"]]


async def test_to_look_for_what_is_due_writes_nothing(
    setting: Setting, inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = []
    claim = inbox.claim_inquiries

    async def count_claims(product: Product, **named: Any) -> Sequence[Inquiry]:
        claimed.append(product)
        return await claim(product, **named)

    monkeypatch.setattr(inbox, "claim_inquiries", count_claims)
    await setting.turn()
    await setting.expect("job-1")
    setting.now = NOW - timedelta(seconds=2)
    await setting.turn()
    assert claimed == []
    await setting.turn(seconds=2)
    assert claimed == ["vod"]


@pytest.mark.parametrize(
    ("trouble", "result"),
    [
        (VendorUnavailable("away"), "unavailable"),
        (VendorRefused("no", code="Forbidden", status=403), "refused"),
        (JobAnswer(state="not_found"), "not_found"),
        (JobAnswer(state="pending"), "pending"),
    ],
)
async def test_whoever_gives_no_answer_is_asked_again_later(
    setting: Setting, vendor: Vendor, trouble: Any, result: str
) -> None:
    vendor.answers["job-1"] = trouble
    await setting.expect("job-1")
    await setting.turn()
    await setting.turn(seconds=40)
    assert len(vendor.asked) == 1
    await setting.turn(seconds=40)
    assert len(vendor.asked) == 2
    await setting.turn(seconds=80)
    assert len(vendor.asked) == 2, "the interval grows"
    assert setting.observer.judged == [("expected", result, "again")] * 2
    del vendor.answers["job-1"]
    await setting.turn(seconds=80)
    assert (await setting.jobs())["job-1"].state == "healed"
    assert (await setting.jobs())["job-1"].attempts == 3


async def test_one_unreadable_job_of_a_batch_spoils_only_itself(setting: Setting, vendor: Vendor) -> None:
    vendor.answers["job-1"] = JobAnswer(state="not_found")
    await setting.expect("job-1", "job-2")
    await setting.turn()
    assert {name: record.state for name, record in (await setting.jobs()).items()} == {
        "job-1": "overdue",
        "job-2": "healed",
    }


@pytest.mark.parametrize(
    ("family", "has_credentials", "reason"),
    [
        ("production", True, "the vendor offers no query for vod production"),
        ("animated_image", True, "the query needs the media id, which nobody has told"),
        ("snapshot", False, "no credentials are configured to ask with: add a table [vendor.<name>]"),
    ],
)
async def test_what_cannot_be_asked_ends_as_unknown_when_it_is_given_up(
    setting: Setting, vendor: Vendor, family: str, has_credentials: bool, reason: str
) -> None:
    setting.has_credentials = has_credentials
    await setting.expect("job-1", family=family)
    await setting.turn()
    assert (await setting.jobs())["job-1"].state == "overdue"
    await setting.turn(seconds=86401)
    record = (await setting.jobs())["job-1"]
    assert (record.state, record.outcome, vendor.asked) == ("unknown", "unknown", [])
    assert record.event_id is not None
    event = await setting.inbox.find_event(record.event_id)
    assert event is not None
    assert event.body is not None
    error = json.loads(event.body)["data"]["error"]
    assert error["message"] == f"the vendor offers no way to learn how the job ended: {reason}"
    assert [delivery.sink for delivery in event.deliveries] == ["a"]


async def test_what_is_known_later_is_a_further_revision(setting: Setting, vendor: Vendor) -> None:
    vendor.answers["job-1"] = JobAnswer(state="not_found")
    await setting.expect("job-1")
    await setting.turn(seconds=86401)
    assert (await setting.jobs())["job-1"].state == "unknown"
    event = make_event("job-1", family="snapshot", kind="snapshot")
    receipt = held(event)
    receipt.entries[0].hold = None
    verdict = await setting.inbox.put(receipt)
    assert [event.data.revision for event in verdict.accepted] == [2]
    assert (await setting.jobs())["job-1"].state == "completed"


async def test_a_held_event_is_asked_about_at_once_and_leaves(setting: Setting, vendor: Vendor) -> None:
    event = make_event("job-1", family="snapshot", kind="snapshot")
    receipt = held(event)
    receipt.entries[0].hold = _hold_as_snapshot(receipt)
    await setting.inbox.put(receipt)
    assert await setting.inbox.claim("a", limit=10, now=setting.now, lease_s=20) == []
    await setting.turn()
    assert setting.observer.judged == [("confirm", "ended", "confirmed")]
    (delivery,) = await setting.inbox.claim("a", limit=10, now=setting.now, lease_s=20)
    data = json.loads(delivery.body)["data"]
    assert (data["outcome_verified_by"], data["verified_by"]) == ("query", "signature"), "it names no asset"


async def test_several_claims_of_one_job_are_answered_by_one_question(setting: Setting, vendor: Vendor) -> None:
    """What they say of the asset is no part of it, or it would come back as the vendor's word."""
    for number, media_id in enumerate(("media-1", "media-2", "media-3")):
        event = make_event("job-1", family="snapshot", kind="snapshot", media_id=media_id)
        receipt = held(event, body=str(number).encode())
        receipt.entries[0].hold = _hold_as_snapshot(receipt, media_id=media_id)
        assert (await setting.inbox.put(receipt)).held == 1
    await setting.turn()
    assert (vendor.asked, vendor.media_ids) == ([["job-1"]], [[None]])
    assert setting.observer.judged == [("confirm", "ended", "confirmed")] * 3
    assert setting.observer.learned == ["job-1"]


async def test_a_query_by_asset_names_it(setting: Setting, vendor: Vendor) -> None:
    for media_id in ("media-1", "media-2"):
        receipt = held(make_event("job-1", media_id=media_id), body=media_id.encode())
        receipt.entries[0].hold = _hold_as_snapshot(receipt, media_id=media_id, family="animated_image")
        await setting.inbox.put(receipt)
    await setting.turn()
    assert sorted(vendor.media_ids) == [["media-1"], ["media-2"]]


async def test_of_several_claims_one_leaves_that_the_vendor_has_not_corrected(setting: Setting, vendor: Vendor) -> None:
    for url in ("http://evil.example.com/1.jpg", "http://media.example.com/1.jpg"):
        event = make_event("job-1", family="snapshot", kind="snapshot")
        output = SnapshotOutput(url_template=url, count=1, snapshot_type=url.removesuffix("/1.jpg"))
        event = event.model_copy(update={"data": event.data.model_copy(update={"outputs": (output,)})})
        receipt = held(event, body=url.encode())
        receipt.entries[0].hold = _hold_as_snapshot(receipt)
        await setting.inbox.put(receipt)
    reference = JobReference(product="vod", account="default", family="snapshot", job_id="job-1")
    vendor.answers["job-1"] = ended(reference, url="http://media.example.com/1.jpg")
    await setting.turn()
    (delivery,) = await setting.inbox.claim("a", limit=10, now=setting.now, lease_s=20)
    (output_told,) = json.loads(delivery.body)["data"]["outputs"]
    assert output_told["url_template"] == "http://media.example.com/1.jpg"
    assert output_told["snapshot_type"] == "http://media.example.com", "what else the truthful message says"


def _hold_as_snapshot(receipt: Any, *, media_id: str | None = None, family: str = "snapshot") -> Any:
    hold = receipt.entries[0].hold
    return replace(hold, reference=replace(hold.reference, family=family, media_id=media_id))


async def test_products_do_not_wait_for_each_other(inbox: TimedSqliteInbox) -> None:
    slow, quick = Vendor(), Vendor()
    setting = Setting(inbox, vod=slow, mts=quick)
    slow.gate.clear()
    await setting.expect(*(f"vod-{number}" for number in range(MAX_IN_FLIGHT + 5)))
    await setting.expect("mts-1", product="mts")
    setting.reconciler.start()
    try:
        await setting.observer.until_learned(1)
        assert setting.observer.learned == ["mts-1"]
        assert sum(map(len, slow.asked)) == MAX_IN_FLIGHT, "no more than this at a time"
        slow.gate.set()
        await setting.observer.until_learned(MAX_IN_FLIGHT + 6)
    finally:
        await setting.reconciler.stop()


async def test_a_registration_wakes_it(setting: Setting, vendor: Vendor) -> None:
    setting.reconciler.start()
    await setting.expect("job-1")
    await setting.observer.until_learned(1)
    await setting.expect("job-2")
    await setting.observer.until_learned(2)
    await setting.reconciler.stop()
    await setting.reconciler.stop()


async def test_what_was_not_answered_when_it_stopped_is_asked_by_the_next_one(
    setting: Setting, vendor: Vendor, inbox: TimedSqliteInbox
) -> None:
    vendor.gate.clear()
    await setting.expect("job-1")
    setting.reconciler.start()
    async with asyncio.timeout(PATIENCE_S):
        await vendor.begun.wait()
    await setting.reconciler.stop()
    assert (await setting.jobs())["job-1"].state == "overdue"
    vendor.gate.set()
    after = Setting(inbox, vod=vendor)
    await after.turn(seconds=INQUIRY_LEASE_S - 1)
    assert len(vendor.asked) == 1
    await after.turn(seconds=2)
    assert (await after.jobs())["job-1"].state == "healed"


async def test_a_store_that_is_away_for_a_moment_stops_nothing(
    setting: Setting, vendor: Vendor, inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims, settles = inbox.claim_inquiries, inbox.settle
    failures = {"claim": 1, "settle": 1}

    async def claim(*arguments: Any, **named: Any) -> Any:
        if failures["claim"]:
            failures["claim"] -= 1
            raise InboxUnavailable("away")
        return await claims(*arguments, **named)

    async def settle(*arguments: Any, **named: Any) -> Any:
        if failures["settle"]:
            failures["settle"] -= 1
            raise InboxUnavailable("away")
        return await settles(*arguments, **named)

    monkeypatch.setattr(inbox, "claim_inquiries", claim)
    monkeypatch.setattr(inbox, "settle", settle)
    await setting.expect("job-1")
    with pytest.raises(InboxUnavailable):
        await setting.turn()
    await setting.turn()
    assert (await setting.jobs())["job-1"].state == "overdue", "asked, and the answer could not be kept"
    await setting.turn(seconds=INQUIRY_LEASE_S + 1)
    assert (await setting.jobs())["job-1"].state == "healed"
    assert len(vendor.asked) == 2


async def test_it_logs_one_line_for_each_answer(setting: Setting, vendor: Vendor) -> None:
    vendor.answers["job-2"] = VendorRefused("GetJobDetail: 403 Forbidden.RAM", code="Forbidden.RAM", status=403)
    with structlog.testing.capture_logs() as lines:
        await setting.expect("job-1")
        await setting.turn()
        await setting.expect("job-2")
        await setting.turn()
    assert [(line["log_level"], line["event"], line["result"], line["decision"]) for line in lines] == [
        ("info", "inquiry", "ended", "ended"),
        ("warning", "inquiry", "refused", "again"),
    ]
    assert lines[1]["detail"] == "GetJobDetail: 403 Forbidden.RAM"


async def test_an_answer_that_comes_when_the_lease_is_over_decides_nothing_and_is_counted(
    setting: Setting, vendor: Vendor
) -> None:
    await setting.expect("job-1")
    vendor.gate.clear()
    asking = asyncio.ensure_future(setting.turn())
    await vendor.begun.wait()
    later = NOW + timedelta(seconds=INQUIRY_LEASE_S)
    (taken,) = await setting.inbox.claim_inquiries("vod", limit=9, lease_s=INQUIRY_LEASE_S, now=later)
    vendor.gate.set()
    await asking
    assert setting.observer.judged == [("expected", "ended", "late")]
    assert setting.observer.learned == []
    assert (await setting.jobs())["job-1"].state == "overdue", "up to whoever asks now"
    assert taken.attempt == 1


async def test_a_vendor_that_hangs_is_given_up_before_the_lease_is_over(
    setting: Setting, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or others would ask the same meanwhile, and no answer would ever count."""
    assert ASK_TIMEOUT_S < INQUIRY_LEASE_S
    monkeypatch.setattr("media_callbacks.healing.reconciler.ASK_TIMEOUT_S", 0.01)
    vendor.gate.clear()
    await setting.expect("job-1")
    async with asyncio.timeout(PATIENCE_S):
        await setting.turn()
    assert setting.observer.judged == [("expected", "unavailable", "again")]
    assert (await setting.jobs())["job-1"].attempts == 1


async def test_an_answer_that_nobody_foresaw_is_given_up_too_and_not_quoted(setting: Setting, vendor: Vendor) -> None:
    vendor.answers["job-1"] = ValueError("https://result.example.com/1.txt?Signature=secret")
    await setting.expect("job-1")
    with structlog.testing.capture_logs() as lines:
        await setting.turn()
        assert ((await setting.jobs())["job-1"].state, (await setting.jobs())["job-1"].attempts) == ("overdue", 1)
        await setting.turn(seconds=86401)
    assert (await setting.jobs())["job-1"].state == "unknown"
    assert [line["error"] for line in lines if line["event"] == "inquiries_failed"] == ["ValueError"] * 2
    assert "secret" not in str(lines)


async def test_what_a_failing_store_says_is_logged(
    setting: Setting, vendor: Vendor, inbox: TimedSqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settle(*_: Any, **__: Any) -> Any:
        raise InboxUnavailable("the disk is full")

    monkeypatch.setattr(inbox, "settle", settle)
    await setting.expect("job-1")
    with structlog.testing.capture_logs() as lines:
        await setting.turn()
    assert [line["error"] for line in lines] == ["InboxUnavailable: the disk is full"]


async def test_a_store_that_is_away_is_asked_again_and_told_of_once(
    inbox: TimedSqliteInbox, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = ["away", "away", "read-only", None, "away"]
    waits: list[float] = []
    has_asked = asyncio.Event()

    async def inquiry_due_in_s(_: Product) -> None:
        problem = left.pop(0)
        if problem is not None:
            raise InboxUnavailable(problem)

    async def wait(event: asyncio.Event, timeout_s: float) -> None:
        waits.append(timeout_s)
        if not left:
            has_asked.set()
            await event.wait()

    monkeypatch.setattr(inbox, "inquiry_due_in_s", inquiry_due_in_s)
    setting = Setting(inbox, wait=wait, vod=vendor)
    with structlog.testing.capture_logs() as lines:
        setting.reconciler.start()
        async with asyncio.timeout(PATIENCE_S):
            await has_asked.wait()
            await setting.reconciler.stop()
    assert [(line["event"], line["error"]) for line in lines] == [
        ("inquiries_failed", f"InboxUnavailable: {problem}") for problem in ("away", "read-only", "away")
    ]
    assert waits == [INBOX_RETRY_S] * 3 + [POLL_S] + [INBOX_RETRY_S]
