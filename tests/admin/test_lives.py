"""The life of a job, waiting for its end and finding it, through the operators' API."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from media_callbacks.admin.timeline import tell_delivery
from media_callbacks.admin.waiting import JobWatch
from media_callbacks.inbox.records import Answer, DeliveryRecord, Finding, RefusedRow
from media_callbacks.model.errors import InboxUnavailable
from tests.factories.operators import NOW, Operators, operating, serving
from tests.factories.running import ADMIN_TOKEN, PATIENCE_S, connected, encode_request, read_answer
from tests.inbox.conformance import make_event, make_receipt
from tests.inbox.conformance_jobs import answer

SECOND = timedelta(seconds=1)
GIF = {"product": "vod", "family": "animated_image", "job_id": "job-1", "media_id": "media-1"}
JOBS_TOKEN = "jobs-token-6b1d0e8a4c7f"
ODD = [
    "a*b",
    "a/b",
    "../metrics",
    "a%2Fb",
    "a?b=c#d",
    "a\nb",
    "\n",
    "a b",
    "<script>",
    "\u202eb",
    "\u5a92\u4f53",
    "x" * 4000,
]


@pytest.fixture
async def operators(tmp_path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as found:
        yield found


def path_of(job_id: str, product: str = "vod") -> str:
    return f"/v1/jobs/{product}/{quote(job_id, safe='')}"


async def told(operators: Operators, job_id: str = "job-1", **query: str) -> Any:
    return await operators.get(path_of(job_id), **query)


async def fill(operators: Operators) -> None:
    """A job that is registered, lost, asked about, delivered at the second attempt, and told of again."""
    status, _ = await operators.post(
        "/v1/jobs", {**GIF, "requested_by": "orders", "user_data": "order-7", "deadline": "2026-11-21T04:00:10Z"}
    )
    assert status == 200
    operators.now = NOW + 12 * SECOND
    (inquiry,) = await operators.inbox.claim_inquiries("vod", limit=9, lease_s=60)
    finding = Finding(
        inquiry=inquiry, receipt=answer(make_event(user_data="order-7"), at=operators.now, sinks=("orders",))
    )
    finding.answer = Answer(asked_at=NOW + 11 * SECOND, result="ended", decision="ended")
    await operators.inbox.settle([finding])
    operators.now = NOW + 13 * SECOND
    await operators.attempt("orders", "retrying", error="answered 503")
    operators.now = NOW + timedelta(days=1, seconds=15)
    await operators.attempt("orders", "delivered")
    await operators.inbox.put(make_receipt(make_event(user_data="order-7"), at=NOW + timedelta(days=2)))


# The life


async def test_the_life_of_a_job_is_one_list_in_the_order_of_time(operators):
    await fill(operators)
    life = await told(operators)
    assert (life["product"], life["id"], life["ended"], life["outcome"]) == ("vod", "job-1", True, "succeeded")
    assert [(entry["what"], entry["after_s"]) for entry in life["timeline"]] == [
        ("registered", None),
        ("overdue", 10.0),
        ("received", 2.0),
        ("asked", 0.0),
        ("accepted", 0.0),
        ("ended", 0.0),
        ("attempted", 1.0),
        ("attempted", 86402.0),
        ("received", 86385.0),
    ]
    texts = [entry["text"] for entry in life["timeline"]]
    assert texts[0] == (
        "registered as vod animated_image of account default by orders; the vendor is asked from 2026-11-21T04:00:10Z on;"
        " user data: order-7"
    )
    assert texts[3] == "the vendor was asked, time 1 (expected and overdue): ended, so ended"
    assert texts[5] == (
        "ended as vod animated_image of account default: succeeded, as the vendor said when it was asked"
    )
    assert texts[6] == "orders did not take it: answered 503 (attempt 1)"
    assert texts[7] == "delivered to orders (attempt 2)"
    assert texts[8] == "receipt 2 came through vod (http, verified by signature): duplicate"
    assert life["timeline"][1]["at"] == "2026-11-21T04:00:10Z"


async def test_what_is_on_its_way_or_given_up_is_said_with_why_and_until_when(operators):
    failed = make_event("job-1", "failed")
    error = {"code": "InvalidParameter", "message": "The input is bad", "retryable": False}
    failed = failed.model_copy(update={"data": failed.data.model_copy(update={"error": error})})
    await operators.inbox.put(make_receipt(failed, sinks=("orders", "bus"), at=NOW))
    operators.now = NOW + SECOND
    await operators.attempt("orders", "retrying", error="answered 503")
    await operators.attempt("bus", "dead", error="answered 418")
    texts = [entry["text"] for entry in (await told(operators))["timeline"]]
    assert texts[1].endswith("): InvalidParameter: The input is bad")
    assert sorted(texts[2:]) == [
        "bus did not take it: answered 418 (attempt 1); given up",
        "orders did not take it: answered 503 (attempt 1); next 2026-11-22T04:00:01Z",
    ]
    await operators.put("job-1")
    texts = [entry["text"] for entry in (await told(operators))["timeline"]]
    assert "media.animated_image.failed: bus did not take it: answered 418 (attempt 1); given up" in texts


@pytest.mark.parametrize(
    ("state", "attempts", "told"),
    [
        ("dead", 2, ["bus did not take it: gone (2 attempts, not kept any more, replay 1); given up"]),
        ("delivered", 1, ["delivered to bus (1 attempt, not kept any more, replay 1)"]),
        ("dead", 0, []),
        ("retrying", 2, []),
    ],
)
def test_how_a_delivery_ended_is_said_when_its_attempts_are_gone(state, attempts, told):
    error = "gone" if state == "dead" else None
    delivery = DeliveryRecord("bus", 1, state, attempts, None, NOW, error)
    assert list(tell_delivery(delivery)) == [(NOW, text) for text in told]


async def test_each_part_of_it_is_there_by_itself(operators):
    await fill(operators)
    life = await told(operators)
    ((job,), (event,)) = life["jobs"], life["events"]
    assert (job["state"], job["requested_by"], job["token"]) == ("healed", "orders", None)
    assert [receipt["state"] for receipt in life["receipts"]] == ["accepted", "duplicate"]
    assert [(one["reason"], one["result"], one["asked_at"]) for one in life["answers"]] == [
        ("expected", "ended", "2026-11-21T04:00:11Z")
    ]
    assert [attempt["result"] for attempt in event["deliveries"][0]["history"]] == ["retrying", "delivered"]
    assert event["event"]["data"]["user_data"] == "order-7"
    assert (life["held"], life["replays"], life["is_whole"]) == ([], [], True)


@pytest.mark.parametrize(("product", "job_id"), [("vod", "job-2"), ("ims", "job-1"), ("tape", "job-1"), ("vod", "")])
async def test_of_whom_nothing_is_known_is_not_found(operators, product, job_id):
    await operators.put("job-1")
    answered = await operators.ask("GET", path_of(job_id, product))
    assert (answered.status_code, answered.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("job_id", ODD, ids=range(len(ODD)))
async def test_a_job_id_may_have_any_character(operators, job_id):
    event = make_event(job_id)
    await operators.inbox.put(make_receipt(event, reason=job_id, at=NOW))
    async with serving(operators, token=None) as url, httpx2.AsyncClient() as client:
        answered = await client.get(f"{url}{path_of(job_id)}")
        assert answered.status_code == 200, answered.text
        assert [one["id"] for one in answered.json()["events"]] == [event.id]
        found = await client.get(f"{url}/v1/search", params={"q": job_id})
        assert found.status_code == 200
        assert job_id.strip() == "" or [hit["event_id"] for hit in found.json()["hits"]] == [event.id]


@pytest.mark.parametrize("target", ["/v1/jobs/vod/%ff%fe", "/v1/jobs/vod/%00", "/v1/jobs/vod/a%", "/v1/search?q=%ff"])
async def test_what_is_no_text_is_an_id_that_nobody_has(operators, target):
    async with serving(operators, token=None) as url, httpx2.AsyncClient() as client:
        assert (await client.get(url + target)).status_code in (200, 404)


async def test_a_family_is_asked_for_by_either_word(operators):
    await operators.post("/v1/jobs", {"product": "mts", "family": "transcode", "job_id": "a"})
    for family, status in (("Transcode", 200), ("transcode", 200), ("run", 404)):
        assert (await operators.ask("GET", path_of("a", "mts"), params={"family": family})).status_code == status
    assert (await operators.ask("GET", path_of("a", "mts"), params={"account": "other"})).status_code == 404


async def test_whose_token_a_job_was_registered_with_is_told(operators):
    async with serving(operators, token=ADMIN_TOKEN, jobs_token=JOBS_TOKEN) as url, httpx2.AsyncClient() as client:
        headers = {"authorization": f"Bearer {JOBS_TOKEN}"}
        registered = await client.post(f"{url}/v1/jobs", json=GIF, headers=headers)
        assert registered.json()["token"] == "admin.jobs_token"
        life = (await client.get(f"{url}{path_of('job-1')}", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})).json()
    assert "(let in by admin.jobs_token)" in life["timeline"][0]["text"]


async def test_an_application_is_told_how_its_job_ended_and_nothing_else(operators):
    await fill(operators)
    async with serving(operators, token=ADMIN_TOKEN, jobs_token=JOBS_TOKEN) as url, httpx2.AsyncClient() as client:
        headers = {"authorization": f"Bearer {JOBS_TOKEN}"}
        life = (await client.get(f"{url}{path_of('job-1')}", headers=headers)).json()
        assert (await client.get(f"{url}/v1/search?q=job-1", headers=headers)).status_code == 401
    assert (life["ended"], life["jobs"][0]["state"], life["events"][0]["outcome"]) == (True, "healed", "succeeded")
    assert (life["receipts"], life["answers"], life["events"][0]["deliveries"]) == ([], [], [])
    assert {entry["what"] for entry in life["timeline"]} == {"registered", "overdue", "accepted", "ended"}


# Receipts


async def test_a_receipt_is_shown_with_its_body(operators):
    await operators.inbox.put(make_receipt(body=b'{"JobId": "job-1"\xff', reason="broken", meta={"a": "b"}, at=NOW))
    shown = await operators.get("/v1/receipts/1")
    assert (shown["state"], shown["reason"], shown["meta"]) == ("unparsed", "broken", {"a": "b"})
    assert (shown["body"], shown["body_base64"]) == ('{"JobId": "job-1"\ufffd', "eyJKb2JJZCI6ICJqb2ItMSL/")
    assert [one["id"] for one in (await operators.get("/v1/receipts", job_id="job-1"))["receipts"]] == [1]
    for number in ("2", "0", "-1", "x", "9" * 30):
        assert (await operators.ask("GET", f"/v1/receipts/{number}")).status_code == 404


# Found


async def test_jobs_are_found_by_what_the_application_has_said(operators):
    await fill(operators)
    (hit,) = (await operators.get("/v1/search", q="order-"))["hits"]
    assert hit == {
        "product": "vod",
        "id": "job-1",
        "account": "default",
        "job_id": "job-1",
        "media_id": "media-1",
        "user_data": "order-7",
        "found_by": "user_data_prefix",
        "state": "healed",
        "outcome": "succeeded",
        "event_id": make_event().id,
        "at": "2026-11-21T04:00:12Z",
    }
    assert await operators.get("/v1/search", q="nothing") == {"hits": [], "refused": []}


async def test_a_job_whose_callback_was_refused_is_found_in_what_is_kept_of_it(operators):
    await fill(operators)
    document = json.dumps({"request": {"body": '{"JobId":"job-9"}'}, "explanation": None})
    row = RefusedRow(NOW, "vod", 403, "signature_mismatch", "key_case", "wrong", "job-9", document)
    await operators.inbox.keep_refused([row])
    found = await operators.get("/v1/search", q=" job-9 ")
    assert found["hits"] == []
    (refused,) = found["refused"]
    assert refused == (await operators.get("/v1/refused"))["refused"][0]
    assert (await operators.get("/v1/search", q=" "))["refused"] == []


@pytest.mark.parametrize(
    "query", [{}, {"q": ""}, {"q": "a\0"}, {"q": "a" * 5000}, {"q": "a", "limit": "0"}, {"p": "a"}]
)
async def test_a_search_for_nothing_is_refused(operators, query):
    assert (await operators.ask("GET", "/v1/search", params=query)).status_code == 400


# Waiting


async def until_waiting(watch: JobWatch, count: int = 1) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(watch) != count:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


async def test_what_has_ended_is_answered_at_once(operators):
    await operators.put("job-1")
    assert (await told(operators, wait="60"))["ended"]


@pytest.mark.parametrize("is_registered", [True, False])
async def test_who_waits_is_answered_when_the_job_ends(operators, is_registered):
    if is_registered:
        await operators.post("/v1/jobs", GIF)
    waiting = asyncio.create_task(told(operators, wait="60"))
    await until_waiting(operators.watch)
    await operators.put("job-2")
    await operators.put("job-1")
    async with asyncio.timeout(PATIENCE_S):
        life = await waiting
    assert (life["ended"], life["outcome"]) == (True, "succeeded")
    assert len(operators.watch) == 0


async def test_who_waits_is_answered_when_the_job_is_given_up(operators):
    await operators.post("/v1/jobs", {**GIF, "deadline": "2026-11-21T04:00:00Z"})
    waiting = asyncio.create_task(told(operators, wait="60"))
    await until_waiting(operators.watch)
    (inquiry,) = await operators.inbox.claim_inquiries("vod", limit=9, lease_s=60)
    await operators.inbox.settle([Finding(inquiry=inquiry)])
    async with asyncio.timeout(PATIENCE_S):
        life = await waiting
    assert (life["ended"], life["outcome"], life["jobs"][0]["state"]) == (True, None, "unknown")


async def no_longer(event: asyncio.Event, timeout_s: float) -> None:
    """The time is over before anything happens."""


async def test_when_the_time_is_over_the_job_is_told_as_it_is(tmp_path):
    async with operating(tmp_path, wait=no_longer) as operators:
        await operators.post("/v1/jobs", GIF)
        assert not (await told(operators, wait="1"))["ended"]
        answered = await operators.ask("GET", path_of("job-2"), params={"wait": "60"})
        assert answered.status_code == 404


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", "x", ""])
async def test_a_wait_is_up_to_a_minute(operators, wait):
    assert (await operators.ask("GET", path_of("job-1"), params={"wait": wait})).status_code == 400


async def test_the_end_of_another_account_s_job_is_not_taken_for_it(operators, monkeypatch):
    waiting = asyncio.create_task(told(operators, wait="60", account="second"))
    await until_waiting(operators.watch)
    event = make_event()
    await operators.put("job-1")
    await until_looked(operators, monkeypatch)
    assert not waiting.done()
    second = event.model_copy(update={"id": make_event(family="second").id, "source": "/aliyun/vod/second"})
    await operators.inbox.put(make_receipt(second, sinks=("orders",), at=NOW))
    async with asyncio.timeout(PATIENCE_S):
        assert [one["id"] for one in (await waiting)["events"]] == [second.id]


async def until_looked(operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch has asked the store once more."""
    looked, find = asyncio.Event(), operators.inbox.find_endings

    async def find_and_tell(names: Any) -> Any:
        found = await find(names)
        looked.set()
        return found

    monkeypatch.setattr(operators.inbox, "find_endings", find_and_tell)
    async with asyncio.timeout(PATIENCE_S):
        await looked.wait()


async def test_however_many_wait_the_store_is_asked_for_all_at_once(operators, monkeypatch):
    asked: list[int] = []
    find = operators.inbox.find_endings

    async def find_and_count(names: Any) -> Any:
        asked.append(len(names))
        return await find(names)

    monkeypatch.setattr(operators.inbox, "find_endings", find_and_count)
    waiting = [asyncio.create_task(told(operators, f"job-{number}", wait="60")) for number in range(50)]
    await until_waiting(operators.watch, 50)
    await operators.put(*(f"job-{number}" for number in range(50)))
    async with asyncio.timeout(PATIENCE_S):
        assert all(life["ended"] for life in await asyncio.gather(*waiting))
    assert max(asked) == 50
    assert len(asked) < 10


async def test_too_many_are_told_to_come_again(operators):
    operators.watch.most = 1
    waiting = asyncio.create_task(told(operators, wait="60"))
    await until_waiting(operators.watch)
    answered = await operators.ask("GET", path_of("job-2"), params={"wait": "60"})
    assert (answered.status_code, "retry-after" in answered.headers) == (503, True)
    await operators.watch.stop()
    with pytest.raises(AssertionError, match="nothing is known"):
        await waiting


async def test_nobody_waits_for_a_service_that_stops(operators):
    await operators.post("/v1/jobs", GIF)
    waiting = asyncio.create_task(told(operators, wait="60"))
    await until_waiting(operators.watch)
    await operators.watch.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert not (await waiting)["ended"]
        assert not (await told(operators, wait="60"))["ended"]


async def test_while_the_store_is_away_they_wait_on(operators, monkeypatch):
    find, has_failed = operators.inbox.find_endings, asyncio.Event()

    async def fail_once(names: Any) -> Any:
        if not has_failed.is_set():
            has_failed.set()
            raise InboxUnavailable("away")
        return await find(names)

    monkeypatch.setattr(operators.inbox, "find_endings", fail_once)
    waiting = asyncio.create_task(told(operators, wait="60"))
    await has_failed.wait()
    await operators.put("job-1")
    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting)["ended"]


async def test_who_leaves_waits_no_longer(operators):
    async with serving(operators, token=None) as url:
        host = url.removeprefix("http://")
        async with connected(host) as (_, writer):
            writer.write(encode_request("GET", f"{path_of('job-1')}?wait=60", host=host))
            await until_waiting(operators.watch)
        await until_waiting(operators.watch, 0)


async def test_however_many_wait_others_are_served(operators):
    """More than there may be other connections."""
    await operators.post("/v1/jobs", GIF)
    async with serving(operators, token=None) as url:
        host = url.removeprefix("http://")
        async with contextlib.AsyncExitStack() as stack:
            streams = []
            for count in range(1, 151):
                streams.append(await stack.enter_async_context(connected(host)))
                streams[-1][1].write(encode_request("GET", f"{path_of('job-1')}?wait=60", host=host))
                await until_waiting(operators.watch, count)
            async with httpx2.AsyncClient() as client:
                for _ in range(12):
                    assert (await client.get(f"{url}/v1/sinks")).status_code == 200
            await operators.put("job-1")
            for reader, _ in streams:
                answered = await read_answer(reader)
                assert answered is not None
                assert (answered.status, json.loads(answered.body)["ended"]) == (200, True)
