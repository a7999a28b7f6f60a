"""
The OpenAPI document of the operators' API, made from its operations and from their models.

Source: "OpenAPI Specification 3.1.1", https://spec.openapis.org/oas/v3.1.1.html.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from media_callbacks.admin.models.answers import Problem
from media_callbacks.admin.operations import Model, Operation

Json = dict[str, Any]

_PROBLEMS = {
    400: "A parameter is not known, given twice or wrong, or the body is not JSON.",
    401: "The bearer token is missing or wrong.",
    403: "No token is configured, and the request is not from a program on this machine.",
    404: "There is nothing of this name.",
    405: "The path has other methods; see `Allow`.",
    408: "The body did not arrive in time.",
    409: "It can't be done in the present state.",
    410: "What follows the cursor can't be told, or is not kept, any more.",
    413: "The body is larger than 64 KiB, or 4 MiB for jobs.",
    415: "`Content-Type` is not `application/json`, which every order needs, one with an empty body, too.",
    422: "A member of the body is not known, missing or wrong.",
    503: "The store is away; come again after `Retry-After` seconds.",
}
_EVERYWHERE = (400, 401, 403, 405)
_WITH_BODY = (408, 413, 415, 422)
_HEADERS: Mapping[int, Json] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods of this path.", "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}},
}
# Of the paths: description, what is said when there is no such, and an example.
_PARAMETERS = {
    "product": ("Who runs the job.", "There is no such product.", "vod"),
    "job_id": ("The vendor's job id, percent-encoded.", "Nothing is known of it.", "3af7e9705cb24c0f9d23231d4c371900"),
    "receipt_id": ("Number of a receipt.", "No receipt has this number.", "1"),
    "event_id": ("Id of an event.", "No event has this id.", "evt_9f2c6b1d0e8a4c7fa3b5d7e9f1a2c4e600"),
    "replay_id": ("Id of a replay.", "No replay has this id.", "1"),
    "refused_id": ("Number of a refused request.", "No refused request has this number (any more).", "1"),
    "sink": ("Name of a sink.", "No sink has this name.", "orders"),
}


def build_document(operations: Sequence[Operation], *, version: str) -> Json:
    """The OpenAPI 3.1 document of these operations."""
    bodies = {o.body for o in operations if o.body is not None}
    answers = {model for o in operations for model in o.answers.values() if not isinstance(model, str)} | {Problem}
    inputs = [(model, "validation") for model in sorted(bodies, key=lambda model: model.__name__)]
    outputs = [(model, "serialization") for model in sorted(answers, key=lambda model: model.__name__)]
    _, definitions = models_json_schema([*inputs, *outputs], ref_template="#/components/schemas/{model}")  # type: ignore[list-item]
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "media-callbacks, for operators",
            "version": version,
            "summary": "What became of every callback, event and delivery, and how to steer deliveries.",
            "description": "Times are RFC 3339 in UTC. Lists come in pages: ask again with the `cursor` of the answer"
            " until it is null. Errors are problem details as of RFC 9457.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {name: _tidy(schema) for name, schema in definitions["$defs"].items()},
            "responses": {f"Problem{status}": _problem(status, text) for status, text in _PROBLEMS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of `admin.token`; for `/v1/jobs` and below one of `admin.jobs_token`,"
                    " too. Where no"
                    " `admin.token` is configured, programs on this machine need none: requests from loopback, to a"
                    " `Host` of loopback, of no web page elsewhere, through no proxy.",
                }
            },
        },
    }


_TAGS = {
    "events": "Typed completions, as they are sent to sinks.",
    "feed": "Events as they come, for who asks for them.",
    "receipts": "What came through the sources, whether it gave an event or not.",
    "replays": "Delivering again.",
    "erasures": "Removing what is kept of somebody.",
    "refused": "The last requests that were refused, explained.",
    "sources": "Entrances, and whether anything comes through them.",
    "sinks": "Destinations.",
    "status": "Whether it is well.",
    "activity": "What came in and went out of late.",
    "jobs": "Jobs that were submitted, and whose end is wanted.",
    "search": "Finding them.",
    "report": "What became of them.",
    "service": "The service itself.",
}


def _operation(operation: Operation) -> Json:
    document: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        document["description"] = operation.description
    parameters = [_path_parameter(name) for name in operation.parameters]
    if operation.query is not None:
        parameters += _query_parameters(operation.query)
    if parameters:
        document["parameters"] = parameters
    if operation.body is not None:
        document["requestBody"] = {
            # With it comes the type, and without that no order is taken.
            "required": True,
            "content": {"application/json": {"schema": _reference(operation.body)}},
        }
    document["responses"] = {str(status): _answer(status, model) for status, model in operation.answers.items()}
    usual = {
        *_EVERYWHERE,
        *(_WITH_BODY if operation.body is not None else ()),
        *((503,) if operation.needs_store else ()),
    }
    own = dict(operation.refusals)
    for name in operation.parameters:
        own.setdefault(404, _PARAMETERS[name][1])
    for status in sorted({*usual, *own}):
        document["responses"][str(status)] = (
            _problem(status, own[status]) if status in own else {"$ref": f"#/components/responses/Problem{status}"}
        )
    return document


def _path_parameter(name: str) -> Json:
    description, _, example = _PARAMETERS[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


def _query_parameters(query: Model) -> list[Json]:
    parameters = []
    document = _tidy(query.model_json_schema())
    for name, schema in document["properties"].items():
        about = {key: schema.pop(key) for key in ("description", "examples") if key in schema}
        examples = about.pop("examples", [])
        parameters.append(
            {"name": name, "in": "query", **about, "schema": schema}
            | ({"required": True} if name in document.get("required", ()) else {})
            | ({"example": examples[0]} if examples else {})
        )
    return parameters


def _answer(status: int, model: Model | str) -> Json:
    if isinstance(model, str):
        kind = "object" if model == "application/json" else "string"
        return {"description": "As asked for.", "content": {model: {"schema": {"type": kind}}}}
    document: Json = {
        "description": inspect.getdoc(model),
        "content": {"application/json": {"schema": _reference(model)}},
    }
    if status == 202:
        document["headers"] = {"Location": {"description": "Where to see how far it is.", "schema": {"type": "string"}}}
    return document


def _problem(status: int, description: str) -> Json:
    document: Json = {
        "description": description,
        "content": {"application/problem+json": {"schema": _reference(Problem)}},
    }
    return document | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


def _reference(model: Model) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _tidy(schema: Any) -> Any:
    """Without the titles that pydantic makes from names, and the defaults of what is just left out."""
    if isinstance(schema, list):
        return [_tidy(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _tidy(member) for name, member in value.items()} if key == "properties" else _tidy(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
