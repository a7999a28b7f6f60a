"""
Tolerant reading of the vendor's replies, member by member: every accessor gives the value or None, and a value that is
there but can't be understood is noted by its path, never an error. What comes by itself is declared instead
(``sources.reading.members``); how a single value is read is the same.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from media_callbacks.sources.base import MAX_ELEMENTS
from media_callbacks.sources.reading.decoding import decode_element, decode_object, parse_time
from media_callbacks.sources.reading.members import (
    Misfit,
    check_count,
    read_integer,
    read_number,
    read_numbers,
    read_text,
    read_verbatim,
    says_anything,
    settle,
)

T = TypeVar("T")


class Fields:
    """
    One JSON object. Keys are found whatever their case and surrounding blanks.

    Where both spellings of a key exist (MTS sends ``jobId`` and ``JobId``), the one in lower case wins.
    """

    __slots__ = ("_path", "_values", "_warnings")

    def __init__(self, values: dict[str, Any], path: str = "", warnings: list[str] | None = None) -> None:
        self._path = path
        self._warnings: list[str] = [] if warnings is None else warnings
        self._values = settle(values, self.warn)

    def warn(self, name: str) -> None:
        """Note that a field is there and can't be understood, or contradicts another."""
        # A hostile body could hold a million bad fields; a hundred tell the story.
        if len(self._warnings) < 100:
            self._warnings.append((self._path + name)[:200])

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def value(self, name: str) -> Any:
        return self._values.get(name.lower())

    def text(self, *names: str) -> str | None:
        """The first of these that has any text, trimmed. A number counts as its decimal text."""
        return next((text for name in names if (text := self._read(name, read_text))), None)

    def verbatim(self, *names: str) -> str | None:
        """Text passed through from the submitter, not even trimmed; an object in its place as JSON."""
        return next((text for name in names if (text := self._read(name, read_verbatim)) is not None), None)

    def number(self, name: str) -> float | None:
        """A number that is not negative, from a JSON number or a numeric string."""
        return self._read(name, read_number)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers; empty when one of them is none, because the places of the others mean something."""
        return self._read(name, read_numbers) or ()

    def integer(self, name: str) -> int | None:
        return self._read(name, read_integer)

    def _read(self, name: str, read: Callable[[Any], T | None]) -> T | None:
        value = self._values.get(name.lower())
        if value is None:
            return None
        try:
            return read(value)
        except Misfit:
            self.warn(name)
            return None

    def time(self, name: str) -> datetime | None:
        text = self.text(name)
        if text is None:
            return None
        moment = parse_time(text)
        if moment is None:
            self.warn(name)
        return moment

    def decoded(self, name: str) -> Any:
        """The value, decoded where it is a string that holds JSON."""
        return decode_element(self._values.get(name.lower()))

    def object(self, name: str) -> "Fields | None":
        """An object; also as JSON text, as the only element of a list, or both."""
        value = self.decoded(name)
        if isinstance(value, list) and len(value) == 1:
            value = decode_element(value[0])
        if isinstance(value, dict):
            return Fields(value, f"{self._path}{name}.", self._warnings)
        if value not in (None, "", []):
            self.warn(name)
        return None

    def objects(self, name: str) -> list["Fields"]:
        """
        A list of objects; also as JSON text, or a single object without its list.

        Raises:
            Unparseable: There are more, each of which would cost a hundred times what it takes to send it.
        """
        value = self.decoded(name)
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            if value not in (None, ""):
                self.warn(name)
            return []
        check_count(self._path + name, len(value), MAX_ELEMENTS)
        found = []
        for index, element in enumerate(value):
            item = decode_element(element)
            if isinstance(item, dict):
                found.append(Fields(item, f"{self._path}{name}[{index}].", self._warnings))
            else:
                self.warn(f"{name}[{index}]")
        return found

    def says_anything(self) -> bool:
        return says_anything(self._values)


def read_object(payload: bytes) -> Fields:
    """
    The JSON object that a reply consists of.

    Raises:
        Unparseable: It is not UTF-8, not JSON, or not an object.
    """
    return Fields(decode_object(payload))
