"""What waits to be committed is bounded, stays in order, and is answered."""

import asyncio
import gc
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.inbox.pending import Handover, Pending, PendingQueue
from media_callbacks.model.errors import InboxUnavailable

MAX_RECEIPTS, MAX_BYTES = 4, 100


@dataclass(slots=True)
class Modelled:
    """One that was added: its number and size, its future, and what it is to come to."""

    number: int
    size_bytes: int | None
    future: "asyncio.Future[Any]"
    result: Any = None


class Model:
    """A queue, and what it must say: three lists through which each goes."""

    def __init__(self) -> None:
        self.queue: PendingQueue[int] = PendingQueue("the test", max_receipts=MAX_RECEIPTS, max_bytes=MAX_BYTES)
        self.waiting: list[Modelled] = []
        self.taken: list[tuple[Pending[int], Modelled]] = []
        self.answered: list[Modelled] = []
        self._count = 0

    def sizes(self) -> list[int]:
        unanswered = [*self.waiting, *(one for _, one in self.taken)]
        return [one.size_bytes for one in unanswered if one.size_bytes is not None]

    def do(self, step: str, number: int) -> None:
        getattr(self, f"_{step}")(number)
        assert [one.item for one in self.queue] == [one.number for one in self.waiting]
        assert len(self.queue) == len(self.waiting)
        assert (self.queue.receipts, self.queue.size_bytes) == (len(self.sizes()), sum(self.sizes()))
        assert self.queue.receipts <= MAX_RECEIPTS
        assert self.queue.size_bytes <= MAX_BYTES
        for one in (*self.waiting, *(one for _, one in self.taken)):
            assert not one.future.done() or one.future.cancelled()

    def _add(self, size_bytes: int) -> None:
        count, size = len(self.sizes()), sum(self.sizes())
        self._count += 1
        if count < MAX_RECEIPTS and size + size_bytes <= MAX_BYTES:
            self.waiting.append(Modelled(self._count, size_bytes, self.queue.add(self._count, size_bytes)))
        else:
            with pytest.raises(InboxUnavailable, match=f"^{count} receipts of {size} bytes are waiting for the test,"):
                self.queue.add(self._count, size_bytes)

    def _add_work(self, _: int) -> None:
        self._count += 1
        self.waiting.append(Modelled(self._count, None, self.queue.add(self._count, None)))

    def _ask(self, _: int) -> None:
        if len(self.sizes()) < MAX_RECEIPTS:
            self.queue.raise_if_full()
        else:
            with pytest.raises(InboxUnavailable, match=f"^{MAX_RECEIPTS} receipts are waiting for the test"):
                self.queue.raise_if_full()

    def _take(self, count: int) -> None:
        self._take_some(count)

    def _take_all(self, _: int) -> None:
        self._take_some(None)

    def _take_some(self, count: int | None) -> None:
        expected = self.waiting[:count]
        del self.waiting[:count]
        taken = self.queue.take(count)
        assert [one.item for one in taken] == [one.number for one in expected]
        self.taken += zip(taken, expected, strict=True)

    def _answer(self, count: int) -> None:
        self._answer_some(count, is_error=False)

    def _fail(self, count: int) -> None:
        self._answer_some(count, is_error=True)

    def _answer_some(self, count: int, *, is_error: bool) -> None:
        some, self.taken = self.taken[:count], self.taken[count:]
        for _, one in some:
            one.result = InboxUnavailable(str(one.number)) if is_error else one.number
            self.answered.append(one)
        self.queue.answer([(pending, one.result) for pending, one in some])

    def _leave(self, number: int) -> None:
        """Somebody waits no more."""
        unanswered = [*self.waiting, *(one for _, one in self.taken)]
        if unanswered:
            unanswered[number % len(unanswered)].future.cancel()

    def end(self) -> None:
        self.do("take_all", 0)
        self.do("fail", len(self.taken))
        assert self.queue.receipts == self.queue.size_bytes == 0
        for one in self.answered:
            if not one.future.cancelled():
                assert (one.future.exception() or one.future.result()) is one.result


_STEPS = st.sampled_from(["add", "add", "add", "add_work", "ask", "take", "take_all", "answer", "fail", "leave"])


# Counts and sizes
_NUMBERS = st.sampled_from([0, 1, 2, 3, 40, MAX_BYTES, MAX_BYTES + 1])


@given(st.lists(st.tuples(_STEPS, _NUMBERS), min_size=5, max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_sequence_equals_the_model(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        model = Model()
        for step in steps:
            model.do(*step)
        model.end()

    asyncio.run(run())


async def test_one_that_is_gone_takes_room_until_it_is_committed() -> None:
    queue: PendingQueue[str] = PendingQueue("the test", max_receipts=1)
    queue.add("a", 1).cancel()
    (taken,) = queue.take()
    with pytest.raises(InboxUnavailable):
        queue.add("b", 1)
    queue.answer([(taken, None)])
    queue.add("b", 1)


async def test_an_error_that_nobody_waits_for_is_nothing_to_complain_of() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    queue: PendingQueue[str] = PendingQueue("the test")
    queue.add("a", 1)
    queue.answer([(one, InboxUnavailable("gone")) for one in queue.take()])
    gc.collect()
    assert complaints == []


def test_what_is_given_to_another_thread_gets_there_in_order_and_then_the_end() -> None:
    handover: Handover[int] = Handover()
    taken: list[int] = []

    def take() -> None:
        while (some := handover.take()) is not None:
            taken.extend(some)

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(1000):
        handover.give([2 * number, 2 * number + 1])
    handover.end()
    thread.join()
    assert taken == list(range(2000))


def test_what_has_gathered_is_taken_at_once_and_the_end_apart_from_it() -> None:
    handover: Handover[int] = Handover()
    handover.give([1, 2])
    handover.give([3])
    handover.end()
    assert handover.take() == [1, 2, 3]
    assert handover.take() is None
