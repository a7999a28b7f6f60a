"""Whoever asks or orders something by an id that several accounts may have can say whose is meant."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from media_callbacks.admin.operations import Operation
from tests.admin.test_openapi import API
from tests.factories.operators import Operators, operating
from tests.inbox.conformance import make_event, make_receipt

NAMES = {"job_id", "media_id", "user_data", "nonce", "text", "q"}
"""Of members that may say the same of several accounts."""
SAYING_WHOSE = {"account", "source"}
FOR_ALL = {"search"}
"""It finds what there is, and tells of each hit whose it is; see docs/operate/cells.md."""


def members(model: Any) -> Iterator[str]:
    """Names of a model's members, and of those within."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            yield name
            yield from members(field.annotation)
    for inner in get_args(model):
        yield from members(inner)


@pytest.fixture
async def operators(tmp_path: Path) -> AsyncIterator[Operators]:
    async with operating(tmp_path) as operators:
        yield operators


@pytest.mark.parametrize("operation", API.operations, ids=lambda operation: operation.name)
def test_who_names_a_job_can_name_its_account(operation: Operation) -> None:
    asked = {*operation.parameters, *members(operation.query), *members(operation.body)}
    if asked & NAMES and operation.name not in FOR_ALL:
        assert asked & SAYING_WHOSE, sorted(asked)


async def test_of_two_accounts_with_the_same_job_one_is_listed_sent_again_and_erased(operators: Operators) -> None:
    events = {name: make_event(account=name, user_data="order-7") for name in ("a", "b")}
    for event in events.values():
        await operators.inbox.put(make_receipt(event, sinks=("orders",)))
    both = await operators.get("/v1/events", job_id="job-1")
    assert {event["id"] for event in both["events"]} == {event.id for event in events.values()}
    only = await operators.get("/v1/events", job_id="job-1", account="b")
    assert [event["id"] for event in only["events"]] == [events["b"].id]
    life = await operators.get("/v1/jobs/vod/job-1", account="a")
    assert [event["id"] for event in life["events"]] == [events["a"].id]
    status, counted = await operators.post(
        "/v1/replays", {"filter": {"job_id": "job-1", "account": "b"}, "dry_run": True}
    )
    assert (status, counted["total"]) == (200, 1)
    status, erased = await operators.post("/v1/erasures", {"user_data": "order-7", "account": "a", "force": True})
    assert (status, erased["events"]) == (200, 1)
    assert (await operators.get(f"/v1/events/{events['a'].id}"))["event"] is None
    assert (await operators.get(f"/v1/events/{events['b'].id}"))["event"]["data"]["user_data"] == "order-7"
