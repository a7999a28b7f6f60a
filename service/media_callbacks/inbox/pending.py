"""What waits to be committed, with whoever waits for that: one queue for both databases and the journal."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from media_callbacks.model.errors import InboxUnavailable

# How many receipts may wait, and how much memory they may take, where nothing else is said.
MAX_RECEIPTS = 10_000
MAX_BYTES = 64 * 2**20
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Pending(Generic[_T]):
    """
    Something that waits.

    Attributes:
        size_bytes: What it counts for; None for what is no receipt, which is not counted.
        needs_flush: Whether who waits is told only when it is on disk.
        future: What came of it, for who waits. He may be gone.
    """

    item: _T
    size_bytes: int | None
    needs_flush: bool
    future: "asyncio.Future[Any]"


Answered = tuple[Pending[_T], Any]
"""With what came of it: a result, or the error to raise."""


class PendingQueue(Generic[_T]):
    """
    A queue of receipts, and of what else is to be committed in the same order. Only for one event loop.

    Receipts are bounded, by their number and by the memory that they take: beyond either, one more is refused at once,
    so that who sends it can come again, and nothing that was taken is dropped for it. Other work is not bounded; it
    comes from ourselves.

    The life of each: ``add`` puts it at the end; ``take`` hands it to whoever commits; ``answer`` tells who waits. It
    counts until it is answered, so also while it is being committed. Who waits may be gone before: what he has brought
    is committed all the same, and counts as long. The queue itself drops nothing and knows no time: whoever has taken
    something answers it, with an error where it can't be committed; and who closes, or finds that nothing can be
    committed any more, refuses what is new before it is added, and takes and answers the rest.

    Args:
        awaited: What the receipts wait for, for messages.
    """

    def __init__(self, awaited: str, *, max_receipts: int = MAX_RECEIPTS, max_bytes: int = MAX_BYTES) -> None:
        self._awaited = awaited
        self._max_receipts = max_receipts
        self._max_bytes = max_bytes
        self._waiting: deque[Pending[_T]] = deque()
        # Those that were taken included.
        self.receipts = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        """How much was not taken yet, receipts and other work."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Pending[_T]]:
        """What was not taken yet, in order."""
        return iter(self._waiting)

    def add(self, item: _T, size_bytes: int | None, *, needs_flush: bool = True) -> "asyncio.Future[Any]":
        """
        Args:
            size_bytes: What a receipt takes in memory; None for other work.
            needs_flush: See ``Pending``.

        Raises:
            InboxUnavailable: There is no room. It was not added.
        """
        if size_bytes is not None:
            if self.receipts >= self._max_receipts or self.size_bytes + size_bytes > self._max_bytes:
                raise InboxUnavailable(
                    f"{self.receipts} receipts of {self.size_bytes} bytes are waiting for {self._awaited}, which is the"
                    " limit"
                )
            self.receipts += 1
            self.size_bytes += size_bytes
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(Pending(item, size_bytes, needs_flush, future))
        return future

    def raise_if_full(self) -> None:
        """
        Raises:
            InboxUnavailable: So many receipts wait that no further one is taken, however small it is.
        """
        if self.receipts >= self._max_receipts:
            raise InboxUnavailable(f"{self.receipts} receipts are waiting for {self._awaited}, which is the limit")

    def take(self, count: int | None = None) -> list[Pending[_T]]:
        """The first ones; without a count all. Who takes them answers them."""
        if count is None or count >= len(self._waiting):
            taken = list(self._waiting)
            self._waiting.clear()
            return taken
        return [self._waiting.popleft() for _ in range(count)]

    def answer(self, answered: Iterable[Answered[_T]]) -> None:
        """Tell what became of what was taken, each once."""
        for one, result in answered:
            if one.size_bytes is not None:
                self.receipts -= 1
                self.size_bytes -= one.size_bytes
            if one.future.done():
                continue
            if isinstance(result, BaseException):
                one.future.set_exception(result)
                # Whoever waited may be gone; that is no reason for a warning of the event loop.
                one.future.exception()
            else:
                one.future.set_result(result)


class Handover(Generic[_T]):
    """From one thread to another, in order, until the end."""

    def __init__(self) -> None:
        # Ends with None.
        self._batches: SimpleQueue[list[_T] | None] = SimpleQueue()

    def give(self, batch: list[_T]) -> None:
        """The list is the other thread's from now on."""
        self._batches.put(batch)

    def end(self) -> None:
        """Nothing is given any more."""
        self._batches.put(None)

    def take(self, within_s: float | None = None) -> list[_T] | None:
        """All that was given, once there is anything, or nothing when the time is over; None at the end."""
        try:
            taken = self._batches.get(timeout=within_s)
        except Empty:
            return []
        while taken is not None and not self._batches.empty():
            further = self._batches.get()
            if further is None:
                self._batches.put(None)
                break
            taken += further
        return taken
