"""
Names of topics, subjects and routing keys, made of what an event says of itself: ``media.{product}.{kind}.{outcome}``.

A template has only members whose values the code or the configuration bounds, so that nothing a caller sends names a
destination. The account is none of them: who registers a job may choose it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from media_callbacks.model.kinds import NO_PRODUCT, OPERATIONAL
from media_callbacks.model.suggestions import did_you_mean

MEMBERS = ("type", "kind", "outcome", "product", "source")

# Of one template, that are remembered; most have fewer.
_MAX_NAMES = 1024

_LISTED = ", ".join(f"{{{member}}}" for member in MEMBERS)
_MEMBER = re.compile(r"\{([^{}]*)\}")
_OTHERS = re.compile(r"[^A-Za-z0-9_-]")
_OTHERS_IN_LEVELS = re.compile(r"[^A-Za-z0-9_.-]")


class Origin(NamedTuple):
    """
    What is bounded of an event.

    Attributes:
        trouble: That an operational event tells of.
    """

    product: str
    kind: str
    outcome: str
    source: str
    trouble: str | None = None

    @property
    def type(self) -> str:
        return ".".join(["media", self.kind, *([self.trouble] if self.trouble else []), self.outcome])

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Origin":
        """
        That of a stored event.

        Raises:
            ValueError: It has none of what every event has.
        """
        data = document.get("data")
        if isinstance(data, dict):
            # Each event of a sink comes by here; a pattern takes eight times as long.
            found: list[Any] = [data.get("product"), data.get("kind"), data.get("outcome"), data.get("source")]
            if {*map(type, found)} == {str}:
                return cls(*found)
            match data:
                case {"kind": "operational", "outcome": str(outcome), "trouble": str(trouble)}:
                    return cls(NO_PRODUCT, OPERATIONAL, outcome, NO_PRODUCT, trouble)
        raise ValueError("the stored event lacks product, kind, outcome or source, which every event has")


class NameTemplate:
    """
    Attributes:
        members: Those that it names.
    """

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: It is no template. The text is one sentence for the operator, without the template.
        """
        self.members = tuple(_MEMBER.findall(text))
        self._text = text
        for member in self.members:
            if member not in MEMBERS:
                raise ValueError(
                    f"expected one of {_LISTED} within braces, came another member, which callers may choose, or no"
                    f" event has{did_you_mean(member, MEMBERS)}"
                )
        rest = _MEMBER.sub("x", text)
        if _OTHERS_IN_LEVELS.search(rest) or not rest:
            raise ValueError(
                f"expected letters, digits, _ and -, levels parted by dots, and any of {_LISTED}, came something else;"
                " wildcards and the like are for who subscribes"
            )
        if not all(rest.split(".")):
            raise ValueError(
                "expected something in every level, came two dots in a row, or one at an end; leave it out"
            )
        self._rendered = lru_cache(_MAX_NAMES)(self._render)

    def render(self, origin: Origin) -> str:
        """The name of where an event goes. A type keeps its levels, everything else is a part of one level."""
        return self._rendered(origin)

    def _render(self, origin: Origin) -> str:
        return _MEMBER.sub(lambda found: _clean(found[1], getattr(origin, found[1])), self._text)


def _clean(member: str, value: str) -> str:
    return (_OTHERS_IN_LEVELS if member == "type" else _OTHERS).sub("_", value) or "_"
