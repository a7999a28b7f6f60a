"""The document at /openapi.json says what the operators' API does, and the API does what it says."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from media_callbacks.admin.api import AdminApi
from media_callbacks.admin.feed import Feed
from media_callbacks.admin.waiting import JobWatch
from media_callbacks.observe.metrics import Metrics
from tests.factories.operators import NOW, Operators, operating, serving
from tests.factories.running import ADMIN_TOKEN
from tests.inbox.conformance import make_event, make_receipt

API = AdminApi(
    None,  # type: ignore[arg-type]
    sinks={},
    breaker_states=dict,
    clock=lambda: NOW,
    replay_created=lambda: None,
    metrics=Metrics(),
    watch=JobWatch(None),  # type: ignore[arg-type]
    feed=Feed(None),  # type: ignore[arg-type]
)
DOCUMENT = API.document
EXAMPLE_ID = "evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600"
AUTHORIZATION = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
PATHS = {
    "/metrics": {"get"},
    "/openapi.json": {"get"},
    "/v1/activity": {"get"},
    "/v1/erasures": {"get", "post"},
    "/v1/events": {"get"},
    "/v1/events/{event_id}": {"get"},
    "/v1/events/{event_id}/replay": {"post"},
    "/v1/feed": {"get"},
    "/v1/jobs": {"get", "post"},
    "/v1/jobs/{product}/{job_id}": {"get"},
    "/v1/receipts": {"get"},
    "/v1/receipts/{receipt_id}": {"get"},
    "/v1/refused": {"get"},
    "/v1/refused/{refused_id}": {"get"},
    "/v1/replays": {"get", "post"},
    "/v1/replays/{replay_id}": {"get"},
    "/v1/replays/{replay_id}/cancel": {"post"},
    "/v1/report": {"get"},
    "/v1/search": {"get"},
    "/v1/sinks": {"get"},
    "/v1/sinks/{sink}/pause": {"post"},
    "/v1/sinks/{sink}/resume": {"post"},
    "/v1/sinks/{sink}/retry": {"post"},
    "/v1/sources": {"get"},
    "/v1/status": {"get"},
}


# The document by itself


def test_it_is_valid():
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_it_has_what_there_is_and_nothing_else():
    routes = {
        route.path_format: {method.lower() for method in cast("Any", route.endpoint).methods} for route in API.routes()
    }
    assert {path: set(item) for path, item in DOCUMENT["paths"].items()} == PATHS == routes


def walk(document: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    yield place, document
    if isinstance(document, dict | list):
        for name, part in document.items() if isinstance(document, dict) else enumerate(document):
            yield from walk(part, f"{place}/{name}")


def test_everything_is_described():
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            place = f"{method} {path}"
            assert operation["summary"], place
            assert operation["operationId"], place
            assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}, place
            assert all(parameter["description"] for parameter in operation.get("parameters", [])), place
            assert {"400", "401", "403", "405"} <= set(operation["responses"]), place
            if "requestBody" in operation:
                assert {"413", "415", "422"} <= set(operation["responses"]), place
    assert all(schema["description"] for schema in DOCUMENT["components"]["schemas"].values())


def test_every_refusal_is_a_problem_of_rfc_9457():
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            for status, answer in operation["responses"].items():
                response = DOCUMENT["components"]["responses"][f"Problem{status}"] if "$ref" in answer else answer
                kinds = set(response["content"])
                assert (kinds == {"application/problem+json"}) == (int(status) >= 400), f"{method} {path} {status}"


def test_keywords_of_pydantic_alone_are_not_in_it():
    keywords = {"ge", "le", "gt", "lt", "title"}
    schemas = [part for place, part in walk(DOCUMENT) if place.endswith(("/schema", "/items")) or "/anyOf/" in place]
    assert not [schema for schema in schemas if isinstance(schema, dict) and keywords & set(schema)]


def test_examples_are_what_they_are_examples_of():
    schemas = DOCUMENT["components"]["schemas"]
    examples = [
        (place, schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema, example)
        for place, schema in walk(schemas)
        if isinstance(schema, dict)
        for example in (schema["examples"] if isinstance(schema.get("examples"), list) else [])
    ]
    assert len(examples) > 20
    for place, schema, example in examples:
        assert not list(Draft202012Validator(schema).iter_errors(example)), place


def test_every_order_has_a_body_because_without_its_type_none_is_taken():
    orders = [operation for item in DOCUMENT["paths"].values() for method, operation in item.items() if method != "get"]
    assert orders
    assert all(
        order["requestBody"]["required"] and set(order["requestBody"]["content"]) == {"application/json"}
        for order in orders
    )


# The document against the service


async def no_longer(event: asyncio.Event, timeout_s: float) -> None:
    """Nobody waits for the end of what has none."""


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[str]:
    """The operators' listener, with some events, some delivered and some not. Gives its URL."""
    async with operating(folder, wait=no_longer) as operators:
        await store_some(operators)
        # Whoever asks the feed to wait is answered at once.
        operators.feed._wait = lambda *_: asyncio.sleep(0)
        async with serving(operators, token=ADMIN_TOKEN) as url:
            yield url


async def store_some(operators: Operators) -> None:
    example = make_event("example").model_copy(update={"id": EXAMPLE_ID})
    for _ in range(2):
        await operators.inbox.put(make_receipt(example, sinks=("orders",), at=NOW - timedelta(hours=1)))
    await operators.attempt("orders", "delivered")
    await operators.put("job-1", "job-2", "job-3", sinks=("orders", "bus", "former"))
    await operators.attempt("orders", "dead", error="410 Gone", limit=1)
    await operators.attempt("orders", "retrying", error="503")
    await operators.put("unrouted", sinks=())
    await operators.inbox.put(make_receipt(reason="expected a JSON object", at=NOW))
    jobs = [{"product": "vod", "family": "transcode", "job_id": name} for name in ("job-1", "waiting")]
    assert (await operators.post("/v1/jobs", jobs))[0] == 200


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(listening(tmp_path_factory.mktemp("admin"))) as address,
    ):
        yield address


CASES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig(seed=1))
SCHEMA.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE], deterministic=True)


@SCHEMA.parametrize()
@CASES
def test_the_service_does_what_the_document_says(case, address):
    response = case.call(base_url=address, headers=AUTHORIZATION)
    excluded = []
    if is_beyond_the_schema(response):
        excluded.append(positive_data_acceptance)
    if [] in (case.query or {}).values():
        # What would have been wrong was not sent: a list without items is no parameter.
        excluded.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)


def is_beyond_the_schema(response: Any) -> bool:
    """
    Refused for what JSON Schema does not say: which sinks and families there are, which events have gone to none,
    which erasures are under way, which events a cursor is of, and which times come first.
    """
    if response.status_code == 410:
        return True
    if response.status_code not in (400, 422):
        return False
    told = response.json()["detail"]
    if response.status_code == 400:
        return bool(told.startswith("since, until: "))
    return told.startswith(("sinks: not conf", "sinks: name ", "cursor: ")) or all(
        re.search("family: expected one of |: only minted URLs |required for |expected together |30 days", mistake)
        for mistake in told.split("; ")
    )
