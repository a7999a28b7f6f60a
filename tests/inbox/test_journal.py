"""Callbacks that come while the store is away are kept and reach it later: each, in order, and as one event."""

import asyncio
import contextlib
import errno
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from media_callbacks.assembly.sources import build_source
from media_callbacks.config.settings import build_settings
from media_callbacks.inbox.journal import store as journal_module
from media_callbacks.inbox.journal.attempts import Attempts, digest_of
from media_callbacks.inbox.journal.store import MAX_ATTEMPTS, JournaledStore, decode_receipt, encode_receipt
from media_callbacks.inbox.records import INQUIRIES
from media_callbacks.model.errors import ConfigError, InboxUnavailable
from media_callbacks.model.receipts import Receipt, StoredReceipt, Verdict
from media_callbacks.sources.base import Callback
from media_callbacks.sources.intake import build_receipt, restore_message
from tests.factories.running import PATIENCE_S, build_payload, headers_of, make_tables, sign, signing_key_pem
from tests.inbox.conformance import LEASE_S, NOW, SECOND, InboxConformance, Reopen, deliver, make_event, make_receipt
from tests.inbox.conformance_jobs import JobsConformance, held
from tests.inbox.timed import TimedSqliteInbox

ROOT = Path(__file__).parents[2]


class Store(TimedSqliteInbox):
    """
    SQLite in the place of PostgreSQL, with a switch. What it can't show: connections that break in the middle of a
    commit, and servers that come back slowly.

    Attributes:
        state: ``away`` fails at once, ``stuck`` never answers.
        refused: Bodies that it does not take, although all is well.
        asked: Bodies of all receipts that it was given.
        stuck: How many calls never got an answer.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.state = "there"
        self.refused: set[bytes] = set()
        self.asked: list[bytes] = []
        self.stuck = 0

    def put(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        self.asked.append(receipt.body)
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        if self.state == "stuck":
            self.stuck += 1
            return answer
        if self.state == "away" or receipt.body in self.refused:
            answer.set_exception(InboxUnavailable("the database does not answer"))
            return answer
        return super().put(receipt)

    async def check(self) -> None:
        if self.state == "stuck":
            self.stuck += 1
            await asyncio.Event().wait()
        if self.state == "away":
            raise InboxUnavailable("the database does not answer")
        await super().check()


class WholeInbox(JournaledStore):
    """What a service has of both: receipts go to the journal, all else to the store."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Bench:
    """Both, which can be restarted. A receipt's event is of the job that its body names, as ``job outcome``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "inbox.db")
        self.max_bytes = 1 << 20
        self.rebuild: Callable[[StoredReceipt], Receipt | None] = rebuild
        self.drained: list[tuple[Receipt, Verdict]] = []
        self.inbox = self.make()

    def make(self) -> WholeInbox:
        return WholeInbox(
            self.store,
            self.folder / "journal",
            max_bytes=self.max_bytes,
            # Replaceable later.
            rebuild=lambda stored: self.rebuild(stored),  # noqa: PLW0108
            drained=lambda receipt, verdict: self.drained.append((receipt, verdict)),
        )

    async def restart(self, state: str = "there") -> None:
        await self.inbox.close()
        self.store = Store(self.folder / "inbox.db")
        self.store.state = state
        self.inbox = self.make()
        await self.inbox.open()

    async def put(self, job: str, outcome: str = "succeeded") -> Verdict:
        return await self.inbox.put(receipt_of(job, outcome))

    async def until_empty(self) -> None:
        await until(lambda: self.inbox.receipts == 0 and self.inbox.bytes_used == 0)

    async def stored(self) -> list[tuple[str, str]]:
        """Job and state of the receipts in the store, oldest first."""
        found = await self.store.outdated_receipts(parser_version=9, after_id=0, limit=100_000)
        states = {record.id: record.state for record in await self.inbox.list_receipts(limit=100_000)}
        return [(receipt.body.split()[0].decode(), states[receipt.id]) for receipt in found]

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "journal").iterdir() if path.name != "lock")


def receipt_of(job: str, outcome: str = "succeeded", at: datetime = NOW) -> Receipt:
    return make_receipt(make_event(job, outcome), body=f"{job} {outcome}".encode(), at=at)


# As the service has them; the tests here are more patient.
ANSWER_S = journal_module.PUT_TIMEOUT_S + journal_module.JOURNAL_TIMEOUT_S


def rebuild(stored: StoredReceipt) -> Receipt | None:
    job, outcome = stored.body.decode().split()
    return receipt_of(job, outcome, stored.received_at)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():  # noqa: ASYNC110 - files and threads have no event for it
            await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(journal_module, "FIRST_RETRY_S", 0.002)
    monkeypatch.setattr(journal_module, "MAX_RETRY_S", 0.01)
    # What answers late answers all the same: which of the two it is must not be up to the machine.
    for name in ("PUT", "JOURNAL", "CHECK", "CLOSE"):
        monkeypatch.setattr(journal_module, f"{name}_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.inbox.open()
    yield bench
    await bench.inbox.close()


class TestConformance(InboxConformance):
    """While the store is there, nobody notices the journal."""

    @pytest.fixture
    async def inbox(self, bench):
        return bench.inbox

    @pytest.fixture
    async def reopen(self, bench) -> Reopen:
        async def again():
            await bench.restart()
            return bench.inbox

        return again


class TestJobsConformance(JobsConformance):
    """Neither is it noticed with expected jobs and held events."""

    @pytest.fixture
    async def inbox(self, bench):
        return bench.inbox

    @pytest.fixture
    async def reopen(self, bench) -> Reopen:
        async def again():
            await bench.restart()
            return bench.inbox

        return again


# The store goes and comes


async def test_what_comes_while_the_store_is_away_is_kept_and_delivered_when_it_is_back(bench):
    assert await bench.put("before") == Verdict("accepted", (make_event("before"),))
    bench.store.state = "away"
    with capture_logs() as logs:
        for number in range(20):
            assert await bench.put(f"job-{number}") == Verdict("accepted", is_journaled=True)
        assert bench.inbox.receipts == 20
        assert 20 * 100 < bench.inbox.bytes_used < 20 * 1000
        assert await bench.stored() == [("before", "accepted")]
        bench.store.state = "there"
        await bench.until_empty()
    assert [log["event"] for log in logs] == ["journal_begun", "journal_empty"]
    assert await bench.stored() == [("before", "accepted"), *((f"job-{number}", "accepted") for number in range(20))]
    assert [verdict.accepted[0].data.job_id for _, verdict in bench.drained] == [f"job-{n}" for n in range(20)]
    assert len(await deliver(bench.inbox, "a")) == 21
    assert bench.files == []
    assert not (await bench.put("after")).is_journaled
    assert not (await bench.put("job-3")).is_journaled


async def test_what_must_be_confirmed_is_held_when_it_comes_out_of_the_journal(bench):
    """Its time-out counts from when the store has it, by whose clock it is told."""

    def rebuild_held(stored: StoredReceipt) -> Receipt:
        return held(make_event(stored.body.decode().split()[0]), at=stored.received_at)

    bench.rebuild = rebuild_held
    heard: list[str] = []
    bench.inbox.listen(heard.extend)
    bench.store.state = "away"
    assert (await bench.put("a")).is_journaled
    bench.store.state = "there"
    await bench.until_empty()
    assert [verdict for _, verdict in bench.drained] == [Verdict("accepted", held=1)]
    assert heard == [INQUIRIES]
    assert await deliver(bench.inbox, "a") == []
    later = NOW + timedelta(hours=1)
    (inquiry,) = await bench.inbox.claim_inquiries("vod", limit=9, now=later, lease_s=LEASE_S)
    assert (inquiry.since, inquiry.until) == (NOW, NOW + timedelta(minutes=5))
    assert inquiry.event == make_event("a")


async def test_a_store_that_does_not_answer_is_not_waited_for(bench, loop_clock):
    bench.store.state = "stuck"
    putting = asyncio.create_task(bench.put("a"))
    await until(lambda: bench.store.asked == [b"a succeeded"])
    loop_clock.skip(journal_module.PUT_TIMEOUT_S)
    assert (await putting).is_journaled
    await until(lambda: bench.store.stuck == 2)
    # The second does not even ask.
    assert (await bench.put("b")).is_journaled
    assert b"b succeeded" not in bench.store.asked
    bench.store.state = "there"
    loop_clock.skip(max(journal_module.DRAIN_TIMEOUT_S, journal_module.CHECK_TIMEOUT_S))
    await bench.until_empty()
    assert await bench.stored() == [("a", "accepted"), ("b", "accepted")]


def test_the_vendor_gets_its_answer_within_three_seconds_whatever_hangs():
    assert ANSWER_S <= 3


async def test_nothing_overtakes_what_is_in_the_journal(bench):
    """A rerun that succeeds after a failure is the second revision, also when the store comes back in between."""
    bench.store.state = "away"
    assert (await bench.put("job", "failed")).is_journaled
    bench.store.refused.add(b"job failed")
    asked = len(bench.store.asked)
    bench.store.state = "there"
    # The drainer is busy with the first one now, and the store would take others.
    await until(lambda: len(bench.store.asked) > asked)
    assert (await bench.put("job", "succeeded")).is_journaled
    assert b"job succeeded" not in bench.store.asked
    bench.store.refused.clear()
    await asyncio.gather(*(bench.put(f"other-{number}") for number in range(5)))
    await bench.until_empty()
    accepted = [verdict.accepted[0] for _, verdict in bench.drained]
    assert [(event.data.outcome, event.data.revision) for event in accepted[:2]] == [("failed", 1), ("succeeded", 2)]


async def test_two_outcomes_of_a_job_are_never_at_the_store_together(bench, monkeypatch):
    """Else, should the first one fail alone, the second would come to be the first."""
    at_once: list[int] = []
    real = bench.inbox._put_all

    async def observe(receipts, payloads):
        keys = [entry.event.id[:36] for receipt in receipts.values() for entry in receipt.entries]
        assert len(set(keys)) == len(keys)
        at_once.append(len(receipts))
        return await real(receipts, payloads)

    bench.store.state = "away"
    for job, outcome in (("a", "failed"), ("b", "failed"), ("a", "succeeded"), ("b", "succeeded"), ("c", "failed")):
        await bench.put(job, outcome)
    await bench.restart("away")
    real = bench.inbox._put_all
    monkeypatch.setattr(bench.inbox, "_put_all", observe)
    bench.store.state = "there"
    await bench.until_empty()
    assert at_once in ([2, 3], [3])
    assert [verdict.accepted[0].data.revision for _, verdict in bench.drained] == [1, 1, 2, 2, 1]


async def test_many_come_while_it_is_drained(bench):
    bench.store.state = "away"
    await asyncio.gather(*(bench.put(f"early-{number}") for number in range(700)))
    bench.store.state = "there"
    for number in range(0, 700, 10):
        await asyncio.gather(*(bench.put(f"late-{number + n}") for n in range(10)))
    await bench.until_empty()
    found = await bench.stored()
    assert {state for _, state in found} == {"accepted"}
    assert [job for job, _ in found if job.startswith("early")] == [f"early-{number}" for number in range(700)]
    assert [job for job, _ in found if job.startswith("late")] == [f"late-{number}" for number in range(700)]


# Starting and stopping


async def test_a_restart_goes_on_where_the_journal_is(bench):
    bench.store.state = "away"
    for number in range(5):
        await bench.put(f"a{number}")
    with capture_logs() as logs:
        await bench.restart("away")
    assert [log["receipts"] for log in logs if log["event"] in ("journal_left", "journal_found")] == [5, 5]
    assert bench.inbox.receipts == 5
    # Also before anything was drained, nothing overtakes.
    bench.store.state = "there"
    assert (await bench.put("b")).is_journaled
    await bench.until_empty()
    assert [job for job, _ in await bench.stored()] == ["a0", "a1", "a2", "a3", "a4", "b"]


WRITTEN_BY_0_1_0 = b"""
000000a4 856c834b {"source": "vod", "product": "vod", "transport": "http", "verified_by": "signature", "received_at": "2026-01-02T03:04:05+00:00", "meta": {}, "body": "YSBmYWlsZWQ="}
000000a8 821ba222 {"source": "vod", "product": "vod", "transport": "http", "verified_by": "signature", "received_at": "2026-01-02T03:04:06+00:00", "meta": {}, "body": "YSBzdWNjZWVkZWQ="}
"""


async def test_what_an_earlier_version_has_journaled_is_drained(tmp_path):
    """Byte for byte: an upgrade may come while PostgreSQL is away."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "000000000001.journal").write_bytes(WRITTEN_BY_0_1_0)
    bench = Bench(tmp_path)
    await bench.inbox.open()
    assert bench.inbox.receipts == 2
    await bench.until_empty()
    assert [receipt for receipt, _ in bench.drained] == [
        receipt_of("a", "failed"),
        receipt_of("a", "succeeded", NOW + SECOND),
    ]
    await bench.inbox.close()


async def test_what_is_drained_twice_is_a_duplicate(bench):
    """Killed after the store had it, and before the file was removed."""
    bench.store.state = "away"
    for number in range(5):
        await bench.put(f"a{number}")
    shutil.copytree(bench.folder / "journal", bench.folder / "copy")
    bench.store.state = "there"
    await bench.until_empty()
    assert len(await deliver(bench.inbox, "a")) == 5
    await bench.inbox.close()
    shutil.rmtree(bench.folder / "journal")
    (bench.folder / "copy").rename(bench.folder / "journal")
    await bench.restart()
    await bench.until_empty()
    assert [state for _, state in await bench.stored()] == ["accepted"] * 5 + ["duplicate"] * 5
    assert await deliver(bench.inbox, "a") == []


async def test_a_file_that_cannot_be_removed_is_not_drained_again(bench, monkeypatch):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system")

    bench.store.state = "away"
    await bench.put("a")
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(Path, "unlink", refuse)
        bench.store.state = "there"
        await until(lambda: "journal_not_drained" in [log["event"] for log in logs])
        assert bench.inbox.receipts == 0
    await bench.put("b")
    bench.store.state = "away"
    await bench.put("c")
    bench.store.state = "there"
    await bench.until_empty()
    assert await bench.stored() == [("a", "accepted"), ("b", "accepted"), ("c", "accepted")]


async def test_a_journal_or_a_store_that_cannot_be_used_stops_the_start(bench, tmp_path):
    other = JournaledStore(Store(tmp_path / "other.db"), tmp_path / "journal", max_bytes=1 << 20, rebuild=rebuild)
    with pytest.raises(ConfigError, match=r"^server\.journal_path: "):
        await other.open()
    nowhere = Store(tmp_path / "nowhere" / "other.db")
    other = JournaledStore(nowhere, tmp_path / "second", max_bytes=1 << 20, rebuild=rebuild)
    with pytest.raises(ConfigError, match=r"^store\.url: "):
        await other.open()
    await other.close()
    # It let go of the journal.
    other = JournaledStore(Store(tmp_path / "other.db"), tmp_path / "second", max_bytes=1 << 20, rebuild=rebuild)
    await other.open()
    await other.close()
    with pytest.raises(InboxUnavailable):
        await other.put(receipt_of("a"))


async def test_stopping_does_not_wait_for_the_store(bench, monkeypatch, loop_clock):
    monkeypatch.setattr(journal_module, "DRAIN_TIMEOUT_S", 3600.0)
    bench.store.state = "away"
    assert (await bench.put("a")).is_journaled
    bench.store.state = "stuck"
    await until(lambda: bench.store.stuck)
    restarting = asyncio.create_task(bench.restart())
    await asyncio.sleep(0)
    loop_clock.skip(journal_module.CLOSE_TIMEOUT_S)
    await restarting
    await bench.until_empty()
    assert await bench.stored() == [("a", "accepted")]


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path):
    """A writer under load, killed at any moment; twice on the same journal."""
    code = f"""
import asyncio, sys
from pathlib import Path
from media_callbacks.inbox.journal import store
from tests.inbox.test_journal import Bench

async def main():
    store.JOURNAL_TIMEOUT_S = {PATIENCE_S}
    bench = Bench(Path({str(tmp_path)!r}))
    bench.max_bytes = 1 << 30
    bench.inbox = bench.make()
    bench.store.state = "away"
    await bench.inbox.open()
    async def send(client):
        number = 0
        while True:
            job = f"{{sys.argv[1]}}-{{client}}-{{number}}"
            assert (await bench.put(job)).is_journaled
            print(job, flush=True)
            number += 1
    await asyncio.gather(*map(send, range(16)))

asyncio.run(main())
"""
    acknowledged: list[str] = []
    rng = random.Random(5)
    for life in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, f"life{life}", cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        count = rng.randint(300, 900)
        acknowledged += [(await process.stdout.readline()).decode() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).decode()
        acknowledged += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        await process.wait()
    bench = Bench(tmp_path)
    bench.max_bytes = 1 << 30
    bench.inbox = bench.make()
    await bench.inbox.open()
    await bench.until_empty()
    found = [job for job, _ in await bench.stored()]
    # The log is in between.
    assert {line.strip() for line in acknowledged if line.startswith("life")} <= set(found)
    assert len(found) == len(set(found))
    for life in range(2):
        for client in range(16):
            mine = [int(job.split("-")[2]) for job in found if job.startswith(f"life{life}-{client}-")]
            assert mine == list(range(len(mine)))
    await bench.inbox.close()


# What is kept of a receipt


@pytest.mark.parametrize("name", ["vod", "ims", "mts", "gif"])
def test_a_receipt_is_the_same_after_the_journal(tmp_path, name):
    settings = build_settings(make_tables(tmp_path, {}), environ={})
    source = build_source(name, settings.callback_sources[name])
    now = datetime.now(UTC)
    for body in (build_payload(source, "job-1"), b'{"unreadable\xff\x00": \n'):
        request = sign(source, body, job_id="job-1", now=now)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key: Any = load_pem_private_key(signing_key_pem(), None).public_key() if name == "mts" else None
        callback = Callback(
            request.method,
            request.target.encode(),
            b"",
            [(header.lower(), value) for header, value in headers_of(request)],
            request.body,
        )
        message = source.verify(callback, now=now, public_key=key)
        # As what is traced notes it.
        message.meta = {**message.meta, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"}
        receipt = build_receipt(source, message, received_at=now, route=lambda _: ("orders",))
        journaled = decode_receipt(encode_receipt(receipt))
        again = build_receipt(
            source,
            restore_message(journaled.stored),
            received_at=journaled.stored.received_at,
            route=lambda _: ("orders",),
        )
        assert again == receipt
        assert (journaled.product, journaled.transport) == (receipt.product, receipt.transport)
        assert b"\n" not in encode_receipt(receipt)


def _fail(_: StoredReceipt) -> Receipt:
    raise KeyError("a parser with a mistake")


def _other_source(stored: StoredReceipt) -> Receipt:
    return replace(receipt_of("a", at=stored.received_at), product="ims")


@pytest.mark.parametrize(
    "how, reason",
    [
        (lambda _: None, "it was journaled, and its source is not configured any more"),
        (_other_source, "it was journaled, and its source is not configured any more"),
        (_fail, "it was journaled, and reading it again failed: KeyError"),
    ],
    ids=["source gone", "another source of this name", "parser fails"],
)
async def test_what_can_not_be_read_any_more_is_kept_as_unparsed(bench, how, reason):
    bench.store.state = "away"
    await bench.put("a")
    bench.rebuild = how
    bench.store.state = "there"
    await bench.until_empty()
    ((receipt, verdict),) = bench.drained
    assert verdict.state == "unparsed"
    assert (receipt.reason, receipt.body, receipt.received_at, receipt.source) == (reason, b"a succeeded", NOW, "vod")
    assert (receipt.product, receipt.transport, receipt.verified_by) == ("vod", "http", "signature")


# One receipt holds up nobody


def names(logs: list[Any], level: str = "error") -> list[str]:
    return [log["event"] for log in logs if log["log_level"] == level]


async def test_a_receipt_that_the_store_refuses_does_not_hold_up_the_others(bench):
    bench.store.state = "away"
    for job in ("a", "poison", "b"):
        await bench.put(job)
    bench.store.refused.add(b"poison succeeded")
    with capture_logs() as logs:
        bench.store.state = "there"
        await until(lambda: bench.inbox.receipts == 0)
    assert [job for job, _ in await bench.stored()] == ["a", "b"]
    # With the others, and three times alone.
    assert bench.store.asked.count(b"poison succeeded") == 1 + MAX_ATTEMPTS
    assert names(logs) == ["journaled_receipt_set_aside"]
    (line,) = (log for log in logs if log["event"] == "journaled_receipt_set_aside")
    assert (line["source"], line["attempts"]) == ("vod", 3)
    assert (bench.inbox.set_aside, bench.inbox.receipts) == (1, 0)
    assert [path.suffix for path in bench.files] == [".aside"]
    assert not (await bench.put("after")).is_journaled, "what is set aside is waited for by nobody"


async def test_what_is_set_aside_is_tried_again_alone_until_the_store_takes_it(bench, monkeypatch):
    monkeypatch.setattr(journal_module, "RETRY_ASIDE_S", 0.01)
    bench.store.state = "away"
    await bench.put("poison")
    bench.store.refused.add(b"poison succeeded")
    bench.store.state = "there"
    await until(lambda: bench.store.asked.count(b"poison succeeded") >= 6)
    assert bench.inbox.set_aside == 1
    with capture_logs() as logs:
        bench.store.refused.clear()
        await until(lambda: bench.inbox.set_aside == 0)
    assert "journaled_receipt_stored" in names(logs, "info")
    assert await bench.stored() == [("poison", "accepted")]
    assert [verdict.state for _, verdict in bench.drained] == ["accepted"]
    assert (bench.files, bench.inbox.bytes_used) == ([], 0)


async def test_what_is_set_aside_survives_a_restart_with_the_count_of_its_attempts(bench, monkeypatch):
    bench.store.state = "away"
    await bench.put("poison")
    bench.store.refused.add(b"poison succeeded")
    bench.store.state = "there"
    await until(lambda: bench.inbox.set_aside == 1)
    with capture_logs() as logs:
        await bench.restart()
    assert bench.inbox.set_aside == 1
    assert [log["set_aside"] for log in logs if log["event"] == "journal_found"] == [1]
    assert bench.inbox.bytes_used == bench.files[0].stat().st_size
    monkeypatch.setattr(journal_module, "RETRY_ASIDE_S", 0.01)
    await bench.restart()
    await until(lambda: bench.inbox.set_aside == 0)
    assert await bench.stored() == [("poison", "accepted")]


async def test_a_receipt_that_times_out_three_times_is_set_aside(bench, monkeypatch):
    real = Store.put

    def hang(self, receipt):
        if b"poison" not in receipt.body:
            return real(self, receipt)
        self.asked.append(receipt.body)
        # As if the time had passed.
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(TimeoutError())
        return answer

    bench.store.state = "away"
    for job in ("a", "poison", "b"):
        await bench.put(job)
    monkeypatch.setattr(Store, "put", hang)
    with capture_logs() as logs:
        bench.store.state = "there"
        await until(lambda: bench.inbox.receipts == 0)
    assert [job for job, _ in await bench.stored()] == ["a", "b"]
    assert [log["error"] for log in logs if log["event"] == "journaled_receipt_set_aside"] == ["TimeoutError: "]
    assert bench.inbox.set_aside == 1


async def test_while_the_store_is_away_nothing_is_set_aside(bench, monkeypatch):
    """However often it fails, and however often the service is started."""
    monkeypatch.setattr(journal_module, "CHECK_TIMEOUT_S", 0.01)
    bench.store.state = "away"
    for number in range(5):
        await bench.put(f"a{number}")
    for state in ("away", "stuck", "away", "there"):
        await bench.restart(state)
        if state != "there":
            await asyncio.sleep(0.05)
    await bench.until_empty()
    assert bench.inbox.set_aside == 0
    assert [job for job, _ in await bench.stored()] == [f"a{number}" for number in range(5)]


async def test_a_store_that_takes_nothing_has_things_set_aside_ever_more_slowly(bench):
    """A check may succeed where nothing else does; then it is not their fault."""
    pauses: list[float] = []

    async def wait(event: asyncio.Event, timeout_s: float) -> None:
        pauses.append(timeout_s)
        await asyncio.sleep(0)

    bench.store.state = "away"
    for number in range(9):
        await bench.put(f"a{number}")
    bench.store.refused |= {f"a{number} succeeded".encode() for number in range(9)}
    bench.inbox._wait = wait
    bench.store.state = "there"
    await until(lambda: bench.inbox.receipts == 0)
    # Without those before the next attempt of one, and those before what is set aside is tried again.
    long = [pause for pause in pauses if journal_module.MAX_RETRY_S < pause < 50]
    assert long == [journal_module.FIRST_RETRY_S * 2**number for number in range(3, 10)]


@pytest.mark.parametrize("position", [0, 2, 4])
async def test_a_record_that_ends_the_process_is_set_aside_by_the_fourth_start(tmp_path, position):
    """The count is durable before each attempt; whoever was tried beside it is stored all the same."""
    code = f"""
import asyncio, multiprocessing, os
from pathlib import Path
from tests.inbox.test_journal import Bench, rebuild

def deadly(stored):
    if stored.body.startswith(b"poison"):
        os._exit(9)
    return rebuild(stored)

async def main():
    bench = Bench(Path({str(tmp_path)!r}))
    bench.rebuild = deadly
    await bench.inbox.open()
    while bench.inbox.receipts:
        await asyncio.sleep(0.01)
    await bench.inbox.close()

# Each life is a process, which has imported everything when it is born.
for _ in range(4):
    life = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(main()))
    life.start()
    life.join()
    print("life ended with", life.exitcode)
"""
    jobs = [f"a{number}" for number in range(4)]
    jobs.insert(position, "poison")
    bench = Bench(tmp_path)
    bench.store.state = "away"
    await bench.inbox.open()
    for job in jobs:
        await bench.put(job)
    await bench.inbox.close()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert re.findall(rb"life ended with (-?\d+)", told) == [b"9", b"9", b"9", b"0"]
    await bench.restart()
    assert bench.inbox.set_aside == 1
    found = await bench.stored()
    assert {job for job, state in found if state == "accepted"} == set(jobs) - {"poison"}
    await bench.inbox.close()


async def test_a_clean_stop_is_no_attempt(bench, monkeypatch):
    """Or three restarts while a slow store takes a receipt would set it aside."""
    monkeypatch.setattr(journal_module, "CLOSE_TIMEOUT_S", 0.05)
    bench.store.state = "away"
    await bench.put("slow")
    waiting = []

    def hang(self, receipt):
        waiting.append(receipt.body)
        return asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", hang)
        for _ in range(4):
            await bench.restart()
            await until(lambda: len(waiting) > 0)
            waiting.clear()
        await bench.restart()
    await bench.restart()
    await bench.until_empty()
    assert bench.inbox.set_aside == 0
    assert await bench.stored() == [("slow", "accepted")]


async def test_a_disk_that_takes_no_note_does_not_keep_the_journal_from_being_drained(bench, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.store.state = "away"
    await bench.put("a")
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(bench.inbox._journal.attempts, "note", full)
        bench.store.state = "there"
        await bench.until_empty()
    assert "journal_attempt_not_noted" in names(logs, "warning")
    assert await bench.stored() == [("a", "accepted")]


async def test_what_is_drained_at_once_is_bounded_by_what_comes_of_it(bench, monkeypatch):
    monkeypatch.setattr(journal_module, "_CHUNK_BYTES", 100_000)
    at_once: list[int] = []
    real = bench.inbox._put_all

    async def observe(receipts, payloads):
        at_once.append(len(receipts))
        return await real(receipts, payloads)

    def rebuild_large(stored: StoredReceipt) -> Receipt:
        job, outcome = stored.body.decode().split()
        event = make_event(job, outcome, user_data="x" * 20_000)
        return make_receipt(event, body=stored.body, at=stored.received_at)

    monkeypatch.setattr(bench.inbox, "_put_all", observe)
    bench.rebuild = rebuild_large
    bench.store.state = "away"
    for number in range(9):
        await bench.put(f"a{number}")
    bench.store.state = "there"
    await bench.until_empty()
    assert (max(at_once), sum(at_once)) == (2, 9)


async def test_a_record_of_another_version_is_set_aside(bench):
    bench.store.state = "away"
    for payload in (b"{}", b"[]", b"null", b"not JSON", b'{"source":"vod"}'):
        await bench.inbox._append(payload)
    await bench.put("a")
    bench.store.state = "there"
    await bench.until_empty()
    assert await bench.stored() == [("a", "accepted")]
    assert [path.suffix for path in bench.files] == [".corrupt"]


# Bounds


async def test_a_full_journal_is_a_refusal_and_no_false_success(bench):
    bench.store.state = "away"
    big = "x" * 90_000
    kept = 0
    with contextlib.suppress(InboxUnavailable):
        while True:
            await bench.put(f"{kept}-{big}")
            kept += 1
    assert 5 < kept < 12
    with pytest.raises(InboxUnavailable, match="journal_max_bytes"):
        await bench.put(f"again-{big}")
    with contextlib.suppress(InboxUnavailable):
        while True:
            await bench.put("small" + "x" * 3000)
    with pytest.raises(InboxUnavailable, match="database does not answer; the journal is full"):
        await bench.inbox.check()
    bench.store.state = "there"
    await bench.inbox.check()
    await bench.until_empty()
    found = [job for job, _ in await bench.stored()]
    assert len([job for job in found if job.endswith(big)]) == kept
    await bench.put("after")


async def test_ready_while_the_store_works_or_the_journal_can_take_more(bench, monkeypatch):
    await bench.inbox.check()
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "CHECK_TIMEOUT_S", 0.01)
        bench.store.state = "stuck"
        await bench.inbox.check()
    bench.store.state = "away"
    await bench.inbox.check()
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096, f_blocks=1 << 20))
        with pytest.raises(InboxUnavailable, match="does not answer; the disk of the journal has 4096 bytes left"):
            await bench.inbox.check()
        with pytest.raises(InboxUnavailable, match="the disk of the journal has 4096 bytes left"):
            await bench.put("a")
        bench.store.state = "there"
        await bench.inbox.check()
        assert not (await bench.put("a")).is_journaled


async def test_a_disk_that_hangs_is_a_refusal_in_time(bench, monkeypatch):
    import threading

    released = threading.Event()
    real = os.fsync

    def hang(file):
        released.wait()
        real(file)

    bench.store.state = "away"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", hang)
        patch.setattr(journal_module, "JOURNAL_TIMEOUT_S", 0.05)
        try:
            with pytest.raises(InboxUnavailable, match="has not answered"):
                await bench.put("a")
            with pytest.raises(InboxUnavailable, match="the journal's disk does not answer"):
                await bench.inbox.check()
        finally:
            released.set()
    # What was refused may be there nevertheless, and then is a duplicate when it comes again.
    bench.store.state = "there"
    await bench.put("a")
    await bench.until_empty()
    assert await bench.stored() == [("a", "accepted"), ("a", "duplicate")]


async def test_an_error_of_the_disk_is_a_refusal(bench, monkeypatch):
    bench.store.state = "away"

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(InboxUnavailable, match="cannot be written: Input/output error"):
            await bench.put("a")
        with pytest.raises(InboxUnavailable, match="cannot be written: Input/output error"):
            await bench.inbox.check()
    assert (await bench.put("a")).is_journaled
    await bench.inbox.check()


async def test_no_mistake_ends_the_thread(bench, monkeypatch):
    bench.store.state = "away"
    with monkeypatch.context() as patch:
        patch.setattr(bench.inbox._journal, "append", lambda _: 1 / 0)
        with pytest.raises(InboxUnavailable, match="ZeroDivisionError"):
            await bench.put("a")
    assert (await bench.put("a")).is_journaled


@pytest.mark.parametrize("limit", ["_max_receipts", "_max_bytes"])
async def test_only_so_many_wait_for_the_journal(bench, monkeypatch, limit):
    monkeypatch.setattr(bench.inbox._pending, limit, 0)
    bench.store.state = "away"
    with pytest.raises(InboxUnavailable, match="which is the limit"):
        await bench.put("a")


async def test_who_stops_waiting_does_no_harm(bench):
    bench.store.state = "away"
    waiting = [asyncio.ensure_future(bench.put(f"a{number}")) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[1].cancel()
    assert (await waiting[2]).is_journaled
    bench.store.state = "there"
    await bench.until_empty()
    assert {job for job, _ in await bench.stored()} >= {"a0", "a2"}


async def test_each_attempt_is_on_disk_before_it_is_made(bench, monkeypatch):
    """With how often the record was tried, also after it has failed in this life."""
    noted: list[str] = []
    real = bench.inbox._put_into_store

    async def observe(receipt):
        if receipt.body.startswith(b"poison"):
            noted.append((bench.folder / "journal" / "tried").read_text())
        return await real(receipt)

    bench.store.state = "away"
    for job in ("poison", "b"):
        await bench.put(job)
    bench.store.refused.add(b"poison succeeded")
    monkeypatch.setattr(bench.inbox, "_put_into_store", observe)
    bench.store.state = "there"
    await until(lambda: bench.inbox.receipts == 0)
    digest = noted[0].split()[0]
    counts = [dict(line.split() for line in text.splitlines())[digest] for text in noted]
    assert counts == ["1", "1", "2", "3"]
    await until(lambda: not (bench.folder / "journal" / "tried").exists())


def test_what_a_power_failure_leaves_of_notes_is_read_as_far_as_it_goes(tmp_path):
    attempts = Attempts(tmp_path)
    assert attempts.open() == {}
    one, two = digest_of(b"one"), digest_of(b"two")
    attempts.note({one: 2, two: 1})
    assert Attempts(tmp_path).open() == {one: 2, two: 1}
    whole = (tmp_path / "tried").read_bytes()
    (tmp_path / "tried").write_bytes(whole[:40] + b"\0\xff\n")
    assert Attempts(tmp_path).open() == {one: 2}
    attempts.set_aside(one, b"one", 3)
    (tmp_path / f"{one}.2.aside").write_bytes(b"one")
    again = Attempts(tmp_path)
    again.open()
    assert again.aside == {one: 3}
    assert again.take(one) == b"one"
    assert again.aside == {one: 4}
    again.forget(one)
    assert again.aside == {}
