"""Erasures, as operators order and see them."""

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from media_callbacks.admin import erasures
from tests.factories.operators import NOW, Operators, operating
from tests.inbox.conformance import make_event, make_receipt

HERS = "user 7"
NOTHING = {"events": 0, "receipts": 0, "held": 0, "jobs": 0, "dead": 0, "undelivered": 0}


@pytest.fixture
async def operators(tmp_path: Path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as operators:
        for job_id in ("job-1", "job-2"):
            event = make_event(job_id, user_data=HERS)
            await operators.inbox.put(make_receipt(event, sinks=("orders",), body=b"hers", at=NOW))
        yield operators


async def erase(operators: Operators, **order: Any) -> Any:
    status, answer = await operators.post("/v1/erasures", order)
    assert status == 200, answer
    return answer


async def test_it_is_counted_ordered_seen_and_on_record(operators: Operators) -> None:
    order = {"user_data": HERS, "requested_by": "kim", "reason": "asked"}
    assert await erase(operators, **order, dry_run=True) == NOTHING | {
        "undelivered": 2, "id": None, "cursor": None, "journaled": 0
    }  # fmt: skip
    assert (await operators.get("/v1/erasures"))["erasures"] == []
    await operators.attempt("orders", "delivered")
    with capture_logs() as logs:
        answer = await erase(operators, **order)
    assert answer == NOTHING | {"events": 2, "receipts": 2, "id": answer["id"], "cursor": None, "journaled": 0}
    (line,) = [line for line in logs if line["event"] == "erased"]
    assert (line["erasure_id"], line["requested_by"], line["events"]) == (answer["id"], "kim", 2)
    assert HERS not in repr(logs)

    at = "2026-11-21T04:00:00Z"
    page = await operators.get("/v1/erasures")
    assert page["erasures"] == [
        NOTHING
        | {
            "events": 2,
            "receipts": 2,
            "id": answer["id"],
            "erased_at": at,
            "finished_at": at,
            "matched": "user_data",
            "digest": sha256(HERS.encode()).hexdigest(),
            "requested_by": "kim",
            "reason": "asked",
        }
    ]
    event_id = make_event("job-1").id
    shown = await operators.get(f"/v1/events/{event_id}")
    assert (shown["event"], shown["erased_at"]) == (None, at)
    status, refusal = await operators.post(f"/v1/events/{event_id}/replay")
    assert (status, refusal["detail"]) == (409, "the event's payload is gone: it was erased")
    await erase(operators, job_id="job-1", force=True)
    first = await operators.get("/v1/erasures", limit="1")
    assert [one["matched"] for one in first["erasures"]] == ["job_id"]
    assert (await operators.get("/v1/erasures", cursor=first["cursor"]))["erasures"] == page["erasures"]


async def test_what_takes_long_goes_on_with_the_cursor(operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "ERASURE_TIME_S", 0)
    for dry_run in (True, False):
        order = {"user_data": HERS, "force": True, "dry_run": dry_run}
        answers = [await erase(operators, **order)]
        while answers[-1]["cursor"] is not None:
            answers.append(await erase(operators, **order, cursor=answers[-1]["cursor"]))
        assert len(answers) == 4
        assert [sum(answer[name] for answer in answers) for name in ("events", "receipts", "dead")] == [2, 2, 2]
        assert {answer["id"] is None for answer in answers} == {dry_run}
    status, refusal = await operators.post("/v1/erasures", {**order, "cursor": answers[-2]["cursor"]})
    assert (status, refusal["detail"]) == (
        422,
        "cursor: no erasure of this subject is under way with this number",
    )


@pytest.mark.parametrize(
    "order, detail",
    [
        ({}, "expected one of job_id, media_id and user_data"),
        ({"job_id": "a", "media_id": "b"}, "expected one of job_id, media_id and user_data"),
        ({"user_data": ""}, "user_data: String should have at least 1 character"),
        ({"user_data": None}, "user_data: Input should be a valid string"),
        ({"job_id": "a", "cursor": "1"}, "cursor: expected the cursor of an answer"),
        ({"job_id": "a", "cursor": "1-nothing-1"}, "cursor: "),
        ({"job_id": "a", "forced": True}, "forced: not known here"),
    ],
)
async def test_what_is_not_understood_erases_nothing(operators: Operators, order: Any, detail: str) -> None:
    status, refusal = await operators.post("/v1/erasures", order)
    assert status == 422
    assert detail in refusal["detail"]
    assert (await operators.get("/v1/erasures"))["erasures"] == []
