"""One table of the configuration, checked by its model."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from media_callbacks.config.problems import UNRESOLVED, KeyPath, Problems
from media_callbacks.config.values import NAME
from media_callbacks.model.suggestions import did_you_mean


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:  # noqa: ARG003 - for subclasses
        """
        Rules across keys.

        Args:
            given: The values that are right by themselves, defaults included. A rule whose keys are not all there
                says nothing.

        Returns:
            Key and sentence of each mistake.
        """
        yield from ()

    @field_validator("*", mode="after")
    @classmethod
    def _keep(cls, value: Any, info: ValidationInfo) -> Any:
        # Runs for each field that is right, whatever is wrong with others.
        if info.context is not None and info.field_name is not None:
            info.context[info.field_name] = value
        return value


SectionT = TypeVar("SectionT", bound=Section)


def table_of(path: KeyPath, value: Any, problems: Problems) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    if value is not UNRESOLVED:
        problems.add(path, f"expected a table, came {problems.describe(path, value, secret=True)}")
    return None


def check_name(path: KeyPath, problems: Problems) -> None:
    if not re.fullmatch(NAME, str(path[-1])):
        problems.add(path, "expected a name of a-z, 0-9 and hyphens, came another one; rename it")


def choose_model(
    path: KeyPath,
    key: str,
    table: Any,
    problems: Problems,
    *,
    models: Mapping[str, type[SectionT]],
    refused: Mapping[str, str],
) -> type[SectionT] | None:
    """The model that a table's ``transport`` or ``kind`` asks for; None, and a sentence, where there is none."""
    fields = table_of(path, table, problems)
    if fields is None:
        return None
    at, known = (*path, key), ", ".join(models)
    word = fields.get(key)
    if key not in fields:
        problems.add(at, f"missing; expected one of {known}")
    elif isinstance(word, str) and word in models:
        return models[word]
    elif isinstance(word, str) and word in refused:
        problems.add(at, refused[word])
    elif word is not UNRESOLVED:
        came = problems.describe(at, word, secret=False)
        problems.add(at, f"expected one of {known}, came {came}{did_you_mean(word, models)}")
    return None


def validate_section(
    model: type[SectionT], path: KeyPath, table: Any, problems: Problems
) -> tuple[SectionT | None, dict[str, Any]]:
    """
    Check one table by itself.

    Returns:
        The section, unless there was a mistake, and the values that are right by themselves, defaults included.
    """
    fields = table_of(path, table, problems)
    if fields is None:
        return None, {}
    given: dict[str, Any] = {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if name not in fields and not field.is_required()
    }
    section = None
    try:
        section = model.model_validate(fields, context=given)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problems.add_error(path, model, fields, detail)
    for key, sentence in model.mistakes(given):
        problems.add((*path, key), sentence)
    return section, given
