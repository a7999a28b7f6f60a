"""How the admin API is asked, whoever asks."""

import asyncio

import pytest

from media_callbacks.client.admin_api import AdminApi, Answer, NoAnswer
from tests.factories.fake_admin import fake_admin, problem


async def test_of_a_large_answer_no_more_is_read_than_is_wanted():
    async with fake_admin() as fake:
        fake.answers["GET /v1/events"] = {"events": "a" * 1000}
        for max_answer_bytes, document in ((2000, {"events": "a" * 1000}), (1000, None)):
            api = AdminApi(fake.url, None, timeout_s=30.0, max_answer_bytes=max_answer_bytes)
            answer = await asyncio.to_thread(api.ask, "GET", "/v1/events")
            assert answer == Answer(200, document)


@pytest.mark.parametrize(
    ("detail", "said"), [("no sink is called this", "no sink is called this"), (None, "Problem"), (["odd"], None)]
)
async def test_what_a_refusal_says_is_in_its_problem_document(detail, said):
    async with fake_admin() as fake:
        fake.answers["POST /v1/sinks/a/pause"] = problem(404, detail)
        api = AdminApi(fake.url, None, timeout_s=30.0, max_answer_bytes=1000)
        answer = await asyncio.to_thread(api.ask, "POST", "/v1/sinks/a/pause", document={"reason": "é"})
        assert (answer.status, answer.problem) == (404, said)
        assert fake.asked[0].document == {"reason": "é"}


def test_a_host_that_is_no_name_is_not_reached():
    api = AdminApi(f"http://{'a' * 64}.example", None, timeout_s=30.0, max_answer_bytes=1000)
    with pytest.raises(NoAnswer):
        api.ask("GET", "/v1/jobs")
