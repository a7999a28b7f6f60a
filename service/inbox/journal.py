"""
An inbox that keeps receipts while its store is away: in a local journal, flushed, until the store is back.

``put`` tries the store first. When it refuses, or does not answer soon, the receipt goes to the journal, and so does
every later one of this instance until the journal is empty again, so that nothing overtakes. A task drains it into the
store, in order; what is drained twice because of a crash in between is found to be a duplicate by the store.

Journaled is what arrived, not what was read from it: it is read again when it is drained, by whatever version and
configuration there is then. When it can't be read, it is kept in the store as ``unparsed``.

One thread does everything with the files, and flushes once for all that has gathered meanwhile.
"""

import asyncio
import base64
import json
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog

from service.errors import ConfigError, InboxUnavailable
from service.events import Product, Transport, key_digest
from service.inbox.base import Inbox, Receipt, StoredReceipt, Verdict
from service.inbox.journal_segments import Journal, Page
from service.waiting import Wait, wait_for

# VOD and IMS wait five seconds for an answer, of which these two together are three.
PUT_TIMEOUT_S = 1.5
JOURNAL_TIMEOUT_S = 1.5
CHECK_TIMEOUT_S = 2.0
# The store may be slow while it recovers.
DRAIN_TIMEOUT_S = 15.0
FIRST_RETRY_S = 0.2
MAX_RETRY_S = 2.0
CLOSE_TIMEOUT_S = 3.0
# Receipts that the store gets at once. Reading them again holds up the event loop, some tenth of a millisecond each.
_CHUNK = 64
# How often the store may refuse one receipt, while it works otherwise, until that receipt is kept as unparsed.
MAX_REFUSALS = 15
_MAX_PENDING = 10_000
_MAX_PENDING_BYTES = 64 << 20
_T = TypeVar("_T")

Rebuild = Callable[[StoredReceipt], Receipt | None]
"""Reads what a source received again. None when the source is not configured any more."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Append:
    payload: bytes
    future: "asyncio.Future[None]"


@dataclass(slots=True)
class _Work:
    run: Callable[[], Any]
    future: "asyncio.Future[Any]"


class JournaledInbox:
    """
    Args:
        inbox: The store's. It must open although the store is away.
        path: The journal's directory; it is created when it is missing.
        max_bytes: How large the journal may become.
        rebuild: Makes a receipt of what was journaled.
        drained: Told what became of a receipt that was journaled, whenever the store has it.
    """

    def __init__(
        self,
        inbox: Inbox,
        path: Path,
        *,
        max_bytes: int,
        rebuild: Rebuild,
        drained: Callable[[Receipt, Verdict], None] = lambda *_: None,
        wait: Wait = wait_for,
    ) -> None:
        self._inbox = inbox
        self._journal = Journal(path, max_bytes=max_bytes)
        self._rebuild = rebuild
        self._tell_drained = drained
        self._wait = wait
        # Records of the journal: flushed, and drained since it was opened. It is empty when these are equal.
        self._appended = self._drained = 0
        # On their way to the journal.
        self._pending = self._pending_bytes = 0
        self._has_receipts = asyncio.Event()
        self._stopping = asyncio.Event()
        self._queue: queue.SimpleQueue[_Append | _Work | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._drainer: asyncio.Task[None] | None = None
        # All else is the store's alone.
        self.listen = inbox.listen
        self.now = inbox.now
        self.watch_clock = inbox.watch_clock
        self.trust_clock = inbox.trust_clock
        self.claim = inbox.claim
        self.record = inbox.record
        self.due_in_s = inbox.due_in_s
        self.outdated_receipts = inbox.outdated_receipts
        self.reparse = inbox.reparse
        self.find_event = inbox.find_event
        self.list_receipts = inbox.list_receipts
        self.list_events = inbox.list_events
        self.count_events = inbox.count_events
        self.list_sinks = inbox.list_sinks
        self.set_sink_state = inbox.set_sink_state
        self.retry_sink = inbox.retry_sink
        self.create_replay = inbox.create_replay
        self.advance_replays = inbox.advance_replays
        self.cancel_replay = inbox.cancel_replay
        self.find_replay = inbox.find_replay
        self.list_replays = inbox.list_replays
        self.purge = inbox.purge
        self.expect = inbox.expect
        self.list_jobs = inbox.list_jobs
        self.claim_inquiries = inbox.claim_inquiries
        self.inquiry_due_in_s = inbox.inquiry_due_in_s
        self.settle = inbox.settle
        self.report_jobs = inbox.report_jobs
        self.count_waiting = inbox.count_waiting

    # For metrics

    @property
    def receipts(self) -> int:
        """How many wait in the journal."""
        return self._appended - self._drained

    @property
    def bytes_used(self) -> int:
        """How large the journal's files are."""
        return self._journal.size

    @property
    def has_room(self) -> bool:
        """Whether the latest write to the journal went well, if there was one, and it is not full."""
        return self._journal.problem is None and self._journal.size < self._journal.max_bytes

    # Life

    async def open(self) -> None:
        """
        Raises:
            ConfigError: The journal's directory or the store can't be used as configured.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._journal.open)
        try:
            await self._inbox.open()
        except BaseException:
            self._journal.close()
            raise
        self._appended = self._journal.appended
        if self._appended:
            log.warning("journal_found", receipts=self._appended, bytes=self._journal.size)
        self._has_receipts.set()
        self._thread = threading.Thread(target=self._write, name="journal-writer", daemon=True)
        self._thread.start()
        self._drainer = asyncio.create_task(self._drain_on(), name="journal-drainer")

    async def close(self) -> None:
        self._stopping.set()
        self._has_receipts.set()
        if self._drainer is not None:
            # The receipts that the store has by now need not be drained again.
            await asyncio.wait([self._drainer], timeout=CLOSE_TIMEOUT_S)
            self._drainer.cancel()
            await asyncio.gather(self._drainer, return_exceptions=True)
            self._drainer = None
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._queue.put(None)
            await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)
            if self.receipts:
                log.warning("journal_left", receipts=self.receipts, bytes=self._journal.size)
            # Not under a thread that a disk holds up.
            if not thread.is_alive():
                self._journal.close()
        await self._inbox.close()

    # Receipts

    async def put(self, receipt: Receipt) -> Verdict:
        """As every inbox does, or durable in the journal: then it says that it is journaled."""
        problem = "not asked"
        if not self._must_journal():
            try:
                async with asyncio.timeout(PUT_TIMEOUT_S):
                    return await self._inbox.put(receipt)
            except InboxUnavailable as error:
                problem = str(error)
            except TimeoutError:
                problem = f"no answer within {PUT_TIMEOUT_S:g} s"
        begins = not self._must_journal()
        await self._append(encode_receipt(receipt))
        if begins:
            # Not before: a journal that can't take it has not begun.
            log.warning("journal_begun", store=problem)
        return Verdict("accepted", is_journaled=True)

    def _must_journal(self) -> bool:
        return self._appended != self._drained or self._pending > 0

    async def _append(self, payload: bytes) -> None:
        if self._thread is None:
            raise InboxUnavailable("the journal is not open")
        if self._pending >= _MAX_PENDING or self._pending_bytes + len(payload) > _MAX_PENDING_BYTES:
            raise InboxUnavailable(f"{self._pending} receipts are waiting for the journal, which is the limit")
        append = _Append(payload, asyncio.get_running_loop().create_future())
        self._pending += 1
        self._pending_bytes += len(payload)
        self._queue.put(append)
        try:
            async with asyncio.timeout(JOURNAL_TIMEOUT_S):
                await append.future
        except TimeoutError as error:
            # It may still get there; the sender, coming again, will be a duplicate.
            raise InboxUnavailable(f"the journal's disk has not answered for {JOURNAL_TIMEOUT_S:g} s") from error

    async def check(self) -> None:
        """
        Return if the store works, or if it is away and the journal can take more. A store that is there and can't be
        used as configured will not mend itself, and the journal only ends some time.
        """
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._inbox.check()
            return
        except ConfigError as error:
            raise InboxUnavailable(f"store: {error}") from error
        except InboxUnavailable as error:
            problem = str(error)
        except TimeoutError:
            problem = "no answer"
        try:
            async with asyncio.timeout(JOURNAL_TIMEOUT_S):
                journal_problem = await self._do(self._journal.probe)
        except TimeoutError:
            journal_problem = "the journal's disk does not answer"
        if journal_problem is not None:
            raise InboxUnavailable(f"store: {problem}; {journal_problem}")

    # The thread of the files

    async def _do(self, run: Callable[[], _T]) -> _T:
        if self._thread is None:
            raise InboxUnavailable("the journal is not open")
        work = _Work(run, asyncio.get_running_loop().create_future())
        self._queue.put(work)
        return cast(_T, await work.future)

    def _write(self) -> None:
        is_open = True
        while is_open:
            gathered = [self._queue.get()]
            while not self._queue.empty():
                gathered.append(self._queue.get())
            is_open = None not in gathered
            appends = [one for one in gathered if isinstance(one, _Append)]
            done: list[tuple[_Append | _Work, Any]] = []
            if appends:
                done += zip(appends, self._append_to_file([append.payload for append in appends]), strict=True)
            done += [(work, _run(work)) for work in gathered if isinstance(work, _Work)]
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(self._resolve, done, self._journal.appended)
            except RuntimeError:
                # The loop was closed under us: everything is on disk, and nobody is left to be told.
                return

    def _append_to_file(self, payloads: Sequence[bytes]) -> Sequence[InboxUnavailable | None]:
        try:
            problems = self._journal.append(payloads)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread must live and say so
            problems = [f"the journal failed: {type(error).__name__}"] * len(payloads)
        return [None if problem is None else InboxUnavailable(problem) for problem in problems]

    def _resolve(self, done: Sequence[tuple[_Append | _Work, Any]], appended: int) -> None:
        self._appended = appended
        if self._must_journal():
            self._has_receipts.set()
        for one, result in done:
            if isinstance(one, _Append):
                self._pending -= 1
                self._pending_bytes -= len(one.payload)
            if one.future.done():
                continue
            if isinstance(result, BaseException):
                one.future.set_exception(result)
                # Whoever waited may be gone; that is no reason for a warning of the event loop.
                one.future.exception()
            else:
                one.future.set_result(result)

    # Draining

    async def _drain_on(self) -> None:
        after = 0
        failures = 0
        while not self._stopping.is_set():
            if not self._must_journal():
                self._has_receipts.clear()
                await self._has_receipts.wait()
                continue
            try:
                page = await self._read(after)
                # None while the first one is still on its way, or was refused.
                if page is not None and await self._drain(page):
                    # First this, so that nothing is drained again because a file can't be removed.
                    after = page.end
                    after = 0 if await self._release(page) else page.end
                failures = 0
            except Exception as error:  # noqa: BLE001 - receipts must be drained after whatever it was
                failures += 1
                log.error("journal_not_drained", error=f"{type(error).__name__}: {error}")
                await self._wait(self._stopping, _delay_s(failures))
            else:
                if not self._must_journal():
                    log.info("journal_empty", drained=self._drained)

    async def _read(self, after: int) -> Page | None:
        return await self._do(lambda: self._journal.read(after=after))

    async def _release(self, page: Page) -> bool:
        return await self._do(lambda: self._journal.release(page.number, page.end))

    async def _set_aside(self, number: int, reason: str) -> None:
        await self._do(lambda: self._journal.set_aside(number, reason))

    async def _drain(self, page: Page) -> bool:
        """Give all of a page to the store. False when that has to end before."""
        left = list(page.payloads)
        while left:
            taken = 0
            chunk: list[Receipt] = []
            keys: set[bytes] = set()
            for payload in left[:_CHUNK]:
                try:
                    receipt = self._restore(decode_receipt(payload))
                except ValueError as error:
                    await self._set_aside(page.number, f"a record is not what this version writes: {error}")
                    taken += 1
                    continue
                its_keys = {key_digest(entry.event.id) for entry in receipt.entries}
                if keys & its_keys:
                    # Only when the other one is in the store: one of the two might fail and come later.
                    break
                keys |= its_keys
                chunk.append(receipt)
                taken += 1
            if not await self._put_all(chunk, page.number):
                return False
            del left[:taken]
            # Damaged ones were counted, too; they go first.
            self._drained = page.through - len(left)
        self._drained = page.through
        return True

    def _restore(self, journaled: "_Journaled") -> Receipt:
        """As the source reads it now; without events, when it does not."""
        reason = "it was journaled, and its source is not configured any more"
        try:
            receipt = self._rebuild(journaled.stored)
        except Exception as error:  # noqa: BLE001 - it must be kept, whatever a parser does
            log.error("journaled_receipt_not_read", source=journaled.stored.source, error=type(error).__name__)
            return journaled.as_unparsed(f"it was journaled, and reading it again failed: {type(error).__name__}")
        if receipt is None or (receipt.product, receipt.transport) != (journaled.product, journaled.transport):
            return journaled.as_unparsed(reason)
        return receipt

    async def _put_all(self, receipts: Sequence[Receipt], number: int) -> bool:
        """
        Try until the store has them all. False when that has to end before.

        Args:
            number: Of the segment that they are from.
        """
        left = list(receipts)
        failures = refusals = 0
        while left:
            if self._stopping.is_set():
                return False
            # After a failure one alone, to see whether the store is back, or which one it is.
            batch = left if failures == 0 else left[:1]
            results = await asyncio.gather(*map(self._put_into_store, batch), return_exceptions=True)
            failed = []
            for receipt, result in zip(batch, results, strict=True):
                if isinstance(result, Verdict):
                    self._tell_drained(receipt, result)
                else:
                    failed.append(receipt)
            left = failed + left[len(batch) :]
            if not failed:
                failures = refusals = 0
                continue
            failures += 1
            is_refused = len(batch) == 1 and not isinstance(results[0], TimeoutError) and await self._store_works()
            refusals = refusals + 1 if is_refused else 0
            if refusals == MAX_REFUSALS:
                refusals = 0
                refused = left[0]
                log.error("journaled_receipt_refused", source=refused.source, error=str(results[0]))
                if refused.entries:
                    left[0] = replace(refused, entries=(), reason="it was journaled, and the store refused its events")
                else:
                    await self._set_aside(number, "the store refuses a record")
                    del left[0]
            await self._wait(self._stopping, _delay_s(failures))
        return True

    async def _put_into_store(self, receipt: Receipt) -> Verdict:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            return await self._inbox.put(receipt)

    async def _store_works(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._inbox.check()
        except (InboxUnavailable, ConfigError, TimeoutError):
            return False
        return True


def _run(work: _Work) -> Any:
    try:
        return work.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, the thread must live and say so
        return error


def _delay_s(failures: int) -> float:
    """Before the next attempt, in seconds."""
    return float(min(FIRST_RETRY_S * 2 ** (min(failures, 10) - 1), MAX_RETRY_S))


# What is in a record


@dataclass(frozen=True, slots=True)
class _Journaled:
    """A receipt as it was journaled."""

    stored: StoredReceipt
    product: Product
    transport: Transport

    def as_unparsed(self, reason: str) -> Receipt:
        return Receipt(
            source=self.stored.source,
            product=self.product,
            transport=self.transport,
            verified_by=self.stored.verified_by,
            received_at=self.stored.received_at,
            body=self.stored.body,
            meta=self.stored.meta,
            entries=(),
            reason=reason,
        )


def encode_receipt(receipt: Receipt) -> bytes:
    """What must be kept of a receipt to make it again: what arrived, and how."""
    return json.dumps(
        {
            "source": receipt.source,
            "product": receipt.product,
            "transport": receipt.transport,
            "verified_by": receipt.verified_by,
            "received_at": receipt.received_at.isoformat(),
            "meta": dict(receipt.meta),
            "body": base64.b64encode(receipt.body).decode(),
        }
    ).encode()


def decode_receipt(payload: bytes) -> _Journaled:
    """
    Raises:
        ValueError: It is not what ``encode_receipt`` makes.
    """
    try:
        fields = json.loads(payload)
        stored = StoredReceipt(
            id=0,
            source=fields["source"],
            verified_by=fields["verified_by"],
            received_at=datetime.fromisoformat(fields["received_at"]),
            body=base64.b64decode(fields["body"], validate=True),
            meta=fields["meta"],
        )
        return _Journaled(stored, fields["product"], fields["transport"])
    except (KeyError, TypeError) as error:
        raise ValueError(type(error).__name__) from error
