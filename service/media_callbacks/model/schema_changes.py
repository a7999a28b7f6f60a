"""
Which changes of a schema break those who read events with the schema as it was.

Events go one way, from this service to its consumers, and what the service writes has exactly the members of its
schema. So a change is harmless if every event that the new schema describes is valid under the old one, which is open
for further members, and has all that the old one promised. The reverse does not matter: nobody sends events to us.

    harmless                                    breaking
    a new member                                a member that is gone, or of another type
    an optional member that is always there     a member that was always there and now need not be
    fewer types, fewer values of an enum        another type, null included; another value of an enum
    a narrower bound; a format or pattern       a wider bound, or none; another format or pattern, or none
    other descriptions
    another kind of event                       a kind that is gone

Another kind is harmless although no old schema describes it: whoever reads several kinds is told to expect others.
A change of meaning, such as of a unit, is in none of these: such a member needs another name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_TEXTS = frozenset({"$schema", "title", "description", "examples"})
_COMPARED = frozenset(
    {"$id", "type", "const", "enum", "format", "pattern", "minimum", "maximum", "minItems", "maxItems"}
    | {"required", "properties", "items", "oneOf"}
)
_ALL_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


def breaking_changes(published: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """
    What a reader of ``published`` would trip over in events that follow ``current``; empty when nothing.

    Raises:
        ValueError: A schema has a keyword that is not understood here.
    """
    return list(_compare(published, current, ""))


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    where = path or "the schema"
    for schema in (old, new):
        if unknown := schema.keys() - _TEXTS - _COMPARED:
            raise ValueError(f"{where}: expected keywords that this check compares, found {', '.join(sorted(unknown))}")
    kinds = _kinds(new)
    for name, kind in _kinds(old).items():
        if name in kinds:
            yield from _compare(kind, kinds[name], _member(path, name))
        else:
            yield f"{where}: there is no {name} any more"
    if added := _types(new) - _types(old):
        yield f"{where}: may now be of type {', '.join(sorted(added))}"
    if (values := _values(old)) is not None:
        if (new_values := _values(new)) is None:
            yield f"{where}: may now have any value, not only {_list(values)}"
        elif unheard := [value for value in new_values if value not in values]:
            yield f"{where}: may now be {_list(unheard)}"
    for keyword in ("$id", "format", "pattern"):
        if keyword in old and old[keyword] != new.get(keyword):
            yield f"{where}: {keyword} was {old[keyword]} and is {new.get(keyword, 'gone')}"
    for keyword, sign in (("minimum", 1), ("minItems", 1), ("maximum", -1), ("maxItems", -1)):
        if keyword in old and (keyword not in new or sign * new[keyword] < sign * old[keyword]):
            yield f"{where}: {keyword} was {old[keyword]} and is {new.get(keyword, 'gone')}"
    for name in old.get("required", ()):
        if name in new.get("properties", {}) and name not in new.get("required", ()):
            yield f"{_member(path, name)}: was always there and now need not be"
    for name, member in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            yield f"{_member(path, name)}: is gone"
        else:
            yield from _compare(member, new["properties"][name], _member(path, name))
    # An array that is always empty has no items to differ.
    if "items" in old and new.get("maxItems") != 0:
        yield from _compare(old["items"], new.get("items", {}), f"{path}[]")


def _kinds(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The kinds of event that are described, by their names."""
    return {kind["properties"]["dataschema"]["const"]: kind for kind in schema.get("oneOf", ())}


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    named = schema.get("type", _ALL_TYPES)
    types = frozenset({named} if isinstance(named, str) else named)
    return types | {"integer"} if "number" in types else types


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that are allowed, where they are listed."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _list(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _member(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
