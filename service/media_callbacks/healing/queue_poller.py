"""
A queue poller fetches the messages of one source from its queue, makes each durable, and then deletes it there.

A message is deleted only after the inbox has it, so one that was kept and not deleted, because the service or the
network died in between, comes again and is a duplicate. While the inbox is slow, messages are kept invisible to
others; when it is away, they are left alone and come again by themselves.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from random import Random
from typing import Literal

import structlog

from media_callbacks.aliyun.mns import Queue, ReceivedMessage
from media_callbacks.aliyun.mns_client import MAX_BATCH
from media_callbacks.inbox.roles import ReceiptWriter
from media_callbacks.model.errors import InboxUnavailable, VendorError, VendorRefused, VendorUnavailable
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.sources.base import Message
from media_callbacks.sources.transports.mns_queue import MnsQueueSource
from media_callbacks.timing.retry import backoff_s
from media_callbacks.timing.waiting import Wait, finish, wait_for

PollResult = Literal["messages", "empty", "throttled", "unavailable", "refused"]

# First pause after a poll without success, and the longest; each is twice the one before.
_PAUSES_S: dict[PollResult, tuple[float, float]] = {
    # The account has too many long polls just now, and is answered at once (documented).
    "empty": (1.0, 30.0),
    "throttled": (1.0, 60.0),
    "unavailable": (1.0, 60.0),
    # Nothing gets better by itself, but an operator may mend it while we run.
    "refused": (5.0, 300.0),
}
_INBOX_PAUSES_S = (1.0, 60.0)
_DELETE_PAUSES_S = (0.5, 2.0)
# A poll that took this part of the time that was asked for has waited.
_SOON = 0.5
# What a message is kept invisible for at a time.
EXTENSION_S = 60
# Between two attempts to do so.
_MIN_EXTENSION_WAIT_S = 1.0

log = structlog.get_logger()


class QueuePoller:
    """
    Args:
        build: What to keep of a message, see ``intake.build_receipt``.
        report: Told of every message that has become durable, with how long that took in seconds.
        observe: Told of every poll.
        pollers: How many long polls there are at the same time.
        long_poll_s: How long the queue may wait for a message before it says that there is none.
        clock: The time in UTC.
        timer: Seconds that only go forward.
        wait: How to wait for an event with a time-out in seconds.
    """

    def __init__(
        self,
        source: MnsQueueSource,
        queue: Queue,
        inbox: ReceiptWriter,
        *,
        build: Callable[[Message, datetime], Receipt],
        report: Callable[[Receipt, Verdict, float], None],
        observe: Callable[[PollResult], None],
        clock: Callable[[], datetime],
        rng: Random,
        pollers: int = 1,
        long_poll_s: int = 30,
        timer: Callable[[], float] = time.monotonic,
        wait: Wait = wait_for,
    ) -> None:
        self._source = source
        self._queue = queue
        self._inbox = inbox
        self._build = build
        self._report = report
        self._observe = observe
        self._clock = clock
        self._rng = rng
        self._pollers = pollers
        self._long_poll_s = long_poll_s
        self._timer = timer
        self._wait = wait
        self._stopping = asyncio.Event()
        self._polls: set[asyncio.Task[Sequence[ReceivedMessage]]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        # What was logged last, so that an hour without the queue is one line.
        self._trouble: tuple[PollResult, str] | None = None
        self._refusal: str | None = None

    @property
    def source(self) -> str:
        """Its name."""
        return self._source.name

    @property
    def refusal(self) -> str | None:
        """What the queue said where it refused the last poll: nothing gets better by itself then."""
        return self._refusal

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name=f"queue-poller-{self._source.name}-{number}")
            for number in range(self._pollers)
        ]

    async def stop(self, timeout_s: float) -> None:
        """
        Receive nothing more and finish what was received. What is not finished in time is left in the queue.
        May come twice, and without ``start``.
        """
        self._stopping.set()
        for poll in self._polls:
            poll.cancel()
        await finish(self._tasks, timeout_s)

    async def _run(self) -> None:
        # How many polls in a row ended so, and how many batches could not be kept.
        last, in_a_row, unkept = "messages", 0, 0
        limit = MAX_BATCH
        while not self._stopping.is_set():
            started = self._timer()
            retry_after_s = None
            messages: Sequence[ReceivedMessage] = ()
            result: PollResult
            try:
                messages = await self._receive(limit)
            except asyncio.CancelledError:
                if self._is_cancelled():
                    raise
                return
            except VendorError as error:
                result, retry_after_s = _judge(error)
                self._note(result, error)
            except Exception as error:  # noqa: BLE001 - the queue must be emptied after whatever it was
                result = "unavailable"
                self._note(result, error)
            else:
                result = "messages" if messages else "empty"
                self._note(result, None)
            self._observe(result)
            # One by one after trouble: a reply that can't be read is then that of one message alone.
            limit = 1 if result == "unavailable" else MAX_BATCH
            in_a_row = in_a_row + 1 if result == last else 1
            last = result
            if messages:
                unkept = 0 if await self._take_safely(messages) else unkept + 1
                if unkept:
                    await self._pause(_INBOX_PAUSES_S, unkept)
            elif result != "empty":
                await self._pause(_PAUSES_S[result], in_a_row, at_least_s=retry_after_s)
            elif self._timer() - started >= self._long_poll_s * _SOON > 0:
                in_a_row = 0
            else:
                await self._pause(_PAUSES_S[result], in_a_row)

    async def _receive(self, limit: int) -> Sequence[ReceivedMessage]:
        poll = asyncio.ensure_future(self._queue.receive(limit, self._long_poll_s))
        self._polls.add(poll)
        try:
            return await poll
        finally:
            self._polls.discard(poll)

    def _is_cancelled(self) -> bool:
        """Whether this task is to end, and not just the poll that it waited for."""
        task = asyncio.current_task()
        return not self._stopping.is_set() or (task is not None and task.cancelling() > 0)

    async def _take_safely(self, messages: Sequence[ReceivedMessage]) -> bool:
        try:
            return await self._take(messages)
        except Exception as error:  # noqa: BLE001 - as above; what is kept and not deleted is a duplicate next time
            log.error("queue_batch_failed", source=self._source.name, error=type(error).__name__)
            return False

    async def _take(self, messages: Sequence[ReceivedMessage]) -> bool:
        """
        Keep messages, then delete those that are kept.

        Returns:
            Whether all could be kept.
        """
        batch = _Batch(messages)
        guard = asyncio.create_task(self._keep_invisible(batch))
        try:
            kept = await asyncio.gather(*(self._keep(message, batch) for message in messages))
            batch.settled.set()
            # Not cancelled: the new handle of an extension under way is needed for deleting.
            await guard
        finally:
            guard.cancel()
        if batch.error is not None:
            log.warning(
                "queue_messages_not_kept", source=self._source.name, messages=kept.count(False), error=batch.error
            )
        handles = [batch.handles[message.id] for message, is_kept in zip(messages, kept, strict=True) if is_kept]
        if handles:
            await self._delete(handles)
        return all(kept)

    async def _keep(self, message: ReceivedMessage, batch: "_Batch") -> bool:
        started = self._timer()
        try:
            receipt = self._build(self._source.open(message), self._clock())
            verdict = await self._inbox.put(receipt)
        except InboxUnavailable as error:
            batch.error = str(error)
            return False
        except Exception as error:  # noqa: BLE001 - one message must not keep the others from being deleted
            # Not its text: it may quote the message.
            log.error("queue_message_failed", source=self._source.name, error=type(error).__name__)
            return False
        finally:
            batch.open.discard(message.id)
        self._report(receipt, verdict, self._timer() - started)
        return True

    async def _keep_invisible(self, batch: "_Batch") -> None:
        """Extend the visibility of what is not durable yet, each time when half of what is left has passed."""
        while batch.open:
            now = self._clock()
            left_s = min((batch.visible_at[identifier] - now).total_seconds() for identifier in batch.open)
            await self._wait(batch.settled, max(left_s / 2, _MIN_EXTENSION_WAIT_S))
            if batch.settled.is_set():
                return
            now = self._clock()
            for identifier in sorted(batch.open):
                # Meanwhile it may have become durable.
                if identifier not in batch.open:
                    continue
                left_s = (batch.visible_at[identifier] - now).total_seconds()
                if left_s <= EXTENSION_S / 2:
                    await self._extend(identifier, batch)

    async def _extend(self, identifier: str, batch: "_Batch") -> None:
        try:
            changed = await self._queue.change_visibility(batch.handles[identifier], EXTENSION_S)
        except VendorUnavailable as error:
            log.debug("queue_message_not_extended", source=self._source.name, error=str(error))
        except VendorError as error:
            # The handle is void, or we may not: the message comes again, and is a duplicate then.
            log.warning("queue_message_not_extended", source=self._source.name, error=str(error))
            batch.open.discard(identifier)
        else:
            batch.handles[identifier], batch.visible_at[identifier] = changed

    async def _delete(self, handles: Sequence[str]) -> None:
        """Delete as well as can be: what is left comes again, and is a duplicate then."""
        why = "the queue did not delete them"
        for attempt in (1, 2, 3):
            try:
                handles = await self._queue.delete(handles)
            except VendorRefused as error:
                why = str(error)
                break
            except VendorError as error:
                why = str(error)
            if not handles:
                return
            if attempt < 3:
                await self._pause(_DELETE_PAUSES_S, attempt)
        log.warning("queue_messages_not_deleted", source=self._source.name, messages=len(handles), error=why)

    async def _pause(self, bounds_s: tuple[float, float], number: int, *, at_least_s: float | None = None) -> None:
        """Wait longer from time to time, between half and all of it, so that pollers do not come back together."""
        first_s, longest_s = bounds_s
        delay_s = backoff_s(number, first_s=first_s, longest_s=longest_s) * self._rng.uniform(0.5, 1)
        if at_least_s is not None:
            delay_s = max(delay_s, min(at_least_s, _PAUSES_S["refused"][1]))
        await self._wait(self._stopping, delay_s)

    def _note(self, result: PollResult, error: Exception | None) -> None:
        """One line when trouble begins, changes or ends."""
        if error is None:
            if self._trouble is not None:
                log.info("queue_recovered", source=self._source.name)
            self._trouble = self._refusal = None
            return
        # What else an exception says may quote what was received.
        text = str(error) if isinstance(error, VendorError) else type(error).__name__
        self._refusal = text if result == "refused" else None
        code = error.code if isinstance(error, VendorRefused) else type(error).__name__
        if self._trouble == (result, code):
            return
        self._trouble = (result, code)
        write = log.error if result == "refused" else log.warning
        write(f"queue_{result}", source=self._source.name, error=text)


class _Batch:
    """
    What was received together.

    Attributes:
        handles: The latest of each message.
        open: Ids of those that are not durable yet.
        settled: Nothing is open any more.
        error: Why some could not be kept.
    """

    def __init__(self, messages: Sequence[ReceivedMessage]) -> None:
        self.handles = {message.id: message.handle for message in messages}
        self.visible_at = {message.id: message.next_visible_at for message in messages}
        self.open = set(self.handles)
        self.settled = asyncio.Event()
        self.error: str | None = None


def _judge(error: VendorError) -> tuple[PollResult, float | None]:
    if isinstance(error, VendorUnavailable):
        return "throttled" if error.is_throttled else "unavailable", error.retry_after_s
    return "refused", None
