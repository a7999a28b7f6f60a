import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from media_callbacks.config.sinks import MAX_SINK_TIMEOUT_S
from media_callbacks.delivery import dispatcher as dispatcher_module
from media_callbacks.delivery.dispatcher import (
    LEASE_MARGIN_S,
    MAX_AHEAD,
    MAX_WAIT_CLAIMED_S,
    SEND_GRACE_S,
    Destination,
)
from media_callbacks.inbox.records import AttemptResult, SeenTrouble
from media_callbacks.model.errors import SinkError, SinkGone, SinkRejected, SinkRetry
from media_callbacks.model.events import Delivery
from media_callbacks.timing.retry import DELAYS_S
from tests.factories.delivering import FakeTime, Observer, ScriptedSink, WatchedInbox, make_dispatcher, put_jobs, until
from tests.inbox.conformance import NOW, backlog, make_event, make_receipt


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[WatchedInbox]:
    inbox = WatchedInbox(tmp_path / "inbox.db")
    await inbox.open()
    yield inbox
    await inbox.close()


@pytest.fixture
def time(inbox: WatchedInbox) -> FakeTime:
    return FakeTime(inbox)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


# Delivering


async def test_what_waits_and_what_comes_is_delivered_to_each_sink(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 3, sinks=("a", "b"))
    a, b, observer = ScriptedSink("a"), ScriptedSink("b", batch_size=10), Observer()
    dispatcher = make_dispatcher(inbox, a, b, observer=observer)
    dispatcher.start()
    await put_jobs(inbox, 60, sinks=("a", "b", "no longer configured"))
    await inbox.until_ended("a", 60)
    await inbox.until_ended("b", 60)
    await dispatcher.stop()
    for sink in (a, b):
        assert len({delivery.event_id for delivery in sink.sent}) == len(sink.sent) == 60
        assert not sink.is_open
    assert sorted(observer.results) == [("a", "delivered")] * 60 + [("b", "delivered")] * 60
    assert dispatcher.breaker_states() == {"a": "closed", "b": "closed"}


async def test_what_waited_too_long_under_its_lease_is_given_back_and_claimed_anew(
    inbox: WatchedInbox, time: FakeTime
) -> None:
    await put_jobs(inbox, 400)
    sink = ScriptedSink(concurrency=4)

    async def answer(_: Delivery) -> None:
        await asyncio.sleep(0)
        if len(sink.sent) == 200:
            time.now += timedelta(seconds=2)

    sink.answer = answer
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 400)
    await dispatcher.stop()
    assert len(sink.sent) == 400
    given_back = [result for results in inbox.records for result in results if result.state == "pending"]
    assert given_back
    assert all(result.started_at is None for result in given_back)


async def test_deliveries_go_in_the_order_of_their_events(inbox: WatchedInbox) -> None:
    for n in range(60):
        await inbox.put(make_receipt(make_event(f"job-{n}"), at=NOW + timedelta(milliseconds=n - 100)))
    sink = ScriptedSink(batch_size=10, concurrency=1, answer=lambda _: asyncio.sleep(0))
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await inbox.until_ended("a", 60)
    await dispatcher.stop()
    assert [delivery.event_id for delivery in sink.sent] == [make_event(f"job-{n}").id for n in range(60)]


async def test_only_a_fixed_number_is_in_memory_and_at_work_whatever_waits(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 2000)
    sink = ScriptedSink(batch_size=5, concurrency=3, answer=lambda _: asyncio.sleep(0))
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await inbox.until_ended("a", 2000)
    await dispatcher.stop()
    assert sink.most_in_flight <= 15
    assert inbox.most_held["a"] <= 15 + MAX_AHEAD


async def test_what_is_in_memory_is_bounded_in_bytes(inbox: WatchedInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_HELD_BYTES", 50_000)
    for n in range(40):
        await inbox.put(make_receipt(make_event(f"job-{n}", user_data="x" * 10_000)))
    sink = ScriptedSink(batch_size=5, concurrency=3, answer=lambda _: asyncio.sleep(0))
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await inbox.until_ended("a", 40)
    await dispatcher.stop()
    assert inbox.most_held["a"] <= 5, "the last one may be larger than what is left"
    assert [delivery.event_id for delivery in sink.sent] == [make_event(f"job-{n}").id for n in range(40)]


async def test_a_fast_sink_is_fed_with_few_claims_and_records(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 2000)
    sink = ScriptedSink(concurrency=32, answer=lambda _: asyncio.sleep(0))
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await inbox.until_ended("a", 2000)
    await dispatcher.stop()
    assert len(inbox.claims["a"]) < 2000 / 40
    assert len(inbox.records) < 2000 / 10


async def test_a_slow_sink_has_nothing_claimed_ahead_and_no_place_idle(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 20)
    hang: dict[str, asyncio.Event] = {}

    async def answer(delivery: Delivery) -> None:
        hang[delivery.event_id] = asyncio.Event()
        started.release()
        await hang[delivery.event_id].wait()

    started = asyncio.Semaphore(0)
    sink = ScriptedSink(answer=answer, concurrency=4)
    dispatcher = make_dispatcher(inbox, sink, stop_timeout_s=0.0)
    dispatcher.start()
    for _ in range(4):
        await started.acquire()
    assert inbox.held["a"] == 4
    hang[sink.sent[2].event_id].set()
    await started.acquire()
    assert len(sink.sent) == 5, "the place of the one that ended is taken at once"
    await dispatcher.stop()


@pytest.mark.parametrize("behaviour", ["hangs", "fails", "is overloaded", "is gone", "raises"])
async def test_a_sink_in_trouble_changes_nothing_for_another(inbox: WatchedInbox, behaviour: str) -> None:
    await put_jobs(inbox, 400, sinks=("ill", "well"))
    forever = asyncio.Event()
    answers: dict[str, Any] = {
        "hangs": lambda _: forever.wait(),
        "fails": lambda _: SinkRetry("answered 500"),
        "is overloaded": lambda _: SinkRetry("answered 429", retry_after_s=3600, is_overload=True),
        "is gone": lambda _: SinkGone("answered 410"),
        "raises": lambda _: 1 // 0,
    }
    ill, well = ScriptedSink("ill", answers[behaviour]), ScriptedSink("well")
    dispatcher = make_dispatcher(inbox, ill, well, stop_timeout_s=0.0)
    dispatcher.start()
    await inbox.until_ended("well", 400)
    await dispatcher.stop()
    assert len(ill.sent) <= 10 + ill.concurrency
    waiting = await backlog(inbox)
    assert sum(waiting.values()) == 400
    assert {sink for sink, _ in waiting} == {"ill"}, "nothing is lost"


# Schedule


async def test_attempts_follow_the_schedule_and_end_dead(
    inbox: WatchedInbox, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_callbacks.delivery.dispatcher.POLL_S", 3600.0)
    sink = ScriptedSink(answer=lambda _: SinkRetry("answered 500"))
    await put_jobs(inbox, 1)
    observer = Observer()
    dispatcher = make_dispatcher(inbox, sink, time=time, observer=observer)
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()
    record = await inbox.find_event(make_event("job-0").id)
    assert record is not None
    (delivery,) = record.deliveries
    assert delivery.state == "dead"
    assert [attempt.number for attempt in delivery.history] == list(range(1, 13))
    assert [attempt.result for attempt in delivery.history] == ["retrying"] * 11 + ["dead"]
    gaps = [
        (later.started_at - earlier.started_at).total_seconds()
        for earlier, later in itertools.pairwise(delivery.history)
    ]
    for gap, delay_s in zip(gaps, DELAYS_S, strict=True):
        # The eleventh and twelfth wait for the breaker's probe, too, which is due earlier.
        assert delay_s * 0.8 - 0.01 <= gap <= delay_s * 1.2 + 0.1
    assert observer.results == [("a", "retrying")] * 11 + [("a", "dead")]


async def test_each_destination_has_a_schedule_of_its_own(inbox: WatchedInbox) -> None:
    time = FakeTime(inbox, waiting=2)
    await put_jobs(inbox, 1, sinks=("a", "b"))
    a, b = (ScriptedSink(name, answer=lambda _: SinkRetry("answered 500")) for name in "ab")
    dispatcher = make_dispatcher(inbox, Destination(a, delays_s=(1.0, 1.0)), Destination(b, delays_s=()), time=time)
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await inbox.until_ended("b", 1)
    await dispatcher.stop()
    assert (len(a.sent), len(b.sent)) == (3, 1)
    assert 1.6 <= (time.now - NOW).total_seconds() <= 2.5


async def test_retry_after_is_waited_for(inbox: WatchedInbox, time: FakeTime) -> None:
    attempted_at = []

    def ask_for_an_hour(_: Delivery) -> SinkError | None:
        attempted_at.append(time.now)
        return SinkRetry("answered 503", retry_after_s=3600) if len(attempted_at) == 1 else None

    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, ScriptedSink(answer=ask_for_an_hour), time=time)
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()
    assert 3600 <= (attempted_at[1] - attempted_at[0]).total_seconds() < 3601


async def test_what_can_never_work_is_dead_at_once_and_releases_the_next_outcome(inbox: WatchedInbox) -> None:
    failed, succeeded = make_event(outcome="failed"), make_event()
    await inbox.put(make_receipt(failed))
    await inbox.put(make_receipt(succeeded))
    sink = ScriptedSink(answer=lambda d: SinkRejected("too large") if d.event_id == failed.id else None)
    observer = Observer()
    dispatcher = make_dispatcher(inbox, sink, observer=observer)
    dispatcher.start()
    await inbox.until_ended("a", 2)
    await dispatcher.stop()
    assert [delivery.event_id for delivery in sink.sent] == [failed.id, succeeded.id]
    assert observer.results == [("a", "dead"), ("a", "delivered")]


async def test_partial_failure_of_a_batch_retries_only_what_failed(inbox: WatchedInbox, time: FakeTime) -> None:
    await put_jobs(inbox, 10)
    refused = make_event("job-3").id
    sink = ScriptedSink(
        batch_size=10, answer=lambda d: SinkRetry("throttled") if d.event_id == refused and d.attempt == 1 else None
    )
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 10)
    await dispatcher.stop()
    assert len(sink.sent) == 11
    assert sink.sent[-1].event_id == refused


# The breaker


async def test_operational_events_that_die_are_counted_for_nobody(inbox: WatchedInbox) -> None:
    observer, sink = Observer(), ScriptedSink(answer=lambda _: SinkRejected("no"))
    await put_jobs(inbox, 2)
    trouble = SeenTrouble(trouble="sink_disabled", subject="b")
    await inbox.note_troubles([trouble], instance="host-1", route=lambda _: ("a",))
    dispatcher = make_dispatcher(inbox, sink, observer=observer)
    dispatcher.start()
    await until(lambda: len(observer.results) == 3)
    await dispatcher.stop()
    assert set(observer.results) == {("a", "dead")}
    assert dispatcher.count_died() == {"a": 2}


async def test_a_dead_endpoint_costs_one_probe_per_interval(inbox: WatchedInbox, time: FakeTime) -> None:
    await put_jobs(inbox, 1000)
    attempted_at: list[float] = []
    seen: set[str] = set()
    sink = ScriptedSink(concurrency=8)

    def fail_for_an_hour(_: Delivery) -> SinkError | None:
        at = (time.now - NOW).total_seconds()
        attempted_at.append(at)
        seen.add(dispatcher.breaker_states()["a"])
        return SinkRetry("no connection") if at < 3600 else None

    sink.answer = fail_for_an_hour
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 1000)
    await dispatcher.stop()
    assert 10 <= attempted_at.count(0.0) <= 10 + sink.concurrency
    probes = [at for at in attempted_at if 0 < at < 3600]
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *probes])]
    assert gaps == pytest.approx([30, 60, 120, 240, *[300] * 10])
    first_good = next(at for at in attempted_at if at >= 3600)
    assert first_good - probes[-1] == pytest.approx(300)
    # What is not in its own time of waiting goes at once.
    assert sum(at == first_good for at in attempted_at) >= 1000 - 18 - len(probes)
    assert "half_open" in seen
    assert dispatcher.breaker_states() == {"a": "closed"}


async def test_while_it_is_open_a_thousand_new_events_make_no_attempt(inbox: WatchedInbox) -> None:
    sink = ScriptedSink(answer=lambda _: SinkRetry("no connection"), concurrency=1)
    await put_jobs(inbox, 10)
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await until(lambda: dispatcher.breaker_states() == {"a": "open"})
    await put_jobs(inbox, 1000)
    await dispatcher.stop()
    assert len(sink.sent) == 10
    assert inbox.held["a"] == 0


async def test_what_was_claimed_when_it_opens_is_given_back_uncounted(inbox: WatchedInbox, time: FakeTime) -> None:
    await put_jobs(inbox, 600)
    fails = False
    sink = ScriptedSink(concurrency=4)

    async def answer(_: Delivery) -> SinkError | None:
        nonlocal fails
        fails = fails or len(sink.sent) > 300
        await asyncio.sleep(0)
        return SinkRetry("no connection") if fails and time.now == NOW else None

    sink.answer = answer
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 600)
    await dispatcher.stop()
    given_back = [r for results in inbox.records for r in results if r.state == "pending"]
    assert given_back
    assert all(result.started_at is None for result in given_back)
    assert len(sink.sent) <= 600 + 10 + sink.concurrency
    assert max(delivery.attempt for delivery in sink.sent) == 2


async def test_a_probe_that_is_refused_for_its_own_sake_does_not_keep_the_others_waiting(
    inbox: WatchedInbox, time: FakeTime
) -> None:
    await put_jobs(inbox, 20)
    sink = ScriptedSink(concurrency=1)

    def answer(delivery: Delivery) -> SinkError | None:
        if len(sink.sent) <= 10:
            return SinkRetry("no connection")
        return SinkRejected("too large") if len(sink.sent) <= 15 else None

    sink.answer = answer
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 15)
    assert (time.now - NOW).total_seconds() == pytest.approx(30)
    await inbox.until_ended("a", 20)
    await dispatcher.stop()


async def test_a_batch_that_fails_as_a_whole_is_one_failure(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 100)
    sink = ScriptedSink(answer=lambda _: SinkRetry("no connection"), batch_size=20, concurrency=1)
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await until(lambda: len(sink.sent) == 100 and not inbox.held["a"])
    assert dispatcher.breaker_states() == {"a": "closed"}
    await dispatcher.stop()


# Rate and overload


async def test_a_rate_is_kept_to_and_used(inbox: WatchedInbox, time: FakeTime) -> None:
    await put_jobs(inbox, 300)
    sent_at: list[float] = []
    sink = ScriptedSink(answer=lambda _: sent_at.append(time.now.timestamp()), concurrency=32)
    dispatcher = make_dispatcher(inbox, Destination(sink, rate_per_s=50.0), time=time)
    dispatcher.start()
    await inbox.until_ended("a", 300)
    await dispatcher.stop()
    assert max(sum(at <= other < at + 1 for other in sent_at) for at in sent_at) <= 56
    assert 5.5 <= sent_at[-1] - sent_at[0] <= 6.5


async def test_an_overload_makes_the_sink_wait_and_then_begin_with_less_at_once(
    inbox: WatchedInbox, time: FakeTime
) -> None:
    await put_jobs(inbox, 200)
    sink = ScriptedSink(concurrency=32)
    counts: Counter[float] = Counter()
    most: dict[float, int] = {}

    async def answer(_: Delivery) -> SinkError | None:
        at = (time.now - NOW).total_seconds()
        counts[at] += 1
        is_refused = at == 0 and counts[at] <= 8
        await asyncio.sleep(0)
        most.setdefault(at, sink.in_flight)
        if is_refused:
            return SinkRetry("answered 429", retry_after_s=20, is_overload=True)
        return None

    sink.answer = answer
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 200)
    await dispatcher.stop()
    first, second = sorted(counts)[:2]
    assert first == 0
    assert counts[first] <= 32
    assert second == pytest.approx(20)
    assert most[first] == 32
    assert most[second] < 20


async def test_whatever_is_asked_for_a_sink_waits_five_minutes_at_most(inbox: WatchedInbox, time: FakeTime) -> None:
    await put_jobs(inbox, 2)
    sent_at: list[float] = []

    def answer(_: Delivery) -> SinkError | None:
        sent_at.append((time.now - NOW).total_seconds())
        return SinkRetry("answered 429", retry_after_s=7200, is_overload=True) if len(sent_at) == 1 else None

    dispatcher = make_dispatcher(inbox, ScriptedSink(answer=answer, concurrency=1), time=time)
    dispatcher.start()
    await inbox.until_ended("a", 2)
    await dispatcher.stop()
    assert sent_at == pytest.approx([0, 300, 7200], abs=0.1)


# Disabled and paused


async def test_a_sink_that_is_gone_is_disabled_until_an_operator_resumes_it(
    inbox: WatchedInbox, time: FakeTime
) -> None:
    await put_jobs(inbox, 50)
    is_gone = True
    inbox.to_fail["set_sink_state"] = 1
    sink = ScriptedSink(answer=lambda _: SinkGone("answered HTTP 410") if is_gone else None, concurrency=2)
    dispatcher = make_dispatcher(inbox, sink, time=time)
    with structlog.testing.capture_logs() as logs:
        dispatcher.start()
        await until(lambda: [entry for entry in logs if entry["event"] == "sink_disabled"])
        await time.pass_(2 * 3600)
    assert len(sink.sent) <= 4
    (disabled,) = [entry for entry in logs if entry["event"] == "sink_disabled"]
    assert disabled["log_level"] == "error"
    (record,) = await inbox.list_sinks()
    assert (record.state, record.reason, record.changed_by) == ("disabled", "answered HTTP 410", "media-callbacks")
    assert record.deliveries == {"parked": 50}
    is_gone = False
    before = time.now
    await inbox.set_sink_state("a", "active", reason=None, changed_by="me", now=time.now)
    await inbox.until_ended("a", 50)
    assert time.now - before < timedelta(seconds=1), "resuming wakes the dispatcher"
    await dispatcher.stop()


# Trouble with the inbox, with sinks, and the end


async def test_a_sink_that_raises_is_tried_again(inbox: WatchedInbox) -> None:
    def explode(_: Delivery) -> None:
        raise ZeroDivisionError

    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, Destination(ScriptedSink(answer=explode), delays_s=()))
    with structlog.testing.capture_logs() as logs:
        dispatcher.start()
        await inbox.until_ended("a", 1)
        await dispatcher.stop()
    assert [entry for entry in logs if entry["event"] == "sink_failed"]
    assert [entry["error"] for entry in logs if entry["event"] == "attempt"] == ["the sink failed: ZeroDivisionError"]


@pytest.mark.parametrize("answer", [[], [None, None], [True], ["no"], None])
async def test_a_sink_that_answers_what_it_should_not_is_tried_again(inbox: WatchedInbox, answer: Any) -> None:
    class Odd(ScriptedSink):
        async def send(self, deliveries: Any) -> Any:
            return answer

    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, Destination(Odd(), delays_s=()))
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()
    assert await backlog(inbox) == {("a", "dead"): 1}


async def test_a_sink_that_never_ends_is_cut_off_within_its_lease(inbox: WatchedInbox, monkeypatch: Any) -> None:
    monkeypatch.setattr("media_callbacks.delivery.dispatcher.SEND_GRACE_S", 0.0)
    await put_jobs(inbox, 1)
    forever = asyncio.Event()
    sink = ScriptedSink(answer=lambda _: forever.wait(), timeout_s=0.02)
    observer = Observer()
    dispatcher = make_dispatcher(inbox, Destination(sink, delays_s=()), observer=observer)
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()
    assert observer.results == [("a", "dead")]


async def test_a_sink_that_opens_and_closes_badly_keeps_no_other_from_closing(inbox: WatchedInbox) -> None:
    class Bad(ScriptedSink):
        async def open(self) -> None:
            self.is_open = True
            raise OSError("no")

        async def close(self) -> None:
            raise OSError("no")

    await put_jobs(inbox, 1)
    bad, good = Bad("a"), ScriptedSink("b")
    dispatcher = make_dispatcher(inbox, bad, good)
    with structlog.testing.capture_logs() as logs:
        dispatcher.start()
        await inbox.until_ended("a", 1)
        await dispatcher.stop()
    assert not good.is_open
    assert {entry["event"] for entry in logs} == {"sink_not_opened", "attempt", "sink_not_closed"}


@pytest.mark.parametrize("method", ["claim", "due_in_s", "record"])
async def test_an_inbox_that_is_away_is_asked_again_and_no_result_is_lost(inbox: WatchedInbox, method: str) -> None:
    time = FakeTime(inbox, waiting=2 if method == "record" else 1)
    inbox.to_fail[method] = 2
    await put_jobs(inbox, 1)
    sink = ScriptedSink()
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 1)
    await dispatcher.stop()
    assert len(sink.sent) == 1


def test_a_lease_outlasts_every_attempt_and_ends_within_half_a_minute() -> None:
    assert MAX_WAIT_CLAIMED_S + SEND_GRACE_S < LEASE_MARGIN_S
    assert MAX_SINK_TIMEOUT_S + LEASE_MARGIN_S <= 30


async def test_while_nothing_can_be_recorded_nothing_is_sent_again(inbox: WatchedInbox) -> None:
    """As on a full disk, on which a lease can be written and the end of an attempt can't."""
    time, observer = FakeTime(inbox, waiting=2), Observer()
    sink = ScriptedSink(timeout_s=10.0)
    inbox.to_fail["record"] = 100
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, sink, time=time, observer=observer)
    dispatcher.start()
    await until(lambda: len(observer.results) == 1)
    await dispatcher.stop()
    assert (time.now - NOW).total_seconds() > 3 * (10 + LEASE_MARGIN_S)
    assert (len(sink.sent), observer.results) == (1, [("a", "delivered")])


async def test_what_waits_is_given_back_while_nothing_can_be_recorded(inbox: WatchedInbox) -> None:
    """Another instance may be able to record it."""
    time = FakeTime(inbox, waiting=2)
    await put_jobs(inbox, 400)
    sink = ScriptedSink(concurrency=1)
    meanwhile = 0

    async def answer(_: Delivery) -> None:
        nonlocal meanwhile
        await asyncio.sleep(0)
        if len(sink.sent) == 100:
            inbox.to_fail["record"] = 3
        if len(sink.sent) == 102:
            # Now two have ended that can't be recorded.
            await until(lambda: inbox.to_fail["record"] < 3)
        meanwhile += 0 < inbox.to_fail["record"] < 3

    sink.answer = answer
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await inbox.until_ended("a", 400)
    await dispatcher.stop()
    assert meanwhile == 1


async def test_what_another_instance_has_claimed_meanwhile_is_recorded_late(inbox: WatchedInbox) -> None:
    time, observer = FakeTime(inbox, waiting=2), Observer()
    sink = ScriptedSink(timeout_s=10.0)
    inbox.to_fail["record"] = 1000
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, sink, time=time, observer=observer)
    dispatcher.start()
    await until(lambda: (time.now - NOW).total_seconds() > 10 + LEASE_MARGIN_S)
    (other,) = await inbox.claim("a", limit=1, max_bytes=1000, lease_s=60.0)
    inbox.to_fail["record"] = 0
    await until(lambda: len(observer.results) == 1)
    await dispatcher.stop()
    assert observer.results == [("a", "late")]
    assert await inbox.record([AttemptResult(other, "delivered", started_at=time.now)]) == [True]
    record = await inbox.find_event(other.event_id)
    assert record is not None
    (delivery,) = record.deliveries
    assert (delivery.state, [one.result for one in delivery.history]) == ("delivered", ["late", "delivered"])


async def test_what_could_not_be_recorded_until_the_stop_is_told_of(inbox: WatchedInbox) -> None:
    observer = Observer()
    inbox.to_fail["record"] = 1000
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, ScriptedSink(), observer=observer)
    with structlog.testing.capture_logs() as logs:
        dispatcher.start()
        await until(lambda: inbox.to_fail["record"] < 1000)
        await dispatcher.stop()
    assert observer.results == [("a", "unrecorded")]
    assert [entry["result"] for entry in logs if entry["event"] == "attempt"] == ["unrecorded"]


async def test_an_operator_has_one_tried_at_once_and_then_all_the_others(inbox: WatchedInbox) -> None:
    time = FakeTime(inbox)
    is_well = False
    sink = ScriptedSink(answer=lambda _: None if is_well else SinkRetry("503", retry_after_s=3600), concurrency=8)
    await put_jobs(inbox, 20)
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    await until(lambda: dispatcher.breaker_states()["a"] == "open" and not inbox.held["a"])
    is_well, before = True, time.now
    time.begun()
    assert await inbox.retry_sink("a") > 0
    time.ended()
    await inbox.until_ended("a", 20)
    assert dispatcher.breaker_states() == {"a": "closed"}
    await dispatcher.stop()
    assert (time.now - before).total_seconds() < 30, "before the next probe"


async def test_an_operator_who_is_wrong_costs_one_event_one_attempt(inbox: WatchedInbox) -> None:
    time = FakeTime(inbox)
    sink = ScriptedSink(answer=lambda _: SinkRetry("503", retry_after_s=3600), concurrency=8)
    await put_jobs(inbox, 20)
    dispatcher = make_dispatcher(inbox, sink, time=time)
    dispatcher.start()
    for _ in range(3):
        await until(lambda: dispatcher.breaker_states()["a"] == "open" and not inbox.held["a"])
        before = len(sink.sent)
        time.begun()
        assert await inbox.retry_sink("a") > 0
        time.ended()
        await until(lambda: len(sink.sent) > before)  # noqa: B023 - it is over before the next one
        await until(lambda: dispatcher.breaker_states()["a"] == "open" and not inbox.held["a"])
        assert len(sink.sent) == before + 1
    await dispatcher.stop()


async def test_stop_lets_attempts_in_flight_finish_and_claims_nothing_more(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 10)
    started, finish = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        started.set()
        await finish.wait()

    sink = ScriptedSink(answer=lambda _: hold(), concurrency=2)
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await started.wait()
    stopping = asyncio.ensure_future(dispatcher.stop())
    await asyncio.sleep(0)
    finish.set()
    await stopping
    await dispatcher.stop()
    assert inbox.ended == {"a": len(sink.sent)}
    assert len(sink.sent) <= 2
    assert await backlog(inbox) == {("a", "pending"): 10 - len(sink.sent)}


async def test_stop_cuts_short_what_takes_too_long_and_gives_it_back_as_interrupted(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 10)
    started, forever = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        await forever.wait()

    sink = ScriptedSink(answer=lambda _: hang(), concurrency=2)
    dispatcher = make_dispatcher(inbox, sink, stop_timeout_s=0.0)
    dispatcher.start()
    await started.wait()
    await dispatcher.stop()
    assert await backlog(inbox) == {("a", "pending"): 10}, "still due"
    assert len(await inbox.claim("a", limit=100, now=NOW, lease_s=1)) == 10, "and the leases were given back"
    record = await inbox.find_event(sink.sent[0].event_id)
    assert record is not None
    (attempt,) = record.deliveries[0].history
    assert (attempt.number, attempt.result, attempt.started_at) == (1, "interrupted", NOW)


async def test_stop_ends_although_the_inbox_is_away(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 1)
    started, forever = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        await forever.wait()

    dispatcher = make_dispatcher(inbox, ScriptedSink(answer=lambda _: hang()), stop_timeout_s=0.0)
    dispatcher.start()
    await started.wait()
    inbox.to_fail["record"] = 1000
    await dispatcher.stop()
    assert inbox.to_fail["record"] == 999


async def test_a_dispatcher_that_was_never_started_stops(inbox: WatchedInbox) -> None:
    await make_dispatcher(inbox, ScriptedSink()).stop()


async def test_every_attempt_is_one_log_line(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, ScriptedSink())
    with structlog.testing.capture_logs() as logs:
        dispatcher.start()
        await inbox.until_ended("a", 1)
        await dispatcher.stop()
    (line,) = logs
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "attempt",
        "log_level": "info",
        "sink": "a",
        "event_id": make_event("job-0").id,
        "attempt": 1,
        "result": "delivered",
    }


# While a claim is under way


async def test_a_probe_whose_claim_took_too_long_is_followed_by_another(
    inbox: WatchedInbox, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_jobs(inbox, 20)
    sink = ScriptedSink(answer=lambda _: None if time.now > NOW else SinkRetry("no connection"), concurrency=1)
    dispatcher = make_dispatcher(inbox, sink, time=time)
    claim, was_slow = inbox.claim, False

    async def claim_slowly(*arguments: Any, **more: Any) -> Any:
        nonlocal was_slow
        found = await claim(*arguments, **more)
        if found and not was_slow and dispatcher.breaker_states() == {"a": "open"}:
            was_slow = True
            time.now += timedelta(seconds=MAX_WAIT_CLAIMED_S + 1)
        return found

    monkeypatch.setattr(inbox, "claim", claim_slowly)
    dispatcher.start()
    await inbox.until_ended("a", 20)
    await dispatcher.stop()
    assert was_slow


async def test_nothing_is_sent_that_was_claimed_while_the_sink_asked_for_a_pause(
    inbox: WatchedInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_answer = asyncio.Event()

    async def answer(_: Delivery) -> SinkError:
        await may_answer.wait()
        return SinkRetry("answered 429", retry_after_s=3600, is_overload=True)

    sink = ScriptedSink(answer=answer)
    claim = inbox.claim

    async def claim_and_see(*arguments: Any, **more: Any) -> Any:
        found = await claim(*arguments, **more)
        if found and sink.sent:
            may_answer.set()
            await until(lambda: not sink.in_flight)
        return found

    monkeypatch.setattr(inbox, "claim", claim_and_see)
    await put_jobs(inbox, 1)
    dispatcher = make_dispatcher(inbox, sink)
    dispatcher.start()
    await until(lambda: sink.in_flight)
    await inbox.put(make_receipt(make_event("later")))
    await until(lambda: may_answer.is_set() and not inbox.held["a"])
    await dispatcher.stop()
    assert len(sink.sent) == 1


async def test_an_overloaded_sink_has_fewer_at_once_as_soon_as_those_under_way_have_ended(inbox: WatchedInbox) -> None:
    await put_jobs(inbox, 40)
    hang: dict[str, asyncio.Future[SinkError | None]] = {}

    async def answer(delivery: Delivery) -> SinkError | None:
        hang[delivery.event_id] = asyncio.get_running_loop().create_future()
        return await hang[delivery.event_id]

    sink = ScriptedSink(answer=answer, concurrency=8)
    dispatcher = make_dispatcher(inbox, sink, stop_timeout_s=0.0)
    dispatcher.start()
    await until(lambda: sink.in_flight == 8)
    first, *others = hang.values()
    first.set_result(SinkRetry("answered 429", is_overload=True))
    await until(lambda: inbox.held["a"] > 8)
    for other in others[:3]:
        other.set_result(None)
    await inbox.until_ended("a", 3)
    assert (sink.in_flight, len(sink.sent)) == (4, 8)
    await dispatcher.stop()


async def test_a_sink_whose_memory_is_full_is_not_claimed_for(
    inbox: WatchedInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_HELD_BYTES", 50_000)
    for n in range(40):
        await inbox.put(make_receipt(make_event(f"job-{n}", user_data="x" * 10_000)))
    sink = ScriptedSink(answer=lambda _: asyncio.Event().wait(), concurrency=20)
    dispatcher = make_dispatcher(inbox, sink, stop_timeout_s=0.0)
    dispatcher.start()
    await until(lambda: sum(len(delivery.body) for delivery in sink.sent) >= 50_000)
    claims = len(inbox.claims["a"])
    await put_jobs(inbox, 3)
    assert len(inbox.claims["a"]) == claims
    await dispatcher.stop()
