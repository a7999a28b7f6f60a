"""What follows from the vendor's answers: a table of every answer to every kind of inquiry."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from media_callbacks.healing.queries.base import Family, JobAnswer, QuerySource
from media_callbacks.healing.queries.findings import (
    HOLD_RETRY_S,
    PENDING_PATIENCE,
    RESULT_ATTEMPTS,
    Judgement,
    Patience,
    conclude,
)
from media_callbacks.healing.queries.unknown import parse as parse_unknown
from media_callbacks.inbox.records import Inquiry
from media_callbacks.model.errors import VendorRefused, VendorUnavailable
from media_callbacks.model.events import Event, EventError
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.outputs import SnapshotOutput
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.sources.products.outcomes import has_outputs
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
    if "outputs" in told:
        output = tuple(SnapshotOutput(**one) for one in told["outputs"])
    else:
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
                media_id=told.get("media_id", "media-1"),
                outputs=output if has_outputs(outcome) else (),
                error=EventError(**told["error"]) if "error" in told else None,
                user_data=told.get("user_data"),
                occurred_at=datetime.fromisoformat(told["time"]) if "time" in told else None,
            )
            for job_id, outcome in told["jobs"].items()
        )
    )


def make_output(url):
    return (SnapshotOutput(url_template=None, count=1, urls=(url,), snapshot_type=None),)


SOURCE = QuerySource(name="vod", product="vod", account="default", parser=parse)


def ended(outcome="succeeded", job_id="job-1", url=URL, **told):
    return JobAnswer(
        state="ended",
        body=json.dumps({"jobs": {job_id: outcome} if outcome else {}, "url": url, **told}).encode(),
        meta={"action": "GetJobDetail"},
        notification="sent",
    )


def make_inquiry(
    reason="expected", *, event=None, attempt=1, since=NOW, user_data=None, confirmed=frozenset()
) -> Inquiry:
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
        confirmed=frozenset(confirmed),
    )


def make_held(outcome="succeeded", *, verified_by="signature", url=None, transport="http", **claims) -> Event:
    event = make_event("job-1", outcome, family="snapshot", kind="snapshot")
    changes = {
        "verified_by": verified_by,
        "outcome_verified_by": verified_by,
        "transport": transport,
        "outputs": make_output(url) if url else (),
        **claims,
    }
    return event.model_copy(update={"data": event.data.model_copy(update=changes)})


def ask(inquiry, answer, *, now=NOW, family: Family | None = SNAPSHOT, jitter=0.5) -> Judgement:
    return conclude(
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
        JobAnswer(state="pending"),
        JobAnswer(state="not_found"),
        JobAnswer(state="unlearnable"),
        JobAnswer(state="foreign"),
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

    limit = timedelta(days=PENDING_PATIENCE if answer == JobAnswer(state="pending") else 1)
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
    finding = ask(make_inquiry(), JobAnswer(state="unlearnable", detail="no query"), family=family).finding
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
    assert released.data.outcome_verified_by == "query"
    assert released.data.outputs == make_output(URL)
    assert judgement.is_corrected


def test_the_outputs_of_a_signed_message_stay_where_the_vendor_names_none_and_prove_no_more_than_it():
    held = make_held(url="http://media.example.com/claimed.jpg")
    judgement = ask(make_inquiry("confirm", event=held), ended(url=None))
    released = judgement.finding.release
    assert released is not None
    assert released.data.outputs == held.data.outputs
    assert (released.data.verified_by, released.data.outcome_verified_by) == ("signature", "query")
    assert not judgement.is_corrected


SAID = {
    "url_template": "http://media.example.com/{SnapshotCount}.jpg",
    "count": 2,
    "urls": ("http://media.example.com/00001.jpg", "http://media.example.com/00002.jpg"),
}
NO_CODE = {"code": None, "message": None, "retryable": None}


@pytest.mark.parametrize(
    ("outcome", "claims", "told", "expected", "proof"),
    [
        pytest.param("succeeded", {"user_data": "order 7"}, {}, {"user_data": "order 7"}, "signature", id="user data"),
        pytest.param(
            "succeeded",
            {"user_data": "order 7"},
            {"user_data": "order 7"},
            {"user_data": "order 7"},
            "query",
            id="same",
        ),
        pytest.param(
            "succeeded", {}, {"user_data": "order 7"}, {"user_data": "order 7"}, "query", id="only the vendor"
        ),
        pytest.param("succeeded", {}, {"media_id": None}, {"media_id": "media-1"}, "signature", id="asset"),
        pytest.param("succeeded", {"media_id": None}, {}, {"media_id": "media-1"}, "query", id="asset, the vendor's"),
        pytest.param(
            "failed",
            {"error": EventError(code="Odd", message="claimed", retryable=True)},
            {"error": NO_CODE},
            {"error": EventError(code="Odd", message="claimed", retryable=True)},
            "signature",
            id="error",
        ),
        pytest.param(
            "failed",
            {"error": EventError(code="Odd", message="claimed", retryable=True)},
            {"error": {"code": "Bad", "message": None, "retryable": False}},
            {"error": EventError(code="Bad", message=None, retryable=False)},
            "query",
            id="error, the vendor's",
        ),
        pytest.param(
            "succeeded",
            {"outputs": (SnapshotOutput(**SAID, snapshot_type="sprite"),)},
            {"outputs": [SAID]},
            {"outputs": (SnapshotOutput(**SAID, snapshot_type="sprite"),)},
            "signature",
            id="a member of an output",
        ),
        pytest.param(
            "succeeded",
            {"outputs": (SnapshotOutput(**SAID),)},
            {"outputs": [SAID | {"times_s": (1.0, 2.0)}]},
            {"outputs": (SnapshotOutput(**SAID, times_s=(1.0, 2.0)),)},
            "query",
            id="a member of an output, the vendor's",
        ),
        pytest.param(
            "succeeded",
            {"outputs": (SnapshotOutput(url_template="http://evil.example.com/", count=2, snapshot_type="sprite"),)},
            {"outputs": [SAID]},
            {"outputs": (SnapshotOutput(**SAID),)},
            "query",
            id="an output that the vendor describes otherwise",
        ),
        pytest.param(
            "succeeded",
            {"outputs": (SnapshotOutput(snapshot_type="sprite"),)},
            {"outputs": [SAID]},
            {"outputs": (SnapshotOutput(**SAID),)},
            "query",
            id="an output that may be another one",
        ),
        pytest.param(
            "succeeded",
            {"outputs": (SnapshotOutput(**SAID), SnapshotOutput(url_template="http://evil.example.com/"))},
            {"outputs": [SAID]},
            {"outputs": (SnapshotOutput(**SAID),)},
            "query",
            id="one output more than the vendor's",
        ),
        pytest.param(
            "succeeded",
            {"outputs": (SnapshotOutput(**SAID),)},
            {"outputs": [{}]},
            {"outputs": (SnapshotOutput(**SAID),)},
            "signature",
            id="an output that says nothing",
        ),
    ],
)
def test_the_vendors_word_wins_and_what_it_is_silent_about_is_never_proven_by_it(
    outcome, claims, told, expected, proof
):
    told = {"url": None} | told
    for verified_by in ("signature", "queue", "token"):
        held = make_held(outcome, verified_by=verified_by, **claims)
        judgement = ask(make_inquiry("confirm", event=held), ended(outcome, **told))
        released = judgement.finding.release
        assert released is not None, judgement.detail
        data = released.data
        assert (judgement.decision, data.outcome_verified_by, data.outcome) == ("confirmed", "query", outcome)
        if verified_by != "token":
            assert {name: getattr(data, name) for name in expected} == expected
            assert data.verified_by == ("query" if proof == "query" else verified_by)
        else:
            # What nobody has signed has left nothing behind.
            assert data.verified_by == "query"
            silent = make_held(outcome, verified_by=verified_by, media_id=None)
            alone = ask(make_inquiry("confirm", event=silent), ended(outcome, **told)).finding.release
            assert alone is not None
            assert data == alone.data


@pytest.mark.parametrize("verified_by", ["signature", "token", "queue"])
@pytest.mark.parametrize(
    ("claims", "told", "words"),
    [
        ({"media_id": "media-9"}, {}, "the message names another media id than the vendor's job API"),
        (
            {"user_data": "order 8"},
            {"user_data": "order 7"},
            "the message has other user data than the vendor's job API",
        ),
        (
            {"user_data": '{"order": 8}'},
            {"user_data": '{"order": 7}'},
            "the message has other user data than the vendor's job API",
        ),
    ],
)
def test_another_asset_or_other_user_data_than_the_vendors_is_a_conflict(verified_by, claims, told, words):
    held = make_held(verified_by=verified_by, url="http://evil.example.com/1.jpg", **claims)
    judgement = ask(make_inquiry("confirm", event=held), ended(**told))
    assert (judgement.decision, judgement.finding.conflict, judgement.finding.release) == ("contradicted", words, None)
    event = only_event(judgement)
    assert event.id == held.id
    assert (event.data.media_id, event.data.user_data) == ("media-1", told.get("user_data"))
    assert event.data.outputs == make_output(URL)
    assert event.data.verified_by == event.data.outcome_verified_by == "query"
    # Whom nobody has asked for a second opinion, nobody corrects.
    enriched = ask(make_inquiry("enrich", event=held), ended(**told))
    assert (enriched.decision, enriched.finding.release) == ("unconfirmed", held)


@pytest.mark.parametrize(
    ("claimed", "told"),
    [('{"order":7,"shop":"a"}', '{ "shop": "a", "order": 7 }'), ("order 7", " order 7\n"), ('"\\u00e9"', '"é"')],
)
def test_user_data_that_is_spelled_otherwise_is_the_same(claimed, told):
    held = make_held(user_data=claimed)
    assert ask(make_inquiry("confirm", event=held), ended(user_data=told)).decision == "confirmed"


def test_the_vendors_time_wins_and_that_of_an_unsigned_message_is_left_out():
    claimed_at = NOW - timedelta(days=1)
    for verified_by, told, expected in (
        ("signature", {}, claimed_at),
        ("signature", {"time": "2026-01-02T03:00:00+00:00"}, datetime(2026, 1, 2, 3, tzinfo=UTC)),
        ("none", {}, NOW),
        ("none", {"time": "2026-01-02T03:00:00+00:00"}, datetime(2026, 1, 2, 3, tzinfo=UTC)),
    ):
        held = make_held(verified_by=verified_by).model_copy(update={"time": claimed_at})
        released = ask(make_inquiry("confirm", event=held), ended(**told), now=NOW + timedelta(1)).finding.release
        assert released is not None
        assert released.time == expected


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


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_what_else_a_message_tells_of_a_job_is_neither_proven_nor_refuted_by_how_it_ended(outcome):
    """A picture of another sort for example, of which the answer has nothing."""
    other = make_event("job-1", outcome, family="snapshot", kind="snapshot", key_id=("job-1", "evil"))
    waits = ask(make_inquiry("confirm", event=other), ended("succeeded"))
    assert (waits.result, waits.decision) == ("unlearnable", "again")
    leaves = ask(make_inquiry("confirm", event=other), ended("succeeded"), now=NOW + timedelta(seconds=300))
    assert leaves.decision == "unconfirmed"
    assert leaves.finding.release == other
    assert leaves.finding.receipt is None
    # Nor is it given the outputs of another one.
    assert ask(make_inquiry("enrich", event=other), ended("succeeded")).finding.release == other


def test_the_vendors_word_for_the_whole_refutes_no_failure_of_a_part_where_it_tells_of_no_parts():
    family = Family(kind="snapshot", tells_parts=False)
    held = make_held("partial")
    leaves = ask(make_inquiry("confirm", event=held), ended("succeeded"), family=family, now=NOW + timedelta(300))
    assert (leaves.decision, leaves.finding.release) == ("unconfirmed", held)
    healed = make_inquiry("confirm", event=held, confirmed={"succeeded"})
    leaves = ask(healed, ended("succeeded"), family=family, now=NOW + timedelta(300))
    assert (leaves.decision, leaves.finding.release) == ("unconfirmed", held)
    assert ask(make_inquiry("confirm", event=held), ended("failed"), family=family).decision == "contradicted"
    assert ask(make_inquiry("confirm", event=held), ended("succeeded")).decision == "contradicted"
    assert ask(make_inquiry("confirm", event=make_held()), ended("succeeded"), family=family).decision == "confirmed"


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
    held = make_held("unknown", verified_by="token", transport="token-url", url=URL)
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


def test_what_a_message_of_unknown_outcome_says_of_a_result_is_about_another_end():
    error = EventError(code="Odd", message=None, retryable=None)
    for outcome, outputs in (("failed", ()), ("succeeded", make_output(URL))):
        held = make_held("unknown", url="http://evil.example.com/1.jpg", error=error)
        released = ask(make_inquiry("confirm", event=held), ended(outcome)).finding.release
        assert released is not None
        assert (released.data.outputs, released.data.error, released.data.verified_by) == (outputs, None, "query")


def test_a_foreign_task_is_refused_at_once():
    judgement = ask(make_inquiry("confirm", event=make_held(verified_by="token")), JobAnswer(state="foreign"))
    assert judgement.decision == "foreign"
    assert judgement.finding.conflict
    assert judgement.finding.release is None
    assert judgement.finding.receipt is None


PENDING, NOT_FOUND, UNLEARNABLE = (
    JobAnswer(state="pending"),
    JobAnswer(state="not_found"),
    JobAnswer(state="unlearnable"),
)


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


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
@pytest.mark.parametrize(
    ("answer", "gives_up_s"),
    [
        (UNAVAILABLE, 300 + PATIENCE.give_up_s),
        (REFUSED, 300 + PATIENCE.give_up_s),
        (PENDING, 300 + PATIENCE.give_up_s),
        (NOT_FOUND, 300),
        (UNLEARNABLE, 300),
    ],
)
def test_what_contradicts_a_confirmed_outcome_never_leaves_unanswered(outcome, answer, gives_up_s):
    """Otherwise a lie with a captured signature had only to come while the vendor's API is throttled."""
    inquiry = make_inquiry("confirm", event=make_held(outcome), attempt=9, confirmed={"succeeded"})
    just_before = ask(inquiry, answer, now=NOW + timedelta(seconds=gives_up_s - 1))
    assert (just_before.decision, just_before.finding.release) == ("again", None)
    judgement = ask(inquiry, answer, now=NOW + timedelta(seconds=gives_up_s))
    assert (judgement.decision, judgement.finding.release, judgement.finding.receipt) == ("contradicted", None, None)
    assert judgement.finding.conflict is not None
    assert judgement.finding.conflict.startswith(
        f"the message says {outcome}, the vendor's job API has said succeeded before: the vendor"
    )
    # The vendor's word settles it, as a job may have been run again.
    if outcome == "failed":
        assert ask(inquiry, ended("failed")).decision == "confirmed"


@pytest.mark.parametrize("reason", ["expected", "confirm", "enrich"])
def test_a_result_that_the_vendor_can_not_tell_just_now_is_asked_for_a_few_times(reason):
    event = None if reason == "expected" else make_held()
    answer = replace(ended(), lacks_result=True)
    for attempt in range(1, RESULT_ATTEMPTS):
        judgement = ask(make_inquiry(reason, event=event, attempt=attempt), answer)
        assert (judgement.decision, judgement.finding.release, judgement.finding.receipt) == ("again", None, None)
    last = make_inquiry(reason, event=event, attempt=RESULT_ATTEMPTS)
    assert ask(last, answer).decision in ("ended", "confirmed", "enriched")
    if event is not None:
        late = ask(make_inquiry(reason, event=event), answer, now=NOW + timedelta(seconds=300))
        assert late.decision in ("confirmed", "enriched")


def test_a_notice_is_not_asked_about_until_it_leaves():
    held = make_held("received")
    judgement = ask(make_inquiry("confirm", event=held), UNLEARNABLE)
    assert judgement.finding.ask_again_at == NOW + timedelta(seconds=300)
    assert ask(make_inquiry("confirm", event=held), UNLEARNABLE, now=NOW + timedelta(seconds=300)).finding.release


# Assets


@pytest.mark.parametrize(
    ("claims", "answer", "expected"),
    [
        ({"url": "http://evil.example.com/1.jpg"}, ended(), make_output(URL)),
        ({"url": URL}, ended("failed"), make_output(URL)),
        ({"url": URL, "media_id": "media-9"}, ended(), make_output(URL)),
    ],
)
@pytest.mark.parametrize("verified_by", ["signature", "none"])
def test_what_the_vendor_says_of_an_asset_wins_and_proves_nothing(verified_by, claims, answer, expected):
    """That a file is there does not say that it was uploaded just now, or again."""
    held = make_held(verified_by=verified_by, **claims)
    family = Family(kind="upload", needs_media_id=True, is_of_asset=True)
    judgement = ask(make_inquiry("confirm", event=held), answer, family=family)
    released = judgement.finding.release
    assert released is not None
    assert (judgement.decision, judgement.finding.conflict, judgement.finding.receipt) == ("unconfirmed", None, None)
    assert (released.id, released.time, released.data.outputs) == (held.id, held.time, expected)
    assert released.data.verified_by == released.data.outcome_verified_by == verified_by


# Filling in


def test_missing_outputs_are_filled_in():
    for claims, proof in (({}, "query"), ({"user_data": "order 7"}, "signature")):
        judgement = ask(make_inquiry("enrich", event=make_held(**claims)), ended())
        assert judgement.decision == "enriched"
        assert judgement.finding.release is not None
        assert judgement.finding.release.data.outputs == make_output(URL)
        assert judgement.finding.release.data.verified_by == proof


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


# Traces


BEGUN, ANSWERED = (f"00-{trace:032x}-{trace:016x}-01" for trace in (1, 2))


def test_an_event_that_the_vendor_tells_of_begins_a_trace_and_one_that_was_held_goes_on_with_its_own():
    asked = {"family": SNAPSHOT, "source": SOURCE, "now": NOW, "jitter": 0.5, "patience": PATIENCE}
    told = conclude(make_inquiry(), ended(), route=lambda _: ("orders",), traceparent=ANSWERED, **asked)  # type: ignore[arg-type]
    receipt = told.finding.receipt
    assert receipt is not None
    assert (receipt.meta["traceparent"], only_event(told).traceparent) == (ANSWERED, ANSWERED)
    for verified_by in ("none", "signature"):
        held = make_held(verified_by=verified_by).model_copy(update={"traceparent": BEGUN})
        inquiry = make_inquiry("confirm", event=held)
        confirmed = conclude(inquiry, ended(), route=lambda _: (), traceparent=ANSWERED, **asked)  # type: ignore[arg-type]
        assert confirmed.finding.release is not None
        assert confirmed.decision == "confirmed"
        assert confirmed.finding.release.traceparent == BEGUN
