"""
What every inbox must tell of a job, and by what it finds one. Like ``conformance``, this is for a database's own test
module, with the fixtures ``inbox`` and ``reopen``.
"""

from datetime import datetime
from typing import Any

import pytest

from media_callbacks.inbox.records import Answer, ErasureRequest, EventFilter, Finding, JobLife, JobName, ReplayRequest
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.receipts import Receipt
from tests.inbox.conformance import (
    DAY,
    NOW,
    SECOND,
    Reopen,
    attempt,
    deliver,
    finish_replays,
    ids,
    make_event,
    make_receipt,
    purge,
    put,
    with_data,
)
from tests.inbox.conformance_jobs import (
    DEADLINE,
    MINUTE,
    NONCE,
    answer,
    answered,
    claim_one,
    expect,
    held,
    nameless,
)
from tests.inbox.timed import Timed

ODD = [
    "a*b",
    "a/b",
    "a%2Fb",
    "a\nb",
    "a\tb",
    "'; DROP TABLE jobs; --",
    "<b>&amp;</b>",
    "\u202eabc",
    "\u5a92\u4f53",
    "x" * 3000,
]
# What is like "order-7" and is not it, or is more than it.
SEVEN = ["order-7", "order-70", "order-71", 'order-7"', "order-7\\", "order-7\n", "order-7\u5a92"]


async def life_of(inbox: Timed, id_: str = "job-1", *, product: Any = "vod", **fields: Any) -> JobLife:
    return await inbox.find_life(JobName(product=product, id=id_, **fields))


async def found(inbox: Timed, text: str, *, limit: int = 50) -> list[tuple[str, str]]:
    """The ids of jobs, and by what they were found."""
    return [(hit.id, hit.found_by) for hit in await inbox.search(text, limit=limit)]


def states(life: JobLife) -> list[str]:
    return [receipt.state for receipt in life.receipts]


def said(result: Any, decision: Any, detail: str | None = None, *, at: datetime = NOW) -> Answer:
    return Answer(asked_at=at, result=result, decision=decision, detail=detail)


def of_nonce(task: str, outcome: Any = "succeeded", *, nonce: str = NONCE, at: datetime = NOW) -> Receipt:
    """What a minted URL tells of a task."""
    event = make_event(task, outcome, product="multimediaai", key_id=(nonce,))
    receipt = make_receipt(event, binding=task, at=at)
    receipt.product = "multimediaai"
    return receipt


class LivesConformance:
    # The life of a job

    async def test_of_a_job_that_nobody_knows_nothing_is_known(self, inbox: Timed) -> None:
        await put(inbox, make_event("job-2"))
        life = await life_of(inbox)
        assert not life.is_known
        assert not life.has_ended
        assert life.is_whole

    async def test_all_that_came_for_a_job_is_told(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", user_data="mine")
        failed, event = make_event(outcome="failed"), make_event()
        await put(inbox, failed, at=NOW + SECOND)
        await inbox.put(make_receipt(failed, at=NOW + 2 * SECOND))
        await inbox.put(make_receipt(with_data(failed, media_id="other"), body=b"other", at=NOW + 3 * SECOND))
        await put(inbox, event, at=NOW + 4 * SECOND)
        await put(inbox, make_event("job-2"), at=NOW + 5 * SECOND)
        life = await life_of(inbox)
        assert states(life) == ["accepted", "duplicate", "differing", "accepted"]
        assert [one.id for one in life.events] == ids(failed, event)
        assert [one.revision for one in life.events] == [1, 2]
        ((job),) = life.jobs
        assert (job.state, job.user_data) == ("completed", "mine")
        assert life.has_ended
        assert life.is_whole

    async def test_attempts_and_replays_are_told(self, inbox: Timed) -> None:
        event = make_event()
        await put(inbox, event)
        await attempt(inbox, "a", "retrying", delay_s=60, error="503")
        await deliver(inbox, "a", now=NOW + MINUTE)
        for wanted in (EventFilter(job_id="job-1"), EventFilter(job_id="job-2"), EventFilter(until=NOW - DAY)):
            await inbox.create_replay(ReplayRequest(filter=wanted, reason="why"), now=NOW + 2 * MINUTE)
        await finish_replays(inbox, now=NOW + 2 * MINUTE)
        life = await life_of(inbox)
        original, again = life.events[0].deliveries
        assert [one.result for one in original.history] == ["retrying"]
        assert (again.replay, again.state) == (1, "pending")
        assert [replay.request.filter.job_id for replay in life.replays] == ["job-1"]

    async def test_what_is_held_is_told_until_it_leaves_and_what_the_vendor_said_after(self, inbox: Timed) -> None:
        event = make_event()
        await inbox.put(held(event))
        await inbox.put(held(event, at=NOW + SECOND))
        life = await life_of(inbox)
        assert [(one.event_id, one.reason, one.attempts) for one in life.held] == [(event.id, "confirm", 0)]
        assert states(life) == ["accepted", "duplicate"]
        assert not life.has_ended
        inquiry = await claim_one(inbox)
        again = Finding(inquiry=inquiry, ask_again_at=NOW + MINUTE, answer=said("pending", "again", "running"))
        await inbox.settle([again], now=NOW + 2 * SECOND)
        inquiry = await claim_one(inbox, now=NOW + MINUTE)
        release = Finding(inquiry=inquiry, release=answered(event), answer=said("ended", "confirmed"))
        await inbox.settle([release], now=NOW + MINUTE)
        life = await life_of(inbox)
        assert life.held == ()
        assert [(one.attempt, one.result, one.decision, one.detail, one.event_id) for one in life.answers] == [
            (1, "pending", "again", "running", None),
            (2, "ended", "confirmed", None, event.id),
        ]
        assert [one.id for one in life.events] == ids(event)
        assert life.has_ended

    async def test_each_question_about_an_expected_job_is_told(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        inquiry = await claim_one(inbox, now=DEADLINE)
        finding = Finding(
            inquiry=inquiry, receipt=answer(make_event(), at=DEADLINE), answer=said("ended", "ended", at=DEADLINE)
        )
        assert (await inbox.settle([finding], now=DEADLINE + SECOND))[0].is_ours
        # Somebody else's lease is over.
        assert not (await inbox.settle([finding], now=DEADLINE + SECOND))[0].is_ours
        life = await life_of(inbox)
        assert [(one.reason, one.decision, one.event_id) for one in life.answers] == [
            ("expected", "ended", make_event().id),
            ("expected", "late", None),
        ]
        assert [(one.asked_at, one.answered_at) for one in life.answers] == [(DEADLINE, DEADLINE + SECOND)] * 2
        assert [receipt.transport for receipt in life.receipts] == ["query"]

    async def test_what_the_vendor_contradicted_is_told(self, inbox: Timed) -> None:
        await inbox.put(held(make_event(outcome="failed")))
        finding = Finding(inquiry=await claim_one(inbox), receipt=answer(make_event()), conflict="the vendor says no")
        finding.answer = said("ended", "contradicted", "the vendor says no")
        await inbox.settle([finding])
        life = await life_of(inbox)
        assert states(life) == ["conflict", "accepted"]
        assert [(one.decision, one.event_id) for one in life.answers] == [("contradicted", make_event().id)]

    async def test_a_refused_claim_about_a_bound_nonce_is_told(self, inbox: Timed) -> None:
        await inbox.put(of_nonce("task-1"))
        assert (await inbox.put(of_nonce("task-2", at=NOW + SECOND))).state == "conflict"
        for id_ in (NONCE, "task-1"):
            assert states(await life_of(inbox, id_, product="multimediaai")) == ["accepted", "conflict"]

    @pytest.mark.parametrize("body", [b'{"JobId": "job-1", ', b"<JobId>job-1</JobId>", b"eyJKb2JJZCI6ICJqb2ItMSJ9"])
    async def test_a_receipt_that_could_not_be_read_is_told_of_the_job_that_its_body_names(
        self, inbox: Timed, body: bytes
    ) -> None:
        await inbox.put(make_receipt(body=body, reason="broken"))
        await inbox.put(make_receipt(body=body.replace(b"job-1", b"job-12"), reason="broken"))
        await inbox.put(make_receipt(meta={"id": "job-1"}, reason="broken"))
        life = await life_of(inbox)
        assert states(life)[:1] == ["unparsed"]
        assert life.receipts[-1].id == 3
        assert len(life.receipts) == (3 if body.startswith(b"ey") else 2)
        assert (await life_of(inbox, product="ims")).receipts == ()
        assert (await found(inbox, "job-1"))[:1] == [("job-1", "receipt")]

    async def test_the_same_id_may_be_of_several_families_accounts_and_products(self, inbox: Timed) -> None:
        snapshot = make_event(family="snapshot", kind="snapshot")
        await put(inbox, make_event(), snapshot, make_event(product="ims"))
        await expect(inbox, "job-1", family="transcode", media_id=None)
        await expect(inbox, "job-1", family="transcode", media_id=None, account="second")
        life = await life_of(inbox)
        assert [one.kind for one in life.events] == ["animated_image", "snapshot"]
        assert [job.reference.account for job in life.jobs] == ["default", "second"]
        of_family = await life_of(inbox, family="snapshot")
        assert [one.kind for one in of_family.events] == ["snapshot"]
        assert of_family.jobs == ()
        of_account = await life_of(inbox, account="second")
        assert (of_account.events, [job.reference.account for job in of_account.jobs]) == ((), ["second"])

    async def test_a_message_that_named_no_job_is_told_of_the_job_that_it_meant(self, inbox: Timed) -> None:
        await expect(inbox, "job-1")
        await inbox.put(nameless())
        life = await life_of(inbox)
        assert states(life) == ["accepted"]
        assert [one.outcome for one in life.events] == ["failed"]

    @pytest.mark.parametrize("id_", ODD, ids=range(len(ODD)))
    async def test_an_id_is_whatever_it_is(self, inbox: Timed, id_: str) -> None:
        await put(inbox, make_event(id_), make_event(id_ + "x"))
        life = await life_of(inbox, id_)
        assert [one.id for one in life.events] == ids(make_event(id_))
        assert ("vod", make_event(id_).id) in [(hit.product, hit.event_id) for hit in await inbox.search(id_, limit=9)]

    # Found by

    async def test_a_job_is_found_by_whatever_names_it(self, inbox: Timed) -> None:
        event = with_data(make_event(), user_data='{"order": 7}')
        await put(inbox, event, make_event("job-2", media_id="media-2"))
        assert await found(inbox, "job-1") == [("job-1", "job_id")]
        assert await found(inbox, " job-1\n") == [("job-1", "job_id")]
        assert await found(inbox, "media-1") == [("job-1", "media_id")]
        assert await found(inbox, event.id) == [("job-1", "event_id")]
        assert await found(inbox, '{"order": 7}') == [("job-1", "user_data")]
        assert await found(inbox, '{"order"') == [("job-1", "user_data_prefix")]
        assert await found(inbox, "order") == []
        assert await found(inbox, make_event("job-3").id) == []
        (hit,) = await inbox.search("job-1", limit=9)
        assert (hit.product, hit.account, hit.job_id, hit.media_id) == ("vod", "default", "job-1", "media-1")
        assert (hit.user_data, hit.state, hit.outcome, hit.event_id) == ('{"order": 7}', None, "succeeded", event.id)
        assert hit.at == NOW

    async def test_what_is_searched_for_is_found_before_all_that_begins_with_it(self, inbox: Timed) -> None:
        await put(inbox, *(with_data(make_event(f"job-{n}"), user_data=f"order-{n}") for n in (1, 10, 11, 12, 13)))
        hits = await inbox.search("order-1", limit=3)
        assert (hits[0].id, hits[0].found_by) == ("job-1", "user_data")
        assert {hit.found_by for hit in hits[1:]} == {"user_data_prefix"}

    async def test_a_job_that_is_registered_is_found_before_anything_came(self, inbox: Timed) -> None:
        minted = JobReference(product="multimediaai", account="default", family="animated_image", nonce=NONCE)
        await inbox.expect([ExpectedJob(reference=minted, deadline=DEADLINE)])
        await expect(inbox, "job-1", user_data="order-7")
        for text, by in (("job-1", "job_id"), ("media-1", "media_id"), ("order-7", "user_data")):
            assert await found(inbox, text) == [("job-1", by)]
        assert await found(inbox, "order-") == [("job-1", "user_data_prefix")]
        assert await found(inbox, NONCE.upper()) == [(NONCE, "nonce")]
        (hit,) = await inbox.search("order-7", limit=9)
        assert (hit.state, hit.event_id, hit.outcome, hit.at) == ("expected", None, None, NOW)

    async def test_a_job_of_a_minted_url_is_found_by_its_nonce_and_by_its_task(self, inbox: Timed) -> None:
        await inbox.put(of_nonce("task-1"))
        assert await found(inbox, NONCE) == [("task-1", "nonce")]
        assert await found(inbox, "task-1") == [("task-1", "job_id")]

    async def test_what_is_held_and_what_was_refused_is_found(self, inbox: Timed) -> None:
        await inbox.put(held(make_event("job-1")))
        await inbox.put(of_nonce("task-1"))
        await inbox.put(of_nonce("task-2"))
        assert await found(inbox, "job-1") == [("job-1", "job_id")]
        assert await found(inbox, "task-1") == [("task-1", "job_id")]

    @pytest.mark.parametrize("is_registered", [True, False])
    async def test_user_data_is_found_whole_and_by_its_beginning_and_no_otherwise(
        self, inbox: Timed, is_registered: bool
    ) -> None:
        for number, text in enumerate(SEVEN):
            if is_registered:
                await expect(inbox, f"job-{number}", user_data=text)
            else:
                await put(inbox, make_event(f"job-{number}", user_data=text))
        assert (await found(inbox, "order-7"))[0] == ("job-0", "user_data")
        assert {id_ for id_, _ in await found(inbox, "order-7")} == {f"job-{number}" for number in range(len(SEVEN))}
        assert [id_ for id_, _ in await found(inbox, "order-71")] == ["job-2"]
        assert [id_ for id_, _ in await found(inbox, 'order-7"')] == ["job-3"]
        assert [id_ for id_, _ in await found(inbox, "order-7\\")] == ["job-4"]
        assert await found(inbox, "order-8") == []

    async def test_long_user_data_is_found_by_all_of_it(self, inbox: Timed) -> None:
        one, other = "\u5a92" * 300 + "1", "\u5a92" * 300 + "2"
        await put(inbox, make_event("job-1", user_data=one), make_event("job-2", user_data=other))
        await expect(inbox, "job-3", user_data=one)
        assert {id_ for id_, _ in await found(inbox, one)} == {"job-1", "job-3"}
        assert {id_ for id_, _ in await found(inbox, "\u5a92" * 280)} == {"job-1", "job-2", "job-3"}

    async def test_no_more_are_told_than_asked_for_and_newer_ones_first(self, inbox: Timed) -> None:
        await put(inbox, *(make_event(f"job-{number}", user_data="7") for number in range(5)))
        assert len(await found(inbox, "7", limit=3)) == 3
        assert len(await found(inbox, "media-1", limit=3)) == 3

    async def test_what_is_read_again_is_found_by_what_it_says_now(self, inbox: Timed) -> None:
        await put(inbox, make_event(user_data="before"))
        await inbox.reparse(1, make_receipt(make_event(user_data="after")), dry_run=False)
        assert await found(inbox, "before") == []
        assert await found(inbox, "after") == [("job-1", "user_data")]

    # Removed

    async def test_what_is_purged_is_found_by_its_keys_alone(self, inbox: Timed) -> None:
        await inbox.put(held(make_event("refused")))
        finding = Finding(inquiry=await claim_one(inbox), conflict="no", answer=said("foreign", "foreign"))
        await inbox.settle([finding])
        await put(inbox, make_event(user_data="7"))
        await deliver(inbox, "a")
        await purge(inbox, payloads_before=NOW + DAY, keys_before=NOW - DAY)
        assert await found(inbox, "7") == []
        assert await found(inbox, "job-1") == [("job-1", "job_id")]
        assert await found(inbox, "media-1") == [("job-1", "media_id")]
        life = await life_of(inbox)
        assert [(one.kind, one.outcome, one.body) for one in life.events] == [("animated_image", "succeeded", None)]
        assert not (await life_of(inbox, "refused")).is_known
        for table in ("answers", "receipt_keys", "event_user_data"):
            assert await inbox._read(lambda d, t=table: d.fetch(f"SELECT * FROM {t}")) == []  # type: ignore[misc]

    async def test_what_is_erased_is_not_found_by_it(self, inbox: Timed) -> None:
        await expect(inbox, "job-1", user_data="user 7")
        finding = Finding(
            inquiry=await claim_one(inbox, now=DEADLINE),
            receipt=answer(make_event(user_data="user 7"), at=DEADLINE),
            answer=said("ended", "ended", "words about user 7", at=DEADLINE),
        )
        await inbox.settle([finding])
        await deliver(inbox, "a", now=DEADLINE)
        assert await found(inbox, "user 7") == [("job-1", "user_data")]
        wanted = ErasureRequest(matched="user_data", value="user 7")
        erasure_id, position = None, None
        while True:
            step = await inbox.erase(wanted, erasure_id=erasure_id, position=position, dry_run=False)
            erasure_id, position = step.id, step.position
            if position is None:
                break
        assert await found(inbox, "user 7") == []
        (one,) = (await life_of(inbox)).answers
        assert (one.decision, one.detail) == ("ended", None)

    # Receipts

    async def test_receipts_are_listed_by_job(self, inbox: Timed) -> None:
        await put(inbox, make_event(), make_event("job-2"))
        await inbox.put(make_receipt(make_event(), at=NOW + SECOND))
        await inbox.put(make_receipt(body=b'"job-1"', reason="broken", at=NOW + SECOND))
        listed = await inbox.list_receipts(job_id="job-1", limit=9)
        assert [(one.id, one.state) for one in listed] == [(4, "unparsed"), (3, "duplicate"), (1, "accepted")]
        assert [one.id for one in await inbox.list_receipts(job_id="job-1", state="duplicate", limit=9)] == [3]
        assert [one.id for one in await inbox.list_receipts(job_id="job-1", before_id=4, limit=1)] == [3]
        assert await inbox.list_receipts(job_id="job-1", source="other", limit=9) == ()

    async def test_a_receipt_is_shown_with_what_was_kept_of_it(self, inbox: Timed) -> None:
        await inbox.put(make_receipt(body=b"\xff\x00", reason="broken", meta={"a": "b"}, parser_version=3))
        kept = await inbox.find_receipt(1)
        assert kept is not None
        assert (kept.body, kept.meta, kept.parser_version, kept.record.reason) == (b"\xff\x00", {"a": "b"}, 3, "broken")
        assert await inbox.find_receipt(2) is None

    # Ends

    async def test_the_ends_of_jobs_are_told_whether_registered_or_not(self, inbox: Timed) -> None:
        await expect(inbox, "waiting", "given-up", "told", media_id=None)
        await put(inbox, make_event("told"), make_event("unregistered"), make_event("open", "unknown"))
        await put(inbox, make_event("notice", "received", kind="notice"))
        await inbox.put(of_nonce("task-1"))
        await inbox.put(held(make_event("held")))
        names = ("waiting", "given-up", "told", "unregistered", "open", "notice", "task-1", NONCE, "held", "nobody")
        asked = {(product, name) for name in names for product in ("vod", "multimediaai")}
        endings = await inbox.find_endings(asked)  # type: ignore[arg-type]
        assert set(endings) == {
            ("vod", "told"),
            ("vod", "unregistered"),
            ("multimediaai", "task-1"),
            ("multimediaai", NONCE),
        }
        before = endings["vod", "unregistered"]
        await put(inbox, make_event("unregistered", "failed"), at=NOW + SECOND)
        assert before < (await inbox.find_endings(asked))["vod", "unregistered"]  # type: ignore[arg-type]
        assert await inbox.find_endings(()) == {}

    async def test_many_are_asked_about_at_once(self, inbox: Timed, reopen: Reopen) -> None:
        await put(inbox, *(make_event(f"job-{number}") for number in range(0, 300, 3)))
        inbox = await reopen()
        asked = {("vod", f"job-{number}") for number in range(300)}
        found_ = await inbox.find_endings(asked)  # type: ignore[arg-type]
        assert set(found_) == {("vod", f"job-{number}") for number in range(0, 300, 3)}
