"""What applications use to register jobs, against the real API."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from aiohttp import web

from media_callbacks.client.admin_api import AdminApi
from media_callbacks.client.jobs import ExpectedJobStatus, JobResult, JobsClient, JobsClientError, JobToExpect
from media_callbacks.client.minting import mint_gif
from media_callbacks.model.events import parse_event
from media_callbacks.sources.transports.url_tokens import bind_task, read_token
from tests.factories.fake_admin import FakeAdmin, event_detail, fake_admin, job_item, problem
from tests.factories.operators import NOW, Operators, operating, serving
from tests.factories.running import PATIENCE_S, run_service
from tests.inbox.conformance import make_event, make_receipt

JOBS_TOKEN = "jobs-token-6b1d0e8a4c7f"
ADMIN_TOKEN = "admin-token-40aa21c7"
GIF: dict[str, Any] = {"product": "vod", "family": "animated_image", "media_id": "media-1"}
TRANSCODE: dict[str, Any] = {"product": "mts", "family": "Transcode"}
T = TypeVar("T")


@pytest.fixture
async def operators(tmp_path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as found:
        yield found


@pytest.fixture
async def url(operators) -> AsyncIterator[str]:
    async with serving(operators, token=ADMIN_TOKEN, jobs_token=JOBS_TOKEN) as found:
        yield found


@pytest.fixture
def client(url) -> JobsClient:
    return JobsClient(url, JOBS_TOKEN)


@pytest.fixture
async def fake() -> AsyncIterator[FakeAdmin]:
    async with fake_admin() as found:
        yield found


async def refusal(call: Callable[..., Any], **arguments: Any) -> JobsClientError:
    with pytest.raises(JobsClientError) as raised:
        await asyncio.to_thread(call, **arguments)
    assert JOBS_TOKEN not in str(raised.value)
    return raised.value


async def test_a_job_is_registered_right_after_it_was_submitted(client, operators):
    deadline = datetime(2026, 11, 21, 13, tzinfo=UTC).astimezone()
    found = await asyncio.to_thread(client.expect, **GIF, job_id="job-1", deadline=deadline, user_data="7")
    assert found == ExpectedJobStatus(
        id=1,
        state="expected",
        product="vod",
        account="default",
        family="animated_image",
        job_id="job-1",
        media_id="media-1",
        nonce=None,
        user_data="7",
        registered_at=NOW,
        deadline_at=deadline,
        transport=None,
        event_id=None,
        outcome=None,
        ended_at=None,
        attempts=0,
        notification=None,
        kind="animated_image",
    )
    assert operators.registered == 1


async def test_a_job_is_registered_and_found_by_the_kind_of_its_event(client):
    names = {"product": "mts", "family": "workflow", "job_id": "run-1"}
    found = await asyncio.to_thread(client.expect, **names)
    assert (found.family, found.kind) == ("run", "workflow")
    assert await asyncio.to_thread(client.get, **names) == found
    assert await asyncio.to_thread(client.get, **names | {"family": "run"}) == found
    assert await asyncio.to_thread(client.get, **names | {"family": "transcode"}) is None


def test_an_older_service_does_not_say_the_kind(client):
    document = job_item(1)
    del document["kind"]
    assert ExpectedJobStatus.from_json(document).kind is None


async def test_a_service_that_runs_brings_what_was_expected_to_its_end(tmp_path):
    tokens = {"admin.token": ADMIN_TOKEN, "admin.jobs_token": JOBS_TOKEN}
    async with run_service(tmp_path, changes=tokens) as service:
        service.secrets.add(JOBS_TOKEN.encode())
        client = JobsClient(f"http://{service.admin_address}", JOBS_TOKEN)
        request = service.build("vod", "job-1")
        found = await asyncio.to_thread(client.expect, **GIF, job_id="job-1")
        assert found.state == "expected"
        assert (found.deadline_at - found.registered_at).total_seconds() == 3600
        await service.send(request)
        (event,) = await service.receiver.wait_for(1)
        ended = await asyncio.to_thread(client.get, product="vod", family="animated_image", job_id="job-1")
        assert ended is not None
        assert (ended.state, ended.transport, ended.event_id) == ("completed", "http", event["id"])
        where = [(b"Authorization", f"Bearer {JOBS_TOKEN}".encode())]
        assert (await service.get("/v1/jobs", admin=True, headers=where)).status == 200
        assert (await service.get("/v1/report", admin=True, headers=where)).status == 401


async def test_an_order_without_a_body_has_the_type_of_one(operators):
    async with serving(operators, token=None) as url:
        api = AdminApi(url, None, timeout_s=30.0, max_answer_bytes=1 << 20)
        answer = await asyncio.to_thread(api.ask, "POST", "/v1/sinks/orders/pause")
    assert (answer.status, answer.document["state"]) == (200, "paused")


async def test_many_jobs_are_registered_a_thousand_at_once(client, operators):
    jobs = [JobToExpect(**TRANSCODE, job_id=f"job-{number}") for number in range(1001)]
    found = await asyncio.to_thread(client.expect_many, jobs)
    assert [status.job_id for status in found] == [job.job_id for job in jobs]
    assert operators.registered == 2
    assert client.expect_many([]) == []
    assert operators.registered == 2


async def test_what_became_of_a_job_can_be_asked(client, operators):
    await asyncio.to_thread(client.expect, **GIF, job_id="job-1")
    await asyncio.to_thread(client.expect, **TRANSCODE, job_id="job-1", account="second")
    (event_id,) = await operators.put("job-1")
    found = await asyncio.to_thread(client.get, product="vod", family="animated_image", job_id="job-1\n")
    assert found is not None
    assert (found.state, found.event_id, found.outcome, found.ended_at) == ("completed", event_id, "succeeded", NOW)
    found = await asyncio.to_thread(client.get, **TRANSCODE, job_id="job-1", account="second")
    assert found is not None
    assert found.state == "expected"
    for other in ({"job_id": "job-2"}, {"job_id": "job-1", "account": "third"}):
        assert await asyncio.to_thread(client.get, **TRANSCODE, **other) is None


async def test_jobs_are_listed_over_all_pages_and_no_more_than_asked_for(client, operators):
    jobs = [JobToExpect(**TRANSCODE, job_id=f"job-{number}") for number in range(601)]
    await asyncio.to_thread(client.expect_many, jobs)
    operators.now += timedelta(minutes=1)
    await asyncio.to_thread(client.expect, **GIF, job_id="gif")

    async def names(**arguments: Any) -> list[str | None]:
        return [job.job_id for job in await asyncio.to_thread(client.list, **arguments)]

    assert await names(product="mts", limit=1000) == [f"job-{number}" for number in range(600, -1, -1)]
    assert len(await names(limit=501)) == 501
    assert await names(limit=1) == ["gif"]
    assert await names(limit=0) == []
    assert await names(job_id="job-5") == ["job-5"]
    assert await names(since=NOW + timedelta(seconds=1)) == ["gif"]
    assert await names(until=NOW + timedelta(seconds=1), limit=2) == ["job-600", "job-599"]
    assert await names(state="healed") == []


async def test_a_task_is_bound_to_its_minted_url(client):
    gif: Any = {"product": "multimediaai", "family": "animated_image", "nonce": "0f" * 12}
    first = await asyncio.to_thread(client.expect, **gif, bind="ab" * 16)
    bound = await asyncio.to_thread(client.expect, **gif, job_id="123")
    assert (bound.id, bound.nonce, bound.job_id) == (first.id, "0f" * 12, "123")
    error = await refusal(client.expect, **gif, job_id="124")
    assert (error.status, error.is_temporary) == (409, False)


async def test_mistakes_are_told_with_what_was_expected(client):
    jobs = [JobToExpect(**GIF, job_id="a"), JobToExpect(product="vod", family="none", job_id="b")]
    error = await refusal(client.expect_many, jobs=jobs)
    assert (error.status, error.is_temporary) == (422, False)
    assert error.detail == "1.family: expected one of vod: animated_image, transcode"
    assert str(error).endswith(f"answered HTTP 422: {error.detail}")
    with pytest.raises(ValueError, match="deadline: expected a time with a time zone"):
        client.expect(**GIF, job_id="a", deadline=datetime(2026, 1, 1))


async def test_another_token_is_refused(url):
    error = await refusal(JobsClient(url, "another-token-of-some-length").expect, **GIF, job_id="a")
    assert (error.status, error.is_temporary) == (401, False)
    error = await refusal(JobsClient(url, None).expect, **GIF, job_id="a")
    assert error.status == 401
    assert (await asyncio.to_thread(JobsClient(url + "/", ADMIN_TOKEN).expect, **GIF, job_id="a")).id == 1


async def test_a_service_that_is_away_may_be_back_later(fake):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # Nobody answers this one.
        error = await refusal(JobsClient(f"http://127.0.0.1:{port}", JOBS_TOKEN, timeout_s=0.05).list)
        assert (error.status, error.is_temporary) == (None, True)
        assert "can't be reached (no answer within 0.05 s)" in str(error)
    error = await refusal(JobsClient(f"http://127.0.0.1:{port}", JOBS_TOKEN).list)
    assert (error.status, error.is_temporary) == (None, True)
    assert "can't be reached (Connection refused)" in str(error)
    fake.answers["GET /v1/jobs"] = problem(503, "the store is away")
    error = await refusal(JobsClient(fake.url, JOBS_TOKEN).list)
    assert (error.status, error.is_temporary, error.detail) == (503, True, "the store is away")


async def test_an_answer_that_is_cut_off_is_worth_another_try():
    async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # All of the request: to close with something unread would reset the connection.
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"(?i)content-length: *([0-9]+)", head)[0]))
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[{"id": 1')
        writer.close()

    server = await asyncio.start_server(cut_off, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        error = await refusal(JobsClient(f"http://127.0.0.1:{port}", None).expect, **GIF, job_id="job-1")
    assert error.is_temporary
    assert str(error) == f"the admin API at http://127.0.0.1:{port} can't be reached (IncompleteRead)"


async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else(fake):
    where = {"Location": f"{fake.url}/elsewhere"}
    fake.answers["GET /v1/jobs"] = web.json_response({"jobs": [], "cursor": None}, status=307, headers=where)
    error = await refusal(JobsClient(fake.url, JOBS_TOKEN).list)
    assert (error.status, error.is_temporary) == (307, False)
    assert [(asked.path, asked.authorization) for asked in fake.asked] == [("/v1/jobs", f"Bearer {JOBS_TOKEN}")]


async def test_proxies_of_the_environment_are_not_used(url, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await asyncio.to_thread(JobsClient(url, JOBS_TOKEN).list) == []


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(text="<html>", content_type="text/html"),
        web.json_response([]),
        web.json_response({}),
        web.json_response({"jobs": [{}]}),
        web.json_response({"jobs": 7}),
        web.json_response({"jobs": [job_item(1) | {"deadline_at": "soon"}]}),
        web.Response(text="[" * 100_000),
    ],
    ids=range(7),
)
async def test_what_is_not_the_service_is_said_so(fake, answer):
    fake.answers["GET /v1/jobs"] = answer
    error = await refusal(JobsClient(fake.url, JOBS_TOKEN).list)
    assert "not as media-callbacks does" in str(error)
    fake.answers["POST /v1/jobs"] = web.json_response([])
    error = await refusal(JobsClient(fake.url, JOBS_TOKEN).expect, **GIF, job_id="a")
    assert "not as media-callbacks does" in str(error)


async def test_members_of_a_later_version_are_left_out(fake):
    fake.answers["GET /v1/jobs"] = {"jobs": [job_item(1) | {"colour": "red"}], "cursor": None}
    (found,) = await asyncio.to_thread(JobsClient(fake.url, None).list)
    assert found.job_id == "job-1"
    assert fake.asked[0].authorization is None


async def test_the_service_may_be_below_a_path(fake):
    fake.answers["GET /callbacks/v1/jobs"] = {"jobs": [], "cursor": None}
    assert await asyncio.to_thread(JobsClient(f"{fake.url}/callbacks/", None).list) == []


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("callbacks.internal:8081", None),
        ("ftp://callbacks.internal", None),
        ("http://", None),
        ("http://user@host", None),
        ("http://:password@host", None),
        ("http://[::1", None),
        ("http://host?x=1", None),
        ("http://host:99999", None),
        ("http://host", ""),
        ("http://host", f"{JOBS_TOKEN}\r\nHost: x"),
        ("http://host", "pässword-of-some-length"),
    ],
)
def test_an_address_or_a_token_that_is_none_is_refused_at_once(url, token):
    with pytest.raises(ValueError) as raised:
        JobsClient(url, token)
    assert token is None or not token or token not in str(raised.value)


def test_it_needs_nothing_but_the_standard_library():
    code = "import sys; import media_callbacks.client; print(*sorted(m for m in sys.modules if '.' not in m or m.startswith('media_callbacks')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if name.startswith("media_callbacks")} == {
        "media_callbacks",
        "media_callbacks.client",
        "media_callbacks.client.admin_api",
        "media_callbacks.client.jobs",
    }
    assert not {"pydantic", "aiohttp", "structlog", "starlette"} & set(loaded)


def test_an_application_mints_what_the_service_believes():
    key = b"k" * 32
    minted = mint_gif(
        url="https://cb.example.com/callbacks/gif/",
        key="7:" + "a2tr" * 10 + "a2s=",
        application_id="app",
        video_url="https://media.example.com/in.mp4",
        video_name="holiday",
        expires_at=NOW + timedelta(days=7, microseconds=5),
    )
    base, _, token = minted.callback_url.rpartition("/")
    assert base == "https://cb.example.com/callbacks/gif"
    read = read_token(token.encode(), {7: key}, now=NOW)
    assert (read.nonce.hex(), read.bind.hex()) == (minted.nonce, minted.bind)
    assert read.bind == bind_task("app", "https://media.example.com/in.mp4", minted.video_name)
    assert minted.video_name == f"holiday#{minted.nonce}"
    assert minted.expires_at == NOW + timedelta(days=7)


# Waiting


def life_of(**changes: Any) -> dict[str, Any]:
    """What the service tells of a job, as far as a client reads it."""
    document = {"product": "vod", "id": "job-1", "ended": False, "outcome": None, "jobs": [], "events": []}
    return document | changes


def ended() -> dict[str, Any]:
    return life_of(
        ended=True, outcome="succeeded", jobs=[job_item(1, state="completed")], events=[event_detail(1, **OF_EVENT)]
    )


OF_EVENT = {"kind": "snapshot", "outcome": "succeeded", "revision": 1}
LIFE = "GET /v1/jobs/vod/job-1"


async def wait_for(client: JobsClient, is_async: bool, *arguments: Any, **options: Any) -> JobResult:
    if is_async:
        return await client.wait_async(*arguments, **options)
    return await asyncio.to_thread(client.wait, *arguments, **options)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_an_application_waits_for_the_end_of_its_job(client, operators, is_async):
    await asyncio.to_thread(client.expect, product="mts", family="transcode", job_id="a/b %2F")
    waiting = asyncio.create_task(wait_for(client, is_async, "mts", "a/b %2F", timeout_s=60))
    async with asyncio.timeout(PATIENCE_S):
        while not operators.watch:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)
        event = make_event("a/b %2F", product="mts", family="transcode", kind="transcode")
        await operators.inbox.put(make_receipt(event, at=NOW))
        result = await waiting
    assert (result.has_ended, result.outcome, result.job_id) == (True, "succeeded", "a/b %2F")
    assert [job.state for job in result.registrations] == ["completed"]
    assert [(one.id, one.kind, one.revision) for one in result.events] == [(event.id, "transcode", 1)]
    assert parse_event(json.dumps(result.events[0].body)) == event


async def test_it_asks_again_and_again_until_the_job_has_ended(fake, is_async, monkeypatch):
    monkeypatch.setattr("media_callbacks.client.jobs._PAUSE_S", 0.0)
    answers = [problem(404, "nothing is known"), problem(503, "too many wait"), life_of(), ended()]
    fake.answers[LIFE] = lambda _: answers.pop(0)
    result = await wait_for(JobsClient(fake.url, JOBS_TOKEN), is_async, "vod", "job-1", timeout_s=60, family="snapshot")
    assert result.has_ended
    asked = fake.asked_for(LIFE)
    assert [one.query for one in asked] == [{"family": "snapshot", "wait": "25"}] * 4
    assert {one.authorization for one in asked} == {f"Bearer {JOBS_TOKEN}"}


async def test_when_the_time_is_over_the_job_is_returned_as_it_is(fake, is_async):
    client = JobsClient(fake.url, JOBS_TOKEN)
    fake.answers[LIFE] = lambda _: life_of(jobs=[job_item(1)])
    result = await wait_for(client, is_async, "vod", "job-1", timeout_s=0)
    assert (result.has_ended, [job.state for job in result.registrations]) == (False, ["expected"])
    fake.answers[LIFE] = lambda _: problem(404, "nothing is known")
    result = await wait_for(client, is_async, "vod", "job-1", timeout_s=0)
    assert (result.has_ended, result.registrations, result.events) == (False, (), ())


@pytest.mark.parametrize(
    ("answer", "is_temporary"),
    [
        (lambda _: problem(401, "another token"), False),
        (lambda _: web.json_response({"ended": True}), False),
        (lambda _: web.json_response([]), False),
        (lambda _: web.Response(text="not ours"), False),
        (lambda _: web.Response(status=404, text="not ours"), False),
        (lambda _: problem(503, "away"), True),
    ],
)
async def test_what_keeps_it_from_waiting_is_told(fake, is_async, answer, is_temporary):
    fake.answers[LIFE] = answer
    with pytest.raises(JobsClientError) as raised:
        await wait_for(JobsClient(fake.url, JOBS_TOKEN), is_async, "vod", "job-1", timeout_s=0)
    assert raised.value.is_temporary is is_temporary


async def test_a_service_that_cannot_be_reached_is_told_in_the_end(is_async):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = JobsClient(f"http://127.0.0.1:{port}", JOBS_TOKEN)
    with pytest.raises(JobsClientError, match="can't be reached"):
        await wait_for(client, is_async, "vod", "job-1", timeout_s=0)


async def test_thousands_may_wait_on_one_event_loop(client, operators):
    waiting = [asyncio.create_task(client.wait_async("vod", f"job-{n}", timeout_s=60)) for n in range(60)]
    async with asyncio.timeout(PATIENCE_S):
        while len(operators.watch) < 60:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)
        assert threading.active_count() < 20
        await operators.put(*(f"job-{n}" for n in range(60)))
        assert all(result.has_ended for result in await asyncio.gather(*waiting))
