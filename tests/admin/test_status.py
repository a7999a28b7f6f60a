"""Whether it is well: what is wrong, since when, why, and what to do; and what came in and went out of late."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.admin.models.answers import SinkItem, SourceItem
from media_callbacks.admin.status import add_noted, judge_jobs, judge_sink, judge_source, judge_unparsed
from media_callbacks.inbox.records import (
    ReceiptRecord,
    SeenTrouble,
    SourceNews,
    StoreSpace,
    TroubleRecord,
    WaitingCounts,
)
from media_callbacks.model.errors import InboxUnavailable, Unusable
from media_callbacks.model.jobs import ExpectedJob, JobReference
from media_callbacks.model.times import format_time
from tests.factories.operators import NOW, Operators, operating
from tests.inbox.conformance import deliver, make_receipt

HOUR = timedelta(hours=1)


@pytest.fixture
async def operators(tmp_path: Path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as operators:
        operators.breakers = {}
        yield operators


def sink(**changes: Any) -> SinkItem:
    plain = {
        "name": "orders",
        "kind": "webhook",
        "is_configured": True,
        "state": "active",
        "breaker": "closed",
        "reason": None,
        "changed_by": None,
        "changed_at": None,
        "deliveries": {},
        "backlog": 0,
        "oldest_pending_at": None,
        "oldest_pending_age_s": None,
    }
    return SinkItem.model_validate(plain | changes)


def source(state: str, text: str) -> SourceItem:
    plain = {"name": "vod", "product": "vod", "transport": "http", "configured_at": NOW, "received_at": None}
    return SourceItem.model_validate(plain | {"state": state, "text": text, "refused_at": None, "refused_since": 0})


GIVEN_UP = {"deliveries": {"dead": 1}, "breaker": "closed", "first_given_up_at": NOW, "last_given_up_at": NOW}


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({}, None, []),
        ({"backlog": 5, "oldest_pending_age_s": 60.0}, None, []),
        ({"backlog": 5, "oldest_pending_age_s": 901.0}, "HTTP 503", [(True, "5 events wait; it said: HTTP 503")]),
        (
            {"backlog": 5, "deliveries": {"pending": 3, "retrying": 2}},
            "HTTP 503",
            [(False, "2 events were not taken yet; it said: HTTP 503")],
        ),
        (
            {"backlog": 1, "deliveries": {"retrying": 1}, "next_attempt_at": NOW + HOUR},
            "HTTP 503",
            [(False, "1 event was not taken yet; it said: HTTP 503; next attempt 2026-11-21T05:00:00Z")],
        ),
        (
            {"deliveries": {"dead": 2}, "first_given_up_at": NOW, "last_given_up_at": NOW + HOUR},
            "gone",
            [(True, "2 events were given up; it said: gone; the last 2026-11-21T05:00:00Z")],
        ),
        (
            {"breaker": "open", "backlog": 1},
            "HTTP 503",
            [(True, "left alone, because it does not take events; it said: HTTP 503; 1 event waits")],
        ),
        (
            {"state": "disabled", "reason": "answered HTTP 410"},
            None,
            [(True, "disabled itself: answered HTTP 410; 0 events wait")],
        ),
        (
            {"state": "paused", "changed_by": "kim", "reason": "x", "backlog": 2},
            None,
            [(False, "paused by kim: x; 2 events wait")],
        ),
        ({"deliveries": {"dead": 1}}, None, [(True, "1 event was given up")]),
        ({"deliveries": {"dead": 2}}, "gone", [(True, "2 events were given up; it said: gone")]),
        (
            GIVEN_UP | {"last_taken_at": NOW + HOUR},
            "gone",
            [(True, "1 event was given up; it said: gone; it takes events again")],
        ),
        (
            GIVEN_UP | {"last_taken_at": NOW - HOUR},
            "gone",
            [(True, "1 event was given up; it said: gone")],
        ),
        (
            {"is_configured": False, "kind": None, "breaker": None, "backlog": 3},
            None,
            [(False, "not configured any more, and 3 events are left")],
        ),
    ],
)
def test_a_sink(changes, error, told):
    assert [(trouble.is_wrong, trouble.text) for trouble in judge_sink(sink(**changes, last_error=error))] == told


@pytest.mark.parametrize(
    ("state", "is_wrong"),
    [
        ("receiving", None),
        ("new", None),
        ("quiet", False),
        ("quiet_since_change", False),
        ("refusing", True),
        ("silent", True),
    ],
)
def test_a_source(state, is_wrong):
    found = list(judge_source(source(state, "what it is; what to do; and more")))
    if is_wrong is None:
        assert not found
    else:
        ((trouble),) = found
        assert (trouble.is_wrong, trouble.text, trouble.todo) == (is_wrong, "what it is", "what to do; and more")


def test_jobs_that_wait():
    def judge(overdue: int, held: int, held_since: timedelta, unknown: int) -> list[tuple[str, bool]]:
        waiting = WaitingCounts(
            jobs={("vod", "overdue"): overdue, ("vod", "expected"): 7},
            held={"vod": held},
            oldest_held_at=NOW - held_since,
            first_deadlines={"vod": NOW},
        )
        return [(trouble.what, trouble.is_wrong) for trouble in judge_jobs(waiting, unknown, NOW)]

    assert judge(0, 5, timedelta(minutes=1), 0) == []
    assert judge(1, 5, timedelta(minutes=31), 2) == [("jobs", False), ("jobs", False), ("held", True)]
    assert judge(101, 0, HOUR, 0) == [("jobs", True)]


@pytest.mark.parametrize(
    "count, told", [(0, []), (1, ["1 callback "]), (499, ["499 callbacks "]), (500, ["500 or more callbacks "])]
)
def test_callbacks_that_were_not_read_are_counted_as_far_as_was_asked(count: int, told: list[str]):
    receipt = ReceiptRecord(1, NOW, "vod", "vod", "http", "signature", "unparsed", "broken", (), ())
    assert [trouble.text.partition("of the last day")[0] for trouble in judge_unparsed([receipt] * count)] == told


async def test_it_is_well(operators: Operators):
    status = await operators.get("/v1/status")
    assert (status["is_well"], status["text"], status["troubles"]) == (True, "All is well.", [])
    assert [sink["name"] for sink in status["sinks"]] == ["orders", "bus"]


async def test_what_deserves_a_look_is_not_called_well(operators: Operators):
    await operators.put("job-1", sinks=("orders", "bus"))
    await operators.attempt("orders", "retrying", error="answered HTTP 503")
    await operators.post("/v1/sinks/bus/pause", {})
    status = await operators.get("/v1/status")
    assert (status["is_well"], status["text"]) == (True, "Nothing is wrong; look at: sink orders, sink bus.")
    assert status["troubles"][0]["todo"].endswith("media-callbacks sinks retry orders")


async def test_what_is_wrong_comes_first_with_what_was_answered(operators: Operators):
    await operators.put("job-1", sinks=("bus",))
    await operators.attempt("bus", "dead", error="answered HTTP 418")
    await operators.post("/v1/sinks/orders/pause", {"requested_by": "kim"})
    reference = JobReference(product="vod", account="default", family="transcode", job_id="job-2")
    await operators.inbox.expect([ExpectedJob(reference=reference, deadline=timedelta(minutes=1))])
    operators.now += HOUR
    status = await operators.get("/v1/status")
    assert (status["is_well"], status["text"]) == (False, "Wrong: sink bus. Look at: sink orders, jobs.")
    assert [(one["what"], one["name"], one["is_wrong"]) for one in status["troubles"]] == [
        ("sink", "bus", True),
        ("sink", "orders", False),
        ("jobs", None, False),
    ]
    assert status["troubles"][0]["text"] == "1 event was given up; it said: answered HTTP 418"
    assert status["troubles"][0]["since"] == "2026-11-21T04:00:00Z", "when it was given up"
    assert status["troubles"][0]["todo"].endswith("events replay --state dead --sink bus --dry-run")
    assert status["troubles"][2]["since"] == "2026-11-21T04:01:00Z"
    assert (status["expected"], status["overdue"], status["unknown"]) == (0, 1, 0)


async def test_a_disk_that_is_full_or_low_is_said(operators: Operators, monkeypatch: pytest.MonkeyPatch):
    async def fail() -> None:
        raise InboxUnavailable("no space left")

    async def measure() -> StoreSpace:
        return StoreSpace(size_bytes=10**10, free_bytes=5 * 10**8)

    monkeypatch.setattr(operators.inbox, "check", fail)
    monkeypatch.setattr(operators.inbox, "measure", measure)
    status = await operators.get("/v1/status")
    texts = [one["text"] for one in status["troubles"]]
    assert texts == ["can't be written: no space left", "0.5 GB are left on its disk"]


async def test_a_database_that_is_another_one_by_now_is_said(operators: Operators, monkeypatch: pytest.MonkeyPatch):
    async def fail() -> None:
        raise Unusable(["store.auto_migrate: migrations are missing (jobs); run `media-callbacks migrate`"])

    monkeypatch.setattr(operators.inbox, "check", fail)
    (trouble,) = (await operators.get("/v1/status"))["troubles"]
    assert trouble["text"].startswith("can't be used: store.auto_migrate: migrations are missing (jobs)")
    assert trouble["is_wrong"]


async def test_tables_without_room_for_partitions_are_said(operators: Operators, monkeypatch: pytest.MonkeyPatch):
    async def measure() -> StoreSpace:
        return StoreSpace(size_bytes=10**10, free_bytes=None, crowded=("receipts",))

    monkeypatch.setattr(operators.inbox, "measure", measure)
    (trouble,) = (await operators.get("/v1/status"))["troubles"]
    assert trouble["text"].startswith("no partitions are made for receipts, of which too much is in none")
    assert (trouble["what"], trouble["is_wrong"]) == ("store", False)


async def test_what_could_not_be_read_of_late_is_said(operators: Operators):
    for number, at in enumerate((NOW - 30 * HOUR, NOW - HOUR, NOW)):
        body = f"<html>{number}</html>".encode()
        await operators.inbox.put(make_receipt(body=body, reason="expected JSON", at=at))
    status = await operators.get("/v1/status")
    (trouble,) = status["troubles"]
    assert status["text"] == "Nothing is wrong; look at: receipts."
    assert trouble["text"] == "2 callbacks of the last day could not be read; kept, and no event was made of them"
    assert trouble["since"] == format_time(NOW - HOUR)


async def test_a_queue_that_lets_nothing_be_fetched_is_said(operators: Operators):
    operators.refusing_queues["fetched"] = "ReceiveMessage on queue media was answered HTTP 404 QueueNotExist"
    status = await operators.get("/v1/status")
    (trouble,) = status["troubles"]
    assert (status["text"], trouble["todo"]) == ("Wrong: source fetched.", "see what to do: media-callbacks check")
    assert trouble["text"] == f"nothing can be fetched: {operators.refusing_queues['fetched']}"


def test_what_is_noted_says_since_when_and_what_only_others_see():
    def noted(trouble: Any, subject: str, *, count: int = 0, told: bool = True) -> TroubleRecord:
        return TroubleRecord(trouble, subject, NOW - HOUR, NOW, NOW if told else None, count, "5 s" if count else None)

    records = [
        noted("deliveries_dead", "orders", count=3),
        noted("deliveries_dead", "bus", count=1),
        noted("sink_failing", "bus"),
        noted("sink_failing", "orders", told=False),
        noted("clock_off", "host-2"),
        noted("certificate_changed", "media-callbacks", count=2),
    ]
    here = list(judge_sink(sink(deliveries={"dead": 3})))
    found = {(one.trouble, one.name): one for one in add_noted(here, records)}
    # What died at the bus was sent again since.
    assert list(found) == [
        ("deliveries_dead", "orders"),
        ("sink_failing", "bus"),
        ("clock_off", "host-2"),
        ("certificate_changed", "media-callbacks"),
    ]
    assert {one.since for one in found.values()} == {NOW - HOUR}
    assert [one.is_wrong for one in found.values()] == [True, True, True, False]
    assert found["clock_off", "host-2"].todo == "see MediaCallbacksClockOff in docs/runbook.md"
    assert found["certificate_changed", "media-callbacks"].text.endswith("under its name; 5 s; 2 so far")


async def test_troubles_that_instances_have_noted_are_shown(operators: Operators):
    trouble = SeenTrouble(trouble="journal_set_aside", subject="host-2", detail="1 receipts")
    await operators.inbox.note_troubles([trouble], instance="host-2", route=lambda _: ())
    status = await operators.get("/v1/status")
    assert status["text"] == "Wrong: host host-2."
    (one,) = status["troubles"]
    assert (one["trouble"], one["since"]) == ("journal_set_aside", "2026-11-21T04:00:00Z")


async def test_what_came_and_went_is_counted_by_the_minute(operators: Operators):
    news = [SourceNews("vod", 3, 1)]
    for after_s in (0, 30, 60, 86400 + 7200):
        operators.now = NOW + timedelta(seconds=after_s)
        await operators.inbox.note_activity(news, [("received", "vod", 3), ("delivered", "orders", 2)])
        if after_s == 60:
            activity = await operators.get("/v1/activity")
            assert [(one["at"][11:16], one["what"], one["name"], one["count"]) for one in activity["counts"]] == [
                ("04:00", "delivered", "orders", 4),
                ("04:00", "received", "vod", 6),
                ("04:01", "delivered", "orders", 2),
                ("04:01", "received", "vod", 3),
            ]
    activity = await operators.get("/v1/activity")
    # What is over a day ago is gone.
    assert len(activity["counts"]) == 2


async def test_how_long_it_took_is_told_by_a_sample(operators: Operators):
    references = [
        JobReference(product="vod", account="default", family="animated_image", job_id=f"job-{n}") for n in (1, 2)
    ]
    await operators.inbox.expect([ExpectedJob(reference=one, deadline=HOUR) for one in references])
    operators.now += timedelta(seconds=40)
    await operators.put("job-1", at=operators.now)
    await deliver(operators.inbox, "orders", now=operators.now + timedelta(seconds=2))
    operators.now += timedelta(minutes=1)
    activity = await operators.get("/v1/activity")
    assert (len(activity["hour"]), len(activity["day"])) == (12, 24)
    for spans in (activity["hour"], activity["day"]):
        measured = [(one["callback_s"], one["delivery_s"]) for one in spans if one["callback_s"] is not None]
        assert measured == [(40.0, 2.0)]
