"""What follows from the vendor's answers: a table of every answer to every kind of inquiry."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from service.errors import VendorRefused, VendorUnavailable
from service.events import Event
from service.findings import HOLD_RETRY_S, PENDING_PATIENCE, Judgement, Patience, judge
from service.inbox.base import Inquiry
from service.jobs import JobReference
from service.queries.base import Answer, Family, QuerySource
from service.queries.unknown import parse as parse_unknown
from service.sources.base import Completion, Message, Parsed
from tests.inbox.conformance import make_event

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATIENCE = Patience(retry_s=60, give_up_s=86400)
SNAPSHOT = Family(kind="snapshot")
UNAVAILABLE = VendorUnavailable("GetJobDetail: no answer", is_throttled=True)
REFUSED = VendorRefused("GetJobDetail: 403 Forbidden.RAM", code="Forbidden.RAM", status=403)
URL = "http://media.example.com/1.jpg"


def parse(message: Message) -> Parsed:
    if message.meta["action"] == "none":
        return parse_unknown(message)
    told = json.loads(message.payload)
    output = make_output(told["url"]) if told.get("url") else ()
    return Parsed(
        tuple(
            Completion(
                family="snapshot",
                id=(job_id,),
                kind="snapshot",
                outcome=outcome,
                vendor_event="SnapshotComplete",
                job_id=job_id,
                media_id="media-1",
                outputs=output,
            )
            for job_id, outcome in told["jobs"].items()
        )
    )


def make_output(url):
    from service.events import SnapshotOutput

    return (SnapshotOutput(url_template=None, count=1, urls=(url,), snapshot_type=None),)


SOURCE = QuerySource(name="vod", product="vod", account="default", parser=parse)


def ended(outcome="succeeded", job_id="job-1", url=URL):
    return Answer(
        state="ended",
        body=json.dumps({"jobs": {job_id: outcome} if outcome else {}, "url": url}).encode(),
        meta={"action": "GetJobDetail"},
        notification="sent",
    )


def make_inquiry(reason="expected", *, event=None, attempt=1, since=NOW, user_data=None) -> Inquiry:
    reference = JobReference(product="vod", account="default", family="snapshot", job_id="job-1", media_id="media-1")
    until = None if event is None else since + timedelta(seconds=300)
    return Inquiry(
        id=1,
        reason=reason,
        reference=reference,
        since=since,
        until=until,
        attempt=attempt,
        lease="l",
        user_data=user_data,
        event=event,
    )


def make_held(outcome="succeeded", *, verified_by="signature", url=None, transport="http") -> Event:
    event = make_event("job-1", outcome, family="snapshot", kind="snapshot")
    changes = {"verified_by": verified_by, "transport": transport, "outputs": make_output(url) if url else ()}
    return event.model_copy(update={"data": event.data.model_copy(update=changes)})


def ask(inquiry, answer, *, now=NOW, family: Family | None = SNAPSHOT, jitter=0.5) -> Judgement:
    return judge(
        inquiry,
        answer,
        family=family,
        source=SOURCE,
        now=now,
        jitter=jitter,
        patience=PATIENCE,
        route=lambda _: ("orders",),
    )


def only_event(judgement: Judgement) -> Event:
    receipt = judgement.finding.receipt
    assert receipt is not None
    assert [entry.sinks for entry in receipt.entries] == [("orders",)]
    return receipt.entries[0].event


# Expected jobs


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "partial", "cancelled"])
def test_the_end_of_an_expected_job_is_emitted(outcome):
    judgement = ask(make_inquiry(user_data="order 7"), ended(outcome))
    event = only_event(judgement)
    assert (judgement.decision, judgement.finding.notification) == ("ended", "sent")
    assert event.id == make_event("job-1", outcome, family="snapshot").id
    assert event.data.transport == event.data.verified_by == "query"
    assert event.data.user_data == "order 7"
    assert judgement.finding.ask_again_at is None
    assert judgement.finding.release is None
    assert judgement.finding.conflict is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(state="pending"),
        Answer(state="not_found"),
        Answer(state="unlearnable"),
        Answer(state="foreign"),
        UNAVAILABLE,
        REFUSED,
        ended(None),
    ],
)
def test_an_expected_job_is_asked_about_at_growing_intervals_and_given_up_in_the_end(answer):
    waits = []
    for attempt in range(1, 12):
        finding = ask(make_inquiry(attempt=attempt), answer).finding
        assert finding.receipt is None
        assert finding.ask_again_at is not None
        waits.append((finding.ask_again_at - NOW).total_seconds())
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, 3600]
    for jitter, wait_s in ((0.0, 48), (1.0, 72)):
        finding = ask(make_inquiry(), answer, jitter=jitter).finding
        assert finding.ask_again_at == NOW + timedelta(seconds=wait_s)

    limit = timedelta(days=PENDING_PATIENCE if answer == Answer(state="pending") else 1)
    just_before = ask(make_inquiry(attempt=30), answer, now=NOW + limit - timedelta(seconds=1))
    assert just_before.finding.ask_again_at == NOW + limit
    given_up = ask(make_inquiry(attempt=30), answer, now=NOW + limit)
    event = only_event(given_up)
    assert given_up.decision == "given_up"
    assert (event.data.outcome, event.data.kind, event.data.transport) == ("unknown", "snapshot", "query")
    assert event.data.verified_by == "none"
    assert event.data.error is not None
    assert event.data.error.message
    assert event.id == make_event("job-1", "unknown", family="snapshot").id


@pytest.mark.parametrize("family", [None, Family(kind="snapshot", batch=0)])
def test_what_the_vendor_cannot_be_asked_about_is_looked_at_once_more_when_it_is_given_up(family):
    finding = ask(make_inquiry(), Answer(state="unlearnable", detail="no query"), family=family).finding
    assert finding.ask_again_at == NOW + timedelta(seconds=PATIENCE.give_up_s)


def test_the_reason_of_a_job_that_is_given_up_says_what_was_seen_last():
    event = only_event(ask(make_inquiry(), UNAVAILABLE, now=NOW + timedelta(days=1)))
    assert event.data.error is not None
    assert event.data.error.message == "the vendor's job API could not be asked: GetJobDetail: no answer"


# Held events


def test_a_held_event_that_the_vendor_confirms_leaves_as_verified_by_query():
    held = make_held(url="http://media.example.com/claimed.jpg")
    judgement = ask(make_inquiry("confirm", event=held), ended())
    released = judgement.finding.release
    assert judgement.decision == "confirmed"
    assert judgement.finding.receipt is None
    assert judgement.finding.conflict is None
    assert released is not None
    assert (released.id, released.data.verified_by, released.data.transport) == (held.id, "query", "http")
    assert released.data.outputs == make_output(URL)


def test_the_outputs_of_a_signed_message_stay_where_the_vendor_names_none():
    held = make_held(url="http://media.example.com/claimed.jpg")
    released = ask(make_inquiry("confirm", event=held), ended(url=None)).finding.release
    assert released is not None
    assert released.data.outputs == held.data.outputs


def test_a_claim_that_names_no_job_is_judged_by_the_job_that_it_was_asked_about_as():
    nameless = make_event("job-1", "failed", family="snapshot", kind="snapshot", key_id=("media-1", "", "", ""))
    nameless = nameless.model_copy(update={"data": nameless.data.model_copy(update={"job_id": None})})
    confirmed = ask(make_inquiry("confirm", event=nameless), ended("failed"))
    assert confirmed.decision == "confirmed"
    assert confirmed.finding.release is not None
    assert (confirmed.finding.release.id, confirmed.finding.release.data.job_id) == (nameless.id, "job-1")
    contradicted = ask(make_inquiry("confirm", event=nameless), ended("succeeded"))
    assert contradicted.decision == "contradicted"
    assert only_event(contradicted).data.job_id == "job-1"


@pytest.mark.parametrize("verified_by", ["token", "none"])
def test_nothing_in_an_unsigned_message_is_believed_that_the_vendor_did_not_say(verified_by):
    held = make_held(url="http://evil.example.com/claimed.jpg", verified_by=verified_by)
    released = ask(make_inquiry("confirm", event=held), ended(url=None)).finding.release
    assert released is not None
    assert released.data.outputs == ()


@pytest.mark.parametrize(("claimed", "told"), [("succeeded", "failed"), ("failed", "succeeded"), ("partial", "failed")])
def test_a_held_event_that_the_vendor_contradicts_does_not_leave_and_the_vendor_s_word_does(claimed, told):
    judgement = ask(make_inquiry("confirm", event=make_held(claimed)), ended(told))
    event = only_event(judgement)
    assert judgement.decision == "contradicted"
    assert judgement.finding.conflict == f"the message says {claimed}, the vendor's job API says {told}"
    assert judgement.finding.release is None
    assert (event.data.outcome, event.data.verified_by, event.data.transport) == (told, "query", "query")


def test_a_message_that_claims_nothing_gets_the_vendor_s_word_as_its_own():
    held = make_held("unknown", verified_by="token", transport="token-url")
    judgement = ask(make_inquiry("confirm", event=held), ended("failed"))
    released = judgement.finding.release
    assert judgement.decision == "confirmed"
    assert judgement.finding.receipt is None
    assert judgement.finding.conflict is None
    assert released is not None
    assert (released.data.outcome, released.data.transport, released.data.verified_by) == (
        "failed",
        "token-url",
        "query",
    )
    assert released.id == make_event("job-1", "failed", family="snapshot").id
    assert released.type == "media.snapshot.failed"


def test_a_foreign_task_is_refused_at_once():
    judgement = ask(make_inquiry("confirm", event=make_held(verified_by="token")), Answer(state="foreign"))
    assert judgement.decision == "foreign"
    assert judgement.finding.conflict
    assert judgement.finding.release is None
    assert judgement.finding.receipt is None


PENDING, NOT_FOUND, UNLEARNABLE = Answer(state="pending"), Answer(state="not_found"), Answer(state="unlearnable")


@pytest.mark.parametrize(
    ("verified_by", "answer", "after_timeout", "after_giving_up"),
    [
        ("signature", PENDING, "again", "unconfirmed"),
        ("signature", NOT_FOUND, "unconfirmed", "unconfirmed"),
        ("signature", UNLEARNABLE, "unconfirmed", "unconfirmed"),
        ("signature", UNAVAILABLE, "unconfirmed", "unconfirmed"),
        ("signature", REFUSED, "unconfirmed", "unconfirmed"),
        ("signature", ended(None), "unconfirmed", "unconfirmed"),
        ("token", PENDING, "again", "unconfirmed"),
        ("token", NOT_FOUND, "contradicted", "contradicted"),
        ("token", UNLEARNABLE, "unconfirmed", "unconfirmed"),
        ("token", UNAVAILABLE, "again", "unconfirmed"),
        ("token", REFUSED, "again", "unconfirmed"),
        ("none", ended(None), "again", "unconfirmed"),
    ],
)
def test_what_cannot_be_confirmed_waits_for_its_time_out(verified_by, answer, after_timeout, after_giving_up):
    held = make_held(verified_by=verified_by)
    at_once = ask(make_inquiry("confirm", event=held), answer)
    assert at_once.decision == "again"
    assert at_once.finding.ask_again_at is not None
    assert at_once.finding.ask_again_at - NOW == timedelta(seconds=HOLD_RETRY_S)
    for elapsed_s, decision in ((300, after_timeout), (300 + PATIENCE.give_up_s, after_giving_up)):
        judgement = ask(make_inquiry("confirm", event=held, attempt=9), answer, now=NOW + timedelta(seconds=elapsed_s))
        assert judgement.decision == decision
        if decision == "unconfirmed":
            assert judgement.finding.release == held
        if decision == "contradicted":
            assert judgement.finding.conflict == "the vendor knows no such job"


def test_a_notice_is_not_asked_about_until_it_leaves():
    held = make_held("received")
    judgement = ask(make_inquiry("confirm", event=held), UNLEARNABLE)
    assert judgement.finding.ask_again_at == NOW + timedelta(seconds=300)
    assert ask(make_inquiry("confirm", event=held), UNLEARNABLE, now=NOW + timedelta(seconds=300)).finding.release


# Filling in


def test_missing_outputs_are_filled_in():
    judgement = ask(make_inquiry("enrich", event=make_held()), ended())
    assert judgement.decision == "enriched"
    assert judgement.finding.release is not None
    assert judgement.finding.release.data.outputs == make_output(URL)


@pytest.mark.parametrize("answer", [PENDING, NOT_FOUND, UNLEARNABLE, REFUSED, ended("failed"), ended(None)])
def test_the_vendor_is_asked_once_for_what_is_missing(answer):
    held = make_held()
    judgement = ask(make_inquiry("enrich", event=held), answer)
    assert judgement.decision == "unconfirmed"
    assert judgement.finding.release == held
    assert judgement.finding.receipt is None


def test_no_answer_at_all_is_waited_for_until_the_time_out():
    held = make_held()
    assert ask(make_inquiry("enrich", event=held), UNAVAILABLE).decision == "again"
    late = ask(make_inquiry("enrich", event=held), UNAVAILABLE, now=NOW + timedelta(seconds=300))
    assert late.finding.release == held
