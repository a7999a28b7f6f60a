"""
What there is to ask and to order, declared beside the method that does it.

Routes and the OpenAPI document are made from these declarations.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, get_type_hints

from pydantic import BaseModel
from starlette.responses import Response

from media_callbacks.model.errors import Rejected

MAX_BODY_BYTES = 64 * 1024

Model = type[BaseModel]
Answer = Response | BaseModel
Run = Callable[..., Awaitable[Answer]]
RunT = TypeVar("RunT", bound=Run)


class Refused(Rejected):
    """A question or an order that makes no sense, with the status to answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    One method of one path.

    Attributes:
        run: Given the parameters in the path, ``query`` and ``body``, by name. A model that it gives is answered
            with 200.
        query: The model of the query; None where there is none.
        body: The model of the body, which may be empty where no member is required; None where there is none.
        answers: The model of the answer by status; a media type for one that is not JSON of a model.
        refusals: Why it is refused, by status, apart from what refuses its like.
        takes_token: It is also given ``token``: which setting has the one that came, or None.
        takes_accept: It is also given ``accept``: which media types are asked for.
        waits: It may wait for something to happen, for as long as the client is there.
    """

    method: str
    path: str
    name: str
    summary: str
    description: str
    run: Run
    query: Model | None
    body: Model | None
    max_body_bytes: int
    answers: Mapping[int, Model | str]
    refusals: Mapping[int, str]
    takes_token: bool
    takes_accept: bool
    waits: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters in the path."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def needs_store(self) -> bool:
        """Refused while the store is away."""
        return self.path.startswith("/v1/")

    @property
    def tag(self) -> str:
        """What it is about."""
        return self.path.split("/")[2] if self.needs_store else "service"


def operation(
    method: str,
    path: str,
    summary: str,
    *,
    description: str = "",
    max_body_bytes: int = MAX_BODY_BYTES,
    answers: Mapping[int, Model | str] | None = None,
    refusals: Mapping[int, str] | None = None,
    waits: bool = False,
) -> Callable[[RunT], RunT]:
    """
    Declare a method as an operation; for the arguments see there. Its name is that of the method, in camel case. The
    models of query and body are the types of the arguments of these names, and that of the answer, unless ``answers``
    says otherwise, is what the method gives.
    """

    def declare(run: RunT) -> RunT:
        hints = get_type_hints(run)
        first, *others = run.__name__.split("_")
        vars(run)["operation"] = Operation(
            method=method,
            path=path,
            name=first + "".join(map(str.capitalize, others)),
            summary=summary,
            description=description,
            run=run,
            query=hints.get("query"),
            body=hints.get("body"),
            max_body_bytes=max_body_bytes,
            answers=answers or {200: hints["return"]},
            refusals=refusals or {},
            takes_token="token" in hints,
            takes_accept="accept" in hints,
            waits=waits,
        )
        return run

    return declare


def operations_of(owner: object) -> Iterator[Operation]:
    """What an object's methods are declared as, in the order in which they stand in its class."""
    for name, member in vars(type(owner)).items():
        declared = getattr(member, "operation", None)
        if isinstance(declared, Operation):
            yield replace(declared, run=getattr(owner, name))


def answer_json(status: int, answer: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        answer.__pydantic_serializer__.to_json(answer), status, headers=headers, media_type="application/json"
    )
