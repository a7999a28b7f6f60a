"""Following events through the operators' listener: a real service, real sockets, both databases."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import pytest

from media_callbacks.admin.feed import MAX_BYTES, MAX_CLIENTS
from media_callbacks.edge.admin_protocol import AdminProtocol
from media_callbacks.model.errors import CursorGone, InboxUnavailable
from tests.factories.running import Answer, Running, connected, encode_request, run_service
from tests.inbox.conformance import DAY, make_event, make_receipt, with_data

Json = dict[str, Any]


@pytest.fixture(params=["sqlite", "postgresql"])
def changes(request: pytest.FixtureRequest) -> Json:
    return {} if request.param == "sqlite" else {"store.url": request.getfixturevalue("database_url")}


@pytest.fixture
async def running(tmp_path: Path, changes: Json) -> AsyncIterator[Running]:
    # Nothing goes to a sink, so that nothing but the feed is told of events.
    async with run_service(tmp_path, sinks=(), changes=changes) as running:
        yield running


async def ask(running: Running, **query: Any) -> Answer:
    return await running.get(f"/v1/feed?{urlencode(query)}", admin=True)


async def follow(running: Running, **query: Any) -> Json:
    answer = await ask(running, **query)
    assert answer.status == 200, answer.body
    found: Json = answer.json()
    return found


async def begin(running: Running) -> str:
    cursor: str = (await follow(running))["cursor"]
    return cursor


async def until_waiting(running: Running, count: int) -> None:
    await running.until(lambda: len(running.service.feed._waiting) == count)


def jobs_of(page: Json) -> list[str]:
    return [event["data"]["job_id"] for event in page["events"]]


async def test_who_waits_is_answered_when_something_comes(running):
    cursor = await begin(running)
    waiting = asyncio.create_task(follow(running, after=cursor, wait=60))
    await until_waiting(running, 1)
    assert (await running.send(running.build("vod", "job-1"))).status == 200
    page = await waiting
    assert jobs_of(page) == ["job-1"]
    (event,) = page["events"]
    shown = (await running.get(f"/v1/events/{event['id']}", admin=True)).json()
    assert event == shown["event"]
    assert await follow(running, after=page["cursor"]) == {"events": [], "cursor": page["cursor"]}


async def test_what_is_there_is_answered_at_once(running):
    cursor = await begin(running)
    for number in range(3):
        await running.send(running.build("vod", f"job-{number}"))
    page = await follow(running, after=cursor, wait=60, limit=2)
    assert jobs_of(page) == ["job-0", "job-1"]
    assert jobs_of(await follow(running, after=page["cursor"], wait=60)) == ["job-2"]
    assert jobs_of(await follow(running, since="2020-01-01T00:00:00Z")) == ["job-0", "job-1", "job-2"]


async def test_many_who_wait_cost_one_read(running, monkeypatch):
    cursor = await begin(running)
    waiting = [asyncio.create_task(follow(running, after=cursor, wait=60)) for _ in range(MAX_CLIENTS - 1)]
    rare = asyncio.create_task(follow(running, after=cursor, wait=60, kind="transcode"))
    await until_waiting(running, MAX_CLIENTS)
    reads = Counter[str]()
    inbox = running.service.inbox
    read_feed = inbox.read_feed

    async def count(*arguments: Any, **options: Any) -> Any:
        part = await read_feed(*arguments, **options)
        reads["with events" if part.events else "without"] += 1
        return part

    monkeypatch.setattr(inbox, "read_feed", count)
    await running.send(running.build("vod", "job-1"))
    assert {tuple(jobs_of(page)) for page in await asyncio.gather(*waiting)} == {("job-1",)}
    assert reads["with events"] == 1
    await running.send(running.build("vod", "job-2", event="StreamTranscodeComplete"))
    assert jobs_of(await rare) == ["job-2"]


async def test_who_is_one_too_many_is_told_to_come_again(running):
    cursor = await begin(running)
    request = encode_request("GET", f"/v1/feed?after={cursor}&wait=60", host=running.admin_address)
    async with contextlib.AsyncExitStack() as leaving:
        for _ in range(MAX_CLIENTS):
            _, writer = await leaving.enter_async_context(connected(running.admin_address))
            writer.write(request)
        await until_waiting(running, MAX_CLIENTS)
        refused = await ask(running, after=cursor)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "which is the limit" in refused.json()["detail"]
        # Operators are answered all the same.
        assert (await running.get("/v1/sinks", admin=True)).status == 200
    # Who has left takes no room.
    await until_waiting(running, 0)
    assert (await ask(running, after=cursor)).status == 200


async def test_a_stop_answers_who_waits(tmp_path, changes):
    async with run_service(tmp_path, sinks=(), changes=changes | {"server.stop_timeout_s": 60}) as running:
        cursor = await begin(running)
        waiting = asyncio.create_task(follow(running, after=cursor, wait=60))
        await until_waiting(running, 1)
        running.stop.set()
        # Long before either time is over, else the service would end before its client.
        assert await waiting == {"events": [], "cursor": cursor}
        assert running.ended is not None
        await running.ended


async def test_the_cursor_goes_past_what_does_not_fit_also_for_who_waits(running):
    cursor = await begin(running)
    waiting = asyncio.create_task(follow(running, after=cursor, wait=60, job_id="job-2"))
    await until_waiting(running, 1)
    for name in ("job-1", "job-2", "job-3"):
        await running.send(running.build("vod", name))
    page = await waiting
    assert jobs_of(page) == ["job-2"]
    later = await follow(running, after=page["cursor"], job_id="job-2")
    assert later["events"] == []
    assert later["cursor"] != page["cursor"] or later["cursor"] == await begin(running)


@pytest.mark.parametrize(
    "query, expected",
    [
        ({"product": "ims"}, ["i"]),
        ({"kind": "transcode"}, ["t"]),
        ({"outcome": "failed"}, ["f"]),
        ({"source": "ims"}, ["i"]),
        ({"source": "vod", "kind": "animated_image", "outcome": "succeeded"}, ["a"]),
        ({"job_id": "nobody"}, []),
    ],
)
async def test_filters_are_those_of_lists(running, query, expected):
    cursor = await begin(running)
    await running.send(running.build("vod", "a"))
    await running.send(running.build("vod", "f", failed=True))
    await running.send(running.build("vod", "t", event="StreamTranscodeComplete"))
    await running.send(running.build("ims", "i", event="DynamicImageComplete"))
    assert jobs_of(await follow(running, after=cursor, **query)) == expected


async def test_no_answer_is_larger_than_bytes_allow(running):
    cursor = await begin(running)
    size = MAX_BYTES // 3
    for number in range(5):
        event = with_data(make_event(f"job-{number}"), user_data="x" * size)
        await running.service.inbox.put(make_receipt(event, sinks=()))
    found = []
    while jobs := jobs_of(page := await follow(running, after=cursor)):
        assert len(jobs) <= 3
        found += jobs
        cursor = page["cursor"]
    assert found == [f"job-{number}" for number in range(5)]


async def test_who_comes_after_events_were_purged_is_told_where_to_go_on(running):
    cursor = await begin(running)
    await running.send(running.build("vod", "old"))
    inbox = running.service.inbox
    purged = await inbox.purge(keep_payloads=-DAY, keep_keys=DAY, limit=100)
    while not purged.is_finished:
        purged = await inbox.purge(keep_payloads=-DAY, keep_keys=DAY, limit=100)
    refused = await ask(running, after=cursor, wait=60)
    assert (refused.status, refused.headers["content-type"]) == (410, "application/problem+json")
    problem = refused.json()
    assert f"since={problem['since']}" in problem["detail"]
    page = await follow(running, since=problem["since"])
    await running.send(running.build("vod", "new"))
    assert jobs_of(page) + jobs_of(await follow(running, after=page["cursor"])) == ["new"]


async def test_who_waits_while_the_store_goes_away_is_told_so(running, monkeypatch):
    cursor = await begin(running)
    waiting = asyncio.create_task(ask(running, after=cursor, wait=60))
    await until_waiting(running, 1)

    async def fail(*_: Any, **__: Any) -> Any:
        raise InboxUnavailable("the store is away")

    monkeypatch.setattr(running.service.inbox, "read_feed", fail)
    running.service.feed._hear(())
    assert (await waiting).status == 503


async def test_nothing_is_lost_or_doubled_across_restarts(tmp_path, changes):
    """A consumer that keeps its cursor, while callbacks come all the time and the service is started anew."""
    seen: list[str] = []
    sent: list[str] = []
    cursor: str | None = None
    for life in range(3):
        async with run_service(tmp_path, sinks=(), changes=changes) as running:
            cursor = cursor or await begin(running)

            async def send(number: int, running: Running = running, life: int = life) -> None:
                name = f"job-{life}-{number}"
                assert (await running.send(running.build("vod", name))).status == 200
                sent.append(name)

            sending = asyncio.gather(*(send(number) for number in range(60)))
            # The last life is followed to its end, the others are left in the middle.
            while life == 2 or len(seen) < 60 * life + 30:
                page = await follow(running, after=cursor, wait=0 if sending.done() else 60, limit=7)
                seen += jobs_of(page)
                cursor = page["cursor"]
                if sending.done() and not page["events"]:
                    break
            await sending
    assert sorted(seen) == sorted(sent)


async def test_who_does_not_read_his_answer_is_let_go_and_delays_nobody(running, monkeypatch):
    monkeypatch.setattr(AdminProtocol, "write_timeout_s", 0.05)
    cursor = await begin(running)
    # More than the buffers of both sides' kernels take.
    event = with_data(make_event("large"), user_data="x" * 2**24)
    await running.service.inbox.put(make_receipt(event, sinks=()))
    request = encode_request("GET", f"/v1/feed?after={cursor}", host=running.admin_address)
    async with contextlib.AsyncExitStack() as leaving:
        for _ in range(3):
            _, writer = await leaving.enter_async_context(connected(running.admin_address))
            cast("asyncio.ReadTransport", writer.transport).pause_reading()
            writer.write(request)
        await running.until(lambda: sum(line.get("reason") == "slow_reader" for line in running.lines) > 0)
        assert (await running.get("/v1/sinks", admin=True)).status == 200
        await running.until(lambda: running.service.feed._clients == 0)


async def test_a_cursor_that_is_gone_while_others_wait_is_theirs_alone(running, monkeypatch):
    cursor = await begin(running)
    waiting = asyncio.create_task(ask(running, after=cursor, wait=60))
    await until_waiting(running, 1)

    async def refuse(*_: Any, **__: Any) -> Any:
        raise CursorGone("of somebody else", since=datetime.now(UTC))

    with monkeypatch.context() as patch:
        patch.setattr(running.service.inbox, "read_feed", refuse)
        running.service.feed._hear(())
        answer = await waiting
    assert (answer.status, answer.json()) == (200, {"events": [], "cursor": cursor})


async def test_what_is_no_cursor_is_told_in_words(running):
    refused = await ask(running, after="xyz")
    assert (refused.status, refused.json()["detail"]) == (
        400,
        "after: expected the cursor of an answer, as it stands there",
    )
