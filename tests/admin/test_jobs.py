"""Jobs that applications tell the service to expect, through the operators' API."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from media_callbacks.admin.models.expected_jobs import JobOrder, JobRules
from media_callbacks.healing.queries.catalogue import QUERIES
from media_callbacks.model.errors import InboxUnavailable
from tests.factories.operators import NOW, Operators, operating
from tests.inbox.conformance import make_event, make_receipt

GIF = {"product": "vod", "family": "animated_image", "job_id": "job-1", "media_id": "media-1"}
TRANSCODE = {"product": "mts", "family": "transcode", "job_id": "job-2"}
NONCE = "0123456789abcdef01234567"
MINTED = {"product": "multimediaai", "family": "animated_image", "nonce": NONCE, "bind": "ab" * 16}
REGISTERED = {
    "id": 1,
    "state": "expected",
    "product": "vod",
    "account": "default",
    "family": "animated_image",
    "kind": "animated_image",
    "job_id": "job-1",
    "media_id": "media-1",
    "nonce": None,
    "user_data": None,
    "registered_at": "2026-11-21T04:00:00Z",
    "deadline_at": "2026-11-21T04:30:00Z",
    "transport": None,
    "event_id": None,
    "outcome": None,
    "ended_at": None,
    "attempts": 0,
    "notification": None,
    "can_be_asked": True,
    "token": None,
    "requested_by": None,
}


@pytest.fixture
async def operators(tmp_path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as found:
        yield found


async def register(operators: Operators, body: Any) -> Any:
    status, answer = await operators.post("/v1/jobs", body)
    assert status == 200, answer
    return answer


async def test_a_job_is_expected_from_its_registration_on(operators):
    assert await register(operators, GIF) == REGISTERED
    assert operators.registered == 1
    assert await operators.get("/v1/jobs") == {"jobs": [REGISTERED], "cursor": None}


async def test_a_list_is_answered_by_a_list_in_its_order(operators):
    found = await register(operators, [TRANSCODE, GIF, MINTED])
    assert [(job["product"], job["job_id"], job["nonce"]) for job in found] == [
        ("mts", "job-2", None),
        ("vod", "job-1", None),
        ("multimediaai", None, NONCE),
    ]
    assert operators.registered == 1
    (alone,) = await register(operators, [GIF])
    assert alone["job_id"] == "job-1"


async def test_registering_again_changes_nothing_but_fills_in_what_was_missing(operators):
    first = await register(operators, TRANSCODE)
    operators.now += timedelta(minutes=5)
    again = await register(operators, {**TRANSCODE, "media_id": "m", "deadline": "2026-11-22T00:00:00Z"})
    assert again == first | {"media_id": "m"}
    assert len((await operators.get("/v1/jobs"))["jobs"]) == 1


async def test_all_that_an_application_says_is_kept(operators):
    job = await register(
        operators, {**GIF, "account": "second", "deadline": "2026-11-21T13:00:00+08:00", "user_data": '{"order": 7}'}
    )
    assert job == REGISTERED | {
        "account": "second",
        "deadline_at": "2026-11-21T05:00:00Z",
        "user_data": '{"order": 7}',
    }


async def test_ids_are_trimmed_and_a_nonce_is_in_lower_case(operators):
    job = await register(operators, {**GIF, "job_id": " job-1\r\n", "media_id": "media-1\n"})
    assert (job["job_id"], job["media_id"]) == ("job-1", "media-1")
    job = await register(operators, {**MINTED, "nonce": f" {NONCE.upper()}\n", "bind": "AB" * 16})
    assert job["nonce"] == NONCE
    assert (await register(operators, MINTED))["id"] == job["id"]


async def test_families_of_mts_are_known_in_any_case_and_others_as_they_are_written(operators):
    assert (await register(operators, {**TRANSCODE, "family": "Transcode"}))["family"] == "transcode"
    status, answer = await operators.post("/v1/jobs", {**GIF, "family": "Animated_Image"})
    assert (status, answer["detail"]) == (
        422,
        'family: expected one of vod: animated_image, transcode; did you mean "animated_image"?',
    )


@pytest.mark.parametrize(
    ("product", "word", "family"),
    [
        ("vod", "fingerprint", "AIMediaDNAComplete"),
        ("vod", "upload", "UploadByURLComplete"),
        ("ims", "animated_image", "DynamicImageComplete"),
        ("ims", "snapshot", "SnapshotComplete"),
        ("ims", "SnapshotComplete", "SnapshotComplete"),
        ("ims", "review", "AIMediaAuditComplete"),
        ("mts", "media_info", "mediainfo"),
        ("mts", "workflow", "run"),
        ("mts", "Transcode", "transcode"),
        ("multimediaai", "animated_image", "animated_image"),
    ],
)
def test_a_family_is_known_by_its_kind_where_it_is_the_only_one(product, word, family):
    rules = JobRules({product: queries.families for product, queries in QUERIES.items()}, NOW)
    order = JobOrder.model_validate({"product": product, "family": word, "job_id": "1"}, context=rules)
    assert order.family == family


@pytest.mark.parametrize(
    ("product", "word", "told"),
    [
        ("vod", "review", "several are of kind review; expected one of AIMediaAuditComplete, AIVideoCensorComplete"),
        ("vod", "production", "no query of the vendor tells of these jobs; expected one of vod: animated_image"),
        (
            "ims",
            "transcode",
            "no query of the vendor tells of these jobs; expected one of ims: DynamicImageComplete or",
        ),
        ("ims", "TranscodeComplete", "no query of the vendor tells of these jobs; expected one of ims: "),
        ("ims", "transcode_task", "several are of kind transcode_task; expected one of TranscodeParentComplete, "),
        ("vod", "snapshott", 'did you mean "snapshot"?'),
        ("ims", "snapshott", 'did you mean "snapshot"?'),
        ("ims", "DynamicImageComplet", 'did you mean "DynamicImageComplete"?'),
        ("mts", "asset", "expected one of mts: snapshot, transcode, mediainfo or media_info, analysis, "),
    ],
)
def test_what_can_never_be_asked_about_is_refused_with_what_can(product, word, told):
    rules = JobRules({product: queries.families for product, queries in QUERIES.items()}, NOW)
    with pytest.raises(ValidationError) as caught:
        JobOrder.model_validate({"product": product, "family": word, "job_id": "1"}, context=rules)
    assert told in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize("word", ["upload", "uploads", "transcode", "TranscodeComplete"])
def test_no_word_is_suggested_that_would_be_refused(word):
    rules = JobRules({"ims": QUERIES["ims"].families}, NOW)
    with pytest.raises(ValidationError) as caught:
        JobOrder.model_validate({"product": "ims", "family": word, "job_id": "1"}, context=rules)
    assert "did you mean" not in caught.value.errors()[0]["msg"]


async def test_a_callback_that_came_first_is_matched(operators):
    (event_id,) = await operators.put("job-1", at=NOW - timedelta(minutes=1))
    assert await register(operators, GIF) == REGISTERED | {
        "state": "completed",
        "transport": "http",
        "event_id": event_id,
        "outcome": "succeeded",
        "ended_at": "2026-11-21T03:59:00Z",
    }


async def test_a_deadline_in_the_past_is_taken_and_the_job_asked_about_at_once(operators):
    job = await register(operators, {**GIF, "deadline": "2026-11-01T00:00:00Z"})
    assert (job["state"], job["deadline_at"]) == ("overdue", "2026-11-01T00:00:00Z")
    (inquiry,) = await operators.inbox.claim_inquiries("vod", limit=10, now=NOW, lease_s=20.0)
    assert inquiry.reference.job_id == "job-1"


async def test_a_task_is_bound_to_its_minted_url_later_and_to_no_other(operators):
    first = await register(operators, MINTED)
    bound = await register(operators, {**MINTED, "job_id": "123"})
    assert (bound["id"], bound["job_id"]) == (first["id"], "123")
    status, answer = await operators.post("/v1/jobs", {**MINTED, "job_id": "124"})
    assert (status, answer["title"]) == (409, "Conflict")
    assert operators.registered == 2


NEITHER = "expected the vendor's job id, or the nonce of a minted URL"
HEX = "nonce: String should match pattern '^[0-9a-f]{24}$'"


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"product": "oss"}, "product: Input should be 'vod', 'ims', 'mts' or 'multimediaai'"),
        ({"family": "nothing"}, "family: expected one of vod: animated_image, transcode"),
        ({"family": ""}, "family: String should have at least 1 character"),
        ({"family": 7}, "family: Input should be a valid string"),
        ({"job_id": " \n"}, "job_id: String should have at least 1 character"),
        ({"job_id": "x" * 257}, "job_id: String should have at most 256 characters"),
        ({"job_id": "a\0b"}, r"job_id: String should match pattern '^[^\x00]*$'"),
        ({"job_id": 5}, "job_id: Input should be a valid string"),
        ({"job_id": None}, "job_id: Input should be a valid string"),
        ({"job_id": ...}, f"job_id: {NEITHER}"),
        ({"media_id": ...}, "media_id: required for vod animated_image: the vendor can only be asked by asset"),
        ({"nonce": NONCE}, "nonce: only minted URLs of multimediaai animated_image have one"),
        (MINTED | {"family": "cover"}, "nonce: only minted URLs of multimediaai animated_image have one"),
        (MINTED | {"nonce": NONCE[1:]}, HEX),
        (MINTED | {"nonce": "g" * 24}, HEX),
        (MINTED | {"bind": "abc"}, "bind: String should match pattern '^[0-9a-f]{32}$'"),
        (MINTED | {"nonce": ...}, "bind: expected together with the nonce of the minted URL"),
        ({"deadline": "2026-11-21T05:00:00"}, "deadline: expected an RFC 3339 time such as 2026-11-21T09:30:00Z"),
        ({"deadline": 1795237200}, "deadline: expected an RFC 3339 time such as 2026-11-21T09:30:00Z"),
        ({"deadline": "2026-12-21T04:00:01Z"}, "deadline: expected at most 30 days from now"),
        ({"user_data": "x" * 4097}, "user_data: String should have at most 4096 characters"),
        ({"account": "a b"}, "account: String should match pattern"),
        (
            {"colour": "red"},
            "colour: not known here; expected one of product, family, job_id, media_id, nonce, bind",
        ),
    ],
    ids=str,
)
async def test_a_registration_that_makes_no_sense_changes_nothing(operators, changes, detail):
    body = {name: value for name, value in {**GIF, **changes}.items() if value is not ...}
    status, answer = await operators.post("/v1/jobs", body)
    assert (status, answer["detail"][: len(detail)]) == (422, detail)
    assert operators.registered == 0
    assert (await operators.get("/v1/jobs"))["jobs"] == []


async def test_every_mistake_of_every_job_is_told_with_its_place(operators):
    jobs = [
        GIF,
        {"product": "vod", "family": "x", "deadline": "soon"},
        {"product": "vod", "family": "animated_image", "job_id": "", "extra": 1},
        "job",
        {"family": "animated_image", "job_id": "a{b}"},
    ]
    status, answer = await operators.post("/v1/jobs", jobs)
    assert status == 422
    assert answer["detail"].split("; ") == [
        "1.family: expected one of vod: animated_image, transcode",
        "1.deadline: expected an RFC 3339 time such as 2026-11-21T09:30:00Z",
        "in a URL, + is written %2B",
        f"1.job_id: {NEITHER}",
        "2.job_id: String should have at least 1 character",
        "2.extra: not known here",
        "expected one of product, family, job_id, media_id, nonce, bind, deadline, user_data, account, requested_by",
        "2.media_id: required for vod animated_image: the vendor can only be asked by asset",
        "3: Input should be an object",
        "4.product: Field required",
    ]
    assert (await operators.get("/v1/jobs"))["jobs"] == []


async def test_a_whole_thousand_is_taken_at_once_and_not_one_more(operators):
    jobs = [{**TRANSCODE, "job_id": f"job-{number}", "user_data": "x" * 1000} for number in range(1001)]
    status, answer = await operators.post("/v1/jobs", jobs)
    assert status == 422
    assert answer["detail"].startswith("List should have at most 1000 items")
    found = await register(operators, jobs[:1000])
    assert [job["job_id"] for job in found] == [f"job-{number}" for number in range(1000)]


async def test_all_mistakes_of_a_thousand_jobs_are_told_and_no_more_than_fit(operators):
    _, answer = await operators.post("/v1/jobs", [{**TRANSCODE, "family": "x"}] * 1000)
    assert answer["detail"].count("family: expected one of mts: transcode, run or workflow") == 1000
    _, answer = await operators.post("/v1/jobs", [{**TRANSCODE, "family": "x", "a": 1, "b": 2}] * 1000)
    assert answer["detail"].endswith("; and 1000 more")
    _, answer = await operators.post("/v1/jobs", [TRANSCODE, {f"member-{number}": 1 for number in range(100_000)}])
    members = "product, family, job_id, media_id, nonce, bind, deadline, user_data, account, requested_by"
    assert answer["detail"] == f"1: expected some of {members}, came 100000 members"


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b"", 422, "product: Field required"),
        (b"[]", 422, "List should have at least 1 item"),
        (b"7", 422, "Input should be an object"),
        (b"{", 400, "Invalid JSON"),
        (b" " * ((4 << 20) + 1), 413, "expected at most 4194304 bytes"),
    ],
    ids=range(5),
)
async def test_a_body_that_is_no_job_is_refused(operators, content, status, detail):
    answer = await operators.ask("POST", "/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"][: len(detail)]) == (status, detail)


async def test_jobs_are_listed_newest_first_in_pages(operators):
    for number in range(5):
        await register(operators, {**TRANSCODE, "job_id": f"job-{number}"})
    page = await operators.get("/v1/jobs", limit="2")
    assert [job["job_id"] for job in page["jobs"]] == ["job-4", "job-3"]
    await register(operators, {**TRANSCODE, "job_id": "later"})
    page = await operators.get("/v1/jobs", limit="2", cursor=page["cursor"])
    assert [job["job_id"] for job in page["jobs"]] == ["job-2", "job-1"]
    page = await operators.get("/v1/jobs", limit="2", cursor=page["cursor"])
    assert ([job["job_id"] for job in page["jobs"]], page["cursor"]) == (["job-0"], None)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["late", "job-2", "job-1"]),
        ({"state": "completed"}, ["job-1"]),
        ({"state": "expected"}, ["late"]),
        ({"state": "overdue"}, ["job-2"]),
        ({"state": "healed"}, []),
        ({"product": "vod"}, ["job-1"]),
        ({"product": "mts", "job_id": "late"}, ["late"]),
        ({"job_id": "job-9"}, []),
        ({"since": "2026-11-21T05:00:00Z"}, ["late"]),
        ({"until": "2026-11-21T05:00:00Z"}, ["job-2", "job-1"]),
    ],
    ids=str,
)
async def test_jobs_are_found_by_what_is_known_of_them(operators, conditions, expected):
    await register(operators, [GIF, TRANSCODE])
    await operators.put("job-1")
    operators.now += timedelta(hours=1)
    await register(operators, {**TRANSCODE, "job_id": "late"})
    assert [job["job_id"] for job in (await operators.get("/v1/jobs", **conditions))["jobs"]] == expected


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/v1/jobs?state=lost", "state: Input should be 'expected', 'overdue', 'completed', 'healed' or 'unknown'"),
        ("/v1/jobs?product=oss", "product: Input should be 'vod', 'ims', 'mts' or 'multimediaai'"),
        (
            "/v1/jobs?family=transcode",
            "family: not known here; expected one of cursor, limit, state, product, account, job_id",
        ),
        ("/v1/jobs?limit=501", "limit: Input should be less than or equal to 500"),
        ("/v1/jobs?cursor=x", "cursor: expected the cursor of an answer"),
    ],
)
async def test_questions_that_make_no_sense_say_what_was_expected(operators, target, detail):
    answer = await operators.ask("GET", target)
    assert (answer.status_code, answer.json()["detail"][: len(detail)]) == (400, detail)


async def test_a_store_that_is_away_is_said_so_and_nobody_is_woken(operators, monkeypatch):
    async def away(*_: Any, **__: Any) -> Any:
        raise InboxUnavailable("the store is away")

    monkeypatch.setattr(operators.inbox, "expect", away)
    answer = await operators.ask("POST", "/v1/jobs", json=GIF)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert operators.registered == 0


async def test_the_document_says_what_a_job_is(operators):
    document = operators.api.document
    order = document["components"]["schemas"]["JobOrder"]
    assert order["required"] == ["product", "family"]
    assert order["anyOf"] == [{"required": ["job_id"]}, {"required": ["nonce"]}]
    assert json.dumps(document["components"]["schemas"]["JobOrders"]).count("JobOrder") == 2


async def test_what_a_job_ended_with_is_shown(operators):
    await register(operators, GIF)
    operators.now += timedelta(minutes=3)
    event = make_event("job-1", "failed")
    await operators.inbox.put(make_receipt(event, at=operators.now))
    (job,) = (await operators.get("/v1/jobs"))["jobs"]
    assert (job["state"], job["outcome"], job["transport"]) == ("completed", "failed", "http")
    assert (job["event_id"], job["ended_at"]) == (event.id, "2026-11-21T04:03:00Z")
