"""
Members of the vendor's messages: what is declared of them, and what is made of them when they come otherwise.

The vendor's documents and its messages disagree about types, about the case of keys and about what is required, and
there is JSON inside strings. So a message is read as it is declared, at once, from its bytes; only where that fails,
or where something stands in it that is not declared, its values are put into the declared shape one by one: keys of
any case with blanks around them, both spellings of a key, JSON in strings, numbers in strings, single objects for
lists and lists of one for objects. What still does not fit is None, and noted by its path.

Both ways give the same wherever the first gives anything (``tests/sources/reading/test_members.py``).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, SchemaValidator, core_schema
from typing_extensions import TypedDict

from media_callbacks.model.errors import Unparseable
from media_callbacks.sources.base import MAX_ELEMENTS
from media_callbacks.sources.reading.decoding import MAX_DEPTH, decode_element, decode_object, storable

# Every integer up to here is exact as a float.
_MAX_NUMBER = 2**53
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,3})?")
# Whatever is longer is no id.
_MAX_TEXT_NUMBER = 10**40
_BRACKETS = re.compile(rb"[\[\]{}]")
# A hostile body could hold a million bad members; a hundred tell the story.
_MAX_WARNINGS = 100

T = TypeVar("T")
Warn = Callable[[str], None]


class Misfit(Exception):
    """A value that can't be put into the declared shape."""


def check_count(path: str, count: int, at_most: int) -> None:
    """
    Before anything is built of them: each would cost a hundred times what it takes to send it.

    Raises:
        Unparseable: There are more.
    """
    if count > at_most:
        raise Unparseable(f"expected at most {at_most} elements in {path[:200]}, found {count}")


# Single values, in whatever shape they come


def read_text(value: Any) -> str | None:
    """Trimmed; None when there is nothing in it. A number counts as its decimal text."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MAX_TEXT_NUMBER:
        return str(value)
    raise Misfit


def read_verbatim(value: Any) -> str:
    """Text passed through from the submitter, not even trimmed; anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_number(value: Any) -> float | None:
    """A number that is not negative, from a JSON number or a numeric string."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None
        value = float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MAX_NUMBER:
        raise Misfit
    return float(value)


def read_integer(value: Any) -> int | None:
    number = read_number(value)
    if number is not None and not number.is_integer():
        raise Misfit
    return None if number is None else int(number)


def read_flag(value: Any) -> bool | None:
    word = str(value).strip().lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    if word:
        raise Misfit
    return None


def read_numbers(value: Any) -> tuple[float, ...] | None:
    return _read_all(value, read_number)


def _read_all(value: Any, read: Callable[[Any], T | None]) -> tuple[T, ...] | None:
    value = decode_element(value)
    if not value:
        return None
    if isinstance(value, list) and len(value) > MAX_ELEMENTS:
        raise Misfit
    found = [read(item) for item in value] if isinstance(value, list) else [None]
    # All or nothing, because the places of the others mean something.
    items = tuple(item for item in found if item is not None)
    if len(items) != len(found):
        raise Misfit
    return items


# Declarations


class _Member:
    """What a member may be, as a schema and as a reading of what does not fit the schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        raise NotImplementedError

    def read(self, value: Any, inner: Any, path: str, warn: Warn) -> Any:
        """
        Raises:
            Misfit: It can't be read.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class _Value(_Member):
    schema: Callable[[], CoreSchema]
    read_value: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.nullable_schema(self.schema())

    def read(self, value: Any, inner: Any, path: str, warn: Warn) -> Any:
        return self.read_value(value)


def _first_that_fits(*choices: CoreSchema) -> CoreSchema:
    return core_schema.union_schema(list(choices), mode="left_to_right")


def _number_schema(*, as_text: bool = False) -> CoreSchema:
    # Digits alone: a lenient number would take true, and NaN as a word.
    number = core_schema.float_schema(strict=True, ge=0, le=_MAX_NUMBER, allow_inf_nan=False)
    return _or_digits(number, core_schema.float_schema(), r"^[0-9]{1,15}(\.[0-9]{1,15})?$", as_text=as_text)


def _integer_schema(*, as_text: bool = False) -> CoreSchema:
    integer = core_schema.int_schema(strict=True, ge=0, le=_MAX_NUMBER)
    return _or_digits(integer, core_schema.int_schema(), "^[0-9]{1,15}$", as_text=as_text)


def _or_digits(number: CoreSchema, lenient: CoreSchema, pattern: str, *, as_text: bool) -> CoreSchema:
    digits = core_schema.chain_schema([core_schema.str_schema(strict=True, pattern=pattern), lenient])
    return _first_that_fits(digits, number) if as_text else _first_that_fits(number, digits)


def _text_schema() -> CoreSchema:
    return core_schema.str_schema(strict=True, strip_whitespace=True)


def _anything_schema() -> CoreSchema:
    # Texts and whole numbers are as they come, without a call: nearly all are one of them.
    rest = core_schema.no_info_after_validator_function(storable, core_schema.any_schema())
    return _first_that_fits(core_schema.str_schema(strict=True), core_schema.int_schema(strict=True), rest)


def _tuple_of(item: CoreSchema) -> CoreSchema:
    return core_schema.tuple_schema([item], variadic_item_index=0, max_length=MAX_ELEMENTS)


@dataclass(frozen=True)
class _One(_Member):
    """
    An object; also as JSON text, as the only element of a list, or both.

    Attributes:
        sought: Names of members that may stand one level down in it, in an object that is not declared; those of a
            group together. Where it has none of them and one such object has, all that it declares is read from there.
    """

    sought: tuple[tuple[str, ...], ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return _first_that_fits(schema, core_schema.json_schema(schema))

    def read(self, value: Any, inner: Any, path: str, warn: Warn) -> Any:
        value = decode_element(value)
        if isinstance(value, list) and len(value) == 1:
            value = decode_element(value[0])
        if value in (None, "", []):
            return None
        if not isinstance(value, dict):
            raise Misfit
        return arrange(inner, value, f"{path}.", warn, sought=self.sought)


class _Objects(_Member):
    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        inner: Any = schema.get("schema")
        inner["max_length"] = MAX_ELEMENTS
        return _first_that_fits(schema, core_schema.json_schema(schema))


class _Many(_Objects):
    """A list of objects; also as JSON text, a single object without its list, or either inside an object."""

    def read(self, value: Any, inner: Any, path: str, warn: Warn) -> Any:
        value = decode_element(value)
        if isinstance(value, dict):
            wrapped = decode_element(next(iter(value.values()))) if len(value) == 1 else None
            value = wrapped if isinstance(wrapped, (dict, list)) and not _declares(inner, value) else value
        if isinstance(value, dict):
            value = [value] if value else []
        if value in (None, ""):
            return None
        if not isinstance(value, list):
            raise Misfit
        return tuple([item for _, item in _read_objects(value, inner, path, warn)])


def _read_objects(values: list[Any], inner: Any, path: str, warn: Warn) -> list[tuple[int, Any]]:
    """The objects of a list, each with its place in it."""
    check_count(path, len(values), MAX_ELEMENTS)
    found = []
    for index, element in enumerate(values):
        item = decode_element(element)
        if isinstance(item, dict):
            found.append((index, arrange(inner, item, f"{path}[{index}].", warn)))
        else:
            warn(f"{path}[{index}]")
    return found


@dataclass(frozen=True)
class _Named(_Objects):
    """
    The objects that an object consists of, each with its key as the vendor spells it; also as JSON text, or as a list.

    Attributes:
        names: Members that name an object of a list, the first that is there; without any it is its place.
    """

    names: tuple[str, ...]

    def read(self, value: Any, inner: Any, path: str, warn: Warn) -> Any:
        value = decode_element(value)
        if isinstance(value, list) and len(value) == 1:
            only = decode_element(value[0])
            value = only if isinstance(only, dict) and not _declares(inner, only) else value
        if value in (None, "", []):
            return None
        if isinstance(value, list):
            return self._by_name(_read_objects(value, inner, path, warn))
        if not isinstance(value, dict):
            raise Misfit
        check_count(path, len(value), MAX_ELEMENTS)
        found = {}
        for key, element in value.items():
            item = decode_element(element)
            if isinstance(item, dict):
                found[key] = arrange(inner, item, f"{path}.{key}.", warn)
            else:
                warn(f"{path}.{key}")
        return found

    def _by_name(self, elements: Iterable[tuple[int, Any]]) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for index, element in elements:
            if says_anything(element):
                name = first(element, self.names) or str(index)
                # Two of one name are two.
                while name in named:
                    name += f"[{index}]"
                named[name] = element
        return named


Text = Annotated[str | None, _Value(_text_schema, read_text)]
"""Trimmed. May be empty, which means the same as None."""
Verbatim = Annotated[str | None, _Value(lambda: core_schema.str_schema(strict=True), read_verbatim)]
Number = Annotated[float | None, _Value(_number_schema, read_number)]
Integer = Annotated[int | None, _Value(_integer_schema, read_integer)]
NumberText = Annotated[float | None, _Value(lambda: _number_schema(as_text=True), read_number)]
IntegerText = Annotated[int | None, _Value(lambda: _integer_schema(as_text=True), read_integer)]
"""Digits as text, as the vendor writes many numbers; a number is read as well."""
Flag = Annotated[bool | None, _Value(lambda: core_schema.bool_schema(strict=True), read_flag)]
Numbers = Annotated[
    tuple[float, ...] | None,
    _Value(lambda: _tuple_of(_number_schema()), read_numbers),
]
Texts = Annotated[
    tuple[str, ...] | None, _Value(lambda: _tuple_of(_text_schema()), lambda value: _read_all(value, read_text))
]
Anything = Annotated[Any, _Value(_anything_schema, lambda value: value)]
"""Any JSON, also as text; ``decoded`` opens it."""
One = Annotated[T | None, _One()]
JOB_IDS = ("JobId", "TaskId", "ParentJobId")
Enveloped = Annotated[T | None, _One(sought=(JOB_IDS, ("Status", "State")))]
"""A body that need not be documented: job and status may stand one level down."""
Many = Annotated[tuple[T, ...] | None, _Many()]
Named = Annotated[dict[str, T] | None, _Named(names=("ActivityInstanceId", "ActivityId"))]


class Declared(TypedDict, total=False):
    """An object as the vendor sends it, with the vendor's own names. Any member may be missing."""


D = TypeVar("D")


@cache
def _validator(model: Any) -> SchemaValidator:
    _refuse_others(model)
    validator = TypeAdapter(model).validator
    assert isinstance(validator, SchemaValidator)
    return validator


def _refuse_others(model: Any) -> None:
    """What is not declared shows, in this object and in all that it declares: it may be another spelling."""
    (get_origin(model) or model).__pydantic_config__ = ConfigDict(extra="forbid")
    for _, _, inner in _plan(model).values():
        if inner is not None:
            _refuse_others(inner)


@cache
def _plan(model: Any) -> Mapping[str, tuple[str, _Member, Any]]:
    """By name in lower case: the name as declared, how it is read, and of what model its objects are."""
    generic = get_origin(model) or model
    given = dict(zip(getattr(generic, "__parameters__", ()), get_args(model), strict=False))
    plan = {}
    for name, hint in get_type_hints(generic, include_extras=True).items():
        declared, member = get_args(hint)[:2]
        parts = (given.get(part, part) for outer in get_args(declared) for part in (outer, *get_args(outer)))
        inner = next((part for part in parts if hasattr(part, "__total__")), None)
        plan[name.lower()] = name, member, inner
    return plan


def _declares(model: Any, values: Mapping[str, Any]) -> bool:
    return any(name.strip().lower() in _plan(model) for name in values)


def settle(values: Mapping[str, Any], warn: Warn) -> dict[str, Any]:
    """
    The members by name, trimmed and in lower case. Where both spellings of a key exist (MTS sends ``jobId`` and
    ``JobId``), the one in lower case wins.
    """
    settled = {key.strip().lower(): value for key, value in values.items()}
    if len(settled) == len(values):
        return settled
    settled = {}
    for key, value in values.items():
        name = key.strip().lower()
        if name in settled:
            if value in (None, "") or settled[name] == value:
                continue
            if settled[name] not in (None, ""):
                warn(key.strip())
                if not key.lstrip()[:1].islower():
                    continue
        settled[name] = value
    return settled


def arrange(
    model: Any,
    values: Mapping[str, Any],
    path: str,
    warn: Warn,
    *,
    sought: tuple[tuple[str, ...], ...] = (),
) -> dict[str, Any]:
    """The values in the shape that the model declares; what can't be put into it is left out, with a warning."""
    plan, arranged = _plan(model), {}
    others: dict[str, dict[str, Any]] = {}
    for key, value in settle(values, lambda name: warn(path + name)).items():
        if key not in plan:
            if isinstance(value, dict) and key != "userdata" and len(others) < MAX_ELEMENTS:
                others[key] = value
        elif value is not None:
            name, member, inner = plan[key]
            try:
                arranged[name] = member.read(value, inner, path + name, warn)
            except Misfit:
                warn(path + name)
    if sought and not any(arranged.get(name) for names in sought for name in names):
        whole = _find_whole(others, sought)
        if whole is not None:
            inside = arrange(model, others[whole], f"{path}{whole}.", warn)
            # What stands outside counts where the whole itself says nothing.
            arranged = inside | arranged | {name: value for name, value in inside.items() if value or value == 0}
    for names in sought:
        if not any(arranged.get(name) for name in names):
            arranged |= next((found for other in others.values() if (found := _texts_of(other, names))), {})
    return arranged


def _find_whole(others: Mapping[str, dict[str, Any]], sought: tuple[tuple[str, ...], ...]) -> str | None:
    """The only one that says all that is sought, or of the first group at least; None where several do."""
    found = {key: [_texts_of(other, names) for names in sought] for key, other in others.items()}
    wholes = [key for key in found if all(found[key])] or [key for key in found if found[key][0]]
    return wholes[0] if len(wholes) == 1 else None


def _texts_of(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    settled, found = settle(values, lambda _: None), {}
    for name in names:
        value = settled.get(name.lower())
        if value is not None:
            try:
                found[name] = read_text(value)
            except Misfit:
                continue
    return {name: text for name, text in found.items() if text}


# Messages


class Reading(Generic[D]):
    """
    A message as it is declared.

    Attributes:
        warnings: Paths of what was there and could not be understood, or contradicts something else.
    """

    __slots__ = ("_values", "message", "payload", "warnings")

    def __init__(self, message: D, payload: bytes, values: dict[str, Any] | None = None) -> None:
        self.message = message
        self.payload = payload
        self.warnings: list[str] = []
        self._values = values

    def warn(self, path: str) -> None:
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(path[:200])

    @property
    def is_rearranged(self) -> bool:
        """Whether it had to be put into the declared shape, or at least to be looked at."""
        return self._values is not None

    def values(self) -> dict[str, Any]:
        """All there is, declared or not."""
        if self._values is None:
            self._values = decode_object(self.payload)
        return self._values

    def digest(self) -> str:
        """A hash of the content that does not depend on the order of keys."""
        return digest(self.values())


def read(model: Any, payload: bytes) -> Reading[Any]:
    """
    Raises:
        Unparseable: It is not UTF-8, not JSON, or not an object.
    """
    # The decoder replaces NUL, which can't be stored; and what blanks are among the control characters is disputed.
    if (b"\\" not in payload or b"u00" not in payload) and _is_shallow(payload):
        try:
            return Reading(_validator(model).validate_json(payload), payload)
        except ValidationError:
            pass
    return read_values(model, decode_object(payload), payload)


def _is_shallow(payload: bytes) -> bool:
    """Whether nothing can be nested too deeply, brackets in strings included: they may be JSON."""
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return True
    depth = 0
    for bracket in _BRACKETS.findall(payload):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return False
    return True


def read_values(model: Any, values: dict[str, Any], payload: bytes = b"") -> Reading[Any]:
    """The same of values that are decoded already."""
    reading: Reading[Any] = Reading({}, payload, values)
    reading.message = _validator(model).validate_python(arrange(model, values, "", reading.warn))
    return reading


def digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(settle(values, lambda _: None), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def decoded(value: Any) -> Any:
    """Any JSON, opened where it is text; None where it is empty."""
    if value is None or value == "":
        return None
    return storable(decode_element(value))


def opened(*values: Any) -> Any:
    """The first of which anything is left when it is opened."""
    return next((found for value in values if (found := decoded(value)) not in (None, "", [], {})), None)


def first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of these members that is there and not empty."""
    for name in names:
        value = values.get(name)
        if value:
            return value
    return None


def present(elements: Sequence[D] | None) -> list[D]:
    """Elements of which anything could be read; the others are none."""
    return [element for element in elements or () if says_anything(element)]


def said(element: D | None) -> D | None:
    """The element, if anything could be read of it."""
    return element if element and says_anything(element) else None


def says_anything(element: Any) -> bool:
    for value in element.values():  # noqa: SIM110 - any() of a generator takes twice as long
        if _is_something(value):
            return True
    return False


def _is_something(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_is_something, value))
    if isinstance(value, dict):
        # No deeper: what is not declared may be empty and a result all the same.
        return any(member is not None and member != "" for member in value.values())
    return value not in (None, "", [])
