"""
What takes receipts in front of a store that may be away: then they are kept in a local journal, flushed, until it is
back. Whatever else there is to do with a store is not the journal's.

``put`` tries the store first. When it refuses, or does not answer soon, the receipt goes to the journal, and so does
every later one of this instance until the journal is empty again, so that nothing overtakes. A task drains it into the
store, in order; what is drained twice because of a crash in between is found to be a duplicate by the store.

Journaled is what arrived, not what was read from it: it is read again when it is drained, by whatever version and
configuration there is then. When it can't be read, it is kept in the store as ``unparsed``.

One receipt holds up nobody: one that keeps failing while the store works, or that ends the process, is set aside.

One thread does everything with the files, and flushes once for all that has gathered meanwhile.
"""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog

from media_callbacks.inbox.journal.attempts import digest_of
from media_callbacks.inbox.journal.segments import Journal, Undrained
from media_callbacks.inbox.pending import Answered, Handover, Pending, PendingQueue
from media_callbacks.inbox.roles import ReceiptStore
from media_callbacks.inbox.rows import size_bytes
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from media_callbacks.model.identity import key_digest
from media_callbacks.model.kinds import Product, Transport
from media_callbacks.model.receipts import Receipt, StoredReceipt, Verdict
from media_callbacks.timing.loop import Loop
from media_callbacks.timing.retry import backoff_s
from media_callbacks.timing.waiting import Wait, wait_for

# VOD and IMS wait five seconds for an answer, of which these two together are three.
PUT_TIMEOUT_S = 1.5
JOURNAL_TIMEOUT_S = 1.5
CHECK_TIMEOUT_S = 2.0
# The store may be slow while it recovers.
DRAIN_TIMEOUT_S = 15.0
FIRST_RETRY_S = 0.2
MAX_RETRY_S = 2.0
# After the files failed, before they are asked again.
FILES_RETRY_S = 1.0
CLOSE_TIMEOUT_S = 3.0
# What a disk that hangs may take of the end.
_THREAD_TIMEOUT_S = 3.0
# Receipts that the store gets at once. Reading them again holds up the event loop, some tenth of a millisecond each, or
# more: much may come of a few.
_CHUNK = 64
_CHUNK_BYTES = 8 << 20
# How often one record may fail, while the store works otherwise, or end the process, until it is set aside.
MAX_ATTEMPTS = 3
# Until one that was set aside is tried again; four times as long before each further time.
RETRY_ASIDE_S = 60.0
MAX_RETRY_ASIDE_S = 6 * 3600.0
# Where one after the other is to be set aside, it may be the store after all: they are set aside ever more slowly.
MAX_ASIDE_PAUSE_S = 30.0
_T = TypeVar("_T")

Rebuild = Callable[[StoredReceipt], Receipt | None]
"""Reads what a source received again. None when the source is not configured any more."""

log = structlog.get_logger()


# A record to be appended, or what else is to be done with the files.
_Item = bytes | Callable[[], Any]


class JournaledStore:
    """
    Args:
        store: It must open although its server is away.
        path: The journal's directory; it is created when it is missing.
        max_bytes: How large the journal may become.
        rebuild: Makes a receipt of what was journaled.
        drained: Told what became of a receipt that was journaled, whenever the store has it.
    """

    def __init__(
        self,
        store: ReceiptStore,
        path: Path,
        *,
        max_bytes: int,
        rebuild: Rebuild,
        drained: Callable[[Receipt, Verdict], None] = lambda *_: None,
        wait: Wait = wait_for,
    ) -> None:
        self._store = store
        self._journal = Journal(path, max_bytes=max_bytes)
        self._rebuild = rebuild
        self._tell_drained = drained
        self._wait = wait
        # How often records were tried, by digest: those that may have ended the process, and those that have failed.
        self._suspects: dict[str, int] = {}
        # Whether the store may be away.
        self._is_doubtful = True
        self._asides_in_a_row = 0
        self._aside_due_at: dict[str, float] = {}
        # Records of the journal: flushed, and drained since it was opened. It is empty when these are equal.
        self._appended = self._drained = 0
        # On their way to the journal.
        self._pending: PendingQueue[_Item] = PendingQueue("the journal")
        # How far the oldest segment is drained.
        self._drain_after = 0
        self._drainer = Loop(
            self._drain_next, name="journal-drainer", failure="journal_not_drained", retry_s=FILES_RETRY_S, wait=wait
        )
        self._retrier = Loop(
            self._retry_next,
            name="journal-set-aside",
            failure="journaled_receipt_not_stored",
            retry_s=0.0,  # each of them has a time of its own
            wait=wait,
        )
        self._submitted: Handover[Pending[_Item]] = Handover()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # For metrics

    @property
    def receipts(self) -> int:
        """How many wait in the journal."""
        return self._appended - self._drained

    @property
    def bytes_used(self) -> int:
        """How large the journal's files are."""
        return self._journal.size + self._journal.attempts.size

    @property
    def set_aside(self) -> int:
        """How many receipts the store did not take though it worked; they are tried again from time to time."""
        return len(self._journal.attempts.aside)

    # Life

    async def open(self) -> None:
        """
        Raises:
            ConfigError: The journal's directory or the store can't be used as configured.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._journal.open)
        try:
            await self._store.open()
        except BaseException:
            self._journal.close()
            raise
        self._appended = self._journal.appended
        self._suspects = dict(self._journal.suspects)
        for digest in self._journal.attempts.aside:
            self._plan(digest)
        if self._appended or self.set_aside:
            log.warning("journal_found", receipts=self._appended, bytes=self.bytes_used, set_aside=self.set_aside)
        self._thread = threading.Thread(target=self._write, name="journal-writer", daemon=True)
        self._thread.start()
        self._drainer.start()
        self._retrier.start()

    async def close(self) -> None:
        # The receipts that the store has by now need not be drained again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.gather(self._drainer.stop(), self._retrier.stop(), return_exceptions=True)
        if self._thread is not None:
            # Whatever was under way, it is not what ends this life.
            suspects = dict(self._suspects)
            self._pending.add(lambda: self._journal.attempts.note(suspects), None)
            thread, self._thread = self._thread, None
            self._submitted.give(self._pending.take())
            self._submitted.end()
            await asyncio.to_thread(thread.join, _THREAD_TIMEOUT_S)
            if self.receipts:
                log.warning("journal_left", receipts=self.receipts, bytes=self._journal.size)
            # Not under a thread that a disk holds up.
            if not thread.is_alive():
                self._journal.close()
        await self._store.close()

    # Receipts

    async def put(self, receipt: Receipt) -> Verdict:
        """In the store, or durable in the journal: then the verdict says that it is journaled."""
        problem = "not asked"
        if not self._must_journal():
            try:
                async with asyncio.timeout(PUT_TIMEOUT_S):
                    return await self._store.put(receipt)
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
        return self._appended != self._drained or self._pending.receipts > 0

    async def _append(self, payload: bytes) -> None:
        if self._thread is None:
            raise InboxUnavailable("the journal is not open")
        appended = self._pending.add(payload, len(payload))
        self._submitted.give(self._pending.take())
        try:
            async with asyncio.timeout(JOURNAL_TIMEOUT_S):
                await appended
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
                await self._store.check()
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
        done = self._pending.add(run, None)
        self._submitted.give(self._pending.take())
        return cast(_T, await done)

    def _write(self) -> None:
        while (gathered := self._submitted.take()) is not None:
            payloads = {one: one.item for one in gathered if isinstance(one.item, bytes)}
            done: list[Answered[_Item]] = []
            if payloads:
                done += zip(payloads, self._append_to_file(list(payloads.values())), strict=True)
            done += [(one, _run(one.item)) for one in gathered if not isinstance(one.item, bytes)]
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(self._answer, done, self._journal.appended)
            except RuntimeError:
                # The loop was closed under us: everything is on disk, and nobody is left to be told.
                return

    def _append_to_file(self, payloads: Sequence[bytes]) -> Sequence[InboxUnavailable | None]:
        try:
            problems = self._journal.append(payloads)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread must live and say so
            problems = [f"the journal failed: {type(error).__name__}"] * len(payloads)
        return [None if problem is None else InboxUnavailable(problem) for problem in problems]

    def _answer(self, done: Sequence[Answered[_Item]], appended: int) -> None:
        self._appended = appended
        self._pending.answer(done)
        if self._must_journal():
            self._drainer.wake()

    # Draining

    async def _drain_next(self) -> float | None:
        if not self._must_journal():
            return None
        page = await self._read(self._drain_after)
        # None while the first one is still on its way, or was refused.
        if page is not None and await self._drain(page):
            # First this, so that nothing is drained again because a file can't be removed.
            self._drain_after = page.end
            if await self._release(page):
                self._drain_after = 0
        if not self._must_journal():
            log.info("journal_empty", drained=self._drained)
            self._suspects.clear()
            await self._note({})
        return 0.0

    async def _read(self, after: int) -> Undrained | None:
        return await self._do(lambda: self._journal.read(after=after))

    async def _release(self, page: Undrained) -> bool:
        return await self._do(lambda: self._journal.release(page.number, page.end))

    async def _note(self, tried: Mapping[str, int]) -> None:
        """Durable before it is tried: a record may end the process."""
        noted = self._suspects | dict(tried)
        try:
            await self._do(lambda: self._journal.attempts.note(noted))
        except OSError as error:
            # Such as a full disk, on which draining makes room: then nobody knows of it, should the process end now.
            log.warning("journal_attempt_not_noted", error=error.strerror)

    async def _drain(self, page: Undrained) -> bool:
        """Give all of a page to the store. False when that has to end before."""
        left = list(page.payloads)
        while left:
            done = await self._drain_some(left, page.number)
            if not done:
                return False
            del left[:done]
            # Damaged ones were counted, too; they go first.
            self._drained = page.through - len(left)
        self._drained = page.through
        return True

    async def _drain_some(self, payloads: Sequence[bytes], number: int) -> int:
        """
        Give the first ones of a segment to the store, together if it can be.

        Returns:
            How many; none when that has to end before.
        """
        digest = digest_of(payloads[0])
        attempts = self._suspects.get(digest, 0)
        if digest in self._journal.attempts.aside:
            # The process ended before the segment could be removed.
            return 1
        if attempts >= MAX_ATTEMPTS:
            await self._set_aside(digest, payloads[0], attempts, "each time the process has ended")
            return 1
        if self._is_doubtful and not await self._until_store_works():
            return 0
        records = {digest: payloads[0]}
        if not attempts:
            for payload in payloads[1:_CHUNK]:
                digest = digest_of(payload)
                if digest in records or digest in self._suspects or digest in self._journal.attempts.aside:
                    break
                records[digest] = payload
        # Reading them is a part of it.
        await self._note({digest: self._suspects.get(digest, 0) + 1 for digest in records})
        taken = size = 0
        chunk: dict[str, Receipt] = {}
        keys: set[bytes] = set()
        for digest, payload in records.items():
            try:
                receipt = self._restore(decode_receipt(payload))
            except ValueError as error:
                reason = f"a record is not what this version writes: {error}"
                await self._do(partial(self._journal.keep_damaged, number, reason))
                taken += 1
                continue
            its_keys = {key_digest(entry.event.id) for entry in receipt.entries}
            size += size_bytes(receipt)
            # Of one key only when the other one is in the store: one of the two might fail and come later.
            if chunk and (keys & its_keys or size > _CHUNK_BYTES):
                break
            keys |= its_keys
            chunk[digest] = receipt
            taken += 1
        if attempts:
            is_done = all([await self._put_alone(*one, records) for one in chunk.items()])
        else:
            is_done = await self._put_all(chunk, records)
        return taken if is_done else 0

    async def _put_all(self, receipts: Mapping[str, Receipt], payloads: Mapping[str, bytes]) -> bool:
        """Together; those that fail alone. False when that has to end before."""
        results = await asyncio.gather(*map(self._put_into_store, receipts.values()), return_exceptions=True)
        for receipt, result in zip(receipts.values(), results, strict=True):
            if isinstance(result, Verdict):
                self._tell_drained(receipt, result)
                self._asides_in_a_row = 0
        for (digest, receipt), result in zip(receipts.items(), results, strict=True):
            if not isinstance(result, Verdict):
                self._is_doubtful = True
                if not await self._put_alone(digest, receipt, payloads):
                    return False
        return True

    async def _put_alone(self, digest: str, receipt: Receipt, payloads: Mapping[str, bytes]) -> bool:
        """Until the store has it, or it is set aside. False when that has to end before."""
        failures = 0
        while await self._until_store_works():
            attempts = self._suspects.get(digest, 0) + 1
            await self._note({digest: attempts})
            try:
                verdict = await self._put_into_store(receipt)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others wait behind it
                reason = f"{type(error).__name__}: {error}"
                # Otherwise it failed as everything does.
                if await self._store_works():
                    self._suspects[digest] = attempts
                    if attempts >= MAX_ATTEMPTS:
                        await self._set_aside(digest, payloads[digest], attempts, reason, source=receipt.source)
                        return True
            else:
                self._suspects.pop(digest, None)
                self._asides_in_a_row = 0
                self._tell_drained(receipt, verdict)
                return True
            failures += 1
            await self._wait(self._drainer.stopping, _delay_s(failures))
        return False

    async def _until_store_works(self) -> bool:
        """False when that has to end before."""
        failures = 0
        while not self._drainer.stopping.is_set():
            if await self._store_works():
                self._is_doubtful = False
                return True
            failures += 1
            await self._wait(self._drainer.stopping, _delay_s(failures))
        return False

    # Set aside

    async def _set_aside(self, digest: str, payload: bytes, attempts: int, reason: str, *, source: str = "?") -> None:
        """Go on without a record."""
        await self._do(lambda: self._journal.attempts.set_aside(digest, payload, attempts))
        log.error("journaled_receipt_set_aside", source=source, attempts=attempts, error=reason)
        self._suspects.pop(digest, None)
        self._plan(digest)
        self._asides_in_a_row += 1
        if self._asides_in_a_row > 1:
            pause_s = backoff_s(self._asides_in_a_row + 1, first_s=FIRST_RETRY_S, longest_s=MAX_ASIDE_PAUSE_S)
            await self._wait(self._drainer.stopping, pause_s)

    def _plan(self, digest: str) -> None:
        further = max(0, self._journal.attempts.aside[digest] - MAX_ATTEMPTS)
        delay_s = backoff_s(further + 1, first_s=RETRY_ASIDE_S, longest_s=MAX_RETRY_ASIDE_S, factor=4)
        self._aside_due_at[digest] = asyncio.get_running_loop().time() + delay_s
        self._retrier.wake()

    async def _retry_next(self) -> float | None:
        """Try what was set aside again, one after the other, alone."""
        if not self._aside_due_at:
            return None
        digest, due_at = min(self._aside_due_at.items(), key=lambda one: one[1])
        left_s = due_at - asyncio.get_running_loop().time()
        if left_s > 0:
            return left_s
        try:
            await self._retry(digest)
        finally:
            if digest in self._journal.attempts.aside:
                self._plan(digest)
            else:
                del self._aside_due_at[digest]
        return 0.0

    async def _retry(self, digest: str) -> None:
        if not await self._store_works():
            return
        payload = await self._do(lambda: self._journal.attempts.take(digest))
        receipt = self._restore(decode_receipt(payload))
        verdict = await self._put_into_store(receipt)
        await self._do(lambda: self._journal.attempts.forget(digest))
        self._tell_drained(receipt, verdict)
        log.info("journaled_receipt_stored", source=receipt.source, state=verdict.state)

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

    async def _put_into_store(self, receipt: Receipt) -> Verdict:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            return await self._store.put(receipt)

    async def _store_works(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._store.check()
        except (InboxUnavailable, ConfigError, TimeoutError):
            return False
        return True


def _run(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the thread must live and say so
        return error


def _delay_s(failures: int) -> float:
    """Before the next attempt, in seconds."""
    return backoff_s(failures, first_s=FIRST_RETRY_S, longest_s=MAX_RETRY_S)


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
