"""From requests to operations, and back."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from media_callbacks.admin.bodies import BodyReader
from media_callbacks.admin.guard import TOKEN
from media_callbacks.admin.models.expected_jobs import JobOrder, JobOrders
from media_callbacks.admin.operations import Model, Operation, Refused, answer_json
from media_callbacks.edge.answers import RETRY_AFTER_S, problem
from media_callbacks.model.errors import ClientLeft, MethodNotAllowed, Rejected, Unavailable
from media_callbacks.model.suggestions import did_you_mean

BODY_TIMEOUT_S = 10.0
# More than a list of jobs has when all of it is wrong in one way or another.
MAX_MISTAKES = 2000
_T = TypeVar("_T")


class Endpoint:
    """
    The ASGI application behind one path. Whatever its operations raise on purpose is answered.

    Args:
        operations: By method.
        context: What models of bodies are checked with besides themselves.
    """

    def __init__(self, operations: Mapping[str, Operation], context: Callable[[], object]) -> None:
        self._operations = operations
        self._context = context
        self._bodies = {
            method: BodyReader(max_bytes=operation.max_body_bytes, timeout_s=BODY_TIMEOUT_S)
            for method, operation in operations.items()
        }
        self.methods = tuple(operations)
        self._allowed = sorted({*operations, *(["HEAD"] if "GET" in operations else [])})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Rejected as error:
            headers = {"allow": ", ".join(error.allowed)} if isinstance(error, MethodNotAllowed) else {}
            if error.status in (408, 413):
                # What is left of the body would be taken for the next request, or read for nothing.
                headers["connection"] = "close"
            response = problem(error.status, headers, detail=str(error))
        except Unavailable as error:
            response = problem(503, {"retry-after": str(RETRY_AFTER_S)}, detail=str(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        operation = self._operations.get(method)
        if operation is None:
            allowed = self._allowed
            raise MethodNotAllowed(f"expected one of the methods {', '.join(allowed)}", allowed=allowed)
        if method != "GET":
            _check_content_type(request.headers.getlist("content-type"))
        arguments: dict[str, Any] = dict(request.path_params)
        query = _read_query(request, operation.query)
        if query is not None:
            arguments["query"] = query
        if operation.body is not None:
            body = await self._bodies[method].read(request.headers.raw, request.receive)
            arguments["body"] = _read_body(body, operation.body, self._context())
        if operation.takes_token:
            arguments["token"] = request.scope.get(TOKEN)
        if operation.takes_accept:
            arguments["accept"] = ",".join(request.headers.getlist("accept"))
        if operation.waits:
            answer = await _while_connected(operation.run(**arguments), request)
        else:
            answer = await operation.run(**arguments)
        return answer if isinstance(answer, Response) else answer_json(200, answer)


async def _while_connected(run: Awaitable[_T], request: Request) -> _T:
    """
    Raises:
        ClientLeft: It was broken off. Whoever leaves closes his half first, and what more he does shows only when he
            is answered: so he must keep it open to wait.
    """
    running, leaving = asyncio.ensure_future(run), [asyncio.ensure_future(_until_left(request.receive))]
    half_closed: asyncio.Event | None = request.scope.get("state", {}).get("half_closed")
    if half_closed is not None:
        leaving.append(asyncio.ensure_future(half_closed.wait()))
    try:
        await asyncio.wait([running, *leaving], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return await running
        raise ClientLeft("expected the connection to stay open both ways while waiting, came its end")
    finally:
        for task in (running, *leaving):
            task.cancel()
        await asyncio.gather(running, *leaving, return_exceptions=True)


async def _until_left(receive: Receive) -> bool:
    while (await receive())["type"] != "http.disconnect":
        pass
    return True


async def call(
    operation: Operation,
    path_parameters: Mapping[str, str],
    *,
    query: Mapping[str, str],
    body: Mapping[str, Any],
    context: object,
) -> Any:
    """
    An operation from within this process: what it is asked and answers is what it would be by HTTP.

    Raises:
        Refused: Likewise.
    """
    arguments: dict[str, Any] = dict(path_parameters)
    if operation.query is not None:
        arguments["query"] = _check_query(query, operation.query)
    if operation.body is not None:
        arguments["body"] = _read_body(json.dumps(dict(body)).encode(), operation.body, context)
    if operation.takes_token:
        arguments["token"] = None
    if operation.takes_accept:
        arguments["accept"] = ""
    answer = await operation.run(**arguments)
    if not isinstance(answer, Response):
        return answer
    model = operation.answers[answer.status_code]
    assert not isinstance(model, str), "an answer for programs alone"
    return model.model_validate_json(bytes(answer.body))


def _read_query(request: Request, model: Model | None) -> BaseModel | None:
    items = request.query_params.multi_items()
    values = dict(items)
    if len(values) != len(items):
        twice = sorted({name for name, _ in items if len(request.query_params.getlist(name)) > 1})
        raise Refused(400, _shorten(f"expected each parameter once, found more of: {', '.join(twice)}"))
    if model is None:
        if values:
            raise Refused(400, _shorten(f"expected no parameters, found {', '.join(values)}"))
        return None
    return _check_query(values, model)


def _check_query(values: Mapping[str, str], model: Model) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Refused(400, _describe(error, model)) from None


def _check_content_type(values: Sequence[str]) -> None:
    """
    Of every order, also one without a body: the three types that a web page may send elsewhere without being asked for
    leave are no JSON, and neither is none.
    """
    if len(values) != 1 or values[0].partition(";")[0].strip().lower() != "application/json":
        came = "another one" if len(values) == 1 else "several" if values else "none"
        raise Refused(
            415, f"expected Content-Type: application/json, came {came}; send it, also where there is no body"
        )


def _read_body(body: bytes, model: Model, context: object) -> BaseModel:
    if not body:
        # As if it said nothing, so that what needs no order needs no body.
        body = b"{}"
    try:
        return model.model_validate_json(body, context=context)
    except ValidationError as error:
        is_json = all(mistake["type"] != "json_invalid" for mistake in error.errors(include_url=False))
        raise Refused(422 if is_json else 400, _describe(error, model)) from None


def _describe(error: ValidationError, model: Model) -> str:
    """Each mistake with its place and what was expected."""
    mistakes = error.errors(include_url=False, include_context=False)
    told = []
    for mistake in mistakes[:MAX_MISTAKES]:
        places, members = mistake["loc"], model.model_fields
        if model is JobOrders:
            # The first place says only whether it is one job or a list of them.
            places, members = places[1:], JobOrder.model_fields
        place = ".".join(map(str, places))
        text = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            text = "not known here"
            if len(places) == 1 or model is JobOrders:
                text += f"; expected one of {', '.join(members)}"
        elif mistake["type"] == "literal_error":
            text += did_you_mean(mistake["input"], re.findall("'([^']*)'", text))
        elif mistake["type"] == "string_pattern_mismatch" and places[-1] in ("after", "cursor"):
            text = "expected the cursor of an answer, as it stands there"
        elif mistake["type"] == "model_type":
            text = "Input should be an object"
        told.append(f"{place[:100]}: {text}" if place else text)
    if len(mistakes) > MAX_MISTAKES:
        told.append(f"and {len(mistakes) - MAX_MISTAKES} more")
    return "; ".join(told)


def _shorten(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:1000]}…"
