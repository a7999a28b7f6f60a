"""Cells, asked by the page over their admin APIs: all at once, and none for longer than whoever looks will wait."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from media_callbacks.client.admin_api import AdminApi, NoAnswer
from media_callbacks.config.server import AdminSettings

TIMEOUT_S = 2.0
_MAX_ANSWER_BYTES = 4 << 20

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Told(Generic[ModelT]):
    """
    What a cell has answered.

    Attributes:
        page: What addresses of its page begin with.
        answer: None where there is none.
        problem: Why there is none.
    """

    cell: str
    page: str
    answer: ModelT | None
    problem: str = ""


class Cells:
    """``settings`` name them."""

    def __init__(self, settings: AdminSettings) -> None:
        own_token = next(iter(settings.token), None)
        self._cells = [
            (name, cell.page or cell.url, _build(cell.url, cell.token or own_token))
            for name, cell in settings.cells.items()
        ]

    def __len__(self) -> int:
        return len(self._cells)

    async def ask(
        self, path: str, model: type[ModelT], query: Mapping[str, str] | None = None
    ) -> Sequence[Told[ModelT]]:
        """One for each cell, in the order of the configuration."""

        async def ask(cell: str, page: str, api: AdminApi) -> Told[ModelT]:
            try:
                answer = await api.get(path, query=query)
            except NoAnswer as error:
                return Told(cell, page, None, f"does not answer ({error})")
            if answer.status != 200:
                said = f": {answer.problem}" if answer.problem else ""
                return Told(cell, page, None, f"answers HTTP {answer.status}{said}")
            try:
                return Told(cell, page, model.model_validate(answer.document))
            except ValidationError:
                return Told(cell, page, None, "answers otherwise than this version expects")

        return await asyncio.gather(*(ask(*cell) for cell in self._cells))


def _build(url: str, token: str | None) -> AdminApi:
    return AdminApi(url, token, timeout_s=TIMEOUT_S, max_answer_bytes=_MAX_ANSWER_BYTES)
