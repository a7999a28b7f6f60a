"""
The poller over a queue that is scripted, in a time that passes when everybody waits, and once over the fake cloud.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
import structlog

from media_callbacks.aliyun.mns import ReceivedMessage
from media_callbacks.healing.queue_poller import EXTENSION_S, QueuePoller
from media_callbacks.model.errors import InboxUnavailable, VendorError, VendorRefused, VendorUnavailable
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.sources.intake import build_receipt
from media_callbacks.sources.products import mts
from media_callbacks.sources.transports.mns_queue import MnsQueueSource
from tests.factories.fake_queues import QUEUE, client_of, serving_queues
from tests.factories.running import PATIENCE_S
from tests.inbox.conformance import NOW

SOURCE = MnsQueueSource(name="mts-queue", product="mts", account="123", parser=mts.parse)
NO_MESSAGES: list[ReceivedMessage] = []


class Time:
    """Moves when somebody waits. Every wait is remembered."""

    def __init__(self) -> None:
        self.now = NOW
        self.waits: list[float] = []

    def clock(self) -> datetime:
        return self.now

    def timer(self) -> float:
        return self.now.timestamp()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        # A turn for everybody else, so that what can happen now happens before time moves.
        for _ in range(5):
            await asyncio.sleep(0)
        if not event.is_set():
            self.waits.append(timeout_s)
            self.now += timedelta(seconds=timeout_s)


Step = VendorError | Exception | Sequence[ReceivedMessage] | Callable[[], Sequence[ReceivedMessage]]


class ScriptedQueue:
    """Answers polls from a list; then the long poll lasts until it is cancelled, and ``idle`` is set."""

    def __init__(self, time: Time, *steps: Step) -> None:
        self.time = time
        self.steps = list(steps)
        self.limits: list[int] = []
        self.deleted: list[str] = []
        self.delete_steps: list[Any] = []
        self.extended: list[tuple[str, int, datetime]] = []
        self.extend_steps: list[VendorError] = []
        self.idle = asyncio.Event()

    async def receive(self, limit: int, wait_s: int) -> Sequence[ReceivedMessage]:
        self.limits.append(limit)
        if not self.steps:
            self.idle.set()
            await asyncio.Event().wait()
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step

    def waited(self, seconds: float) -> Callable[[], Sequence[ReceivedMessage]]:
        """An empty answer after so long."""

        def answer() -> Sequence[ReceivedMessage]:
            self.time.now += timedelta(seconds=seconds)
            return NO_MESSAGES

        return answer

    async def delete(self, handles: Sequence[str]) -> Sequence[str]:
        step = self.delete_steps.pop(0) if self.delete_steps else []
        if isinstance(step, Exception):
            raise step
        self.deleted += [handle for handle in handles if handle not in step]
        return step

    async def change_visibility(self, handle: str, visibility_s: int) -> tuple[str, datetime]:
        if self.extend_steps:
            raise self.extend_steps.pop(0)
        self.extended.append((handle, visibility_s, self.time.now))
        return f"{handle}+", self.time.now + timedelta(seconds=visibility_s)


class ScriptedInbox:
    """Keeps receipts, unless ``answer`` says otherwise."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.answer: Callable[[Receipt], Awaitable[Verdict]] | None = None

    async def put(self, receipt: Receipt) -> Verdict:
        verdict = Verdict("accepted") if self.answer is None else await self.answer(receipt)
        is_known = any(receipt.body == known.body for known in self.receipts)
        self.receipts.append(receipt)
        return replace(verdict, state="duplicate") if is_known else verdict


class Scene:
    def __init__(self, *steps: Step) -> None:
        self.time = Time()
        self.queue = ScriptedQueue(self.time, *steps)
        self.inbox = ScriptedInbox()
        self.polls: list[str] = []
        self.reports: list[tuple[Receipt, Verdict, float]] = []
        self.logs: list[Any] = []

    def poller(self, **options: Any) -> QueuePoller:
        return QueuePoller(
            SOURCE,
            options.pop("queue", self.queue),
            self.inbox,
            build=lambda message, at: build_receipt(SOURCE, message, received_at=at, route=lambda _: ()),
            report=options.pop("report", lambda *report: self.reports.append(report)),
            observe=self.polls.append,
            clock=self.time.clock,
            rng=Random(1),
            timer=self.time.timer,
            wait=self.time.wait,
            **options,
        )

    async def run(self, **options: Any) -> None:
        """Until the script is over."""
        with structlog.testing.capture_logs() as self.logs:
            poller = self.poller(**options)
            poller.start()
            async with asyncio.timeout(PATIENCE_S):
                await self.queue.idle.wait()
                await poller.stop(PATIENCE_S)

    def events(self) -> list[str]:
        return [line["event"] for line in self.logs]


def queued(number: int, body: bytes | None = None, *, visible_s: float = 30) -> ReceivedMessage:
    job = {"type": "Transcode", "jobId": f"J{number}", "state": "Success"}
    return ReceivedMessage(
        id=f"M{number}",
        handle=f"H{number}",
        body=json.dumps(job).encode() if body is None else body,
        body_md5=None,
        enqueued_at=NOW,
        next_visible_at=NOW + timedelta(seconds=visible_s),
        dequeue_count=1,
    )


THROTTLED = VendorUnavailable("too many", is_throttled=True)
AWAY = VendorUnavailable("away")
GONE = VendorRefused("no such queue: create it", code="QueueNotExist", status=404)


async def test_messages_are_kept_then_deleted_and_reported():
    scene = Scene([queued(1), queued(2)], [queued(3)])
    await scene.run()
    assert scene.queue.limits == [16, 16, 16]
    assert scene.queue.deleted == ["H1", "H2", "H3"]
    assert [receipt.entries[0].event.subject for receipt in scene.inbox.receipts] == ["J1", "J2", "J3"]
    receipt, verdict, duration_s = scene.reports[0]
    assert (receipt.transport, receipt.verified_by, verdict.state, duration_s) == ("mns-queue", "queue", "accepted", 0)
    assert scene.polls == ["messages", "messages"]
    assert scene.time.waits == []
    assert scene.logs == []


async def test_nothing_is_deleted_before_it_is_durable_and_all_of_a_batch_is_put_at_once():
    scene = Scene([queued(1), queued(2)])
    durable = asyncio.Event()
    put: list[Receipt] = []
    both = asyncio.Event()

    async def slow(receipt: Receipt) -> Verdict:
        put.append(receipt)
        if len(put) == 2:
            both.set()
        await durable.wait()
        assert scene.queue.deleted == []
        return Verdict("accepted", is_journaled=True)

    scene.inbox.answer = slow
    poller = scene.poller()

    async def held_wait(event: asyncio.Event, timeout_s: float) -> None:
        await event.wait()

    poller._wait = held_wait
    poller.start()
    await both.wait()
    durable.set()
    await scene.queue.idle.wait()
    await poller.stop(PATIENCE_S)
    assert scene.queue.deleted == ["H1", "H2"]


async def test_what_cannot_be_read_is_kept_with_the_reason_and_deleted():
    scene = Scene([queued(1, b"\xff\xfe"), queued(2, b"<html>"), queued(3)])
    await scene.run()
    assert scene.queue.deleted == ["H1", "H2", "H3"]
    reasons = [receipt.reason for receipt in scene.inbox.receipts]
    assert reasons[0] is not None and reasons[1] is not None and reasons[2] is None  # noqa: PT018
    assert scene.inbox.receipts[0].body == b"\xff\xfe"


async def test_a_crash_between_keeping_and_deleting_makes_a_duplicate():
    """The process ends with the message kept and not deleted; the next one gets it again."""
    scene = Scene([queued(1)])

    async def crashes(handles: Sequence[str]) -> Sequence[str]:
        scene.queue.idle.set()
        await asyncio.Event().wait()
        raise AssertionError

    delete, scene.queue.delete = scene.queue.delete, crashes  # type: ignore[method-assign]
    poller = scene.poller()
    poller.start()
    await scene.queue.idle.wait()
    await poller.stop(0)
    assert len(scene.inbox.receipts) == 1
    assert scene.queue.deleted == []
    scene.queue.delete = delete  # type: ignore[method-assign]
    scene.queue.idle.clear()
    scene.queue.steps = [[replace(queued(1), handle="H1 again", dequeue_count=2)]]
    await scene.run()
    assert [verdict.state for _, verdict, _ in scene.reports] == ["accepted", "duplicate"]
    assert scene.queue.deleted == ["H1 again"]


async def test_messages_stay_invisible_while_the_inbox_is_slow():
    scene = Scene([queued(1, visible_s=30), queued(2, visible_s=30)])
    done_at = NOW + timedelta(seconds=200)

    async def slow(receipt: Receipt) -> Verdict:
        if b"J1" in receipt.body:
            while scene.time.now < done_at:  # noqa: ASYNC110 - time itself is what is waited for
                await asyncio.sleep(0)
        return Verdict("accepted")

    scene.inbox.answer = slow
    await scene.run()
    visible_until = NOW + timedelta(seconds=30)
    for number, (handle, visibility_s, at) in enumerate(scene.queue.extended):
        assert handle == "H1" + "+" * number
        assert at < visible_until
        visible_until = at + timedelta(seconds=visibility_s)
        assert visibility_s == EXTENSION_S
    assert visible_until > scene.time.now >= done_at
    assert sorted(scene.queue.deleted) == ["H1" + "+" * len(scene.queue.extended), "H2"]


async def test_an_extension_that_fails_for_now_is_tried_again_and_one_that_cannot_work_is_not():
    scene = Scene([queued(1)])
    scene.queue.extend_steps = [AWAY, VendorRefused("void", code="MessageNotExist", status=404)]

    async def slow(receipt: Receipt) -> Verdict:
        while scene.queue.extend_steps:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        return Verdict("accepted")

    scene.inbox.answer = slow
    await scene.run()
    assert scene.queue.extended == []
    assert scene.queue.deleted == ["H1"]
    assert scene.events().count("queue_message_not_extended") == 2


async def test_an_extension_under_way_ends_before_the_message_is_deleted():
    """Its old handle is void as soon as the vendor has got the request."""
    scene = Scene([queued(1)])
    extending, extended = asyncio.Event(), asyncio.Event()

    async def slow_change(handle: str, visibility_s: int) -> tuple[str, datetime]:
        extending.set()
        await extended.wait()
        return "H1 new", NOW + timedelta(hours=1)

    async def slow(receipt: Receipt) -> Verdict:
        await extending.wait()
        asyncio.get_running_loop().call_later(0.01, extended.set)
        return Verdict("accepted")

    scene.queue.change_visibility = slow_change  # type: ignore[method-assign]
    scene.inbox.answer = slow
    await scene.run()
    assert scene.queue.deleted == ["H1 new"]


async def test_an_inbox_that_is_away_leaves_messages_in_the_queue():
    scene = Scene(*[[queued(1), queued(2)]] * 4, [queued(3)])
    refusals = iter([True, False] + [True, True] * 3)

    async def away(receipt: Receipt) -> Verdict:
        if next(refusals, False):
            raise InboxUnavailable("the store is away")
        return Verdict("accepted")

    scene.inbox.answer = away
    await scene.run()
    assert scene.queue.deleted == ["H2", "H3"]
    assert len(scene.time.waits) == 4
    assert scene.time.waits[-1] > scene.time.waits[0] >= 0.5
    assert scene.events() == ["queue_messages_not_kept"] * 4
    assert scene.logs[0]["messages"] == 1


async def test_a_bug_costs_one_message_and_not_the_poller():
    scene = Scene([queued(1), queued(2)], [queued(3)])
    fail = iter([True])

    async def broken(receipt: Receipt) -> Verdict:
        if next(fail, False):
            raise RuntimeError(receipt.body)
        return Verdict("accepted")

    scene.inbox.answer = broken
    await scene.run()
    assert scene.queue.deleted == ["H2", "H3"]
    assert scene.logs[0]["error"] == "RuntimeError"

    def report(*_: Any) -> None:
        raise RuntimeError

    scene = Scene([queued(1)], RuntimeError("secret body"), NO_MESSAGES)
    await scene.run(report=report)
    assert scene.events() == ["queue_batch_failed", "queue_unavailable", "queue_recovered"]
    assert "secret" not in str(scene.logs)


async def test_an_empty_queue_is_polled_again_at_once_after_a_wait_and_slower_without_one():
    scene = Scene()
    scene.queue.steps = [scene.queue.waited(30), scene.queue.waited(29.9), *[scene.queue.waited(0.02)] * 8]
    await scene.run()
    assert scene.polls == ["empty"] * 10
    assert len(scene.time.waits) == 8
    assert 0.5 <= scene.time.waits[0] <= 1
    assert 15 <= scene.time.waits[-1] <= 30
    assert scene.logs == []


async def test_without_long_polls_every_empty_answer_is_followed_by_a_pause():
    scene = Scene(NO_MESSAGES, NO_MESSAGES)
    await scene.run(long_poll_s=0)
    assert len(scene.time.waits) == 2


@pytest.mark.parametrize(
    "error, result, level, first_s, longest_s",
    [
        (THROTTLED, "throttled", "warning", 1, 60),
        (AWAY, "unavailable", "warning", 1, 60),
        (GONE, "refused", "error", 5, 300),
    ],
)
async def test_trouble_is_logged_once_and_waited_for_ever_longer(error, result, level, first_s, longest_s):
    scene = Scene(*[error] * 20, [queued(1)], error)
    await scene.run()
    assert scene.polls == [result] * 20 + ["messages", result]
    waits = scene.time.waits
    assert first_s / 2 <= waits[0] <= first_s
    assert longest_s / 2 <= waits[19] <= longest_s
    assert max(waits) <= longest_s
    assert waits[20] <= first_s
    assert scene.events() == [f"queue_{result}", "queue_recovered", f"queue_{result}"]
    assert scene.logs[0] == {"event": f"queue_{result}", "log_level": level, "source": "mts-queue", "error": str(error)}
    assert scene.queue.deleted == ["H1"]


async def test_what_a_queue_refuses_is_told_until_it_lets_us_in_again():
    scene, told = Scene(), []

    def look() -> Sequence[ReceivedMessage]:
        told.append(poller.refusal)
        return NO_MESSAGES

    scene.queue.steps = [AWAY, look, GONE, look, look]
    poller = scene.poller()
    poller.start()
    async with asyncio.timeout(PATIENCE_S):
        await scene.queue.idle.wait()
        await poller.stop(PATIENCE_S)
    assert told == [None, str(GONE), None]


async def test_the_vendors_wish_is_respected_within_bounds():
    scene = Scene(
        VendorUnavailable("later", retry_after_s=90), VendorUnavailable("much later", retry_after_s=1e6), AWAY
    )
    await scene.run()
    assert scene.time.waits[:2] == [90, 300]


async def test_after_trouble_a_single_message_is_asked_for():
    """Of sixteen messages, one may be what makes the reply unreadable."""
    scene = Scene(AWAY, [queued(1)], THROTTLED)
    await scene.run()
    assert scene.queue.limits == [16, 1, 16, 16]


async def test_deleting_is_tried_again_for_what_is_left_and_given_up_with_a_line():
    scene = Scene([queued(1), queued(2)], [queued(3)], [queued(4)])
    scene.queue.delete_steps = [["H2"], AWAY, [], AWAY, AWAY, AWAY, GONE]
    await scene.run()
    assert scene.queue.deleted == ["H1", "H2"]
    assert scene.events() == ["queue_messages_not_deleted"] * 2
    assert [line["error"] for line in scene.logs] == [str(AWAY), str(GONE)]
    assert all(wait <= 2 for wait in scene.time.waits)


async def test_several_pollers_poll_at_the_same_time():
    scene = Scene()
    poller = scene.poller(pollers=3)
    poller.start()
    while len(scene.queue.limits) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    # None of them waits for the end of its poll.
    async with asyncio.timeout(PATIENCE_S):
        await poller.stop(10 * PATIENCE_S)
    assert scene.queue.limits == [16] * 3


async def test_stopping_finishes_what_was_received_and_receives_nothing_more():
    scene = Scene([queued(1)], [queued(2)])
    received, durable = asyncio.Event(), asyncio.Event()

    async def slow(receipt: Receipt) -> Verdict:
        received.set()
        await durable.wait()
        return Verdict("accepted")

    async def held_wait(event: asyncio.Event, timeout_s: float) -> None:
        await event.wait()

    scene.inbox.answer = slow
    poller = scene.poller()
    poller._wait = held_wait
    poller.start()
    await received.wait()
    stopping = asyncio.create_task(poller.stop(5))
    await asyncio.sleep(0)
    durable.set()
    await stopping
    assert scene.queue.deleted == ["H1"]
    assert len(scene.queue.steps) == 1


async def test_stopping_does_not_wait_for_ever():
    scene = Scene([queued(1)])
    received = asyncio.Event()

    async def stuck(receipt: Receipt) -> Verdict:
        received.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def held_wait(event: asyncio.Event, timeout_s: float) -> None:
        await event.wait()

    scene.inbox.answer = stuck
    poller = scene.poller()
    poller._wait = held_wait
    poller.start()
    await received.wait()
    await poller.stop(0.01)
    assert scene.queue.deleted == []
    await poller.stop(0.01)
    await scene.poller().stop(1)


async def test_a_pause_ends_when_the_service_stops():
    scene = Scene(GONE)
    poller = scene.poller()
    pausing = asyncio.Event()

    async def held_wait(event: asyncio.Event, timeout_s: float) -> None:
        pausing.set()
        await event.wait()

    poller._wait = held_wait
    with structlog.testing.capture_logs():
        poller.start()
        await pausing.wait()
        await poller.stop(PATIENCE_S)
    assert scene.queue.limits == [16]


async def test_over_a_real_socket():
    """Client, signatures, long poll and all: a stop cancels the poll that waits for thirty seconds."""
    scene = Scene()
    async with serving_queues() as (queues, url), client_of(url) as client:
        three = asyncio.Event()

        def report(*report: Any) -> None:
            scene.reports.append(report)
            if len(scene.reports) == 3:
                three.set()

        poller = scene.poller(queue=client, report=report, pollers=2)
        queues.send(QUEUE, queued(1).body.decode())
        poller.start()
        queues.send(QUEUE, "poison")
        queues.send(QUEUE, queued(2).body.decode())
        async with asyncio.timeout(PATIENCE_S):
            await three.wait()
            while queues.depth(QUEUE) or not queues._queues[QUEUE].waiting:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await poller.stop(PATIENCE_S)
    assert sorted(receipt.body for receipt, _, _ in scene.reports) == sorted(
        [queued(1).body, b"poison", queued(2).body]
    )
