"""Live, ready, and why not."""

import asyncio
import json

import pytest

from media_callbacks.edge.health import Readiness
from media_callbacks.model.errors import InboxUnavailable
from tests.factories.running import connected, encode, encode_request, read_answer, run_service
from tests.inbox.test_journal import Store


async def test_a_service_that_runs_is_live_and_ready(running):
    for path in ("/health/live", "/health/ready"):
        answer = await running.get(path)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        assert (await running.get(path, method="HEAD")).status == 200
        answer = await running.get(path, method="POST")
        assert answer.status == 405
        assert "GET" in answer.headers["allow"]
        # Health is for whoever can reach callbacks, not for operators alone.
        assert (await running.get(path, admin=True)).status == 404


async def test_a_service_that_cannot_store_is_live_and_not_ready(running, monkeypatch):
    monkeypatch.setattr(Readiness, "_CHECK_EVERY_S", 0.0)
    async with running.failing_store("query_only = 1", "query_only = 0"):
        answer = await running.get("/health/ready")
        assert (answer.status, answer.json()) == (503, {"status": "store unavailable"})
        assert (await running.get("/health/live")).status == 200
    assert (await running.get("/health/ready")).status == 200
    assert [line["event"] for line in running.logs if line["log_level"] == "warning"] == ["not_ready"]


async def test_a_service_that_is_asked_to_stop_finishes_what_it_has_begun(running, loop_clock):
    """A callback whose body is still coming is stored, answered and delivered; nobody new is let in."""
    encoded = encode(running.build("vod", "j"))
    async with connected(running.address) as (reader, writer), connected(running.address) as (other, idle):
        idle.write(encode_request("GET", "/health/live"))
        assert await read_answer(other) is not None
        # Until its headers are there, a connection is an idle one.
        head, _, body = encoded.partition(b"\r\n\r\n")
        writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        running.stop.set()
        assert await other.read() == b""
        assert running.service.readiness.is_draining
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*running.address.split(":"))
        # Longer than a service takes that has nothing to wait for.
        for _ in range(50):
            loop_clock.skip(0.1)
            await asyncio.sleep(0)
        assert not running.ended.done()
        writer.write(body)
        answer = await read_answer(reader)
        assert answer is not None
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
    await running.ended
    assert running.rows("SELECT state FROM receipts") == [("accepted",)]
    assert [line["event"] for line in running.logs if line["event"].startswith("stop")] == ["stopping", "stopped"]


async def test_a_service_that_drains_says_so(running):
    running.service.readiness.is_draining = True
    answer = await running.get("/health/ready")
    assert (answer.status, answer.json()) == (503, {"status": "draining"})
    assert (await running.get("/health/live")).status == 200
    # Callbacks that still come are taken.
    assert (await running.send(running.build("vod", "j"))).status == 200


async def test_with_a_journal_the_service_is_ready_and_says_that_its_store_is_away(tmp_path, monkeypatch):
    """The balancer must not take it away, and the operator must know."""
    store = Store(tmp_path / "inbox.db")
    monkeypatch.setattr("media_callbacks.app.build_inbox", lambda *_, **__: store)
    monkeypatch.setattr(Readiness, "_CHECK_EVERY_S", 0.0)
    changes = {"store.url": "postgresql://db.example.com/callbacks", "server.journal_path": str(tmp_path / "journal")}
    async with run_service(tmp_path, changes=changes) as running:
        store.state = "away"
        assert (await running.send(running.build("vod", "j"))).status == 200
        assert (await running.get("/health/ready")).status == 200
        metrics = await running.metrics()
        assert (metrics["media_callbacks_store_up"], metrics["media_callbacks_journal_receipts"]) == (0, 1)
        store.state = "there"
        (event,) = await running.receiver.wait_for(1)
        assert event["subject"] == "j"
        assert (await running.metrics())["media_callbacks_store_up"] == 1


# The rule by itself


class Checked:
    def __init__(self) -> None:
        self.checks = 0
        self.error: Exception | None = None
        self.is_stuck = False

    async def check(self) -> None:
        self.checks += 1
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


def make_readiness(store: Checked) -> tuple[Readiness, list[float]]:
    now = [1000.0]
    return Readiness(store, monotonic=lambda: now[0]), now


async def test_the_store_is_asked_once_a_second_however_often_we_are():
    store = Checked()
    readiness, now = make_readiness(store)
    for _ in range(100):
        assert await readiness.problem() is None
    assert store.checks == 1
    store.error = InboxUnavailable("disk full")
    now[0] += 0.9
    assert await readiness.problem() is None
    now[0] += 0.2
    for _ in range(3):
        assert await readiness.problem() == "store unavailable"
    store.error = None
    now[0] += 1.1
    assert await readiness.problem() is None
    assert store.checks == 3


async def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch):
    """An orchestrator's probe has a time-out of its own, and would learn less from it."""
    store = Checked()
    store.is_stuck = True
    readiness, _ = make_readiness(store)
    timeout = asyncio.timeout
    monkeypatch.setattr("media_callbacks.edge.health.asyncio.timeout", lambda _: timeout(0))
    assert await readiness.problem() == "store unavailable"


async def test_draining_counts_more_than_a_good_store():
    store = Checked()
    readiness, _ = make_readiness(store)
    readiness.is_draining = True
    assert await readiness.problem() == "draining"
    answer = await readiness.ready()
    assert answer.status == 503
    assert json.loads(answer.body) == {"status": "draining"}
    assert store.checks == 0
